//! Thousands of checks in one process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lictor_check::{Config, Handle, Runner};
use lictor_model::health::CheckSpec;
use parking_lot::Mutex;
use tokio::net::TcpListener;

/// What came of many checks.
struct Seen {
    /// How often each ran.
    runs: Vec<u32>,
    /// The longest time in which one of them did not run, from the start to the end.
    pause: Duration,
    /// How much longer than asked for a thread with nothing to do slept meanwhile: what the machine takes from everybody.
    stall: Duration,
}

/// Starts so many TCP checks with one interval and watches them for `time`.
async fn load(count: usize, interval: Duration, time: Duration) -> Seen {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let accepting = tokio::spawn(async move {
        loop {
            let _ = listener.accept().await;
        }
    });
    let over = Arc::new(AtomicBool::new(false));
    let stalls = thread::spawn({
        let over = Arc::clone(&over);
        move || stall_until(&over)
    });
    let started = Instant::now();
    let seen = Arc::new(Mutex::new((vec![(0, started); count], Duration::ZERO)));
    let checks: Vec<Handle> = (0..count)
        .map(|number| {
            let spec = CheckSpec { tcp: address.clone(), interval, ..CheckSpec::default() };
            let seen = Arc::clone(&seen);
            Runner::start(spec, Config::default(), move |outcome| {
                assert!(outcome.output.ends_with("Success"), "{}", outcome.output);
                let now = Instant::now();
                let (each, pause) = &mut *seen.lock();
                let (runs, last) = &mut each[number];
                *runs += 1;
                *pause = (*pause).max(now - std::mem::replace(last, now));
                std::future::ready(())
            })
        })
        .collect();
    tokio::time::sleep(time).await;
    let ended = Instant::now();
    drop(checks);
    accepting.abort();
    over.store(true, Ordering::Relaxed);
    let (each, pause) = seen.lock().clone();
    let since_last = each.iter().map(|(_, last)| ended.saturating_duration_since(*last)).max().unwrap_or_default();
    Seen {
        runs: each.into_iter().map(|(runs, _)| runs).collect(),
        pause: pause.max(since_last),
        stall: stalls.join().unwrap(),
    }
}

/// The longest time that a short sleep took too long, until told to stop.
fn stall_until(over: &AtomicBool) -> Duration {
    const SHORT: Duration = Duration::from_millis(10);
    let mut longest = Duration::ZERO;
    while !over.load(Ordering::Relaxed) {
        let before = Instant::now();
        thread::sleep(SHORT);
        longest = longest.max(before.elapsed().saturating_sub(SHORT));
    }
    longest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_checks_run_in_their_turn() {
    let Seen { runs, pause, .. } = load(300, Duration::from_secs(1), Duration::from_secs(6)).await;
    assert!(runs.iter().all(|runs| *runs >= 2), "{runs:?}, longest pause {pause:?}");
    let all = runs.iter().sum::<u32>();
    assert!((600..=2100).contains(&all), "{all} runs");
}

/// Every check runs in each of its intervals, from the first one on. A machine that stops everybody for a while, as one
/// that does much else may, is forgiven that while and what had to be made up for; nothing else is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_checks_miss_no_interval() {
    let interval = Duration::from_secs(10);
    let Seen { runs, pause, stall } = load(5000, interval, Duration::from_secs(32)).await;
    let fewest = runs.iter().min().copied().unwrap_or_default();
    #[allow(clippy::print_stderr, reason = "figures are part of what it is for")]
    {
        eprintln!("5000 checks every {interval:?}: at least {fewest} runs, longest pause {pause:?}, stalls {stall:?}");
    }
    assert!(pause < interval + Duration::from_secs(1) + 3 * stall, "{fewest} runs, longest pause {pause:?}, {stall:?}");
    assert!(fewest >= 2, "{fewest} runs");
}
