//! The control plane over the agent's HTTP API.

use std::sync::Arc;
use std::time::Duration;

use lictor_api::agent::Service;
use lictor_api::client::{self, Client, Read, Since, Wanted};
use lictor_api::health::Entry;
use lictor_model::intention::Intention;
use lictor_model::name::ServiceName;
use lictor_model::root::{IssuedLeaf, Roots};

use super::{
    Authorized, Candidate, ControlError, ControlPlane, Fresh, Matched, Neighbor, Ranked, Ranking, Seen, Whose,
};

/// How long the agent may hold back an answer that has not changed: its own default would be 5 minutes or 10, less of
/// which notices a connection that died without a word.
const WAIT: Duration = Duration::from_secs(120);

/// An agent behind an HTTP client.
pub struct AgentClient(Arc<Client>);

impl AgentClient {
    /// Uses the client for every request.
    pub fn new(client: Arc<Client>) -> AgentClient {
        AgentClient(client)
    }

    /// The client, for requests of another kind.
    pub fn client(&self) -> &Client {
        &self.0
    }
}

fn since(seen: &Seen) -> Since<'_> {
    match seen {
        Seen::Nothing => Since::Nothing,
        Seen::Index(index) => Since::Index(*index),
        Seen::Hash(hash) => Since::Hash(hash),
    }
}

fn fresh<T, U>(read: Read<T>, convert: impl FnOnce(T) -> U) -> Fresh<U> {
    let seen = match (read.content_hash, read.index) {
        (Some(hash), _) => Seen::Hash(hash),
        // An index of zero would be read as "do not wait".
        (None, Some(index)) if index > 0 => Seen::Index(index),
        (None, _) => Seen::Nothing,
    };
    Fresh { value: convert(read.value), seen }
}

fn failed(error: client::Error) -> ControlError {
    match error {
        client::Error::Status { code: 404, text } => ControlError::NotFound(text),
        client::Error::Status { code: 403, text } => ControlError::Forbidden(text),
        silent @ (client::Error::Connect { .. } | client::Error::Transport(_) | client::Error::Timeout(_)) => {
            ControlError::Unreached(Box::new(silent))
        }
        other => ControlError::Failed(Box::new(other)),
    }
}

impl ControlPlane for AgentClient {
    async fn service(&self, id: &str, seen: &Seen) -> Result<Fresh<Service<'static>>, ControlError> {
        let read = self.0.agent_service(id, since(seen), WAIT).await.map_err(failed)?;
        Ok(fresh(read, |service| service))
    }

    async fn roots(&self, seen: &Seen) -> Result<Fresh<Roots>, ControlError> {
        Ok(fresh(self.0.connect_roots(since(seen), WAIT).await.map_err(failed)?, Roots::from))
    }

    async fn leaf(&self, service: &str, seen: &Seen) -> Result<Fresh<IssuedLeaf>, ControlError> {
        Ok(fresh(self.0.connect_leaf(service, since(seen), WAIT).await.map_err(failed)?, IssuedLeaf::from))
    }

    async fn intentions(&self, service: &str, seen: &Seen) -> Result<Fresh<Matched>, ControlError> {
        let read = self.0.intentions_match(service, since(seen), WAIT).await.map_err(failed)?;
        Ok(fresh(read, |matched| Matched {
            intentions: matched.intentions.into_iter().map(Intention::from).collect(),
            otherwise: matched.otherwise,
        }))
    }

    async fn instances(
        &self,
        service: &str,
        datacenter: &str,
        seen: &Seen,
    ) -> Result<Fresh<Vec<Candidate>>, ControlError> {
        let read =
            self.0.health_connect(service, datacenter, Wanted::Passing, since(seen), WAIT).await.map_err(failed)?;
        Ok(fresh(read, |entries| entries.into_iter().map(candidate).collect()))
    }

    async fn query(&self, name: &str, datacenter: &str, seen: &Seen) -> Result<Fresh<Option<Ranked>>, ControlError> {
        let read = self.0.query_execute(name, datacenter, since(seen), WAIT).await.map_err(failed)?;
        Ok(fresh(read, |found| {
            found.map(|found| Ranked {
                candidates: found.executed.nodes.into_iter().map(candidate).collect(),
                // The original does not say; its order is the one that its operators asked for.
                ranking: match found.ranking {
                    Some(client::Ranking::Random) => Ranking::Alike,
                    Some(client::Ranking::Nearest) | None => Ranking::BestFirst,
                },
            })
        }))
    }

    async fn authorize(&self, service: &str, uri: &str, serial: &str) -> Result<Authorized, ControlError> {
        let answer = self.0.authorize(service, uri, serial).await.map_err(failed)?;
        Ok(Authorized { allowed: answer.authorized, reason: answer.reason.into_owned() })
    }

    async fn neighbor(&self, whose: &Whose) -> Result<Neighbor, ControlError> {
        let answer = match whose {
            Whose::Id(id) => self.0.neighbor(id).await,
            Whose::Process(pid) => self.0.neighbor_of_process(*pid).await,
        };
        let found = answer.map_err(failed)?;
        Ok(Neighbor {
            node: found.node.into_owned(),
            service: ServiceName::from(found.service.as_ref()),
            pid: found.pid,
            socket: found.socket.into_owned(),
        })
    }
}

/// What one entry of a health answer says about dialling the instance and about who must answer.
fn candidate(entry: Entry<'static>) -> Candidate {
    let Entry { node, service, checks: _ } = entry;
    let destination = match service.kind.as_ref() {
        "connect-proxy" => [service.proxy.destination_service_name.as_ref(), service.proxy_destination.as_ref()]
            .into_iter()
            .find(|name| !name.is_empty())
            .map(ServiceName::from),
        _ if service.connect.native => Some(ServiceName::from(service.name.as_ref())),
        _ => None,
    };
    Candidate {
        id: format!("{}/{}", node.name, service.id),
        host: if service.address.is_empty() { node.address.into_owned() } else { service.address.into_owned() },
        port: u16::try_from(service.port).unwrap_or(0),
        datacenter: node.datacenter.into_owned(),
        destination,
        weight: u16::try_from(service.weights.passing.clamp(1, u16::MAX.into())).unwrap_or(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(service: serde_json::Value) -> Candidate {
        let node = serde_json::json!({"Node": "n", "Address": "10.0.0.1", "Datacenter": "dc2"});
        candidate(serde_json::from_value(serde_json::json!({"Node": node, "Service": service, "Checks": []})).unwrap())
    }

    #[test]
    fn a_proxy_is_dialled_for_its_destination_at_its_nodes_address() {
        let found = entry(serde_json::json!({
            "Kind": "connect-proxy", "ID": "db-proxy", "Service": "db-proxy", "Port": 20000,
            "Proxy": {"DestinationServiceName": "db"}
        }));
        assert_eq!((found.id.as_str(), found.host.as_str(), found.port), ("n/db-proxy", "10.0.0.1", 20000));
        assert_eq!((found.datacenter.as_str(), found.weight), ("dc2", 1));
        assert_eq!(found.destination, Some("db".into()));
    }

    #[test]
    fn a_native_service_is_dialled_for_itself_and_any_other_not_at_all() {
        let native = entry(serde_json::json!({
            "ID": "db", "Service": "db", "Address": "::1", "Port": 1, "Connect": {"Native": true},
            "Weights": {"Passing": 7, "Warning": 1}
        }));
        assert_eq!((native.destination, native.host.as_str(), native.weight), (Some("db".into()), "::1", 7));
        assert_eq!(entry(serde_json::json!({"ID": "db", "Service": "db"})).destination, None);
    }
}
