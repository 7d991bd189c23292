//! What several tests of the whole house share: example applications and load.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(unreachable_pub, reason = "a module of test files")]
#![allow(clippy::print_stderr, reason = "what a failed run can be repeated from")]

use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use lictor_testkit::{House, Program, ports, until};
use serde_json::{Value, json};

/// The binary under test.
pub const LICTOR: &str = env!("CARGO_BIN_EXE_lictor");

/// An application that sends back what it gets, and the whole of it: it ends a connection only when its client has.
pub fn echo() -> SocketAddr {
    serve("127.0.0.1:0", |mut connection| {
        let mut buffer = [0; 16 * 1024];
        while let Ok(read @ 1..) = connection.read(&mut buffer) {
            if connection.write_all(&buffer[..read]).is_err() {
                return;
            }
        }
        let _ = connection.shutdown(Shutdown::Write);
    })
}

/// An application that does something with each connection, in a thread of its own.
pub fn serve(address: &str, handle: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind(address).unwrap();
    let address = listener.local_addr().unwrap();
    let handle = Arc::new(handle);
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let handle = Arc::clone(&handle);
            thread::spawn(move || handle(connection));
        }
    });
    address
}

/// Two services, `web` with an upstream to `db`, and the port of that upstream.
pub fn two_services(db_port: u16) -> (Value, u16) {
    let entry = ports::one();
    let services = json!({"services": [
        {"name": "db", "port": db_port, "connect": {"proxy": {}}},
        {"name": "web", "port": 8080, "connect": {"proxy": {
            "upstreams": [{"destination_name": "db", "local_bind_port": entry}]}}},
    ]});
    (services, entry)
}

/// A house with [`two_services`], ready for requests.
pub fn mesh(db_port: u16) -> (House, u16) {
    let (config, entry) = two_services(db_port);
    let house = House::start(LICTOR, config);
    wait_path(&house, entry);
    (house, entry)
}

/// Waits until bytes come back from an echo application behind the mesh.
pub fn wait_path(house: &House, entry: u16) {
    house.wait_healthy("db");
    until("bytes come through both proxies", || echo_once(entry).is_ok());
}

/// How often the checks of [`Checked`] run.
const CHECKED_INTERVAL: &str = "10s";

/// A mesh that only checks keep in use: the node is checked by a script and `db` by TCP, and `db` has a sidecar that was
/// started by hand, with its own checks.
pub struct Checked {
    /// What holds it.
    pub house: House,
    /// The upstream to `db`.
    pub entry: u16,
    _sidecar: Program,
}

impl Checked {
    /// Its definitions are added to what `build` makes.
    pub fn start(build: impl FnOnce(Value) -> House) -> Checked {
        let db = echo();
        let (mut config, entry) = two_services(db.port());
        let check = json!({"tcp": db.to_string(), "interval": CHECKED_INTERVAL});
        config["services"][0] =
            json!({"name": "db", "port": db.port(), "check": check, "connect": {"sidecar_service": {}}});
        config["enable_script_checks"] = true.into();
        let mut house = build(config);
        let line = format!("echo run >> {0}/runs; test ! -e {0}/broken || exit 2", house.folder().display());
        let check =
            json!({"id": "node", "name": "node", "args": ["/bin/sh", "-c", line], "interval": CHECKED_INTERVAL});
        house.reconfigure(|config| config["checks"] = json!([check]));
        house.start_agent();
        house.wait_ready();
        let mut command = Command::new(LICTOR);
        command.args(["connect", "proxy", "-sidecar-for", "db"]);
        let sidecar = Program::start(command.args(["-http-addr", &format!("127.0.0.1:{}", house.http_port)]));
        let checked = Checked { house, entry, _sidecar: sidecar };
        until("all checks have run and pass", || checked.failing().is_empty());
        until("bytes come through both proxies", || echo_once(entry).is_ok());
        checked
    }

    /// How often the script was run.
    pub fn runs(&self) -> usize {
        fs::read_to_string(self.house.folder().join("runs")).unwrap_or_default().lines().count()
    }

    /// Checks of this node that do not pass, as the agent and as the catalog have them.
    pub fn failing(&self) -> Vec<Value> {
        let local = self.house.get("/v1/agent/checks").json();
        let local: Vec<Value> = local.as_object().unwrap().values().cloned().collect();
        let node = local[0]["Node"].as_str().unwrap();
        let stored = self.house.get(&format!("/v1/health/node/{node}")).json();
        let all = local.iter().chain(stored.as_array().unwrap());
        all.filter(|check| check["Status"] != "passing").cloned().collect()
    }

    /// Kills the agent and starts it again, three times, under load: no request may fail.
    pub fn outlives_its_agent(&mut self) {
        let load = Load::start(self.entry, 6, 2);
        load.wait_for(200);
        for _ in 0..3 {
            self.house.kill_agent();
            let runs = self.runs();
            thread::sleep(Duration::from_secs(1));
            load.wait_for(200);
            self.house.start_agent();
            self.house.wait_ready();
            assert_eq!(self.failing(), Vec::<Value>::new(), "{}", self.house.log());
            until("the script has run again", || self.runs() > runs);
            load.wait_for(200);
            assert_eq!(load.failures(), 0, "{}", self.house.log());
        }
        let (sent, failures) = load.stop();
        assert!(failures.is_empty(), "{} of {sent} requests failed: {:?}", failures.len(), &failures[0]);
    }

    /// The node becomes unhealthy, or healthy again.
    pub fn breaks(&self, broken: bool) {
        let file = self.house.folder().join("broken");
        if broken { fs::write(file, "") } else { fs::remove_file(file) }.unwrap();
    }
}

/// Sends a few bytes on a new connection and expects them back.
pub fn echo_once(entry: u16) -> std::io::Result<()> {
    let mut connection = connect(entry)?;
    exchange(&mut connection)
}

/// A connection to a local port.
pub fn connect(entry: u16) -> std::io::Result<TcpStream> {
    let connection = TcpStream::connect(("127.0.0.1", entry))?;
    connection.set_read_timeout(Some(Duration::from_secs(10)))?;
    connection.set_nodelay(true)?;
    Ok(connection)
}

/// Sends a few bytes and expects them back.
pub fn exchange(connection: &mut TcpStream) -> std::io::Result<()> {
    connection.write_all(b"ping\n")?;
    let mut back = [0; 5];
    connection.read_exact(&mut back)?;
    if &back == b"ping\n" { Ok(()) } else { Err(std::io::Error::other("other bytes came back")) }
}

/// Requests on fresh connections and, beside them, on open ones.
pub struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
    /// In microseconds, since it was taken last.
    slowest: Arc<AtomicU64>,
    workers: Vec<JoinHandle<Vec<String>>>,
}

/// When a worker sends its next request.
#[derive(Clone, Copy)]
enum Pace {
    /// A little after the last answer.
    Closed,
    /// At its time, each so much after the one before, whatever became of that.
    Open { next: Instant, each: Duration },
}

impl Pace {
    /// Waits for the next request and gives the time at which it should have been sent.
    fn wait(&mut self) -> Instant {
        match self {
            Pace::Closed => {
                thread::sleep(Duration::from_millis(2));
                Instant::now()
            }
            Pace::Open { next, each } => {
                let due = *next;
                *next += *each;
                thread::sleep(due.saturating_duration_since(Instant::now()));
                due
            }
        }
    }
}

impl Load {
    /// `fresh` workers that open a connection for each request, `open` workers that keep theirs. Each sends its next request
    /// a little after it has its answer.
    pub fn start(entry: u16, fresh: usize, open: usize) -> Load {
        Load::with(entry, fresh, open, |_| Pace::Closed)
    }

    /// The same, with so many requests a second among all workers. A request that takes long makes the next one of its
    /// worker late, and that one's latency counts from when it should have been sent: nobody is spared by waiting.
    pub fn paced(entry: u16, fresh: usize, open: usize, rate: u32) -> Load {
        let workers = u32::try_from(fresh + open).unwrap();
        let (begin, apart) = (Instant::now(), Duration::from_secs(1) / rate);
        Load::with(entry, fresh, open, |number| Pace::Open {
            next: begin + apart * u32::try_from(number).unwrap(),
            each: apart * workers,
        })
    }

    fn with(entry: u16, fresh: usize, open: usize, pace: impl Fn(usize) -> Pace) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let (sent, failed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let slowest = Arc::new(AtomicU64::new(0));
        let workers = (0..fresh + open)
            .map(|number| {
                let (stop, sent, failed) = (Arc::clone(&stop), Arc::clone(&sent), Arc::clone(&failed));
                let (slowest, mut pace) = (Arc::clone(&slowest), pace(number));
                thread::spawn(move || {
                    let mut failures = Vec::new();
                    let mut kept = (number >= fresh).then(|| connect(entry));
                    while !stop.load(Ordering::Relaxed) {
                        let due = pace.wait();
                        let outcome = match &mut kept {
                            Some(Ok(connection)) => exchange(connection),
                            Some(Err(error)) => Err(std::io::Error::other(error.to_string())),
                            None => echo_once(entry),
                        };
                        sent.fetch_add(1, Ordering::Relaxed);
                        slowest.fetch_max(u64::try_from(due.elapsed().as_micros()).unwrap(), Ordering::Relaxed);
                        if let Err(error) = outcome {
                            failed.fetch_add(1, Ordering::Relaxed);
                            failures.push(error.to_string());
                            if kept.is_some() {
                                kept = Some(connect(entry));
                            }
                        }
                    }
                    failures
                })
            })
            .collect();
        Load { stop, sent, failed, slowest, workers }
    }

    /// Waits for so many more requests: the load is really there.
    pub fn wait_for(&self, more: u64) {
        let goal = self.sent.load(Ordering::Relaxed) + more;
        until("requests are sent", || self.sent.load(Ordering::Relaxed) >= goal);
    }

    /// How many requests were sent and came to an end so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// The highest latency of a request that ended since this was asked last.
    pub fn take_slowest(&self) -> Duration {
        Duration::from_micros(self.slowest.swap(0, Ordering::Relaxed))
    }

    /// How many requests went wrong so far.
    pub fn failures(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Requests sent, and what went wrong.
    pub fn stop(self) -> (u64, Vec<String>) {
        let (sent, failures) = self.stop_each();
        (sent, failures.into_iter().flatten().collect())
    }

    /// Requests sent, and what went wrong for each worker: first those with fresh connections.
    pub fn stop_each(self) -> (u64, Vec<Vec<String>>) {
        self.stop.store(true, Ordering::Relaxed);
        let failures = self.workers.into_iter().map(|worker| worker.join().unwrap()).collect();
        (self.sent.load(Ordering::Relaxed), failures)
    }
}

/// Whether a process holds a socket that listens on a local port.
pub fn holds_listener(pid: u32, port: u16) -> bool {
    let wanted = format!(":{port:04X}");
    let tables = ["tcp", "tcp6"].map(|table| std::fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default());
    let inodes: Vec<String> = tables
        .iter()
        .flat_map(|table| table.lines().skip(1))
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            // State 0A listens.
            (fields.get(1)?.ends_with(&wanted) && *fields.get(3)? == "0A").then(|| format!("socket:[{}]", fields[9]))
        })
        .collect();
    let held = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    held.filter_map(|fd| std::fs::read_link(fd.path()).ok())
        .any(|link| inodes.iter().any(|inode| link.to_str() == Some(inode)))
}

/// Whether a connection was ended by the other side within the limit.
pub fn is_cut(connection: &mut TcpStream, limit: Duration) -> bool {
    let end = Instant::now() + limit;
    connection.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut byte = [0];
    while Instant::now() < end {
        match connection.read(&mut byte) {
            Ok(0) => return true,
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(_) => return true,
            Ok(_) => return false,
        }
    }
    false
}

/// A private key for a new root, or `None` after saying that the test is skipped.
pub fn root_key() -> Option<String> {
    let openssl = lictor_testkit::program::find("openssl")?;
    let output = std::process::Command::new(openssl)
        .args(["ecparam", "-name", "prime256v1", "-genkey", "-noout"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    Some(String::from_utf8(output.stdout).unwrap())
}

/// Makes the authority sign with a new root from now on.
pub fn rotate(house: &House, key: &str) {
    let before = house.get("/v1/connect/ca/roots").json()["ActiveRootID"].clone();
    house.put("/v1/connect/ca/configuration", json!({"Provider": "consul", "Config": {"PrivateKey": key}}));
    until("there is a new root", || house.get("/v1/connect/ca/roots").json()["ActiveRootID"] != before);
}

/// A small generator, so that a failed run can be repeated from its seed.
pub struct Random(u64);

impl Random {
    /// From a seed of its own, which it says; `LICTOR_SOAK_SEED` gives one.
    pub fn new() -> Random {
        let seed = std::env::var("LICTOR_SOAK_SEED").ok().and_then(|seed| seed.parse().ok());
        let fresh = || RandomState::new().build_hasher().finish();
        let seed = seed.unwrap_or_else(fresh) | 1;
        eprintln!("LICTOR_SOAK_SEED={seed}");
        Random::from_seed(seed)
    }

    pub fn from_seed(seed: u64) -> Random {
        Random(seed | 1)
    }

    /// A number from 1 to `most`, small ones as often as large ones.
    pub fn size(&mut self, most: usize) -> usize {
        let bits = usize::try_from(most.ilog2()).unwrap();
        let below = 1_usize << self.below(bits + 1);
        (1 + self.below(below)).min(most)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        // Xorshift.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % bound
    }
}
