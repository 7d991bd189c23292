//! What a read gives: the value, how current it is, and what to watch to learn that it changed.

use lictor_model::intention::Party;
use lictor_model::revision::Revision;

/// Something that changes as one and can be watched.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Topic {
    /// Any node record.
    Nodes,
    /// The set of services, their instances and tags.
    Services,
    /// Any check.
    Checks,
    /// One service (folded name): its instances, their checks, and the node records and node checks of their nodes.
    Service(Box<str>),
    /// The mesh instances of one service (folded name): proxies for it and native instances, and their checks.
    Connect(Box<str>),
    /// One node (folded name): its record, services and checks.
    Node(Box<str>),
    /// One node (folded name): its record and services, not its checks.
    NodeServices(Box<str>),
    /// One node (folded name): its checks.
    NodeChecks(Box<str>),
    /// Any intention.
    Intentions,
    /// One intention (folded id).
    Intention(Box<str>),
    /// The intentions with exactly this source.
    IntentionsFrom(Box<Party>),
    /// The intentions with exactly this destination.
    IntentionsTo(Box<Party>),
    /// The trusted roots.
    Roots,
    /// The configuration of the CA.
    CaConfig,
    /// Any prepared query.
    Queries,
    /// One prepared query (folded id).
    Query(Box<str>),
    /// One key of the key-value store.
    Key(Box<str>),
    /// All keys that begin so.
    KeyPrefix(Box<str>),
    /// Any session.
    Sessions,
    /// One session (folded id).
    Session(Box<str>),
    /// The sessions of one node (folded name).
    SessionsOf(Box<str>),
    /// ACL tokens.
    Tokens,
    /// One ACL token (folded accessor), not the names of its policies.
    Token(Box<str>),
    /// ACL policies.
    Policies,
    /// One ACL policy (folded id).
    Policy(Box<str>),
    /// Network coordinates.
    Coordinates,
    /// Network coordinates of one node (folded name).
    CoordinatesOf(Box<str>),
    /// Which agents are alive, and which one leads.
    Members,
    /// User events.
    Events,
}

/// The result of a read.
#[derive(Clone, Debug)]
pub struct Answer<T> {
    /// Revision of the last change of anything that contributes, removals included.
    pub index: Revision,
    /// What to watch; empty when there is nothing to wait for (the caller may not know whether it exists): answer at
    /// once.
    pub topics: Vec<Topic>,
    /// What was asked for, without what the caller may not see.
    pub value: T,
}

impl<T> Answer<T> {
    /// The same of an answer that several looks went into, the first of them not before this revision was reached. What a
    /// later look saw says nothing of what an earlier one would have seen by then.
    #[must_use]
    pub fn not_past(self, reached: Revision) -> Answer<T> {
        Answer { index: self.index.min(reached), ..self }
    }

    /// The same answer about something derived from the value.
    pub fn map<U>(self, derive: impl FnOnce(T) -> U) -> Answer<U> {
        Answer { index: self.index, topics: self.topics, value: derive(self.value) }
    }
}
