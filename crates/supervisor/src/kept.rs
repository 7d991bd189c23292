//! Listening sockets that a process leaves with the supervisor, so that its end closes none of them.
//!
//! A connection that was made and not yet accepted lives in its listening socket and dies with the last descriptor of
//! it. The supervisor therefore holds a duplicate of each: when the process crashes, connections wait in the kernel for
//! the next one, which inherits the very same sockets. The messages are those of systemd's descriptor store (`FDSTORE`,
//! `FDSTOREREMOVE`, `FDNAME`), except that sockets sent under a name replace those sent under it before.
//!
//! Only a process that can hand over has any use of this, and only its sockets are kept. All are closed where nobody waits
//! for it: what listens now may be something else by then, whose closing sleeps.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use lictor_task::descriptors;
use parking_lot::Mutex;

/// Descriptors kept for one process; one for each of its workers and listeners.
const MOST: usize = 1024;
/// The longest name of a set of sockets.
const LONGEST_NAME: usize = 256;

/// The variable that tells a new process which descriptors it has inherited: their numbers, with commas.
pub(crate) const VARIABLE: &str = "LICTOR_SOCKETS";

/// The sockets kept for one process and its successors. Clones are handles to the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept(Arc<Sockets>);

#[derive(Debug, Default)]
struct Sockets(Mutex<BTreeMap<String, Vec<OwnedFd>>>);

impl Drop for Sockets {
    fn drop(&mut self) {
        self.0.get_mut().values_mut().for_each(|sockets| descriptors::close(std::mem::take(sockets)));
    }
}

impl Kept {
    /// Keeps these under a name, instead of what was kept under it before. What is no listening socket is closed, and all
    /// are when there are too many; then it is `false`.
    pub(crate) fn put(&self, name: &str, sockets: Vec<OwnedFd>) -> bool {
        let (sockets, useless): (Vec<_>, Vec<_>) = sockets.into_iter().partition(is_listening);
        descriptors::close(useless);
        let mut kept = self.0.0.lock();
        let others: usize = kept.iter().filter(|(other, _)| *other != name).map(|(_, sockets)| sockets.len()).sum();
        let fits = name.len() <= LONGEST_NAME && others + sockets.len() <= MOST;
        let closed = match fits && !sockets.is_empty() {
            true => kept.insert(name.to_owned(), sockets).unwrap_or_default(),
            false => sockets,
        };
        drop(kept);
        descriptors::close(closed);
        fits
    }

    /// Closes those kept under a name.
    pub(crate) fn remove(&self, name: &str) {
        let removed = self.0.0.lock().remove(name);
        descriptors::close(removed.unwrap_or_default());
    }

    /// Closes all.
    pub(crate) fn clear(&self) {
        let all = std::mem::take(&mut *self.0.0.lock());
        all.into_values().for_each(descriptors::close);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.0.lock().is_empty()
    }

    /// Duplicates for a process that is to be started. Those that cannot be had are left out: the process then binds
    /// the address itself.
    pub(crate) fn duplicates(&self) -> Vec<OwnedFd> {
        // Never the numbers of standard input and output, which the child replaces.
        let duplicate = |socket: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(socket, 3).ok();
        self.0.0.lock().values().flatten().filter_map(duplicate).collect()
    }
}

fn is_listening(socket: &OwnedFd) -> bool {
    rustix::net::sockopt::socket_acceptconn(socket).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_kept_socket_takes_connections_after_its_owner_is_gone_and_is_closed_when_it_is_let_go() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let kept = Kept::default();
        kept.put("one", vec![listener.try_clone().unwrap().into()]);
        kept.put("file", vec![std::fs::File::open("/dev/null").unwrap().into()]);
        drop(listener);
        assert_eq!(kept.duplicates().len(), 1, "only listening sockets are kept");
        let waiting = TcpStream::connect(address).unwrap();
        let heir = TcpListener::from(kept.duplicates().remove(0));
        assert_eq!(heir.accept().unwrap().1, waiting.local_addr().unwrap());
        drop(heir);
        kept.remove("one");
        assert!(kept.is_empty());
        let deadline = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(address).is_ok() {
            assert!(Instant::now() < deadline, "it is not closed");
        }
    }

    #[test]
    fn there_is_an_end_to_what_is_kept_for_one_process() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let sockets = |count: usize| (0..count).map(|_| listener.try_clone().unwrap().into()).collect::<Vec<OwnedFd>>();
        let kept = Kept::default();
        let name = |n: usize| format!("{n}");
        let kept_of = |n: usize| kept.put(&name(n), sockets(64));
        assert_eq!((0..MOST / 64 + 2).filter(|n| kept_of(*n)).count(), MOST / 64);
        assert_eq!(kept.0.0.lock().values().flatten().count(), MOST);
        assert!(kept.put(&name(0), sockets(1)), "one set may be replaced by a smaller one");
    }
}
