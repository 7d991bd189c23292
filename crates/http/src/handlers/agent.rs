//! `/v1/agent`: services registered here, their health, and maintenance.

use std::borrow::Cow;
use std::collections::BTreeMap;

use http::StatusCode;
use http::header::{ACCEPT, HeaderValue};
use lictor_agent::local::{LocalService, ManagedProxyView, ProxyConfig, ServiceHealth};
use lictor_agent::managed;
use lictor_api::agent as shape;
use lictor_api::definition;
use lictor_api::health::Check;
use lictor_api::json::{self, Layout};
use serde_json::Value;

use crate::blocking::Hashed;
use crate::body::RequestBody;
use crate::call::{Answered, Call, parse_bool};
use crate::config::Pending;
use crate::error::Failure;
use crate::respond::{self, REASON};

pub(crate) fn services(call: &Call<'_>) -> Answered {
    let services = call.agent().services(&call.caller);
    let shapes: BTreeMap<&str, _> = services.iter().map(|(id, local)| (id.as_str(), listed(local))).collect();
    call.json(&shapes)
}

fn listed(local: &LocalService) -> shape::Service<'_> {
    shape::Service::listed(&local.service, local.proxy.as_ref().map(managed))
}

fn managed(view: &ManagedProxyView) -> shape::ManagedProxy<'_> {
    let ManagedProxyView { exec_mode, command, config, upstreams, run_as, limits } = view;
    shape::ManagedProxy {
        exec_mode: (*exec_mode).into(),
        command: command.as_slice().into(),
        config: config.as_ref().filter(|config| !config.is_empty()).map(Cow::Borrowed),
        upstreams: upstreams.iter().map(shape::Upstream::from).collect(),
        run_as: run_as.as_str().into(),
        limit_open_files: limits.open_files,
        limit_memory: limits.memory,
        cpu_weight: limits.cpu_weight,
    }
}

/// One service. The service of a managed proxy is shown as the proxy shall know it.
pub(crate) fn service(call: &Call<'_>) -> Result<Hashed, Failure> {
    let id = call.argument;
    match call.agent().proxy_config(&call.caller, call.secret, id) {
        Ok(config) => return managed_service(call, &config),
        Err(lictor_agent::Error::NotFound(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let Some(local) = call.agent().service(&call.caller, id)? else {
        return Err(Failure::NotFound(format!("unknown proxy service ID: {id}")));
    };
    let unhashed = shape::Service::alone(&local.service, "");
    let text = json::to_vec(&unhashed, Layout::Compact).map_err(Failure::Encode)?;
    let hash = format!("{:x}", fnv1a(&text));
    let response = call.json(&shape::Service { content_hash: hash.as_str().into(), ..unhashed })?;
    Ok(Hashed { hash, response })
}

/// FNV-1a, 64 bits: stable over restarts, which the standard library's hashes need not be. Clients only compare it.
fn fnv1a(text: &[u8]) -> u64 {
    text.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn managed_service(call: &Call<'_>, proxy: &ProxyConfig) -> Result<Hashed, Failure> {
    let ProxyConfig {
        proxy_service_id,
        target_service_id,
        target_service_name,
        content_hash,
        exec_mode: _, // How the proxy runs is not part of what it is.
        command: _,
        config,
        upstreams,
    } = proxy;
    let port = config.get("bind_port").and_then(Value::as_f64);
    let port = port.ok_or_else(|| Failure::refused("invalid proxy config"))?;
    // Without a port the proxy has no application, which keeps it from nothing but taking connections.
    let application = config.get("local_service_address").and_then(managed::local_service);
    let (local_address, local_port) = application.unwrap_or_default();
    let shape = shape::Service {
        kind: "connect-proxy".into(),
        id: proxy_service_id.as_str().into(),
        name: format!("{target_service_name}-proxy").into(),
        #[expect(
            clippy::cast_possible_truncation,
            reason = "casts of floats saturate, and a port that large fails later"
        )]
        port: port as i64,
        address: config.get("bind_address").and_then(Value::as_str).unwrap_or_default().into(),
        content_hash: content_hash.into(),
        proxy: Some(shape::Proxy {
            destination_service_name: target_service_name.into(),
            destination_service_id: target_service_id.as_str().into(),
            local_service_address: local_address.into(),
            local_service_port: local_port,
            config: Some(Cow::Borrowed(config)),
            upstreams: upstreams.iter().map(shape::Upstream::from).collect(),
        }),
        ..shape::Service::default()
    };
    Ok(Hashed { hash: content_hash.clone(), response: call.json(&shape)? })
}

pub(crate) fn register<'a>(call: &'a Call<'a>, body: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        let definition = definition::service_from_http(&body.read().await?).map_err(Failure::invalid)?;
        call.agent().register_service(&call.caller, call.secret, definition).await?;
        call.done()
    })
}

pub(crate) fn deregister<'a>(call: &'a Call<'a>, _: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        call.agent().deregister_service(&call.caller, call.argument).await?;
        call.done()
    })
}

pub(crate) fn service_maintenance<'a>(call: &'a Call<'a>, _: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        let id = call.required("Missing service ID")?;
        let (enable, reason) = maintenance_wanted(call)?;
        call.agent().service_maintenance(&call.caller, id, enable, reason, call.secret).await?;
        call.done()
    })
}

pub(crate) fn maintenance<'a>(call: &'a Call<'a>, _: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        let (enable, reason) = maintenance_wanted(call)?;
        call.agent().node_maintenance(&call.caller, enable, reason, call.secret).await?;
        call.done()
    })
}

fn maintenance_wanted<'a>(call: &'a Call<'_>) -> Result<(bool, &'a str), Failure> {
    let text = match call.query.get("enable") {
        "" => return Err(Failure::invalid("Missing value for enable")),
        text => text,
    };
    let enable = parse_bool(text).ok_or_else(|| Failure::invalid(format!("Invalid value for enable: {text:?}")))?;
    Ok((enable, call.query.get("reason")))
}

/// Health by id. Anyone may ask: load balancers do, and have no tokens.
pub(crate) fn health_by_id(call: &Call<'_>) -> Answered {
    let id = call.argument;
    if id.is_empty() {
        return Err(Failure::refused("Bad request: Missing serviceID"));
    }
    match call.agent().health_of_id(id) {
        Some(health) => {
            let word = health.status.as_str();
            let mut response =
                if wants_text(call) { respond::word(status(word), word) } else { call.json(&health_shape(&health))? };
            *response.status_mut() = status(word);
            response.headers_mut().insert(&REASON, HeaderValue::from_static(word));
            Ok(response)
        }
        None => {
            let reason = format!("ServiceId {id} not found");
            let mut response = if wants_text(call) {
                call.json(&reason)?
            } else {
                call.json(&shape::ServiceHealth { aggregated_status: "critical".into(), service: None, checks: None })?
            };
            *response.status_mut() = StatusCode::NOT_FOUND;
            add_reason(&mut response, reason);
            Ok(response)
        }
    }
}

/// Health of all instances of a name; the worst decides.
pub(crate) fn health_by_name(call: &Call<'_>) -> Answered {
    let name = call.argument;
    if name.is_empty() {
        return Err(Failure::refused("Bad request: Missing service Name"));
    }
    let all = call.agent().health_of_name(name);
    let Some(worst) = all.iter().map(|health| health.status).max() else {
        let reason = format!("ServiceName {name} Not Found");
        let mut response =
            if wants_text(call) { respond::word(StatusCode::NOT_FOUND, reason.clone()) } else { call.json(&[(); 0])? };
        *response.status_mut() = StatusCode::NOT_FOUND;
        add_reason(&mut response, reason);
        return Ok(response);
    };
    let word = worst.as_str();
    let mut response = if wants_text(call) {
        respond::word(status(word), word)
    } else {
        call.json(&all.iter().map(health_shape).collect::<Vec<_>>())?
    };
    *response.status_mut() = status(word);
    response.headers_mut().insert(&REASON, HeaderValue::from_static(word));
    Ok(response)
}

/// A name can have characters that a header cannot; then the body alone says it.
fn add_reason(response: &mut respond::Response, reason: String) {
    if let Ok(value) = HeaderValue::try_from(reason) {
        response.headers_mut().insert(&REASON, value);
    }
}

fn health_shape(health: &ServiceHealth) -> shape::ServiceHealth<'_> {
    shape::ServiceHealth {
        aggregated_status: health.status.as_str().into(),
        service: Some(listed(&health.service)),
        checks: Some(health.checks.iter().map(Check::in_full).collect()),
    }
}

fn wants_text(call: &Call<'_>) -> bool {
    match call.query.get("format") {
        "" => call
            .headers
            .get(ACCEPT)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|accepted| accepted.starts_with("text/plain")),
        format => format == "text",
    }
}

fn status(word: &str) -> StatusCode {
    match word {
        "passing" => StatusCode::OK,
        "warning" => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_the_known_ones() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
