//! Addresses of the configuration: templates evaluated, words split, each judged.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use super::interfaces::InterfaceAddress;
use super::template;

/// Something a listener can be bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ListenAddr {
    /// A TCP or UDP address.
    Ip(SocketAddr),
    /// A path in the file system.
    Unix(PathBuf),
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddr::Ip(address) => write!(f, "{address}"),
            ListenAddr::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

/// One word of an address key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    Ip(IpAddr),
    Unix(PathBuf),
}

/// Evaluates a key's text and reads its words. The error is the whole text of the problem.
pub(crate) fn expand(key: &str, text: &str, interfaces: &[InterfaceAddress]) -> Result<Vec<Host>, String> {
    let expanded = evaluated(key, text, interfaces)?;
    expanded.split_whitespace().map(|word| host(key, word)).collect()
}

/// Evaluates a key's text, if it has a template in it.
pub(crate) fn evaluated(key: &str, text: &str, interfaces: &[InterfaceAddress]) -> Result<String, String> {
    if !text.contains("{{") {
        return Ok(text.to_owned());
    }
    template::evaluate(text, interfaces).map_err(|why| format!("{key}: error parsing {text:?}: {why}"))
}

fn host(key: &str, word: &str) -> Result<Host, String> {
    if let Some(path) = word.strip_prefix("unix://") {
        return Ok(Host::Unix(path.into()));
    }
    if word == "[::]" {
        return Ok(Host::Ip(IpAddr::V6(Ipv6Addr::UNSPECIFIED)));
    }
    word.parse().map(Host::Ip).map_err(|_| format!("{key}: invalid ip address: {word}"))
}

/// The address others reach this node at, when only the bind address is known.
pub(crate) fn default_advertise(bind: IpAddr, interfaces: &[InterfaceAddress]) -> Result<Advertise, &'static str> {
    if !bind.is_unspecified() {
        return Ok(Advertise { ip: bind, chosen_among: 1 });
    }
    let usable = |address: &&InterfaceAddress| {
        address.has_flag("up")
            && address.is_forwardable()
            && match bind {
                IpAddr::V4(_) => address.ip.is_ipv4() && address.is_private(),
                IpAddr::V6(_) => address.ip.is_ipv6() && !address.is_private(),
            }
    };
    let candidates: Vec<&InterfaceAddress> = interfaces.iter().filter(usable).collect();
    let best = candidates.iter().find(|address| address.default_route).or(candidates.first());
    match best {
        Some(address) => Ok(Advertise { ip: address.ip, chosen_among: candidates.len() }),
        None if bind.is_ipv4() => Err("No private IPv4 address found"),
        None => Err("No public IPv6 address found"),
    }
}

/// An advertised address that was derived, and among how many it was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Advertise {
    pub(crate) ip: IpAddr,
    pub(crate) chosen_among: usize,
}
