//! The steps of the gate, each one command of cargo.

use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::unsteady;

/// Every file is formatted.
pub(crate) fn format() -> Result<()> {
    cargo("format", &["fmt", "--all", "--check"], &[])
}

/// No lint complains, in tests and examples neither.
pub(crate) fn lints() -> Result<()> {
    cargo("lints", &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"], &[])
}

/// The documentation builds without a warning.
pub(crate) fn docs() -> Result<()> {
    cargo(
        "docs",
        &["doc", "--workspace", "--no-deps", "--document-private-items", "--locked"],
        &[("RUSTDOCFLAGS", "-D warnings")],
    )
}

/// The binary.
pub(crate) fn build() -> Result<()> {
    cargo("build", &["build", "--locked", "-p", "lictor"], &[])
}

/// Histories of clients under faults, many more than the gate has.
pub(crate) fn histories() -> Result<()> {
    let test = ["test", "--locked", "--workspace", "--test", "cluster", "linearizable_whatever", "--", "--nocapture"];
    cargo("histories", &test, &[("LICTOR_RUNS", "20")])
}

/// Figures of a cluster, of the program as it is shipped.
pub(crate) fn cluster_figures() -> Result<()> {
    let test = [
        "test",
        "--release",
        "--locked",
        "--workspace",
        "--test",
        "cluster",
        "figures_of",
        "--",
        "--ignored",
        "--nocapture",
    ];
    cargo("figures of a cluster", &test, &[])
}

/// All tests. The binary that the tests of the whole house start is built with them.
///
/// Tests of whole processes share two cores with each other and with whatever else the machine does, and have limits that
/// hold on an ordinary day. One that fails among the others gets one more chance, alone; it is named as unsteady then,
/// which is a bug to be mended, but no reason to distrust the change at hand. Tests within a crate get none.
pub(crate) fn tests() -> Result<Vec<String>> {
    let failed = unsteady::run(&["test", "--workspace", "--locked", "--no-fail-fast"])?;
    for test in &failed {
        let alone = ["test", "--workspace", "--locked", "--test", &test.program, "--", "--exact", &test.name];
        cargo(&format!("{test}, which failed among the others, alone"), &alone, &[])?;
    }
    Ok(failed.iter().map(ToString::to_string).collect())
}

/// Chaos for some minutes, and ten gigabytes for each of them, with the program as it is shipped: without optimisation it is the
/// test's rate that suffers first on a slow machine. One test after the other, so that each has the machine for itself.
pub(crate) fn soak(minutes: f64) -> Result<()> {
    let gigabytes = (minutes * 10.0).ceil();
    cargo(
        "soak",
        &[
            "test",
            "--release",
            "--workspace",
            "--locked",
            "--test",
            "soak",
            "--test",
            "volume",
            "--",
            "--nocapture",
            "--test-threads",
            "1",
        ],
        &[("LICTOR_SOAK_MINUTES", &minutes.to_string()), ("LICTOR_SOAK_GB", &gigabytes.to_string())],
    )
}

fn cargo(step: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Result<()> {
    let started = Instant::now();
    crate::say(&format!("xtask: {step}"));
    let status = crate::cargo::cargo()
        .args(arguments)
        .envs(environment.iter().copied())
        .status()
        .with_context(|| format!("cannot run cargo {}", arguments.join(" ")))?;
    if !status.success() {
        bail!("{step} failed: cargo {}", arguments.join(" "));
    }
    crate::say(&format!("xtask: {step} passed in {:.0} s", started.elapsed().as_secs_f64()));
    Ok(())
}
