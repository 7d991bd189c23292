//! Reconciler: wanted checks to running ones, and what their results do.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use lictor_check::{Handle, Pace, Runner};
use lictor_model::acl::Caller;
use lictor_model::health::{Check, CheckKind, Status};
use lictor_model::name::{CheckId, NodeName, ServiceId};
use lictor_model::text;
use lictor_state::{Reader, Topic};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::agent::Inner;
use crate::kept::first_runs;
use crate::record::CheckStateRecord;
use crate::registry::{CheckEntry, Effects, Registry};

/// How many results may wait to be taken in. Checks that find it full wait, which delays their next run: better than
/// losing results or growing without limit when the agent is overloaded.
pub(crate) const RESULTS_BOUND: usize = 1024;

const REAP_INTERVAL: Duration = Duration::from_secs(30);

/// What runs a check; dropping it stops the check.
pub enum Running {
    /// A runner of its own.
    Runner(Handle),
    /// The state of another service, worked out by the agent's alias task.
    Alias,
}

/// A result of one check.
#[derive(Debug)]
pub struct Report {
    /// Which check.
    pub id: CheckId,
    /// The new status.
    pub status: Status,
    /// What it said.
    pub output: String,
}

impl Inner {
    /// Starts the checks that a change asks for.
    pub(crate) fn start_checks(&self, effects: &Effects) {
        let mut registry = self.registry.lock();
        let soon = effects.start_checks.iter().filter(|id| registry.checks.get(*id).is_some_and(|entry| entry.soon));
        let first_runs = first_runs(soon.count());
        for id in &effects.start_checks {
            let is_proxy_check =
                registry.checks.get(id).is_some_and(|entry| registry.proxies.contains_key(&entry.check.service_id));
            let Some(entry) = registry.checks.get_mut(id) else { continue };
            let (limit, minimum) = (entry.spec.deregister_critical_service_after, self.config.minimum_deregister_after);
            if !limit.is_zero() && limit < minimum {
                tracing::warn!(
                    "agent: check '{id}' has deregister interval below minimum of {}",
                    text::duration(minimum)
                );
            }
            entry.running = match entry.spec.kind() {
                CheckKind::Alias => {
                    self.alias_nudge.notify_one();
                    Some(Running::Alias)
                }
                CheckKind::None => None,
                _ => {
                    let reports = self.reports.clone();
                    let id = id.clone();
                    // A generated proxy is ready within milliseconds; its first regular check may be ten seconds away.
                    let pace = if is_proxy_check { Pace::Eager } else { Pace::Regular };
                    let config = lictor_check::Config {
                        first_within: entry.soon.then_some(first_runs),
                        pace,
                        ..self.config.checks.clone()
                    };
                    Some(Running::Runner(Runner::start(entry.spec.clone(), config, move |result| {
                        let report = Report { id: id.clone(), status: result.status, output: result.output };
                        let reports = reports.clone();
                        async move {
                            // Closed only when the agent is going away.
                            let _ = reports.send(report).await;
                        }
                    })))
                }
            };
        }
    }

    /// Runs the check of a generated proxy now: something has happened to its process.
    pub(crate) fn run_check_now(&self, id: &CheckId) {
        if let Some(CheckEntry { running: Some(Running::Runner(handle)), .. }) = self.registry.lock().checks.get(id) {
            handle.run_now();
        }
    }

    /// Takes in results until told to stop.
    pub(crate) async fn take_reports(self: Arc<Self>, mut reports: mpsc::Receiver<Report>) {
        loop {
            let report = tokio::select! {
                report = reports.recv() => report,
                () = self.stop.requested() => return,
            };
            let Some(report) = report else { return };
            self.take_report(report);
        }
    }

    fn take_report(&self, Report { id, status, output }: Report) {
        let output = self.explained(&id, status, output);
        let mut registry = self.registry.lock();
        let Some(entry) = registry.checks.get_mut(&id) else { return };
        if !is_outrun(entry) {
            self.set_state_of(entry, status, output);
        }
    }

    /// Gives a check a new state. A new status goes to the catalog at once; new output alone may wait.
    pub(crate) fn set_check_state(&self, id: &CheckId, status: Status, output: String) {
        if let Some(entry) = self.registry.lock().checks.get_mut(id) {
            self.set_state_of(entry, status, output);
        }
    }

    /// The same under the lock that the entry stands for.
    pub(crate) fn set_state_of(&self, entry: &mut CheckEntry, status: Status, output: String) {
        let reloadable = self.reloadable.load();
        let output = if reloadable.discard_check_output { String::new() } else { output };
        entry.soon = false;
        note_critical(entry, status);
        if entry.check.status == status && entry.check.output == output {
            return;
        }
        if entry.check.status == status && !reloadable.check_update_interval.is_zero() {
            entry.check.output = output;
            let wait = reloadable.check_update_interval;
            entry.output_due.get_or_insert_with(|| Instant::now() + wait / 2 + wait.mul_f64(fastrand::f64()));
        } else {
            if entry.check.status != status {
                tracing::info!("agent: Check {:?} is now {}", entry.check.id.as_str(), status.as_str());
            }
            entry.check.status = status;
            entry.check.output = output;
            entry.output_due = None;
            entry.synced = false;
            self.push_soon(&entry.check.id);
        }
        self.bump();
        self.alias_nudge.notify_one();
        self.sync_nudge.notify_one();
    }

    /// Has the reconciler push a check: a slow store must not hold up the results of other checks.
    pub(crate) fn push_soon(&self, id: &CheckId) {
        self.pushes.send_modify(|pushes| {
            pushes.insert(id.clone());
        });
    }

    /// Pushes check states that have changed, several at a time, until told to stop.
    pub(crate) async fn push_states(self: Arc<Self>) {
        let mut pushes = self.pushes.subscribe();
        loop {
            tokio::select! {
                changed = pushes.changed() => if changed.is_err() { return },
                () = self.stop.requested() => return,
            }
            let mut push_checks = Default::default();
            self.pushes.send_if_modified(|pending| {
                std::mem::swap(pending, &mut push_checks);
                false
            });
            let effects = Effects { push_checks, ..Effects::default() };
            self.push(&effects).await;
        }
    }

    /// Keeps alias checks at the state of what they mirror, until told to stop.
    pub(crate) async fn follow_aliases(self: Arc<Self>) {
        loop {
            let local = *self.version.borrow();
            let reader = self.cluster.reader(&Caller::management(""));
            // Before anything is read: what changes while it is read is seen the next time.
            let seen = reader.current();
            let (topics, nodes) = self.settle_aliases(&reader);
            self.cluster.follow_nodes(nodes);
            let remote_changed = async {
                if topics.is_empty() {
                    std::future::pending::<()>().await;
                }
                reader.changed(&topics, seen).await;
            };
            let mut version = self.version.subscribe();
            tokio::select! {
                _ = version.wait_for(|now| *now != local) => {}
                () = self.alias_nudge.notified() => {}
                () = remote_changed => {}
                () = self.stop.requested() => return,
            }
        }
    }

    /// Works out all alias checks once; gives what to watch for those that mirror another node, and which nodes those are.
    fn settle_aliases(&self, reader: &Reader) -> (Vec<Topic>, BTreeSet<String>) {
        let (mut topics, mut nodes) = (Vec::new(), BTreeSet::new());
        let results: Vec<(CheckId, Status, String)> = {
            let registry = self.registry.lock();
            let aliases = Aliases { registry: &registry, node: &self.config.node_name };
            registry
                .checks
                .iter()
                .filter(|(_, entry)| matches!(entry.running, Some(Running::Alias)))
                .map(|(id, entry)| {
                    let (status, output) = if aliases.is_local(entry) {
                        aliases.says(entry, &mut BTreeSet::new())
                    } else {
                        let service = &entry.spec.alias_service;
                        let node = NodeName::from(entry.spec.alias_node.as_str());
                        topics.push(Topic::Node(node.folded().as_str().into()));
                        nodes.insert(node.as_str().to_owned());
                        let rows = reader.checks_of_node(node.as_str()).value;
                        let checks = rows.iter().map(|row| &row.check);
                        let of_service =
                            checks.filter(|check| check.service_id.is_empty() || check.service_id.same(service));
                        mirrored(of_service.map(|check| (check, check.status, Cow::from(&check.output))))
                    };
                    (id.clone(), status, output)
                })
                .collect()
        };
        for (id, status, output) in results {
            self.set_check_state(&id, status, output);
        }
        (topics, nodes)
    }

    /// Removes services that have been critical for longer than their definition allows, until told to stop.
    pub(crate) async fn reap_critical(self: Arc<Self>) {
        while self.stop.or_stopped(tokio::time::sleep(REAP_INTERVAL)).await.is_some() {
            let minimum = self.config.minimum_deregister_after;
            let found = overdue(&self.registry.lock(), minimum);
            for check in found {
                let Some((target, effects)) = reap(&mut self.registry.lock(), &check, minimum) else { continue };
                tracing::info!(
                    "agent: Check {:?} for service {:?} has been critical for too long; deregistered service",
                    check.as_str(),
                    target.as_str()
                );
                self.carry_out(effects).await;
            }
        }
    }

    /// Keeps the last report of a TTL check on disk, so that a restart of the agent does not make it critical.
    pub(crate) fn keep_report(&self, id: &CheckId) {
        let record = || {
            let registry = self.registry.lock();
            let entry = registry.checks.get(id)?;
            let ttl = i64::try_from(entry.spec.ttl.as_secs()).unwrap_or(i64::MAX);
            Some(CheckStateRecord {
                check_id: id.to_string(),
                output: entry.check.output.clone(),
                status: entry.check.status.as_str().to_owned(),
                expires: lictor_task::clock::unix_seconds().saturating_add(ttl),
            })
        };
        if self.config.data_dir.is_none() {
            return;
        }
        if let Err(error) = tokio::task::block_in_place(|| self.files.keep_check_state(id, record)) {
            tracing::warn!("agent: cannot keep the state of check {:?}: {error}", id.as_str());
        }
    }
}

/// Whether a result of a check does not count any more: what a TTL check says is that its time was over, and the application
/// has reported since.
fn is_outrun(entry: &CheckEntry) -> bool {
    let is_over = matches!(&entry.running, Some(Running::Runner(handle)) if handle.is_silent_for(entry.spec.ttl));
    entry.spec.kind() == CheckKind::Ttl && !is_over
}

/// Notes since when a check has been critical without a break.
pub(crate) fn note_critical(entry: &mut CheckEntry, status: Status) {
    match (status, entry.critical_since) {
        (Status::Critical, None) => entry.critical_since = Some(Instant::now()),
        (Status::Passing | Status::Warning, Some(_)) => entry.critical_since = None,
        _ => {}
    }
}

/// Checks that have been critical for longer than their service may stay.
fn overdue(registry: &Registry, minimum: Duration) -> Vec<CheckId> {
    registry.checks.iter().filter(|(_, entry)| is_overdue(entry, minimum)).map(|(id, _)| id.clone()).collect()
}

fn is_overdue(entry: &CheckEntry, minimum: Duration) -> bool {
    let limit = entry.spec.deregister_critical_service_after;
    !limit.is_zero()
        && !entry.check.service_id.is_empty()
        && entry.critical_since.is_some_and(|since| since.elapsed() > limit.max(minimum))
}

/// Removes the service of a check, if the check is overdue still: taking others out of the catalog takes a while, in which
/// it may have recovered. A managed proxy goes with what it was generated for, a sidecar by itself.
fn reap(registry: &mut Registry, check: &CheckId, minimum: Duration) -> Option<(ServiceId, Effects)> {
    let service = registry.checks.get(check).filter(|entry| is_overdue(entry, minimum))?.check.service_id.clone();
    let target = registry.proxies.get(&service).map_or(service, |proxy| proxy.target.clone());
    let effects = registry.deregister(&target);
    Some((target, effects))
}

/// The alias checks of this agent.
struct Aliases<'a> {
    registry: &'a Registry,
    node: &'a NodeName,
}

impl<'a> Aliases<'a> {
    /// Whether an alias mirrors a service of this agent.
    fn is_local(&self, alias: &CheckEntry) -> bool {
        alias.spec.alias_node.is_empty() || self.node.same(&alias.spec.alias_node)
    }

    /// What an alias of a service of this agent says. Aliases among the service's checks are looked through, each once:
    /// those that mirror each other would keep each other critical for ever.
    fn says(&self, alias: &'a CheckEntry, seen: &mut BTreeSet<&'a CheckId>) -> (Status, String) {
        seen.insert(&alias.check.id);
        let service = ServiceId::from(alias.spec.alias_service.as_str());
        let said = self.registry.checks_of(&service).filter_map(|entry| {
            let check = &entry.check;
            if !matches!(entry.running, Some(Running::Alias)) || !self.is_local(entry) {
                return Some((check, check.status, Cow::from(&check.output)));
            }
            let (status, output) = (!seen.contains(&check.id)).then(|| self.says(entry, seen))?;
            Some((check, status, output.into()))
        });
        mirrored(said)
    }
}

/// What is kept of the output of a check that is mirrored: an alias on another node may mirror ours in turn.
const MIRRORED: usize = 4096;

/// What an alias of these checks says, each with its state and output: the first critical one decides, else the last
/// warning, else all is well.
fn mirrored<'a>(checks: impl Iterator<Item = (&'a Check, Status, Cow<'a, str>)>) -> (Status, String) {
    let mut worst = None;
    let mut any = false;
    for (check, status, output) in checks {
        any = true;
        match status {
            Status::Critical => {
                worst = Some((check, status, output));
                break;
            }
            Status::Warning => worst = Some((check, status, output)),
            Status::Passing => {}
        }
    }
    match worst {
        Some((check, status, output)) => {
            let output = text::beginning(&output, MIRRORED);
            (status, format!("Aliased check {:?} failing: {output}", check.name))
        }
        None if any => (Status::Passing, "All checks passing.".into()),
        None => (Status::Passing, "No checks found.".into()),
    }
}

#[cfg(test)]
mod tests {
    use lictor_model::health::CheckSpec;

    use super::*;
    use crate::registry::Origin;

    fn check(name: &str, status: Status) -> Check {
        Check { name: name.into(), status, output: "out".into(), ..Check::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn an_expiry_that_the_application_outran_does_not_count() {
        let spec = CheckSpec { ttl: Duration::from_secs(10), ..CheckSpec::default() };
        let (results, mut expiries) = mpsc::channel(1);
        let handle = Runner::start(spec.clone(), lictor_check::Config::default(), move |result| {
            let results = results.clone();
            async move { results.send(result).await.unwrap() }
        });
        let expiry = expiries.recv().await.unwrap();
        assert_eq!(expiry.status, Status::Critical);
        let entry = |running| CheckEntry {
            check: Check::default(),
            spec: spec.clone(),
            token: String::new(),
            origin: crate::registry::Origin::Api,
            synced: false,
            output_due: None,
            critical_since: None,
            soon: false,
            running,
        };
        let waiting = entry(Some(Running::Runner(handle)));
        assert!(!is_outrun(&waiting));
        let Some(Running::Runner(handle)) = &waiting.running else { panic!() };
        handle.ttl_update(Status::Passing, "");
        assert!(is_outrun(&waiting));
        assert!(is_outrun(&entry(None)), "registered anew, and not started yet");
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(!is_outrun(&waiting));
    }

    #[test]
    fn an_alias_says_what_the_first_critical_check_says() {
        let checks = [check("w", Status::Warning), check("c", Status::Critical), check("d", Status::Critical)];
        let said =
            |checks: &[Check]| mirrored(checks.iter().map(|check| (check, check.status, (&check.output).into())));
        assert_eq!(said(&checks), (Status::Critical, "Aliased check \"c\" failing: out".into()));
        assert_eq!(said(&checks[..1]).0, Status::Warning);
        assert_eq!(said(&[check("p", Status::Passing)]), (Status::Passing, "All checks passing.".into()));
        assert_eq!(said(&[]), (Status::Passing, "No checks found.".into()));
    }

    /// A registry with one TTL check of a service that may be critical for `limit`.
    fn registry(limit: Duration) -> Registry {
        let spec = CheckSpec {
            ttl: Duration::from_secs(3600),
            deregister_critical_service_after: limit,
            ..CheckSpec::default()
        };
        let entry = CheckEntry {
            check: Check { service_id: "web".into(), ..check("c", Status::Critical) },
            spec,
            token: String::new(),
            origin: Origin::Api,
            synced: false,
            output_due: None,
            critical_since: None,
            soon: false,
            running: None,
        };
        let mut registry = Registry::default();
        registry.checks.insert("c".into(), entry);
        registry
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_is_overdue_when_it_was_critical_for_longer_than_it_may_without_a_break() {
        let minute = Duration::from_secs(60);
        let second = Duration::from_secs(1);
        let mut registry = registry(Duration::from_secs(10));
        let told = |registry: &mut Registry, status| note_critical(entry_of(registry), status);
        let is_overdue = |registry: &Registry| !overdue(registry, minute).is_empty();

        told(&mut registry, Status::Critical);
        tokio::time::advance(minute).await;
        assert!(!is_overdue(&registry), "no limit is below the minimum");
        // Being critical once more is no break, and anything else is one.
        told(&mut registry, Status::Critical);
        tokio::time::advance(second).await;
        assert_eq!(overdue(&registry, minute), ["c".into()]);
        told(&mut registry, Status::Warning);
        assert!(!is_overdue(&registry));
        tokio::time::advance(minute + second).await;
        assert!(!is_overdue(&registry));
        told(&mut registry, Status::Critical);
        tokio::time::advance(minute).await;
        assert!(!is_overdue(&registry), "the time runs from the second failure");
        tokio::time::advance(second).await;
        assert!(is_overdue(&registry));

        // Found overdue, and well again by the time it is its turn.
        let found = overdue(&registry, minute);
        let turn = |registry: &mut Registry| reap(registry, &found[0], minute).map(|(target, _)| target);
        told(&mut registry, Status::Passing);
        assert_eq!(turn(&mut registry), None);
        told(&mut registry, Status::Critical);
        tokio::time::advance(minute + second).await;
        assert_eq!(turn(&mut registry), Some("web".into()));

        entry_of(&mut registry).spec.deregister_critical_service_after = minute * 5;
        assert!(!is_overdue(&registry));
        entry_of(&mut registry).spec.deregister_critical_service_after = Duration::ZERO;
        tokio::time::advance(minute * 10).await;
        assert!(!is_overdue(&registry), "without a limit it stays");
        let entry = entry_of(&mut registry);
        entry.spec.deregister_critical_service_after = second;
        entry.check.service_id = ServiceId::default();
        assert!(!is_overdue(&registry), "a check of the node has no service to remove");
    }

    fn entry_of(registry: &mut Registry) -> &mut CheckEntry {
        registry.checks.get_mut("c").unwrap()
    }
}
