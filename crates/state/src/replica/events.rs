//! User events in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use lictor_model::revision::Revision;

use super::Touched;
use crate::answer::Topic;
use crate::event::EventRow;
use crate::schema::Key;

#[derive(Debug, Default)]
pub(crate) struct Events {
    rows: BTreeMap<Arc<str>, Arc<EventRow>>,
    index: Revision,
}

impl Events {
    pub(crate) fn put(&mut self, id: &Arc<str>, row: EventRow, at: Revision, touched: &mut Touched) {
        self.rows.insert(Arc::clone(id), Arc::new(row));
        self.touch(at, touched);
    }

    pub(crate) fn remove(&mut self, id: &str, at: Revision, touched: &mut Touched) {
        if self.rows.remove(id).is_some() {
            self.touch(at, touched);
        }
    }

    fn touch(&mut self, at: Revision, touched: &mut Touched) {
        self.index = at;
        touched.add(Topic::Events);
    }

    /// In the order in which they came.
    pub(crate) fn in_order(&self) -> Vec<(&Arc<str>, &Arc<EventRow>)> {
        let mut rows: Vec<_> = self.rows.iter().collect();
        rows.sort_by_key(|(_, row)| (row.created, row.event.time, row.event.id));
        rows
    }

    pub(crate) fn index(&self) -> Revision {
        self.index
    }

    pub(crate) fn raise(&mut self, floor: Revision) {
        self.index = floor;
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = (Key, Revision)> {
        self.rows.iter().map(|(id, row)| (Key::Event(Arc::clone(id)), row.created))
    }
}
