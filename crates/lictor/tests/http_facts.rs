//! Facts about the HTTP API on a real agent: what docs/facts-http.md promises and is not shown elsewhere.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up shall fail")]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::LICTOR;
use lictor_testkit::http::{self, Answer};
use lictor_testkit::wait::{Stalls, within};
use lictor_testkit::{House, until};
use rustix::process::Signal;
use serde_json::{Value, json};

const ROOT: &str = "root-of-all";

fn with_headers(house: &House, headers: &[(&str, &str)], method: &str, path: &str, body: &str) -> Answer {
    http::request(house.http_port, method, path, headers, body.as_bytes(), Duration::from_secs(30)).unwrap()
}

/// One request with a token; empty for none.
fn ask(house: &House, token: &str, method: &str, path: &str, body: &str) -> Answer {
    let headers = [("X-Consul-Token", token)];
    with_headers(house, if token.is_empty() { &headers[..0] } else { &headers }, method, path, body)
}

/// An agent with ACLs that deny by default.
fn guarded(more: Value) -> House {
    let mut config =
        json!({"acl": {"enabled": true, "default_policy": "deny", "tokens": {"master": ROOT, "agent": ROOT}}});
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    House::start(LICTOR, config)
}

/// A request of who may do everything, which must succeed.
#[track_caller]
fn root(house: &House, method: &str, path: &str, body: &Value) -> Answer {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let answer = ask(house, ROOT, method, path, &body);
    assert_eq!(answer.status, 200, "{method} {path}: {}", answer.text());
    answer
}

fn token_with(house: &House, name: &str, rules: &str) -> String {
    root(house, "PUT", "/v1/acl/policy", &json!({"Name": name, "Rules": rules}));
    let token = root(house, "PUT", "/v1/acl/token", &json!({"Policies": [{"Name": name}]}));
    token.json()["SecretID"].as_str().unwrap().to_owned()
}

/// Status and text.
fn said(answer: &Answer) -> (u16, String) {
    (answer.status, answer.text())
}

/// The fields of an answer's first element.
fn first(answer: &Answer) -> Value {
    answer.json()[0].clone()
}

/// What comes back on a fresh stream, byte by byte, without what tells the time.
fn raw(stream: impl Read + Write, method: &str, path: &str) -> String {
    raw_with(stream, "Connection: close\r\n", method, path)
}

fn raw_with(mut stream: impl Read + Write, header: &str, method: &str, path: &str) -> String {
    // In one piece: it comes at once or not at all.
    let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{header}Content-Length: 0\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text.split_inclusive("\r\n").filter(|line| !line.starts_with("Date: ")).collect()
}

fn dial(house: &House) -> TcpStream {
    TcpStream::connect((Ipv4Addr::LOCALHOST, house.http_port)).unwrap()
}

/// State and output of a check of this agent.
fn state(house: &House, id: &str) -> (String, String) {
    let checks = house.get("/v1/agent/checks").json();
    let text = |key: &str| checks[id][key].as_str().unwrap_or_default().to_owned();
    (text("Status"), text("Output"))
}

/// 1.1 to 1.6, 1.9, 1.13, 1.14.
#[test]
fn what_is_asked_in_a_wrong_way_is_told_so() {
    let house = House::start(LICTOR, json!({}));
    let posted = house.request("POST", "/v1/agent/services", b"");
    assert_eq!(said(&posted), (405, "method POST not allowed".to_owned()));
    assert_eq!(posted.headers["allow"], "OPTIONS,GET");
    let head = house.request("HEAD", "/v1/agent/services", b"");
    assert_eq!((head.status, head.headers["allow"].as_str()), (405, "OPTIONS,GET"));
    let options = house.request("OPTIONS", "/v1/agent/services", b"");
    assert_eq!((options.headers["allow"].as_str(), said(&options)), ("OPTIONS,GET", (200, String::new())));
    let nope = house.get("/v1/nope");
    assert_eq!(said(&nope), (404, String::new()));
    assert!(!nope.headers.contains_key("content-type") && !nope.headers.contains_key("vary"), "{:?}", nope.headers);

    let elsewhere = house.get("/v1/catalog/nodes?dc=zz");
    assert_eq!(said(&elsewhere), (500, "No path to datacenter".to_owned()));
    let header = |name: &str| elsewhere.headers[name].as_str();
    assert_eq!((header("x-consul-index"), header("x-consul-knownleader")), ("1", "false"));

    for (query, text) in [
        ("index=x", "Invalid index"),
        ("wait=x", "Invalid wait time"),
        ("wait=10", "Invalid wait time"),
        ("max_stale=zz", "Invalid max_stale value \"zz\""),
        ("stale&consistent", "Cannot specify ?stale with ?consistent, conflicting semantics."),
        ("cached&consistent", "Cannot specify ?cached with ?consistent, conflicting semantics."),
    ] {
        for path in ["/v1/catalog/nodes", "/v1/health/service/web"] {
            assert_eq!(said(&house.get(&format!("{path}?{query}"))), (400, text.to_owned()), "{path}?{query}");
        }
    }

    let plain = house.get("/v1/catalog/nodes").text();
    let pretty = house.get("/v1/catalog/nodes?pretty").text();
    assert!(!plain.contains('\n') && plain.starts_with("[{\"ID\":\""), "{plain}");
    assert!(pretty.starts_with("[\n    {\n        \"ID\": \"") && pretty.ends_with("\n    }\n]\n"), "{pretty}");

    for path in ["/v1/agent/self%01", "/v1/kv/a%01b", "/v1/nope%01"] {
        assert_eq!(said(&house.get(path)), (400, String::new()), "{path}");
    }
    let cached = with_headers(&house, &[("Cache-Control", "max-age=x")], "GET", "/v1/catalog/nodes", "");
    assert_eq!(said(&cached), (400, "Invalid Cache-Control header.".to_owned()));
}

/// 1.7, 1.8.
#[test]
fn a_read_waits_as_long_as_it_says_and_a_sixteenth_at_most() {
    let house = House::start(LICTOR, json!({}));
    house.put("/v1/agent/service/register", json!({"Name": "attic", "Port": 80}));
    let index = house.get("/v1/health/service/attic").index();
    assert!(index > 1 && index < 99_999, "{index}");
    for seen in [index, 99_999] {
        let (stalls, asked) = (Stalls::watch(), Instant::now());
        let answer = house.get(&format!("/v1/health/service/attic?index={seen}&wait=1s"));
        let took = asked.elapsed();
        assert_eq!((answer.status, answer.index()), (200, index), "waited past {seen}");
        let most = Duration::from_millis(1100) + 4 * stalls.longest();
        assert!((Duration::from_secs(1)..most).contains(&took), "{took:?} past {seen}, and {most:?} would do");
    }
}

/// 1.10, 1.11.
#[test]
fn configured_headers_are_on_every_answer_of_the_api_and_blocked_paths_are_refused() {
    let house =
        guarded(json!({"http_config": {"response_headers": {"x-foo": "bar"}, "block_endpoints": ["/v1/event"]}}));
    for (status, method, path, token) in [
        (200, "GET", "/v1/status/leader", ""),
        (200, "OPTIONS", "/v1/agent/services", ""),
        (403, "GET", "/v1/agent/self", ""),
        (403, "GET", "/v1/catalog/nodes", "bogus"),
        (404, "GET", "/v1/agent/service/zip", ROOT),
        (404, "GET", "/v1/kv/none", ROOT),
        (405, "POST", "/v1/agent/services", ""),
        (400, "GET", "/v1/catalog/nodes?index=x", ROOT),
        (500, "GET", "/v1/catalog/nodes?dc=zz", ROOT),
    ] {
        let answer = ask(&house, token, method, path, "");
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
        assert_eq!(answer.headers.get("x-foo").map(String::as_str), Some("bar"), "{method} {path}");
    }
    for path in ["/", "/v1/nope", "/ui/"] {
        assert!(!house.get(path).headers.contains_key("x-foo"), "{path}");
    }
    let text = raw(dial(&house), "GET", "/v1/status/leader");
    assert!(text.contains("\r\nX-Foo: bar\r\n"), "in the form in which headers are spelled: {text}");
    for path in ["/v1/event/list", "/v1/event/fire/x"] {
        let blocked = ask(&house, ROOT, "GET", path, "");
        assert_eq!(said(&blocked), (403, "Endpoint is blocked by agent configuration".to_owned()));
    }
}

/// 1.15.
#[test]
fn a_unix_socket_answers_word_for_word_what_the_port_answers() {
    let mut house = House::build(LICTOR, json!({}));
    let socket = house.folder().join("api.sock");
    let addresses = format!("127.0.0.1 unix://{}", socket.display());
    house.reconfigure(|config| config["addresses"] = json!({"http": addresses}));
    house.start_agent();
    house.wait_ready();
    house.put("/v1/agent/service/register", json!({"Name": "web", "Port": 80}));
    for (method, path, status) in [
        ("GET", "/v1/catalog/service/web", "200 OK"),
        ("GET", "/v1/agent/service/web?pretty", "200 OK"),
        ("PUT", "/v1/agent/service/deregister/", "500 Internal Server Error"),
        ("GET", "/v1/agent/service/zip", "404 Not Found"),
        ("POST", "/v1/agent/services", "405 Method Not Allowed"),
    ] {
        let over_port = raw(dial(&house), method, path);
        assert!(over_port.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{method} {path}: {over_port}");
        assert_eq!(raw(UnixStream::connect(&socket).unwrap(), method, path), over_port);
        // What is too rare for the short way through the server is answered no differently by the long one.
        assert_eq!(raw_with(dial(&house), "Connection: close, te\r\n", method, path), over_port);
    }
}

/// The paths of the original and their methods, in the order in which it names them. A path that ends in `/` has others
/// below it.
#[rustfmt::skip]
const METHODS: &[(&str, &str)] = &[
    ("/v1/agent/self", "GET"), ("/v1/agent/host", "GET"), ("/v1/agent/members", "GET"), ("/v1/agent/metrics", "GET"),
    ("/v1/agent/monitor", "GET"), ("/v1/agent/reload", "PUT"), ("/v1/agent/maintenance", "PUT"),
    ("/v1/agent/join/", "PUT"), ("/v1/agent/leave", "PUT"), ("/v1/agent/force-leave/", "PUT"),
    ("/v1/agent/token/", "PUT"), ("/v1/agent/services", "GET"), ("/v1/agent/service/", "GET"),
    ("/v1/agent/service/register", "PUT"), ("/v1/agent/service/deregister/", "PUT"),
    ("/v1/agent/service/maintenance/", "PUT"), ("/v1/agent/health/service/id/", "GET"),
    ("/v1/agent/health/service/name/", "GET"), ("/v1/agent/checks", "GET"), ("/v1/agent/check/register", "PUT"),
    ("/v1/agent/check/deregister/", "PUT"), ("/v1/agent/check/pass/", "PUT"), ("/v1/agent/check/warn/", "PUT"),
    ("/v1/agent/check/fail/", "PUT"), ("/v1/agent/check/update/", "PUT"), ("/v1/agent/connect/authorize", "POST"),
    ("/v1/agent/connect/ca/roots", "GET"), ("/v1/agent/connect/ca/leaf/", "GET"), ("/v1/agent/connect/proxy/", "GET"),
    ("/v1/catalog/register", "PUT"), ("/v1/catalog/deregister", "PUT"), ("/v1/catalog/datacenters", "GET"),
    ("/v1/catalog/nodes", "GET"), ("/v1/catalog/services", "GET"), ("/v1/catalog/service/", "GET"),
    ("/v1/catalog/connect/", "GET"), ("/v1/catalog/node/", "GET"), ("/v1/health/node/", "GET"),
    ("/v1/health/checks/", "GET"), ("/v1/health/state/", "GET"), ("/v1/health/service/", "GET"),
    ("/v1/health/connect/", "GET"), ("/v1/connect/ca/configuration", "GET,PUT"), ("/v1/connect/ca/roots", "GET"),
    ("/v1/connect/intentions", "GET,POST"), ("/v1/connect/intentions/match", "GET"),
    ("/v1/connect/intentions/check", "GET"), ("/v1/connect/intentions/", "GET,PUT,DELETE"), ("/v1/query", "GET,POST"),
    ("/v1/query/", "GET,PUT,DELETE"), ("/v1/query/x/execute", "GET"), ("/v1/query/x/explain", "GET"),
    ("/v1/status/leader", "GET"), ("/v1/status/peers", "GET"), ("/v1/acl/bootstrap", "PUT"),
    ("/v1/acl/policies", "GET"), ("/v1/acl/policy", "PUT"), ("/v1/acl/policy/", "GET,PUT,DELETE"),
    ("/v1/acl/tokens", "GET"), ("/v1/acl/token", "PUT"), ("/v1/acl/token/self", "GET"),
    ("/v1/acl/token/", "GET,PUT,DELETE"), ("/v1/acl/rules/translate", "POST"), ("/v1/acl/rules/translate/", "GET"),
    ("/v1/acl/replication", "GET"), ("/v1/acl/create", "PUT"), ("/v1/acl/update", "PUT"), ("/v1/acl/destroy/", "PUT"),
    ("/v1/acl/clone/", "PUT"), ("/v1/acl/info/", "GET"), ("/v1/acl/list", "GET"), ("/v1/coordinate/datacenters", "GET"),
    ("/v1/coordinate/nodes", "GET"), ("/v1/coordinate/node/", "GET"), ("/v1/coordinate/update", "PUT"),
    ("/v1/event/fire/", "PUT"), ("/v1/event/list", "GET"), ("/v1/internal/ui/nodes", "GET"),
    ("/v1/internal/ui/node/", "GET"), ("/v1/internal/ui/services", "GET"), ("/v1/kv/", "GET,PUT,DELETE"),
    ("/v1/operator/raft/configuration", "GET"), ("/v1/operator/raft/peer", "DELETE"),
    ("/v1/operator/keyring", "GET,POST,PUT,DELETE"), ("/v1/operator/autopilot/configuration", "GET,PUT"),
    ("/v1/operator/autopilot/health", "GET"), ("/v1/session/create", "PUT"), ("/v1/session/destroy/", "PUT"),
    ("/v1/session/renew/", "PUT"), ("/v1/session/info/", "GET"), ("/v1/session/node/", "GET"),
    ("/v1/session/list", "GET"), ("/v1/snapshot", "GET,PUT"), ("/v1/txn", "PUT"),
];

/// 2.1.
#[test]
fn each_path_of_the_original_says_its_methods_to_anybody() {
    let house = guarded(json!({}));
    let unknown: Vec<&str> = METHODS
        .iter()
        .map(|(path, _)| *path)
        .filter(|path| !path.contains("/x/") && lictor_http::endpoints().all(|(there, _)| there != *path))
        .collect();
    assert!(unknown.is_empty(), "nothing answers these themselves: {unknown:?}");
    for (path, methods) in METHODS {
        let path = if path.ends_with('/') { format!("{path}x") } else { (*path).to_owned() };
        let answer = house.request("OPTIONS", &path, b"");
        assert_eq!(said(&answer), (200, String::new()), "{path}");
        assert_eq!(answer.headers["allow"], format!("OPTIONS,{methods}"), "{path}");
    }
}

/// 2.2, 2.3, 7.1, 7.2.
#[test]
fn who_has_no_right_is_shown_nothing_and_refused_the_rest() {
    let house = guarded(json!({}));
    let web = json!({"Name": "web", "Port": 80, "Check": {"TTL": "1h", "Status": "passing"}});
    root(&house, "PUT", "/v1/agent/service/register", &web);
    let powerless = token_with(&house, "powerless", "");
    let lists = ["catalog/nodes", "catalog/service/web", "health/service/web", "health/state/any", "agent/members"];
    let objects = ["catalog/services", "agent/services", "agent/checks"];
    let closed = [
        "agent/self",
        "agent/metrics",
        "agent/service/web",
        "connect/ca/configuration",
        "acl/policies",
        "acl/tokens",
        "operator/raft/configuration",
    ];
    for token in ["", &powerless] {
        let get = |path: &str| ask(&house, token, "GET", &format!("/v1/{path}"), "");
        for (paths, empty) in [(&lists[..], json!([])), (&objects[..], json!({}))] {
            for path in paths {
                let shown = root(&house, "GET", &format!("/v1/{path}"), &Value::Null).json();
                assert_ne!(shown, empty, "{path}: there is something to be seen");
                let answer = get(path);
                assert_eq!((answer.status, answer.json()), (200, empty.clone()), "{path}");
            }
        }
        for path in closed {
            assert_eq!(said(&get(path)), (403, "Permission denied".to_owned()), "{path}");
        }
        assert_eq!(get("status/leader").status, 200);
    }
    for path in lists.into_iter().chain(objects).chain(closed) {
        let answer = ask(&house, "bogus", "GET", &format!("/v1/{path}"), "");
        assert_eq!(said(&answer), (403, "ACL not found".to_owned()), "{path}");
    }
    for token in ["", "bogus", &powerless] {
        for path in ["id/web", "name/web"] {
            let answer = ask(&house, token, "GET", &format!("/v1/agent/health/service/{path}?format=text"), "");
            assert_eq!(said(&answer), (200, "passing".to_owned()), "{path}");
        }
    }
}

/// 3.1 to 3.6.
#[test]
fn services_are_registered_refused_shown_and_removed() {
    let house = House::start(LICTOR, json!({}));
    let register = |body: &str| house.request("PUT", "/v1/agent/service/register", body.as_bytes());
    assert_eq!(
        said(&register(r#"{"ID":"pantry-1","Name":"pantry","Port":8001,"Check":{"TTL":"1h"}}"#)),
        (200, "".into())
    );
    assert_eq!(
        house.get("/v1/agent/services").json(),
        json!({"pantry-1": {"ID": "pantry-1", "Service": "pantry", "Tags": [], "Meta": {}, "Port": 8001, "Address": "",
            "Weights": {"Passing": 1, "Warning": 1}, "EnableTagOverride": false}})
    );
    let attic = r#"{"Name":"attic","Port":8002,"Connect":{"SidecarService":{}}}"#;
    assert_eq!(register(attic).status, 200);
    let sidecar = house.get("/v1/agent/service/attic-sidecar-proxy");
    let shown = sidecar.json();
    assert_eq!((shown.get("Tags"), shown.get("Meta")), (Some(&Value::Null), Some(&Value::Null)), "{shown}");
    let hash = sidecar.headers["x-consul-contenthash"].as_str();
    assert!(shown["ContentHash"] == hash && !hash.is_empty(), "{shown}");
    assert_eq!(said(&house.get("/v1/agent/service/zip")), (404, "unknown proxy service ID: zip".to_owned()));

    for (body, text) in [
        ("{", "Request decode failed: unexpected EOF"),
        ("", "Request decode failed: EOF"),
        ("{}", "Missing service name"),
        ("[]", "Request decode failed: '' expected a map, got 'slice'"),
        (
            r#"{"Name":"x","Port":"80"}"#,
            "Request decode failed: 1 error(s) decoding:\n\n* 'Port' expected type 'int', got unconvertible type 'string'",
        ),
    ] {
        assert_eq!(said(&register(body)), (400, text.to_owned()), "{body}");
    }
    assert!(house.get("/v1/agent/services").json().get("x").is_none());

    let lenient = r#"{"Name":"x","Unknown":1,"tags":["q"],"enable_tag_override":true,"check":{"ttl":10}}"#;
    assert_eq!(said(&register(lenient)), (200, String::new()));
    let shown = house.get("/v1/agent/services").json()["x"].clone();
    assert_eq!((&shown["Tags"], &shown["EnableTagOverride"]), (&json!(["q"]), &json!(true)));
    // Ten nanoseconds are over at once.
    until("the check expires", || state(&house, "service:x") == ("critical".into(), "TTL expired".into()));

    let deregister = |id: &str| said(&house.request("PUT", &format!("/v1/agent/service/deregister/{id}"), b""));
    assert_eq!(deregister("nope"), (200, String::new()));
    assert_eq!(deregister(""), (500, "ServiceID missing".to_owned()));
    assert_eq!(deregister("x"), (200, String::new()));
    assert!(house.get("/v1/agent/services").json().get("x").is_none());
}

/// 3.7, 3.8.
#[test]
fn the_health_of_a_service_has_its_status_and_maintenance_its_reason() {
    let house = House::start(LICTOR, json!({}));
    house.put("/v1/agent/service/register", json!({"Name": "web", "Port": 80, "Check": {"TTL": "1h"}}));
    let health = |query: &str| house.get(&format!("/v1/agent/health/service/id/web{query}"));
    let states = [("fail", 503, "critical"), ("warn", 429, "warning"), ("pass", 200, "passing")];
    let agrees = |status: u16, word: &str| {
        let (whole, text) = (health(""), health("?format=text"));
        assert_eq!((whole.status, text.status, text.text().as_str()), (status, status, word));
        assert_eq!(whole.json()["AggregatedStatus"], word);
        for answer in [&whole, &text] {
            assert_eq!(answer.headers["x-consul-reason"], word);
        }
    };
    agrees(503, "critical");
    for (verb, status, word) in states {
        house.put(&format!("/v1/agent/check/{verb}/service:web"), Value::Null);
        agrees(status, word);
    }
    let maintenance = || house.get("/v1/agent/checks").json()["_node_maintenance"].clone();
    house.put("/v1/agent/maintenance?enable=true", Value::Null);
    let check = maintenance();
    assert_eq!((&check["Status"], &check["Name"]), (&json!("critical"), &json!("Node Maintenance Mode")));
    assert_eq!(
        check["Notes"],
        "Maintenance mode is enabled for this node, but no reason was provided. This is a default message."
    );
    agrees(503, "maintenance");
    house.put("/v1/agent/maintenance?enable=false", Value::Null);
    assert_eq!(maintenance(), Value::Null);
    house.put("/v1/agent/maintenance?enable=true&reason=new+disk", Value::Null);
    assert_eq!(maintenance()["Notes"], "new disk");
}

/// 3.9 to 3.11, 6.2.
#[test]
fn a_node_keeps_its_record_under_a_new_name_and_its_name_for_itself() {
    let house = House::start(LICTOR, json!({}));
    let (one, two) = ("11112222-3333-4444-5555-666677778888", "99998888-7777-6666-5555-444433332222");
    let register = |id: &str, node: &str, more: Value| {
        let mut body = json!({"ID": id, "Node": node, "Address": "10.0.0.1"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        said(&house.request("PUT", "/v1/catalog/register", body.to_string().as_bytes()))
    };
    let node = |name: &str| house.get(&format!("/v1/catalog/node/{name}")).json();
    assert_eq!(register(one, "ext1", json!({"Service": {"Service": "larder"}, "Check": {"Name": "c"}})).0, 200);
    assert!(node("ext1")["Services"].get("larder").is_some());
    let created = node("ext1")["Node"]["CreateIndex"].as_u64().unwrap();
    assert_eq!(register(one, "ext2", json!({})).0, 200);
    assert_eq!((node("ext1"), node("ext2")["Services"].clone()), (Value::Null, json!({})));
    assert_eq!(house.get("/v1/catalog/service/larder").json(), json!([]));
    assert_eq!(house.get("/v1/health/node/ext1").json(), json!([]));
    let renamed = node("ext2")["Node"].clone();
    assert_eq!(renamed["CreateIndex"], created);
    assert!(renamed["ModifyIndex"].as_u64() > Some(created), "{renamed}");

    for name in ["ext2", "EXT2"] {
        let text = format!(
            "failed inserting node: Error while renaming Node ID: \"{two}\": Node name {name} is reserved by node {one} \
             with name ext2"
        );
        assert_eq!(register(two, name, json!({})), (500, text));
    }
    assert_eq!(node("1111")["Node"]["Node"], "ext2");
    assert_eq!(node(one)["Node"]["Node"], "ext2");
    assert_eq!(register("11118888-3333-4444-5555-666677778888", "ext3", json!({})).0, 200);
    assert_eq!(node("1111"), Value::Null, "two nodes begin so");
    assert_eq!(node("111188")["Node"]["Node"], "ext3");
}

/// 3.12, 6.1, 6.3 to 6.5.
#[test]
fn the_catalog_moves_its_indexes_with_what_changes_and_with_nothing_else() {
    let house = House::start(LICTOR, json!({}));
    let register = |body: Value| house.put("/v1/catalog/register", body).json();
    let larder = json!({"Node": "ext1", "Address": "10.0.0.1", "Service": {"Service": "larder", "Port": 7000,
        "Tags": ["Red", "blue"], "Weights": {"Passing": 10, "Warning": 2}}, "Check": {"Name": "c", "Status": "passing"}});
    let of = |name: &str| house.get(&format!("/v1/catalog/service/{name}"));
    assert_eq!(register(larder.clone()), json!(true));
    let before = of("larder");
    assert_eq!(register(larder), json!(true));
    let again = of("larder");
    assert_eq!((again.json(), again.index()), (before.json(), before.index()));

    let weights = json!({"Passing": 10, "Warning": 2});
    assert_eq!(first(&before)["ServiceWeights"], weights);
    assert_eq!(first(&house.get("/v1/health/service/larder"))["Service"]["Weights"], weights);
    house.put("/v1/agent/service/register", json!({"Name": "local", "Weights": weights}));
    assert_eq!(house.get("/v1/agent/service/local").json()["Weights"], weights);
    assert_eq!(first(&of("local"))["ServiceWeights"], weights);

    for (tags, found) in [("tag=red", 1), ("tag=red&tag=BLUE", 1), ("tag=red&tag=nope", 0), ("tag=nope", 0)] {
        for path in ["catalog", "health"] {
            let all = house.get(&format!("/v1/{path}/service/larder?{tags}")).json();
            assert_eq!(all.as_array().map(Vec::len), Some(found), "{path} {tags}");
        }
    }

    let node = || house.get("/v1/catalog/node/ext1").json()["Node"].clone();
    let record = node();
    register(json!({"Node": "ext1", "Address": "10.9.9.9", "SkipNodeUpdate": true, "Service": {"Service": "cellar"}}));
    assert_eq!(node(), record);
    assert_eq!(record["Address"], "10.0.0.1");
    assert_eq!(of("cellar").json().as_array().map(Vec::len), Some(1));

    let seen = of("larder").index();
    house.put("/v1/catalog/deregister", json!({"Node": "ext1", "ServiceID": "larder"}));
    let gone = of("larder");
    assert_eq!(gone.json(), json!([]));
    assert!(gone.index() > seen, "{} is not past {seen}", gone.index());
    // Other writes move neither it nor what was never there.
    register(json!({"Node": "ext4", "Address": "10.0.0.4", "Service": {"Service": "shed"}}));
    assert!(of("shed").index() > gone.index());
    assert_eq!((of("larder").index(), of("never").index()), (gone.index(), gone.index()));
}

/// 6.6.
#[test]
fn who_waits_for_the_mesh_side_of_a_service_is_woken_by_a_check_of_its_proxy() {
    let house = House::start(LICTOR, json!({}));
    let proxy =
        json!({"Service": "x-proxy", "Kind": "connect-proxy", "Port": 9, "Proxy": {"DestinationServiceName": "x"}});
    let register = |more: Value| {
        let mut body = json!({"Node": "ext1", "Address": "10.0.0.1"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        house.put("/v1/catalog/register", body);
    };
    let check = |status: &str| json!({"CheckID": "c", "Name": "c", "ServiceID": "x-proxy", "Status": status});
    register(json!({"Service": {"Service": "x", "Port": 8}}));
    register(json!({"Service": proxy, "Check": check("passing")}));
    let seen = house.get("/v1/health/connect/x");
    assert_eq!(seen.json().as_array().map(Vec::len), Some(1), "{}", seen.text());
    thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let path = format!("/v1/health/connect/x?index={}&wait=29s", seen.index());
            (house.get(&path), Instant::now())
        });
        // It may be asked before it waits; either way it must not sleep.
        register(json!({"Check": check("critical")}));
        let changed = Instant::now();
        let (answer, woken) = waiting.join().unwrap();
        assert!(woken.saturating_duration_since(changed) < Duration::from_secs(3), "it slept");
        assert!(answer.index() > seen.index());
        let checks = first(&answer)["Checks"].clone();
        assert_eq!(checks[0]["Status"], "critical", "{checks}");
    });
}

/// What the checks of a test ask, and what they are told: the path says which status.
fn application(heads: &Arc<Mutex<Vec<String>>>) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (port, heads) = (listener.local_addr().unwrap().port(), Arc::clone(heads));
    thread::spawn(move || {
        for mut connection in listener.incoming().flatten() {
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") && connection.read(&mut byte).is_ok_and(|read| read == 1) {
                head.push(byte[0]);
            }
            let head = String::from_utf8_lossy(&head).into_owned();
            let status = match head.split(' ').nth(1) {
                Some("/429") => "429 Too Many Requests",
                Some("/302") => "302 Found\r\nLocation: /200",
                Some("/500") => "500 Internal Server Error",
                _ => "200 OK",
            };
            heads.lock().unwrap().push(head);
            // A check that was ended meanwhile hears nothing more.
            let _ = write!(connection, "HTTP/1.1 {status}\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody");
        }
    });
    port
}

/// 4.1, 4.2.
#[test]
fn checks_judge_by_status_and_exit_code() {
    let house = House::start(LICTOR, json!({"enable_script_checks": true}));
    let heads = Arc::new(Mutex::new(Vec::new()));
    let port = application(&heads);
    let url = |path: &str| format!("http://127.0.0.1:{port}{path}");
    let register = |check: Value| house.put("/v1/agent/check/register", check);
    for path in ["/429", "/302", "/500"] {
        register(json!({"Name": path, "HTTP": url(path), "Interval": "1s"}));
    }
    let headers = json!({"X-Mine": ["a", "b"], "Host": ["pantry.example"]});
    register(json!({"Name": "/mine", "HTTP": url("/mine"), "Method": "PUT", "Header": headers, "Interval": "1s"}));
    for (code, status) in [(0, "passing"), (1, "warning"), (2, "critical")] {
        let line = format!("echo out; echo err >&2; exit {code}");
        register(json!({"Name": status, "Args": ["/bin/sh", "-c", line], "Interval": "1s"}));
    }
    let becomes = |id: &str, status: &str, output: &str| {
        until(&format!("{id} is {status}"), || state(&house, id) == (status.to_owned(), output.to_owned()));
    };
    becomes("/429", "warning", &format!("HTTP GET {}: 429 Too Many Requests Output: body", url("/429")));
    becomes("/302", "passing", &format!("HTTP GET {}: 200 OK Output: body", url("/302")));
    becomes("/500", "critical", &format!("HTTP GET {}: 500 Internal Server Error Output: body", url("/500")));
    becomes("/mine", "passing", &format!("HTTP PUT {}: 200 OK Output: body", url("/mine")));
    for status in ["passing", "warning", "critical"] {
        becomes(status, status, "out\nerr\n");
    }
    let heads = heads.lock().unwrap();
    let asked = |start: &str| {
        let head = heads.iter().find(|head| head.starts_with(start)).unwrap_or_else(|| panic!("{heads:?}"));
        let lines: Vec<String> = head.lines().map(str::to_owned).collect();
        move |line: &str| lines.iter().any(|one| one.eq_ignore_ascii_case(line))
    };
    let (plain, mine) = (asked("GET /429 HTTP/1.1\r\n"), asked("PUT /mine HTTP/1.1\r\n"));
    assert!(plain("User-Agent: Consul Health Check") && mine("User-Agent: Consul Health Check"), "{heads:?}");
    assert!(mine("X-Mine: a") && mine("X-Mine: b") && mine("Host: pantry.example"), "{heads:?}");
    assert!(plain(&format!("Host: 127.0.0.1:{port}")), "{heads:?}");
}

/// 4.3, 4.4, 4.6.
#[test]
fn reports_expire_with_what_was_said_and_long_ones_are_cut() {
    let house = House::start(LICTOR, json!({}));
    house.put("/v1/agent/check/register", json!({"Name": "short", "TTL": "2s"}));
    let reported = Instant::now();
    house.put("/v1/agent/check/pass/short?note=yo", Value::Null);
    let expired = "TTL expired (last output before timeout follows): yo".to_owned();
    until("the report expires", || match state(&house, "short") {
        (status, output) if status == "passing" => {
            assert_eq!(output, "yo");
            false
        }
        (status, output) => {
            assert_eq!((status, &output), ("critical".to_owned(), &expired));
            true
        }
    });
    assert!(reported.elapsed() >= Duration::from_secs(2), "{:?}", reported.elapsed());

    let body = r#"{"Name":"hX","HTTP":"http://127.0.0.1:1/","Header":{"a":"b"},"Interval":"1s"}"#;
    let refused = house.request("PUT", "/v1/agent/check/register", body.as_bytes());
    let text = "Request decode failed: invalid \"Header\": agent: invalid format of 'header' field";
    assert_eq!(said(&refused), (400, text.to_owned()));
    assert_eq!(state(&house, "hX").0, "", "nothing was registered");

    house.put("/v1/agent/check/register", json!({"Name": "long", "TTL": "1h"}));
    house.put("/v1/agent/check/update/long", json!({"Status": "passing", "Output": "x".repeat(5000)}));
    let (status, output) = state(&house, "long");
    assert_eq!((status.as_str(), output.len()), ("passing", 4130));
    assert_eq!(output, format!("{} ... (captured 4096 of 5000 bytes)", "x".repeat(4096)));
    let stored = house.get("/v1/health/node/node1").json();
    assert!(stored.as_array().unwrap().iter().any(|check| check["Output"] == output), "{stored}");
}

/// 4.7. An agent compares everything once a minute.
#[test]
fn a_comparison_with_the_catalog_takes_tags_over_and_removes_strangers() {
    let house = House::start(LICTOR, json!({}));
    let register = |name: &str, free: bool| {
        let body = json!({"Name": name, "Port": 80, "Tags": ["local"], "EnableTagOverride": free});
        house.put("/v1/agent/service/register", body);
    };
    register("free", true);
    register("bound", false);
    let by_another = |service: Value| {
        house.put("/v1/catalog/register", json!({"Node": "node1", "SkipNodeUpdate": true, "Service": service}));
    };
    let remote = |name: &str, free: bool| {
        by_another(json!({"ID": name, "Service": name, "Port": 80, "Tags": ["remote"], "EnableTagOverride": free}));
    };
    remote("free", true);
    remote("bound", false);
    by_another(json!({"ID": "ghost", "Service": "ghost"}));
    let found = |name: &str| house.get(&format!("/v1/catalog/service/{name}")).json();
    assert_eq!(found("ghost").as_array().map(Vec::len), Some(1));
    let tags = |name: &str| house.get(&format!("/v1/agent/service/{name}")).json()["Tags"].clone();
    assert_eq!((tags("free"), tags("bound")), (json!(["local"]), json!(["local"])));
    // Who waits for the service of this agent is told.
    let hash = house.get("/v1/agent/service/free").headers["x-consul-contenthash"].clone();
    let port = house.http_port;
    let waiting = thread::spawn(move || {
        let path = format!("/v1/agent/service/free?hash={hash}&wait=10m");
        http::request(port, "GET", &path, &[], b"", Duration::from_secs(180)).unwrap().json()
    });
    within(Duration::from_secs(150), "everything is compared", || {
        thread::sleep(Duration::from_millis(100));
        (tags("free") == json!(["remote"]) && found("ghost") == json!([])).then_some(())
    });
    until("who waited is answered", || waiting.is_finished());
    assert_eq!(waiting.join().unwrap()["Tags"], json!(["remote"]));
    until("its own tags are back", || found("bound")[0]["ServiceTags"] == json!(["local"]));
    assert_eq!((tags("bound"), &found("free")[0]["ServiceTags"]), (json!(["local"]), &json!(["remote"])));
}

/// Names below a folder, with their modes; `d` marks folders.
fn modes_below(folder: &Path) -> Vec<(String, u32)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        let kind = if path.is_dir() { "folder" } else { "file" };
        found.push((format!("{kind} {}", path.display()), mode));
        if path.is_dir() {
            found.extend(modes_below(&path));
        }
    }
    found
}

/// 5.3, 5.5.
#[test]
fn what_an_agent_keeps_is_for_nobody_else_and_its_node_has_one_id() {
    let program = json!({"command": ["/bin/sleep", "1000"]});
    let managed = json!({"name": "px", "port": 81, "connect": {"proxy": program}});
    let mut house = House::start(LICTOR, json!({"services": [managed]}));
    house.put("/v1/agent/service/register", json!({"Name": "web", "Port": 80}));
    house.put("/v1/agent/check/register", json!({"Name": "c", "TTL": "1h"}));
    house.put("/v1/agent/check/pass/c?note=fine", Value::Null);
    let data = house.data_dir();
    for folder in ["services", "checks", "checks/state", "proxies"] {
        let folder = data.join(folder);
        until("there is a file", || {
            folder.is_dir() && fs::read_dir(&folder).unwrap().flatten().any(|entry| entry.path().is_file())
        });
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700, "{}", folder.display());
        for (name, mode) in modes_below(&folder) {
            let wanted = if name.starts_with("folder") { 0o700 } else { 0o600 };
            assert_eq!(mode, wanted, "{name}: {mode:o}");
        }
    }
    let file = data.join("node-id");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let id = fs::read_to_string(&file).unwrap();
    let groups: Vec<usize> = id.split('-').map(str::len).collect();
    assert_eq!(groups, [8, 4, 4, 4, 12], "{id:?}");
    let shown = |house: &House| house.get("/v1/agent/self").json()["Config"]["NodeID"].clone();
    assert_eq!(shown(&house), id.as_str());
    house.end_agent(Signal::TERM);
    house.start_agent();
    house.wait_ready();
    assert_eq!((shown(&house), fs::read_to_string(&file).unwrap()), (json!(id), id.clone()));
    assert_eq!(house.get("/v1/catalog/node/node1").json()["Node"]["ID"], id.as_str());
}

/// 7.3 to 7.5.
#[test]
fn a_token_for_one_service_opens_that_service_and_no_other() {
    let house = guarded(json!({}));
    let rules = "service \"pantry\" { policy = \"write\" } node_prefix \"\" { policy = \"read\" }";
    let token = token_with(&house, "pantry", rules);
    let both = token_with(&house, "both", &format!("{rules} service \"pantry-x\" {{ policy = \"write\" }}"));
    let proxy_alone = token_with(&house, "proxy-alone", "service \"pantry-x\" { policy = \"write\" }");
    let denied = (403, "Permission denied".to_owned());
    let fine = (200, String::new());
    let register =
        |token: &str, body: Value| said(&ask(&house, token, "PUT", "/v1/agent/service/register", &body.to_string()));
    let proxy = |name: &str, of: &str| json!({"Name": name, "ID": "a-proxy", "Kind": "connect-proxy", "Port": 9, "Proxy": {"DestinationServiceName": of}});
    assert_eq!(register(&token, json!({"Name": "pantry", "Port": 80})), fine);
    assert_eq!(register(&token, json!({"Name": "other", "Port": 80})), denied);
    assert_eq!(register(&token, proxy("pantry-x", "pantry")), denied);
    assert_eq!(register(&proxy_alone, proxy("pantry-x", "pantry")), denied);
    assert_eq!(register(&both, proxy("pantry-x", "pantry")), fine);
    assert_eq!(register(&token, proxy("pantry", "other")), denied);
    assert_eq!(register(&both, proxy("pantry-x", "other")), denied);

    let intention = |to: &str| json!({"SourceName": "web", "DestinationName": to, "Action": "allow"});
    let create = |to: &str| said(&ask(&house, &token, "POST", "/v1/connect/intentions", &intention(to).to_string()));
    assert_eq!((create("pantry"), create("other")), (denied.clone(), denied.clone()));
    for to in ["pantry", "other"] {
        root(&house, "POST", "/v1/connect/intentions", &intention(to));
    }
    let get = |path: &str| ask(&house, &token, "GET", &format!("/v1/{path}"), "");
    let listed = get("connect/intentions").json();
    let to: Vec<&Value> = listed.as_array().unwrap().iter().map(|one| &one["DestinationName"]).collect();
    assert_eq!(to, ["pantry"]);
    assert_eq!(get("connect/intentions/match?by=destination&name=pantry").status, 200);
    assert_eq!(said(&get("connect/intentions/match?by=destination&name=other")), denied);
    assert_eq!(get("connect/intentions/check?source=web&destination=pantry").json(), json!({"Allowed": true}));
    assert_eq!(said(&get("connect/intentions/check?source=web&destination=other")), denied);

    assert_eq!(get("agent/connect/ca/leaf/pantry").json()["Service"], "pantry");
    assert_eq!(said(&get("agent/connect/ca/leaf/other")), denied);
    let authorize = |target: &str| {
        let uri = "spiffe://x.consul/ns/default/dc/dc1/svc/web";
        let body = json!({"Target": target, "ClientCertURI": uri, "ClientCertSerial": "04"}).to_string();
        ask(&house, &token, "POST", "/v1/agent/connect/authorize", &body)
    };
    assert_eq!(authorize("pantry").json()["Authorized"], true);
    assert_eq!(said(&authorize("other")), denied);
}

/// 3.13: what of prepared queries no recorded conversation has.
#[test]
fn queries_that_cannot_be_are_refused_with_the_texts_clients_know() {
    let house = House::start(LICTOR, json!({}));
    let ask = |method: &str, path: &str, body: Value| {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        said(&house.request(method, &format!("/v1/query{path}"), body.as_bytes()))
    };
    let (status, made) = ask("POST", "", json!({"Name": "pq1", "Service": {"Service": "attic"}}));
    assert_eq!(status, 200, "{made}");
    let id = serde_json::from_str::<Value>(&made).unwrap()["ID"].as_str().unwrap().to_owned();
    let refused = |text: &str| (500, text.to_owned());
    let nobody = "/5f0f3d2e-0000-0000-0000-000000000000";
    assert_eq!(
        ask("POST", "", json!({"Service": {"Service": "attic"}})),
        refused("Invalid prepared query: Must be bound to a session")
    );
    assert_eq!(
        ask("POST", "", json!({"Name": "pq1", "Service": {"Service": "attic"}})),
        refused("name 'pq1' aliases an existing query name")
    );
    assert_eq!(
        ask("PUT", "/nope", json!({"Name": "n", "Service": {"Service": "attic"}})),
        refused("Prepared Query lookup failed: failed prepared query lookup: index error: UUID must be 36 characters")
    );
    assert_eq!(
        ask("GET", "/nope", Value::Null),
        refused("failed prepared query lookup: index error: UUID must be 36 characters")
    );
    assert_eq!(ask("GET", nobody, Value::Null), (404, "Query not found".to_owned()));
    assert_eq!(
        ask("DELETE", nobody, Value::Null),
        refused("Cannot modify non-existent prepared query: '5f0f3d2e-0000-0000-0000-000000000000'")
    );
    for name in ["pq1", "nobody"] {
        let path = format!("/{name}/execute?limit=x");
        assert_eq!(ask("GET", &path, Value::Null), refused("Bad limit: strconv.Atoi: parsing \"x\": invalid syntax"));
    }
    let (status, text) = ask("GET", "/pq1/execute?connect=x", Value::Null);
    assert!(status == 500 && text.starts_with("Error parsing 'connect' value: "), "{status} {text}");
    assert_eq!(ask("POST", "/pq1/execute", Value::Null), (405, "method POST not allowed".to_owned()));
    let executed: Value = serde_json::from_str(&ask("GET", "/pq1/execute", Value::Null).1).unwrap();
    assert_eq!(
        executed,
        json!({"Service": "attic", "Nodes": [], "DNS": {"TTL": ""}, "Datacenter": "dc1", "Failovers": 0, "Index": 0,
            "LastContact": 0, "KnownLeader": true, "ConsistencyLevel": "leader"})
    );
    let by_id = json!({"Name": "pq2", "Service": {"Service": "attic"}, "DNS": {"TTL": "10s"}});
    assert_eq!(ask("PUT", &format!("/{id}"), by_id), (200, String::new()));
    assert_eq!(ask("GET", "/pq1/execute", Value::Null), (404, "Query not found".to_owned()));
    assert_eq!(ask("DELETE", &format!("/{id}"), Value::Null), (200, String::new()));
    assert_eq!(ask("GET", "", Value::Null), (200, "[]".to_owned()));
    assert_eq!(
        ask(
            "POST",
            "",
            json!({"Name": "t", "Template": {"Type": "name_prefix_match"}, "Service": {"Service": "${name.full}"}})
        )
        .0,
        200
    );
    let template = house.get("/v1/query").json()[0]["ID"].as_str().unwrap().to_owned();
    assert_eq!(
        ask("GET", &format!("/{template}/execute"), Value::Null),
        refused("prepared query templates can only be resolved up by name, not by ID")
    );
}

/// 9.2, 9.4, 9.5, and what is said about a session that cannot be one.
#[test]
fn keys_go_with_their_session_events_have_a_time_and_nodes_a_place_or_none() {
    let house = House::start(LICTOR, json!({}));
    let session =
        house.put("/v1/session/create", json!({"Behavior": "delete"})).json()["ID"].as_str().unwrap().to_owned();
    let acquire = format!("/v1/kv/lock?acquire={session}");
    assert_eq!(house.request("PUT", &acquire, b"held").json(), json!(true));
    assert_eq!(first(&house.get("/v1/kv/lock"))["Session"], session.as_str());
    assert_eq!(house.put(&format!("/v1/session/destroy/{session}"), Value::Null).json(), json!(true));
    assert_eq!(said(&house.get("/v1/kv/lock")), (404, String::new()));
    let none = (500, "failed session lookup: index error: UUID must be 36 characters".to_owned());
    assert_eq!(said(&house.request("PUT", "/v1/session/renew/zz", b"")), none);
    assert_eq!(said(&house.get("/v1/session/info/zz")), none);
    assert_eq!(said(&house.request("PUT", "/v1/kv/free?acquire=zz", b"held")), none);

    let fired = house.request("PUT", "/v1/event/fire/deploy", b"now").json();
    // Events are this agent's own: its list has no other datacenter to be asked of.
    for path in ["/v1/event/list", "/v1/event/list?name=deploy", "/v1/event/list?dc=other"] {
        let seen = first(&house.get(path));
        assert_eq!((&seen["ID"], &seen["Name"], &seen["Payload"]), (&fired["ID"], &json!("deploy"), &json!("bm93")));
        assert!(seen["LTime"].as_u64() >= Some(1), "{path}: {seen}");
    }

    let nowhere = house.get("/v1/coordinate/node/zz");
    assert_eq!(said(&nowhere), (404, String::new()));
    assert!(!nowhere.headers.contains_key("x-consul-index"), "{:?}", nowhere.headers);
}

/// Sends all of a request and says that nothing more will come; gives what is answered until the connection ends.
fn half_closed(house: &House, request: &str) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, house.http_port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn who_has_nothing_more_to_say_is_answered_all_the_same() {
    let house = House::start(LICTOR, json!({"connect": {"enabled": true}}));
    let put = "PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc";
    let answer = half_closed(&house, put);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("true"), "{answer}");
    // One that waits, whoever reads it, by index and by hash, is answered with what there is.
    house.put("/v1/agent/service/register", json!({"Name": "web", "Port": 80}));
    let hash = house.get("/v1/agent/service/web").headers["x-consul-contenthash"].clone();
    let by_hash = format!("/v1/agent/service/web?wait=10m&hash={hash}");
    for (path, version, part) in [
        ("/v1/kv/a?raw&wait=10m&index=99999", "1.1", "\r\n\r\nabc"),
        ("/v1/kv/a?index=99999&raw&wait=10m", "1.0", "\r\n\r\nabc"),
        ("/v1/agent/connect/ca/leaf/web?index=99999&wait=10m", "1.1", "PrivateKeyPEM"),
        (&by_hash, "1.1", "ContentHash"),
        ("/v1/event/list?index=1&wait=10m", "1.1", "\r\n\r\n[]"),
    ] {
        let answer = half_closed(&house, &format!("GET {path} HTTP/{version}\r\nHost: x\r\n\r\n"));
        assert!(answer.starts_with(&format!("HTTP/{version} 200 OK\r\n")), "{path}: {answer}");
        assert!(answer.contains(part), "{path}: {answer}");
    }
}

#[test]
fn a_service_goes_whatever_its_name() {
    let house = House::start(LICTOR, json!({}));
    for name in ["..", ".", "a/b", "%2e"] {
        house.put("/v1/agent/service/register", json!({"Name": name}));
        let encoded: String = name.bytes().map(|byte| format!("%{byte:02x}")).collect();
        assert_eq!(house.get(&format!("/v1/agent/service/{encoded}")).json()["ID"], name);
        let deregistered = house.request("PUT", &format!("/v1/agent/service/deregister/{encoded}"), b"");
        assert_eq!(said(&deregistered), (200, String::new()), "{name}");
        assert_eq!(house.get("/v1/agent/services").json().get(name), None, "{name}");
    }
    // By hand the same: the command encodes what has another meaning.
    house.put("/v1/agent/service/register", json!({"Name": ".."}));
    let output = std::process::Command::new(LICTOR)
        .args(["services", "deregister", "-id=..", &format!("-http-addr=127.0.0.1:{}", house.http_port)])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "Deregistered service: ..\n");
    assert_eq!(house.get("/v1/agent/services").json(), json!({}));
    // Written out they are directions, as everywhere.
    let moved =
        raw(TcpStream::connect((Ipv4Addr::LOCALHOST, house.http_port)).unwrap(), "GET", "/v1/agent/service/../self");
    assert!(moved.starts_with("HTTP/1.1 301 ") && moved.contains("Location: /v1/agent/self\r\n"), "{moved}");
}

#[test]
fn numbers_that_cannot_be_are_refused_and_flags_have_all_their_bits() {
    let house = House::start(LICTOR, json!({}));
    let autopilot = "/v1/operator/autopilot/configuration";
    let refused = house.request("PUT", autopilot, br#"{"MaxTrailingLogs": -1}"#);
    let text = "Error parsing autopilot config: 1 error(s) decoding:\n\n* cannot parse 'MaxTrailingLogs', -1.000000 overflows uint";
    assert_eq!(said(&refused), (400, text.to_owned()));
    assert_eq!(house.get(autopilot).json()["MaxTrailingLogs"], 250);
    // Flags of semaphores use all bits, in transactions too.
    let flags: u64 = 0xe0f6_9a2b_aa41_4de0;
    let set = json!([{"KV": {"Verb": "set", "Key": "semaphore", "Value": "", "Flags": flags}}]);
    house.put("/v1/txn", set);
    assert_eq!(first(&house.get("/v1/kv/semaphore"))["Flags"], json!(flags));
    let refused = house.request("PUT", "/v1/txn", br#"[{"KV": {"Verb": "set", "Key": "a", "Flags": -1}}]"#);
    assert_eq!(refused.status, 400, "{}", refused.text());
}
