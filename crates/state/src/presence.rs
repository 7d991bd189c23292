//! Which agents are alive, and which one does what only one may do: keys that hang on leases.
//!
//! An agent that shares its store with others keeps one lease. While the lease lives, `alive/<node>` says so to all. One
//! server's lease also holds `lead`: what must be done by one is done by that server. When it is gone its lease ends,
//! and the first of the others to notice takes over.
//!
//! An agent that ends in order gives up the lead at once but lets its lease run out: when it is back before that, as
//! after an upgrade, nobody has missed it. One that leaves is [released](Presence::release).

use std::sync::Arc;
use std::time::Duration;

use lictor_model::health::Check;
use lictor_store::{LeaseId, Outcome, Revision, Store, Txn};
use lictor_task::{Backoff, Stop};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use crate::answer::Topic;
use crate::record;
use crate::record::presence::MemberRecord;
use crate::replica::Replica;
use crate::schema::Key;
use crate::{Error, State};

/// First and longest pause between two tries to be alive.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// How often a lease is renewed within its time.
const RENEWALS: u32 = 4;

/// An agent that is alive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// The name of its node.
    pub node: String,
    /// The node's UUID.
    pub id: String,
    /// `host:port` at which servers know each other.
    pub address: String,
    /// Whether it holds the state.
    pub is_server: bool,
    /// `host:port` at which it answers datagrams that measure the distance to it; empty when it does not.
    pub ping: String,
    /// Since when it has been alive without a break, in seconds since the Unix epoch; zero where that is not known.
    pub since: i64,
}

/// How an agent stands with the others.
#[derive(Clone, Copy, Debug, Default)]
pub struct Standing {
    alive_until: Option<Instant>,
    leads: bool,
}

impl Standing {
    /// Whether the others see it alive, as far as it can know.
    pub fn is_alive(&self) -> bool {
        self.alive_until.is_some_and(|until| Instant::now() < until)
    }

    /// Whether what one must do is its to do. Not a moment longer than its lease, so never two at a time.
    pub fn leads(&self) -> bool {
        self.leads && self.is_alive()
    }
}

/// Keeps one agent alive in the eyes of the others.
#[derive(Clone, Debug)]
pub struct Presence {
    store: Store,
    replica: Arc<Replica>,
    ttl: Duration,
    standing: Arc<watch::Sender<Standing>>,
}

impl State {
    /// The presence of this agent; it begins when [`Presence::keep`] runs. Without a renewal it ends after `ttl`.
    pub fn presence(&self, ttl: Duration) -> Presence {
        Presence {
            store: self.store.clone(),
            replica: Arc::clone(&self.replica),
            ttl,
            standing: Arc::new(watch::Sender::new(Standing::default())),
        }
    }
}

impl State {
    /// Keeps a member alive for somebody else: renews the lease that it has, or takes one. Gives the lease by its number, to
    /// be passed the next time, to whichever server. Without another call it ends after `ttl`.
    /// A lease is not taken at anybody's word but once it was seen to be this member's: `is_its` says that it was.
    pub async fn hold_member(&self, member: &Member, lease: u64, is_its: bool, ttl: Duration) -> Result<u64, Error> {
        let node = member.node.to_ascii_lowercase();
        let lease = LeaseId::new(lease).filter(|_| self.replica.tables().presence.is_alive(&node));
        let lease = match lease {
            Some(lease) if !is_its => {
                let key = Key::Alive(node.as_str().into()).encode()?;
                let held = self.store.get(&key).await.map_err(Error::store("look at a lease"))?;
                held.and_then(|held| held.lease).filter(|held| *held == lease)
            }
            lease => lease,
        };
        if let Some(lease) = lease {
            match self.store.keep_alive(lease).await {
                Ok(()) => return Ok(lease.get()),
                Err(lictor_store::Error::LeaseLost(_)) => {}
                Err(error) => return Err(Error::store("keep a lease")(error)),
            }
        }
        let lease = self.presence(ttl).begin(member).await?;
        // Whoever asks next is to find it.
        let mut reached = self.replica.wait(&[Topic::Members]);
        let shown = async {
            while !self.replica.tables().presence.is_alive(&node) {
                reached.woken().await;
            }
        };
        // It is alive in the store, however late this copy is.
        let _ = timeout(RETRY.1, shown).await;
        Ok(lease.get())
    }
}

/// Why a lease is not kept any longer.
enum Over {
    Lost,
    /// Told to stop; with the lead, if this agent had it.
    Stopped(Option<Revision>),
}

impl Presence {
    /// How this agent stands; each change from dead to alive and of the lead is told.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Where this process tells about instances it shows `known` in place of `said`: what others say of its own node
    /// because they did not hear of it for a while, although it is alive, or nobody could read this. So what runs here
    /// goes on with what runs here, when a lease was lost or a network was cut.
    pub fn vouch(&self, said: Check, known: Check) {
        self.replica.vouch(said, known);
    }

    /// Says that the agent of a node is not there any more, without waiting for the end of its lease.
    pub async fn release(&self, node: &str) -> Result<(), Error> {
        let key = Key::Alive(node.to_ascii_lowercase().into());
        self.store.commit(Txn::new().delete(key.encode()?)).await.map_err(Error::store("end a lease"))?;
        Ok(())
    }

    /// Keeps the agent alive until told to stop.
    pub async fn keep(self, member: Member, stop: Stop) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        loop {
            let asked = Instant::now();
            let begun = match stop.or_stopped(self.begin(&member)).await {
                None => return,
                Some(begun) => begun,
            };
            match begun {
                Ok(lease) => {
                    backoff.reset();
                    match self.renew(&member, lease, asked, &stop).await {
                        Over::Lost => tracing::warn!("agent: the lease of this node was lost: taking a new one"),
                        Over::Stopped(lead) => {
                            self.standing.send_replace(Standing::default());
                            if let (Some(since), Ok(key)) = (lead, Key::Lead.encode()) {
                                let give_up = Txn::new().when_modified(key.clone(), since).delete(key);
                                // Otherwise it ends with the lease.
                                let _ = timeout(RETRY.1, self.store.commit(give_up)).await;
                            }
                            return;
                        }
                    }
                }
                Err(error) => {
                    tracing::debug!("agent: cannot take a lease for this node: {}", crate::error::chain(&error))
                }
            }
            if stop.or_stopped(tokio::time::sleep(backoff.next_delay())).await.is_none() {
                return;
            }
        }
    }

    /// Takes a lease and says that the agent is alive.
    async fn begin(&self, member: &Member) -> Result<LeaseId, Error> {
        let lease = self.store.grant(self.ttl).await.map_err(Error::store("grant a lease"))?;
        let key = Key::Alive(member.node.to_ascii_lowercase().into());
        let since = lictor_task::clock::unix_seconds();
        let value = record::encode(&key, &MemberRecord::new(&Member { since, ..member.clone() }))?;
        let txn = Txn::new().put_leased(key.encode()?, value, lease);
        match self.store.commit(txn).await.map_err(Error::store("write that this node is alive"))? {
            Outcome::Applied(_) | Outcome::Conflict(_) => Ok(lease),
        }
    }

    async fn renew(&self, member: &Member, lease: LeaseId, asked: Instant, stop: &Stop) -> Over {
        let interval = self.ttl / RENEWALS;
        let mut lead: Option<Revision> = None;
        let mut until = asked + self.ttl;
        let mut next = asked + interval;
        let mut members = self.replica.wait(&[Topic::Members]);
        self.tell(until, false);
        let node = member.node.to_ascii_lowercase();
        let mut seen_alive = false;
        loop {
            let is_shown = self.replica.tables().presence.is_alive(&node);
            if seen_alive && !is_shown {
                // Not to be found out at the next renewal only. Should the lease live on, it is of no more use.
                self.standing.send_replace(Standing::default());
                let _ = timeout(RETRY.1, self.store.revoke(lease)).await;
                return Over::Lost;
            }
            seen_alive |= is_shown;
            let leader = self.replica.tables().presence.lead().cloned();
            if lead.is_some() && leader.as_ref().is_some_and(|leader| leader.id != member.id) {
                // Somebody took it away by hand.
                lead = None;
                self.tell(until, false);
            } else if member.is_server && lead.is_none() && leader.as_ref().is_none_or(|leader| leader.id == member.id)
            {
                lead = self.take_lead(member, lease).await;
                if lead.is_some() {
                    tracing::info!("agent: this server does what one must do");
                    self.tell(until, true);
                }
            }
            tokio::select! {
                () = stop.requested() => return Over::Stopped(lead),
                () = members.woken() => continue,
                () = sleep_until(next) => {}
            }
            let asked = Instant::now();
            next = asked + interval;
            // Not longer than until the next one: an answer that comes late is none.
            match timeout(self.ttl / 2, self.store.keep_alive(lease)).await {
                Ok(Ok(())) => {
                    until = asked + self.ttl;
                    self.tell(until, lead.is_some());
                }
                Ok(Err(lictor_store::Error::LeaseLost(_))) => {
                    self.standing.send_replace(Standing::default());
                    return Over::Lost;
                }
                Ok(Err(error)) => tracing::debug!("agent: cannot keep the lease of this node: {error}"),
                Err(_) => tracing::debug!("agent: no answer to keeping the lease of this node"),
            }
        }
    }

    /// Takes the lead if nobody has it. This agent has it already when it was not told that a try before had succeeded;
    /// what it took before it was started again ends with the lease of then.
    async fn take_lead(&self, member: &Member, lease: LeaseId) -> Option<Revision> {
        let taken = async {
            let key = Key::Lead;
            let bytes = key.encode()?;
            let value = record::encode(&key, &MemberRecord::new(member))?;
            let txn = Txn::new().when_absent(bytes.clone()).put_leased(bytes, value, lease);
            match self.store.commit(txn).await.map_err(Error::store("take the lead"))? {
                Outcome::Applied(since) => Ok(Some(since)),
                Outcome::Conflict(_) => {
                    let held = self.store.get(&Key::Lead.encode()?).await.map_err(Error::store("look who leads"))?;
                    Ok(held.filter(|entry| entry.lease == Some(lease)).map(|entry| entry.modified))
                }
            }
        };
        let taken: Result<Option<Revision>, Error> = taken.await;
        match taken {
            Ok(taken) => taken,
            Err(error) => {
                tracing::debug!("agent: {}", crate::error::chain(&error));
                None
            }
        }
    }

    /// A tenth of the time is given away, for clocks that do not run alike.
    fn tell(&self, until: Instant, leads: bool) {
        let alive_until = Some(until - self.ttl / 10);
        self.standing.send_if_modified(|standing| {
            let before = (standing.is_alive(), standing.leads);
            *standing = Standing { alive_until, leads };
            before != (standing.is_alive(), leads)
        });
    }
}
