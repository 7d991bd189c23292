//! A register under concurrent clients and faults: what they saw must be linearizable.
//!
//! Two short runs in the gate; `LICTOR_RUNS=20` makes as many, and `LICTOR_SEED` begins with a certain one.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lictor_testkit::until;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::house::{Cluster, insist};
use crate::linear::{Kind, Operation, is_linearizable};

const CLIENTS: u64 = 5;
/// How many faults a run sees. The clients go on until all are over.
const FAULTS: usize = 5;
/// How many operations of a run must be answered for it to say something: where the faults leave time for fewer, the
/// clients go on.
const ANSWERED: usize = 20 * FAULTS;
/// How long a client waits for an answer before the outcome counts as unknown.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest pause of a client between two operations, in milliseconds.
const THOUGHT: u64 = 60;

/// Numbers that look random and can be had again (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn what_five_clients_see_of_a_register_is_linearizable_whatever_fails() {
    let runs = number("LICTOR_RUNS", 2);
    let first = number("LICTOR_SEED", 1);
    let Some(mut cluster) = Cluster::start(3, 3, |_| json!({})) else { return };
    for seed in first..first + runs {
        let (history, faults) = run(&mut cluster, seed);
        let answered = history.iter().filter(|operation| operation.ended.is_some()).count();
        eprintln!(
            "seed {seed}: {answered} operations answered, {} open, while: {}",
            history.len() - answered,
            faults.join(", ")
        );
        if !is_linearizable(&history) {
            let mut history = history;
            history.sort_by_key(|operation| operation.begun);
            panic!("seed {seed} is not linearizable: {history:#?}");
        }
    }
}

/// Gives what the clients saw, and which faults there were.
fn run(cluster: &mut Cluster, seed: u64) -> (Vec<Operation>, Vec<String>) {
    for server in &cluster.servers {
        insist(server, "GET", "/v1/catalog/nodes?consistent", b"");
    }
    let ports: Vec<u16> = cluster.servers.iter().map(|server| server.http_port).collect();
    let started = Instant::now();
    let (over, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    // A key of its own, for a write of the run before may still be on its way.
    let key = format!("/v1/kv/register{seed}");
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (ports, key, over, answered) = (&ports, &key, &over, &answered);
                scope.spawn(move || use_register(ports, key, client, seed, started, over, answered))
            })
            .collect();
        let dice = &mut Dice(seed.wrapping_mul(7919) + 1);
        let faults = (0..FAULTS).map(|_| cause_fault(cluster, dice)).collect();
        until("enough operations are answered", || answered.load(Ordering::Relaxed) > ANSWERED);
        over.store(true, Ordering::Relaxed);
        (clients.into_iter().flat_map(|client| client.join().unwrap()).collect(), faults)
    })
}

/// Does something bad, mends it, and says what it was.
fn cause_fault(cluster: &mut Cluster, dice: &mut Dice) -> String {
    thread::sleep(Duration::from_millis(100 + dice.below(400)));
    let which = usize::try_from(dice.below(3)).unwrap();
    let pause = Duration::from_millis(200 + dice.below(2500));
    let Cluster { servers, etcd } = cluster;
    match dice.below(6) {
        0 => {
            etcd.kill(which);
            thread::sleep(pause);
            etcd.start_member(which);
            etcd.wait_member(which);
            format!("member {which} killed")
        }
        1 => {
            etcd.pause(which);
            thread::sleep(pause);
            etcd.resume(which);
            format!("member {which} paused")
        }
        2 => {
            let other = (which + 1) % 3;
            etcd.pause(which);
            etcd.kill(other);
            thread::sleep(pause);
            etcd.resume(which);
            etcd.start_member(other);
            etcd.wait_member(other);
            format!("members {which} paused and {other} killed")
        }
        3 => {
            servers[which].kill_agent();
            thread::sleep(pause);
            servers[which].start_agent();
            servers[which].wait_ready();
            format!("server {which} killed")
        }
        4 => {
            servers[which].signal_agent(Signal::STOP);
            thread::sleep(pause);
            servers[which].signal_agent(Signal::CONT);
            format!("server {which} paused")
        }
        _ => {
            etcd.forget_history();
            etcd.defragment(which);
            format!("history compacted and member {which} defragmented")
        }
    }
}

/// Whether nobody can have heard the request.
fn is_unsent(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::ConnectionRefused
}

/// Reads, writes and swaps, each at any server, until told to end; gives what was seen.
fn use_register(
    ports: &[u16],
    key: &str,
    client: u64,
    seed: u64,
    started: Instant,
    over: &AtomicBool,
    answered: &AtomicUsize,
) -> Vec<Operation> {
    let mut dice = Dice(seed.wrapping_mul(1_000_003) + client * 97 + 5);
    let now = || u64::try_from(started.elapsed().as_nanos()).unwrap();
    let mut history = Vec::new();
    let mut counted = 0;
    // The value last read here, with its index.
    let mut known: Option<(Option<u64>, u64)> = None;
    for turn in 0.. {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let fresh = history[counted..].iter().filter(|operation: &&Operation| operation.ended.is_some()).count();
        answered.fetch_add(fresh, Ordering::Relaxed);
        counted = history.len();
        thread::sleep(Duration::from_millis(dice.below(THOUGHT)));
        let port = ports[usize::try_from(dice.below(ports.len() as u64)).unwrap()];
        let ask = |method: &str, path: &str| lictor_testkit::http::request(port, method, path, &[], b"x", PATIENCE);
        // A value that nobody else writes, carried as the key's flags, which come back beside its index.
        let fresh: u64 = seed * 1_000_000 + client * 100_000 + turn + 1;
        let begun = now();
        match (dice.below(3), known) {
            (0, _) => {
                let outcome = ask("PUT", &format!("{key}?flags={fresh}"));
                if outcome.as_ref().is_err_and(is_unsent) {
                    continue;
                }
                let done = outcome.is_ok_and(|answer| answer.status == 200 && answer.text().trim() == "true");
                history.push(Operation { kind: Kind::Write(fresh), begun, ended: done.then(now) });
            }
            (1, Some((value, index))) => {
                known = None;
                match ask("PUT", &format!("{key}?flags={fresh}&cas={index}")) {
                    Ok(answer) if answer.status == 200 => {
                        let done = answer.text().trim() == "true";
                        let kind = if done { Kind::Swap(value, fresh) } else { Kind::Refused(value) };
                        history.push(Operation { kind, begun, ended: Some(now()) });
                    }
                    Err(error) if is_unsent(&error) => {}
                    _ => history.push(Operation { kind: Kind::Swap(value, fresh), begun, ended: None }),
                }
            }
            _ => {
                let Ok(answer) = ask("GET", &format!("{key}?consistent")) else { continue };
                let read = match answer.status {
                    200 => {
                        let entry: Value = answer.json()[0].clone();
                        known = Some((entry["Flags"].as_u64(), entry["ModifyIndex"].as_u64().unwrap()));
                        entry["Flags"].as_u64()
                    }
                    404 => {
                        known = Some((None, 0));
                        None
                    }
                    _ => continue,
                };
                history.push(Operation { kind: Kind::Read(read), begun, ended: Some(now()) });
            }
        }
    }
    history
}
