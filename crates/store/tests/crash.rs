//! Kills a writing process at random moments and checks that the store file has every acknowledged transaction, whole.

#![allow(clippy::unwrap_used, reason = "a test: a failed step is a failed test")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use lictor_store::{Entry, Revision, Store, Txn, verify};

/// How many processes are killed.
const KILLS: usize = 250;

/// Every so many kills one does not wait until the store is open.
const EARLY: usize = 5;

/// How many of them go on with one file before the next file is begun, so that creation is hit as well.
const KILLS_PER_FILE: usize = 25;

/// How many transactions of a process are under way at a time.
const WRITERS: usize = 8;

/// How long a process may take to open its store.
const DEADLINE: Duration = Duration::from_secs(30);

/// Tells the writing process which file to write.
const STORE_VARIABLE: &str = "LICTOR_CRASH_TEST_STORE";

/// Not a test by itself: what the processes do that are killed. It never ends by itself.
///
/// Each transaction of a writer raises its number in two keys, replaces its third key by another, and takes some room.
#[test]
fn writing_process() {
    let Some(path) = std::env::var_os(STORE_VARIABLE) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let store = Store::open_redb(Path::new(&path)).unwrap();
    say("\nopen");
    runtime.block_on(async {
        let writers: Vec<_> = (0..WRITERS).map(|writer| tokio::spawn(write(store.clone(), writer))).collect();
        for writer in writers {
            writer.await.unwrap();
        }
    });
}

async fn write(store: Store, writer: usize) {
    let mut number = store.get(key(writer, "left").as_ref()).await.unwrap().map_or(0, |entry| number_in(&entry));
    let mut random = fastrand::Rng::new();
    loop {
        let next = number + 1;
        let txn = Txn::new()
            .put(key(writer, "left"), next.to_string())
            .put(key(writer, &format!("room/{}", next % 20)), vec![b'x'; random.usize(..12_000)])
            .delete(key(writer, &format!("now/{number}")))
            .put(key(writer, &format!("now/{next}")), "")
            .put(key(writer, "right"), next.to_string());
        assert!(store.commit(txn).await.unwrap().is_applied());
        number = next;
        say(&format!("acknowledged {writer} {number}"));
    }
}

fn key(writer: usize, name: &str) -> Bytes {
    Bytes::from(format!("{writer}/{name}"))
}

fn number_in(entry: &Entry) -> u64 {
    std::str::from_utf8(&entry.value).unwrap().parse().unwrap()
}

/// One write call per line, so that a line that is out was out before the kill.
fn say(line: &str) {
    std::io::stdout().write_all(format!("{line}\n").as_bytes()).unwrap();
    std::io::stdout().flush().unwrap();
}

#[test]
fn a_killed_process_loses_no_acknowledged_transaction_and_leaves_no_half_one() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut tally = Tally::default();
    for kill in 0..KILLS {
        let path = directory.path().join((kill / KILLS_PER_FILE).to_string()).join("store.redb");
        if kill % KILLS_PER_FILE == 0 {
            tally.acknowledged.clear();
            tally.revision = Revision::ZERO;
        }
        let moment = if kill % EARLY == 0 { Moment::AfterStart } else { Moment::AfterOpen };
        run_and_kill(&path, moment, Duration::from_micros(fastrand::u64(..30_000)), &mut tally);
        runtime.block_on(check(&path, &mut tally));
    }
    eprintln!(
        "{KILLS} kills, {} of them before the store was open; {} transactions acknowledged, {} more were durable",
        tally.unopened, tally.total, tally.unacknowledged
    );
    assert!(tally.total > KILLS as u64, "too few transactions");
}

/// From when on a process is killed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Moment {
    AfterStart,
    AfterOpen,
}

#[derive(Default)]
struct Tally {
    /// The last number each writer of this file was told to be durable.
    acknowledged: BTreeMap<usize, u64>,
    /// The last revision this file was seen at.
    revision: Revision,
    total: u64,
    unacknowledged: u64,
    unopened: usize,
}

fn run_and_kill(path: &Path, moment: Moment, after: Duration, tally: &mut Tally) {
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "writing_process", "--nocapture", "--test-threads=1"])
        .env(STORE_VARIABLE, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(process.stdout.take().unwrap());
    let (opened, open) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut lines = Vec::new();
        for line in output.lines().map_while(Result::ok) {
            if line == "open" {
                let _ = opened.send(());
            }
            lines.push(line);
        }
        lines
    });
    if moment == Moment::AfterOpen {
        // Should it fail to open, the check below tells why.
        let _ = open.recv_timeout(DEADLINE);
    }
    std::thread::sleep(after);
    let ended = process.try_wait().unwrap();
    process.kill().unwrap();
    let rest = process.wait_with_output().unwrap();
    assert!(ended.is_none(), "the writer ended by itself: {}", String::from_utf8_lossy(&rest.stderr));
    let lines = reader.join().unwrap();
    if !lines.iter().any(|line| line == "open") {
        tally.unopened += 1;
    }
    for line in lines {
        let mut words = line.split(' ');
        if words.next() == Some("acknowledged") {
            let (writer, number) = (words.next().unwrap().parse().unwrap(), words.next().unwrap().parse().unwrap());
            let before = tally.acknowledged.insert(writer, number);
            assert!(before.is_none_or(|before| before < number));
            tally.total += 1;
        }
    }
}

async fn check(path: &Path, tally: &mut Tally) {
    if path.exists() {
        let report = verify(path).unwrap();
        assert!(report.is_sound(), "{report:?}");
    } else {
        assert!(tally.acknowledged.is_empty(), "the store file is gone");
    }
    let store = Store::open_redb(path).unwrap();
    let scan = store.scan(b"").await.unwrap();
    assert!(scan.revision >= tally.revision);
    tally.revision = scan.revision;
    let entries: BTreeMap<Bytes, Entry> = scan.entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
    for writer in 0..WRITERS {
        let acknowledged = tally.acknowledged.get(&writer).copied().unwrap_or(0);
        let Some(left) = entries.get(&key(writer, "left")) else {
            assert_eq!(acknowledged, 0, "writer {writer} lost everything");
            continue;
        };
        let number = number_in(left);
        // One transaction per writer is under way at a time.
        assert!(number == acknowledged || number == acknowledged + 1, "writer {writer}: {number}, not {acknowledged}");
        tally.unacknowledged += number - acknowledged;
        let right = &entries[&key(writer, "right")];
        assert_eq!(
            (number_in(right), right.modified),
            (number, left.modified),
            "half a transaction of writer {writer}"
        );
        let room = &entries[&key(writer, &format!("room/{}", number % 20))];
        assert_eq!(room.modified, left.modified);
        let now = key(writer, "now/");
        let mut others = entries.keys().filter(|key| key.starts_with(&now));
        assert_eq!(others.next(), Some(&key(writer, &format!("now/{number}"))));
        assert_eq!(others.next(), None);
        tally.acknowledged.insert(writer, number);
    }
    store.close().await;
}
