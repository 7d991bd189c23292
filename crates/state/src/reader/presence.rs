//! Reading who is alive and who leads.

use std::sync::Arc;

use lictor_model::health::Status;
use lictor_model::name::fold;

use super::{NodeContents, Reader};
use crate::answer::{Answer, Topic};
use crate::presence::Member;

impl Reader {
    /// The agents that are alive, by node; public. Empty where the store is not shared.
    pub fn members(&self) -> Answer<Vec<Member>> {
        self.answer(vec![Topic::Members], |tables| tables.presence.alive().cloned().collect())
    }

    /// Those of them that answer datagrams by which distances are measured: at most so many, the first of them by chance; and
    /// how many agents are alive; public.
    pub fn some_that_answer(&self, most: usize) -> Answer<(Vec<Member>, usize)> {
        self.answer(vec![Topic::Members], |tables| {
            let count = tables.presence.count();
            let (one, other) = (tables.presence.alive(), tables.presence.alive());
            let from = fastrand::usize(..count.max(1));
            let answering = one.skip(from).chain(other.take(from)).filter(|member| !member.ping.is_empty());
            (answering.take(most).cloned().collect(), count)
        })
    }

    /// The servers among them; public.
    pub fn servers(&self) -> Answer<Vec<Member>> {
        self.answer(vec![Topic::Members], |tables| tables.presence.servers().cloned().collect())
    }

    /// The server that does what one must do; public. None where the store is not shared.
    pub fn lead(&self) -> Answer<Option<Member>> {
        self.answer(vec![Topic::Members], |tables| tables.presence.lead().cloned())
    }

    /// Nodes on which a check of this id is passing although no agent of theirs is alive.
    pub fn passing_without_agent(&self, check_id: &str) -> Answer<Vec<NodeContents>> {
        let answer = self.checks_in_state(Some(Status::Passing), &super::Filter::default());
        let found = {
            let tables = self.replica.tables();
            let is_dead = |node: &str| !tables.presence.is_alive(&fold(node));
            let rows = answer.value.iter().filter(|row| row.check.id.as_str() == check_id);
            rows.filter(|row| is_dead(row.check.node.as_str())).map(Arc::clone).collect::<Vec<_>>()
        };
        let value = found.iter().filter_map(|row| self.node(row.check.node.as_str()).value).collect();
        Answer { index: answer.index, topics: vec![Topic::Members, Topic::Checks], value }
    }
}
