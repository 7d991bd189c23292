//! Prepared queries for DNS: the agent executes what a name asks for.

use lictor_agent::Agent;
use lictor_dns::{PreparedAnswer, PreparedOutcome, PreparedRequest, Queries};
use lictor_notation::duration::GoDuration;
use lictor_state::Reader;
use lictor_state::reader::Execution;

/// Executes the queries of this agent's cluster.
pub(crate) struct Prepared {
    pub(crate) agent: Agent,
    /// The node that `_agent` means; this agent's, if none is named.
    pub(crate) node: Option<String>,
}

impl Queries for Prepared {
    fn execute(&self, reader: &Reader, request: &PreparedRequest<'_>) -> PreparedOutcome {
        let execution =
            Execution { source: Some(request.source), agent_node: self.node.as_deref(), ..Execution::default() };
        match self.agent.execute_query(reader.caller(), request.name, &execution) {
            Ok(answer) => match answer.value {
                None => PreparedOutcome::Unknown,
                Some(found) => PreparedOutcome::Answered(PreparedAnswer {
                    // What is stored was checked; an empty one means the agent's setting.
                    ttl: found.dns_ttl.parse::<GoDuration>().ok().map(GoDuration::or_zero),
                    service: found.service,
                    instances: found.instances,
                }),
            },
            Err(error) => {
                tracing::warn!("dns: cannot execute prepared query {}: {error}", request.name);
                PreparedOutcome::Failed
            }
        }
    }
}
