//! Typed tables of the cluster over the store; the only reader and the only writer of it.
//!
//! Writes go through [`Writer`] as store transactions. Reads are answered from a replica in memory that a task feeds
//! from the store's watch, so they never wait for a disk or a network. Every answer carries the revision of what it
//! speaks of and the topics that tell when it may have changed: that is all a blocking query needs.
//!
//! A [`Reader`] cannot be had without a caller, so no query can forget access control.

pub mod answer;
pub mod autopilot;
pub mod coordinate;
pub mod error;
pub mod event;
pub mod inspect;
pub mod presence;
pub mod query;
pub mod reader;
pub mod rules;
pub mod session;
pub mod snapshot;
pub mod tokens;
pub mod writer;

mod feed;
mod record;
mod replica;
mod schema;
mod topics;

#[cfg(any(test, fuzzing))]
#[allow(missing_docs, clippy::unwrap_used, reason = "no part of what is shipped")]
pub mod fuzz;

pub use answer::{Answer, Topic};
pub use error::Error;
pub use presence::Presence;
pub use reader::Reader;
pub use writer::Writer;

use std::sync::Arc;

use lictor_model::acl::Caller;
use lictor_model::revision::Revision;
use lictor_store::{Outcome, Store};
use lictor_task::Scope;

use replica::Replica;
use schema::{FORMAT, Key};

/// What this room must be told.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The one datacenter.
    pub datacenter: String,
    /// How access is controlled; `None` when it is not.
    pub acl: Option<tokens::Acl>,
}

/// The tables and what keeps them current.
#[derive(Clone, Debug)]
pub struct State {
    replica: Arc<Replica>,
    store: Store,
    config: Arc<Config>,
}

impl State {
    /// Reads the whole store into the replica and starts the task that keeps it current. The one [`Writer`] is given
    /// to the agent.
    pub async fn open(store: Store, config: Config, scope: &Scope) -> Result<(State, Writer), Error> {
        claim_format(&store).await?;
        writer::finish_restore(&store).await?;
        let scan = store.scan(feed::WATCHED).await.map_err(Error::store("read everything"))?;
        let replica = Arc::new(Replica::load(&scan.entries, Revision(scan.revision.0))?);
        let watch = store.watch(feed::WATCHED, scan.revision).await.map_err(Error::store("watch"))?;
        scope.spawn("feed", feed::run(store.clone(), Arc::clone(&replica), watch, scope.stop_signal()));
        let writer = Writer::new(store.clone(), Arc::clone(&replica));
        Ok((State { replica, store, config: Arc::new(config) }, writer))
    }

    /// The caller that a secret stands for; an empty one is nobody in particular.
    pub fn caller(&self, secret: &str) -> Result<Caller, Error> {
        tokens::caller(&self.replica.tables(), &self.config, secret)
    }

    /// What a secret stands for, in a form that another process can make the same caller of.
    pub fn grant(&self, secret: &str) -> Result<tokens::Grant, Error> {
        tokens::grant(&self.replica.tables(), &self.config, secret)
    }

    /// Whether access is controlled.
    pub fn acls_enabled(&self) -> bool {
        self.config.acl.is_some()
    }

    /// Reads on behalf of a caller: what the caller may not see is left out.
    pub fn reader(&self, caller: &Caller) -> Reader {
        Reader::new(Arc::clone(&self.replica), self.store.clone(), Arc::clone(&self.config), caller.clone())
    }
}

/// Marks an empty store with the version of our keys and records, and refuses one of a later version.
async fn claim_format(store: &Store) -> Result<(), Error> {
    let bytes = Key::Format.encode()?;
    let stored = store.get(&bytes).await.map_err(Error::store("read the format"))?;
    if let Some(entry) = stored {
        let format: record::Format = record::decode(&Key::Format, &entry.value)?;
        return match format.version {
            FORMAT => Ok(()),
            other => Err(Error::Format { found: other, known: FORMAT }),
        };
    }
    let value = record::encode(&Key::Format, &record::Format { version: FORMAT })?;
    let txn = lictor_store::Txn::new().when_absent(bytes.clone()).put(bytes, value);
    match store.commit(txn).await.map_err(Error::store("write the format"))? {
        // Written by another server in between, which then is of a version that this store lets in.
        Outcome::Applied(_) | Outcome::Conflict(_) => Ok(()),
    }
}

#[cfg(test)]
mod weigh;
