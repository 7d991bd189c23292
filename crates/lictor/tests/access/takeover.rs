//! Who may write only their own thing aims at somebody else's, by every way that writes.

use lictor_testkit::{House, until};
use serde_json::{Value, json};

use crate::house::{LICTOR, ROOT, as_root, ask_as, guarded, text, token_with};

/// The id of another node.
const V1: &str = "11111111-0000-4000-8000-000000000001";

/// What of all this exists, as it is seen by who sees everything.
fn everything(house: &House) -> Vec<Value> {
    let paths = [
        "/v1/agent/services",
        "/v1/agent/checks",
        "/v1/catalog/nodes",
        "/v1/internal/ui/nodes",
        "/v1/session/list",
        "/v1/query",
        "/v1/connect/intentions",
        "/v1/kv/?keys",
        "/v1/coordinate/nodes",
    ];
    let mut seen: Vec<Value> = paths.iter().map(|path| as_root(house, "GET", path, Value::Null)).collect();
    seen.iter_mut().for_each(without_indexes);
    seen
}

/// A heartbeat or a coordinate of the agent's own moves them.
fn without_indexes(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !name.ends_with("Index"));
            fields.values_mut().for_each(without_indexes);
        }
        Value::Array(elements) => elements.iter_mut().for_each(without_indexes),
        _ => {}
    }
}

/// This agent with services of others, and another node with some.
fn furnished() -> House {
    let house = House::start_dev(LICTOR, guarded(json!({})));
    as_root(&house, "PUT", "/v1/agent/token/agent", json!({"Token": ROOT}));
    let critical = |id: &str| json!({"CheckID": id, "Name": id, "TTL": "10m", "Status": "critical"});
    let register = |body: Value| as_root(&house, "PUT", "/v1/agent/service/register", body);
    register(json!({"Name": "victim", "Check": critical("vcheck")}));
    register(json!({"Name": "secretsvc", "ID": "web-sidecar-proxy", "Port": 1}));
    // By the id that a check without one gets.
    register(json!({"Name": "victim", "ID": "v2", "Check": critical("service:default-id")}));
    as_root(&house, "PUT", "/v1/agent/check/register", critical("nodechk"));
    let far = |status: &str| {
        json!([{"CheckID": "nodechk", "Name": "n", "Status": status},
            {"CheckID": "vcheck", "Name": "v", "ServiceID": "victim", "Status": status}])
    };
    let v1 = json!({"Node": "v1", "ID": V1, "Address": "10.0.0.1", "Service": {"Service": "victim", "Port": 80},
        "Checks": far("critical")});
    as_root(&house, "PUT", "/v1/catalog/register", v1);
    let own = json!({"Node": "v1", "Address": "10.0.0.1", "SkipNodeUpdate": true,
        "Service": {"ID": "m1", "Service": "mine", "Port": 80}});
    as_root(&house, "PUT", "/v1/catalog/register", own);
    until("the catalog has it", || {
        let shown = as_root(&house, "GET", "/v1/catalog/services", Value::Null);
        ["victim", "secretsvc"].iter().all(|name| shown.get(name).is_some())
    });
    house
}

/// `PUT` of a body that must be refused and must change nothing.
struct Attempt {
    path: String,
    body: Value,
}

fn to(path: &str, body: Value) -> Attempt {
    Attempt { path: path.into(), body }
}

impl Attempt {
    /// What is wrong with its outcome.
    fn problem(&self, house: &House, token: &str, before: &[Value]) -> Option<String> {
        let Attempt { path, body } = self;
        let answer = ask_as(house, token, "PUT", path, body.clone());
        let denied = match path.as_str() {
            "/v1/txn" => answer.status == 409 && answer.json()["Errors"][0]["What"] == "Permission denied",
            _ => answer.status == 403 && answer.text() == "Permission denied",
        };
        let changed = everything(house) != before;
        let shown = || format!("{path} {body}: {} {} (changed something: {changed})", answer.status, answer.text());
        (!denied || changed).then(shown)
    }
}

#[track_caller]
fn all_are_denied(house: &House, token: &str, attempts: &[Attempt]) {
    let before = everything(house);
    let problems: Vec<String> = attempts.iter().filter_map(|attempt| attempt.problem(house, token, &before)).collect();
    assert!(problems.is_empty(), "{} of {}:\n{}", problems.len(), attempts.len(), problems.join("\n"));
}

fn txn_of_service(verb: &str, node: &str, service: &Value) -> Attempt {
    to("/v1/txn", json!([{"Service": {"Verb": verb, "Node": node, "Service": service}}]))
}

fn txn_of_check(verb: &str, check: &Value) -> Attempt {
    to("/v1/txn", json!([{"Check": {"Verb": verb, "Check": check}}]))
}

#[test]
fn the_right_on_one_service_takes_nothing_of_others() {
    let house = furnished();
    let rules = r#"service "mine" { policy = "write" } service "web" { policy = "write" }
        service "web-sidecar-proxy" { policy = "write" } service "mine-sidecar-proxy" { policy = "write" }"#;
    let mine = token_with(&house, "mine", rules);
    let before = everything(&house);
    let register = |body: Value| to("/v1/agent/service/register", body);
    let catalog = |body: Value| to("/v1/catalog/register", body);
    let passing = |id: &str| json!([{"CheckID": id, "Name": "x", "ServiceID": "m1", "Status": "passing"}]);
    let ttl = |id: &str| json!({"CheckID": id, "Name": "x", "TTL": "10m", "Status": "passing"});
    let on_v1 = |mut body: Value| {
        body["Node"] = json!("v1");
        body["Address"] = json!("10.0.0.1");
        body["SkipNodeUpdate"] = json!(true);
        catalog(body)
    };
    let mut attempts = vec![
        // Another's instance.
        txn_of_service("set", "v1", &json!({"ID": "victim", "Service": "mine", "Port": 666})),
        txn_of_service("set", "V1", &json!({"ID": "VICTIM", "Service": "mine", "Port": 666})),
        txn_of_service("cas", "v1", &json!({"ID": "victim", "Service": "mine", "ModifyIndex": 1})),
        txn_of_service("delete", "v1", &json!({"ID": "victim", "Service": "mine"})),
        on_v1(json!({"Service": {"ID": "victim", "Service": "mine", "Port": 666}})),
        register(json!({"ID": "victim", "Name": "mine", "Port": 666})),
        register(json!({"ID": "VICTIM", "Name": "mine", "Port": 666})),
        register(json!({"ID": "consul", "Name": "mine"})),
        // To be found in its place.
        on_v1(json!({"Service": {"Service": "mine", "Kind": "connect-proxy", "Port": 1,
            "Proxy": {"DestinationServiceName": "victim"}}})),
        txn_of_service(
            "set",
            "v1",
            &json!({"ID": "p", "Service": "mine", "Kind": "connect-proxy", "Port": 1,
            "Proxy": {"DestinationServiceName": "victim"}}),
        ),
        register(json!({"Name": "mine", "Connect": {"SidecarService":
            {"Proxy": {"DestinationServiceName": "victim"}}}})),
        // An id that a sidecar needs.
        register(json!({"Name": "web", "Port": 80, "Connect": {"SidecarService": {}}})),
        // A node that is not there.
        catalog(json!({"Node": V1, "SkipNodeUpdate": true, "Address": "6.6.6.6", "Service": {"Service": "mine"}})),
        catalog(
            json!({"Node": &V1[..8], "SkipNodeUpdate": true, "Address": "6.6.6.6", "Service": {"Service": "mine"}}),
        ),
        to("/v1/catalog/deregister", json!({"Node": "v1"})),
        to("/v1/catalog/deregister", json!({"Node": "v1", "ServiceID": "victim"})),
        to("/v1/agent/service/deregister/victim", Value::Null),
        to("/v1/agent/service/maintenance/victim?enable=true", Value::Null),
        to("/v1/agent/maintenance?enable=true", Value::Null),
        to("/v1/agent/force-leave/v1", Value::Null),
        to("/v1/agent/check/register", json!({"Name": "x", "ID": "vcheck", "TTL": "10m", "ServiceID": "mine"})),
        to("/v1/coordinate/update", json!({"Node": "v1", "Coord": {"Vec": [0, 0, 0, 0, 0, 0, 0, 0]}})),
        to("/v1/event/fire/deploy", Value::Null),
        to("/v1/session/create", json!({"Node": "v1", "Checks": []})),
        to("/v1/snapshot", Value::Null),
    ];
    for id in ["nodechk", "vcheck", "NODECHK", "VCHECK"] {
        for verb in ["set", "cas", "delete", "delete-cas"] {
            let claimed =
                json!({"Node": "v1", "CheckID": id, "ServiceID": "m1", "ServiceName": "mine", "Status": "passing"});
            attempts.push(txn_of_check(verb, &claimed));
            let claimed = json!({"Node": "v1", "CheckID": id, "ServiceID": "none", "ServiceName": "mine"});
            attempts.push(txn_of_check(verb, &claimed));
        }
        attempts.push(on_v1(json!({"Checks": passing(id)})));
        attempts.push(on_v1(json!({"Service": {"ID": "m1", "Service": "mine", "Port": 80}, "Checks": passing(id)})));
        attempts.push(to("/v1/catalog/deregister", json!({"Node": "v1", "CheckID": id})));
        attempts.push(register(json!({"Name": "mine", "Checks": [ttl("own"), ttl(id)]})));
        attempts.push(register(json!({"Name": "mine", "Connect": {"SidecarService": {"Port": 9, "Check": ttl(id)}}})));
    }
    for id in ["vcheck", "nodechk"] {
        for act in ["deregister", "pass", "warn", "fail"] {
            attempts.push(to(&format!("/v1/agent/check/{act}/{id}"), Value::Null));
        }
        attempts.push(to(&format!("/v1/agent/check/update/{id}"), json!({"Status": "passing"})));
    }
    // What says something of others by its id alone.
    for id in ["serfHealth", "_node_maintenance", "_service_maintenance:victim"] {
        attempts.push(register(json!({"Name": "mine", "Check": ttl(id)})));
    }
    // The id that the agent makes up.
    attempts.push(register(json!({"Name": "mine", "ID": "default-id", "Check": {"TTL": "10m"}})));
    all_are_denied(&house, &mine, &attempts);

    // What is one's own goes on.
    let done = |method: &str, path: &str, body: Value| {
        let answer = ask_as(&house, &mine, method, path, body);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    };
    let own = json!({"Name": "mine", "Port": 80, "Checks": [ttl("own"), {"TTL": "10m"}],
        "Connect": {"SidecarService": {}}});
    done("PUT", "/v1/agent/service/register", own.clone());
    done("PUT", "/v1/agent/service/register", own);
    done("PUT", "/v1/agent/check/pass/own", Value::Null);
    done("PUT", "/v1/agent/service/maintenance/mine?enable=true", Value::Null);
    done("PUT", "/v1/agent/service/maintenance/mine?enable=false", Value::Null);
    done("PUT", "/v1/agent/check/deregister/own", Value::Null);
    let on_v1 = json!({"Node": "v1", "Address": "10.0.0.1", "SkipNodeUpdate": true,
        "Service": {"ID": "m1", "Service": "mine", "Port": 81}, "Checks": passing("m1-check")});
    done("PUT", "/v1/catalog/register", on_v1);
    let check = json!({"Node": "v1", "CheckID": "m1-check", "ServiceID": "m1", "Status": "warning"});
    done("PUT", "/v1/txn", json!([{"Check": {"Verb": "set", "Check": check}}]));
    done("PUT", "/v1/txn", json!([{"Check": {"Verb": "delete", "Check": check}}]));
    done("PUT", "/v1/catalog/deregister", json!({"Node": "v1", "ServiceID": "m1"}));
    done("PUT", "/v1/agent/service/deregister/mine", Value::Null);
    let after = everything(&house);
    assert_eq!(before[0], after[0], "nothing is left behind and nothing else is gone");
}

#[test]
fn the_right_on_one_node_takes_nothing_of_other_nodes() {
    let house = furnished();
    let rules = r#"node "minenode" { policy = "write" } session "minenode" { policy = "write" }
        node "V1" { policy = "write" }"#;
    let mine = token_with(&house, "mine", rules);
    let node = |verb: &str, node: Value| to("/v1/txn", json!([{"Node": {"Verb": verb, "Node": node}}]));
    let attempts = [
        to("/v1/catalog/register", json!({"Node": "minenode", "ID": V1, "Address": "6.6.6.6"})),
        to("/v1/catalog/register", json!({"Node": "minenode", "ID": V1, "Address": "6.6.6.6", "SkipNodeUpdate": true})),
        to("/v1/catalog/register", json!({"Node": "V1", "Address": "6.6.6.6"})),
        to("/v1/catalog/deregister", json!({"Node": "V1"})),
        to("/v1/catalog/deregister", json!({"Node": "V1", "ServiceID": "victim"})),
        to("/v1/catalog/register", json!({"Node": "v1", "Address": "6.6.6.6"})),
        node("set", json!({"Node": "minenode", "ID": V1, "Address": "6.6.6.6"})),
        node("cas", json!({"Node": "minenode", "ID": V1, "Address": "6.6.6.6"})),
        node("set", json!({"Node": "V1", "Address": "6.6.6.6"})),
        node("delete", json!({"Node": "V1"})),
        node("delete", json!({"ID": V1})),
        to("/v1/session/create", json!({"Node": "v1", "Checks": []})),
        to("/v1/coordinate/update", json!({"Node": "v1", "Coord": {"Vec": [0, 0, 0, 0, 0, 0, 0, 0]}})),
    ];
    all_are_denied(&house, &mine, &attempts);
    let answer =
        ask_as(&house, &mine, "PUT", "/v1/catalog/register", json!({"Node": "minenode", "Address": "10.0.0.9"}));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let both = token_with(&house, "both", r#"node "minenode" { policy = "write" } node "v1" { policy = "write" }"#);
    let renamed = json!({"Node": "v2", "ID": V1, "Address": "10.0.0.1"});
    assert_eq!(ask_as(&house, &both, "PUT", "/v1/catalog/register", renamed.clone()).status, 403);
    as_root(&house, "PUT", "/v1/catalog/register", renamed);
}

#[test]
fn queries_intentions_sessions_and_keys_of_others_stay_as_they_are() {
    let house = furnished();
    let query = json!({"Name": "victim-q", "Service": {"Service": "victim"}});
    let query = text(&as_root(&house, "POST", "/v1/query", query), "ID");
    let intention = json!({"SourceName": "a", "DestinationName": "victim", "Action": "deny"});
    let intention = text(&as_root(&house, "POST", "/v1/connect/intentions", intention), "ID");
    let session = text(&as_root(&house, "PUT", "/v1/session/create", json!({"Node": "v1", "Checks": []})), "ID");
    as_root(&house, "PUT", "/v1/kv/mine/theirs/a", json!(1));
    let rules = r#"query_prefix "mine" { policy = "write" } session "node1" { policy = "write" }
        service "mine" { policy = "write" intentions = "write" }
        key_prefix "mine/" { policy = "write" } key_prefix "mine/theirs/" { policy = "read" }"#;
    let mine = token_with(&house, "mine", rules);
    let before = everything(&house);
    let by_id = format!("/v1/query/{query}");
    let of_intention = format!("/v1/connect/intentions/{intention}");
    let attempts = [
        ("PUT", by_id.clone(), json!({"Name": "mine-q", "Service": {"Service": "mine"}})),
        ("PUT", by_id.to_uppercase().replace("/V1/QUERY", "/v1/query"), json!({"Service": {"Service": "mine"}})),
        ("PUT", by_id.clone(), json!({"Service": {"Service": "mine"}})),
        ("DELETE", by_id, Value::Null),
        ("POST", "/v1/query".into(), json!({"Name": "min", "Service": {"Service": "mine"}})),
        (
            "POST",
            "/v1/query".into(),
            json!({"Name": "", "Template": {"Type": "name_prefix_match"}, "Service": {"Service": "mine"}}),
        ),
        ("PUT", of_intention.clone(), json!({"SourceName": "a", "DestinationName": "mine", "Action": "allow"})),
        ("DELETE", of_intention, Value::Null),
        (
            "POST",
            "/v1/connect/intentions".into(),
            json!({"SourceName": "a", "DestinationName": "*", "Action": "allow"}),
        ),
        (
            "POST",
            "/v1/connect/intentions".into(),
            json!({"SourceName": "mine", "DestinationName": "victim", "Action": "allow"}),
        ),
        ("PUT", format!("/v1/session/destroy/{session}"), Value::Null),
        ("PUT", format!("/v1/session/renew/{session}"), Value::Null),
        ("DELETE", "/v1/kv/mine/?recurse".into(), Value::Null),
        ("DELETE", "/v1/kv/mine/theirs/a".into(), Value::Null),
        ("DELETE", "/v1/kv/?recurse".into(), Value::Null),
        ("PUT", format!("/v1/kv/mine/theirs/a?acquire={session}"), Value::Null),
        ("PUT", format!("/v1/kv/mine/theirs/a?release={session}"), Value::Null),
    ];
    for (method, path, body) in attempts {
        let answer = ask_as(&house, &mine, method, &path, body.clone());
        let shown = format!("{method} {path} {body}: {} {}", answer.status, answer.text());
        assert_eq!((answer.status, answer.text().as_str()), (403, "Permission denied"), "{shown}");
        assert_eq!(everything(&house), before, "{shown}");
    }
    let ops = [
        json!({"Verb": "delete-tree", "Key": "mine/"}),
        json!({"Verb": "delete-tree", "Key": ""}),
        json!({"Verb": "lock", "Key": "mine/theirs/a", "Session": session}),
        json!({"Verb": "delete-cas", "Key": "mine/theirs/a", "Index": 1}),
    ];
    all_are_denied(&house, &mine, &ops.map(|op| to("/v1/txn", json!([{"KV": op}]))));
}

/// Not a question of rights on things, but of the same kind: a way around a guard.
#[test]
fn a_sidecars_script_needs_what_every_script_needs() {
    let house = furnished();
    let script = json!({"Name": "s", "Args": ["true"], "Interval": "10s"});
    let body = json!({"Name": "mine", "Connect": {"SidecarService": {"Port": 9, "Check": script}}});
    let answer = ask_as(&house, ROOT, "PUT", "/v1/agent/service/register", body);
    assert_eq!(answer.status, 500, "{}", answer.text());
    assert!(answer.text().starts_with("Scripts are disabled on this agent from remote calls"), "{}", answer.text());
    assert!(as_root(&house, "GET", "/v1/agent/services", Value::Null).get("mine").is_none());
}

#[test]
fn a_sidecar_takes_no_id_from_a_service_of_another_name() {
    let house = furnished();
    let web = json!({"Name": "web", "Port": 80, "Connect": {"SidecarService": {}}});
    let answer = ask_as(&house, ROOT, "PUT", "/v1/agent/service/register", web.clone());
    assert_eq!(answer.status, 500);
    assert!(answer.text().contains("\"web-sidecar-proxy\" is taken"), "{}", answer.text());
    assert_eq!(as_root(&house, "GET", "/v1/agent/services", Value::Null)["web-sidecar-proxy"]["Service"], "secretsvc");
    // One that stood there before under the name it will have becomes the sidecar.
    as_root(&house, "PUT", "/v1/agent/service/deregister/web-sidecar-proxy", Value::Null);
    as_root(&house, "PUT", "/v1/agent/service/register", json!({"Name": "web-sidecar-proxy", "Port": 1}));
    as_root(&house, "PUT", "/v1/agent/service/register", web);
    let services = as_root(&house, "GET", "/v1/agent/services", Value::Null);
    assert_eq!(services["web-sidecar-proxy"]["Kind"], "connect-proxy");
}
