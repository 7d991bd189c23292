//! Secrets: the one place where a secret becomes a caller.
//!
//! A secret is looked up by its keyed digest. The key is drawn anew by every process, so neither the time a lookup takes
//! nor the order of the table tells anything about secrets that exist. What a caller may do is worked out once and
//! kept until a token or a policy changes.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lictor_model::acl::{Caller, Enforcement, Rules};
use lictor_model::intention::{Action, Otherwise};
use lictor_model::token::{ANONYMOUS_TOKEN, Policy, ROOT_SECRETS, Token};

use crate::replica::Tables;
use crate::rules::{self, Syntax};
use crate::{Config, Error};

/// How access is controlled, where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acl {
    /// What is decided where no rule speaks of a thing.
    pub default_policy: Action,
    /// What rules are asked about.
    pub enforcement: Enforcement,
}

impl Config {
    /// What is decided for connections no intention speaks of.
    pub(crate) fn otherwise(&self) -> Otherwise {
        match self.acl {
            None => Otherwise::AclsDisabled,
            Some(acl) => Otherwise::AclDefault(acl.default_policy),
        }
    }
}

/// The caller that a secret stands for; an empty one is nobody in particular.
pub(crate) fn caller(tables: &Tables, config: &Config, secret: &str) -> Result<Caller, Error> {
    let Some(acl) = config.acl else { return Ok(Caller::acls_disabled()) };
    let access = &tables.access;
    let accessor = accessor_of(tables, secret)?;
    Ok(access.caller_once(&accessor, || {
        let public = public(&accessor);
        match access.rules_of(&accessor, &config.datacenter) {
            Some(rules) => Caller::enforced(public, rules, acl.default_policy, acl.enforcement),
            // Rules that cannot be read may be the ones that deny.
            None => Caller::with_rules(public, Rules::default(), Action::Deny),
        }
    }))
}

/// The token that a secret stands for.
fn accessor_of(tables: &Tables, secret: &str) -> Result<Arc<str>, Error> {
    if ROOT_SECRETS.contains(&secret) {
        return Err(Error::refused("Cannot resolve root ACL"));
    }
    match secret {
        "" => Ok(ANONYMOUS_TOKEN.into()),
        secret => tables.access.accessor_of(secret).map(Arc::clone).ok_or(Error::UnknownToken),
    }
}

/// A token's public name; empty for the anonymous one.
fn public(accessor: &str) -> &str {
    if accessor == ANONYMOUS_TOKEN { "" } else { accessor }
}

/// What a secret stands for, in a form that another process can make the same caller of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// How access is controlled; `None` where it is not.
    pub acl: Option<Acl>,
    /// The token's public name; empty for the anonymous one.
    pub accessor: String,
    /// The texts of its rules.
    pub rules: Vec<RuleText>,
}

/// The rules of one token of the older form, or of one policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleText {
    /// As they were written.
    pub text: String,
    /// Whether every name in it is a prefix.
    pub legacy: bool,
}

impl Grant {
    /// The caller. Rules that cannot be read may be the ones that deny, so one with such rules has no rights.
    pub fn caller(&self) -> Caller {
        let Some(acl) = self.acl else { return Caller::acls_disabled() };
        let mut all = Rules::default();
        for RuleText { text, legacy } in &self.rules {
            match rules::parse(text, if *legacy { Syntax::Legacy } else { Syntax::Current }) {
                Ok(parsed) => all.add_all(&parsed.rules),
                Err(why) => {
                    tracing::error!("token {}: {why}: whoever has it gets no rights", self.accessor);
                    return Caller::with_rules(&self.accessor, Rules::default(), Action::Deny);
                }
            }
        }
        Caller::enforced(&self.accessor, all, acl.default_policy, acl.enforcement)
    }
}

/// What a secret stands for; the same as [`caller`] says.
pub(crate) fn grant(tables: &Tables, config: &Config, secret: &str) -> Result<Grant, Error> {
    let Some(acl) = config.acl else { return Ok(Grant::default()) };
    let accessor = accessor_of(tables, secret)?;
    let rules = tables.access.texts_of(&accessor, &config.datacenter);
    Ok(Grant { acl: Some(acl), accessor: public(&accessor).to_owned(), rules })
}

/// Accessors by the digests of their secrets.
pub(crate) struct Secrets {
    key: hmac::Key,
    accessors: HashMap<[u8; SHA256_OUTPUT_LEN], Arc<str>>,
}

impl Default for Secrets {
    fn default() -> Secrets {
        // Sixteen random bytes twice: the system's randomness as `uuid` reads it.
        let key = [uuid::Uuid::new_v4().into_bytes(), uuid::Uuid::new_v4().into_bytes()].concat();
        Secrets { key: hmac::Key::new(hmac::HMAC_SHA256, &key), accessors: HashMap::new() }
    }
}

/// Shows how many there are.
impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets").field("count", &self.accessors.len()).finish_non_exhaustive()
    }
}

impl Secrets {
    fn digest(&self, secret: &str) -> [u8; SHA256_OUTPUT_LEN] {
        let tag = hmac::sign(&self.key, secret.as_bytes());
        let mut digest = [0; SHA256_OUTPUT_LEN];
        digest.copy_from_slice(tag.as_ref());
        digest
    }

    pub(crate) fn insert(&mut self, secret: &str, accessor: Arc<str>) {
        self.accessors.insert(self.digest(secret), accessor);
    }

    /// Takes a secret out, if it is still that of this token.
    pub(crate) fn remove(&mut self, secret: &str, accessor: &str) {
        let digest = self.digest(secret);
        if self.accessors.get(&digest).is_some_and(|known| **known == *accessor) {
            self.accessors.remove(&digest);
        }
    }

    pub(crate) fn get(&self, secret: &str) -> Option<&Arc<str>> {
        self.accessors.get(&self.digest(secret))
    }
}

/// Changes when anything of a token changes that is not secret.
pub(crate) fn token_hash(token: &Token) -> String {
    let policies = token.policies.iter().flatten().map(|link| link.id.as_str());
    let local = if token.local { "local" } else { "global" };
    let fixed = [token.accessor.as_str(), &token.description, &token.rules, token.kind.as_str(), local];
    hash(fixed.into_iter().chain(policies))
}

/// Changes when anything of a policy changes.
pub(crate) fn policy_hash(policy: &Policy) -> String {
    let datacenters = policy.datacenters.iter().flatten().map(String::as_str);
    hash([policy.name.as_str(), &policy.description, &policy.rules].into_iter().chain(datacenters))
}

fn hash<'a>(parts: impl Iterator<Item = &'a str>) -> String {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part.as_bytes());
    }
    STANDARD.encode(context.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_found_and_not_shown() {
        let mut secrets = Secrets::default();
        secrets.insert("geheim", "a".into());
        assert_eq!(secrets.get("geheim").map(|accessor| &**accessor), Some("a"));
        assert_eq!(secrets.get("geheim2"), None);
        assert!(!format!("{secrets:?}").contains("geheim"));
        secrets.remove("geheim", "b");
        assert!(secrets.get("geheim").is_some(), "it is another token's");
        secrets.remove("geheim", "a");
        assert_eq!(secrets.get("geheim"), None);
    }

    #[test]
    fn two_processes_keep_their_secrets_under_other_digests() {
        assert_ne!(Secrets::default().digest("s"), Secrets::default().digest("s"));
    }

    #[test]
    fn hashes_tell_contents_apart_but_nothing_of_secrets() {
        let token = |secret: &str, description: &str| Token {
            secret: secret.into(),
            description: description.into(),
            ..Token::default()
        };
        assert_eq!(token_hash(&token("a", "x")), token_hash(&token("b", "x")));
        assert_ne!(token_hash(&token("a", "x")), token_hash(&token("a", "y")));
        let policy = |name: &str, rules: &str| Policy { name: name.into(), rules: rules.into(), ..Policy::default() };
        assert_ne!(policy_hash(&policy("a", "bc")), policy_hash(&policy("ab", "c")));
        assert_eq!(policy_hash(&policy("a", "")).len(), 44);
    }
}
