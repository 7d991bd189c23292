//! A look into a ClientHello, for what must be known before the library reads it.
//!
//! The library fails a handshake when its protocol names and the client's have nothing in common; Connect proceeds
//! without one. Which alert a missing certificate gives depends on the version. And a client of an old version lacks other
//! things too, of which the library complains first; it shall hear of its version. See RFC 8446, section 4.1.2.

use crate::frame;

/// What the client says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hello {
    /// `h2` is among its protocol names.
    pub(crate) offers_h2: bool,
    /// The name of sessions that carry frames is among its protocol names.
    pub(crate) offers_frames: bool,
    /// TLS 1.3 is among its versions.
    pub(crate) offers_tls13: bool,
    /// Its newest version, when that is older than TLS 1.2.
    pub(crate) too_old: Option<[u8; 2]>,
}

const EXTENSION_ALPN: u16 = 16;
const EXTENSION_SUPPORTED_VERSIONS: u16 = 43;
const TLS12: [u8; 2] = [3, 3];
const TLS13: [u8; 2] = [3, 4];

impl Hello {
    /// Reads the first record of a connection. What does not parse offers nothing; the library will say why it is
    /// wrong.
    pub(crate) fn parse(record: &[u8]) -> Hello {
        let mut hello = Hello::default();
        let _ = hello.read(Reader(record));
        hello
    }

    fn read(&mut self, mut record: Reader<'_>) -> Option<()> {
        let [_type, _major, _minor] = record.take(3)? else { return None };
        let mut body = Reader(record.vector16()?);
        let [1, _, _, _] = body.take(4)? else { return None };
        let version = *body.take(2)?.first_chunk()?;
        self.too_old = Some(version).filter(|version| *version < TLS12);
        body.take(32)?;
        body.vector8()?;
        body.vector16()?;
        body.vector8()?;
        let mut extensions = Reader(body.vector16()?);
        while let Some(kind) = extensions.u16() {
            let mut content = Reader(extensions.vector16()?);
            match kind {
                EXTENSION_ALPN => {
                    let mut names = Reader(content.vector16()?);
                    while let Some(name) = names.vector8() {
                        self.offers_h2 |= name == b"h2";
                        self.offers_frames |= name == frame::PROTOCOL;
                    }
                }
                EXTENSION_SUPPORTED_VERSIONS => {
                    let versions = content.vector8()?;
                    let offers = |version| versions.chunks_exact(2).any(|offered| offered == version);
                    self.offers_tls13 |= offers(TLS13);
                    // Whoever lists its versions means those.
                    self.too_old = self.too_old.filter(|_| !offers(TLS12) && !offers(TLS13));
                }
                _ => {}
            }
        }
        Some(())
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        let taken = self.take(2)?;
        Some(u16::from_be_bytes([taken[0], taken[1]]))
    }

    fn vector8(&mut self) -> Option<&'a [u8]> {
        let len = self.take(1)?[0];
        self.take(len.into())
    }

    fn vector16(&mut self) -> Option<&'a [u8]> {
        let len = self.u16()?;
        self.take(len.into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn vector16(content: &[u8]) -> Vec<u8> {
        let mut out = u16::try_from(content.len()).unwrap().to_be_bytes().to_vec();
        out.extend_from_slice(content);
        out
    }

    fn record(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
        record_of(TLS12, extensions)
    }

    fn record_of(version: [u8; 2], extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
        let mut body = version.to_vec();
        body.extend([7; 32]);
        body.push(0);
        body.extend(vector16(&[0x13, 1]));
        body.extend([1, 0]);
        let list: Vec<u8> = extensions
            .iter()
            .flat_map(|(kind, content)| [&kind.to_be_bytes()[..], &vector16(content)].concat())
            .collect();
        body.extend(vector16(&list));
        let mut message = vec![1, 0];
        message.extend(vector16(&body));
        [&[22, 3, 1][..], &vector16(&message)].concat()
    }

    fn alpn(names: &[&[u8]]) -> (u16, Vec<u8>) {
        let list: Vec<u8> =
            names.iter().flat_map(|name| [&[u8::try_from(name.len()).unwrap()][..], name].concat()).collect();
        (EXTENSION_ALPN, vector16(&list))
    }

    #[test]
    fn protocol_names_and_versions_are_found_among_other_extensions() {
        let versions = (EXTENSION_SUPPORTED_VERSIONS, vec![4, 3, 4, 3, 3]);
        assert_eq!(Hello::parse(&record(&[])), Hello::default());
        assert_eq!(
            Hello::parse(&record(&[(0, vec![]), alpn(&[b"http/1.1", b"h2"]), versions.clone()])),
            Hello { offers_h2: true, offers_tls13: true, ..Hello::default() }
        );
        assert_eq!(
            Hello::parse(&record(&[versions.clone(), alpn(&[frame::PROTOCOL])])),
            Hello { offers_frames: true, offers_tls13: true, ..Hello::default() }
        );
        assert_eq!(Hello::parse(&record(&[alpn(&[b"foo"])])), Hello::default());
        let old = |extensions: &[(u16, Vec<u8>)]| Hello::parse(&record_of([3, 2], extensions)).too_old;
        assert_eq!((old(&[]), old(&[alpn(&[b"h2"])])), (Some([3, 2]), Some([3, 2])));
        assert_eq!(old(&[versions]), None);
        // One of before extensions ends behind its methods of compression.
        let mut short = record_of([3, 1], &[]);
        short.truncate(short.len() - 2);
        let length = u16::try_from(short.len() - 5).unwrap().to_be_bytes();
        short[3..5].copy_from_slice(&length);
        assert_eq!(Hello::parse(&short).too_old, Some([3, 1]));
    }

    proptest! {
        #[test]
        fn nothing_in_a_hello_can_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0usize..200) {
            Hello::parse(&bytes);
            let mut whole = record(&[alpn(&[b"h2"]), (EXTENSION_SUPPORTED_VERSIONS, vec![2, 3, 4])]);
            whole.truncate(cut);
            Hello::parse(&whole);
        }
    }
}
