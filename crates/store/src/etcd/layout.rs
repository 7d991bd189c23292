//! Where this store lies in etcd, and how its keys, revisions and entries are written there.
//!
//! Below the prefix, `data/` is followed by the store's own keys. The key `data/` itself, which as a key of the store
//! would be the empty one, is the store's *header*. `slot/` holds what makes a write happen once (see [`super::slot`]).
//!
//! A revision of the store is a revision of etcd plus a constant that the header holds: zero for a store that began in
//! etcd, and for one that came from elsewhere so much that its revisions go on growing.
//!
//! Whoever watches everything watches the slots as well. So each revision of ours is seen there, also one at which no
//! transaction was applied.

use bytes::Bytes;

use super::proto::{self, KeyValue};
use crate::{Change, Entry, Event, LeaseId, Revision};

/// The version of all this.
const FORMAT: u64 = 1;

/// Where things lie.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    data: Bytes,
    slots: Bytes,
    /// Revision of the store minus revision of etcd.
    offset: u64,
}

/// A range of keys in etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) key: Bytes,
    pub(crate) end: Bytes,
}

impl Layout {
    pub(crate) fn new(root: &str, offset: u64) -> Layout {
        Layout { data: format!("{root}data/").into(), slots: format!("{root}slot/").into(), offset }
    }

    /// The same with another offset.
    pub(crate) fn with_offset(&self, offset: u64) -> Layout {
        Layout { offset, ..self.clone() }
    }

    /// The key of the header. It lies within every watch of the whole store and is no key of the store.
    pub(crate) fn header(&self) -> Bytes {
        self.data.clone()
    }

    /// The header's text.
    pub(crate) fn header_text(&self) -> String {
        format!("lictor store, format {FORMAT}, offset {}\n", self.offset)
    }

    /// The offset that a header's text names, or what is wrong with it.
    pub(crate) fn parse_header(text: &[u8]) -> Result<u64, String> {
        let text = String::from_utf8_lossy(text);
        let foreign = || "its header is not one of lictor's".to_owned();
        let rest = text.trim_end().strip_prefix("lictor store, format ").ok_or_else(foreign)?;
        let (format, offset) = rest.split_once(", offset ").ok_or_else(foreign)?;
        match format.parse::<u64>() {
            Ok(FORMAT) => offset.parse().map_err(|_| foreign()),
            Ok(other) => {
                Err(format!("it has format {other}, this lictor knows format {FORMAT}: use the version that wrote it"))
            }
            Err(_) => Err(foreign()),
        }
    }

    pub(crate) fn key(&self, key: &[u8]) -> Bytes {
        [&self.data, key].concat().into()
    }

    /// A slot of one handle.
    pub(crate) fn slot(&self, owner: &str, number: u32) -> Bytes {
        [&self.slots, format!("{owner}/{number}").as_bytes()].concat().into()
    }

    /// All slots of one handle.
    pub(crate) fn slots_of(&self, owner: &str) -> Span {
        let key: Bytes = [&self.slots, owner.as_bytes(), b"/"].concat().into();
        Span { end: successor(&key), key }
    }

    pub(crate) fn slots(&self) -> Span {
        Span { key: self.slots.clone(), end: successor(&self.slots) }
    }

    /// The keys of the store below a prefix, the header left out.
    pub(crate) fn below(&self, prefix: &[u8]) -> Span {
        let key = self.key(prefix);
        let end = successor(if prefix.is_empty() { &self.data } else { &key });
        // A key ends with a byte at least.
        let key = if prefix.is_empty() { self.key(b"\0") } else { key };
        Span { key, end: self.within(end) }
    }

    /// The same to be watched: that of everything has the header and the slots in it.
    pub(crate) fn watched(&self, prefix: &[u8]) -> Span {
        if prefix.is_empty() { Span { key: self.header(), end: self.slots().end } } else { self.below(prefix) }
    }

    /// A prefix of 0xff bytes has no successor below the store's own end.
    fn within(&self, end: Bytes) -> Bytes {
        let limit = successor(&self.data);
        if end.starts_with(&self.data) { end } else { limit }
    }

    pub(crate) fn revision(&self, etcd: i64) -> Revision {
        Revision(u64::try_from(etcd).unwrap_or_default() + self.offset)
    }

    /// The revision of etcd; `None` for one from before the store came here.
    pub(crate) fn etcd_revision(&self, revision: Revision) -> Option<i64> {
        revision.0.checked_sub(self.offset).and_then(|etcd| i64::try_from(etcd).ok())
    }

    /// An entry of the store; `None` for the header and for slots.
    pub(crate) fn entry(&self, kv: KeyValue) -> Option<Entry> {
        let key = kv.key.strip_prefix(self.data.as_ref()).filter(|key| !key.is_empty())?;
        Some(Entry {
            key: kv.key.slice(kv.key.len() - key.len()..),
            value: kv.value,
            created: self.revision(kv.create_revision),
            modified: self.revision(kv.mod_revision),
            lease: LeaseId::new(kv.lease.cast_unsigned()),
        })
    }

    /// What a watch saw, as changes of whole revisions after `position`.
    pub(crate) fn changes(&self, events: Vec<proto::Event>, position: i64) -> Vec<Change> {
        let mut changes: Vec<Change> = Vec::new();
        for event in events {
            let Some(kv) = event.kv.filter(|kv| kv.mod_revision > position) else { continue };
            let revision = self.revision(kv.mod_revision);
            if changes.last().is_none_or(|change| change.revision != revision) {
                changes.push(Change { revision, events: Vec::new() });
            }
            let Some(entry) = self.entry(kv) else { continue };
            if let Some(change) = changes.last_mut() {
                change.events.push(match event.kind {
                    proto::DELETE => Event::Deleted { key: entry.key },
                    _ => Event::Put(entry),
                });
            }
        }
        changes
    }
}

/// The first key behind all that begin so.
fn successor(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            break;
        }
    }
    end.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(prefix: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let Span { key, end } = Layout::new("l/", 0).below(prefix);
        (key.to_vec(), end.to_vec())
    }

    #[test]
    fn a_span_ends_where_the_prefix_ends_and_never_outside_the_store() {
        assert_eq!(span(b"a/"), (b"l/data/a/".to_vec(), b"l/data/a0".to_vec()));
        assert_eq!(span(b""), (b"l/data/\0".to_vec(), b"l/data0".to_vec()));
        assert_eq!(span(b"\xff\xff"), (b"l/data/\xff\xff".to_vec(), b"l/data0".to_vec()));
        assert_eq!(span(b"a\xff"), (b"l/data/a\xff".to_vec(), b"l/data/b".to_vec()));
    }

    #[test]
    fn a_header_is_read_back_and_a_stranger_is_refused() {
        let layout = Layout::new("l/", 42);
        assert_eq!(Layout::parse_header(layout.header_text().as_bytes()), Ok(42));
        assert!(Layout::parse_header(b"hello").is_err());
        assert!(Layout::parse_header(b"lictor store, format 9, offset 0").unwrap_err().contains("format 9"));
    }

    #[test]
    fn the_header_is_no_event_but_its_revision_is_seen() {
        let layout = Layout::new("l/", 10);
        let event = |key: &str, revision| proto::Event {
            kind: 0,
            kv: Some(KeyValue { key: key.to_owned().into(), mod_revision: revision, ..KeyValue::default() }),
        };
        let events = vec![event("l/data/a", 4), event("l/data/a", 5), event("l/data/b", 5), event("l/data/", 6)];
        let changes = layout.changes(events, 4);
        let shape: Vec<_> = changes.iter().map(|change| (change.revision.0, change.events.len())).collect();
        assert_eq!(shape, [(15, 2), (16, 0)], "revision 4 was seen before");
    }
}
