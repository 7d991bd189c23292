//! How sockets are made: listeners that several workers share, and connections that answer quickly.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout_at};

use crate::settings::Place;

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

/// Connects to a place within a limit: to the first of its addresses that takes it. A name is looked up each time, because
/// what it stands for may change, and a wrong answer is then forgotten with the connection that it was for.
pub(crate) async fn reach(place: &Place, limit: Duration) -> io::Result<TcpStream> {
    let end = Instant::now() + limit;
    let late = |_| Err(io::ErrorKind::TimedOut.into());
    if let Some(address) = place.address() {
        return timeout_at(end, dial(address)).await.unwrap_or_else(late);
    }
    let addresses = match timeout_at(end, place.addresses()).await {
        Ok(found) => found?,
        Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, "looking the name up took too long")),
    };
    first_of(&addresses, end).await
}

/// Tries addresses one after the other. Each has its share of the time that is left, so that one where nothing answers
/// does not take that of the others.
async fn first_of(addresses: &[SocketAddr], end: Instant) -> io::Result<TcpStream> {
    let mut failure: Option<io::Error> = None;
    for (at, address) in addresses.iter().enumerate() {
        let now = Instant::now();
        let still = u32::try_from(addresses.len() - at).unwrap_or(u32::MAX);
        let share = end.saturating_duration_since(now) / still;
        match timeout_at(now + share, dial(*address)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(stream) => return Ok(stream),
            // A refusal says most: somebody is there, and may listen soon.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => failure = Some(error),
            Err(error) => drop(failure.get_or_insert(error)),
        }
    }
    Err(failure.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
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
    if stays_here(address) {
        calm(socket);
        // Nobody vanishes without this kernel knowing it.
        return Ok(());
    }
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE))
}

/// Whether whoever is connected from or to this address is on this machine for certain.
pub(crate) fn stays_here(address: SocketAddr) -> bool {
    address.ip().is_loopback()
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

/// The same for a connection that was accepted on more than loopback and comes from this machine.
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

    #[tokio::test]
    async fn of_the_addresses_of_a_name_the_first_that_listens_is_connected_to() {
        let app = StdListener::bind("127.0.0.1:0").unwrap();
        let there = app.local_addr().unwrap();
        // Nobody listens on the address that comes first, as with a name that has one of IPv6 too.
        let quiet = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
        quiet.bind(&SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 0)).into()).unwrap();
        let refused = quiet.local_addr().unwrap().as_socket().unwrap();
        let soon = || Instant::now() + Duration::from_secs(60);
        let stream = first_of(&[refused, there], soon()).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), there);
        // Set aside for documents, so nothing is there: whatever else goes wrong, a refusal is what is told.
        let nowhere = SocketAddr::from(([192, 0, 2, 1], 1));
        for both in [[refused, nowhere], [nowhere, refused]] {
            let end = Instant::now() + Duration::from_millis(500);
            assert_eq!(first_of(&both, end).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        }
    }

    #[tokio::test]
    async fn an_address_that_does_not_answer_leaves_time_for_the_next() {
        // A queue of connections that is full and that nobody takes from: the kernel does not answer any more.
        let full = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        full.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        full.listen(0).unwrap();
        let silent = full.local_addr().unwrap().as_socket().unwrap();
        let mut filling = Vec::new();
        while let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_millis(300), dial(silent)).await {
            filling.push(stream);
            if filling.len() > 64 {
                eprintln!("skipped: this kernel takes connections without end");
                return;
            }
        }
        let app = StdListener::bind("127.0.0.1:0").unwrap();
        let there = app.local_addr().unwrap();
        let stream = first_of(&[silent, there], Instant::now() + Duration::from_secs(2)).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), there);
    }

    #[test]
    fn an_address_that_another_program_has_is_found_taken() {
        let other = StdListener::bind("[::1]:0").unwrap();
        let address = other.local_addr().unwrap();
        assert_eq!(listen(address, 2).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
