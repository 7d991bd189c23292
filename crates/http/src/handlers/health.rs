//! `/v1/health`: checks, and instances together with their checks.

use std::sync::Arc;

use lictor_api::Indexes;
use lictor_api::health::{Absent, Check, Entry};
use lictor_model::health::Status;
use lictor_state::answer::Answer;
use lictor_state::reader::{CheckRow, Instance, Side};

use super::catalog::{node_shape_in, service_shape};
use crate::blocking::{Cache, Found, Meta, Read, Reading};
use crate::call::parse_bool;
use crate::error::Failure;

pub(crate) const NODE: Reading = Reading { find: node, meta: Meta::Catalog, cache: Cache::Never };
pub(crate) const CHECKS: Reading = Reading { find: checks, meta: Meta::Catalog, cache: Cache::Never };
pub(crate) const STATE: Reading = Reading { find: state, meta: Meta::Catalog, cache: Cache::Never };
pub(crate) const SERVICE: Reading = Reading { find: service, meta: Meta::Catalog, cache: Cache::OnRequest };
pub(crate) const CONNECT: Reading = Reading { find: connect, meta: Meta::Catalog, cache: Cache::OnRequest };

fn node(read: &Read<'_>) -> Result<Found, Failure> {
    let name = read.call.required("Missing node name")?;
    list(read, read.reader.checks_of_node(name))
}

fn checks(read: &Read<'_>) -> Result<Found, Failure> {
    let name = read.call.required("Missing service name")?;
    list(read, read.reader.checks_of_service(name, &read.filter()))
}

fn state(read: &Read<'_>) -> Result<Found, Failure> {
    let state = read.call.required("Missing check state")?;
    let answer = read.reader.checks_in_state(Status::parse(state), &read.filter());
    match state {
        "any" | "passing" | "warning" | "critical" => list(read, answer),
        // A word nobody is in the state of.
        _ => list(read, answer.map(|_| Vec::new())),
    }
}

fn list(read: &Read<'_>, answer: Answer<Vec<Arc<CheckRow>>>) -> Result<Found, Failure> {
    read.found(answer, |checks| read.call.json(&checks.iter().map(|row| check_shape(row)).collect::<Vec<_>>()))
}

/// A check as the catalog shows it.
pub(crate) fn check_shape(row: &CheckRow) -> Check<'_> {
    let CheckRow { check, created, modified } = row;
    Check::new(check, Indexes { created: *created, modified: *modified }, Absent::Empty)
}

fn service(read: &Read<'_>) -> Result<Found, Failure> {
    instances(read, Side::Ordinary)
}

fn connect(read: &Read<'_>) -> Result<Found, Failure> {
    instances(read, Side::Connect)
}

fn instances(read: &Read<'_>, side: Side) -> Result<Found, Failure> {
    let name = read.call.required("Missing service name")?;
    let only_passing = only_passing(read)?;
    if side == Side::Connect && !read.call.caller.reads_service(name) {
        return read.hidden(|| read.call.json(&[(); 0]));
    }
    read.found(read.reader.instances(name, side, &read.filter()), |instances| {
        let wanted = instances.iter().filter(|instance| !only_passing || instance.status() == Status::Passing);
        let datacenter = &read.call.server.config.datacenter;
        read.call.json(&wanted.map(|instance| entry(datacenter, instance)).collect::<Vec<_>>())
    })
}

/// An instance as it is shown together with its node and its checks.
fn entry<'a>(datacenter: &'a str, instance: &'a Instance) -> Entry<'a> {
    let Instance { node, service, checks } = instance;
    Entry {
        node: node_shape_in(datacenter, node),
        service: service_shape(service),
        checks: checks.iter().map(|row| check_shape(row)).collect(),
    }
}

/// `?passing` alone wants it, and so does a true value.
fn only_passing(read: &Read<'_>) -> Result<bool, Failure> {
    let query = read.call.query;
    match query.get("passing") {
        "" => Ok(query.has("passing")),
        text => parse_bool(text).ok_or_else(|| Failure::invalid("Invalid value for ?passing")),
    }
}

#[cfg(test)]
mod weigh;
