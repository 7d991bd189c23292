//! The API as clients meet it: over sockets, headers and all.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

mod house;
mod overtaken;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use house::{Answer, House, PATIENCE, Wishes, ask_on, caller};
use lictor_agent::config::Reloadable;
use lictor_http::config::Listener;
use lictor_model::acl::{Access, Caller, ProxyRights, Resource};
use lictor_tls::listener::{Acceptor, Files};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

async fn register(house: &House, name: &str, port: u16) {
    house.put("/v1/agent/service/register", json!({"Name": name, "Port": port})).await;
}

#[tokio::test]
async fn headers_travel_in_the_spelling_of_the_original() {
    let house = House::new().await;
    let answer = house.get("/v1/catalog/nodes").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("Content-Type"), Some("application/json"));
    assert_eq!(answer.header("Vary"), Some("Accept-Encoding"));
    assert_eq!(answer.header("X-Consul-Knownleader"), Some("true"));
    assert_eq!(answer.header("X-Consul-Lastcontact"), Some("0"));
    assert_eq!(answer.header("X-Consul-Effective-Consistency"), Some("leader"));
    assert_eq!(answer.header("Content-Length"), Some(answer.body.len().to_string().as_str()));
    assert!(answer.index() > 0);
    assert_eq!(answer.json()[0]["Node"], "n1");
}

#[tokio::test]
async fn failed_reads_of_the_catalog_say_that_they_know_nothing() {
    let house = House::new().await;
    let answer = house.get("/v1/catalog/nodes?dc=zz").await;
    assert_eq!((answer.status, answer.text().as_str()), (500, "No path to datacenter"));
    assert_eq!(answer.index(), 1);
    assert_eq!(answer.header("X-Consul-Knownleader"), Some("false"));
    assert_eq!(answer.header("X-Consul-Effective-Consistency"), None);
    let answer = house.get("/v1/catalog/service/?wait=x").await;
    assert_eq!((answer.status, answer.text().as_str()), (400, "Invalid wait time"));
    let answer = house.get("/v1/catalog/service/").await;
    assert_eq!((answer.status, answer.text().as_str()), (400, "Missing service name"));
    assert_eq!(answer.header("X-Consul-Index"), None);
}

#[tokio::test]
async fn aliases_that_mirror_each_other_recover_and_stay_short() {
    let house = House::new().await;
    for (id, alias) in [("a1", "b1"), ("b1", "c1"), ("c1", "a1")] {
        let check = json!({"CheckID": format!("alias-{id}"), "AliasService": alias});
        house.put("/v1/agent/service/register", json!({"Name": id, "Check": check})).await;
    }
    let ttl = json!({"CheckID": "ttl", "Name": "ttl", "ServiceID": "b1", "TTL": "1h", "Status": "critical"});
    house.put("/v1/agent/check/register", ttl).await;
    let states = async || {
        let checks = house.get("/v1/agent/checks").await.json();
        ["alias-a1", "alias-b1", "alias-c1"].map(|id| {
            let text = |field: &str| checks[id][field].as_str().unwrap().to_owned();
            (text("Status"), text("Output"))
        })
    };
    let end = Instant::now() + PATIENCE;
    let failing = |names: &[&str]| {
        let output = names.iter().map(|name| format!("Aliased check {name:?} failing: ")).collect();
        ("critical".to_owned(), output)
    };
    let around = [failing(&["ttl"]), failing(&["Service 'c1' check", "Service 'a1' check", "ttl"])];
    let wanted = [around[0].clone(), around[1].clone(), failing(&["Service 'a1' check", "ttl"])];
    while states().await != wanted {
        assert!(Instant::now() < end, "{:?}", states().await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    house.put("/v1/agent/check/pass/ttl", json!(null)).await;
    while states().await.iter().any(|(status, _)| status != "passing") {
        assert!(Instant::now() < end, "{:?}", states().await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_service_is_seen_at_the_agent_and_in_the_catalog() {
    let house = House::new().await;
    register(&house, "web", 80).await;
    assert_eq!(house.get("/v1/agent/services").await.json()["web"]["Port"], 80);
    assert_eq!(house.get("/v1/catalog/service/web").await.json()[0]["ServicePort"], 80);
    assert_eq!(house.get("/v1/health/service/web?passing").await.json()[0]["Service"]["Port"], 80);
    assert_eq!(house.get("/v1/catalog/node/n1").await.json()["Services"]["web"]["Port"], 80);
    assert_eq!(house.get("/v1/internal/ui/services").await.json().as_array().unwrap().len(), 2);
    house.put("/v1/agent/service/deregister/web", json!(null)).await;
    assert_eq!(house.get("/v1/agent/services").await.text(), "{}");
    assert_eq!(house.get("/v1/catalog/service/web").await.text(), "[]");
    assert_eq!(house.get("/v1/catalog/node/nope").await.text(), "null");
}

#[tokio::test]
async fn a_blocked_read_wakes_on_its_change_and_not_on_others() {
    let house = House::new().await;
    register(&house, "web", 80).await;
    let before = house.get("/v1/health/service/web").await;
    let target = format!("/v1/health/service/web?index={}&wait=60s", before.index());
    let blocked = house.get(&target);
    let changes = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        register(&house, "other", 1).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let changed = Instant::now();
        register(&house, "web", 81).await;
        changed
    };
    let (after, changed): (Answer, Instant) = tokio::join!(blocked, changes);
    assert!(changed.elapsed() < Duration::from_secs(1));
    assert_eq!(after.json()[0]["Service"]["Port"], 81);
    assert!(after.index() > before.index());
}

#[tokio::test]
async fn a_reload_says_how_often_outputs_are_published() {
    let house = House::new().await;
    house.put("/v1/agent/check/register", json!({"Name": "ttl", "TTL": "1h"})).await;
    let published = async |note: &str| {
        house.put(&format!("/v1/agent/check/pass/ttl?note={note}"), json!(null)).await;
        let checks = house.get("/v1/health/node/n1").await.json();
        let check = checks.as_array().unwrap().iter().find(|check| check["CheckID"] == "ttl").unwrap().clone();
        check["Output"].as_str().unwrap().to_owned()
    };
    let pace = |seconds| Reloadable { check_update_interval: Duration::from_secs(seconds), ..Reloadable::default() };
    assert_eq!(published("one").await, "one");
    house.agent.reload(pace(3600)).await.unwrap();
    assert_eq!(published("two").await, "one");
    house.agent.reload(pace(0)).await.unwrap();
    assert_eq!(published("three").await, "three");
}

#[tokio::test]
async fn who_is_near_is_looked_at_anew_with_every_read() {
    let house = House::new().await;
    let place = async |node: &str, x: f64| {
        let coord = json!({"Vec": [x, 0, 0, 0, 0, 0, 0, 0], "Error": 1.5, "Adjustment": 0, "Height": 0.00001});
        house.put("/v1/coordinate/update", json!({"Node": node, "Coord": coord})).await;
    };
    for (node, x) in [("one", 0.1), ("two", 0.2)] {
        let entry = json!({"Node": node, "Address": "10.0.0.1", "Service": {"Service": "db"}});
        house.put("/v1/catalog/register", entry).await;
        place(node, x).await;
    }
    place("n1", 0.0).await;
    let nearest = async || {
        let mut names = Vec::new();
        for target in ["/v1/catalog/service/db?near=n1", "/v1/health/service/db?near=n1", "/v1/catalog/nodes?near=one"]
        {
            let first = house.get(target).await.json()[0].clone();
            names.push(if first["Node"].is_object() { first["Node"]["Node"].clone() } else { first["Node"].clone() });
        }
        names
    };
    assert_eq!(nearest().await, ["one", "one", "one"]);
    place("one", 0.9).await;
    assert_eq!(nearest().await, ["two", "two", "one"]);
}

#[tokio::test]
async fn waiting_ends_with_what_there_is() {
    let house = House::new().await;
    register(&house, "web", 80).await;
    let index = house.get("/v1/catalog/service/web").await.index();
    for seen in [index, index + 1000] {
        let started = Instant::now();
        let answer = house.get(&format!("/v1/catalog/service/web?index={seen}&wait=160ms")).await;
        assert!(started.elapsed() >= Duration::from_millis(160), "index {seen}");
        assert_eq!((answer.status, answer.index()), (200, index));
    }
}

#[tokio::test]
async fn many_who_ask_the_same_get_the_new_answer() {
    let house = House::new().await;
    register(&house, "web", 80).await;
    let target = "/v1/health/service/web";
    let first = house.get(target).await;
    assert_eq!(house.get(target).await.body, first.body);
    register(&house, "web", 81).await;
    assert_eq!(house.get(target).await.json()[0]["Service"]["Port"], 81);
    let compressed = house.ask("GET", target, &["Accept-Encoding: gzip"], b"").await;
    assert_eq!(compressed.header("Content-Encoding"), Some("gzip"));
    assert_eq!(compressed.body, house.ask("GET", target, &["Accept-Encoding: gzip"], b"").await.body);
    assert_ne!(compressed.body, house.get(target).await.body);
}

#[tokio::test]
async fn a_hash_is_waited_on_until_the_service_changes() {
    let house = House::new().await;
    register(&house, "web", 80).await;
    let first = house.get("/v1/agent/service/web").await;
    let hash = first.header("X-Consul-Contenthash").unwrap();
    assert_eq!(first.json()["ContentHash"], hash);
    let started = Instant::now();
    let same = house.get(&format!("/v1/agent/service/web?hash={hash}&wait=160ms")).await;
    assert!(started.elapsed() >= Duration::from_millis(160));
    assert_eq!(same.header("X-Consul-Contenthash"), Some(hash));
    let target = format!("/v1/agent/service/web?hash={hash}&wait=60s");
    let (changed, ()) = tokio::join!(house.get(&target), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        register(&house, "web", 81).await;
    });
    assert_eq!(changed.json()["Port"], 81);
    assert_ne!(changed.header("X-Consul-Contenthash"), Some(hash));
    let gone = house.get("/v1/agent/service/nope?hash=1").await;
    assert_eq!((gone.status, gone.text().as_str()), (404, "unknown proxy service ID: nope"));
}

#[tokio::test]
async fn the_cache_header_misses_once() {
    let house = House::new().await;
    let ask = async || house.get("/v1/catalog/service/none?cached").await;
    let first = ask().await;
    assert_eq!((first.header("X-Cache"), first.header("Age")), (Some("MISS"), None));
    let second = ask().await;
    assert_eq!((second.header("X-Cache"), second.header("Age")), (Some("HIT"), Some("0")));
    assert_eq!(house.get("/v1/catalog/nodes?cached").await.header("X-Cache"), None);
}

#[tokio::test]
async fn configured_headers_are_on_the_api_only() {
    let change = |config: &mut lictor_http::Config| {
        config.response_headers.insert("x-foo".into(), "bar".into());
        config.translate_wan_addrs = true;
    };
    let house = House::with(Wishes { change: Some(change), ..Wishes::default() }).await;
    for target in ["/v1/agent/self", "/v1/catalog/service/", "/v1/agent/service/register"] {
        let answer = house.get(target).await;
        assert_eq!(answer.header("X-Foo"), Some("bar"), "{target}");
        assert_eq!(answer.header("X-Consul-Translate-Addresses"), Some("true"), "{target}");
    }
    for target in ["/", "/v1/nope"] {
        assert_eq!(house.get(target).await.header("X-Foo"), None, "{target}");
    }
}

#[tokio::test]
async fn pretty_answers_are_indented_and_end_with_a_newline() {
    let house = House::new().await;
    assert_eq!(house.get("/v1/status/peers").await.text(), "[\"127.0.0.1:8300\"]");
    assert_eq!(house.get("/v1/status/peers?pretty").await.text(), "[\n    \"127.0.0.1:8300\"\n]\n");
}

#[tokio::test]
async fn a_unix_socket_gives_the_same_answers_to_those_it_lets_in() {
    let house = House::with(Wishes { unix_socket: Some("api.sock"), ..Wishes::default() }).await;
    let path = house.folder.path().join("api.sock");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let stream = house.connect_unix("api.sock").await;
    let answer = ask_on(stream, "GET", "/v1/status/leader", &[], b"").await;
    assert_eq!(answer.text(), "\"127.0.0.1:8300\"");
    house.stop().await;
    assert!(!path.exists());
}

#[tokio::test]
async fn a_stop_answers_blocked_reads() {
    let house = House::new().await;
    let index = house.get("/v1/catalog/nodes").await.index();
    let stream = house.connect().await;
    let target = format!("/v1/catalog/nodes?index={index}&wait=10m");
    let blocked = tokio::spawn(async move { ask_on(stream, "GET", &target, &[], b"").await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let started = Instant::now();
    house.stop().await;
    assert_eq!(blocked.await.unwrap().index(), index);
    assert!(started.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_silent_client() {
    let house = House::new().await;
    let mut stream = house.connect().await;
    stream.write_all(b"GET /v1/agent/self HTTP/1.1\r\nHost").await.unwrap();
    let started = Instant::now();
    house.stop().await;
    assert!(started.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn a_connection_serves_many_requests_in_order() {
    let house = House::new().await;
    let mut stream = house.connect().await;
    let request = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    let both = request("/v1/status/leader") + &request("/v1/nope") + &request("/v1/status/peers");
    stream.write_all(both.as_bytes()).await.unwrap();
    let mut seen = String::new();
    tokio::time::timeout(PATIENCE, async {
        while !seen.ends_with("[\"127.0.0.1:8300\"]") {
            let mut chunk = [0; 4096];
            let read = stream.read(&mut chunk).await.unwrap();
            assert!(read > 0, "closed after {seen}");
            seen.push_str(std::str::from_utf8(&chunk[..read]).unwrap());
        }
    })
    .await
    .unwrap();
    assert_eq!(seen.matches("HTTP/1.1 200").count(), 2);
    assert_eq!(seen.matches("HTTP/1.1 404").count(), 1);
}

#[tokio::test]
async fn bodies_that_are_too_large_are_refused_before_they_are_sent() {
    let house = House::new().await;
    let mut stream = house.connect().await;
    let head = "PUT /v1/agent/service/register HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 12];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer, b"HTTP/1.1 413");
}

#[tokio::test]
async fn bodies_come_in_any_number_of_pieces() {
    let house = House::new().await;
    let mut stream = house.connect().await;
    let head = "PUT /v1/agent/service/register HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
                Transfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    for piece in ["{\"Na", "me\": \"web\", ", "\"Port\": 80}"] {
        stream.write_all(format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(house.get("/v1/agent/services").await.json()["web"]["Port"], 80);
}

#[tokio::test]
async fn the_log_is_streamed_line_by_line() {
    let house = House::new().await;
    let answer = house.get("/v1/agent/monitor?loglevel=warn").await;
    assert!(answer.text().contains("[Warn] one\n") && answer.text().contains("two\n"), "{}", answer.text());
    let answer = house.get("/v1/agent/monitor?loglevel=zz").await;
    assert_eq!((answer.status, answer.text().as_str()), (400, "Unknown log level: ZZ"));
}

#[tokio::test]
async fn intentions_live_and_die() {
    let house = House::new().await;
    let allow = br#"{"SourceName": "web", "DestinationName": "db", "Action": "allow"}"#;
    let created = house.ask("POST", "/v1/connect/intentions", &[], allow).await;
    let id = created.json()["ID"].as_str().unwrap().to_owned();
    let one = format!("/v1/connect/intentions/{id}");
    let shown = house.get(&one).await;
    assert_eq!((shown.json()["Precedence"].as_u64(), shown.header("X-Consul-Index")), (Some(9), None));
    let matched = house.get("/v1/connect/intentions/match?by=destination&name=db&name=none").await;
    assert_eq!(matched.json()["db"][0]["ID"], id.as_str());
    assert!(matched.json()["none"].is_null());
    assert_eq!(matched.header("X-Lictor-Default-Decision"), Some("allow"));
    let target = format!("/v1/connect/intentions/match?by=destination&name=db&index={}&wait=60s", matched.index());
    let deny = br#"{"SourceName": "web", "DestinationName": "db", "Action": "deny"}"#;
    let (woken, ()) = tokio::join!(house.get(&target), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(house.ask("PUT", &one, &[], deny).await.status, 200);
    });
    assert_eq!(woken.json()["db"][0]["Action"], "deny");
    let check = house.get("/v1/connect/intentions/check?source=web&destination=db").await;
    assert_eq!(check.text(), r#"{"Allowed":false}"#);
    assert_eq!(house.ask("DELETE", &one, &[], b"").await.text(), "true");
    assert_eq!(house.get(&one).await.status, 404);
}

#[tokio::test]
async fn rights_decide_what_is_seen() {
    let web = caller(&[(Access::Write, Resource::Service, "web"), (Access::Read, Resource::Node, "")]);
    let tokens = vec![("web-token", web), ("all", Caller::management(""))];
    let house = House::with(Wishes { tokens, ..Wishes::default() }).await;
    let ask = async |secret: &str, method: &str, target: &str, body: &[u8]| {
        house.ask(method, target, &[&format!("X-Consul-Token: {secret}")], body).await
    };
    let unknown = ask("bogus", "GET", "/v1/catalog/nodes", b"").await;
    assert_eq!((unknown.status, unknown.text().as_str()), (403, "ACL not found"));
    assert_eq!(unknown.header("X-Consul-Knownleader"), Some("false"));
    assert_eq!(house.get("/v1/catalog/nodes").await.text(), "[]");
    assert_eq!(house.get("/v1/agent/self").await.status, 403);
    assert_eq!(house.get("/v1/status/leader").await.status, 200);
    assert_eq!(house.get("/v1/agent/members").await.text(), "[]");

    let body = br#"{"Name": "web", "Port": 80}"#;
    assert_eq!(ask("", "PUT", "/v1/agent/service/register", body).await.status, 403);
    assert_eq!(ask("web-token", "PUT", "/v1/agent/service/register", body).await.status, 200);
    assert_eq!(house.get("/v1/agent/services").await.text(), "{}");
    let bearer = house.ask("GET", "/v1/agent/services", &["Authorization: Bearer web-token"], b"").await;
    assert_eq!(bearer.json()["web"]["Port"], 80);
    assert_eq!(house.get("/v1/agent/services?token=web-token").await.json()["web"]["Port"], 80);
    // Nothing that one caller sees is kept for another.
    assert_eq!(ask("all", "GET", "/v1/catalog/service/web", b"").await.json().as_array().unwrap().len(), 1);
    assert_eq!(house.get("/v1/catalog/service/web").await.text(), "[]");

    // Who may not read tokens and policies is told nothing else about the question.
    for target in ["/v1/acl/token/x", "/v1/acl/policy/x", "/v1/acl/rules/translate/x"] {
        assert_eq!(ask("web-token", "GET", target, b"").await.status, 403, "{target}");
        assert_eq!(ask("all", "GET", target, b"").await.status, 500, "{target}");
    }

    // Who may not see a service does not wait for it.
    let hidden = house.get("/v1/health/connect/web?index=1&wait=60s").await;
    assert_eq!((hidden.text().as_str(), hidden.index()), ("[]", 1));
}

#[tokio::test]
async fn a_managed_proxy_may_only_do_what_a_proxy_must() {
    let parent = caller(&[
        (Access::Write, Resource::Service, ""),
        (Access::Read, Resource::Node, ""),
        (Access::Write, Resource::Agent, ""),
    ]);
    let rights = ProxyRights {
        proxy_id: "web-proxy".into(),
        service: "web".into(),
        upstreams: ["db".to_owned()].into(),
        queries: BTreeSet::new(),
    };
    let proxy = Caller::proxy(&parent, rights);
    let house = House::with(Wishes { tokens: vec![("proxy", proxy), ("all", parent)], ..Wishes::default() }).await;
    let ask = async |secret: &str, method: &str, target: &str, body: &[u8]| {
        house.ask(method, target, &[&format!("X-Consul-Token: {secret}")], body).await
    };
    let body = br#"{"Name": "db", "Port": 80}"#;
    assert_eq!(ask("all", "PUT", "/v1/agent/service/register", body).await.status, 200);
    assert_eq!(ask("proxy", "GET", "/v1/health/service/db", b"").await.json().as_array().unwrap().len(), 1);
    assert_eq!(ask("proxy", "GET", "/v1/connect/intentions/match?by=destination&name=web", b"").await.status, 200);
    let question = |target: &str| {
        format!(r#"{{"Target": "{target}", "ClientCertURI": "spiffe://x.consul/ns/default/dc/dc1/svc/db"}}"#)
    };
    let authorize = "/v1/agent/connect/authorize";
    assert_eq!(ask("proxy", "POST", authorize, question("web").as_bytes()).await.status, 200);
    assert_eq!(ask("proxy", "POST", authorize, question("db").as_bytes()).await.status, 403);
    for (method, target) in [
        ("PUT", "/v1/agent/service/register"),
        ("PUT", "/v1/agent/service/deregister/db"),
        ("GET", "/v1/agent/self"),
        ("GET", "/v1/agent/services"),
        ("GET", "/v1/agent/service/db"),
        ("GET", "/v1/catalog/nodes"),
        ("GET", "/v1/health/service/other"),
        ("GET", "/v1/connect/intentions"),
        ("PUT", "/v1/agent/reload"),
    ] {
        let refused = ask("proxy", method, target, body).await;
        assert_eq!((refused.status, refused.text().as_str()), (403, "Permission denied"), "{method} {target}");
    }
}

#[tokio::test]
async fn what_a_query_finds_can_only_be_read() {
    let house = House::new().await;
    for (path, allowed) in [
        ("/v1/query/q", "OPTIONS,GET,PUT,DELETE"),
        ("/v1/query/q/execute", "OPTIONS,GET"),
        ("/v1/query/a/b/explain", "OPTIONS,GET"),
    ] {
        let answer = house.ask("OPTIONS", path, &[], b"").await;
        assert_eq!((answer.status, answer.header("Allow")), (200, Some(allowed)), "{path}");
        for method in ["POST", "PUT", "DELETE"].into_iter().filter(|method| !allowed.contains(method)) {
            let answer = house.ask(method, path, &[], b"{}").await;
            assert_eq!((answer.status, answer.header("Allow")), (405, Some(allowed)), "{method} {path}");
        }
    }
}

#[tokio::test]
async fn https_speaks_both_versions() {
    let Ok(curl) = which("curl") else {
        eprintln!("SKIPPED: no curl to speak HTTP/2 with");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let files = Files { certificate: certificate.clone(), key, ..Files::default() };
    let acceptor = Arc::new(Acceptor::load(files).unwrap());
    let listener = Listener::Tls(([127, 0, 0, 1], 0).into(), Arc::clone(&acceptor));
    let socket = folder.path().join("api.sock");
    let unix = Listener::Unix { path: socket.clone(), mode: None, user: None, group: None, acceptor: Some(acceptor) };
    let house = House::with(Wishes { listeners: vec![listener, unix], ..Wishes::default() }).await;
    let port = house.tls_port.unwrap();
    let over_tcp = ["--resolve".to_owned(), format!("localhost:{port}:127.0.0.1")];
    let over_unix = ["--unix-socket".to_owned(), socket.display().to_string()];
    for (version, head) in [("--http1.1", "HTTP/1.1 200 OK"), ("--http2", "HTTP/2 200")] {
        for way in [&over_tcp, &over_unix] {
            let output = tokio::process::Command::new(&curl)
                .args(["-sS", "-i", version, "--cacert", certificate.to_str().unwrap()])
                .args(way)
                .arg(format!("https://localhost:{port}/v1/catalog/services"))
                .output()
                .await
                .unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(text.starts_with(head), "{version} {way:?}: {text} {}", String::from_utf8_lossy(&output.stderr));
            let index = if version == "--http2" { "x-consul-index: " } else { "X-Consul-Index: " };
            assert!(text.contains(index) && text.ends_with(r#"{"consul":[]}"#), "{version} {way:?}: {text}");
        }
    }
    house.stop().await;
}

fn which(program: &str) -> Result<PathBuf, ()> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders).map(|folder| folder.join(program)).find(|path| path.is_file()).ok_or(())
}

/// The next answer on a connection that stays: its status, its body.
async fn next_answer(stream: &mut BufReader<TcpStream>) -> (u16, String) {
    let (head, body) = next_whole(stream).await;
    (head.split(' ').nth(1).unwrap().parse().unwrap(), String::from_utf8(body).unwrap())
}

async fn say(stream: &mut BufReader<TcpStream>, text: &str) {
    stream.get_mut().write_all(text.as_bytes()).await.unwrap();
}

#[tokio::test]
async fn a_connection_carries_reads_and_anything_else_in_any_order() {
    let house = House::new().await;
    house.put("/v1/kv/a", json!(1)).await;
    let mut stream = BufReader::new(house.connect().await);
    let exchange = async {
        let read = "GET /v1/kv/a?raw HTTP/1.1\r\nHost: x\r\n\r\n";
        for _ in 0..3 {
            say(&mut stream, read).await;
            assert_eq!(next_answer(&mut stream).await, (200, "1".into()));
        }
        say(&mut stream, "PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n2").await;
        assert_eq!(next_answer(&mut stream).await, (200, "true".into()));
        // Two at once.
        say(&mut stream, &format!("{read}GET /v1/kv/b?raw HTTP/1.1\r\n\r\n")).await;
        assert_eq!(next_answer(&mut stream).await, (200, "2".into()));
        assert_eq!(next_answer(&mut stream).await, (404, String::new()));
    };
    tokio::time::timeout(PATIENCE, exchange).await.unwrap();
}

/// The next answer on a connection that stays: its head without the time, and its body as it came.
async fn next_whole(stream: &mut BufReader<TcpStream>) -> (String, Vec<u8>) {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(stream.read_line(&mut head).await.unwrap(), 0, "the connection was closed: {head}");
    }
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap().parse().unwrap();
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    assert_eq!(head.matches("\r\nDate: ").count(), 1, "{head}");
    (head.lines().filter(|line| !line.starts_with("Date: ")).collect::<Vec<_>>().join("\n"), body)
}

#[tokio::test]
async fn a_read_that_comes_again_is_answered_anew_whenever_anything_has_changed() {
    let house = House::new().await;
    let register = async |port: u16| {
        house
            .put(
                "/v1/catalog/register",
                json!({"Node": "x", "Address": "10.0.0.1", "Service": {"Service": "db", "Port": port}}),
            )
            .await;
    };
    register(1).await;
    let mut stream = BufReader::new(house.connect().await);
    let exchange = async {
        let read = "GET /v1/health/service/db HTTP/1.1\r\nHost: x\r\n\r\n";
        let mut ask = async |request: &str| {
            say(&mut stream, request).await;
            next_whole(&mut stream).await
        };
        let first = ask(read).await;
        for _ in 0..3 {
            assert_eq!(ask(read).await, first);
        }
        // Something else does not matter; a change of what was asked for does, and so does its index.
        house.put("/v1/kv/a", json!(1)).await;
        assert_eq!(ask(read).await, first);
        register(2).await;
        let second = ask(read).await;
        assert!(String::from_utf8_lossy(&second.1).contains(r#""Port":2,"#), "{second:?}");
        assert_ne!(second.0, first.0);
        assert_eq!(ask(read).await, second);
        // Another request in between, and another spelling of the same.
        let nodes = ask("GET /v1/catalog/nodes HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(String::from_utf8_lossy(&nodes.1).contains("10.0.0.1"), "{nodes:?}");
        let zipped = read.replace("Host: x", "Host: x\r\nAccept-Encoding: gzip");
        let packed = ask(&zipped).await;
        assert!(packed.0.contains("Content-Encoding: gzip") && packed.1 != second.1, "{packed:?}");
        assert_eq!(ask(&zipped).await, packed);
        assert_eq!(ask(read).await, second);
        // What clients look at differs from one answer to the next.
        let cached = "GET /v1/health/service/db?cached HTTP/1.1\r\nHost: x\r\n\r\n";
        assert!(ask(cached).await.0.contains("X-Cache: MISS"));
        assert!(ask(cached).await.0.contains("X-Cache: HIT"));
        assert_eq!(ask(read).await, second);

        let mut changed = house::config();
        changed.response_headers.insert("X-Extra".into(), "here".into());
        house.reload.replace(house.reload.prepare(&changed).unwrap());
        let third = ask(read).await;
        assert!(third.0.contains("X-Extra: here") && third.1 == second.1, "{third:?}");
        assert_eq!(ask(read).await, third);
        changed.block_endpoints.push("/v1/health".into());
        house.reload.replace(house.reload.prepare(&changed).unwrap());
        for _ in 0..2 {
            let refused = ask(read).await;
            assert!(refused.0.starts_with("HTTP/1.1 403 "), "{refused:?}");
        }
    };
    tokio::time::timeout(PATIENCE, exchange).await.unwrap();
}

#[tokio::test]
async fn a_small_write_is_carried_out_and_its_connection_goes_on_as_its_client_wants() {
    let house = House::new().await;
    let mut stream = BufReader::new(house.connect().await);
    let exchange = async {
        let write = |more: &str, body: &str| {
            format!("PUT /v1/kv/a HTTP/1.1\r\nHost: x\r\n{more}Content-Length: {}\r\n\r\n{body}", body.len())
        };
        say(&mut stream, &write("", "1")).await;
        assert_eq!(next_answer(&mut stream).await, (200, "true".into()));
        say(&mut stream, "DELETE /v1/kv/a?cas=1 HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert_eq!(next_answer(&mut stream).await, (200, "false".into()));
        say(&mut stream, "POST /v1/connect/intentions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}").await;
        assert_eq!(next_answer(&mut stream).await.0, 500, "an intention without a source");
        say(&mut stream, &write("Connection: close\r\n", "2")).await;
        let (head, _) = next_whole(&mut stream).await;
        assert!(head.contains("Connection: close"), "{head}");
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "it is not closed");
        assert_eq!(house.get("/v1/kv/a?raw").await.text(), "2");

        // Who has left has said what is to be done all the same.
        let mut stream = house.connect().await;
        stream.write_all(write("", "3").as_bytes()).await.unwrap();
        drop(stream);
        while house.get("/v1/kv/a?raw").await.text() != "3" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, exchange).await.unwrap();
}

/// Connections on which a read waits, each with its own query and headers.
async fn waiting(house: &House, path: &str, wishes: &[(&str, &str)]) -> Vec<BufReader<TcpStream>> {
    let mut all = Vec::new();
    for (query, header) in wishes {
        let mut stream = BufReader::new(house.connect().await);
        say(&mut stream, &format!("GET {path}{query} HTTP/1.1\r\nHost: x\r\n{header}\r\n")).await;
        all.push(stream);
    }
    // They wait before anything changes: the agent answers others meanwhile.
    house.get("/v1/catalog/nodes").await;
    all
}

#[tokio::test]
async fn whoever_waits_for_the_same_is_told_it_in_a_form_of_its_own() {
    let house = House::new().await;
    register(&house, "web", 80).await;
    let index = house.get("/v1/health/service/web").await.index();
    let asked = |more: &str| format!("?index={index}&wait=60s{more}");
    let (plain, stale, cached) = (asked(""), asked("&stale"), asked("&cached"));
    let gzip = "Accept-Encoding: gzip\r\n";
    let wishes = [
        (plain.as_str(), ""),
        (&stale, ""),
        (&plain, gzip),
        (&plain, "Connection: close\r\n"),
        (&cached, ""),
        (&plain, ""),
        (&stale, gzip),
    ];
    let streams = waiting(&house, "/v1/health/service/web", &wishes).await;
    register(&house, "web", 81).await;
    let exchange = async {
        for ((query, header), mut stream) in wishes.into_iter().zip(streams) {
            let (head, body) = next_whole(&mut stream).await;
            let says = |line: &str| head.lines().any(|known| known == line);
            assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
            let shown = head.lines().find_map(|line| line.strip_prefix("X-Consul-Index: ")).unwrap();
            assert!(shown.parse::<u64>().unwrap() > index, "{head}");
            let consistency = if query == plain { "leader" } else { "stale" };
            let told = says(&format!("X-Consul-Effective-Consistency: {consistency}"));
            assert!(told || query == cached, "{query}: {head}");
            assert_eq!(head.contains("X-Cache: "), query == cached, "{query}: {head}");
            assert_eq!(says("Content-Encoding: gzip"), header == gzip, "{header}: {head}");
            assert_eq!(says("Connection: close"), header.starts_with("Connection"), "{header}: {head}");
            assert_eq!(body.starts_with(b"["), header != gzip, "{header}");
            let text = String::from_utf8_lossy(&body);
            assert!(header == gzip || text.contains(r#""Port":81,"#), "{text}");
            if header.starts_with("Connection") {
                assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "it is not closed");
            }
        }
    };
    tokio::time::timeout(PATIENCE, exchange).await.unwrap();
}

#[tokio::test]
async fn what_is_reloaded_while_reads_wait_holds_for_their_answers() {
    let house = House::new().await;
    register(&house, "web", 80).await;
    let mut changed = house::config();
    let exchange = async {
        for port in [81, 82] {
            let index = house.get("/v1/health/service/web").await.index();
            let query = format!("?index={index}&wait=60s");
            let streams = waiting(&house, "/v1/health/service/web", &[(&query, ""), (&query, "")]).await;
            if port == 81 {
                changed.response_headers.insert("X-Extra".into(), "here".into());
            } else {
                changed.block_endpoints.push("/v1/health".into());
            }
            house.reload.replace(house.reload.prepare(&changed).unwrap());
            register(&house, "web", port).await;
            for mut stream in streams {
                let (head, _) = next_whole(&mut stream).await;
                let is_answered = head.starts_with("HTTP/1.1 200 ") && head.contains("X-Extra: here");
                let is_refused = head.starts_with("HTTP/1.1 403 ");
                assert!(if port == 81 { is_answered } else { is_refused }, "{head}");
            }
        }
    };
    tokio::time::timeout(PATIENCE, exchange).await.unwrap();
}

#[tokio::test]
async fn reads_that_wait_come_to_an_end_when_the_agent_stops() {
    let house = House::new().await;
    register(&house, "web", 80).await;
    let index = house.get("/v1/catalog/service/web").await.index();
    let hash = house.get("/v1/agent/service/web").await.header("X-Consul-Contenthash").unwrap().to_owned();
    let query = format!("?index={index}&wait=60s");
    let mut streams = waiting(&house, "/v1/catalog/service/web", &[(&query, ""), (&query, "")]).await;
    let consistent = format!("{query}&consistent");
    streams.extend(waiting(&house, "/v1/catalog/service/web", &[(&consistent, "")]).await);
    streams.extend(waiting(&house, "/v1/agent/service/web", &[(&format!("?hash={hash}&wait=60s"), "")]).await);
    house.stop().await;
    for mut stream in streams {
        let (head, body) = tokio::time::timeout(PATIENCE, next_whole(&mut stream)).await.unwrap();
        assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("Connection: close"), "{head}");
        assert!(String::from_utf8_lossy(&body).contains("80"));
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn rights_are_looked_at_each_time_a_read_comes_again() {
    let may = Caller::management("m");
    let house = House::with(Wishes { tokens: vec![("good", may)], ..Wishes::default() }).await;
    let header = ["X-Consul-Token: good"];
    let body = serde_json::to_vec(&json!({"Node": "x", "Address": "10.0.0.1", "Service": {"Service": "db"}})).unwrap();
    assert_eq!(house.ask("PUT", "/v1/catalog/register", &header, &body).await.status, 200);
    let mut stream = BufReader::new(house.connect().await);
    let exchange = async {
        for (token, sees) in [("good", true), ("good", true), ("", false), ("", false), ("good", true)] {
            let header = if token.is_empty() { String::new() } else { format!("X-Consul-Token: {token}\r\n") };
            say(&mut stream, &format!("GET /v1/health/service/db HTTP/1.1\r\n{header}\r\n")).await;
            let (_, body) = next_whole(&mut stream).await;
            assert_eq!(String::from_utf8_lossy(&body).contains("10.0.0.1"), sees, "{token}");
        }
    };
    tokio::time::timeout(PATIENCE, exchange).await.unwrap();
}

#[tokio::test]
async fn a_read_in_pieces_is_answered_like_one_in_one_piece() {
    let house = House::new().await;
    house.put("/v1/kv/a", json!(1)).await;
    let mut stream = BufReader::new(house.connect().await);
    let exchange = async {
        say(&mut stream, "GET /v1/kv/a?raw HTTP/1.1\r\nHo").await;
        // The first piece is there before the second is sent: the agent answers others meanwhile.
        house.get("/v1/catalog/nodes").await;
        say(&mut stream, "st: x\r\n\r\n").await;
        assert_eq!(next_answer(&mut stream).await, (200, "1".into()));
    };
    tokio::time::timeout(PATIENCE, exchange).await.unwrap();
}

#[tokio::test]
async fn a_request_behind_a_read_that_waits_is_answered_behind_it() {
    let house = House::new().await;
    house.put("/v1/kv/a", json!(1)).await;
    let index = house.get("/v1/kv/a").await.index();
    let mut stream = BufReader::new(house.connect().await);
    let exchange = async {
        say(&mut stream, &format!("GET /v1/kv/a?raw&index={index}&wait=60s HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        house.get("/v1/catalog/nodes").await;
        say(&mut stream, "GET /v1/kv/b HTTP/1.1\r\nHost: x\r\n\r\n").await;
        house.put("/v1/kv/a", json!(2)).await;
        assert_eq!(next_answer(&mut stream).await, (200, "2".into()));
        assert_eq!(next_answer(&mut stream).await, (404, String::new()));
    };
    tokio::time::timeout(PATIENCE, exchange).await.unwrap();
}

#[tokio::test]
async fn a_read_whose_client_has_ended_its_side_waits_no_longer() {
    let house = House::new().await;
    house.put("/v1/kv/a", json!(1)).await;
    let index = house.get("/v1/kv/a").await.index();
    let mut stream = house.connect().await;
    let request = format!("GET /v1/kv/a?index={index}&wait=300s HTTP/1.1\r\nHost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    house.get("/v1/catalog/nodes").await;
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the agent goes on waiting").unwrap();
    // It may be gone, or listen still.
    let rest = String::from_utf8(rest).unwrap();
    assert!(
        rest.starts_with("HTTP/1.1 200 OK\r\n") && rest.contains(&format!("X-Consul-Index: {index}\r\n")),
        "{rest}"
    );
}

/// Sends the head of a request, and what there is of its body.
async fn begin(house: &House, target: &str, headers: &str, body: &[u8]) -> TcpStream {
    let mut stream = house.connect().await;
    let head = format!("PUT {target} HTTP/1.1\r\nHost: x\r\n{headers}\r\n\r\n");
    // A server that refuses it does not read it all.
    let _ = stream.write_all(&[head.as_bytes(), body].concat()).await;
    stream
}

async fn end(mut stream: TcpStream) -> String {
    let mut all = Vec::new();
    // What came before a reset counts.
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut all)).await.unwrap();
    String::from_utf8_lossy(&all).into_owned()
}

#[tokio::test]
async fn bodies_and_what_is_in_them_have_limits() {
    let house = House::new().await;
    // One that says that it is too large need not be sent.
    for target in ["/v1/session/create", "/v1/agent/service/register", "/v1/catalog/register", "/v1/txn"] {
        let answer = end(begin(&house, target, "Content-Length: 2097153", b"").await).await;
        assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("\r\nConnection: close\r\n"), "{answer}");
        assert!(answer.ends_with("request body exceeds 2097152 byte limit"), "{answer}");
    }
    let refused = |answer: Answer, text: &str| assert_eq!((answer.status, answer.text().as_str()), (400, text));
    let many = format!("{{\"a\": [{}0]}}", "0,".repeat(1_000_000));
    let put = async |target: &str, body: &str| house.ask("PUT", target, &[], body.as_bytes()).await;
    refused(put("/v1/session/create", &many).await, "Request decode failed: more than 65536 values");
    refused(put("/v1/agent/service/register", &many).await, "Request decode failed: more than 65536 values");
    let long = "x".repeat(5000);
    let why = "has 5000 bytes, and a name has at most 4096";
    let named = json!({"Name": long}).to_string();
    refused(put("/v1/session/create", &named).await, &format!("Request decode failed: 'Name' {why}"));
    refused(put("/v1/agent/service/register", &named).await, &format!("Request decode failed: 'Name' {why}"));
    refused(put("/v1/agent/check/register", &named).await, &format!("Request decode failed: 'Name' {why}"));
    refused(house.get(&format!("/v1/health/service/{long}")).await, &format!("the name in the path {why}"));
    // Keys are no names.
    assert_eq!(put(&format!("/v1/kv/{long}"), "v").await.text(), "true");
    assert_eq!(house.get(&format!("/v1/kv/{long}?raw")).await.text(), "v");
}

#[tokio::test]
async fn whoever_holds_many_large_bodies_does_not_keep_others_from_small_ones() {
    let house = House::new().await;
    let body = format!("{{\"Notes\": \"{}\"}}", "x".repeat(1_000_000));
    // One of them never sends its last byte.
    let never_ends = format!("Content-Length: {}", body.len() + 1);
    let hold = || begin(&house, "/v1/session/create", &never_ends, body.as_bytes());
    let large = || async {
        let length = format!("Content-Length: {}\r\nConnection: close", body.len());
        end(begin(&house, "/v1/session/create", &length, body.as_bytes()).await).await
    };
    // As many as there is room for: the first 64 KiB of each take none of it.
    let mut held = Vec::new();
    for _ in 0..(64 << 20) / (body.len() - (64 << 10)) {
        held.push(hold().await);
    }
    let begun = Instant::now();
    loop {
        let answer = large().await;
        if answer.starts_with("HTTP/1.1 503 ") {
            assert!(answer.ends_with("too many large request bodies at once, try again"), "{answer}");
            break;
        }
        // Not all of them have been read yet.
        assert!(begun.elapsed() < PATIENCE, "{answer}");
    }
    register(&house, "web", 80).await;
    // What they took is there again when they have gone.
    drop(held);
    let begun = Instant::now();
    while large().await.starts_with("HTTP/1.1 503 ") {
        assert!(begun.elapsed() < PATIENCE);
    }
}

#[tokio::test]
async fn a_transaction_that_reads_too_much_is_refused() {
    let house = House::new().await;
    let value = vec![b'x'; 512 * 1024];
    for number in 0..4 {
        assert_eq!(house.ask("PUT", &format!("/v1/kv/{number}"), &[], &value).await.status, 200);
    }
    let tree = vec![json!({"KV": {"Verb": "get-tree", "Key": ""}}); 64];
    let answer = house.ask("PUT", "/v1/txn", &[], json!(tree).to_string().as_bytes()).await;
    assert_eq!(answer.status, 413);
    assert_eq!(answer.text(), "answer exceeds 67108864 byte limit, ask for less at once");
}

#[tokio::test]
async fn a_connection_goes_on_after_a_body_that_nobody_asked_for_or_says_that_it_does_not() {
    let house = House::new().await;
    let head = |line: &str, more: &str| format!("{line} HTTP/1.1\r\nHost: x\r\n{more}\r\n");
    let answered = async |stream: &mut BufReader<TcpStream>| {
        let (mut lines, mut length) = (Vec::new(), 0);
        loop {
            let mut line = String::new();
            let read = tokio::time::timeout(PATIENCE, stream.read_line(&mut line)).await.unwrap().unwrap();
            assert_ne!(read, 0, "the connection has ended behind {lines:?}");
            if line == "\r\n" {
                break;
            }
            if let Some(text) = line.strip_prefix("Content-Length: ") {
                length = text.trim().parse().unwrap();
            }
            lines.push(line);
        }
        stream.read_exact(&mut vec![0; length]).await.unwrap();
        lines.concat()
    };
    for line in ["PUT /v1/acl/role", "PUT /v1/agent/checks", "PUT /v1/session/renew/nobody", "GET /v1/status/leader"] {
        let mut stream = BufReader::new(house.connect().await);
        stream.write_all(head(line, "Content-Length: 5\r\n").as_bytes()).await.unwrap();
        // As clients do that send the head by itself: an answer that does not wait for the rest is there by then.
        tokio::time::sleep(Duration::from_millis(50)).await;
        stream.write_all(b"12345").await.unwrap();
        let first = answered(&mut stream).await;
        assert!(!first.contains("Connection: close"), "{line}: {first}");
        stream.write_all(head("GET /v1/status/leader", "").as_bytes()).await.unwrap();
        assert!(answered(&mut stream).await.starts_with("HTTP/1.1 200 "), "{line}");
    }
    // What never comes, what is too much, and what waits to be asked for.
    for more in
        ["Content-Length: 5\r\n", "Content-Length: 1000000\r\n", "Content-Length: 5\r\nExpect: 100-continue\r\n"]
    {
        let mut stream = BufReader::new(house.connect().await);
        stream.write_all(head("PUT /v1/acl/role", more).as_bytes()).await.unwrap();
        let first = answered(&mut stream).await;
        assert!(first.starts_with("HTTP/1.1 404 ") && first.contains("Connection: close\r\n"), "{more}: {first}");
    }
    house.stop().await;
}
