//! `lictor keyring`: the keys of encrypted gossip, which this agent does not have; other agents may.

use anyhow::{Context, bail};
use lictor_api::client::Request;
use serde_json::{Value, json};

use super::client::Agent;
use super::command::{Command, Outcome, done};
use super::output::{self, FORMAT, Format};
use super::print;
use crate::config::flags::{Flag, Parsed};

/// The command.
pub(crate) const COMMANDS: &[Command] = &[Command::new("keyring", "Manages the keys of encrypted gossip", run)
    .about("\nThere is no gossip between agents of this kind; against an agent of the original it does what it says.")
    .flags(&[
        FORMAT,
        Flag::text("install", "Add a key"),
        Flag::bool("list", "List the keys in use"),
        Flag::int("relay-factor", "How many other nodes pass the answers on, 0 to 5"),
        Flag::text("remove", "Remove a key"),
        Flag::text("use", "Make a key the one that encrypts"),
    ])
    .asks_agent()];

const KEYRING: &str = "/v1/operator/keyring";

fn run(flags: &Parsed) -> Outcome {
    let format = Format::of(flags)?;
    let given = |name: &'static str| flags.text(name).map(|key| (name, key));
    let changes: Vec<_> = ["install", "use", "remove"].into_iter().filter_map(given).collect();
    let relay = flags.int("relay-factor").unwrap_or_default();
    if !(0..=5).contains(&relay) {
        bail!("Error parsing relay factor: value must be in the range 0 to 5");
    }
    let with_relay = |request: Request| match relay {
        0 => request,
        relay => request.query("relay-factor", &relay.to_string()),
    };
    match (changes.as_slice(), flags.is_set("list")) {
        ([], true) => list(&Agent::reach(flags)?, with_relay(Request::get(KEYRING)), format),
        ([(what, key)], false) => {
            let (request, doing) = match *what {
                "install" => (Request::post(KEYRING), "Installing new gossip encryption key..."),
                "use" => (Request::put(KEYRING), "Changing primary gossip encryption key..."),
                _ => (Request::delete(KEYRING), "Removing gossip encryption key..."),
            };
            print(&format!("==> {doing}"));
            let request = with_relay(request).json(&json!({"Key": key}))?;
            Agent::reach(flags)?.tell(request).context("error")?;
            done()
        }
        ([], false) => bail!("Only a single action is allowed: one of -list, -install, -use or -remove"),
        _ => bail!("Only a single action is allowed"),
    }
}

fn list(agent: &Agent, request: Request, format: Format) -> Outcome {
    if format == Format::Pretty {
        print("==> Gathering installed encryption keys...");
    }
    let rings: Vec<Value> = agent.read(request).context("error")?;
    if format == Format::Json {
        print(&output::json(&rings)?);
        return done();
    }
    for ring in &rings {
        let pool = match (ring["WAN"].as_bool(), ring["Segment"].as_str()) {
            (Some(true), _) => "WAN".to_owned(),
            (_, Some(segment)) if !segment.is_empty() => {
                format!("{} (LAN) ({segment})", ring["Datacenter"].as_str().unwrap_or_default())
            }
            _ => format!("{} (LAN)", ring["Datacenter"].as_str().unwrap_or_default()),
        };
        let mut text = format!("\n{pool}:\n");
        for (node, message) in ring["Messages"].as_object().into_iter().flatten() {
            text.push_str(&format!("  ===> {node}: {}\n", message.as_str().unwrap_or_default()));
        }
        for (key, count) in ring["Keys"].as_object().into_iter().flatten() {
            text.push_str(&format!("  {key} [{count}/{}]\n", ring["NumNodes"]));
        }
        print(&text);
    }
    done()
}
