//! What is known of the other proxies of our agent: to which ones connections can be handed over, and which processes
//! may hand over to us. Learnt from the agent in the background, never while a connection waits; what was learnt holds
//! for as long as the process lives, also while the agent is away.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use lictor_model::name::ServiceName;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::kernel::{self, Process};
use crate::balance::Instance;
use crate::control::{ControlError, ControlPlane, Neighbor as Answer, Whose};
use crate::shared::Shared;

/// Questions that may wait; more are asked when the next connection comes.
pub(crate) const ASKS: usize = 64;
/// The agent is asked again about what was learnt when it is this old and in use.
const REFRESH: Duration = Duration::from_secs(60);
/// The first pause between two questions about an instance or a process without a useful answer; doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Processes that are remembered though the agent has not vouched for them: enough for all that have just connected.
const MOST_STRANGERS: usize = 64;

/// All that is known.
pub(crate) struct Neighbors {
    asks: mpsc::Sender<Ask>,
    /// The node of our agent.
    node: OnceLock<String>,
    /// By pid: processes that have connected to us.
    peers: Mutex<HashMap<u32, Peer>>,
}

/// A question for the agent.
#[derive(Debug)]
pub(crate) enum Ask {
    /// Is this one of its proxies, and where does it take connections?
    Instance(Arc<Instance>),
    /// Which of its proxies is this?
    Process(Arc<Process>),
}

/// A proxy that takes connections.
#[derive(Debug)]
pub(crate) struct Neighbor {
    process: Process,
    socket: String,
    learnt: Mutex<Instant>,
}

impl Neighbor {
    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Connects to it, and to nobody else.
    pub(crate) fn open(&self) -> std::io::Result<tokio::net::UnixStream> {
        let lane = kernel::connect(&self.socket)?;
        let there = Process::of_peer(&lane)?;
        // The same pid, and neither has ended: the same process.
        if there.pid() == self.process.pid() && there.is_alive() && self.process.is_alive() {
            Ok(lane)
        } else {
            Err(std::io::ErrorKind::ConnectionRefused.into())
        }
    }
}

/// What an instance is to us; a part of the instance.
#[derive(Debug, Default)]
pub(crate) struct Link {
    neighbor: ArcSwapOption<Neighbor>,
    pace: Mutex<Pace>,
}

/// When to ask again.
#[derive(Debug, Default)]
struct Pace {
    next: Option<Instant>,
    pause: Duration,
}

impl Pace {
    /// Whether it is time; if so, for the next time to come later.
    fn is_due(&mut self, now: Instant) -> bool {
        if self.next.is_some_and(|next| now < next) {
            return false;
        }
        self.pause = (self.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        self.next = Some(now + self.pause);
        true
    }

    fn reset(&mut self) {
        *self = Pace::default();
    }
}

struct Peer {
    process: Arc<Process>,
    /// What the agent said it stands for.
    service: Option<ServiceName>,
    learnt: Instant,
    pace: Pace,
}

impl Neighbors {
    pub(crate) fn new(asks: mpsc::Sender<Ask>) -> Neighbors {
        Neighbors { asks, node: OnceLock::new(), peers: Mutex::default() }
    }

    /// Where connections to an instance can be handed over. What is not known is asked for, and good for a later
    /// connection.
    pub(crate) fn of(&self, instance: &Arc<Instance>) -> Option<Arc<Neighbor>> {
        let known = instance.link.neighbor.load_full();
        let now = Instant::now();
        let fresh = known.as_ref().is_some_and(|known| now.saturating_duration_since(*known.learnt.lock()) < REFRESH);
        if !fresh && self.may_be_ours(instance).is_some() && instance.link.pace.lock().is_due(now) {
            // Full means that others ask.
            let _ = self.asks.try_send(Ask::Instance(Arc::clone(instance)));
        }
        known
    }

    /// A connection could not be handed over to what is known of the instance.
    pub(crate) fn forget(&self, instance: &Instance, neighbor: &Arc<Neighbor>) {
        if instance.link.neighbor.load().as_ref().is_some_and(|known| Arc::ptr_eq(known, neighbor)) {
            instance.link.neighbor.store(None);
            instance.link.pace.lock().reset();
        }
    }

    /// The id that the instance has at our agent if it is of our node, as far as the node is known.
    fn may_be_ours<'a>(&self, instance: &'a Instance) -> Option<&'a str> {
        match self.node.get() {
            Some(node) => instance.id.strip_prefix(node.as_str())?.strip_prefix('/'),
            None => Some(&instance.id),
        }
    }

    /// The service that a process stands for, if it lives and the agent has vouched for it, and the process as it is held
    /// here. Else the agent is asked, for a later connection.
    pub(crate) fn client(&self, process: Arc<Process>) -> Option<(ServiceName, Arc<Process>)> {
        let now = Instant::now();
        let mut peers = self.peers.lock();
        if !process.is_alive() {
            return None;
        }
        // The same pid, and neither has ended: the same process.
        let is_it = |known: &&mut Peer| Arc::ptr_eq(&known.process, &process) || known.process.is_alive();
        let peer = match peers.get_mut(&process.pid()).filter(is_it) {
            Some(known) => known,
            None => {
                make_room(&mut peers);
                let pid = process.pid();
                let fresh = Peer { process, service: None, learnt: now, pace: Pace::default() };
                peers.insert(pid, fresh);
                peers.get_mut(&pid)?
            }
        };
        let fresh = peer.service.is_some() && now.saturating_duration_since(peer.learnt) < REFRESH;
        if !fresh && peer.pace.is_due(now) {
            let _ = self.asks.try_send(Ask::Process(Arc::clone(&peer.process)));
        }
        Some((peer.service.clone()?, Arc::clone(&peer.process)))
    }

    /// What was said of a process is not so any more.
    pub(crate) fn doubt(&self, pid: u32) {
        self.peers.lock().remove(&pid);
    }
}

/// Forgets processes that have ended, and the oldest stranger where there are many: each costs a descriptor, and anybody
/// may connect.
fn make_room(peers: &mut HashMap<u32, Peer>) {
    peers.retain(|_, peer| peer.process.is_alive());
    let strangers = || peers.iter().filter(|(_, peer)| peer.service.is_none());
    if strangers().count() >= MOST_STRANGERS
        && let Some(oldest) = strangers().min_by_key(|(_, peer)| peer.learnt).map(|(pid, _)| *pid)
    {
        peers.remove(&oldest);
    }
}

/// Puts the questions to the agent for as long as there are any.
pub(crate) async fn answer<C: ControlPlane>(
    control: Arc<C>,
    own_id: String,
    shared: Arc<Shared>,
    mut asks: mpsc::Receiver<Ask>,
) {
    while let Some(ask) = asks.recv().await {
        let Some(neighbors) = &shared.neighbors else { return };
        match ask {
            Ask::Process(process) => {
                let answer = control.neighbor(&Whose::Process(process.pid())).await;
                neighbors.vouch(&process, answer);
            }
            Ask::Instance(instance) => {
                if neighbors.node.get().is_none()
                    && let Ok(own) = control.neighbor(&Whose::Id(own_id.clone())).await
                {
                    // It was not set a moment ago, and nobody else sets it.
                    let _ = neighbors.node.set(own.node);
                }
                if neighbors.node.get().is_some()
                    && let Some(id) = neighbors.may_be_ours(&instance)
                {
                    neighbors.learn(&*control, &shared, &instance, id).await;
                }
            }
        }
    }
}

impl Neighbors {
    fn vouch(&self, process: &Process, answer: Result<Answer, ControlError>) {
        let mut peers = self.peers.lock();
        // The agent spoke of the process that has this pid now. If the one that connected is alive still, that is it.
        let Some(peer) = peers.get_mut(&process.pid()).filter(|_| process.is_alive()) else { return };
        match answer {
            Ok(found) => {
                peer.service = Some(found.service);
                peer.learnt = Instant::now();
                peer.pace.reset();
            }
            Err(ControlError::NotFound(_) | ControlError::Forbidden(_)) => peer.service = None,
            // Away: what was known holds.
            Err(ControlError::Failed(_) | ControlError::Unreached(_)) => {}
        }
    }

    async fn learn(&self, control: &impl ControlPlane, shared: &Shared, instance: &Instance, id: &str) {
        let whose = Whose::Id(id.to_owned());
        let link = &instance.link;
        let found = match control.neighbor(&whose).await {
            Ok(found) => found,
            Err(ControlError::NotFound(_) | ControlError::Forbidden(_)) => return link.neighbor.store(None),
            Err(ControlError::Failed(_) | ControlError::Unreached(_)) => return,
        };
        let in_our_datacenter = shared
            .mesh
            .credentials()
            .is_some_and(|own| own.leaf().who().identity.datacenter.eq_ignore_ascii_case(instance.target.datacenter()));
        if !in_our_datacenter || !found.service.same(instance.target.service()) || found.socket.is_empty() {
            return link.neighbor.store(None);
        }
        if let Some(known) = link.neighbor.load_full()
            && found.pid == Some(known.process.pid())
            && found.socket == known.socket
            && known.process.is_alive()
        {
            *known.learnt.lock() = Instant::now();
            return link.pace.lock().reset();
        }
        // Takes hold of the process first and asks once more about it then: a pid that the agent calls its proxy's while
        // we hold a living process with this pid means that one. The other end gets to know us by the way.
        let Ok(process) = kernel::connect(&found.socket).and_then(|lane| Process::of_peer(&lane)) else { return };
        let Ok(again) = control.neighbor(&whose).await else { return };
        if again == found && again.pid == Some(process.pid()) && process.is_alive() {
            tracing::debug!("{} takes connections without TLS as process {}", instance.id, process.pid());
            let neighbor = Neighbor { process, socket: found.socket, learnt: Mutex::new(Instant::now()) };
            link.neighbor.store(Some(Arc::new(neighbor)));
            link.pace.lock().reset();
        }
    }
}
