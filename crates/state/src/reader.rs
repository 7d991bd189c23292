//! Reading the tables on behalf of a caller.
//!
//! Every read takes a short look at the replica and answers with what the caller may see, when it last changed, and
//! what to watch to learn that it changed again. The index of an answer is that of everything it was chosen from, also
//! of what the caller may not see, so it does not depend on who asks.

mod catalog;
mod coordinates;
mod events;
mod kv;
mod mesh;
mod presence;
mod queries;
mod sessions;
mod tokens;

pub use kv::KvRow;
pub use queries::{Executed, Execution, Ranking};

use std::sync::Arc;
use std::time::Duration;

use lictor_model::acl::Caller;
use lictor_model::health::{Check, Status};
use lictor_model::node::Node;
use lictor_model::revision::Revision;
use lictor_model::service::Service;
use lictor_store::Store;

use crate::answer::{Answer, Topic};
use crate::replica::{Replica, Tables};
use crate::{Config, Error};

/// How long a consistent read waits for the replica, as long as the original held a request without a leader.
const CONSISTENT_WITHIN: Duration = Duration::from_secs(7);

/// A node as stored.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeRow {
    /// The node.
    pub node: Node,
    /// First written (kept over renames).
    pub created: Revision,
    /// Last changed.
    pub modified: Revision,
}

/// An instance of a service on a node as stored.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceRow {
    /// The instance.
    pub service: Service,
    /// First written.
    pub created: Revision,
    /// Last changed.
    pub modified: Revision,
}

/// A check as stored.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckRow {
    /// The check.
    pub check: Check,
    /// First written.
    pub created: Revision,
    /// Last changed.
    pub modified: Revision,
}

/// An instance with all that decides about its health: what `/v1/health/service/:name` lists.
#[derive(Clone, Debug)]
pub struct Instance {
    /// Where it runs.
    pub node: Arc<NodeRow>,
    /// The instance.
    pub service: Arc<ServiceRow>,
    /// Checks of the node first, then of the service, each ordered by id.
    pub checks: Vec<Arc<CheckRow>>,
}

impl Instance {
    /// The worst of its checks.
    pub fn status(&self) -> Status {
        Status::worst(self.checks.iter().map(|row| row.check.status))
    }
}

/// A node with what is registered on it.
#[derive(Clone, Debug)]
pub struct NodeContents {
    /// The node.
    pub node: Arc<NodeRow>,
    /// Its instances, ordered by id.
    pub services: Vec<Arc<ServiceRow>>,
    /// Its checks, those of services included, ordered by id.
    pub checks: Vec<Arc<CheckRow>>,
}

/// Which instances of a service are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Those registered under the name.
    Ordinary,
    /// Those that take the service's mesh traffic: its proxies and native instances.
    Connect,
}

/// How to narrow and order a list.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// All of these tags (no case); ignored for [`Side::Connect`].
    pub tags: Vec<String>,
    /// All of these pairs of node metadata.
    pub node_meta: Vec<(String, String)>,
    /// Sorted by distance from this node.
    pub near: Option<String>,
}

/// The configuration of the CA as stored.
#[derive(Clone, Debug, PartialEq)]
pub struct CaConfig {
    /// `consul`.
    pub provider: String,
    /// The provider's settings, secrets included: mask before showing. Absent is shown as `null`.
    pub config: Option<lictor_model::Opaque>,
    /// Fixes the trust domain; never shown.
    pub cluster_id: String,
    /// First written.
    pub created: Revision,
    /// Last changed.
    pub modified: Revision,
}

/// Which side of an intention is matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatchSide {
    /// Who connects.
    Source,
    /// Who is connected to.
    Destination,
}

/// Reads on behalf of one caller.
#[derive(Clone, Debug)]
pub struct Reader {
    replica: Arc<Replica>,
    store: Store,
    config: Arc<Config>,
    caller: Caller,
}

impl Reader {
    pub(crate) fn new(replica: Arc<Replica>, store: Store, config: Arc<Config>, caller: Caller) -> Reader {
        Reader { replica, store, config, caller }
    }

    /// On whose behalf.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// The revision the replica has reached.
    pub fn current(&self) -> Revision {
        self.replica.applied()
    }

    /// Waits until something under one of the topics changes past `seen`, as known by the replica. Returns at once
    /// when it already has; without topics it never returns. Cancel safe. Wakes are per topic; a wake without a change
    /// of the answer is harmless.
    pub async fn changed(&self, topics: &[Topic], seen: Revision) {
        if topics.is_empty() {
            return std::future::pending().await;
        }
        // First wait, then look: a change in between is not lost.
        let mut waiter = self.replica.wait(topics);
        while self.replica.tables().latest(topics) <= seen {
            waiter.woken().await;
        }
    }

    /// Whether nothing under the topics has changed past `seen`: an answer of that index still holds.
    pub fn is_current(&self, topics: &[Topic], seen: Revision) -> bool {
        self.replica.tables().latest(topics) <= seen
    }

    /// Waits until the replica has everything that was committed before the call, anywhere (`?consistent`).
    pub async fn catch_up(&self) -> Result<(), Error> {
        let revision = self.store.current().await.map_err(Error::store("ask for the current revision"))?;
        let reached = self.replica.reached(Revision(revision.0));
        match tokio::time::timeout(CONSISTENT_WITHIN, reached).await {
            Ok(()) => Ok(()),
            Err(_) => Err(Error::refused("Not ready to serve consistent reads")),
        }
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// A look at the tables as an answer.
    fn answer<T>(&self, topics: Vec<Topic>, look: impl FnOnce(&Tables) -> T) -> Answer<T> {
        let tables = self.replica.tables();
        Answer { index: tables.latest(&topics), value: look(&tables), topics }
    }
}
