//! Instances behind names that were asked for, with what their records are made of, kept until they change.
//!
//! What is kept holds as long as nothing of the service changed and whoever asks sees the same; both are looked at on each use, so
//! nothing has to be told to forget. It belongs to one set of settings and goes with it.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use hickory_proto::rr::Name;
use lictor_model::acl::Caller;
use lictor_model::health::Status;
use lictor_model::revision::Revision;
use lictor_state::Reader;
use lictor_state::answer::Topic;
use lictor_state::reader::{Filter, Instance, Side};
use parking_lot::Mutex;

use crate::config::Settings;
use crate::record::{self, Host};

/// So many instances are kept at most, for all names together. Beyond it everything is forgotten: what is asked often is back at
/// once.
const MOST: usize = 16_384;

/// Which instances are asked for. Names are in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Wanted {
    pub(crate) name: String,
    pub(crate) tag: Option<String>,
    pub(crate) side: Side,
}

/// All that are kept.
#[derive(Debug, Default)]
pub(crate) struct Kept(Mutex<Shelf>);

#[derive(Debug, Default)]
struct Shelf {
    groups: HashMap<Wanted, Arc<Group>>,
    places: usize,
}

/// Healthy instances behind one name.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) places: Vec<Place>,
    /// To whom they are shown.
    caller: Caller,
    index: Revision,
    topics: Vec<Topic>,
}

/// An instance, and where it is.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) instance: Instance,
    /// Read when a record is made of it first.
    read: OnceLock<Box<Whereabouts>>,
}

/// What the addresses of an instance mean.
#[derive(Debug)]
pub(crate) struct Whereabouts {
    /// The address of its node.
    pub(crate) node: Host,
    /// Its own address, if it has one.
    pub(crate) own: Option<Host>,
    /// The name of its node; `None` when it cannot be written.
    pub(crate) node_name: Option<Name>,
    pub(crate) location: Option<Location>,
}

/// What an SRV record says; `None` of a [`Whereabouts`] when there is no name that leads there.
#[derive(Debug)]
pub(crate) struct Location {
    pub(crate) target: Name,
    pub(crate) weight: u16,
    pub(crate) port: u16,
}

impl Kept {
    /// The healthy instances that the reader's caller sees.
    pub(crate) fn get(&self, wanted: Wanted, reader: &Reader, settings: &Settings) -> Arc<Group> {
        let known = self.0.lock().groups.get(&wanted).cloned();
        match known {
            Some(group) if group.holds(reader) => group,
            _ => {
                let group = Arc::new(Group::read(&wanted, reader, settings));
                self.0.lock().keep(wanted, Arc::clone(&group));
                group
            }
        }
    }
}

impl Shelf {
    fn keep(&mut self, wanted: Wanted, group: Arc<Group>) {
        let count = group.places.len();
        // Names without instances are without number, and found at once.
        if count == 0 || count > MOST / 2 {
            self.forget(&wanted);
            return;
        }
        if self.places + count > MOST {
            *self = Shelf::default();
        }
        self.places += count;
        if let Some(old) = self.groups.insert(wanted, group) {
            self.places -= old.places.len();
        }
    }

    fn forget(&mut self, wanted: &Wanted) {
        if let Some(old) = self.groups.remove(wanted) {
            self.places -= old.places.len();
        }
    }
}

impl Group {
    fn read(wanted: &Wanted, reader: &Reader, settings: &Settings) -> Group {
        let filter = Filter { tags: wanted.tag.iter().cloned().collect(), ..Filter::default() };
        let found = reader.instances(&wanted.name, wanted.side, &filter);
        let is_healthy = |instance: &Instance| match instance.status() {
            Status::Passing => true,
            Status::Warning => !settings.config.only_passing,
            Status::Critical => false,
        };
        let places = found.value.into_iter().filter(is_healthy).map(Place::new).collect();
        Group { places, caller: reader.caller().clone(), index: found.index, topics: found.topics }
    }

    /// Whether this is what the reader would find.
    fn holds(&self, reader: &Reader) -> bool {
        self.caller.is_same(reader.caller()) && reader.is_current(&self.topics, self.index)
    }
}

impl Place {
    pub(crate) fn new(instance: Instance) -> Place {
        Place { instance, read: OnceLock::new() }
    }

    /// What its addresses mean; with the same settings every time.
    pub(crate) fn whereabouts(&self, settings: &Settings) -> &Whereabouts {
        self.read.get_or_init(|| Box::new(Whereabouts::read(&self.instance, settings)))
    }

    /// Whether it has an address that is not its node's.
    pub(crate) fn is_elsewhere(&self) -> bool {
        let own = &self.instance.service.service.address;
        !own.is_empty() && *own != self.instance.node.node.address
    }
}

impl Whereabouts {
    fn read(instance: &Instance, settings: &Settings) -> Whereabouts {
        let (node, service) = (&instance.node.node, &instance.service.service);
        let own = (!service.address.is_empty()).then(|| Host::read(&service.address));
        let node_name = record::below(node.name.as_str(), &settings.node_suffix);
        // An instance with an address of its own is not where its node's name leads, so its target spells the
        // address. A host name cannot be spelled: the node's name then becomes an alias for it.
        let target = match own {
            Some(Host::Ip(ip)) if service.address != node.address => record::spelled(ip, &settings.addr_suffix),
            _ => node_name.clone(),
        };
        let port = u16::try_from(service.port).unwrap_or(0);
        let location = target.map(|target| Location { target, weight: weight(instance), port });
        Whereabouts { node: Host::read(&node.address), own, node_name, location }
    }
}

/// The weight by health. A critical instance is only here because a query ignores the check that says so.
fn weight(instance: &Instance) -> u16 {
    let weights = instance.service.service.weights;
    let statuses = instance.checks.iter().map(|row| row.check.status);
    let weight = match Status::worst(statuses.filter(|status| *status != Status::Critical)) {
        Status::Warning => weights.warning,
        Status::Passing | Status::Critical => weights.passing,
    };
    u16::try_from(weight.max(0)).unwrap_or(u16::MAX)
}

/// All of them, in an order that is another each time.
pub(crate) fn shuffled<T>(all: &[T]) -> impl ExactSizeIterator<Item = &T> {
    let mut order: Vec<usize> = (0..all.len()).collect();
    // Chosen one by one, since mostly few are taken.
    (0..all.len()).map(move |next| {
        order.swap(next, fastrand::usize(next..all.len()));
        &all[order[next]]
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use lictor_model::acl::Rules;
    use lictor_model::intention::Action;
    use lictor_model::node::Node;
    use lictor_model::service::Service;
    use lictor_state::writer::Registration;
    use lictor_state::{State, Writer};
    use lictor_store::Store;
    use lictor_task::Scope;

    use super::*;
    use crate::config::Config;

    const LIMIT: std::time::Duration = std::time::Duration::from_secs(10);

    async fn register(writer: &Writer, name: &str, count: usize) {
        for number in 0..count {
            let service =
                Service { id: format!("{name}-{number}").as_str().into(), name: name.into(), ..Service::default() };
            let node = Node { name: "n".into(), address: "10.0.0.1".into(), ..Node::default() };
            writer.register(Registration { node, service: Some(service), ..Registration::default() }).await.unwrap();
        }
    }

    fn wanted(name: &str) -> Wanted {
        Wanted { name: name.into(), tag: None, side: Side::Ordinary }
    }

    #[tokio::test]
    async fn what_is_kept_holds_until_it_changes_and_for_who_sees_the_same() {
        let scope = Scope::new("test");
        let (state, writer) = State::open(Store::memory(), lictor_state::Config::default(), &scope).await.unwrap();
        let settings = Settings::new(Config::default()).unwrap();
        register(&writer, "db", 2).await;
        register(&writer, "web", 1).await;
        let all = state.reader(&Caller::acls_disabled());
        let db = |reader: &Reader| settings.kept.get(wanted("db"), reader, &settings);

        let first = db(&all);
        assert_eq!(first.places.len(), 2);
        assert!(Arc::ptr_eq(&first, &db(&state.reader(&Caller::management("other")))), "it is found again");
        register(&writer, "web", 3).await;
        assert!(Arc::ptr_eq(&first, &db(&all)), "a change of something else does not matter");
        register(&writer, "db", 3).await;
        assert_eq!(db(&all).places.len(), 3);

        let nobody = state.reader(&Caller::with_rules("", Rules::default(), Action::Deny));
        assert_eq!(db(&nobody).places.len(), 0, "what others see is not shown");
        assert_eq!(db(&all).places.len(), 3);
        assert_eq!(settings.kept.get(wanted("none"), &all, &settings).places.len(), 0);
        let size = |shelf: &Shelf| (shelf.groups.len(), shelf.places);
        assert_eq!(size(&settings.kept.0.lock()), (1, 3), "a name without instances takes no room");
        scope.join(LIMIT).await;
    }

    #[tokio::test]
    async fn no_more_is_kept_than_there_is_room_for() {
        let scope = Scope::new("test");
        let (state, writer) = State::open(Store::memory(), lictor_state::Config::default(), &scope).await.unwrap();
        register(&writer, "db", 1).await;
        let reader = state.reader(&Caller::acls_disabled());
        let found = reader.instances("db", Side::Ordinary, &Filter::default());
        let group = |count: usize| {
            let places = found.value.iter().cycle().take(count).cloned().map(Place::new).collect();
            let (caller, topics) = (reader.caller().clone(), found.topics.clone());
            Arc::new(Group { places, caller, index: found.index, topics })
        };
        let mut shelf = Shelf::default();
        for number in 0..100 {
            shelf.keep(wanted(&format!("s{number}")), group(MOST / 10));
            assert!(shelf.places <= MOST);
            assert_eq!(shelf.places, shelf.groups.values().map(|group| group.places.len()).sum::<usize>());
        }
        let kept = shelf.groups.len();
        shelf.keep(wanted("s99"), group(MOST / 2 + 1));
        assert_eq!(shelf.groups.len(), kept - 1, "one that is too large is not kept, nor what it was before");
        scope.join(LIMIT).await;
    }

    #[test]
    fn each_comes_once_in_every_order() {
        let mut orders = HashSet::new();
        while orders.len() < 6 {
            let order: Vec<u8> = shuffled(&[1, 2, 3]).copied().collect();
            assert_eq!(order.iter().collect::<HashSet<_>>().len(), 3);
            orders.insert(order);
        }
        assert_eq!(shuffled::<u8>(&[]).len(), 0);
    }
}
