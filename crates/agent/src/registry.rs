//! The table of what is registered here, and every change to it as one step under one lock.
//!
//! A change is worked out completely before anything is touched, so a refused registration leaves no trace. What must
//! follow a change outside this table (files, catalog, checks, processes) is returned as [`Effects`] and done by
//! [`crate::agent`] without the lock.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, TcpListener};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use lictor_model::acl::Caller;
use lictor_model::health::{Check, CheckDefinition, CheckSpec};
use lictor_model::name::{CheckId, ServiceId};
use lictor_model::service::{Definition, Kind, ManagedProxy, ProxySpec, Service, Upstream};
use tokio::time::Instant;

use crate::checks::{Running, note_critical};
use crate::local::{LocalService, ProxyConfig};
use crate::managed::{self, OwnSettings};
use crate::proof::{Proof, Shown};
use crate::rights::Askers;
use crate::{Config, Error, doubts, validate};

const SIDECAR_CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// Where a registration came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A configuration file; not persisted.
    File,
    /// The HTTP API; persisted.
    Api,
}

/// A service here.
#[derive(Clone)]
pub struct ServiceEntry {
    /// What clients see.
    pub view: Arc<LocalService>,
    /// Its ACL token.
    pub token: String,
    /// Where it came from.
    pub origin: Origin,
    /// The service it was generated for, if it was.
    pub owner: Option<ServiceId>,
    /// Whether the catalog has it as it is.
    pub synced: bool,
}

/// A check here.
pub struct CheckEntry {
    /// What clients see.
    pub check: Check,
    /// How it is run.
    pub spec: CheckSpec,
    /// Its ACL token.
    pub token: String,
    /// Where it came from.
    pub origin: Origin,
    /// Whether the catalog has it as it is.
    pub synced: bool,
    /// When output that differs from the catalog's shall be pushed; absent when there is none.
    pub output_due: Option<Instant>,
    /// Since when it has been critical without a break.
    pub critical_since: Option<Instant>,
    /// Whether it has not run since the agent started and was there before: what it says is to be looked at soon.
    pub soon: bool,
    /// What runs it.
    pub running: Option<Running>,
}

/// A managed proxy here.
#[derive(Clone)]
pub struct ProxyEntry {
    /// The service it stands beside.
    pub target: ServiceId,
    /// As it was defined.
    pub definition: ManagedProxy,
    /// The keys of its settings that the agent reads.
    pub own: OwnSettings,
    /// How it proves itself to this agent, where it needs a token for that.
    pub proof: Proof,
    /// Whether a file defined it.
    pub from_file: bool,
    /// What of the definition is accepted and will not work.
    pub doubts: Vec<String>,
}

/// Something the catalog has that is no longer here.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gone {
    /// A service.
    Service(ServiceId),
    /// A check.
    Check(CheckId),
}

/// That something has to be removed from the catalog. Each removal has its own: it may be registered and removed once more
/// while the first removal is on its way, which then is not the last word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// With whose rights.
    pub token: String,
    number: u64,
}

/// What must be done outside the table after a change.
#[derive(Debug, Default)]
pub struct Effects {
    /// Services whose catalog entry must follow, with their checks.
    pub push_services: BTreeSet<ServiceId>,
    /// Checks whose catalog entry must follow.
    pub push_checks: BTreeSet<CheckId>,
    /// Catalog entries to remove.
    pub gone: BTreeSet<Gone>,
    /// Files of services to write or remove.
    pub service_files: BTreeSet<ServiceId>,
    /// Files of checks to write or remove.
    pub check_files: BTreeSet<CheckId>,
    /// Files of managed proxies to write or remove.
    pub proxy_files: BTreeSet<ServiceId>,
    /// Checks to start.
    pub start_checks: BTreeSet<CheckId>,
    /// Whether the set or the definition of a managed proxy changed.
    pub proxies: bool,
    /// Whether a service has another token than before.
    pub tokens: bool,
    /// Things to warn about.
    pub warnings: Vec<String>,
}

impl Effects {
    /// Adds what another change asks for.
    pub fn absorb(&mut self, other: Effects) {
        let Effects {
            push_services,
            push_checks,
            gone,
            service_files,
            check_files,
            proxy_files,
            start_checks,
            proxies,
            tokens,
            warnings,
        } = other;
        self.push_services.extend(push_services);
        self.push_checks.extend(push_checks);
        self.gone.extend(gone);
        self.service_files.extend(service_files);
        self.check_files.extend(check_files);
        self.proxy_files.extend(proxy_files);
        self.start_checks.extend(start_checks);
        self.proxies |= proxies;
        self.tokens |= tokens;
        self.warnings.extend(warnings);
    }
}

/// The table.
#[derive(Default)]
pub struct Registry {
    /// Services by id.
    pub services: BTreeMap<ServiceId, ServiceEntry>,
    /// Checks by id.
    pub checks: BTreeMap<CheckId, CheckEntry>,
    /// Managed proxies by the id of their generated service.
    pub proxies: BTreeMap<ServiceId, ProxyEntry>,
    /// What still has to be removed from the catalog.
    pub gone: BTreeMap<Gone, Mark>,
    /// Marks that were made.
    marks: u64,
    /// Ports of managed proxies known from before, by id of the generated service.
    pub known_ports: BTreeMap<ServiceId, i64>,
    /// What is known from before of the tokens of managed proxies, by id of the generated service.
    pub known_proofs: BTreeMap<ServiceId, Proof>,
}

/// What a registration adds beside the service itself.
struct Planned {
    service: Service,
    checks: Vec<CheckSpec>,
    token: String,
    owner: Option<ServiceId>,
}

impl Registry {
    /// Adds or replaces a service with everything its definition asks for. A definition is complete: a proxy or
    /// sidecar that an earlier one had and this one has not is removed. Nothing is done unless whoever asks may replace all
    /// that it replaces.
    pub fn register(
        &mut self,
        config: &Config,
        mut definition: Definition,
        origin: Origin,
        token: &str,
        askers: Askers<'_>,
    ) -> Result<Effects, Error> {
        settle(&mut definition.service);
        let parent = definition.service.clone();
        self.may_put_service(config, askers.service, &parent)?;
        let token = if definition.token.is_empty() { token } else { &definition.token }.to_owned();
        let mut planned = vec![Planned {
            checks: numbered_checks(&parent, definition.all_checks()),
            service: parent.clone(),
            token: token.clone(),
            owner: None,
        }];
        if let Some(sidecar) = &definition.sidecar {
            planned.push(self.plan_sidecar(config, &parent, sidecar, &token, askers.sidecar)?);
        }
        let proxy = match &definition.managed_proxy {
            Some(proxy) => Some(self.plan_proxy(config, &planned, proxy, &origin)?),
            None => None,
        };
        for (position, Planned { service, checks, .. }) in planned.iter().enumerate() {
            // The sidecar is the second.
            let asker = if position == 0 { askers.service } else { askers.sidecar };
            self.may_put_checks(config, asker, &service.id, checks)?;
        }
        if let Some((proxy_id, _, _, Some(check))) = &proxy {
            self.may_put_checks(config, askers.service, proxy_id, std::slice::from_ref(check))?;
        }
        let mut effects = Effects::default();
        if let Some((proxy_id, mut entry, generated, check)) = proxy {
            planned.push(Planned {
                service: generated,
                checks: check.into_iter().collect(),
                token,
                owner: Some(parent.id.clone()),
            });
            let named = |doubt: String| format!("service {:?}: {doubt}", parent.id.as_str());
            entry.doubts = doubts::of(config, &parent, &entry.definition).into_iter().map(named).collect();
            effects.warnings.extend(entry.doubts.iter().cloned());
            // Why a process is not there is told by who keeps it, and only as long as it holds.
            effects.warnings.extend(doubts::of_program(config, &entry.definition).map(named));
            self.known_ports.remove(&proxy_id);
            self.known_proofs.remove(&proxy_id);
            effects.proxy_files.insert(proxy_id.clone());
            effects.proxies = true;
            self.proxies.insert(proxy_id, entry);
        }
        let kept: BTreeSet<ServiceId> = planned.iter().map(|planned| planned.service.id.clone()).collect();
        for owned in self.owned_by(&parent.id) {
            if !kept.contains(&owned) {
                self.remove_one(&owned, &mut effects);
            }
        }
        for planned in planned {
            self.put(config, planned, &origin, &mut effects);
        }
        // The entry of the parent shows its proxy, so it is rebuilt after the proxy is known.
        self.refresh_view(config, &parent.id);
        Ok(effects)
    }

    /// A copy to try changes on; nothing runs in it.
    pub fn shadow(&self) -> Registry {
        Registry {
            services: self.services.clone(),
            checks:
                self.checks
                    .iter()
                    .map(|(id, entry)| {
                        let CheckEntry {
                            check,
                            spec,
                            token,
                            origin,
                            synced,
                            output_due,
                            critical_since,
                            soon,
                            running: _,
                        } = entry;
                        let copy = CheckEntry {
                            check: check.clone(),
                            spec: spec.clone(),
                            token: token.clone(),
                            origin: origin.clone(),
                            synced: *synced,
                            output_due: *output_due,
                            critical_since: *critical_since,
                            soon: *soon,
                            running: None,
                        };
                        (id.clone(), copy)
                    })
                    .collect(),
            proxies: self.proxies.clone(),
            gone: self.gone.clone(),
            marks: self.marks,
            known_ports: self.known_ports.clone(),
            known_proofs: self.known_proofs.clone(),
        }
    }

    /// Puts a kept sidecar back beside its parent; its checks are restored like all others.
    pub fn restore_owned(
        &mut self,
        config: &Config,
        service: Service,
        owner: ServiceId,
        token: String,
        effects: &mut Effects,
    ) {
        let planned = Planned { service, checks: Vec::new(), token, owner: Some(owner) };
        self.put(config, planned, &Origin::Api, effects);
    }

    /// Removes a service with its checks, and with what was generated for it.
    pub fn deregister(&mut self, id: &ServiceId) -> Effects {
        let mut effects = Effects::default();
        for owned in self.owned_by(id) {
            self.remove_one(&owned, &mut effects);
        }
        self.remove_one(id, &mut effects);
        effects
    }

    fn owned_by(&self, id: &ServiceId) -> Vec<ServiceId> {
        self.services
            .iter()
            .filter(|(_, entry)| entry.owner.as_ref() == Some(id))
            .map(|(owned, _)| owned.clone())
            .collect()
    }

    fn remove_one(&mut self, id: &ServiceId, effects: &mut Effects) {
        if self.proxies.remove(id).is_some() {
            effects.proxies = true;
            effects.proxy_files.insert(id.clone());
        }
        let Some(entry) = self.services.remove(id) else { return };
        effects.service_files.insert(id.clone());
        effects.push_services.remove(id);
        effects.gone.insert(Gone::Service(id.clone()));
        self.mark_gone(Gone::Service(id.clone()), entry.token);
        let checks: Vec<CheckId> =
            self.checks.iter().filter(|(_, check)| check.check.service_id == *id).map(|(id, _)| id.clone()).collect();
        for check in checks {
            self.checks.remove(&check);
            effects.check_files.insert(check.clone());
            effects.push_checks.remove(&check);
            effects.start_checks.remove(&check);
        }
    }

    fn put(&mut self, config: &Config, planned: Planned, origin: &Origin, effects: &mut Effects) {
        let Planned { service, checks, token, owner } = planned;
        let id = service.id.clone();
        self.gone.remove(&Gone::Service(id.clone()));
        effects.gone.remove(&Gone::Service(id.clone()));
        let unchanged = self.services.get(&id).is_some_and(|entry| {
            entry.view.service == service && entry.token == token && entry.origin == *origin && entry.owner == owner
        });
        effects.tokens |= self.services.get(&id).is_some_and(|entry| entry.token != token);
        if !unchanged {
            let view = Arc::new(LocalService { service: service.clone(), proxy: None });
            self.services.insert(
                id.clone(),
                ServiceEntry { view, token: token.clone(), origin: origin.clone(), owner, synced: false },
            );
            effects.push_services.insert(id.clone());
        }
        effects.service_files.insert(id.clone());
        for spec in checks {
            let check_token = if spec.token.is_empty() { token.clone() } else { spec.token.clone() };
            self.put_check(config, Some(&service), spec, origin, &check_token, effects);
        }
        // Tags and name of the service stand in its checks too.
        for (check_id, entry) in &mut self.checks {
            if entry.check.service_id == id
                && (entry.check.service_name != service.name || entry.check.service_tags != service.tags)
            {
                entry.check.service_name = service.name.clone();
                entry.check.service_tags = service.tags.clone();
                entry.synced = false;
                effects.push_checks.insert(check_id.clone());
            }
        }
    }

    /// Adds or replaces a check. One that exists keeps its state; a definition that did not change keeps running.
    pub fn put_check(
        &mut self,
        config: &Config,
        service: Option<&Service>,
        spec: CheckSpec,
        origin: &Origin,
        token: &str,
        effects: &mut Effects,
    ) {
        let id = spec.id.clone();
        self.gone.remove(&Gone::Check(id.clone()));
        effects.gone.remove(&Gone::Check(id.clone()));
        effects.check_files.insert(id.clone());
        let before = self.checks.remove(&id);
        let (status, output) = match &before {
            Some(entry) => (entry.check.status, entry.check.output.clone()),
            None => (spec.status.unwrap_or_default(), String::new()),
        };
        let check = Check {
            node: config.node_name.clone(),
            id: id.clone(),
            name: spec.name.clone(),
            status,
            notes: spec.notes.clone(),
            output,
            service_id: spec.service_id.clone(),
            service_name: service.map(|service| service.name.clone()).unwrap_or_default(),
            service_tags: service.and_then(|service| service.tags.clone()),
            definition: CheckDefinition::default(),
        };
        let mut entry = match before {
            Some(mut entry) if entry.spec == spec => {
                if entry.check != check || entry.token != token || entry.origin != *origin {
                    entry.synced = entry.synced && entry.check == check;
                    effects.push_checks.insert(id.clone());
                }
                CheckEntry { check, token: token.to_owned(), origin: origin.clone(), ..entry }
            }
            before => {
                effects.start_checks.insert(id.clone());
                effects.push_checks.insert(id.clone());
                CheckEntry {
                    soon: before.as_ref().is_some_and(|entry| entry.soon),
                    critical_since: before.and_then(|entry| entry.critical_since),
                    check,
                    spec,
                    token: token.to_owned(),
                    origin: origin.clone(),
                    synced: false,
                    output_due: None,
                    running: None,
                }
            }
        };
        // A check that never reports counts as well: its time runs from here.
        note_critical(&mut entry, status);
        self.checks.insert(id, entry);
    }

    /// Removes a check.
    pub fn remove_check(&mut self, id: &CheckId) -> Effects {
        let mut effects = Effects::default();
        if let Some(entry) = self.checks.remove(id) {
            effects.check_files.insert(id.clone());
            effects.gone.insert(Gone::Check(id.clone()));
            self.mark_gone(Gone::Check(id.clone()), entry.token);
        }
        effects
    }

    /// Marks something as to be removed from the catalog, with the rights of a token.
    pub fn mark_gone(&mut self, gone: Gone, token: String) {
        self.marks += 1;
        self.gone.insert(gone, Mark { token, number: self.marks });
    }

    /// The same for something in the catalog that was never here, or whose mark was lost: the agent removes it.
    pub fn mark_stranger(&mut self, gone: Gone) {
        if !self.gone.contains_key(&gone) {
            self.mark_gone(gone, String::new());
        }
    }

    /// Brings what clients see of a service up to date with its proxy.
    fn refresh_view(&mut self, config: &Config, id: &ServiceId) {
        let proxy = self
            .proxies
            .get(&id.managed_proxy())
            .filter(|proxy| proxy.target == *id)
            .and_then(|proxy| managed::view(config, &proxy.definition).ok())
            .map(managed::without_secrets);
        if let Some(entry) = self.services.get_mut(id)
            && entry.view.proxy != proxy
        {
            entry.view = Arc::new(LocalService { service: entry.view.service.clone(), proxy });
        }
    }

    /// Plans the proxy of the first of what is planned, beside all of it.
    fn plan_proxy(
        &self,
        config: &Config,
        planned: &[Planned],
        definition: &ManagedProxy,
        origin: &Origin,
    ) -> Result<(ServiceId, ProxyEntry, Service, Option<CheckSpec>), Error> {
        let parent = &planned[0].service;
        let id = parent.id.managed_proxy();
        if let Some(other) = self.services.get(&id)
            && other.owner.as_ref() != Some(&parent.id)
        {
            return Err(taken("managed proxy", &id, parent));
        }
        let user = definition.run_as.as_str();
        if !user.is_empty() && !config.connect.users.contains_key(user) {
            return Err(Error::Refused(format!(
                "service {:?}: connect.proxy.run_as: this agent was not started with {user:?} in \
                 connect.proxy.allowed_users",
                parent.id.as_str()
            )));
        }
        let mut definition = definition.clone();
        settle_upstreams(&mut definition.upstreams);
        managed::view(config, &definition).map_err(Error::BadRequest)?;
        let own = OwnSettings::read(definition.config.as_ref()).map_err(Error::Refused)?;
        let port = match own.bind_port {
            Some(port) => port,
            None => self.allocate_proxy_port(config, &id, planned, &definition)?,
        };
        let generated = managed::generated_service(parent, &own, port);
        let effective = managed::effective_config(
            &config.connect.default_config,
            definition.config.as_ref(),
            &generated,
            parent,
            config.bind_addr,
        );
        let check = managed::generated_check(&own, &effective, &generated);
        let known = self.proxies.get(&id).map(|present| &present.proof).or_else(|| self.known_proofs.get(&id));
        let proof = known.cloned().unwrap_or_else(Proof::unproven);
        let entry = ProxyEntry {
            target: parent.id.clone(),
            definition,
            own,
            proof,
            from_file: *origin == Origin::File,
            doubts: Vec::new(),
        };
        Ok((id, entry, generated, check))
    }

    /// The lowest port of the range that no service here has and nobody listens on; a proxy that has one keeps it.
    fn allocate_proxy_port(
        &self,
        config: &Config,
        id: &ServiceId,
        planned: &[Planned],
        definition: &ManagedProxy,
    ) -> Result<i64, Error> {
        if let Some(entry) = self.services.get(id) {
            return Ok(entry.view.service.port);
        }
        if let Some(port) = self.known_ports.get(id) {
            return Ok(*port);
        }
        let beside = planned.iter().map(|planned| planned.service.port);
        self.free_proxy_port(config, beside.chain(local_ports(definition)))
    }

    /// A port that nobody here has, nor those that come with the proxy: they may listen later than it does.
    fn free_proxy_port(&self, config: &Config, beside: impl Iterator<Item = i64>) -> Result<i64, Error> {
        let taken: BTreeSet<i64> = self
            .services
            .values()
            .map(|entry| entry.view.service.port)
            .chain(self.known_ports.values().copied())
            .chain(self.proxies.values().flat_map(|proxy| local_ports(&proxy.definition)))
            .chain(beside)
            .collect();
        config
            .proxy_ports
            .clone()
            .and_then(|range| {
                range.map(i64::from).find(|port| !taken.contains(port) && is_free(config.bind_addr, *port))
            })
            .ok_or_else(|| {
                let (low, high) = bounds(&config.proxy_ports);
                // Two blanks: clients and scripts know this text from the original.
                Error::Refused(format!(
                    "no port provided for proxy bind_port and none  left in the allocated range [{low}, {high}]"
                ))
            })
    }

    /// Gives a proxy another port when `taken` is the one that was allocated to it. A port that was configured is left
    /// alone: whoever wrote it relies on it.
    pub fn move_proxy(&mut self, config: &Config, id: &ServiceId, taken: i64) -> Result<Option<Effects>, Error> {
        let Some(entry) = self.proxies.get(id) else { return Ok(None) };
        let is_configured = entry.own.bind_port.is_some() || config.connect.default_config.contains_key("bind_port");
        let (Some(generated), Some(target)) = (self.services.get(id), self.services.get(&entry.target)) else {
            return Ok(None);
        };
        if is_configured || generated.view.service.port != taken {
            return Ok(None);
        }
        let parent = target.view.service.clone();
        let service =
            managed::generated_service(&parent, &entry.own, self.free_proxy_port(config, std::iter::empty())?);
        let effective = managed::effective_config(
            &config.connect.default_config,
            entry.definition.config.as_ref(),
            &service,
            &parent,
            config.bind_addr,
        );
        let checks = managed::generated_check(&entry.own, &effective, &service).into_iter().collect();
        let (token, origin) = (generated.token.clone(), generated.origin.clone());
        let mut effects = Effects::default();
        effects.proxy_files.insert(id.clone());
        self.put(config, Planned { service, checks, token, owner: Some(parent.id) }, &origin, &mut effects);
        Ok(Some(effects))
    }

    fn plan_sidecar(
        &self,
        config: &Config,
        parent: &Service,
        given: &Definition,
        token: &str,
        asker: &Caller,
    ) -> Result<Planned, Error> {
        let refused = |why: String| Error::Refused(format!("Bad request: Invalid SidecarService: {why}"));
        let id = parent.id.sidecar();
        let mut service = given.service.clone();
        service.id = id.clone();
        if service.kind == Kind::Typical {
            service.kind = Kind::ConnectProxy;
        }
        if service.name.is_empty() {
            service.name = format!("{}-sidecar-proxy", parent.name).into();
        }
        if service.tags.as_ref().is_none_or(Vec::is_empty) {
            service.tags = parent.tags.clone();
        }
        if service.meta.as_ref().is_none_or(|meta| meta.is_empty()) {
            service.meta = parent.meta.clone();
        }
        if service.address.is_empty() {
            service.address = parent.address.clone();
        }
        if service.kind == Kind::ConnectProxy {
            let mut proxy = service.proxy.take().unwrap_or_default();
            if proxy.destination_name.is_empty() {
                proxy.destination_name = parent.name.clone();
            }
            if proxy.destination_id.is_empty() {
                proxy.destination_id = parent.id.clone();
            }
            if proxy.local_service_address.is_empty() {
                proxy.local_service_address = "127.0.0.1".into();
            }
            if proxy.local_service_port < 1 {
                proxy.local_service_port = parent.port;
            }
            service.proxy = Some(proxy);
        }
        self.may_put_service(config, asker, &service)?;
        // One of that name is taken over: the original kept sidecars without saying whose they are.
        if let Some(other) = self.services.get(&id)
            && other.owner.as_ref() != Some(&parent.id)
            && (other.owner.is_some() || !other.view.service.name.same(service.name.as_str()))
        {
            return Err(taken("sidecar", &id, parent));
        }
        if service.port < 1 {
            service.port = self.allocate_sidecar_port(config, &id, parent.port).map_err(refused)?;
        }
        settle(&mut service);
        let problems = validate::structure(&service);
        if !problems.is_empty() {
            return Err(refused(validate::several(&problems)));
        }
        if let Some(meta) = &service.meta {
            lictor_model::meta::validate(meta).map_err(refused)?;
        }
        let given_checks: Vec<&CheckSpec> = given.all_checks().filter(|check| !check.is_empty()).collect();
        let checks = if given_checks.is_empty() {
            numbered_checks(&service, sidecar_checks(parent, &service).iter())
        } else {
            numbered_checks(&service, given_checks.into_iter())
        };
        let token = if given.token.is_empty() { token } else { &given.token }.to_owned();
        Ok(Planned { service, checks, token, owner: Some(parent.id.clone()) })
    }

    fn allocate_sidecar_port(&self, config: &Config, id: &ServiceId, of_parent: i64) -> Result<i64, String> {
        let Some(range) = config.sidecar_ports.clone() else {
            return Err("no port provided for sidecar_service and auto-assignment disabled in config".into());
        };
        if let Some(entry) = self.services.get(id)
            && u16::try_from(entry.view.service.port).is_ok_and(|port| range.contains(&port))
        {
            return Ok(entry.view.service.port);
        }
        let taken: BTreeSet<i64> =
            self.services.values().map(|entry| entry.view.service.port).chain([of_parent]).collect();
        let (low, high) = bounds(&Some(range.clone()));
        range.map(i64::from).find(|port| !taken.contains(port)).ok_or_else(|| {
            format!("no port provided for sidecar_service and none left in the configured range [{low}, {high}]")
        })
    }

    /// All that a managed proxy must know. `None` when the id is not that of a managed proxy.
    pub fn proxy_config(&self, config: &Config, id: &str) -> Option<(ProxyConfig, &ProxyEntry, &ServiceEntry)> {
        let (proxy_id, entry) = self.proxies.get_key_value(id)?;
        let target = self.services.get(&entry.target)?;
        let generated = self.services.get(proxy_id)?;
        let view = managed::view(config, &entry.definition).ok()?;
        let effective = managed::effective_config(
            &config.connect.default_config,
            entry.definition.config.as_ref(),
            &generated.view.service,
            &target.view.service,
            config.bind_addr,
        );
        let upstreams: Vec<serde_json::Value> = view
            .upstreams
            .iter()
            .map(|upstream| serde_json::to_value(crate::record::UpstreamShape::from(upstream)).unwrap_or_default())
            .collect();
        let parts = serde_json::json!([
            view.exec_mode,
            view.command,
            effective,
            upstreams,
            entry.target.as_str(),
            target.view.service.name.as_str()
        ]);
        let shown = ProxyConfig {
            proxy_service_id: proxy_id.clone(),
            target_service_id: entry.target.clone(),
            target_service_name: target.view.service.name.to_string(),
            content_hash: managed::content_hash(&parts),
            exec_mode: view.exec_mode,
            command: view.command,
            config: effective,
            upstreams: view.upstreams,
        };
        Some((shown, entry, target))
    }

    /// A new secret for the next start of a managed proxy.
    pub fn renew_token(&mut self, id: &ServiceId) -> Option<String> {
        self.proxies.get_mut(id).map(|entry| entry.proof.renew())
    }

    /// The managed proxy whose secret this is.
    pub fn proxy_of_token(&self, token: &str) -> Option<(&ServiceId, &ProxyEntry)> {
        if token.is_empty() || self.proxies.is_empty() {
            return None;
        }
        let shown = Shown::of(token);
        // Every entry is compared, so that the time does not tell which one matched.
        let mut found = None;
        for (id, entry) in &self.proxies {
            if entry.proof.accepts(&shown) {
                found = Some((id, entry));
            }
        }
        found
    }

    /// Checks of a service and of the node itself.
    pub fn checks_of(&self, service: &ServiceId) -> impl Iterator<Item = &CheckEntry> {
        self.checks
            .values()
            .filter(move |entry| entry.check.service_id.is_empty() || entry.check.service_id == *service)
    }
}

/// Where a managed proxy listens for its application.
fn local_ports(definition: &ManagedProxy) -> impl Iterator<Item = i64> {
    definition.upstreams.iter().map(|upstream| upstream.local_bind_port)
}

fn taken(by: &str, id: &ServiceId, parent: &Service) -> Error {
    Error::Refused(format!(
        "Service ID {:?} is taken by a service registered under it; the {by} of {:?} needs it. Rename one of them",
        id.as_str(),
        parent.id.as_str()
    ))
}

/// Fills in what a service may leave out.
fn settle(service: &mut Service) {
    if service.id.is_empty() {
        service.id = ServiceId::from(service.name.as_str());
    }
    if let Some(proxy) = &mut service.proxy {
        settle_upstreams(&mut proxy.upstreams);
    }
    if service.kind != Kind::ConnectProxy {
        service.proxy = None;
    } else if service.proxy.is_none() {
        service.proxy = Some(ProxySpec::default());
    }
}

fn settle_upstreams(upstreams: &mut [Upstream]) {
    for upstream in upstreams {
        if upstream.destination_type.is_empty() {
            upstream.destination_type = "service".into();
        }
    }
}

/// Checks of a service with their ids and names filled in.
fn numbered_checks<'a>(service: &Service, checks: impl Iterator<Item = &'a CheckSpec>) -> Vec<CheckSpec> {
    let given: Vec<&CheckSpec> = checks.filter(|check| !check.is_empty()).collect();
    given
        .iter()
        .enumerate()
        .map(|(position, check)| {
            let mut check = (*check).clone();
            if check.id.is_empty() {
                check.id = CheckId::of_service(&service.id, position + 1, given.len());
            }
            if check.name.is_empty() {
                check.name = format!("Service '{}' check", service.name);
            }
            check.service_id = service.id.clone();
            check
        })
        .collect()
}

fn sidecar_checks(parent: &Service, sidecar: &Service) -> [CheckSpec; 2] {
    [
        CheckSpec {
            name: "Connect Sidecar Listening".into(),
            tcp: managed::host_and_port("127.0.0.1", sidecar.port),
            interval: SIDECAR_CHECK_INTERVAL,
            ..CheckSpec::default()
        },
        CheckSpec {
            name: format!("Connect Sidecar Aliasing {}", parent.id),
            alias_service: parent.id.to_string(),
            ..CheckSpec::default()
        },
    ]
}

fn is_free(address: IpAddr, port: i64) -> bool {
    u16::try_from(port).is_ok_and(|port| TcpListener::bind((address, port)).is_ok())
}

fn bounds(range: &Option<RangeInclusive<u16>>) -> (i64, i64) {
    range.as_ref().map_or((-1, -1), |range| (i64::from(*range.start()), i64::from(*range.end())))
}
