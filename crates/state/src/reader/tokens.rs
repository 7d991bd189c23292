//! Reading tokens and policies.

use std::sync::Arc;

use lictor_model::acl::{Access, Realm};
use lictor_model::intention::Otherwise;
use lictor_model::name::fold;
use lictor_model::token::{Policy, Token, TokenKind};

use super::Reader;
use crate::Error;
use crate::answer::{Answer, Topic};
use crate::query::HIDDEN;
use crate::replica::Tables;

/// A token's answer depends on the names of its policies too.
fn topics() -> Vec<Topic> {
    vec![Topic::Tokens, Topic::Policies]
}

impl Reader {
    /// What is decided for connections no intention speaks of.
    pub fn otherwise(&self) -> Otherwise {
        self.config.otherwise()
    }

    /// All tokens by accessor, or those that have a policy. Lists are for people: who shows them leaves secrets out.
    pub fn tokens(&self, policy: Option<&str>) -> Result<Answer<Vec<Token>>, Error> {
        self.needs(Access::Read)?;
        let policy = policy.map(fold);
        Ok(self.answer(topics(), |tables| {
            let has = |token: &&Arc<Token>| {
                let mut links = token.policies.iter().flatten();
                policy.as_ref().is_none_or(|id| links.any(|link| link.id.eq_ignore_ascii_case(id)))
            };
            let tokens = tables.access.tokens().filter(has);
            tokens.map(|token| self.shown_token(tables.access.with_names(token))).collect()
        }))
    }

    /// One token by its accessor; its secret is hidden from who may not change it.
    pub fn token(&self, accessor: &str) -> Result<Answer<Option<Token>>, Error> {
        self.needs(Access::Read)?;
        if accessor.len() != 36 {
            let why = "failed acl token lookup: failed acl token lookup: index error: UUID must be 36 characters";
            return Err(Error::refused(why));
        }
        let accessor = fold(accessor);
        let found = self.one_token(Topic::Token((&*accessor).into()), |tables| tables.access.token(&accessor));
        Ok(found.map(|token| token.map(|token| self.shown_token(token))))
    }

    /// One token by its secret. Whoever knows it has it, so no right is needed.
    pub fn token_with_secret(&self, secret: &str) -> Answer<Option<Token>> {
        // Any token may come to have this secret as long as none has it.
        self.one_token(Topic::Tokens, |tables| tables.access.token_of(secret))
    }

    /// A token with the names of its policies; what it is made of is all that its answer depends on. `otherwise` is what
    /// does when there is none.
    fn one_token(&self, otherwise: Topic, find: impl FnOnce(&Tables) -> Option<&Arc<Token>>) -> Answer<Option<Token>> {
        let tables = self.replica.tables();
        let found = find(&tables);
        let topics = match found {
            Some(token) => {
                let links = token.policies.iter().flatten();
                let policies = links.map(|link| Topic::Policy((&*fold(&link.id)).into()));
                std::iter::once(Topic::Token((&*fold(&token.accessor)).into())).chain(policies).collect()
            }
            None => vec![otherwise],
        };
        Answer { index: tables.latest(&topics), value: found.map(|token| tables.access.with_names(token)), topics }
    }

    /// The tokens that endpoints of the older form know.
    pub fn legacy_tokens(&self) -> Result<Answer<Vec<Token>>, Error> {
        self.needs(Access::Write)?;
        Ok(self.answer(topics(), |tables| {
            let known = tables.access.tokens().filter(|token| token.kind != TokenKind::Ordinary);
            known.map(|token| Token::clone(token)).collect()
        }))
    }

    /// All policies, by id.
    pub fn policies(&self) -> Result<Answer<Vec<Arc<Policy>>>, Error> {
        self.needs(Access::Read)?;
        Ok(self.answer(vec![Topic::Policies], |tables| tables.access.policies().map(Arc::clone).collect()))
    }

    /// One policy by its id.
    pub fn policy(&self, id: &str) -> Result<Answer<Option<Arc<Policy>>>, Error> {
        self.needs(Access::Read)?;
        if id.len() != 36 {
            let why = "failed acl policy lookup: failed acl policy lookup: index error: UUID must be 36 characters";
            return Err(Error::refused(why));
        }
        let id = fold(id);
        Ok(self.answer(vec![Topic::Policy((&*id).into())], |tables| tables.access.policy(&id).map(Arc::clone)))
    }

    fn needs(&self, access: Access) -> Result<(), Error> {
        if self.caller.may_in(access, Realm::Acl) { Ok(()) } else { Err(Error::Denied) }
    }

    fn shown_token(&self, token: Token) -> Token {
        if self.caller.may_in(Access::Write, Realm::Acl) {
            return token;
        }
        Token { secret: HIDDEN.into(), ..token }
    }
}
