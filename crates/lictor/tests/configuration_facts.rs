//! Facts about the configuration of an agent on the real program: what docs/facts-configuration.md promises and is not
//! shown by reading files alone.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up shall fail")]

mod common;

use std::fs;
use std::net::{TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::LICTOR;
use lictor_testkit::wait::Stalls;
use lictor_testkit::{House, http, ports, until};
use serde_json::{Value, json};

/// How long an agent may take until it answers who leads.
const PROMISED: Duration = Duration::from_secs(3);

/// What becomes of a command that ends by itself; `timeout` of coreutils ends it should it not.
fn lictor(words: &[&str]) -> Output {
    let mut command = Command::new("timeout");
    command.args(["-k", "1", "60", LICTOR]).args(words).stdin(Stdio::null()).output().unwrap()
}

fn said(output: &Output) -> String {
    [output.stdout.as_slice(), b"\n", output.stderr.as_slice()]
        .iter()
        .map(|part| String::from_utf8_lossy(part))
        .collect()
}

/// What `validate` makes of a folder with these files: whether they are valid, and all that it says.
fn validated(files: &[(&str, &str)]) -> (bool, String) {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let output = lictor(&["validate", folder.path().to_str().unwrap()]);
    let text = said(&output);
    match output.status.code() {
        Some(0) => assert!(text.contains("Configuration is valid!"), "{text}"),
        code => {
            assert_eq!(code, Some(1), "{text}");
            assert!(text.contains("Config validation failed: "), "{text}");
        }
    }
    (output.status.success(), text)
}

/// Whether a log line warns of something or tells of an error.
fn complaints(log: &str) -> Vec<&str> {
    log.lines().filter(|line| line.contains("[WARN]") || line.contains("[ERR]")).collect()
}

#[test]
fn validate_accepts_and_refuses_what_the_original_does() {
    let nulls = r#"{"segments":null,"ports":null,"acl":null,"node_meta":null,"server":null,"services":null,
        "watches":null,"data_dir":"/tmp/x"}"#;
    for (name, text) in [
        ("a.json", nulls),
        ("a.json", r#"{"ports": [], "data_dir": "/tmp/x"}"#),
        ("a.json", r#"{"Ports": {"HTTP": 1}, "data_dir": "/tmp/x"}"#),
        ("a.json", r#"{"ports": [{"http": 1}], "data_dir": "/tmp/x"}"#),
        ("a.hcl", "data_dir = \"/tmp/x\" ae_interval = \"5s\" version = \"9\""),
        ("a.hcl", "data_dir = \"/tmp/x\" node_name = \"${foo}b\" server = true ports { serf_lan = -1 server = -1 }"),
        ("a.hcl", "data_dir = \"/tmp/x\" ports = { http = 0x1F91, } # hexadecimal"),
    ] {
        let (valid, said) = validated(&[(name, text)]);
        assert!(valid, "{text}: {said}");
    }
    for (name, text, wanted) in [
        ("a.hcl", "NodeName = \"x\"", "invalid config key NodeName"),
        ("a.json", r#"{"server": true, "SERVER": false}"#, "invalid config key SERVER"),
        ("a.hcl", "ports {}\nports {}", "ports: given twice in "),
        ("a.hcl", "service \"web\" {}", "invalid config key service.web"),
        ("a.json", r#"{"watches": {}}"#, "'watches': source data must be an array or slice, got map"),
        ("a.json", r#"{"services": {}}"#, "'services': source data must be an array or slice, got map"),
        ("a.json", r#"{"ports": {"http": "80"}}"#, "'ports.http' expected type 'int', got unconvertible type 'string'"),
        ("a.hcl", "recursors = [\"0.0.0.0\"]", "DNS recursor address cannot be 0.0.0.0"),
        ("a.hcl", "recursors = [\"unix://x\"]", "DNS Recursors cannot be unix sockets: unix://x"),
        ("a.hcl", "bind_addr = \"{{ GetInterfaceIP \\\"nope0\\\" }}\"", "bind_addr cannot be empty"),
        ("a.hcl", "advertise_addr = \"localhost\"", "invalid ip address: localhost"),
        ("a.hcl", "bind_addr = \"unix:///x\"", "bind_addr cannot be a unix socket"),
        ("a.hcl", "performance { raft_multiplier = 11 }", "performance.raft_multiplier cannot be 11"),
        ("a.hcl", "raft_protocol = 9", "Protocol version"),
        ("a.hcl", "protocol = 9", "Protocol version"),
        ("a.hcl", "encrypt = \"!!!!\"", "encrypt has invalid key"),
        ("a.hcl", "encrypt = \"aaaa\"", "key size must be 16, 24 or 32 bytes"),
        ("a.hcl", "acl { default_policy = \"DENY\" }", "Unsupported default ACL policy: DENY"),
        (
            "a.hcl",
            "connect { ca_provider = \"consul\" ca_config { leaf_cert_ttl = \"5m\" } }",
            "leaf cert TTL must be greater than 1h",
        ),
        ("a.hcl", "connect { ca_config { leaf_cert_ttl = \"5m\" } }", "leaf cert TTL must be greater than 1h"),
    ] {
        let (valid, said) = validated(&[(
            name,
            &format!("{}{text}", if name.ends_with("hcl") { "data_dir = \"/tmp/x\"\n" } else { "" }),
        )]);
        assert!(!valid && said.contains(wanted), "{text}: {said}");
        assert!(!said.contains("panicked"), "{said}");
    }
}

#[test]
fn a_client_without_a_server_tries_as_often_as_it_is_told_and_ends() {
    let folder = tempfile::tempdir().unwrap();
    let (http, server) = (ports::one(), ports::one());
    let ended = |text: &str, flags: &[&str]| {
        let file = folder.path().join("agent.hcl");
        let base = format!(
            "bind_addr = \"127.0.0.1\"\ndata_dir = {:?}\nports {{ http = {http} dns = -1 server = {server} }}\n",
            folder.path().join("data"),
        );
        fs::write(&file, format!("{base}{text}")).unwrap();
        let output = lictor(&[&["agent", "-config-file", file.to_str().unwrap()], flags].concat());
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        said(&output)
    };
    // The port of gossip is not where a server of ours answers.
    let said = ended("retry_join = [\"127.0.0.1:8301\"]\nretry_interval = \"100ms\"\nretry_max = 1", &[]);
    let tried = said.matches(&format!("Failed to join 127.0.0.1:{server}: ")).count();
    assert!(tried >= 2 && said.contains("max join LAN retry exhausted, exiting"), "{said}");
    assert_eq!(said.matches("join addresses with the port of gossip are asked at port").count(), 1, "{said}");
    assert!(said.contains("retrying in 100ms"), "{said}");
    assert!(!said.contains("did not stop within"), "{said}");
    // One that must be there at the start is not tried again.
    let said = ended("", &["-join", "127.0.0.1", "-server=false"]);
    assert!(said.contains(&format!("* Failed to join 127.0.0.1:{server}: Connection refused")), "{said}");
    for text in ["server = false", "retry_join = [\"10.0.0.5\"]"] {
        let (valid, said) = validated(&[("a.hcl", &format!("data_dir = \"/x\"\n{text}"))]);
        assert!(valid, "{said}");
    }
}

#[test]
fn servers_that_expect_others_need_a_store_that_all_share() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.hcl");
    let text = format!(
        "bind_addr = \"127.0.0.1\"\nserver = true\nbootstrap_expect = 3\ndata_dir = {:?}\nports {{ http = {} dns = -1 }}",
        folder.path().join("data"),
        ports::one()
    );
    fs::write(&file, &text).unwrap();
    let output = lictor(&["agent", "-config-file", file.to_str().unwrap()]);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("set store.backend = etcd, or bootstrap_expect = 1"), "{said}");
    let store = "store { backend = \"etcd\" endpoints = [\"http://127.0.0.1:1\"] }";
    let (valid, said) = validated(&[("a.hcl", &text), ("b.hcl", store)]);
    assert!(valid, "{said}");
}

/// The configuration that the test kit of the Go client writes.
fn of_the_go_kit(folder: &Path) -> Value {
    let first = ports::block(6);
    json!({
        "node_name": "node-40e4a748", "node_id": "40E4A748-2192-161A-0510-9BF59FE950B5",
        "performance": {"raft_multiplier": 1}, "bootstrap": true, "server": true, "data_dir": folder.join("data"),
        "segments": null, "disable_update_check": true, "log_level": "debug", "bind_addr": "127.0.0.1", "addresses": {},
        "ports": {"dns": first, "http": first + 1, "https": first + 2, "serf_lan": first + 3, "serf_wan": first + 4,
            "server": first + 5},
        "acl_enforce_version_8": false, "acl": {"tokens": {}},
        "connect": {"enabled": true, "ca_config": {"cluster_id": "11111111-2222-3333-4444-555555555555"},
            "proxy": {"allow_managed_api_registration": true}},
    })
}

#[test]
fn the_agent_of_the_go_test_kit_leads_within_three_seconds_without_a_complaint() {
    let mut house = House::build_as(LICTOR, |folder| (Vec::new(), of_the_go_kit(folder)));
    let stalls = Stalls::watch();
    let begin = Instant::now();
    house.start_agent();
    house.wait_ready();
    let took = begin.elapsed();
    assert!(took < PROMISED + 5 * stalls.longest(), "{took:?}");
    let shown = house.get("/v1/agent/self").json();
    assert_eq!(shown["Config"]["NodeID"], "40e4a748-2192-161a-0510-9bf59fe950b5");
    assert_eq!(shown["DebugConfig"]["Segments"], json!([]));
    until("there are roots", || house.get("/v1/connect/ca/roots").status == 200);
    let roots = house.get("/v1/connect/ca/roots").json();
    assert_eq!(roots["TrustDomain"], "11111111-2222-3333-4444-555555555555.consul");
    assert_eq!(complaints(&house.log()), [""; 0]);
    for phrase in ["Consul agent running!", "New leader elected", "Synced node info"] {
        assert!(house.log().contains(phrase), "harnesses wait for {phrase:?}: {}", house.log());
    }
}

#[test]
fn the_agent_of_the_python_tests_has_acls_and_its_master_token() {
    let master = "70ad9ac1-5f9c-4c17-9bf8-b3b8b7dd7d0f";
    let mut house = House::build_as(LICTOR, |folder| {
        let first = ports::block(4);
        let more = folder.join("more");
        fs::create_dir(&more).unwrap();
        let key = r#"{"encrypt": "Oz5S8Yxt8QfbH2q7fNfQfN2RlgX3sUhYqVAb+M3tGXY="}"#;
        fs::write(more.join("encrypt.json"), key).unwrap();
        let config = json!({
            "ports": {"http": first, "serf_lan": first + 1, "serf_wan": first + 2, "server": first + 3, "dns": -1, "grpc": -1},
            "performance": {"raft_multiplier": 1}, "enable_script_checks": true, "datacenter": "dc1",
            "primary_datacenter": "dc1", "acl": {"enabled": true, "default_policy": "deny",
            "enable_token_persistence": true, "tokens": {"master": master, "agent": null}},
        });
        (vec!["-dev".into(), "-bind=127.0.0.1".into(), format!("-config-dir={}", more.display())], config)
    });
    house.start_agent();
    house.wait_ready();
    let with = |token: &str| {
        let header = [("X-Consul-Token", token)];
        http::request(house.http_port, "GET", "/v1/agent/self", &header, b"", Duration::from_secs(20)).unwrap()
    };
    let shown = with(master);
    assert_eq!(shown.status, 200, "{}", shown.text());
    assert_eq!(shown.json()["DebugConfig"]["ACLsEnabled"], true);
    assert_eq!(house.get("/v1/agent/self").status, 403);
    assert_eq!(with("8d5faa9a-1111-2222-3333-444444444444").text(), "ACL not found");
}

#[test]
fn a_reload_changes_metadata_and_a_broken_file_changes_nothing() {
    let house = House::start(LICTOR, json!({"node_meta": {"a": "1"}}));
    let meta = || house.get("/v1/agent/self").json()["Meta"].clone();
    assert_eq!(meta()["a"], "1");
    house.reconfigure(|config| config["node_meta"]["a"] = "2".into());
    house.put("/v1/agent/reload", Value::Null);
    until("the new metadata is shown", || meta()["a"] == "2");
    let file = house.folder().join("agent.json");
    let good = fs::read_to_string(&file).unwrap();
    fs::write(&file, good.replacen("\"a\":\"2\"", "\"a\":\"3\"", 1) + "}").unwrap();
    let refused = house.request("PUT", "/v1/agent/reload", b"");
    assert_eq!(refused.status, 500, "{}", refused.text());
    assert!(refused.text().contains("agent.json"), "{}", refused.text());
    assert_eq!(meta()["a"], "2");
}

#[test]
fn a_reload_changes_headers_blocked_endpoints_who_may_write_and_certificates() {
    let mut house = House::build_dev(LICTOR, json!({"http_config": {"response_headers": {"x-old": "1"}}}));
    let https = lictor_testkit::ports::one();
    let file = |name: &str| house.folder().join(name);
    let folder = house.folder().to_owned();
    let lictor = |folder: &Path, words: &[&str]| {
        let mut command = std::process::Command::new(LICTOR);
        let done = command.args(words).current_dir(folder).env_remove("CONSUL_HTTP_TOKEN").output().unwrap();
        (done.status.success(), String::from_utf8_lossy(&done.stderr).into_owned())
    };
    for kind in ["old", "new"] {
        fs::create_dir(file(kind)).unwrap();
        for words in [&["tls", "ca", "create"][..], &["tls", "cert", "create", "-server"]] {
            assert!(lictor(&file(kind), words).0);
        }
    }
    let (certificate, key) = (file("served.pem"), file("served-key.pem"));
    let serve = |kind: &str| {
        fs::copy(folder.join(kind).join("dc1-server-consul-0.pem"), &certificate).unwrap();
        fs::copy(folder.join(kind).join("dc1-server-consul-0-key.pem"), &key).unwrap();
    };
    serve("old");
    house.reconfigure(|config| {
        config["ports"]["https"] = https.into();
        config["cert_file"] = json!(certificate);
        config["key_file"] = json!(key);
    });
    house.start_agent();
    house.wait_ready();
    let trusted = |kind: &str| {
        let authority = folder.join(kind).join("consul-agent-ca.pem").display().to_string();
        let address = format!("https://127.0.0.1:{https}");
        lictor(&folder, &["members", "-http-addr", &address, "-ca-file", &authority])
    };
    assert!(trusted("old").0, "{}", trusted("old").1);
    let header = |name: &str| house.get("/v1/status/leader").headers.get(name).cloned();
    assert_eq!(header("x-old").as_deref(), Some("1"));

    serve("new");
    house.reconfigure(|config| {
        config["http_config"] = json!({
            "response_headers": {"x-new": "2"},
            "block_endpoints": ["/v1/event"],
        });
    });
    house.put("/v1/agent/reload", Value::Null);
    assert_eq!((header("x-old"), header("x-new").as_deref()), (None, Some("2")));
    assert_eq!(house.get("/v1/event/list").status, 403);
    assert!(trusted("new").0, "{}", trusted("new").1);
    assert!(!trusted("old").0, "the certificate of before is shown");

    // What cannot be used refuses the whole, and nothing has changed.
    fs::copy(folder.join("old/dc1-server-consul-0-key.pem"), &key).unwrap();
    house.reconfigure(|config| config["http_config"] = json!({}));
    let refused = house.request("PUT", "/v1/agent/reload", b"");
    assert_eq!(refused.status, 500, "{}", refused.text());
    assert_eq!(header("x-new").as_deref(), Some("2"));
    assert!(trusted("new").0, "{}", trusted("new").1);

    serve("new");
    house.reconfigure(|config| config["http_config"] = json!({"allow_write_http_from": ["10.0.0.0/8"]}));
    house.put("/v1/agent/reload", Value::Null);
    let write = house.request("PUT", "/v1/kv/a", b"1");
    assert_eq!((write.status, write.text().as_str()), (403, "Access is restricted"));
}

#[test]
fn servers_start_without_ports_for_gossip_and_servers() {
    let house = House::start(LICTOR, json!({"ports": {"serf_lan": -1, "server": -1}}));
    let shown = house.get("/v1/agent/self").json();
    assert_eq!((&shown["DebugConfig"]["SerfPortLAN"], &shown["DebugConfig"]["ServerPort"]), (&json!(-1), &json!(-1)));
}

#[test]
fn an_agent_for_development_serves_a_page_of_ones_own() {
    let mut house = House::build_dev(LICTOR, json!({}));
    let page = house.folder().join("page");
    fs::create_dir(&page).unwrap();
    fs::write(page.join("index.html"), "<title>ours</title>").unwrap();
    house.reconfigure(|config| config["ui_dir"] = json!(page));
    house.start_agent();
    house.wait_ready();
    assert_eq!(house.get("/ui/").text(), "<title>ours</title>");
}

#[test]
fn the_environment_of_the_commands_configures_no_agent() {
    let mut house = House::build_dev(LICTOR, json!({}));
    house.start_agent_with(&[
        ("CONSUL_DATACENTER", "x"),
        ("CONSUL_HTTP_ADDR", "127.0.0.1:1"),
        ("CONSUL_HTTP_TOKEN", "t"),
    ]);
    house.wait_ready();
    let shown = house.get("/v1/agent/self").json();
    assert_eq!(shown["Config"]["Datacenter"], "dc1");
}

#[test]
fn each_address_of_a_template_has_its_listeners() {
    let template = "127.0.0.1 {{ printf \"127.0.0.%d\" 2 }}";
    let house = House::start_dev(LICTOR, json!({"client_addr": template}));
    let shown = house.get("/v1/agent/self").json();
    let port = house.http_port;
    assert_eq!(
        shown["DebugConfig"]["HTTPAddrs"],
        json!([format!("tcp://127.0.0.1:{port}"), format!("tcp://127.0.0.2:{port}")])
    );
    for host in ["127.0.0.1", "127.0.0.2"] {
        TcpStream::connect((host, house.http_port)).unwrap();
        TcpStream::connect((host, house.dns_port)).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket.connect((host, house.dns_port)).unwrap();
        // The SOA of the zone.
        let question = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x06consul\x00\x00\x06\x00\x01";
        socket.send(question).unwrap();
        let mut answer = [0; 512];
        let size = socket.recv(&mut answer).unwrap();
        assert_eq!((&answer[..2], &answer[6..8]), (&question[..2], &[0, 1][..]), "{:?}", &answer[..size]);
    }
    // Without any address nothing listens, and that is said.
    let mut silent = House::build_dev(LICTOR, json!({"client_addr": ""}));
    silent.start_agent();
    until("the agent says that nobody can ask it", || silent.log().contains("no HTTP or HTTPS listener"));
    assert!(silent.ended().is_none());
    silent.kill_agent();
}
