//! Use cases of access control: tokens, policies, and the first token of all.

use std::path::PathBuf;

use lictor_model::acl::{Access, Caller, Realm};
use lictor_model::token::{
    ANONYMOUS_SECRET, MANAGEMENT_POLICY, MANAGEMENT_POLICY_NAME, Policy, PolicyLink, ROOT_SECRETS, Token, TokenKind,
};
use lictor_state::{Answer, Reader, rules};
use lictor_task::clock;

use crate::agent::Inner;
use crate::{Agent, Error};

/// What a request says of a token.
#[derive(Clone, Default)]
pub struct TokenRequest {
    /// The public id of the token to replace; empty for a new one.
    pub accessor: String,
    /// May be repeated when a token is replaced.
    pub secret: String,
    /// For people.
    pub description: String,
    /// What it shall grant.
    pub policies: Vec<PolicyLink>,
    /// Only tokens of the older form have them.
    pub rules: String,
    /// Only tokens of the older form have one.
    pub kind: String,
    /// Whether it is known in its own datacenter alone.
    pub local: bool,
}

/// What a request of the older form says of a token.
#[derive(Clone, Default)]
pub struct LegacyRequest {
    /// The secret; drawn at random when empty.
    pub secret: String,
    /// For people.
    pub name: String,
    /// `client` or `management`.
    pub kind: String,
    /// In the older syntax.
    pub rules: String,
}

impl Agent {
    /// Gives away the first token, which may do everything: to whoever asks first, and again only when the operator
    /// has written the number that the refusal names into a file of the data directory.
    pub async fn bootstrap_acl(&self) -> Result<Token, Error> {
        let inner = &self.inner;
        inner.needs_acls()?;
        let reset = inner.bootstrap_reset();
        let token = management_token("Bootstrap Token (Global Management)", fresh_id());
        let token = inner.writer.bootstrap_acl(token, reset.as_ref().map(|(_, index)| *index)).await?;
        if let Some((path, _)) = reset
            && let Err(error) = std::fs::remove_file(&path)
        {
            tracing::error!("agent: cannot remove {}, remove it by hand: {error}", path.display());
        }
        tracing::info!("agent: ACL bootstrap completed");
        Ok(token)
    }

    /// Stores a new policy.
    pub async fn create_policy(&self, caller: &Caller, policy: Policy) -> Result<Policy, Error> {
        self.inner.may_manage(caller)?;
        Ok(self.inner.writer.create_policy(Policy { id: fresh_id(), ..policy }).await?)
    }

    /// Replaces a policy.
    pub async fn update_policy(&self, caller: &Caller, policy: Policy) -> Result<Policy, Error> {
        self.inner.may_manage(caller)?;
        Ok(self.inner.writer.update_policy(policy).await?)
    }

    /// Removes a policy; one that does not exist is gone already.
    pub async fn delete_policy(&self, caller: &Caller, id: &str) -> Result<(), Error> {
        self.inner.may_manage(caller)?;
        Ok(self.inner.writer.delete_policy(id).await?)
    }

    /// Stores a new token; its ids are never the client's to choose.
    pub async fn create_token(&self, caller: &Caller, request: TokenRequest) -> Result<Token, Error> {
        self.inner.may_manage(caller)?;
        let token = Token { accessor: fresh_id(), secret: fresh_id(), ..request.token()? };
        Ok(self.inner.writer.create_token(Token { created_at: clock::unix_nanos(), ..token }).await?)
    }

    /// Replaces a token.
    pub async fn update_token(&self, caller: &Caller, request: TokenRequest) -> Result<Token, Error> {
        self.inner.may_manage(caller)?;
        if uuid::Uuid::parse_str(&request.accessor).is_err() {
            return Err(Error::Refused("AccessorID is not a valid UUID".into()));
        }
        if ROOT_SECRETS.contains(&request.secret.as_str()) {
            return Err(Error::Forbidden("Cannot modify root ACL"));
        }
        Ok(self.inner.writer.update_token(request.token()?).await?)
    }

    /// Stores a new token that grants the same as another.
    pub async fn clone_token(&self, caller: &Caller, accessor: &str, description: &str) -> Result<Token, Error> {
        self.inner.may_manage(caller)?;
        let model = self.reader(caller).token(accessor)?.value.ok_or(Error::UnknownToken)?;
        if model.is_legacy() {
            return Err(Error::Refused("Cannot clone a legacy ACL with this endpoint".into()));
        }
        let description = if description.is_empty() { model.description } else { description.to_owned() };
        let token = Token {
            accessor: fresh_id(),
            secret: fresh_id(),
            description,
            policies: model.policies,
            local: model.local,
            created_at: clock::unix_nanos(),
            ..Token::default()
        };
        Ok(self.inner.writer.create_token(token).await?)
    }

    /// Removes a token; one that does not exist is gone already.
    pub async fn delete_token(&self, caller: &Caller, accessor: &str) -> Result<(), Error> {
        self.inner.may_manage(caller)?;
        if uuid::Uuid::parse_str(accessor).is_err() {
            return Err(Error::Refused("Accessor ID is missing or an invalid UUID".into()));
        }
        if !caller.accessor().is_empty() && caller.accessor().eq_ignore_ascii_case(accessor) {
            return Err(Error::Refused("Deletion of the request's authorization token is not permitted".into()));
        }
        Ok(self.inner.writer.delete_token(accessor).await?)
    }

    /// The token of a request itself. A managed proxy does not get to see that of its service.
    pub fn own_token(&self, secret: &str) -> Result<Answer<Option<Token>>, Error> {
        self.inner.needs_acls()?;
        if self.inner.proxy_rights(secret).is_some() {
            return Err(Error::Denied);
        }
        Ok(self.everything().token_with_secret(&self.inner.or_default(secret)))
    }

    /// A token by its secret, as far as the older form knows it.
    pub fn legacy_token(&self, secret: &str) -> Result<Answer<Option<Token>>, Error> {
        self.inner.needs_acls()?;
        let found = self.everything().token_with_secret(secret);
        Ok(found.map(|token| token.filter(|token| token.kind != TokenKind::Ordinary)))
    }

    /// Writes a token of the older form and gives its secret.
    pub async fn put_legacy_token(&self, caller: &Caller, request: LegacyRequest) -> Result<String, Error> {
        self.inner.may_manage(caller)?;
        let LegacyRequest { secret, name, kind, rules } = request;
        let kind = TokenKind::parse(&kind).ok_or_else(|| Error::Refused("Invalid ACL Type".into()))?;
        if ROOT_SECRETS.contains(&secret.as_str()) {
            return Err(Error::Forbidden("Cannot modify root ACL"));
        }
        let secret = if secret.is_empty() { fresh_id() } else { secret };
        let token = Token {
            accessor: fresh_id(),
            secret: secret.clone(),
            description: name,
            rules,
            kind,
            created_at: clock::unix_nanos(),
            ..Token::default()
        };
        self.inner.writer.put_legacy_token(token).await?;
        Ok(secret)
    }

    /// Stores a token that grants the same as one of the older form, and gives its secret.
    pub async fn clone_legacy_token(&self, caller: &Caller, secret: &str) -> Result<String, Error> {
        self.inner.may_manage(caller)?;
        let model = self.legacy_token(secret)?.value.ok_or(Error::Denied)?;
        let request = LegacyRequest {
            secret: String::new(),
            name: model.description,
            kind: model.kind.as_str().to_owned(),
            rules: model.rules,
        };
        self.put_legacy_token(caller, request).await
    }

    /// Removes a token by its secret; one that does not exist is gone already.
    pub async fn delete_legacy_token(&self, caller: &Caller, secret: &str) -> Result<(), Error> {
        self.inner.may_manage(caller)?;
        if secret == ANONYMOUS_SECRET {
            return Err(Error::Forbidden("Cannot delete anonymous token"));
        }
        match self.everything().token_with_secret(secret).value {
            Some(token) => Ok(self.inner.writer.delete_token(&token.accessor).await?),
            None => Ok(()),
        }
    }

    /// Writes rules of the older syntax in the current one.
    pub fn translate_rules(&self, caller: &Caller, older: &str) -> Result<String, Error> {
        self.inner.needs_acls()?;
        if !caller.may_in(Access::Read, Realm::Acl) {
            return Err(Error::Denied);
        }
        rules::translate(older).map_err(|why| Error::BadRequest(format!("Bad request: {why}")))
    }

    fn everything(&self) -> Reader {
        self.reader(&Caller::management(""))
    }
}

impl TokenRequest {
    fn token(self) -> Result<Token, Error> {
        let TokenRequest { accessor, secret, description, policies, rules, kind, local } = self;
        for (value, name) in [(&rules, "Rules"), (&kind, "Type")] {
            if !value.is_empty() {
                return Err(Error::Refused(format!("{name} cannot be specified for this token")));
            }
        }
        let policies = Some(policies);
        Ok(Token { accessor, secret, description, policies, local, ..Token::default() })
    }
}

impl Inner {
    fn needs_acls(&self) -> Result<(), Error> {
        if self.cluster.acls_enabled() { Ok(()) } else { Err(Error::AclDisabled) }
    }

    fn may_manage(&self, caller: &Caller) -> Result<(), Error> {
        self.needs_acls()?;
        if caller.may_in(Access::Write, Realm::Acl) { Ok(()) } else { Err(Error::Denied) }
    }

    /// Makes what there always is while access is controlled.
    pub(crate) async fn supply_acl(&self) -> Result<(), Error> {
        let master = management_token("Master Token", self.config.acl.master_token.clone());
        Ok(self.writer.supply_acl(master, clock::unix_nanos()).await?)
    }

    /// What the operator wrote to have the first token given away once more.
    fn bootstrap_reset(&self) -> Option<(PathBuf, u64)> {
        let path = self.config.data_dir.as_ref()?.join("acl-bootstrap-reset");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) => {
                if error.kind() != std::io::ErrorKind::NotFound {
                    tracing::error!("agent: cannot read {}: {error}", path.display());
                }
                return None;
            }
        };
        match text.trim().parse() {
            Ok(index) => Some((path, index)),
            Err(_) => {
                tracing::error!("agent: {} holds no reset index: ignored", path.display());
                None
            }
        }
    }
}

fn management_token(description: &str, secret: String) -> Token {
    Token {
        accessor: fresh_id(),
        secret,
        description: description.to_owned(),
        policies: Some(vec![PolicyLink { id: MANAGEMENT_POLICY.into(), name: MANAGEMENT_POLICY_NAME.into() }]),
        kind: TokenKind::Management,
        created_at: clock::unix_nanos(),
        ..Token::default()
    }
}

fn fresh_id() -> String {
    uuid::Uuid::new_v4().to_string()
}
