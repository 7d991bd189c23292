//! The UDP loop: datagrams in, datagrams out.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use lictor_task::Scope;

use crate::datagram::{Answers, Datagrams, Peer, Questions};
use crate::request::Transport;
use crate::server::{Core, Step, Waiting};

/// Datagrams answered in a row before other tasks of the process get a turn.
const BURST: usize = 64;
/// Pause after the socket failed, so that a lasting failure is no busy loop.
const PAUSE: Duration = Duration::from_millis(50);

/// What a worker has before it. It outlives the worker: who made it panic keeps nobody else from an answer.
pub(crate) struct Desk {
    questions: Questions,
    answers: Answers,
    out: Vec<u8>,
}

impl Desk {
    pub(crate) fn new() -> Desk {
        Desk { questions: Questions::new(), answers: Answers::default(), out: Vec::new() }
    }
}

/// Answers datagrams until the scope stops. Several workers may share a socket.
pub(crate) async fn work(socket: Arc<Datagrams>, core: Arc<Core>, scope: Scope, desk: &mut Desk) {
    let stop = scope.stop_signal();
    let stopped = stop.requested();
    tokio::pin!(stopped);
    let mut in_a_row = 0;
    loop {
        let Desk { questions, answers, out } = &mut *desk;
        while let Some((packet, peer)) = questions.next() {
            in_a_row += 1;
            match core.answer(packet, peer.from.ip(), Transport::Udp, out) {
                Step::Ignore => {}
                Step::Send => answers.push(out, peer),
                Step::Wait(waiting) => {
                    scope.spawn("ask recursors", finish(Arc::clone(&socket), Arc::clone(&core), *waiting, peer));
                }
            }
            if answers.are_many() {
                socket.send(answers).await;
            }
        }
        socket.send(answers).await;
        if in_a_row >= BURST {
            in_a_row = 0;
            tokio::task::yield_now().await;
        }
        tokio::select! {
            biased;
            () = &mut stopped => return,
            _ = socket.readable() => {}
        }
        match socket.try_receive(questions) {
            Ok(()) => {}
            Err(problem) if problem.kind() == io::ErrorKind::WouldBlock => {}
            Err(problem) => {
                tracing::warn!("cannot receive DNS questions: {problem}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn finish(socket: Arc<Datagrams>, core: Arc<Core>, waiting: Waiting, to: Peer) {
    let mut out = Vec::new();
    core.finish(waiting, &mut out).await;
    let mut answers = Answers::default();
    answers.push(&out, to);
    socket.send(&mut answers).await;
}
