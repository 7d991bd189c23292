//! Numbers and logs on real processes: what reaches sinks, scrapers and files.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up shall fail")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};
use std::thread;

use common::{LICTOR, echo, echo_once, wait_path};
use lictor_testkit::{House, ports, until};
use serde_json::{Value, json};

/// What a sink was sent, line by line.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<String>>>);

impl Heard {
    /// Listens for datagrams.
    fn datagrams() -> (Heard, u16) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let heard = Heard::default();
        let lines = heard.clone();
        thread::spawn(move || {
            let mut buffer = [0; 65_536];
            while let Ok(length) = socket.recv(&mut buffer) {
                assert!(length <= 1400, "a datagram of {length} bytes");
                let text = String::from_utf8(buffer[..length].to_vec()).unwrap();
                lines.0.lock().unwrap().extend(text.lines().map(str::to_owned));
            }
        });
        (heard, port)
    }

    /// Listens for connections.
    fn stream() -> (Heard, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let heard = Heard::default();
        let lines = heard.clone();
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let lines = lines.clone();
                thread::spawn(move || {
                    for line in BufReader::new(connection).lines().map_while(Result::ok) {
                        lines.0.lock().unwrap().push(line);
                    }
                });
            }
        });
        (heard, port)
    }

    fn wait_for(&self, what: &str, is_it: impl Fn(&str) -> bool) {
        until(what, || self.0.lock().unwrap().iter().any(|line| is_it(line)));
    }

    /// The sum of a counter so far.
    fn sum(&self, name: &str) -> f64 {
        let lines = self.0.lock().unwrap();
        let values = lines.iter().filter_map(|line| {
            let (of, rest) = line.split_once(':')?;
            let (value, kind) = rest.split_once('|')?;
            (of == name && kind == "c").then(|| value.parse::<f64>().unwrap())
        });
        values.sum()
    }
}

fn hostname() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_owned()
}

#[test]
fn agent_and_proxies_tell_statsd_and_statsite_what_they_do() {
    let (statsd, statsd_port) = Heard::datagrams();
    let (statsite, statsite_port) = Heard::stream();
    let (entry, nowhere) = (ports::one(), ports::one());
    let house = House::start(
        LICTOR,
        json!({
            "telemetry": {
                "statsd_address": format!("127.0.0.1:{statsd_port}"),
                "statsite_address": format!("127.0.0.1:{statsite_port}"),
                "prefix_filter": ["-consul.http.GET.v1.status.peers"],
            },
            "services": [
                {"name": "db", "port": echo().port(), "connect": {"proxy": {}}},
                {"name": "web", "port": 8080, "connect": {"proxy": {
                    "upstreams": [{"destination_name": "db", "local_bind_port": entry},
                        {"destination_name": "nobody", "local_bind_port": nowhere}]}}},
            ],
        }),
    );
    let host = hostname();
    wait_path(&house, entry);
    house.get("/v1/status/leader");
    house.get("/v1/status/peers");
    house.get("/v1/agent/self");
    for heard in [&statsd, &statsite] {
        heard.wait_for("requests are timed", |line| {
            line.starts_with("consul.http.GET.v1.status.leader:") && line.ends_with("|ms")
        });
        heard.wait_for("gauges have the host", |line| {
            line.starts_with(&format!("consul.{host}.runtime.alloc_bytes:")) && line.ends_with("|g")
        });
        heard.wait_for("what comes later is there", |line| line.starts_with("consul.http.GET.v1.agent.self:"));
        assert!(!heard.0.lock().unwrap().iter().any(|line| line.contains("v1.status.peers")), "that is filtered");
    }

    let mut held = common::connect(entry).unwrap();
    common::exchange(&mut held).unwrap();
    let open = |name: &str| {
        let gauge = format!("consul.proxy.{name}");
        statsd.wait_for(&gauge, |line| line == gauge);
    };
    open(&format!("db.{host}.inbound.conns.db:1|g"));
    open(&format!("web.{host}.upstream.conns.web.service.db:1|g"));
    drop(held);
    open(&format!("db.{host}.inbound.conns.db:0|g"));
    let names = [
        "consul.proxy.db.inbound.tx_bytes.db",
        "consul.proxy.db.inbound.rx_bytes.db",
        "consul.proxy.web.upstream.tx_bytes.web.service.db",
        "consul.proxy.web.upstream.rx_bytes.web.service.db",
    ];
    // What the path was waited for with is counted, too: all four have seen the same bytes.
    until("bytes are counted", || {
        let sums = names.map(|name| statsd.sum(name));
        sums[0] >= 10.0 && sums.iter().all(|sum| *sum == sums[0])
    });

    // Spec 01, W47: beside the original's numbers there are some about what went wrong, and how long handshakes take.
    let timed = |name: &str| statsd.wait_for(name, |line| line.starts_with(name) && line.ends_with("|ms"));
    timed("consul.proxy.db.inbound.handshake_ms.db:");
    timed("consul.proxy.web.upstream.handshake_ms.web.service.db:");
    until("a connection to nobody fails", || {
        assert!(echo_once(nowhere).is_err());
        statsd.sum("consul.proxy.web.upstream.failures.web.service.nobody") >= 1.0
    });
    until("the agent's look at the port is counted", || statsd.sum("consul.proxy.db.inbound.probes.db") >= 1.0);
    let intention = house.intend("web", "db", "deny");
    until("a denied connection is counted", || {
        let _ = echo_once(entry);
        statsd.sum("consul.proxy.db.inbound.authz_denied.db") >= 1.0
    });
    let removed = house.request("DELETE", &format!("/v1/connect/intentions/{intention}"), b"");
    assert_eq!(removed.status, 200, "{}", removed.text());
    wait_path(&house, entry);

    // Spec 01, W32: what the supervisor does can be counted.
    let uptime = format!("consul.{host}.managed.uptime.db-proxy:");
    statsd.wait_for("the proxy's time is told", |line| line.starts_with(&uptime) && line.ends_with("|g"));
    assert_eq!(statsd.sum("consul.managed.restarts.db-proxy"), 0.0);
    lictor_testkit::house::send(house.proxy_pid("db-proxy"), rustix::process::Signal::KILL);
    until("its restart is counted", || statsd.sum("consul.managed.restarts.db-proxy") >= 1.0);
    wait_path(&house, entry);
    assert_eq!(statsd.sum("consul.managed.restarts.db-proxy"), 1.0);
    assert_eq!(statsd.sum("consul.managed.restarts.web-proxy"), 0.0);
}

#[test]
fn dogstatsd_gets_tags_instead_of_longer_names() {
    let (dogstatsd, port) = Heard::datagrams();
    let house = House::start_dev(
        LICTOR,
        json!({
            "telemetry": {
                "dogstatsd_addr": format!("127.0.0.1:{port}"), "dogstatsd_tags": ["env:test"], "metrics_prefix": "mine"},
            "services": [{"name": "web", "tags": ["A"]}],
        }),
    );
    until("the service is there", || house.get("/v1/catalog/service/web").text() != "[]");
    house.get("/v1/health/service/WEB?tag=a");
    dogstatsd.wait_for("a counter with labels", |line| line == "mine.health.service.query:1|c|#env:test,service:web");
    dogstatsd.wait_for("a tag", |line| line == "mine.health.service.query-tag:1|c|#env:test,service:web,tag:A");
    house.get("/v1/health/service/web?tag=unknown");
    dogstatsd.wait_for("a service without such instances", |line| {
        line == "mine.health.service.not-found:1|c|#env:test,service:web"
    });
    // What the catalog does not know is counted, too, but not by the name that somebody thought of.
    house.get("/v1/health/service/nope?tag=nix");
    dogstatsd.wait_for("nothing was found", |line| line == "mine.health.service.not-found:1|c|#env:test");
    for word in ["nope", "nix", "unknown", "WEB"] {
        assert!(!dogstatsd.0.lock().unwrap().iter().any(|line| line.contains(word)), "{word}");
    }
    dogstatsd.wait_for("a gauge without host", |line| {
        line.starts_with("mine.runtime.sys_bytes:") && line.ends_with("|g|#env:test")
    });
}

#[test]
fn numbers_are_shown_as_json_and_to_prometheus() {
    let config = json!({"telemetry": {
        "prometheus_retention_time": "1h", "disable_hostname": true, "prefix_filter": ["-consul.runtime"]}});
    let house = House::start_dev(LICTOR, config);
    let named = |list: &str, name: &str| -> Option<Value> {
        let shown = house.get("/v1/agent/metrics").json();
        shown[list].as_array().unwrap().iter().find(|one| one["Name"] == name).cloned()
    };
    until("the request is shown", || {
        house.get("/v1/status/leader");
        named("Samples", "consul.http.GET.v1.status.leader").is_some()
    });
    until("gauges are shown", || {
        named("Gauges", "consul.autopilot.healthy").is_some_and(|gauge| gauge["Value"] == 1.0)
    });
    assert_eq!(named("Gauges", "consul.runtime.alloc_bytes"), None);
    let shown = house.get("/v1/agent/metrics").json();
    let keys: Vec<&String> = shown.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["Counters", "Gauges", "Points", "Samples", "Timestamp"]);
    let text = shown["Timestamp"].as_str().unwrap();
    assert!(text.ends_with("0 +0000 UTC") && text.len() == 29, "{text}");

    let scraped = house.get("/v1/agent/metrics?format=prometheus");
    assert_eq!(scraped.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let values: BTreeMap<String, f64> = scraped
        .text()
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.rsplit_once(' ').map(|(name, value)| (name.to_owned(), value.parse().unwrap())).unwrap())
        .collect();
    assert!(values["consul_http_GET_v1_status_leader_count"] >= 1.0);
    assert!(values["consul_http_GET_v1_status_leader{quantile=\"0.5\"}"] > 0.0);
    assert_eq!(values["consul_autopilot_healthy"], 1.0);
    assert!(!scraped.text().contains("runtime"));

    house.signal_agent(rustix::process::Signal::USR1);
    until("the numbers are written for people", || {
        let log = house.log();
        log.contains("[G] 'consul.autopilot.healthy': 1.000") && log.contains("][S] 'consul.http.GET.v1.agent.metrics'")
    });

    // The filter is one of the things that a reload changes.
    house.reconfigure(|config| config["telemetry"]["prefix_filter"] = json!(["-consul.autopilot"]));
    assert_eq!(house.put("/v1/agent/reload", json!(null)).status, 200);
    until("the runtime is shown now", || named("Gauges", "consul.runtime.alloc_bytes").is_some());
    assert_eq!(named("Gauges", "consul.autopilot.healthy"), None);
}

#[test]
fn the_log_goes_to_files_that_follow_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.log");
    let config = json!({"log_level": "debug", "log_file": file, "log_rotate_bytes": 2000});
    let house = House::start_dev(LICTOR, config);
    let texts = || -> Vec<String> {
        let paths = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
        let mut paths: Vec<_> = paths.collect();
        paths.sort();
        for path in &paths {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o640);
        }
        paths.iter().map(|path| fs::read_to_string(path).unwrap()).collect()
    };
    until("several files are written", || {
        house.get("/v1/status/leader?token=SECRET");
        texts().len() > 3
    });
    let all = texts();
    assert!(all[..all.len() - 1].iter().all(|text| (2000..4000).contains(&text.len())));
    let whole = all.concat();
    assert!(whole.contains("[INFO] agent: ") && whole.contains("[DEBUG] http: Request GET /v1/status/leader"));
    assert!(whole.lines().all(|line| line.starts_with("20")), "lines begin with their time");
    assert!(!whole.contains("SECRET"));
}

#[test]
fn a_monitor_sees_the_level_it_asks_for_whatever_is_printed() {
    let house = House::start_dev(LICTOR, json!({"log_level": "warn"}));
    let unknown = house.get("/v1/agent/monitor?loglevel=loud");
    assert_eq!((unknown.status, unknown.text().as_str()), (400, "Unknown log level: LOUD"));
    let follow = |level: &str| {
        let connection = TcpStream::connect(("127.0.0.1", house.http_port)).unwrap();
        write!(&connection, "GET /v1/agent/monitor?loglevel={level} HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let heard = Heard::default();
        let lines = heard.clone();
        thread::spawn(move || {
            for line in BufReader::new(connection).lines().map_while(Result::ok) {
                lines.0.lock().unwrap().push(line);
            }
        });
        heard
    };
    let (debug, info) = (follow("DEBUG"), follow("info"));
    info.wait_for("lines from before", |line| line.contains("[INFO] agent: Started HTTP server"));
    until("requests are followed", || {
        house.get("/v1/status/leader");
        debug.0.lock().unwrap().iter().any(|line| line.contains("[DEBUG] http: Request GET /v1/status/leader"))
    });
    assert!(!info.0.lock().unwrap().iter().any(|line| line.contains("[DEBUG]")));
    assert!(!house.log().contains("[INFO]"), "little is printed");
}

#[test]
fn bytes_still_come_back_when_no_sink_listens() {
    let config = json!({"telemetry": {"statsd_address": "127.0.0.1:1", "statsite_address": "127.0.0.1:1"}});
    let entry = ports::one();
    let (mut with, services) = (config, common::two_services(echo().port()).0);
    with["services"] = services["services"].clone();
    with["services"][1]["connect"]["proxy"]["upstreams"][0]["local_bind_port"] = json!(entry);
    let house = House::start(LICTOR, with);
    wait_path(&house, entry);
    assert!(echo_once(entry).is_ok());
    until("the agent says so", || house.log().contains("telemetry: cannot send to statsite at 127.0.0.1:1"));
}

/// Names that the page about compatibility promises, with what makes each of them, and the kind that it is shown as.
const PROMISED: [(&str, &str); 56] = [
    ("Samples", "http.GET.v1.status.leader"),
    ("Samples", "http.PUT.v1.kv._"),
    ("Samples", "catalog.register"),
    ("Samples", "catalog.deregister"),
    ("Counters", "catalog.service.query"),
    ("Counters", "catalog.service.query-tag"),
    ("Counters", "catalog.service.query-tags"),
    ("Counters", "catalog.service.not-found"),
    ("Counters", "catalog.connect.query"),
    ("Counters", "catalog.connect.not-found"),
    ("Counters", "health.service.query"),
    ("Counters", "health.service.query-tag"),
    ("Counters", "health.service.query-tags"),
    ("Counters", "health.service.not-found"),
    ("Counters", "health.connect.query"),
    ("Counters", "health.connect.not-found"),
    ("Samples", "dns.domain_query"),
    ("Samples", "dns.ptr_query"),
    ("Counters", "client.api.catalog_register"),
    ("Counters", "client.api.catalog_deregister"),
    ("Counters", "client.api.catalog_datacenters"),
    ("Counters", "client.api.catalog_nodes"),
    ("Counters", "client.api.catalog_services"),
    ("Counters", "client.api.catalog_service_nodes"),
    ("Counters", "client.api.catalog_connect_service_nodes"),
    ("Counters", "client.api.catalog_node_services"),
    ("Counters", "client.api.success.catalog_register"),
    ("Counters", "client.api.success.catalog_deregister"),
    ("Counters", "client.api.success.catalog_datacenters"),
    ("Counters", "client.api.success.catalog_nodes"),
    ("Counters", "client.api.success.catalog_services"),
    ("Counters", "client.api.success.catalog_service_nodes"),
    ("Counters", "client.api.success.catalog_connect_service_nodes"),
    ("Counters", "client.api.success.catalog_node_services"),
    ("Counters", "client.rpc.error.catalog_register"),
    ("Samples", "kvs.apply"),
    ("Samples", "txn.apply"),
    ("Samples", "session.apply"),
    ("Samples", "session.renew"),
    ("Samples", "intention.apply"),
    ("Samples", "prepared-query.apply"),
    ("Samples", "prepared-query.execute"),
    ("Samples", "prepared-query.explain"),
    ("Samples", "acl.ResolveToken"),
    ("Samples", "acl.token.upsert"),
    ("Samples", "acl.token.delete"),
    ("Samples", "acl.token.clone"),
    ("Samples", "acl.policy.upsert"),
    ("Samples", "acl.policy.delete"),
    ("Counters", "acl.blocked.node.registration"),
    ("Counters", "acl.blocked.service.registration"),
    ("Counters", "acl.blocked.check.registration"),
    ("Counters", "acl.blocked.service.deregistration"),
    ("Counters", "acl.blocked.check.deregistration"),
    ("Gauges", "autopilot.healthy"),
    ("Gauges", "autopilot.failure_tolerance"),
];
/// What every agent measures of itself.
const OF_THE_PROCESS: [&str; 3] = ["runtime.alloc_bytes", "runtime.sys_bytes", "runtime.num_goroutines"];
/// What is there only where agents share a store.
const SHARED: [&str; 2] = ["serf.member.join", "serf.member.failed"];

/// A question to the agent's DNS whose answer nobody reads.
fn ask_dns(port: u16, name: &str, kind: u16) {
    let mut packet = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        packet.push(u8::try_from(label.len()).unwrap());
        packet.extend(label.as_bytes());
    }
    packet.push(0);
    packet.extend(kind.to_be_bytes());
    packet.extend([0, 1]);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
    socket.send(&packet).unwrap();
    assert!(socket.recv(&mut [0; 1024]).unwrap() > 12);
}

#[test]
fn every_name_that_is_promised_is_shown_once_what_it_counts_has_happened() {
    const ROOT: &str = "3f0c1c2f-4f0c-4d0c-9a51-6c7f1f0f9d11";
    let house = House::start(
        LICTOR,
        json!({
            "acl": {"enabled": true, "default_policy": "deny", "tokens": {"master": ROOT}},
            "telemetry": {"disable_hostname": true},
        }),
    );
    let ask = |method: &str, path: &str, body: Value, token: &str| {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let headers = [("X-Consul-Token", token)];
        let limit = std::time::Duration::from_secs(30);
        lictor_testkit::http::request(house.http_port, method, path, &headers, text.as_bytes(), limit).unwrap()
    };
    let root = |method: &str, path: &str, body: Value| {
        let answer = ask(method, path, body, ROOT);
        assert_eq!(answer.status, 200, "{method} {path}: {}", answer.text());
        answer
    };
    let id = |answer: lictor_testkit::Answer, field: &str| answer.json()[field].as_str().unwrap().to_owned();

    root("GET", "/v1/status/leader", Value::Null);
    root("PUT", "/v1/kv/a", json!("x"));
    let far = json!({"Service": "far", "Tags": ["a", "b"]});
    root("PUT", "/v1/catalog/register", json!({"Node": "ext", "Address": "10.0.0.1", "Service": far}));
    assert_eq!(ask("PUT", "/v1/catalog/register", json!({"Node": "e", "Address": "10.0.0.1"}), "").status, 403);
    for path in ["catalog/service", "health/service"] {
        root("GET", &format!("/v1/{path}/far?tag=a"), Value::Null);
        root("GET", &format!("/v1/{path}/far?tag=a&tag=b"), Value::Null);
        root("GET", &format!("/v1/{path}/nobody"), Value::Null);
    }
    for path in ["catalog/connect/nobody", "health/connect/nobody", "catalog/datacenters", "catalog/nodes"] {
        root("GET", &format!("/v1/{path}"), Value::Null);
    }
    root("GET", "/v1/catalog/services", Value::Null);
    root("GET", "/v1/catalog/node/ext", Value::Null);
    ask_dns(house.dns_port, "far.service.consul", 1);
    ask_dns(house.dns_port, "1.0.0.10.in-addr.arpa", 12);
    root("PUT", "/v1/txn", json!([{"KV": {"Verb": "set", "Key": "t", "Value": "MQ=="}}]));
    let session = id(root("PUT", "/v1/session/create", json!({"Node": "ext", "Checks": [], "TTL": "1h"})), "ID");
    root("PUT", &format!("/v1/session/renew/{session}"), Value::Null);
    let intention = json!({"SourceName": "a", "DestinationName": "b", "Action": "deny"});
    root("POST", "/v1/connect/intentions", intention);
    root("POST", "/v1/query", json!({"Name": "q", "Service": {"Service": "far"}}));
    root("GET", "/v1/query/q/execute", Value::Null);
    root("GET", "/v1/query/q/explain", Value::Null);
    root("PUT", "/v1/catalog/deregister", json!({"Node": "ext"}));

    // Who may write a service may not complete the record of its node, which this agent had no token to write: the agent
    // takes the registration in, the catalog does not.
    let services = "service_prefix \"\" { policy = \"write\" }";
    let policy = id(root("PUT", "/v1/acl/policy", json!({"Name": "p", "Rules": services})), "ID");
    let token = root("PUT", "/v1/acl/token", json!({"Policies": [{"ID": policy}]}));
    let (secret, accessor) = (id(token.clone(), "SecretID"), id(token, "AccessorID"));
    let register = |what: &str, body: Value| {
        let answer = ask("PUT", &format!("/v1/agent/{what}/register"), body, &secret);
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    let allow = |rules: &str| {
        root("PUT", &format!("/v1/acl/policy/{policy}"), json!({"Name": "p", "Rules": rules}));
    };
    register("service", json!({"Name": "blocked"}));
    allow(&format!("{services} node \"node1\" {{ policy = \"write\" }}"));
    register("service", json!({"Name": "known"}));
    register("check", json!({"Name": "known-check", "ServiceID": "known", "TTL": "1h"}));
    // What it registered cannot be changed or removed in its name once its rights are gone.
    allow("");
    root("PUT", "/v1/agent/check/pass/known-check", Value::Null);
    until("the catalog refuses the state", || house.log().contains("Check \"known-check\" registration blocked"));
    root("PUT", "/v1/agent/check/deregister/known-check", Value::Null);
    root("PUT", "/v1/agent/service/deregister/known", Value::Null);
    let clone = id(root("PUT", &format!("/v1/acl/token/{accessor}/clone"), json!({})), "AccessorID");
    root("DELETE", &format!("/v1/acl/token/{clone}"), Value::Null);
    root("DELETE", &format!("/v1/acl/policy/{policy}"), Value::Null);

    // What is shown is of one interval: names come and go.
    let wanted: BTreeSet<(String, String)> = PROMISED
        .iter()
        .copied()
        .chain(OF_THE_PROCESS.map(|name| ("Gauges", name)))
        .map(|(list, name)| (list.to_owned(), format!("consul.{name}")))
        .collect();
    let mut seen = BTreeSet::new();
    let mut missing = wanted.clone();
    let end = std::time::Instant::now() + lictor_testkit::wait::PATIENCE;
    while !missing.is_empty() && std::time::Instant::now() < end {
        let shown = root("GET", "/v1/agent/metrics", Value::Null).json();
        for list in ["Counters", "Gauges", "Samples"] {
            let names = shown[list].as_array().unwrap().iter().filter_map(|one| one["Name"].as_str());
            seen.extend(names.map(|name| (list.to_owned(), name.to_owned())));
        }
        missing = wanted.difference(&seen).cloned().collect();
        thread::sleep(std::time::Duration::from_millis(100));
    }
    assert!(missing.is_empty(), "missing: {missing:?}\nseen: {seen:?}\n{}", house.log());
}

#[test]
fn the_page_about_compatibility_promises_no_number_that_is_not_looked_for() {
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/compatibility.md");
    let page = fs::read_to_string(page).unwrap();
    let section = page.split_once("## Telemetry").unwrap().1.split_once("\n## ").unwrap().0;
    let rows = section.lines().filter(|line| line.contains("| there |"));
    let names: Vec<&str> =
        rows.flat_map(|row| row.split(" | ").next().unwrap().split('`').skip(1).step_by(2)).collect();
    assert!(names.len() > 15, "{names:?}");
    let looked_for: Vec<&str> = PROMISED.iter().map(|(_, name)| *name).chain(OF_THE_PROCESS).chain(SHARED).collect();
    for name in names {
        let start = name.split(['*', '<']).next().unwrap();
        let is_whole = start == name;
        let found = looked_for.iter().any(|known| if is_whole { *known == name } else { known.starts_with(start) });
        assert!(found, "{name} is promised and not looked for");
    }
}
