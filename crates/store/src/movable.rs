//! A store whose content can move to another engine while it is in use.
//!
//! Reads are answered all the time. Writes wait while the content is copied and compared; those that were acknowledged
//! before are in the copy, those after go to the new place. Watches end with [`Error::Lagged`], so their owners read
//! everything again, from the new place.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{RwLock, watch};

use crate::store::{Backend, Boxed};
use crate::watch::Changes;
use crate::{Change, Entry, Error, LeaseId, MAX_TXN_BYTES, Outcome, Revision, Scan, Store, Txn, Watch};

/// How many entries are copied with one transaction.
const BATCH: usize = 100;

/// How many bytes of entries are copied with one transaction, unless one entry alone is larger.
const BATCH_BYTES: usize = MAX_TXN_BYTES / 2;

/// What came of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    /// Entries that were copied and compared.
    pub entries: usize,
    /// Their keys and values.
    pub bytes: usize,
    /// The revision of the source that the copy shows.
    pub source: Revision,
    /// The revision of the copy.
    pub copy: Revision,
}

/// A handle that can move the content of a store, beside the [`Store`] that everybody uses.
#[derive(Clone)]
pub struct Mover {
    shared: Arc<Shared>,
}

struct Shared {
    /// Writers share it, a move has it alone.
    place: RwLock<Store>,
    /// Where reads go; follows `place`.
    shown: watch::Sender<Store>,
}

struct Movable(Arc<Shared>);

/// A store like this one whose content can be moved by the mover.
pub fn movable(store: Store) -> (Store, Mover) {
    let shared = Arc::new(Shared { shown: watch::Sender::new(store.clone()), place: RwLock::new(store) });
    (Store { backend: Arc::new(Movable(Arc::clone(&shared))) }, Mover { shared })
}

/// The marks by which a store that must not be used is told from one that may.
#[derive(Clone, Copy, Debug)]
pub struct Marks<'a> {
    /// Key and value that stand in the old place once all has moved.
    pub moved: (&'a [u8], &'a [u8]),
    /// Key that stands in the new place until all is there.
    pub filling: &'a [u8],
}

/// Copies everything of one store that hangs on no lease into another, and compares. `to` must be empty, and holds the
/// key `filling` beside the copy.
async fn copy(from: &Store, to: &Store, filling: &[u8]) -> Result<Copied, Error> {
    let refuse = |detail: String| Error::Refused { operation: "take the copy of a store", detail };
    if !to.scan(b"").await?.entries.is_empty() {
        return Err(refuse("there is something in it already".into()));
    }
    let scan = from.scan(b"").await?;
    let kept: Vec<&Entry> = scan.entries.iter().filter(|entry| entry.lease.is_none()).collect();
    let key = Bytes::copy_from_slice(filling);
    put_all(to, Txn::new().when_absent(key.clone()).put(key, "")).await?;
    let mut txn = Txn::new();
    for entry in &kept {
        let larger = txn.bytes() + entry.key.len() + entry.value.len() > BATCH_BYTES;
        if !txn.ops.is_empty() && (larger || txn.ops.len() >= BATCH) {
            put_all(to, std::mem::take(&mut txn)).await?;
        }
        // Not written over anything, and harmless when it is asked for twice.
        txn = txn.when_absent(entry.key.clone()).put(entry.key.clone(), entry.value.clone());
    }
    put_all(to, txn).await?;
    let copy = to.scan(b"").await?;
    let pairs = |entries: &[&Entry]| -> Vec<(Bytes, Bytes)> {
        entries.iter().map(|entry| (entry.key.clone(), entry.value.clone())).collect()
    };
    if pairs(&kept) != pairs(&copy.entries.iter().filter(|entry| entry.key != filling).collect::<Vec<_>>()) {
        return Err(refuse("the copy is not what was copied".into()));
    }
    // Whoever waits for a change with an index of the old place must not wait until the new one has counted that far.
    if copy.revision <= scan.revision {
        return Err(refuse("its revisions are behind those of what is copied: try again".into()));
    }
    Ok(Copied {
        entries: kept.len(),
        bytes: kept.iter().map(|entry| entry.key.len() + entry.value.len()).sum(),
        source: scan.revision,
        copy: copy.revision,
    })
}

async fn put_all(to: &Store, txn: Txn) -> Result<(), Error> {
    match to.commit(txn).await? {
        Outcome::Applied(_) => Ok(()),
        Outcome::Conflict(_) => {
            Err(Error::Refused { operation: "take the copy of a store", detail: "somebody else writes to it".into() })
        }
    }
}

/// Writes a mark and makes sure of it.
async fn mark(store: &Store, (key, value): (&[u8], &[u8])) -> Result<(), Error> {
    let bytes = Bytes::copy_from_slice(key);
    let Err(error) = store.commit(Txn::new().put(bytes.clone(), Bytes::copy_from_slice(value))).await else {
        return Ok(());
    };
    if matches!(error, Error::Open { .. }) && store.get(key).await?.is_some() {
        return Ok(());
    }
    // It may still come; what is taken back now would be asked for after it.
    let _ = store.commit(Txn::new().delete(bytes)).await;
    Err(error)
}

impl Mover {
    /// Moves everything into an empty store and goes on there; the old one is left as it was, with one more key that
    /// says so, and closed. When anything fails, all stays where it is, and the new place is marked as unfinished.
    pub async fn move_to(&self, to: Store, marks: Marks<'_>) -> Result<Copied, Error> {
        let mut place = self.shared.place.write().await;
        let copied = copy(&place, &to, marks.filling).await?;
        let filling = Bytes::copy_from_slice(marks.filling);
        to.commit(Txn::new().delete(filling.clone())).await?;
        // From here on whoever opens the old place sees that it is old. Before, the new one must be whole: should this
        // process end in between, one of them at least can be opened.
        if let Err(error) = mark(&place, marks.moved).await {
            // The old place goes on being used, so the new one must not be. It says so again, if it can be told.
            let again = to.commit(Txn::new().put(filling, "")).await;
            return Err(match again {
                Ok(_) => error,
                Err(_) => Error::Refused {
                    operation: "mark the old store as moved",
                    detail: format!("{error}; the copy looks like a store of its own now: remove it"),
                },
            });
        }
        let old = std::mem::replace(&mut *place, to.clone());
        self.shared.shown.send_replace(to);
        drop(place);
        old.close().await;
        Ok(copied)
    }

    /// The revision reached where the content is now.
    pub async fn current(&self) -> Result<Revision, Error> {
        self.shared.shown.borrow().clone().current().await
    }
}

/// A watch that ends when the content moves.
struct Until {
    watch: Watch,
    shown: watch::Receiver<Store>,
    at: Revision,
    over: bool,
}

impl Changes for Until {
    fn next(&mut self) -> Boxed<'_, Option<Result<Change, Error>>> {
        Box::pin(async {
            if self.over {
                return None;
            }
            let next = tokio::select! {
                biased;
                Ok(()) = self.shown.changed() => Some(Err(Error::Lagged { oldest: self.at })),
                next = self.watch.next() => next,
            };
            // The old place is closed behind a move, and a watch of it may be faster to see that.
            let next = match next {
                None if self.shown.has_changed().unwrap_or(false) => Some(Err(Error::Lagged { oldest: self.at })),
                next => next,
            };
            match &next {
                Some(Ok(change)) => self.at = change.revision,
                Some(Err(_)) | None => self.over = true,
            }
            next
        })
    }
}

impl Movable {
    fn shown(&self) -> Store {
        self.0.shown.borrow().clone()
    }

    /// Asks where the content is; once more when it moved meanwhile.
    async fn read<T, F: Future<Output = Result<T, Error>>>(&self, ask: impl Fn(Store) -> F) -> Result<T, Error> {
        let mut shown = self.0.shown.subscribe();
        let store = shown.borrow_and_update().clone();
        match ask(store).await {
            Err(Error::Closed) if shown.has_changed().unwrap_or(false) => ask(self.shown()).await,
            answer => answer,
        }
    }
}

impl Backend for Movable {
    fn commit(&self, txn: Txn) -> Boxed<'_, Result<Outcome, Error>> {
        Box::pin(async move {
            // It was checked against the limits on its way here.
            let place = self.0.place.read().await;
            place.backend.commit(txn).await
        })
    }

    fn scan(&self, prefix: Bytes) -> Boxed<'_, Result<Scan, Error>> {
        Box::pin(async move {
            self.read(|store| {
                let prefix = prefix.clone();
                async move { store.scan(&prefix).await }
            })
            .await
        })
    }

    fn get(&self, key: Bytes) -> Boxed<'_, Result<Option<Entry>, Error>> {
        Box::pin(async move {
            self.read(|store| {
                let key = key.clone();
                async move { store.get(&key).await }
            })
            .await
        })
    }

    fn watch(&self, prefix: Bytes, after: Revision) -> Boxed<'_, Result<Watch, Error>> {
        Box::pin(async move {
            let mut shown = self.0.shown.subscribe();
            let store = shown.borrow_and_update().clone();
            let watch = store.watch(&prefix, after).await?;
            Ok(Watch::new(Until { watch, shown, at: after, over: false }))
        })
    }

    fn current(&self) -> Boxed<'_, Result<Revision, Error>> {
        Box::pin(async move { self.read(|store| async move { store.current().await }).await })
    }

    fn grant(&self, ttl: std::time::Duration) -> Boxed<'_, Result<LeaseId, Error>> {
        Box::pin(async move { self.0.place.read().await.grant(ttl).await })
    }

    fn keep_alive(&self, lease: LeaseId) -> Boxed<'_, Result<(), Error>> {
        Box::pin(async move { self.shown().keep_alive(lease).await })
    }

    fn revoke(&self, lease: LeaseId) -> Boxed<'_, Result<(), Error>> {
        Box::pin(async move { self.0.place.read().await.revoke(lease).await })
    }

    fn close(&self) -> Boxed<'_, ()> {
        Box::pin(async move { self.0.place.read().await.clone().close().await })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::Fixture;

    crate::conformance_suite!(|| async { Fixture::new(movable(Store::memory()).0) });

    const MARKS: Marks<'_> = Marks { moved: (b"moved", b"elsewhere"), filling: b"filling" };

    /// An empty store whose revisions are ahead.
    async fn ahead() -> Store {
        let store = Store::memory();
        for number in 0..2000 {
            store.commit(Txn::new().put("k", number.to_string())).await.unwrap();
        }
        store.commit(Txn::new().delete("k")).await.unwrap();
        store
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_move_loses_no_acknowledged_write_and_reads_go_on() {
        let old = Store::memory();
        let (store, mover) = movable(old.clone());
        for number in 0..300 {
            store.commit(Txn::new().put(format!("k/{number}"), vec![1; 4096])).await.unwrap();
        }
        let mut watch = store.watch(b"", store.current().await.unwrap()).await.unwrap();
        let writer = tokio::spawn({
            let store = store.clone();
            async move {
                let mut written = 0_u32;
                while written < 500 {
                    store.commit(Txn::new().put(format!("w/{written}"), "")).await.unwrap();
                    assert!(store.get(format!("w/{written}").as_bytes()).await.unwrap().is_some());
                    written += 1;
                }
            }
        });
        let target = ahead().await;
        let copied = mover.move_to(target.clone(), MARKS).await.unwrap();
        assert!(copied.entries >= 300);
        writer.await.unwrap();
        for number in 0..500 {
            assert!(target.get(format!("w/{number}").as_bytes()).await.unwrap().is_some(), "{number} is lost");
        }
        assert!(target.get(b"filling").await.unwrap().is_none());
        assert!(matches!(old.get(b"k/1").await, Err(Error::Closed)));
        let end = loop {
            match watch.next().await {
                Some(Ok(_)) => {}
                end => break end,
            }
        };
        assert!(matches!(end, Some(Err(Error::Lagged { .. }))), "{end:?}");
        assert!(watch.next().await.is_none());
    }

    #[tokio::test]
    async fn a_store_that_is_not_empty_takes_no_copy() {
        let (store, mover) = movable(Store::memory());
        store.commit(Txn::new().put("k", "ours")).await.unwrap();
        let target = Store::memory();
        target.commit(Txn::new().put("k", "theirs")).await.unwrap();
        assert!(mover.move_to(target.clone(), MARKS).await.is_err());
        assert_eq!(store.get(b"k").await.unwrap().unwrap().value, "ours");
        assert_eq!(store.get(b"moved").await.unwrap(), None);
    }
    #[tokio::test]
    async fn a_place_whose_indexes_would_go_back_takes_no_copy_and_is_marked_as_unfinished() {
        let (store, mover) = movable(ahead().await);
        store.commit(Txn::new().put("k", "ours")).await.unwrap();
        let target = Store::memory();
        assert!(mover.move_to(target.clone(), MARKS).await.is_err());
        assert!(target.get(b"filling").await.unwrap().is_some());
        assert_eq!(store.get(b"moved").await.unwrap(), None);
    }
}
