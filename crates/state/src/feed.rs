//! Keeps the replica current: applies every change of the store in order, and after a gap finds the difference.

use std::sync::Arc;
use std::time::Duration;

use lictor_model::revision::Revision;
use lictor_store::{Change, Store, Watch};
use lictor_task::{Backoff, Stop};

use crate::Error;
use crate::replica::{Replica, read_event};

/// First and longest pause between attempts to read the store again.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// What is watched: everything, not only our own prefix. So each revision of the store reaches the replica, also one
/// that another table of a later version brought, and waiting for a revision never waits for ever.
pub(crate) const WATCHED: &[u8] = b"";

/// Follows the store until it is closed or stopping is asked for.
pub(crate) async fn run(store: Store, replica: Arc<Replica>, mut watch: Watch, stop: Stop) {
    while let Some(Some(next)) = stop.or_stopped(watch.next()).await {
        match next {
            Ok(change) => apply(&replica, &change),
            Err(gap) => {
                tracing::warn!("state: reading everything again: {gap}");
                match stop.or_stopped(catch_up(&store, &replica)).await.flatten() {
                    Some(fresh) => watch = fresh,
                    None => return,
                }
            }
        }
    }
}

fn apply(replica: &Replica, change: &Change) {
    let mut steps = Vec::with_capacity(change.events.len());
    for event in &change.events {
        match read_event(event) {
            Ok(step) => steps.extend(step),
            // The rest of the change is good, and an old row is better than none.
            Err(error) => log(&error),
        }
    }
    replica.apply(steps, Revision(change.revision.0));
}

/// Reads the store anew and applies what is different, as one change; gives a watch that goes on from there.
/// `None` when the store is closed.
async fn catch_up(store: &Store, replica: &Replica) -> Option<Watch> {
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    loop {
        match try_catch_up(store, replica).await {
            Ok(watch) => return Some(watch),
            Err(Error::Store { source: lictor_store::Error::Closed, .. }) => return None,
            Err(error) => {
                log(&error);
                tokio::time::sleep(backoff.next_delay()).await;
            }
        }
    }
}

async fn try_catch_up(store: &Store, replica: &Replica) -> Result<Watch, Error> {
    let scan = store.scan(WATCHED).await.map_err(Error::store("read everything"))?;
    let watch = store.watch(WATCHED, scan.revision).await.map_err(Error::store("watch"))?;
    let steps = replica.difference(&scan.entries)?;
    replica.apply(steps, Revision(scan.revision.0));
    Ok(watch)
}

fn log(error: &Error) {
    match std::error::Error::source(error) {
        Some(source) => tracing::error!("state: {error}: {source}"),
        None => tracing::error!("state: {error}"),
    }
}
