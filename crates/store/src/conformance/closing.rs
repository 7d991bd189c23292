//! Closing: everything asked for before is done, nothing after.

use std::time::Duration;

use super::{Fixture, apply, within};
use crate::{Error, Revision, Txn};

/// Each call on each handle says so.
pub async fn a_closed_store_refuses_everything(fixture: Fixture) {
    let store = fixture.store.clone();
    apply(&store, Txn::new().put("k", "")).await;
    let lease = store.grant(Duration::from_secs(60)).await.unwrap();
    within(fixture.store.clone().close()).await;
    assert!(matches!(store.commit(Txn::new().put("k", "")).await, Err(Error::Closed)));
    assert!(matches!(store.scan(b"").await, Err(Error::Closed)));
    assert!(matches!(store.get(b"k").await, Err(Error::Closed)));
    assert!(matches!(store.watch(b"", Revision::ZERO).await, Err(Error::Closed)));
    assert!(matches!(store.current().await, Err(Error::Closed)));
    assert!(matches!(store.grant(Duration::from_secs(60)).await, Err(Error::Closed)));
    assert!(matches!(store.keep_alive(lease).await, Err(Error::Closed)));
    assert!(matches!(store.revoke(lease).await, Err(Error::Closed)));
    within(store.close()).await;
}

/// A watch gives what happened before the end, and then the end, also to one that waits for it.
pub async fn a_watch_of_a_closed_store_ends_after_the_last_change(fixture: Fixture) {
    let store = fixture.store.clone();
    let start = store.current().await.unwrap();
    // Not of the whole, which may also show revisions at which nothing of ours happened.
    let mut reading = store.watch(b"k", start).await.unwrap();
    let mut waiting = store.watch(b"elsewhere/", start).await.unwrap();
    let waiter = tokio::spawn(async move { waiting.next().await.is_none() });
    let revision = apply(&store, Txn::new().put("k", "")).await;
    within(store.close()).await;
    assert_eq!(within(reading.next()).await.unwrap().unwrap().revision, revision);
    assert!(within(reading.next()).await.is_none());
    assert!(within(reading.next()).await.is_none());
    assert!(within(waiter).await.unwrap());
}
