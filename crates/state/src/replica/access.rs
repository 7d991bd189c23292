//! Tokens and policies in memory, with rules read, and secrets that find their tokens.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use lictor_model::acl::{Caller, Rules};
use lictor_model::name::fold;
use lictor_model::revision::Revision;
use lictor_model::token::{MANAGEMENT_POLICY, Policy, PolicyLink, Token, TokenKind};
use parking_lot::Mutex;

use super::Touched;
use crate::answer::Topic;
use crate::rules::{self, Syntax};
use crate::schema::Key;
use crate::tokens::RuleText;
use crate::tokens::Secrets;

#[derive(Debug, Default)]
pub(crate) struct Access {
    tokens: BTreeMap<Arc<str>, StoredToken>,
    policies: BTreeMap<Arc<str>, StoredPolicy>,
    /// Ids by folded name.
    policy_names: BTreeMap<Arc<str>, Arc<str>>,
    secrets: Secrets,
    /// Callers by accessor, worked out when they are first asked for.
    callers: Mutex<HashMap<Arc<str>, Caller>>,
    bootstrapped: Option<Revision>,
    supplied: Option<Revision>,
    tokens_index: Revision,
    policies_index: Revision,
}

#[derive(Debug)]
struct StoredToken {
    row: Arc<Token>,
    /// Its own rules; `None` when they cannot be read.
    rules: Option<Rules>,
}

#[derive(Debug)]
struct StoredPolicy {
    row: Arc<Policy>,
    /// `None` when they cannot be read.
    rules: Option<Rules>,
}

/// Rules were read when they were stored, so only another version could have let in what cannot be read.
fn read(what: &str, id: &str, text: &str, syntax: Syntax) -> Option<Rules> {
    match rules::parse(text, syntax) {
        Ok(parsed) => Some(parsed.rules),
        Err(why) => {
            tracing::error!("{what} {id}: {why}: whoever has it gets no rights");
            None
        }
    }
}

impl Access {
    pub(crate) fn put_token(&mut self, row: Token, at: Revision, touched: &mut Touched) {
        let accessor = fold(&row.accessor);
        self.unlink_token(&accessor);
        let rules = read("token", &accessor, &row.rules, Syntax::Legacy);
        self.secrets.insert(&row.secret, Arc::clone(&accessor));
        self.touch_token(&accessor, at, touched);
        self.tokens.insert(accessor, StoredToken { row: Arc::new(row), rules });
    }

    pub(crate) fn remove_token(&mut self, accessor: &str, at: Revision, touched: &mut Touched) {
        if self.unlink_token(accessor) {
            self.touch_token(accessor, at, touched);
        }
    }

    fn unlink_token(&mut self, accessor: &str) -> bool {
        self.callers.get_mut().remove(accessor);
        let Some(StoredToken { row, .. }) = self.tokens.remove(accessor) else { return false };
        self.secrets.remove(&row.secret, accessor);
        true
    }

    fn touch_token(&mut self, accessor: &str, at: Revision, touched: &mut Touched) {
        self.tokens_index = at;
        touched.add(Topic::Tokens);
        touched.add_named(Topic::Token, accessor);
    }

    pub(crate) fn put_policy(&mut self, row: Policy, at: Revision, touched: &mut Touched) {
        let id = fold(&row.id);
        self.unlink_policy(&id);
        let rules = read("policy", &id, &row.rules, Syntax::Current);
        self.policy_names.insert(fold(&row.name), Arc::clone(&id));
        self.touch_policy(&id, at, touched);
        self.policies.insert(id, StoredPolicy { row: Arc::new(row), rules });
    }

    pub(crate) fn remove_policy(&mut self, id: &str, at: Revision, touched: &mut Touched) {
        if self.unlink_policy(id) {
            self.touch_policy(id, at, touched);
        }
    }

    fn unlink_policy(&mut self, id: &str) -> bool {
        self.callers.get_mut().clear();
        let Some(StoredPolicy { row, .. }) = self.policies.remove(id) else { return false };
        let name = fold(&row.name);
        if self.policy_names.get(&name).is_some_and(|owner| **owner == *id) {
            self.policy_names.remove(&name);
        }
        true
    }

    fn touch_policy(&mut self, id: &str, at: Revision, touched: &mut Touched) {
        self.policies_index = at;
        touched.add(Topic::Policies);
        touched.add_named(Topic::Policy, id);
    }

    pub(crate) fn put_bootstrap(&mut self, modified: Revision) {
        self.bootstrapped = Some(modified);
    }

    pub(crate) fn put_supplied(&mut self, modified: Revision) {
        self.supplied = Some(modified);
    }

    pub(crate) fn remove_bootstrap(&mut self) {
        self.bootstrapped = None;
    }

    pub(crate) fn remove_supplied(&mut self) {
        self.supplied = None;
    }

    /// When the first token was last given away.
    pub(crate) fn bootstrapped(&self) -> Option<Revision> {
        self.bootstrapped
    }

    /// When a token last got a secret that somebody chose.
    pub(crate) fn supplied(&self) -> Option<Revision> {
        self.supplied
    }

    /// The token of a secret.
    pub(crate) fn accessor_of(&self, secret: &str) -> Option<&Arc<str>> {
        self.secrets.get(secret)
    }

    /// A caller that was worked out before, or is now.
    pub(crate) fn caller_once(&self, accessor: &Arc<str>, work_out: impl FnOnce() -> Caller) -> Caller {
        if let Some(caller) = self.callers.lock().get(accessor) {
            return caller.clone();
        }
        let caller = work_out();
        self.callers.lock().insert(Arc::clone(accessor), caller.clone());
        caller
    }

    /// All that a token grants in a datacenter; `None` when a part of it cannot be read. No token grants nothing.
    pub(crate) fn rules_of(&self, accessor: &str, datacenter: &str) -> Option<Rules> {
        let Some(StoredToken { row, rules }) = self.tokens.get(accessor) else { return Some(Rules::default()) };
        let mut all = rules.clone()?;
        for policy in self.policies_of(row, datacenter) {
            all.add_all(policy.rules.as_ref()?);
        }
        Some(all)
    }

    /// The policies of a token that count in a datacenter. One that was deleted grants nothing any more.
    fn policies_of<'a>(&'a self, row: &'a Token, datacenter: &'a str) -> impl Iterator<Item = &'a StoredPolicy> {
        let management = (row.kind == TokenKind::Management).then(|| fold(MANAGEMENT_POLICY));
        let linked = row.policies.iter().flatten().map(|link| fold(&link.id));
        let policies = linked.chain(management).filter_map(|id| self.policies.get(&id));
        policies.filter(move |policy| policy.row.counts_in(datacenter))
    }

    /// The texts of which [`Access::rules_of`] is made.
    pub(crate) fn texts_of(&self, accessor: &str, datacenter: &str) -> Vec<RuleText> {
        let Some(StoredToken { row, .. }) = self.tokens.get(accessor) else { return Vec::new() };
        let own = Some(&row.rules).filter(|text| !text.is_empty());
        let own = own.map(|text| RuleText { text: text.clone(), legacy: true });
        let policies = self.policies_of(row, datacenter);
        let policies = policies.map(|policy| RuleText { text: policy.row.rules.clone(), legacy: false });
        own.into_iter().chain(policies).collect()
    }

    /// All tokens, by accessor.
    pub(crate) fn tokens(&self) -> impl Iterator<Item = &Arc<Token>> {
        self.tokens.values().map(|stored| &stored.row)
    }

    /// A token by its folded accessor.
    pub(crate) fn token(&self, accessor: &str) -> Option<&Arc<Token>> {
        self.tokens.get(accessor).map(|stored| &stored.row)
    }

    /// A token by its secret.
    pub(crate) fn token_of(&self, secret: &str) -> Option<&Arc<Token>> {
        self.token(self.secrets.get(secret)?)
    }

    /// All policies, by id.
    pub(crate) fn policies(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.policies.values().map(|stored| &stored.row)
    }

    /// A policy by its folded id.
    pub(crate) fn policy(&self, id: &str) -> Option<&Arc<Policy>> {
        self.policies.get(id).map(|stored| &stored.row)
    }

    /// A policy by its name.
    pub(crate) fn policy_named(&self, name: &str) -> Option<&Arc<Policy>> {
        self.policy(self.policy_names.get(&fold(name))?)
    }

    /// A token with the names of its policies as they are now, without those that are gone.
    pub(crate) fn with_names(&self, token: &Token) -> Token {
        let named = |link: &PolicyLink| {
            let policy = self.policy(&fold(&link.id))?;
            Some(PolicyLink { id: policy.id.clone(), name: policy.name.clone() })
        };
        let links = match &token.policies {
            // The older form says it by the kind of the token.
            None if token.kind == TokenKind::Management => {
                Some(vec![PolicyLink { id: MANAGEMENT_POLICY.into(), name: String::new() }])
            }
            links => links.clone(),
        };
        let policies = links.map(|links| links.iter().filter_map(named).collect());
        Token { policies, ..token.clone() }
    }

    pub(crate) fn index(&self, topic: &Topic) -> Option<Revision> {
        match topic {
            Topic::Tokens => Some(self.tokens_index),
            Topic::Token(accessor) => {
                Some(self.tokens.get(&**accessor).map_or(self.tokens_index, |stored| stored.row.modified))
            }
            Topic::Policies => Some(self.policies_index),
            Topic::Policy(id) => {
                Some(self.policies.get(&**id).map_or(self.policies_index, |stored| stored.row.modified))
            }
            _ => None,
        }
    }

    pub(crate) fn raise(&mut self, floor: Revision) {
        self.tokens_index = floor;
        self.policies_index = floor;
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = (Key, Revision)> {
        let tokens =
            self.tokens.iter().map(|(accessor, stored)| (Key::Token(Arc::clone(accessor)), stored.row.modified));
        let policies = self.policies.iter().map(|(id, stored)| (Key::Policy(Arc::clone(id)), stored.row.modified));
        let bootstrap = self.bootstrapped.map(|modified| (Key::AclBootstrap, modified));
        let supplied = self.supplied.map(|modified| (Key::AclSupplied, modified));
        tokens.chain(policies).chain(bootstrap).chain(supplied)
    }
}
