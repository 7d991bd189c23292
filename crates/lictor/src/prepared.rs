//! Prepared queries for DNS: the agent executes what a name asks for.

use lictor_agent::Agent;
use lictor_dns::{PreparedAnswer, PreparedOutcome, PreparedRequest, Queries};
use lictor_notation::duration::GoDuration;
use lictor_state::Reader;
use lictor_state::reader::Execution;

/// Executes the queries of this agent's cluster.
pub(crate) struct Prepared(pub(crate) Agent);

impl Queries for Prepared {
    fn execute(&self, reader: &Reader, request: &PreparedRequest<'_>) -> PreparedOutcome {
        let execution = Execution { source: Some(request.source), ..Execution::default() };
        match self.0.execute_query(reader.caller(), request.name, &execution) {
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
