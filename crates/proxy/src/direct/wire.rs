//! What is said on a lane. The dialling proxy sends requests, each with a descriptor; everything else is the receiver's.
//!
//! Both are of one agent but not always of one version: during an upgrade an older process talks with a newer one. A
//! version that is not known is answered by closing the lane, upon which the dialling proxy uses TLS.

/// The first byte of a request.
const VERSION: u8 = 1;

/// The longest request; whoever has longer names uses TLS.
pub(crate) const LONGEST: usize = 1024;

/// The receiver knows who is there and takes descriptors from now on. Said first of all, where the kernel refuses them
/// until then.
pub(crate) const READY: u8 = b'r';
/// The receiver has the connection. Said before it reads from it.
pub(crate) const ACCEPTED: u8 = b'a';
/// An intention denies it.
pub(crate) const DENIED: u8 = b'd';
/// It cannot be decided here or now: use TLS.
pub(crate) const ELSEWHERE: u8 = b'e';

/// Bytes of a [`Told`].
pub(crate) const TOLD: usize = 17;

/// A request, as far as it is text: which service hands over, and to which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request<'a> {
    pub(crate) source: &'a str,
    pub(crate) destination: &'a str,
}

impl<'a> Request<'a> {
    /// `None` for one that is too long.
    pub(crate) fn encode(&self) -> Option<Vec<u8>> {
        let mut bytes = vec![VERSION];
        for name in [self.source, self.destination] {
            bytes.extend(u16::try_from(name.len()).ok()?.to_be_bytes());
            bytes.extend(name.as_bytes());
        }
        (bytes.len() <= LONGEST).then_some(bytes)
    }

    /// `None` for what is no whole request of a version that is known.
    pub(crate) fn decode(bytes: &'a [u8]) -> Option<Request<'a>> {
        let mut rest = bytes.strip_prefix(&[VERSION])?;
        let mut name = || {
            let (length, behind) = rest.split_first_chunk::<2>()?;
            let (name, behind) = behind.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
            rest = behind;
            std::str::from_utf8(name).ok()
        };
        let (source, destination) = (name()?, name()?);
        rest.is_empty().then_some(Request { source, destination })
    }
}

/// How a connection stands that was handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It goes on.
    Open,
    /// Both directions have ended.
    Finished,
    /// It broke.
    Broken,
    /// A changed intention has ended it. The lane ends, too.
    Cut,
}

/// What the receiver tells of a connection: how it stands, and what was moved so far, seen from the dialling proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) standing: Standing,
    /// From the dialling proxy's application to the receiver's.
    pub(crate) outward: u64,
    pub(crate) inward: u64,
}

impl Told {
    pub(crate) fn encode(self) -> [u8; TOLD] {
        let mut bytes = [0; TOLD];
        bytes[0] = match self.standing {
            Standing::Open => b'o',
            Standing::Finished => b'f',
            Standing::Broken => b'b',
            Standing::Cut => b'c',
        };
        bytes[1..9].copy_from_slice(&self.outward.to_be_bytes());
        bytes[9..].copy_from_slice(&self.inward.to_be_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; TOLD]) -> Option<Told> {
        let standing = match bytes[0] {
            b'o' => Standing::Open,
            b'f' => Standing::Finished,
            b'b' => Standing::Broken,
            b'c' => Standing::Cut,
            _ => return None,
        };
        let number = |at: usize| bytes[at..].first_chunk::<8>().map(|eight| u64::from_be_bytes(*eight));
        Some(Told { standing, outward: number(1)?, inward: number(9)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_as_they_were_written_and_nothing_else_is() {
        let request = Request { source: "web", destination: "bücher" };
        let bytes = request.encode().unwrap();
        assert_eq!(Request::decode(&bytes), Some(request));
        for end in 0..bytes.len() {
            assert_eq!(Request::decode(&bytes[..end]), None);
        }
        assert_eq!(Request::decode(&[&bytes[..], b"x"].concat()), None);
        assert_eq!(Request::decode(&[&[2], &bytes[1..]].concat()), None);
        assert_eq!(Request::decode(&[1, 0, 1, 0xff, 0, 0]), None);
        assert_eq!(Request { source: &"x".repeat(LONGEST), destination: "" }.encode(), None);
        assert_eq!(Request { source: &"x".repeat(70_000), destination: "" }.encode(), None);
    }

    #[test]
    fn what_is_told_survives_the_lane() {
        for standing in [Standing::Open, Standing::Finished, Standing::Broken, Standing::Cut] {
            let told = Told { standing, outward: 7, inward: u64::MAX };
            assert_eq!(Told::decode(&told.encode()), Some(told));
        }
        assert_eq!(Told::decode(&[0; TOLD]), None);
    }
}
