//! Builds the targets of `fuzz/` with the coverage that a fuzzer needs, and lets them look for findings.
//!
//! Stable Rust can do it: what `cargo fuzz` adds beyond these flags are sanitizers, and those look for mistakes that
//! code without `unsafe` cannot make.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

/// How long each target runs unless somebody says otherwise.
const MINUTES: f64 = 1.0;

/// Counters and comparisons for the fuzzer; the promises in `fuzz` modules are compiled in.
const FLAGS: [&str; 8] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
    "-Ccodegen-units=1",
];

/// Inputs longer than this say nothing new, and slow everything down.
const MAX_INPUT: u32 = 4096;

/// What was asked for.
struct Wanted {
    target: Option<String>,
    minutes: f64,
}

/// `fuzz [TARGET] [--minutes N]`: one target, or all of them, two at a time.
pub(crate) fn run(words: &[String]) -> Result<()> {
    let wanted = read(words)?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().context("cannot find the project")?;
    let known = targets(&root)?;
    let chosen: Vec<&String> = match &wanted.target {
        None => known.iter().collect(),
        Some(target) => known.iter().filter(|known| *known == target).collect(),
    };
    if chosen.is_empty() {
        bail!("there is no such target; there are: {}", known.join(", "));
    }
    let binaries = build(&root)?;
    let mut found = Vec::new();
    for pair in chosen.chunks(2) {
        let mut running = Vec::new();
        for target in pair {
            crate::say(&format!("xtask: fuzz {target} for {} minutes", wanted.minutes));
            running.push((target, start(&root, &binaries, target, wanted.minutes)?));
        }
        for (target, mut child) in running {
            if !child.wait().with_context(|| format!("cannot wait for {target}"))?.success() {
                found.push(target.as_str());
            }
        }
    }
    if !found.is_empty() {
        bail!(
            "findings in: {}. The inputs are in fuzz/artifacts, what was wrong in fuzz/artifacts/TARGET.log. Mend it, \
             and keep the input in fuzz/findings/TARGET",
            found.join(", ")
        );
    }
    crate::say("xtask: fuzz found nothing");
    Ok(())
}

fn read(words: &[String]) -> Result<Wanted> {
    let mut wanted = Wanted { target: None, minutes: MINUTES };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match (word.as_str(), &wanted.target) {
            ("--minutes", _) => {
                wanted.minutes = words
                    .next()
                    .and_then(|minutes| minutes.parse().ok())
                    .filter(|minutes| *minutes > 0.0)
                    .context("--minutes needs a number above 0")?;
            }
            (word, None) if !word.starts_with('-') => wanted.target = Some(word.to_owned()),
            _ => bail!("fuzz takes [TARGET] [--minutes N]"),
        }
    }
    Ok(wanted)
}

/// The targets are a workspace of their own, whose lock file follows the manifests of our crates by hand.
pub(crate) fn locked() -> Result<()> {
    crate::say("xtask: lock file of the fuzz targets");
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/Cargo.toml");
    let status = crate::cargo::cargo()
        .args(["metadata", "--locked", "--format-version", "1", "--manifest-path"])
        .arg(&manifest)
        .stdout(Stdio::null())
        .status()
        .context("cannot run cargo")?;
    if !status.success() {
        bail!("fuzz/Cargo.lock does not fit our manifests: `cargo update --workspace --manifest-path fuzz/Cargo.toml`");
    }
    Ok(())
}

/// The names of the targets: one file each.
fn targets(root: &Path) -> Result<Vec<String>> {
    let folder = root.join("fuzz/fuzz_targets");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry.with_context(|| format!("cannot list {}", folder.display()))?.path();
        names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

/// Builds all targets; where they are.
fn build(root: &Path) -> Result<PathBuf> {
    crate::say("xtask: build the fuzz targets");
    // Named, so that the flags are not for build scripts and macros, which no fuzzer runs.
    let triple = host()?;
    let folder = root.join("target/fuzz");
    let status = crate::cargo::cargo()
        .args(["build", "--release", "--locked", "--target", &triple, "--manifest-path"])
        .arg(root.join("fuzz/Cargo.toml"))
        .arg("--target-dir")
        .arg(&folder)
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\u{1f}"))
        .status()
        .context("cannot run cargo")?;
    if !status.success() {
        bail!("the fuzz targets do not build");
    }
    Ok(folder.join(triple).join("release"))
}

/// What the compiler calls this machine.
pub(crate) fn host() -> Result<String> {
    let output = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .arg("-vV")
        .output()
        .context("cannot run rustc")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc -vV names no host")
}

/// Starts one target. What it learns goes to `target/fuzz/corpus`, so that the seeds stay few; what it says, to a file.
fn start(root: &Path, binaries: &Path, target: &str, minutes: f64) -> Result<Child> {
    let seeds = root.join("fuzz/corpus").join(target);
    let findings = root.join("fuzz/findings").join(target);
    let learned = root.join("target/fuzz/corpus").join(target);
    let artifacts = root.join("fuzz/artifacts");
    for folder in [&learned, &artifacts] {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let log = artifacts.join(format!("{target}.log"));
    let out = std::fs::File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
    let mut command = Command::new(binaries.join(target));
    command
        .arg(format!("-max_total_time={}", (minutes * 60.0).ceil()))
        .arg(format!("-max_len={MAX_INPUT}"))
        .arg(format!("-artifact_prefix={}/{target}-", artifacts.display()))
        .args(["-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1"])
        .args([&learned, &seeds]);
    if findings.exists() {
        command.arg(&findings);
    }
    command
        .env("RUST_BACKTRACE", "1")
        .stdout(out.try_clone().context("cannot share the log")?)
        .stderr(out)
        .spawn()
        .with_context(|| format!("cannot start the fuzz target {target}"))
}
