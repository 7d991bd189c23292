//! A UDP socket that answers from the address it was asked at.
//!
//! On a socket that listens on every address the system would choose the source of an answer by the way to the client,
//! and a client that asked at another address of this machine (a second one of the interface, or one for local
//! resolvers such as 169.254.1.1) would drop it. So the system is asked where each datagram was sent to.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use nix::libc::{in_pktinfo, in6_pktinfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt,
};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// A UDP socket.
#[derive(Debug)]
pub(crate) struct Datagrams {
    socket: UdpSocket,
    listens: Listens,
}

/// What a socket listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listens {
    OneAddress,
    EveryAddress,
}

/// Who sent a datagram, and where to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    /// The client.
    pub(crate) from: SocketAddr,
    at: At,
}

/// The own address a datagram was sent to, where it is not clear.
#[derive(Clone, Copy, Debug)]
enum At {
    Known,
    V4(in_pktinfo),
    V6(in6_pktinfo),
}

impl Datagrams {
    /// Takes a bound socket.
    pub(crate) fn new(socket: UdpSocket) -> io::Result<Datagrams> {
        let address = socket.local_addr()?;
        let listens = if address.ip().is_unspecified() { Listens::EveryAddress } else { Listens::OneAddress };
        if listens == Listens::EveryAddress {
            match address {
                SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?,
                SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?,
            }
        }
        Ok(Datagrams { socket, listens })
    }

    /// Waits until there may be something to receive. Cancel safe.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// Receives a datagram if there is one.
    pub(crate) fn try_receive(&self, packet: &mut [u8]) -> io::Result<(usize, Peer)> {
        match self.listens {
            Listens::OneAddress => {
                let (length, from) = self.socket.try_recv_from(packet)?;
                Ok((length, Peer { from, at: At::Known }))
            }
            Listens::EveryAddress => self.socket.try_io(Interest::READABLE, || self.receive_with_target(packet)),
        }
    }

    /// Sends a datagram to a peer, from where the peer expects it. Cancel safe: it is sent or it is not.
    pub(crate) async fn send(&self, packet: &[u8], to: &Peer) -> io::Result<usize> {
        loop {
            let sent = match to.at {
                At::Known => self.socket.try_send_to(packet, to.from),
                at => self.socket.try_io(Interest::WRITABLE, || self.send_from(packet, to.from, at)),
            };
            match sent {
                Err(problem) if problem.kind() == io::ErrorKind::WouldBlock => self.socket.writable().await?,
                done => return done,
            }
        }
    }

    fn receive_with_target(&self, packet: &mut [u8]) -> io::Result<(usize, Peer)> {
        let mut control = nix::cmsg_space!(in6_pktinfo);
        let mut parts = [IoSliceMut::new(packet)];
        let fd = self.socket.as_raw_fd();
        let message = recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut control), MsgFlags::empty())?;
        let from = message.address.as_ref().and_then(address).ok_or(io::ErrorKind::InvalidData)?;
        let at = message.cmsgs()?.find_map(|control| match control {
            // The interface is left to the system; with the receiving one, answers would not find their way over
            // another interface where routes are not symmetric.
            ControlMessageOwned::Ipv4PacketInfo(at) => Some(At::V4(in_pktinfo { ipi_ifindex: 0, ..at })),
            ControlMessageOwned::Ipv6PacketInfo(at) => Some(At::V6(in6_pktinfo { ipi6_ifindex: 0, ..at })),
            _ => None,
        });
        Ok((message.bytes, Peer { from, at: at.unwrap_or(At::Known) }))
    }

    fn send_from(&self, packet: &[u8], to: SocketAddr, at: At) -> io::Result<usize> {
        let control = match &at {
            At::Known => None,
            At::V4(at) => Some(ControlMessage::Ipv4PacketInfo(at)),
            At::V6(at) => Some(ControlMessage::Ipv6PacketInfo(at)),
        };
        let (parts, to) = ([IoSlice::new(packet)], SockaddrStorage::from(to));
        Ok(sendmsg(self.socket.as_raw_fd(), &parts, control.as_slice(), MsgFlags::empty(), Some(&to))?)
    }
}

fn address(raw: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = raw.as_sockaddr_in().map(|address| SocketAddr::V4((*address).into()));
    v4.or_else(|| raw.as_sockaddr_in6().map(|address| SocketAddr::V6((*address).into())))
}
