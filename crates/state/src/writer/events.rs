//! Writing user events.

use std::sync::Arc;

use lictor_model::revision::Revision;

use super::Writer;
use crate::Error;
use crate::event::{Event, KEPT};
use crate::record::event::EventRecord;
use crate::schema::Key;

/// The most old events that are forgotten with a new one. More than one, so that those become fewer that came at the same
/// time from several agents.
const FORGOTTEN: usize = 8;

impl Writer {
    /// Stores an event, with a time that is later than that of all before; the oldest beyond [`KEPT`] are forgotten.
    /// Gives the revision at which it can be read.
    pub async fn fire(&self, event: &Event) -> Result<Revision, Error> {
        let (_, at) = self
            .write_at("fire an event", |scratch| {
                let known = scratch.tables.events.in_order();
                let time = 1 + known.iter().map(|(_, row)| row.event.time).max().unwrap_or_default();
                let surplus = (known.len() + 1).saturating_sub(KEPT).min(FORGOTTEN);
                for (id, _) in &known[..surplus] {
                    scratch.draft.delete(&Key::Event(Arc::clone(id)))?;
                }
                let key = Key::Event(event.id.to_string().into());
                scratch.draft.put(&key, &EventRecord::new(&Event { time, ..event.clone() }))
            })
            .await?;
        // There is something to write in any case.
        Ok(at.unwrap_or_default())
    }
}
