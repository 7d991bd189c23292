//! The tables as a transaction in the making would leave them, and what it must write for that.
//!
//! Several operations of one transaction see each other's effects here before anything is committed. Whatever is
//! looked at is a condition: it must still be so when the store decides.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lictor_model::revision::Revision;

use super::Draft;
use crate::Error;
use crate::reader::{CheckRow, KvRow, NodeRow, ServiceRow};
use crate::replica::Tables;
use crate::replica::catalog::Place;
use crate::schema::{Below, Key};

/// Stands for the revision that a transaction will have.
pub(crate) const PENDING: Revision = Revision(u64::MAX);

/// Rows in place of those of the tables; `None` is a row that is removed.
type Changed<K, T> = BTreeMap<K, Option<Arc<T>>>;

#[derive(Debug)]
pub(crate) struct Scratch<'t> {
    pub(crate) tables: &'t Tables,
    pub(crate) draft: Draft,
    nodes: Changed<Arc<str>, NodeRow>,
    services: Changed<Place, ServiceRow>,
    checks: Changed<Place, CheckRow>,
    keys: Changed<Arc<str>, KvRow>,
    /// Nodes that were removed with everything on them: nothing of theirs in the tables counts any more.
    emptied: BTreeSet<Arc<str>>,
    /// Sessions that were ended, wholly or but for the rest.
    pub(super) ended: BTreeSet<Arc<str>>,
    /// What did not find room.
    pub(super) rest: Rest,
    /// Room that what is still to come needs: whatever can wait takes none of it.
    pub(super) reserved: usize,
}

/// What a transaction decided and found no room for: it follows once the transaction is done, see
/// [`Writer::complete`](super::Writer::complete).
#[derive(Debug, Default)]
pub(super) struct Rest {
    /// Sessions that end: what they still hold goes, and they with the last of it.
    pub(super) sessions: BTreeSet<Arc<str>>,
    /// Instances that were removed: what is left of the checks goes that they had before the transaction.
    pub(super) services: BTreeSet<Place>,
}

impl<'t> Scratch<'t> {
    pub(crate) fn new(tables: &'t Tables) -> Scratch<'t> {
        Scratch {
            tables,
            draft: Draft::default(),
            nodes: Changed::new(),
            services: Changed::new(),
            checks: Changed::new(),
            keys: Changed::new(),
            emptied: BTreeSet::new(),
            ended: BTreeSet::new(),
            rest: Rest::default(),
            reserved: 0,
        }
    }

    /// Nothing shall be written after all.
    pub(crate) fn abandon(&mut self) {
        self.draft = Draft::default();
        self.rest = Rest::default();
    }

    /// Whether this many more conditions and writes find room beside what is still to come.
    pub(super) fn has_room(&self, more: usize) -> bool {
        self.draft.has_room(more + self.reserved)
    }

    /// A node by folded name.
    pub(crate) fn node(&mut self, name: &Arc<str>) -> Result<Option<Arc<NodeRow>>, Error> {
        if let Some(changed) = self.nodes.get(name) {
            return Ok(changed.clone());
        }
        let row = self.tables.catalog.node(name).map(|entry| Arc::clone(&entry.row));
        self.draft.expect(&Key::Node(Arc::clone(name)), modified(row.as_deref().map(|row| row.modified)))?;
        Ok(row)
    }

    /// The same without a condition.
    pub(crate) fn glance_at_node(&self, name: &Arc<str>) -> Option<Arc<NodeRow>> {
        match self.nodes.get(name) {
            Some(changed) => changed.clone(),
            None => self.tables.catalog.node(name).map(|entry| Arc::clone(&entry.row)),
        }
    }

    /// The node with a folded id. Only who holds the id is looked at: to take an id nobody holds, claim it.
    pub(crate) fn node_with_id(&mut self, id: &str) -> Result<Option<Arc<NodeRow>>, Error> {
        let changed = self.nodes.values().flatten().find(|row| row.node.id.eq_ignore_ascii_case(id));
        if let Some(row) = changed {
            return Ok(Some(Arc::clone(row)));
        }
        let Some(name) = self.tables.catalog.node_with_id(id).map(Arc::clone) else { return Ok(None) };
        // It may have been renamed or removed here.
        Ok(self.node(&name)?.filter(|row| row.node.id.eq_ignore_ascii_case(id)))
    }

    /// An instance.
    pub(crate) fn service(&mut self, place: &Place) -> Result<Option<Arc<ServiceRow>>, Error> {
        if let Some(changed) = self.services.get(place) {
            return Ok(changed.clone());
        }
        if self.emptied.contains(&place.0) {
            return Ok(None);
        }
        let row = self.tables.catalog.node(&place.0).and_then(|entry| entry.services.get(&place.1)).map(Arc::clone);
        let key = Key::Service { node: Arc::clone(&place.0), id: Arc::clone(&place.1) };
        self.draft.expect(&key, modified(row.as_deref().map(|row| row.modified)))?;
        Ok(row)
    }

    /// A check.
    pub(crate) fn check(&mut self, place: &Place) -> Result<Option<Arc<CheckRow>>, Error> {
        if let Some(changed) = self.checks.get(place) {
            return Ok(changed.clone());
        }
        if self.emptied.contains(&place.0) {
            return Ok(None);
        }
        let row = self.tables.catalog.node(&place.0).and_then(|entry| entry.checks.get(&place.1)).map(Arc::clone);
        let key = Key::Check { node: Arc::clone(&place.0), id: Arc::clone(&place.1) };
        self.draft.expect(&key, modified(row.as_deref().map(|row| row.modified)))?;
        Ok(row)
    }

    /// The same without a condition.
    pub(super) fn glance_at_check(&self, place: &Place) -> Option<Arc<CheckRow>> {
        match self.checks.get(place) {
            Some(changed) => changed.clone(),
            None if self.emptied.contains(&place.0) => None,
            None => self.tables.catalog.node(&place.0)?.checks.get(&place.1).map(Arc::clone),
        }
    }

    /// Places of the checks that belong to an instance.
    pub(crate) fn checks_of(&self, service: &Place) -> BTreeSet<Place> {
        let (node, id) = service;
        let at = |row: &CheckRow| (Arc::clone(node), row.check.id.key());
        let stored = self.tables.catalog.node(node).filter(|_| !self.emptied.contains(node));
        let stored = stored.into_iter().flat_map(|entry| entry.checks_of(id)).map(|row| at(row));
        let changed = self.checks.iter().filter_map(|(place, row)| {
            let row = row.as_ref()?;
            (place.0 == *node && row.check.service_id.same(id)).then(|| place.clone())
        });
        let removed = |place: &Place| {
            self.checks.get(place).is_some_and(|row| row.as_ref().is_none_or(|row| !row.check.service_id.same(id)))
        };
        stored.filter(|place| !removed(place)).chain(changed).collect()
    }

    /// An entry of the key-value store.
    pub(crate) fn key(&mut self, key: &str) -> Result<Option<Arc<KvRow>>, Error> {
        if let Some(changed) = self.keys.get(key) {
            return Ok(changed.clone());
        }
        let row = self.tables.kv.get(key).map(Arc::clone);
        self.draft.expect(&Key::Kv(key.into()), modified(row.as_deref().map(|row| row.modified)))?;
        Ok(row)
    }

    /// All entries whose keys begin so. Reading them is no condition: others may come, which no transaction can
    /// exclude, so that they stay as they are would be worth little.
    pub(crate) fn keys_below(&self, prefix: &str) -> Vec<Arc<KvRow>> {
        let mut found: BTreeMap<Arc<str>, Arc<KvRow>> = BTreeMap::new();
        for row in self.tables.kv.below(prefix) {
            if self.keys.contains_key(&row.key) {
                continue;
            }
            found.insert(Arc::clone(&row.key), Arc::clone(row));
        }
        let changed = self.keys.iter().filter(|(key, _)| key.starts_with(prefix));
        found.extend(changed.filter_map(|(key, row)| Some((Arc::clone(key), Arc::clone(row.as_ref()?)))));
        found.into_values().collect()
    }

    pub(super) fn set_node(&mut self, name: Arc<str>, row: Option<Arc<NodeRow>>) {
        self.nodes.insert(name, row);
    }

    pub(super) fn set_service(&mut self, place: Place, row: Option<Arc<ServiceRow>>) {
        self.services.insert(place, row);
    }

    pub(super) fn set_check(&mut self, place: Place, row: Option<Arc<CheckRow>>) {
        self.checks.insert(place, row);
    }

    pub(super) fn set_key(&mut self, key: Arc<str>, row: Option<Arc<KvRow>>) {
        self.keys.insert(key, row);
    }

    /// Keys that this transaction gave to a session.
    pub(super) fn newly_held_by(&self, session: &str) -> Vec<Arc<str>> {
        let held = |row: &&Arc<KvRow>| row.session.as_deref() == Some(session);
        self.keys.values().flatten().filter(held).map(|row| Arc::clone(&row.key)).collect()
    }

    /// Removes everything on a node.
    pub(super) fn empty_node(&mut self, name: &Arc<str>) -> Result<(), Error> {
        self.services.retain(|place, _| place.0 != *name);
        self.checks.retain(|place, _| place.0 != *name);
        self.emptied.insert(Arc::clone(name));
        self.draft.delete_below(&Below::Services(name))?;
        self.draft.delete_below(&Below::Checks(name))?;
        self.draft.delete_below(&Below::Coordinates(name))
    }
}

fn modified(revision: Option<Revision>) -> Revision {
    revision.unwrap_or(Revision::ZERO)
}
