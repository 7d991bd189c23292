//! Which process a number means: boot, pid, start time and executable, as the kernel tells them.
//!
//! A pid alone says nothing: it is given to another process as soon as its owner is gone. Together with the boot and
//! the start time it names one process for ever, because the kernel does not go through all pids within one tick.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::process::Pid;
use serde::{Deserialize, Serialize};

/// One process, for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// The boot of the machine it lives in.
    pub(crate) boot: String,
    /// Its number.
    pub(crate) pid: i32,
    /// Its start, in clock ticks since boot.
    pub(crate) start: u64,
    /// Its executable once it was running; unknown between its creation and its `exec`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) executable: Option<PathBuf>,
}

/// The part of `/proc/<pid>/stat` that matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) state: u8,
    pub(crate) group: i32,
    pub(crate) session: i32,
    pub(crate) start: u64,
}

/// More than the kernel usually says about a process.
const STAT_LEN: usize = 1024;

impl Stat {
    /// What the kernel says about `pid` now.
    pub(crate) fn of(pid: i32) -> io::Result<Stat> {
        // The kernel tells no size, and this is asked of every process of the machine when the agent starts.
        let mut text = Vec::with_capacity(STAT_LEN);
        File::open(format!("/proc/{pid}/stat"))?.read_to_end(&mut text)?;
        Stat::parse(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unknown form of /proc stat"))
    }

    /// The name in parentheses is the process's to choose and may hold blanks and parentheses itself, so the fields are
    /// counted from the last one.
    fn parse(text: &[u8]) -> Option<Stat> {
        let after_name = text.iter().rposition(|byte| *byte == b')')? + 1;
        let rest = std::str::from_utf8(text.get(after_name..)?).ok()?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        Some(Stat {
            state: *fields.first()?.as_bytes().first()?,
            group: fields.get(2)?.parse().ok()?,
            session: fields.get(3)?.parse().ok()?,
            start: fields.get(19)?.parse().ok()?,
        })
    }

    /// In the process group or the session that `leader` leads, or led.
    pub(crate) fn is_of(&self, leader: i32) -> bool {
        self.group == leader || self.session == leader
    }

    /// Dead, whether or not its parent has taken note.
    pub(crate) fn is_dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }
}

/// The id of the present boot.
pub(crate) fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// The executable of a process; `None` when it cannot be known, as for a process that keeps itself private.
pub(crate) fn executable(pid: i32) -> Option<PathBuf> {
    let path = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    // A binary replaced by an upgrade is still the one that was started.
    let bytes = path.as_os_str().as_bytes();
    let bytes = bytes.strip_suffix(b" (deleted)").unwrap_or(bytes);
    Some(PathBuf::from(OsStr::from_bytes(bytes)))
}

/// The value of a variable in the environment a process was started with; `None` when it is not there or cannot be known.
pub(crate) fn started_with(pid: i32, variable: &str) -> Option<String> {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    environment.split(|byte| *byte == 0).find_map(|entry| {
        let (name, value) = std::str::from_utf8(entry).ok()?.split_once('=')?;
        (name == variable).then(|| value.to_owned())
    })
}

/// Whether the environment of a process can be read at all.
pub(crate) fn environment_is_known(pid: i32) -> bool {
    std::fs::read(format!("/proc/{pid}/environ")).is_ok_and(|text| !text.is_empty())
}

/// The user a process runs as. Not the owner of its folder in `/proc`: that is root for a process that keeps itself
/// private.
pub(crate) fn user(pid: i32) -> io::Result<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    effective_user(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unknown form of /proc status"))
}

/// The second of real, effective, saved and file system user.
fn effective_user(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Who started a process, as far as that one still lives.
pub(crate) fn parent(pid: i32) -> Option<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

/// All processes the kernel shows, in no order.
pub(crate) fn all_processes() -> impl Iterator<Item = i32> {
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| Pid::from_raw(*pid).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_blanks_and_parentheses_does_not_shift_the_fields() {
        let line = b"42 (a) R) S 1 42 41 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2 3";
        assert_eq!(Stat::parse(line), Some(Stat { state: b'S', group: 42, session: 41, start: 987_654 }));
        assert_eq!(Stat::parse(b"42 (short) S 1"), None);
        assert_eq!(Stat::parse(b""), None);
    }

    #[test]
    fn the_own_process_is_alive_and_known() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let stat = Stat::of(pid).unwrap();
        assert!(!stat.is_dead() && stat.start > 0);
        assert_eq!(executable(pid), Some(std::env::current_exe().unwrap()));
        assert!(all_processes().any(|other| other == pid));
        assert_eq!(parent(pid), Some(rustix::process::getppid().unwrap().as_raw_nonzero().get()));
        assert_eq!(user(pid).unwrap(), rustix::process::geteuid().as_raw());
        assert_eq!(effective_user("Name:\tUid: 1\nUid:\t1\t2\t3\t4\n"), Some(2));
        assert_eq!(effective_user("Uid:\t1"), None);
    }
}
