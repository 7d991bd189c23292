//! The token of a managed proxy: what a proxy must do with it works, everything else is refused.

use std::time::Duration;
use std::{fs, thread};

use lictor_testkit::{House, ports, until};
use serde_json::{Value, json};

use crate::common::{connect, echo, echo_once};
use crate::house::{LICTOR, ROOT, as_root, ask_as, guarded, token_with};

/// `web` and `db` with managed proxies, registered with a token of their own that can do far more than a proxy needs.
fn house() -> House {
    let more = json!({"connect": {"enabled": true,
        "proxy": {"allow_managed_root": true, "allow_managed_api_registration": true}}});
    let house = House::start(LICTOR, guarded(more));
    as_root(&house, "PUT", "/v1/agent/token/agent", json!({"Token": ROOT}));
    let rules = r#"service "web" { policy = "write" } service "web-proxy" { policy = "write" }
        service_prefix "" { policy = "read" } node_prefix "" { policy = "read" } key_prefix "app/" { policy = "write" }"#;
    let web = token_with(&house, "web", rules);
    let upstreams = json!([{"DestinationName": "db", "LocalBindPort": ports::one()}]);
    register(
        &house,
        &web,
        json!({"Name": "web", "Port": 8080, "Connect": {"Proxy": {"Command": command(), "Upstreams": upstreams}}}),
    );
    let db = token_with(&house, "db", &rules.replace("web", "db"));
    register(&house, &db, json!({"Name": "db", "Port": 8081, "Connect": {"Proxy": {"Command": command()}}}));
    house
}

/// Whoever misses a service that is defined beside it and kept out of the catalog learns that, and so does its owner.
#[test]
fn why_tells_what_the_acls_keep_out_of_the_catalog() {
    let more = json!({"connect": {"enabled": true,
        "proxy": {"allow_managed_root": true, "allow_managed_api_registration": true}},
        "services": [{"name": "db", "id": "db-1", "port": 8081, "connect": {"proxy": {}}}]});
    let house = House::start(LICTOR, guarded(more));
    as_root(&house, "PUT", "/v1/agent/token/agent", json!({"Token": ROOT}));
    let rules = r#"service "web" { policy = "write" } service "web-proxy" { policy = "write" }
        service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }"#;
    let web = token_with(&house, "web", rules);
    let upstreams = json!([{"DestinationName": "db", "LocalBindPort": ports::one()}]);
    register(&house, &web, json!({"Name": "web", "Port": 8080, "Connect": {"Proxy": {"Upstreams": upstreams}}}));
    let tells = |id: &str, cause: &str| {
        let answer = get(&house, ROOT, &format!("/v1/agent/connect/why/{id}"));
        answer.0 == 200 && answer.1.contains(cause) && answer.1.contains("acl.tokens.default")
    };
    until("its owner learns it", || tells("db-1", "nobody finds db-1: its way into the catalog is blocked by ACLs"));
    until("who misses it learns it", || {
        tells("web", "db-1 is registered on this agent, and its way into the catalog is blocked by ACLs")
    });
    as_root(&house, "PUT", "/v1/agent/token/default", json!({"Token": ROOT}));
    until("it is found", || !tells("web", "blocked by ACLs") && !tells("db-1", "blocked by ACLs"));
}

/// A command of its own: the agent's own proxy needs no token and gets none.
fn command() -> Value {
    json!([LICTOR, "connect", "proxy", "-log-level=debug"])
}

fn register(house: &House, token: &str, definition: Value) {
    let answer = ask_as(house, token, "PUT", "/v1/agent/service/register", definition);
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// The secret that the agent gave to a proxy, as its process has it.
pub(crate) fn proxy_token(house: &House, id: &str) -> String {
    let environment = fs::read(format!("/proc/{}/environ", house.proxy_pid(id))).unwrap();
    let entries = environment.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    entries.filter_map(|entry| entry.strip_prefix("CONNECT_PROXY_TOKEN=").map(str::to_owned)).next().unwrap()
}

fn get(house: &House, token: &str, path: &str) -> (u16, String) {
    let answer = ask_as(house, token, "GET", path, Value::Null);
    (answer.status, answer.text())
}

fn denied() -> (u16, String) {
    (403, "Permission denied".into())
}

/// Spec 01 section 6, facts 1 to 4.
#[test]
fn a_proxy_may_do_what_a_proxy_must_and_nothing_else() {
    let house = house();
    let token = proxy_token(&house, "web-proxy");
    let other = proxy_token(&house, "db-proxy");
    assert_ne!(token, other);

    // Fact 1: its own configuration and leaf, and nobody else's.
    let own = ask_as(&house, &token, "GET", "/v1/agent/connect/proxy/web-proxy", Value::Null);
    assert_eq!(own.status, 200, "{}", own.text());
    assert!(own.json()["Config"].get("telemetry").is_some(), "{}", own.text());
    let leaf = ask_as(&house, &token, "GET", "/v1/agent/connect/ca/leaf/web", Value::Null);
    assert!(leaf.status == 200 && leaf.text().contains("PRIVATE KEY"), "{}", leaf.text());
    assert_eq!(get(&house, &token, "/v1/agent/connect/ca/leaf/db"), denied());
    assert_eq!(get(&house, &token, "/v1/agent/connect/ca/leaf/web-proxy"), denied());
    assert_eq!(get(&house, &token, "/v1/agent/connect/proxy/db-proxy").0, 403);
    assert_eq!(get(&house, &other, "/v1/agent/connect/proxy/web-proxy").0, 403);
    assert_eq!(get(&house, &token, "/v1/agent/service/web-proxy").0, 200);
    assert_eq!(get(&house, &token, "/v1/agent/connect/ca/roots").0, 200);
    let uri = "spiffe://x.consul/ns/default/dc/dc1/svc/a";
    let authorize = |token: &str, target: &str| {
        let question = json!({"Target": target, "ClientCertURI": uri});
        ask_as(&house, token, "POST", "/v1/agent/connect/authorize", question)
    };
    assert_eq!(authorize(&token, "web").json()["Authorized"], false, "the default policy denies");
    assert_eq!(authorize(&token, "web").json()["Reason"], "Default behavior configured by ACLs");
    assert_eq!(authorize(&token, "db").status, 403);
    assert_eq!(get(&house, &token, "/v1/connect/intentions/match?by=destination&name=web").0, 200);
    // Its upstreams, seen with the rights of its service.
    until("the proxy of db is in the catalog", || get(&house, &token, "/v1/health/connect/db").1.contains("db-proxy"));
    assert_eq!(get(&house, &other, "/v1/health/connect/web"), denied(), "db has no such upstream");

    // Fact 2: the token of its service is none of its business.
    assert_eq!(get(&house, &token, "/v1/acl/token/self").0, 403);

    // Fact 3: neither is what that token could do.
    for (method, path, body) in [
        ("PUT", "/v1/agent/service/register", json!({"Name": "web", "Port": 1})),
        ("PUT", "/v1/agent/service/deregister/web", Value::Null),
        ("PUT", "/v1/kv/app/x", json!("x")),
        ("GET", "/v1/kv/app/x", Value::Null),
        ("PUT", "/v1/session/create", Value::Null),
        ("GET", "/v1/agent/services", Value::Null),
        ("GET", "/v1/agent/self", Value::Null),
        ("GET", "/v1/catalog/nodes", Value::Null),
        ("GET", "/v1/connect/intentions", Value::Null),
    ] {
        let answer = ask_as(&house, &token, method, path, body);
        assert_eq!((answer.status, answer.text()), denied(), "{method} {path}");
    }

    // Fact 4: it ends with its parent.
    as_root(&house, "PUT", "/v1/agent/service/deregister/web", Value::Null);
    assert_eq!(get(&house, &token, "/v1/agent/connect/ca/leaf/web"), (403, "ACL not found".into()));
    assert_eq!(get(&house, &token, "/v1/health/connect/db"), (403, "ACL not found".into()));
    assert!(!house.log().contains(&token), "no log has the token");
}

/// Spec 01 section 6, facts 5 and 6.
#[test]
fn a_proxys_token_is_one_agents_own_and_shows_telemetry_to_the_proxy_alone() {
    let definition = json!({"services": [{"name": "web", "port": 8080, "connect": {"proxy": {"command": command()}}}]});
    let open = House::start_dev(LICTOR, definition);
    let token = proxy_token(&open, "web-proxy");
    let telemetry = |token: &str| {
        let answer = ask_as(&open, token, "GET", "/v1/agent/connect/proxy/web-proxy", Value::Null);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["Config"].get("telemetry").is_some()
    };
    // Fact 6: without access control any token works, and one is still the proxy's.
    assert!(telemetry(&token));
    assert!(!telemetry("anything") && !telemetry(""));
    assert_eq!(get(&open, "anything", "/v1/agent/connect/ca/leaf/web").0, 200);
    // Fact 5: another agent does not know it.
    let other = House::start_dev(LICTOR, guarded(json!({})));
    assert_eq!(get(&other, &token, "/v1/catalog/nodes"), (403, "ACL not found".into()));
}

/// Rights that come, are taken back in a policy, and are exchanged for fewer: each is felt by what already waits.
#[test]
fn the_upstreams_of_a_proxy_follow_the_rights_of_its_service() {
    let entries = [ports::one(), ports::one()];
    let web = json!({"name": "web", "port": 8080, "connect": {"proxy": {"upstreams": [
        {"destination_name": "redis", "local_bind_port": entries[0]},
        {"destination_type": "prepared_query", "destination_name": "rq", "local_bind_port": entries[1]}]}}});
    let redis = json!({"name": "redis", "port": echo().port(), "token": ROOT, "connect": {"proxy": {}}});
    let house = House::start(LICTOR, guarded(json!({"services": [redis, web]})));
    as_root(&house, "PUT", "/v1/agent/token/agent", json!({"Token": ROOT}));
    let intention = json!({"SourceName": "web", "DestinationName": "redis", "Action": "allow"});
    as_root(&house, "POST", "/v1/connect/intentions", intention);
    as_root(&house, "POST", "/v1/query", json!({"Name": "rq", "Service": {"Service": "redis"}}));
    until("redis is found", || {
        as_root(&house, "GET", "/v1/health/connect/redis?passing", Value::Null)
            .as_array()
            .is_some_and(|all| !all.is_empty())
    });
    let all = |works: bool| entries.iter().all(|entry| echo_once(*entry).is_ok() == works);
    until("the upstreams are open", || entries.iter().all(|entry| connect(*entry).is_ok()));
    // By then the proxy has been told that there is nothing, and waits.
    thread::sleep(Duration::from_secs(1));
    assert!(all(false), "nobody has allowed anything");

    let own = r#"service "web" { policy = "write" } service "web-proxy" { policy = "write" }"#;
    let rules = format!(r#"{own} service_prefix "" {{ policy = "read" }} node_prefix "" {{ policy = "read" }}"#);
    let good = token_with(&house, "web", &rules);
    let poor = token_with(&house, "poor", own);
    let given = |token: &str| {
        house.reconfigure(|config| config["services"][1]["token"] = token.into());
        as_root(&house, "PUT", "/v1/agent/reload", Value::Null);
    };
    given(&good);
    until("the new token counts", || all(true));

    let policies = as_root(&house, "GET", "/v1/acl/policies", Value::Null);
    let policy = policies.as_array().unwrap().iter().find(|policy| policy["Name"] == "web").unwrap();
    let path = format!("/v1/acl/policy/{}", policy["ID"].as_str().unwrap());
    let ruled = |rules: &str| as_root(&house, "PUT", &path, json!({"Name": "web", "Rules": rules}));
    ruled(own);
    until("what the policy does not allow any more has ended", || all(false));
    ruled(&rules);
    until("what the policy allows again works", || all(true));

    given(&poor);
    until("the poorer token counts", || all(false));
}
