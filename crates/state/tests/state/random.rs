//! The indexes of the catalog against a model without any, under random registrations and removals.

use std::collections::BTreeMap;

use lictor_model::health::Status;
use lictor_model::node::Node;
use lictor_model::service::Service;
use lictor_state::Reader;
use lictor_state::reader::{Instance, Side};
use lictor_state::writer::{Registration, Removal};
use proptest::prelude::*;

use crate::house::{House, With, all, check, node, only, proxy, refusal, service, uuid};

/// One thing that may happen. Small numbers, so that things meet.
#[derive(Clone, Debug)]
enum Event {
    Node { name: u8, id: Option<u8> },
    Service { node: u8, id: u8, name: u8, kind: u8 },
    Check { node: u8, id: u8, service: Option<u8>, status: u8 },
    RemoveNode(u8),
    RemoveService(u8, u8),
    RemoveCheck(u8, u8),
}

fn event() -> impl Strategy<Value = Event> {
    let small = || 0..4_u8;
    prop_oneof![
        1 => (small(), proptest::option::of(0..3_u8)).prop_map(|(name, id)| Event::Node { name, id }),
        4 => (small(), small(), small(), 0..3_u8)
            .prop_map(|(node, id, name, kind)| Event::Service { node, id, name, kind }),
        4 => (small(), 0..6_u8, proptest::option::of(small()), 0..3_u8)
            .prop_map(|(node, id, service, status)| Event::Check { node, id, service, status }),
        1 => small().prop_map(Event::RemoveNode),
        2 => (small(), small()).prop_map(|(node, id)| Event::RemoveService(node, id)),
        2 => (small(), 0..6_u8).prop_map(|(node, id)| Event::RemoveCheck(node, id)),
    ]
}

fn node_name(n: u8) -> String {
    format!("node{n}")
}

fn make_service(id: u8, name: u8, kind: u8) -> Service {
    let id = format!("i{id}");
    match kind {
        0 => service(&id, &format!("s{name}")),
        1 => Service { native: true, ..service(&id, &format!("s{name}")) },
        _ => proxy(&id, &format!("s{name}")),
    }
}

/// What the catalog must show: lists, searched from end to end.
#[derive(Default)]
struct Model {
    nodes: BTreeMap<String, String>,
    services: BTreeMap<(String, String), Service>,
    checks: BTreeMap<(String, String), (String, Status)>,
}

impl Model {
    /// What the event makes of it; `false` when it must be refused.
    fn apply(&mut self, event: &Event) -> bool {
        match event {
            Event::Node { name, id } => {
                self.put_node(node_name(*name), id.map(|id| uuid(id.into())).unwrap_or_default())
            }
            Event::Service { node, id, name, kind } => {
                self.nodes.entry(node_name(*node)).or_default();
                self.services.insert((node_name(*node), format!("i{id}")), make_service(*id, *name, *kind));
                true
            }
            Event::Check { node, id, service, status } => {
                let node = node_name(*node);
                let service = service.map(|id| format!("i{id}")).unwrap_or_default();
                if !service.is_empty() && !self.services.contains_key(&(node.clone(), service.clone())) {
                    return false;
                }
                self.nodes.entry(node.clone()).or_default();
                self.checks.insert((node, format!("c{id}")), (service, status_of(*status)));
                true
            }
            Event::RemoveNode(node) => {
                self.remove_node(&node_name(*node));
                true
            }
            Event::RemoveService(node, id) => {
                let (node, id) = (node_name(*node), format!("i{id}"));
                self.services.remove(&(node.clone(), id.clone()));
                self.checks.retain(|place, (service, _)| place.0 != node || *service != id);
                true
            }
            Event::RemoveCheck(node, id) => {
                self.checks.remove(&(node_name(*node), format!("c{id}")));
                true
            }
        }
    }

    fn put_node(&mut self, name: String, id: String) -> bool {
        if !id.is_empty() {
            let holder = self.nodes.iter().find(|(_, other)| **other == id).map(|(name, _)| name.clone());
            match (holder, self.nodes.get(&name)) {
                (Some(holder), _) if holder == name => {}
                (Some(holder), None) => self.remove_node(&holder),
                (Some(_), Some(_)) => return false,
                (None, Some(other)) if !other.is_empty() => return false,
                (None, _) => {}
            }
        }
        self.nodes.insert(name, id);
        true
    }

    fn remove_node(&mut self, name: &str) {
        self.nodes.remove(name);
        self.services.retain(|place, _| place.0 != name);
        self.checks.retain(|place, _| place.0 != name);
    }

    fn instances(&self, name: &str, side: Side) -> Vec<String> {
        let found = self.services.iter().filter(|(_, service)| match side {
            Side::Ordinary => service.name.as_str() == name,
            Side::Connect => service.connect_destination().is_some_and(|destination| destination.as_str() == name),
        });
        let shown = found.map(|((node, id), _)| {
            let of = |wanted: &str| {
                let checks = self.checks.iter().filter(|(place, (service, _))| place.0 == *node && service == wanted);
                checks.map(|(place, (_, status))| format!("{}={}", place.1, status.as_str())).collect::<Vec<_>>()
            };
            format!("{node}/{id} {}", [of(""), of(id)].concat().join(","))
        });
        shown.collect()
    }

    fn check_against(&self, reader: &Reader) -> Result<(), TestCaseError> {
        let nodes = reader.nodes(&all()).value;
        let nodes: BTreeMap<String, String> =
            nodes.iter().map(|row| (row.node.name.to_string(), row.node.id.clone())).collect();
        prop_assert_eq!(&nodes, &self.nodes);
        for n in 0..4 {
            for name in [format!("s{n}"), format!("s{n}-proxy")] {
                for side in [Side::Ordinary, Side::Connect] {
                    let shown = reader.instances(&name, side, &all()).value;
                    prop_assert_eq!(shown.iter().map(show).collect::<Vec<_>>(), self.instances(&name, side));
                }
            }
        }
        for status in [Status::Passing, Status::Warning, Status::Critical] {
            let shown = reader.checks_in_state(Some(status), &all()).value;
            let shown: Vec<_> =
                shown.iter().map(|row| (row.check.node.to_string(), row.check.id.to_string())).collect();
            let expected: Vec<_> =
                self.checks.iter().filter(|(_, (_, own))| *own == status).map(|(place, _)| place.clone()).collect();
            prop_assert_eq!(shown, expected);
        }
        for (name, id) in &self.nodes {
            if !id.is_empty() {
                let found = reader.node(id).value.expect("found by its id");
                prop_assert_eq!(found.node.node.name.as_str(), name);
            }
        }
        Ok(())
    }
}

fn status_of(n: u8) -> Status {
    [Status::Passing, Status::Warning, Status::Critical][usize::from(n % 3)]
}

fn show(instance: &Instance) -> String {
    let checks: Vec<String> =
        instance.checks.iter().map(|row| format!("{}={}", row.check.id, row.check.status.as_str())).collect();
    format!("{}/{} {}", instance.node.node.name, instance.service.service.id, checks.join(","))
}

async fn carry_out(house: &House, event: &Event, expected: bool) {
    let skipping = |n: u8| Registration { skip_node_update: true, ..only(&node_name(n)) };
    let registration = match event {
        Event::Node { name, id } => {
            let id = id.map(|id| uuid(id.into())).unwrap_or_default();
            Registration { node: Node { id, ..node(&node_name(*name)) }, ..Registration::default() }
        }
        Event::Service { node, id, name, kind } => skipping(*node).with(make_service(*id, *name, *kind)),
        Event::Check { node, id, service, status } => {
            let service = service.map(|id| format!("i{id}")).unwrap_or_default();
            skipping(*node).and(check(&format!("c{id}"), &service, status_of(*status)))
        }
        Event::RemoveNode(node) => return house.writer.deregister(&node_name(*node), Removal::Node).await.unwrap(),
        Event::RemoveService(node, id) => {
            let removal = Removal::Service(format!("i{id}").into());
            return house.writer.deregister(&node_name(*node), removal).await.unwrap();
        }
        Event::RemoveCheck(node, id) => {
            let removal = Removal::Check(format!("c{id}").into());
            return house.writer.deregister(&node_name(*node), removal).await.unwrap();
        }
    };
    let result = house.writer.register(registration).await;
    if expected {
        result.unwrap();
    } else {
        refusal(result);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_indexes_agree_with_a_model_that_has_none(events in proptest::collection::vec(event(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let house = House::new().await;
            let mut model = Model::default();
            for event in &events {
                let reader = house.reader();
                let seen = reader.current();
                let expected = model.apply(event);
                carry_out(&house, event, expected).await;
                model.check_against(&reader)?;
                prop_assert!(reader.current() >= seen);
            }
            // What a restart finds is the same.
            let again = House::over(house.store.clone()).await;
            model.check_against(&again.reader())
        })?;
    }
}
