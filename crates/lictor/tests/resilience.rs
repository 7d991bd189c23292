//! What happens to traffic when processes are killed: nothing, or as little as possible.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up shall fail")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{Checked, LICTOR, Load, connect, echo, echo_once, exchange, mesh, two_services, wait_path};
use lictor_testkit::house::{is_running, send};
use lictor_testkit::wait::Stalls;
use lictor_testkit::{House, eventually, until};
use rustix::process::Signal;
use serde_json::json;

#[test]
fn killing_the_agent_under_load_fails_no_request() {
    let (mut house, entry) = mesh(echo().port());
    let proxies = sorted(house.proxies());
    let load = Load::start(entry, 8, 8);
    load.wait_for(200);
    for _ in 0..3 {
        house.kill_agent();
        load.wait_for(500);
        house.start_agent();
        house.wait_ready();
        load.wait_for(500);
    }
    let (sent, failures) = load.stop();
    assert!(failures.is_empty(), "{} of {sent} requests failed: {:?}", failures.len(), &failures[0]);
    assert_eq!(sorted(house.proxies()), proxies, "the proxies were not adopted");
    // Adopted means looked after: a proxy that dies now is started again.
    let (id, pid) = proxies[0].clone();
    send(pid, Signal::KILL);
    until("the adopted proxy is replaced", || house.proxies().iter().any(|(of, new)| *of == id && *new != pid));
}

#[test]
fn killing_the_agent_leaves_checks_as_they_were_until_they_have_run() {
    let mut checked = Checked::start(|config| House::build(LICTOR, config));
    checked.outlives_its_agent();
    let states = |checked: &Checked| {
        let all = checked.house.get("/v1/agent/checks").json();
        ["node", "service:db", "service:db-sidecar-proxy:1", "service:db-sidecar-proxy:2", "service:web-proxy"]
            .map(|id| all[id]["Status"].as_str().unwrap().to_owned())
    };
    assert_eq!(states(&checked), ["passing"; 5]);

    // What broke while nobody looked is found soon, not an interval later.
    checked.house.kill_agent();
    checked.breaks(true);
    let stalls = Stalls::watch();
    checked.house.start_agent();
    checked.house.wait_ready();
    let begin = Instant::now();
    until("the node is critical", || states(&checked)[0] == "critical");
    until("what mirrors it is, too", || states(&checked)[3] == "critical");
    let (took, stall) = (begin.elapsed(), stalls.longest());
    assert!(took < Duration::from_secs(4) + 5 * stall, "after {took:?}, longest stall {stall:?}");
    checked.breaks(false);
    checked.house.kill_agent();
    checked.house.start_agent();
    checked.house.wait_ready();
    until("all are well again", || checked.failing().is_empty());

    // A reload changes nothing of what it does not change.
    checked.house.put("/v1/agent/reload", serde_json::Value::Null);
    assert_eq!(states(&checked), ["passing"; 5]);

    // A check that looks at something else begins anew.
    checked.house.kill_agent();
    checked.house.reconfigure(|config| config["checks"][0]["args"] = json!(["/bin/sleep", "600"]));
    checked.house.start_agent();
    checked.house.wait_ready();
    assert_eq!(states(&checked)[0], "critical");
    assert_eq!(checked.house.get("/v1/agent/checks").json()["node"]["Output"], "");
    assert_eq!(states(&checked)[1], "passing");
}

#[test]
fn a_deny_learnt_before_the_agent_died_is_enforced_without_it() {
    let (mut house, entry) = mesh(echo().port());
    house.intend("web", "db", "deny");
    until("the deny is known", || echo_once(entry).is_err());
    house.kill_agent();
    for _ in 0..20 {
        assert!(echo_once(entry).is_err());
    }
}

#[test]
fn after_agent_and_proxies_are_killed_everything_comes_back() {
    let (mut house, entry) = mesh(echo().port());
    let ports = proxy_ports(&house);
    house.kill_agent();
    for (_, pid) in house.proxies() {
        send(pid, Signal::KILL);
    }
    until("all are dead", || house.proxies().is_empty());
    house.start_agent();
    house.wait_ready();
    wait_path(&house, entry);
    assert_eq!(proxy_ports(&house), ports, "ports are kept");
}

fn proxy_ports(house: &House) -> Vec<u64> {
    let services = house.get("/v1/agent/services").json();
    ["db-proxy", "web-proxy"].iter().map(|id| services[*id]["Port"].as_u64().unwrap()).collect()
}

fn sorted(mut proxies: Vec<(String, u32)>) -> Vec<(String, u32)> {
    proxies.sort();
    proxies
}

#[test]
fn a_regular_end_leaves_proxies_running_with_a_data_directory() {
    let (mut house, entry) = mesh(echo().port());
    let proxies = sorted(house.proxies());
    let status = house.end_agent(Signal::TERM);
    // A server does not leave on SIGTERM: it says so with its exit code, as scripts expect.
    assert_eq!(status.code(), Some(1));
    echo_once(entry).unwrap();
    assert_eq!(sorted(house.proxies()), proxies);
}

#[test]
fn without_a_data_directory_proxies_end_with_their_agent() {
    for signal in [Signal::INT, Signal::TERM, Signal::KILL] {
        let (config, _) = two_services(echo().port());
        let mut house = House::start_dev(LICTOR, config);
        until("both proxies run", || house.proxies().len() == 2);
        let proxies = house.proxies();
        house.end_agent(signal);
        until("no proxy survives", || proxies.iter().all(|(_, pid)| !is_running(*pid)));
    }
}

/// The agent that runs now has taken in both proxies, compared what they are with what they shall be, and left them alone.
fn are_left_alone(house: &House, proxies: &[(String, u32)]) {
    let ready = || {
        let mut command = Command::new(LICTOR);
        command.args(["connect", "ps"]).env("CONSUL_HTTP_ADDR", format!("127.0.0.1:{}", house.http_port));
        String::from_utf8(command.output().unwrap().stdout).unwrap().matches("ready").count()
    };
    // It hears only processes that it has taken in, and compares them before.
    until("both report to it", || ready() == proxies.len());
    assert!(!house.log().contains("its definition changed"), "{}", house.log());
    assert_eq!(sorted(house.proxies()), proxies);
}

#[test]
fn the_end_of_the_agents_terminal_does_not_reach_its_proxies() {
    let (config, entry) = two_services(echo().port());
    let mut house = House::build(LICTOR, config);
    // `script` gives what it runs a terminal, and a session that is the terminal's.
    let in_terminal = house.folder().join("in-terminal");
    fs::write(&in_terminal, format!("#!/bin/sh\nexec script -qec \"{LICTOR} $*\" /dev/null\n")).unwrap();
    fs::set_permissions(&in_terminal, fs::Permissions::from_mode(0o700)).unwrap();
    house.use_binary(&in_terminal);
    let pid_file = house.folder().join("agent.pid");
    house.reconfigure(|config| config["pid_file"] = pid_file.display().to_string().into());
    house.start_agent();
    house.wait_ready();
    let agent = Killed(eventually("its pid", || fs::read_to_string(&pid_file).ok()?.trim().parse().ok()));
    wait_path(&house, entry);
    let proxies = sorted(house.proxies());
    let of_stat = |pid: u32, field: usize| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit(") ").next().unwrap().split(' ').nth(field).unwrap().to_owned()
    };
    assert_ne!(of_stat(agent.0, 4), "0", "the agent has no terminal");
    for (id, pid) in &proxies {
        assert_eq!(of_stat(*pid, 3), of_stat(agent.0, 3), "{id}: it is not in the agent's session");
        assert_eq!(of_stat(*pid, 4), "0", "{id}: it has the agent's terminal");
    }
    // It goes together with the terminal.
    house.kill_agent();
    send(agent.0, Signal::KILL);
    until("the agent is gone", || !is_running(agent.0));
    echo_once(entry).unwrap();
    assert_eq!(sorted(house.proxies()), proxies);
}

/// A process that dies with its test.
struct Killed(u32);

impl Drop for Killed {
    fn drop(&mut self) {
        send(self.0, Signal::KILL);
    }
}

#[test]
fn a_changed_environment_of_the_agent_restarts_no_proxy() {
    let (mut house, entry) = mesh(echo().port());
    let proxies = sorted(house.proxies());
    house.end_agent(Signal::TERM);
    house.start_agent_with(&[("SOMETHING", "else"), ("CONSUL_HTTP_ADDR", "10.0.0.1:1")]);
    house.wait_ready();
    wait_path(&house, entry);
    are_left_alone(&house, &proxies);
}

#[test]
fn an_agent_from_another_path_with_another_environment_restarts_no_proxy() {
    let (mut house, entry) = mesh(echo().port());
    let proxies = sorted(house.proxies());
    let mut held = connect(entry).unwrap();
    exchange(&mut held).unwrap();
    for (folder, value) in [("elsewhere", "else"), ("another place", "again else")] {
        let binary = house.folder().join(folder).join("lictor");
        fs::create_dir(binary.parent().unwrap()).unwrap();
        lictor_testkit::program::copy(LICTOR, &binary);
        house.end_agent(Signal::TERM);
        house.use_binary(&binary);
        house.start_agent_with(&[("SOMETHING", value), ("PATH", "/usr/sbin:/sbin:/usr/bin:/bin"), ("HOME", "/")]);
        house.wait_ready();
        assert_eq!(fs::read_link(format!("/proc/{}/exe", house.agent_pid())).unwrap(), binary);
        wait_path(&house, entry);
        are_left_alone(&house, &proxies);
        // A reload compares every definition with what runs.
        house.put("/v1/agent/reload", serde_json::Value::Null);
        exchange(&mut held).unwrap();
        are_left_alone(&house, &proxies);
    }
    // They are looked after by the new agent, and what it starts comes from its own path.
    let (id, pid) = proxies[0].clone();
    send(pid, Signal::KILL);
    let next = eventually("the proxy is replaced", || {
        house.proxies().into_iter().find(|(of, new)| *of == id && *new != pid).map(|(_, new)| new)
    });
    let binary = house.folder().join("another place/lictor");
    assert_eq!(fs::read_link(format!("/proc/{next}/exe")).unwrap(), binary);
    assert!(house.proxies().contains(&proxies[1]), "the other one was left alone");
}

/// Spec 01, fact 12.11: within two seconds, and what else is open goes on.
#[test]
fn a_reload_adds_and_removes_upstreams_without_a_new_process() {
    let (house, entry) = mesh(echo().port());
    let proxies = sorted(house.proxies());
    let [second, third] = [lictor_testkit::ports::one(), lictor_testkit::ports::one()];
    let upstreams = |ports: &[u16]| {
        let all: Vec<_> = ports.iter().map(|port| json!({"destination_name": "db", "local_bind_port": port})).collect();
        house.reconfigure(|config| config["services"][1]["connect"]["proxy"]["upstreams"] = all.into());
        house.put("/v1/agent/reload", serde_json::Value::Null);
    };
    upstreams(&[entry, second]);
    until("the new upstream works", || echo_once(second).is_ok());
    let [mut of_removed, mut of_kept] = [entry, second].map(|port| connect(port).unwrap());
    for held in [&mut of_removed, &mut of_kept] {
        exchange(held).unwrap();
    }
    let stalls = Stalls::watch();
    let begin = Instant::now();
    upstreams(&[second, third]);
    until("the old one is closed", || std::net::TcpStream::connect(("127.0.0.1", entry)).is_err());
    let (took, stall) = (begin.elapsed(), stalls.longest());
    assert!(took < Duration::from_secs(2) + 5 * stall, "closed after {took:?}, longest stall {stall:?}");
    for held in [&mut of_removed, &mut of_kept] {
        exchange(held).unwrap();
    }
    until("the other new one works", || echo_once(third).is_ok());
    assert_eq!(sorted(house.proxies()), proxies);
}

#[test]
fn a_reload_names_the_keys_that_only_a_restart_applies() {
    let house = House::start(LICTOR, json!({}));
    house.reconfigure(|config| config["ports"]["proxy_max_port"] = json!(29_999));
    house.put("/v1/agent/reload", serde_json::Value::Null);
    let line = "take effect at the next start of the agent: ports.proxy_max_port";
    until("the log names the key", || house.log().contains(line));
}

#[test]
fn a_service_that_leaves_the_files_takes_its_proxy_along() {
    let (house, _) = mesh(echo().port());
    let pid = house.proxy_pid("web-proxy");
    house.reconfigure(|config| {
        config["services"].as_array_mut().unwrap().pop();
    });
    house.put("/v1/agent/reload", serde_json::Value::Null);
    until("its process is gone", || !is_running(pid));
    let services = house.get("/v1/agent/services").json();
    assert!(services["web"].is_null() && services["web-proxy"].is_null(), "{services}");
    until("the catalog forgets it", || {
        let catalog = house.get("/v1/catalog/services").json();
        catalog["web"].is_null() && catalog["web-proxy"].is_null()
    });
}

#[test]
fn root_starts_no_proxy_unless_allowed() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: this test needs to be root");
        return;
    }
    let (mut config, _) = two_services(echo().port());
    config["connect"] = json!({"proxy": {"allow_managed_root": false}});
    let house = House::start(LICTOR, config);
    until("the refusal is in the log", || house.log().contains("running as root, will not start managed proxies"));
    let services = house.get("/v1/agent/services").json();
    assert!(!services["db"].is_null() && !services["db-proxy"].is_null(), "they are registered all the same");
    until("its check is critical", || house.get("/v1/agent/checks").json()["service:db-proxy"]["Status"] == "critical");
    std::thread::sleep(Duration::from_millis(300));
    assert!(house.proxies().is_empty());
}
