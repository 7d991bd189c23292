//! Nodes, instances and checks in memory, with what is needed to find them and to say when they changed.
//!
//! The cost of a change is that of what it concerns: an instance touches its service, a check of a node touches the
//! services on that node, nothing is proportional to the size of the catalog.
//!
//! Each service name has its own index. When its last instance goes the name is forgotten, and the revision of that is
//! kept once for all names: whoever then asks for a name without instances is told that revision, so a watcher that
//! knew the service before it went learns of it however late it asks.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use lictor_model::health::{Check, Status};
use lictor_model::name::fold;
use lictor_model::revision::Revision;
use lictor_store::Sorted;

use super::Touched;
use crate::answer::Topic;
use crate::reader::{CheckRow, Instance, NodeRow, ServiceRow, Side};
use crate::schema::Key;

/// The node and the id of something on it, folded.
pub(crate) type Place = (Arc<str>, Arc<str>);

#[derive(Debug, Default)]
pub(crate) struct Catalog {
    nodes: Sorted<Arc<str>, NodeEntry>,
    nodes_by_id: BTreeMap<Arc<str>, Arc<str>>,
    services: Sorted<Arc<str>, Group>,
    mesh: Sorted<Arc<str>, Group>,
    /// Places of checks by status, ordered as [`Status`].
    by_status: [BTreeSet<Place>; 3],
    /// Instances that are gone while checks of theirs are left.
    orphaned: BTreeSet<Place>,
    nodes_index: Revision,
    services_index: Revision,
    checks_index: Revision,
    /// When a node was last removed.
    nodes_lost: Revision,
    /// When a service last lost its last instance.
    services_lost: Revision,
    /// When a service last lost its last mesh instance.
    mesh_lost: Revision,
    /// A check that others write, and what is so: see [`Presence::vouch`](crate::Presence::vouch).
    pub(crate) vouched: Option<(Check, Check)>,
}

/// A node and what is on it.
#[derive(Debug)]
pub(crate) struct NodeEntry {
    pub(crate) row: Arc<NodeRow>,
    pub(crate) services: BTreeMap<Arc<str>, Arc<ServiceRow>>,
    pub(crate) checks: BTreeMap<Arc<str>, Arc<CheckRow>>,
    /// The same checks by the instance they belong to (folded id; empty for those of the node), ordered by id, so that
    /// an instance's health costs what it has, not what its node has.
    checks_of: BTreeMap<Arc<str>, Vec<Arc<CheckRow>>>,
    /// When the record or an instance changed.
    index: Revision,
    /// When a check changed.
    checks_index: Revision,
}

/// The instances found under one name.
#[derive(Debug, Default)]
struct Group {
    instances: BTreeSet<Place>,
    index: Revision,
}

impl NodeEntry {
    /// The checks of one instance (folded id), or of the node itself (empty).
    pub(crate) fn checks_of(&self, service: &str) -> &[Arc<CheckRow>] {
        self.checks_of.get(service).map_or(&[], Vec::as_slice)
    }
}

impl Catalog {
    /// Adds or replaces a node's record.
    pub(crate) fn put_node(&mut self, row: NodeRow, at: Revision, touched: &mut Touched) {
        let name = row.node.name.key();
        let row = Arc::new(row);
        let former = match self.nodes.get_mut(&name) {
            Some(entry) => {
                entry.index = at;
                Some(std::mem::replace(&mut entry.row, Arc::clone(&row)))
            }
            None => {
                let entry = NodeEntry {
                    row: Arc::clone(&row),
                    services: BTreeMap::new(),
                    checks: BTreeMap::new(),
                    checks_of: BTreeMap::new(),
                    index: at,
                    checks_index: at,
                };
                self.nodes.insert(Arc::clone(&name), entry);
                None
            }
        };
        if let Some(former) = former {
            self.forget_id(&former.node.id, &name);
        }
        if !row.node.id.is_empty() {
            self.nodes_by_id.insert(fold(&row.node.id), Arc::clone(&name));
        }
        self.nodes_index = at;
        touched.add(Topic::Nodes);
        touched.add_named(Topic::Node, &name);
        touched.add_named(Topic::NodeServices, &name);
        self.touch_services_of(&name, at, touched);
    }

    /// Removes a node with everything on it.
    pub(crate) fn remove_node(&mut self, name: &str, at: Revision, touched: &mut Touched) {
        let Some(entry) = self.nodes.get(name) else { return };
        // What a cascade deletes comes as events of its own, before this one. Should something be left it goes too: a
        // replica never shows an instance without its node.
        let checks: Vec<Arc<str>> = entry.checks.keys().cloned().collect();
        let services: Vec<Arc<str>> = entry.services.keys().cloned().collect();
        for id in checks {
            self.remove_check(name, &id, at, touched);
        }
        for id in services {
            self.remove_service(name, &id, at, touched);
        }
        let Some(entry) = self.nodes.remove(name) else { return };
        self.forget_id(&entry.row.node.id, name);
        self.nodes_index = at;
        self.nodes_lost = at;
        touched.add(Topic::Nodes);
        touched.add_named(Topic::Node, name);
        touched.add_named(Topic::NodeServices, name);
        touched.add_named(Topic::NodeChecks, name);
    }

    /// Adds or replaces an instance. Without its node there is no such thing: `false`.
    pub(crate) fn put_service(&mut self, node: &str, row: ServiceRow, at: Revision, touched: &mut Touched) -> bool {
        let Some((node, _)) = self.nodes.get_key_value(node) else { return false };
        let node = Arc::clone(node);
        let id = row.service.id.key();
        let row = Arc::new(row);
        let (name, mesh) = names(&row);
        let place = (Arc::clone(&node), Arc::clone(&id));
        let former = self.nodes.get_mut(&node).and_then(|entry| entry.services.insert(id, Arc::clone(&row)));
        if let Some(former) = former {
            let (former_name, former_mesh) = names(&former);
            if former_name != name {
                leave(&mut self.services, &mut self.services_lost, &former_name, &place, at);
                touched.add_named(Topic::Service, &former_name);
            }
            if let Some(former_mesh) = former_mesh.filter(|former| Some(former) != mesh.as_ref()) {
                leave(&mut self.mesh, &mut self.mesh_lost, &former_mesh, &place, at);
                touched.add_named(Topic::Connect, &former_mesh);
            }
        }
        self.orphaned.remove(&place);
        join(&mut self.services, &name, place.clone(), at);
        touched.add_named(Topic::Service, &name);
        if let Some(mesh) = mesh {
            join(&mut self.mesh, &mesh, place, at);
            touched.add_named(Topic::Connect, &mesh);
        }
        self.touch_service_set(&node, at, touched);
        true
    }

    /// Removes an instance. Its checks are removed by events of their own.
    pub(crate) fn remove_service(&mut self, node: &str, id: &str, at: Revision, touched: &mut Touched) {
        let Some((node, _)) = self.nodes.get_key_value(node) else { return };
        let node = Arc::clone(node);
        let Some((id, row)) = self.nodes.get_mut(&node).and_then(|entry| entry.services.remove_entry(id)) else {
            return;
        };
        let (name, mesh) = names(&row);
        let place = (Arc::clone(&node), id);
        self.note_orphans(&place);
        leave(&mut self.services, &mut self.services_lost, &name, &place, at);
        touched.add_named(Topic::Service, &name);
        if let Some(mesh) = mesh {
            leave(&mut self.mesh, &mut self.mesh_lost, &mesh, &place, at);
            touched.add_named(Topic::Connect, &mesh);
        }
        self.touch_service_set(&node, at, touched);
    }

    /// Adds or replaces a check. Without its node there is no such thing: `false`.
    pub(crate) fn put_check(&mut self, node: &str, row: CheckRow, at: Revision, touched: &mut Touched) -> bool {
        let Some((node, _)) = self.nodes.get_key_value(node) else { return false };
        let node = Arc::clone(node);
        let id = row.check.id.key();
        let service = row.check.service_id.key();
        let row = Arc::new(row);
        let Some(entry) = self.nodes.get_mut(&node) else { return false };
        let former = entry.checks.insert(Arc::clone(&id), Arc::clone(&row));
        if let Some(former) = &former {
            remove_from_list(&mut entry.checks_of, former);
        }
        let list = entry.checks_of.entry(Arc::clone(&service)).or_default();
        let position = list.partition_point(|other| other.check.id.key() < id);
        list.insert(position, Arc::clone(&row));
        let place = (Arc::clone(&node), id);
        if let Some(former) = former {
            self.by_status[former.check.status as usize].remove(&place);
            let former_service = former.check.service_id.key();
            if former_service != service {
                self.touch_subject(&node, &former_service, at, touched);
                self.note_orphans(&(Arc::clone(&node), former_service));
            }
        }
        self.by_status[row.check.status as usize].insert(place);
        self.note_orphans(&(Arc::clone(&node), Arc::clone(&service)));
        self.touch_checks(&node, &service, at, touched);
        true
    }

    /// Removes a check.
    pub(crate) fn remove_check(&mut self, node: &str, id: &str, at: Revision, touched: &mut Touched) {
        let Some((node, _)) = self.nodes.get_key_value(node) else { return };
        let node = Arc::clone(node);
        let Some(entry) = self.nodes.get_mut(&node) else { return };
        let Some((id, row)) = entry.checks.remove_entry(id) else { return };
        remove_from_list(&mut entry.checks_of, &row);
        self.by_status[row.check.status as usize].remove(&(Arc::clone(&node), id));
        let service = row.check.service_id.key();
        self.touch_checks(&node, &service, at, touched);
        self.note_orphans(&(node, service));
    }

    /// Keeps in mind whether an instance is gone and left checks behind; the node itself, which has no id here, is not.
    fn note_orphans(&mut self, place: &Place) {
        let (node, service) = place;
        let is_orphaned = !service.is_empty()
            && self
                .nodes
                .get(node)
                .is_some_and(|entry| !entry.services.contains_key(service) && !entry.checks_of(service).is_empty());
        if is_orphaned {
            self.orphaned.insert(place.clone());
        } else if !self.orphaned.is_empty() {
            self.orphaned.remove(place);
        }
    }

    /// Instances that are gone while checks of theirs are left: a removal was cut off between two transactions.
    pub(crate) fn orphaned(&self) -> impl Iterator<Item = &Place> {
        self.orphaned.iter()
    }

    fn forget_id(&mut self, id: &str, name: &str) {
        // Only if it is still this node's: in a rename the new owner may have come first.
        let id = fold(id);
        if self.nodes_by_id.get(&id).is_some_and(|owner| **owner == *name) {
            self.nodes_by_id.remove(&id);
        }
    }

    /// The instances of a node changed, so the node, and the set of services.
    fn touch_service_set(&mut self, node: &Arc<str>, at: Revision, touched: &mut Touched) {
        if let Some(entry) = self.nodes.get_mut(node) {
            entry.index = at;
        }
        self.services_index = at;
        touched.add(Topic::Services);
        touched.add_named(Topic::Node, node);
        touched.add_named(Topic::NodeServices, node);
    }

    fn touch_checks(&mut self, node: &Arc<str>, service: &str, at: Revision, touched: &mut Touched) {
        if let Some(entry) = self.nodes.get_mut(node) {
            entry.checks_index = at;
        }
        self.checks_index = at;
        touched.add(Topic::Checks);
        touched.add_named(Topic::Node, node);
        touched.add_named(Topic::NodeChecks, node);
        self.touch_subject(node, service, at, touched);
    }

    /// What a check of this instance, or of the node when there is none, speaks of.
    fn touch_subject(&mut self, node: &Arc<str>, service: &str, at: Revision, touched: &mut Touched) {
        if service.is_empty() {
            return self.touch_services_of(node, at, touched);
        }
        let Some(row) = self.nodes.get(node).and_then(|entry| entry.services.get(service)) else { return };
        touch_groups(&mut self.services, &mut self.mesh, row, at, touched);
    }

    fn touch_services_of(&mut self, node: &Arc<str>, at: Revision, touched: &mut Touched) {
        let Some(entry) = self.nodes.get(node) else { return };
        for row in entry.services.values() {
            touch_groups(&mut self.services, &mut self.mesh, row, at, touched);
        }
    }

    /// All nodes by folded name.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &NodeEntry> {
        self.nodes.iter().map(|(_, entry)| entry)
    }

    /// A node by folded name.
    pub(crate) fn node(&self, name: &str) -> Option<&NodeEntry> {
        self.nodes.get(name)
    }

    /// Folded name of the node with this folded id.
    pub(crate) fn node_with_id(&self, id: &str) -> Option<&Arc<str>> {
        self.nodes_by_id.get(id)
    }

    /// Folded name of the one node whose id begins so.
    pub(crate) fn node_with_id_prefix(&self, prefix: &str) -> Option<&Arc<str>> {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let mut found = self.nodes_by_id.range::<str, _>(from).take_while(|(id, _)| id.starts_with(prefix));
        let (_, name) = found.next()?;
        found.next().is_none().then_some(name)
    }

    /// Folded names of all services.
    pub(crate) fn service_names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.services.keys()
    }

    /// The instances found under a folded name, by node and id.
    pub(crate) fn instances<'a>(
        &'a self,
        name: &str,
        side: Side,
    ) -> impl Iterator<Item = (&'a NodeEntry, &'a Arc<ServiceRow>)> + use<'a> {
        let group = match side {
            Side::Ordinary => self.services.get(name),
            Side::Connect => self.mesh.get(name),
        };
        group.into_iter().flat_map(|group| &group.instances).filter_map(|(node, id)| {
            let entry = self.nodes.get(node)?;
            Some((entry, entry.services.get(id)?))
        })
    }

    /// Checks by status and place.
    pub(crate) fn checks_in(&self, status: Status) -> impl Iterator<Item = (&NodeEntry, &Arc<CheckRow>)> {
        self.by_status[status as usize].iter().filter_map(|(node, id)| {
            let entry = self.nodes.get(node)?;
            Some((entry, entry.checks.get(id)?))
        })
    }

    /// When a topic of the catalog last changed.
    pub(crate) fn index(&self, topic: &Topic) -> Option<Revision> {
        let node = |name: &str, index: fn(&NodeEntry) -> Revision| self.nodes.get(name).map_or(self.nodes_lost, index);
        Some(match topic {
            Topic::Nodes => self.nodes_index,
            Topic::Services => self.services_index,
            Topic::Checks => self.checks_index,
            Topic::Service(name) => self.group_index(&self.services, name, self.services_lost),
            Topic::Connect(name) => self.group_index(&self.mesh, name, self.mesh_lost),
            Topic::Node(name) => node(name, |entry| entry.index.max(entry.checks_index)),
            Topic::NodeServices(name) => node(name, |entry| entry.index),
            Topic::NodeChecks(name) => node(name, |entry| entry.checks_index),
            _ => return None,
        })
    }

    fn group_index(&self, groups: &Sorted<Arc<str>, Group>, name: &str, lost: Revision) -> Revision {
        match groups.get(name) {
            Some(group) => group.index,
            // As the original has it: before anything was lost, a name nobody has reports the tables' own index.
            None if lost == Revision::ZERO => self.nodes_index.max(self.services_index).max(self.checks_index),
            None => lost,
        }
    }

    /// Says of everything that it may have changed at this revision: what was removed before is not known.
    pub(crate) fn raise(&mut self, floor: Revision) {
        let Catalog {
            nodes,
            nodes_by_id: _,
            services,
            mesh,
            by_status: _,
            orphaned: _,
            nodes_index,
            services_index,
            checks_index,
            nodes_lost,
            services_lost,
            mesh_lost,
            vouched: _,
        } = self;
        for index in [nodes_index, services_index, checks_index, nodes_lost, services_lost, mesh_lost] {
            *index = floor;
        }
        for entry in nodes.values_mut() {
            entry.index = floor;
            entry.checks_index = floor;
        }
        for group in services.values_mut().chain(mesh.values_mut()) {
            group.index = floor;
        }
    }

    /// Every record that is shown, with the revision of its last change.
    pub(crate) fn keys(&self) -> impl Iterator<Item = (Key, Revision)> {
        self.nodes.iter().flat_map(|(node, entry)| {
            let services = entry
                .services
                .iter()
                .map(|(id, row)| (Key::Service { node: Arc::clone(node), id: Arc::clone(id) }, row.modified));
            let checks = entry
                .checks
                .iter()
                .map(|(id, row)| (Key::Check { node: Arc::clone(node), id: Arc::clone(id) }, row.modified));
            std::iter::once((Key::Node(Arc::clone(node)), entry.row.modified)).chain(services).chain(checks)
        })
    }
}

impl Catalog {
    /// An instance with the checks that decide about it.
    pub(crate) fn instance(&self, entry: &NodeEntry, service: &Arc<ServiceRow>) -> Instance {
        let own = entry.checks_of(&service.service.id.key());
        Instance {
            node: Arc::clone(&entry.row),
            service: Arc::clone(service),
            checks: entry.checks_of("").iter().chain(own).map(|row| self.better_known(row)).collect(),
        }
    }

    /// The check, or what this process knows better.
    fn better_known(&self, row: &Arc<CheckRow>) -> Arc<CheckRow> {
        match &self.vouched {
            Some((said, known)) if says(&row.check, said) => {
                let (created, modified) = (row.created, row.modified);
                Arc::new(CheckRow { check: known.clone(), created, modified })
            }
            _ => Arc::clone(row),
        }
    }
}

/// The checks that belong to one instance.
pub(crate) fn own_checks<'a>(entry: &'a NodeEntry, service: &ServiceRow) -> &'a [Arc<CheckRow>] {
    entry.checks_of(&service.service.id.key())
}

/// The folded names under which an instance is found: its own, and the one whose mesh traffic it takes.
fn names(row: &ServiceRow) -> (Arc<str>, Option<Arc<str>>) {
    let mesh = row.service.connect_destination().map(|name| name.key());
    (row.service.name.key(), mesh)
}

fn join(groups: &mut Sorted<Arc<str>, Group>, name: &Arc<str>, place: Place, at: Revision) {
    let group = groups.get_or_insert_with(Arc::clone(name), Group::default);
    group.instances.insert(place);
    group.index = at;
}

fn leave(groups: &mut Sorted<Arc<str>, Group>, lost: &mut Revision, name: &str, place: &Place, at: Revision) {
    let Some(group) = groups.get_mut(name) else { return };
    group.instances.remove(place);
    group.index = at;
    if group.instances.is_empty() {
        groups.remove(name);
        *lost = at;
    }
}

fn touch_groups(
    services: &mut Sorted<Arc<str>, Group>,
    mesh: &mut Sorted<Arc<str>, Group>,
    row: &ServiceRow,
    at: Revision,
    touched: &mut Touched,
) {
    let (name, destination) = names(row);
    if let Some(group) = services.get_mut(&name) {
        group.index = at;
        touched.add_named(Topic::Service, &name);
    }
    let Some(destination) = destination else { return };
    if let Some(group) = mesh.get_mut(&destination) {
        group.index = at;
        touched.add_named(Topic::Connect, &destination);
    }
}

fn remove_from_list(lists: &mut BTreeMap<Arc<str>, Vec<Arc<CheckRow>>>, row: &CheckRow) {
    let service = row.check.service_id.key();
    let Some(list) = lists.get_mut(&service) else { return };
    list.retain(|other| other.check.id.folded() != row.check.id.folded());
    if list.is_empty() {
        lists.remove(&service);
    }
}
/// Whether a check says this; its notes, which say since when, may be others.
fn says(check: &Check, said: &Check) -> bool {
    check.id == said.id && check.node == said.node && check.status == said.status && check.output == said.output
}
