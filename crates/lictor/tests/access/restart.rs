//! What access control keeps over a restart, and the tokens that an agent uses for itself.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use lictor_testkit::{House, until};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::house::{LICTOR, ROOT, as_root, ask_as, guarded, text, token_with};

fn status(house: &House, token: &str, path: &str) -> (u16, String) {
    let answer = ask_as(house, token, "GET", path, Value::Null);
    (answer.status, answer.text())
}

fn restart(house: &mut House) {
    house.end_agent(Signal::TERM);
    house.start_agent();
    house.wait_ready();
}

#[test]
fn tokens_policies_and_the_bootstrap_survive_a_restart() {
    let mut house = House::start(LICTOR, guarded(json!({})));
    let secret = token_with(&house, "reader", r#"node_prefix "" { policy = "read" }"#);
    let first = ask_as(&house, "", "PUT", "/v1/acl/bootstrap", Value::Null);
    assert_eq!(first.status, 200, "{}", first.text());
    let first = text(&first.json(), "SecretID");
    let before = as_root(&house, "GET", "/v1/acl/tokens", Value::Null);
    restart(&mut house);
    assert_eq!(as_root(&house, "GET", "/v1/acl/tokens", Value::Null), before, "and no second master token");
    assert!(status(&house, &secret, "/v1/catalog/nodes").1.contains("node1"));
    assert_eq!(status(&house, &secret, "/v1/agent/self").0, 403);
    assert_eq!(status(&house, &first, "/v1/agent/self").0, 200);

    // Bootstrapping again needs the number that the refusal names, written by who can write beside the state.
    let again = ask_as(&house, "", "PUT", "/v1/acl/bootstrap", Value::Null);
    let refusal = again.text();
    let number = refusal.strip_prefix("Permission denied: ACL bootstrap no longer allowed (reset index: ");
    let number: u64 = number.and_then(|rest| rest.strip_suffix(')')).unwrap().parse().unwrap();
    assert_eq!(again.status, 403);
    let file = house.data_dir().join("acl-bootstrap-reset");
    fs::write(&file, format!("{}", number + 1)).unwrap();
    let wrong = ask_as(&house, "", "PUT", "/v1/acl/bootstrap", Value::Null);
    let expected = format!("Invalid bootstrap reset index (specified {}, reset index: {number})", number + 1);
    assert_eq!((wrong.status, wrong.text()), (500, expected));
    assert!(file.exists());
    fs::write(&file, format!("{number}\n")).unwrap();
    let second = ask_as(&house, "", "PUT", "/v1/acl/bootstrap", Value::Null);
    assert_eq!(second.status, 200, "{}", second.text());
    assert!(!file.exists());
    assert_eq!(status(&house, &text(&second.json(), "SecretID"), "/v1/agent/self").0, 200);
    assert_eq!(status(&house, &first, "/v1/agent/self").0, 200, "the first one stays good");
    let log = house.log();
    for secret in [ROOT, &secret, &first] {
        assert!(!log.contains(secret), "no log has a secret");
    }
}

#[test]
fn tokens_that_are_set_are_kept_where_the_configuration_says_so() {
    let more = json!({"acl": {"enable_token_persistence": true}});
    let mut house = House::start(LICTOR, guarded(more));
    let agent = token_with(&house, "agent", r#"node "node1" { policy = "write" }"#);
    as_root(&house, "PUT", "/v1/agent/token/agent", json!({"Token": agent}));
    as_root(&house, "PUT", "/v1/agent/token/acl_agent_master_token", json!({"Token": "local"}));
    let file = house.data_dir().join("acl-tokens.json");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let kept: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(kept, json!({"agent": agent, "agent_master": "local"}));
    // The master token of an agent is known to this agent and to nobody else.
    let master = |house: &House| {
        assert_eq!(status(house, "local", "/v1/agent/self").0, 200);
        assert!(status(house, "local", "/v1/agent/members").1.contains("node1"));
        assert_eq!(status(house, "local", "/v1/agent/services").1.trim(), "{}");
        assert_eq!(status(house, "local", "/v1/catalog/nodes"), (403, "ACL not found".into()));
    };
    master(&house);
    restart(&mut house);
    master(&house);
    as_root(&house, "PUT", "/v1/agent/token/agent_master", json!({"Token": ""}));
    assert_eq!(status(&house, "local", "/v1/agent/self"), (403, "ACL not found".into()));
    assert_eq!(fs::read_to_string(&file).unwrap(), json!({"agent": agent}).to_string());
}

/// Spec 03 fact 7.9, and the lines that operators look for.
#[test]
fn what_was_blocked_is_published_once_the_agent_has_a_token() {
    let house = House::start_dev(LICTOR, guarded(json!({})));
    let rules = r#"service "web" { policy = "write" } node_prefix "" { policy = "read" }"#;
    let secret = token_with(&house, "web", rules);
    let answer = ask_as(&house, &secret, "PUT", "/v1/agent/service/register", json!({"Name": "web", "Port": 80}));
    assert_eq!(answer.status, 200);
    until("the refusal is logged", || house.log().contains("Service \"web\" registration blocked by ACLs"));
    assert!(house.log().contains("Node info update blocked by ACLs"));
    // Said once, though several turns of the reconcilers meet it, and with what is missing.
    as_root(&house, "PUT", "/v1/agent/token/agent", json!({"Token": "00000000-0000-4000-8000-00000000dead"}));
    until("the other reason is said", || {
        house.log().contains("Node info update blocked by ACLs: acl.tokens.agent is not known")
    });
    let log = house.log();
    let nobody = "registration blocked by ACLs: the token it was registered with does not allow it";
    assert_eq!((log.matches("\"web\" registration").count(), log.matches(nobody).count()), (1, 1), "{log}");
    assert_eq!(status(&house, &secret, "/v1/catalog/service/web").1.trim(), "[]");
    as_root(&house, "PUT", "/v1/agent/token/agent", json!({"Token": ROOT}));
    until("web is published", || status(&house, &secret, "/v1/catalog/service/web").1.contains("\"web\""));
}

#[test]
fn a_read_that_waits_ends_when_its_token_does() {
    let house = House::start_dev(LICTOR, guarded(json!({})));
    as_root(&house, "PUT", "/v1/acl/policy", json!({"Name": "p", "Rules": "node_prefix \"\" { policy = \"read\" }"}));
    let token = as_root(&house, "PUT", "/v1/acl/token", json!({"Policies": [{"Name": "p"}]}));
    let (secret, accessor) = (text(&token, "SecretID"), text(&token, "AccessorID"));
    let index = ask_as(&house, &secret, "GET", "/v1/catalog/nodes", Value::Null).index();
    let path = format!("/v1/catalog/nodes?index={}&wait=25s", index + 1_000_000);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| ask_as(&house, &secret, "GET", &path, Value::Null));
        // It may be asked before it waits; either way it must not be answered.
        as_root(&house, "DELETE", &format!("/v1/acl/token/{accessor}"), Value::Null);
        let answer = waiting.join().unwrap();
        assert_eq!((answer.status, answer.text()), (403, "ACL not found".into()));
    });
    assert_eq!(status(&house, &secret, "/v1/catalog/nodes").0, 403);
}

#[test]
fn whoever_loses_its_token_while_it_waits_gets_no_new_key_and_no_event() {
    let house = House::start_dev(LICTOR, guarded(json!({})));
    let rules = "service \"web\" { policy = \"write\" } event_prefix \"\" { policy = \"write\" } \
                 query_prefix \"\" { policy = \"read\" } service_prefix \"\" { policy = \"read\" } \
                 node_prefix \"\" { policy = \"read\" }";
    let query = json!({"Name": "q", "Service": {"Service": "web"}});
    as_root(&house, "POST", "/v1/query", query);
    let fire = || as_root(&house, "PUT", "/v1/event/fire/e", Value::Null);
    fire();
    as_root(&house, "PUT", "/v1/acl/policy", json!({"Name": "p", "Rules": rules}));
    let reads = [
        ("/v1/agent/connect/ca/leaf/web", "the root"),
        ("/v1/event/list", "an event"),
        ("/v1/query/q/execute", "an instance"),
    ];
    for (path, what) in reads {
        let token = as_root(&house, "PUT", "/v1/acl/token", json!({"Policies": [{"Name": "p"}]}));
        let (secret, accessor) = (text(&token, "SecretID"), text(&token, "AccessorID"));
        let first = ask_as(&house, &secret, "GET", &format!("{path}?index=0"), Value::Null);
        assert_eq!(first.status, 200, "{path}: {}", first.text());
        let waits = format!("{path}?index={}&wait=25s", first.index());
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| ask_as(&house, &secret, "GET", &waits, Value::Null));
            // It is answered in the right way also when it comes only after all of this.
            as_root(&house, "DELETE", &format!("/v1/acl/token/{accessor}"), Value::Null);
            match what {
                "the root" => drop(as_root(
                    &house,
                    "PUT",
                    "/v1/connect/ca/configuration",
                    json!({
                    "Provider": "consul", "Config": {"LeafCertTTL": "48h"}}),
                )),
                "an event" => drop(fire()),
                _ => drop(as_root(
                    &house,
                    "PUT",
                    "/v1/catalog/register",
                    json!({
                    "Node": "n", "Address": "127.0.0.1", "Service": {"Service": "web"}}),
                )),
            }
            let answer = waiting.join().unwrap();
            assert_eq!((answer.status, answer.text()), (403, "ACL not found".into()), "{path}, woken by {what}");
        });
    }
}

#[test]
fn the_same_token_is_good_in_all_three_places() {
    let house = House::start_dev(LICTOR, guarded(json!({})));
    let ask = |path: &str, headers: &[(&str, &str)]| {
        let limit = std::time::Duration::from_secs(30);
        lictor_testkit::http::request(house.http_port, "GET", path, headers, b"", limit).unwrap().status
    };
    let bearer = format!("Bearer {ROOT}");
    assert_eq!(ask("/v1/agent/self", &[]), 403);
    assert_eq!(ask(&format!("/v1/agent/self?token={ROOT}"), &[]), 200);
    assert_eq!(ask("/v1/agent/self", &[("X-Consul-Token", ROOT)]), 200);
    assert_eq!(ask("/v1/agent/self", &[("Authorization", &bearer)]), 200);
}

#[test]
fn a_reload_brings_the_tokens_of_the_configuration() {
    let house = House::start(LICTOR, guarded(json!({})));
    assert_eq!(status(&house, "", "/v1/catalog/nodes").1.trim(), "[]");
    house.reconfigure(|config| config["acl"]["tokens"]["default"] = json!(ROOT));
    as_root(&house, "PUT", "/v1/agent/reload", Value::Null);
    assert!(status(&house, "", "/v1/catalog/nodes").1.contains("node1"));
}

#[test]
fn an_agent_speaks_and_is_reached_with_the_tokens_of_its_configuration() {
    let tokens = json!({"master": ROOT, "agent_master": "local"});
    let house = House::start(LICTOR, guarded(json!({"acl": {"tokens": tokens}, "node_meta": {"rack": "a"}})));
    assert_eq!(status(&house, "local", "/v1/agent/self").0, 200);
    assert_eq!(status(&house, "another", "/v1/agent/self"), (403, "ACL not found".into()));
    // Nobody gave the agent a right to say of its node what it knows.
    until("it may not", || house.log().contains("Node info update blocked by ACLs"));
    let rack = || as_root(&house, "GET", "/v1/catalog/node/node1", Value::Null)["Node"]["Meta"]["rack"].clone();
    assert_eq!(rack(), Value::Null);

    house.reconfigure(|config| {
        config["acl"]["tokens"] = json!({"master": ROOT, "agent": ROOT, "agent_master": "another"});
    });
    as_root(&house, "PUT", "/v1/agent/reload", Value::Null);
    until("it may", || rack() == "a");
    assert_eq!(status(&house, "another", "/v1/agent/self").0, 200);
    assert_eq!(status(&house, "local", "/v1/agent/self"), (403, "ACL not found".into()));
}
