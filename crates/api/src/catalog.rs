//! The catalog: nodes, and the services on them in the two forms that clients know.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lictor_model::meta::Meta;
use lictor_model::{Opaque, node, service};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Indexes;
use crate::agent::Weights;
use crate::health::Absent;
use crate::{is_zero, nullable};

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Node<'a> {
    /// A UUID, or empty.
    #[serde(rename = "ID")]
    pub id: Cow<'a, str>,
    /// What it is called.
    #[serde(rename = "Node")]
    pub name: Cow<'a, str>,
    /// An IP address or host name.
    pub address: Cow<'a, str>,
    /// Where it is.
    pub datacenter: Cow<'a, str>,
    /// Further addresses by use.
    pub tagged_addresses: Option<Cow<'a, BTreeMap<String, String>>>,
    /// Metadata.
    pub meta: Option<Cow<'a, Meta>>,
    /// First written.
    pub create_index: u64,
    /// Last changed.
    pub modify_index: u64,
}

impl<'a> Node<'a> {
    /// A node of the given datacenter.
    pub fn new(node: &'a node::Node, datacenter: &'a str, indexes: Indexes) -> Node<'a> {
        let node::Node { id, name, address, tagged_addresses, meta } = node;
        Node {
            id: id.into(),
            name: name.as_str().into(),
            address: address.into(),
            datacenter: datacenter.into(),
            tagged_addresses: tagged_addresses.as_ref().map(Cow::Borrowed),
            meta: meta.as_ref().map(Cow::Borrowed),
            create_index: indexes.created.0,
            modify_index: indexes.modified.0,
        }
    }
}

/// A service on a node that is shown beside it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NodeService<'a> {
    /// `connect-proxy` for a proxy; left out for an ordinary service.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub kind: Cow<'a, str>,
    /// Unique on the node.
    #[serde(rename = "ID")]
    pub id: Cow<'a, str>,
    /// What clients ask for.
    #[serde(rename = "Service")]
    pub name: Cow<'a, str>,
    /// Labels.
    pub tags: Option<Cow<'a, [String]>>,
    /// Empty means the node's.
    pub address: Cow<'a, str>,
    /// Metadata.
    pub meta: Option<Cow<'a, Meta>>,
    /// TCP or UDP port.
    pub port: i64,
    /// Weights by health.
    pub weights: Weights,
    /// Whether the catalog's tags win over the agent's.
    pub enable_tag_override: bool,
    /// Always empty here; the flat form shows it.
    pub proxy_destination: Cow<'a, str>,
    /// What a proxy speaks for; an empty object for others.
    #[serde(deserialize_with = "nullable")]
    pub proxy: Proxy<'a>,
    /// How the service takes part in the mesh.
    #[serde(deserialize_with = "nullable")]
    pub connect: Connect,
    /// First written.
    pub create_index: u64,
    /// Last changed.
    pub modify_index: u64,
}

impl<'a> NodeService<'a> {
    /// A service as the catalog holds it. Tags that are absent are shown as `tags` says; metadata stays null.
    pub fn new(service: &'a service::Service, indexes: Indexes, tags: Absent) -> NodeService<'a> {
        let flat = ServiceNode::parts(service);
        NodeService {
            kind: flat.kind,
            id: flat.id,
            name: flat.name,
            tags: match tags {
                Absent::Null => flat.tags,
                Absent::Empty => Some(flat.tags.unwrap_or_default()),
            },
            address: flat.address,
            meta: flat.meta,
            port: flat.port,
            weights: flat.weights,
            enable_tag_override: flat.enable_tag_override,
            proxy_destination: "".into(),
            proxy: flat.proxy,
            connect: flat.connect,
            create_index: indexes.created.0,
            modify_index: indexes.modified.0,
        }
    }
}

/// One entry of `GET /v1/catalog/service/:name` and `/v1/catalog/connect/:name`: a service and its node, flat.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ServiceNode<'a> {
    /// The node's UUID, or empty.
    #[serde(rename = "ID")]
    pub node_id: Cow<'a, str>,
    /// The node's name.
    pub node: Cow<'a, str>,
    /// The node's address.
    pub address: Cow<'a, str>,
    /// Where the node is.
    pub datacenter: Cow<'a, str>,
    /// Further addresses of the node.
    pub tagged_addresses: Option<Cow<'a, BTreeMap<String, String>>>,
    /// The node's metadata.
    pub node_meta: Option<Cow<'a, Meta>>,
    /// `connect-proxy` for a proxy; empty for an ordinary service.
    pub service_kind: Cow<'a, str>,
    /// Unique on the node.
    #[serde(rename = "ServiceID")]
    pub service_id: Cow<'a, str>,
    /// What clients ask for.
    pub service_name: Cow<'a, str>,
    /// Labels; never null.
    #[serde(deserialize_with = "nullable")]
    pub service_tags: Cow<'a, [String]>,
    /// Empty means the node's.
    pub service_address: Cow<'a, str>,
    /// Weights by health.
    pub service_weights: Weights,
    /// Metadata; never null.
    #[serde(deserialize_with = "nullable")]
    pub service_meta: Cow<'a, Meta>,
    /// TCP or UDP port.
    pub service_port: i64,
    /// Whether the catalog's tags win over the agent's.
    pub service_enable_tag_override: bool,
    /// Copy of the proxy's destination, for clients older than the proxy object.
    pub service_proxy_destination: Cow<'a, str>,
    /// What a proxy speaks for; an empty object for others.
    #[serde(deserialize_with = "nullable")]
    pub service_proxy: Proxy<'a>,
    /// How the service takes part in the mesh.
    #[serde(deserialize_with = "nullable")]
    pub service_connect: Connect,
    /// The service was first written.
    pub create_index: u64,
    /// The service was last changed.
    pub modify_index: u64,
}

/// What both forms of a service show.
struct Parts<'a> {
    kind: Cow<'a, str>,
    id: Cow<'a, str>,
    name: Cow<'a, str>,
    tags: Option<Cow<'a, [String]>>,
    address: Cow<'a, str>,
    meta: Option<Cow<'a, Meta>>,
    port: i64,
    weights: Weights,
    enable_tag_override: bool,
    proxy: Proxy<'a>,
    connect: Connect,
}

impl<'a> ServiceNode<'a> {
    /// A service on a node of the given datacenter; the indexes are the service's.
    pub fn new(
        node: &'a node::Node,
        datacenter: &'a str,
        service: &'a service::Service,
        indexes: Indexes,
    ) -> ServiceNode<'a> {
        let node = Node::new(node, datacenter, indexes);
        let parts = ServiceNode::parts(service);
        ServiceNode {
            node_id: node.id,
            node: node.name,
            address: node.address,
            datacenter: node.datacenter,
            tagged_addresses: node.tagged_addresses,
            node_meta: node.meta,
            service_kind: parts.kind,
            service_id: parts.id,
            service_name: parts.name,
            service_tags: parts.tags.unwrap_or_default(),
            service_address: parts.address,
            service_weights: parts.weights,
            service_meta: parts.meta.unwrap_or_default(),
            service_port: parts.port,
            service_enable_tag_override: parts.enable_tag_override,
            service_proxy_destination: parts.proxy.destination_service_name.clone(),
            service_proxy: parts.proxy,
            service_connect: parts.connect,
            create_index: indexes.created.0,
            modify_index: indexes.modified.0,
        }
    }

    fn parts(service: &'a service::Service) -> Parts<'a> {
        let service::Service { kind, id, name, tags, address, port, meta, weights, enable_tag_override, proxy, native } =
            service;
        Parts {
            kind: kind.as_str().into(),
            id: id.as_str().into(),
            name: name.as_str().into(),
            tags: tags.as_deref().map(Cow::Borrowed),
            address: address.into(),
            meta: meta.as_ref().map(Cow::Borrowed),
            port: *port,
            weights: (*weights).into(),
            enable_tag_override: *enable_tag_override,
            proxy: proxy.as_ref().map(Proxy::from).unwrap_or_default(),
            connect: Connect { native: *native },
        }
    }
}

/// How a service takes part in the mesh, as the catalog keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Connect {
    /// It speaks the mesh's mutual TLS itself.
    #[serde(skip_serializing_if = "is_zero")]
    pub native: bool,
}

/// What a proxy speaks for, as the catalog shows it: everything that is empty is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Proxy<'a> {
    /// The service it represents.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub destination_service_name: Cow<'a, str>,
    /// The instance it stands beside.
    #[serde(rename = "DestinationServiceID", skip_serializing_if = "str::is_empty")]
    pub destination_service_id: Cow<'a, str>,
    /// Host of the local application.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub local_service_address: Cow<'a, str>,
    /// Port of the local application.
    #[serde(skip_serializing_if = "is_zero")]
    pub local_service_port: i64,
    /// Settings that belong to the proxy; texts in it appear as base64 (see [`encoded`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<Cow<'a, Opaque>>,
    /// Services reached through it.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub upstreams: Vec<Upstream<'a>>,
}

impl<'a> From<&'a service::ProxySpec> for Proxy<'a> {
    fn from(proxy: &'a service::ProxySpec) -> Proxy<'a> {
        let service::ProxySpec {
            destination_name,
            destination_id,
            local_service_address,
            local_service_port,
            config,
            upstreams,
        } = proxy;
        Proxy {
            destination_service_name: destination_name.as_str().into(),
            destination_service_id: destination_id.as_str().into(),
            local_service_address: local_service_address.into(),
            local_service_port: *local_service_port,
            config: config.as_ref().filter(|config| !config.is_empty()).map(encoded),
            upstreams: upstreams.iter().map(Upstream::from).collect(),
        }
    }
}

/// One local port behind which another service is reached, as the catalog shows it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Upstream<'a> {
    /// `service` or `prepared_query`.
    pub destination_type: Cow<'a, str>,
    /// Without meaning.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub destination_namespace: Cow<'a, str>,
    /// Name of the service, or name or id of the query.
    pub destination_name: Cow<'a, str>,
    /// Where to look; empty means here.
    pub datacenter: Cow<'a, str>,
    /// Listen address; empty means 127.0.0.1.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub local_bind_address: Cow<'a, str>,
    /// Listen port.
    pub local_bind_port: i64,
    /// Settings that belong to the proxy; texts in it appear as base64.
    pub config: Option<Cow<'a, Opaque>>,
}

impl<'a> From<&'a service::Upstream> for Upstream<'a> {
    fn from(upstream: &'a service::Upstream) -> Upstream<'a> {
        let service::Upstream {
            destination_type,
            destination_namespace,
            destination_name,
            datacenter,
            local_bind_address,
            local_bind_port,
            config,
        } = upstream;
        Upstream {
            destination_type: destination_type.into(),
            destination_namespace: destination_namespace.into(),
            destination_name: destination_name.into(),
            datacenter: datacenter.into(),
            local_bind_address: local_bind_address.into(),
            local_bind_port: *local_bind_port,
            config: config.as_ref().map(encoded),
        }
    }
}

/// A settings map as the catalog shows it: every text in it as base64.
///
/// The original's log stores such texts as bytes, and its JSON writes bytes as base64. Whoever reads settings from the
/// catalog decodes them, so we cannot show the text itself.
pub fn encoded(config: &Opaque) -> Cow<'_, Opaque> {
    fn holds_text(value: &Value) -> bool {
        match value {
            Value::String(_) => true,
            Value::Array(list) => list.iter().any(holds_text),
            Value::Object(map) => map.values().any(holds_text),
            Value::Null | Value::Bool(_) | Value::Number(_) => false,
        }
    }
    fn encode(value: &mut Value) {
        match value {
            Value::String(text) => *text = STANDARD.encode(&*text),
            Value::Array(list) => list.iter_mut().for_each(encode),
            Value::Object(map) => map.values_mut().for_each(encode),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    if !config.values().any(holds_text) {
        return Cow::Borrowed(config);
    }
    let mut config = config.clone();
    config.values_mut().for_each(encode);
    Cow::Owned(config)
}

/// A settings map from one that the catalog shows: its texts were base64 there.
pub fn decoded(mut config: Opaque) -> Opaque {
    fn decode(value: &mut Value) {
        match value {
            Value::String(text) => {
                // Not of ours, if it is none.
                if let Some(plain) = STANDARD.decode(&*text).ok().and_then(|bytes| String::from_utf8(bytes).ok()) {
                    *text = plain;
                }
            }
            Value::Array(list) => list.iter_mut().for_each(decode),
            Value::Object(map) => map.values_mut().for_each(decode),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    config.values_mut().for_each(decode);
    config
}

impl From<Node<'_>> for node::Node {
    fn from(shape: Node<'_>) -> node::Node {
        let Node { id, name, address, datacenter: _, tagged_addresses, meta, create_index: _, modify_index: _ } = shape;
        node::Node {
            id: id.into_owned(),
            name: (&*name).into(),
            address: address.into_owned(),
            tagged_addresses: tagged_addresses.map(Cow::into_owned),
            meta: meta.map(Cow::into_owned),
        }
    }
}

impl From<NodeService<'_>> for service::Service {
    fn from(shape: NodeService<'_>) -> service::Service {
        let NodeService {
            kind,
            id,
            name,
            tags,
            address,
            meta,
            port,
            weights,
            enable_tag_override,
            proxy_destination: _, // A copy, where it is filled.
            proxy,
            connect,
            create_index: _,
            modify_index: _,
        } = shape;
        let kind = service::Kind::parse(&kind);
        service::Service {
            proxy: (kind == service::Kind::ConnectProxy).then(|| proxy.into()),
            kind,
            id: (&*id).into(),
            name: (&*name).into(),
            tags: tags.map(Cow::into_owned),
            address: address.into_owned(),
            port,
            meta: meta.map(Cow::into_owned),
            weights: service::Weights { passing: weights.passing, warning: weights.warning },
            enable_tag_override,
            native: connect.native,
        }
    }
}

impl From<Proxy<'_>> for service::ProxySpec {
    fn from(shape: Proxy<'_>) -> service::ProxySpec {
        let Proxy {
            destination_service_name,
            destination_service_id,
            local_service_address,
            local_service_port,
            config,
            upstreams,
        } = shape;
        service::ProxySpec {
            destination_name: (&*destination_service_name).into(),
            destination_id: (&*destination_service_id).into(),
            local_service_address: local_service_address.into_owned(),
            local_service_port,
            config: config.map(|config| decoded(config.into_owned())),
            upstreams: upstreams.into_iter().map(service::Upstream::from).collect(),
        }
    }
}

impl From<Upstream<'_>> for service::Upstream {
    fn from(shape: Upstream<'_>) -> service::Upstream {
        let Upstream {
            destination_type,
            destination_namespace,
            destination_name,
            datacenter,
            local_bind_address,
            local_bind_port,
            config,
        } = shape;
        service::Upstream {
            destination_type: destination_type.into_owned(),
            destination_namespace: destination_namespace.into_owned(),
            destination_name: destination_name.into_owned(),
            datacenter: datacenter.into_owned(),
            local_bind_address: local_bind_address.into_owned(),
            local_bind_port,
            config: config.map(|config| decoded(config.into_owned())),
        }
    }
}

/// `GET /v1/catalog/node/:node`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct NodeServices<'a> {
    /// The node.
    pub node: Node<'a>,
    /// Its services by id.
    #[serde(deserialize_with = "nullable")]
    pub services: BTreeMap<Cow<'a, str>, NodeService<'a>>,
}

/// `GET /v1/catalog/services`: the tags in use, by service name.
pub type Services<'a> = BTreeMap<Cow<'a, str>, Vec<Cow<'a, str>>>;

#[cfg(test)]
mod tests {
    use lictor_model::revision::Revision;
    use serde_json::json;

    use super::*;
    use crate::json::{Layout, to_vec};

    fn check(shape: &impl Serialize, expected: &str) {
        assert_eq!(String::from_utf8(to_vec(shape, Layout::Compact).unwrap()).unwrap(), expected);
    }

    fn proxy() -> service::Service {
        let config = json!({"s": "x", "n": 1, "l": ["y", {"z": "x"}]}).as_object().cloned();
        service::Service {
            kind: service::Kind::ConnectProxy,
            id: "p1".into(),
            name: "web-proxy".into(),
            port: 9000,
            proxy: Some(service::ProxySpec {
                destination_name: "web".into(),
                config,
                upstreams: vec![service::Upstream {
                    destination_name: "db".into(),
                    local_bind_port: 1234,
                    ..service::Upstream::default()
                }],
                ..service::ProxySpec::default()
            }),
            ..service::Service::default()
        }
    }

    fn indexes() -> Indexes {
        Indexes { created: Revision(6), modified: Revision(7) }
    }

    #[test]
    fn a_service_beside_its_node_keeps_null_metadata_and_encodes_settings() {
        check(
            &NodeService::new(&proxy(), indexes(), Absent::Empty),
            r#"{"Kind":"connect-proxy","ID":"p1","Service":"web-proxy","Tags":[],"Address":"","Meta":null,"Port":9000,"Weights":{"Passing":1,"Warning":1},"EnableTagOverride":false,"ProxyDestination":"","Proxy":{"DestinationServiceName":"web","Config":{"l":["eQ==",{"z":"eA=="}],"n":1,"s":"eA=="},"Upstreams":[{"DestinationType":"","DestinationName":"db","Datacenter":"","LocalBindPort":1234,"Config":null}]},"Connect":{},"CreateIndex":6,"ModifyIndex":7}"#,
        );
        assert_eq!(NodeService::new(&proxy(), indexes(), Absent::Null).tags, None);
    }

    #[test]
    fn the_flat_form_has_no_null_for_the_service() {
        let node = node::Node { name: "ext1".into(), address: "10.1.1.1".into(), ..node::Node::default() };
        let native = service::Service { id: "w".into(), name: "w".into(), native: true, ..service::Service::default() };
        check(
            &ServiceNode::new(&node, "dc1", &native, indexes()),
            r#"{"ID":"","Node":"ext1","Address":"10.1.1.1","Datacenter":"dc1","TaggedAddresses":null,"NodeMeta":null,"ServiceKind":"","ServiceID":"w","ServiceName":"w","ServiceTags":[],"ServiceAddress":"","ServiceWeights":{"Passing":1,"Warning":1},"ServiceMeta":{},"ServicePort":0,"ServiceEnableTagOverride":false,"ServiceProxyDestination":"","ServiceProxy":{},"ServiceConnect":{"Native":true},"CreateIndex":6,"ModifyIndex":7}"#,
        );
        assert_eq!(ServiceNode::new(&node, "dc1", &proxy(), indexes()).service_proxy_destination, "web");
    }

    #[test]
    fn a_node_keeps_its_nulls() {
        let node = node::Node { name: "ext1".into(), meta: Some(Meta::new()), ..node::Node::default() };
        check(
            &Node::new(&node, "dc1", indexes()),
            r#"{"ID":"","Node":"ext1","Address":"","Datacenter":"dc1","TaggedAddresses":null,"Meta":{},"CreateIndex":6,"ModifyIndex":7}"#,
        );
    }
}
