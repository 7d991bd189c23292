//! How sockets are made: listeners that several workers share, and connections that answer quickly.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpSocket, TcpStream};

/// Connections that may wait to be accepted by one worker.
const BACKLOG: i32 = 1024;

/// After this much silence the kernel asks whether the other side is still there.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Opens one listening socket per worker at the same address. The kernel spreads connections among them, and each
/// stays with the worker that it came to.
pub(crate) fn listen(address: SocketAddr, workers: usize) -> io::Result<Vec<StdListener>> {
    // The first one is bound alone, so that an address somebody else listens on is found taken; only then may the
    // others join it.
    let first = bound(address, Sharing::Alone)?;
    first.set_reuse_port(true)?;
    first.listen(BACKLOG)?;
    let first = StdListener::from(first);
    let address = first.local_addr()?;
    let mut listeners = vec![first];
    for _ in 1..workers {
        let next = bound(address, Sharing::Shared)?;
        next.listen(BACKLOG)?;
        listeners.push(StdListener::from(next));
    }
    Ok(listeners)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Alone,
    Shared,
}

fn bound(address: SocketAddr, sharing: Sharing) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if sharing == Sharing::Shared {
        socket.set_reuse_port(true)?;
    }
    // Accepted sockets inherit these, which saves the calls for each.
    prepare(&SockRef::from(&socket), address)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Connects. The caller sets the time limit.
pub(crate) async fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    prepare(&SockRef::from(&socket), address)?;
    socket.connect(address).await
}

/// Options of every socket: small writes go at once, and a peer that vanished is noticed.
fn prepare(socket: &SockRef<'_>, address: SocketAddr) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE))?;
    if address.ip().is_loopback() {
        calm(socket);
    }
    Ok(())
}

/// Congestion control for connections that stay on this machine. Algorithms that pace their sending, as BBR does, wait
/// for a network that is not there.
const LOCAL_CONGESTION: &[u8] = b"cubic";

fn calm(socket: &SockRef<'_>) {
    /// The kernel has said that it does not have it or that we may not choose it.
    static REFUSED: AtomicBool = AtomicBool::new(false);
    if !REFUSED.load(Ordering::Relaxed) && socket.set_tcp_congestion(LOCAL_CONGESTION).is_err() {
        REFUSED.store(true, Ordering::Relaxed);
    }
}

/// The same for a connection that was accepted on all addresses and comes from this machine.
pub(crate) fn accepted(stream: &TcpStream, from: SocketAddr) {
    let local = from.ip().to_canonical().is_loopback() || stream.local_addr().is_ok_and(|to| to.ip() == from.ip());
    if local {
        calm(&SockRef::from(stream));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_share_an_address_and_nobody_else_gets_it() {
        let listeners = listen(([127, 0, 0, 1], 0).into(), 3).unwrap();
        let address = listeners[0].local_addr().unwrap();
        assert!(listeners.iter().all(|listener| listener.local_addr().unwrap() == address));
        assert_eq!(listen(address, 1).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(listeners);
        assert!(listen(address, 2).is_ok());
    }

    #[test]
    fn an_address_that_another_program_has_is_found_taken() {
        let other = StdListener::bind("[::1]:0").unwrap();
        let address = other.local_addr().unwrap();
        assert_eq!(listen(address, 2).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
