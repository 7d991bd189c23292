//! Random changes on real processes, and everything that an operator may do to an agent under load.
//!
//! The ordinary tests do a little of it; `cargo xtask soak` does it for minutes: `LICTOR_SOAK_MINUTES` says how many. Each
//! part has its share of them and ends when that is over, however much it has done by then, and says how much that was.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test that cannot be set up shall fail")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{LICTOR, Load, echo, mesh, two_services, wait_path};
use lictor_testkit::house::send;
use lictor_testkit::{House, until};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Sequences in the ordinary tests.
const SEQUENCES: u32 = 25;
/// Rounds of operations under load in the ordinary tests.
const ROUNDS: u32 = 2;

/// The parts of a soak, with their shares of its time.
const SEQUENCES_SHARE: f64 = 0.4;
const OPERATIONS_SHARE: f64 = 0.4;
const CRASHES_SHARE: f64 = 0.2;

/// How long one part goes on.
enum Extent {
    /// So many rounds: the ordinary tests.
    Rounds(u32),
    /// Until then: a soak.
    Until(Instant),
}

impl Extent {
    fn of(share: f64, rounds: u32) -> Extent {
        match std::env::var("LICTOR_SOAK_MINUTES") {
            Ok(minutes) => {
                let minutes: f64 = minutes.parse().unwrap();
                Extent::Until(Instant::now() + Duration::from_secs_f64(minutes * 60.0 * share))
            }
            Err(_) => Extent::Rounds(rounds),
        }
    }

    /// Whether there is more to do after so many rounds. The first one is always done.
    fn goes_on(&self, done: u32) -> bool {
        match self {
            Extent::Rounds(rounds) => done < *rounds,
            Extent::Until(end) => done == 0 || Instant::now() < *end,
        }
    }
}

/// A small generator, so that a failed run can be repeated from its seed.
struct Random(u64);

impl Random {
    fn new() -> Random {
        let seed = std::env::var("LICTOR_SOAK_SEED").ok().and_then(|seed| seed.parse().ok());
        let fresh = || std::hash::RandomState::new().build_hasher().finish();
        let seed = seed.unwrap_or_else(fresh) | 1;
        eprintln!("LICTOR_SOAK_SEED={seed}");
        Random(seed)
    }

    fn below(&mut self, bound: usize) -> usize {
        // Xorshift.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % bound
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
}

/// One operation under load.
#[derive(Clone, Copy, Debug)]
enum Operation {
    KillAgent,
    UpgradeAgent,
    UpgradeProxies,
    Reload,
}

/// Two names of the same program: an upgrade to the other one.
fn binaries(house: &House) -> [PathBuf; 2] {
    ["one", "other"].map(|version| {
        let folder = house.folder().join(version);
        fs::create_dir(&folder).unwrap();
        let binary = folder.join("lictor");
        fs::copy(LICTOR, &binary).unwrap();
        binary
    })
}

#[test]
fn killing_and_upgrading_agents_upgrading_proxies_and_reloading_under_load_fails_no_request() {
    let (mut config, entry) = two_services(echo().port());
    // The open connections stay with the first process all the time.
    config["connect"] = json!({"proxy_defaults": {"drain_time": "24h"}});
    let mut house = House::build(LICTOR, config);
    let binaries = binaries(&house);
    house.use_binary(&binaries[0]);
    house.start_agent();
    house.wait_ready();
    wait_path(&house, entry);
    let begin = Instant::now();
    let extent = Extent::of(OPERATIONS_SHARE, ROUNDS);
    let load = Load::start(entry, 8, 8);
    let mut round = 0;
    while extent.goes_on(round) {
        for operation in [Operation::KillAgent, Operation::UpgradeAgent, Operation::UpgradeProxies, Operation::Reload] {
            match operation {
                Operation::KillAgent => {
                    house.kill_agent();
                    load.wait_for(100);
                    house.start_agent();
                    house.wait_ready();
                }
                Operation::UpgradeAgent => {
                    house.end_agent(Signal::TERM);
                    house.use_binary(&binaries[usize::from(round % 2 == 0)]);
                    house.start_agent();
                    house.wait_ready();
                }
                Operation::UpgradeProxies => {
                    let address = format!("127.0.0.1:{}", house.http_port);
                    let mut command = Command::new(LICTOR);
                    let output = command.args(["connect", "restart-proxies", "-http-addr", &address]).output().unwrap();
                    assert!(output.status.success(), "{output:?}\n{}", house.log());
                }
                Operation::Reload => {
                    let port = 8000 + round % 100;
                    house.reconfigure(|config| config["services"][1]["port"] = port.into());
                    house.put("/v1/agent/reload", Value::Null);
                }
            }
            load.wait_for(100);
            if load.failures() > 0 {
                let (sent, failures) = load.stop();
                panic!(
                    "after {operation:?} in round {round}: {} of {sent}: {failures:?}\n{}",
                    failures.len(),
                    house.log()
                );
            }
        }
        round += 1;
    }
    let (sent, failures) = load.stop();
    let rate = sent / begin.elapsed().as_secs().max(1);
    eprintln!("{round} rounds, {sent} requests, {rate} a second, {} failed", failures.len());
    assert!(failures.is_empty());
}

#[test]
fn crashes_of_proxies_under_load_cost_only_what_they_carried() {
    const WORKERS: usize = 8;
    let (house, entry) = mesh(echo().port());
    let extent = Extent::of(CRASHES_SHARE, 1);
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
