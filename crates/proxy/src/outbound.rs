//! Application to mesh: choose an instance, dial it, make sure it is the one, and try another if it is not there.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use lictor_tls::{Reuse, Session, Target};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::balance::{Engaged, Instance, choose};
use crate::copy::{After, Way, carry};
use crate::direct::lane::{Handed, Lane, follow, hand_over};
use crate::metrics::{Flow, count};
use crate::outcome::{DialFailure, Outbound as Outcome};
use crate::resolve::Resolved;
use crate::shared::Shared;
use crate::socket;
use crate::track::Direction;
use crate::worker::{Desk, Serve};

/// Instances that one connection may be tried with.
const MAX_TRIES: usize = 3;

/// How often a connection looks again when discovery has not yet said anything or certificates are not there yet: an
/// application that starts together with its proxy need not try again.
const START_STEP: Duration = Duration::from_millis(10);

/// One upstream's work.
pub(crate) struct Outbound {
    shared: Arc<Shared>,
    upstream: ArcSwap<Upstream>,
}

/// Where an upstream leads.
pub(crate) struct Upstream {
    /// `service:default/db`.
    pub(crate) name: Arc<str>,
    pub(crate) resolved: Arc<Resolved>,
    /// For everything until the connection is secured, all tries together.
    pub(crate) connect_timeout: Duration,
    pub(crate) reuse: Reuse,
    pub(crate) flow: Arc<Flow>,
}

/// How an instance was reached.
#[expect(clippy::large_enum_variant, reason = "moved once; a box would be an allocation for each connection")]
enum Reached {
    Session {
        session: Session,
        /// [`Instance::losses`] before it was made.
        losses: u32,
    },
    /// Its proxy has the connection now.
    Direct(Lane),
}

impl Outbound {
    pub(crate) fn new(shared: Arc<Shared>, upstream: Upstream) -> Outbound {
        Outbound { shared, upstream: ArcSwap::from_pointee(upstream) }
    }

    /// Later connections go there.
    pub(crate) fn change(&self, upstream: Upstream) {
        self.upstream.store(Arc::new(upstream));
    }

    async fn reach(
        &self,
        desk: &Desk,
        upstream: &Upstream,
        stream: &TcpStream,
    ) -> Result<(Reached, Arc<Instance>, Engaged), Outcome> {
        let deadline = Instant::now() + upstream.connect_timeout;
        let mut list = upstream.resolved.list();
        while !(list.known && self.shared.mesh.has_credentials()) && Instant::now() < deadline {
            tokio::time::sleep(START_STEP).await;
            list = upstream.resolved.list();
        }
        let mut tried: Vec<Arc<Instance>> = Vec::new();
        let mut last = None;
        while tried.len() < MAX_TRIES {
            let now = Instant::now();
            let Some(instance) = choose(&list.instances, &tried, list.order, now) else { break };
            // What is left is shared with the tries that can still follow.
            let tries = (list.instances.len() - tried.len()).min(MAX_TRIES - tried.len()).max(1);
            let share = deadline.saturating_duration_since(now) / u32::try_from(tries).unwrap_or(1);
            let engaged = instance.engage();
            let losses = instance.losses();
            let handed = hand_over(&self.shared, &desk.lanes, &instance, stream, share).await;
            let direct = match handed {
                Handed::Accepted(lane) => {
                    instance.succeeded();
                    return Ok((Reached::Direct(lane), instance, engaged));
                }
                Handed::Elsewhere => None,
                Handed::Denied => Some(DialFailure::Denied),
                Handed::Slow => Some(DialFailure::Slow),
            };
            if direct.is_none()
                && upstream.reuse == Reuse::Connections
                && let Some(session) = desk.pool.take(&instance)
            {
                return Ok((Reached::Session { session, losses }, instance, engaged));
            }
            let failure = match direct {
                Some(failure) => failure,
                None => match timeout(share, self.dial(desk, &instance, upstream, share)).await {
                    Ok(Ok(session)) => {
                        instance.succeeded();
                        return Ok((Reached::Session { session, losses }, instance, engaged));
                    }
                    Ok(Err(failure)) => failure,
                    Err(_) => DialFailure::Slow,
                },
            };
            count(&self.shared.metrics.dial_failures);
            if failure.is_the_instances_fault() && instance.failed(now, Instant::now()) {
                tracing::debug!("{}: {} is left alone for a while: {failure}", upstream.name, instance.id);
            }
            let final_word = !failure.is_worth_another_try();
            tried.push(Arc::clone(&instance));
            last = Some((instance.id.clone(), failure));
            if final_word {
                break;
            }
        }
        Err(match last {
            Some((instance, failure)) => Outcome::Unreachable { tried: tried.len(), instance, failure },
            None => Outcome::NoInstance { known: list.known },
        })
    }

    async fn dial(
        &self,
        desk: &Desk,
        instance: &Instance,
        upstream: &Upstream,
        limit: Duration,
    ) -> Result<Session, DialFailure> {
        let found;
        let (stream, target) = match instance.address {
            Some(address) => (socket::dial(address).await.map_err(DialFailure::Connect)?, &instance.target),
            None => {
                let stream = socket::reach(&instance.place, limit).await.map_err(DialFailure::Connect)?;
                let address = stream.peer_addr().map_err(DialFailure::Connect)?;
                // No session is resumed at another address that the name stands for.
                found = Target::new(address, instance.target.datacenter(), instance.target.service());
                (stream, &found)
            }
        };
        let begin = Instant::now();
        let reuse = match upstream.reuse {
            Reuse::Connections if desk.pool.is_crowded() => Reuse::Sessions,
            wanted => wanted,
        };
        let connected = self.shared.mesh.connect(stream, target, reuse).await;
        let session = connected.map_err(DialFailure::Secure)?;
        upstream.flow.handshakes.add(begin.elapsed());
        Ok(session)
    }
}

impl DialFailure {
    /// Whether it says something about the instance, not about us.
    fn is_the_instances_fault(&self) -> bool {
        match self {
            DialFailure::Connect(_) | DialFailure::Slow => true,
            DialFailure::Denied | DialFailure::Secure(lictor_tls::Error::NoCredentials) => false,
            DialFailure::Secure(error) => !error.is_refusal_by_peer(),
        }
    }

    /// Whether another instance could do better.
    fn is_worth_another_try(&self) -> bool {
        !matches!(self, DialFailure::Denied | DialFailure::Secure(lictor_tls::Error::NoCredentials))
    }
}

impl Serve for Outbound {
    fn serve(
        self: Arc<Self>,
        desk: Arc<Desk>,
        stream: TcpStream,
        _from: SocketAddr,
    ) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let accepted = self.shared.tracker.accepted(Direction::Outbound);
        Box::pin(async move {
            let _accepted = accepted;
            let upstream = self.upstream.load_full();
            match self.reach(&desk, &upstream, &stream).await {
                Ok((Reached::Direct(lane), _, engaged)) => {
                    // Ours alone would keep it open when the other proxy ends it.
                    drop(stream);
                    follow(&desk, &self.shared, lane, Arc::clone(&upstream.name), &upstream.flow, engaged);
                }
                Ok((Reached::Session { session, losses }, instance, engaged)) => {
                    self.shared.metrics.secured(&session);
                    let way = Way::Outbound { upstream: Arc::clone(&upstream.name), _engaged: engaged };
                    let after = session.carries_many().then(|| After::Keep { instance, losses });
                    carry(&desk, &self.shared, session, stream, &upstream.flow, way, after);
                }
                Err(outcome) => {
                    self.shared.journal.outbound(&self.shared.metrics, &upstream.flow, &upstream.name, &outcome);
                }
            }
        })
    }
}
