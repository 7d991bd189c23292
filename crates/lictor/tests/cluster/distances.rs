//! Servers that are far from each other: each answers with what is near it, by distances that the servers measured.
//!
//! The machine is small, so a path stands between every two servers that holds every datagram back for a while.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use lictor_testkit::{House, ports, wait};
use serde_json::{Value, json};

use super::house::{Cluster, LICTOR};

/// How long a datagram takes from one server to another: the first two are near each other, the third is far from both.
const ONE_WAY: [[u64; 3]; 3] = [[0, 15, 120], [15, 0, 120], [120, 120, 0]];

/// The address that a server measures from, and the one at which the others find it: its path.
fn own_address(server: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, 11 + server as u8)
}

fn path_address(server: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, 21 + server as u8)
}

/// Paths to all servers.
struct Paths {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Paths {
    fn open(port: u16) -> Paths {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..ONE_WAY.len()).map(|server| thread::spawn(path(server, port, Arc::clone(&stop)))).collect();
        Paths { stop, threads }
    }
}

impl Drop for Paths {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// The path to one server: what comes from another goes on after a while, and so do the answers.
fn path(server: usize, port: u16, stop: Arc<AtomicBool>) -> impl FnOnce() {
    let open = |address, port| {
        let socket = UdpSocket::bind((address, port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        Arc::new(socket)
    };
    let front = open(path_address(server), port);
    move || {
        let target: SocketAddr = (own_address(server), port).into();
        let mut backs: HashMap<SocketAddr, (Arc<UdpSocket>, JoinHandle<()>)> = HashMap::new();
        while !stop.load(Ordering::Relaxed) {
            let Some((datagram, from)) = receive(&front) else { continue };
            let other = (0..ONE_WAY.len()).find(|other| from.ip() == own_address(*other)).unwrap();
            let delay = Duration::from_millis(ONE_WAY[other][server]);
            let (back, _) = backs.entry(from).or_insert_with(|| {
                let (back, front, stop) = (open(path_address(server), 0), Arc::clone(&front), Arc::clone(&stop));
                let socket = Arc::clone(&back);
                let thread = thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        if let Some((answer, _)) = receive(&socket) {
                            send_later(Arc::clone(&front), answer, from, delay);
                        }
                    }
                });
                (back, thread)
            });
            send_later(Arc::clone(back), datagram, target, delay);
        }
        for (_, (_, thread)) in backs {
            let _ = thread.join();
        }
    }
}

fn receive(socket: &UdpSocket) -> Option<(Vec<u8>, SocketAddr)> {
    let mut datagram = [0; 2048];
    // Errors are the pause at an end, or a server that is not there yet.
    let (length, from) = socket.recv_from(&mut datagram).ok()?;
    Some((datagram[..length].to_vec(), from))
}

fn send_later(socket: Arc<UdpSocket>, datagram: Vec<u8>, to: SocketAddr, delay: Duration) {
    thread::spawn(move || {
        thread::sleep(delay);
        let _ = socket.send_to(&datagram, to);
    });
}

/// The estimated time in milliseconds between two servers, as the command line says it.
fn rtt(at: &House, one: usize, other: usize) -> Option<f64> {
    let output = Command::new(LICTOR)
        .args(["rtt", "-format=json", &format!("server{one}"), &format!("server{other}")])
        .env("CONSUL_HTTP_ADDR", format!("127.0.0.1:{}", at.http_port))
        .output()
        .unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).ok()?;
    answer["Milliseconds"].as_f64()
}

fn nodes(answer: &Value, node: impl Fn(&Value) -> &Value) -> Vec<String> {
    answer.as_array().into_iter().flatten().filter_map(|row| node(row).as_str().map(str::to_owned)).collect()
}

#[test]
fn servers_measure_how_far_they_are_from_each_other_and_answer_with_what_is_near() {
    let port = ports::one();
    let paths = Paths::open(port);
    let started = Cluster::start(1, ONE_WAY.len(), |server| {
        json!({
            "serf_lan": own_address(server).to_string(),
            "advertise_addr": path_address(server).to_string(),
            "ports": {"serf_lan": port},
        })
    });
    let Some(cluster) = started else { return };
    let [one, two, three] = &cluster.servers[..] else { panic!("three were started") };
    for server in [two, three] {
        server.put("/v1/agent/service/register", json!({"Name": "db", "Port": 5432}));
    }
    one.request(
        "POST",
        "/v1/query",
        json!({"Name": "near", "Service": {"Service": "db", "Near": "_agent"}}).to_string().as_bytes(),
    );

    // A busy machine adds to every time, so that only what cannot be otherwise is asked for, and places are stored no more
    // often than twice a minute.
    let settled = |what: &str, is_so: &mut dyn FnMut() -> bool| {
        wait::within(Duration::from_secs(150), what, || is_so().then_some(()));
    };
    wait::within(Duration::from_secs(90), "the first server knows that the third is far and the second is not", || {
        let (near, far) = (rtt(one, 0, 1)?, rtt(one, 0, 2)?);
        (far > 180.0 && far > 2.0 * near && near > 15.0).then_some(())
    });
    let at_first = |path: &str| one.get(path).json();
    settled("nodes come by distance", &mut || {
        nodes(&at_first("/v1/catalog/nodes?near=_agent"), |row| &row["Node"]) == ["server0", "server1", "server2"]
            && nodes(&at_first("/v1/catalog/nodes?near=server1"), |row| &row["Node"])
                == ["server1", "server0", "server2"]
            && nodes(&at_first("/v1/catalog/nodes?near=server2"), |row| &row["Node"])[0] == "server2"
    });
    settled("instances come by distance", &mut || {
        nodes(&at_first("/v1/health/service/db?near=_agent"), |row| &row["Node"]["Node"]) == ["server1", "server2"]
            && nodes(&at_first("/v1/catalog/service/db?near=_agent"), |row| &row["Node"]) == ["server1", "server2"]
            && nodes(&at_first("/v1/health/service/db?near=server2"), |row| &row["Node"]["Node"])
                == ["server2", "server1"]
    });
    let executed = |at: &House| nodes(&at.get("/v1/query/near/execute").json()["Nodes"], |row| &row["Node"]["Node"]);
    settled("a query answers each server with what is near it", &mut || {
        executed(one) == ["server1", "server2"] && executed(three)[0] == "server2"
    });

    // All servers are named where datacenters are compared, and each knows itself.
    let datacenters = at_first("/v1/coordinate/datacenters");
    let named = nodes(&datacenters[0]["Coordinates"], |row| &row["Node"]);
    assert_eq!(named, ["server0", "server1", "server2"], "{datacenters}");
    let own = at_first("/v1/agent/self")["Coord"].clone();
    assert!(own["Vec"].as_array().is_some_and(|vec| vec.iter().any(|part| part != 0.0)), "{own}");
    drop(cluster);
    drop(paths);
}

#[test]
fn client_agents_are_measured_and_answered_with_what_is_near_them() {
    let port = ports::one();
    let paths = Paths::open(port);
    let config = |number: usize, of: Option<&House>| {
        let mut house = House::build(LICTOR, json!({}));
        house.reconfigure(|config| {
            config["node_name"] = json!(format!("node{number}"));
            config["serf_lan"] = json!(own_address(number).to_string());
            config["advertise_addr"] = json!(path_address(number).to_string());
            config["ports"]["serf_lan"] = json!(port);
            if let Some(server) = of {
                config["server"] = json!(false);
                config["bootstrap"] = json!(false);
                config["retry_join"] = json!([format!("127.0.0.1:{}", server.http_port + 2)]);
                config["retry_interval"] = json!("200ms");
            }
        });
        house.start_agent();
        house.wait_ready();
        house
    };
    let server = config(0, None);
    let [near, far] = [1, 2].map(|number| config(number, Some(&server)));
    for at in [&server, &far] {
        at.put("/v1/agent/service/register", json!({"Name": "db", "Port": 5432}));
    }
    near.request(
        "POST",
        "/v1/query",
        json!({"Name": "near", "Service": {"Service": "db", "Near": "_agent"}}).to_string().as_bytes(),
    );

    // As with servers: a busy machine adds to every time.
    let settled = |what: &str, is_so: &mut dyn FnMut() -> bool| {
        wait::within(Duration::from_secs(150), what, || is_so().then_some(()));
    };
    let by_distance = |at: &House, path: &str| nodes(&at.get(path).json(), |row| &row["Node"]);
    settled("nodes come by distance from whichever agent is asked", &mut || {
        by_distance(&near, "/v1/catalog/nodes?near=_agent") == ["node1", "node0", "node2"]
            && by_distance(&far, "/v1/catalog/nodes?near=_agent")[0] == "node2"
            && by_distance(&server, "/v1/catalog/nodes?near=node2")[0] == "node2"
            && by_distance(&server, "/v1/catalog/nodes?near=_agent") == ["node0", "node1", "node2"]
    });
    let executed = |at: &House| nodes(&at.get("/v1/query/near/execute").json()["Nodes"], |row| &row["Node"]["Node"]);
    settled("a query answers each agent with what is near it", &mut || {
        executed(&near) == ["node0", "node2"] && executed(&far) == ["node2", "node0"]
    });
    // Each knows where it is, and all know of all.
    let own = far.get("/v1/agent/self").json()["Coord"].clone();
    assert!(own["Vec"].as_array().is_some_and(|vec| vec.iter().any(|part| part != 0.0)), "{own}");
    assert_eq!(by_distance(&near, "/v1/coordinate/nodes"), ["node0", "node1", "node2"]);
    let output = Command::new(LICTOR)
        .args(["rtt", "-format=json", "node2"])
        .env("CONSUL_HTTP_ADDR", format!("127.0.0.1:{}", near.http_port))
        .output()
        .unwrap();
    let between: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    assert!(between["Milliseconds"].as_f64().is_some_and(|between| between > 150.0), "{between}");
    drop((near, far, server));
    drop(paths);
}

#[test]
fn coordinates_can_be_off() {
    let house = House::start_dev(LICTOR, json!({"disable_coordinates": true}));
    assert_eq!(house.get("/v1/agent/self").json()["Coord"], Value::Null);
    for (method, path) in [
        ("GET", "/v1/coordinate/nodes"),
        ("GET", "/v1/coordinate/node/node1"),
        ("GET", "/v1/coordinate/datacenters"),
        ("PUT", "/v1/coordinate/update"),
    ] {
        let answer = house.request(method, path, b"{}");
        assert_eq!((answer.status, answer.text().as_str()), (401, "Coordinate support disabled"), "{method} {path}");
    }
}
