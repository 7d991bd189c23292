//! Reading sessions.

use std::sync::Arc;

use lictor_model::acl::{Access, Resource};
use lictor_model::name::fold;

use super::Reader;
use crate::answer::{Answer, Topic};
use crate::session::Session;

impl Reader {
    /// All sessions, by id.
    pub fn sessions(&self) -> Answer<Vec<Arc<Session>>> {
        self.answer(vec![Topic::Sessions], |tables| {
            tables.sessions.all().map(|(_, row)| row).filter(|row| self.sees_session(row)).map(Arc::clone).collect()
        })
    }

    /// The sessions of a node, by id.
    pub fn sessions_of_node(&self, node: &str) -> Answer<Vec<Arc<Session>>> {
        let node = fold(node);
        self.answer(vec![Topic::SessionsOf((&*node).into())], |tables| {
            let ids = tables.sessions.of_node(&node);
            let rows = ids.filter_map(|id| tables.sessions.get(id));
            rows.filter(|row| self.sees_session(row)).map(Arc::clone).collect()
        })
    }

    /// One session.
    pub fn session(&self, id: &str) -> Answer<Option<Arc<Session>>> {
        let id = fold(id);
        self.answer(vec![Topic::Session((&*id).into())], |tables| {
            tables.sessions.get(&id).filter(|row| self.sees_session(row)).map(Arc::clone)
        })
    }

    fn sees_session(&self, row: &Session) -> bool {
        self.caller.may(Access::Read, Resource::Session, row.node.as_str())
    }
}
