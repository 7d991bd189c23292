//! Reconciler: wanted managed proxies to supervised processes.
//!
//! The table says which proxies are wanted; the supervisor keeps one process for each and knows nothing of services.
//! A change of settings or upstreams never restarts a process: it learns them by its own blocking read. Only what the
//! process was started with (command, generated variables) does, and what a custom command that reads its settings at its
//! start alone asks for (`restart_on_config_change`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use lictor_model::name::{CheckId, ServiceId};
use lictor_model::service::{ManagedProxy, ProxyLimits};
use lictor_supervisor::{Draw, Limits, Privileges, Replacement, Spec, Standing, Supervisor, User};
use lictor_task::clock;

use crate::agent::{Agent, Inner};
use crate::config::{RunAs, SameNode, Sandbox};
use crate::managed::{self, ExecMode};
use crate::program;

/// Variables of the agent's own environment that every managed proxy inherits. The original handed over all of them,
/// secrets of the operator's shell included.
const INHERITED: [&str; 8] = ["PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "USER", "LOGNAME"];

impl Inner {
    /// Declares to the supervisor what is wanted now.
    pub(crate) async fn settle_proxies(self: &Arc<Self>, supervisor: &Supervisor) {
        {
            let registry = self.registry.lock();
            self.held.retain(|id| registry.proxies.contains_key(id));
        }
        let wanted = self.wanted_processes();
        let mut declared = self.declared.lock().await;
        let keep: BTreeSet<String> = wanted.iter().map(|spec| spec.id.clone()).collect();
        for id in declared.difference(&keep) {
            // The stop runs on its own: one stubborn process must not delay the others.
            drop(supervisor.unwant(id));
        }
        for spec in wanted {
            supervisor.want(spec);
        }
        *declared = keep;
    }

    pub(crate) fn wanted_processes(self: &Arc<Self>) -> Vec<Spec> {
        let registry = self.registry.lock();
        registry
            .proxies
            .iter()
            .filter(|(id, _)| !self.held.stops(id))
            .filter_map(|(id, entry)| {
                let view = managed::view(&self.config, &entry.definition).ok()?;
                if view.exec_mode == ExecMode::Script.as_str() {
                    self.warn_once(format!("agent/proxy: {id}: unsupported managed proxy type: \"script\""));
                    return None;
                }
                let mut edition = entry.proof.series.clone();
                if !self.is_built_in(&view.command)
                    && let Some((shown, ..)) = registry.proxy_config(&self.config, id.as_str())
                    && managed::restarts_on_change(&shown.config)
                {
                    edition.push_str(&format!(" {}", shown.content_hash));
                }
                Some(self.spec(id, &entry.definition, view.command, edition))
            })
            .collect()
    }

    fn spec(
        self: &Arc<Self>,
        id: &ServiceId,
        definition: &ManagedProxy,
        command: Vec<String>,
        edition: String,
    ) -> Spec {
        let names = INHERITED.iter().copied().chain(self.config.connect.pass_env.iter().map(String::as_str));
        let mut ambient: BTreeMap<String, String> = names
            .filter_map(|name| Some((name.to_owned(), std::env::var_os(name)?.to_string_lossy().into_owned())))
            .collect();
        let run_as = self.user_of(definition);
        if let Some(user) = run_as {
            // The agent's own would lead to what is not theirs.
            ambient.insert("HOME".into(), user.home.display().to_string());
            ambient.insert("USER".into(), user.name.clone());
            ambient.insert("LOGNAME".into(), user.name.clone());
        }
        if self.config.connect.sandbox == Sandbox::Off {
            ambient.insert("LICTOR_PROXY_SANDBOX".into(), "off".into());
        }
        let mut environment = self.config.connect.env.clone();
        // Generated variables come last: nothing the operator's shell holds may send a proxy to another agent.
        environment.extend(self.config.client_environment.iter().cloned());
        environment.insert("CONNECT_PROXY_ID".into(), id.to_string());
        let built_in = self.is_built_in(&command);
        let mut drawn: Option<Draw> = None;
        match self.proxy_socket(run_as) {
            // It needs no secret, so it gets none.
            Some(path) if built_in => {
                if self.config.connect.same_node == SameNode::Direct {
                    ambient.insert("LICTOR_SAME_NODE".into(), "direct".into());
                }
                if let Some(lease) = self.config.connect.agent_lease {
                    ambient.insert("LICTOR_AGENT_LEASE".into(), format!("{}ms", lease.as_millis()));
                }
                environment.insert("LICTOR_AGENT".into(), path.display().to_string());
            }
            _ => {
                // The supervisor is ours, so it must not keep us.
                let (agent, id) = (Arc::downgrade(self), id.clone());
                drawn = Some(Arc::new(move || agent.upgrade().map(|agent| agent.draw_token(&id)).unwrap_or_default()));
            }
        }
        let mut words = command.into_iter();
        let program = words.next().unwrap_or_default();
        let folder = self.proxy_dir();
        let file = lictor_supervisor::file_name(id.as_str());
        let [stdout, stderr] = self.log_files(id);
        Spec {
            id: id.to_string(),
            program: program::path_of(&program),
            // An upgrade that moved this program must not restart what runs, and neither must a new one of the same name
            // that is found first.
            program_key: match built_in {
                true => Some("lictor".to_owned()),
                false => Some(&program).filter(|program| !program.starts_with('/')).map(|name| format!("named {name}")),
            },
            args: words.collect(),
            environment,
            ambient,
            edition: drawn.as_ref().map(|_| edition).unwrap_or_default(),
            drawn,
            replacement: if built_in {
                Replacement::HandOver { drain: self.config.connect.drain_time }
            } else {
                Replacement::StopThenStart
            },
            user: run_as.map(|user| User { uid: user.uid, gid: user.gid }),
            limits: limits(definition.limits, self.config.connect.limits),
            // The built-in proxy gives up all that and more by itself, when it has read what it needs.
            privileges: if built_in { Privileges::default() } else { self.config.connect.command_privileges },
            files: self.config.connect.command_files.clone().filter(|_| !built_in),
            // The built-in proxy starts nothing, and shares the processor with the agent's session.
            standing: if built_in { Standing::Group } else { Standing::Session },
            stdout: Some(stdout),
            stderr: Some(stderr),
            logs: Some(self.logs.clone()),
            pid_file: Some(folder.join("pids").join(format!("{file}.pid"))),
            ..Spec::default()
        }
    }

    /// Who a proxy runs as, if not as the agent does.
    fn user_of(&self, definition: &ManagedProxy) -> Option<&RunAs> {
        // One that the agent does not know is refused when it is registered.
        let own = self.config.connect.users.get(&definition.run_as);
        own.or(self.config.connect.run_as.as_ref())
    }

    /// Where proxies of a user ask this agent without a token.
    fn proxy_socket(&self, user: Option<&RunAs>) -> Option<&PathBuf> {
        match user {
            Some(_) => self.config.open_proxy_socket.as_ref(),
            None => self.config.proxy_socket.as_ref(),
        }
    }

    pub(crate) fn is_built_in(&self, command: &[String]) -> bool {
        command == managed::built_in_command(&self.config)
    }

    /// A token for the next start of a program that proves itself by one. What is needed to recognise it is on disk before
    /// the program has it.
    fn draw_token(&self, id: &ServiceId) -> BTreeMap<String, String> {
        let token = self.registry.lock().renew_token(id);
        // Meanwhile removed: then nobody will start it.
        let Some(token) = token else { return BTreeMap::new() };
        if let Err(error) = self.files.keep_proxy(id, || self.proxy_record(id)) {
            tracing::error!(
                "agent/proxy: {id}: its token cannot be kept on disk and will be refused after a restart of this agent: {error}"
            );
        }
        BTreeMap::from([("CONNECT_PROXY_TOKEN".to_owned(), token)])
    }

    /// Where output and pid files of managed proxies go.
    pub(crate) fn proxy_dir(&self) -> PathBuf {
        self.config.data_dir.as_ref().unwrap_or(&self.config.runtime_dir).join("proxy")
    }

    /// Who keeps managed proxies running, if somebody does. An agent that has just started is waited for.
    pub(crate) async fn supervisor(&self) -> Option<&Supervisor> {
        self.supervisor.wait().await.as_ref()
    }

    /// The same without waiting.
    pub(crate) fn supervisor_now(&self) -> Option<&Supervisor> {
        self.supervisor.get()?.as_ref()
    }

    /// Keeps the processes as wanted until told to stop, and has the check of a proxy run when its process has come, become
    /// ready or gone: discovery shall not wait for the regular run.
    pub(crate) async fn keep_proxies(self: Arc<Self>, supervisor: Supervisor) {
        self.settle_proxies(&supervisor).await;
        supervisor.settled();
        // Said once: there is one supervisor.
        let _ = self.supervisor.set(Some(supervisor.clone()));
        let mut statuses = supervisor.statuses();
        let mut processes = BTreeSet::new();
        loop {
            tokio::select! {
                () = self.proxies_nudge.notified() => self.settle_proxies(&supervisor).await,
                changed = statuses.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let present = Arc::clone(&statuses.borrow_and_update());
                    self.explain(&present);
                    self.make_way(&present).await;
                    let now: BTreeSet<_> = present
                        .iter()
                        .filter_map(|(id, status)| Some((id.clone(), status.pid?, status.ready)))
                        .collect();
                    for (id, ..) in now.symmetric_difference(&processes) {
                        self.run_check_now(&CheckId::of_service(&ServiceId::from(id.as_str()), 1, 1));
                    }
                    processes = now;
                }
                () = self.stop.requested() => return,
            }
        }
    }
}

/// What a service says of its proxy's limits, and the agent's word where it says nothing.
fn limits(own: ProxyLimits, defaults: Limits) -> Limits {
    let given = |number: i64| u64::try_from(number).ok().filter(|number| *number > 0);
    Limits {
        open_files: given(own.open_files).or(defaults.open_files),
        memory: given(own.memory).or(defaults.memory),
        cpu_weight: u16::try_from(own.cpu_weight).ok().filter(|weight| *weight > 0).or(defaults.cpu_weight),
    }
}

/// What was counted of managed proxies so far.
#[derive(Default)]
pub struct Counted(BTreeMap<String, u32>);

impl Agent {
    /// Counts the restarts of managed proxies since the last call, and tells how many seconds each has been running: 0
    /// while it does not.
    pub fn measure_proxies(&self, counted: &mut Counted) {
        let Some(supervisor) = self.inner.supervisor_now() else { return };
        let (meter, now) = (lictor_meter::process(), clock::unix_seconds());
        let present = Arc::clone(&supervisor.statuses().borrow());
        for (id, status) in present.iter() {
            let labels = [("proxy", id.as_str())];
            let before = counted.0.insert(id.clone(), status.restarts).unwrap_or_default();
            // A proxy that was removed and came back begins again at 0.
            let new = if status.restarts >= before { status.restarts - before } else { status.restarts };
            if new > 0 {
                meter.counter("managed.restarts", &labels).add(new.into());
            }
            let started = status.pid.and(status.started_unix_ms).map(|started| started / 1000);
            let seconds = started.map_or(0, |started| (now - started).max(0));
            meter.gauge("managed.uptime", &labels).set(seconds as f64);
        }
        counted.0.retain(|id, _| {
            let goes_on = present.contains_key(id);
            if !goes_on {
                // A gauge stays where it was set last.
                meter.gauge("managed.uptime", &[("proxy", id.as_str())]).set(0.0);
            }
            goes_on
        });
    }
}
