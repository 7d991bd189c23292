//! `lictor join`, `leave` and `force-leave`: who belongs to the cluster, changed.

use anyhow::{Context, bail};
use lictor_api::client::Request;

use super::client::Agent;
use super::command::{Command, Outcome, done};
use super::{complain, print};
use crate::config::flags::{Flag, Parsed};

/// The commands.
pub(crate) const COMMANDS: &[Command] = &[
    Command::new("force-leave", "Forces a failed member to be seen as left", force_leave).operands("NODE").asks_agent(),
    Command::new("join", "Makes the agent join a cluster", join)
        .operands("ADDRESS...")
        .flags(&[Flag::bool("wan", "Join as a server of another datacenter")])
        .asks_agent(),
    Command::new("leave", "Makes the agent leave the cluster and end", leave).asks_agent(),
];

fn force_leave(flags: &Parsed) -> Outcome {
    let [node] = flags.operands.as_slice() else {
        bail!("A single node name must be specified to force leave.");
    };
    let request = Request::put("/v1/agent/force-leave/").segment(node);
    Agent::reach(flags)?.tell(request).context("Error force leaving")?;
    done()
}

fn join(flags: &Parsed) -> Outcome {
    if flags.operands.is_empty() {
        bail!("At least one address to join must be specified.");
    }
    let agent = Agent::reach(flags)?;
    let mut joined = 0;
    for address in &flags.operands {
        let mut request = Request::put("/v1/agent/join/").segment(address);
        if flags.is_set("wan") {
            request = request.query("wan", "1");
        }
        match agent.tell(request) {
            Ok(()) => joined += 1,
            Err(error) => complain(&format!("Error joining address '{address}': {error:#}")),
        }
    }
    if joined == 0 {
        bail!("Failed to join any nodes.");
    }
    print(&format!("Successfully joined cluster by contacting {joined} nodes."));
    done()
}

fn leave(flags: &Parsed) -> Outcome {
    if let Some(word) = flags.operands.first() {
        bail!("Should have no non-flag arguments, got {word:?}.");
    }
    Agent::reach(flags)?.tell(Request::put("/v1/agent/leave")).context("Error leaving")?;
    print("Graceful leave complete");
    done()
}
