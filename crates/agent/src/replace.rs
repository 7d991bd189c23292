//! Replacing the process of a managed proxy, and knowing how that went.
//!
//! The supervisor does it; here the caller's right is looked at, and the outcome is waited for. A built-in proxy hands
//! its listening sockets over, so that nobody who connects is refused; any other program is stopped and started.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lictor_model::acl::Caller;
use lictor_model::name::ServiceId;
use lictor_supervisor::{Handover, Replacement, State, Status};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::explain::AWAITS_APP;
use crate::{Agent, Error};

/// Longer than a successor may wait for sockets and take to become ready, so that the supervisor's own word is heard.
const PATIENCE: Duration = Duration::from_secs(50);

/// What to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// The new process is ready.
    Ready,
    /// The old one is gone, too.
    Drained,
}

/// How a proxy was replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaced {
    /// The process that ran; `None` when none did.
    pub old_pid: Option<u32>,
    /// The process that runs.
    pub new_pid: Option<u32>,
    /// Connections that the old one still carries, as far as it has said.
    pub draining: u64,
}

type Statuses = watch::Receiver<Arc<BTreeMap<String, Status>>>;

impl Agent {
    /// The managed proxy that a process is, or was started by; the pid must come from the kernel. The supervisor holds
    /// every process it knows, so a pid that it finds has not been given to another one.
    pub async fn proxy_of_process(&self, pid: i32) -> Option<ServiceId> {
        self.inner.supervisor().await?.id_of_process(pid).map(|id| ServiceId::from(id.as_str()))
    }

    /// Waits until the managed proxies serve, as far as they will: those that cannot be started are not waited for, and
    /// a program that says nothing of itself serves when it runs.
    pub async fn proxies_serve(&self, limit: Duration) {
        let Some(supervisor) = self.inner.supervisor().await else { return };
        let wanted: Vec<(String, Replacement)> =
            self.inner.wanted_processes().into_iter().map(|spec| (spec.id, spec.replacement)).collect();
        let serves = |status: &Status, replacement: Replacement| match status.state {
            State::Ready | State::Failed | State::BackingOff => true,
            // The application may be waiting for us to serve: that must not become a circle.
            State::Running => {
                replacement == Replacement::StopThenStart
                    || status.fields.get(AWAITS_APP).is_some_and(|value| value == "1")
            }
            State::Stopped | State::Starting | State::Stopping => false,
        };
        let mut statuses = supervisor.statuses();
        let all = |now: &Arc<BTreeMap<String, Status>>| {
            wanted.iter().all(|(id, replacement)| now.get(id).is_some_and(|status| serves(status, *replacement)))
        };
        // An error means that the agent is ending.
        let _ = timeout(limit, statuses.wait_for(all)).await;
    }

    /// The secret of a managed proxy, for requests that it makes without showing one.
    pub fn secret_of_proxy(&self, id: &ServiceId) -> Option<String> {
        self.inner.registry.lock().proxies.get(id).map(|entry| entry.proof.unseen.clone())
    }

    /// Replaces the process of a managed proxy and waits for the outcome. Needs the right to write the proxy's service.
    pub async fn replace_proxy(&self, caller: &Caller, id: &str, until: Until) -> Result<Replaced, Error> {
        let target = {
            let registry = self.inner.registry.lock();
            let entry = registry.proxies.get(id);
            let target = entry.and_then(|entry| registry.services.get(&entry.target));
            target.map(|entry| entry.view.service.name.clone())
        };
        let target = target.ok_or_else(|| Error::NotFound(format!("unknown proxy service ID: {id}")))?;
        if !caller.writes_service(target.as_str()) {
            return Err(Error::Denied);
        }
        let supervisor = self.inner.supervisor().await.ok_or_else(|| {
            Error::Refused("managed proxies are disabled on this agent: it has no address that they could ask".into())
        })?;
        let mut statuses = supervisor.statuses();
        let before = statuses.borrow_and_update().get(id).cloned().unwrap_or_default();
        self.inner.restart_process(&ServiceId::from(id)).await?;
        let outcome = timeout(PATIENCE, replaced(&mut statuses, id, &before)).await;
        let status = match outcome {
            Ok(outcome) => outcome.map_err(|cause| Error::Refused(format!("cannot replace {id:?}: {cause}")))?,
            Err(_) => {
                let now = statuses.borrow().get(id).cloned().unwrap_or_default();
                let trouble = now.trouble().unwrap_or_else(|| format!("{}: {}", now.state, now.text));
                return Err(Error::Refused(format!("{id:?} is not ready {PATIENCE:?} after the restart: {trouble}")));
            }
        };
        if until == Until::Drained {
            let gone = |all: &Arc<BTreeMap<String, Status>>| {
                let pids = |status: &Status| status.draining.iter().any(|old| Some(old.pid) == before.pid);
                !all.get(id).is_some_and(pids)
            };
            // The supervisor sees to it that this comes; it ends with the agent otherwise.
            let _ = statuses.wait_for(gone).await;
        }
        let draining = status.draining.iter().filter(|old| Some(old.pid) == before.pid);
        let draining = draining.filter_map(|old| old.connections).sum();
        Ok(Replaced { old_pid: before.pid, new_pid: status.pid, draining })
    }
}

/// Waits until another process is ready, or until the one that runs is there to stay.
async fn replaced(statuses: &mut Statuses, id: &str, before: &Status) -> Result<Status, String> {
    let mut under_way = false;
    loop {
        let now = statuses.borrow_and_update().get(id).cloned().unwrap_or_default();
        match &now.handover {
            Handover::UnderWay { .. } => under_way = true,
            // One that failed before is not the one that was asked for.
            Handover::Failed { cause, .. } if under_way || now.handover != before.handover => return Err(cause.clone()),
            Handover::None | Handover::Failed { .. } => {}
        }
        if now.pid != before.pid && now.state == State::Ready {
            return Ok(now);
        }
        // A program that says nothing of itself is as ready as it gets when it runs.
        if now.pid.is_some() && now.pid != before.pid && now.state == State::Running && !before.ready {
            return Ok(now);
        }
        if statuses.changed().await.is_err() {
            return Err("the agent is ending".to_owned());
        }
    }
}
