//! Access control.

use std::time::Duration;

use lictor_link::tokens::DownPolicy;

use super::node::is_uuid;
use super::{Check, Node};
use crate::config::report::Stage;

/// Access control.
#[derive(Clone)]
pub(crate) struct Acl {
    /// Whether there is any.
    pub(crate) enabled: bool,
    /// What a token may do that says nothing about it.
    pub(crate) default_policy: DefaultPolicy,
    /// What a client does while no server answers.
    pub(crate) down_policy: DownPolicy,
    /// How long a policy is remembered.
    pub(crate) policy_ttl: Duration,
    /// How long a token is remembered.
    pub(crate) token_ttl: Duration,
    /// Whether listing keys needs a right of its own.
    pub(crate) enable_key_list_policy: bool,
    /// Whether tokens set over HTTP are kept.
    pub(crate) enable_token_persistence: bool,
    /// Whether nodes, services, agents, sessions and queries are covered.
    pub(crate) enforce_version_8: bool,
    /// The agent's tokens.
    pub(crate) tokens: Tokens,
}

/// The agent's tokens; empty ones are not set.
#[derive(Clone, Default)]
pub(crate) struct Tokens {
    /// Has all rights; made at start by a server.
    pub(crate) master: String,
    /// For requests that bring none.
    pub(crate) default: String,
    /// For this agent's own entries.
    pub(crate) agent: String,
    /// For this agent even when no server answers.
    pub(crate) agent_master: String,
    /// Without use here.
    pub(crate) replication: String,
}

// Secrets do not belong into logs, so both are shown without them.
impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tokens { hidden }")
    }
}

impl std::fmt::Debug for Acl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acl").field("enabled", &self.enabled).field("default", &self.default_policy).finish()
    }
}

/// What is allowed that nobody decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DefaultPolicy {
    Allow,
    Deny,
}

impl DefaultPolicy {
    /// The word of the configuration.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            DefaultPolicy::Allow => "allow",
            DefaultPolicy::Deny => "deny",
        }
    }
}

/// Reads and judges.
pub(crate) fn acl(check: &mut Check<'_>, _node: &Node) -> Acl {
    let settings = check.settings;
    let default_policy = match settings.text("acl.default_policy") {
        "" | "allow" => DefaultPolicy::Allow,
        "deny" => DefaultPolicy::Deny,
        other => {
            let text = format!("Unsupported default ACL policy: {other}");
            check.refuse(Stage::Rules, "acl.default_policy", text, "use \"allow\" or \"deny\"");
            DefaultPolicy::Deny
        }
    };
    let down_policy = match settings.text("acl.down_policy") {
        "" => DownPolicy::default(),
        text => DownPolicy::parse(text).unwrap_or_else(|| {
            let why = format!("Unsupported down ACL policy: {text}");
            let remedy = "use \"allow\", \"deny\", \"extend-cache\" or \"async-cache\"";
            check.refuse(Stage::Rules, "acl.down_policy", why, remedy);
            DownPolicy::Deny
        }),
    };
    // The presence of the old key turned access control on; leaving it off would open what was closed.
    let enabled = match settings.flag_if_set("acl.enabled").filter(|_| settings.is_given("acl.enabled")) {
        Some(enabled) => enabled,
        None => settings.is_given("acl_datacenter"),
    };
    let or_default = |key: &str| match settings.duration(key).or_zero() {
        Duration::ZERO => Duration::from_secs(30),
        ttl => ttl,
    };
    let token = |name: &str| settings.text(name).to_owned();
    let tokens = Tokens {
        master: token("acl.tokens.master"),
        default: token("acl.tokens.default"),
        agent: token("acl.tokens.agent"),
        agent_master: token("acl.tokens.agent_master"),
        replication: token("acl.tokens.replication"),
    };
    if !tokens.master.is_empty() && !is_uuid(&tokens.master) {
        check.warn("Configuring a non-UUID master token is deprecated");
    }
    let enforce_version_8 = settings.flag("acl_enforce_version_8");
    if enabled && !enforce_version_8 {
        check.warn(
            "config: acl_enforce_version_8 = false leaves nodes, services, agents, sessions and queries without \
             access control; remove it",
        );
    }
    Acl {
        enabled,
        default_policy,
        down_policy,
        policy_ttl: or_default("acl.policy_ttl"),
        token_ttl: or_default("acl.token_ttl"),
        enable_key_list_policy: settings.flag("acl.enable_key_list_policy"),
        enable_token_persistence: settings.flag("acl.enable_token_persistence"),
        enforce_version_8,
        tokens,
    }
}
