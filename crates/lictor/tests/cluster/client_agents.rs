//! Client agents on real processes: they hold nothing, ask servers, and lose nothing when those are away.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use lictor_model::identity::{ServiceIdentity, TrustDomain};
use lictor_testkit::{Etcd, House, http, ports, until};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::common::{Load, echo, echo_once, wait_path};
use crate::house::{Cluster, LICTOR, healthy};

/// A server that notices within seconds who is gone.
pub(crate) fn server(more: Value) -> House {
    let mut house = House::build(LICTOR, json!({"node_name": "server", "store": {"node_ttl": "3s"}}));
    house.reconfigure(|config| lay_over(config, more));
    house.start_agent();
    house.wait_ready();
    house
}

/// Lays objects over objects.
pub(crate) fn lay_over(under: &mut Value, over: Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (key, value) in over {
                lay_over(under.entry(key).or_insert(Value::Null), value);
            }
        }
        (under, over) => *under = over,
    }
}

/// A client agent of a server.
fn client(of: &House, name: &str, more: Value) -> House {
    let shows = more["acl"].is_null();
    let mut house = build_client(of, name, more);
    house.start_agent();
    house.wait_ready();
    if shows {
        until("its node is there", || serf(of, name) == "passing");
    }
    house
}

fn build_client(of: &House, name: &str, more: Value) -> House {
    let house = House::build(LICTOR, json!({"node_name": name, "server": false, "bootstrap": false}));
    let join = json!([format!("127.0.0.1:{}", of.http_port + 2)]);
    house.reconfigure(|config| {
        lay_over(
            config,
            json!({
                "retry_join": join, "retry_interval": "200ms", "leave_on_terminate": false,
                "connect": {"proxy": {"allow_managed_api_registration": true}},
            }),
        );
        lay_over(config, more);
    });
    house
}

pub(crate) fn serf(at: &House, node: &str) -> Value {
    let checks = at.get(&format!("/v1/health/node/{node}")).json();
    let all = checks.as_array().cloned().unwrap_or_default();
    all.into_iter().find(|check| check["CheckID"] == "serfHealth").map_or(Value::Null, |check| check["Status"].clone())
}

fn members(at: &House) -> Vec<(String, String, u64)> {
    let mut all: Vec<_> = at.get("/v1/agent/members").json().as_array().unwrap().iter().map(member).collect();
    all.sort();
    all
}

fn member(member: &Value) -> (String, String, u64) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (text(&member["Name"]), text(&member["Tags"]["role"]), member["Status"].as_u64().unwrap())
}

#[test]
fn what_is_asked_of_a_client_is_what_its_server_says() {
    let server = server(json!({}));
    let one = client(&server, "one", json!({}));
    let two = client(&server, "two", json!({}));

    // Registered here, found everywhere, and removed again.
    one.put("/v1/agent/service/register", json!({"Name": "web", "Port": 80, "Tags": ["a"], "Meta": {"k": "v"}}));
    for at in [&server, &two, &one] {
        let found = at.get("/v1/catalog/service/web").json();
        assert_eq!((&found[0]["Node"], &found[0]["ServiceMeta"]["k"]), (&json!("one"), &json!("v")), "{found}");
    }
    assert_eq!(one.get("/v1/agent/services").json()["web"]["Port"], 80);
    assert_eq!(two.get("/v1/agent/services").json(), json!({}));
    let known = one.get("/v1/agent/self").json();
    assert_eq!((&known["Config"]["Server"], &known["Stats"]["consul"]["server"]), (&json!(false), &json!("false")));
    assert_eq!(known["Stats"]["consul"]["known_servers"], "1");
    assert_eq!(known["Member"]["Tags"]["role"], "node");
    let all = [("one", "node", 1), ("server", "consul", 1), ("two", "node", 1)];
    let all = all.map(|(name, role, status)| (name.to_owned(), role.to_owned(), status));
    assert_eq!((members(&server), members(&one)), (all.to_vec(), all.to_vec()));

    // Answers are the server's, whatever they are: status, index, texts, unknown paths.
    for path in [
        "/v1/catalog/nodes",
        "/v1/catalog/services",
        "/v1/health/service/web?passing&pretty",
        "/v1/health/state/any",
        "/v1/connect/ca/roots",
        "/v1/kv/nothing",
        "/v1/session/info/nonsense",
        "/v1/catalog/service/",
        "/v1/catalog/nodes?dc=elsewhere",
        "/v1/query/nothing/execute",
        "/v1/status/leader",
        "/v1/acl/tokens",
        "/v1/event/list",
        "/v1/nonsense",
    ] {
        let (here, there) = (one.get(path), server.get(path));
        assert_eq!((here.status, here.text()), (there.status, there.text()), "{path}");
        for header in ["x-consul-index", "x-consul-knownleader", "content-type"] {
            assert_eq!(here.headers.get(header), there.headers.get(header), "{header} of {path}");
        }
    }
    // What is for agents is at their port alone.
    for at in [&server, &one] {
        assert_eq!(at.get("/v1/internal/agent/token").status, 404);
    }

    // A read that waits is woken through two agents.
    let index = two.get("/v1/health/service/web").index();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let started = Instant::now();
            let answer = two.get(&format!("/v1/health/service/web?wait=60s&index={index}"));
            (answer.json().as_array().map(Vec::len), started.elapsed())
        });
        one.put("/v1/agent/service/register", json!({"Name": "web", "ID": "web2", "Port": 81}));
        let (found, took) = waiting.join().unwrap();
        assert!(found == Some(2) && took < Duration::from_secs(30), "{found:?} {took:?}");
    });
    // Keys, locks, transactions and queries; a session without a node is of the node that was asked.
    assert_eq!(one.request("PUT", "/v1/kv/a", b"b").text().trim(), "true");
    assert_eq!(two.get("/v1/kv/a?raw").text(), "b");
    let session = one.put("/v1/session/create", json!({})).json()["ID"].as_str().unwrap().to_owned();
    assert_eq!(server.get(&format!("/v1/session/info/{session}")).json()[0]["Node"], "one");
    assert_eq!(two.request("PUT", &format!("/v1/kv/lock?acquire={session}"), b"").text().trim(), "true");
    let query = json!({"Name": "q", "Service": {"Service": "web", "Near": "_agent"}});
    assert_eq!(two.request("POST", "/v1/query", query.to_string().as_bytes()).status, 200);
    assert_eq!(one.get("/v1/query/q/execute").json()["Nodes"].as_array().map(Vec::len), Some(2));
    let snapshot = one.get("/v1/snapshot");
    assert_eq!((snapshot.status, &snapshot.body[..2]), (200, &b"\x1f\x8b"[..]));

    // Events are for whom they are meant.
    for (name, filter) in [("all", ""), ("first", "?node=^one$"), ("served", "?service=web"), ("second", "?node=two")] {
        two.put(&format!("/v1/event/fire/{name}{filter}"), Value::Null);
    }
    let listed = |at: &House| {
        let all = at.get("/v1/event/list").json();
        all.as_array().unwrap().iter().map(|event| event["Name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(listed(&one), ["all", "first", "served"]);
    assert_eq!(listed(&two), ["all", "second"]);
    assert_eq!(listed(&server), ["all"]);

    one.put("/v1/agent/service/deregister/web", Value::Null);
    one.put("/v1/agent/service/deregister/web2", Value::Null);
    assert_eq!(server.get("/v1/catalog/service/web").json(), json!([]));
}

#[test]
fn a_client_that_is_gone_is_lost_and_back_and_leaves_in_order() {
    let mut server = server(json!({}));
    let mut one = client(&server, "one", json!({}));
    one.put("/v1/agent/service/register", json!({"Name": "web", "Port": 80}));
    assert_eq!(serf(&server, "one"), "passing");

    one.signal_agent(Signal::STOP);
    until("the silent client is lost", || serf(&server, "one") == "critical");
    assert_eq!(server.get("/v1/health/service/web?passing").json(), json!([]));
    assert!(members(&server).contains(&("one".into(), "node".into(), 4)), "{:?}", members(&server));
    one.signal_agent(Signal::CONT);
    until("it is back", || serf(&server, "one") == "passing");
    assert_eq!(server.get("/v1/health/service/web?passing").json().as_array().map(Vec::len), Some(1));

    // A server that was away for longer than anybody counts as alive gives its clients the time to find it.
    server.kill_agent();
    until("the client sees that no server answers", || one.get("/v1/catalog/nodes").status == 500);
    assert_eq!(one.get("/v1/catalog/nodes").text().trim(), "No known Consul servers");
    server.start_agent();
    server.wait_ready();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(5) {
        assert_eq!(serf(&server, "one"), "passing", "{:?} after the start", begun.elapsed());
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(one.get("/v1/catalog/nodes").json().as_array().map(Vec::len), Some(2));

    // Killed and started again it is as it was; with what it registered while no server answered.
    one.kill_agent();
    server.kill_agent();
    one.start_agent();
    until("it answers without a server", || one.try_request("GET", "/v1/agent/services", b"").is_ok());
    let begun = Instant::now();
    one.put("/v1/agent/service/register", json!({"Name": "late", "Port": 81}));
    assert!(begun.elapsed() < Duration::from_secs(5), "it waited for a server: {:?}", begun.elapsed());
    server.start_agent();
    server.wait_ready();
    until("all of it is in the catalog", || {
        let services = server.get("/v1/catalog/services").json();
        ["web", "late"].iter().all(|name| services.get(name).is_some())
    });

    one.put("/v1/agent/leave", Value::Null);
    until("it has ended", || one.ended().is_some());
    let nodes = server.get("/v1/catalog/nodes").json();
    assert_eq!((nodes.as_array().map(Vec::len), &nodes[0]["Node"]), (Some(1), &json!("server")), "{nodes}");
    assert_eq!(members(&server), [("server".into(), "consul".into(), 1)]);
}

#[test]
fn who_is_lost_can_be_forced_to_leave_and_is_as_it_was_when_it_is_back() {
    let server = server(json!({}));
    let one = client(&server, "one", json!({}));
    let two = client(&server, "two", json!({}));
    one.put("/v1/agent/service/register", json!({"Name": "web", "Port": 80}));
    let nodes = || -> Vec<String> {
        let nodes = server.get("/v1/catalog/nodes").json();
        nodes.as_array().unwrap().iter().map(|node| node["Node"].as_str().unwrap().to_owned()).collect()
    };
    // Who is alive stays, and nobody minds a name that nobody knows.
    for name in ["one", "server", "nobody"] {
        assert_eq!(server.put(&format!("/v1/agent/force-leave/{name}"), Value::Null).status, 200);
    }
    assert_eq!(nodes(), ["one", "server", "two"]);

    one.signal_agent(Signal::STOP);
    until("the silent client is lost", || serf(&server, "one") == "critical");
    // At whichever agent.
    let output = Command::new(LICTOR)
        .args(["force-leave", "One"])
        .env("CONSUL_HTTP_ADDR", format!("127.0.0.1:{}", two.http_port))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(nodes(), ["server", "two"]);
    assert_eq!(members(&server).iter().map(|(name, ..)| name.as_str()).collect::<Vec<_>>(), ["server", "two"]);
    assert_eq!(server.get("/v1/catalog/service/web").json(), json!([]));

    one.signal_agent(Signal::CONT);
    until("it is back with all that is on it", || healthy(&server, "web") == ["one"]);
    assert_eq!(nodes(), ["one", "server", "two"]);
}

#[test]
fn proxies_of_two_clients_carry_traffic_whatever_happens_to_agents_and_servers() {
    let app = echo();
    let mut server = server(json!({}));
    let entry = ports::one();
    let mut one = client(&server, "one", json!({}));
    let mut two = client(&server, "two", json!({}));
    two.put("/v1/agent/service/register", json!({"Name": "db", "Port": app.port(), "Connect": {"Proxy": {}}}));
    let upstreams = json!([{"destination_name": "db", "local_bind_port": entry}]);
    let web = json!({"Name": "web", "Port": 1, "Connect": {"Proxy": {"Config": {"upstreams": upstreams}}}});
    one.put("/v1/agent/service/register", web);
    wait_path(&server, entry);
    let load = Load::start(entry, 2, 2);
    load.wait_for(50);

    // An agent, a server, all of them at once.
    two.kill_agent();
    load.wait_for(100);
    two.start_agent();
    two.wait_ready();
    server.kill_agent();
    load.wait_for(100);
    // A proxy is replaced while no server answers: what it watched is what was said last.
    let replaced = one.request("PUT", "/v1/agent/connect/proxy/restart/web-proxy", b"");
    assert_eq!(replaced.status, 200, "{}", replaced.text());
    load.wait_for(100);
    one.kill_agent();
    load.wait_for(100);
    server.start_agent();
    server.wait_ready();
    one.start_agent();
    one.wait_ready();
    load.wait_for(100);

    // A new root reaches proxies through their agents.
    let roots = |at: &House| at.get("/v1/agent/connect/ca/roots").json()["ActiveRootID"].clone();
    let before = roots(&one);
    server.put("/v1/connect/ca/configuration", json!({"Provider": "consul", "Config": {"ForceRotate": true}}));
    until("the clients know the new root", || roots(&one) != before && roots(&two) == roots(&one));
    load.wait_for(200);
    let (sent, failed) = load.stop();
    assert!(failed.is_empty(), "{} of {sent} failed: {failed:?}", failed.len());

    // A deny cuts, and authorisation of a native client says so.
    let uri = "spiffe://any.consul/ns/default/dc/dc1/svc/web";
    let authorized = |at: &House| {
        let body = json!({"Target": "db", "ClientCertURI": uri, "ClientCertSerial": "1"}).to_string();
        at.request("POST", "/v1/agent/connect/authorize", body.as_bytes()).json()["Authorized"].clone()
    };
    assert_eq!((authorized(&one), authorized(&server)), (json!(true), json!(true)));
    let id = two.intend("web", "db", "deny");
    until("a deny is known at a client", || authorized(&one) == json!(false));
    until("nothing passes", || echo_once(entry).is_err());
    let why = one.get("/v1/agent/connect/why/web-proxy").text();
    assert!(why.contains("web may not connect to db: Matched intention: DENY"), "the intention is named: {why}");
    // It holds without a server, too.
    server.kill_agent();
    assert_eq!(authorized(&one), json!(false));
    assert!(echo_once(entry).is_err());
    server.start_agent();
    server.wait_ready();
    assert_eq!(one.request("DELETE", &format!("/v1/connect/intentions/{id}"), b"").status, 200);
    wait_path(&server, entry);
}

#[test]
fn with_access_control_a_client_may_what_its_tokens_may() {
    let acl = json!({"enabled": true, "default_policy": "deny", "down_policy": "extend-cache", "token_ttl": "1s"});
    let with = |tokens: Value| {
        let mut acl = acl.clone();
        acl["tokens"] = tokens;
        json!({"acl": acl})
    };
    let mut server = server(with(json!({"master": "root", "default": "root"})));
    let ask = |at: &House, method: &str, path: &str, secret: &str, body: &Value| {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let mark = if path.contains('?') { '&' } else { '?' };
        at.request(method, &format!("{path}{mark}token={secret}"), text.as_bytes())
    };
    let token = |name: &str, rules: &str| {
        let policy = json!({"Name": name, "Rules": rules});
        assert_eq!(ask(&server, "PUT", "/v1/acl/policy", "root", &policy).status, 200);
        let made = ask(&server, "PUT", "/v1/acl/token", "root", &json!({"Policies": [{"Name": name}]})).json();
        made["SecretID"].as_str().unwrap().to_owned()
    };
    let agent = token(
        "agent",
        "node \"one\" { policy = \"write\" } node_prefix \"\" { policy = \"read\" } \
                                service_prefix \"\" { policy = \"read\" } agent \"one\" { policy = \"write\" }",
    );
    let web = token(
        "web",
        "service_prefix \"web\" { policy = \"write\" } service_prefix \"\" { policy = \"read\" } \
                            node_prefix \"\" { policy = \"read\" }",
    );
    // Without a token of its own a node does not show.
    let mut one = client(&server, "one", with(json!({})));
    until("it says what is missing", || one.log().contains("this node does not show as alive"));
    assert_eq!(ask(&server, "GET", "/v1/catalog/node/one", "root", &Value::Null).json(), Value::Null);
    one.kill_agent();
    one.reconfigure(|config| lay_over(config, with(json!({"agent": agent}))));
    one.start_agent();
    one.wait_ready();
    let serf = |at: &House| {
        let checks = ask(at, "GET", "/v1/health/node/one", "root", &Value::Null).json();
        checks.as_array().unwrap().iter().any(|check| check["Status"] == "passing")
    };
    until("the node is there", || serf(&server));

    // The server's own default token is not for those who come through a client.
    assert_eq!(ask(&server, "GET", "/v1/kv/a", "", &Value::Null).status, 404);
    assert_eq!(one.get("/v1/kv/a").status, 403);
    assert_eq!(ask(&one, "GET", "/v1/kv/a", "root", &Value::Null).status, 404);
    assert_eq!(ask(&one, "GET", "/v1/kv/a", "nonsense", &Value::Null).status, 403);
    let registered = |secret: &str| {
        let body = json!({"Name": "web", "Port": 80, "Connect": {"Proxy": {}}});
        ask(&one, "PUT", "/v1/agent/service/register", secret, &body).status
    };
    assert_eq!((registered(""), registered("nonsense"), registered(&agent)), (403, 403, 403));
    assert_eq!(registered(&web), 200);
    until("the service is there", || {
        !ask(&server, "GET", "/v1/catalog/connect/web", "root", &Value::Null).json().as_array().unwrap().is_empty()
    });
    // A leaf needs the right to write the service, here and at the server that signs.
    let leaf = |secret: &str| ask(&one, "GET", "/v1/agent/connect/ca/leaf/web", secret, &Value::Null).status;
    assert_eq!((leaf(&web), leaf(&agent), leaf("")), (200, 403, 403));
    let pid = one.proxy_pid("web-proxy");
    until("the proxy serves", || {
        ask(&one, "GET", "/v1/agent/connect/processes", &web, &Value::Null).text().contains("\"ready\"")
    });
    assert_eq!(one.proxy_pid("web-proxy"), pid);

    // That a server does not say what a secret stands for allows nothing, whatever holds while there is none.
    let mut lax = with(json!({"agent": "root"}));
    lax["acl"]["down_policy"] = "allow".into();
    let lax = client(&server, "lax", lax);
    for secret in ["manage", "allow", "deny", "a%0Ab", "nonsense"] {
        let body = json!({"Name": "stolen", "Port": 1});
        assert_ne!(ask(&lax, "PUT", "/v1/agent/service/register", secret, &body).status, 200, "{secret}");
    }

    // What was known goes on to hold without a server, and nothing else does.
    server.kill_agent();
    until("it is noticed", || {
        ask(&lax, "PUT", "/v1/agent/service/register", "new", &json!({"Name": "db"})).status == 200
    });
    let services = |secret: &str| ask(&one, "GET", "/v1/agent/services", secret, &Value::Null);
    assert_eq!(services(&web).json().as_object().map(serde_json::Map::len), Some(2));
    let unknown = services("never-seen");
    assert!(unknown.status == 403 || unknown.json() == json!({}), "{} {}", unknown.status, unknown.text());
    server.start_agent();
    server.wait_ready();
    // A token that is gone is forgotten.
    let accessor = ask(&server, "GET", "/v1/acl/token/self", &web, &Value::Null).json()["AccessorID"].clone();
    let path = format!("/v1/acl/token/{}", accessor.as_str().unwrap());
    assert_eq!(ask(&server, "DELETE", &path, "root", &Value::Null).status, 200);
    until("the client knows that it is gone", || services(&web).status == 403);
}

#[test]
fn a_client_remembers_a_token_for_as_long_as_it_is_told() {
    let acl = |more: Value| {
        let mut acl = json!({"enabled": true, "default_policy": "deny", "tokens": {"master": "root", "agent": "root"}});
        lay_over(&mut acl, more);
        json!({"acl": acl})
    };
    let server = server(acl(json!({})));
    let made =
        server.request("PUT", "/v1/acl/token?token=root", br#"{"Policies": [{"Name": "global-management"}]}"#).json();
    let (accessor, secret) = (made["AccessorID"].as_str().unwrap(), made["SecretID"].as_str().unwrap());
    let keys = json!({"usual": {}, "by-policy": {"policy_ttl": "1s"}, "by-token": {"token_ttl": "1s"}});
    let [usual, by_policy, by_token] =
        ["usual", "by-policy", "by-token"].map(|name| client(&server, name, acl(keys[name].clone())));
    let may = |at: &House| at.get(&format!("/v1/agent/services?token={secret}")).status;
    let begun = Instant::now();
    for at in [&usual, &by_policy, &by_token] {
        assert_eq!(may(at), 200);
    }
    let gone = server.request("DELETE", &format!("/v1/acl/token/{accessor}?token=root"), b"");
    assert_eq!(gone.status, 200, "{}", gone.text());
    for at in [&by_policy, &by_token] {
        until("it knows that the token is gone", || may(at) == 403);
    }
    // The usual is half a minute.
    let (took, still) = (begun.elapsed(), may(&usual));
    assert!(took < Duration::from_secs(25), "{took:?}");
    assert!(still == 200 || begun.elapsed() > Duration::from_secs(29), "{still} after {:?}", begun.elapsed());
}

#[test]
fn where_names_of_servers_are_verified_one_of_another_datacenter_is_none() {
    let folder = tempfile::tempdir().unwrap();
    made(folder.path(), &["tls", "ca", "create"]);
    made(folder.path(), &["tls", "cert", "create", "-server", "-dc", "east"]);
    made(folder.path(), &["tls", "cert", "create", "-client"]);
    let file = |name: &str| folder.path().join(name).display().to_string();
    let keys = |certificate: &str| {
        json!({"ca_file": file("consul-agent-ca.pem"), "cert_file": file(&format!("{certificate}-consul-0.pem")),
            "key_file": file(&format!("{certificate}-consul-0-key.pem"))})
    };
    let server = server(keys("east-server"));
    client(&server, "trusting", keys("dc1-client"));
    let mut strict = keys("dc1-client");
    strict["verify_server_hostname"] = true.into();
    strict["retry_max"] = 1.into();
    let mut strict = build_client(&server, "strict", strict);
    strict.start_agent();
    until("it gives up", || strict.ended().is_some());
    assert!(strict.log().contains("server.dc1.consul"), "{}", strict.log());
    assert_eq!(server.get("/v1/catalog/node/strict").json(), Value::Null);
}

#[test]
fn what_is_for_agents_needs_the_right_that_it_is_about() {
    let acl = json!({"enabled": true, "default_policy": "deny", "tokens": {"master": "root", "default": "root"}});
    let server = server(json!({"acl": acl}));
    let port = server.http_port + 2;
    let ask = |method: &str, path: &str, secret: &str, body: &Value| {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let with = [("X-Consul-Token", secret)];
        let headers = if secret.is_empty() { &[][..] } else { &with };
        let path = format!("/v1/internal/agent/{path}");
        http::request(port, method, &path, headers, text.as_bytes(), Duration::from_secs(10)).unwrap()
    };
    let token = |name: &str, rules: &str| {
        let policy = json!({"Name": name, "Rules": rules}).to_string();
        assert_eq!(server.request("PUT", "/v1/acl/policy", policy.as_bytes()).status, 200);
        let token = json!({"Policies": [{"Name": name}]}).to_string();
        server.request("PUT", "/v1/acl/token", token.as_bytes()).json()["SecretID"].as_str().unwrap().to_owned()
    };
    let node = token("node", "node \"far\" { policy = \"write\" }");
    let web = token("web", "service \"web\" { policy = \"write\" }");
    let db = token("db", "service \"db\" { policy = \"write\" } service \"web\" { policy = \"read\" }");

    // A secret stands for its own rules, nobody's for none, and the server's default token is for nobody here.
    let known = ask("GET", "token", &web, &Value::Null).json();
    assert_eq!((&known["Enabled"], &known["DefaultPolicy"]), (&json!(true), &json!("deny")));
    assert_eq!(known["Rules"], json!([{"Text": "service \"web\" { policy = \"write\" }", "Legacy": false}]));
    assert_eq!(ask("GET", "token", "", &Value::Null).json()["Rules"], json!([]));
    let unknown = ask("GET", "token", "nonsense", &Value::Null);
    assert_eq!((unknown.status, unknown.text().trim()), (403, "ACL not found"));

    let trust = TrustDomain::new(server.get("/v1/connect/ca/roots").json()["TrustDomain"].as_str().unwrap());
    let csr = |service: &str| {
        let identity = ServiceIdentity::new(&trust, "dc1", service.into());
        json!({"CSR": lictor_ca::new_key_and_csr(&identity).unwrap().csr_pem})
    };
    let signed = |secret: &str, body: &Value| ask("PUT", "sign", secret, body).status;
    assert_eq!([&web, &db, &node, "", "nonsense"].map(|secret| signed(secret, &csr("web"))), [200, 403, 403, 403, 403]);
    assert_eq!(signed(&web, &csr("db")), 403);
    assert_eq!((signed(&web, &json!({"CSR": "nonsense"})), signed(&web, &json!([]))), (400, 400));
    let leaf = ask("PUT", "sign", &web, &csr("web")).json();
    let root = server.get("/v1/connect/ca/roots").json()["ActiveRootID"].clone();
    assert_eq!((&leaf["Service"], &leaf["RootID"]), (&json!("web"), &root));
    assert!(leaf["CertPEM"].as_str().unwrap().starts_with("-----BEGIN CERTIFICATE-----"));

    let alive = |name: &str| json!({"Node": name, "ID": "", "Address": "10.1.2.3:8300"});
    let said = |secret: &str, body: &Value| ask("PUT", "alive", secret, body).status;
    assert_eq!([&node, &web, "", "nonsense"].map(|secret| said(secret, &alive("far"))), [200, 403, 403, 403]);
    assert_eq!((said(&node, &alive("near")), said("root", &alive("server"))), (403, 400));
    assert_eq!((said("root", &alive("")), said("root", &json!({"Node": "x", "Address": "nowhere"}))), (400, 400));
    assert_eq!(serf(&server, "far"), "passing");
    // An id is not taken from a node that is another's: that would make way for this one.
    let victim = "11111111-2222-4333-8444-555555555555";
    let mut of_other = alive("victim");
    of_other["ID"] = victim.into();
    assert_eq!(said("root", &of_other), 200);
    let mut thief = alive("far");
    thief["ID"] = victim.into();
    assert_eq!(said(&node, &thief), 403);
    assert_eq!(server.get("/v1/catalog/node/victim").json()["Node"]["ID"], victim);
    // Nobody keeps alive what is another's: a lease that is not this node's is not taken.
    let lease = |body: &Value| ask("PUT", "alive", "root", body).json()["Lease"].as_u64().unwrap();
    let (far, other) = (lease(&alive("far")), lease(&alive("other")));
    let mut with = alive("far");
    with["Lease"] = far.into();
    assert_eq!(lease(&with), far);
    with["Lease"] = other.into();
    assert!(![far, other].contains(&lease(&with)));
    let gone = |secret: &str, name: &str| ask("PUT", "gone", secret, &json!({"Node": name})).status;
    assert_eq!((gone(&web, "far"), gone("", "far"), gone("root", "server"), gone("root", "")), (403, 403, 400, 400));
    assert_eq!(gone(&node, "far"), 200);
    assert_eq!(server.get("/v1/catalog/node/far").json(), Value::Null);

    // Packets and settings that make no sense are refused, and nothing breaks.
    for body in [json!({}), json!({"packet": []}), json!("x"), Value::Null] {
        assert_eq!(ask("PUT", "dns", "root", &body).status, 400, "{body}");
    }
    assert_eq!(ask("POST", "alive", "root", &Value::Null).status, 405);
    assert_eq!(ask("GET", "nothing", "root", &Value::Null).status, 404);
}

/// Makes a CA in a folder.
pub(crate) fn make_ca(folder: &Path) {
    made(folder, &["tls", "ca", "create"]);
}

pub(crate) fn made(folder: &Path, words: &[&str]) {
    let output = Command::new(LICTOR).args(words).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The keys of the agent's certificate.
pub(crate) fn tls(folder: &Path, name: &str) -> Value {
    let file = |name: &str| folder.join(name).display().to_string();
    json!({
        "ca_file": file("consul-agent-ca.pem"),
        "cert_file": file(&format!("dc1-{name}-consul-0.pem")),
        "key_file": file(&format!("dc1-{name}-consul-0-key.pem")),
    })
}

#[test]
fn agents_recognise_each_other_by_certificates_of_one_authority() {
    let (ours, others) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for folder in [&ours, &others] {
        make_ca(folder.path());
        made(folder.path(), &["tls", "cert", "create", "-server"]);
        made(folder.path(), &["tls", "cert", "create", "-client"]);
    }
    let server = server(tls(ours.path(), "server"));
    assert!(server.log().contains("(mutual TLS)"), "{}", server.log());
    let mut keys = tls(ours.path(), "client");
    keys["verify_server_hostname"] = true.into();
    let one = client(&server, "one", keys);
    assert_eq!(one.get("/v1/catalog/nodes").json().as_array().map(Vec::len), Some(2));

    // A stranger's certificate, none, and that of a client in place of a server's.
    let refused = |name: &str, keys: Value| {
        let mut house = build_client(&server, name, keys);
        house.reconfigure(|config| lay_over(config, json!({"retry_max": 2})));
        house.start_agent();
        until("it gives up", || house.ended().is_some());
        assert!(house.log().contains("Failed to join"), "{}", house.log());
        assert_eq!(server.get(&format!("/v1/catalog/node/{name}")).json(), Value::Null);
    };
    refused("stranger", tls(others.path(), "client"));
    refused("nobody", json!({}));
    // It believes the server, which does not believe it.
    let mut unknown = tls(others.path(), "client");
    unknown["ca_file"] = tls(ours.path(), "client")["ca_file"].clone();
    refused("unknown", unknown);
    let mut misnamed = tls(ours.path(), "client");
    misnamed["server_name"] = "another.name".into();
    refused("misnamed", misnamed);

    // The certificates are read again.
    fs::remove_file(ours.path().join("dc1-client-consul-0.pem")).unwrap();
    let before = one.get("/v1/agent/self").status;
    let failed = one.request("PUT", "/v1/agent/reload", b"");
    assert!(
        before == 200 && failed.status == 500 && failed.text().contains("dc1-client-consul-0.pem"),
        "{}",
        failed.text()
    );
    assert_eq!(one.get("/v1/catalog/nodes").status, 200);
}

#[test]
fn a_client_asks_no_more_than_it_may_and_waits_for_servers_no_longer_than_it_is_told() {
    let mut server = server(json!({}));
    let limits = json!({"limits": {"rpc_rate": 0.001, "rpc_max_burst": 60}, "performance": {"rpc_hold_timeout": "1s"}});
    let one = client(&server, "one", limits);
    let mut answers: Vec<_> = (0..80).map(|_| one.get("/v1/catalog/nodes")).collect();
    assert_eq!(answers.remove(0).status, 200);
    let last = answers.pop().unwrap();
    assert_eq!((last.status, last.text().as_str()), (429, ""));
    // That does not keep it from saying that it is there.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(5) {
        assert_eq!(serf(&server, "one"), "passing", "{:?} after the limit", begun.elapsed());
        std::thread::sleep(Duration::from_millis(100));
    }
    // A reload lifts the limit.
    one.reconfigure(|config| config["limits"]["rpc_rate"] = json!(-1));
    one.put("/v1/agent/reload", Value::Null);
    assert!((0..80).all(|_| one.get("/v1/catalog/nodes").status == 200));

    server.kill_agent();
    until("no server answers", || one.get("/v1/catalog/nodes").status == 500);
    let begun = Instant::now();
    assert_eq!(one.get("/v1/catalog/nodes").text().trim(), "No known Consul servers");
    assert!((1..4).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    // What is about the node itself does not wait.
    let begun = Instant::now();
    assert_eq!(one.get("/v1/agent/services").status, 200);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    // One that is back in time is not missed.
    one.reconfigure(|config| config["performance"]["rpc_hold_timeout"] = json!("30s"));
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            until("it is answered", || one.get("/v1/catalog/nodes").status == 200);
        });
        server.start_agent();
        asking.join().unwrap();
    });
}

#[test]
fn what_was_answered_before_is_answered_again_to_who_takes_it_old() {
    let mut server = server(json!({}));
    let one = client(&server, "one", json!({}));
    let strict = client(&server, "strict", json!({"acl": {"enabled": true, "down_policy": "deny"}}));
    one.put("/v1/agent/service/register", json!({"Name": "web", "Port": 80}));
    let path = "/v1/health/service/web?cached";
    let before = one.get(path);
    assert_eq!(before.json().as_array().map(Vec::len), Some(1));
    assert_eq!(strict.get(path).json().as_array().map(Vec::len), Some(1));
    server.request("PUT", "/v1/kv/gone", b"x");
    assert_eq!(one.get("/v1/kv/gone?cached").status, 200);
    server.request("DELETE", "/v1/kv/gone", b"");
    assert_eq!(one.get("/v1/kv/gone?cached").status, 404);
    server.kill_agent();
    until("no server answers", || one.get("/v1/health/service/web").status == 500);
    // What was not there any more when it was asked for last is not what it was before that.
    let failed = one.get("/v1/health/service/web");
    assert_eq!((failed.status, failed.headers["x-consul-knownleader"].as_str()), (500, "false"));
    assert_eq!(one.get("/v1/kv/gone?cached").status, 500);
    let after = one.get(path);
    assert_eq!((after.status, after.text(), after.index()), (200, before.text(), before.index()));
    assert_eq!(after.headers.get("x-cache").map(String::as_str), Some("HIT"));
    assert!(after.headers["age"].parse::<u64>().is_ok(), "{:?}", after.headers);
    assert_eq!(one.get("/v1/health/service/other?cached").status, 500);
    // Where nothing holds that no server can confirm, old answers do not.
    assert_eq!(strict.get(path).status, 500);
}

#[test]
fn a_client_that_knows_no_server_joins_one_by_hand() {
    let server = server(json!({}));
    let mut one = build_client(&server, "one", json!({"retry_join": []}));
    one.start_agent();
    until("it says so", || one.log().contains("it knows no server"));
    until("it answers", || one.try_request("GET", "/v1/agent/services", b"").is_ok());
    assert_eq!(one.get("/v1/catalog/nodes").status, 500);
    let nobody = one.request("PUT", &format!("/v1/agent/join/127.0.0.1:{}", ports::one()), b"");
    assert!(nobody.status == 500 && nobody.text().contains("Failed to join 127.0.0.1"), "{}", nobody.text());
    // The port of the API is none for agents.
    assert_eq!(one.request("PUT", &format!("/v1/agent/join/127.0.0.1:{}", server.http_port), b"").status, 500);
    one.put(&format!("/v1/agent/join/127.0.0.1:{}", server.http_port + 2), Value::Null);
    until("its node is there", || serf(&server, "one") == "passing");
    // A server that nobody can ask says why.
    let closed = House::start(LICTOR, json!({"bind_addr": "0.0.0.0", "advertise_addr": "127.0.0.1"}));
    assert!(closed.log().contains("no client agent can ask this server: that takes ca_file"), "{}", closed.log());
    assert!(!server.log().contains("no client agent can ask"), "{}", server.log());
}

#[test]
fn names_are_looked_up_by_servers_and_answered_by_the_clients_settings() {
    let Some(dig) = lictor_testkit::program::find("dig") else { return };
    let mut server = server(json!({}));
    let one = client(&server, "one", json!({"dns_config": {"service_ttl": {"*": "7s"}, "only_passing": true}}));
    let node = json!({"Node": "far", "Address": "10.1.2.3", "Service": {"Service": "web", "Port": 81, "Tags": ["a"]}});
    server.put("/v1/catalog/register", node);
    let warns = json!({
        "Node": "weak", "Address": "10.1.2.4", "Service": {"Service": "web", "Port": 82},
        "Check": {"CheckID": "c", "Name": "c", "ServiceID": "web", "Status": "warning"},
    });
    server.put("/v1/catalog/register", warns);
    let query = json!({"Name": "q", "Service": {"Service": "web", "OnlyPassing": true}});
    assert_eq!(server.request("POST", "/v1/query", query.to_string().as_bytes()).status, 200);
    let ask = |at: &House, words: &[&str]| {
        let port = at.dns_port.to_string();
        let output =
            Command::new(&dig).args(["@127.0.0.1", "-p", &port, "+noall", "+answer", "+comments"]).args(words).output();
        String::from_utf8_lossy(&output.unwrap().stdout).into_owned()
    };
    let web = ask(&one, &["web.service.consul", "SRV"]);
    assert!(web.contains("\t7\t") || web.contains(" 7 "), "{web}");
    assert!(web.contains("81 far.node.dc1.consul.") && !web.contains(" 82 "), "{web}");
    assert!(ask(&server, &["web.service.consul", "SRV"]).contains(" 82 "));
    for (words, wanted) in [
        (&["far.node.consul"][..], "10.1.2.3"),
        (&["a.web.service.consul"], "10.1.2.3"),
        (&["_web._a.service.consul", "SRV"], " 81 far.node.dc1.consul."),
        (&["q.query.consul"], "10.1.2.3"),
        (&["0a010203.addr.dc1.consul"], "10.1.2.3"),
        (&["-x", "10.1.2.3"], "far.node.dc1.consul."),
        (&["nobody.service.consul"], "NXDOMAIN"),
        (&["web.service.elsewhere.consul"], "SERVFAIL"),
        (&["+tcp", "far.node.consul"], "10.1.2.3"),
        (&["consul", "SOA"], "ns.consul."),
        (&["example.com"], "SERVFAIL"),
        (&["-x", "10.9.9.9"], "NXDOMAIN"),
    ] {
        let said = ask(&one, words);
        assert!(said.contains(wanted), "{words:?}: {said}");
    }
    server.kill_agent();
    let begun = Instant::now();
    assert!(ask(&one, &["+tries=1", "+time=10", "web.service.consul"]).contains("SERVFAIL"));
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

#[test]
fn a_client_goes_on_with_another_server_when_its_own_is_gone() {
    let Some(mut cluster) = Cluster::start(1, 2, |_| json!({})) else { return };
    let one = client(&cluster.servers[0], "one", json!({"performance": {"rpc_hold_timeout": "1s"}}));
    one.put("/v1/agent/service/register", json!({"Name": "web", "Port": 80}));
    until("it knows both servers", || one.get("/v1/agent/self").json()["Stats"]["consul"]["known_servers"] == "2");
    for server in &cluster.servers {
        until("both know the client", || healthy(server, "web") == ["one"]);
        until("both name it", || members(server).contains(&("one".into(), "node".into(), 1)));
    }
    // A read that waits is asked of the other server, and nothing is lost in between.
    let index = one.get("/v1/health/service/web").index();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let answer = one.get(&format!("/v1/health/service/web?wait=60s&index={index}"));
            answer.json().as_array().map(Vec::len)
        });
        // Longer than a request is tried again while there is no server: this one had one all the time.
        std::thread::sleep(Duration::from_millis(1500));
        let begun = Instant::now();
        cluster.servers[0].kill_agent();
        until("the other one answers", || one.get("/v1/catalog/service/web").status == 200);
        assert!(begun.elapsed() < Duration::from_secs(7), "{:?}", begun.elapsed());
        one.put("/v1/agent/service/register", json!({"Name": "web", "ID": "web2", "Port": 81}));
        assert_eq!(waiting.join().unwrap(), Some(2));
    });
    // Longer than anybody counts as alive without a word: the other one keeps it alive.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(6) {
        assert_eq!(healthy(&cluster.servers[1], "web"), ["one", "one"]);
        std::thread::sleep(Duration::from_millis(100));
    }
    cluster.servers[0].start_agent();
    cluster.servers[0].wait_ready();
    until("the first server knows all of it", || healthy(&cluster.servers[0], "web") == ["one", "one"]);
}

#[test]
fn a_client_leaves_a_server_that_is_silent_or_cannot_write_before_its_node_is_lost() {
    let Some(etcd) = Etcd::start(3) else { return };
    let endpoints = etcd.endpoints();
    // Each server with a member of its own, so that one can be cut off.
    let cluster = Cluster::over(etcd, 2, |number| {
        let seal = "seal.key";
        let own = [&endpoints[number]];
        json!({"store": {"backend": "etcd", "endpoints": own, "node_ttl": "10s", "seal_key_file": seal}})
    });
    let [first, second] = &cluster.servers[..] else { panic!("two were started") };
    let one = client(first, "one", json!({}));
    one.put("/v1/agent/service/register", json!({"Name": "web", "Port": 80}));
    until("it knows both servers", || one.get("/v1/agent/self").json()["Stats"]["consul"]["known_servers"] == "2");
    let stays = |at: &House, what: &str| {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(14) {
            assert_eq!(healthy(at, "web"), ["one"], "{what}, after {:?}: {}", begun.elapsed(), one.log());
            std::thread::sleep(Duration::from_millis(100));
        }
        assert_eq!(one.get("/v1/health/service/web").json().as_array().map(Vec::len), Some(1), "{what}");
    };
    // Its store does not answer; it does.
    cluster.etcd.pause(0);
    stays(second, "the server cannot write");
    assert!(one.log().contains("does not do its work, trying another one"), "{}", one.log());
    cluster.etcd.resume(0);
    until("the first one is back", || healthy(first, "web") == ["one"]);
    // Nothing comes from it at all, and nothing ends.
    second.signal_agent(Signal::STOP);
    stays(first, "the server is silent");
    second.signal_agent(Signal::CONT);
}

#[test]
fn requests_that_their_clients_give_up_in_crowds_leave_the_connection_to_the_server_alone() {
    let server = server(json!({}));
    let one = client(&server, "one", json!({}));
    let index = one.get("/v1/catalog/services").index();
    let request = format!("GET /v1/catalog/services?wait=60s&index={index} HTTP/1.1\r\nHost: a\r\n\r\n");
    for _ in 0..10 {
        let all: Vec<_> = (0..100)
            .map(|_| {
                let mut stream = TcpStream::connect(("127.0.0.1", one.http_port)).unwrap();
                stream.write_all(request.as_bytes()).unwrap();
                stream
            })
            .collect();
        drop(all);
    }
    assert_eq!(one.get("/v1/catalog/services").status, 200);
    let connected = one.log().matches("connected to server").count();
    assert_eq!((connected, one.log().contains("has ended")), (1, false), "{}", one.log());
}

#[test]
fn an_answer_that_nobody_takes_is_not_held_and_one_that_breaks_off_is_not_taken_for_whole() {
    let mut server = server(json!({}));
    let one = client(&server, "one", json!({}));
    // Not to be compressed.
    let mut state = 7_u64;
    let value: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    })
    .take(500_000)
    .collect();
    for number in 0..60 {
        assert_eq!(server.request("PUT", &format!("/v1/kv/{number}"), &value).status, 200);
    }
    let begin = |at: &House| {
        let mut stream = TcpStream::connect(("127.0.0.1", at.http_port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(b"GET /v1/snapshot HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let mut first = [0; 1];
        stream.read_exact(&mut first).unwrap();
        stream
    };
    let memory = |at: &House| -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", at.agent_pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
    };
    let before = [memory(&server), memory(&one)];
    let idle: Vec<TcpStream> = (0..4).flat_map(|_| [begin(&server), begin(&one)]).collect();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(4) {
        let grown = [memory(&server).saturating_sub(before[0]), memory(&one).saturating_sub(before[1])];
        assert!(grown.iter().all(|grown| *grown < 60 << 20), "{grown:?} bytes for readers that take nothing");
        std::thread::sleep(Duration::from_millis(100));
    }
    drop(idle);

    let mut reading = begin(&one);
    server.kill_agent();
    let mut answer = Vec::new();
    // An end that says so is the last chunk; here the connection ends, or breaks.
    let _ = reading.read_to_end(&mut answer);
    assert!(answer.len() < 20_000_000 && !answer.ends_with(b"0\r\n\r\n"), "{} bytes", answer.len());
}
