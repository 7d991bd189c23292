//! `/v1/acl`: tokens, policies, and the older form of both.

use std::borrow::Cow;

use http::StatusCode;
use lictor_api::acl as shape;
use lictor_api::time::Time;
use lictor_model::token::{Policy, PolicyLink, Token};
use serde::Serialize;

use crate::blocking::{self, Cache, Found, Meta, Read, Reading};
use crate::body::RequestBody;
use crate::call::{Answered, Call};
use crate::config::Pending;
use crate::decode;
use crate::error::Failure;
use crate::respond;

pub(crate) const POLICIES: Reading = Reading { find: policies, meta: Meta::Always, cache: Cache::Never };
pub(crate) const POLICY: Reading = Reading { find: policy, meta: Meta::Always, cache: Cache::Never };
pub(crate) const TOKENS: Reading = Reading { find: tokens, meta: Meta::Always, cache: Cache::Never };
pub(crate) const TOKEN: Reading = Reading { find: token, meta: Meta::Always, cache: Cache::Never };
pub(crate) const OWN_TOKEN: Reading = Reading { find: own_token, meta: Meta::Always, cache: Cache::Never };
pub(crate) const LEGACY_TOKENS: Reading = Reading { find: legacy_tokens, meta: Meta::Always, cache: Cache::Never };
pub(crate) const LEGACY_TOKEN: Reading = Reading { find: legacy_token, meta: Meta::Always, cache: Cache::Never };

/// What stands behind the accessor of a token that is to be cloned.
const CLONE: &str = "/clone";

/// An id alone.
#[derive(Serialize)]
struct Id<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
}

fn links(links: Option<&[PolicyLink]>) -> Option<Vec<shape::PolicyLink<'_>>> {
    let links = links?.iter();
    Some(links.map(|PolicyLink { id, name }| shape::PolicyLink { id: id.into(), name: name.into() }).collect())
}

fn token_shape(token: &Token) -> shape::Token<'_> {
    let Token {
        accessor,
        secret,
        description,
        policies,
        rules,
        kind: _, // Only the older form shows it.
        local,
        created_at,
        hash,
        created,
        modified,
    } = token;
    shape::Token {
        id: "".into(),
        accessor_id: accessor.into(),
        secret_id: secret.into(),
        description: description.into(),
        policies: links(policies.as_deref()),
        rules: rules.into(),
        local: *local,
        create_time: Time::from_nanos(*created_at),
        hash: hash.into(),
        create_index: created.0,
        modify_index: modified.0,
    }
}

fn token_stub(token: &Token) -> shape::TokenStub<'_> {
    let shape::Token {
        id: _,
        accessor_id,
        secret_id: _,
        description,
        policies,
        rules: _,
        local,
        create_time,
        hash,
        create_index,
        modify_index,
    } = token_shape(token);
    shape::TokenStub {
        accessor_id,
        description,
        policies,
        local,
        create_time,
        hash,
        create_index,
        modify_index,
        legacy: token.is_legacy(),
    }
}

fn legacy_shape(token: &Token) -> shape::LegacyToken<'_> {
    shape::LegacyToken {
        id: token.secret.as_str().into(),
        name: token.description.as_str().into(),
        kind: token.kind.as_str().into(),
        rules: token.rules.as_str().into(),
        create_index: token.created.0,
        modify_index: token.modified.0,
    }
}

fn policy_shape(policy: &Policy) -> shape::Policy<'_> {
    let Policy { id, name, description, rules, datacenters, hash, created, modified } = policy;
    shape::Policy {
        id: id.into(),
        name: name.into(),
        description: description.into(),
        rules: rules.into(),
        datacenters: datacenters.as_deref().filter(|named| !named.is_empty()).map(Cow::Borrowed),
        hash: hash.into(),
        create_index: created.0,
        modify_index: modified.0,
    }
}

fn policy_stub(policy: &Policy) -> shape::PolicyStub<'_> {
    let shape::Policy { id, name, description, rules: _, datacenters, hash, create_index, modify_index } =
        policy_shape(policy);
    shape::PolicyStub { id, name, description, datacenters, hash, create_index, modify_index }
}

/// What says that there is no such thing, to those who could see it.
fn not_found() -> respond::Response {
    respond::text(StatusCode::FORBIDDEN, "ACL not found")
}

fn bad(why: impl std::fmt::Display) -> Failure {
    Failure::invalid(format!("Bad request: {why}"))
}

pub(crate) fn bootstrap<'a>(call: &'a Call<'a>, _: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        let token = call.agent().bootstrap_acl().await?;
        call.json(&shape::Token { id: token.secret.as_str().into(), ..token_shape(&token) })
    })
}

/// Tokens do not come from elsewhere: there is one datacenter.
pub(crate) fn replication(call: &Call<'_>) -> Answered {
    call.json(&shape::Replication::default())
}

fn policies(read: &Read<'_>) -> Result<Found, Failure> {
    read.found(read.reader.policies()?, |policies| {
        read.call.json(&policies.iter().map(|policy| policy_stub(policy)).collect::<Vec<_>>())
    })
}

fn policy(read: &Read<'_>) -> Result<Found, Failure> {
    let id = read.call.required("Bad request: Missing policy ID")?;
    read.found(read.reader.policy(id)?, |policy| match policy {
        Some(policy) => read.call.json(&policy_shape(policy)),
        None => Ok(not_found()),
    })
}

pub(crate) fn create_policy<'a>(call: &'a Call<'a>, body: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move { write_policy(call, "", body).await })
}

pub(crate) fn update_policy<'a>(call: &'a Call<'a>, body: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        let id = call.required("Bad request: Missing policy ID")?;
        write_policy(call, id, body).await
    })
}

async fn write_policy(call: &Call<'_>, id: &str, body: RequestBody) -> Answered {
    let body = body.read().await?;
    let mut policy = decode::policy(&body).map_err(|why| bad(format_args!("Policy decoding failed: {why}")))?;
    if !policy.id.is_empty() && policy.id != id {
        return Err(bad("Policy ID in URL and payload do not match"));
    }
    id.clone_into(&mut policy.id);
    let written = if id.is_empty() {
        call.agent().create_policy(&call.caller, policy).await?
    } else {
        call.agent().update_policy(&call.caller, policy).await?
    };
    call.json(&policy_shape(&written))
}

pub(crate) fn delete_policy<'a>(call: &'a Call<'a>, _: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        let id = call.required("Bad request: Missing policy ID")?;
        call.agent().delete_policy(&call.caller, id).await?;
        call.json(&true)
    })
}

fn tokens(read: &Read<'_>) -> Result<Found, Failure> {
    let policy = Some(read.call.query.get("policy")).filter(|id| !id.is_empty());
    read.found(read.reader.tokens(policy)?, |tokens| read.call.json(&tokens.iter().map(token_stub).collect::<Vec<_>>()))
}

fn token(read: &Read<'_>) -> Result<Found, Failure> {
    let accessor = read.call.required("Bad request: Missing token ID")?;
    read.found(read.reader.token(accessor)?, |token| show(read, token.as_ref()))
}

/// The token of the request. Nobody needs a right for what they hold already.
fn own_token(read: &Read<'_>) -> Result<Found, Failure> {
    read.found(read.call.agent().own_token(read.call.secret)?, |token| show(read, token.as_ref()))
}

fn show(read: &Read<'_>, token: Option<&Token>) -> Answered {
    match token {
        Some(token) => read.call.json(&token_shape(token)),
        None => Ok(not_found()),
    }
}

pub(crate) fn create_token<'a>(call: &'a Call<'a>, body: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move { write_token(call, "", body).await })
}

pub(crate) fn update_token<'a>(call: &'a Call<'a>, body: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        let accessor = call.required("Bad request: Missing token ID")?;
        match accessor.strip_suffix(CLONE) {
            Some(accessor) => clone_token(call, accessor, body).await,
            None => write_token(call, accessor, body).await,
        }
    })
}

async fn write_token(call: &Call<'_>, accessor: &str, body: RequestBody) -> Answered {
    let body = body.read().await?;
    let mut request = decode::acl_token(&body).map_err(|why| bad(format_args!("Token decoding failed: {why}")))?;
    if !request.accessor.is_empty() && request.accessor != accessor {
        return Err(bad("Token Accessor ID in URL and payload do not match"));
    }
    accessor.clone_into(&mut request.accessor);
    let written = if accessor.is_empty() {
        call.agent().create_token(&call.caller, request).await?
    } else {
        call.agent().update_token(&call.caller, request).await?
    };
    call.json(&token_shape(&written))
}

async fn clone_token(call: &Call<'_>, accessor: &str, body: RequestBody) -> Answered {
    let body = body.read().await?;
    let request = match decode::acl_token(&body) {
        Err(why) if why == "EOF" => Default::default(),
        request => request.map_err(|why| bad(format_args!("Token decoding failed: {why}")))?,
    };
    let token = call.agent().clone_token(&call.caller, accessor, &request.description).await?;
    call.json(&token_shape(&token))
}

pub(crate) fn delete_token<'a>(call: &'a Call<'a>, _: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        let accessor = call.required("Bad request: Missing token ID")?;
        call.agent().delete_token(&call.caller, accessor).await?;
        call.json(&true)
    })
}

pub(crate) fn translate<'a>(call: &'a Call<'a>, body: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        let body = body.read().await?;
        translated(call, &String::from_utf8_lossy(&body))
    })
}

/// The rules of a token of the older form.
pub(crate) fn translate_token(call: &Call<'_>) -> Answered {
    let accessor = call.required("Bad request: Missing token ID")?;
    let found = call.agent().reader(&call.caller).token(accessor)?.value;
    let token = found.ok_or(lictor_agent::Error::UnknownToken)?;
    if !token.is_legacy() {
        return Err(Failure::refused("The specified token does not have any rules to translate"));
    }
    translated(call, &token.rules)
}

fn translated(call: &Call<'_>, older: &str) -> Answered {
    Ok(respond::text(StatusCode::OK, call.agent().translate_rules(&call.caller, older)?))
}

// --- the older form -----------------------------------------------------------------------------------------------

pub(crate) fn create_legacy<'a>(call: &'a Call<'a>, body: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move { write_legacy(call, body, false).await })
}

pub(crate) fn update_legacy<'a>(call: &'a Call<'a>, body: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move { write_legacy(call, body, true).await })
}

async fn write_legacy(call: &Call<'_>, body: RequestBody, needs_id: bool) -> Answered {
    let body = body.read().await?;
    let decoded = if body.is_empty() { decode::legacy_token(b"{}") } else { decode::legacy_token(&body) };
    let request = decoded.map_err(|why| Failure::invalid(format!("Request decode failed: {why}")))?;
    if needs_id && request.secret.is_empty() {
        return Err(Failure::invalid("ACL ID must be set"));
    }
    let id = call.agent().put_legacy_token(&call.caller, request).await?;
    call.json(&Id { id: &id })
}

pub(crate) fn destroy_legacy<'a>(call: &'a Call<'a>, _: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        let secret = call.required("Missing ACL")?;
        call.agent().delete_legacy_token(&call.caller, secret).await?;
        call.json(&true)
    })
}

pub(crate) fn clone_legacy<'a>(call: &'a Call<'a>, _: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        let secret = call.required("Missing ACL")?;
        let id = call.agent().clone_legacy_token(&call.caller, secret).await?;
        let mut response = call.json(&Id { id: &id })?;
        // The original reads the model first, and says how current that was.
        let index = call.agent().reader(&call.caller).current();
        blocking::currency(response.headers_mut(), index, blocking::Leader::Known);
        Ok(response)
    })
}

fn legacy_token(read: &Read<'_>) -> Result<Found, Failure> {
    let secret = read.call.required("Missing ACL")?;
    read.found(read.call.agent().legacy_token(secret)?, |token| {
        read.call.json(&token.iter().map(legacy_shape).collect::<Vec<_>>())
    })
}

fn legacy_tokens(read: &Read<'_>) -> Result<Found, Failure> {
    read.found(read.reader.legacy_tokens()?, |tokens| {
        read.call.json(&tokens.iter().map(legacy_shape).collect::<Vec<_>>())
    })
}
