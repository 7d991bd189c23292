//! `lictor monitor`: the agent's log as it is written.

use std::io::Write;

use anyhow::{Context, anyhow};
use lictor_api::client::{Client, Request};
use tokio::signal::unix::{SignalKind, signal};

use super::client::{self, Agent};
use super::command::{Command, Outcome, done};
use crate::config::flags::{Flag, Parsed};

/// The command.
pub(crate) const COMMANDS: &[Command] = &[Command::new("monitor", "Shows the agent's log as it is written", run)
    .about("\nEnds with Ctrl-C, or with the agent; then the exit code is 1.")
    .flags(&[Flag::text("log-level", "Lines of this level and above: trace, debug, info (the default), warn or err")])
    .asks_agent()];

fn run(flags: &Parsed) -> Outcome {
    let level = flags.text("log-level").unwrap_or("info");
    let agent = Agent::reach(flags)?;
    let request = Request::get("/v1/agent/monitor").query("loglevel", &level.to_ascii_lowercase());
    agent.wait(async {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let client = agent.client();
        tokio::select! {
            ended = follow(&client, request) => ended,
            _ = interrupt.recv() => done(),
            _ = terminate.recv() => done(),
        }
    })
}

async fn follow(client: &Client, request: Request) -> Outcome {
    let asked = client::asked(client, &request);
    let starting = || "Error starting monitor";
    let mut log = client
        .stream(request)
        .await
        .map_err(|error| client::explained(client, &asked, error))
        .with_context(starting)?;
    if log.status != 200 {
        let mut text = Vec::new();
        while let Ok(Some(piece)) = log.piece().await {
            text.extend_from_slice(&piece);
        }
        let text = String::from_utf8_lossy(&text);
        return Err(anyhow!("Unexpected response code: {} ({})", log.status, text.trim_end())).with_context(starting);
    }
    while let Ok(Some(piece)) = log.piece().await {
        let mut out = std::io::stdout().lock();
        if out.write_all(&piece).and_then(|()| out.flush()).is_err() {
            // Nobody reads any more.
            return done();
        }
    }
    // An answer that breaks off is the agent's end. Whoever wants to see more must begin anew, and learns it by the code.
    Err(anyhow!("The agent ended the log: it was stopped, or crashed"))
}
