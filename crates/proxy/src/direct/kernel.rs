//! What the kernel says of the process at the other end of a Unix socket, and descriptors on their way through one.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use lictor_task::Peer;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, ipproto, sockopt,
};
use tokio::net::{TcpStream, UnixStream};

/// A process, held so that its pid can't be taken for another one's.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    peer: Peer,
}

impl Process {
    /// The process at the other end: the one that connected or, to who connected, the one that listens. An error where
    /// the kernel is too old to give a handle (before 6.5), where the process is gone, and where it is not of our pid
    /// namespace.
    pub(crate) fn of_peer(socket: &UnixStream) -> io::Result<Process> {
        let peer = Peer::of(socket)?;
        if !peer.is_held() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(Process { pid: u32::try_from(peer.pid()).map_err(|_| io::ErrorKind::NotFound)?, peer })
    }

    /// Whether it has not ended. Two processes with one pid that are both alive are the same.
    pub(crate) fn is_alive(&self) -> bool {
        self.peer.is_there()
    }
}

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

/// Receives a message into the buffer with the one descriptor that came along, if it was one. No bytes are the end.
pub(crate) fn receive(lane: &UnixStream, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = rustix::net::recvmsg(lane, &mut [IoSliceMut::new(buffer)], &mut control, flags)?;
    let mut descriptor = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            // More than one is not ours to keep; those left over are closed.
            descriptor = descriptors.into_iter().next();
        }
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok((received.bytes, descriptor))
}

/// Takes a descriptor for what it must be, a TCP connection.
pub(crate) fn connection(descriptor: OwnedFd) -> io::Result<TcpStream> {
    let is_tcp = matches!(sockopt::socket_domain(&descriptor)?, AddressFamily::INET | AddressFamily::INET6)
        && sockopt::socket_type(&descriptor)? == SocketType::STREAM
        && sockopt::socket_protocol(&descriptor)? == Some(ipproto::TCP)
        && !sockopt::socket_acceptconn(&descriptor)?;
    if !is_tcp {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let stream = std::net::TcpStream::from(descriptor);
    stream.set_nonblocking(true)?;
    TcpStream::from_std(stream)
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
        assert_eq!(process.pid, std::process::id());
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
}
