//! User events: something that somebody wants others to notice.
//!
//! Agents that share their store tell each other by way of it. The latest are kept there, so that one who was away for
//! a while still learns of them; they are no part of snapshots, for they are about a moment.

use bytes::Bytes;
use lictor_model::revision::Revision;
use uuid::Uuid;

/// So many are kept.
pub const KEPT: usize = 256;

/// An event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// A UUID.
    pub id: Uuid,
    /// What it is called.
    pub name: String,
    /// Its content.
    pub payload: Bytes,
    /// Nodes it is for, as a regular expression; empty is all.
    pub node_filter: String,
    /// Services it is for, as a regular expression; empty is all.
    pub service_filter: String,
    /// Tags of these services, as a regular expression.
    pub tag_filter: String,
    /// Version of the form.
    pub version: u32,
    /// When it was fired, on a clock that counts events; zero before it was.
    pub time: u64,
}

impl Event {
    /// Its place among events as readers wait for it: both halves of its id, folded into one number.
    pub fn index(&self) -> u64 {
        let (high, low) = self.id.as_u64_pair();
        (high ^ low).max(1)
    }
}

/// An event as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRow {
    /// The event.
    pub event: Event,
    /// When it was stored.
    pub created: Revision,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_is_both_halves_of_the_id() {
        let id = Uuid::from_u64_pair(0b1100, 0b1010);
        assert_eq!(Event { id, ..Event::default() }.index(), 0b0110);
        assert_eq!(Event::default().index(), 1, "zero would not wait");
    }
}
