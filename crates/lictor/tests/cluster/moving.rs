//! An embedded store moves into etcd, and back, under a running agent.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use lictor_testkit::{Etcd, House, until};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::house::{LICTOR, NODE_TTL, write_seal_key};

fn registered(at: &House) -> usize {
    at.get("/v1/catalog/services?consistent").json().as_object().map_or(0, serde_json::Map::len)
}

fn register(at: &House, name: &str) {
    let body = json!({"Node": "elsewhere", "Address": "10.0.0.9", "Service": {"Service": name, "Port": 1}});
    let answer = at.request("PUT", "/v1/catalog/register", body.to_string().as_bytes());
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// Runs a command in the folder of a house; gives its exit code and what it printed.
fn cli(house: &House, words: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(LICTOR).args(words).current_dir(house.folder()).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn a_running_agent_moves_its_state_into_etcd_and_back_and_loses_nothing() {
    let Some(etcd) = Etcd::start(1) else { return };
    let mut house = House::build(LICTOR, json!({"node_name": "mover", "store": {"seal_key_file": "seal.key"}}));
    write_seal_key(&house);
    house.start_agent();
    house.wait_ready();
    register(&house, "before");
    let root = house.get("/v1/connect/ca/roots").json()["ActiveRootID"].clone();
    let index = house.get("/v1/catalog/services").index();
    let in_file = |config: &mut Value| config["store"] = json!({"seal_key_file": "seal.key"});
    let in_etcd = |config: &mut Value| {
        config["store"] = json!({"backend": "etcd", "endpoints": etcd.endpoints(), "prefix": "moved",
            "node_ttl": NODE_TTL, "seal_key_file": "seal.key"});
    };

    // To where it is already: refused. With another key: refused, and nothing happened.
    let moved = |house: &House| cli(house, &["store", "move", "-http-addr", &format!("127.0.0.1:{}", house.http_port)]);
    let refused = |house: &House, why: &str| {
        let (code, text) = moved(house);
        assert!(code != Some(0) && text.contains(why), "{text}");
    };
    let check = |house: &House| cli(house, &["store", "check", "agent.json"]);
    refused(&house, "already");
    house.reconfigure(in_etcd);
    house.reconfigure(|config| config["store"]["seal_key_file"] = "other.key".into());
    std::fs::write(house.folder().join("other.key"), "a5".repeat(32)).unwrap();
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(house.folder().join("other.key"), private).unwrap();
    refused(&house, "sealed with another key");

    // Writes and reads go on meanwhile; what was acknowledged is there afterwards.
    house.reconfigure(in_etcd);
    let over = AtomicBool::new(false);
    let acknowledged = thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut number = 0;
            while !over.load(Ordering::Relaxed) {
                register(&house, &format!("during{number}"));
                assert!(house.get("/v1/catalog/services").status == 200);
                number += 1;
            }
            number
        });
        until("there is something to move", || registered(&house) > 5);
        let (code, text) = moved(&house);
        assert!(code == Some(0) && text.contains("compared"), "{text}");
        until("writes go on in the new place", || {
            etcd.ctl(&["get", "--prefix", "moved/data/state/service", "--keys-only"]).contains("during")
        });
        over.store(true, Ordering::Relaxed);
        writer.join().unwrap()
    });
    // With those registered: `consul`, which the server publishes itself, and `before`.
    assert_eq!(registered(&house), acknowledged + 2);
    assert!(house.get("/v1/catalog/services").index() > index, "indexes go on growing");

    // It is the same after a restart, and another server may join.
    assert!(!house.end_agent(Signal::TERM).success() || house.log().contains("Exit code"));
    house.start_agent();
    house.wait_ready();
    assert_eq!(registered(&house), acknowledged + 2);
    assert_eq!(house.get("/v1/connect/ca/roots").json()["ActiveRootID"], root);
    let mut second = House::build(LICTOR, json!({"node_name": "second"}));
    write_seal_key(&second);
    second.reconfigure(in_etcd);
    second.start_agent();
    second.wait_ready();
    until("the second server has it all", || registered(&second) == acknowledged + 2);

    // The old file does not come to life by mistake.
    house.end_agent(Signal::TERM);
    house.reconfigure(in_file);
    house.start_agent();
    until("it says where the state is", || house.log().contains("has moved to etcd"));
    house.kill_agent();

    // Back, but not while another server uses it.
    house.reconfigure(in_etcd);
    house.start_agent();
    house.wait_ready();
    until("both are alive", || house.get("/v1/status/peers").json().as_array().is_some_and(|peers| peers.len() == 2));
    house.reconfigure(in_file);
    refused(&house, "other servers use this store (second)");
    second.end_agent(Signal::TERM);
    until("one is alive", || house.get("/v1/status/peers").json().as_array().is_some_and(|peers| peers.len() == 1));
    let index = house.get("/v1/catalog/services").index();
    let (code, text) = moved(&house);
    assert_eq!(code, Some(0), "{text}");
    register(&house, "back");
    assert!(house.get("/v1/catalog/services").index() > index, "indexes go on growing on the way back");
    house.end_agent(Signal::TERM);
    assert!(check(&house).1.contains("The store is sound"), "{}", check(&house).1);
    house.start_agent();
    house.wait_ready();
    assert_eq!(registered(&house), acknowledged + 3);
    assert_eq!(house.get("/v1/connect/ca/roots").json()["ActiveRootID"], root);

    // And there once more, over what is left of the first time.
    let index = house.get("/v1/catalog/services").index();
    house.reconfigure(in_etcd);
    let (code, text) = moved(&house);
    assert_eq!(code, Some(0), "{text}");
    register(&house, "again");
    assert_eq!(registered(&house), acknowledged + 4);
    assert!(house.get("/v1/catalog/services").index() > index, "indexes go on growing");

    // The store in etcd is looked through while it is in use. What is broken in it is found and named.
    let (code, text) = check(&house);
    assert!(code == Some(0) && text.contains("The store is sound"), "{text}");
    etcd.ctl(&["put", "moved/data/state/query/broken", "this is no record"]);
    etcd.ctl(&["put", "moved/data/state/query-of/nobody", r#"{"of":"nothing"}"#]);
    let (code, text) = check(&house);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.matches("WRONG").count() >= 2 && text.contains("broken") && text.contains("nobody"), "{text}");
    assert!(!text.contains("this is no record"), "values are not shown: {text}");
    etcd.ctl(&["del", "moved/data/state/query/broken"]);
    etcd.ctl(&["del", "moved/data/state/query-of/nobody"]);
    assert_eq!(check(&house).0, Some(0));
    // A move that was broken off in the middle leaves a mark, and nobody takes it for a store.
    house.end_agent(Signal::TERM);
    etcd.ctl(&["put", "moved/data/filling", ""]);
    house.start_agent();
    until("it says that the store is not whole", || house.log().contains("is under way or has failed"));
}
