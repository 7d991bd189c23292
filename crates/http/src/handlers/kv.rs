//! `/v1/kv`: the key-value store.

use std::borrow::Cow;

use bytes::Bytes;
use http::StatusCode;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue};
use lictor_api::kv as shape;
use lictor_model::revision::Revision;
use lictor_state::answer::Answer;
use lictor_state::reader::KvRow;
use lictor_state::writer::Put;

use crate::blocking::{Cache, Found, Meta, Options, Read, Reading};
use crate::body::RequestBody;
use crate::call::{Answered, Call};
use crate::config::{KeyLists, Pending};
use crate::error::Failure;
use crate::respond::{self, Response};
use crate::sniff;

pub(crate) const KEYS: Reading = Reading { find, meta: Meta::Success, cache: Cache::Never };

/// Largest value.
pub(crate) const LARGEST_VALUE: usize = 512 * 1024;

const MISSING: &str = "Missing key name";

fn find(read: &Read<'_>) -> Result<Found, Failure> {
    let (query, key) = (read.call.query, read.call.argument);
    // What is not there is as old as the whole table. Asked for first: what is written in between is newer than that.
    let table = read.reader.kv_index();
    if query.has("keys") {
        let separator = if query.has("separator") { query.get("separator") } else { query.get("seperator") };
        may_list(read)?;
        let keys = read.reader.keys(key, separator);
        let is_missing = keys.value.is_empty() && keys.index == read.reader.kv_floor();
        let found = read.found(keys, |keys| {
            if keys.is_empty() && !key.is_empty() {
                return Ok(respond::empty(StatusCode::NOT_FOUND));
            }
            read.call.json(&keys)
        })?;
        return Ok(if is_missing { found.shown_at(table) } else { found });
    }
    if query.has("recurse") {
        may_list(read)?;
        let rows = read.reader.kv_below(key);
        // Where there was something its end counts.
        let is_missing = rows.value.is_empty() && rows.index == read.reader.kv_floor();
        let found = entries(read, rows)?;
        return Ok(if is_missing { found.shown_at(table) } else { found });
    }
    let row = read.reader.kv(read.call.required(MISSING)?)?;
    let is_missing = row.value.is_none();
    let found = if query.has("raw") {
        read.found(row, |row| Ok(row.as_deref().map_or_else(missing, raw)))?
    } else {
        entries(read, row.map(Vec::from_iter))?
    };
    Ok(if is_missing { found.shown_at(table) } else { found })
}

fn entries(read: &Read<'_>, rows: Answer<Vec<std::sync::Arc<KvRow>>>) -> Result<Found, Failure> {
    read.found(rows, |rows| {
        if rows.is_empty() {
            return Ok(missing());
        }
        // Only of a single entry the value can be sent as it is.
        match rows.as_slice() {
            [one] if read.call.query.has("raw") => Ok(raw(one)),
            _ => read.call.json(&rows.iter().map(|row| entry(row)).collect::<Vec<_>>()),
        }
    })
}

fn missing() -> Response {
    respond::empty(StatusCode::NOT_FOUND)
}

/// Where listing is a right of its own, it is demanded; else lists are filtered.
fn may_list(read: &Read<'_>) -> Result<(), Failure> {
    let call = read.call;
    match call.config().key_lists {
        KeyLists::Filtered => Ok(()),
        KeyLists::NeedRight if read.reader.may_list_keys(call.argument) => Ok(()),
        KeyLists::NeedRight => Err(Failure::Denied),
    }
}

/// A key as it is shown.
pub(crate) fn entry(row: &KvRow) -> shape::Entry<'_> {
    let KvRow { key, value, flags, lock_index, session, created, modified } = row;
    shape::Entry {
        lock_index: *lock_index,
        key: Cow::Borrowed(key),
        flags: *flags,
        value: Cow::Borrowed(value),
        session: session.as_deref().unwrap_or_default().into(),
        create_index: created.0,
        modify_index: modified.0,
    }
}

/// A value as it is. Whoever may write a key must not be able to run scripts in the browser of who looks at it: the
/// page it would be lives in a sandbox.
fn raw(row: &KvRow) -> Response {
    let mut response = respond::bytes(row.value.clone());
    let headers = response.headers_mut();
    if let Some(kind) = sniff::content_type(&row.value) {
        headers.insert(CONTENT_TYPE, kind);
    }
    for (name, value) in [("x-content-type-options", "nosniff"), ("content-security-policy", "sandbox")] {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}

pub(crate) fn put<'a>(call: &'a Call<'a>, body: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        Options::parse(call)?;
        call.needs_our_datacenter(call.query.get("dc"))?;
        let key = call.required(MISSING)?;
        refuse_conflicts(call, &["cas", "acquire", "release"])?;
        let flags = if call.query.has("flags") { number(call.query.get("flags"))? } else { 0 };
        let how = how(call)?;
        let value = match body.read_at_most(LARGEST_VALUE as u64).await {
            Ok(value) => value,
            Err(Failure::TooLarge(_)) => return Ok(too_large()),
            Err(failure) => return Err(failure),
        };
        let done = call.agent().put_key(&call.caller, key, value.bytes(), flags, how).await?;
        call.json(&done)
    })
}

fn how(call: &Call<'_>) -> Result<Put, Failure> {
    let query = call.query;
    Ok(if query.has("cas") {
        Put::Cas(Revision(number(query.get("cas"))?))
    } else if query.has("acquire") {
        Put::Acquire(query.get("acquire").to_owned())
    } else if query.has("release") {
        Put::Release(query.get("release").to_owned())
    } else {
        Put::Set
    })
}

fn too_large() -> Response {
    let text = Bytes::from(format!("Value exceeds {LARGEST_VALUE} byte limit"));
    let mut response = respond::text(StatusCode::PAYLOAD_TOO_LARGE, text);
    // The rest of the value is not read.
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

pub(crate) fn delete<'a>(call: &'a Call<'a>, _: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        Options::parse(call)?;
        call.needs_our_datacenter(call.query.get("dc"))?;
        refuse_conflicts(call, &["recurse", "cas"])?;
        let (agent, caller, query) = (call.agent(), &call.caller, call.query);
        if query.has("recurse") {
            agent.delete_keys_below(caller, call.argument).await?;
            return call.json(&true);
        }
        let key = call.required(MISSING)?;
        let only_at = if query.has("cas") { Some(Revision(number(query.get("cas"))?)) } else { None };
        call.json(&agent.delete_key(caller, key, only_at).await?)
    })
}

/// Two of these together make no sense.
fn refuse_conflicts(call: &Call<'_>, names: &[&str]) -> Result<(), Failure> {
    if names.iter().filter(|name| call.query.has(name)).count() < 2 {
        return Ok(());
    }
    Err(Failure::invalid(format!("Conflicting flags: {}", call.query.shown())))
}

/// A number in a parameter; the text of a mistake is the one clients know.
pub(crate) fn number(text: &str) -> Result<u64, Failure> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(number) if digits => Ok(number),
        Err(_) if digits => Err(Failure::refused(format!("strconv.ParseUint: parsing {text:?}: value out of range"))),
        _ => Err(Failure::refused(format!("strconv.ParseUint: parsing {text:?}: invalid syntax"))),
    }
}
