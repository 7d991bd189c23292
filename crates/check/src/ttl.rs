//! The check that waits: the application reports in time, or it turns critical.

use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::Outcome;

/// The latest report: when, and what it said.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) at: Instant,
    pub(crate) output: String,
}

impl Report {
    /// The state before any report: the time runs from the start of the check.
    pub(crate) fn none() -> Report {
        Report { at: Instant::now(), output: String::new() }
    }
}

/// Reports each expiry, once per silence. Ends with the sender of reports.
pub(crate) async fn run<F: Future<Output = ()>>(
    ttl: Duration,
    mut reports: watch::Receiver<Report>,
    on_result: impl Fn(Outcome) -> F,
) {
    loop {
        let Report { at, output } = reports.borrow_and_update().clone();
        tokio::select! {
            // A report that is there counts before the end of its time.
            biased;
            changed = reports.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            () = tokio::time::sleep_until(at + ttl) => on_result(Outcome::critical(expired(&output))).await,
        }
        if reports.changed().await.is_err() {
            return;
        }
    }
}

fn expired(last: &str) -> String {
    if last.is_empty() {
        "TTL expired".to_owned()
    } else {
        format!("TTL expired (last output before timeout follows): {last}")
    }
}
