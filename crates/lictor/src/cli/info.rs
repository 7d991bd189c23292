//! `lictor info`: the agent's numbers for people.

use anyhow::Context;
use lictor_api::agent::Description;
use lictor_api::client::Request;

use super::client::Agent;
use super::command::{Command, Outcome, done};
use super::output::{self, FORMAT, Format};
use super::print;
use crate::config::flags::Parsed;

/// The command.
pub(crate) const COMMANDS: &[Command] =
    &[Command::new("info", "Shows what the agent says about itself", run).flags(&[FORMAT]).asks_agent()];

fn run(flags: &Parsed) -> Outcome {
    let format = Format::of(flags)?;
    let agent = Agent::reach(flags)?;
    let description: Description<'static> =
        agent.read(Request::get("/v1/agent/self")).context("Error querying agent")?;
    if format == Format::Json {
        print(&output::json(&description.stats)?);
        return done();
    }
    let mut text = String::new();
    for (group, values) in &description.stats {
        text.push_str(&format!("{group}:\n"));
        for (key, value) in values {
            text.push_str(&format!("\t{key} = {value}\n"));
        }
    }
    print(&text);
    done()
}
