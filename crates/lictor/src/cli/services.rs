//! `lictor services`: registers services with the agent and removes them.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail};
use lictor_api::client::Request;
use lictor_api::definition::service_to_http;
use lictor_model::meta::Meta;
use lictor_model::service::{Definition, Service};

use super::client::Agent;
use super::command::{Command, Outcome, done};
use super::{complain, print};
use crate::config;
use crate::config::flags::{Flag, Parsed};

/// The commands.
pub(crate) const COMMANDS: &[Command] = &[
    Command::new("services deregister", "Removes services from the agent", deregister)
        .operands("[FILE...]")
        .about("\nA file has the form of a configuration file; the services in it are removed.")
        .flags(&[Flag::text("id", "Id of the service to remove")])
        .asks_agent(),
    Command::new("services register", "Registers services with the agent", register)
        .operands("[FILE...]")
        .about("\nA file has the form of a configuration file; the services in it are registered.")
        .flags(&[
            Flag::text("address", "Address of the service; by default the node's"),
            Flag::text("id", "Id of the service; by default its name"),
            Flag::text("meta", "A pair of metadata, key=value; may be given several times"),
            Flag::text("name", "Name of the service"),
            Flag::int("port", "Port of the service"),
            Flag::text("tag", "A tag of the service; may be given several times"),
        ])
        .asks_agent(),
];

/// The definitions in files.
fn from_files(flags: &Parsed) -> Result<Vec<Definition>> {
    let paths: Vec<PathBuf> = flags.operands.iter().map(PathBuf::from).collect();
    let declared = config::definitions(&paths).map_err(|errors| anyhow!("Error: {errors}"))?;
    let definitions: Vec<Definition> = declared.into_iter().map(|declared| declared.value).collect();
    if definitions.is_empty() {
        bail!("Error: no service is defined in {}", flags.operands.join(", "));
    }
    Ok(definitions)
}

fn register(flags: &Parsed) -> Outcome {
    let by_flags = flags.given().any(|(name, _)| ["address", "id", "meta", "name", "port", "tag"].contains(&name));
    let definitions = match (flags.operands.is_empty(), by_flags) {
        (true, false) => bail!("Service registration requires at least one argument or flags."),
        (false, true) => bail!("Service registration takes either files or flags that describe a service."),
        (false, false) => from_files(flags)?,
        (true, true) => vec![described(flags)?],
    };
    let agent = Agent::reach(flags)?;
    for definition in definitions {
        let name = definition.service.name.as_str();
        let request = Request::put("/v1/agent/service/register").json(&service_to_http(&definition))?;
        agent.tell(request).map_err(with_remedy).with_context(|| format!("Error registering service {name:?}"))?;
        print(&format!("Registered service: {name}"));
    }
    done()
}

/// The refusal of managed proxies with what allows them.
fn with_remedy(error: anyhow::Error) -> anyhow::Error {
    if !format!("{error:#}").contains("Managed proxy registration via the API is disallowed") {
        return error;
    }
    anyhow!(
        "{error:#}\n\nTo allow it set connect {{ proxy {{ allow_managed_api_registration = true }} }} in the agent's \
         configuration; without that, services with a managed proxy belong into its files (lictor reload reads them again)"
    )
}

/// The service that flags describe.
fn described(flags: &Parsed) -> Result<Definition> {
    let mut meta = Meta::new();
    for pair in flags.texts("meta") {
        let (key, value) = pair.split_once('=').ok_or_else(|| anyhow!("-meta {pair:?} is not key=value"))?;
        meta.insert(key.to_owned(), value.to_owned());
    }
    let tags: Vec<String> = flags.texts("tag").map(str::to_owned).collect();
    Ok(Definition {
        service: Service {
            id: flags.text("id").unwrap_or_default().into(),
            name: flags.text("name").unwrap_or_default().into(),
            tags: (!tags.is_empty()).then_some(tags),
            address: flags.text("address").unwrap_or_default().to_owned(),
            port: flags.int("port").unwrap_or_default(),
            meta: (!meta.is_empty()).then_some(meta),
            ..Service::default()
        },
        ..Definition::default()
    })
}

fn deregister(flags: &Parsed) -> Outcome {
    let id = flags.text("id").filter(|id| !id.is_empty());
    let ids = match (id, flags.operands.is_empty()) {
        (None, true) => bail!("Service deregistration requires at least one argument or flags."),
        (Some(_), false) => bail!("Service deregistration takes either files or -id."),
        (Some(id), true) => vec![id.to_owned()],
        (None, false) => from_files(flags)?
            .into_iter()
            .map(|definition| {
                let Service { id, name, .. } = definition.service;
                if id.as_str().is_empty() { name.as_str().to_owned() } else { id.as_str().to_owned() }
            })
            .collect(),
    };
    let agent = Agent::reach(flags)?;
    for id in ids {
        // The agent takes the removal of what it does not have, and scripts rely on that.
        if let Ok(None) = agent.find::<serde::de::IgnoredAny>(Request::get("/v1/agent/service/").segment(&id)) {
            complain(&format!(
                "This agent has no service with the id {id:?}: lictor connect ps and catalog services list others"
            ));
        }
        agent
            .tell(Request::put("/v1/agent/service/deregister/").segment(&id))
            .with_context(|| format!("Error deregistering service {id:?}"))?;
        print(&format!("Deregistered service: {id}"));
    }
    done()
}
