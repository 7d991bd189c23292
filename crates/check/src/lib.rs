//! Run one health check and report its results; this room knows no services and no catalog.
//!
//! [`Runner::start`] takes a definition and calls back with each result; dropping the [`Handle`] ends it. Texts are
//! those of the original, because people and programs read them. An alias is not run here: it mirrors what the agent
//! knows anyway.
//!
//! Start reading at [`runner`] for when a check runs, then at one kind, for example `tcp`, for what it does.

mod connection;
mod dial;
mod docker;
mod grpc;
mod http;
mod limit;
mod percent;
mod probe;
mod room;
pub mod runner;
mod script;
mod tail;
mod trust;
mod ttl;

pub use runner::{Config, Handle, Pace, Runner};
pub use trust::Trust;

use lictor_model::health::Status;

/// What one run of a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How it is.
    pub status: Status,
    /// Why, for people.
    pub output: String,
}

impl Outcome {
    pub(crate) fn passing(output: impl Into<String>) -> Outcome {
        Outcome { status: Status::Passing, output: output.into() }
    }

    pub(crate) fn critical(output: impl Into<String>) -> Outcome {
        Outcome { status: Status::Critical, output: output.into() }
    }
}
