//! `lictor kv get`: reads keys.

use std::io::Write;

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lictor_api::client::Request;
use lictor_api::kv::{Entry, Keys};

use super::{KV, about, stripped};
use crate::cli::client::Agent;
use crate::cli::command::{Command, Outcome, done};
use crate::cli::output::{self, FORMAT, Format, pairs};
use crate::cli::print;
use crate::config::flags::{Flag, Parsed};

pub(super) const COMMAND: Command = Command::new("kv get", "Reads keys", run)
    .operands("[KEY_OR_PREFIX]")
    .about("\nPrints the value as it is, behind it a newline.")
    .flags(&[
        Flag::bool("base64", "Print values in base64"),
        Flag::bool("detailed", "Show everything that is known about each key"),
        FORMAT,
        Flag::bool("keys", "Print the names of all keys with this prefix"),
        Flag::bool("recurse", "Read all keys with this prefix"),
        Flag::text("separator", "With -keys: cut names behind the first of this; by default /"),
    ])
    .asks_agent();

fn run(flags: &Parsed) -> Outcome {
    let format = Format::of(flags)?;
    let (keys, recurse) = (flags.is_set("keys"), flags.is_set("recurse"));
    let key = match flags.operands.as_slice() {
        [] => "",
        [key] => stripped(key),
        more => bail!("Error! Too many arguments (expected 1, got {})", more.len()),
    };
    if key.is_empty() && !keys && !recurse {
        bail!("Error! Missing KEY argument");
    }
    let request = about(Request::get(KV), key);
    let agent = Agent::reach(flags)?;
    let querying = || "Error querying Consul agent";
    if keys {
        let separator = flags.text("separator").unwrap_or("/");
        let request = request.query("keys", "").query("separator", separator);
        let names: Keys<'static> = agent.find(request).with_context(querying)?.unwrap_or_default();
        match format {
            Format::Json => print(&output::json(&names)?),
            Format::Pretty if names.is_empty() => {}
            Format::Pretty => print(&names.join("\n")),
        }
        return done();
    }
    let request = if recurse { request.query("recurse", "") } else { request };
    let entries: Vec<Entry<'static>> = agent.find(request).with_context(querying)?.unwrap_or_default();
    if entries.is_empty() && !recurse {
        bail!("Error! No key exists at: {key}");
    }
    if format == Format::Json {
        print(&output::json(&entries)?);
        return done();
    }
    let mut out = Vec::new();
    for (at, entry) in entries.iter().enumerate() {
        let value =
            if flags.is_set("base64") { STANDARD.encode(&entry.value).into_bytes() } else { entry.value.to_vec() };
        if flags.is_set("detailed") {
            if at > 0 {
                out.push(b'\n');
            }
            detailed(&mut out, entry, &value);
        } else {
            if recurse {
                out.extend_from_slice(format!("{}:", entry.key).as_bytes());
            }
            out.extend_from_slice(&value);
            out.push(b'\n');
        }
    }
    // A reader that has gone away is not our failure.
    let _ = std::io::stdout().write_all(&out);
    done()
}

/// Everything that is known about a key, each on a line of its own.
fn detailed(out: &mut Vec<u8>, entry: &Entry<'_>, value: &[u8]) {
    let session = if entry.session.is_empty() { "-" } else { &entry.session };
    let lines = [
        ("CreateIndex", entry.create_index.to_string()),
        ("Flags", entry.flags.to_string()),
        ("Key", entry.key.to_string()),
        ("LockIndex", entry.lock_index.to_string()),
        ("ModifyIndex", entry.modify_index.to_string()),
        ("Session", session.to_owned()),
        ("Value", String::new()),
    ];
    out.extend_from_slice(pairs(6, &lines).trim_end_matches('\n').as_bytes());
    out.extend_from_slice(value);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_are_aligned_and_the_value_is_the_last() {
        let entry = Entry { key: "a".into(), create_index: 336, modify_index: 336, ..Entry::default() };
        let mut out = Vec::new();
        detailed(&mut out, &entry, b"5");
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "CreateIndex      336\nFlags            0\nKey              a\nLockIndex        0\nModifyIndex      336\n\
             Session          -\nValue            5\n"
        );
    }
}
