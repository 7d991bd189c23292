//! Who waits is woken by what was waited for, and by nothing else.

use std::time::Duration;

use lictor_model::health::Status;
use lictor_model::node::Node;
use lictor_model::revision::Revision;
use lictor_model::service::Service;
use lictor_state::Topic;
use lictor_state::reader::Side;
use lictor_state::writer::{Registration, Removal};

use crate::house::{House, SOON, With, all, check, node, only, proxy, service};

/// A blocked read of some topics.
struct Blocked(tokio::task::JoinHandle<()>);

impl House {
    /// Blocks on the topics as they are now.
    async fn block(&self, topics: &[Topic], seen: Revision) -> Blocked {
        let (reader, topics) = (self.reader(), topics.to_vec());
        let blocked = Blocked(tokio::spawn(async move { reader.changed(&topics, seen).await }));
        // One turn of the single-threaded runtime: it is waiting now.
        tokio::task::yield_now().await;
        blocked
    }
}

impl Blocked {
    #[track_caller]
    fn sleeps(&self) {
        assert!(!self.0.is_finished(), "woken by something it did not ask for");
    }

    async fn wakes(self) {
        tokio::time::timeout(SOON, self.0).await.expect("still asleep").unwrap();
    }
}

/// Lets everything run that can.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_watcher_of_a_service_wakes_on_it_alone() {
    let house = House::new().await;
    house.register(only("n1").with(service("web", "web")).and(check("c", "web", Status::Passing))).await;
    house.register(only("n2").with(service("db", "db"))).await;
    let watch = async || {
        let read = house.reader().instances("Web", Side::Ordinary, &all());
        house.block(&read.topics, read.index).await
    };

    // What it did not ask for: another service, another node, an instance beside it, a node's check elsewhere.
    let blocked = watch().await;
    house.register(only("n2").with(Service { port: 81, ..service("db", "db") })).await;
    house.register(only("n2").and(check("n", "", Status::Critical))).await;
    house.register(only("n1").with(service("other", "other")).and(check("o", "other", Status::Critical))).await;
    house.writer.deregister("n1", Removal::Service("other".into())).await.unwrap();
    house.writer.deregister("n2", Removal::Node).await.unwrap();
    settle().await;
    blocked.sleeps();

    // What it asked for, one after the other.
    house.register(only("n1").and(check("c", "web", Status::Critical))).await;
    blocked.wakes().await;
    let blocked = watch().await;
    house.register(only("n1").and(check("node", "", Status::Passing))).await;
    blocked.wakes().await;
    let blocked = watch().await;
    house.register(Registration { node: Node { address: "10.0.0.2".into(), ..node("n1") }, ..only("n1") }).await;
    blocked.wakes().await;
    let blocked = watch().await;
    house.register(only("n3").with(service("web", "web"))).await;
    blocked.wakes().await;
    let blocked = watch().await;
    house.writer.deregister("n1", Removal::Check("c".into())).await.unwrap();
    blocked.wakes().await;
    let blocked = watch().await;
    house.writer.deregister("n1", Removal::Service("web".into())).await.unwrap();
    blocked.wakes().await;
    let blocked = watch().await;
    house.writer.deregister("n3", Removal::Node).await.unwrap();
    blocked.wakes().await;
    let blocked = watch().await;
    house.register(only("n4").with(service("web", "web"))).await;
    blocked.wakes().await;
}

#[tokio::test]
async fn a_watcher_of_mesh_instances_wakes_on_their_proxies() {
    let house = House::new().await;
    house.register(only("n1").with(service("db", "db"))).await;
    let watch = async || {
        let read = house.reader().instances("db", Side::Connect, &all());
        house.block(&read.topics, read.index).await
    };
    let blocked = watch().await;
    house.register(only("n1").with(proxy("db-proxy", "db"))).await;
    blocked.wakes().await;
    let blocked = watch().await;
    house.register(only("n1").and(check("p", "db-proxy", Status::Critical))).await;
    blocked.wakes().await;
    let blocked = watch().await;
    house.register(only("n1").with(Service { port: 9, ..proxy("db-proxy", "db") })).await;
    blocked.wakes().await;
    let blocked = watch().await;
    house.register(only("n2").with(proxy("db-proxy", "db"))).await;
    blocked.wakes().await;
    let blocked = watch().await;
    house.register(only("n2").with(proxy("db-proxy", "web"))).await;
    blocked.wakes().await;
    let blocked = watch().await;
    house.writer.deregister("n1", Removal::Service("db-proxy".into())).await.unwrap();
    blocked.wakes().await;
    // The application itself is no mesh instance: its proxy's health is what counts.
    let blocked = watch().await;
    house.register(only("n1").and(check("app", "db", Status::Critical))).await;
    settle().await;
    blocked.sleeps();
}

#[tokio::test]
async fn a_watcher_that_comes_late_does_not_wait_for_what_it_missed() {
    let house = House::new().await;
    house.register(only("n1").with(service("a", "a"))).await;
    house.register(only("n1").with(service("b", "b")).and(check("c", "b", Status::Passing))).await;
    let reads = || {
        let reader = house.reader();
        let a = reader.instances("a", Side::Ordinary, &all());
        let node = reader.node("n1");
        [(a.topics, a.index), (node.topics, node.index)]
    };
    let before = reads();
    house.writer.deregister("n1", Removal::Service("a".into())).await.unwrap();
    house.writer.deregister("n1", Removal::Node).await.unwrap();
    house.register(only("n2")).await;
    for (topics, seen) in before {
        house.block(&topics, seen).await.wakes().await;
    }
    for (topics, seen) in reads() {
        let blocked = house.block(&topics, seen).await;
        settle().await;
        blocked.sleeps();
    }
}

#[tokio::test]
async fn nobody_is_woken_by_a_write_that_changes_nothing() {
    let house = House::new().await;
    let registration = only("n1").with(service("web", "web")).and(check("c", "web", Status::Passing));
    house.register(registration.clone()).await;
    let seen = house.reader().current();
    let topics = [Topic::Nodes, Topic::Services, Topic::Checks, Topic::Service("web".into())];
    let blocked = house.block(&topics, seen).await;
    house.register(registration).await;
    settle().await;
    blocked.sleeps();
}

#[tokio::test]
async fn lists_wake_on_their_own_table() {
    let house = House::new().await;
    house.register(only("n1").with(service("web", "web")).and(check("c", "web", Status::Passing))).await;
    let reader = house.reader();
    let watch = async |topic: Topic| house.block(&[topic], reader.current()).await;

    let (nodes, services, checks) =
        (watch(Topic::Nodes).await, watch(Topic::Services).await, watch(Topic::Checks).await);
    let node_services = watch(Topic::NodeServices("n1".into())).await;
    house.register(only("n1").and(check("c", "web", Status::Warning))).await;
    checks.wakes().await;
    settle().await;
    nodes.sleeps();
    services.sleeps();
    node_services.sleeps();

    house.register(only("n1").with(service("more", "web"))).await;
    services.wakes().await;
    node_services.wakes().await;
    settle().await;
    nodes.sleeps();
    house.register(only("n2")).await;
    nodes.wakes().await;
}

#[tokio::test]
async fn without_topics_there_is_nothing_to_wait_for() {
    let house = House::new().await;
    let reader = house.reader();
    let waited = tokio::time::timeout(Duration::from_millis(5), reader.changed(&[], Revision::ZERO)).await;
    assert!(waited.is_err());
}
