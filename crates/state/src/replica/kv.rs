//! The key-value store in memory, with what is needed to say when anything below a prefix changed.
//!
//! A deleted key leaves its revision behind, so that a list from which it vanished has a newer index. These marks are
//! bounded in number, not in time: when there are too many the oldest are merged into one floor below which no index
//! falls. A list may then seem changed once when it is not; the other way round never.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use lictor_model::revision::Revision;

use super::Touched;
use crate::answer::Topic;
use crate::reader::KvRow;
use crate::schema::Key;

/// Deleted keys that are remembered one by one; at a hundred bytes each this is a few megabytes.
const TOMBSTONES: usize = 32 * 1024;

#[derive(Debug, Default)]
pub(crate) struct Kv {
    rows: BTreeMap<Arc<str>, Arc<KvRow>>,
    /// Keys by the session that holds them.
    held: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
    /// When keys that are gone were deleted, and the same in order of time.
    tombstones: BTreeMap<Arc<str>, Revision>,
    buried: BTreeSet<(Revision, Arc<str>)>,
    floor: Revision,
    index: Revision,
    delays: BTreeMap<Arc<str>, LockDelay>,
}

/// Until when a key cannot be locked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LockDelay {
    /// Nanoseconds since the Unix epoch.
    pub(crate) until: i64,
    /// Of the record.
    pub(crate) modified: Revision,
}

impl Kv {
    pub(crate) fn put(&mut self, row: KvRow, at: Revision, touched: &mut Touched) {
        let row = Arc::new(row);
        let former = self.rows.insert(Arc::clone(&row.key), Arc::clone(&row));
        self.unhold(former.as_deref());
        if let Some(session) = &row.session {
            self.held.entry(Arc::clone(session)).or_default().insert(Arc::clone(&row.key));
        }
        if let Some(died) = self.tombstones.remove(&row.key) {
            self.buried.remove(&(died, Arc::clone(&row.key)));
        }
        self.touch(&row.key, at, touched);
    }

    pub(crate) fn remove(&mut self, key: &str, at: Revision, touched: &mut Touched) {
        let Some((key, former)) = self.rows.remove_entry(key) else { return };
        self.unhold(Some(&former));
        self.tombstones.insert(Arc::clone(&key), at);
        self.buried.insert((at, Arc::clone(&key)));
        while self.buried.len() > TOMBSTONES {
            let Some((died, oldest)) = self.buried.pop_first() else { break };
            self.tombstones.remove(&oldest);
            self.floor = self.floor.max(died);
        }
        self.touch(&key, at, touched);
    }

    pub(crate) fn put_delay(&mut self, key: &Arc<str>, delay: LockDelay) {
        self.delays.insert(Arc::clone(key), delay);
    }

    pub(crate) fn remove_delay(&mut self, key: &str) {
        self.delays.remove(key);
    }

    fn unhold(&mut self, former: Option<&KvRow>) {
        let Some((session, key)) = former.and_then(|row| row.session.as_ref().map(|session| (session, &row.key)))
        else {
            return;
        };
        let Some(keys) = self.held.get_mut(session) else { return };
        keys.remove(key);
        if keys.is_empty() {
            self.held.remove(session);
        }
    }

    fn touch(&mut self, key: &str, at: Revision, touched: &mut Touched) {
        self.index = at;
        // Those who watch a prefix of it are found by whoever wakes.
        touched.add_named(Topic::Key, key);
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Arc<KvRow>> {
        self.rows.get(key)
    }

    /// All entries whose keys begin so, in order.
    pub(crate) fn below<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a Arc<KvRow>> {
        from(&self.rows, prefix).map(|(_, row)| row)
    }

    /// The keys that a session holds.
    pub(crate) fn held_by(&self, session: &str) -> impl Iterator<Item = &Arc<str>> {
        self.held.get(session).into_iter().flatten()
    }

    /// The delay of a key, over or not.
    pub(crate) fn delay(&self, key: &str) -> Option<LockDelay> {
        self.delays.get(key).copied()
    }

    /// All delays.
    pub(crate) fn delays(&self) -> impl Iterator<Item = (&Arc<str>, LockDelay)> {
        self.delays.iter().map(|(key, delay)| (key, *delay))
    }

    /// When a topic of the store last changed.
    pub(crate) fn index(&self, topic: &Topic) -> Option<Revision> {
        match topic {
            Topic::Key(key) => Some(match (self.rows.get(&**key), self.tombstones.get(&**key)) {
                (Some(row), _) => row.modified,
                (None, Some(died)) => *died,
                (None, None) => self.floor,
            }),
            Topic::KeyPrefix(prefix) if prefix.is_empty() => Some(self.index),
            Topic::KeyPrefix(prefix) => {
                let living = self.below(prefix).map(|row| row.modified);
                let dead = from(&self.tombstones, prefix).map(|(_, died)| *died);
                Some(living.chain(dead).fold(self.floor, Revision::max))
            }
            _ => None,
        }
    }

    /// The index of what was never there.
    pub(crate) fn floor(&self) -> Revision {
        self.floor
    }

    pub(crate) fn raise(&mut self, floor: Revision) {
        self.floor = floor;
        self.index = floor;
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = (Key, Revision)> {
        let rows = self.rows.iter().map(|(key, row)| (Key::Kv(Arc::clone(key)), row.modified));
        rows.chain(self.delays.iter().map(|(key, delay)| (Key::LockDelay(Arc::clone(key)), delay.modified)))
    }
}

/// The part of a map whose keys begin so.
fn from<'a, T>(map: &'a BTreeMap<Arc<str>, T>, prefix: &'a str) -> impl Iterator<Item = (&'a Arc<str>, &'a T)> {
    let start = (Bound::Included(prefix), Bound::Unbounded);
    map.range::<str, _>(start).take_while(move |(key, _)| key.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(key: &str, at: u64) -> KvRow {
        KvRow {
            key: key.into(),
            value: bytes::Bytes::new(),
            flags: 0,
            lock_index: 0,
            session: None,
            created: Revision(at),
            modified: Revision(at),
        }
    }

    #[test]
    fn too_many_marks_of_deleted_keys_become_one_floor() {
        let mut kv = Kv::default();
        let count = TOMBSTONES as u64 + 10;
        for n in 1..=count {
            kv.put(row(&format!("k{n}"), n), Revision(n), &mut Touched::default());
        }
        for n in 1..=count {
            kv.remove(&format!("k{n}"), Revision(count + n), &mut Touched::default());
        }
        assert_eq!(kv.tombstones.len(), TOMBSTONES);
        assert_eq!(kv.floor, Revision(count + 10));
        let index = |topic| kv.index(&topic).unwrap();
        assert_eq!(index(Topic::Key("k1".into())), kv.floor, "never older than what was forgotten");
        assert_eq!(index(Topic::KeyPrefix("k".into())), Revision(2 * count));
        assert_eq!(index(Topic::KeyPrefix("x".into())), kv.floor);
    }

    #[test]
    fn a_key_that_comes_back_leaves_its_mark() {
        let mut kv = Kv::default();
        kv.put(row("a/b", 1), Revision(1), &mut Touched::default());
        kv.remove("a/b", Revision(2), &mut Touched::default());
        assert_eq!(kv.index(&Topic::KeyPrefix("a/".into())), Some(Revision(2)));
        kv.put(row("a/b", 3), Revision(3), &mut Touched::default());
        assert!(kv.tombstones.is_empty() && kv.buried.is_empty());
        assert_eq!(kv.index(&Topic::Key("a/b".into())), Some(Revision(3)));
    }
}
