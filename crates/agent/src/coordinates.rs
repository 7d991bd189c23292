//! Network coordinates: where this node is, and where others say they are.
//!
//! Agents of a cluster measure each other: each sends small datagrams to some of the others in turn (`ping`), learns its
//! place from how long the answers take (`vivaldi`), and has it stored now and then. An agent that is alone is at the
//! origin.

mod ping;
mod vivaldi;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lictor_model::acl::Caller;
use lictor_state::coordinate::{Coordinate, NodeCoordinate};
use lictor_state::presence::Member;
use lictor_task::Scope;
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep_until};

use crate::agent::Inner;
use crate::error::chain;
use crate::{Agent, Error};
use ping::{Nonce, Ping};
use vivaldi::Vivaldi;

/// How often a peer is asked: quickly until this many answers came, then one after the other.
const HASTE: Duration = Duration::from_millis(100);
const HASTY_ANSWERS: u32 = 40;
const PACE: Duration = Duration::from_secs(1);
/// So many others are asked in turn, so many times, before some others are.
pub(crate) const PEERS: usize = 16;
const ROUNDS: u32 = 4;
/// An answer that takes longer is none.
const PATIENCE: Duration = Duration::from_secs(2);
/// The place is stored this often, later by up to as much again, and less often where more nodes would make more writes
/// than this each second.
const STORE_EVERY: Duration = Duration::from_secs(15);
const WRITES_PER_SECOND: f64 = 64.0;
/// A place that has changed by less than this (in seconds, and in certainty) is not stored again.
const MOVED: f64 = 20.0e-6;
const MORE_CERTAIN: f64 = 0.05;

impl Agent {
    /// Where this node is: as stored, or the origin. None where coordinates are off.
    pub fn coordinate(&self) -> Option<Coordinate> {
        self.inner.config.measures_distances.then(|| self.inner.coordinate().unwrap_or_default())
    }

    /// Stores where a node is; nothing happens when there is no such node.
    pub async fn update_coordinate(&self, caller: &Caller, update: NodeCoordinate) -> Result<(), Error> {
        if !caller.writes_node(update.node.as_str()) {
            return Err(Error::Denied);
        }
        Ok(self.inner.writer.update_coordinates(&[update]).await?)
    }
}

/// Where an agent is asked, and asks from.
struct Post {
    socket: UdpSocket,
    /// As others reach it.
    address: SocketAddr,
}

/// Questions that wait for their answers: whom, and since when.
type Asked = HashMap<Nonce, (String, Instant)>;

impl Inner {
    fn coordinate(&self) -> Option<Coordinate> {
        if self.cluster.is_remote() {
            return self.place.lock().clone();
        }
        let reader = self.cluster.reader(&Caller::management(""));
        let rows = reader.coordinates_of_node(self.config.node_name.as_str()).value;
        rows.first().map(|row| row.coordinate.clone())
    }

    /// Places this node at the origin, unless it is somewhere already: whoever measures distances from it (monitors of
    /// external nodes do) places the others around it. A client agent is nowhere before it has measured.
    pub(crate) async fn place_node(&self) {
        if self.cluster.is_remote() || self.coordinate().is_some() {
            return;
        }
        self.store_place(&Coordinate::default()).await;
    }

    async fn store_place(&self, place: &Coordinate) -> bool {
        let name = self.config.node_name.clone();
        let own = NodeCoordinate { node: name, coordinate: place.clone(), ..NodeCoordinate::default() };
        if self.cluster.is_remote() {
            *self.place.lock() = Some(place.clone());
        }
        let stored = self.cluster.place(own).await;
        match &stored {
            Ok(()) => {}
            // Whoever has no server is told so already.
            Err(error) if self.cluster.is_remote() => {
                tracing::debug!("agent: cannot store this node's coordinate: {}", chain(error));
            }
            Err(error) => tracing::warn!("agent: cannot store this node's coordinate: {}", chain(error)),
        }
        stored.is_ok()
    }

    /// From now on measures distances to others, and answers who measures, unless it does already or is not to.
    pub(crate) fn measure_distances(self: &Arc<Self>, scope: &Scope) {
        self.ping.get_or_init(|| {
            let post = self.open_post()?;
            let address = post.address;
            self.cluster.answers_at(address);
            scope.spawn("distances", Arc::clone(self).keep_place(post));
            Some(address)
        });
    }

    /// Where it answers who measures.
    pub(crate) fn ping_address(&self) -> Option<SocketAddr> {
        self.ping.get().copied().flatten()
    }

    /// Opens the socket by which distances are measured; none where they are not. Where the port is taken any other one
    /// will do, since the others learn it from the store; but a firewall may not let it through.
    fn open_post(&self) -> Option<Post> {
        let config = &self.config;
        let port = config.ping_port.filter(|_| config.measures_distances)?;
        let open = |port| bind(SocketAddr::new(config.ping_bind, port));
        let socket = open(port).or_else(|error| {
            let at = SocketAddr::new(config.ping_bind, port);
            tracing::warn!("agent: UDP {at} (ports.serf_lan): {error}: distances are measured from another port");
            open(0)
        });
        let post = socket.and_then(|socket| {
            let port = socket.local_addr()?.port();
            Ok(Post { socket, address: SocketAddr::new(config.advertise_addr, port) })
        });
        post.inspect_err(|error| {
            tracing::warn!("agent: UDP on {} (serf_lan): {error}: distances are not measured", config.ping_bind);
        })
        .ok()
    }

    /// Measures, answers who measures, and stores what was learned, until told to stop.
    async fn keep_place(self: Arc<Self>, post: Post) {
        let mut stored = self.coordinate();
        let mut place = Vivaldi::new(stored.clone().unwrap_or_default());
        let mut asked = Asked::new();
        let mut peers: Vec<Member> = Vec::new();
        let (mut queue, mut rounds): (Vec<Member>, u32) = (Vec::new(), 0);
        let mut agents = 0;
        let mut answers = 0;
        let (mut ask_at, mut store_at) = (Instant::now(), Instant::now() + STORE_EVERY);
        let mut datagram = [0; ping::LEN + 1];
        loop {
            tokio::select! {
                () = self.stop.requested() => return,
                received = post.socket.recv_from(&mut datagram) => {
                    let now = Instant::now();
                    // Errors of earlier datagrams, such as to a port that is closed, come back here.
                    let Ok((length, from)) = received else { continue };
                    match Ping::read(&datagram[..length]) {
                        Some(Ping::Question(nonce)) => {
                            let answer = Ping::Answer(nonce, place.coordinate().clone()).write();
                            // What cannot be sent now is as good as lost on the way.
                            let _ = post.socket.try_send_to(&answer, from);
                        }
                        Some(Ping::Answer(nonce, there)) => {
                            if let Some((peer, since)) = asked.remove(&nonce) {
                                place.learn(&peer, &there, now - since);
                                answers += 1;
                                if answers == HASTY_ANSWERS {
                                    store_at = now;
                                }
                            }
                        }
                        None => {}
                    }
                }
                () = sleep_until(ask_at) => {
                    let now = Instant::now();
                    asked.retain(|_, (_, since)| now.duration_since(*since) < PATIENCE);
                    if queue.is_empty() {
                        if peers.is_empty() || rounds == ROUNDS {
                            // One more than are asked: this node may be among them.
                            (peers, agents) = self.cluster.peers(PEERS + 1);
                            peers.retain(|member| !self.config.node_name.same(&member.node));
                            place.keep_only(|peer| peers.iter().any(|member| member.node == peer));
                            rounds = 0;
                        }
                        rounds += 1;
                        queue.clone_from(&peers);
                        fastrand::shuffle(&mut queue);
                    }
                    if let Some(peer) = queue.pop() {
                        ask(&post.socket, peer, &mut asked);
                    }
                    ask_at = now + if answers < HASTY_ANSWERS { HASTE } else { PACE };
                }
                () = sleep_until(store_at) => {
                    let now = Instant::now();
                    let now_at = place.coordinate();
                    let moved = stored.as_ref().is_none_or(|stored| has_moved(stored, now_at));
                    if answers > 0 && moved && self.store_place(now_at).await {
                        stored = Some(now_at.clone());
                    }
                    let least = Duration::from_secs_f64(agents as f64 / WRITES_PER_SECOND).max(STORE_EVERY);
                    store_at = now + least + least.mul_f64(fastrand::f64());
                }
            }
        }
    }
}

fn bind(at: SocketAddr) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(at)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

fn ask(socket: &UdpSocket, peer: Member, asked: &mut Asked) {
    let Ok(address) = peer.ping.parse::<SocketAddr>() else { return };
    let nonce = *uuid::Uuid::new_v4().as_bytes();
    let question = Ping::Question(nonce).write();
    let now = Instant::now();
    if socket.try_send_to(&question, address).is_ok() {
        asked.insert(nonce, (peer.node, now));
    }
}

fn has_moved(stored: &Coordinate, now: &Coordinate) -> bool {
    let squares: f64 = stored.vec.iter().zip(&now.vec).map(|(a, b)| (a - b) * (a - b)).sum();
    let moved = squares.sqrt() + (stored.height - now.height).abs() + (stored.adjustment - now.adjustment).abs();
    moved > MOVED || (stored.error - now.error).abs() > MORE_CERTAIN
}
