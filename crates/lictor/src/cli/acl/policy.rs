//! `lictor acl policy`: policies.

use anyhow::{Context, Result, bail};
use lictor_api::acl::{Policy, PolicyStub, Token};
use lictor_api::client::Request;
use serde_json::json;

use super::show::{self, Detail};
use super::{META, find};
use crate::cli::client::{self, Agent};
use crate::cli::command::{Command, Outcome, done};
use crate::cli::output::{self, FORMAT, Format};
use crate::cli::print;
use crate::config::flags::{Flag, Parsed};

const ID: Flag = Flag::text("id", "Id of the policy, or its beginning");
const NAME: Flag = Flag::text("name", "Name of the policy");
const DESCRIPTION: Flag = Flag::text("description", "A description of the policy");
const RULES: Flag = Flag::text("rules", "The rules; @FILE, or - for standard input");
const DATACENTERS: Flag = Flag::text("valid-datacenter", "Datacenter where it counts; may be given several times");

pub(super) const CREATE: Command = Command::new("acl policy create", "Makes a policy", create)
    .flags(&[
        DESCRIPTION,
        FORMAT,
        Flag::text("from-token", "Take the rules of this token of the older form, by accessor id or secret"),
        META,
        NAME,
        RULES,
        Flag::bool("token-secret", "What -from-token names is a secret"),
        DATACENTERS,
    ])
    .asks_agent();

pub(super) const DELETE: Command =
    Command::new("acl policy delete", "Deletes a policy", delete).flags(&[ID, NAME]).asks_agent();

pub(super) const LIST: Command =
    Command::new("acl policy list", "Lists policies", list).flags(&[FORMAT, META]).asks_agent();

pub(super) const READ: Command =
    Command::new("acl policy read", "Shows a policy", read).flags(&[FORMAT, ID, META, NAME]).asks_agent();

pub(super) const UPDATE: Command = Command::new("acl policy update", "Changes a policy", update)
    .flags(&[
        DESCRIPTION,
        FORMAT,
        ID,
        META,
        NAME,
        Flag::bool("no-merge", "Empty what is not given, instead of keeping it"),
        RULES,
        DATACENTERS,
    ])
    .asks_agent();

fn shown(policy: &Policy<'_>, flags: &Parsed, format: Format) -> Result<()> {
    match format {
        Format::Json => print(&output::json(policy)?),
        Format::Pretty => print(&show::policy(policy, Detail::of(flags))),
    }
    Ok(())
}

fn given<'a>(flags: &'a Parsed, name: &str) -> Option<&'a str> {
    flags.text(name).filter(|text| !text.is_empty())
}

/// The policy that `-id` or `-name` names.
fn named(agent: &Agent, flags: &Parsed) -> Result<String> {
    match (given(flags, "id"), given(flags, "name")) {
        (Some(id), _) => find::policy(agent, id),
        (None, Some(name)) => find::policy_named(agent, name),
        (None, None) => bail!("Must specify either the -id or -name parameters"),
    }
    .context("Error determining policy ID")
}

fn create(flags: &Parsed) -> Outcome {
    let format = Format::of(flags)?;
    let Some(name) = given(flags, "name") else { bail!("Missing require '-name' flag") };
    let agent = Agent::reach(flags)?;
    let rules = match (given(flags, "rules"), given(flags, "from-token")) {
        (Some(_), Some(_)) => bail!("Cannot specify both -rules and -from-token"),
        (Some(rules), None) => output::text_data(rules).context("Error loading rules")?,
        (None, Some(token)) => rules_of(&agent, flags, token)?,
        (None, None) => String::new(),
    };
    let datacenters: Vec<&str> = flags.texts("valid-datacenter").collect();
    let mut body = json!({"Name": name, "Description": flags.text("description").unwrap_or_default(), "Rules": rules});
    if !datacenters.is_empty() {
        body["Datacenters"] = json!(datacenters);
    }
    let policy: Policy<'static> =
        agent.read(Request::put("/v1/acl/policy").json(&body)?).context("Failed to create new policy")?;
    shown(&policy, flags, format)?;
    done()
}

/// The rules of a token of the older form, translated.
fn rules_of(agent: &Agent, flags: &Parsed, token: &str) -> Result<String> {
    let accessor = if flags.is_set("token-secret") {
        let mut config = client::config(flags)?;
        config.token = token.to_owned();
        let own = lictor_api::client::Client::new(config);
        let token = agent
            .wait(client::read::<Token<'static>>(&own, Request::get("/v1/acl/token/self")))
            .context("Error reading the token")?;
        token.value.accessor_id.into_owned()
    } else {
        find::token(agent, token).context("Error determining token ID")?
    };
    let answer = agent
        .call(Request::get("/v1/acl/rules/translate/").segment(&accessor))
        .context("Error translating the rules of the token")?;
    String::from_utf8(answer.body.to_vec()).context("the rules are not text")
}

fn delete(flags: &Parsed) -> Outcome {
    let agent = Agent::reach(flags)?;
    let id = named(&agent, flags)?;
    agent
        .tell(Request::delete("/v1/acl/policy/").segment(&id))
        .with_context(|| format!("Error deleting policy {id:?}"))?;
    print(&format!("Policy {id:?} deleted successfully"));
    done()
}

fn list(flags: &Parsed) -> Outcome {
    let format = Format::of(flags)?;
    let policies: Vec<PolicyStub<'static>> =
        Agent::reach(flags)?.read(Request::get("/v1/acl/policies")).context("Failed to retrieve the policy list")?;
    match format {
        Format::Json => print(&output::json(&policies)?),
        Format::Pretty => {
            let text: String = policies.iter().map(|policy| show::policy_stub(policy, Detail::of(flags))).collect();
            print(&text);
        }
    }
    done()
}

fn read(flags: &Parsed) -> Outcome {
    let format = Format::of(flags)?;
    let agent = Agent::reach(flags)?;
    let id = named(&agent, flags)?;
    let request = Request::get("/v1/acl/policy/").segment(&id);
    let policy: Policy<'static> = agent.read(request).with_context(|| format!("Error reading policy {id:?}"))?;
    shown(&policy, flags, format)?;
    done()
}

fn update(flags: &Parsed) -> Outcome {
    let format = Format::of(flags)?;
    let agent = Agent::reach(flags)?;
    // With an id, a name is the new one.
    let id = named(&agent, flags)?;
    let one = |request: Request| request.segment(&id);
    let old: Policy<'static> =
        agent.read(one(Request::get("/v1/acl/policy/"))).with_context(|| format!("Error reading policy {id:?}"))?;
    let old = if flags.is_set("no-merge") { Policy { name: old.name, ..Policy::default() } } else { old };
    let rules = match given(flags, "rules") {
        Some(rules) => output::text_data(rules).context("Error loading rules")?,
        None => old.rules.to_string(),
    };
    let datacenters: Vec<String> = match flags.texts("valid-datacenter").next() {
        Some(_) => flags.texts("valid-datacenter").map(str::to_owned).collect(),
        None => old.datacenters.as_deref().unwrap_or_default().to_vec(),
    };
    let mut body = json!({
        "ID": id,
        "Name": given(flags, "name").unwrap_or(&old.name),
        "Description": given(flags, "description").unwrap_or(&old.description),
        "Rules": rules,
    });
    if !datacenters.is_empty() {
        body["Datacenters"] = json!(datacenters);
    }
    let policy: Policy<'static> = agent
        .read(one(Request::put("/v1/acl/policy/")).json(&body)?)
        .with_context(|| format!("Error updating policy {id:?}"))?;
    if format == Format::Pretty {
        print("Policy updated successfully");
    }
    shown(&policy, flags, format)?;
    done()
}
