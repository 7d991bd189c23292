//! A secured connection between its handshake and its end: ready to carry a connection of applications, and, between two
//! of our own proxies, one after another.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::net::{RecvFlags, recv};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::credentials::Credentials;
use crate::frame::Framing;
use crate::handshake;
use crate::peer::Peer;
use crate::pump::{Broken, Line, Meter, Opening, Pump};
use crate::record::alert;

/// A connection whose peer is known and accepted, and that carries nothing at the moment.
pub struct Session {
    line: Line<TcpStream>,
    about: Arc<About>,
    /// Connections carried before.
    carried: u32,
    /// The alert with which it ends.
    parting: u8,
}

/// What stays true of a session.
pub(crate) struct About {
    pub(crate) peer: Arc<Peer>,
    pub(crate) resumed: bool,
    pub(crate) framing: Framing,
    /// What it was secured with.
    pub(crate) credentials: Arc<Credentials>,
}

/// What came of waiting for the next connection.
#[derive(Debug)]
pub enum Next {
    /// The peer opened one.
    Opened,
    /// There will be none.
    Closed,
}

impl Session {
    pub(crate) fn new(line: Line<TcpStream>, about: About) -> Session {
        Session { line, about: Arc::new(about), carried: 0, parting: alert::CLOSE_NOTIFY }
    }

    /// The session behind a connection that has ended.
    pub(crate) fn again(line: Line<TcpStream>, about: Arc<About>) -> Session {
        Session { line, about, carried: 1, parting: alert::CLOSE_NOTIFY }
    }

    /// Who is on the other side.
    pub fn peer(&self) -> &Arc<Peer> {
        &self.about.peer
    }

    /// Whether an earlier session was taken up instead of a whole handshake.
    pub fn is_resumed(&self) -> bool {
        self.about.resumed
    }

    /// Whether it has carried a connection before.
    pub fn is_reused(&self) -> bool {
        self.carried > 0
    }

    /// Whether it can carry one connection after another.
    pub fn carries_many(&self) -> bool {
        self.about.framing == Framing::Frames
    }

    /// Whether it was secured with these credentials, and neither end's certificate has expired since.
    pub fn is_of(&self, credentials: &Arc<Credentials>) -> bool {
        Arc::ptr_eq(&self.about.credentials, credentials) && !self.has_expired()
    }

    /// Whether what vouched for the peer when the session was secured still does: no root was taken away since, and its
    /// certificate has not expired.
    pub fn is_vouched_for(&self, credentials: &Credentials) -> bool {
        credentials.bundle().contains(self.about.credentials.bundle()) && !self.has_expired()
    }

    fn has_expired(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        now > self.about.peer.not_after || now > self.about.credentials.leaf().who().not_after
    }

    /// Whether the peer has said nothing since the last connection ended. An idle peer speaks only to part.
    pub fn is_quiet(&mut self) -> bool {
        if !self.line.is_quiet() {
            return false;
        }
        let mut byte = [0; 1];
        let heard = recv(self.line.socket(), &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT);
        matches!(heard, Err(rustix::io::Errno::WOULDBLOCK))
    }

    /// Whether the peer has said that all that we sent with the last connection has reached the application there. Before
    /// that, whatever ends the session would take away what is still on its way; only for a session that we dialled.
    pub fn is_done(&self) -> bool {
        self.line.is_done()
    }

    /// Whether it has said so by now: `None` when not yet, `false` when it never will. Does not wait, and nobody is told when
    /// it changes.
    pub fn has_heard(&mut self) -> Option<bool> {
        match self.line.poll_done(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(outcome) => Some(matches!(self.noted(outcome), Ok(Opening::Opened))),
            Poll::Pending => None,
        }
    }

    /// Waits until the peer opens a connection; only for a session that carries many and that we accepted. Cancel safe.
    pub async fn next(&mut self) -> Result<Next, Broken> {
        let outcome = poll_fn(|context| self.line.poll_open(context)).await;
        match self.noted(outcome)? {
            Opening::Opened => Ok(Next::Opened),
            Opening::Closed => Ok(Next::Closed),
        }
    }

    /// Remembers how a peer that broke the protocol is to be told so.
    fn noted(&mut self, outcome: Result<Opening, Broken>) -> Result<Opening, Broken> {
        if let Err(Broken::Protocol(description)) = outcome {
            self.parting = description;
        }
        outcome
    }

    /// Tells the peer that no further connection is welcome on this session. One that it has just opened is still to
    /// be carried.
    pub async fn retire(&mut self) -> io::Result<()> {
        let words = self.line.retirement();
        self.line.socket().write_all(&words).await
    }

    /// Lets the next connection be the last one.
    pub fn retire_behind_next(&mut self) {
        self.line.retire();
    }

    /// Turns the peer away after all; it sees the alert `bad_certificate`.
    pub async fn refuse(mut self) {
        let words = self.line.alert(alert::BAD_CERTIFICATE);
        handshake::farewell(self.line.socket(), &words).await;
    }

    /// Says goodbye.
    pub async fn close(mut self) {
        let words = self.line.alert(alert::CLOSE_NOTIFY);
        handshake::farewell(self.line.socket(), &words).await;
    }

    /// Says goodbye to a peer that waits for nothing, or why there is more to it than that: without waiting for it to hear.
    pub fn close_now(mut self) {
        let words = self.line.alert(self.parting);
        // What does not fit in an idle connection's empty buffer is not worth waiting for.
        let _ = self.line.socket().try_write(&words);
    }

    /// Sends what is left of the handshake now instead of with the first data: in TLS 1.2 the client waits for it.
    pub async fn flush(&mut self) -> io::Result<()> {
        let words = self.line.unsent();
        self.line.socket().write_all(&words).await
    }

    /// Joins the connection with the application's. A session that carries many and that we dialled tells the peer
    /// that a connection begins.
    pub fn join(self, app: TcpStream, meter: Arc<Meter>) -> Pump<TcpStream> {
        Pump::new(app, self.line, Some(self.about), meter)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;
    use crate::frame;
    use crate::pump::scripts::{Shaken, shake};
    use crate::record::{content, record_len};

    #[tokio::test]
    async fn a_peer_that_breaks_the_protocol_between_connections_is_told_so() {
        let Shaken { about, near: (mut near, mut heard), far: (far, tickets, rest) } = shake();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (wire, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let (mut wire, accepted) = (wire.unwrap(), accepted.unwrap().0);
        let mut session = Session::again(Line::new(accepted, far, tickets, rest, Framing::Frames), about);
        // The end of a connection that was never opened.
        let mut words = Vec::new();
        near.sealer.append(content::APPLICATION_DATA, &[frame::END], &mut words).unwrap();
        wire.write_all(&words).await.unwrap();
        assert!(matches!(session.next().await, Err(Broken::Protocol(alert::UNEXPECTED_MESSAGE))));
        session.close_now();
        wire.read_to_end(&mut heard).await.unwrap();
        let mut unread = &mut heard[..];
        loop {
            let len = record_len(unread).expect("no alert");
            let (record, more) = unread.split_at_mut(len);
            let (kind, payload) = near.opener.open(record).unwrap();
            if kind == content::ALERT {
                assert_eq!(record[payload], [2, alert::UNEXPECTED_MESSAGE]);
                break;
            }
            unread = more;
        }
    }
}
