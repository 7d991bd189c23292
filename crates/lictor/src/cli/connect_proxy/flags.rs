//! What the flags and the environment of `connect proxy` ask for.

use std::collections::BTreeMap;
use std::time::Duration;

use lictor_api::client;
use lictor_api::client::address::Address;
use lictor_model::service::Upstream;
use lictor_proxy::settings::Place;
use lictor_proxy::{Patience, SameNode};

use crate::config::flags::Parsed;

/// Everything that was asked for.
pub(super) struct Wanted {
    pub(super) mode: Mode,
    pub(super) client: client::Config,
    /// How other proxies of the agent are reached.
    pub(super) same_node: SameNode,
    /// How long it does without its agent.
    pub(super) patience: Patience,
}

/// Where the configuration comes from.
pub(super) enum Mode {
    /// From the agent, by the proxy's id.
    ProxyId(String),
    /// From the agent, by the service the proxy stands beside.
    SidecarFor(String),
    /// From flags.
    Flags {
        service: String,
        listen: Option<Place>,
        local_app: Option<Place>,
        upstreams: Vec<Upstream>,
        bind_timeout: Option<Duration>,
        register: Option<Register>,
    },
}

/// How a proxy of flags registers itself.
pub(super) struct Register {
    /// Suffix of the id; may be empty.
    pub(super) suffix: String,
}

impl Wanted {
    /// Reads flags over the environment; `get` looks a variable up.
    pub(super) fn read(flags: &Parsed, get: impl Fn(&str) -> Option<String>) -> Result<Wanted, String> {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let mut client = super::super::client::config(flags).map_err(|error| format!("{error:#}"))?;
        let mut same_node = SameNode::Mtls;
        let has_token = flags.text("token").or(flags.text("token-file")).is_some();
        if !has_token && let Some(token) = get("CONNECT_PROXY_TOKEN") {
            client.token = token;
        }
        if flags.text("http-addr").is_none()
            && !has_token
            && let Some(path) = get("LICTOR_AGENT")
        {
            // The agent knows us by our process.
            client = client::Config { address: Address::Unix(path.into()), ..client::Config::default() };
            if get("LICTOR_SAME_NODE").is_some_and(|word| word == "direct") {
                same_node = SameNode::Direct;
            }
        }
        let or_variable = |flag: &str, variable: &str| flags.text(flag).map(str::to_owned).or_else(|| get(variable));
        let given = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        let proxy_id = or_variable("proxy-id", "CONNECT_PROXY_ID");
        let sidecar_for = or_variable("sidecar-for", "CONNECT_SIDECAR_FOR");
        let mode = if given(&proxy_id) {
            Mode::ProxyId(proxy_id.unwrap_or_default())
        } else if given(&sidecar_for) {
            Mode::SidecarFor(sidecar_for.unwrap_or_default())
        } else {
            plain(flags)?
        };
        let patience = Patience { start: span(flags, "agent-timeout"), lease: lease(flags, get)? };
        Ok(Wanted { mode, client, same_node, patience })
    }

    /// What the user sees before anything happens.
    pub(super) fn banner(&self) -> Vec<String> {
        let mut rows = vec![("Configuration mode", super::mode_name(&self.mode).to_owned())];
        match &self.mode {
            Mode::ProxyId(id) => rows.push(("Proxy ID", id.clone())),
            Mode::SidecarFor(id) => rows.push(("Sidecar for ID", id.clone())),
            Mode::Flags { service, listen, local_app, upstreams, .. } => {
                rows.push(("Service", service.clone()));
                for upstream in upstreams {
                    let address = match upstream.local_bind_address.as_str() {
                        "127.0.0.1" => "",
                        other => other,
                    };
                    rows.push((
                        "Upstream",
                        format!("{} => {address}:{}", upstream.destination_name, upstream.local_bind_port),
                    ));
                }
                let public = match (listen, local_app) {
                    (Some(listen), Some(app)) => format!("{listen} => {app}"),
                    _ => "Disabled".to_owned(),
                };
                rows.push(("Public listener", public));
            }
        }
        let mut lines: Vec<String> = rows.iter().map(|(name, value)| format!("{name:>22}: {value}")).collect();
        lines.push(String::new());
        lines.push("==> Log data will now stream in as it occurs:".into());
        lines.push(String::new());
        lines
    }
}

/// A flag with a duration; off at 0.
fn span(flags: &Parsed, flag: &str) -> Option<Duration> {
    flags.duration(flag).filter(|span| !span.is_zero())
}

/// How long the agent may be silent: by flag, or as the agent says it to the proxies that it starts.
fn lease(flags: &Parsed, get: impl Fn(&str) -> Option<String>) -> Result<Option<Duration>, String> {
    if flags.duration("agent-lease").is_some() {
        return Ok(span(flags, "agent-lease"));
    }
    let Some(text) = get("LICTOR_AGENT_LEASE") else { return Ok(None) };
    let lease = lictor_notation::duration::parse(&text)
        .map_err(|error| format!("LICTOR_AGENT_LEASE {text:?} is no duration such as 10m: {error}"))?;
    Ok(Some(lease).filter(|lease| !lease.is_zero()))
}

fn plain(flags: &Parsed) -> Result<Mode, String> {
    let service = flags.text("service").unwrap_or_default().to_owned();
    if service.is_empty() {
        return Err("-service or -proxy-id must be specified so that proxy can configure itself.".into());
    }
    let place = |flag: &str| match flags.text(flag) {
        None | Some("") => Ok(None),
        Some(text) => Place::parse(text).map(Some).ok_or_else(|| format!("-{flag} {text:?} is not host:port")),
    };
    let (listen, local_app) = (place("listen")?, place("service-addr")?);
    if listen.is_some() && local_app.is_none() {
        return Err(
            "-service-addr must be specified with -listen so the proxy knows the backend service address.".into()
        );
    }
    let register = if flags.is_set("register") {
        if listen.is_none() {
            return Err("-register can only be specified with -service and -listen".into());
        }
        Some(Register { suffix: flags.text("register-id").unwrap_or_default().to_owned() })
    } else {
        None
    };
    // Keyed by name: the last one of a name counts, and they start in alphabetical order.
    let mut upstreams = BTreeMap::new();
    for text in flags.texts("upstream") {
        let upstream = upstream(text)?;
        upstreams.insert(upstream.destination_name.clone(), upstream);
    }
    let (upstreams, bind_timeout) = (upstreams.into_values().collect(), span(flags, "bind-timeout"));
    Ok(Mode::Flags { service, listen, local_app, upstreams, bind_timeout, register })
}

/// `name[.type]:[addr:]port`; an IPv6 address stands in brackets.
fn upstream(text: &str) -> Result<Upstream, String> {
    let (left, right) =
        text.split_once(':').ok_or_else(|| format!("Upstream value should be name:addr in {text:?}"))?;
    let (name, kind) = left.rsplit_once('.').unwrap_or((left, ""));
    let destination_type = match kind {
        "" | "service" => "service",
        "query" => "prepared_query",
        other => return Err(format!("Upstream type must be blank, 'service', or 'query'. Got: {other:?}")),
    };
    let (address, port) = right.rsplit_once(':').unwrap_or(("", right));
    let address = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    Ok(Upstream {
        destination_type: destination_type.into(),
        destination_name: name.into(),
        local_bind_address: if address.is_empty() { "127.0.0.1".into() } else { address.into() },
        local_bind_port: number(port).ok_or_else(|| {
            format!("strconv.ParseInt: parsing {port:?}: invalid syntax (the port of upstream {text:?})")
        })?,
        ..Upstream::default()
    })
}

/// A whole number as Go reads it with base 0: `0x` and a leading `0` choose the base.
fn number(text: &str) -> Option<i64> {
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        i64::from_str_radix(hex, 16).ok()
    } else if text.len() > 1 && text.starts_with('0') {
        i64::from_str_radix(text.trim_start_matches("0o"), 8).ok()
    } else {
        text.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_have_a_name_an_optional_type_and_a_place() {
        let read = |text: &str| {
            upstream(text).map(|u| (u.destination_name, u.destination_type, u.local_bind_address, u.local_bind_port))
        };
        let some = |name: &str, kind: &str, address: &str, port| Ok((name.into(), kind.into(), address.into(), port));
        assert_eq!(read("db:9191"), some("db", "service", "127.0.0.1", 9191));
        assert_eq!(read("q.query:0.0.0.0:0x10"), some("q", "prepared_query", "0.0.0.0", 16));
        assert_eq!(read("db:[::1]:9191"), some("db", "service", "::1", 9191));
        assert_eq!(read("db"), Err("Upstream value should be name:addr in \"db\"".into()));
        assert_eq!(read("db.zz:1"), Err("Upstream type must be blank, 'service', or 'query'. Got: \"zz\"".into()));
        assert!(read("db:x").unwrap_err().starts_with("strconv.ParseInt"));
    }
}
