//! Sessions: who holds locks, and what ends that.

use std::time::Duration;

use lictor_model::name::{CheckId, NodeName};
use lictor_model::revision::Revision;
use lictor_notation::duration::{self, GoDuration};

/// What becomes of the keys that a session holds when it ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Behavior {
    /// They are unlocked.
    #[default]
    Release,
    /// They are deleted.
    Delete,
}

impl Behavior {
    /// Reads `release` or `delete`; empty is `release`.
    pub fn parse(text: &str) -> Option<Behavior> {
        match text {
            "" | "release" => Some(Behavior::Release),
            "delete" => Some(Behavior::Delete),
            _ => None,
        }
    }

    /// The word in definitions and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Behavior::Release => "release",
            Behavior::Delete => "delete",
        }
    }
}

/// The holder of locks: lives as long as its node, its checks and its time allow.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Session {
    /// A UUID given at creation.
    pub id: String,
    /// For people.
    pub name: String,
    /// The node it stands for.
    pub node: NodeName,
    /// Checks of the node; one of them critical or removed ends the session.
    pub checks: Vec<CheckId>,
    /// How long nobody can lock what it held after it ended; see [`Session::effective_lock_delay`].
    pub lock_delay: Duration,
    /// What becomes of what it held.
    pub behavior: Behavior,
    /// Its time to live as given (`15s`); empty means without end.
    pub ttl: String,
    /// First written.
    pub created: Revision,
    /// Last changed.
    pub modified: Revision,
}

/// The longest lock delay that counts.
const LONGEST_LOCK_DELAY: Duration = Duration::from_secs(60);

/// The longest time to live.
const LONGEST_TTL: Duration = Duration::from_secs(24 * 3600);

/// A session may live up to twice its time to live, as in the original: holders renew in good time without hurry, and
/// a server that takes over gives everyone another chance.
const PATIENCE: u32 = 2;

impl Session {
    /// The lock delay that counts; a longer one is only shown.
    pub fn effective_lock_delay(&self) -> Duration {
        self.lock_delay.min(LONGEST_LOCK_DELAY)
    }

    /// How long it lives after it was last renewed; `None` without end.
    pub fn lifetime(&self) -> Option<Duration> {
        self.time_to_live().map(|ttl| ttl * PATIENCE)
    }

    /// Its time to live, if it has one.
    pub(crate) fn time_to_live(&self) -> Option<Duration> {
        // Checked when it was created; what cannot be read any more must not end it.
        duration::parse(&self.ttl).ok().filter(|ttl| !ttl.is_zero())
    }

    /// Checks the time to live; the texts are the ones clients know.
    pub(crate) fn validate_ttl(&self, shortest: Duration) -> Result<(), String> {
        if self.ttl.is_empty() {
            return Ok(());
        }
        let given: GoDuration =
            self.ttl.parse().map_err(|error| format!("Session TTL '{}' invalid: {error}", self.ttl))?;
        let bounds = GoDuration::from(shortest)..=GoDuration::from(LONGEST_TTL);
        if given.nanos() != 0 && !bounds.contains(&given) {
            let (shortest, longest) = bounds.into_inner();
            let nanos = given.nanos();
            return Err(format!("Invalid Session TTL '{nanos}', must be between [{shortest}={longest}]"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_ttl(ttl: &str) -> Session {
        Session { ttl: ttl.into(), ..Session::default() }
    }

    #[test]
    fn a_time_to_live_has_bounds() {
        let check = |ttl| with_ttl(ttl).validate_ttl(Duration::from_secs(10));
        assert_eq!(check(""), Ok(()));
        assert_eq!(check("0s"), Ok(()));
        assert_eq!(check("10s"), Ok(()));
        assert_eq!(check("1s").unwrap_err(), "Invalid Session TTL '1000000000', must be between [10s=24h0m0s]");
        assert_eq!(check("25h").unwrap_err(), "Invalid Session TTL '90000000000000', must be between [10s=24h0m0s]");
        assert!(check("-15s").is_err() && check("x").unwrap_err().starts_with("Session TTL 'x' invalid: time: "));
    }

    #[test]
    fn a_session_lives_twice_its_time() {
        assert_eq!(with_ttl("15s").lifetime(), Some(Duration::from_secs(30)));
        assert_eq!(with_ttl("0s").lifetime(), None);
        assert_eq!(with_ttl("").lifetime(), None);
    }
}
