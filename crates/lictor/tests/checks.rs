//! Health checks on real processes: when services go, what outlives a restart, and that many checks keep their pace.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test that cannot be set up shall fail")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::LICTOR;
use lictor_testkit::{House, until, wait};
use rustix::process::Signal;
use serde_json::{Value, json};

/// The state and the output of a check of this agent.
fn state(house: &House, id: &str) -> (String, String) {
    let checks = house.get("/v1/agent/checks").json();
    let text = |key: &str| checks[id][key].as_str().unwrap_or_default().to_owned();
    (text("Status"), text("Output"))
}

fn restart(house: &mut House) {
    house.end_agent(Signal::TERM);
    house.start_agent();
    house.wait_ready();
}

fn has_service(house: &House, name: &str) -> bool {
    house.get("/v1/agent/services").json().get(name).is_some()
}

#[test]
fn a_service_goes_when_its_check_was_critical_for_too_long_even_if_it_never_reported() {
    let ttl = |limit: &str| json!({"TTL": "1h", "DeregisterCriticalServiceAfter": limit});
    let of_file =
        json!({"name": "filed", "port": 1, "check": {"ttl": "1h", "deregister_critical_service_after": "10s"}});
    let mut house = House::start(LICTOR, json!({"services": [of_file]}));
    let register = |house: &House, name: &str, check: Value| {
        house.put("/v1/agent/service/register", json!({"Name": name, "Port": 1, "Check": check}));
    };
    for name in ["silent", "failing", "recovered"] {
        register(&house, name, ttl("10s"));
    }
    register(&house, "patient", ttl("1h"));
    // What stands beside a service by itself goes by itself.
    let beside = json!({"SidecarService": {"Check": ttl("10s")}});
    house.put("/v1/agent/service/register", json!({"Name": "attended", "Port": 1, "Connect": beside}));
    register(&house, "without-limit", json!({"TTL": "1h"}));
    let report = |path: &str| drop(house.put(&format!("/v1/agent/check/{path}"), Value::Null));
    report("pass/service:failing");
    report("fail/service:failing?note=broken");
    report("fail/service:recovered");
    report("pass/service:recovered?note=fine");
    let warned = "check 'service:silent' has deregister interval below minimum of 1m0s";
    assert!(house.log().contains(warned), "{}", house.log());
    assert!(!house.log().contains("check 'service:patient' has deregister interval"), "{}", house.log());

    // The time runs anew in a new process.
    house.end_agent(Signal::TERM);
    let start = Instant::now();
    house.start_agent();
    house.wait_ready();
    assert_eq!(state(&house, "service:failing"), ("critical".into(), "broken".into()));
    assert_eq!(state(&house, "service:recovered"), ("passing".into(), "fine".into()));
    assert_eq!(state(&house, "service:silent").0, "critical");
    let registered = Instant::now();
    register(&house, "late", ttl("10s"));

    let mut gone = BTreeMap::new();
    let expected = ["attended-sidecar-proxy", "failing", "filed", "late", "silent"];
    wait::within(Duration::from_secs(180), "the services go", || {
        for name in expected.into_iter().filter(|name| !has_service(&house, name)) {
            gone.entry(name).or_insert_with(Instant::now);
        }
        thread::sleep(Duration::from_millis(100));
        (gone.len() == expected.len()).then_some(())
    });
    let minute = Duration::from_secs(60);
    for (name, when) in &gone {
        let since = if *name == "late" { registered } else { start };
        // A minute, up to half a minute until somebody looks, and what a busy machine needs.
        let took = when.duration_since(since);
        assert!((minute..2 * minute).contains(&took), "{name}: {took:?}");
        let line = format!("Check \"service:{name}\" for service \"{name}\" has been critical for too long");
        assert!(house.log().contains(&line), "{line}\n{}", house.log());
        until("the catalog forgets it", || house.get(&format!("/v1/catalog/service/{name}")).json() == json!([]));
    }
    for name in ["attended", "recovered", "patient", "without-limit"] {
        assert!(has_service(&house, name), "{name}\n{}", house.log());
    }
}

#[test]
fn checks_come_back_after_a_restart_with_what_was_last_reported_and_run_soon() {
    let folder = tempfile::tempdir().unwrap();
    let gate = folder.path().join("gate");
    let script = format!("test -e {} && echo there", gate.display());
    let command = json!(["/bin/sh", "-c", script]);
    let mut house = House::start(
        LICTOR,
        json!({"enable_script_checks": true, "checks": [
            {"id": "silent", "name": "silent", "ttl": "1h"},
            {"id": "filed", "name": "filed", "ttl": "1h"},
        ]}),
    );
    let check = json!({"TTL": "1h"});
    house.put("/v1/agent/service/register", json!({"Name": "web", "Port": 80, "Check": check}));
    house.put("/v1/agent/check/register", json!({"Name": "short", "TTL": "1s"}));
    house.put("/v1/agent/check/register", json!({"Name": "script", "Args": command, "Interval": "1s"}));
    house.put("/v1/agent/check/pass/service:web?note=fine", Value::Null);
    house.put("/v1/agent/check/warn/short?note=tight", Value::Null);
    house.put("/v1/agent/check/pass/filed?note=whole", Value::Null);
    fs::write(&gate, "").unwrap();
    until("the script passes", || state(&house, "script") == ("passing".into(), "there\n".into()));
    until("the short one expires", || state(&house, "short").0 == "critical");
    fs::remove_file(&gate).unwrap();

    restart(&mut house);
    assert_eq!(state(&house, "service:web"), ("passing".into(), "fine".into()));
    assert!(has_service(&house, "web"));
    assert_eq!(state(&house, "silent"), ("critical".into(), String::new()), "it never reported");
    assert_eq!(state(&house, "short").0, "critical", "what was reported holds no longer");
    // It goes on as it was until it has run, which is soon.
    until("the script has run and fails", || state(&house, "script").0 == "warning");
    let shown = house.get("/v1/health/checks/web").json();
    assert_eq!((&shown[0]["Status"], &shown[0]["Output"]), (&json!("passing"), &json!("fine")), "{shown}");
    fs::write(&gate, "").unwrap();
    until("the script runs again", || state(&house, "script") == ("passing".into(), "there\n".into()));

    // A reload is no restart: a check goes on as it is.
    house.signal_agent(Signal::HUP);
    until("the agent has reloaded", || house.log().contains("eload"));
    assert_eq!(state(&house, "script").0, "passing");
    assert_eq!(state(&house, "service:web"), ("passing".into(), "fine".into()));

    // Neither it nor a restart forgets a report: the next restart has it too.
    restart(&mut house);
    for (id, output) in [("service:web", "fine"), ("filed", "whole")] {
        assert_eq!(state(&house, id), ("passing".into(), output.into()), "{id}");
    }
}

/// When each check was run, seen from what it looks at.
#[derive(Clone, Default)]
struct Runs(Arc<Mutex<BTreeMap<String, Vec<f64>>>>);

impl Runs {
    fn note(&self, check: String) {
        self.0.lock().unwrap().entry(check).or_default().push(now());
    }
}

/// Seconds: what scripts can write as well.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

/// A place for checks to look at. What they ask for, or the address that they dial, says which one it is.
fn target(runs: &Runs, handle: fn(&mut TcpStream) -> Option<String>) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    for _ in 0..4 {
        let (listener, runs) = (listener.try_clone().unwrap(), runs.clone());
        thread::spawn(move || {
            for mut connection in listener.incoming().flatten() {
                if let Some(check) = handle(&mut connection) {
                    runs.note(check);
                }
            }
        });
    }
    address
}

fn dialled(connection: &mut TcpStream) -> Option<String> {
    Some(connection.local_addr().ok()?.ip().to_string())
}

fn requested(connection: &mut TcpStream) -> Option<String> {
    connection.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let (mut head, mut buffer) = (Vec::new(), [0; 1024]);
    while !head.ends_with(b"\r\n\r\n") {
        match connection.read(&mut buffer).ok()? {
            0 => return None,
            read => head.extend_from_slice(&buffer[..read]),
        }
    }
    connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").ok()?;
    String::from_utf8(head).ok()?.split(' ').nth(1).map(str::to_owned)
}

/// How many checks there are, and how often they run.
struct Crowd {
    tcp: usize,
    http: usize,
    scripts: usize,
    ttl: usize,
    interval: Duration,
}

impl Crowd {
    fn definitions(&self, tcp: u16, http: u16, folder: &Path) -> Vec<Value> {
        let interval = format!("{}s", self.interval.as_secs());
        let address = |number: usize| format!("127.1.{}.{}", number / 250, number % 250 + 1);
        let of_tcp = (0..self.tcp).map(|number| {
            let target = format!("{}:{tcp}", address(number));
            json!({"name": format!("tcp-{number}"), "tcp": target, "interval": interval})
        });
        let of_http = (0..self.http).map(|number| {
            let target = format!("http://127.0.0.1:{http}/{number}");
            json!({"name": format!("http-{number}"), "http": target, "interval": interval})
        });
        let of_scripts = (0..self.scripts).map(|number| {
            let line = format!("date +%s.%N >> {}", folder.join(number.to_string()).display());
            json!({"name": format!("script-{number}"), "args": ["/bin/sh", "-c", line], "interval": interval})
        });
        let ttl = format!("{}s", self.interval.as_secs() * 2);
        let of_ttl = (0..self.ttl).map(|number| json!({"name": format!("ttl-{number}"), "ttl": ttl}));
        of_tcp.chain(of_http).chain(of_scripts).chain(of_ttl).collect()
    }

    fn all(&self) -> usize {
        self.tcp + self.http + self.scripts + self.ttl
    }
}

/// The longest time that a thread which wants to run every few milliseconds did not: nobody else did better.
struct Stall {
    stop: Arc<AtomicBool>,
    worker: thread::JoinHandle<f64>,
}

impl Stall {
    fn watch() -> Stall {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let worker = thread::spawn(move || {
            let (mut longest, mut last) = (0_f64, Instant::now());
            while !stopped.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(5));
                longest = longest.max(last.elapsed().as_secs_f64());
                last = Instant::now();
            }
            longest
        });
        Stall { stop, worker }
    }

    fn end(self) -> f64 {
        self.stop.store(true, Ordering::Relaxed);
        self.worker.join().unwrap()
    }
}

/// So many runs of each check are looked at.
const RUNS: usize = 4;
/// Parts of an interval in which first runs are counted.
const PARTS: usize = 10;

/// Runs the checks on one agent until each has had its runs, and looks at when these were.
fn keeps_its_pace(crowd: &Crowd) {
    let runs = Runs::default();
    let tcp = target(&runs, dialled).port();
    let http = target(&runs, requested).port();
    let folder = tempfile::tempdir().unwrap();
    let checks = crowd.definitions(tcp, http, folder.path());
    assert_eq!(checks.len(), crowd.all());
    let stall = Stall::watch();
    let mut house = House::build(LICTOR, json!({"enable_script_checks": true, "log_level": "INFO", "checks": checks}));
    house.start_agent();
    house.wait_ready();

    let of_scripts = || {
        (0..crowd.scripts).filter_map(|number| {
            let text = fs::read_to_string(folder.path().join(number.to_string())).ok()?;
            let times: Vec<f64> = text.lines().filter_map(|line| line.parse().ok()).collect();
            Some((format!("script-{number}"), times))
        })
    };
    let observed = || {
        let mut all = runs.0.lock().unwrap().clone();
        all.extend(of_scripts());
        all
    };
    let limit = crowd.interval * (2 * u32::try_from(RUNS).unwrap()) + wait::PATIENCE;
    let all = wait::within(limit, "every check has had its runs", || {
        // Half their time to live passes between two reports, and what the reports themselves take.
        for number in 0..crowd.ttl {
            house.put(&format!("/v1/agent/check/pass/ttl-{number}"), Value::Null);
        }
        thread::sleep(crowd.interval / 2);
        let all = observed();
        (all.len() == crowd.all() - crowd.ttl && all.values().all(|times| times.len() >= RUNS)).then_some(all)
    });
    let states = house.get("/v1/agent/checks").json();
    let stall = stall.end();

    let failed: Vec<&Value> = states.as_object().unwrap().values().filter(|one| one["Status"] != "passing").collect();
    assert!(failed.is_empty(), "{failed:?}\n{}", house.log());
    let interval = crowd.interval.as_secs_f64();
    let gaps = all.iter().flat_map(|(check, times)| times.windows(2).map(move |pair| (pair[1] - pair[0], check)));
    let (longest, slowest) = gaps.max_by(|one, other| one.0.total_cmp(&other.0)).unwrap();
    let firsts: Vec<f64> = all.values().map(|times| times[0]).collect();
    let begin = firsts.iter().copied().fold(f64::INFINITY, f64::min);
    let end = firsts.iter().copied().fold(0.0, f64::max);
    let mut histogram = [0_usize; PARTS];
    for first in &firsts {
        let part = (0..PARTS).rfind(|part| *first >= begin + interval * (*part as f64) / PARTS as f64).unwrap();
        histogram[part] += 1;
    }
    eprintln!(
        "{} checks every {interval} s: longest gap {longest:.3} s, machine stalled for {stall:.3} s, first runs within \
         {:.3} s: {histogram:?}",
        crowd.all(),
        end - begin
    );
    assert!(longest < 1.5 * interval + stall, "{slowest} had a gap of {longest} s");
    assert!(end - begin < interval + 1.0 + stall, "first runs took {} s", end - begin);
    // A third and twice of an even share are further away than chance goes with hundreds of checks.
    let share = firsts.len() / PARTS;
    assert!(histogram.iter().all(|count| (share / 3..=share * 2).contains(count)), "{histogram:?}");
}

#[test]
fn five_hundred_checks_of_one_agent_start_spread_and_miss_no_interval() {
    keeps_its_pace(&Crowd { tcp: 260, http: 200, scripts: 20, ttl: 20, interval: Duration::from_secs(5) });
}

#[test]
#[ignore = "loads the machine for a minute: cargo test --workspace --locked --test checks -- --ignored --nocapture"]
fn five_thousand_checks_of_one_agent_start_spread_and_miss_no_interval() {
    keeps_its_pace(&Crowd { tcp: 2600, http: 2000, scripts: 200, ttl: 200, interval: Duration::from_secs(10) });
}
