//! What the agent needs from the cluster, behind one seam.
//!
//! A standalone agent and a server answer from their own state ([`Standing`]). A client agent asks servers over the HTTP
//! API instead (`lictor_link::Remote`); nothing outside this file may depend on which one it is, but for the few things that
//! only servers do ([`Cluster::is_remote`]).

use std::collections::BTreeSet;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;

use lictor_model::acl::Caller;
use lictor_model::intention::Decision;
use lictor_model::node::Node;
use lictor_state::coordinate::NodeCoordinate;
use lictor_state::presence::Member;
use lictor_state::writer::{Registration, Removal};
use lictor_state::{Reader, State, Writer};

use crate::Error;

/// An answer that may take a while.
pub type Soon<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// On whose behalf something is written.
#[derive(Clone)]
pub enum Author {
    /// Somebody who is known already.
    Caller(Caller),
    /// The holder of a secret.
    Secret(String),
}

/// A certificate that a server has signed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certified {
    /// Colon-separated hex.
    pub serial_number: String,
    /// The leaf, then the intermediates; PEM.
    pub cert_pem: String,
    /// The service it was issued for.
    pub service: String,
    /// The identity it carries.
    pub uri: String,
    /// Seconds since the Unix epoch.
    pub valid_after: i64,
    /// Seconds since the Unix epoch.
    pub valid_before: i64,
    /// The root that signed it.
    pub root_id: String,
}

/// The cluster, as one agent sees it.
pub trait Cluster: Send + Sync {
    /// Whether it is somewhere else.
    fn is_remote(&self) -> bool {
        false
    }

    /// Makes sure that [`Cluster::caller`] knows a secret.
    fn learn<'a>(&'a self, _secret: &'a str) -> Soon<'a, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// The caller that a secret stands for. An empty secret is the anonymous caller.
    fn caller(&self, secret: &str) -> Result<Caller, Error>;

    /// Whether access control is on.
    fn acls_enabled(&self) -> bool;

    /// Reads on behalf of a caller. Where the cluster is somewhere else these are the parts of it that this node has to
    /// know: the roots, its own entries, and what was [seen](Cluster::see_node).
    fn reader(&self, caller: &Caller) -> Reader;

    /// Writes catalog entries with the rights of somebody.
    fn register<'a>(&'a self, author: &'a Author, registration: Registration) -> Soon<'a, ()>;

    /// Removes catalog entries with the rights of somebody.
    fn deregister<'a>(&'a self, author: &'a Author, node: &'a str, removal: Removal) -> Soon<'a, ()>;

    /// Whether a service may connect to another, as far as the holder of a secret may ask.
    fn decide<'a>(
        &'a self,
        asking: &'a Caller,
        secret: &'a str,
        source: (&'a str, &'a str),
        target: &'a str,
    ) -> Soon<'a, Decision>;

    /// Tells with which secret the agent speaks for itself.
    fn speak_as(&self, _secret: &str) {}

    /// Says that this node is there, and what is known of it. Only where the cluster is somewhere else.
    fn announce<'a>(&'a self, _node: Node) -> Soon<'a, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Has a request for a certificate signed. Only where the cluster is somewhere else.
    fn certify<'a>(&'a self, _secret: &'a str, _csr_pem: &'a str) -> Soon<'a, Certified> {
        Box::pin(std::future::ready(Err(Error::Refused("there is no server to sign certificates".into()))))
    }

    /// Makes the reader know a node as it is now.
    fn see_node<'a>(&'a self, _node: &'a str) -> Soon<'a, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Makes the reader know the instances of a service as they are now, and those that take its mesh traffic.
    fn see_service<'a>(&'a self, _service: &'a str, _secret: &'a str) -> Soon<'a, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// From now on the reader follows these nodes.
    fn follow_nodes(&self, _nodes: BTreeSet<String>) {}

    /// Agents that can be asked how far away they are, at most so many, chosen by chance; and how many agents there are.
    fn peers(&self, _most: usize) -> (Vec<Member>, usize) {
        Default::default()
    }

    /// Says where this node is.
    fn place(&self, _own: NodeCoordinate) -> Soon<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Tells where others can ask how far away this node is.
    fn answers_at(&self, _address: SocketAddr) {}
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

    fn author(&self, author: &Author) -> Result<Caller, Error> {
        match author {
            Author::Caller(caller) => Ok(caller.clone()),
            Author::Secret(secret) => self.caller(secret),
        }
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

    fn register<'a>(&'a self, author: &'a Author, registration: Registration) -> Soon<'a, ()> {
        Box::pin(async move { Ok(self.writer.register_as(&self.author(author)?, registration).await?) })
    }

    fn deregister<'a>(&'a self, author: &'a Author, node: &'a str, removal: Removal) -> Soon<'a, ()> {
        Box::pin(async move { Ok(self.writer.deregister_as(&self.author(author)?, node, removal).await?) })
    }

    fn decide<'a>(
        &'a self,
        asking: &'a Caller,
        _secret: &'a str,
        (namespace, source): (&'a str, &'a str),
        target: &'a str,
    ) -> Soon<'a, Decision> {
        let decision = self.reader(asking).decide(namespace, source, lictor_model::identity::DEFAULT_NAMESPACE, target);
        Box::pin(std::future::ready(Ok(decision)))
    }

    fn peers(&self, most: usize) -> (Vec<Member>, usize) {
        self.reader(&Caller::management("")).some_that_answer(most).value
    }

    fn place(&self, own: NodeCoordinate) -> Soon<'_, ()> {
        Box::pin(async move { Ok(self.writer.update_coordinates(&[own]).await?) })
    }
}
