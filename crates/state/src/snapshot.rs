//! Everything that is stored, as one thing that can be carried away and brought back.
//!
//! The text of a snapshot is a line that says what it is, then each record: two lengths of four bytes (of its key and
//! of its value, most significant byte first), the key, and the value.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use lictor_model::revision::Revision;
use lictor_store::Entry;

use crate::Error;
use crate::record::{self, Format};
use crate::replica;
use crate::schema::{FORMAT, Key};

/// The first line.
const FIRST_LINE: &[u8] = b"lictor state 1\n";

/// What a record has besides its key and value.
const LENGTHS: usize = 8;

/// All records at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// When it was taken.
    pub revision: Revision,
    /// Keys and values.
    pub(crate) records: Vec<(Bytes, Bytes)>,
}

impl Snapshot {
    pub(crate) fn new(revision: Revision, entries: &[Entry]) -> Snapshot {
        let kept = entries.iter().filter(|entry| !is_marker(&entry.key));
        Snapshot { revision, records: kept.map(|entry| (entry.key.clone(), entry.value.clone())).collect() }
    }

    /// How many records it has.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// How long its text is.
    pub fn size(&self) -> u64 {
        let records = self.records.iter().map(|(key, value)| LENGTHS + key.len() + value.len());
        (FIRST_LINE.len() + records.sum::<usize>()) as u64
    }

    /// Its text, in pieces.
    pub fn pieces(&self) -> impl Iterator<Item = Bytes> {
        let records = self.records.iter().flat_map(|(key, value)| {
            let mut head = BytesMut::with_capacity(LENGTHS + key.len());
            // Keys and values are far below four gigabytes: a transaction must hold them.
            head.put_u32(u32::try_from(key.len()).unwrap_or(u32::MAX));
            head.put_u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
            head.extend_from_slice(key);
            [head.freeze(), value.clone()]
        });
        std::iter::once(Bytes::from_static(FIRST_LINE)).chain(records)
    }

    /// Reads a text, and every record in it: what cannot be read is found before anything is written.
    pub fn parse(mut text: Bytes, revision: Revision) -> Result<Snapshot, Error> {
        if !text.starts_with(FIRST_LINE) {
            return Err(Error::refused("the state in this snapshot was not written by this program"));
        }
        text.advance(FIRST_LINE.len());
        let mut records = Vec::new();
        let mut formatted = false;
        while !text.is_empty() {
            let cut = || Error::refused("the state in this snapshot ends in the middle of a record");
            if text.len() < LENGTHS {
                return Err(cut());
            }
            let (key, value) = (text.get_u32() as usize, text.get_u32() as usize);
            if text.len() < key.saturating_add(value) {
                return Err(cut());
            }
            let (key, value) = (text.split_to(key), text.split_to(value));
            let parsed = Key::parse(&key).ok_or_else(|| {
                Error::refused(format!(
                    "the snapshot has a record that is not known: {:?}",
                    key.escape_ascii().to_string()
                ))
            })?;
            if parsed == Key::Format {
                let Format { version } = record::decode(&parsed, &value)?;
                if version != FORMAT {
                    return Err(Error::Format { found: version, known: FORMAT });
                }
                formatted = true;
            }
            let at = lictor_store::Revision(revision.0.max(1));
            replica::read(&Entry { key: key.clone(), value: value.clone(), created: at, modified: at, lease: None })?;
            if !is_marker(&key) {
                records.push((key, value));
            }
        }
        if !formatted {
            return Err(Error::refused("the snapshot does not say which format its state has"));
        }
        Ok(Snapshot { revision, records })
    }

    /// The sealed signing keys in it, by the id they are sealed for.
    pub fn sealed_keys(&self) -> impl Iterator<Item = (String, &Bytes)> {
        self.records.iter().filter_map(|(key, value)| match Key::parse(key) {
            Some(Key::Sealed(id)) => Some((id.to_string(), value)),
            _ => None,
        })
    }
}

/// Whether a record speaks of the servers of now, not of the cluster's state: of a restore, of who is alive, of what they
/// tell each other. It is neither saved nor replaced.
pub(crate) fn is_marker(key: &[u8]) -> bool {
    matches!(
        Key::parse(key),
        Some(Key::Restoring | Key::Restored | Key::RestoreStep(_) | Key::Event(_) | Key::Alive(_) | Key::Lead)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &Key, value: &'static [u8]) -> Entry {
        let at = lictor_store::Revision(3);
        Entry {
            key: key.encode().unwrap().into(),
            value: Bytes::from_static(value),
            created: at,
            modified: at,
            lease: None,
        }
    }

    fn snapshot() -> Snapshot {
        let entries = [
            entry(&Key::Format, br#"{"version":1}"#),
            entry(&Key::Kv("a".into()), b"{}\n\x00\xff"),
            entry(&Key::Restored, b"{}"),
        ];
        Snapshot::new(Revision(3), &entries)
    }

    fn text(snapshot: &Snapshot) -> Bytes {
        snapshot.pieces().flatten().collect::<Vec<u8>>().into()
    }

    #[test]
    fn a_snapshot_is_read_back_as_it_was_taken() {
        let taken = snapshot();
        assert_eq!(taken.len(), 2, "that there was a restore is not part of the state");
        assert_eq!(text(&taken).len() as u64, taken.size());
        assert_eq!(Snapshot::parse(text(&taken), Revision(3)).unwrap(), taken);
    }

    #[test]
    fn what_cannot_be_read_is_refused_as_a_whole() {
        let whole = text(&snapshot());
        for end in [0, 5, FIRST_LINE.len(), FIRST_LINE.len() + 3, whole.len() - 1] {
            assert!(Snapshot::parse(whole.slice(..end), Revision(3)).is_err(), "{end}");
        }
        let mut unknown = snapshot();
        unknown.records.push(("state/unknown/x".into(), Bytes::new()));
        assert!(Snapshot::parse(text(&unknown), Revision(3)).is_err());
        let mut unreadable = snapshot();
        unreadable.records[1].1 = Bytes::from_static(b"{");
        assert!(Snapshot::parse(text(&unreadable), Revision(3)).is_err());
    }
}
