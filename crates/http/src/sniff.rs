//! What kind of content bytes are, by how they begin: the table of the WHATWG's MIME sniffing standard, as far as the
//! original applies it to values that are sent as they are.

use http::header::HeaderValue;

/// As many bytes are looked at.
const LOOKED_AT: usize = 512;

const UNKNOWN: &str = "application/octet-stream";
const PLAIN: &str = "text/plain; charset=utf-8";

/// HTML begins with one of these, in any case, followed by a space or the end of the tag.
const TAGS: [&str; 17] = [
    "<!DOCTYPE HTML",
    "<HTML",
    "<HEAD",
    "<SCRIPT",
    "<IFRAME",
    "<H1",
    "<DIV",
    "<FONT",
    "<TABLE",
    "<A",
    "<STYLE",
    "<TITLE",
    "<B",
    "<BODY",
    "<BR",
    "<P",
    "<!--",
];

/// Content that begins exactly so.
const PREFIXES: [(&[u8], &str); 22] = [
    (b"%PDF-", "application/pdf"),
    (b"%!PS-Adobe-", "application/postscript"),
    (b"\xfe\xff", "text/plain; charset=utf-16be"),
    (b"\xff\xfe", "text/plain; charset=utf-16le"),
    (b"\xef\xbb\xbf", PLAIN),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"BM", "image/bmp"),
    (b"\x00\x00\x01\x00", "image/x-icon"),
    (b"\x00\x00\x02\x00", "image/x-icon"),
    (b".snd", "audio/basic"),
    (b"ID3", "audio/mpeg"),
    (b"OggS\x00", "application/ogg"),
    (b"MThd\x00\x00\x00\x06", "audio/midi"),
    (b"\x1aE\xdf\xa3", "video/webm"),
    (b"\x00\x01\x00\x00", "font/ttf"),
    (b"OTTO", "font/otf"),
    (b"PK\x03\x04", "application/zip"),
    (b"\x1f\x8b\x08", "application/x-gzip"),
    (b"Rar!\x1a\x07", "application/x-rar-compressed"),
];

/// Containers that say behind their size what they hold.
const CONTAINERS: [(&[u8], &[u8], &str); 4] = [
    (b"RIFF", b"WEBPVP", "image/webp"),
    (b"RIFF", b"WAVE", "audio/wave"),
    (b"RIFF", b"AVI ", "video/avi"),
    (b"FORM", b"AIFF", "audio/aiff"),
];

/// The content type of a value; `None` when there is nothing to look at.
pub(crate) fn content_type(value: &[u8]) -> Option<HeaderValue> {
    (!value.is_empty()).then(|| HeaderValue::from_static(kind(&value[..value.len().min(LOOKED_AT)])))
}

fn kind(start: &[u8]) -> &'static str {
    let is_space = |byte: &u8| matches!(byte, b'\t' | b'\n' | b'\x0c' | b'\r' | b' ');
    let text = &start[start.iter().position(|byte| !is_space(byte)).unwrap_or(start.len())..];
    if TAGS.iter().any(|tag| begins_with_tag(text, tag)) {
        return "text/html; charset=utf-8";
    }
    if text.starts_with(b"<?xml") {
        return "text/xml; charset=utf-8";
    }
    if let Some((_, kind)) = PREFIXES.iter().find(|(prefix, _)| start.starts_with(prefix)) {
        return kind;
    }
    let held = start.get(8..).unwrap_or_default();
    if let Some((_, _, kind)) =
        CONTAINERS.iter().find(|(outer, inner, _)| start.starts_with(outer) && held.starts_with(inner))
    {
        return kind;
    }
    if is_mp4(start) {
        return "video/mp4";
    }
    // Bytes that no text has.
    let is_binary = |byte: &u8| matches!(byte, 0x00..=0x08 | 0x0b | 0x0e..=0x1a | 0x1c..=0x1f);
    if text.iter().any(is_binary) { UNKNOWN } else { PLAIN }
}

fn begins_with_tag(text: &[u8], tag: &str) -> bool {
    let Some((start, rest)) = text.split_at_checked(tag.len()) else { return false };
    start.eq_ignore_ascii_case(tag.as_bytes()) && matches!(rest.first(), Some(b' ' | b'>'))
}

/// A box of type `ftyp` that names one of the brands of MPEG-4.
fn is_mp4(start: &[u8]) -> bool {
    let Some((size, rest)) = start.split_first_chunk::<4>() else { return false };
    let size = u32::from_be_bytes(*size) as usize;
    if !rest.starts_with(b"ftyp") || !size.is_multiple_of(4) || start.len() < size {
        return false;
    }
    // The third word is the brand's version.
    (8..size).step_by(4).filter(|at| *at != 12).any(|at| start[at..].starts_with(b"mp4"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_what_they_begin_like() {
        for (value, expected) in [
            (&b"bar"[..], PLAIN),
            (b"{\"a\": 1}", PLAIN),
            ("grün".as_bytes(), PLAIN),
            (b" \n<html>", "text/html; charset=utf-8"),
            (b"<b>x", "text/html; charset=utf-8"),
            (b"<bold>x", PLAIN),
            (b"<?xml version=\"1.0\"?>", "text/xml; charset=utf-8"),
            (b"\x89PNG\r\n\x1a\nxyz", "image/png"),
            (b"RIFF\x01\x02\x03\x04WAVEfmt", "audio/wave"),
            (b"\x00\x00\x00\x14ftypisom\x00\x00\x00\x00mp42", "video/mp4"),
            (b"\x1f\x8b\x08\x00", "application/x-gzip"),
            (b"\x01\x02", UNKNOWN),
            (b"a\x00", UNKNOWN),
        ] {
            assert_eq!(content_type(value).unwrap(), expected, "{value:?}");
        }
        assert_eq!(content_type(b""), None);
    }
}
