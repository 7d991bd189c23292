//! The datagrams by which agents measure each other: a question, and an answer of the same size that says where who
//! answers is.
//!
//! An answer is never larger than its question, so nobody can make an agent send more than they sent themselves; and it
//! repeats the question's random number, so nobody who does not see the question can answer it.

use lictor_state::coordinate::Coordinate;

/// The size of every datagram.
pub(super) const LEN: usize = 8 + NONCE + 8 * NUMBERS;

const MAGIC: [u8; 7] = *b"lictor\x01";
const QUESTION: u8 = 1;
const ANSWER: u8 = 2;
const NONCE: usize = 16;
const NUMBERS: usize = Coordinate::DIMENSIONS + 3;

/// Tells an answer to one question from all others.
pub(super) type Nonce = [u8; NONCE];

/// A datagram that was understood.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Ping {
    /// Are you there?
    Question(Nonce),
    /// Here.
    Answer(Nonce, Coordinate),
}

impl Ping {
    /// Reads a datagram; what is none of ours is none.
    pub(super) fn read(datagram: &[u8]) -> Option<Ping> {
        let datagram: &[u8; LEN] = datagram.try_into().ok()?;
        let (head, rest) = datagram.split_first_chunk::<8>()?;
        let (nonce, rest) = rest.split_first_chunk::<NONCE>()?;
        if head[..7] != MAGIC {
            return None;
        }
        match head[7] {
            QUESTION => Some(Ping::Question(*nonce)),
            ANSWER => {
                let mut numbers = rest.chunks_exact(8).map(|bytes| {
                    let bytes: [u8; 8] = bytes.try_into().unwrap_or_default();
                    f64::from_be_bytes(bytes)
                });
                let vec = numbers.by_ref().take(Coordinate::DIMENSIONS).collect();
                let coordinate =
                    Coordinate { vec, error: numbers.next()?, adjustment: numbers.next()?, height: numbers.next()? };
                Some(Ping::Answer(*nonce, coordinate))
            }
            _ => None,
        }
    }

    /// Writes it.
    pub(super) fn write(&self) -> [u8; LEN] {
        let mut datagram = [0; LEN];
        datagram[..7].copy_from_slice(&MAGIC);
        let (kind, nonce) = match self {
            Ping::Question(nonce) => (QUESTION, nonce),
            Ping::Answer(nonce, _) => (ANSWER, nonce),
        };
        datagram[7] = kind;
        datagram[8..8 + NONCE].copy_from_slice(nonce);
        if let Ping::Answer(_, Coordinate { vec, error, adjustment, height }) = self {
            let numbers = vec.iter().chain([error, adjustment, height]);
            for (place, number) in datagram[8 + NONCE..].chunks_exact_mut(8).zip(numbers) {
                place.copy_from_slice(&number.to_be_bytes());
            }
        }
        datagram
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_are_read_as_they_were_written() {
        let coordinate = Coordinate {
            vec: (0..8).map(|at| f64::from(at) / 7.0).collect(),
            error: 0.25,
            adjustment: -1e-4,
            height: 3e-5,
        };
        for ping in [Ping::Question([7; NONCE]), Ping::Answer([9; NONCE], coordinate)] {
            assert_eq!(Ping::read(&ping.write()), Some(ping));
        }
    }

    #[test]
    fn what_is_none_of_ours_is_not_answered() {
        let mut datagram = Ping::Question([7; NONCE]).write();
        assert_eq!(Ping::read(&datagram[1..]), None);
        assert_eq!(Ping::read(&[&datagram[..], &[0]].concat()), None);
        datagram[7] = 3;
        assert_eq!(Ping::read(&datagram), None);
        datagram[7] = QUESTION;
        datagram[0] ^= 1;
        assert_eq!(Ping::read(&datagram), None);
        assert_eq!(Ping::read(&[]), None);
    }
}
