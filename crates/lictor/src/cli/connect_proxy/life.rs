//! The life of a proxy process: start, tell the supervisor, run until told to stop, drain.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use lictor_api::client::Client;
use lictor_http::config::LogLevel;
use lictor_proxy::register::Registration;
use lictor_proxy::{
    AgentClient, Calm, Config, End, Flags, Heritage, Metrics, Mode as ProxyMode, Proxy, Report, Reporter, Sockets,
    Status, Wish,
};
use lictor_task::{Backoff, Scope};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::Instant;

use super::flags::{Mode, Wanted};
use super::heritage;
use super::numbers::Work;
use super::sandbox;
use crate::cli::{complain, print};
use crate::memory::Program;
use crate::notify::{Notifier, Told};
use crate::{limits, log};

/// How long open connections may go on after a stop was asked for. Shorter than the five seconds after which the
/// agent's supervisor, like the original's, kills.
const GRACE: Duration = Duration::from_secs(4);
/// Exit codes beside 0, for an end that was asked for, and 1, for a start that cannot work.
const CANNOT_LISTEN: u8 = 2;
const AGENT_MISSED: u8 = 3;
/// How often an agent that is waited for at the start is asked again.
const AGENT_LOOK: Duration = Duration::from_millis(500);
/// How often everything is told again: a message may have been lost.
const REMINDER: Duration = Duration::from_secs(10);
/// How often it is looked whether there is something to tell while the proxy works, and how long nothing must have
/// happened until it rests.
const LOOK: Duration = Duration::from_millis(250);
/// How long it is looked for another agent after the last time that one did not answer: longer than the watches pause, and
/// than an agent takes from its first answer until it hears its proxies.
const ALERT: Duration = Duration::from_secs(15);
/// How soon a supervisor that has not heard something is told again; doubles up to [`LOOK`]. It may have been too busy, or it
/// is away, and then as soon as another one is there it is seen by its socket.
const RETRY: Duration = Duration::from_millis(20);
/// How seldom, at the most, a supervisor is told again that has not been there for longer than [`ALERT`].
const AWAY: Duration = Duration::from_secs(2);

pub(super) fn run(wanted: Wanted, level: LogLevel) -> ExitCode {
    log::start(level, log::Keep::Nothing);
    let tls = &wanted.client.tls;
    let readable: Vec<_> =
        [&tls.ca_file, &tls.ca_path, &tls.client_cert, &tls.client_key].into_iter().flatten().cloned().collect();
    // Threads inherit the cage, so it is entered before there are any. The limit of open files needs rights it takes away.
    limits::raise_open_files();
    let program = Program::open();
    tracing::info!("{}", sandbox::enter(&readable, wanted.same_node));
    // The control side is one thread; connections have threads of their own.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("==> cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(live(wanted, program)) {
        Ok(end) => {
            print("==> Consul Connect proxy shutdown");
            match end {
                End::Wished => ExitCode::SUCCESS,
                End::CannotListen => ExitCode::from(CANNOT_LISTEN),
                End::AgentMissed => ExitCode::from(AGENT_MISSED),
            }
        }
        Err(error) => {
            complain(&format!("==> Failed running proxy: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn live(wanted: Wanted, program: Program) -> Result<End> {
    let client = Arc::new(Client::new(wanted.client));
    let mut registration = None;
    let mode = match wanted.mode {
        Mode::ProxyId(proxy_id) => ProxyMode::Agent { proxy_id },
        Mode::SidecarFor(service) => match sidecar_once_reached(&client, &service, wanted.patience.start).await? {
            Some(proxy_id) => ProxyMode::Agent { proxy_id },
            None => {
                complain("==> giving up: the agent was not reached for as long as that is allowed");
                return Ok(End::AgentMissed);
            }
        },
        Mode::Flags { service, listen, local_app, upstreams, bind_timeout, register } => {
            if let (Some(register), Some(listen)) = (register, &listen) {
                let suffix = Some(register.suffix.as_str());
                registration = Some(Registration::new(service.as_str().into(), listen.clone(), suffix));
            }
            ProxyMode::Flags(Flags { service: service.into(), listen, local_app, upstreams, bind_timeout })
        }
    };
    let scope = Scope::new("proxy");
    let stop = scope.stop_signal();
    let control = Arc::new(AgentClient::new(Arc::clone(&client)));
    let config = Config {
        inherited: heritage::sockets(),
        same_node: wanted.same_node,
        patience: wanted.patience,
        ..Config::new(mode)
    };
    let proxy = Proxy::start(config, control).context("cannot start workers")?;
    let (work, worked) = watch::channel(Work::default());
    let kept = scope.spawn("house", keep_house(Said::of(&proxy), Still { calm: proxy.calm(), work, program }));
    scope.spawn("show numbers", crate::telemetry::show_on_signal(stop.clone()));
    scope.spawn("numbers", super::numbers::report(proxy.reporting(), proxy.metrics(), worked, stop.clone()));
    let registered = registration.map(|registration| {
        let (client, stop) = (Arc::clone(&client), stop.clone());
        scope.spawn("registration", async move { registration.run(&client, &stop).await })
    });
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut handed_over = signal(SignalKind::user_defined2())?;
    let (wish, wishes) = watch::channel(Wish::Serve);
    let mut running = scope.spawn("connections", proxy.run(wishes));
    // An error of its task means that it panicked, which was reported.
    let mut end = None;
    loop {
        tokio::select! {
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            _ = handed_over.recv() => drop(wish.send_replace(Wish::Drain)),
            // Drained, or it has given up.
            ended = &mut running => {
                end = Some(ended.ok().flatten().unwrap_or(End::Wished));
                break;
            }
        }
    }
    Notifier::from_environment().tell("STOPPING=1");
    wish.send_replace(Wish::Stop(GRACE));
    scope.stop();
    if let Some(registered) = registered {
        // It ends by removing the entry.
        let _ = registered.await;
    }
    if end.is_none() {
        // Whatever comes now was asked for.
        let _ = running.await;
    }
    kept.abort();
    Ok(end.unwrap_or(End::Wished))
}

/// What there is to tell the supervisor.
struct Said {
    status: watch::Receiver<Status>,
    sockets: watch::Receiver<Sockets>,
    reporter: Reporter,
    metrics: Arc<Metrics>,
}

impl Said {
    fn of(proxy: &Proxy) -> Said {
        Said { status: proxy.status(), sockets: proxy.sockets(), reporter: proxy.reporter(), metrics: proxy.metrics() }
    }
}

/// How it is noticed that the proxy works, and what is done when it does not.
struct Still {
    calm: Arc<Calm>,
    work: watch::Sender<Work>,
    program: Program,
}

/// Tells the supervisor how the proxy is doing and which sockets listen: at every change, now and then, and all of it
/// when the agent was restarted. Lets go of what a proxy without work does not need.
///
/// All that must be done again and again is done here, and nothing while the proxy rests, but for a reminder: a proxy
/// that does nothing shall neither wake up nor need memory for that.
async fn keep_house(mut said: Said, mut still: Still) {
    let notifier = Notifier::from_environment();
    let mut was_ready = false;
    let mut told: (Option<(Status, Report)>, Sockets) = Default::default();
    let mut listener = notifier.listener();
    let mut reminder = Instant::now() + REMINDER;
    let mut alert_until = Instant::now();
    let (mut retry, mut away) = (Backoff::new(RETRY, LOOK), Backoff::new(LOOK, AWAY));
    loop {
        // What happens after this ends the rest that may follow.
        still.calm.begin();
        let now = Instant::now();
        let present = notifier.listener();
        if present != listener || now >= reminder {
            (listener, reminder, told) = (present, now + REMINDER, Default::default());
        }
        // Before it says that it is ready: whoever takes that for a sign has the sockets by then.
        let sockets = said.sockets.borrow_and_update().clone();
        let mut outcome = tell_sockets(&notifier, &mut told.1, &sockets);
        // A start, for one, goes on after it has said that it is ready.
        let is_news = said.status.has_changed().unwrap_or_default();
        let status = said.status.borrow_and_update().clone();
        // Ready once is ready: what is degraded later still serves what it can.
        was_ready |= status.is_ready();
        let report = said.reporter.report();
        // Compared before it is put into words: a proxy that has nothing to tell shall not need the code for that.
        if outcome == Told::Heard && told.0.as_ref().is_none_or(|told| (&told.0, &told.1) != (&status, &report)) {
            let ready = if was_ready { "READY=1\n" } else { "" };
            let heir = u8::from(status.heritage == Heritage::TakenOver);
            let taken = status.taken.map(|port| port.to_string()).unwrap_or_default();
            let awaits = u8::from(status.awaits_app);
            outcome = notifier.tell(&format!(
                "{ready}STATUS={status}\nX_LICTOR_TOOK_OVER={heir}\nX_LICTOR_PORT_TAKEN={taken}\n\
                 X_LICTOR_AWAITS_APP={awaits}\n{}",
                report.assignments()
            ));
            // With many proxies that start together there is often no room for a message, this one included.
            told.0 = (outcome == Told::Heard).then_some((status, report));
        }
        if outcome != Told::Busy {
            retry.reset();
        }
        let work = Work::of(&said.metrics);
        let has_worked = still.work.send_if_modified(|before| std::mem::replace(before, work) != work);
        // An agent that comes back shall have everything at once.
        if still.calm.take_alarm() {
            alert_until = now + ALERT;
        }
        let is_alert = now < alert_until;
        if outcome == Told::Heard || is_alert {
            away.reset();
        }
        let pause = match outcome {
            Told::Busy => Some(retry.next_delay()),
            Told::Nobody if is_alert => Some(LOOK),
            Told::Nobody => Some(away.next_delay()),
            Told::Heard => (has_worked || is_news || is_alert).then_some(LOOK),
        };
        if was_ready && pause.is_none() {
            still.program.let_go();
        }
        tokio::select! {
            Ok(()) = said.status.changed() => {}
            Ok(()) = said.sockets.changed() => {}
            () = rest(&still.calm, pause, reminder) => {}
        }
    }
}

/// Waits for so long; without a time until the next reminder, or a little longer than until something happens: what begins
/// then shall be seen.
async fn rest(calm: &Calm, pause: Option<Duration>, reminder: Instant) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => {
            if tokio::time::timeout_at(reminder, calm.over()).await.is_ok() {
                tokio::time::sleep(LOOK).await;
            }
        }
    }
}

/// Leaves new sockets with the supervisor and takes back those that are closed; says what became of it.
fn tell_sockets(notifier: &Notifier, told: &mut Sockets, present: &Sockets) -> Told {
    for (address, descriptors) in present {
        if !told.contains_key(address) {
            let outcome = notifier.tell_with(&format!("FDSTORE=1\nFDNAME={address}"), descriptors);
            if outcome != Told::Heard {
                return outcome;
            }
            told.insert(*address, Arc::clone(descriptors));
        }
    }
    let gone: Vec<_> = told.keys().filter(|address| !present.contains_key(*address)).copied().collect();
    for address in gone {
        let outcome = notifier.tell_with(&format!("FDSTOREREMOVE=1\nFDNAME={address}"), &[]);
        if outcome != Told::Heard {
            return outcome;
        }
        told.remove(&address);
    }
    Told::Heard
}

/// The same, with patience for an agent that does not answer yet; `None` when that is over.
async fn sidecar_once_reached(client: &Client, service: &str, patience: Option<Duration>) -> Result<Option<String>> {
    let begin = Instant::now();
    loop {
        match (sidecar_of(client, service).await, patience) {
            (Err(Missing::Agent(_)), Some(limit)) if begin.elapsed() < limit => tokio::time::sleep(AGENT_LOOK).await,
            (Err(Missing::Agent(_)), Some(_)) => return Ok(None),
            (found, _) => return Ok(Some(found?)),
        }
    }
}

/// Why it is not known which sidecar to be.
#[derive(Debug, thiserror::Error)]
enum Missing {
    #[error("cannot ask the agent for its services")]
    Agent(#[source] lictor_api::client::Error),
    #[error("{0}")]
    Sidecar(String),
}

/// The id of the one sidecar that stands beside a service.
async fn sidecar_of(client: &Client, service: &str) -> Result<String, Missing> {
    let services = client.agent_services().await.map_err(Missing::Agent)?;
    let ids: Vec<String> = services
        .iter()
        .filter(|(_, entry)| {
            entry.kind == "connect-proxy"
                && entry.proxy.as_ref().is_some_and(|proxy| {
                    // The original compared without case on one side only, so that some ids could never match.
                    proxy.destination_service_id.eq_ignore_ascii_case(service)
                })
        })
        .map(|(id, _)| id.to_string())
        .collect();
    match ids.as_slice() {
        [] => Err(Missing::Sidecar(format!("No sidecar proxy registered for {service}"))),
        [one] => Ok(one.clone()),
        several => Err(Missing::Sidecar(format!(
            "More than one sidecar proxy registered for {service}.\n    Start proxy with -proxy-id and one of the \
             following IDs: {}",
            several.join(", ")
        ))),
    }
}
