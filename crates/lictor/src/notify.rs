//! Telling whoever supervises this process that it is ready: the datagram protocol of systemd's `sd_notify`.
//!
//! An agent tells systemd, a managed proxy tells its agent; both by the path in `NOTIFY_SOCKET`.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

/// Where to tell it; made once, at start.
pub(crate) struct Notifier {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// The path, where it is one.
    path: Option<PathBuf>,
}

/// Descriptors in one message; the kernel allows no more.
const MOST_DESCRIPTORS: usize = 253;

impl Notifier {
    /// From the environment; tells nobody when nobody asked.
    pub(crate) fn from_environment() -> Notifier {
        let address = std::env::var("NOTIFY_SOCKET").ok().filter(|path| !path.is_empty()).and_then(|path| {
            match path.strip_prefix('@') {
                Some(name) => SocketAddr::from_abstract_name(name).ok(),
                None => SocketAddr::from_pathname(&path).ok(),
            }
        });
        let path = address.as_ref().and_then(|address| address.as_pathname().map(PathBuf::from));
        let socket = address.and_then(|address| {
            let socket = UnixDatagram::unbound().ok()?;
            // A supervisor that hangs must not make us hang.
            socket.set_nonblocking(true).ok()?;
            Some((socket, address))
        });
        Notifier { socket, path }
    }

    /// Sends assignments such as `READY=1`. A supervisor that has gone away is no reason to stop working.
    pub(crate) fn tell(&self, assignments: &str) {
        if let Some((socket, address)) = &self.socket {
            let _ = socket.send_to_addr(assignments.as_bytes(), address);
        }
    }

    /// The same with descriptors; tells whether it was sent.
    pub(crate) fn tell_with(&self, assignments: &str, descriptors: &[OwnedFd]) -> bool {
        let (Some((socket, _)), Some(path)) = (&self.socket, &self.path) else { return true };
        let Ok(address) = rustix::net::SocketAddrUnix::new(path) else { return true };
        let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().take(MOST_DESCRIPTORS).map(AsFd::as_fd).collect();
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fits = borrowed.is_empty() || control.push(SendAncillaryMessage::ScmRights(&borrowed));
        let text = [IoSlice::new(assignments.as_bytes())];
        fits && rustix::net::sendmsg_addr(socket, &address, &text, &mut control, SendFlags::NOSIGNAL).is_ok()
    }

    /// Tells one life of the supervisor from the next: it makes its socket anew. `None` when there is none.
    pub(crate) fn listener(&self) -> Option<(u64, i64, i64)> {
        let found = std::fs::metadata(self.path.as_ref()?).ok()?;
        Some((found.ino(), found.ctime(), found.ctime_nsec()))
    }
}
