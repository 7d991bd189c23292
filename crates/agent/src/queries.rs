//! Prepared queries: who may write them, and with whose rights they are executed.

use std::sync::Arc;
use std::time::Instant;

use lictor_model::acl::Caller;
use lictor_model::query::Query;
use lictor_state::answer::Answer;
use lictor_state::reader::{Executed, Execution};

use crate::{Agent, Error};

/// Length of the text form of a UUID.
const UUID_LENGTH: usize = 36;

impl Agent {
    /// Creates a prepared query and gives its id.
    pub async fn create_query(&self, caller: &Caller, mut query: Query) -> Result<String, Error> {
        if !query.id.is_empty() {
            return Err(Error::Refused("ID must be empty when creating a new prepared query".into()));
        }
        may_write(caller, &query)?;
        query.id = uuid::Uuid::new_v4().to_string();
        let id = query.id.clone();
        self.inner.writer.create_query(query).await?;
        Ok(id)
    }

    /// Replaces a prepared query by its id.
    pub async fn update_query(&self, caller: &Caller, query: Query) -> Result<(), Error> {
        self.may_change(caller, &query.id)?;
        may_write(caller, &query)?;
        Ok(self.inner.writer.update_query(caller, query).await?)
    }

    /// Removes a prepared query.
    pub async fn delete_query(&self, caller: &Caller, id: &str) -> Result<(), Error> {
        self.may_change(caller, id)?;
        Ok(self.inner.writer.delete_query(caller, id).await?)
    }

    /// Executes a prepared query by its id or name; `None` when there is none. A query with a token of its own finds
    /// what that token may see, whoever executes it. `_agent` means this agent's node, if the execution names no other.
    pub fn execute_query(
        &self,
        caller: &Caller,
        id_or_name: &str,
        execution: &Execution<'_>,
    ) -> Result<Answer<Option<Executed>>, Error> {
        let start = Instant::now();
        let own = self.inner.config.node_name.as_str();
        let execution = Execution { agent_node: execution.agent_node.or(Some(own)), ..execution.clone() };
        let random = &mut fastrand::Rng::new();
        // Tokens are hidden from the caller, who need not be able to see the query at all.
        let query = self.reader(&Caller::management("")).explain(id_or_name)?;
        let reader = match query.as_ref().map_or("", |query| &query.token) {
            "" => self.reader(caller),
            token => self.reader(&self.caller(token)?),
        };
        let executed = reader.execute(id_or_name, &execution, random)?;
        lictor_meter::process().timer("prepared-query.execute", &[]).since(start);
        Ok(executed)
    }

    /// The query that an id or a name leads to, with its texts filled in; nothing is executed.
    pub fn explain_query(&self, caller: &Caller, id_or_name: &str) -> Result<Option<Arc<Query>>, Error> {
        let start = Instant::now();
        let explained = self.reader(caller).explain(id_or_name)?;
        lictor_meter::process().timer("prepared-query.explain", &[]).since(start);
        Ok(explained)
    }

    /// Checks the right to change the query that there is before anything else is said of the request; the writer
    /// decides upon what there is then. What does not exist is the writer's to refuse.
    fn may_change(&self, caller: &Caller, id: &str) -> Result<(), Error> {
        if id.len() != UUID_LENGTH {
            return Ok(());
        }
        match self.reader(&Caller::management("")).query(id)?.value {
            Some(present) => may_write(caller, &present),
            None => Ok(()),
        }
    }
}

fn may_write(caller: &Caller, query: &Query) -> Result<(), Error> {
    if query.is_written_by(caller) { Ok(()) } else { Err(Error::Denied) }
}
