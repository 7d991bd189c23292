//! What the proxy asks of its agent, and the client that asks.
//!
//! Everything asked for is held by the proxy and used from there, so an agent that is away is missed only by what
//! changes meanwhile.

mod agent;

use std::future::Future;

use lictor_api::agent::Service;
use lictor_model::intention::{Action, Intention};
use lictor_model::name::ServiceName;
use lictor_model::root::{IssuedLeaf, Roots};

pub use agent::AgentClient;

/// What a reader has seen, so that the next read waits for something newer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Seen {
    /// Nothing, or something that cannot be waited on.
    #[default]
    Nothing,
    /// Everything up to an index.
    Index(u64),
    /// The content with this hash.
    Hash(String),
}

/// A value and its place in the history.
#[derive(Clone, Debug)]
pub struct Fresh<T> {
    /// The value.
    pub value: T,
    /// What to pass next time. [`Seen::Nothing`] means that changes cannot be waited for.
    pub seen: Seen,
}

/// The intentions that speak of a destination.
#[derive(Clone, Debug, Default)]
pub struct Matched {
    /// In the order that decides.
    pub intentions: Vec<Intention>,
    /// The decision where none matches. An agent that does not say cannot be decided for: it must be asked about each
    /// connection.
    pub otherwise: Option<Action>,
}

/// An instance as discovery describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Node and service id: tells instances apart.
    pub id: String,
    /// IP address or host name.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Where its node is: a part of the identity it must show.
    pub datacenter: String,
    /// The service it takes mesh traffic for: the other part. Absent when it takes none.
    pub destination: Option<ServiceName>,
    /// Its share of connections relative to others; at least 1.
    pub weight: u16,
}

/// What a prepared query answers with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranked {
    /// The instances.
    pub candidates: Vec<Candidate>,
    /// What their order means.
    pub ranking: Ranking,
}

/// What the order of instances means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ranking {
    /// Nothing: they are alike.
    Alike,
    /// The first ones are better.
    BestFirst,
}

/// Why the agent gave no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The agent knows no such thing.
    #[error("{0}")]
    NotFound(String),
    /// The agent refuses.
    #[error("{0}")]
    Forbidden(String),
    /// There was no answer at all.
    #[error("cannot reach the agent")]
    Unreached(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Anything else; worth another try.
    #[error("cannot ask the agent")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// The answer about one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorized {
    /// Whether it may be made.
    pub allowed: bool,
    /// Why; for the log.
    pub reason: String,
}

/// A managed proxy of the same agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbor {
    /// The agent's node.
    pub node: String,
    /// The service it stands for.
    pub service: ServiceName,
    /// Its process, while there is one.
    pub pid: Option<u32>,
    /// Name of the abstract socket where it takes connections; empty when it takes none.
    pub socket: String,
}

/// What names a managed proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    /// The id of its own service.
    Id(String),
    /// Its process, as the kernel says.
    Process(u32),
}

/// The agent, as far as a proxy needs it. Reads that are given something seen wait until there is something else, or
/// for some minutes. All of them may be dropped at any time.
pub trait ControlPlane: Send + Sync + 'static {
    /// The proxy's own service entry.
    fn service(
        &self,
        id: &str,
        seen: &Seen,
    ) -> impl Future<Output = Result<Fresh<Service<'static>>, ControlError>> + Send;

    /// The trusted roots.
    fn roots(&self, seen: &Seen) -> impl Future<Output = Result<Fresh<Roots>, ControlError>> + Send;

    /// A leaf for the service.
    fn leaf(&self, service: &str, seen: &Seen) -> impl Future<Output = Result<Fresh<IssuedLeaf>, ControlError>> + Send;

    /// The intentions that speak of the service as a destination.
    fn intentions(
        &self,
        service: &str,
        seen: &Seen,
    ) -> impl Future<Output = Result<Fresh<Matched>, ControlError>> + Send;

    /// The passing mesh instances of a service; an empty datacenter means the agent's own.
    fn instances(
        &self,
        service: &str,
        datacenter: &str,
        seen: &Seen,
    ) -> impl Future<Output = Result<Fresh<Vec<Candidate>>, ControlError>> + Send;

    /// The mesh instances that a prepared query answers with; nothing while there is no such query.
    fn query(
        &self,
        name: &str,
        datacenter: &str,
        seen: &Seen,
    ) -> impl Future<Output = Result<Fresh<Option<Ranked>>, ControlError>> + Send;

    /// Whether the holder of a certificate may connect to the service.
    fn authorize(
        &self,
        service: &str,
        uri: &str,
        serial: &str,
    ) -> impl Future<Output = Result<Authorized, ControlError>> + Send;

    /// A managed proxy of the same agent. An agent that does not vouch for its proxies knows none.
    fn neighbor(&self, whose: &Whose) -> impl Future<Output = Result<Neighbor, ControlError>> + Send {
        let unknown = ControlError::NotFound(format!("{whose:?} is not known"));
        async { Err(unknown) }
    }
}
