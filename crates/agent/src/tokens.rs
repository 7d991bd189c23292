//! The tokens that this agent uses for itself: from its configuration, or set over HTTP and then perhaps kept.

use std::fmt;

use lictor_model::acl::{Access, Caller, Resource, Rules};
use lictor_model::intention::Action;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;

use crate::agent::Inner;
use crate::{Agent, Error};

/// The tokens; empty ones are not set.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tokens {
    /// For copying tokens from another datacenter. There is none, so it is only kept.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub replication: String,
    /// Known to this agent alone, and to it even when nobody else can be asked.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub agent_master: String,
    /// For requests and registrations without one, and for DNS.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub default: String,
    /// For what the agent says of its node.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub agent: String,
}

/// Shows which are set.
impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = TokenName::ALL.iter().filter(|name| !self.get(**name).is_empty()).map(|name| name.as_str());
        f.debug_tuple("Tokens").field(&set.collect::<Vec<_>>()).finish()
    }
}

/// Whether tokens that are set over HTTP outlive the agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Persistence {
    /// They do not.
    #[default]
    Forgotten,
    /// They are kept in the data directory, and count more than the configuration's.
    Kept,
}

/// One of the tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenName {
    /// [`Tokens::default`]
    Default,
    /// [`Tokens::agent`]
    Agent,
    /// [`Tokens::agent_master`]
    AgentMaster,
    /// [`Tokens::replication`]
    Replication,
}

impl TokenName {
    const ALL: [TokenName; 4] = [TokenName::Default, TokenName::Agent, TokenName::AgentMaster, TokenName::Replication];

    /// Reads a name in its newer or its older spelling.
    pub fn parse(text: &str) -> Option<TokenName> {
        match text {
            "default" | "acl_token" => Some(TokenName::Default),
            "agent" | "acl_agent_token" => Some(TokenName::Agent),
            "agent_master" | "acl_agent_master_token" => Some(TokenName::AgentMaster),
            "replication" | "acl_replication_token" => Some(TokenName::Replication),
            _ => None,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            TokenName::Default => "default",
            TokenName::Agent => "agent",
            TokenName::AgentMaster => "agent_master",
            TokenName::Replication => "replication",
        }
    }
}

impl Tokens {
    fn get(&self, name: TokenName) -> &str {
        match name {
            TokenName::Default => &self.default,
            TokenName::Agent => &self.agent,
            TokenName::AgentMaster => &self.agent_master,
            TokenName::Replication => &self.replication,
        }
    }

    fn set(&mut self, name: TokenName, secret: &str) {
        let slot = match name {
            TokenName::Default => &mut self.default,
            TokenName::Agent => &mut self.agent,
            TokenName::AgentMaster => &mut self.agent_master,
            TokenName::Replication => &mut self.replication,
        };
        secret.clone_into(slot);
    }
}

impl Agent {
    /// Sets one of the tokens; an empty secret takes it away.
    pub fn set_token(&self, name: TokenName, secret: &str) -> Result<(), Error> {
        let inner = &self.inner;
        let _turn = inner.setting_tokens.lock();
        if inner.config.acl.persistence == Persistence::Kept {
            let failed = |source| Error::Machine { operation: "keep the agent's tokens".into(), source };
            tokio::task::block_in_place(|| {
                let mut kept = inner.files.read_tokens().map_err(failed)?;
                kept.set(name, secret);
                inner.files.write_tokens(&kept).map_err(failed)
            })?;
        }
        let mut tokens = Tokens::clone(&inner.tokens.load());
        tokens.set(name, secret);
        inner.tokens.store(tokens.into());
        inner.exchanges.send_modify(|count| *count += 1);
        inner.cluster.speak_as(&inner.own_secret());
        // What was refused to the former token may be granted to this one.
        inner.full_sync_nudge.notify_one();
        Ok(())
    }
}

impl Inner {
    /// Takes the tokens of the configuration, and instead of them those that were set over HTTP and kept.
    pub(crate) fn take_tokens(&self, configured: &Tokens) {
        let _turn = self.setting_tokens.lock();
        let mut tokens = configured.clone();
        if self.config.acl.persistence == Persistence::Kept {
            match self.files.read_tokens() {
                Ok(kept) => {
                    for name in TokenName::ALL {
                        let secret = kept.get(name);
                        if secret.is_empty() {
                            continue;
                        }
                        if !tokens.get(name).is_empty() && tokens.get(name) != secret {
                            tracing::warn!(
                                "agent: the {} token of the configuration is not used: another one was set over HTTP \
                                 and kept",
                                name.as_str()
                            );
                        }
                        tokens.set(name, secret);
                    }
                }
                Err(error) => tracing::error!("agent: cannot read the tokens that were kept: {error}"),
            }
        }
        if **self.tokens.load() != tokens {
            self.tokens.store(tokens.into());
            self.exchanges.send_modify(|count| *count += 1);
            self.cluster.speak_as(&self.own_secret());
            self.full_sync_nudge.notify_one();
        }
    }

    /// The secret with which the agent acts for itself.
    pub(crate) fn own_secret(&self) -> String {
        let tokens = self.tokens.load();
        let secret = if tokens.agent.is_empty() { &tokens.default } else { &tokens.agent };
        secret.clone()
    }

    /// The caller that the agent's master token stands for, if this is its secret: it may do everything with this
    /// agent and see nodes, and nothing else.
    pub(crate) fn master_caller(&self, secret: &str) -> Option<Caller> {
        let tokens = self.tokens.load();
        let master = tokens.agent_master.as_bytes();
        let is_master = !master.is_empty() && bool::from(master.ct_eq(secret.as_bytes()));
        if !is_master || !self.cluster.acls_enabled() {
            return None;
        }
        let mut rules = Rules::default();
        rules.add_exact(Resource::Agent, self.config.node_name.as_str(), Access::Write);
        rules.add_prefix(Resource::Node, "", Access::Read);
        Some(Caller::with_rules("", rules, Action::Deny))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_kept_under_the_names_the_original_uses_and_not_shown() {
        let mut tokens = Tokens::default();
        tokens.set(TokenName::Agent, "geheim");
        assert_eq!(serde_json::to_string(&tokens).unwrap(), r#"{"agent":"geheim"}"#);
        assert_eq!(format!("{tokens:?}"), r#"Tokens(["agent"])"#);
        assert_eq!(TokenName::parse("acl_agent_master_token"), Some(TokenName::AgentMaster));
        assert_eq!(TokenName::parse("master"), None);
    }
}
