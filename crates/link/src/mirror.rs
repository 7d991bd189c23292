//! What a node has to know of the cluster, in the same tables as on a server: the roots, its own entries, nodes that its
//! alias checks look at, and the services that somebody asks `why` about.
//!
//! It is a copy in memory, filled from answers. What is not in it is not known; it is no place for secrets and holds none.

use std::collections::BTreeSet;

use lictor_model::acl::Caller;
use lictor_model::health::Check;
use lictor_model::revision::Revision;
use lictor_model::root::{Root, Roots};
use lictor_state::reader::{Filter, Side};
use lictor_state::writer::{CaChange, Registration, Removal};
use lictor_state::{Error, Reader, State, Writer};

use crate::answers::Contents;

/// The copy.
pub struct Mirror {
    state: State,
    writer: Writer,
    /// One change at a time: each is worked out from what is there.
    turn: tokio::sync::Mutex<()>,
}

impl Mirror {
    /// Over tables that nobody else writes to.
    pub fn new(state: State, writer: Writer) -> Mirror {
        Mirror { state, writer, turn: tokio::sync::Mutex::default() }
    }

    /// Reads what is there.
    pub fn reader(&self, caller: &Caller) -> Reader {
        self.state.reader(caller)
    }

    fn all(&self) -> Reader {
        self.reader(&Caller::management(""))
    }

    /// Holds a node as it is now; `None` when there is no such node.
    pub(crate) async fn put_node(&self, name: &str, contents: Option<Contents>) -> Result<(), Error> {
        let _turn = self.turn.lock().await;
        let known = self.all().node(name).value;
        let Some(contents) = contents else {
            if known.is_some() {
                self.writer.deregister(name, Removal::Node).await?;
            }
            return self.reached().await;
        };
        if let Some(known) = known {
            for row in known.services.iter() {
                let id = &row.service.id;
                if !contents.services.iter().any(|service| service.id == *id) {
                    self.writer.deregister(name, Removal::Service(id.clone())).await?;
                }
            }
            for row in known.checks.iter() {
                let id = &row.check.id;
                if !contents.checks.iter().any(|check| check.id == *id) {
                    self.writer.deregister(name, Removal::Check(id.clone())).await?;
                }
            }
        }
        self.put(contents).await?;
        self.reached().await
    }

    /// Holds the instances of a service as they are now.
    pub(crate) async fn put_instances(&self, service: &str, side: Side, found: Vec<Contents>) -> Result<(), Error> {
        let _turn = self.turn.lock().await;
        let present: BTreeSet<(String, String)> = found
            .iter()
            .flat_map(|contents| contents.services.iter().map(move |service| (contents, service)))
            .map(|(contents, service)| (contents.node.name.folded().as_str().to_owned(), service.id.to_string()))
            .collect();
        for known in self.all().instances(service, side, &Filter::default()).value {
            let (node, id) = (&known.node.node.name, &known.service.service.id);
            if !present.contains(&(node.folded().as_str().to_owned(), id.to_string())) {
                self.writer.deregister(node.as_str(), Removal::Service(id.clone())).await?;
            }
        }
        for contents in found {
            self.put(contents).await?;
        }
        self.reached().await
    }

    async fn put(&self, contents: Contents) -> Result<(), Error> {
        let Contents { node, services, checks } = contents;
        let of =
            |id: &str| checks.iter().filter(|check| check.service_id.as_str() == id).cloned().collect::<Vec<Check>>();
        let registration =
            |service, checks| Registration { node: node.clone(), skip_node_update: false, service, checks };
        self.writer.register(registration(None, of(""))).await?;
        for service in services {
            let checks = of(service.id.as_str());
            self.writer.register(registration(Some(service), checks)).await?;
        }
        Ok(())
    }

    /// Holds these roots.
    pub(crate) async fn put_roots(&self, roots: Roots) -> Result<(), Error> {
        let _turn = self.turn.lock().await;
        let Some(trust_domain) = roots.trust_domain else { return Ok(()) };
        let reader = self.all();
        let known = reader.roots().value;
        if let Some(before) = known.trust_domain.as_ref().filter(|before| **before != trust_domain) {
            tracing::error!(
                "agent: the servers are of another trust domain now, {} instead of {}: restart this agent",
                trust_domain.as_str(),
                before.as_str()
            );
            return Ok(());
        }
        if known.roots.iter().map(plain).eq(roots.roots.iter().map(plain)) {
            return Ok(());
        }
        let based_on = reader.ca_config().value.map(|config| config.modified).unwrap_or_default();
        let cluster_id = trust_domain.as_str().strip_suffix(".consul").unwrap_or(trust_domain.as_str()).to_owned();
        self.writer
            .change_ca(CaChange {
                provider: "consul".into(),
                config: None,
                cluster_id,
                roots: roots.roots,
                sealed_keys: Vec::new(),
                based_on,
            })
            .await?;
        self.reached().await
    }

    /// Waits until readers see what was written.
    async fn reached(&self) -> Result<(), Error> {
        self.all().catch_up().await
    }
}

/// A root without what each state counts for itself.
fn plain(root: &Root) -> Root {
    Root { created: Revision::ZERO, modified: Revision::ZERO, rotated_out_at: None, ..root.clone() }
}
