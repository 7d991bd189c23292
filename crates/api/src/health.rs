//! Health: checks, and instances together with their checks.

use std::borrow::Cow;
use std::collections::BTreeMap;

use lictor_model::health;
use serde::{Deserialize, Serialize};

use crate::Indexes;
use crate::catalog::{Node, NodeService};
use crate::time::Span;
use crate::{is_zero, nullable};

/// A check and its present state. `D` is how much of its definition is shown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Check<'a, D = Definition<'a>> {
    /// Where it runs.
    pub node: Cow<'a, str>,
    /// Unique on the node.
    #[serde(rename = "CheckID")]
    pub id: Cow<'a, str>,
    /// For people.
    pub name: Cow<'a, str>,
    /// `passing`, `warning` or `critical`.
    pub status: Cow<'a, str>,
    /// For people.
    pub notes: Cow<'a, str>,
    /// What the last run said.
    pub output: Cow<'a, str>,
    /// The service it belongs to; empty for a check of the node.
    #[serde(rename = "ServiceID")]
    pub service_id: Cow<'a, str>,
    /// Name of that service.
    pub service_name: Cow<'a, str>,
    /// Tags of that service.
    pub service_tags: Option<Cow<'a, [String]>>,
    /// How to run it, for checks registered from outside.
    pub definition: D,
    /// First written; 0 for a check of this agent.
    pub create_index: u64,
    /// Last changed; 0 for a check of this agent.
    pub modify_index: u64,
}

/// Whether absent tags are shown as null or as an empty list; answers differ in this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// As they are.
    Null,
    /// Empty instead of null.
    Empty,
}

impl<'a> Check<'a> {
    /// As the catalog shows it.
    pub fn new(check: &'a health::Check, indexes: Indexes, tags: Absent) -> Check<'a> {
        Check::build(check, indexes, tags, Definition::from(&check.definition))
    }

    /// As `GET /v1/agent/checks` shows a check of this agent: without definition and indexes.
    pub fn local(check: &'a health::Check) -> Check<'a> {
        Check::build(check, Indexes::default(), Absent::Empty, Definition::default())
    }
}

impl<'a> Check<'a, FullDefinition<'a>> {
    /// As the agent's own health answers show it: with every key of a definition, and tags that may be null.
    pub fn in_full(check: &'a health::Check) -> Check<'a, FullDefinition<'a>> {
        Check::build(check, Indexes::default(), Absent::Null, FullDefinition::default())
    }
}

impl<'a, D> Check<'a, D> {
    fn build(check: &'a health::Check, indexes: Indexes, tags: Absent, shown: D) -> Check<'a, D> {
        let health::Check {
            node,
            id,
            name,
            status,
            notes,
            output,
            service_id,
            service_name,
            service_tags,
            definition: _, // The caller decides how much of it is shown.
        } = check;
        let service_tags = service_tags.as_deref().map(Cow::Borrowed);
        Check {
            node: node.as_str().into(),
            id: id.as_str().into(),
            name: name.into(),
            status: status.as_str().into(),
            notes: notes.into(),
            output: output.into(),
            service_id: service_id.as_str().into(),
            service_name: service_name.as_str().into(),
            service_tags: match tags {
                Absent::Null => service_tags,
                Absent::Empty => Some(service_tags.unwrap_or_default()),
            },
            definition: shown,
            create_index: indexes.created.0,
            modify_index: indexes.modified.0,
        }
    }
}

/// How to run a check, as the catalog keeps it; what was not said is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Definition<'a> {
    /// Time between runs.
    #[serde(skip_serializing_if = "Span::is_zero")]
    pub interval: Span,
    /// Limit of one run.
    #[serde(skip_serializing_if = "Span::is_zero")]
    pub timeout: Span,
    /// When the service goes.
    #[serde(skip_serializing_if = "Span::is_zero")]
    pub deregister_critical_service_after: Span,
    /// URL to request.
    #[serde(rename = "HTTP", skip_serializing_if = "str::is_empty")]
    pub http: Cow<'a, str>,
    /// Whether certificates are accepted unseen.
    #[serde(rename = "TLSSkipVerify", skip_serializing_if = "is_zero")]
    pub tls_skip_verify: bool,
    /// Request headers.
    #[serde(skip_serializing_if = "map_is_empty", deserialize_with = "nullable")]
    pub header: Cow<'a, BTreeMap<String, Vec<String>>>,
    /// Request method.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub method: Cow<'a, str>,
    /// `host:port` to connect to.
    #[serde(rename = "TCP", skip_serializing_if = "str::is_empty")]
    pub tcp: Cow<'a, str>,
}

fn map_is_empty(map: &BTreeMap<String, Vec<String>>) -> bool {
    map.is_empty()
}

impl<'a> From<&'a health::CheckDefinition> for Definition<'a> {
    fn from(definition: &'a health::CheckDefinition) -> Definition<'a> {
        let health::CheckDefinition {
            http,
            tls_skip_verify,
            header,
            method,
            tcp,
            interval,
            timeout,
            deregister_critical_service_after,
        } = definition;
        Definition {
            interval: Span(*interval),
            timeout: Span(*timeout),
            deregister_critical_service_after: Span(*deregister_critical_service_after),
            http: http.into(),
            tls_skip_verify: *tls_skip_verify,
            header: Cow::Borrowed(header),
            method: method.into(),
            tcp: tcp.into(),
        }
    }
}

impl From<Check<'_>> for health::Check {
    /// A status that is none of ours counts as the worst.
    fn from(shape: Check<'_>) -> health::Check {
        let Check {
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
            create_index: _,
            modify_index: _,
        } = shape;
        health::Check {
            node: (&*node).into(),
            id: (&*id).into(),
            name: name.into_owned(),
            status: health::Status::parse(&status).unwrap_or(health::Status::Critical),
            notes: notes.into_owned(),
            output: output.into_owned(),
            service_id: (&*service_id).into(),
            service_name: (&*service_name).into(),
            service_tags: service_tags.map(Cow::into_owned),
            definition: definition.into(),
        }
    }
}

impl From<Definition<'_>> for health::CheckDefinition {
    fn from(shape: Definition<'_>) -> health::CheckDefinition {
        let Definition {
            interval,
            timeout,
            deregister_critical_service_after,
            http,
            tls_skip_verify,
            header,
            method,
            tcp,
        } = shape;
        health::CheckDefinition {
            http: http.into_owned(),
            tls_skip_verify,
            header: header.into_owned(),
            method: method.into_owned(),
            tcp: tcp.into_owned(),
            interval: interval.0,
            timeout: timeout.0,
            deregister_critical_service_after: deregister_critical_service_after.0,
        }
    }
}

/// A definition with every key, as the agent's own health answers show it. The agent does not fill it for its checks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct FullDefinition<'a> {
    /// Always `0s`.
    pub interval: Span,
    /// Always `0s`.
    pub timeout: Span,
    /// Always `0s`.
    pub deregister_critical_service_after: Span,
    /// Always empty.
    #[serde(rename = "HTTP")]
    pub http: Cow<'a, str>,
    /// Always null.
    pub header: Option<Cow<'a, BTreeMap<String, Vec<String>>>>,
    /// Always empty.
    pub method: Cow<'a, str>,
    /// Always false.
    #[serde(rename = "TLSSkipVerify")]
    pub tls_skip_verify: bool,
    /// Always empty.
    #[serde(rename = "TCP")]
    pub tcp: Cow<'a, str>,
}

/// One entry of `GET /v1/health/service/:name` and `/v1/health/connect/:name`: an instance, its node, its checks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Entry<'a> {
    /// The node it runs on.
    pub node: Node<'a>,
    /// The instance; for the mesh, the proxy.
    pub service: NodeService<'a>,
    /// First the node's checks, then the instance's.
    #[serde(deserialize_with = "nullable")]
    pub checks: Vec<Check<'a>>,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lictor_model::revision::Revision;

    use super::*;
    use crate::json::{Layout, to_vec};

    fn check(shape: &impl Serialize, expected: &str) {
        assert_eq!(String::from_utf8(to_vec(shape, Layout::Compact).unwrap()).unwrap(), expected);
    }

    #[test]
    fn a_definition_shows_only_what_was_said() {
        let noun = health::Check {
            node: "ext2".into(),
            id: "http-check".into(),
            definition: health::CheckDefinition {
                http: "https://10.0.0.2".into(),
                interval: Duration::from_secs(60),
                tls_skip_verify: true,
                ..health::CheckDefinition::default()
            },
            ..health::Check::default()
        };
        let indexes = Indexes { created: Revision(3), modified: Revision(4) };
        check(
            &Check::new(&noun, indexes, Absent::Empty),
            r#"{"Node":"ext2","CheckID":"http-check","Name":"","Status":"critical","Notes":"","Output":"","ServiceID":"","ServiceName":"","ServiceTags":[],"Definition":{"Interval":"1m0s","HTTP":"https://10.0.0.2","TLSSkipVerify":true},"CreateIndex":3,"ModifyIndex":4}"#,
        );
        assert_eq!(Check::new(&noun, indexes, Absent::Null).service_tags, None);
    }

    #[test]
    fn checks_of_this_agent_are_shown_without_their_definition() {
        let noun = health::Check {
            definition: health::CheckDefinition { tcp: "h:1".into(), ..health::CheckDefinition::default() },
            ..health::Check::default()
        };
        check(
            &Check::local(&noun),
            r#"{"Node":"","CheckID":"","Name":"","Status":"critical","Notes":"","Output":"","ServiceID":"","ServiceName":"","ServiceTags":[],"Definition":{},"CreateIndex":0,"ModifyIndex":0}"#,
        );
        check(
            &Check::in_full(&noun),
            r#"{"Node":"","CheckID":"","Name":"","Status":"critical","Notes":"","Output":"","ServiceID":"","ServiceName":"","ServiceTags":null,"Definition":{"Interval":"0s","Timeout":"0s","DeregisterCriticalServiceAfter":"0s","HTTP":"","Header":null,"Method":"","TLSSkipVerify":false,"TCP":""},"CreateIndex":0,"ModifyIndex":0}"#,
        );
    }
}
