//! Access control: tokens, policies, and what is left of their older form.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::is_zero;
use crate::time::Time;

/// A token, with its secret.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Token<'a> {
    /// The secret once more, in the answer to the bootstrap alone.
    #[serde(rename = "ID", skip_serializing_if = "str::is_empty")]
    pub id: Cow<'a, str>,
    /// Its public name.
    #[serde(rename = "AccessorID")]
    pub accessor_id: Cow<'a, str>,
    /// The secret; `<hidden>` to callers who may not see it.
    #[serde(rename = "SecretID")]
    pub secret_id: Cow<'a, str>,
    /// For people.
    pub description: Cow<'a, str>,
    /// What it grants; null when it never had any, empty when those it had are gone.
    pub policies: Option<Vec<PolicyLink<'a>>>,
    /// Rules of a token of the older form.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub rules: Cow<'a, str>,
    /// Whether it is known in its own datacenter alone.
    pub local: bool,
    /// When it was made.
    pub create_time: Time,
    /// Changes with the content.
    pub hash: Cow<'a, str>,
    /// First written.
    pub create_index: u64,
    /// Last changed.
    pub modify_index: u64,
}

/// Shows everything but the secret.
impl fmt::Debug for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("accessor_id", &self.accessor_id)
            .field("description", &self.description)
            .field("policies", &self.policies)
            .finish_non_exhaustive()
    }
}

/// A token in a list, without its secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TokenStub<'a> {
    /// Its public name.
    #[serde(rename = "AccessorID")]
    pub accessor_id: Cow<'a, str>,
    /// For people.
    pub description: Cow<'a, str>,
    /// What it grants.
    pub policies: Option<Vec<PolicyLink<'a>>>,
    /// Whether it is known in its own datacenter alone.
    pub local: bool,
    /// When it was made.
    pub create_time: Time,
    /// Changes with the content.
    pub hash: Cow<'a, str>,
    /// First written.
    pub create_index: u64,
    /// Last changed.
    pub modify_index: u64,
    /// Whether it is of the older form.
    #[serde(skip_serializing_if = "is_zero")]
    pub legacy: bool,
}

/// A policy as a token names it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PolicyLink<'a> {
    /// A UUID.
    #[serde(rename = "ID")]
    pub id: Cow<'a, str>,
    /// Unique.
    pub name: Cow<'a, str>,
}

/// A policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Policy<'a> {
    /// A UUID.
    #[serde(rename = "ID")]
    pub id: Cow<'a, str>,
    /// Unique.
    pub name: Cow<'a, str>,
    /// For people.
    pub description: Cow<'a, str>,
    /// The text of the rules.
    pub rules: Cow<'a, str>,
    /// Where it counts; left out when it counts everywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub datacenters: Option<Cow<'a, [String]>>,
    /// Changes with the content.
    pub hash: Cow<'a, str>,
    /// First written.
    pub create_index: u64,
    /// Last changed.
    pub modify_index: u64,
}

/// A policy in a list, without its rules.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PolicyStub<'a> {
    /// A UUID.
    #[serde(rename = "ID")]
    pub id: Cow<'a, str>,
    /// Unique.
    pub name: Cow<'a, str>,
    /// For people.
    pub description: Cow<'a, str>,
    /// Where it counts; null when it counts everywhere.
    pub datacenters: Option<Cow<'a, [String]>>,
    /// Changes with the content.
    pub hash: Cow<'a, str>,
    /// First written.
    pub create_index: u64,
    /// Last changed.
    pub modify_index: u64,
}

/// `GET /v1/acl/replication`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Replication<'a> {
    /// Whether tokens come from another datacenter.
    pub enabled: bool,
    /// Whether that goes on now.
    pub running: bool,
    /// Where they come from.
    pub source_datacenter: Cow<'a, str>,
    /// What is replicated.
    pub replication_type: Cow<'a, str>,
    /// How far policies are.
    pub replicated_index: u64,
    /// How far tokens are.
    pub replicated_token_index: u64,
    /// When it last worked.
    pub last_success: Time,
    /// When it last failed.
    pub last_error: Time,
}

/// A token as the endpoints of the older form show it.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct LegacyToken<'a> {
    /// The secret.
    #[serde(rename = "ID")]
    pub id: Cow<'a, str>,
    /// For people.
    pub name: Cow<'a, str>,
    /// `client` or `management`.
    #[serde(rename = "Type")]
    pub kind: Cow<'a, str>,
    /// The text of the rules.
    pub rules: Cow<'a, str>,
    /// First written.
    pub create_index: u64,
    /// Last changed.
    pub modify_index: u64,
}

/// Shows everything but the secret.
impl fmt::Debug for LegacyToken<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LegacyToken").field("name", &self.name).field("kind", &self.kind).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_shows_null_and_leaves_out_what_only_some_have() {
        let token = Token { accessor_id: "a".into(), secret_id: "geheim".into(), ..Token::default() };
        assert_eq!(
            serde_json::to_string(&token).unwrap(),
            r#"{"AccessorID":"a","SecretID":"geheim","Description":"","Policies":null,"Local":false,"CreateTime":"0001-01-01T00:00:00Z","Hash":"","CreateIndex":0,"ModifyIndex":0}"#
        );
        let legacy = LegacyToken { id: "geheim".into(), ..LegacyToken::default() };
        assert!(!format!("{token:?}{legacy:?}").contains("geheim"));
        let bootstrap = Token { id: "geheim".into(), ..token };
        assert!(serde_json::to_string(&bootstrap).unwrap().starts_with(r#"{"ID":"geheim","AccessorID":"a""#));
    }

    #[test]
    fn a_policy_shows_where_it_counts_in_lists_alone() {
        let policy = serde_json::to_string(&Policy::default()).unwrap();
        assert_eq!(
            policy,
            r#"{"ID":"","Name":"","Description":"","Rules":"","Hash":"","CreateIndex":0,"ModifyIndex":0}"#
        );
        let stub = serde_json::to_string(&PolicyStub::default()).unwrap();
        assert!(stub.contains(r#""Datacenters":null"#), "{stub}");
    }

    #[test]
    fn a_replication_that_never_ran_shows_the_first_moment() {
        assert_eq!(
            serde_json::to_string(&Replication::default()).unwrap(),
            r#"{"Enabled":false,"Running":false,"SourceDatacenter":"","ReplicationType":"","ReplicatedIndex":0,"ReplicatedTokenIndex":0,"LastSuccess":"0001-01-01T00:00:00Z","LastError":"0001-01-01T00:00:00Z"}"#
        );
    }
}
