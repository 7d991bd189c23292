//! One fault after the other under load, on real processes: no acknowledged write is lost, no consistent read is stale, and
//! no request through the managed proxies fails, on new connections or on open ones.

use std::path::{Path, PathBuf};
use std::process::Command;

use lictor_testkit::{Etcd, until};
use rustix::process::Signal;
use serde_json::json;

use crate::common::{Load, echo, two_services, wait_path};
use crate::house::{Cluster, insist};
use crate::ledger::Ledger;

/// Acknowledged writes that must go on during a fault, and requests through the mesh.
const WRITES: u64 = 30;
const REQUESTS: u64 = 60;

/// A cluster with a mesh at the first server, and what goes on in it.
struct Scene {
    cluster: Cluster,
    load: Load,
    ledger: Ledger,
}

impl Scene {
    fn begin(arguments: &[&str]) -> Option<Scene> {
        let etcd = Etcd::start_with(3, "http", arguments)?;
        let app = echo();
        let (services, entry) = two_services(app.port());
        let services = services["services"].clone();
        let cluster = Cluster::over(etcd, 3, |number| match number {
            0 => json!({"services": services.clone()}),
            _ => json!({}),
        });
        wait_path(&cluster.servers[0], entry);
        let load = Load::start(entry, 2, 2);
        let ledger = Ledger::open(&cluster.servers);
        let scene = Scene { cluster, load, ledger };
        scene.goes_on("all is well");
        Some(scene)
    }

    /// Writes are acknowledged and requests go through.
    fn goes_on(&self, while_what: &str) {
        self.ledger.wait_for(WRITES, while_what);
        self.load.wait_for(REQUESTS);
        assert_eq!(self.load.failures(), 0, "requests through the mesh failed while {while_what}");
    }

    fn end(self) {
        let Scene { cluster, load, ledger } = self;
        let written = ledger.close(&cluster.servers);
        let (sent, failures) = load.stop();
        assert!(failures.is_empty(), "{} of {sent} failed: {failures:?}", failures.len());
        eprintln!("{written} writes acknowledged and there; {sent} requests through the mesh, none failed");
    }
}

#[test]
fn every_member_and_every_server_may_be_killed_or_paused_and_nothing_is_lost() {
    let Some(mut scene) = Scene::begin(&[]) else { return };
    for number in 0..3 {
        scene.cluster.etcd.kill(number);
        scene.goes_on(&format!("member {number} is away"));
        scene.cluster.etcd.start_member(number);
        scene.cluster.etcd.wait_member(number);
        scene.goes_on(&format!("member {number} is back"));
        scene.cluster.etcd.pause(number);
        scene.goes_on(&format!("member {number} is paused"));
        scene.cluster.etcd.resume(number);
        scene.goes_on(&format!("member {number} is resumed"));
    }
    for number in 0..3 {
        scene.cluster.servers[number].kill_agent();
        scene.goes_on(&format!("server {number} is away"));
        scene.cluster.servers[number].start_agent();
        scene.cluster.servers[number].wait_ready();
        scene.goes_on(&format!("server {number} is back"));
        scene.cluster.servers[number].signal_agent(Signal::STOP);
        // The writers wait for it each time it is its turn: what must go on is the mesh.
        scene.load.wait_for(10 * REQUESTS);
        scene.cluster.servers[number].signal_agent(Signal::CONT);
        scene.goes_on(&format!("server {number} is resumed"));
    }
    scene.end();
}

#[test]
fn history_and_leases_may_be_lost_at_any_time() {
    let Some(mut scene) = Scene::begin(&[]) else { return };
    // What is watched is compacted and each member writes its file anew, again and again.
    for number in 0..3 {
        scene.cluster.etcd.forget_history();
        scene.cluster.etcd.defragment(number);
        scene.goes_on("history is compacted");
    }
    // Leases end that nobody let go: that of the server that leads, and that of another.
    let leader = scene.cluster.leader();
    for number in [leader, (leader + 1) % 3] {
        let entry = scene.cluster.etcd.ctl(&["get", &format!("lictor/data/state/alive/server{number}"), "-w", "json"]);
        let entry: serde_json::Value = serde_json::from_str(&entry).unwrap();
        let lease = format!("{:x}", entry["kvs"][0]["lease"].as_i64().unwrap());
        scene.cluster.etcd.ctl(&["lease", "revoke", &lease]);
        until("it takes a new lease", || {
            scene.cluster.servers[number].log().contains("the lease of this node was lost")
                && scene.cluster.servers.iter().all(|server| scene.cluster.alive(server) == 3)
        });
        scene.goes_on("a lease was lost");
    }
    scene.cluster.leader();
    // A server that is paused misses changes that are forgotten before it goes on.
    let behind = &scene.cluster.servers[2];
    behind.signal_agent(Signal::STOP);
    let written = insist(&scene.cluster.servers[1], "PUT", "/v1/kv/missed", b"by server 2");
    assert_eq!(written.text().trim(), "true");
    scene.load.wait_for(REQUESTS);
    scene.cluster.etcd.forget_history();
    behind.signal_agent(Signal::CONT);
    assert_eq!(insist(behind, "GET", "/v1/kv/missed?raw&consistent", b"").text(), "by server 2");
    // And the same with no etcd between.
    for number in 0..3 {
        scene.cluster.etcd.kill(number);
    }
    let before = scene.ledger.count();
    scene.load.wait_for(5 * REQUESTS);
    for number in 0..3 {
        scene.cluster.etcd.start_member(number);
    }
    until("writes go on after all members were away", || scene.ledger.count() > before + WRITES);
    scene.goes_on("etcd is back");
    scene.end();
}

#[test]
fn an_etcd_without_room_refuses_writes_with_a_remedy_and_nothing_else_stops() {
    let Some(scene) = Scene::begin(&["--quota-backend-bytes", "8388608"]) else { return };
    let etcd = &scene.cluster.etcd;
    etcd.ctl(&["put", "of/others", "x"]);
    let filler = vec![b'x'; 200_000];
    let full = || {
        let answer = scene.cluster.servers[1].request("PUT", "/v1/kv/filler", &filler);
        (answer.status == 500).then(|| answer.text())
    };
    let refusal = lictor_testkit::eventually("etcd is full", full);
    assert!(refusal.contains("space exceeded") && refusal.contains("etcdctl alarm disarm"), "{refusal}");
    until("etcd says so too", || etcd.ctl(&["alarm", "list"]).contains("NOSPACE"));
    // Reads go on, consistent ones too, even when others count etcd's revision up, and so does the mesh; all servers stay
    // alive although their leases get old.
    etcd.ctl(&["del", "of/others"]);
    for server in &scene.cluster.servers {
        assert_eq!(server.get("/v1/catalog/service/db?consistent").json().as_array().map(Vec::len), Some(1));
    }
    scene.load.wait_for(40 * REQUESTS);
    assert_eq!(scene.cluster.alive(&scene.cluster.servers[1]), 3);
    etcd.forget_history();
    (0..3).for_each(|number| drop(etcd.defragment(number)));
    etcd.ctl(&["alarm", "disarm"]);
    scene.goes_on("there is room again");
    scene.end();
}

/// A small file system in memory in place of a folder; gone when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Puts it over an existing folder, whose files it takes; `None`, said loudly, without the right to mount.
    fn over(folder: &Path, size: &str) -> Option<SmallDisk> {
        let kept = folder.with_extension("kept");
        std::fs::rename(folder, &kept).unwrap();
        std::fs::create_dir(folder).unwrap();
        let options = format!("size={size},mode=0700");
        let mounted = rustix::process::geteuid().is_root()
            && run(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "lictor-test"]).arg(folder));
        if !mounted {
            eprintln!("SKIPPED: the part of this test with a full disk needs root, to mount a small tmpfs");
            std::fs::remove_dir(folder).unwrap();
            std::fs::rename(kept, folder).unwrap();
            return None;
        }
        assert!(run(Command::new("cp").arg("-a").arg(kept.join("member")).arg(folder)));
        Some(SmallDisk(folder.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, for a member may still be ending.
        run(Command::new("umount").arg("-l").arg(&self.0));
    }
}

fn run(command: &mut Command) -> bool {
    command.status().is_ok_and(|status| status.success())
}

#[test]
fn a_member_whose_disk_is_full_dies_alone_and_comes_back() {
    let Some(mut scene) = Scene::begin(&[]) else { return };
    let etcd = &mut scene.cluster.etcd;
    let folder = etcd.data_dir(1);
    etcd.kill(1);
    // etcd sets 64 MB aside for its log, twice.
    let Some(disk) = SmallDisk::over(&folder, "150m") else { return scene.end() };
    etcd.start_member(1);
    etcd.wait_member(1);
    scene.goes_on("the member is back on a small disk");
    let filler = folder.join("filler");
    // As much as there is room for.
    let full =
        run(Command::new("dd").args(["if=/dev/zero", "bs=64k", "status=none"]).arg(format!("of={}", filler.display())));
    assert!(!full, "the disk took all that there is");
    until("the member cannot go on without room", || {
        scene.ledger.wait_for(1, "a member's disk is full");
        scene.cluster.etcd.has_ended(1)
    });
    scene.goes_on("a member is lost to a full disk");
    std::fs::remove_file(filler).unwrap();
    scene.cluster.etcd.kill(1);
    scene.cluster.etcd.start_member(1);
    scene.cluster.etcd.wait_member(1);
    until("all members are well", || scene.cluster.etcd.try_ctl(&["endpoint", "health"]).is_ok());
    scene.goes_on("the member is back");
    // Its folder can be removed only without it.
    scene.cluster.etcd.kill(1);
    drop(disk);
    scene.end();
}
