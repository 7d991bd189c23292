//! Several agents on real processes: servers over one etcd, and client agents of servers. They behave as one, whatever is
//! killed, paused or lost.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up shall fail")]
#![allow(clippy::print_stderr, reason = "what was skipped and what was measured must be seen")]

mod across;
mod agents_port;
mod client_agents;
#[path = "../common/mod.rs"]
mod common;
mod distances;
mod faults;
mod figures;
mod house;
mod ledger;
mod linear;
mod moving;
mod partition;
mod register;

use std::thread;
use std::time::{Duration, Instant};

use common::{Checked, Load, echo, two_services, wait_path};
use house::{Cluster, LICTOR, healthy, insist, server, write_seal_key};
use lictor_testkit::{Etcd, House, eventually, until};
use rustix::process::Signal;
use serde_json::json;

#[test]
fn three_servers_over_one_etcd_behave_as_one() {
    let Some(mut cluster) = Cluster::start(1, 3, |_| json!({})) else { return };
    let [one, two, three] = &cluster.servers[..] else { panic!("three were started") };

    // One CA, though three servers found it at the same time.
    let roots = |at: &House| at.get("/v1/connect/ca/roots").json()["Roots"].clone();
    assert!(roots(one).as_array().is_some_and(|roots| roots.len() == 1));
    assert!(roots(one)[0]["RootCert"] == roots(two)[0]["RootCert"] && roots(two) == roots(three));

    // Written through one: consistent at once at the second, by default soon at the third, which is woken by it.
    let index = three.get("/v1/health/service/web").index();
    let woken = thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let started = Instant::now();
            let answer = three.get(&format!("/v1/health/service/web?wait=60s&index={index}")).json();
            (answer[0]["Node"]["Node"].clone(), started.elapsed())
        });
        one.put("/v1/agent/service/register", json!({"Name": "web", "Port": 80}));
        let at_once = two.get("/v1/health/service/web?consistent").json();
        assert_eq!(at_once[0]["Node"]["Node"], "server0");
        waiting.join().unwrap()
    });
    assert_eq!(woken.0, "server0");
    assert!(woken.1 < Duration::from_secs(30), "it was not woken but waited: {:?}", woken.1);

    // Indexes are the same everywhere, so a client may go from one server to another.
    let indexes: Vec<u64> = cluster.servers.iter().map(|at| at.get("/v1/health/service/web").index()).collect();
    assert!(indexes.windows(2).all(|pair| pair[0] == pair[1]), "{indexes:?}");

    // Intentions are one, and so are their decisions.
    one.intend("web", "db", "deny");
    let check = "/v1/connect/intentions/check?source=web&destination=db";
    assert_eq!(two.get(&format!("{check}&consistent")).json()["Allowed"], false);
    until("the third server knows the intention", || three.get(check).json()["Allowed"] == false);

    // Each of them knows the health of all.
    let health = two.get("/v1/operator/autopilot/health").json();
    let names: Vec<_> = health["Servers"].as_array().unwrap().iter().map(|server| server["Name"].clone()).collect();
    assert_eq!(names, ["server0", "server1", "server2"]);
    assert_eq!((&health["Healthy"], &health["FailureTolerance"]), (&json!(true), &json!(2)));
    let leaders = health["Servers"].as_array().unwrap().iter().filter(|server| server["Leader"] == true).count();
    assert_eq!(leaders, 1);

    // Each names all members, as they name themselves.
    let members = |at: &House, which: &str| {
        let mut members = at.get(&format!("/v1/agent/members{which}")).json().as_array().unwrap().clone();
        members.sort_by_key(|member| member["Name"].as_str().unwrap_or_default().to_owned());
        members
    };
    let listed = members(one, "");
    let names: Vec<_> = listed.iter().map(|member| member["Name"].clone()).collect();
    assert_eq!(names, ["server0", "server1", "server2"]);
    assert!(members(two, "") == listed && members(three, "") == listed, "{listed:?} {:?}", members(two, ""));
    assert!(listed.iter().all(|member| member["Status"] == 1 && member["Tags"]["role"] == "consul"), "{listed:?}");
    assert_eq!(members(two, "?wan=1")[0]["Name"], "server0.dc1");
    for server in &cluster.servers {
        let own = server.get("/v1/agent/self").json()["Member"].clone();
        assert!(listed.contains(&own), "{own} is not among {listed:?}");
    }

    // A lock taken through one is held against all, and free when its session ends anywhere.
    let session = |at: &House| at.put("/v1/session/create", json!({"LockDelay": "0s"})).json()["ID"].clone();
    let (mine, theirs) = (session(one), session(two));
    let acquire = |at: &House, session: &serde_json::Value| {
        let path = format!("/v1/kv/lock?acquire={}", session.as_str().unwrap());
        at.request("PUT", &path, b"held").text().trim().to_owned()
    };
    assert_eq!(acquire(two, &mine), "true");
    assert_eq!(acquire(three, &theirs), "false");
    assert_eq!(one.get("/v1/kv/lock?consistent").json()[0]["Session"], mine);
    three.put(&format!("/v1/session/destroy/{}", mine.as_str().unwrap()), json!(null));
    assert_eq!(acquire(one, &theirs), "true");

    // DNS too.
    if let Some(dig) = lictor_testkit::program::find("dig") {
        let ask = |at: &House| {
            let output = std::process::Command::new(&dig)
                .args(["@127.0.0.1", "-p", &at.dns_port.to_string(), "web.service.consul", "+short"])
                .output()
                .unwrap();
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        assert_eq!(ask(two).trim(), "127.0.0.1");
        assert_eq!(ask(three), ask(two));
    }

    // One of them does what one must do. When it is gone another takes over.
    let leader = cluster.leader();
    cluster.servers[leader].kill_agent();
    let others: Vec<usize> = (0..3).filter(|number| *number != leader).collect();
    until("another server leads", || {
        let named = |at: usize| cluster.servers[at].get("/v1/status/leader").json();
        let port = |at: usize| format!(":{}", cluster.servers[at].http_port + 2);
        named(others[0]) == named(others[1])
            && others.iter().any(|at| named(others[0]).as_str().is_some_and(|address| address.ends_with(&port(*at))))
    });
}

#[test]
fn a_node_that_is_silent_turns_critical_everywhere_and_is_as_before_when_it_is_back() {
    let Some(mut cluster) = Cluster::start(1, 3, |_| json!({})) else { return };
    let (lost, watching) = match cluster.leader() {
        0 => (1, [0, 2]),
        1 => (0, [1, 2]),
        _ => (0, [1, 2]),
    };
    let name = format!("server{lost}");
    for (number, server) in cluster.servers.iter().enumerate() {
        server.put("/v1/agent/service/register", json!({"Name": "web", "ID": format!("web{number}"), "Port": 80}));
    }
    for server in &cluster.servers {
        until("all instances are there", || healthy(server, "web").len() == 3);
    }
    for returns in ["it is resumed", "it is started again"] {
        if returns == "it is resumed" {
            cluster.servers[lost].signal_agent(rustix::process::Signal::STOP);
        } else {
            cluster.servers[lost].kill_agent();
        }
        for at in watching {
            let server = &cluster.servers[at];
            until("the silent node is left out", || !healthy(server, "web").contains(&name));
            assert_eq!(healthy(server, "web").len(), 2);
            let checks = server.get(&format!("/v1/health/node/{name}")).json();
            let serf = checks.as_array().unwrap().iter().find(|check| check["CheckID"] == "serfHealth").unwrap();
            assert_eq!(
                (&serf["Status"], &serf["Output"]),
                (&json!("critical"), &json!("Agent not live or unreachable"))
            );
            // It is a member that failed, and no other is.
            let members = server.get("/v1/agent/members").json();
            let failed: Vec<_> = members
                .as_array()
                .unwrap()
                .iter()
                .filter(|member| member["Status"] == 4)
                .map(|it| &it["Name"])
                .collect();
            assert_eq!((failed, members.as_array().unwrap().len()), (vec![&json!(name)], 3), "{members}");
            assert_eq!(server.get("/v1/agent/self").json()["Stats"]["serf_lan"]["failed"], "1");
        }
        if returns == "it is resumed" {
            cluster.servers[lost].signal_agent(rustix::process::Signal::CONT);
        } else {
            cluster.servers[lost].start_agent();
            cluster.servers[lost].wait_ready();
        }
        for server in &cluster.servers {
            until(returns, || healthy(server, "web").len() == 3);
            until("all are members again", || {
                let members = server.get("/v1/agent/members").json();
                members.as_array().unwrap().iter().all(|member| member["Status"] == 1)
            });
        }
    }
    // It found another one leading, and says so.
    let leader = format!("New leader elected: server{}", cluster.leader());
    assert!(cluster.servers[lost].log().contains(&leader), "{leader}");
}

#[test]
fn the_mesh_goes_on_while_etcd_or_a_server_is_away() {
    let app = echo();
    let (services, entry) = two_services(app.port());
    let services = services["services"].clone();
    let make = |number| if number == 0 { json!({"services": services.clone()}) } else { json!({}) };
    let Some(mut cluster) = Cluster::start(3, 2, make) else { return };
    wait_path(&cluster.servers[0], entry);
    let load = Load::start(entry, 2, 2);
    load.wait_for(50);
    let id = cluster.servers[0].intend("stranger", "db", "deny");
    let authorize = |house: &House| {
        let uri = "spiffe://any.consul/ns/default/dc/dc1/svc/stranger";
        let question = json!({"Target": "db", "ClientCertURI": uri, "ClientCertSerial": "04"}).to_string();
        house.request("POST", "/v1/agent/connect/authorize", question.as_bytes())
    };
    until("the other server knows the intention", || authorize(&cluster.servers[1]).text().contains(&id));
    for number in 0..3 {
        cluster.etcd.kill(number);
    }
    load.wait_for(400);
    // Whoever asks about each connection is told what is known, as from a cache.
    let decision = authorize(&cluster.servers[1]);
    assert!(decision.status == 200 && decision.text().contains(&id), "{}", decision.text());
    assert_eq!((&decision.json()["Authorized"], decision.headers["x-cache"].as_str()), (&json!(false), "HIT"));
    // Reads are answered from what is known; a write says what is missing, in one line of the log.
    assert_eq!(cluster.servers[1].get("/v1/catalog/service/db").status, 200);
    until("the log says what is missing", || cluster.servers[1].log().contains("no etcd answers at"));
    for number in 0..3 {
        cluster.etcd.start_member(number);
    }
    insist(&cluster.servers[1], "GET", "/v1/catalog/nodes?consistent", b"");
    load.wait_for(100);
    // The agent of these proxies dies and comes back.
    cluster.servers[0].kill_agent();
    load.wait_for(400);
    cluster.servers[0].start_agent();
    cluster.servers[0].wait_ready();
    load.wait_for(100);
    for number in 0..3 {
        cluster.etcd.pause(number);
        load.wait_for(100);
        cluster.etcd.resume(number);
        insist(&cluster.servers[1], "GET", "/v1/catalog/nodes?consistent", b"");
    }
    let (sent, failures) = load.stop();
    assert!(failures.is_empty(), "{} of {sent} failed: {failures:?}", failures.len());
}

#[test]
fn killing_the_only_server_leaves_checks_as_they_were_until_they_have_run() {
    let Some(etcd) = Etcd::start(1) else { return };
    let mut checked = Checked::start(|mut config| {
        config.as_object_mut().unwrap().extend(server(&etcd, 0).as_object().unwrap().clone());
        let house = House::build(LICTOR, config);
        write_seal_key(&house);
        house
    });
    checked.outlives_its_agent();
}

#[test]
fn a_server_waits_for_etcd_and_says_what_it_lacks() {
    let Some(mut etcd) = Etcd::start(1) else { return };
    let mut house = House::build(LICTOR, server(&etcd, 0));
    // No sealing key: it does not start, and tells how to give it one.
    house.reconfigure(|config| drop(config["store"].as_object_mut().unwrap().remove("seal_key_file")));
    house.start_agent();
    until("it says that the sealing key is missing", || house.log().contains("openssl rand -hex 32"));
    until("it ended", || house.try_request("GET", "/v1/status/leader", b"").is_err());
    house.kill_agent();
    // No etcd: one line, and it starts as soon as there is one.
    write_seal_key(&house);
    house.reconfigure(|config| config["store"]["seal_key_file"] = "seal.key".into());
    etcd.kill(0);
    house.start_agent();
    until("it says that etcd is missing", || house.log().contains("no etcd answers at"));
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(house.log().matches("no etcd answers at").count(), 1, "one line, not one per try:\n{}", house.log());
    etcd.start_member(0);
    house.wait_ready();
    // Nothing that could sign lies in etcd as it is.
    let dump = etcd.ctl(&["get", "--prefix", "lictor/"]);
    assert!(dump.contains("ca/key/") && !dump.contains("PRIVATE KEY"));
    // Another key cannot open it, and says so.
    house.kill_agent();
    std::fs::write(house.folder().join("seal.key"), "a5".repeat(32)).unwrap();
    house.start_agent();
    until("it says that the key is another", || house.log().contains("wrong sealing key"));
}

#[test]
fn a_node_that_is_lost_for_too_long_is_forgotten_and_known_again_when_it_is_back() {
    let Some(mut cluster) = Cluster::start(1, 2, |_| json!({"reconnect_timeout": "3s"})) else { return };
    let nodes = |at: &House| -> Vec<String> {
        let nodes = at.get("/v1/catalog/nodes").json();
        nodes.as_array().into_iter().flatten().filter_map(|row| row["Node"].as_str().map(str::to_owned)).collect()
    };
    cluster.servers[1].put("/v1/agent/service/register", json!({"Name": "db", "Port": 5432}));
    cluster.servers[0].put("/v1/catalog/register", json!({"Node": "outside", "Address": "10.0.0.1"}));
    until("both servers are nodes", || nodes(&cluster.servers[0]) == ["outside", "server0", "server1"]);
    cluster.servers[1].kill_agent();
    until("the lost node is marked", || {
        let health = cluster.servers[0].get("/v1/health/node/server1").json();
        health.as_array().is_none_or(|checks| checks.is_empty() || checks[0]["Status"] == "critical")
    });
    until("it is forgotten, and nobody else is", || nodes(&cluster.servers[0]) == ["outside", "server0"]);
    assert_eq!(cluster.servers[0].get("/v1/catalog/service/db").json(), json!([]));
    cluster.servers[1].start_agent();
    cluster.servers[1].wait_ready();
    until("it is back with all that is on it", || {
        nodes(&cluster.servers[0]) == ["outside", "server0", "server1"]
            && healthy(&cluster.servers[0], "db") == ["server1"]
    });
}

#[test]
fn a_server_that_leaves_is_gone_at_once_answers_for_a_while_and_is_as_it_was_when_it_is_back() {
    // Longer than where nobody says how long.
    let drain = Duration::from_secs(6);
    let ended = |house: &mut House| eventually("it has ended", || house.ended()).code();
    let config = |_| json!({"performance": {"leave_drain_time": "6s"}});
    let Some(mut cluster) = Cluster::start(1, 2, config) else { return };
    let [stays, leaves] = &mut cluster.servers[..] else { panic!("two were started") };
    let members = |at: &House| at.get("/v1/agent/members").json().as_array().map_or(0, Vec::len);
    leaves.put("/v1/agent/service/register", json!({"Name": "db", "Port": 5432}));
    until("both see it", || healthy(stays, "db") == ["server1"] && members(stays) == 2);

    let begun = Instant::now();
    std::thread::scope(|scope| {
        let leaving = scope.spawn(|| leaves.request("PUT", "/v1/agent/leave", b""));
        until("it is gone from the catalog", || stays.get("/v1/catalog/service/db").json() == json!([]));
        assert_eq!(stays.get("/v1/catalog/nodes").json().as_array().map(Vec::len), Some(1));
        until("it is no member, and none that failed", || members(stays) == 1);
        // Who asks it still is told so.
        assert_eq!(leaves.get("/v1/catalog/service/db").json(), json!([]));
        // What is registered meanwhile is for when it is back.
        assert_eq!(leaves.put("/v1/agent/service/register", json!({"Name": "late", "Port": 1})).status, 200);
        assert_eq!(leaves.get("/v1/catalog/nodes").json().as_array().map(Vec::len), Some(1));
        assert!(!leaving.is_finished() && begun.elapsed() < drain, "{:?}", begun.elapsed());
        assert_eq!(leaving.join().unwrap().status, 200);
    });
    assert!(begun.elapsed() >= drain, "{:?}", begun.elapsed());
    assert_eq!(ended(leaves), Some(0));
    assert_eq!(stays.get("/v1/catalog/nodes").json().as_array().map(Vec::len), Some(1));

    leaves.start_agent();
    leaves.wait_ready();
    until("it is back with all that is on it", || {
        healthy(stays, "db") == ["server1"] && healthy(stays, "late") == ["server1"]
    });

    // Whoever has no time says so with a signal.
    std::thread::scope(|scope| {
        scope.spawn(|| leaves.try_request("PUT", "/v1/agent/leave", b""));
        until("it is gone again", || stays.get("/v1/catalog/service/db").json() == json!([]));
        leaves.signal_agent(Signal::TERM);
    });
    assert_eq!(ended(leaves), Some(1));
}

#[test]
fn a_reload_that_waits_for_a_store_that_is_away_keeps_no_agent_from_ending() {
    let Some(mut cluster) = Cluster::start(1, 1, |_| json!({})) else { return };
    let server = &mut cluster.servers[0];
    // Each is written by itself, and waits for its answer.
    let services: Vec<_> = (0..8).map(|number| json!({"name": format!("web{number}"), "port": 80})).collect();
    server.reconfigure(|config| {
        config["services"] = json!(services);
        config["http_config"] = json!({"block_endpoints": ["/v1/status/peers"]});
    });
    cluster.etcd.pause(0);
    server.signal_agent(Signal::HUP);
    until("it reloads", || server.log().contains("Caught reload request"));
    // What does not need the store holds already.
    until("the new rules hold", || server.get("/v1/status/peers").status == 403);
    until("what the files say is known", || server.get("/v1/agent/services").json().get("web7").is_some());
    assert!(!server.log().contains("configuration reloaded"));
    let begin = Instant::now();
    server.end_agent(Signal::TERM);
    assert!(begin.elapsed() < Duration::from_secs(30), "it took {:?}", begin.elapsed());
}
