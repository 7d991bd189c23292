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

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// It will be heard, or nobody has asked for any.
    Heard,
    /// Too many messages wait already to be heard (`net.unix.max_dgram_qlen`, often 10): worth trying again soon.
    Busy,
    /// Nobody listens now.
    Nobody,
}

impl Told {
    fn of<T>(outcome: Result<T, std::io::Error>) -> Told {
        use std::io::ErrorKind;
        match outcome.map_err(|error| error.kind()) {
            Ok(_) => Told::Heard,
            Err(ErrorKind::ConnectionRefused | ErrorKind::NotFound | ErrorKind::PermissionDenied) => Told::Nobody,
            Err(_) => Told::Busy,
        }
    }
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
    pub(crate) fn tell(&self, assignments: &str) -> Told {
        match &self.socket {
            Some((socket, address)) => Told::of(socket.send_to_addr(assignments.as_bytes(), address)),
            None => Told::Heard,
        }
    }

    /// The same with descriptors.
    pub(crate) fn tell_with(&self, assignments: &str, descriptors: &[OwnedFd]) -> Told {
        let (Some((socket, _)), Some(path)) = (&self.socket, &self.path) else { return Told::Heard };
        let Ok(address) = rustix::net::SocketAddrUnix::new(path) else { return Told::Heard };
        let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().take(MOST_DESCRIPTORS).map(AsFd::as_fd).collect();
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fits = borrowed.is_empty() || control.push(SendAncillaryMessage::ScmRights(&borrowed));
        let text = [IoSlice::new(assignments.as_bytes())];
        if !fits {
            return Told::Busy;
        }
        let sent = rustix::net::sendmsg_addr(socket, &address, &text, &mut control, SendFlags::NOSIGNAL);
        Told::of(sent.map_err(std::io::Error::from))
    }

    /// Tells one life of the supervisor from the next: it makes its socket anew. `None` when there is none.
    pub(crate) fn listener(&self) -> Option<(u64, i64, i64)> {
        let found = std::fs::metadata(self.path.as_ref()?).ok()?;
        Some((found.ino(), found.ctime(), found.ctime_nsec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_nobody_has_room_for_is_known_to_be_lost() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let notifier = |path: &std::path::Path| {
            let socket = UnixDatagram::unbound().unwrap();
            socket.set_nonblocking(true).unwrap();
            Notifier { socket: Some((socket, SocketAddr::from_pathname(path).unwrap())), path: Some(path.to_owned()) }
        };
        let ours = notifier(&path);
        assert_eq!((ours.tell("A=1"), ours.tell_with("A=1", &[])), (Told::Nobody, Told::Nobody), "no socket");
        let ear = UnixDatagram::bind(&path).unwrap();
        let sent = (0..100_000).take_while(|_| ours.tell("A=1") == Told::Heard).count();
        assert!((1..100_000).contains(&sent), "{sent}");
        assert_eq!((ours.tell("A=1"), ours.tell_with("A=1", &[])), (Told::Busy, Told::Busy), "it does not read");
        ear.recv(&mut [0; 16]).unwrap();
        assert_eq!(ours.tell("A=1"), Told::Heard);
        drop(ear);
        assert_eq!(ours.tell("A=1"), Told::Nobody, "it has ended");
        assert_eq!(Notifier { socket: None, path: None }.tell("A=1"), Told::Heard);
    }
}
