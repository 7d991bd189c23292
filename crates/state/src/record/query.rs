//! A prepared query on disk.

use lictor_model::meta::Meta;
use lictor_model::query::{Failover, Query, Question, Template};
use lictor_model::revision::Revision;
use serde::{Deserialize, Serialize};

use super::{Created, is_default};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct QueryRecord {
    id: String,
    #[serde(default, skip_serializing_if = "is_default")]
    name: String,
    #[serde(default, skip_serializing_if = "is_default")]
    session: String,
    #[serde(default, skip_serializing_if = "is_default")]
    token: String,
    #[serde(default, skip_serializing_if = "is_default")]
    template: TemplateRecord,
    service: QuestionRecord,
    #[serde(default, skip_serializing_if = "is_default")]
    dns_ttl: String,
    #[serde(default, skip_serializing_if = "is_default")]
    created: Created,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct TemplateRecord {
    #[serde(default, skip_serializing_if = "is_default")]
    kind: String,
    #[serde(default, skip_serializing_if = "is_default")]
    regexp: String,
    #[serde(default, skip_serializing_if = "is_default")]
    remove_empty_tags: bool,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct QuestionRecord {
    service: String,
    #[serde(default, skip_serializing_if = "is_default")]
    nearest: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    datacenters: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "is_default")]
    only_passing: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ignore_check_ids: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "is_default")]
    near: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tags: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node_meta: Option<Meta>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    service_meta: Option<Meta>,
    #[serde(default, skip_serializing_if = "is_default")]
    connect: bool,
}

impl QueryRecord {
    pub(crate) fn new(query: &Query, created: Created) -> QueryRecord {
        let Query { id, name, session, token, template, service, dns_ttl, created: _, modified: _ } = query.clone();
        let Template { kind, regexp, remove_empty_tags } = template;
        let Question {
            service,
            failover: Failover { nearest, datacenters },
            only_passing,
            ignore_check_ids,
            near,
            tags,
            node_meta,
            service_meta,
            connect,
        } = service;
        QueryRecord {
            id,
            name,
            session,
            token,
            template: TemplateRecord { kind, regexp, remove_empty_tags },
            service: QuestionRecord {
                service,
                nearest,
                datacenters,
                only_passing,
                ignore_check_ids,
                near,
                tags,
                node_meta,
                service_meta,
                connect,
            },
            dns_ttl,
            created,
        }
    }

    pub(crate) fn into_row(self, modified: Revision) -> Query {
        let QueryRecord { id, name, session, token, template, service, dns_ttl, created } = self;
        let TemplateRecord { kind, regexp, remove_empty_tags } = template;
        let QuestionRecord {
            service,
            nearest,
            datacenters,
            only_passing,
            ignore_check_ids,
            near,
            tags,
            node_meta,
            service_meta,
            connect,
        } = service;
        Query {
            id,
            name,
            session,
            token,
            template: Template { kind, regexp, remove_empty_tags },
            service: Question {
                service,
                failover: Failover { nearest, datacenters },
                only_passing,
                ignore_check_ids,
                near,
                tags,
                node_meta,
                service_meta,
                connect,
            },
            dns_ttl,
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
        let texts = |text: &str| Some(vec![text.to_owned()]);
        let meta = |key: &str| Some(Meta::from([(key.to_owned(), "1".to_owned())]));
        let query = Query {
            id: "i".into(),
            name: "N".into(),
            session: "s".into(),
            token: "t".into(),
            template: Template { kind: Template::NAME_PREFIX.into(), regexp: "r".into(), remove_empty_tags: true },
            service: Question {
                service: "db".into(),
                failover: Failover { nearest: 3, datacenters: texts("dc2") },
                only_passing: true,
                ignore_check_ids: texts("x"),
                near: "_agent".into(),
                tags: Some(vec![]),
                node_meta: meta("a"),
                service_meta: meta("b"),
                connect: true,
            },
            dns_ttl: "10s".into(),
            created: Revision(3),
            modified: Revision(9),
        };
        let bytes = serde_json::to_vec(&QueryRecord::new(&query, Created::at(Revision(3)))).unwrap();
        assert_eq!(serde_json::from_slice::<QueryRecord>(&bytes).unwrap().into_row(Revision(9)), query);
    }
}
