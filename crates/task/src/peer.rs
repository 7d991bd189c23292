//! The process at the other end of a Unix socket, as the kernel names it.
//!
//! A pid alone may have been given to another process since the connection was made: its maker can end and leave the
//! connection to a child. Where the kernel has a handle of the process (`SO_PEERPIDFD`, Linux 6.5) the pid counts only
//! while that process lives. On older kernels there is the pid alone, and who asks decides whether that must do.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::net::UnixStream;

/// The process that connected or, to who connected, the one that listens.
#[derive(Debug)]
pub struct Peer {
    pid: i32,
    /// `None` where the kernel knows no such thing.
    handle: Option<OwnedFd>,
}

impl Peer {
    /// The process at the other end. An error where the kernel does not say, where the process is gone already, and where
    /// it is not of our pid namespace.
    pub fn of(stream: &UnixStream) -> io::Result<Peer> {
        let handle = match handle(stream.as_fd()) {
            Ok(handle) => Some(handle),
            // The option is not known. Any other error is about this process.
            Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => None,
            Err(error) => return Err(error),
        };
        let pid = stream.peer_cred()?.pid().filter(|pid| *pid > 0);
        Ok(Peer { pid: pid.ok_or(io::ErrorKind::NotFound)?, handle })
    }

    /// Its number. It means this process only while [`Peer::is_there`], to be asked after whatever it was used for.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether the process is held by a handle, so that its number cannot be taken for another one's.
    pub fn is_held(&self) -> bool {
        self.handle.is_some()
    }

    /// Whether the pid still names the process: it has not ended, as far as the kernel can tell. Whoever trusts it must know,
    /// so it is not there when the kernel does not say.
    pub fn is_there(&self) -> bool {
        let Some(handle) = &self.handle else { return true };
        matches!(ask(handle), Ok(false))
    }
}

/// Whether the process of a pidfd has ended. A zombie has. One of which the kernel does not say it, as where it has no memory
/// for an answer, has not: it would be taken for dead while it runs.
pub fn has_ended(pidfd: impl AsFd) -> bool {
    matches!(ask(pidfd), Ok(true))
}

fn ask(pidfd: impl AsFd) -> rustix::io::Result<bool> {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    // Readable once it has ended. A signal to us in the middle of the question is no answer.
    rustix::io::retry_on_intr(|| poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&now))).map(|ready| ready > 0)
}

/// `SO_PEERPIDFD` of asm-generic.
const SO_PEERPIDFD: libc::c_int = 77;

#[expect(unsafe_code, reason = "no crate has a safe call for this socket option")]
fn handle(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut handle: libc::c_int = -1;
    let mut length = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or_default();
    // SAFETY: both pointers lead to locals that outlive the call, and `length` is the size of the first one, which the
    // kernel does not exceed.
    let outcome = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_PEERPIDFD, (&raw mut handle).cast(), &raw mut length)
    };
    if outcome != 0 {
        return Err(io::Error::last_os_error());
    }
    if handle < 0 {
        return Err(io::ErrorKind::Unsupported.into());
    }
    // SAFETY: the kernel has just made this descriptor for us, so it is open and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(handle) })
}

#[cfg(test)]
#[allow(clippy::print_stderr, reason = "a skipped test must be seen")]
mod tests {
    use std::process::Stdio;

    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    #[expect(unsafe_code, reason = "only so is a signal sent to a thread")]
    async fn a_signal_in_the_middle_of_the_question_is_not_taken_for_the_end_of_a_process() {
        use std::sync::atomic::{AtomicBool, Ordering};
        extern "C" fn nothing(_: libc::c_int) {}

        let (stream, _other) = UnixStream::pair().unwrap();
        let peer = Peer::of(&stream).unwrap();
        if !peer.is_held() {
            eprintln!("SKIPPED: this kernel has no handles of peers");
            return;
        }
        // SAFETY: the handler does nothing, and nothing else here uses this signal.
        unsafe { libc::signal(libc::SIGURG, nothing as *const () as libc::sighandler_t) };
        // SAFETY: it has no conditions.
        let us = unsafe { libc::pthread_self() };
        let over = AtomicBool::new(false);
        std::thread::scope(|threads| {
            threads.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    // SAFETY: this thread ends before the one that it names does, because that one waits for it.
                    unsafe { libc::pthread_kill(us, libc::SIGURG) };
                }
            });
            let there = (0..100_000).all(|_| peer.is_there());
            over.store(true, Ordering::Relaxed);
            assert!(there);
        });
    }

    #[tokio::test]
    async fn the_process_that_connected_is_named_until_it_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let _ours = UnixStream::connect(&path).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let process = Peer::of(&accepted).unwrap();
        assert_eq!(u32::try_from(process.pid()).unwrap(), std::process::id());
        assert!(process.is_there());

        let Some(program) =
            ["/usr/bin/python3", "/usr/local/bin/python3"].into_iter().find(|path| std::fs::metadata(path).is_ok())
        else {
            eprintln!("SKIPPED: there is no python3 to leave a connection to its child");
            return;
        };
        // One that connects and leaves the connection to its child.
        let script = "import os, socket, sys, time\ns = socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\n\
                      if os.fork(): sys.stdin.read(); os._exit(0)\nos.close(0)\nos.setsid()\nos.read(os.dup(s.fileno()), 1)\n";
        let mut child = tokio::process::Command::new(program)
            .args(["-c", script])
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let process = Peer::of(&accepted).unwrap();
        assert_eq!(Some(process.pid()), child.id().and_then(|pid| i32::try_from(pid).ok()));
        assert!(process.is_there());
        drop(child.stdin.take());
        child.wait().await.unwrap();
        if process.is_held() {
            assert!(!process.is_there(), "its number is free for others");
            assert!(!Peer::of(&accepted).is_ok_and(|again| again.is_there()));
        }
        // Its child ends with the connection.
        drop(accepted);
    }
}
