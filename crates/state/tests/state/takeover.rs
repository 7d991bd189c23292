//! Who may write only their own cannot change what is another's: not by its id, nor by anything it is found by.

use lictor_model::acl::{Access, Caller, Resource, Rules};
use lictor_model::health::{Check, Status};
use lictor_model::intention::Action;
use lictor_model::name::NodeName;
use lictor_model::node::Node;
use lictor_model::query::{Query, Question};
use lictor_model::revision::Revision;
use lictor_model::service::Service;
use lictor_state::Error;
use lictor_state::writer::{Registration, Removal, TxnFailure, TxnOp, TxnOutcome, Verb};

use crate::house::{House, With, check, everyone, node, only, proxy, service, uuid};
use crate::intentions::intention;

fn who_writes(rights: &[(Resource, &str)]) -> Caller {
    let mut rules = Rules::default();
    for (resource, name) in rights {
        rules.add_exact(*resource, name, Access::Write);
    }
    Caller::with_rules("a", rules, Action::Deny)
}

fn with_id(name: &str, n: u32) -> Node {
    Node { id: uuid(n), ..node(name) }
}

/// On `v1` somebody else's service and check, a check of the node, and an instance of `mine` with its check.
async fn furnished() -> House {
    let house = House::new().await;
    let all = Registration { node: with_id("v1", 1), ..Registration::default() };
    let all = all.with(service("victim", "victim")).and(check("vcheck", "victim", Status::Critical));
    house.register(all.and(check("nodechk", "", Status::Critical))).await;
    let own = beside(Some(service("m1", "mine")), vec![check("mcheck", "m1", Status::Passing)]);
    house.register(own).await;
    house
}

fn set(service: Service) -> TxnOp {
    TxnOp::Service { verb: Verb::Set, node: "v1".into(), service, index: Revision::ZERO }
}

fn on_check(verb: Verb, check: Check) -> TxnOp {
    let check = Check { node: "v1".into(), service_name: "mine".into(), ..check };
    TxnOp::Check { verb, check, index: Revision::ZERO }
}

fn beside(service: Option<Service>, checks: Vec<Check>) -> Registration {
    Registration { skip_node_update: true, service, checks, ..only("v1") }
}

fn some_checks(count: u32) -> Vec<Check> {
    (0..count).map(|n| check(&format!("c{n}"), "m1", Status::Passing)).collect()
}

impl House {
    #[track_caller]
    fn unchanged_since(&self, before: Revision, what: &str) {
        assert_eq!(self.reader().current(), before, "{what} has changed something");
    }

    async fn txn_is_denied(&self, caller: &Caller, op: TxnOp) {
        let before = self.reader().current();
        let outcome = self.writer.txn(caller, std::slice::from_ref(&op)).await.unwrap();
        let denied = TxnFailure { op: 0, what: "Permission denied".into() };
        assert_eq!(outcome, TxnOutcome::Failed(vec![denied]), "{op:?}");
        self.unchanged_since(before, &format!("{op:?}"));
    }

    async fn txn_is_done(&self, caller: &Caller, op: TxnOp) {
        let outcome = self.writer.txn(caller, std::slice::from_ref(&op)).await.unwrap();
        assert!(matches!(outcome, TxnOutcome::Done(_)), "{op:?}: {outcome:?}");
    }

    async fn registration_is_denied(&self, caller: &Caller, registration: Registration) {
        let before = self.reader().current();
        let shown = format!("{registration:?}");
        let outcome = self.writer.register_as(caller, registration).await;
        assert!(matches!(outcome, Err(Error::Denied)), "{shown}: {outcome:?}");
        self.unchanged_since(before, &shown);
    }

    async fn removal_is_denied(&self, caller: &Caller, removal: Removal) {
        let before = self.reader().current();
        let outcome = self.writer.deregister_as(caller, "v1", removal.clone()).await;
        assert!(matches!(outcome, Err(Error::Denied)), "{removal:?}: {outcome:?}");
        self.unchanged_since(before, &format!("{removal:?}"));
    }
}

#[tokio::test]
async fn the_right_on_a_service_takes_no_other_instance() {
    let house = furnished().await;
    let mine = who_writes(&[(Resource::Service, "mine")]);
    for id in ["victim", "VICTIM"] {
        house.txn_is_denied(&mine, set(service(id, "mine"))).await;
        let cas =
            TxnOp::Service { verb: Verb::Cas, node: "v1".into(), service: service(id, "mine"), index: Revision(1) };
        house.txn_is_denied(&mine, cas).await;
        house.registration_is_denied(&mine, beside(Some(service(id, "mine")), Vec::new())).await;
    }
    // Its id is its name where none is given.
    house.register(beside(Some(service("mine", "victim")), Vec::new())).await;
    house
        .registration_is_denied(&mine, beside(Some(Service { id: "".into(), ..service("x", "mine") }), Vec::new()))
        .await;
    house.txn_is_done(&mine, set(service("m1", "mine"))).await;
    house.txn_is_done(&mine, set(service("m2", "mine"))).await;
    let both = who_writes(&[(Resource::Service, "mine"), (Resource::Service, "victim")]);
    house.txn_is_done(&both, set(service("victim", "mine"))).await;
}

#[tokio::test]
async fn a_proxy_needs_the_right_on_the_service_in_whose_place_it_is_found() {
    let house = furnished().await;
    let name_alone = who_writes(&[(Resource::Service, "victim-proxy")]);
    house.txn_is_denied(&name_alone, set(proxy("p", "victim"))).await;
    house.registration_is_denied(&name_alone, beside(Some(proxy("p", "victim")), Vec::new())).await;
    let both = who_writes(&[(Resource::Service, "victim-proxy"), (Resource::Service, "victim")]);
    house.txn_is_done(&both, set(proxy("p", "victim"))).await;
}

#[tokio::test]
async fn the_right_on_a_service_takes_no_check_of_another_or_of_the_node() {
    let house = furnished().await;
    let mine = who_writes(&[(Resource::Service, "mine")]);
    for id in ["nodechk", "NODECHK", "vcheck"] {
        for verb in [Verb::Delete, Verb::Set, Verb::Cas, Verb::DeleteCas] {
            house.txn_is_denied(&mine, on_check(verb, check(id, "m1", Status::Passing))).await;
            house.txn_is_denied(&mine, on_check(verb, check(id, "no-such-service", Status::Passing))).await;
        }
        let taken = check(id, "m1", Status::Passing);
        house.registration_is_denied(&mine, beside(None, vec![taken.clone()])).await;
        house.registration_is_denied(&mine, beside(Some(service("m1", "mine")), vec![taken.clone()])).await;
        // Also when it is not among the first.
        let mut many: Vec<Check> =
            (0..100).map(|n| super::house::check(&format!("c{n}"), "m1", Status::Passing)).collect();
        many.push(taken);
        house.registration_is_denied(&mine, beside(None, many)).await;
        house.removal_is_denied(&mine, Removal::Check(id.into())).await;
    }
    // A check without an id has its name for one.
    let named = Check { id: "".into(), ..check("vcheck", "m1", Status::Passing) };
    house.registration_is_denied(&mine, beside(None, vec![named])).await;
    house.removal_is_denied(&mine, Removal::Service("victim".into())).await;
    house.removal_is_denied(&mine, Removal::Service("none".into())).await;
    house.removal_is_denied(&mine, Removal::Node).await;
    house.txn_is_done(&mine, on_check(Verb::Set, check("mcheck", "m1", Status::Warning))).await;
    house.txn_is_done(&mine, on_check(Verb::Delete, check("mcheck", "m1", Status::Warning))).await;
    house.writer.register_as(&mine, beside(None, vec![check("mcheck", "m1", Status::Passing)])).await.unwrap();
    house.writer.deregister_as(&mine, "v1", Removal::Service("m1".into())).await.unwrap();
    // The node's right is good for all that is on it.
    let owner = who_writes(&[(Resource::Node, "v1")]);
    house.writer.register_as(&owner, beside(None, vec![check("vcheck", "", Status::Passing)])).await.unwrap();
    house.txn_is_done(&owner, on_check(Verb::Delete, check("vcheck", "", Status::Passing))).await;
}

#[tokio::test]
async fn more_checks_than_one_transaction_takes_need_no_more_rights() {
    let house = furnished().await;
    let mine = who_writes(&[(Resource::Service, "mine")]);
    let many = some_checks(150);
    house.writer.register_as(&mine, beside(Some(service("m1", "mine")), many.clone())).await.unwrap();
    house.writer.register_as(&mine, beside(None, many)).await.unwrap();
    house.writer.deregister_as(&mine, "v1", Removal::Service("m1".into())).await.unwrap();
    assert_eq!(house.reader().checks_of_node("v1").value.len(), 2, "all go with their service");
}

#[tokio::test]
async fn the_right_on_a_node_takes_no_other_node() {
    let house = furnished().await;
    let mine = who_writes(&[(Resource::Node, "minenode"), (Resource::Node, "V1")]);
    let stolen = with_id("minenode", 1);
    let on_node = |verb, node: &Node| TxnOp::Node { verb, node: node.clone(), index: Revision::ZERO };
    for node in [stolen.clone(), Node { id: uuid(1).to_uppercase(), ..stolen.clone() }, with_id("V1", 1), node("V1")] {
        house.registration_is_denied(&mine, Registration { node: node.clone(), ..Registration::default() }).await;
        house.txn_is_denied(&mine, on_node(Verb::Set, &node)).await;
    }
    house.txn_is_denied(&mine, on_node(Verb::Delete, &node("V1"))).await;
    house.txn_is_denied(&mine, on_node(Verb::Delete, &Node { name: "".into(), ..with_id("", 1) })).await;
    let outcome = house.writer.deregister_as(&mine, "V1", Removal::Node).await;
    assert!(matches!(outcome, Err(Error::Denied)), "{outcome:?}");
    // Another node's id beside one's own name removes one's own.
    house.txn_is_done(&mine, on_node(Verb::Set, &with_id("minenode", 2))).await;
    house.txn_is_done(&mine, on_node(Verb::Delete, &stolen)).await;
    assert!(house.reader().node("v1").value.is_some());
    let both = who_writes(&[(Resource::Node, "minenode"), (Resource::Node, "v1")]);
    house.txn_is_done(&both, on_node(Verb::Set, &stolen)).await;
    assert!(house.reader().node("v1").value.is_none(), "it has been renamed");
}

#[tokio::test]
async fn a_name_that_is_another_nodes_id_makes_no_node_without_the_right() {
    let house = furnished().await;
    let mine = who_writes(&[(Resource::Service, "mine"), (Resource::Service, "victim")]);
    for name in [uuid(1), uuid(1)[..8].to_owned()] {
        let new = Registration { skip_node_update: true, ..only(&name) };
        house.registration_is_denied(&mine, new.clone().with(service("m", "mine"))).await;
        house.registration_is_denied(&mine, new).await;
        let outcome = house.writer.deregister_as(&mine, &name, Removal::Service("m1".into())).await;
        assert!(matches!(outcome, Err(Error::Denied)), "{outcome:?}");
    }
}

/// Each operation is judged by what those before it leave.
#[tokio::test]
async fn the_rights_of_an_operation_are_those_on_what_it_finds() {
    let house = furnished().await;
    let mine = who_writes(&[(Resource::Service, "mine")]);
    let with_its_check = [set(service("new", "mine")), on_check(Verb::Set, check("new-check", "new", Status::Passing))];
    let outcome = house.writer.txn(&mine, &with_its_check).await.unwrap();
    assert!(matches!(outcome, TxnOutcome::Done(_)), "{outcome:?}");
    let away_and_back = [
        on_check(Verb::Delete, check("mcheck", "m1", Status::Passing)),
        on_check(Verb::Set, check("vcheck", "m1", Status::Passing)),
    ];
    let outcome = house.writer.txn(&mine, &away_and_back).await.unwrap();
    assert_eq!(outcome, TxnOutcome::Failed(vec![TxnFailure { op: 1, what: "Permission denied".into() }]));
}

/// Two rights, each for one of two names, and a row that goes back and forth between them: whoever may write one name never
/// replaces a row that has the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_becomes_anothers_in_the_meantime_is_left_alone() {
    let house = furnished().await;
    let mine = who_writes(&[(Resource::Service, "mine")]);
    let node: NodeName = "v1".into();
    let place = |name: &str| service("contested", name);
    let owner = async {
        for _ in 0..200 {
            house.register(beside(Some(place("victim")), Vec::new())).await;
            // From here on it is the victim's, whatever was asked before.
            let contents = house.reader().node(node.as_str()).value.unwrap();
            let row = contents.services.iter().find(|row| row.service.id.as_str() == "contested").unwrap();
            assert_eq!(row.service.name.as_str(), "victim");
            house.register(beside(Some(place("mine")), Vec::new())).await;
        }
    };
    let thief = async {
        loop {
            let _ =
                house.writer.register_as(&mine, beside(Some(Service { port: 666, ..place("mine") }), Vec::new())).await;
            let _ = house.writer.deregister_as(&mine, node.as_str(), Removal::Service("contested".into())).await;
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = owner => {}
        () = thief => {}
    }
}

#[tokio::test]
async fn queries_and_intentions_are_changed_by_who_may_write_what_they_are_now() {
    let house = House::new().await;
    let asking = |name: &str| {
        let service = Question { service: "web".into(), ..Question::default() };
        Query { id: uuid(1), name: name.into(), service, ..Query::default() }
    };
    house.writer.create_query(asking("victim")).await.unwrap();
    house.writer.create_intention(intention(2, "a", "victim", "deny")).await.unwrap();
    let mine = who_writes(&[(Resource::Query, "mine"), (Resource::Intention, "mine")]);
    let denied = |outcome: Result<(), Error>| assert!(matches!(outcome, Err(Error::Denied)), "{outcome:?}");
    denied(house.writer.update_query(&mine, asking("mine")).await);
    denied(house.writer.delete_query(&mine, &uuid(1)).await);
    denied(house.writer.update_intention(&mine, intention(2, "a", "mine", "allow")).await);
    denied(house.writer.delete_intention(&mine, &uuid(2)).await);
    house.writer.update_query(&everyone(), asking("mine")).await.unwrap();
    house.writer.delete_query(&mine, &uuid(1)).await.unwrap();
    house.writer.update_intention(&everyone(), intention(2, "a", "mine", "deny")).await.unwrap();
    house.writer.delete_intention(&mine, &uuid(2)).await.unwrap();
}
