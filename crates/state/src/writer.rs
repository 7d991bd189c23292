//! Changing the tables. Every method is one store transaction, tried again when another writer was faster, and
//! returns when the replica of this process shows the change.
//!
//! A write is planned on the replica: what it was decided on becomes conditions of the transaction, so a plan made on
//! something old is refused by the store and made again on something newer. What is already so is not written.
//!
//! A transaction has a limit of operations (the store's [`MAX_TXN_OPS`](lictor_store::MAX_TXN_OPS)). What can need
//! more is cut into several. The first one decides: it removes the node, the instance or the check, or makes the check
//! critical. What depends on that and finds no room (a session's locks, an instance's checks) is removed by those behind
//! it, which go on when whoever asked has left ([`to_the_end`](lictor_task::to_the_end())). When the process dies in between,
//! the rest is told by what is stored (a session without its node, checks without their instance) and done by whoever
//! expires sessions.

mod ca;
mod catalog;
mod coordinates;
mod draft;
mod events;
mod intentions;
mod kv;
mod queries;
mod rights;
mod scratch;
mod sessions;
mod snapshot;
mod tokens;
mod txn;

use std::sync::Arc;
use std::time::Duration;

use lictor_model::health::Check;
use lictor_model::node::Node;
use lictor_model::revision::Revision;
use lictor_model::root::Root;
use lictor_model::service::Service;
use lictor_store::{Outcome, Store};
use lictor_task::Backoff;

use crate::Error;
use crate::replica::Replica;
use crate::schema::Key;
use draft::Draft;
use scratch::{Rest, Scratch};

pub use kv::Put;
pub(crate) use scratch::PENDING;
pub(crate) use snapshot::finish_restore;
pub use txn::{KvVerb, LARGEST_READ, TxnFailure, TxnItem, TxnOp, TxnOutcome, Verb};

/// How long a write is tried again while others change what it depends on. Each round somebody's write succeeds, so
/// only a crowd on one record comes near it.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long the replica may take to show what the store has. It takes microseconds in this process and milliseconds
/// over a network; beyond this the write is acknowledged without waiting, since it did happen.
const SHOWN_WITHIN: Duration = Duration::from_secs(5);

/// First and longest pause before planning again after a conflict.
const RETRY: (Duration, Duration) = (Duration::from_micros(200), Duration::from_millis(50));

/// Whether a plan was made on all that was written before it was asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Knowledge {
    Perhaps,
    Latest,
}

/// What one catalog registration writes, all or nothing.
#[derive(Clone, Debug, Default)]
pub struct Registration {
    /// The node it concerns.
    pub node: Node,
    /// Leave the node's record alone if it exists.
    pub skip_node_update: bool,
    /// An instance to add or replace.
    pub service: Option<Service>,
    /// Checks to add or replace.
    pub checks: Vec<Check>,
}

/// What to remove from a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removal {
    /// The node with everything on it.
    Node,
    /// One instance and its checks.
    Service(lictor_model::name::ServiceId),
    /// One check.
    Check(lictor_model::name::CheckId),
}

/// A new set of roots with what signs for it, written together.
#[derive(Clone, Debug)]
pub struct CaChange {
    /// `consul`.
    pub provider: String,
    /// The provider's settings as given.
    pub config: Option<lictor_model::Opaque>,
    /// The cluster id: only the first change sets it.
    pub cluster_id: String,
    /// All roots from now on; revisions inside are ignored.
    pub roots: Vec<Root>,
    /// Signing keys by root id, sealed by `ca`; keys of roots not named are deleted.
    pub sealed_keys: Vec<(String, Vec<u8>)>,
    /// The revision of the stored configuration this change was computed from; zero when there was none. If it has
    /// moved, [`Error::Refused`] says `could not atomically update roots and config`.
    pub based_on: Revision,
}

/// The one writer of the state.
#[derive(Clone, Debug)]
pub struct Writer {
    store: Store,
    replica: Arc<Replica>,
}

impl Writer {
    pub(crate) fn new(store: Store, replica: Arc<Replica>) -> Writer {
        Writer { store, replica }
    }

    /// Plans and commits until it is done, and waits until the replica shows it.
    async fn write<T>(
        &self,
        operation: &'static str,
        plan: impl Fn(&mut Scratch<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.write_at(operation, plan).await.map(|(result, _)| result)
    }

    /// The same; also gives the revision, or `None` when there was nothing to write.
    async fn write_at<T>(
        &self,
        operation: &'static str,
        plan: impl Fn(&mut Scratch<'_>) -> Result<T, Error>,
    ) -> Result<(T, Option<Revision>), Error> {
        let started = tokio::time::Instant::now();
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut knowledge = Knowledge::Perhaps;
        loop {
            let (planned, at) = {
                let tables = self.replica.tables();
                let mut scratch = Scratch::new(&tables);
                let result = plan(&mut scratch);
                (result.map(|result| (scratch.draft, result)), tables.revision)
            };
            // To do something, the store agrees or not. To do nothing is decided here alone, so not on something old.
            let idle = planned.as_ref().map_or(true, |(draft, _)| draft.is_empty());
            if idle && knowledge == Knowledge::Perhaps && !self.is_latest(at, operation).await? {
                knowledge = Knowledge::Latest;
                continue;
            }
            let (draft, result) = planned?;
            if idle {
                return Ok((result, None));
            }
            match self.store.commit(draft.finish()).await.map_err(Error::store(operation))? {
                Outcome::Applied(revision) => {
                    self.shown(Revision(revision.0)).await;
                    return Ok((result, Some(Revision(revision.0))));
                }
                Outcome::Conflict(revision) => {
                    if started.elapsed() > PATIENCE {
                        return Err(Error::refused(format!("cannot {operation}: others keep changing it")));
                    }
                    // Mostly the replica was a moment behind: with what the store has seen the next plan is good.
                    let seen = self.replica.reached(Revision(revision.0));
                    if tokio::time::timeout(RETRY.1, seen).await.is_err() || backoff.failures() > 0 {
                        tokio::time::sleep(backoff.next_delay()).await;
                    } else {
                        backoff.next_delay();
                    }
                }
            }
        }
    }

    /// Does what a transaction found no room for; `done` is its revision, without one it wrote nothing.
    async fn complete(&self, rest: Rest, done: Option<Revision>) -> Result<(), Error> {
        for id in &rest.sessions {
            self.end_session_whole(id).await?;
        }
        match done {
            Some(done) => self.remove_checks_left(&rest.services, done).await,
            None => Ok(()),
        }
    }

    /// Commits a transaction that was put together elsewhere, and waits until the replica shows it.
    pub(crate) async fn commit(&self, txn: lictor_store::Txn, operation: &'static str) -> Result<Outcome, Error> {
        let outcome = self.store.commit(txn).await.map_err(Error::store(operation))?;
        self.shown(Revision(outcome.revision().0)).await;
        Ok(outcome)
    }

    /// Whether nothing was written anywhere after this revision; when something was, waits until the replica has it.
    async fn is_latest(&self, revision: Revision, operation: &'static str) -> Result<bool, Error> {
        let latest = Revision(self.store.current().await.map_err(Error::store(operation))?.0);
        if latest <= revision {
            return Ok(true);
        }
        match tokio::time::timeout(SHOWN_WITHIN, self.replica.reached(latest)).await {
            Ok(()) => Ok(false),
            Err(_) => Err(Error::refused(format!("cannot {operation}: this server is behind the others"))),
        }
    }

    async fn shown(&self, revision: Revision) {
        // Mostly it is, by the time that the store has answered.
        if self.replica.applied() >= revision {
            return;
        }
        if tokio::time::timeout(SHOWN_WITHIN, self.replica.reached(revision)).await.is_err() {
            tracing::warn!("state: revision {revision} is written but not shown after {SHOWN_WITHIN:?}");
        }
    }

    /// A record that is read from the store itself, since the replica does not hold it.
    pub(crate) async fn stored(
        &self,
        key: &Key,
        operation: &'static str,
    ) -> Result<Option<lictor_store::Entry>, Error> {
        self.store.get(&key.encode()?).await.map_err(Error::store(operation))
    }
}
