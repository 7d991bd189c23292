//! Operating managed proxies: what runs and how it is doing, and holding, starting, restarting and draining it.
//!
//! Seeing needs the right to read the service that a proxy stands beside, acting the right to write it. What an operator
//! stopped stays stopped until somebody starts it, also when the agent is restarted in between (see [`held`]).

pub mod held;
pub mod logs;
pub mod why;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lictor_model::acl::Caller;
use lictor_model::health::{CheckSpec, Status};
use lictor_model::name::{CheckId, ServiceId, ServiceName};
use lictor_supervisor::{Handover, State, Usage};
use lictor_task::clock;

use self::held::Held;
use self::why::Cause;
use crate::agent::{Agent, Inner};
use crate::{Error, managed};

/// How often a draining proxy is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Discovery needs a moment to tell everyone that a proxy is being drained; until then none counts as empty.
const SETTLING: Duration = Duration::from_secs(2);

/// The beginning of the maintenance reason that a drain sets, by which a start knows what to take away.
const DRAIN_NOTE: &str = "drained by an operator";

/// A managed proxy and its process, as they stand.
#[derive(Clone, Debug, PartialEq)]
pub struct ManagedProcess {
    /// Id of the proxy's service.
    pub id: ServiceId,
    /// The service it stands beside.
    pub service_id: ServiceId,
    /// The name of that service.
    pub service: ServiceName,
    /// Program and arguments; only for callers that may write the service.
    pub command: Option<Vec<String>>,
    /// Where it stands, in one word.
    pub state: &'static str,
    /// Since when, in milliseconds since the Unix epoch.
    pub since_unix_ms: i64,
    /// Its pid while it runs.
    pub pid: Option<u32>,
    /// The start of that process, in milliseconds since the Unix epoch.
    pub started_unix_ms: Option<i64>,
    /// Whether an earlier agent started it.
    pub adopted: bool,
    /// Whether it has said that it is ready.
    pub ready: bool,
    /// Whether everything is there: certificates, listeners, and an instance for each upstream.
    pub serving: bool,
    /// How often another process took its place since this agent began.
    pub restarts: u32,
    /// How the last run ended.
    pub last_exit: Option<LastExit>,
    /// The next start, when it waits for one, in milliseconds since the Unix epoch.
    pub next_try_unix_ms: Option<i64>,
    /// Since when nothing was heard of it though it should report, in milliseconds since the Unix epoch.
    pub unheard_since_unix_ms: Option<i64>,
    /// What it last said of itself.
    pub text: String,
    /// When an operator stopped it or began to drain it.
    pub held: Option<Held>,
    /// What it uses of the machine.
    pub usage: Option<Usage>,
    /// What it reports; programs that are not ours report nothing.
    pub report: Option<Report>,
    /// State and output of the check that looks whether it listens.
    pub check: Option<(Status, String)>,
    /// Why it may not be started.
    pub refused: Option<String>,
    /// Why it was not replaced the last time, and what ran goes on; and when, in milliseconds since the Unix epoch.
    pub not_replaced: Option<(String, i64)>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct LastExit {
    /// In words.
    pub reason: String,
    /// When, in milliseconds since the Unix epoch.
    pub at_unix_ms: i64,
    /// How long it had run.
    pub ran: Duration,
    /// Its last lines.
    pub output: Vec<String>,
}

/// What the built-in proxy reports of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Connections being carried.
    pub connections: u64,
    /// Those of them that peers opened.
    pub inbound: u64,
    /// Listeners that are open, and how many there should be.
    pub listeners: (u64, u64),
    /// The open ones, as `what=address`.
    pub listening: Vec<String>,
    /// Upstreams with an instance, and how many upstreams there are.
    pub upstreams: (u64, u64),
    /// Instances of each upstream, as `name=count`.
    pub endpoints: Vec<String>,
    /// Upstreams without one.
    pub unreachable: Vec<String>,
    /// Until when its certificate is valid, in seconds since the Unix epoch; 0 when it has none.
    pub leaf_until: i64,
    /// Roots it trusts.
    pub roots: u64,
    /// Connections that went to or came from another proxy of this agent without TLS.
    pub direct: u64,
    /// Connections that could have and went with TLS.
    pub direct_fallbacks: u64,
}

impl Report {
    fn from_fields(fields: &BTreeMap<String, String>) -> Option<Report> {
        let text = |name: &str| fields.get(&format!("X_LICTOR_{name}")).map(String::as_str);
        let number = |name: &str| text(name).and_then(|text| text.parse().ok()).unwrap_or_default();
        let pair = |name: &str| {
            let (have, want) = text(name)?.split_once('/')?;
            Some((have.parse().ok()?, want.parse().ok()?))
        };
        let list = |name: &str| text(name).unwrap_or_default().split_whitespace().map(str::to_owned).collect();
        Some(Report {
            connections: text("CONNECTIONS")?.parse().ok()?,
            inbound: number("INBOUND"),
            listeners: pair("LISTENERS")?,
            listening: list("LISTENING"),
            upstreams: pair("UPSTREAMS")?,
            endpoints: list("ENDPOINTS"),
            unreachable: list("UNREACHABLE"),
            leaf_until: text("LEAF_UNTIL").and_then(|text| text.parse().ok()).unwrap_or_default(),
            roots: number("ROOTS"),
            direct: number("DIRECT"),
            direct_fallbacks: number("DIRECT_FALLBACKS"),
        })
    }

    fn is_whole(&self, now: i64) -> bool {
        self.listeners.0 == self.listeners.1
            && self.upstreams.0 == self.upstreams.1
            && self.leaf_until > now
            && self.roots > 0
    }
}

/// What an operator can do to one managed proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Stop it and keep it stopped.
    Stop,
    /// Let it run again.
    Start,
    /// Replace its process.
    Restart,
    /// Take it out of discovery, wait so long for its connections to end, and stop it.
    Drain(Duration),
}

impl Agent {
    /// All managed proxies whose service the caller may read.
    pub fn managed_processes(&self, caller: &Caller) -> Vec<ManagedProcess> {
        let ids: Vec<ServiceId> = self.inner.registry.lock().proxies.keys().cloned().collect();
        ids.iter().filter_map(|id| self.inner.managed_process(caller, id).ok()).collect()
    }

    /// One managed proxy, by its own id or by that of the service it stands beside.
    pub fn managed_process(&self, caller: &Caller, id: &str) -> Result<ManagedProcess, Error> {
        let id = self.inner.proxy_id(id)?;
        self.inner.managed_process(caller, &id)
    }

    /// A managed proxy, and why it does not serve or not all: what is seen first, then what is behind it. Empty when nothing is
    /// in its way. The application is connected to for that.
    pub async fn why(&self, caller: &Caller, token: &str, id: &str) -> Result<(ManagedProcess, Vec<Cause>), Error> {
        let process = self.managed_process(caller, id)?;
        let decisions = self.inner.look_at_upstreams(caller, token, &process).await;
        let (app, apps) = match process.pid {
            Some(_) => tokio::join!(self.inner.application(&process.id), self.inner.missing_apps(caller, &process)),
            None => (None, Vec::new()),
        };
        let facts = why::Facts { app, apps, ..self.inner.facts(caller, &process, &decisions) };
        let causes = why::causes(&process, &facts, clock::unix_nanos() / 1_000_000);
        Ok((process, causes))
    }

    /// Stops, starts, restarts or drains a managed proxy.
    pub async fn operate(&self, caller: &Caller, id: &str, act: Act) -> Result<(), Error> {
        let inner = &self.inner;
        let id = inner.proxy_id(id)?;
        let process = inner.managed_process(caller, &id)?;
        if !caller.writes_service(process.service.as_str()) {
            return Err(Error::Denied);
        }
        let cannot_keep = |source| Error::Machine { operation: format!("keep that {id} is stopped"), source };
        tracing::info!("agent/proxy: {id}: an operator asked to {}", act.as_str());
        match act {
            Act::Stop => {
                inner.held.hold(&id, Held::stopped()).map_err(cannot_keep)?;
                inner.proxies_nudge.notify_one();
            }
            Act::Start => {
                if process.pid.is_none() {
                    // As at its first start: what its check found last was another process.
                    let output = format!("{id} is being started");
                    inner.set_check_state(&CheckId::of_service(&id, 1, 1), Status::Critical, output);
                }
                inner.held.release(&id).map_err(cannot_keep)?;
                // Before anything is waited for: whoever asked may leave meanwhile.
                inner.proxies_nudge.notify_one();
                inner.end_drain(&id).await;
            }
            Act::Restart => {
                if process.held.is_some() {
                    let text = format!("{id} is stopped; start it instead: lictor connect start {id}");
                    return Err(Error::Refused(text));
                }
                inner.restart_process(&id).await?;
            }
            Act::Drain(limit) => {
                if process.pid.is_none() {
                    return Err(Error::Refused(format!("{id} does not run, so there is nothing to drain")));
                }
                inner.held.hold(&id, Held::draining(limit)).map_err(cannot_keep)?;
                inner.drains.notify_one();
                inner.begin_drain(&id).await;
            }
        }
        Ok(())
    }
}

impl Act {
    fn as_str(self) -> &'static str {
        match self {
            Act::Stop => "stop it",
            Act::Start => "start it",
            Act::Restart => "restart it",
            Act::Drain(_) => "drain it",
        }
    }
}

impl Inner {
    /// The proxy meant: by its own id, or by that of its service.
    fn proxy_id(&self, id: &str) -> Result<ServiceId, Error> {
        let registry = self.registry.lock();
        let own = ServiceId::from(id);
        [own.managed_proxy(), own]
            .into_iter()
            .rev()
            .find(|id| registry.proxies.contains_key(id))
            .ok_or_else(|| Error::NotFound(format!("there is no managed proxy {id:?} on this agent")))
    }

    fn managed_process(&self, caller: &Caller, id: &ServiceId) -> Result<ManagedProcess, Error> {
        let gone = || Error::NotFound(format!("there is no managed proxy {:?} on this agent", id.as_str()));
        let (service_id, service, command, check) = {
            let registry = self.registry.lock();
            let entry = registry.proxies.get(id).ok_or_else(gone)?;
            let target = registry.services.get(&entry.target).ok_or_else(gone)?;
            let service = target.view.service.name.clone();
            if !caller.reads_service(service.as_str()) {
                return Err(Error::Denied);
            }
            let view = managed::view(&self.config, &entry.definition).ok();
            // Arguments may hold what not every reader should know.
            let command = view.map(|view| view.command).filter(|_| caller.writes_service(service.as_str()));
            let check = registry.checks.get(&CheckId::of_service(id, 1, 1)).map(|check| &check.check);
            let check = check.map(|check| (check.status, check.output.clone()));
            (entry.target.clone(), service, command, check)
        };
        let held = self.held.get(id);
        let status = self.supervisor_now().and_then(|all| all.statuses().borrow().get(id.as_str()).cloned());
        let status = status.unwrap_or_default();
        let state = match (&held, status.state) {
            (Some(held), _) if held.drain_until_unix_ms.is_some() => "draining",
            (_, State::Running | State::Ready) if status.unheard_since_unix_ms.is_some() => "unheard",
            (_, state) => state.as_str(),
        };
        let report = Report::from_fields(&status.fields).filter(|_| status.pid.is_some());
        let passing = check.as_ref().is_none_or(|(status, _)| *status == Status::Passing);
        // What it said before may no longer be so.
        let serving = held.is_none()
            && status.unheard_since_unix_ms.is_none()
            && match &report {
                Some(report) => status.ready && report.is_whole(clock::unix_seconds()),
                // A program that is not ours and says nothing is judged by whether it listens.
                None => status.pid.is_some() && (status.ready || status.state == State::Running) && passing,
            };
        Ok(ManagedProcess {
            id: id.clone(),
            service_id,
            service,
            command,
            state,
            since_unix_ms: held.as_ref().map_or(status.since_unix_ms, |held| held.since_unix_ms),
            pid: status.pid,
            started_unix_ms: status.started_unix_ms,
            adopted: status.adopted,
            ready: status.ready,
            serving,
            restarts: status.restarts,
            last_exit: status.last_exit.map(|last| LastExit {
                reason: last.exit.to_string(),
                at_unix_ms: last.at_unix_ms,
                ran: last.ran,
                output: last.output,
            }),
            next_try_unix_ms: status.next_try_unix_ms,
            unheard_since_unix_ms: status.unheard_since_unix_ms,
            text: status.text,
            held,
            usage: status.pid.and_then(Usage::of),
            report,
            check,
            refused: status.refused,
            not_replaced: match status.handover {
                Handover::Failed { cause, at_unix_ms } => Some((cause, at_unix_ms)),
                Handover::None | Handover::UnderWay { .. } => None,
            },
        })
    }

    /// Replaces a process.
    pub(crate) async fn restart_process(&self, id: &ServiceId) -> Result<(), Error> {
        let unsupervised = || Error::Refused(format!("{id} is not supervised here, or shall not run"));
        let supervisor = self.supervisor().await.ok_or_else(unsupervised)?;
        if supervisor.restart(id.as_str()) { Ok(()) } else { Err(unsupervised()) }
    }

    /// Takes a proxy out of discovery.
    async fn begin_drain(self: &Arc<Self>, id: &ServiceId) {
        let check = CheckSpec {
            id: CheckId::service_maintenance(id),
            name: "Service Maintenance Mode".into(),
            notes: format!("{DRAIN_NOTE}: no new connections are sent here"),
            service_id: id.clone(),
            status: Some(Status::Critical),
            ..CheckSpec::default()
        };
        // What is gone meanwhile is in no discovery.
        let _ = self.switch_maintenance(&Caller::management(""), check, true, "").await;
    }

    /// Puts a proxy back into discovery, if it was a drain that took it out.
    async fn end_drain(self: &Arc<Self>, id: &ServiceId) {
        let check_id = CheckId::service_maintenance(id);
        let is_ours =
            self.registry.lock().checks.get(&check_id).is_some_and(|entry| entry.check.notes.starts_with(DRAIN_NOTE));
        if is_ours {
            let check = CheckSpec { id: check_id, ..CheckSpec::default() };
            let _ = self.switch_maintenance(&Caller::management(""), check, false, "").await;
        }
    }

    /// Stops proxies whose drain is over: no connection is left, or the time is.
    pub(crate) async fn keep_drains(self: Arc<Self>) {
        // Before it has declared what is wanted nothing is known of what an earlier agent left running.
        let Some(Some(supervisor)) = self.stop.or_stopped(self.supervisor()).await else { return };
        let statuses = supervisor.statuses();
        loop {
            let draining = self.held.draining();
            if draining.is_empty() {
                tokio::select! {
                    () = self.drains.notified() => {}
                    () = self.stop.requested() => return,
                }
                continue;
            }
            for (id, held) in draining {
                let status = statuses.borrow().get(id.as_str()).cloned();
                let Some(end) = drained(&held, status.as_ref(), clock::unix_nanos() / 1_000_000) else { continue };
                match self.held.end_drain(&id, &held) {
                    Ok(true) => self.proxies_nudge.notify_one(),
                    // Somebody has started it meanwhile, or drains it anew.
                    Ok(false) => continue,
                    Err(error) => {
                        tracing::error!("agent/proxy: {id}: cannot keep that it is stopped: {error}");
                        continue;
                    }
                }
                match end {
                    DrainEnd::Gone => {}
                    DrainEnd::Empty => tracing::info!("agent/proxy: {id}: drained"),
                    DrainEnd::Over(Some(left)) => {
                        tracing::warn!("agent/proxy: {id}: {left} connections did not end in time");
                    }
                    DrainEnd::Over(None) => {
                        tracing::info!("agent/proxy: {id}: does not tell its connections; the time to drain is over")
                    }
                }
            }
            if self.stop.or_stopped(tokio::time::sleep(LOOK)).await.is_none() {
                return;
            }
        }
    }
}

/// Why a drain is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DrainEnd {
    /// The process is.
    Gone,
    /// No connection is left.
    Empty,
    /// The time is, and so many connections are left, if it says so.
    Over(Option<u64>),
}

/// Whether a drain is over, from what the supervisor lists. What is not listed yet, or is just being looked for or started,
/// may run: an agent that has just begun does not know yet what its predecessor left.
fn drained(held: &Held, status: Option<&lictor_supervisor::Status>, now_unix_ms: i64) -> Option<DrainEnd> {
    let pid = status.and_then(|status| status.pid);
    let left = status.filter(|_| pid.is_some()).and_then(|status| Report::from_fields(&status.fields));
    let left = left.map(|report| report.connections);
    let gone = status.is_some_and(|status| pid.is_none() && !matches!(status.state, State::Starting | State::Failed));
    let settled = now_unix_ms - held.since_unix_ms >= millis(SETTLING);
    if gone {
        Some(DrainEnd::Gone)
    } else if settled && left == Some(0) {
        Some(DrainEnd::Empty)
    } else if held.drain_until_unix_ms.is_some_and(|until| now_unix_ms >= until) {
        Some(DrainEnd::Over(left))
    } else {
        None
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_from_its_fields_and_is_whole_when_nothing_is_missing() {
        let fields = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| (format!("X_LICTOR_{name}"), (*value).to_owned())).collect()
        };
        assert_eq!(Report::from_fields(&BTreeMap::new()), None);
        let whole = [
            ("CONNECTIONS", "3"),
            ("INBOUND", "1"),
            ("LISTENERS", "2/2"),
            ("LISTENING", "public=127.0.0.1:1 service:default/db=127.0.0.1:2"),
            ("UPSTREAMS", "1/1"),
            ("LEAF_UNTIL", "100"),
            ("ROOTS", "1"),
        ];
        let report = Report::from_fields(&fields(&whole)).unwrap();
        assert_eq!((report.connections, report.listening.len()), (3, 2));
        assert!(report.is_whole(99) && !report.is_whole(100));
        for (name, value) in [("LISTENERS", "1/2"), ("UPSTREAMS", "0/1"), ("LEAF_UNTIL", "0"), ("ROOTS", "0")] {
            let mut fields: BTreeMap<String, String> = fields(&whole);
            fields.insert(format!("X_LICTOR_{name}"), value.into());
            assert!(!Report::from_fields(&fields).unwrap().is_whole(99), "{name}");
        }
    }
}
