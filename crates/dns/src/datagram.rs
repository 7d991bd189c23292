//! A UDP socket that answers from the address it was asked at, and takes and sends several datagrams at once.
//!
//! On a socket that listens on every address the system would choose the source of an answer by the way to the client,
//! and a client that asked at another address of this machine (a second one of the interface, or one for local
//! resolvers such as 169.254.1.1) would drop it. So the system is asked where each datagram was sent to.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;

use lictor_task::datagrams::{self, MOST, Outgoing, Received};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// The largest datagram there is.
const LARGEST: usize = u16::MAX as usize;
/// When answers together have this many bytes they are sent before there are more.
const ENOUGH: usize = 1 << 16;

/// A UDP socket.
#[derive(Debug)]
pub(crate) struct Datagrams(UdpSocket);

/// Who sent a datagram, and where to.
pub(crate) type Peer = Received;

/// Datagrams that were received together.
#[derive(Debug)]
pub(crate) struct Questions {
    /// A place for each. Pages of it that nothing was ever written to are not there.
    room: Vec<u8>,
    received: Vec<Received>,
    next: usize,
}

impl Questions {
    pub(crate) fn new() -> Questions {
        Questions { room: vec![0; LARGEST * MOST], received: Vec::with_capacity(MOST), next: 0 }
    }

    /// The next that was not looked at. It is not given out again, even if it makes who looks at it panic.
    pub(crate) fn next(&mut self) -> Option<(&[u8], Peer)> {
        let place = self.next;
        let peer = *self.received.get(place)?;
        self.next += 1;
        Some((&self.room[place * LARGEST..][..peer.length], peer))
    }
}

/// Answers that are sent together.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    bytes: Vec<u8>,
    each: Vec<(Range<usize>, Peer)>,
}

impl Answers {
    pub(crate) fn push(&mut self, answer: &[u8], to: Peer) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(answer);
        self.each.push((start..self.bytes.len(), to));
    }

    /// Whether these are to be sent before there are more.
    pub(crate) fn are_many(&self) -> bool {
        self.each.len() >= MOST || self.bytes.len() >= ENOUGH
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.each.clear();
    }
}

impl Datagrams {
    /// Takes a bound socket.
    pub(crate) fn new(socket: UdpSocket) -> io::Result<Datagrams> {
        let address = socket.local_addr()?;
        if address.ip().is_unspecified() {
            match address {
                SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?,
                SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?,
            }
        }
        Ok(Datagrams(socket))
    }

    /// Waits until there may be something to receive. Cancel safe.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.0.readable().await
    }

    /// Receives the datagrams that wait, in place of those that were received before.
    pub(crate) fn try_receive(&self, questions: &mut Questions) -> io::Result<()> {
        let Questions { room, received, next } = questions;
        *next = 0;
        received.clear();
        let mut outcome = Err(io::ErrorKind::WouldBlock.into());
        let _ = self.0.try_io(Interest::READABLE, || {
            outcome = datagrams::receive(&self.0, room, LARGEST, received);
            match &outcome {
                Ok(()) if received.len() == MOST => Ok(()),
                // No more waited, which need not be asked again: the socket is readable when the next one comes.
                Ok(()) => Err(io::Error::from(io::ErrorKind::WouldBlock)),
                Err(problem) => Err(problem.kind().into()),
            }
        });
        outcome
    }

    /// Sends answers to their peers, from where these expect them. Who cannot be sent to keeps nobody else from an answer.
    pub(crate) async fn send(&self, answers: &mut Answers) {
        let Answers { bytes, each } = &*answers;
        let datagram = |(place, peer): &(Range<usize>, Peer)| Outgoing {
            bytes: &bytes[place.clone()],
            to: peer.from,
            from: peer.at,
        };
        let all: Vec<Outgoing<'_>> = each.iter().map(datagram).collect();
        let mut left = &all[..];
        while let Some(first) = left.first() {
            match self.0.try_io(Interest::WRITABLE, || datagrams::send(&self.0, left)) {
                Ok(sent) => left = &left[sent..],
                Err(problem) if problem.kind() == io::ErrorKind::WouldBlock => {
                    if self.0.writable().await.is_err() {
                        break;
                    }
                }
                Err(problem) => {
                    // The client is gone or unreachable; nobody is left to tell.
                    tracing::debug!("cannot send a DNS answer to {}: {problem}", first.to);
                    left = &left[1..];
                }
            }
        }
        drop(all);
        answers.clear();
    }
}
