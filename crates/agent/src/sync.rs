//! Reconciler: what is registered here to the catalog.
//!
//! A change is pushed at once, before the client that made it gets its answer; the pushes of different services run
//! side by side, those of one service one after the other, always with its latest state. From time to time everything
//! is compared, which repairs what a failed push or a stranger left behind.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use lictor_model::acl::Caller;
use lictor_model::health::{Check, Status};
use lictor_model::name::{CheckId, ServiceId};
use lictor_model::service::Service;
use lictor_state::writer::{Registration, Removal};
use tokio::time::Instant;

use crate::Error;
use crate::agent::Inner;
use crate::cluster::Author;
use crate::liveness::serf_health;
use crate::local::LocalService;
use crate::registry::{Effects, Gone};

const FULL_SYNC_INTERVAL: Duration = Duration::from_secs(60);
const RETRY_INTERVAL: Duration = Duration::from_secs(15);
/// How long a refusal that was just logged is not logged again.
const QUIET_INTERVAL: Duration = Duration::from_secs(30);
const LOCKS: usize = 64;

/// What the catalog did not take because the ACLs forbid it, by kind, id and what was to be done.
pub(crate) type AllBlocked = BTreeMap<(String, String, &'static str), Blocked>;

/// A push that the ACLs forbid.
pub(crate) struct Blocked {
    /// Whose right is missing.
    why: String,
    /// When that was logged.
    said: Instant,
}

/// What was pushed.
struct Pushed<'a> {
    kind: &'a str,
    id: &'a str,
    what: &'static str,
}

/// One lock for all services whose ids hash alike: pushes of one service must not overtake each other.
pub struct PushLocks([tokio::sync::Mutex<()>; LOCKS]);

impl Default for PushLocks {
    fn default() -> Self {
        PushLocks(std::array::from_fn(|_| tokio::sync::Mutex::new(())))
    }
}

impl PushLocks {
    fn of(&self, id: &str) -> &tokio::sync::Mutex<()> {
        let hash = id.bytes().fold(0_usize, |hash, byte| hash.wrapping_mul(31).wrapping_add(usize::from(byte)));
        &self.0[hash % LOCKS]
    }
}

impl Inner {
    /// Makes the catalog follow a change. Failures are logged and made good by the next full sync; the client's
    /// registration stands either way.
    pub(crate) async fn push(&self, effects: &Effects) {
        // An agent that ends says nothing more: it may have left. The next one says what is kept.
        if self.stop.is_requested() {
            return;
        }
        for gone in &effects.gone {
            self.push_gone(gone).await;
        }
        for id in &effects.push_services {
            self.push_service(id).await;
        }
        for id in &effects.push_checks {
            self.push_check(id).await;
        }
    }

    async fn push_service(&self, id: &ServiceId) -> bool {
        let turn = self.locks.of(id.as_str()).lock().await;
        let Some((service, token, checks)) = self.unsynced_service(id) else { return true };
        let pushed: Vec<Check> = checks.clone();
        let registration = self.registration(Some(service.clone()), checks);
        let outcome = self.register_with(&token, registration).await;
        let done =
            self.settle_push(&Pushed { kind: "service", id: id.as_str(), what: "registration" }, &token, &outcome);
        if done {
            if let Some(entry) = self.registry.lock().services.get_mut(id)
                && entry.view.service == service
            {
                entry.synced = true;
            }
            let gone = self.settle_checks(&pushed, &token);
            drop(turn);
            for gone in &gone {
                self.push_gone(gone).await;
            }
        }
        done
    }

    /// Marks checks as written. A check has not the lock of its service, so what became of it meanwhile may have reached the
    /// catalog before this: it is pushed once more, or gives what is to be removed once more.
    fn settle_checks(&self, pushed: &[Check], token: &str) -> Vec<Gone> {
        let mut registry = self.registry.lock();
        let mut gone = Vec::new();
        for check in pushed {
            let with_service = !check.service_id.is_empty() && !registry.services.contains_key(&check.service_id);
            match registry.checks.get_mut(&check.id) {
                Some(entry) if entry.check == *check => {
                    entry.synced = true;
                    entry.output_due = None;
                }
                Some(entry) => {
                    entry.synced = false;
                    self.push_soon(&check.id);
                }
                None if with_service => {}
                None => {
                    registry.mark_gone(Gone::Check(check.id.clone()), token.to_owned());
                    gone.push(Gone::Check(check.id.clone()));
                }
            }
        }
        gone
    }

    /// A service the catalog lacks, with those of its checks that the catalog lacks too and that have the same token.
    fn unsynced_service(&self, id: &ServiceId) -> Option<(Service, String, Vec<Check>)> {
        let registry = self.registry.lock();
        let entry = registry.services.get(id).filter(|entry| !entry.synced)?;
        let checks = registry
            .checks
            .values()
            .filter(|check| !check.synced && check.check.service_id == *id && check.token == entry.token)
            .map(|check| check.check.clone())
            .collect();
        Some((entry.view.service.clone(), entry.token.clone(), checks))
    }

    async fn push_check(&self, id: &CheckId) -> bool {
        let service = self.registry.lock().checks.get(id).map(|entry| entry.check.service_id.clone());
        let Some(service) = service else { return true };
        if !service.is_empty() {
            // The catalog takes a check only behind its service.
            let unsynced = self.registry.lock().services.get(&service).is_some_and(|entry| !entry.synced);
            if unsynced && !self.push_service(&service).await {
                return false;
            }
        }
        let turn = self.locks.of(id.as_str()).lock().await;
        let (check, token) = {
            let registry = self.registry.lock();
            match registry.checks.get(id) {
                Some(entry) if !entry.synced => (entry.check.clone(), entry.token.clone()),
                _ => return true,
            }
        };
        let outcome = self.register_with(&token, self.registration(None, vec![check.clone()])).await;
        let done = self.settle_push(&Pushed { kind: "check", id: id.as_str(), what: "registration" }, &token, &outcome);
        if done {
            let gone = self.settle_checks(&[check], &token);
            drop(turn);
            for gone in &gone {
                self.push_gone(gone).await;
            }
        }
        done
    }

    async fn push_gone(&self, gone: &Gone) -> bool {
        let (kind, id, removal) = match gone {
            Gone::Service(id) => ("service", id.as_str(), Removal::Service(id.clone())),
            Gone::Check(id) => ("check", id.as_str(), Removal::Check(id.clone())),
        };
        let _turn = self.locks.of(id).lock().await;
        // It may have been registered again while we waited for our turn.
        let Some(mark) = self.registry.lock().gone.get(gone).cloned() else { return true };
        let author = Author::Secret(self.removing_secret(&mark.token));
        let outcome = self.cluster.deregister(&author, self.config.node_name.as_str(), removal).await;
        let done = self.settle_push(&Pushed { kind, id, what: "deregistration" }, &mark.token, &outcome);
        if done {
            let mut registry = self.registry.lock();
            if registry.gone.get(gone) == Some(&mark) {
                registry.gone.remove(gone);
            }
            // Registered again meanwhile, it may have been written with its service, and then removed by this.
            if let Gone::Check(id) = gone
                && let Some(entry) = registry.checks.get_mut(id)
            {
                entry.synced = false;
                self.push_soon(id);
            }
        }
        done
    }

    fn registration(&self, service: Option<Service>, checks: Vec<Check>) -> Registration {
        Registration { node: self.node(), skip_node_update: false, service, checks }
    }

    async fn register_with(&self, token: &str, registration: Registration) -> Result<(), Error> {
        // The holder of the token given at registration, else of the agent's default token.
        self.cluster.register(&Author::Secret(self.or_default(token)), registration).await
    }

    /// Who removes: the same, but what has no token of its own is the agent's business.
    fn removing_secret(&self, token: &str) -> String {
        if token.is_empty() { self.own_secret() } else { token.to_owned() }
    }

    /// Says what became of a push. One that the ACLs forbid counts as settled until the next full sync, which tries
    /// again: repeating it at once would not help.
    fn settle_push(&self, pushed: &Pushed<'_>, token: &str, outcome: &Result<(), Error>) -> bool {
        let Pushed { kind, id, what } = pushed;
        match outcome {
            Ok(()) => {
                let done = if *what == "deregistration" { "Deregistered" } else { "Synced" };
                tracing::info!("agent: {done} {kind} {id:?}");
                self.blocked.lock().retain(|key, _| !(key.0 == *kind && key.1 == *id));
                true
            }
            Err(error @ (Error::Denied | Error::UnknownToken)) => {
                let own = token.is_empty() && *what == "deregistration";
                self.say_blocked((kind, id, what), &self.who_is_blocked(token, own), error);
                lictor_meter::count(&format!("acl.blocked.{kind}.{what}"), &[]);
                true
            }
            Err(error) => {
                tracing::error!("agent: failed to sync {kind} {id:?}: {}", crate::error::chain(error));
                self.retry_nudge.notify_one();
                false
            }
        }
    }

    /// Warns of what the ACLs forbid, and remembers it for those who ask why something is not there. The same again within a
    /// moment, as at a start, where several turns of the reconcilers meet it, is not said again.
    fn say_blocked(&self, (kind, id, what): (&str, &str, &'static str), whose: &str, error: &Error) {
        let why = match error {
            Error::UnknownToken => format!("{whose} is not known"),
            _ => format!("{whose} does not allow it"),
        };
        let now = Instant::now();
        let key = (kind.to_owned(), id.to_owned(), what);
        let said = Blocked { why: why.clone(), said: now };
        match self.blocked.lock().entry(key) {
            Entry::Occupied(before) if before.get().why == why && now - before.get().said < QUIET_INTERVAL => return,
            Entry::Occupied(mut before) => drop(before.insert(said)),
            Entry::Vacant(place) => drop(place.insert(said)),
        }
        let subject = match kind {
            "node" => "Node info update".to_owned(),
            kind => format!("{} {id:?} {what}", capitalised(kind)),
        };
        tracing::warn!("agent: {subject} blocked by ACLs: {why}");
    }

    /// Whose right is missing, in words.
    fn who_is_blocked(&self, token: &str, own: bool) -> String {
        let tokens = self.tokens.load();
        if !token.is_empty() {
            return "the token it was registered with".to_owned();
        }
        let missing = match (own && !tokens.agent.is_empty(), tokens.default.is_empty()) {
            (true, _) => return "acl.tokens.agent".to_owned(),
            (false, false) => return "acl.tokens.default".to_owned(),
            (false, true) if own => "acl.tokens.agent and acl.tokens.default are not set",
            (false, true) => "it has no token, and acl.tokens.default is not set",
        };
        format!("the anonymous token ({missing})")
    }

    /// Why the catalog does not have a service of this agent, when the ACLs keep it out.
    pub(crate) fn blocked_service(&self, id: &ServiceId) -> Option<String> {
        let key = ("service".to_owned(), id.to_string(), "registration");
        self.blocked.lock().get(&key).map(|blocked| blocked.why.clone())
    }

    /// Compares everything with the catalog and repairs the differences; `false` when something failed.
    pub(crate) async fn full_sync(&self) -> bool {
        let node = self.config.node_name.as_str();
        // Servers that do not answer keep no agent from ending.
        let Some(seen) = self.stop.or_stopped(self.cluster.see_node(node)).await else { return false };
        if let Err(error) = seen {
            tracing::warn!("agent: cannot compare with the catalog: {}", crate::error::chain(&error));
            return false;
        }
        let management = Caller::management("");
        let remote = self.cluster.reader(&management).node(node).value;
        let mut complete = true;
        if remote.as_ref().is_none_or(|contents| contents.node.node != self.node()) {
            complete &= self.push_node().await;
        }
        let (services, checks): (BTreeMap<ServiceId, Service>, BTreeMap<CheckId, Check>) = match remote {
            Some(contents) => (
                contents.services.iter().map(|row| (row.service.id.clone(), row.service.clone())).collect(),
                contents.checks.iter().map(|row| (row.check.id.clone(), row.check.clone())).collect(),
            ),
            None => Default::default(),
        };
        self.place_node().await;
        let effects = self.differences(&services, &checks);
        self.forget_blocked();
        for gone in &effects.gone {
            complete &= self.push_gone(gone).await;
        }
        for id in &effects.push_services {
            complete &= self.push_service(id).await;
        }
        for id in &effects.push_checks {
            complete &= self.push_check(id).await;
        }
        complete
    }

    /// Forgets what was blocked of services and checks that are no more.
    fn forget_blocked(&self) {
        let registry = self.registry.lock();
        self.blocked.lock().retain(|(kind, id, what), _| match (kind.as_str(), *what) {
            ("service", "registration") => registry.services.contains_key(&ServiceId::from(id.as_str())),
            ("check", "registration") => registry.checks.contains_key(&CheckId::from(id.as_str())),
            ("service", _) => registry.gone.contains_key(&Gone::Service(id.as_str().into())),
            ("check", _) => registry.gone.contains_key(&Gone::Check(id.as_str().into())),
            _ => true,
        });
    }

    fn differences(&self, services: &BTreeMap<ServiceId, Service>, checks: &BTreeMap<CheckId, Check>) -> Effects {
        let mut effects = Effects::default();
        let is_remote = self.cluster.is_remote();
        let mut registry = self.registry.lock();
        let mut taken_over = false;
        for (id, entry) in &mut registry.services {
            let remote = services.iter().find(|(remote, _)| remote.same(id.as_str())).map(|(_, service)| service);
            if let Some(remote) = remote
                && entry.view.service.enable_tag_override
                && remote.tags != entry.view.service.tags
            {
                let LocalService { service, proxy } = entry.view.as_ref().clone();
                let service = Service { tags: remote.tags.clone(), ..service };
                entry.view = Arc::new(LocalService { service, proxy });
                taken_over = true;
            }
            entry.synced = match remote {
                Some(remote) if is_remote => as_shown(remote) == as_shown(&entry.view.service),
                remote => remote == Some(&entry.view.service),
            };
            if !entry.synced {
                effects.push_services.insert(id.clone());
            }
        }
        for (id, entry) in &mut registry.checks {
            let remote = checks.get(id);
            let (remote, own) = match remote {
                Some(remote) if is_remote => (Some(check_as_shown(remote)), check_as_shown(&entry.check)),
                remote => (remote.map(Cow::Borrowed), Cow::Borrowed(&entry.check)),
            };
            entry.synced = match remote.as_deref() {
                None => false,
                Some(remote) if entry.output_due.is_some() => {
                    Check { output: String::new(), ..remote.clone() }
                        == Check { output: String::new(), ..Check::clone(&own) }
                }
                Some(remote) => *remote == *own,
            };
            if !entry.synced {
                effects.push_checks.insert(id.clone());
            }
        }
        let reserved = self.config.is_server;
        for id in services.keys() {
            let ours = registry.services.keys().any(|local| local.same(id.as_str()));
            let published_by_us = reserved && id.as_str() == CONSUL_SERVICE;
            if !ours && !published_by_us {
                registry.mark_stranger(Gone::Service(id.clone()));
            }
        }
        for (id, check) in checks {
            let of_gone_service = !check.service_id.is_empty()
                && !registry.services.keys().any(|local| local.same(check.service_id.as_str()));
            if !registry.checks.contains_key(id) && id.as_str() != SERF_HEALTH && !of_gone_service {
                registry.mark_stranger(Gone::Check(id.clone()));
            }
        }
        effects.gone.extend(registry.gone.keys().cloned());
        drop(registry);
        if taken_over {
            self.bump();
        }
        effects
    }

    /// Publishes the node itself, with the entries that gossip would have made in the original.
    pub(crate) async fn push_node(&self) -> bool {
        if self.cluster.is_remote() {
            let outcome = self.cluster.announce(self.node()).await;
            return self.settle_node(&outcome);
        }
        let mut registration = self.registration(None, vec![serf_health(&self.config.node_name, Status::Passing)]);
        if self.config.is_server {
            registration.service = Some(Service {
                id: CONSUL_SERVICE.into(),
                name: CONSUL_SERVICE.into(),
                port: i64::from(self.config.server_port),
                ..Service::default()
            });
        }
        if self.cluster.acls_enabled() {
            // What everybody must know of a member is written with all rights, as the original's leader did; what
            // the agent says of its node beyond that needs the agent's own token.
            registration.skip_node_update = true;
            registration.node.tagged_addresses = None;
            registration.node.meta = None;
        }
        let everything = Author::Caller(Caller::management(""));
        let outcome = self.cluster.register(&everything, registration).await;
        let outcome = match outcome {
            Ok(()) if self.cluster.acls_enabled() => self.push_node_info().await,
            outcome => outcome,
        };
        self.settle_node(&outcome)
    }

    /// Says what became of a push of the node itself.
    fn settle_node(&self, outcome: &Result<(), Error>) -> bool {
        match outcome {
            Ok(()) => tracing::info!("agent: Synced node info"),
            Err(error @ (Error::Denied | Error::UnknownToken)) => {
                self.say_blocked(("node", "", "registration"), &self.who_is_blocked("", true), error);
                lictor_meter::count("acl.blocked.node.registration", &[]);
                return true;
            }
            Err(error) => tracing::error!("agent: failed to sync node info: {}", crate::error::chain(error)),
        }
        outcome.is_ok()
    }

    async fn push_node_info(&self) -> Result<(), Error> {
        self.cluster.register(&Author::Secret(self.own_secret()), self.registration(None, Vec::new())).await
    }

    /// Keeps the catalog current until told to stop.
    pub(crate) async fn keep_synced(self: Arc<Self>) {
        let mut next_full = Instant::now();
        loop {
            if Instant::now() >= next_full {
                next_full = after(if self.full_sync().await { FULL_SYNC_INTERVAL } else { RETRY_INTERVAL });
            }
            let due = self.push_due_outputs().await.map_or(next_full, |due| due.min(next_full));
            tokio::select! {
                () = self.sync_nudge.notified() => {}
                () = self.full_sync_nudge.notified() => next_full = Instant::now(),
                () = self.retry_nudge.notified() => next_full = next_full.min(after(RETRY_INTERVAL)),
                () = tokio::time::sleep_until(due) => {}
                () = self.stop.requested() => return,
            }
        }
    }

    /// Pushes check output whose time has come, and tells when the next one's will.
    async fn push_due_outputs(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut due = Vec::new();
        let mut next: Option<Instant> = None;
        for (id, entry) in &mut self.registry.lock().checks {
            match entry.output_due {
                Some(at) if at <= now => {
                    entry.output_due = None;
                    entry.synced = false;
                    due.push(id.clone());
                }
                Some(at) => next = Some(next.map_or(at, |next| next.min(at))),
                None => {}
            }
        }
        for id in due {
            self.push_check(&id).await;
        }
        next
    }
}

/// A service as answers of the API show it: what is absent and what is empty look the same there.
fn as_shown(service: &Service) -> Service {
    let mut shown = service.clone();
    let full = |config: &lictor_model::Opaque| !config.is_empty();
    shown.tags = shown.tags.filter(|tags| !tags.is_empty());
    shown.meta = shown.meta.filter(|meta| !meta.is_empty());
    if let Some(proxy) = &mut shown.proxy {
        proxy.config = proxy.config.take().filter(full);
        for upstream in &mut proxy.upstreams {
            upstream.config = upstream.config.take().filter(full);
        }
    }
    shown
}

/// The same for a check.
fn check_as_shown(check: &Check) -> Cow<'_, Check> {
    match &check.service_tags {
        Some(tags) if tags.is_empty() => Cow::Owned(Check { service_tags: None, ..check.clone() }),
        _ => Cow::Borrowed(check),
    }
}

/// The service that servers publish about themselves.
pub(crate) const CONSUL_SERVICE: &str = "consul";
/// The check by which a node counts as alive.
pub(crate) const SERF_HEALTH: &str = "serfHealth";

/// An interval from now or up to twice that, so that many agents do not do it in step.
fn after(interval: Duration) -> Instant {
    Instant::now() + interval + interval.mul_f64(fastrand::f64())
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}
