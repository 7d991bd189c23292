//! Sessions in memory, by what they depend on, and when each was last renewed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lictor_model::name::fold;
use lictor_model::revision::Revision;
use tokio::time::Instant;

use super::Touched;
use super::catalog::Place;
use super::marks::Marks;
use crate::answer::Topic;
use crate::schema::Key;
use crate::session::Session;

#[derive(Debug, Default)]
pub(crate) struct Sessions {
    rows: BTreeMap<Arc<str>, Arc<Session>>,
    renewals: BTreeMap<Arc<str>, Renewal>,
    by_node: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
    nodes: Marks<Arc<str>>,
    by_check: BTreeMap<Place, BTreeSet<Arc<str>>>,
    index: Revision,
}

/// Why the record that says that a session is alive was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sign {
    /// It has its whole time from now on.
    Renewed,
    /// Something came to depend on it, so that it cannot end at the same moment. Its time goes on.
    Used,
}

impl Sign {
    /// What the record holds.
    pub(crate) fn bytes(self) -> Vec<u8> {
        match self {
            Sign::Renewed => Vec::new(),
            Sign::Used => b"used".to_vec(),
        }
    }

    pub(crate) fn read(bytes: &[u8]) -> Sign {
        if bytes.is_empty() { Sign::Renewed } else { Sign::Used }
    }
}

/// When a session was last renewed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Renewal {
    /// On this process's own clock, when it learned of it: no two machines' clocks are compared, and whoever takes
    /// over the expiry gives every session its whole time again.
    pub(crate) seen: Instant,
    /// Of the record.
    pub(crate) modified: Revision,
}

impl Sessions {
    pub(crate) fn put(&mut self, row: Session, at: Revision, touched: &mut Touched) {
        let id = fold(&row.id);
        self.unlink(&id);
        for place in places(&row) {
            self.by_check.entry(place).or_default().insert(Arc::clone(&id));
        }
        let node = row.node.key();
        self.by_node.entry(Arc::clone(&node)).or_default().insert(Arc::clone(&id));
        self.rows.insert(Arc::clone(&id), Arc::new(row));
        self.touch(&id, node, at, touched);
    }

    pub(crate) fn remove(&mut self, id: &str, at: Revision, touched: &mut Touched) {
        if let Some(node) = self.unlink(id) {
            self.touch(id, node, at, touched);
        }
    }

    /// Takes a session out; gives its node.
    fn unlink(&mut self, id: &str) -> Option<Arc<str>> {
        let row = self.rows.remove(id)?;
        for place in places(&row) {
            drop_from(&mut self.by_check, &place, id);
        }
        let node = row.node.key();
        drop_from(&mut self.by_node, &node, id);
        Some(node)
    }

    fn touch(&mut self, id: &str, node: Arc<str>, at: Revision, touched: &mut Touched) {
        self.index = at;
        touched.add(Topic::Sessions);
        touched.add_named(Topic::Session, id);
        touched.add_named(Topic::SessionsOf, &node);
        let is_left = self.by_node.contains_key(&node);
        self.nodes.note(node, at, is_left);
    }

    pub(crate) fn put_sign(&mut self, id: &Arc<str>, sign: Sign, modified: Revision) {
        let known = self.renewals.get(id).filter(|_| sign == Sign::Used);
        let seen = known.map_or_else(Instant::now, |renewal| renewal.seen);
        self.renewals.insert(Arc::clone(id), Renewal { seen, modified });
    }

    pub(crate) fn remove_renewal(&mut self, id: &str) {
        self.renewals.remove(id);
    }

    pub(crate) fn get(&self, id: &str) -> Option<&Arc<Session>> {
        self.rows.get(id)
    }

    pub(crate) fn renewal(&self, id: &str) -> Option<Renewal> {
        self.renewals.get(id).copied()
    }

    /// All of them, by id.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<Session>)> {
        self.rows.iter()
    }

    /// Ids of those of a node (folded name).
    pub(crate) fn of_node(&self, node: &str) -> impl Iterator<Item = &Arc<str>> {
        self.by_node.get(node).into_iter().flatten()
    }

    /// Ids of those bound to a check.
    pub(crate) fn of_check(&self, place: &Place) -> impl Iterator<Item = &Arc<str>> {
        self.by_check.get(place).into_iter().flatten()
    }

    pub(crate) fn index(&self) -> Revision {
        self.index
    }

    /// When a session last changed. One that is gone has the index of all: it never falls, and who waits for it is not woken
    /// by others.
    pub(crate) fn index_of(&self, id: &str) -> Revision {
        self.rows.get(id).map_or(self.index, |row| row.modified)
    }

    /// When a session of a node last came or went.
    pub(crate) fn index_of_node(&self, node: &str) -> Revision {
        self.nodes.index(&node.into())
    }

    pub(crate) fn raise(&mut self, floor: Revision) {
        self.index = floor;
        self.nodes.raise(floor);
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = (Key, Revision)> {
        let rows = self.rows.iter().map(|(id, row)| (Key::Session(Arc::clone(id)), row.modified));
        rows.chain(self.renewals.iter().map(|(id, renewal)| (Key::SessionAlive(Arc::clone(id)), renewal.modified)))
    }
}

fn places(row: &Session) -> impl Iterator<Item = Place> {
    let node = row.node.key();
    row.checks.iter().map(move |check| (Arc::clone(&node), check.key()))
}

fn drop_from<K: Ord>(map: &mut BTreeMap<K, BTreeSet<Arc<str>>>, key: &K, id: &str) {
    let Some(ids) = map.get_mut(key) else { return };
    ids.remove(id);
    if ids.is_empty() {
        map.remove(key);
    }
}
