//! `lictor connect ca`: the configuration of the mesh's certificate authority.

use anyhow::{Context, anyhow, bail};
use lictor_api::client::Request;
use serde_json::Value;
use serde_json::value::RawValue;

use super::client::Agent;
use super::command::{Command, Outcome, done};
use super::{output, print};
use crate::config::flags::{Flag, Parsed};
use crate::config::report::cause;

/// The commands.
pub(crate) const COMMANDS: &[Command] = &[
    Command::new("connect ca get-config", "Shows the configuration of the certificate authority", get).asks_agent(),
    Command::new("connect ca set-config", "Changes the configuration of the certificate authority", set)
        .flags(&[Flag::text(
            "config-file",
            "File with the new configuration, as get-config prints it; - is standard input",
        )])
        .asks_agent(),
];

fn get(flags: &Parsed) -> Outcome {
    let configuration: Box<RawValue> = Agent::reach(flags)?
        .read(Request::get("/v1/connect/ca/configuration"))
        .context("Error querying CA configuration")?;
    print(&output::reindented(configuration.get(), "\t"));
    done()
}

fn set(flags: &Parsed) -> Outcome {
    let file = match flags.text("config-file") {
        Some(file) if !file.is_empty() => file,
        _ => bail!("The -config-file flag is required"),
    };
    let bytes = match file {
        "-" => output::stdin()?,
        path => {
            std::fs::read(path).map_err(|error| anyhow!("Error reading config file: open {path}: {}", cause(&error)))?
        }
    };
    // The file may hold a private key: of a mistake only its place is told.
    let configuration: Value = serde_json::from_slice(&bytes).map_err(|error| {
        anyhow!("Error parsing config file: no JSON at line {} column {}", error.line(), error.column())
    })?;
    let request = Request::put("/v1/connect/ca/configuration").json(&configuration)?;
    Agent::reach(flags)?.tell(request).context("Error setting CA configuration")?;
    print("Configuration updated!");
    done()
}
