//! The visible state of an embedded store, and the watches that read it.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::watch;

use crate::batch::Staged;
use crate::history::After;
use crate::keyspace::Keyspace;
use crate::store::Boxed;
use crate::watch::Changes;
use crate::{Change, Entry, Error, LeaseId, Revision, Scan, Watch};

/// What readers see. Every read of an embedded store is answered here, from memory.
pub(crate) struct Replica {
    shown: RwLock<Shown>,
    /// Wakes the watches. It follows `shown`: whoever sees the new value finds the change in the history.
    tip: watch::Sender<Phase>,
}

struct Shown {
    keyspace: Keyspace,
    phase: Phase,
}

/// Whether the store still answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    Closed,
}

impl Replica {
    pub(crate) fn new(keyspace: Keyspace) -> Replica {
        let phase = Phase::Open;
        Replica { shown: RwLock::new(Shown { keyspace, phase }), tip: watch::Sender::new(phase) }
    }

    /// The state, to read.
    pub(crate) fn read(&self) -> Result<impl std::ops::Deref<Target = Keyspace> + '_, Error> {
        let shown = self.shown.read();
        match shown.phase {
            Phase::Open => Ok(RwLockReadGuard::map(shown, |shown| &shown.keyspace)),
            Phase::Closed => Err(Error::Closed),
        }
    }

    /// The state, to decide and apply in one step.
    pub(crate) fn write(&self) -> Result<impl std::ops::DerefMut<Target = Keyspace> + '_, Error> {
        let shown = self.shown.write();
        match shown.phase {
            Phase::Open => Ok(RwLockWriteGuard::map(shown, |shown| &mut shown.keyspace)),
            Phase::Closed => Err(Error::Closed),
        }
    }

    /// Makes a batch visible, in one step for readers, and wakes the watches.
    pub(crate) fn publish(&self, staged: Staged) {
        self.shown.write().keyspace.apply(staged, Instant::now());
        self.wake();
    }

    /// Wakes the watches after the state was changed through [`Replica::write`].
    pub(crate) fn wake(&self) {
        self.tip.send_modify(|_| {});
    }

    /// From now on nothing is answered; watches end when they have seen what happened before.
    pub(crate) fn close(&self) {
        self.shown.write().phase = Phase::Closed;
        self.tip.send_modify(|phase| *phase = Phase::Closed);
    }

    pub(crate) fn scan(&self, prefix: &[u8]) -> Result<Scan, Error> {
        let keyspace = self.read()?;
        Ok(Scan { revision: keyspace.revision, entries: keyspace.below(prefix).cloned().collect() })
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Entry>, Error> {
        Ok(self.read()?.entries.get(key).cloned())
    }

    pub(crate) fn current(&self) -> Result<Revision, Error> {
        Ok(self.read()?.revision)
    }

    pub(crate) fn keep_alive(&self, lease: LeaseId) -> Result<(), Error> {
        if self.write()?.leases.keep_alive(lease, Instant::now()) { Ok(()) } else { Err(Error::LeaseLost(lease)) }
    }

    pub(crate) fn watch(self: &Arc<Self>, prefix: Bytes, after: Revision) -> Result<Watch, Error> {
        let oldest = self.read()?.history.floor();
        if after < oldest {
            return Err(Error::Compacted { oldest });
        }
        let tip = self.tip.subscribe();
        Ok(Watch::new(Cursor {
            replica: Arc::clone(self),
            tip,
            prefix,
            position: after,
            progress: Progress::Following,
        }))
    }
}

/// A position in the history that moves on as changes are read.
struct Cursor {
    replica: Arc<Replica>,
    tip: watch::Receiver<Phase>,
    prefix: Bytes,
    position: Revision,
    progress: Progress,
}

enum Progress {
    Following,
    Lost,
}

impl Cursor {
    async fn advance(&mut self) -> Option<Result<Change, Error>> {
        loop {
            if let Progress::Lost = self.progress {
                return None;
            }
            // Marked as seen before looking, so that a change which comes in between is not slept through.
            let phase = *self.tip.borrow_and_update();
            let after = self.replica.shown.read().keyspace.history.after(self.position, &self.prefix);
            match after {
                After::Found(change) => {
                    self.position = change.revision;
                    return Some(Ok(change));
                }
                After::Gone(oldest) => {
                    self.progress = Progress::Lost;
                    return Some(Err(Error::Lagged { oldest }));
                }
                After::Nothing(position) => self.position = position,
            }
            if phase == Phase::Closed {
                return None;
            }
            // Fails only when the sender is gone, and the replica that owns it is held by this cursor.
            self.tip.changed().await.ok()?;
        }
    }
}

impl Changes for Cursor {
    fn next(&mut self) -> Boxed<'_, Option<Result<Change, Error>>> {
        Box::pin(self.advance())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Txn;
    use crate::batch::Batch;

    fn commit(replica: &Replica, txn: Txn) {
        let keyspace = replica.read().unwrap();
        let mut batch = Batch::new(&keyspace);
        batch.commit(txn).unwrap();
        let staged = batch.finish();
        drop(keyspace);
        replica.publish(staged);
    }

    #[tokio::test]
    async fn a_watcher_that_falls_too_far_behind_is_told_once_and_can_start_again() {
        let replica = Arc::new(Replica::new(Keyspace::empty()));
        let mut slow = replica.watch(Bytes::new(), Revision::ZERO).unwrap();
        let value = Bytes::from(vec![0; 1 << 20]);
        for _ in 0..40 {
            commit(&replica, Txn::new().put("k", value.clone()));
        }
        let Some(Err(Error::Lagged { oldest })) = slow.next().await else { panic!("the gap went unnoticed") };
        assert!(slow.next().await.is_none());
        assert!(
            matches!(replica.watch(Bytes::new(), Revision(1)), Err(Error::Compacted { oldest: floor }) if floor == oldest)
        );

        let scan = replica.scan(b"").unwrap();
        let mut again = replica.watch(Bytes::new(), scan.revision).unwrap();
        commit(&replica, Txn::new().put("k", "small"));
        assert_eq!(again.next().await.unwrap().unwrap().revision, Revision(41));
    }

    #[tokio::test]
    async fn changes_of_other_keys_do_not_make_a_reading_watcher_lag() {
        let replica = Arc::new(Replica::new(Keyspace::empty()));
        let mut watch = replica.watch(Bytes::from("mine/"), Revision::ZERO).unwrap();
        let value = Bytes::from(vec![0; 1 << 20]);
        for _ in 0..40 {
            commit(&replica, Txn::new().put("other/k", value.clone()));
            // Polled once, as a task that waits for it would be woken to do.
            assert!(tokio::time::timeout(std::time::Duration::ZERO, watch.next()).await.is_err());
        }
        commit(&replica, Txn::new().put("mine/k", ""));
        assert_eq!(watch.next().await.unwrap().unwrap().revision, Revision(41));
    }
}
