//! Definitions as the body of a registration: the way back from [`super::service_from_http`].

use std::time::Duration;

use lictor_model::health::CheckSpec;
use lictor_model::service::{Definition, ManagedProxy, ProxyLimits, ProxySpec, Service, Upstream};
use lictor_notation::duration;
use serde_json::{Map, Value, json};

/// What is left out says as little as what is empty.
struct Body(Map<String, Value>);

impl Body {
    fn put(&mut self, key: &str, value: impl Into<Value>) {
        let value = value.into();
        let says_nothing = match &value {
            Value::Null => true,
            Value::Bool(flag) => !flag,
            Value::Number(number) => number.as_i64() == Some(0),
            Value::String(text) => text.is_empty(),
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
        };
        if !says_nothing {
            self.0.insert(key.to_owned(), value);
        }
    }

    fn span(&mut self, key: &str, span: Duration) {
        if !span.is_zero() {
            self.put(key, duration::text(span));
        }
    }
}

/// The body of a registration that says what a definition says.
pub(super) fn service(definition: &Definition) -> Value {
    let Definition { service, checks, check, token, managed_proxy, sidecar } = definition;
    let Service { kind, id, name, tags, address, port, meta, weights, enable_tag_override, proxy, native } = service;
    let mut body = Body(Map::new());
    body.put("Kind", kind.as_str());
    body.put("ID", id.as_str());
    body.put("Name", name.as_str());
    body.put("Tags", json!(tags));
    body.put("Address", address.as_str());
    body.put("Port", *port);
    body.put("Meta", json!(meta));
    if *weights != Default::default() {
        body.put("Weights", json!({"Passing": weights.passing, "Warning": weights.warning}));
    }
    body.put("EnableTagOverride", *enable_tag_override);
    body.put("Proxy", proxy.as_ref().map_or(Value::Null, proxy_spec));
    body.put("Token", token.as_str());
    body.put("Check", check.as_ref().map_or(Value::Null, check_spec));
    body.put("Checks", checks.iter().map(check_spec).collect::<Vec<_>>());
    let mut connect = Body(Map::new());
    connect.put("Native", *native);
    // Blocks that are there and empty mean something.
    if let Some(managed) = managed_proxy {
        connect.0.insert("Proxy".into(), managed_proxy_block(managed));
    }
    if let Some(sidecar) = sidecar {
        connect.0.insert("SidecarService".into(), self::service(sidecar));
    }
    body.put("Connect", connect.0);
    Value::Object(body.0)
}

fn proxy_spec(proxy: &ProxySpec) -> Value {
    let ProxySpec { destination_name, destination_id, local_service_address, local_service_port, config, upstreams } =
        proxy;
    let mut body = Body(Map::new());
    body.put("DestinationServiceName", destination_name.as_str());
    body.put("DestinationServiceID", destination_id.as_str());
    body.put("LocalServiceAddress", local_service_address.as_str());
    body.put("LocalServicePort", *local_service_port);
    body.put("Config", json!(config));
    body.put("Upstreams", upstreams.iter().map(upstream).collect::<Vec<_>>());
    Value::Object(body.0)
}

fn managed_proxy_block(proxy: &ManagedProxy) -> Value {
    let ManagedProxy { exec_mode, command, config, upstreams, run_as, limits } = proxy;
    let ProxyLimits { open_files, memory, cpu_weight } = *limits;
    let mut body = Body(Map::new());
    body.put("ExecMode", exec_mode.as_str());
    body.put("Command", json!(command));
    body.put("Config", json!(config));
    body.put("Upstreams", upstreams.iter().map(upstream).collect::<Vec<_>>());
    body.put("RunAs", run_as.as_str());
    body.put("LimitOpenFiles", open_files);
    body.put("LimitMemory", memory);
    body.put("CPUWeight", cpu_weight);
    Value::Object(body.0)
}

fn upstream(upstream: &Upstream) -> Value {
    let Upstream {
        destination_type,
        destination_namespace,
        destination_name,
        datacenter,
        local_bind_address,
        local_bind_port,
        config,
    } = upstream;
    let mut body = Body(Map::new());
    body.put("DestinationType", destination_type.as_str());
    body.put("DestinationNamespace", destination_namespace.as_str());
    body.put("DestinationName", destination_name.as_str());
    body.put("Datacenter", datacenter.as_str());
    body.put("LocalBindAddress", local_bind_address.as_str());
    body.put("LocalBindPort", *local_bind_port);
    body.put("Config", json!(config));
    Value::Object(body.0)
}

fn check_spec(check: &CheckSpec) -> Value {
    let CheckSpec {
        id,
        name,
        notes,
        service_id,
        token,
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
    } = check;
    let mut body = Body(Map::new());
    body.put("CheckID", id.as_str());
    body.put("Name", name.as_str());
    body.put("Notes", notes.as_str());
    body.put("ServiceID", service_id.as_str());
    body.put("Token", token.as_str());
    body.put("Status", status.map_or("", |status| status.as_str()));
    body.put("ScriptArgs", json!(args));
    body.put("HTTP", http.as_str());
    body.put("Header", json!(header));
    body.put("Method", method.as_str());
    body.put("TCP", tcp.as_str());
    body.put("GRPC", grpc.as_str());
    body.put("GRPCUseTLS", *grpc_use_tls);
    body.put("TLSSkipVerify", *tls_skip_verify);
    body.put("AliasNode", alias_node.as_str());
    body.put("AliasService", alias_service.as_str());
    body.put("DockerContainerID", docker_container_id.as_str());
    body.put("Shell", shell.as_str());
    body.span("Interval", *interval);
    body.span("Timeout", *timeout);
    body.span("TTL", *ttl);
    body.span("DeregisterCriticalServiceAfter", *deregister_critical_service_after);
    Value::Object(body.0)
}
