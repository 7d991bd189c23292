//! Reading user events.

use std::sync::Arc;

use super::Reader;
use crate::answer::{Answer, Topic};
use crate::event::EventRow;

impl Reader {
    /// All events that are stored, in the order in which they came; for agents, which decide who may see them.
    pub fn events(&self) -> Answer<Vec<Arc<EventRow>>> {
        self.answer(vec![Topic::Events], |tables| {
            tables.events.in_order().into_iter().map(|(_, row)| Arc::clone(row)).collect()
        })
    }
}
