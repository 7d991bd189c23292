//! What one transaction has no room for: it is done behind it and wholly, and nothing else is done.

use bytes::Bytes;
use lictor_model::acl::Caller;
use lictor_model::health::{Check, Status};
use lictor_model::node::Node;
use lictor_model::revision::Revision;
use lictor_state::session::Session;
use lictor_state::writer::{KvVerb, Put, Registration, Removal, TxnFailure, TxnOp, TxnOutcome, Verb};
use lictor_store::{EtcdSettings, Store, Txn};
use lictor_testkit::Etcd;
use tokio::time::Instant;

use crate::house::{House, SOON, With, all, check, node, only, service, uuid};

/// More than one transaction can let go.
const MANY: usize = 300;

impl House {
    /// Node `n1` with an id, and a session on it that holds many keys.
    async fn crowded() -> House {
        House::crowded_over(Store::memory()).await
    }

    async fn crowded_over(store: Store) -> House {
        let house = House::over(store).await;
        house.register(named("n1")).await;
        house.crowd(Session { id: uuid(1), node: "n1".into(), ..Session::default() }).await;
        house
    }

    async fn crowd(&self, session: Session) {
        let holder = session.id.clone();
        self.writer.create_session(session, SOON).await.unwrap();
        for n in 0..MANY {
            assert!(self.put(&format!("many/{n}"), "", Put::Acquire(holder.clone())).await);
        }
    }

    /// An instance `a` with many checks on node `n1`.
    async fn with_many_checks() -> House {
        House::with_many_checks_over(Store::memory()).await
    }

    async fn with_many_checks_over(store: Store) -> House {
        let house = House::over(store).await;
        let many = (0..MANY).fold(only("n1").with(service("a", "old")), |registration, n| {
            registration.and(check(&format!("c{n}"), "a", Status::Passing))
        });
        house.register(many).await;
        house
    }

    fn nodes(&self) -> Vec<String> {
        self.reader().nodes(&all()).value.iter().map(|row| row.node.name.to_string()).collect()
    }

    fn held(&self) -> usize {
        self.reader().kv_below("many/").value.iter().filter(|row| row.session.is_some()).count()
    }

    async fn transact(&self, ops: &[TxnOp]) -> TxnOutcome {
        self.writer.txn(&Caller::acls_disabled(), ops).await.unwrap()
    }

    async fn commits(&self, ops: &[TxnOp]) {
        let outcome = self.transact(ops).await;
        assert!(matches!(outcome, TxnOutcome::Done(_)), "{outcome:?}");
    }
}

fn identified(name: &str) -> Node {
    Node { id: uuid(7), ..node(name) }
}

fn named(name: &str) -> Registration {
    Registration { node: identified(name), ..Registration::default() }
}

fn on_node(verb: Verb, node: Node, index: Revision) -> TxnOp {
    TxnOp::Node { verb, node, index }
}

fn on_instance(verb: Verb, name: &str) -> TxnOp {
    TxnOp::Service { verb, node: "n1".into(), service: service("a", name), index: Revision::ZERO }
}

fn on_key(verb: KvVerb, key: &str) -> TxnOp {
    let (key, session) = (key.into(), String::new());
    TxnOp::Kv { verb, key, value: Bytes::new(), flags: 0, index: Revision(1), session }
}

/// Waits until it is so.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + SOON;
    while !is_so() {
        assert!(Instant::now() < end, "never: {what}");
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_refused_transaction_removes_nothing() {
    let house = House::crowded().await;
    house.set("k", "").await;
    let delete = on_node(Verb::Delete, node("n1"), Revision::ZERO);
    let stale = on_node(Verb::DeleteCas, node("n1"), Revision(1));
    for ops in [vec![delete, on_key(KvVerb::CheckIndex, "k")], vec![stale]] {
        let before = house.reader().current();
        let outcome = house.transact(&ops).await;
        assert!(matches!(outcome, TxnOutcome::Failed(_)), "{outcome:?}");
        assert_eq!(house.reader().current(), before);
        assert_eq!((house.nodes(), house.held()), (vec!["n1".to_owned()], MANY));
    }
}

#[tokio::test]
async fn what_is_set_behind_its_removal_stays() {
    let house = House::with_many_checks().await;
    let kept = Check { node: "n1".into(), ..check("c7", "a", Status::Passing) };
    let kept = TxnOp::Check { verb: Verb::Set, check: kept, index: Revision::ZERO };
    house.commits(&[on_instance(Verb::Delete, "old"), on_instance(Verb::Set, "new"), kept]).await;
    let reader = house.reader();
    let contents = reader.node("n1").value.unwrap();
    let services: Vec<_> = contents.services.iter().map(|row| row.service.name.as_str()).collect();
    let checks: Vec<_> = contents.checks.iter().map(|row| row.check.id.as_str()).collect();
    assert_eq!((services, checks), (vec!["new"], vec!["c7"]));
    assert!(reader.instances("old", lictor_state::reader::Side::Ordinary, &all()).value.is_empty());

    let house = House::crowded().await;
    let again =
        [on_node(Verb::Delete, node("n1"), Revision::ZERO), on_node(Verb::Set, identified("n1"), Revision::ZERO)];
    house.commits(&again).await;
    assert_eq!((house.nodes(), house.held()), (vec!["n1".to_owned()], 0));
    assert!(house.reader().sessions().value.is_empty(), "it was a session of the node that is gone");
}

/// A new place of each kind: the limits of the narrowest hold for all.
async fn each_store(mut work: impl AsyncFnMut(Store)) {
    work(Store::memory()).await;
    let folder = tempfile::tempdir().unwrap();
    work(Store::open_redb(&folder.path().join("state.redb")).unwrap()).await;
    if let Some(etcd) = Etcd::start(1) {
        let settings = EtcdSettings { endpoints: etcd.endpoints(), ..EtcdSettings::default() };
        work(Store::open_etcd(&settings, lictor_store::Revision::ZERO).await.unwrap()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_is_done_whole_at_every_store() {
    each_store(async |store| {
        let house = House::crowded_over(store.clone()).await;
        let stale = on_node(Verb::DeleteCas, node("n1"), Revision(1));
        let set = on_key(KvVerb::Set, "k");
        assert!(matches!(house.transact(&[set.clone(), stale]).await, TxnOutcome::Failed(_)));
        assert_eq!((house.nodes(), house.held(), house.get("k")), (vec!["n1".to_owned()], MANY, None));
        // Renamed, and gone by its id alone.
        house.commits(&[on_node(Verb::Set, identified("n2"), Revision::ZERO), set]).await;
        assert_eq!((house.nodes(), house.held()), (vec!["n2".to_owned()], 0));
        house.commits(&[on_node(Verb::Delete, identified(""), Revision::ZERO)]).await;
        assert!(house.nodes().is_empty() && house.get("k").is_some());

        let house = House::with_many_checks_over(store.clone()).await;
        house.commits(&[on_instance(Verb::Delete, "old"), on_instance(Verb::Set, "new")]).await;
        for house in [house, House::over(store).await] {
            let contents = house.reader().node("n1").value.unwrap();
            let names: Vec<_> = contents.services.iter().map(|row| row.service.name.as_str()).collect();
            assert_eq!((names, contents.checks.len()), (vec!["new"], 0));
        }
    })
    .await;
}

#[tokio::test]
async fn a_node_that_is_named_by_its_id_alone_is_deleted() {
    let house = House::crowded().await;
    house.commits(&[on_node(Verb::Delete, identified(""), Revision::ZERO)]).await;
    assert_eq!((house.nodes(), house.held(), house.reader().sessions().value.len()), (Vec::new(), 0, 0));
}

#[tokio::test]
async fn a_node_goes_at_the_revision_that_was_seen_however_much_its_sessions_hold() {
    let house = House::crowded().await;
    let seen = house.reader().node("n1").value.unwrap().node.modified;
    house.commits(&[on_node(Verb::DeleteCas, node("n1"), seen)]).await;
    assert_eq!((house.nodes(), house.held(), house.reader().sessions().value.len()), (Vec::new(), 0, 0));
}

#[tokio::test]
async fn the_node_whose_revision_is_compared_is_the_one_that_is_deleted() {
    let house = House::new().await;
    house.register(named("n1")).await;
    house.register(only("n2")).await;
    let seen = house.reader().node("n1").value.unwrap().node.modified;
    let stale = TxnFailure { op: 0, what: "failed to delete node \"n2\", index is stale".into() };
    let delete = on_node(Verb::DeleteCas, identified("n2"), seen);
    assert_eq!(house.transact(&[delete]).await, TxnOutcome::Failed(vec![stale]));
    assert_eq!(house.nodes(), ["n1", "n2"]);
}

#[tokio::test]
async fn a_node_that_is_renamed_is_one_node_however_much_its_sessions_hold() {
    let house = House::crowded().await;
    house.register(named("n2")).await;
    assert_eq!((house.nodes(), house.held()), (vec!["n2".to_owned()], 0));
    assert!(house.reader().sessions().value.is_empty());
    house.writer.deregister("n1", Removal::Node).await.unwrap();
    let found = house.reader().node(&uuid(7)).value.expect("found by its id");
    assert_eq!(found.node.node.name.as_str(), "n2");
    // Nobody else can have the id.
    house.register(named("n3")).await;
    assert_eq!(house.nodes(), ["n3"]);
}

#[tokio::test]
async fn what_sessions_hold_crowds_nothing_else_out() {
    let house = House::new().await;
    house.register(only("n1").and(check("s", "", Status::Passing))).await;
    house.crowd(Session { id: uuid(1), node: "n1".into(), checks: vec!["s".into()], ..Session::default() }).await;
    let mut critical = only("n1").with(service("a", "a")).and(check("s", "", Status::Critical));
    for n in 0..40 {
        critical = critical.and(check(&format!("c{n}"), "a", Status::Passing));
    }
    house.register(critical).await;
    assert_eq!((house.held(), house.reader().checks_of_node("n1").value.len()), (0, 41));

    let house = House::crowded().await;
    let mut ops = vec![on_node(Verb::Delete, node("n1"), Revision::ZERO)];
    ops.extend((0..63).map(|n| on_key(KvVerb::Set, &format!("k{n}"))));
    house.commits(&ops).await;
    assert_eq!((house.held(), house.reader().kv_below("k").value.len()), (0, 63));
}

#[tokio::test]
async fn what_was_begun_goes_on_when_whoever_asked_for_it_leaves() {
    for turns in [1, 2, 3, 5, 8, 13] {
        let house = House::crowded().await;
        let leave = async || {
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            outcome = house.writer.deregister("n1", Removal::Node) => outcome.unwrap(),
            () = leave() => {}
        }
        until("the node and its session are gone", || {
            house.nodes().is_empty() && house.held() == 0 && house.reader().sessions().value.is_empty()
        })
        .await;

        let house = House::with_many_checks().await;
        let ops = [on_instance(Verb::Delete, "old")];
        tokio::select! {
            biased;
            () = house.commits(&ops) => {}
            () = leave() => {}
        }
        until("all checks are gone", || house.reader().checks_of_node("n1").value.is_empty()).await;
    }
}

#[tokio::test]
async fn a_check_that_comes_while_its_instance_goes_does_not_outlive_it() {
    let one = House::new().await;
    let two = House::over(one.store.clone()).await;
    for round in 0..100 {
        one.register(only("n1").with(service("a", "a"))).await;
        two.reader().catch_up().await.unwrap();
        let register = async {
            for _ in 0..round % 10 {
                tokio::task::yield_now().await;
            }
            // Refused when it comes too late.
            let _ = two.writer.register(only("n1").and(check("c", "a", Status::Passing))).await;
        };
        let remove = async {
            for _ in 0..round / 10 {
                tokio::task::yield_now().await;
            }
            one.writer.deregister("n1", Removal::Service("a".into())).await.unwrap();
        };
        tokio::join!(register, remove);
        one.reader().catch_up().await.unwrap();
        let left = one.reader().checks_of_node("n1").value;
        assert!(left.is_empty(), "round {round}: {left:?}");
    }
}

#[tokio::test]
async fn checks_whose_instance_was_removed_by_a_process_that_died_are_found_again() {
    let house = House::with_many_checks().await;
    house.register(only("n1").and(check("own", "", Status::Passing))).await;
    house.register(only("n1").with(service("b", "b")).and(check("of-b", "b", Status::Passing))).await;
    // All that the process came to do.
    house.store.commit(Txn::new().delete(&b"state/service/n1\0a"[..])).await.unwrap();
    // Who reads everything anew knows it as well.
    let again = House::over(house.store.clone()).await;
    assert_eq!(again.reader().checks_of_node("n1").value.len(), MANY + 2);
    again.writer.expire_sessions(Instant::now()).await.unwrap();
    let left = again.reader().checks_of_node("n1").value;
    assert_eq!(left.iter().map(|row| row.check.id.as_str()).collect::<Vec<_>>(), ["of-b", "own"]);
}
