//! The cluster of a client agent: what the use cases of its node need of it, asked of servers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lictor_agent::Error as AgentError;
use lictor_agent::cluster::{Author, Certified, Cluster, Soon};
use lictor_agent::error::chain;
use lictor_api::client::request::{encoded, segment};
use lictor_api::internal::{Alive, AliveAnswer, Gone, Peer, SignRequest, Signed, TokenAnswer};
use lictor_api::{catalog, connect, header, health, intention};
use lictor_model::acl::{Caller, Enforcement};
use lictor_model::intention::{Action, Decision, Intention, Otherwise, decide};
use lictor_model::name::NodeName;
use lictor_model::node::Node;
use lictor_state::Reader;
use lictor_state::coordinate::NodeCoordinate;
use lictor_state::presence::Member;
use lictor_state::reader::Side;
use lictor_state::tokens::{Acl, Grant, RuleText};
use lictor_state::writer::{Registration, Removal};
use lictor_task::{Backoff, Scope, Stop};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use crate::answers::{self, Contents};
use crate::mirror::Mirror;
use crate::servers::{Answer, Ask, Error, Servers};
use crate::tokens::{Age, Tokens};

/// How long a read waits for a change.
const WAIT: &str = "300s";
/// How much longer its answer may take before it counts as lost.
const WAIT_LIMIT: Duration = Duration::from_secs(300 + 30);
/// Between two tries of what has failed.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
/// How often a server hears that this node is there, until it has said for how long that holds.
const BEAT: Duration = Duration::from_secs(3);
/// How often within that time. A server that takes as long for an answer as from one to the next is left for another.
const BEATS: u32 = 4;
/// A server may take so long to answer that at least.
const SLOWEST: Duration = Duration::from_secs(1);
/// How often others are asked for that can be measured.
const PEERS_EVERY: Duration = Duration::from_secs(60);
/// How long a node that leaves waits for a server to take note.
const GONE_WITHIN: Duration = Duration::from_secs(5);
/// Destinations whose intentions are held. Without access control anyone can ask for any name.
const MOST_DESTINATIONS: usize = 512;
/// Intentions that nobody has asked about for so long are not followed any more.
const UNASKED: Duration = Duration::from_secs(3600);

/// What servers are asked as.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub node: NodeName,
    /// Its UUID.
    pub node_id: String,
    /// `host:port` at which others would reach it.
    pub address: String,
    /// Whether access is controlled, as far as this agent is concerned.
    pub acls: bool,
    /// Whether there is a mesh.
    pub mesh: bool,
}

/// The cluster, somewhere else. Cloning gives another handle to the same.
#[derive(Clone)]
pub struct Remote {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    servers: Servers,
    mirror: Mirror,
    tokens: Tokens,
    /// The secret with which the agent speaks for itself.
    own: Mutex<String>,
    /// This node as it was announced last.
    node: Mutex<Option<Node>>,
    /// The lease by which servers know that it is there.
    lease: Mutex<u64>,
    /// How often they hear of it.
    beat: Mutex<Duration>,
    /// Told when servers had given it up.
    was_lost: Notify,
    distances: Mutex<Distances>,
    /// One announcement at a time.
    announcing: tokio::sync::Mutex<()>,
    own_changed: Notify,
    following: Mutex<BTreeMap<String, Scope>>,
    destinations: Mutex<HashMap<Destination, Followed>>,
    scope: Scope,
}

/// A destination whose intentions are followed for as long as this is there.
struct Followed {
    matched: Matched,
    scope: Scope,
}

impl Followed {
    /// Takes what somebody else has read meanwhile, unless it is older: reads overtake each other, and whoever follows a
    /// destination is not told again what is here no more. What holds then.
    fn offer(&mut self, read: Matched) -> Matched {
        if read.index > self.matched.index {
            self.matched = read;
        } else {
            self.matched.asked = read.asked;
        }
        self.matched.clone()
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.scope.stop();
    }
}

/// How far away this node is from others, as far as it is measured.
#[derive(Default)]
struct Distances {
    /// `ip:port` where this node is asked; empty while it measures nothing.
    ping: String,
    /// Whom it can ask, and how many agents there are.
    peers: Vec<Member>,
    agents: usize,
    /// When it was told.
    told: Option<Instant>,
}

/// Whose intentions are asked for, and on whose behalf.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Destination {
    secret: String,
    name: String,
}

/// The intentions of a destination as they were last.
#[derive(Clone)]
struct Matched {
    intentions: Arc<[Intention]>,
    otherwise: Action,
    asked: Instant,
    /// As of when they are.
    index: u64,
}

impl Remote {
    /// Nothing is asked before somebody wants to know something.
    pub fn new(config: Config, servers: Servers, mirror: Mirror, tokens: Tokens, scope: Scope) -> Remote {
        Remote {
            inner: Arc::new(Inner {
                config,
                servers,
                mirror,
                tokens,
                own: Mutex::default(),
                node: Mutex::default(),
                lease: Mutex::default(),
                beat: Mutex::new(BEAT),
                was_lost: Notify::new(),
                distances: Mutex::default(),
                announcing: tokio::sync::Mutex::default(),
                own_changed: Notify::new(),
                following: Mutex::default(),
                destinations: Mutex::default(),
                scope,
            }),
        }
    }

    /// From now on follows the roots, and says again and again that this node is there.
    pub fn begin(&self, node: Node) {
        let inner = &self.inner;
        inner.node.lock().get_or_insert(node);
        inner.scope.spawn("announce this node", Arc::clone(inner).keep_announced());
        if inner.config.mesh {
            inner.scope.spawn("follow roots", Arc::clone(inner).follow_roots());
        }
    }

    /// Says that this node leaves in order: the catalog forgets it.
    pub async fn leave(&self) {
        let inner = &self.inner;
        let told = async {
            // From now on nobody says that it is there.
            *inner.node.lock() = None;
            let _turn = inner.announcing.lock().await;
            let node = inner.config.node.as_str().to_owned();
            let ask = Ask::put("/v1/internal/agent/gone", &inner.own(), json(&Gone { node })).impatient().vital();
            inner.answered::<Done>(ask).await
        };
        match timeout(GONE_WITHIN, told).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!("agent: cannot tell a server that this node leaves: {}", why(&error)),
            Err(_) => tracing::warn!("agent: cannot tell a server that this node leaves: no answer"),
        }
    }

    /// Waits until servers are found to have given this node up: what it registered may be gone from the catalog.
    pub async fn was_lost(&self) {
        self.inner.was_lost.notified().await;
    }

    /// The servers.
    pub fn servers(&self) -> &Servers {
        &self.inner.servers
    }
}

/// The answer to a write that worked: `true`, which says nothing more.
type Done = serde::de::IgnoredAny;

/// A body. Texts and numbers have a form in JSON.
fn json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

/// Where the checks of a node are.
fn checks_of(node: &str) -> String {
    format!("/v1/health/node/{}", segment(node))
}

/// An error with what lies behind it, for the log.
fn why(error: &Error) -> String {
    match error {
        Error::NoServers(last) if !last.is_empty() => format!("{error}: {last}"),
        error => error.to_string(),
    }
}

/// The caller that a server speaks of.
fn caller_of(answer: TokenAnswer) -> Caller {
    let TokenAnswer { enabled, accessor_id, rules, default_policy, enforce_version_8 } = answer;
    let acl = Acl {
        default_policy: Action::parse(&default_policy).unwrap_or(Action::Deny),
        enforcement: if enforce_version_8 { Enforcement::Full } else { Enforcement::BeforeVersion8 },
    };
    let rules = rules.into_iter().map(|rule| RuleText { text: rule.text, legacy: rule.legacy }).collect();
    // Where servers control nothing, a client that does has the last word: all that is known is that nobody is refused there.
    Grant { acl: enabled.then_some(acl), accessor: accessor_id, rules }.caller()
}

/// What an error of a server means here.
fn of_agent(error: Error) -> AgentError {
    match error {
        Error::Refused { code: 403, text } if text.ends_with("ACL not found") => AgentError::UnknownToken,
        Error::Refused { code: 403, .. } => AgentError::Denied,
        Error::Refused { code: 429, text } => AgentError::RateLimited(text),
        Error::Refused { code: 400, text } => AgentError::BadRequest(text),
        Error::Limited => AgentError::RateLimited(error.to_string()),
        error => AgentError::Refused(error.to_string()),
    }
}

impl Inner {
    fn own(&self) -> String {
        self.own.lock().clone()
    }

    /// Asks, and reads the answer as a value.
    async fn answered<T: DeserializeOwned>(&self, ask: Ask) -> Result<T, Error> {
        self.servers.read(&ask).await?.json()
    }

    /// Writes to the catalog. What is not written now is when a server is back.
    async fn write(&self, target: &str, author: &Author, body: Vec<u8>) -> Result<(), AgentError> {
        let secret = match author {
            Author::Secret(secret) => secret.clone(),
            // Nobody here has rights of its own at a server.
            Author::Caller(_) => self.own(),
        };
        let _: Done = self.answered(Ask::put(target, &secret, body).impatient()).await.map_err(of_agent)?;
        Ok(())
    }

    /// Asks what a secret stands for. Refused is only who has to wait until more may be asked.
    async fn learn(&self, secret: &str) -> Result<(), AgentError> {
        let mut ask = Ask::get("/v1/internal/agent/token", secret);
        if self.tokens.is_known(secret) {
            ask = ask.impatient();
        }
        match self.answered::<TokenAnswer>(ask).await {
            Ok(answer) => self.tokens.learned(secret, Some(caller_of(answer))),
            Err(Error::Refused { code: 400 | 403, .. }) => self.tokens.learned(secret, None),
            Err(error) => {
                tracing::debug!("agent: cannot ask what a token stands for: {}", why(&error));
                match error {
                    Error::NoServers(_) | Error::Broken(_) => self.tokens.unreachable(secret),
                    Error::Limited if !self.tokens.is_known(secret) => return Err(of_agent(error)),
                    Error::Limited | Error::Answer(_) | Error::Refused { .. } => self.tokens.withheld(secret),
                }
            }
        }
        Ok(())
    }

    /// A read that waits for something newer than `index`.
    async fn watch(&self, target: &str, secret: &str, index: u64) -> Result<Answer, Error> {
        let mark = if target.contains('?') { '&' } else { '?' };
        let target = match index {
            0 => target.to_owned(),
            index => format!("{target}{mark}index={index}&wait={WAIT}"),
        };
        let ask = Ask::get(target, secret);
        let asked = self.servers.read(&ask);
        timeout(WAIT_LIMIT, asked).await.unwrap_or_else(|_| Err(Error::Broken("no answer".into())))
    }

    async fn follow_roots(self: Arc<Self>) {
        let mut following = Following::new(&self, self.scope.stop_signal(), "/v1/connect/ca/roots".into());
        while let Some(answer) = following.next(&self.own()).await {
            let roots = answer.and_then(|answer| answer.json::<connect::Roots<'static>>());
            match roots {
                Ok(roots) => {
                    if let Err(error) = self.mirror.put_roots(roots.into()).await {
                        tracing::error!("agent: cannot hold the roots: {}", chain(&error));
                    }
                }
                Err(error) => tracing::debug!("agent: cannot read the roots: {}", why(&error)),
            }
        }
    }

    /// Holds a node with the checks that a server has just named.
    async fn see(&self, node: &str, checks: Option<Vec<health::Check<'static>>>) -> Result<(), Error> {
        let ask = Ask::get(format!("/v1/catalog/node/{}", segment(node)), &self.own());
        let services = self.answered::<Option<catalog::NodeServices<'static>>>(ask).await?;
        let contents = Contents::of_node(services, checks.unwrap_or_default());
        self.mirror.put_node(node, contents).await.map_err(|error| Error::Answer(chain(&error)))
    }

    async fn follow_node(self: Arc<Self>, node: String, stop: Stop) {
        let mut following = Following::new(&self, stop, checks_of(&node));
        while let Some(answer) = following.next(&self.own()).await {
            // Not known for the moment is as it was.
            if let Ok(checks) = answer.and_then(|answer| answer.json())
                && let Err(error) = self.see(&node, checks).await
            {
                tracing::debug!("agent: cannot see node {node:?}: {}", why(&error));
            }
        }
    }

    /// Says that this node is there.
    async fn announce(&self) -> Result<Duration, Error> {
        let _turn = self.announcing.lock().await;
        let Some(node) = self.node.lock().clone() else { return Ok(BEAT) };
        let Config { node: name, node_id, address, .. } = &self.config;
        let (ping, wants_peers) = {
            let distances = self.distances.lock();
            let old = distances.told.is_none_or(|told| distances.peers.is_empty() || told.elapsed() >= PEERS_EVERY);
            (distances.ping.clone(), !distances.ping.is_empty() && old)
        };
        let before = *self.lease.lock();
        let alive = Alive {
            node: name.as_str().to_owned(),
            id: node_id.clone(),
            address: address.clone(),
            tagged_addresses: node.tagged_addresses.unwrap_or_default(),
            meta: node.meta.unwrap_or_default(),
            lease: before,
            ping,
            wants_peers,
        };
        let ask = Ask::put("/v1/internal/agent/alive", &self.own(), json(&alive)).impatient().vital();
        let answer = match self.answered_in_time::<AliveAnswer>(ask).await {
            Ok(answer) => answer,
            Err(error) => {
                // What it cannot do, such as write to its store, another one may.
                if matches!(error, Error::Broken(_) | Error::Refused { code: 500.., .. }) {
                    self.servers.leave(&error.to_string()).await;
                }
                return Err(error);
            }
        };
        *self.lease.lock() = answer.lease;
        if before != 0 && before != answer.lease {
            self.was_lost.notify_one();
        }
        if wants_peers {
            let peers = answer.peers.into_iter().map(|Peer { node, ping }| Member { node, ping, ..Member::default() });
            let mut distances = self.distances.lock();
            distances.peers = peers.collect();
            distances.agents = usize::try_from(answer.agents).unwrap_or(usize::MAX);
            distances.told = Some(Instant::now());
        }
        self.servers.told(answer.servers);
        let beat = answer.ttl.0.max(Duration::from_secs(1)) / BEATS;
        *self.beat.lock() = beat;
        Ok(beat)
    }

    /// Asks, and leaves a server that does not answer before it is too late to ask another one.
    async fn answered_in_time<T: DeserializeOwned>(&self, ask: Ask) -> Result<T, Error> {
        let half = *self.beat.lock() / 2;
        let mut answered = std::pin::pin!(self.answered(ask));
        if let Ok(answer) = timeout(half, answered.as_mut()).await {
            return answer;
        }
        tokio::select! {
            answer = timeout(half.max(SLOWEST / 2), answered) => {
                answer.unwrap_or_else(|_| Err(Error::Broken(format!("no answer within {:?}", half * 2))))
            }
            () = self.servers.silence(half.max(SLOWEST / 2)) => Err(Error::Broken("the server is silent".into())),
        }
    }

    async fn keep_announced(self: Arc<Self>) {
        let stop = self.scope.stop_signal();
        let mut answering = self.servers.answering();
        let mut backoff = Backoff::new(RETRY.0, BEAT);
        let mut denied = false;
        loop {
            let Some(outcome) = stop.or_stopped(self.announce()).await else { return };
            let pause = match outcome {
                Ok(beat) => {
                    backoff.reset();
                    denied = false;
                    beat
                }
                Err(error @ Error::Refused { code: 403, .. }) => {
                    if !denied {
                        tracing::warn!(
                            "agent: this node does not show as alive: {error}: acl.tokens.agent (or acl.tokens.default) \
                             needs node:write for {:?}",
                            self.config.node.as_str()
                        );
                    }
                    denied = true;
                    BEAT
                }
                Err(error) => {
                    if backoff.failures() == 0 {
                        tracing::warn!("agent: cannot tell a server that this node is there: {}", why(&error));
                    }
                    backoff.next_delay()
                }
            };
            answering.mark_unchanged();
            tokio::select! {
                () = stop.requested() => return,
                () = tokio::time::sleep(pause) => {}
                () = self.own_changed.notified() => {}
                // Another server, or one that is back, hears of it at once.
                _ = answering.changed() => {}
            }
        }
    }

    /// The intentions of a destination, as they were last.
    async fn matched(self: &Arc<Self>, secret: &str, target: &str) -> Result<Matched, Error> {
        let destination = Destination { secret: secret.to_owned(), name: target.to_ascii_lowercase() };
        if let Some(known) = self.destinations.lock().get_mut(&destination) {
            known.matched.asked = Instant::now();
            return Ok(known.matched.clone());
        }
        let query = format!("/v1/connect/intentions/match?by=destination&name={}", encoded(target));
        let answer = self.servers.read(&Ask::get(query.as_str(), secret)).await?;
        let matched = read_matched(&answer, target)?;
        let mut all = self.destinations.lock();
        if all.len() >= MOST_DESTINATIONS {
            let oldest = all.iter().min_by_key(|(_, known)| known.matched.asked).map(|(oldest, _)| oldest.clone());
            oldest.and_then(|oldest| all.remove(&oldest));
        }
        let known = all.entry(destination.clone()).or_insert_with(|| {
            let scope = self.scope.child("destination");
            let stop = scope.stop_signal();
            scope.spawn("follow intentions", Arc::clone(self).follow_destination(destination, query, stop));
            Followed { matched: matched.clone(), scope }
        });
        Ok(known.offer(matched))
    }

    async fn follow_destination(self: Arc<Self>, destination: Destination, query: String, stop: Stop) {
        let mut following = Following::new(&self, stop, query);
        while let Some(answer) = following.next(&destination.secret).await {
            let matched = answer.and_then(|answer| read_matched(&answer, &destination.name));
            let mut all = self.destinations.lock();
            let Some(known) = all.get_mut(&destination) else { return };
            let asked = known.matched.asked;
            if asked.elapsed() >= UNASKED {
                all.remove(&destination);
                return;
            }
            match matched {
                Ok(matched) => known.matched = Matched { asked, ..matched },
                // As they were, for as long as nobody can say otherwise.
                Err(
                    Error::NoServers(_) | Error::Broken(_) | Error::Limited | Error::Refused { code: 429 | 500.., .. },
                ) => {}
                // Who may not ask any more is asked for no longer.
                Err(Error::Refused { .. } | Error::Answer(_)) => {
                    all.remove(&destination);
                    return;
                }
            }
        }
    }
}

/// Something that is read again whenever it changes.
struct Following {
    inner: Arc<Inner>,
    stop: Stop,
    target: String,
    index: u64,
    backoff: Backoff,
    /// Whether the last read is no reason to ask again at once.
    rests: bool,
}

impl Following {
    fn new(inner: &Arc<Inner>, stop: Stop, target: String) -> Following {
        let backoff = Backoff::new(RETRY.0, RETRY.1);
        Following { inner: Arc::clone(inner), stop, target, index: 0, backoff, rests: false }
    }

    /// The next answer, on behalf of the holder of a secret; `None` once told to stop.
    async fn next(&mut self, secret: &str) -> Option<Result<Answer, Error>> {
        if self.rests {
            self.stop.or_stopped(tokio::time::sleep(self.backoff.next_delay())).await?;
        }
        let answer = self.stop.or_stopped(self.inner.watch(&self.target, secret, self.index)).await?;
        let seen = answer.as_ref().ok().filter(|answer| answer.head.status.is_success()).map(Answer::index);
        match seen {
            Some(next) if next != 0 => {
                // One that goes back begins anew.
                self.index = if next < self.index { 0 } else { next };
                self.rests = false;
                self.backoff.reset();
            }
            _ => {
                self.index = 0;
                self.rests = true;
            }
        }
        Some(answer)
    }
}

fn read_matched(answer: &Answer, target: &str) -> Result<Matched, Error> {
    let mut matches: intention::Matches<'static> = answer.json()?;
    let found = matches.remove(target).or_else(|| {
        let name = matches.keys().find(|name| name.eq_ignore_ascii_case(target)).cloned()?;
        matches.remove(&name)
    });
    let intentions: Vec<Intention> = found.flatten().unwrap_or_default().into_iter().map(Intention::from).collect();
    let said = answer.head.headers.get(header::DEFAULT_DECISION).and_then(|value| value.to_str().ok());
    Ok(Matched {
        intentions: intentions.into(),
        // Whoever does not say has not decided.
        otherwise: said.and_then(Action::parse).unwrap_or(Action::Deny),
        asked: Instant::now(),
        index: answer.index(),
    })
}

impl Cluster for Remote {
    fn is_remote(&self) -> bool {
        true
    }

    fn learn<'a>(&'a self, secret: &'a str) -> Soon<'a, ()> {
        Box::pin(async move {
            let inner = &self.inner;
            if !inner.config.acls {
                return Ok(());
            }
            match inner.tokens.age(secret) {
                Age::Fresh => {}
                Age::Usable => {
                    // Others that ask meanwhile need not.
                    inner.tokens.unreachable(secret);
                    let (inner, secret) = (Arc::clone(inner), secret.to_owned());
                    self.inner.scope.spawn("learn of a token", async move { drop(inner.learn(&secret).await) });
                }
                Age::Stale => inner.learn(secret).await?,
            }
            Ok(())
        })
    }

    fn caller(&self, secret: &str) -> Result<Caller, AgentError> {
        if !self.inner.config.acls {
            return Ok(Caller::acls_disabled());
        }
        self.inner.tokens.caller(secret).ok_or(AgentError::UnknownToken)
    }

    fn acls_enabled(&self) -> bool {
        self.inner.config.acls
    }

    fn reader(&self, caller: &Caller) -> Reader {
        self.inner.mirror.reader(caller)
    }

    fn register<'a>(&'a self, author: &'a Author, registration: Registration) -> Soon<'a, ()> {
        Box::pin(
            async move { self.inner.write("/v1/catalog/register", author, answers::registration(&registration)).await },
        )
    }

    fn deregister<'a>(&'a self, author: &'a Author, node: &'a str, removal: Removal) -> Soon<'a, ()> {
        Box::pin(
            async move { self.inner.write("/v1/catalog/deregister", author, answers::removal(node, &removal)).await },
        )
    }

    fn decide<'a>(
        &'a self,
        _asking: &'a Caller,
        secret: &'a str,
        (namespace, source): (&'a str, &'a str),
        target: &'a str,
    ) -> Soon<'a, Decision> {
        Box::pin(async move {
            let matched = self.inner.matched(secret, target).await.map_err(of_agent)?;
            let otherwise = match matched.otherwise {
                Action::Allow if !self.inner.config.acls => Otherwise::AclsDisabled,
                action => Otherwise::AclDefault(action),
            };
            Ok(decide(matched.intentions.iter(), namespace, source, otherwise))
        })
    }

    fn speak_as(&self, secret: &str) {
        let mut own = self.inner.own.lock();
        if *own != secret {
            secret.clone_into(&mut own);
            self.inner.own_changed.notify_one();
        }
    }

    fn announce<'a>(&'a self, node: Node) -> Soon<'a, ()> {
        Box::pin(async move {
            *self.inner.node.lock() = Some(node);
            self.inner.announce().await.map(drop).map_err(of_agent)
        })
    }

    fn certify<'a>(&'a self, secret: &'a str, csr_pem: &'a str) -> Soon<'a, Certified> {
        Box::pin(async move {
            let request = SignRequest { csr: csr_pem.to_owned() };
            let ask = Ask::put("/v1/internal/agent/sign", secret, json(&request));
            let signed: Signed = self.inner.answered(ask).await.map_err(of_agent)?;
            Ok(Certified {
                serial_number: signed.serial_number,
                cert_pem: signed.cert_pem,
                service: signed.service,
                uri: signed.service_uri,
                valid_after: signed.valid_after.seconds(),
                valid_before: signed.valid_before.seconds(),
                root_id: signed.root_id,
            })
        })
    }

    fn see_node<'a>(&'a self, node: &'a str) -> Soon<'a, ()> {
        Box::pin(async move {
            let checks = self.inner.answered(Ask::get(checks_of(node), &self.inner.own())).await.map_err(of_agent)?;
            self.inner.see(node, checks).await.map_err(of_agent)
        })
    }

    fn see_service<'a>(&'a self, service: &'a str, secret: &'a str) -> Soon<'a, ()> {
        Box::pin(async move {
            let name = segment(service);
            for (side, path) in [(Side::Ordinary, "service"), (Side::Connect, "connect")] {
                let ask = Ask::get(format!("/v1/health/{path}/{name}"), secret);
                let entries: Vec<health::Entry<'static>> = self.inner.answered(ask).await.map_err(of_agent)?;
                let found = entries.into_iter().map(Contents::of_instance).collect();
                self.inner.mirror.put_instances(service, side, found).await?;
            }
            Ok(())
        })
    }

    fn peers(&self, most: usize) -> (Vec<Member>, usize) {
        let distances = self.inner.distances.lock();
        (distances.peers.iter().take(most).cloned().collect(), distances.agents)
    }

    fn place(&self, own: NodeCoordinate) -> Soon<'_, ()> {
        Box::pin(async move {
            let author = Author::Secret(self.inner.own());
            self.inner.write("/v1/coordinate/update", &author, answers::place(&own)).await
        })
    }

    fn answers_at(&self, address: SocketAddr) {
        self.inner.distances.lock().ping = address.to_string();
        // Others are to know.
        self.inner.own_changed.notify_one();
    }

    fn follow_nodes(&self, nodes: BTreeSet<String>) {
        let inner = &self.inner;
        let mut following = inner.following.lock();
        following.retain(|node, scope| {
            let stays = nodes.contains(node);
            if !stays {
                scope.stop();
            }
            stays
        });
        for node in nodes {
            following.entry(node).or_insert_with_key(|node| {
                let scope = inner.scope.child("node");
                scope.spawn("follow a node", Arc::clone(inner).follow_node(node.clone(), scope.stop_signal()));
                scope
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn intentions_that_were_read_earlier_do_not_replace_later_ones() {
        let read = |index, otherwise| Matched { intentions: [].into(), otherwise, asked: Instant::now(), index };
        let mut known = Followed { matched: read(11, Action::Deny), scope: Scope::new("destination") };
        let before = known.matched.asked;
        assert_eq!(known.offer(read(10, Action::Allow)).otherwise, Action::Deny);
        assert_eq!(known.offer(read(11, Action::Allow)).otherwise, Action::Deny);
        assert!(known.matched.asked > before, "somebody asked");
        assert_eq!(known.offer(read(12, Action::Allow)).otherwise, Action::Allow);
    }
}
