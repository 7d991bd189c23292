//! Transactions: all or nothing, each operation after the one before it.

use bytes::Bytes;
use lictor_model::acl::{Access, Caller, Resource, Rules};
use lictor_model::health::{Check, Status};
use lictor_model::intention::Action;
use lictor_model::node::Node;
use lictor_model::revision::Revision;
use lictor_model::service::Service;
use lictor_state::reader::Side;
use lictor_state::writer::{KvVerb, Put, TxnFailure, TxnItem, TxnOp, TxnOutcome, Verb};

use crate::house::{House, With, all, check, node, only, refusal, service, uuid};

fn kv(verb: KvVerb, key: &str) -> TxnOp {
    TxnOp::Kv {
        verb,
        key: key.into(),
        value: Bytes::from_static(b"v"),
        flags: 7,
        index: Revision::ZERO,
        session: String::new(),
    }
}

fn at(op: TxnOp, revision: Revision) -> TxnOp {
    match op {
        TxnOp::Kv { verb, key, value, flags, session, .. } => {
            TxnOp::Kv { verb, key, value, flags, index: revision, session }
        }
        TxnOp::Node { verb, node, .. } => TxnOp::Node { verb, node, index: revision },
        other => other,
    }
}

fn by(op: TxnOp, holder: &str) -> TxnOp {
    let TxnOp::Kv { verb, key, value, flags, index, .. } = op else { panic!("not on a key") };
    TxnOp::Kv { verb, key, value, flags, index, session: holder.into() }
}

impl House {
    async fn txn(&self, ops: &[TxnOp]) -> TxnOutcome {
        self.writer.txn(&Caller::acls_disabled(), ops).await.unwrap()
    }

    async fn done(&self, ops: &[TxnOp]) -> Vec<TxnItem> {
        match self.txn(ops).await {
            TxnOutcome::Done(items) => items,
            TxnOutcome::Failed(failures) => panic!("{failures:?}"),
            TxnOutcome::TooLarge => panic!("too large"),
        }
    }

    async fn fails(&self, ops: &[TxnOp]) -> Vec<TxnFailure> {
        let before = self.reader().current();
        match self.txn(ops).await {
            TxnOutcome::Failed(failures) => {
                assert_eq!(self.reader().current(), before, "nothing is written");
                failures
            }
            TxnOutcome::Done(items) => panic!("done: {items:?}"),
            TxnOutcome::TooLarge => panic!("too large"),
        }
    }

    async fn fails_with(&self, op: TxnOp) -> String {
        let mut failures = self.fails(&[op]).await;
        assert_eq!(failures.len(), 1);
        failures.remove(0).what
    }
}

fn failed(op: usize, what: &str) -> TxnFailure {
    TxnFailure { op, what: what.into() }
}

#[tokio::test]
async fn operations_see_those_before_them_and_share_one_revision() {
    let house = House::new().await;
    let items =
        house.done(&[kv(KvVerb::Set, "a"), kv(KvVerb::Set, "b"), kv(KvVerb::Get, "a"), kv(KvVerb::GetTree, "")]).await;
    let shown: Vec<_> = items
        .iter()
        .map(|item| match item {
            TxnItem::Kv(row) => (row.key.to_string(), row.value.len(), row.created, row.modified),
            other => panic!("{other:?}"),
        })
        .collect();
    let revision = house.reader().current();
    let row = |key: &str, length| (key.to_owned(), length, revision, revision);
    assert_eq!(shown, [row("a", 0), row("b", 0), row("a", 1), row("a", 1), row("b", 1)]);
    assert_eq!(house.get("b").unwrap().flags, 7);
}

#[tokio::test]
async fn one_failure_undoes_all_and_each_is_named() {
    let house = House::new().await;
    house.set("a", "1").await;
    let failures = house
        .fails(&[kv(KvVerb::Delete, "a"), kv(KvVerb::Get, "a"), kv(KvVerb::Set, "x"), kv(KvVerb::CheckNotExists, "x")])
        .await;
    assert_eq!(failures, [failed(1, "key \"a\" doesn't exist"), failed(3, "key \"x\" exists")]);
    assert_eq!(house.get("a").unwrap().value, "1");
}

#[tokio::test]
async fn every_condition_on_a_key_has_its_text() {
    let house = House::new().await;
    let (a, b) = (house.session(1).await.id, house.session(2).await.id);
    house.put("t1", "", Put::Acquire(a.clone())).await;
    let now = house.get("t1").unwrap().modified;
    let fails = async |op: TxnOp| house.fails_with(op).await;
    assert_eq!(fails(kv(KvVerb::Cas, "t1")).await, "failed to set key \"t1\", index is stale");
    assert_eq!(fails(kv(KvVerb::DeleteCas, "t1")).await, "failed to delete key \"t1\", index is stale");
    assert_eq!(fails(by(kv(KvVerb::Lock, "t1"), &b)).await, "failed to lock key \"t1\", lock is already held");
    assert_eq!(
        fails(by(kv(KvVerb::Unlock, "t1"), &b)).await,
        "failed to unlock key \"t1\", lock isn't held, or is held by another session"
    );
    assert_eq!(fails(kv(KvVerb::Lock, "t1")).await, "missing session");
    assert_eq!(fails(by(kv(KvVerb::Lock, "t2"), &uuid(9))).await, format!("invalid session \"{}\"", uuid(9)));
    assert_eq!(
        fails(kv(KvVerb::CheckIndex, "t1")).await,
        format!("failed index check for key \"t1\", current modify index {now} != 0")
    );
    assert_eq!(fails(kv(KvVerb::CheckIndex, "no")).await, "failed to check index, key \"no\" doesn't exist");
    assert_eq!(
        fails(by(kv(KvVerb::CheckSession, "t1"), &b)).await,
        format!("failed session check for key \"t1\", current session \"{a}\" != \"{b}\"")
    );
    assert_eq!(fails(TxnOp::Invalid("unknown KV verb \"x\"".into())).await, "unknown KV verb \"x\"");
    house
        .done(&[
            at(kv(KvVerb::CheckIndex, "t1"), now),
            by(kv(KvVerb::CheckSession, "t1"), &a),
            by(kv(KvVerb::Unlock, "t1"), &a),
            by(kv(KvVerb::Lock, "t1"), &b),
            by(kv(KvVerb::Lock, "new"), &b),
            at(kv(KvVerb::Cas, "fresh"), Revision::ZERO),
        ])
        .await;
    assert_eq!(house.get("t1").unwrap().session.as_deref(), Some(&*b));
    assert_eq!(house.get("t1").unwrap().lock_index, 2);
    let now = house.get("t1").unwrap().modified;
    house
        .done(&[at(kv(KvVerb::DeleteCas, "t1"), now), kv(KvVerb::DeleteTree, "n"), kv(KvVerb::DeleteCas, "gone")])
        .await;
    assert_eq!(house.reader().keys("", "").value, ["fresh"]);
}

#[tokio::test]
async fn sixty_four_locks_fit_into_one_transaction() {
    let house = House::new().await;
    let session = house.session(1).await.id;
    let ops: Vec<TxnOp> = (0..64).map(|n| by(kv(KvVerb::Lock, &format!("l{n}")), &session)).collect();
    assert_eq!(house.done(&ops).await.len(), 64);
}

#[tokio::test]
async fn a_read_only_transaction_writes_nothing() {
    let house = House::new().await;
    house.set("a", "1").await;
    let before = house.reader().current();
    let ops = [kv(KvVerb::Get, "a"), kv(KvVerb::CheckNotExists, "b")];
    assert!(ops.iter().all(TxnOp::is_read));
    assert_eq!(house.done(&ops).await.len(), 1);
    assert_eq!(house.done(&[]).await.len(), 0);
    assert_eq!(house.reader().current(), before);
}

#[tokio::test]
async fn nodes_services_and_checks_are_written_together() {
    let house = House::new().await;
    let on = |verb| TxnOp::Node { verb, node: node("n1"), index: Revision::ZERO };
    let instance = |verb| TxnOp::Service { verb, node: "n1".into(), service: service("s", "s"), index: Revision::ZERO };
    let health = |verb| TxnOp::Check {
        verb,
        check: Check { node: "n1".into(), ..check("c", "s", Status::Passing) },
        index: Revision::ZERO,
    };
    assert_eq!(house.fails_with(instance(Verb::Set)).await, "Missing node registration");
    assert_eq!(house.fails_with(health(Verb::Set)).await, "Missing service registration");
    let items = house.done(&[on(Verb::Cas), instance(Verb::Cas), health(Verb::Cas), instance(Verb::Get)]).await;
    let revision = house.reader().current();
    assert!(
        matches!(&items[2], TxnItem::Check(row) if row.check.service_name.as_str() == "s" && row.modified == revision)
    );
    assert_eq!(house.reader().instances("s", Side::Ordinary, &all()).value[0].checks.len(), 1);

    assert_eq!(house.fails_with(on(Verb::Cas)).await, "failed to set node \"n1\", index is stale");
    assert_eq!(
        house.fails_with(instance(Verb::Cas)).await,
        "failed to set service \"s\" on node \"n1\", index is stale"
    );
    assert_eq!(
        house.fails_with(health(Verb::DeleteCas)).await,
        "failed to delete check \"c\" on node \"n1\", index is stale"
    );
    let failures = house.fails(&[instance(Verb::Delete), health(Verb::Get), instance(Verb::Get)]).await;
    assert_eq!(
        failures,
        [
            failed(1, "check \"c\" on node \"n1\" doesn't exist"),
            failed(2, "service \"s\" on node \"n1\" doesn't exist")
        ]
    );
    house.done(&[at(on(Verb::DeleteCas), revision)]).await;
    assert!(house.reader().checks_in_state(None, &all()).value.is_empty());
    assert_eq!(house.fails_with(on(Verb::Get)).await, "node \"n1\" doesn't exist");
}

#[tokio::test]
async fn what_was_written_before_its_node_is_removed_goes_with_it() {
    let house = House::new().await;
    house.register(only("n1").with(service("old", "old"))).await;
    let ops = [
        TxnOp::Service { verb: Verb::Set, node: "n1".into(), service: service("new", "new"), index: Revision::ZERO },
        TxnOp::Node { verb: Verb::Delete, node: node("n1"), index: Revision::ZERO },
    ];
    house.done(&ops).await;
    assert!(house.reader().services(&all()).value.is_empty());
    assert!(house.store.scan(b"state/service/").await.unwrap().entries.is_empty());
}

#[tokio::test]
async fn without_the_right_nothing_is_written_and_nothing_shown() {
    let house = House::new().await;
    house.set("mine/a", "1").await;
    house.set("other", "2").await;
    let mut rules = Rules::default();
    rules.add_prefix(Resource::Key, "mine/", Access::Write);
    let caller = Caller::with_rules("a", rules, Action::Deny);
    let txn = async |ops: &[TxnOp]| house.writer.txn(&caller, ops).await.unwrap();
    let denied = [kv(KvVerb::Set, "mine/b"), kv(KvVerb::Set, "other"), kv(KvVerb::DeleteTree, "")];
    let expected = [failed(1, "Permission denied"), failed(2, "Permission denied")];
    assert_eq!(txn(&denied).await, TxnOutcome::Failed(expected.to_vec()));
    assert_eq!(house.get("mine/b"), None);
    let peek = [kv(KvVerb::CheckNotExists, "other")];
    assert_eq!(txn(&peek).await, TxnOutcome::Failed(vec![failed(0, "Permission denied")]));
    let TxnOutcome::Done(items) = txn(&[kv(KvVerb::GetTree, "")]).await else { panic!("failed") };
    assert_eq!(items.len(), 1);
    let hidden = [failed(0, "key \"other\" doesn't exist")];
    assert_eq!(txn(&[kv(KvVerb::Get, "other")]).await, TxnOutcome::Failed(hidden.to_vec()));
    house.register(only("n1").with(service("s", "s"))).await;
    let service =
        TxnOp::Service { verb: Verb::Delete, node: "n1".into(), service: service("s", "mine"), index: Revision::ZERO };
    assert_eq!(txn(&[service]).await, TxnOutcome::Failed(vec![failed(0, "Permission denied")]));
}

#[tokio::test]
async fn an_instance_of_a_service_is_not_replaced_by_who_may_write_only_another_service() {
    let house = House::new().await;
    house.register(only("n1").with(service("one", "theirs"))).await;
    let mut rules = Rules::default();
    rules.add_prefix(Resource::Service, "mine", Access::Write);
    let caller = Caller::with_rules("a", rules, Action::Deny);
    let put = |id: &str| TxnOp::Service {
        verb: Verb::Set,
        node: "n1".into(),
        service: service(id, "mine"),
        index: Revision::ZERO,
    };
    let txn = async |op: TxnOp| house.writer.txn(&caller, &[op]).await.unwrap();
    assert_eq!(txn(put("one")).await, TxnOutcome::Failed(vec![failed(0, "Permission denied")]));
    assert!(matches!(txn(put("two")).await, TxnOutcome::Done(_)));
    assert_eq!(house.reader().instances("theirs", Side::Ordinary, &all()).value.len(), 1);
}

#[tokio::test]
async fn ids_default_to_names_and_what_cannot_be_named_is_refused() {
    let house = House::new().await;
    let instance = |verb, id: &str, name: &str, address: &str| TxnOp::Service {
        verb,
        node: "n1".into(),
        service: Service { address: address.into(), ..service(id, name) },
        index: Revision::ZERO,
    };
    let machine = |id: &str, name: &str| TxnOp::Node {
        verb: Verb::Set,
        node: Node { id: id.into(), ..node(name) },
        index: Revision::ZERO,
    };
    let nameless = Check { node: "n1".into(), name: "c".into(), ..check("", "", Status::Passing) };
    let health = TxnOp::Check { verb: Verb::Set, check: nameless, index: Revision::ZERO };
    let items = house.done(&[machine("", "n1"), instance(Verb::Set, "", "web", ""), health]).await;
    assert!(matches!(&items[1], TxnItem::Service(_, row) if row.service.id.as_str() == "web"), "{items:?}");
    assert!(matches!(&items[2], TxnItem::Check(row) if row.check.id.as_str() == "c"), "{items:?}");
    assert_eq!(house.done(&[instance(Verb::Get, "web", "", "")]).await.len(), 1);
    let unnamed = Check { node: "n1".into(), ..Check::default() };
    let refused = house.writer.register(only("n1").and(unnamed.clone())).await;
    assert_eq!(refusal(refused), "Must provide check ID or name");
    let failures = house
        .fails(&[
            kv(KvVerb::Set, ""),
            kv(KvVerb::Get, ""),
            machine("", ""),
            machine("x", "n2"),
            instance(Verb::Set, "id", "", ""),
            instance(Verb::Cas, "id", "web", "0.0.0.0"),
            TxnOp::Check { verb: Verb::Set, check: unnamed, index: Revision::ZERO },
        ])
        .await;
    let expected = [
        "Must provide key",
        "Must provide key",
        "Must provide node",
        "Bad node ID: uuid string is wrong length",
        "Must provide service name with ID",
        "Invalid service address",
        "Must provide check ID or name",
    ];
    let expected: Vec<TxnFailure> = expected.iter().enumerate().map(|(op, what)| failed(op, what)).collect();
    assert_eq!(failures, expected);
    house.done(&[instance(Verb::Delete, "", "web", ""), kv(KvVerb::GetTree, "")]).await;
    assert!(house.reader().services(&all()).value.is_empty());
}

#[tokio::test]
async fn what_a_transaction_reads_is_bounded_by_what_the_caller_may_see() {
    let house = House::new().await;
    let value = Bytes::from(vec![b'x'; 512 * 1024]);
    for number in 0..4 {
        house.writer.put_key(&format!("big/{number}"), value.clone(), 0, Put::Set).await.unwrap();
    }
    let tree = |times: usize| vec![kv(KvVerb::GetTree, "big/"); times];
    assert_eq!(house.done(&tree(31)).await.len(), 4 * 31);
    // With the last one it is more than the limit, and what stands before is not done either.
    let before = house.reader().current();
    let ops = [vec![kv(KvVerb::Set, "a")], tree(32)].concat();
    assert_eq!(house.txn(&ops).await, TxnOutcome::TooLarge);
    assert_eq!((house.get("a"), house.reader().current()), (None, before));
    let stranger = Caller::with_rules("a", Rules::default(), Action::Deny);
    assert_eq!(house.writer.txn(&stranger, &tree(64)).await.unwrap(), TxnOutcome::Done(Vec::new()));
}
