//! From a configuration that was read and judged to what each room must be told.

mod debug;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use lictor_agent::config::{Connect, Reloadable, RunAs, Sandbox};
use lictor_agent::tokens::{Persistence, Tokens};
use lictor_api::json::Layout;
use lictor_http::config::{KeyLists, Listener, LogLevel, Mesh, Network, Ports, Unprintable};
use lictor_link::tokens::DownPolicy;
use lictor_model::Opaque;
use lictor_model::acl::Enforcement;
use lictor_model::intention::Action;
use lictor_state::tokens::Acl;
use lictor_tls::dialer;
use lictor_tls::listener::{Acceptor, Clients, Files, Order};

pub(crate) use crate::config::{FlagProblem, Sources};

use crate::cli::version::COMPATIBLE;
use crate::config::address::ListenAddr;
use crate::config::check::acl::DefaultPolicy;
use crate::config::check::{AgentConfig, Role};
use crate::config::watch::Watch;
use crate::config::{self, Loaded, Settings};
use crate::storage::StoreChoice;
use crate::users;

/// Below this, `deregister_critical_service_after` is raised to it, as in the original.
const MINIMUM_DEREGISTER_AFTER: Duration = Duration::from_secs(60);

/// Everything an agent is started with.
pub(crate) struct Plan {
    pub(crate) sources: Sources,
    pub(crate) agent: lictor_agent::Config,
    pub(crate) state: lictor_state::Config,
    pub(crate) reloadable: Reloadable,
    pub(crate) http: lictor_http::Config,
    pub(crate) dns: lictor_dns::Config,
    pub(crate) dns_addresses: Vec<SocketAddr>,
    pub(crate) store: StoreChoice,
    pub(crate) store_config: config::check::Store,
    pub(crate) log_level: LogLevel,
    /// The log beside standard output.
    pub(crate) log: crate::config::check::Log,
    pub(crate) telemetry: crate::config::check::Telemetry,
    /// Whom a client agent asks.
    pub(crate) asked: Option<Asked>,
    pub(crate) lifecycle: Lifecycle,
    /// What the agent looks at for others, and how it reaches its own API for that.
    pub(crate) watches: Vec<Watch>,
    pub(crate) watching: Vec<(String, String)>,
    /// Every value, to compare with a later load.
    pub(crate) settings: Settings,
    /// What the user sees once everything listens.
    pub(crate) banner: Vec<String>,
    /// What the user should change.
    pub(crate) warnings: Vec<String>,
    /// What is worth knowing.
    pub(crate) notices: Vec<String>,
}

/// Whom a client agent asks, and how.
pub(crate) struct Asked {
    /// How they are found at the start.
    pub(crate) join: crate::config::check::Servers,
    pub(crate) servers: lictor_link::servers::Config,
    /// How long it is believed what a token stands for, and what holds when that cannot be asked.
    pub(crate) token_ttl: Duration,
    pub(crate) down_policy: DownPolicy,
}

/// How signals end the agent.
pub(crate) struct Lifecycle {
    pub(crate) leave_on_terminate: bool,
    pub(crate) skip_leave_on_interrupt: bool,
    pub(crate) leave_drain_time: Option<Duration>,
    pub(crate) pid_file: Option<PathBuf>,
}

/// Reads the configuration and works out the plan; the error is the whole text for the user.
pub(crate) fn load(sources: &Sources) -> Result<Plan, String> {
    let loaded = config::load(sources).map_err(|errors| errors.to_string())?;
    plan(sources, loaded)
}

fn plan(sources: &Sources, loaded: Loaded) -> Result<Plan, String> {
    let Loaded { config, services, checks, watches, notices, settings } = loaded;
    let store = match config.node.role {
        Role::Server => StoreChoice::new(&config.store, config.node.data_dir.as_deref())?,
        // What a client knows of the cluster is a copy, and gone with it.
        Role::Client => StoreChoice::Memory,
    };
    if let Some(folder) = &config.node.data_dir {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(folder)
            .map_err(|error| format!("cannot make data_dir {}: {error}", folder.display()))?;
    }
    let node_id = match &config.node.id {
        Some(id) => id.clone(),
        None => kept_node_id(config.node.data_dir.as_deref(), config.node.id_from_host)?,
    };
    let mut warnings = Vec::new();
    let mut informed = Vec::new();
    for notice in notices {
        match notice.weight {
            config::Weight::Warn => warnings.push(notice.text),
            config::Weight::Info => informed.push(notice.text),
        }
    }
    let watching = client_environment(&config);
    if !watches.is_empty() && watching.is_empty() {
        return Err(
            "watches need an HTTP or HTTPS listener, because they ask this agent's own API: set ports.http, or \
                    remove watches"
                .into(),
        );
    }
    let watches: Vec<Watch> = watches.into_iter().map(|declared| declared.value).collect();
    let log_level = match config.log.level {
        config::check::output::Level::Trace => LogLevel::Trace,
        config::check::output::Level::Debug => LogLevel::Debug,
        config::check::output::Level::Info => LogLevel::Info,
        config::check::output::Level::Warn => LogLevel::Warn,
        config::check::output::Level::Err => LogLevel::Err,
    };
    let reloadable = Reloadable {
        tokens: tokens(&config),
        services: services.into_iter().map(|declared| declared.value).collect(),
        checks: checks.into_iter().map(|declared| declared.value).collect(),
        node_meta: config.node.meta.clone(),
        check_update_interval: config.checks.update_interval,
        discard_check_output: config.checks.discard_output,
        local_scripts: config.checks.local_scripts,
        remote_scripts: config.checks.remote_scripts,
    };
    let http = http(&config, &settings, &reloadable, &watches, node_id.clone())?;
    informed.extend(no_agents(&config, &http.listeners));
    Ok(Plan {
        sources: sources.clone(),
        banner: banner(&config, &node_id),
        agent: agent(&config, node_id)?,
        state: lictor_state::Config { datacenter: config.node.datacenter.clone(), acl: acl(&config) },
        http,
        dns: dns(&config)?,
        dns_addresses: config.network.dns.clone(),
        reloadable,
        watches,
        watching,
        store,
        store_config: config.store.clone(),
        log_level,
        log: config.log.clone(),
        telemetry: config.telemetry.clone(),
        asked: (config.node.role == Role::Client).then(|| asked(&config)),
        lifecycle: Lifecycle {
            leave_on_terminate: config.lifecycle.leave_on_terminate,
            skip_leave_on_interrupt: config.lifecycle.skip_leave_on_interrupt,
            leave_drain_time: config.lifecycle.leave_drain_time,
            pid_file: config.lifecycle.pid_file.clone(),
        },
        warnings,
        notices: informed,
        settings,
    })
}

/// How access is controlled, if it is.
fn acl(config: &AgentConfig) -> Option<Acl> {
    let acl = &config.acl;
    acl.enabled.then_some(Acl {
        default_policy: match acl.default_policy {
            DefaultPolicy::Allow => Action::Allow,
            DefaultPolicy::Deny => Action::Deny,
        },
        enforcement: if acl.enforce_version_8 { Enforcement::Full } else { Enforcement::BeforeVersion8 },
    })
}

fn asked(config: &AgentConfig) -> Asked {
    let AgentConfig { node, servers, acl, tls, .. } = config;
    let mut join = servers.retry_join.clone();
    join.extend(servers.start_join.iter().filter(|address| !servers.retry_join.contains(address)).cloned());
    let limit = servers.limit.map(|(rate, burst)| lictor_link::servers::Limit { rate, burst });
    let has_ca = tls.ca_file.is_some() || tls.ca_path.is_some();
    let domain = node.domain.trim_end_matches('.').to_ascii_lowercase();
    let name = match tls.verify_server_hostname {
        true => Some(format!("server.{}.{domain}", node.datacenter)),
        false => Some(tls.server_name.clone()).filter(|name| !name.is_empty()),
    };
    let settings = (has_ca && tls.certificate.is_some()).then(|| dialer::Settings {
        ca_file: tls.ca_file.clone(),
        ca_path: tls.ca_path.clone(),
        certificate: tls.certificate.clone(),
        // Without a name to expect, whoever has a certificate of the authority for servers is one.
        verify: if name.is_some() { dialer::Verify::Server } else { dialer::Verify::Authority },
        server_name: name,
    });
    Asked {
        join: servers.clone(),
        servers: lictor_link::servers::Config {
            node: node.name.to_string(),
            join,
            hold: servers.hold,
            limit,
            tls: settings,
        },
        token_ttl: acl.token_ttl.min(acl.policy_ttl),
        down_policy: acl.down_policy,
    }
}

fn tokens(config: &AgentConfig) -> Tokens {
    let crate::config::check::acl::Tokens { master: _, default, agent, agent_master, replication } =
        config.acl.tokens.clone();
    Tokens { replication, agent_master, default, agent }
}

fn agent(config: &AgentConfig, node_id: String) -> Result<lictor_agent::Config, String> {
    let AgentConfig { node, network, mesh, log, telemetry, .. } = config;
    let executable =
        std::env::current_exe().map_err(|error| format!("cannot find the path of this program: {error}"))?;
    let mut proxy_telemetry = Opaque::new();
    proxy_telemetry.insert("metrics_prefix".into(), telemetry.metrics_prefix.clone().into());
    proxy_telemetry.insert("filter_default".into(), telemetry.filter_default.into());
    for (key, value) in [
        ("statsd_address", &telemetry.statsd_address),
        ("statsite_address", &telemetry.statsite_address),
        ("dogstatsd_addr", &telemetry.dogstatsd_addr),
    ] {
        if !value.is_empty() {
            proxy_telemetry.insert(key.into(), value.clone().into());
        }
    }
    for (key, list) in [
        ("dogstatsd_tags", &telemetry.dogstatsd_tags),
        ("allowed_prefixes", &telemetry.allowed_prefixes),
        ("blocked_prefixes", &telemetry.blocked_prefixes),
    ] {
        if !list.is_empty() {
            proxy_telemetry.insert(key.into(), list.clone().into());
        }
    }
    if !telemetry.prometheus_retention.is_zero() {
        let nanos = u64::try_from(telemetry.prometheus_retention.as_nanos()).unwrap_or(u64::MAX);
        proxy_telemetry.insert("prometheus_retention_time".into(), nanos.into());
    }
    if telemetry.disable_hostname {
        proxy_telemetry.insert("disable_hostname".into(), true.into());
    }
    Ok(lictor_agent::Config {
        datacenter: node.datacenter.clone(),
        node_name: node.name.clone(),
        node_id,
        advertise_addr: network.advertise,
        advertise_addr_wan: network.advertise_wan,
        tagged_addresses: node.tagged_addresses.clone(),
        bind_addr: network.bind,
        measures_distances: network.measures_distances,
        ping_bind: network.serf_lan,
        ping_port: network.ports.serf_lan,
        is_server: node.role == Role::Server,
        server_port: network.ports.server.unwrap_or_default(),
        data_dir: node.data_dir.clone(),
        runtime_dir: runtime_dir(),
        proxy_ports: network.proxy_ports.clone(),
        sidecar_ports: network.sidecar_ports.clone(),
        connect: Connect {
            enabled: mesh.enabled,
            ca_config: mesh.ca_config.clone(),
            allow_managed_root: mesh.allow_managed_root,
            allow_managed_api_registration: mesh.allow_managed_api_registration,
            default_exec_mode: mesh.proxy_defaults.exec_mode.clone(),
            default_daemon_command: mesh.proxy_defaults.daemon_command.clone(),
            default_script_command: mesh.proxy_defaults.script_command.clone(),
            default_config: mesh.proxy_defaults.config.clone(),
            pass_env: mesh.proxy_defaults.pass_env.clone(),
            env: mesh.proxy_defaults.env.clone(),
            drain_time: mesh.proxy_defaults.drain_time,
            run_as: match mesh.proxy_defaults.run_as.as_str() {
                "" => None,
                text => Some(crate::users::run_as("connect.proxy_defaults.run_as", text)?),
            },
            users: allowed_users(&mesh.allowed_users)?,
            limits: mesh.proxy_defaults.limits,
            command_privileges: mesh.proxy_defaults.command_privileges,
            command_files: mesh.proxy_defaults.command_files.clone(),
            kill_on_agent_exit: mesh.proxy_defaults.kill_on_agent_exit,
            agent_lease: Some(mesh.proxy_defaults.agent_lease).filter(|lease| !lease.is_zero()),
            same_node: mesh.same_node,
            sandbox: if mesh.proxy_defaults.sandbox { Sandbox::On } else { Sandbox::Off },
            log_limits: lictor_supervisor::output::Limits {
                bytes: mesh.proxy_defaults.logs.rotate_bytes,
                age: Some(mesh.proxy_defaults.logs.rotate_duration).filter(|age| !age.is_zero()),
                keep: mesh.proxy_defaults.logs.max_files,
            },
            log_retention: mesh.proxy_defaults.logs.retention,
        },
        client_environment: client_environment(config),
        proxy_socket: None,
        open_proxy_socket: None,
        proxy_telemetry,
        proxy_log_level: Some(log.level_text.clone()).filter(|text| text != "INFO"),
        executable,
        acl: lictor_agent::config::Acl {
            master_token: config.acl.tokens.master.clone(),
            persistence: if config.acl.enable_token_persistence { Persistence::Kept } else { Persistence::Forgotten },
        },
        minimum_deregister_after: MINIMUM_DEREGISTER_AFTER,
        shortest_session_ttl: config.lifecycle.session_ttl_min,
        lost_nodes_stay: config.lifecycle.reconnect_timeout,
        checks: lictor_check::Config {
            trust: trust_of_checks(&config.tls),
            docker_host: std::env::var("DOCKER_HOST").unwrap_or(lictor_check::Config::default().docker_host),
            ..lictor_check::Config::default()
        },
    })
}

/// Whom checks believe, and what they show: without a wish, the system's authorities and nothing.
fn trust_of_checks(tls: &crate::config::check::Tls) -> lictor_check::Trust {
    if !tls.for_checks {
        return lictor_check::Trust::default();
    }
    lictor_check::Trust::new(dialer::Settings {
        ca_file: tls.ca_file.clone(),
        ca_path: tls.ca_path.clone(),
        certificate: tls.certificate.clone(),
        ..dialer::Settings::default()
    })
}

/// Users by the words that definitions use for them.
fn allowed_users(texts: &[String]) -> Result<BTreeMap<String, RunAs>, String> {
    let found = |text: &String| Ok((text.clone(), crate::users::run_as("connect.proxy.allowed_users", text)?));
    texts.iter().map(found).collect()
}

/// A folder of this process alone, below the system's folder for such things.
fn runtime_dir() -> PathBuf {
    let base = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_dir());
    base.unwrap_or_else(std::env::temp_dir).join(runtime_dir_name())
}

/// A name for a folder of this process alone; another one each time.
pub(crate) fn runtime_dir_name() -> String {
    let random = uuid::Uuid::new_v4().simple().to_string();
    format!("lictor-{}-{}", std::process::id(), &random[..8])
}

/// Whether a folder has the name of an agent's own folder.
pub(crate) fn is_runtime_dir(name: &str) -> bool {
    let parts = name.strip_prefix("lictor-").and_then(|rest| rest.split_once('-'));
    parts.is_some_and(|(pid, random)| {
        pid.parse::<u32>().is_ok() && random.len() == 8 && random.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

/// How managed proxies reach this agent; empty when they cannot.
fn client_environment(config: &AgentConfig) -> Vec<(String, String)> {
    let AgentConfig { network, tls, .. } = config;
    // Without a certificate there is no HTTPS listener.
    let is_dialled = |address: &&ListenAddr| matches!(address, ListenAddr::Ip(_));
    let https = network.https.iter().find(is_dialled).filter(|_| tls.certificate.is_some());
    let address = match (https, network.http.first()) {
        (Some(https), _) => reachable(https),
        (None, Some(http)) => reachable(http),
        (None, None) => return Vec::new(),
    };
    let encrypted = https.is_some();
    let file = |path: Option<&PathBuf>| match path {
        Some(path) if encrypted => path.display().to_string(),
        _ => String::new(),
    };
    let certificate = tls.certificate.as_ref();
    [
        ("CONSUL_HTTP_ADDR", address),
        ("CONSUL_HTTP_TOKEN", String::new()),
        ("CONSUL_HTTP_SSL", if encrypted { "true".into() } else { String::new() }),
        ("CONSUL_CACERT", file(tls.ca_file.as_ref())),
        ("CONSUL_CAPATH", file(tls.ca_path.as_ref())),
        ("CONSUL_CLIENT_CERT", file(certificate.map(|(cert, _)| cert))),
        ("CONSUL_CLIENT_KEY", file(certificate.map(|(_, key)| key))),
        ("CONSUL_TLS_SERVER_NAME", String::new()),
        ("CONSUL_HTTP_SSL_VERIFY", tls.verify_outgoing.to_string()),
        ("CONSUL_HTTP_AUTH", String::new()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

/// Why the certificate of HTTPS cannot be used, with the key that names the file.
fn certificate_error(error: &lictor_tls::Error, tls: &crate::config::check::Tls) -> String {
    let text = lictor_agent::error::chain(error);
    let names = |path: &Path| text.contains(&path.display().to_string());
    let key = match (&tls.certificate, &tls.ca_file) {
        (Some((certificate, _)), _) if names(certificate) => "cert_file",
        (Some((_, key)), _) if names(key) => "key_file",
        (_, Some(authority)) if names(authority) => "ca_file",
        _ => "cert_file, key_file, ca_file or ca_path",
    };
    format!("{key}: {text}; name PEM files that the agent's user can read, or set ports.https = -1")
}

/// What to do about a file of the data directory that cannot be used.
fn denied(error: &std::io::Error, folder: &Path) -> String {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => format!(
            ". data_dir {} must belong to the user that the agent runs as, here the one with number {}: chown it, or run the \
             agent as its owner",
            folder.display(),
            rustix::process::geteuid().as_raw()
        ),
        _ => ". It is in data_dir".to_owned(),
    }
}

/// An address as a process of this machine dials it.
fn reachable(listen: &ListenAddr) -> String {
    match listen {
        ListenAddr::Ip(address) => {
            let ip = match address.ip() {
                IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
                IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
                ip => ip,
            };
            SocketAddr::new(ip, address.port()).to_string()
        }
        ListenAddr::Unix(path) => format!("unix://{}", path.display()),
    }
}

/// What an HTTPS listener with this certificate and key is made from.
fn https_files((certificate, key): &(PathBuf, PathBuf), tls: &crate::config::check::Tls) -> Files {
    Files {
        certificate: certificate.clone(),
        key: key.clone(),
        ca_file: tls.ca_file.clone(),
        ca_path: tls.ca_path.clone(),
        clients: if tls.verify_incoming_https { Clients::Verified } else { Clients::Any },
        suites: tls.cipher_suites.clone(),
        order: if tls.prefer_server_cipher_suites { Order::Servers } else { Order::Clients },
        ..Files::default()
    }
}

/// What is wrong with certificates and keys that are there, each with what comes of it. Files that are not there may be on the machine that the configuration is meant for.
pub(crate) fn unusable_certificates(config: &AgentConfig) -> Vec<String> {
    let AgentConfig { network, tls, mesh, .. } = config;
    let mut found = Vec::new();
    if let Some(pair) = &tls.certificate
        && !network.https.is_empty()
    {
        let files = https_files(pair, tls);
        let all = [Some(&files.certificate), Some(&files.key), files.ca_file.as_ref(), files.ca_path.as_ref()];
        let are_there = all.into_iter().flatten().all(|file| file.exists());
        let failed = are_there.then(|| Acceptor::load(files).err()).flatten();
        found.extend(
            failed.map(|error| format!("config: {}: the agent does not start", certificate_error(&error, tls))),
        );
    }
    if mesh.enabled {
        let why = unusable_root(&mesh.ca_config);
        found.extend(why.map(|why| format!("config: connect.ca_config: {why}: a CA cannot be founded with it")));
    }
    found
}

/// Why the operator's own root cannot found a CA, as far as that does not depend on the cluster.
fn unusable_root(config: &Opaque) -> Option<String> {
    use lictor_ca::provider::{Rotation, Settings, Spelling};
    let settings = match Settings::parse(Some(config), Spelling::File, None, Rotation::WhenChanged) {
        Ok(settings) => settings,
        Err(error) => return Some(lictor_agent::error::chain(&error)),
    };
    let key = settings.private_key().filter(|key| !key.is_empty())?;
    let key = match lictor_ca::SigningKey::from_pem(key) {
        Ok(key) => key,
        Err(error) => return Some(format!("private_key: {}", lictor_agent::error::chain(&error))),
    };
    let root = lictor_ca::Authority::restore(key, settings.root_cert()?);
    let error = root.and_then(|root| root.is_fit(lictor_task::clock::unix_seconds())).err()?;
    Some(format!("root_cert: {}", lictor_agent::error::chain(&error)))
}

fn http(
    config: &AgentConfig,
    settings: &Settings,
    declared: &Reloadable,
    watches: &[Watch],
    node_id: String,
) -> Result<lictor_http::Config, String> {
    let AgentConfig { node, network, http, tls, .. } = config;
    let sockets = &network.unix_sockets;
    let user = users::user_id("unix_sockets.user", &sockets.user)?;
    let group = users::group_id("unix_sockets.group", &sockets.group)?;
    let unix =
        |path: &Path, acceptor| Listener::Unix { path: path.to_owned(), mode: sockets.mode, user, group, acceptor };
    let mut listeners = Vec::new();
    for address in &network.http {
        listeners.push(match address {
            ListenAddr::Ip(address) => Listener::Tcp(*address),
            ListenAddr::Unix(path) => unix(path, None),
        });
    }
    if !network.https.is_empty() {
        match &tls.certificate {
            None => tracing::warn!("agent: ports.https without cert_file and key_file: there is no HTTPS listener"),
            Some(pair) => {
                let acceptor =
                    Acceptor::load(https_files(pair, tls)).map_err(|error| certificate_error(&error, tls))?;
                let acceptor = std::sync::Arc::new(acceptor);
                for address in &network.https {
                    listeners.push(match address {
                        ListenAddr::Ip(address) => Listener::Tls(*address, acceptor.clone()),
                        ListenAddr::Unix(path) => unix(path, Some(acceptor.clone())),
                    });
                }
            }
        }
    }
    if node.role == Role::Server && !node.dev {
        listeners.extend(agents(config)?);
    }
    let allow_write_from = http
        .allow_write_from
        .iter()
        .map(|network| network.to_string().parse::<Network>().map_err(|error| error.to_string()))
        .collect::<Result<Vec<_>, _>>()?;
    let declarations = debug::Declarations { services: &declared.services, checks: &declared.checks, watches };
    let debug_config = debug::shown(settings, config, &allow_write_from, &declarations, &node_id);
    Ok(lictor_http::Config {
        listeners,
        datacenter: node.datacenter.clone(),
        node_name: node.name.clone(),
        node_id,
        advertise_addr: network.advertise,
        advertise_addr_wan: network.advertise_wan,
        ports: Ports {
            server: network.ports.server.unwrap_or_default(),
            serf_lan: network.ports.serf_lan.unwrap_or_default(),
            serf_wan: network.ports.serf_wan.unwrap_or_default(),
        },
        version: COMPATIBLE.to_owned(),
        revision: String::new(),
        layout: if node.dev { Layout::Pretty } else { Layout::Compact },
        response_headers: http.response_headers.clone(),
        page: http.page.clone(),
        block_endpoints: http.block_endpoints.clone(),
        allow_write_from,
        translate_wan_addrs: network.translate_wan_addrs,
        unprintable_paths: if http.unprintable_paths { Unprintable::Accepted } else { Unprintable::Refused },
        discovery_max_stale: http.discovery_max_stale,
        mesh: if config.mesh.enabled { Mesh::Enabled } else { Mesh::Disabled },
        key_lists: if config.acl.enable_key_list_policy { KeyLists::NeedRight } else { KeyLists::Filtered },
        debug_config,
        elsewhere: None,
        names: None,
    })
}

/// Where a server answers client agents: over mutual TLS, or in the clear for those on its own machine, where its HTTP API
/// is open in the clear as well.
fn agents(config: &AgentConfig) -> Result<Option<Listener>, String> {
    let AgentConfig { network, tls, .. } = config;
    let Some(port) = network.ports.server else { return Ok(None) };
    let address = SocketAddr::new(network.bind, port);
    let has_ca = tls.ca_file.is_some() || tls.ca_path.is_some();
    match tls.certificate.as_ref().filter(|_| has_ca) {
        Some(pair) => {
            let files = Files { clients: Clients::Verified, ..https_files(pair, tls) };
            let acceptor = Acceptor::load(files).map_err(|error| certificate_error(&error, tls))?;
            Ok(Some(Listener::Agents { address, acceptor: Some(std::sync::Arc::new(acceptor)) }))
        }
        None if address.ip().is_loopback() && !network.http.is_empty() => {
            Ok(Some(Listener::Agents { address, acceptor: None }))
        }
        None => Ok(None),
    }
}

/// What a server says that serves no client agents though its configuration names a port for them.
fn no_agents(config: &AgentConfig, listeners: &[Listener]) -> Option<String> {
    let AgentConfig { node, network, .. } = config;
    let are_served = listeners.iter().any(|listener| matches!(listener, Listener::Agents { .. }));
    if node.role == Role::Client || node.dev || network.ports.server.is_none() || are_served {
        return None;
    }
    Some(
        "config: no client agent can ask this server: that takes ca_file (or ca_path), cert_file and key_file, or a \
         bind_addr on loopback beside an open ports.http (docs/clients.md)"
            .into(),
    )
}

fn dns(config: &AgentConfig) -> Result<lictor_dns::Config, String> {
    let AgentConfig { node, dns, .. } = config;
    let recursors = dns
        .recursors
        .iter()
        .map(|text| recursor(text).ok_or_else(|| format!("Invalid recursor address: {text:?} is no ip or ip:port")))
        .collect::<Result<_, _>>()?;
    Ok(lictor_dns::Config {
        domain: node.domain.clone(),
        datacenter: node.datacenter.clone(),
        node_name: node.name.to_string(),
        node_ttl: dns.node_ttl,
        service_ttl: dns.service_ttl.clone(),
        only_passing: dns.only_passing,
        a_record_limit: usize::try_from(dns.a_record_limit).unwrap_or(usize::MAX),
        udp_answer_limit: usize::try_from(dns.udp_answer_limit).unwrap_or(usize::MAX),
        enable_truncate: dns.enable_truncate,
        disable_compression: dns.disable_compression,
        enable_additional_node_meta_txt: dns.node_meta_txt,
        soa: lictor_dns::Soa {
            refresh: dns.soa.refresh,
            retry: dns.soa.retry,
            expire: dns.soa.expire,
            min_ttl: dns.soa.min_ttl,
        },
        recursors,
        recursor_timeout: dns.recursor_timeout,
    })
}

/// `ip`, `ip:port`, or a host name, which is looked up once, at start.
fn recursor(text: &str) -> Option<SocketAddr> {
    use std::net::ToSocketAddrs;
    const PORT: u16 = 53;
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Some(SocketAddr::new(ip, PORT));
    }
    text.parse().ok().or_else(|| {
        let with_port = if text.contains(':') { text.to_owned() } else { format!("{text}:{PORT}") };
        with_port.to_socket_addrs().ok()?.next()
    })
}

fn banner(config: &AgentConfig, node_id: &str) -> Vec<String> {
    let AgentConfig { node, network, tls, .. } = config;
    let port = |port: Option<u16>| port.map_or(-1, i64::from);
    let ports = &network.ports;
    let clients: Vec<String> = network.client.iter().map(ToString::to_string).collect();
    let rows = [
        ("Version", format!("'{COMPATIBLE}' (lictor {})", env!("CARGO_PKG_VERSION"))),
        ("Node ID", format!("'{node_id}'")),
        ("Node name", format!("'{}'", node.name)),
        ("Datacenter", format!("'{}' (Segment: '<all>')", node.datacenter)),
        ("Server", format!("{} (Bootstrap: {})", node.role == Role::Server, node.role == Role::Server && !node.dev)),
        (
            "Client Addr",
            format!(
                "[{}] (HTTP: {}, HTTPS: {}, gRPC: -1, DNS: {})",
                clients.join(" "),
                port(ports.http),
                port(ports.https),
                port(ports.dns)
            ),
        ),
        (
            "Cluster Addr",
            format!("{} (LAN: {}, WAN: {})", network.advertise, port(ports.serf_lan), port(ports.serf_wan)),
        ),
        (
            "Encrypt",
            format!(
                "Gossip: false, TLS-Outgoing: {}, TLS-Incoming: {}",
                tls.verify_outgoing, tls.verify_incoming_https
            ),
        ),
    ];
    let mut lines = vec!["==> Consul agent running!".to_owned()];
    lines.extend(rows.iter().map(|(name, value)| format!("{name:>18}: {value}")));
    lines.extend([String::new(), "==> Log data will now stream in as it occurs:".to_owned(), String::new()]);
    lines
}

/// The node's id: kept in the data directory, made at the first start.
fn kept_node_id(data_dir: Option<&Path>, from_host: bool) -> Result<String, String> {
    let fresh = || {
        let host = from_host.then(host_id).flatten();
        host.map_or_else(|| uuid::Uuid::new_v4().to_string(), |host| derived_id(&host))
    };
    let Some(folder) = data_dir else { return Ok(fresh()) };
    let path = folder.join("node-id");
    match fs::read_to_string(&path) {
        Ok(text) => {
            let id = text.trim().to_ascii_lowercase();
            uuid::Uuid::parse_str(&id).map_err(|_| {
                format!("{} holds {id:?}, which is no UUID. Put the node's id back, or remove the file", path.display())
            })?;
            Ok(id)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let id = fresh();
            let write = || -> std::io::Result<()> {
                let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(&path)?;
                file.write_all(id.as_bytes())?;
                file.sync_all()
            };
            write().map_err(|error| format!("cannot write {}: {error}{}", path.display(), denied(&error, folder)))?;
            Ok(id)
        }
        Err(error) => Err(format!("cannot read {}: {error}{}", path.display(), denied(&error, folder))),
    }
}

/// What tells this machine from others: the board's id where it can be read, else the system's own. `None` in a
/// container that has neither; its node gets an id at random.
fn host_id() -> Option<String> {
    let files = ["/sys/class/dmi/id/product_uuid", "/etc/machine-id"];
    let mut texts = files.iter().filter_map(|path| fs::read_to_string(path).ok());
    texts.find_map(|text| uuid::Uuid::parse_str(text.trim()).ok()).map(|id| id.to_string())
}

/// The id of a node on a machine: by a digest, so that it does not tell the machine's.
fn derived_id(host: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA512, host.as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest.as_ref()[..16]);
    uuid::Uuid::from_bytes(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_id_of_the_host_is_always_the_same_and_not_the_hosts() {
        let host = "8d5f2b8e-6f0a-4c87-9a58-0b5a1cf0a2d1";
        assert_eq!(derived_id(host), derived_id(host));
        assert_ne!(derived_id(host), host);
        uuid::Uuid::parse_str(&derived_id(host)).unwrap();
    }

    #[test]
    fn only_folders_of_agents_have_their_name() {
        let own = runtime_dir();
        assert!(is_runtime_dir(own.file_name().and_then(|name| name.to_str()).unwrap()));
        for other in ["lictor", "lictor-1-", "lictor-x-01234567", "lictor-test-a1b2c3d4", "lictor-1-0123456g"] {
            assert!(!is_runtime_dir(other), "{other}");
        }
    }
}
