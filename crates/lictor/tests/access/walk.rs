//! Every endpoint with no token, a wrong one, one that nearly suffices, and the least sufficient one.
//!
//! The table below must name each endpoint and method that the API has: a new one without a row fails the test, and so
//! does a row without an endpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lictor_testkit::House;
use lictor_testkit::http::Answer;
use serde_json::{Value, json};

use crate::house::{LICTOR, PATIENCE, as_root, ask_as, guarded, text, try_as};
use crate::proxies::proxy_token;

/// Resource, name, access.
type Right = (&'static str, &'static str, &'static str);

/// What an endpoint asks of its callers.
enum Rule {
    /// Nothing; it does not even look at the token.
    Open,
    /// That the token exists.
    Known,
    /// These rights; without any one of them: 403.
    Needs(&'static [Right]),
    /// Nothing, but it shows a thing only to who has these rights.
    Shows(&'static [Right], fn(&Answer) -> bool),
    /// These rights, and then it never ends.
    Streams(&'static [Right]),
}

struct Row {
    method: &'static str,
    pattern: &'static str,
    /// With names in braces for what is made before.
    path: &'static str,
    body: &'static str,
    rule: Rule,
}

const fn row(method: &'static str, pattern: &'static str, path: &'static str, body: &'static str, rule: Rule) -> Row {
    Row { method, pattern, path, body, rule }
}

use Rule::{Known, Needs, Open, Shows, Streams};

const AGENT_READ: &[Right] = &[("agent", "node1", "read")];
const AGENT_WRITE: &[Right] = &[("agent", "node1", "write")];
const NODE_READ: &[Right] = &[("node", "node1", "read")];
const NODE_WRITE: &[Right] = &[("node", "node1", "write")];
const WEB_READ: &[Right] = &[("service", "web", "read")];
const WEB_WRITE: &[Right] = &[("service", "web", "write")];
const WEB_ON_NODE: &[Right] = &[("node", "node1", "read"), ("service", "web", "read")];
const PX_ON_NODE: &[Right] = &[("node", "node1", "read"), ("service", "px", "read"), ("service", "px-proxy", "read")];
const PX_READ: &[Right] = &[("service", "px", "read")];
const PX_WRITE: &[Right] = &[("service", "px", "write")];
const INTENTIONS_READ: &[Right] = &[("intentions", "web", "read")];
const INTENTIONS_WRITE: &[Right] = &[("intentions", "web", "write")];
const SESSION_READ: &[Right] = &[("session", "node1", "read")];
const SESSION_WRITE: &[Right] = &[("session", "node1", "write")];
const OPERATOR_READ: &[Right] = &[("operator", "", "read")];
const OPERATOR_WRITE: &[Right] = &[("operator", "", "write")];
const KEYRING_READ: &[Right] = &[("keyring", "", "read")];
const KEYRING_WRITE: &[Right] = &[("keyring", "", "write")];
const ACL_READ: &[Right] = &[("acl", "", "read")];
const ACL_WRITE: &[Right] = &[("acl", "", "write")];

fn has_key(answer: &Answer, key: &str) -> bool {
    answer.json().get(key).is_some()
}

fn has_elements(answer: &Answer) -> bool {
    answer.json().as_array().is_some_and(|all| !all.is_empty())
}

fn names_instances(answer: &Answer) -> bool {
    answer.json()["Nodes"].as_array().is_some_and(|all| !all.is_empty())
}

fn names_web(answer: &Answer) -> bool {
    answer.text().contains("\"web\"")
}

#[rustfmt::skip]
const ROWS: &[Row] = &[
    // This agent.
    row("GET", "/v1/agent/self", "", "", Needs(AGENT_READ)),
    row("GET", "/v1/agent/members", "", "", Shows(NODE_READ, has_elements)),
    row("GET", "/v1/agent/metrics", "", "", Needs(AGENT_READ)),
    row("GET", "/v1/agent/monitor", "", "", Streams(AGENT_READ)),
    row("PUT", "/v1/agent/reload", "", "", Needs(AGENT_WRITE)),
    row("PUT", "/v1/agent/join/", "/v1/agent/join/10.0.0.1", "", Needs(AGENT_WRITE)),
    row("PUT", "/v1/agent/force-leave/", "/v1/agent/force-leave/other", "", Needs(AGENT_WRITE)),
    row("PUT", "/v1/agent/token/", "/v1/agent/token/replication", r#"{"Token": "x"}"#, Needs(AGENT_WRITE)),
    row("PUT", "/v1/agent/maintenance", "/v1/agent/maintenance?enable=false", "", Needs(NODE_WRITE)),
    row("GET", "/v1/agent/services", "", "", Shows(WEB_READ, |answer| has_key(answer, "web"))),
    row("GET", "/v1/agent/service/", "/v1/agent/service/web", "", Needs(WEB_READ)),
    row("PUT", "/v1/agent/service/register", "", r#"{"Name": "web", "ID": "w2"}"#, Needs(WEB_WRITE)),
    row("PUT", "/v1/agent/service/register", "",
        r#"{"Name": "web-side", "Kind": "connect-proxy", "Port": 9, "Proxy": {"DestinationServiceName": "web"}}"#,
        Needs(&[("service", "web", "write"), ("service", "web-side", "write")])),
    row("PUT", "/v1/agent/service/deregister/", "/v1/agent/service/deregister/w2", "", Needs(WEB_WRITE)),
    row("PUT", "/v1/agent/service/maintenance/", "/v1/agent/service/maintenance/web?enable=false", "", Needs(WEB_WRITE)),
    row("GET", "/v1/agent/health/service/id/", "/v1/agent/health/service/id/web", "", Open),
    row("GET", "/v1/agent/health/service/name/", "/v1/agent/health/service/name/web", "", Open),
    row("GET", "/v1/agent/checks", "", "", Shows(WEB_READ, |answer| has_key(answer, "ttl-web"))),
    row("GET", "/v1/agent/checks", "", "", Shows(NODE_READ, |answer| has_key(answer, "ttl-node"))),
    row("PUT", "/v1/agent/check/register", "", r#"{"Name": "c2", "TTL": "10m"}"#, Needs(NODE_WRITE)),
    row("PUT", "/v1/agent/check/deregister/", "/v1/agent/check/deregister/c2", "", Needs(NODE_WRITE)),
    row("PUT", "/v1/agent/check/pass/", "/v1/agent/check/pass/ttl-web", "", Needs(WEB_WRITE)),
    row("PUT", "/v1/agent/check/warn/", "/v1/agent/check/warn/ttl-node", "", Needs(NODE_WRITE)),
    row("PUT", "/v1/agent/check/fail/", "/v1/agent/check/fail/ttl-web", "", Needs(WEB_WRITE)),
    row("PUT", "/v1/agent/check/update/", "/v1/agent/check/update/ttl-web", r#"{"Status": "passing"}"#, Needs(WEB_WRITE)),
    row("POST", "/v1/agent/connect/authorize", "",
        r#"{"Target": "web", "ClientCertURI": "spiffe://x.consul/ns/default/dc/dc1/svc/a"}"#, Needs(WEB_WRITE)),
    row("GET", "/v1/agent/connect/ca/roots", "", "", Open),
    row("GET", "/v1/agent/connect/ca/leaf/", "/v1/agent/connect/ca/leaf/web", "", Needs(WEB_WRITE)),
    row("GET", "/v1/agent/connect/proxy/", "/v1/agent/connect/proxy/px-proxy", "", Needs(&[("service", "px", "write")])),
    row("PUT", "/v1/agent/connect/proxy/restart/", "/v1/agent/connect/proxy/restart/px-proxy", "", Needs(&[("service", "px", "write")])),
    row("GET", "/v1/agent/connect/neighbor", "/v1/agent/connect/neighbor?id=px-proxy", "", Needs(PX_READ)),
    row("GET", "/v1/agent/connect/processes", "", "", Shows(PX_READ, has_elements)),
    row("GET", "/v1/agent/connect/process/", "/v1/agent/connect/process/px-proxy", "", Needs(PX_READ)),
    row("GET", "/v1/agent/connect/why/", "/v1/agent/connect/why/px-proxy", "", Needs(PX_READ)),
    row("GET", "/v1/agent/connect/logs/", "/v1/agent/connect/logs/px-proxy", "", Needs(PX_READ)),
    row("PUT", "/v1/agent/connect/restart/", "/v1/agent/connect/restart/px-proxy", "", Needs(PX_WRITE)),
    row("PUT", "/v1/agent/connect/drain/", "/v1/agent/connect/drain/px-proxy", "", Needs(PX_WRITE)),
    row("PUT", "/v1/agent/connect/stop/", "/v1/agent/connect/stop/px-proxy", "", Needs(PX_WRITE)),
    row("PUT", "/v1/agent/connect/start/", "/v1/agent/connect/start/px-proxy", "", Needs(PX_WRITE)),
    // The catalog.
    row("PUT", "/v1/catalog/register", "", r#"{"Node": "ext2", "Address": "10.0.0.2"}"#, Needs(&[("node", "ext2", "write")])),
    row("PUT", "/v1/catalog/register", "",
        r#"{"Node": "ext1", "SkipNodeUpdate": true, "Service": {"Service": "far2"}}"#, Needs(&[("service", "far2", "write")])),
    row("PUT", "/v1/catalog/register", "",
        r#"{"Node": "ext1", "SkipNodeUpdate": true, "Check": {"Name": "n"}}"#, Needs(&[("node", "ext1", "write")])),
    row("PUT", "/v1/catalog/deregister", "", r#"{"Node": "ext1", "CheckID": "n"}"#, Needs(&[("node", "ext1", "write")])),
    row("PUT", "/v1/catalog/deregister", "", r#"{"Node": "ext2"}"#, Needs(&[("node", "ext2", "write")])),
    row("GET", "/v1/catalog/datacenters", "", "", Open),
    row("GET", "/v1/catalog/nodes", "", "", Shows(NODE_READ, has_elements)),
    row("GET", "/v1/catalog/services", "", "", Shows(WEB_READ, |answer| has_key(answer, "web"))),
    row("GET", "/v1/catalog/service/", "/v1/catalog/service/web", "", Shows(WEB_ON_NODE, has_elements)),
    row("GET", "/v1/catalog/connect/", "/v1/catalog/connect/px", "", Shows(PX_ON_NODE, has_elements)),
    row("GET", "/v1/catalog/node/", "/v1/catalog/node/node1", "", Shows(NODE_READ, |answer| !answer.json().is_null())),
    row("GET", "/v1/catalog/node/", "/v1/catalog/node/node1", "", Shows(WEB_ON_NODE, names_web)),
    // Health.
    row("GET", "/v1/health/node/", "/v1/health/node/node1", "", Shows(NODE_READ, has_elements)),
    row("GET", "/v1/health/checks/", "/v1/health/checks/web", "", Shows(WEB_ON_NODE, has_elements)),
    row("GET", "/v1/health/state/", "/v1/health/state/any", "", Shows(WEB_ON_NODE, names_web)),
    row("GET", "/v1/health/service/", "/v1/health/service/web", "", Shows(WEB_ON_NODE, has_elements)),
    row("GET", "/v1/health/connect/", "/v1/health/connect/px", "", Shows(PX_ON_NODE, has_elements)),
    // The mesh.
    row("GET", "/v1/connect/ca/configuration", "", "", Needs(OPERATOR_READ)),
    row("PUT", "/v1/connect/ca/configuration", "", r#"{"Provider": "consul", "Config": {}}"#, Needs(OPERATOR_WRITE)),
    row("GET", "/v1/connect/ca/roots", "", "", Open),
    row("GET", "/v1/connect/intentions", "", "", Shows(INTENTIONS_READ, has_elements)),
    row("POST", "/v1/connect/intentions", "",
        r#"{"SourceName": "b", "DestinationName": "web", "Action": "deny"}"#, Needs(INTENTIONS_WRITE)),
    row("GET", "/v1/connect/intentions/match", "/v1/connect/intentions/match?by=destination&name=web", "", Needs(INTENTIONS_READ)),
    row("GET", "/v1/connect/intentions/check", "/v1/connect/intentions/check?source=a&destination=web", "", Needs(WEB_READ)),
    row("GET", "/v1/connect/intentions/", "/v1/connect/intentions/{intention}", "", Needs(INTENTIONS_READ)),
    row("PUT", "/v1/connect/intentions/", "/v1/connect/intentions/{intention}",
        r#"{"SourceName": "a", "DestinationName": "web", "Action": "deny"}"#, Needs(INTENTIONS_WRITE)),
    row("DELETE", "/v1/connect/intentions/", "/v1/connect/intentions/{intention}", "", Needs(INTENTIONS_WRITE)),
    // Prepared queries.
    row("GET", "/v1/query", "", "", Shows(&[("query", "q", "read")], has_elements)),
    row("POST", "/v1/query", "", r#"{"Name": "q2", "Service": {"Service": "web"}}"#, Needs(&[("query", "q2", "write")])),
    row("GET", "/v1/query/", "/v1/query/{query}", "", Needs(&[("query", "q", "read")])),
    row("GET", "/v1/query/", "/v1/query/q/explain", "", Needs(&[("query", "q", "read")])),
    row("GET", "/v1/query/", "/v1/query/q/execute", "", Shows(WEB_ON_NODE, names_instances)),
    row("PUT", "/v1/query/", "/v1/query/{query}",
        r#"{"Name": "q", "Service": {"Service": "web"}}"#, Needs(&[("query", "q", "write")])),
    row("DELETE", "/v1/query/", "/v1/query/{query}", "", Needs(&[("query", "q", "write")])),
    // Keys and the sessions that lock them.
    row("GET", "/v1/kv/", "/v1/kv/app/a", "", Needs(&[("key", "app/a", "read")])),
    row("GET", "/v1/kv/", "/v1/kv/app/?recurse", "", Shows(&[("key", "app/a", "read")], |answer| answer.status == 200)),
    row("GET", "/v1/kv/", "/v1/kv/app/?keys", "", Shows(&[("key", "app/a", "read")], |answer| answer.status == 200)),
    row("PUT", "/v1/kv/", "/v1/kv/app/b", "x", Needs(&[("key", "app/b", "write")])),
    row("DELETE", "/v1/kv/", "/v1/kv/app/b", "", Needs(&[("key", "app/b", "write")])),
    row("DELETE", "/v1/kv/", "/v1/kv/app/?recurse", "", Needs(&[("key_prefix", "app/", "write")])),
    row("PUT", "/v1/session/create", "", "", Needs(SESSION_WRITE)),
    row("PUT", "/v1/session/renew/", "/v1/session/renew/{session}", "", Needs(SESSION_WRITE)),
    row("GET", "/v1/session/info/", "/v1/session/info/{session}", "", Shows(SESSION_READ, has_elements)),
    row("GET", "/v1/session/node/", "/v1/session/node/node1", "", Shows(SESSION_READ, has_elements)),
    row("GET", "/v1/session/list", "", "", Shows(SESSION_READ, has_elements)),
    row("PUT", "/v1/session/destroy/", "/v1/session/destroy/{session}", "", Needs(SESSION_WRITE)),
    row("PUT", "/v1/txn", "", r#"[{"KV": {"Verb": "set", "Key": "app/t", "Value": "MQ=="}}]"#,
        Shows(&[("key", "app/t", "write")], |answer| answer.status == 200)),
    // Events and distances.
    row("PUT", "/v1/event/fire/", "/v1/event/fire/deploy", "x", Needs(&[("event", "deploy", "write")])),
    row("GET", "/v1/event/list", "", "", Shows(&[("event", "deploy", "read")], has_elements)),
    row("GET", "/v1/coordinate/datacenters", "", "", Open),
    row("GET", "/v1/coordinate/nodes", "", "", Shows(NODE_READ, has_elements)),
    row("GET", "/v1/coordinate/node/", "/v1/coordinate/node/node1", "", Needs(NODE_READ)),
    row("PUT", "/v1/coordinate/update", "", r#"{"Node": "node1", "Coord": {"Vec": [0, 0, 0, 0, 0, 0, 0, 0]}}"#,
        Needs(NODE_WRITE)),
    // The cluster.
    row("GET", "/v1/agent/host", "", "", Needs(OPERATOR_READ)),
    row("GET", "/v1/operator/raft/configuration", "", "", Needs(OPERATOR_READ)),
    row("DELETE", "/v1/operator/raft/peer", "/v1/operator/raft/peer?id=none", "", Needs(OPERATOR_WRITE)),
    row("GET", "/v1/operator/autopilot/configuration", "", "", Needs(OPERATOR_READ)),
    row("PUT", "/v1/operator/autopilot/configuration", "", "{}", Needs(OPERATOR_WRITE)),
    row("GET", "/v1/operator/autopilot/health", "", "", Needs(OPERATOR_READ)),
    row("PUT", "/v1/operator/store/move", "", "", Needs(OPERATOR_WRITE)),
    row("GET", "/v1/operator/keyring", "", "", Needs(KEYRING_READ)),
    row("POST", "/v1/operator/keyring", "", r#"{"Key": "x"}"#, Needs(KEYRING_WRITE)),
    row("PUT", "/v1/operator/keyring", "", r#"{"Key": "x"}"#, Needs(KEYRING_WRITE)),
    row("DELETE", "/v1/operator/keyring", "", r#"{"Key": "x"}"#, Needs(KEYRING_WRITE)),
    row("GET", "/v1/snapshot", "", "", Needs(ACL_WRITE)),
    row("PUT", "/v1/snapshot", "", "", Needs(ACL_WRITE)),
    // Access control.
    row("PUT", "/v1/acl/bootstrap", "", "", Open),
    row("GET", "/v1/acl/replication", "", "", Open),
    row("GET", "/v1/acl/policies", "", "", Needs(ACL_READ)),
    row("PUT", "/v1/acl/policy", "", r#"{"Name": "walked"}"#, Needs(ACL_WRITE)),
    row("GET", "/v1/acl/policy/", "/v1/acl/policy/{policy}", "", Needs(ACL_READ)),
    row("PUT", "/v1/acl/policy/", "/v1/acl/policy/{policy}", r#"{"Name": "changed"}"#, Needs(ACL_WRITE)),
    row("DELETE", "/v1/acl/policy/", "/v1/acl/policy/{policy}", "", Needs(ACL_WRITE)),
    row("GET", "/v1/acl/tokens", "", "", Needs(ACL_READ)),
    row("PUT", "/v1/acl/token", "", "{}", Needs(ACL_WRITE)),
    row("GET", "/v1/acl/token/self", "", "", Known),
    row("GET", "/v1/acl/token/", "/v1/acl/token/{token}", "", Needs(ACL_READ)),
    row("PUT", "/v1/acl/token/", "/v1/acl/token/{token}", "{}", Needs(ACL_WRITE)),
    row("PUT", "/v1/acl/token/", "/v1/acl/token/{token}/clone", "", Needs(ACL_WRITE)),
    row("DELETE", "/v1/acl/token/", "/v1/acl/token/{token}", "", Needs(ACL_WRITE)),
    row("POST", "/v1/acl/rules/translate", "", r#"key "a" { policy = "read" }"#, Needs(ACL_READ)),
    row("GET", "/v1/acl/rules/translate/", "/v1/acl/rules/translate/{older-accessor}", "", Needs(ACL_READ)),
    row("PUT", "/v1/acl/create", "", r#"{"Name": "walked"}"#, Needs(ACL_WRITE)),
    row("PUT", "/v1/acl/update", "", r#"{"ID": "{older}", "Name": "changed"}"#, Needs(ACL_WRITE)),
    row("PUT", "/v1/acl/clone/", "/v1/acl/clone/{older}", "", Needs(ACL_WRITE)),
    row("GET", "/v1/acl/info/", "/v1/acl/info/{older}", "", Open),
    row("GET", "/v1/acl/list", "", "", Needs(ACL_WRITE)),
    row("PUT", "/v1/acl/destroy/", "/v1/acl/destroy/{older}", "", Needs(ACL_WRITE)),
    // The cluster.
    row("GET", "/v1/status/leader", "", "", Open),
    row("GET", "/v1/status/peers", "", "", Open),
    // Feeds of the web interface.
    row("GET", "/v1/internal/ui/nodes", "", "", Shows(NODE_READ, has_elements)),
    row("GET", "/v1/internal/ui/node/", "/v1/internal/ui/node/node1", "", Shows(NODE_READ, |answer| answer.status == 200)),
    row("GET", "/v1/internal/ui/services", "", "", Shows(WEB_READ, names_web)),
    // The last one: nothing answers after it.
    row("PUT", "/v1/agent/leave", "", "", Needs(AGENT_WRITE)),
];

/// Resources with names.
const RESOURCES: [&str; 7] = ["agent", "event", "key", "node", "query", "service", "session"];
/// Resources without.
const REALMS: [&str; 3] = ["acl", "keyring", "operator"];

/// Rules that grant these rights and no others.
fn least(rights: &[Right]) -> String {
    let mut rules = String::new();
    for (resource, name, access) in rights {
        match *resource {
            realm if REALMS.contains(&realm) => rules.push_str(&format!("{realm} = \"{access}\"\n")),
            "intentions" => {
                rules.push_str(&format!("service \"{name}\" {{ policy = \"deny\" intentions = \"{access}\" }}\n"));
            }
            _ => rules.push_str(&format!("{resource} \"{name}\" {{ policy = \"{access}\" }}\n")),
        }
    }
    rules
}

/// Rules that grant everything but one right: of its resource the next smaller access.
fn all_but((resource, _, access): Right) -> String {
    let resource = resource.trim_end_matches("_prefix");
    let lesser = match access {
        "write" if resource == "key" => "list",
        "write" => "read",
        "list" => "read",
        _ => "deny",
    };
    let mut rules = String::new();
    for kind in RESOURCES {
        let policy = if kind == resource { lesser } else { "write" };
        let intentions = if resource == "intentions" { lesser } else { "write" };
        match kind {
            "service" => rules
                .push_str(&format!("service_prefix \"\" {{ policy = \"{policy}\" intentions = \"{intentions}\" }}\n")),
            kind => rules.push_str(&format!("{kind}_prefix \"\" {{ policy = \"{policy}\" }}\n")),
        }
    }
    for realm in REALMS {
        // Who may read tokens sees all intentions, and who may write them all queries.
        let policy = match (realm, resource) {
            ("acl", "intentions" | "query") => "deny",
            (realm, resource) if realm == resource => lesser,
            _ => "write",
        };
        rules.push_str(&format!("{realm} = \"{policy}\"\n"));
    }
    rules
}

/// An agent with one of each thing, and the names of what has no fixed one. `proxy` is how `px` has its proxy.
fn furnished(proxy: Value) -> (House, BTreeMap<&'static str, String>) {
    let config = guarded(json!({
        "services": [{"name": "px", "port": 1, "token": crate::house::ROOT, "connect": {"proxy": proxy}}],
    }));
    let house = House::start_dev(LICTOR, config);
    // The agent's own entries are its own business.
    as_root(&house, "PUT", "/v1/agent/token/agent", json!({"Token": crate::house::ROOT}));
    let check = json!({"CheckID": "ttl-web", "TTL": "10m"});
    as_root(&house, "PUT", "/v1/agent/service/register", json!({"Name": "web", "Port": 80, "Check": check}));
    as_root(&house, "PUT", "/v1/agent/check/register", json!({"Name": "ttl-node", "TTL": "10m"}));
    as_root(&house, "PUT", "/v1/catalog/register", json!({"Node": "ext1", "Address": "10.0.0.1"}));
    let intention = json!({"SourceName": "a", "DestinationName": "web", "Action": "allow"});
    let intention = text(&as_root(&house, "POST", "/v1/connect/intentions", intention), "ID");
    let policy = text(&as_root(&house, "PUT", "/v1/acl/policy", json!({"Name": "some"})), "ID");
    let token = text(&as_root(&house, "PUT", "/v1/acl/token", json!({"Description": "some"})), "AccessorID");
    let older = json!({"Name": "older", "Rules": "key \"\" { policy = \"read\" }"});
    let older = text(&as_root(&house, "PUT", "/v1/acl/create", older), "ID");
    let all = as_root(&house, "GET", "/v1/acl/tokens", Value::Null);
    let legacy = all.as_array().unwrap().iter().find(|token| token["Legacy"] == true).unwrap();
    as_root(&house, "PUT", "/v1/kv/app/a", json!("value"));
    let query = json!({"Name": "q", "Service": {"Service": "web"}});
    let query = text(&as_root(&house, "POST", "/v1/query", query), "ID");
    let session = text(&as_root(&house, "PUT", "/v1/session/create", json!({"Checks": []})), "ID");
    let names = BTreeMap::from([
        ("{query}", query),
        ("{session}", session),
        ("{intention}", intention),
        ("{policy}", policy),
        ("{token}", token),
        ("{older}", older),
        ("{older-accessor}", text(legacy, "AccessorID")),
    ]);
    lictor_testkit::until("the catalog has what the walk looks at", || {
        let shown = ask_as(&house, crate::house::ROOT, "GET", "/v1/catalog/services", Value::Null).json();
        ["web", "px", "px-proxy"].iter().all(|name| shown.get(name).is_some())
    });
    (house, names)
}

/// A token whose rules are changed for each question.
struct Walker {
    house: House,
    names: BTreeMap<&'static str, String>,
    policy: String,
    secret: String,
}

impl Walker {
    fn new(proxy: Value) -> Walker {
        let (house, names) = furnished(proxy);
        let policy = text(&as_root(&house, "PUT", "/v1/acl/policy", json!({"Name": "walker"})), "ID");
        let token = as_root(&house, "PUT", "/v1/acl/token", json!({"Policies": [{"ID": policy}]}));
        Walker { names, policy, secret: text(&token, "SecretID"), house }
    }

    fn filled_in(&self, template: &str) -> String {
        self.names.iter().fold(template.to_owned(), |text, (name, value)| text.replace(name, value))
    }

    fn ask(&self, row: &Row, token: &str) -> std::io::Result<Answer> {
        let path = if row.path.is_empty() { row.pattern } else { row.path };
        // What never ends has said by then whether it begins.
        let limit = if matches!(row.rule, Streams(_)) { Duration::from_secs(3) } else { PATIENCE };
        try_as(&self.house, token, (row.method, &self.filled_in(path)), &self.filled_in(row.body), limit)
    }

    /// The answer to whoever has exactly these rules.
    fn ask_with(&self, row: &Row, rules: &str) -> std::io::Result<Answer> {
        let path = format!("/v1/acl/policy/{}", self.policy);
        as_root(&self.house, "PUT", &path, json!({"Name": "walker", "Rules": rules}));
        self.ask(row, &self.secret)
    }

    /// What is wrong with the answers of one endpoint.
    fn walk(&self, row: &Row) -> Vec<String> {
        let mut problems = Vec::new();
        let mut expect = |who: &str, good: bool, answer: &Answer| {
            if !good {
                let shown: String = answer.text().chars().take(200).collect();
                problems.push(format!("{} {} {who}: {} {shown}", row.method, row.pattern, answer.status));
            }
        };
        // The original has words and a status of its own for the keyring.
        let denied = |answer: &Answer| match answer.status {
            403 => answer.text() == "Permission denied",
            _ => answer.status == 500 && answer.text().contains("keyring denied"),
        };
        let unknown = |answer: &Answer| answer.status == 403 && answer.text() == "ACL not found";
        let refused = |answer: &Answer| denied(answer) || unknown(answer);
        let (nobody, stranger) = (self.ask(row, "").unwrap(), self.ask(row, "no-such-token").unwrap());
        if !matches!(row.rule, Open) {
            expect("with a wrong token", unknown(&stranger), &stranger);
        }
        match row.rule {
            Open => {
                expect("without a token", !refused(&nobody), &nobody);
                expect("with a wrong token", !refused(&stranger), &stranger);
            }
            Known => {
                expect("without a token", refused(&nobody), &nobody);
                let least = self.ask_with(row, "").unwrap();
                expect("with a token", least.status == 200, &least);
            }
            Needs(rights) | Streams(rights) => {
                expect("without a token", denied(&nobody), &nobody);
                for right in rights {
                    let lesser = self.ask_with(row, &all_but(*right)).unwrap();
                    expect(&format!("with all but {right:?}"), denied(&lesser), &lesser);
                }
                match self.ask_with(row, &least(rights)) {
                    Ok(answer) => expect(&format!("with {rights:?}"), !refused(&answer), &answer),
                    // It goes on for longer than anybody waits.
                    Err(_) if matches!(row.rule, Streams(_)) => {}
                    Err(error) => panic!("{} {}: {error}", row.method, row.pattern),
                }
            }
            Shows(rights, shown) => {
                expect("without a token", !refused(&nobody) && !shown(&nobody), &nobody);
                for right in rights {
                    let lesser = self.ask_with(row, &all_but(*right)).unwrap();
                    expect(&format!("with all but {right:?}"), !refused(&lesser) && !shown(&lesser), &lesser);
                }
                let least = self.ask_with(row, &least(rights)).unwrap();
                expect(&format!("with {rights:?}"), least.status == 200 && shown(&least), &least);
            }
        }
        problems
    }
}

#[test]
fn every_endpoint_is_in_the_walk() {
    let walked: BTreeSet<(&str, &str)> = ROWS.iter().map(|row| (row.method, row.pattern)).collect();
    let there: BTreeSet<(&str, &str)> = lictor_http::endpoints()
        .flat_map(|(pattern, methods)| methods.into_iter().map(move |method| (method, pattern)))
        .collect();
    let missing: Vec<_> = there.difference(&walked).collect();
    assert!(missing.is_empty(), "the walk knows nothing of {missing:?}: say what they need of their callers");
    let gone: Vec<_> = walked.difference(&there).collect();
    assert!(gone.is_empty(), "the walk has rows for what there is not: {gone:?}");
}

#[test]
fn with_a_default_of_deny_nothing_is_readable_or_changeable_without_a_right() {
    let walker = Walker::new(json!({}));
    let problems: Vec<String> = ROWS.iter().flat_map(|row| walker.walk(row)).collect();
    assert!(problems.is_empty(), "{}\n{}", problems.join("\n"), walker.house.log());
}

/// What of the walk a proxy needs that stands for `px` and has no upstreams: spec 01, 6.4.
const OF_A_PROXY: [(&str, &str); 5] = [
    ("GET", "/v1/agent/connect/ca/roots"),
    ("GET", "/v1/agent/connect/proxy/px-proxy"),
    ("GET", "/v1/catalog/connect/px"),
    ("GET", "/v1/connect/ca/roots"),
    ("GET", "/v1/health/connect/px"),
];

/// Spec 01, fact 12.7. The token with which `px` was registered may do everything.
#[test]
fn the_token_of_a_managed_proxy_opens_what_a_proxy_needs_and_no_other_endpoint() {
    let walker = Walker::new(json!({"command": ["/bin/sleep", "1000"]}));
    let token = proxy_token(&walker.house, "px-proxy");
    let mut opened = BTreeSet::new();
    for row in ROWS {
        let answer = walker.ask(row, &token).unwrap();
        if (answer.status, answer.text().as_str()) != (403, "Permission denied") {
            let path = if row.path.is_empty() { row.pattern } else { row.path };
            assert_eq!(answer.status, 200, "{} {path}: {}", row.method, answer.text());
            opened.insert((row.method, path));
        }
    }
    assert_eq!(opened, BTreeSet::from(OF_A_PROXY));
}
