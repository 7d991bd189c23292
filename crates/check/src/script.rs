//! The check that runs a program: its exit code is the status, what it prints is the output.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use lictor_model::health::{CheckSpec, Status};
use lictor_model::text;
use rustix::process::{Pid, Signal};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};

use crate::tail::Tail;
use crate::{Outcome, dial, limit, room};

/// How long output of a program that has ended may still arrive. Something it left running may hold the pipe for ever.
const REST: Duration = Duration::from_millis(250);

/// A program and its limit.
pub(crate) struct Script {
    args: Vec<String>,
    limit: Duration,
}

impl Script {
    pub(crate) fn new(spec: &CheckSpec) -> Script {
        Script { args: spec.args.clone(), limit: limit::script(spec) }
    }

    /// Runs the program in a process group of its own, which is killed when the time is over or the run is dropped.
    pub(crate) async fn run(&self) -> Outcome {
        let mut tail = Tail::default();
        match tokio::time::timeout(self.limit, self.run_into(&mut tail)).await {
            Ok(Ok(status)) => Outcome { status: status_of(status), output: tail.text_with_remark() },
            Ok(Err(error)) => Outcome::critical(self.start_error(&error)),
            Err(_) => {
                let mut output = format!("Timed out ({}) running check", text::duration(self.limit));
                let said = tail.text_with_remark();
                if !said.is_empty() {
                    output.push_str("\n\n");
                    output.push_str(&said);
                }
                Outcome::critical(output)
            }
        }
    }

    async fn run_into(&self, tail: &mut Tail) -> io::Result<ExitStatus> {
        let (mut child, mut reader) = room::wait(|| std::future::ready(self.start())).await?;
        let mut group = Group(child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)));
        let mut buffer = [0u8; 4096];
        let mut open = true;
        let status = loop {
            tokio::select! {
                read = reader.read(&mut buffer), if open => match read {
                    Ok(0) | Err(_) => open = false,
                    Ok(count) => tail.write(&buffer[..count]),
                },
                status = child.wait() => break status?,
            }
        };
        group.0 = None;
        let rest = async {
            while let Ok(count @ 1..) = reader.read(&mut buffer).await {
                tail.write(&buffer[..count]);
            }
        };
        if open {
            let _ = tokio::time::timeout(REST, rest).await;
        }
        Ok(status)
    }

    /// The program, and what it prints.
    fn start(&self) -> io::Result<(Child, pipe::Receiver)> {
        let (program, args) = self.args.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        // One pipe for both streams keeps what was printed in its order.
        let (reader, writer) = io::pipe()?;
        let reader = pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?;
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).process_group(0);
        // It holds our copies of the writing end, and is dropped here.
        command.stdout(writer.try_clone()?).stderr(writer);
        Ok((command.spawn()?, reader))
    }

    fn start_error(&self, error: &io::Error) -> String {
        let program = self.args.first().map(String::as_str).unwrap_or_default();
        if error.kind() == io::ErrorKind::NotFound && !program.contains('/') {
            return format!("exec: {program:?}: executable file not found in $PATH");
        }
        format!("fork/exec {program}: {}", dial::cause_text(error))
    }
}

fn status_of(exit: ExitStatus) -> Status {
    match (exit.code(), exit.signal()) {
        (Some(0), _) => Status::Passing,
        (Some(1), _) => Status::Warning,
        _ => Status::Critical,
    }
}

/// The program's process group, killed when dropped. `None` once the leader has been waited for: the number may then
/// mean somebody else.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
    }
}
