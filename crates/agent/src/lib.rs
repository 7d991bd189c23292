//! The use cases of one node: what is registered here, what that wants of the cluster and of processes, and doing it.
//!
//! This room speaks no protocol. Faces (HTTP, DNS) call [`Agent`], one method per use case, each with the caller first.
//! Long-lived work is done by reconcilers that compare what is wanted with what is:
//! [`sync`] (local services and checks to the catalog), [`checks`] (wanted checks to running ones), [`proxies`]
//! (wanted proxies to supervised processes), [`leaves`] (certificates before they expire). [`operate`] is what people do
//! with those processes.
//!
//! Start reading at [`agent`].

pub mod acl;
pub mod agent;
pub mod authority;
pub mod checks;
pub mod cluster;
pub mod config;
pub mod coordinates;
pub mod doubts;
pub mod error;
pub mod events;
pub mod explain;
pub mod kept;
pub mod kv;
pub mod leaves;
pub mod liveness;
pub mod load;
pub mod local;
pub mod managed;
pub mod neighbor;
pub mod operate;
pub mod operator;
pub mod persist;
pub mod program;
pub mod proof;
pub mod proxies;
pub mod queries;
pub mod record;
pub mod registry;
pub mod replace;
pub mod rights;
pub mod served;
pub mod sessions;
pub mod sync;
pub mod tokens;
pub mod validate;

pub use agent::Agent;
pub use config::Config;
pub use error::Error;
pub use proxies::Counted;
