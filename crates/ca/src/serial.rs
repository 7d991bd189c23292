//! Serial numbers and other bytes that are shown as hex pairs with colons.

use std::fmt;

use aws_lc_rs::rand;

use crate::Error;

/// Bytes as lower-case hex pairs with colons between them: `01:a4`.
pub fn colon_hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 3);
    for (position, byte) in bytes.iter().enumerate() {
        if position > 0 {
            text.push(':');
        }
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
        }
    }
    text
}

/// A certificate's serial number: positive, big-endian, without leading zeros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Serial(Vec<u8>);

impl Serial {
    /// Takes a number.
    pub fn from_number(number: u64) -> Serial {
        Serial::from_bytes(&number.to_be_bytes())
    }

    /// Takes bytes as a certificate holds them.
    pub fn from_bytes(bytes: &[u8]) -> Serial {
        Serial(bytes.iter().position(|byte| *byte != 0).map_or(vec![0], |first| bytes[first..].to_vec()))
    }

    /// A number that nobody can guess: 126 random bits. The original counts upwards from a shared index, which makes
    /// two authorities collide and tells everybody how many certificates there are.
    pub fn random() -> Result<Serial, Error> {
        let mut bytes = [0; 16];
        rand::fill(&mut bytes)?;
        // Never negative, and always of the same length.
        bytes[0] = bytes[0] & 0x3f | 0x40;
        Ok(Serial(bytes.to_vec()))
    }

    /// The number's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The low 64 bits, for answers that show a number.
    pub fn low_bits(&self) -> u64 {
        self.0.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&colon_hex(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_are_shown_as_hex_pairs() {
        assert_eq!(Serial::from_number(8).to_string(), "08");
        assert_eq!(Serial::from_number(0x7a).to_string(), "7a");
        assert_eq!(Serial::from_number(0x1a4).to_string(), "01:a4");
        assert_eq!(Serial::from_bytes(&[0, 0x80]).to_string(), "80");
        assert_eq!(Serial::from_number(0).to_string(), "00");
        assert_eq!(colon_hex(&[]), "");
    }

    #[test]
    fn the_low_bits_of_a_long_serial_are_a_number() {
        assert_eq!(Serial::from_bytes(&[9, 0, 0, 0, 0, 0, 0, 1, 2]).low_bits(), 0x102);
        assert_eq!(Serial::from_number(u64::MAX).low_bits(), u64::MAX);
    }

    #[test]
    fn random_serials_are_positive_and_differ() {
        let serials: Vec<_> = (0..100).map(|_| Serial::random().unwrap()).collect();
        for (position, serial) in serials.iter().enumerate() {
            assert_eq!(serial.as_bytes().len(), 16);
            assert!((0x40..0x80).contains(&serial.as_bytes()[0]));
            assert!(!serials[..position].contains(serial));
        }
    }
}
