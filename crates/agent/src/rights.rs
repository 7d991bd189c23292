//! What a caller must be allowed for a change of what is registered here.
//!
//! Asked under the lock of the table that is changed. Who may write only one service must not be able to take the place of
//! another service or of a check by its id. Ids that differ in case only are one in the catalog, so they are one here.

use lictor_model::acl::{Access, Caller, Resource};
use lictor_model::health::{Check, CheckSpec};
use lictor_model::name::{CheckId, ServiceId, ServiceName};
use lictor_model::service::Service;

use crate::registry::Registry;
use crate::sync::{CONSUL_SERVICE, SERF_HEALTH};
use crate::{Config, Error};

/// With whose rights a definition is taken in.
#[derive(Clone, Copy)]
pub struct Askers<'a> {
    /// Those for the service and its managed proxy.
    pub service: &'a Caller,
    /// Those for its sidecar, which may have a token of its own.
    pub sidecar: &'a Caller,
}

impl<'a> Askers<'a> {
    /// One for everything.
    pub fn one(caller: &'a Caller) -> Askers<'a> {
        Askers { service: caller, sidecar: caller }
    }
}

impl Registry {
    /// A service: its name, that of the service in whose place a proxy is found, and those of whatever has its id now.
    pub fn may_put_service(&self, config: &Config, caller: &Caller, service: &Service) -> Result<(), Error> {
        if caller.may_do_everything() {
            return Ok(());
        }
        let id = if service.id.is_empty() { service.name.as_str() } else { service.id.as_str() };
        let destination = service.connect_destination().filter(|name| !name.is_empty());
        let published = ServiceName::from(CONSUL_SERVICE);
        let present = self.services.iter().filter(|(present, _)| present.same(id));
        let present = present.map(|(_, entry)| &entry.view.service.name);
        // A server publishes itself, without an entry here.
        let ours = Some(&published).filter(|name| config.is_server && name.same(id));
        let mut names = [&service.name].into_iter().chain(destination).chain(present).chain(ours);
        granted(names.all(|name| caller.writes_service(name.as_str())))
    }

    /// Checks of a service that the caller may put: whatever has their ids now must be of the same service, or the
    /// caller's to change.
    pub fn may_put_checks(
        &self,
        config: &Config,
        caller: &Caller,
        service: &ServiceId,
        checks: &[CheckSpec],
    ) -> Result<(), Error> {
        if caller.may_do_everything() {
            return Ok(());
        }
        checks.iter().try_for_each(|check| {
            let mut others = self.checks_with(&check.id).filter(|present| !present.service_id.same(service.as_str()));
            granted(others.all(|present| may_check(caller, Access::Write, present)))?;
            granted(!speaks_for_node(&check.id) || caller.writes_node(config.node_name.as_str()))?;
            let other = self.in_maintenance_by(&check.id).filter(|(other, _)| !other.same(service.as_str()));
            granted(other.is_none_or(|(_, name)| caller.writes_service(name.as_str())))
        })
    }

    /// Checks here that have this id.
    pub fn checks_with(&self, id: &CheckId) -> impl Iterator<Item = &Check> {
        self.checks.values().map(|entry| &entry.check).filter(move |check| check.id.same(id.as_str()))
    }

    /// The service that a check with this id takes out of use, whosever the check is.
    fn in_maintenance_by(&self, id: &CheckId) -> Option<(&ServiceId, &ServiceName)> {
        let named = |service: &ServiceId| id.is_maintenance() && *id == CheckId::service_maintenance(service);
        let (service, entry) = self.services.iter().find(|(service, _)| named(service))?;
        Some((service, &entry.view.service.name))
    }
}

/// Whether a check says something of the whole node by its id, whosever it is.
fn speaks_for_node(id: &CheckId) -> bool {
    id.same(SERF_HEALTH) || *id == CheckId::node_maintenance()
}

fn granted(is_granted: bool) -> Result<(), Error> {
    if is_granted { Ok(()) } else { Err(Error::Denied) }
}

/// Whether a caller has a right on a check: by its service, or by its node.
pub fn may_check(caller: &Caller, access: Access, check: &Check) -> bool {
    if check.service_name.is_empty() {
        caller.may(access, Resource::Node, check.node.as_str())
    } else {
        caller.may(access, Resource::Service, check.service_name.as_str())
    }
}
