//! The one place that reads the wall clock.
//!
//! Durations are measured on the monotonic clock (`tokio::time::Instant`, which tests can pause); the wall clock is
//! only for times that people and certificates see. Where both matter, as for the renewal of a leaf, both are asked.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since the Unix epoch.
pub fn unix_seconds() -> i64 {
    i64::try_from(since_epoch().as_secs()).unwrap_or(i64::MAX)
}

/// Nanoseconds since the Unix epoch.
pub fn unix_nanos() -> i64 {
    i64::try_from(since_epoch().as_nanos()).unwrap_or(i64::MAX)
}

fn since_epoch() -> std::time::Duration {
    // A clock before 1970 is a machine without a battery that has not asked the network yet; zero is as good.
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
