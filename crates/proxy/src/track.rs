//! The connections that are being carried, so that a changed intention can end those it concerns.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lictor_tls::Peer;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::authorize::{Policy, Verdict};
use crate::outcome::Carried;

/// All connections that are being carried, and how many there are from `accept` on.
#[derive(Default)]
pub(crate) struct Tracker {
    live: Mutex<Live>,
    inbound: AtomicUsize,
    outbound: AtomicUsize,
    /// For whoever waits for none: a direction has become empty.
    emptied: Notify,
}

/// Who opened a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// A peer.
    Inbound,
    /// Our application.
    Outbound,
}

/// How many connections a proxy has.
#[derive(Clone)]
pub struct Connections(pub(crate) Arc<Tracker>);

impl Connections {
    /// How many now.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

/// A connection that was accepted; it counts until this is dropped.
pub(crate) struct Accepted {
    tracker: Arc<Tracker>,
    direction: Direction,
}

impl Drop for Accepted {
    fn drop(&mut self) {
        if self.tracker.counter(self.direction).fetch_sub(1, Ordering::AcqRel) == 1 {
            self.tracker.emptied.notify_waiters();
        }
    }
}

#[derive(Default)]
struct Live {
    next: u64,
    entries: HashMap<u64, Entry>,
    /// Every connection shall end.
    over: bool,
}

struct Entry {
    /// Of connections from peers: who, and what decides about it; those we dialled are the other side's to decide.
    judged: Option<(Arc<Peer>, Arc<Policy>)>,
    task: Option<AbortHandle>,
    /// Which of its tasks that is: those that carried it before have smaller numbers.
    step: u64,
    cut: Option<String>,
}

impl Entry {
    fn cut_if_denied(&mut self) {
        if let (Some((client, policy)), None) = (&self.judged, &self.cut)
            && let Verdict::Denied(reason) = policy.decide(client)
        {
            self.cut = Some(reason);
            if let Some(task) = self.task.take() {
                task.abort();
            }
        }
    }
}

/// One connection's place in the table; leaves it when dropped.
pub(crate) struct Place {
    tracker: Arc<Tracker>,
    id: u64,
    _accepted: Accepted,
}

impl Tracker {
    /// Counts a connection from now on: one that is still shaking hands is not to be forgotten at the end.
    pub(crate) fn accepted(self: &Arc<Self>, direction: Direction) -> Accepted {
        self.counter(direction).fetch_add(1, Ordering::AcqRel);
        Accepted { tracker: Arc::clone(self), direction }
    }

    fn counter(&self, direction: Direction) -> &AtomicUsize {
        match direction {
            Direction::Inbound => &self.inbound,
            Direction::Outbound => &self.outbound,
        }
    }

    /// Takes a connection into the table.
    pub(crate) fn enter(self: &Arc<Self>, judged: Option<(Arc<Peer>, Arc<Policy>)>) -> Place {
        let accepted = self.accepted(if judged.is_some() { Direction::Inbound } else { Direction::Outbound });
        let mut live = self.live.lock();
        let id = live.next;
        live.next += 1;
        live.entries.insert(id, Entry { judged, task: None, step: 0, cut: None });
        Place { tracker: Arc::clone(self), id, _accepted: accepted }
    }

    /// Says which task carries a connection, and which of them it is, from 1 on. It may have ended already, and a later one
    /// may have been named before: tasks that start each other on several threads get here in any order.
    pub(crate) fn carried_by(&self, id: u64, step: u64, task: AbortHandle) {
        let mut live = self.live.lock();
        let over = live.over;
        if let Some(entry) = live.entries.get_mut(&id)
            && step > entry.step
        {
            entry.step = step;
            if over || entry.cut.is_some() {
                task.abort();
            } else {
                entry.task = Some(task);
            }
        }
    }

    /// Decides again about every connection from a peer and ends those that are denied now.
    pub(crate) fn cut_denied(&self) {
        for entry in self.live.lock().entries.values_mut() {
            entry.cut_if_denied();
        }
    }

    /// The same for one connection.
    pub(crate) fn cut_if_denied(&self, id: u64) {
        if let Some(entry) = self.live.lock().entries.get_mut(&id) {
            entry.cut_if_denied();
        }
    }

    /// Ends every connection.
    pub(crate) fn end_all(&self) {
        let mut live = self.live.lock();
        live.over = true;
        for task in live.entries.values_mut().filter_map(|entry| entry.task.take()) {
            task.abort();
        }
    }

    /// Waits until no connection of a direction is left. Cancel safe.
    pub(crate) async fn empty(&self, direction: Direction) {
        loop {
            let emptied = self.emptied.notified();
            if self.counter(direction).load(Ordering::Acquire) == 0 {
                return;
            }
            emptied.await;
        }
    }

    /// How many connections there are, and how many of them peers opened.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let inbound = self.inbound.load(Ordering::Acquire);
        (inbound + self.outbound.load(Ordering::Acquire), inbound)
    }

    /// How many connections there are. One that has just been secured may count twice for an instant.
    pub(crate) fn len(&self) -> usize {
        self.inbound.load(Ordering::Acquire) + self.outbound.load(Ordering::Acquire)
    }
}

impl Place {
    /// What this connection is called in the table.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// How a connection ended that came to no end of its own.
    pub(crate) fn end(&self) -> Carried {
        self.cut().map_or(Carried::Stopped, Carried::Cut)
    }

    /// Why the connection was ended, if it was.
    pub(crate) fn cut(&self) -> Option<String> {
        self.tracker.live.lock().entries.get(&self.id).and_then(|entry| entry.cut.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut live = self.tracker.live.lock();
        live.entries.remove(&self.id);
        if live.entries.is_empty() {
            // A burst must not keep its table.
            live.entries.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use lictor_model::identity::{ServiceIdentity, TrustDomain};
    use lictor_model::intention::Action;

    use super::*;
    use crate::control::Matched;

    fn peer(service: &str) -> Arc<Peer> {
        let identity = ServiceIdentity::new(&TrustDomain::new("x.consul"), "dc1", service.into());
        Arc::new(Peer { uri: identity.to_string(), identity, serial: "01".into(), not_before: 0, not_after: 1 })
    }

    #[tokio::test]
    async fn a_denied_client_loses_its_connections_and_nobody_else() {
        let tracker = Arc::new(Tracker::default());
        let policy = Arc::new(Policy::default());
        let (inbound, outbound) = (tracker.enter(Some((peer("web"), Arc::clone(&policy)))), tracker.enter(None));
        let task = tokio::spawn(std::future::pending::<()>());
        tracker.carried_by(inbound.id(), 1, task.abort_handle());
        policy.update(Matched { intentions: vec![], otherwise: Some(Action::Allow) });
        tracker.cut_denied();
        assert_eq!(inbound.cut(), None);
        policy.update(Matched { intentions: vec![], otherwise: Some(Action::Deny) });
        tracker.cut_denied();
        assert!(task.await.unwrap_err().is_cancelled());
        assert!(inbound.cut().is_some() && outbound.cut().is_none());
    }

    #[tokio::test]
    async fn a_cut_reaches_a_connection_whose_task_is_not_known_yet() {
        let tracker = Arc::new(Tracker::default());
        let policy = Arc::new(Policy::default());
        let place = tracker.enter(Some((peer("web"), Arc::clone(&policy))));
        policy.update(Matched { intentions: vec![], otherwise: Some(Action::Deny) });
        tracker.cut_denied();
        let task = tokio::spawn(std::future::pending::<()>());
        tracker.carried_by(place.id(), 1, task.abort_handle());
        assert!(task.await.unwrap_err().is_cancelled());
    }

    #[tokio::test]
    async fn a_cut_reaches_the_task_that_carries_now_in_whatever_order_they_were_named() {
        let tracker = Arc::new(Tracker::default());
        let policy = Arc::new(Policy::default());
        let place = tracker.enter(Some((peer("web"), Arc::clone(&policy))));
        let [before, now] = [(); 2].map(|()| tokio::spawn(std::future::pending::<()>()));
        tracker.carried_by(place.id(), 2, now.abort_handle());
        tracker.carried_by(place.id(), 1, before.abort_handle());
        policy.update(Matched { intentions: vec![], otherwise: Some(Action::Deny) });
        tracker.cut_denied();
        assert!(now.await.unwrap_err().is_cancelled());
        assert!(!before.is_finished(), "it has passed the connection on and is nobody's to end");
        before.abort();
    }

    #[tokio::test]
    async fn an_end_of_all_reaches_a_task_that_is_named_later() {
        let tracker = Arc::new(Tracker::default());
        let place = tracker.enter(None);
        tracker.end_all();
        let task = tokio::spawn(std::future::pending::<()>());
        tracker.carried_by(place.id(), 1, task.abort_handle());
        assert!(task.await.unwrap_err().is_cancelled());
    }

    #[tokio::test]
    async fn the_table_says_when_it_is_empty() {
        let tracker = Arc::new(Tracker::default());
        let place = tracker.enter(None);
        assert_eq!(tracker.len(), 1);
        let waiting = tokio::spawn({
            let tracker = Arc::clone(&tracker);
            async move {
                tracker.empty(Direction::Inbound).await;
                tracker.empty(Direction::Outbound).await;
            }
        });
        drop(place);
        waiting.await.unwrap();
    }
}
