//! A server whose network is cut: it lives in a network namespace of its own, with one cable to the others.

use std::fs::File;
use std::os::fd::AsFd;
use std::process::Command;
use std::thread;
use std::time::Duration;

use lictor_testkit::{Etcd, House, until, wait};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::json;

use crate::common::{Load, echo, two_services, wait_path};
use crate::house::{LICTOR, healthy, insist, server, write_seal_key};

/// A network namespace with a cable to this one; gone when dropped.
struct Island {
    name: String,
    /// This end of the cable.
    cable: String,
    /// The address at this end.
    here: String,
}

impl Island {
    /// `None`, said loudly, where that is not allowed.
    fn make() -> Option<Island> {
        let ip = lictor_testkit::program::find("ip")?;
        let id = std::process::id() % 100_000;
        let net = format!("10.{}.{}", 100 + id % 100, id / 100 % 250);
        let island = Island { name: format!("lictor{id}"), cable: format!("lic{id}a"), here: format!("{net}.1") };
        let (name, near, far) = (island.name.clone(), island.cable.clone(), format!("lic{id}b"));
        let run = |line: &str| Command::new(&ip).args(line.split(' ')).status().is_ok_and(|status| status.success());
        let made = rustix::process::geteuid().is_root()
            && run(&format!("netns add {name}"))
            && run(&format!("link add {near} type veth peer name {far} netns {name}"))
            && run(&format!("addr add {net}.1/30 dev {near}"))
            && run(&format!("link set {near} up"))
            && run(&format!("-n {name} addr add {net}.2/30 dev {far}"))
            && run(&format!("-n {name} link set {far} up"))
            && run(&format!("-n {name} link set lo up"));
        if !made {
            eprintln!("SKIPPED: cutting a network needs root, to make a network namespace");
            return None;
        }
        Some(island)
    }

    /// Does something there. What it starts stays there.
    fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let place = File::open(format!("/var/run/netns/{}", self.name)).unwrap();
        thread::scope(|scope| {
            let there = scope.spawn(move || {
                move_into_link_name_space(place.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                work()
            });
            there.join().unwrap()
        })
    }

    fn set_cable(&self, state: &str) {
        let set = Command::new("ip").args(["link", "set", &self.cable, state]).status();
        assert!(set.is_ok_and(|status| status.success()));
    }
}

impl Drop for Island {
    fn drop(&mut self) {
        // Its end of the cable goes with it, and so the other end.
        for line in [format!("link delete {}", self.cable), format!("netns delete {}", self.name)] {
            let _ = Command::new("ip").args(line.split(' ')).stderr(std::process::Stdio::null()).status();
        }
    }
}

#[test]
fn a_server_whose_network_is_cut_answers_nothing_stale_and_its_mesh_goes_on() {
    let Some(island) = Island::make() else { return };
    let Some(mut etcd) = Etcd::start(3) else { return };
    etcd.listen_at(&island.here);
    for number in 0..3 {
        etcd.restart(number);
    }
    let mut here = House::build(LICTOR, server(&etcd, 0));
    let app = island.within(echo);
    let (services, entry) = two_services(app.port());
    let mut config = server(&etcd, 1);
    config["services"] = services["services"].clone();
    let over_cable: Vec<String> =
        etcd.endpoints().iter().map(|endpoint| endpoint.replace("127.0.0.1", &island.here)).collect();
    config["store"]["endpoints"] = json!(over_cable);
    let mut there = House::build(LICTOR, config);
    write_seal_key(&here);
    write_seal_key(&there);
    here.start_agent();
    here.wait_ready();
    island.within(|| {
        there.start_agent();
        there.wait_ready();
        wait_path(&there, entry);
    });
    until("both see the service", || healthy(&here, "db") == ["server1"]);
    let load = island.within(|| Load::start(entry, 2, 2));
    load.wait_for(100);

    island.set_cable("down");
    // Here its node is given up and writes go on. There, nothing that was not asked of etcd is said to be consistent.
    until("its node is given up here", || healthy(&here, "db").is_empty());
    assert_eq!(insist(&here, "PUT", "/v1/kv/cut", b"by one of two").text().trim(), "true");
    island.within(|| {
        let consistent = there.try_request("GET", "/v1/kv/cut?raw&consistent", b"");
        assert!(consistent.as_ref().is_ok_and(|answer| answer.status == 500), "{consistent:?}");
        let write = there.try_request("PUT", "/v1/kv/lost", b"by the other");
        assert!(write.as_ref().is_ok_and(|answer| answer.status == 500), "{write:?}");
        // What it knows it still tells who does not ask for more.
        assert_eq!(there.get("/v1/catalog/service/db").json().as_array().map(Vec::len), Some(1));
    });
    load.wait_for(1000);

    island.set_cable("up");
    until("its node is back here", || healthy(&here, "db") == ["server1"]);
    island.within(|| {
        let seen = wait::within(Duration::from_secs(60), "it reads again", || {
            there.try_request("GET", "/v1/kv/cut?raw&consistent", b"").ok().filter(|answer| answer.status == 200)
        });
        assert_eq!(seen.text(), "by one of two");
    });
    load.wait_for(100);
    let (sent, failures) = load.stop();
    assert!(failures.is_empty(), "{} of {sent} failed: {failures:?}", failures.len());
    eprintln!("{sent} requests through the mesh of a server that was cut off, none failed");
}
