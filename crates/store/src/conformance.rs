//! The contract of a store, as tests that every backend runs.
//!
//! A backend calls [`conformance_suite!`](crate::conformance_suite) in its test module with a function that makes an
//! empty store; each case becomes a test of its own. The cases assume nothing that a distributed backend could not
//! give: revisions may skip numbers, transactions that are under way together may share one, leases may live up to a second longer, and everything takes its time.

#![allow(clippy::unwrap_used, reason = "a test suite: a failed step is a failed test")]

pub mod closing;
pub mod leases;
pub mod transactions;
pub mod watches;

use std::any::Any;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;

use crate::{Change, Outcome, Revision, Store, Txn, Watch};

/// The time within which anything that must happen has happened, on the slowest machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// An empty store and what must live as long as it does.
pub struct Fixture {
    /// The store.
    pub store: Store,
    _guard: Box<dyn Any + Send>,
}

impl Fixture {
    /// A store that needs nothing else.
    pub fn new(store: Store) -> Fixture {
        Fixture::keeping(store, ())
    }

    /// A store with its directory, process or the like.
    pub fn keeping(store: Store, guard: impl Any + Send) -> Fixture {
        Fixture { store, _guard: Box::new(guard) }
    }
}

/// Makes every case of the suite a test of the calling module. Takes an expression that can be called without
/// arguments and gives a future of a [`Fixture`](crate::conformance::Fixture) with an empty store.
#[macro_export]
macro_rules! conformance_suite {
    ($make:expr) => {
        $crate::conformance_suite!(@cases $make; transactions:
            every_transaction_has_a_greater_revision
            an_update_keeps_created_and_moves_modified
            a_key_that_comes_back_is_created_anew
            a_conflict_in_one_comparison_writes_nothing
            comparisons_hold_exactly_when_they_say
            concurrent_increments_lose_no_update
            concurrent_creations_have_one_winner
            a_transaction_that_changes_nothing_is_no_event
            delete_prefix_deletes_what_is_below_it_and_nothing_else
            keys_and_prefixes_are_any_bytes
            an_empty_value_is_not_an_absent_key
            a_value_of_one_mebibyte_comes_back_whole
            the_largest_transaction_is_taken_and_a_larger_one_refused
            a_key_written_twice_in_one_transaction_is_refused
            readers_never_see_half_a_transaction
            an_acknowledged_write_is_seen_by_every_handle
        );
        $crate::conformance_suite!(@cases $make; watches:
            a_watch_resumes_after_any_revision_without_gap_or_repetition
            a_watch_sees_its_prefix_only_and_a_revision_in_one_piece
            a_scan_and_the_watch_after_it_join_without_a_gap
            a_watch_loses_nothing_when_its_future_is_dropped
            a_watch_of_a_coming_revision_begins_after_it
            watchers_of_the_same_prefix_see_the_same_changes
        );
        $crate::conformance_suite!(@cases $make; leases:
            the_end_of_a_lease_deletes_its_keys_in_one_revision
            a_lease_that_is_kept_alive_keeps_its_keys
            a_revoked_lease_is_gone_at_once
            a_lease_that_is_not_alive_takes_no_keys
            a_key_put_without_the_lease_outlives_it
            a_lease_without_keys_ends_without_a_revision
            leases_end_independently
        );
        $crate::conformance_suite!(@cases $make; closing:
            a_closed_store_refuses_everything
            a_watch_of_a_closed_store_ends_after_the_last_change
        );
    };
    (@cases $make:expr; $part:ident: $($case:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let fixture = ($make)().await;
                $crate::conformance::$part::$case(fixture).await;
            }
        )*
    };
}

/// Applies a transaction that must be applied.
async fn apply(store: &Store, txn: Txn) -> Revision {
    match store.commit(txn).await.unwrap() {
        Outcome::Applied(revision) => revision,
        Outcome::Conflict(revision) => panic!("unexpected conflict at {revision}"),
    }
}

/// The value under a key that must exist.
async fn value(store: &Store, key: &[u8]) -> Bytes {
    store.get(key).await.unwrap().unwrap().value
}

/// The next change, which must come.
async fn next(watch: &mut Watch) -> Change {
    within(watch.next()).await.expect("the watch ended").unwrap()
}

/// The next change of something, which must come. A watch of the whole may show revisions at which nothing of ours happened, and
/// does on a busy machine, where a watch of etcd is helped.
async fn next_event(watch: &mut Watch) -> Change {
    loop {
        let change = next(watch).await;
        if !change.events.is_empty() {
            return change;
        }
    }
}

/// What `work` comes to, which must be soon.
async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, work).await.expect("not within the deadline")
}

/// The keys below a prefix.
async fn keys(store: &Store, prefix: &[u8]) -> Vec<Bytes> {
    store.scan(prefix).await.unwrap().entries.into_iter().map(|entry| entry.key).collect()
}
