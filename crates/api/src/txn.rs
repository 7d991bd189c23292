//! Transactions: several operations that happen together or not at all.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::catalog::{Node, NodeService};
use crate::health::Check;
use crate::kv::Entry;

/// `PUT /v1/txn`: the answer to one that happened, or did not.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Outcome<'a> {
    /// What the operations give, without those that give nothing; null if it did not happen.
    pub results: Option<Vec<Item<'a>>>,
    /// Why it did not happen; null if it did.
    pub errors: Option<Vec<Failure<'a>>>,
}

/// The answer to a transaction that only reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ReadOutcome<'a> {
    /// What the operations give; null if one failed.
    pub results: Option<Vec<Item<'a>>>,
    /// Why it failed; null if it did not.
    pub errors: Option<Vec<Failure<'a>>>,
    /// Always 0.
    pub index: u64,
    /// Milliseconds since the answering server heard from the leader.
    pub last_contact: u64,
    /// Whether there is a leader.
    pub known_leader: bool,
    /// Always empty.
    pub consistency_level: Cow<'a, str>,
}

impl<'a> ReadOutcome<'a> {
    /// The answer of a cluster that has a leader.
    pub fn new(Outcome { results, errors }: Outcome<'a>) -> ReadOutcome<'a> {
        ReadOutcome {
            results,
            errors,
            index: 0,
            last_contact: 0,
            known_leader: true,
            consistency_level: Cow::Borrowed(""),
        }
    }
}

/// What one operation gives: an object with one key that says of what kind it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Item<'a> {
    /// A key; a written one without its value.
    #[serde(rename = "KV")]
    Key(Entry<'a>),
    /// A node.
    Node(Node<'a>),
    /// A service.
    Service(Box<NodeService<'a>>),
    /// A check.
    Check(Box<Check<'a>>),
}

/// Why a transaction did not happen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Failure<'a> {
    /// Which operation, from 0.
    pub op_index: usize,
    /// What is wrong with it.
    pub what: Cow<'a, str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_result_says_of_what_kind_it_is() {
        let done =
            Outcome { results: Some(vec![Item::Key(Entry { key: "a".into(), ..Entry::default() })]), errors: None };
        let text = serde_json::to_string(&done).unwrap();
        assert_eq!(
            text,
            r#"{"Results":[{"KV":{"LockIndex":0,"Key":"a","Flags":0,"Value":null,"CreateIndex":0,"ModifyIndex":0}}],"Errors":null}"#
        );
        assert_eq!(serde_json::from_str::<Outcome<'static>>(&text).unwrap(), done);
    }

    #[test]
    fn a_failure_names_its_operation() {
        let failure = Failure { op_index: 1, what: r#"key "nosuch" doesn't exist"#.into() };
        let failed = Outcome { results: None, errors: Some(vec![failure]) };
        assert_eq!(
            serde_json::to_string(&failed).unwrap(),
            r#"{"Results":null,"Errors":[{"OpIndex":1,"What":"key \"nosuch\" doesn't exist"}]}"#
        );
        let read = serde_json::to_string(&ReadOutcome::new(failed)).unwrap();
        assert!(read.ends_with(r#"],"Index":0,"LastContact":0,"KnownLeader":true,"ConsistencyLevel":""}"#), "{read}");
    }
}
