//! The latest changes, kept for watches; the only queue between writers and watchers.

use std::collections::VecDeque;

use crate::{Change, Event, Revision};

/// How many changes are kept: most of a second of the fastest writing, which is how far behind a watcher may be
/// before it must read everything again.
const MAX_CHANGES: usize = 16_384;

/// How much is kept, keys and values together, when changes are large.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// What an event costs beside its key and value.
const EVENT_OVERHEAD: usize = 128;

/// A window over the latest changes. The newest is always in it.
pub(crate) struct History {
    changes: VecDeque<(Change, usize)>,
    bytes: usize,
    /// Changes up to here are gone.
    floor: Revision,
}

/// What comes after a position.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// The first change below the prefix.
    Found(Change),
    /// Nothing up to and including this revision.
    Nothing(Revision),
    /// Changes after the position are gone, up to this revision.
    Gone(Revision),
}

impl History {
    /// A window that begins after `floor`.
    pub(crate) fn new(floor: Revision) -> History {
        History { changes: VecDeque::new(), bytes: 0, floor }
    }

    pub(crate) fn floor(&self) -> Revision {
        self.floor
    }

    pub(crate) fn push(&mut self, change: Change) {
        let cost = change.events.iter().map(cost).sum();
        self.bytes += cost;
        self.changes.push_back((change, cost));
        while self.changes.len() > 1 && (self.changes.len() > MAX_CHANGES || self.bytes > MAX_BYTES) {
            if let Some((dropped, cost)) = self.changes.pop_front() {
                self.bytes -= cost;
                self.floor = dropped.revision;
            }
        }
    }

    /// The first change with a revision greater than `position` that concerns `prefix`, with the events that do.
    pub(crate) fn after(&self, position: Revision, prefix: &[u8]) -> After {
        if position < self.floor {
            return After::Gone(self.floor);
        }
        let start = self.changes.partition_point(|(change, _)| change.revision <= position);
        for (change, _) in self.changes.range(start..) {
            if prefix.is_empty() {
                return After::Found(change.clone());
            }
            let events: Vec<Event> =
                change.events.iter().filter(|event| event.key().starts_with(prefix)).cloned().collect();
            if !events.is_empty() {
                return After::Found(Change { revision: change.revision, events });
            }
        }
        // A watch may begin at a revision that is yet to come.
        let newest = self.changes.back().map_or(self.floor, |(change, _)| change.revision);
        After::Nothing(newest.max(position))
    }
}

fn cost(event: &Event) -> usize {
    EVENT_OVERHEAD
        + match event {
            Event::Put(entry) => entry.key.len() + entry.value.len(),
            Event::Deleted { key } => key.len(),
        }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::Entry;

    fn put(revision: u64, key: &str, value: Bytes) -> Change {
        let revision = Revision(revision);
        let entry = Entry {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value,
            created: revision,
            modified: revision,
            lease: None,
        };
        Change { revision, events: vec![Event::Put(entry)] }
    }

    #[test]
    fn changes_beyond_the_count_are_gone_and_said_to_be() {
        let mut history = History::new(Revision(10));
        for revision in 11..=11 + MAX_CHANGES as u64 {
            history.push(put(revision, "k", Bytes::new()));
        }
        assert_eq!(history.floor(), Revision(11));
        assert_eq!(history.after(Revision(10), b""), After::Gone(Revision(11)));
        assert!(matches!(history.after(Revision(11), b""), After::Found(change) if change.revision == Revision(12)));
    }

    #[test]
    fn large_values_shorten_the_window_but_the_newest_change_stays() {
        let mut history = History::new(Revision::ZERO);
        let large = Bytes::from(vec![0; MAX_BYTES / 4]);
        for revision in 1..=5 {
            history.push(put(revision, "k", large.clone()));
        }
        assert_eq!(history.floor(), Revision(2));
        history.push(put(6, "k", Bytes::from(vec![0; MAX_BYTES * 2])));
        assert_eq!(history.floor(), Revision(5));
        assert!(matches!(history.after(Revision(5), b"k"), After::Found(_)));
    }

    #[test]
    fn a_change_of_other_keys_moves_the_position_on() {
        let mut history = History::new(Revision::ZERO);
        history.push(put(1, "a/1", Bytes::new()));
        history.push(put(2, "b/1", Bytes::new()));
        assert_eq!(history.after(Revision(1), b"a/"), After::Nothing(Revision(2)));
        assert_eq!(history.after(Revision(7), b"a/"), After::Nothing(Revision(7)));
    }
}
