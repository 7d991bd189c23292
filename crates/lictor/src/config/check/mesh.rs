//! The mesh: the authority, managed proxies, and their defaults.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lictor_agent::config::SameNode;
use lictor_model::Opaque;
use lictor_model::service::ProxyLimits;
use lictor_supervisor::{Calls, Files, Gain, Limits, Paths, Privileges};
use serde_json::Value;

use super::Check;
use super::node::is_uuid;
use crate::config::report::Stage;

/// The mesh.
#[derive(Clone)]
pub(crate) struct Mesh {
    /// Whether there is an authority.
    pub(crate) enabled: bool,
    /// The authority's settings, as written; may hold a private key.
    pub(crate) ca_config: Opaque,
    /// Run managed proxies as root.
    pub(crate) allow_managed_root: bool,
    /// Let the HTTP API register managed proxies.
    pub(crate) allow_managed_api_registration: bool,
    /// Users that definitions may name, as written.
    pub(crate) allowed_users: Vec<String>,
    /// How built-in proxies of this agent reach each other.
    pub(crate) same_node: SameNode,
    /// What managed proxies inherit.
    pub(crate) proxy_defaults: ProxyDefaults,
}

// `ca_config` may hold a private key.
impl std::fmt::Debug for Mesh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mesh")
            .field("enabled", &self.enabled)
            .field("proxy_defaults", &self.proxy_defaults)
            .finish_non_exhaustive()
    }
}

/// What managed proxies inherit.
#[derive(Clone, Debug, Default)]
pub(crate) struct ProxyDefaults {
    /// `daemon`, `script` or empty.
    pub(crate) exec_mode: String,
    /// Program and arguments; empty for the built-in proxy.
    pub(crate) daemon_command: Vec<String>,
    /// The same for `script`.
    pub(crate) script_command: Vec<String>,
    /// Settings, overlaid by each service's own.
    pub(crate) config: Opaque,
    /// Further environment variables.
    pub(crate) env: BTreeMap<String, String>,
    /// Variables of the agent that are inherited.
    pub(crate) pass_env: Vec<String>,
    /// How long one that has handed over may let its connections go on.
    pub(crate) drain_time: Duration,
    /// Who they run as, as written; empty for the agent's own user.
    pub(crate) run_as: String,
    /// What each may use of the machine, where its service does not say.
    pub(crate) limits: Limits,
    /// What programs other than the built-in proxy may do.
    pub(crate) command_privileges: Privileges,
    /// The files that those may touch, where that is limited.
    pub(crate) command_files: Option<Arc<Files>>,
    /// Whether they end with their agent.
    pub(crate) kill_on_agent_exit: bool,
    /// How long a built-in one may go on without its agent; zero for ever.
    pub(crate) agent_lease: Duration,
    /// Whether the built-in proxy gives up what it does not need.
    pub(crate) sandbox: bool,
    /// What becomes of their log files.
    pub(crate) logs: ProxyLogs,
}

/// What becomes of the log files of managed proxies.
#[derive(Clone, Debug, Default)]
pub(crate) struct ProxyLogs {
    /// They are rotated above this.
    pub(crate) rotate_bytes: u64,
    /// They are rotated when this old; zero leaves it to the size.
    pub(crate) rotate_duration: Duration,
    /// Rotated files kept.
    pub(crate) max_files: u32,
    /// How long those of deregistered proxies are kept.
    pub(crate) retention: Duration,
}

/// Reads and judges.
pub(crate) fn mesh(check: &mut Check<'_>) -> Mesh {
    let settings = check.settings;
    match settings.text("connect.ca_provider") {
        "" | "consul" => {}
        "vault" => check.refuse(
            Stage::Start,
            "connect.ca_provider",
            "vault is a CA provider that this build does not have",
            "use \"consul\", the built-in authority",
        ),
        other => check.refuse(
            Stage::Rules,
            "connect.ca_provider",
            format!("{other} is not a valid CA provider"),
            "use \"consul\", or leave it out",
        ),
    }
    let ca_config = settings.opaque("connect.ca_config");
    authority(check, &ca_config);
    Mesh {
        enabled: settings.flag("connect.enabled"),
        ca_config,
        allow_managed_root: settings.flag("connect.proxy.allow_managed_root"),
        allow_managed_api_registration: settings.flag("connect.proxy.allow_managed_api_registration"),
        allowed_users: settings.texts("connect.proxy.allowed_users"),
        same_node: same_node(check),
        proxy_defaults: proxy_defaults(check),
    }
}

fn same_node(check: &mut Check<'_>) -> SameNode {
    match check.settings.text("connect.same_node") {
        "" | "mtls" => SameNode::Mtls,
        "direct" => SameNode::Direct,
        other => {
            check.refuse(
                Stage::Rules,
                "connect.same_node",
                format!("connect.same_node: {other:?} is neither \"mtls\" nor \"direct\""),
                "write \"mtls\", or leave it out",
            );
            SameNode::Mtls
        }
    }
}

/// A member in either spelling: `leaf_cert_ttl`, `LeafCertTTL`.
fn member<'a>(config: &'a Opaque, snake: &str) -> Option<&'a Value> {
    let plain = |name: &str| name.chars().filter(|c| *c != '_').flat_map(char::to_lowercase).collect::<String>();
    let wanted = plain(snake);
    config.get(snake).or_else(|| config.iter().find(|(name, _)| plain(name) == wanted).map(|(_, value)| value))
}

fn authority(check: &mut Check<'_>, config: &Opaque) {
    const KEY: &str = "connect.ca_config";
    const HOUR: Duration = Duration::from_secs(3600);
    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
    match member(config, "leaf_cert_ttl") {
        None | Some(Value::Null) => {}
        Some(Value::String(text)) => match lictor_notation::duration::parse(text) {
            Ok(ttl) if ttl < HOUR => {
                check.refuse(
                    Stage::Rules,
                    KEY,
                    "leaf cert TTL must be greater than 1h",
                    "write leaf_cert_ttl = \"72h\"",
                );
            }
            Ok(ttl) if ttl > YEAR => {
                let text = "leaf cert TTL must be less than 1 year";
                check.refuse(Stage::Rules, KEY, text, "write leaf_cert_ttl = \"72h\"");
            }
            Ok(_) => {}
            Err(error) => {
                let text = format!("connect.ca_config.leaf_cert_ttl: invalid duration: {text:?}: {error}");
                check.refuse(Stage::Rules, KEY, text, "write leaf_cert_ttl = \"72h\"");
            }
        },
        Some(_) => {
            let text = "connect.ca_config.leaf_cert_ttl: must be a duration in quotes";
            check.refuse(Stage::Rules, KEY, text, "write leaf_cert_ttl = \"72h\"");
        }
    }
    let is_set = |name: &str| member(config, name).and_then(Value::as_str).is_some_and(|text| !text.is_empty());
    if is_set("root_cert") && !is_set("private_key") {
        let text = "must provide a private key when providing a root cert";
        check.refuse(Stage::Rules, KEY, text, "add private_key, or remove root_cert");
    }
    if let Some(Value::String(id)) = member(config, "cluster_id")
        && !id.is_empty()
        && !is_uuid(id)
    {
        let text = format!("cluster_id was supplied but was not a valid UUID: {id:?}");
        check.refuse(Stage::Rules, KEY, text, "write a UUID, or leave cluster_id out to have one made");
    }
}

fn proxy_defaults(check: &mut Check<'_>) -> ProxyDefaults {
    let settings = check.settings;
    let exec_mode = settings.text("connect.proxy_defaults.exec_mode").to_owned();
    if !matches!(exec_mode.as_str(), "" | "daemon" | "script") {
        check.refuse(
            Stage::Start,
            "connect.proxy_defaults.exec_mode",
            format!("invalid exec mode: {exec_mode}"),
            "write \"daemon\", or leave it out",
        );
    }
    let command = settings.texts("connect.proxy_defaults.command");
    let daemon_command = settings.texts("connect.proxy_defaults.daemon_command");
    if !command.is_empty() && command != daemon_command {
        check.refuse(
            Stage::Rules,
            "connect.proxy_defaults.command",
            "connect.proxy_defaults.command and connect.proxy_defaults.daemon_command differ",
            "they are the same setting; keep one of them",
        );
    }
    let pass_env = settings.texts("connect.proxy_defaults.pass_env");
    let env = settings.text_map("connect.proxy_defaults.env");
    let bad = |name: &str| name.is_empty() || name.contains(['=', '\0']);
    for (key, names) in [
        ("connect.proxy_defaults.pass_env", pass_env.iter().collect::<Vec<_>>()),
        ("connect.proxy_defaults.env", env.keys().collect()),
    ] {
        if let Some(name) = names.into_iter().find(|name| bad(name)) {
            check.refuse(Stage::Rules, key, format!("{key}: {name:?} is not a variable"), "name a variable, without =");
        }
    }
    ProxyDefaults {
        exec_mode,
        daemon_command,
        script_command: settings.texts("connect.proxy_defaults.script_command"),
        config: settings.opaque("connect.proxy_defaults.config"),
        env,
        pass_env,
        drain_time: settings.duration("connect.proxy_defaults.drain_time").or_zero(),
        run_as: settings.text("connect.proxy_defaults.run_as").to_owned(),
        limits: limits(check),
        command_privileges: command_privileges(check),
        command_files: command_files(check),
        kill_on_agent_exit: settings.flag("connect.proxy_defaults.kill_on_agent_exit"),
        agent_lease: settings.duration("connect.proxy_defaults.agent_lease").or_zero(),
        sandbox: settings.flag("connect.proxy_defaults.sandbox"),
        logs: proxy_logs(check),
    }
}

fn limits(check: &mut Check<'_>) -> Limits {
    let number = |name: &str| check.settings.int(&format!("connect.proxy_defaults.{name}"));
    let wanted = ProxyLimits {
        open_files: number("limit_open_files"),
        memory: number("limit_memory"),
        cpu_weight: number("cpu_weight"),
    };
    if let Err((name, why)) = wanted.validate() {
        let key = match name {
            "limit_open_files" => "connect.proxy_defaults.limit_open_files",
            "limit_memory" => "connect.proxy_defaults.limit_memory",
            _ => "connect.proxy_defaults.cpu_weight",
        };
        check.refuse(Stage::Rules, key, format!("{key} {why}"), "write a number in that range, or leave it out");
    }
    let given = |number: i64| u64::try_from(number).ok().filter(|number| *number > 0);
    Limits {
        open_files: given(wanted.open_files),
        memory: given(wanted.memory),
        cpu_weight: u16::try_from(wanted.cpu_weight).ok().filter(|weight| *weight > 0),
    }
}

/// The capabilities of Linux, each at the place of its number.
const CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

fn command_privileges(check: &mut Check<'_>) -> Privileges {
    const GAIN: &str = "connect.proxy_defaults.command_new_privileges";
    const CAPABLE: &str = "connect.proxy_defaults.command_capabilities";
    const CALLS: &str = "connect.proxy_defaults.command_system_calls";
    let wanted = match check.settings.text(GAIN) {
        "" | "auto" => Gain::AsOurUser,
        "no" => Gain::Never,
        "yes" => Gain::Allowed,
        other => {
            let text = format!("{GAIN}: {other:?} is none of \"auto\", \"no\" and \"yes\"");
            check.refuse(Stage::Rules, GAIN, text, "write \"auto\", or leave it out");
            Gain::Never
        }
    };
    let capabilities = match check.settings.text(CAPABLE) {
        "" | "inherit" => None,
        "none" => Some(0),
        list => {
            let mut bits = 0;
            for name in list.split([',', ' ']).filter(|name| !name.is_empty()) {
                match CAPABILITIES.iter().position(|known| known.eq_ignore_ascii_case(name)) {
                    Some(number) => bits |= 1 << number,
                    None => {
                        let text = format!("{CAPABLE}: there is no capability {name:?}");
                        let remedy = "write names such as CAP_NET_BIND_SERVICE with commas between, or \"none\"";
                        check.refuse(Stage::Rules, CAPABLE, text, remedy);
                    }
                }
            }
            Some(bits)
        }
    };
    let wanted = match wanted {
        // The kernel fences nobody in who might come to privileges.
        Gain::AsOurUser if PATHS.iter().any(|key| !check.settings.texts(key).is_empty()) => Gain::Never,
        other => other,
    };
    let (gain, calls) = match (check.settings.text(CALLS), wanted) {
        ("" | "auto", gain) => (gain, Calls::OfServers),
        ("all", gain) => (gain, Calls::All),
        // A setuid program with a part of its system calls could be made to go wrong with its privileges, so that the kernel
        // lets nobody but root do that to others.
        ("proxy", Gain::Allowed) => {
            let text = format!(
                "{CALLS} = \"proxy\" goes only with programs that cannot gain privileges, and {GAIN} is \"yes\""
            );
            check.refuse(Stage::Rules, CALLS, text, format!("leave {GAIN} out, or write {CALLS} = \"all\""));
            (Gain::Never, Calls::OfServers)
        }
        ("proxy", Gain::AsOurUser | Gain::Never) => (Gain::Never, Calls::OfServers),
        (other, gain) => {
            let text = format!("{CALLS}: {other:?} is none of \"auto\", \"all\" and \"proxy\"");
            check.refuse(Stage::Rules, CALLS, text, "write \"auto\", or leave it out");
            (gain, Calls::OfServers)
        }
    };
    Privileges { gain, capabilities, calls }
}

fn command_files(check: &mut Check<'_>) -> Option<Arc<Files>> {
    const GAIN: &str = "connect.proxy_defaults.command_new_privileges";
    let [read, write] = PATHS.map(|key| {
        let paths: Vec<PathBuf> = check.settings.texts(key).into_iter().map(PathBuf::from).collect();
        for path in &paths {
            if !path.is_absolute() || path.as_os_str().as_encoded_bytes().contains(&0) {
                let text = format!("{key}: {path:?} is no absolute path");
                check.refuse(Stage::Rules, key, text, "write the path from the root on, such as \"/etc/haproxy\"");
            }
        }
        Paths { key: key.to_owned(), paths }
    });
    let limited = [&read, &write].into_iter().find(|listed| !listed.paths.is_empty())?;
    if check.settings.text(GAIN) == "yes" {
        let key = &limited.key;
        let text = format!("{key} goes only with programs that cannot gain privileges, and {GAIN} is \"yes\"");
        let remedy = format!("leave {GAIN} out, or {}", PATHS.join(" and "));
        check.refuse(Stage::Rules, PATHS[usize::from(read.paths.is_empty())], text, remedy);
    }
    Some(Arc::new(Files { read, write }))
}

/// What lists the files that custom commands may read, and those that they may write.
const PATHS: [&str; 2] = ["connect.proxy_defaults.command_read_paths", "connect.proxy_defaults.command_write_paths"];

fn proxy_logs(check: &mut Check<'_>) -> ProxyLogs {
    const BYTES: &str = "connect.proxy_defaults.log_rotate_bytes";
    const FILES: &str = "connect.proxy_defaults.log_rotate_max_files";
    let settings = check.settings;
    let rotate_bytes = u64::try_from(settings.int(BYTES)).unwrap_or_default();
    if rotate_bytes < 4096 {
        check.refuse(Stage::Rules, BYTES, format!("{BYTES} must be at least 4096"), "write 10485760, or leave it out");
    }
    let max_files = u32::try_from(settings.int(FILES)).ok().filter(|files| *files <= 1000);
    if max_files.is_none() {
        check.refuse(Stage::Rules, FILES, format!("{FILES} must be between 0 and 1000"), "write 5, or leave it out");
    }
    ProxyLogs {
        rotate_bytes,
        rotate_duration: settings.duration("connect.proxy_defaults.log_rotate_duration").or_zero(),
        max_files: max_files.unwrap_or_default(),
        retention: settings.duration("connect.proxy_defaults.log_retention").or_zero(),
    }
}
