//! When a check runs: after a random delay, then an interval after the end of each run, or sooner when asked.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use lictor_model::health::{CheckKind, CheckSpec, Status};
use lictor_model::text;
use lictor_task::Scope;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::probe::Probe;
use crate::trust::Trust;
use crate::ttl::{self, Report};
use crate::{Outcome, limit};

/// Between two eager runs.
const EAGER_INTERVAL: Duration = Duration::from_millis(100);
/// Eagerness that has not succeeded after this time gives way to the regular pace.
const EAGER_PERIOD: Duration = Duration::from_secs(10);

/// How checks are run.
#[derive(Clone, Debug)]
pub struct Config {
    /// A first run that happens within this time, or the interval if that is shorter, and whose result counts whatever it is;
    /// `pace` follows. For what has a state from before that is to be looked at.
    pub first_within: Option<Duration>,
    /// When the first runs happen.
    pub pace: Pace,
    /// Whom HTTPS and gRPC checks believe. Give the same one to all checks.
    pub trust: Trust,
    /// Where the container engine listens, in the form of `DOCKER_HOST`.
    pub docker_host: String,
}

/// When the first runs happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pace {
    /// After a random part of the interval, so that the checks of one agent do not run in step.
    #[default]
    Regular,
    /// At once, every 100 ms and when asked until the first success, for at most 10 s, reporting successes only; then as
    /// usual. For what has just been started and is about to be there.
    Eager,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            first_within: None,
            pace: Pace::Regular,
            trust: Trust::default(),
            docker_host: "unix:///var/run/docker.sock".to_owned(),
        }
    }
}

/// Runs checks. It has no state: see [`Runner::start`].
#[derive(Debug)]
pub struct Runner;

impl Runner {
    /// Starts a check; `on_result` is called with each result and awaited before the next run. Must be called within
    /// the runtime. A kind that nobody runs from here (alias, none) never reports.
    ///
    /// Every result is reported, not only changes: whoever keeps the state may have overruled an earlier one.
    pub fn start<R, F>(spec: CheckSpec, config: Config, on_result: R) -> Handle
    where
        R: Fn(Outcome) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let scope = Scope::new("check");
        let (reports, reported) = watch::channel(Report::none());
        let nudge = Arc::new(Notify::new());
        let stop = scope.stop_signal();
        if spec.kind() == CheckKind::Ttl {
            scope.spawn("ttl", async move { stop.or_stopped(ttl::run(spec.ttl, reported, on_result)).await });
        } else if let Some(probe) = Probe::new(&spec, &config) {
            if spec.interval < limit::SHORTEST_INTERVAL {
                let (id, given) = (&spec.id, text::duration(spec.interval));
                tracing::warn!("check: {:?} has interval {given} below minimum of 1s", id.as_str());
            }
            let interval = limit::interval(&spec);
            let nudged = Arc::clone(&nudge);
            let first = First { within: config.first_within.map(|within| within.min(interval)), pace: config.pace };
            scope.spawn("probe", async move {
                stop.or_stopped(repeat(probe, interval, first, nudged, on_result)).await;
            });
        }
        Handle { scope, nudge, reports }
    }
}

/// How a check begins.
struct First {
    within: Option<Duration>,
    pace: Pace,
}

async fn repeat<F: Future<Output = ()>>(
    probe: Arc<Probe>,
    interval: Duration,
    first: First,
    nudge: Arc<Notify>,
    on_result: impl Fn(Outcome) -> F,
) {
    // Boxed, so that the thousands of checks that wait are small.
    let next = async |wait: Duration| {
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = nudge.notified() => {}
        }
        Box::pin(probe.run()).await
    };
    let mut is_there = false;
    if let Some(within) = first.within {
        let outcome = next(within.mul_f64(fastrand::f64())).await;
        is_there = outcome.status == Status::Passing;
        on_result(outcome).await;
    }
    let mut wait = match first.pace {
        Pace::Regular => interval.mul_f64(fastrand::f64()),
        Pace::Eager if is_there => interval,
        Pace::Eager => {
            if let Some(success) = first_success(&probe, &nudge, EAGER_INTERVAL).await {
                on_result(success).await;
                interval
            } else {
                Duration::ZERO
            }
        }
    };
    loop {
        let outcome = next(wait).await;
        on_result(outcome).await;
        wait = interval;
    }
}

async fn first_success(probe: &Probe, nudge: &Notify, between: Duration) -> Option<Outcome> {
    let end = Instant::now() + EAGER_PERIOD;
    let mut next = Instant::now();
    while next < end {
        tokio::select! {
            () = tokio::time::sleep_until(next) => next += between,
            () = nudge.notified() => next = Instant::now() + between,
        }
        // A run that hangs must not make the others miss their turn for the whole of its own limit.
        let outcome = tokio::time::timeout_at(end, Box::pin(probe.run())).await.ok()?;
        if outcome.status == Status::Passing {
            return Some(outcome);
        }
        next = next.max(Instant::now());
    }
    None
}

/// A running check; dropping it ends the check and whatever it is doing.
#[derive(Debug)]
pub struct Handle {
    scope: Scope,
    nudge: Arc<Notify>,
    reports: watch::Sender<Report>,
}

impl Handle {
    /// Runs the check now, or once more when it is just running; the next regular run is an interval later.
    pub fn run_now(&self) {
        self.nudge.notify_one();
    }

    /// The application has reported: its time runs anew. The caller keeps the status; only an expiry is called back.
    pub fn ttl_update(&self, _status: Status, output: &str) {
        self.reports.send_replace(Report { at: Instant::now(), output: output.to_owned() });
    }

    /// Whether the application has not reported for so long. An expiry that was called back before it did is no longer true.
    pub fn is_silent_for(&self, ttl: Duration) -> bool {
        self.reports.borrow().at.elapsed() >= ttl
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.scope.stop();
    }
}

#[cfg(test)]
mod tests {
    use lictor_model::health::CheckSpec;

    use super::*;

    #[tokio::test]
    async fn a_first_run_that_is_due_soon_counts_whatever_the_interval_and_the_pace_are() {
        let reserved = tokio::net::TcpSocket::new_v4().unwrap();
        reserved.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        for pace in [Pace::Regular, Pace::Eager] {
            let tcp = reserved.local_addr().unwrap().to_string();
            let spec = CheckSpec { tcp, interval: Duration::from_secs(3600), ..CheckSpec::default() };
            let config = Config { first_within: Some(Duration::from_millis(50)), pace, ..Config::default() };
            let (sender, mut results) = tokio::sync::mpsc::unbounded_channel();
            let _handle = Runner::start(spec, config, move |outcome| {
                let _ = sender.send(outcome.status);
                std::future::ready(())
            });
            let first = tokio::time::timeout(EAGER_PERIOD / 2, results.recv()).await.unwrap();
            assert_eq!(first, Some(Status::Critical), "{pace:?}");
        }
    }

    #[tokio::test]
    async fn what_is_eager_also_runs_when_asked() {
        // A port that is taken and refuses connections.
        let reserved = tokio::net::TcpSocket::new_v4().unwrap();
        reserved.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let tcp = reserved.local_addr().unwrap().to_string();
        let spec = CheckSpec { tcp, timeout: Duration::from_secs(5), ..CheckSpec::default() };
        let probe = Probe::new(&spec, &Config::default()).unwrap();
        let nudge = Notify::new();
        let rarely = EAGER_PERIOD - Duration::from_secs(1);
        let mut success = Box::pin(first_success(&probe, &nudge, rarely));
        let refused = tokio::time::timeout(Duration::from_millis(200), &mut success).await;
        assert!(refused.is_err(), "nobody listens there");
        let _listener = reserved.listen(1).unwrap();
        nudge.notify_one();
        // By itself it would come later.
        let success = tokio::time::timeout(rarely / 2, success).await.unwrap();
        assert_eq!(success.map(|outcome| outcome.status), Some(Status::Passing));
    }
}
