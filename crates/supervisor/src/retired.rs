//! Processes that are no longer what runs: they let their connections end, are asked to stop when their time is over,
//! and are killed when they do not listen.

use std::future::poll_fn;
use std::task::Poll;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::process::{Live, Outcome, Work, unix_ms};
use crate::record::Role;
use crate::status::Draining;

/// One of them.
pub(crate) struct Retired {
    /// `None` while its start is under way: it is ended as soon as it is there.
    pub(crate) live: Option<Live>,
    work: Work,
    stage: Stage,
}

#[derive(Clone, Copy)]
enum Stage {
    /// It may go on until then.
    Draining(Instant),
    /// It was asked to stop and is killed then.
    Stopping(Instant),
    Killed,
}

/// How one is made to end.
#[derive(Clone, Copy)]
pub(crate) struct Ending {
    pub(crate) signal: Signal,
    pub(crate) grace: Duration,
}

impl Retired {
    /// Lets the connections of `live` end, until the time in its record.
    pub(crate) fn draining(live: Live, work: Work) -> Retired {
        let left = match live.record.role {
            Role::Retired { until_unix_ms } => u64::try_from(until_unix_ms - unix_ms()).unwrap_or(0),
            Role::Current | Role::Successor => 0,
        };
        live.session.drain();
        Retired { live: Some(live), work, stage: Stage::Draining(Instant::now() + Duration::from_millis(left)) }
    }

    /// Ends a process that is not needed, or whose start is still under way.
    pub(crate) fn unneeded(live: Option<Live>, work: Work, ending: Ending) -> Retired {
        let mut retired = Retired { live, work, stage: Stage::Draining(Instant::now()) };
        retired.stop(ending);
        retired
    }

    /// It has just come to life.
    pub(crate) fn arrived(&mut self, live: Live, work: Work, ending: Ending) {
        (self.live, self.work) = (Some(live), work);
        self.stop(ending);
    }

    /// Asks it to stop now, whatever time it had.
    pub(crate) fn hurry(&mut self, ending: Ending) {
        if matches!(self.stage, Stage::Draining(_)) {
            self.stop(ending);
        }
    }

    fn stop(&mut self, ending: Ending) {
        if let Some(live) = &self.live {
            live.session.stop(ending.signal);
            self.stage = Stage::Stopping(Instant::now() + ending.grace);
        } else {
            // Nothing to signal yet.
            self.stage = Stage::Killed;
        }
    }

    /// When [`Retired::tick`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.stage {
            Stage::Draining(at) | Stage::Stopping(at) => Some(at),
            Stage::Killed => None,
        }
    }

    /// Does what is due.
    pub(crate) fn tick(&mut self, now: Instant, ending: Ending) {
        let Some(live) = &self.live else { return };
        let (id, pid) = (&live.record.id, live.session.pid());
        match self.stage {
            Stage::Draining(at) if now >= at => {
                tracing::warn!(
                    "supervisor: {id}: pid {pid} still has connections after its time to drain, stopping it"
                );
                self.stop(ending);
            }
            Stage::Stopping(at) if now >= at => {
                tracing::warn!("supervisor: {id}: pid {pid} did not stop within the grace period, killing it");
                live.session.kill();
                self.stage = Stage::Killed;
            }
            Stage::Draining(_) | Stage::Stopping(_) | Stage::Killed => {}
        }
    }

    /// What the outside sees of it, while it drains.
    pub(crate) fn status(&self) -> Option<Draining> {
        let live = self.live.as_ref()?;
        let Role::Retired { until_unix_ms } = live.record.role else { return None };
        let connections = live.expected.said.borrow().fields.get("X_LICTOR_CONNECTIONS").and_then(|n| n.parse().ok());
        Some(Draining { pid: u32::try_from(live.session.pid()).ok()?, until_unix_ms, connections })
    }
}

/// The next thing that happens to one of them, with its place. Cancel safe.
pub(crate) async fn outcome(all: &mut [Retired]) -> (usize, Outcome) {
    poll_fn(|context| {
        for (place, retired) in all.iter_mut().enumerate() {
            if let Poll::Ready(outcome) = retired.work.as_mut().poll(context) {
                return Poll::Ready((place, outcome));
            }
        }
        Poll::Pending
    })
    .await
}
