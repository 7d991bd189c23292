//! The package on a machine of its own, under a real systemd: readiness, restarts, crashes, upgrades, limits, removal.
//!
//! It installs packages, makes users and restarts units of the machine that it runs on. So it is only for the virtual
//! machine of `cargo xtask vm`, which says where the packages are.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot be set up shall fail, and tells its steps"
)]

mod traffic;

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lictor_testkit::house::{is_running, proxies_of};
use lictor_testkit::wait::within;
use lictor_testkit::{http, until};
use serde_json::{Value, json};
use traffic::{echo, exchange};

/// Folder with `first.deb` and `second.deb`, set in the virtual machine alone.
const PACKAGES: &str = "LICTOR_VM_PACKAGES";
const HTTP: u16 = 8500;
const ENTRY: u16 = 9191;
const SERVICES: &str = "/etc/lictor/services.json";
const UNIT_GROUP: &str = "/sys/fs/cgroup/system.slice/lictor.service";
/// An emulated processor is slow.
const LONG: Duration = Duration::from_secs(180);

/// Runs a command and gives what it printed; it must succeed.
fn run(program: &str, words: &[&str]) -> String {
    let (success, text) = attempt(program, words);
    assert!(success, "{program} {words:?}: {text}");
    text
}

fn attempt(program: &str, words: &[&str]) -> (bool, String) {
    let output = Command::new(program).args(words).stdin(Stdio::null()).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.success(), text.trim().to_owned())
}

/// A property of the unit.
fn property(name: &str) -> String {
    run("systemctl", &["show", "lictor.service", "--value", "-p", name])
}

fn main_pid() -> u32 {
    property("MainPID").parse().unwrap()
}

/// The managed proxies that run, by id.
fn proxies() -> BTreeMap<String, u32> {
    proxies_of(HTTP).into_iter().collect()
}

fn ask(method: &str, path: &str, body: &Value) -> http::Answer {
    http::request(HTTP, method, path, &[], body.to_string().as_bytes(), LONG).unwrap()
}

/// Waits until the agent has each of its proxies and says that it serves.
fn wait_ready(count: usize) {
    within(LONG, "the agent reports its proxies as ready", || {
        let (success, text) = attempt("lictor", &["connect", "ps", "-format=json"]);
        let list: Value = serde_json::from_str(&text).ok().filter(|_| success)?;
        let ready = list.as_array()?.iter().filter(|proxy| proxy.to_string().contains("\"ready\"")).count();
        (ready == count).then_some(())
    });
}

fn request(port: u16) -> std::io::Result<()> {
    exchange(&mut TcpStream::connect(("127.0.0.1", port))?, LONG)
}

/// Requests through two managed proxies, new connections and one that stays open, until it is told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    workers: Vec<JoinHandle<Result<(), String>>>,
}

impl Load {
    fn start() -> Load {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let workers = (0..4)
            .map(|number| {
                let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
                std::thread::spawn(move || {
                    let mut open = TcpStream::connect(("127.0.0.1", ENTRY)).map_err(|error| error.to_string())?;
                    while !stop.load(Ordering::Relaxed) {
                        // One of them keeps its connection over everything that happens.
                        let outcome = if number == 0 { exchange(&mut open, LONG) } else { request(ENTRY) };
                        outcome.map_err(|error| format!("a request failed: {error}"))?;
                        done.fetch_add(1, Ordering::Relaxed);
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    Ok(())
                })
            })
            .collect();
        Load { stop, done, workers }
    }

    /// Requests still come through after `what`, and none has failed so far.
    fn unharmed(&self, what: &str) {
        let before = self.done.load(Ordering::Relaxed);
        within(LONG, &format!("requests after {what}"), || {
            assert!(self.workers.iter().all(|worker| !worker.is_finished()), "a request failed: {what}");
            (self.done.load(Ordering::Relaxed) >= before + 100).then_some(())
        });
        println!("vm: {} requests, none failed: {what}", self.done.load(Ordering::Relaxed));
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for worker in self.workers {
            worker.join().unwrap().unwrap();
        }
    }
}

/// The control group of a process.
fn group_of(pid: u32) -> PathBuf {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    Path::new("/sys/fs/cgroup").join(text.trim().strip_prefix("0::/").unwrap())
}

fn value(pid: u32, file: &str) -> String {
    fs::read_to_string(group_of(pid).join(file)).unwrap().trim().to_owned()
}

fn journal(unit: &[&str]) -> String {
    run("journalctl", &[&["--no-pager", "-o", "cat"], unit].concat())
}

/// Whether this systemd can start the agent below its group: 254 or later.
fn has_subgroups() -> bool {
    let text = run("systemctl", &["--version"]);
    text.split_whitespace().nth(1).and_then(|number| number.parse::<u32>().ok()).unwrap() >= 254
}

fn write_services(app: u16, weight: u16) {
    let services = json!({
        "node_name": "node1", "bind_addr": "127.0.0.1",
        "services": [
            {"name": "db", "port": app, "connect": {"proxy": {"limit_memory": 268_435_456, "cpu_weight": weight}}},
            {"name": "web", "port": 8080, "connect": {"proxy": {
                "upstreams": [{"destination_name": "db", "local_bind_port": ENTRY}]}}},
            {"name": "own", "port": 8081, "connect": {"proxy": {
                "command": ["/bin/sh", "-c", "systemd-notify --ready; exec sleep 100000"],
                "config": {"disable_tcp_check": true}}}},
        ],
    });
    fs::write(SERVICES, services.to_string()).unwrap();
    run("chgrp", &["lictor", SERVICES]);
    run("chmod", &["0640", SERVICES]);
}

#[test]
#[ignore = "for a machine of its own: cargo xtask vm"]
fn nothing_that_is_done_to_the_unit_reaches_the_traffic() {
    let packages = PathBuf::from(std::env::var_os(PACKAGES).expect("this test is for the machine of cargo xtask vm"));
    let package = |name: &str| packages.join(name).to_str().unwrap().to_owned();

    println!("vm: {}", run("systemctl", &["--version"]).lines().next().unwrap_or_default());
    println!("vm: {}", run("dpkg", &["-i", &package("first.deb")]));
    assert_eq!(property("ActiveState"), "inactive", "nothing is started unasked");
    let (valid, said) = attempt("systemd-analyze", &["verify", "lictor.service"]);
    assert!(valid && !said.contains("lictor"), "systemd-analyze verify: {said}");
    let judged = run("systemd-analyze", &["security", "--no-pager", "lictor.service"]);
    println!("vm: {}", judged.lines().last().unwrap_or_default());

    write_services(echo(), 50);
    run("systemctl", &["enable", "--now", "lictor"]);
    // `Type=notify`: it answers when systemctl says that it is up.
    assert_eq!(ask("GET", "/v1/agent/self", &Value::Null).status, 200);
    assert_eq!(property("ActiveState"), "active");
    wait_ready(3);
    let first = proxies();
    assert_eq!(first.len(), 3);
    println!("vm: running as {first:?}, agent {}", main_pid());
    within(LONG, "bytes come through both proxies", || request(ENTRY).ok());
    let load = Load::start();
    load.unharmed("start");

    let said = "limits of memory and processor are not in force";
    if has_subgroups() {
        assert_eq!(group_of(main_pid()), Path::new(UNIT_GROUP).join("lictor-agent"));
        let db = first["db-proxy"];
        assert_eq!(group_of(db).parent(), Some(Path::new(UNIT_GROUP)));
        assert_eq!((value(db, "memory.max"), value(db, "cpu.weight")), ("268435456".into(), "50".into()));
        assert_ne!(group_of(db), group_of(first["web-proxy"]));
        let app = fs::read_to_string(SERVICES).unwrap();
        fs::write(SERVICES, app.replace("\"cpu_weight\":50", "\"cpu_weight\":300")).unwrap();
        run("systemctl", &["reload", "lictor"]);
        within(LONG, "the new weight", || (value(db, "cpu.weight") == "300").then_some(()));
        load.unharmed("reload with another limit");
        assert_eq!(journal(&["-u", "lictor"]).matches(said).count(), 0);
    } else {
        assert_eq!(journal(&["-u", "lictor"]).matches(said).count(), 1, "{}", journal(&["-u", "lictor"]));
    }
    assert_eq!(proxies(), first);

    for round in 0..3 {
        let before = main_pid();
        run("systemctl", &["restart", "lictor"]);
        assert_ne!(main_pid(), before);
        assert_eq!(ask("GET", "/v1/agent/self", &Value::Null).status, 200);
        wait_ready(3);
        assert_eq!(proxies(), first, "restart {round} of the agent touched a proxy");
        load.unharmed("systemctl restart");
    }

    for round in 0..3 {
        let before = main_pid();
        run("kill", &["-KILL", &before.to_string()]);
        within(LONG, "systemd starts the agent again", || {
            (main_pid() != before && property("ActiveState") == "active").then_some(())
        });
        wait_ready(3);
        assert_eq!(proxies(), first, "crash {round} of the agent touched a proxy");
        load.unharmed("kill -KILL of the agent");
    }
    assert_eq!(property("NRestarts"), "3");

    let before = main_pid();
    println!("vm: {}", run("dpkg", &["-i", &package("second.deb")]));
    assert_ne!(main_pid(), before, "the upgrade started the new agent");
    let running = fs::read_link(format!("/proc/{}/exe", main_pid())).unwrap();
    assert_eq!(running, Path::new("/usr/bin/lictor"), "the agent runs what was installed");
    wait_ready(3);
    assert_eq!(proxies(), first, "the upgrade touched a proxy");
    load.unharmed("upgrade of the package");
    println!("vm: {}", run("lictor", &["connect", "restart-proxies"]));
    wait_ready(3);
    let second = proxies();
    assert!(second.iter().all(|(id, pid)| first[id] != *pid), "{second:?}");
    load.unharmed("proxies replaced after the upgrade");
    // The connection that is open since the start is still carried by those that were replaced.
    load.end();
    within(LONG, "the former proxies end with their last connection", || {
        first.values().all(|pid| !is_running(*pid)).then_some(())
    });
    let load = Load::start();
    if has_subgroups() {
        assert_eq!(value(second["db-proxy"], "cpu.weight"), "300");
    }

    let agent = main_pid();
    run("systemctl", &["stop", "lictor"]);
    assert_eq!((property("ActiveState").as_str(), property("Result").as_str()), ("inactive", "success"));
    assert!(!is_running(agent));
    assert_eq!(proxies(), second, "the end of the agent touched a proxy");
    load.unharmed("systemctl stop");
    run("systemctl", &["start", "lictor"]);
    wait_ready(3);
    assert_eq!(proxies(), second, "the start of the agent touched a proxy");
    load.unharmed("systemctl start");
    load.end();

    // The journal is the operator's view of all this.
    let text = journal(&["-u", "lictor"]);
    assert!(!text.contains("already exists but the mode is different"), "{text}");
    for line in text.lines().filter(|line| line.contains("WARN") || line.contains("ERR") || line.contains("left-over"))
    {
        println!("vm: journal: {line}");
    }

    run("dpkg", &["-r", "lictor"]);
    within(LONG, "the proxies are gone", || second.values().all(|pid| !is_running(*pid)).then_some(()));
    until("nothing is left of the group", || !Path::new(UNIT_GROUP).exists());
    assert!(Path::new(SERVICES).exists() && Path::new("/var/lib/lictor").exists(), "removing keeps state and services");
    assert!(!Path::new("/run/lictor").exists());
    println!("vm: {}", run("dpkg", &["-P", "lictor"]));
    assert!(!Path::new("/var/lib/lictor").exists() && !Path::new("/etc/lictor/agent.hcl").exists());
    let left = run("systemctl", &["list-units", "--all", "--no-legend", "--plain", "lictor*"]);
    assert_eq!(left, "", "no unit is left");
    let failed = run("systemctl", &["list-units", "--failed", "--no-legend", "--plain"]);
    assert_eq!(failed, "", "no unit has failed");
    let wants = "/etc/systemd/system/multi-user.target.wants/lictor.service";
    assert!(fs::symlink_metadata(wants).is_err(), "purging leaves {wants}");
}

/// An ordinary user, whose own service manager delegates groups to a unit.
#[test]
#[ignore = "for a machine of its own: cargo xtask vm"]
fn an_ordinary_user_has_limits_where_groups_are_delegated_and_one_line_where_they_are_not() {
    let packages = PathBuf::from(std::env::var_os(PACKAGES).expect("this test is for the machine of cargo xtask vm"));
    let binary = packages.join("lictor");
    run("useradd", &["--create-home", "tester"]);
    run("loginctl", &["enable-linger", "tester"]);
    let uid = run("id", &["-u", "tester"]);
    let runtime = format!("XDG_RUNTIME_DIR=/run/user/{uid}");
    let bus = format!("/run/user/{uid}/bus");
    within(LONG, "the user's own manager", || Path::new(&bus).exists().then_some(()));
    let as_user = |words: &[&str]| run("runuser", &[&["-u", "tester", "--", "env", &runtime], words].concat());
    let house = Path::new("/home/tester/house");
    let app = echo();
    let config = json!({
        "server": true, "bootstrap": true, "node_name": "node2", "bind_addr": "127.0.0.1", "data_dir": house.join("data"),
        "connect": {"enabled": true, "proxy_defaults": {"limit_memory": 268_435_456, "cpu_weight": 50}},
        "services": [
            {"name": "db", "port": app, "connect": {"proxy": {}}},
            {"name": "web", "port": 8080, "connect": {"proxy": {
                "upstreams": [{"destination_name": "db", "local_bind_port": ENTRY}]}}},
        ],
    });
    let write = |path: &Path, text: &str| {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write(&house.join("config/agent.json"), &config.to_string());
    let unit = |delegate: &str| {
        format!(
            "[Service]\nType=notify\nExecStart={} agent -config-dir {}\nKillMode=process\nSuccessExitStatus=1\n\
             Restart=on-failure\n{delegate}\n",
            binary.display(),
            house.join("config").display()
        )
    };
    let units = Path::new("/home/tester/.config/systemd/user");
    write(&units.join("mesh.service"), &unit("Delegate=yes\nDelegateSubgroup=lictor-agent"));
    write(&units.join("plain.service"), &unit(""));
    run("chown", &["-R", "tester:", "/home/tester"]);
    as_user(&["systemctl", "--user", "daemon-reload"]);

    let stop = |name: &str, pids: &BTreeMap<String, u32>| {
        as_user(&["systemctl", "--user", "stop", name]);
        assert!(pids.values().all(|pid| is_running(*pid)), "proxies outlive the unit's stop");
        for pid in pids.values() {
            run("kill", &["-INT", &pid.to_string()]);
        }
        within(LONG, "the proxies end", || pids.values().all(|pid| !is_running(*pid)).then_some(()));
    };
    let said = "limits of memory and processor are not in force";
    let start = |name: &str| {
        as_user(&["systemctl", "--user", "start", name]);
        within(LONG, "both proxies run and carry bytes", || {
            (proxies().len() == 2 && request(ENTRY).is_ok()).then_some(())
        });
        proxies()
    };
    if has_subgroups() {
        let first = start("mesh");
        let db = first["db-proxy"];
        println!("vm: as a user, in {}", group_of(db).display());
        assert_eq!((value(db, "memory.max"), value(db, "cpu.weight")), ("268435456".into(), "50".into()));
        let begun = Instant::now();
        as_user(&["systemctl", "--user", "restart", "mesh"]);
        println!("vm: the user's unit was restarted in {:?}", begun.elapsed());
        request(ENTRY).unwrap();
        assert_eq!(proxies(), first, "the restart touched a proxy");
        stop("mesh", &first);
    }
    let of_user = format!("_UID={uid}");
    assert_eq!(journal(&[&of_user]).matches(said).count(), 0);
    let plain = start("plain");
    let seen = journal(&[&of_user]);
    assert_eq!(seen.matches(said).count(), 1, "{seen}");
    println!("vm: {}", seen.lines().find(|line| line.contains(said)).unwrap_or_default());
    stop("plain", &plain);
}
