//! Programs of others, unmodified, against the built binary: what they discover and what follows a change.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up shall fail")]

#[path = "../common/mod.rs"]
mod common;
mod patroni;
mod traefik;
mod victoria;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use common::{LICTOR, serve};
use lictor_testkit::program::find;
use lictor_testkit::{House, Program, http, ports, until};
use serde_json::json;

/// An HTTP application that answers every request with the same text.
fn web(text: &'static str) -> SocketAddr {
    web_at("127.0.0.1", text)
}

fn web_at(address: &str, text: &'static str) -> SocketAddr {
    serve(&format!("{address}:0"), move |connection: TcpStream| {
        let mut reader = BufReader::new(&connection);
        let mut line = String::new();
        while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
            line.clear();
        }
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nConnection: close\r\n";
        // A client that is gone does not need the answer.
        let _ = write!(&connection, "{head}Content-Length: {}\r\n\r\n{text}", text.len());
    })
}

#[test]
fn prometheus_scrapes_the_agent_and_services_through_their_managed_proxies() {
    let (Some(prometheus), Some(promtool)) = (find("prometheus"), find("promtool")) else { return };
    let house = House::start(
        LICTOR,
        json!({
            "telemetry": {"prometheus_retention_time": "1h", "disable_hostname": true},
            "services": [
                {"name": "shop", "port": web("shop_orders_total 7\n").port(), "tags": ["eu"], "connect": {"proxy": {}}},
                {"name": "depot", "port": web("depot_parcels 3\n").port(), "connect": {"proxy": {}}},
            ],
        }),
    );
    house.wait_healthy("shop");
    house.wait_healthy("depot");
    // Prometheus is a service of the mesh like any other: it shows a leaf, and proxies let it in.
    let leaf = house.get("/v1/agent/connect/ca/leaf/prometheus").json();
    let folder = house.folder();
    let file = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let certificate = file("scrape.pem", leaf["CertPEM"].as_str().unwrap());
    let key = file("scrape.key", leaf["PrivateKeyPEM"].as_str().unwrap());
    let agent = format!("127.0.0.1:{}", house.http_port);
    let config = |discovery: &str| {
        // Names in the mesh are URIs, which Prometheus cannot check. Proxies agree to HTTP/2 as the original's do, but
        // this application does not speak it.
        format!(
            "global: {{scrape_interval: 1s}}\n\
             scrape_configs:\n\
             - {{job_name: agent, metrics_path: /v1/agent/metrics, params: {{format: [prometheus]}},\n\
             \x20  static_configs: [{{targets: ['{agent}']}}]}}\n\
             - job_name: mesh\n\
             \x20 scheme: https\n\
             \x20 enable_http2: false\n\
             \x20 tls_config: {{cert_file: {certificate}, key_file: {key}, insecure_skip_verify: true}}\n\
             {discovery}"
        )
    };
    let discovering = config(&format!(
        "\x20 consul_sd_configs: [{{server: '{agent}', refresh_interval: 1s}}]\n\
         \x20 relabel_configs:\n\
         \x20 - {{source_labels: [__meta_consul_service], regex: '.*-proxy', action: keep}}\n\
         \x20 - {{source_labels: [__meta_consul_service], target_label: service}}\n"
    ));
    let mut path = file("prometheus.yml", &discovering);
    let knows_consul = Command::new(promtool).args(["check", "config", &path]).output().unwrap().status.success();
    if !knows_consul {
        // Debian leaves the discovery of Consul out of its package.
        skipped("this Prometheus cannot discover: it is told where the proxies are");
        let targets = ["shop-proxy", "depot-proxy"].map(|name| {
            let found = house.get(&format!("/v1/catalog/service/{name}")).json();
            let place = format!("{}:{}", found[0]["Address"].as_str().unwrap(), found[0]["ServicePort"]);
            format!("{{targets: ['{place}'], labels: {{service: {name}}}}}")
        });
        path = file("prometheus.yml", &config(&format!("\x20 static_configs: [{}]\n", targets.join(", "))));
    }
    let port = ports::one();
    let _prometheus = Program::start(
        Command::new(prometheus)
            .arg(format!("--config.file={path}"))
            .arg(format!("--storage.tsdb.path={}", folder.join("tsdb").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}")),
    );
    let value = |query: &str| -> Option<String> {
        let path = format!("/api/v1/query?query={query}");
        let answer = http::request(port, "GET", &path, &[], b"", Duration::from_secs(10)).ok()?;
        if answer.status != 200 {
            return None;
        }
        let result = answer.json()["data"]["result"][0]["value"][1].as_str()?.to_owned();
        Some(result)
    };
    until("the first proxy is scraped", || value("shop_orders_total{service='shop-proxy'}").as_deref() == Some("7"));
    until("the second proxy is scraped", || value("depot_parcels{service='depot-proxy'}").as_deref() == Some("3"));
    until("the agent is scraped", || value("consul_autopilot_healthy").as_deref() == Some("1"));
    until("its summaries are read", || value("consul_http_GET_v1_agent_metrics_count").is_some());
    // An intention decides about Prometheus as about anybody.
    house.intend("prometheus", "depot", "deny");
    until("the second proxy refuses", || value("up{service='depot-proxy'}").as_deref() == Some("0"));
    if knows_consul {
        assert_eq!(house.put("/v1/agent/service/deregister/depot", json!(null)).status, 200);
        until("only one proxy is left", || value("count(up{job='mesh'})").as_deref() == Some("1"));
    }
}

#[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
fn skipped(why: &str) {
    eprintln!("SKIPPED: {why}");
}

#[test]
fn haproxy_follows_srv_records_up_and_down() {
    let Some(haproxy) = find("haproxy") else { return };
    let house = House::start_dev(LICTOR, json!({}));
    let port = ports::one();
    let config = house.folder().join("haproxy.cfg");
    fs::write(
        &config,
        format!(
            "defaults\n mode http\n timeout connect 2s\n timeout client 10s\n timeout server 10s\n\
             resolvers mesh\n nameserver agent 127.0.0.1:{}\n accepted_payload_size 8192\n timeout resolve 200ms\n\
             \x20timeout retry 200ms\n hold valid 200ms\n hold obsolete 200ms\n hold nx 200ms\n\
             frontend entry\n bind 127.0.0.1:{port}\n default_backend web\n\
             backend web\n balance roundrobin\n\
             \x20server-template web 5 _web._tcp.service.consul resolvers mesh init-addr none\n",
            house.dns_port
        ),
    )
    .unwrap();
    let _haproxy = Program::start(Command::new(haproxy).arg("-db").arg("-f").arg(&config));
    let reached = || -> BTreeSet<String> {
        let request = |_| {
            let answer = http::request(port, "GET", "/", &[], b"", Duration::from_secs(10)).ok()?;
            (answer.status == 200).then(|| answer.text())
        };
        (0..12).filter_map(request).collect()
    };
    let wait_for = |expected: &[&str]| {
        let expected: BTreeSet<String> = expected.iter().map(|name| (*name).to_owned()).collect();
        until(&format!("HAProxy reaches {expected:?}"), || reached() == expected);
    };
    let register = |name: &str, address: SocketAddr| {
        let service = json!({"ID": name, "Name": "web", "Port": address.port(), "Address": address.ip()});
        assert_eq!(house.put("/v1/agent/service/register", service).status, 200);
    };
    // HAProxy takes two servers of one address for the same.
    register("one", web_at("127.0.0.2", "one"));
    wait_for(&["one"]);
    register("two", web_at("127.0.0.3", "two"));
    register("three", web_at("127.0.0.4", "three"));
    wait_for(&["one", "three", "two"]);
    assert_eq!(house.put("/v1/agent/service/deregister/one", json!(null)).status, 200);
    wait_for(&["three", "two"]);
    assert_eq!(house.put("/v1/agent/service/maintenance/two?enable=true", json!(null)).status, 200);
    wait_for(&["three"]);
}

#[test]
fn dig_and_kdig_read_the_same_of_every_kind_of_name() {
    let (Some(dig), Some(kdig)) = (find("dig"), find("kdig")) else { return };
    let house = House::start_dev(
        LICTOR,
        json!({"node_meta": {"rack": "r1"}, "services": [
            {"name": "db", "id": "db1", "port": 5432, "tags": ["primary"], "address": "10.9.0.1"},
            {"name": "db", "id": "db2", "port": 5433, "address": "2001:db8::6"},
        ]}),
    );
    until("the services are in the catalog", || {
        house.get("/v1/health/service/db").json().as_array().is_some_and(|all| all.len() == 2)
    });
    let query = json!({"Name": "db-near", "Service": {"Service": "db"}, "DNS": {"TTL": "7s"}}).to_string();
    assert_eq!(house.request("POST", "/v1/query", query.as_bytes()).status, 200);
    let ask = |program: &std::path::Path, words: &[&str]| -> BTreeSet<String> {
        let mut command = Command::new(program);
        command.args([format!("-p{}", house.dns_port), "@127.0.0.1".to_owned()]);
        command.args(words).args(["+noall", "+answer", "+authority", "+additional"]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{command:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with(';') && !line.is_empty());
        lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    };
    let questions: [(&[&str], &str); 8] = [
        (&["db.service.consul", "SRV"], "db.service.consul. 0 IN SRV 1 1 5432 0a090001.addr.dc1.consul."),
        (&["db.service.consul", "AAAA", "+tcp"], "db.service.consul. 0 IN AAAA 2001:db8::6"),
        (&["_db._primary.service.consul", "SRV", "+bufsize=4096"], "0a090001.addr.dc1.consul. 0 IN A 10.9.0.1"),
        (&["db-near.query.consul", "A"], "db-near.query.consul. 7 IN A 10.9.0.1"),
        (&["db-near.query.consul", "AAAA", "+subnet=10.0.0.0/8"], "db-near.query.consul. 7 IN AAAA 2001:db8::6"),
        (&["node1.node.consul", "TXT"], "node1.node.consul. 0 IN TXT \"rack=r1\""),
        (&["0a090001.addr.consul", "A"], "0a090001.addr.consul. 0 IN A 10.9.0.1"),
        (&["-x", "10.9.0.1"], "1.0.9.10.in-addr.arpa. 0 IN PTR db.service.consul."),
    ];
    for (words, expected) in questions {
        let (one, other) = (ask(&dig, words), ask(&kdig, words));
        assert!(one.contains(expected), "{words:?}: {one:?}");
        assert_eq!(one, other, "{words:?}");
    }
    let mut unused = String::new();
    // Nothing is left of the connections that were made over TCP.
    let mut idle = TcpStream::connect(("127.0.0.1", house.dns_port)).unwrap();
    idle.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(idle.read_to_string(&mut unused).unwrap(), 0);
}
