//! What this face must be told: where to listen, how to answer, and whom to ask for what only the process can do.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lictor_api::json::Layout;
use lictor_link::Servers;
use lictor_link::kept::Kept;
use lictor_model::Opaque;
use lictor_model::acl::Caller;
use lictor_model::name::NodeName;
use lictor_tls::listener::Acceptor;
use tokio::sync::mpsc;

/// Everything that is fixed at start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen; several at once.
    pub listeners: Vec<Listener>,
    /// The one datacenter.
    pub datacenter: String,
    /// This node's name.
    pub node_name: NodeName,
    /// This node's UUID.
    pub node_id: String,
    /// The address that others reach this node at.
    pub advertise_addr: IpAddr,
    /// The address shown to other datacenters.
    pub advertise_addr_wan: IpAddr,
    /// Ports shown for this node.
    pub ports: Ports,
    /// The version shown by `/v1/agent/self`.
    pub version: String,
    /// The source revision shown there; may be empty.
    pub revision: String,
    /// Layout of JSON for requests that do not ask for one; `-dev` is always pretty.
    pub layout: Layout,
    /// Added to every answer below `/v1`.
    pub response_headers: BTreeMap<String, String>,
    /// Paths that begin so are refused.
    pub block_endpoints: Vec<String>,
    /// If not empty, only these networks may change anything.
    pub allow_write_from: Vec<Network>,
    /// Whether answers say that node addresses of other datacenters are translated.
    pub translate_wan_addrs: bool,
    /// The files of a page that is served below `/ui/`.
    pub page: Option<PathBuf>,
    /// What happens to paths with characters that do not print.
    pub unprintable_paths: Unprintable,
    /// If not zero, catalog and health reads that name no consistency may be stale by this.
    pub discovery_max_stale: Duration,
    /// Whether there is a mesh.
    pub mesh: Mesh,
    /// Who may list keys.
    pub key_lists: KeyLists,
    /// The value of `DebugConfig`, secrets already hidden.
    pub debug_config: Opaque,
    /// Whom this agent asks what it does not know itself; `None` where it holds the state.
    pub elsewhere: Option<Arc<Elsewhere>>,
    /// Who looks names up for client agents, where they are served.
    pub names: Option<Arc<dyn Names>>,
}

impl fmt::Debug for dyn Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Names")
    }
}

/// Looks names up for the DNS of client agents; the binary implements it.
pub trait Names: Send + Sync {
    /// Answers a question, in the form that both sides know, with the rights of a caller and for a node. The error is that
    /// the question makes no sense.
    fn look_up(&self, caller: &Caller, node: &str, asked: &[u8]) -> Result<Vec<u8>, String>;
}

/// Whom a client agent asks.
pub struct Elsewhere {
    /// Its servers.
    pub servers: Servers,
    /// What they have answered; `None` where nothing holds that they cannot confirm.
    pub kept: Option<Kept>,
}

impl fmt::Debug for Elsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Elsewhere").field("servers", &self.servers.known()).finish_non_exhaustive()
    }
}

/// Whether there is a mesh: a CA and what follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mesh {
    /// There is.
    Enabled,
    /// Its endpoints say that there is none.
    Disabled,
}

/// Who may list keys of the key-value store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyLists {
    /// Everyone sees those that they may read.
    #[default]
    Filtered,
    /// Only who has a right of its own for that.
    NeedRight,
}

/// Ports that answers show; nothing listens on them here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    /// Of the server.
    pub server: u16,
    /// Of membership within the datacenter.
    pub serf_lan: u16,
    /// Of membership between datacenters.
    pub serf_wan: u16,
}

/// One place to listen at.
#[derive(Clone)]
pub enum Listener {
    /// A TCP address; port 0 takes a free one.
    Tcp(SocketAddr),
    /// A TCP address where TLS is spoken. The acceptor's owner can have it read its files again.
    Tls(SocketAddr, Arc<Acceptor>),
    /// A Unix socket. A file that is there already is replaced.
    Unix {
        /// Where.
        path: PathBuf,
        /// Permission bits of the socket file.
        mode: Option<u32>,
        /// Its owner, as a numeric id.
        user: Option<u32>,
        /// Its group, as a numeric id.
        group: Option<u32>,
        /// What speaks TLS there, if anything.
        acceptor: Option<Arc<Acceptor>>,
    },
    /// A TCP address for client agents: the whole API, and what they alone may ask.
    Agents {
        /// Where.
        address: SocketAddr,
        /// What speaks TLS there, with certificates on both sides. In the clear where there is none, and then the agent can
        /// do without.
        acceptor: Option<Arc<Acceptor>>,
    },
    /// A Unix socket for managed proxies of this agent alone: the kernel says which process asks, and no secret is
    /// needed or looked at. A file that is there already is replaced.
    Proxies {
        /// Where; in a folder that only its owner can change.
        path: PathBuf,
        /// Whether other users may connect, as whom proxies run.
        open: bool,
    },
}

impl Listener {
    /// What speaks TLS there, if anything.
    pub(crate) fn acceptor(&self) -> Option<&Arc<Acceptor>> {
        match self {
            Listener::Tls(_, acceptor) => Some(acceptor),
            Listener::Unix { acceptor, .. } | Listener::Agents { acceptor, .. } => acceptor.as_ref(),
            Listener::Tcp(_) | Listener::Proxies { .. } => None,
        }
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listener::Tcp(address) => f.debug_tuple("Tcp").field(address).finish(),
            Listener::Tls(address, _) => f.debug_tuple("Tls").field(address).finish_non_exhaustive(),
            Listener::Proxies { path, open } => {
                f.debug_struct("Proxies").field("path", path).field("open", open).finish()
            }
            Listener::Agents { address, .. } => f.debug_tuple("Agents").field(address).finish_non_exhaustive(),
            Listener::Unix { path, .. } => f.debug_tuple("Unix").field(path).finish_non_exhaustive(),
        }
    }
}

/// What happens to paths with characters that do not print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unprintable {
    /// They are refused.
    #[default]
    Refused,
    /// They are looked up like others.
    Accepted,
}

/// An IP network, `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    base: IpAddr,
    prefix: u8,
}

impl Network {
    /// The address it was written with.
    pub fn base(self) -> IpAddr {
        self.base
    }

    /// How many leading bits of an address are those of the network.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// Whether an address lies in it. An IPv4 address written as IPv6 counts as the IPv4 one.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.base, address.to_canonical()) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                same_prefix(base.to_bits().into(), address.to_bits().into(), 32, self.prefix)
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => same_prefix(base.to_bits(), address.to_bits(), 128, self.prefix),
            _ => false,
        }
    }
}

fn same_prefix(base: u128, address: u128, width: u8, prefix: u8) -> bool {
    let ignored = u32::from(width - prefix);
    base.checked_shr(ignored).unwrap_or(0) == address.checked_shr(ignored).unwrap_or(0)
}

/// A text that is no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid CIDR address: {0}")]
pub struct InvalidNetwork(String);

impl FromStr for Network {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Network, InvalidNetwork> {
        let invalid = || InvalidNetwork(text.to_owned());
        let (base, prefix) = text.split_once('/').ok_or_else(invalid)?;
        let base: IpAddr = base.parse().map_err(|_| invalid())?;
        let prefix: u8 = prefix.parse().map_err(|_| invalid())?;
        let width = if base.is_ipv4() { 32 } else { 128 };
        if prefix > width { Err(invalid()) } else { Ok(Network { base, prefix }) }
    }
}

/// How much a reader of the log wants to see; each level includes the ones below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Everything.
    Trace,
    /// What helps to find a fault.
    Debug,
    /// What happens.
    Info,
    /// What should not happen.
    Warn,
    /// What failed.
    Err,
}

impl LogLevel {
    /// Reads a level; case does not count.
    pub fn parse(text: &str) -> Option<LogLevel> {
        match text.to_ascii_uppercase().as_str() {
            "TRACE" => Some(LogLevel::Trace),
            "DEBUG" => Some(LogLevel::Debug),
            "INFO" => Some(LogLevel::Info),
            "WARN" => Some(LogLevel::Warn),
            "ERR" => Some(LogLevel::Err),
            _ => None,
        }
    }
}

/// A future of a [`Process`] method.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What only the whole process can do; the binary implements it.
pub trait Process: Send + Sync + 'static {
    /// Reads the configuration again and applies what can change; the error's text is shown to the client.
    fn reload(&self) -> Pending<'_, Result<(), String>>;

    /// Leaves the cluster and begins the end of the process; ready when it has left.
    fn leave(&self) -> Pending<'_, ()>;

    /// Moves the state to where the configuration now says it is kept; tells what was moved. The error's text is shown to
    /// the client.
    fn move_store(&self) -> Pending<'_, Result<String, String>> {
        Box::pin(async { Err("this process cannot move its store".to_owned()) })
    }

    /// The last lines of the log and then each new one, without line ends. A reader that is too slow loses lines.
    fn log_tail(&self, level: LogLevel) -> mpsc::Receiver<Bytes>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    #[test]
    fn networks_contain_what_shares_their_prefix() {
        let check = |net: &str, address: &str| network(net).contains(address.parse().unwrap());
        assert!(check("10.0.0.0/8", "10.1.2.3"));
        assert!(!check("10.0.0.0/8", "11.1.2.3"));
        assert!(check("10.0.0.0/8", "::ffff:10.1.2.3"));
        assert!(check("0.0.0.0/0", "1.2.3.4"));
        assert!(!check("0.0.0.0/0", "::1"));
        assert!(check("127.0.0.1/32", "127.0.0.1"));
        assert!(!check("127.0.0.1/32", "127.0.0.2"));
        assert!(check("::/0", "fe80::1"));
        assert!(check("fd00::/8", "fd12::9"));
        assert!(!check("::1/128", "::2"));
    }

    #[test]
    fn what_is_no_network_is_named() {
        for text in ["10.0.0.0", "10.0.0.0/33", "::/129", "x/8", "10.0.0.0/-1"] {
            assert_eq!(text.parse::<Network>().unwrap_err().to_string(), format!("invalid CIDR address: {text}"));
        }
    }

    #[test]
    fn log_levels_have_no_case() {
        assert_eq!(LogLevel::parse("warn"), Some(LogLevel::Warn));
        assert_eq!(LogLevel::parse("ERR"), Some(LogLevel::Err));
        assert_eq!(LogLevel::parse("loud"), None);
    }
}
