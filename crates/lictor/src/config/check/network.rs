//! Addresses, ports, and port ranges.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;

use super::{Check, Role};
use crate::config::address::{self, Host, ListenAddr};
use crate::config::report::Stage;

/// Addresses, ports and port ranges.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    /// Servers' own traffic, and the default of managed proxies.
    pub(crate) bind: IpAddr,
    /// Where others reach this node.
    pub(crate) advertise: IpAddr,
    /// The address shown as `wan`.
    pub(crate) advertise_wan: IpAddr,
    /// The default of all client listeners.
    pub(crate) client: Vec<IpAddr>,
    /// DNS over UDP and TCP.
    pub(crate) dns: Vec<SocketAddr>,
    /// The HTTP API.
    pub(crate) http: Vec<ListenAddr>,
    /// The HTTP API over TLS.
    pub(crate) https: Vec<ListenAddr>,
    /// The gRPC API.
    pub(crate) grpc: Vec<ListenAddr>,
    /// Where agents that share a store measure each other (`serf_lan`), and whether they do.
    pub(crate) serf_lan: IpAddr,
    pub(crate) measures_distances: bool,
    /// Ports as they are shown; that of gossip between datacenters is opened by nobody.
    pub(crate) ports: Ports,
    /// Ports of managed proxies; `None` when there is no range.
    pub(crate) proxy_ports: Option<RangeInclusive<u16>>,
    /// Ports of sidecars; `None` when there is no range.
    pub(crate) sidecar_ports: Option<RangeInclusive<u16>>,
    /// Mode, owner and group of unix sockets, as written and judged when they are set up.
    pub(crate) unix_sockets: UnixSockets,
    /// Say in answers that addresses would be translated.
    pub(crate) translate_wan_addrs: bool,
}

/// Ports; `None` is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ports {
    pub(crate) dns: Option<u16>,
    pub(crate) http: Option<u16>,
    pub(crate) https: Option<u16>,
    pub(crate) grpc: Option<u16>,
    pub(crate) server: Option<u16>,
    pub(crate) serf_lan: Option<u16>,
    pub(crate) serf_wan: Option<u16>,
}

/// Whose unix sockets are and who may use them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct UnixSockets {
    /// Permission bits.
    pub(crate) mode: Option<u32>,
    /// Name or number; empty leaves it.
    pub(crate) user: String,
    /// Name or number; empty leaves it.
    pub(crate) group: String,
}

/// Reads and judges.
pub(crate) fn network(check: &mut Check<'_>) -> Network {
    let ports = Ports {
        dns: port(check, "ports.dns"),
        http: port(check, "ports.http"),
        https: port(check, "ports.https"),
        grpc: port(check, "ports.grpc"),
        server: port(check, "ports.server"),
        serf_lan: port(check, "ports.serf_lan"),
        serf_wan: port(check, "ports.serf_wan"),
    };
    let proxy_ports = range(check, "proxy_min_port", "ports.proxy_min_port", "proxy_max_port", "ports.proxy_max_port");
    let sidecar_ports =
        range(check, "sidecar_min_port", "ports.sidecar_min_port", "sidecar_max_port", "ports.sidecar_max_port");

    let bind = single(check, "bind_addr").unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let (advertise, advertise_wan) = advertised(check, bind);
    let own = |check: &mut Check<'_>, key| {
        let is_set = !check.settings.text(key).is_empty();
        is_set.then(|| single(check, key)).flatten()
    };
    let serf_lan = own(check, "serf_lan").unwrap_or(bind);
    own(check, "serf_wan");
    let client = client(check);
    let network = Network {
        bind,
        advertise,
        advertise_wan,
        serf_lan,
        measures_distances: !check.settings.flag("disable_coordinates"),
        dns: dns(check, &client, ports.dns),
        http: listeners(check, "addresses.http", &client, ports.http),
        https: listeners(check, "addresses.https", &client, ports.https),
        grpc: listeners(check, "addresses.grpc", &client, ports.grpc),
        client,
        ports,
        proxy_ports,
        sidecar_ports,
        unix_sockets: unix_sockets(check),
        translate_wan_addrs: check.settings.flag("translate_wan_addrs"),
    };
    if network.http.is_empty() && network.https.is_empty() {
        check.warn("config: no HTTP or HTTPS listener, so nothing can be asked of this agent");
    }
    network
}

/// A port; 0 or less is off.
fn port(check: &mut Check<'_>, key: &str) -> Option<u16> {
    let number = check.settings.int(key);
    if number <= 0 {
        return None;
    }
    match u16::try_from(number) {
        Ok(port) => Some(port),
        Err(_) => {
            check.refuse(
                Stage::Ports,
                key,
                format!("{key}: invalid port: {number}"),
                "use a port from 1 to 65535, or -1 to turn it off",
            );
            None
        }
    }
}

fn range(
    check: &mut Check<'_>,
    min_name: &str,
    min_key: &str,
    max_name: &str,
    max_key: &str,
) -> Option<RangeInclusive<u16>> {
    let (min, max) = (port(check, min_key), port(check, max_key));
    let too_large = [min_key, max_key].iter().any(|key| check.settings.int(key) > i64::from(u16::MAX));
    match (min, max) {
        _ if too_large => None,
        (None, None) => None,
        (Some(min), Some(max)) if min <= max => Some(min..=max),
        (None, Some(_)) => {
            // The original walks from -1 here; nobody can mean that.
            check.refuse(
                Stage::Ports,
                min_key,
                format!("{min_name} must be greater than zero when {max_name} is"),
                "give both ends, or set both to zero",
            );
            None
        }
        (Some(_), _) => {
            check.refuse(
                Stage::Ports,
                if check.settings.is_given(max_key) { max_key } else { min_key },
                format!("{min_name} must be less than {max_name}. To disable, set both to zero."),
                format!("make {max_name} at least {min_name}, or set both to zero"),
            );
            None
        }
    }
}

/// Reads a key that must give exactly one address.
fn single(check: &mut Check<'_>, key: &str) -> Option<IpAddr> {
    const REMEDY: &str = "give one IP address, or a template that yields one";
    let text = check.settings.text(key).to_owned();
    let hosts = match address::expand(key, &text, &check.machine.interfaces) {
        Ok(hosts) => hosts,
        Err(text) => {
            check.refuse(Stage::Addresses, key, text, REMEDY);
            return None;
        }
    };
    match hosts.as_slice() {
        [Host::Ip(ip)] => Some(*ip),
        [] => {
            check.refuse(Stage::Addresses, key, format!("{key} cannot be empty"), REMEDY);
            None
        }
        [Host::Unix(_)] => {
            check.refuse(Stage::Addresses, key, format!("{key} cannot be a unix socket"), REMEDY);
            None
        }
        several => {
            let words: Vec<String> = several.iter().map(shown).collect();
            check.refuse(
                Stage::Addresses,
                key,
                format!("{key}: multiple addresses found: {}", words.join(" ")),
                REMEDY,
            );
            None
        }
    }
}

fn shown(host: &Host) -> String {
    match host {
        Host::Ip(ip) => ip.to_string(),
        Host::Unix(path) => format!("unix://{}", path.display()),
    }
}

fn advertised(check: &mut Check<'_>, bind: IpAddr) -> (IpAddr, IpAddr) {
    const ANY: &str = "give the one address others reach this node at";
    let given = |check: &mut Check<'_>, key: &'static str| {
        (!check.settings.text(key).is_empty()).then(|| single(check, key)).flatten()
    };
    let advertise = match given(check, "advertise_addr") {
        Some(ip) if ip.is_unspecified() => {
            let text = "Advertise address cannot be 0.0.0.0, :: or [::]";
            check.refuse(Stage::Addresses, "advertise_addr", text, ANY);
            ip
        }
        Some(ip) => ip,
        None => match address::default_advertise(bind, &check.machine.interfaces) {
            Ok(advertise) => {
                if advertise.chosen_among > 1 && check.settings.text("advertise_addr").is_empty() {
                    check.inform(format!(
                        "config: advertise_addr is {}, one of {} possible addresses",
                        advertise.ip, advertise.chosen_among
                    ));
                }
                advertise.ip
            }
            Err(text) => {
                // Another machine's addresses do not matter when only the files are judged.
                if check.purpose == crate::config::Purpose::Run && check.settings.text("advertise_addr").is_empty() {
                    let remedy = "configure bind_addr or advertise_addr (-bind, -advertise)";
                    check.refuse(Stage::Addresses, "advertise_addr", text, remedy);
                }
                bind
            }
        },
    };
    let wan = match given(check, "advertise_addr_wan") {
        Some(ip) if ip.is_unspecified() => {
            let text = "Advertise WAN address cannot be 0.0.0.0, :: or [::]";
            check.refuse(Stage::Addresses, "advertise_addr_wan", text, ANY);
            ip
        }
        Some(ip) => ip,
        None => advertise,
    };
    (advertise, wan)
}

fn client(check: &mut Check<'_>) -> Vec<IpAddr> {
    let text = check.settings.text("client_addr").to_owned();
    let hosts = hosts(check, "client_addr", &text);
    let mut ips = Vec::new();
    for host in hosts {
        match host {
            Host::Ip(ip) => ips.push(ip),
            Host::Unix(_) => check.refuse(
                Stage::Addresses,
                "client_addr",
                "client_addr cannot be a unix socket",
                "use addresses.http for unix sockets",
            ),
        }
    }
    ips
}

fn hosts(check: &mut Check<'_>, key: &str, text: &str) -> Vec<Host> {
    match address::expand(key, text, &check.machine.interfaces) {
        Ok(hosts) => hosts,
        Err(text) => {
            let remedy = "give IP addresses separated by blanks, or a template that yields some";
            check.refuse(Stage::Addresses, key, text, remedy);
            Vec::new()
        }
    }
}

fn dns(check: &mut Check<'_>, client: &[IpAddr], port: Option<u16>) -> Vec<SocketAddr> {
    let text = check.settings.text("addresses.dns").to_owned();
    let own = hosts(check, "addresses.dns", &text);
    let mut ips = Vec::new();
    for host in own {
        match host {
            Host::Ip(ip) => ips.push(ip),
            Host::Unix(_) => check.refuse(
                Stage::Addresses,
                "addresses.dns",
                "DNS address cannot be a unix socket",
                "give IP addresses",
            ),
        }
    }
    let ips = if text.is_empty() { client.to_vec() } else { ips };
    port.map_or_else(Vec::new, |port| ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
}

fn listeners(check: &mut Check<'_>, key: &str, client: &[IpAddr], port: Option<u16>) -> Vec<ListenAddr> {
    let text = check.settings.text(key).to_owned();
    let hosts = if text.is_empty() { client.iter().copied().map(Host::Ip).collect() } else { hosts(check, key, &text) };
    let Some(port) = port else { return Vec::new() };
    hosts
        .into_iter()
        .map(|host| match host {
            Host::Ip(ip) => ListenAddr::Ip(SocketAddr::new(ip, port)),
            Host::Unix(path) => ListenAddr::Unix(path),
        })
        .collect()
}

fn unix_sockets(check: &mut Check<'_>) -> UnixSockets {
    let mode = check.settings.text("unix_sockets.mode");
    let parsed = u32::from_str_radix(mode, 8).ok().filter(|bits| *bits <= 0o7777);
    if !mode.is_empty() && parsed.is_none() {
        check.refuse(
            Stage::Rules,
            "unix_sockets.mode",
            format!("invalid mode specified: {mode}"),
            "write an octal mode such as \"0770\"",
        );
    }
    UnixSockets {
        mode: parsed,
        user: check.settings.text("unix_sockets.user").to_owned(),
        group: check.settings.text("unix_sockets.group").to_owned(),
    }
}

/// Finds two listeners on one address. Nothing listens for gossip and gRPC, so their ports are not compared.
pub(crate) fn conflicts(check: &mut Check<'_>, network: &Network, role: Role) {
    let tcp = |all: &[ListenAddr]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
    let server = network.ports.server.filter(|_| role == Role::Server);
    let uses: [(&str, &str, Vec<String>); 4] = [
        ("DNS", "ports.dns", network.dns.iter().map(ToString::to_string).collect()),
        ("HTTP", "ports.http", tcp(&network.http)),
        ("HTTPS", "ports.https", tcp(&network.https)),
        (
            "RPC Server",
            "ports.server",
            server.map(|port| SocketAddr::new(network.bind, port).to_string()).into_iter().collect(),
        ),
    ];
    let mut seen: Vec<(String, &str)> = Vec::new();
    for (name, key, addresses) in uses {
        for address in addresses {
            match seen.iter().find(|(other, _)| *other == address) {
                Some((_, other)) => {
                    let text = format!("{name} address {address} already configured for {other}");
                    check.refuse(Stage::Rules, key, text, "give each listener a port of its own, or -1 to turn it off");
                }
                None => seen.push((address, name)),
            }
        }
    }
}
