//! Facts about identities, the CA, decisions and intentions on a real agent: what docs/facts-connect.md promises and is
//! not shown elsewhere.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up shall fail")]

mod common;

use std::thread;
use std::time::Duration;

use common::{LICTOR, echo, root_key, rotate, wait_path};
use lictor_testkit::http::{self, Answer};
use lictor_testkit::wait::within;
use lictor_testkit::{House, until};
use rustix::process::Signal;
use serde_json::{Value, json};

const ROOT: &str = "root-of-all";

fn ask(house: &House, token: &str, method: &str, path: &str, body: &str) -> Answer {
    let headers = [("X-Consul-Token", token)];
    let headers = if token.is_empty() { &headers[..0] } else { &headers[..] };
    http::request(house.http_port, method, path, headers, body.as_bytes(), Duration::from_secs(30)).unwrap()
}

/// An agent with ACLs that deny by default.
fn guarded() -> House {
    House::start_dev(
        LICTOR,
        json!({"acl": {"enabled": true, "default_policy": "deny", "tokens": {"master": ROOT, "agent": ROOT}}}),
    )
}

fn token_with(house: &House, name: &str, rules: &str) -> String {
    let made = |path: &str, body: Value| {
        let answer = ask(house, ROOT, "PUT", path, &body.to_string());
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    };
    made("/v1/acl/policy", json!({"Name": name, "Rules": rules}));
    made("/v1/acl/token", json!({"Policies": [{"Name": name}]}))["SecretID"].as_str().unwrap().to_owned()
}

fn roots(house: &House) -> Value {
    house.get("/v1/connect/ca/roots").json()
}

#[test]
fn the_trust_domain_follows_neither_the_zone_nor_a_restart_nor_a_rotation() {
    let Some(key) = root_key() else { return };
    let mut house = House::start(LICTOR, json!({"domain": "foo."}));
    let first = roots(&house);
    let id = first["TrustDomain"].as_str().unwrap().strip_suffix(".consul").unwrap().to_owned();
    let groups: Vec<usize> = id.split('-').map(str::len).collect();
    assert_eq!(groups, [8, 4, 4, 4, 12], "{id}");
    assert_eq!(first["Roots"][0]["ExternalTrustDomain"], id.as_str());
    house.end_agent(Signal::INT);
    house.start_agent();
    house.wait_ready();
    until("there are roots again", || house.get("/v1/connect/ca/roots").status == 200);
    assert_eq!(roots(&house), first, "and the root is the same");
    rotate(&house, &key);
    let rotated = roots(&house);
    assert_eq!(rotated["TrustDomain"], first["TrustDomain"]);
    for root in rotated["Roots"].as_array().unwrap() {
        assert_eq!(root["ExternalTrustDomain"], id.as_str());
    }
}

#[test]
fn a_configuration_of_the_ca_that_cannot_be_is_refused_and_one_that_says_nothing_changes_no_root() {
    let house = House::start_dev(LICTOR, json!({}));
    let before = roots(&house);
    let put = |body: &str| ask(&house, "", "PUT", "/v1/connect/ca/configuration", body);
    let of = |config: Value| json!({"Provider": "consul", "Config": config}).to_string();
    for (config, text) in [
        (json!({"LeafCertTTL": "30m"}), "leaf cert TTL must be greater than 1h"),
        (json!({"LeafCertTTL": "9000h"}), "leaf cert TTL must be less than 1 year"),
        (json!({"LeafCertTTL": "zz"}), "error decoding config: "),
        (json!({"RootCert": "x"}), "must provide a private key when providing a root cert"),
    ] {
        let answer = put(&of(config.clone()));
        assert_eq!(answer.status, 500, "{config}: {}", answer.text());
        assert!(answer.text().starts_with(&format!("error configuring provider: {text}")), "{}", answer.text());
    }
    let unknown = put(r#"{"Provider": "nope", "Config": {}}"#);
    assert_eq!(
        (unknown.status, unknown.text().as_str()),
        (500, "could not initialize provider: unknown CA provider \"nope\"")
    );
    let other = put(r#"{"service": {"name": "web"}}"#);
    assert_eq!((other.status, other.text().as_str()), (500, "could not initialize provider: unknown CA provider \"\""));
    for broken in ["{", ""] {
        let answer = put(broken);
        assert_eq!(answer.status, 400, "{broken:?}: {}", answer.text());
        assert!(answer.text().starts_with("Request decode failed: "), "{}", answer.text());
    }
    assert_eq!(put(r#"{"Provider":"consul"}"#).status, 200);
    let shown = house.get("/v1/connect/ca/configuration").json();
    assert_eq!((&shown["Provider"], &shown["Config"]), (&json!("consul"), &Value::Null));
    assert_eq!(roots(&house), before);
}

#[test]
fn a_rotation_wakes_who_waits_for_roots_at_once_and_who_waits_for_a_leaf_in_time_with_a_chain_of_two() {
    let Some(key) = root_key() else { return };
    let house = House::start_dev(LICTOR, json!({}));
    let before = house.get("/v1/agent/connect/ca/leaf/web");
    let chain = |leaf: &Value| leaf["CertPEM"].as_str().unwrap().matches("BEGIN CERTIFICATE").count();
    assert_eq!(chain(&before.json()), 1);
    let waiting = |path: &str, index: u64| {
        let (port, path) = (house.http_port, format!("{path}?index={index}&wait=120s"));
        thread::spawn(move || {
            let answer = http::request(port, "GET", &path, &[], b"", Duration::from_secs(150)).unwrap();
            (std::time::Instant::now(), answer)
        })
    };
    let listed = ["/v1/connect/ca/roots", "/v1/agent/connect/ca/roots"];
    let readers = listed.map(|path| waiting(path, house.get(path).index()));
    let leaf = waiting("/v1/agent/connect/ca/leaf/web", before.index());
    rotate(&house, &key);
    let rotated = std::time::Instant::now();
    for reader in readers {
        let (woken, answer) = reader.join().unwrap();
        // Promised within a second; the rotation is seen to be done before, and a busy machine gets some slack.
        assert!(woken.saturating_duration_since(rotated) < Duration::from_secs(2));
        let all = answer.json()["Roots"].clone();
        let all = all.as_array().unwrap();
        assert_eq!(all.len(), 2);
        let active: Vec<&Value> = all.iter().filter(|root| root["Active"] == true).collect();
        assert_eq!(active.len(), 1);
        assert_eq!(active[0]["IntermediateCerts"].as_array().map(Vec::len), Some(1));
        let old = all.iter().find(|root| root["Active"] == false).unwrap();
        assert!(old["IntermediateCerts"].is_null(), "{old}");
    }
    let (woken, answer) = leaf.join().unwrap();
    assert!(woken.saturating_duration_since(rotated) < Duration::from_secs(35), "spread over half a minute");
    assert_eq!(chain(&answer.json()), 2);
    assert_ne!(answer.json()["PrivateKeyPEM"], before.json()["PrivateKeyPEM"]);
}

#[test]
fn of_five_new_services_one_gets_its_leaf_when_one_a_second_is_signed() {
    let house = House::start_dev(LICTOR, json!({"connect": {"ca_config": {"csr_max_per_second": 1}}}));
    until("there are roots", || house.get("/v1/connect/ca/roots").status == 200);
    let port = house.http_port;
    let asked = ["a", "b", "c", "d", "e"].map(|name| {
        thread::spawn(move || {
            let path = format!("/v1/agent/connect/ca/leaf/{name}");
            http::request(port, "GET", &path, &[], b"", Duration::from_secs(30)).unwrap()
        })
    });
    let mut answers = asked.map(|thread| thread.join().unwrap());
    answers.sort_by_key(|answer| answer.status);
    assert_eq!(answers.each_ref().map(|answer| answer.status), [200, 429, 429, 429, 429]);
    for refused in &answers[1..] {
        assert_eq!(refused.text(), "Rate limit reached, try again later");
    }
}

#[test]
fn a_leaf_that_another_token_has_is_not_given_to_who_may_not_have_it() {
    let house = guarded();
    let writer = token_with(&house, "writer", "service \"web\" { policy = \"write\" }");
    let reader = token_with(&house, "reader", "service \"web\" { policy = \"read\" }");
    let leaf = |token: &str| ask(&house, token, "GET", "/v1/agent/connect/ca/leaf/web", "");
    within(Duration::from_secs(20), "the leaf is there", || (leaf(&writer).status == 200).then_some(()));
    for token in [reader.as_str(), ""] {
        let refused = leaf(token);
        assert_eq!((refused.status, refused.text().as_str()), (403, "Permission denied"));
    }
    assert_eq!(leaf(&writer).headers["x-cache"], "HIT");
    // Nobody of another datacenter signs here, whatever is known already.
    let elsewhere = ask(&house, &writer, "GET", "/v1/agent/connect/ca/leaf/web?dc=dc9", "");
    assert_eq!((elsewhere.status, elsewhere.text().as_str()), (500, "No path to datacenter"));
    assert_eq!(ask(&house, &writer, "GET", "/v1/agent/connect/ca/leaf/web?dc=dc1", "").status, 200);
}

#[test]
fn the_first_matching_intention_decides_and_the_default_of_the_acls_otherwise() {
    let house = guarded();
    let writer = token_with(&house, "writer", "service \"db\" { policy = \"write\" intentions = \"write\" }");
    let reader = token_with(&house, "reader", "service \"db\" { policy = \"read\" }");
    let uri = |host: &str, namespace: &str, datacenter: &str, name: &str| {
        format!("spiffe://{host}/ns/{namespace}/dc/{datacenter}/svc/{name}")
    };
    let authorize = |token: &str, uri: &str| {
        let body = json!({"Target": "db", "ClientCertURI": uri, "ClientCertSerial": "04"}).to_string();
        ask(&house, token, "POST", "/v1/agent/connect/authorize", &body)
    };
    let domain = roots(&house)["TrustDomain"].as_str().unwrap().to_owned();
    let decided = |uri: &str| {
        let answer = authorize(&writer, uri);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let answer = answer.json();
        (answer["Authorized"].as_bool().unwrap(), answer["Reason"].as_str().unwrap().to_owned())
    };
    let of = |name: &str| uri(&domain, "default", "dc1", name);
    let by_default = (false, "Default behavior configured by ACLs".to_owned());
    assert_eq!(decided(&of("web")), by_default);
    let refused = authorize(&reader, &of("web"));
    assert_eq!((refused.status, refused.text().as_str()), (403, "Permission denied"));

    let intend = |source: &str, action: &str| {
        let body = json!({"SourceName": source, "DestinationName": "db", "Action": action}).to_string();
        let answer = ask(&house, &writer, "POST", "/v1/connect/intentions", &body);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["ID"].as_str().unwrap().to_owned()
    };
    let plain = token_with(&house, "plain", "service \"db\" { policy = \"write\" }");
    let body = json!({"SourceName": "web", "DestinationName": "db", "Action": "allow"}).to_string();
    let refused = ask(&house, &plain, "POST", "/v1/connect/intentions", &body);
    assert_eq!((refused.status, refused.text().as_str()), (403, "Permission denied"));
    let allow = intend("web", "allow");
    let matched = format!("Matched intention: ALLOW default/web => default/db (ID: {allow}, Precedence: 9)");
    assert_eq!(decided(&of("web")), (true, matched.clone()));
    assert_eq!(decided(&of("api")), by_default);
    assert_eq!(decided(&uri(&domain, "other", "dc1", "web")), by_default);
    // Whose trust domain and datacenter it is is judged by the chain, not here.
    assert_eq!(decided(&uri("elsewhere.consul", "default", "dc9", "web")), (true, matched.clone()));
    // Sources are the same whatever their case, where the original stores them as one and decides as if they were two.
    assert_eq!(decided(&of("WEB")), (true, matched));

    let deny = intend("*", "deny");
    let denied = format!("Matched intention: DENY default/* => default/db (ID: {deny}, Precedence: 8)");
    assert!(decided(&of("web")).0);
    assert_eq!(decided(&of("api")), (false, denied));
    let body = json!({"SourceName": "web", "DestinationName": "db", "Action": "deny"}).to_string();
    assert_eq!(ask(&house, &writer, "PUT", &format!("/v1/connect/intentions/{allow}"), &body).status, 200);
    assert!(!decided(&of("web")).0, "the very next question is answered by the new intention");
}

#[test]
fn what_cannot_be_asked_about_a_connection_has_the_texts_that_proxies_know() {
    let house = House::start_dev(LICTOR, json!({}));
    let authorize = |body: &str| {
        let answer = ask(&house, "", "POST", "/v1/agent/connect/authorize", body);
        (answer.status, answer.text())
    };
    let bad = |text: &str| (400, format!("Bad request: {text}"));
    assert_eq!(authorize(""), bad("Request decode failed: EOF"));
    assert!(authorize("{").1.starts_with("Bad request: Request decode failed: "));
    assert_eq!(authorize("{}"), bad("Target service must be specified"));
    let about = |uri: &str| authorize(&json!({"Target": "db", "ClientCertURI": uri}).to_string());
    for uri in ["", "http://x/ns/a/dc/b/svc/c", "spiffe://x/ns/a/dc/b/svc/c/d", "spiffe://x/ns/a/dc/b/svc/%zz"] {
        assert_eq!(about(uri), bad("ClientCertURI not a valid Connect identifier"), "{uri}");
    }
    assert_eq!(about("spiffe://1-2.consul"), bad("ClientCertURI not a valid Service identifier"));
    // A slash may be in a name when it is encoded.
    house.intend("a/b", "db", "deny");
    let uri = "spiffe://x.consul/ns/default/dc/dc1/svc/a%2Fb";
    let (status, decision) = authorize(&json!({"Target": "DB", "ClientCertURI": uri}).to_string());
    let decision: Value = serde_json::from_str(&decision).unwrap();
    assert_eq!((status, &decision["Authorized"]), (200, &json!(false)), "{decision}");
    for method in ["PUT", "GET"] {
        let answer = ask(&house, "", method, "/v1/agent/connect/authorize", "");
        assert_eq!((answer.status, answer.text()), (405, format!("method {method} not allowed")));
    }
}

#[test]
fn an_intention_is_replaced_as_a_whole_is_one_in_any_case_and_has_limits() {
    let house = House::start_dev(LICTOR, json!({}));
    let post = |body: &Value| ask(&house, "", "POST", "/v1/connect/intentions", &body.to_string());
    let pair = |source: &str, destination: &str| json!({"SourceName": source, "DestinationName": destination, "Action": "allow"});
    let mut whole = pair("web", "db");
    whole["Description"] = "why".into();
    whole["Meta"] = json!({"k": "v"});
    let id = post(&whole).json()["ID"].as_str().unwrap().to_owned();
    let path = format!("/v1/connect/intentions/{id}");
    let made = house.get(&path).json();
    assert_eq!((&made["Description"], &made["Meta"]), (&json!("why"), &json!({"k": "v"})));
    assert_eq!(ask(&house, "", "PUT", &path, &pair("web", "db").to_string()).status, 200);
    let now = house.get(&path).json();
    assert_eq!((&now["Description"], &now["Meta"]), (&json!(""), &json!({})));
    assert_eq!(now["CreatedAt"], made["CreatedAt"]);
    assert_ne!(now["UpdatedAt"], made["UpdatedAt"]);

    let twin = post(&pair("WEB", "db"));
    let text = format!("duplicate intention found: ALLOW default/web => default/db (ID: {id}, Precedence: 9)");
    assert_eq!((twin.status, twin.text()), (500, text));

    let refused = |change: &dyn Fn(&mut Value)| {
        let mut body = pair("a", "b");
        change(&mut body);
        let answer = post(&body);
        assert_eq!(answer.status, 500, "{body}");
        answer.text()
    };
    let many: serde_json::Map<String, Value> = (0..65).map(|n| (format!("k{n}"), json!("v"))).collect();
    let (long_key, long_text) = ("k".repeat(129), "x".repeat(513));
    for (text, wanted) in [
        (
            refused(&|body| body["Meta"] = Value::Object(many.clone())),
            "Meta exceeds maximum element count 64".to_owned(),
        ),
        (
            refused(&|body| body["Meta"] = json!({long_key.clone(): "v"})),
            format!("Meta key \"{long_key}\" exceeds maximum length 128"),
        ),
        (
            refused(&|body| body["Meta"] = json!({"x": long_text})),
            "Meta value for key \"x\" exceeds maximum length 512".to_owned(),
        ),
        (refused(&|body| body["Description"] = json!(long_text)), "Description exceeds maximum length 512".to_owned()),
    ] {
        assert!(text.starts_with("1 error(s) occurred:\n\n* ") && text.contains(&wanted), "{text}");
    }
    for (text, wanted) in [
        (
            refused(&|body| body["SourceName"] = json!("a*")),
            "SourceName: wildcard character '*' cannot be used with partial values",
        ),
        (
            refused(&|body| body["DestinationNS"] = json!("*")),
            "DestinationName: exact value cannot follow wildcard namespace",
        ),
        (refused(&|body| body["SourceType"] = json!("vm")), "SourceType must be set to 'consul'"),
        (refused(&|body| body["ID"] = json!(id)), "ID must be empty when creating a new intention"),
    ] {
        assert!(text.contains(wanted), "{text}");
    }

    let matched = house.get("/v1/connect/intentions/match?by=source&name=web&name=default/*").json();
    let keys: Vec<&String> = matched.as_object().unwrap().keys().collect();
    assert_eq!(keys.len(), 2, "{matched}");
    assert!(matched["default/*"].is_null() && matched["web"].as_array().map(Vec::len) == Some(1), "{matched}");
    let slashes = house.get("/v1/connect/intentions/match?by=source&name=a/b/c");
    let text = "name \"a/b/c\" is invalid: input can contain at most one '/'";
    assert_eq!((slashes.status, slashes.text().as_str()), (500, text));
}

#[test]
fn a_query_finds_by_tags_place_health_and_name() {
    let house = House::start_dev(LICTOR, json!({}));
    for (node, number, tags, status) in [
        ("e1", 1, json!(["v1"]), "passing"),
        ("e2", 2, json!(["V1", "t0"]), "passing"),
        ("e7", 7, json!(["v1"]), "passing"),
        ("e8", 8, json!(["v1"]), "warning"),
        ("e9", 9, json!(["v2"]), "critical"),
    ] {
        house.put(
            "/v1/catalog/register",
            json!({"Node": node, "Address": format!("10.0.0.{number}"),
                "Service": {"ID": "many", "Service": "many", "Port": 1000 + number, "Tags": tags},
                "Check": {"CheckID": "alive", "Name": "alive", "Status": status, "ServiceID": "many"}}),
        );
    }
    let create = |body: Value| {
        let answer = ask(&house, "", "POST", "/v1/query", &body.to_string());
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    let nodes = |path: &str| -> Vec<String> {
        let answer = house.get(&format!("/v1/query/{path}"));
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        let found = answer.json()["Nodes"].clone();
        found.as_array().unwrap().iter().map(|one| one["Node"]["Node"].as_str().unwrap().to_owned()).collect()
    };
    let sorted = |path: &str| {
        let mut found = nodes(path);
        found.sort_unstable();
        found
    };
    create(json!({"Name": "Tagged", "Service": {"Service": "many", "Tags": ["V1", "!T0"]}}));
    assert_eq!(sorted("tagged/execute"), ["e1", "e7", "e8"]);
    create(json!({"Name": "all", "Service": {"Service": "many"}}));
    let near = nodes("all/execute?near=e7&limit=3");
    assert_eq!((near.len(), near[0].as_str()), (3, "e7"));

    let sick = json!({"Service": "many", "Tags": ["v1", "!t0"], "OnlyPassing": true, "NodeMeta": {}});
    create(json!({"Name": "passing", "Service": sick}));
    assert_eq!(sorted("passing/execute"), ["e1", "e7"]);
    create(json!({"Name": "critical", "Service": {"Service": "many", "Tags": ["v2"]}}));
    assert_eq!(nodes("critical/execute"), Vec::<String>::new());
    create(json!({"Name": "ignored", "Service": {"Service": "many", "Tags": ["v2"], "IgnoreCheckIDs": ["alive"]}}));
    assert_eq!(nodes("ignored/execute"), ["e9"]);

    create(json!({"Name": "away", "Service": {"Service": "none", "Failover": {"Datacenters": ["dc9"]}}}));
    let away = house.get("/v1/query/away/execute").json();
    assert_eq!((&away["Failovers"], &away["Datacenter"], &away["Nodes"]), (&json!(0), &json!("dc1"), &json!([])));

    let template = json!({"Type": "name_prefix_match", "Regexp": "^geo-(.*)-([^-]+)$", "RemoveEmptyTags": true});
    create(json!({"Name": "geo-", "Template": template, "Service": {
        "Service": "${match(1)}", "Tags": ["${match(2)}", "${match(7)}"],
        "Failover": {"Datacenters": ["dc-${name.prefix}"]}, "NodeMeta": {"rack": "${name.suffix}"}}}));
    let shown = house.get("/v1/query/geo-many-t1/explain").json()["Query"]["Service"].clone();
    assert_eq!(shown["Service"], "many");
    assert_eq!(shown["Tags"], json!(["t1"]));
    assert_eq!(shown["Failover"]["Datacenters"], json!(["dc-geo-"]));
    assert_eq!(shown["NodeMeta"], json!({"rack": "many-t1"}));

    assert_eq!(house.get("/v1/query/nobody/execute").status, 404);
    create(json!({"Name": "", "Template": {"Type": "name_prefix_match"}, "Service": {"Service": "${name.full}"}}));
    for name in ["nobody", "5f0f3d2e-0000-0000-0000-000000000000"] {
        let found = house.get(&format!("/v1/query/{name}/execute"));
        assert_eq!((found.status, found.json()["Nodes"].clone()), (200, json!([])));
    }
}

#[test]
fn what_is_meant_for_another_datacenter_is_neither_read_nor_changed_here() {
    let house = House::start_dev(LICTOR, json!({}));
    until("there are roots", || house.get("/v1/connect/ca/roots").status == 200);
    let id = house.intend("web", "db", "allow");
    let one = format!("/v1/connect/intentions/{id}");
    let pair = |action: &str| json!({"SourceName": "web", "DestinationName": "db", "Action": action}).to_string();
    let (before, settings) = (house.get(&one).json(), house.get("/v1/connect/ca/configuration").json());
    for (method, path, body) in [
        ("GET", one.as_str(), String::new()),
        ("PUT", &one, pair("deny")),
        ("DELETE", &one, String::new()),
        (
            "POST",
            "/v1/connect/intentions",
            json!({"SourceName": "a", "DestinationName": "b", "Action": "deny"}).to_string(),
        ),
        ("GET", "/v1/connect/intentions/check?source=web&destination=db", String::new()),
        ("GET", "/v1/connect/ca/configuration", String::new()),
        (
            "PUT",
            "/v1/connect/ca/configuration",
            json!({"Provider": "consul", "Config": {"LeafCertTTL": "2h"}}).to_string(),
        ),
    ] {
        let there = format!("{path}{}dc=dc9", if path.contains('?') { '&' } else { '?' });
        let answer = ask(&house, "", method, &there, &body);
        assert_eq!((answer.status, answer.text().as_str()), (500, "No path to datacenter"), "{method} {there}");
    }
    assert_eq!(house.get("/v1/connect/intentions").json(), json!([before]));
    assert_eq!(house.get("/v1/connect/ca/configuration").json(), settings);
    assert_eq!(ask(&house, "", "PUT", &format!("{one}?dc=dc1"), &pair("deny")).status, 200);
}

/// 12.6.
#[test]
fn a_configuration_without_the_key_keeps_the_root_unless_another_is_wanted() {
    let Some(key) = root_key() else { return };
    let house = House::start_dev(LICTOR, json!({}));
    until("there are roots", || house.get("/v1/connect/ca/roots").status == 200);
    rotate(&house, &key);
    let active = || roots(&house)["ActiveRootID"].clone();
    let put =
        |config: Value| house.put("/v1/connect/ca/configuration", json!({"Provider": "consul", "Config": config}));
    let before = active();
    put(json!({"LeafCertTTL": "48h"}));
    assert_eq!(house.get("/v1/connect/ca/configuration").json()["Config"]["LeafCertTTL"], "48h");
    assert_eq!(active(), before);
    put(json!({"LeafCertTTL": "48h", "ForceRotate": true}));
    assert_ne!(active(), before);
}

/// 3.8.
#[test]
fn an_upstream_finds_its_service_in_any_case() {
    let entry = lictor_testkit::ports::one();
    let upstream = json!({"destination_name": "DB", "local_bind_port": entry});
    let house = House::start(
        LICTOR,
        json!({"services": [
            {"name": "db", "port": echo().port(), "connect": {"proxy": {}}},
            {"name": "web", "port": 8080, "connect": {"proxy": {"upstreams": [upstream]}}},
        ]}),
    );
    wait_path(&house, entry);
}
