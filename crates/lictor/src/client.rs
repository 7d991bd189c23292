//! A client agent at its start and its end: it finds its servers, and says that it leaves.

use lictor_link::{Remote, Servers};
use lictor_notation::duration;
use lictor_task::Stop;

use crate::config::check::Servers as Join;

/// Tries the servers of the configuration until one answers. The error is why the agent cannot go on.
pub(crate) async fn join(asked: &Join, servers: &Servers, stop: &Stop) -> Result<(), String> {
    if !asked.start_join.is_empty() {
        tracing::info!("agent: (LAN) joining: {}", asked.start_join.join(" "));
        reach(servers, &asked.start_join).await?;
        tracing::info!("agent: (LAN) joined: 1");
    }
    if asked.retry_join.is_empty() {
        if asked.start_join.is_empty() {
            tracing::warn!(
                "agent: this is a client agent, and it knows no server: set retry_join, or server = true (-server) for an \
                 agent that holds the state itself, or join one by hand"
            );
        }
        return Ok(());
    }
    tracing::info!("agent: Joining LAN cluster...");
    let mut failures: u32 = 0;
    loop {
        let Some(reached) = stop.or_stopped(reach(servers, &asked.retry_join)).await else { return Ok(()) };
        let why = match reached {
            Ok(()) => {
                tracing::info!("agent: Join LAN completed. Synced with 1 initial agents");
                return Ok(());
            }
            Err(why) => why,
        };
        failures = failures.saturating_add(1);
        if asked.retry_max.is_some_and(|most| failures > most) {
            return Err(format!("max join LAN retry exhausted, exiting: {why}"));
        }
        tracing::warn!("agent: Join LAN failed: {why}, retrying in {}", duration::text(asked.retry_interval));
        if stop.or_stopped(tokio::time::sleep(asked.retry_interval)).await.is_none() {
            return Ok(());
        }
    }
}

/// Connects to the servers one after the other until one is there: it knows the others. The error names each with what
/// happened.
async fn reach(servers: &Servers, addresses: &[String]) -> Result<(), String> {
    let mut failed = Vec::new();
    for address in addresses {
        match servers.connect_to(address).await {
            Ok(()) => return Ok(()),
            Err(error) => failed.push(format!("* Failed to join {address}: {error}")),
        }
    }
    Err(format!("{} error(s) occurred:\n\n{}", failed.len(), failed.join("\n")))
}

/// Has the agent compare everything with the catalog whenever another server answers, and when servers had given it up.
pub(crate) async fn keep_in_step(agent: lictor_agent::Agent, remote: Remote, stop: Stop) {
    let mut answering = remote.servers().answering();
    loop {
        tokio::select! {
            () = stop.requested() => return,
            () = remote.was_lost() => {}
            changed = answering.changed() => match changed {
                Ok(()) if answering.borrow_and_update().is_some() => {}
                Ok(()) => continue,
                Err(_) => return,
            },
        }
        agent.sync_soon();
    }
}
