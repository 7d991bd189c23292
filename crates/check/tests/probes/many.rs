//! Thousands of checks in one process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use lictor_check::{Config, Handle, Runner};
use lictor_model::health::CheckSpec;
use parking_lot::Mutex;
use tokio::net::TcpListener;

/// Starts so many TCP checks with one interval, and gives how often each ran within `time` and the longest pause
/// between two runs of one check.
async fn load(count: usize, interval: Duration, time: Duration) -> (Vec<u32>, Duration) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let accepting = tokio::spawn(async move {
        loop {
            let _ = listener.accept().await;
        }
    });
    let runs: Arc<Vec<AtomicU32>> = Arc::new((0..count).map(|_| AtomicU32::new(0)).collect());
    let worst = Arc::new(Mutex::new(Duration::ZERO));
    let checks: Vec<Handle> = (0..count)
        .map(|number| {
            let spec = CheckSpec { tcp: address.clone(), interval, ..CheckSpec::default() };
            let (runs, worst, last) = (Arc::clone(&runs), Arc::clone(&worst), Mutex::new(None::<Instant>));
            Runner::start(spec, Config::default(), move |outcome| {
                assert!(outcome.output.ends_with("Success"), "{}", outcome.output);
                runs[number].fetch_add(1, Ordering::Relaxed);
                let now = Instant::now();
                if let Some(before) = last.lock().replace(now) {
                    let mut worst = worst.lock();
                    *worst = worst.max(now - before);
                }
                std::future::ready(())
            })
        })
        .collect();
    tokio::time::sleep(time).await;
    drop(checks);
    accepting.abort();
    let worst = *worst.lock();
    (runs.iter().map(|runs| runs.load(Ordering::Relaxed)).collect(), worst)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_checks_run_in_their_turn() {
    let (runs, worst) = load(300, Duration::from_secs(1), Duration::from_secs(6)).await;
    assert!(runs.iter().all(|runs| *runs >= 2), "{runs:?}, longest pause {worst:?}");
    let first = runs.iter().sum::<u32>();
    assert!((600..=2100).contains(&first), "{first} runs");
}

/// `cargo test -p lictor-check --release --test probes five_thousand -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement of 40 s for a machine that does nothing else"]
async fn five_thousand_checks_miss_no_interval() {
    let interval = Duration::from_secs(10);
    let (runs, worst) = load(5000, interval, Duration::from_secs(40)).await;
    let fewest = runs.iter().min().copied().unwrap_or_default();
    #[allow(clippy::print_stderr, reason = "figures are what it is for")]
    {
        eprintln!("5000 checks every {interval:?}: at least {fewest} runs in 40 s, longest pause {worst:?}");
    }
    assert!(fewest >= 3 && worst < interval + Duration::from_secs(1), "{fewest} runs, longest pause {worst:?}");
}
