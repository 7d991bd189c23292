//! `lictor connect wait`: waits until managed proxies serve.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use lictor_api::client::Request;
use lictor_api::process::{Process, Why};
use tokio::time::Instant;

use super::{ask, process, processes};
use crate::cli::command::Command;
use crate::cli::{complain, print};
use crate::config::flags::Flag;

pub(super) const COMMAND: Command = Command::words("connect wait", "Waits until managed proxies serve", run)
    .operands("[ID...]")
    .about(
        "\nWaits until managed proxies serve: each has a certificate, roots, all its listeners, and at least one\n\
     healthy instance behind every upstream. Without an ID waits for all there are. Exits with 0 when they do,\n\
     and with 1 and the reasons when they do not in time.",
    )
    .flags(&[
        Flag::duration("timeout", "How long to wait (default 60s)"),
        Flag::bool("quiet", "Print nothing when they serve"),
    ])
    .asks_agent();

const TIMEOUT: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(250);

fn run(words: &[String]) -> ExitCode {
    ask(&COMMAND, words, |client, parsed| async move {
        let end = Instant::now() + parsed.duration("timeout").unwrap_or(TIMEOUT);
        let mut problem;
        let mut waiting: BTreeSet<String>;
        let mut is_told = parsed.is_set("quiet");
        loop {
            // An agent that is not there yet, or a proxy not registered yet, is what one waits for.
            let mut all: Vec<Process<'static>> = Vec::new();
            problem = None;
            waiting = BTreeSet::new();
            if parsed.operands.is_empty() {
                match processes(&client).await {
                    Ok(found) => all = found,
                    Err(error) => problem = Some(error),
                }
            }
            for id in &parsed.operands {
                match process(&client, id).await {
                    Ok(found) => all.push(found),
                    Err(error) => problem = Some(error),
                }
            }
            waiting.extend(all.iter().filter(|process| !process.serving).map(|process| process.proxy_id.to_string()));
            if problem.is_none() && waiting.is_empty() {
                if !parsed.is_set("quiet") && all.is_empty() {
                    print(super::NONE);
                } else if !parsed.is_set("quiet") {
                    print(&format!("{} of {} managed proxies serve", all.len(), all.len()));
                }
                return Ok(ExitCode::SUCCESS);
            }
            if Instant::now() >= end {
                break;
            }
            // What is waited for may never come: a name that is mistyped, an agent elsewhere.
            if let (Some(problem), false) = (&problem, is_told) {
                complain(&format!("{problem:#}; waiting (-timeout), lictor connect ps lists what there is"));
                is_told = true;
            }
            tokio::time::sleep(LOOK).await;
        }
        for id in &waiting {
            let answer = client.read::<Why<'static>>(Request::get("/v1/agent/connect/why/").segment(id)).await;
            let why = answer.with_context(|| format!("cannot ask the agent about {id}"))?.value;
            complain(&super::why::text(&why));
        }
        match problem {
            Some(problem) => Err(problem),
            None => Ok(ExitCode::FAILURE),
        }
    })
}
