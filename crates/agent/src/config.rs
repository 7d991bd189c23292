//! What the agent must be told; always valid, filled in by the binary.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lictor_model::Opaque;
use lictor_model::health::CheckSpec;
use lictor_model::meta::Meta;
use lictor_model::name::NodeName;
use lictor_model::service::Definition;

use crate::tokens::{Persistence, Tokens};

/// Everything that is fixed at start.
#[derive(Clone, Debug)]
pub struct Config {
    /// The one datacenter.
    pub datacenter: String,
    /// This node's name.
    pub node_name: NodeName,
    /// This node's UUID.
    pub node_id: String,
    /// The address that others reach this node at.
    pub advertise_addr: IpAddr,
    /// The address shown as `wan`.
    pub advertise_addr_wan: IpAddr,
    /// Further tagged addresses.
    pub tagged_addresses: BTreeMap<String, String>,
    /// Default bind address of managed proxies.
    pub bind_addr: IpAddr,
    /// Whether distances to other agents are measured.
    pub measures_distances: bool,
    /// The address of the UDP socket by which they are.
    pub ping_bind: IpAddr,
    /// Its port; without one they are not measured.
    pub ping_port: Option<u16>,
    /// Whether this agent holds the state, and so publishes the service `consul`.
    pub is_server: bool,
    /// Port of the service `consul` in the catalog.
    pub server_port: u16,
    /// Where registrations and the state of proxies are kept; without it nothing outlives the agent.
    pub data_dir: Option<PathBuf>,
    /// A private directory of this process for what must be a file even without a data directory.
    pub runtime_dir: PathBuf,
    /// Ports of managed proxies; `None` when disabled.
    pub proxy_ports: Option<RangeInclusive<u16>>,
    /// Ports of sidecars; `None` when disabled.
    pub sidecar_ports: Option<RangeInclusive<u16>>,
    /// The mesh.
    pub connect: Connect,
    /// How proxies reach this agent (`CONSUL_HTTP_ADDR` and its relatives), in the order they are set.
    pub client_environment: Vec<(String, String)>,
    /// The socket where built-in proxies ask this agent and are known by their process; without it they are given a
    /// token like any other program.
    pub proxy_socket: Option<PathBuf>,
    /// The same for proxies that run as another user.
    pub open_proxy_socket: Option<PathBuf>,
    /// Telemetry settings handed to managed proxies.
    pub proxy_telemetry: Opaque,
    /// Level given to built-in proxies as an argument; `None` when the agent's is exactly `INFO`.
    pub proxy_log_level: Option<String>,
    /// The path of this program.
    pub executable: PathBuf,
    /// Access control.
    pub acl: Acl,
    /// How long a service may be critical at least before it is removed.
    pub minimum_deregister_after: Duration,
    /// How long a node stays in the catalog after its agent was lost; for ever if zero.
    pub lost_nodes_stay: Duration,
    /// A session's time to live is at least this.
    pub shortest_session_ttl: Duration,
    /// What all checks have in common.
    pub checks: lictor_check::Config,
}

/// What is fixed of access control.
#[derive(Clone, Default)]
pub struct Acl {
    /// Secret of a token with all rights that a server makes at start; none when empty.
    pub master_token: String,
    /// Whether tokens that are set over HTTP outlive the agent.
    pub persistence: Persistence,
}

/// A log is no place for secrets.
impl std::fmt::Debug for Acl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acl").field("persistence", &self.persistence).finish_non_exhaustive()
    }
}

/// Settings of the mesh.
#[derive(Clone, Debug, Default)]
pub struct Connect {
    /// Whether there is a CA.
    pub enabled: bool,
    /// The CA's settings for its first start.
    pub ca_config: Opaque,
    /// Whether proxies may run as root.
    pub allow_managed_root: bool,
    /// Whether the HTTP API may register managed proxies.
    pub allow_managed_api_registration: bool,
    /// `proxy_defaults.exec_mode`.
    pub default_exec_mode: String,
    /// `proxy_defaults.daemon_command`.
    pub default_daemon_command: Vec<String>,
    /// `proxy_defaults.script_command`.
    pub default_script_command: Vec<String>,
    /// `proxy_defaults.config`.
    pub default_config: Opaque,
    /// Names of environment variables of the agent that managed proxies inherit, beside a small fixed set.
    pub pass_env: Vec<String>,
    /// Further environment of managed proxies.
    pub env: BTreeMap<String, String>,
    /// How long a proxy that has handed over to a successor may let its connections go on.
    pub drain_time: Duration,
    /// Whether managed proxies end with their agent.
    pub kill_on_agent_exit: bool,
    /// Who managed proxies run as, if not as the agent does.
    pub run_as: Option<RunAs>,
    /// Users that the definitions of files may name for their proxies, by the words that they use.
    pub users: BTreeMap<String, RunAs>,
    /// What each managed proxy may use of the machine, where its service does not say.
    pub limits: lictor_supervisor::Limits,
    /// What programs that are not the built-in proxy may do.
    pub command_privileges: lictor_supervisor::Privileges,
    /// The files that those may touch, where that is limited.
    pub command_files: Option<Arc<lictor_supervisor::Files>>,
    /// How long a built-in proxy may go on while its agent does not answer; for ever without it.
    pub agent_lease: Option<Duration>,
    /// How built-in proxies of this agent reach each other.
    pub same_node: SameNode,
    /// What built-in proxies give up.
    pub sandbox: Sandbox,
    /// When log files of managed proxies are rotated, and how many are kept.
    pub log_limits: lictor_supervisor::output::Limits,
    /// How long log files of managed proxies that are no more are kept.
    pub log_retention: Duration,
}

impl Connect {
    /// Whether proxies may run as other users than the agent.
    pub fn has_other_users(&self) -> bool {
        self.run_as.is_some() || !self.users.is_empty()
    }
}

/// A user of the machine as whom processes run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunAs {
    /// What it is called.
    pub name: String,
    /// Its number.
    pub uid: u32,
    /// The number of its group.
    pub gid: u32,
    /// Where it is at home.
    pub home: PathBuf,
}

/// How built-in proxies of one agent reach each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SameNode {
    /// As they reach any other.
    #[default]
    Mtls,
    /// By handing the application's connection over, vouched for by the agent and the kernel.
    Direct,
}

/// What built-in proxies give up at their start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sandbox {
    /// Files, system calls and capabilities that they do not need.
    #[default]
    On,
    /// Nothing.
    Off,
}

/// What a reload can change.
#[derive(Clone, Debug, Default)]
pub struct Reloadable {
    /// The tokens that this agent uses for itself.
    pub tokens: Tokens,
    /// Services of the configuration files.
    pub services: Vec<Definition>,
    /// Checks of the configuration files.
    pub checks: Vec<CheckSpec>,
    /// This node's metadata.
    pub node_meta: Meta,
    /// Output-only changes of checks reach the catalog at most this often.
    pub check_update_interval: Duration,
    /// Whether checks keep no output.
    pub discard_check_output: bool,
    /// Whether scripts may come from files.
    pub local_scripts: bool,
    /// Whether scripts may come over HTTP.
    pub remote_scripts: bool,
}
