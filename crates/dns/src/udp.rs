//! The UDP loop: datagram in, datagram out.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use lictor_task::Scope;

use crate::datagram::{Datagrams, Peer};
use crate::request::Transport;
use crate::server::{Core, Step, Waiting};

/// Datagrams answered in a row before other tasks of the process get a turn.
const BURST: usize = 64;
/// Pause after the socket failed, so that a lasting failure is no busy loop.
const PAUSE: Duration = Duration::from_millis(50);

/// Answers datagrams until the scope stops. Several workers may share a socket.
pub(crate) async fn work(socket: Arc<Datagrams>, core: Arc<Core>, scope: Scope) {
    let stop = scope.stop_signal();
    let stopped = stop.requested();
    tokio::pin!(stopped);
    let mut packet = vec![0; usize::from(u16::MAX)];
    let mut out = Vec::with_capacity(usize::from(u16::MAX));
    loop {
        tokio::select! {
            biased;
            () = &mut stopped => return,
            _ = socket.readable() => {}
        }
        for _ in 0..BURST {
            match socket.try_receive(&mut packet) {
                Ok((length, peer)) => match core.answer(&packet[..length], peer.from.ip(), Transport::Udp, &mut out) {
                    Step::Ignore => {}
                    Step::Send => send(&socket, &out, &peer).await,
                    Step::Wait(waiting) => {
                        scope.spawn("ask recursors", finish(Arc::clone(&socket), Arc::clone(&core), *waiting, peer));
                    }
                },
                Err(problem) if problem.kind() == io::ErrorKind::WouldBlock => break,
                Err(problem) => {
                    tracing::warn!("cannot receive DNS questions: {problem}");
                    tokio::time::sleep(PAUSE).await;
                    break;
                }
            }
        }
        tokio::task::yield_now().await;
    }
}

async fn finish(socket: Arc<Datagrams>, core: Arc<Core>, waiting: Waiting, to: Peer) {
    let mut out = Vec::new();
    core.finish(waiting, &mut out).await;
    send(&socket, &out, &to).await;
}

async fn send(socket: &Datagrams, packet: &[u8], to: &Peer) {
    if let Err(problem) = socket.send(packet, to).await {
        // The client is gone or unreachable; nobody is left to tell.
        tracing::debug!("cannot send a DNS answer to {}: {problem}", to.from);
    }
}
