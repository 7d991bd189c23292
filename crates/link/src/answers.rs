//! What is said to servers and what they say, between the nouns of the mesh and the shapes of the API.

use std::collections::BTreeMap;

use lictor_api::agent::{Coordinate, Service};
use lictor_api::coordinate::Entry;
use lictor_api::health::{Absent, Check};
use lictor_api::{Indexes, catalog, health};
use lictor_model::node::Node;
use lictor_state::coordinate::NodeCoordinate;
use lictor_state::writer::{Registration, Removal};
use serde::Serialize;

/// `PUT /v1/catalog/register`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Registered<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    node: &'a str,
    address: &'a str,
    tagged_addresses: Option<&'a BTreeMap<String, String>>,
    node_meta: Option<&'a BTreeMap<String, String>>,
    skip_node_update: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<Service<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    checks: Vec<Check<'a>>,
}

/// The body of a registration.
pub(crate) fn registration(registration: &Registration) -> Vec<u8> {
    let Registration { node, skip_node_update, service, checks } = registration;
    let entry = Registered {
        id: &node.id,
        node: node.name.as_str(),
        address: &node.address,
        tagged_addresses: node.tagged_addresses.as_ref(),
        node_meta: node.meta.as_ref(),
        skip_node_update: *skip_node_update,
        service: service.as_ref().map(|service| Service::alone(service, "")),
        checks: checks.iter().map(|check| Check::new(check, Indexes::default(), Absent::Null)).collect(),
    };
    // Texts and numbers have a form in JSON.
    serde_json::to_vec(&entry).unwrap_or_default()
}

/// `PUT /v1/catalog/deregister`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Leaving<'a> {
    node: &'a str,
    #[serde(rename = "ServiceID", skip_serializing_if = "str::is_empty")]
    service_id: &'a str,
    #[serde(rename = "CheckID", skip_serializing_if = "str::is_empty")]
    check_id: &'a str,
}

/// The body of a removal.
pub(crate) fn removal(node: &str, removal: &Removal) -> Vec<u8> {
    let (service_id, check_id) = match removal {
        Removal::Node => ("", ""),
        Removal::Service(id) => (id.as_str(), ""),
        Removal::Check(id) => ("", id.as_str()),
    };
    serde_json::to_vec(&Leaving { node, service_id, check_id }).unwrap_or_default()
}

/// The body of `PUT /v1/coordinate/update`.
pub(crate) fn place(own: &NodeCoordinate) -> Vec<u8> {
    let NodeCoordinate { node, segment, coordinate } = own;
    let lictor_state::coordinate::Coordinate { vec, error, adjustment, height } = coordinate;
    let coord = Coordinate { vec: vec.clone(), error: *error, adjustment: *adjustment, height: *height };
    let entry = Entry { node: node.as_str().into(), segment: segment.into(), coord: Some(coord) };
    serde_json::to_vec(&entry).unwrap_or_default()
}

/// A node with everything on it, as several answers together say.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Contents {
    pub(crate) node: Node,
    pub(crate) services: Vec<lictor_model::service::Service>,
    pub(crate) checks: Vec<lictor_model::health::Check>,
}

impl Contents {
    /// Of `GET /v1/catalog/node/:node` and `GET /v1/health/node/:node`.
    pub(crate) fn of_node(
        services: Option<catalog::NodeServices<'static>>,
        checks: Vec<health::Check<'static>>,
    ) -> Option<Contents> {
        let catalog::NodeServices { node, services } = services?;
        Some(Contents {
            node: node.into(),
            services: services.into_values().map(Into::into).collect(),
            checks: checks.into_iter().map(Into::into).collect(),
        })
    }

    /// Of one entry of `GET /v1/health/service/:service`.
    pub(crate) fn of_instance(entry: health::Entry<'static>) -> Contents {
        let health::Entry { node, service, checks } = entry;
        Contents {
            node: node.into(),
            services: vec![service.into()],
            checks: checks.into_iter().map(Into::into).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use lictor_model::service::{Kind, ProxySpec, Service, Upstream};
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_registration_says_everything_in_the_words_of_the_api() {
        let config = json!({"protocol": "tcp"}).as_object().cloned();
        let service = Service {
            kind: Kind::ConnectProxy,
            id: "web-proxy".into(),
            name: "web-proxy".into(),
            port: 20000,
            proxy: Some(ProxySpec {
                destination_name: "web".into(),
                config,
                upstreams: vec![Upstream { destination_name: "db".into(), local_bind_port: 7, ..Upstream::default() }],
                ..ProxySpec::default()
            }),
            ..Service::default()
        };
        let check =
            lictor_model::health::Check { id: "c".into(), service_id: "web-proxy".into(), ..Default::default() };
        let node = Node { name: "n1".into(), address: "10.0.0.1".into(), ..Node::default() };
        let whole = Registration { node, skip_node_update: true, service: Some(service), checks: vec![check] };
        let body: Value = serde_json::from_slice(&registration(&whole)).unwrap();
        assert_eq!(body["Node"], "n1");
        assert_eq!(body["SkipNodeUpdate"], true);
        assert_eq!(body["Service"]["Service"], "web-proxy");
        assert_eq!(body["Service"]["Proxy"]["Config"]["protocol"], "tcp", "in the clear");
        assert_eq!(body["Service"]["Proxy"]["Upstreams"][0]["LocalBindPort"], 7);
        assert_eq!(body["Checks"][0]["CheckID"], "c");
        let body: Value = serde_json::from_slice(&removal("n1", &Removal::Service("web".into()))).unwrap();
        assert_eq!(body, json!({"Node": "n1", "ServiceID": "web"}));
    }
}
