//! `/v1/session`: what holds locks.

use std::borrow::Cow;
use std::sync::Arc;

use lictor_api::Created;
use lictor_api::session as shape;
use lictor_state::answer::Answer;
use lictor_state::session::Session;

use crate::blocking::{Cache, Found, Meta, Read, Reading};
use crate::body::RequestBody;
use crate::call::{Answered, Call};
use crate::config::Pending;
use crate::decode;
use crate::error::Failure;

pub(crate) const LIST: Reading = Reading { find: list, meta: Meta::Success, cache: Cache::Never };
pub(crate) const OF_NODE: Reading = Reading { find: of_node, meta: Meta::Success, cache: Cache::Never };
pub(crate) const ONE: Reading = Reading { find: one, meta: Meta::Success, cache: Cache::Never };

const MISSING: &str = "Missing session";

/// Length of the text form of a UUID.
const UUID_LENGTH: usize = 36;

fn list(read: &Read<'_>) -> Result<Found, Failure> {
    sessions(read, read.reader.sessions())
}

fn of_node(read: &Read<'_>) -> Result<Found, Failure> {
    sessions(read, read.reader.sessions_of_node(read.call.required("Missing node name")?))
}

fn one(read: &Read<'_>) -> Result<Found, Failure> {
    let id = read.call.required(MISSING)?;
    if id.len() != UUID_LENGTH {
        return Err(Failure::refused("failed session lookup: index error: UUID must be 36 characters"));
    }
    sessions(read, read.reader.session(id).map(Vec::from_iter))
}

fn sessions(read: &Read<'_>, answer: Answer<Vec<Arc<Session>>>) -> Result<Found, Failure> {
    read.found(answer, |rows| read.call.json(&rows.iter().map(|row| session(row)).collect::<Vec<_>>()))
}

fn session(row: &Session) -> shape::Session<'_> {
    let Session { id, name, node, checks, lock_delay, behavior, ttl, created, modified } = row;
    shape::Session {
        id: id.into(),
        name: name.into(),
        node: node.as_str().into(),
        checks: Some(Cow::Owned(checks.iter().map(ToString::to_string).collect())),
        lock_delay: u64::try_from(lock_delay.as_nanos()).unwrap_or(u64::MAX),
        behavior: behavior.as_str().into(),
        ttl: ttl.into(),
        create_index: created.0,
        modify_index: modified.0,
    }
}

pub(crate) fn create<'a>(call: &'a Call<'a>, body: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        call.needs_our_datacenter(call.query.get("dc"))?;
        let mut session = decode::session(&body.read().await?)?;
        if session.node.is_empty() {
            session.node = call.node().into();
        }
        let id = call.agent().create_session(&call.caller, session).await?;
        call.json(&Created { id: id.into() })
    })
}

pub(crate) fn destroy<'a>(call: &'a Call<'a>, _: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        call.needs_our_datacenter(call.query.get("dc"))?;
        call.agent().destroy_session(&call.caller, call.required(MISSING)?).await?;
        call.json(&true)
    })
}

pub(crate) fn renew<'a>(call: &'a Call<'a>, _: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        call.needs_our_datacenter(call.query.get("dc"))?;
        let id = call.required(MISSING)?;
        match call.agent().renew_session(&call.caller, id).await? {
            Some(row) => call.json(&[session(&row)]),
            None => Err(Failure::NotFound(format!("Session id '{id}' not found"))),
        }
    })
}
