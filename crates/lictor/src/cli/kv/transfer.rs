//! `lictor kv export` and `import`: keys as a file of JSON.

use anyhow::{Context, Result, anyhow, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lictor_api::client::Request;
use lictor_api::kv::{Entry, Exported};

use super::{KV, about, stripped};
use crate::cli::client::Agent;
use crate::cli::command::{Command, Outcome, done};
use crate::cli::{output, print};
use crate::config::flags::Parsed;

pub(super) const EXPORT: Command =
    Command::new("kv export", "Prints keys in the form that import reads", export).operands("[PREFIX]").asks_agent();

pub(super) const IMPORT: Command = Command::new("kv import", "Writes keys that export printed", import)
    .operands("DATA")
    .about("\nDATA is the JSON itself, @FILE, or - for standard input.")
    .asks_agent();

fn export(flags: &Parsed) -> Outcome {
    let prefix = match flags.operands.as_slice() {
        [] => "",
        [prefix] => stripped(prefix),
        more => bail!("Error! Too many arguments (expected 0 or 1, got {})", more.len()),
    };
    let request = about(Request::get(KV), prefix).query("recurse", "");
    let entries: Vec<Entry<'static>> =
        Agent::reach(flags)?.find(request).context("Error! Failed getting keys")?.unwrap_or_default();
    let exported: Vec<Exported<'_>> = entries
        .iter()
        .map(|entry| Exported {
            key: entry.key.as_ref().into(),
            flags: entry.flags,
            value: STANDARD.encode(&entry.value).into(),
        })
        .collect();
    print(&output::tabbed(&exported)?);
    done()
}

fn import(flags: &Parsed) -> Outcome {
    let [data] = flags.operands.as_slice() else {
        bail!("Error! Missing DATA argument: it is one, the JSON itself, @FILE or -");
    };
    let bytes = output::data(data).context("Error!")?;
    // Values may be secrets: of a mistake only its place is told.
    let all: Vec<Exported<'static>> = serde_json::from_slice(&bytes).map_err(|error| {
        anyhow!("Cannot unmarshal data: not the form of an export at line {} column {}", error.line(), error.column())
    })?;
    // All of them are judged before any is written.
    let decoded = all
        .iter()
        .map(|entry| {
            let value = STANDARD.decode(entry.value.as_bytes());
            Ok((entry, value.map_err(|_| anyhow!("Error base64 decoding value for key {}", entry.key))?))
        })
        .collect::<Result<Vec<_>>>()?;
    let agent = Agent::reach(flags)?;
    for (entry, value) in decoded {
        let mut request = about(Request::put(KV), &entry.key).body(value);
        if entry.flags != 0 {
            request = request.query("flags", &entry.flags.to_string());
        }
        let failed = || format!("Error! Failed writing data for key {}", entry.key);
        if !agent.read::<bool>(request).with_context(failed)? {
            bail!("{}: refused", failed());
        }
        print(&format!("Imported: {}", entry.key));
    }
    done()
}
