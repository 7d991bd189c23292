//! Network coordinates: where this node is, and where others say they are.
//!
//! Agents that share a store measure each other: each sends small datagrams to the others in turn (`ping`), learns its
//! place from how long the answers take (`vivaldi`), and stores it now and then. An agent that is alone is at the
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
pub(crate) struct Post {
    socket: UdpSocket,
    /// As others reach it.
    pub(crate) address: SocketAddr,
}

/// Questions that wait for their answers: whom, and since when.
type Asked = HashMap<Nonce, (String, Instant)>;

impl Inner {
    fn coordinate(&self) -> Option<Coordinate> {
        let reader = self.cluster.reader(&Caller::management(""));
        let rows = reader.coordinates_of_node(self.config.node_name.as_str()).value;
        rows.first().map(|row| row.coordinate.clone())
    }

    /// Places this node at the origin, unless it is somewhere already: whoever measures distances from it (monitors of
    /// external nodes do) places the others around it.
    pub(crate) async fn place_node(&self) {
        if self.coordinate().is_some() {
            return;
        }
        self.store_place(&Coordinate::default()).await;
    }

    async fn store_place(&self, place: &Coordinate) {
        let name = self.config.node_name.clone();
        let own = NodeCoordinate { node: name, coordinate: place.clone(), ..NodeCoordinate::default() };
        if let Err(error) = self.writer.update_coordinates(&[own]).await {
            tracing::warn!("agent: cannot store this node's coordinate: {}", chain(&error));
        }
    }

    /// Opens the socket by which distances are measured; none where they are not. Where the port is taken any other one
    /// will do, since the others learn it from the store; but a firewall may not let it through.
    pub(crate) fn open_post(&self) -> Option<Post> {
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
    pub(crate) async fn keep_place(self: Arc<Self>, post: Post) {
        let start = self.coordinate();
        let mut stored = start.clone().unwrap_or_default();
        let mut place = Vivaldi::new(stored.clone());
        let mut asked = Asked::new();
        let mut queue: Vec<Member> = Vec::new();
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
                        queue = self.peers();
                        place.keep_only(|peer| queue.iter().any(|member| member.node == peer));
                    }
                    if let Some(peer) = queue.pop() {
                        ask(&post.socket, peer, &mut asked);
                    }
                    ask_at = now + if answers < HASTY_ANSWERS { HASTE } else { PACE };
                }
                () = sleep_until(store_at) => {
                    let now = Instant::now();
                    if answers > 0 && has_moved(&stored, place.coordinate()) {
                        stored = place.coordinate().clone();
                        self.store_place(&stored).await;
                    }
                    let nodes = self.cluster.reader(&Caller::management("")).members().value.len();
                    let least = Duration::from_secs_f64(nodes as f64 / WRITES_PER_SECOND).max(STORE_EVERY);
                    store_at = now + least + least.mul_f64(fastrand::f64());
                }
            }
        }
    }

    /// The others that can be asked, in an order of chance.
    fn peers(&self) -> Vec<Member> {
        let mut peers = self.cluster.reader(&Caller::management("")).members().value;
        peers.retain(|member| !member.ping.is_empty() && !self.config.node_name.same(&member.node));
        fastrand::shuffle(&mut peers);
        peers
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
