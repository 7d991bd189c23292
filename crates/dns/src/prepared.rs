//! The seam to prepared queries: this room asks for an execution by name and does not know how it is done.

use std::net::IpAddr;
use std::time::Duration;

use lictor_state::Reader;
use lictor_state::reader::Instance;

/// Who asks for which query.
#[derive(Clone, Copy, Debug)]
pub struct PreparedRequest<'a> {
    /// Name or id, in lower case.
    pub name: &'a str,
    /// Where the question came from: the client subnet of the question, else the sender; for `near = "_ip"`.
    pub source: IpAddr,
}

/// What an execution gave.
#[derive(Clone, Debug)]
pub struct PreparedAnswer {
    /// The service that was asked for in the end; its time to live counts when the query has none.
    pub service: String,
    /// Healthy instances as the query defines it, in the query's own order.
    pub instances: Vec<Instance>,
    /// The query's own time to live.
    pub ttl: Option<Duration>,
}

/// How an execution ended.
#[derive(Clone, Debug)]
pub enum PreparedOutcome {
    /// There is such a query; its answer may be empty.
    Answered(PreparedAnswer),
    /// There is no such query.
    Unknown,
    /// It could not be executed.
    Failed,
}

/// Whoever can execute prepared queries.
pub trait Queries: Send + Sync {
    /// Executes a query for a caller. Called on the path of every packet, so it must neither block nor wait.
    fn execute(&self, reader: &Reader, request: &PreparedRequest<'_>) -> PreparedOutcome;
}

/// No query exists.
#[derive(Clone, Copy, Debug)]
pub struct NoQueries;

impl Queries for NoQueries {
    fn execute(&self, _reader: &Reader, _request: &PreparedRequest<'_>) -> PreparedOutcome {
        PreparedOutcome::Unknown
    }
}
