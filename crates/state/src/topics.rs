//! Who waits for what: wakes exactly those whose topics changed.
//!
//! When a topic last changed is not kept here but computed from the tables (see `replica`), so there is nothing to
//! leak: an entry exists only while somebody waits for its topic.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::future::{Future, poll_fn};
use std::mem::{Discriminant, discriminant};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::task::Poll;

use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::Notify;

use crate::answer::Topic;

/// All that wait.
#[derive(Debug, Default)]
pub(crate) struct Topics {
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    by_topic: HashMap<Topic, Arc<Watched>>,
    /// How many watched topics are of which kind; there are few kinds.
    kinds: Vec<(Discriminant<Topic>, usize)>,
    /// How many watched key prefixes have which length. A changed key is looked up once per length, not once per
    /// watched prefix nor once per byte of the key.
    prefix_lengths: BTreeMap<usize, usize>,
}

/// A topic that somebody waits for. All who wait for it share this: none has a record of its own that would have to be found
/// and taken out, under a lock over all that wait, by each of thousands that are woken at once.
#[derive(Debug)]
struct Watched {
    topic: Topic,
    /// How often it changed since somebody waits.
    changes: AtomicU64,
    changed: Notify,
    /// How many wait; grows under the lock only.
    waiting: AtomicUsize,
}

/// Kinds of topics that somebody waits for.
#[derive(Debug, Default)]
pub(crate) struct Kinds(Vec<Discriminant<Topic>>);

impl Kinds {
    /// Whether a topic that changed may wake anybody.
    pub(crate) fn have(&self, topic: &Topic) -> bool {
        self.0.contains(&kind(topic))
    }
}

/// The kind of topics by which this one is woken.
fn kind(topic: &Topic) -> Discriminant<Topic> {
    match topic {
        Topic::KeyPrefix(_) => discriminant(&Topic::Key(Box::default())),
        topic => discriminant(topic),
    }
}

/// One that waits; dropping it stops that.
#[derive(Debug)]
pub(crate) struct Waiter {
    topics: Arc<Topics>,
    /// With the changes that were seen. Nearly all wait for one.
    watched: SmallVec<[(Arc<Watched>, u64); 1]>,
}

impl Topics {
    /// Starts to wait for any of the topics. A wake between this call and [`Waiter::woken`] is not lost.
    pub(crate) fn wait(self: &Arc<Self>, watched: &[Topic]) -> Waiter {
        let mut waiting = self.waiting.lock();
        let watched = watched.iter().map(|topic| {
            let shared = waiting.watched(topic);
            shared.waiting.fetch_add(1, Relaxed);
            let seen = shared.changes.load(Acquire);
            (shared, seen)
        });
        Waiter { watched: watched.collect(), topics: Arc::clone(self) }
    }

    /// The kinds of topics that are waited for now.
    pub(crate) fn kinds(&self) -> Kinds {
        Kinds(self.waiting.lock().kinds.iter().map(|(kind, _)| *kind).collect())
    }

    /// Wakes all that wait for one of the topics.
    pub(crate) fn wake(&self, changed: impl IntoIterator<Item = Topic>) {
        let mut woken = Vec::new();
        {
            let waiting = self.waiting.lock();
            if waiting.by_topic.is_empty() {
                return;
            }
            for topic in changed {
                if let Topic::Key(key) = &topic {
                    for length in waiting.prefix_lengths.range(..=key.len()).map(|(length, _)| *length) {
                        if let Some(prefix) = key.get(..length) {
                            woken.extend(waiting.by_topic.get(&Topic::KeyPrefix(prefix.into())).cloned());
                        }
                    }
                }
                woken.extend(waiting.by_topic.get(&topic).cloned());
            }
        }
        tell(&woken);
    }

    /// Wakes all that wait, whatever for.
    pub(crate) fn wake_all(&self) {
        let woken: Vec<_> = self.waiting.lock().by_topic.values().cloned().collect();
        tell(&woken);
    }

    /// How many topics are waited for.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.waiting.lock().by_topic.len()
    }
}

/// Not under the lock: to wake thousands takes a while, in which the first of them are to get on.
fn tell(woken: &[Arc<Watched>]) {
    for watched in woken {
        watched.changes.fetch_add(1, Release);
        watched.changed.notify_waiters();
    }
}

impl Waiting {
    /// What all share who wait for a topic.
    fn watched(&mut self, topic: &Topic) -> Arc<Watched> {
        if let Some(known) = self.by_topic.get(topic) {
            return Arc::clone(known);
        }
        let wanted = kind(topic);
        match self.kinds.iter_mut().find(|(kind, _)| *kind == wanted) {
            Some((_, topics)) => *topics += 1,
            None => self.kinds.push((wanted, 1)),
        }
        if let Topic::KeyPrefix(prefix) = topic {
            *self.prefix_lengths.entry(prefix.len()).or_default() += 1;
        }
        let watched = Arc::new(Watched {
            topic: topic.clone(),
            changes: AtomicU64::new(0),
            changed: Notify::new(),
            waiting: AtomicUsize::new(0),
        });
        self.by_topic.insert(topic.clone(), Arc::clone(&watched));
        watched
    }

    /// Forgets a topic if nobody waits for it any more.
    fn forget(&mut self, watched: &Arc<Watched>) {
        // Meanwhile somebody may have begun to wait, or it was forgotten already and somebody waits for it anew.
        if watched.waiting.load(Relaxed) > 0 {
            return;
        }
        match self.by_topic.get(&watched.topic) {
            Some(known) if Arc::ptr_eq(known, watched) => {}
            _ => return,
        }
        self.by_topic.remove(&watched.topic);
        let wanted = kind(&watched.topic);
        self.kinds.retain_mut(|(kind, topics)| {
            *topics -= usize::from(*kind == wanted);
            *topics > 0
        });
        if let Topic::KeyPrefix(prefix) = &watched.topic
            && let Entry::Occupied(mut count) = self.prefix_lengths.entry(prefix.len())
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

impl Watched {
    /// Waits until it has changed since that was seen.
    async fn past(&self, seen: &mut u64) {
        // First wait, then look: a change in between is not lost.
        let changed = self.changed.notified();
        if self.changes.load(Acquire) == *seen {
            changed.await;
        }
        *seen = self.changes.load(Acquire);
    }
}

impl Waiter {
    /// Waits for the next wake, or takes one that came since the last call. Cancel safe.
    pub(crate) async fn woken(&mut self) {
        if let [(watched, seen)] = self.watched.as_mut_slice() {
            return watched.past(seen).await;
        }
        let mut any: Vec<_> = self.watched.iter_mut().map(|(watched, seen)| Box::pin(watched.past(seen))).collect();
        poll_fn(|context| {
            let woken = any.iter_mut().any(|changed| changed.as_mut().poll(context).is_ready());
            if woken { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        for (watched, _) in &self.watched {
            if watched.waiting.fetch_sub(1, Relaxed) == 1 {
                self.topics.waiting.lock().forget(watched);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_woken(waiter: &mut Waiter) -> bool {
        let mut wait = Box::pin(waiter.woken());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        std::future::Future::poll(wait.as_mut(), &mut context).is_ready()
    }

    fn prefix(text: &str) -> Topic {
        Topic::KeyPrefix(text.into())
    }

    #[test]
    fn only_those_who_wait_for_the_topic_are_woken() {
        let topics = Arc::new(Topics::default());
        let mut db = topics.wait(&[Topic::Service("db".into()), Topic::Nodes]);
        let mut web = topics.wait(&[Topic::Service("web".into())]);
        topics.wake([Topic::Service("db".into())]);
        assert!(is_woken(&mut db) && !is_woken(&mut web));
        assert!(!is_woken(&mut db), "one wake is one wake");
        topics.wake([Topic::Nodes]);
        assert!(is_woken(&mut db) && !is_woken(&mut web));
    }

    #[test]
    fn a_changed_key_wakes_those_who_watch_a_prefix_of_it() {
        let topics = Arc::new(Topics::default());
        let mut watchers: Vec<_> = ["", "a", "a/", "a/b", "a/bc", "b", "a/ü"]
            .iter()
            .map(|text| (*text, topics.wait(&[prefix(text)])))
            .collect();
        topics.wake([Topic::Key("a/b".into())]);
        let woken: Vec<&str> =
            watchers.iter_mut().filter_map(|(text, waiter)| is_woken(waiter).then_some(*text)).collect();
        assert_eq!(woken, ["", "a", "a/", "a/b"]);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_change_is_slept_through_while_many_come_and_go() {
        const CHANGES: usize = 500;
        let topics = Arc::new(Topics::default());
        let value = Arc::new(AtomicUsize::new(0));
        let of = |number: usize| if number.is_multiple_of(2) { Topic::Nodes } else { Topic::Services };
        let waiting = (0..50).map(|number| {
            let (topics, value) = (Arc::clone(&topics), Arc::clone(&value));
            tokio::spawn(async move {
                let watched = if number < 10 { vec![Topic::Nodes, Topic::Services] } else { vec![of(number)] };
                let mut seen = 0;
                while seen < CHANGES {
                    let mut waiter = topics.wait(&watched);
                    // Some wait once, some again and again.
                    for _ in 0..number % 3 + 1 {
                        while value.load(Acquire) == seen {
                            waiter.woken().await;
                        }
                        seen = value.load(Acquire);
                        if seen >= CHANGES {
                            break;
                        }
                    }
                }
            })
        });
        let waiting: Vec<_> = waiting.collect();
        for number in 0..CHANGES {
            value.fetch_add(1, Release);
            topics.wake([Topic::Nodes, Topic::Services]);
            if number % 7 == 0 {
                tokio::task::yield_now().await;
            }
        }
        let all = async {
            for one in waiting {
                one.await.unwrap();
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(30), all).await.expect("somebody sleeps");
        assert_eq!(topics.len(), 0);
    }

    #[test]
    fn nothing_is_left_behind_by_those_who_stop_waiting() {
        let topics = Arc::new(Topics::default());
        let first = topics.wait(&[prefix("a"), prefix("b"), Topic::Roots]);
        let mut second = topics.wait(&[prefix("a")]);
        let of_kind = |topic: Topic| topics.kinds().have(&topic);
        assert!(of_kind(Topic::Roots) && of_kind(Topic::Key("ab".into())) && !of_kind(Topic::Nodes));
        drop(first);
        assert_eq!(topics.len(), 1);
        assert!(!of_kind(Topic::Roots) && of_kind(Topic::Key("ab".into())));
        topics.wake([Topic::Key("ab".into())]);
        assert!(is_woken(&mut second));
        drop(second);
        assert_eq!(topics.len(), 0);
        assert!(topics.waiting.lock().prefix_lengths.is_empty() && topics.waiting.lock().kinds.is_empty());
    }
}
