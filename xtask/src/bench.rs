//! `cargo xtask bench`: what keeps it fast. Instructions of fixed workloads are compared with a baseline; pairs of proxies
//! are measured beside those of others, and an agent by itself, and both are said in a table and in plots.

mod control;
mod dataplane;
mod instructions;
mod pairs;
mod plot;
mod process;
mod table;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use pairs::{Ground, Kind};
use table::Samples;

pub(crate) use instructions::seen_features;

pub(crate) const USAGE: &str = "\
bench takes any of
  --only A,B      of: instructions, bulk, ask, connect, memory, start, beside, agent, scale (all of them by default)
  --accept        makes the instructions of today the baseline
  --reps N        repetitions of each figure; their median counts (5)
  --seconds S     length of each load (2)
  --peers A,B     of: nginx, haproxy, stunnel, envoy (those that are installed)
  --hold N        idle connections for the memory of one (1000)
  --lictor FILE   the program, instead of a release build of what is here";

/// What was asked for.
struct Options {
    only: Vec<String>,
    accept: bool,
    reps: usize,
    seconds: f64,
    kinds: Vec<Kind>,
    hold: usize,
    lictor: Option<PathBuf>,
}

impl Options {
    fn parse(words: &[String]) -> Result<Options> {
        let mut options = Options {
            only: Vec::new(),
            accept: false,
            reps: 5,
            seconds: 2.0,
            kinds: Vec::new(),
            hold: 1000,
            lictor: None,
        };
        let mut peers = None;
        let mut rest = words.iter();
        while let Some(word) = rest.next() {
            let mut value = || rest.next().with_context(|| format!("{word} needs a value\n{USAGE}"));
            match word.as_str() {
                "--accept" => options.accept = true,
                "--only" => options.only = value()?.split(',').map(str::to_owned).collect(),
                "--peers" => peers = Some(value()?.split(',').map(str::to_owned).collect::<Vec<_>>()),
                "--reps" => {
                    options.reps = value()?.parse().ok().filter(|reps| *reps > 0).context("--reps N, N above 0")?
                }
                "--seconds" => {
                    let seconds = value()?.parse().ok().filter(|seconds| *seconds >= 0.1 && *seconds <= 600.0);
                    options.seconds = seconds.context("--seconds S, S from 0.1 to 600")?;
                }
                "--hold" => {
                    options.hold = value()?.parse().ok().filter(|hold| *hold > 0).context("--hold N, N above 0")?
                }
                "--lictor" => options.lictor = Some(value()?.into()),
                _ => bail!("unknown option {word:?}\n{USAGE}"),
            }
        }
        let known = || dataplane::GROUPS.into_iter().chain(["instructions", "agent", "scale"]);
        if let Some(unknown) = options.only.iter().find(|group| !known().any(|one| one == *group)) {
            bail!("there is no {unknown:?} to measure\n{USAGE}");
        }
        options.kinds = match peers {
            Some(names) => chosen(&names)?,
            None => Kind::ALL.into_iter().filter(|kind| kind.is_ours() || kind.program().is_some()).collect(),
        };
        Ok(options)
    }

    fn wants(&self, group: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|one| one == group)
    }

    fn wants_pairs(&self) -> bool {
        dataplane::GROUPS.iter().any(|group| self.wants(group))
    }
}

/// Ours and these.
fn chosen(names: &[String]) -> Result<Vec<Kind>> {
    let peers = || Kind::ALL.into_iter().filter(|kind| !kind.is_ours());
    for name in names {
        match peers().find(|kind| kind.name() == name) {
            Some(kind) if kind.program().is_none() => bail!("{name} is not installed"),
            Some(_) => {}
            None => bail!("there is no peer {name:?}\n{USAGE}"),
        }
    }
    Ok(Kind::ALL.into_iter().filter(|kind| kind.is_ours() || names.iter().any(|name| name == kind.name())).collect())
}

/// Runs what was asked for.
pub(crate) fn run(words: &[String]) -> Result<()> {
    let options = Options::parse(words)?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace")?;
    let out = root.join("target/bench");
    fs::create_dir_all(&out)?;
    // What is measured works in a folder that goes with it.
    let folder = tempfile::Builder::new().prefix("lictor-bench-").tempdir()?;
    let measures = options.wants_pairs() || options.wants("agent") || options.wants("scale");
    if measures {
        measure(&options, root, &out, folder.path())?;
    }
    if options.wants("instructions") {
        instructions::run(options.accept, folder.path())?;
    }
    Ok(())
}

fn measure(options: &Options, root: &Path, out: &Path, folder: &Path) -> Result<()> {
    let tool = build(root, &["-p", "lictor-testkit", "--example", "load"], "examples/load")?;
    let lictor = match &options.lictor {
        // A copy: a build that is made meanwhile would change what is measured.
        Some(file) => file.clone(),
        None => build(root, &["-p", "lictor"], "lictor")?,
    };
    let copy = folder.join("program");
    fs::copy(&lictor, &copy).with_context(|| format!("cannot copy {}", lictor.display()))?;
    let mut samples = Samples::default();
    let mut others = None;
    if options.wants_pairs() {
        let ground = Ground::prepare(folder, &copy, &tool)?;
        others = Some(dataplane::run(options, &ground, &mut samples)?);
    }
    if options.wants("agent") {
        control::run(options, &copy, &tool, folder, &mut samples)?;
    }
    let mut report = json!({"machine": machine()?, "reps": options.reps, "seconds": options.seconds, "others": others});
    let mut text = format!("{}\n\n", report["machine"].as_str().unwrap_or_default());
    if !samples.is_empty() {
        let others = others.map_or(String::new(), |cores| {
            format!("; other programs used {cores:.2} cores meanwhile (median), so distrust more the higher that is")
        });
        text.push_str(&format!("Medians of {} repetitions of {} s{others}.\n", options.reps, options.seconds));
        for (name, title, rows) in [
            ("side-by-side", "Pairs of proxies, mutual TLS, beside each other", &dataplane::ROWS[..]),
            ("agent", "The agent by itself", &control::ROWS[..]),
        ] {
            let lines = samples.lines(rows);
            if lines.is_empty() {
                continue;
            }
            text.push_str(&format!("\n## {title}\n\n{}", table::markdown(&lines)));
            report[name] = table::to_json(&lines, &samples);
            fs::write(out.join(format!("{name}.svg")), plot::bars(title, &lines))?;
        }
    }
    if options.wants("scale") {
        let curves = control::scale(options, &copy, &tool, folder)?;
        let title = "What one change costs the agent";
        let svg = plot::curves(title, "how many there are", "µs of processor time per registration", &curves);
        fs::write(out.join("change-cost.svg"), svg)?;
        text.push_str(&format!(
            "\n## {title}\n\n| beside | how many | processor µs per registration |\n|---|---:|---:|\n"
        ));
        let mut all = Vec::new();
        for curve in &curves {
            for (count, cost) in &curve.points {
                text.push_str(&format!("| {} | {} | {} |\n", curve.name, table::shown(*count), table::shown(*cost)));
                all.push(json!({"beside": curve.name, "count": count, "microseconds": cost}));
            }
        }
        report["change_cost"] = Value::Array(all);
    }
    fs::write(out.join("table.md"), &text)?;
    fs::write(out.join("table.json"), serde_json::to_string_pretty(&report)? + "\n")?;
    crate::say(&text);
    crate::say(&format!("xtask: tables and plots are in {}", out.display()));
    Ok(())
}

/// Builds a program as it is shipped.
fn build(root: &Path, words: &[&str], program: &str) -> Result<PathBuf> {
    let mut command = crate::cargo::cargo();
    command.args(["build", "--release", "--locked"]).args(words).current_dir(root);
    if !command.status().context("cannot run cargo build")?.success() {
        bail!("the release build of {program} failed");
    }
    Ok(root.join("target/release").join(program))
}

/// What it was measured on.
fn machine() -> Result<String> {
    let first = |file: &str, name: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':').map(|rest| rest.trim().to_owned()))
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let model = first("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read the kernel's version")?;
    let control = fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").unwrap_or_default();
    Ok(format!("{cores} cores of {model}, kernel {}, congestion control {}.", kernel.trim(), control.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Options> {
        Options::parse(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn options_are_read_and_mistakes_named() {
        let options = parse("--only bulk,agent --reps 3 --seconds 0.5 --hold 10").unwrap();
        assert!(options.wants("bulk") && options.wants("agent") && !options.wants("ask") && options.wants_pairs());
        assert!(!parse("--only instructions --accept").unwrap().wants_pairs());
        assert!(parse("").unwrap().wants("scale"));
        for (words, problem) in [
            ("--only bulk,speed", "there is no \"speed\" to measure"),
            ("--reps 0", "--reps N, N above 0"),
            ("--seconds nan", "--seconds S, S from 0.1 to 600"),
            ("--peers lictor", "there is no peer \"lictor\""),
            ("--lictor", "--lictor needs a value"),
            ("fast", "unknown option \"fast\""),
        ] {
            let error = parse(words).map(|_| ()).unwrap_err().to_string();
            assert!(error.starts_with(problem), "{words}: {error}");
        }
    }
}
