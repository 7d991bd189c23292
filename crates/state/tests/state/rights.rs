//! What a caller may not see is left out; the index is the same for everybody.

use lictor_model::acl::{Access, Caller, Resource, Rules};
use lictor_model::health::Status;
use lictor_model::intention::Action;
use lictor_model::revision::Revision;
use lictor_state::Error;
use lictor_state::reader::Side;

use crate::house::{House, With, all, check, only, proxy, service, uuid};
use crate::intentions::intention;

fn caller(rules: &[(Resource, &str)]) -> Caller {
    let mut all = Rules::default();
    for (resource, name) in rules {
        all.add_exact(*resource, name, Access::Read);
    }
    Caller::with_rules("a", all, Action::Deny)
}

async fn filled() -> House {
    let house = House::new().await;
    for node in ["n1", "n2"] {
        for name in ["web", "db"] {
            let registration = only(node).with(service(name, name)).and(check(name, name, Status::Passing));
            house.register(registration.and(check("node", "", Status::Passing))).await;
        }
        house.register(only(node).with(proxy("p", "web"))).await;
    }
    house
}

#[tokio::test]
async fn an_instance_needs_the_right_for_its_node_and_for_its_service() {
    let house = filled().await;
    let open = house.reader();
    let some = house.state.reader(&caller(&[(Resource::Node, "n1"), (Resource::Service, "web")]));
    let seen = some.instances("web", Side::Ordinary, &all());
    assert_eq!(seen.value.len(), 1);
    assert_eq!(seen.value[0].checks.len(), 2);
    assert_eq!(seen.index, open.instances("web", Side::Ordinary, &all()).index);
    assert!(some.instances("db", Side::Ordinary, &all()).value.is_empty());
    assert_eq!(some.services(&all()).value.into_keys().collect::<Vec<_>>(), ["web"]);
    assert_eq!(some.nodes(&all()).value.len(), 1);
    let contents = some.node("n1").value.unwrap();
    assert_eq!((contents.services.len(), contents.checks.len()), (1, 2));
    assert!(some.node("n2").value.is_none());
    assert_eq!(some.checks_in_state(None, &all()).value.len(), 2);
    assert_eq!(some.checks_of_node("n1").value.len(), 2);
    assert!(some.checks_of_service("db", &all()).value.is_empty());
}

#[tokio::test]
async fn mesh_instances_need_the_right_for_the_service_they_speak_for() {
    let house = filled().await;
    let without = house.state.reader(&caller(&[(Resource::Node, "n1"), (Resource::Service, "web-proxy")]));
    let hidden = without.instances("web", Side::Connect, &all());
    assert!(hidden.value.is_empty() && hidden.topics.is_empty());
    assert_eq!(hidden.index, Revision::ZERO, "not even when it changed is told");
    let rights = [(Resource::Node, "n1"), (Resource::Service, "web-proxy"), (Resource::Service, "web")];
    let with = house.state.reader(&caller(&rights));
    assert_eq!(with.instances("web", Side::Connect, &all()).value.len(), 1);
}

#[tokio::test]
async fn intentions_are_seen_by_who_may_read_their_destination() {
    let house = House::new().await;
    house.writer.create_intention(intention(1, "a", "web", "allow")).await.unwrap();
    house.writer.create_intention(intention(2, "a", "db", "allow")).await.unwrap();
    let reader = house.state.reader(&caller(&[(Resource::Service, "web")]));
    assert_eq!(reader.intentions().value.len(), 1);
    assert!(reader.intention(&uuid(1)).unwrap().value.is_some());
    assert!(matches!(reader.intention(&uuid(2)), Err(Error::Denied)));
    assert!(reader.intention(&uuid(3)).unwrap().value.is_none());
}
