//! The instances behind an upstream, as last heard from discovery.

use std::sync::Arc;

use arc_swap::ArcSwap;
use lictor_tls::Target;

use crate::balance::{Instance, Order};
use crate::control::{Candidate, Ranked, Ranking};
use crate::settings::{Destination, DestinationKind, Place};

/// What is held for one destination. Readers see one list or the next, never a mixture.
pub(crate) struct Resolved {
    destination: Destination,
    current: ArcSwap<List>,
}

/// What discovery said.
#[derive(Default)]
pub(crate) struct List {
    pub(crate) instances: Vec<Arc<Instance>>,
    /// In which order they are tried.
    pub(crate) order: Order,
    /// Whether discovery has said anything at all.
    pub(crate) known: bool,
}

impl Resolved {
    pub(crate) fn new(destination: Destination) -> Resolved {
        Resolved { destination, current: ArcSwap::default() }
    }

    pub(crate) fn destination(&self) -> &Destination {
        &self.destination
    }

    /// What is known now.
    pub(crate) fn list(&self) -> Arc<List> {
        self.current.load_full()
    }

    /// Takes a new answer. Instances that are still the same keep what was learnt of them. Returns what cannot be
    /// dialled, and why.
    pub(crate) fn update(&self, ranked: Ranked) -> Vec<String> {
        let Ranked { candidates, ranking } = ranked;
        let before = self.list();
        let mut problems = Vec::new();
        let mut instances = Vec::with_capacity(candidates.len());
        for candidate in candidates {
            match self.instance(&before, candidate) {
                Ok(instance) => instances.push(instance),
                Err(problem) => problems.push(format!("instance left out: {problem}")),
            }
        }
        let order = match ranking {
            Ranking::Alike => Order::Any,
            Ranking::BestFirst => Order::AsGiven,
        };
        self.current.store(Arc::new(List { instances, order, known: true }));
        problems
    }

    fn instance(&self, before: &List, candidate: Candidate) -> Result<Arc<Instance>, String> {
        let Candidate { id, host, port, datacenter, destination, weight } = candidate;
        let Some(service) = destination else {
            return Err(format!("{id} is not a valid connect service"));
        };
        // A query may answer with any service; a name may not, or a wrong answer could redirect traffic.
        if self.destination.kind == DestinationKind::Service && !service.same(&self.destination.name) {
            return Err(format!("{id} speaks for {service}, not for {}", self.destination.name));
        }
        if port == 0 {
            return Err(format!("{id} has no port"));
        }
        let place = Place { host, port };
        // A name is looked up when it is dialled: its server may not answer now, or say something else later.
        let target = Target::new(&place, &datacenter, service.as_str());
        let same = before
            .instances
            .iter()
            .find(|known| known.id == id && known.place == place && known.target == target && known.weight() == weight);
        Ok(match same {
            Some(known) => Arc::clone(known),
            None => Arc::new(Instance::new(id, place, target, weight)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(id: &str, service: Option<&str>) -> Candidate {
        Candidate {
            id: id.into(),
            host: "127.0.0.1".into(),
            port: 1,
            datacenter: "dc1".into(),
            destination: service.map(Into::into),
            weight: 1,
        }
    }

    fn alike(candidates: Vec<Candidate>) -> Ranked {
        Ranked { candidates, ranking: Ranking::Alike }
    }

    fn resolved(kind: DestinationKind) -> Resolved {
        Resolved::new(Destination { kind, name: "db".into(), datacenter: String::new() })
    }

    #[test]
    fn an_instance_with_a_name_is_there_whether_or_not_the_name_can_be_looked_up_now() {
        let resolved = resolved(DestinationKind::Service);
        let named = |id: &str, host: &str| Candidate { host: host.into(), ..candidate(id, Some("db")) };
        // Not asynchronous: no name can keep the others, or what has become critical, waiting.
        let told = resolved.update(alike(vec![named("a", "no-such-host.invalid"), candidate("b", Some("db"))]));
        assert!(told.is_empty(), "{told:?}");
        let list = resolved.list();
        assert_eq!(list.instances.len(), 2);
        // No address is kept for it, so it cannot be one that the name does not stand for any more.
        assert_eq!((list.instances[0].address, list.instances[0].place.host.as_str()), (None, "no-such-host.invalid"));
        assert_eq!(list.instances[1].address, Some(([127, 0, 0, 1], 1).into()));
        assert!(resolved.update(alike(vec![named("a", "other.invalid")])).is_empty());
        assert_ne!(resolved.list().instances[0].target, list.instances[0].target, "sessions are not shared by names");
    }

    #[test]
    fn instances_that_stay_keep_what_was_learnt() {
        let resolved = resolved(DestinationKind::Service);
        assert!(!resolved.list().known);
        assert!(resolved.update(alike(vec![candidate("a", Some("db")), candidate("b", Some("DB"))])).is_empty());
        let before = resolved.list();
        let moved = Candidate { port: 2, ..candidate("b", Some("db")) };
        assert!(resolved.update(alike(vec![moved, candidate("a", Some("db"))])).is_empty());
        let after = resolved.list();
        assert!(Arc::ptr_eq(&after.instances[1], &before.instances[0]));
        assert!(!Arc::ptr_eq(&after.instances[0], &before.instances[1]));
    }

    #[test]
    fn only_a_query_may_lead_elsewhere() {
        let wrong = || vec![candidate("a", Some("cache")), candidate("b", None)];
        let service = resolved(DestinationKind::Service);
        assert_eq!(
            service.update(alike(wrong())),
            [
                "instance left out: a speaks for cache, not for db",
                "instance left out: b is not a valid connect service"
            ]
        );
        assert!(service.list().instances.is_empty() && service.list().known);
        let query = resolved(DestinationKind::Query);
        assert_eq!(query.update(alike(wrong())).len(), 1);
        assert_eq!(query.list().instances[0].target.service(), "cache");
    }
}
