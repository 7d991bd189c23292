//! The HTTP API: one protocol in front of the agent and of the cluster's state.
//!
//! A request passes, in this order: [`server`] (connections; reads by way of `lean`, and of
//! `repeated` where the same one comes again), `gate` (what is decided without knowing who asks: paths,
//! methods, blocked endpoints), `routes` (every path in one table), `caller` (who asks), and one of `handlers`. Reads
//! that can block go through `blocking`, failures through `error`, the one place with status codes of errors, and all
//! answers through `respond`.
//!
//! This room must not know the store, processes or other protocols. It reads the cluster through `state::Reader` and
//! does everything else through `agent::Agent`. Start reading at `routes`.

pub mod config;
pub mod error;
pub mod server;

mod archive;
mod blocking;
mod body;
mod call;
mod caller;
mod decode;
mod encoded;
mod forward;
mod gate;
mod handlers;
mod lean;
mod leaving;
mod measure;
mod pages;
mod path;
mod query;
mod repeated;
mod respond;
mod routes;
mod sniff;
mod streams;

#[cfg(any(test, fuzzing))]
#[allow(missing_docs, clippy::unwrap_used, reason = "no part of what is shipped")]
pub mod fuzz;

pub use config::Config;
pub use error::Error;
pub use routes::{endpoints, waiting};
pub use server::{Bound, Next, Reload, bind};
