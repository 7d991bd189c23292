//! The backend that keeps everything in memory: writes are decided and visible in the caller's own call.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::batch::Batch;
use crate::lease::LONGEST_TTL;
use crate::reaper::{Reaper, Round};
use crate::replica::Replica;
use crate::store::{Backend, Boxed};
use crate::{Entry, Error, LeaseId, Outcome, Revision, Scan, Txn, Watch};

/// See [`Store::memory`](crate::Store::memory).
pub(crate) struct Memory {
    replica: Arc<Replica>,
    reaper: Reaper,
}

impl Memory {
    pub(crate) fn new() -> Memory {
        Memory { replica: Arc::new(Replica::new(crate::keyspace::Keyspace::empty())), reaper: Reaper::new() }
    }

    fn begin_lease(&self, ttl: Duration) -> Result<LeaseId, Error> {
        let ttl = ttl.min(LONGEST_TTL);
        let lease = decide(&self.replica, |batch| Ok(batch.grant(ttl)))?;
        let replica = Arc::downgrade(&self.replica);
        self.reaper.call_at(Instant::now() + ttl, move || match replica.upgrade() {
            Some(replica) => reap(&replica),
            None => Round::Over,
        })?;
        Ok(lease)
    }
}

/// Decides and publishes in one step.
fn decide<T>(replica: &Replica, decision: impl FnOnce(&mut Batch<'_>) -> Result<T, Error>) -> Result<T, Error> {
    let mut keyspace = replica.write()?;
    let mut batch = Batch::new(&keyspace);
    let outcome = decision(&mut batch)?;
    let staged = batch.finish();
    if !staged.is_empty() {
        keyspace.apply(staged, Instant::now());
        drop(keyspace);
        replica.wake();
    }
    Ok(outcome)
}

fn reap(replica: &Replica) -> Round {
    let next = decide(replica, |batch| {
        batch.expire(Instant::now());
        Ok(())
    })
    .and_then(|()| Ok(replica.read()?.leases.next_deadline()));
    // The only thing that can be wrong is that the store is closed.
    next.map_or(Round::Over, Round::Next)
}

impl Backend for Memory {
    fn commit(&self, txn: Txn) -> Boxed<'_, Result<Outcome, Error>> {
        Box::pin(async move { decide(&self.replica, |batch| batch.commit(txn)) })
    }

    fn scan(&self, prefix: Bytes) -> Boxed<'_, Result<Scan, Error>> {
        Box::pin(async move { self.replica.scan(&prefix) })
    }

    fn get(&self, key: Bytes) -> Boxed<'_, Result<Option<Entry>, Error>> {
        Box::pin(async move { self.replica.get(&key) })
    }

    fn watch(&self, prefix: Bytes, after: Revision) -> Boxed<'_, Result<Watch, Error>> {
        Box::pin(async move { self.replica.watch(prefix, after) })
    }

    fn current(&self) -> Boxed<'_, Result<Revision, Error>> {
        Box::pin(async move { self.replica.current() })
    }

    fn grant(&self, ttl: Duration) -> Boxed<'_, Result<LeaseId, Error>> {
        Box::pin(async move { self.begin_lease(ttl) })
    }

    fn keep_alive(&self, lease: LeaseId) -> Boxed<'_, Result<(), Error>> {
        Box::pin(async move { self.replica.keep_alive(lease) })
    }

    fn revoke(&self, lease: LeaseId) -> Boxed<'_, Result<(), Error>> {
        Box::pin(async move { decide(&self.replica, |batch| batch.end_lease(lease)) })
    }

    fn close(&self) -> Boxed<'_, ()> {
        Box::pin(async move { self.replica.close() })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // Watches outlive the last handle; nothing will ever come to them again.
        self.replica.close();
    }
}

#[cfg(test)]
mod tests {
    use crate::Store;
    use crate::conformance::Fixture;

    crate::conformance_suite!(|| async { Fixture::new(Store::memory()) });
}
