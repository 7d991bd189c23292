//! Writing nodes, instances and checks.
//!
//! Order of what does not fit into one transaction:
//! - a registration writes node, instance and the first checks together, then the other checks, some at a time;
//! - an instance goes before the rest of its checks, so that it is never seen with fewer checks than it has;
//! - a node goes in one transaction, however much is on it, and before the rest of what its sessions hold.

use std::collections::BTreeSet;
use std::sync::Arc;

use lictor_model::acl::Caller;
use lictor_model::health::{Check, Status};
use lictor_model::meta;
use lictor_model::name::{CheckId, NodeName, ServiceId, fold};
use lictor_model::node::Node;
use lictor_model::revision::Revision;
use lictor_model::service::{Service, Weights};
use lictor_task::to_the_end;
use uuid::Uuid;

use super::scratch::{PENDING, Rest, Scratch};
use super::{Registration, Removal, Writer};
use crate::Error;
use crate::reader::{CheckRow, NodeRow, ServiceRow};
use crate::record::check::CheckRecord;
use crate::record::node::NodeRecord;
use crate::record::service::ServiceRecord;
use crate::record::{Created, Pointer};
use crate::replica::catalog::Place;
use crate::schema::Key;

/// Checks that one transaction writes.
const CHECKS_AT_ONCE: usize = 32;

/// What writing a check may need: conditions on itself and on its service.
pub(super) const ROOM_PER_CHECK: usize = 2;

/// What writing or removing a node may need: its record and its id, the one that had the id, and what is below that.
pub(super) const ROOM_PER_NODE: usize = 6;

/// What writing an instance may need: conditions on itself and on its node.
pub(super) const ROOM_PER_SERVICE: usize = 2;

impl Writer {
    /// Adds or replaces a node, an instance and checks. What is already so is not written again, so its revision
    /// stays. The rules about node ids, names and missing services are the original's, and so are their texts.
    pub async fn register(&self, registration: Registration) -> Result<(), Error> {
        self.register_as(&Caller::management(""), registration).await
    }

    /// The same on behalf of a caller.
    pub async fn register_as(&self, caller: &Caller, registration: Registration) -> Result<(), Error> {
        let registration = tidied(registration)?;
        let (writer, caller) = (self.clone(), caller.clone());
        to_the_end(async move { writer.register_whole(&caller, &registration).await }).await
    }

    async fn register_whole(&self, caller: &Caller, registration: &Registration) -> Result<(), Error> {
        let Registration { node, skip_node_update, service, checks } = registration;
        let first = checks.len().min(CHECKS_AT_ONCE);
        let (rest, revision) = self
            .write_at("register", |scratch| {
                scratch.reserved = ROOM_PER_NODE + ROOM_PER_SERVICE + first * ROOM_PER_CHECK;
                scratch.may_register(caller, registration)?;
                // Rights on all checks before any is written. Those that are not written yet are decided upon again then, so
                // nothing depends on how they stand now.
                let mut ahead = Scratch::new(scratch.tables);
                for (position, check) in checks.iter().enumerate() {
                    let asked = if position < first { &mut *scratch } else { &mut ahead };
                    asked.may_put_check(caller, check, service.as_ref())?;
                }
                if !*skip_node_update || scratch.node(&node.name.key())?.is_none() {
                    scratch.put_node(node).map_err(|error| error.within("failed inserting node"))?;
                }
                if let Some(service) = service {
                    scratch
                        .put_service(&node.name, service)
                        .map_err(|error| error.within("failed inserting service"))?;
                }
                // All are looked at before any is written, so that a bad one refuses the whole.
                for (position, check) in checks.iter().enumerate() {
                    let within = |error: Error| error.within("failed inserting check").on_node(node.name.as_str());
                    if position < first {
                        scratch.reserved = (first - position) * ROOM_PER_CHECK;
                        scratch.put_check(check).map_err(within)?;
                    } else {
                        scratch.resolved(check).map_err(within)?;
                    }
                }
                Ok(std::mem::take(&mut scratch.rest))
            })
            .await?;
        self.complete(rest, revision).await?;
        for some in checks[first..].chunks(CHECKS_AT_ONCE) {
            let (rest, revision) = self
                .write_at("register checks", |scratch| {
                    for (position, check) in some.iter().enumerate() {
                        scratch.reserved = (some.len() - position) * ROOM_PER_CHECK;
                        scratch.may_put_check(caller, check, None)?;
                        let within = |error: Error| error.within("failed inserting check").on_node(node.name.as_str());
                        scratch.put_check(check).map_err(within)?;
                    }
                    Ok(std::mem::take(&mut scratch.rest))
                })
                .await?;
            self.complete(rest, revision).await?;
        }
        Ok(())
    }

    /// Removes something from a node, with what depends on it. Unknown things are fine.
    pub async fn deregister(&self, node: &str, removal: Removal) -> Result<(), Error> {
        self.deregister_as(&Caller::management(""), node, removal).await
    }

    /// The same on behalf of a caller.
    pub async fn deregister_as(&self, caller: &Caller, node: &str, removal: Removal) -> Result<(), Error> {
        if node.is_empty() {
            return Err(Error::refused("Must provide node"));
        }
        let (writer, caller, node) = (self.clone(), caller.clone(), node.to_owned());
        to_the_end(async move { writer.deregister_whole(&caller, &node, &removal).await }).await
    }

    async fn deregister_whole(&self, caller: &Caller, node: &str, removal: &Removal) -> Result<(), Error> {
        let name = fold(node);
        let (rest, revision) = self
            .write_at("deregister", |scratch| {
                scratch.may_remove(caller, node, removal)?;
                match removal {
                    Removal::Node => scratch.remove_node(&name)?,
                    Removal::Service(id) => scratch.remove_service(&(Arc::clone(&name), id.key()))?,
                    Removal::Check(id) => scratch.remove_check(&(Arc::clone(&name), id.key()))?,
                }
                Ok(std::mem::take(&mut scratch.rest))
            })
            .await?;
        self.complete(rest, revision).await
    }

    /// Removes the checks that instances had before they were removed at this revision, if there are any left.
    pub(super) async fn remove_checks_left(&self, places: &BTreeSet<Place>, removed: Revision) -> Result<(), Error> {
        for place in places {
            let are_left = {
                let tables = self.replica.tables();
                let node = tables.catalog.node(&place.0);
                node.is_some_and(|node| node.checks_of(&place.1).iter().any(|row| row.modified < removed))
            };
            if are_left {
                self.remove_checks_of(place, Some(removed)).await?;
            }
        }
        Ok(())
    }

    /// Removes the checks that an instance had before it was removed at this revision: it may be there again by now, with
    /// others. Without a revision, those of an instance that is not there.
    async fn remove_checks_of(&self, place: &Place, removed: Option<Revision>) -> Result<(), Error> {
        loop {
            let Rest { sessions, services } = self
                .write("remove the checks of an instance", |scratch| {
                    match removed {
                        Some(removed) => scratch.remove_checks_until(place, Revision(removed.0.saturating_sub(1)))?,
                        None if scratch.service(place)?.is_none() => scratch.remove_checks_until(place, PENDING)?,
                        None => {}
                    }
                    Ok(std::mem::take(&mut scratch.rest))
                })
                .await?;
            for id in &sessions {
                self.end_session_whole(id).await?;
            }
            if services.is_empty() {
                return Ok(());
            }
        }
    }

    /// Removes the checks whose instance is gone, which are there when a process died behind the removal of an instance.
    pub(super) async fn remove_orphaned_checks(&self) -> Result<(), Error> {
        let orphaned: Vec<Place> = self.replica.tables().catalog.orphaned().cloned().collect();
        for place in orphaned {
            self.remove_checks_of(&place, None).await?;
        }
        Ok(())
    }
}

/// The registration with its defaults filled in, or why it makes no sense.
fn tidied(mut registration: Registration) -> Result<Registration, Error> {
    let Registration { node, skip_node_update, service, checks } = &mut registration;
    if node.name.is_empty() {
        return Err(Error::refused("Must provide node"));
    }
    if node.address.is_empty() && !*skip_node_update {
        return Err(Error::refused("Must provide address if SkipNodeUpdate is not set"));
    }
    refuse_node(node)?;
    if let Some(service) = service {
        tidy_service(service)?;
        refuse_meta(&node.name, service).map_err(|error| error.within("failed inserting service"))?;
    }
    for check in checks {
        tidy_check(check)?;
        if check.node.is_empty() {
            check.node = node.name.clone();
        }
        if check.node != node.name {
            let (given, wanted) = (check.node.as_str(), node.name.as_str());
            return Err(Error::refused(format!("check node {given:?} does not match node {wanted:?}")));
        }
    }
    Ok(registration)
}

/// Why a node cannot be written.
pub(super) fn refuse_node(node: &Node) -> Result<(), Error> {
    if node.name.is_empty() {
        return Err(Error::refused("Must provide node"));
    }
    if !node.id.is_empty() {
        if node.id.len() != 36 {
            return Err(Error::refused("Bad node ID: uuid string is wrong length"));
        }
        if Uuid::try_parse(&node.id).is_err() {
            return Err(Error::refused("Bad node ID: uuid is improperly formatted"));
        }
    }
    Ok(())
}

/// Fills in the defaults of an instance, or says why it cannot be written.
pub(super) fn tidy_service(service: &mut Service) -> Result<(), Error> {
    if service.name.is_empty() && !service.id.is_empty() {
        return Err(Error::refused("Must provide service name with ID"));
    }
    if service.id.is_empty() {
        service.id = ServiceId::new(service.name.as_str());
    }
    if matches!(service.address.as_str(), "0.0.0.0" | "::" | "[::]") {
        return Err(Error::refused("Invalid service address"));
    }
    if service.weights.validate().is_err() {
        service.weights = Weights::default();
    }
    Ok(())
}

/// Why the metadata of an instance cannot be written.
pub(super) fn refuse_meta(node: &NodeName, service: &Service) -> Result<(), Error> {
    service.meta.as_ref().map_or(Ok(()), meta::validate).map_err(|why| {
        let place = format!("for node {node} and serviceID {}", service.id);
        Error::refused(format!("Invalid Service Meta {place}: {why}"))
    })
}

/// Fills in the defaults of a check, or says why it cannot be written.
pub(super) fn tidy_check(check: &mut Check) -> Result<(), Error> {
    if check.id.is_empty() {
        check.id = CheckId::new(check.name.as_str());
    }
    if check.id.is_empty() {
        // It would be there and could not be named, not even to remove it.
        return Err(Error::refused("Must provide check ID or name"));
    }
    Ok(())
}

impl Scratch<'_> {
    /// Adds or replaces a node's record.
    pub(super) fn put_node(&mut self, node: &Node) -> Result<Arc<NodeRow>, Error> {
        let name = node.name.key();
        let known = self.node(&name)?;
        if let Some(row) = known.as_ref().filter(|row| row.node == *node) {
            return Ok(Arc::clone(row));
        }
        let mut created = known.as_deref().map(|row| row.created);
        let id = fold(&node.id);
        let holder = if id.is_empty() { None } else { self.node_with_id(&id)? };
        let claim = Key::NodeOf(id);
        match (&holder, &known) {
            _ if node.id.is_empty() => {
                // Without an id it is another machine as far as anyone can tell, so the old id is free again.
                if let Some(row) = known.as_deref().filter(|row| !row.node.id.is_empty()) {
                    self.draft.delete(&Key::NodeOf(fold(&row.node.id)))?;
                }
            }
            (Some(holder), _) if holder.node.name.same(&name) => {}
            (Some(holder), None) => {
                created = Some(holder.created);
                self.remove_node(&holder.node.name.key())?;
                self.draft.put(&claim, &Pointer { of: name.to_string() })?;
            }
            (Some(_), Some(row)) => return Err(reserved(node, row)),
            (None, Some(row)) if !row.node.id.is_empty() => return Err(reserved(node, row)),
            (None, _) => {
                // One that this transaction has set free is there, and its node was looked at.
                if self.tables.catalog.node_with_id(&fold(&node.id)).is_none() {
                    self.draft.expect(&claim, Revision::ZERO)?;
                }
                self.draft.put(&claim, &Pointer { of: name.to_string() })?;
            }
        }
        self.draft.put(&Key::Node(Arc::clone(&name)), &NodeRecord::new(node, Created::kept(created)))?;
        let row = Arc::new(NodeRow { node: node.clone(), created: created.unwrap_or(PENDING), modified: PENDING });
        self.set_node(name, Some(Arc::clone(&row)));
        Ok(row)
    }

    /// Removes a node with everything on it, and ends its sessions.
    pub(super) fn remove_node(&mut self, name: &Arc<str>) -> Result<(), Error> {
        let Some(row) = self.node(name)? else { return Ok(()) };
        self.draft.delete(&Key::Node(Arc::clone(name)))?;
        if !row.node.id.is_empty() {
            self.draft.delete(&Key::NodeOf(fold(&row.node.id)))?;
        }
        self.empty_node(name)?;
        self.set_node(Arc::clone(name), None);
        let sessions: Vec<Arc<str>> = self.tables.sessions.of_node(name).map(Arc::clone).collect();
        for session in sessions {
            self.end_session(&session)?;
        }
        Ok(())
    }

    /// Adds or replaces an instance.
    pub(super) fn put_service(&mut self, node: &NodeName, service: &Service) -> Result<Arc<ServiceRow>, Error> {
        let place: Place = (node.key(), service.id.key());
        if self.node(&place.0)?.is_none() {
            return Err(Error::refused("Missing node registration"));
        }
        let known = self.service(&place)?;
        if let Some(row) = known.as_ref().filter(|row| row.service == *service) {
            return Ok(Arc::clone(row));
        }
        let created = known.as_deref().map(|row| row.created);
        let key = Key::Service { node: Arc::clone(&place.0), id: Arc::clone(&place.1) };
        self.draft.put(&key, &ServiceRecord::new(service, Created::kept(created)))?;
        let row =
            Arc::new(ServiceRow { service: service.clone(), created: created.unwrap_or(PENDING), modified: PENDING });
        self.set_service(place, Some(Arc::clone(&row)));
        Ok(row)
    }

    /// Removes an instance with its checks.
    pub(super) fn remove_service(&mut self, place: &Place) -> Result<(), Error> {
        if self.service(place)?.is_some() {
            self.draft.delete(&Key::Service { node: Arc::clone(&place.0), id: Arc::clone(&place.1) })?;
            self.set_service(place.clone(), None);
            // It may get a check while we look.
            self.rest.services.insert(place.clone());
        }
        self.remove_checks_until(place, PENDING)
    }

    /// Removes the checks of an instance that did not change after a revision, as many as find room. Those that find none
    /// count as removed all the same.
    fn remove_checks_until(&mut self, place: &Place, last: Revision) -> Result<(), Error> {
        let mut removed = Vec::new();
        for check in self.checks_of(place) {
            let Some(row) = self.glance_at_check(&check).filter(|row| row.modified <= last) else { continue };
            // One that was written in this very transaction has its room.
            if row.modified == PENDING || self.has_room(ROOM_PER_CHECK) {
                self.check(&check)?;
                self.draft.delete(&Key::Check { node: Arc::clone(&check.0), id: Arc::clone(&check.1) })?;
            } else {
                self.rest.services.insert(place.clone());
            }
            self.set_check(check.clone(), None);
            removed.push(check);
        }
        // Behind them all: what sessions hold can wait, and checks that are seen without their instance should not.
        for check in removed {
            self.end_sessions_of_check(&check)?;
        }
        Ok(())
    }

    /// The check with what it takes over from its service, which must be there.
    fn resolved(&mut self, check: &Check) -> Result<Check, Error> {
        let mut check = check.clone();
        if !check.service_id.is_empty() {
            let place = (check.node.key(), check.service_id.key());
            let Some(row) = self.service(&place)? else {
                return Err(Error::refused("Missing service registration"));
            };
            check.service_name = row.service.name.clone();
            check.service_tags = row.service.tags.clone();
        }
        Ok(check)
    }

    /// Adds or replaces a check, which may end sessions.
    pub(super) fn put_check(&mut self, check: &Check) -> Result<Arc<CheckRow>, Error> {
        let place: Place = (check.node.key(), check.id.key());
        // An instance is never without its node, so only a check of the node itself must ask for it.
        if check.service_id.is_empty() && self.node(&place.0)?.is_none() {
            return Err(Error::refused("Missing node registration"));
        }
        let check = self.resolved(check)?;
        let known = self.check(&place)?;
        let row = match known.as_ref().filter(|row| row.check == check) {
            Some(row) => Arc::clone(row),
            None => {
                let created = known.as_deref().map(|row| row.created);
                let key = Key::Check { node: Arc::clone(&place.0), id: Arc::clone(&place.1) };
                self.draft.put(&key, &CheckRecord::new(&check, Created::kept(created)))?;
                let row = Arc::new(CheckRow { check, created: created.unwrap_or(PENDING), modified: PENDING });
                self.set_check(place.clone(), Some(Arc::clone(&row)));
                row
            }
        };
        if row.check.status == Status::Critical {
            self.end_sessions_of_check(&place)?;
        }
        Ok(row)
    }

    /// Removes a check, which ends the sessions bound to it.
    pub(super) fn remove_check(&mut self, place: &Place) -> Result<(), Error> {
        if self.check(place)?.is_some() {
            self.draft.delete(&Key::Check { node: Arc::clone(&place.0), id: Arc::clone(&place.1) })?;
            self.set_check(place.clone(), None);
            self.end_sessions_of_check(place)?;
        }
        Ok(())
    }
}

fn reserved(node: &Node, holder: &NodeRow) -> Error {
    let (id, name) = (&node.id, &node.name);
    let (holder_id, holder_name) = (&holder.node.id, &holder.node.name);
    let why = format!("Node name {name} is reserved by node {holder_id} with name {holder_name}");
    Error::refused(format!("Error while renaming Node ID: {id:?}: {why}"))
}
