//! Keys, sessions and snapshots on the built binary: what ends a lock, and what comes back.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

use std::time::{Duration, Instant};

use lictor_testkit::{House, until};
use serde_json::{Value, json};

const BINARY: &str = env!("CARGO_BIN_EXE_lictor");

/// Short enough for a test, long enough for a busy machine to renew in time.
const TTL: &str = "2s";

fn house() -> House {
    House::start(BINARY, json!({"session_ttl_min": "1s"}))
}

fn session(house: &House, wishes: Value) -> String {
    house.put("/v1/session/create", wishes).json()["ID"].as_str().unwrap().to_owned()
}

fn is_there(house: &House, session: &str) -> bool {
    house.get(&format!("/v1/session/info/{session}")).json() != json!([])
}

fn acquire(house: &House, key: &str, session: &str) -> bool {
    house.request("PUT", &format!("/v1/kv/{key}?acquire={session}"), b"held").json() == json!(true)
}

fn holder(house: &House, key: &str) -> Option<String> {
    house.get(&format!("/v1/kv/{key}")).json()[0]["Session"].as_str().map(str::to_owned)
}

#[test]
fn a_session_ends_when_it_is_not_renewed_and_lives_when_it_is() {
    let house = house();
    let idle = session(&house, json!({"TTL": TTL, "LockDelay": "0s", "Behavior": "delete"}));
    let kept = session(&house, json!({"TTL": TTL, "LockDelay": "0s"}));
    assert!(acquire(&house, "idle", &idle) && acquire(&house, "kept", &kept));
    until("the idle session ends", || {
        assert_eq!(house.put(&format!("/v1/session/renew/{kept}"), Value::Null).json()[0]["ID"], kept.as_str());
        !is_there(&house, &idle)
    });
    assert_eq!(house.get("/v1/kv/idle").status, 404, "its key goes with it");
    assert_eq!(holder(&house, "kept"), Some(kept));
}

#[test]
fn a_session_has_its_whole_time_again_after_a_restart() {
    let mut house = house();
    let held = session(&house, json!({"TTL": TTL, "LockDelay": "0s"}));
    assert!(acquire(&house, "lock", &held));
    house.kill_agent();
    // Longer than the session lives without an agent that counts.
    std::thread::sleep(Duration::from_millis(4500));
    house.start_agent();
    house.wait_ready();
    assert_eq!(holder(&house, "lock"), Some(held.clone()), "nobody could have renewed it");
    assert_eq!(house.put(&format!("/v1/session/renew/{held}"), Value::Null).status, 200);
    until("it ends at last", || holder(&house, "lock").is_none());
}

#[test]
fn a_critical_check_and_a_removed_node_end_their_sessions() {
    let house = house();
    house.put(
        "/v1/agent/check/register",
        json!({"CheckID": "alive", "Name": "alive", "TTL": "1h", "Status": "passing"}),
    );
    let bound = session(&house, json!({"Checks": ["alive"], "LockDelay": "0s"}));
    assert!(acquire(&house, "by-check", &bound));
    house.put("/v1/agent/check/fail/alive", Value::Null);
    until("the session of the check ends", || !is_there(&house, &bound));
    assert_eq!(holder(&house, "by-check"), None);

    house.put("/v1/catalog/register", json!({"Node": "elsewhere", "Address": "10.0.0.1"}));
    let remote = session(&house, json!({"Node": "elsewhere", "Checks": [], "LockDelay": "0s"}));
    assert!(acquire(&house, "by-node", &remote));
    house.put("/v1/catalog/deregister", json!({"Node": "elsewhere"}));
    assert!(!is_there(&house, &remote));
    assert_eq!(holder(&house, "by-node"), None);
}

#[test]
fn a_number_that_is_given_empty_is_none_and_nothing_is_written() {
    let house = house();
    for name in ["flags", "cas"] {
        let answer = house.request("PUT", &format!("/v1/kv/k?{name}="), b"v");
        let text = "strconv.ParseUint: parsing \"\": invalid syntax";
        assert_eq!((answer.status, answer.text().as_str()), (500, text), "{name}");
    }
    assert_eq!(house.get("/v1/kv/k").status, 404);
}

#[test]
fn a_lock_that_was_lost_can_only_be_taken_after_its_delay() {
    let house = house();
    let (first, second) = (session(&house, json!({"LockDelay": "2s"})), session(&house, json!({})));
    assert!(acquire(&house, "lock", &first));
    let lost = Instant::now();
    house.put(&format!("/v1/session/destroy/{first}"), Value::Null);
    until("the lock can be taken", || acquire(&house, "lock", &second));
    assert!(lost.elapsed() >= Duration::from_secs(2), "{:?}", lost.elapsed());
}

#[test]
fn a_snapshot_brings_everything_back_and_wakes_who_waits() {
    let house = house();
    house.put("/v1/agent/service/register", json!({"Name": "web", "Port": 80}));
    house.request("PUT", "/v1/kv/kept", b"before");
    // More than one transaction holds.
    for number in 0..150 {
        house.request("PUT", &format!("/v1/kv/many/{number}"), b"x");
    }
    // What stays as it is.
    house.request("PUT", "/v1/kv/still", b"same");
    let query = json!({"Name": "of-web", "Service": {"Service": "web"}}).to_string();
    let query = house.request("POST", "/v1/query", query.as_bytes()).json()["ID"].as_str().unwrap().to_owned();
    let paths = ["/v1/connect/intentions".to_owned(), "/v1/kv/still".to_owned(), format!("/v1/query/{query}")];
    let archive = house.get("/v1/snapshot");
    assert_eq!((archive.status, archive.headers["content-type"].as_str()), (200, "application/x-gzip"));
    assert!(archive.index() > 150);

    house.request("PUT", "/v1/kv/kept", b"after");
    house.request("PUT", "/v1/kv/new", b"after");
    house.request("DELETE", "/v1/kv/many/?recurse", b"");
    house.put("/v1/catalog/register", json!({"Node": "later", "Address": "10.0.0.1"}));
    std::thread::scope(|scope| {
        let waiting: Vec<_> = paths
            .iter()
            .map(|path| {
                let index = house.get(path).index();
                let wait = format!("{path}?index={index}&wait=25s");
                let house = &house;
                (path, index, scope.spawn(move || house.get(&wait)))
            })
            .collect();
        let restored = house.request("PUT", "/v1/snapshot", &archive.body);
        assert_eq!((restored.status, restored.text().as_str()), (200, ""), "{}", restored.text());
        for (path, index, waiting) in waiting {
            let woken = waiting.join().unwrap();
            assert!(woken.index() > index, "{path}: {index}, then {} {} {}", woken.index(), woken.status, woken.text());
        }
    });
    assert_eq!(house.get("/v1/kv/kept?raw").text(), "before");
    assert_eq!(house.get("/v1/kv/new").status, 404);
    assert_eq!(house.get("/v1/kv/many/?keys").json().as_array().map(Vec::len), Some(150));
    assert_eq!(house.get("/v1/catalog/node/later").text().trim(), "null");
    assert_eq!(house.get("/v1/catalog/service/web").json()[0]["ServicePort"], 80);
    assert_eq!(house.get("/v1/agent/connect/ca/leaf/web").status, 200, "the CA signs as before");
}

#[test]
fn a_snapshot_that_is_damaged_or_cannot_be_used_changes_nothing() {
    let (house, other) = (house(), house());
    house.request("PUT", "/v1/kv/kept", b"before");
    let archive = house.get("/v1/snapshot").body;
    let refused = |body: &[u8], text: &str| {
        let answer = house.request("PUT", "/v1/snapshot", body);
        assert_eq!(answer.status, 500);
        assert!(answer.text().starts_with("failed to restore snapshot: "), "{}", answer.text());
        assert!(answer.text().contains(text), "{}", answer.text());
    };
    refused(b"nothing of the kind", "the archive cannot be read");
    refused(&archive[..archive.len() / 2], "the archive cannot be read");
    refused(&archive[..archive.len() - 6], "the archive cannot be read");
    let mut damaged = archive.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0x55;
    refused(&damaged, "");
    assert_eq!(house.get("/v1/kv/kept?raw").text(), "before");

    // Another agent seals its CA's key with another key, so this one's is of no use to it.
    let answer = other.request("PUT", "/v1/snapshot", &archive);
    assert_eq!(answer.status, 500);
    assert!(answer.text().contains("ca-seal.key in its data directory"), "{}", answer.text());
    assert_eq!(other.get("/v1/kv/kept").status, 404);
}

#[test]
fn operators_see_the_one_server_and_the_machine_it_runs_on() {
    let house = house();
    let get = |path: &str| house.get(path).json();
    let mut wanted = get("/v1/operator/autopilot/configuration");
    let seen = wanted["ModifyIndex"].as_u64().unwrap();
    wanted["MaxTrailingLogs"] = 500.into();
    let put = |cas: u64| house.put(&format!("/v1/operator/autopilot/configuration?cas={cas}"), wanted.clone()).json();
    assert_eq!(put(seen), json!(true));
    assert_eq!(put(seen), json!(false), "somebody changed it meanwhile");
    assert_eq!(get("/v1/operator/autopilot/configuration")["MaxTrailingLogs"], 500);

    let host = get("/v1/agent/host");
    assert_eq!((&host["Errors"], &host["Host"]["os"]), (&Value::Null, &json!("linux")));
    assert!(host["Memory"]["total"].as_u64() > Some(0) && host["Disk"]["total"].as_u64() > Some(0), "{host}");

    let delete = |query: &str| house.request("DELETE", &format!("/v1/operator/raft/peer{query}"), b"");
    assert_eq!(delete("").status, 400);
    assert_eq!(delete("?id=a&address=b").text(), "Must specify only one of ?id or ?address");
    let unknown = delete("?id=a");
    assert_eq!((unknown.status, unknown.text().as_str()), (500, "id \"a\" was not found in the Raft configuration"));
    let keyring = house.get("/v1/operator/keyring");
    assert_eq!(keyring.status, 500);
    assert!(keyring.text().contains("* node1: Keyring is empty (encryption not enabled)"), "{}", keyring.text());
}

/// What every key below `many/` holds: all the same, or the state is a mixture.
fn one_value(house: &House) -> (usize, String) {
    let entries = house.get("/v1/kv/many/?recurse").json();
    let entries = entries.as_array().cloned().unwrap_or_default();
    let values: std::collections::BTreeSet<String> =
        entries.iter().filter_map(|entry| entry["Value"].as_str().map(str::to_owned)).collect();
    assert_eq!(values.len(), 1, "a mixture: {values:?}");
    (entries.len(), values.into_iter().next().unwrap_or_default())
}

#[test]
fn a_restore_that_is_killed_anywhere_happens_wholly_or_not_at_all() {
    const KEYS: usize = 2000;
    let mut house = house();
    let fill = |house: &House, from: usize, value: &str| {
        for first in (from..from + KEYS).step_by(60) {
            let ops: Vec<Value> = (first..(first + 60).min(from + KEYS))
                .map(|number| json!({"KV": {"Verb": "set", "Key": format!("many/{number:05}"), "Value": value}}))
                .collect();
            assert_eq!(house.put("/v1/txn", json!(ops)).status, 200);
        }
    };
    // Half of the keys are in both, so that keys come, go and change.
    fill(&house, 0, "b2xk");
    let old = house.get("/v1/snapshot").body;
    house.request("DELETE", "/v1/kv/many/?recurse", b"");
    fill(&house, KEYS / 2, "bmV3");
    let new = house.get("/v1/snapshot").body;
    let wholly = [(KEYS, "b2xk".to_owned()), (KEYS, "bmV3".to_owned())];

    let started = Instant::now();
    assert_eq!(house.request("PUT", "/v1/snapshot", &old).status, 200);
    let whole_time = started.elapsed();
    assert_eq!(one_value(&house), wholly[0]);
    let mut seen = std::collections::BTreeMap::new();
    for turn in 0..10_u32 {
        let before = one_value(&house);
        let other = if before == wholly[0] { &new } else { &old };
        let kill_after = whole_time * turn / 10;
        std::thread::scope(|scope| {
            let (port, body, limit) = (house.http_port, other.clone(), Duration::from_secs(60));
            scope.spawn(move || {
                // It is cut off, or done.
                let _ = lictor_testkit::http::request(port, "PUT", "/v1/snapshot", &[], &body, limit);
            });
            std::thread::sleep(kill_after);
            house.kill_agent();
        });
        house.start_agent();
        house.wait_ready();
        let after = one_value(&house);
        assert!(wholly.contains(&after), "{after:?} after it was killed {kill_after:?} into a restore");
        *seen.entry(after != before).or_insert(0) += 1;
        assert_eq!(house.request("PUT", "/v1/kv/writable", b"x").text(), "true", "nothing is left in the way");
    }
    println!("killed in the middle: {seen:?} (whether it happened); a whole one took {whole_time:?}");
}

#[test]
fn a_page_of_ones_own_is_served_and_nothing_beside_it() {
    let house = House::build(BINARY, json!({}));
    let folder = house.folder().join("page");
    std::fs::create_dir_all(folder.join("assets")).unwrap();
    std::fs::write(folder.join("index.html"), "<title>mesh</title>").unwrap();
    std::fs::write(folder.join("assets/app.css"), "a {}").unwrap();
    std::fs::write(house.folder().join("secret"), "nobody's").unwrap();
    house.reconfigure(|config| config["ui_dir"] = json!(folder.display().to_string()));
    let mut house = house;
    house.start_agent();
    house.wait_ready();
    let kind = |path: &str| {
        let answer = house.get(path);
        assert_eq!(answer.status, 200, "{path}");
        (answer.text(), answer.headers["content-type"].clone())
    };
    let page = ("<title>mesh</title>".to_owned(), "text/html; charset=utf-8".to_owned());
    for path in ["/ui/", "/ui/index.html", "/ui/dc1/services", "/ui/no/such.css"] {
        assert_eq!(kind(path), page, "{path}");
    }
    assert_eq!(kind("/ui/assets/app.css"), ("a {}".into(), "text/css; charset=utf-8".into()));
    for (path, target) in [("/", "/ui/"), ("/ui", "/ui/"), ("/ui/../secret", "/secret")] {
        let answer = house.get(path);
        assert_eq!((answer.status, answer.headers["location"].as_str()), (301, target), "{path}");
    }
    for path in ["/ui/%2e%2e/secret", "/ui/..%2fsecret", "/ui/%2fetc/passwd", "/ui/assets/..%2f..%2fsecret"] {
        let answer = house.get(path);
        assert!(answer.status == 301 || answer.text() == page.0, "{path}: {} {}", answer.status, answer.text());
    }
    assert_eq!(house.request("PUT", "/ui/index.html", b"x").status, 405);
    assert!(house.get("/robots.txt").text().contains("Disallow: /"));
}

#[test]
fn a_key_that_is_not_there_is_as_old_as_the_table_and_wakes_only_for_itself() {
    let house = house();
    house.request("PUT", "/v1/kv/other", b"1");
    let table = house.get("/v1/kv/?recurse").index();
    for path in ["none", "none?raw", "none/?recurse", "none/?keys"] {
        let answer = house.get(&format!("/v1/kv/{path}"));
        assert_eq!((answer.status, answer.index()), (404, table), "{path}");
    }
    // Others' changes move the index that is shown, and wake nobody.
    let started = Instant::now();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| house.get(&format!("/v1/kv/none?index={table}&wait=2s")));
        for _ in 0..5 {
            house.request("PUT", "/v1/kv/other", b"2");
        }
        let answer = waiting.join().unwrap();
        assert!(started.elapsed() >= Duration::from_secs(2), "woken by another key: {:?}", started.elapsed());
        assert_eq!(answer.status, 404);
    });
    let before = table;
    let table = house.get("/v1/kv/none").index();
    assert!(table > before, "{table} is not past {before}");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| house.get(&format!("/v1/kv/none?index={table}&wait=25s")));
        house.request("PUT", "/v1/kv/none", b"here");
        let answer = waiting.join().unwrap();
        assert_eq!((answer.status, answer.index()), (200, house.get("/v1/kv/none").index()));
    });
    let before = house.get("/v1/kv/none").index();
    house.request("DELETE", "/v1/kv/none", b"");
    let gone = house.get("/v1/kv/none");
    assert!(gone.status == 404 && gone.index() > before);
}
