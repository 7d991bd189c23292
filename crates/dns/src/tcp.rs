//! The TCP loop: messages with their length in front, several on one connection, none of which may hold the server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lictor_task::{Scope, Stop};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::request::Transport;
use crate::server::{Core, Step};

/// Connections at the same time on one address; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 512;
/// How long a client may think about its next question (RFC 7766 section 6.2.3: "a few seconds").
const IDLE_LIMIT: Duration = Duration::from_secs(8);
/// How long a message may take once its first byte has come, and its answer to leave.
const MESSAGE_LIMIT: Duration = Duration::from_secs(2);
/// Pause after accepting failed: the process is out of file descriptors, or nearly so.
const PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections until the scope stops.
pub(crate) async fn accept(listener: TcpListener, core: Arc<Core>, scope: Scope) {
    let stop = scope.stop_signal();
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    while let Some(slot) = stop.or_stopped(Arc::clone(&slots).acquire_owned()).await {
        let Ok(slot) = slot else { return };
        match stop.or_stopped(listener.accept()).await {
            None => return,
            Some(Ok((stream, from))) => {
                let (core, stop) = (Arc::clone(&core), stop.clone());
                scope.spawn("answer TCP", async move {
                    serve(stream, from, &core, &stop).await;
                    drop(slot);
                });
            }
            Some(Err(problem)) => {
                tracing::warn!("cannot accept DNS connections: {problem}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Answers the questions of one connection, one after the other, until the client or its patience ends.
async fn serve(mut stream: TcpStream, from: SocketAddr, core: &Core, stop: &Stop) {
    let (mut packet, mut out) = (Vec::new(), Vec::new());
    loop {
        let first = tokio::time::timeout(IDLE_LIMIT, stream.read_u8());
        let Some(Ok(Ok(first))) = stop.or_stopped(first).await else { return };
        let message = tokio::time::timeout(MESSAGE_LIMIT, read_rest(&mut stream, first, &mut packet));
        let Ok(Ok(())) = message.await else { return };
        match core.answer(&packet, from.ip(), Transport::Tcp, &mut out) {
            Step::Ignore => return,
            Step::Send => {}
            Step::Wait(waiting) => core.finish(*waiting, &mut out).await,
        }
        let Ok(Ok(())) = tokio::time::timeout(MESSAGE_LIMIT, write(&mut stream, &out)).await else { return };
    }
}

async fn read_rest(stream: &mut TcpStream, first: u8, packet: &mut Vec<u8>) -> std::io::Result<()> {
    let length = u16::from_be_bytes([first, stream.read_u8().await?]);
    packet.resize(usize::from(length), 0);
    stream.read_exact(packet).await?;
    Ok(())
}

async fn write(stream: &mut TcpStream, answer: &[u8]) -> std::io::Result<()> {
    let length = u16::try_from(answer.len()).map_err(|_| std::io::ErrorKind::InvalidData)?;
    // In one write, since a client may read the length and the message with one call each and no more.
    stream.write_all(&[&length.to_be_bytes(), answer].concat()).await
}
