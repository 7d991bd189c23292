//! The handle that faces use: one method per use case, the caller first.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use lictor_model::Opaque;
use lictor_model::acl::{Access, Caller, ProxyRights, Realm, Rules};
use lictor_model::health::{Check, CheckKind, CheckSpec, Status};
use lictor_model::identity::{SpiffeId, TrustDomain};
use lictor_model::intention::{Action, Decision, Intention};
use lictor_model::name::{CheckId, ServiceId};
use lictor_model::node::Node;
use lictor_model::revision::Revision;
use lictor_model::root::IssuedLeaf;
use lictor_model::service::{Definition, Kind};
use lictor_state::coordinate::Coordinate;
use lictor_state::writer::{Registration, Removal};
use lictor_state::{Presence, Reader, Writer};
use lictor_supervisor::{Logs, Supervisor};
use lictor_task::{Scope, Stop, to_the_end};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, watch};

use crate::authority::Authority;
use crate::checks::{RESULTS_BOUND, Report};
use crate::cluster::{Author, Cluster};
use crate::config::Reloadable;
use crate::events::Events;
use crate::leaves::Leaves;
use crate::local::{AggregatedStatus, LocalService, ManagedProxyView, ProxyConfig, ServiceHealth};
use crate::operate::held::Holds;
use crate::persist::{Files, Whence};
use crate::record::{CheckRecord, Ownership, ProxyRecord, ServiceRecord};
use crate::registry::{CheckEntry, Effects, Origin, Registry};
use crate::rights::{Askers, may_check};
use crate::served::Served;
use crate::sync::PushLocks;
use crate::tokens::Tokens;
use crate::{Config, Error, validate};

/// One agent. Cloning gives another handle to the same.
#[derive(Clone)]
pub struct Agent {
    pub(crate) inner: Arc<Inner>,
}

/// What all use cases and reconcilers share.
pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) reloadable: ArcSwap<Reloadable>,
    pub(crate) tokens: ArcSwap<Tokens>,
    /// Held while tokens are changed, so that what is kept and what is used are the same.
    pub(crate) setting_tokens: Mutex<()>,
    pub(crate) registry: Mutex<Registry>,
    /// Counts the changes of the registry.
    pub(crate) version: watch::Sender<u64>,
    /// Counts the changes of tokens that services here were registered with, and of the one for those without.
    pub(crate) exchanges: watch::Sender<u64>,
    pub(crate) cluster: Arc<dyn Cluster>,
    pub(crate) writer: Writer,
    pub(crate) authority: Option<Authority>,
    /// How the others know that this agent is alive, once it shares its store with others.
    pub(crate) presence: OnceLock<Presence>,
    /// What client agents are served from, once they are.
    pub(crate) served: OnceLock<Served>,
    pub(crate) leaves: Leaves,
    pub(crate) files: Files,
    pub(crate) locks: PushLocks,
    pub(crate) events: Events,
    pub(crate) reports: mpsc::Sender<Report>,
    /// Checks whose new state the catalog lacks.
    pub(crate) pushes: watch::Sender<BTreeSet<CheckId>>,
    pub(crate) sync_nudge: Notify,
    /// Everything is to be compared with the catalog, soon.
    pub(crate) full_sync_nudge: Notify,
    /// A push has failed: the next full sync is to be soon.
    pub(crate) retry_nudge: Notify,
    pub(crate) alias_nudge: Notify,
    pub(crate) proxies_nudge: Notify,
    /// Processes declared to the supervisor.
    pub(crate) declared: tokio::sync::Mutex<BTreeSet<String>>,
    /// Who keeps the processes, once what is wanted at the start is declared there; `None` when that is nobody.
    pub(crate) supervisor: tokio::sync::SetOnce<Option<Supervisor>>,
    /// Managed proxies that an operator holds back.
    pub(crate) held: Holds,
    /// Wakes whoever looks after proxies that are being drained.
    pub(crate) drains: Notify,
    /// What managed proxies print.
    pub(crate) logs: Logs,
    /// What is wrong with the processes of managed proxies.
    pub(crate) troubles: Mutex<BTreeMap<ServiceId, String>>,
    /// Warnings already given, so that a reconciler does not repeat them at every turn.
    pub(crate) warned: Mutex<BTreeSet<String>>,
    /// What the catalog did not take because of the ACLs.
    pub(crate) blocked: Mutex<crate::sync::AllBlocked>,
    /// Where this node answers who measures how far away it is, once that was to be.
    pub(crate) ping: OnceLock<Option<SocketAddr>>,
    /// Where a client agent has found its node to be.
    pub(crate) place: Mutex<Option<Coordinate>>,
    pub(crate) stop: Stop,
}

/// What the agent is built from.
pub struct Parts {
    /// Settings that are fixed at start.
    pub config: Config,
    /// Settings that a reload can change.
    pub reloadable: Reloadable,
    /// The cluster.
    pub cluster: Arc<dyn Cluster>,
    /// The one writer of the state.
    pub writer: Writer,
    /// The certificate authority, where the mesh is on.
    pub authority: Option<Authority>,
}

impl Agent {
    /// Loads what is registered and starts the reconcilers in `scope`. All problems of the definitions in files are
    /// reported together.
    pub async fn start(parts: Parts, scope: &Scope) -> Result<Agent, Error> {
        let Parts { config, reloadable, cluster, writer, authority } = parts;
        let files = Files::open(config.data_dir.as_deref()).map_err(|source| Error::Machine {
            operation: format!(
                "make folders for registrations in {}",
                config.data_dir.as_deref().unwrap_or(&config.runtime_dir).display()
            ),
            source,
        })?;
        let (reports, incoming) = mpsc::channel(RESULTS_BOUND);
        let inner = Arc::new(Inner {
            supervisor: tokio::sync::SetOnce::new(),
            tokens: ArcSwap::from_pointee(Tokens::default()),
            setting_tokens: Mutex::new(()),
            held: Holds::open(config.data_dir.as_deref()),
            drains: Notify::new(),
            logs: Logs::new(config.connect.log_limits),
            config,
            reloadable: ArcSwap::from_pointee(reloadable),
            registry: Mutex::default(),
            version: watch::channel(1).0,
            exchanges: watch::channel(1).0,
            cluster,
            writer,
            authority,
            presence: OnceLock::new(),
            served: OnceLock::new(),
            leaves: Leaves::default(),
            files,
            locks: PushLocks::default(),
            events: Events::default(),
            reports,
            pushes: watch::channel(BTreeSet::new()).0,
            sync_nudge: Notify::new(),
            full_sync_nudge: Notify::new(),
            retry_nudge: Notify::new(),
            alias_nudge: Notify::new(),
            proxies_nudge: Notify::new(),
            declared: tokio::sync::Mutex::default(),
            troubles: Mutex::default(),
            warned: Mutex::default(),
            blocked: Mutex::default(),
            ping: OnceLock::new(),
            place: Mutex::default(),
            stop: scope.stop_signal(),
        });
        inner.take_tokens(&inner.reloadable.load().tokens);
        if inner.cluster.is_remote() {
            // What the catalog knows of this node's checks is where they go on. Servers that do not answer are not waited
            // for: what runs here goes on without them.
            let seen = inner.cluster.see_node(inner.config.node_name.as_str());
            if let Ok(Err(error)) = tokio::time::timeout(SEEN_WITHIN, seen).await {
                tracing::debug!("agent: cannot see what the catalog has of this node: {}", crate::error::chain(&error));
            }
        } else if inner.cluster.acls_enabled() {
            inner.supply_acl().await?;
        }
        let effects = inner.load()?;
        if !inner.cluster.is_remote() {
            inner.push_node().await;
        }
        scope.spawn("check results", Arc::clone(&inner).take_reports(incoming));
        scope.spawn("check states", Arc::clone(&inner).push_states());
        scope.spawn("alias checks", Arc::clone(&inner).follow_aliases());
        scope.spawn("critical services", Arc::clone(&inner).reap_critical());
        if !inner.cluster.is_remote() {
            scope.spawn("sessions", Arc::clone(&inner).expire_sessions());
        }
        scope.spawn("leaves", Arc::clone(&inner).keep_leaves());
        if inner.cluster.is_remote() {
            inner.measure_distances(scope);
        }
        if let Some(authority) = &inner.authority {
            scope.spawn("roots", authority.clone().keep_roots(inner.stop.clone()));
        }
        if inner.cluster.is_remote() {
            // Who asks this agent does not wait for servers that are away.
            let inner = Arc::clone(&inner);
            scope.spawn("what is registered", async move { inner.carry_out(effects).await });
        } else {
            inner.carry_out(effects).await;
        }
        scope.spawn("catalog", Arc::clone(&inner).keep_synced());
        Ok(Agent { inner })
    }

    /// Starts keeping managed proxies running, or says that nobody does. Faces must listen by now: a proxy asks this
    /// agent for its configuration as soon as it runs. To be called once.
    pub fn supervise(&self, supervisor: Option<Supervisor>, scope: &Scope) {
        let Some(supervisor) = supervisor else {
            let _ = self.inner.supervisor.set(None);
            return;
        };
        scope.spawn("managed proxies", Arc::clone(&self.inner).keep_proxies(supervisor));
        scope.spawn("draining proxies", Arc::clone(&self.inner).keep_drains());
        scope.spawn("logs of proxies", Arc::clone(&self.inner).keep_logs());
    }

    /// From now on the store is shared with others: this agent shows them that it is alive, and takes its part in what
    /// one of them must do.
    pub fn share(&self, presence: Presence, scope: &Scope) {
        let inner = &self.inner;
        if inner.presence.set(presence.clone()).is_err() {
            return;
        }
        inner.measure_distances(scope);
        scope.spawn("presence", presence.clone().keep(inner.member(), inner.stop.clone()));
        scope.spawn("own health", Arc::clone(inner).keep_own_health(presence.clone()));
        scope.spawn("events", Arc::clone(inner).follow_events(inner.stop.clone()));
        scope.spawn("lost nodes", Arc::clone(inner).mark_lost_nodes(presence));
    }

    // --- who asks -------------------------------------------------------------------------------------------------

    /// The caller that a secret stands for at this agent: here its own master token is known as well.
    pub fn local_caller(&self, secret: &str) -> Result<Caller, Error> {
        match self.inner.master_caller(secret) {
            Some(caller) => Ok(caller),
            None => self.caller(secret),
        }
    }

    /// Makes sure that it is known what a secret stands for. To be called before [`Agent::caller`]; where the state is at
    /// hand there is nothing to do.
    pub async fn learn(&self, secret: &str) -> Result<(), Error> {
        let inner = &self.inner;
        if !inner.cluster.is_remote() || inner.master_caller(secret).is_some() {
            return Ok(());
        }
        inner.cluster.learn(&inner.asker_elsewhere(secret).0).await
    }

    /// The secret by which the cluster knows whoever asks here with `secret`, and whether that is a managed proxy: its own
    /// secret is known here alone, and stands for the token of its service. No secret is the agent's default token.
    pub fn asker_elsewhere(&self, secret: &str) -> (String, bool) {
        self.inner.asker_elsewhere(secret)
    }

    /// Has everything compared with the catalog soon.
    pub fn sync_soon(&self) {
        self.inner.full_sync_nudge.notify_one();
    }

    /// Whether the cluster is somewhere else: this is a client agent.
    pub fn is_client(&self) -> bool {
        self.inner.cluster.is_remote()
    }

    /// The caller that a secret stands for; an empty secret is the agent's default token, or nobody in particular.
    pub fn caller(&self, secret: &str) -> Result<Caller, Error> {
        let inner = &self.inner;
        if let Some((parent_token, rights)) = inner.proxy_rights(secret) {
            let parent = inner.cluster.caller(&inner.or_default(&parent_token))?;
            return Ok(Caller::proxy(&parent, rights));
        }
        let start = std::time::Instant::now();
        let caller = inner.cluster.caller(&inner.or_default(secret));
        if inner.cluster.acls_enabled() {
            lictor_meter::process().timer("acl.ResolveToken", &[]).since(start);
        }
        caller
    }

    /// The caller of what is the same for everybody: nobody in particular, without any right. The secret of a managed proxy is
    /// told apart even so, because it opens nothing but what a proxy needs.
    pub fn anybody(&self, secret: &str) -> Caller {
        let nobody = Caller::with_rules("", Rules::default(), Action::Deny);
        if secret.is_empty() || !self.acls_enabled() {
            return nobody;
        }
        match self.inner.proxy_rights(secret) {
            Some((_, rights)) => Caller::proxy(&nobody, rights),
            None => nobody,
        }
    }

    /// Reads the cluster's state on behalf of a caller.
    pub fn reader(&self, caller: &Caller) -> Reader {
        self.inner.cluster.reader(caller)
    }

    /// Whether access control is on.
    pub fn acls_enabled(&self) -> bool {
        self.inner.cluster.acls_enabled()
    }

    /// This node as it is published in the catalog.
    pub fn node(&self) -> Node {
        self.inner.node()
    }

    // --- services and checks of this node -------------------------------------------------------------------------

    /// Services registered here, without those the caller may not see.
    pub fn services(&self, caller: &Caller) -> BTreeMap<ServiceId, Arc<LocalService>> {
        let registry = self.inner.registry.lock();
        registry
            .services
            .iter()
            .filter(|(_, entry)| caller.reads_service(entry.view.service.name.as_str()))
            .map(|(id, entry)| (id.clone(), shown(&entry.view, writes(caller, &entry.view))))
            .collect()
    }

    /// One service registered here. `Ok(None)` when there is none; `Denied` when the caller may not see it.
    /// For the service of a managed proxy faces ask [`Agent::proxy_config`] first.
    pub fn service(&self, caller: &Caller, id: &str) -> Result<Option<Arc<LocalService>>, Error> {
        let view = self.inner.registry.lock().services.get(id).map(|entry| Arc::clone(&entry.view));
        match view {
            Some(view) if !caller.reads_service(view.service.name.as_str()) => Err(Error::Denied),
            view => Ok(view.map(|view| shown(&view, writes(caller, &view)))),
        }
    }

    /// Checks registered here, without those the caller may not see.
    pub fn checks(&self, caller: &Caller) -> BTreeMap<CheckId, Check> {
        let registry = self.inner.registry.lock();
        registry
            .checks
            .iter()
            .filter(|(_, entry)| may_check(caller, Access::Read, &entry.check))
            .map(|(id, entry)| (id.clone(), entry.check.clone()))
            .collect()
    }

    /// How many checks of a kind are registered here.
    pub fn checks_of(&self, kind: CheckKind) -> usize {
        self.inner.registry.lock().checks.values().filter(|entry| entry.spec.kind() == kind).count()
    }

    /// Waits until anything registered here changes after `seen` (see [`Agent::local_version`]). Cancel safe.
    pub async fn local_changed(&self, seen: u64) {
        // The sender lives as long as this handle.
        let _ = self.inner.version.subscribe().wait_for(|version| *version != seen).await;
    }

    /// Counts the changes of what is registered here.
    pub fn local_version(&self) -> u64 {
        *self.inner.version.borrow()
    }

    /// Waits until the service of a managed proxy may have another token than it had at `seen` (see
    /// [`Agent::token_exchanges`]). Cancel safe.
    pub async fn token_exchanged(&self, seen: u64) {
        // As above: an error means that the agent is gone.
        let _ = self.inner.exchanges.subscribe().wait_for(|count| *count != seen).await;
    }

    /// How often services here were given another token. To be asked before the rights of a proxy are.
    pub fn token_exchanges(&self) -> u64 {
        *self.inner.exchanges.borrow()
    }

    /// Registers a service with its checks, managed proxy and sidecar, as the HTTP API does: validation texts are the
    /// original's. `token` is the secret of the request: it is kept for the service's catalog entries.
    pub async fn register_service(
        &self,
        caller: &Caller,
        token: &str,
        mut definition: Definition,
    ) -> Result<(), Error> {
        validate::definition(&definition)?;
        definition.token = String::new();
        let inner = &self.inner;
        let sidecar = match definition.sidecar.as_deref().map(|sidecar| sidecar.token.as_str()) {
            None | Some("") => caller.clone(),
            Some(token) => {
                self.learn(token).await?;
                self.caller(token)?
            }
        };
        let askers = Askers { service: caller, sidecar: &sidecar };
        let effects = {
            let mut registry = inner.registry.lock();
            // Who may not is told nothing else.
            registry.may_put_service(&inner.config, caller, &definition.service)?;
            if let Some(proxy) = &definition.managed_proxy {
                crate::managed::view(&inner.config, proxy).map_err(Error::BadRequest)?;
                if !inner.config.connect.allow_managed_api_registration {
                    return Err(Error::Refused(
                        "Bad request: Managed proxy registration via the API is disallowed.".into(),
                    ));
                }
            }
            inner.may_run_scripts(definition.every_check())?;
            registry.register(&inner.config, definition, Origin::Api, token, askers)?
        };
        inner.carry_out(effects).await;
        Ok(())
    }

    /// Removes a service with its checks, managed proxy and sidecar.
    pub async fn deregister_service(&self, caller: &Caller, id: &str) -> Result<(), Error> {
        let inner = &self.inner;
        if id.is_empty() {
            return Err(Error::Refused("ServiceID missing".into()));
        }
        let id = ServiceId::from(id);
        let effects = {
            let mut registry = inner.registry.lock();
            let name = registry.services.get(&id).map(|entry| entry.view.service.name.clone());
            match name {
                Some(name) if !caller.writes_service(name.as_str()) => return Err(Error::Denied),
                None if !caller.is_unrestricted() => {
                    return Err(Error::Refused(format!("Unknown service {:?}", id.as_str())));
                }
                _ => {}
            }
            if registry.proxies.contains_key(&id) {
                return Err(Error::Refused(
                    "Bad request: Managed proxy service cannot be deregistered directly. Deregister the service \
                     that has a managed proxy to automatically deregister the managed proxy itself."
                        .into(),
                ));
            }
            registry.deregister(&id)
        };
        inner.carry_out(effects).await;
        Ok(())
    }

    /// Takes a service out of use, or puts it back.
    pub async fn service_maintenance(
        &self,
        caller: &Caller,
        id: &str,
        enable: bool,
        reason: &str,
        token: &str,
    ) -> Result<(), Error> {
        let inner = &self.inner;
        let service_id = ServiceId::from(id);
        let check = CheckSpec {
            id: CheckId::service_maintenance(&service_id),
            name: "Service Maintenance Mode".into(),
            notes: reason_or_default(reason, "service"),
            service_id,
            status: Some(Status::Critical),
            ..CheckSpec::default()
        };
        inner.switch_maintenance(caller, check, enable, token).await
    }

    /// Takes all services of this node out of use, or puts them back.
    pub async fn node_maintenance(
        &self,
        caller: &Caller,
        enable: bool,
        reason: &str,
        token: &str,
    ) -> Result<(), Error> {
        let check = CheckSpec {
            id: CheckId::node_maintenance(),
            name: "Node Maintenance Mode".into(),
            notes: reason_or_default(reason, "node"),
            status: Some(Status::Critical),
            ..CheckSpec::default()
        };
        self.inner.switch_maintenance(caller, check, enable, token).await
    }

    /// Adds or replaces a check.
    pub async fn register_check(&self, caller: &Caller, token: &str, mut check: CheckSpec) -> Result<(), Error> {
        let inner = &self.inner;
        if check.name.is_empty() {
            return Err(Error::BadRequest("Missing check name".into()));
        }
        check.validate().map_err(|why| Error::BadRequest(format!("Invalid check: {why}")))?;
        if check.id.is_empty() {
            check.id = CheckId::from(check.name.as_str());
        }
        let effects = {
            let mut registry = inner.registry.lock();
            if registry.checks_with(&check.id).any(|present| !may_check(caller, Access::Write, present)) {
                return Err(Error::Denied);
            }
            // The original asks for the node's right even when the check belongs to a service; scripts rely on it.
            if !caller.writes_node(inner.config.node_name.as_str()) {
                return Err(Error::Denied);
            }
            inner.may_run_scripts([&check])?;
            let service = match check.service_id.as_str() {
                "" => None,
                id => match registry.services.get(&check.service_id) {
                    Some(entry) => Some(entry.view.service.clone()),
                    None => return Err(Error::Refused(format!("ServiceID {id:?} does not exist"))),
                },
            };
            let mut effects = Effects::default();
            registry.put_check(&inner.config, service.as_ref(), check, &Origin::Api, token, &mut effects);
            effects
        };
        inner.carry_out(effects).await;
        Ok(())
    }

    /// Removes a check.
    pub async fn deregister_check(&self, caller: &Caller, id: &str) -> Result<(), Error> {
        if id.is_empty() {
            return Err(Error::Refused("CheckID missing".into()));
        }
        let id = CheckId::from(id);
        let effects = {
            let mut registry = self.inner.registry.lock();
            match registry.checks.get(&id) {
                Some(entry) if !may_check(caller, Access::Write, &entry.check) => return Err(Error::Denied),
                None if !caller.is_unrestricted() => {
                    return Err(Error::Refused(format!("Unknown check {:?}", id.as_str())));
                }
                _ => registry.remove_check(&id),
            }
        };
        self.inner.carry_out(effects).await;
        Ok(())
    }

    /// Reports the state of a TTL check.
    pub async fn update_ttl(&self, caller: &Caller, id: &str, status: Status, output: &str) -> Result<(), Error> {
        let inner = &self.inner;
        let id = CheckId::from(id);
        {
            // To the end under one lock, or another check might have this id by the time the state is set.
            let mut registry = inner.registry.lock();
            let unknown = || Error::Refused(format!("CheckID {:?} does not have associated TTL", id.as_str()));
            let Some(entry) = registry.checks.get_mut(&id) else {
                return Err(if caller.is_unrestricted() {
                    unknown()
                } else {
                    Error::Refused(format!("Unknown check {:?}", id.as_str()))
                });
            };
            if !may_check(caller, Access::Write, &entry.check) {
                return Err(Error::Denied);
            }
            match &entry.running {
                Some(crate::checks::Running::Runner(handle)) if entry.spec.kind() == CheckKind::Ttl => {
                    handle.ttl_update(status, output);
                }
                _ => return Err(unknown()),
            }
            inner.set_state_of(entry, status, output.to_owned());
        }
        inner.keep_report(&id);
        let effects = Effects { push_checks: BTreeSet::from([id]), ..Effects::default() };
        inner.push(&effects).await;
        Ok(())
    }

    /// What this agent thinks of one instance.
    pub fn health_of_id(&self, id: &str) -> Option<ServiceHealth> {
        let registry = self.inner.registry.lock();
        let (id, entry) = registry.services.get_key_value(id)?;
        Some(health(&registry, id, &shown(&entry.view, !self.inner.cluster.acls_enabled())))
    }

    /// What this agent thinks of all its instances of a service.
    pub fn health_of_name(&self, name: &str) -> Vec<ServiceHealth> {
        // Anybody may ask this, so nobody is known who may see more.
        let whole = !self.inner.cluster.acls_enabled();
        let registry = self.inner.registry.lock();
        registry
            .services
            .iter()
            .filter(|(_, entry)| entry.view.service.name.as_str() == name)
            .map(|(id, entry)| health(&registry, id, &shown(&entry.view, whole)))
            .collect()
    }

    // --- the mesh -------------------------------------------------------------------------------------------------

    /// What a managed proxy must know. The proxy itself (recognised by its token) gets telemetry settings as well.
    /// `NotFound` with the original's text when the id is not that of a managed proxy.
    pub fn proxy_config(&self, caller: &Caller, token: &str, id: &str) -> Result<ProxyConfig, Error> {
        let inner = &self.inner;
        let registry = inner.registry.lock();
        let (mut config, _, target) = registry
            .proxy_config(&inner.config, id)
            .ok_or_else(|| Error::NotFound(format!("unknown proxy service ID: {id}")))?;
        match registry.proxy_of_token(token) {
            Some((own, _)) if own.as_str() == id => add_telemetry(&inner.config, &mut config),
            Some(_) if inner.cluster.acls_enabled() => return Err(Error::UnknownToken),
            _ if !caller.writes_service(target.view.service.name.as_str()) => return Err(Error::Denied),
            _ => {}
        }
        Ok(config)
    }

    /// Says in the log what `id` is, when a managed proxy was asked for and there is none: the answer is the same for all
    /// that are none, as clients expect.
    pub fn note_no_proxy(&self, id: &str) {
        let registry = self.inner.registry.lock();
        let kind = registry.services.get_key_value(id).map(|(id, entry)| match entry.view.service.kind {
            Kind::ConnectProxy => "a proxy that somebody else runs".to_owned(),
            _ if registry.proxies.contains_key(&id.managed_proxy()) => {
                format!("an ordinary service, whose managed proxy is {}", id.managed_proxy())
            }
            _ => "an ordinary service without a managed proxy".to_owned(),
        });
        drop(registry);
        match kind {
            // There are only as many of these as services, so each is said once.
            Some(kind) => {
                self.inner.warn_once(format!("agent/proxy: {id:?} was asked for as a managed proxy; it is {kind}"))
            }
            None => tracing::debug!("agent/proxy: {id:?} was asked for as a managed proxy; nothing has that id"),
        }
    }

    /// The leaf certificate of a service, issued now if there is none yet. The second value tells whether it came from
    /// the cache.
    pub async fn leaf(&self, caller: &Caller, token: &str, service: &str) -> Result<(Arc<IssuedLeaf>, bool), Error> {
        self.inner.may_have_leaf(caller, service)?;
        self.inner.leaf(caller, token, service).await
    }

    /// Waits until the leaf of a service is newer than `seen`, and gives it. Cancel safe.
    pub async fn leaf_after(
        &self,
        caller: &Caller,
        token: &str,
        service: &str,
        seen: Revision,
    ) -> Result<Arc<IssuedLeaf>, Error> {
        self.inner.may_have_leaf(caller, service)?;
        self.inner.leaf_after(caller, token, service, seen).await
    }

    /// Whether the holder of a certificate may connect to a service. The second value tells whether the answer came
    /// from the cache: intentions are always at hand here.
    pub async fn authorize(
        &self,
        caller: &Caller,
        token: &str,
        target: &str,
        client_uri: &str,
    ) -> Result<(Decision, bool), Error> {
        let bad = |text: &str| Error::BadRequest(format!("Bad request: {text}"));
        if target.is_empty() {
            return Err(bad("Target service must be specified"));
        }
        let identity = match SpiffeId::parse(client_uri) {
            Ok(SpiffeId::Service(identity)) => identity,
            Ok(SpiffeId::Signing { .. }) => return Err(bad("ClientCertURI not a valid Service identifier")),
            Err(_) => return Err(bad("ClientCertURI not a valid Connect identifier")),
        };
        let allowed = match caller.as_proxy() {
            Some(proxy) => proxy.service.same(target),
            None => caller.speaks_for(target),
        };
        if !allowed && !caller.is_unrestricted() {
            return Err(Error::Denied);
        }
        let source = (identity.namespace.as_str(), identity.service.as_str());
        let (token, _) = self.inner.asker_elsewhere(token);
        let decision = self.inner.cluster.decide(caller, &token, source, target).await?;
        Ok((decision, self.inner.leaves.asked_before(target)))
    }

    /// The trust domain, once there is a CA.
    pub fn trust_domain(&self) -> Option<TrustDomain> {
        self.reader(&Caller::management("")).roots().value.trust_domain.clone()
    }

    /// The CA's provider and settings, secrets masked, with the revisions it was created and changed at.
    pub fn ca_configuration(&self, caller: &Caller) -> Result<(String, Option<Opaque>, Revision, Revision), Error> {
        let authority = self.inner.authority()?;
        if !caller.may_in(Access::Read, Realm::Operator) {
            return Err(Error::Denied);
        }
        authority.configuration()
    }

    /// Changes the CA's settings; another key or root means a rotation.
    pub async fn set_ca_configuration(
        &self,
        caller: &Caller,
        provider: &str,
        config: Option<Opaque>,
    ) -> Result<(), Error> {
        let authority = self.inner.authority()?;
        if !caller.may_in(Access::Write, Realm::Operator) {
            return Err(Error::Denied);
        }
        authority.configure(provider, config).await
    }

    /// Creates an intention and gives its id. Namespaces and type are filled in when empty.
    pub async fn create_intention(&self, caller: &Caller, mut intention: Intention) -> Result<String, Error> {
        if !intention.id.is_empty() {
            return Err(Error::Refused("ID must be empty when creating a new intention".into()));
        }
        fill_intention(&mut intention);
        let problems = intention.problems();
        if !problems.is_empty() {
            return Err(Error::Refused(validate::several(&problems)));
        }
        may_intend(caller, &intention)?;
        intention.id = uuid::Uuid::new_v4().to_string();
        intention.created_at = lictor_task::clock::unix_nanos();
        intention.updated_at = intention.created_at;
        let id = intention.id.clone();
        self.inner.writer.create_intention(intention).await?;
        Ok(id)
    }

    /// Replaces an intention by its id.
    pub async fn update_intention(&self, caller: &Caller, mut intention: Intention) -> Result<(), Error> {
        let present = self
            .reader(&Caller::management(""))
            .intention(&intention.id)?
            .value
            .ok_or_else(|| Error::Refused(format!("Cannot modify non-existent intention: '{}'", intention.id)))?;
        may_intend(caller, &present)?;
        fill_intention(&mut intention);
        let problems = intention.problems();
        if !problems.is_empty() {
            return Err(Error::Refused(validate::several(&problems)));
        }
        may_intend(caller, &intention)?;
        intention.created_at = present.created_at;
        intention.updated_at = lictor_task::clock::unix_nanos();
        Ok(self.inner.writer.update_intention(caller, intention).await?)
    }

    /// Removes an intention.
    pub async fn delete_intention(&self, caller: &Caller, id: &str) -> Result<(), Error> {
        let present = self
            .reader(&Caller::management(""))
            .intention(id)?
            .value
            .ok_or_else(|| Error::Refused(format!("Cannot modify non-existent intention: '{id}'")))?;
        may_intend(caller, &present)?;
        Ok(self.inner.writer.delete_intention(caller, id).await?)
    }

    // --- the catalog, from outside --------------------------------------------------------------------------------

    /// Writes catalog entries for any node.
    pub async fn catalog_register(&self, caller: &Caller, registration: Registration) -> Result<(), Error> {
        self.inner.cluster.register(&Author::Caller(caller.clone()), registration).await
    }

    /// Removes catalog entries of any node.
    pub async fn catalog_deregister(&self, caller: &Caller, node: &str, removal: Removal) -> Result<(), Error> {
        self.inner.cluster.deregister(&Author::Caller(caller.clone()), node, removal).await
    }

    // --- the agent itself -----------------------------------------------------------------------------------------

    /// Takes in new configuration files. Everything is checked before anything is changed; what the API registered
    /// stays, and so do ports, tokens and processes of what did not change.
    pub async fn reload(&self, reloadable: Reloadable) -> Result<(), Error> {
        self.adopt(reloadable)?.publish().await;
        Ok(())
    }

    /// The part of a reload that can be refused. It holds here at once; the catalog learns of it when what is given back is
    /// published, for which the store may be waited for.
    pub fn adopt(&self, reloadable: Reloadable) -> Result<Adopted, Error> {
        let inner = &self.inner;
        let tokens = reloadable.tokens.clone();
        let effects = inner.replace_files(reloadable)?;
        inner.take_tokens(&tokens);
        inner.note_exchange(&effects);
        inner.config.checks.trust.read_anew();
        // Whoever waits for a change here sees it now, however long the catalog takes.
        inner.bump();
        Ok(Adopted { inner: Arc::clone(inner), effects })
    }

    /// This node's metadata.
    pub fn node_meta(&self) -> lictor_model::meta::Meta {
        self.inner.reloadable.load().node_meta.clone()
    }
}

/// New configuration files that an agent has taken in, and of which the catalog does not know yet.
#[must_use = "the catalog is to learn of it"]
pub struct Adopted {
    inner: Arc<Inner>,
    effects: Effects,
}

impl Adopted {
    /// Tells the catalog, and starts and ends what has come and gone.
    pub async fn publish(self) {
        let Adopted { inner, effects } = self;
        inner.push_node().await;
        inner.carry_out(effects).await;
    }
}

impl Inner {
    pub(crate) fn node(&self) -> Node {
        let config = &self.config;
        let mut tagged = config.tagged_addresses.clone();
        tagged.insert("lan".into(), config.advertise_addr.to_string());
        tagged.insert("wan".into(), config.advertise_addr_wan.to_string());
        let mut meta = self.reloadable.load().node_meta.clone();
        meta.insert("consul-network-segment".into(), String::new());
        Node {
            id: config.node_id.clone(),
            name: config.node_name.clone(),
            address: config.advertise_addr.to_string(),
            tagged_addresses: Some(tagged),
            meta: Some(meta),
        }
    }

    pub(crate) fn authority(&self) -> Result<&Authority, Error> {
        self.authority
            .as_ref()
            .ok_or_else(|| Error::Refused("Connect must be enabled in order to use this endpoint".into()))
    }

    /// Tells everyone who waits that something registered here has changed.
    pub(crate) fn bump(&self) {
        self.version.send_modify(|version| *version += 1);
    }

    /// Has the rights of managed proxies looked at anew if a service has another token.
    fn note_exchange(&self, effects: &Effects) {
        if effects.tokens {
            self.exchanges.send_modify(|count| *count += 1);
        }
    }

    pub(crate) fn or_default(&self, token: &str) -> String {
        if token.is_empty() { self.tokens.load().default.clone() } else { token.to_owned() }
    }

    /// See [`Agent::asker_elsewhere`]. Where the state is at hand nobody needs it, and nothing is looked for.
    pub(crate) fn asker_elsewhere(&self, secret: &str) -> (String, bool) {
        if !self.cluster.is_remote() {
            return (String::new(), false);
        }
        match self.proxy_rights(secret) {
            Some((parent, _)) => (self.or_default(&parent), true),
            None => (self.or_default(secret), false),
        }
    }

    /// Whether there is a mesh.
    pub(crate) fn has_mesh(&self) -> bool {
        self.authority.is_some() || self.cluster.is_remote() && self.config.connect.enabled
    }

    pub(crate) fn warn_once(&self, text: String) {
        if self.warned.lock().insert(text.clone()) {
            tracing::warn!("{text}");
        }
    }

    /// If a secret is that of a managed proxy: the token its parent was registered with, and what the proxy may do.
    pub(crate) fn proxy_rights(&self, secret: &str) -> Option<(String, ProxyRights)> {
        let registry = self.registry.lock();
        let (id, entry) = registry.proxy_of_token(secret)?;
        let target = registry.services.get(&entry.target)?;
        let view = crate::managed::view(&self.config, &entry.definition).ok()?;
        let name = target.view.service.name.clone();
        let (queries, services): (Vec<_>, Vec<_>) =
            view.upstreams.iter().partition(|upstream| upstream.destination_type == "prepared_query");
        let mut upstreams: BTreeSet<String> =
            services.iter().map(|upstream| upstream.destination_name.to_ascii_lowercase()).collect();
        upstreams.insert(name.folded().as_str().to_owned());
        let rights = ProxyRights {
            proxy_id: id.clone(),
            service: name,
            upstreams,
            queries: queries.iter().map(|upstream| upstream.destination_name.clone()).collect(),
        };
        Some((target.token.clone(), rights))
    }

    fn may_have_leaf(&self, caller: &Caller, service: &str) -> Result<(), Error> {
        let allowed = match caller.as_proxy() {
            Some(proxy) => proxy.service.as_str() == service,
            None => caller.speaks_for(service),
        };
        if allowed || caller.is_unrestricted() { Ok(()) } else { Err(Error::Denied) }
    }

    fn may_run_scripts<'a>(&self, checks: impl IntoIterator<Item = &'a CheckSpec>) -> Result<(), Error> {
        let scripts = checks.into_iter().any(|check| !check.args.is_empty());
        if scripts && !self.reloadable.load().remote_scripts {
            return Err(Error::Refused(
                "Scripts are disabled on this agent from remote calls; to enable, configure 'enable_script_checks' \
                 to true"
                    .into(),
            ));
        }
        Ok(())
    }

    /// Puts the check in place that takes a service or this node out of use, or takes it away.
    pub(crate) async fn switch_maintenance(
        self: &Arc<Self>,
        caller: &Caller,
        check: CheckSpec,
        enable: bool,
        token: &str,
    ) -> Result<(), Error> {
        let effects = {
            let mut registry = self.registry.lock();
            let service = match (check.service_id.as_str(), registry.services.get(&check.service_id)) {
                ("", _) if !caller.writes_node(self.config.node_name.as_str()) => return Err(Error::Denied),
                ("", _) => None,
                (_, Some(entry)) if !caller.writes_service(entry.view.service.name.as_str()) => {
                    return Err(Error::Denied);
                }
                (_, Some(entry)) => Some(entry.view.service.clone()),
                (id, None) if caller.is_unrestricted() => {
                    return Err(Error::NotFound(format!("No service registered with ID {id:?}")));
                }
                (id, None) => return Err(Error::Refused(format!("Unknown service {id:?}"))),
            };
            let present = registry.checks.contains_key(&check.id);
            if enable && !present {
                let mut effects = Effects::default();
                registry.put_check(&self.config, service.as_ref(), check, &Origin::Api, token, &mut effects);
                effects
            } else if !enable && present {
                registry.remove_check(&check.id)
            } else {
                return Ok(());
            }
        };
        self.carry_out(effects).await;
        Ok(())
    }

    /// Does what must follow a change of the registry: processes, checks, files, catalog. All of it, also when the client
    /// that asked for the change leaves in between: the change stands.
    pub(crate) async fn carry_out(self: &Arc<Self>, effects: Effects) {
        let inner = Arc::clone(self);
        to_the_end(async move { inner.carry_out_all(effects).await }).await;
    }

    async fn carry_out_all(&self, effects: Effects) {
        for warning in &effects.warnings {
            tracing::warn!("agent: {warning}");
        }
        self.start_checks(&effects);
        self.bump();
        self.note_exchange(&effects);
        self.alias_nudge.notify_one();
        if effects.proxies {
            self.proxies_nudge.notify_one();
        }
        self.write_files(&effects);
        self.push(&effects).await;
        // Last: of a check that looks at something new nothing is kept before the catalog has it as it begins.
        self.keep_known(&effects);
    }

    /// Brings the files up to date. Without a data directory this does nothing; with one it is a few short writes,
    /// each waited for, because the client's registration must not be lost after its answer.
    fn write_files(&self, effects: &Effects) {
        if self.config.data_dir.is_none() {
            return;
        }
        tokio::task::block_in_place(|| {
            let problem = |what: &str, id: &str, outcome: std::io::Result<()>| {
                if let Err(error) = outcome {
                    tracing::error!("agent: cannot keep {what} {id:?} on disk, it will be lost at a restart: {error}");
                }
            };
            for id in &effects.proxy_files {
                problem("proxy", id.as_str(), self.files.keep_proxy(id, || self.proxy_record(id)));
            }
            for id in &effects.service_files {
                problem("service", id.as_str(), self.files.keep_service(id, || self.service_record(id)));
            }
            for id in &effects.check_files {
                problem("check", id.as_str(), self.files.keep_check(id, || self.whence(id)));
            }
        });
    }

    /// What is kept of a service: the API's, and generated ones (their port must survive).
    fn service_record(&self, id: &ServiceId) -> Option<ServiceRecord> {
        let registry = self.registry.lock();
        let entry = registry.services.get(id)?;
        let of_proxy = registry.proxies.contains_key(id);
        if entry.origin != Origin::Api && !of_proxy {
            return None;
        }
        Some(ServiceRecord {
            token: entry.token.clone(),
            service: (&entry.view.service).into(),
            lictor: entry.owner.as_ref().map(|owner| Ownership { owner: owner.to_string() }),
        })
    }

    fn whence(&self, id: &CheckId) -> Whence {
        let registry = self.registry.lock();
        match registry.checks.get(id) {
            None => Whence::Gone,
            Some(entry) => match entry.origin {
                Origin::Api => Whence::Api(Box::new(CheckRecord::new(&entry.check, &entry.spec, &entry.token))),
                Origin::File => Whence::File,
            },
        }
    }

    pub(crate) fn proxy_record(&self, id: &ServiceId) -> Option<ProxyRecord> {
        let registry = self.registry.lock();
        let entry = registry.proxies.get(id)?;
        let generated = registry.services.get(id)?;
        Some(ProxyRecord::new(
            &entry.proof,
            &entry.definition,
            entry.target.as_str(),
            &generated.view.service,
            entry.from_file,
        ))
    }
}

fn may_intend(caller: &Caller, intention: &Intention) -> Result<(), Error> {
    if intention.is_written_by(caller) { Ok(()) } else { Err(Error::Denied) }
}

fn fill_intention(intention: &mut Intention) {
    for namespace in [&mut intention.source.namespace, &mut intention.destination.namespace] {
        if namespace.is_empty() {
            *namespace = lictor_model::identity::DEFAULT_NAMESPACE.to_owned();
        }
    }
    if intention.source_type.is_empty() {
        intention.source_type = "consul".to_owned();
    }
}

fn writes(caller: &Caller, view: &LocalService) -> bool {
    caller.writes_service(view.service.name.as_str())
}

/// A service as it is shown: how its proxy is started and set up is for those who may change it.
fn shown(view: &Arc<LocalService>, whole: bool) -> Arc<LocalService> {
    let Some(proxy) = view.proxy.as_ref().filter(|_| !whole) else { return Arc::clone(view) };
    let proxy = ManagedProxyView { command: Vec::new(), config: None, ..proxy.clone() };
    Arc::new(LocalService { service: view.service.clone(), proxy: Some(proxy) })
}

fn health(registry: &Registry, id: &ServiceId, view: &Arc<LocalService>) -> ServiceHealth {
    let entries: Vec<&CheckEntry> = registry.checks_of(id).collect();
    let maintenance = entries.iter().any(|entry| entry.check.id.is_maintenance());
    let status = if maintenance {
        AggregatedStatus::Maintenance
    } else {
        AggregatedStatus::Checked(Status::worst(entries.iter().map(|entry| entry.check.status)))
    };
    ServiceHealth {
        status,
        service: view.as_ref().clone(),
        checks: entries.iter().map(|entry| entry.check.clone()).collect(),
    }
}

fn reason_or_default(reason: &str, of: &str) -> String {
    if reason.is_empty() {
        format!("Maintenance mode is enabled for this {of}, but no reason was provided. This is a default message.")
    } else {
        reason.to_owned()
    }
}

/// Telemetry settings of the agent for one of its proxies, below what the user set.
fn add_telemetry(config: &Config, proxy: &mut ProxyConfig) {
    let mut telemetry = config.proxy_telemetry.clone();
    let prefix = telemetry.get("metrics_prefix").and_then(|prefix| prefix.as_str()).unwrap_or("consul").to_owned();
    telemetry.insert("metrics_prefix".into(), format!("{prefix}.proxy.{}", proxy.target_service_id).into());
    match proxy.config.get("telemetry") {
        None => {}
        Some(serde_json::Value::Object(given)) if given.keys().all(|key| is_telemetry_key(key)) => {
            for (key, value) in given {
                let is_unset = matches!(value, serde_json::Value::Null | serde_json::Value::Bool(false))
                    || value.as_str() == Some("")
                    || value.as_i64() == Some(0);
                if !is_unset {
                    telemetry.insert(key.clone(), value.clone());
                }
            }
        }
        // Not our kind of settings: the user's, untouched.
        Some(_) => return,
    }
    proxy.config.insert("telemetry".into(), telemetry.into());
}

fn is_telemetry_key(key: &str) -> bool {
    const KEYS: [&str; 10] = [
        "disable_hostname",
        "dogstatsd_addr",
        "dogstatsd_tags",
        "prometheus_retention_time",
        "filter_default",
        "allowed_prefixes",
        "blocked_prefixes",
        "metrics_prefix",
        "statsd_address",
        "statsite_address",
    ];
    KEYS.contains(&key) || key.starts_with("circonus_")
}

/// How long a start waits for servers to say what they know of this node.
const SEEN_WITHIN: Duration = Duration::from_secs(2);

/// How long reconcilers get to finish when the agent ends.
pub const STOP_LIMIT: Duration = Duration::from_secs(5);
