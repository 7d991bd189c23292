//! Keys of the configuration on the real program, one by one: that those without effect load and are named, that older names
//! do what the newer ones do, and the effects that no other test shows.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up shall fail")]
#![allow(clippy::print_stderr, reason = "what was skipped must be seen")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::net::{TcpStream, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::LICTOR;
use lictor_testkit::http::{self, Answer};
use lictor_testkit::{House, eventually, ports, program, until};
use rustix::process::Signal;
use serde_json::{Value, json};

fn with_token(house: &House, token: &str, method: &str, path: &str, body: &str) -> Answer {
    let headers = [("X-Consul-Token", token)];
    http::request(house.http_port, method, path, &headers, body.as_bytes(), Duration::from_secs(30)).unwrap()
}

/// A member of what the agent shows of its configuration.
fn shown(house: &House, token: &str, name: &str) -> Value {
    with_token(house, token, "GET", "/v1/agent/self", "").json()["DebugConfig"][name].clone()
}

/// Makes a CA and a pair of certificate and key of each kind below a folder, as an operator would.
fn certificates(folder: &Path) {
    for words in
        [&["tls", "ca", "create"][..], &["tls", "cert", "create", "-server"], &["tls", "cert", "create", "-client"]]
    {
        let done = Command::new(LICTOR).args(words).current_dir(folder).output().unwrap();
        assert!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
    }
}

/// Keys that the page of keys says have this effect, by the beginning of the cell.
fn keys_of_the_page(effect: &str) -> BTreeSet<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    let page = fs::read_to_string(page).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    let cells = rows.map(|row| row.split('|').map(str::trim).collect::<Vec<_>>());
    cells.filter(|cells| cells[5].starts_with(effect)).map(|cells| cells[1].trim_matches('`').to_owned()).collect()
}

#[test]
fn each_key_without_effect_loads_is_named_and_nothing_complains() {
    let mut house = House::build(LICTOR, json!({}));
    certificates(house.folder());
    let file = |name: &str| json!(house.folder().join(name));
    let wan = json!({
        "gossip_nodes": 5, "gossip_interval": "1s", "probe_interval": "2s", "probe_timeout": "1s", "suspicion_mult": 7,
        "retransmit_mult": 7,
    });
    let circonus = [
        "api_app",
        "api_token",
        "api_url",
        "broker_id",
        "broker_select_tag",
        "check_display_name",
        "check_force_metric_activation",
        "check_id",
        "check_instance_id",
        "check_search_tag",
        "check_tags",
        "submission_interval",
        "submission_url",
    ];
    let circonus: serde_json::Map<String, Value> =
        circonus.iter().map(|name| (format!("circonus_{name}"), json!("x"))).collect();
    let more = json!({
        "non_voting_server": true, "rejoin_after_leave": true, "serf_wan": "127.0.0.1",
        "addresses": {"grpc": "127.0.0.1"},
        "start_join": ["127.0.0.9"], "retry_join": ["provider=aws key=a"], "retry_interval": "1s", "retry_max": 1,
        "start_join_wan": ["127.0.0.9"], "retry_join_wan": ["127.0.0.9"], "retry_interval_wan": "1s",
        "retry_max_wan": 1, "server_name": "x", "gossip_lan": wan, "gossip_wan": wan,
        "encrypt": "cg8StVXbQJ0gPvMd9o7yrg==", "encrypt_verify_incoming": false, "encrypt_verify_outgoing": false,
        "disable_keyring_file": true, "reconnect_timeout_wan": "9h", "protocol": 3, "raft_protocol": 2,
        "raft_snapshot_threshold": 5, "raft_snapshot_interval": "10s",
        "performance": {"raft_multiplier": 1, "rpc_hold_timeout": "1s"},
        "limits": {"rpc_rate": 5, "rpc_max_burst": 3},
        "acl": {"policy_ttl": "1s", "token_ttl": "1s", "disabled_ttl": "1s", "down_policy": "deny",
            "enable_token_replication": true, "tokens": {"replication": "x"}},
        "acl_disabled_ttl": "1s",
    });
    let rest = json!({
        "ca_file": file("consul-agent-ca.pem"), "cert_file": file("dc1-server-consul-0.pem"),
        "key_file": file("dc1-server-consul-0-key.pem"), "verify_incoming_rpc": true, "verify_server_hostname": true,
        "dns_config": {"allow_stale": false, "max_stale": "1s", "use_cache": true, "cache_max_age": "1s"},
        "ui": true, "enable_debug": true, "disable_remote_exec": false, "telemetry": circonus,
        "disable_update_check": true, "disable_anonymous_signature": true, "snapshot_agent": {"a": [{"b": 1}, {}]},
        "autopilot": {"cleanup_dead_servers": false, "last_contact_threshold": "1s", "max_trailing_logs": 1,
            "server_stabilization_time": "1s", "redundancy_zone_tag": "a", "upgrade_version_tag": "b",
            "disable_upgrade_migration": true},
        "ae_interval": "5s", "check_deregister_interval_min": "5s", "check_reap_interval": "5s",
        "sync_coordinate_interval_min": "5s", "sync_coordinate_rate_target": 1.5, "segment_limit": 1,
        "segment_name_limit": 1, "revision": "a", "version": "b", "version_prerelease": "c",
        "consul": {
            "coordinate": {"update_batch_size": 1, "update_max_batches": 1, "update_period": "1s"},
            "raft": {"election_timeout": "3s", "heartbeat_timeout": "2s", "leader_lease_timeout": "1s"},
            "server": {"health_interval": "1s"},
        },
    });
    house.reconfigure(|config| {
        config["ports"]["grpc"] = 8502.into();
        for part in [&more, &rest] {
            config.as_object_mut().unwrap().extend(part.as_object().unwrap().clone());
        }
    });
    house.start_agent();
    house.wait_ready();
    let log = house.log();
    let complaints: Vec<_> = log.lines().filter(|line| line.contains("[WARN]") || line.contains("[ERR]")).collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
    let notices = log.lines().filter_map(|line| line.split_once("config: no effect here: "));
    let named: BTreeSet<String> = notices
        .filter_map(|(_, notice)| notice.split_once(" ("))
        .flat_map(|(names, _)| names.split(", ").map(str::to_owned))
        .collect();
    let mut wanted = keys_of_the_page("none");
    wanted.extend(keys_of_the_page("honoured on clients; none on servers"));
    assert!(wanted.len() > 80, "the page was read: {wanted:?}");
    assert_eq!(named, wanted);
    // What is shown of them is what was written, or what cannot be changed.
    assert_eq!(shown(&house, "", "AutopilotMaxTrailingLogs"), 1);
    assert_eq!(shown(&house, "", "AEInterval"), "1m0s");
}

#[test]
fn older_names_of_access_control_do_what_the_newer_ones_do() {
    let unknown = "6d5d3f83-7de3-4a5e-9d53-9d8cfb0f4dd1";
    let (root, of_agent) = ("c1c0f6a3-5b0b-4f0e-8d3e-0d7f2b6f3a11", "0d6bb1b0-7d1a-4d8b-b1f5-7d6b8e1d7c22");
    let house = House::start(
        LICTOR,
        json!({
            "acl_datacenter": "dc1", "acl_default_policy": "deny", "acl_down_policy": "allow", "acl_ttl": "10s",
            "acl_master_token": root, "acl_token": unknown, "acl_agent_token": root, "acl_agent_master_token": of_agent,
            "acl_replication_token": "x", "enable_acl_replication": true, "acl_enable_key_list_policy": true,
        }),
    );
    // Who says nothing has the default token, which nobody knows.
    let nobody = house.get("/v1/kv/a");
    assert_eq!((nobody.status, nobody.text().as_str()), (403, "ACL not found"));
    assert_eq!(with_token(&house, root, "PUT", "/v1/kv/a/b", "1").text(), "true");
    // That of the agent's master reads the agent and nothing else.
    assert_eq!(with_token(&house, of_agent, "GET", "/v1/agent/self", "").status, 200);
    assert_eq!(with_token(&house, of_agent, "GET", "/v1/kv/a/b", "").status, 403);
    for (name, value) in [
        ("ACLsEnabled", json!(true)),
        ("ACLDatacenter", json!("dc1")),
        ("ACLDefaultPolicy", json!("deny")),
        ("ACLDownPolicy", json!("allow")),
        ("ACLTokenTTL", json!("10s")),
        ("ACLEnableKeyListPolicy", json!(true)),
        ("ACLTokenReplication", json!(true)),
        ("ACLToken", json!("hidden")),
    ] {
        assert_eq!(shown(&house, root, name), value, "{name}");
    }
    // The node is in the catalog, by the agent's own token.
    until("the agent is registered", || {
        with_token(&house, root, "GET", "/v1/catalog/nodes", "").json()[0]["Node"] == "node1"
    });
    // One line names the older names, as far as they have newer ones.
    let log = house.log();
    let line = log.lines().find(|line| line.contains("config: deprecated keys: ")).unwrap_or_else(|| panic!("{log}"));
    for name in
        keys_of_the_page("deprecated name").iter().filter(|name| name.starts_with("acl_") && *name != "acl_datacenter")
    {
        assert!(line.contains(&format!("{name} (now ")), "{name}: {line}");
    }
    assert!(log.contains("The 'acl_datacenter' field is deprecated."), "{log}");
}

#[test]
fn listing_keys_needs_a_right_of_its_own_where_that_is_configured() {
    let root = "c1c0f6a3-5b0b-4f0e-8d3e-0d7f2b6f3a11";
    for (key, needed) in [("enable_key_list_policy", true), ("enable_key_list", true), ("", false)] {
        let mut acl = json!({"enabled": true, "default_policy": "deny", "tokens": {"master": root}});
        match key {
            "enable_key_list" => acl[key] = "enabled".into(),
            "" => {}
            key => acl[key] = true.into(),
        }
        let house = House::start(LICTOR, json!({"acl": acl}));
        assert_eq!(with_token(&house, root, "PUT", "/v1/kv/a/b", "1").text(), "true");
        let may = |right: &str| {
            let rules = format!("key_prefix \"a\" {{ policy = \"{right}\" }}");
            let policy = json!({"Name": right, "Rules": rules}).to_string();
            let policy = with_token(&house, root, "PUT", "/v1/acl/policy", &policy).json()["ID"].clone();
            let token = json!({"Policies": [{"ID": policy}]}).to_string();
            with_token(&house, root, "PUT", "/v1/acl/token", &token).json()["SecretID"].as_str().unwrap().to_owned()
        };
        let (reads, lists) = (may("read"), may("list"));
        assert_eq!(with_token(&house, &reads, "GET", "/v1/kv/a/b?raw", "").text(), "1");
        let listed = with_token(&house, &reads, "GET", "/v1/kv/a?recurse", "");
        assert_eq!(listed.status, if needed { 403 } else { 200 }, "{key}: {}", listed.text());
        assert_eq!(with_token(&house, &lists, "GET", "/v1/kv/a?recurse", "").json()[0]["Key"], "a/b");
    }
}

#[test]
fn before_version_8_of_the_rules_keys_were_guarded_and_nodes_were_not() {
    let acl = json!({"enabled": true, "default_policy": "deny", "tokens": {"master": "c1c0f6a3-5b0b-4f0e-8d3e-0d7f2b6f3a11"}});
    let house = House::start(LICTOR, json!({"acl": acl, "acl_enforce_version_8": false}));
    until("nobody sees the node", || house.get("/v1/catalog/nodes").json()[0]["Node"] == "node1");
    assert_eq!(house.get("/v1/kv/a").status, 403);
    assert!(house.log().contains("config: acl_enforce_version_8 = false leaves nodes"), "{}", house.log());
}

/// The number of a user.
fn id_of(user: &str) -> u32 {
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let number = users.lines().find_map(|line| line.strip_prefix(user)?.strip_prefix(':')?.split(':').nth(1));
    number.unwrap().parse().unwrap()
}

#[test]
fn addresses_of_a_node_are_shown_where_clients_look_for_them() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let mut house = House::build(
        LICTOR,
        json!({
            "node_id": "40E4A748-2192-161A-0510-9BF59FE950B5", "addresses": {"dns": "127.0.0.2"},
            "advertise_addr": "127.0.0.2", "advertise_addr_wan": "127.0.0.3", "translate_wan_addrs": true,
            "tagged_addresses": {"rack": "10.9.8.7", "lan": "1.1.1.1"},
            "discovery_max_stale": "10s", "disable_http_unprintable_char_filter": true,
        }),
    );
    let socket = house.folder().join("http.sock");
    // Only root may give a socket to somebody else; a user has a name, too.
    let own = fs::metadata(house.folder()).unwrap();
    let (user, uid, group) = match own.uid() {
        0 => ("nobody".to_owned(), id_of("nobody"), 65532),
        uid => (uid.to_string(), uid, own.gid()),
    };
    house.reconfigure(|config| {
        config["addresses"]["http"] = format!("127.0.0.1 unix://{}", socket.display()).into();
        config["unix_sockets"] = json!({"mode": "0711", "user": user, "group": group.to_string()});
    });
    house.start_agent();
    house.wait_ready();
    let file = fs::metadata(&socket).unwrap();
    assert_eq!((file.permissions().mode() & 0o777, file.uid(), file.gid()), (0o711, uid, group));
    assert_eq!(house.get("/v1/agent/self").json()["Config"]["NodeID"], "40e4a748-2192-161a-0510-9bf59fe950b5");
    // DNS is at its own address and nowhere else.
    assert_eq!(counted(&dns_at("127.0.0.2", &house, "node1.node.consul", A)), (1, false));
    assert!(UdpSocket::bind(("127.0.0.1", house.dns_port)).is_ok());
    until("the node is registered", || house.get("/v1/catalog/nodes").json()[0]["Node"] == "node1");
    let answer = house.get("/v1/catalog/nodes");
    let node = &answer.json()[0];
    assert_eq!(node["Address"], "127.0.0.2");
    let tagged = json!({"lan": "127.0.0.2", "wan": "127.0.0.3", "rack": "10.9.8.7"});
    assert_eq!(node["TaggedAddresses"], tagged);
    assert_eq!(house.get("/v1/agent/members").json()[0]["Addr"], "127.0.0.2");
    assert_eq!(house.get("/v1/agent/members?wan=1").json()[0]["Addr"], "127.0.0.3");
    assert_eq!(answer.headers["x-consul-translate-addresses"], "true");
    // Reads of the catalog may be stale, unless the client says otherwise; of others nothing is said.
    let consistency = |path: &str| house.get(path).headers.get("x-consul-effective-consistency").cloned();
    assert_eq!(consistency("/v1/catalog/nodes").as_deref(), Some("stale"));
    assert_eq!(consistency("/v1/health/state/any").as_deref(), Some("stale"));
    assert_eq!(consistency("/v1/catalog/nodes?leader").as_deref(), Some("leader"));
    // A character that does not print is one like others.
    assert_eq!(house.request("PUT", "/v1/kv/a%01b", b"1").text(), "true");
    assert_eq!(house.get("/v1/kv/?keys").json(), json!(["a\u{1}b"]));
    house.put("/v1/agent/service/register", json!({"Name": "two\nlines"}));
    assert_eq!(house.request("PUT", "/v1/agent/service/deregister/two%0Alines", b"").status, 200);
    assert_eq!(house.get("/v1/agent/services").json(), json!({}));
}

#[test]
fn signals_leave_where_the_configuration_says_so() {
    for (config, signal, code) in [
        (json!({}), Signal::TERM, 1),
        (json!({}), Signal::INT, 1),
        (json!({"leave_on_terminate": true}), Signal::TERM, 0),
        (json!({"leave_on_terminate": true}), Signal::INT, 1),
        (json!({"skip_leave_on_interrupt": false}), Signal::INT, 0),
        (json!({"skip_leave_on_interrupt": false}), Signal::TERM, 1),
    ] {
        let mut house = House::start(LICTOR, config.clone());
        assert_eq!(house.end_agent(signal).code(), Some(code), "{config} {signal:?}: {}", house.log());
        assert_eq!(house.log().contains("Gracefully shutting down agent..."), code == 0, "{config}");
    }
}

#[test]
fn the_id_of_a_node_is_its_hosts_where_that_is_wanted() {
    let id = |config: Value| {
        let house = House::start(LICTOR, config);
        house.get("/v1/agent/self").json()["Config"]["NodeID"].as_str().unwrap().to_owned()
    };
    let random = json!({});
    assert_ne!(id(random.clone()), id(random));
    let of_host = || id(json!({"disable_host_node_id": false}));
    // In a container there may be nothing that tells one host from another.
    let is_uuid = |text: &str| {
        text.trim().replace('-', "").len() == 32 && text.trim().chars().all(|c| c == '-' || c.is_ascii_hexdigit())
    };
    let known = ["/sys/class/dmi/id/product_uuid", "/etc/machine-id"];
    let known = known.iter().filter_map(|path| fs::read_to_string(path).ok()).any(|text| is_uuid(&text));
    assert_eq!(of_host() == of_host(), known);
}

fn dns(house: &House, name: &str, kind: u16) -> Vec<u8> {
    dns_at("127.0.0.1", house, name, kind)
}

/// How many records answer, and whether there are more.
fn counted(answer: &[u8]) -> (u16, bool) {
    (u16::from_be_bytes([answer[6], answer[7]]), answer[2] & 2 != 0)
}

/// One question without EDNS over UDP, and the answer as it came.
fn dns_at(host: &str, house: &House, name: &str, kind: u16) -> Vec<u8> {
    let mut question = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(u8::try_from(label.len()).unwrap());
        question.extend_from_slice(label.as_bytes());
    }
    question.push(0);
    question.extend_from_slice(&kind.to_be_bytes());
    question.extend_from_slice(&[0, 1]);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect((host, house.dns_port)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    socket.send(&question).unwrap();
    let mut answer = vec![0; 4096];
    let length = socket.recv(&mut answer).unwrap();
    answer.truncate(length);
    assert_eq!(answer[..2], question[..2]);
    answer
}

const A: u16 = 1;

#[test]
fn answers_of_dns_are_cut_written_and_given_up_as_configured() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let recursor = silent.local_addr().unwrap().to_string();
    let plain = House::start(LICTOR, json!({"recursors": [recursor]}));
    let other = House::start(
        LICTOR,
        json!({
            "recursors": [recursor],
            "dns_config": {"udp_answer_limit": 2, "enable_truncate": true, "disable_compression": true,
                "recursor_timeout": "100ms", "soa": {"refresh": 11, "retry": 12, "expire": 13, "min_ttl": 14}},
        }),
    );
    let timed = House::start(
        LICTOR,
        json!({"dns_config": {"node_ttl": "7s", "service_ttl": {"w*": "9s"}, "only_passing": true, "a_record_limit": 1,
            "enable_additional_node_meta_txt": false}}),
    );
    for house in [&plain, &other, &timed] {
        let warned = json!({"Node": "n7", "Address": "10.0.0.7", "NodeMeta": {"rack": "a"}, "Service": {"Service": "warned"},
            "Check": {"Name": "slow", "ServiceID": "warned", "Status": "warning"}});
        house.put("/v1/catalog/register", warned);
        for number in 1..=6 {
            let service = json!({"Service": "web", "Port": 80});
            let node = json!({"Node": format!("n{number}"), "Address": format!("10.0.0.{number}"), "Service": service});
            house.put("/v1/catalog/register", node);
        }
    }
    let name = "web.service.consul";
    assert_eq!(counted(&dns(&plain, name, A)), (3, false));
    assert_eq!(counted(&dns(&other, name, A)), (2, true));
    // The name of the first record: a pointer to the question's, or written out.
    let first = 12 + name.len() + 2 + 4;
    assert_eq!(dns(&plain, name, A)[first] & 0xc0, 0xc0);
    assert_eq!(dns(&other, name, A)[first..first + 4], *b"\x03web");
    // Behind that pointer, type and class stands for how long it may be kept.
    let kept = |house: &House, name: &str| {
        let at = 12 + name.len() + 2 + 4 + 6;
        let answer = dns(house, name, A);
        u32::from_be_bytes(answer[at..at + 4].try_into().unwrap())
    };
    assert_eq!((kept(&plain, name), kept(&plain, "n1.node.consul")), (0, 0));
    assert_eq!((kept(&timed, name), kept(&timed, "n1.node.consul")), (9, 7));
    assert_eq!(counted(&dns(&timed, name, A)), (1, false));
    let found = |house: &House| counted(&dns(house, "warned.service.consul", A)).0;
    assert_eq!((found(&plain), found(&timed)), (1, 0));
    let beside = |house: &House| dns(house, "n7.node.consul", A)[11];
    assert_eq!((beside(&plain), beside(&timed)), (1, 0));
    // What is not there comes with the SOA, whose numbers are at its end.
    let numbers = |answer: &[u8]| -> Vec<u32> {
        answer[answer.len() - 16..].chunks(4).map(|four| u32::from_be_bytes(four.try_into().unwrap())).collect()
    };
    assert_eq!(numbers(&dns(&plain, "nope.service.consul", A)), [3600, 600, 86400, 0]);
    assert_eq!(numbers(&dns(&other, "nope.service.consul", A)), [11, 12, 13, 14]);
    // A recursor that says nothing is waited for as long as that: by default for 2 s.
    let quickly = (0..10).any(|_| {
        let started = Instant::now();
        let answer = dns(&other, "example.com", A);
        assert_eq!(answer[3] & 15, 2, "SERVFAIL");
        started.elapsed() < Duration::from_millis(1900)
    });
    assert!(quickly, "it was waited for longer");
    let started = Instant::now();
    dns(&plain, "example.com", A);
    assert!(started.elapsed() >= Duration::from_secs(2), "{:?}", started.elapsed());
}

#[test]
fn https_asks_for_certificates_and_offers_what_is_configured() {
    let mut house = House::build(LICTOR, json!({}));
    certificates(house.folder());
    let folder = house.folder().to_owned();
    let https = ports::one();
    fs::create_dir(folder.join("roots")).unwrap();
    fs::copy(folder.join("consul-agent-ca.pem"), folder.join("roots/ours.pem")).unwrap();
    let (more, less) = ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256");
    house.reconfigure(|config| {
        config["ports"]["https"] = https.into();
        config["cert_file"] = json!(folder.join("dc1-server-consul-0.pem"));
        config["key_file"] = json!(folder.join("dc1-server-consul-0-key.pem"));
        config["ca_path"] = json!(folder.join("roots"));
        config["verify_incoming"] = true.into();
        config["tls_min_version"] = "tls12".into();
        config["tls_cipher_suites"] = format!("{more},{less}").into();
        config["tls_prefer_server_cipher_suites"] = true.into();
    });
    house.start_agent();
    house.wait_ready();
    let address = format!("https://127.0.0.1:{https}");
    let members = |words: &[&str]| {
        let command = ["members", "-http-addr", &address, "-ca-file", "consul-agent-ca.pem"];
        Command::new(LICTOR).args(command).args(words).current_dir(&folder).output().unwrap()
    };
    let own = ["-client-cert", "dc1-client-consul-0.pem", "-client-key", "dc1-client-consul-0-key.pem"];
    let known = members(&own);
    assert!(known.status.success(), "{}", String::from_utf8_lossy(&known.stderr));
    assert!(!members(&[]).status.success(), "who shows nothing is let in");
    let Some(curl) = program::find("curl") else {
        eprintln!("skipped in part: curl is not installed");
        return;
    };
    let suite = |offered: &str| {
        let words = ["-sv", "--tlsv1.2", "--tls-max", "1.2", "--ciphers", offered, "--cacert", "consul-agent-ca.pem"];
        let output = Command::new(&curl)
            .args(words)
            .args(["--cert", own[1], "--key", own[3], &format!("{address}/v1/status/leader")])
            .current_dir(&folder)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let used = said.lines().find_map(|line| line.split_once("TLSv1.2 / ")).map(|(_, suite)| suite.to_owned());
        output.status.success().then_some(used.unwrap_or_default())
    };
    let (aes256, aes128, chacha) =
        ("ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305");
    // The server's order counts, whatever the client would like better.
    let used = suite(&format!("{aes128}:{aes256}"));
    assert!(used.as_deref().is_some_and(|used| used.starts_with(aes256)), "{used:?}");
    assert!(suite(aes128).is_some_and(|used| used.starts_with(aes128)));
    assert_eq!(suite(chacha), None, "what is not configured is offered");
}

#[test]
fn output_of_checks_is_kept_and_published_as_configured_and_a_reload_changes_it() {
    let check = json!({"id": "clock", "name": "clock", "args": ["/bin/sh", "-c", "date +%s%N"], "interval": "100ms"});
    let house = House::start(
        LICTOR,
        json!({"enable_script_checks": true, "discard_check_output": true, "check_update_interval": "0s", "check": check}),
    );
    let here = || house.get("/v1/agent/checks").json()["clock"].clone();
    until("it has run", || here()["Status"] == "passing");
    assert_eq!(here()["Output"], "");
    house.reconfigure(|config| config["discard_check_output"] = false.into());
    house.put("/v1/agent/reload", Value::Null);
    let published = || house.get("/v1/health/node/node1").json().as_array().cloned().unwrap_or_default();
    let published = || {
        let clock = published().into_iter().find(|check| check["CheckID"] == "clock");
        clock.and_then(|check| check["Output"].as_str().map(str::to_owned)).unwrap_or_default()
    };
    until("its output is published", || !published().is_empty());
    let first = published();
    // At once, not after the five minutes of the default.
    until("the next output is published, too", || published() != first);
}

#[test]
fn scripts_of_files_run_where_those_of_the_api_may_not() {
    let check = json!({"id": "local", "name": "local", "args": ["/bin/true"], "interval": "1s"});
    let house = House::start(LICTOR, json!({"enable_local_script_checks": true, "check": check}));
    until("it has run", || house.get("/v1/agent/checks").json()["local"]["Status"] == "passing");
    let body = json!({"Name": "remote", "Args": ["/bin/true"], "Interval": "1s"}).to_string();
    let refused = house.request("PUT", "/v1/agent/check/register", body.as_bytes());
    assert!(refused.status != 200 && refused.text().contains("Scripts are disabled"), "{}", refused.text());
}

#[test]
fn proxies_that_say_nothing_of_their_kind_get_the_one_of_the_agent() {
    let defaults =
        json!({"exec_mode": "script", "daemon_command": ["/bin/sleep", "1000"], "script_command": ["/bin/true"]});
    let proxy = json!({"allow_managed_root": true});
    let connect = json!({"enabled": true, "ca_provider": "consul", "proxy": proxy, "proxy_defaults": defaults});
    let services = json!([
        {"name": "web", "port": 80, "connect": {"proxy": {}}},
        {"name": "db", "port": 81, "connect": {"proxy": {"exec_mode": "daemon"}}},
    ]);
    let house = House::start(LICTOR, json!({"connect": connect, "services": services}));
    let told = |id: &str| {
        let told = house.get(&format!("/v1/agent/connect/proxy/{id}")).json();
        (told["ExecMode"].clone(), told["Command"].clone())
    };
    assert_eq!(told("web-proxy"), (json!("script"), json!(["/bin/true"])));
    assert_eq!(told("db-proxy"), (json!("daemon"), json!(["/bin/sleep", "1000"])));
    until("the daemon runs", || {
        house.proxies().iter().any(|(id, pid)| {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            id == "db-proxy" && String::from_utf8_lossy(&command).contains("sleep")
        })
    });
    assert_eq!(house.get("/v1/connect/ca/configuration").json()["Provider"], "consul");
}

#[test]
fn a_log_file_is_begun_anew_when_its_time_is_over() {
    let mut house = House::build(LICTOR, json!({"log_rotate_duration": "1s"}));
    let folder = house.folder().join("logs");
    fs::create_dir(&folder).unwrap();
    house.reconfigure(|config| config["log_file"] = json!(folder.join("agent.log")));
    house.start_agent();
    house.wait_ready();
    until("there are two files", || {
        // Each request is a line of the log.
        house.get("/v1/status/leader");
        fs::read_dir(&folder).unwrap().count() >= 2
    });
}

/// A file that goes with the test.
struct Gone(&'static str);

impl Drop for Gone {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.0);
    }
}

#[test]
fn a_syslog_is_told_with_the_facility_configured() {
    const SYSLOG: &str = "/dev/log";
    if Path::new(SYSLOG).exists() {
        eprintln!("skipped: this machine has a syslog of its own");
        return;
    }
    let Ok(socket) = UnixDatagram::bind(SYSLOG) else {
        eprintln!("skipped: {SYSLOG} cannot be made here");
        return;
    };
    let _gone = Gone(SYSLOG);
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let house = House::start(LICTOR, json!({"enable_syslog": true, "syslog_facility": "LOCAL3"}));
    let mut room = [0; 4096];
    let length = socket.recv(&mut room).unwrap();
    let text = String::from_utf8_lossy(&room[..length]).into_owned();
    let priority: u32 = text.trim_start_matches('<').split('>').next().unwrap().parse().unwrap();
    assert_eq!(priority / 8, 19, "{text}");
    drop(house);
}

/// How an agent ended that cannot do what its configuration says.
fn refusal(config: &Value) -> String {
    let mut house = House::build(LICTOR, config.clone());
    house.start_agent();
    let status = eventually("it ends", || {
        let serves = house.try_request("GET", "/v1/status/leader", b"").is_ok();
        assert!(!serves, "it serves with {config}: {}", house.log());
        house.ended()
    });
    assert_eq!(status.code(), Some(1), "{config}: {}", house.log());
    house.log()
}

#[test]
fn an_agent_that_cannot_do_what_a_key_says_does_not_start_and_names_the_key_and_the_remedy() {
    let segments = "Network segments are not supported in this version of Consul";
    for (config, key, text, remedy) in [
        (json!({"segment": "blue"}), "segment", segments, "remove it"),
        (json!({"segments": [{"name": "blue", "port": 8303}]}), "segments", segments, "remove it"),
        (
            json!({"datacenter": "east", "primary_datacenter": "west"}),
            "primary_datacenter",
            "a second datacenter has its own root of trust",
            "set it to \"east\"",
        ),
        (json!({"server": false}), "bootstrap", "'bootstrap = true' requires 'server = true'", "remove bootstrap"),
        (
            json!({"connect": {"ca_provider": "aws"}}),
            "connect.ca_provider",
            "aws is not a valid CA provider",
            "use \"consul\"",
        ),
        (
            json!({"connect": {"ca_provider": "vault"}}),
            "connect.ca_provider",
            "vault is a CA provider that this build does not have",
            "use \"consul\"",
        ),
        (
            json!({"verify_incoming_rpc": true}),
            "verify_incoming_rpc",
            "VerifyIncoming set, and no CA certificate provided!",
            "add ca_file or ca_path",
        ),
        (
            json!({"verify_outgoing": true}),
            "verify_outgoing",
            "VerifyOutgoing set, and no CA certificate provided!",
            "add ca_file or ca_path",
        ),
        (
            json!({"tls_min_version": "tls99"}),
            "tls_min_version",
            "TLSMinVersion: value tls99 not supported, please specify one of [tls10,tls11,tls12]",
            "write \"tls12\"",
        ),
    ] {
        let log = refusal(&config);
        for part in ["agent.json", key, text, remedy] {
            assert!(log.contains(part), "{part:?} is not said for {config}: {log}");
        }
    }
}

#[test]
fn names_addresses_and_certificates_are_of_the_datacenter_the_domain_and_the_address_configured() {
    let house = House::start(
        LICTOR,
        json!({
            "datacenter": "East", "primary_datacenter": "EAST", "domain": "Foo.", "bind_addr": "127.0.0.2",
            "service": {"name": "web", "port": 80, "connect": {"proxy": {}}},
            "services": [{"name": "db", "port": 81}],
        }),
    );
    assert_eq!(house.get("/v1/agent/self").json()["Config"]["Datacenter"], "east");
    assert_eq!(house.get("/v1/catalog/datacenters").json(), json!(["east"]));
    assert_eq!(house.get("/v1/catalog/nodes?dc=dc1").text().trim(), "No path to datacenter");
    for (name, port) in [("web", 80), ("db", 81)] {
        until("the service is in the catalog", || {
            house.get(&format!("/v1/catalog/service/{name}")).json()[0]["ServicePort"] == port
        });
    }
    let leaf = house.get("/v1/agent/connect/ca/leaf/web").json();
    let uri = leaf["ServiceURI"].as_str().unwrap();
    assert!(uri.ends_with("/ns/default/dc/east/svc/web"), "{uri}");

    for name in ["web.service.foo", "web.service.east.FOO", "node1.node.foo"] {
        assert_eq!(counted(&dns(&house, name, A)), (1, false), "{name}");
    }
    for name in ["web.service.dc1.foo", "web.service.consul", "node1.node.consul"] {
        assert_eq!(counted(&dns(&house, name, A)), (0, false), "{name}");
    }

    // What others reach this node by is bound to its address, and to no other one.
    assert_eq!(house.get("/v1/catalog/nodes").json()[0]["Address"], "127.0.0.2");
    let server = house.http_port + 2;
    until("the proxy serves", || TcpStream::connect(("127.0.0.2", house.first_proxy_port)).is_ok());
    for port in [server, house.first_proxy_port] {
        assert!(TcpStream::connect(("127.0.0.2", port)).is_ok(), "{port}");
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "{port}");
    }
}

#[test]
fn https_has_addresses_of_its_own_and_proxies_are_told_whether_to_verify_it() {
    let mut house = House::build(LICTOR, json!({}));
    certificates(house.folder());
    let folder = house.folder().to_owned();
    let https = ports::one();
    let socket = folder.join("https.sock");
    let seen = folder.join("seen");
    house.reconfigure(|config| {
        config["addresses"] = json!({"https": format!("127.0.0.2 unix://{}", socket.display())});
        config["ports"]["https"] = https.into();
        config["cert_file"] = json!(folder.join("dc1-server-consul-0.pem"));
        config["key_file"] = json!(folder.join("dc1-server-consul-0-key.pem"));
        config["ca_file"] = json!(folder.join("consul-agent-ca.pem"));
        config["verify_outgoing"] = true.into();
        config["tls_min_version"] = "tls11".into();
        let line = format!("env > {0}.new; mv {0}.new {0}; exec sleep 1000", seen.display());
        let proxy = json!({"command": ["/bin/sh", "-c", line]});
        config["service"] = json!({"name": "web", "port": 80, "connect": {"proxy": proxy}});
        // It is told the address of HTTPS, by which a house does not find it.
        config["connect"]["proxy_defaults"] = json!({"kill_on_agent_exit": true});
    });
    house.start_agent();
    house.wait_ready();
    let members = Command::new(LICTOR)
        .args(["members", "-http-addr", &format!("https://127.0.0.2:{https}"), "-ca-file", "consul-agent-ca.pem"])
        .args(["-tls-server-name", "localhost"])
        .current_dir(&folder)
        .output()
        .unwrap();
    assert!(members.status.success(), "{}", String::from_utf8_lossy(&members.stderr));
    assert!(TcpStream::connect(("127.0.0.1", https)).is_err(), "it is at the address of HTTP, too");
    assert!(UnixStream::connect(&socket).is_ok());
    let told = eventually("the proxy has written what it was told", || fs::read_to_string(&seen).ok());
    let told: BTreeSet<&str> = told.lines().collect();
    let address = format!("CONSUL_HTTP_ADDR=127.0.0.2:{https}");
    assert!(told.contains(address.as_str()) && told.contains("CONSUL_HTTP_SSL_VERIFY=true"), "{told:?}");
    // Versions that nobody speaks any more are no reason not to start.
    assert!(house.log().contains("tls_min_version = \"tls11\" is raised to \"tls12\""), "{}", house.log());
}

#[test]
fn numbers_have_the_first_word_and_the_filter_configured_and_without_connect_there_are_no_roots() {
    let filter = ["+mine.http", "+mine.autopilot"];
    let telemetry = json!({
        "metrics_prefix": "mine", "disable_hostname": true, "filter_default": false, "prefix_filter": filter,
    });
    let house = House::start_dev(LICTOR, json!({"telemetry": telemetry, "connect": {"enabled": false}}));
    let named = |list: &str| -> BTreeSet<String> {
        let shown = house.get("/v1/agent/metrics").json();
        let all = shown[list].as_array().unwrap().iter();
        all.map(|one| one["Name"].as_str().unwrap().to_owned()).collect()
    };
    until("the request is shown", || {
        house.get("/v1/status/leader");
        named("Samples").contains("mine.http.GET.v1.status.leader")
    });
    // It is taken behind those that no filter names.
    until("a gauge is shown", || named("Gauges").contains("mine.autopilot.healthy"));
    let all: BTreeSet<String> = ["Gauges", "Counters", "Samples"].into_iter().flat_map(named).collect();
    assert!(all.iter().all(|name| filter.iter().any(|passes| name.starts_with(&passes[1..]))), "{all:?}");

    for path in ["/v1/connect/ca/roots", "/v1/agent/connect/ca/leaf/web"] {
        let refused = house.get(path);
        let why = "Connect must be enabled in order to use this endpoint";
        assert_eq!((refused.status, refused.text().as_str()), (500, why), "{path}");
    }
}
