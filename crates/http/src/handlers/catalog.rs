//! `/v1/catalog`: all nodes and services of the datacenter.

use std::collections::BTreeMap;

use lictor_api::Indexes;
use lictor_api::catalog::{Node, NodeService, NodeServices, ServiceNode};
use lictor_api::health::Absent;
use lictor_state::reader::{Instance, NodeRow, ServiceRow, Side};
use lictor_state::writer::Removal;

use crate::blocking::{Cache, Found, Meta, Read, Reading};
use crate::body::RequestBody;
use crate::call::{Answered, Call};
use crate::config::Pending;
use crate::decode;
use crate::error::Failure;

pub(crate) const NODES: Reading = Reading { find: nodes, meta: Meta::Catalog, cache: Cache::Never };
pub(crate) const SERVICES: Reading = Reading { find: services, meta: Meta::Catalog, cache: Cache::Never };
pub(crate) const SERVICE: Reading = Reading { find: service, meta: Meta::Catalog, cache: Cache::OnRequest };
pub(crate) const CONNECT: Reading = Reading { find: connect, meta: Meta::Catalog, cache: Cache::OnRequest };
pub(crate) const NODE: Reading = Reading { find: node, meta: Meta::Catalog, cache: Cache::Never };

pub(crate) fn datacenters(call: &Call<'_>) -> Answered {
    call.json(&[&call.config().datacenter])
}

fn nodes(read: &Read<'_>) -> Result<Found, Failure> {
    read.found(read.reader.nodes(&read.filter()), |nodes| {
        read.call.json(&nodes.iter().map(|row| node_shape(read.call, row)).collect::<Vec<_>>())
    })
}

fn services(read: &Read<'_>) -> Result<Found, Failure> {
    read.found(read.reader.services(&read.filter()), |services| read.call.json(services))
}

fn service(read: &Read<'_>) -> Result<Found, Failure> {
    instances(read, Side::Ordinary)
}

fn connect(read: &Read<'_>) -> Result<Found, Failure> {
    instances(read, Side::Connect)
}

fn instances(read: &Read<'_>, side: Side) -> Result<Found, Failure> {
    let name = read.call.required("Missing service name")?;
    if side == Side::Connect && !read.call.caller.reads_service(name) {
        return read.hidden(|| read.call.json(&[(); 0]));
    }
    let datacenter = &read.call.config().datacenter;
    read.found(read.reader.instances(name, side, &read.filter()), |instances| {
        let shapes = instances.iter().map(|Instance { node, service, checks: _ }| {
            ServiceNode::new(&node.node, datacenter, &service.service, indexes_of_service(service))
        });
        read.call.json(&shapes.collect::<Vec<_>>())
    })
}

fn node(read: &Read<'_>) -> Result<Found, Failure> {
    let name = read.call.required("Missing node name")?;
    read.found(read.reader.node_services(name), |contents| {
        let shape = contents.as_ref().map(|contents| NodeServices {
            node: node_shape(read.call, &contents.node),
            services: BTreeMap::from_iter(
                contents.services.iter().map(|row| (row.service.id.as_str().into(), service_shape(row))),
            ),
        });
        read.call.json(&shape)
    })
}

/// A node as lists show it.
pub(crate) fn node_shape<'a>(call: &Call<'a>, row: &'a NodeRow) -> Node<'a> {
    node_shape_in(&call.server.config.datacenter, row)
}

/// The same in a datacenter of this name.
pub(crate) fn node_shape_in<'a>(datacenter: &'a str, row: &'a NodeRow) -> Node<'a> {
    let NodeRow { node, created, modified } = row;
    Node::new(node, datacenter, Indexes { created: *created, modified: *modified })
}

/// An instance as it is shown beside its node.
pub(crate) fn service_shape(row: &ServiceRow) -> NodeService<'_> {
    NodeService::new(&row.service, indexes_of_service(row), Absent::Empty)
}

fn indexes_of_service(row: &ServiceRow) -> Indexes {
    let ServiceRow { service: _, created, modified } = row;
    Indexes { created: *created, modified: *modified }
}

pub(crate) fn register<'a>(call: &'a Call<'a>, body: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        let entry = decode::catalog_entry(&body.read().await?).map_err(undecodable)?;
        call.needs_our_datacenter(&entry.datacenter)?;
        call.agent().catalog_register(&call.caller, entry.registration).await?;
        call.json(&true)
    })
}

pub(crate) fn deregister<'a>(call: &'a Call<'a>, body: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        let decode::CatalogRemoval { datacenter, node, service_id, check_id } =
            decode::catalog_removal(&body.read().await?).map_err(undecodable)?;
        call.needs_our_datacenter(&datacenter)?;
        if node.is_empty() {
            return Err(Failure::refused("Must provide node"));
        }
        let removal = match (service_id.as_str(), check_id.as_str()) {
            ("", "") => Removal::Node,
            ("", check) => Removal::Check(check.into()),
            (service, _) => Removal::Service(service.into()),
        };
        call.agent().catalog_deregister(&call.caller, &node, removal).await?;
        call.json(&true)
    })
}

fn undecodable(error: String) -> Failure {
    Failure::invalid(format!("Request decode failed: {error}"))
}
