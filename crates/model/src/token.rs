//! Tokens and the policies they grant: what an administrator of access control works with.
//!
//! What a secret may do is decided elsewhere (`state::tokens`); here are only the things themselves.

use std::fmt;

use crate::revision::Revision;

/// The policy that grants everything and cannot be taken away.
pub const MANAGEMENT_POLICY: &str = "00000000-0000-0000-0000-000000000001";

/// The name that policy has until somebody renames it.
pub const MANAGEMENT_POLICY_NAME: &str = "global-management";

/// The token of whoever brings none.
pub const ANONYMOUS_TOKEN: &str = "00000000-0000-0000-0000-000000000002";

/// The secret of that token. It is no secret: whoever gives it is as anonymous as before.
pub const ANONYMOUS_SECRET: &str = "anonymous";

/// Words that older agents took for rights themselves; they are never secrets.
pub const ROOT_SECRETS: [&str; 3] = ["allow", "deny", "manage"];

/// What a token is to the endpoints of the older form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TokenKind {
    /// They do not know it.
    #[default]
    Ordinary,
    /// One with rules of its own.
    Client,
    /// One that may do everything.
    Management,
}

impl TokenKind {
    /// The word of the older form; empty for a token it does not know.
    pub fn as_str(self) -> &'static str {
        match self {
            TokenKind::Ordinary => "",
            TokenKind::Client => "client",
            TokenKind::Management => "management",
        }
    }

    /// Reads the word of the older form.
    pub fn parse(text: &str) -> Option<TokenKind> {
        match text {
            "client" => Some(TokenKind::Client),
            "management" => Some(TokenKind::Management),
            _ => None,
        }
    }
}

/// A token.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Token {
    /// Its public id, a UUID.
    pub accessor: String,
    /// What proves to be its holder.
    pub secret: String,
    /// For people.
    pub description: String,
    /// What it grants; `None` if it never had any policy.
    pub policies: Option<Vec<PolicyLink>>,
    /// Rules of its own, in the older syntax.
    pub rules: String,
    /// What it is to the endpoints of the older form.
    pub kind: TokenKind,
    /// Whether it is known in its own datacenter alone.
    pub local: bool,
    /// Nanoseconds since the Unix epoch.
    pub created_at: i64,
    /// Changes with the content.
    pub hash: String,
    /// First written.
    pub created: Revision,
    /// Last changed.
    pub modified: Revision,
}

impl Token {
    /// Whether it is of the older form: its rules are its own.
    pub fn is_legacy(&self) -> bool {
        !self.rules.is_empty()
    }
}

/// Shows what may stand in a log: everything but the secret.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("accessor", &self.accessor)
            .field("description", &self.description)
            .field("policies", &self.policies)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// A policy as a token names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyLink {
    /// Its id. In requests it may be left out, then the name counts.
    pub id: String,
    /// Its name.
    pub name: String,
}

/// A policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// A UUID.
    pub id: String,
    /// Unique, without regard to case.
    pub name: String,
    /// For people.
    pub description: String,
    /// The text of its rules.
    pub rules: String,
    /// Where it counts; everywhere when empty.
    pub datacenters: Option<Vec<String>>,
    /// Changes with the content.
    pub hash: String,
    /// First written.
    pub created: Revision,
    /// Last changed.
    pub modified: Revision,
}

impl Policy {
    /// Whether it counts in a datacenter.
    pub fn counts_in(&self, datacenter: &str) -> bool {
        match self.datacenters.as_deref() {
            None | Some([]) => true,
            Some(named) => named.iter().any(|name| name.eq_ignore_ascii_case(datacenter)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_in_a_log_has_no_secret() {
        let token = Token { accessor: "a".into(), secret: "geheim".into(), ..Token::default() };
        let shown = format!("{token:?}");
        assert!(shown.contains("\"a\"") && !shown.contains("geheim"), "{shown}");
    }

    #[test]
    fn a_policy_without_datacenters_counts_everywhere() {
        let mut policy = Policy::default();
        assert!(policy.counts_in("dc1"));
        policy.datacenters = Some(vec![]);
        assert!(policy.counts_in("dc1"));
        policy.datacenters = Some(vec!["dc2".into()]);
        assert!(!policy.counts_in("dc1") && policy.counts_in("DC2"));
    }
}
