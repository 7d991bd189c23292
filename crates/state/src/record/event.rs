//! A user event on disk.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use lictor_model::revision::Revision;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::is_default;
use crate::Error;
use crate::event::{Event, EventRow};

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct EventRecord {
    id: String,
    name: String,
    /// In base64.
    #[serde(default, skip_serializing_if = "is_default")]
    payload: String,
    #[serde(default, skip_serializing_if = "is_default")]
    node: String,
    #[serde(default, skip_serializing_if = "is_default")]
    service: String,
    #[serde(default, skip_serializing_if = "is_default")]
    tag: String,
    version: u32,
    time: u64,
}

impl EventRecord {
    pub(crate) fn new(event: &Event) -> EventRecord {
        let Event { id, name, payload, node_filter, service_filter, tag_filter, version, time } = event.clone();
        EventRecord {
            id: id.to_string(),
            name,
            payload: BASE64_STANDARD.encode(payload),
            node: node_filter,
            service: service_filter,
            tag: tag_filter,
            version,
            time,
        }
    }

    pub(crate) fn into_row(self, created: Revision) -> Result<EventRow, Error> {
        let EventRecord { id, name, payload, node, service, tag, version, time } = self;
        let broken = |what: &str| Error::refused(format!("event {id:?} has a {what} that cannot be read"));
        let event = Event {
            id: Uuid::try_parse(&id).map_err(|_| broken("id"))?,
            payload: BASE64_STANDARD.decode(payload).map_err(|_| broken("payload"))?.into(),
            name,
            node_filter: node,
            service_filter: service,
            tag_filter: tag,
            version,
            time,
        };
        Ok(EventRow { event, created })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_on_the_way_to_the_disk_and_back() {
        let event = Event {
            id: Uuid::from_u64_pair(1, 2),
            name: "deploy".into(),
            payload: (&[0, 255, b'"'][..]).into(),
            node_filter: "n.*".into(),
            service_filter: "web".into(),
            tag_filter: "v1".into(),
            version: 1,
            time: 7,
        };
        let bytes = serde_json::to_vec(&EventRecord::new(&event)).unwrap();
        let row = serde_json::from_slice::<EventRecord>(&bytes).unwrap().into_row(Revision(3)).unwrap();
        assert_eq!(row, EventRow { event, created: Revision(3) });
    }

    #[test]
    fn what_is_no_event_is_refused() {
        let record = EventRecord { id: "x".into(), ..EventRecord::new(&Event::default()) };
        assert!(record.into_row(Revision(1)).is_err());
        let record = EventRecord { payload: "?".into(), ..EventRecord::new(&Event::default()) };
        assert!(record.into_row(Revision(1)).is_err());
    }
}
