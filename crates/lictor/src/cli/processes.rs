//! `lictor connect ps`, `logs`, `wait`, `why`, `stop`, `start`, `restart`, `drain`: operating managed proxies.
//!
//! All of them ask the local agent; what they have in common is here.

mod act;
mod logs;
mod ps;
mod wait;
mod why;

use std::future::Future;
use std::process::ExitCode;

use anyhow::{Context, Result};
use lictor_api::client::{Client, Request};
use lictor_api::process::Process;

use super::command::Command;
use super::{complain, print};
use crate::config::flags::{self, Flag, FlagError, Parsed};

/// The commands.
pub(crate) const COMMANDS: &[Command] =
    &[act::DRAIN, logs::COMMAND, ps::COMMAND, act::RESTART, act::START, act::STOP, wait::COMMAND, why::COMMAND];

/// Reads the words, makes a client and carries the command out.
fn ask<F>(command: &Command, words: &[String], work: impl FnOnce(Client, Parsed) -> F) -> ExitCode
where
    F: Future<Output = Result<ExitCode>>,
{
    let known = command.all_flags();
    // Flags may also stand behind the proxy's id: `logs web -f` is what people write.
    let parsed = match flags::parse(&known, &flags_first(&known, words)) {
        Ok(parsed) => parsed,
        Err(FlagError::Help) => {
            print(&command.usage());
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            complain(&error.told(&known, &command.synopsis()));
            return ExitCode::FAILURE;
        }
    };
    let outcome = super::client::config(&parsed).and_then(|config| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
        runtime.block_on(work(Client::new(config), parsed))
    });
    outcome.unwrap_or_else(|error| {
        let error = format!("{error:#}");
        complain(&format!("Error: {error}{}", super::client::remedy(&error)));
        ExitCode::FAILURE
    })
}

/// What is said when the agent shows no proxy at all: with access control on, a token may be what is missing.
const NONE: &str = "no managed proxies: none is registered here, or you may not see any";

/// The words with flags (and their values) before operands.
fn flags_first(known: &[Flag], words: &[String]) -> Vec<String> {
    let (mut flags, mut operands) = (Vec::new(), Vec::new());
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        if word == "--" {
            operands.extend(rest.cloned());
            break;
        }
        let name = word.trim_start_matches('-');
        if name.len() == word.len() || name.is_empty() {
            operands.push(word.clone());
            continue;
        }
        flags.push(word.clone());
        if known.iter().any(|flag| flag.name == name && flag.takes_value()) {
            flags.extend(rest.next().cloned());
        }
    }
    flags.push("--".to_owned());
    flags.extend(operands);
    flags
}

/// The one proxy that a command is about.
fn only_id(parsed: &Parsed) -> Result<&str> {
    match parsed.operands.as_slice() {
        [id] => Ok(id),
        [] => anyhow::bail!("name a proxy, by its id or by that of its service; lictor connect ps lists them"),
        _ => anyhow::bail!("name one proxy, not {}", parsed.operands.len()),
    }
}

/// All managed proxies of the agent.
async fn processes(client: &Client) -> Result<Vec<Process<'static>>> {
    let answer = client.read(Request::get("/v1/agent/connect/processes")).await;
    Ok(answer.context("cannot ask the agent for its proxies")?.value)
}

/// One managed proxy, by its id or by that of its service.
async fn process(client: &Client, id: &str) -> Result<Process<'static>> {
    let answer = client.read(Request::get("/v1/agent/connect/process/").segment(id)).await;
    Ok(answer.with_context(|| format!("cannot ask the agent for {id}"))?.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_may_stand_behind_operands() {
        const KNOWN: &[Flag] = &[Flag::bool("f", "Follow."), Flag::int("n", "Lines.")];
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        for (given, expected) in
            [("web -f -n 5", "-f -n 5 -- web"), ("-n=5 web", "-n=5 -- web"), ("web -- -f", "-- web -f"), ("", "--")]
        {
            assert_eq!(flags_first(KNOWN, &words(given)), words(expected), "{given}");
        }
    }
}
