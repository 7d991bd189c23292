//! Limits of this process.

use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Resource, getrlimit, setrlimit};

/// Descriptors for which there is room from the start.
const ROOM: i32 = 4096;

/// Lets this process, and what it starts, open as many files as it may: a proxy holds many connections, an agent the
/// sockets of many proxies, and the soft limit is often low for historical reasons only.
///
/// To be called before there are threads. The kernel doubles the table of a process's descriptors when it is full, and
/// with more than one thread it waits for all processors before it goes on, some 10 ms, and with it every thread that
/// opens something: the 64th and the 128th connection, of many at once, would be late with all that come after them.
/// While there is one thread it waits for nobody, so the table is made large enough here: it has 33 KB then.
pub(crate) fn raise_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // What we may not have, we do without.
    let _ = setrlimit(Resource::Nofile, limit);
    // The table stays as large as its largest descriptor needed it.
    drop(fcntl_dupfd_cloexec(std::io::stdin(), room(limit.current) - 1));
}

/// As much room as can ever be used.
fn room(limit: Option<u64>) -> i32 {
    limit.and_then(|most| i32::try_from(most).ok()).map_or(ROOM, |most| most.clamp(1, ROOM))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Slots of this process's table of descriptors.
    fn slots() -> i32 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        status.lines().find_map(|line| line.strip_prefix("FDSize:")).unwrap().trim().parse().unwrap()
    }

    #[test]
    fn there_is_room_for_many_descriptors_and_none_is_held() {
        let count = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        raise_open_files();
        assert!(slots() >= room(getrlimit(Resource::Nofile).current), "{}", slots());
        // Other tests open and close files meanwhile.
        let held = (0..1000).any(|_| {
            let before = count();
            raise_open_files();
            count() <= before
        });
        assert!(held, "each time one more is held");
    }

    #[test]
    fn there_is_no_more_room_than_may_be_used() {
        assert_eq!([None, Some(u64::MAX), Some(1 << 20), Some(256), Some(0)].map(room), [ROOM, ROOM, ROOM, 256, 1]);
    }
}
