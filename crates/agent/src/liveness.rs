//! Whether the agents of the nodes are alive, as the check `serfHealth` of each node shows.
//!
//! Where several servers share a store, each agent holds a lease. The server that leads marks the nodes whose agent has
//! lost it, and an agent that is back marks its own node again. What is registered stays as it is: a node that is back
//! is as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use lictor_model::acl::Caller;
use lictor_model::health::{Check, Status};
use lictor_model::name::NodeName;
use lictor_state::Presence;
use lictor_state::answer::Topic;
use lictor_state::presence::Member;
use lictor_state::presence::Standing;
use lictor_state::reader::Filter;
use lictor_state::writer::{Registration, Removal};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::Error;
use crate::agent::{Agent, Inner};
use crate::cluster::Author;
use crate::error::chain;
use crate::sync::{CONSUL_SERVICE, SERF_HEALTH};

/// What is looked at even when nothing seems to have changed.
const LOOK: Duration = Duration::from_secs(2);

/// How long a node may be registered without an agent that was ever seen: one that starts says what it has before it holds
/// a lease.
const START: Duration = Duration::from_secs(5);

/// The check's output while the agent is alive. A node that shows something else is not marked by us.
const ALIVE: &str = "Agent alive and reachable";
const LOST: &str = "Agent not live or unreachable";

/// Stands in the notes of the check of a lost node, before the seconds since the Unix epoch at which it was lost.
const SINCE: &str = "lost at ";

/// The check by which a node counts as alive.
pub(crate) fn serf_health(node: &NodeName, status: Status) -> Check {
    Check {
        node: node.clone(),
        id: SERF_HEALTH.into(),
        name: "Serf Health Status".into(),
        status,
        output: if status == Status::Passing { ALIVE } else { LOST }.into(),
        ..Check::default()
    }
}

/// What is known of nodes that count as alive, by their folded names.
#[derive(Default)]
struct Known {
    /// Those whose agent was seen since they count as alive.
    seen: BTreeSet<String>,
    /// Since when the others do.
    unseen: BTreeMap<String, Instant>,
}

impl Known {
    /// Takes in whose agent is alive, and who counts as alive without one.
    fn look(&mut self, members: impl Iterator<Item = String>, without: impl Iterator<Item = String>) {
        let without: BTreeSet<String> = without.collect();
        // Who was marked since, by whomever, begins anew.
        self.seen.retain(|node| without.contains(node));
        self.seen.extend(members);
        let now = Instant::now();
        self.unseen.retain(|node, _| without.contains(node) && !self.seen.contains(node));
        for node in without.into_iter().filter(|node| !self.seen.contains(node)) {
            self.unseen.entry(node).or_insert(now);
        }
    }

    /// Whether a node that counts as alive without an agent had one, or has had time enough to get one.
    fn is_lost(&self, node: &str, time: Duration) -> bool {
        self.unseen.get(node).is_none_or(|since| since.elapsed() >= time)
    }
}

impl Agent {
    /// Whether the store is shared with others.
    pub fn is_sharing(&self) -> bool {
        self.inner.presence.get().is_some()
    }

    /// This agent as others see it.
    pub fn as_member(&self) -> Member {
        self.inner.member()
    }

    /// The agents that are alive, by node; public. Empty where the store is not shared.
    pub fn members(&self) -> Vec<Member> {
        self.reader(&Caller::management("")).members().value
    }

    /// The servers that are there, by node; public. Where the store is not shared that is this agent alone.
    pub fn servers(&self) -> Vec<Member> {
        match self.is_sharing() {
            true => self.reader(&Caller::management("")).servers().value,
            false => vec![self.as_member()],
        }
    }

    /// The agents that shared the store or asked its servers, are gone, and are not forgotten yet, by node; public.
    pub fn lost_members(&self) -> Vec<Member> {
        if !self.is_sharing() && self.inner.served.get().is_none() {
            return Vec::new();
        }
        let reader = self.reader(&Caller::management(""));
        let alive: BTreeSet<String> =
            reader.members().value.iter().map(|member| member.node.to_ascii_lowercase()).collect();
        let own = self.as_member();
        let checks = reader.checks_in_state(None, &Filter::default()).value;
        // Only an agent has this check, and whoever is registered from outside has none.
        let nodes = checks.iter().filter(|row| row.check.id.as_str() == SERF_HEALTH).map(|row| row.check.node.as_str());
        let lost =
            nodes.filter(|node| !alive.contains(&node.to_ascii_lowercase()) && !node.eq_ignore_ascii_case(&own.node));
        let known = lost.filter_map(|node| reader.node(node).value);
        known
            .map(|contents| {
                let node = &contents.node.node;
                let address = match node.address.parse::<std::net::IpAddr>() {
                    // Its ports went with it; most have all the same.
                    Ok(ip) => std::net::SocketAddr::new(ip, self.inner.config.server_port).to_string(),
                    Err(_) => node.address.clone(),
                };
                Member {
                    node: node.name.as_str().to_owned(),
                    id: node.id.clone(),
                    address,
                    // Only servers publish this.
                    is_server: contents.services.iter().any(|row| row.service.id.as_str() == CONSUL_SERVICE),
                    ..Member::default()
                }
            })
            .collect()
    }

    /// Takes this node out of a store that is shared; what is registered here is kept for the next start. To be called when
    /// the reconcilers have ended: they would say it again. Nothing happens where the store is not shared: nobody is left to
    /// whom it would matter.
    pub async fn leave(&self) -> Result<(), Error> {
        match self.inner.presence.get() {
            Some(presence) => {
                self.inner.forget(&Caller::management(""), presence, self.inner.config.node_name.as_str()).await
            }
            None => Ok(()),
        }
    }

    /// Forgets the node of an agent that is lost, before its time. Nothing happens when it is alive or nobody knows it, as
    /// in the original.
    pub async fn force_leave(&self, node: &str) -> Result<(), Error> {
        let inner = &self.inner;
        let Some(lost) = self.lost_members().into_iter().find(|member| member.node.eq_ignore_ascii_case(node)) else {
            return Ok(());
        };
        tracing::info!("agent: node {:?} is forced to leave", lost.node);
        let presence = match inner.presence.get() {
            Some(presence) => presence.clone(),
            None => inner.served()?.presence(),
        };
        inner.forget(&Caller::management(""), &presence, &lost.node).await
    }

    /// The agent that does what one must do; public. None where the store is not shared, or for the moments between
    /// the end of one and the next.
    pub fn lead(&self) -> Option<Member> {
        self.reader(&Caller::management("")).lead().value
    }
}

impl Inner {
    /// Whether what must be done by one is this agent's to do: always, where it does not share its store.
    pub(crate) fn leads(&self) -> bool {
        self.presence.get().is_none_or(|presence| presence.standing().borrow().leads())
    }

    /// This agent as the others see it.
    pub(crate) fn member(&self) -> Member {
        let config = &self.config;
        Member {
            node: config.node_name.as_str().to_owned(),
            id: config.node_id.clone(),
            address: std::net::SocketAddr::new(config.advertise_addr, config.server_port).to_string(),
            is_server: config.is_server,
            ping: self.ping_address().map(|address| address.to_string()).unwrap_or_default(),
            since: 0,
        }
    }

    /// Takes a node out of the catalog for good.
    pub(crate) async fn forget(&self, caller: &Caller, presence: &Presence, node: &str) -> Result<(), Error> {
        // In this order: without its lease it would be lost, and be written again as that.
        self.writer.deregister_as(caller, node, Removal::Node).await?;
        presence.release(node).await?;
        if let Some(served) = self.served.get() {
            served.forget(node);
        }
        lictor_meter::count("serf.member.left", &[]);
        Ok(())
    }

    /// Shows this node as alive whenever it is and the catalog says otherwise.
    pub(crate) async fn keep_own_health(self: Arc<Self>, presence: Presence) {
        let mut standing = presence.standing();
        let name = &self.config.node_name;
        presence.vouch(serf_health(name, Status::Critical), serf_health(name, Status::Passing));
        let node = name.as_str();
        let topics = [Topic::NodeChecks(node.to_ascii_lowercase().into())];
        loop {
            let reader = self.cluster.reader(&Caller::management(""));
            let checks = reader.checks_of_node(node);
            let shown = checks.value.iter().find(|row| row.check.id.as_str() == SERF_HEALTH);
            if standing.borrow_and_update().is_alive() && shown.is_none_or(|row| row.check.status != Status::Passing) {
                self.push_node().await;
                lictor_meter::count("serf.member.join", &[]);
                if shown.is_none() {
                    // The node was forgotten, with what is registered here.
                    self.full_sync_nudge.notify_one();
                }
            }
            tokio::select! {
                () = self.stop.requested() => return,
                () = reader.changed(&topics, checks.index) => {}
                _ = standing.changed() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Takes nodes out of the catalog whose agent was lost too long ago: only those that one of ours has marked as lost, and
    /// that are not alive again.
    async fn forget_lost_nodes(&self) {
        let stay = self.config.lost_nodes_stay;
        if stay.is_zero() {
            return;
        }
        let stay = i64::try_from(stay.as_secs()).unwrap_or(i64::MAX);
        let now = lictor_task::clock::unix_seconds();
        let reader = self.cluster.reader(&Caller::management(""));
        let members = reader.members().value;
        for row in reader.checks_in_state(Some(Status::Critical), &Filter::default()).value {
            let check = &row.check;
            if check.id.as_str() != SERF_HEALTH || check.output != LOST {
                continue;
            }
            let Some(since) = check.notes.strip_prefix(SINCE).and_then(|since| since.parse::<i64>().ok()) else {
                continue;
            };
            if now.saturating_sub(since) < stay || members.iter().any(|member| check.node.same(&member.node)) {
                continue;
            }
            tracing::warn!("agent: node {:?} was lost {stay} s ago and is forgotten", check.node.as_str());
            let node = check.node.as_str();
            let everything = Author::Caller(Caller::management(""));
            if let Err(error) = self.cluster.deregister(&everything, node, Removal::Node).await {
                tracing::error!("agent: cannot forget a lost node: {}", chain(&error));
            }
        }
    }

    /// Looks after nodes while this is the only server.
    pub(crate) async fn mark_lost_clients(self: Arc<Self>) {
        // It counts as alive as long as it looks.
        let (_always, standing) = watch::channel(Standing::default());
        self.mark_lost(standing).await;
    }

    /// While this server leads: marks the nodes whose agent is not alive any more, and forgets them in the end.
    pub(crate) async fn mark_lost_nodes(self: Arc<Self>, presence: Presence) {
        self.mark_lost(presence.standing()).await;
    }

    async fn mark_lost(self: Arc<Self>, mut standing: watch::Receiver<Standing>) {
        let mut known = Known::default();
        loop {
            // Leases of clients may have ended while servers were away: they need the time to find one again.
            let start = self.served.get().map_or(START, |served| served.ttl.max(START));
            let reader = self.cluster.reader(&Caller::management(""));
            standing.mark_unchanged();
            let alone = self.presence.get().is_none();
            if self.leads()
                && let Err(error) = self.writer.help_restore().await
            {
                tracing::warn!("agent: cannot finish a restore that was cut off: {}", chain(&error));
            }
            if self.leads() {
                self.forget_lost_nodes().await;
            }
            let mut lost = reader.passing_without_agent(SERF_HEALTH);
            // A server that shares its store with nobody holds no lease.
            lost.value.retain(|contents| !alone || contents.node.node.name != self.config.node_name);
            let seen = reader.current();
            let mut complete = true;
            let members = reader.members().value;
            known.look(
                members.iter().map(|member| member.node.to_ascii_lowercase()),
                lost.value.iter().map(|contents| contents.node.node.name.as_str().to_ascii_lowercase()),
            );
            for contents in lost.value {
                let ours =
                    contents.checks.iter().any(|row| row.check.id.as_str() == SERF_HEALTH && row.check.output == ALIVE);
                let is_lost = known.is_lost(&contents.node.node.name.as_str().to_ascii_lowercase(), start);
                if !ours || !is_lost || !self.leads() {
                    continue;
                }
                let node = contents.node.node.clone();
                tracing::warn!("agent: node {:?} is not alive any more", node.name.as_str());
                lictor_meter::count("serf.member.failed", &[]);
                let notes = format!("{SINCE}{}", lictor_task::clock::unix_seconds());
                let checks = vec![Check { notes, ..serf_health(&node.name, Status::Critical) }];
                let registration = Registration { node, skip_node_update: true, service: None, checks };
                let everything = Author::Caller(Caller::management(""));
                if let Err(error) = self.cluster.register(&everything, registration).await {
                    tracing::error!("agent: cannot mark a node that is not alive: {}", chain(&error));
                    complete = false;
                }
            }
            tokio::select! {
                () = self.stop.requested() => return,
                () = reader.changed(&lost.topics, seen), if complete => {}
                _ = standing.changed() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_starts_is_given_time_and_who_was_there_is_lost_at_once() {
        let mut known = Known::default();
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>().into_iter();
        // It registers before it holds a lease.
        known.look(names(&["b"]), names(&["a"]));
        assert!(!known.is_lost("a", START));
        tokio::time::advance(START / 2).await;
        known.look(names(&["a", "b"]), names(&[]));
        known.look(names(&["b"]), names(&["a"]));
        assert!(known.is_lost("a", START), "its agent was seen");
        // It was marked, and starts again.
        known.look(names(&["b"]), names(&[]));
        known.look(names(&["b"]), names(&["a"]));
        assert!(!known.is_lost("a", START));
        tokio::time::advance(START).await;
        known.look(names(&["b"]), names(&["a"]));
        assert!(known.is_lost("a", START), "no agent came");
    }
}
