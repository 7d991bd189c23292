//! Ports that nobody listens on now.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::sync::Mutex;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, socket_with, sockopt};

/// Tests run side by side in one process and in several: each process walks its own part of the ports below the
/// system's ephemeral range, so that neither a test nor an outgoing connection takes a port between finding and using.
const FIRST: u16 = 12_000;
const LAST: u16 = 31_000;

static NEXT: Mutex<Option<u16>> = Mutex::new(None);

/// A socket that is bound to the port, if nobody listens there. It does not listen itself: a child that another test
/// forks holds it for a moment longer than we do, and must not keep the port from whoever asked for it.
fn hold(port: u16) -> rustix::io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, Some(ipproto::TCP))?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
    Ok(socket)
}

/// The first of `count` consecutive free ports.
///
/// # Panics
/// When the machine has none.
pub fn block(count: u16) -> u16 {
    let mut next = NEXT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let span = LAST - FIRST;
    let seed = u16::try_from(std::process::id().wrapping_mul(2_654_435_761) >> 16 & 0xffff).unwrap_or_default();
    let mut candidate = next.unwrap_or(FIRST + seed % span);
    for _ in 0..span {
        if candidate + count > LAST {
            candidate = FIRST;
        }
        let held: Vec<_> = (candidate..candidate + count).map_while(|port| hold(port).ok()).collect();
        if held.len() == usize::from(count) {
            *next = Some(candidate + count);
            return candidate;
        }
        candidate += u16::try_from(held.len()).unwrap_or_default() + 1;
    }
    panic!("no {count} consecutive free ports between {FIRST} and {LAST}");
}

/// One free port.
pub fn one() -> u16 {
    block(1)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_port_can_be_listened_on_while_somebody_still_holds_it_and_is_not_given_out_then() {
        let port = one();
        let held = hold(port).unwrap();
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        assert!(hold(port).is_err());
        drop((held, listener));
    }
}
