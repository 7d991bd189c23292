//! Access control on the built binary: who may do what, and that it stays so over a restart.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

#[path = "../common/mod.rs"]
mod common;
mod house;
mod proxies;
mod restart;
mod takeover;
mod waits;
mod walk;
