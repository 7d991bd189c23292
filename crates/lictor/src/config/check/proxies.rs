//! What services say of their proxies and cannot mean. The original accepts all of it, so it is said and refused nowhere but
//! where the agent could not start.

use std::collections::BTreeMap;
use std::path::Path;

use lictor_model::Opaque;
use lictor_model::service::{Definition, Upstream};
use lictor_notation::duration;
use serde_json::Value;

use super::{Check, Mesh, Network};
use crate::config::Purpose;
use crate::config::keys::definitions::{FIELDS, Field, Form, Place};
use crate::config::keys::later;
use crate::config::layer::Declared;
use crate::config::report::{Origin, Problem, Stage};
use crate::users;

/// Judges what belongs to proxies.
pub(crate) fn proxies(check: &mut Check<'_>, network: &Network, mesh: &Mesh) {
    let settings = check.settings;
    let mut taken: BTreeMap<(String, i64), String> = BTreeMap::new();
    let mut without_port: Vec<&Declared<Definition>> = Vec::new();
    let mut managed: Vec<&str> = Vec::new();
    let defaults = "connect.proxy_defaults.config";
    settings_of_proxy(check, &settings.origin(defaults), defaults, &mesh.proxy_defaults.config, Place::ProxyConfig);
    for declared in &settings.services {
        let definition = &declared.value;
        let at = |field: &str| format!("{}.{field}", declared.path);
        if let Some(proxy) = &definition.managed_proxy {
            managed.push(definition.service.name.as_str());
            if definition.sidecar.is_some() {
                warn(
                    check,
                    &declared.origin,
                    &at("connect"),
                    "the service has a managed proxy and a sidecar_service beside it: two proxies stand for it, and only \
                     the first is started; remove one",
                );
            }
            let config = proxy.config.clone().unwrap_or_default();
            let own_port = config.get("bind_port").is_some_and(|port| port.as_i64() != Some(0));
            if !own_port && mesh.proxy_defaults.config.get("bind_port").is_none() {
                without_port.push(declared);
            }
            let defaults = &mesh.proxy_defaults.config;
            if let Some(text) = lictor_agent::doubts::of_own_port(network.bind, defaults, &definition.service, proxy) {
                check.warn(format!("config: {}: {}: {text}", declared.origin, declared.path));
            }
            let command = if proxy.command.is_empty() { &mesh.proxy_defaults.daemon_command } else { &proxy.command };
            if command.is_empty() {
                settings_of_proxy(check, &declared.origin, &at("connect.proxy.config"), &config, Place::ProxyConfig);
            }
            upstreams(check, declared, &at("connect.proxy"), &proxy.upstreams, &mut taken);
        }
        let own = Some((definition, String::new()));
        let sidecar = definition.sidecar.as_deref().map(|sidecar| (sidecar, "connect.sidecar_service.".to_owned()));
        for (definition, inside) in own.into_iter().chain(sidecar) {
            let Some(proxy) = &definition.service.proxy else { continue };
            let path = at(&format!("{inside}proxy"));
            let config = proxy.config.clone().unwrap_or_default();
            settings_of_proxy(check, &declared.origin, &format!("{path}.config"), &config, Place::ProxyConfig);
            upstreams(check, declared, &path, &proxy.upstreams, &mut taken);
        }
    }
    if !managed.is_empty() && !mesh.enabled {
        check.warn(format!(
            "config: connect.enabled is off, so there is no CA, and the proxies of {} get no certificates and serve nobody: \
             set connect {{ enabled = true }}, which -dev does by itself",
            managed.join(", ")
        ));
    }
    range(check, network, &without_port);
    run_as(check, mesh);
    command_files(check, mesh);
}

fn warn(check: &mut Check<'_>, origin: &Origin, path: &str, text: &str) {
    check.warn(format!("config: {origin}: {path}: {text}"));
}

fn upstreams(
    check: &mut Check<'_>,
    declared: &Declared<Definition>,
    path: &str,
    upstreams: &[Upstream],
    taken: &mut BTreeMap<(String, i64), String>,
) {
    let origin = &declared.origin;
    for (position, upstream) in upstreams.iter().enumerate() {
        let path = format!("{path}.upstreams[{position}]");
        let port = upstream.local_bind_port;
        if upstream.destination_name.is_empty() {
            let text = "destination_name is missing, so this upstream leads nowhere; name the service";
            warn(check, origin, &path, text);
        }
        match port {
            0 => warn(
                check,
                origin,
                &path,
                "local_bind_port is missing, so the proxy does not open this upstream; add the port where the \
                 application shall find it",
            ),
            1..=65_535 => {
                let host = match upstream.local_bind_address.as_str() {
                    "" | "localhost" => "127.0.0.1".to_owned(),
                    other => other.to_owned(),
                };
                let here = format!("{path} in {origin}");
                match taken.get(&(host.clone(), port)) {
                    Some(first) => {
                        let text =
                            format!("{host}:{port} is that of {first}, too; give each upstream a port of its own");
                        warn(check, origin, &format!("{path}.local_bind_port"), &text);
                    }
                    None => drop(taken.insert((host, port), here)),
                }
            }
            other => {
                let text = format!("{other} is no port; write one from 1 to 65535");
                warn(check, origin, &format!("{path}.local_bind_port"), &text);
            }
        }
        let kind = upstream.destination_type.as_str();
        if !matches!(kind, "" | "service" | "prepared_query") {
            let text = format!("{kind:?} counts as \"service\"; write \"service\" or \"prepared_query\"");
            warn(check, origin, &format!("{path}.destination_type"), &text);
        }
        let config = upstream.config.clone().unwrap_or_default();
        settings_of_proxy(check, origin, &format!("{path}.config"), &config, Place::UpstreamConfig);
    }
}

/// Judges a `config` that the built-in proxy reads: what it knows, and what looks like something that it knows.
fn settings_of_proxy(check: &mut Check<'_>, origin: &Origin, path: &str, config: &Opaque, place: Place) {
    let known = |name: &str| FIELDS.iter().find(|field| field.place == place && field.name == name);
    for (name, value) in config {
        let path = format!("{path}.{name}");
        match known(name) {
            Some(field) => {
                if let Some(text) = misfit(field, value) {
                    warn(check, origin, &path, &text);
                }
            }
            None => {
                let names = FIELDS.iter().filter(|field| field.place == place).map(|field| field.name);
                if let Some(near) = later::nearest_of(name, names) {
                    warn(check, origin, &path, &format!("the built-in proxy does not know it; did you mean {near}?"));
                }
            }
        }
    }
}

/// Why a value cannot be what its key wants; the numbers may be written as texts.
fn misfit(field: &Field, value: &Value) -> Option<String> {
    let number = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    match field.form {
        Form::Read => None,
        Form::Limit if number.is_some_and(|number| number > 0.0) => None,
        Form::Span if number.is_some_and(|number| (0.0..=86_400_000.0).contains(&number)) => None,
        Form::Limit | Form::Span => {
            let instead = match value.as_str().and_then(|text| duration::parse(text).ok()) {
                Some(span) => format!("write {}", span.as_millis()),
                None => "write a number, without quotes and unit".to_owned(),
            };
            Some(format!("{value} is no number of milliseconds, so the default stays; {instead}"))
        }
        Form::Port if number.is_some_and(|port| port.fract() == 0.0 && (0.0..=65_535.0).contains(&port)) => None,
        Form::Port => Some(format!("{value} is no port; write one from 1 to 65535, without quotes")),
        Form::HostPort => {
            let port =
                value.as_str().and_then(|text| text.rsplit_once(':')).and_then(|(_, port)| port.parse::<u16>().ok());
            port.is_none().then(|| format!("{value} has no port; write \"host:port\""))
        }
        Form::Text if value.is_string() => None,
        Form::Text => Some(format!("{value} is no text; write it in quotes")),
        Form::Flag if value.is_boolean() => None,
        Form::Flag => Some(format!("{value} is ignored; write true or false, without quotes")),
    }
}

/// Refuses more proxies than there are ports for: the agent does not start with them.
fn range(check: &mut Check<'_>, network: &Network, without_port: &[&Declared<Definition>]) {
    let room = network.proxy_ports.as_ref().map_or(0, |ports| ports.clone().count());
    let Some(first_without) = without_port.get(room) else { return };
    let (low, high) =
        network.proxy_ports.as_ref().map_or((-1, -1), |ports| (i32::from(*ports.start()), i32::from(*ports.end())));
    let name = first_without.value.service.name.as_str();
    check.report(Problem {
        stage: Stage::Start,
        origin: first_without.origin.clone(),
        key: format!("{}.connect.proxy", first_without.path),
        text: format!(
            "service {name:?}: no port provided for proxy bind_port and none  left in the allocated range [{low}, {high}]"
        ),
        remedy: format!(
            "make the range wider, ports.proxy_min_port to ports.proxy_max_port: {} proxies need a port of it; or give \
             config {{ bind_port = … }}",
            without_port.len()
        ),
        group: None,
    });
}

/// Whoever validates files may do so on another machine than the one whose users they name.
fn run_as(check: &mut Check<'_>, mesh: &Mesh) {
    if check.purpose != Purpose::Validate {
        return;
    }
    let default =
        Some(("connect.proxy_defaults.run_as", &mesh.proxy_defaults.run_as)).filter(|(_, text)| !text.is_empty());
    let allowed = mesh.allowed_users.iter().map(|text| ("connect.proxy.allowed_users", text));
    for (key, text) in default.into_iter().chain(allowed) {
        if let Err(why) = users::run_as(key, text) {
            let origin = check.settings.origin(key);
            check.warn(format!("config: {origin}: {why}; the agent does not start on a machine where that is so"));
        }
    }
}

/// Says what the lists of files let in that nobody means to, and, to whoever validates files, what is not there.
fn command_files(check: &mut Check<'_>, mesh: &Mesh) {
    let Some(files) = &mesh.proxy_defaults.command_files else { return };
    let data = check.settings.text("data_dir").to_owned();
    for listed in [&files.read, &files.write] {
        let key = listed.key.as_str();
        let origin = check.settings.origin(key);
        for path in &listed.paths {
            if !data.is_empty() && mesh.proxy_defaults.run_as.is_empty() && Path::new(&data).starts_with(path) {
                check.warn(format!(
                    "config: {origin}: {key}: {path:?} opens the agent's data directory {data:?} to custom commands that run \
                     as its user, with its keys and tokens; list other folders, or set connect.proxy_defaults.run_as"
                ));
            }
            if check.purpose == Purpose::Validate
                && let Err(error) = std::fs::metadata(path)
            {
                check.warn(format!(
                    "config: {origin}: {key}: {path:?} is not here: {error}; where it is missing when a custom command \
                     starts, it is kept from it until the next start"
                ));
            }
        }
    }
}
