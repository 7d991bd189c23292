//! The machine that an agent runs on.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// `GET /v1/agent/host`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Host<'a> {
    /// Its memory.
    pub memory: Memory,
    /// Its processors.
    #[serde(rename = "CPU")]
    pub cpu: Vec<Cpu<'a>>,
    /// Its system.
    pub host: System<'a>,
    /// The file system of the data directory.
    pub disk: Disk<'a>,
    /// When this was found out, in nanoseconds since the Unix epoch.
    pub collection_time: i64,
    /// What could not be found out; null when everything could.
    pub errors: Option<Vec<Cow<'a, str>>>,
}

/// Memory, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Memory {
    /// All there is.
    pub total: u64,
    /// What programs can still have.
    pub available: u64,
    /// What they have.
    pub used: u64,
    /// The same in hundredths of all.
    pub used_percent: f64,
    /// What nobody uses.
    pub free: u64,
    /// Buffers of the system.
    pub buffers: u64,
    /// Files held in memory.
    pub cached: u64,
}

/// One processor.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Cpu<'a> {
    /// Its number.
    pub cpu: i64,
    /// Who made it.
    pub vendor_id: Cow<'a, str>,
    /// What it is.
    pub model_name: Cow<'a, str>,
    /// Cores of it.
    pub cores: i64,
    /// Its clock.
    pub mhz: f64,
}

/// The system.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct System<'a> {
    /// Its name.
    pub hostname: Cow<'a, str>,
    /// Seconds since it was started.
    pub uptime: u64,
    /// When that was, in seconds since the Unix epoch.
    pub boot_time: u64,
    /// Processes.
    pub procs: u64,
    /// `linux`.
    pub os: Cow<'a, str>,
    /// The distribution.
    pub platform: Cow<'a, str>,
    /// What it descends from.
    pub platform_family: Cow<'a, str>,
    /// Its version.
    pub platform_version: Cow<'a, str>,
    /// The kernel's.
    pub kernel_version: Cow<'a, str>,
    /// Not looked for.
    pub virtualization_system: Cow<'a, str>,
    /// Not looked for.
    pub virtualization_role: Cow<'a, str>,
    /// The machine's id.
    pub hostid: Cow<'a, str>,
}

/// A file system, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Disk<'a> {
    /// A path in it.
    pub path: Cow<'a, str>,
    /// Not looked for.
    pub fstype: Cow<'a, str>,
    /// All there is.
    pub total: u64,
    /// What can still be used.
    pub free: u64,
    /// What is used.
    pub used: u64,
    /// The same in hundredths of all.
    pub used_percent: f64,
    /// Files that there can be.
    pub inodes_total: u64,
    /// Files that there are.
    pub inodes_used: u64,
    /// Files that there can still be.
    pub inodes_free: u64,
    /// Files that there are, in hundredths.
    pub inodes_used_percent: f64,
}
