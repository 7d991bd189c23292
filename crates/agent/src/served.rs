//! What a server does for client agents: says what their tokens stand for, signs for the keys that they make, and keeps their
//! nodes alive in the eyes of the others.
//!
//! A client agent has no right of its own. Whatever it asks is decided by the secret that comes with it, as for anybody.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lictor_model::acl::Caller;
use lictor_model::health::Status;
use lictor_model::meta::Meta;
use lictor_model::node::Node;
use lictor_state::State;
use lictor_state::presence::{Member, Presence};
use lictor_state::tokens::Grant;
use lictor_state::writer::Registration;
use lictor_task::Scope;
use parking_lot::Mutex;

use crate::Error;
use crate::agent::{Agent, Inner};
use crate::cluster::Certified;
use crate::coordinates::PEERS;
use crate::liveness::serf_health;
use crate::sync::SERF_HEALTH;

/// What client agents are served from.
pub(crate) struct Served {
    state: State,
    /// How long a node counts as alive without a word of its agent.
    pub(crate) ttl: Duration,
    /// Leases that were seen to be those of these nodes.
    leases: Mutex<HashMap<String, u64>>,
    scope: Scope,
}

impl Served {
    /// How client agents are alive.
    pub(crate) fn presence(&self) -> Presence {
        self.state.presence(self.ttl)
    }

    /// A node is gone.
    pub(crate) fn forget(&self, node: &str) {
        self.leases.lock().retain(|known, _| !known.eq_ignore_ascii_case(node));
    }
}

/// A node as its client agent presents it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Presented {
    /// What it is called.
    pub node: String,
    /// Its UUID.
    pub id: String,
    /// `host:port` at which others reach it.
    pub address: String,
    /// Further addresses by use.
    pub tagged_addresses: BTreeMap<String, String>,
    /// Metadata.
    pub meta: Meta,
    /// The lease that it has; 0 for none.
    pub lease: u64,
    /// `host:port` at which it answers datagrams that measure the distance to it; empty when it does not.
    pub ping: String,
    /// Whether it asks whom it can measure.
    pub wants_peers: bool,
}

/// How a node is kept alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The lease, to be presented the next time.
    pub lease: u64,
    /// How long it holds.
    pub ttl: Duration,
    /// `host:port` of all servers that are there.
    pub servers: Vec<String>,
    /// Some agents that answer who measures, if asked for.
    pub peers: Vec<Member>,
    /// How many agents there are, if asked for.
    pub agents: usize,
}

impl Agent {
    /// From now on serves client agents. A node without a word from its agent for `ttl` counts as lost.
    pub fn serve_clients(&self, state: State, ttl: Duration, scope: &Scope) {
        let inner = &self.inner;
        if inner.served.set(Served { state, ttl, leases: Mutex::default(), scope: scope.clone() }).is_err() {
            return;
        }
        // Servers that share a store look after each other already, and after clients with that.
        if inner.presence.get().is_none() {
            scope.spawn("lost nodes", Arc::clone(inner).mark_lost_clients());
        }
    }

    /// Who asks through a client agent: what this agent knows for those on its own node does not count.
    pub fn caller_of_agent(&self, secret: &str) -> Result<Caller, Error> {
        self.inner.cluster.caller(secret)
    }

    /// What a secret stands for, for an agent that has to make a caller of it.
    pub fn grant(&self, secret: &str) -> Result<Grant, Error> {
        Ok(self.inner.served()?.state.grant(secret)?)
    }

    /// Signs a request for the certificate of a service, within the limits of the settings.
    pub async fn sign(&self, caller: &Caller, csr_pem: &str) -> Result<Certified, Error> {
        let authority = self.inner.authority()?;
        authority.certify(csr_pem, |service| caller.speaks_for(service) || caller.is_unrestricted()).await
    }

    /// Keeps a node alive, and shows it as it presents itself.
    pub async fn hold(&self, caller: &Caller, presented: Presented) -> Result<Held, Error> {
        let inner = &self.inner;
        let served = inner.served()?;
        if presented.node.is_empty() {
            return Err(Error::BadRequest("Must provide node".into()));
        }
        if !caller.writes_node(&presented.node) && !caller.is_unrestricted() {
            return Err(Error::Denied);
        }
        self.is_no_server(&presented.node)?;
        let Ok(address) = presented.address.parse::<SocketAddr>() else {
            return Err(Error::BadRequest(format!("{:?} is no ip:port", presented.address)));
        };
        let node = Node {
            id: presented.id.clone(),
            name: presented.node.as_str().into(),
            address: address.ip().to_string(),
            tagged_addresses: Some(presented.tagged_addresses),
            meta: Some(presented.meta),
        };
        let member = Member {
            node: presented.node,
            id: presented.id,
            address: presented.address,
            is_server: false,
            ping: presented.ping,
            since: 0,
        };
        let everything = Caller::management("");
        let shown = self.reader(&everything).node(&member.node).value;
        let is_shown = shown.is_some_and(|shown| {
            let health = shown.checks.iter().find(|row| row.check.id.as_str() == SERF_HEALTH);
            shown.node.node == node && health.is_some_and(|row| row.check.status == Status::Passing)
        });
        // Before it counts as alive: another node may have this id or name, and then it is refused.
        if !is_shown {
            let checks = vec![serf_health(&node.name, Status::Passing)];
            let registration = Registration { node, skip_node_update: false, service: None, checks };
            // With the asker's rights: its id may be that of another node, which would make way for it.
            inner.writer.register_as(caller, registration).await?;
            lictor_meter::count("serf.member.join", &[]);
        }
        if !member.ping.is_empty() {
            // Now there is somebody to be measured.
            inner.measure_distances(&served.scope);
        }
        let is_its = served.leases.lock().get(&member.node) == Some(&presented.lease);
        let lease = served.state.hold_member(&member, presented.lease, is_its, served.ttl).await?;
        let (peers, agents) = match presented.wants_peers {
            true => self.peers_of(&member.node),
            false => Default::default(),
        };
        served.leases.lock().insert(member.node, lease);
        let servers = self.servers().into_iter().map(|server| server.address).collect();
        Ok(Held { lease, ttl: served.ttl, servers, peers, agents })
    }

    /// Whom the agent of a node can measure.
    fn peers_of(&self, node: &str) -> (Vec<Member>, usize) {
        let (mut peers, mut agents) = self.inner.cluster.peers(PEERS);
        if !self.is_sharing() {
            // It holds no lease, but it is there.
            let own = self.as_member();
            agents += 1;
            peers.truncate(PEERS - 1);
            peers.extend((!own.ping.is_empty()).then_some(own));
        }
        peers.retain(|peer| !peer.node.eq_ignore_ascii_case(node));
        (peers, agents)
    }

    /// A node leaves in order: nothing of it stays in the catalog.
    pub async fn release(&self, caller: &Caller, node: &str) -> Result<(), Error> {
        let inner = &self.inner;
        let served = inner.served()?;
        if node.is_empty() {
            return Err(Error::BadRequest("Must provide node".into()));
        }
        if !caller.writes_node(node) && !caller.is_unrestricted() {
            return Err(Error::Denied);
        }
        self.is_no_server(node)?;
        tracing::info!("agent: node {node:?} leaves");
        inner.forget(caller, &served.presence(), node).await
    }

    /// Refuses the names of servers: what they say of themselves is not for others to say.
    fn is_no_server(&self, node: &str) -> Result<(), Error> {
        let is_server = |member: &Member| member.node.eq_ignore_ascii_case(node);
        if self.inner.config.node_name.same(node) || self.servers().iter().any(is_server) {
            let text = format!("node name {node:?} is that of a server: each agent needs one of its own");
            return Err(Error::BadRequest(text));
        }
        Ok(())
    }
}

impl Inner {
    pub(crate) fn served(&self) -> Result<&Served, Error> {
        self.served.get().ok_or_else(|| Error::Refused("this agent serves no client agents".into()))
    }
}
