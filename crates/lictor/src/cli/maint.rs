//! `lictor maint`: takes the node or a service out of use for a while, and shows what is.

use anyhow::{Context, bail};
use lictor_api::agent::{Checks, Description};
use lictor_api::client::Request;
use serde::Serialize;

use super::client::Agent;
use super::command::{Command, Outcome, done};
use super::output::{self, FORMAT, Format};
use super::print;
use crate::config::flags::{Flag, Parsed};

/// The command.
pub(crate) const COMMANDS: &[Command] =
    &[Command::new("maint", "Takes the node or a service out of use for a while, or shows what is", run)
        .about("\nWithout -enable and -disable it lists what is in maintenance on this agent.")
        .flags(&[
            Flag::bool("disable", "End maintenance"),
            Flag::bool("enable", "Begin maintenance"),
            FORMAT,
            Flag::text("reason", "Why, for whoever looks"),
            Flag::text("service", "Id of the service that is meant, instead of the whole node"),
        ])
        .asks_agent()];

/// The check whose presence means that the node is in maintenance.
const NODE_CHECK: &str = "_node_maintenance";
/// What the id of the check begins with whose presence means that a service is in maintenance.
const SERVICE_CHECK: &str = "_service_maintenance:";

fn run(flags: &Parsed) -> Outcome {
    let format = Format::of(flags)?;
    if let Some(word) = flags.operands.first() {
        bail!("Should have no non-flag arguments, got {word:?}.");
    }
    let (enable, disable) = (flags.is_set("enable"), flags.is_set("disable"));
    if enable && disable {
        bail!("Only one of -enable or -disable may be provided");
    }
    let reason = flags.text("reason").unwrap_or_default();
    let service = flags.text("service").unwrap_or_default();
    if !enable && (!reason.is_empty()) {
        bail!("Reason may only be provided with -enable");
    }
    if !enable && !disable {
        if !service.is_empty() {
            bail!("Service requires either -enable or -disable");
        }
        return list(&Agent::reach(flags)?, format);
    }
    let mut request = match service {
        "" => Request::put("/v1/agent/maintenance"),
        service => Request::put("/v1/agent/service/maintenance/").segment(service),
    };
    request = request.query("enable", if enable { "true" } else { "false" });
    if !reason.is_empty() {
        request = request.query("reason", reason);
    }
    let (doing, state) = if enable { ("enabling", "enabled") } else { ("disabling", "disabled") };
    let what = if service.is_empty() { "node" } else { "service" };
    Agent::reach(flags)?.tell(request).with_context(|| format!("Error {doing} {what} maintenance"))?;
    match service {
        "" => print(&format!("Node maintenance is now {state}")),
        service => print(&format!("Service maintenance is now {state} for {service:?}")),
    }
    done()
}

/// Something in maintenance.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    kind: &'static str,
    #[serde(rename = "ID")]
    id: String,
    reason: String,
}

fn list(agent: &Agent, format: Format) -> Outcome {
    let description: Description<'static> =
        agent.read(Request::get("/v1/agent/self")).context("Error querying Consul agent")?;
    let checks: Checks<'static> =
        agent.read(Request::get("/v1/agent/checks")).context("Error querying Consul agent")?;
    let mut entries = Vec::new();
    for (id, check) in checks {
        let reason = check.notes.into_owned();
        if id == NODE_CHECK {
            entries.push(Entry { kind: "Node", id: description.config.node_name.to_string(), reason });
        } else if let Some(service) = id.strip_prefix(SERVICE_CHECK) {
            entries.push(Entry { kind: "Service", id: service.to_owned(), reason });
        }
    }
    match format {
        Format::Json => print(&output::json(&entries)?),
        Format::Pretty => {
            let blocks: Vec<String> = entries
                .iter()
                .map(|entry| {
                    let name = if entry.kind == "Node" { "Name:   " } else { "ID:     " };
                    format!("{}:\n  {name}{}\n  Reason: {}\n", entry.kind, entry.id, entry.reason)
                })
                .collect();
            if !blocks.is_empty() {
                print(&blocks.join("\n"));
            }
        }
    }
    done()
}
