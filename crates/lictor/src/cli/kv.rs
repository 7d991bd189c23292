//! `lictor kv`: reads and writes the key-value store.

mod get;
mod transfer;

use anyhow::{Context, Result, anyhow, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lictor_api::client::Request;

use super::client::Agent;
use super::command::{Command, Outcome, done};
use super::{output, print};
use crate::config::flags::{Flag, Parsed};

/// The commands.
pub(crate) const COMMANDS: &[Command] = &[
    Command::new("kv delete", "Deletes keys", delete)
        .operands("KEY_OR_PREFIX")
        .flags(&[
            Flag::bool("cas", "Delete only if the key has not changed since -modify-index"),
            MODIFY_INDEX,
            Flag::bool("recurse", "Delete all keys with this prefix"),
        ])
        .asks_agent(),
    transfer::EXPORT,
    get::COMMAND,
    transfer::IMPORT,
    Command::new("kv put", "Writes a key", put)
        .operands("KEY [DATA]")
        .about("\nDATA may be @FILE, or - for standard input. Without it the value is empty.")
        .flags(&[
            Flag::bool("acquire", "Lock the key for -session"),
            Flag::bool("base64", "DATA is base64; what is stored is what it stands for"),
            Flag::bool("cas", "Write only if the key has not changed since -modify-index; 0 means: is not there"),
            Flag::text("flags", "A number kept beside the value, 0 to 2^64-1"),
            MODIFY_INDEX,
            Flag::bool("release", "Unlock the key held by -session"),
            Flag::text("session", "The session that locks and unlocks"),
        ])
        .asks_agent(),
];

const MODIFY_INDEX: Flag = Flag::text("modify-index", "The ModifyIndex that -cas compares with");

/// Where keys are.
pub(super) const KV: &str = "/v1/kv/";

/// A request about a key: slashes in it are a part of the path.
pub(super) fn about(request: Request, key: &str) -> Request {
    let mut request = request;
    for (at, part) in key.split('/').enumerate() {
        if at > 0 {
            request = request.path("/");
        }
        request = request.segment(part);
    }
    request
}

/// A key as users write it: the slash at its front that many put there is no part of it.
fn stripped(key: &str) -> &str {
    key.strip_prefix('/').unwrap_or(key)
}

/// A number of a flag.
fn number(flags: &Parsed, name: &str) -> Result<u64> {
    match flags.text(name) {
        None | Some("") => Ok(0),
        Some(text) => text.parse().map_err(|_| {
            anyhow!("invalid value {text:?} for flag -{name}: strconv.ParseUint: parsing {text:?}: invalid syntax")
        }),
    }
}

fn put(flags: &Parsed) -> Outcome {
    let (key, data) = match flags.operands.as_slice() {
        [] => bail!("Error! Missing KEY argument"),
        [key] => (key, None),
        [key, data] => (key, Some(data)),
        more => bail!("Error! Too many arguments (expected 1 or 2, got {})", more.len()),
    };
    if key.is_empty() {
        bail!("Error! Missing KEY argument");
    }
    if key.starts_with('/') {
        bail!("Error! Failed writing data: Invalid key. Key must not begin with a '/': {key}");
    }
    let mut value = data.map(|data| output::data(data)).transpose().context("Error!")?.unwrap_or_default();
    if flags.is_set("base64") {
        // White space around it is what editors and `echo` leave.
        value = STANDARD.decode(value.trim_ascii()).map_err(|_| anyhow!("Error! Cannot base 64 decode data"))?;
    }
    let session = flags.text("session").unwrap_or_default();
    let (acquire, release) = (flags.is_set("acquire"), flags.is_set("release"));
    if session.is_empty() && (acquire || release) {
        bail!("Error! Missing -session (required with -acquire and -release)");
    }
    let mut request = about(Request::put(KV), key).body(value);
    let number_of_key = number(flags, "flags")?;
    if number_of_key != 0 {
        request = request.query("flags", &number_of_key.to_string());
    }
    let (request, worked, failed) = if flags.is_set("cas") {
        let index = number(flags, "modify-index")?;
        let failed = format!("Error! Did not write to {key}: CAS failed");
        (request.query("cas", &index.to_string()), format!("Success! Data written to: {key}"), failed)
    } else if acquire {
        let request = request.query("acquire", session);
        (request, format!("Success! Lock acquired on: {key}"), "Error! Did not acquire lock".to_owned())
    } else if release {
        let request = request.query("release", session);
        (request, format!("Success! Lock released on: {key}"), "Error! Did not release lock".to_owned())
    } else {
        (request, format!("Success! Data written to: {key}"), "Error! Failed writing data: refused".to_owned())
    };
    if !Agent::reach(flags)?.read::<bool>(request).context("Error! Failed writing data")? {
        bail!("{failed}");
    }
    print(&worked);
    done()
}

fn delete(flags: &Parsed) -> Outcome {
    let key = match flags.operands.as_slice() {
        [] => "",
        [key] => stripped(key),
        more => bail!("Error! Too many arguments (expected 1, got {})", more.len()),
    };
    let recurse = flags.is_set("recurse");
    // Without a key -recurse means everything there is, as in the original.
    if key.is_empty() && !recurse {
        bail!("Error! Missing KEY argument");
    }
    let cas = flags.is_set("cas");
    let index = number(flags, "modify-index")?;
    if cas && recurse {
        bail!("Cannot specify both -cas and -recurse!");
    }
    if cas && index == 0 {
        bail!("Must specify -modify-index with -cas!");
    }
    if !cas && index != 0 {
        bail!("Cannot specify -modify-index without -cas!");
    }
    let mut request = about(Request::delete(KV), key);
    if recurse {
        request = request.query("recurse", "");
    }
    if cas {
        request = request.query("cas", &index.to_string());
    }
    let deleted: bool = Agent::reach(flags)?.read(request).with_context(|| {
        if recurse { format!("Error! Did not delete prefix {key}") } else { format!("Error! Did not delete key {key}") }
    })?;
    if !deleted {
        bail!("Error! Did not delete key {key}: CAS failed");
    }
    if recurse {
        print(&format!("Success! Deleted keys with prefix: {key}"));
    } else {
        print(&format!("Success! Deleted key: {key}"));
    }
    done()
}
