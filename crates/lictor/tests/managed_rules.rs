//! What the original got wrong about managed proxies and lictor must not: the weaknesses of spec 01, section 12, on
//! real processes. Each test names its fact; others are shown where the thing itself is tested (see docs/supervisor.md).
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up shall fail")]

mod common;

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use common::{LICTOR, echo, echo_once, holds_listener, mesh, two_services, wait_path};
use lictor_testkit::house::{is_running, send};
use lictor_testkit::{House, eventually, ports, until};
use rustix::process::Signal;
use serde_json::{Value, json};

fn services(house: &House) -> Value {
    house.get("/v1/agent/services").json()
}

fn port_of(house: &House, id: &str) -> u16 {
    u16::try_from(services(house)[id]["Port"].as_u64().unwrap()).unwrap()
}

fn check_output(house: &House, id: &str) -> String {
    house.get("/v1/agent/checks").json()[format!("service:{id}")]["Output"].as_str().unwrap_or_default().to_owned()
}

fn reload(house: &House) {
    house.put("/v1/agent/reload", Value::Null);
}

fn managed(house: &House) -> Value {
    house.reconfigure(|config| config["connect"]["proxy"]["allow_managed_api_registration"] = true.into());
    json!({"Name": "api", "Port": 9090, "Connect": {"Proxy": {}}})
}

/// How many files a folder of the data directory holds.
fn files_in(house: &House, folder: &str) -> usize {
    fs::read_dir(house.data_dir().join(folder)).unwrap().count()
}

#[test]
fn w6_a_proxy_of_the_api_is_not_started_when_the_api_may_no_longer_register_proxies() {
    let mut house = House::build(LICTOR, json!({}));
    let registration = managed(&house);
    house.start_agent();
    house.wait_ready();
    house.put("/v1/agent/service/register", registration);
    let pid = house.proxy_pid("api-proxy");
    house.end_agent(Signal::TERM);
    house.reconfigure(|config| config["connect"]["proxy"]["allow_managed_api_registration"] = false.into());
    house.start_agent();
    house.wait_ready();
    until("the process of the last agent is stopped", || !is_running(pid));
    assert!(house.log().contains("registered over the API, which is no longer allowed"), "{}", house.log());
    assert!(!services(&house)["api"].is_null() && services(&house)["api-proxy"].is_null());
}

#[test]
fn w7_root_without_leave_neither_adopts_nor_restarts_what_runs_and_says_so_once_for_each_proxy() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: this test needs to be root");
        return;
    }
    let (mut house, entry) = mesh(echo().port());
    let pid = house.proxy_pid("db-proxy");
    house.kill_agent();
    house.reconfigure(|config| config["connect"]["proxy"]["allow_managed_root"] = false.into());
    let before = house.log().len();
    house.start_agent();
    house.wait_ready();
    let said = |what: &str| house.log()[before..].matches(what).count();
    until("it is said", || said("not adopting pid") == 2);
    assert!(is_running(pid), "what runs is left alone");
    echo_once(entry).unwrap();
    send(pid, Signal::KILL);
    until("it is gone", || !is_running(pid));
    reload(&house);
    let state = || house.get("/v1/agent/connect/process/db-proxy").json();
    until("its start is refused", || state()["State"] == "failed" && state()["Refused"].is_string());
    // Whoever asks for a start by hand gets none either.
    house.request("PUT", "/v1/agent/connect/restart/db-proxy", b"");
    until("it is refused again", || state()["State"] == "failed");
    assert!(house.proxies().iter().all(|(id, _)| id != "db-proxy"), "it is not started as root");
    assert_eq!(said("db-proxy: not starting it: running as root"), 1, "{}", house.log());
    assert_eq!(said("web-proxy: not starting it: running as root"), 1, "{}", house.log());
}

#[test]
fn w9_a_port_configured_later_is_the_port_in_catalog_check_and_socket() {
    let (house, _) = mesh(echo().port());
    let old = port_of(&house, "db-proxy");
    let port = ports::one();
    house.reconfigure(|config| {
        config["services"][0]["connect"]["proxy"] = json!({"config": {"bind_port": port}});
    });
    reload(&house);
    assert_eq!(port_of(&house, "db-proxy"), port);
    until("the proxy listens there", || holds_listener(house.proxy_pid("db-proxy"), port));
    until("and no longer where it did", || TcpStream::connect(("127.0.0.1", old)).is_err());
    house.wait_healthy("db");
    until("the check dials it", || check_output(&house, "db-proxy").contains(&format!(":{port}: Success")));
    let catalog = house.get("/v1/catalog/service/db-proxy").json();
    assert_eq!(catalog[0]["ServicePort"], port);
}

#[test]
fn w10_what_was_generated_for_a_service_goes_with_it_from_the_disk_too() {
    let (house, _) = mesh(echo().port());
    assert_eq!(files_in(&house, "proxies"), 2);
    let before = files_in(&house, "services");
    let folder = house.data_dir().join("proxy");
    let (pid, logs) =
        (house.proxy_pid("db-proxy"), ["stdout", "stderr"].map(|of| folder.join(format!("logs/db-proxy-{of}.log"))));
    let pid_file = folder.join("pids/db-proxy.pid");
    until("its pid file is there", || fs::read_to_string(&pid_file).is_ok_and(|text| text.trim() == pid.to_string()));
    let said = fs::read_to_string(&logs[0]).unwrap();
    assert!(said.contains("Consul Connect proxy starting"), "{said}");
    house.reconfigure(|config| {
        config["services"][0].as_object_mut().unwrap().remove("connect");
    });
    reload(&house);
    until("the generated service is gone from the catalog", || {
        house.get("/v1/catalog/services").json()["db-proxy"].is_null()
    });
    assert_eq!((files_in(&house, "proxies"), files_in(&house, "services")), (1, before - 1));
    assert!(services(&house)["db-proxy"].is_null() && !services(&house)["db"].is_null());
    assert!(house.get("/v1/health/connect/db").json().as_array().unwrap().is_empty());
    until("its process and its pid file are gone", || !is_running(pid) && !pid_file.exists());
    assert!(logs.iter().all(|log| log.exists()), "its logs stay");
    assert!(fs::read_to_string(&logs[0]).unwrap().starts_with(&said), "with all that it said");
}

#[test]
fn w11_a_port_that_somebody_else_has_is_not_allocated() {
    let (config, _) = two_services(echo().port());
    let mut house = House::build(LICTOR, config);
    let _foreign = TcpListener::bind(("127.0.0.1", house.first_proxy_port)).unwrap();
    house.start_agent();
    house.wait_ready();
    assert_eq!(port_of(&house, "db-proxy"), house.first_proxy_port + 1);
    house.wait_healthy("db");
}

#[test]
fn w11_an_allocated_port_that_is_taken_before_the_proxy_starts_is_exchanged_and_the_catalog_follows() {
    let (mut house, entry) = mesh(echo().port());
    let port = port_of(&house, "db-proxy");
    house.kill_agent();
    for (_, pid) in house.proxies() {
        send(pid, Signal::KILL);
    }
    until("all are dead", || house.proxies().is_empty());
    let _foreign = eventually("the port is free", || TcpListener::bind(("127.0.0.1", port)).ok());
    house.start_agent();
    house.wait_ready();
    until("another port is chosen", || port_of(&house, "db-proxy") != port);
    until("the catalog follows", || {
        house.get("/v1/catalog/service/db-proxy").json()[0]["ServicePort"] == port_of(&house, "db-proxy")
    });
    wait_path(&house, entry);
}

#[test]
fn w12_ports_are_given_out_in_order_and_kept() {
    let house = House::start(
        LICTOR,
        json!({"services": [
            {"name": "a", "port": 1, "connect": {"proxy": {}}}, {"name": "b", "port": 2, "connect": {"proxy": {}}}]}),
    );
    let first = house.first_proxy_port;
    assert_eq!((port_of(&house, "a-proxy"), port_of(&house, "b-proxy")), (first, first + 1));
    house.reconfigure(|config| {
        config["services"].as_array_mut().unwrap().insert(0, json!({"name": "0", "port": 3, "connect": {"proxy": {}}}));
    });
    reload(&house);
    let ports = ["a-proxy", "b-proxy", "0-proxy"].map(|id| port_of(&house, id));
    assert_eq!(ports, [first, first + 1, first + 2]);
}

#[test]
fn w13_a_leftover_or_broken_file_of_a_registration_keeps_no_agent_from_starting() {
    let (mut house, entry) = mesh(echo().port());
    house.put("/v1/agent/service/register", json!({"Name": "kept", "Port": 1}));
    house.end_agent(Signal::TERM);
    for folder in ["proxies", "services", "checks"] {
        let folder = house.data_dir().join(folder);
        fs::write(folder.join("x.tmp"), "{").unwrap();
        fs::write(folder.join("0123456789abcdef0123456789abcdef"), "no JSON").unwrap();
    }
    house.start_agent();
    house.wait_ready();
    wait_path(&house, entry);
    assert!(!services(&house)["kept"].is_null());
    let log = house.log();
    for folder in ["proxies", "services", "checks"] {
        let path = |name: &str| house.data_dir().join(folder).join(name);
        let (leftover, broken) = (path("x.tmp"), path("0123456789abcdef0123456789abcdef"));
        let aside = broken.with_extension("unreadable");
        assert!(log.contains(&format!("ignoring leftover file {}", leftover.display())), "{log}");
        assert!(log.contains(&format!("cannot read {}, left aside as {}", broken.display(), aside.display())), "{log}");
        assert!(!broken.exists() && fs::read_to_string(aside).unwrap() == "no JSON", "what was in it is not lost");
    }
}

#[test]
fn w14_without_a_data_directory_nothing_is_read_from_or_written_to_the_working_directory() {
    let (config, _) = two_services(echo().port());
    let mut house = House::build_dev(LICTOR, config);
    let planted = json!({"Token": "", "Service": {"ID": "planted", "Service": "planted", "Port": 1}}).to_string();
    for folder in ["services", "proxies"] {
        fs::create_dir(house.folder().join(folder)).unwrap();
        fs::write(house.folder().join(folder).join("0123456789abcdef0123456789abcdef"), &planted).unwrap();
    }
    house.start_agent();
    house.wait_ready();
    house.wait_healthy("db");
    assert!(services(&house)["planted"].is_null());
    let mut names: Vec<String> =
        fs::read_dir(house.folder()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["agent.json", "agent.log", "proxies", "services"]);
}

#[test]
fn w15_a_reload_without_a_data_directory_restarts_no_proxy_and_forgets_no_registration() {
    let (config, entry) = two_services(echo().port());
    let house = House::start_dev(LICTOR, config);
    wait_path(&house, entry);
    house.put("/v1/agent/service/register", json!({"Name": "kept", "Port": 1}));
    let mut before = house.proxies();
    reload(&house);
    let mut after = house.proxies();
    before.sort();
    after.sort();
    assert_eq!(before, after);
    assert!(!services(&house)["kept"].is_null());
    echo_once(entry).unwrap();
}

#[test]
fn w16_a_reload_with_a_mistake_changes_nothing_at_all() {
    let (house, entry) = mesh(echo().port());
    let (before, mut pids) = (services(&house), house.proxies());
    house.reconfigure(|config| {
        config["services"][1]["port"] = 9999.into();
        config["services"].as_array_mut().unwrap().insert(0, json!({"name": "new", "port": 1}));
        config["services"]
            .as_array_mut()
            .unwrap()
            .push(json!({"name": "bad", "port": 1, "connect": {"proxy": {"exec_mode": "bogus"}}}));
    });
    let answer = house.request("PUT", "/v1/agent/reload", b"");
    let text = answer.text();
    assert_eq!(answer.status, 500);
    assert!(text.starts_with("1 error(s) occurred:\n\n* Failed to reload configs\n\n"), "{text}");
    assert!(house.log().contains("invalid exec mode: bogus"), "{}", house.log());
    assert_eq!(services(&house), before);
    let mut now = house.proxies();
    pids.sort();
    now.sort();
    assert_eq!(now, pids);
    echo_once(entry).unwrap();
}

/// 1.7: a file that cannot be parsed is as good as one that says something wrong.
#[test]
fn a_reload_of_files_that_cannot_be_parsed_changes_nothing_at_all() {
    let (house, entry) = mesh(echo().port());
    let sorted = |mut pids: Vec<(String, u32)>| {
        pids.sort();
        pids
    };
    let (before, pids) = (services(&house), sorted(house.proxies()));
    let file = house.folder().join("agent.json");
    let whole = fs::read_to_string(&file).unwrap();
    // Half of a file, and one that only its last character makes wrong.
    for broken in [whole[..whole.len() / 2].to_owned(), format!("{whole}}}")] {
        fs::write(&file, broken).unwrap();
        let answer = house.request("PUT", "/v1/agent/reload", b"");
        let text = answer.text();
        assert_eq!(answer.status, 500, "{text}");
        assert!(text.starts_with("1 error(s) occurred:\n\n* Failed to reload configs\n\n"), "{text}");
        assert!(house.log().contains("agent.json"), "the log names the file: {}", house.log());
        assert_eq!(services(&house), before);
        assert_eq!(sorted(house.proxies()), pids);
        echo_once(entry).unwrap();
    }
    fs::write(&file, whole).unwrap();
    reload(&house);
    assert_eq!(sorted(house.proxies()), pids);
}

#[test]
fn w17_what_can_never_work_is_accepted_named_in_the_log_and_in_the_output_of_the_check() {
    let (entry, nameless) = (ports::one(), ports::one());
    let db = echo().port();
    let house = House::start(
        LICTOR,
        json!({"services": [
            {"name": "db", "port": db, "connect": {"proxy": {}}},
            {"name": "web", "port": 8080, "connect": {"proxy": {"upstreams": [
                {"destination_name": "db", "local_bind_port": entry},
                {"destination_name": "nowhere"},
                {"local_bind_port": nameless}]}}},
            {"name": "old", "port": 8081, "connect": {"proxy": {"exec_mode": "script"}}}]}),
    );
    wait_path(&house, entry);
    for (proxy, doubt) in [
        ("web-proxy", "service \"web\": connect.proxy.upstreams[1] has no local_bind_port and is skipped"),
        ("web-proxy", "service \"web\": connect.proxy.upstreams[2] has no destination_name and is skipped"),
        ("old-proxy", "service \"old\": connect.proxy.exec_mode = \"script\" is accepted and never runs anything"),
    ] {
        assert!(house.log().contains(doubt), "{doubt}: {}", house.log());
        until("the check says it, too", || check_output(&house, proxy).contains(doubt));
    }
    assert!(TcpStream::connect(("127.0.0.1", nameless)).is_err(), "what is skipped does not listen");
    assert!(!house.proxies().iter().any(|(id, _)| id == "old-proxy"));
}

/// A proxy without an application to send connections to is of use to the service that calls others.
#[test]
fn w17_a_proxy_without_an_application_serves_its_upstreams_and_says_what_it_lacks() {
    let (from_file, from_http, db) = (ports::one(), ports::one(), echo().port());
    let house = House::start(
        LICTOR,
        json!({"connect": {"enabled": true, "proxy": {"allow_managed_root": true, "allow_managed_api_registration": true}},
        "services": [
            {"name": "db", "port": db, "connect": {"proxy": {}}},
            {"name": "web", "port": 8080, "connect": {"proxy": {
                "config": {"local_service_address": "127.0.0.1"},
                "upstreams": [{"destination_name": "db", "local_bind_port": from_file}]}}}]}),
    );
    let body = json!({"Name": "job", "Connect": {"Proxy": {"Config": {"upstreams": [
        {"destination_name": "db", "local_bind_port": from_http}, {"destination_name": 7}]}}}});
    assert_eq!(house.put("/v1/agent/service/register", body).status, 200);
    for entry in [from_file, from_http] {
        wait_path(&house, entry);
    }
    for (proxy, doubt) in [
        (
            "web-proxy",
            "service \"web\": connect.proxy.config.local_service_address = \"127.0.0.1\" is no \"host:port\"",
        ),
        ("job-proxy", "service \"job\": connect.proxy without a port: the proxy has no application"),
        ("job-proxy", "service \"job\": connect.proxy.config.upstreams[1] cannot be read and is skipped"),
    ] {
        assert!(house.log().contains(doubt), "{doubt}: {}", house.log());
        until("the check says it, too", || check_output(&house, proxy).contains(doubt));
    }
    assert_eq!(house.get("/v1/agent/service/web-proxy").status, 200);
}

#[test]
fn w17_a_port_may_be_written_as_text_and_a_missing_program_is_named_and_started_when_it_is_there() {
    let (port, db) = (ports::one(), echo().port());
    let mut house = House::build(
        LICTOR,
        json!({"services": [{"name": "db", "port": db, "connect": {"proxy": {"config": {"bind_port": port.to_string()}}}}]}),
    );
    let program = house.folder().join("late");
    house.reconfigure(|config| {
        let own = json!({"name": "own", "port": 1, "connect": {"proxy": {"command": [program],
            "config": {"tcp_check_address": "127.0.0.2"}}}});
        config["services"].as_array_mut().unwrap().push(own);
    });
    house.start_agent();
    house.wait_ready();
    until("it listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    until("the check passes", || house.get("/v1/agent/checks").json()["service:db-proxy"]["Status"] == "passing");
    assert_eq!(house.get("/v1/agent/services").json()["db-proxy"]["Port"], port);
    assert_eq!(house.get("/v1/agent/connect/proxy/db-proxy").json()["Config"]["bind_port"], port);

    let missing =
        format!("service \"own\": connect.proxy.command: there is no program {:?}", program.display().to_string());
    assert!(house.log().contains(&missing), "{}", house.log());
    let here = "No such file or directory";
    until("the check says it, too", || check_output(&house, "own-proxy").contains(here));
    fs::write(&program, "#!/bin/sh\nexec sleep 1000\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    until("it runs", || house.proxies().iter().any(|(id, _)| id == "own-proxy"));
    until("the check no longer says it", || !check_output(&house, "own-proxy").contains(here));
}

#[test]
fn w18_the_content_hash_covers_all_that_the_proxy_is_told() {
    let (mut house, _) = mesh(echo().port());
    fn hash(house: &House) -> String {
        let shown = house.get("/v1/agent/connect/proxy/web-proxy").json();
        shown["ContentHash"].as_str().unwrap().to_owned()
    }
    let first = hash(&house);
    assert_eq!(first, hash(&house));
    house.reconfigure(|config| config["services"][1]["port"] = 8081.into());
    reload(&house);
    let other_application = hash(&house);
    assert_ne!(first, other_application, "the port of the service");
    let port = ports::one();
    house.reconfigure(|config| config["services"][1]["connect"]["proxy"]["config"] = json!({"bind_port": port}));
    reload(&house);
    let other_port = hash(&house);
    assert_ne!(other_application, other_port, "the port of the proxy");
    house.kill_agent();
    house.reconfigure(|config| {
        config["connect"]["proxy_defaults"] = json!({"config": {"local_connect_timeout_ms": 700}});
    });
    house.start_agent();
    house.wait_ready();
    assert_ne!(other_port, hash(&house), "the agent's defaults");
}

#[test]
fn w19_w24_a_proxy_that_cannot_listen_says_so_in_its_check_and_listens_when_it_can() {
    let (config, entry) = two_services(echo().port());
    let mut house = House::build(LICTOR, config);
    let port = ports::one();
    house.reconfigure(|config| config["services"][0]["connect"]["proxy"] = json!({"config": {"bind_port": port}}));
    let foreign = TcpListener::bind(("127.0.0.1", port)).unwrap();
    // A listener that accepts would make the check pass: it dials only.
    house.reconfigure(|config| {
        config["services"][0]["connect"]["proxy"]["config"]["tcp_check_address"] = "127.0.0.2".into();
    });
    house.start_agent();
    house.wait_ready();
    until("the check tells why", || {
        let output = check_output(&house, "db-proxy");
        output.contains("public cannot listen on") && output.contains("in use")
    });
    assert_eq!(port_of(&house, "db-proxy"), port, "a configured port is not exchanged");
    drop(foreign);
    until("the proxy listens", || holds_listener(house.proxy_pid("db-proxy"), port));
    house.reconfigure(|config| {
        config["services"][0]["connect"]["proxy"]["config"].as_object_mut().unwrap().remove("tcp_check_address");
    });
    reload(&house);
    wait_path(&house, entry);
}

#[test]
fn w20_a_registration_is_complete_without_its_proxy_or_sidecar_they_go() {
    let mut house = House::build(LICTOR, json!({}));
    let mut registration = managed(&house);
    registration["Connect"]["SidecarService"] = json!({});
    house.start_agent();
    house.wait_ready();
    house.put("/v1/agent/service/register", registration);
    let pid = house.proxy_pid("api-proxy");
    assert!(!services(&house)["api-sidecar-proxy"].is_null());
    house.put("/v1/agent/service/register", json!({"Name": "api", "Port": 9090}));
    until("the process is gone", || !is_running(pid));
    let all = services(&house);
    assert!(all["api-proxy"].is_null() && all["api-sidecar-proxy"].is_null() && !all["api"].is_null(), "{all}");
}

#[test]
fn w21_a_sidecar_goes_with_its_service_after_a_restart_too() {
    let mut house = House::start(LICTOR, json!({}));
    house.put("/v1/agent/service/register", json!({"Name": "api", "Port": 9090, "Connect": {"SidecarService": {}}}));
    let port = port_of(&house, "api-sidecar-proxy");
    house.end_agent(Signal::TERM);
    house.start_agent();
    house.wait_ready();
    assert_eq!(port_of(&house, "api-sidecar-proxy"), port);
    house.put("/v1/agent/service/deregister/api", Value::Null);
    assert_eq!(services(&house), json!({}));
}

#[test]
fn w22_a_service_that_bears_the_id_of_a_proxy_is_not_overwritten() {
    let mut house = House::build(LICTOR, json!({}));
    let registration = managed(&house);
    house.start_agent();
    house.wait_ready();
    house.put("/v1/agent/service/register", json!({"Name": "api-proxy", "Port": 7}));
    let answer = house.request("PUT", "/v1/agent/service/register", registration.to_string().as_bytes());
    assert_eq!(answer.status, 500);
    assert!(answer.text().contains("\"api-proxy\" is taken by a service registered under it"), "{}", answer.text());
    assert_eq!(port_of(&house, "api-proxy"), 7);
    assert!(services(&house)["api"].is_null(), "a refused registration leaves no trace");
}

#[test]
fn w29_w30_custom_commands_that_ignore_signals_and_fork_are_gone_together_within_the_grace() {
    let script = "trap '' INT TERM; sleep 1000 & while :; do sleep 1; done";
    let proxy = json!({"command": ["/bin/sh", "-c", script]});
    let services: Vec<Value> =
        ["a", "b"].iter().map(|name| json!({"name": name, "port": 1, "connect": {"proxy": proxy}})).collect();
    let house = House::start(LICTOR, json!({"services": services}));
    let pids = ["a-proxy", "b-proxy"].map(|id| house.proxy_pid(id));
    until("they have children", || pids.iter().all(|pid| !children(*pid).is_empty()));
    let family: Vec<u32> = pids.iter().flat_map(|pid| children(*pid)).chain(pids).collect();
    house.reconfigure(|config| config["services"] = json!([]));
    reload(&house);
    let begin = std::time::Instant::now();
    until("all of them are gone", || !family.iter().any(|pid| is_running(*pid)));
    assert!(begin.elapsed() < Duration::from_secs(9), "one after the other: {:?}", begin.elapsed());
}

fn children(pid: u32) -> Vec<u32> {
    let listed = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    listed.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

#[test]
fn w33_a_missing_program_is_tried_again_and_named_in_the_output_of_the_check() {
    let mut house = House::build(LICTOR, json!({}));
    let program = house.folder().join("my-proxy");
    house.reconfigure(|config| {
        config["services"] =
            json!([{"name": "web", "port": 1, "connect": {"proxy": {"command": [program.display().to_string()]}}}]);
    });
    house.start_agent();
    house.wait_ready();
    until("the check names it", || {
        let output = check_output(&house, "web-proxy");
        output.contains("my-proxy") && output.contains("No such file or directory")
    });
    fs::write(&program, "#!/bin/sh\nexec sleep 1000\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    house.proxy_pid("web-proxy");
}

#[test]
fn w37_a_new_address_or_time_limit_reaches_the_running_process() {
    let (house, entry) = mesh(echo().port());
    let pid = house.proxy_pid("db-proxy");
    house.reconfigure(|config| {
        config["services"][0]["connect"]["proxy"] = json!({"config": {"bind_address": "127.0.0.3"}});
    });
    let port = port_of(&house, "db-proxy");
    reload(&house);
    until("it listens at the new address", || TcpStream::connect(("127.0.0.3", port)).is_ok());
    until("and no longer at the old", || TcpStream::connect(("127.0.0.1", port)).is_err());
    until("the catalog has it", || {
        house.get("/v1/catalog/service/db-proxy").json()[0]["ServiceAddress"] == "127.0.0.3"
    });
    wait_path(&house, entry);
    assert_eq!(house.proxy_pid("db-proxy"), pid);
}

#[test]
fn w37_a_custom_command_is_started_again_for_other_settings_where_it_wants_that() {
    let upstreams = |port: u16| json!([{"destination_name": "db", "local_bind_port": port}]);
    let [first, second] = [ports::one(), ports::one()];
    let proxy = |wants: bool| {
        let config = json!({"disable_tcp_check": true, "restart_on_config_change": wants});
        json!({"command": ["/bin/sleep", "1000"], "config": config, "upstreams": upstreams(first)})
    };
    let services = json!([
        {"name": "wants", "port": 1, "connect": {"proxy": proxy(true)}},
        {"name": "asks", "port": 2, "connect": {"proxy": proxy(false)}},
    ]);
    let mut house = House::start(LICTOR, json!({"services": services}));
    let pids = ["wants-proxy", "asks-proxy"].map(|id| house.proxy_pid(id));
    let now = |house: &House| ["wants-proxy", "asks-proxy"].map(|id| house.proxy_pid(id));

    // Nothing new, whoever says it and whatever agent.
    reload(&house);
    house.kill_agent();
    house.start_agent();
    house.wait_ready();
    until("both are adopted", || house.log().matches(": adopted pid ").count() == 2);
    assert_eq!(now(&house), pids);

    house.reconfigure(|config| {
        for service in config["services"].as_array_mut().unwrap() {
            service["connect"]["proxy"]["upstreams"] = upstreams(second);
        }
    });
    reload(&house);
    until("it has ended", || !is_running(pids[0]));
    until("another one runs", || house.proxies().iter().any(|(id, pid)| id == "wants-proxy" && *pid != pids[0]));
    assert_eq!(now(&house)[1], pids[1], "the other asks for its settings by itself");
    assert!(house.log().contains("wants-proxy: its definition changed"), "{}", house.log());
}

#[test]
fn fact_6_no_secret_is_in_the_command_line_the_environment_of_the_built_in_proxy_or_any_log() {
    let (house, _) = mesh(echo().port());
    let mut seen = house.log();
    for (id, pid) in house.proxies() {
        for file in ["cmdline", "environ"] {
            seen += &String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/{file}")).unwrap());
        }
        for stream in ["stdout", "stderr"] {
            let log = house.data_dir().join(format!("proxy/logs/{id}-{stream}.log"));
            seen += &fs::read_to_string(log).unwrap_or_default();
        }
    }
    assert!(seen.contains("CONNECT_PROXY_ID=db-proxy"), "the test looks at the right place");
    assert!(!seen.contains("CONNECT_PROXY_TOKEN"), "the built-in proxy needs no secret");
    let socket = house.data_dir().join("proxy/agent.sock");
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    // Whoever is no proxy gets no answer there, whatever it shows.
    let mut stranger = std::os::unix::net::UnixStream::connect(socket).unwrap();
    let _ = std::io::Write::write_all(&mut stranger, b"GET /v1/agent/services HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut answer = Vec::new();
    let _ = std::io::Read::read_to_end(&mut stranger, &mut answer);
    assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
}

#[test]
fn an_agent_tells_systemd_that_it_is_ready_when_its_proxies_are() {
    let (config, entry) = two_services(echo().port());
    let mut house = House::build(LICTOR, config);
    let path = house.folder().join("systemd");
    let systemd = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    house.start_agent_with(&[("NOTIFY_SOCKET", path.to_str().unwrap())]);
    let mut message = [0; 64];
    let length = systemd.recv(&mut message).unwrap();
    assert_eq!(&message[..length], b"READY=1");
    for (id, port) in [("db-proxy", port_of(&house, "db-proxy")), ("web-proxy", entry)] {
        assert!(holds_listener(house.proxy_pid(id), port), "{id} is not ready");
    }
}
