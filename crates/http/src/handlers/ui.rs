//! `/v1/internal/ui`: summaries that the web interface reads.

use std::collections::BTreeSet;

use http::StatusCode;
use lictor_api::catalog::NodeService;
use lictor_api::health::Check;
use lictor_model::health::Status;
use lictor_model::meta::Meta as Metadata;
use lictor_state::answer::Answer;
use lictor_state::reader::{Instance, NodeContents, Side};
use serde::Serialize;

use super::catalog::service_shape;
use super::health::check_shape;
use crate::blocking::{Cache, Found, Meta, Read, Reading};
use crate::error::Failure;
use crate::respond;

pub(crate) const NODES: Reading = Reading { find: nodes, meta: Meta::Success, cache: Cache::Never };
pub(crate) const NODE: Reading = Reading { find: node, meta: Meta::Success, cache: Cache::Never };
pub(crate) const SERVICES: Reading = Reading { find: services, meta: Meta::Success, cache: Cache::Never };

/// A node with everything on it.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct NodeSummary<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    node: &'a str,
    address: &'a str,
    tagged_addresses: &'a Option<std::collections::BTreeMap<String, String>>,
    meta: &'a Option<Metadata>,
    services: Vec<NodeService<'a>>,
    checks: Vec<Check<'a>>,
}

impl<'a> From<&'a NodeContents> for NodeSummary<'a> {
    fn from(contents: &'a NodeContents) -> NodeSummary<'a> {
        let NodeContents { node, services, checks } = contents;
        NodeSummary {
            id: &node.node.id,
            node: node.node.name.as_str(),
            address: &node.node.address,
            tagged_addresses: &node.node.tagged_addresses,
            meta: &node.node.meta,
            services: services.iter().map(|row| service_shape(row)).collect(),
            checks: checks.iter().map(|row| check_shape(row)).collect(),
        }
    }
}

fn nodes(read: &Read<'_>) -> Result<Found, Failure> {
    let before = read.reader.current();
    let Answer { mut index, mut topics, value } = read.reader.nodes(&read.filter());
    let mut all = Vec::with_capacity(value.len());
    for row in value {
        let contents = read.reader.node(row.node.name.as_str());
        index = index.max(contents.index);
        topics.extend(contents.topics);
        all.extend(contents.value);
    }
    read.found(Answer { index, topics, value: all }.not_past(before), |all| {
        read.call.json(&all.iter().map(NodeSummary::from).collect::<Vec<_>>())
    })
}

fn node(read: &Read<'_>) -> Result<Found, Failure> {
    let name = read.call.required("Missing node name")?;
    read.found(read.reader.node(name), |contents| match contents {
        Some(contents) => read.call.json(&NodeSummary::from(contents)),
        None => Ok(respond::empty(StatusCode::NOT_FOUND)),
    })
}

/// A service in numbers.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ServiceSummary<'a> {
    name: &'a str,
    tags: Option<BTreeSet<&'a str>>,
    nodes: BTreeSet<&'a str>,
    checks_passing: usize,
    checks_warning: usize,
    checks_critical: usize,
    external_sources: Option<BTreeSet<&'a str>>,
}

impl<'a> ServiceSummary<'a> {
    fn of(name: &'a str, instances: &'a [Instance]) -> ServiceSummary<'a> {
        let mut summary = ServiceSummary { name, ..ServiceSummary::default() };
        for Instance { node, service, checks } in instances {
            summary.nodes.insert(node.node.name.as_str());
            for tag in service.service.tags.iter().flatten() {
                summary.tags.get_or_insert_default().insert(tag);
            }
            if let Some(source) = service.service.meta.as_ref().and_then(|meta| meta.get("external-source")) {
                summary.external_sources.get_or_insert_default().insert(source);
            }
            for row in checks {
                match row.check.status {
                    Status::Passing => summary.checks_passing += 1,
                    Status::Warning => summary.checks_warning += 1,
                    Status::Critical => summary.checks_critical += 1,
                }
            }
        }
        summary
    }
}

fn services(read: &Read<'_>) -> Result<Found, Failure> {
    let before = read.reader.current();
    let Answer { mut index, mut topics, value } = read.reader.services(&read.filter());
    let mut all = Vec::with_capacity(value.len());
    for name in value.into_keys() {
        let instances = read.reader.instances(&name, Side::Ordinary, &read.filter());
        index = index.max(instances.index);
        topics.extend(instances.topics);
        all.push((name, instances.value));
    }
    read.found(Answer { index, topics, value: all }.not_past(before), |all| {
        let summaries = all.iter().map(|(name, instances)| ServiceSummary::of(name, instances));
        read.call.json(&summaries.collect::<Vec<_>>())
    })
}
