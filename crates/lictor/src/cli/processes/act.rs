//! `lictor connect stop`, `start`, `restart`, `drain`: acting on one managed proxy.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lictor_api::client::{Client, Request};
use lictor_api::process::Process;
use tokio::time::Instant;

use super::{ask, only_id, process};
use crate::cli::command::Command;
use crate::cli::print;
use crate::config::flags::Flag;

const WAIT: Flag = Flag::duration("wait", "How long to wait for it to have happened; 0 only asks for it (default 30s)");
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked.
const LOOK: Duration = Duration::from_millis(200);

pub(super) const STOP: Command = Command::words("connect stop", "Stops a managed proxy and keeps it stopped", stop)
    .operands("ID")
    .about(
        "\nStops a managed proxy and keeps it stopped, also when the agent is restarted, until it is started again.\n\
     Its open connections have a few seconds to end; drain gives them as long as they need.",
    )
    .flags(&[WAIT])
    .asks_agent();

pub(super) const START: Command = Command::words("connect start", "Starts a managed proxy that was stopped", start)
    .operands("ID")
    .about("\nStarts a managed proxy that was stopped, or ends its drain.")
    .flags(&[WAIT])
    .asks_agent();

pub(super) const RESTART: Command =
    Command::words("connect restart", "Replaces the process of a managed proxy", restart)
        .operands("ID")
        .about("\nReplaces the process of a managed proxy, at once even when it waits for its next start.")
        .flags(&[WAIT])
        .asks_agent();

pub(super) const DRAIN: Command = Command::words(
    "connect drain",
    "Takes a managed proxy out of use without cutting its connections",
    drain,
)
.operands("ID")
.about(
    "\nTakes a managed proxy out of discovery, waits for its connections to end, and stops it. What is open after the\n\
             timeout has another four seconds, as with stop, and is cut then; the last line tells how many that were.",
)
.flags(&[Flag::duration("timeout", "How long connections may take to end (default 60s)")])
.asks_agent();

/// How long connections may take to end when nobody says; the agent's own default.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(60);

fn stop(words: &[String]) -> ExitCode {
    act(&STOP, words, "stop", |now, _| Ok(now.pid.is_none()))
}

fn start(words: &[String]) -> ExitCode {
    act(&START, words, "start", |now, _| Ok(now.ready || now.serving))
}

fn restart(words: &[String]) -> ExitCode {
    act(&RESTART, words, "restart", |now, before| {
        if let Some(failed) = &now.not_replaced
            && now.not_replaced != before.not_replaced
        {
            bail!("{} was not replaced, what runs goes on: {}", now.proxy_id, failed.cause);
        }
        Ok(now.pid.is_some() && now.pid != before.pid && (now.ready || now.serving))
    })
}

fn drain(words: &[String]) -> ExitCode {
    ask(&DRAIN, words, |client, parsed| async move {
        let id = only_id(&parsed)?;
        let limit = parsed.duration("timeout").unwrap_or(DRAIN_TIMEOUT);
        let request = Request::put("/v1/agent/connect/drain/").segment(id);
        let request = request.query("timeout", &format!("{}ms", limit.as_millis()));
        client.tell(request).await.with_context(|| format!("cannot drain {id}"))?;
        let begin = Instant::now();
        let mut said = None;
        // The agent stops it after the limit; a proxy has some seconds to stop.
        let end = begin + limit + PATIENCE;
        loop {
            let now = process(&client, id).await?;
            if now.pid.is_none() {
                let cut = said.flatten().filter(|left| *left > 0 && begin.elapsed() >= limit);
                print(&match cut {
                    Some(1) => format!("{} is stopped; 1 connection did not end in time and was cut", now.proxy_id),
                    Some(left) => {
                        format!("{} is stopped; {left} connections did not end in time and were cut", now.proxy_id)
                    }
                    None => format!("{} is drained and stopped", now.proxy_id),
                });
                return Ok(ExitCode::SUCCESS);
            }
            if !now.held {
                bail!("{} is no longer being drained: somebody started it", now.proxy_id);
            }
            let left = now.report.as_ref().map(|report| report.connections);
            if said != Some(left) {
                said = Some(left);
                let left = left.map_or_else(|| "an unknown number of".to_owned(), |left| left.to_string());
                let (noun, verb) = if left == "1" { ("connection", "is") } else { ("connections", "are") };
                print(&format!("{}: {left} {noun} {verb} left", now.proxy_id));
            }
            if Instant::now() > end {
                bail!("{} did not stop", now.proxy_id);
            }
            tokio::time::sleep(LOOK).await;
        }
    })
}

fn act(
    command: &'static Command,
    words: &[String],
    verb: &'static str,
    done: fn(&Process<'_>, &Process<'_>) -> Result<bool>,
) -> ExitCode {
    ask(command, words, |client, parsed| async move {
        let id = only_id(&parsed)?;
        let before = process(&client, id).await?;
        let request = Request::put("/v1/agent/connect/").path(verb).path("/").segment(id);
        client.tell(request).await.with_context(|| format!("cannot {verb} {id}"))?;
        let patience = parsed.duration("wait").unwrap_or(PATIENCE);
        if patience.is_zero() {
            return Ok(ExitCode::SUCCESS);
        }
        let now = until(&client, id, patience, |now| done(now, &before)).await?;
        let pid = now.pid.map_or_else(String::new, |pid| format!(", pid {pid}"));
        print(&format!("{}: {}{pid}", now.proxy_id, now.state));
        Ok(ExitCode::SUCCESS)
    })
}

async fn until(
    client: &Client,
    id: &str,
    patience: Duration,
    done: impl Fn(&Process<'_>) -> Result<bool>,
) -> Result<Process<'static>> {
    let end = Instant::now() + patience;
    loop {
        let now = process(client, id).await?;
        if done(&now)? {
            return Ok(now);
        }
        if Instant::now() > end {
            let state = &now.state;
            bail!("after {patience:?} {} is {state}; lictor connect why {} tells more", now.proxy_id, now.proxy_id);
        }
        tokio::time::sleep(LOOK).await;
    }
}
