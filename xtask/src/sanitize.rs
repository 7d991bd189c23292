//! Runs the tests that reach our `unsafe` code with AddressSanitizer: in the test programs, and in the agents and proxies
//! that the tests of whole processes start.
//!
//! All of that code speaks to the kernel (descriptors, `fork`, `madvise`), which Miri cannot follow. The sanitizer is part
//! of a stable compiler, but its flag is not stable yet, hence the variable that allows it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// The tests: those within the crates, and those of processes that hand over descriptors and give memory back.
const TESTS: [&str; 9] =
    ["--lib", "--bin", "lictor", "--test", "processes", "--test", "managed_handover", "--test", "direct"];

/// What stands wherever a crate allows itself such code: all others are denied it by the lints of the workspace.
const ALLOWED: &str = "unsafe_code";

pub(crate) fn run() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().context("cannot find the project")?;
    let folder = root.join("target/sanitize");
    let reports = folder.join("reports");
    if reports.exists() {
        fs::remove_dir_all(&reports).with_context(|| format!("cannot remove {}", reports.display()))?;
    }
    fs::create_dir_all(&reports).with_context(|| format!("cannot create {}", reports.display()))?;
    crate::say("xtask: the tests of unsafe code, with AddressSanitizer");
    let status = crate::cargo::cargo()
        // Named, so that the flags are not for build scripts and macros.
        .args(["test", "--locked", "--no-fail-fast", "--target", &crate::fuzz::host()?])
        .args(packages(&root.join("crates"))?.iter().flat_map(|package| ["--package", package]))
        .args(TESTS)
        .arg("--target-dir")
        .arg(&folder)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", "-Zsanitizer=address")
        // In files, because a process that a test started may speak to nobody. What is left at an end is no leak: the
        // kernel takes it back, and the look for it needs rights that a proxy has given up.
        .env("ASAN_OPTIONS", format!("detect_leaks=0:log_path={}/report", reports.display()))
        .status()
        .context("cannot run cargo")?;
    let found: Vec<String> = fs::read_dir(&reports)
        .with_context(|| format!("cannot read {}", reports.display()))?
        .filter_map(|entry| Some(entry.ok()?.path().display().to_string()))
        .collect();
    if !found.is_empty() {
        bail!("the sanitizer has found something: {}", found.join(", "));
    }
    if !status.success() {
        bail!("tests failed");
    }
    Ok(())
}

/// The packages that have `unsafe` code. Tests of the others take many times as long with the sanitizer, for nothing.
fn packages(crates: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for folder in fs::read_dir(crates).with_context(|| format!("cannot read {}", crates.display()))? {
        let folder = folder?.path();
        if allows(&folder.join("src"))? {
            let name = folder.file_name().unwrap_or_default().to_string_lossy();
            found.push(if name == "lictor" { name.into_owned() } else { format!("lictor-{name}") });
        }
    }
    if found.is_empty() {
        bail!("no crate has `unsafe` code: the sanitizer has nothing to look at");
    }
    Ok(found)
}

/// Whether a source file somewhere in a folder allows itself `unsafe` code.
fn allows(folder: &Path) -> Result<bool> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        let found = if path.is_dir() {
            allows(&path)?
        } else {
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?.contains(ALLOWED)
        };
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}
