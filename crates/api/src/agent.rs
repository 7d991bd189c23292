//! What the agent says about itself and about what is registered at it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use lictor_model::meta::Meta;
use lictor_model::service;
use lictor_model::{Opaque, health as nouns};
use serde::{Deserialize, Serialize};

use crate::health::{Check, FullDefinition};
use crate::{is_zero, nullable};

/// `GET /v1/agent/self`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Description<'a> {
    /// The few settings that are a stable part of the answer.
    pub config: Config<'a>,
    /// The whole running configuration, secrets replaced by `hidden`; its content is not stable.
    #[serde(default, deserialize_with = "nullable")]
    pub debug_config: Cow<'a, Opaque>,
    /// The node's network coordinate; absent when coordinates are disabled.
    pub coord: Option<Coordinate>,
    /// The agent as a member of its cluster.
    pub member: Member<'a>,
    /// Numbers for people, all as text, in groups.
    #[serde(default, deserialize_with = "nullable")]
    pub stats: BTreeMap<Cow<'a, str>, BTreeMap<Cow<'a, str>, Cow<'a, str>>>,
    /// The node's metadata.
    #[serde(default, deserialize_with = "nullable")]
    pub meta: Cow<'a, Meta>,
}

/// The stable part of the agent's configuration.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Config<'a> {
    /// Where the agent is.
    pub datacenter: Cow<'a, str>,
    /// What its node is called.
    pub node_name: Cow<'a, str>,
    /// The node's UUID.
    #[serde(rename = "NodeID")]
    pub node_id: Cow<'a, str>,
    /// The source revision of the build.
    pub revision: Cow<'a, str>,
    /// Whether it holds the cluster's state.
    pub server: bool,
    /// The version of the original whose contract is kept.
    pub version: Cow<'a, str>,
}

/// A point in the network coordinate space; distances between points are estimated round-trip times.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Coordinate {
    /// Position, in seconds, in eight dimensions.
    pub vec: Vec<f64>,
    /// Confidence in the position.
    pub error: f64,
    /// Correction learned from the last measurements.
    pub adjustment: f64,
    /// Distance from the plane, for slow access links.
    pub height: f64,
}

impl Default for Coordinate {
    fn default() -> Self {
        Coordinate { vec: vec![0.0; 8], error: 1.5, adjustment: 0.0, height: 1e-5 }
    }
}

/// One entry of `GET /v1/agent/members`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Member<'a> {
    /// Node name, with `.<datacenter>` in the list across datacenters.
    pub name: Cow<'a, str>,
    /// IP address.
    pub addr: Cow<'a, str>,
    /// Membership port.
    pub port: u16,
    /// What kind of agent it is: role, versions, ports.
    #[serde(default, deserialize_with = "nullable")]
    pub tags: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
    /// 0 none, 1 alive, 2 leaving, 3 left, 4 failed.
    pub status: u8,
    /// Lowest protocol spoken.
    pub protocol_min: u8,
    /// Highest protocol spoken.
    pub protocol_max: u8,
    /// Protocol in use.
    pub protocol_cur: u8,
    /// Lowest upper protocol spoken.
    pub delegate_min: u8,
    /// Highest upper protocol spoken.
    pub delegate_max: u8,
    /// Upper protocol in use.
    pub delegate_cur: u8,
}

/// `GET /v1/agent/services`: everything registered here, by id.
pub type Services<'a> = BTreeMap<Cow<'a, str>, Service<'a>>;

/// `GET /v1/agent/checks`: the checks of this agent, by id.
pub type Checks<'a> = BTreeMap<Cow<'a, str>, Check<'a>>;

/// One service registered at this agent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Service<'a> {
    /// `connect-proxy` for a proxy; empty for an ordinary service.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub kind: Cow<'a, str>,
    /// Unique at this agent.
    #[serde(rename = "ID")]
    pub id: Cow<'a, str>,
    /// What clients ask for.
    #[serde(rename = "Service")]
    pub name: Cow<'a, str>,
    /// Labels.
    pub tags: Option<Cow<'a, [String]>>,
    /// Metadata.
    pub meta: Option<Cow<'a, Meta>>,
    /// TCP or UDP port.
    pub port: i64,
    /// Address as registered; empty means the node's.
    pub address: Cow<'a, str>,
    /// Weights by health.
    pub weights: Weights,
    /// Whether the catalog's tags win over the agent's.
    pub enable_tag_override: bool,
    /// Never set by an agent; read from other sources.
    #[serde(skip_serializing_if = "is_zero")]
    pub create_index: u64,
    /// Never set by an agent; read from other sources.
    #[serde(skip_serializing_if = "is_zero")]
    pub modify_index: u64,
    /// Changes exactly when the rest does; what a blocking read passes as `hash`.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub content_hash: Cow<'a, str>,
    /// Copy of the proxy's destination, for clients older than the `Proxy` object.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub proxy_destination: Cow<'a, str>,
    /// What a proxy speaks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Proxy<'a>>,
    /// How the service takes part in the mesh.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect: Option<Connect<'a>>,
}

impl<'a> Service<'a> {
    /// As an entry of the list: tags and metadata are never null, and a proxy's destination is shown twice. `managed`
    /// is the proxy that the agent runs for the service.
    pub fn listed(service: &'a service::Service, managed: Option<ManagedProxy<'a>>) -> Service<'a> {
        let mut shape = Service::alone(service, "");
        shape.tags.get_or_insert_default();
        shape.meta.get_or_insert_default();
        if let Some(proxy) = &shape.proxy {
            shape.proxy_destination = proxy.destination_service_name.clone();
        }
        if let Some(managed) = managed {
            shape.connect.get_or_insert_default().proxy = Some(managed);
        }
        shape
    }

    /// As the answer about this one service; the proxy that the agent runs for it is not mentioned there.
    pub fn alone(service: &'a service::Service, content_hash: &'a str) -> Service<'a> {
        let service::Service { kind, id, name, tags, address, port, meta, weights, enable_tag_override, proxy, native } =
            service;
        Service {
            kind: kind.as_str().into(),
            id: id.as_str().into(),
            name: name.as_str().into(),
            tags: tags.as_deref().map(Cow::Borrowed),
            meta: meta.as_ref().map(Cow::Borrowed),
            port: *port,
            address: address.into(),
            weights: (*weights).into(),
            enable_tag_override: *enable_tag_override,
            create_index: 0,
            modify_index: 0,
            content_hash: content_hash.into(),
            proxy_destination: "".into(),
            proxy: match kind {
                service::Kind::ConnectProxy => proxy.as_ref().map(Proxy::from),
                service::Kind::Typical | service::Kind::Other(_) => None,
            },
            connect: native.then(|| Connect { native: true, proxy: None }),
        }
    }
}

/// Weights by health.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Weights {
    /// When all checks pass.
    pub passing: i64,
    /// When the worst check warns.
    pub warning: i64,
}

impl From<service::Weights> for Weights {
    fn from(service::Weights { passing, warning }: service::Weights) -> Weights {
        Weights { passing, warning }
    }
}

/// How a service takes part in the mesh.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Connect<'a> {
    /// It speaks the mesh's mutual TLS itself.
    #[serde(skip_serializing_if = "is_zero")]
    pub native: bool,
    /// The agent runs a proxy for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ManagedProxy<'a>>,
}

/// The proxy that an agent runs for a service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ManagedProxy<'a> {
    /// `daemon` or `script`, as in effect.
    pub exec_mode: Cow<'a, str>,
    /// Program and arguments, as in effect.
    #[serde(deserialize_with = "nullable")]
    pub command: Cow<'a, [String]>,
    /// The service's own settings, without defaults.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<Cow<'a, Opaque>>,
    /// Services reached through it.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub upstreams: Vec<Upstream<'a>>,
    /// The user that it runs as, where the service names one.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub run_as: Cow<'a, str>,
    /// Files that it may open, where the service says so.
    #[serde(skip_serializing_if = "is_zero")]
    pub limit_open_files: i64,
    /// Bytes of memory that it may use, where the service says so.
    #[serde(skip_serializing_if = "is_zero")]
    pub limit_memory: i64,
    /// Its share of the processor, where the service says so.
    #[serde(rename = "CPUWeight", skip_serializing_if = "is_zero")]
    pub cpu_weight: i64,
}

impl<'a> ManagedProxy<'a> {
    /// What the definition says, with the execution mode and command that are in effect.
    pub fn in_effect(proxy: &'a service::ManagedProxy, exec_mode: &'a str, command: &'a [String]) -> ManagedProxy<'a> {
        let service::ManagedProxy { exec_mode: _, command: _, config, upstreams, run_as, limits } = proxy;
        ManagedProxy {
            exec_mode: exec_mode.into(),
            command: command.into(),
            config: config.as_ref().filter(|config| !config.is_empty()).map(Cow::Borrowed),
            upstreams: upstreams.iter().map(Upstream::from).collect(),
            run_as: run_as.as_str().into(),
            limit_open_files: limits.open_files,
            limit_memory: limits.memory,
            cpu_weight: limits.cpu_weight,
        }
    }
}

/// What a proxy speaks for and where it sends things.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Proxy<'a> {
    /// The service it represents.
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
    /// Settings that belong to the proxy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<Cow<'a, Opaque>>,
    /// Services reached through it; an empty list here, where the catalog leaves it out.
    #[serde(deserialize_with = "nullable")]
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
            config: config.as_ref().filter(|config| !config.is_empty()).map(Cow::Borrowed),
            upstreams: upstreams.iter().map(Upstream::from).collect(),
        }
    }
}

/// One local port behind which another service is reached.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Upstream<'a> {
    /// `service` or `prepared_query`.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub destination_type: Cow<'a, str>,
    /// Without meaning.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub destination_namespace: Cow<'a, str>,
    /// Name of the service, or name or id of the query.
    pub destination_name: Cow<'a, str>,
    /// Where to look; empty means here.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub datacenter: Cow<'a, str>,
    /// Listen address; empty means 127.0.0.1.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub local_bind_address: Cow<'a, str>,
    /// Listen port.
    #[serde(skip_serializing_if = "is_zero")]
    pub local_bind_port: i64,
    /// Settings that belong to the proxy.
    #[serde(skip_serializing_if = "Option::is_none")]
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
            config: config.as_ref().filter(|config| !config.is_empty()).map(Cow::Borrowed),
        }
    }
}

/// `GET /v1/agent/health/service/...`: one instance and all that speaks about its health.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ServiceHealth<'a> {
    /// `passing`, `warning`, `critical` or `maintenance`.
    pub aggregated_status: Cow<'a, str>,
    /// The instance; null when there is none of that id.
    pub service: Option<Service<'a>>,
    /// Its checks and the node's; null when there is no instance.
    pub checks: Option<Vec<Check<'a, FullDefinition<'a>>>>,
}

/// The word for an instance whose node or self is in maintenance, beside those of [`nouns::Status`].
pub const MAINTENANCE: &str = "maintenance";

/// What several checks say together about an instance.
pub fn aggregate<'a>(checks: impl IntoIterator<Item = &'a nouns::Check>) -> &'static str {
    let mut worst = nouns::Status::Passing;
    for check in checks {
        if check.id.is_maintenance() {
            return MAINTENANCE;
        }
        worst = worst.max(check.status);
    }
    worst.as_str()
}

/// `PUT /v1/agent/check/update/:id`: the body.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CheckUpdate<'a> {
    /// `passing`, `warning` or `critical`.
    pub status: Cow<'a, str>,
    /// What the check has to say.
    pub output: Cow<'a, str>,
}

/// `PUT /v1/agent/token/:name`: the body.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Token<'a> {
    /// The secret; empty clears.
    pub token: Cow<'a, str>,
}

/// `GET /v1/agent/metrics`: one interval of telemetry.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Metrics<'a> {
    /// The start of the interval, like `2019-03-05 21:29:00 +0000 UTC`.
    pub timestamp: Cow<'a, str>,
    /// Last values.
    pub gauges: Vec<Gauge<'a>>,
    /// Always empty.
    pub points: [(); 0],
    /// Things counted.
    pub counters: Vec<Sampled<'a>>,
    /// Things measured; durations are milliseconds.
    pub samples: Vec<Sampled<'a>>,
}

/// The last value of something.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Gauge<'a> {
    /// Dotted name.
    pub name: Cow<'a, str>,
    /// The value.
    pub value: f64,
    /// Labels.
    pub labels: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
}

/// What one interval saw of something.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Sampled<'a> {
    /// Dotted name.
    pub name: Cow<'a, str>,
    /// How many.
    pub count: u64,
    /// The sum per second of the interval.
    pub rate: f64,
    /// The sum.
    pub sum: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// The average.
    pub mean: f64,
    /// The standard deviation.
    pub stddev: f64,
    /// Labels.
    pub labels: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::json::{Layout, to_vec};

    fn check(shape: &impl Serialize, expected: &str) {
        assert_eq!(String::from_utf8(to_vec(shape, Layout::Compact).unwrap()).unwrap(), expected);
    }

    fn proxy() -> service::Service {
        service::Service {
            kind: service::Kind::ConnectProxy,
            id: "attic-sidecar-proxy".into(),
            name: "attic-sidecar-proxy".into(),
            port: 21_000,
            proxy: Some(service::ProxySpec {
                destination_name: "attic".into(),
                destination_id: "attic".into(),
                local_service_address: "127.0.0.1".into(),
                local_service_port: 8002,
                config: Some(Opaque::new()),
                upstreams: vec![service::Upstream {
                    destination_type: "service".into(),
                    destination_name: "db".into(),
                    local_bind_port: 9191,
                    ..service::Upstream::default()
                }],
            }),
            ..service::Service::default()
        }
    }

    #[test]
    fn a_listed_service_has_no_null_and_shows_its_destination_twice() {
        check(
            &Service::listed(&proxy(), None),
            r#"{"Kind":"connect-proxy","ID":"attic-sidecar-proxy","Service":"attic-sidecar-proxy","Tags":[],"Meta":{},"Port":21000,"Address":"","Weights":{"Passing":1,"Warning":1},"EnableTagOverride":false,"ProxyDestination":"attic","Proxy":{"DestinationServiceName":"attic","DestinationServiceID":"attic","LocalServiceAddress":"127.0.0.1","LocalServicePort":8002,"Upstreams":[{"DestinationType":"service","DestinationName":"db","LocalBindPort":9191}]}}"#,
        );
    }

    #[test]
    fn a_service_alone_keeps_its_nulls_and_has_a_hash() {
        let service = service::Service {
            id: "pantry-1".into(),
            name: "pantry".into(),
            tags: Some(vec!["a".into()]),
            native: true,
            ..service::Service::default()
        };
        check(
            &Service::alone(&service, "e9c1"),
            r#"{"ID":"pantry-1","Service":"pantry","Tags":["a"],"Meta":null,"Port":0,"Address":"","Weights":{"Passing":1,"Warning":1},"EnableTagOverride":false,"ContentHash":"e9c1","Connect":{"Native":true}}"#,
        );
    }

    #[test]
    fn the_service_of_a_managed_proxy_shows_its_own_settings_only() {
        let managed = service::ManagedProxy {
            config: json!({"bind_port": 20_001}).as_object().cloned(),
            ..service::ManagedProxy::default()
        };
        let command = ["/bin/true".to_owned()];
        let service = service::Service { id: "bin".into(), name: "bin".into(), ..service::Service::default() };
        check(
            &Service::listed(&service, Some(ManagedProxy::in_effect(&managed, "script", &command))),
            r#"{"ID":"bin","Service":"bin","Tags":[],"Meta":{},"Port":0,"Address":"","Weights":{"Passing":1,"Warning":1},"EnableTagOverride":false,"Connect":{"Proxy":{"ExecMode":"script","Command":["/bin/true"],"Config":{"bind_port":20001}}}}"#,
        );
    }

    #[test]
    fn a_proxy_object_on_another_kind_is_not_shown() {
        let service = service::Service { kind: service::Kind::Other("gateway".into()), ..proxy() };
        assert_eq!(Service::listed(&service, None).proxy, None);
    }

    #[test]
    fn null_lists_of_other_agents_are_read_as_empty() {
        let text =
            r#"{"ID":"web","Service":"web","Tags":null,"Proxy":{"DestinationServiceName":"web","Upstreams":null}}"#;
        let service: Service<'static> = serde_json::from_str(text).unwrap();
        assert_eq!(service.tags, None);
        assert_eq!(service.proxy.unwrap().upstreams, []);
    }

    #[test]
    fn maintenance_outweighs_every_state() {
        let check = |id: &str, status| nouns::Check { id: id.into(), status, ..nouns::Check::default() };
        let [passing, critical] = [check("a", nouns::Status::Passing), check("b", nouns::Status::Critical)];
        let maintenance = check("_service_maintenance:web", nouns::Status::Critical);
        assert_eq!(aggregate([]), "passing");
        assert_eq!(aggregate([&passing, &critical]), "critical");
        assert_eq!(aggregate([&critical, &maintenance, &passing]), "maintenance");
    }

    #[test]
    fn metrics_have_their_five_lists() {
        let metrics = Metrics {
            timestamp: "2019-03-05 21:29:00 +0000 UTC".into(),
            gauges: vec![Gauge { name: "consul.runtime.alloc_bytes".into(), value: 502.0, labels: BTreeMap::new() }],
            points: [],
            counters: vec![],
            samples: vec![],
        };
        check(
            &metrics,
            r#"{"Timestamp":"2019-03-05 21:29:00 +0000 UTC","Gauges":[{"Name":"consul.runtime.alloc_bytes","Value":502,"Labels":{}}],"Points":[],"Counters":[],"Samples":[]}"#,
        );
    }
}
