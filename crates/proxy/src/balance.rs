//! Which instance takes the next connection, and which ones are left alone for a while.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lictor_tls::Target;
use parking_lot::Mutex;

use crate::direct::Link;
use crate::settings::Place;

/// Failures in a row after which an instance is left alone.
const MAX_FAILURES: u32 = 3;
/// For how long at first; doubles with each further failure.
const FIRST_REST: Duration = Duration::from_secs(5);
/// For how long at most.
const LONGEST_REST: Duration = Duration::from_secs(60);

/// An instance that can be dialled, with what we know of it from dialling.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) id: String,
    pub(crate) place: Place,
    /// Where it is, when its host is no name.
    pub(crate) address: Option<SocketAddr>,
    pub(crate) target: Target,
    /// What it is to us if it is of our agent.
    pub(crate) link: Link,
    weight: u16,
    active: AtomicU64,
    /// Counts the sessions to it that broke.
    losses: AtomicU32,
    /// Failures in a row, of those that count.
    failures: AtomicU32,
    rests_until: Mutex<Option<Instant>>,
}

impl Instance {
    pub(crate) fn new(id: String, place: Place, target: Target, weight: u16) -> Instance {
        Instance {
            id,
            address: place.address(),
            place,
            target,
            link: Link::default(),
            weight: weight.max(1),
            active: AtomicU64::new(0),
            losses: AtomicU32::new(0),
            failures: AtomicU32::new(0),
            rests_until: Mutex::new(None),
        }
    }

    pub(crate) fn weight(&self) -> u16 {
        self.weight
    }

    /// Counts a connection for as long as the answer lives.
    pub(crate) fn engage(self: &Arc<Self>) -> Engaged {
        self.active.fetch_add(1, Ordering::Relaxed);
        Engaged(Arc::clone(self))
    }

    /// How many sessions to it have broken. A session that was made when there were fewer may lead to a process that is
    /// no more.
    pub(crate) fn losses(&self) -> u32 {
        self.losses.load(Ordering::Acquire)
    }

    /// A session to it broke. When a process dies the kernel closes its sockets one after the other, so none of the other
    /// sessions made so far is given to a new connection.
    pub(crate) fn lost(&self) {
        self.losses.fetch_add(1, Ordering::Release);
    }

    /// A connection was secured.
    pub(crate) fn succeeded(&self) {
        // Mostly there is nothing to forget, and a read costs other cores nothing.
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
            *self.rests_until.lock() = None;
        }
    }

    /// A connection that was begun then could not be made. True when the instance is left alone from now on.
    pub(crate) fn failed(&self, begun: Instant, now: Instant) -> bool {
        let mut rests_until = self.rests_until.lock();
        // Many that fail together say no more than the first ones of them. Only what is begun after a rest can tell that it
        // was too short.
        if rests_until.is_some_and(|until| begun < until) {
            return false;
        }
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let Some(beyond) = failures.checked_sub(MAX_FAILURES) else { return false };
        let rest = FIRST_REST.saturating_mul(1 << beyond.min(8)).min(LONGEST_REST);
        *rests_until = Some(now + rest);
        true
    }

    fn rests(&self, now: Instant) -> bool {
        self.failures.load(Ordering::Relaxed) >= MAX_FAILURES
            && self.rests_until.lock().is_some_and(|until| until > now)
    }

    /// Smaller is freer: connections including the next one, by weight.
    fn load(&self) -> f64 {
        (self.active.load(Ordering::Relaxed) + 1) as f64 / f64::from(self.weight)
    }
}

/// One connection in the count of its instance.
#[derive(Debug)]
pub(crate) struct Engaged(Arc<Instance>);

impl Drop for Engaged {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How one is chosen among several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Order {
    #[default]
    /// They are alike: the freer one of two drawn by weight.
    Any,
    /// The first ones are better.
    AsGiven,
}

/// Chooses an instance that was not tried yet. One that is left alone is chosen only when there is no other: a wrong
/// guess about it must not make a service unreachable.
pub(crate) fn choose(
    instances: &[Arc<Instance>],
    tried: &[Arc<Instance>],
    order: Order,
    now: Instant,
) -> Option<Arc<Instance>> {
    let untried: Vec<&Arc<Instance>> =
        instances.iter().filter(|one| !tried.iter().any(|other| Arc::ptr_eq(one, other))).collect();
    let awake: Vec<&Arc<Instance>> = untried.iter().filter(|one| !one.rests(now)).copied().collect();
    let among = if awake.is_empty() { untried } else { awake };
    let chosen = match (order, among.len()) {
        (_, 0) => return None,
        (Order::AsGiven, _) | (_, 1) => among[0],
        (Order::Any, _) => {
            let first = draw(&among, None);
            let second = draw(&among, Some(first));
            let (first, second) = (among[first], among[second]);
            if second.load() < first.load() { second } else { first }
        }
    };
    Some(Arc::clone(chosen))
}

/// Draws one by weight, leaving out another.
fn draw(among: &[&Arc<Instance>], without: Option<usize>) -> usize {
    let weight = |at: usize| if Some(at) == without { 0 } else { u64::from(among[at].weight) };
    let total: u64 = (0..among.len()).map(weight).sum();
    let mut left = fastrand::u64(0..total.max(1));
    for at in 0..among.len() {
        match left.checked_sub(weight(at)) {
            Some(rest) => left = rest,
            None => return at,
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instances(weights: &[u16]) -> Vec<Arc<Instance>> {
        let place = Place { host: "127.0.0.1".into(), port: 1 };
        weights
            .iter()
            .enumerate()
            .map(|(at, weight)| {
                Arc::new(Instance::new(at.to_string(), place.clone(), Target::new(&place, "dc1", "db"), *weight))
            })
            .collect()
    }

    fn shares(instances: &[Arc<Instance>], rounds: usize) -> Vec<usize> {
        let mut engaged = Vec::new();
        let mut counts = vec![0; instances.len()];
        for _ in 0..rounds {
            let chosen = choose(instances, &[], Order::Any, Instant::now()).unwrap();
            counts[chosen.id.parse::<usize>().unwrap()] += 1;
            engaged.push(chosen.engage());
        }
        counts
    }

    #[test]
    fn connections_are_spread_by_weight() {
        let counts = shares(&instances(&[1, 1, 1]), 300);
        assert!(counts.iter().all(|count| (90..=110).contains(count)), "{counts:?}");
        let counts = shares(&instances(&[3, 1]), 400);
        assert!((295..=305).contains(&counts[0]), "{counts:?}");
    }

    #[test]
    fn an_instance_that_fails_is_left_alone_and_comes_back() {
        let all = instances(&[1, 1]);
        let now = Instant::now();
        assert!(!all[0].failed(now, now) && !all[0].failed(now, now));
        assert!(all[0].failed(now, now));
        for _ in 0..50 {
            assert_eq!(choose(&all, &[], Order::Any, now).unwrap().id, "1");
        }
        assert_eq!(choose(&all, &all[1..], Order::Any, now).unwrap().id, "0");
        let later = now + FIRST_REST;
        assert!((0..200).any(|_| choose(&all, &[], Order::Any, later).unwrap().id == "0"));
        all[0].succeeded();
        assert!((0..200).any(|_| choose(&all, &[], Order::Any, now).unwrap().id == "0"));
    }

    #[test]
    fn rests_grow_to_a_minute() {
        let all = instances(&[1]);
        let begin = Instant::now();
        let mut now = begin;
        let mut rests = Vec::new();
        while rests.len() < 6 {
            // As many as were under way when it failed.
            let rested = (0..50).filter(|_| all[0].failed(now, now)).count();
            assert_eq!(rested, 1);
            let until = all[0].rests_until.lock().unwrap();
            rests.push((until - now).as_secs());
            // While it rests it may be tried if there is no other.
            assert!(!all[0].failed(until - Duration::from_millis(1), until));
            assert!(all[0].rests(until - Duration::from_millis(1)) && !all[0].rests(until));
            now = until;
        }
        assert_eq!(rests, [5, 10, 20, 40, 60, 60]);
        all[0].succeeded();
        assert!(!all[0].failed(now, now) && !all[0].rests(now));
    }

    #[test]
    fn a_given_order_is_kept_until_the_first_ones_fail() {
        let all = instances(&[1, 1, 1]);
        let now = Instant::now();
        assert_eq!(choose(&all, &[], Order::AsGiven, now).unwrap().id, "0");
        assert_eq!(choose(&all, &all[..1], Order::AsGiven, now).unwrap().id, "1");
        for _ in 0..3 {
            all[0].failed(now, now);
        }
        assert_eq!(choose(&all, &[], Order::AsGiven, now).unwrap().id, "1");
        assert!(choose(&all, &all, Order::AsGiven, now).is_none());
        assert!(choose(&[], &[], Order::Any, now).is_none());
    }
}
