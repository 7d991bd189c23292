//! `/v1/agent/connect/processes` and its neighbours: managed proxies as processes. The original has nothing like it.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::time::Time;

/// A managed proxy and its process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Process<'a> {
    /// Id of the proxy's service.
    #[serde(rename = "ProxyID")]
    pub proxy_id: Cow<'a, str>,
    /// The service it stands beside.
    #[serde(rename = "ServiceID")]
    pub service_id: Cow<'a, str>,
    /// The name of that service.
    pub service_name: Cow<'a, str>,
    /// Program and arguments; `null` for callers that may not write the service.
    pub command: Option<Vec<String>>,
    /// `starting`, `running`, `ready`, `unheard`, `backing-off`, `stopping`, `stopped`, `failed` or `draining`.
    pub state: Cow<'a, str>,
    /// Since when.
    pub since: Option<Time>,
    /// Its pid while it runs.
    #[serde(rename = "PID")]
    pub pid: Option<u32>,
    /// When that process was started.
    pub started: Option<Time>,
    /// How long it has been running.
    pub uptime_seconds: Option<u64>,
    /// Whether an earlier agent started it.
    pub adopted: bool,
    /// Whether it has said that it is ready.
    pub ready: bool,
    /// Whether everything is there: certificates, listeners, and an instance for each upstream.
    pub serving: bool,
    /// Starts after the first, since the agent began.
    pub restarts: u32,
    /// How the last run ended.
    pub last_exit: Option<Exit<'a>>,
    /// The next start, when it waits for one.
    pub next_try: Option<Time>,
    /// Since when nothing was heard of it though it should report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unheard_since: Option<Time>,
    /// What it last said of itself.
    pub status: Cow<'a, str>,
    /// Why it may not be started.
    pub refused: Option<Cow<'a, str>>,
    /// The last replacement, when it failed and what ran goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_replaced: Option<NotReplaced<'a>>,
    /// Whether an operator stopped it.
    pub held: bool,
    /// While it is being drained: when that is over at the latest.
    pub drain_until: Option<Time>,
    /// Memory of its process, in bytes.
    pub memory_bytes: Option<u64>,
    /// Memory of its control group, with all that it started; absent where it has none of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_memory_bytes: Option<u64>,
    /// The limit of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit_bytes: Option<u64>,
    /// Processor time it has used.
    #[serde(rename = "CPUSeconds")]
    pub cpu_seconds: Option<f64>,
    /// Open descriptors.
    pub open_files: Option<u64>,
    /// What the built-in proxy reports; `null` for other programs.
    pub report: Option<Report>,
    /// The check that looks whether it listens.
    pub check: Option<Check<'a>>,
}

/// A replacement that failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct NotReplaced<'a> {
    /// In words.
    pub cause: Cow<'a, str>,
    /// When.
    pub at: Time,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Exit<'a> {
    /// In words.
    pub reason: Cow<'a, str>,
    /// When.
    pub at: Time,
    /// How long it had run.
    pub ran_seconds: f64,
    /// Its last lines.
    pub output: Vec<String>,
}

/// What the built-in proxy reports.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Report {
    /// Connections being carried.
    pub connections: u64,
    /// Those of them that peers opened.
    pub inbound: u64,
    /// Open listeners.
    pub listeners_open: u64,
    /// Listeners there should be.
    pub listeners_wanted: u64,
    /// The open ones, as `what=address`.
    pub listening: Vec<String>,
    /// Upstreams with a healthy instance.
    pub upstreams_reachable: u64,
    /// Upstreams there are.
    pub upstreams_wanted: u64,
    /// Healthy instances of each, as `name=count`.
    pub endpoints: Vec<String>,
    /// Upstreams without one.
    pub unreachable: Vec<String>,
    /// Until when its certificate is valid.
    pub leaf_valid_until: Option<Time>,
    /// Roots it trusts.
    pub roots: u64,
    /// Connections that went to or came from another proxy of the agent without TLS.
    #[serde(default)]
    pub direct_connections: u64,
    /// Connections that could have and went with TLS.
    #[serde(default)]
    pub direct_fallbacks: u64,
}

/// A check and what it says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Check<'a> {
    /// `passing`, `warning` or `critical`.
    pub status: Cow<'a, str>,
    /// Its output.
    pub output: Cow<'a, str>,
}

/// Why a managed proxy does not serve, or what else is in its way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Why<'a> {
    /// Id of the proxy's service.
    #[serde(rename = "ProxyID")]
    pub proxy_id: Cow<'a, str>,
    /// Whether it serves.
    pub serving: bool,
    /// From what is seen to what is behind it; empty when all is well.
    pub causes: Vec<Cause<'a>>,
}

/// One link of a chain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Cause<'a> {
    /// 0 for what is seen; each is behind the nearest one before it with less.
    #[serde(default)]
    pub depth: usize,
    /// What is so.
    pub cause: Cow<'a, str>,
    /// What can be done about it; empty when the next cause tells.
    pub remedy: Cow<'a, str>,
}
