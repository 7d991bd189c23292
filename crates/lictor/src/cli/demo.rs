//! `lictor demo`: the mesh at work on this machine, with two example services, in half a minute.
//!
//! Everything is real: this very binary runs as agent and as two proxies, in processes of their own, on the durable
//! store in a temporary folder. Only the two example services live in this process. No fixed port, no root, no
//! network beyond loopback.

mod house;
mod load;
mod services;
mod table;

use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use house::House;
use load::Load;
use table::Table;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::command::Command;
use super::{complain, print};
use crate::config::flags::{Flag, Parsed};

/// The command.
pub(crate) const COMMANDS: &[Command] = &[Command::new(
    "demo",
    "Shows the mesh at work with two example services on this machine",
    |flags| Ok(run(flags)),
)
.about(
    "\nStarts an agent with two example services and a proxy for each, sends traffic from one to the other over\n\
             mutual TLS, denies and allows it, and kills the agent and a proxy while requests run.",
)
.flags(&[Flag::bool("keep", "Leave everything running at the end and say what to try next")])];

/// Requests per second while things are killed, on a machine that has room for so many beside everything else.
const RATE: u32 = 1000;
/// How long anything may take before the demo gives up on it.
const PATIENCE: Duration = Duration::from_secs(15);

/// Runs the demo.
fn run(flags: &Parsed) -> ExitCode {
    if let Some(word) = flags.operands.first() {
        complain(&format!("lictor demo: unknown argument {word:?}"));
        return ExitCode::FAILURE;
    }
    let keep = flags.is_set("keep");
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("lictor demo: cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(show(keep)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("\nlictor demo: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn show(keep: bool) -> Result<()> {
    print("lictor demo: two services, a proxy for each, mutual TLS between them\n");
    let mut ends = Ends::new().context("cannot listen for signals")?;
    let mut house = House::build().await?;
    let outcome = tokio::select! {
        outcome = acts(&mut house) => outcome,
        // The processes must not outlive an interrupted demo.
        () = ends.next() => Err(anyhow::anyhow!("interrupted")),
    };
    if outcome.is_err() {
        complain(&house.last_words());
    }
    let kept = keep && outcome.is_ok();
    if kept {
        print(&house.what_next());
        print("\nPress Ctrl-C to stop everything.");
        ends.next().await;
    }
    let cleaned = house.tear_down().await;
    outcome.and(cleaned)
}

/// The signals that end the demo: Ctrl-C, a plain kill, and the end of the terminal. None of them may leave processes.
struct Ends([Signal; 3]);

impl Ends {
    fn new() -> std::io::Result<Ends> {
        Ok(Ends([signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?]))
    }

    async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

async fn acts(house: &mut House) -> Result<()> {
    let mut table = Table::default();
    let mut progress = Progress::default();

    progress.step("start an agent with two services, two lines of Connect for each");
    let begin = Instant::now();
    house.start_agent()?;
    house.wait_for_path(PATIENCE).await.context("no request came through the two proxies")?;
    table.row("first request through both proxies", &format!("{} ms", begin.elapsed().as_millis()), "from exec");

    progress.step("look at who they are");
    let identity = house.identity("web").await?;
    table.row("identity of web", &shortened(&identity.uri), &format!("valid for {}", identity.life));

    progress.step("send 2,000 requests, each on a connection of its own");
    let begin = Instant::now();
    let burst = load::burst(house.entry(), 2000).await;
    // Half of what one client gets through is a load, not an overload.
    let rate = ((1000.0 / begin.elapsed().as_secs_f64()) as u32).clamp(20, RATE);
    ensure!(burst.failed == 0, "{} of 2000 requests failed: {}", burst.failed, burst.first_failure);
    table.row("2,000 fresh connections", "0 failed", &format!("median {} µs", burst.median.as_micros()));

    progress.step("deny web -> hello");
    let live = load::Conversation::open(house.entry()).await.context("cannot open a connection to keep")?;
    let begin = Instant::now();
    let intention = house.intend("deny").await?;
    house.wait_refused(PATIENCE).await.context("new connections were not refused")?;
    let refused = begin.elapsed();
    live.wait_cut(PATIENCE).await.context("the open connection was not cut")?;
    let cut = begin.elapsed();
    table.row(
        "deny: new connections refused",
        &format!("after {} ms", refused.as_millis()),
        &format!("open one cut after {} ms", cut.as_millis()),
    );

    progress.step("allow it again");
    let begin = Instant::now();
    house.forget_intention(&intention).await?;
    house.wait_for_path(PATIENCE).await.context("requests were not allowed again")?;
    table.row("allow: works again", &format!("after {} ms", begin.elapsed().as_millis()), "");

    progress.step(&format!("kill -9 the agent under {rate} requests/s, and start it again"));
    let proxies = house.proxy_pids()?;
    let load = Load::start(house.entry(), rate);
    tokio::time::sleep(Duration::from_millis(500)).await;
    house.kill_agent()?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    house.start_agent()?;
    house.wait_for_agent(PATIENCE).await.context("the agent did not come back")?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let tally = load.stop().await;
    let adopted = house.proxy_pids()? == proxies;
    ensure!(adopted, "the proxies were replaced: they should have been adopted");
    ensure!(tally.failed == 0, "{} of {} requests failed: {}", tally.failed, tally.sent, tally.first_failure);
    table.row("agent killed for 2 s", &format!("{} of {} failed", tally.failed, tally.sent), "same proxies, adopted");

    progress.step("kill -9 the proxy of hello under the same load");
    let load = Load::start(house.entry(), rate);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let begin = Instant::now();
    house.kill_proxy("hello-proxy")?;
    house.wait_new_proxy("hello-proxy", proxies["hello-proxy"], PATIENCE).await?;
    house.wait_for_path(PATIENCE).await.context("the path did not come back")?;
    let back = begin.elapsed();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let tally = load.stop().await;
    table.row(
        "proxy killed: back",
        &format!("after {} ms", back.as_millis()),
        &format!("{} of {} requests met the gap", tally.failed, tally.sent),
    );

    progress.done();
    print(&format!("\n{table}"));
    Ok(())
}

/// An identity with only the beginning of its cluster's id, so that it fits a terminal.
fn shortened(uri: &str) -> String {
    const SHOWN: usize = "spiffe://12345678".len();
    match uri.find(".consul/") {
        Some(end) if end > SHOWN => format!("{}…{}", &uri[..SHOWN], &uri[end..]),
        _ => uri.to_owned(),
    }
}

/// Shows what is being done, and how long it took.
#[derive(Default)]
struct Progress {
    since: Option<Instant>,
}

impl Progress {
    fn step(&mut self, text: &str) {
        self.done();
        self.since = Some(Instant::now());
        let mut out = std::io::stdout();
        // Whoever does not want to see it need not.
        let _ = write!(out, "  - {text:72} ").and_then(|()| out.flush());
    }

    fn done(&mut self) {
        if let Some(since) = self.since.take() {
            print(&format!("{:4.1} s", since.elapsed().as_secs_f64()));
        }
    }
}
