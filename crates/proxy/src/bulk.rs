//! Where connections are carried that move much: on a thread beside their worker's, so that no small request waits for
//! their turns.
//!
//! A worker is one event loop, and what is small waits there for the turn of what is big. Between threads the kernel
//! decides, and it interrupts one that always has work for one that seldom has. So a connection that has moved much in
//! little time leaves its worker, and comes back when it is slow again; what became of it and its session is always the
//! worker's to see to. The thread is started for the first one and
//! ends some time after the last, so that proxies without such connections have none.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::metrics::{Metrics, count};

/// Bytes after which the clock is looked at.
const STRETCH: u64 = 4 << 20;
/// A connection that moves a stretch in less than this (25 MB/s) leaves its worker. What is slower has so little of the
/// worker's time that hardly anybody meets it there.
const FAST: Duration = Duration::from_millis(160);
/// One that needs longer for it than this (5 MB/s) goes back.
const SLOW: Duration = Duration::from_millis(800);

/// How long the thread is kept when it carries nothing.
const LINGER: Duration = Duration::from_secs(2);

/// How fast one connection is.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Bytes moved at the last look.
    moved: u64,
    looked: Instant,
}

impl Pace {
    pub(crate) fn new(now: Instant) -> Pace {
        Pace { moved: 0, looked: now }
    }

    /// Whether it may stay with its worker.
    pub(crate) fn is_ordinary(&mut self, moved: u64) -> bool {
        if moved < self.moved + STRETCH {
            return true;
        }
        let now = Instant::now();
        let before = std::mem::replace(self, Pace { moved, looked: now });
        now.saturating_duration_since(before.looked) >= FAST
    }

    /// Whether it is still fast.
    pub(crate) fn is_bulk(&mut self, moved: u64) -> bool {
        let now = Instant::now();
        if now.saturating_duration_since(self.looked) < SLOW {
            return true;
        }
        let before = std::mem::replace(self, Pace { moved, looked: now });
        moved >= before.moved + STRETCH
    }
}

/// The thread beside one worker's, if there is one now.
pub(crate) struct Bulk {
    index: usize,
    state: Mutex<State>,
    /// The last connection has left, or it is over.
    empty: Notify,
}

#[derive(Default)]
struct State {
    thread: Option<(Handle, JoinHandle<()>)>,
    seats: usize,
    over: bool,
}

/// A place on the thread, which goes on for as long as there are any.
pub(crate) struct Seat {
    bulk: Arc<Bulk>,
    metrics: Arc<Metrics>,
    /// Its event loop.
    pub(crate) runtime: Handle,
}

impl Bulk {
    /// For the worker with this index.
    pub(crate) fn beside(index: usize) -> Arc<Bulk> {
        Arc::new(Bulk { index, state: Mutex::default(), empty: Notify::new() })
    }

    /// A place for one connection.
    pub(crate) fn seat(self: &Arc<Bulk>, metrics: &Arc<Metrics>) -> io::Result<Seat> {
        let mut state = self.state.lock();
        if state.over {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let runtime = match &state.thread {
            Some((runtime, _)) => runtime.clone(),
            None => {
                let (runtime, thread) = self.start()?;
                state.thread = Some((runtime.clone(), thread));
                runtime
            }
        };
        state.seats += 1;
        count(&metrics.aside);
        Ok(Seat { bulk: Arc::clone(self), metrics: Arc::clone(metrics), runtime })
    }

    fn start(self: &Arc<Bulk>) -> io::Result<(Handle, JoinHandle<()>)> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (handle, bulk) = (runtime.handle().clone(), Arc::clone(self));
        let work = move || runtime.block_on(bulk.wait());
        Ok((handle, std::thread::Builder::new().name(format!("bulk-{}", self.index)).spawn(work)?))
    }

    /// Returns when the thread shall end.
    async fn wait(&self) {
        loop {
            let (seats, over) = {
                let state = self.state.lock();
                (state.seats, state.over)
            };
            if over {
                return;
            }
            if seats > 0 {
                // Without a clock: what was fast once may be idle here for ever.
                self.empty.notified().await;
            } else if timeout(LINGER, self.empty.notified()).await.is_err() {
                let mut state = self.state.lock();
                if state.seats == 0 {
                    // The next one begins anew.
                    state.thread = None;
                    return;
                }
            }
        }
    }

    /// Ends the thread and what is still carried there, and waits for that.
    pub(crate) fn end(&self) {
        let mut state = self.state.lock();
        state.over = true;
        let thread = state.thread.take();
        drop(state);
        self.empty.notify_one();
        if thread.is_some_and(|(_, thread)| thread.join().is_err()) {
            tracing::error!("a thread beside a worker panicked");
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.metrics.aside.fetch_sub(1, Ordering::Relaxed);
        let mut state = self.bulk.state.lock();
        state.seats -= 1;
        if state.seats == 0 {
            self.bulk.empty.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_leaves_when_it_is_fast_and_comes_back_when_it_is_slow() {
        let begin = Instant::now();
        let mut pace = Pace::new(begin);
        assert!(pace.is_ordinary(STRETCH - 1));
        assert!(!pace.is_ordinary(STRETCH), "a stretch at once");
        assert!(pace.is_bulk(STRETCH), "too early to say");
        pace.looked = begin.checked_sub(SLOW).unwrap();
        assert!(pace.is_bulk(2 * STRETCH));
        pace.looked = begin.checked_sub(SLOW).unwrap();
        assert!(!pace.is_bulk(3 * STRETCH - 1));
        pace.looked = begin.checked_sub(FAST).unwrap();
        assert!(pace.is_ordinary(4 * STRETCH), "slow");
        assert!(!pace.is_ordinary(5 * STRETCH), "fast again");
    }

    #[test]
    fn the_thread_is_there_while_it_is_needed() {
        let (bulk, metrics) = (Bulk::beside(7), Arc::default());
        let is_there = || bulk.state.lock().thread.is_some();
        assert!(!is_there());
        let (one, other) = (bulk.seat(&metrics).unwrap(), bulk.seat(&metrics).unwrap());
        assert_eq!(metrics.aside.load(Ordering::Relaxed), 2);
        let name = one.runtime.spawn(async { std::thread::current().name().map(str::to_owned) });
        let (tell, told) = std::sync::mpsc::channel();
        other.runtime.spawn(async move { tell.send(name.await.unwrap()).unwrap() });
        assert_eq!(told.recv().unwrap().as_deref(), Some("bulk-7"));
        drop(one);
        assert!(is_there());
        drop(other);
        let begin = Instant::now();
        while is_there() {
            assert!(begin.elapsed() < Duration::from_secs(60));
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(begin.elapsed() >= LINGER);
        // It begins anew, and ends at once when all is over.
        let again = bulk.seat(&metrics).unwrap();
        again.runtime.spawn(std::future::pending::<()>());
        bulk.end();
        assert!(!is_there() && bulk.seat(&metrics).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_thread_whose_connections_are_idle_does_not_wake_up() {
        // The last one left, and another one came at once.
        let bulk = Bulk::beside(7);
        bulk.state.lock().seats = 1;
        bulk.empty.notify_one();
        let mut looks = 0;
        let mut wait = std::pin::pin!(bulk.wait());
        let watched = std::future::poll_fn(|context| {
            looks += 1;
            wait.as_mut().poll(context)
        });
        assert!(timeout(Duration::from_secs(3600), watched).await.is_err());
        assert!(looks < 5, "it looked {looks} times");
    }
}
