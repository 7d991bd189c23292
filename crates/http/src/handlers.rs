//! What each endpoint does, one file per family; `routes` says which path is whose.

pub(crate) mod acl;
pub(crate) mod agent;
pub(crate) mod catalog;
pub(crate) mod check;
pub(crate) mod connect;
pub(crate) mod coordinate;
pub(crate) mod event;
pub(crate) mod health;
pub(crate) mod host;
pub(crate) mod intention;
pub(crate) mod internal;
pub(crate) mod kv;
pub(crate) mod metrics;
pub(crate) mod operate;
pub(crate) mod operator;
pub(crate) mod process;
pub(crate) mod query;
pub(crate) mod session;
pub(crate) mod snapshot;
mod stats;
pub(crate) mod status;
pub(crate) mod txn;
pub(crate) mod ui;
