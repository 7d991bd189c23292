//! Counting instructions: fixed workloads under callgrind, compared with the counts that are committed.
//!
//! A count does not depend on how busy the machine is, and hardly on the machine: Valgrind shows programs a processor of
//! its own (with AES and AVX2 on every x86-64 machine of the last ten years, never with AVX-512), so the crypto library
//! chooses the same code everywhere. What is left to differ is the compiler, so a baseline is for one of both: the
//! features that Valgrind shows, and the compiler. Without a baseline for what is here nothing is compared, and that is
//! said.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// More than this is a regression.
const TOLERANCE: f64 = 0.05;

/// The crates with workloads.
const CRATES: [&str; 5] = ["lictor-tls", "lictor-model", "lictor-http", "lictor-dns", "lictor-state"];

/// What one workload took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Count {
    /// All instructions.
    all: u64,
    /// Those outside of the crypto library, so that a change of ours does not hide behind it.
    ours: u64,
}

/// Counts by workload, by what they hold for.
type Baseline = BTreeMap<String, BTreeMap<String, Count>>;

fn baseline_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.json")
}

/// Counts all workloads and compares them.
pub(super) fn run(accept: bool, folder: &Path) -> Result<()> {
    if Command::new("valgrind").arg("--version").stdout(Stdio::null()).status().is_err() {
        bail!("valgrind is not installed: `cargo xtask servers` installs it where it may");
    }
    let holds_for = format!("{}; {}", compiler()?, features()?);
    let mut counts = BTreeMap::new();
    for program in build()? {
        for test in workloads(&program)? {
            let count = count(&program, &test, folder)?;
            let name = test.rsplit("::").next().unwrap_or(&test).trim_start_matches("weigh_").replace('_', " ");
            crate::say(&format!("xtask: {:>13} instructions, {:>12} of them ours: {name}", count.all, count.ours));
            counts.insert(name, count);
        }
    }
    let file = baseline_file();
    let mut baseline = read(&file)?;
    if accept {
        baseline.insert(holds_for, counts);
        fs::write(&file, serde_json::to_string_pretty(&baseline)? + "\n").context("cannot write the baseline")?;
        crate::say(&format!("xtask: written: {}", file.display()));
        return Ok(());
    }
    let Some(known) = baseline.get(&holds_for) else {
        let others: Vec<&str> = baseline.keys().map(String::as_str).collect();
        crate::say(&format!(
            "xtask: NOTHING COMPARED: no baseline for this processor and compiler ({holds_for}); there is one for \
             {others:?}. `cargo xtask bench --only instructions --accept` on the commit before adds one."
        ));
        return Ok(());
    };
    let problems = compare(known, &counts);
    if !problems.is_empty() {
        bail!("instructions:\n  {}\nIf that is meant to be: --accept", problems.join("\n  "));
    }
    crate::say("xtask: instructions passed");
    Ok(())
}

/// What is worse than the baseline, or not in it, or gone.
fn compare(known: &BTreeMap<String, Count>, counts: &BTreeMap<String, Count>) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, now) in counts {
        let Some(before) = known.get(name) else {
            problems.push(format!("{name}: not in the baseline"));
            continue;
        };
        for (what, now, before) in [("instructions", now.all, before.all), ("outside of crypto", now.ours, before.ours)]
        {
            let change = now as f64 / before.max(1) as f64 - 1.0;
            if change > TOLERANCE {
                problems.push(format!("{name}: {what}: {before} before, {now} now, {:+.1} %", change * 100.0));
            } else if change < -TOLERANCE {
                let gain = change * 100.0;
                crate::say(&format!("xtask: {name}: {what}: {before} before, {now} now, {gain:+.1} %: accept it"));
            }
        }
    }
    let gone = known.keys().filter(|name| !counts.contains_key(*name));
    problems.extend(gone.map(|name| format!("{name}: in the baseline, but not measured")));
    problems
}

fn read(file: &Path) -> Result<Baseline> {
    match fs::read(file) {
        Ok(text) => serde_json::from_slice(&text).with_context(|| format!("{} is no baseline", file.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Baseline::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
    }
}

fn compiler() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("-vV").output().context("cannot run rustc")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("?").trim().to_owned();
    Ok(format!("{} rustc {}", field("host:"), field("release:")))
}

/// The features that Valgrind shows to programs: this program looks at them from within.
fn features() -> Result<String> {
    let this = std::env::current_exe().context("cannot find this program")?;
    let output = Command::new("valgrind").args(["--quiet", "--tool=none"]).arg(this).arg("features").output()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() || text.is_empty() {
        bail!("cannot look at the processor under valgrind: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(text)
}

/// The features by which the crypto library and the C library choose code, as this process sees them.
pub(crate) fn seen_features() -> String {
    macro_rules! seen {
        ($detected:ident: $($name:tt)*) => {
            [$(($name, std::arch::$detected!($name))),*]
        };
    }
    #[cfg(target_arch = "x86_64")]
    let all =
        seen!(is_x86_feature_detected: "aes" "pclmulqdq" "sse4.1" "avx" "avx2" "bmi2" "adx" "sha" "vaes" "avx512f");
    #[cfg(target_arch = "aarch64")]
    let all = seen!(is_aarch64_feature_detected: "aes" "pmull" "sha2" "sha3" "neon");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let all: [(&str, bool); 0] = [];
    let names: Vec<&str> = all.into_iter().filter(|(_, seen)| *seen).map(|(name, _)| name).collect();
    if names.is_empty() { "no special features".to_owned() } else { names.join(" ") }
}

/// The test programs of the crates with workloads, built as a release is.
fn build() -> Result<Vec<PathBuf>> {
    crate::say("xtask: building the workloads as a release is built");
    let mut command = crate::cargo::cargo();
    command.args(["test", "--profile", "bench", "--locked", "--lib", "--no-run", "--message-format", "json"]);
    CRATES.iter().for_each(|name| {
        command.args(["--package", name]);
    });
    let output = command.stderr(Stdio::inherit()).output().context("cannot run cargo")?;
    if !output.status.success() {
        bail!("the workloads do not build");
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let programs = messages.lines().filter_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        message["executable"].as_str().map(PathBuf::from)
    });
    Ok(programs.collect())
}

/// The names of a test program's workloads.
fn workloads(program: &Path) -> Result<Vec<String>> {
    let output = Command::new(program).args(["--ignored", "--list", "weigh_"]).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
}

fn count(program: &Path, test: &str, folder: &Path) -> Result<Count> {
    let out = folder.join("callgrind.out");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no", "--toggle-collect=*::measured*", "--compress-strings=no"])
        .args(["--compress-pos=no", &format!("--callgrind-out-file={}", out.display())])
        .arg(program)
        .args(["--ignored", "--test-threads", "1", "--exact", test])
        .output()
        .context("cannot run valgrind")?;
    if !output.status.success() {
        bail!("{test} failed under callgrind: {}", String::from_utf8_lossy(&output.stdout).trim());
    }
    let profile = fs::read_to_string(&out).context("callgrind wrote nothing")?;
    fs::remove_file(&out)?;
    let count = add_up(&profile);
    if count.all == 0 {
        bail!("{test}: nothing was counted; is there a function called `measured`?");
    }
    Ok(count)
}

/// Adds up what functions took themselves. A profile has a function's name (`fn=`) and below it lines of a position and a
/// cost; the line behind `calls=` is the cost of what was called, which is counted where it was spent.
fn add_up(profile: &str) -> Count {
    let mut count = Count { all: 0, ours: 0 };
    let (mut is_crypto, mut is_call) = (false, false);
    for line in profile.lines() {
        if let Some(name) = line.strip_prefix("fn=") {
            is_crypto = name.contains("aws_lc");
        } else if line.starts_with("calls=") {
            is_call = true;
        } else if line.starts_with(|first: char| first.is_ascii_digit()) {
            let cost = line.split(' ').nth(1).and_then(|cost| cost.parse::<u64>().ok()).unwrap_or_default();
            if !std::mem::take(&mut is_call) {
                count.all += cost;
                count.ours += if is_crypto { 0 } else { cost };
            }
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(all: &[(&str, u64, u64)]) -> BTreeMap<String, Count> {
        all.iter().map(|(name, all, ours)| ((*name).to_owned(), Count { all: *all, ours: *ours })).collect()
    }

    #[test]
    fn what_a_function_calls_counts_where_it_is_spent() {
        let profile = "events: Ir\n\nfl=a.rs\nfn=pump::turn\n10 5\n11 7\ncfn=aws_lc_0_30_aes\ncalls=2 20\n11 900\n12 1\n\n\
                       fn=aws_lc_0_30_aes\n20 900\n\ntotals: 913\n";
        assert_eq!(add_up(profile), Count { all: 913, ours: 13 });
    }

    #[test]
    fn only_more_than_the_tolerance_is_a_regression() {
        let known = counts(&[("seal", 1000, 100), ("open", 1000, 100)]);
        assert!(compare(&known, &counts(&[("seal", 1049, 104), ("open", 900, 50)])).is_empty());
        let problems = compare(&known, &counts(&[("seal", 1051, 100), ("open", 1000, 106)]));
        assert_eq!(
            problems,
            [
                "open: outside of crypto: 100 before, 106 now, +6.0 %",
                "seal: instructions: 1000 before, 1051 now, +5.1 %"
            ]
        );
    }

    #[test]
    fn a_workload_that_is_new_or_gone_is_a_problem() {
        let problems = compare(&counts(&[("old", 1, 1)]), &counts(&[("new", 1, 1)]));
        assert_eq!(problems, ["new: not in the baseline", "old: in the baseline, but not measured"]);
    }
}
