//! DNS between a client agent and its servers: the one asks what a name means, the others look it up.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use lictor_agent::Agent;
use lictor_dns::remote::{Asked, Elsewhere, Found};
use lictor_link::servers::{Ask, Servers};
use lictor_model::acl::Caller;

use crate::prepared::Prepared;

/// Where servers look names up for agents.
const PATH: &str = "/v1/internal/agent/dns";

/// A server, for its client agents.
pub(crate) struct Served(pub(crate) Agent);

impl lictor_http::config::Names for Served {
    fn look_up(&self, caller: &Caller, node: &str, asked: &[u8]) -> Result<Vec<u8>, String> {
        let asked: Asked = serde_json::from_slice(asked).map_err(|error| error.to_string())?;
        let (agent, caller) = (self.0.clone(), caller.clone());
        let backend = lictor_dns::Backend {
            reader: Arc::new(move || agent.reader(&caller)),
            queries: Arc::new(Prepared { agent: self.0.clone(), node: Some(node.to_owned()) }),
        };
        let found = lictor_dns::remote::answer(&asked, &backend).map_err(|error| error.to_string())?;
        serde_json::to_vec(&found).map_err(|error| error.to_string())
    }
}

/// A client agent, which asks.
pub(crate) struct Asking {
    pub(crate) agent: Agent,
    pub(crate) servers: Servers,
}

impl Elsewhere for Asking {
    fn look_up<'a>(&'a self, asked: &'a Asked) -> Pin<Box<dyn Future<Output = Result<Found, String>> + Send + 'a>> {
        Box::pin(async move {
            let body = serde_json::to_vec(asked).map_err(|error| error.to_string())?;
            // DNS has no token: it sees what the agent's default token may.
            let ask = Ask::put(PATH, &self.agent.secret_elsewhere(""), body);
            let answer = self.servers.read(&ask).await.map_err(|error| error.to_string())?;
            answer.json().map_err(|error| error.to_string())
        })
    }
}
