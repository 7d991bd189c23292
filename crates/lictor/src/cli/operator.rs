//! `lictor operator`: how the cluster itself works.

use anyhow::{Context, bail};
use lictor_api::client::Request;
use lictor_api::operator::{Autopilot, RaftConfiguration};
use lictor_api::time::Span;

use super::client::Agent;
use super::command::{Command, Outcome, done};
use super::output::{self, FORMAT, Format, columns, row};
use super::print;
use crate::config::flags::{Flag, Parsed};

/// The commands.
pub(crate) const COMMANDS: &[Command] = &[
    Command::new("operator autopilot get-config", "Shows how servers are looked after", get)
        .flags(&[FORMAT])
        .asks_agent(),
    Command::new("operator autopilot set-config", "Changes how servers are looked after", set)
        .flags(&[
            Flag::bool("cleanup-dead-servers", "Whether servers that are gone are forgotten"),
            Flag::bool("disable-upgrade-migration", "Kept and shown, without an effect"),
            Flag::duration("last-contact-threshold", "How long a healthy server may be out of contact"),
            Flag::int("max-trailing-logs", "How far a healthy server may be behind"),
            Flag::text("redundancy-zone-tag", "Kept and shown, without an effect"),
            Flag::duration("server-stabilization-time", "How long a new server must be healthy"),
            Flag::text("upgrade-version-tag", "Kept and shown, without an effect"),
        ])
        .asks_agent(),
    Command::new("operator raft list-peers", "Lists the servers", list_peers).flags(&[FORMAT]).asks_agent(),
    Command::new("operator raft remove-peer", "Removes a server", remove_peer)
        .flags(&[Flag::text("address", "Address of the server, IP:port"), Flag::text("id", "Id of the server")])
        .asks_agent(),
];

const AUTOPILOT: &str = "/v1/operator/autopilot/configuration";

fn get(flags: &Parsed) -> Outcome {
    let format = Format::of(flags)?;
    let config: Autopilot<'static> =
        Agent::reach(flags)?.read(Request::get(AUTOPILOT)).context("Error querying Autopilot configuration")?;
    if format == Format::Json {
        print(&output::json(&config)?);
        return done();
    }
    print(&format!(
        "CleanupDeadServers = {}\nLastContactThreshold = {}\nMaxTrailingLogs = {}\nServerStabilizationTime = {}\n\
         RedundancyZoneTag = {:?}\nDisableUpgradeMigration = {}\nUpgradeMigrationTag = {:?}",
        config.cleanup_dead_servers,
        config.last_contact_threshold,
        config.max_trailing_logs,
        config.server_stabilization_time,
        config.redundancy_zone_tag,
        config.disable_upgrade_migration,
        config.upgrade_version_tag,
    ));
    done()
}

fn set(flags: &Parsed) -> Outcome {
    let agent = Agent::reach(flags)?;
    let mut config: Autopilot<'static> =
        agent.read(Request::get(AUTOPILOT)).context("Error querying Autopilot configuration")?;
    if let Some(value) = flags.bool("cleanup-dead-servers") {
        config.cleanup_dead_servers = value;
    }
    if let Some(value) = flags.bool("disable-upgrade-migration") {
        config.disable_upgrade_migration = value;
    }
    if let Some(value) = flags.duration("last-contact-threshold") {
        config.last_contact_threshold = Span(value);
    }
    if let Some(value) = flags.duration("server-stabilization-time") {
        config.server_stabilization_time = Span(value);
    }
    if let Some(value) = flags.int("max-trailing-logs") {
        let Ok(value) = u64::try_from(value) else { bail!("-max-trailing-logs must not be negative") };
        config.max_trailing_logs = value;
    }
    if let Some(value) = flags.text("redundancy-zone-tag") {
        config.redundancy_zone_tag = value.to_owned().into();
    }
    if let Some(value) = flags.text("upgrade-version-tag") {
        config.upgrade_version_tag = value.to_owned().into();
    }
    // Only if nobody else has changed it in between.
    let request = Request::put(AUTOPILOT).query("cas", &config.modify_index.to_string()).json(&config)?;
    if !agent.read::<bool>(request).context("Error setting Autopilot configuration")? {
        bail!("Configuration could not be atomically updated, please try again");
    }
    print("Configuration updated!");
    done()
}

fn list_peers(flags: &Parsed) -> Outcome {
    let format = Format::of(flags)?;
    let raft: RaftConfiguration<'static> = Agent::reach(flags)?
        .read(Request::get("/v1/operator/raft/configuration"))
        .context("Error getting peers: Failed to retrieve raft configuration")?;
    if format == Format::Json {
        print(&output::json(&raft)?);
        return done();
    }
    let mut rows = vec![row(["Node", "ID", "Address", "State", "Voter", "RaftProtocol"])];
    for server in &raft.servers {
        let state = if server.leader { "leader" } else { "follower" };
        let voter = server.voter.to_string();
        rows.push(row([&server.node, &server.id, &server.address, state, &voter, &server.protocol_version]));
    }
    print(&columns(&rows));
    done()
}

fn remove_peer(flags: &Parsed) -> Outcome {
    let given = |name: &str| flags.text(name).filter(|text| !text.is_empty());
    let (key, value) = match (given("address"), given("id")) {
        (Some(_), Some(_)) => bail!("Error removing peer: cannot give both an address and id"),
        (None, None) => bail!("Error removing peer: an address or id is required for the peer to remove"),
        (Some(address), None) => ("address", address),
        (None, Some(id)) => ("id", id),
    };
    Agent::reach(flags)?
        .tell(Request::delete("/v1/operator/raft/peer").query(key, value))
        .context("Error removing peer")?;
    print(&format!("Removed peer with {key} {value:?}"));
    done()
}
