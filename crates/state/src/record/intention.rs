//! An intention on disk.

use lictor_model::intention::{Intention, Party};
use lictor_model::meta::Meta;
use lictor_model::revision::Revision;
use serde::{Deserialize, Serialize};

use super::{Created, is_default};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct IntentionRecord {
    id: String,
    #[serde(default, skip_serializing_if = "is_default")]
    description: String,
    source: PartyRecord,
    destination: PartyRecord,
    source_type: String,
    action: String,
    #[serde(default, skip_serializing_if = "is_default")]
    default_addr: String,
    #[serde(default, skip_serializing_if = "is_default")]
    default_port: i64,
    #[serde(default, skip_serializing_if = "is_default")]
    meta: Meta,
    created_at: i64,
    updated_at: i64,
    #[serde(default, skip_serializing_if = "is_default")]
    created: Created,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct PartyRecord {
    namespace: String,
    name: String,
}

impl IntentionRecord {
    pub(crate) fn new(intention: &Intention, created: Created) -> IntentionRecord {
        let Intention {
            id,
            description,
            source,
            destination,
            source_type,
            action,
            default_addr,
            default_port,
            meta,
            created_at,
            updated_at,
            created: _,
            modified: _,
        } = intention.clone();
        IntentionRecord {
            id,
            description,
            source: source.into(),
            destination: destination.into(),
            source_type,
            action,
            default_addr,
            default_port,
            meta,
            created_at,
            updated_at,
            created,
        }
    }

    pub(crate) fn into_row(self, modified: Revision) -> Intention {
        let IntentionRecord {
            id,
            description,
            source,
            destination,
            source_type,
            action,
            default_addr,
            default_port,
            meta,
            created_at,
            updated_at,
            created,
        } = self;
        Intention {
            id,
            description,
            source: source.into(),
            destination: destination.into(),
            source_type,
            action,
            default_addr,
            default_port,
            meta,
            created_at,
            updated_at,
            created: created.or(modified),
            modified,
        }
    }
}

impl From<Party> for PartyRecord {
    fn from(party: Party) -> PartyRecord {
        let Party { namespace, name } = party;
        PartyRecord { namespace, name }
    }
}

impl From<PartyRecord> for Party {
    fn from(record: PartyRecord) -> Party {
        let PartyRecord { namespace, name } = record;
        Party { namespace, name }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_on_the_way_to_the_disk_and_back() {
        let intention = Intention {
            id: "i".into(),
            description: "d".into(),
            source: Party::service("*"),
            destination: Party::service("Db"),
            source_type: "consul".into(),
            action: "deny".into(),
            default_addr: "a".into(),
            default_port: 1,
            meta: [("k".to_owned(), "v".to_owned())].into(),
            created_at: 1,
            updated_at: 2,
            created: Revision(3),
            modified: Revision(9),
        };
        let bytes = serde_json::to_vec(&IntentionRecord::new(&intention, Created::at(Revision(3)))).unwrap();
        assert_eq!(serde_json::from_slice::<IntentionRecord>(&bytes).unwrap().into_row(Revision(9)), intention);
    }
}
