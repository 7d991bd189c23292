//! What a `connect.proxy` block means: the generated service and its check, the command, the effective settings.
//!
//! Pure rules; no process is started here (see [`crate::proxies`]) and nothing is stored (see [`crate::registry`]).

use std::net::IpAddr;
use std::time::Duration;

use lictor_model::Opaque;
use lictor_model::health::CheckSpec;
use lictor_model::name::{CheckId, ServiceName};
use lictor_model::secret;
use lictor_model::service::{Kind, ManagedProxy, ProxySpec, Service, Upstream, Weights};
use serde_json::Value;

use crate::Config;
use crate::local::ManagedProxyView;

const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// `daemon` or `script`: the latter is accepted and never runs, as in the original.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExecMode {
    /// A long-running process.
    Daemon,
    /// Accepted for compatibility.
    Script,
}

impl ExecMode {
    /// The word in definitions and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            ExecMode::Daemon => "daemon",
            ExecMode::Script => "script",
        }
    }

    /// The mode that counts: the service's, else the agent's default, else daemon.
    pub fn resolve(service: &str, default: &str) -> Result<ExecMode, String> {
        match [service, default, "daemon"].into_iter().find(|text| !text.is_empty()) {
            Some("daemon") | None => Ok(ExecMode::Daemon),
            Some("script") => Ok(ExecMode::Script),
            Some(other) => Err(format!("invalid exec mode: {other}")),
        }
    }
}

/// Mode, command and upstreams with every default filled in, as the API shows them.
pub fn view(config: &Config, proxy: &ManagedProxy) -> Result<ManagedProxyView, String> {
    let mode = ExecMode::resolve(&proxy.exec_mode, &config.connect.default_exec_mode)?;
    let (own, upstreams) = settle_upstreams(proxy);
    Ok(ManagedProxyView {
        exec_mode: mode.as_str(),
        command: command(config, mode, &proxy.command),
        config: own.filter(|map| !map.is_empty()),
        upstreams,
        run_as: proxy.run_as.clone(),
        limits: proxy.limits,
    })
}

/// The same without what looks like a secret: a view is for people, the proxy itself is told all.
pub fn without_secrets(mut view: ManagedProxyView) -> ManagedProxyView {
    if let Some(config) = &mut view.config {
        secret::hide(config);
    }
    for upstream in &mut view.upstreams {
        if let Some(config) = &mut upstream.config {
            secret::hide(config);
        }
    }
    view
}

fn command(config: &Config, mode: ExecMode, own: &[String]) -> Vec<String> {
    let default = match mode {
        ExecMode::Daemon => &config.connect.default_daemon_command,
        ExecMode::Script => &config.connect.default_script_command,
    };
    if !own.is_empty() {
        own.to_vec()
    } else if !default.is_empty() {
        default.clone()
    } else {
        built_in_command(config)
    }
}

/// This program as a proxy.
pub fn built_in_command(config: &Config) -> Vec<String> {
    let mut command = vec![config.executable.display().to_string(), "connect".to_owned(), "proxy".to_owned()];
    if let Some(level) = &config.proxy_log_level {
        command.extend(["-log-level".to_owned(), level.clone()]);
    }
    command
}

/// The form of version 1.2 kept upstreams inside `config`; they count when no new-style list is given, and never
/// stay where they were.
fn settle_upstreams(proxy: &ManagedProxy) -> (Option<Opaque>, Vec<Upstream>) {
    let mut config = proxy.config.clone();
    if let Some(config) = &mut config {
        config.remove("upstreams");
    }
    (config, numbered_upstreams(proxy).1.into_iter().flatten().collect())
}

/// The upstreams in the places where they were written, `None` for what cannot be read; and whether they were written in
/// the form of version 1.2.
pub fn numbered_upstreams(proxy: &ManagedProxy) -> (bool, Vec<Option<Upstream>>) {
    if !proxy.upstreams.is_empty() {
        return (false, proxy.upstreams.iter().cloned().map(Some).collect());
    }
    match proxy.config.as_ref().and_then(|config| config.get("upstreams")) {
        Some(Value::Array(items)) => (true, items.iter().map(legacy_upstream).collect()),
        Some(item @ Value::Object(_)) => (true, vec![legacy_upstream(item)]),
        _ => (false, Vec::new()),
    }
}

fn legacy_upstream(item: &Value) -> Option<Upstream> {
    let mut rest = item.as_object()?.clone();
    let text = |rest: &mut Opaque, key: &str| match rest.remove(key) {
        None | Some(Value::Null) => Some(String::new()),
        Some(Value::String(text)) => Some(text),
        Some(_) => None,
    };
    let destination_type = match text(&mut rest, "destination_type")?.as_str() {
        "prepared_query" => "prepared_query",
        _ => "service",
    };
    let local_bind_port = match rest.remove("local_bind_port") {
        None | Some(Value::Null) => 0,
        Some(value) => integer(&value)?,
    };
    Some(Upstream {
        destination_type: destination_type.to_owned(),
        destination_namespace: text(&mut rest, "destination_namespace")?,
        destination_name: text(&mut rest, "destination_name")?,
        datacenter: text(&mut rest, "destination_datacenter")?,
        local_bind_address: text(&mut rest, "local_bind_address")?,
        local_bind_port,
        config: Some(rest).filter(|rest| !rest.is_empty()),
    })
}

/// A number, also one written as text.
pub fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64().or_else(|| number.as_f64().map(|float| float as i64)),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// The keys of `config` that the agent itself reads at registration, from the service's own map only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnSettings {
    /// Port of the generated service, when given.
    pub bind_port: Option<i64>,
    /// Address of the generated service, when given.
    pub bind_address: String,
    /// `host:port` of the application, when given.
    pub local_service_address: String,
    /// Port of the application, when given.
    pub local_service_port: Option<i64>,
    /// Host part of the check's target, when given.
    pub tcp_check_address: String,
    /// Whether there is no check.
    pub disable_tcp_check: bool,
}

impl OwnSettings {
    /// Reads them. Numbers given as text and texts given as numbers are accepted; anything else is refused with all
    /// problems at once, except that the two check keys are ignored when they are of a wrong type.
    pub fn read(config: Option<&Opaque>) -> Result<OwnSettings, String> {
        let Some(config) = config else { return Ok(OwnSettings::default()) };
        let mut problems = Vec::new();
        let mut text = |key: &str| match config.get(key) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            Some(other) => {
                problems.push(format!("'{key}' expected type 'string', got unconvertible type '{}'", go_type(other)));
                String::new()
            }
        };
        let bind_address = text("bind_address");
        let local_service_address = text("local_service_address");
        let mut number = |key: &str| match config.get(key) {
            None | Some(Value::Null) => None,
            Some(value @ (Value::Number(_) | Value::String(_))) => {
                let read = integer(value);
                if read.is_none() {
                    problems.push(format!("cannot parse '{key}' as int: {value}"));
                }
                read
            }
            Some(other) => {
                problems.push(format!("'{key}' expected type 'int', got unconvertible type '{}'", go_type(other)));
                None
            }
        };
        let bind_port = number("bind_port").filter(|port| *port != 0);
        let local_service_port = number("local_service_port").filter(|port| *port != 0);
        if !problems.is_empty() {
            problems.sort();
            let list: String = problems.iter().map(|problem| format!("\n* {problem}")).collect();
            return Err(format!("{} error(s) decoding:\n{list}", problems.len()));
        }
        Ok(OwnSettings {
            bind_port,
            bind_address,
            local_service_address,
            local_service_port,
            tcp_check_address: config.get("tcp_check_address").and_then(Value::as_str).unwrap_or_default().to_owned(),
            disable_tcp_check: config.get("disable_tcp_check").and_then(Value::as_bool).unwrap_or_default(),
        })
    }
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// The service that stands for the proxy in the catalog.
pub fn generated_service(parent: &Service, own: &OwnSettings, port: i64) -> Service {
    Service {
        kind: Kind::ConnectProxy,
        id: parent.id.managed_proxy(),
        name: ServiceName::from(format!("{}-proxy", parent.name)),
        address: own.bind_address.clone(),
        port,
        weights: Weights::default(),
        proxy: Some(ProxySpec {
            destination_name: parent.name.clone(),
            local_service_address: own.local_service_address.clone(),
            local_service_port: own.local_service_port.unwrap_or(parent.port),
            ..ProxySpec::default()
        }),
        ..Service::default()
    }
}

/// The check that finds out whether the proxy listens, unless it was switched off.
pub fn generated_check(own: &OwnSettings, effective: &Opaque, service: &Service) -> Option<CheckSpec> {
    if own.disable_tcp_check {
        return None;
    }
    let bound = effective.get("bind_address").and_then(Value::as_str).unwrap_or_default();
    let host = if !own.tcp_check_address.is_empty() {
        own.tcp_check_address.as_str()
    } else if matches!(bound, "" | "0.0.0.0" | "[::]" | "::") {
        "127.0.0.1"
    } else {
        bound
    };
    let port = effective.get("bind_port").and_then(integer).unwrap_or(service.port);
    Some(CheckSpec {
        id: CheckId::of_service(&service.id, 1, 1),
        name: "Connect Proxy Listening".to_owned(),
        service_id: service.id.clone(),
        tcp: host_and_port(host, port),
        interval: CHECK_INTERVAL,
        ..CheckSpec::default()
    })
}

/// `host:port`, with brackets where IPv6 needs them.
pub fn host_and_port(host: &str, port: i64) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The settings the proxy gets: defaults of the agent, overlaid by the service's, and what is still absent filled in.
pub fn effective_config(
    defaults: &Opaque,
    own: Option<&Opaque>,
    generated: &Service,
    parent: &Service,
    bind_addr: IpAddr,
) -> Opaque {
    let mut effective = defaults.clone();
    for (key, value) in own.into_iter().flatten() {
        effective.insert(key.clone(), value.clone());
    }
    effective.remove("upstreams");
    // One that cannot be read is left out: the registration has said so, or has refused it.
    let port = effective.get("bind_port").and_then(integer).filter(|port| *port != 0);
    let port = port.unwrap_or(generated.port);
    effective.insert("bind_port".into(), port.into());
    effective.entry("bind_address").or_insert_with(|| bind_addr.to_string().into());
    effective.entry("local_service_address").or_insert_with(|| host_and_port("127.0.0.1", parent.port).into());
    effective
}

/// Whether a program of other settings is to be started again, because it reads them at its start only.
pub fn restarts_on_change(effective: &Opaque) -> bool {
    effective.get("restart_on_config_change").is_some_and(|value| value == true)
}

/// Host and port of the application behind a proxy, of `local_service_address` in its settings.
pub fn local_service(address: &Value) -> Option<(&str, i64)> {
    let (host, port) = address.as_str()?.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    Some((host, port.parse().ok()?))
}

/// A hash that changes when any part of a proxy's configuration does, the same in every process: FNV-1a over the
/// JSON text, printed like the original's (hexadecimal without padding).
pub fn content_hash(parts: &Value) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in parts.to_string().bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("{hash:x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use lictor_model::service::ProxyLimits;
    use serde_json::json;

    fn map(value: Value) -> Opaque {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn the_address_of_the_application_is_split() {
        for (address, wanted) in [
            (json!("127.0.0.1:80"), Some(("127.0.0.1", 80))),
            (json!("[::1]:80"), Some(("::1", 80))),
            (json!("host"), None),
            (json!("host:http"), None),
            (json!(80), None),
        ] {
            assert_eq!(local_service(&address), wanted, "{address}");
        }
    }

    #[test]
    fn a_port_is_told_as_a_number_however_it_was_written() {
        let parent = Service { id: "web".into(), name: "web".into(), port: 80, ..Service::default() };
        let told = |default: Value, own: Value| {
            let (default, own) = (map(json!({"bind_port": default})), map(json!({"bind_port": own})));
            let own = own.into_iter().filter(|(_, value)| !value.is_null()).collect();
            let generated = generated_service(&parent, &OwnSettings::default(), 20_000);
            let effective = effective_config(&default, Some(&own), &generated, &parent, [127, 0, 0, 1].into());
            effective["bind_port"].clone()
        };
        assert_eq!(told(json!(1), json!("8000")), json!(8000));
        assert_eq!(told(json!("8001"), Value::Null), json!(8001));
        assert_eq!(told(json!(8002.0), Value::Null), json!(8002));
        assert_eq!(told(json!("http"), Value::Null), json!(20_000), "what is no number is left out");
        assert_eq!(told(json!(1), json!(0)), json!(20_000), "none is one of the range");
    }

    #[test]
    fn the_mode_comes_from_the_service_then_the_defaults() {
        assert_eq!(ExecMode::resolve("", ""), Ok(ExecMode::Daemon));
        assert_eq!(ExecMode::resolve("", "script"), Ok(ExecMode::Script));
        assert_eq!(ExecMode::resolve("daemon", "script"), Ok(ExecMode::Daemon));
        assert_eq!(ExecMode::resolve("bogus", ""), Err("invalid exec mode: bogus".into()));
    }

    #[test]
    fn what_looks_like_a_secret_is_not_in_a_view() {
        let view = |config: Value| ManagedProxyView {
            exec_mode: "daemon",
            command: vec!["p".into()],
            config: Some(map(config)),
            upstreams: Vec::new(),
            run_as: String::new(),
            limits: ProxyLimits::default(),
        };
        let told = json!({
            "db_password": "p", "ApiKey": "k", "auth-token": 7, "use_token": true, "token": "", "bind_port": 1,
            "telemetry": {"circonus_api_token": "c", "statsd_address": "a:1"}, "list": [{"client_secret": "s"}, 2],
        });
        let shown = json!({
            "db_password": "hidden", "ApiKey": "hidden", "auth-token": "hidden", "use_token": true, "token": "",
            "bind_port": 1, "telemetry": {"circonus_api_token": "hidden", "statsd_address": "a:1"},
            "list": [{"client_secret": "hidden"}, 2],
        });
        assert_eq!(without_secrets(view(told)), view(shown));
    }

    #[test]
    fn legacy_upstreams_are_moved_and_keep_their_own_settings() {
        let proxy = ManagedProxy {
            config: Some(map(json!({"keep": 1, "upstreams": [{
                "destination_name": "db", "destination_datacenter": "dc9", "connect_timeout_ms": 77, "foo": "bar",
                "local_bind_port": 1234.0
            }, "nonsense"]}))),
            ..ManagedProxy::default()
        };
        let (config, upstreams) = settle_upstreams(&proxy);
        assert_eq!(config, Some(map(json!({"keep": 1}))));
        assert_eq!(upstreams.len(), 1);
        assert_eq!(upstreams[0].datacenter, "dc9");
        assert_eq!(upstreams[0].local_bind_port, 1234);
        assert_eq!(upstreams[0].config, Some(map(json!({"connect_timeout_ms": 77, "foo": "bar"}))));
    }

    #[test]
    fn new_style_upstreams_win_over_legacy_ones() {
        let proxy = ManagedProxy {
            config: Some(map(json!({"upstreams": [{"destination_name": "old"}]}))),
            upstreams: vec![Upstream { destination_name: "new".into(), ..Upstream::default() }],
            ..ManagedProxy::default()
        };
        let (config, upstreams) = settle_upstreams(&proxy);
        assert_eq!(config, Some(Opaque::new()));
        assert_eq!(upstreams[0].destination_name, "new");
    }

    #[test]
    fn a_wrong_type_is_named_and_numbers_may_be_text() {
        let read = |value: Value| OwnSettings::read(Some(&map(value)));
        assert_eq!(read(json!({"bind_port": "8000"})).unwrap().bind_port, Some(8000));
        assert_eq!(
            read(json!({"bind_address": []})).unwrap_err(),
            "1 error(s) decoding:\n\n* 'bind_address' expected type 'string', got unconvertible type '[]interface {}'"
        );
        assert!(!read(json!({"disable_tcp_check": "yes"})).unwrap().disable_tcp_check);
    }

    #[test]
    fn the_check_dials_loopback_when_the_proxy_binds_everywhere() {
        let service = Service { id: "web-proxy".into(), port: 20000, ..Service::default() };
        let target = |own: OwnSettings, effective: Value| generated_check(&own, &map(effective), &service).unwrap().tcp;
        assert_eq!(target(OwnSettings::default(), json!({"bind_address": "0.0.0.0"})), "127.0.0.1:20000");
        assert_eq!(target(OwnSettings::default(), json!({"bind_address": "10.0.0.1"})), "10.0.0.1:20000");
        assert_eq!(target(OwnSettings::default(), json!({"bind_address": "fd00::1"})), "[fd00::1]:20000");
        let own = OwnSettings { tcp_check_address: "127.0.0.9".into(), ..OwnSettings::default() };
        assert_eq!(target(own, json!({"bind_address": "10.0.0.1"})), "127.0.0.9:20000");
        let off = OwnSettings { disable_tcp_check: true, ..OwnSettings::default() };
        assert_eq!(generated_check(&off, &Opaque::new(), &service), None);
    }
}
