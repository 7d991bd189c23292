//! `lictor connect why`: why a managed proxy does not serve, and what can be done about it.

use std::process::ExitCode;

use anyhow::{Context, bail};
use lictor_api::client::{Client, Request};
use lictor_api::process::Why;

use super::{ask, only_id};
use crate::cli::command::Command;
use crate::cli::print;
use crate::config::flags::Flag;

pub(super) const COMMAND: Command = Command::words(
    "connect why",
    "Tells why a managed proxy does not serve, and what to do",
    run,
)
.operands("ID")
.about(
    "\nTells why a managed proxy does not serve: what is seen first, then what is behind it, each with a remedy.\n\
     ID is that of the proxy or of its service. The agent connects to the application for that. Exits with 2 when the proxy does \
     not serve, or serves and something is in its way: an upstream that intentions deny, an application that is not there.",
)
.flags(&[Flag::text("format", "text (the default) or json")])
.asks_agent();

/// The exit code for a proxy that something is in the way of.
const HINDERED: u8 = 2;

fn run(words: &[String]) -> ExitCode {
    ask(&COMMAND, words, |client, parsed| async move {
        let id = only_id(&parsed)?;
        let answer = client.read::<Why<'static>>(Request::get("/v1/agent/connect/why/").segment(id)).await;
        let why = match answer {
            Ok(read) => read.value,
            Err(error) => {
                if error.is_not_found()
                    && let Some(text) = run_by_hand(&client, id).await
                {
                    bail!("{text}");
                }
                return Err(error).with_context(|| format!("cannot ask the agent about {id}"));
            }
        };
        match parsed.text("format").unwrap_or("text") {
            "json" => print(&serde_json::to_string_pretty(&why)?),
            "text" => print(&text(&why)),
            other => bail!("-format {other:?}: use text or json"),
        }
        Ok(if why.serving && why.causes.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(HINDERED) })
    })
}

/// What there is to say of a proxy that is registered and not looked after, by its id or that of its service.
async fn run_by_hand(client: &Client, id: &str) -> Option<String> {
    let services = client.agent_services().await.ok()?;
    let is_proxy = |id: &str| services.get(id).is_some_and(|entry| entry.kind == "connect-proxy");
    let proxy = [id.to_owned(), format!("{id}-sidecar-proxy")].into_iter().find(|id| is_proxy(id))?;
    let name = &services.get(proxy.as_str())?.name;
    Some(format!(
        "{proxy} is run by hand: this agent has registered it and does not look after its process. It runs where somebody has \
         started `lictor connect proxy -proxy-id {proxy}` (or another proxy), and that one's output tells more; its checks: \
         lictor watch -type=checks -service={name}"
    ))
}

pub(super) fn text(why: &Why<'_>) -> String {
    let state = match (why.serving, why.causes.is_empty()) {
        (true, true) => "serves",
        (true, false) => "serves, but",
        (false, _) => "does not serve",
    };
    let mut text = format!("{} {state}", why.proxy_id);
    for link in &why.causes {
        let indent = "  ".repeat(link.depth + 1);
        let because = if link.depth == 0 { "" } else { "because " };
        let what = link.cause.replace('\n', &format!("\n{indent}  "));
        text.push_str(&format!("\n{indent}{because}{what}"));
        if !link.remedy.is_empty() {
            text.push_str(&format!("\n{indent}  => {}", link.remedy));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use lictor_api::process::Cause;

    use super::*;

    #[test]
    fn the_chain_reads_from_what_is_seen_to_what_is_behind_it() {
        let cause = |depth, cause: &'static str, remedy: &'static str| Cause {
            depth,
            cause: cause.into(),
            remedy: remedy.into(),
        };
        let causes =
            vec![cause(0, "it is down", ""), cause(1, "it said:\nboom", "read its log"), cause(0, "it rains", "")];
        let why = Why { proxy_id: "web-proxy".into(), serving: false, causes };
        assert_eq!(
            text(&why),
            "web-proxy does not serve\n  it is down\n    because it said:\n      boom\n      => read its log\n  it rains"
        );
        let why = Why { serving: true, ..why };
        assert!(text(&why).starts_with("web-proxy serves, but\n"));
        assert_eq!(text(&Why { causes: Vec::new(), ..why }), "web-proxy serves");
    }
}
