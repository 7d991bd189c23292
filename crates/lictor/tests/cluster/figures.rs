//! Figures of a cluster on one machine, to be had alone on a quiet one: `cargo xtask cluster --measure`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::house::Cluster;

const ROUNDS: u16 = 300;
const WRITERS: usize = 500;
const WRITING: Duration = Duration::from_secs(20);
const ROUNDS_OF_WRITING: usize = 3;

#[test]
#[ignore = "measures; run it alone"]
fn figures_of_a_registration_and_of_writing() {
    let Some(cluster) = Cluster::start(3, 3, |_| json!({})) else { return };
    let (one, two) = (&cluster.servers[0], &cluster.servers[1]);
    let register = |port: u16| {
        let body = json!({"Node": "n", "Address": "10.0.0.9", "Service": {"Service": "db", "Connect": {"Native": true}, "Port": port}});
        assert_eq!(one.request("PUT", "/v1/catalog/register", body.to_string().as_bytes()).status, 200);
    };
    // What a proxy of the other server reads its endpoints with.
    let path = "/v1/health/connect/db";
    register(1);
    let mut times = Vec::new();
    for port in 2..2 + ROUNDS {
        let index = two.get(&format!("{path}?consistent")).index();
        let begun = Instant::now();
        let seen = thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let answer = two.get(&format!("{path}?wait=30s&index={index}")).json();
                (answer[0]["Service"]["Port"].as_u64(), begun.elapsed())
            });
            // The reader is waiting by then, mostly; when not, it is answered at once and counts the more.
            thread::sleep(Duration::from_millis(10));
            let late = begun.elapsed();
            register(port);
            let (found, seen) = waiting.join().unwrap();
            assert_eq!(found, Some(u64::from(port)));
            seen.saturating_sub(late)
        });
        times.push(seen);
    }
    times.sort();
    let at = |share: usize| times[times.len() * share / 100];
    eprintln!("registration at one server to endpoints at another: p50 {:?}, p99 {:?}", at(50), at(99));

    // Registrations and etcd's own writes in turn, so that both see the same machine.
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for _ in 0..ROUNDS_OF_WRITING {
        theirs.push(raw_rate(&cluster));
        ours.push(registration_rate(&cluster));
    }
    let middle = |rates: &mut Vec<f64>| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    };
    let (ours, theirs) = (middle(&mut ours), middle(&mut theirs));
    eprintln!("| figure, median of {ROUNDS_OF_WRITING} rounds, {WRITERS} writers | per second |");
    eprintln!("| --- | ---: |");
    eprintln!("| registrations at three servers | {ours:.0} |");
    eprintln!("| etcd's own writes (`etcdctl check perf`) | {theirs:.0} |");
    eprintln!("| ratio | {:.2} |", ours / theirs);
}

/// How many registrations per second the servers acknowledge.
fn registration_rate(cluster: &Cluster) -> f64 {
    let (over, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let begun = Instant::now();
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (over, done) = (&over, &done);
            let port = cluster.servers[writer % 3].http_port;
            scope.spawn(move || {
                let mut line = Line::open(port);
                let mut number = 0_u64;
                while !over.load(Ordering::Relaxed) {
                    let body = json!({"Node": format!("n{writer}"), "Address": "10.0.0.9",
                        "Service": {"Service": "load", "ID": format!("load{}", number % 50), "Port": number % 60_000}});
                    assert_eq!(line.put("/v1/catalog/register", &body.to_string()), 200);
                    number += 1;
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        thread::sleep(WRITING);
        over.store(true, Ordering::Relaxed);
    });
    done.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64()
}

/// How many writes per second etcd's own tool gets through when it asks for more than there can be.
fn raw_rate(cluster: &Cluster) -> f64 {
    // It fails its own check where it gets fewer than it asks for, and says how many those were.
    let said = cluster.etcd.try_ctl(&["check", "perf", "--load", "l"]).unwrap_or_else(|said| said);
    let after = said.split("hroughput").nth(1).unwrap_or_else(|| panic!("no rate: {said}"));
    let number = after.split_whitespace().find_map(|word| word.parse().ok());
    number.unwrap_or_else(|| panic!("no rate: {said}"))
}

/// A connection that is kept for many requests.
struct Line(BufReader<TcpStream>);

impl Line {
    fn open(port: u16) -> Line {
        let connection = TcpStream::connect(("127.0.0.1", port)).unwrap();
        connection.set_nodelay(true).unwrap();
        Line(BufReader::new(connection))
    }

    /// Writes, and gives the status of the answer.
    fn put(&mut self, path: &str, body: &str) -> u16 {
        let request = format!("PUT {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        let status = line.split(' ').nth(1).unwrap().parse().unwrap();
        let mut length = 0;
        loop {
            line.clear();
            self.0.read_line(&mut line).unwrap();
            let header = line.trim_end().to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut answer = vec![0; length];
        self.0.read_exact(&mut answer).unwrap();
        status
    }
}
