//! Several operations at once, all or nothing.
//!
//! Operations see what those before them did. All are tried, so that one answer names everything that is wrong.

use std::sync::Arc;

use bytes::Bytes;
use lictor_model::acl::{Access, Caller, Resource};
use lictor_model::health::Check;
use lictor_model::name::{CheckId, NodeName, ServiceId, fold};
use lictor_model::node::Node;
use lictor_model::revision::Revision;
use lictor_model::service::Service;
use lictor_task::to_the_end;

use super::Writer;
use super::catalog::{
    ROOM_PER_CHECK, ROOM_PER_NODE, ROOM_PER_SERVICE, refuse_meta, refuse_node, tidy_check, tidy_service,
};
use super::scratch::{PENDING, Scratch};
use crate::Error;
use crate::reader::{CheckRow, KvRow, NodeRow, ServiceRow};
use crate::replica::catalog::Place;

/// What is done with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvVerb {
    /// Write it.
    Set,
    /// Write it if it was last changed then.
    Cas,
    /// Take its lock.
    Lock,
    /// Give its lock back.
    Unlock,
    /// Read it.
    Get,
    /// Read all that begin so.
    GetTree,
    /// Fail unless it was last changed then.
    CheckIndex,
    /// Fail unless this session holds it.
    CheckSession,
    /// Fail if it exists.
    CheckNotExists,
    /// Delete it.
    Delete,
    /// Delete all that begin so.
    DeleteTree,
    /// Delete it if it was last changed then.
    DeleteCas,
}

impl KvVerb {
    /// Reads the word of a request.
    pub fn parse(text: &str) -> Option<KvVerb> {
        Some(match text {
            "set" => KvVerb::Set,
            "cas" => KvVerb::Cas,
            "lock" => KvVerb::Lock,
            "unlock" => KvVerb::Unlock,
            "get" => KvVerb::Get,
            "get-tree" => KvVerb::GetTree,
            "check-index" => KvVerb::CheckIndex,
            "check-session" => KvVerb::CheckSession,
            "check-not-exists" => KvVerb::CheckNotExists,
            "delete" => KvVerb::Delete,
            "delete-tree" => KvVerb::DeleteTree,
            "delete-cas" => KvVerb::DeleteCas,
            _ => return None,
        })
    }

    fn reads(self) -> bool {
        matches!(
            self,
            KvVerb::Get | KvVerb::GetTree | KvVerb::CheckIndex | KvVerb::CheckSession | KvVerb::CheckNotExists
        )
    }
}

/// What is done with a node, an instance or a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Read it.
    Get,
    /// Write it.
    Set,
    /// Write it if it was last changed then.
    Cas,
    /// Delete it.
    Delete,
    /// Delete it if it was last changed then.
    DeleteCas,
}

impl Verb {
    /// Reads the word of a request.
    pub fn parse(text: &str) -> Option<Verb> {
        Some(match text {
            "get" => Verb::Get,
            "set" => Verb::Set,
            "cas" => Verb::Cas,
            "delete" => Verb::Delete,
            "delete-cas" => Verb::DeleteCas,
            _ => return None,
        })
    }
}

/// One operation. `index` is the revision that `cas` verbs expect.
#[derive(Clone, Debug)]
pub enum TxnOp {
    /// On the key-value store.
    Kv {
        /// What to do.
        verb: KvVerb,
        /// With which key, or prefix.
        key: String,
        /// To be written.
        value: Bytes,
        /// To be written.
        flags: u64,
        /// Expected.
        index: Revision,
        /// For locks.
        session: String,
    },
    /// On a node.
    Node {
        /// What to do.
        verb: Verb,
        /// Read, and compared before it is written, by its id if it has one, else by its name. Deleted by its name; by its
        /// id only when it gives no name.
        node: Node,
        /// Expected.
        index: Revision,
    },
    /// On an instance.
    Service {
        /// What to do.
        verb: Verb,
        /// Where.
        node: NodeName,
        /// Found by its id.
        service: Service,
        /// Expected.
        index: Revision,
    },
    /// On a check.
    Check {
        /// What to do.
        verb: Verb,
        /// Found by its node and id.
        check: Check,
        /// Expected.
        index: Revision,
    },
    /// Something that is none; fails with this text.
    Invalid(String),
}

/// What the operations of one transaction may read together: the tree of all keys, read by each of them, would otherwise be an
/// answer of any size. In bytes of keys and values, and something for the rest of each entry.
pub const LARGEST_READ: u64 = 64 * 1024 * 1024;

/// What an entry takes in an answer beside key and value.
const ROW: usize = 128;

/// What an operation gives.
#[derive(Clone, Debug, PartialEq)]
pub enum TxnItem {
    /// An entry; without its value unless it was read.
    Kv(Arc<KvRow>),
    /// A node.
    Node(Arc<NodeRow>),
    /// An instance and the node it is on.
    Service(NodeName, Arc<ServiceRow>),
    /// A check.
    Check(Arc<CheckRow>),
}

/// Why a transaction was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnFailure {
    /// Which operation, from zero.
    pub op: usize,
    /// The text clients see.
    pub what: String,
}

/// How a transaction ended.
#[derive(Clone, Debug, PartialEq)]
pub enum TxnOutcome {
    /// All of it is done.
    Done(Vec<TxnItem>),
    /// Nothing of it is done.
    Failed(Vec<TxnFailure>),
    /// Nothing of it is done, as it reads more than [`LARGEST_READ`].
    TooLarge,
}

impl TxnOp {
    /// Whether it changes nothing.
    pub fn is_read(&self) -> bool {
        match self {
            TxnOp::Kv { verb, .. } => verb.reads(),
            TxnOp::Node { verb, .. } | TxnOp::Service { verb, .. } | TxnOp::Check { verb, .. } => *verb == Verb::Get,
            TxnOp::Invalid(_) => false,
        }
    }

    fn reads_one(&self) -> bool {
        match self {
            TxnOp::Kv { verb, .. } => *verb == KvVerb::Get,
            TxnOp::Node { verb, .. } | TxnOp::Service { verb, .. } | TxnOp::Check { verb, .. } => *verb == Verb::Get,
            TxnOp::Invalid(_) => false,
        }
    }

    /// What it may need in a transaction at most, as [`Scratch::has_room`] counts it.
    fn room(&self) -> usize {
        match self {
            // Key, session and delay.
            TxnOp::Kv { verb: KvVerb::Lock, .. } => 3,
            TxnOp::Kv { .. } => 1,
            TxnOp::Node { .. } => ROOM_PER_NODE,
            TxnOp::Service { .. } => ROOM_PER_SERVICE,
            TxnOp::Check { .. } => ROOM_PER_CHECK,
            TxnOp::Invalid(_) => 0,
        }
    }

    /// That what it names is not there.
    fn missing(&self) -> String {
        format!("{} doesn't exist", self.subject())
    }

    fn subject(&self) -> String {
        match self {
            TxnOp::Kv { key, .. } => format!("key {key:?}"),
            TxnOp::Node { node, .. } => format!("node {:?}", node.name.as_str()),
            TxnOp::Service { node, service, .. } => {
                format!("service {:?} on node {:?}", service.id.as_str(), node.as_str())
            }
            TxnOp::Check { check, .. } => format!("check {:?} on node {:?}", check.id.as_str(), check.node.as_str()),
            TxnOp::Invalid(what) => what.clone(),
        }
    }

    /// The operation with its defaults filled in, or why it makes no sense.
    fn tidied(&self) -> Result<TxnOp, Error> {
        let mut op = self.clone();
        match &mut op {
            TxnOp::Kv { verb: KvVerb::GetTree | KvVerb::DeleteTree, .. } | TxnOp::Invalid(_) => {}
            TxnOp::Kv { key, .. } if key.is_empty() => return Err(Error::refused("Must provide key")),
            TxnOp::Node { verb: Verb::Set | Verb::Cas, node, .. } => refuse_node(node)?,
            TxnOp::Service { verb: Verb::Set | Verb::Cas, node, service, .. } => {
                tidy_service(service)?;
                refuse_meta(node, service)?;
            }
            TxnOp::Service { service, .. } if service.id.is_empty() => {
                service.id = ServiceId::new(service.name.as_str());
            }
            TxnOp::Check { verb: Verb::Set | Verb::Cas, check, .. } => tidy_check(check)?,
            TxnOp::Check { check, .. } if check.id.is_empty() => check.id = CheckId::new(check.name.as_str()),
            TxnOp::Kv { .. } | TxnOp::Node { .. } | TxnOp::Service { .. } | TxnOp::Check { .. } => {}
        }
        Ok(op)
    }
}

impl Writer {
    /// Carries out operations on behalf of a caller, all or none. At most 64, which the caller of this checks.
    pub async fn txn(&self, caller: &Caller, ops: &[TxnOp]) -> Result<TxnOutcome, Error> {
        let (writer, caller, ops) = (self.clone(), caller.clone(), ops.to_vec());
        to_the_end(async move { writer.txn_whole(&caller, &ops).await }).await
    }

    async fn txn_whole(&self, caller: &Caller, ops: &[TxnOp]) -> Result<TxnOutcome, Error> {
        let ((outcome, rest), revision) = self
            .write_at("carry out a transaction", |scratch| {
                let outcome = scratch.carry_out(caller, ops)?;
                if !matches!(outcome, TxnOutcome::Done(_)) {
                    scratch.abandon();
                }
                Ok((outcome, std::mem::take(&mut scratch.rest)))
            })
            .await?;
        if let Err(error) = self.complete(rest, revision).await {
            // The transaction is done, and the rest is found again by the next expiry of sessions.
            tracing::warn!("state: what a transaction found no room for is removed later: {error}");
        }
        Ok(match outcome {
            TxnOutcome::Done(items) => {
                TxnOutcome::Done(items.into_iter().map(|item| item.at(revision.unwrap_or_default())).collect())
            }
            nothing => nothing,
        })
    }
}

impl Scratch<'_> {
    /// The operation with its node's name, where it gives only the id.
    fn named(&mut self, op: &TxnOp) -> Result<TxnOp, Error> {
        let mut op = op.clone();
        if let TxnOp::Node { node, .. } = &mut op
            && node.name.is_empty()
            && !node.id.is_empty()
            && let Some(row) = self.node_with_id(&fold(&node.id))?
        {
            node.name = row.node.name.clone();
        }
        Ok(op)
    }

    fn carry_out(&mut self, caller: &Caller, ops: &[TxnOp]) -> Result<TxnOutcome, Error> {
        let mut items = Vec::new();
        let mut denied = Vec::new();
        let mut failures = Vec::new();
        let mut size = 0;
        for (position, op) in ops.iter().enumerate() {
            self.reserved = ops[position..].iter().map(TxnOp::room).sum();
            let named = self.named(op)?;
            let tidied = named.tidied();
            match self.may_carry_out(caller, tidied.as_ref().unwrap_or(&named)) {
                Ok(()) => {}
                Err(Error::Denied) => {
                    denied.push(failure(position, "Permission denied"));
                    continue;
                }
                Err(error) => return Err(error),
            }
            let op = match tidied {
                Ok(op) => op,
                Err(Error::Refused(what)) => {
                    failures.push(failure(position, &what));
                    continue;
                }
                Err(error) => return Err(error),
            };
            match self.carry_out_one(&op) {
                // What may not be read looks as if it were not there.
                Ok(Ok(given)) if !given.iter().all(|item| item.is_visible(caller)) && op.reads_one() => {
                    failures.push(failure(position, &op.missing()));
                }
                Ok(Ok(given)) => {
                    for item in given.into_iter().filter(|item| item.is_visible(caller)) {
                        size += item.size();
                        if size > LARGEST_READ {
                            return Ok(TxnOutcome::TooLarge);
                        }
                        items.push(item);
                    }
                }
                Ok(Err(what)) | Err(Error::Refused(what)) => failures.push(failure(position, &what)),
                Err(error) => return Err(error),
            }
        }
        // Who may not do it is not told what else is wrong with it.
        Ok(match (denied.is_empty(), failures.is_empty()) {
            (true, true) => TxnOutcome::Done(items),
            (true, false) => TxnOutcome::Failed(failures),
            (false, _) => TxnOutcome::Failed(denied),
        })
    }

    fn carry_out_one(&mut self, op: &TxnOp) -> Result<Result<Vec<TxnItem>, String>, Error> {
        match op {
            TxnOp::Kv { verb, key, value, flags, index, session } => {
                self.on_key(*verb, key, value, *flags, *index, session)
            }
            TxnOp::Node { verb, node, index } => self.on_node(*verb, node, *index),
            TxnOp::Service { verb, node, service, index } => self.on_service(*verb, node, service, *index),
            TxnOp::Check { verb, check, index } => self.on_check(*verb, check, *index),
            TxnOp::Invalid(what) => Ok(Err(what.clone())),
        }
    }

    fn on_key(
        &mut self,
        verb: KvVerb,
        key: &str,
        value: &Bytes,
        flags: u64,
        index: Revision,
        session: &str,
    ) -> Result<Result<Vec<TxnItem>, String>, Error> {
        let without_value =
            |row: Arc<KvRow>| vec![TxnItem::Kv(Arc::new(KvRow { value: Bytes::new(), ..(*row).clone() }))];
        let stale = |what| format!("failed to {what} key {key:?}, index is stale");
        Ok(match verb {
            KvVerb::Set => Ok(without_value(self.set_key_value(key, value.clone(), flags)?)),
            KvVerb::Cas => {
                self.cas_key(key, value.clone(), flags, index)?.map(without_value).ok_or_else(|| stale("set"))
            }
            KvVerb::Lock if self.is_delayed(key) => Err(format!("failed to lock key {key:?} due to lock delay")),
            KvVerb::Lock => self
                .lock_key(key, value.clone(), flags, session)?
                .map(without_value)
                .ok_or_else(|| format!("failed to lock key {key:?}, lock is already held")),
            KvVerb::Unlock => self
                .unlock_key(key, value.clone(), flags, session)?
                .map(without_value)
                .ok_or_else(|| format!("failed to unlock key {key:?}, lock isn't held, or is held by another session")),
            KvVerb::Get => match self.key(key)? {
                Some(row) => Ok(vec![TxnItem::Kv(row)]),
                None => Err(format!("key {key:?} doesn't exist")),
            },
            KvVerb::GetTree => Ok(self.keys_below(key).into_iter().map(TxnItem::Kv).collect()),
            KvVerb::CheckIndex => match self.key(key)? {
                None => Err(format!("failed to check index, key {key:?} doesn't exist")),
                Some(row) if row.modified == index => Ok(without_value(row)),
                Some(row) => {
                    let present = row.modified;
                    Err(format!("failed index check for key {key:?}, current modify index {present} != {index}"))
                }
            },
            KvVerb::CheckSession => match self.key(key)? {
                None => Err(format!("failed to check session, key {key:?} doesn't exist")),
                Some(row) => {
                    let present = row.session.as_deref().unwrap_or_default();
                    if present.eq_ignore_ascii_case(session) {
                        Ok(without_value(row))
                    } else {
                        let sessions = format!("current session {present:?} != {session:?}");
                        Err(format!("failed session check for key {key:?}, {sessions}"))
                    }
                }
            },
            KvVerb::CheckNotExists => match self.key(key)? {
                Some(_) => Err(format!("key {key:?} exists")),
                None => Ok(Vec::new()),
            },
            KvVerb::Delete => {
                self.delete_key(key, None)?;
                Ok(Vec::new())
            }
            KvVerb::DeleteTree => {
                self.remove_keys_below(key)?;
                Ok(Vec::new())
            }
            KvVerb::DeleteCas => match self.delete_key(key, Some(index))? {
                true => Ok(Vec::new()),
                false => Err(stale("delete")),
            },
        })
    }

    fn on_node(&mut self, verb: Verb, node: &Node, index: Revision) -> Result<Result<Vec<TxnItem>, String>, Error> {
        let name = node.name.key();
        // What is compared is what is then written or removed.
        let by_name = node.id.is_empty() || matches!(verb, Verb::Delete | Verb::DeleteCas);
        let by_id = if by_name { None } else { self.node_with_id(&fold(&node.id))? };
        let known = match by_id {
            Some(row) => Some(row),
            None => self.node(&name)?,
        };
        let present = known.as_ref().map_or(Revision::ZERO, |row| row.modified);
        let shown = &node.name;
        Ok(match verb {
            Verb::Get => match known {
                Some(row) => Ok(vec![TxnItem::Node(row)]),
                None => Err(format!("node {:?} doesn't exist", shown.as_str())),
            },
            Verb::Cas if present != index => Err(format!("failed to set node {:?}, index is stale", shown.as_str())),
            Verb::Set | Verb::Cas => Ok(vec![TxnItem::Node(self.put_node(node)?)]),
            Verb::DeleteCas if known.is_some() && present != index => {
                Err(format!("failed to delete node {:?}, index is stale", shown.as_str()))
            }
            Verb::Delete | Verb::DeleteCas => {
                self.remove_node(&name)?;
                Ok(Vec::new())
            }
        })
    }

    fn on_service(
        &mut self,
        verb: Verb,
        node: &NodeName,
        service: &Service,
        index: Revision,
    ) -> Result<Result<Vec<TxnItem>, String>, Error> {
        let place: Place = (node.key(), service.id.key());
        let known = self.service(&place)?;
        let present = known.as_ref().map_or(Revision::ZERO, |row| row.modified);
        let shown = format!("service {:?} on node {:?}", service.id.as_str(), node.as_str());
        Ok(match verb {
            Verb::Get => match known {
                Some(row) => Ok(vec![TxnItem::Service(node.clone(), row)]),
                None => Err(format!("{shown} doesn't exist")),
            },
            Verb::Cas if present != index => Err(format!("failed to set {shown}, index is stale")),
            Verb::Set | Verb::Cas => Ok(vec![TxnItem::Service(node.clone(), self.put_service(node, service)?)]),
            Verb::DeleteCas if known.is_some() && present != index => {
                Err(format!("failed to delete {shown}, index is stale"))
            }
            Verb::Delete | Verb::DeleteCas => {
                self.remove_service(&place)?;
                Ok(Vec::new())
            }
        })
    }

    fn on_check(&mut self, verb: Verb, check: &Check, index: Revision) -> Result<Result<Vec<TxnItem>, String>, Error> {
        let place: Place = (check.node.key(), check.id.key());
        let known = self.check(&place)?;
        let present = known.as_ref().map_or(Revision::ZERO, |row| row.modified);
        let shown = format!("check {:?} on node {:?}", check.id.as_str(), check.node.as_str());
        Ok(match verb {
            Verb::Get => match known {
                Some(row) => Ok(vec![TxnItem::Check(row)]),
                None => Err(format!("{shown} doesn't exist")),
            },
            Verb::Cas if present != index => Err(format!("failed to set {shown}, index is stale")),
            Verb::Set | Verb::Cas => Ok(vec![TxnItem::Check(self.put_check(check)?)]),
            Verb::DeleteCas if known.is_some() && present != index => {
                Err(format!("failed to delete {shown}, index is stale"))
            }
            Verb::Delete | Verb::DeleteCas => {
                self.remove_check(&place)?;
                Ok(Vec::new())
            }
        })
    }
}

impl TxnItem {
    fn is_visible(&self, caller: &Caller) -> bool {
        match self {
            TxnItem::Kv(row) => caller.may(Access::Read, Resource::Key, &row.key),
            TxnItem::Node(row) => caller.reads_node(row.node.name.as_str()),
            TxnItem::Service(node, row) => {
                caller.reads_node(node.as_str()) && caller.reads_service(row.service.name.as_str())
            }
            TxnItem::Check(row) => {
                caller.reads_node(row.check.node.as_str())
                    && (row.check.service_id.is_empty() || caller.reads_service(row.check.service_name.as_str()))
            }
        }
    }

    /// What it takes in an answer. Of what is no key there is one per operation at most.
    fn size(&self) -> u64 {
        match self {
            TxnItem::Kv(row) => (row.key.len() + row.value.len() + ROW) as u64,
            TxnItem::Node(_) | TxnItem::Service(..) | TxnItem::Check(_) => ROW as u64,
        }
    }

    /// The item with the revision that the transaction got.
    fn at(self, revision: Revision) -> TxnItem {
        fn settle(at: &mut Revision, revision: Revision) {
            if *at == PENDING {
                *at = revision;
            }
        }
        match self {
            TxnItem::Kv(mut row) => {
                let inner = Arc::make_mut(&mut row);
                settle(&mut inner.created, revision);
                settle(&mut inner.modified, revision);
                TxnItem::Kv(row)
            }
            TxnItem::Node(mut row) => {
                let inner = Arc::make_mut(&mut row);
                settle(&mut inner.created, revision);
                settle(&mut inner.modified, revision);
                TxnItem::Node(row)
            }
            TxnItem::Service(node, mut row) => {
                let inner = Arc::make_mut(&mut row);
                settle(&mut inner.created, revision);
                settle(&mut inner.modified, revision);
                TxnItem::Service(node, row)
            }
            TxnItem::Check(mut row) => {
                let inner = Arc::make_mut(&mut row);
                settle(&mut inner.created, revision);
                settle(&mut inner.modified, revision);
                TxnItem::Check(row)
            }
        }
    }
}

fn failure(op: usize, what: &str) -> TxnFailure {
    TxnFailure { op, what: what.to_owned() }
}
