//! Leases: keys that are deleted when nobody says in time that they are still wanted.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use bytes::Bytes;

/// Names a lease. Never zero, never used twice by one store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub NonZeroU64);

impl LeaseId {
    /// The lease of this number; zero is none.
    pub fn new(number: u64) -> Option<LeaseId> {
        NonZeroU64::new(number).map(LeaseId)
    }

    /// Its number, for storing it.
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The longest time to live: longer ones are as good as endless, and far from the edges of the clock's arithmetic.
pub(crate) const LONGEST_TTL: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

struct Lease {
    ttl: Duration,
    deadline: Instant,
    keys: BTreeSet<Bytes>,
}

/// The living leases, what hangs on them, and which ends first.
#[derive(Default)]
pub(crate) struct Leases {
    leases: HashMap<LeaseId, Lease>,
    by_deadline: BTreeSet<(Instant, LeaseId)>,
}

impl Leases {
    pub(crate) fn grant(&mut self, id: LeaseId, ttl: Duration, now: Instant) {
        let deadline = now + ttl;
        self.by_deadline.insert((deadline, id));
        self.leases.insert(id, Lease { ttl, deadline, keys: BTreeSet::new() });
    }

    /// Gives a lease its whole time again; `false` when it is gone or its time is up, even if it was not reaped yet.
    pub(crate) fn keep_alive(&mut self, id: LeaseId, now: Instant) -> bool {
        let Some(lease) = self.leases.get_mut(&id).filter(|lease| lease.deadline > now) else { return false };
        self.by_deadline.remove(&(lease.deadline, id));
        lease.deadline = now + lease.ttl;
        self.by_deadline.insert((lease.deadline, id));
        true
    }

    pub(crate) fn end(&mut self, id: LeaseId) {
        if let Some(lease) = self.leases.remove(&id) {
            self.by_deadline.remove(&(lease.deadline, id));
        }
    }

    pub(crate) fn attach(&mut self, id: LeaseId, key: Bytes) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.keys.insert(key);
        }
    }

    pub(crate) fn detach(&mut self, id: LeaseId, key: &Bytes) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.keys.remove(key);
        }
    }

    pub(crate) fn contains(&self, id: LeaseId) -> bool {
        self.leases.contains_key(&id)
    }

    pub(crate) fn keys(&self, id: LeaseId) -> impl Iterator<Item = &Bytes> {
        self.leases.get(&id).into_iter().flat_map(|lease| &lease.keys)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (LeaseId, Duration)> {
        self.leases.iter().map(|(id, lease)| (*id, lease.ttl))
    }

    /// The leases whose time is up.
    pub(crate) fn due(&self, now: Instant) -> Vec<LeaseId> {
        self.by_deadline.iter().take_while(|(deadline, _)| *deadline <= now).map(|(_, id)| *id).collect()
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.by_deadline.first().map(|(deadline, _)| *deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    #[test]
    fn a_lease_that_was_kept_alive_is_due_later() {
        let start = Instant::now();
        let (first, second) = (LeaseId::new(1).unwrap(), LeaseId::new(2).unwrap());
        let mut leases = Leases::default();
        leases.grant(first, TTL, start);
        leases.grant(second, TTL, start);
        assert!(leases.keep_alive(first, start + TTL / 2));
        assert_eq!(leases.due(start + TTL), [second]);
        assert_eq!(leases.due(start + TTL * 2), [second, first]);
        leases.end(second);
        assert_eq!(leases.next_deadline(), Some(start + TTL / 2 + TTL));
    }

    #[test]
    fn a_lease_whose_time_is_up_cannot_be_kept_alive() {
        let start = Instant::now();
        let id = LeaseId::new(1).unwrap();
        let mut leases = Leases::default();
        leases.grant(id, TTL, start);
        assert!(!leases.keep_alive(id, start + TTL), "the reaper may be late, the answer must not depend on it");
        assert!(!leases.keep_alive(LeaseId::new(2).unwrap(), start));
    }
}
