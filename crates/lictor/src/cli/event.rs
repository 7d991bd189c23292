//! `lictor event`: fires an event that agents and their watches see.

use anyhow::{Context, anyhow, bail};
use lictor_api::client::Request;
use lictor_api::event::Event;
use regex::Regex;

use super::client::Agent;
use super::command::{Command, Outcome, done};
use super::output::{self, FORMAT, Format};
use super::print;
use crate::config::flags::{Flag, Parsed};

/// The command.
pub(crate) const COMMANDS: &[Command] =
    &[Command::new("event", "Fires an event that agents and their watches see", run)
        .operands("[PAYLOAD]")
        .about("\nThe payload may be @FILE, or - for standard input.")
        .flags(&[
            FORMAT,
            Flag::text("name", "Name of the event; required"),
            Flag::text("node", "Regular expression of the nodes it is for"),
            Flag::text("service", "Regular expression of the services whose nodes it is for"),
            Flag::text("tag", "Regular expression of the tags these services must have"),
        ])
        .asks_agent()];

fn run(flags: &Parsed) -> Outcome {
    let format = Format::of(flags)?;
    let name =
        flags.text("name").filter(|name| !name.is_empty()).ok_or_else(|| anyhow!("Event name must be provided"))?;
    let mut request = Request::put("/v1/event/fire/").segment(name);
    let filter = |name: &str| flags.text(name).filter(|text| !text.is_empty());
    if filter("tag").is_some() && filter("service").is_none() {
        bail!("Cannot provide tag filter without service filter.");
    }
    for name in ["node", "service", "tag"] {
        if let Some(text) = filter(name) {
            Regex::new(text).map_err(|error| anyhow!("Failed to compile {name} filter regexp: {error}"))?;
            request = request.query(name, text);
        }
    }
    match flags.operands.as_slice() {
        [] => {}
        [payload] => request = request.body(output::data(payload)?),
        _ => bail!("Too many command line arguments."),
    }
    let event: Event<'static> = Agent::reach(flags)?.read(request).context("Error firing event")?;
    match format {
        Format::Json => print(&output::json(&event)?),
        Format::Pretty => print(&format!("Event ID: {}", event.id)),
    }
    done()
}
