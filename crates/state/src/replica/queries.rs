//! Prepared queries in memory, with templates compiled, and found by name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lictor_model::name::fold;
use lictor_model::prefix;
use lictor_model::query::Query;
use lictor_model::revision::Revision;

use super::Touched;
use crate::answer::Topic;
use crate::query::template::Pattern;
use crate::schema::Key;

#[derive(Debug, Default)]
pub(crate) struct Queries {
    rows: BTreeMap<Arc<str>, Stored>,
    /// Ids by folded name, of templates and others alike; the template that takes every name has the empty one.
    by_name: BTreeMap<Arc<str>, Arc<str>>,
    /// Those of them that are templates.
    templates: BTreeMap<Arc<str>, Arc<str>>,
    by_session: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
    index: Revision,
}

/// A query and what was made of it.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) row: Arc<Query>,
    /// For templates.
    pub(crate) pattern: Option<Arc<Pattern>>,
}

impl Queries {
    pub(crate) fn put(&mut self, row: Query, at: Revision, touched: &mut Touched) {
        let id = fold(&row.id);
        self.unlink(&id);
        let pattern = match row.template.is_used().then(|| Pattern::compile(&row)) {
            None => None,
            Some(Ok(pattern)) => Some(Arc::new(pattern)),
            Some(Err(why)) => {
                // Refused at creation, so only another version could have let it in; it is shown but cannot be run.
                tracing::error!("prepared query {id}: {why}");
                None
            }
        };
        if let Some(name) = row.acl_name() {
            let name = fold(name);
            if row.template.is_used() {
                self.templates.insert(Arc::clone(&name), Arc::clone(&id));
            }
            self.by_name.insert(name, Arc::clone(&id));
        }
        if !row.session.is_empty() {
            self.by_session.entry(fold(&row.session)).or_default().insert(Arc::clone(&id));
        }
        self.touch(&id, at, touched);
        self.rows.insert(id, Stored { row: Arc::new(row), pattern });
    }

    pub(crate) fn remove(&mut self, id: &str, at: Revision, touched: &mut Touched) {
        if self.unlink(id) {
            self.touch(id, at, touched);
        }
    }

    fn unlink(&mut self, id: &str) -> bool {
        let Some(Stored { row, .. }) = self.rows.remove(id) else { return false };
        if let Some(name) = row.acl_name().map(fold) {
            for names in [&mut self.by_name, &mut self.templates] {
                if names.get(&name).is_some_and(|owner| **owner == *id) {
                    names.remove(&name);
                }
            }
        }
        let session = fold(&row.session);
        if let Some(ids) = self.by_session.get_mut(&session) {
            ids.remove(id);
            if ids.is_empty() {
                self.by_session.remove(&session);
            }
        }
        true
    }

    fn touch(&mut self, id: &str, at: Revision, touched: &mut Touched) {
        self.index = at;
        touched.add(Topic::Queries);
        touched.add_named(Topic::Query, id);
    }

    /// All of them, by id.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Stored> {
        self.rows.values()
    }

    /// By folded id.
    pub(crate) fn get(&self, id: &str) -> Option<&Stored> {
        self.rows.get(id)
    }

    /// By exactly this folded name.
    pub(crate) fn named(&self, name: &str) -> Option<&Stored> {
        self.rows.get(self.by_name.get(name)?)
    }

    /// The query that a folded name leads to: the one of that name, else the template whose name is its longest prefix.
    pub(crate) fn for_name(&self, name: &str) -> Option<&Stored> {
        if let Some(exact) = self.named(name).filter(|_| !name.is_empty()) {
            return Some(exact);
        }
        let (_, id) = prefix::longest(&self.templates, name)?;
        self.rows.get(id)
    }

    /// Ids of those that live with a session.
    pub(crate) fn of_session(&self, session: &str) -> impl Iterator<Item = &Arc<str>> {
        self.by_session.get(session).into_iter().flatten()
    }

    pub(crate) fn index(&self) -> Revision {
        self.index
    }

    /// When a query last changed.
    pub(crate) fn index_of(&self, id: &str) -> Revision {
        self.rows.get(id).map_or(self.index, |stored| stored.row.modified)
    }

    pub(crate) fn raise(&mut self, floor: Revision) {
        self.index = floor;
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = (Key, Revision)> {
        self.rows.iter().map(|(id, stored)| (Key::Query(Arc::clone(id)), stored.row.modified))
    }
}
