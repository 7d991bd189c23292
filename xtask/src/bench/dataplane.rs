//! Figures of pairs of proxies beside each other: every repetition measures all of them, each time in another order.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::Options;
use super::pairs::{Ground, Kind, Pair};
use super::process::{self, Held, load, others, processor, resident};
use super::table::Better::{Less, More};
use super::table::Target::{Figure, None as NoTarget, OfBest};
use super::table::{Row, Samples};

const OURS: &str = "lictor";
const WHOLE: &str = "lictor, reuse off";
const DIRECT: &str = "lictor, direct";

const fn row(
    key: &'static str,
    label: &'static str,
    unit: &'static str,
    better: super::table::Better,
    target: super::table::Target,
    ours: &'static str,
) -> Row {
    Row { key, label, unit, better, target, ours }
}

/// The figures, with the targets that were set for them.
pub(super) const ROWS: [Row; 34] = [
    row("up1", "bulk up, 1 stream", "Gbit/s", More, OfBest(1.15), OURS),
    row("down1", "bulk down, 1 stream", "Gbit/s", More, OfBest(1.15), OURS),
    row("up4", "bulk up, 4 streams", "Gbit/s", More, OfBest(1.25), OURS),
    row("down4", "bulk down, 4 streams", "Gbit/s", More, OfBest(1.25), OURS),
    row("up1_cpu", "processor, bulk up, 1 stream", "s/GB", Less, OfBest(0.75), OURS),
    row("down1_cpu", "processor, bulk down, 1 stream", "s/GB", Less, OfBest(0.75), OURS),
    row("up4_cpu", "processor, bulk up, 4 streams", "s/GB", Less, OfBest(0.75), OURS),
    row("down4_cpu", "processor, bulk down, 4 streams", "s/GB", Less, OfBest(0.75), OURS),
    row("up1", "direct path: bulk up, 1 stream", "Gbit/s", More, OfBest(2.0), DIRECT),
    row("down1", "direct path: bulk down, 1 stream", "Gbit/s", More, OfBest(2.0), DIRECT),
    row("up4", "direct path: bulk up, 4 streams", "Gbit/s", More, OfBest(2.0), DIRECT),
    row("down4", "direct path: bulk down, 4 streams", "Gbit/s", More, OfBest(2.0), DIRECT),
    row("ask1_p50", "answer p50, 1 connection", "µs", Less, OfBest(0.9), OURS),
    row("ask1_p99", "answer p99, 1 connection", "µs", Less, NoTarget, OURS),
    row("ask64_rate", "answers, 64 connections", "1/s", More, OfBest(1.15), OURS),
    row("ask64_p99", "answer p99, 64 connections", "µs", Less, OfBest(0.25), OURS),
    row("ask64_cpu", "processor per answer, 64 connections", "µs", Less, OfBest(0.85), OURS),
    row("ask1_p50", "direct path: answer p50, 1 connection", "µs", Less, NoTarget, DIRECT),
    row("ask64_rate", "direct path: answers, 64 connections", "1/s", More, NoTarget, DIRECT),
    row("fresh_rate", "fresh connections, whole handshakes, 16 at once", "1/s", More, OfBest(1.6), WHOLE),
    row("fresh_rate", "fresh connections, 16 at once", "1/s", More, OfBest(4.3), OURS),
    row("fresh_p99", "fresh connection to its answer p99, 16 at once", "µs", Less, NoTarget, OURS),
    row("fresh_cpu", "processor per fresh connection", "µs", Less, OfBest(0.18), OURS),
    row("fresh_rate", "direct path: fresh connections, 16 at once", "1/s", More, OfBest(4.8), DIRECT),
    row("idle", "resident, idle pair", "MB", Less, Figure(12.0), OURS),
    row("per_connection", "resident per idle connection, both ends", "kB", Less, Figure(10.0), OURS),
    row("start_one", "start of one proxy", "ms", Less, Figure(25.0), OURS),
    row("start_pair", "start of all, to the first answer", "ms", Less, NoTarget, OURS),
    row("beside_p50", "answer p50 beside a bulk stream", "µs", Less, NoTarget, OURS),
    row("beside_p99", "answer p99 beside a bulk stream", "µs", Less, NoTarget, OURS),
    row("beside_ratio", "answer p50 beside a bulk stream, to that without", "×", Less, Figure(1.2), OURS),
    row("beside_bulk", "bulk down beside an asker", "Gbit/s", More, NoTarget, OURS),
    row(
        "beside_ratio",
        "direct path: answer p50 beside a bulk stream, to that without",
        "×",
        Less,
        Figure(1.2),
        DIRECT,
    ),
    row("beside_bulk", "direct path: bulk down beside an asker", "Gbit/s", More, NoTarget, DIRECT),
];

/// Who is measured with what.
fn takes_part(kind: Kind, group: &str) -> bool {
    match kind {
        Kind::LictorWhole => group == "connect",
        Kind::LictorDirect => !matches!(group, "memory" | "start"),
        _ => true,
    }
}

pub(super) const GROUPS: [&str; 6] = ["bulk", "ask", "connect", "memory", "start", "beside"];

/// Measures; gives for how much of the processor others were responsible, in cores.
pub(super) fn run(options: &Options, ground: &Ground, samples: &mut Samples) -> Result<f64> {
    let mut disturbance = Vec::new();
    for repetition in 0..options.reps {
        for group in GROUPS.into_iter().filter(|group| options.wants(group)) {
            let mut kinds: Vec<Kind> = options.kinds.clone();
            let shift = repetition % kinds.len().max(1);
            kinds.rotate_left(shift);
            for kind in kinds.into_iter().filter(|kind| takes_part(*kind, group)) {
                let mut pair = Pair::start(ground, kind)?;
                let ours = || {
                    let mut all = pair.all_pids();
                    all.extend(process::with_descendants([std::process::id()]));
                    all
                };
                let ours = ours();
                let (before, started) = (others(&ours), std::time::Instant::now());
                let meter = Meter { options, ground, pids: pair.pids() };
                let figures = match group {
                    "bulk" => meter.bulk(pair.entry),
                    "ask" => meter.ask(pair.entry),
                    "connect" => meter.connect(pair.entry),
                    "memory" => meter.memory(&pair),
                    "start" => meter.start(&mut pair),
                    _ => meter.beside(pair.entry),
                };
                let figures = figures.with_context(|| format!("{group} of {}", kind.name()))?;
                disturbance.push((others(&ours) - before).max(0.0) / started.elapsed().as_secs_f64());
                for (key, value) in figures {
                    samples.note(key, kind.name(), value);
                }
            }
            crate::say(&format!("xtask: {group}, repetition {} of {}", repetition + 1, options.reps));
        }
    }
    disturbance.sort_unstable_by(f64::total_cmp);
    Ok(disturbance.get(disturbance.len() / 2).copied().unwrap_or_default())
}

type Figures = Result<Vec<(&'static str, f64)>>;

struct Meter<'a> {
    options: &'a Options,
    ground: &'a Ground,
    pids: BTreeSet<u32>,
}

impl Meter<'_> {
    /// Runs one command of the load; gives its report and what the proxies used meanwhile.
    fn load(&self, words: &[&str]) -> Result<(Value, f64)> {
        let before = processor(&self.pids);
        let report = load(&self.ground.load, words)?;
        Ok((report, processor(&self.pids) - before))
    }

    fn seconds(&self) -> String {
        self.options.seconds.to_string()
    }

    fn bulk(&self, entry: u16) -> Figures {
        let (entry, seconds) = (entry.to_string(), self.seconds());
        let mut figures = Vec::new();
        for (rate, cpu, way, streams) in [
            ("up1", "up1_cpu", "up", "1"),
            ("down1", "down1_cpu", "down", "1"),
            ("up4", "up4_cpu", "up", "4"),
            ("down4", "down4_cpu", "down", "4"),
        ] {
            let (report, used) = self.load(&["bulk", &entry, way, streams, &seconds])?;
            let bytes = number(&report, "bytes")?;
            figures.push((rate, bytes * 8.0 / number(&report, "seconds")? / 1e9));
            figures.push((cpu, used / (bytes / 1e9)));
        }
        Ok(figures)
    }

    fn ask(&self, entry: u16) -> Figures {
        let (entry, seconds) = (entry.to_string(), self.seconds());
        self.load(&["ask", &entry, "4", "0.3"])?;
        let (one, _) = self.load(&["ask", &entry, "1", &seconds])?;
        let (many, used) = self.load(&["ask", &entry, "64", &seconds])?;
        let count = number(&many, "count")?;
        Ok(vec![
            ("ask1_p50", number(&one, "p50")?),
            ("ask1_p99", number(&one, "p99")?),
            ("ask64_rate", count / number(&many, "seconds")?),
            ("ask64_p99", number(&many, "p99")?),
            ("ask64_cpu", used / count * 1e6),
        ])
    }

    fn connect(&self, entry: u16) -> Figures {
        let (entry, seconds) = (entry.to_string(), self.seconds());
        self.load(&["connect", &entry, "4", "0.3"])?;
        let (report, used) = self.load(&["connect", &entry, "16", &seconds])?;
        let count = number(&report, "count")?;
        Ok(vec![
            ("fresh_rate", count / number(&report, "seconds")?),
            ("fresh_p99", number(&report, "p99")?),
            ("fresh_cpu", used / count * 1e6),
        ])
    }

    fn memory(&self, pair: &Pair) -> Figures {
        let idle = settled(&pair.pids());
        let count = self.options.hold.to_string();
        let mut held = Held::start(&self.ground.load, &["hold", &pair.entry.to_string(), &count])?;
        let there = number(&held.report()?, "held")?;
        let loaded = settled(&pair.pids());
        held.finish()?;
        Ok(vec![("idle", idle / 1024.0), ("per_connection", (loaded - idle) / there)])
    }

    fn start(&self, pair: &mut Pair) -> Figures {
        let whole = pair.start;
        Ok(vec![("start_one", pair.start_of_one(self.ground)? * 1e3), ("start_pair", whole * 1e3)])
    }

    fn beside(&self, entry: u16) -> Figures {
        let (entry, seconds) = (entry.to_string(), self.seconds());
        let (alone, _) = self.load(&["ask", &entry, "1", &seconds])?;
        let longer = (self.options.seconds + 0.5).to_string();
        let bulk = Held::start(&self.ground.load, &["bulk", &entry, "down", "1", &longer])?;
        // The stream is under way by then, and still is when the asker ends.
        std::thread::sleep(Duration::from_millis(200));
        let (beside, _) = self.load(&["ask", &entry, "1", &seconds])?;
        let bulk = bulk.finish()?;
        let (with, without) = (number(&beside, "p50")?, number(&alone, "p50")?);
        Ok(vec![
            ("beside_p50", with),
            ("beside_p99", number(&beside, "p99")?),
            ("beside_ratio", with / without),
            ("beside_bulk", number(&bulk, "bytes")? * 8.0 / number(&bulk, "seconds")? / 1e9),
        ])
    }
}

/// What processes hold once it does not change any more: pages are given back a while after the last use.
pub(super) fn settled(pids: &BTreeSet<u32>) -> f64 {
    let mut last = resident(pids);
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(500));
        let now = resident(pids);
        if (now - last).abs() <= last * 0.005 {
            return now;
        }
        last = now;
    }
    last
}

/// A number of a report.
pub(super) fn number(report: &Value, name: &str) -> Result<f64> {
    report[name].as_f64().with_context(|| format!("no {name} in the report {report}"))
}
