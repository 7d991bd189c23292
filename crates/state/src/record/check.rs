//! A check on disk.

use std::collections::BTreeMap;
use std::time::Duration;

use lictor_model::health::{Check, CheckDefinition, Status};
use lictor_model::revision::Revision;
use serde::{Deserialize, Serialize};

use super::{Created, is_default};
use crate::reader::CheckRow;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct CheckRecord {
    node: String,
    id: String,
    #[serde(default, skip_serializing_if = "is_default")]
    name: String,
    status: StatusRecord,
    #[serde(default, skip_serializing_if = "is_default")]
    notes: String,
    #[serde(default, skip_serializing_if = "is_default")]
    output: String,
    #[serde(default, skip_serializing_if = "is_default")]
    service_id: String,
    #[serde(default, skip_serializing_if = "is_default")]
    service_name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    service_tags: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "is_default")]
    definition: DefinitionRecord,
    #[serde(default, skip_serializing_if = "is_default")]
    created: Created,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum StatusRecord {
    Passing,
    Warning,
    Critical,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct DefinitionRecord {
    #[serde(default, skip_serializing_if = "is_default")]
    http: String,
    #[serde(default, skip_serializing_if = "is_default")]
    tls_skip_verify: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    header: BTreeMap<String, Vec<String>>,
    #[serde(default, skip_serializing_if = "is_default")]
    method: String,
    #[serde(default, skip_serializing_if = "is_default")]
    tcp: String,
    #[serde(default, skip_serializing_if = "is_default")]
    interval: Duration,
    #[serde(default, skip_serializing_if = "is_default")]
    timeout: Duration,
    #[serde(default, skip_serializing_if = "is_default")]
    deregister_critical_service_after: Duration,
}

impl CheckRecord {
    pub(crate) fn new(check: &Check, created: Created) -> CheckRecord {
        let Check { node, id, name, status, notes, output, service_id, service_name, service_tags, definition } =
            check.clone();
        CheckRecord {
            node: node.as_str().to_owned(),
            id: id.as_str().to_owned(),
            name,
            status: status.into(),
            notes,
            output,
            service_id: service_id.as_str().to_owned(),
            service_name: service_name.as_str().to_owned(),
            service_tags,
            definition: definition.into(),
            created,
        }
    }

    pub(crate) fn into_row(self, modified: Revision) -> CheckRow {
        let CheckRecord {
            node,
            id,
            name,
            status,
            notes,
            output,
            service_id,
            service_name,
            service_tags,
            definition,
            created,
        } = self;
        let check = Check {
            node: node.into(),
            id: id.into(),
            name,
            status: status.into(),
            notes,
            output,
            service_id: service_id.into(),
            service_name: service_name.into(),
            service_tags,
            definition: definition.into(),
        };
        CheckRow { check, created: created.or(modified), modified }
    }
}

impl From<Status> for StatusRecord {
    fn from(status: Status) -> StatusRecord {
        match status {
            Status::Passing => StatusRecord::Passing,
            Status::Warning => StatusRecord::Warning,
            Status::Critical => StatusRecord::Critical,
        }
    }
}

impl From<StatusRecord> for Status {
    fn from(status: StatusRecord) -> Status {
        match status {
            StatusRecord::Passing => Status::Passing,
            StatusRecord::Warning => Status::Warning,
            StatusRecord::Critical => Status::Critical,
        }
    }
}

impl From<CheckDefinition> for DefinitionRecord {
    fn from(definition: CheckDefinition) -> DefinitionRecord {
        let CheckDefinition {
            http,
            tls_skip_verify,
            header,
            method,
            tcp,
            interval,
            timeout,
            deregister_critical_service_after,
        } = definition;
        DefinitionRecord {
            http,
            tls_skip_verify,
            header,
            method,
            tcp,
            interval,
            timeout,
            deregister_critical_service_after,
        }
    }
}

impl From<DefinitionRecord> for CheckDefinition {
    fn from(record: DefinitionRecord) -> CheckDefinition {
        let DefinitionRecord {
            http,
            tls_skip_verify,
            header,
            method,
            tcp,
            interval,
            timeout,
            deregister_critical_service_after,
        } = record;
        CheckDefinition {
            http,
            tls_skip_verify,
            header,
            method,
            tcp,
            interval,
            timeout,
            deregister_critical_service_after,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_on_the_way_to_the_disk_and_back() {
        let check = Check {
            node: "n1".into(),
            id: "service:Web".into(),
            name: "Service 'web' check".into(),
            status: Status::Warning,
            notes: "n".into(),
            output: "o".into(),
            service_id: "Web".into(),
            service_name: "web".into(),
            service_tags: Some(vec!["a".into()]),
            definition: CheckDefinition {
                http: "http://h".into(),
                tls_skip_verify: true,
                header: [("X".to_owned(), vec!["1".to_owned(), "2".to_owned()])].into(),
                method: "PUT".into(),
                tcp: "h:1".into(),
                interval: Duration::from_millis(1500),
                timeout: Duration::from_secs(2),
                deregister_critical_service_after: Duration::from_secs(60),
            },
        };
        let bytes = serde_json::to_vec(&CheckRecord::new(&check, Created::NOW)).unwrap();
        let row = serde_json::from_slice::<CheckRecord>(&bytes).unwrap().into_row(Revision(9));
        assert_eq!(row, CheckRow { check, created: Revision(9), modified: Revision(9) });
    }
}
