//! Bytes under keys, with revisions, transactions, watches and leases.
//!
//! Every transaction that changes something gets a [`Revision`] greater than all before; a [`Watch`] replays the changes after any
//! revision, in order, none missed and none repeated. The same contract holds for every backend and is written down as
//! tests in `conformance`, so a caller never needs to know which one it has:
//!
//! - [`Store::memory`]: gone with the process;
//! - [`Store::open_redb`]: one file, durable before it is acknowledged or visible;
//! - [`Store::open_etcd`]: shared by several servers, durable where etcd is.
//!
//! This room knows no nouns of the mesh: what keys and values mean is decided by its only user, `state`. The embedded
//! stores start no async task and need no runtime; what must run by itself runs on a thread of its own.
//!
//! Limits hold for every backend and are those of a distributed one, so that data can move there later:
//! [`MAX_TXN_OPS`], [`MAX_TXN_BYTES`], and no key written twice in one transaction.
//!
//! Start reading at [`store`], then [`txn`]; the pure centre is `batch` over `keyspace`.

pub mod store;
pub mod txn;
pub mod watch;

mod batch;
mod entry;
mod error;
mod etcd;
mod history;
mod keyspace;
mod lease;
mod memory;
mod movable;
mod reaper;
mod redb;
mod replica;
mod sorted;

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;

pub use crate::entry::{Entry, Revision};
pub use crate::error::Error;
pub use crate::etcd::EtcdSettings;
pub use crate::lease::LeaseId;
pub use crate::movable::{Copied, Marks, Mover, movable};
pub use crate::redb::verify::{Report, verify};
pub use crate::sorted::Sorted;
pub use crate::store::{Scan, Store};
pub use crate::txn::{Compare, MAX_TXN_BYTES, MAX_TXN_OPS, Op, Outcome, Txn};
pub use crate::watch::{Change, Event, Watch};
