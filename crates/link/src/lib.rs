//! The way from a client agent to its servers.
//!
//! A client agent has no store and no signing key. What the use cases of its node need of the cluster it asks of a server,
//! through the same HTTP API that everyone uses, at the port that servers open for agents: over mutual TLS, as HTTP/2 on
//! one connection, with the secret of whoever asks. The link itself gives no right.
//!
//! [`servers`] finds a server, keeps the connection and finds another one; [`remote`] is the cluster as the agent sees it
//! (`lictor_agent::cluster::Cluster`); [`mirror`] is what this node has to know of the catalog, in the same tables as on a
//! server; [`tokens`] remembers what secrets stand for; [`kept`] keeps answers for the time when no server gives any.

pub mod answers;
pub mod kept;
pub mod mirror;
pub mod remote;
pub mod servers;
pub mod tokens;

pub use remote::Remote;
pub use servers::{Error, Servers};
