//! Names to answers: the DNS face of the mesh.
//!
//! This room turns a packet into a question, looks the question up in the cluster's state and writes the answer. It
//! knows no HTTP, no agent and no store: what it says comes from a [`lictor_state::Reader`] and from nowhere else, so
//! a lookup never sees more than the token behind that reader may see. Names that are not ours go to the configured
//! recursors.
//!
//! A packet's way: [`server`] receives it, `request` reads it, `question` says what its name means (pure), `lookup`
//! finds the records (of instances that `kept` holds as long as they are the same), `answer` fits them into a message (pure) that `wire` writes, and `forward` asks the recursors
//! where needed. On a client agent `remote` carries the question to a server, whose `lookup` finds the records, and brings
//! them back; all else is done at the agent, in the same way.

mod answer;
mod config;
mod datagram;
mod error;
mod few;
mod forward;
mod kept;
mod lookup;
mod prepared;
mod question;
mod record;
pub mod remote;
mod request;
mod reverse;
pub mod server;
mod tcp;
mod udp;
mod wire;

#[cfg(any(test, fuzzing))]
#[allow(missing_docs, clippy::unwrap_used, reason = "no part of what is shipped")]
pub mod fuzz;

pub use config::{Config, Settings, Soa, check_names};
pub use error::Error;
pub use prepared::{NoQueries, PreparedAnswer, PreparedOutcome, PreparedRequest, Queries};
pub use server::{Backend, Bound, Reload, Source, bind};
