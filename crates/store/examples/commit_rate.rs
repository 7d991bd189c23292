//! Measures commits per second of the embedded backends, for one committer and for many at once.
//!
//! `cargo run --release -p lictor-store --example commit_rate [DIRECTORY]`; the directory decides which disk is measured.

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use lictor_store::{Store, Txn};

/// How long each combination runs.
const SPAN: Duration = Duration::from_secs(3);

/// Keys each committer goes through, so that the tree has a size and most writes are updates.
const KEYS: u32 = 1000;

/// About what a service with its check takes.
const VALUE_BYTES: usize = 400;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn Error>> {
    let directory = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let directory = tempfile::tempdir_in(directory)?;
    let mut out = std::io::stdout();
    writeln!(out, "{:<8} {:>10} {:>12} {:>10} {:>10}", "backend", "committers", "commits/s", "p50", "p99")?;
    for committers in [1, 64] {
        for backend in ["memory", "redb"] {
            let store = match backend {
                "memory" => Store::memory(),
                _ => Store::open_redb(&directory.path().join(format!("{committers}.redb")))?,
            };
            let start = Instant::now();
            let mut times = measure(&store, committers).await?;
            let rate = times.len() as f64 / start.elapsed().as_secs_f64();
            store.close().await;
            times.sort();
            let (p50, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
            writeln!(out, "{backend:<8} {committers:>10} {rate:>12.0} {p50:>10.1?} {p99:>10.1?}")?;
        }
    }
    Ok(())
}

/// The time each commit took, over all committers.
async fn measure(store: &Store, committers: u32) -> Result<Vec<Duration>, Box<dyn Error>> {
    let tasks: Vec<_> = (0..committers)
        .map(|committer| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut times = Vec::new();
                let start = Instant::now();
                for number in 0_u32.. {
                    let key = format!("service/{committer}/{}", number.wrapping_mul(7919) % KEYS);
                    let begun = Instant::now();
                    store.commit(Txn::new().put(key, vec![7; VALUE_BYTES])).await?;
                    times.push(begun.elapsed());
                    // A commit in memory never waits, so without this one committer would run after the other.
                    tokio::task::yield_now().await;
                    if start.elapsed() >= SPAN {
                        break;
                    }
                }
                Ok::<_, lictor_store::Error>(times)
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await??);
    }
    Ok(times)
}
