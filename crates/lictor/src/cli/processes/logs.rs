//! `lictor connect logs`: what a managed proxy printed, and what it prints.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use lictor_api::client::Request;

use super::{ask, processes};
use crate::cli::command::Command;
use crate::config::flags::Flag;

pub(super) const COMMAND: Command = Command::words("connect logs", "Shows what a managed proxy prints", run)
    .operands("[ID]")
    .about(
        "\nShows the last lines that a managed proxy printed, rotated files included. ID may be left out where there\n\
     is only one.",
    )
    .flags(&[
        Flag::bool("f", "Go on with new lines as they are printed"),
        Flag::int("n", "How many lines (default 100)"),
        Flag::text("stream", "Only stdout, or only stderr"),
    ])
    .asks_agent();

/// How long the agent may take to begin.
const HEAD_LIMIT: Duration = Duration::from_secs(30);

fn run(words: &[String]) -> ExitCode {
    ask(&COMMAND, words, |client, parsed| async move {
        let id = match parsed.operands.as_slice() {
            [id] => id.clone(),
            [] => match processes(&client).await?.as_slice() {
                [only] => only.proxy_id.to_string(),
                all => bail!("there are {} managed proxies, name one; lictor connect ps lists them", all.len()),
            },
            _ => bail!("name one proxy, not {}", parsed.operands.len()),
        };
        let mut request = Request::get("/v1/agent/connect/logs/").segment(&id).limit(HEAD_LIMIT);
        if let Some(lines) = parsed.int("n") {
            let lines = u64::try_from(lines).context("-n must not be negative")?;
            request = request.query("lines", &lines.to_string());
        }
        if let Some(stream) = parsed.text("stream") {
            request = request.query("stream", stream);
        }
        if parsed.is_set("f") {
            request = request.query("follow", "true");
        }
        let mut answer = client.stream(request).await.with_context(|| format!("cannot ask for the output of {id}"))?;
        let mut refusal = Vec::new();
        let gone = "the agent ended the connection: it was stopped or restarted, and the proxy may go on. Ask again when it is back";
        while let Some(piece) = answer.piece().await.context(gone)? {
            if answer.status != 200 {
                refusal.extend_from_slice(&piece);
                continue;
            }
            let mut out = std::io::stdout();
            if out.write_all(&piece).and_then(|()| out.flush()).is_err() {
                // Nobody reads any more: `logs -f | head`.
                return Ok(ExitCode::SUCCESS);
            }
        }
        if answer.status != 200 {
            bail!("the agent answers {}: {}", answer.status, String::from_utf8_lossy(&refusal).trim());
        }
        Ok(ExitCode::SUCCESS)
    })
}
