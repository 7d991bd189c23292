//! Find the processes an earlier supervisor left running, and prove that they are ours before touching them.
//!
//! A record names a process by boot, pid and start time; the process must also lead its own session and run as the user
//! it ran as, and what it runs must not contradict the record. The pidfd is taken first and asked last, so everything
//! read in between was about the process the pidfd holds. A zombie is dead.
//!
//! Records can be lost (a careless `rm`, a damaged disk). Each process therefore carries a mark in its environment that
//! names the supervisor's directory and the id, and processes with the mark but without a record are found by it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags};

use crate::identity::{self, Identity, Stat};
use crate::session::is_alive;

/// The environment entry that marks a supervised process.
pub(crate) const MARK: &str = "LICTOR_SUPERVISED";

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
}

/// Looks for the process of a record. `mark` is what its environment should hold, `user` who it should run as.
pub(crate) fn find(recorded: &Identity, boot: &str, mark: &str, user: u32) -> Found {
    if recorded.boot != boot {
        return Found::Gone;
    }
    let Some(pid) = Pid::from_raw(recorded.pid).filter(|pid| !pid.is_init()) else {
        return Found::Gone;
    };
    let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else {
        return Found::Gone;
    };
    let Ok(stat) = Stat::of(recorded.pid) else {
        return Found::Gone;
    };
    let verdict = if stat.start != recorded.start {
        Some("it started at another time")
    } else if stat.session != recorded.pid {
        Some("it does not lead a session")
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

/// Finds processes that carry the mark of `house` but whose id is not among `recorded`.
///
/// Children of a supervised process inherit its mark; only leaders of a session count, and of several with the same id
/// the oldest, because the others were started by it.
pub(crate) fn unrecorded(house: &str, boot: &str, user: u32, recorded: &BTreeSet<String>) -> Vec<Unrecorded> {
    let prefix = mark(house, "");
    let mut found: BTreeMap<String, Unrecorded> = BTreeMap::new();
    for raw in identity::all_processes() {
        let Some(pid) = Pid::from_raw(raw).filter(|pid| !pid.is_init()) else { continue };
        if !Stat::of(raw).is_ok_and(|stat| stat.session == raw && !stat.is_dead()) {
            continue;
        }
        let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { continue };
        let Some(id) = identity::started_with(raw, MARK).and_then(|mark| Some(mark.strip_prefix(&prefix)?.to_owned()))
        else {
            continue;
        };
        let Ok(stat) = Stat::of(raw) else { continue };
        if recorded.contains(&id) || !identity::user(raw).is_ok_and(|owner| owner == user) || !is_alive(&pidfd) {
            continue;
        }
        let identity =
            Identity { boot: boot.to_owned(), pid: raw, start: stat.start, executable: identity::executable(raw) };
        let older = found.get(&id).is_none_or(|other| stat.start < other.identity.start);
        if older {
            found.insert(id.clone(), Unrecorded { id, identity, pidfd });
        }
    }
    found.into_values().collect()
}
