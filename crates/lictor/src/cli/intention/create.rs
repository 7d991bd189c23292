//! `lictor intention create`: makes an intention, or replaces one.

use anyhow::{Context, Result, anyhow, bail};
use lictor_api::Created;
use lictor_api::client::Request;
use lictor_api::intention::Intention;
use lictor_model::meta::Meta;
use serde_json::{Value, json};

use super::{ONE, find, summary};
use crate::cli::client::Agent;
use crate::cli::command::{Command, Outcome, done};
use crate::cli::{output, print};
use crate::config::flags::{Flag, Parsed};
use crate::config::report::cause;

pub(super) const COMMAND: Command = Command::new("intention create", "Makes intentions", run)
    .operands("SRC DST | FILE...")
    .about("\nWith -file each operand is a file with one intention in JSON; - is standard input.")
    .flags(&[
        Flag::bool("allow", "Allow connections; the default"),
        Flag::bool("deny", "Deny connections"),
        Flag::bool("file", "Read intentions from the files named"),
        Flag::text("meta", "A pair of metadata, key=value; may be given several times"),
        Flag::bool("replace", "Replace an intention for the same pair"),
    ])
    .asks_agent();

fn run(flags: &Parsed) -> Outcome {
    let wanted = wanted(flags)?;
    let agent = Agent::reach(flags)?;
    for intention in wanted {
        make(&agent, &intention, flags.is_set("replace"))?;
    }
    done()
}

fn make(agent: &Agent, intention: &Intention<'static>, replace: bool) -> Result<()> {
    let text = summary(intention);
    let body = body(intention);
    if replace
        && let Some(old) = find(agent, &intention.source_name, &intention.destination_name)
            .with_context(|| format!("Error looking up intention for replacement {text:?}"))?
    {
        let request = Request::put(ONE).segment(&old.id).json(&body)?;
        return agent.tell(request).with_context(|| format!("Error replacing intention {text:?}"));
    }
    let request = Request::post("/v1/connect/intentions").json(&body)?;
    agent.read::<Created<'static>>(request).with_context(|| format!("Error creating intention {text:?}"))?;
    print(&format!("Created: {text}"));
    Ok(())
}

/// What is sent: the fields a user can set.
fn body(intention: &Intention<'_>) -> Value {
    json!({
        "SourceNS": intention.source_ns, "SourceName": intention.source_name,
        "DestinationNS": intention.destination_ns, "DestinationName": intention.destination_name,
        "SourceType": if intention.source_type.is_empty() { "consul" } else { &intention.source_type },
        "Action": intention.action, "Description": intention.description, "Meta": intention.meta.as_ref(),
    })
}

fn wanted(flags: &Parsed) -> Result<Vec<Intention<'static>>> {
    let action = match (flags.is_set("allow"), flags.is_set("deny")) {
        (true, true) => bail!("Only one of -allow or -deny may be specified."),
        (_, true) => "deny",
        _ => "allow",
    };
    if flags.is_set("file") {
        if flags.operands.is_empty() {
            bail!("Error: Must specify at least one file");
        }
        return flags.operands.iter().map(|path| from_file(path)).collect();
    }
    let [source, destination] = flags.operands.as_slice() else {
        bail!("Error: Must specify two arguments: source and destination");
    };
    let mut meta = Meta::new();
    for pair in flags.texts("meta") {
        let (key, value) = pair.split_once('=').ok_or_else(|| anyhow!("Error: -meta {pair:?} is not key=value"))?;
        meta.insert(key.to_owned(), value.to_owned());
    }
    Ok(vec![Intention {
        source_name: source.clone().into(),
        destination_name: destination.clone().into(),
        source_type: "consul".into(),
        action: action.into(),
        meta: std::borrow::Cow::Owned(meta),
        ..Intention::default()
    }])
}

fn from_file(path: &str) -> Result<Intention<'static>> {
    let bytes = match path {
        "-" => output::stdin()?,
        path => std::fs::read(path).map_err(|error| anyhow!("Error: open {path}: {}", cause(&error)))?,
    };
    serde_json::from_slice(&bytes).with_context(|| format!("Error: {path} is no intention"))
}
