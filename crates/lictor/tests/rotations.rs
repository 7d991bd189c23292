//! A new root of the mesh under load: no connection fails, whoever holds its ends.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up shall fail")]

mod common;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::{LICTOR, Load, echo, echo_once, root_key, rotate, wait_path};
use lictor_testkit::program::find;
use lictor_testkit::wait::within;
use lictor_testkit::{House, Program, ports, until};
use serde_json::json;

/// Rotates the roots under load, three times waiting for the leaf of the new root and three times without a pause, so that
/// nobody has renewed anything.
fn rotate_under_load(reuse: &str, waiting: usize) {
    let Some(keys) = (0..waiting + 3).map(|_| root_key()).collect::<Option<Vec<String>>>() else { return };
    let entry = ports::one();
    let proxy = json!({"config": {"reuse": reuse}});
    let mut web = proxy.clone();
    web["upstreams"] = json!([{"destination_name": "db", "local_bind_port": entry}]);
    let house = House::start(
        LICTOR,
        json!({"services": [
            {"name": "db", "port": echo().port(), "connect": {"proxy": proxy}},
            {"name": "web", "port": 8080, "connect": {"proxy": web}},
        ]}),
    );
    wait_path(&house, entry);
    let signer = || house.get("/v1/agent/connect/ca/leaf/web").json()["CertPEM"].as_str().unwrap().to_owned();
    let load = Load::start(entry, 2, 2);
    load.wait_for(200);
    for key in &keys[..waiting] {
        let before = signer();
        rotate(&house, key);
        load.wait_for(200);
        // Renewals of a mesh are spread over half a minute.
        within(Duration::from_secs(90), "the leaf is signed by the new root", || (signer() != before).then_some(()));
        load.wait_for(200);
    }
    for key in &keys[waiting..] {
        rotate(&house, key);
    }
    load.wait_for(500);
    let (sent, failures) = load.stop();
    assert!(failures.is_empty(), "{} of {sent} requests failed: {:?}", failures.len(), &failures[0]);
    let roots = house.get("/v1/connect/ca/roots").json()["Roots"].clone();
    assert_eq!(roots.as_array().map(Vec::len), Some(keys.len() + 1), "{roots}");
}

#[test]
fn the_first_second_and_third_rotation_of_roots_fail_no_connection() {
    rotate_under_load("none", 3);
}

#[test]
fn rotations_fail_no_connection_on_sessions_that_are_reused() {
    rotate_under_load("connections", 0);
}

/// Both ends of each path are another kind of program: managed proxies of lictor's own and custom ones, a native service
/// and a native client. Custom and native programs are Python with OpenSSL, which has only the API and the wire.
#[test]
fn three_rotations_fail_no_connection_of_custom_proxies_and_native_services() {
    let Some(python) = find("python3") else { return };
    let Some(keys) = (0..3).map(|_| root_key()).collect::<Option<Vec<String>>>() else { return };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/peer.py");
    let custom = json!([python, script, "proxy"]);
    let [to_custom, to_native, from_custom, custom_to_custom, native_to_own, native_to_native, native] =
        [(); 7].map(|()| ports::one());
    let upstreams = |of: &[(&str, u16)]| -> serde_json::Value {
        of.iter().map(|(name, port)| json!({"destination_name": name, "local_bind_port": port})).collect()
    };
    let house = House::start(
        LICTOR,
        json!({"services": [
            {"name": "own", "port": echo().port(), "connect": {"proxy": {}}},
            {"name": "custom", "port": echo().port(), "connect": {"proxy": {"command": custom}}},
            {"name": "native", "port": native, "address": "127.0.0.1", "connect": {"native": true}},
            {"name": "web", "port": 8080, "connect": {"proxy": {
                "upstreams": upstreams(&[("custom", to_custom), ("native", to_native)])}}},
            {"name": "shop", "port": 8081, "connect": {"proxy": {"command": custom,
                "upstreams": upstreams(&[("own", from_custom), ("custom", custom_to_custom)])}}},
        ]}),
    );
    let peer = |words: &[&str]| {
        let mut command = Command::new(&python);
        command.arg(&script).args(words).env("CONSUL_HTTP_ADDR", format!("127.0.0.1:{}", house.http_port));
        Program::start(&mut command)
    };
    let _peers = [
        peer(&["native", "native", &native.to_string()]),
        peer(&["dial", "till", "own", &native_to_own.to_string()]),
        peer(&["dial", "till", "native", &native_to_native.to_string()]),
    ];
    let paths = [
        ("lictor's proxy to a custom one", to_custom),
        ("lictor's proxy to a native service", to_native),
        ("a custom proxy to lictor's", from_custom),
        ("a custom proxy to a custom one", custom_to_custom),
        ("a native client to lictor's proxy", native_to_own),
        ("a native client to a native service", native_to_native),
    ];
    for (what, entry) in paths {
        until(&format!("bytes come back from {what}"), || echo_once(entry).is_ok());
    }
    let leaves = || {
        ["own", "custom", "native", "web", "shop", "till"].map(|name| {
            house.get(&format!("/v1/agent/connect/ca/leaf/{name}")).json()["CertPEM"].as_str().unwrap().to_owned()
        })
    };
    let loads: Vec<(&str, Load)> = paths.into_iter().map(|(what, entry)| (what, Load::start(entry, 1, 1))).collect();
    let wait_for = |more| loads.iter().for_each(|(_, load)| load.wait_for(more));
    // Once until everybody has the leaf of the new root, and then twice without waiting for anybody.
    for round in [&keys[..1], &keys[1..]] {
        wait_for(50);
        let before = leaves();
        for key in round {
            rotate(&house, key);
            wait_for(50);
        }
        within(Duration::from_secs(120), "all leaves are signed by the new root", || {
            leaves().iter().zip(&before).all(|(now, before)| now != before).then_some(())
        });
    }
    wait_for(100);
    for (what, load) in loads {
        let (sent, failures) = load.stop();
        assert!(failures.is_empty(), "{what}: {} of {sent} failed: {:?}\n{}", failures.len(), failures[0], house.log());
    }
    let roots = house.get("/v1/connect/ca/roots").json()["Roots"].clone();
    assert_eq!(roots.as_array().map(Vec::len), Some(keys.len() + 1), "{roots}");
}
