//! Transactions: all or nothing, in one order that everybody agrees on.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{Fixture, apply, keys, value, within};
use crate::{Compare, Error, MAX_TXN_BYTES, MAX_TXN_OPS, Outcome, Revision, Store, Txn};

/// Revisions grow with every transaction that changes something. Only of those that are under way together and touch
/// nothing of each other may two have the same.
pub async fn every_transaction_has_a_greater_revision(fixture: Fixture) {
    let store = &fixture.store;
    let mut last = store.current().await.unwrap();
    for number in 0..20 {
        let revision = apply(store, Txn::new().put(format!("a/{number}"), "").put("b", "same")).await;
        assert!(revision > last, "{revision} after {last}");
        assert_eq!(store.current().await.unwrap(), revision);
        last = revision;
    }
    let mut watch = store.watch(b"", last).await.unwrap();
    let tasks: Vec<_> = (0..8)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut own = Vec::new();
                let mut shared = Vec::new();
                for number in 0..20 {
                    own.push(apply(&store, Txn::new().put(format!("c/{writer}/{number}"), "")).await);
                    shared.push(apply(&store, Txn::new().put("d", "")).await);
                }
                (own, shared)
            })
        })
        .collect();
    let mut shared = BTreeSet::new();
    let mut written = BTreeMap::new();
    for (writer, task) in tasks.into_iter().enumerate() {
        let (own, of_all) = within(task).await.unwrap();
        let in_turn = own.iter().zip(&of_all).flat_map(|(own, of_all)| [*own, *of_all]);
        assert!(in_turn.clone().is_sorted_by(|one, next| one < next), "one writer's revisions grow");
        assert!(in_turn.clone().all(|revision| revision > last));
        for revision in of_all {
            assert!(shared.insert(revision), "{revision} was given twice, for the same key");
        }
        for (number, revision) in own.into_iter().enumerate() {
            written.insert(Bytes::from(format!("c/{writer}/{number}")), revision);
        }
    }
    // What was told is what the entries have, and what watches see, each revision in one piece.
    for entry in store.scan(b"c/").await.unwrap().entries {
        assert_eq!(written.get(&entry.key), Some(&entry.modified));
    }
    let mut seen = last;
    while !written.is_empty() {
        let change = super::next(&mut watch).await;
        assert!(change.revision > seen, "{} after {seen}", change.revision);
        seen = change.revision;
        for event in change.events {
            if event.key().starts_with(b"c/") {
                assert_eq!(written.remove(event.key()), Some(seen));
            }
        }
    }
}

/// `created` stays, `modified` follows each write, also one with the same value.
pub async fn an_update_keeps_created_and_moves_modified(fixture: Fixture) {
    let store = &fixture.store;
    let first = apply(store, Txn::new().put("k", "1")).await;
    let second = apply(store, Txn::new().put("k", "1")).await;
    let entry = store.get(b"k").await.unwrap().unwrap();
    assert_eq!((entry.key, entry.value), (Bytes::from("k"), Bytes::from("1")));
    assert_eq!((entry.created, entry.modified, entry.lease), (first, second, None));
}

/// A key that was deleted and written again has no past.
pub async fn a_key_that_comes_back_is_created_anew(fixture: Fixture) {
    let store = &fixture.store;
    let first = apply(store, Txn::new().put("k", "1")).await;
    apply(store, Txn::new().delete("k")).await;
    assert_eq!(store.get(b"k").await.unwrap(), None);
    let again = apply(store, Txn::new().put("k", "2")).await;
    let entry = store.get(b"k").await.unwrap().unwrap();
    assert!(again > first);
    assert_eq!((entry.created, entry.modified), (again, again));
}

/// One comparison that does not hold prevents every operation.
pub async fn a_conflict_in_one_comparison_writes_nothing(fixture: Fixture) {
    let store = &fixture.store;
    let at = apply(store, Txn::new().put("a", "1").put("b", "1")).await;
    let txn = Txn::new().when_modified("a", at).when_absent("b").put("a", "2").delete("b").put("c", "2");
    let outcome = store.commit(txn).await.unwrap();
    assert!(matches!(outcome, Outcome::Conflict(seen) if seen >= at), "{outcome:?}");
    let scan = store.scan(b"").await.unwrap();
    let found: Vec<_> = scan.entries.iter().map(|entry| (&entry.key[..], &entry.value[..], entry.modified)).collect();
    assert_eq!(found, [(&b"a"[..], &b"1"[..], at), (b"b", b"1", at)]);
}

/// Every comparison, with and without the key.
pub async fn comparisons_hold_exactly_when_they_say(fixture: Fixture) {
    let store = &fixture.store;
    let old = apply(store, Txn::new().put("k", "1")).await;
    let now = apply(store, Txn::new().put("k", "2")).await;
    let cases = [
        (Compare::Absent(Bytes::from("k")), false),
        (Compare::Absent(Bytes::from("none")), true),
        (Compare::Exists(Bytes::from("k")), true),
        (Compare::Exists(Bytes::from("none")), false),
        (Compare::Modified(Bytes::from("k"), now), true),
        (Compare::Modified(Bytes::from("k"), old), false),
        (Compare::Modified(Bytes::from("none"), now), false),
        // Some engines take revision zero for "does not exist".
        (Compare::Modified(Bytes::from("none"), Revision::ZERO), false),
    ];
    for (compare, holds) in cases {
        let outcome = store.commit(Txn::new().when(compare.clone())).await.unwrap();
        assert_eq!(outcome.is_applied(), holds, "{compare:?}");
    }
}

/// Eight writers increment one counter by compare-and-set; the sum is right.
pub async fn concurrent_increments_lose_no_update(fixture: Fixture) {
    const WRITERS: usize = 8;
    const INCREMENTS: usize = 25;
    let store = &fixture.store;
    apply(store, Txn::new().put("counter", "0")).await;
    let tasks: Vec<_> = (0..WRITERS)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                for _ in 0..INCREMENTS {
                    increment(&store).await;
                }
            })
        })
        .collect();
    for task in tasks {
        within(task).await.unwrap();
    }
    assert_eq!(value(store, b"counter").await, (WRITERS * INCREMENTS).to_string());
}

async fn increment(store: &Store) {
    loop {
        let entry = store.get(b"counter").await.unwrap().unwrap();
        let number: usize = std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
        let txn = Txn::new().when_modified("counter", entry.modified).put("counter", (number + 1).to_string());
        if store.commit(txn).await.unwrap().is_applied() {
            return;
        }
    }
}

/// Of many that create the same key only if absent, one does.
pub async fn concurrent_creations_have_one_winner(fixture: Fixture) {
    let store = &fixture.store;
    let tasks: Vec<_> = (0..16)
        .map(|writer: u32| {
            let store = store.clone();
            let txn = Txn::new().when_absent("lock").put("lock", writer.to_string());
            tokio::spawn(async move { (writer, store.commit(txn).await.unwrap().is_applied()) })
        })
        .collect();
    let mut winners = Vec::new();
    for task in tasks {
        let (writer, won) = within(task).await.unwrap();
        winners.extend(won.then_some(writer));
    }
    assert_eq!(winners.len(), 1);
    assert_eq!(value(store, b"lock").await, winners[0].to_string());
}

/// Deleting what is not there and doing nothing are applied, at a revision at which nothing is seen to change.
pub async fn a_transaction_that_changes_nothing_is_no_event(fixture: Fixture) {
    let store = &fixture.store;
    let at = apply(store, Txn::new().put("k", "")).await;
    let mut watch = store.watch(b"", at).await.unwrap();
    let mut below = store.watch(b"k", at).await.unwrap();
    assert!(apply(store, Txn::new()).await >= at);
    let removal = apply(store, Txn::new().delete("none").delete_prefix("nothing/")).await;
    assert!(removal >= at && store.current().await.unwrap() >= removal);
    let next = apply(store, Txn::new().put("k", "")).await;
    assert_eq!(super::next(&mut below).await.revision, next);
    let change = super::next_event(&mut watch).await;
    assert_eq!((change.revision, change.events.len()), (next, 1));
}

/// Prefixes end where their bytes end, neither before nor after.
pub async fn delete_prefix_deletes_what_is_below_it_and_nothing_else(fixture: Fixture) {
    let store = &fixture.store;
    let all = ["a", "a.", "a/", "a/1", "a/2/3", "a0", "b/1"];
    apply(store, all.iter().fold(Txn::new(), |txn, key| txn.put(*key, ""))).await;
    apply(store, Txn::new().delete_prefix("a/")).await;
    assert_eq!(keys(store, b"").await, ["a", "a.", "a0", "b/1"]);
    assert_eq!(keys(store, b"a").await, ["a", "a.", "a0"]);
    apply(store, Txn::new().delete_prefix("")).await;
    assert!(keys(store, b"").await.is_empty());
}

/// Keys are bytes, sorted as bytes; a prefix of 0xff bytes has no successor and must still work.
pub async fn keys_and_prefixes_are_any_bytes(fixture: Fixture) {
    let store = &fixture.store;
    let all: [&[u8]; 7] = [b"\0", b"\0\0", b"k\0v", b"k\xff", b"\xff", b"\xff\xff", b"\xff\xff\x01"];
    apply(store, all.iter().fold(Txn::new(), |txn, key| txn.put(Bytes::from_static(key), Bytes::from_static(key))))
        .await;
    assert_eq!(keys(store, b"").await, all);
    for key in all {
        assert_eq!(value(store, key).await, key);
    }
    assert_eq!(keys(store, b"\xff").await, &all[4..]);
    assert_eq!(keys(store, b"\xff\xff").await, &all[5..]);
    assert_eq!(keys(store, b"\0").await, &all[..2]);
    apply(store, Txn::new().delete_prefix(Bytes::from_static(b"\xff\xff"))).await;
    assert_eq!(keys(store, b"").await, &all[..5]);
}

/// A key with nothing under it exists.
pub async fn an_empty_value_is_not_an_absent_key(fixture: Fixture) {
    let store = &fixture.store;
    apply(store, Txn::new().put("k", "")).await;
    assert_eq!(value(store, b"k").await, "");
    assert!(!store.commit(Txn::new().when_absent("k")).await.unwrap().is_applied());
    assert!(store.commit(Txn::new().when_exists("k")).await.unwrap().is_applied());
}

/// Large values pass through commit, get, scan and watch.
pub async fn a_value_of_one_mebibyte_comes_back_whole(fixture: Fixture) {
    let store = &fixture.store;
    let large: Bytes = (0..1024 * 1024_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    let before = store.current().await.unwrap();
    apply(store, Txn::new().put("large", large.clone())).await;
    assert_eq!(value(store, b"large").await, large);
    assert_eq!(store.scan(b"large").await.unwrap().entries[0].value, large);
    let mut watch = store.watch(b"", before).await.unwrap();
    match super::next_event(&mut watch).await.events.as_slice() {
        [crate::Event::Put(entry)] => assert_eq!(entry.value, large),
        other => panic!("{} events", other.len()),
    }
}

/// The limits are what they say.
pub async fn the_largest_transaction_is_taken_and_a_larger_one_refused(fixture: Fixture) {
    let store = &fixture.store;
    let largest =
        |ops: usize| (0..ops).fold(Txn::new(), |txn, n| txn.when_absent(format!("{n:03}")).put(format!("{n:03}"), "v"));
    apply(store, largest(MAX_TXN_OPS)).await;
    assert_eq!(keys(store, b"").await.len(), MAX_TXN_OPS);
    let refused = store.commit(largest(MAX_TXN_OPS + 1)).await;
    assert!(matches!(refused, Err(Error::TooLarge { .. })), "{refused:?}");
    apply(store, Txn::new().put("k", vec![1; MAX_TXN_BYTES - 1])).await;
    let refused = store.commit(Txn::new().put("k", vec![2; MAX_TXN_BYTES])).await;
    assert!(matches!(refused, Err(Error::TooLarge { .. })), "{refused:?}");
    assert_eq!(value(store, b"k").await[0], 1);
    assert!(matches!(store.commit(Txn::new().put("", "")).await, Err(Error::EmptyKey)));
}

/// What two writes of one key in one transaction mean differs between engines, so none takes them.
pub async fn a_key_written_twice_in_one_transaction_is_refused(fixture: Fixture) {
    let store = &fixture.store;
    let before = store.current().await.unwrap();
    let refused = store.commit(Txn::new().put("a", "1").delete("a")).await;
    assert!(matches!(refused, Err(Error::Overlap { position: 1 })), "{refused:?}");
    let refused = store.commit(Txn::new().put("a/b", "1").delete_prefix("a/")).await;
    assert!(matches!(refused, Err(Error::Overlap { position: 1 })), "{refused:?}");
    assert_eq!(store.current().await.unwrap(), before);
}

/// Two keys that are always written together are always read together.
pub async fn readers_never_see_half_a_transaction(fixture: Fixture) {
    let store = fixture.store.clone();
    apply(&store, Txn::new().put("p/a", "0").put("p/b", "0")).await;
    let writer = tokio::spawn(async move {
        for number in 1..=200 {
            apply(&store, Txn::new().put("p/a", number.to_string()).put("p/b", number.to_string())).await;
        }
    });
    let mut last = Revision::ZERO;
    while !writer.is_finished() {
        let scan = fixture.store.scan(b"p/").await.unwrap();
        assert_eq!(scan.entries[0].value, scan.entries[1].value);
        assert_eq!(scan.entries[0].modified, scan.entries[1].modified);
        assert!(scan.revision >= last && scan.revision >= scan.entries[0].modified);
        last = scan.revision;
        tokio::task::yield_now().await;
    }
    within(writer).await.unwrap();
}

/// Read your own and everybody's acknowledged writes.
pub async fn an_acknowledged_write_is_seen_by_every_handle(fixture: Fixture) {
    let other = fixture.store.clone();
    for number in 0..50 {
        let revision = apply(&fixture.store, Txn::new().put("k", number.to_string())).await;
        assert_eq!(value(&other, b"k").await, number.to_string());
        assert!(other.current().await.unwrap() >= revision);
        assert!(other.scan(b"").await.unwrap().revision >= revision);
    }
}
