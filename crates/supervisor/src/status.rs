//! What the outside sees of each process.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::session::Exit;

/// Where a process stands, in the words that people see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Nothing runs and nothing should.
    #[default]
    Stopped,
    /// It is being started.
    Starting,
    /// It runs and has not said that it is ready.
    Running,
    /// It runs and has said that it is ready.
    Ready,
    /// It failed and waits for its next start.
    BackingOff,
    /// It was asked to stop and is not gone yet.
    Stopping,
    /// It should run but may not be started.
    Failed,
}

impl State {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Stopped => "stopped",
            State::Starting => "starting",
            State::Running => "running",
            State::Ready => "ready",
            State::BackingOff => "backing-off",
            State::Stopping => "stopping",
            State::Failed => "failed",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How and when the last run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastExit {
    /// How.
    pub exit: Exit,
    /// When, in milliseconds since the Unix epoch.
    pub at_unix_ms: i64,
    /// How long it had run.
    pub ran: Duration,
    /// Its last lines, when it ended without being asked to.
    pub output: Vec<String>,
}

/// One process as it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Where it stands.
    pub state: State,
    /// Since when, in milliseconds since the Unix epoch.
    pub since_unix_ms: i64,
    /// Its pid, while there is a process.
    pub pid: Option<u32>,
    /// Since when nothing was heard of a process that reports now and then, in milliseconds since the Unix epoch; `None`
    /// while it is heard as it should be, and for programs that report nothing.
    pub unheard_since_unix_ms: Option<i64>,
    /// The start of that process, in milliseconds since the Unix epoch.
    pub started_unix_ms: Option<i64>,
    /// Whether it was started by an earlier agent.
    pub adopted: bool,
    /// Whether it has said that it is ready.
    pub ready: bool,
    /// How often another process took its place since this agent knows it: after a crash, or because somebody wanted it.
    pub restarts: u32,
    /// How the last run ended.
    pub last_exit: Option<LastExit>,
    /// The next start when it is waiting for one, in milliseconds since the Unix epoch.
    pub next_try_unix_ms: Option<i64>,
    /// Why it may not be started.
    pub refused: Option<String>,
    /// What it last said of itself.
    pub text: String,
    /// The `X_LICTOR_…` fields it reported.
    pub fields: BTreeMap<String, String>,
    /// Where its replacement without a gap stands.
    pub handover: Handover,
    /// Processes that have handed over and let their connections end.
    pub draining: Vec<Draining>,
}

/// Where the replacement of a process by a successor stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Handover {
    /// None is under way.
    #[default]
    None,
    /// A successor runs and is not ready yet.
    UnderWay {
        /// Its pid; `None` before it has one.
        pid: Option<u32>,
    },
    /// The last one failed, and what ran goes on.
    Failed {
        /// Why.
        cause: String,
        /// When, in milliseconds since the Unix epoch: two that failed for one reason are two.
        at_unix_ms: i64,
    },
}

/// A process that has handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draining {
    /// Its pid.
    pub pid: u32,
    /// When it is stopped at the latest, in milliseconds since the Unix epoch.
    pub until_unix_ms: i64,
    /// Connections it still carries, if it says so.
    pub connections: Option<u64>,
}

impl Status {
    /// The reason why it does not run, for people; `None` when it runs or should not.
    pub fn trouble(&self) -> Option<String> {
        match (self.state, &self.refused, &self.last_exit) {
            (State::Failed, Some(reason), _) => Some(reason.clone()),
            (State::BackingOff | State::Starting, _, Some(last)) => Some(last.exit.to_string()),
            _ => None,
        }
    }
}
