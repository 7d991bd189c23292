//! The proxy as a whole: opens and closes listeners as the settings ask, and drains at the end.
//!
//! It ends in one of two ways. *Stopped*, it closes the public listener first and lets what peers asked for end, because
//! the application may need its upstreams for that; then the upstreams. *Drained* after it has handed over, it closes all
//! listeners at once, because another process accepts from the same sockets, and goes on until the last connection ends.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lictor_model::Opaque;
use lictor_model::name::ServiceName;
use lictor_task::{Backoff, Scope};
use lictor_tls::KeyExchange;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::app::Awaited;
use crate::authorize::{QUESTIONS, Question};
use crate::calm::Calm;
use crate::control::ControlPlane;
use crate::direct::{self, receive};
use crate::follow::Follow;
use crate::inbound::{Inbound, LAST_CALL};
use crate::inherit::{Inherited, Sockets};
use crate::metrics::Metrics;
use crate::outbound::{Outbound, Upstream};
use crate::report::{Reporter, Wanted};
use crate::settings::{Flags, Place, Problem, Public, Settings, UpstreamSettings};
use crate::shared::Shared;
use crate::status::{Heritage, Phase, Status};
use crate::track::{Connections, Direction};
use crate::worker::{Serve, Workers};

/// What a proxy is started with.
#[derive(Debug)]
pub struct Config {
    /// Where its settings come from.
    pub mode: Mode,
    /// Threads that carry connections.
    pub workers: NonZeroUsize,
    /// How session keys are agreed on.
    pub key_exchange: KeyExchange,
    /// Listening sockets of an earlier process of this proxy.
    pub inherited: Vec<TcpListener>,
    /// How other proxies of our agent are reached. Only settings of an agent that vouches for its proxies can ask for
    /// more than TLS.
    pub same_node: SameNode,
    /// When it gives up.
    pub patience: Patience,
}

/// How long a proxy does without its agent before it ends by itself; for ever by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Patience {
    /// At its start, without any settings.
    pub start: Option<Duration>,
    /// Later on, without an answer.
    pub lease: Option<Duration>,
}

/// Why a proxy has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// As it was wished.
    Wished,
    /// Its public listener could not be opened for as long as its settings allow.
    CannotListen,
    /// Its agent was missed for longer than it may be.
    AgentMissed,
}

/// How proxies of one agent reach each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SameNode {
    /// As any other.
    #[default]
    Mtls,
    /// By handing connections over, where both ends can and the agent vouches for both.
    Direct,
}

/// What a running proxy shall do. Each value may follow those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wish {
    /// Serve.
    #[default]
    Serve,
    /// Accept no more, and end when the last connection has.
    Drain,
    /// The same, but what is still open after this time is reset.
    Stop(Duration),
}

/// Where a proxy's settings come from.
#[derive(Clone, Debug)]
pub enum Mode {
    /// The agent's entry of the proxy service with this id; followed for as long as the proxy runs.
    Agent {
        /// The id.
        proxy_id: String,
    },
    /// The command line; fixed.
    Flags(Flags),
}

/// Workers without a say of the user. Two carry more than most links do, and each one more costs memory in every
/// proxy of a machine.
const MAX_DEFAULT_WORKERS: usize = 2;

impl Config {
    /// With everything but the mode at its default.
    pub fn new(mode: Mode) -> Config {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let workers = NonZeroUsize::new(cores.min(MAX_DEFAULT_WORKERS)).unwrap_or(NonZeroUsize::MIN);
        Config {
            mode,
            workers,
            key_exchange: KeyExchange::default(),
            inherited: Vec::new(),
            same_node: SameNode::default(),
            patience: Patience::default(),
        }
    }
}

/// The first wait before an address that could not be bound is tried again; doubles.
const FIRST_REBIND: Duration = Duration::from_secs(1);
/// The longest such wait.
const LAST_REBIND: Duration = Duration::from_secs(30);
/// How long a port that we have left may be taken by ourselves: whoever keeps our sockets beyond our end lets go of them when
/// it hears of it.
const LEAVING: Duration = Duration::from_secs(2);
/// How soon it is tried again.
const LEAVING_LOOK: Duration = Duration::from_millis(20);

/// How long the names of listeners may be looked up.
const NAME_LIMIT: Duration = Duration::from_secs(1);
/// What is said of one for which that was not enough.
const SLOW_NAME: &str = "looking the name up took too long";

/// How long inherited sockets may wait for settings and certificates; then whoever connects is refused.
const INHERITANCE: Duration = Duration::from_secs(10);
/// How often a draining proxy says how much is left.
const DRAIN_REPORT: Duration = Duration::from_secs(1);
/// How long a proxy that stops waits for sessions that may bring a last connection: longer than each of them does.
const LAST_CONNECTIONS: Duration = LAST_CALL.saturating_add(Duration::from_millis(500));
/// How often it looks.
const LAST_LOOK: Duration = Duration::from_millis(10);
/// How long open connections may go on when the proxy gives up.
const GIVING_UP: Duration = Duration::from_secs(4);

/// A running proxy.
pub struct Proxy {
    shared: Arc<Shared>,
    status: watch::Receiver<Status>,
    listening: watch::Receiver<Vec<Listening>>,
    sockets: watch::Receiver<Sockets>,
    wish: watch::Sender<Wish>,
    ended: oneshot::Receiver<End>,
    reporting: watch::Receiver<Option<Reporting>>,
    wanted: watch::Receiver<Wanted>,
    direct_socket: Option<Arc<str>>,
    control: Scope,
}

/// Whose numbers are to be told, and to whom.
#[derive(Clone, Debug, PartialEq)]
pub struct Reporting {
    /// The service that the proxy stands for.
    pub service: ServiceName,
    /// The telemetry settings of the agent.
    pub telemetry: Opaque,
}

/// A listener that is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listening {
    /// What is behind it: `public`, or an upstream as `service:default/db`.
    pub what: String,
    /// Where, with the real port.
    pub address: SocketAddr,
}

impl Proxy {
    /// Starts the workers, and on the current runtime the watches and the work that opens listeners. Neither
    /// certificates nor a reachable agent are needed for that.
    pub fn start<C: ControlPlane>(config: Config, control: Arc<C>) -> io::Result<Proxy> {
        let (questions, asked) = mpsc::channel(QUESTIONS);
        let socket = match (&config.mode, config.same_node) {
            (Mode::Agent { proxy_id }, SameNode::Direct) => match receive::listen() {
                Ok((name, listener)) => Some((name, listener, proxy_id.clone())),
                Err(error) => {
                    tracing::warn!("no connections without TLS to other proxies of this agent: {error}");
                    None
                }
            },
            _ => None,
        };
        let (asks, asked_about) = mpsc::channel(direct::ASKS);
        let neighbors = socket.is_some().then(|| direct::Neighbors::new(asks));
        let lanes = receive::MOST_WAITING.saturating_mul(config.workers.get());
        let shared = Arc::new(Shared::new(config.key_exchange, questions, neighbors, lanes));
        let workers = Workers::start(config.workers.get(), &shared)?;
        let scope = Scope::new("control");
        let mut direct_socket = None;
        if let Some((name, listener, own_id)) = socket {
            direct_socket = Some(name.into());
            let stop = scope.stop_signal();
            let asking = direct::answer(Arc::clone(&control), own_id, Arc::clone(&shared), asked_about);
            scope.spawn("neighbors", async move { stop.or_stopped(asking).await });
            let stop = scope.stop_signal();
            let accepting = receive::accept(listener, Arc::clone(&shared), workers.posts());
            scope.spawn("lanes", async move { stop.or_stopped(accepting).await });
        }
        let (unsettling, unsettled) = watch::channel(None);
        let follow = Follow::new(control, Arc::clone(&shared), scope.child("watches"));
        let settings = match config.mode {
            Mode::Agent { proxy_id } => follow.settings(&proxy_id, unsettling),
            // The sender is not needed again: these settings never change.
            Mode::Flags(flags) => watch::channel(Some(Settings::from_flags(&flags))).1,
        };
        let (status_sender, status) = watch::channel(Status::default());
        let (listening_sender, listening) = watch::channel(Vec::new());
        let (sockets_sender, sockets) = watch::channel(Sockets::new());
        let (wish, wishes) = watch::channel(Wish::Serve);
        let (ending, ended) = oneshot::channel();
        let (reporting_sender, reporting) = watch::channel(None);
        let (wanted_sender, wanted) = watch::channel(Wanted::default());
        let inherited = Inherited::new(config.inherited);
        let mut awaited = Awaited::new(scope.child("application"));
        if inherited.is_waiting() {
            awaited.forgo();
        }
        let director = Director {
            patience: config.patience,
            started: Instant::now(),
            awaited,
            shared: Arc::clone(&shared),
            workers,
            follow,
            questions: Arc::new(tokio::sync::Mutex::new(asked)),
            listeners: HashMap::new(),
            problems: Vec::new(),
            announced: false,
            taken: None,
            left: Vec::new(),
            unsettled,
            inherited,
            inherited_until: Instant::now() + INHERITANCE,
            status: status_sender,
            listening: listening_sender,
            sockets: sockets_sender,
            reporting: reporting_sender,
            wanted: wanted_sender,
        };
        scope.spawn("director", async move {
            let end = director.run(settings, wishes).await;
            // The one who waits may be gone.
            let _ = ending.send(end);
        });
        Ok(Proxy { direct_socket, shared, status, listening, reporting, sockets, wanted, wish, ended, control: scope })
    }

    /// How it is doing.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// The listeners that are open.
    pub fn listening(&self) -> watch::Receiver<Vec<Listening>> {
        self.listening.clone()
    }

    /// Where what it counts is to be told; nothing while nobody has said so.
    pub fn reporting(&self) -> watch::Receiver<Option<Reporting>> {
        self.reporting.clone()
    }

    /// Tells more than the status does, for as long as the process runs.
    pub fn reporter(&self) -> Reporter {
        let (listening, wanted) = (self.listening.clone(), self.wanted.clone());
        Reporter { shared: Arc::clone(&self.shared), listening, wanted, direct_socket: self.direct_socket.clone() }
    }

    /// What it has counted.
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.shared.metrics)
    }

    /// Ends when it has something to do.
    pub fn calm(&self) -> Arc<Calm> {
        Arc::clone(&self.shared.calm)
    }

    /// The sockets that listen.
    pub fn sockets(&self) -> watch::Receiver<Sockets> {
        self.sockets.clone()
    }

    /// The connections it has.
    pub fn connections(&self) -> Connections {
        Connections(Arc::clone(&self.shared.tracker))
    }

    /// Does as it is wished until that has come to an end, or it gives up. A dropped sender wishes what it wished last.
    pub async fn run(self, mut wishes: watch::Receiver<Wish>) -> End {
        let Proxy { wish, ended, control, .. } = self;
        let pass_on = async {
            loop {
                wish.send_replace(*wishes.borrow_and_update());
                if wishes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let end = tokio::select! {
            () = pass_on => End::Wished,
            // An error means that the director panicked, which was reported.
            end = ended => end.unwrap_or(End::Wished),
        };
        control.join(Duration::from_secs(5)).await;
        end
    }
}

/// How long a proxy that stops may still take.
struct Limit {
    end: Instant,
    /// What it was given for that.
    grace: Duration,
    wishes: watch::Receiver<Wish>,
}

/// Whether something has ended within its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    In,
    Not,
}

impl Limit {
    /// Waits for something until so much of the time is left. A stop that is wished meanwhile and ends sooner is the limit
    /// from then on.
    async fn keep(&mut self, spare: impl Fn(Duration) -> Duration, work: impl Future<Output = ()>) -> Kept {
        let mut work = std::pin::pin!(work);
        loop {
            self.shorten();
            let moment = self.end - spare(self.grace);
            let sooner = async {
                if self.wishes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                biased;
                () = work.as_mut() => return Kept::In,
                () = sooner => {}
                () = tokio::time::sleep_until(moment) => return Kept::Not,
            }
        }
    }

    fn shorten(&mut self) {
        if let Wish::Stop(grace) = *self.wishes.borrow_and_update()
            && Instant::now() + grace < self.end
        {
            (self.end, self.grace) = (Instant::now() + grace, grace);
        }
    }
}

/// Where to listen. Names are looked up side by side and for a limited time, because nothing else is heard meanwhile; what
/// was not found by then is left out.
async fn look_up(listeners: impl Iterator<Item = Key>) -> HashMap<Key, io::Result<SocketAddr>> {
    let mut found = HashMap::new();
    let mut looking = JoinSet::new();
    for key in listeners {
        match key.place().address() {
            Some(address) => drop(found.insert(key, Ok(address))),
            None => {
                looking.spawn(async move {
                    let address = key.place().address_to_listen().await;
                    (key, address)
                });
            }
        }
    }
    let all = async {
        while let Some(looked) = looking.join_next().await {
            // One that panicked has said so.
            found.extend(looked);
        }
    };
    let _ = tokio::time::timeout(NAME_LIMIT, all).await;
    found
}

/// Waits until something of a kind is wished, or nobody is left who could wish.
async fn wished(wishes: &mut watch::Receiver<Wish>, kind: impl Fn(Wish) -> bool) {
    let _ = wishes.wait_for(|wish| kind(*wish)).await;
}

/// What a listener is for; tells listeners apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Public(Place),
    Upstream(Place),
}

/// A listener that is wanted.
struct Listener {
    what: Served,
    state: State,
}

enum Served {
    Inbound(Arc<Inbound>),
    Outbound { name: String, serve: Arc<Outbound> },
}

enum State {
    Open(SocketAddr),
    /// Not bound; tried again at this time.
    Waiting {
        at: Instant,
        backoff: Backoff,
        /// What it failed with, and since when it does; empty before the first try.
        problem: String,
        since: Instant,
    },
}

/// Owns the listeners and the workers.
struct Director<C> {
    patience: Patience,
    started: Instant,
    /// What the public listener waits for.
    awaited: Awaited,
    shared: Arc<Shared>,
    workers: Workers,
    follow: Follow<C>,
    questions: Arc<tokio::sync::Mutex<mpsc::Receiver<Question>>>,
    listeners: HashMap<Key, Listener>,
    problems: Vec<Problem>,
    announced: bool,
    /// The public port, while somebody else listens there.
    taken: Option<u16>,
    /// Ports where we listened until then.
    left: Vec<(u16, Instant)>,
    /// Why there are no settings yet.
    unsettled: watch::Receiver<Option<String>>,
    inherited: Inherited,
    inherited_until: Instant,
    status: watch::Sender<Status>,
    listening: watch::Sender<Vec<Listening>>,
    sockets: watch::Sender<Sockets>,
    reporting: watch::Sender<Option<Reporting>>,
    wanted: watch::Sender<Wanted>,
}

/// Which listeners.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    Public,
    All,
}

impl<C: ControlPlane> Director<C> {
    async fn run(
        mut self,
        mut settings: watch::Receiver<Option<(Settings, Vec<Problem>)>>,
        mut wishes: watch::Receiver<Wish>,
    ) -> End {
        let mut credentials = self.follow.credentials();
        let (mut silent, mut app) = (self.follow.silent(), self.awaited.watch());
        let mut unsettled = self.unsettled.clone();
        let mut fixed = false;
        let mut latest = settings.borrow_and_update().clone();
        loop {
            let is_new = latest.as_ref().is_some_and(|(wanted, _)| self.follow.serve(&wanted.service, &self.questions));
            self.announced &= !is_new;
            // With another service there is always a time without a public listener: what serves the service before must not
            // get the settings of this one.
            let ready = !is_new && *credentials.borrow_and_update();
            if let Some((wanted, problems)) = &latest {
                self.problems.clone_from(problems);
                self.apply(wanted, ready).await;
                if ready {
                    self.inherited.close_rest();
                }
            }
            self.report(latest.is_some(), ready);
            let limit = self.limit(latest.is_some(), *silent.borrow_and_update());
            let give_up = async {
                match limit {
                    Some((at, _)) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                // The proxy is dropped without a word: the same as stopping it at once.
                () = wished(&mut wishes, |wish| wish != Wish::Serve) => break,
                () = give_up => {
                    let end = limit.map_or(End::Wished, |(_, end)| end);
                    self.give_up(end, wishes).await;
                    return end;
                }
                Ok(()) = silent.changed() => {}
                Ok(()) = app.changed() => {}
                changed = settings.changed(), if !fixed => {
                    // Settings of the command line have no sender.
                    fixed = changed.is_err();
                    if let Some(next) = settings.borrow_and_update().clone() {
                        if latest.is_some() && !fixed {
                            tracing::info!("settings changed");
                        }
                        latest = Some(next);
                    }
                }
                Ok(()) = credentials.changed() => {}
                Ok(()) = unsettled.changed() => {}
                () = self.rebind_due() => {}
                () = tokio::time::sleep_until(self.inherited_until), if self.inherited.is_waiting() => {
                    self.inherited.close_rest();
                }
            }
        }
        self.wind_down(wishes).await;
        End::Wished
    }

    /// When it ends by itself if nothing changes, and why.
    fn limit(&self, configured: bool, silent: Option<Instant>) -> Option<(Instant, End)> {
        let start = self.patience.start.filter(|_| !configured).map(|limit| self.started + limit);
        let lease = self.patience.lease.zip(silent).map(|(limit, since)| since + limit);
        let missed = start.into_iter().chain(lease).map(|at| (at, End::AgentMissed));
        let unbound = self.listeners.values().filter_map(|listener| match (&listener.what, &listener.state) {
            (Served::Inbound(inbound), State::Waiting { problem, since, .. }) if !problem.is_empty() => {
                Some((*since + inbound.bind_timeout()?, End::CannotListen))
            }
            _ => None,
        });
        missed.chain(unbound).min_by_key(|(at, _)| *at)
    }

    /// Ends without having been asked to, as if it had been; what is wished meanwhile counts.
    async fn give_up(&mut self, end: End, wishes: watch::Receiver<Wish>) {
        match end {
            End::Wished => {}
            End::CannotListen => tracing::error!("giving up: the public listener cannot be opened (bind_timeout_ms)"),
            End::AgentMissed => tracing::error!("giving up: the agent was not reached for as long as that is allowed"),
        }
        self.inherited.close_rest();
        self.stop(GIVING_UP, wishes).await;
    }

    /// Ends as wished. Workers and watches go on until the last connection has ended: what is carried meanwhile obeys
    /// intentions as before.
    async fn wind_down(&mut self, mut wishes: watch::Receiver<Wish>) {
        self.inherited.close_rest();
        let tracker = Arc::clone(&self.shared.tracker);
        if *wishes.borrow_and_update() == Wish::Drain {
            self.close(Which::All).await;
            self.shared.retirement.send_replace(true);
            tracing::info!("handed over, {} connections go on", tracker.len());
            tokio::select! {
                () = self.empty(&[Direction::Inbound, Direction::Outbound]) => return,
                () = wished(&mut wishes, |wish| matches!(wish, Wish::Stop(_))) => {}
            }
        }
        let grace = match *wishes.borrow() {
            Wish::Stop(grace) => grace,
            Wish::Serve | Wish::Drain => Duration::ZERO,
        };
        self.stop(grace, wishes).await;
    }

    /// Ends within this time, or sooner when that is wished meanwhile.
    async fn stop(&mut self, grace: Duration, wishes: watch::Receiver<Wish>) {
        let tracker = Arc::clone(&self.shared.tracker);
        let mut limit = Limit { end: Instant::now() + grace, grace, wishes };
        if tracker.len() > 0 {
            tracing::info!("waiting up to {grace:?} for {} connections to end", tracker.len());
        }
        self.close(Which::Public).await;
        self.shared.retirement.send_replace(true);
        // The rest is for the application's own connections, which may need a moment to notice that it is over.
        limit.keep(|grace| grace / 4, self.empty(&[Direction::Inbound])).await;
        self.close(Which::All).await;
        let empty = self.empty(&[Direction::Inbound, Direction::Outbound]);
        if limit.keep(|_| Duration::ZERO, empty).await == Kept::Not {
            tracing::warn!("{} connections did not end in time and are reset", tracker.len());
            tracker.end_all();
        }
    }

    /// Closes listeners, and returns when nothing more is accepted there.
    async fn close(&mut self, which: Which) {
        let gone: Vec<Key> =
            self.listeners.keys().filter(|key| which == Which::All || matches!(key, Key::Public(_))).cloned().collect();
        let mut closing = Vec::new();
        for key in gone {
            if let Some(Listener { state: State::Open(address), .. }) = self.listeners.remove(&key) {
                tracing::debug!("{key:?} closes");
                closing.push(self.close_one(address));
            }
        }
        for closed in closing {
            closed.await;
        }
        if self.listeners.is_empty() {
            self.listening.send_replace(Vec::new());
        }
    }

    fn close_one(&self, address: SocketAddr) -> impl Future<Output = ()> + use<C> {
        // Our duplicate would keep the socket open.
        self.sockets.send_modify(|sockets| drop(sockets.remove(&address)));
        self.workers.close(address)
    }

    /// Waits until there are no connections of these directions, saying how many there are.
    async fn empty(&self, directions: &[Direction]) {
        let tracker = &self.shared.tracker;
        let empty = async {
            for direction in directions {
                tracker.empty(*direction).await;
                if *direction == Direction::Inbound {
                    self.last_sessions().await;
                }
            }
        };
        let report = async {
            loop {
                let problems = vec![format!("{} connections are open", tracker.len())];
                let status = Status { phase: Phase::Draining, problems, ..Status::default() };
                self.status.send_if_modified(|current| std::mem::replace(current, status.clone()) != status);
                tokio::time::sleep(DRAIN_REPORT).await;
            }
        };
        tokio::select! {
            biased;
            () = empty => {}
            () = report => {}
        }
    }

    /// Waits for the sessions that are told to end: each may just be bringing a last connection, behind which it is told
    /// again.
    async fn last_sessions(&self) {
        let tracker = &self.shared.tracker;
        let mut deadline = Instant::now() + LAST_CONNECTIONS;
        while self.shared.waiting.load(Ordering::Relaxed) > 0 && Instant::now() < deadline {
            tokio::time::sleep(LAST_LOOK).await;
            if tracker.counts().1 > 0 {
                tracker.empty(Direction::Inbound).await;
                deadline = Instant::now() + LAST_CONNECTIONS;
            }
        }
    }

    /// Makes the listeners what the settings want, leaving alone those that stay.
    async fn apply(&mut self, wanted: &Settings, ready: bool) {
        let reporting = wanted
            .telemetry
            .as_ref()
            .map(|telemetry| Reporting { service: wanted.service.clone(), telemetry: telemetry.clone() });
        self.reporting.send_if_modified(|current| std::mem::replace(current, reporting.clone()) != reporting);
        let destinations: Vec<_> = wanted.upstreams.iter().map(|upstream| upstream.destination.clone()).collect();
        self.follow.keep(&destinations);
        if ready {
            self.announce();
        }
        // Without certificates a public listener could only turn peers away.
        // One that has just started waits for its application, where that is wanted.
        let public = wanted.public.iter().filter(|public| ready && self.awaited.lets(public));
        let public: Vec<&Public> = public.collect();
        let mut keys: Vec<Key> = public.iter().map(|public| Key::Public(public.listen.clone())).collect();
        keys.extend(wanted.upstreams.iter().map(|upstream| Key::Upstream(upstream.listen.clone())));
        let gone: Vec<Key> = self.listeners.keys().filter(|key| !keys.contains(key)).cloned().collect();
        let mut closing = Vec::new();
        for key in gone {
            if let Some(Listener { what, state: State::Open(address) }) = self.listeners.remove(&key) {
                tracing::info!("{} stopped listening on {address}", what.name());
                closing.push(self.close_one(address));
                self.left.push((address.port(), Instant::now()));
            }
        }
        // What is opened below may want the same port.
        for closed in closing {
            closed.await;
        }
        self.shared.public.store(public.first().copied().cloned().map(Arc::new));
        for public in public {
            self.want_public(public);
        }
        for upstream in &wanted.upstreams {
            self.want_upstream(upstream);
        }
        let upstreams =
            wanted.upstreams.iter().map(|wanted| (wanted.to_string(), self.follow.instances(&wanted.destination)));
        let upstreams = upstreams.collect();
        let listeners = wanted.public.iter().count() + wanted.upstreams.len();
        self.wanted.send_replace(Wanted { listeners, upstreams });
        self.bind_due().await;
    }

    fn want_public(&mut self, public: &Public) {
        let key = Key::Public(public.listen.clone());
        match self.listeners.get(&key).map(|listener| &listener.what) {
            Some(Served::Inbound(inbound)) => inbound.change(public.clone()),
            _ => {
                let inbound = Inbound::new(Arc::clone(&self.shared), public.clone());
                self.listeners.insert(key, Listener::new(Served::Inbound(Arc::new(inbound))));
            }
        }
    }

    fn want_upstream(&mut self, settings: &UpstreamSettings) {
        let name = settings.to_string();
        let upstream = Upstream {
            name: name.as_str().into(),
            resolved: self.follow.instances(&settings.destination),
            connect_timeout: settings.connect_timeout,
            reuse: settings.reuse,
            flow: self.shared.metrics.upstream(&name),
        };
        let key = Key::Upstream(settings.listen.clone());
        match self.listeners.get_mut(&key).map(|listener| &mut listener.what) {
            Some(Served::Outbound { name: known, serve }) => {
                if *known != name {
                    tracing::info!("{} leads to {name} now", settings.listen);
                    *known = name;
                }
                serve.change(upstream);
            }
            _ => {
                let serve = Arc::new(Outbound::new(Arc::clone(&self.shared), upstream));
                self.listeners.insert(key, Listener::new(Served::Outbound { name, serve }));
            }
        }
    }

    /// Binds every listener whose time has come.
    async fn bind_due(&mut self) {
        let now = Instant::now();
        self.left.retain(|(_, since)| now < *since + LEAVING);
        let is_due = |listener: &Listener| matches!(&listener.state, State::Waiting { at, .. } if *at <= now);
        let due = self.listeners.iter().filter(|(_, listener)| is_due(listener)).map(|(key, _)| key.clone());
        let mut found = look_up(due).await;
        for (key, listener) in &mut self.listeners {
            let State::Waiting { at, backoff, problem, since } = &listener.state else { continue };
            if *at > now {
                continue;
            }
            let place = key.place();
            let mut backoff = backoff.clone();
            let since = if problem.is_empty() { now } else { *since };
            let found = found.remove(key).unwrap_or_else(|| Err(io::Error::new(io::ErrorKind::TimedOut, SLOW_NAME)));
            let bound = match found {
                Ok(address) => self.workers.open(address, &listener.what.serve(), self.inherited.take(address)),
                Err(error) => Err(error),
            };
            match (&listener.what, bound) {
                (what, Ok((address, duplicates))) => {
                    self.sockets.send_modify(|sockets| drop(sockets.insert(address, Arc::new(duplicates))));
                    match what {
                        Served::Inbound(_) => {
                            self.taken = None;
                            tracing::info!("public listener starting on {address}");
                        }
                        Served::Outbound { name, .. } => {
                            tracing::info!("{address}->{name} starting on {address}");
                        }
                    }
                    listener.state = State::Open(address);
                }
                (what, Err(error))
                    if error.kind() == io::ErrorKind::AddrInUse
                        && self.left.iter().any(|(port, _)| *port == place.port) =>
                {
                    let problem = format!("{} waits for {place}, which is just being left", what.name());
                    listener.state = State::Waiting { at: now + LEAVING_LOOK, backoff, problem, since };
                }
                (what, Err(error)) => {
                    if let (Served::Inbound(_), io::ErrorKind::AddrInUse) = (what, error.kind()) {
                        self.taken = Some(place.port);
                    }
                    let pause = backoff.next_delay();
                    let problem = format!("{} cannot listen on {place}: {error}", what.name());
                    tracing::error!("{problem}, next try in {pause:?}");
                    listener.state = State::Waiting { at: now + pause, backoff, problem, since };
                }
            }
        }
    }

    /// Waits until an address should be tried again; for ever when none should.
    async fn rebind_due(&self) {
        let next = self.listeners.values().filter_map(|listener| match listener.state {
            State::Waiting { at, .. } => Some(at),
            State::Open(_) => None,
        });
        match next.min() {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    /// Says who we are, once for each service.
    fn announce(&mut self) {
        if std::mem::replace(&mut self.announced, true) {
            return;
        }
        if let Some(credentials) = self.shared.mesh.credentials() {
            tracing::info!("Proxy loaded config and ready to serve");
            tracing::info!("TLS Identity: {}", credentials.leaf().who().uri);
            tracing::info!("TLS Roots   : [{}]", credentials.bundle().names().join(" "));
        }
    }

    fn report(&self, configured: bool, ready: bool) {
        let mut problems = self.problems.clone();
        let mut listening = Vec::new();
        for listener in self.listeners.values() {
            match &listener.state {
                State::Open(address) => listening.push(Listening { what: listener.what.name(), address: *address }),
                State::Waiting { problem, .. } => problems.push(problem.clone()),
            }
        }
        let awaited = self.awaited.what().filter(|_| configured && ready);
        let phase = match (configured, ready) {
            (true, true) if awaited.is_some() => {
                problems.extend(awaited.map(|app| format!("waiting for the application at {app}")));
                Phase::Starting
            }
            (false, _) => {
                let cause = self.unsettled.borrow().clone();
                let cause = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
                problems.push(format!("no settings from the agent yet{cause}"));
                Phase::Starting
            }
            (true, false) => {
                problems.push("no certificates yet".into());
                Phase::Starting
            }
            (true, true) if problems.is_empty() => Phase::Ready,
            (true, true) => Phase::Degraded,
        };
        problems.sort();
        listening.sort_by(|one, other| one.what.cmp(&other.what).then(one.address.cmp(&other.address)));
        self.listening.send_if_modified(|current| std::mem::replace(current, listening.clone()) != listening);
        let heritage = if ready && self.inherited.is_settled() { Heritage::TakenOver } else { Heritage::None };
        let status = Status { phase, problems, heritage, taken: self.taken, awaits_app: awaited.is_some() };
        self.status.send_if_modified(|current| std::mem::replace(current, status.clone()) != status);
    }
}

impl Key {
    fn place(&self) -> &Place {
        match self {
            Key::Public(place) | Key::Upstream(place) => place,
        }
    }
}

impl Listener {
    fn new(what: Served) -> Listener {
        let backoff = Backoff::new(FIRST_REBIND, LAST_REBIND);
        let now = Instant::now();
        Listener { what, state: State::Waiting { at: now, backoff, problem: String::new(), since: now } }
    }
}

impl Served {
    fn name(&self) -> String {
        match self {
            Served::Inbound(_) => "public".to_owned(),
            Served::Outbound { name, .. } => name.clone(),
        }
    }

    fn serve(&self) -> Arc<dyn Serve> {
        match self {
            Served::Inbound(inbound) => Arc::clone(inbound) as _,
            Served::Outbound { serve, .. } => Arc::clone(serve) as _,
        }
    }
}
