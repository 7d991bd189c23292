//! What happens when the machine fails under an agent and its proxies: traffic goes on, and a message says what is wrong.
//!
//! docs/operations.md has a table of these faults; each row is shown here.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up shall fail")]

mod common;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{LICTOR, Load, echo, echo_once, exchange, mesh, two_services, wait_path};
use lictor_testkit::house::{is_running, send};
use lictor_testkit::{House, eventually, until};
use rustix::process::{Pid, Resource, Rlimit, Signal};
use serde_json::{Value, json};

#[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
fn skipped(what: &str) {
    eprintln!("SKIPPED: {what}");
}

fn needs_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skipped("this test needs to be root");
    }
    root
}

fn lictor(house: &House, words: &str) -> String {
    let output = Command::new(LICTOR)
        .arg("connect")
        .args(words.split_whitespace())
        .env("CONSUL_HTTP_ADDR", format!("127.0.0.1:{}", house.http_port))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn sorted(mut proxies: Vec<(String, u32)>) -> Vec<(String, u32)> {
    proxies.sort();
    proxies
}

/// A small file system as data directory; gone when dropped.
struct Disk(PathBuf);

impl Disk {
    fn mount(path: PathBuf) -> Option<Disk> {
        fs::create_dir_all(&path).unwrap();
        let mounted = mount(&["-t", "tmpfs", "-o", "size=24m,mode=0700", "tmpfs"], &path);
        if !mounted {
            skipped("a file system cannot be mounted here");
        }
        mounted.then_some(Disk(path))
    }

    fn remount(&self, how: &str) {
        assert!(mount(&["-o", &format!("remount,{how}")], &self.0));
    }
}

fn mount(words: &[&str], path: &Path) -> bool {
    Command::new("mount").args(words).arg(path).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        let _ = fs::remove_dir(&self.0);
        let _ = self.0.parent().map(fs::remove_dir);
    }
}

fn kill_and_wait_for_another(house: &House, id: &str) -> u32 {
    let before = house.proxy_pid(id);
    send(before, Signal::KILL);
    eventually(&format!("another process is {id}\n{}", house.log()), || {
        house.proxies().into_iter().find(|(of, pid)| of == id && *pid != before).map(|(_, pid)| pid)
    })
}

#[test]
fn a_full_disk_stops_neither_traffic_nor_the_restart_of_a_proxy() {
    if !needs_root() {
        return;
    }
    let (config, entry) = two_services(echo().port());
    let mut house = House::build(LICTOR, config);
    let Some(disk) = Disk::mount(house.data_dir()) else { return };
    house.start_agent();
    house.wait_ready();
    wait_path(&house, entry);
    let load = Load::start(entry, 2, 2);
    load.wait_for(50);
    let mut filler = fs::File::create(disk.0.join("filler")).unwrap();
    while filler.write_all(&[b'x'; 4096]).is_ok() {}
    load.wait_for(200);
    let (sent, failures) = load.stop();
    assert!(failures.is_empty(), "{} of {sent} requests failed: {:?}", failures.len(), failures[0]);
    // The next agent would not know of a process that takes over now, so what runs goes on.
    let before = sorted(house.proxies());
    let said = lictor(&house, "restart-proxies web-proxy");
    assert!(said.contains("was not replaced") && said.contains("No space left on device"), "{said}");
    let said = lictor(&house, "restart web-proxy");
    assert!(said.contains("was not replaced") && said.contains("No space left on device"), "{said}");
    assert_eq!(sorted(house.proxies()), before);
    kill_and_wait_for_another(&house, "db-proxy");
    until("the path is back", || echo_once(entry).is_ok());
    until("the log tells", || house.log().contains("No space left on device"));
    // Nobody is left behind unknown: with room again the next agent finds both.
    let proxies = sorted(house.proxies());
    drop(filler);
    fs::remove_file(disk.0.join("filler")).unwrap();
    house.kill_agent();
    house.start_agent();
    house.wait_ready();
    until("each proxy runs once", || house.proxies().len() == 2);
    wait_path(&house, entry);
    assert_eq!(house.proxies().len(), 2, "{proxies:?} became {:?}", house.proxies());
}

#[test]
fn a_read_only_data_directory_stops_the_agent_from_starting_and_not_the_traffic() {
    if !needs_root() {
        return;
    }
    let (config, entry) = two_services(echo().port());
    let mut house = House::build(LICTOR, config);
    let Some(disk) = Disk::mount(house.data_dir()) else { return };
    house.start_agent();
    house.wait_ready();
    wait_path(&house, entry);
    let proxies = sorted(house.proxies());
    // A disk with errors is remounted like this by the kernel; files open for writing do not hinder it then.
    house.kill_agent();
    for pid in house.proxies() {
        assert!(is_running(pid.1));
    }
    if !mount(&["-o", "remount,ro"], &disk.0) {
        // The log files of the proxies are open for writing: bind it read-only over itself instead.
        assert!(mount(&["--bind", disk.0.to_str().unwrap()], &disk.0));
        assert!(mount(&["-o", "remount,ro,bind"], &disk.0));
    }
    let load = Load::start(entry, 2, 2);
    load.wait_for(50);
    house.start_agent();
    until("the agent says why it does not start", || {
        let log = house.log();
        log.contains("Read-only file system") && log.contains(house.data_dir().to_str().unwrap())
    });
    load.wait_for(100);
    let (sent, failures) = load.stop();
    assert!(failures.is_empty(), "{} of {sent} requests failed: {:?}", failures.len(), failures[0]);
    house.kill_agent();
    let _ = Command::new("umount").arg(&disk.0).stderr(Stdio::null()).status();
    if !disk.0.join("proxy").exists() {
        panic!("the data directory is gone");
    }
    if fs::write(disk.0.join("probe"), "x").is_err() {
        disk.remount("rw");
    }
    house.start_agent();
    house.wait_ready();
    wait_path(&house, entry);
    assert_eq!(sorted(house.proxies()), proxies, "they were not adopted");
}

#[test]
fn damaged_state_files_are_put_aside_and_cost_neither_the_start_nor_a_second_process() {
    let (mut house, entry) = mesh(echo().port());
    house.kill_agent();
    let mut damaged = 0;
    for folder in ["proxies", "services", "proxy/supervisor/processes"] {
        for file in fs::read_dir(house.data_dir().join(folder)).into_iter().flatten().flatten() {
            if file.path().is_file() {
                fs::write(file.path(), b"{\"half\":").unwrap();
                damaged += 1;
            }
        }
    }
    assert!(damaged >= 4, "{damaged}");
    house.start_agent();
    house.wait_ready();
    wait_path(&house, entry);
    assert_eq!(house.proxies().len(), 2);
    assert!(house.log().contains("ignoring the record") && house.log().contains("runs without a record"));
    assert!(lictor(&house, "wait -timeout 60s").contains("2 of 2"));
}

#[test]
fn an_agent_out_of_descriptors_says_so_and_recovers() {
    let (house, entry) = mesh(echo().port());
    let agent = Pid::from_raw(i32::try_from(house.agent_pid()).unwrap()).unwrap();
    let open = fs::read_dir(format!("/proc/{}/fd", house.agent_pid())).unwrap().count() as u64;
    let before = rustix::process::getrlimit(Resource::Nofile);
    // A few are left, so that it can look at its processes; a start needs more.
    limit_files(agent, Rlimit { current: Some(open), maximum: before.maximum });
    let load = Load::start(entry, 2, 2);
    load.wait_for(100);
    fails_nothing(load);
    let pid = house.proxy_pid("web-proxy");
    assert!(is_running(pid));
    send(house.proxy_pid("db-proxy"), Signal::KILL);
    until("the log tells", || house.log().contains("Too many open files"));
    limit_files(agent, before);
    until("the proxy is back", || house.proxies().iter().any(|(id, _)| id == "db-proxy"));
    until("the path is back", || echo_once(entry).is_ok());
    let load = Load::start(entry, 2, 2);
    load.wait_for(100);
    fails_nothing(load);
    assert!(is_running(pid), "the other proxy had nothing to do with it");
    assert_eq!(house.proxies().len(), 2);
}

/// Ends a load in which nothing may have gone wrong.
#[track_caller]
fn fails_nothing(load: Load) {
    let (sent, failures) = load.stop();
    assert!(failures.is_empty(), "{} of {sent} requests failed: {:?}", failures.len(), failures.first());
}

fn limit_files(pid: Pid, limit: Rlimit) {
    rustix::process::prlimit(Some(pid), Resource::Nofile, limit).unwrap();
}

#[test]
fn a_proxy_out_of_descriptors_keeps_its_connections_and_takes_new_ones_later() {
    let (house, entry) = mesh(echo().port());
    let mut open = common::connect(entry).unwrap();
    exchange(&mut open).unwrap();
    let proxy = house.proxy_pid("web-proxy");
    let pid = Pid::from_raw(i32::try_from(proxy).unwrap()).unwrap();
    let used = fs::read_dir(format!("/proc/{proxy}/fd")).unwrap().count() as u64;
    let limit = rustix::process::prlimit(Some(pid), Resource::Nofile, Rlimit { current: Some(used), maximum: None });
    let before = match limit {
        Ok(before) => before,
        Err(_) => {
            let hard = rustix::process::getrlimit(Resource::Nofile).maximum;
            let limit = Rlimit { current: Some(used), maximum: hard };
            rustix::process::prlimit(Some(pid), Resource::Nofile, limit).unwrap()
        }
    };
    let waiting: Vec<_> = (0..8).filter_map(|_| common::connect(entry).ok()).collect();
    exchange(&mut open).unwrap();
    until("its log tells", || lictor(&house, "logs -n 50 web").contains("Too many open files"));
    exchange(&mut open).unwrap();
    drop(waiting);
    limit_files(pid, before);
    until("it takes new ones", || echo_once(entry).is_ok());
    exchange(&mut open).unwrap();
    assert_eq!(house.proxy_pid("web-proxy"), proxy);
}

/// A control group that limits the number of processes; gone when dropped.
struct Group(PathBuf);

impl Group {
    fn make() -> Option<Group> {
        let name = format!("lictor-test-{}", std::process::id());
        let place = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].iter().map(|root| Path::new(root).join(&name));
        let made = place.into_iter().find(|path| fs::create_dir(path).is_ok() && path.join("pids.max").exists());
        if made.is_none() {
            skipped("there is no control group for processes here");
        }
        made.map(Group)
    }

    fn limit(&self, processes: &str) {
        fs::write(self.0.join("pids.max"), processes).unwrap();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let root = self.0.parent().unwrap().join("cgroup.procs");
        let end = Instant::now() + Duration::from_secs(5);
        while fs::remove_dir(&self.0).is_err() && Instant::now() < end {
            for pid in fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default().lines() {
                let _ = fs::write(&root, pid);
            }
        }
    }
}

#[test]
fn an_agent_that_gets_no_more_processes_says_so_and_recovers() {
    if !needs_root() {
        return;
    }
    let Some(group) = Group::make() else { return };
    let (house, entry) = mesh(echo().port());
    let pid = house.proxy_pid("db-proxy");
    fs::write(group.0.join("cgroup.procs"), house.agent_pid().to_string()).unwrap();
    // Not one more than there are: the agent's own threads count too.
    group.limit("1");
    let load = Load::start(entry, 2, 2);
    load.wait_for(100);
    fails_nothing(load);
    send(pid, Signal::KILL);
    until("the log tells", || house.log().contains("Resource temporarily unavailable"));
    assert!(house.get("/v1/agent/services").status == 200, "the agent answers all the same");
    group.limit("max");
    until("the proxy is back", || house.proxies().iter().any(|(id, _)| id == "db-proxy"));
    until("the path is back", || echo_once(entry).is_ok());
    let load = Load::start(entry, 2, 2);
    load.wait_for(100);
    fails_nothing(load);
    assert_eq!(house.proxies().len(), 2);
}

fn with_command(command: Value) -> Value {
    let proxy = json!({"command": command, "config": {"disable_tcp_check": true}});
    json!({"services": [{"name": "app", "port": 8080, "connect": {"proxy": proxy}}]})
}

#[test]
fn a_missing_program_is_named_everywhere_and_started_once_it_is_there() {
    let house = House::build(LICTOR, json!({}));
    let program = house.folder().join("bin/proxy");
    house.reconfigure(|config| config["services"] = with_command(json!([program]))["services"].clone());
    let mut house = house;
    house.start_agent();
    house.wait_ready();
    let missing = "No such file or directory";
    until("the log tells", || house.log().contains(missing) && house.log().contains("next start in"));
    until("why tells", || {
        let why = lictor(&house, "why app");
        why.contains(missing) && why.contains("install the program")
    });
    let log = house.log();
    let told = log.lines().filter(|line| line.contains("supervisor: app-proxy: cannot start"));
    let told: Vec<&str> = told.filter(|line| !line.contains("next start in")).collect();
    assert!(told.is_empty(), "tried again at once, which is the same failure: {told:?}");
    assert!(lictor(&house, "ps").contains(missing));
    fs::create_dir(program.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("/bin/cat", &program).unwrap();
    fs::remove_file(&program).unwrap();
    fs::write(&program, "#!/bin/sh\nexec sleep 1000\n").unwrap();
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    lictor(&house, "restart app");
    house.proxy_pid("app-proxy");
}

#[test]
fn a_proxy_that_ignores_signals_is_killed_after_its_grace() {
    let script = "trap '' INT TERM HUP; while true; do sleep 0.1; done";
    let house = House::start(LICTOR, with_command(json!(["/bin/sh", "-c", script])));
    let pid = house.proxy_pid("app-proxy");
    let asked = Instant::now();
    let said = lictor(&house, "stop app");
    assert!(said.contains("app-proxy: stopped"), "{said}");
    assert!(!is_running(pid) && asked.elapsed() > Duration::from_secs(4));
    assert!(house.log().contains("did not stop within the grace period, killing it"));
}

#[test]
fn nothing_is_left_of_a_proxy_that_forks() {
    let script = "sleep 987 & (sleep 987 & sleep 987) & trap 'exit 0' INT TERM; wait; sleep 987";
    let house = House::start(LICTOR, with_command(json!(["/bin/sh", "-c", script])));
    let pid = house.proxy_pid("app-proxy");
    let members = || -> usize {
        let of_session = |entry: &fs::DirEntry| {
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let fields: Vec<&str> =
                stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect()).unwrap_or_default();
            fields.first() != Some(&"Z") && fields.get(3) == Some(&pid.to_string().as_str())
        };
        fs::read_dir("/proc").unwrap().flatten().filter(of_session).count()
    };
    until("its children are there", || members() >= 4);
    let said = lictor(&house, "stop app");
    assert!(said.contains("app-proxy: stopped"), "{said}");
    assert_eq!(members(), 0);
}

/// The library that makes a process see another time.
fn faketime() -> Option<PathBuf> {
    let found = ["x86_64-linux-gnu", "aarch64-linux-gnu"]
        .iter()
        .map(|place| PathBuf::from(format!("/usr/lib/{place}/faketime/libfaketimeMT.so.1")))
        .find(|path| path.exists());
    if found.is_none() {
        skipped("libfaketime is not installed (package faketime)");
    }
    found
}

#[test]
fn a_clock_that_jumps_moves_no_process_and_stops_no_traffic() {
    let Some(library) = faketime() else { return };
    let (config, entry) = two_services(echo().port());
    let mut house = House::build(LICTOR, config);
    let clock = house.folder().join("clock");
    fs::write(&clock, "+0").unwrap();
    house.start_agent_with(&[
        ("LD_PRELOAD", library.to_str().unwrap()),
        ("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap()),
        ("FAKETIME_NO_CACHE", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
    ]);
    house.wait_ready();
    wait_path(&house, entry);
    let proxies = sorted(house.proxies());
    let load = Load::start(entry, 2, 2);
    for jump in ["+2d", "-3d", "+0"] {
        fs::write(&clock, jump).unwrap();
        load.wait_for(100);
        // It goes on to answer and to look after its processes.
        assert_eq!(house.get("/v1/agent/services").status, 200);
        let table = lictor(&house, "ps");
        assert!(table.contains("db-proxy") && table.contains("web-proxy"), "{table}");
    }
    let (sent, failures) = load.stop();
    assert!(failures.is_empty(), "{} of {sent} requests failed: {:?}", failures.len(), failures[0]);
    assert_eq!(sorted(house.proxies()), proxies);
    fs::write(&clock, "-3d").unwrap();
    kill_and_wait_for_another(&house, "db-proxy");
    until("the path is back", || echo_once(entry).is_ok());
}
