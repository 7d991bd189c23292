//! The shapes of registrations on disk; key for key the original's, so that a data directory can be taken over.
//!
//! What the original did not keep (who owns a generated service) stands in a key of its own, `Lictor`.

use std::collections::BTreeMap;
use std::time::Duration;

use lictor_model::Opaque;
use lictor_model::health::{Check, CheckDefinition, CheckSpec, Status};
use lictor_model::service::{Kind, ManagedProxy, ProxyLimits, ProxySpec, Service, Upstream, Weights};
use serde::{Deserialize, Serialize};

use crate::proof::Proof;

/// A file below `services/`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ServiceRecord {
    /// ACL token of the registration.
    pub token: String,
    /// The service.
    pub service: ServiceShape,
    /// What the original did not keep.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lictor: Option<Ownership>,
}

/// Whose a service is that nobody registered by itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Ownership {
    /// Id of the service it goes with.
    pub owner: String,
}

/// A service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[allow(missing_docs, reason = "the names are the keys")]
pub struct ServiceShape {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    #[serde(rename = "ID")]
    pub id: String,
    pub service: String,
    pub tags: Option<Vec<String>>,
    pub address: String,
    pub meta: Option<BTreeMap<String, String>>,
    pub port: i64,
    pub weights: Option<WeightsShape>,
    pub enable_tag_override: bool,
    pub proxy: ProxyShape,
    pub connect: ConnectShape,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[allow(missing_docs, reason = "the names are the keys")]
pub struct WeightsShape {
    pub passing: i64,
    pub warning: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[allow(missing_docs, reason = "the names are the keys")]
pub struct ConnectShape {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub native: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[allow(missing_docs, reason = "the names are the keys")]
pub struct ProxyShape {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub destination_service_name: String,
    #[serde(rename = "DestinationServiceID", skip_serializing_if = "String::is_empty")]
    pub destination_service_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub local_service_address: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub local_service_port: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<Opaque>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub upstreams: Vec<UpstreamShape>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[allow(missing_docs, reason = "the names are the keys")]
pub struct UpstreamShape {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub destination_type: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub destination_namespace: String,
    pub destination_name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub datacenter: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub local_bind_address: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub local_bind_port: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<Opaque>,
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

impl From<&Upstream> for UpstreamShape {
    fn from(upstream: &Upstream) -> Self {
        let Upstream {
            destination_type,
            destination_namespace,
            destination_name,
            datacenter,
            local_bind_address,
            local_bind_port,
            config,
        } = upstream.clone();
        UpstreamShape {
            destination_type,
            destination_namespace,
            destination_name,
            datacenter,
            local_bind_address,
            local_bind_port,
            config,
        }
    }
}

impl From<UpstreamShape> for Upstream {
    fn from(shape: UpstreamShape) -> Self {
        let UpstreamShape {
            destination_type,
            destination_namespace,
            destination_name,
            datacenter,
            local_bind_address,
            local_bind_port,
            config,
        } = shape;
        Upstream {
            destination_type,
            destination_namespace,
            destination_name,
            datacenter,
            local_bind_address,
            local_bind_port,
            config,
        }
    }
}

impl From<&Service> for ServiceShape {
    fn from(service: &Service) -> Self {
        let Service { kind, id, name, tags, address, port, meta, weights, enable_tag_override, proxy, native } =
            service.clone();
        let proxy = proxy.map_or_else(ProxyShape::default, |spec| {
            let ProxySpec {
                destination_name,
                destination_id,
                local_service_address,
                local_service_port,
                config,
                upstreams,
            } = spec;
            ProxyShape {
                destination_service_name: destination_name.to_string(),
                destination_service_id: destination_id.to_string(),
                local_service_address,
                local_service_port,
                config,
                upstreams: upstreams.iter().map(UpstreamShape::from).collect(),
            }
        });
        ServiceShape {
            kind: kind.as_str().to_owned(),
            id: id.to_string(),
            service: name.to_string(),
            tags,
            address,
            meta,
            port,
            weights: Some(WeightsShape { passing: weights.passing, warning: weights.warning }),
            enable_tag_override,
            proxy,
            connect: ConnectShape { native },
        }
    }
}

impl From<ServiceShape> for Service {
    fn from(shape: ServiceShape) -> Self {
        let ServiceShape { kind, id, service, tags, address, meta, port, weights, enable_tag_override, proxy, connect } =
            shape;
        let kind = Kind::parse(&kind);
        let proxy = (kind == Kind::ConnectProxy).then(|| {
            let ProxyShape {
                destination_service_name,
                destination_service_id,
                local_service_address,
                local_service_port,
                config,
                upstreams,
            } = proxy;
            ProxySpec {
                destination_name: destination_service_name.into(),
                destination_id: destination_service_id.into(),
                local_service_address,
                local_service_port,
                config,
                upstreams: upstreams.into_iter().map(Upstream::from).collect(),
            }
        });
        Service {
            kind,
            id: id.into(),
            name: service.into(),
            tags,
            address,
            port,
            meta,
            weights: weights.map_or_else(Weights::default, |w| Weights { passing: w.passing, warning: w.warning }),
            enable_tag_override,
            proxy,
            native: connect.native,
        }
    }
}

/// A file below `checks/`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CheckRecord {
    /// The check as shown.
    pub check: CheckShape,
    /// How to run it.
    pub chk_type: CheckTypeShape,
    /// ACL token of the registration.
    pub token: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[allow(missing_docs, reason = "the names are the keys")]
pub struct CheckShape {
    pub node: String,
    #[serde(rename = "CheckID")]
    pub check_id: String,
    pub name: String,
    pub status: String,
    pub notes: String,
    pub output: String,
    #[serde(rename = "ServiceID")]
    pub service_id: String,
    pub service_name: String,
    pub service_tags: Option<Vec<String>>,
}

impl From<&Check> for CheckShape {
    fn from(check: &Check) -> Self {
        // The definition is only there for checks of the catalog; those of an agent are never stored with one.
        let Check { node, id, name, status, notes, output, service_id, service_name, service_tags, definition: _ } =
            check.clone();
        CheckShape {
            node: node.to_string(),
            check_id: id.to_string(),
            name,
            status: status.as_str().to_owned(),
            notes,
            output,
            service_id: service_id.to_string(),
            service_name: service_name.to_string(),
            service_tags,
        }
    }
}

impl From<CheckShape> for Check {
    fn from(shape: CheckShape) -> Self {
        let CheckShape { node, check_id, name, status, notes, output, service_id, service_name, service_tags } = shape;
        Check {
            node: node.into(),
            id: check_id.into(),
            name,
            status: Status::parse(&status).unwrap_or_default(),
            notes,
            output,
            service_id: service_id.into(),
            service_name: service_name.into(),
            service_tags,
            definition: CheckDefinition::default(),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, non_snake_case, reason = "the names are the keys")]
pub struct CheckTypeShape {
    pub CheckID: String,
    pub Name: String,
    pub Status: String,
    pub Notes: String,
    pub ScriptArgs: Option<Vec<String>>,
    pub HTTP: String,
    pub Header: Option<BTreeMap<String, Vec<String>>>,
    pub Method: String,
    pub TCP: String,
    pub Interval: i64,
    pub AliasNode: String,
    pub AliasService: String,
    pub DockerContainerID: String,
    pub Shell: String,
    pub GRPC: String,
    pub GRPCUseTLS: bool,
    pub TLSSkipVerify: bool,
    pub Timeout: i64,
    pub TTL: i64,
    pub DeregisterCriticalServiceAfter: i64,
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

fn duration(nanos: i64) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or_default())
}

impl From<&CheckSpec> for CheckTypeShape {
    fn from(spec: &CheckSpec) -> Self {
        let CheckSpec {
            id,
            name,
            notes,
            service_id: _,
            token: _,
            status,
            args,
            http,
            header,
            method,
            tcp,
            grpc,
            grpc_use_tls,
            tls_skip_verify,
            alias_node,
            alias_service,
            docker_container_id,
            shell,
            interval,
            timeout,
            ttl,
            deregister_critical_service_after,
        } = spec.clone();
        CheckTypeShape {
            CheckID: id.to_string(),
            Name: name,
            Status: status.map(Status::as_str).unwrap_or_default().to_owned(),
            Notes: notes,
            ScriptArgs: Some(args).filter(|args| !args.is_empty()),
            HTTP: http,
            Header: Some(header).filter(|header| !header.is_empty()),
            Method: method,
            TCP: tcp,
            Interval: nanos(interval),
            AliasNode: alias_node,
            AliasService: alias_service,
            DockerContainerID: docker_container_id,
            Shell: shell,
            GRPC: grpc,
            GRPCUseTLS: grpc_use_tls,
            TLSSkipVerify: tls_skip_verify,
            Timeout: nanos(timeout),
            TTL: nanos(ttl),
            DeregisterCriticalServiceAfter: nanos(deregister_critical_service_after),
        }
    }
}

impl CheckRecord {
    /// A record of a check.
    pub fn new(check: &Check, spec: &CheckSpec, token: &str) -> CheckRecord {
        CheckRecord { check: check.into(), chk_type: spec.into(), token: token.to_owned() }
    }

    /// The check, how to run it, and its token.
    pub fn into_parts(self) -> (Check, CheckSpec, String) {
        let check = Check::from(self.check);
        let shape = self.chk_type;
        let spec = CheckSpec {
            id: check.id.clone(),
            name: check.name.clone(),
            notes: check.notes.clone(),
            service_id: check.service_id.clone(),
            token: String::new(),
            status: Status::parse(&shape.Status),
            args: shape.ScriptArgs.unwrap_or_default(),
            http: shape.HTTP,
            header: shape.Header.unwrap_or_default(),
            method: shape.Method,
            tcp: shape.TCP,
            grpc: shape.GRPC,
            grpc_use_tls: shape.GRPCUseTLS,
            tls_skip_verify: shape.TLSSkipVerify,
            alias_node: shape.AliasNode,
            alias_service: shape.AliasService,
            docker_container_id: shape.DockerContainerID,
            shell: shape.Shell,
            interval: duration(shape.Interval),
            timeout: duration(shape.Timeout),
            ttl: duration(shape.TTL),
            deregister_critical_service_after: duration(shape.DeregisterCriticalServiceAfter),
        };
        (check, spec, self.token)
    }
}

/// A file below `checks/state/`: the last report of a TTL check.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CheckStateRecord {
    /// Which check.
    #[serde(rename = "CheckID")]
    pub check_id: String,
    /// What it said.
    pub output: String,
    /// The status.
    pub status: String,
    /// Unix seconds after which the report is no longer worth anything.
    pub expires: i64,
}

/// A file below `proxies/`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ProxyRecord {
    /// The token that this proxy shows to its agent, as the original kept it; it is read and never written.
    #[serde(skip_serializing)]
    pub proxy_token: String,
    /// The proxy.
    pub proxy: ManagedProxyShape,
    /// Whether a configuration file defined it.
    pub from_file: bool,
    /// What stands for the token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lictor: Option<ProofShape>,
}

/// What is kept of a proxy's token.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ProofShape {
    /// Which registration of the proxy it is of.
    pub series: String,
    /// SHA-256 in hexadecimal; empty before the first start.
    pub token_digest: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[allow(missing_docs, reason = "the names are the keys")]
pub struct ManagedProxyShape {
    /// 0 unset, 1 daemon, 2 script.
    pub exec_mode: u8,
    pub command: Option<Vec<String>>,
    pub config: Option<Opaque>,
    pub upstreams: Option<Vec<UpstreamShape>>,
    pub proxy_service: Option<ServiceShape>,
    #[serde(rename = "TargetServiceID")]
    pub target_service_id: String,
    /// What the original does not have is left out where it is not used.
    #[serde(skip_serializing_if = "is_zero")]
    pub limit_open_files: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub limit_memory: i64,
    #[serde(rename = "CPUWeight", skip_serializing_if = "is_zero")]
    pub cpu_weight: i64,
}

impl ProxyRecord {
    /// A record of a proxy as it was defined, with the service generated for it.
    pub fn new(
        proof: &Proof,
        definition: &ManagedProxy,
        target: &str,
        generated: &Service,
        from_file: bool,
    ) -> ProxyRecord {
        // Users are named by files alone, which are read again.
        let ManagedProxy { exec_mode, command, config, upstreams, run_as: _, limits } = definition;
        ProxyRecord {
            proxy_token: String::new(),
            proxy: ManagedProxyShape {
                exec_mode: match exec_mode.as_str() {
                    "daemon" => 1,
                    "script" => 2,
                    _ => 0,
                },
                command: Some(command.clone()).filter(|command| !command.is_empty()),
                config: config.clone(),
                upstreams: Some(upstreams.iter().map(UpstreamShape::from).collect()),
                proxy_service: Some(generated.into()),
                target_service_id: target.to_owned(),
                limit_open_files: limits.open_files,
                limit_memory: limits.memory,
                cpu_weight: limits.cpu_weight,
            },
            from_file,
            lictor: Some(ProofShape { series: proof.series.clone(), token_digest: proof.token_digest() }),
        }
    }

    /// How the proxy proves itself, if that can be told.
    pub fn proof(&self) -> Option<Proof> {
        match &self.lictor {
            Some(kept) => Proof::kept(&kept.series, &kept.token_digest),
            None => Some(self.proxy_token.as_str()).filter(|token| !token.is_empty()).map(Proof::of_token),
        }
    }

    /// The proxy as it was defined.
    pub fn definition(&self) -> ManagedProxy {
        ManagedProxy {
            exec_mode: match self.proxy.exec_mode {
                1 => "daemon".into(),
                2 => "script".into(),
                _ => String::new(),
            },
            command: self.proxy.command.clone().unwrap_or_default(),
            config: self.proxy.config.clone(),
            upstreams: self.proxy.upstreams.iter().flatten().cloned().map(Upstream::from).collect(),
            run_as: String::new(),
            limits: ProxyLimits {
                open_files: self.proxy.limit_open_files,
                memory: self.proxy.limit_memory,
                cpu_weight: self.proxy.cpu_weight,
            },
        }
    }

    /// The port the generated service had.
    pub fn port(&self) -> Option<i64> {
        self.proxy.proxy_service.as_ref().map(|service| service.port).filter(|port| *port > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_survives_the_disk() {
        let service = Service {
            kind: Kind::ConnectProxy,
            id: "web-proxy".into(),
            name: "web-proxy".into(),
            tags: Some(vec!["a".into()]),
            port: 20000,
            weights: Weights { passing: 5, warning: 0 },
            proxy: Some(ProxySpec {
                destination_name: "web".into(),
                upstreams: vec![Upstream { destination_name: "db".into(), ..Upstream::default() }],
                ..ProxySpec::default()
            }),
            ..Service::default()
        };
        let text = serde_json::to_string(&ServiceShape::from(&service)).unwrap();
        assert_eq!(Service::from(serde_json::from_str::<ServiceShape>(&text).unwrap()), service);
    }

    #[test]
    fn files_of_the_original_are_read() {
        let record: CheckRecord = serde_json::from_str(
            r#"{"Check":{"Node":"n1","CheckID":"c1","Name":"c1","Status":"critical","Notes":"nn","Output":"",
                "ServiceID":"","ServiceName":"","ServiceTags":null,"Definition":{},"CreateIndex":0,"ModifyIndex":0},
                "ChkType":{"CheckID":"","Name":"c1","Status":"","Notes":"nn","ScriptArgs":null,"HTTP":"","Header":null,
                "Method":"","TCP":"","Interval":0,"TTL":300000000000,"DeregisterCriticalServiceAfter":0},"Token":""}"#,
        )
        .unwrap();
        let (check, spec, _) = record.into_parts();
        assert_eq!(check.id.as_str(), "c1");
        assert_eq!(spec.ttl, Duration::from_secs(300));
    }
}
