//! Leases: keys live as long as somebody says so.

use std::time::{Duration, Instant};

use super::{DEADLINE, Fixture, apply, keys, next_event, within};
use crate::{Error, Event, Txn};

/// The shortest time to live that every backend can express.
const TTL: Duration = Duration::from_secs(1);

/// So long that it does not end within a test.
const LONG: Duration = Duration::from_secs(3600);

/// All keys of a lease disappear together, not before its time.
pub async fn the_end_of_a_lease_deletes_its_keys_in_one_revision(fixture: Fixture) {
    let store = &fixture.store;
    let start = Instant::now();
    let lease = store.grant(TTL).await.unwrap();
    apply(store, Txn::new().put_leased("a", "1", lease).put("c", "")).await;
    let at = apply(store, Txn::new().put_leased("b", "2", lease)).await;
    assert_eq!(store.get(b"a").await.unwrap().unwrap().lease, Some(lease));
    let change = next_event(&mut store.watch(b"", at).await.unwrap()).await;
    assert!(start.elapsed() >= TTL, "ended after {:?}", start.elapsed());
    let mut deleted: Vec<_> = change.events.iter().map(|event| event.key().clone()).collect();
    deleted.sort();
    assert_eq!(deleted, ["a", "b"]);
    assert!(change.events.iter().all(|event| matches!(event, Event::Deleted { .. })));
    assert_eq!(keys(store, b"").await, ["c"]);
    assert_eq!(store.current().await.unwrap(), change.revision);
    assert!(matches!(store.keep_alive(lease).await, Err(Error::LeaseLost(id)) if id == lease));
}

/// Being kept alive, a lease outlives its time; then it does not.
pub async fn a_lease_that_is_kept_alive_keeps_its_keys(fixture: Fixture) {
    let store = &fixture.store;
    let (at, renewed) = loop {
        let lease = store.grant(TTL).await.unwrap();
        let at = apply(store, Txn::new().put_leased("k", "", lease)).await;
        let start = Instant::now();
        let mut renewed = start;
        let kept = loop {
            tokio::time::sleep(TTL / 10).await;
            match store.keep_alive(lease).await {
                Ok(()) => {}
                // A machine so busy that we came too late shows nothing: once more.
                Err(Error::LeaseLost(_)) if renewed.elapsed() > TTL / 2 => break false,
                Err(error) => panic!("{error}, {:?} after it was kept alive", renewed.elapsed()),
            }
            renewed = Instant::now();
            if start.elapsed() > TTL * 2 {
                break true;
            }
            assert!(keys(store, b"").await == ["k"] || renewed.elapsed() > TTL / 2);
        };
        if kept {
            break (at, renewed);
        }
    };
    assert_eq!(store.current().await.unwrap(), at, "keeping alive is no change");
    next_event(&mut store.watch(b"", at).await.unwrap()).await;
    assert!(renewed.elapsed() >= TTL / 2, "ended {:?} after it was kept alive", renewed.elapsed());
    assert!(keys(store, b"").await.is_empty());
}

/// Revoking does not wait for the time to run out.
pub async fn a_revoked_lease_is_gone_at_once(fixture: Fixture) {
    let store = &fixture.store;
    let lease = store.grant(LONG).await.unwrap();
    let at = apply(store, Txn::new().put_leased("a", "", lease).put_leased("b", "", lease)).await;
    store.revoke(lease).await.unwrap();
    assert!(keys(store, b"").await.is_empty());
    let change = next_event(&mut store.watch(b"", at).await.unwrap()).await;
    assert_eq!(change.events.len(), 2);
    assert!(matches!(store.revoke(lease).await, Err(Error::LeaseLost(id)) if id == lease));
    assert!(matches!(store.keep_alive(lease).await, Err(Error::LeaseLost(_))));
}

/// A put with a lease that is gone is refused with all that belongs to it, but a conflict comes first.
pub async fn a_lease_that_is_not_alive_takes_no_keys(fixture: Fixture) {
    let store = &fixture.store;
    let lease = store.grant(LONG).await.unwrap();
    store.revoke(lease).await.unwrap();
    let txn = Txn::new().put("a", "").put_leased("b", "", lease);
    let refused = store.commit(txn.clone()).await;
    assert!(matches!(refused, Err(Error::LeaseLost(id)) if id == lease), "{refused:?}");
    assert!(!store.commit(txn.when_exists("a")).await.unwrap().is_applied());
    assert!(keys(store, b"").await.is_empty());
}

/// The last put decides whether and on which lease a key hangs.
pub async fn a_key_put_without_the_lease_outlives_it(fixture: Fixture) {
    let store = &fixture.store;
    let (first, second) = (store.grant(LONG).await.unwrap(), store.grant(LONG).await.unwrap());
    assert_ne!(first, second);
    apply(store, Txn::new().put_leased("free", "", first).put_leased("moved", "", first).put_leased("kept", "", first))
        .await;
    apply(store, Txn::new().put("free", "").put_leased("moved", "", second)).await;
    store.revoke(first).await.unwrap();
    assert_eq!(keys(store, b"").await, ["free", "moved"]);
    assert_eq!(store.get(b"free").await.unwrap().unwrap().lease, None);
    store.revoke(second).await.unwrap();
    assert_eq!(keys(store, b"").await, ["free"]);
}

/// The end of a lease that has no keys changes nothing.
pub async fn a_lease_without_keys_ends_without_a_revision(fixture: Fixture) {
    let store = &fixture.store;
    let at = apply(store, Txn::new().put("k", "")).await;
    let lease = store.grant(TTL).await.unwrap();
    within(async {
        // Looking at it keeps it alive, so each look waits longer: some backends lengthen a short time to live.
        let mut pause = TTL + TTL / 2;
        loop {
            tokio::time::sleep(pause).await;
            if matches!(store.keep_alive(lease).await, Err(Error::LeaseLost(_))) {
                break;
            }
            pause += pause;
        }
    })
    .await;
    let other = store.grant(LONG).await.unwrap();
    store.revoke(other).await.unwrap();
    assert_eq!(store.current().await.unwrap(), at);
}

/// A short lease granted after a long one ends first, and alone.
pub async fn leases_end_independently(fixture: Fixture) {
    let store = &fixture.store;
    let long = store.grant(LONG).await.unwrap();
    let short = store.grant(TTL).await.unwrap();
    let at = apply(store, Txn::new().put_leased("long", "", long).put_leased("short", "", short)).await;
    let start = Instant::now();
    let change = next_event(&mut store.watch(b"", at).await.unwrap()).await;
    assert!(start.elapsed() < DEADLINE / 2, "the short lease waited for something: {:?}", start.elapsed());
    assert_eq!(change.events.len(), 1);
    assert_eq!(keys(store, b"").await, ["long"]);
    store.keep_alive(long).await.unwrap();
}
