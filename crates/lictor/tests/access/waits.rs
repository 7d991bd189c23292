//! Every read that can wait: each change of what it asks for wakes it, and no other change does.
//!
//! The table below must have a row for each endpoint that can wait. All rows wait at once while the changes are made one
//! after the other, so that each row is tried with each change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread;
use std::time::Duration;

use lictor_testkit::House;
use lictor_testkit::http::{self, Answer};
use serde_json::{Value, json};

use crate::common::root_key;
use crate::house::{LICTOR, PATIENCE, ROOT, as_root, ask_as, guarded, text, try_as};

/// Longer than the whole test takes.
const LONG: Duration = Duration::from_secs(600);

struct Row {
    pattern: &'static str,
    /// With names in braces for what is made before.
    path: &'static str,
    /// The changes that wake it, by name.
    wakes: &'static [&'static str],
}

const fn row(pattern: &'static str, path: &'static str, wakes: &'static [&'static str]) -> Row {
    Row { pattern, path, wakes }
}

/// Changes of instances, whoever has them.
const INSTANCES: &[&str] = &["instance", "proxy", "foreign instance", "local service", "node gone"];
/// Changes of checks, whoever has them.
const CHECKS: &[&str] = &["check", "proxy's check", "foreign check", "node gone"];
/// All that a feed of the web interface is made of.
const CATALOG: &[&str] = &[
    "node",
    "foreign node",
    "instance",
    "proxy",
    "foreign instance",
    "local service",
    "check",
    "proxy's check",
    "foreign check",
    "node gone",
];

/// Changes of tokens, whoever holds them; each is shown with the names of its policies.
const TOKENS: &[&str] = &["token", "foreign token", "older token", "root's token", "policy", "foreign policy"];

#[rustfmt::skip]
const ROWS: &[Row] = &[
    // This agent.
    row("/v1/agent/service/", "/v1/agent/service/web", &["local service"]),
    row("/v1/agent/connect/proxy/", "/v1/agent/connect/proxy/px-proxy", &["local proxy"]),
    row("/v1/agent/connect/ca/roots", "", &["root"]),
    row("/v1/agent/connect/ca/leaf/", "/v1/agent/connect/ca/leaf/web", &["root"]),
    // The catalog.
    row("/v1/catalog/nodes", "", &["node", "foreign node", "node gone"]),
    row("/v1/catalog/services", "", INSTANCES),
    row("/v1/catalog/service/", "/v1/catalog/service/far", &["node", "instance", "check"]),
    row("/v1/catalog/connect/", "/v1/catalog/connect/far", &["node", "proxy", "proxy's check"]),
    row("/v1/catalog/node/", "/v1/catalog/node/ext1", &["node", "instance", "proxy"]),
    // Health.
    row("/v1/health/node/", "/v1/health/node/ext1", &["check", "proxy's check"]),
    row("/v1/health/checks/", "/v1/health/checks/far", &["node", "instance", "check"]),
    row("/v1/health/state/", "/v1/health/state/any", CHECKS),
    row("/v1/health/service/", "/v1/health/service/far", &["node", "instance", "check"]),
    row("/v1/health/connect/", "/v1/health/connect/far", &["node", "proxy", "proxy's check"]),
    // The mesh.
    row("/v1/connect/ca/roots", "", &["root"]),
    row("/v1/connect/intentions", "", &["intention", "foreign intention"]),
    row("/v1/connect/intentions/match", "/v1/connect/intentions/match?by=destination&name=web", &["intention"]),
    row("/v1/connect/intentions/match", "/v1/connect/intentions/match?by=source&name=a", &["intention"]),
    row("/v1/connect/intentions/", "/v1/connect/intentions/{intention}", &["intention"]),
    // Prepared queries.
    row("/v1/query", "", &["query", "foreign query"]),
    row("/v1/query/", "/v1/query/{query}", &["query"]),
    // Any query may be the next that a name leads to.
    row("/v1/query/", "/v1/query/q/explain", &["query", "foreign query"]),
    row("/v1/query/", "/v1/query/q/execute", &["query", "foreign query", "node", "instance", "check"]),
    // Keys and the sessions that lock them.
    row("/v1/kv/", "/v1/kv/app/a", &["key"]),
    row("/v1/kv/", "/v1/kv/app/?recurse", &["key"]),
    row("/v1/kv/", "/v1/kv/app/?keys", &["key"]),
    row("/v1/session/info/", "/v1/session/info/{session}", &["session gone"]),
    row("/v1/session/node/", "/v1/session/node/ext1", &["session", "session gone"]),
    row("/v1/session/list", "", &["session", "session gone", "foreign session", "node gone"]),
    // Events and distances.
    row("/v1/event/list", "/v1/event/list?name=deploy", &["event"]),
    row("/v1/coordinate/nodes", "", &["coordinate", "foreign coordinate", "node gone"]),
    row("/v1/coordinate/node/", "/v1/coordinate/node/ext1", &["coordinate"]),
    // Access control.
    row("/v1/acl/policies", "", &["policy", "foreign policy"]),
    row("/v1/acl/policy/", "/v1/acl/policy/{policy}", &["policy"]),
    row("/v1/acl/tokens", "", TOKENS),
    row("/v1/acl/token/self", "", &["root's token"]),
    row("/v1/acl/token/", "/v1/acl/token/{token}", &["token", "policy"]),
    row("/v1/acl/info/", "/v1/acl/info/{older}", &["older token"]),
    row("/v1/acl/list", "", TOKENS),
    // Feeds of the web interface.
    row("/v1/internal/ui/nodes", "", CATALOG),
    row("/v1/internal/ui/node/", "/v1/internal/ui/node/ext1",
        &["node", "instance", "proxy", "check", "proxy's check"]),
    row("/v1/internal/ui/services", "", CATALOG),
];

struct Deed {
    name: &'static str,
    method: &'static str,
    path: &'static str,
    body: &'static str,
}

const fn deed(name: &'static str, method: &'static str, path: &'static str, body: &'static str) -> Deed {
    Deed { name, method, path, body }
}

#[rustfmt::skip]
const DEEDS: &[Deed] = &[
    deed("foreign key", "PUT", "/v1/kv/other", "x"),
    deed("key", "PUT", "/v1/kv/app/a", "x"),
    deed("foreign node", "PUT", "/v1/catalog/register", r#"{"Node": "ext2", "Address": "10.0.0.99"}"#),
    deed("node", "PUT", "/v1/catalog/register", r#"{"Node": "ext1", "Address": "10.0.0.98"}"#),
    deed("foreign instance", "PUT", "/v1/catalog/register",
        r#"{"Node": "ext2", "SkipNodeUpdate": true, "Service": {"Service": "elsewhere", "Port": 99}}"#),
    deed("instance", "PUT", "/v1/catalog/register",
        r#"{"Node": "ext1", "SkipNodeUpdate": true, "Service": {"Service": "far", "Port": 99}}"#),
    deed("proxy", "PUT", "/v1/catalog/register",
        r#"{"Node": "ext1", "SkipNodeUpdate": true, "Service": {"Service": "far-proxy", "Port": 99,
            "Kind": "connect-proxy", "Proxy": {"DestinationServiceName": "far"}}}"#),
    deed("foreign check", "PUT", "/v1/catalog/register",
        r#"{"Node": "ext2", "SkipNodeUpdate": true, "Check": {"Name": "c", "ServiceID": "elsewhere", "Status": "warning"}}"#),
    deed("check", "PUT", "/v1/catalog/register",
        r#"{"Node": "ext1", "SkipNodeUpdate": true, "Check": {"Name": "c", "ServiceID": "far", "Status": "warning"}}"#),
    deed("proxy's check", "PUT", "/v1/catalog/register",
        r#"{"Node": "ext1", "SkipNodeUpdate": true, "Check": {"Name": "p", "ServiceID": "far-proxy", "Status": "warning"}}"#),
    deed("local service", "PUT", "/v1/agent/service/register", r#"{"Name": "web", "Port": 81}"#),
    deed("foreign intention", "PUT", "/v1/connect/intentions/{other-intention}",
        r#"{"SourceName": "b", "DestinationName": "other", "Action": "deny"}"#),
    deed("intention", "PUT", "/v1/connect/intentions/{intention}",
        r#"{"SourceName": "a", "DestinationName": "web", "Action": "deny"}"#),
    deed("foreign query", "PUT", "/v1/query/{other-query}", r#"{"Name": "other", "Service": {"Service": "elsewhere"}}"#),
    deed("query", "PUT", "/v1/query/{query}", r#"{"Name": "q", "Service": {"Service": "far"}, "DNS": {"TTL": "1s"}}"#),
    deed("foreign session", "PUT", "/v1/session/create", r#"{"Node": "ext2", "Checks": []}"#),
    deed("renewal", "PUT", "/v1/session/renew/{session}", ""),
    deed("session", "PUT", "/v1/session/create", r#"{"Node": "ext1", "Checks": []}"#),
    deed("foreign event", "PUT", "/v1/event/fire/other", ""),
    deed("event", "PUT", "/v1/event/fire/deploy", ""),
    deed("foreign coordinate", "PUT", "/v1/coordinate/update",
        r#"{"Node": "ext2", "Coord": {"Vec": [1, 0, 0, 0, 0, 0, 0, 0], "Error": 1.5, "Height": 0.1}}"#),
    deed("coordinate", "PUT", "/v1/coordinate/update",
        r#"{"Node": "ext1", "Coord": {"Vec": [1, 0, 0, 0, 0, 0, 0, 0], "Error": 1.5, "Height": 0.1}}"#),
    deed("foreign policy", "PUT", "/v1/acl/policy/{other-policy}", r#"{"Name": "renamed"}"#),
    deed("policy", "PUT", "/v1/acl/policy/{policy}", r#"{"Name": "renamed-too"}"#),
    deed("foreign token", "PUT", "/v1/acl/token/{other-token}", r#"{"Description": "changed"}"#),
    deed("token", "PUT", "/v1/acl/token/{token}", r#"{"Description": "changed", "Policies": [{"ID": "{policy}"}]}"#),
    deed("older token", "PUT", "/v1/acl/update", r#"{"ID": "{older}", "Name": "changed"}"#),
    deed("node gone", "PUT", "/v1/catalog/deregister", r#"{"Node": "ext2"}"#),
    // Behind all that changes sessions: what is gone has an index that moves with the others, for want of one of its own.
    deed("session gone", "PUT", "/v1/session/destroy/{session}", ""),
];

/// An agent with two of each thing, and the names of what has no fixed one.
fn furnished() -> (House, BTreeMap<&'static str, String>) {
    let sleeps = json!({"name": "px", "port": 1, "token": ROOT, "connect": {"proxy": {
        "command": ["/bin/sleep", "1000"], "config": {"disable_tcp_check": true}}}});
    let house = House::start_dev(LICTOR, guarded(json!({"services": [sleeps]})));
    as_root(&house, "PUT", "/v1/agent/token/agent", json!({"Token": ROOT}));
    as_root(&house, "PUT", "/v1/agent/service/register", json!({"Name": "web", "Port": 80}));
    for (node, service) in [("ext1", "far"), ("ext2", "elsewhere")] {
        let put = |more: Value| {
            let mut entry = json!({"Node": node, "Address": "10.0.0.1"});
            entry.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            as_root(&house, "PUT", "/v1/catalog/register", entry);
        };
        put(
            json!({"Service": {"Service": service}, "Check": {"Name": "c", "ServiceID": service, "Status": "passing"}}),
        );
        let proxy = json!({"Service": format!("{service}-proxy"), "Kind": "connect-proxy",
            "Proxy": {"DestinationServiceName": service}});
        let check = json!({"Name": "p", "ServiceID": format!("{service}-proxy"), "Status": "passing"});
        put(json!({"Service": proxy, "Check": check}));
        let place = json!({"Vec": [0, 0, 0, 0, 0, 0, 0, 0], "Error": 1.5, "Height": 0.1});
        as_root(&house, "PUT", "/v1/coordinate/update", json!({"Node": node, "Coord": place}));
    }
    let made = |method: &str, path: &str, body: Value, field: &str| text(&as_root(&house, method, path, body), field);
    let intention = |source: &str, destination: &str| {
        let body = json!({"SourceName": source, "DestinationName": destination, "Action": "allow"});
        made("POST", "/v1/connect/intentions", body, "ID")
    };
    let query = |name: &str, service: &str| {
        made("POST", "/v1/query", json!({"Name": name, "Service": {"Service": service}}), "ID")
    };
    let policy = |name: &str| made("PUT", "/v1/acl/policy", json!({"Name": name}), "ID");
    let token = |policy: &str| made("PUT", "/v1/acl/token", json!({"Policies": [{"ID": policy}]}), "AccessorID");
    let (own_policy, other_policy) = (policy("own"), policy("other"));
    let older = json!({"Name": "older", "Rules": "key \"\" { policy = \"read\" }"});
    let names = BTreeMap::from([
        ("{intention}", intention("a", "web")),
        ("{other-intention}", intention("b", "other")),
        ("{query}", query("q", "far")),
        ("{other-query}", query("other", "elsewhere")),
        ("{session}", made("PUT", "/v1/session/create", json!({"Node": "ext1", "Checks": [], "TTL": "1h"}), "ID")),
        ("{token}", token(&own_policy)),
        ("{other-token}", token(&other_policy)),
        ("{policy}", own_policy),
        ("{other-policy}", other_policy),
        ("{older}", made("PUT", "/v1/acl/create", older, "ID")),
    ]);
    as_root(&house, "PUT", "/v1/session/create", json!({"Node": "ext2", "Checks": []}));
    for key in ["app/a", "other", "sentinel"] {
        as_root(&house, "PUT", &format!("/v1/kv/{key}"), json!("first"));
    }
    for event in ["deploy", "other"] {
        as_root(&house, "PUT", &format!("/v1/event/fire/{event}"), Value::Null);
    }
    // What the agent does by itself shall be over.
    lictor_testkit::until("the catalog has what this agent has", || {
        let shown = ask_as(&house, ROOT, "GET", "/v1/catalog/services", Value::Null).json();
        ["web", "px", "px-proxy"].iter().all(|name| shown.get(name).is_some())
    });
    (house, names)
}

/// One row that waits.
struct Watcher {
    row: &'static Row,
    path: String,
    answer: Receiver<Answer>,
}

impl Watcher {
    fn start(house: &House, row: &'static Row, path: String) -> Watcher {
        let now = try_as(house, ROOT, ("GET", &path), "", PATIENCE).unwrap();
        assert_eq!(now.status, 200, "{path}: {}", now.text());
        let (sender, answer) = channel();
        let joint = if path.contains('?') { '&' } else { '?' };
        let asked = format!("{path}{joint}{}&wait=10m", newer_than(&path, house, &now));
        // The house stays with the test, or its agent would outlive that.
        let port = house.http_port;
        thread::spawn(move || {
            // It ends without an answer when the agent does, and then nobody wants it any more.
            let headers = [("X-Consul-Token", ROOT)];
            if let Ok(answer) = http::request(port, "GET", &asked, &headers, b"", LONG) {
                let _ = sender.send(answer);
            }
        });
        Watcher { row, path, answer }
    }

    fn is_woken(&self) -> bool {
        match self.answer.try_recv() {
            Ok(answer) => {
                assert_eq!(answer.status, 200, "{}: {}", self.path, answer.text());
                true
            }
            Err(TryRecvError::Empty) => false,
            Err(TryRecvError::Disconnected) => panic!("{}: no answer", self.path),
        }
    }
}

/// The parameter that asks for something newer than this answer.
fn newer_than(path: &str, house: &House, now: &Answer) -> String {
    let header = |name: &str| now.headers.get(name).cloned();
    if let Some(hash) = header("x-consul-contenthash") {
        return format!("hash={hash}");
    }
    // As in the original, some endpoints say it nowhere but in what they show, and executions only when they are asked.
    let index = if path.ends_with("/execute") {
        try_as(house, ROOT, ("GET", &format!("{path}?index=0")), "", PATIENCE).unwrap().index().to_string()
    } else {
        header("x-consul-index").unwrap_or_else(|| now.json()["ModifyIndex"].to_string())
    };
    format!("index={index}")
}

#[test]
fn every_endpoint_that_can_wait_has_a_row() {
    let rows: BTreeSet<&str> = ROWS.iter().map(|row| row.pattern).collect();
    let there: BTreeSet<&str> = lictor_http::waiting().collect();
    assert_eq!(rows, there, "say what wakes them");
    let deeds: BTreeSet<&str> = DEEDS.iter().map(|deed| deed.name).chain(LATER).collect();
    let unknown: Vec<&&str> = ROWS.iter().flat_map(|row| row.wakes).filter(|name| !deeds.contains(**name)).collect();
    assert!(unknown.is_empty(), "nobody does {unknown:?}");
}

/// Changes that need more than a fixed request.
const LATER: [&str; 3] = ["root's token", "local proxy", "root"];

#[test]
fn what_waits_is_woken_by_each_change_of_what_it_asks_for_and_by_no_other() {
    let (house, names) = furnished();
    let filled_in = |template: &str| names.iter().fold(template.to_owned(), |text, (name, id)| text.replace(name, id));
    let start = |row: &'static Row| {
        let path = if row.path.is_empty() { row.pattern } else { row.path };
        Watcher::start(&house, row, filled_in(path))
    };
    let mut watchers: Vec<Watcher> = ROWS.iter().map(start).collect();
    let mut problems = Vec::new();
    let mut look = |deed: &str| {
        // One that waits for a later change is woken later than any that the deed woke.
        static SENTINEL: Row = row("/v1/kv/", "/v1/kv/sentinel", &[]);
        let sentinel = Watcher::start(&house, &SENTINEL, SENTINEL.path.to_owned());
        as_root(&house, "PUT", SENTINEL.path, json!(deed));
        lictor_testkit::until("the sentinel wakes", || sentinel.is_woken());
        for watcher in &mut watchers {
            if watcher.row.wakes.contains(&deed) {
                lictor_testkit::until(&format!("{deed} wakes {}", watcher.path), || watcher.is_woken());
            } else if watcher.is_woken() {
                problems.push(format!("{deed} wakes {}", watcher.path));
            } else {
                continue;
            }
            *watcher = start(watcher.row);
        }
    };
    for Deed { name, method, path, body } in DEEDS {
        let answer = try_as(&house, ROOT, (method, &filled_in(path)), &filled_in(body), PATIENCE).unwrap();
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
        look(name);
    }
    let mut changed = as_root(&house, "GET", "/v1/acl/token/self", Value::Null);
    let path = format!("/v1/acl/token/{}", text(&changed, "AccessorID"));
    changed["Description"] = "changed".into();
    as_root(&house, "PUT", &path, changed);
    look("root's token");
    house.reconfigure(|config| {
        let upstream = json!({"destination_name": "far", "local_bind_port": 1});
        config["services"][0]["connect"]["proxy"]["upstreams"] = json!([upstream]);
    });
    as_root(&house, "PUT", "/v1/agent/reload", Value::Null);
    look("local proxy");
    if let Some(key) = root_key() {
        let body = json!({"Provider": "consul", "Config": {"PrivateKey": key}});
        as_root(&house, "PUT", "/v1/connect/ca/configuration", body);
        look("root");
    }
    // At the end no change is late: the last look would see what an earlier one woke.
    look("nothing");
    assert!(problems.is_empty(), "{}\n{}", problems.join("\n"), house.log());
}
