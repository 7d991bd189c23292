//! Several datagrams with one system call, each with the own address that it came to or is to come from.
//!
//! A server of small answers spends most of its time on the way into the kernel and back. Where several datagrams wait they
//! are taken with one call (`recvmmsg`) and answered with one (`sendmmsg`); where one waits, nothing waits for a second.

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;

/// The most datagrams that one call moves.
pub const MOST: usize = 32;

/// Who sent a datagram, and where to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Its bytes in the room that was given.
    pub length: usize,
    /// Who sent it.
    pub from: SocketAddr,
    /// The own address that it was sent to, of the socket's family. None where the socket does not ask (`IP_PKTINFO`,
    /// `IPV6_RECVPKTINFO`).
    pub at: Option<IpAddr>,
}

/// A datagram to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// What it says.
    pub bytes: &'a [u8],
    /// To whom.
    pub to: SocketAddr,
    /// From which own address; where it is not said the system chooses.
    pub from: Option<IpAddr>,
}

/// An address of either family, as the kernel has it. Its zeroes are a value of both.
#[derive(Clone, Copy)]
#[repr(C)]
union Name {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

/// Words for the own address beside a datagram, aligned as the kernel's headers are.
const BESIDE: usize = 6;
type Beside = [u64; BESIDE];

/// Takes what waits at a UDP socket, [`MOST`] at most: the first into the first `each` bytes of `room`, and so on. What
/// was there before in `received` is gone. Waits for nothing.
///
/// When `Ok` and fewer came than `room` has place for, no more waited.
#[expect(
    unsafe_code,
    reason = "no crate has a safe call that can be held across awaits and tells each one's own address"
)]
pub fn receive(socket: impl AsFd, room: &mut [u8], each: usize, received: &mut Vec<Received>) -> io::Result<()> {
    received.clear();
    // SAFETY: all of these are plain numbers and pointers of C, for which zeroes are a value: headers that point nowhere.
    let (mut headers, mut parts, mut names): ([libc::mmsghdr; MOST], [libc::iovec; MOST], [Name; MOST]) =
        unsafe { (mem::zeroed(), mem::zeroed(), mem::zeroed()) };
    let mut beside: [Beside; MOST] = [[0; BESIDE]; MOST];
    let mut count: libc::c_uint = 0;
    let places = headers.iter_mut().zip(&mut parts).zip(&mut names).zip(&mut beside);
    for ((((header, part), name), beside), room) in places.zip(room.chunks_exact_mut(each.max(1))) {
        *part = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
        let header = &mut header.msg_hdr;
        header.msg_name = ptr::from_mut(name).cast();
        header.msg_namelen = size_of::<Name>() as _;
        header.msg_iov = part;
        header.msg_iovlen = 1;
        header.msg_control = beside.as_mut_ptr().cast();
        header.msg_controllen = size_of::<Beside>() as _;
        count += 1;
    }
    let fd = socket.as_fd().as_raw_fd();
    let came = loop {
        // SAFETY: the first `count` headers name buffers and their lengths; no buffer is named twice, all outlive the call.
        let came = unsafe { libc::recvmmsg(fd, headers.as_mut_ptr(), count, libc::MSG_DONTWAIT as _, ptr::null_mut()) };
        match usize::try_from(came) {
            Ok(came) => break came,
            Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Err(io::Error::last_os_error()),
        }
    };
    for (header, name) in headers.iter().zip(&names).take(came) {
        let length = usize::try_from(header.msg_len).unwrap_or(usize::MAX).min(each);
        // SAFETY: the kernel has filled this header and what it points to, which is alive and nothing has changed since.
        let at = unsafe { target(&header.msg_hdr) };
        // A datagram without a sender cannot be answered, but its place counts.
        let from = address(name).unwrap_or(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0));
        received.push(Received { length, from, at });
    }
    Ok(())
}

/// Sends datagrams in their order, [`MOST`] at most, and says how many were: fewer when the socket has no room for more, or
/// when the one that follows cannot be sent, which a call that begins with it tells. Waits for nothing.
pub fn send(socket: impl AsFd, datagrams: &[Outgoing<'_>]) -> io::Result<usize> {
    // Mostly it is one, which shall not pay for the room of many.
    if datagrams.len() == 1 { send_some::<1>(socket, datagrams) } else { send_some::<MOST>(socket, datagrams) }
}

#[expect(unsafe_code, reason = "no crate has a safe call that gives each its own source")]
fn send_some<const MANY: usize>(socket: impl AsFd, datagrams: &[Outgoing<'_>]) -> io::Result<usize> {
    // SAFETY: as above.
    let (mut headers, mut parts, mut names): ([libc::mmsghdr; MANY], [libc::iovec; MANY], [Name; MANY]) =
        unsafe { (mem::zeroed(), mem::zeroed(), mem::zeroed()) };
    let mut beside: [Beside; MANY] = [[0; BESIDE]; MANY];
    let mut count: libc::c_uint = 0;
    let places = headers.iter_mut().zip(&mut parts).zip(&mut names).zip(&mut beside);
    for ((((header, part), name), beside), datagram) in places.zip(datagrams) {
        *part = libc::iovec { iov_base: datagram.bytes.as_ptr().cast_mut().cast(), iov_len: datagram.bytes.len() };
        let header = &mut header.msg_hdr;
        let length = write_address(datagram.to, name);
        header.msg_name = ptr::from_mut(name).cast();
        header.msg_namelen = length;
        header.msg_iov = part;
        header.msg_iovlen = 1;
        if let Some(from) = datagram.from {
            header.msg_control = beside.as_mut_ptr().cast();
            header.msg_controllen = size_of::<Beside>() as _;
            // SAFETY: the control buffer is the one above: aligned, zeroed, alive, and larger than either of the messages.
            let used = unsafe { write_source(header, from) };
            header.msg_controllen = used as _;
        }
        count += 1;
    }
    let fd = socket.as_fd().as_raw_fd();
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    loop {
        // SAFETY: the first `count` headers name buffers and their lengths, which outlive the call; the kernel reads them only.
        let sent = unsafe { libc::sendmmsg(fd, headers.as_mut_ptr(), count, flags as _) };
        match usize::try_from(sent) {
            Ok(sent) => return Ok(sent),
            Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Err(io::Error::last_os_error()),
        }
    }
}

/// The own address in what came beside a datagram.
///
/// # Safety
/// The header must be one that the kernel has filled, and its control buffer alive.
#[expect(unsafe_code, reason = "control messages are a list of C")]
unsafe fn target(header: &libc::msghdr) -> Option<IpAddr> {
    // SAFETY: the kernel has said how much of the control buffer it has written.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !next.is_null() {
        // SAFETY: such a pointer leads to a header within the buffer; its data is read only where it is as long as the kind says.
        unsafe {
            let (level, kind, length) = ((*next).cmsg_level, (*next).cmsg_type, (*next).cmsg_len as usize);
            let data = libc::CMSG_DATA(next);
            let has = |size: usize| length >= libc::CMSG_LEN(size as _) as usize;
            if (level, kind) == (libc::IPPROTO_IP, libc::IP_PKTINFO) && has(size_of::<libc::in_pktinfo>()) {
                // The address to answer from: another than the one in the datagram where that was a broadcast.
                let info = ptr::read_unaligned(data.cast::<libc::in_pktinfo>());
                return Some(IpAddr::V4(u32::from_be(info.ipi_spec_dst.s_addr).into()));
            }
            if (level, kind) == (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) && has(size_of::<libc::in6_pktinfo>()) {
                let info = ptr::read_unaligned(data.cast::<libc::in6_pktinfo>());
                return Some(IpAddr::V6(info.ipi6_addr.s6_addr.into()));
            }
            next = libc::CMSG_NXTHDR(header, next);
        }
    }
    None
}

/// Writes where a datagram is to come from, and says how many bytes that takes. The interface is left to the system; with the
/// receiving one, answers would not find their way over another interface where routes are not symmetric.
///
/// # Safety
/// The control buffer of the header must be alive, aligned for control messages and large enough for one with an address.
#[expect(unsafe_code, reason = "control messages are a list of C")]
unsafe fn write_source(header: &libc::msghdr, from: IpAddr) -> usize {
    /// # Safety
    /// As above, with `T` plain data.
    unsafe fn put<T>(header: &libc::msghdr, level: libc::c_int, kind: libc::c_int, value: T) -> usize {
        let size = size_of::<T>() as libc::c_uint;
        // SAFETY: the caller vouches for the buffer, so the first header and as much data as its space are in it.
        unsafe {
            let first = libc::CMSG_FIRSTHDR(header);
            (*first).cmsg_level = level;
            (*first).cmsg_type = kind;
            (*first).cmsg_len = libc::CMSG_LEN(size) as _;
            ptr::write_unaligned(libc::CMSG_DATA(first).cast::<T>(), value);
            libc::CMSG_SPACE(size) as usize
        }
    }
    match from {
        IpAddr::V4(from) => {
            let nowhere = libc::in_addr { s_addr: 0 };
            let from = libc::in_addr { s_addr: u32::from(from).to_be() };
            let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: from, ipi_addr: nowhere };
            // SAFETY: by what is asked of the caller.
            unsafe { put(header, libc::IPPROTO_IP, libc::IP_PKTINFO, info) }
        }
        IpAddr::V6(from) => {
            let from = libc::in6_addr { s6_addr: from.octets() };
            let info = libc::in6_pktinfo { ipi6_addr: from, ipi6_ifindex: 0 };
            // SAFETY: by what is asked of the caller.
            unsafe { put(header, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info) }
        }
    }
}

#[expect(unsafe_code, reason = "a union of C")]
fn address(name: &Name) -> Option<SocketAddr> {
    // SAFETY: both are plain numbers from zeroes on, whichever the kernel wrote, and the family is at the same place in both.
    let (v4, v6) = unsafe { (name.v4, name.v6) };
    match libc::c_int::from(v4.sin_family) {
        libc::AF_INET => {
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Some(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), v6.sin6_flowinfo, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}

fn write_address(address: SocketAddr, name: &mut Name) -> libc::socklen_t {
    match address {
        SocketAddr::V4(address) => {
            name.v4 = libc::sockaddr_in {
                sin_family: libc::AF_INET as _,
                sin_port: address.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from(*address.ip()).to_be() },
                sin_zero: [0; 8],
            };
            size_of::<libc::sockaddr_in>() as _
        }
        SocketAddr::V6(address) => {
            name.v6 = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as _,
                sin6_port: address.port().to_be(),
                sin6_flowinfo: address.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
                sin6_scope_id: address.scope_id(),
            };
            size_of::<libc::sockaddr_in6>() as _
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::{Duration, Instant};

    use rustix::net::sockopt;

    use super::*;

    const EACH: usize = 2048;

    fn socket(at: &str) -> UdpSocket {
        let socket = UdpSocket::bind(at).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket
    }

    /// Receives until this many came.
    fn receive_all(socket: &UdpSocket, wanted: usize) -> Vec<(Vec<u8>, Received)> {
        let (mut room, mut some, mut all) = (vec![0; EACH * MOST], Vec::new(), Vec::new());
        let end = Instant::now() + Duration::from_secs(10);
        while all.len() < wanted {
            assert!(Instant::now() < end, "only {} came", all.len());
            match receive(socket, &mut room, EACH, &mut some) {
                Ok(()) => all.extend(
                    some.iter().zip(room.chunks(EACH)).map(|(told, bytes)| (bytes[..told.length].to_vec(), *told)),
                ),
                Err(problem) => assert_eq!(problem.kind(), io::ErrorKind::WouldBlock),
            }
        }
        all
    }

    /// Asks at addresses of this machine and is answered from those, all in one call.
    fn each_is_answered_from_where_it_was_asked(server: &UdpSocket, client_at: &str, asked: &[&str]) {
        let port = server.local_addr().unwrap().port();
        let clients: Vec<UdpSocket> = asked
            .iter()
            .map(|asked| {
                let client = socket(client_at);
                // Takes what comes from there alone.
                client.connect((*asked, port)).unwrap();
                client.send(asked.as_bytes()).unwrap();
                client
            })
            .collect();
        let came = receive_all(server, asked.len());
        for (((bytes, told), asked), client) in came.iter().zip(asked).zip(&clients) {
            assert_eq!((&bytes[..], told.from), (asked.as_bytes(), client.local_addr().unwrap()));
            assert_eq!(told.at, Some(asked.parse().unwrap()));
        }
        let answers: Vec<Outgoing<'_>> =
            came.iter().map(|(bytes, told)| Outgoing { bytes, to: told.from, from: told.at }).collect();
        assert_eq!(send(server, &answers).unwrap(), asked.len());
        for (client, asked) in clients.iter().zip(asked) {
            let mut room = [0; 64];
            let length = client.recv(&mut room).unwrap_or_else(|problem| panic!("none from {asked}: {problem}"));
            assert_eq!(&room[..length], asked.as_bytes());
        }
    }

    #[test]
    fn many_come_and_go_with_one_call_each_by_its_own_address() {
        let server = socket("0.0.0.0:0");
        set_packet_info(&server, libc::IPPROTO_IP, libc::IP_PKTINFO);
        let asked = ["127.0.0.1", "127.0.0.2", "127.3.2.1", "127.0.0.2"];
        each_is_answered_from_where_it_was_asked(&server, "127.0.0.1:0", &asked);
    }

    #[test]
    fn it_is_the_same_with_the_other_family() {
        let Ok(server) = UdpSocket::bind("[::]:0") else {
            eprintln!("SKIPPED: this machine has no IPv6");
            return;
        };
        set_packet_info(&server, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO);
        each_is_answered_from_where_it_was_asked(&server, "[::1]:0", &["::1", "::1"]);
    }

    #[expect(unsafe_code, reason = "the library has no call for these")]
    fn set_packet_info(socket: &UdpSocket, level: libc::c_int, option: libc::c_int) {
        let on: libc::c_int = 1;
        // SAFETY: the pointer leads to a local that outlives the call, with its size.
        let outcome = unsafe {
            libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const on).cast(), size_of::<libc::c_int>() as _)
        };
        assert_eq!(outcome, 0);
    }

    #[test]
    fn no_more_than_there_is_place_for_is_taken_and_the_rest_stays() {
        let (server, client) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"));
        client.connect(server.local_addr().unwrap()).unwrap();
        let mut received = Vec::new();
        let nothing = receive(&server, &mut [0; 64], 16, &mut received).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        let sent: Vec<Vec<u8>> = (0..2 * MOST + 3).map(|n| format!("datagram {n}").into_bytes()).collect();
        for bytes in &sent {
            client.send(bytes).unwrap();
        }
        // On this machine's own network they are there when they are sent.
        let mut room = vec![0; 4 * MOST * EACH];
        let mut came = Vec::new();
        for expected in [MOST, MOST, 3] {
            receive(&server, &mut room, EACH, &mut received).unwrap();
            assert_eq!(received.len(), expected);
            came.extend(received.iter().zip(room.chunks(EACH)).map(|(told, bytes)| bytes[..told.length].to_vec()));
        }
        assert_eq!(came, sent);
        assert!(received.iter().all(|told| told.at.is_none() && told.from == client.local_addr().unwrap()));
        // A room for two, and one that is too short for what comes.
        for bytes in &sent[..3] {
            client.send(bytes).unwrap();
        }
        receive(&server, &mut [0; 11], 5, &mut received).unwrap();
        assert_eq!(received.iter().map(|told| told.length).collect::<Vec<_>>(), [5, 5]);
    }

    #[test]
    fn one_that_cannot_be_sent_is_told_when_its_turn_comes() {
        let (server, client) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"));
        let to = client.local_addr().unwrap();
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let all = [to, to, nowhere, to].map(|to| Outgoing { bytes: b"answer", to, from: None });
        assert_eq!(send(&server, &all).unwrap(), 2);
        assert_eq!(send(&server, &all[2..]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(send(&server, &all[3..]).unwrap(), 1);
        assert_eq!(receive_all(&client, 3).len(), 3);
        assert!(sockopt::socket_error(&server).unwrap().is_ok());
    }
}
