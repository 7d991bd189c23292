//! `/v1/query`: prepared queries, and what they find.
//!
//! The original's executions cannot be waited for and say 1 as their index. Here a client that passes `index`, be it 0,
//! gets the index of what it was told, and waits for something newer when it passes that. Beside it stands whether the
//! order of the instances means anything. The original ignores the parameter and never sends that header, so a client
//! can tell whether it may wait.

use std::net::IpAddr;

use http::header::HeaderValue;
use lictor_api::health::Entry;
use lictor_api::query::{self as shape, Dns, Executed, Explained};
use lictor_api::{Created, header};
use lictor_model::query::Query;
use lictor_model::revision::Revision;
use lictor_state::answer::Answer;
use lictor_state::reader::{self, Execution, Instance, Ranking};

use super::catalog::{node_shape, service_shape};
use super::health::check_shape;
use crate::blocking::{self, Cache, Found, Meta, Options, Read, Reading};
use crate::body::RequestBody;
use crate::call::{Answered, Call, Peer, parse_bool};
use crate::config::Pending;
use crate::decode;
use crate::error::Failure;
use crate::respond::RANKING;

pub(crate) const LIST: Reading = Reading { find: list, meta: Meta::Catalog, cache: Cache::Never };
const ONE: Reading = Reading { find: one, meta: Meta::Catalog, cache: Cache::Never };
const EXPLAIN: Reading = Reading { find: explain, meta: Meta::Catalog, cache: Cache::Never };

/// The index of an execution for clients that know none.
const UNWATCHED: Revision = Revision(1);

fn list(read: &Read<'_>) -> Result<Found, Failure> {
    read.found(read.reader.queries(), |queries| {
        read.call.json(&queries.iter().map(|query| shape::Query::from(query.as_ref())).collect::<Vec<_>>())
    })
}

/// One query, its execution or its explanation: a name may hold slashes, so only the end of the path tells.
pub(crate) fn get<'a>(call: &'a Call<'a>, _: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        match Asked::of(call.argument) {
            Asked::Query(_) => blocking::read(&ONE, call).await,
            Asked::Explanation(_) => blocking::read(&EXPLAIN, call).await,
            Asked::Execution(name) => execute(call, name).await,
        }
    })
}

/// What a path below `/v1/query/` asks for.
enum Asked<'a> {
    Query(&'a str),
    Execution(&'a str),
    Explanation(&'a str),
}

impl Asked<'_> {
    fn of(argument: &str) -> Asked<'_> {
        match (argument.strip_suffix("/execute"), argument.strip_suffix("/explain")) {
            (Some(name), _) => Asked::Execution(name),
            (None, Some(name)) => Asked::Explanation(name),
            (None, None) => Asked::Query(argument),
        }
    }
}

fn one(read: &Read<'_>) -> Result<Found, Failure> {
    read.found(read.reader.query(read.call.argument)?, |found| match found {
        Some(query) => read.call.json(&[shape::Query::from(query.as_ref())]),
        None => Err(not_found()),
    })
}

/// Reads the index of all queries, since any of them may be the next that the name leads to.
fn explain(read: &Read<'_>) -> Result<Found, Failure> {
    let (Asked::Explanation(name) | Asked::Execution(name) | Asked::Query(name)) = Asked::of(read.call.argument);
    let before = read.reader.current();
    let found = read.call.agent().explain_query(&read.call.caller, name)?.ok_or_else(not_found)?;
    read.found(read.reader.queries().map(|_| found).not_past(before), |query| {
        read.call.json(&Explained { query: shape::Query::from(query.as_ref()), ..Explained::default() })
    })
}

fn not_found() -> Failure {
    Failure::NotFound("Query not found".into())
}

async fn execute(call: &Call<'_>, name: &str) -> Answered {
    let options = Options::parse(call)?;
    let execution = execution(call)?;
    call.needs_our_datacenter(call.query.get("dc"))?;
    let reader = call.agent().reader(&call.caller);
    if options.is_consistent() {
        reader.catch_up().await?;
    }
    let watches = call.query.has("index");
    let deadline = options.deadline();
    let mut waits = options.after > Revision::ZERO;
    loop {
        let seen = reader.current();
        let exchanged = call.agent().token_exchanges();
        // What the caller may do can have changed while this waited.
        let caller = call.caller_now()?;
        let Answer { index, mut topics, value } = call.agent().execute_query(&caller, name, &execution)?;
        // That nothing may be seen any more is news to who has seen something, although its index is the smallest.
        let hidden = value.is_some() && index == Revision::ZERO;
        let is_known = if hidden { options.after <= UNWATCHED } else { index <= options.after };
        if waits && is_known {
            topics.extend_from_slice(blocking::rights(call));
            tokio::select! {
                () = reader.changed(&topics, seen) => {}
                () = call.agent().token_exchanged(exchanged), if caller.as_proxy().is_some() => {}
                () = tokio::time::sleep_until(deadline) => waits = false,
                () = call.server.stop.requested() => waits = false,
            }
            continue;
        }
        let (mut response, ranking) = match &value {
            Some(found) => (executed(call, &options, found)?, Some(found.order)),
            None if watches => (call.server.failed(&not_found()), None),
            None => return Err(not_found()),
        };
        blocking::mark(&mut response, call, &options, if watches { index } else { UNWATCHED });
        if watches {
            let value = HeaderValue::from_static(match ranking {
                Some(Ranking::Nearest) => header::RANKING_NEAREST,
                Some(Ranking::Random) | None => header::RANKING_RANDOM,
            });
            response.headers_mut().insert(&RANKING, value);
        }
        return Ok(response);
    }
}

/// The parameters of an execution, in the order in which mistakes are reported.
fn execution<'a>(call: &'a Call<'_>) -> Result<Execution<'a>, Failure> {
    let limit = match call.query.get("limit") {
        "" => 0,
        text => text.parse::<i64>().map_err(|error| {
            let why = match error.kind() {
                std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow => "value out of range",
                _ => "invalid syntax",
            };
            Failure::refused(format!("Bad limit: strconv.Atoi: parsing {text:?}: {why}"))
        })?,
    };
    let connect = match call.query.get("connect") {
        "" => false,
        text => parse_bool(text).ok_or_else(|| {
            let why = format!("strconv.ParseBool: parsing {text:?}: invalid syntax");
            Failure::refused(format!("Error parsing 'connect' value: {why}"))
        })?,
    };
    Ok(Execution {
        agent_node: Some(call.node()),
        // None and fewer mean all.
        limit: usize::try_from(limit).unwrap_or(0),
        connect,
        near: Some(call.query.get("near")),
        source: source(call),
    })
}

/// Where the request came from: what the first proxy in front of us says, else the peer.
fn source(call: &Call<'_>) -> Option<IpAddr> {
    let forwarded = call.headers.get("x-forwarded-for").and_then(|value| value.to_str().ok());
    let first = forwarded.and_then(|list| list.split(',').next()).and_then(|first| first.trim().parse().ok());
    first.or(match call.peer {
        Peer::Tcp(address) => Some(address.ip()),
        // Where its own client is, that agent knows.
        Peer::Unix | Peer::Agent { .. } => None,
    })
}

fn executed(call: &Call<'_>, options: &Options, found: &reader::Executed) -> Answered {
    let nodes = found.instances.iter().map(|Instance { node, service, checks }| {
        let mut entry = Entry {
            node: node_shape(call, node),
            service: service_shape(service),
            checks: checks.iter().map(|row| check_shape(row)).collect(),
        };
        // Unlike the health endpoints, executions show null for tags that are not there.
        entry.service.tags = entry.service.tags.filter(|tags| !tags.is_empty());
        for check in &mut entry.checks {
            check.service_tags = check.service_tags.take().filter(|tags| !tags.is_empty());
        }
        entry
    });
    call.json(&Executed {
        service: found.service.as_str().into(),
        nodes: nodes.collect(),
        dns: Dns { ttl: found.dns_ttl.as_str().into() },
        datacenter: found.datacenter.as_str().into(),
        failovers: found.failovers as u64,
        meta: shape::Meta { consistency_level: options.consistency_shown().into(), ..shape::Meta::default() },
    })
}

pub(crate) fn create<'a>(call: &'a Call<'a>, body: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        call.needs_our_datacenter(call.query.get("dc"))?;
        let query = read(body).await?;
        let id = call.agent().create_query(&call.caller, query).await?;
        call.json(&Created { id: id.into() })
    })
}

pub(crate) fn update<'a>(call: &'a Call<'a>, body: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        let id = own_path(call)?;
        call.needs_our_datacenter(call.query.get("dc"))?;
        let mut query = read(body).await?;
        // The path says which one is meant, whatever the body says.
        query.id = id.to_owned();
        call.agent().update_query(&call.caller, query).await?;
        call.done()
    })
}

pub(crate) fn delete<'a>(call: &'a Call<'a>, _: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        let id = own_path(call)?;
        call.needs_our_datacenter(call.query.get("dc"))?;
        call.agent().delete_query(&call.caller, id).await?;
        call.done()
    })
}

/// The id of a query itself; what is below it can only be read.
fn own_path<'a>(call: &'a Call<'_>) -> Result<&'a str, Failure> {
    match Asked::of(call.argument) {
        Asked::Query(id) => Ok(id),
        Asked::Execution(_) | Asked::Explanation(_) => Err(Failure::Method(call.method.clone(), http::Method::GET)),
    }
}

async fn read(body: RequestBody) -> Result<Query, Failure> {
    decode::query(&body.read().await?).map_err(|why| Failure::invalid(format!("Request decode failed: {why}")))
}
