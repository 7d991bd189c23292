//! What the proxy shall do, as the agent or the command line says it: listeners, targets, time limits.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use lictor_api::agent;
use lictor_model::Opaque;
use lictor_model::name::ServiceName;
use lictor_model::service::Upstream;
use lictor_tls::Reuse;
use serde_json::Value;

use crate::lookup;

/// Host and port as configured; the host may be a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// IP address or host name, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl Place {
    /// Reads `host:port`; an IPv6 address stands in brackets, an empty host means all addresses.
    pub fn parse(text: &str) -> Option<Place> {
        let (host, port) = text.rsplit_once(':')?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if host.contains(':') && host.parse::<IpAddr>().is_err() {
            return None;
        }
        Some(Place { host: host.to_owned(), port: port.parse().ok()? })
    }

    /// Its address, when the host is one and need not be looked up.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, self.port))
    }

    /// The addresses behind it, as the system sorts them; at least one.
    pub(crate) async fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        if let Some(address) = self.address() {
            return Ok(vec![address]);
        }
        let found = lookup::addresses(&self.host, self.port).await?;
        if found.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        }
        Ok(found)
    }

    /// The address to listen on: of a name with several one of IPv4, which is what clients of the original found there.
    pub(crate) async fn address_to_listen(&self) -> io::Result<SocketAddr> {
        let found = self.addresses().await?;
        Ok(found.iter().copied().find(SocketAddr::is_ipv4).unwrap_or(found[0]))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Everything that one proxy shall do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    /// The service it stands for.
    pub(crate) service: ServiceName,
    /// Where peers reach it.
    pub(crate) public: Option<Public>,
    /// Where the application reaches others.
    pub(crate) upstreams: Vec<UpstreamSettings>,
    /// Where its numbers go, as the agent says it; not ours to understand.
    pub(crate) telemetry: Option<Opaque>,
}

/// The listener for peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Public {
    pub(crate) listen: Place,
    pub(crate) app: Place,
    pub(crate) handshake_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    /// How long an application that does not listen is waited for.
    pub(crate) wait: Duration,
    /// How long it may be impossible to listen before the proxy gives up; for ever without it.
    pub(crate) bind_timeout: Option<Duration>,
    pub(crate) reuse: Reuse,
}

/// A listener for the application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UpstreamSettings {
    pub(crate) listen: Place,
    pub(crate) namespace: String,
    pub(crate) destination: Destination,
    pub(crate) connect_timeout: Duration,
    pub(crate) reuse: Reuse,
}

/// What an upstream leads to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Destination {
    pub(crate) kind: DestinationKind,
    pub(crate) name: String,
    /// Empty means the agent's.
    pub(crate) datacenter: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum DestinationKind {
    Service,
    Query,
}

impl DestinationKind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            DestinationKind::Service => "service",
            DestinationKind::Query => "prepared_query",
        }
    }
}

/// `service:default/db`, as the log shows it.
impl fmt::Display for UpstreamSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{}", self.destination.kind.as_str(), self.namespace, self.destination.name)
    }
}

/// Something in the settings that cannot be used; the rest is.
pub(crate) type Problem = String;

const LOOPBACK: &str = "127.0.0.1";
const ANY: &str = "0.0.0.0";
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const LOCAL_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

impl Settings {
    /// Reads the proxy's own service entry.
    pub(crate) fn from_service(entry: &agent::Service<'_>) -> Result<(Settings, Vec<Problem>), Problem> {
        let proxy = match &entry.proxy {
            Some(proxy) if entry.kind == "connect-proxy" => proxy,
            _ => return Err(format!("service with id {} is not a valid connect proxy", entry.id)),
        };
        let mut problems = Vec::new();
        let config = proxy.config.as_deref();
        let reuse = reuse(config, &mut problems);
        let public = match (port(entry.port), port(proxy.local_service_port)) {
            (Some(listen), Some(app)) => Some(Public {
                listen: Place { host: or(&entry.address, ANY), port: listen },
                app: Place { host: or(&proxy.local_service_address, LOOPBACK), port: app },
                handshake_timeout: limit(config, "handshake_timeout_ms", HANDSHAKE_TIMEOUT, &mut problems),
                connect_timeout: limit(config, "local_connect_timeout_ms", LOCAL_CONNECT_TIMEOUT, &mut problems),
                wait: span(config, "local_service_wait_ms", &mut problems),
                bind_timeout: Some(span(config, "bind_timeout_ms", &mut problems)).filter(|limit| !limit.is_zero()),
                reuse,
            }),
            (None, _) if entry.port == 0 => None,
            (Some(_), None) => {
                problems.push(format!("local_service_port {} is no port", proxy.local_service_port));
                None
            }
            (None, _) => {
                problems.push(format!("port {} is no port", entry.port));
                None
            }
        };
        let wanted = proxy.upstreams.iter().map(|upstream| {
            let agent::Upstream {
                destination_type,
                destination_namespace,
                destination_name,
                datacenter,
                local_bind_address,
                local_bind_port,
                config,
            } = upstream;
            Upstream {
                destination_type: destination_type.to_string(),
                destination_namespace: destination_namespace.to_string(),
                destination_name: destination_name.to_string(),
                datacenter: datacenter.to_string(),
                local_bind_address: local_bind_address.to_string(),
                local_bind_port: *local_bind_port,
                config: config.as_deref().cloned(),
            }
        });
        let upstreams = upstreams(wanted, reuse, &mut problems);
        let service = ServiceName::from(proxy.destination_service_name.as_ref());
        let telemetry = config.and_then(|config| config.get("telemetry")).and_then(|value| value.as_object()).cloned();
        Ok((Settings { service, public, upstreams, telemetry }, problems))
    }

    /// Takes what flags said.
    pub(crate) fn from_flags(flags: &Flags) -> (Settings, Vec<Problem>) {
        let mut problems = Vec::new();
        let public = match (&flags.listen, &flags.local_app) {
            (Some(listen), Some(app)) => Some(Public {
                listen: Place { host: or(&listen.host, ANY), port: listen.port },
                app: Place { host: or(&app.host, LOOPBACK), port: app.port },
                handshake_timeout: HANDSHAKE_TIMEOUT,
                connect_timeout: LOCAL_CONNECT_TIMEOUT,
                wait: Duration::ZERO,
                bind_timeout: flags.bind_timeout,
                reuse: Reuse::default(),
            }),
            _ => None,
        };
        let upstreams = upstreams(flags.upstreams.iter().cloned(), Reuse::default(), &mut problems);
        (Settings { service: flags.service.clone(), public, upstreams, telemetry: None }, problems)
    }
}

/// What the command line says when no agent does.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// The service to stand for.
    pub service: ServiceName,
    /// Where peers reach it; without it nobody does.
    pub listen: Option<Place>,
    /// Where the application listens.
    pub local_app: Option<Place>,
    /// Services the application reaches.
    pub upstreams: Vec<Upstream>,
    /// How long it may be impossible to listen for peers before the proxy gives up; for ever without it.
    pub bind_timeout: Option<Duration>,
}

/// Those that can be used. Of several at one address the first one has it: an application must never reach now one
/// service there and now another.
fn upstreams(
    wanted: impl Iterator<Item = Upstream>,
    reuse: Reuse,
    problems: &mut Vec<Problem>,
) -> Vec<UpstreamSettings> {
    let mut usable: Vec<UpstreamSettings> = Vec::new();
    for (number, upstream) in wanted.enumerate() {
        if upstream.destination_name.is_empty() {
            problems.push(format!("upstreams[{number}] has no destination_name and is skipped"));
            continue;
        }
        let Some(settings) = upstream_settings(&upstream, reuse, problems) else { continue };
        match usable.iter().find(|other| other.listen == settings.listen) {
            Some(other) => problems.push(format!(
                "upstream {settings} is skipped, because upstream {other} has {} already: give it another local_bind_port",
                settings.listen
            )),
            None => usable.push(settings),
        }
    }
    usable
}

fn upstream_settings(upstream: &Upstream, reuse: Reuse, problems: &mut Vec<Problem>) -> Option<UpstreamSettings> {
    let kind = match upstream.destination_type.as_str() {
        "prepared_query" => DestinationKind::Query,
        _ => DestinationKind::Service,
    };
    let namespace = or(&upstream.destination_namespace, "default");
    let Some(port) = port(upstream.local_bind_port) else {
        problems.push(format!(
            "upstream {}:{namespace}/{} has no local_bind_port. Can't start upstream.",
            kind.as_str(),
            upstream.destination_name
        ));
        return None;
    };
    Some(UpstreamSettings {
        listen: Place { host: or(&upstream.local_bind_address, LOOPBACK), port },
        namespace,
        destination: Destination {
            kind,
            name: upstream.destination_name.clone(),
            datacenter: upstream.datacenter.clone(),
        },
        connect_timeout: limit(upstream.config.as_ref(), "connect_timeout_ms", CONNECT_TIMEOUT, problems),
        reuse,
    })
}

fn or(text: &str, default: &str) -> String {
    if text.is_empty() { default.to_owned() } else { text.to_owned() }
}

fn port(number: i64) -> Option<u16> {
    u16::try_from(number).ok().filter(|port| *port > 0)
}

/// What connections may save of their handshakes: `reuse` in the proxy's configuration.
fn reuse(config: Option<&Opaque>, problems: &mut Vec<Problem>) -> Reuse {
    match config.and_then(|config| config.get("reuse")) {
        None => Reuse::default(),
        Some(Value::String(word)) if word == "connections" => Reuse::Connections,
        Some(Value::String(word)) if word == "sessions" => Reuse::Sessions,
        Some(Value::String(word)) if word == "none" => Reuse::None,
        Some(other) => {
            problems.push(format!("reuse {other} is none of \"connections\", \"sessions\", \"none\"; using \"none\""));
            Reuse::None
        }
    }
}

/// A number of milliseconds: any JSON number, or one written as text. What cannot be read is named, and the default
/// stays.
fn limit(config: Option<&Opaque>, key: &str, default: Duration, problems: &mut Vec<Problem>) -> Duration {
    let Some(value) = config.and_then(|config| config.get(key)) else { return default };
    match milliseconds(value) {
        Some(limit) if !limit.is_zero() && limit <= LONGEST_SPAN => limit,
        _ => {
            problems.push(format!("{key} {value} is no number of milliseconds, using {}", default.as_millis()));
            default
        }
    }
}

/// The same for something that is off without it, or at 0.
fn span(config: Option<&Opaque>, key: &str, problems: &mut Vec<Problem>) -> Duration {
    let Some(value) = config.and_then(|config| config.get(key)) else { return Duration::ZERO };
    match milliseconds(value) {
        Some(span) if span <= LONGEST_SPAN => span,
        _ => {
            problems.push(format!("{key} {value} is no number of milliseconds, leaving it off"));
            Duration::ZERO
        }
    }
}

/// Longer ones are mistakes, and points in time must be countable.
const LONGEST_SPAN: Duration = Duration::from_secs(24 * 3600);

fn milliseconds(value: &Value) -> Option<Duration> {
    let number: f64 = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    Duration::try_from_secs_f64(number / 1000.0).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(entry: Value) -> Result<(Settings, Vec<Problem>), Problem> {
        Settings::from_service(&serde_json::from_value(entry).unwrap())
    }

    #[test]
    fn an_entry_becomes_listeners_and_limits() {
        let (settings, problems) = read(json!({
            "Kind": "connect-proxy", "ID": "web-proxy", "Service": "web-proxy", "Address": "::1", "Port": 20000,
            "Proxy": {
                "DestinationServiceName": "web", "LocalServiceAddress": "", "LocalServicePort": 8080,
                "Config": {"handshake_timeout_ms": 2500.0, "local_connect_timeout_ms": "300"},
                "Upstreams": [
                    {"DestinationName": "db", "LocalBindPort": 1234, "Config": {"connect_timeout_ms": 300}},
                    {"DestinationType": "prepared_query", "DestinationName": "q", "Datacenter": "dc2",
                     "LocalBindAddress": "0.0.0.0", "LocalBindPort": 1235},
                    {"DestinationName": "portless"}
                ]
            }
        }))
        .unwrap();
        let public = settings.public.unwrap();
        assert_eq!(
            (public.listen.to_string(), public.app.to_string()),
            ("[::1]:20000".into(), "127.0.0.1:8080".into())
        );
        assert_eq!(public.handshake_timeout, Duration::from_millis(2500));
        assert_eq!(public.connect_timeout, Duration::from_millis(300));
        let [db, query] = &settings.upstreams[..] else { panic!("{:?}", settings.upstreams) };
        assert_eq!((db.to_string(), db.listen.to_string()), ("service:default/db".into(), "127.0.0.1:1234".into()));
        assert_eq!(db.connect_timeout, Duration::from_millis(300));
        assert_eq!((query.destination.kind, query.destination.datacenter.as_str()), (DestinationKind::Query, "dc2"));
        assert_eq!(problems, ["upstream service:default/portless has no local_bind_port. Can't start upstream."]);
    }

    #[test]
    fn of_two_upstreams_at_one_address_the_first_has_it_and_one_without_a_name_is_none() {
        let (settings, problems) = read(json!({
            "Kind": "connect-proxy", "Proxy": {"DestinationServiceName": "web", "Upstreams": [
                {"LocalBindPort": 1234},
                {"DestinationName": "db", "LocalBindPort": 1234},
                {"DestinationName": "cache", "LocalBindPort": 1234, "LocalBindAddress": "127.0.0.1"},
                {"DestinationName": "db", "LocalBindPort": 1234, "LocalBindAddress": "127.0.0.2"},
            ]}
        }))
        .unwrap();
        let used = settings.upstreams.iter().map(|upstream| format!("{upstream} at {}", upstream.listen));
        assert_eq!(
            used.collect::<Vec<_>>(),
            ["service:default/db at 127.0.0.1:1234", "service:default/db at 127.0.0.2:1234"]
        );
        let skipped = "upstream service:default/cache is skipped, because upstream service:default/db has 127.0.0.1:1234 \
                       already: give it another local_bind_port";
        assert_eq!(problems, ["upstreams[0] has no destination_name and is skipped", skipped]);
    }

    #[test]
    fn limits_that_are_none_are_named_and_the_rest_is_used() {
        for bad in [json!("soon"), json!(true), json!(-1), json!(0), json!(1e300), json!(1e22), json!("1e22")] {
            let (settings, problems) = read(json!({
                "Kind": "connect-proxy", "Port": 1,
                "Proxy": {
                    "DestinationServiceName": "web", "LocalServicePort": 2, "Config": {"handshake_timeout_ms": bad},
                    "Upstreams": [{"DestinationName": "db", "LocalBindPort": 3, "Config": {"connect_timeout_ms": bad}}]
                }
            }))
            .unwrap();
            assert_eq!(settings.public.unwrap().handshake_timeout, HANDSHAKE_TIMEOUT);
            assert_eq!(settings.upstreams[0].connect_timeout, CONNECT_TIMEOUT);
            assert_eq!(problems.len(), 2, "{problems:?}");
        }
    }

    #[test]
    fn what_is_off_by_default_is_on_with_a_number_and_a_wrong_one_is_named() {
        for (value, wait, complaints) in [
            (json!(null), 0, 1),
            (json!(0), 0, 0),
            (json!(1500), 1500, 0),
            (json!("1500"), 1500, 0),
            (json!(-1), 0, 1),
            (json!("soon"), 0, 1),
            (json!(1e15), 0, 1),
        ] {
            let (settings, problems) = read(json!({
                "Kind": "connect-proxy", "Port": 1,
                "Proxy": {"DestinationServiceName": "web", "LocalServicePort": 2,
                    "Config": {"local_service_wait_ms": value, "bind_timeout_ms": value}}
            }))
            .unwrap();
            let public = settings.public.unwrap();
            let wait = Duration::from_millis(wait);
            assert_eq!((public.wait, public.bind_timeout.unwrap_or_default()), (wait, wait), "{value}");
            assert_eq!(problems.len(), 2 * complaints, "{problems:?}");
        }
    }

    #[test]
    fn reuse_is_chosen_by_its_word_and_a_wrong_word_chooses_none() {
        for (word, want, complaints) in [
            (json!("connections"), Reuse::Connections, 0),
            (json!("sessions"), Reuse::Sessions, 0),
            (json!("none"), Reuse::None, 0),
            (json!("all"), Reuse::None, 1),
            (json!(true), Reuse::None, 1),
        ] {
            let (settings, problems) = read(json!({
                "Kind": "connect-proxy", "Port": 1,
                "Proxy": {
                    "DestinationServiceName": "web", "LocalServicePort": 2, "Config": {"reuse": word},
                    "Upstreams": [{"DestinationName": "db", "LocalBindPort": 3}]
                }
            }))
            .unwrap();
            assert_eq!((settings.public.unwrap().reuse, settings.upstreams[0].reuse), (want, want));
            assert_eq!(problems.len(), complaints, "{problems:?}");
        }
    }

    #[test]
    fn an_ordinary_service_is_no_proxy() {
        let refusal = read(json!({"ID": "web", "Service": "web", "Port": 1})).unwrap_err();
        assert_eq!(refusal, "service with id web is not a valid connect proxy");
    }

    #[test]
    fn places_are_read_with_and_without_brackets() {
        let place = |text| Place::parse(text).map(|place| place.to_string());
        assert_eq!(place("[::1]:80").as_deref(), Some("[::1]:80"));
        assert_eq!(place(":80").as_deref(), Some(":80"));
        assert_eq!(place("host:80").as_deref(), Some("host:80"));
        for bad in ["host", "host:", "host:x", "host:70000", "a:b:1"] {
            assert_eq!(place(bad), None, "{bad}");
        }
    }
}
