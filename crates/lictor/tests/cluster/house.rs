//! Three servers over one etcd, and what tests of them share.

use std::path::PathBuf;
use std::time::Duration;

use lictor_testkit::{Answer, Etcd, House, until};
use serde_json::{Value, json};

/// The binary under test.
pub(crate) const LICTOR: &str = env!("CARGO_BIN_EXE_lictor");

/// How long an agent may be silent before its node counts as dead, in these tests.
pub(crate) const NODE_TTL: &str = "4s";

/// Some servers over one etcd. Servers end before etcd does.
pub(crate) struct Cluster {
    pub(crate) servers: Vec<House>,
    pub(crate) etcd: Etcd,
}

impl Cluster {
    /// Starts etcd members and servers; `config` says what each server has beside the store.
    pub(crate) fn start(members: usize, servers: usize, config: impl Fn(usize) -> Value) -> Option<Cluster> {
        Some(Cluster::over(Etcd::start(members)?, servers, config))
    }

    /// The same over this etcd.
    pub(crate) fn over(etcd: Etcd, servers: usize, config: impl Fn(usize) -> Value) -> Cluster {
        // All at once: they found the store and its CA together.
        let mut servers: Vec<House> = (0..servers)
            .map(|number| {
                let mut whole = server(&etcd, number);
                if let (Some(whole), Value::Object(more)) = (whole.as_object_mut(), config(number)) {
                    whole.extend(more);
                }
                let mut house = House::build(LICTOR, whole);
                write_seal_key(&house);
                house.start_agent();
                house
            })
            .collect();
        for server in &mut servers {
            server.wait_ready();
        }
        let cluster = Cluster { servers, etcd };
        for server in &cluster.servers {
            until("all servers are known", || cluster.alive(server) == cluster.servers.len());
        }
        cluster
    }

    /// How many servers one of them knows to be alive.
    pub(crate) fn alive(&self, at: &House) -> usize {
        at.get("/v1/status/peers").json().as_array().map_or(0, Vec::len)
    }

    /// The server that does what one must do, as all agree.
    pub(crate) fn leader(&self) -> usize {
        let address = lictor_testkit::eventually("all name the same leader", || {
            let named: Vec<String> = self
                .servers
                .iter()
                .filter_map(|server| server.try_request("GET", "/v1/status/leader", b"").ok())
                .filter_map(|answer| answer.json().as_str().map(str::to_owned))
                .collect();
            named
                .windows(2)
                .all(|pair| pair[0] == pair[1])
                .then(|| named.first().cloned())?
                .filter(|name| name.len() > 2)
        });
        self.servers.iter().position(|server| address.ends_with(&format!(":{}", server.http_port + 2))).unwrap()
    }
}

/// The configuration of a server over an etcd.
pub(crate) fn server(etcd: &Etcd, number: usize) -> Value {
    json!({
        "node_name": format!("server{number}"),
        "store": {"backend": "etcd", "endpoints": etcd.endpoints(), "node_ttl": NODE_TTL, "seal_key_file": "seal.key"},
    })
}

/// The sealing key that all servers share.
pub(crate) fn write_seal_key(house: &House) -> PathBuf {
    let path = house.folder().join("seal.key");
    std::fs::write(&path, "5a".repeat(32)).unwrap();
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&path, private).unwrap();
    path
}

/// A request that may fail while something is away, repeated until it is answered well.
pub(crate) fn insist(house: &House, method: &str, path: &str, body: &[u8]) -> Answer {
    lictor_testkit::wait::within(Duration::from_secs(60), &format!("{method} {path} is answered"), || {
        house.try_request(method, path, body).ok().filter(|answer| answer.status == 200)
    })
}

/// The nodes whose instances of a service are healthy, as one server sees it.
pub(crate) fn healthy(at: &House, service: &str) -> Vec<String> {
    let answer = at.get(&format!("/v1/health/service/{service}?passing")).json();
    let mut nodes: Vec<String> = answer
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|instance| instance["Node"]["Node"].as_str().map(str::to_owned))
        .collect();
    nodes.sort();
    nodes
}
