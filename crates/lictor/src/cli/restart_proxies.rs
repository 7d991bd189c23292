//! `lictor connect restart-proxies`: replaces the processes of managed proxies, for instance after an upgrade.
//!
//! One after the other, so that a new version that does not work stops at the first proxy; the plan comes first.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use lictor_api::client::{Client, Request};
use lictor_api::connect::Replaced;

use super::client::Agent;
use super::command::{Command, Outcome, done};
use super::print;
use crate::config::flags::{Flag, Parsed};

/// The command.
pub(crate) const COMMANDS: &[Command] = &[Command::new(
    "connect restart-proxies",
    "Replaces the processes of managed proxies one after the other, without losing a connection",
    run,
)
.operands("[PROXY_ID...]")
.about(
    "\nReplaces the processes of these managed proxies, or of all of the agent. A built-in proxy hands its listening\n\
     sockets to the new process and lets its connections end.",
)
.flags(&[
    Flag::bool(
        "wait-drained",
        "Go on to the next proxy when the old process of one has ended, not when it is replaced",
    ),
    Flag::bool("dry-run", "Print the plan and do nothing"),
])
.asks_agent()];

/// How long one replacement may take to be answered; the agent gives up earlier.
const PATIENCE: Duration = Duration::from_secs(60);
/// The same when old connections are waited for, which may last as long as `drain_time` allows.
const DRAINED_PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// Replaces the processes.
fn run(flags: &Parsed) -> Outcome {
    let agent = Agent::reach(flags)?;
    agent.wait(roll(&agent.client(), flags)).context("lictor connect restart-proxies")?;
    done()
}

/// One proxy of the plan.
struct Step {
    id: String,
    service: String,
}

async fn roll(client: &Client, parsed: &Parsed) -> Result<()> {
    let steps = plan(client, &parsed.operands).await?;
    if steps.is_empty() {
        print("This agent has no managed proxies.");
        return Ok(());
    }
    print(&format!("{} to replace, one after the other:", count(steps.len(), "proxy", "proxies")));
    for Step { id, service } in &steps {
        print(&format!("  {id} (of {service})"));
    }
    if parsed.is_set("dry-run") {
        return Ok(());
    }
    let drained = parsed.is_set("wait-drained");
    for (done, Step { id, .. }) in steps.iter().enumerate() {
        let mut request = Request::put("/v1/agent/connect/proxy/restart/").segment(id);
        request =
            if drained { request.query("wait-drained", "").limit(DRAINED_PATIENCE) } else { request.limit(PATIENCE) };
        let answer = client.send(request).await.and_then(|answer| answer.success()?.json::<Replaced<'static>>());
        let replaced =
            answer.with_context(|| format!("{id} was not replaced; {} left as they are", steps.len() - done))?;
        let pid = |pid: Option<u32>| pid.map_or_else(|| "none".to_owned(), |pid| pid.to_string());
        let rest = match (drained, replaced.draining) {
            (true, _) => "drained".to_owned(),
            (false, 0) => "no connection left to end".to_owned(),
            (false, 1) => "1 connection goes on in the old process".to_owned(),
            (false, open) => format!("{open} connections go on in the old process"),
        };
        print(&format!("  {id}: pid {} -> {}, {rest}", pid(replaced.old_pid), pid(replaced.new_pid)));
    }
    Ok(())
}

/// The managed proxies named, or all of them.
async fn plan(client: &Client, wanted: &[String]) -> Result<Vec<Step>> {
    let services = client.agent_services().await.context("cannot ask the agent for its services")?;
    let mut steps: Vec<Step> = services
        .iter()
        .filter(|(_, entry)| entry.connect.as_ref().is_some_and(|connect| connect.proxy.is_some()))
        .map(|(id, entry)| Step { id: format!("{id}-proxy"), service: entry.name.to_string() })
        .collect();
    if let Some(unknown) = wanted.iter().find(|id| !steps.iter().any(|step| step.id == **id)) {
        let ids: Vec<&str> = steps.iter().map(|step| step.id.as_str()).collect();
        bail!("{unknown:?} is no managed proxy of this agent; it has {ids:?}");
    }
    steps.retain(|step| wanted.is_empty() || wanted.contains(&step.id));
    steps.sort_by(|one, other| one.id.cmp(&other.id));
    Ok(steps)
}

fn count(number: impl TryInto<u64>, one: &str, several: &str) -> String {
    let number = number.try_into().unwrap_or(u64::MAX);
    format!("{number} {}", if number == 1 { one } else { several })
}
