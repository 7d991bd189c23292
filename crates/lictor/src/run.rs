//! One agent from its start to its end: builds the rooms in order, and stops them in reverse.
//!
//! The order: store, state, certificate authority, agent, faces (they listen), managed proxies (they ask the faces).
//! The end: faces stop accepting and finish open requests, reconcilers and checks stop, proxies are left running or
//! stopped, the store closes last.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lictor_agent::agent::{Parts, STOP_LIMIT};
use lictor_agent::authority::Authority;
use lictor_agent::cluster::{Cluster, Standing};
use lictor_agent::{Agent, Config};
use lictor_http::config::{Elsewhere, Listener};
use lictor_link::mirror::Mirror;
use lictor_link::tokens::DownPolicy;
use lictor_link::{Remote, Servers};
use lictor_meter::{Filter, View};
use lictor_model::acl::Caller;
use lictor_notation::duration;
use lictor_state::{State, Writer};
use lictor_supervisor::{Farewell, Gate, Lifetime, Supervisor};
use lictor_task::{Drain, Scope, listening};
use rustix::fs::FlockOperation;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{complain, print};
use crate::log::Log;
use crate::memory;
use crate::notify::Notifier;
use crate::process::{Process, Wish};
use crate::settings::{self, Asked, Plan};
use crate::storage::{move_store, open_seal};
use crate::telemetry;
use crate::watches::Watches;

/// How long the service manager may have to wait for the managed proxies before the agent says that it is ready.
const READY_LIMIT: Duration = Duration::from_secs(15);
/// How long a server answers that has left others, unless somebody says otherwise (`performance.leave_drain_time`).
const LEAVE_DRAIN: Duration = Duration::from_secs(5);
/// How long a face may take to finish answers that are under way.
const FACE_LIMIT: Duration = Duration::from_secs(2);
/// When an agent that serves has done what only a start needs.
const START_IS_OVER: Duration = Duration::from_secs(2);

/// Runs an agent until it is told to end; gives the exit code.
pub(crate) async fn run(plan: Plan, log: &'static Log) -> Result<ExitCode> {
    let notifier = Arc::new(Notifier::from_environment());
    let Plan {
        agent: mut config,
        state: state_config,
        reloadable,
        mut http,
        dns,
        dns_addresses,
        store,
        telemetry,
        store_config,
        lifecycle,
        banner,
        sources,
        settings,
        asked: whom,
        watches: wanted,
        watching,
        ..
    } = plan;
    lictor_meter::process().set_view(telemetry::view(&telemetry));
    let mut store_config = store_config;
    let private = PrivateDir::make(&config.runtime_dir)?;
    let _pid_file = lifecycle.pid_file.as_deref().map(PidFile::write).transpose()?;

    // To the end of this function: an agent without a data directory has one of its own.
    let mut open = None;
    if !config.client_environment.is_empty() {
        config.proxy_socket = proxy_socket(&config)?;
        http.listeners.extend(config.proxy_socket.clone().map(|path| Listener::Proxies { path, open: false }));
        if config.connect.has_other_users() {
            let folder = open_folder(&config)?;
            let path = folder.path().join("agent.sock");
            open = Some(folder);
            config.open_proxy_socket = Some(path.clone());
            http.listeners.push(Listener::Proxies { path, open: true });
        }
    }

    let mut signals = Signals::new()?;
    let mut choice = store;
    let store = tokio::select! {
        opened = choice.open() => opened?,
        // An etcd that does not answer is waited for, but not against a signal.
        signal = signals.next() => {
            print(&format!("==> Caught signal: {}", signal.as_str()));
            return Ok(ExitCode::FAILURE);
        }
    };
    let (store, mover) = lictor_store::movable(store);
    let scope = Scope::new("agent");
    let state_scope = Scope::new("state");
    let (state, writer) =
        State::open(store.clone(), state_config, &state_scope).await.context("cannot read the store")?;
    let authority = if config.connect.enabled && config.is_server {
        let seal = open_seal(&store_config, &choice, config.data_dir.as_deref())?;
        let file_config = &config.connect.ca_config;
        let opened = Authority::open(state.clone(), writer.clone(), seal, &config.datacenter, file_config);
        Some(opened.await.context("cannot open the certificate authority")?)
    } else {
        None
    };
    let links = Scope::new("links");
    let remote = whom.as_ref().map(|whom| remote(whom, &config, &state, &writer, &links)).transpose()?;
    let cluster: Arc<dyn Cluster> = match &remote {
        Some(remote) => Arc::new(remote.clone()),
        None => Arc::new(Standing::new(state.clone(), writer.clone())),
    };
    if let Some(remote) = &remote {
        // Where nothing may hold that cannot be asked, old answers may not either.
        let holds = whom.as_ref().is_some_and(|whom| whom.down_policy != DownPolicy::Deny) || !state.acls_enabled();
        let elsewhere = Elsewhere { servers: remote.servers().clone(), kept: holds.then(Default::default) };
        http.elsewhere = Some(Arc::new(elsewhere));
    }
    let parts = Parts { config: config.clone(), reloadable, cluster, writer, authority };
    let agent = Agent::start(parts, &scope).await?;
    if let Some(remote) = &remote {
        remote.begin(agent.node());
        let (agent, remote, stop) = (agent.clone(), remote.clone(), scope.stop_signal());
        scope.spawn("keep in step", crate::client::keep_in_step(agent, remote, stop));
    } else if choice.is_shared() {
        agent.share(state.presence(store_config.node_ttl), &scope);
    }

    let for_agents = http.listeners.iter().find_map(|listener| match listener {
        Listener::Agents { address, .. } => Some(address.to_string()),
        _ => None,
    });
    if for_agents.is_some() {
        agent.serve_clients(state.clone(), store_config.node_ttl, &scope);
        http.names = Some(Arc::new(crate::names::Served(agent.clone())));
    }

    let (process, mut wishes) = Process::new(log);
    let process = Arc::new(process);
    let faces = Scope::new("faces");
    let http = lictor_http::bind(http, agent.clone(), process.clone()).map_err(|error| {
        let taken = match &error {
            lictor_http::Error::Listen { address, source } => busy(source, address, "tcp"),
            _ => None,
        };
        let keys = match &error {
            lictor_http::Error::Listen { address, .. } if for_agents.as_ref() == Some(address) => {
                "ports.server (-server-port) or bind_addr"
            }
            _ => "ports.http (-http-port) or ports.https (-https-port), client_addr or addresses.http",
        };
        with_remedy(error, taken, keys)
    })?;
    let http_reload = http.reload();
    let drain = Drain::new();
    let mut dns_reload = None;
    let dns = match dns_addresses.as_slice() {
        [] => None,
        addresses => {
            let asking = agent.clone();
            let backend = lictor_dns::Backend {
                reader: Arc::new(move || {
                    // DNS has no token: it sees what the agent's default token may.
                    let caller = asking.caller("").unwrap_or_else(|_| {
                        Caller::with_rules(
                            "",
                            lictor_model::acl::Rules::default(),
                            lictor_model::intention::Action::Deny,
                        )
                    });
                    asking.reader(&caller)
                }),
                queries: Arc::new(crate::prepared::Prepared { agent: agent.clone(), node: None }),
            };
            let source = match &remote {
                None => lictor_dns::Source::Here(backend),
                Some(remote) => {
                    let (agent, servers) = (agent.clone(), remote.servers().clone());
                    lictor_dns::Source::Elsewhere(Arc::new(crate::names::Asking { agent, servers }))
                }
            };
            let bound = lictor_dns::bind(addresses, lictor_dns::Settings::new(dns)?, source).map_err(|error| {
                let taken = match &error {
                    lictor_dns::Error::Bind { address, transport, source } => {
                        busy(source, &address.to_string(), &transport.to_lowercase())
                    }
                    _ => None,
                };
                with_remedy(error, taken, "ports.dns (-dns-port), client_addr or addresses.dns")
            })?;
            dns_reload = Some(bound.reload());
            Some(bound)
        }
    };
    scope.spawn("show numbers", telemetry::show_on_signal(scope.stop_signal()));
    let (is_server, stop, measured) = (config.is_server, scope.stop_signal(), agent.clone());
    scope.spawn("telemetry", async move {
        let mut counted = lictor_agent::Counted::default();
        let runtime = telemetry::Runtime::new();
        let autopilot = ["autopilot.healthy", "autopilot.failure_tolerance"];
        let [healthy, tolerance] = autopilot.map(|name| lictor_meter::process().gauge(name, &[]));
        let measure = || {
            runtime.measure();
            measured.measure_proxies(&mut counted);
            if is_server {
                // The only server is as healthy as it is irreplaceable.
                healthy.set(1.0);
                tolerance.set(0.0);
            }
        };
        telemetry::run(&telemetry, stop, measure).await;
    });
    for line in &banner {
        print(line);
    }
    faces.spawn("http", http.run(faces.stop_signal()));
    if let (Some(dns), Some(watch)) = (dns, drain.watch()) {
        for address in dns.addresses() {
            tracing::info!("agent: Started DNS server {address} (udp, tcp)");
        }
        faces.spawn("dns", dns.run(watch));
    }
    // They ask the faces, as anybody would.
    let mut watches = Watches::new(watching, scope.clone());
    watches.replace(wanted);
    // Apart from the reconcilers: proxies are still to be stopped when those have ended.
    let processes = Scope::new("processes");
    let supervisor = supervise(&config, &agent, &scope, &processes)?;
    // Phrases that scripts wait for.
    if config.is_server {
        // Of servers that share a store, another one may lead.
        let lead = agent.lead().map(|lead| lead.node);
        let leader = lead.as_deref().unwrap_or(config.node_name.as_str());
        if leader == config.node_name.as_str() {
            tracing::info!("agent: cluster leadership acquired");
        }
        tracing::info!("agent: New leader elected: {leader}");
    }
    // Services that are ordered after this one find the mesh there.
    let (asked, telling, stop) = (agent.clone(), Arc::clone(&notifier), scope.stop_signal());
    scope.spawn("readiness", async move {
        // An agent that ends meanwhile does not wait for a proxy that does not become ready.
        if stop.or_stopped(asked.proxies_serve(READY_LIMIT)).await.is_some() {
            telling.tell("READY=1");
        }
    });
    // Ends only when there is no reason to go on without a server.
    let (joining, stop) = (whom.zip(remote.as_ref()), scope.stop_signal());
    let joining = async move {
        match joining {
            Some((whom, remote)) => match crate::client::join(&whom.join, remote.servers(), &stop).await {
                Ok(()) => std::future::pending().await,
                Err(why) => why,
            },
            None => std::future::pending().await,
        }
    };
    let mut joining = std::pin::pin!(joining);
    let stop = scope.stop_signal();
    scope.spawn("memory", async move {
        // Once it answers, and once more when the proxies and checks that it starts have begun.
        memory::Program::open().let_go();
        if stop.or_stopped(tokio::time::sleep(START_IS_OVER)).await.is_some() {
            memory::Program::open().let_go();
        }
    });

    let servers = remote.as_ref().map(|remote| remote.servers().clone());
    let renewed = Renewed { http: http_reload, dns: dns_reload, servers };
    let mut asked_to_leave = None;
    let ended = loop {
        tokio::select! {
            wish = wishes.recv() => match wish {
                Some(Wish::Reload(answer)) => {
                    let reloading = reload(&sources, &settings, &agent, log, &renewed, &mut watches);
                    match signals.unless_ended(reloading).await {
                        // Whoever asked may have gone away.
                        Ok(outcome) => drop(answer.send(outcome)),
                        Err(signal) => break Err(signal),
                    }
                }
                Some(Wish::MoveStore(answer)) => {
                    let outcome = async {
                        // Clients ask servers and know no store.
                        let names = agent.servers().into_iter().map(|server| server.node);
                        let others: Vec<_> = names.filter(|node| *node != config.node_name.as_str()).collect();
                        if choice.is_shared() && !others.is_empty() {
                            anyhow::bail!(
                                "other servers use this store ({}): end them first; one that has just ended counts for {:?} \
                                 more (store.node_ttl)",
                                others.join(", "),
                                store_config.node_ttl
                            );
                        }
                        let next = crate::settings::load(&sources).map_err(anyhow::Error::msg)?;
                        let (from, to) = ((&choice, &store_config), (&next.store, &next.store_config));
                        let done = move_store(&mover, from, to, config.data_dir.as_deref()).await?;
                        if next.store.is_shared() {
                            agent.share(state.presence(next.store_config.node_ttl), &scope);
                        }
                        (choice, store_config) = (next.store, next.store_config);
                        anyhow::Ok(done)
                    };
                    let outcome = outcome.await.map_err(|error| format!("{error:#}"));
                    match &outcome {
                        Ok(done) => tracing::info!("agent: the state has moved: {done}"),
                        Err(error) => tracing::error!("agent: the state stays where it is: {error}"),
                    }
                    // Whoever asked may have gone away.
                    let _ = answer.send(outcome);
                }
                Some(Wish::Leave(answer)) => {
                    asked_to_leave = Some(answer);
                    break Ok(ExitCode::SUCCESS);
                }
                None => break Ok(ExitCode::FAILURE),
            },
            why = &mut joining => {
                complain(&format!("==> {why}"));
                tracing::error!("agent: {why}");
                break Ok(ExitCode::FAILURE);
            }
            signal = signals.next() => match signal {
                Got::Reload => {
                    let reloading = reload(&sources, &settings, &agent, log, &renewed, &mut watches);
                    if let Err(signal) = signals.unless_ended(reloading).await {
                        break Err(signal);
                    }
                }
                signal => break Err(signal),
            },
        }
    };
    let mut code = ended.unwrap_or_else(|signal| {
        print(&format!("==> Caught signal: {}", signal.as_str()));
        let graceful = match signal {
            Got::Interrupt => !lifecycle.skip_leave_on_interrupt,
            _ => lifecycle.leave_on_terminate,
        };
        if graceful {
            print("==> Gracefully shutting down agent...");
            return ExitCode::SUCCESS;
        }
        tracing::info!("agent: Graceful shutdown disabled. Exiting");
        ExitCode::FAILURE
    });

    notifier.tell("STOPPING=1");
    if code == ExitCode::SUCCESS && remote.is_none() {
        // Before anything is taken back: nothing here may say it again.
        scope.join(STOP_LIMIT).await;
        let is_shared = choice.is_shared();
        let drain = lifecycle.leave_drain_time.unwrap_or(if is_shared { LEAVE_DRAIN } else { Duration::ZERO });
        if let Err(signal) = signals.unless_ended(leave(&agent, drain)).await {
            print(&format!("==> Caught signal: {}", signal.as_str()));
            code = ExitCode::FAILURE;
        }
    }
    if let Some(answer) = asked_to_leave {
        // Whoever asked may have gone away.
        let _ = answer.send(());
    }
    faces.stop();
    drain.drain(FACE_LIMIT).await;
    faces.join(FACE_LIMIT).await;
    scope.join(STOP_LIMIT).await;
    // When nothing here tells the catalog anything any more.
    if let Some(remote) = remote.as_ref().filter(|_| code == ExitCode::SUCCESS) {
        remote.leave().await;
    }
    if let Some(supervisor) = supervisor {
        if config.data_dir.is_none() {
            tracing::warn!("agent: dev mode disabled persistence, killing all proxies since we can't recover them");
        } else if config.connect.kill_on_agent_exit {
            tracing::info!("agent: stopping all proxies (connect.proxy_defaults.kill_on_agent_exit)");
        } else {
            let running = supervisor.statuses().borrow().values().filter(|status| status.pid.is_some()).count();
            if let Some(line) = left_running(running, &proxy_folder(&config)?) {
                print(&line);
            }
        }
        supervisor.shutdown(Farewell::Leave).await;
    }
    links.join(STOP_LIMIT).await;
    state_scope.join(STOP_LIMIT).await;
    drop(agent);
    store.close().await;
    drop((private, open));
    tracing::info!("agent: Exit code: {}", if code == ExitCode::SUCCESS { 0 } else { 1 });
    Ok(code)
}

/// A server leaves: nothing of its node stays with others that share its store, and who still asks it gets answers for a
/// while.
async fn leave(agent: &Agent, drain: Duration) {
    tracing::info!("agent: leaving");
    if let Err(error) = agent.leave().await {
        tracing::warn!("agent: cannot take this node out of the catalog: {}", lictor_agent::error::chain(&error));
    }
    if !drain.is_zero() {
        tracing::info!("agent: Waiting {} to drain connections", duration::text(drain));
        tokio::time::sleep(drain).await;
    }
}

/// The cluster as a client agent has it: the servers, and what it holds of what they say.
fn remote(asked: &Asked, config: &Config, state: &State, writer: &Writer, scope: &Scope) -> Result<Remote> {
    let servers = Servers::new(asked.servers.clone(), scope.clone()).map_err(|error| {
        let text = lictor_agent::error::chain(&error);
        anyhow::anyhow!(
            "ca_file, ca_path, cert_file or key_file: {text}; name PEM files that the agent's user can read"
        )
    })?;
    if asked.servers.tls.is_none() {
        tracing::warn!(
            "agent: without ca_file, cert_file and key_file only servers on this machine are asked: make certificates with \
             `lictor tls ca create` and `lictor tls cert create -client`"
        );
    }
    let as_whom = lictor_link::remote::Config {
        node: config.node_name.clone(),
        node_id: config.node_id.clone(),
        address: std::net::SocketAddr::new(config.advertise_addr, config.server_port).to_string(),
        acls: state.acls_enabled(),
        mesh: config.connect.enabled,
    };
    let tokens = lictor_link::tokens::Tokens::new(asked.token_ttl, asked.down_policy);
    let mirror = Mirror::new(state.clone(), writer.clone());
    Ok(Remote::new(as_whom, servers, mirror, tokens, scope.clone()))
}

/// What whoever ends an agent may not expect: its proxies do not end with it.
fn left_running(proxies: usize, folder: &Path) -> Option<String> {
    let (noun, verb) = match proxies {
        0 => return None,
        1 => ("managed proxy", "goes"),
        _ => ("managed proxies", "go"),
    };
    Some(format!(
        "==> {proxies} {noun} {verb} on without the agent, and the next one takes them over. To end them: kill the processes \
         whose ids are in {}; to end them always with the agent: connect.proxy_defaults.kill_on_agent_exit = true",
        folder.join("pids").display()
    ))
}

/// Who has a port that is taken, as far as it can be seen; `None` when something else is the matter.
fn busy(source: &io::Error, address: &str, transport: &str) -> Option<String> {
    let is_taken = source.kind() == io::ErrorKind::AddrInUse;
    is_taken.then(|| match address.parse().ok().and_then(|address| listening::holder(address, transport)) {
        Some(holder) => format!("{holder} has it; end that"),
        None => "another process has it; end that".to_owned(),
    })
}

/// A port that is taken, with who has it and the keys that name another one.
fn with_remedy(
    error: impl std::error::Error + Send + Sync + 'static,
    taken: Option<String>,
    keys: &str,
) -> anyhow::Error {
    match taken {
        Some(taken) => anyhow::anyhow!("{}: {taken}, or set {keys}", lictor_agent::error::chain(&error)),
        None => error.into(),
    }
}

/// The longest path of a unix socket, without the closing zero.
const LONGEST_SOCKET_PATH: usize = 107;

/// The folder of everything about managed proxies, private to this agent's user.
fn proxy_folder(config: &Config) -> Result<PathBuf> {
    let folder = config.data_dir.as_ref().unwrap_or(&config.runtime_dir).join("proxy");
    for name in ["", "logs", "pids"] {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder.join(name))
            .with_context(|| format!("cannot make {}", folder.join(name).display()))?;
    }
    Ok(folder)
}

/// Where built-in proxies ask the agent; always the same place for the same data directory, so that they find it again.
/// `None` when the path would be too long for a socket.
fn proxy_socket(config: &Config) -> Result<Option<PathBuf>> {
    let folder = proxy_folder(config)?;
    let folder = folder.canonicalize().with_context(|| format!("cannot find {}", folder.display()))?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))
        .with_context(|| format!("cannot make {} private", folder.display()))?;
    Ok(Some(folder.join("agent.sock")).filter(|path| path.as_os_str().len() <= LONGEST_SOCKET_PATH))
}

/// The folder of the sockets for proxies of another user, which everybody can enter and nobody else change.
enum OpenFolder {
    /// Always the same one for the same data directory.
    Lasting(PathBuf),
    /// Of this process alone, whose proxies end with it.
    Own(PrivateDir),
}

impl OpenFolder {
    fn path(&self) -> &Path {
        match self {
            OpenFolder::Lasting(path) => path,
            OpenFolder::Own(folder) => &folder.path,
        }
    }
}

/// Makes that folder. Who asks there is known by the process, as at the private ones.
fn open_folder(config: &Config) -> Result<OpenFolder> {
    // systemd names a folder that it has made for a unit (`RuntimeDirectory=`).
    let base = std::env::var_os("RUNTIME_DIRECTORY").map_or_else(|| PathBuf::from("/run"), PathBuf::from);
    if config.data_dir.is_none() {
        let folder = PrivateDir::make(&base.join(settings::runtime_dir_name()))?;
        fs::set_permissions(&folder.path, fs::Permissions::from_mode(0o711))
            .with_context(|| format!("cannot open {} for proxies of another user", folder.path.display()))?;
        return Ok(OpenFolder::Own(folder));
    }
    let folder = proxy_folder(config)?;
    let folder = folder.canonicalize().with_context(|| format!("cannot find {}", folder.display()))?;
    let text = folder.as_os_str().as_encoded_bytes();
    let hash = text
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    let open = base.join(format!("lictor-{hash:016x}"));
    let failed = || format!("cannot make {} for proxies of another user", open.display());
    match fs::DirBuilder::new().mode(0o711).create(&open) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        made => made.with_context(failed)?,
    }
    let found = fs::symlink_metadata(&open).with_context(failed)?;
    let own = rustix::process::geteuid().as_raw();
    if !found.is_dir() || found.uid() != own {
        bail!("{} is not this agent's: remove it, or name another folder in RUNTIME_DIRECTORY", open.display());
    }
    fs::set_permissions(&open, fs::Permissions::from_mode(0o711)).with_context(failed)?;
    Ok(OpenFolder::Lasting(open))
}

/// Starts keeping managed proxies running, unless this agent has no address that proxies could ask.
fn supervise(config: &Config, agent: &Agent, scope: &Scope, processes: &Scope) -> Result<Option<Supervisor>> {
    if config.client_environment.is_empty() {
        tracing::info!("agent/proxy: no client address, managed proxies are disabled");
        agent.supervise(None, scope);
        return Ok(None);
    }
    let is_root = rustix::process::geteuid().is_root();
    let by_default = config.connect.run_as.iter().map(|user| ("connect.proxy_defaults.run_as", user));
    let allowed = config.connect.users.values().map(|user| ("connect.proxy.allowed_users", user));
    for (key, user) in by_default.chain(allowed).filter(|_| !is_root) {
        tracing::error!(
            "agent/proxy: {key}: only an agent that runs as root can start proxies as {}: none is started",
            user.name
        );
    }
    warn_of_open_files(config.connect.limits.open_files);
    let root_refused = is_root && !config.connect.allow_managed_root;
    let refusal = "running as root, will not start managed proxies: set connect.proxy_defaults.run_as = \"USER\", or \
                   connect.proxy.allow_managed_root = true";
    let gate = if root_refused { Gate::Refused(refusal.into()) } else { Gate::Open };
    let lifetime = match (&config.data_dir, config.connect.kill_on_agent_exit) {
        (None, _) => Lifetime::Ephemeral,
        (Some(_), true) => Lifetime::Bound,
        (Some(_), false) => Lifetime::Persistent,
    };
    let folder = proxy_folder(config)?;
    let open_directory = config.open_proxy_socket.as_deref().and_then(Path::parent).map(Path::to_owned);
    let config = lictor_supervisor::Config { directory: folder.join("supervisor"), lifetime, gate, open_directory };
    let supervisor = Supervisor::open(config, processes)?;
    agent.supervise(Some(supervisor.clone()), scope);
    Ok(Some(supervisor))
}

/// Says so when proxies will not get the files that they are to have: only a privileged agent can raise the limit.
fn warn_of_open_files(wanted: Option<u64>) {
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    if let (Some(wanted), Some(most)) = (wanted, most)
        && wanted > most
        && !rustix::process::geteuid().is_root()
    {
        tracing::warn!(
            "agent/proxy: connect.proxy_defaults.limit_open_files is {wanted}, and this agent may give {most}: raise its \
             own limit (LimitNOFILE=, ulimit -Hn)"
        );
    }
}

/// What takes in another configuration beside the agent itself.
struct Renewed {
    http: lictor_http::Reload,
    dns: Option<lictor_dns::Reload>,
    /// Those of a client agent.
    servers: Option<Servers>,
}

async fn reload(
    sources: &crate::settings::Sources,
    started_with: &crate::config::Settings,
    agent: &Agent,
    log: &Log,
    renewed: &Renewed,
    watches: &mut Watches,
) -> Result<(), String> {
    print("==> Caught reload request");
    let Renewed { http, dns, servers } = renewed;
    let outcome = async {
        let next = crate::settings::load(sources).map_err(anyhow::Error::msg)?;
        let waiting = started_with.needing_restart(&next.settings);
        // All that can be refused comes before the first change.
        let dns =
            dns.as_ref().map(|dns| lictor_dns::Settings::new(next.dns).map(|answers| (dns, answers))).transpose()?;
        let rules = http.prepare(&next.http)?;
        let asked = servers.as_ref().zip(next.asked);
        let asked =
            asked.map(|(servers, next)| servers.prepare(next.servers).map(|next| (servers, next))).transpose()?;
        let adopted = agent.adopt(next.reloadable)?;
        http.replace(rules);
        if let Some((servers, next)) = asked {
            servers.replace(next);
        }
        watches.replace(next.watches);
        log.set_level(next.log_level);
        let meter = lictor_meter::process();
        let View { filter: Filter { prefix, host, .. }, retention } = (*meter.view()).clone();
        let rules = telemetry::view(&next.telemetry).filter;
        meter.set_view(View { filter: Filter { prefix, host, ..rules }, retention });
        if let Some((dns, answers)) = dns {
            dns.replace(answers);
        }
        // Last, for it may have to wait for a store that is away.
        adopted.publish().await;
        if !waiting.is_empty() {
            let keys = waiting.join(", ");
            tracing::warn!("agent: these keys changed and take effect at the next start of the agent: {keys}");
        }
        anyhow::Ok(())
    }
    .await;
    match outcome {
        Ok(()) => {
            tracing::info!("agent: configuration reloaded");
            Ok(())
        }
        Err(error) => {
            complain(&format!("==> {error:#}"));
            tracing::error!("agent: Reload config failed, everything stays as it was: {error:#}");
            // The first lines are those that scripts know.
            Err(format!("1 error(s) occurred:\n\n* Failed to reload configs\n\n{error:#}"))
        }
    }
}

/// A folder of this process alone, for what must be a file; gone when dropped. It is locked for as long as the process
/// lives, so that a later one can tell which of them were left behind by a kill.
struct PrivateDir {
    path: PathBuf,
    _lock: fs::File,
}

/// A folder younger than this may be one that is about to be locked.
const ABOUT_TO_BE_LOCKED: Duration = Duration::from_secs(60);

impl PrivateDir {
    fn make(path: &Path) -> Result<PrivateDir> {
        let making = || format!("cannot make {}", path.display());
        fs::DirBuilder::new().mode(0o700).create(path).with_context(making)?;
        let lock = fs::File::open(path).with_context(making)?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).with_context(making)?;
        if let Some(parent) = path.parent() {
            remove_left_behind(parent);
        }
        Ok(PrivateDir { path: path.to_owned(), _lock: lock })
    }
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        // What cannot be removed stays below the system's folder for such things.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes the folders of agents of this user that were killed. What cannot be looked at is left alone.
fn remove_left_behind(parent: &Path) {
    let user = rustix::process::geteuid().as_raw();
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_ours = entry.file_name().to_str().is_some_and(settings::is_runtime_dir);
        let Ok(facts) = path.symlink_metadata() else { continue };
        let age = facts.modified().ok().and_then(|time| time.elapsed().ok()).unwrap_or_default();
        if !is_ours || !facts.is_dir() || facts.uid() != user || age < ABOUT_TO_BE_LOCKED {
            continue;
        }
        let Ok(folder) = fs::File::open(&path) else { continue };
        if rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

/// The agent's own pid file; removed at the end.
struct PidFile(PathBuf);

impl PidFile {
    fn write(path: &Path) -> Result<PidFile> {
        fs::write(path, std::process::id().to_string())
            .with_context(|| format!("cannot write the pid file {}", path.display()))?;
        Ok(PidFile(path.to_owned()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Somebody may have removed it already.
        let _ = fs::remove_file(&self.0);
    }
}

/// What a signal asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Got {
    Reload,
    Interrupt,
    Terminate,
}

impl Got {
    fn as_str(self) -> &'static str {
        match self {
            Got::Reload => "hangup",
            Got::Interrupt => "interrupt",
            Got::Terminate => "terminated",
        }
    }
}

struct Signals {
    hangup: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> io::Result<Signals> {
        Ok(Signals {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) -> Got {
        tokio::select! {
            _ = self.hangup.recv() => Got::Reload,
            _ = self.interrupt.recv() => Got::Interrupt,
            _ = self.terminate.recv() => Got::Terminate,
        }
    }

    /// Does something that may take long, such as writing to a store that does not answer, unless we are asked to end
    /// meanwhile: then it is left undone.
    async fn unless_ended<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Got> {
        tokio::select! {
            done = work => Ok(done),
            _ = self.interrupt.recv() => Err(Got::Interrupt),
            _ = self.terminate.recv() => Err(Got::Terminate),
        }
    }
}
