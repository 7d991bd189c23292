//! What is stored under one key, and the revision that numbers its changes.

use std::fmt;

use bytes::Bytes;

use crate::LeaseId;

/// A position in the history of the store.
///
/// Every transaction that changes something has one that is greater than those before, and revisions only grow. They
/// need not be consecutive: a backend may share its numbering with others. Zero is "before anything".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl Revision {
    /// Before the first change.
    pub const ZERO: Revision = Revision(0);

    pub(crate) fn next(self) -> Revision {
        Revision(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One key with its value and the revisions that made it.
///
/// Cloning is cheap: key and value are shared, not copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key; never empty.
    pub key: Bytes,
    /// The value; may be empty.
    pub value: Bytes,
    /// The revision that brought the key into being, kept over updates, new after a delete.
    pub created: Revision,
    /// The revision that wrote this value.
    pub modified: Revision,
    /// The lease whose end deletes this key.
    pub lease: Option<LeaseId>,
}
