//! `/v1/agent/host`: the machine this agent runs on, as its kernel describes it.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use lictor_api::host as shape;
use lictor_model::acl::{Access, Realm};
use lictor_task::clock;

use crate::call::{Answered, Call};
use crate::error::Failure;

pub(crate) fn host(call: &Call<'_>) -> Answered {
    if !call.caller.may_in(Access::Read, Realm::Operator) {
        return Err(Failure::Denied);
    }
    let mut errors = Vec::new();
    let mut look = |what: &str, path: &str| {
        fs::read_to_string(path).unwrap_or_else(|error| {
            errors.push(format!("cannot read {what}: {error}").into());
            String::new()
        })
    };
    let memory = memory(&look("the memory's state", "/proc/meminfo"));
    let cpu = processors(&look("the processors", "/proc/cpuinfo"));
    let system = System {
        uptime: look("the time since the start", "/proc/uptime"),
        load: look("the number of processes", "/proc/loadavg"),
        hostname: look("the name of the machine", "/proc/sys/kernel/hostname"),
        kernel: look("the kernel's version", "/proc/sys/kernel/osrelease"),
        // These two not every machine has.
        release: fs::read_to_string("/etc/os-release").unwrap_or_default(),
        id: fs::read_to_string("/etc/machine-id").unwrap_or_default(),
    };
    let disk = disk("/").unwrap_or_else(|error| {
        errors.push(format!("cannot look at the file system: {error}").into());
        shape::Disk::default()
    });
    call.json(&shape::Host {
        memory,
        cpu,
        host: system.shape(),
        disk,
        collection_time: clock::unix_nanos(),
        errors: (!errors.is_empty()).then_some(errors),
    })
}

#[expect(clippy::cast_precision_loss, reason = "hundredths for people")]
fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

fn memory(text: &str) -> shape::Memory {
    let lines: BTreeMap<&str, u64> = text
        .lines()
        .filter_map(|line| {
            let (name, rest) = line.split_once(':')?;
            Some((name, rest.split_whitespace().next()?.parse::<u64>().ok()? * 1024))
        })
        .collect();
    let of = |name: &str| lines.get(name).copied().unwrap_or_default();
    let (total, free, buffers, cached) = (of("MemTotal"), of("MemFree"), of("Buffers"), of("Cached"));
    let used = total.saturating_sub(free + buffers + cached);
    let available = of("MemAvailable");
    shape::Memory { total, available, used, used_percent: percent(used, total), free, buffers, cached }
}

fn processors(text: &str) -> Vec<shape::Cpu<'static>> {
    let blocks = text.split("\n\n").filter(|block| block.starts_with("processor"));
    blocks
        .map(|block| {
            let of = |wanted: &str| {
                let mut pairs = block.lines().filter_map(|line| line.split_once(':'));
                pairs
                    .find(|(name, _)| name.trim() == wanted)
                    .map(|(_, value)| value.trim().to_owned())
                    .unwrap_or_default()
            };
            shape::Cpu {
                cpu: of("processor").parse().unwrap_or_default(),
                vendor_id: of("vendor_id").into(),
                model_name: of("model name").into(),
                cores: 1,
                mhz: of("cpu MHz").parse().unwrap_or_default(),
            }
        })
        .collect()
}

/// Texts about the system.
struct System {
    uptime: String,
    load: String,
    hostname: String,
    kernel: String,
    release: String,
    id: String,
}

impl System {
    fn shape(&self) -> shape::System<'_> {
        let seconds = self.uptime.split(['.', ' ']).next().and_then(|text| text.parse().ok()).unwrap_or_default();
        let now = u64::try_from(clock::unix_seconds()).unwrap_or_default();
        let processes = self.load.split(' ').nth(3).and_then(|running| running.split_once('/'));
        let release = |wanted: &str| {
            let mut pairs = self.release.lines().filter_map(|line| line.split_once('='));
            pairs.find(|(name, _)| *name == wanted).map(|(_, value)| value.trim_matches('"')).unwrap_or_default()
        };
        let family = release("ID_LIKE");
        shape::System {
            hostname: self.hostname.trim().into(),
            uptime: seconds,
            boot_time: now.saturating_sub(seconds),
            procs: processes.and_then(|(_, all)| all.parse().ok()).unwrap_or_default(),
            os: std::env::consts::OS.into(),
            platform: release("ID").into(),
            platform_family: if family.is_empty() { release("ID") } else { family }.into(),
            platform_version: release("VERSION_ID").into(),
            kernel_version: self.kernel.trim().into(),
            virtualization_system: "".into(),
            virtualization_role: "".into(),
            hostid: self.id.trim().into(),
        }
    }
}

fn disk(path: &'static str) -> io::Result<shape::Disk<'static>> {
    let found = rustix::fs::statvfs(path)?;
    let (total, free) = (found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize);
    let used = (found.f_blocks - found.f_bfree) * found.f_frsize;
    let inodes_used = found.f_files.saturating_sub(found.f_ffree);
    Ok(shape::Disk {
        path: path.into(),
        fstype: "".into(),
        total,
        free,
        used,
        used_percent: percent(used, used + free),
        inodes_total: found.f_files,
        inodes_used,
        inodes_free: found.f_ffree,
        inodes_used_percent: percent(inodes_used, found.f_files),
    })
}
