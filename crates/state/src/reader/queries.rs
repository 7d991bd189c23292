//! Reading and executing prepared queries.

use std::net::IpAddr;
use std::sync::Arc;

use lictor_model::acl::{Access, Realm, Resource};
use lictor_model::health::Status;
use lictor_model::name::fold;
use lictor_model::query::{Query, Question};
use lictor_model::revision::Revision;

use super::{Instance, Reader, Side};
use crate::Error;
use crate::answer::{Answer, Topic};
use crate::query::HIDDEN;
use crate::replica::Tables;
use crate::replica::queries::Stored;
use crate::tokens;

/// How far down the list the asking node itself is looked for, to be put first.
const OWN_NODE_WITHIN: usize = 10;

/// How a query is executed.
#[derive(Clone, Debug, Default)]
pub struct Execution<'a> {
    /// At most so many instances; zero is all.
    pub limit: usize,
    /// Mesh instances, whatever the query says.
    pub connect: bool,
    /// Sorted by distance from here instead of from where the query says: a node, `_agent` or `_ip`.
    pub near: Option<&'a str>,
    /// The node that `_agent` means.
    pub agent_node: Option<&'a str>,
    /// The address that `_ip` means.
    pub source: Option<IpAddr>,
}

/// What an execution gave.
#[derive(Clone, Debug)]
pub struct Executed {
    /// The service that was asked for in the end.
    pub service: String,
    /// How long DNS answers hold, as the query has it; empty means the agent's setting.
    pub dns_ttl: String,
    /// The instances, in the order in which they are to be tried.
    pub instances: Vec<Instance>,
    /// What that order means.
    pub order: Ranking,
    /// The datacenter that they are in.
    pub datacenter: String,
    /// How many other datacenters were asked.
    pub failovers: usize,
}

/// What the order of instances means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ranking {
    /// Nothing: they were shuffled.
    Random,
    /// The first ones are nearer.
    Nearest,
}

impl Reader {
    /// All queries that the caller may see, by id; tokens are hidden from who may not see them.
    pub fn queries(&self) -> Answer<Vec<Arc<Query>>> {
        self.answer(vec![Topic::Queries], |tables| {
            tables
                .queries
                .all()
                .filter(|stored| self.lists_query(&stored.row))
                .map(|stored| self.shown(&stored.row))
                .collect()
        })
    }

    /// One query by its id. `Err(Denied)` when it has a name that the caller may not read.
    pub fn query(&self, id: &str) -> Result<Answer<Option<Arc<Query>>>, Error> {
        if id.len() != 36 {
            return Err(Error::refused("failed prepared query lookup: index error: UUID must be 36 characters"));
        }
        let id = fold(id);
        let topics = vec![Topic::Query((&*id).into())];
        let found = self.answer(topics, |tables| tables.queries.get(&id).map(|stored| Arc::clone(&stored.row)));
        match &found.value {
            // Who knows the id of an unnamed query may see it.
            Some(row) if row.acl_name().is_some_and(|name| !self.reads_query(name)) => Err(Error::Denied),
            _ => Ok(found.map(|row| row.map(|row| self.shown(&row)))),
        }
    }

    /// The query that an id or a name leads to, with its texts filled in; nothing is executed.
    pub fn explain(&self, id_or_name: &str) -> Result<Option<Arc<Query>>, Error> {
        let found = resolve(&self.replica.tables(), id_or_name)?;
        let Some(query) = found.map(|found| Arc::new(found.filled_in(id_or_name))) else { return Ok(None) };
        if query.acl_name().is_some_and(|name| !self.reads_query(name)) {
            return Err(Error::Denied);
        }
        Ok(Some(self.shown(&query)))
    }

    /// Executes a query; `None` when there is none. The answer's topics tell when it may have another result, changes
    /// of coordinates apart, which come all the time. Its index is zero where the caller may see nothing of the service.
    pub fn execute(
        &self,
        id_or_name: &str,
        execution: &Execution<'_>,
        random: &mut fastrand::Rng,
    ) -> Result<Answer<Option<Executed>>, Error> {
        let tables = self.replica.tables();
        let Some(found) = resolve(&tables, id_or_name)? else {
            return Ok(Answer { index: tables.queries.index(), topics: vec![Topic::Queries], value: None });
        };
        let query = found.filled_in(id_or_name);
        // A query with a token of its own gives everyone what that token may see.
        let caller = match query.token.as_str() {
            own if !own.is_empty() && self.config.acl.is_some() => tokens::caller(&tables, &self.config, own)?,
            _ => self.caller.clone(),
        };
        let question = &query.service;
        let name = fold(&question.service);
        let side = if question.connect || execution.connect { Side::Connect } else { Side::Ordinary };
        let topic = match side {
            Side::Ordinary => Topic::Service((&*name).into()),
            Side::Connect => Topic::Connect((&*name).into()),
        };
        let topics = vec![Topic::Queries, topic];
        let (mut there, mut seen) = (false, false);
        let mut instances: Vec<Instance> = tables
            .catalog
            .instances(&name, side)
            .filter(|(entry, row)| {
                let (node, service) = (&entry.row.node, &row.service);
                let sees = caller.reads_node(node.name.as_str()) && caller.reads_service(service.name.as_str());
                there = true;
                seen |= sees;
                sees && question.takes(node.meta.as_ref(), service)
            })
            .map(|(entry, row)| tables.catalog.instance(entry, row))
            .filter(|instance| is_healthy(question, instance))
            .collect();
        // Who may not see the service does not learn when it changes, and with other rights the answer is a newer one.
        let hidden = !caller.reads_service(&name) || there && !seen;
        let (index, topics) = match hidden {
            true => (Revision::ZERO, vec![Topic::Queries]),
            false => (tables.latest(&topics), topics),
        };
        random.shuffle(&mut instances);
        let near = near(&tables, question, execution);
        let mut order =
            match tables.sort_near(&mut instances, near.as_deref(), |instance| instance.node.node.name.as_str()) {
                true => Ranking::Nearest,
                false => Ranking::Random,
            };
        if let Some(near) = near {
            let own = instances.iter().take(OWN_NODE_WITHIN).position(|instance| instance.node.node.name.same(&near));
            if let Some(own) = own {
                instances.swap(0, own);
                order = Ranking::Nearest;
            }
        }
        if execution.limit > 0 {
            instances.truncate(execution.limit);
        }
        // This is the only datacenter. Those to fail over to are unknown, or it is this one again, which has nothing.
        let failovers = 0;
        let Query { service: Question { service, .. }, dns_ttl, .. } = query;
        let datacenter = self.config.datacenter.clone();
        let found = Executed { service, dns_ttl, instances, order, datacenter, failovers };
        Ok(Answer { index, topics, value: Some(found) })
    }

    fn reads_query(&self, name: &str) -> bool {
        self.caller.may(Access::Read, Resource::Query, name)
    }

    fn lists_query(&self, row: &Query) -> bool {
        self.manages_tokens() || row.acl_name().is_some_and(|name| self.reads_query(name))
    }

    fn manages_tokens(&self) -> bool {
        self.caller.may_in(Access::Write, Realm::Acl)
    }

    fn shown(&self, row: &Arc<Query>) -> Arc<Query> {
        if row.token.is_empty() || self.manages_tokens() {
            return Arc::clone(row);
        }
        Arc::new(Query { token: HIDDEN.into(), ..Query::clone(row) })
    }
}

impl Stored {
    fn filled_in(&self, name: &str) -> Query {
        match &self.pattern {
            Some(pattern) => pattern.fill_in(&self.row, name),
            None => Query::clone(&self.row),
        }
    }
}

fn resolve(tables: &Tables, id_or_name: &str) -> Result<Option<Stored>, Error> {
    let folded = fold(id_or_name);
    match tables.queries.get(&folded) {
        Some(stored) if stored.row.template.is_used() => {
            Err(Error::refused("prepared query templates can only be resolved up by name, not by ID"))
        }
        Some(stored) => Ok(Some(stored.clone())),
        None => Ok(tables.queries.for_name(&folded).cloned()),
    }
}

fn is_healthy(question: &Question, instance: &Instance) -> bool {
    let minded = instance.checks.iter().filter(|row| question.minds(row.check.id.as_str()));
    let worst = Status::worst(minded.map(|row| row.check.status));
    if question.only_passing { worst == Status::Passing } else { worst != Status::Critical }
}

/// The node to sort by distance from.
fn near(tables: &Tables, question: &Question, execution: &Execution<'_>) -> Option<String> {
    let asked = execution.near.filter(|near| !near.is_empty()).unwrap_or(&question.near);
    match asked {
        "" => None,
        "_agent" => execution.agent_node.map(str::to_owned),
        "_ip" => {
            let source = execution.source?.to_canonical();
            let at = |address: &str| address.parse::<IpAddr>().is_ok_and(|address| address.to_canonical() == source);
            let node = tables.catalog.nodes().find(|entry| at(&entry.row.node.address))?;
            Some(node.row.node.name.to_string())
        }
        node => Some(node.to_owned()),
    }
}
