//! Writers whose every acknowledged write must be seen by a consistent read at any server, at once and for ever.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use lictor_testkit::{House, http};

use crate::house::insist;

/// How long a writer waits for an answer. Longer than a server tries, so that a server says itself what came of it.
const PATIENCE: Duration = Duration::from_secs(15);
const WRITERS: usize = 3;

/// Writers at work.
pub(crate) struct Ledger {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    writers: Vec<JoinHandle<Book>>,
}

/// What one writer knows.
#[derive(Default)]
struct Book {
    acknowledged: BTreeSet<String>,
    wrong: Vec<String>,
}

impl Ledger {
    /// Starts writers that use these servers in turn.
    pub(crate) fn open(servers: &[House]) -> Ledger {
        let ports: Vec<u16> = servers.iter().map(|server| server.http_port).collect();
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let writers = (0..WRITERS)
            .map(|writer| {
                let (ports, stop, written) = (ports.clone(), Arc::clone(&stop), Arc::clone(&written));
                thread::spawn(move || write(writer, &ports, &stop, &written))
            })
            .collect();
        Ledger { stop, written, writers }
    }

    /// Waits for so many more acknowledged writes.
    pub(crate) fn wait_for(&self, more: u64, while_what: &str) {
        let goal = self.written.load(Ordering::Relaxed) + more;
        let what = format!("writes are acknowledged while {while_what}");
        lictor_testkit::until(&what, || self.written.load(Ordering::Relaxed) >= goal);
    }

    /// How many writes were acknowledged so far.
    pub(crate) fn count(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Ends the writing: no read was stale, and every server has every acknowledged write. Gives their number.
    pub(crate) fn close(self, servers: &[House]) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let mut acknowledged = BTreeSet::new();
        for writer in self.writers {
            let book = writer.join().unwrap();
            assert!(book.wrong.is_empty(), "{:?}", book.wrong);
            acknowledged.extend(book.acknowledged);
        }
        for server in servers {
            let answer = insist(server, "GET", "/v1/kv/ledger/?keys&consistent", b"").json();
            let there: BTreeSet<&str> = answer.as_array().unwrap().iter().filter_map(|key| key.as_str()).collect();
            let lost: Vec<&String> = acknowledged.iter().filter(|key| !there.contains(key.as_str())).collect();
            assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        }
        acknowledged.len()
    }
}

fn write(writer: usize, ports: &[u16], stop: &AtomicBool, written: &AtomicU64) -> Book {
    let mut book = Book::default();
    let mut number = 0_usize;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let key = format!("ledger/{writer}/{number}");
        let at = |offset: usize| ports[(writer + number + offset) % ports.len()];
        let ask = |port, method, path: &str| http::request(port, method, path, &[], key.as_bytes(), PATIENCE);
        match ask(at(0), "PUT", &format!("/v1/kv/{key}")) {
            Ok(answer) if answer.status == 200 && answer.text().trim() == "true" => {}
            // Not acknowledged: it may be there or not. A server that is away is not asked in a tight loop.
            _ => {
                thread::sleep(Duration::from_millis(20));
                continue;
            }
        }
        written.fetch_add(1, Ordering::Relaxed);
        if let Ok(answer) = ask(at(1), "GET", &format!("/v1/kv/{key}?raw&consistent")) {
            match answer.status {
                200 if answer.text() == key => {}
                500.. => {}
                status => {
                    book.wrong.push(format!("{key} was acknowledged and then read as {status} {}", answer.text()))
                }
            }
        }
        book.acknowledged.insert(key);
        thread::sleep(Duration::from_millis(5));
    }
    book
}
