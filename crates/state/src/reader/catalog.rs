//! Reading nodes, services and checks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lictor_model::health::Status;
use lictor_model::name::fold;
use lictor_model::node::Node;
use lictor_model::revision::Revision;
use lictor_model::service::Service;

use super::{CheckRow, Filter, Instance, NodeContents, NodeRow, Reader, ServiceRow, Side};
use crate::answer::{Answer, Topic};
use crate::replica::catalog::{Catalog, NodeEntry, own_checks};

/// Fewest hex digits by which a node is found.
const SHORTEST_ID_PREFIX: usize = 2;

impl Reader {
    /// All nodes, by name.
    pub fn nodes(&self, filter: &Filter) -> Answer<Vec<Arc<NodeRow>>> {
        self.answer(vec![Topic::Nodes], |tables| {
            let seen =
                tables.catalog.nodes().filter(|entry| self.sees_node(entry) && filter.takes_node(&entry.row.node));
            let mut nodes: Vec<_> = seen.map(|entry| Arc::clone(&entry.row)).collect();
            tables.sort_near(&mut nodes, filter.near.as_deref(), |row| row.node.name.as_str());
            nodes
        })
    }

    /// Names of all services with the tags of their instances, both sorted.
    pub fn services(&self, filter: &Filter) -> Answer<BTreeMap<String, Vec<String>>> {
        let mut topics = vec![Topic::Services];
        if !filter.node_meta.is_empty() {
            topics.push(Topic::Nodes);
        }
        let found = self.answer(topics, |tables| {
            // Spellings of one name count as different here, as in the original.
            let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
            for name in tables.catalog.service_names() {
                for (entry, row) in tables.catalog.instances(name, Side::Ordinary) {
                    if !filter.takes_node(&entry.row.node) || !self.caller.reads_service(row.service.name.as_str()) {
                        continue;
                    }
                    let name = row.service.name.as_str();
                    if !found.contains_key(name) {
                        found.insert(name.to_owned(), BTreeSet::new());
                    }
                    let (Some(tags), Some(own)) = (found.get_mut(name), &row.service.tags) else { continue };
                    for tag in own {
                        if !tags.contains(tag) {
                            tags.insert(tag.clone());
                        }
                    }
                }
            }
            found
        });
        found.map(|found| found.into_iter().map(|(name, tags)| (name, tags.into_iter().collect())).collect())
    }

    /// Instances of a service, by node name and service id; nothing is filtered by health.
    pub fn instances(&self, name: &str, side: Side, filter: &Filter) -> Answer<Vec<Instance>> {
        let name = fold(name);
        let topic = match side {
            Side::Ordinary => Topic::Service((&*name).into()),
            // Who may not see the service does not learn of its proxies either, nor when they change.
            Side::Connect if !self.caller.reads_service(&name) => {
                return Answer { index: Revision::ZERO, topics: Vec::new(), value: Vec::new() };
            }
            Side::Connect => Topic::Connect((&*name).into()),
        };
        self.answer(vec![topic], |tables| {
            let seen = self.seen(&tables.catalog, &name, side, filter);
            let mut instances: Vec<_> = seen.map(|(entry, row)| tables.catalog.instance(entry, row)).collect();
            tables.sort_near(&mut instances, filter.near.as_deref(), |instance| instance.node.node.name.as_str());
            instances
        })
    }

    /// One of these instances, if there is any: tells that the name is known to the caller, and how it is spelled.
    pub fn any_instance(&self, name: &str, side: Side, filter: &Filter) -> Option<Arc<ServiceRow>> {
        let name = fold(name);
        if side == Side::Connect && !self.caller.reads_service(&name) {
            return None;
        }
        let tables = self.replica.tables();
        self.seen(&tables.catalog, &name, side, filter).next().map(|(_, row)| Arc::clone(row))
    }

    /// What can be made of the first node, by name, of which something can be made: found in one look, whatever it looks
    /// at. `take` is asked about nodes that the caller may not see as well; of those nothing is told.
    pub fn find_node<T>(&self, take: impl Fn(&Node) -> Option<T>) -> Option<T> {
        let tables = self.replica.tables();
        tables.catalog.nodes().find_map(|entry| take(&entry.row.node).filter(|_| self.sees_node(entry)))
    }

    /// The same for the instances of services.
    pub fn find_service<T>(&self, take: impl Fn(&Service) -> Option<T>) -> Option<T> {
        let tables = self.replica.tables();
        let catalog = &tables.catalog;
        let mut all = catalog.service_names().flat_map(|name| catalog.instances(name, Side::Ordinary));
        all.find_map(|(entry, row)| {
            let may = || self.sees_node(entry) && self.caller.reads_service(row.service.name.as_str());
            take(&row.service).filter(|_| may())
        })
    }

    /// Instances under a folded name that the caller may see and that the filter takes.
    fn seen<'a>(
        &'a self,
        catalog: &'a Catalog,
        name: &str,
        side: Side,
        filter: &'a Filter,
    ) -> impl Iterator<Item = (&'a NodeEntry, &'a Arc<ServiceRow>)> + use<'a> {
        catalog.instances(name, side).filter(move |(entry, row)| {
            self.sees_node(entry)
                && self.caller.reads_service(row.service.name.as_str())
                && filter.takes_node(&entry.row.node)
                && (side == Side::Connect || filter.takes_tags(&row.service))
        })
    }

    /// A node by name, id, or unique prefix (two hex digits or more) of its id.
    pub fn node(&self, name_or_id: &str) -> Answer<Option<NodeContents>> {
        self.contents(name_or_id, Topic::Node)
    }

    /// The same, but changes of checks do not count: neither in the index nor as something to be woken by.
    pub fn node_services(&self, name_or_id: &str) -> Answer<Option<NodeContents>> {
        self.contents(name_or_id, Topic::NodeServices)
    }

    fn contents(&self, name_or_id: &str, topic: fn(Box<str>) -> Topic) -> Answer<Option<NodeContents>> {
        let tables = self.replica.tables();
        let found = find(&tables.catalog, name_or_id);
        let topics = match &found {
            Found::Node(name) => vec![topic((&**name).into())],
            // Another node may come to have an id that begins so.
            Found::ByPrefix(name) => vec![topic((&**name).into()), Topic::Nodes],
            Found::Nothing { may_be_id: true } => vec![topic((&*fold(name_or_id)).into()), Topic::Nodes],
            Found::Nothing { may_be_id: false } => vec![topic((&*fold(name_or_id)).into())],
        };
        let entry = found.name().and_then(|name| tables.catalog.node(name)).filter(|entry| self.sees_node(entry));
        let value = entry.map(|entry| NodeContents {
            node: Arc::clone(&entry.row),
            services: entry
                .services
                .values()
                .filter(|row| self.caller.reads_service(row.service.name.as_str()))
                .map(Arc::clone)
                .collect(),
            checks: entry.checks.values().filter(|row| self.sees_check(row)).map(Arc::clone).collect(),
        });
        Answer { index: tables.latest(&topics), topics, value }
    }

    /// Checks of a node (by name only), ordered by id.
    pub fn checks_of_node(&self, node: &str) -> Answer<Vec<Arc<CheckRow>>> {
        let node = fold(node);
        self.answer(vec![Topic::NodeChecks((&*node).into())], |tables| {
            let entry = tables.catalog.node(&node).filter(|entry| self.sees_node(entry));
            let checks = entry.into_iter().flat_map(|entry| entry.checks.values());
            checks.filter(|row| self.sees_check(row)).map(Arc::clone).collect()
        })
    }

    /// Checks bound to instances of a service.
    pub fn checks_of_service(&self, service: &str, filter: &Filter) -> Answer<Vec<Arc<CheckRow>>> {
        let service = fold(service);
        self.answer(vec![Topic::Service((&*service).into())], |tables| {
            let instances = tables
                .catalog
                .instances(&service, Side::Ordinary)
                .filter(|(entry, _)| self.sees_node(entry) && filter.takes_node(&entry.row.node));
            let checks = instances.flat_map(|(entry, row)| own_checks(entry, row));
            let mut checks: Vec<_> = checks.filter(|row| self.sees_check(row)).map(Arc::clone).collect();
            tables.sort_near(&mut checks, filter.near.as_deref(), |row| row.check.node.as_str());
            checks
        })
    }

    /// Checks in a state, or all (`None`): by status, node, id.
    pub fn checks_in_state(&self, status: Option<Status>, filter: &Filter) -> Answer<Vec<Arc<CheckRow>>> {
        let mut topics = vec![Topic::Checks];
        if !filter.node_meta.is_empty() {
            topics.push(Topic::Nodes);
        }
        // The order of their words, as in the original, not of their weight.
        let statuses = match status {
            Some(status) => vec![status],
            None => vec![Status::Critical, Status::Passing, Status::Warning],
        };
        self.answer(topics, |tables| {
            let checks = statuses.into_iter().flat_map(|status| tables.catalog.checks_in(status));
            let seen = checks.filter(|(entry, row)| {
                self.sees_node(entry) && self.sees_check(row) && filter.takes_node(&entry.row.node)
            });
            let mut checks: Vec<_> = seen.map(|(_, row)| Arc::clone(row)).collect();
            tables.sort_near(&mut checks, filter.near.as_deref(), |row| row.check.node.as_str());
            checks
        })
    }

    fn sees_node(&self, entry: &NodeEntry) -> bool {
        self.caller.reads_node(entry.row.node.name.as_str())
    }

    /// Whether a check of a node that the caller sees may be seen as well.
    fn sees_check(&self, row: &CheckRow) -> bool {
        row.check.service_id.is_empty() || self.caller.reads_service(row.check.service_name.as_str())
    }
}

impl Filter {
    fn takes_node(&self, node: &Node) -> bool {
        self.node_meta.iter().all(|(key, value)| node.meta.as_ref().and_then(|meta| meta.get(key)) == Some(value))
    }

    fn takes_tags(&self, service: &Service) -> bool {
        let has = |tag: &String| service.tags.iter().flatten().any(|own| own.eq_ignore_ascii_case(tag));
        self.tags.iter().all(has)
    }
}

/// How a text was understood as a node.
enum Found {
    Node(Arc<str>),
    ByPrefix(Arc<str>),
    Nothing { may_be_id: bool },
}

impl Found {
    fn name(&self) -> Option<&Arc<str>> {
        match self {
            Found::Node(name) | Found::ByPrefix(name) => Some(name),
            Found::Nothing { .. } => None,
        }
    }
}

fn find(catalog: &Catalog, name_or_id: &str) -> Found {
    let folded = fold(name_or_id);
    if catalog.node(&folded).is_some() {
        return Found::Node(folded);
    }
    if let Some(name) = catalog.node_with_id(&folded) {
        return Found::Node(Arc::clone(name));
    }
    match id_prefix(&folded) {
        Some(prefix) => match catalog.node_with_id_prefix(&prefix) {
            Some(name) => Found::ByPrefix(Arc::clone(name)),
            None => Found::Nothing { may_be_id: true },
        },
        None => Found::Nothing { may_be_id: false },
    }
}

/// The beginning of a UUID with its dashes, from hex digits with or without them; an odd last digit does not count, as
/// in the original.
fn id_prefix(text: &str) -> Option<String> {
    let digits: String = text.chars().filter(|char| *char != '-').collect();
    if digits.len() > 32 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let digits = digits.get(..digits.len() / 2 * 2).filter(|digits| digits.len() >= SHORTEST_ID_PREFIX)?;
    let mut prefix = String::with_capacity(36);
    for (position, digit) in digits.chars().enumerate() {
        if matches!(position, 8 | 12 | 16 | 20) {
            prefix.push('-');
        }
        prefix.push(digit);
    }
    Some(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_of_an_id_may_be_written_in_several_ways() {
        assert_eq!(id_prefix("1"), None);
        assert_eq!(id_prefix("abc").as_deref(), Some("ab"));
        assert_eq!(id_prefix("0123456789").as_deref(), Some("01234567-89"));
        assert_eq!(id_prefix("01234567-89").as_deref(), Some("01234567-89"));
        assert_eq!(id_prefix("node1"), None);
        assert_eq!(id_prefix(&"a".repeat(33)), None);
    }
}
