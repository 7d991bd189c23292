//! The byte pump: joins an application's connection with a secured one until both directions have ended.
//!
//! Each direction is a small machine of its own, `outward` (application to peer) and `inward` (peer to
//! application). What both promise:
//!
//! - **Back-pressure is exact.** Nothing is read before everything read earlier has been written, so a slow reader
//!   costs one buffer at most, and its sender's kernel stops the sender.
//! - **Idle costs nothing.** Buffers are borrowed when bytes arrive and given back when a read finds none.
//! - **Turns are bounded.** After `TURN` bytes of a direction the pump lets everybody else run, sockets that became
//!   ready meanwhile first; so a bulk stream delays a small request by one turn at most.
//! - **Directions end alone.** The end of the application's direction becomes `close_notify` and FIN; a `close_notify`
//!   or a bare FIN of the peer becomes FIN, after which the other direction goes on.
//! - **An error resets.** When a connection breaks in the middle, so does the other one.
//! - **A session may outlive its connection.** Between two of our own proxies the end of a direction is a frame (see
//!   docs/reuse.md), and when both have ended cleanly the session is there for the next connection.

#[cfg(any(test, fuzzing))]
#[allow(missing_docs, unreachable_pub, clippy::unwrap_used, reason = "no part of what is shipped")]
pub(crate) mod fake;
mod inward;
mod outward;
#[cfg(test)]
mod reuse_tests;
#[cfg(any(test, fuzzing))]
#[allow(missing_docs, clippy::unwrap_used, reason = "no part of what is shipped")]
pub(crate) mod scripts;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod weigh;

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use crate::frame::{self, Framing, Sender};
use crate::record::alert;
use crate::secrets::{Parts, Secrets};
use crate::session::{About, Session};
use crate::socket::Socket;
use inward::Inward;
pub(crate) use inward::Opening;
use outward::Outward;
use tokio::net::TcpStream;

/// Bytes that one direction may move before others get their turn: about 50 µs of work.
const TURN: usize = 128 * 1024;

/// Counts the bytes of many connections together.
#[derive(Debug, Default)]
pub struct Meter {
    /// Bytes from the application to the peer.
    pub outward: AtomicU64,
    /// Bytes from the peer to the application.
    pub inward: AtomicU64,
}

/// Which of the two joined connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The application's.
    App,
    /// The peer's.
    Peer,
}

/// Why joined connections ended before both directions were over.
#[derive(Debug)]
pub enum Broken {
    /// A socket failed.
    Io {
        /// Whose.
        side: Side,
        /// How.
        error: io::Error,
    },
    /// The peer sent a fatal alert: its description.
    Alert(u8),
    /// The peer broke the protocol: the alert that we sent.
    Protocol(u8),
    /// Our key has protected as much as one may, and TLS 1.2 has no other.
    Worn,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Broken::Io { side: Side::App, error } => write!(f, "application's connection failed: {error}"),
            Broken::Io { side: Side::Peer, error } => write!(f, "peer's connection failed: {error}"),
            Broken::Alert(alert::BAD_CERTIFICATE) => f.write_str("refused by the peer: bad certificate"),
            Broken::Alert(description) => write!(f, "peer sent alert {description}"),
            Broken::Protocol(description) => write!(f, "peer broke the protocol (alert {description} sent)"),
            Broken::Worn => f.write_str("its key of TLS 1.2 has protected as much as one may"),
        }
    }
}

impl std::error::Error for Broken {}

/// How one direction stands after it was polled.
enum Step {
    /// Waits for a socket.
    Idle,
    /// Could go on, but its turn is over.
    Spent,
    /// Has ended.
    Over,
}

/// What one direction asks of the other.
#[derive(Default)]
struct Wishes {
    /// The peer wants our keys renewed.
    renew_keys: bool,
}

/// A socket that is reset when it is dropped in the middle of something.
struct Fragile<S: Socket> {
    socket: S,
    /// Dropping it closes it as it is.
    whole: bool,
}

impl<S: Socket> Fragile<S> {
    /// Lets closing be a reset, at once for whoever looks.
    fn shatter(&mut self) {
        self.socket.reset_on_close();
        self.whole = true;
    }
}

impl<S: Socket> Drop for Fragile<S> {
    fn drop(&mut self) {
        if !self.whole {
            self.socket.reset_on_close();
        }
    }
}

/// The secured one of two joined connections: all that a session needs to carry bytes.
pub(crate) struct Line<S: Socket> {
    peer: Fragile<S>,
    secrets: Secrets,
    outward: Outward,
    inward: Inward,
}

impl<S: Socket> Line<S> {
    /// A line of which nothing has been used: what the handshake left to be sent, and what it read ahead.
    pub(crate) fn new(peer: S, parts: Parts, outgoing: Vec<u8>, rest: Vec<u8>, framing: Framing) -> Line<S> {
        let Parts { sealer, opener, secrets } = parts;
        // A server of TLS 1.3 has only tickets left to send; they travel with its first data.
        let lazy = opener.is_tls13() && matches!(secrets, Secrets::Server(_));
        let sender = match secrets {
            Secrets::Client(_) => Sender::Acceptor,
            Secrets::Server(_) => Sender::Dialler,
        };
        Line {
            peer: Fragile { socket: peer, whole: true },
            secrets,
            outward: Outward::new(sealer, outgoing, lazy, framing, sender),
            inward: Inward::new(opener, rest, framing, sender),
        }
    }

    pub(crate) fn socket(&mut self) -> &mut S {
        &mut self.peer.socket
    }

    /// What says an alert, behind everything that was still to be sent.
    pub(crate) fn alert(&mut self, description: u8) -> Vec<u8> {
        self.outward.alert(description)
    }

    /// What says that no further connection is welcome.
    pub(crate) fn retirement(&mut self) -> Vec<u8> {
        self.outward.word(frame::RETIRE)
    }

    /// Lets this be said with the connection that is coming.
    pub(crate) fn retire(&mut self) {
        self.outward.retire();
    }

    /// What the handshake left to be sent, unless it can wait for the first data.
    pub(crate) fn unsent(&mut self) -> Vec<u8> {
        self.outward.unsent_head()
    }

    /// Whether the peer has said nothing that is still to be looked at.
    pub(crate) fn is_quiet(&self) -> bool {
        self.inward.is_empty()
    }

    /// Whether all that we sent with the last connection has reached the application there.
    pub(crate) fn is_done(&self) -> bool {
        self.inward.is_done()
    }

    /// Waits until that is so; `Closed` when it will not be.
    pub(crate) fn poll_done(&mut self, context: &mut Context<'_>) -> Poll<Result<Opening, Broken>> {
        let mut wishes = Wishes::default();
        let done = self.inward.poll_done(context, &self.peer.socket, &mut self.secrets, &mut wishes);
        if wishes.renew_keys {
            self.outward.ask_for_new_keys();
        }
        done
    }

    /// Waits for the peer to open a connection.
    pub(crate) fn poll_open(&mut self, context: &mut Context<'_>) -> Poll<Result<Opening, Broken>> {
        let mut wishes = Wishes::default();
        let opening = self.inward.poll_open(context, &self.peer.socket, &mut self.secrets, &mut wishes);
        if wishes.renew_keys {
            self.outward.ask_for_new_keys();
        }
        opening
    }
}

/// Two joined connections.
///
/// Dropping a pump that has not finished resets both.
pub struct Pump<S: Socket> {
    app: Fragile<S>,
    line: Line<S>,
    about: Option<Arc<About>>,
    meter: Arc<Meter>,
    /// Both directions have ended cleanly.
    finished: bool,
}

/// What happened in one turn.
enum Turn {
    Over(Result<(), Broken>),
    Yield,
}

impl<S: Socket> Pump<S> {
    pub(crate) fn new(app: S, mut line: Line<S>, about: Option<Arc<About>>, meter: Arc<Meter>) -> Pump<S> {
        line.peer.whole = false;
        match line.secrets {
            // Ours to open; the answer may come at once.
            Secrets::Client(_) if about.as_ref().is_some_and(|about| about.framing == Framing::Frames) => {
                line.inward.begin();
                line.outward.begin(frame::OPEN);
            }
            // Opened by the peer already.
            _ => {
                line.outward.begin(0);
                line.inward.moved = 0;
            }
        }
        Pump { app: Fragile { socket: app, whole: false }, line, about, meter, finished: false }
    }

    /// Bytes moved so far: application to peer, peer to application.
    pub fn moved(&self) -> (u64, u64) {
        (self.line.outward.moved, self.line.inward.moved)
    }

    /// Moves bytes until both directions have ended or something breaks. Not cancel safe in the sense that dropping
    /// the pump afterwards resets both connections; the future itself can be dropped and made again.
    pub async fn run(&mut self) -> Result<(), Broken> {
        loop {
            if let Some(outcome) = self.run_while(|_| true).await {
                return outcome;
            }
        }
    }

    /// The same for as long as `stays` says so, which is asked after every turn and told the bytes moved so far, both
    /// directions together; `None` when it said no. Can be called again.
    pub async fn run_while(&mut self, mut stays: impl FnMut(u64) -> bool) -> Option<Result<(), Broken>> {
        loop {
            let turn = poll_fn(|context| {
                let turn = self.poll_turn(context);
                let (outward, inward) = self.moved();
                match turn {
                    Poll::Ready(Turn::Over(_)) => turn.map(Some),
                    _ if !stays(outward + inward) => Poll::Ready(None),
                    _ => turn.map(Some),
                }
            });
            match turn.await? {
                Turn::Over(outcome) => return Some(outcome),
                // Not a plain wake-up: this comes back only after the sockets have been asked.
                Turn::Yield => tokio::task::yield_now().await,
            }
        }
    }

    fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<Turn> {
        let before = self.moved();
        let turn = self.turn(context);
        let after = self.moved();
        if after.0 != before.0 {
            self.meter.outward.fetch_add(after.0 - before.0, Ordering::Relaxed);
        }
        if after.1 != before.1 {
            self.meter.inward.fetch_add(after.1 - before.1, Ordering::Relaxed);
        }
        turn
    }

    fn turn(&mut self, context: &mut Context<'_>) -> Poll<Turn> {
        let mut wishes = Wishes::default();
        let (app, line) = (&self.app.socket, &mut self.line);
        let peer = &line.peer.socket;
        let inward = match line.inward.advance(context, app, peer, &mut line.secrets, &mut wishes) {
            Ok(step) => step,
            Err(broken) => return Poll::Ready(Turn::Over(Err(self.give_up(context, broken)))),
        };
        if wishes.renew_keys {
            line.outward.ask_for_new_keys();
        }
        let outward = match line.outward.advance(context, app, peer, &mut line.secrets, &line.inward) {
            Ok(step) => step,
            Err(broken) => return Poll::Ready(Turn::Over(Err(self.give_up(context, broken)))),
        };
        match (outward, inward) {
            (Step::Over, Step::Over) => match line.outward.failure.take().or(line.inward.failure.take()) {
                Some(broken) => Poll::Ready(Turn::Over(Err(self.give_up(context, broken)))),
                None => {
                    (self.app.whole, line.peer.whole, self.finished) = (true, true, true);
                    Poll::Ready(Turn::Over(Ok(())))
                }
            },
            (Step::Spent, _) | (_, Step::Spent) => Poll::Ready(Turn::Yield),
            _ => Poll::Pending,
        }
    }

    /// Ends both connections because of an error. A peer that waits for more is told why nothing comes, which a reset would
    /// prevent; where that cannot be said, and for everything else, it is a reset.
    fn give_up(&mut self, context: &mut Context<'_>, broken: Broken) -> Broken {
        self.app.shatter();
        let description = match broken {
            Broken::Protocol(description) => Some(description),
            Broken::Worn => Some(alert::INTERNAL_ERROR),
            Broken::Io { .. } | Broken::Alert(_) => None,
        };
        let Line { outward, peer, .. } = &mut self.line;
        match description.is_some_and(|description| outward.last_words(context, &peer.socket, description)) {
            true => peer.whole = true,
            false => peer.shatter(),
        }
        broken
    }
}

impl Pump<TcpStream> {
    /// Lets the event loop of the runtime that is entered watch both sockets from now on; the pump is to be run there.
    /// After an error everything is as it was.
    pub fn settle_here(&mut self) -> io::Result<()> {
        let app = settled_here(&self.app.socket)?;
        let peer = settled_here(&self.line.peer.socket)?;
        (self.app.socket, self.line.peer.socket) = (app, peer);
        Ok(())
    }

    /// The session, when its connection has ended cleanly and it may carry another.
    pub fn into_session(self) -> Option<Session> {
        let Pump { app: _, line, about, finished, .. } = self;
        let reusable = finished && line.outward.parted() && line.inward.parted();
        about.filter(|_| reusable).map(|about| Session::again(line, about))
    }
}

/// The same socket by another descriptor, watched by the event loop of the runtime that is entered.
pub fn settled_here(socket: &TcpStream) -> io::Result<TcpStream> {
    TcpStream::from_std(socket.as_fd().try_clone_to_owned()?.into())
}
