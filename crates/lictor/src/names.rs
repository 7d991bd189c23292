//! DNS between a client agent and its servers: the one asks what a name means, the others look it up.

use lictor_agent::Agent;
use lictor_dns::remote::{Elsewhere, Pending};
use lictor_link::servers::{Ask, Servers};
use lictor_model::acl::Caller;

use crate::prepared::Prepared;

/// Where servers look names up for agents.
const PATH: &str = "/v1/internal/agent/dns";

/// A server, for its client agents.
pub(crate) struct Served(pub(crate) Agent);

impl lictor_http::config::Names for Served {
    fn look_up(&self, caller: &Caller, node: &str, asked: &[u8]) -> Result<Vec<u8>, String> {
        let queries = Prepared { agent: self.0.clone(), node: Some(node.to_owned()) };
        lictor_dns::remote::answer(asked, &self.0.reader(caller), &queries).map_err(|error| error.to_string())
    }
}

/// A client agent, which asks.
pub(crate) struct Asking {
    pub(crate) agent: Agent,
    pub(crate) servers: Servers,
}

impl Elsewhere for Asking {
    fn look_up(&self, question: Vec<u8>) -> Pending<'_, Result<Vec<u8>, String>> {
        Box::pin(async move {
            // DNS has no token: it sees what the agent's default token may.
            let ask = Ask::put(PATH, &self.agent.asker_elsewhere("").0, question).repeatable();
            let answer = self.servers.read(&ask).await.map_err(|error| error.to_string())?;
            answer.bytes().map(|answer| answer.to_vec()).map_err(|error| error.to_string())
        })
    }
}
