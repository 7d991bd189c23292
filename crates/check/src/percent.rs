//! Percent-encoded bytes, of trailers and of URLs.

/// What was encoded; what is no encoding stays as it is.
pub(crate) fn decoded(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&byte, tail)) = rest.split_first() {
        let digits = tail.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match (byte, digits.and_then(|digits| u8::from_str_radix(digits, 16).ok())) {
            (b'%', Some(value)) => {
                plain.push(value);
                rest = &tail[2..];
            }
            _ => {
                plain.push(byte);
                rest = tail;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_are_decoded_and_everything_else_is_left_alone() {
        let cases: [(&[u8], &[u8]); 5] =
            [(b"a%20b", b"a b"), (b"%c3%A4", b"\xc3\xa4"), (b"100%", b"100%"), (b"%+1%zz", b"%+1%zz"), (b"%2", b"%2")];
        for (given, plain) in cases {
            assert_eq!(decoded(given), plain);
        }
    }
}
