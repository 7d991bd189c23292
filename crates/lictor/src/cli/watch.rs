//! `lictor watch`: shows something, or calls a program at each change of it.

pub(crate) mod kinds;

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use lictor_api::client::{Client, Since};
use serde_json::value::RawValue;
use tokio::io::AsyncWriteExt;

use kinds::{Position, Target};

use super::child::{self, By, Signals};
use super::client::{self, Agent};
use super::command::{Command, Outcome, done};
use super::{complain, output, print};
use crate::config::flags::{Flag, Parsed};

/// The command.
pub(crate) const COMMANDS: &[Command] = &[Command::new(
    "watch",
    "Shows something, or calls a program at each change of it",
    run,
)
.operands("[CHILD...]")
.about(
    "\nWithout a child it prints what it finds and ends. A child is called at once and at each change, with the\n\
             JSON on its standard input and CONSUL_INDEX in its environment; when it fails, the watch ends.",
)
.flags(&[
    Flag::text("key", "The key of -type=key"),
    Flag::text("name", "The events of -type=event; by default all"),
    Flag::bool("passingonly", "With -type=service, only instances whose checks all pass"),
    Flag::text("prefix", "The prefix of -type=keyprefix"),
    Flag::text("service", "The service of -type=service, connect_leaf, or checks"),
    Flag::text("service-id", "The service of -type=agent_service, or the proxy of connect_proxy_config, by id"),
    child::SHELL,
    Flag::text("state", "The status of -type=checks; by default any"),
    Flag::text("tag", "With -type=service, only instances with this tag; may be given several times"),
    Flag::text(
        "type",
        "What is watched: key, keyprefix, services, nodes, service, checks, event, connect_roots, connect_leaf, \
                 connect_proxy_config, agent_service",
    ),
])
.asks_agent()];

/// How long one blocking read may take.
const WAIT: Duration = Duration::from_secs(5 * 60);
/// The first pause after an error; it grows with the square of their number.
pub(crate) const PAUSE: Duration = Duration::from_secs(5);
/// The longest one.
const MAX_PAUSE: Duration = Duration::from_secs(180);

fn run(flags: &Parsed) -> Outcome {
    let kind = match flags.text("type") {
        Some(kind) if !kind.is_empty() => kind,
        _ => bail!("Watch type must be specified"),
    };
    let tags = flags.texts("tag").filter(|tag| !tag.is_empty()).map(str::to_owned).collect();
    let given = |name: &str| flags.text(name).map(str::to_owned);
    let target = Target::of(kind, &given, tags, flags.is_set("passingonly"))?;
    let agent = Agent::reach(flags)?;
    let words = &flags.operands;
    if words.is_empty() {
        let (value, _) = agent.wait(look(&agent.client(), &target, &Position::Start))?;
        print(&output::reindented(value.get(), "    "));
        return done();
    }
    let by = By::of(flags);
    agent.wait(async {
        let mut signals = Signals::new()?;
        follow(&agent.client(), &target, words, by, &mut signals).await
    })
}

/// Looks once: as soon as there is something else than at a position, or when the wait is over.
pub(crate) async fn look(client: &Client, target: &Target, position: &Position) -> Result<(Box<RawValue>, Position)> {
    let since = match position {
        Position::Start => Since::Nothing,
        Position::Index(index) => Since::Index(*index),
        Position::Hash(hash) => Since::Hash(hash),
    };
    let request = target.request().since(since, WAIT);
    let asked = client::asked(client, &request);
    let answer = client.send(request).await.map_err(|error| client::explained(client, &asked, error))?;
    let (index, hash) = (answer.index, answer.content_hash.clone());
    let value = match answer.status {
        404 if target.may_be_missing() => RawValue::NULL.to_owned(),
        _ => {
            let answer = answer.success().map_err(|error| client::explained(client, &asked, error))?;
            target.shown(answer.json().context("cannot read the agent's answer")?)?
        }
    };
    let position = match (hash, index) {
        (Some(hash), _) => Position::Hash(hash),
        // An index that went backwards says nothing about what comes: the next look starts anew.
        (None, Some(index)) if target.is_ordered() && position.is_after(index) => Position::Start,
        (None, Some(index)) => Position::Index(index),
        (None, None) => Position::Start,
    };
    Ok((value, position))
}

async fn follow(client: &Client, target: &Target, words: &[String], by: By, signals: &mut Signals) -> Outcome {
    let mut position = Position::Start;
    let mut errors = 0_u32;
    let mut first = true;
    loop {
        let looked = tokio::select! {
            looked = look(client, target, &position) => looked,
            () = signals.end() => return done(),
        };
        match looked {
            Ok((value, next)) => {
                errors = 0;
                let changed = first || next != position;
                let unknown = next == Position::Start;
                position = next;
                first = false;
                if changed && !call(words, by, &value, &position, signals).await? {
                    return done();
                }
                if unknown {
                    // What has no position cannot be waited for.
                    tokio::select! {
                        () = tokio::time::sleep(PAUSE) => {}
                        () = signals.end() => return done(),
                    }
                }
            }
            // Nothing was ever there: the agent, the address or the token is wrong.
            Err(error) if first => return Err(error.context("Error querying Consul agent")),
            Err(error) => {
                errors += 1;
                let pause = pause_after(errors);
                let seconds = pause.as_secs();
                complain(&format!("Watch (type: {}) errored: {error:#}, retry in {seconds}s", target.kind()));
                position = Position::Start;
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = signals.end() => return done(),
                }
            }
        }
    }
}

/// The pause after so many errors one after the other.
pub(crate) fn pause_after(errors: u32) -> Duration {
    PAUSE.saturating_mul(errors.saturating_mul(errors)).min(MAX_PAUSE)
}

/// Calls the child and waits for its end, or for the end of everything: then `false`.
async fn call(words: &[String], by: By, value: &RawValue, position: &Position, signals: &mut Signals) -> Result<bool> {
    let mut child = child::command(words, by)
        .env("CONSUL_INDEX", position.shown())
        .stdin(Stdio::piped())
        .spawn()
        .context("Error executing handler")?;
    let json = format!("{}\n", output::compact(value.get()));
    let stdin = child.stdin.take();
    let feed = async {
        if let Some(mut stdin) = stdin {
            // A child need not read what it is told.
            let _ = stdin.write_all(json.as_bytes()).await;
        }
    };
    let mut ended = false;
    let mut feed = std::pin::pin!(feed);
    let mut fed = false;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status.context("Error executing handler")?,
            () = &mut feed, if !fed => fed = true,
            signal = signals.next() => {
                child::send(&child, signal);
                ended |= child::is_end(signal);
            }
        }
    };
    if ended {
        return Ok(false);
    }
    if status.success() { Ok(true) } else { Err(anyhow!("Error executing handler: {}", child::shown(status))) }
}
