//! `/v1/connect/intentions`: which service may connect to which.

use http::header::HeaderValue;
use lictor_api::Created;
use lictor_api::intention as shape;
use lictor_model::acl::{Access, Resource};
use lictor_model::identity::DEFAULT_NAMESPACE;
use lictor_state::answer::Answer;
use lictor_state::reader::MatchSide;

use crate::blocking::{Cache, Found, Meta, Options, Read, Reading};
use crate::body::RequestBody;
use crate::call::{Answered, Call};
use crate::config::Pending;
use crate::decode;
use crate::error::Failure;
use crate::respond::DEFAULT_DECISION;

pub(crate) const LIST: Reading = Reading { find: list, meta: Meta::Success, cache: Cache::Never };
/// The original sends no index here, although its reads can wait; a watcher needs it, so it is sent.
pub(crate) const MATCH: Reading = Reading { find: matching, meta: Meta::Success, cache: Cache::Never };
pub(crate) const ONE: Reading = Reading { find: one, meta: Meta::Nothing, cache: Cache::Never };

/// Length of the text form of a UUID.
const UUID_LENGTH: usize = 36;

fn list(read: &Read<'_>) -> Result<Found, Failure> {
    read.found(read.reader.intentions(), |intentions| {
        read.call.json(&intentions.iter().map(|row| shape::Intention::from(row.as_ref())).collect::<Vec<_>>())
    })
}

fn one(read: &Read<'_>) -> Result<Found, Failure> {
    let id = read.call.argument;
    if id.len() != UUID_LENGTH {
        let text = "Bad request: failed intention lookup: index error: UUID must be 36 characters";
        return Err(Failure::invalid(text));
    }
    read.found(read.reader.intention(id)?, |intention| match intention {
        Some(intention) => read.call.json(&shape::Intention::from(intention.as_ref())),
        None => Err(Failure::NotFound("Intention not found".into())),
    })
}

fn matching(read: &Read<'_>) -> Result<Found, Failure> {
    let call = read.call;
    let side = match call.query.get("by") {
        "source" => MatchSide::Source,
        "destination" => MatchSide::Destination,
        "" => return Err(Failure::refused("required query parameter 'by' not set")),
        _ => return Err(Failure::refused("'by' parameter must be one of 'source' or 'destination'")),
    };
    if !call.query.has("name") {
        return Err(Failure::refused("required query parameter 'name' not set"));
    }
    let before = read.reader.current();
    let mut all = Answer { index: lictor_model::revision::Revision::ZERO, topics: Vec::new(), value: Vec::new() };
    for entry in call.query.all("name") {
        let (namespace, name) = split_name("name", entry)?;
        // What a managed proxy may ask for was decided before; it need not be able to read all of its intentions.
        let may = call.caller.as_proxy().is_some() || call.caller.may(Access::Read, Resource::Intention, name);
        if !may {
            return Err(Failure::Denied);
        }
        let Answer { index, topics, value } = read.reader.intentions_matching(side, namespace, name);
        all.index = all.index.max(index);
        all.topics.extend(topics.into_iter().filter(|topic| !all.topics.contains(topic)).collect::<Vec<_>>());
        all.value.push((entry, value));
    }
    read.found(all.not_past(before), |found| {
        let shapes = found.iter().map(|(entry, intentions)| {
            let list: Vec<_> = intentions.iter().map(|row| shape::Intention::from(row.as_ref())).collect();
            ((*entry).into(), Some(list).filter(|list| !list.is_empty()))
        });
        let mut response = call.json(&shapes.collect::<shape::Matches<'_>>())?;
        let otherwise = HeaderValue::from_static(read.reader.otherwise().action().as_str());
        response.headers_mut().insert(&DEFAULT_DECISION, otherwise);
        Ok(response)
    })
}

pub(crate) fn check<'a>(call: &'a Call<'a>, _: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        call.needs_our_datacenter(call.query.get("dc"))?;
        let answer = checked(call)?;
        if !Options::parse(call)?.is_consistent() {
            return Ok(answer);
        }
        call.agent().reader(&call.caller).catch_up().await?;
        checked(call)
    })
}

fn checked(call: &Call<'_>) -> Answered {
    let parameter = |name: &'static str| match call.query.get(name) {
        "" => Err(Failure::refused(format!("required query parameter '{name}' not set"))),
        text => Ok(text),
    };
    match call.query.get("source-type") {
        "" | "consul" => {}
        other => return Err(Failure::refused(format!("unsupported SourceType: {other:?}"))),
    }
    let (source_namespace, source) = split_name("source", parameter("source")?)?;
    let (target_namespace, target) = split_name("destination", parameter("destination")?)?;
    if !call.caller.reads_service(target) {
        return Err(Failure::Denied);
    }
    let reader = call.agent().reader(&call.caller);
    let decision = reader.decide(source_namespace, source, target_namespace, target);
    call.json(&shape::Checked { allowed: decision.is_allowed() })
}

/// `name` or `namespace/name`.
fn split_name<'a>(parameter: &str, text: &'a str) -> Result<(&'a str, &'a str), Failure> {
    match text.split_once('/') {
        None => Ok((DEFAULT_NAMESPACE, text)),
        Some((_, name)) if name.contains('/') => {
            Err(Failure::refused(format!("{parameter} {text:?} is invalid: input can contain at most one '/'")))
        }
        Some(parts) => Ok(parts),
    }
}

pub(crate) fn create<'a>(call: &'a Call<'a>, body: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        let intention = decode::intention(&body.read().await?)
            .map_err(|e| Failure::refused(format!("Failed to decode request body: {e}")))?;
        call.needs_our_datacenter(call.query.get("dc"))?;
        let id = call.agent().create_intention(&call.caller, intention).await?;
        call.json(&Created { id: id.into() })
    })
}

pub(crate) fn update<'a>(call: &'a Call<'a>, body: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        let mut intention = decode::intention(&body.read().await?)
            .map_err(|e| Failure::invalid(format!("Request decode failed: {e}")))?;
        // The path says which one is meant, whatever the body says.
        intention.id = call.argument.to_owned();
        call.needs_our_datacenter(call.query.get("dc"))?;
        call.agent().update_intention(&call.caller, intention).await?;
        call.json(&Created { id: call.argument.into() })
    })
}

pub(crate) fn delete<'a>(call: &'a Call<'a>, _: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        let id = call.argument;
        if id.len() != UUID_LENGTH {
            let text = "Intention lookup failed: failed intention lookup: index error: UUID must be 36 characters";
            return Err(Failure::refused(text));
        }
        call.needs_our_datacenter(call.query.get("dc"))?;
        call.agent().delete_intention(&call.caller, id).await?;
        call.json(&true)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_have_a_namespace() {
        assert_eq!(split_name("name", "web").unwrap(), ("default", "web"));
        assert_eq!(split_name("name", "other/web").unwrap(), ("other", "web"));
        let error = split_name("source", "a/b/c").unwrap_err();
        assert_eq!(error.text(), "source \"a/b/c\" is invalid: input can contain at most one '/'");
        assert_eq!(error.status(), 500);
    }
}
