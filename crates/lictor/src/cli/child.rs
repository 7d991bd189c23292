//! Child processes of commands: started by a shell or as they are, in a process group of their own, with the signals
//! that the command gets.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal as Number, kill_process_group};
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::flags::Flag;

/// The option of commands with a child.
pub(crate) const SHELL: Flag =
    Flag::bool("shell", "Run the child by a shell (SHELL, or /bin/sh), the default; -shell=false runs it as it is");

/// How long a child may take to end after it was asked to.
const GRACE: Duration = Duration::from_secs(5);

/// How a child is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// A shell reads the words as one line.
    Shell,
    /// The first word is the program.
    Itself,
}

impl By {
    /// What was asked for.
    pub(crate) fn of(flags: &crate::config::flags::Parsed) -> By {
        if flags.bool("shell") == Some(false) { By::Itself } else { By::Shell }
    }
}

/// A child that is not started yet.
pub(crate) fn command(words: &[String], by: By) -> Command {
    let mut command = match by {
        By::Shell => {
            let shell = std::env::var_os("SHELL").filter(|shell| !shell.is_empty()).unwrap_or_else(|| "/bin/sh".into());
            let mut command = Command::new(shell);
            command.arg("-c").arg(words.join(" "));
            command
        }
        By::Itself => {
            let (program, arguments) = words.split_first().map_or(("", &[][..]), |(first, rest)| (first, rest));
            let mut command = Command::new(program);
            command.args(arguments);
            command
        }
    };
    command.process_group(0).stdin(Stdio::null());
    command
}

/// The signals that a child gets too.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    quit: Signal,
    hangup: Signal,
    user1: Signal,
    user2: Signal,
}

impl Signals {
    /// From now on they do not end this process.
    pub(crate) fn new() -> Result<Signals> {
        let take = |kind| signal(kind).context("cannot take signals");
        Ok(Signals {
            interrupt: take(SignalKind::interrupt())?,
            terminate: take(SignalKind::terminate())?,
            quit: take(SignalKind::quit())?,
            hangup: take(SignalKind::hangup())?,
            user1: take(SignalKind::user_defined1())?,
            user2: take(SignalKind::user_defined2())?,
        })
    }

    /// The next one. Nothing is lost when it is dropped before.
    pub(crate) async fn next(&mut self) -> Number {
        tokio::select! {
            _ = self.interrupt.recv() => Number::INT,
            _ = self.terminate.recv() => Number::TERM,
            _ = self.quit.recv() => Number::QUIT,
            _ = self.hangup.recv() => Number::HUP,
            _ = self.user1.recv() => Number::USR1,
            _ = self.user2.recv() => Number::USR2,
        }
    }

    /// The next one that asks this process to end.
    pub(crate) async fn end(&mut self) {
        loop {
            if is_end(self.next().await) {
                return;
            }
        }
    }
}

/// Whether a signal asks for the end.
pub(crate) fn is_end(signal: Number) -> bool {
    [Number::INT, Number::TERM, Number::QUIT, Number::HUP].contains(&signal)
}

/// Sends a signal to a child and all that it started.
pub(crate) fn send(child: &Child, signal: Number) {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw) {
        // It may have ended by itself.
        let _ = kill_process_group(pid, signal);
    }
}

/// How a child ended, as scripts know it from the original.
pub(crate) fn shown(status: ExitStatus) -> String {
    status.code().map_or_else(|| status.to_string(), |code| format!("exit status {code}"))
}

/// Ends a child: asks first, kills when that does not help.
pub(crate) async fn end(child: &mut Child) -> Result<ExitStatus> {
    send(child, Number::TERM);
    match tokio::time::timeout(GRACE, child.wait()).await {
        Ok(status) => status,
        Err(_) => {
            send(child, Number::KILL);
            child.wait().await
        }
    }
    .context("cannot wait for the child")
}
