//! Taking in definitions: at start from files and from what was kept, at reload from files again.

use std::collections::{BTreeMap, BTreeSet};

use lictor_model::acl::Caller;
use lictor_model::health::{CheckSpec, Status};
use lictor_model::name::{CheckId, ServiceId};
use lictor_model::service::{Definition, Service};

use crate::agent::Inner;
use crate::checks::note_critical;
use crate::config::Reloadable;
use crate::kept::{keep_states, looks_at};
use crate::persist::Found;
use crate::record::{CheckRecord, CheckStateRecord, ProxyRecord, ServiceRecord};
use crate::registry::{Effects, Origin, Registry};
use crate::rights::Askers;
use crate::{Config, Error, validate};

impl Inner {
    /// Loads the definitions of files first, then what the API had registered before; a file's definition wins.
    pub(crate) fn load(&self) -> Result<Effects, Error> {
        let Found { services, checks, states, proxies, mut known } = self.files.load();
        let of_api = checks.iter().map(|record| record.clone().into_parts());
        for (check, spec, _) in of_api {
            // Of a check that was of the API and is of a file since, that of the file is the later one.
            known.entry(check.id).or_insert_with(|| looks_at(&spec));
        }
        let reader = self.cluster.reader(&Caller::management(""));
        let rows =
            reader.node(self.config.node_name.as_str()).value.map(|contents| contents.checks).unwrap_or_default();
        let rows = rows.iter().map(|row| (row.check.id.clone(), row.check.clone())).collect();
        let reloadable = self.reloadable.load_full();
        let mut registry = self.registry.lock();
        let mut proxies: BTreeMap<ServiceId, ProxyRecord> = proxies
            .into_iter()
            .filter_map(|record| {
                let id = record.proxy.proxy_service.as_ref().map(|service| ServiceId::from(service.id.as_str()))?;
                Some((id, record))
            })
            .collect();
        for (id, record) in &proxies {
            match record.proof() {
                Some(proof) => drop(registry.known_proofs.insert(id.clone(), proof)),
                None => tracing::warn!(
                    "agent: nothing usable is kept of the token of {:?}: a program of its own is started anew",
                    id.as_str()
                ),
            }
            if let Some(port) = record.port() {
                registry.known_ports.insert(id.clone(), port);
            }
        }
        let mut effects = take_files(&self.config, &mut registry, &reloadable)?;
        for id in proxies.keys() {
            // A proxy whose definition is in no file any more goes; so does a generated service without its parent.
            effects.proxy_files.insert(id.clone());
        }
        self.restore_services(&mut registry, services, &mut proxies, &mut effects);
        self.restore_checks(&mut registry, checks, &reloadable, &mut effects);
        restore_states(&mut registry, states);
        keep_states(&mut registry, &known, &rows, reloadable.discard_check_output);
        registry.known_ports.clear();
        registry.known_proofs.clear();
        Ok(effects)
    }

    fn restore_services(
        &self,
        registry: &mut Registry,
        records: Vec<ServiceRecord>,
        proxies: &mut BTreeMap<ServiceId, ProxyRecord>,
        effects: &mut Effects,
    ) {
        let (owned, free): (Vec<_>, Vec<_>) = records.into_iter().partition(|record| record.lictor.is_some());
        let unlimited = Caller::management("");
        for record in free {
            let service = Service::from(record.service);
            let id = service.id.clone();
            effects.service_files.insert(id.clone());
            if registry.services.contains_key(&id) || proxies.contains_key(&id) {
                continue;
            }
            let managed_proxy = proxies
                .values()
                .find(|proxy| proxy.proxy.target_service_id == id.as_str() && !proxy.from_file)
                .map(ProxyRecord::definition);
            let managed_proxy = match managed_proxy {
                Some(_) if !self.config.connect.allow_managed_api_registration => {
                    tracing::warn!(
                        "agent: the managed proxy of service {:?} was registered over the API, which is no longer \
                         allowed (connect.proxy.allow_managed_api_registration): it is not started",
                        id.as_str()
                    );
                    None
                }
                managed_proxy => managed_proxy,
            };
            let definition = Definition { service, managed_proxy, ..Definition::default() };
            match registry.register(&self.config, definition, Origin::Api, &record.token, Askers::one(&unlimited)) {
                Ok(more) => effects.absorb(more),
                Err(error) => tracing::error!("agent: cannot restore service {:?}: {error}", id.as_str()),
            }
        }
        for record in owned {
            let owner = record.lictor.map(|lictor| ServiceId::from(lictor.owner)).unwrap_or_default();
            let service = Service::from(record.service);
            effects.service_files.insert(service.id.clone());
            let restorable = registry.services.get(&owner).is_some_and(|entry| entry.origin == Origin::Api)
                && !registry.services.contains_key(&service.id)
                && !proxies.contains_key(&service.id);
            if restorable {
                registry.restore_owned(&self.config, service, owner, record.token, effects);
            }
        }
    }

    fn restore_checks(
        &self,
        registry: &mut Registry,
        records: Vec<CheckRecord>,
        reloadable: &Reloadable,
        effects: &mut Effects,
    ) {
        for record in records {
            let (check, spec, token) = record.into_parts();
            effects.check_files.insert(check.id.clone());
            if registry.checks.contains_key(&check.id) {
                continue;
            }
            if !spec.args.is_empty() && !reloadable.local_scripts {
                tracing::warn!(
                    "agent: check {:?} runs a script and scripts are disabled on this agent: it is dropped. To keep \
                     such checks, configure enable_local_script_checks",
                    check.id.as_str()
                );
                continue;
            }
            let service = registry.services.get(&check.service_id).map(|entry| entry.view.service.clone());
            if !check.service_id.is_empty() && service.is_none() {
                continue;
            }
            // Where it is not known what it was, nothing unhealthy comes back as healthy. Maintenance stays critical anyway.
            let spec = CheckSpec { status: Some(Status::Critical), ..spec };
            registry.put_check(&self.config, service.as_ref(), spec, &Origin::Api, &token, effects);
        }
    }

    /// Replaces the definitions of files. They are tried on a copy of the table first, so that a mistake in one of
    /// them leaves everything as it was.
    pub(crate) fn replace_files(&self, reloadable: Reloadable) -> Result<Effects, Error> {
        let mut registry = self.registry.lock();
        take_files(&self.config, &mut registry.shadow(), &reloadable)?;
        let effects = take_files(&self.config, &mut registry, &reloadable)?;
        drop(registry);
        self.reloadable.store(reloadable.into());
        Ok(effects)
    }
}

/// Makes the definitions of files those of the table: new and changed ones are taken in, others of files go.
fn take_files(config: &Config, registry: &mut Registry, reloadable: &Reloadable) -> Result<Effects, Error> {
    let mut problems = Vec::new();
    let mut effects = Effects::default();
    let wanted: BTreeSet<ServiceId> = reloadable
        .services
        .iter()
        .map(|definition| match definition.service.id.as_str() {
            "" => ServiceId::from(definition.service.name.as_str()),
            _ => definition.service.id.clone(),
        })
        .collect();
    let gone: Vec<ServiceId> = registry
        .services
        .iter()
        .filter(|(id, entry)| entry.origin == Origin::File && entry.owner.is_none() && !wanted.contains(*id))
        .map(|(id, _)| id.clone())
        .collect();
    for id in gone {
        effects.absorb(registry.deregister(&id));
    }
    let mut touched = Effects::default();
    let unlimited = Caller::management("");
    for definition in &reloadable.services {
        let name = definition.service.name.clone();
        if let Err(why) = may_run_scripts(reloadable, definition.every_check()) {
            problems.push(format!("service {:?}: {why}", name.as_str()));
            continue;
        }
        match registry.register(config, definition.clone(), Origin::File, "", Askers::one(&unlimited)) {
            Ok(more) => touched.absorb(more),
            Err(error) => problems.push(format!("Failed to register service {:?}: {error}", name.as_str())),
        }
    }
    for check in &reloadable.checks {
        let mut check = check.clone();
        if check.id.is_empty() {
            check.id = CheckId::from(check.name.as_str());
        }
        if let Err(why) = may_run_scripts(reloadable, [&check]) {
            problems.push(format!("check {:?}: {why}", check.id.as_str()));
            continue;
        }
        let service = registry.services.get(&check.service_id).map(|entry| entry.view.service.clone());
        if !check.service_id.is_empty() && service.is_none() {
            problems.push(format!(
                "Failed to register check {:?}: ServiceID {:?} does not exist",
                check.id.as_str(),
                check.service_id.as_str()
            ));
            continue;
        }
        let token = check.token.clone();
        registry.put_check(config, service.as_ref(), check, &Origin::File, &token, &mut touched);
    }
    let stale: Vec<CheckId> = registry
        .checks
        .iter()
        .filter(|(id, entry)| entry.origin == Origin::File && !touched.check_files.contains(*id))
        .map(|(id, _)| id.clone())
        .collect();
    for id in stale {
        touched.absorb(registry.remove_check(&id));
    }
    effects.absorb(touched);
    match problems.as_slice() {
        [] => Ok(effects),
        [one] => Err(Error::Refused(one.clone())),
        many => Err(Error::Refused(validate::several(many))),
    }
}

fn may_run_scripts<'a>(
    reloadable: &Reloadable,
    checks: impl IntoIterator<Item = &'a CheckSpec>,
) -> Result<(), &'static str> {
    if !reloadable.local_scripts && checks.into_iter().any(|check| !check.args.is_empty()) {
        return Err("Scripts are disabled on this agent; to enable, configure 'enable_script_checks' or \
                    'enable_local_script_checks' to true");
    }
    Ok(())
}

/// Gives TTL checks their last report back while it holds.
fn restore_states(registry: &mut Registry, states: Vec<CheckStateRecord>) {
    let now = lictor_task::clock::unix_seconds();
    for state in states {
        if state.expires <= now {
            continue;
        }
        if let (Some(entry), Some(status)) =
            (registry.checks.get_mut(state.check_id.as_str()), Status::parse(&state.status))
            && !entry.spec.ttl.is_zero()
        {
            entry.check.status = status;
            entry.check.output = state.output;
            note_critical(entry, status);
        }
    }
}
