//! `lictor store`: where the state is kept, looked through and moved.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use lictor_api::client::Request;

use super::client::Agent;
use super::command::{Command, Outcome, done};
use super::print;
use crate::config::flags::{Flag, Parsed};
use crate::config::{self, Sources};
use crate::storage::StoreChoice;

/// The commands.
pub(crate) const COMMANDS: &[Command] = &[
    Command::new(
        "store check",
        "Looks a store through: can everything be read, does everything belong together",
        check,
    )
    .operands("CONFIG_FILE_OR_DIRECTORY...")
    .about(
        "The store is the one that the configuration names: a file, which no agent may have open, or etcd, which \
             may be in use. Exits with 2 when something is wrong.",
    )
    .flags(&[Flag::text("file", "Checks this store file, without a configuration")]),
    Command::new("store move", "Moves the state of a running agent to where its configuration now says", relocate)
        .about(
            "First change `store` in the configuration of the agent, and do not restart it: this command makes it read \
             the configuration and copy its state there. Reads go on; writes wait until the copy is compared and \
             switched to. When anything fails, all stays where it is. The sealing key must stay the same.",
        )
        .asks_agent(),
];

fn relocate(flags: &Parsed) -> Outcome {
    let done_text: String =
        Agent::reach(flags)?.read(Request::put("/v1/operator/store/move")).context("Error moving the store")?;
    print(&done_text);
    done()
}

fn check(flags: &Parsed) -> Outcome {
    let findings = match flags.text("file") {
        Some(file) => check_file(PathBuf::from(file))?,
        None => check_configured(flags)?,
    };
    for finding in &findings {
        print(&format!("WRONG: {finding}"));
    }
    if findings.is_empty() {
        print("The store is sound.");
        return done();
    }
    Ok(std::process::ExitCode::from(2))
}

fn check_configured(flags: &Parsed) -> Result<Vec<String>> {
    if flags.operands.is_empty() {
        bail!("Must specify the configuration that names the store, or -file");
    }
    let sources = Sources::from_paths(flags.operands.iter().map(PathBuf::from), None);
    let loaded = config::validate(&sources).map_err(|errors| anyhow::anyhow!("{errors}"))?;
    let choice = StoreChoice::new(&loaded.config.store, loaded.config.node.data_dir.as_deref());
    match choice.map_err(anyhow::Error::msg)? {
        StoreChoice::Memory => bail!("a store in memory has nothing to check"),
        StoreChoice::Redb(path) => check_file(path),
        choice @ StoreChoice::Etcd(_) => runtime()?.block_on(async {
            let opened = tokio::time::timeout(crate::storage::ANSWER, choice.open()).await;
            let store = opened.with_context(|| format!("{choice} does not answer"))??;
            let findings = inspect(&store).await;
            store.close().await;
            findings
        }),
    }
}

/// The file's own structure, and then what lies in it.
fn check_file(path: PathBuf) -> Result<Vec<String>> {
    let report = lictor_store::verify(&path)?;
    print(&format!(
        "{}: {} bytes, format {}, revision {}, {} keys",
        path.display(),
        report.bytes,
        report.format,
        report.revision,
        report.keys
    ));
    if !report.is_sound() {
        return Ok(report.findings);
    }
    runtime()?.block_on(async {
        let store = lictor_store::Store::open_redb(&path)?;
        let findings = inspect(&store).await;
        store.close().await;
        findings
    })
}

async fn inspect(store: &lictor_store::Store) -> Result<Vec<String>> {
    let inspection = lictor_state::inspect::inspect(store).await?;
    for (table, count) in &inspection.tables {
        print(&format!("{table:>14} {count}"));
    }
    if inspection.unknown > 0 {
        print(&format!("{:>14} {}", "(unknown)", inspection.unknown));
    }
    Ok(inspection.findings)
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().context("cannot start")
}
