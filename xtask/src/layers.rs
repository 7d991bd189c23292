//! Whether the arrows between our crates, and to the dependencies that only one of them may see, are as decided.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Which of our crates each may use. ARCHITECTURE.md says why; a change here is a change of architecture.
const ARROWS: [(&str, &[&str]); 17] = [
    ("model", &[]),
    ("task", &[]),
    ("meter", &[]),
    ("notation", &[]),
    ("store", &["task"]),
    ("tls", &["model"]),
    ("ca", &["model"]),
    ("api", &["model", "task", "notation", "tls"]),
    ("check", &["model", "task", "tls"]),
    ("supervisor", &["task"]),
    ("state", &["model", "task", "notation", "store"]),
    ("agent", &["model", "task", "meter", "state", "ca", "check", "supervisor"]),
    ("link", &["model", "task", "tls", "api", "state", "agent"]),
    ("http", &["model", "task", "meter", "notation", "tls", "api", "state", "agent", "link"]),
    ("dns", &["model", "task", "meter", "state"]),
    ("proxy", &["model", "task", "tls", "api"]),
    ("testkit", &[]),
];

/// Dependencies that only some rooms may see: the walls that keep a choice of library in one place.
const WALLS: [(&str, &[&str]); 12] = [
    ("redb", &["store"]),
    ("tonic", &["store"]),
    ("tonic-prost", &["store"]),
    ("prost", &["store"]),
    ("rcgen", &["ca"]),
    ("rustls", &["tls"]),
    ("tokio-rustls", &["tls"]),
    ("rustls-webpki", &["tls", "ca"]),
    ("hickory-proto", &["dns"]),
    ("flate2", &["http", "check"]),
    ("tar", &["http"]),
    ("tracing-subscriber", &[]),
];

/// Compares the manifests with the tables.
pub(crate) fn check() -> Result<()> {
    let output = crate::cargo::cargo()
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .output()
        .context("cannot run cargo metadata")?;
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata gave no JSON")?;
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.into_iter().collect();
    let mut problems = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(room) = name.strip_prefix("lictor-") else { continue };
        let Some(arrows) = allowed.get(room) else {
            problems.push(format!("{name} is not in the table of arrows"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            // What tests and the fuzzer use is no part of the room.
            if dependency["kind"].as_str() == Some("dev") || dependency["target"].as_str() == Some("cfg(fuzzing)") {
                continue;
            }
            let other = dependency["name"].as_str().unwrap_or_default();
            if let Some(other) = other.strip_prefix("lictor-")
                && !arrows.contains(&other)
            {
                problems.push(format!("{room} may not use {other}"));
            }
            if let Some((_, rooms)) = WALLS.iter().find(|(library, _)| *library == other)
                && !rooms.contains(&room)
            {
                problems.push(format!("{room} may not see {other}"));
            }
        }
    }
    if !problems.is_empty() {
        bail!("layers:\n  {}", problems.join("\n  "));
    }
    crate::say("xtask: layers passed");
    Ok(())
}
