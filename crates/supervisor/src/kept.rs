//! Listening sockets that a process leaves with the supervisor, so that its end closes none of them.
//!
//! A connection that was made and not yet accepted lives in its listening socket and dies with the last descriptor of
//! it. The supervisor therefore holds a duplicate of each: when the process crashes, connections wait in the kernel for
//! the next one, which inherits the very same sockets. The messages are those of systemd's descriptor store (`FDSTORE`,
//! `FDSTOREREMOVE`, `FDNAME`), except that sockets sent under a name replace those sent under it before.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;

/// Descriptors kept for one process; a few for each of its listeners.
const MOST: usize = 4096;
/// The longest name of a set of sockets.
const LONGEST_NAME: usize = 256;

/// The variable that tells a new process which descriptors it has inherited: their numbers, with commas.
pub(crate) const VARIABLE: &str = "LICTOR_SOCKETS";

/// The sockets kept for one process and its successors. Clones are handles to the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept(Arc<Mutex<BTreeMap<String, Vec<OwnedFd>>>>);

impl Kept {
    /// Keeps these under a name, instead of what was kept under it before. What is no listening socket is closed.
    pub(crate) fn put(&self, name: &str, sockets: Vec<OwnedFd>) {
        let sockets: Vec<OwnedFd> = sockets.into_iter().filter(is_listening).collect();
        let mut kept = self.0.lock();
        let others: usize = kept.iter().filter(|(other, _)| *other != name).map(|(_, sockets)| sockets.len()).sum();
        if sockets.is_empty() || name.len() > LONGEST_NAME || others + sockets.len() > MOST {
            return;
        }
        kept.insert(name.to_owned(), sockets);
    }

    /// Closes those kept under a name.
    pub(crate) fn remove(&self, name: &str) {
        self.0.lock().remove(name);
    }

    /// Closes all.
    pub(crate) fn clear(&self) {
        self.0.lock().clear();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// Duplicates for a process that is to be started. Those that cannot be had are left out: the process then binds
    /// the address itself.
    pub(crate) fn duplicates(&self) -> Vec<OwnedFd> {
        // Never the numbers of standard input and output, which the child replaces.
        let duplicate = |socket: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(socket, 3).ok();
        self.0.lock().values().flatten().filter_map(duplicate).collect()
    }
}

fn is_listening(socket: &OwnedFd) -> bool {
    rustix::net::sockopt::socket_acceptconn(socket).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

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
        assert!(TcpStream::connect(address).is_err());
    }
}
