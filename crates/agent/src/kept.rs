//! What a check says from the start of the agent until its first run: what it said before, if it is still the same check.
//!
//! An agent that is started anew knows nothing yet, and critical would be a guess that takes every instance out of use for
//! up to an interval. The last known state is in the catalog, where this agent wrote it; a digest of what each check of a
//! file looks at is on disk, because the files may have changed meanwhile. Checks of the API are on disk as a whole.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use lictor_model::health::{Check, CheckKind, CheckSpec};
use lictor_model::name::CheckId;

use crate::agent::Inner;
use crate::checks::note_critical;
use crate::record::CheckTypeShape;
use crate::registry::{Effects, Origin, Registry};

/// First runs that are due soon are so far apart on average: neither programs nor connections start by thousands at once.
const BETWEEN_FIRST_RUNS: Duration = Duration::from_millis(2);
/// A few of them are spread over this time at least.
const FIRST_RUNS: Duration = Duration::from_secs(1);

/// What checks look at, by id, as digests.
pub type Known = BTreeMap<CheckId, String>;

/// Stands for what a check looks at: its kind and target, not how often or under what name. What is not set is left out,
/// so that a kind of check that a later version adds changes no other's digest.
pub fn looks_at(spec: &CheckSpec) -> String {
    let shape = CheckTypeShape {
        CheckID: String::new(),
        Name: String::new(),
        Status: String::new(),
        Notes: String::new(),
        Interval: 0,
        Timeout: 0,
        TTL: 0,
        DeregisterCriticalServiceAfter: 0,
        ..CheckTypeShape::from(spec)
    };
    let members = |shape: &CheckTypeShape| match serde_json::to_value(shape) {
        Ok(serde_json::Value::Object(members)) => members,
        _ => serde_json::Map::new(),
    };
    let unset = members(&CheckTypeShape::default());
    let set: BTreeMap<_, _> =
        members(&shape).into_iter().filter(|(name, value)| unset.get(name) != Some(value)).collect();
    let text = serde_json::to_vec(&set).unwrap_or_default();
    digest(&SHA256, &text).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Gives checks that look at what they looked at before the state that the catalog has of them. They run soon, and so do
/// those that were there and look at something else now.
pub fn keep_states(registry: &mut Registry, known: &Known, rows: &BTreeMap<CheckId, Check>, discard_output: bool) {
    for (id, entry) in &mut registry.checks {
        // A TTL check has its reports on disk, with the time for which they hold; maintenance is critical anyway.
        if matches!(entry.spec.kind(), CheckKind::Ttl | CheckKind::None) {
            continue;
        }
        let Some(before) = known.get(id) else { continue };
        entry.soon = true;
        if let Some(row) = rows.get(id)
            && row.service_id == entry.check.service_id
            && *before == looks_at(&entry.spec)
        {
            entry.check.status = row.status;
            entry.check.output = if discard_output { String::new() } else { row.output.clone() };
            note_critical(entry, row.status);
        }
    }
}

/// Within what time so many checks have their first runs.
pub fn first_runs(checks: usize) -> Duration {
    BETWEEN_FIRST_RUNS.saturating_mul(u32::try_from(checks).unwrap_or(u32::MAX)).max(FIRST_RUNS)
}

impl Inner {
    /// Remembers what the checks of files look at, if a change made one of them start. What is not there any more may stay
    /// remembered: without a state in the catalog it is of no effect.
    pub(crate) fn keep_known(&self, effects: &Effects) {
        if self.config.data_dir.is_none() {
            return;
        }
        let record = || {
            let registry = self.registry.lock();
            let of_files = registry.checks.iter().filter(|(_, entry)| entry.origin == Origin::File);
            of_files.map(|(id, entry)| (id.clone(), looks_at(&entry.spec))).collect()
        };
        let concerned = {
            let registry = self.registry.lock();
            effects.start_checks.iter().any(|id| registry.checks.get(id).is_some_and(|one| one.origin == Origin::File))
        };
        if !concerned {
            return;
        }
        if let Err(error) = tokio::task::block_in_place(|| self.files.keep_known(record)) {
            tracing::warn!(
                "agent: cannot keep what the checks of files look at: after a restart they begin anew: {error}"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_the_same_as_long_as_it_looks_at_the_same() {
        let spec = CheckSpec { tcp: "127.0.0.1:80".into(), interval: Duration::from_secs(1), ..CheckSpec::default() };
        let renamed = CheckSpec {
            name: "n".into(),
            notes: "n".into(),
            interval: Duration::from_secs(9),
            timeout: Duration::from_secs(2),
            token: "t".into(),
            ..spec.clone()
        };
        assert_eq!(looks_at(&spec), looks_at(&renamed));
        let elsewhere = CheckSpec { tcp: "127.0.0.1:81".into(), ..spec.clone() };
        let otherwise = CheckSpec { tcp: String::new(), http: "http://127.0.0.1:80".into(), ..spec.clone() };
        assert_ne!(looks_at(&spec), looks_at(&elsewhere));
        assert_ne!(looks_at(&spec), looks_at(&otherwise));
        // What is on disk is compared with what later versions make of it.
        assert_eq!(looks_at(&spec), "ca694e98032cc0b17a3ab6c9c59e4ed0b7c6d9f8c47a6cd78b734946ee9d33ad");
    }

    #[test]
    fn first_runs_of_many_checks_are_spread() {
        assert_eq!(first_runs(1), Duration::from_secs(1));
        assert_eq!(first_runs(5000), Duration::from_secs(10));
    }
}
