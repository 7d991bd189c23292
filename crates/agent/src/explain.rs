//! Why a managed proxy does not serve, in the output of its check: where people and monitoring look first.
//!
//! The supervisor knows why there is no process, the process knows what it waits for, and the definition may hold parts
//! that can never work. A check that only says "connection refused" helps nobody.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use lictor_model::health;
use lictor_model::name::{CheckId, ServiceId};
use lictor_supervisor::{State, Status};
use lictor_task::clock;

use crate::agent::Inner;
use crate::operate::why::{Listening, listens_at};

/// The field in which a proxy says that somebody else listens on its port.
const PORT_TAKEN: &str = "X_LICTOR_PORT_TAKEN";

/// The field in which a proxy says where it listens.
const LISTENING: &str = "X_LICTOR_LISTENING";

/// How long a start may take before what is missing is worth a line, in milliseconds: many start together.
const START: i64 = 10_000;

/// The field in which a proxy says that it waits for nothing but its application.
pub(crate) const AWAITS_APP: &str = "X_LICTOR_AWAITS_APP";

impl Inner {
    /// Takes in how the processes are, and has the checks of those run again about which there is something new to say.
    pub(crate) fn explain(&self, statuses: &BTreeMap<String, Status>) {
        let news: BTreeMap<ServiceId, String> =
            statuses.iter().filter_map(|(id, status)| Some((ServiceId::from(id.as_str()), trouble(status)?))).collect();
        let before = std::mem::replace(&mut *self.troubles.lock(), news.clone());
        let changed = news.iter().filter(|(id, text)| before.get(*id) != Some(text)).map(|(id, _)| id);
        for id in changed.chain(before.keys().filter(|id| !news.contains_key(*id))) {
            self.run_check_now(&CheckId::of_service(id, 1, 1));
        }
    }

    /// The output of a check with what is known beside it, if it is the check of a managed proxy.
    pub(crate) fn explained(&self, id: &CheckId, status: health::Status, output: String) -> String {
        let registry = self.registry.lock();
        let Some(service) = registry.checks.get(id).map(|entry| &entry.check.service_id) else { return output };
        let Some(proxy) = registry.proxies.get(service) else { return output };
        let trouble = self.troubles.lock().get(service).cloned();
        if let (health::Status::Critical, Some(trouble)) = (status, &trouble)
            && !self.has_just_started(service)
        {
            self.warn_once(format!("agent/proxy: {service}: {trouble}"));
        }
        let lines = std::iter::once(output).chain(trouble).chain(proxy.doubts.iter().cloned());
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Whether a proxy's process is so young that what it still lacks is no news.
    fn has_just_started(&self, proxy: &ServiceId) -> bool {
        let Some(supervisor) = self.supervisor_now() else { return false };
        let started = supervisor.statuses().borrow().get(proxy.as_str()).and_then(|status| status.started_unix_ms);
        started.is_some_and(|started| clock::unix_nanos() / 1_000_000 - started < START)
    }

    /// Gives proxies another port whose allocated one somebody else has taken meanwhile.
    pub(crate) async fn make_way(self: &Arc<Self>, statuses: &BTreeMap<String, Status>) {
        for (id, status) in statuses {
            let Some(taken) = status.fields.get(PORT_TAKEN).and_then(|port| port.parse::<i64>().ok()) else { continue };
            let id = ServiceId::from(id.as_str());
            let moved = self.registry.lock().move_proxy(&self.config, &id, taken);
            match moved {
                Ok(Some(effects)) => {
                    let holder = u16::try_from(taken).ok().and_then(|port| listener_on(statuses, port));
                    let holder = holder.unwrap_or_else(|| "another program".to_owned());
                    tracing::warn!("agent/proxy: {id}: {holder} listens on port {taken}, choosing another one");
                    self.carry_out(effects).await;
                }
                Ok(None) => {}
                Err(error) => self.warn_once(format!("agent/proxy: {id}: port {taken} is taken: {error}")),
            }
        }
    }
}

/// The managed proxy that listens on a port, and for what.
fn listener_on(statuses: &BTreeMap<String, Status>, port: u16) -> Option<String> {
    let listening: Vec<Listening> = statuses
        .iter()
        .filter_map(|(id, status)| Some((ServiceId::from(id.as_str()), status.fields.get(LISTENING)?)))
        .flat_map(|(id, text)| Listening::of(&id, text.split_whitespace()).collect::<Vec<_>>())
        .collect();
    let (proxy, what) = listens_at(&listening, (Ipv4Addr::UNSPECIFIED, port).into())?;
    Some(format!("{proxy} (for {what})"))
}

/// What is wrong with a process, for people; `None` when nothing is.
fn trouble(status: &Status) -> Option<String> {
    match (status.trouble(), status.state) {
        (Some(trouble), _) => Some(trouble),
        (None, State::Running) if !status.text.is_empty() => Some(status.text.clone()),
        (None, State::Ready) if status.text != "ready" && !status.text.is_empty() => Some(status.text.clone()),
        (None, _) => None,
    }
}
