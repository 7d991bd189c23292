//! Writing DER: the few forms that certificates and CSRs are made of (ITU-T X.690).

const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const OBJECT_IDENTIFIER: u8 = 0x06;
const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;

/// Object identifiers, complete with tag and length.
pub(crate) mod oid {
    pub(crate) const COMMON_NAME: &[u8] = &[0x06, 3, 0x55, 4, 3];
    pub(crate) const SUBJECT_KEY_IDENTIFIER: &[u8] = &[0x06, 3, 0x55, 0x1d, 14];
    pub(crate) const KEY_USAGE: &[u8] = &[0x06, 3, 0x55, 0x1d, 15];
    pub(crate) const SUBJECT_ALT_NAME: &[u8] = &[0x06, 3, 0x55, 0x1d, 17];
    pub(crate) const BASIC_CONSTRAINTS: &[u8] = &[0x06, 3, 0x55, 0x1d, 19];
    pub(crate) const NAME_CONSTRAINTS: &[u8] = &[0x06, 3, 0x55, 0x1d, 30];
    pub(crate) const AUTHORITY_KEY_IDENTIFIER: &[u8] = &[0x06, 3, 0x55, 0x1d, 35];
    pub(crate) const EXTENDED_KEY_USAGE: &[u8] = &[0x06, 3, 0x55, 0x1d, 37];
    pub(crate) const SERVER_AUTH: &[u8] = &[0x06, 8, 0x2b, 6, 1, 5, 5, 7, 3, 1];
    pub(crate) const CLIENT_AUTH: &[u8] = &[0x06, 8, 0x2b, 6, 1, 5, 5, 7, 3, 2];
    pub(crate) const EXTENSION_REQUEST: &[u8] = &[0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 14];
    pub(crate) const ECDSA_WITH_SHA256: &[u8] = &[0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
    pub(crate) const ECDSA_WITH_SHA384: &[u8] = &[0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3];
    pub(crate) const RSA_WITH_SHA256: &[u8] = &[0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11];
}

/// The null value.
pub(crate) const NULL: &[u8] = &[0x05, 0];

/// A value of any kind.
pub(crate) fn value(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut der = Vec::with_capacity(content.len() + 6);
    der.push(tag);
    match content.len() {
        short @ 0..0x80 => der.push(short as u8),
        long => {
            let bytes = long.to_be_bytes();
            let bytes = &bytes[long.leading_zeros() as usize / 8..];
            der.push(0x80 | bytes.len() as u8);
            der.extend_from_slice(bytes);
        }
    }
    der.extend_from_slice(content);
    der
}

/// Several values in order.
pub(crate) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    value(SEQUENCE, &parts.concat())
}

/// A value with a tag of the context, that holds another value.
pub(crate) fn explicit(tag: u8, content: &[u8]) -> Vec<u8> {
    value(0xa0 | tag, content)
}

/// A value with a tag of the context in place of its own.
pub(crate) fn implicit(tag: u8, content: &[u8]) -> Vec<u8> {
    value(0x80 | tag, content)
}

/// A number that is not negative.
pub(crate) fn unsigned(bytes: &[u8]) -> Vec<u8> {
    let significant = bytes.iter().position(|byte| *byte != 0).map_or(&[0][..], |first| &bytes[first..]);
    if significant[0] & 0x80 == 0 { value(INTEGER, significant) } else { value(INTEGER, &[&[0], significant].concat()) }
}

/// Yes. (No is the default wherever we write a boolean, and DER leaves defaults out.)
pub(crate) fn yes() -> Vec<u8> {
    value(BOOLEAN, &[0xff])
}

/// Bits that fill whole bytes.
pub(crate) fn bit_string(bytes: &[u8]) -> Vec<u8> {
    value(BIT_STRING, &[&[0], bytes].concat())
}

/// Flags in one byte, the first one in its highest bit; zeros at the end are left out.
pub(crate) fn flags(byte: u8) -> Vec<u8> {
    value(BIT_STRING, &[byte.trailing_zeros().min(7) as u8, byte])
}

/// A text of a name: in the older form where its characters allow it, as the original does.
pub(crate) fn text(text: &str) -> Vec<u8> {
    let printable = |byte: u8| byte.is_ascii_alphanumeric() || b" '()+,-./:=?".contains(&byte);
    let tag = if text.bytes().all(printable) { PRINTABLE_STRING } else { UTF8_STRING };
    value(tag, text.as_bytes())
}

/// A moment in seconds since the Unix epoch, in the form that RFC 5280 wants for it; nothing if there is none.
pub(crate) fn time(seconds: i64) -> Option<Vec<u8>> {
    let moment = jiff::Timestamp::from_second(seconds).ok()?;
    let moment = jiff::tz::Offset::UTC.to_datetime(moment);
    let year = moment.year();
    let rest = format!(
        "{:02}{:02}{:02}{:02}{:02}Z",
        moment.month(),
        moment.day(),
        moment.hour(),
        moment.minute(),
        moment.second()
    );
    match year {
        1950..2050 => Some(value(UTC_TIME, format!("{:02}{rest}", year % 100).as_bytes())),
        0..10_000 => Some(value(GENERALIZED_TIME, format!("{year:04}{rest}").as_bytes())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_grow_with_the_content() {
        assert_eq!(value(4, &[7; 3]), [4, 3, 7, 7, 7]);
        assert_eq!(value(4, &[7; 0x7f])[..2], [4, 0x7f]);
        assert_eq!(value(4, &[7; 0x80])[..3], [4, 0x81, 0x80]);
        assert_eq!(value(4, &[7; 0x1234])[..4], [4, 0x82, 0x12, 0x34]);
        assert_eq!(value(4, &vec![7; 0x1_0000])[..5], [4, 0x83, 1, 0, 0]);
    }

    #[test]
    fn numbers_are_as_short_as_they_can_be_and_never_negative() {
        assert_eq!(unsigned(&[]), [2, 1, 0]);
        assert_eq!(unsigned(&[0, 0]), [2, 1, 0]);
        assert_eq!(unsigned(&[0, 7]), [2, 1, 7]);
        assert_eq!(unsigned(&[0x80]), [2, 2, 0, 0x80]);
        assert_eq!(unsigned(&[1, 0xa4]), [2, 2, 1, 0xa4]);
    }

    #[test]
    fn flags_leave_zeros_at_the_end_out() {
        assert_eq!(flags(0b1000_0110), [3, 2, 1, 0x86]);
        assert_eq!(flags(0b1011_1000), [3, 2, 3, 0xb8]);
    }

    #[test]
    fn moments_change_their_form_in_2050() {
        assert_eq!(time(0).unwrap(), [&[0x17, 13], &b"700101000000Z"[..]].concat());
        assert_eq!(time(2_524_607_999).unwrap(), [&[0x17, 13], &b"491231235959Z"[..]].concat());
        assert_eq!(time(2_524_608_000).unwrap(), [&[0x18, 15], &b"20500101000000Z"[..]].concat());
        assert_eq!(time(i64::MAX), None);
    }

    #[test]
    fn texts_use_the_older_form_where_they_can() {
        assert_eq!(text("Consul CA 7")[0], PRINTABLE_STRING);
        assert_eq!(text("a_b")[0], UTF8_STRING);
        assert_eq!(text("ü")[0], UTF8_STRING);
    }
}
