//! What can be watched: for each kind the request, and what of its answer is shown.

use anyhow::{Context, Result, bail};
use lictor_api::client::Request;
use serde_json::value::RawValue;

/// Where a watch stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Position {
    /// Nothing was seen.
    Start,
    /// Everything up to an index.
    Index(u64),
    /// The content with this hash.
    Hash(String),
}

impl Position {
    /// As a program that is called reads it.
    pub(crate) fn shown(&self) -> String {
        match self {
            Position::Index(index) => index.to_string(),
            Position::Hash(hash) => hash.clone(),
            Position::Start => "0".to_owned(),
        }
    }

    /// Whether it lies behind an index.
    pub(crate) fn is_after(&self, index: u64) -> bool {
        matches!(self, Position::Index(own) if *own > index)
    }
}

/// What is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Key(String),
    KeyPrefix(String),
    Services,
    Nodes,
    Service { name: String, tags: Vec<String>, passing: bool },
    ChecksOf(String),
    ChecksIn(String),
    Event(String),
    Roots,
    Leaf(String),
    ProxyConfig(String),
    AgentService(String),
}

impl Target {
    /// What is asked for by flags, or by a configuration whose words are the flags' with other hyphens.
    pub(crate) fn of(
        kind: &str,
        given: &dyn Fn(&str) -> Option<String>,
        tags: Vec<String>,
        passing: bool,
    ) -> Result<Target> {
        let given = |name: &str| given(name).filter(|text| !text.is_empty());
        let needed = |name: &str, what: &str| match given(name) {
            Some(text) => Ok(text),
            None => bail!("Must specify a single {what} to watch"),
        };
        Ok(match kind {
            "key" => Target::Key(needed("key", "key")?),
            "keyprefix" => Target::KeyPrefix(needed("prefix", "prefix")?),
            "services" => Target::Services,
            "nodes" => Target::Nodes,
            "service" => Target::Service { name: needed("service", "service")?, tags, passing },
            "checks" => match (given("service"), given("state")) {
                (Some(_), Some(_)) => bail!("Cannot specify service and state"),
                (Some(service), None) => Target::ChecksOf(service),
                (None, state) => Target::ChecksIn(state.unwrap_or_else(|| "any".into())),
            },
            "event" => Target::Event(given("name").unwrap_or_default()),
            "connect_roots" => Target::Roots,
            "connect_leaf" => Target::Leaf(needed("service", "service")?),
            "connect_proxy_config" => Target::ProxyConfig(needed("service-id", "proxy service id")?),
            "agent_service" => Target::AgentService(needed("service-id", "service id")?),
            other => bail!("Unsupported watch type: {other}"),
        })
    }

    /// The name of its kind.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Target::Key(_) => "key",
            Target::KeyPrefix(_) => "keyprefix",
            Target::Services => "services",
            Target::Nodes => "nodes",
            Target::Service { .. } => "service",
            Target::ChecksOf(_) | Target::ChecksIn(_) => "checks",
            Target::Event(_) => "event",
            Target::Roots => "connect_roots",
            Target::Leaf(_) => "connect_leaf",
            Target::ProxyConfig(_) => "connect_proxy_config",
            Target::AgentService(_) => "agent_service",
        }
    }

    /// What is asked.
    pub(crate) fn request(&self) -> Request {
        match self {
            Target::Key(key) => crate::cli::kv::about(Request::get(crate::cli::kv::KV), key),
            Target::KeyPrefix(prefix) => {
                crate::cli::kv::about(Request::get(crate::cli::kv::KV), prefix).query("recurse", "")
            }
            Target::Services => Request::get("/v1/catalog/services"),
            Target::Nodes => Request::get("/v1/catalog/nodes"),
            Target::Service { name, tags, passing } => {
                let mut request = Request::get("/v1/health/service/").segment(name);
                for tag in tags {
                    request = request.query("tag", tag);
                }
                if *passing { request.query("passing", "1") } else { request }
            }
            Target::ChecksOf(service) => Request::get("/v1/health/checks/").segment(service),
            Target::ChecksIn(state) => Request::get("/v1/health/state/").segment(state),
            Target::Event(name) if name.is_empty() => Request::get("/v1/event/list"),
            Target::Event(name) => Request::get("/v1/event/list").query("name", name),
            Target::Roots => Request::get("/v1/agent/connect/ca/roots"),
            Target::Leaf(service) => Request::get("/v1/agent/connect/ca/leaf/").segment(service),
            Target::ProxyConfig(id) => Request::get("/v1/agent/connect/proxy/").segment(id),
            Target::AgentService(id) => Request::get("/v1/agent/service/").segment(id),
        }
    }

    /// Whether an answer that there is no such thing is an answer.
    pub(crate) fn may_be_missing(&self) -> bool {
        matches!(self, Target::Key(_) | Target::KeyPrefix(_))
    }

    /// Whether its index only grows. That of events is made of the last one's id.
    pub(crate) fn is_ordered(&self) -> bool {
        !matches!(self, Target::Event(_))
    }

    /// What of an answer is shown, as the agent wrote it.
    pub(crate) fn shown(&self, answer: Box<RawValue>) -> Result<Box<RawValue>> {
        match self {
            Target::Key(_) => {
                let entries: Vec<Box<RawValue>> =
                    serde_json::from_str(answer.get()).context("cannot read the agent's answer")?;
                Ok(entries.into_iter().next().unwrap_or_else(|| RawValue::NULL.to_owned()))
            }
            _ => Ok(answer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_alone_is_shown_without_its_list() {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).unwrap();
        let shown = |target: Target, text| target.shown(raw(text)).unwrap().get().to_owned();
        assert_eq!(shown(Target::Key("a".into()), r#"[{"Key":"a"}]"#), r#"{"Key":"a"}"#);
        assert_eq!(shown(Target::Key("a".into()), "[]"), "null");
        assert_eq!(shown(Target::Nodes, "[1]"), "[1]");
    }

    #[test]
    fn an_index_that_went_backwards_is_noticed() {
        assert!(Position::Index(7).is_after(6));
        assert!(!Position::Index(7).is_after(7) && !Position::Start.is_after(0));
    }
}
