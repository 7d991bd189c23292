//! `lictor acl`: tokens and policies of access control.

mod find;
mod policy;
mod show;
mod token;

use anyhow::{Context, anyhow, bail};
use lictor_api::acl::Token;
use lictor_api::client::Request;
use serde_json::json;

use super::client::{self, Agent};
use super::command::{Command, Outcome, done};
use super::output::{self, FORMAT, Format};
use super::print;
use crate::config::flags::{Flag, Parsed};

/// The commands.
pub(crate) const COMMANDS: &[Command] = &[
    Command::new("acl bootstrap", "Makes the first management token", bootstrap).flags(&[FORMAT]).asks_agent(),
    policy::CREATE,
    policy::DELETE,
    policy::LIST,
    policy::READ,
    policy::UPDATE,
    Command::new("acl set-agent-token", "Sets a token that the agent itself uses", set_agent_token)
        .operands("default|agent|master|replication TOKEN")
        .about("\nTOKEN may be @FILE, or - for standard input, so that it is in no list of processes.")
        .asks_agent(),
    token::CLONE,
    token::CREATE,
    token::DELETE,
    token::LIST,
    token::READ,
    token::UPDATE,
    Command::new("acl translate-rules", "Translates rules of the older form", translate)
        .operands("RULES")
        .about("\nRULES may be @FILE, or - for standard input.")
        .flags(&[
            Flag::text("token-accessor", "Translate the rules of the token with this accessor id"),
            Flag::text("token-secret", "Translate the rules of the token with this secret"),
        ])
        .asks_agent(),
];

/// The option that shows hashes and indexes.
const META: Flag = Flag::bool("meta", "Show hash and indexes too");

fn bootstrap(flags: &Parsed) -> Outcome {
    let format = Format::of(flags)?;
    let token: Token<'static> =
        Agent::reach(flags)?.read(Request::put("/v1/acl/bootstrap")).context("Failed ACL bootstrapping")?;
    match format {
        Format::Json => print(&output::json(&token)?),
        Format::Pretty => print(&show::token(&token, show::Detail::Plain)),
    }
    done()
}

fn set_agent_token(flags: &Parsed) -> Outcome {
    let [kind, secret] = flags.operands.as_slice() else {
        bail!("The agent token command requires exactly 2 arguments: its type and the token");
    };
    let older = match kind.as_str() {
        "default" => "acl_token",
        "agent" => "acl_agent_token",
        "master" => "acl_agent_master_token",
        "replication" => "acl_replication_token",
        _ => bail!("Unknown token type"),
    };
    let secret = output::text_data(secret)?;
    let body = json!({"Token": secret.trim_end_matches(['\r', '\n'])});
    let agent = Agent::reach(flags)?;
    let set = |name: &str| agent.tell(Request::put("/v1/agent/token/").segment(name).json(&body)?);
    match set(kind) {
        // Agents before this name.
        Err(error) if client::is_not_found(&error) => set(older),
        other => other,
    }
    .with_context(|| format!("Failed to set ACL token {kind:?}"))?;
    print(&format!("ACL token {kind:?} set successfully"));
    done()
}

fn translate(flags: &Parsed) -> Outcome {
    let given = |name: &str| flags.text(name).filter(|text| !text.is_empty());
    let failed = "Error translating rules";
    let (accessor, secret) = (given("token-accessor"), given("token-secret"));
    let rules = match (flags.operands.as_slice(), accessor, secret) {
        ([rules], None, None) => {
            let rules = output::text_data(rules)?;
            Agent::reach(flags)?.call(Request::post("/v1/acl/rules/translate").body(rules)).context(failed)?
        }
        ([], Some(accessor), None) => {
            let agent = Agent::reach(flags)?;
            let id = find::token(&agent, accessor).context("Error determining token ID")?;
            agent.call(Request::get("/v1/acl/rules/translate/").segment(&id)).context(failed)?
        }
        ([], None, Some(secret)) => {
            // Whoever knows a secret may read its own token; the accessor in it names what is to be translated.
            let agent = Agent::reach(flags)?;
            let mut config = client::config(flags)?;
            config.token = secret.to_owned();
            let own = lictor_api::client::Client::new(config);
            let token = agent
                .wait(client::read::<Token<'static>>(&own, Request::get("/v1/acl/token/self")))
                .context("Error reading the token")?;
            agent.call(Request::get("/v1/acl/rules/translate/").segment(&token.value.accessor_id)).context(failed)?
        }
        _ => bail!("Exactly one must be given: RULES, -token-accessor or -token-secret"),
    };
    print(std::str::from_utf8(&rules.body).map_err(|_| anyhow!("{failed}: the answer is not text"))?);
    done()
}
