//! How the proxy is doing, for the supervisor and for people.

use std::fmt;

/// What a proxy can be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Waiting for settings, certificates or a free address.
    #[default]
    Starting,
    /// Everything asked for is served.
    Ready,
    /// Something asked for is not served; the rest is.
    Degraded,
    /// Finishing what is open.
    Draining,
}

/// How the proxy is doing. Changes are published through a watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// In one word.
    pub phase: Phase,
    /// What is in the way; empty when ready. While draining, what it waits for.
    pub problems: Vec<String>,
    /// What became of listening sockets of an earlier process.
    pub heritage: Heritage,
    /// The public port, while somebody else listens there.
    pub taken: Option<u16>,
    /// Whether nothing but its application is in the way of its public listener.
    pub awaits_app: bool,
}

/// What became of listening sockets of an earlier process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Heritage {
    /// There are none, or not all are in use yet.
    #[default]
    None,
    /// All that are needed are in use here.
    TakenOver,
}

impl Status {
    /// Whether the proxy has once been able to do all it was asked: what a supervisor calls ready.
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Ready
    }
}

/// One line, as a supervisor shows it.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.phase {
            Phase::Starting => "starting",
            Phase::Ready => "ready",
            Phase::Degraded => "degraded",
            Phase::Draining => "draining",
        })?;
        for (at, problem) in self.problems.iter().enumerate() {
            f.write_str(if at == 0 { ": " } else { "; " })?;
            f.write_str(problem)?;
        }
        Ok(())
    }
}
