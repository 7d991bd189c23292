//! What operators ask about the cluster itself.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::time::{Span, Time};

/// `GET /v1/operator/raft/configuration`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RaftConfiguration<'a> {
    /// The servers that hold the cluster's state.
    pub servers: Vec<RaftServer<'a>>,
    /// When the set of servers last changed.
    pub index: u64,
}

/// One server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RaftServer<'a> {
    /// Its node's UUID.
    #[serde(rename = "ID")]
    pub id: Cow<'a, str>,
    /// Its node's name.
    pub node: Cow<'a, str>,
    /// `host:port`.
    pub address: Cow<'a, str>,
    /// Whether it leads.
    pub leader: bool,
    /// `3`.
    pub protocol_version: Cow<'a, str>,
    /// Whether it votes.
    pub voter: bool,
}

/// `GET` and `PUT /v1/operator/autopilot/configuration`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Autopilot<'a> {
    /// Whether servers that are gone are forgotten.
    pub cleanup_dead_servers: bool,
    /// How long a healthy server may be out of contact.
    pub last_contact_threshold: Span,
    /// How far a healthy server may be behind.
    pub max_trailing_logs: u64,
    /// How long a new server must be healthy.
    pub server_stabilization_time: Span,
    /// Without meaning.
    pub redundancy_zone_tag: Cow<'a, str>,
    /// Without meaning.
    pub disable_upgrade_migration: bool,
    /// Without meaning.
    pub upgrade_version_tag: Cow<'a, str>,
    /// First written.
    pub create_index: u64,
    /// Last changed.
    pub modify_index: u64,
}

impl Default for Autopilot<'_> {
    fn default() -> Self {
        Autopilot {
            cleanup_dead_servers: true,
            last_contact_threshold: Span(std::time::Duration::from_millis(200)),
            max_trailing_logs: 250,
            server_stabilization_time: Span(std::time::Duration::from_secs(10)),
            redundancy_zone_tag: "".into(),
            disable_upgrade_migration: false,
            upgrade_version_tag: "".into(),
            create_index: 0,
            modify_index: 0,
        }
    }
}

/// `GET /v1/operator/autopilot/health`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AutopilotHealth<'a> {
    /// Whether all servers are.
    pub healthy: bool,
    /// How many servers may fail before the cluster does.
    pub failure_tolerance: u64,
    /// The servers.
    pub servers: Vec<ServerHealth<'a>>,
}

/// The health of one server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ServerHealth<'a> {
    /// Its node's UUID.
    #[serde(rename = "ID")]
    pub id: Cow<'a, str>,
    /// Its node's name.
    pub name: Cow<'a, str>,
    /// `host:port`.
    pub address: Cow<'a, str>,
    /// `alive`, `left` or `failed`.
    pub serf_status: Cow<'a, str>,
    /// The version of the original whose contract it keeps.
    pub version: Cow<'a, str>,
    /// Whether it leads.
    pub leader: bool,
    /// How long it has been out of contact.
    pub last_contact: Span,
    /// The term of its last entry.
    pub last_term: u64,
    /// The index of its last entry.
    pub last_index: u64,
    /// Whether all is well.
    pub healthy: bool,
    /// Whether it votes.
    pub voter: bool,
    /// Since when its health is what it is.
    pub stable_since: Time,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_autopilot_is_the_originals() {
        let text =
            serde_json::to_string(&Autopilot { create_index: 4, modify_index: 4, ..Autopilot::default() }).unwrap();
        assert_eq!(
            text,
            r#"{"CleanupDeadServers":true,"LastContactThreshold":"200ms","MaxTrailingLogs":250,"ServerStabilizationTime":"10s","RedundancyZoneTag":"","DisableUpgradeMigration":false,"UpgradeVersionTag":"","CreateIndex":4,"ModifyIndex":4}"#
        );
    }
}
