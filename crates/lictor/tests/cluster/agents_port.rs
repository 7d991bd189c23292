//! What servers open for client agents, as whoever can reach the port may try it: by hand, without an agent of ours.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use lictor_testkit::http::{self, Answer};
use lictor_testkit::program::find;
use lictor_testkit::{House, until};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::client_agents::{lay_over, made, make_ca, serf, server, tls};
use crate::house::{Cluster, LICTOR};

/// Asks at the port for agents.
fn ask(at: &House, method: &str, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
    let text = if body.is_null() { String::new() } else { body.to_string() };
    let limit = Duration::from_secs(20);
    http::request(at.http_port + 2, method, path, headers, text.as_bytes(), limit).unwrap()
}

fn alive(at: &House, secret: &str, node: &str, id: &str, lease: u64) -> Answer {
    let body = json!({"Node": node, "ID": id, "Address": "10.1.2.3:8300", "Lease": lease});
    ask(at, "PUT", "/v1/internal/agent/alive", &[("X-Consul-Token", secret)], &body)
}

fn lease(answer: &Answer) -> u64 {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["Lease"].as_u64().unwrap()
}

#[test]
fn neither_an_id_nor_the_number_of_a_lease_gives_a_right_over_who_has_it() {
    let acl = json!({"enabled": true, "default_policy": "deny", "tokens": {"master": "root", "default": "root"}});
    let server = server(json!({"acl": acl}));
    let token = |node: &str| {
        let policy = json!({"Name": node, "Rules": format!("node \"{node}\" {{ policy = \"write\" }}")}).to_string();
        assert_eq!(server.request("PUT", "/v1/acl/policy", policy.as_bytes()).status, 200);
        let token = json!({"Policies": [{"Name": node}]}).to_string();
        server.request("PUT", "/v1/acl/token", token.as_bytes()).json()["SecretID"].as_str().unwrap().to_owned()
    };
    let (evil, loud) = (token("evil"), token("FAR"));
    let (far_id, own_id) = ("adf4238a-882b-9ddc-4a9d-5b6758e4159e", "bdf4238a-882b-9ddc-4a9d-5b6758e4159e");
    let far = lease(&alive(&server, "root", "far", far_id, 0));

    // Who has an id makes way for a node that is renamed: for one with the right over both.
    let servers_id = server.get("/v1/catalog/node/server").json()["Node"]["ID"].as_str().unwrap().to_owned();
    for id in [far_id, &servers_id] {
        let answer = alive(&server, &evil, "evil", id, 0);
        assert_eq!(answer.status, 403, "{}", answer.text());
    }
    // Rules know upper case from lower case, and nodes do not.
    assert_eq!(alive(&server, &loud, "FAR", far_id, 0).status, 403);
    let secret = [("X-Consul-Token", loud.as_str())];
    assert_eq!(ask(&server, "PUT", "/v1/internal/agent/gone", &secret, &json!({"Node": "FAR"})).status, 403);
    let nodes = server.get("/v1/catalog/nodes").json();
    let nodes: Vec<&str> = nodes.as_array().unwrap().iter().filter_map(|node| node["Node"].as_str()).collect();
    assert_eq!(nodes, ["far", "server"]);

    // Whoever says the number of another's lease gets one of their own, and the other's ends.
    let evils = lease(&alive(&server, &evil, "evil", own_id, 0));
    assert_eq!(lease(&alive(&server, &evil, "evil", own_id, evils)), evils, "one's own is kept");
    until("the node without a word is lost", || {
        assert_ne!(lease(&alive(&server, &evil, "evil", own_id, far)), far);
        serf(&server, "far") == "critical"
    });
    assert_eq!(serf(&server, "evil"), "passing");
}

#[test]
fn what_is_the_same_for_all_needs_no_secret_that_is_known_and_in_the_clear_the_rules_of_the_door_hold() {
    let acl = json!({"enabled": true, "default_policy": "deny", "tokens": {"master": "root", "default": "root"}});
    let door = json!({"block_endpoints": ["/v1/catalog/nodes"], "allow_write_http_from": ["10.0.0.0/8"]});
    let server = server(json!({"acl": acl, "http_config": door}));
    let nonsense = [("X-Consul-Token", "nonsense")];
    for path in ["/v1/status/leader", "/v1/status/peers", "/v1/catalog/datacenters", "/v1/connect/ca/roots"] {
        let here = ask(&server, "GET", path, &nonsense, &Value::Null);
        let there = server.get(path);
        assert_eq!((here.status, here.text()), (200, there.text()), "{path}");
    }
    assert_eq!(ask(&server, "GET", "/v1/kv/a", &nonsense, &Value::Null).status, 403);

    // Without a certificate it may as well be anybody on this machine.
    let root = [("X-Consul-Token", "root")];
    assert_eq!(server.get("/v1/catalog/nodes").status, 403);
    assert_eq!(ask(&server, "GET", "/v1/catalog/nodes", &root, &Value::Null).status, 403);
    assert_eq!(server.request("PUT", "/v1/kv/a", b"x").status, 403);
    assert_eq!(ask(&server, "PUT", "/v1/kv/a", &root, &json!("x")).status, 403);
}

#[test]
fn who_says_for_which_node_they_ask_is_heard_at_the_port_for_agents_alone_and_nothing_there_is_about_the_server() {
    let acl = json!({"enabled": true, "default_policy": "deny", "tokens": {"master": "root", "default": "root"}});
    let server = server(json!({"acl": acl}));
    assert_eq!(alive(&server, "root", "knöten", "", 0).status, 200);
    let with = [("X-Consul-Token", "root"), ("X-Lictor-Node", "knöten")];
    let made = ask(&server, "PUT", "/v1/session/create", &with, &json!({})).json();
    let session = format!("/v1/session/info/{}", made["ID"].as_str().unwrap());
    assert_eq!(server.get(&session).json()[0]["Node"], "knöten");
    // Its own services, checks and proxies are for those on its node.
    for (method, path) in [
        ("GET", "/v1/agent/self"),
        ("PUT", "/v1/agent/service/register"),
        ("PUT", "/v1/agent/leave"),
        ("GET", "/v1/agent/connect/ca/leaf/web"),
    ] {
        assert_eq!(ask(&server, method, path, &with, &Value::Null).status, 404, "{path}");
    }
    assert_eq!(ask(&server, "GET", "/v1/agent/members", &with, &Value::Null).status, 200);
}

#[test]
fn the_header_that_names_the_asking_node_is_nothing_at_the_open_door() {
    let server = server(json!({}));
    assert_eq!(alive(&server, "", "far", "", 0).status, 200);
    let node = [("X-Lictor-Node", "far")];
    for (port, owner) in [(server.http_port, "server"), (server.http_port + 2, "far")] {
        let limit = Duration::from_secs(10);
        let made = http::request(port, "PUT", "/v1/session/create", &node, b"{}", limit).unwrap().json();
        let session = format!("/v1/session/info/{}", made["ID"].as_str().unwrap());
        assert_eq!(server.get(&session).json()[0]["Node"], owner);
    }
    for (method, path) in [("GET", "token"), ("PUT", "sign"), ("PUT", "alive"), ("PUT", "gone"), ("PUT", "dns")] {
        assert_eq!(server.request(method, &format!("/v1/internal/agent/{path}"), b"{}").status, 404, "{path}");
    }
}

/// One asks at the port for agents with these certificates; the code of the answer, 0 for none.
fn curl(at: &House, path: &str, certificate: Option<(&Path, &Path)>) -> u16 {
    let mut command = Command::new(find("curl").unwrap());
    // Who the server is does not matter here: it is the server's to look who asks.
    command.args(["-sk", "--max-time", "20", "-o", "/dev/null", "-w", "%{http_code}"]);
    if let Some((certificate, key)) = certificate {
        command.arg("--cert").arg(certificate).arg("--key").arg(key);
    }
    let output = command.arg(format!("https://127.0.0.1:{}{path}", at.http_port + 2)).output();
    String::from_utf8_lossy(&output.unwrap().stdout).trim().parse().unwrap()
}

fn pair(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
    let file = |what: &str| folder.join(format!("dc1-{name}-consul-0{what}.pem"));
    (file(""), file("-key"))
}

#[test]
fn a_server_hears_agents_with_a_certificate_of_its_authority_and_nobody_else() {
    if find("curl").is_none() {
        eprintln!("skipped: curl is not installed");
        return;
    }
    let (ours, others) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for folder in [&ours, &others] {
        make_ca(folder.path());
        made(folder.path(), &["tls", "cert", "create", "-server"]);
        made(folder.path(), &["tls", "cert", "create", "-client"]);
    }
    // Whatever is said of those who come to the other ports.
    let mut keys = tls(ours.path(), "server");
    let door = json!({"block_endpoints": ["/v1/catalog/nodes"]});
    lay_over(&mut keys, json!({"verify_incoming": false, "http_config": door}));
    let server = server(keys);
    let [our_pair, other_pair] = [&ours, &others].map(|folder| pair(folder.path(), "client"));
    let token = "/v1/internal/agent/token";
    let said = |(certificate, key): &(PathBuf, PathBuf)| curl(&server, token, Some((certificate, key)));
    assert_eq!((said(&our_pair), said(&other_pair), curl(&server, token, None)), (200, 0, 0));
    // The rules of the open door are not for agents.
    assert_eq!(server.get("/v1/catalog/nodes").status, 403);
    assert_eq!(curl(&server, "/v1/catalog/nodes", Some((&our_pair.0, &our_pair.1))), 200);
    // In the clear nothing is said.
    let limit = Duration::from_secs(10);
    let clear = http::request(server.http_port + 2, "GET", "/v1/internal/agent/token", &[], b"", limit);
    assert!(clear.as_ref().is_err() || clear.as_ref().is_ok_and(|answer| answer.status != 200), "{clear:?}");

    // The authority changes: its file is read again.
    fs::copy(others.path().join("consul-agent-ca.pem"), ours.path().join("consul-agent-ca.pem")).unwrap();
    assert_eq!((said(&our_pair), said(&other_pair)), (200, 0), "nobody has said so yet");
    server.signal_agent(Signal::HUP);
    until("the other authority counts", || said(&other_pair) == 200);
    assert_eq!((said(&our_pair), curl(&server, token, None)), (0, 0));
}

#[test]
fn a_server_says_where_it_serves_agents_or_why_it_does_not() {
    let one = server(json!({}));
    let port = one.http_port + 2;
    assert!(
        one.log().contains(&format!("server for client agents on 127.0.0.1:{port} (in the clear)")),
        "{}",
        one.log()
    );

    // In the clear and at a port that is taken, it can do without: many run several agents on one machine.
    let second = server(json!({"node_name": "second", "ports": {"server": port}}));
    assert!(second.log().contains("no client agent can ask this server"), "{}", second.log());
    assert!(second.log().contains(&format!("127.0.0.1:{port}")) && second.log().contains("ports.server"));

    // With certificates somebody relies on it.
    let folder = tempfile::tempdir().unwrap();
    make_ca(folder.path());
    made(folder.path(), &["tls", "cert", "create", "-server"]);
    let mut keys = tls(folder.path(), "server");
    lay_over(&mut keys, json!({"ports": {"server": port}}));
    let mut third = House::build(LICTOR, keys);
    third.start_agent();
    until("it does not start", || third.ended().is_some());
    let log = third.log();
    assert!(log.contains(&format!("127.0.0.1:{port}")) && log.contains("ports.server"), "{log}");

    // Whoever turns it off need not be told.
    for (more, says) in [
        (json!({"bind_addr": "0.0.0.0", "advertise_addr": "127.0.0.1"}), true),
        (json!({"ports": {"server": -1}}), false),
    ] {
        let none = server(more);
        let log = none.log();
        let why = "no client agent can ask this server: that takes ca_file (or ca_path), cert_file and key_file, or a bind_addr";
        assert_eq!(log.contains(why), says, "{log}");
        let port = none.http_port + 2;
        assert!(http::request(port, "GET", "/v1/status/leader", &[], b"", Duration::from_secs(5)).is_err());
    }
}

/// A node that speaks for itself at the port for agents, without an agent.
fn lives_by_its_lease(servers: &[House]) {
    let (first, last) = (&servers[0], &servers[servers.len() - 1]);
    let mut held = lease(&alive(first, "", "far", "", 0));
    first.put(
        "/v1/catalog/register",
        json!({"Node": "far", "SkipNodeUpdate": true, "Address": "10.1.2.3",
        "Service": {"Service": "web", "Port": 80}}),
    );
    // Longer than a lease, by whichever server.
    let begun = Instant::now();
    let mut turn = 0;
    while begun.elapsed() < Duration::from_secs(6) {
        let again = lease(&alive(&servers[turn % servers.len()], "", "far", "", held));
        assert_eq!(again, held, "the lease is kept by any server");
        assert_eq!(serf(last, "far"), "passing");
        turn += 1;
        std::thread::sleep(Duration::from_millis(500));
    }
    for at in servers {
        until("it is lost", || serf(at, "far") == "critical");
        let member = at.get("/v1/agent/members").json();
        let member = member.as_array().unwrap().iter().find(|member| member["Name"] == "far").unwrap().clone();
        assert_eq!((&member["Status"], &member["Tags"]["role"]), (&json!(4), &json!("node")));
        assert_eq!(at.get("/v1/catalog/service/web").json()[0]["Node"], "far");
        assert_eq!(at.get("/v1/health/service/web?passing").json(), json!([]));
    }
    let shown =
        Command::new(LICTOR).args(["members", "-http-addr", &format!("127.0.0.1:{}", first.http_port)]).output();
    let shown = String::from_utf8(shown.unwrap().stdout).unwrap();
    let line: Vec<&str> = shown.lines().find(|line| line.starts_with("far ")).unwrap().split_whitespace().collect();
    assert_eq!(line[2..4], ["failed", "client"], "{shown}");

    held = lease(&alive(last, "", "far", "", held));
    for at in servers {
        until("it is back", || serf(at, "far") == "passing");
        assert_eq!(at.get("/v1/health/service/web?passing").json()[0]["Node"]["Node"], "far");
    }
    assert_eq!(lease(&alive(first, "", "far", "", held)), held);
    // Nobody has heard of it for too long: it goes with all that is on it, and nobody else does.
    let nodes = |at: &House| at.get("/v1/catalog/nodes").json().as_array().map_or(0, Vec::len);
    for at in servers {
        until("it is forgotten", || nodes(at) == servers.len());
        assert_eq!(at.get("/v1/catalog/service/web").json(), json!([]));
    }
    for at in servers {
        let own = at.get("/v1/agent/self").json()["Config"]["NodeName"].as_str().unwrap().to_owned();
        assert_eq!(serf(first, &own), "passing", "a server that is there is never lost");
        // What servers say of themselves is not for others to say.
        let refused = alive(first, "", &own.to_ascii_uppercase(), "", 0);
        assert!(refused.status == 400 && refused.text().contains("that of a server"), "{}", refused.text());
        let body = json!({"Node": own});
        assert_eq!(ask(first, "PUT", "/v1/internal/agent/gone", &[], &body).status, 400);
    }
}

#[test]
fn a_client_of_an_only_server_lives_by_its_lease() {
    lives_by_its_lease(&[server(json!({"reconnect_timeout": "12s"}))]);
}

#[test]
fn a_client_of_servers_that_share_a_store_lives_by_its_lease() {
    let Some(cluster) = Cluster::start(1, 2, |_| json!({"reconnect_timeout": "12s"})) else { return };
    lives_by_its_lease(&cluster.servers);
}
