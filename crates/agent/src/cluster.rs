//! What the agent needs from the cluster, behind one seam.
//!
//! A standalone agent and a server answer from their own state ([`Standing`]). A client agent will ask servers over
//! the HTTP API instead; nothing outside this file may depend on which one it is.

use std::future::Future;
use std::pin::Pin;

use lictor_model::acl::{Access, Caller, Resource};
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
        self.state.caller(secret).map_err(|error| match error {
            lictor_state::Error::UnknownToken => Error::UnknownToken,
            error => error.into(),
        })
    }

    fn acls_enabled(&self) -> bool {
        self.state.acls_enabled()
    }

    fn reader(&self, caller: &Caller) -> Reader {
        self.state.reader(caller)
    }

    fn register<'a>(&'a self, caller: &'a Caller, registration: Registration) -> Soon<'a, ()> {
        Box::pin(async move {
            self.may_register(caller, &registration)?;
            Ok(self.writer.register(registration).await?)
        })
    }

    fn deregister<'a>(&'a self, caller: &'a Caller, node: &'a str, removal: Removal) -> Soon<'a, ()> {
        Box::pin(async move {
            self.may_deregister(caller, node, &removal)?;
            Ok(self.writer.deregister(node, removal).await?)
        })
    }
}

impl Standing {
    /// The rights a catalog write needs: the node's when its record changes, the service's, and for each check the
    /// service's or the node's.
    fn may_register(&self, caller: &Caller, registration: &Registration) -> Result<(), Error> {
        if caller.is_unrestricted() {
            return Ok(());
        }
        let Registration { node, skip_node_update, service, checks } = registration;
        let present = self.state.reader(&Caller::management("")).node(node.name.as_str()).value;
        let node_changes = present.as_ref().is_none_or(|contents| !skip_node_update && contents.node.node != *node);
        if node_changes && !caller.writes_node(node.name.as_str()) {
            return Err(Error::Denied);
        }
        if let Some(service) = service {
            let overwritten = present
                .iter()
                .flat_map(|contents| &contents.services)
                .find(|row| row.service.id.same(service.id.as_str()))
                .map(|row| row.service.name.clone());
            for name in overwritten.iter().chain([&service.name]) {
                if !caller.may(Access::Write, Resource::Service, name.as_str()) {
                    return Err(Error::Denied);
                }
            }
        }
        for check in checks {
            let allowed = if check.service_id.is_empty() {
                caller.writes_node(node.name.as_str())
            } else {
                let own = service.as_ref().filter(|service| service.id == check.service_id).map(|s| &s.name);
                let known = present
                    .iter()
                    .flat_map(|contents| &contents.services)
                    .find(|row| row.service.id.same(check.service_id.as_str()))
                    .map(|row| &row.service.name);
                own.or(known).is_none_or(|name| caller.writes_service(name.as_str()))
            };
            if !allowed {
                return Err(Error::Denied);
            }
        }
        Ok(())
    }

    fn may_deregister(&self, caller: &Caller, node: &str, removal: &Removal) -> Result<(), Error> {
        if caller.is_unrestricted() || caller.writes_node(node) {
            return Ok(());
        }
        let contents = self.state.reader(&Caller::management("")).node(node).value;
        let service = match removal {
            Removal::Node => None,
            Removal::Service(id) => contents.as_ref().and_then(|contents| {
                contents.services.iter().find(|row| row.service.id == *id).map(|row| row.service.name.clone())
            }),
            Removal::Check(id) => contents.as_ref().and_then(|contents| {
                contents.checks.iter().find(|row| row.check.id == *id).map(|row| row.check.service_name.clone())
            }),
        };
        match service {
            Some(name) if !name.is_empty() && caller.writes_service(name.as_str()) => Ok(()),
            _ => Err(Error::Denied),
        }
    }
}
