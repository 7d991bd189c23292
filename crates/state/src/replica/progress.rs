//! How far the replica has come, and who waits for that.

use std::collections::BTreeMap;
use std::sync::Arc;

use lictor_model::revision::Revision;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// The revision that was applied last. Whoever waits for one is woken once, when it is there: with many writers at once, waking
/// all of them at each step would cost each of them as much as all do.
#[derive(Debug)]
pub(crate) struct Progress(Mutex<Reached>);

#[derive(Debug)]
struct Reached {
    revision: Revision,
    next: u64,
    waiting: BTreeMap<(Revision, u64), Arc<Notify>>,
}

/// One that waits; dropping it stops that.
struct Waiter<'a> {
    progress: &'a Progress,
    place: (Revision, u64),
    woken: Arc<Notify>,
}

impl Progress {
    pub(crate) fn new(revision: Revision) -> Progress {
        Progress(Mutex::new(Reached { revision, next: 0, waiting: BTreeMap::new() }))
    }

    pub(crate) fn revision(&self) -> Revision {
        self.0.lock().revision
    }

    /// Notes that a revision is applied.
    pub(crate) fn advance(&self, revision: Revision) {
        let mut reached = self.0.lock();
        reached.revision = revision;
        while let Some(first) = reached.waiting.first_entry().filter(|first| first.key().0 <= revision) {
            first.remove().notify_one();
        }
    }

    /// Waits until a revision is applied. Cancel safe.
    pub(crate) async fn reached(&self, revision: Revision) {
        if let Some(waiter) = self.wait(revision) {
            waiter.woken.notified().await;
        }
    }

    /// Starts to wait, unless there is nothing to wait for.
    fn wait(&self, revision: Revision) -> Option<Waiter<'_>> {
        let mut reached = self.0.lock();
        if reached.revision >= revision {
            return None;
        }
        let (place, woken) = ((revision, reached.next), Arc::new(Notify::new()));
        reached.next += 1;
        reached.waiting.insert(place, Arc::clone(&woken));
        Some(Waiter { progress: self, place, woken })
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.progress.0.lock().waiting.remove(&self.place);
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[test]
    fn who_waits_is_woken_when_the_revision_is_there_and_not_before() {
        let progress = Progress::new(Revision(1));
        let mut context = Context::from_waker(Waker::noop());
        let mut poll = |future: &mut std::pin::Pin<Box<dyn Future<Output = ()> + '_>>| {
            future.as_mut().poll(&mut context) == Poll::Ready(())
        };
        let mut there: std::pin::Pin<Box<dyn Future<Output = ()> + '_>> = Box::pin(progress.reached(Revision(1)));
        assert!(poll(&mut there));
        let mut waits: Vec<std::pin::Pin<Box<dyn Future<Output = ()> + '_>>> =
            [2, 3, 3, 5].map(|at| Box::pin(progress.reached(Revision(at))) as _).into();
        assert!(!waits.iter_mut().any(&mut poll));
        progress.advance(Revision(3));
        let done: Vec<bool> = waits.iter_mut().map(&mut poll).collect();
        assert_eq!((done, progress.revision()), (vec![true, true, true, false], Revision(3)));
        // Who gives up leaves nothing behind.
        drop(waits);
        assert!(progress.0.lock().waiting.is_empty());
    }
}
