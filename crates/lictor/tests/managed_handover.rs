//! Proxies are upgraded and crash, and nobody who connects is refused (spec 01: W45, and what issue 3 adds to it).
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up shall fail")]

mod common;

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use common::{LICTOR, Load, connect, echo, echo_once, exchange, holds_listener, mesh, two_services, wait_path};
use lictor_testkit::house::{is_running, send};
use lictor_testkit::{House, until};
use rustix::process::Signal;

/// Requests at any moment in [`Load`]: a crash may cost each worker the one it has under way.
const FRESH: usize = 6;
const OPEN: usize = 6;

fn restart_proxies(house: &House, arguments: &[&str]) -> Output {
    let address = format!("127.0.0.1:{}", house.http_port);
    Command::new(LICTOR).args(["connect", "restart-proxies", "-http-addr", &address]).args(arguments).output().unwrap()
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

#[test]
fn a_deregistered_or_hopeless_proxy_refuses_at_once() {
    let (house, entry) = mesh(echo().port());
    let port = port_of(&house, "web-proxy");
    house.reconfigure(|config| {
        config["services"].as_array_mut().unwrap().pop();
    });
    house.put("/v1/agent/reload", serde_json::Value::Null);
    for port in [port, entry] {
        until("nobody listens", || TcpStream::connect(("127.0.0.1", port)).is_err());
    }
}

#[test]
fn a_new_version_that_does_not_work_is_given_up_and_the_old_one_goes_on() {
    let (config, entry) = two_services(echo().port());
    let mut house = House::build(LICTOR, config);
    let binary = house.folder().join("lictor");
    fs::copy(LICTOR, &binary).unwrap();
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
    load.wait_for(100);
    let (_, failures) = load.stop();
    assert!(failures.is_empty(), "{failures:?}");
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
