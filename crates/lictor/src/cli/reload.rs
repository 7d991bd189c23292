//! `lictor reload`: makes the agent read its configuration again.

use anyhow::Context;
use lictor_api::client::Request;

use super::client::Agent;
use super::command::{Command, Outcome, done};
use super::print;
use crate::config::flags::Parsed;

/// The command.
pub(crate) const COMMANDS: &[Command] =
    &[Command::new("reload", "Makes the agent read its configuration again", run).asks_agent()];

fn run(flags: &Parsed) -> Outcome {
    Agent::reach(flags)?.tell(Request::put("/v1/agent/reload")).context("Error reloading")?;
    print("Configuration reload triggered");
    done()
}
