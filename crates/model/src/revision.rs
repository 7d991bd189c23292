//! The index behind watches and blocking queries.

use std::fmt;

/// A position in the history of the store; what HTTP shows as `X-Consul-Index`.
///
/// Every committed write has one, and revisions only grow. Zero is "before anything".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl Revision {
    /// Before the first write.
    pub const ZERO: Revision = Revision(0);

    /// The form of a response header, where zero is never shown (a client would take it for "do not block").
    pub fn shown(self) -> u64 {
        self.0.max(1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
