//! Find the processes an earlier supervisor left running, and prove that they are ours before touching them.
//!
//! A record names a process by boot, pid and start time; the process must also lead its own process group and run as the user
//! it ran as, and what it runs must not contradict the record. The pidfd is taken first and asked last, so everything
//! read in between was about the process the pidfd holds. A zombie is dead.
//!
//! Records can be lost (a careless `rm`, a damaged disk). Each process therefore carries a mark in its environment that
//! names the supervisor's directory and the id, and processes with the mark but without a record are found by it. As our own
//! user nobody else can have made them, and they are adopted. The mark of another user's process proves nothing, so such a
//! one is trusted with nothing; but if it is ours after all it must not go on beside the next one, so it is ended.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::group::descends_from;
use crate::identity::{self, Identity, Stat};
use crate::kept;
use crate::record::Record;
use crate::session::is_alive;

/// The environment entry that marks a supervised process.
pub(crate) const MARK: &str = "LICTOR_SUPERVISED";

/// How long a process that is ended here may take for it.
const GRACE: Duration = Duration::from_secs(4);

/// The mark of the process `id` of the supervisor known as `house`.
pub(crate) fn mark(house: &str, id: &str) -> String {
    format!("{house}/{id}")
}

/// What became of a recorded process.
#[derive(Debug)]
pub(crate) enum Found {
    /// It runs, is ours, and is held.
    Ours(OwnedFd),
    /// It is gone.
    Gone,
    /// Its pid belongs to a process that is not ours, for this reason.
    Foreign(&'static str),
    /// The kernel does not tell now, as when no descriptor is left.
    Unknown(io::Error),
}

impl Found {
    /// What it means that the kernel refuses to show a process: only some of its words say that there is none.
    fn hidden(error: io::Error) -> Found {
        match error.raw_os_error() {
            // The last one: the number is a thread's by now.
            Some(libc::ESRCH | libc::ENOENT | libc::EINVAL) => Found::Gone,
            _ => Found::Unknown(error),
        }
    }
}

/// Looks for the process of a record. `mark` is what its environment should hold, `user` who it should run as.
pub(crate) fn find(recorded: &Identity, boot: &str, mark: &str, user: u32) -> Found {
    if recorded.boot != boot {
        return Found::Gone;
    }
    let Some(pid) = Pid::from_raw(recorded.pid).filter(|pid| !pid.is_init()) else {
        return Found::Gone;
    };
    let pidfd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(error) => return Found::hidden(error.into()),
    };
    let stat = match Stat::of(recorded.pid) {
        Ok(stat) => stat,
        Err(error) => return Found::hidden(error),
    };
    let verdict = if stat.start != recorded.start {
        Some("it started at another time")
    } else if stat.group != recorded.pid {
        Some("it does not lead a process group")
    } else if identity::user(recorded.pid).is_ok_and(|owner| owner != user) {
        Some("it runs as another user")
    } else if runs_something_else(recorded, mark) {
        Some("it runs another program")
    } else {
        None
    };
    if stat.is_dead() || !is_alive(&pidfd) {
        return Found::Gone;
    }
    match verdict {
        Some(reason) => Found::Foreign(reason),
        None => Found::Ours(pidfd),
    }
}

/// A wrapper may `exec` what it wraps, so another executable counts only when the mark, too, is missing; and a process
/// that hides both is not accused of anything.
fn runs_something_else(recorded: &Identity, mark: &str) -> bool {
    let executable_differs = match (&recorded.executable, identity::executable(recorded.pid)) {
        (Some(then), Some(now)) => *then != now,
        _ => false,
    };
    executable_differs
        && identity::environment_is_known(recorded.pid)
        && identity::started_with(recorded.pid, MARK).as_deref() != Some(mark)
}

/// A supervised process that no record tells of.
#[derive(Debug)]
pub(crate) struct Unrecorded {
    pub(crate) id: String,
    pub(crate) identity: Identity,
    pub(crate) pidfd: OwnedFd,
}

/// Finds processes that carry the mark of `house`, run as one of these users and are not among the `recorded` ones, the
/// oldest first.
///
/// Children of a supervised process inherit its mark; only leaders of a process group count. Of several with the same id the
/// oldest counts, because the others were started by it, unless they take part in handovers: then each is one of its own,
/// and there is nobody else who could know of it.
pub(crate) fn unrecorded(
    house: &str,
    boot: &str,
    is_theirs: impl Fn(u32) -> bool,
    recorded: &[&Record],
) -> Vec<Unrecorded> {
    struct Known {
        id: String,
        pid: i32,
        hands_over: bool,
    }
    let prefix = mark(house, "");
    let known =
        |record: &&Record| Known { id: record.id.clone(), pid: record.identity.pid, hands_over: record.hands_over };
    let mut known: Vec<Known> = recorded.iter().map(known).collect();
    let mut candidates: Vec<Unrecorded> = identity::all_processes()
        .filter_map(|raw| {
            let pid = Pid::from_raw(raw).filter(|pid| !pid.is_init())?;
            Stat::of(raw).ok().filter(|stat| stat.group == raw && !stat.is_dead())?;
            let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?;
            let id = identity::started_with(raw, MARK)?.strip_prefix(&prefix)?.to_owned();
            let stat = Stat::of(raw).ok()?;
            if !identity::user(raw).is_ok_and(&is_theirs) || !is_alive(&pidfd) {
                return None;
            }
            let executable = identity::executable(raw);
            let identity = Identity { boot: boot.to_owned(), pid: raw, start: stat.start, executable };
            Some(Unrecorded { id, identity, pidfd })
        })
        .collect();
    candidates.sort_by_key(|found| found.identity.start);
    candidates.retain(|found| {
        let pid = found.identity.pid;
        if known.iter().any(|other| other.pid == pid) {
            return false;
        }
        let inherited = identity::started_with(pid, kept::VARIABLE).is_some();
        let relatives: Vec<&Known> = known.iter().filter(|other| other.id == found.id).collect();
        let hands_over = inherited || relatives.iter().any(|other| other.hands_over);
        let is_known =
            !relatives.is_empty() && (!hands_over || relatives.iter().any(|other| descends_from(pid, other.pid)));
        if !is_known {
            known.push(Known { id: found.id.clone(), pid, hands_over: inherited });
        }
        !is_known
    });
    candidates
}

/// Ends processes that nothing proves to be ours, for nobody may take what they know from a record: asked first, and after
/// a grace made to. Returns when they are gone; blocks for up to that long.
pub(crate) fn end(found: &[Unrecorded]) {
    let signal = |signal| {
        for process in found.iter().filter(|process| is_alive(&process.pidfd)) {
            // The group's number is safe while its leader is alive.
            let Some(pid) = Pid::from_raw(process.identity.pid) else { continue };
            if let Err(error) = rustix::process::kill_process_group(pid, signal)
                && error != rustix::io::Errno::SRCH
            {
                tracing::warn!("supervisor: {}: cannot end pid {}: {error}", process.id, process.identity.pid);
            }
        }
    };
    signal(Signal::TERM);
    // One that is stopped (Ctrl-Z) would not see the request before it is continued.
    signal(Signal::CONT);
    if !are_gone_within(found, GRACE) {
        signal(Signal::KILL);
        are_gone_within(found, GRACE);
    }
}

fn are_gone_within(found: &[Unrecorded], limit: Duration) -> bool {
    let end = Instant::now() + limit;
    found.iter().all(|process| {
        while is_alive(&process.pidfd) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let left = Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().max(1).into() };
            // Readable when it is dead; whatever else this returns for, it is looked at again.
            let _ = poll(&mut [PollFd::new(&process.pidfd, PollFlags::IN)], Some(&left));
        }
        true
    })
}
