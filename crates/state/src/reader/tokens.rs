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
        if accessor.len() != 36 {
            let why = "failed acl token lookup: failed acl token lookup: index error: UUID must be 36 characters";
            return Err(Error::refused(why));
        }
        self.needs(Access::Read)?;
        Ok(self.answer(topics(), |tables| {
            let token = tables.access.token(&fold(accessor))?;
            Some(self.shown_token(tables.access.with_names(token)))
        }))
    }

    /// One token by its secret. Whoever knows it has it, so no right is needed.
    pub fn token_with_secret(&self, secret: &str) -> Answer<Option<Token>> {
        self.answer(topics(), |tables| tables.access.token_of(secret).map(|token| tables.access.with_names(token)))
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
        if id.len() != 36 {
            let why = "failed acl policy lookup: failed acl policy lookup: index error: UUID must be 36 characters";
            return Err(Error::refused(why));
        }
        self.needs(Access::Read)?;
        Ok(self.answer(vec![Topic::Policies], |tables| tables.access.policy(&fold(id)).map(Arc::clone)))
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
