//! The backend that keeps its data in one file: memory answers the reads, redb is the durable log of record.
//!
//! Every write goes through one thread. It takes all that were asked for while the disk was busy, decides them against
//! the visible state, writes what they come to as one redb transaction with one `fsync`, and only then shows and
//! answers them. A failed write is not shown, and what it left in the file is settled before the next.

mod file;
mod journal;
mod log;
mod schema;
pub(crate) mod verify;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::batch::{Batch, Staged};
use crate::lease::LONGEST_TTL;
use crate::reaper::{self, Reaper, Round};
use crate::redb::log::Log;
use crate::redb::writer::{QUEUE, Request, Writer};
use crate::replica::Replica;
use crate::store::{Backend, Boxed};
use crate::{Entry, Error, LeaseId, Outcome, Revision, Scan, Txn, Watch};

/// See [`Store::open_redb`](crate::Store::open_redb).
pub(crate) struct Redb {
    path: PathBuf,
    replica: Arc<Replica>,
    requests: mpsc::Sender<Request>,
    /// Set before the writer is asked to close. It takes no more requests then, while readers still see the data.
    closing: AtomicBool,
    reaper: Reaper,
}

impl Redb {
    pub(crate) fn open(path: &Path, least: Revision) -> Result<Redb, Error> {
        let (mut log, mut keyspace) = Log::open(path)?;
        if keyspace.revision < least {
            let staged = Staged { revision: least, ..Batch::new(&keyspace).finish() };
            log.append(&staged)?;
            keyspace.apply(staged, Instant::now());
        }
        Redb::start(log, keyspace)
    }

    fn start(log: Log, keyspace: crate::keyspace::Keyspace) -> Result<Redb, Error> {
        let path = log.path().to_owned();
        let deadline = keyspace.leases.next_deadline();
        let replica = Arc::new(Replica::new(keyspace));
        let (requests, queue) = mpsc::channel(QUEUE);
        Writer::start(log, Arc::clone(&replica), queue)?;
        let redb = Redb { path, replica, requests, closing: AtomicBool::new(false), reaper: Reaper::new() };
        if let Some(deadline) = deadline {
            redb.reap_at(deadline)?;
        }
        Ok(redb)
    }

    /// Asks the writer for something and waits for its answer.
    async fn ask<T>(&self, request: impl FnOnce(writer::Reply<T>) -> Request) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        if self.requests.send(request(reply)).await.is_err() {
            return Err(self.gone());
        }
        answer.await.unwrap_or_else(|_| Err(self.gone()))
    }

    /// Why the writer does not answer.
    fn gone(&self) -> Error {
        match self.replica.current() {
            Err(closed) => closed,
            Ok(_) if self.closing.load(Ordering::Acquire) => Error::Closed,
            Ok(_) => Error::Stopped { path: self.path.clone() },
        }
    }

    fn reap_at(&self, deadline: Instant) -> Result<(), Error> {
        // Weak, because the reaper must not keep the writer waiting for requests that nobody can make.
        let requests = self.requests.downgrade();
        let replica = Arc::downgrade(&self.replica);
        self.reaper.call_at(deadline, move || {
            let (reply, answer) = oneshot::channel();
            let asked =
                requests.upgrade().is_some_and(|requests| requests.blocking_send(Request::Expire(reply)).is_ok());
            let (true, Some(replica)) = (asked, replica.upgrade()) else { return Round::Over };
            match (answer.blocking_recv(), replica.read()) {
                (Ok(Ok(())), Ok(keyspace)) => Round::Next(keyspace.leases.next_deadline()),
                // The writer has said why; the leases stay due until it succeeds.
                (Ok(Err(_)), Ok(_)) => Round::Next(Some(Instant::now() + reaper::RETRY)),
                (Err(_), _) | (_, Err(_)) => Round::Over,
            }
        })
    }
}

impl Backend for Redb {
    fn commit(&self, txn: Txn) -> Boxed<'_, Result<Outcome, Error>> {
        Box::pin(self.ask(|reply| Request::Commit(txn, reply)))
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
        Box::pin(async move {
            let ttl = ttl.min(LONGEST_TTL);
            let lease = self.ask(|reply| Request::Grant(ttl, reply)).await?;
            self.reap_at(Instant::now() + ttl)?;
            Ok(lease)
        })
    }

    fn keep_alive(&self, lease: LeaseId) -> Boxed<'_, Result<(), Error>> {
        Box::pin(async move { self.replica.keep_alive(lease) })
    }

    fn revoke(&self, lease: LeaseId) -> Boxed<'_, Result<(), Error>> {
        Box::pin(self.ask(move |reply| Request::Revoke(lease, reply)))
    }

    fn close(&self) -> Boxed<'_, ()> {
        Box::pin(async move {
            self.closing.store(true, Ordering::Release);
            // An error means that it is closed already.
            let _ = self.ask(Request::Close).await;
        })
    }
}

#[cfg(test)]
mod tests;
