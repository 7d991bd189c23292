//! Tokens and policies as people and scripts read them.

use lictor_api::acl::{Policy, PolicyLink, PolicyStub, Token, TokenStub};
use lictor_api::time::Time;

/// How much is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Detail {
    /// What matters.
    Plain,
    /// Hash and indexes too.
    Meta,
}

impl Detail {
    /// By the option of the commands.
    pub(super) fn of(flags: &crate::config::flags::Parsed) -> Detail {
        if flags.is_set("meta") { Detail::Meta } else { Detail::Plain }
    }
}

/// A token with its secret.
pub(super) fn token(token: &Token<'_>, detail: Detail) -> String {
    let mut text = line("AccessorID", &token.accessor_id);
    text += &line("SecretID", &token.secret_id);
    text += &line("Description", &token.description);
    text += &line("Local", &token.local.to_string());
    text += &line("Create Time", &moment(token.create_time));
    text += &meta(detail, &token.hash, token.create_index, token.modify_index, "");
    text += &links(token.policies.as_deref());
    if !token.rules.is_empty() {
        text += &format!("Rules:\n{}\n", token.rules.trim_end_matches('\n'));
    }
    text
}

/// A token of a list.
pub(super) fn token_stub(token: &TokenStub<'_>, detail: Detail) -> String {
    let mut text = line("AccessorID", &token.accessor_id);
    text += &line("Description", &token.description);
    text += &line("Local", &token.local.to_string());
    text += &line("Create Time", &moment(token.create_time));
    text += &line("Legacy", &token.legacy.to_string());
    text += &meta(detail, &token.hash, token.create_index, token.modify_index, "");
    text += &links(token.policies.as_deref());
    text
}

/// A policy with its rules.
pub(super) fn policy(policy: &Policy<'_>, detail: Detail) -> String {
    let mut text = line("ID", &policy.id);
    text += &line("Name", &policy.name);
    text += &line("Description", &policy.description);
    text += &line("Datacenters", &policy.datacenters.as_deref().unwrap_or_default().join(", "));
    text += &meta(detail, &policy.hash, policy.create_index, policy.modify_index, "");
    text += &format!("Rules:\n{}", policy.rules);
    text
}

/// A policy of a list.
pub(super) fn policy_stub(policy: &PolicyStub<'_>, detail: Detail) -> String {
    let indent = "   ";
    let mut text = format!("{}:\n", policy.name);
    for line in [
        line("ID", &policy.id),
        line("Description", &policy.description),
        line("Datacenters", &policy.datacenters.as_deref().unwrap_or_default().join(", ")),
    ] {
        text += indent;
        text += &line;
    }
    text += &meta(detail, &policy.hash, policy.create_index, policy.modify_index, indent);
    text
}

fn line(name: &str, value: &str) -> String {
    format!("{:14}{value}\n", format!("{name}:"))
}

fn meta(detail: Detail, hash: &str, created: u64, modified: u64, indent: &str) -> String {
    if detail == Detail::Plain {
        return String::new();
    }
    let lines =
        [line("Hash", hash), line("Create Index", &created.to_string()), line("Modify Index", &modified.to_string())];
    lines.iter().map(|line| format!("{indent}{line}")).collect()
}

fn links(policies: Option<&[PolicyLink<'_>]>) -> String {
    let mut text = String::from("Policies:\n");
    for PolicyLink { id, name } in policies.unwrap_or_default() {
        text += &format!("   {id} - {name}\n");
    }
    text
}

/// `2019-03-05 21:31:23.163056838 +0000 UTC`.
fn moment(time: Time) -> String {
    let text = time.to_string();
    let text = text.trim_end_matches('Z').replacen('T', " ", 1);
    format!("{text} +0000 UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_shown_as_scripts_know_it() {
        let token_shape = Token {
            accessor_id: "599e".into(),
            secret_id: "3cdc".into(),
            description: "dd".into(),
            create_time: Time::from_nanos(1_551_821_483_163_056_838),
            policies: Some(vec![PolicyLink { id: "4cb9".into(), name: "p3".into() }]),
            ..Token::default()
        };
        assert_eq!(
            token(&token_shape, Detail::Plain),
            "AccessorID:   599e\nSecretID:     3cdc\nDescription:  dd\nLocal:        false\nCreate Time:  2019-03-05 \
             21:31:23.163056838 +0000 UTC\nPolicies:\n   4cb9 - p3\n"
        );
        assert!(token(&token_shape, Detail::Meta).contains("\nHash:         \nCreate Index: 0\nModify Index: 0\n"));
        let stub = TokenStub { accessor_id: "599e".into(), legacy: true, ..TokenStub::default() };
        assert_eq!(
            token_stub(&stub, Detail::Plain),
            "AccessorID:   599e\nDescription:  \nLocal:        false\nCreate Time:  0001-01-01 00:00:00 +0000 UTC\n\
             Legacy:       true\nPolicies:\n"
        );
    }

    #[test]
    fn a_policy_is_shown_with_its_rules_and_in_lists_below_its_name() {
        let shape = Policy { id: "06ac".into(), name: "p3".into(), rules: "key \"\" {}".into(), ..Policy::default() };
        assert_eq!(
            policy(&shape, Detail::Plain),
            "ID:           06ac\nName:         p3\nDescription:  \nDatacenters:  \nRules:\nkey \"\" {}"
        );
        let stub = PolicyStub { id: "06ac".into(), name: "p3".into(), ..PolicyStub::default() };
        assert_eq!(
            policy_stub(&stub, Detail::Plain),
            "p3:\n   ID:           06ac\n   Description:  \n   Datacenters:  \n"
        );
    }
}
