//! Who is alive and who leads, as several agents over one store see it.

use std::time::Duration;

use lictor_state::Presence;
use lictor_state::presence::Member;
use lictor_store::Store;
use lictor_task::Scope;

use crate::house::{House, SOON};

const TTL: Duration = Duration::from_millis(1200);

fn member(name: &str) -> Member {
    let (id, address) = (format!("id-{name}"), format!("{name}:8300"));
    Member { node: name.into(), id, address, is_server: true, ping: String::new(), since: 0 }
}

fn keep(house: &House, name: &str) -> (Presence, Scope) {
    let scope = Scope::new("test");
    let presence = house.state.presence(TTL);
    scope.spawn("presence", presence.clone().keep(member(name), scope.stop_signal()));
    (presence, scope)
}

/// Waits until a server sees these agents alive and this one lead.
async fn until_seen(at: &House, alive: &[&str], lead: &str) {
    let reader = at.reader();
    let seen = async {
        loop {
            let members = reader.members();
            let names: Vec<&str> = members.value.iter().map(|member| member.node.as_str()).collect();
            let leads = reader.lead().value.is_some_and(|leader| leader.node == lead);
            if names == alive && leads {
                return;
            }
            reader.changed(&members.topics, members.index).await;
        }
    };
    tokio::time::timeout(SOON, seen).await.expect("not seen in time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_several_agents_leads_and_another_takes_over_when_it_ends() {
    let store = Store::memory();
    let (one, two) = (House::over(store.clone()).await, House::over(store.clone()).await);
    let (first, first_scope) = keep(&one, "a");
    until_seen(&two, &["a"], "a").await;
    let (second, _second_scope) = keep(&two, "b");
    until_seen(&one, &["a", "b"], "a").await;
    assert!(first.standing().borrow().leads() && !second.standing().borrow().leads());
    // Ended in order: the lead goes over at once, but the node is not missed before its time.
    assert!(first_scope.join(SOON).await);
    until_seen(&one, &["a", "b"], "b").await;
    assert!(!first.standing().borrow().is_alive());
    until_seen(&one, &["b"], "b").await;
    assert!(second.standing().borrow().leads());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_whose_lease_was_ended_takes_a_new_one() {
    let house = House::over(Store::memory()).await;
    let (presence, _scope) = keep(&house, "a");
    until_seen(&house, &["a"], "a").await;
    let lease = house.store.get(b"state/alive/a").await.unwrap().unwrap().lease.unwrap();
    house.store.revoke(lease).await.unwrap();
    let renewed = async {
        loop {
            let entry = house.store.get(b"state/alive/a").await.unwrap();
            if entry.is_some_and(|entry| entry.lease != Some(lease)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, renewed).await.expect("no new lease in time");
    until_seen(&house, &["a"], "a").await;
    let alive = async {
        let _ = presence.standing().wait_for(|standing| standing.leads()).await;
    };
    tokio::time::timeout(SOON, alive).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_cannot_renew_its_lease_stops_leading_by_itself() {
    let store = Store::memory();
    let house = House::over(store.clone()).await;
    let (presence, _scope) = keep(&house, "a");
    until_seen(&house, &["a"], "a").await;
    // No renewal is answered any more, as when the network is cut.
    store.close().await;
    let dead = async {
        while presence.standing().borrow().is_alive() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, dead).await.expect("it believes to be alive although nothing was renewed");
    assert!(!presence.standing().borrow().leads());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_inspection_counts_what_is_there_and_finds_what_is_wrong() {
    let house = House::over(Store::memory()).await;
    house.register(lictor_state::writer::Registration { node: crate::house::node("n"), ..Default::default() }).await;
    let sound = lictor_state::inspect::inspect(&house.store).await.unwrap();
    assert_eq!((sound.tables["node"], sound.unknown, sound.findings.len()), (1, 0, 0), "{sound:?}");
    let strange = lictor_store::Txn::new()
        .put("state/node/m", "no record")
        .put("state/service/lost\0web", "{\"id\":\"web\",\"name\":\"web\"}")
        .put("state/node-of/x", "{\"of\":\"nobody\"}")
        .put("theirs", "");
    house.store.commit(strange).await.unwrap();
    let found = lictor_state::inspect::inspect(&house.store).await.unwrap();
    assert_eq!((found.unknown, found.findings.len()), (1, 3), "{found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_snapshot_leaves_alone_who_is_alive() {
    let house = House::over(Store::memory()).await;
    let before = house.writer.capture().await.unwrap();
    let (presence, _scope) = keep(&house, "a");
    until_seen(&house, &["a"], "a").await;
    house.register(lictor_state::writer::Registration { node: crate::house::node("n"), ..Default::default() }).await;
    house.writer.restore("old", &before).await.unwrap();
    until_seen(&house, &["a"], "a").await;
    assert!(house.store.get(b"state/alive/a").await.unwrap().unwrap().lease.is_some());
    assert!(house.store.get(b"state/node/n").await.unwrap().is_none() && presence.standing().borrow().leads());
}
