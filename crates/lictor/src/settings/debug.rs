//! What `/v1/agent/self` shows of the configuration: the names tools read, secrets hidden.

use std::time::Duration;

use lictor_model::Opaque;
use lictor_notation::duration;
use serde_json::{Value, json};

use crate::cli::version::COMPATIBLE;
use crate::config::address::ListenAddr;
use crate::config::check::{AgentConfig, Role};

/// What stands for every secret, set or not.
const HIDDEN: &str = "hidden";

/// The value of `DebugConfig`.
pub(super) fn shown(config: &AgentConfig, node_id: &str) -> Opaque {
    let AgentConfig { node, network, lifecycle, acl, tls, dns, http, checks, mesh, log, telemetry, .. } = config;
    let time = |time: Duration| Value::from(duration::text(time));
    let port = |port: Option<u16>| Value::from(port.map_or(-1, i64::from));
    let range = |range: &Option<std::ops::RangeInclusive<u16>>| {
        let (low, high) = range.as_ref().map_or((-1, -1), |r| (i64::from(*r.start()), i64::from(*r.end())));
        (Value::from(low), Value::from(high))
    };
    let list = |addresses: &[ListenAddr]| -> Value {
        addresses
            .iter()
            .map(|address| match address {
                ListenAddr::Ip(address) => format!("tcp://{address}"),
                ListenAddr::Unix(path) => format!("unix://{}", path.display()),
            })
            .collect()
    };
    let dns_addresses: Value =
        network.dns.iter().flat_map(|address| [format!("tcp://{address}"), format!("udp://{address}")]).collect();
    let (proxy_low, proxy_high) = range(&network.proxy_ports);
    let (sidecar_low, sidecar_high) = range(&network.sidecar_ports);
    let path = |path: Option<&std::path::PathBuf>| {
        Value::from(path.map(|path| path.display().to_string()).unwrap_or_default())
    };
    let mut shown = Opaque::new();
    let mut show = |name: &str, value: Value| drop(shown.insert(name.to_owned(), value));
    show("ACLAgentMasterToken", json!(HIDDEN));
    show("ACLAgentToken", json!(HIDDEN));
    show("ACLDatacenter", json!(if acl.enabled { node.datacenter.as_str() } else { "" }));
    show("ACLDefaultPolicy", json!(acl.default_policy.as_str()));
    show("ACLDownPolicy", json!(acl.down_policy.as_str()));
    show("ACLEnableKeyListPolicy", json!(acl.enable_key_list_policy));
    show("ACLEnableTokenPersistence", json!(acl.enable_token_persistence));
    show("ACLEnforceVersion8", json!(acl.enforce_version_8));
    show("ACLMasterToken", json!(HIDDEN));
    show("ACLPolicyTTL", time(acl.policy_ttl));
    show("ACLReplicationToken", json!(HIDDEN));
    show("ACLToken", json!(HIDDEN));
    show("ACLTokenReplication", json!(false));
    show("ACLTokenTTL", time(acl.token_ttl));
    show("ACLsEnabled", json!(acl.enabled));
    show("AEInterval", json!("1m0s"));
    show("AdvertiseAddrLAN", json!(network.advertise.to_string()));
    show("AdvertiseAddrWAN", json!(network.advertise_wan.to_string()));
    show("BindAddr", json!(network.bind.to_string()));
    show("CAFile", path(tls.ca_file.as_ref()));
    show("CAPath", path(tls.ca_path.as_ref()));
    show("CheckDeregisterIntervalMin", json!("1m0s"));
    show("CheckReapInterval", json!("30s"));
    show("CheckUpdateInterval", time(checks.update_interval));
    show("ClientAddrs", json!(network.client.iter().map(ToString::to_string).collect::<Vec<_>>()));
    show("ConnectEnabled", json!(mesh.enabled));
    show("ConnectProxyAllowManagedAPIRegistration", json!(mesh.allow_managed_api_registration));
    show("ConnectProxyAllowManagedRoot", json!(mesh.allow_managed_root));
    show("ConnectProxyBindMaxPort", proxy_high);
    show("ConnectProxyBindMinPort", proxy_low);
    show("ConnectProxyDefaultDaemonCommand", json!(mesh.proxy_defaults.daemon_command));
    show("ConnectProxyDefaultExecMode", json!(mesh.proxy_defaults.exec_mode));
    show("ConnectProxyDefaultScriptCommand", json!(mesh.proxy_defaults.script_command));
    show("ConnectSidecarMaxPort", sidecar_high);
    show("ConnectSidecarMinPort", sidecar_low);
    show("DNSAddrs", dns_addresses);
    show("DNSDomain", json!(node.domain));
    show("DNSNodeTTL", time(dns.node_ttl));
    show("DNSOnlyPassing", json!(dns.only_passing));
    show("DNSPort", port(network.ports.dns));
    show("DNSRecursors", json!(dns.recursors));
    show("DataDir", path(node.data_dir.as_ref()));
    show("Datacenter", json!(node.datacenter));
    show("DevMode", json!(node.dev));
    show("DisableRemoteExec", json!(true));
    show("DiscardCheckOutput", json!(checks.discard_output));
    show("DiscoveryMaxStale", time(http.discovery_max_stale));
    show("EnableDebug", json!(http.enable_debug));
    show("EnableLocalScriptChecks", json!(checks.local_scripts));
    show("EnableRemoteScriptChecks", json!(checks.remote_scripts));
    show("EnableUI", json!(http.ui));
    show("EncryptKey", json!(HIDDEN));
    show("GRPCAddrs", list(&network.grpc));
    show("GRPCPort", port(network.ports.grpc));
    show("HTTPAddrs", list(&network.http));
    show("HTTPBlockEndpoints", json!(http.block_endpoints));
    show("HTTPPort", port(network.ports.http));
    show("HTTPResponseHeaders", json!(http.response_headers));
    show("HTTPSAddrs", list(&network.https));
    show("HTTPSPort", port(network.ports.https));
    show("KeyFile", json!(HIDDEN));
    show("LeaveDrainTime", time(lifecycle.leave_drain_time));
    show("LeaveOnTerm", json!(lifecycle.leave_on_terminate));
    show("LogLevel", json!(log.level_text));
    show("NodeID", json!(node_id));
    show("NodeMeta", json!(node.meta));
    show("NodeName", json!(node.name.as_str()));
    show("PrimaryDatacenter", json!(node.datacenter));
    show("Segments", json!([]));
    show("SerfPortLAN", port(network.ports.serf_lan));
    show("SerfPortWAN", port(network.ports.serf_wan));
    show("ServerMode", json!(node.role == Role::Server));
    show("ServerPort", port(network.ports.server));
    show("SessionTTLMin", time(lifecycle.session_ttl_min));
    show("SkipLeaveOnInt", json!(lifecycle.skip_leave_on_interrupt));
    show("TranslateWANAddrs", json!(network.translate_wan_addrs));
    show("VerifyIncoming", json!(tls.verify_incoming_https));
    show("VerifyOutgoing", json!(tls.verify_outgoing));
    show("Version", json!(COMPATIBLE));
    show("VersionPrerelease", json!(""));
    shown.insert(
        "Telemetry".into(),
        json!({
            "AllowedPrefixes": telemetry.allowed_prefixes,
            "BlockedPrefixes": telemetry.blocked_prefixes,
            "DisableHostname": telemetry.disable_hostname,
            "DogstatsdAddr": telemetry.dogstatsd_addr,
            "DogstatsdTags": telemetry.dogstatsd_tags,
            "FilterDefault": telemetry.filter_default,
            "MetricsPrefix": telemetry.metrics_prefix,
            "PrometheusRetentionTime": time(telemetry.prometheus_retention),
            "StatsdAddr": telemetry.statsd_address,
            "StatsiteAddr": telemetry.statsite_address,
        }),
    );
    shown
}
