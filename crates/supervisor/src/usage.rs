//! What a process uses of its machine, as the kernel counts it.

use std::time::Duration;

/// What one process uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Memory that is its own or shared and present, in bytes.
    pub memory: u64,
    /// Open descriptors; absent when we may not look.
    pub open_files: Option<u64>,
    /// Processor time it has used.
    pub cpu: Duration,
    /// Memory of its control group, with what it has started and what the kernel holds for it; absent without a group of
    /// its own.
    pub group_memory: Option<u64>,
    /// The limit of that.
    pub memory_limit: Option<u64>,
}

impl Usage {
    /// What a process uses now; `None` when it is gone.
    pub fn of(pid: u32) -> Option<Usage> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        // A zombie holds no memory.
        let memory = kilobytes(&status, "VmRSS:").unwrap_or_default() * 1024;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        let ticks = |at: usize| fields.get(at).and_then(|ticks| ticks.parse::<u64>().ok()).unwrap_or_default();
        let per_second = rustix::param::clock_ticks_per_second().max(1);
        let cpu = Duration::from_millis((ticks(11) + ticks(12)).saturating_mul(1000) / per_second);
        let open_files = std::fs::read_dir(format!("/proc/{pid}/fd")).ok().map(|all| all.count() as u64);
        let group = crate::group::memory_of(pid);
        let (group_memory, memory_limit) = (group.map(|(used, _)| used), group.and_then(|(_, limit)| limit));
        Some(Usage { memory, open_files, cpu, group_memory, memory_limit })
    }
}

fn kilobytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_uses_something_and_one_that_is_gone_nothing() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.memory > 1 << 20 && usage.open_files.is_some_and(|files| files >= 3), "{usage:?}");
        assert_eq!(Usage::of(u32::MAX), None);
    }
}
