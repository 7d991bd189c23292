//! What a caller must be allowed for a change of the catalog.
//!
//! It is decided inside the transaction that makes the change, on the rows that it is about to replace: what is looked
//! at is a condition, so nothing can become somebody else's between the decision and the write. Who may write only one
//! thing of their own must not be able to aim at another: by its id, by the id of its node, or by a name that differs in
//! case only.

use lictor_model::acl::{Access, Caller, Resource};
use lictor_model::health::Check;
use lictor_model::name::{NodeName, fold};
use lictor_model::node::Node;
use lictor_model::service::Service;

use super::scratch::Scratch;
use super::txn::{KvVerb, TxnOp, Verb};
use super::{Registration, Removal};
use crate::Error;
use crate::reader::CheckRow;

fn granted(is_granted: bool) -> Result<(), Error> {
    if is_granted { Ok(()) } else { Err(Error::Denied) }
}

impl Scratch<'_> {
    /// A registration without its checks: the node's right when its record changes, and the service's.
    pub(super) fn may_register(&mut self, caller: &Caller, registration: &Registration) -> Result<(), Error> {
        if caller.may_do_everything() {
            return Ok(());
        }
        let Registration { node, skip_node_update, service, checks: _ } = registration;
        let present = self.node(&node.name.key())?;
        if present.is_none_or(|row| !skip_node_update && row.node != *node) {
            self.may_put_node(caller, node)?;
        }
        service.as_ref().map_or(Ok(()), |service| self.may_put_service(caller, &node.name, service))
    }

    /// A node: as it is written and as it stands, and the one that has its id and would be replaced.
    fn may_put_node(&mut self, caller: &Caller, node: &Node) -> Result<(), Error> {
        granted(self.may_change_node(caller, node.name.as_str()))?;
        let holder = if node.id.is_empty() { None } else { self.node_with_id(&fold(&node.id))? };
        granted(holder.is_none_or(|row| caller.writes_node(row.node.name.as_str())))
    }

    /// The node under its name as it is given, and as it stands.
    fn may_change_node(&self, caller: &Caller, node: &str) -> bool {
        let present = self.glance_at_node(&fold(node));
        caller.writes_node(node) && present.is_none_or(|row| caller.writes_node(row.node.name.as_str()))
    }

    /// An instance: its name, that of the service in whose place a proxy is found, and the name that it has so far.
    fn may_put_service(&mut self, caller: &Caller, node: &NodeName, service: &Service) -> Result<(), Error> {
        let present = self.service(&(node.key(), service.id.key()))?;
        let destination = service.connect_destination().filter(|name| !name.is_empty());
        let mut names = [Some(&service.name), destination, present.as_ref().map(|row| &row.service.name)].into_iter();
        granted(names.all(|name| name.is_none_or(|name| caller.writes_service(name.as_str()))))
    }

    /// A check: what it will belong to, and what the one with its id belongs to so far. `with` is written before it.
    pub(super) fn may_put_check(
        &mut self,
        caller: &Caller,
        check: &Check,
        with: Option<&Service>,
    ) -> Result<(), Error> {
        if caller.may_do_everything() {
            return Ok(());
        }
        self.may_replace_check(caller, check)?;
        if check.service_id.is_empty() {
            return granted(self.may_change_node(caller, check.node.as_str()));
        }
        if let Some(service) = with.filter(|service| service.id.same(check.service_id.as_str())) {
            return granted(caller.writes_service(service.name.as_str()));
        }
        let of = self.service(&(check.node.key(), check.service_id.key()))?;
        // Without its service it is refused anyway, and for that.
        granted(of.is_none_or(|row| caller.writes_service(row.service.name.as_str())))
    }

    /// The check that has this one's id, if any: who may not remove it may not put another in its place.
    fn may_replace_check(&mut self, caller: &Caller, check: &Check) -> Result<(), Error> {
        let present = self.check(&(check.node.key(), check.id.key()))?;
        match present {
            Some(_) if self.may_change_node(caller, check.node.as_str()) => Ok(()),
            Some(present) => granted(self.writes_owner(caller, &present)?),
            None => Ok(()),
        }
    }

    /// Whether the caller may change the service that a check belongs to; a check of the node itself has none.
    fn writes_owner(&mut self, caller: &Caller, row: &CheckRow) -> Result<bool, Error> {
        let Check { node, service_id, service_name, .. } = &row.check;
        if service_id.is_empty() {
            return Ok(false);
        }
        let service = self.service(&(node.key(), service_id.key()))?;
        let name = service.as_ref().map_or(service_name, |row| &row.service.name);
        Ok(caller.writes_service(name.as_str()))
    }

    /// A removal: the node's right is enough for whatever is on it, so that an agent can clean up behind tokens that are
    /// gone; else that of the service. Of what is not there nobody can say whose it was.
    pub(super) fn may_remove(&mut self, caller: &Caller, node: &str, removal: &Removal) -> Result<(), Error> {
        if caller.may_do_everything() || self.may_change_node(caller, node) {
            return Ok(());
        }
        let owned = match removal {
            Removal::Node => return Err(Error::Denied),
            Removal::Service(id) => {
                let row = self.service(&(fold(node), id.key()))?;
                row.map(|row| caller.writes_service(row.service.name.as_str()))
            }
            Removal::Check(id) => match self.check(&(fold(node), id.key()))? {
                Some(row) => Some(self.writes_owner(caller, &row)?),
                None => None,
            },
        };
        granted(owned.unwrap_or_default())
    }

    /// One operation of a transaction, as things stand when its turn comes. What reads is filtered afterwards, except
    /// where the mere outcome would tell something.
    pub(super) fn may_carry_out(&mut self, caller: &Caller, op: &TxnOp) -> Result<(), Error> {
        if caller.may_do_everything() {
            return Ok(());
        }
        match op {
            TxnOp::Kv { verb, key, .. } => granted(may_key(caller, *verb, key)),
            TxnOp::Node { verb: Verb::Get, .. }
            | TxnOp::Service { verb: Verb::Get, .. }
            | TxnOp::Check { verb: Verb::Get, .. }
            | TxnOp::Invalid(_) => Ok(()),
            TxnOp::Node { verb: Verb::Set | Verb::Cas, node, .. } => self.may_put_node(caller, node),
            TxnOp::Node { verb: Verb::Delete | Verb::DeleteCas, node, .. } => {
                granted(self.may_change_node(caller, node.name.as_str()))
            }
            TxnOp::Service { verb: Verb::Set | Verb::Cas, node, service, .. } => {
                self.may_put_service(caller, node, service)
            }
            // It names only the id.
            TxnOp::Service { verb: Verb::Delete | Verb::DeleteCas, node, service, .. } => {
                let present = self.service(&(node.key(), service.id.key()))?;
                let name = present.as_ref().map_or(&service.name, |row| &row.service.name);
                granted(caller.writes_service(name.as_str()))
            }
            TxnOp::Check { check, .. } => {
                self.may_name_owner(caller, check)?;
                self.may_replace_check(caller, check)
            }
        }
    }

    /// What an operation on a check says that it belongs to.
    fn may_name_owner(&mut self, caller: &Caller, check: &Check) -> Result<(), Error> {
        if check.service_id.is_empty() {
            return granted(self.may_change_node(caller, check.node.as_str()));
        }
        let service = self.service(&(check.node.key(), check.service_id.key()))?;
        let name = service.as_ref().map_or(&check.service_name, |row| &row.service.name);
        granted(caller.writes_service(name.as_str()))
    }
}

fn may_key(caller: &Caller, verb: KvVerb, key: &str) -> bool {
    match verb {
        KvVerb::Get | KvVerb::GetTree => true,
        KvVerb::CheckIndex | KvVerb::CheckSession | KvVerb::CheckNotExists => {
            caller.may(Access::Read, Resource::Key, key)
        }
        KvVerb::DeleteTree => caller.may_whole(Access::Write, Resource::Key, key),
        _ => caller.may(Access::Write, Resource::Key, key),
    }
}
