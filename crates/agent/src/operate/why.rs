//! Why a managed proxy does not serve, or not all: chains from what is seen to what is behind it, each with a remedy.
//!
//! `causes` is pure; `Inner::facts` and `Inner::application` ask the catalog, the intentions and the application for what the
//! process itself cannot know.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use lictor_model::acl::{Access, Caller, Resource};
use lictor_model::health::{Check, Status};
use lictor_model::intention::Decision;
use lictor_model::name::ServiceId;
use lictor_state::reader::{Filter, Side};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::agent::Inner;
use crate::doubts::may_be_certified;
use crate::operate::ManagedProcess;
use crate::sync::SERF_HEALTH;

/// How long an application may take to be connected to.
const APPLICATION_PATIENCE: Duration = Duration::from_secs(1);

/// How many applications are connected to at a time.
const MOST_ASKED: usize = 64;

/// The one namespace there is.
const DEFAULT: &str = "default";

/// One link of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// How far it is behind what is seen: 0 begins a chain, and each is behind the nearest one before it with less.
    pub depth: usize,
    /// What is so.
    pub what: String,
    /// What can be done about it; empty when the next cause tells.
    pub remedy: String,
}

/// What is known beside the process itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// Whether managed proxies are supervised at all.
    pub(crate) supervised: bool,
    /// Whether there is a certificate authority.
    pub(crate) mesh: bool,
    /// Whether the mode is one that never runs.
    pub(crate) script: bool,
    /// What is known of upstreams that have no instance, by the name the proxy reports.
    pub(crate) upstreams: BTreeMap<String, Upstream>,
    /// Checks of the service itself that do not pass: id and output.
    pub(crate) failing: Vec<(String, String)>,
    /// Upstreams that the service may not connect to, as the proxy reports them, and why.
    pub(crate) denied: Vec<(String, String)>,
    /// Where the application should be, and why it was not reached there just now.
    pub(crate) app: Option<(String, String)>,
    /// What of the service and its proxy the ACLs keep out of the catalog: id and why.
    pub(crate) blocked: Vec<(String, String)>,
    /// Applications of this agent that are not there and that nobody but an upstream would miss.
    pub(crate) apps: Vec<MissingApp>,
    /// What is known of prepared queries without an instance, by the name the proxy reports.
    pub(crate) queries: BTreeMap<String, Asked>,
    /// Whether there is access control.
    pub(crate) acl: bool,
    /// What lists the files that the proxy may touch, where that is limited.
    pub(crate) fence: Option<String>,
    /// Where the managed proxies of this agent that the caller may see listen.
    pub(crate) listening: Vec<Listening>,
}

/// An open listener of a managed proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listening {
    pub(crate) proxy: ServiceId,
    /// `public`, or the upstream.
    pub(crate) what: String,
    pub(crate) address: SocketAddr,
}

impl Listening {
    /// Those that a proxy reports, as `what=address`.
    pub(crate) fn of<'a>(
        proxy: &'a ServiceId,
        reported: impl IntoIterator<Item = &'a str> + 'a,
    ) -> impl Iterator<Item = Listening> + 'a {
        reported.into_iter().filter_map(|listener| {
            let (what, address) = listener.rsplit_once('=')?;
            Some(Listening { proxy: proxy.clone(), what: what.to_owned(), address: address.parse().ok()? })
        })
    }
}

/// The proxy whose listener keeps others from an address, and what it is for.
pub(crate) fn listens_at(listening: &[Listening], address: SocketAddr) -> Option<(&ServiceId, &str)> {
    let overlaps = |other: &SocketAddr| {
        let all = other.ip().is_unspecified() || address.ip().is_unspecified();
        other.port() == address.port() && (all || other.ip() == address.ip())
    };
    let found = listening.iter().find(|listener| overlaps(&listener.address))?;
    Some((&found.proxy, &found.what))
}

/// An upstream without a healthy instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Upstream {
    /// Instances of the service itself.
    pub(crate) ordinary: usize,
    /// Instances that take its mesh traffic.
    pub(crate) mesh: usize,
    /// Checks of the latter that do not pass.
    pub(crate) failing: Vec<Failing>,
    /// An instance on this agent that the ACLs keep out of the catalog, and why.
    pub(crate) blocked: Option<(String, String)>,
}

/// A check of an upstream's instance that does not pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Failing {
    pub(crate) check: String,
    pub(crate) output: String,
    /// The id of the instance, by which its node knows it.
    pub(crate) instance: String,
    pub(crate) node: String,
}

/// A prepared query without an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// There is none of that name or id.
    Nothing,
    /// It asks for this service, which may be nobody's business.
    Service(Option<String>),
}

/// An upstream all of whose instances are managed proxies of this agent without an application behind them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MissingApp {
    pub(crate) service: String,
    pub(crate) address: String,
    pub(crate) error: String,
}

impl Inner {
    /// Makes sure that the catalog is known as far as the upstreams of a process go, and tells whether it may connect to those
    /// of them about which the caller may know that.
    pub(crate) async fn look_at_upstreams(
        &self,
        caller: &Caller,
        token: &str,
        process: &ManagedProcess,
    ) -> BTreeMap<String, Decision> {
        let (secret, _) = self.asker_elsewhere(token);
        let mut decisions = BTreeMap::new();
        for upstream in self.upstreams_of(&process.id) {
            let name = upstream.destination_name;
            if let Err(error) = self.cluster.see_service(&name, &secret).await {
                tracing::debug!("agent/proxy: cannot see service {name:?}: {}", crate::error::chain(&error));
            }
            if caller.may(Access::Read, Resource::Intention, &name) {
                let source = (DEFAULT, process.service.as_str());
                if let Ok(decision) = self.cluster.decide(caller, &secret, source, &name).await {
                    decisions.insert(name, decision);
                }
            }
        }
        decisions
    }

    /// The services that a managed proxy has as upstreams.
    fn upstreams_of(&self, id: &ServiceId) -> Vec<lictor_model::service::Upstream> {
        let registry = self.registry.lock();
        let entry = registry.proxies.get(id);
        let view = entry.and_then(|entry| crate::managed::view(&self.config, &entry.definition).ok());
        let upstreams = view.into_iter().flat_map(|view| view.upstreams);
        upstreams.filter(|upstream| upstream.destination_type != "prepared_query").collect()
    }

    /// What the agent and the catalog know that has to do with a process.
    pub(crate) fn facts(
        &self,
        caller: &Caller,
        process: &ManagedProcess,
        decisions: &BTreeMap<String, Decision>,
    ) -> Facts {
        let reader = self.cluster.reader(caller);
        let mut upstreams = BTreeMap::new();
        for reported in process.report.iter().flat_map(|report| &report.unreachable) {
            let Some(name) = service_name(reported) else { continue };
            let filter = Filter::default();
            let mesh = reader.instances(name, Side::Connect, &filter).value;
            let failing = mesh
                .iter()
                .flat_map(|instance| instance.checks.iter().map(move |row| (instance, row)))
                .filter(|(_, row)| row.check.status == Status::Critical)
                .map(|(instance, row)| Failing {
                    check: row.check.id.to_string(),
                    output: said(&row.check),
                    instance: instance.service.service.id.to_string(),
                    node: instance.node.node.name.to_string(),
                });
            let upstream = Upstream {
                ordinary: reader.instances(name, Side::Ordinary, &filter).value.len(),
                failing: failing.collect(),
                mesh: mesh.len(),
                blocked: self.blocked_instance(caller, name),
            };
            upstreams.insert(reported.clone(), upstream);
        }
        // Who knows a query's name may execute it, so that there is one is no secret; what it asks for may be.
        let everything = Caller::management("");
        let queries = process
            .report
            .iter()
            .flat_map(|report| &report.unreachable)
            // Of queries a client agent knows nothing.
            .filter(|reported| service_name(reported).is_none() && !self.cluster.is_remote())
            .filter_map(|reported| {
                let asked = match self.cluster.reader(&everything).explain(destination(reported)).ok()? {
                    None => Asked::Nothing,
                    Some(query) => {
                        let service = &query.service.service;
                        Asked::Service(caller.reads_service(service).then(|| service.clone()))
                    }
                };
                Some((reported.clone(), asked))
            })
            .collect();
        let blocked = [&process.service_id, &process.id]
            .into_iter()
            .filter_map(|id| Some((id.to_string(), self.blocked_service(id)?)))
            .collect();
        let others: Vec<ServiceId> = self.registry.lock().proxies.keys().cloned().collect();
        let listening = others
            .iter()
            .filter_map(|id| self.managed_process(caller, id).ok()?.report.map(|report| (id, report)))
            .flat_map(|(id, report)| Listening::of(id, report.listening.iter().map(String::as_str)).collect::<Vec<_>>())
            .collect();
        let registry = self.registry.lock();
        let view = registry.proxies.get(&process.id);
        let view = view.and_then(|entry| crate::managed::view(&self.config, &entry.definition).ok());
        let denied = decisions
            .iter()
            .filter(|(_, decision)| !decision.is_allowed())
            .map(|(name, decision)| (name.clone(), decision.reason.clone()))
            .collect();
        let fence = view.as_ref().filter(|view| !self.is_built_in(&view.command)).and_then(|_| {
            let files = self.config.connect.command_files.as_ref()?;
            Some(format!("{} and {}", files.read.key, files.write.key))
        });
        let script = view.is_some_and(|view| view.exec_mode == crate::managed::ExecMode::Script.as_str());
        let failing = registry
            .checks_of(&process.service_id)
            .filter(|entry| entry.check.status == Status::Critical)
            .map(|entry| (entry.check.id.to_string(), said(&entry.check)))
            .collect();
        Facts {
            supervised: self.supervisor.get().is_none_or(Option::is_some),
            mesh: self.has_mesh(),
            script,
            upstreams,
            failing,
            denied,
            app: None,
            apps: Vec::new(),
            blocked,
            queries,
            acl: self.cluster.acls_enabled(),
            fence,
            listening,
        }
    }

    /// An instance of a service on this agent, or its proxy, that the ACLs keep out of the catalog, and why.
    fn blocked_instance(&self, caller: &Caller, name: &str) -> Option<(String, String)> {
        if !caller.reads_service(name) {
            return None;
        }
        let ids: Vec<ServiceId> = {
            let registry = self.registry.lock();
            let named = |id: &ServiceId| {
                registry
                    .services
                    .get(id)
                    .is_some_and(|entry| entry.view.service.name.as_str().eq_ignore_ascii_case(name))
            };
            let own = registry.services.keys().filter(|id| named(id));
            let proxies = registry.proxies.iter().filter(|(_, entry)| named(&entry.target)).map(|(id, _)| id);
            own.chain(proxies).cloned().collect()
        };
        ids.iter().find_map(|id| Some((id.to_string(), self.blocked_service(id)?)))
    }

    /// Upstreams whose only instances are managed proxies of this agent that have no application behind them. Their ports
    /// answer, so discovery takes them for healthy; what runs elsewhere is not asked.
    pub(crate) async fn missing_apps(&self, caller: &Caller, process: &ManagedProcess) -> Vec<MissingApp> {
        let reader = self.cluster.reader(caller);
        let here = self.upstreams_of(&process.id).into_iter().filter(|upstream| upstream.datacenter.is_empty());
        let names: Vec<String> = here.map(|upstream| upstream.destination_name).collect();
        // Where the applications of all instances should be, of those services that have no others.
        let mut wanted: Vec<(String, Vec<String>)> = Vec::new();
        for name in names {
            let instances = reader.instances(&name, Side::Connect, &Filter::default()).value;
            let local = |instance: &lictor_state::reader::Instance| {
                let here = instance.node.node.name == self.config.node_name;
                here.then(|| self.application_address(&instance.service.service.id)).flatten()
            };
            if let Some(addresses) = instances.iter().map(local).collect::<Option<Vec<String>>>() {
                wanted.push((name, addresses));
            }
        }
        let addresses = wanted.iter().flat_map(|(_, addresses)| addresses).cloned().collect();
        let gone = unreachable(addresses).await;
        let missing = wanted.into_iter().filter_map(|(service, addresses)| {
            let errors: Option<Vec<&String>> = addresses.iter().map(|address| gone.get(address)).collect();
            let (address, error) = addresses.first().zip(errors?.first().copied())?;
            Some(MissingApp { service, address: address.clone(), error: error.clone() })
        });
        missing.collect()
    }

    /// Where the application of a proxy should be, when a connection to it fails now; and why.
    pub(crate) async fn application(&self, proxy: &ServiceId) -> Option<(String, String)> {
        let address = self.application_address(proxy)?;
        let error = connects(&address).await.err()?;
        Some((address, error))
    }

    /// Where the application of a managed proxy of this agent should be. A service without a port only dials.
    fn application_address(&self, proxy: &ServiceId) -> Option<String> {
        let registry = self.registry.lock();
        let (config, ..) = registry.proxy_config(&self.config, proxy.as_str())?;
        let address = config.config.get("local_service_address")?.as_str()?;
        (!address.ends_with(":0")).then(|| address.to_owned())
    }
}

/// Connects once; says why not.
async fn connects(address: &str) -> Result<(), String> {
    match timeout(APPLICATION_PATIENCE, TcpStream::connect(address)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer".to_owned()),
    }
}

/// Those of the addresses to which no connection can be made now, with the reason. They are asked side by side: one that does
/// not answer takes its time.
async fn unreachable(addresses: BTreeSet<String>) -> BTreeMap<String, String> {
    let (mut asked, mut answers) = (JoinSet::new(), Vec::new());
    for address in addresses {
        if asked.len() >= MOST_ASKED {
            answers.extend(asked.join_next().await);
        }
        asked.spawn(async move {
            let error = connects(&address).await.err()?;
            Some((address, error))
        });
    }
    answers.extend(asked.join_all().await.into_iter().map(Ok));
    // None of them panics.
    answers.into_iter().flatten().flatten().collect()
}

/// What a check says; the reason of a maintenance stands in its notes.
fn said(check: &Check) -> String {
    if check.output.is_empty() { check.notes.clone() } else { check.output.clone() }
}

/// The service in `service:default/db`; a prepared query has none.
fn service_name(reported: &str) -> Option<&str> {
    reported.starts_with("service:").then(|| destination(reported))
}

/// The name in `service:default/db` or `prepared_query:default/near`.
fn destination(reported: &str) -> &str {
    reported.split_once('/').map_or(reported, |(_, name)| name)
}

/// The chains; empty when nothing is in the way.
pub(crate) fn causes(process: &ManagedProcess, facts: &Facts, now_unix_ms: i64) -> Vec<Cause> {
    let mut chain = Chain(Vec::new());
    let id = &process.id;
    if !facts.supervised {
        chain.add(
            "managed proxies are off on this agent: it has no HTTP address at which they could reach it",
            "set ports.http (or ports.https, or addresses.http) and restart the agent",
        );
        return chain.0;
    }
    if facts.script {
        chain.add(
            format!("{id} has exec_mode \"script\", which never runs"),
            "set exec_mode = \"daemon\", or leave it out",
        );
        return chain.0;
    }
    if let Some(held) = process.held {
        match held.drain_until_unix_ms {
            None => chain.add(
                format!("an operator stopped {id} {} ago", age(now_unix_ms - held.since_unix_ms)),
                format!("lictor connect start {id}"),
            ),
            Some(until) => chain.add(
                format!(
                    "{id} is being drained: {} connections are left, and it stops in {} at the latest",
                    process.report.as_ref().map_or_else(|| "unknown".into(), |report| report.connections.to_string()),
                    age(until - now_unix_ms)
                ),
                format!("wait for it, or keep it running: lictor connect start {id}"),
            ),
        }
        return chain.0;
    }
    if let Some(reason) = &process.refused {
        chain.add(format!("{id} may not be started: {reason}"), refusal_remedy(reason));
        return chain.0;
    }
    if process.pid.is_none() {
        down(&mut chain, process, facts, now_unix_ms);
        return chain.0;
    }
    if let Some(since) = process.unheard_since_unix_ms {
        chain.add(
            format!(
                "{id} runs and this agent has not heard it for {}: what it serves, and whether, is not known",
                age(now_unix_ms - since)
            ),
            format!(
                "wait a moment after a restart of the agent: it reports every 10 s; otherwise lictor connect logs {id}, and \
                 lictor connect restart {id} (it cannot hand over: its connections are cut)"
            ),
        );
        return chain.0;
    }
    match &process.report {
        Some(_) => running(&mut chain, process, facts, now_unix_ms),
        None => foreign(&mut chain, process),
    }
    for (id, why) in &facts.blocked {
        chain.add(
            format!("nobody finds {id}: its way into the catalog is blocked by ACLs: {why}"),
            blocked_remedy(process.service_id.as_str()),
        );
    }
    for MissingApp { service, address, error } in &facts.apps {
        chain.add(
            format!("connections to {service} end at its proxy: at {address} there is no application ({error})"),
            format!("start {service}, or correct its port or connect.proxy.config.local_service_address"),
        );
    }
    for (name, reason) in &facts.denied {
        chain.add(
            format!("{} may not connect to {name}: {reason}", process.service),
            format!("if it shall: lictor intention create -allow {} {name}", process.service),
        );
    }
    let waits = chain.0.iter().any(|cause| cause.what.contains("waits for its application"));
    if let Some((address, error)) = facts.app.as_ref().filter(|_| !waits) {
        chain.add(
            format!(
                "connections to {} end at its proxy: at {address} there is no application ({error})",
                process.service
            ),
            format!("start {}, or correct its port or connect.proxy.config.local_service_address", process.service),
        );
    }
    for (check, output) in &facts.failing {
        // The proxy is fine and has a health of its own, by which others of the mesh choose it.
        match maintenance(check, output) {
            Some((what, end)) => chain.add(format!("{}: {what}", process.service), end),
            None => chain.add(
                format!(
                    "{} itself is critical, and only the mesh, which asks for its proxy, still sends to it: check {check} \
                     says {:?}",
                    process.service,
                    cut(output)
                ),
                format!("look after {}; its proxy is not the problem", process.service),
            ),
        }
    }
    chain.0
}

struct Chain(Vec<Cause>);

impl Chain {
    /// Something that is seen.
    fn add(&mut self, what: impl Into<String>, remedy: impl Into<String>) {
        self.push(0, what, remedy);
    }

    /// What is behind that.
    fn because(&mut self, what: impl Into<String>, remedy: impl Into<String>) {
        self.push(1, what, remedy);
    }

    /// What is behind what is behind it.
    fn and_that_because(&mut self, what: impl Into<String>, remedy: impl Into<String>) {
        self.push(2, what, remedy);
    }

    fn push(&mut self, depth: usize, what: impl Into<String>, remedy: impl Into<String>) {
        self.0.push(Cause { depth, what: what.into(), remedy: remedy.into() });
    }
}

fn refusal_remedy(reason: &str) -> &'static str {
    if reason.contains("root") {
        "set connect.proxy_defaults.run_as to an unprivileged user, or connect.proxy.allow_managed_root = true"
    } else if reason.contains("Too many open files") {
        "the agent is out of descriptors: raise its limit (ulimit -n, LimitNOFILE)"
    } else {
        "see the reason"
    }
}

/// There is no process.
fn down(chain: &mut Chain, process: &ManagedProcess, facts: &Facts, now_unix_ms: i64) {
    let id = &process.id;
    match process.next_try_unix_ms {
        Some(at) => chain.add(
            format!("{id} does not run; it is started again in {}", age(at - now_unix_ms)),
            format!("start it now: lictor connect restart {id}"),
        ),
        None => chain.add(format!("{id} does not run ({})", process.state), String::new()),
    }
    let Some(last) = &process.last_exit else { return };
    let lasted = if last.ran.is_zero() { String::new() } else { format!(" after {}", age(millis(last.ran))) };
    let what = format!("{} ago it {}{lasted}", age(now_unix_ms - last.at_unix_ms), last.reason);
    chain.because(what, exit_remedy(&last.reason, id.as_str()));
    if !last.output.is_empty() {
        let lines: Vec<&str> = last.output.iter().map(String::as_str).collect();
        chain.and_that_because(
            format!("its last words:\n{}", lines.join("\n")),
            match &facts.fence {
                Some(keys) if last.output.iter().any(|line| line.to_lowercase().contains("permission denied")) => format!(
                    "it is kept from files that are not listed in {keys}: add what it needs and restart the agent, then \
                     lictor connect restart {id}"
                ),
                _ => format!("read more: lictor connect logs {id}"),
            },
        );
    }
}

fn exit_remedy(reason: &str, id: &str) -> String {
    let known = [
        (
            "No such file",
            "install the program, or correct command in the definition; a relative path is taken from PATH",
        ),
        ("Permission denied", "make the program executable for the user it runs as"),
        ("Exec format error", "the program is not for this machine, or a script without its first line"),
        ("Resource temporarily unavailable", "too many processes: raise the limit (ulimit -u, TasksMax, pids.max)"),
        ("Too many open files", "the agent is out of descriptors: raise its limit (ulimit -n, LimitNOFILE)"),
        ("SIGKILL", "somebody killed it, or the kernel did for lack of memory: dmesg tells"),
        (
            "SIGSYS",
            "it made a system call that its sandbox forbids: connect.proxy_defaults.sandbox, or command_system_calls where it is \
             a custom command, as a program of 32 bits does",
        ),
    ];
    known
        .iter()
        .find(|(part, _)| reason.contains(part))
        .map_or_else(|| format!("read what it said: lictor connect logs {id}"), |(_, remedy)| (*remedy).to_owned())
}

/// Our own proxy runs and reports.
fn running(chain: &mut Chain, process: &ManagedProcess, facts: &Facts, now_unix_ms: i64) {
    let id = &process.id;
    let Some(report) = &process.report else { return };
    let starting = process.text.strip_prefix("starting: ").or_else(|| process.text.strip_prefix("degraded: "));
    let problems: Vec<&str> = starting.map(|text| text.split("; ").collect()).unwrap_or_default();
    for problem in &problems {
        if problem.contains("no settings") {
            chain.add(
                format!("{id} has no settings from this agent yet"),
                format!("its own log tells what the agent answers: lictor connect logs {id}"),
            );
        } else if problem.contains("no certificates") {
            chain.add(format!("{id} has no certificates yet, so it opens no public listener"), String::new());
            if !facts.mesh {
                chain.because(
                    "this agent has no certificate authority: Connect is off",
                    "set connect { enabled = true } for this agent, and for its servers where it is a client",
                );
            } else if !may_be_certified(process.service.as_str()) {
                chain.because(
                    format!("no certificate can hold the service name {:?}", process.service.as_str()),
                    "give the service a name without slashes and control characters",
                );
            } else {
                chain.because(
                    "the authority has not answered",
                    format!("the logs of the agent and of the proxy tell: lictor connect logs {id}"),
                );
            }
        } else if let Some(app) = problem.strip_prefix("waiting for the application at ") {
            chain.add(
                format!("{id} waits for its application: nothing listens at {app} (local_service_wait_ms)"),
                format!("start {}, or correct its port or local_service_address", process.service),
            );
        } else if problem.contains("cannot listen") {
            let address = problem.split("cannot listen on ").nth(1).and_then(|rest| rest.split(": ").next());
            let holder = address.and_then(|address| listens_at(&facts.listening, address.parse().ok()?));
            let remedy = match holder {
                Some((holder, what)) if problem.contains("in use") => {
                    format!("{holder} has the address, for {what}: set another port in one of the two definitions")
                }
                None if problem.contains("in use") => {
                    "another program has the address: ss -ltnp shows which; free it, or set another port".to_owned()
                }
                _ => "the address must be one of this machine, and ports below 1024 need a right that proxies do not have"
                    .to_owned(),
            };
            chain.add(*problem, remedy);
        } else {
            chain.add(*problem, format!("correct it in the definition of {}", process.service));
        }
    }
    if report.leaf_until > 0 && report.leaf_until * 1000 <= now_unix_ms {
        chain.add(
            format!("its certificate ran out {} ago", age(now_unix_ms - report.leaf_until * 1000)),
            "the agent could not renew it: its log tells why",
        );
    }
    for name in &report.unreachable {
        upstream(chain, id.as_str(), name, facts);
    }
    if chain.0.is_empty() && !process.serving {
        match &process.check {
            Some((status, output)) if *status != Status::Passing => chain.add(
                format!("the agent's check of its port does not pass: {:?}", cut(output)),
                "the check runs every 10 s; with a bind_address that the agent cannot reach set tcp_check_address",
            ),
            _ => chain.add(format!("{id} has not said that it is ready: {}", process.text), "wait a moment"),
        }
    }
}

fn upstream(chain: &mut Chain, id: &str, name: &str, facts: &Facts) {
    chain.add(format!("upstream {name} has no healthy instance: connections to it fail"), String::new());
    let service = destination(name);
    match facts.upstreams.get(name) {
        None => query(chain, service, facts.queries.get(name)),
        Some(Upstream { mesh: 0, blocked: Some((instance, why)), .. }) => chain.because(
            format!("{instance} is registered on this agent, and its way into the catalog is blocked by ACLs: {why}"),
            blocked_remedy(instance),
        ),
        Some(Upstream { mesh: 0, ordinary: 0, .. }) => chain.because(
            format!("no service {service} is registered, or {id} may not see it"),
            format!("register {service} with connect {{ proxy {{}} }}, or correct destination_name"),
        ),
        Some(Upstream { mesh: 0, ordinary, .. }) => chain.because(
            match ordinary {
                1 => format!("{service} has one instance, which has no proxy"),
                several => format!("{service} has {several} instances and none of them has a proxy"),
            },
            format!("add connect {{ proxy {{}} }} to the definition of {service}"),
        ),
        Some(Upstream { failing, mesh, .. }) if !failing.is_empty() => {
            for Failing { check, output, instance, node } in failing.iter().take(3) {
                let whose = match mesh {
                    1 => "its only instance does not pass".to_owned(),
                    several => format!("of its {several} instances none passes"),
                };
                match maintenance(check, output) {
                    Some((what, end)) => chain.because(format!("{whose}: {what}"), format!("on its node {node}: {end}")),
                    None if check == SERF_HEALTH => chain.because(
                        format!("{whose}: nothing is heard of the agent of its node {node}"),
                        format!("start the agent of {node}; where it runs, its log says why it does not reach the store"),
                    ),
                    None => chain.because(
                        format!("{whose}: check {check} says {:?}", cut(output)),
                        format!("on its node {node}: lictor connect why {instance}"),
                    ),
                }
            }
        }
        Some(_) => chain.because(
            "discovery has instances that the proxy has not taken",
            if facts.acl {
                format!(
                    "it sees what the token of its service may read (token of the definition, else acl.tokens.default): that \
                     needs service:read for {service}; its log: lictor connect logs {id}"
                )
            } else {
                format!("its log tells why: lictor connect logs {id}")
            },
        ),
    }
}

/// A prepared query that gives nothing.
fn query(chain: &mut Chain, name: &str, known: Option<&Asked>) {
    match known {
        Some(Asked::Nothing) => chain.because(
            format!("there is no prepared query {name}"),
            "create it (PUT /v1/query), or correct destination_name; for a service leave destination_type out",
        ),
        Some(Asked::Service(Some(service))) => chain.because(
            format!("the prepared query {name}, which asks for {service}, gives no healthy instance with a proxy"),
            format!(
                "see whether {service} has one, and what else the query wants: lictor catalog nodes -service={service}"
            ),
        ),
        _ => chain.because(
            format!("the prepared query {name} gives no healthy instance with a proxy"),
            "see what it asks for, and whether there is that with a proxy (GET /v1/query/NAME/explain)",
        ),
    }
}

/// What lets a service into the catalog.
fn blocked_remedy(id: &str) -> String {
    format!(
        "give {id} a token with service:write on its name and on that of its proxy: token in its definition, else \
         acl.tokens.default; then lictor reload"
    )
}

/// Some other program runs and reports nothing.
fn foreign(chain: &mut Chain, process: &ManagedProcess) {
    if process.serving {
        return;
    }
    let id = &process.id;
    match &process.check {
        Some((status, output)) if *status != Status::Passing && !output.is_empty() => chain.add(
            format!("{id} runs and does not listen where it should: {:?}", cut(output)),
            format!("it must listen on the port that GET /v1/agent/connect/proxy/{id} tells it; its log: lictor connect logs {id}"),
        ),
        _ => chain.add(
            format!("{id} runs and has not said that it is ready"),
            "a program that is no lictor proxy may send READY=1 to NOTIFY_SOCKET; one just adopted reports within 10 s",
        ),
    }
}

/// What somebody has taken out of use, with the reason, and how that ends; `None` for other checks.
fn maintenance(check: &str, reason: &str) -> Option<(String, String)> {
    if check == "_node_maintenance" {
        return Some((format!("its node is in maintenance: {:?}", cut(reason)), "lictor maint -disable".to_owned()));
    }
    let id = check.strip_prefix("_service_maintenance:")?;
    // An operator's drain ends with a start, which also lets its process run again.
    let end = match reason.starts_with(super::DRAIN_NOTE) {
        true => format!("lictor connect start {id}"),
        false => format!("lictor maint -disable -service {id}"),
    };
    Some((format!("it is in maintenance: {:?}", cut(reason)), end))
}

fn cut(text: &str) -> String {
    text.trim().chars().take(200).collect()
}

fn millis(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// A length of time as people say it.
fn age(millis: i64) -> String {
    let seconds = millis.max(0) / 1000;
    match seconds {
        0 => format!("{} ms", millis.max(0)),
        1..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::operate::held::Held;
    use crate::operate::{LastExit, Report};

    const NOW: i64 = 1_000_000;

    fn process() -> ManagedProcess {
        ManagedProcess {
            id: "web-proxy".into(),
            service_id: "web".into(),
            service: "web".into(),
            command: None,
            state: "ready",
            since_unix_ms: 0,
            pid: Some(7),
            started_unix_ms: Some(0),
            adopted: false,
            ready: true,
            serving: false,
            restarts: 0,
            last_exit: None,
            next_try_unix_ms: None,
            unheard_since_unix_ms: None,
            text: "ready".into(),
            held: None,
            usage: None,
            report: Some(Report { leaf_until: NOW, roots: 1, ..Report::default() }),
            check: None,
            refused: None,
            not_replaced: None,
        }
    }

    fn facts() -> Facts {
        Facts { supervised: true, mesh: true, ..Facts::default() }
    }

    fn told(process: &ManagedProcess, facts: &Facts) -> String {
        let lines = causes(process, facts, NOW)
            .into_iter()
            .map(|cause| format!("{}{}\n  -> {}\n", "because ".repeat(cause.depth), cause.what, cause.remedy));
        lines.collect()
    }

    #[test]
    fn a_proxy_that_serves_has_nothing_to_explain() {
        assert_eq!(told(&ManagedProcess { serving: true, ..process() }, &facts()), "");
    }

    #[test]
    fn each_state_is_explained_down_to_something_that_can_be_done() {
        let held = |until| Some(Held { since_unix_ms: NOW - 5000, drain_until_unix_ms: until });
        let crashed = LastExit {
            reason: "exited with code 3".into(),
            at_unix_ms: NOW - 2000,
            ran: Duration::from_secs(4),
            output: vec!["boom".into()],
        };
        let missing = LastExit { reason: "cannot start \"/x\": No such file or directory".into(), ..crashed.clone() };
        let down = ManagedProcess {
            pid: None,
            report: None,
            state: "backing-off",
            next_try_unix_ms: Some(NOW + 8000),
            ..process()
        };
        let report = |report: Report| Some(Report { leaf_until: NOW, roots: 1, ..report });
        let lonely = Report { unreachable: vec!["service:default/db".into()], upstreams: (0, 1), ..Report::default() };
        let starting = |text: &str| ManagedProcess { ready: false, text: format!("starting: {text}"), ..process() };
        let upstream = |upstream| Facts { upstreams: [("service:default/db".into(), upstream)].into(), ..facts() };
        let failing = |check: &str, output: &str| Failing {
            check: check.into(),
            output: output.into(),
            instance: "db-1-proxy".into(),
            node: "node2".into(),
        };
        let near = || "prepared_query:default/near".to_owned();
        let asking = || report(Report { unreachable: vec![near()], ..Report::default() });
        let query = |asked| [(near(), asked)].into();
        let cases: Vec<(ManagedProcess, Facts, &[&str])> = vec![
            (process(), Facts::default(), &["no HTTP address", "ports.http"]),
            (process(), Facts { script: true, ..facts() }, &["script", "daemon"]),
            (
                ManagedProcess { held: held(None), ..process() },
                facts(),
                &["stopped web-proxy 5 s ago", "connect start"],
            ),
            (
                ManagedProcess { held: held(Some(NOW + 9000)), ..process() },
                facts(),
                &["drained: 0 connections", "in 9 s"],
            ),
            (
                ManagedProcess { refused: Some("running as root".into()), pid: None, ..process() },
                facts(),
                &["running as root", "run_as"],
            ),
            (
                ManagedProcess { last_exit: Some(crashed), ..down.clone() },
                facts(),
                &["started again in 8 s", "2 s ago it exited with code 3 after 4 s", "boom", "connect logs"],
            ),
            (ManagedProcess { last_exit: Some(missing), ..down }, facts(), &["No such file", "install the program"]),
            (starting("no certificates yet"), Facts { mesh: false, ..facts() }, &["no certificates", "enabled = true"]),
            (
                ManagedProcess { service: "a/b".into(), ..starting("no certificates yet") },
                facts(),
                &["no certificate can hold the service name \"a/b\"", "without slashes"],
            ),
            (
                ManagedProcess { report: None, check: Some((Status::Critical, String::new())), ..process() },
                facts(),
                &["runs and has not said that it is ready", "READY=1"],
            ),
            (
                starting("public cannot listen on 127.0.0.1:1: Address already in use"),
                facts(),
                &["cannot listen", "ss -ltnp"],
            ),
            (
                starting("upstream service:default/db cannot listen on 127.0.0.1:1: Address already in use"),
                Facts {
                    listening: Listening::of(&"app-proxy".into(), ["service:default/x=0.0.0.0:1"]).collect(),
                    ..facts()
                },
                &["cannot listen", "app-proxy has the address, for service:default/x", "one of the two"],
            ),
            (
                ManagedProcess { unheard_since_unix_ms: Some(NOW - 7000), report: None, ..process() },
                facts(),
                &["has not heard it for 7 s", "connect restart web-proxy"],
            ),
            (
                ManagedProcess { report: report(lonely.clone()), ..process() },
                upstream(Upstream::default()),
                &["no healthy instance", "no service db is registered"],
            ),
            (
                ManagedProcess { report: report(lonely.clone()), ..process() },
                upstream(Upstream { ordinary: 2, ..Upstream::default() }),
                &["none of them has a proxy", "connect { proxy {} }"],
            ),
            (
                ManagedProcess { report: report(lonely.clone()), ..process() },
                upstream(Upstream { ordinary: 1, mesh: 1, failing: vec![failing("c", "refused")], blocked: None }),
                &["check c says \"refused\"", "on its node node2: lictor connect why db-1-proxy"],
            ),
            (
                ManagedProcess { report: report(lonely.clone()), ..process() },
                upstream(Upstream {
                    ordinary: 1,
                    mesh: 1,
                    failing: vec![failing("serfHealth", "Agent not live or unreachable")],
                    blocked: None,
                }),
                &["nothing is heard of the agent of its node node2", "start the agent of node2"],
            ),
            (
                ManagedProcess { report: Some(Report { leaf_until: 900, roots: 1, ..Report::default() }), ..process() },
                facts(),
                &["certificate ran out 100 s ago"],
            ),
            (
                ManagedProcess { report: None, check: Some((Status::Critical, "refused".into())), ..process() },
                facts(),
                &["does not listen", "agent/connect/proxy/web-proxy"],
            ),
            (
                ManagedProcess { serving: true, ..process() },
                Facts { failing: vec![("app".into(), "503".into())], ..facts() },
                &["web itself is critical, and only the mesh", "503"],
            ),
            (
                ManagedProcess { serving: true, ..process() },
                Facts { denied: vec![("db".into(), "Matched intention: DENY".into())], ..facts() },
                &["web may not connect to db: Matched", "intention create -allow web db"],
            ),
            (
                ManagedProcess { serving: true, ..process() },
                Facts { app: Some(("127.0.0.1:9".into(), "refused".into())), ..facts() },
                &["at 127.0.0.1:9 there is no application (refused)", "start web"],
            ),
            (
                ManagedProcess { report: asking(), ..process() },
                Facts { queries: query(Asked::Service(Some("db".into()))), ..facts() },
                &["because the prepared query near, which asks for db, gives", "lictor catalog nodes -service=db"],
            ),
            (
                ManagedProcess { report: asking(), ..process() },
                Facts { queries: query(Asked::Nothing), ..facts() },
                &["because there is no prepared query near", "correct destination_name"],
            ),
            (
                ManagedProcess { report: report(lonely.clone()), ..process() },
                Facts { acl: true, ..upstream(Upstream { ordinary: 1, mesh: 1, ..Upstream::default() }) },
                &["has not taken", "service:read for db"],
            ),
            // What has nothing to do with each other is not behind each other.
            (
                ManagedProcess { report: report(lonely.clone()), ..process() },
                Facts { app: Some(("127.0.0.1:9".into(), "refused".into())), ..upstream(Upstream::default()) },
                &["because no service db is registered", "\nconnections to web end at its proxy"],
            ),
            (
                ManagedProcess { serving: true, ..process() },
                Facts { failing: vec![("_node_maintenance".into(), "new disks".into())], ..facts() },
                &["web: its node is in maintenance: \"new disks\"", "-> lictor maint -disable\n"],
            ),
            (
                ManagedProcess { report: report(lonely.clone()), ..process() },
                upstream(Upstream {
                    ordinary: 1,
                    mesh: 1,
                    failing: vec![failing("_service_maintenance:db-1", "moving")],
                    blocked: None,
                }),
                &["its only instance does not pass", "\"moving\"", "lictor maint -disable -service db-1"],
            ),
            (
                ManagedProcess { report: report(lonely.clone()), ..process() },
                upstream(Upstream {
                    ordinary: 1,
                    mesh: 1,
                    failing: vec![failing("_service_maintenance:db-1-proxy", "drained by an operator, x")],
                    blocked: None,
                }),
                &["drained by an operator", "on its node node2: lictor connect start db-1-proxy"],
            ),
            (
                ManagedProcess { report: report(lonely), ..process() },
                upstream(Upstream { blocked: Some(("db-1".into(), "no right".into())), ..Upstream::default() }),
                &["db-1 is registered on this agent", "blocked by ACLs: no right", "give db-1 a token"],
            ),
            (
                ManagedProcess { serving: true, ..process() },
                Facts { blocked: vec![("web".into(), "no right".into())], ..facts() },
                &["nobody finds web", "blocked by ACLs: no right", "token in its definition"],
            ),
            (
                ManagedProcess { serving: true, ..process() },
                Facts {
                    apps: vec![MissingApp {
                        service: "db".into(),
                        address: "127.0.0.1:9".into(),
                        error: "refused".into(),
                    }],
                    ..facts()
                },
                &["connections to db end at its proxy: at 127.0.0.1:9", "start db"],
            ),
        ];
        for (process, facts, expected) in cases {
            let text = told(&process, &facts);
            assert!(!text.is_empty(), "{process:?}");
            for part in expected {
                assert!(text.contains(part), "{part:?} is not in:\n{text}");
            }
        }
    }

    #[test]
    fn times_are_said_as_people_say_them() {
        let said: Vec<String> = [-5, 300, 61_000, 600_000, 7_200_000, 400_000_000].map(age).into();
        assert_eq!(said, ["0 ms", "300 ms", "61 s", "10 min", "2 h", "4 days"]);
    }

    #[tokio::test]
    async fn applications_that_do_not_answer_are_asked_side_by_side() {
        // Somebody who listens and never accepts, and whose queue is full.
        let mut silent = Vec::new();
        for _ in 0..5 {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
            let listener = socket.listen(0).unwrap();
            let address = listener.local_addr().unwrap();
            let mut queue = Vec::new();
            while let Ok(connection) = timeout(APPLICATION_PATIENCE / 5, TcpStream::connect(address)).await {
                queue.push(connection.unwrap());
            }
            silent.push((address.to_string(), listener, queue));
        }
        let there = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = there.local_addr().unwrap().to_string();
        let nowhere = "127.0.0.1:1".to_owned();
        let all = silent.iter().map(|(address, ..)| address).chain([&here, &nowhere]);
        let begin = std::time::Instant::now();
        let gone = unreachable(all.cloned().collect()).await;
        let took = begin.elapsed();
        assert!(took < 3 * APPLICATION_PATIENCE, "{took:?}");
        assert!(silent.iter().all(|(address, ..)| gone[address] == "no answer"), "{gone:?}");
        assert!(gone[&nowhere].contains("refused") && !gone.contains_key(&here), "{gone:?}");
        // More than are asked at a time, and one after the other all of them.
        let many: BTreeSet<String> = (1..=255).map(|last| format!("127.0.0.{last}:1")).collect();
        assert_eq!(unreachable(many.clone()).await.into_keys().collect::<BTreeSet<_>>(), many);
    }
}
