//! Watches: every change once, in order, from wherever the watcher was.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::{Fixture, apply, next, next_event, within};
use crate::{Change, Entry, Event, Revision, Store, Txn, Watch};

/// From each revision of a history the watch gives exactly the rest of it.
pub async fn a_watch_resumes_after_any_revision_without_gap_or_repetition(fixture: Fixture) {
    let store = &fixture.store;
    let start = store.current().await.unwrap();
    let mut revisions = vec![start];
    for number in 0..30 {
        let txn = match number % 3 {
            0 | 1 => Txn::new().put(format!("k/{number}"), number.to_string()).put("k/last", number.to_string()),
            _ => Txn::new().delete(format!("k/{}", number - 1)),
        };
        revisions.push(apply(store, txn).await);
    }
    let mut watch = store.watch(b"k/", start).await.unwrap();
    let whole = take(&mut watch, 30).await;
    let seen: Vec<Revision> = whole.iter().map(|change| change.revision).collect();
    assert_eq!(seen, &revisions[1..]);
    for (position, after) in revisions[..30].iter().enumerate() {
        let mut watch = store.watch(b"k/", *after).await.unwrap();
        assert_eq!(take(&mut watch, 30 - position).await, &whole[position..], "after {after}");
    }
}

/// Events of other keys are left out, and those of one transaction come together, in its order.
pub async fn a_watch_sees_its_prefix_only_and_a_revision_in_one_piece(fixture: Fixture) {
    let store = &fixture.store;
    let start = store.current().await.unwrap();
    let mut watch = store.watch(b"a/", start).await.unwrap();
    let first = apply(store, Txn::new().put("a/2", "x").put("b/1", "").put("a/1", "y").put("a", "")).await;
    apply(store, Txn::new().put("b/2", "").put("a0", "")).await;
    let third = apply(store, Txn::new().delete_prefix("a/").delete_prefix("b/")).await;

    let change = next(&mut watch).await;
    assert_eq!(change.revision, first);
    let entry = |key: &'static str, value: &'static str| Entry {
        key: Bytes::from(key),
        value: Bytes::from(value),
        created: first,
        modified: first,
        lease: None,
    };
    assert_eq!(change.events, [Event::Put(entry("a/2", "x")), Event::Put(entry("a/1", "y"))]);
    let change = next(&mut watch).await;
    assert_eq!(change.revision, third);
    let mut deleted: Vec<_> = change.events.iter().map(|event| event.key().clone()).collect();
    deleted.sort();
    assert_eq!(deleted, ["a/1", "a/2"]);
    assert!(change.events.iter().all(|event| matches!(event, Event::Deleted { .. })));
}

/// A replica built from a scan and the watch after it is the store, while eight writers go on.
pub async fn a_scan_and_the_watch_after_it_join_without_a_gap(fixture: Fixture) {
    let store = fixture.store.clone();
    let writers: Vec<_> = (0..8_u32)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                for number in 0..50_u32 {
                    let key = format!("r/{}", (number * 7 + writer) % 20);
                    let txn = match (number + writer) % 4 {
                        0 => Txn::new().delete(key),
                        1 => Txn::new().delete_prefix("r/1"),
                        _ => Txn::new().put(key, format!("{writer}/{number}")),
                    };
                    apply(&store, txn).await;
                }
            })
        })
        .collect();
    let replicas: Vec<_> = (0..4)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { follow(&store, "r/").await })
        })
        .collect();
    for writer in writers {
        within(writer).await.unwrap();
    }
    apply(&store, Txn::new().put("r/end", "")).await;
    let truth: BTreeMap<Bytes, Entry> =
        store.scan(b"r/").await.unwrap().entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
    for replica in replicas {
        assert_eq!(within(replica).await.unwrap(), truth);
    }
}

/// Scans, then watches until the key `end` appears.
async fn follow(store: &Store, prefix: &'static str) -> BTreeMap<Bytes, Entry> {
    let end = Bytes::from(format!("{prefix}end"));
    let scan = store.scan(prefix.as_bytes()).await.unwrap();
    let mut last = scan.revision;
    let mut entries: BTreeMap<Bytes, Entry> =
        scan.entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
    let mut watch = store.watch(prefix.as_bytes(), last).await.unwrap();
    while !entries.contains_key(&end) {
        let change = next(&mut watch).await;
        assert!(change.revision > last, "{} after {last}", change.revision);
        assert!(!change.events.is_empty());
        last = change.revision;
        for event in change.events {
            match event {
                Event::Put(entry) => {
                    assert_eq!(entry.modified, last);
                    entries.insert(entry.key.clone(), entry);
                }
                Event::Deleted { key } => {
                    assert!(entries.remove(&key).is_some(), "a key was deleted that was not there");
                }
            }
        }
    }
    entries
}

/// Giving up on a call of `next` and calling again sees every change.
pub async fn a_watch_loses_nothing_when_its_future_is_dropped(fixture: Fixture) {
    const CHANGES: u32 = 100;
    let store = fixture.store.clone();
    let start = store.current().await.unwrap();
    let mut watch = store.watch(b"", start).await.unwrap();
    let writer = tokio::spawn(async move {
        for number in 0..CHANGES {
            apply(&store, Txn::new().put("k", number.to_string())).await;
            if number % 8 == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    });
    let mut seen = 0;
    within(async {
        while seen < CHANGES {
            // Polled once and dropped, when nothing is there.
            let Ok(change) = tokio::time::timeout(Duration::from_micros(200), watch.next()).await else { continue };
            match change.unwrap().unwrap().events.as_slice() {
                [Event::Put(entry)] => assert_eq!(entry.value, seen.to_string()),
                // The whole may show this too.
                [] => continue,
                other => panic!("unexpected {other:?}"),
            }
            seen += 1;
        }
    })
    .await;
    within(writer).await.unwrap();
}

/// A watch may begin at a revision that is not there yet.
pub async fn a_watch_of_a_coming_revision_begins_after_it(fixture: Fixture) {
    let store = &fixture.store;
    let start = apply(store, Txn::new().put("k", "0")).await;
    let mut watch = store.watch(b"", Revision(start.0 + 2)).await.unwrap();
    let mut coming = Vec::new();
    for number in 1..=4 {
        coming.push(apply(store, Txn::new().put("k", number.to_string())).await);
    }
    let first = coming.iter().find(|revision| revision.0 > start.0 + 2).unwrap();
    assert_eq!(next_event(&mut watch).await.revision, *first);
}

/// Watchers do not take changes away from each other.
pub async fn watchers_of_the_same_prefix_see_the_same_changes(fixture: Fixture) {
    let store = fixture.store.clone();
    let start = store.current().await.unwrap();
    let mut watchers = Vec::new();
    for _ in 0..8 {
        let mut watch = store.watch(b"", start).await.unwrap();
        watchers.push(tokio::spawn(async move { take(&mut watch, 50).await }));
    }
    for number in 0..50 {
        apply(&store, Txn::new().put(format!("k/{number}"), "")).await;
    }
    let mut seen = Vec::new();
    for watcher in watchers {
        seen.push(within(watcher).await.unwrap());
    }
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]));
}

async fn take(watch: &mut Watch, count: usize) -> Vec<Change> {
    let mut changes = Vec::new();
    while changes.len() < count {
        changes.push(next_event(watch).await);
    }
    changes
}
