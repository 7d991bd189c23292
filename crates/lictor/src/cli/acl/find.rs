//! Tokens and policies by id, by the beginning of an id, or by name.

use anyhow::{Context, Result, bail};
use lictor_api::acl::{PolicyStub, TokenStub};
use lictor_api::client::Request;

use crate::cli::client::Agent;

/// Length of a whole id.
const WHOLE: usize = 36;

/// The whole id of the one token whose accessor id begins so.
pub(super) fn token(agent: &Agent, prefix: &str) -> Result<String> {
    if prefix.len() == WHOLE {
        return Ok(prefix.to_owned());
    }
    let all: Vec<TokenStub<'static>> = agent.read(Request::get("/v1/acl/tokens"))?;
    one("token", prefix, all.iter().map(|token| token.accessor_id.as_ref()))
}

/// The whole id of the one policy whose id begins so.
pub(super) fn policy(agent: &Agent, prefix: &str) -> Result<String> {
    if prefix.len() == WHOLE {
        return Ok(prefix.to_owned());
    }
    let all: Vec<PolicyStub<'static>> = agent.read(Request::get("/v1/acl/policies"))?;
    one("policy", prefix, all.iter().map(|policy| policy.id.as_ref()))
}

/// The id of the policy with a name.
pub(super) fn policy_named(agent: &Agent, name: &str) -> Result<String> {
    let all: Vec<PolicyStub<'static>> = agent.read(Request::get("/v1/acl/policies"))?;
    let found = all.iter().find(|policy| policy.name == name);
    found.map(|policy| policy.id.to_string()).with_context(|| format!("no such policy with name {name}"))
}

fn one<'a>(what: &str, prefix: &str, ids: impl Iterator<Item = &'a str>) -> Result<String> {
    if prefix.is_empty() {
        bail!("the {what} id is empty");
    }
    let found: Vec<&str> = ids.filter(|id| id.starts_with(prefix)).collect();
    match found.as_slice() {
        [id] => Ok((*id).to_owned()),
        [] => bail!("no such {what} ID with prefix: {prefix}"),
        _ => bail!("multiple {what} IDs with prefix: {prefix}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_of_an_id_is_enough_when_there_is_one_such() {
        let ids = || ["abc1", "abc2", "def"].into_iter();
        assert_eq!(one("token", "d", ids()).unwrap(), "def");
        assert_eq!(one("token", "abc", ids()).unwrap_err().to_string(), "multiple token IDs with prefix: abc");
        assert_eq!(one("token", "x", ids()).unwrap_err().to_string(), "no such token ID with prefix: x");
        assert!(one("token", "", ids()).is_err());
    }
}
