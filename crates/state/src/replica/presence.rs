//! Who is alive and who leads, in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lictor_model::revision::Revision;

use super::Touched;
use crate::answer::Topic;
use crate::presence::Member;
use crate::schema::Key;

/// An agent that is alive, as stored.
#[derive(Debug)]
pub(crate) struct MemberRow {
    pub(crate) member: Member,
    pub(crate) modified: Revision,
}

#[derive(Debug, Default)]
pub(crate) struct Presence {
    /// By folded name of the node.
    alive: BTreeMap<Arc<str>, MemberRow>,
    /// Those of them that are servers: few among many.
    servers: BTreeSet<Arc<str>>,
    lead: Option<MemberRow>,
    index: Revision,
}

impl Presence {
    pub(crate) fn put(&mut self, node: &Arc<str>, row: MemberRow, at: Revision, touched: &mut Touched) {
        if row.member.is_server {
            self.servers.insert(Arc::clone(node));
        } else {
            self.servers.remove(node);
        }
        self.alive.insert(Arc::clone(node), row);
        self.touch(at, touched);
    }

    pub(crate) fn remove(&mut self, node: &str, at: Revision, touched: &mut Touched) {
        if self.alive.remove(node).is_some() {
            self.servers.remove(node);
            self.touch(at, touched);
        }
    }

    pub(crate) fn set_lead(&mut self, row: Option<MemberRow>, at: Revision, touched: &mut Touched) {
        self.lead = row;
        self.touch(at, touched);
    }

    fn touch(&mut self, at: Revision, touched: &mut Touched) {
        self.index = at;
        touched.add(Topic::Members);
    }

    /// All that are alive, by node.
    pub(crate) fn alive(&self) -> impl Iterator<Item = &Member> {
        self.alive.values().map(|row| &row.member)
    }

    /// How many are.
    pub(crate) fn count(&self) -> usize {
        self.alive.len()
    }

    /// All servers that are alive, by node.
    pub(crate) fn servers(&self) -> impl Iterator<Item = &Member> {
        self.servers.iter().filter_map(|node| self.alive.get(node)).map(|row| &row.member)
    }

    /// Whether an agent of this node (folded name) is alive.
    pub(crate) fn is_alive(&self, node: &str) -> bool {
        self.alive.contains_key(node)
    }

    /// Who leads.
    pub(crate) fn lead(&self) -> Option<&Member> {
        self.lead.as_ref().map(|row| &row.member)
    }

    pub(crate) fn index(&self) -> Revision {
        self.index
    }

    pub(crate) fn raise(&mut self, floor: Revision) {
        self.index = floor;
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = (Key, Revision)> {
        let alive = self.alive.iter().map(|(node, row)| (Key::Alive(Arc::clone(node)), row.modified));
        alive.chain(self.lead.iter().map(|row| (Key::Lead, row.modified)))
    }
}
