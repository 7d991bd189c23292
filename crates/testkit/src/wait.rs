//! Waiting for a condition with a deadline: never a sleep for luck.

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
