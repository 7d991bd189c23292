//! Acceptance facts of managed proxies on real processes: what docs/facts.md promises and is not shown elsewhere.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up shall fail")]

mod common;

use std::fs;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{LICTOR, connect, echo, echo_once, exchange, holds_listener, mesh, serve, two_services, wait_path};
use lictor_testkit::house::{is_running, send};
use lictor_testkit::wait::Stalls;
use lictor_testkit::{House, eventually, http, ports, until};
use rustix::process::Signal;
use serde_json::{Value, json};

#[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
fn skipped(what: &str) {
    eprintln!("SKIPPED: {what}");
}

fn services(house: &House) -> Value {
    house.get("/v1/agent/services").json()
}

fn port_of(house: &House, id: &str) -> u16 {
    u16::try_from(services(house)[id]["Port"].as_u64().unwrap()).unwrap()
}

fn arguments(pid: u32) -> Vec<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

fn environment(pid: u32) -> Vec<String> {
    let text = fs::read(format!("/proc/{pid}/environ")).unwrap();
    text.split(|byte| *byte == 0).map(|entry| String::from_utf8_lossy(entry).into_owned()).collect()
}

fn variable(pid: u32, name: &str) -> Option<String> {
    let prefix = format!("{name}=");
    environment(pid).iter().find_map(|entry| entry.strip_prefix(&prefix).map(str::to_owned))
}

fn proxy_log(house: &House, id: &str) -> String {
    fs::read_to_string(house.data_dir().join("proxy/logs").join(format!("{id}-stdout.log"))).unwrap_or_default()
}

/// A process of this test, killed when it is dropped.
struct Running(Child);

impl Running {
    /// `lictor connect proxy` with these words, asking the agent at this port.
    fn proxy(http_port: u16, words: &[&str]) -> Running {
        let mut command = Command::new(LICTOR);
        command.args(["connect", "proxy"]).args(words);
        command.env("CONSUL_HTTP_ADDR", format!("127.0.0.1:{http_port}"));
        Running(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn status(&mut self) -> ExitStatus {
        eventually("the process ends", || self.0.try_wait().unwrap())
    }

    /// Its exit code and all that it printed.
    fn end(&mut self) -> (Option<i32>, String) {
        let status = self.status();
        let mut text = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        self.0.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        (status.code(), text)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A program that goes on until it is told to stop.
fn install(path: &Path, script: &str) {
    fs::write(path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// 3.10 and W17: the original never found a bare name.
#[test]
fn a_command_without_a_path_is_found_as_a_shell_would_and_shown_as_it_was_given() {
    let command = json!(["stand-in-proxy", "an argument"]);
    let services = json!({"services": [{"name": "web", "port": 1, "connect": {"proxy": {"command": command}}}]});
    let mut house = House::build(LICTOR, services);
    let folder = house.folder().join("programs");
    fs::create_dir(&folder).unwrap();
    install(&folder.join("stand-in-proxy"), "exec sleep 1000");
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    house.start_agent_with(&[("PATH", &path)]);
    house.wait_ready();
    let pid = house.proxy_pid("web-proxy");
    until("it runs", || arguments(pid).first().is_some_and(|word| word.ends_with("sleep")));
    assert_eq!(self::services(&house)["web"]["Connect"]["Proxy"]["Command"], command);
}

/// 4.3: an agent that is not root needs no leave to start proxies.
#[test]
fn an_agent_that_is_not_root_runs_its_proxies_without_being_allowed_to() {
    let (mut config, entry) = two_services(echo().port());
    config["connect"] = json!({"enabled": true, "proxy": {"allow_managed_root": false}});
    let mut house = House::build(LICTOR, config);
    if rustix::process::geteuid().is_root() {
        let Some(setpriv) = lictor_testkit::program::find("setpriv") else {
            return skipped("there is no setpriv, by which root could be somebody else");
        };
        let binary = house.folder().join("lictor");
        lictor_testkit::program::copy(LICTOR, &binary);
        fs::create_dir(house.data_dir()).unwrap();
        for path in [house.data_dir(), binary.clone()] {
            std::os::unix::fs::chown(path, Some(65534), Some(65534)).unwrap();
        }
        for path in [house.folder().to_owned(), house.folder().join("agent.json"), binary.clone()] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let wrapper = house.folder().join("as-nobody");
        let become_nobody = format!("exec {} --reuid=65534 --regid=65534 --clear-groups", setpriv.display());
        install(&wrapper, &format!("{become_nobody} {} \"$@\"", binary.display()));
        house.use_binary(&wrapper);
    }
    house.start_agent();
    house.wait_ready();
    wait_path(&house, entry);
    let owner = fs::read_to_string(format!("/proc/{}/status", house.proxy_pid("db-proxy"))).unwrap();
    let own = fs::read_to_string(format!("/proc/{}/status", house.agent_pid())).unwrap();
    let uid = |status: &str| status.lines().find(|line| line.starts_with("Uid:")).unwrap().to_owned();
    assert!(uid(&owner) == uid(&own) && !uid(&own).contains("\t0"), "{owner}");
}

/// 4.4, 9.3 and 9.4.
#[test]
fn a_managed_proxy_and_a_sidecar_stand_side_by_side_and_a_full_range_of_ports_registers_nothing() {
    let sidecar = ports::one();
    let house = House::start(
        LICTOR,
        json!({
            "ports": {"sidecar_min_port": sidecar, "sidecar_max_port": sidecar},
            "connect": {"enabled": true, "proxy": {"allow_managed_root": true, "allow_managed_api_registration": true}},
        }),
    );
    let check = json!({"Name": "mine", "TTL": "1h"});
    house.put(
        "/v1/agent/service/register",
        json!({"Name": "web", "Port": 1, "Connect": {"Proxy": {}, "SidecarService": {"Checks": [check]}}}),
    );
    let all = services(&house);
    let mut ids: Vec<&String> = all.as_object().unwrap().keys().filter(|id| *id != "consul").collect();
    ids.sort();
    assert_eq!(ids, ["web", "web-proxy", "web-sidecar-proxy"]);
    assert_eq!(all["web-sidecar-proxy"]["Port"], sidecar);
    assert_ne!(all["web-proxy"]["Port"], sidecar);
    let checks = house.get("/v1/agent/checks").json();
    let of_sidecar: Vec<&Value> =
        checks.as_object().unwrap().values().filter(|check| check["ServiceID"] == "web-sidecar-proxy").collect();
    assert_eq!(of_sidecar.len(), 1, "{of_sidecar:?}");
    assert_eq!(of_sidecar[0]["Name"], "mine");

    let body = json!({"Name": "late", "Port": 1, "Connect": {"SidecarService": {}}}).to_string();
    let refused = house.request("PUT", "/v1/agent/service/register", body.as_bytes());
    let range = format!("none left in the configured range [{sidecar}, {sidecar}]");
    assert!(refused.status == 500 && refused.text().contains(&range), "{} {}", refused.status, refused.text());
    assert!(services(&house)["late"].is_null() && services(&house)["late-sidecar-proxy"].is_null());
}

/// W11: nobody is given a port that its own application, or an upstream of its own, is going to have.
#[test]
fn a_proxy_and_a_sidecar_leave_the_ports_that_come_with_them_alone() {
    let (managed, sidecar) = (ports::block(3), ports::block(2));
    let house = House::start(
        LICTOR,
        json!({
            "ports": {
                "proxy_min_port": managed, "proxy_max_port": managed + 2,
                "sidecar_min_port": sidecar, "sidecar_max_port": sidecar + 1,
            },
            "connect": {"enabled": true, "proxy": {"allow_managed_root": true, "allow_managed_api_registration": true}},
        }),
    );
    let proxy = json!({"Upstreams": [{"DestinationName": "db", "LocalBindPort": managed + 1}]});
    house.put("/v1/agent/service/register", json!({"Name": "web", "Port": managed, "Connect": {"Proxy": proxy}}));
    assert_eq!(services(&house)["web-proxy"]["Port"], managed + 2);
    let beside = json!({"SidecarService": {}});
    house.put("/v1/agent/service/register", json!({"Name": "api", "Port": sidecar, "Connect": beside}));
    assert_eq!(services(&house)["api-sidecar-proxy"]["Port"], sidecar + 1);
}

/// 8.1, 8.2, 8.4 and W49: what a proxy's exit code says.
#[test]
fn a_proxy_tells_by_its_exit_code_how_it_came_to_its_end() {
    let alone = |words: &[&str]| Running::proxy(1, words).end();
    let (code, said) = alone(&[]);
    let wanted = "-service or -proxy-id must be specified so that proxy can configure itself.";
    assert!(code == Some(1) && said.contains(wanted), "{code:?} {said}");
    let (code, said) = alone(&["-service", "web", "-upstream", "db"]);
    assert!(code == Some(1) && said.contains("Upstream value should be name:addr in \"db\""), "{code:?} {said}");
    let (code, said) = alone(&["-service", "web", "-listen", "127.0.0.1:1"]);
    assert!(code == Some(1) && said.contains("-service-addr must be specified with -listen"), "{code:?} {said}");

    // Nobody answers at the agent's address: that alone ends no proxy, a signal does.
    let quiet = ports::one();
    for signal in [Signal::TERM, Signal::INT] {
        let upstream = format!("db:{}", ports::one());
        let mut proxy = Running::proxy(quiet, &["-service", "web", "-upstream", &upstream]);
        let port = upstream[3..].parse().unwrap();
        until("it listens for its application", || holds_listener(proxy.pid(), port));
        send(proxy.pid(), signal);
        assert_eq!(proxy.status().code(), Some(0), "{signal:?}");
    }
    let (code, said) = Running::proxy(quiet, &["-proxy-id", "web-proxy", "-agent-timeout", "1s"]).end();
    assert!(code == Some(3) && said.contains("the agent was not reached"), "{code:?} {said}");
    let (code, said) = Running::proxy(quiet, &["-sidecar-for", "web", "-agent-timeout", "1s"]).end();
    assert!(code == Some(3) && said.contains("the agent was not reached"), "{code:?} {said}");
    let (code, said) = Running::proxy(quiet, &["-sidecar-for", "web"]).end();
    assert!(code == Some(1) && said.contains("cannot ask the agent"), "{code:?} {said}");

    let house = House::start_dev(LICTOR, json!({}));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let words = ["-service", "web", "-service-addr", "127.0.0.1:1", "-listen", &listen, "-bind-timeout", "1s"];
    let (code, said) = Running::proxy(house.http_port, &words).end();
    assert!(code == Some(2) && said.contains("the public listener cannot be opened"), "{code:?} {said}");
    // Found in time, the port is as good as any.
    let mut proxy = Running::proxy(house.http_port, &[&words[..7], &["60s"]].concat());
    drop(taken);
    let port = listen.rsplit_once(':').unwrap().1.parse().unwrap();
    until("it listens", || holds_listener(proxy.pid(), port));
    send(proxy.pid(), Signal::TERM);
    assert_eq!(proxy.status().code(), Some(0));
}

/// The queue of the socket where processes report is short: hundreds that start together fill it, and what was turned away is
/// said again soon, not with the next reminder.
#[test]
fn a_proxy_whose_word_was_turned_away_says_it_again_soon() {
    // Longer than between two attempts, and all of them shorter than until the reminder.
    const WINDOW: Duration = Duration::from_secs(1);
    let house = House::start_dev(LICTOR, json!({}));
    let path = house.folder().join("supervisor");
    let supervisor = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    let others = std::os::unix::net::UnixDatagram::unbound().unwrap();
    others.set_nonblocking(true).unwrap();
    while others.send_to(b"X_OTHER=1", &path).is_ok() {}
    let (port, app) = (ports::one(), echo().to_string());
    let listen = format!("127.0.0.1:{port}");
    let mut command = Command::new(LICTOR);
    command.args(["connect", "proxy", "-service", "web", "-listen", &listen, "-service-addr", &app]);
    command.env("CONSUL_HTTP_ADDR", format!("127.0.0.1:{}", house.http_port)).env("NOTIFY_SOCKET", &path);
    let proxy = Running(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    until("it listens", || holds_listener(proxy.pid(), port));
    std::thread::sleep(WINDOW);
    // Room for one: its socket is kept, and there is none for what it says next.
    let mut message = [0; 8192];
    supervisor.recv(&mut message).unwrap();
    std::thread::sleep(WINDOW);
    let begin = Instant::now();
    supervisor.set_read_timeout(Some(3 * WINDOW)).unwrap();
    let mut said = Vec::new();
    while !said.iter().any(|text: &String| text.contains("READY=1")) {
        match supervisor.recv(&mut message) {
            Ok(length) => said.push(String::from_utf8_lossy(&message[..length]).into_owned()),
            Err(error) => panic!("{error} after {said:?}"),
        }
        assert!(begin.elapsed() < 3 * WINDOW, "{said:?}");
    }
    assert!(said.iter().any(|text| text.starts_with("FDSTORE=1")), "{said:?}");
}

/// 8.5: a proxy of plain flags registers itself, says that it is alive, and takes all of it back when it is interrupted.
#[test]
fn a_proxy_that_registers_itself_is_there_while_it_runs_and_gone_when_it_is_interrupted() {
    let house = House::start_dev(LICTOR, json!({}));
    let port = ports::one();
    let listen = format!("127.0.0.1:{port}");
    let app = echo().to_string();
    let words = ["-service", "cli", "-listen", &listen, "-service-addr", &app, "-register", "-register-id", "7"];
    let mut proxy = Running::proxy(house.http_port, &words);
    let check = || house.get("/v1/agent/checks").json()["cli-proxy-7-ttl"].clone();
    until("it says that it is alive", || check()["Status"] == "passing");
    let entry = services(&house)["cli-proxy-7"].clone();
    assert_eq!(
        (&entry["Service"], &entry["Kind"], &entry["Port"]),
        (&json!("cli-proxy"), &json!("connect-proxy"), &json!(port)),
        "{entry}"
    );
    assert_eq!(entry["Proxy"]["DestinationServiceName"], "cli", "{entry}");
    assert_eq!(check()["ServiceID"], "cli-proxy-7");
    until("the mesh has it", || {
        house.get("/v1/health/connect/cli?passing").json().as_array().is_some_and(|all| all.len() == 1)
    });
    send(proxy.pid(), Signal::INT);
    assert_eq!(proxy.status().code(), Some(0));
    // What it took back it took back before it ended.
    assert!(services(&house)["cli-proxy-7"].is_null() && check().is_null());
    until("the mesh has it no longer", || {
        house.get("/v1/health/connect/cli").json().as_array().is_some_and(Vec::is_empty)
    });
}

/// 5.8 and 3.9: another command is another process at the same port, and a restart of the agent keeps port and token. The
/// other process has a token of its own, as each start has: see `the_token_of_a_custom_program_is_never_on_disk`.
#[test]
fn another_command_is_another_process_with_the_same_port_which_restarts_of_the_agent_keep_with_the_token() {
    let command = |seconds: &str| json!({"command": ["/bin/sleep", seconds]});
    let mut house = House::start(
        LICTOR,
        json!({"services": [
            {"name": "first", "port": 1, "connect": {"proxy": {"command": ["/bin/sleep", "1"]}}},
            {"name": "web", "port": 1, "connect": {"proxy": command("1000")}}]}),
    );
    let token = |house: &House| variable(house.proxy_pid("web-proxy"), "CONNECT_PROXY_TOKEN").unwrap();
    let (pid, port, former) = (house.proxy_pid("web-proxy"), port_of(&house, "web-proxy"), token(&house));
    // The lowest free port is another one now, so that it would not be the same by chance.
    house.reconfigure(|config| {
        config["services"] = json!([{"name": "web", "port": 1, "connect": {"proxy": command("1001")}}])
    });
    house.put("/v1/agent/reload", Value::Null);
    until("another process runs", || {
        !is_running(pid) && house.proxies().iter().any(|(id, new)| id == "web-proxy" && *new != pid)
    });
    let pid = house.proxy_pid("web-proxy");
    until("it is that program", || arguments(pid).get(1).is_some_and(|word| word == "1001"));
    assert_eq!(port_of(&house, "web-proxy"), port);
    let secret = token(&house);
    assert_ne!(secret, former, "each start has its own");
    for signal in [Signal::TERM, Signal::KILL] {
        house.end_agent(signal);
        house.start_agent();
        house.wait_ready();
        assert_eq!((port_of(&house, "web-proxy"), token(&house)), (port, secret.clone()), "{signal:?}");
        assert_eq!(house.proxy_pid("web-proxy"), pid);
    }
}

/// 10.6: an application that is down costs one line for each connection, and none for the agent's look at the proxy.
#[test]
fn an_application_that_is_down_is_logged_once_for_each_connection_and_not_for_health_checks() {
    const CONNECTIONS: usize = 5;
    let port = ports::one();
    let (config, entry) = two_services(port);
    let house = House::start(LICTOR, config);
    house.wait_healthy("db");
    let public = port_of(&house, "db-proxy");
    let lines = || {
        let of_app = format!("failed to dial local service at 127.0.0.1:{port}: ");
        proxy_log(&house, "db-proxy").matches(&of_app).count()
    };
    // The check of the proxy has passed already, and this is what it does.
    for _ in 0..20 {
        drop(TcpStream::connect(("127.0.0.1", public)).unwrap());
    }
    let closed = || {
        let mut connection = connect(entry).ok()?;
        let _ = std::io::Write::write_all(&mut connection, b"ping\n");
        Some(connection.read(&mut [0]))
    };
    until("a connection comes so far", || {
        let _ = closed();
        // A line may come a little later than its client sees the end, and must not be counted for the next one.
        let patience = Instant::now() + Duration::from_secs(2);
        while lines() == 0 && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(5));
        }
        lines() > 0
    });
    let before = lines();
    for number in 1..=CONNECTIONS {
        let ended = closed();
        assert!(!matches!(ended, Some(Ok(1..))), "{ended:?}");
        until("its line is there", || lines() >= before + number);
    }
    assert_eq!(lines(), before + CONNECTIONS, "{}", proxy_log(&house, "db-proxy"));
}

/// 8.6: there is no profiling server, which the flag's text says and the proxy itself, too.
#[test]
fn the_flag_for_a_profiling_server_is_accepted_and_said_to_have_no_effect() {
    let help = Command::new(LICTOR).args(["connect", "proxy", "-h"]).output().unwrap();
    let help = format!("{}{}", String::from_utf8_lossy(&help.stdout), String::from_utf8_lossy(&help.stderr));
    assert!(help.contains("there is no profiling server"), "{help}");
    let (port, upstream) = (ports::one(), ports::one());
    let address = format!("127.0.0.1:{port}");
    let db = format!("db:{upstream}");
    let words = ["-service", "web", "-upstream", &db, "-pprof-addr", &address];
    let mut proxy = Running::proxy(ports::one(), &words);
    until("it runs as without it", || holds_listener(proxy.pid(), upstream));
    assert!(!holds_listener(proxy.pid(), port));
    send(proxy.pid(), Signal::TERM);
    let (code, said) = proxy.end();
    assert!(code == Some(0) && said.contains("-pprof-addr: there is no profiling server"), "{code:?} {said}");
}

/// 3.2 and 11.1: the level is passed on as it was written.
#[test]
fn proxies_log_at_the_level_of_their_agent_as_the_operator_wrote_it() {
    for (level, wanted) in [("warn", &["-log-level", "warn"][..]), ("DEBUG", &["-log-level", "DEBUG"]), ("INFO", &[])] {
        let services = json!({"services": [{"name": "web", "port": 1, "connect": {"proxy": {}}}], "log_level": level});
        let house = House::start(LICTOR, services);
        let pid = house.proxy_pid("web-proxy");
        until("it runs", || arguments(pid).len() > 2);
        let words = arguments(pid);
        assert_eq!(words[1..words.len() - 1], [&["connect", "proxy"], wanted].concat(), "{words:?}");
    }
}

/// A service `silent` whose instance accepts connections and never says a word, and `web` with an upstream to it.
fn stalled(limit: Option<u64>) -> (House, u16, TcpListener) {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let entry = ports::one();
    let mut upstream = json!({"destination_name": "silent", "local_bind_port": entry});
    if let Some(limit) = limit {
        upstream["config"] = json!({"connect_timeout_ms": limit});
    }
    let house = House::start(
        LICTOR,
        json!({"services": [
            {"name": "silent-sidecar", "kind": "connect-proxy", "address": "127.0.0.1",
                "port": silent.local_addr().unwrap().port(), "proxy": {"destination_service_name": "silent"}},
            {"name": "web", "port": 8080, "connect": {"proxy": {"upstreams": [upstream]}}},
        ]}),
    );
    (house, entry, silent)
}

/// 10.3, 12.16 and W41: a limit that comes from the agent counts.
#[test]
fn an_upstream_that_says_nothing_is_given_up_after_the_time_that_the_agent_says() {
    let (house, entry, silent) = stalled(Some(300));
    // Discovery and certificates are there when the first connection reaches the instance.
    let reached = std::thread::spawn(move || {
        let first = silent.accept().unwrap();
        (silent, first)
    });
    until("the instance is dialled", || {
        drop(connect(entry).and_then(|mut connection| connection.read(&mut [0]).map(drop)));
        reached.is_finished()
    });
    let (_silent, _first) = reached.join().unwrap();
    for _ in 0..3 {
        let (stalls, begin) = (Stalls::watch(), Instant::now());
        let mut connection = connect(entry).unwrap();
        // Closed or reset, but not by our own limit.
        let ended = connection.read(&mut [0]);
        let (took, stall) = (begin.elapsed(), stalls.longest());
        assert!(!matches!(&ended, Ok(1..)), "{ended:?}");
        // 0.3 s and a tenth more or less, and what the machine takes.
        let (least, most) = (Duration::from_millis(200), Duration::from_millis(400) + 5 * stall);
        assert!(took >= least && took < most, "{took:?}, longest stall {stall:?}: {ended:?}");
    }
    let log = proxy_log(&house, "web-proxy");
    assert!(log.contains("no answer in time"), "{log}");
}

/// 10.1: a limit of the service's own settings is shown as it is, and bounds the dial to the application.
#[test]
fn an_application_that_accepts_nothing_is_given_up_after_the_time_of_the_settings() {
    // A listener whose queue is full: the kernel answers no further connection.
    let full = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = full.local_addr().unwrap();
    let port = address.port();
    let mut fillers = Vec::new();
    while let Ok(filler) = TcpStream::connect_timeout(&address, Duration::from_millis(500)) {
        fillers.push(filler);
        assert!(fillers.len() < 8192, "the queue does not fill up");
    }
    let (mut config, entry) = two_services(port);
    config["services"][0]["connect"]["proxy"]["config"] = json!({"local_connect_timeout_ms": 500});
    let house = House::start(LICTOR, config);
    let shown = house.get("/v1/agent/connect/proxy/db-proxy").json();
    assert_eq!(shown["Config"]["local_connect_timeout_ms"], 500);
    house.wait_healthy("db");
    let gave_up = || proxy_log(&house, "db-proxy").matches("failed to dial local service").count();
    until("the path is there", || {
        drop(connect(entry).and_then(|mut connection| connection.read(&mut [0])));
        gave_up() > 0
    });
    let (before, begin) = (gave_up(), Instant::now());
    let mut connection = connect(entry).unwrap();
    let _ = connection.read(&mut [0]);
    let took = begin.elapsed();
    assert!(took >= Duration::from_millis(490) && took < Duration::from_secs(4), "{took:?}");
    until("it is said", || gave_up() > before);
    assert!(proxy_log(&house, "db-proxy").contains("timed out"), "{}", proxy_log(&house, "db-proxy"));
}

/// W4: what the operator's shell holds sends no proxy to another agent.
#[test]
fn generated_variables_win_over_those_of_the_agent_and_of_the_settings() {
    let services = json!({
        "services": [{"name": "web", "port": 1, "connect": {"proxy": {"command": ["/bin/sleep", "1000"]}}}],
        "connect": {"proxy_defaults": {
            "pass_env": ["CONSUL_HTTP_ADDR", "CONSUL_HTTP_TOKEN", "CONNECT_PROXY_ID", "OPERATORS"],
            "env": {"CONSUL_HTTP_SSL": "true", "CONNECT_PROXY_TOKEN": "made up", "EXTRA": "1"}}},
    });
    let mut house = House::build(LICTOR, services);
    house.start_agent_with(&[
        ("CONSUL_HTTP_ADDR", "192.0.2.1:8500"),
        ("CONSUL_HTTP_TOKEN", "of the operator"),
        ("CONNECT_PROXY_ID", "another"),
        ("OPERATORS", "own"),
    ]);
    house.wait_ready();
    let pid = house.proxy_pid("web-proxy");
    let address = format!("127.0.0.1:{}", house.http_port);
    for (name, value) in [
        ("CONSUL_HTTP_ADDR", address.as_str()),
        ("CONSUL_HTTP_TOKEN", ""),
        ("CONSUL_HTTP_SSL", ""),
        ("CONNECT_PROXY_ID", "web-proxy"),
        ("OPERATORS", "own"),
        ("EXTRA", "1"),
    ] {
        assert_eq!(variable(pid, name).as_deref(), Some(value), "{name}");
    }
    let token = variable(pid, "CONNECT_PROXY_TOKEN").unwrap();
    assert!(token.len() == 36 && token != "made up", "{token}");
    let times = environment(pid).iter().filter(|entry| entry.starts_with("CONSUL_HTTP_ADDR=")).count();
    assert_eq!(times, 1, "it is there once");
}

/// W5: a restart by an operator gives a program another token; the former one is good for a little longer.
#[test]
fn a_restart_renews_the_token_of_a_custom_program_and_an_agents_own_restart_does_not() {
    let services = json!({
        "services": [{"name": "web", "port": 1, "connect": {"proxy": {"command": ["/bin/sleep", "1000"]}}}],
        "acl": {"enabled": true, "default_policy": "deny", "tokens": {"master": "root-of-all"}},
    });
    let mut house = House::start(LICTOR, services);
    let token_of = |house: &House| variable(house.proxy_pid("web-proxy"), "CONNECT_PROXY_TOKEN").unwrap();
    let request = |house: &House, token: &str, method: &str, path: &str| {
        let headers = [("X-Consul-Token", token)];
        http::request(house.http_port, method, path, &headers, b"", Duration::from_secs(30)).unwrap().status
    };
    let ask = |house: &House, token: &str| request(house, token, "GET", "/v1/agent/connect/proxy/web-proxy");
    let restart =
        |house: &House| assert_eq!(request(house, "root-of-all", "PUT", "/v1/agent/connect/restart/web"), 200);
    let (first, pid) = (token_of(&house), house.proxy_pid("web-proxy"));
    assert_eq!(ask(&house, &first), 200);
    restart(&house);
    until("the former process is gone", || !is_running(pid));
    let second = token_of(&house);
    assert_ne!(second, first);
    assert_eq!((ask(&house, &second), ask(&house, &first)), (200, 200), "both are good for a while");
    assert_eq!(ask(&house, "made up"), 403);

    let pid = house.proxy_pid("web-proxy");
    house.kill_agent();
    house.start_agent();
    house.wait_ready();
    assert_eq!((token_of(&house), house.proxy_pid("web-proxy")), (second.clone(), pid), "it was kept on disk");
    until("the proxy is known again", || ask(&house, &second) == 200);
    assert_eq!(ask(&house, &first), 403, "the overlap ends with the agent at the latest");
    assert!(!house.log().contains(&first) && !house.log().contains(&second));
}

/// Every file below a folder that holds a text.
fn files_with(folder: &Path, text: &str) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_dir() {
            found.extend(files_with(&path, text));
        } else if kind.is_file() && fs::read(&path).unwrap().windows(text.len()).any(|window| window == text.as_bytes())
        {
            found.push(path);
        }
    }
    found
}

/// W2 and W5: a program's token is in its environment and nowhere else; each start of it has its own, and an agent that was
/// started anew knows the token of what still runs.
#[test]
fn the_token_of_a_custom_program_is_never_on_disk_and_each_start_has_its_own() {
    let services = json!({
        "services": [{"name": "web", "port": 1, "connect": {"proxy": {"command": ["/bin/sleep", "1000"]}}}],
        "acl": {"enabled": true, "default_policy": "deny", "tokens": {"master": "root-of-all"}},
    });
    let mut house = House::start(LICTOR, services);
    let token_of = |house: &House| variable(house.proxy_pid("web-proxy"), "CONNECT_PROXY_TOKEN").unwrap();
    let ask = |house: &House, token: &str| {
        let (path, headers) = ("/v1/agent/connect/proxy/web-proxy", [("X-Consul-Token", token)]);
        http::request(house.http_port, "GET", path, &headers, b"", Duration::from_secs(30)).unwrap().status
    };
    let nowhere = |house: &House, token: &str| {
        assert_eq!(files_with(&house.data_dir(), token), Vec::<std::path::PathBuf>::new());
        assert!(!house.log().contains(token), "it is in the log");
    };
    assert!(!files_with(&house.data_dir(), "web-proxy").is_empty(), "the test looks at the right place");
    let (first, pid) = (token_of(&house), house.proxy_pid("web-proxy"));
    assert_eq!(ask(&house, &first), 200);
    nowhere(&house, &first);

    house.kill_agent();
    house.start_agent();
    house.wait_ready();
    until("the proxy is known again", || ask(&house, &first) == 200);
    assert_eq!((house.proxy_pid("web-proxy"), token_of(&house)), (pid, first.clone()), "it goes on");
    nowhere(&house, &first);

    // It ends under an agent that has never seen its token: the next start has another.
    send(pid, Signal::KILL);
    until("another one runs", || house.proxies().iter().any(|(_, other)| *other != pid));
    let second = token_of(&house);
    assert_ne!(second, first);
    assert_eq!((ask(&house, &second), ask(&house, &first)), (200, 200), "the former one ends a little later");
    nowhere(&house, &second);

    // One that is registered anew is another proxy, even when nobody has seen that it was gone.
    let (pid, definition) = (house.proxy_pid("web-proxy"), fs::read(house.folder().join("agent.json")).unwrap());
    house.reconfigure(|config| config["services"] = json!([]));
    let reload = |house: &House| {
        let headers = [("X-Consul-Token", "root-of-all")];
        let path = "/v1/agent/reload";
        assert_eq!(
            http::request(house.http_port, "PUT", path, &headers, b"", Duration::from_secs(30)).unwrap().status,
            200
        );
    };
    reload(&house);
    fs::write(house.folder().join("agent.json"), definition).unwrap();
    reload(&house);
    until("another one runs", || house.proxies().iter().any(|(_, other)| *other != pid) && !is_running(pid));
    let third = token_of(&house);
    assert_eq!((ask(&house, &third), ask(&house, &second)), (200, 403));
    nowhere(&house, &third);

    // What an earlier version, or the original, has kept is taken in, and is not there any longer.
    let mut dead = house;
    dead.kill_agent();
    let file = files_with(&dead.data_dir().join("proxies"), "web-proxy").remove(0);
    let mut record: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    record.as_object_mut().unwrap().remove("Lictor");
    record["ProxyToken"] = "kept-as-it-was".into();
    fs::write(&file, record.to_string()).unwrap();
    dead.start_agent();
    dead.wait_ready();
    until("the file is brought up to date", || files_with(&dead.data_dir(), "kept-as-it-was").is_empty());
}

/// 4.7, 7.3 and 7.5: a change of settings reaches whoever waits for it and leaves process, port and token alone.
#[test]
fn a_change_of_settings_is_told_at_once_and_telemetry_to_the_proxy_alone() {
    let house = House::start(
        LICTOR,
        json!({"connect": {"enabled": true, "proxy":
            {"allow_managed_root": true, "allow_managed_api_registration": true}}}),
    );
    let register = |upstreams: Value| {
        let proxy = json!({"Command": ["/bin/sleep", "1000"], "Upstreams": upstreams,
            "Config": {"telemetry": {"statsd_address": "127.0.0.1:9"}}});
        house.put("/v1/agent/service/register", json!({"Name": "web", "Port": 1, "Connect": {"Proxy": proxy}}));
    };
    register(json!([]));
    let (pid, port) = (house.proxy_pid("web-proxy"), port_of(&house, "web-proxy"));
    let token = variable(pid, "CONNECT_PROXY_TOKEN").unwrap();
    let path = "/v1/agent/connect/proxy/web-proxy";
    let plain = house.get(path).json();
    assert_eq!(plain["Config"]["telemetry"], json!({"statsd_address": "127.0.0.1:9"}), "as it was given");
    let own = house.get(&format!("{path}?token={token}")).json();
    let telemetry = &own["Config"]["telemetry"];
    assert_eq!(
        (&telemetry["statsd_address"], &telemetry["metrics_prefix"]),
        (&json!("127.0.0.1:9"), &json!("consul.proxy.web"))
    );
    assert_eq!(telemetry["filter_default"], true);

    let waiting = format!("{path}?hash={}&wait=60s", plain["ContentHash"].as_str().unwrap());
    let told = std::thread::scope(|scope| {
        let reading = scope.spawn(|| (house.get(&waiting).json(), Instant::now()));
        // It waits: an answer now would be a mistake.
        let patience = Instant::now() + Duration::from_millis(300);
        while Instant::now() < patience {
            assert!(!reading.is_finished());
            std::thread::sleep(Duration::from_millis(10));
        }
        let stalls = Stalls::watch();
        register(json!([{"DestinationName": "db", "LocalBindPort": 4}]));
        // The change is there when it is acknowledged, or a little earlier.
        let changed = Instant::now();
        let (told, at) = reading.join().unwrap();
        let (took, stall) = (at.saturating_duration_since(changed), stalls.longest());
        assert!(took < Duration::from_millis(100) + 5 * stall, "told after {took:?}, longest stall {stall:?}");
        told
    });
    assert_eq!(told["Upstreams"][0]["DestinationName"], "db");
    assert_ne!(told["ContentHash"], plain["ContentHash"]);
    assert_eq!((house.proxy_pid("web-proxy"), port_of(&house, "web-proxy")), (pid, port));
    assert!(house.get(&format!("{path}?token={token}")).json()["Config"]["telemetry"]["metrics_prefix"].is_string());
}

/// 8.3: the id of the environment is as good as the flag.
#[test]
fn the_environment_alone_names_the_proxy_to_be() {
    let mut command = Command::new(LICTOR);
    command.args(["connect", "proxy", "-agent-timeout", "1s"]);
    command.env("CONNECT_PROXY_ID", "other-proxy").env("CONSUL_HTTP_ADDR", format!("127.0.0.1:{}", ports::one()));
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (code, said) = Running(child).end();
    assert!(said.contains("Configuration mode: Agent API") && said.contains("Proxy ID: other-proxy"), "{said}");
    assert_eq!(code, Some(3), "{said}");
}

/// W24: a proxy that cannot listen for as long as its settings allow makes way for the supervisor.
#[test]
fn a_proxy_that_may_not_wait_for_its_port_for_ever_exits_and_supervision_acts() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let house = House::start(
        LICTOR,
        json!({"services": [{"name": "web", "port": 1,
            "connect": {"proxy": {"config": {"bind_port": port, "bind_timeout_ms": 300}}}}]}),
    );
    let first = house.proxy_pid("web-proxy");
    until("it has given up", || !is_running(first));
    until("that is said", || house.log().contains("exited with code 2"));
    drop(taken);
    until("its successor listens", || {
        house.proxies().iter().any(|(id, pid)| id == "web-proxy" && holds_listener(*pid, port))
    });
}

/// W35: proxies end with their agent where that is wanted, however it ends, and those of before are taken along.
#[test]
fn proxies_end_with_their_agent_where_that_is_wanted() {
    let (mut house, entry) = mesh(echo().port());
    let before = ["db-proxy", "web-proxy"].map(|id| house.proxy_pid(id));
    let running = || before.iter().filter(|pid| is_running(**pid)).count();
    house.end_agent(Signal::TERM);
    assert_eq!(running(), 2, "that is how it is without the setting");
    house.reconfigure(|config| config["connect"]["proxy_defaults"] = json!({"kill_on_agent_exit": true}));
    house.start_agent();
    house.wait_ready();
    until("what would outlive the agent is replaced", || running() == 0);
    wait_path(&house, entry);
    until("each runs once", || house.proxies().len() == 2);
    house.kill_agent();
    until("nothing is left when it is killed", || house.proxies().is_empty());
    house.start_agent();
    house.wait_ready();
    wait_path(&house, entry);
    house.end_agent(Signal::TERM);
    until("nor when it ends", || house.proxies().is_empty());
}

/// W35: a proxy whose agent does not come back ends by itself, where that is wanted.
#[test]
fn a_proxy_without_its_agent_ends_when_its_lease_is_over_and_not_before() {
    let (mut config, entry) = two_services(echo().port());
    config["connect"] =
        json!({"enabled": true, "proxy": {"allow_managed_root": true}, "proxy_defaults": {"agent_lease": "15s"}});
    let mut house = House::start(LICTOR, config);
    wait_path(&house, entry);
    let pids = ["db-proxy", "web-proxy"].map(|id| house.proxy_pid(id));
    // A restart of the agent is not the end of the lease.
    house.kill_agent();
    echo_once(entry).unwrap();
    house.start_agent();
    house.wait_ready();
    echo_once(entry).unwrap();
    until("the agent is heard again", || proxy_log(&house, "db-proxy").contains("works again"));
    assert_eq!(["db-proxy", "web-proxy"].map(|id| house.proxy_pid(id)), pids);
    house.kill_agent();
    echo_once(entry).unwrap();
    until("both have ended", || !pids.iter().any(|pid| is_running(*pid)));
    assert!(proxy_log(&house, "db-proxy").contains("giving up: the agent was not reached"));
}

/// W38: however often an agent is restarted, roots are whole and leaves are signed.
#[test]
fn after_a_restart_of_the_agent_roots_have_their_trust_domain_and_leaves_are_signed() {
    let mut house = House::start(LICTOR, json!({"services": [{"name": "web", "port": 1}]}));
    let domain = eventually("there is a CA", || {
        house.get("/v1/connect/ca/roots").json()["TrustDomain"]
            .as_str()
            .filter(|domain| !domain.is_empty())
            .map(str::to_owned)
    });
    for _ in 0..5 {
        house.kill_agent();
        house.start_agent();
        // As early as anybody can ask.
        let leaf = eventually("a leaf", || {
            for path in ["/v1/agent/connect/ca/roots", "/v1/connect/ca/roots"] {
                let Ok(answer) = house.try_request("GET", path, b"") else { continue };
                // Roots that are not there yet are an error or nothing, never a part.
                let roots = answer.json();
                let any = answer.status == 200 && roots["Roots"].as_array().is_some_and(|roots| !roots.is_empty());
                assert!(!any || roots["TrustDomain"] == domain.as_str(), "{path}: {roots}");
            }
            let answer = house.try_request("GET", "/v1/agent/connect/ca/leaf/web", b"").ok()?;
            (answer.status == 200).then(|| answer.json())
        });
        assert!(leaf["ServiceURI"].as_str().unwrap().contains(&domain), "{leaf}");
    }
}

/// W46: looking whether a proxy listens is no connection of its application, and no line in its log.
#[test]
fn looking_at_the_port_of_a_proxy_reaches_no_application_and_writes_no_line() {
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&seen);
    let app = serve("127.0.0.1:0", move |mut connection| {
        counter.fetch_add(1, Ordering::Relaxed);
        let mut byte = [0];
        while let Ok(1) = connection.read(&mut byte) {
            if std::io::Write::write_all(&mut connection, &byte).is_err() {
                return;
            }
        }
    });
    let (house, entry) = mesh(app.port());
    let mut held = connect(entry).unwrap();
    exchange(&mut held).unwrap();
    let (port, before) = (port_of(&house, "db-proxy"), seen.load(Ordering::Relaxed));
    for _ in 0..50 {
        drop(TcpStream::connect(("127.0.0.1", port)).unwrap());
    }
    // A connection made after the looks has been served after them.
    let mut last = connect(entry).unwrap();
    exchange(&mut last).unwrap();
    exchange(&mut held).unwrap();
    let after = seen.load(Ordering::Relaxed);
    assert_eq!(after, before + 1);
    let log = proxy_log(&house, "db-proxy");
    let complaints: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("[ERR]") || line.contains("[WARN]"))
        .filter(|line| !line.contains("watch of"))
        .collect();
    assert!(complaints.is_empty(), "{complaints:?}");
}

fn open_files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// W50: to compare definitions costs no descriptor.
#[test]
fn reloads_open_no_files_for_proxies_that_go_on() {
    let (house, entry) = mesh(echo().port());
    let pids = ["db-proxy", "web-proxy"].map(|id| house.proxy_pid(id));
    let reload = || house.put("/v1/agent/reload", Value::Null);
    reload();
    let logs = |pid: u32| {
        let links = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
        links
            .filter_map(|fd| fs::read_link(fd.path()).ok())
            .filter(|path| path.to_string_lossy().contains("-std"))
            .count()
    };
    let before = open_files(house.agent_pid());
    for _ in 0..30 {
        reload();
    }
    assert_eq!(logs(house.agent_pid()), 0, "the agent itself holds no log of a proxy");
    // Connections of clients and checks come and go.
    until("no more files are open than before", || open_files(house.agent_pid()) <= before + 4);
    assert_eq!(["db-proxy", "web-proxy"].map(|id| house.proxy_pid(id)), pids);
    echo_once(entry).unwrap();
}

/// W51: how a proxy is started is for those who may change it, and secrets are for nobody.
#[test]
fn commands_and_settings_of_proxies_are_shown_to_those_who_may_write_and_secrets_to_nobody() {
    let proxy = json!({"command": ["/bin/sleep", "1000"], "config": {"db_password": "sesame", "bind_port": ports::one()},
        "upstreams": [{"destination_name": "db", "local_bind_port": ports::one()}]});
    let house = House::start(
        LICTOR,
        json!({
            "services": [{"name": "web", "port": 1, "connect": {"proxy": proxy}}],
            "acl": {"enabled": true, "default_policy": "deny", "tokens": {"master": "root-of-all"}},
        }),
    );
    let with = |token: &str, method: &str, path: &str, body: Value| {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let headers = [("X-Consul-Token", token)];
        let answer = http::request(house.http_port, method, path, &headers, body.as_bytes(), Duration::from_secs(30));
        let answer = answer.unwrap();
        assert_eq!(answer.status, 200, "{method} {path}: {}", answer.text());
        answer.json()
    };
    let token = |right: &str| {
        let name = format!("web-{right}");
        let rules = format!("service_prefix \"\" {{ policy = \"{right}\" }}");
        with("root-of-all", "PUT", "/v1/acl/policy", json!({"Name": name, "Rules": rules}));
        let made = with("root-of-all", "PUT", "/v1/acl/token", json!({"Policies": [{"Name": name}]}));
        made["SecretID"].as_str().unwrap().to_owned()
    };
    let shown = |token: &str| with(token, "GET", "/v1/agent/services", Value::Null)["web"]["Connect"]["Proxy"].clone();
    let reader = shown(&token("read"));
    assert!(reader["Command"] == json!([]) && reader["Config"].is_null(), "{reader}");
    assert_eq!(reader["Upstreams"][0]["DestinationName"], "db", "whom it reaches is no secret");
    let writer = shown(&token("write"));
    assert_eq!((&writer["Command"][0], &writer["Config"]["db_password"]), (&json!("/bin/sleep"), &json!("hidden")));
    assert_eq!(writer["Config"]["bind_port"], proxy["config"]["bind_port"]);
    let health = house.get("/v1/agent/health/service/id/web");
    assert!(!health.text().contains("sesame") && !health.text().contains("/bin/sleep"), "{}", health.text());
    // The proxy itself is told.
    let own = variable(house.proxy_pid("web-proxy"), "CONNECT_PROXY_TOKEN").unwrap();
    let told = with(&own, "GET", "/v1/agent/connect/proxy/web-proxy", Value::Null);
    assert_eq!(told["Config"]["db_password"], "sesame");
}

/// W52: the answer is the same for everything that is no managed proxy; the log says what it is.
#[test]
fn asking_for_a_proxy_that_is_none_is_answered_alike_and_explained_in_the_log() {
    let house = House::start(
        LICTOR,
        json!({"services": [
            {"name": "web", "port": 1, "connect": {"proxy": {}}},
            {"name": "plain", "port": 2},
            {"name": "other", "kind": "connect-proxy", "port": 3, "proxy": {"destination_service_name": "plain"}},
        ]}),
    );
    for id in ["web", "plain", "other", "nothing"] {
        for _ in 0..2 {
            let answer = house.get(&format!("/v1/agent/connect/proxy/{id}"));
            assert_eq!((answer.status, answer.text()), (404, format!("unknown proxy service ID: {id}")));
        }
    }
    let log = house.log();
    let asked = |id: &str| format!("{id:?} was asked for as a managed proxy; ");
    for (id, kind) in [
        ("web", "it is an ordinary service, whose managed proxy is web-proxy"),
        ("plain", "it is an ordinary service without a managed proxy"),
        ("other", "it is a proxy that somebody else runs"),
    ] {
        let line = format!("{}{kind}", asked(id));
        assert_eq!(log.matches(&line).count(), 1, "{line}\n{log}");
    }
    assert!(log.contains(&format!("{}nothing has that id", asked("nothing"))), "{log}");
}

/// Issue of the supervisor, point 6: with `local_service_wait_ms` nobody is sent to a proxy whose application is not there.
#[test]
fn a_proxy_waits_for_its_application_at_its_start_and_when_the_application_is_restarted() {
    let port = ports::one();
    let (mut config, entry) = two_services(port);
    config["services"][0]["connect"]["proxy"]["config"] = json!({"local_service_wait_ms": 120_000});
    let house = House::start(LICTOR, config);
    let why = || {
        String::from_utf8(
            Command::new(LICTOR)
                .args(["connect", "why", "db"])
                .env("CONSUL_HTTP_ADDR", format!("127.0.0.1:{}", house.http_port))
                .output()
                .unwrap()
                .stdout,
        )
        .unwrap()
    };
    until("it says what it waits for", || why().contains(&format!("nothing listens at 127.0.0.1:{port}")));
    let public = port_of(&house, "db-proxy");
    assert!(TcpStream::connect(("127.0.0.1", public)).is_err(), "nobody is taken in yet");
    let healthy = |service: &str| {
        !house.get(&format!("/v1/health/connect/{service}?passing")).json().as_array().unwrap().is_empty()
    };
    assert!(!healthy("db"));
    let pid = house.proxy_pid("db-proxy");
    let once = |listener: TcpListener| {
        std::thread::spawn(move || {
            // The proxy's look, and connections with bytes.
            loop {
                let (mut connection, _) = listener.accept().unwrap();
                let mut bytes = [0; 5];
                if connection.read_exact(&mut bytes).is_ok() {
                    std::io::Write::write_all(&mut connection, &bytes).unwrap();
                    return;
                }
            }
        })
    };
    let app = once(TcpListener::bind(("127.0.0.1", port)).unwrap());
    wait_path(&house, entry);
    app.join().unwrap();
    // The application is gone; a connection that comes meanwhile waits for the next one.
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    let client = std::thread::spawn(move || echo_once(entry));
    // A proxy that does not wait would have closed it by now.
    let patience = Instant::now() + Duration::from_millis(500);
    while Instant::now() < patience {
        assert!(!client.is_finished(), "{:?}", client.join());
        std::thread::sleep(Duration::from_millis(10));
    }
    let app = once(TcpListener::bind(("127.0.0.1", port)).unwrap());
    client.join().unwrap().unwrap();
    app.join().unwrap();
    assert_eq!(house.proxy_pid("db-proxy"), pid);
}

/// The same with an application that never comes: the deadline counts, and an agent that starts does not wait for it.
#[test]
fn a_proxy_serves_all_the_same_when_its_application_does_not_come() {
    let (mut config, _) = two_services(ports::one());
    config["services"][0]["connect"]["proxy"]["config"] = json!({"local_service_wait_ms": 1000});
    let house = House::start(LICTOR, config);
    house.wait_healthy("db");
    let log = proxy_log(&house, "db-proxy");
    assert!(log.contains("waiting for the application") && log.contains("has not come in time"), "{log}");
}
