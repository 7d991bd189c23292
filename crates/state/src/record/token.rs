//! Tokens and policies on disk.

use lictor_model::revision::Revision;
use lictor_model::token::{Policy, PolicyLink, Token, TokenKind};
use serde::{Deserialize, Serialize};

use super::{Created, is_default};
use crate::tokens::{policy_hash, token_hash};

/// A token with its secret: clients of administrators show it again and again, so it must be readable.
#[derive(PartialEq, Serialize, Deserialize)]
pub(crate) struct TokenRecord {
    accessor: String,
    secret: String,
    #[serde(default, skip_serializing_if = "is_default")]
    description: String,
    /// Ids alone: a policy may be renamed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    policies: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "is_default")]
    rules: String,
    /// The word of the older form.
    #[serde(default, skip_serializing_if = "is_default")]
    kind: String,
    #[serde(default, skip_serializing_if = "is_default")]
    local: bool,
    created_at: i64,
    #[serde(default, skip_serializing_if = "is_default")]
    created: Created,
}

impl TokenRecord {
    pub(crate) fn new(token: &Token, created: Created) -> TokenRecord {
        let Token {
            accessor,
            secret,
            description,
            policies,
            rules,
            kind,
            local,
            created_at,
            hash: _,
            created: _,
            modified: _,
        } = token.clone();
        let policies = policies.map(|links| links.into_iter().map(|link| link.id).collect());
        let kind = kind.as_str().to_owned();
        TokenRecord { accessor, secret, description, policies, rules, kind, local, created_at, created }
    }

    pub(crate) fn into_row(self, modified: Revision) -> Token {
        let TokenRecord { accessor, secret, description, policies, rules, kind, local, created_at, created } = self;
        let policies = policies
            .map(|ids| ids.into_iter().map(|id| PolicyLink { id, name: String::new() }).collect::<Vec<PolicyLink>>());
        let mut token = Token {
            accessor,
            secret,
            description,
            policies,
            rules,
            kind: TokenKind::parse(&kind).unwrap_or_default(),
            local,
            created_at,
            hash: String::new(),
            created: created.or(modified),
            modified,
        };
        token.hash = token_hash(&token);
        token
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PolicyRecord {
    id: String,
    name: String,
    #[serde(default, skip_serializing_if = "is_default")]
    description: String,
    #[serde(default, skip_serializing_if = "is_default")]
    rules: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    datacenters: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "is_default")]
    created: Created,
}

impl PolicyRecord {
    pub(crate) fn new(policy: &Policy, created: Created) -> PolicyRecord {
        let Policy { id, name, description, rules, datacenters, hash: _, created: _, modified: _ } = policy.clone();
        PolicyRecord { id, name, description, rules, datacenters, created }
    }

    pub(crate) fn into_row(self, modified: Revision) -> Policy {
        let PolicyRecord { id, name, description, rules, datacenters, created } = self;
        let created = created.or(modified);
        let mut policy = Policy { id, name, description, rules, datacenters, hash: String::new(), created, modified };
        policy.hash = policy_hash(&policy);
        policy
    }
}

/// Who was given the first token, so that nobody else is.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct BootstrapRecord {
    /// The token's public id.
    pub(crate) accessor: String,
}

/// Rewritten whenever a token gets a secret that somebody chose: two of them at once would both be let in otherwise.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SuppliedRecord {
    /// The public id of the token that was written last.
    pub(crate) accessor: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_on_the_way_to_the_disk_and_back() {
        let link = |id: &str| PolicyLink { id: id.into(), name: String::new() };
        let mut token = Token {
            accessor: "a".into(),
            secret: "s".into(),
            description: "d".into(),
            policies: Some(vec![link("p")]),
            rules: "r".into(),
            kind: TokenKind::Client,
            local: true,
            created_at: 7,
            hash: String::new(),
            created: Revision(3),
            modified: Revision(9),
        };
        token.hash = token_hash(&token);
        let bytes = serde_json::to_vec(&TokenRecord::new(&token, Created::at(Revision(3)))).unwrap();
        assert_eq!(serde_json::from_slice::<TokenRecord>(&bytes).unwrap().into_row(Revision(9)), token);

        let mut policy = Policy {
            id: "p".into(),
            name: "n".into(),
            description: "d".into(),
            rules: "r".into(),
            datacenters: Some(vec!["dc1".into()]),
            hash: String::new(),
            created: Revision(3),
            modified: Revision(9),
        };
        policy.hash = policy_hash(&policy);
        let bytes = serde_json::to_vec(&PolicyRecord::new(&policy, Created::at(Revision(3)))).unwrap();
        assert_eq!(serde_json::from_slice::<PolicyRecord>(&bytes).unwrap().into_row(Revision(9)), policy);
    }

    #[test]
    fn a_token_without_policies_is_not_one_whose_policies_are_gone() {
        let none = Token { accessor: "a".into(), ..Token::default() };
        let gone = Token { policies: Some(vec![]), ..none.clone() };
        let back = |token: &Token| {
            let bytes = serde_json::to_vec(&TokenRecord::new(token, Created::NOW)).unwrap();
            serde_json::from_slice::<TokenRecord>(&bytes).unwrap().into_row(Revision(1)).policies
        };
        assert_eq!((back(&none), back(&gone)), (None, Some(vec![])));
    }
}
