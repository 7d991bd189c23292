//! `lictor lock`: runs a child while it holds a lock, so that of all who try only one (or a few) run at a time.

mod hold;
mod mutex;
mod semaphore;

use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use hold::{End, Session};

use super::child::{self, By, Signals};
use super::client::Agent;
use super::command::{Command, Outcome, done};
use super::complain;
use crate::config::flags::{Flag, Parsed};

/// The command.
pub(crate) const COMMANDS: &[Command] = &[Command::new("lock", "Runs a child while it holds a lock", run)
    .operands("PREFIX CHILD...")
    .about(
        "\nThe lock is the key PREFIX/.lock. When it is lost the child is asked to end, and killed if it does not.\n\
         The child has CONSUL_LOCK_HELD=true in its environment.",
    )
    .flags(&[
        Flag::bool("child-exit-code", "Exit with 2 when the child fails"),
        Flag::int("monitor-retry", "How many errors in a row are tolerated while the lock is held; by default 3"),
        Flag::int("n", "How many may hold it at once; by default 1"),
        Flag::text("name", "Name of the session, for whoever looks"),
        Flag::bool("pass-stdin", "Give the child the standard input"),
        child::SHELL,
        Flag::duration("timeout", "The longest to wait for the lock; by default for ever"),
        Flag::duration("try", "Another name of -timeout"),
        Flag::bool("verbose", "Say what happens"),
    ])
    .asks_agent()];

/// Exit code for a child that failed, when that was asked for.
const CHILD_FAILED: u8 = 2;

/// How a lock is used.
struct Wanted<'a> {
    prefix: &'a str,
    limit: u64,
    name: String,
    patience: Option<Duration>,
    tolerated: u32,
    verbose: bool,
}

impl Wanted<'_> {
    fn say(&self, text: &str) {
        if self.verbose {
            complain(text);
        }
    }
}

fn run(flags: &Parsed) -> Outcome {
    let (prefix, words) = match flags.operands.split_first() {
        Some((prefix, words)) if !words.is_empty() => (prefix.trim_matches('/'), words),
        _ => bail!("Key prefix and child command must be specified"),
    };
    if prefix.is_empty() {
        bail!("Key prefix missing: the lock is the key PREFIX/.lock");
    }
    let limit = match flags.int("n") {
        None => 1,
        Some(limit) => {
            u64::try_from(limit).ok().filter(|limit| *limit > 0).context("Lock holder limit must be positive")?
        }
    };
    if [flags.text("timeout"), flags.text("try")].into_iter().flatten().any(|limit| limit.starts_with('-')) {
        bail!("Timeout must be positive");
    }
    let patience = match (flags.duration("timeout"), flags.duration("try")) {
        (Some(_), Some(_)) => bail!("Only one of -timeout and -try may be given"),
        (Some(limit), None) | (None, Some(limit)) => Some(limit).filter(|limit| !limit.is_zero()),
        (None, None) => None,
    };
    let script = words.join(" ");
    let name = flags.text("name").filter(|name| !name.is_empty()).map(str::to_owned);
    let wanted = Wanted {
        prefix,
        limit,
        name: name.unwrap_or_else(|| format!("Consul lock for '{script}' at '{prefix}'")),
        patience,
        tolerated: flags
            .int("monitor-retry")
            .map_or(Ok(3), u32::try_from)
            .context("-monitor-retry must not be negative")?,
        verbose: flags.is_set("verbose"),
    };
    let input = if flags.is_set("pass-stdin") { Stdio::inherit() } else { Stdio::null() };
    let agent = Agent::reach(flags)?;
    let mut child = child::command(words, By::of(flags));
    child.stdin(input).env("CONSUL_LOCK_HELD", "true");
    let ended = agent.wait(async {
        let mut signals = Signals::new()?;
        hold_and_run(agent.client(), &wanted, child, &mut signals).await
    })?;
    match ended {
        Ended::Never => Ok(ExitCode::FAILURE),
        Ended::Child(status) if status.success() => done(),
        Ended::Child(status) => {
            complain(&format!("Error running handler: {}", child::shown(status)));
            Ok(if flags.is_set("child-exit-code") { ExitCode::from(CHILD_FAILED) } else { ExitCode::SUCCESS })
        }
        Ended::Lost => {
            complain("Lock lost, the child was ended");
            Ok(ExitCode::FAILURE)
        }
    }
}

/// How it went.
enum Ended {
    /// The lock was never held.
    Never,
    /// The child ran to its end.
    Child(ExitStatus),
    /// The lock was lost under it.
    Lost,
}

async fn hold_and_run(
    client: std::sync::Arc<lictor_api::client::Client>,
    wanted: &Wanted<'_>,
    mut command: tokio::process::Command,
    signals: &mut Signals,
) -> Result<Ended> {
    wanted.say(&format!("Setting up lock at path: {}/.lock", wanted.prefix));
    let end = if wanted.limit == 1 { End::Release } else { End::Delete };
    let session = Session::create(client, &wanted.name, end).await.context("Lock setup failed")?;
    // Whatever happens from here on, the session ends with us, and with it every claim.
    let outcome = with_session(&session, wanted, &mut command, signals).await;
    session.destroy().await;
    outcome
}

async fn with_session(
    session: &Session,
    wanted: &Wanted<'_>,
    command: &mut tokio::process::Command,
    signals: &mut Signals,
) -> Result<Ended> {
    wanted.say("Attempting lock acquisition");
    let acquiring = async {
        match wanted.limit {
            1 => mutex::acquire(session, wanted.prefix).await,
            limit => semaphore::acquire(session, wanted.prefix, limit).await,
        }
    };
    let acquired = async {
        match wanted.patience {
            None => acquiring.await.map(|()| true),
            Some(limit) => match tokio::time::timeout(limit, acquiring).await {
                Ok(outcome) => outcome.map(|()| true),
                Err(_) => Ok(false),
            },
        }
    };
    let acquired = tokio::select! {
        acquired = acquired => acquired.context("Lock acquisition failed")?,
        error = session.keep_alive() => return Err(error.context("Lock acquisition failed")),
        () = signals.end() => false,
    };
    if !acquired {
        complain("Shutdown triggered or timeout during lock acquisition");
        return Ok(Ended::Never);
    }
    wanted.say("Starting handler");
    let mut child = command.spawn().map_err(|error| anyhow!("Error running handler: {error}"))?;
    let lost = async {
        match wanted.limit {
            1 => mutex::lost(session, wanted.prefix, wanted.tolerated).await,
            _ => semaphore::lost(session, wanted.prefix, wanted.tolerated).await,
        }
    };
    let mut lost = std::pin::pin!(lost);
    let mut alive = std::pin::pin!(session.keep_alive());
    let ended = loop {
        tokio::select! {
            status = child.wait() => break Ended::Child(status.context("cannot wait for the child")?),
            signal = signals.next() => child::send(&child, signal),
            () = &mut lost => {
                child::end(&mut child).await?;
                break Ended::Lost;
            }
            error = &mut alive => {
                complain(&format!("{error:#}"));
                child::end(&mut child).await?;
                break Ended::Lost;
            }
        }
    };
    if let Ended::Child(_) = ended {
        wanted.say("Cleaning up lock");
        let released = match wanted.limit {
            1 => mutex::release(session, wanted.prefix).await,
            _ => semaphore::release(session, wanted.prefix).await,
        };
        if let Err(error) = released {
            complain(&format!("Lock release failed: {error:#}"));
        }
    }
    Ok(ended)
}
