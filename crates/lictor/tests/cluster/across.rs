//! What is done at one server is seen at another: by its readers, its watches and its proxies.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use lictor_testkit::{House, program, until};
use serde_json::{Value, json};

use crate::common::{Load, echo, echo_once, root_key, rotate, two_services, wait_path};
use crate::house::Cluster;

/// Fires an event and gives its id.
fn fire(at: &House, query: &str) -> String {
    at.request("PUT", &format!("/v1/event/fire/{query}"), b"payload").json()["ID"].as_str().unwrap().to_owned()
}

/// The events that a server shows, as ids and times.
fn seen(at: &House) -> Vec<(String, u64)> {
    let events = at.get("/v1/event/list").json();
    let row = |event: &Value| (event["ID"].as_str().unwrap().to_owned(), event["LTime"].as_u64().unwrap());
    events.as_array().unwrap().iter().map(row).collect()
}

#[test]
fn an_event_fired_at_one_server_is_seen_by_readers_and_watches_of_all() {
    let folder = tempfile::tempdir().unwrap();
    let heard = folder.path().join("heard");
    let script = format!("cat >>{}", heard.display());
    let watch = json!([{"type": "event", "name": "deploy", "args": ["/bin/sh", "-c", script]}]);
    let make = |number| if number == 1 { json!({"watches": watch.clone()}) } else { json!({}) };
    let Some(cluster) = Cluster::start(1, 2, make) else { return };
    let [one, two] = &cluster.servers[..] else { panic!("two were started") };
    let read = || fs::read_to_string(&heard).unwrap_or_default();
    until("the watch is there", || read().contains("[]"));

    let index = two.get("/v1/event/list?name=deploy").index();
    let (first, woken) = thread::scope(|scope| {
        let waiting = scope.spawn(|| two.get(&format!("/v1/event/list?name=deploy&wait=60s&index={index}")).json());
        (fire(one, "deploy"), waiting.join().unwrap())
    });
    assert_eq!((&woken[0]["ID"], &woken[0]["Payload"]), (&json!(first), &json!("cGF5bG9hZA==")));
    until("the watch has heard it", || read().contains(&first));
    // Who fired it has seen it by the time of the answer, and so have others soon.
    let own = fire(two, "deploy?node=server1");
    assert!(seen(two).iter().any(|(id, _)| *id == own));
    let last = fire(two, "restart");
    until("the first server has seen the last event", || seen(one).iter().any(|(id, _)| *id == last));
    // In the same order with the same times at all, and only by those it is for.
    let (at_one, at_two) = (seen(one), seen(two));
    assert_eq!(at_two.iter().map(|(id, _)| id).collect::<Vec<_>>(), [&first, &own, &last]);
    assert_eq!(at_one, [at_two[0].clone(), at_two[2].clone()]);
    assert!(at_two.windows(2).all(|pair| pair[0].1 < pair[1].1), "{at_two:?}");
}

#[test]
fn what_is_decided_at_one_server_reaches_the_proxies_of_another() {
    let Some(key) = root_key() else { return };
    let app = echo();
    let (services, entry) = two_services(app.port());
    let services = services["services"].clone();
    let make = |number| match number {
        0 => json!({"session_ttl_min": "1s"}),
        _ => json!({"services": services.clone(), "session_ttl_min": "1s"}),
    };
    let Some(cluster) = Cluster::start(1, 2, make) else { return };
    let [one, two] = &cluster.servers[..] else { panic!("two were started") };
    wait_path(two, entry);

    // Intentions.
    let id = one.intend("web", "db", "deny");
    until("the proxies refuse", || echo_once(entry).is_err());
    assert_eq!(one.request("DELETE", &format!("/v1/connect/intentions/{id}"), b"").status, 200);
    until("the proxies let pass", || echo_once(entry).is_ok());

    // Roots: nothing is lost on the way, and in the end the proxies show certificates of the new one.
    let load = Load::start(entry, 2, 2);
    load.wait_for(50);
    rotate(one, &key);
    let roots = one.get("/v1/connect/ca/roots").json();
    let active = &roots["ActiveRootID"];
    let root = roots["Roots"].as_array().unwrap().iter().find(|root| root["ID"] == *active).unwrap();
    let root = root["RootCert"].as_str().unwrap();
    until("the other server has the new root", || two.get("/v1/connect/ca/roots").json()["ActiveRootID"] == *active);
    let proxies = two.get("/v1/health/connect/db").json();
    let port = proxies[0]["Service"]["Port"].as_u64().unwrap();
    let folder = tempfile::tempdir().unwrap();
    until("the proxy shows a certificate of the new root", || is_of_root(port, root, folder.path()));
    load.wait_for(200);
    let (sent, failures) = load.stop();
    assert!(failures.is_empty(), "{} of {sent} failed: {failures:?}", failures.len());

    // A session that nobody renews ends, and what it held is free, at all.
    let session = one.put("/v1/session/create", json!({"TTL": "1s", "LockDelay": "0s"})).json()["ID"].clone();
    let session = session.as_str().unwrap();
    assert_eq!(one.request("PUT", &format!("/v1/kv/lock?acquire={session}"), b"").text().trim(), "true");
    let holder = |at: &House| at.get("/v1/kv/lock?consistent").json()[0]["Session"].clone();
    until("the lock is free", || holder(two).is_null());
    assert!(holder(one).is_null());
    assert_eq!(two.get(&format!("/v1/session/info/{session}?consistent")).json(), json!([]));
}

/// Whether the certificate that a proxy shows to whoever comes was signed by this root.
fn is_of_root(port: u64, root: &str, folder: &Path) -> bool {
    let Some(openssl) = program::find("openssl") else { return true };
    let shown = Command::new(&openssl)
        .args(["s_client", "-connect", &format!("127.0.0.1:{port}")])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let (begin, end) = ("-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----");
    let (Some(from), Some(to)) = (shown.find(begin), shown.find(end)) else { return false };
    let (leaf, authority) = (folder.join("leaf.pem"), folder.join("root.pem"));
    fs::write(&leaf, &shown[from..to + end.len()]).unwrap();
    fs::write(&authority, root).unwrap();
    Command::new(&openssl).args(["verify", "-CAfile"]).arg(authority).arg(leaf).output().unwrap().status.success()
}
