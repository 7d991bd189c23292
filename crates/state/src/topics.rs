//! Who waits for what: wakes exactly those whose topics changed.
//!
//! When a topic last changed is not kept here but computed from the tables (see `replica`), so there is nothing to
//! leak: an entry exists only while somebody waits for its topic.

use std::collections::{BTreeMap, HashMap};
use std::mem::{Discriminant, discriminant};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::answer::Topic;

/// All that wait.
#[derive(Debug, Default)]
pub(crate) struct Topics {
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    by_topic: HashMap<Topic, BTreeMap<u64, Arc<Notify>>>,
    /// How many watched topics are of which kind; there are few kinds.
    kinds: Vec<(Discriminant<Topic>, usize)>,
    /// How many watched key prefixes have which length. A changed key is looked up once per length, not once per
    /// watched prefix nor once per byte of the key.
    prefix_lengths: BTreeMap<usize, usize>,
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
    watched: Vec<Topic>,
    id: u64,
    woken: Arc<Notify>,
}

impl Topics {
    /// Starts to wait for any of the topics. A wake between this call and [`Waiter::woken`] is not lost.
    pub(crate) fn wait(self: &Arc<Self>, watched: &[Topic]) -> Waiter {
        let woken = Arc::new(Notify::new());
        let mut waiting = self.waiting.lock();
        let id = waiting.next;
        waiting.next += 1;
        for topic in watched {
            let waiters = waiting.by_topic.entry(topic.clone()).or_default();
            let first = waiters.is_empty();
            waiters.insert(id, Arc::clone(&woken));
            if !first {
                continue;
            }
            waiting.begin(topic);
            if let Topic::KeyPrefix(prefix) = topic {
                *waiting.prefix_lengths.entry(prefix.len()).or_default() += 1;
            }
        }
        Waiter { topics: Arc::clone(self), watched: watched.to_vec(), id, woken }
    }

    /// The kinds of topics that are waited for now.
    pub(crate) fn kinds(&self) -> Kinds {
        Kinds(self.waiting.lock().kinds.iter().map(|(kind, _)| *kind).collect())
    }

    /// Wakes all that wait for one of the topics.
    pub(crate) fn wake(&self, changed: impl IntoIterator<Item = Topic>) {
        let waiting = self.waiting.lock();
        if waiting.by_topic.is_empty() {
            return;
        }
        for topic in changed {
            if let Topic::Key(key) = &topic {
                for length in waiting.prefix_lengths.range(..=key.len()).map(|(length, _)| *length) {
                    if let Some(prefix) = key.get(..length) {
                        waiting.notify(&Topic::KeyPrefix(prefix.into()));
                    }
                }
            }
            waiting.notify(&topic);
        }
    }

    /// Wakes all that wait, whatever for.
    pub(crate) fn wake_all(&self) {
        let waiting = self.waiting.lock();
        waiting.by_topic.values().flat_map(BTreeMap::values).for_each(|waiter| waiter.notify_one());
    }

    /// How many topics are waited for.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.waiting.lock().by_topic.len()
    }
}

impl Waiting {
    /// Somebody waits for a topic that nobody waited for.
    fn begin(&mut self, topic: &Topic) {
        let wanted = kind(topic);
        match self.kinds.iter_mut().find(|(kind, _)| *kind == wanted) {
            Some((_, topics)) => *topics += 1,
            None => self.kinds.push((wanted, 1)),
        }
    }

    /// Nobody waits for the topic any more.
    fn end(&mut self, topic: &Topic) {
        let wanted = kind(topic);
        self.kinds.retain_mut(|(kind, topics)| {
            *topics -= usize::from(*kind == wanted);
            *topics > 0
        });
    }

    fn notify(&self, topic: &Topic) {
        for waiter in self.by_topic.get(topic).into_iter().flat_map(BTreeMap::values) {
            waiter.notify_one();
        }
    }
}

impl Waiter {
    /// Waits for the next wake, or takes one that came since the last call. Cancel safe.
    pub(crate) async fn woken(&self) {
        self.woken.notified().await;
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut waiting = self.topics.waiting.lock();
        for topic in &self.watched {
            let Some(waiters) = waiting.by_topic.get_mut(topic) else { continue };
            waiters.remove(&self.id);
            if !waiters.is_empty() {
                continue;
            }
            waiting.by_topic.remove(topic);
            waiting.end(topic);
            if let Topic::KeyPrefix(prefix) = topic {
                let length = prefix.len();
                match waiting.prefix_lengths.get_mut(&length) {
                    Some(count) if *count > 1 => *count -= 1,
                    _ => {
                        waiting.prefix_lengths.remove(&length);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_woken(waiter: &Waiter) -> bool {
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
        let db = topics.wait(&[Topic::Service("db".into()), Topic::Nodes]);
        let web = topics.wait(&[Topic::Service("web".into())]);
        topics.wake([Topic::Service("db".into())]);
        assert!(is_woken(&db) && !is_woken(&web));
        assert!(!is_woken(&db), "one wake is one wake");
        topics.wake([Topic::Nodes]);
        assert!(is_woken(&db) && !is_woken(&web));
    }

    #[test]
    fn a_changed_key_wakes_those_who_watch_a_prefix_of_it() {
        let topics = Arc::new(Topics::default());
        let watchers: Vec<_> = ["", "a", "a/", "a/b", "a/bc", "b", "a/ü"]
            .iter()
            .map(|text| (*text, topics.wait(&[prefix(text)])))
            .collect();
        topics.wake([Topic::Key("a/b".into())]);
        let woken: Vec<&str> = watchers.iter().filter(|(_, waiter)| is_woken(waiter)).map(|(text, _)| *text).collect();
        assert_eq!(woken, ["", "a", "a/", "a/b"]);
    }

    #[test]
    fn nothing_is_left_behind_by_those_who_stop_waiting() {
        let topics = Arc::new(Topics::default());
        let first = topics.wait(&[prefix("a"), prefix("b"), Topic::Roots]);
        let second = topics.wait(&[prefix("a")]);
        let of_kind = |topic: Topic| topics.kinds().have(&topic);
        assert!(of_kind(Topic::Roots) && of_kind(Topic::Key("ab".into())) && !of_kind(Topic::Nodes));
        drop(first);
        assert_eq!(topics.len(), 1);
        assert!(!of_kind(Topic::Roots) && of_kind(Topic::Key("ab".into())));
        topics.wake([Topic::Key("ab".into())]);
        assert!(is_woken(&second));
        drop(second);
        assert_eq!(topics.len(), 0);
        assert!(topics.waiting.lock().prefix_lengths.is_empty() && topics.waiting.lock().kinds.is_empty());
    }
}
