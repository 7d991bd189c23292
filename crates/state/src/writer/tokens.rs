//! Writing tokens and policies.
//!
//! Secrets that are drawn at random never meet; those that somebody chose could, so whoever writes such a one rewrites
//! one record (`acl/supplied`) with it, and of two at once the second sees the first.

use std::sync::Arc;

use lictor_model::name::fold;
use lictor_model::revision::Revision;
use lictor_model::token::{
    ANONYMOUS_SECRET, ANONYMOUS_TOKEN, MANAGEMENT_POLICY, MANAGEMENT_POLICY_NAME, Policy, PolicyLink, Token, TokenKind,
};

use super::Writer;
use super::scratch::Scratch;
use crate::Error;
use crate::record::token::{BootstrapRecord, PolicyRecord, SuppliedRecord, TokenRecord};
use crate::record::{Created, Pointer};
use crate::rules::{self, Syntax};
use crate::schema::Key;
use crate::tokens::{policy_hash, token_hash};

/// Everything, resource by resource.
const MANAGEMENT_RULES: &str = r#"
acl = "write"
agent_prefix "" { policy = "write" }
event_prefix "" { policy = "write" }
key_prefix "" { policy = "write" }
keyring = "write"
node_prefix "" { policy = "write" }
operator = "write"
query_prefix "" { policy = "write" }
service_prefix "" { policy = "write" intentions = "write" }
session_prefix "" { policy = "write" }
"#;

/// Longest name of a policy.
const LONGEST_POLICY_NAME: usize = 128;

impl Writer {
    /// Makes what there always is while access is controlled, as far as it is missing: the policy that grants everything,
    /// the token of whoever brings none, and `master` with all rights if it has a secret.
    pub async fn supply_acl(&self, master: Token, now: i64) -> Result<(), Error> {
        self.write("supply access control", |scratch| {
            let access = &scratch.tables.access;
            let management = access.policy(MANAGEMENT_POLICY).is_none();
            let anonymous = access.token(ANONYMOUS_TOKEN).is_none();
            let wants_master = !master.secret.is_empty() && access.token_of(&master.secret).is_none();
            if management {
                let policy = Policy {
                    id: MANAGEMENT_POLICY.into(),
                    name: MANAGEMENT_POLICY_NAME.into(),
                    description: "Builtin Policy that grants unlimited access".into(),
                    rules: MANAGEMENT_RULES.into(),
                    ..Policy::default()
                };
                put_policy(scratch, &policy, None)?;
            }
            if anonymous {
                let token = Token {
                    accessor: ANONYMOUS_TOKEN.into(),
                    secret: ANONYMOUS_SECRET.into(),
                    description: "Anonymous Token".into(),
                    kind: TokenKind::Client,
                    created_at: now,
                    ..Token::default()
                };
                put_token(scratch, &token, None)?;
            }
            if wants_master {
                claim_secret(scratch, &master)?;
                put_token(scratch, &master, None)?;
            }
            Ok(())
        })
        .await
    }

    /// Gives the first token away, once; or once more, if `reset` is the revision at which it was given last.
    pub async fn bootstrap_acl(&self, token: Token, reset: Option<u64>) -> Result<Token, Error> {
        let written = self.write_at("bootstrap access control", |scratch| {
            let last = scratch.tables.access.bootstrapped();
            match (last, reset) {
                (None, _) => {}
                (Some(last), Some(reset)) if last.0 == reset => {}
                (Some(last), Some(reset)) => {
                    let text = format!("Invalid bootstrap reset index (specified {reset}, reset index: {last})");
                    return Err(Error::Refused(text));
                }
                (Some(last), None) => return Err(Error::Bootstrapped(last)),
            }
            let record = BootstrapRecord { accessor: token.accessor.clone() };
            scratch.draft.expect(&Key::AclBootstrap, last.unwrap_or(Revision::ZERO))?;
            scratch.draft.put(&Key::AclBootstrap, &record)?;
            put_token(scratch, &token, None)
        });
        self.with_names(written.await?)
    }

    /// Stores a new policy; its id is set by the caller.
    pub async fn create_policy(&self, policy: Policy) -> Result<Policy, Error> {
        check_policy(&policy)?;
        let written = self.write_at("create policy", |scratch| {
            if scratch.tables.access.policy_named(&policy.name).is_some() {
                let text = format!("Invalid Policy: A Policy with Name {:?} already exists", policy.name);
                return Err(Error::Refused(text));
            }
            put_policy(scratch, &policy, None)
        });
        Ok(at(written.await?))
    }

    /// Replaces a policy by its id.
    pub async fn update_policy(&self, policy: Policy) -> Result<Policy, Error> {
        check_policy(&policy)?;
        let written = self.write_at("update policy", |scratch| {
            let access = &scratch.tables.access;
            let former = access.policy(&fold(&policy.id)).map(Arc::clone);
            let former = former.ok_or_else(|| Error::refused(format!("cannot find policy {}", policy.id)))?;
            let namesake = access.policy_named(&policy.name).filter(|other| other.id != former.id);
            if namesake.is_some() {
                let text = format!("Invalid Policy: A policy with name {:?} already exists", policy.name);
                return Err(Error::Refused(text));
            }
            if former.id == MANAGEMENT_POLICY {
                let kept =
                    |what: &str| format!("Changing the {what} the builtin global-management policy is not permitted");
                if policy.rules != former.rules {
                    return Err(Error::Refused(kept("Rules for")));
                }
                if policy.datacenters.iter().flatten().next().is_some() {
                    return Err(Error::Refused(kept("Datacenters of")));
                }
            }
            put_policy(scratch, &Policy { id: former.id.clone(), ..policy.clone() }, Some(&former))
        });
        Ok(at(written.await?))
    }

    /// Removes a policy; one that does not exist is gone already. Tokens keep naming it, to no effect.
    pub async fn delete_policy(&self, id: &str) -> Result<(), Error> {
        if id.eq_ignore_ascii_case(MANAGEMENT_POLICY) {
            return Err(Error::refused("Delete operation not permitted on the builtin global-management policy"));
        }
        let key = Key::Policy(fold(id));
        self.write("delete policy", |scratch| {
            let Some(former) = scratch.tables.access.policy(&fold(id)).map(Arc::clone) else { return Ok(()) };
            scratch.draft.expect(&key, former.modified)?;
            scratch.draft.delete(&key)?;
            scratch.draft.delete(&Key::PolicyOf(fold(&former.name)))
        })
        .await
    }

    /// Stores a new token; its ids are set by the caller. Policies may be named instead of given by id.
    pub async fn create_token(&self, token: Token) -> Result<Token, Error> {
        let written = self.write_at("create token", |scratch| {
            let token = Token { policies: resolve(scratch, token.policies.as_deref())?, ..token.clone() };
            put_token(scratch, &token, None)
        });
        self.with_names(written.await?)
    }

    /// Replaces a token by its accessor. An empty secret stays what it was, and nothing else can become of it.
    pub async fn update_token(&self, token: Token) -> Result<Token, Error> {
        let written = self.write_at("update token", |scratch| {
            let former = scratch.tables.access.token(&fold(&token.accessor)).map(Arc::clone);
            let former = former.ok_or_else(|| Error::refused(format!("Cannot find token {:?}", token.accessor)))?;
            if !token.secret.is_empty() && !same_secret(&token.secret, &former.secret) {
                return Err(Error::refused("Changing a tokens SecretID is not permitted"));
            }
            if token.local != former.local {
                return Err(Error::refused(format!("cannot toggle local mode of {}", token.accessor)));
            }
            let token = Token {
                accessor: former.accessor.clone(),
                secret: former.secret.clone(),
                created_at: former.created_at,
                policies: resolve(scratch, token.policies.as_deref())?,
                ..token.clone()
            };
            put_token(scratch, &token, Some(&former))
        });
        self.with_names(written.await?)
    }

    /// Removes a token by its accessor; one that does not exist is gone already.
    pub async fn delete_token(&self, accessor: &str) -> Result<(), Error> {
        if accessor.eq_ignore_ascii_case(ANONYMOUS_TOKEN) {
            return Err(Error::refused("Delete operation not permitted on the anonymous token"));
        }
        self.write("delete token", |scratch| {
            let Some(former) = scratch.tables.access.token(&fold(accessor)).map(Arc::clone) else { return Ok(()) };
            let key = Key::Token(fold(accessor));
            scratch.draft.expect(&key, former.modified)?;
            scratch.draft.delete(&key)
        })
        .await
    }

    /// Writes a token of the older form by its secret, as new (then it has the ids and the time given) or over the one
    /// that has this secret.
    pub async fn put_legacy_token(&self, token: Token) -> Result<(), Error> {
        rules::parse(&token.rules, Syntax::Legacy)
            .map_err(|why| Error::Refused(format!("ACL rule compilation failed: {why}")))?;
        self.write("write token", |scratch| {
            let former = scratch.tables.access.token_of(&token.secret).map(Arc::clone);
            match former {
                None => {
                    claim_secret(scratch, &token)?;
                    put_token(scratch, &token, None).map(drop)
                }
                Some(former) if former.policies.iter().flatten().next().is_some() => {
                    Err(Error::refused("Cannot use legacy endpoint to modify a non-legacy token"))
                }
                Some(former) => {
                    let token = Token {
                        accessor: former.accessor.clone(),
                        created_at: former.created_at,
                        local: former.local,
                        ..token.clone()
                    };
                    put_token(scratch, &token, Some(&former)).map(drop)
                }
            }
        })
        .await
    }

    fn with_names(&self, written: (Token, Option<Revision>)) -> Result<Token, Error> {
        Ok(self.replica.tables().access.with_names(&at(written)))
    }
}

/// Something that was written, with the revision of its write.
trait Row {
    fn written(&mut self, at: Revision);
}

impl Row for Token {
    fn written(&mut self, at: Revision) {
        self.modified = at;
        if self.created == Revision::ZERO {
            self.created = at;
        }
    }
}

impl Row for Policy {
    fn written(&mut self, at: Revision) {
        self.modified = at;
        if self.created == Revision::ZERO {
            self.created = at;
        }
    }
}

fn at<T: Row>((mut row, revision): (T, Option<Revision>)) -> T {
    if let Some(revision) = revision {
        row.written(revision);
    }
    row
}

/// Puts a token into the transaction, and gives it as it will be.
fn put_token(scratch: &mut Scratch<'_>, token: &Token, former: Option<&Token>) -> Result<Token, Error> {
    let key = Key::Token(fold(&token.accessor));
    scratch.draft.expect(&key, former.map_or(Revision::ZERO, |former| former.modified))?;
    let created = Created::kept(former.map(|former| former.created));
    scratch.draft.put(&key, &TokenRecord::new(token, created))?;
    let created = former.map_or(Revision::ZERO, |former| former.created);
    Ok(Token { hash: token_hash(token), created, ..token.clone() })
}

/// Puts a policy into the transaction with its name, and gives it as it will be.
fn put_policy(scratch: &mut Scratch<'_>, policy: &Policy, former: Option<&Policy>) -> Result<Policy, Error> {
    let key = Key::Policy(fold(&policy.id));
    scratch.draft.expect(&key, former.map_or(Revision::ZERO, |former| former.modified))?;
    let created = Created::kept(former.map(|former| former.created));
    scratch.draft.put(&key, &PolicyRecord::new(policy, created))?;
    let (name, former_name) = (fold(&policy.name), former.map(|former| fold(&former.name)));
    if former_name.as_ref() != Some(&name) {
        if let Some(former_name) = former_name {
            scratch.draft.delete(&Key::PolicyOf(former_name))?;
        }
        let claim = Key::PolicyOf(name);
        scratch.draft.expect(&claim, Revision::ZERO)?;
        scratch.draft.put(&claim, &Pointer { of: fold(&policy.id).to_string() })?;
    }
    let created = former.map_or(Revision::ZERO, |former| former.created);
    Ok(Policy { hash: policy_hash(policy), created, ..policy.clone() })
}

/// Makes sure that no other token gets the same chosen secret at the same time.
fn claim_secret(scratch: &mut Scratch<'_>, token: &Token) -> Result<(), Error> {
    let seen = scratch.tables.access.supplied().unwrap_or(Revision::ZERO);
    scratch.draft.expect(&Key::AclSupplied, seen)?;
    scratch.draft.put(&Key::AclSupplied, &SuppliedRecord { accessor: token.accessor.clone() })
}

/// The policies that a request names, each once. A name must exist; an id that does not is left out.
fn resolve(scratch: &Scratch<'_>, links: Option<&[PolicyLink]>) -> Result<Option<Vec<PolicyLink>>, Error> {
    let Some(links) = links.filter(|links| !links.is_empty()) else { return Ok(None) };
    let access = &scratch.tables.access;
    let mut resolved: Vec<PolicyLink> = Vec::with_capacity(links.len());
    for PolicyLink { id, name } in links {
        let found = if id.is_empty() {
            let named = access.policy_named(name);
            Some(named.ok_or_else(|| Error::refused(format!("No such ACL policy with name {name:?}")))?)
        } else {
            access.policy(&fold(id))
        };
        let Some(policy) = found else { continue };
        if resolved.iter().all(|link| link.id != policy.id) {
            resolved.push(PolicyLink { id: policy.id.clone(), name: policy.name.clone() });
        }
    }
    Ok(Some(resolved))
}

fn check_policy(policy: &Policy) -> Result<(), Error> {
    if policy.name.is_empty() {
        return Err(Error::refused("Invalid Policy: no Name is set"));
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if policy.name.len() > LONGEST_POLICY_NAME || !policy.name.bytes().all(plain) {
        let text = "Invalid Policy: invalid Name. Only alphanumeric characters, '-' and '_' are allowed";
        return Err(Error::refused(text));
    }
    let parsed = rules::parse(&policy.rules, Syntax::Current).map_err(Error::Refused)?;
    if !parsed.ignored.is_empty() {
        tracing::warn!("policy {:?}: nothing knows {}: ignored", policy.name, parsed.ignored.join(", "));
    }
    Ok(())
}

fn same_secret(one: &str, other: &str) -> bool {
    use subtle::ConstantTimeEq as _;
    one.as_bytes().ct_eq(other.as_bytes()).into()
}
