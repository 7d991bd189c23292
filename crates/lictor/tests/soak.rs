//! Random changes on real processes, and everything that an operator may do to an agent under load.
//!
//! The ordinary tests do a little of it; `cargo xtask soak` does it for minutes: `LICTOR_SOAK_MINUTES` says how many. Each
//! part has its share of them, goes on until that is over and until it has done what docs/supervisor.md promises, and says how
//! much that was.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test that cannot be set up shall fail")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{LICTOR, Load, Random, echo, mesh, two_services, wait_path};
use lictor_testkit::house::send;
use lictor_testkit::{House, until};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Sequences in the ordinary tests, and in a soak at least.
const SEQUENCES: (u32, u32) = (25, 500);
/// Rounds of operations under load in the ordinary tests, and in a soak at least.
const ROUNDS: (u32, u32) = (2, 20);
/// Rounds of crashes in the ordinary tests, and in a soak at least.
const CRASHES: (u32, u32) = (1, 1);

/// Requests a second under which a soak does its operations.
const RATE: u32 = 2000;
/// How much more is asked for, so that what is under way at the end does not count against the rate.
const SPARE: u32 = 40;
/// Requests a second in the ordinary tests, beside which other tests run.
const ORDINARY_RATE: u32 = 500;

/// The parts of a soak, with their shares of its time.
const SEQUENCES_SHARE: f64 = 0.4;
const OPERATIONS_SHARE: f64 = 0.4;
const CRASHES_SHARE: f64 = 0.2;

/// How long one part goes on.
enum Extent {
    /// So many rounds: the ordinary tests.
    Rounds(u32),
    /// Until then, and for so many rounds: a soak.
    Soak(Instant, u32),
}

impl Extent {
    fn of(share: f64, (ordinary, least): (u32, u32)) -> Extent {
        match std::env::var("LICTOR_SOAK_MINUTES") {
            Ok(minutes) => {
                let minutes: f64 = minutes.parse().unwrap();
                Extent::Soak(Instant::now() + Duration::from_secs_f64(minutes * 60.0 * share), least)
            }
            Err(_) => Extent::Rounds(ordinary),
        }
    }

    fn is_soak(&self) -> bool {
        matches!(self, Extent::Soak(..))
    }

    /// Whether there is more to do after so many rounds.
    fn goes_on(&self, done: u32) -> bool {
        match self {
            Extent::Rounds(rounds) => done < *rounds,
            Extent::Soak(end, least) => done < *least || Instant::now() < *end,
        }
    }
}

/// What shall be: the program of each proxy by its id. Kept beside the house and told by nothing that the agent says.
#[derive(Default)]
struct Wanted {
    api: BTreeMap<String, usize>,
    files: BTreeMap<String, usize>,
}

/// Programs that a proxy may be; no two are the same command.
fn command(variant: usize) -> Value {
    match variant {
        0 => json!({}),
        other => json!({"command": ["/bin/sleep", (1000 + other).to_string()]}),
    }
}

impl Wanted {
    fn file_services(&self) -> Vec<Value> {
        let service = |(name, variant): (&String, &usize)| json!({"name": name, "port": 1, "connect": {"proxy": command(*variant)}});
        self.files.iter().map(service).collect()
    }

    /// Whether the processes are those wanted: one for each, of the right program.
    fn is_met(&self, house: &House) -> bool {
        let mut running = house.proxies();
        running.sort();
        let mut wanted: Vec<(String, usize)> =
            self.api.iter().chain(&self.files).map(|(name, variant)| (format!("{name}-proxy"), *variant)).collect();
        wanted.sort();
        running.len() == wanted.len()
            && running.iter().zip(&wanted).all(|((id, pid), (wanted, variant))| {
                let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                let line = String::from_utf8_lossy(&line).into_owned();
                let fits = match variant {
                    0 => line.contains("connect\0proxy"),
                    other => line.contains(&format!("sleep\0{}\0", 1000 + other)),
                };
                id == wanted && fits
            })
    }
}

fn step(house: &mut House, wanted: &mut Wanted, random: &mut Random) -> String {
    let (name, variant) = (format!("s{}", random.below(3)), random.below(3));
    match random.below(12) {
        0..=2 => {
            let body = json!({"Name": name, "Port": 1, "Connect": {"Proxy": {
                "Command": command(variant).get("command").cloned().unwrap_or(json!([]))}}});
            house.put("/v1/agent/service/register", body);
            wanted.api.insert(name.clone(), variant);
            format!("register {name} as {variant}")
        }
        3 => {
            house.put("/v1/agent/service/register", json!({"Name": name, "Port": 1}));
            wanted.api.remove(&name);
            format!("register {name} without a proxy")
        }
        4 | 5 => {
            house.put(&format!("/v1/agent/service/deregister/{name}"), Value::Null);
            wanted.api.remove(&name);
            format!("deregister {name}")
        }
        6 | 7 => {
            let name = format!("f{}", random.below(2));
            let what = if random.below(2) == 0 {
                wanted.files.remove(&name);
                format!("reload without {name}")
            } else {
                wanted.files.insert(name.clone(), variant);
                format!("reload with {name} as {variant}")
            };
            let services = wanted.file_services();
            house.reconfigure(|config| config["services"] = services.into());
            house.put("/v1/agent/reload", Value::Null);
            what
        }
        8 | 9 => {
            let running = house.proxies();
            match running.is_empty() {
                true => "nothing to crash".to_owned(),
                false => {
                    let (id, pid) = running[random.below(running.len())].clone();
                    send(pid, Signal::KILL);
                    format!("crash {id}")
                }
            }
        }
        10 => {
            house.kill_agent();
            house.start_agent();
            house.wait_ready();
            "kill the agent".to_owned()
        }
        _ => {
            house.end_agent(Signal::TERM);
            house.start_agent();
            house.wait_ready();
            "restart the agent".to_owned()
        }
    }
}

#[test]
fn after_every_random_sequence_of_changes_what_runs_is_what_is_wanted() {
    let mut random = Random::new();
    let mut house = House::build(
        LICTOR,
        json!({"services": [], "connect": {"proxy": {"allow_managed_api_registration": true},
            // A replaced proxy has no connections here, so this is never waited for.
            "proxy_defaults": {"drain_time": "30s"}}}),
    );
    house.start_agent();
    house.wait_ready();
    let mut wanted = Wanted::default();
    let begin = Instant::now();
    let extent = Extent::of(SEQUENCES_SHARE, SEQUENCES);
    let mut done = 0;
    while extent.goes_on(done) {
        let length = 1 + random.below(6);
        let steps: Vec<String> = (0..length).map(|_| step(&mut house, &mut wanted, &mut random)).collect();
        let met = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            until("what is wanted runs", || wanted.is_met(&house));
        }));
        assert!(met.is_ok(), "sequence {done}: {steps:?}\n{:?}\n{}", house.proxies(), house.log());
        done += 1;
    }
    eprintln!("{done} sequences in {:?}", begin.elapsed());
    assert!(!extent.is_soak() || done >= SEQUENCES.1);
}

/// One operation under load.
#[derive(Clone, Copy, Debug)]
enum Operation {
    KillAgent,
    UpgradeAgent,
    UpgradeProxies,
    Reload,
}

impl Operation {
    const ALL: [Operation; 4] =
        [Operation::KillAgent, Operation::UpgradeAgent, Operation::UpgradeProxies, Operation::Reload];

    fn title(self) -> &'static str {
        match self {
            Operation::KillAgent => "agent killed and started again",
            Operation::UpgradeAgent => "agent upgraded",
            Operation::UpgradeProxies => "proxies upgraded",
            Operation::Reload => "configuration reloaded",
        }
    }
}

/// What came of the load during all operations of one kind.
#[derive(Clone, Copy, Default)]
struct Came {
    requests: u64,
    slowest: Duration,
}

/// The path under which the program is installed, one build after the other.
struct Installed {
    path: PathBuf,
    builds: u32,
}

impl Installed {
    fn new(house: &House) -> Installed {
        let mut installed = Installed { path: house.folder().join("lictor"), builds: 0 };
        installed.upgrade();
        installed
    }

    /// Puts another build in the place of the present one, as package managers do: what runs keeps the file that it was
    /// started from.
    fn upgrade(&mut self) {
        let next = self.path.with_extension("next");
        lictor_testkit::program::copy(LICTOR, &next);
        // What is behind the last section of a program is loaded by nobody, but makes it another one.
        self.builds += 1;
        let more = format!("printf %{}s >> \"$0\"", self.builds);
        assert!(Command::new("sh").arg("-c").arg(more).arg(&next).status().unwrap().success());
        fs::rename(next, &self.path).unwrap();
    }

    /// Whether a process runs from the build that is installed; one that has just drained runs no longer.
    fn is_run_by(&self, pid: u32) -> bool {
        let Ok(of_process) = fs::metadata(format!("/proc/{pid}/exe")) else { return false };
        let installed = fs::metadata(&self.path).unwrap();
        (of_process.ino(), of_process.len()) == (installed.ino(), installed.len())
    }
}

/// One operation, done when what it changes is seen to be changed.
fn operate(house: &mut House, installed: &mut Installed, operation: Operation, round: u32, load: &Load) {
    match operation {
        Operation::KillAgent => {
            house.kill_agent();
            load.wait_for(100);
            house.start_agent();
            house.wait_ready();
        }
        Operation::UpgradeAgent => {
            installed.upgrade();
            assert!(!installed.is_run_by(house.agent_pid()), "the builds are the same");
            house.end_agent(Signal::TERM);
            house.start_agent();
            house.wait_ready();
            assert!(installed.is_run_by(house.agent_pid()));
        }
        Operation::UpgradeProxies => {
            let mut command = Command::new(LICTOR);
            command.args(["connect", "restart-proxies", "-http-addr", &format!("127.0.0.1:{}", house.http_port)]);
            let output = command.output().unwrap();
            assert!(output.status.success(), "{output:?}\n{}", house.log());
            for id in ["db-proxy", "web-proxy"] {
                // The former processes go on with the connections that were open.
                let of_id = house.proxies().into_iter().filter(|(of, _)| of == id);
                assert_eq!(of_id.filter(|(_, pid)| installed.is_run_by(*pid)).count(), 1, "{id}");
            }
        }
        Operation::Reload => {
            let port = 8000 + round % 100;
            house.reconfigure(|config| config["services"][1]["port"] = port.into());
            house.put("/v1/agent/reload", Value::Null);
        }
    }
}

#[test]
fn killing_and_upgrading_agents_upgrading_proxies_and_reloading_under_load_fails_no_request() {
    let (mut config, entry) = two_services(echo().port());
    // The open connections stay with the first process all the time.
    config["connect"] = json!({"proxy_defaults": {"drain_time": "24h"}});
    let mut house = House::build(LICTOR, config);
    let mut installed = Installed::new(&house);
    house.use_binary(&installed.path);
    house.start_agent();
    house.wait_ready();
    wait_path(&house, entry);
    let extent = Extent::of(OPERATIONS_SHARE, ROUNDS);
    let load = match extent.is_soak() {
        true => Load::paced(entry, 16, 16, RATE + SPARE),
        false => Load::paced(entry, 8, 8, ORDINARY_RATE),
    };
    let begin = Instant::now();
    let mut came = [Came::default(); 4];
    let mut round = 0;
    while extent.goes_on(round) {
        for (operation, came) in Operation::ALL.into_iter().zip(&mut came) {
            let before = load.sent();
            operate(&mut house, &mut installed, operation, round, &load);
            load.wait_for(100);
            if load.failures() > 0 {
                let (sent, failures) = load.stop();
                panic!(
                    "after {operation:?} in round {round}: {} of {sent}: {failures:?}\n{}",
                    failures.len(),
                    house.log()
                );
            }
            came.requests += load.sent() - before;
            came.slowest = came.slowest.max(load.take_slowest());
        }
        round += 1;
    }
    let rate = load.sent() as f64 / begin.elapsed().as_secs_f64();
    let (sent, failures) = load.stop();
    eprintln!("{round} rounds, {sent} requests, {rate:.0} a second, {} failed", failures.len());
    // The table of docs/supervisor.md.
    eprintln!("| Operation | times | requests meanwhile | failed | highest latency |\n| --- | --- | --- | --- | --- |");
    for (operation, Came { requests, slowest }) in Operation::ALL.into_iter().zip(came) {
        eprintln!("| {} | {round} | {requests} | 0 | {} ms |", operation.title(), slowest.as_millis());
    }
    assert!(failures.is_empty(), "{failures:?}");
    if extent.is_soak() {
        assert!(round >= ROUNDS.1, "{round} rounds");
        assert!(
            rate >= f64::from(RATE),
            "{rate:.0} requests a second: this machine is too slow or too busy for this soak"
        );
    }
}

#[test]
fn crashes_of_proxies_under_load_cost_only_what_they_carried() {
    const WORKERS: usize = 8;
    let (house, entry) = mesh(echo().port());
    let extent = Extent::of(CRASHES_SHARE, CRASHES);
    let load = Load::start(entry, WORKERS, 0);
    let mut round = 0;
    while extent.goes_on(round) {
        for id in ["db-proxy", "web-proxy"] {
            load.wait_for(100);
            let pid = house.proxy_pid(id);
            send(pid, Signal::KILL);
            until("another process runs", || house.proxies().iter().any(|(of, new)| of == id && *new != pid));
            // Longer than a process must live to start again at once when it crashes.
            if extent.goes_on(round + 1) {
                std::thread::sleep(Duration::from_secs(11));
            }
        }
        round += 1;
        // Two crashes a round, and each costs each worker one request at most.
        let most = u64::try_from(WORKERS).unwrap() * 2 * u64::from(round);
        assert!(load.failures() <= most, "round {round}: {} failed", load.failures());
    }
    let (sent, failures) = load.stop();
    assert!(!failures.iter().any(|failure| failure.contains("refused")), "{failures:?}");
    eprintln!("{} of {sent} requests were under way in {} crashes", failures.len(), 2 * round);
}
