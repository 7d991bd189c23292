//! Processes that a bench starts: found again for their processor time and memory, and gone when dropped.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lictor_testkit::house::send;
use rustix::process::Signal;
use serde_json::Value;

/// How long a process may take to end before it is killed.
const END_LIMIT: Duration = Duration::from_secs(5);
/// How long anything may take to come up.
const PATIENCE: Duration = Duration::from_secs(30);

/// A process in a session of its own: the kernel shares the processor among sessions, so each kind of proxy gets the
/// same. It is told to end when this program ends, however that happens.
pub(super) struct Process {
    child: Child,
    end: Signal,
}

impl Process {
    pub(super) fn start(log: &Path, program: &Path, arguments: &[&str]) -> Result<Process> {
        let log = fs::File::options().create(true).append(true).open(log).context("cannot write a log")?;
        let mut command = alone(program, arguments);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Process { child, end: Signal::TERM })
    }

    /// Another signal ends this one in order.
    pub(super) fn ended_by(mut self, signal: Signal) -> Process {
        self.end = signal;
        self
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it without a chance to do anything.
    pub(super) fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Fails when it has ended by itself.
    pub(super) fn check(&mut self, name: &str) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("{name} ended: {status}"),
            None => Ok(()),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        send(self.child.id(), self.end);
        let end = Instant::now() + END_LIMIT;
        while Instant::now() < end {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        // It may end at this very moment.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// In our session like all others, for the kernel shares the processor among sessions; and in a group of its own, so that
/// what interrupts us does not end it before we do.
fn alone(program: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM"]).arg(program).args(arguments).process_group(0);
    command
}

/// Runs one command of the load to its end and gives its report.
pub(super) fn load(program: &Path, words: &[&str]) -> Result<Value> {
    let output = alone(program, words).stdin(Stdio::null()).output().context("cannot run the load")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().unwrap_or_default();
    if !output.status.success() {
        bail!("load {}: {last}{}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    serde_json::from_str(last).with_context(|| format!("load {}: no report", words.join(" ")))
}

/// A load that goes on until it is told to stop, and says something whenever it has come so far.
pub(super) struct Held {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Held {
    pub(super) fn start(program: &Path, words: &[&str]) -> Result<Held> {
        let mut command = alone(program, words);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot run the load")?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().context("no output")?);
        Ok(Held { child, input, output })
    }

    /// What it says next.
    pub(super) fn report(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        let report: Value = serde_json::from_str(&line).context("the load ended without a report")?;
        if let Some(problem) = report["problem"].as_str() {
            bail!("load: {problem}");
        }
        Ok(report)
    }

    /// Tells it to take its next step.
    pub(super) fn step(&mut self) -> Result<Value> {
        self.input.as_mut().context("the load was ended")?.write_all(b"\n")?;
        self.report()
    }

    /// Waits until it has ended by itself and gives the last thing it said.
    pub(super) fn finish(mut self) -> Result<Value> {
        self.input = None;
        let mut text = String::new();
        self.output.read_to_string(&mut text)?;
        self.child.wait()?;
        serde_json::from_str(text.lines().last().unwrap_or_default()).context("the load ended without a report")
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.input = None;
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until something is there.
pub(super) fn eventually<T>(what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() > end {
            bail!("waited {PATIENCE:?} in vain: {what}");
        }
        std::thread::sleep(Duration::from_micros(500));
    }
}

/// The fields of `/proc/PID/stat` behind the name.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text.rsplit_once(") ")?.1.split(' ').map(str::to_owned).collect())
}

fn all() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// These processes and everything that descends from them.
pub(super) fn with_descendants(roots: impl IntoIterator<Item = u32>) -> BTreeSet<u32> {
    let parents: Vec<(u32, u32)> = all().filter_map(|pid| Some((pid, stat(pid)?.get(1)?.parse().ok()?))).collect();
    let mut found = BTreeSet::new();
    let mut open: Vec<u32> = roots.into_iter().collect();
    while let Some(pid) = open.pop() {
        if found.insert(pid) {
            open.extend(parents.iter().filter(|(_, parent)| *parent == pid).map(|(child, _)| *child));
        }
    }
    found
}

/// Processor seconds of processes so far, those of threads that ended included.
pub(super) fn processor(pids: &BTreeSet<u32>) -> f64 {
    // The kernel counts in hundredths of a second for user space, whatever it counts in itself (USER_HZ).
    pids.iter().filter_map(|pid| stat(*pid)).map(|fields| ticks(&fields, 11..13)).sum::<f64>() / 100.0
}

fn ticks(fields: &[String], range: std::ops::Range<usize>) -> f64 {
    fields.get(range).into_iter().flatten().filter_map(|field| field.parse::<f64>().ok()).sum()
}

/// Resident kilobytes of processes.
pub(super) fn resident(pids: &BTreeSet<u32>) -> f64 {
    let of = |pid: &u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().to_owned();
        line.strip_suffix(" kB")?.trim().parse::<f64>().ok()
    };
    pids.iter().filter_map(of).sum()
}

/// What everybody else on the machine has used so far, in processor seconds. Threads of the kernel are nobody: they work
/// for us, too.
pub(super) fn others(ours: &BTreeSet<u32>) -> f64 {
    let theirs = all().filter(|pid| !ours.contains(pid) && fs::read_link(format!("/proc/{pid}/exe")).is_ok());
    theirs.filter_map(stat).map(|fields| ticks(&fields, 11..15)).sum::<f64>() / 100.0
}

/// Ends what an agent left running.
pub(super) fn end_proxies(http_port: u16) {
    for (_, pid) in lictor_testkit::house::proxies_of(http_port) {
        send(pid, Signal::KILL);
    }
}
