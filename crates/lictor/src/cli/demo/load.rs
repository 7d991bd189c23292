//! Requests: one after the other, many at a steady rate, or a conversation that is kept open.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::services::GREETING;

/// A request that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(5);
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: hello\r\n\r\n";

/// What became of many requests.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) sent: u32,
    pub(super) failed: u32,
    pub(super) first_failure: String,
    pub(super) median: Duration,
}

impl Tally {
    fn of(outcomes: Vec<Result<Duration>>) -> Tally {
        let mut tally = Tally::default();
        let mut times = Vec::with_capacity(outcomes.len());
        for outcome in outcomes {
            tally.sent += 1;
            match outcome {
                Ok(time) => times.push(time),
                Err(error) => {
                    tally.failed += 1;
                    if tally.first_failure.is_empty() {
                        tally.first_failure = format!("{error:#}");
                    }
                }
            }
        }
        times.sort_unstable();
        tally.median = times.get(times.len() / 2).copied().unwrap_or_default();
        tally
    }
}

/// One request on a connection of its own.
pub(super) async fn request(entry: SocketAddr) -> Result<Duration> {
    let begin = Instant::now();
    tokio::time::timeout(LIMIT, async {
        let mut connection = TcpStream::connect(entry).await.context("connect")?;
        connection.set_nodelay(true)?;
        exchange(&mut connection).await
    })
    .await
    .context("no answer in time")??;
    Ok(begin.elapsed())
}

async fn exchange(connection: &mut TcpStream) -> Result<()> {
    connection.write_all(REQUEST).await.context("send")?;
    let mut answer = Vec::with_capacity(256);
    while !answer.ends_with(GREETING.as_bytes()) {
        let read = connection.read_buf(&mut answer).await.context("receive")?;
        ensure!(read > 0, "the connection ended after {} bytes", answer.len());
        ensure!(answer.len() < 4096, "an answer without end");
    }
    if !answer.starts_with(b"HTTP/1.1 200") {
        bail!("an answer that is no HTTP");
    }
    Ok(())
}

/// Requests one after the other.
pub(super) async fn burst(entry: SocketAddr, count: u32) -> Tally {
    let mut outcomes = Vec::new();
    for _ in 0..count {
        outcomes.push(request(entry).await);
    }
    Tally::of(outcomes)
}

/// Requests at a steady rate until told to stop; each on a connection of its own, so that new connections are what is
/// tested.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Tally>,
}

impl Load {
    pub(super) fn start(entry: SocketAddr, per_second: u32) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let mut requests = JoinSet::new();
            let mut outcomes = Vec::new();
            let mut ticks = tokio::time::interval(Duration::from_secs(1) / per_second);
            // After a pause of the machine the rate goes on; what was missed is not made up for all at once.
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while !stopped.load(Ordering::Relaxed) {
                ticks.tick().await;
                requests.spawn(request(entry));
                while let Some(Ok(outcome)) = requests.try_join_next() {
                    outcomes.push(outcome);
                }
            }
            while let Some(Ok(outcome)) = requests.join_next().await {
                outcomes.push(outcome);
            }
            Tally::of(outcomes)
        });
        Load { stop, task }
    }

    /// Waits for the requests under way.
    pub(super) async fn stop(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap_or_default()
    }
}

/// A connection that is kept open.
pub(super) struct Conversation(TcpStream);

impl Conversation {
    pub(super) async fn open(entry: SocketAddr) -> Result<Conversation> {
        let mut connection = TcpStream::connect(entry).await?;
        exchange(&mut connection).await?;
        Ok(Conversation(connection))
    }

    /// Waits until the other side ends it.
    pub(super) async fn wait_cut(mut self, limit: Duration) -> Result<()> {
        let mut byte = [0];
        let read = tokio::time::timeout(limit, self.0.read(&mut byte)).await.context("it is still open")?;
        match read {
            Ok(0) | Err(_) => Ok(()),
            Ok(_) => bail!("bytes nobody asked for"),
        }
    }
}
