//! The store's handle and the contract of a backend.

use std::fmt;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::etcd::{Etcd, EtcdSettings};
use crate::memory::Memory;
use crate::redb::Redb;
use crate::{Entry, Error, LeaseId, Outcome, Revision, Txn, Watch};

/// A future of a backend: boxed, so that the backends fit behind one handle.
pub(crate) type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What every engine below a [`Store`] can do; each method is described at the method of [`Store`] that calls it.
///
/// Transactions are checked against the limits before they come here. A new backend passes `conformance`, and that is
/// all there is to it.
pub(crate) trait Backend: Send + Sync {
    fn commit(&self, txn: Txn) -> Boxed<'_, Result<Outcome, Error>>;
    fn scan(&self, prefix: Bytes) -> Boxed<'_, Result<Scan, Error>>;
    fn get(&self, key: Bytes) -> Boxed<'_, Result<Option<Entry>, Error>>;
    fn watch(&self, prefix: Bytes, after: Revision) -> Boxed<'_, Result<Watch, Error>>;
    fn current(&self) -> Boxed<'_, Result<Revision, Error>>;
    fn grant(&self, ttl: Duration) -> Boxed<'_, Result<LeaseId, Error>>;
    fn keep_alive(&self, lease: LeaseId) -> Boxed<'_, Result<(), Error>>;
    fn revoke(&self, lease: LeaseId) -> Boxed<'_, Result<(), Error>>;
    fn close(&self) -> Boxed<'_, ()>;
}

/// A consistent picture of everything below a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// The revision of the picture; a watch after it continues without gap or overlap.
    pub revision: Revision,
    /// The entries, sorted by key.
    pub entries: Vec<Entry>,
}

/// A handle to a store. Clones are handles to the same store.
///
/// Everything is linearizable: what was acknowledged is seen by every later call on any handle.
#[derive(Clone)]
pub struct Store {
    pub(crate) backend: Arc<dyn Backend>,
}

impl Store {
    /// A store that is gone with its last handle.
    pub fn memory() -> Store {
        Store { backend: Arc::new(Memory::new()) }
    }

    /// Opens the store file at `path`, or creates it.
    ///
    /// The file is made readable by its owner alone, as is each directory above it that is missing. One process at a
    /// time can have it open ([`Error::InUse`]); the lock is a file beside it, named like it with `.lock` added.
    ///
    /// Reads the whole file, because reads are answered from memory; blocks meanwhile.
    pub fn open_redb(path: &Path) -> Result<Store, Error> {
        Store::open_redb_after(path, Revision::ZERO)
    }

    /// The same, and its next revision is greater than `least`, as for what comes from a store that has counted so far.
    pub fn open_redb_after(path: &Path, least: Revision) -> Result<Store, Error> {
        Ok(Store { backend: Arc::new(Redb::open(path, least)?) })
    }

    /// Opens the store below the prefix in an etcd, or founds it there. Revisions of a store that is founded are greater
    /// than `least`.
    ///
    /// Waits for as long as no member of etcd answers, which the log says once. Needs a runtime, in which the store's
    /// tasks run until it is closed.
    pub async fn open_etcd(settings: &EtcdSettings, least: Revision) -> Result<Store, Error> {
        Ok(Store { backend: Arc::new(Etcd::open(settings, least).await?) })
    }

    /// Removes the store below the prefix from an etcd, with its header, if this key is in it: the next one to open it
    /// founds it anew. Nobody may have it open.
    pub async fn remove_etcd(settings: &EtcdSettings, only_with: &[u8]) -> Result<(), Error> {
        crate::etcd::remove(settings, only_with).await
    }

    /// Applies a transaction, or finds that its conditions do not hold.
    ///
    /// When this returns [`Outcome::Applied`], the writes are visible to every reader and, where the backend is
    /// durable, on disk. An error means that nothing was applied, with two exceptions: [`Error::Open`], and when the
    /// future is dropped, or the store is closed or its disk breaks down half-way. Then the transaction may still be
    /// applied, whole.
    pub async fn commit(&self, txn: Txn) -> Result<Outcome, Error> {
        txn.check()?;
        self.backend.commit(txn).await
    }

    /// Everything below `prefix` at one revision; the empty prefix is everything. Cancel safe.
    pub async fn scan(&self, prefix: &[u8]) -> Result<Scan, Error> {
        self.backend.scan(Bytes::copy_from_slice(prefix)).await
    }

    /// The entry under `key`. Cancel safe.
    pub async fn get(&self, key: &[u8]) -> Result<Option<Entry>, Error> {
        self.backend.get(Bytes::copy_from_slice(key)).await
    }

    /// Every change below `prefix` with a revision greater than `after`, from history and then as it happens.
    ///
    /// [`Error::Compacted`] when that history is no longer kept; a backend that finds it out later lets the watch begin
    /// with [`Error::Lagged`]. Embedded backends keep some 16,000 changes, at most
    /// 16 MiB, and none from before they were opened. Cancel safe.
    pub async fn watch(&self, prefix: &[u8], after: Revision) -> Result<Watch, Error> {
        self.backend.watch(Bytes::copy_from_slice(prefix), after).await
    }

    /// The revision of the latest change that is visible; never older than any acknowledged write. Where the numbering
    /// is shared with others it may be newer than our latest change. Whoever watches everything will reach it either
    /// way. Cancel safe.
    pub async fn current(&self) -> Result<Revision, Error> {
        self.backend.current().await
    }

    /// A new lease that ends `ttl` from now unless it is kept alive. Its end deletes the keys put with it, all in one
    /// revision; a lease without keys ends without one.
    ///
    /// A backend may lengthen `ttl` to what it can express: to the next second, and etcd to one and a half of its
    /// election timeouts. A durable store
    /// remembers its leases: after it was opened again, each has its whole `ttl` before it.
    pub async fn grant(&self, ttl: Duration) -> Result<LeaseId, Error> {
        self.backend.grant(ttl).await
    }

    /// Gives a living lease its whole time again; [`Error::LeaseLost`] when it is not alive. Cancel safe.
    pub async fn keep_alive(&self, lease: LeaseId) -> Result<(), Error> {
        self.backend.keep_alive(lease).await
    }

    /// Ends a lease now; [`Error::LeaseLost`] when it is not alive.
    pub async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        self.backend.revoke(lease).await
    }

    /// Finishes the writes that were asked for, releases the file and ends the watches. Later calls on any handle fail
    /// with [`Error::Closed`]. Closing twice does no harm.
    ///
    /// Dropping the last handle closes as well, but does not wait for it.
    pub async fn close(self) {
        self.backend.close().await;
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}
