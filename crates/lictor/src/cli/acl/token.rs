//! `lictor acl token`: tokens.

use anyhow::{Context, Result, bail};
use lictor_api::acl::{PolicyLink, Token, TokenStub};
use lictor_api::client::Request;
use serde_json::{Value, json};

use super::show::{self, Detail};
use super::{META, find};
use crate::cli::client::Agent;
use crate::cli::command::{Command, Outcome, done};
use crate::cli::output::{self, FORMAT, Format};
use crate::cli::print;
use crate::config::flags::{Flag, Parsed};

const DESCRIPTION: Flag = Flag::text("description", "A description of the token");
const ID: Flag = Flag::text("id", "Accessor id of the token, or its beginning");
const POLICY_ID: Flag = Flag::text("policy-id", "A policy by id or its beginning; may be given several times");
const POLICY_NAME: Flag = Flag::text("policy-name", "A policy by name; may be given several times");

pub(super) const CLONE: Command =
    Command::new("acl token clone", "Makes a token with the rights of another one", clone)
        .flags(&[DESCRIPTION, FORMAT, ID])
        .asks_agent();

pub(super) const CREATE: Command = Command::new("acl token create", "Makes a token", create)
    .flags(&[DESCRIPTION, FORMAT, Flag::bool("local", "Known in this datacenter alone"), META, POLICY_ID, POLICY_NAME])
    .asks_agent();

pub(super) const DELETE: Command =
    Command::new("acl token delete", "Deletes a token", delete).flags(&[ID]).asks_agent();

pub(super) const LIST: Command =
    Command::new("acl token list", "Lists tokens, without their secrets", list).flags(&[FORMAT, META]).asks_agent();

pub(super) const READ: Command = Command::new("acl token read", "Shows a token", read)
    .flags(&[FORMAT, ID, META, Flag::bool("self", "The token that this command itself uses")])
    .asks_agent();

pub(super) const UPDATE: Command = Command::new("acl token update", "Changes a token", update)
    .flags(&[
        DESCRIPTION,
        FORMAT,
        ID,
        Flag::bool("merge-policies", "Add the policies to those it has, instead of replacing these"),
        META,
        POLICY_ID,
        POLICY_NAME,
        Flag::bool("upgrade-legacy", "Make a token of the older form one of the newer"),
    ])
    .asks_agent();

const TOKEN: &str = "/v1/acl/token";

fn one(id: &str) -> Request {
    Request::get("/v1/acl/token/").segment(id)
}

fn shown(token: &Token<'_>, flags: &Parsed, format: Format) -> Result<()> {
    match format {
        Format::Json => print(&output::json(token)?),
        Format::Pretty => print(&show::token(token, Detail::of(flags))),
    }
    Ok(())
}

/// The policies that options name.
fn policies(agent: &Agent, flags: &Parsed) -> Result<Vec<Value>> {
    let mut links: Vec<Value> = flags.texts("policy-name").map(|name| json!({"Name": name})).collect();
    for prefix in flags.texts("policy-id") {
        let id = find::policy(agent, prefix).with_context(|| format!("Error resolving policy ID {prefix}"))?;
        links.push(json!({"ID": id}));
    }
    Ok(links)
}

/// The token that `-id` names.
fn named(agent: &Agent, flags: &Parsed) -> Result<String> {
    match flags.text("id").filter(|id| !id.is_empty()) {
        Some(id) => find::token(agent, id).context("Error determining token ID"),
        None => bail!("Must specify the -id parameter"),
    }
}

fn create(flags: &Parsed) -> Outcome {
    let format = Format::of(flags)?;
    if flags.texts("policy-name").next().is_none() && flags.texts("policy-id").next().is_none() {
        bail!("Cannot create a token without specifying -policy-name or -policy-id at least once");
    }
    let agent = Agent::reach(flags)?;
    let body = json!({
        "Description": flags.text("description").unwrap_or_default(),
        "Local": flags.is_set("local"),
        "Policies": policies(&agent, flags)?,
    });
    let token: Token<'static> = agent.read(Request::put(TOKEN).json(&body)?).context("Failed to create new token")?;
    shown(&token, flags, format)?;
    done()
}

fn clone(flags: &Parsed) -> Outcome {
    let format = Format::of(flags)?;
    let agent = Agent::reach(flags)?;
    let id = match flags.text("id").filter(|id| !id.is_empty()) {
        Some(id) => find::token(&agent, id).context("Error determining token ID")?,
        None => bail!("Cannot clone a token without specifying the -id parameter"),
    };
    let body = json!({"Description": flags.text("description").unwrap_or_default()});
    let request = Request::put("/v1/acl/token/").segment(&id).path("/clone").json(&body)?;
    let token: Token<'static> = agent.read(request).context("Error cloning token")?;
    if format == Format::Pretty {
        print("Token cloned successfully.");
    }
    shown(&token, flags, format)?;
    done()
}

fn delete(flags: &Parsed) -> Outcome {
    let agent = Agent::reach(flags)?;
    let id = named(&agent, flags)?;
    agent
        .tell(Request::delete("/v1/acl/token/").segment(&id))
        .with_context(|| format!("Error deleting token {id:?}"))?;
    print(&format!("Token {id:?} deleted successfully"));
    done()
}

fn list(flags: &Parsed) -> Outcome {
    let format = Format::of(flags)?;
    let tokens: Vec<TokenStub<'static>> =
        Agent::reach(flags)?.read(Request::get("/v1/acl/tokens")).context("Failed to retrieve the token list")?;
    match format {
        Format::Json => print(&output::json(&tokens)?),
        Format::Pretty => {
            let blocks: Vec<String> = tokens.iter().map(|token| show::token_stub(token, Detail::of(flags))).collect();
            print(&blocks.join("\n"));
        }
    }
    done()
}

fn read(flags: &Parsed) -> Outcome {
    let format = Format::of(flags)?;
    let agent = Agent::reach(flags)?;
    let (request, what) = if flags.is_set("self") {
        (Request::get("/v1/acl/token/self"), "self".to_owned())
    } else {
        let id = named(&agent, flags)?;
        (one(&id), id)
    };
    let token: Token<'static> = agent.read(request).with_context(|| format!("Error reading token {what:?}"))?;
    shown(&token, flags, format)?;
    done()
}

fn update(flags: &Parsed) -> Outcome {
    let format = Format::of(flags)?;
    let agent = Agent::reach(flags)?;
    let id = named(&agent, flags)?;
    let old: Token<'static> = agent.read(one(&id)).context("Error when retrieving current token")?;
    let mut links = policies(&agent, flags)?;
    if flags.is_set("merge-policies") {
        let kept = old.policies.iter().flatten().map(|PolicyLink { id, name }| json!({"ID": id, "Name": name}));
        let kept: Vec<Value> = kept
            .filter(|kept| links.iter().all(|new| new["ID"] != kept["ID"] && new["Name"] != kept["Name"]))
            .collect();
        links.splice(0..0, kept);
    }
    let mut body = json!({
        "AccessorID": old.accessor_id, "SecretID": old.secret_id, "Local": old.local,
        "Description": flags.text("description").filter(|text| !text.is_empty()).unwrap_or(&old.description),
        "Policies": links,
    });
    if !old.rules.is_empty() && !flags.is_set("upgrade-legacy") {
        body["Rules"] = json!(old.rules);
    }
    let request = Request::put("/v1/acl/token/").segment(&id).json(&body)?;
    let token: Token<'static> = agent.read(request).with_context(|| format!("Failed to update token {id}"))?;
    if format == Format::Pretty {
        print("Token updated successfully.");
    }
    shown(&token, flags, format)?;
    done()
}
