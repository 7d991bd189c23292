//! A running process with everything it started: signal it, learn of its death, leave nothing of it behind.
//!
//! Each supervised process leads a process group of its own and, unless its definition says that it shall stay in ours, a
//! session of its own; both carry its pid as their number. The kernel does not give a number away while a process, a group or a session still uses it, a dead but unreaped process
//! included. That is what makes signals to the group safe here: they are sent while the leader is held by a pidfd and
//! not yet reaped, and afterwards each member is held by a pidfd of its own.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use parking_lot::Mutex;

use crate::group::Group;
use crate::identity::{self, Stat};

/// Between two looks at a group that is still there.
const FIRST_LOOK: Duration = Duration::from_millis(5);
const LONGEST_LOOK: Duration = Duration::from_millis(100);
/// A killed process that is still there after this time is stuck in the kernel; say so each time it has passed.
const STUCK: Duration = Duration::from_secs(5);

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// It was never running: the program could not be started.
    NotStarted(String),
    /// It needed more memory than it may have, and the kernel ended it.
    OutOfMemory,
    /// It was started by an earlier agent, and only its parent is told how it ended.
    Unknown,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exited with code {code}"),
            Exit::Signal(number) => match signal_name(*number) {
                Some(name) => write!(f, "was ended by {name}"),
                None => write!(f, "was ended by signal {number}"),
            },
            Exit::NotStarted(cause) => f.write_str(cause),
            Exit::OutOfMemory => f.write_str("was ended by the kernel because it needed more memory than its limit"),
            Exit::Unknown => f.write_str("ended (it was started by an earlier agent, so its exit code is not known)"),
        }
    }
}

fn signal_name(number: i32) -> Option<&'static str> {
    Some(match number {
        libc::SIGHUP => "SIGHUP",
        libc::SIGINT => "SIGINT",
        libc::SIGQUIT => "SIGQUIT",
        libc::SIGILL => "SIGILL",
        libc::SIGTRAP => "SIGTRAP",
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGKILL => "SIGKILL",
        libc::SIGUSR1 => "SIGUSR1",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGUSR2 => "SIGUSR2",
        libc::SIGPIPE => "SIGPIPE",
        libc::SIGALRM => "SIGALRM",
        libc::SIGTERM => "SIGTERM",
        libc::SIGXCPU => "SIGXCPU",
        libc::SIGXFSZ => "SIGXFSZ",
        libc::SIGSYS => "SIGSYS",
        _ => return None,
    })
}

/// Whose child it is, which decides who reaps it and who is told its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parent {
    /// Ours.
    Us,
    /// Somebody else's since the agent that started it died.
    Other,
}

/// A running process and the group or session that it leads.
#[derive(Debug)]
pub(crate) struct Session {
    pid: Pid,
    start: u64,
    parent: Parent,
    pidfd: AsyncFd<OwnedFd>,
    /// It was asked to stop: its group may use the grace period even when its leader is gone.
    stopping: AtomicBool,
    /// The grace period is over.
    killed: AtomicBool,
    /// The control group of its own, if it has one.
    group: Mutex<Option<Group>>,
    /// Held while the process may live; see `launch` for what its end does.
    _tether: Option<std::sync::mpsc::Sender<()>>,
}

impl Session {
    /// Takes charge of a process held by `pidfd`. Must be called within the runtime.
    pub(crate) fn new(
        pid: Pid,
        start: u64,
        parent: Parent,
        pidfd: OwnedFd,
        tether: Option<std::sync::mpsc::Sender<()>>,
    ) -> io::Result<Session> {
        let pidfd = watched(pidfd)?;
        Ok(Session {
            pid,
            start,
            parent,
            pidfd,
            stopping: AtomicBool::new(false),
            killed: AtomicBool::new(false),
            group: Mutex::new(None),
            _tether: tether,
        })
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Its control group, if it has one of its own.
    pub(crate) fn group(&self) -> Option<Group> {
        self.group.lock().clone()
    }

    /// It is in this control group from now on.
    pub(crate) fn set_group(&self, group: Group) {
        *self.group.lock() = Some(group);
    }

    /// All processes of its group and session that live, itself included.
    pub(crate) fn members(&self) -> Vec<i32> {
        let pid = self.pid();
        let belongs = |other: &i32| Stat::of(*other).is_ok_and(|stat| stat.is_of(pid) && !stat.is_dead());
        identity::all_processes().filter(belongs).collect()
    }

    /// Sets how many files it may open, and tells why that is not possible.
    pub(crate) fn limit_open_files(&self, limit: rustix::process::Rlimit) -> io::Result<()> {
        // The number means it for as long as it is held and not seen to be dead; see `signal_group`.
        if self.parent == Parent::Us || is_alive(self.pidfd.get_ref()) {
            rustix::process::prlimit(Some(self.pid), rustix::process::Resource::Nofile, limit)?;
        }
        Ok(())
    }

    /// Asks the process to accept no more and to end when what it has accepted is done. Only the process itself: what
    /// it started knows nothing of this signal and would die of it.
    pub(crate) fn drain(&self) {
        let _ = rustix::process::pidfd_send_signal(self.pidfd.get_ref(), Signal::USR2);
    }

    /// Asks the process and its group to stop.
    pub(crate) fn stop(&self, signal: Signal) {
        self.stopping.store(true, Ordering::Relaxed);
        self.signal_group(signal);
        // A stopped (Ctrl-Z) process would not see the request before it is continued.
        self.signal_group(Signal::CONT);
    }

    /// Kills the process and its group.
    pub(crate) fn kill(&self) {
        self.killed.store(true, Ordering::Relaxed);
        self.signal_group(Signal::KILL);
    }

    /// The group's number is safe to use while its leader is alive or is our own and unreaped. For an adopted leader the
    /// look and the signal are two steps; for the number to mean something else in between, it would have to be reaped
    /// and all other pids used up within microseconds.
    fn signal_group(&self, signal: Signal) {
        if (self.parent == Parent::Us || is_alive(self.pidfd.get_ref()))
            && let Err(error) = rustix::process::kill_process_group(self.pid, signal)
            && error != rustix::io::Errno::SRCH
        {
            tracing::warn!("supervisor: cannot signal the process group {}: {error}", self.pid());
        }
    }

    /// Waits until the process and everything in its group and session are gone and tells how it ended.
    ///
    /// What its leader leaves behind has the rest of the grace period when a stop was asked for; after a crash it is
    /// killed at once, because a successor needs its ports. Not cancel safe: call it once, to the end.
    pub(crate) async fn ended(&self, id: &str) -> Exit {
        // The pidfd becomes readable when the process is dead, and stays so. An error means that the runtime goes down:
        // then nothing is known about the process, and it must be left alone.
        while is_alive(self.pidfd.get_ref()) {
            match self.pidfd.readable().await {
                Ok(mut ready) => ready.clear_ready(),
                Err(_) => std::future::pending().await,
            }
        }
        let mut look = FIRST_LOOK;
        let mut stuck = tokio::time::Instant::now() + STUCK;
        loop {
            let kill = self.killed.load(Ordering::Relaxed) || !self.stopping.load(Ordering::Relaxed);
            if kill && self.parent == Parent::Us {
                self.signal_group(Signal::KILL);
            }
            let (pid, start) = (self.pid(), self.start);
            let members = tokio::task::spawn_blocking(move || signal_members(pid, start, kill)).await;
            // A look that failed is repeated: nothing may be left behind unseen.
            if matches!(members, Ok(0)) {
                break;
            }
            if tokio::time::Instant::now() >= stuck {
                stuck += STUCK;
                tracing::warn!("supervisor: {id}: pid {pid} is gone but processes it started are still there");
            }
            tokio::time::sleep(look).await;
            look = (look * 2).min(LONGEST_LOOK);
        }
        let mut out_of_memory = false;
        if let Some(group) = self.group() {
            let owner = id.to_owned();
            let ending = tokio::task::spawn_blocking(move || {
                let out_of_memory = group.ran_out_of_memory();
                // Whatever has left the session is still in the group. A zombie keeps no group from being removed.
                group.end(&owner);
                out_of_memory
            });
            out_of_memory = ending.await.unwrap_or_default();
        }
        // Last, and with nothing to wait for behind it: from here on the number may be another process's, and until the
        // owner hears of the end it may be signalled.
        let exit = match self.parent {
            Parent::Us => reap(self.pidfd.get_ref()),
            Parent::Other => Exit::Unknown,
        };
        match exit {
            Exit::Signal(libc::SIGKILL) | Exit::Unknown if out_of_memory => Exit::OutOfMemory,
            exit => exit,
        }
    }
}

#[expect(unsafe_code, reason = "tokio has no safe way to watch a descriptor of one's own")]
fn watched(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open and the same descriptor until it is dropped, which the `AsyncFd` that owns it does last.
    Ok(unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?)
}

/// Counts, and with `kill` kills, the living processes of a group or session other than its leader.
fn signal_members(session: i32, leader_start: u64, kill: bool) -> usize {
    // The number has a new owner, so nothing of the old session is left.
    if Stat::of(session).is_ok_and(|stat| stat.start != leader_start) {
        return 0;
    }
    let mut count = 0;
    for pid in identity::all_processes().filter(|pid| *pid != session) {
        let belongs = |pid| Stat::of(pid).is_ok_and(|stat| stat.is_of(session) && !stat.is_dead());
        if !belongs(pid) {
            continue;
        }
        count += 1;
        if !kill {
            continue;
        }
        // Held first and looked at again, so that the signal reaches the process that was looked at.
        if let Some(member) = Pid::from_raw(pid)
            && let Ok(pidfd) = rustix::process::pidfd_open(member, PidfdFlags::empty())
            && belongs(pid)
        {
            let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
        }
    }
    count
}

/// Takes note of our dead child, so that it does not stay a zombie.
fn reap(pidfd: &OwnedFd) -> Exit {
    loop {
        return match rustix::process::waitid(WaitId::PidFd(std::os::fd::AsFd::as_fd(pidfd)), WaitIdOptions::EXITED) {
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Exit::Code(code),
                (None, Some(signal)) => Exit::Signal(signal),
                (None, None) => Exit::Unknown,
            },
            Err(rustix::io::Errno::INTR) => continue,
            Ok(None) | Err(_) => Exit::Unknown,
        };
    }
}

/// Whether the process of a pidfd is alive. A zombie is dead.
pub(crate) fn is_alive(pidfd: &OwnedFd) -> bool {
    !lictor_task::peer::has_ended(pidfd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_number_is_not_given_away_before_its_group_is_gone_and_its_end_is_told() {
        let folder = tempfile::tempdir().unwrap();
        // It cannot be removed while there is something in it.
        std::fs::write(folder.path().join("something"), "").unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let number = Pid::from_raw(pid).unwrap();
        let pidfd = rustix::process::pidfd_open(number, PidfdFlags::empty()).unwrap();
        let start = Stat::of(pid).unwrap().start;
        let session = Session::new(number, start, Parent::Us, pidfd, None).unwrap();
        session.set_group(Group::at(folder.path()));
        let ended = session.ended("p");
        let looks = async {
            for _ in 0..40 {
                tokio::time::sleep(Duration::from_millis(25)).await;
                assert!(Stat::of(pid).is_ok_and(|stat| stat.start == start), "its number is free");
            }
            std::fs::remove_file(folder.path().join("something")).unwrap();
        };
        let (exit, ()) = tokio::join!(ended, looks);
        assert_eq!(exit, Exit::Code(0));
        assert!(child.wait().is_err(), "nobody has taken note of its end");
    }
}
