//! Reading intentions and the CA.

use std::sync::Arc;

use lictor_model::acl::{Access, Realm, Resource};
use lictor_model::intention::{self, Decision, Intention};
use lictor_model::name::fold;
use lictor_model::root::Roots;

use super::{CaConfig, MatchSide, Reader};
use crate::Error;
use crate::answer::{Answer, Topic};
use crate::replica::intentions::covering;

impl Reader {
    /// All intentions in the order in which they decide.
    pub fn intentions(&self) -> Answer<Vec<Arc<Intention>>> {
        self.answer(vec![Topic::Intentions], |tables| {
            tables.intentions.all().filter(|row| self.sees_intention(row)).map(Arc::clone).collect()
        })
    }

    /// One intention by id. `Err(Denied)` when the caller may not read its destination.
    pub fn intention(&self, id: &str) -> Result<Answer<Option<Arc<Intention>>>, Error> {
        let id = fold(id);
        let topics = vec![Topic::Intention((&*id).into())];
        let found = self.answer(topics, |tables| tables.intentions.get(&id).map(Arc::clone));
        match &found.value {
            Some(row) if !self.sees_intention(row) => Err(Error::Denied),
            _ => Ok(found),
        }
    }

    /// Intentions whose destination (or source) side covers `namespace/name`, in deciding order. Not filtered by
    /// rights: who asks must have the right for the name itself.
    pub fn intentions_matching(&self, which: MatchSide, namespace: &str, name: &str) -> Answer<Vec<Arc<Intention>>> {
        let topic = match which {
            MatchSide::Source => Topic::IntentionsFrom,
            MatchSide::Destination => Topic::IntentionsTo,
        };
        let topics = covering(namespace, name).into_iter().map(|party| topic(Box::new(party))).collect();
        self.answer(topics, |tables| tables.intentions.matching(which, namespace, name))
    }

    /// Whether a service may connect to another, by intentions and the default policy.
    pub fn decide(&self, source_namespace: &str, source: &str, target_namespace: &str, target: &str) -> Decision {
        let matching = self.replica.tables().intentions.matching(MatchSide::Destination, target_namespace, target);
        intention::decide(matching.iter().map(AsRef::as_ref), source_namespace, source, self.otherwise())
    }

    /// The trusted roots; public.
    pub fn roots(&self) -> Answer<Arc<Roots>> {
        self.answer(vec![Topic::Roots], |tables| Arc::clone(tables.ca.roots()))
    }

    /// The CA's configuration; for the agent and for operators.
    pub fn ca_config(&self) -> Answer<Option<Arc<CaConfig>>> {
        self.answer(vec![Topic::CaConfig], |tables| tables.ca.config().map(Arc::clone))
    }

    fn sees_intention(&self, row: &Intention) -> bool {
        self.caller.may(Access::Read, Resource::Intention, &row.destination.name)
            || self.caller.may_in(Access::Read, Realm::Acl)
    }
}
