//! Figures of an agent: its answers, what it holds, and what a change costs beside much that it does not concern.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lictor_testkit::{http, ports};
use serde_json::json;

use super::Options;
use super::dataplane::{number, settled};
use super::plot::Curve;
use super::process::{Held, Process, eventually, load, processor, resident};
use super::table::Better::{Less, More};
use super::table::Target::{Figure, None as NoTarget};
use super::table::{Better, Row, Samples, Target};

const fn row(key: &'static str, label: &'static str, unit: &'static str, better: Better, target: Target) -> Row {
    Row { key, label, unit, better, target, ours: "lictor" }
}

/// The figures. Targets that are multiples of Consul 1.4.3 were made from what it did on a machine of two cores like the
/// one of docs/performance.md, on another day.
pub(super) const ROWS: [Row; 18] = [
    row("agent_idle", "resident, idle agent", "MB", Less, Figure(20.0)),
    row("register1", "registrations in memory, 1 connection", "1/s", More, Figure(3.0 * 1870.0)),
    row("register64", "registrations in memory, 64 connections", "1/s", More, NoTarget),
    row("durable64", "durable registrations, 64 connections", "1/s", More, Figure(20_000.0)),
    row(
        "bare_durable",
        "for comparison: the same of a program that appends to a file and does nothing else",
        "1/s",
        More,
        NoTarget,
    ),
    row("durable1", "durable registrations, 1 connection", "1/s", More, NoTarget),
    row("health1", "health answers, 1 instance", "1/s", More, Figure(5.0 * 19_800.0)),
    row("health50", "health answers, 50 instances", "1/s", More, Figure(10.0 * 4000.0)),
    row("bare", "for comparison: answers of a program that does nothing else", "1/s", More, NoTarget),
    row("dns", "DNS answers", "1/s", More, Figure(10.0 * 10_000.0)),
    row("bare_dns", "for comparison: the same of a program that does nothing else", "1/s", More, NoTarget),
    row("wake", "1,500 blocking queries, change to the last answer", "ms", Less, Figure(15.0)),
    row("bare_wake", "for comparison: the same of a program that does nothing else", "ms", Less, NoTarget),
    row("wake_memory", "resident per blocking query", "KB", Less, Figure(4.0)),
    row("resident_100k", "resident with 100,000 instances", "MB", Less, Figure(300.0)),
    row("restart_100k", "restart with 100,000 instances", "ms", Less, Figure(1000.0)),
    row("restarted_100k", "resident with them after the restart", "MB", Less, NoTarget),
    row("start", "start of an empty agent", "ms", Less, NoTarget),
];

/// How many instances and watchers a change is measured beside.
const SCALES: [usize; 5] = [1_000, 3_000, 10_000, 30_000, 100_000];
/// Changes of one measurement: enough that hundredths of a second do not matter.
const CHANGES: usize = 10_000;
const WATCHERS: usize = 1500;
const ALL: usize = 100_000;

/// An agent by itself.
struct Agent {
    process: Process,
    folder: PathBuf,
    http: u16,
    dns: u16,
    /// Seconds until it answered.
    start: f64,
}

impl Agent {
    fn start(program: &Path, folder: &Path, durable: bool) -> Result<Agent> {
        let first = ports::block(13);
        let mut config = json!({
            "bind_addr": "127.0.0.1", "node_name": "bench", "log_level": "ERR",
            "ports": {"http": first, "dns": first + 1, "server": first + 2, "serf_lan": -1, "serf_wan": -1, "grpc": -1,
                "proxy_min_port": first + 3, "proxy_max_port": first + 7,
                "sidecar_min_port": first + 8, "sidecar_max_port": first + 12},
        });
        if durable {
            config["server"] = true.into();
            config["bootstrap"] = true.into();
            config["data_dir"] = folder.join("data").display().to_string().into();
        }
        fs::create_dir_all(folder)?;
        fs::write(folder.join("agent.json"), serde_json::to_vec_pretty(&config)?)?;
        Agent::start_again(program, folder, durable, first)
    }

    fn start_again(program: &Path, folder: &Path, durable: bool, first: u16) -> Result<Agent> {
        let file = folder.join("agent.json").display().to_string();
        let mut words = vec!["agent", "-config-file", &file];
        if !durable {
            words.push("-dev");
        }
        let started = Instant::now();
        let mut process = Process::start(&folder.join("agent.log"), program, &words)?;
        eventually("the agent answers", || {
            process.check("the agent")?;
            if TcpStream::connect(("127.0.0.1", first)).is_err() {
                return Ok(None);
            }
            let answer = http::request(first, "GET", "/v1/status/leader", &[], b"", Duration::from_secs(5));
            Ok(answer.ok().filter(|answer| answer.status == 200 && answer.body.len() > 2))
        })?;
        let start = started.elapsed().as_secs_f64();
        Ok(Agent { process, folder: folder.to_owned(), http: first, dns: first + 1, start })
    }

    fn pids(&self) -> BTreeSet<u32> {
        [self.process.pid()].into()
    }

    fn load(&self, program: &Path, command: &str, words: &[&str]) -> Result<serde_json::Value> {
        let port = if command == "dns" { self.dns } else { self.http }.to_string();
        load(program, &[&[command, &port], words].concat())
    }

    /// Registers instances `first` and following and gives how many per second.
    fn register(
        &self,
        load: &Path,
        connections: usize,
        range: std::ops::Range<usize>,
        spread: [usize; 2],
    ) -> Result<f64> {
        let words = [connections, range.start, range.len(), spread[0], spread[1]].map(|number| number.to_string());
        let report = self.load(load, "register", &words.each_ref().map(String::as_str))?;
        Ok(number(&report, "count")? / number(&report, "seconds")?)
    }
}

/// Measures one agent after the other.
pub(super) fn run(options: &Options, lictor: &Path, tool: &Path, folder: &Path, samples: &mut Samples) -> Result<()> {
    for repetition in 0..options.reps {
        let mut note = |key, value| samples.note(key, "lictor", value);
        let folder = folder.join(format!("agent-{repetition}"));
        in_memory(options, lictor, tool, &folder.join("memory"), &mut note)?;
        durable(lictor, tool, &folder.join("durable"), &mut note)?;
        crate::say(&format!("xtask: agent, repetition {} of {}", repetition + 1, options.reps));
    }
    Ok(())
}

fn in_memory(
    options: &Options,
    lictor: &Path,
    tool: &Path,
    folder: &Path,
    note: &mut impl FnMut(&'static str, f64),
) -> Result<()> {
    let agent = Agent::start(lictor, folder, false)?;
    note("start", agent.start * 1e3);
    // An agent gives back what its start needed after two seconds.
    std::thread::sleep(Duration::from_secs(4));
    note("agent_idle", settled(&agent.pids()) / 1024.0);
    // Two thousand instances of forty services, fifty of each.
    note("register1", agent.register(tool, 1, 0..2000, [200, 40])?);
    note("register64", agent.register(tool, 64, 0..2000, [200, 40])?);
    agent.load(tool, "touch", &["1"])?;
    let seconds = options.seconds.to_string();
    for (key, path) in [("health1", "/v1/health/service/lone"), ("health50", "/v1/health/service/svc1?passing")] {
        let report = agent.load(tool, "get", &["16", &seconds, path])?;
        note(key, number(&report, "count")? / number(&report, "seconds")?);
    }
    let port = ports::one().to_string();
    let bare = Process::start(&folder.join("bare.log"), tool, &["serve", &port])?;
    let report = eventually("a bare program answers", || Ok(load(tool, &["ask", &port, "16", &seconds]).ok()))?;
    note("bare", number(&report, "count")? / number(&report, "seconds")?);
    drop(bare);
    let names = ["lone.service.consul", "srv:svc1.service.consul", "svc2.service.consul"];
    let report = agent.load(tool, "dns", &[&["8", seconds.as_str()], &names[..]].concat())?;
    note("dns", number(&report, "count")? / number(&report, "seconds")?);
    let bare = Process::start(&folder.join("bare.log"), tool, &["names", &port])?;
    let words = [&["dns", port.as_str(), "8", seconds.as_str()], &names[..]].concat();
    let report = eventually("a bare program answers", || Ok(load(tool, &words).ok()))?;
    note("bare_dns", number(&report, "count")? / number(&report, "seconds")?);
    drop(bare);

    let before = settled(&agent.pids());
    let mut watchers = Held::start(tool, &["watch", &agent.http.to_string(), &WATCHERS.to_string(), "lone"])?;
    watchers.report()?;
    let waiting = await_quiet(&agent)?;
    note("wake_memory", (waiting - before) / WATCHERS as f64);
    for _ in 0..3 {
        let report = watchers.step()?;
        note("wake", number(&report["last"], "milliseconds")?);
        await_quiet(&agent)?;
    }
    let report = load(tool, &["wake", &port, &WATCHERS.to_string()])?;
    note("bare_wake", number(&report, "milliseconds")?);
    Ok(())
}

fn durable(lictor: &Path, tool: &Path, folder: &Path, note: &mut impl FnMut(&'static str, f64)) -> Result<()> {
    let agent = Agent::start(lictor, folder, true)?;
    note("durable1", agent.register(tool, 1, 0..1000, [2000, 1000])?);
    note("durable64", agent.register(tool, 64, 1000..ALL, [2000, 1000])?);
    await_quiet(&agent)?;
    note("resident_100k", settled(&agent.pids()) / 1024.0);
    let (folder, port) = (agent.folder.clone(), agent.http);
    agent.process.kill()?;
    let agent = Agent::start_again(lictor, &folder, true, port)?;
    note("restart_100k", agent.start * 1e3);
    let answer = http::request(port, "GET", "/v1/health/service/svc1", &[], b"", Duration::from_secs(5))?;
    let found = answer.text().matches("\"Service\":{").count();
    if found != ALL / 1000 {
        bail!("the agent came back with {found} instances of a service that had {}", ALL / 1000);
    }
    note("restarted_100k", settled(&agent.pids()) / 1024.0);
    drop(agent);
    fs::remove_dir_all(folder.join("data")).context("cannot remove the agent's data")?;

    let (port, file) = (ports::one().to_string(), folder.join("bare").display().to_string());
    let bare = Process::start(&folder.join("bare.log"), tool, &["durable", &port, &file])?;
    let words = ["register", &port, "64", "0", &ALL.to_string(), "2000", "1000"];
    let report = eventually("a bare program writes", || Ok(load(tool, &words).ok()))?;
    note("bare_durable", number(&report, "count")? / number(&report, "seconds")?);
    drop(bare);
    fs::remove_file(file).context("cannot remove what a bare program wrote")
}

/// Waits until an agent has nothing to do, and gives what it holds.
fn await_quiet(agent: &Agent) -> Result<f64> {
    let pids = agent.pids();
    let (mut last, mut since) = (processor(&pids), Instant::now());
    eventually("the agent comes to rest", || {
        let now = processor(&pids);
        if now > last {
            (last, since) = (now, Instant::now());
        }
        Ok((since.elapsed() > Duration::from_millis(500)).then(|| resident(&pids)))
    })
}

/// What a change costs beside more and more instances, and beside more and more watchers, that it does not concern.
pub(super) fn scale(options: &Options, lictor: &Path, tool: &Path, folder: &Path) -> Result<Vec<Curve>> {
    let mut beside_instances = Vec::new();
    let agent = Agent::start(lictor, &folder.join("scale-instances"), false)?;
    let mut there = 0;
    for scale in SCALES {
        agent.register(tool, 64, there..scale, [2000, 1000])?;
        there = scale;
        beside_instances.push((scale as f64, cost(options, &agent, tool)?));
        crate::say(&format!(
            "xtask: a change beside {scale} instances: {:.0} µs",
            beside_instances.last().map_or(0.0, |p| p.1)
        ));
    }
    drop(agent);
    let mut beside_watchers = Vec::new();
    // Each watcher is a connection and a descriptor at both ends.
    let most =
        usize::try_from(rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(u64::MAX))?;
    let agent = Agent::start(lictor, &folder.join("scale-watchers"), false)?;
    agent.register(tool, 64, 0..1000, [200, 1000])?;
    let mut held: Vec<Held> = Vec::new();
    let mut there = 0;
    for scale in SCALES {
        let scale = scale.min(most.saturating_sub(500));
        if scale <= there {
            crate::say("xtask: no more watchers: the limit of open files of this user (ulimit -Hn) is reached");
            break;
        }
        let count = (scale - there).to_string();
        let mut watchers = Held::start(tool, &["watch", &agent.http.to_string(), &count, "svc1"])?;
        watchers.report()?;
        held.push(watchers);
        there = scale;
        await_quiet(&agent)?;
        beside_watchers.push((scale as f64, cost(options, &agent, tool)?));
        crate::say(&format!(
            "xtask: a change beside {scale} watchers: {:.0} µs",
            beside_watchers.last().map_or(0.0, |p| p.1)
        ));
    }
    Ok(vec![
        Curve { name: "instances that it does not concern".to_owned(), points: beside_instances },
        Curve { name: "blocking queries that it does not concern".to_owned(), points: beside_watchers },
    ])
}

/// Processor time of the agent for one change, in microseconds: the median of the repetitions.
fn cost(options: &Options, agent: &Agent, tool: &Path) -> Result<f64> {
    agent.load(tool, "touch", &["500"])?;
    let mut each = Vec::new();
    for _ in 0..options.reps {
        let before = processor(&agent.pids());
        agent.load(tool, "touch", &[&CHANGES.to_string()])?;
        each.push((processor(&agent.pids()) - before) / CHANGES as f64 * 1e6);
    }
    each.sort_unstable_by(f64::total_cmp);
    Ok(each[each.len() / 2])
}
