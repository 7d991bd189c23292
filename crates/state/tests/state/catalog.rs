//! Nodes, instances and checks: identity, no-ops, cascades, order.

use lictor_model::health::Status;
use lictor_model::node::Node;
use lictor_model::revision::Revision;
use lictor_model::service::{Service, Weights};
use lictor_state::reader::{Filter, Side};
use lictor_state::writer::{Registration, Removal};

use crate::house::{House, With, all, check, node, only, proxy, refusal, service, uuid};

fn names(list: &[lictor_state::reader::Instance]) -> Vec<String> {
    list.iter().map(|instance| format!("{}/{}", instance.node.node.name, instance.service.service.id)).collect()
}

#[tokio::test]
async fn what_is_registered_is_found_at_once() {
    let house = House::new().await;
    house.register(only("n1").with(service("web1", "web")).and(check("c", "web1", Status::Passing))).await;
    let found = house.reader().instances("WEB", Side::Ordinary, &all());
    assert_eq!(names(&found.value), ["n1/web1"]);
    assert_eq!(found.value[0].status(), Status::Passing);
    let row = &found.value[0].checks[0];
    assert_eq!((row.check.node.as_str(), row.check.service_name.as_str()), ("n1", "web"));
    assert_eq!(found.index, row.modified);
    assert_eq!(found.value[0].node.created, row.modified, "one registration is one revision");
}

#[tokio::test]
async fn registering_the_same_again_changes_no_revision() {
    let house = House::new().await;
    let registration = only("n1").with(service("web1", "web")).and(check("c", "web1", Status::Passing));
    house.register(registration.clone()).await;
    let before = house.reader().current();
    house.register(registration).await;
    assert_eq!(house.reader().current(), before);
    assert_eq!(house.store.current().await.unwrap().0, before.0, "nothing was written at all");
}

#[tokio::test]
async fn a_changed_instance_keeps_when_it_was_created() {
    let house = House::new().await;
    house.register(only("n1").with(service("larder", "larder"))).await;
    let first = house.reader().instances("larder", Side::Ordinary, &all()).value.remove(0).service;
    house.register(only("n1").with(Service { port: 81, ..service("LARDER", "Larder") })).await;
    let found = house.reader().instances("larder", Side::Ordinary, &all());
    assert_eq!(names(&found.value), ["n1/LARDER"]);
    let second = &found.value[0].service;
    assert_eq!(second.created, first.created);
    assert!(second.modified > first.modified);
    assert_eq!(found.index, second.modified);
}

#[tokio::test]
async fn an_instance_that_is_removed_and_added_is_a_new_one() {
    let house = House::new().await;
    house.register(only("n1").with(service("web", "web"))).await;
    let first = house.reader().instances("web", Side::Ordinary, &all()).value.remove(0).service.created;
    house.writer.deregister("n1", Removal::Service("web".into())).await.unwrap();
    house.register(only("n1").with(service("web", "web"))).await;
    assert!(house.reader().instances("web", Side::Ordinary, &all()).value[0].service.created > first);
}

#[tokio::test]
async fn an_instance_that_changes_its_name_is_no_longer_found_under_the_old_one() {
    let house = House::new().await;
    house.register(only("n1").with(service("s", "old"))).await;
    house.register(only("n1").with(service("s", "new"))).await;
    let reader = house.reader();
    assert!(reader.instances("old", Side::Ordinary, &all()).value.is_empty());
    assert_eq!(names(&reader.instances("new", Side::Ordinary, &all()).value), ["n1/s"]);
    assert_eq!(reader.services(&all()).value.into_keys().collect::<Vec<_>>(), ["new"]);
}

#[tokio::test]
async fn instances_come_by_node_and_id_without_case_and_checks_of_the_node_first() {
    let house = House::new().await;
    for (name, id) in [("n2", "a"), ("N1", "b"), ("n1", "A"), ("n10", "a")] {
        house.register(only(name).with(service(id, "web"))).await;
    }
    let n1 = Registration { skip_node_update: true, ..only("n1") };
    let own = n1.clone().with(service("b", "web")).and(check("a-own", "b", Status::Passing));
    house.register(own.and(check("z-node", "", Status::Warning))).await;
    house.register(n1.and(check("B-node", "", Status::Passing))).await;
    let found = house.reader().instances("web", Side::Ordinary, &all()).value;
    assert_eq!(names(&found), ["n1/A", "n1/b", "n10/a", "n2/a"]);
    let ids: Vec<&str> = found[1].checks.iter().map(|row| row.check.id.as_str()).collect();
    assert_eq!(ids, ["B-node", "z-node", "a-own"]);
    assert_eq!(found[0].checks.len(), 2);
}

#[tokio::test]
async fn lists_are_narrowed_by_tags_and_node_metadata() {
    let house = House::new().await;
    let meta = |value: &str| Some([("rack".to_owned(), value.to_owned())].into());
    let tagged = |id: &str, tags: &[&str]| Service {
        tags: Some(tags.iter().map(|tag| (*tag).to_owned()).collect()),
        ..service(id, "web")
    };
    for (name, rack, tags) in [("n1", "r1", &["Red", "v1"][..]), ("n2", "r2", &["red"]), ("n3", "r1", &[])] {
        let node = Node { meta: meta(rack), ..node(name) };
        house.register(Registration { node, ..Registration::default() }.with(tagged("web", tags))).await;
    }
    let reader = house.reader();
    let by = |tags: &[&str], rack: Option<&str>| {
        let filter = Filter {
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            node_meta: rack.map(|rack| ("rack".to_owned(), rack.to_owned())).into_iter().collect(),
            near: None,
        };
        names(&reader.instances("web", Side::Ordinary, &filter).value)
    };
    assert_eq!(by(&["red"], None), ["n1/web", "n2/web"]);
    assert_eq!(by(&["red", "V1"], None), ["n1/web"]);
    assert_eq!(by(&["red", "nope"], None), Vec::<String>::new());
    assert_eq!(by(&[], Some("r1")), ["n1/web", "n3/web"]);
    let filter = Filter { node_meta: vec![("rack".into(), "r2".into())], ..all() };
    assert_eq!(reader.services(&filter).value["web"], ["red"]);
    assert_eq!(reader.services(&all()).value["web"], ["Red", "red", "v1"]);
    assert_eq!(reader.nodes(&filter).value.len(), 1);
}

#[tokio::test]
async fn mesh_instances_are_proxies_of_the_service_and_native_ones() {
    let house = House::new().await;
    house.register(only("n1").with(service("db", "db"))).await;
    house.register(only("n1").with(proxy("db-proxy", "DB"))).await;
    house.register(only("n2").with(Service { native: true, ..service("db", "db") })).await;
    house.register(only("n2").with(Service { native: true, ..proxy("odd", "web") })).await;
    let reader = house.reader();
    let mesh = |name: &str| names(&reader.instances(name, Side::Connect, &all()).value);
    assert_eq!(mesh("db"), ["n1/db-proxy", "n2/db"]);
    assert_eq!(mesh("web"), ["n2/odd"]);
    assert_eq!(mesh("db-proxy"), Vec::<String>::new());
    assert_eq!(names(&reader.instances("db-proxy", Side::Ordinary, &all()).value), ["n1/db-proxy"]);
    house.register(only("n1").with(proxy("db-proxy", "web"))).await;
    assert_eq!(mesh("db"), ["n2/db"]);
    assert_eq!(mesh("web"), ["n1/db-proxy", "n2/odd"]);
}

#[tokio::test]
async fn bad_registrations_are_refused_in_the_words_clients_know() {
    let house = House::new().await;
    let refused = async |registration: Registration| refusal(house.writer.register(registration).await);
    assert_eq!(refused(only("")).await, "Must provide node");
    let no_address = Registration { node: Node { address: String::new(), ..node("n1") }, ..Registration::default() };
    assert_eq!(refused(no_address).await, "Must provide address if SkipNodeUpdate is not set");
    let with_id = |id: &str| Registration { node: Node { id: id.into(), ..node("n1") }, ..Registration::default() };
    assert_eq!(refused(with_id("not-a-uuid")).await, "Bad node ID: uuid string is wrong length");
    assert_eq!(refused(with_id(&"x".repeat(36))).await, "Bad node ID: uuid is improperly formatted");
    assert_eq!(refused(only("n1").with(service("id", ""))).await, "Must provide service name with ID");
    let any = Service { address: "0.0.0.0".into(), ..service("s", "s") };
    assert_eq!(refused(only("n1").with(any)).await, "Invalid service address");
    let other = lictor_model::health::Check { node: "other".into(), ..check("c", "", Status::Passing) };
    assert_eq!(refused(only("ext1").and(other)).await, "check node \"other\" does not match node \"ext1\"");
    assert_eq!(
        refused(only("ext1").and(check("c", "nosuch", Status::Passing))).await,
        "failed inserting check: Missing service registration on node \"ext1\""
    );
    let meta = Service { meta: Some([("a b".to_owned(), String::new())].into()), ..service("s", "s") };
    assert_eq!(
        refused(only("n1").with(meta)).await,
        "failed inserting service: Invalid Service Meta for node n1 and serviceID s: \
         Couldn't load metadata pair ('a b', ''): Key contains invalid characters"
    );
    let long = refused(only(&"n".repeat(5000))).await;
    assert!(long.contains("is too long (5000 bytes, limit: 4096)"), "{long}");
    assert!(house.reader().nodes(&all()).value.is_empty(), "a refused registration leaves nothing behind");
}

#[tokio::test]
async fn weights_that_make_no_sense_become_one_and_one() {
    let house = House::new().await;
    let heavy = Service { weights: Weights { passing: 0, warning: -1 }, ..service("s", "s") };
    house.register(only("n1").with(heavy)).await;
    let found = house.reader().instances("s", Side::Ordinary, &all()).value;
    assert_eq!(found[0].service.service.weights, Weights::default());
}

#[tokio::test]
async fn skipping_the_node_update_leaves_an_existing_record_alone() {
    let house = House::new().await;
    house.register(only("n1")).await;
    let before = house.reader().node("n1").value.unwrap().node;
    let node = Node { address: "10.9.9.9".into(), ..node("n1") };
    let skipping = Registration { node: node.clone(), skip_node_update: true, ..Registration::default() };
    house.register(skipping.clone().with(service("s", "s"))).await;
    assert_eq!(house.reader().node("n1").value.unwrap().node, before);
    let unknown = Registration { node: Node { name: "n2".into(), ..node }, ..skipping };
    house.register(unknown).await;
    assert_eq!(house.reader().node("n2").value.unwrap().node.node.address, "10.9.9.9");
}

#[tokio::test]
async fn a_node_that_comes_back_under_another_name_is_renamed() {
    let house = House::new().await;
    let with_id =
        |name: &str, id: u32| Registration { node: Node { id: uuid(id), ..node(name) }, ..Registration::default() };
    house.register(with_id("old", 1).with(service("s", "s")).and(check("c", "s", Status::Passing))).await;
    let created = house.reader().node("old").value.unwrap().node.created;
    house.register(with_id("new", 1)).await;
    let reader = house.reader();
    assert!(reader.node("old").value.is_none());
    assert!(reader.instances("s", Side::Ordinary, &all()).value.is_empty());
    let renamed = reader.node("new").value.unwrap();
    assert_eq!(renamed.node.created, created);
    assert!(renamed.node.modified > created);
    assert!(renamed.services.is_empty() && renamed.checks.is_empty());
    // The name and the id are free again for others.
    house.register(with_id("old", 2)).await;
    assert_eq!(house.reader().nodes(&all()).value.len(), 2);
    let why = refusal(house.writer.register(with_id("OLD", 1)).await);
    let expected = format!(
        "failed inserting node: Error while renaming Node ID: \"{}\": Node name OLD is reserved by node {} with name old",
        uuid(1),
        uuid(2)
    );
    assert_eq!(why, expected);
}

#[tokio::test]
async fn a_name_with_an_id_is_reserved_and_one_without_can_be_taken_over() {
    let house = House::new().await;
    let with_id = |id: &str| Registration { node: Node { id: id.into(), ..node("ext2") }, ..Registration::default() };
    house.register(only("ext2").with(service("s", "s"))).await;
    let created = house.reader().node("ext2").value.unwrap().node.created;
    house.register(with_id(&uuid(1))).await;
    let taken = house.reader().node("ext2").value.unwrap();
    assert_eq!((taken.node.created, taken.services.len()), (created, 1));
    let why = refusal(house.writer.register(with_id(&uuid(2))).await);
    assert!(why.ends_with(&format!("Node name ext2 is reserved by node {} with name ext2", uuid(1))), "{why}");
    // Without an id the record is replaced, and the id may be used elsewhere.
    house.register(only("ext2")).await;
    assert_eq!(house.reader().node("ext2").value.unwrap().node.node.id, "");
    let elsewhere = Registration { node: Node { id: uuid(1), ..node("ext3") }, ..Registration::default() };
    house.register(elsewhere).await;
    assert!(house.reader().node("ext2").value.is_some());
}

#[tokio::test]
async fn a_node_is_found_by_name_id_and_unique_beginning_of_its_id() {
    let house = House::new().await;
    for (name, id) in [("n1", 0x1111_0000_u32), ("n2", 0x1122_0000)] {
        let node = Node { id: uuid(id), ..node(name) };
        house.register(Registration { node, ..Registration::default() }).await;
    }
    let reader = house.reader();
    let found = |text: &str| reader.node(text).value.map(|found| found.node.node.name.to_string());
    assert_eq!(found("N1").as_deref(), Some("n1"));
    assert_eq!(found(&uuid(0x1122_0000)).as_deref(), Some("n2"));
    assert_eq!(found("1111").as_deref(), Some("n1"));
    assert_eq!(found("11117").as_deref(), Some("n1"), "an odd last digit does not count");
    assert_eq!(found("11"), None, "two nodes begin so");
    assert_eq!(found("1"), None);
    assert_eq!(found("zz"), None);
    assert_eq!(reader.node("zz").index, Revision::ZERO);
}

#[tokio::test]
async fn removing_a_node_removes_everything_on_it_and_nothing_else() {
    let house = House::new().await;
    for name in ["n1", "n10", "n"] {
        house.register(only(name).with(service("s", "s")).and(check("c", "s", Status::Passing))).await;
    }
    for n in 0..300 {
        let many = Registration { skip_node_update: true, ..only("n1") };
        house.register(many.with(service(&format!("s{n}"), "many"))).await;
    }
    house.writer.deregister("N1", Removal::Node).await.unwrap();
    let reader = house.reader();
    assert!(reader.node("n1").value.is_none());
    assert!(reader.instances("many", Side::Ordinary, &all()).value.is_empty());
    assert_eq!(names(&reader.instances("s", Side::Ordinary, &all()).value), ["n/s", "n10/s"]);
    assert_eq!(reader.checks_in_state(None, &all()).value.len(), 2);
    let left = house.store.scan(b"state/").await.unwrap().entries.len();
    assert_eq!(left, 1 + 2 * 3, "format, and node, service and check of the two others");
}

#[tokio::test]
async fn removing_an_instance_takes_its_checks_however_many() {
    let house = House::new().await;
    let many = (0..300).fold(only("n1").with(service("s", "s")), |registration, n| {
        registration.and(check(&format!("c{n}"), "s", Status::Passing))
    });
    house.register(many.and(check("node", "", Status::Passing))).await;
    assert_eq!(house.reader().checks_of_service("s", &all()).value.len(), 300);
    house.writer.deregister("n1", Removal::Service("S".into())).await.unwrap();
    let left = house.reader().checks_of_node("n1").value;
    assert_eq!(left.iter().map(|row| row.check.id.as_str()).collect::<Vec<_>>(), ["node"]);
}

#[tokio::test]
async fn removing_what_is_not_there_is_fine() {
    let house = House::new().await;
    house.register(only("n1")).await;
    let before = house.reader().current();
    for removal in [Removal::Service("x".into()), Removal::Check("x".into())] {
        house.writer.deregister("n1", removal.clone()).await.unwrap();
        house.writer.deregister("n2", removal).await.unwrap();
    }
    house.writer.deregister("n2", Removal::Node).await.unwrap();
    assert_eq!(house.reader().current(), before);
    assert_eq!(refusal(house.writer.deregister("", Removal::Node).await), "Must provide node");
}

#[tokio::test]
async fn a_name_nobody_has_reports_when_a_service_was_last_lost() {
    let house = House::new().await;
    house.register(only("n1").with(service("a", "a"))).await;
    house.register(only("n1").with(service("b", "b"))).await;
    let reader = house.reader();
    let index = |name: &str| reader.instances(name, Side::Ordinary, &all()).index;
    assert_eq!(index("never"), house.reader().current(), "nothing was lost yet");
    house.writer.deregister("n1", Removal::Service("a".into())).await.unwrap();
    let lost = house.reader().current();
    house.register(only("n1").with(Service { port: 1, ..service("b", "b") })).await;
    assert_eq!((index("a"), index("never")), (lost, lost));
    assert_eq!(index("b"), house.reader().current());
}

#[tokio::test]
async fn checks_in_a_state_come_by_word_node_and_id() {
    let house = House::new().await;
    for (node, id, status) in [
        ("n2", "c", Status::Warning),
        ("n1", "b", Status::Passing),
        ("n1", "a", Status::Critical),
        ("n2", "a", Status::Passing),
    ] {
        house.register(only(node).and(check(id, "", status))).await;
    }
    let reader = house.reader();
    let ids = |status| {
        let found = reader.checks_in_state(status, &all()).value;
        found.iter().map(|row| format!("{}/{}", row.check.node, row.check.id)).collect::<Vec<_>>()
    };
    assert_eq!(ids(None), ["n1/a", "n1/b", "n2/a", "n2/c"]);
    assert_eq!(ids(Some(Status::Passing)), ["n1/b", "n2/a"]);
    house.register(only("n1").and(check("b", "", Status::Warning))).await;
    assert_eq!(ids(Some(Status::Warning)), ["n1/b", "n2/c"]);
    assert_eq!(ids(Some(Status::Passing)), ["n2/a"]);
}

#[tokio::test]
async fn two_processes_over_one_store_agree_and_lose_no_write() {
    let one = House::new().await;
    let two = House::over(one.store.clone()).await;
    // Both change the same node at the same time, many times; each change must be seen by the other.
    let write = async |house: &House, side: &str| {
        for n in 0..50 {
            let registration = only("n1").with(service(&format!("{side}{n}"), "web"));
            house.register(registration.and(check(&format!("{side}{n}"), "", Status::Passing))).await;
        }
    };
    tokio::join!(write(&one, "a"), write(&two, "b"));
    for house in [&one, &two] {
        house.reader().catch_up().await.unwrap();
        assert_eq!(house.reader().instances("web", Side::Ordinary, &all()).value.len(), 100);
        assert_eq!(house.reader().checks_of_node("n1").value.len(), 100);
    }
}

#[tokio::test]
async fn a_state_that_is_opened_again_shows_the_same() {
    let house = House::new().await;
    house.register(only("n1").with(service("a", "a")).and(check("c", "a", Status::Warning))).await;
    house.register(only("n1").with(service("b", "b"))).await;
    house.writer.deregister("n1", Removal::Service("b".into())).await.unwrap();
    let lost = house.reader().current();
    let again = House::over(house.store.clone()).await;
    let (before, after) = (house.reader(), again.reader());
    let rows = |reader: &lictor_state::Reader| {
        let found = reader.instances("a", Side::Ordinary, &all()).value.remove(0);
        (found.node, found.service, found.checks)
    };
    assert_eq!(rows(&before), rows(&after));
    assert!(after.instances("b", Side::Ordinary, &all()).index >= lost, "who slept through the removal learns of it");
}

#[tokio::test]
async fn a_store_of_a_later_version_is_refused() {
    let house = House::new().await;
    let later = lictor_store::Txn::new().put(&b"state/format"[..], &br#"{"version":2}"#[..]);
    house.store.commit(later).await.unwrap();
    let scope = lictor_task::Scope::new("test");
    let config = lictor_state::Config { datacenter: "dc1".into(), ..Default::default() };
    let error = lictor_state::State::open(house.store.clone(), config, &scope).await.unwrap_err();
    assert_eq!(error.to_string(), "state has format 2, this lictor knows format 1: use the version that wrote it");
}
