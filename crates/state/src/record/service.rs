//! An instance of a service on disk.

use std::borrow::Cow;
use std::collections::BTreeMap;

use lictor_model::Opaque;
use lictor_model::revision::Revision;
use lictor_model::service::{Kind, ProxySpec, Service, Upstream, Weights};
use serde::{Deserialize, Serialize};

use super::{Created, is_default};
use crate::reader::ServiceRow;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ServiceRecord<'a> {
    #[serde(borrow, default, skip_serializing_if = "is_default")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tags: Option<Cow<'a, [String]>>,
    #[serde(borrow, default, skip_serializing_if = "is_default")]
    address: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "is_default")]
    port: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    meta: Option<Cow<'a, BTreeMap<String, String>>>,
    #[serde(default, skip_serializing_if = "is_default")]
    weights: WeightsRecord,
    #[serde(default, skip_serializing_if = "is_default")]
    enable_tag_override: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    proxy: Option<ProxyRecord>,
    #[serde(default, skip_serializing_if = "is_default")]
    native: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    created: Created,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct WeightsRecord {
    passing: i64,
    warning: i64,
}

impl Default for WeightsRecord {
    fn default() -> Self {
        let Weights { passing, warning } = Weights::default();
        WeightsRecord { passing, warning }
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct ProxyRecord {
    destination: String,
    #[serde(default, skip_serializing_if = "is_default")]
    destination_id: String,
    #[serde(default, skip_serializing_if = "is_default")]
    local_address: String,
    #[serde(default, skip_serializing_if = "is_default")]
    local_port: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    config: Option<Opaque>,
    #[serde(default, skip_serializing_if = "is_default")]
    upstreams: Vec<UpstreamRecord>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct UpstreamRecord {
    #[serde(default, skip_serializing_if = "is_default")]
    destination_type: String,
    #[serde(default, skip_serializing_if = "is_default")]
    namespace: String,
    #[serde(default, skip_serializing_if = "is_default")]
    destination: String,
    #[serde(default, skip_serializing_if = "is_default")]
    datacenter: String,
    #[serde(default, skip_serializing_if = "is_default")]
    bind_address: String,
    #[serde(default, skip_serializing_if = "is_default")]
    bind_port: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    config: Option<Opaque>,
}

impl<'a> ServiceRecord<'a> {
    pub(crate) fn new(service: &'a Service, created: Created) -> ServiceRecord<'a> {
        let Service { kind, id, name, tags, address, port, meta, weights, enable_tag_override, proxy, native } =
            service;
        let Weights { passing, warning } = *weights;
        ServiceRecord {
            kind: kind.as_str().into(),
            id: id.as_str().into(),
            name: name.as_str().into(),
            tags: tags.as_deref().map(Cow::Borrowed),
            address: address.into(),
            port: *port,
            meta: meta.as_ref().map(Cow::Borrowed),
            weights: WeightsRecord { passing, warning },
            enable_tag_override: *enable_tag_override,
            proxy: proxy.clone().map(ProxyRecord::from),
            native: *native,
            created,
        }
    }

    pub(crate) fn into_row(self, modified: Revision) -> ServiceRow {
        let ServiceRecord {
            kind,
            id,
            name,
            tags,
            address,
            port,
            meta,
            weights: WeightsRecord { passing, warning },
            enable_tag_override,
            proxy,
            native,
            created,
        } = self;
        let service = Service {
            kind: Kind::parse(&kind),
            id: (&*id).into(),
            name: (&*name).into(),
            tags: tags.map(Cow::into_owned),
            address: address.into_owned(),
            port,
            meta: meta.map(Cow::into_owned),
            weights: Weights { passing, warning },
            enable_tag_override,
            proxy: proxy.map(ProxySpec::from),
            native,
        };
        ServiceRow { service, created: created.or(modified), modified }
    }
}

impl From<ProxySpec> for ProxyRecord {
    fn from(spec: ProxySpec) -> ProxyRecord {
        let ProxySpec {
            destination_name,
            destination_id,
            local_service_address,
            local_service_port,
            config,
            upstreams,
        } = spec;
        ProxyRecord {
            destination: destination_name.as_str().to_owned(),
            destination_id: destination_id.as_str().to_owned(),
            local_address: local_service_address,
            local_port: local_service_port,
            config,
            upstreams: upstreams.into_iter().map(UpstreamRecord::from).collect(),
        }
    }
}

impl From<ProxyRecord> for ProxySpec {
    fn from(record: ProxyRecord) -> ProxySpec {
        let ProxyRecord { destination, destination_id, local_address, local_port, config, upstreams } = record;
        ProxySpec {
            destination_name: destination.into(),
            destination_id: destination_id.into(),
            local_service_address: local_address,
            local_service_port: local_port,
            config,
            upstreams: upstreams.into_iter().map(Upstream::from).collect(),
        }
    }
}

impl From<Upstream> for UpstreamRecord {
    fn from(upstream: Upstream) -> UpstreamRecord {
        let Upstream {
            destination_type,
            destination_namespace,
            destination_name,
            datacenter,
            local_bind_address,
            local_bind_port,
            config,
        } = upstream;
        UpstreamRecord {
            destination_type,
            namespace: destination_namespace,
            destination: destination_name,
            datacenter,
            bind_address: local_bind_address,
            bind_port: local_bind_port,
            config,
        }
    }
}

impl From<UpstreamRecord> for Upstream {
    fn from(record: UpstreamRecord) -> Upstream {
        let UpstreamRecord { destination_type, namespace, destination, datacenter, bind_address, bind_port, config } =
            record;
        Upstream {
            destination_type,
            destination_namespace: namespace,
            destination_name: destination,
            datacenter,
            local_bind_address: bind_address,
            local_bind_port: bind_port,
            config,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_instance_is_short_on_disk() {
        let service = Service { id: "web".into(), name: "web".into(), port: 80, ..Service::default() };
        let bytes = serde_json::to_vec(&ServiceRecord::new(&service, Created::NOW)).unwrap();
        assert_eq!(String::from_utf8_lossy(&bytes), r#"{"id":"web","name":"web","port":80}"#);
    }

    #[test]
    fn nothing_is_lost_on_the_way_to_the_disk_and_back() {
        let config: Opaque = serde_json::from_str(r#"{"a":{"b":[1,2.5,null]}}"#).unwrap();
        let service = Service {
            kind: Kind::ConnectProxy,
            id: "Web-Proxy".into(),
            name: "web-proxy".into(),
            tags: Some(vec![]),
            address: "10.0.0.1".into(),
            port: -1,
            meta: Some([("k".to_owned(), "v".to_owned())].into()),
            weights: Weights { passing: 7, warning: 0 },
            enable_tag_override: true,
            proxy: Some(ProxySpec {
                destination_name: "web".into(),
                destination_id: "web-1".into(),
                local_service_address: "127.0.0.2".into(),
                local_service_port: 8080,
                config: Some(config.clone()),
                upstreams: vec![Upstream {
                    destination_type: "service".into(),
                    destination_namespace: "n".into(),
                    destination_name: "db".into(),
                    datacenter: "dc1".into(),
                    local_bind_address: "127.0.0.3".into(),
                    local_bind_port: 1234,
                    config: Some(config),
                }],
            }),
            native: true,
        };
        let bytes = serde_json::to_vec(&ServiceRecord::new(&service, Created::at(Revision(3)))).unwrap();
        let row = serde_json::from_slice::<ServiceRecord<'_>>(&bytes).unwrap().into_row(Revision(9));
        assert_eq!(row, ServiceRow { service, created: Revision(3), modified: Revision(9) });
    }
}
