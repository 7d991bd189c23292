//! `lictor snapshot`: saves, restores and shows the state of the cluster.

mod archive;

use std::fs::File;
use std::io::{Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use lictor_api::client::{Client, Request};

use super::client::{self, Agent};
use super::command::{Command, Outcome, done};
use super::output::{self, FORMAT, Format, pairs};
use super::print;
use crate::config::flags::Parsed;

/// The commands.
pub(crate) const COMMANDS: &[Command] = &[
    Command::new("snapshot inspect", "Shows what a snapshot holds", inspect).operands("FILE").flags(&[FORMAT]),
    Command::new("snapshot restore", "Replaces the state of the cluster by a snapshot", restore)
        .operands("FILE")
        .about(
            "\nWith Connect on, the agent must have the sealing key of the one that took the snapshot (ca-seal.key in its \
             data\ndirectory, or store.seal_key_file) since its first start.",
        )
        .asks_agent(),
    Command::new("snapshot save", "Saves the state of the cluster", save)
        .operands("FILE")
        .about(
            "\nThe file holds all keys and tokens: nobody but its owner may read it. The signing keys in it are sealed: keep \
             the\nsealing key too (ca-seal.key in the agent's data directory, or what store.seal_key_file names), elsewhere. A\n\
             new agent can restore the snapshot only with it.",
        )
        .asks_agent(),
];

/// The longest a restore may take.
const RESTORE_LIMIT: Duration = Duration::from_secs(600);

fn file(flags: &Parsed) -> Result<&Path> {
    match flags.operands.as_slice() {
        [file] => Ok(Path::new(file)),
        [] => bail!("Missing FILE argument"),
        more => bail!("Too many arguments (expected 1, got {})", more.len()),
    }
}

fn open(file: &Path) -> Result<File> {
    File::open(file).with_context(|| format!("Error opening snapshot file {}", file.display()))
}

fn inspect(flags: &Parsed) -> Outcome {
    let format = Format::of(flags)?;
    let meta = archive::verify(open(file(flags)?)?).context("Error verifying snapshot")?;
    match format {
        Format::Json => print(&output::json(&meta)?),
        Format::Pretty => print(&pairs(
            6,
            &[
                ("ID", meta.id),
                ("Size", meta.size.to_string()),
                ("Index", meta.index.to_string()),
                ("Term", meta.term.to_string()),
                ("Version", meta.version.to_string()),
            ],
        )),
    }
    done()
}

fn restore(flags: &Parsed) -> Outcome {
    let file = file(flags)?;
    archive::verify(open(file)?).context("Error verifying snapshot")?;
    let bytes = std::fs::read(file).with_context(|| format!("Error opening snapshot file {}", file.display()))?;
    let request = Request::put("/v1/snapshot").body(bytes).limit(RESTORE_LIMIT);
    Agent::reach(flags)?.tell(request).context("Error restoring snapshot")?;
    print("Restored snapshot");
    done()
}

fn save(flags: &Parsed) -> Outcome {
    let target = file(flags)?;
    let agent = Agent::reach(flags)?;
    // It appears under its name only when it is whole and good.
    let fresh = Fresh::beside(target)?;
    let client = agent.client();
    let index = agent.wait(download(&client, &fresh)).context("Error saving snapshot")?;
    (&fresh.file).rewind().context("Error reading snapshot")?;
    archive::verify(&fresh.file).context("Error verifying snapshot")?;
    fresh.keep(target)?;
    print(&format!("Saved and verified snapshot to index {index}"));
    done()
}

async fn download(client: &Client, fresh: &Fresh) -> Result<u64> {
    let request = Request::get("/v1/snapshot");
    let asked = client::asked(client, &request);
    let failed = |error| client::explained(client, &asked, error);
    let mut answer = client.stream(request).await.map_err(failed)?;
    let mut refusal = Vec::new();
    while let Some(piece) = answer.piece().await.map_err(failed)? {
        if answer.status == 200 {
            (&fresh.file).write_all(&piece).context("cannot write it")?;
        } else {
            refusal.extend_from_slice(&piece);
        }
    }
    if answer.status != 200 {
        let text = String::from_utf8_lossy(&refusal);
        return Err(anyhow!("Unexpected response code: {} ({})", answer.status, text.trim_end()));
    }
    let index = answer.headers.get("x-consul-index").and_then(|value| value.to_str().ok());
    Ok(index.and_then(|index| index.parse().ok()).unwrap_or_default())
}

/// A file that is not finished: gone unless it is kept.
struct Fresh {
    file: File,
    path: PathBuf,
    kept: bool,
}

impl Fresh {
    fn beside(target: &Path) -> Result<Fresh> {
        let mut name = target.file_name().context("FILE names no file")?.to_owned();
        name.push(format!(".unverified-{}", std::process::id()));
        let path = target.with_file_name(name);
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("Error creating snapshot file {}", path.display()))?;
        Ok(Fresh { file, path, kept: false })
    }

    fn keep(mut self, target: &Path) -> Result<()> {
        self.file.sync_all().context("Error writing snapshot")?;
        std::fs::rename(&self.path, target)
            .with_context(|| format!("Error renaming snapshot to {}", target.display()))?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if !self.kept {
            // What cannot be removed is at least named as what it is.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
