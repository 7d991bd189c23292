//! What the kernel says of the process at the other end of a Unix socket, and descriptors on their way through one.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use lictor_task::{Peer, descriptors};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    ipproto, sockopt,
};
use socket2::SockRef;
use tokio::net::{TcpStream, UnixListener, UnixStream};

/// A process, held so that its pid can't be taken for another one's.
#[derive(Debug)]
pub(crate) struct Process(Peer);

impl Process {
    /// The process at the other end: the one that connected or, to who connected, the one that listens. An error where
    /// the kernel is too old to give a handle (before 6.5), where the process is gone, and where it is not of our pid
    /// namespace.
    pub(crate) fn of_peer(socket: &UnixStream) -> io::Result<Process> {
        let peer = Peer::of(socket)?;
        if !peer.is_held() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(Process(peer))
    }

    /// Its number, which is never negative.
    pub(crate) fn pid(&self) -> u32 {
        self.0.pid().unsigned_abs()
    }

    /// Whether it has not ended. Two processes with one pid that are both alive are the same.
    pub(crate) fn is_alive(&self) -> bool {
        self.0.is_there()
    }
}

/// Listens at an abstract socket. Whether the kernel refuses descriptors there: anybody may connect, and one that nobody
/// takes would be ours to close, for which its sender can make us wait.
pub(crate) fn listen(name: &str) -> io::Result<(UnixListener, bool)> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let refuses = descriptors::refuse(&socket)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok((UnixListener::from_std(socket.into())?, refuses))
}

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// Connects to an abstract socket. A listener whose queue is full is an error instead of a wait.
pub(crate) fn connect(name: &str) -> io::Result<UnixStream> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
    UnixStream::from_std(socket.into())
}

/// Sends a message with a duplicate of a descriptor, whole or not at all.
pub(crate) fn send(lane: &UnixStream, message: &[u8], descriptor: BorrowedFd<'_>) -> io::Result<()> {
    let descriptors = [descriptor];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let sent = rustix::net::sendmsg(lane, &[IoSlice::new(message)], &mut control, flags)?;
    if sent == message.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Receives a message into the buffer with the descriptor that came along, if it was one. No bytes are the end.
pub(crate) fn receive(lane: &UnixStream, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut sent = Vec::new();
    let received = descriptors::receive(lane, buffer, &mut sent);
    let descriptor = if sent.len() == 1 { sent.pop() } else { None };
    // More than one are not ours to keep.
    descriptors::close(sent);
    Ok((received?, descriptor))
}

/// Takes a descriptor for what it must be, a TCP connection.
pub(crate) fn connection(descriptor: OwnedFd) -> io::Result<TcpStream> {
    if !is_connection(&descriptor)? {
        descriptors::close(vec![descriptor]);
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let stream = std::net::TcpStream::from(descriptor);
    close_at_once(&stream);
    stream.set_nonblocking(true)?;
    TcpStream::from_std(stream)
}

fn is_connection(descriptor: &OwnedFd) -> io::Result<bool> {
    // What is no socket has no domain.
    let domain = sockopt::socket_domain(descriptor).ok();
    Ok(matches!(domain, Some(AddressFamily::INET | AddressFamily::INET6))
        && sockopt::socket_type(descriptor)? == SocketType::STREAM
        && sockopt::socket_protocol(descriptor)? == Some(ipproto::TCP)
        && !sockopt::socket_acceptconn(descriptor)?)
}

/// Who has sent a connection may have wished that its end waits for its other end. Not ours: a worker would stand still.
pub(crate) fn close_at_once<'a>(stream: impl Into<SockRef<'a>>) {
    // One that is dead already cannot be set, and needs not be.
    let _ = stream.into().set_linger(None);
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[tokio::test]
    async fn a_peer_is_known_by_its_process() {
        let (one, _other) = UnixStream::pair().unwrap();
        let process = Process::of_peer(&one).unwrap();
        assert_eq!(process.pid(), std::process::id());
        assert!(process.is_alive());
    }

    #[tokio::test]
    async fn a_connection_travels_and_what_is_none_is_not_taken() {
        let (one, other) = UnixStream::pair().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut far = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (near, _) = listener.accept().unwrap();
        send(&one, b"hello", near.as_fd()).unwrap();
        drop(near);
        other.readable().await.unwrap();
        let mut buffer = [0; 16];
        let (bytes, descriptor) = receive(&other, &mut buffer).unwrap();
        assert_eq!(&buffer[..bytes], b"hello");
        drop(connection(descriptor.unwrap()).unwrap());
        assert_eq!(far.read(&mut buffer).unwrap(), 0, "the only holder has closed it");
        let datagram = UnixDatagram::unbound().unwrap();
        assert!(connection(datagram.into()).is_err());
        assert!(connection(listener.into()).is_err());
    }

    #[tokio::test]
    async fn a_connection_that_shall_linger_does_not_and_of_several_none_is_taken() {
        let (one, other) = UnixStream::pair().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let far = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (near, _) = listener.accept().unwrap();
        SockRef::from(&near).set_linger(Some(std::time::Duration::from_secs(60))).unwrap();
        send(&one, b"x", near.as_fd()).unwrap();
        other.readable().await.unwrap();
        let (_, descriptor) = receive(&other, &mut [0; 16]).unwrap();
        let taken = connection(descriptor.unwrap()).unwrap();
        assert_eq!(SockRef::from(&taken).linger().unwrap(), None);

        let both = [near.as_fd(), far.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&both)));
        rustix::net::sendmsg(&one, &[IoSlice::new(b"x")], &mut control, SendFlags::empty()).unwrap();
        other.readable().await.unwrap();
        let (bytes, descriptor) = receive(&other, &mut [0; 16]).unwrap();
        assert!(bytes == 1 && descriptor.is_none());
    }
}
