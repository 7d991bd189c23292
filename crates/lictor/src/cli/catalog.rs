//! `lictor catalog`: lists what is registered in the cluster.

use std::borrow::Cow;
use std::collections::BTreeMap;

use anyhow::{Context, bail};
use lictor_api::catalog::{Node, NodeServices, ServiceNode, Services};
use lictor_api::client::Request;

use super::client::Agent;
use super::command::{Command, Outcome, done};
use super::output::{self, FORMAT, Format, columns, row};
use super::print;
use crate::config::flags::{Flag, Parsed};

const NODE_META: Flag =
    Flag::text("node-meta", "Only nodes with this pair of metadata, key=value; may be given several times");

/// The commands.
pub(crate) const COMMANDS: &[Command] = &[
    Command::new("catalog datacenters", "Lists the known datacenters", datacenters).flags(&[FORMAT]).asks_agent(),
    Command::new("catalog nodes", "Lists the nodes of a datacenter", nodes)
        .flags(&[
            Flag::bool("detailed", "Show whole ids, tagged addresses and metadata"),
            FORMAT,
            Flag::text("near", "Nearest first, seen from this node; _agent is the agent's own"),
            NODE_META,
            Flag::text("service", "Only nodes with an instance of this service"),
        ])
        .asks_agent(),
    Command::new("catalog services", "Lists the services of a datacenter", services)
        .flags(&[
            FORMAT,
            Flag::text("node", "Only services of this node, by name or id"),
            NODE_META,
            Flag::bool("tags", "Show the tags of each service"),
        ])
        .asks_agent(),
];

fn no_operands(flags: &Parsed) -> anyhow::Result<()> {
    match flags.operands.len() {
        0 => Ok(()),
        count => bail!("Too many arguments (expected 0, got {count})"),
    }
}

fn with_node_meta(mut request: Request, flags: &Parsed) -> Request {
    for pair in flags.texts("node-meta") {
        // The API separates key and value by a colon, the command line by an equals sign.
        let pair = pair.split_once('=').map_or_else(|| pair.to_owned(), |(key, value)| format!("{key}:{value}"));
        request = request.query("node-meta", &pair);
    }
    request
}

fn datacenters(flags: &Parsed) -> Outcome {
    no_operands(flags)?;
    let format = Format::of(flags)?;
    let names: Vec<String> =
        Agent::reach(flags)?.read(Request::get("/v1/catalog/datacenters")).context("Error listing datacenters")?;
    match format {
        Format::Json => print(&output::json(&names)?),
        Format::Pretty => print(&names.join("\n")),
    }
    done()
}

fn nodes(flags: &Parsed) -> Outcome {
    no_operands(flags)?;
    let format = Format::of(flags)?;
    let agent = Agent::reach(flags)?;
    let with_near = |request: Request| match flags.text("near") {
        Some(near) if !near.is_empty() => request.query("near", near),
        _ => request,
    };
    let nodes: Vec<Node<'static>> = match flags.text("service").filter(|service| !service.is_empty()) {
        None => agent.read(with_near(with_node_meta(Request::get("/v1/catalog/nodes"), flags))),
        Some(service) => {
            let request = with_near(with_node_meta(Request::get("/v1/catalog/service/").segment(service), flags));
            agent.read(request).map(nodes_of)
        }
    }
    .context("Error listing nodes")?;
    if format == Format::Json {
        print(&output::json(&nodes)?);
        return done();
    }
    if nodes.is_empty() {
        print("No nodes match the given query - try expanding your search.");
        return done();
    }
    let mut rows = Vec::new();
    if flags.is_set("detailed") {
        rows.push(row(["Node", "ID", "Address", "DC", "TaggedAddresses", "Meta"]));
        for node in &nodes {
            let (addresses, meta) = (pairs(node.tagged_addresses.as_deref()), pairs(node.meta.as_deref()));
            rows.push(row([&node.name, &node.id, &node.address, &node.datacenter, &addresses, &meta]));
        }
    } else {
        rows.push(row(["Node", "ID", "Address", "DC"]));
        for node in &nodes {
            rows.push(row([&node.name, node.id.get(..8).unwrap_or(&node.id), &node.address, &node.datacenter]));
        }
    }
    print(&columns(&rows));
    done()
}

/// The nodes of a service's instances, each once, in the order of the answer.
fn nodes_of(instances: Vec<ServiceNode<'static>>) -> Vec<Node<'static>> {
    let mut nodes: Vec<Node<'static>> = Vec::new();
    for instance in instances {
        if nodes.iter().all(|node| node.name != instance.node) {
            nodes.push(Node {
                id: instance.node_id,
                name: instance.node,
                address: instance.address,
                datacenter: instance.datacenter,
                tagged_addresses: instance.tagged_addresses,
                meta: instance.node_meta,
                create_index: instance.create_index,
                modify_index: instance.modify_index,
            });
        }
    }
    nodes
}

/// `k=v, k=v`, sorted.
fn pairs<'a>(map: Option<impl IntoIterator<Item = (&'a String, &'a String)>>) -> String {
    let sorted: BTreeMap<&String, &String> = map.into_iter().flatten().collect();
    sorted.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(", ")
}

fn services(flags: &Parsed) -> Outcome {
    no_operands(flags)?;
    let format = Format::of(flags)?;
    let agent = Agent::reach(flags)?;
    let services: Services<'static> = match flags.text("node").filter(|node| !node.is_empty()) {
        None => agent.read(with_node_meta(Request::get("/v1/catalog/services"), flags)),
        Some(node) => {
            let request = with_node_meta(Request::get("/v1/catalog/node/").segment(node), flags);
            agent.read::<Option<NodeServices<'static>>>(request).map(services_of)
        }
    }
    .context("Error listing services")?;
    if format == Format::Json {
        print(&output::json(&services)?);
        return done();
    }
    if services.is_empty() {
        print("No services match the given query - try expanding your search.");
        return done();
    }
    let rows: Vec<Vec<String>> = services
        .iter()
        .map(|(name, tags)| {
            let mut cells = vec![name.to_string()];
            if flags.is_set("tags") {
                let mut tags = tags.clone();
                tags.sort();
                cells.push(tags.join(","));
            }
            cells
        })
        .collect();
    print(&columns(&rows));
    done()
}

/// The services of a node by name, with the tags of all their instances.
fn services_of(node: Option<NodeServices<'static>>) -> Services<'static> {
    let mut services = Services::new();
    for service in node.map(|node| node.services).unwrap_or_default().into_values() {
        let tags: &mut Vec<Cow<'static, str>> = services.entry(service.name).or_default();
        for tag in service.tags.as_deref().unwrap_or_default() {
            if !tags.iter().any(|known| known == tag) {
                tags.push(tag.clone().into());
            }
        }
    }
    services
}
