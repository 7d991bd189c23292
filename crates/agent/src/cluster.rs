//! What the agent needs from the cluster, behind one seam.
//!
//! A standalone agent and a server answer from their own state ([`Standing`]). A client agent will ask servers over
//! the HTTP API instead; nothing outside this file may depend on which one it is.

use std::future::Future;
use std::pin::Pin;

use lictor_model::acl::Caller;
use lictor_state::writer::{Registration, Removal};
use lictor_state::{Reader, State, Writer};

use crate::Error;

/// An answer that may take a while.
pub type Soon<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// The cluster, as one agent sees it.
pub trait Cluster: Send + Sync {
    /// The caller that a secret stands for. An empty secret is the anonymous caller.
    fn caller(&self, secret: &str) -> Result<Caller, Error>;

    /// Whether access control is on.
    fn acls_enabled(&self) -> bool;

    /// Reads on behalf of a caller.
    fn reader(&self, caller: &Caller) -> Reader;

    /// Writes catalog entries with the rights of a token.
    fn register<'a>(&'a self, caller: &'a Caller, registration: Registration) -> Soon<'a, ()>;

    /// Removes catalog entries with the rights of a token.
    fn deregister<'a>(&'a self, caller: &'a Caller, node: &'a str, removal: Removal) -> Soon<'a, ()>;
}

/// The cluster of an agent that has the state itself.
pub struct Standing {
    state: State,
    writer: Writer,
}

impl Standing {
    /// Over a state and its writer.
    pub fn new(state: State, writer: Writer) -> Standing {
        Standing { state, writer }
    }
}

impl Cluster for Standing {
    fn caller(&self, secret: &str) -> Result<Caller, Error> {
        Ok(self.state.caller(secret)?)
    }

    fn acls_enabled(&self) -> bool {
        self.state.acls_enabled()
    }

    fn reader(&self, caller: &Caller) -> Reader {
        self.state.reader(caller)
    }

    fn register<'a>(&'a self, caller: &'a Caller, registration: Registration) -> Soon<'a, ()> {
        Box::pin(async move { Ok(self.writer.register_as(caller, registration).await?) })
    }

    fn deregister<'a>(&'a self, caller: &'a Caller, node: &'a str, removal: Removal) -> Soon<'a, ()> {
        Box::pin(async move { Ok(self.writer.deregister_as(caller, node, removal).await?) })
    }
}
