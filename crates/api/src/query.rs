//! Prepared queries: their definitions, and what executing one gives.

use std::borrow::Cow;
use std::collections::BTreeMap;

use lictor_model::query as noun;
use serde::{Deserialize, Serialize, Serializer};

use crate::catalog::{Node, NodeService};
use crate::health::{Check, Entry};
use crate::nullable;

/// A prepared query.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Query<'a> {
    /// A UUID.
    #[serde(rename = "ID")]
    pub id: Cow<'a, str>,
    /// Name, or prefix of names for a template.
    pub name: Cow<'a, str>,
    /// The session whose end is the query's end.
    pub session: Cow<'a, str>,
    /// ACL token it is executed with; `<hidden>` to callers who may not see it.
    pub token: Cow<'a, str>,
    /// How names become queries.
    #[serde(deserialize_with = "nullable")]
    pub template: Template<'a>,
    /// What it looks for.
    #[serde(deserialize_with = "nullable")]
    pub service: Target<'a>,
    /// How it is answered over DNS.
    #[serde(rename = "DNS", deserialize_with = "nullable")]
    pub dns: Dns<'a>,
    /// First written.
    pub create_index: u64,
    /// Last changed.
    pub modify_index: u64,
}

/// How names become queries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Template<'a> {
    /// Empty for a plain query, or `name_prefix_match`.
    #[serde(rename = "Type")]
    pub kind: Cow<'a, str>,
    /// What is matched against the whole name.
    pub regexp: Cow<'a, str>,
    /// Whether tags that became empty are dropped.
    pub remove_empty_tags: bool,
}

/// What a query looks for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Target<'a> {
    /// Name of the service.
    pub service: Cow<'a, str>,
    /// Where to look when there is nothing here.
    #[serde(deserialize_with = "nullable")]
    pub failover: Failover<'a>,
    /// Whether a warning counts like a critical check.
    pub only_passing: bool,
    /// Checks that do not count.
    #[serde(rename = "IgnoreCheckIDs")]
    pub ignore_check_ids: Option<Cow<'a, [String]>>,
    /// The node that answers are sorted by distance from.
    pub near: Cow<'a, str>,
    /// Tags that must be there, or with `!` must not.
    pub tags: Option<Cow<'a, [String]>>,
    /// Metadata that the node must have.
    pub node_meta: Option<Cow<'a, BTreeMap<String, String>>>,
    /// Metadata that the instance must have.
    pub service_meta: Option<Cow<'a, BTreeMap<String, String>>>,
    /// Whether mesh instances are wanted.
    pub connect: bool,
}

/// Where to look when there is nothing here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Failover<'a> {
    /// How many of the nearest datacenters.
    pub nearest_n: i64,
    /// Then these, in order.
    pub datacenters: Option<Cow<'a, [String]>>,
}

/// How a query is answered over DNS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dns<'a> {
    /// A duration with unit; empty means the usual.
    #[serde(rename = "TTL")]
    pub ttl: Cow<'a, str>,
}

impl<'a> From<&'a noun::Query> for Query<'a> {
    fn from(query: &'a noun::Query) -> Query<'a> {
        let noun::Query { id, name, session, token, template, service, dns_ttl, created, modified } = query;
        let noun::Template { kind, regexp, remove_empty_tags } = template;
        Query {
            id: id.into(),
            name: name.into(),
            session: session.into(),
            token: token.into(),
            template: Template { kind: kind.into(), regexp: regexp.into(), remove_empty_tags: *remove_empty_tags },
            service: service.into(),
            dns: Dns { ttl: dns_ttl.into() },
            create_index: created.0,
            modify_index: modified.0,
        }
    }
}

impl<'a> From<&'a noun::Question> for Target<'a> {
    fn from(question: &'a noun::Question) -> Target<'a> {
        let noun::Question {
            service,
            failover: noun::Failover { nearest, datacenters },
            only_passing,
            ignore_check_ids,
            near,
            tags,
            node_meta,
            service_meta,
            connect,
        } = question;
        let list = |list: &'a Option<Vec<String>>| list.as_deref().map(Cow::Borrowed);
        let map = |map: &'a Option<BTreeMap<String, String>>| map.as_ref().map(Cow::Borrowed);
        Target {
            service: service.into(),
            failover: Failover { nearest_n: *nearest, datacenters: list(datacenters) },
            only_passing: *only_passing,
            ignore_check_ids: list(ignore_check_ids),
            near: near.into(),
            tags: list(tags),
            node_meta: map(node_meta),
            service_meta: map(service_meta),
            connect: *connect,
        }
    }
}

/// `GET /v1/query/:query/execute`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Executed<'a> {
    /// Name of the service found.
    pub service: Cow<'a, str>,
    /// Its instances, in the order in which they should be tried.
    #[serde(serialize_with = "with_null_checks", deserialize_with = "nullable")]
    pub nodes: Vec<Entry<'a>>,
    /// How the answer is given over DNS.
    #[serde(rename = "DNS", deserialize_with = "nullable")]
    pub dns: Dns<'a>,
    /// Who answered.
    pub datacenter: Cow<'a, str>,
    /// How many other datacenters were asked.
    pub failovers: u64,
    /// How the answer was read.
    #[serde(flatten)]
    pub meta: Meta<'a>,
}

/// Writes instances with null for an empty list of checks, unlike the health endpoints.
fn with_null_checks<S: Serializer>(entries: &[Entry<'_>], serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Instance<'a> {
        node: &'a Node<'a>,
        service: &'a NodeService<'a>,
        checks: Option<&'a [Check<'a>]>,
    }
    serializer.collect_seq(entries.iter().map(|Entry { node, service, checks }| {
        let checks = (!checks.is_empty()).then_some(checks.as_slice());
        Instance { node, service, checks }
    }))
}

/// `GET /v1/query/:query/explain`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Explained<'a> {
    /// The query with its template filled in.
    pub query: Query<'a>,
    /// How the answer was read.
    #[serde(flatten)]
    pub meta: Meta<'a>,
}

/// How an answer was read, inside the answer. The index is always 0: these answers cannot be watched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Meta<'a> {
    /// Always 0.
    pub index: u64,
    /// Milliseconds since the answering server heard from the leader.
    pub last_contact: u64,
    /// Whether there is a leader.
    pub known_leader: bool,
    /// `leader`, `stale` or `consistent`.
    pub consistency_level: Cow<'a, str>,
}

impl Default for Meta<'_> {
    fn default() -> Self {
        Meta { index: 0, last_contact: 0, known_leader: true, consistency_level: "leader".into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_shows_null_for_what_nobody_filled() {
        assert_eq!(
            serde_json::to_string(&Query { id: "q".into(), ..Query::default() }).unwrap(),
            r#"{"ID":"q","Name":"","Session":"","Token":"","Template":{"Type":"","Regexp":"","RemoveEmptyTags":false},"Service":{"Service":"","Failover":{"NearestN":0,"Datacenters":null},"OnlyPassing":false,"IgnoreCheckIDs":null,"Near":"","Tags":null,"NodeMeta":null,"ServiceMeta":null,"Connect":false},"DNS":{"TTL":""},"CreateIndex":0,"ModifyIndex":0}"#
        );
    }

    #[test]
    fn an_execution_ends_with_how_it_was_read() {
        let text = serde_json::to_string(&Executed { service: "attic".into(), ..Executed::default() }).unwrap();
        assert_eq!(
            text,
            r#"{"Service":"attic","Nodes":[],"DNS":{"TTL":""},"Datacenter":"","Failovers":0,"Index":0,"LastContact":0,"KnownLeader":true,"ConsistencyLevel":"leader"}"#
        );
    }

    #[test]
    fn an_instance_without_checks_has_null() {
        let found = Executed { nodes: vec![Entry::default()], ..Executed::default() };
        let text = serde_json::to_string(&found).unwrap();
        assert!(text.contains(r#""Checks":null}],"DNS""#), "{text}");
        assert_eq!(serde_json::from_str::<Executed<'static>>(&text).unwrap(), found);
    }
}
