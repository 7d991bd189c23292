//! Paths of requests: percent-decoding, cleaning, and writing them into a redirect.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Decodes the percent-encodings of a path; `None` when one is malformed or the result is not UTF-8.
pub(crate) fn decode(raw: &str) -> Option<Cow<'_, str>> {
    if !raw.as_bytes().contains(&b'%') {
        return Some(Cow::Borrowed(raw));
    }
    let mut decoded = Vec::with_capacity(raw.len());
    let mut rest = raw.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        if byte == b'%' {
            decoded.push(hex_pair(tail)?);
            rest = &tail[2..];
        } else {
            decoded.push(byte);
            rest = tail;
        }
    }
    String::from_utf8(decoded).ok().map(Cow::Owned)
}

/// The byte that two hex digits at the beginning of `text` stand for.
pub(crate) fn hex_pair(text: &[u8]) -> Option<u8> {
    let digit = |at: usize| text.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    u8::try_from(digit(0)? * 16 + digit(1)?).ok()
}

/// The path with empty, `.` and `..` segments resolved; a final slash stays. Borrowed when it was clean already.
pub(crate) fn clean(path: &str) -> Cow<'_, str> {
    if is_clean(path) {
        return Cow::Borrowed(path);
    }
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            segment => kept.push(segment),
        }
    }
    let mut cleaned = String::with_capacity(path.len() + 1);
    for segment in &kept {
        cleaned.push('/');
        cleaned.push_str(segment);
    }
    if kept.is_empty() || path.ends_with('/') {
        cleaned.push('/');
    }
    Cow::Owned(cleaned)
}

/// Whether a path as it travelled names something `.` or `..` in an encoded form: then these are names and no directions.
pub(crate) fn has_encoded_dots(raw: &str) -> bool {
    raw.contains("%2") && raw.split('/').any(is_encoded_dots)
}

fn is_encoded_dots(segment: &str) -> bool {
    segment.contains('%') && matches!(decode(segment).as_deref(), Some("." | ".."))
}

/// Whether a path is clean, encoded dots aside.
pub(crate) fn is_clean_beside_dots(raw: &str) -> bool {
    let named: Vec<&str> =
        raw.split('/').map(|segment| if is_encoded_dots(segment) { "name" } else { segment }).collect();
    decode(&named.join("/")).is_some_and(|path| is_clean(&path))
}

fn is_clean(path: &str) -> bool {
    let Some(inner) = path.strip_prefix('/') else { return false };
    let inner = inner.strip_suffix('/').unwrap_or(inner);
    // A lone "/" is clean, "//" is not.
    (inner.is_empty() && path.len() == 1) || inner.split('/').all(|segment| !matches!(segment, "" | "." | ".."))
}

/// Whether every character of the path prints: letters, marks, numbers, punctuation, symbols and the plain space.
pub(crate) fn is_printable(path: &str) -> bool {
    path.chars().all(|c| if c.is_ascii() { !c.is_ascii_control() } else { prints(c) })
}

/// Debug output escapes exactly the characters without a visible form. The letter in front keeps it from escaping
/// combining marks, which it does at the beginning of a text only.
fn prints(c: char) -> bool {
    let text = String::from_iter(['a', c]);
    text.escape_debug().count() == 2
}

/// The path in the form of a URL.
pub(crate) fn encode(path: &str) -> String {
    let mut encoded = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_encodings_are_decoded_once() {
        assert_eq!(decode("/v1/kv/a%2Fb%20c").unwrap(), "/v1/kv/a/b c");
        assert_eq!(decode("/%252F").unwrap(), "/%2F");
        assert_eq!(decode("/a+b").unwrap(), "/a+b");
        for malformed in ["/%", "/%z1", "/%1", "/%+1", "/%ff"] {
            assert_eq!(decode(malformed), None, "{malformed}");
        }
    }

    #[test]
    fn paths_are_cleaned_and_keep_their_final_slash() {
        let check = |path: &str, expected: &str| assert_eq!(clean(path), expected, "{path}");
        check("/", "/");
        check("//", "/");
        check("", "/");
        check("/v1/kv/", "/v1/kv/");
        check("/v1/kv//x", "/v1/kv/x");
        check("/v1/kv/a/../b/./c/", "/v1/kv/b/c/");
        check("/../..", "/");
        check("/v1/..x/.y", "/v1/..x/.y");
        check("/a/.", "/a");
        check("v1", "/v1");
        assert!(matches!(clean("/v1/agent/self"), Cow::Borrowed(_)));
    }

    #[test]
    fn encoded_dots_are_names() {
        for raw in ["/v1/kv/%2e%2e", "/v1/kv/%2E", "/v1/kv/.%2e/a"] {
            assert!(has_encoded_dots(raw) && is_clean_beside_dots(raw), "{raw}");
        }
        for raw in ["/v1/kv/..", "/v1/kv/%2e%2e%2e", "/v1/kv/a%2eb", "/v1/kv/a%2f%2e", "/v1/%2"] {
            assert!(!has_encoded_dots(raw), "{raw}");
        }
        for raw in ["/v1/kv/%2e/../a", "/v1/kv/%2e//a", "/v1/kv/%2e/a%2f%2fb"] {
            assert!(has_encoded_dots(raw) && !is_clean_beside_dots(raw), "{raw}");
        }
    }

    #[test]
    fn characters_without_a_visible_form_are_found() {
        assert!(is_printable("/v1/kv/grün e\u{301}日本'\"\\ 🙂"));
        for c in ["\u{1}", "\u{7f}", "\u{a0}", "\u{200b}", "\u{202e}", "\u{e000}", "\n"] {
            assert!(!is_printable(&format!("/v1/kv/{c}")), "{c:?}");
        }
    }

    #[test]
    fn redirects_encode_what_a_path_may_not_contain() {
        assert_eq!(encode("/v1/kv/a b?ü&c"), "/v1/kv/a%20b%3F%C3%BC&c");
    }
}
