//! The table of one supervised process: state and event in, state and actions out; no IO and no clock.
//!
//! [`Machine::handle`] is the whole of it. Whoever runs the actions promises two things: a [`Action::Start`] is answered
//! by exactly one of [`Event::Started`], [`Event::StartFailed`] and [`Event::StartRefused`], and a started process is
//! reported [`Event::Exited`] exactly once, after nothing of it (its group included) is left. In return the table asks
//! for a start only while nothing runs, so that there are never two instances that do not know of each other.
//!
//! The exception is a handover: a successor starts beside what runs, inherits its listening sockets, and takes over when
//! it says that it is ready. [`Action::StartSuccessor`] is answered like a start. From [`Action::Promote`] on the
//! successor is what runs, and its predecessor is no business of the table any more; the same goes for a successor after
//! [`Action::DropSuccessor`] or [`Action::Stop`], which ends both.

use std::time::{Duration, Instant};

/// The constants of restarting and stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Starts that follow each other without a wait.
    pub free_attempts: u32,
    /// The first wait after them; each further one is twice as long.
    pub first_wait: Duration,
    /// No wait is longer.
    pub longest_wait: Duration,
    /// A run of this length, measured from its actual start, makes earlier failures forgotten.
    pub healthy_after: Duration,
    /// How long a process may take to stop before it is killed.
    pub grace: Duration,
    /// How long a successor may take to become ready before what runs goes on without it.
    pub handover: Duration,
}

impl Default for Policy {
    /// The constants of the original.
    fn default() -> Policy {
        Policy {
            free_attempts: 3,
            first_wait: Duration::from_secs(2),
            longest_wait: Duration::from_secs(60),
            healthy_after: Duration::from_secs(10),
            grace: Duration::from_secs(5),
            handover: Duration::from_secs(30),
        }
    }
}

impl Policy {
    /// The wait before start number `attempt` (the first is 1), or `None` when it is free.
    ///
    /// `spread` in `0..1` shortens waits longer than `first_wait` by up to a tenth, so that many processes that failed
    /// together do not start together. Shortening keeps the longest wait a promise.
    pub fn wait_before(&self, attempt: u32, spread: f64) -> Option<Duration> {
        let doublings = attempt.checked_sub(self.free_attempts + 1)?;
        let wait = self.first_wait.saturating_mul(1 << doublings.min(20)).min(self.longest_wait);
        Some(if wait > self.first_wait { wait.mul_f64(1.0 - spread.clamp(0.0, 1.0) / 10.0) } else { wait })
    }
}

/// Where one process stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing runs and nothing should.
    Stopped,
    /// A start was asked for and is not answered yet.
    Starting {
        /// Stop it as soon as it is there and start it anew: what is being started is no longer what is wanted.
        again: bool,
    },
    /// It runs.
    Running {
        /// Its actual start.
        since: Instant,
    },
    /// It runs, and a successor is to take over from it.
    HandingOver {
        /// Its actual start.
        since: Instant,
        /// When the successor is given up; `None` while its start is not answered yet.
        until: Option<Instant>,
    },
    /// It failed and waits for its next start.
    BackingOff {
        /// When that is.
        until: Instant,
    },
    /// It was asked to stop and is not gone yet.
    Stopping {
        /// When it is killed; `None` once that has happened.
        kill_at: Option<Instant>,
    },
    /// It should run but may not be started.
    Refused,
}

/// What can happen to a process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event {
    /// The owner wants it to run as it does.
    Want,
    /// The owner wants it to run, but not as it does: its definition changed or a restart was asked for.
    Replace,
    /// The same, without a gap: what runs can hand over to a successor.
    HandOver,
    /// The owner wants it gone.
    Unwant,
    /// A process of an earlier supervisor was found and proven ours.
    Adopted {
        /// Its actual start.
        since: Instant,
    },
    /// The start asked for has happened.
    Started,
    /// The start asked for did not happen.
    StartFailed {
        /// See [`Policy::wait_before`].
        spread: f64,
    },
    /// The start asked for is not allowed.
    StartRefused,
    /// Starts are allowed again.
    Allowed,
    /// It ended and nothing of it is left.
    Exited {
        /// See [`Policy::wait_before`].
        spread: f64,
    },
    /// The successor is ready.
    TookOver,
    /// The successor ended while it was waited for.
    SuccessorExited,
    /// Time went by.
    Tick,
}

/// What is to be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start it.
    Start,
    /// Ask it, with its group, to stop; a successor too.
    Stop,
    /// Kill it with its group.
    Kill,
    /// Start a successor beside it.
    StartSuccessor,
    /// The successor is what runs from now on; what ran, if it still does, drains.
    Promote,
    /// End the successor; what runs goes on.
    DropSuccessor,
}

/// The state of one process.
#[derive(Clone, Debug)]
pub struct Machine {
    policy: Policy,
    phase: Phase,
    wanted: bool,
    /// Starts since the last healthy run or deliberate change.
    attempts: u32,
}

impl Machine {
    /// Nothing wanted, nothing running.
    pub fn new(policy: Policy) -> Machine {
        Machine { policy, phase: Phase::Stopped, wanted: false, attempts: 0 }
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether the owner wants it to run.
    pub fn wanted(&self) -> bool {
        self.wanted
    }

    /// Starts since the last healthy run or deliberate change.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Other constants from now on.
    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
    }

    /// When [`Event::Tick`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::BackingOff { until } => Some(until),
            Phase::Stopping { kill_at } => kill_at,
            Phase::HandingOver { until, .. } => until,
            Phase::Stopped | Phase::Starting { .. } | Phase::Running { .. } | Phase::Refused => None,
        }
    }

    /// The table: what `event` means where the process stands, at the time `now`.
    ///
    /// At most one action follows from any event.
    pub fn handle(&mut self, event: Event, now: Instant) -> Option<Action> {
        match event {
            Event::Want => self.wanted = true,
            Event::Unwant => self.wanted = false,
            Event::HandOver => self.wanted = true,
            Event::Replace => {
                self.wanted = true;
                self.attempts = 0;
            }
            _ => {}
        }
        match (self.phase, event) {
            (Phase::Stopped | Phase::Refused, Event::Want | Event::Replace | Event::HandOver) => self.start(),
            (Phase::BackingOff { .. }, Event::Replace | Event::HandOver) => self.start(),
            (Phase::Running { .. } | Phase::HandingOver { .. }, Event::Replace) => self.stop(now),
            (Phase::Starting { .. }, Event::Replace | Event::HandOver) => self.enter(Phase::Starting { again: true }),
            (Phase::Running { since }, Event::HandOver) => {
                self.phase = Phase::HandingOver { since, until: None };
                Some(Action::StartSuccessor)
            }
            (
                Phase::Starting { .. }
                | Phase::Running { .. }
                | Phase::HandingOver { .. }
                | Phase::BackingOff { .. }
                | Phase::Stopping { .. },
                Event::Want,
            )
            | (Phase::Stopping { .. }, Event::Replace)
            | (Phase::Stopping { .. } | Phase::HandingOver { .. }, Event::HandOver) => None,

            (Phase::Running { .. } | Phase::HandingOver { .. }, Event::Unwant) => self.stop(now),
            (Phase::BackingOff { .. } | Phase::Refused | Phase::Stopped, Event::Unwant) => self.enter(Phase::Stopped),
            // Both end by themselves: a start is answered, a stop too.
            (Phase::Starting { .. } | Phase::Stopping { .. }, Event::Unwant) => None,

            (Phase::Stopped, Event::Adopted { since }) => self.enter(Phase::Running { since }),

            (Phase::Starting { again: false }, Event::Started) if self.wanted => {
                self.enter(Phase::Running { since: now })
            }
            (Phase::Starting { .. }, Event::Started) => self.stop(now),
            (Phase::Starting { again: true }, Event::StartFailed { .. }) if self.wanted => self.start(),
            (Phase::Starting { .. }, Event::StartFailed { spread }) => self.retry(now, spread),
            (Phase::Starting { .. }, Event::StartRefused) => {
                self.enter(if self.wanted { Phase::Refused } else { Phase::Stopped })
            }

            (Phase::HandingOver { since, until: None }, Event::Started) => {
                self.enter(Phase::HandingOver { since, until: Some(now + self.policy.handover) })
            }
            (Phase::HandingOver { since, until: None }, Event::StartFailed { .. } | Event::StartRefused)
            | (Phase::HandingOver { since, until: Some(_) }, Event::SuccessorExited) => {
                self.enter(Phase::Running { since })
            }
            (Phase::HandingOver { until: Some(_), .. }, Event::TookOver) => {
                self.attempts = 1;
                self.promote(now)
            }
            (Phase::HandingOver { since, until: Some(at) }, Event::Tick) if now >= at => {
                self.phase = Phase::Running { since };
                Some(Action::DropSuccessor)
            }
            // What ran is gone before its successor was ready, which is now all there is.
            (Phase::HandingOver { until: Some(_), .. }, Event::Exited { .. }) => self.promote(now),
            (Phase::HandingOver { until: None, .. }, Event::Exited { .. }) => {
                self.enter(Phase::Starting { again: false })
            }

            (Phase::Running { since }, Event::Exited { spread }) => {
                if now.saturating_duration_since(since) >= self.policy.healthy_after {
                    self.attempts = 0;
                }
                self.retry(now, spread)
            }
            (Phase::Stopping { .. }, Event::Exited { .. }) => {
                // A death that was asked for says nothing about health.
                self.attempts = 0;
                if self.wanted { self.start() } else { self.enter(Phase::Stopped) }
            }

            (Phase::BackingOff { until }, Event::Tick) if now >= until => self.start(),
            (Phase::Stopping { kill_at: Some(at) }, Event::Tick) if now >= at => {
                self.phase = Phase::Stopping { kill_at: None };
                Some(Action::Kill)
            }
            (Phase::Refused, Event::Allowed) => self.start(),

            // What the one who runs the actions never reports here, or what changes nothing.
            (_, Event::Tick | Event::Allowed | Event::TookOver | Event::SuccessorExited) => None,
            (
                Phase::Stopped
                | Phase::Running { .. }
                | Phase::HandingOver { .. }
                | Phase::BackingOff { .. }
                | Phase::Stopping { .. }
                | Phase::Refused,
                Event::Started | Event::StartFailed { .. } | Event::StartRefused,
            ) => None,
            (
                Phase::Stopped | Phase::Starting { .. } | Phase::BackingOff { .. } | Phase::Refused,
                Event::Exited { .. },
            ) => None,
            (
                Phase::Starting { .. }
                | Phase::Running { .. }
                | Phase::HandingOver { .. }
                | Phase::BackingOff { .. }
                | Phase::Stopping { .. }
                | Phase::Refused,
                Event::Adopted { .. },
            ) => None,
        }
    }

    fn enter(&mut self, phase: Phase) -> Option<Action> {
        self.phase = phase;
        if phase == Phase::Stopped {
            self.attempts = 0;
        }
        None
    }

    fn start(&mut self) -> Option<Action> {
        self.attempts = self.attempts.max(1);
        self.phase = Phase::Starting { again: false };
        Some(Action::Start)
    }

    fn stop(&mut self, now: Instant) -> Option<Action> {
        self.phase = Phase::Stopping { kill_at: Some(now + self.policy.grace) };
        Some(Action::Stop)
    }

    fn promote(&mut self, now: Instant) -> Option<Action> {
        self.phase = Phase::Running { since: now };
        Some(Action::Promote)
    }

    /// After an end that nobody asked for.
    fn retry(&mut self, now: Instant, spread: f64) -> Option<Action> {
        if !self.wanted {
            return self.enter(Phase::Stopped);
        }
        self.attempts = self.attempts.saturating_add(1);
        match self.policy.wait_before(self.attempts, spread) {
            None => self.start(),
            Some(wait) => self.enter(Phase::BackingOff { until: now + wait }),
        }
    }
}

#[cfg(test)]
mod tests;
