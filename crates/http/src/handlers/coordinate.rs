//! `/v1/coordinate`: where nodes are, from which round-trip times are estimated.

use std::sync::Arc;

use lictor_api::agent::Coordinate as Point;
use lictor_api::coordinate as shape;
use lictor_model::acl::Caller;
use lictor_state::answer::Answer;
use lictor_state::coordinate::{Coordinate, NodeCoordinate};

use crate::blocking::{Cache, Found, Meta, Read, Reading};
use crate::body::RequestBody;
use crate::call::{Answered, Call};
use crate::config::Pending;
use crate::decode;
use crate::error::Failure;

pub(crate) const NODES: Reading = Reading { find: nodes, meta: Meta::Success, cache: Cache::Never };
pub(crate) const NODE: Reading = Reading { find: node, meta: Meta::Success, cache: Cache::Never };

fn nodes(read: &Read<'_>) -> Result<Found, Failure> {
    needs_coordinates(read.call)?;
    list(read, read.reader.coordinates())
}

fn node(read: &Read<'_>) -> Result<Found, Failure> {
    needs_coordinates(read.call)?;
    let name = read.call.required("Missing node name")?;
    if !read.call.caller.reads_node(name) {
        return Err(Failure::Denied);
    }
    let answer = read.reader.coordinates_of_node(name);
    if answer.value.is_empty() {
        return Err(Failure::NotFound(String::new()));
    }
    list(read, answer)
}

fn list(read: &Read<'_>, answer: Answer<Vec<Arc<NodeCoordinate>>>) -> Result<Found, Failure> {
    let query = read.call.query;
    read.found(answer, |rows| {
        let wanted = rows.iter().filter(|row| !query.has("segment") || row.segment == query.get("segment"));
        read.call.json(&wanted.map(|row| entry(row)).collect::<Vec<_>>())
    })
}

/// The servers of all datacenters: those of this one. Their names are public, as in the original.
pub(crate) fn datacenters(call: &Call<'_>) -> Answered {
    let own = needs_coordinates(call)?;
    let config = call.config();
    let agent = call.agent();
    let reader = agent.reader(&Caller::management(""));
    let others = agent.servers().into_iter().filter(|member| !config.node_name.same(&member.node));
    let mut servers: Vec<(String, Coordinate)> = others
        .filter_map(|member| {
            let place = reader.coordinates_of_node(&member.node).value.first()?.coordinate.clone();
            Some((member.node, place))
        })
        .collect();
    servers.push((config.node_name.as_str().to_owned(), own));
    servers.sort_by(|one, other| one.0.cmp(&other.0));
    let entry = |(node, place): (String, Coordinate)| shape::Entry {
        node: node.into(),
        segment: "".into(),
        coord: Some(point(&place)),
    };
    call.json(&[shape::Datacenter {
        datacenter: (&config.datacenter).into(),
        area_id: "wan".into(),
        coordinates: servers.into_iter().map(entry).collect(),
    }])
}

/// Where this node is; refuses where nobody shall know.
fn needs_coordinates(call: &Call<'_>) -> Result<Coordinate, Failure> {
    call.agent().coordinate().ok_or(Failure::CoordinatesDisabled)
}

pub(crate) fn update<'a>(call: &'a Call<'a>, body: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        needs_coordinates(call)?;
        call.needs_our_datacenter(call.query.get("dc"))?;
        let update = decode::coordinate(&body.read().await?);
        let update = update.map_err(|why| Failure::invalid(format!("Request decode failed: {why}")))?;
        call.agent().update_coordinate(&call.caller, update).await?;
        call.done()
    })
}

fn entry(row: &NodeCoordinate) -> shape::Entry<'_> {
    let NodeCoordinate { node, segment, coordinate } = row;
    shape::Entry { node: node.as_str().into(), segment: segment.into(), coord: Some(point(coordinate)) }
}

/// A coordinate as it is shown.
pub(crate) fn point(coordinate: &Coordinate) -> Point {
    let Coordinate { vec, error, adjustment, height } = coordinate;
    Point { vec: vec.clone(), error: *error, adjustment: *adjustment, height: *height }
}
