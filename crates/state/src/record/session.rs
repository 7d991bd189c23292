//! A session on disk.

use std::time::Duration;

use lictor_model::revision::Revision;
use serde::{Deserialize, Serialize};

use super::{Created, is_default};
use crate::session::{Behavior, Session};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SessionRecord {
    id: String,
    #[serde(default, skip_serializing_if = "is_default")]
    name: String,
    node: String,
    #[serde(default, skip_serializing_if = "is_default")]
    checks: Vec<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    lock_delay: Duration,
    behavior: BehaviorRecord,
    #[serde(default, skip_serializing_if = "is_default")]
    ttl: String,
    #[serde(default, skip_serializing_if = "is_default")]
    created: Created,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum BehaviorRecord {
    Release,
    Delete,
}

impl SessionRecord {
    pub(crate) fn new(session: &Session, created: Created) -> SessionRecord {
        let Session { id, name, node, checks, lock_delay, behavior, ttl, created: _, modified: _ } = session.clone();
        SessionRecord {
            id,
            name,
            node: node.as_str().to_owned(),
            checks: checks.iter().map(|check| check.as_str().to_owned()).collect(),
            lock_delay,
            behavior: match behavior {
                Behavior::Release => BehaviorRecord::Release,
                Behavior::Delete => BehaviorRecord::Delete,
            },
            ttl,
            created,
        }
    }

    pub(crate) fn into_row(self, modified: Revision) -> Session {
        let SessionRecord { id, name, node, checks, lock_delay, behavior, ttl, created } = self;
        Session {
            id,
            name,
            node: node.into(),
            checks: checks.into_iter().map(Into::into).collect(),
            lock_delay,
            behavior: match behavior {
                BehaviorRecord::Release => Behavior::Release,
                BehaviorRecord::Delete => Behavior::Delete,
            },
            ttl,
            created: created.or(modified),
            modified,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_on_the_way_to_the_disk_and_back() {
        let session = Session {
            id: "s".into(),
            name: "n".into(),
            node: "N1".into(),
            checks: vec!["serfHealth".into()],
            lock_delay: Duration::from_millis(1500),
            behavior: Behavior::Delete,
            ttl: "15s".into(),
            created: Revision(3),
            modified: Revision(9),
        };
        let bytes = serde_json::to_vec(&SessionRecord::new(&session, Created::at(Revision(3)))).unwrap();
        assert_eq!(serde_json::from_slice::<SessionRecord>(&bytes).unwrap().into_row(Revision(9)), session);
    }
}
