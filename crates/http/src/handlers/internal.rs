//! `/v1/internal/agent`: what client agents ask of a server beyond what everyone may ask. Every right is that of the secret
//! that comes with the request; that an agent asks gives none.

use lictor_agent::served::Presented;
use lictor_api::internal as shape;
use lictor_api::time::{Span, Time};
use lictor_model::acl::Enforcement;
use lictor_state::tokens::Grant;
use serde::de::DeserializeOwned;

use crate::body::RequestBody;
use crate::call::{Answered, Call};
use crate::config::Pending;
use crate::error::Failure;
use crate::respond;

async fn read<T: DeserializeOwned>(body: RequestBody) -> Result<T, Failure> {
    let body = body.read().await?;
    serde_json::from_slice(&body).map_err(|error| Failure::invalid(format!("Request decode failed: {error}")))
}

/// What the secret of the request stands for. Whoever holds a secret may know that.
pub(crate) fn token(call: &Call<'_>) -> Answered {
    let Grant { acl, accessor, rules } = call.agent().grant(call.secret)?;
    call.json(&shape::TokenAnswer {
        enabled: acl.is_some(),
        accessor_id: accessor,
        rules: rules.into_iter().map(|rule| shape::RuleText { text: rule.text, legacy: rule.legacy }).collect(),
        default_policy: acl.map(|acl| acl.default_policy.as_str().to_owned()).unwrap_or_default(),
        enforce_version_8: acl.is_none_or(|acl| acl.enforcement == Enforcement::Full),
    })
}

/// Signs for a key that a client agent has made.
pub(crate) fn sign<'a>(call: &'a Call<'a>, body: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        let request: shape::SignRequest = read(body).await?;
        let signed = call.agent().sign(&call.caller, &request.csr).await?;
        call.json(&shape::Signed {
            serial_number: signed.serial_number,
            cert_pem: signed.cert_pem,
            service: signed.service,
            service_uri: signed.uri,
            valid_after: Time::from_seconds(signed.valid_after),
            valid_before: Time::from_seconds(signed.valid_before),
            root_id: signed.root_id,
        })
    })
}

/// A node is there.
pub(crate) fn alive<'a>(call: &'a Call<'a>, body: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        let alive: shape::Alive = read(body).await?;
        let presented = Presented {
            node: alive.node,
            id: alive.id,
            address: alive.address,
            tagged_addresses: alive.tagged_addresses,
            meta: alive.meta,
            lease: alive.lease,
            ping: alive.ping,
            wants_peers: alive.wants_peers,
        };
        let held = call.agent().hold(&call.caller, presented).await?;
        let peers = held.peers.into_iter().map(|peer| shape::Peer { node: peer.node, ping: peer.ping });
        call.json(&shape::AliveAnswer {
            lease: held.lease,
            ttl: Span(held.ttl),
            servers: held.servers,
            peers: peers.collect(),
            agents: held.agents as u64,
        })
    })
}

/// What a name means, for the DNS of a client agent.
pub(crate) fn dns<'a>(call: &'a Call<'a>, body: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        let body = body.read().await?;
        let unserved = || Failure::NotFound("this server looks up no names".into());
        let names = call.config().names.as_ref().ok_or_else(unserved)?;
        let found = names.look_up(&call.caller, call.node(), &body);
        let found = found.map_err(|why| Failure::invalid(format!("Request decode failed: {why}")))?;
        Ok(respond::bytes(found.into()))
    })
}

/// A node leaves in order.
pub(crate) fn gone<'a>(call: &'a Call<'a>, body: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        let gone: shape::Gone = read(body).await?;
        call.agent().release(&call.caller, &gone.node).await?;
        call.json(&true)
    })
}
