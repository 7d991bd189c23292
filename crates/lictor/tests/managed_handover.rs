//! Proxies are upgraded and crash, and nobody who connects is refused (spec 01: W45, and what issue 3 adds to it).
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up shall fail")]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{LICTOR, Load, connect, echo, echo_once, exchange, holds_listener, mesh, serve, two_services, wait_path};
use lictor_testkit::house::{is_running, send};
use lictor_testkit::{House, ports, until};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Requests at any moment in [`Load`]: a crash may cost each worker the one it has under way.
const FRESH: usize = 6;
const OPEN: usize = 6;

fn restart_proxies(house: &House, arguments: &[&str]) -> Output {
    connect_command(house, "restart-proxies", arguments)
}

fn connect_command(house: &House, command: &str, arguments: &[&str]) -> Output {
    let address = format!("127.0.0.1:{}", house.http_port);
    Command::new(LICTOR).args(["connect", command, "-http-addr", &address]).args(arguments).output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn port_of(house: &House, id: &str) -> u16 {
    let services = house.get("/v1/agent/services").json();
    u16::try_from(services[id]["Port"].as_u64().unwrap()).unwrap()
}

/// The pid that the supervisor's record of a proxy names.
fn current_pid(house: &House, id: &str) -> u32 {
    let record = house.data_dir().join("proxy/supervisor/processes").join(format!("{id}.json"));
    lictor_testkit::eventually("the record of the process", || {
        let record: serde_json::Value = serde_json::from_slice(&fs::read(&record).ok()?).ok()?;
        u32::try_from(record["identity"]["pid"].as_u64()?).ok()
    })
}

#[test]
fn proxies_that_cannot_be_heard_any_more_are_stopped_and_started_anew() {
    let (mut house, entry) = mesh(echo().port());
    let pids = |house: &House| house.proxies().into_iter().map(|(_, pid)| pid).collect::<Vec<_>>();
    let before = pids(&house);
    house.end_agent(Signal::TERM);
    // With it goes the way to the agent that they know.
    let moved = house.folder().join("moved");
    fs::rename(house.data_dir(), &moved).unwrap();
    house.reconfigure(|config| config["data_dir"] = moved.display().to_string().into());
    house.start_agent();
    house.wait_ready();
    until("the path is there", || echo_once(entry).is_ok());
    until("it is shown that they are not heard", || {
        let address = format!("127.0.0.1:{}", house.http_port);
        let asked = |words: &[&str]| {
            Command::new(LICTOR).arg("connect").args(words).env("CONSUL_HTTP_ADDR", &address).output().unwrap()
        };
        let (listed, why) = (asked(&["ps"]), asked(&["why", "db"]));
        assert!(pids(&house).iter().any(|pid| before.contains(pid)), "{}", text(&listed));
        text(&listed).contains("unheard (")
            && why.status.code() == Some(2)
            && text(&why).contains("has not heard it for")
    });
    // After the time that a successor has, which cannot come by the sockets.
    until("others run", || {
        let now = pids(&house);
        now.len() == 2 && now.iter().all(|pid| !before.contains(pid))
    });
    wait_path(&house, entry);
    assert!(before.iter().all(|pid| !is_running(*pid)), "{before:?}");
}

#[test]
fn upgrading_the_proxies_under_load_fails_no_request_and_cuts_no_connection() {
    let (house, entry) = mesh(echo().port());
    let load = Load::start(entry, FRESH, OPEN);
    load.wait_for(200);
    let first = ["db-proxy", "web-proxy"].map(|id| current_pid(&house, id));
    let mut before = first;
    for _ in 0..3 {
        let output = restart_proxies(&house, &[]);
        let said = text(&output);
        assert!(output.status.success(), "{said}\n{}", house.log());
        let plan = said.find("db-proxy (of db)").unwrap();
        assert!(plan < said.find("db-proxy: pid").unwrap(), "the plan comes first: {said}");
        let now = ["db-proxy", "web-proxy"].map(|id| current_pid(&house, id));
        assert!(before.iter().zip(now).all(|(old, new)| *old != new), "{before:?} {now:?}");
        before = now;
        load.wait_for(300);
    }
    assert!(is_running(first[0]) && is_running(first[1]), "connections that were open go on in the old processes");
    let (sent, failures) = load.stop();
    assert!(failures.is_empty(), "{} of {sent} requests failed: {:?}", failures.len(), &failures[0]);
    until("the old processes end with their last connection", || !first.iter().any(|pid| is_running(*pid)));
    echo_once(entry).unwrap();
}

#[test]
fn a_crashed_proxy_costs_only_the_requests_it_had_under_way() {
    let kinds = ["none", "connections"].into_iter().flat_map(|reuse| ["db-proxy", "web-proxy"].map(|id| (id, reuse)));
    for (id, reuse) in kinds {
        let (mut config, entry) = two_services(echo().port());
        for service in config["services"].as_array_mut().unwrap() {
            service["connect"]["proxy"]["config"]["reuse"] = reuse.into();
        }
        let house = House::start(LICTOR, config);
        wait_path(&house, entry);
        let load = Load::start(entry, FRESH, OPEN);
        load.wait_for(200);
        let pid = current_pid(&house, id);
        send(pid, Signal::KILL);
        until("another process is the proxy", || current_pid(&house, id) != pid);
        load.wait_for(300);
        let (sent, each) = load.stop_each();
        let failures: Vec<&String> = each.iter().flatten().collect();
        assert!(!failures.is_empty(), "killing {id} went unnoticed: the test does not test");
        let refused = failures.iter().find(|failure| failure.contains("refused"));
        assert!(refused.is_none(), "{id}: {refused:?}\n{}", house.log());
        // The kernel closes the sockets of a dying process one after the other. Whoever comes back after the first ones
        // is not given a session to it that is not closed yet.
        let unlucky = each.iter().find(|failures| failures.len() > 1);
        assert!(unlucky.is_none(), "{id}, reuse {reuse}: {} of {sent} failed: {each:?}", failures.len());
    }
}

#[test]
fn after_the_agent_was_killed_it_has_the_sockets_of_its_proxies_again() {
    let (mut house, entry) = mesh(echo().port());
    let port = port_of(&house, "db-proxy");
    until("the agent holds the proxy's socket", || holds_listener(house.agent_pid(), port));
    house.kill_agent();
    echo_once(entry).unwrap();
    house.start_agent();
    house.wait_ready();
    until("the new agent holds it, too", || holds_listener(house.agent_pid(), port));
    until("and that of the upstream", || holds_listener(house.agent_pid(), entry));
    let pid = current_pid(&house, "web-proxy");
    send(pid, Signal::KILL);
    // Whenever this is, it is not refused.
    for _ in 0..50 {
        TcpStream::connect(("127.0.0.1", entry)).unwrap();
    }
    wait_path(&house, entry);
    assert_ne!(current_pid(&house, "web-proxy"), pid);
}

/// How long a process that is stopped lets its connections go on, and how long those that came from peers.
const GRACE: Duration = Duration::from_secs(4);
const GRACE_OF_PEERS: Duration = Duration::from_secs(3);

/// Tries something that must be seen within the grace of a process until the machine is fast enough for that once.
fn in_time(what: &str, mut seen_in_time: impl FnMut() -> bool) {
    assert!((0..10).any(|_| seen_in_time()), "this machine is too busy for ten times: {what}");
}

fn refuses(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_err()
}

#[test]
fn a_deregistered_proxy_refuses_at_once_and_lets_its_connections_end() {
    let (house, entry) = mesh(echo().port());
    let port = port_of(&house, "web-proxy");
    let services = two_services_of(&house);
    let reload = |services: &[serde_json::Value]| {
        house.reconfigure(|config| config["services"] = services.into());
        house.put("/v1/agent/reload", serde_json::Value::Null);
    };
    in_time("a connection goes on while its proxy ends", || {
        let pid = current_pid(&house, "web-proxy");
        let mut held = connect(entry).unwrap();
        exchange(&mut held).unwrap();
        let begin = Instant::now();
        reload(&services[..1]);
        for port in [port, entry] {
            until("nobody listens", || refuses(port));
        }
        let went_on = exchange(&mut held);
        if begin.elapsed() < GRACE {
            went_on.expect("the connection was not let end by itself");
            assert!(is_running(pid), "the process waits for it");
            drop(held);
            until("the process ends with its last connection", || !is_running(pid));
            // Not when its time is over, where that can be told apart.
            return begin.elapsed() < GRACE;
        }
        drop(held);
        until("the process ends", || !is_running(pid));
        reload(&services);
        wait_path(&house, entry);
        false
    });
    assert!(house.proxies().iter().all(|(id, _)| id != "web-proxy"));
}

fn two_services_of(house: &House) -> Vec<serde_json::Value> {
    let config: serde_json::Value =
        serde_json::from_slice(&fs::read(house.folder().join("agent.json")).unwrap()).unwrap();
    config["services"].as_array().unwrap().clone()
}

/// Issue of the supervisor, point 6: peers first, because the application may need its upstreams for what they asked.
#[test]
fn a_proxy_that_stops_refuses_peers_first_and_serves_its_application_until_they_have_ended() {
    let db = echo();
    let (of_web, of_client) = (ports::one(), ports::one());
    // Each word of a peer makes the application ask `db` on a new connection.
    let web = serve("127.0.0.1:0", move |mut peer| {
        let mut word = [0; 1];
        while peer.read_exact(&mut word).is_ok() {
            let answer = if echo_once(of_web).is_ok() { b"y" } else { b"n" };
            if peer.write_all(answer).is_err() {
                return;
            }
        }
    });
    let house = House::start(
        LICTOR,
        json!({"services": [
            {"name": "db", "port": db.port(), "connect": {"proxy": {}}},
            {"name": "web", "port": web.port(), "connect": {"proxy": {
                "upstreams": [{"destination_name": "db", "local_bind_port": of_web}]}}},
            {"name": "client", "port": 8080, "connect": {"proxy": {
                "upstreams": [{"destination_name": "web", "local_bind_port": of_client}]}}},
        ]}),
    );
    let ask = |peer: &mut TcpStream| -> std::io::Result<bool> {
        let mut answer = [0; 1];
        peer.write_all(b"?")?;
        peer.read_exact(&mut answer)?;
        Ok(&answer == b"y")
    };
    let lictor = |words: &[&str]| {
        let mut command = Command::new(LICTOR);
        command.arg("connect").args(words).env("CONSUL_HTTP_ADDR", format!("127.0.0.1:{}", house.http_port));
        command.stdout(Stdio::null()).spawn().unwrap()
    };
    let public = port_of(&house, "web-proxy");
    in_time("what happens while a proxy stops", || {
        until("the way through both is open", || {
            connect(of_client).is_ok_and(|mut peer| ask(&mut peer).is_ok_and(|through| through))
        });
        let pid = current_pid(&house, "web-proxy");
        let mut peer = connect(of_client).unwrap();
        assert!(ask(&mut peer).unwrap());
        let begin = Instant::now();
        let mut stopping = lictor(&["stop", "web"]);
        until("no peer is let in any more", || refuses(public));
        let through = ask(&mut peer);
        let asked = begin.elapsed();
        // A peer that is let in now would be seen, and the application's own listener is open still.
        let (is_shut, is_open) = (refuses(public), !refuses(of_web));
        let seen = begin.elapsed() < GRACE_OF_PEERS;
        if seen {
            assert!(through.unwrap(), "the application did not reach its upstream after {asked:?}");
            assert!(is_shut && is_open && is_running(pid));
        }
        drop(peer);
        until("the upstream is closed when the last peer is gone", || refuses(of_web));
        let in_time = seen && begin.elapsed() < GRACE_OF_PEERS;
        until("the process ends", || !is_running(pid));
        assert!(stopping.wait().unwrap().success());
        if !in_time {
            assert!(lictor(&["start", "web"]).wait().unwrap().success());
        }
        in_time
    });
}

#[test]
fn a_proxy_that_crashes_again_and_again_refuses_while_it_waits_and_serves_afterwards() {
    let (house, entry) = mesh(echo().port());
    let other = current_pid(&house, "db-proxy");
    let of_web = || house.proxies().into_iter().find(|(id, _)| id == "web-proxy").map(|(_, pid)| pid);
    let why = || {
        let mut command = Command::new(LICTOR);
        command.args(["connect", "why", "web"]).env("CONSUL_HTTP_ADDR", format!("127.0.0.1:{}", house.http_port));
        text(&command.output().unwrap())
    };
    let load = Load::start(entry, FRESH, OPEN);
    load.wait_for(100);
    // Whatever runs is killed at once, so that none lives long enough to be healthy.
    until("nobody waits for it any more", || {
        if let Some(pid) = of_web() {
            send(pid, Signal::KILL);
        }
        refuses(entry)
    });
    until("why tells when it is tried again", || {
        let told = why();
        told.contains("started again in") || of_web().is_some()
    });
    assert!(house.log().contains("web-proxy: ") && house.log().contains("next start in"), "{}", house.log());
    let (_, failures) = load.stop();
    assert!(failures.iter().any(|failure| failure.contains("refused")), "{failures:?}");
    // It comes back by itself, the same way for everybody as before.
    wait_path(&house, entry);
    assert_eq!(current_pid(&house, "db-proxy"), other, "the other one had nothing to do with it");
    let load = Load::start(entry, FRESH, OPEN);
    load.wait_for(200);
    let (sent, failures) = load.stop();
    assert!(failures.is_empty(), "{} of {sent} requests failed: {:?}", failures.len(), failures.first());
}

#[test]
fn a_new_version_that_does_not_work_is_given_up_and_the_old_one_goes_on() {
    let (config, entry) = two_services(echo().port());
    let mut house = House::build(LICTOR, config);
    let binary = house.folder().join("lictor");
    lictor_testkit::program::copy(LICTOR, &binary);
    house.use_binary(&binary);
    house.start_agent();
    house.wait_ready();
    wait_path(&house, entry);
    let pid = current_pid(&house, "db-proxy");
    replace(&binary, "#!/bin/sh\necho broken >&2\nexit 7\n");
    let load = Load::start(entry, FRESH, OPEN);
    load.wait_for(100);
    let output = restart_proxies(&house, &["db-proxy"]);
    assert!(!output.status.success());
    let said = text(&output);
    assert!(said.contains("db-proxy was not replaced") && said.contains("exited with code 7"), "{said}");
    assert_eq!(current_pid(&house, "db-proxy"), pid);
    // Twice, because the second failure is another one though it has the same cause.
    for _ in 0..2 {
        let asked = Instant::now();
        let output = connect_command(&house, "restart", &["db-proxy"]);
        let said = text(&output);
        assert!(!output.status.success(), "{said}");
        assert!(said.contains("db-proxy was not replaced") && said.contains("exited with code 7"), "{said}");
        assert!(
            asked.elapsed() < Duration::from_secs(25),
            "it says so when it is known, not when its patience is over"
        );
    }
    assert_eq!(current_pid(&house, "db-proxy"), pid);
    let restarts = || {
        let listed = connect_command(&house, "ps", &["-format=json"]);
        let all: Value = serde_json::from_slice(&listed.stdout).unwrap();
        let db = all.as_array().unwrap().iter().find(|process| process["ProxyID"] == "db-proxy").unwrap();
        db["Restarts"].as_u64().unwrap()
    };
    assert_eq!(restarts(), 0, "nothing was restarted");
    load.wait_for(100);
    let (_, failures) = load.stop();
    assert!(failures.is_empty(), "{failures:?}");

    lictor_testkit::program::copy(LICTOR, &binary);
    assert!(restart_proxies(&house, &["db-proxy"]).status.success());
    assert_ne!(current_pid(&house, "db-proxy"), pid);
    assert_eq!(restarts(), 1);
}

/// A program is busy while it runs, so its file is replaced, as package managers do.
fn replace(path: &Path, content: &str) {
    let next = path.with_extension("next");
    fs::write(&next, content).unwrap();
    fs::set_permissions(&next, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(next, path).unwrap();
}

#[test]
fn waiting_for_the_drain_waits_for_the_last_connection_of_the_old_process() {
    let (house, entry) = mesh(echo().port());
    let old = current_pid(&house, "db-proxy");
    let mut open = connect(entry).unwrap();
    exchange(&mut open).unwrap();
    std::thread::scope(|scope| {
        let rolling = scope.spawn(|| restart_proxies(&house, &["-wait-drained", "db-proxy"]));
        until("another process is the proxy", || current_pid(&house, "db-proxy") != old);
        exchange(&mut open).unwrap();
        assert!(!rolling.is_finished() && is_running(old));
        drop(open);
        let output = rolling.join().unwrap();
        assert!(output.status.success() && text(&output).contains("drained"), "{}", text(&output));
    });
    until("the old process is gone", || !is_running(old));
}

#[test]
fn an_agent_killed_while_an_old_process_drains_lets_the_next_agent_look_after_it() {
    let (mut house, entry) = mesh(echo().port());
    let old = current_pid(&house, "db-proxy");
    let mut open = connect(entry).unwrap();
    exchange(&mut open).unwrap();
    assert!(restart_proxies(&house, &["db-proxy"]).status.success());
    let new = current_pid(&house, "db-proxy");
    house.kill_agent();
    exchange(&mut open).unwrap();
    house.start_agent();
    house.wait_ready();
    exchange(&mut open).unwrap();
    assert!(is_running(old));
    assert_eq!(current_pid(&house, "db-proxy"), new, "the newer process is the proxy");
    drop(open);
    until("the old process is gone", || !is_running(old));
    let leftover = || {
        let records = fs::read_dir(house.data_dir().join("proxy/supervisor/processes")).unwrap();
        records.flatten().any(|entry| entry.file_name().to_string_lossy().contains('~'))
    };
    until("its record is gone, too", || !leftover());
    echo_once(entry).unwrap();
}
