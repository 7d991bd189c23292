//! What operators see of managed proxies and do with them, by the commands they type.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up shall fail")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::{LICTOR, Load, connect, echo, echo_once, exchange, mesh, two_services, wait_path};
use lictor_testkit::house::is_running;
use lictor_testkit::{House, eventually, until};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use serde_json::{Value, json};

/// What a command printed, and its exit code.
#[derive(Debug)]
struct Outcome {
    code: i32,
    stdout: String,
    stderr: String,
}

fn command(house: &House, words: &str) -> Command {
    let mut command = Command::new(LICTOR);
    command.arg("connect").args(words.split_whitespace()).stdin(Stdio::null());
    command.env("CONSUL_HTTP_ADDR", format!("127.0.0.1:{}", house.http_port));
    command
}

fn lictor(house: &House, words: &str) -> Outcome {
    let output = command(house, words).output().unwrap();
    Outcome {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn done(house: &House, words: &str) -> String {
    let outcome = lictor(house, words);
    assert_eq!(outcome.code, 0, "{words}: {outcome:?}\n{}", house.log());
    outcome.stdout
}

fn ps(house: &House, id: &str) -> Value {
    let all: Value = serde_json::from_str(&done(house, "ps -format=json")).unwrap();
    all.as_array().unwrap().iter().find(|process| process["ProxyID"] == id).cloned().unwrap()
}

#[test]
fn proxies_are_listed_waited_for_stopped_started_and_restarted() {
    let (mut house, entry) = mesh(echo().port());
    assert_eq!(done(&house, "wait -timeout 60s"), "2 of 2 managed proxies serve\n");
    let table = done(&house, "ps");
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("PROXY") && lines.len() == 3, "{table}");
    assert!(lines[1].starts_with("db-proxy") && lines[1].contains("ready"), "{table}");

    let db = ps(&house, "db-proxy");
    assert_eq!(db["PID"], house.proxy_pid("db-proxy"));
    assert_eq!((&db["Serving"], &db["Restarts"], &db["Held"]), (&json!(true), &json!(0), &json!(false)));
    assert!(db["MemoryBytes"].as_u64().unwrap() > 1 << 20 && db["OpenFiles"].as_u64().unwrap() > 3, "{db}");
    assert!(db["Report"]["LeafValidUntil"].as_str().unwrap().starts_with("20") && db["Report"]["Roots"] == 1, "{db}");
    let web = ps(&house, "web-proxy");
    assert_eq!((&web["Report"]["UpstreamsReachable"], &web["Report"]["UpstreamsWanted"]), (&json!(1), &json!(1)));
    assert_eq!(web["Report"]["ListenersOpen"], 2);
    let mut open = connect(entry).unwrap();
    exchange(&mut open).unwrap();
    until("the connection is counted on both sides", || {
        let inbound = |id| ps(&house, id)["Report"]["Inbound"] == 1;
        inbound("db-proxy") && ps(&house, "web-proxy")["Report"]["Connections"] == 1
    });

    assert_eq!(done(&house, "why db"), "db-proxy serves\n");
    let before = house.proxy_pid("web-proxy");
    assert!(done(&house, "restart web").starts_with("web-proxy: "));
    // The old process may still be there: it lets its connections end.
    assert_ne!(ps(&house, "web-proxy")["PID"], before);
    wait_path(&house, entry);

    // What an operator stopped stays stopped, whatever happens to the agent.
    assert_eq!(done(&house, "stop db"), "db-proxy: stopped\n");
    let both = |house: &House| {
        let why = lictor(house, "why db-proxy");
        assert_eq!(why.code, 2, "{why:?}");
        assert!(why.stdout.contains("an operator stopped db-proxy") && why.stdout.contains("connect start db-proxy"));
        assert!(!house.proxies().iter().any(|(id, _)| id == "db-proxy"));
    };
    both(&house);
    until("its neighbour misses it", || {
        let why = lictor(&house, "why web");
        why.code == 2 && why.stdout.contains("upstream service:default/db has no healthy instance")
    });
    let waited = lictor(&house, "wait -timeout 1s web");
    assert!(waited.code == 1 && waited.stderr.contains("no healthy instance"), "{waited:?}");
    house.kill_agent();
    house.start_agent();
    house.wait_ready();
    until("the agent has looked after its proxies", || lictor(&house, "ps").stdout.contains("stopped (held)"));
    both(&house);
    done(&house, "start db");
    assert_eq!(lictor(&house, "wait -timeout 60s web db").code, 0);
    wait_path(&house, entry);

    let nobody = lictor(&house, "why nobody");
    assert!(nobody.code == 1 && nobody.stderr.contains("there is no managed proxy \"nobody\""), "{nobody:?}");
}

/// A command that goes on, and the lines it prints; killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn why_names_what_is_in_the_way_of_a_proxy_that_serves() {
    let app = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (config, _) = two_services(app.local_addr().unwrap().port());
    let house = House::start(LICTOR, config);
    done(&house, "wait -timeout 60s");
    assert_eq!(done(&house, "why db"), "db-proxy serves\n");

    let deny = house.intend("web", "db", "deny");
    until("the denial is known", || lictor(&house, "why web").stdout.contains("web may not connect to db"));
    let outcome = lictor(&house, "why web");
    assert_eq!(outcome.code, 2, "{outcome:?}");
    assert!(outcome.stdout.contains("=> if it shall: lictor intention create -allow web db"), "{outcome:?}");
    house.request("DELETE", &format!("/v1/connect/intentions/{deny}"), b"");
    until("it is gone", || !lictor(&house, "why web").stdout.contains("may not connect"));

    drop(app);
    let outcome = lictor(&house, "why db");
    assert_eq!(outcome.code, 2, "{outcome:?}");
    assert!(outcome.stdout.starts_with("db-proxy serves, but\n  connections to db end at its proxy"), "{outcome:?}");
    let outcome = lictor(&house, "why web");
    assert!(
        outcome.code == 2 && outcome.stdout.contains("connections to db end at its proxy: at 127.0.0.1:"),
        "{outcome:?}"
    );
}

#[test]
fn logs_are_shown_and_followed_through_a_restart_of_the_proxy() {
    let (mut house, _) = mesh(echo().port());
    let shown = done(&house, "logs web -n 1000");
    assert!(shown.contains("Proxy loaded config and ready to serve"), "{shown}");
    assert_eq!(done(&house, "logs -n 1 web").lines().count(), 1);
    let mut child = command(&house, "logs -f -n 0 web").stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let _running = Running(child);
    // The follower is there when the agent has answered; lines of the new process are new in any case.
    let restarted = std::thread::spawn({
        let mut command = command(&house, "restart web");
        move || {
            std::thread::sleep(std::time::Duration::from_secs(1));
            command.stdout(Stdio::null()).status().unwrap()
        }
    });
    let mut followed = lines.map(Result::unwrap);
    assert!(followed.any(|line| line.contains("Consul Connect proxy starting")));
    assert!(followed.any(|line| line.contains("Proxy loaded config and ready to serve")));
    assert!(restarted.join().unwrap().success());

    // It ends with its agent, and says that it was the agent.
    let child = command(&house, "logs -f -n 1 web").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut child = Running(child);
    let mut first = String::new();
    BufReader::new(child.0.stdout.take().unwrap()).read_line(&mut first).unwrap();
    house.kill_agent();
    let mut said = String::new();
    std::io::Read::read_to_string(&mut child.0.stderr.take().unwrap(), &mut said).unwrap();
    assert!(said.contains("the agent ended the connection") && said.contains("the proxy may go on"), "{said}");
}

#[test]
fn a_drained_proxy_leaves_discovery_keeps_its_connections_and_stops_when_they_have_ended() {
    let (mut house, entry) = mesh(echo().port());
    let pid = house.proxy_pid("db-proxy");
    let mut open = connect(entry).unwrap();
    exchange(&mut open).unwrap();
    let draining = command(&house, "drain -timeout 120s db").stdout(Stdio::piped()).spawn().unwrap();
    let mut draining = Running(draining);
    until("discovery has no db any more", || {
        house.get("/v1/health/connect/db?passing").json().as_array().is_some_and(Vec::is_empty)
    });
    until("it is shown with its connection", || {
        let db = ps(&house, "db-proxy");
        db["State"] == "draining" && db["Report"]["Inbound"] == 1
    });
    until("nobody is sent there", || echo_once(entry).is_err());
    exchange(&mut open).unwrap();
    assert!(is_running(pid) && draining.0.try_wait().unwrap().is_none());
    drop(open);
    let status = eventually("the drain is over", || draining.0.try_wait().unwrap());
    assert!(status.success() && !is_running(pid));
    assert_eq!(ps(&house, "db-proxy")["State"], "stopped");
    done(&house, "start db");
    wait_path(&house, entry);

    // What does not end in time is cut, and that is said.
    let mut open = connect(entry).unwrap();
    exchange(&mut open).unwrap();
    until("it is counted", || ps(&house, "db-proxy")["Report"]["Inbound"] == 1);
    let said = done(&house, "drain -timeout 3s db");
    assert!(said.ends_with("db-proxy is stopped; 1 connection did not end in time and was cut\n"), "{said}");

    // Whoever ends the agent is told of what goes on, and how it ends.
    let pid = house.proxy_pid("web-proxy");
    house.end_agent(rustix::process::Signal::INT);
    let log = house.log();
    assert!(log.contains("==> 1 managed proxy goes on without the agent") && is_running(pid), "{log}");
    let kept = fs::read_to_string(house.data_dir().join("proxy/pids/web-proxy.pid")).unwrap();
    assert_eq!(kept, format!("{pid}\n"));
}

#[test]
fn a_started_proxy_is_not_discovered_before_it_listens() {
    let (house, _) = mesh(echo().port());
    let instances = || house.get("/v1/health/connect/db?passing").json();
    for act in ["drain", "stop"].repeat(5) {
        done(&house, &format!("{act} db"));
        let check = || house.get("/v1/agent/checks").json()["service:db-proxy"]["Status"].clone();
        until("its check has seen that it is gone", || check() == "critical");
        done(&house, "start db");
        let found = eventually("it is discovered", || instances().get(0).cloned());
        let port = u16::try_from(found["Service"]["Port"].as_u64().unwrap()).unwrap();
        assert!(connect(port).is_ok(), "after {act}: {}", house.log());
    }
}

#[test]
fn a_drain_goes_on_when_the_agent_is_killed_in_the_middle_of_it() {
    let (mut house, entry) = mesh(echo().port());
    let pid = house.proxy_pid("db-proxy");
    let mut open = connect(entry).unwrap();
    exchange(&mut open).unwrap();
    assert_eq!(house.request("PUT", "/v1/agent/connect/drain/db?timeout=1h", b"").status, 200);
    until("it drains with its connection", || {
        let db = ps(&house, "db-proxy");
        db["State"] == "draining" && db["Report"]["Inbound"] == 1
    });
    for _ in 0..3 {
        house.kill_agent();
        house.start_agent();
        house.wait_ready();
        until("the next agent hears it", || {
            let db = ps(&house, "db-proxy");
            assert!(is_running(pid), "it was stopped: {db}");
            db["Report"]["Inbound"] == 1
        });
        assert_eq!(ps(&house, "db-proxy")["State"], "draining");
        let passing = house.get("/v1/health/connect/db?passing").json();
        assert!(passing.as_array().is_some_and(Vec::is_empty), "{passing}");
        exchange(&mut open).unwrap();
    }
    drop(open);
    until("it stops when its connection has ended", || !is_running(pid));
    until("and is held", || lictor(&house, "ps").stdout.contains("stopped (held)"));
    done(&house, "start db");
    wait_path(&house, entry);
}

#[test]
fn a_port_that_another_proxy_of_the_agent_has_is_said_to_be_that_ones() {
    let (mut config, entry) = two_services(echo().port());
    let upstream = json!({"destination_name": "db", "local_bind_port": entry});
    let proxy = json!({"upstreams": [upstream]});
    let third = json!({"name": "app", "port": 8081, "connect": {"proxy": proxy}});
    config["services"].as_array_mut().unwrap().push(third);
    let house = House::start(LICTOR, config);
    // Whoever came first has it.
    until("why names the one that has it", || {
        [("web", "app"), ("app", "web")].iter().any(|(one, other)| {
            let why = lictor(&house, &format!("why {one}")).stdout;
            why.contains(&format!("{other}-proxy has the address, for ")) && why.contains("cannot listen")
        })
    });
}

#[test]
fn an_agent_ends_at_once_beside_a_proxy_that_is_not_ready() {
    let (mut config, _) = two_services(echo().port());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    config["services"][0]["connect"]["proxy"] = json!({"config": {"bind_port": port}});
    let mut house = House::start(LICTOR, config);
    until("it cannot get ready", || lictor(&house, "why db").stdout.contains("cannot listen"));
    house.end_agent(rustix::process::Signal::TERM);
    assert!(!house.log().contains("did not stop within"), "{}", house.log());
}

fn with_command(script: &str, defaults: Value) -> Value {
    let proxy = json!({"command": ["/bin/sh", "-c", script], "config": {"disable_tcp_check": true}});
    json!({
        "services": [{"name": "app", "port": 8080, "connect": {"proxy": proxy}}],
        "connect": {"proxy_defaults": defaults},
    })
}

#[test]
fn the_last_words_of_a_crashed_proxy_are_shown_where_its_crash_is_reported() {
    let house = House::start(LICTOR, with_command("echo hello; echo the disk is on fire >&2; exit 3", json!({})));
    until("the agent's log has them", || {
        let log = house.log();
        log.contains("app-proxy: pid")
            && log.contains("exited with code 3")
            && log.contains("said: the disk is on fire")
    });
    let shown = eventually("ps has them", || {
        let app = ps(&house, "app-proxy");
        (app["LastExit"]["Output"] == json!(["hello", "the disk is on fire"])).then_some(app)
    });
    assert_eq!(shown["LastExit"]["Reason"], "exited with code 3");
    until("why tells them while it waits", || {
        let why = lictor(&house, "why app");
        why.code == 2 && why.stdout.contains("started again in") && why.stdout.contains("the disk is on fire")
    });
    assert!(lictor(&house, "ps").stdout.contains("exited with code 3"));
}

/// All output, oldest file first, without the holes that a file system may leave at the front.
fn all_output(folder: &Path) -> String {
    let name = |number: u32| match number {
        0 => folder.join("app-proxy-stdout.log"),
        _ => folder.join(format!("app-proxy-stdout.log.{number}")),
    };
    let files = (0..10_000).rev().filter_map(|number| fs::read(name(number)).ok());
    let text: Vec<u8> = files.flatten().filter(|byte| *byte != 0).collect();
    String::from_utf8(text).unwrap()
}

#[test]
fn rotation_loses_no_line_while_agents_come_and_go() {
    // Two writers on one file, as a program with a child has.
    let script = "for w in a b; do (n=0; while [ $n -lt 20000 ]; do echo \"$w $n\"; n=$((n+1)); done) & done; wait; \
                  sleep 1000";
    let limits = json!({"log_rotate_bytes": 16384, "log_rotate_max_files": 1000});
    let mut house = House::start(LICTOR, with_command(script, limits));
    let folder = house.data_dir().join("proxy/logs");
    let rotated = |number: u32| folder.join(format!("app-proxy-stdout.log.{number}")).exists();
    until("it was rotated", || rotated(1));
    house.kill_agent();
    house.start_agent();
    house.wait_ready();
    let count = |text: &str, writer: &str| text.lines().filter(|line| line.starts_with(writer)).count();
    until("everything is written and rotated", || {
        let small = fs::metadata(folder.join("app-proxy-stdout.log")).is_ok_and(|found| {
            use std::os::unix::fs::MetadataExt;
            found.blocks() * 512 <= 32 << 10
        });
        let text = all_output(&folder);
        rotated(5) && small && count(&text, "a ") >= 20_000 && count(&text, "b ") >= 20_000
    });
    let text = all_output(&folder);
    for writer in ["a", "b"] {
        let own: Vec<&str> = text.lines().filter(|line| line.starts_with(writer)).collect();
        assert_eq!(own.len(), 20_000);
        assert!(own.iter().enumerate().all(|(n, line)| *line == format!("{writer} {n}")), "{writer} is out of order");
    }
    // The command shows them across files.
    assert_eq!(done(&house, "logs -n 30000 app").lines().count(), 30_000);
}

#[test]
fn built_in_proxies_have_given_up_what_they_do_not_need_and_carry_traffic() {
    let (house, entry) = mesh(echo().port());
    let status = |id: &str| fs::read_to_string(format!("/proc/{}/status", house.proxy_pid(id))).unwrap();
    for id in ["web-proxy", "db-proxy"] {
        let text = status(id);
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
        for set in ["CapEff:", "CapPrm:", "CapInh:", "CapAmb:"] {
            assert_eq!(field(set).trim_start_matches('0'), "", "{id} {set} {text}");
        }
        assert_eq!((field("NoNewPrivs:"), field("Seccomp:")), ("1", "2"), "{id}: {text}");
        assert!(done(&house, &format!("logs -n 1000 {id}")).contains("sandbox: no-new-privileges on"));
    }
    // Everything a proxy does after its start: new listeners, new connections, another certificate, a new upstream.
    echo_once(entry).unwrap();
    let more = lictor_testkit::ports::one();
    house.reconfigure(|config| {
        config["services"][1]["connect"]["proxy"]["upstreams"] = json!([
            {"destination_name": "db", "local_bind_port": entry},
            {"destination_name": "db", "local_bind_port": more},
        ]);
    });
    house.signal_agent(rustix::process::Signal::HUP);
    until("the new upstream carries bytes", || echo_once(more).is_ok());
    echo_once(entry).unwrap();
}

/// What a process is told that becomes an agent on an old kernel: the agent's arguments.
const ON_OLD_KERNEL: &str = "LICTOR_TEST_ON_OLD_KERNEL";

/// Answers calls as a kernel does that has neither Landlock nor filters for system calls, for this thread and all that it
/// starts.
fn be_on_an_old_kernel() {
    let no_such_call = SeccompAction::Errno(u32::try_from(libc::ENOSYS).unwrap());
    let of_seccomp = u64::try_from(libc::PR_SET_SECCOMP).unwrap();
    let sets_filter = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, of_seccomp).unwrap();
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for call in [
        libc::SYS_landlock_create_ruleset,
        libc::SYS_landlock_add_rule,
        libc::SYS_landlock_restrict_self,
        libc::SYS_seccomp,
    ] {
        rules.insert(call, Vec::new());
    }
    rules.insert(libc::SYS_prctl, vec![SeccompRule::new(vec![sets_filter]).unwrap()]);
    let architecture = TargetArch::try_from(std::env::consts::ARCH).unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, no_such_call, architecture).unwrap();
    seccompiler::apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
}

#[test]
fn on_an_old_kernel_proxies_say_once_what_is_not_in_force_and_carry_traffic() {
    if let Some(arguments) = std::env::var_os(ON_OLD_KERNEL) {
        be_on_an_old_kernel();
        let arguments = arguments.into_string().unwrap();
        let error = Command::new(LICTOR).args(arguments.lines()).env_remove(ON_OLD_KERNEL).exec();
        panic!("{error}");
    }
    let (mut config, entry) = two_services(echo().port());
    let custom = json!({"name": "custom", "port": 1, "connect": {"proxy": {
        "command": ["/bin/sleep", "1000"], "config": {"disable_tcp_check": true}}}});
    config["services"].as_array_mut().unwrap().push(custom);
    config["connect"]["proxy_defaults"] = json!({"command_system_calls": "proxy", "command_read_paths": ["/etc"]});
    let mut house = House::build(LICTOR, config);
    let wrapper = house.folder().join("on-an-old-kernel");
    let own = std::env::current_exe().unwrap();
    let test = "on_an_old_kernel_proxies_say_once_what_is_not_in_force_and_carry_traffic";
    let script = format!(
        "#!/bin/sh\n{ON_OLD_KERNEL}=\"$(printf '%s\\n' \"$@\")\" exec {} --exact {test} --nocapture\n",
        own.display()
    );
    fs::write(&wrapper, script).unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
    house.use_binary(&wrapper);
    house.start_agent();
    house.wait_ready();
    wait_path(&house, entry);
    assert_eq!(fs::read_link(format!("/proc/{}/exe", house.agent_pid())).unwrap(), Path::new(LICTOR));
    for id in ["web-proxy", "db-proxy"] {
        let said = done(&house, &format!("logs -n 1000 {id}"));
        let lines: Vec<&str> = said.lines().filter(|line| line.contains("sandbox: ")).collect();
        assert_eq!(lines.len(), 1, "{said}");
        // What such a kernel can is in force, and the rest is named with its cause.
        for part in [
            "no-new-privileges on",
            "capabilities none",
            "landlock not possible here (the kernel has none)",
            "seccomp not possible here (",
        ] {
            assert!(lines[0].contains(part), "{part:?} is not in {:?}", lines[0]);
        }
        let is_about =
            |line: &&str| line.to_lowercase().contains("landlock") || line.to_lowercase().contains("seccomp");
        assert_eq!(said.lines().filter(is_about).collect::<Vec<_>>(), lines, "it is said once");
        let status = fs::read_to_string(format!("/proc/{}/status", house.proxy_pid(id))).unwrap();
        assert!(status.contains("CapEff:\t0000000000000000") && status.contains("NoNewPrivs:\t1"), "{status}");
    }
    let log = house.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("system calls")).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    let wanted = "[WARN] supervisor: custom-proxy: it is kept from gaining privileges: no sudo, nothing that is setuid; not from \
                  system calls that administer the machine: the kernel takes no filter (Function not implemented";
    assert!(lines[0].contains(wanted), "{lines:?}");
    let wanted = "; not from files that are not listed: the kernel has no Landlock (Function not implemented";
    assert!(lines[0].contains(wanted), "{lines:?}");
    let status = fs::read_to_string(format!("/proc/{}/status", house.proxy_pid("custom-proxy"))).unwrap();
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    let load = Load::start(entry, 2, 2);
    load.wait_for(200);
    let (sent, failures) = load.stop();
    assert!(failures.is_empty(), "{} of {sent}: {failures:?}", failures.len());
}

#[test]
fn the_sandbox_can_be_left_out() {
    let (mut config, entry) = common::two_services(echo().port());
    config["connect"] = json!({"proxy_defaults": {"sandbox": false}});
    let house = House::start(LICTOR, config);
    wait_path(&house, entry);
    let text = fs::read_to_string(format!("/proc/{}/status", house.proxy_pid("web-proxy"))).unwrap();
    assert!(text.contains("Seccomp:\t0"), "{text}");
}

/// A house whose proxies may be other users: everybody may enter and read what is public, and has the program; the data
/// directory stays private.
fn open_to_other_users(config: Value) -> House {
    opened(House::build(LICTOR, config))
}

fn opened(mut house: House) -> House {
    fs::set_permissions(house.folder(), fs::Permissions::from_mode(0o755)).unwrap();
    let binary = house.folder().join("lictor");
    lictor_testkit::program::copy(LICTOR, &binary);
    house.use_binary(&binary);
    house
}

#[test]
fn a_proxy_of_another_user_whose_record_is_lost_is_ended_and_not_doubled() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: this test needs to be root");
        return;
    }
    let (mut config, entry) = two_services(echo().port());
    config["connect"] = json!({"enabled": true, "proxy_defaults": {"run_as": "65533:65532"}});
    let mut house = open_to_other_users(config);
    let runtime = house.folder().to_owned();
    let environment = [("RUNTIME_DIRECTORY", runtime.to_str().unwrap())];
    house.start_agent_with(&environment);
    house.wait_ready();
    wait_path(&house, entry);
    let before = house.proxies();
    assert_eq!(before.len(), 2);
    let recorded = |house: &House, id: &str| house.data_dir().join(format!("proxy/supervisor/processes/{id}.json"));
    house.kill_agent();
    fs::write(recorded(&house, "db-proxy"), "").unwrap();
    fs::remove_file(recorded(&house, "web-proxy")).unwrap();
    house.start_agent_with(&environment);
    house.wait_ready();
    wait_path(&house, entry);
    // Until then the old ones serve.
    for (id, pid) in before {
        until("it does not go on without a record", || !is_running(pid));
        let line = format!("supervisor: {id}: pid {pid} runs as another user and without a record");
        assert!(house.log().contains(&line), "{line}\n{}", house.log());
    }
    until("there are two others", || house.proxies().len() == 2);
    wait_path(&house, entry);
    // And so a denial holds.
    let denial = json!({"SourceName": "web", "DestinationName": "db", "Action": "deny"}).to_string();
    assert_eq!(house.request("POST", "/v1/connect/intentions", denial.as_bytes()).status, 200);
    until("nothing gets through", || common::echo_once(entry).is_err());
}

#[test]
fn an_agent_that_is_root_runs_its_proxies_as_another_user_and_adopts_and_replaces_them() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: this test needs to be root");
        return;
    }
    let (mut config, entry) = two_services(echo().port());
    config["connect"] = json!({"enabled": true, "proxy": {"allow_managed_root": false},
        "proxy_defaults": {"run_as": "65533:65532", "limit_open_files": 4096}});
    let mut house = open_to_other_users(config);
    let runtime = house.folder().to_owned();
    let environment = [("RUNTIME_DIRECTORY", runtime.to_str().unwrap())];
    house.start_agent_with(&environment);
    house.wait_ready();
    wait_path(&house, entry);
    let pids = ["db-proxy", "web-proxy"].map(|id| house.proxy_pid(id));
    for pid in pids {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert!(status.contains("Uid:\t65533\t65533\t65533\t65533\n"), "{status}");
        assert!(status.contains("Gid:\t65532\t65532\t65532\t65532\n"), "{status}");
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        assert_eq!(files.split_whitespace().skip(3).take(2).collect::<Vec<_>>(), ["4096", "4096"]);
        let environ = fs::read(format!("/proc/{pid}/environ")).unwrap();
        assert!(!String::from_utf8_lossy(&environ).contains("CONNECT_PROXY_TOKEN="), "it proves itself by its process");
    }
    // Its files are private to the agent's user, and its log arrives.
    let log = house.data_dir().join("proxy/logs/db-proxy-stdout.log");
    assert_eq!(fs::metadata(&log).unwrap().permissions().mode() & 0o777, 0o600);
    until("its log arrives", || fs::read_to_string(&log).unwrap().contains("ready to serve"));
    until("both report", || done(&house, "ps").matches("ready").count() == 2);

    house.kill_agent();
    echo_once(entry).unwrap();
    house.start_agent_with(&environment);
    house.wait_ready();
    until("both report to the next agent", || done(&house, "ps").matches("ready").count() == 2);
    assert_eq!(["db-proxy", "web-proxy"].map(|id| house.proxy_pid(id)), pids, "they were adopted");
    let mut open = connect(entry).unwrap();
    exchange(&mut open).unwrap();
    done(&house, "restart-proxies");
    exchange(&mut open).unwrap();
    echo_once(entry).unwrap();
    drop(open);
    until("the former processes end with their last connection", || !pids.iter().any(|pid| is_running(*pid)));
}

#[test]
fn an_agent_without_a_data_directory_leaves_nothing_behind_of_proxies_of_another_user() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: this test needs to be root");
        return;
    }
    let (mut config, entry) = two_services(echo().port());
    config["connect"] = json!({"enabled": true, "proxy_defaults": {"run_as": "65533:65532"}});
    let mut house = opened(House::build_dev(LICTOR, config));
    let runtime = house.folder().join("run");
    fs::create_dir(&runtime).unwrap();
    fs::set_permissions(&runtime, fs::Permissions::from_mode(0o755)).unwrap();
    house.start_agent_with(&[("RUNTIME_DIRECTORY", runtime.to_str().unwrap())]);
    house.wait_ready();
    wait_path(&house, entry);
    let folders = || fs::read_dir(&runtime).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let [folder] = folders().try_into().unwrap();
    assert!(folder.join("agent.sock").exists() && folder.join("notify").exists());
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o711);
    house.end_agent(rustix::process::Signal::TERM);
    assert_eq!(folders(), Vec::<PathBuf>::new());
}

#[test]
fn a_user_who_is_not_there_keeps_the_agent_from_starting() {
    let (mut config, _) = two_services(1);
    config["connect"] = json!({"enabled": true, "proxy_defaults": {"run_as": "no-such-user"}});
    let mut house = House::build(LICTOR, config);
    house.start_agent();
    until("it ends", || house.ended().is_some());
    let said = house.log();
    assert!(said.contains("connect.proxy_defaults.run_as: there is no user \"no-such-user\""), "{said}");
}

/// A free group of version 2 for one agent, gone with its owner.
struct Delegated(std::path::PathBuf);

impl Delegated {
    /// One with the controllers that this machine's hierarchy has to give; tells why there is none.
    fn make(title: &str) -> Result<Delegated, String> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(|error| error.to_string())?;
        let line = mounts.lines().find(|line| line.contains(" - cgroup2 ")).ok_or("no control groups of version 2")?;
        let root = std::path::PathBuf::from(line.split(' ').nth(4).unwrap_or_default());
        let available = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        let usable: Vec<&str> = available.split_whitespace().filter(|name| matches!(*name, "memory" | "cpu")).collect();
        if usable.is_empty() {
            return Err(format!("neither memory nor cpu is a controller of {}", root.display()));
        }
        for controller in usable {
            let control = root.join("cgroup.subtree_control");
            fs::write(&control, format!("+{controller}")).map_err(|error| format!("{}: {error}", control.display()))?;
        }
        let folder = root.join(format!("test-of-lictor-{title}-{}.scope", std::process::id()));
        fs::create_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        Ok(Delegated(folder))
    }

    /// Lets the agent of `house` be started into the group and, as with `DelegateSubgroup=`, the next one into the agent's
    /// place below it.
    fn starts(&self, house: &mut House) {
        let starter = house.folder().join("starter");
        let script = format!(
            "#!/bin/sh\ncd {}\nif [ -d lictor-agent ]; then cd lictor-agent; fi\n\
             echo $$ > cgroup.procs && cd {} && exec {LICTOR} \"$@\"\n",
            self.0.display(),
            house.folder().display()
        );
        fs::write(&starter, script).unwrap();
        fs::set_permissions(&starter, fs::Permissions::from_mode(0o755)).unwrap();
        house.use_binary(&starter);
    }

    /// The groups below it.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap().flatten().filter(|entry| entry.path().is_dir());
        entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
        let limit = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while self.0.exists() && std::time::Instant::now() < limit {
            for name in self.names() {
                let _ = fs::remove_dir(self.0.join(name));
            }
            let _ = fs::remove_dir(&self.0);
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

#[test]
fn limits_of_memory_and_processor_hold_where_a_group_is_delegated_and_are_named_where_none_is() {
    let (mut config, entry) = two_services(echo().port());
    config["connect"] = json!({"enabled": true, "proxy_defaults": {"limit_memory": 268_435_456, "cpu_weight": 50}});
    config["services"][0]["connect"]["proxy"]["cpu_weight"] = 200.into();
    let first = format!("{}-proxy", config["services"][0]["name"].as_str().unwrap());
    let other = if first == "db-proxy" { "web-proxy" } else { "db-proxy" };
    let mut house = House::build(LICTOR, config);
    let delegated = match Delegated::make("limits") {
        Ok(delegated) => delegated,
        Err(why) => {
            eprintln!("SKIPPED for the most part: {why}");
            house.start_agent();
            house.wait_ready();
            wait_path(&house, entry);
            let said = "supervisor: limits of memory and processor are not in force:";
            assert_eq!(house.log().matches(said).count(), 1, "{}", house.log());
            return;
        }
    };
    delegated.starts(&mut house);
    house.start_agent();
    house.wait_ready();
    wait_path(&house, entry);
    let group_of = |pid: u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let path = text.lines().find_map(|line| line.strip_prefix("0::")).unwrap().to_owned();
        delegated.0.join(path.rsplit('/').next().unwrap())
    };
    let value =
        |pid: u32, file: &str| fs::read_to_string(group_of(pid).join(file)).ok().map(|text| text.trim().to_owned());
    assert!(group_of(house.agent_pid()).ends_with("lictor-agent"), "the agent made room");
    let (heavy, light) = (house.proxy_pid(&first), house.proxy_pid(other));
    assert_ne!(group_of(heavy), group_of(light), "each has a group of its own");
    let expect = |pid: u32, file: &str, wanted: &str| match value(pid, file) {
        Some(found) => assert_eq!(found, wanted, "{file} of {pid}"),
        None => eprintln!("SKIPPED: this machine has no {file}"),
    };
    expect(heavy, "cpu.weight", "200");
    expect(light, "cpu.weight", "50");
    expect(light, "memory.max", "268435456");

    // A reload with another limit reaches the running process.
    house.reconfigure(|config| config["services"][0]["connect"]["proxy"]["cpu_weight"] = 300.into());
    assert_eq!(house.put("/v1/agent/reload", Value::Null).status, 200);
    if value(heavy, "cpu.weight").is_some() {
        until("the new weight", || value(heavy, "cpu.weight").as_deref() == Some("300"));
    }
    assert_eq!(house.proxy_pid(&first), heavy, "nothing was started anew");

    // The next agent finds them in their groups, and gives them its own limits.
    house.kill_agent();
    house.reconfigure(|config| config["connect"]["proxy_defaults"]["cpu_weight"] = 70.into());
    house.start_agent();
    house.wait_ready();
    until("both are adopted", || done(&house, "ps").matches("ready").count() == 2);
    assert_eq!([house.proxy_pid(&first), house.proxy_pid(other)], [heavy, light]);
    if value(light, "cpu.weight").is_some() {
        until("the weight of the next agent", || value(light, "cpu.weight").as_deref() == Some("70"));
    }
    echo_once(entry).unwrap();

    // A replaced process leaves no group behind, and neither does one that is gone for good.
    let before = group_of(light);
    done(&house, "restart-proxies");
    until("the group of the former process is removed", || !before.exists());
    assert_ne!(group_of(house.proxy_pid(other)), before);
    house.reconfigure(|config| config["services"] = json!([]));
    assert_eq!(house.put("/v1/agent/reload", Value::Null).status, 200);
    until("only the agent's own group is left", || delegated.names() == ["lictor-agent"]);
}

#[test]
fn a_proxy_that_needs_more_memory_than_its_limit_is_ended_with_all_it_started_and_that_is_said() {
    let delegated = match Delegated::make("memory") {
        Ok(delegated) if delegated.0.join("memory.current").exists() => delegated,
        Ok(delegated) => {
            eprintln!("SKIPPED: {} has no memory controller", delegated.0.display());
            return;
        }
        Err(why) => {
            eprintln!("SKIPPED: {why}");
            return;
        }
    };
    // It leaves a child in a session of its own, and doubles what it holds until it may not.
    let script = "setsid sleep 1000 & x=a; while true; do x=$x$x; done";
    let mut house = House::build(
        LICTOR,
        json!({"services": [{"name": "hog", "port": 1, "connect": {"proxy": {"limit_memory": 16_777_216,
            "command": ["/bin/sh", "-c", script], "config": {"disable_tcp_check": true}}}}]}),
    );
    delegated.starts(&mut house);
    house.start_agent();
    house.wait_ready();
    let said = "was ended by the kernel because it needed more memory than its limit";
    until("it is said where the crash is reported", || house.log().contains(said));
    until("it is said in the list", || done(&house, "ps").contains(said));
    done(&house, "stop hog");
    until("nothing of it is left", || delegated.names() == ["lictor-agent"]);
}

#[test]
fn a_service_may_name_the_user_of_its_proxy_where_the_agent_allows_that_user() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: this test needs to be root");
        return;
    }
    let (mut config, entry) = two_services(echo().port());
    let allow = |users: Value| {
        json!({"enabled": true, "proxy": {"allow_managed_root": false, "allow_managed_api_registration": true,
            "allowed_users": users}})
    };
    config["connect"] = allow(json!(["65533:65532"]));
    let names = [0, 1].map(|at| format!("{}-proxy", config["services"][at]["name"].as_str().unwrap()));
    config["services"][0]["connect"]["proxy"]["run_as"] = "65533:65532".into();
    config["services"][1]["connect"]["proxy"]["run_as"] = "65531:65530".into();
    let mut house = open_to_other_users(config);
    let runtime = house.folder().to_owned();
    let environment = [("RUNTIME_DIRECTORY", runtime.to_str().unwrap())];

    // A user that the agent was not told of is a mistake, not a wish.
    house.start_agent_with(&environment);
    until("it ends", || house.ended().is_some());
    assert!(house.log().contains("user \"65531:65530\" is not among connect.proxy.allowed_users"), "{}", house.log());

    house.reconfigure(|config| config["connect"] = allow(json!(["65533:65532", "65531:65530"])));
    house.start_agent_with(&environment);
    house.wait_ready();
    wait_path(&house, entry);
    let pids = names.clone().map(|id| house.proxy_pid(&id));
    let user = |pid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().next().unwrap().to_owned()
        };
        format!("{}:{}", field("Uid:"), field("Gid:"))
    };
    assert_eq!(pids.map(user), ["65533:65532", "65531:65530"]);

    // They are adopted as what they are.
    house.kill_agent();
    echo_once(entry).unwrap();
    house.start_agent_with(&environment);
    house.wait_ready();
    until("both report to the next agent", || done(&house, "ps").matches("ready").count() == 2);
    assert_eq!(names.clone().map(|id| house.proxy_pid(&id)), pids);

    // Over HTTP nobody chooses a user, not even an allowed one.
    let mut body = json!({"Name": "third", "Port": 1, "Connect": {"Proxy": {"RunAs": "65533:65532"}}});
    let answer = house.request("PUT", "/v1/agent/service/register", body.to_string().as_bytes());
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("RunAs is allowed in configuration files only"), "{}", answer.text());
    // And without one it would be root, which stays refused.
    body["Connect"]["Proxy"] = json!({});
    assert_eq!(house.request("PUT", "/v1/agent/service/register", body.to_string().as_bytes()).status, 200);
    until("it is refused", || lictor(&house, "why third").stdout.contains("running as root"));

    // Another user is another process; one that is not allowed is a reload that changes nothing.
    house.reconfigure(|config| config["services"][1]["connect"]["proxy"]["run_as"] = "nobody".into());
    let answer = house.request("PUT", "/v1/agent/reload", b"");
    assert_eq!(answer.status, 500);
    assert_eq!(names.clone().map(|id| house.proxy_pid(&id)), pids);
    house.reconfigure(|config| config["services"][1]["connect"]["proxy"]["run_as"] = "65533:65532".into());
    assert_eq!(house.put("/v1/agent/reload", Value::Null).status, 200);
    until("it runs as the other user", || {
        let now = house.proxies().into_iter().find(|(id, _)| *id == names[1]).map(|(_, pid)| pid);
        now.is_some_and(|pid| pid != pids[1] && is_running(pid) && user(pid) == "65533:65532")
    });
    assert_eq!(house.proxy_pid(&names[0]), pids[0], "the other one was left alone");
    until("traffic flows again", || echo_once(entry).is_ok());
}

#[test]
fn a_custom_command_has_the_privileges_and_capabilities_that_are_configured() {
    let script = "cat /proc/self/status; echo core=$(ulimit -c); exec sleep 1000";
    let mut config = json!({"services": [{"name": "web", "port": 1, "connect": {"proxy": {
        "command": ["/bin/sh", "-c", script], "config": {"disable_tcp_check": true}}}}]});
    let defaults = json!({"command_capabilities": "none", "command_new_privileges": "no"});
    config["connect"] = json!({"enabled": true, "proxy_defaults": defaults});
    let mut house = House::start(LICTOR, config);
    let log = house.data_dir().join("proxy/logs/web-proxy-stdout.log");
    let said = |wanted: &str| {
        until("the command speaks", || fs::read_to_string(&log).unwrap_or_default().matches("core=").count() > 0);
        let text = fs::read_to_string(&log).unwrap();
        assert!(text.contains(wanted), "{wanted} is not in {text}");
    };
    said("NoNewPrivs:\t1");
    said("Seccomp:\t2");
    said("core=0");
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        said(&format!("{set}:\t0000000000000000"));
    }

    // Where nothing is said it is as without us: programs may need it.
    house.kill_agent();
    house.reconfigure(|config| {
        config["connect"]["proxy_defaults"] = json!({});
    });
    house.start_agent();
    house.wait_ready();
    let before = house.proxy_pid("web-proxy");
    fs::write(&log, "").unwrap();
    done(&house, "restart web-proxy");
    assert_ne!(house.proxy_pid("web-proxy"), before, "such a change waits for the next start of the proxy");
    said("NoNewPrivs:\t0");
    said("Seccomp:\t0");
}

/// Whether the kernel can fence in all that we ask for.
fn kernel_has_landlock() -> bool {
    use landlock::{ABI, Access, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr, Scope};
    let ask = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    let ask = ask.handle_access(AccessFs::from_all(ABI::V6)).and_then(|ask| ask.scope(Scope::Signal));
    ask.and_then(Ruleset::create).is_ok()
}

#[test]
fn a_custom_command_touches_the_files_that_are_listed_and_no_others() {
    if !kernel_has_landlock() {
        eprintln!("SKIPPED: this kernel has no Landlock, or an older one");
        return;
    }
    let program = |name| lictor_testkit::program::find(name).unwrap();
    let (sleep, other) = (program("sleep"), program("true"));
    let mut house = House::build(LICTOR, json!({}));
    let folder = house.folder().to_owned();
    for name in ["open", "work", "closed"] {
        fs::create_dir(folder.join(name)).unwrap();
        fs::write(folder.join(name).join("file"), "a line\n").unwrap();
    }
    fs::create_dir(folder.join("work/below")).unwrap();
    fs::copy(&other, folder.join("work/program")).unwrap();
    // The shell's own words only, so that each attempt is one file's. The agent is whoever started it.
    let script = r#"#!/bin/sh
try() { if (eval "$2") 2>/dev/null; then echo "$1=yes"; else echo "$1=no"; fi; }
try read-open 'read -r line < @OPEN/file'
try read-work 'read -r line < @WORK/file'
try read-closed 'read -r line < @CLOSED/file'
try read-data ': < @DATA/node-id'
try write-work 'echo x > @WORK/below/new && echo y >> @WORK/below/new'
try write-open 'echo x > @OPEN/new'
try write-closed 'echo x > @CLOSED/new'
try write-data 'echo x > @DATA/new'
try start-listed '@SLEEP 0'
try start-other '@OTHER'
try start-work '@WORK/program'
try device 'echo x > /dev/null && : < /dev/zero'
# Its own errors, which are not those of an attempt.
if (echo spoken > /dev/stderr); then echo error=yes; else echo error=no; fi
try signal 'kill -0 $PPID'
echo end
exec @SLEEP 1000
"#;
    let path = |name: &str| folder.join(name).display().to_string();
    let words = [
        ("@OPEN", path("open")),
        ("@WORK", path("work")),
        ("@CLOSED", path("closed")),
        ("@DATA", house.data_dir().display().to_string()),
        ("@SLEEP", sleep.display().to_string()),
        ("@OTHER", other.display().to_string()),
    ];
    let script = words.iter().fold(script.to_owned(), |script, (word, path)| script.replace(word, path));
    let command = folder.join("custom");
    fs::write(&command, script).unwrap();
    fs::set_permissions(&command, fs::Permissions::from_mode(0o755)).unwrap();
    house.reconfigure(|config| {
        config["services"] = json!([
            {"name": "web", "port": 1, "connect": {"proxy": {"command": [command], "config": {"disable_tcp_check": true}}}},
            {"name": "lame", "port": 2, "connect": {"proxy": {
                "command": ["/bin/sh", "-c", format!("exec {}", other.display())], "config": {"disable_tcp_check": true}}}},
        ]);
    });
    let log = house.data_dir().join("proxy/logs/web-proxy-stdout.log");
    let said = || {
        let whole = || fs::read_to_string(&log).ok().filter(|text| text.contains("end\n"));
        let text = eventually("it has tried everything", whole);
        fs::write(&log, "").unwrap();
        text.lines().filter(|line| *line != "end").map(str::to_owned).collect::<Vec<_>>()
    };
    let answers = |no: &[&str]| {
        let tried = ["read-open", "read-work", "read-closed", "read-data", "write-work", "write-open", "write-closed"];
        let tried = tried.iter().chain(&[
            "write-data",
            "start-listed",
            "start-other",
            "start-work",
            "device",
            "error",
            "signal",
        ]);
        tried.map(|what| format!("{what}={}", if no.contains(what) { "no" } else { "yes" })).collect::<Vec<_>>()
    };
    house.start_agent();
    house.wait_ready();
    assert_eq!(said(), answers(&[]), "without a list nothing is kept from it");

    house.kill_agent();
    house.reconfigure(|config| {
        config["connect"]["proxy_defaults"] = json!({
            "command_read_paths": [path("open"), sleep, "/no such folder"], "command_write_paths": [path("work")]});
    });
    house.start_agent();
    house.wait_ready();
    let before = house.proxy_pid("web-proxy");
    done(&house, "restart web-proxy");
    assert_ne!(house.proxy_pid("web-proxy"), before, "such a change waits for the next start of the proxy");
    let kept =
        ["read-closed", "read-data", "write-open", "write-closed", "write-data", "start-other", "start-work", "signal"];
    assert_eq!(said(), answers(&kept));
    let status = fs::read_to_string(format!("/proc/{}/status", house.proxy_pid("web-proxy"))).unwrap();
    assert!(status.contains("NoNewPrivs:\t1") && status.contains("Seccomp:\t2"), "{status}");
    let log = house.log();
    for wanted in [
        "[INFO] supervisor: web-proxy: it is kept from gaining privileges: no sudo, nothing that is setuid; and from system \
         calls that administer the machine; and from files that are not listed\n",
        "[WARN] supervisor: web-proxy: connect.proxy_defaults.command_read_paths: \"/no such folder\" is kept from it: No such \
         file or directory",
    ] {
        assert!(log.contains(wanted), "{wanted} is not in {log}");
    }

    // One that does not come up tells which list it is that lacks something.
    until("it is said what to do", || {
        let why = lictor(&house, "why lame").stdout;
        why.contains("Permission denied")
            && why.contains("command_read_paths and connect.proxy_defaults.command_write_paths")
    });
}

/// A program that a custom command may be: how it is started in `folder` so that it passes what comes to `port` on to `app`.
fn forwarder(kind: &str, program: &Path, folder: &Path, port: u16, app: u16) -> Vec<String> {
    let here = folder.display();
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let program = program.to_str().unwrap();
    match kind {
        "nginx" => {
            // With a master and workers that become somebody else where they can.
            let text = format!(
                "daemon off; pid {here}/pid; error_log {here}/error.log;\nevents {{}}\nhttp {{ access_log off;\n\
                 client_body_temp_path {here}/t1; proxy_temp_path {here}/t2; fastcgi_temp_path {here}/t3;\n\
                 uwsgi_temp_path {here}/t4; scgi_temp_path {here}/t5;\n\
                 server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://127.0.0.1:{app}; }} }} }}\n"
            );
            fs::write(folder.join("nginx.conf"), text).unwrap();
            words(&[program, "-e", &format!("{here}/error.log"), "-c", &format!("{here}/nginx.conf")])
        }
        "haproxy" => {
            // A master that starts a worker, as packages have it.
            let text = format!(
                "defaults\n mode tcp\n timeout connect 2s\n timeout client 9s\n timeout server 9s\n\
                 listen all\n bind 127.0.0.1:{port}\n server app 127.0.0.1:{app}\n"
            );
            fs::write(folder.join("haproxy.cfg"), text).unwrap();
            words(&[program, "-W", "-db", "-f", &format!("{here}/haproxy.cfg")])
        }
        _ => {
            // A thread for each connection, and what it cannot do, it says.
            let script = format!(
                "import os, socket, threading, subprocess\n\
                 refused = lambda call: 'refused' if subprocess.call(call, stderr=subprocess.DEVNULL) else 'done'\n\
                 print('personality', refused(['setarch', '-R', 'true']), flush=True)\n\
                 print('namespace', refused(['unshare', '--user', 'true']), flush=True)\n\
                 try: socket.socket(38, socket.SOCK_SEQPACKET); print('crypto socket', flush=True)\n\
                 except OSError as error: print('socket', error.errno, flush=True)\n\
                 def pump(source, sink):\n\
                 \x20while data := source.recv(65536): sink.sendall(data)\n\
                 \x20sink.shutdown(socket.SHUT_WR)\n\
                 listener = socket.create_server(('127.0.0.1', {port}))\n\
                 while True:\n\
                 \x20one, _ = listener.accept()\n\
                 \x20two = socket.create_connection(('127.0.0.1', {app}))\n\
                 \x20for pair in ((one, two), (two, one)): threading.Thread(target=pump, args=pair, daemon=True).start()\n"
            );
            words(&[program, "-c", &script])
        }
    }
}

/// All processes of the session that `leader` leads.
fn session(leader: u32) -> Vec<u32> {
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let of = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(3)?.parse::<u32>().ok()
    };
    pids.filter(|pid| of(pid) == Some(leader)).collect()
}

/// Ends these sessions when it goes: programs that show another environment than they were given are not found by it.
struct Sessions(Vec<u32>);

impl Drop for Sessions {
    fn drop(&mut self) {
        for pid in self.0.iter().flat_map(|leader| session(*leader)) {
            lictor_testkit::house::send(pid, rustix::process::Signal::KILL);
        }
    }
}

#[test]
fn real_proxies_work_with_the_system_calls_that_a_proxy_needs() {
    real_proxies_work(|_| json!({"command_system_calls": "proxy"}), "it is kept from gaining privileges");
}

#[test]
fn real_proxies_work_with_the_files_that_are_listed_for_them() {
    if !kernel_has_landlock() {
        eprintln!("SKIPPED: this kernel has no Landlock, or an older one");
        return;
    }
    let installed = lictor_testkit::program::find("python3").map(|program| python(&program, "sys.base_prefix"));
    let listed = |folder: &Path| {
        let mut read = vec![json!("/etc"), json!("/usr/bin"), json!("/usr/sbin"), json!("/usr/share"), json!(folder)];
        read.extend(installed.iter().map(|folder| json!(folder)));
        json!({"command_read_paths": read, "command_write_paths": [folder]})
    };
    real_proxies_work(listed, "and from files that are not listed\n");
}

/// What this Python says of itself.
fn python(program: &Path, what: &str) -> PathBuf {
    let output = Command::new(program).args(["-c", &format!("import sys; print({what})")]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().into()
}

/// Shows that nginx, HAProxy and a program in Python, as far as they are there, pass bytes on with such defaults of managed
/// proxies, and that the agent says this of each.
fn real_proxies_work(defaults: impl Fn(&Path) -> Value, told: &str) {
    use lictor_testkit::{http, ports, program::find};
    let app = common::serve("127.0.0.1:0", |mut connection| {
        use std::io::Write;
        let mut head = String::new();
        let mut lines = BufReader::new(connection.try_clone().unwrap());
        while !head.ends_with("\r\n\r\n") && lines.read_line(&mut head).is_ok_and(|read| read > 0) {}
        let _ = connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello");
    });
    let found: Vec<_> = ["nginx", "haproxy", "python3"]
        .into_iter()
        .filter_map(|kind| {
            let program = find(kind)?;
            // What is found first may be a script that looks for the real one.
            let program = if kind == "python3" { python(&program, "sys.executable") } else { program };
            Some((kind, program, ports::one()))
        })
        .collect();
    // Behind the agent, which would start them again.
    let mut sessions = Sessions(Vec::new());
    let mut house = House::build(LICTOR, json!({}));
    let mut services = Vec::new();
    for (kind, program, port) in &found {
        let folder = house.folder().join(kind);
        fs::create_dir(&folder).unwrap();
        let command = forwarder(kind, program, &folder, *port, app.port());
        let proxy = json!({"command": command, "config": {"bind_address": "127.0.0.1", "bind_port": port}});
        services.push(json!({"name": kind, "port": app.port(), "connect": {"proxy": proxy}}));
    }
    let defaults = defaults(house.folder());
    house.reconfigure(|config| {
        config["services"] = services.into();
        config["connect"]["proxy_defaults"] = defaults;
    });
    house.start_agent();
    house.wait_ready();
    for (kind, ..) in &found {
        let pid = || ps(&house, &format!("{kind}-proxy"))["PID"].as_u64().filter(|pid| *pid > 0);
        sessions.0.push(u32::try_from(eventually("it is started", pid)).unwrap());
    }
    for ((kind, _, port), leader) in found.iter().zip(&sessions.0) {
        until(&format!("an answer through {kind}\n{}", house.log()), || {
            let answer = http::request(*port, "GET", "/", &[], b"", std::time::Duration::from_secs(10));
            answer.is_ok_and(|answer| answer.status == 200 && answer.text() == "hello")
        });
        let id = format!("{kind}-proxy");
        // With all that it started.
        let pids = session(*leader);
        assert!(pids.len() > usize::from(*kind != "python3"), "{kind}: {pids:?}");
        for pid in pids {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            assert!(status.is_empty() || status.contains("Seccomp:\t2"), "{kind}: {status}");
        }
        let log = house.log();
        let start = format!("supervisor: {id}: it is kept from gaining privileges");
        assert!(log.split_inclusive('\n').any(|line| line.contains(&start) && line.contains(told)), "{log}");
        assert_eq!(ps(&house, &id)["Restarts"], 0);
    }
    if found.iter().any(|(kind, ..)| *kind == "python3") {
        let said = done(&house, "logs -n 1000 python3-proxy");
        for line in ["personality refused", "namespace refused", &format!("socket {}", libc::EAFNOSUPPORT)] {
            assert!(said.contains(line), "{line} is not in {said}");
        }
    }
}
