//! Sessions: what they need, and what ends them.

use std::time::Duration;

use lictor_model::health::Status;
use lictor_model::node::Node;
use lictor_state::session::Session;
use lictor_state::writer::{Put, Registration, Removal};
use tokio::time::Instant;

use crate::house::{House, With, check, node, only, refusal, service, uuid};

const SHORTEST: Duration = Duration::from_secs(10);

fn bound(n: u32, checks: &[&str]) -> Session {
    Session {
        id: uuid(n),
        node: "n1".into(),
        checks: checks.iter().map(|check| (*check).into()).collect(),
        ..Session::default()
    }
}

/// A house with node `n1` that passes `serfHealth`, and a session that depends on it and holds key `l`.
async fn with_holder() -> House {
    let house = House::new().await;
    house.register(only("n1").and(check("serfHealth", "", Status::Passing))).await;
    house.writer.create_session(bound(1, &["serfHealth"]), SHORTEST).await.unwrap();
    assert!(house.put("l", "", Put::Acquire(uuid(1))).await);
    house
}

#[track_caller]
fn ended(house: &House) {
    assert!(house.reader().session(&uuid(1)).value.is_none());
    assert_eq!(house.get("l").unwrap().session, None);
}

#[tokio::test]
async fn a_session_needs_its_node_and_checks() {
    let house = House::new().await;
    let create = async |session: Session| refusal(house.writer.create_session(session, SHORTEST).await);
    assert_eq!(create(bound(1, &[])).await, "Missing node registration");
    house.register(only("n1").and(check("x", "", Status::Critical))).await;
    assert_eq!(create(bound(1, &["nope"])).await, "Missing check 'nope' registration");
    assert_eq!(create(bound(1, &["x"])).await, "Check 'x' is in critical state");
    let short = Session { ttl: "1s".into(), ..bound(1, &[]) };
    assert_eq!(create(short).await, "Invalid Session TTL '1000000000', must be between [10s=24h0m0s]");
    assert!(house.reader().sessions().value.is_empty());
}

#[tokio::test]
async fn a_watcher_of_a_session_wakes_on_it_alone() {
    let house = with_holder().await;
    let watch = |id: String| {
        let reader = house.reader();
        let found = reader.session(&id);
        tokio::spawn(async move { reader.changed(&found.topics, found.index).await })
    };
    let (own, missing) = (watch(uuid(1)), watch(uuid(3)));
    house.register(only("n1")).await;
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    house.writer.create_session(bound(2, &[]), SHORTEST).await.unwrap();
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    assert!(!own.is_finished() && !missing.is_finished());
    house.writer.create_session(bound(3, &[]), SHORTEST).await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), missing).await.expect("asleep").unwrap();
    assert!(!own.is_finished());
    house.writer.destroy_session(&uuid(1)).await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), own).await.expect("asleep").unwrap();
}

#[tokio::test]
async fn sessions_are_found_by_id_and_node() {
    let house = with_holder().await;
    house.register(only("n2")).await;
    house.writer.create_session(Session { node: "N2".into(), ..bound(2, &[]) }, SHORTEST).await.unwrap();
    let reader = house.reader();
    assert_eq!(reader.sessions().value.len(), 2);
    assert_eq!(reader.sessions_of_node("n2").value[0].id, uuid(2));
    assert_eq!(reader.session(&uuid(1)).value.unwrap().checks[0].as_str(), "serfHealth");
    assert!(reader.sessions_of_node("none").value.is_empty());
    assert_eq!(
        refusal(house.writer.destroy_session("zz").await),
        "failed session lookup: index error: UUID must be 36 characters"
    );
    house.writer.destroy_session(&uuid(9)).await.unwrap();
    assert_eq!(house.writer.renew_session(&uuid(9)).await.unwrap(), None);
}

#[tokio::test]
async fn a_critical_check_ends_the_session() {
    let house = with_holder().await;
    house.register(only("n1").and(check("other", "", Status::Critical))).await;
    house.register(only("n1").and(check("serfHealth", "", Status::Warning))).await;
    assert!(house.reader().session(&uuid(1)).value.is_some(), "a warning does not");
    house.register(only("n1").and(check("SERFHEALTH", "", Status::Critical))).await;
    ended(&house);
}

#[tokio::test]
async fn a_removed_check_ends_the_session() {
    let house = with_holder().await;
    house.writer.deregister("n1", Removal::Check("serfHealth".into())).await.unwrap();
    ended(&house);
}

#[tokio::test]
async fn a_removed_service_ends_the_sessions_bound_to_its_checks() {
    let house = with_holder().await;
    house.register(only("n1").with(service("s", "s")).and(check("c", "s", Status::Passing))).await;
    house.writer.create_session(bound(2, &["c"]), SHORTEST).await.unwrap();
    house.writer.deregister("n1", Removal::Service("s".into())).await.unwrap();
    assert!(house.reader().session(&uuid(2)).value.is_none());
    assert!(house.reader().session(&uuid(1)).value.is_some());
}

#[tokio::test]
async fn a_removed_node_ends_its_sessions_however_much_they_hold() {
    let house = with_holder().await;
    for n in 0..300 {
        house.put(&format!("many/{n}"), "", Put::Acquire(uuid(1))).await;
    }
    house.writer.deregister("n1", Removal::Node).await.unwrap();
    ended(&house);
    assert!(house.reader().node("n1").value.is_none());
    assert!(house.reader().kv_below("many/").value.iter().all(|row| row.session.is_none()));
}

#[tokio::test]
async fn a_critical_check_ends_a_session_however_much_it_holds() {
    let house = with_holder().await;
    for n in 0..300 {
        house.put(&format!("many/{n}"), "", Put::Acquire(uuid(1))).await;
    }
    house.register(only("n1").and(check("serfHealth", "", Status::Critical))).await;
    ended(&house);
    assert!(house.reader().kv_below("many/").value.iter().all(|row| row.session.is_none()));
}

#[tokio::test]
async fn a_renamed_node_loses_its_sessions() {
    let house = House::new().await;
    let with_id = |name: &str| Registration { node: Node { id: uuid(7), ..node(name) }, ..Registration::default() };
    house.register(with_id("n1")).await;
    house.writer.create_session(bound(1, &[]), SHORTEST).await.unwrap();
    house.put("l", "", Put::Acquire(uuid(1))).await;
    house.register(with_id("n2")).await;
    ended(&house);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_not_renewed_expires_after_twice_its_time() {
    let house = House::new().await;
    house.register(only("n1")).await;
    let created = Instant::now();
    house.writer.create_session(Session { ttl: "10s".into(), ..bound(1, &[]) }, SHORTEST).await.unwrap();
    house.writer.create_session(bound(2, &[]), SHORTEST).await.unwrap();
    house.put("l", "", Put::Acquire(uuid(1))).await;
    let expire = async || house.writer.expire_sessions(Instant::now()).await.unwrap();
    assert_eq!(expire().await, Some(created + Duration::from_secs(20)));

    // A lock taken or written again says nothing about how long its session lives, on whatever agent it is seen.
    tokio::time::advance(Duration::from_secs(15)).await;
    house.put("l", "again", Put::Acquire(uuid(1))).await;
    assert_eq!(expire().await, Some(created + Duration::from_secs(20)));
    assert!(house.writer.renew_session(&uuid(1)).await.unwrap().is_some());
    let seen = house.reader().sessions().index;
    tokio::time::advance(Duration::from_secs(19)).await;
    assert_eq!(expire().await, Some(created + Duration::from_secs(35)));
    assert!(house.reader().session(&uuid(1)).value.is_some());
    assert_eq!(house.reader().sessions().index, seen, "a renewal is no change of the session");

    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(expire().await, None);
    ended(&house);
    assert!(house.reader().session(&uuid(2)).value.is_some(), "without a time it lives on");
}

#[tokio::test(start_paused = true)]
async fn whoever_takes_over_the_expiry_gives_each_session_its_time_again() {
    let house = House::new().await;
    house.register(only("n1")).await;
    house.writer.create_session(Session { ttl: "10s".into(), ..bound(1, &[]) }, SHORTEST).await.unwrap();
    tokio::time::advance(Duration::from_secs(19)).await;
    let other = House::over(house.store.clone()).await;
    // Renewed at one server, seen by the other, which then runs the expiry.
    tokio::time::advance(Duration::from_secs(19)).await;
    house.writer.renew_session(&uuid(1)).await.unwrap();
    other.reader().catch_up().await.unwrap();
    tokio::time::advance(Duration::from_secs(19)).await;
    other.writer.expire_sessions(Instant::now()).await.unwrap();
    assert!(other.reader().session(&uuid(1)).value.is_some());
    tokio::time::advance(Duration::from_secs(2)).await;
    other.writer.expire_sessions(Instant::now()).await.unwrap();
    assert!(other.reader().session(&uuid(1)).value.is_none());
}

#[tokio::test]
async fn a_session_ends_while_others_lock_with_it_and_leaves_nothing_held() {
    let house = with_holder().await;
    let two = House::over(house.store.clone()).await;
    let lock = async {
        for n in 0..100 {
            let put = Put::Acquire(uuid(1));
            match two.writer.put_key(&format!("race/{n}"), bytes::Bytes::new(), 0, put).await {
                Ok(_) => {}
                Err(error) => return assert!(error.to_string().starts_with("invalid session"), "{error}"),
            }
        }
    };
    let end = async {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        house.writer.destroy_session(&uuid(1)).await.unwrap();
    };
    tokio::join!(lock, end);
    house.reader().catch_up().await.unwrap();
    assert!(house.reader().kv_below("").value.iter().all(|row| row.session.is_none()));
}
