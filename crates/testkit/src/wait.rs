//! Waiting for a condition with a deadline: never a sleep for luck.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take on a busy machine before it counts as failed.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// Waits until `look` gives something, and gives that.
///
/// # Panics
/// When [`PATIENCE`] is over; `what` says what was waited for.
pub fn eventually<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, what, look)
}

/// Waits until a condition holds.
///
/// # Panics
/// As [`eventually`].
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    eventually(what, || holds().then_some(()));
}

/// Waits until `look` gives something, for a given time.
///
/// # Panics
/// When the time is over.
pub fn within<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited {limit:?} in vain: {what}");
        thread::sleep(PAUSE);
    }
}

/// What a busy machine takes from everybody: how much longer than asked for threads with nothing to do sleep meanwhile.
///
/// A promise about time is tested with this beside it: the bound is the promise and a few times the longest stall.
pub struct Stalls {
    over: Arc<AtomicBool>,
    longest: Arc<AtomicU64>,
}

impl Stalls {
    /// Watches from now on, with as many threads as there are processors: work is not stalled on one of them alone.
    pub fn watch() -> Stalls {
        const SHORT: Duration = Duration::from_millis(5);
        let (over, longest) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            let (over, longest) = (Arc::clone(&over), Arc::clone(&longest));
            thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let before = Instant::now();
                    thread::sleep(SHORT);
                    let late = before.elapsed().saturating_sub(SHORT);
                    longest.fetch_max(u64::try_from(late.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
                }
            });
        }
        Stalls { over, longest }
    }

    /// The longest so far.
    pub fn longest(&self) -> Duration {
        Duration::from_micros(self.longest.load(Ordering::Relaxed))
    }
}

impl Drop for Stalls {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}
