//! The shapes in which things are stored: JSON that tolerates fields it does not know and leaves out what is empty.
//!
//! A record never holds the revision of its last change: that is the store's revision of its key. When it was first
//! written is held only once there was a second write ([`Created`]), since nobody knows the revision of a write
//! before it is done.
//!
//! Records that are written often borrow: from what they are made of, and from the bytes they are read from.
//!
//! Conversions take structures apart without `..`, so a new field does not compile until the disk has decided about it.

pub(crate) mod ca;
pub(crate) mod check;
pub(crate) mod coordinate;
pub(crate) mod event;
pub(crate) mod intention;
pub(crate) mod kv;
pub(crate) mod node;
pub(crate) mod presence;
pub(crate) mod query;
pub(crate) mod service;
pub(crate) mod session;
pub(crate) mod token;

use lictor_model::revision::Revision;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::schema::Key;
use crate::writer::PENDING;

/// When something was first written; empty in the record of its first write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Created(u64);

impl Created {
    /// In the record of a first write.
    pub(crate) const NOW: Created = Created(0);

    /// In the record of a later write.
    pub(crate) fn at(revision: Revision) -> Created {
        Created(revision.0)
    }

    /// In the record of a write of something that is, or is not, already there.
    pub(crate) fn kept(known: Option<Revision>) -> Created {
        // A row that the same transaction made has no revision yet: it is still its first write.
        known.filter(|revision| *revision != PENDING).map_or(Created::NOW, Created::at)
    }

    /// The revision, for a record last changed at `modified`.
    pub(crate) fn or(self, modified: Revision) -> Revision {
        // A record that a restore brought into a younger store was created, as far as that goes, when it came.
        if self.0 == 0 { modified } else { Revision(self.0.min(modified.0)) }
    }
}

/// Whether a field can be left out.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The version of everything below the root, written once.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Format {
    /// [`crate::schema::FORMAT`] of the writer.
    pub(crate) version: u32,
}

/// What a key that only keeps something unique points at.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Pointer {
    /// Name or id of the owner, folded.
    pub(crate) of: String,
}

/// A record as bytes.
pub(crate) fn encode<T: Serialize>(key: &Key, record: &T) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(record).map_err(|source| unreadable(key, source))
}

/// Bytes as a record.
pub(crate) fn decode<'a, T: Deserialize<'a>>(key: &Key, bytes: &'a [u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|source| unreadable(key, source))
}

pub(crate) fn unreadable(key: &Key, source: serde_json::Error) -> Error {
    Error::Record { key: format!("{key:?}"), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_record_was_created_when_it_was_changed() {
        assert_eq!(Created::NOW.or(Revision(7)), Revision(7));
        assert_eq!(Created::at(Revision(3)).or(Revision(7)), Revision(3));
    }

    #[test]
    fn fields_of_a_later_version_are_tolerated() {
        let format: Format = decode(&Key::Format, br#"{"version":1,"later":true}"#).unwrap();
        assert_eq!(format.version, 1);
        let error = decode::<Format>(&Key::Format, b"{").unwrap_err();
        assert_eq!(error.to_string(), "record \"Format\" is unreadable");
    }
}
