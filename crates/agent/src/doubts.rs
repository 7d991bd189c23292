//! What of a managed proxy's definition is accepted, because the original accepts it, and can never work.
//!
//! Refusing it would take away the service and the parts that do work. So each part is named, with its key, in the log and
//! in the output of the proxy's check, and only that part is left out.

use std::net::IpAddr;

use crate::Config;
use crate::managed::{self, ExecMode};
use crate::program;
use lictor_model::Opaque;
use lictor_model::service::{ManagedProxy, Service};

/// The doubts, each with its key.
pub fn of(config: &Config, parent: &Service, definition: &ManagedProxy) -> Vec<String> {
    let mut doubts = Vec::new();
    if !may_be_certified(parent.name.as_str()) {
        doubts.push(format!(
            "connect.proxy: no certificate can hold the service name {:?}, so the proxy gets none and serves nobody: leave \
             slashes and control characters out of it",
            parent.name.as_str()
        ));
    }
    if parent.native {
        doubts.push("connect.proxy beside connect.native: the application speaks mutual TLS itself".to_owned());
    }
    let default_mode = config.connect.default_exec_mode.as_str();
    if ExecMode::resolve(&definition.exec_mode, default_mode) == Ok(ExecMode::Script) {
        let key = if definition.exec_mode.is_empty() {
            "connect.proxy_defaults.exec_mode"
        } else {
            "connect.proxy.exec_mode"
        };
        doubts.push(format!("{key} = \"script\" is accepted and never runs anything"));
    }
    doubts.extend(of_application(config, parent, definition));
    let own_port = definition.config.as_ref().is_some_and(|own| own.contains_key("bind_port"));
    let default_port = config.connect.default_config.get("bind_port").filter(|_| !own_port);
    if let Some(value) = default_port.filter(|value| managed::integer(value).is_none()) {
        doubts.push(format!(
            "connect.proxy_defaults.config.bind_port = {value} is no number and is left out: the proxy listens on a port of \
             the range"
        ));
    }
    doubts.extend(of_own_port(config.bind_addr, &config.connect.default_config, parent, definition));
    doubts.extend(of_upstreams(definition));
    doubts
}

/// Whether the proxy is to listen where its application does: only one of them can.
pub fn of_own_port(
    bind_addr: IpAddr,
    defaults: &Opaque,
    parent: &Service,
    definition: &ManagedProxy,
) -> Option<String> {
    let places = [("connect.proxy", definition.config.as_ref()), ("connect.proxy_defaults", Some(defaults))];
    let given = |key: &str| places.iter().find_map(|(place, map)| Some((*place, (*map)?.get(key)?)));
    let (place, port) = given("bind_port")?;
    let port = managed::integer(port).filter(|port| *port > 0)?;
    let (app_host, app_port) = match given("local_service_address") {
        Some((_, value)) => managed::local_service(value)?,
        None => ("127.0.0.1", parent.port),
    };
    let bind_host = match given("bind_address") {
        Some((_, value)) => value.as_str()?.to_owned(),
        None => bind_addr.to_string(),
    };
    let address =
        |host: &str| if host == "localhost" { Some([127, 0, 0, 1].into()) } else { host.parse::<IpAddr>().ok() };
    let (bind, app) = (address(&bind_host)?, address(app_host)?);
    // Of another address it is not known whether the application listens there, too.
    (port == app_port && (bind.is_unspecified() || bind == app)).then(|| {
        format!(
            "{place}.config.bind_port = {port} is the port of the application ({app_host}:{app_port}): only one of the two can \
             listen there; leave bind_port out, or give it another port"
        )
    })
}

/// Whether a certificate can be asked for by this name and hold it: it is one part of a path.
pub(crate) fn may_be_certified(name: &str) -> bool {
    !(name.contains('/') || matches!(name, "." | "..") || name.contains(char::is_control))
}

/// Whether there is an application to send inbound connections to.
fn of_application(config: &Config, parent: &Service, definition: &ManagedProxy) -> Option<String> {
    let lost = "so inbound connections lead nowhere; upstreams work";
    let places = [
        ("connect.proxy", definition.config.as_ref()),
        ("connect.proxy_defaults", Some(&config.connect.default_config)),
    ];
    let given = places.iter().find_map(|(place, map)| Some((place, (*map)?.get("local_service_address")?)));
    match given {
        Some((place, value)) => {
            let usable = managed::local_service(value).is_some_and(|(_, port)| (1..=65_535).contains(&port));
            (!usable).then(|| format!("{place}.config.local_service_address = {value} is no \"host:port\", {lost}"))
        }
        None if parent.port == 0 => Some(format!(
            "connect.proxy without a port: the proxy has no application, {lost} \
             (port of the service, or connect.proxy.config.local_service_address)"
        )),
        None => None,
    }
}

fn of_upstreams(definition: &ManagedProxy) -> Vec<String> {
    let mut doubts = Vec::new();
    let (legacy, upstreams) = managed::numbered_upstreams(definition);
    let place = if legacy { "connect.proxy.config.upstreams" } else { "connect.proxy.upstreams" };
    for (number, upstream) in upstreams.into_iter().enumerate() {
        let mut doubt = |text: &str| doubts.push(format!("{place}[{number}] {text}"));
        let Some(upstream) = upstream else {
            doubt("cannot be read and is skipped");
            continue;
        };
        if upstream.destination_name.is_empty() {
            doubt("has no destination_name and is skipped");
        }
        match upstream.local_bind_port {
            1..=65_535 => {}
            0 => doubt("has no local_bind_port and is skipped"),
            port => doubt(&format!("has local_bind_port = {port}, which is no port, and is skipped")),
        }
        if !matches!(upstream.destination_type.as_str(), "" | "service" | "prepared_query") {
            doubt(&format!(
                "has destination_type = {:?}, which is neither \"service\" nor \"prepared_query\": it is taken for a service",
                upstream.destination_type
            ));
        }
    }
    doubts
}

/// Whether the program of a proxy is missing now.
pub fn of_program(config: &Config, definition: &ManagedProxy) -> Option<String> {
    let view = managed::view(config, definition).ok()?;
    let name = view.command.first()?;
    if view.exec_mode == ExecMode::Script.as_str() || program::find(name).is_some() {
        return None;
    }
    let key =
        if definition.command.is_empty() { "connect.proxy_defaults.daemon_command" } else { "connect.proxy.command" };
    let searched = if name.contains('/') { "" } else { " in PATH" };
    Some(format!("{key}: there is no program {:?}{searched}; it is tried again and again", name))
}

#[cfg(test)]
mod tests {
    use lictor_model::service::Upstream;
    use serde_json::{Value, json};

    use super::*;

    fn definition(config: &Value) -> ManagedProxy {
        ManagedProxy { config: config.as_object().cloned(), ..ManagedProxy::default() }
    }

    #[test]
    fn a_name_is_certified_when_it_is_one_part_of_a_path() {
        let certified = ["web", "wéb ünï", "q\"q", "a.b", "...", "日本"];
        assert!(certified.into_iter().all(may_be_certified));
        assert!(!["a/b", "/", ".", "..", "new\nline", "\u{1b}[31m"].into_iter().any(may_be_certified));
    }

    #[test]
    fn a_proxy_that_would_take_the_port_of_its_application_is_named() {
        let parent = |port| Service { id: "web".into(), name: "web".into(), port, ..Service::default() };
        let doubted = |bind_addr: &str, port: i64, own: Value| {
            of_own_port(bind_addr.parse().unwrap(), &Opaque::new(), &parent(port), &definition(&own)).is_some()
        };
        assert!(doubted("127.0.0.1", 80, json!({"bind_port": 80})));
        assert!(doubted("0.0.0.0", 80, json!({"bind_port": "80"})));
        assert!(doubted("10.0.0.1", 80, json!({"bind_port": 80, "bind_address": "127.0.0.1"})));
        assert!(doubted("::", 1, json!({"bind_port": 81, "local_service_address": "127.0.0.1:81"})));
        assert!(!doubted("127.0.0.1", 80, json!({"bind_port": 81})));
        assert!(!doubted("127.0.0.1", 80, json!({})));
        assert!(!doubted("127.0.0.1", 0, json!({"bind_port": 0})));
        // An application on loopback alone and a proxy on the network share a number well.
        assert!(!doubted("10.0.0.1", 80, json!({"bind_port": 80})));
        assert!(!doubted("127.0.0.1", 80, json!({"bind_port": 80, "local_service_address": "10.0.0.2:80"})));
    }

    #[test]
    fn each_upstream_that_cannot_work_is_named_in_either_form() {
        let upstream = |name: &str, port: i64, kind: &str| Upstream {
            destination_name: name.into(),
            local_bind_port: port,
            destination_type: kind.into(),
            ..Upstream::default()
        };
        let given = ManagedProxy {
            upstreams: vec![
                upstream("db", 1, "service"),
                upstream("", 1, ""),
                upstream("db", 0, ""),
                upstream("db", 70_000, "prepared_query"),
                upstream("db", 2, "query"),
            ],
            ..ManagedProxy::default()
        };
        assert_eq!(
            of_upstreams(&given),
            [
                "connect.proxy.upstreams[1] has no destination_name and is skipped",
                "connect.proxy.upstreams[2] has no local_bind_port and is skipped",
                "connect.proxy.upstreams[3] has local_bind_port = 70000, which is no port, and is skipped",
                "connect.proxy.upstreams[4] has destination_type = \"query\", which is neither \"service\" nor \
                 \"prepared_query\": it is taken for a service",
            ]
        );
        let legacy = json!({"upstreams": [
            {"destination_name": "db", "local_bind_port": "81"}, {"destination_name": 7}, {"destination_name": "db"}]});
        assert_eq!(
            of_upstreams(&definition(&legacy)),
            [
                "connect.proxy.config.upstreams[1] cannot be read and is skipped",
                "connect.proxy.config.upstreams[2] has no local_bind_port and is skipped",
            ]
        );
    }
}
