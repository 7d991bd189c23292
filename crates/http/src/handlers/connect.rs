//! `/v1/connect/ca` and `/v1/agent/connect`: roots, leaves, the CA's settings, authorisation, managed proxies.

use std::borrow::Cow;

use http::header::HeaderValue;
use lictor_agent::local::ProxyConfig;
use lictor_agent::neighbor::Neighbor;
use lictor_agent::replace::Until;
use lictor_api::agent::Upstream;
use lictor_api::connect as shape;
use lictor_api::time::Time;
use lictor_model::intention::Action;
use lictor_model::name::ServiceId;
use lictor_model::revision::Revision;
use lictor_model::root::IssuedLeaf;
use lictor_task::clock;

use crate::blocking::{self, Cache, Found, Hashed, Meta, Options, Read, Reading};
use crate::body::RequestBody;
use crate::call::{Answered, Call};
use crate::caller;
use crate::config::{Mesh, Pending};
use crate::decode;
use crate::error::Failure;
use crate::respond::{CERT_EXPIRED, INDEX};

pub(crate) const ROOTS: Reading = Reading { find: roots, meta: Meta::Always, cache: Cache::Never };
pub(crate) const AGENT_ROOTS: Reading = Reading { find: roots, meta: Meta::Always, cache: Cache::Always };

fn roots(read: &Read<'_>) -> Result<Found, Failure> {
    if read.call.config().mesh == Mesh::Disabled {
        return Err(Failure::refused("Connect must be enabled in order to use this endpoint"));
    }
    read.found(read.reader.roots(), |roots| read.call.json(&shape::Roots::from(roots.as_ref())))
}

pub(crate) fn configuration(call: &Call<'_>) -> Answered {
    call.needs_our_datacenter(call.query.get("dc"))?;
    let (provider, config, created, modified) = call.agent().ca_configuration(&call.caller)?;
    call.json(&shape::CaConfiguration {
        provider: provider.into(),
        config: config.map(Cow::Owned),
        create_index: created.0,
        modify_index: modified.0,
    })
}

pub(crate) fn set_configuration<'a>(call: &'a Call<'a>, body: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        let settings = decode::ca_settings(&body.read().await?);
        let settings = settings.map_err(|e| Failure::invalid(format!("Request decode failed: {e}")))?;
        call.needs_our_datacenter(call.query.get("dc"))?;
        call.agent().set_ca_configuration(&call.caller, &settings.provider, settings.config).await?;
        call.done()
    })
}

pub(crate) fn leaf<'a>(call: &'a Call<'a>, _: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        let options = Options::parse(call)?;
        call.needs_our_datacenter(call.query.get("dc"))?;
        let (mut leaf, mut cached) = call.agent().leaf(&call.caller, call.secret, call.argument).await?;
        if options.after != Revision::ZERO
            && leaf.revision <= options.after
            && let Some(newer) = newer_leaf(call, &options).await?
        {
            (leaf, cached) = (newer, false);
        }
        leaf_response(call, &leaf, cached)
    })
}

/// The leaf after the one the client has; `None` when the time asked for is over. Without one there is no limit, as
/// clients expect.
async fn newer_leaf(
    call: &Call<'_>,
    options: &Options,
) -> Result<Option<std::sync::Arc<IssuedLeaf>>, lictor_agent::Error> {
    let over = async {
        if options.wait.is_zero() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep_until(options.deadline()).await;
    };
    let mut over = std::pin::pin!(over);
    let rights = blocking::rights(call);
    loop {
        let reader = call.agent().reader(&call.caller);
        let seen = reader.current();
        // Who asks may have lost the right while this waited, and gets no new key then.
        let caller = call.caller_now()?;
        tokio::select! {
            newer = call.agent().leaf_after(&caller, call.secret, call.argument, options.after) => {
                newer?;
                let caller = call.caller_now()?;
                return call.agent().leaf_after(&caller, call.secret, call.argument, options.after).await.map(Some);
            }
            () = reader.changed(rights, seen), if !rights.is_empty() => {}
            () = &mut over => return Ok(None),
            () = call.server.stop.requested() => return Ok(None),
        }
    }
}

fn leaf_response(call: &Call<'_>, leaf: &IssuedLeaf, cached: bool) -> Answered {
    let IssuedLeaf { serial_number, cert_pem, key_pem, service, uri, valid_after, valid_before, revision } = leaf;
    let mut response = call.json(&shape::Leaf {
        serial_number: serial_number.into(),
        cert_pem: cert_pem.into(),
        private_key_pem: key_pem.into(),
        service: service.into(),
        service_uri: uri.into(),
        valid_after: Time::from_seconds(*valid_after),
        valid_before: Time::from_seconds(*valid_before),
        create_index: revision.0,
        modify_index: revision.0,
    })?;
    let headers = response.headers_mut();
    headers.insert(&INDEX, revision.shown().into());
    blocking::cache_headers(headers, cached);
    if *valid_before < clock::unix_seconds() {
        headers.insert(&CERT_EXPIRED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

pub(crate) fn authorize<'a>(call: &'a Call<'a>, body: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        let question = decode::question(&body.read().await?)
            .map_err(|e| Failure::invalid(format!("Bad request: Request decode failed: {e}")))?;
        if let Some(rights) = call.caller.as_proxy()
            && !call.caller.is_unrestricted()
            && !caller::may_authorize(rights, &question.target)
        {
            return Err(Failure::Denied);
        }
        let (decision, cached) =
            call.agent().authorize(&call.caller, call.secret, &question.target, &question.client_cert_uri).await?;
        let authorized = decision.action == Action::Allow;
        let mut response = call.json(&shape::Authorized { authorized, reason: decision.reason.into() })?;
        blocking::cache_headers(response.headers_mut(), cached);
        Ok(response)
    })
}

/// Replaces the process of a managed proxy; an addition of ours. Answers when the new one is ready, with
/// `wait-drained` when the old one is gone.
pub(crate) fn restart<'a>(call: &'a Call<'a>, _: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        let until = if call.query.has("wait-drained") { Until::Drained } else { Until::Ready };
        let id = call.required("Must specify the ID of a managed proxy")?;
        let replaced = call.agent().replace_proxy(&call.caller, id, until).await?;
        call.json(&shape::Replaced {
            proxy_id: id.into(),
            old_pid: replaced.old_pid,
            new_pid: replaced.new_pid,
            draining: replaced.draining,
        })
    })
}

/// Which process a managed proxy is, or which managed proxy a process is; an addition of ours. Proxies of one agent
/// ask about each other.
pub(crate) fn neighbor<'a>(call: &'a Call<'a>, _: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        let (id, pid) = (call.query.get("id"), call.query.get("pid"));
        let Neighbor { proxy_id, service, pid, socket } = match (id, pid.parse()) {
            ("", Ok(pid)) => call.agent().neighbor_of_process(&call.caller, pid).await?,
            ("", Err(_)) => return Err(Failure::invalid("Must specify the id of a managed proxy or the pid of one")),
            (id, _) => call.agent().neighbor(&call.caller, &ServiceId::from(id))?,
        };
        call.json(&shape::Neighbor {
            node: call.config().node_name.as_str().into(),
            proxy_id: proxy_id.as_str().into(),
            service: service.as_str().into(),
            pid,
            socket: socket.into(),
        })
    })
}

/// What a managed proxy asks for when it starts.
pub(crate) fn proxy(call: &Call<'_>) -> Result<Hashed, Failure> {
    let config = call.agent().proxy_config(&call.caller, call.secret, call.argument).inspect_err(|error| {
        if matches!(error, lictor_agent::Error::NotFound(_)) {
            call.agent().note_no_proxy(call.argument);
        }
    })?;
    let ProxyConfig {
        proxy_service_id,
        target_service_id,
        target_service_name,
        content_hash,
        exec_mode,
        command,
        config,
        upstreams,
    } = &config;
    let response = call.json(&shape::ProxyConfig {
        proxy_service_id: proxy_service_id.as_str().into(),
        target_service_id: target_service_id.as_str().into(),
        target_service_name: target_service_name.into(),
        content_hash: content_hash.into(),
        exec_mode: (*exec_mode).into(),
        command: command.as_slice().into(),
        config: Cow::Borrowed(config),
        upstreams: upstreams.iter().map(Upstream::from).collect(),
    })?;
    Ok(Hashed { hash: content_hash.clone(), response })
}
