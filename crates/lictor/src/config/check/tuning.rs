//! Joining, limits, leaving; and the ranges of keys that have no effect but must still make sense.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use lictor_model::secret;

use super::{Check, Network, Node, Role, Store};
use crate::config::address;
use crate::config::report::Stage;

/// Which servers a client asks, and how patiently.
#[derive(Clone, Debug)]
pub(crate) struct Servers {
    /// `host:port` of servers of which one must answer at the start.
    pub(crate) start_join: Vec<String>,
    /// `host:port` of servers that are tried until one answers.
    pub(crate) retry_join: Vec<String>,
    /// Between two tries.
    pub(crate) retry_interval: Duration,
    /// How many tries; `None` is for ever.
    pub(crate) retry_max: Option<u32>,
    /// How long a request is tried again while no server answers.
    pub(crate) hold: Duration,
    /// Requests per second, and at once; `None` is without limit.
    pub(crate) limit: Option<(f64, u32)>,
}

/// Start, leave and stop.
#[derive(Clone, Debug)]
pub(crate) struct Lifecycle {
    /// SIGTERM leaves gracefully.
    pub(crate) leave_on_terminate: bool,
    /// SIGINT stops at once.
    pub(crate) skip_leave_on_interrupt: bool,
    /// How long a leaving server keeps answering, if somebody has said so.
    pub(crate) leave_drain_time: Option<Duration>,
    /// Lowest time to live of a session.
    pub(crate) session_ttl_min: Duration,
    /// How long a lost node stays in the catalog; for ever if zero.
    pub(crate) reconnect_timeout: Duration,
    /// Holds the process id while the agent runs.
    pub(crate) pid_file: Option<PathBuf>,
}

/// Reads and judges.
pub(crate) fn servers(check: &mut Check<'_>, node: &Node, network: &Network, _store: &Store) -> Servers {
    let settings = check.settings;
    let mut replaced = false;
    let (mut start_join, mut retry_join) = (Vec::new(), Vec::new());
    if node.role == Role::Client {
        start_join = addresses(check, "start_join", network, &mut replaced);
        retry_join = addresses(check, "retry_join", network, &mut replaced);
    }
    if replaced {
        check.inform(format!(
            "config: join addresses with the port of gossip are asked at port {} instead: there is no gossip",
            network.ports.server.unwrap_or(DEFAULT_SERVER_PORT)
        ));
    }
    let rate = settings.float("limits.rpc_rate");
    Servers {
        start_join,
        retry_join,
        retry_interval: settings.duration("retry_interval").or_zero().max(Duration::from_millis(100)),
        retry_max: u32::try_from(settings.int("retry_max")).ok().filter(|max| *max > 0),
        hold: settings.duration("performance.rpc_hold_timeout").or_zero(),
        limit: (rate > 0.0).then(|| (rate, u32::try_from(settings.int("limits.rpc_max_burst")).unwrap_or(0).max(1))),
    }
}

const DEFAULT_SERVER_PORT: u16 = 8300;
const GOSSIP_PORT: u16 = 8301;

/// Addresses of servers: a port of gossip means the server's port, and so does none. Doubles are left out, and the
/// agent's own address, which configurations shared by all nodes contain.
fn addresses(check: &mut Check<'_>, key: &'static str, network: &Network, replaced: &mut bool) -> Vec<String> {
    let server_port = network.ports.server.unwrap_or(DEFAULT_SERVER_PORT);
    let mut all: Vec<String> = Vec::new();
    let mut cloud = Vec::new();
    for text in check.settings.texts(key) {
        if text.contains("provider=") {
            cloud.push(text);
            continue;
        }
        let words = match address::evaluated(key, &text, &check.machine.interfaces) {
            Ok(expanded) if text.contains("{{") => expanded.split_whitespace().map(str::to_owned).collect(),
            Ok(word) => vec![word],
            Err(why) => {
                check.refuse(Stage::Addresses, key, why, "correct the template");
                continue;
            }
        };
        for word in words.iter().map(|word| word.trim()).filter(|word| !word.is_empty()) {
            let Some((host, port)) = host_and_port(word) else {
                let text = format!("{key}: {word:?} is not an address");
                check.refuse(Stage::Rules, key, text, "write host, host:port or [v6]:port");
                continue;
            };
            let gossip = port.is_some_and(|port| port == GOSSIP_PORT || Some(port) == network.ports.serf_lan);
            *replaced |= gossip;
            let port = port.filter(|_| !gossip).unwrap_or(server_port);
            let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
            // On loopback all agents of a machine have the same one.
            let is_own = |ip: IpAddr| !ip.is_loopback() && [network.advertise, network.bind].contains(&ip);
            let is_own = host.parse().is_ok_and(is_own) && Some(port) == network.ports.server;
            if !is_own && !all.contains(&address) {
                all.push(address);
            }
        }
    }
    if !cloud.is_empty() {
        let shown = cloud.iter().map(|text| without_secrets(text)).collect::<Vec<_>>().join("; ");
        if all.is_empty() {
            check.refuse(
                Stage::Start,
                key,
                format!("{key}: cloud discovery is not offered: {shown}"),
                "name the servers, or a DNS name that resolves to them",
            );
        } else {
            check.warn(format!("config: {key}: cloud discovery is not offered, skipped: {shown}"));
        }
    }
    all
}

/// Splits `host`, `host:port`, `[v6]`, `[v6]:port` and a bare IPv6 address.
fn host_and_port(word: &str) -> Option<(&str, Option<u16>)> {
    if let Some(rest) = word.strip_prefix('[') {
        let (host, port) = rest.split_once(']')?;
        return match port.strip_prefix(':') {
            Some(port) => Some((host, Some(port.parse().ok()?))),
            None if port.is_empty() => Some((host, None)),
            None => None,
        };
    }
    match word.split_once(':') {
        None => Some((word, None)),
        Some((_, rest)) if rest.contains(':') => Some((word, None)),
        Some((host, port)) if !host.is_empty() => Some((host, Some(port.parse().ok()?))),
        Some(_) => None,
    }
}

/// A join address without the secrets that one of a cloud may hold.
pub(crate) fn without_secrets(text: &str) -> String {
    let words = text.split_whitespace().map(|word| match word.split_once('=') {
        Some((name, _)) if secret::is_named(name) => format!("{name}={}", secret::HIDDEN),
        _ => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Reads and judges.
pub(crate) fn lifecycle(check: &mut Check<'_>, role: Role) -> Lifecycle {
    let settings = check.settings;
    let is_server = role == Role::Server;
    let pid_file = settings.text("pid_file");
    Lifecycle {
        leave_on_terminate: settings.flag_if_set("leave_on_terminate").unwrap_or(!is_server),
        skip_leave_on_interrupt: settings.flag_if_set("skip_leave_on_interrupt").unwrap_or(is_server),
        leave_drain_time: settings
            .is_given("performance.leave_drain_time")
            .then(|| settings.duration("performance.leave_drain_time").or_zero())
            .filter(|_| is_server),
        session_ttl_min: match settings.duration("session_ttl_min").or_zero() {
            Duration::ZERO => Duration::from_secs(10),
            ttl => ttl,
        },
        reconnect_timeout: settings.duration("reconnect_timeout").or_zero(),
        pid_file: (!pid_file.is_empty()).then(|| PathBuf::from(pid_file)),
    }
}

/// Keys without effect are checked as the original does: a file that it refuses is refused here too.
pub(crate) fn without_effect(check: &mut Check<'_>) {
    let settings = check.settings;
    let multiplier = settings.int("performance.raft_multiplier");
    // 0 is documented as "the default" and refused by the original; here it means what the documentation says.
    if !(0..=10).contains(&multiplier) {
        let text = format!("performance.raft_multiplier cannot be {multiplier}. Must be between 1 and 10");
        check.refuse(Stage::Addresses, "performance.raft_multiplier", text, "write 1 to 10, or leave it out");
    }
    let protocol = settings.int("protocol");
    if protocol != 0 && !(2..=3).contains(&protocol) {
        let height = if protocol > 3 { "high" } else { "low" };
        let text = format!("Protocol version '{protocol}' too {height}. Must be in range: [2, 3]");
        check.refuse(Stage::Start, "protocol", text, "leave it out");
    }
    let raft_protocol = settings.int("raft_protocol");
    if raft_protocol != 0 && !(1..=3).contains(&raft_protocol) {
        let text = format!("Protocol version {raft_protocol} must be >= 1 and <= 3");
        check.refuse(Stage::Start, "raft_protocol", text, "leave it out");
    }
    let trailing = settings.int("autopilot.max_trailing_logs");
    if trailing < 0 {
        let text = format!("autopilot.max_trailing_logs cannot be {trailing}. Must be greater than or equal to zero");
        check.refuse(Stage::Rules, "autopilot.max_trailing_logs", text, "leave it out");
    }
    gossip_key(check);
}

fn gossip_key(check: &mut Check<'_>) {
    const REMEDY: &str = "make a key with keygen, or leave encrypt out: there is no gossip to encrypt";
    let text = check.settings.text("encrypt");
    if text.is_empty() {
        return;
    }
    match BASE64_STANDARD.decode(text) {
        Ok(key) if matches!(key.len(), 16 | 24 | 32) => {}
        Ok(_) => {
            let text = "Failed to configure keyring: Invalid key: key size must be 16, 24 or 32 bytes";
            check.refuse(Stage::Start, "encrypt", text, REMEDY);
        }
        Err(_) => check.refuse(Stage::Rules, "encrypt", "encrypt has invalid key: illegal base64 data", REMEDY),
    }
}
