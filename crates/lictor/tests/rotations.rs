//! A new root of the mesh under load: no connection fails, whoever holds its ends.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up shall fail")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use common::{LICTOR, Load, echo, echo_once, root_key, rotate, two_services, wait_path};
use lictor_testkit::http;
use lictor_testkit::program::find;
use lictor_testkit::wait::within;
use lictor_testkit::{House, Program, ports, until};
use serde_json::{Value, json};

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

/// As docs/operations.md tells it.
#[test]
fn a_snapshot_that_is_restored_on_a_new_machine_brings_its_mesh_back_at_once() {
    let (config, entry) = two_services(echo().port());
    let mut old = House::start(LICTOR, config.clone());
    wait_path(&old, entry);
    let root = |house: &House| house.get("/v1/connect/ca/roots").json()["ActiveRootID"].clone();
    let node = |house: &House| house.get("/v1/catalog/nodes").json()[0]["ID"].clone();
    let (its_root, its_node) = (root(&old), node(&old));
    let snapshot = old.get("/v1/snapshot").body;
    let keep = ["ca-seal.key", "node-id"].map(|name| (name, fs::read(old.data_dir().join(name)).unwrap()));
    old.kill_agent();
    drop(old);

    let mut new = House::build(LICTOR, config);
    fs::create_dir_all(new.data_dir()).unwrap();
    for (name, content) in keep {
        fs::write(new.data_dir().join(name), content).unwrap();
        fs::set_permissions(new.data_dir().join(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    new.start_agent();
    new.wait_ready();
    wait_path(&new, entry);
    assert_ne!(root(&new), its_root, "a new agent has roots of its own");
    assert_eq!(new.request("PUT", "/v1/snapshot", &snapshot).status, 200);
    let restored = Instant::now();
    assert_eq!((root(&new), node(&new)), (its_root, its_node));
    until("bytes come through both proxies again", || echo_once(entry).is_ok());
    // Where roots go on being trusted, renewals are spread over half a minute. Here nobody trusts what there was.
    assert!(restored.elapsed() < Duration::from_secs(10), "{:?}", restored.elapsed());
    until("each connection comes through", || (0..20).all(|_| echo_once(entry).is_ok()));
    assert!(!new.log().contains("failed to sync node info"), "{}", new.log());
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

/// What a peer wrote when the agent answered it.
struct Learnt {
    came: String,
    asked: u64,
    trusted: Vec<String>,
    leaf: String,
}

/// All that a peer has written until now.
fn learnt(reports: &Path, service: &str) -> Vec<Learnt> {
    let text = std::fs::read_to_string(reports.join(service)).unwrap_or_default();
    // The last line may be half written.
    let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    whole
        .map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            let trusted = line["trusted"].as_array().unwrap();
            Learnt {
                came: line["came"].as_str().unwrap().to_owned(),
                asked: line["asked"].as_u64().unwrap(),
                trusted: trusted.iter().map(|root| root.as_str().unwrap().to_owned()).collect(),
                leaf: line["leaf"].as_str().unwrap().to_owned(),
            }
        })
        .collect()
}

/// The base64 of a PEM block, which is how peers write roots.
fn body(pem: &str) -> String {
    pem.lines().filter(|line| !line.starts_with("-----")).collect()
}

/// The root that signs now.
fn active_root(house: &House) -> String {
    let roots = house.get("/v1/connect/ca/roots").json();
    let all = roots["Roots"].as_array().unwrap();
    all.iter().find(|root| root["Active"] == true).unwrap()["RootCert"].as_str().unwrap().to_owned()
}

/// Whether this root alone vouches for a certificate, without anything in between.
fn vouches(root: &str, certificate: &str) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let end = "-----END CERTIFICATE-----\n";
    let alone = &certificate[..certificate.find(end).unwrap() + end.len()];
    let [root_file, leaf_file] = [("root.pem", root), ("leaf.pem", alone)].map(|(name, text)| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    });
    let mut openssl = Command::new(find("openssl").unwrap());
    openssl.args(["verify", "-no-CApath", "-CAfile"]).arg(root_file).arg(leaf_file);
    openssl.output().unwrap().status.success()
}

/// Three rotations, after each of which everybody has the new root beside the old ones, and has it by a blocking query. Peers that show their certificate alone, without what old roots have
/// signed, prove it: whoever has not learnt the root refuses them.
#[test]
fn everybody_learns_each_new_root_by_a_blocking_query_and_trusts_it_beside_the_old_ones() {
    let Some(python) = find("python3") else { return };
    let Some(keys) = (0..3).map(|_| root_key()).collect::<Option<Vec<String>>>() else { return };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/peer.py");
    let folder = tempfile::tempdir().unwrap();
    let reports = folder.path();
    let report = format!("--report={}", reports.display());
    let custom = json!([python, script, "proxy", report]);
    let [native, bare, deaf] = [(); 3].map(|()| ports::one());
    let [own_to_bare, custom_to_bare, native_to_bare] = [(); 3].map(|()| ports::one());
    let [bare_to_own, bare_to_custom, bare_to_native, bare_to_deaf, chain_to_deaf] = [(); 5].map(|()| ports::one());
    let to_bare = |port: u16| json!([{"destination_name": "bare", "local_bind_port": port}]);
    let on_host =
        |name, port: u16| json!({"name": name, "port": port, "address": "127.0.0.1", "connect": {"native": true}});
    let house = House::start(
        LICTOR,
        json!({"services": [
            {"name": "own", "port": echo().port(), "connect": {"proxy": {"upstreams": to_bare(own_to_bare)}}},
            {"name": "custom", "port": echo().port(),
                "connect": {"proxy": {"command": custom, "upstreams": to_bare(custom_to_bare)}}},
            on_host("native", native), on_host("bare", bare), on_host("deaf", deaf),
        ]}),
    );
    let peer = |words: &[&str]| {
        let mut command = Command::new(&python);
        command.arg(&script).args(words).arg(&report);
        Program::start(command.env("CONSUL_HTTP_ADDR", format!("127.0.0.1:{}", house.http_port)))
    };
    let text = |port: u16| port.to_string();
    let _peers = [
        peer(&["native", "native", &text(native)]),
        peer(&["native", "bare", &text(bare), "--bare"]),
        peer(&["native", "deaf", &text(deaf), "--once"]),
        peer(&["dial", "till", "bare", &text(native_to_bare), "deaf", &text(chain_to_deaf)]),
        peer(&[
            "dial",
            "lone",
            "own",
            &text(bare_to_own),
            "custom",
            &text(bare_to_custom),
            "native",
            &text(bare_to_native),
            "deaf",
            &text(bare_to_deaf),
            "--bare",
        ]),
    ];
    let paths = [
        ("lictor's proxy to a bare service", own_to_bare),
        ("a custom proxy to a bare service", custom_to_bare),
        ("a native client to a bare service", native_to_bare),
        ("a bare client to lictor's proxy", bare_to_own),
        ("a bare client to a custom proxy", bare_to_custom),
        ("a bare client to a native service", bare_to_native),
    ];
    let works = |when: &str| {
        for (what, entry) in paths {
            until(&format!("bytes come back from {what} {when}"), || echo_once(entry).is_ok());
        }
    };
    works("before any rotation");
    until("the deaf service hears bare clients of the root that it knows", || echo_once(bare_to_deaf).is_ok());

    let learners = ["custom", "native", "bare", "till", "lone"];
    let mut roots = vec![active_root(&house)];
    for (round, key) in keys.iter().enumerate() {
        // Hangs from before the rotation.
        let path = "/v1/agent/connect/ca/leaf/own";
        let before = house.get(path).index();
        let hang = || {
            let (path, limit) = (format!("{path}?index={before}&wait=300s"), Duration::from_secs(400));
            lictor_testkit::http::request(house.http_port, "GET", &path, &[], b"", limit).unwrap()
        };
        std::thread::scope(|scope| {
            let hanging = scope.spawn(hang);
            rotate(&house, key);
            let new = active_root(&house);
            for service in learners {
                within(Duration::from_secs(60), &format!("{service} trusts root {}", round + 2), || {
                    let lines = learnt(reports, service);
                    let by_query = lines.iter().find(|line| line.trusted.contains(&body(&new)))?;
                    assert_eq!(by_query.came, "roots", "{service}");
                    assert!(by_query.asked > 0, "{service} did not wait for it");
                    let old = roots.iter().all(|root| by_query.trusted.contains(&body(root)));
                    assert!(old, "{service} forgot an older root when it learnt root {}", round + 2);
                    Some(())
                });
            }
            let woken = hanging.join().unwrap();
            assert!(woken.index() > before);
            let leaf = woken.json()["CertPEM"].as_str().unwrap().to_owned();
            assert!(vouches(&new, &leaf), "a hanging query woke with a leaf that is not of root {}", round + 2);
            roots.push(new);
        });
        let new = roots.last().unwrap();
        for service in learners {
            // Renewals of a mesh are spread over half a minute.
            within(Duration::from_secs(120), &format!("{service} shows a leaf of root {}", round + 2), || {
                learnt(reports, service).last().filter(|line| vouches(new, &line.leaf)).map(drop)
            });
        }
        works(&format!("after rotation {}", round + 1));
        if round == 0 {
            // Who never learns shows that the paths above prove something; what the old root has signed still convinces it.
            assert!(echo_once(bare_to_deaf).is_err(), "who does not know a root must not accept its leaf");
            until("the whole chain convinces who knows only the old root", || echo_once(chain_to_deaf).is_ok());
        }
    }
}

/// 12.4. Leaves are renewed within the time that the rate allows, and nobody is turned away who waits as proxies do.
#[test]
fn two_hundred_leaves_are_renewed_at_five_a_second_without_a_failure() {
    const LEAVES: usize = 200;
    let Some(key) = root_key() else { return };
    let house = House::start(LICTOR, json!({}));
    until("there are roots", || house.get("/v1/connect/ca/roots").status == 200);
    let limited = |more: Value| {
        let mut config = json!({"CSRMaxPerSecond": 5});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        house.put("/v1/connect/ca/configuration", json!({"Provider": "consul", "Config": config}));
    };
    house.put("/v1/connect/ca/configuration", json!({"Provider": "consul", "Config": {"CSRMaxPerSecond": 0}}));
    let path = |number: usize| format!("/v1/agent/connect/ca/leaf/service-{number}");
    let port = house.http_port;
    let get = move |path: &str| http::request(port, "GET", path, &[], b"", Duration::from_secs(150)).unwrap();
    let waiting: Vec<_> = (0..LEAVES)
        .map(|number| {
            let first = get(&path(number));
            assert_eq!(first.status, 200, "{}", first.text());
            let (path, mut seen) = (path(number), first.index());
            thread::spawn(move || {
                let mut refused = 0;
                loop {
                    let answer = get(&format!("{path}?index={seen}&wait=120s"));
                    match answer.status {
                        200 if answer.json()["CertPEM"].as_str().unwrap().matches("BEGIN").count() == 2 => {
                            break refused;
                        }
                        200 => seen = answer.index(),
                        429 => refused += 1,
                        status => panic!("{status}: {}", answer.text()),
                    }
                }
            })
        })
        .collect();
    limited(json!({"PrivateKey": key}));
    let rotated = std::time::Instant::now();
    let refused: usize = waiting.into_iter().map(|thread| thread.join().unwrap()).sum();
    let took = rotated.elapsed();
    assert!(refused <= 10, "{refused} times refused");
    assert!((Duration::from_secs(39)..Duration::from_secs(100)).contains(&took), "{LEAVES} leaves took {took:?}");
}
