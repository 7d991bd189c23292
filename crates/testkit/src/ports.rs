//! Ports that nobody listens on now.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Mutex;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, socket_with, sockopt};

/// Tests run side by side in one process and in several, and on a busy machine seconds pass between finding a port and
/// using it. So each process claims stretches of the ports below the system's ephemeral range, and takes only from its
/// own: neither another test nor an outgoing connection is there first.
const FIRST: u16 = 12_000;
const LAST: u16 = 31_000;
/// How many ports a stretch has.
const STRETCH: u16 = 256;
/// More stretches than these a process does not claim; it begins anew with its first one, whose tests are long over.
const MOST: usize = 6;

static OWN: Mutex<Own> = Mutex::new(Own { stretches: Vec::new(), current: 0, next: 0 });

/// What this process has claimed.
struct Own {
    stretches: Vec<Stretch>,
    current: usize,
    /// The next port of the current stretch.
    next: u16,
}

/// Ports of one process. The claim is a name that only one socket can have; it ends with the process, whatever becomes
/// of that. Where all are claimed, a stretch is shared: better a test that may fail than one that cannot run.
struct Stretch {
    first: u16,
    _claim: Option<UnixDatagram>,
}

fn claim(number: u16) -> Option<UnixDatagram> {
    let name = SocketAddr::from_abstract_name(format!("lictor-test-ports-{number}")).ok()?;
    UnixDatagram::bind_addr(&name).ok()
}

impl Own {
    /// Goes on to the next stretch: a new one, or the first one again.
    fn go_on(&mut self) {
        let all = (LAST - FIRST) / STRETCH;
        if self.stretches.len() < MOST {
            let seed = u16::try_from(std::process::id().wrapping_mul(2_654_435_761) >> 16 & 0xffff).unwrap_or_default();
            let mut numbers = (0..all).map(|step| (seed % all + step) % all);
            let found = numbers.find_map(|number| Some((number, Some(claim(number)?))));
            if found.is_some() || self.stretches.is_empty() {
                let (number, claim) = found.unwrap_or((seed % all, None));
                self.stretches.push(Stretch { first: FIRST + number * STRETCH, _claim: claim });
                self.current = self.stretches.len() - 1;
                self.next = self.stretches[self.current].first;
                return;
            }
        }
        self.current = (self.current + 1) % self.stretches.len();
        self.next = self.stretches[self.current].first;
    }

    fn end(&self) -> u16 {
        self.stretches.get(self.current).map_or(0, |stretch| stretch.first + STRETCH)
    }
}

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
/// When the machine has none, and when more are wanted than a stretch has.
pub fn block(count: u16) -> u16 {
    assert!(count <= STRETCH, "{count} ports at once are more than the {STRETCH} of a stretch");
    let mut own = OWN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for _ in 0..LAST - FIRST {
        if own.next + count > own.end() {
            own.go_on();
        }
        let first = own.next;
        let held: Vec<_> = (first..first + count).map_while(|port| hold(port).ok()).collect();
        if held.len() == usize::from(count) {
            own.next += count;
            return first;
        }
        own.next += u16::try_from(held.len()).unwrap_or_default() + 1;
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

    #[test]
    fn what_one_claims_no_other_can() {
        let number = (LAST - FIRST) / STRETCH;
        let claimed = claim(number).unwrap();
        assert!(claim(number).is_none());
        drop(claimed);
        assert!(claim(number).is_some());
    }

    #[test]
    fn a_process_takes_from_its_own_stretches_only_and_goes_round() {
        let within = |own: &Own, port: u16| {
            own.stretches.iter().any(|stretch| (stretch.first..stretch.first + STRETCH).contains(&port))
        };
        for _ in 0..3 * MOST {
            let first = block(STRETCH / 2);
            let own = OWN.lock().unwrap();
            assert!(within(&own, first) && within(&own, first + STRETCH / 2 - 1));
            assert!(own.stretches.len() <= MOST);
        }
    }
}
