//! What `/v1/agent/self` shows of the configuration: every name the original shows, secrets hidden.
//!
//! Scripts and dashboards read single members, so none of them may be missing: a key without effect shows what was
//! written, or the original's default.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use lictor_http::config::Network;
use lictor_model::Opaque;
use lictor_model::health::CheckSpec;
use lictor_model::secret::{self, HIDDEN};
use lictor_model::service::Definition;
use lictor_notation::duration;
use serde_json::{Map, Value, json};

use crate::cli::version::COMPATIBLE;
use crate::config::Settings;
use crate::config::address::ListenAddr;
use crate::config::check::tuning::without_secrets;
use crate::config::check::{AgentConfig, Role};
use crate::config::watch::Watch;

/// Members that show one key as it counts.
const OF_KEYS: &[(&str, &str)] = &[
    ("ACLDisabledTTL", "acl.disabled_ttl"),
    ("ACLTokenReplication", "acl.enable_token_replication"),
    ("AEInterval", "ae_interval"),
    ("AutopilotCleanupDeadServers", "autopilot.cleanup_dead_servers"),
    ("AutopilotDisableUpgradeMigration", "autopilot.disable_upgrade_migration"),
    ("AutopilotLastContactThreshold", "autopilot.last_contact_threshold"),
    ("AutopilotMaxTrailingLogs", "autopilot.max_trailing_logs"),
    ("AutopilotRedundancyZoneTag", "autopilot.redundancy_zone_tag"),
    ("AutopilotServerStabilizationTime", "autopilot.server_stabilization_time"),
    ("AutopilotUpgradeVersionTag", "autopilot.upgrade_version_tag"),
    ("CAFile", "ca_file"),
    ("CAPath", "ca_path"),
    ("CertFile", "cert_file"),
    ("CheckDeregisterIntervalMin", "check_deregister_interval_min"),
    ("CheckReapInterval", "check_reap_interval"),
    ("ConnectCAProvider", "connect.ca_provider"),
    ("ConsulCoordinateUpdateBatchSize", "consul.coordinate.update_batch_size"),
    ("ConsulCoordinateUpdateMaxBatches", "consul.coordinate.update_max_batches"),
    ("ConsulCoordinateUpdatePeriod", "consul.coordinate.update_period"),
    ("ConsulRaftElectionTimeout", "consul.raft.election_timeout"),
    ("ConsulRaftHeartbeatTimeout", "consul.raft.heartbeat_timeout"),
    ("ConsulRaftLeaderLeaseTimeout", "consul.raft.leader_lease_timeout"),
    ("ConsulServerHealthInterval", "consul.server.health_interval"),
    ("DNSARecordLimit", "dns_config.a_record_limit"),
    ("DNSAllowStale", "dns_config.allow_stale"),
    ("DNSCacheMaxAge", "dns_config.cache_max_age"),
    ("DNSDisableCompression", "dns_config.disable_compression"),
    ("DNSEnableTruncate", "dns_config.enable_truncate"),
    ("DNSMaxStale", "dns_config.max_stale"),
    ("DNSNodeMetaTXT", "dns_config.enable_additional_node_meta_txt"),
    ("DNSRecursorTimeout", "dns_config.recursor_timeout"),
    ("DNSServiceTTL", "dns_config.service_ttl"),
    ("DNSUDPAnswerLimit", "dns_config.udp_answer_limit"),
    ("DNSUseCache", "dns_config.use_cache"),
    ("DisableAnonymousSignature", "disable_anonymous_signature"),
    ("DisableCoordinates", "disable_coordinates"),
    ("DisableHTTPUnprintableCharFilter", "disable_http_unprintable_char_filter"),
    ("DisableHostNodeID", "disable_host_node_id"),
    ("DisableKeyringFile", "disable_keyring_file"),
    ("DisableUpdateCheck", "disable_update_check"),
    ("EnableAgentTLSForChecks", "enable_agent_tls_for_checks"),
    ("EnableSyslog", "enable_syslog"),
    ("EncryptVerifyIncoming", "encrypt_verify_incoming"),
    ("EncryptVerifyOutgoing", "encrypt_verify_outgoing"),
    ("GossipLANGossipInterval", "gossip_lan.gossip_interval"),
    ("GossipLANGossipNodes", "gossip_lan.gossip_nodes"),
    ("GossipLANProbeInterval", "gossip_lan.probe_interval"),
    ("GossipLANProbeTimeout", "gossip_lan.probe_timeout"),
    ("GossipLANRetransmitMult", "gossip_lan.retransmit_mult"),
    ("GossipLANSuspicionMult", "gossip_lan.suspicion_mult"),
    ("GossipWANGossipInterval", "gossip_wan.gossip_interval"),
    ("GossipWANGossipNodes", "gossip_wan.gossip_nodes"),
    ("GossipWANProbeInterval", "gossip_wan.probe_interval"),
    ("GossipWANProbeTimeout", "gossip_wan.probe_timeout"),
    ("GossipWANRetransmitMult", "gossip_wan.retransmit_mult"),
    ("GossipWANSuspicionMult", "gossip_wan.suspicion_mult"),
    ("LeaveDrainTime", "performance.leave_drain_time"),
    ("LogFile", "log_file"),
    ("LogRotateBytes", "log_rotate_bytes"),
    ("LogRotateDuration", "log_rotate_duration"),
    ("NonVotingServer", "non_voting_server"),
    ("PidFile", "pid_file"),
    ("RPCHoldTimeout", "performance.rpc_hold_timeout"),
    ("RPCMaxBurst", "limits.rpc_max_burst"),
    ("RPCProtocol", "protocol"),
    ("RPCRateLimit", "limits.rpc_rate"),
    ("RaftProtocol", "raft_protocol"),
    ("RaftSnapshotInterval", "raft_snapshot_interval"),
    ("RaftSnapshotThreshold", "raft_snapshot_threshold"),
    ("ReconnectTimeoutLAN", "reconnect_timeout"),
    ("ReconnectTimeoutWAN", "reconnect_timeout_wan"),
    ("RejoinAfterLeave", "rejoin_after_leave"),
    ("RetryJoinIntervalLAN", "retry_interval"),
    ("RetryJoinIntervalWAN", "retry_interval_wan"),
    ("RetryJoinLAN", "retry_join"),
    ("RetryJoinMaxAttemptsLAN", "retry_max"),
    ("RetryJoinMaxAttemptsWAN", "retry_max_wan"),
    ("RetryJoinWAN", "retry_join_wan"),
    ("SegmentLimit", "segment_limit"),
    ("SegmentName", "segment"),
    ("SegmentNameLimit", "segment_name_limit"),
    ("Segments", "segments"),
    ("ServerName", "server_name"),
    ("StartJoinAddrsLAN", "start_join"),
    ("StartJoinAddrsWAN", "start_join_wan"),
    ("SyncCoordinateIntervalMin", "sync_coordinate_interval_min"),
    ("SyncCoordinateRateTarget", "sync_coordinate_rate_target"),
    ("SyslogFacility", "syslog_facility"),
    ("TLSMinVersion", "tls_min_version"),
    ("TLSPreferServerCipherSuites", "tls_prefer_server_cipher_suites"),
    ("UIDir", "ui_dir"),
    ("UnixSocketGroup", "unix_sockets.group"),
    ("UnixSocketMode", "unix_sockets.mode"),
    ("UnixSocketUser", "unix_sockets.user"),
    ("VerifyIncomingRPC", "verify_incoming_rpc"),
    ("VerifyServerHostname", "verify_server_hostname"),
];

/// The same of `Telemetry`.
const OF_TELEMETRY: &[(&str, &str)] = &[
    ("CirconusAPIApp", "telemetry.circonus_api_app"),
    ("CirconusAPIToken", "telemetry.circonus_api_token"),
    ("CirconusAPIURL", "telemetry.circonus_api_url"),
    ("CirconusBrokerID", "telemetry.circonus_broker_id"),
    ("CirconusBrokerSelectTag", "telemetry.circonus_broker_select_tag"),
    ("CirconusCheckDisplayName", "telemetry.circonus_check_display_name"),
    ("CirconusCheckForceMetricActivation", "telemetry.circonus_check_force_metric_activation"),
    ("CirconusCheckID", "telemetry.circonus_check_id"),
    ("CirconusCheckInstanceID", "telemetry.circonus_check_instance_id"),
    ("CirconusCheckSearchTag", "telemetry.circonus_check_search_tag"),
    ("CirconusCheckTags", "telemetry.circonus_check_tags"),
    ("CirconusSubmissionInterval", "telemetry.circonus_submission_interval"),
    ("CirconusSubmissionURL", "telemetry.circonus_submission_url"),
];

/// Services, checks and watches as the sources declare them.
pub(super) struct Declarations<'a> {
    pub(super) services: &'a [Definition],
    pub(super) checks: &'a [CheckSpec],
    pub(super) watches: &'a [Watch],
}

/// The value of `DebugConfig`.
pub(super) fn shown(
    settings: &Settings,
    config: &AgentConfig,
    networks: &[Network],
    declared: &Declarations<'_>,
    node_id: &str,
) -> Opaque {
    let mut shown = Opaque::new();
    for (name, path) in OF_KEYS {
        shown.insert((*name).to_owned(), settings.shown(path));
    }
    judged(config, networks, node_id, &mut shown);
    addresses(config, &mut shown);
    mesh(config, &mut shown);
    shown.insert("Telemetry".into(), telemetry(settings, config));
    let (is_expected, expected) = (settings.flag("bootstrap"), settings.int("bootstrap_expect"));
    // One expected server is one that does not wait for others, and so it is shown.
    shown.insert("Bootstrap".into(), json!(is_expected || expected == 1));
    shown.insert("BootstrapExpect".into(), json!(if expected == 1 { 0 } else { expected }));
    let suites = settings.text("tls_cipher_suites").split(',').map(str::trim).filter(|suite| !suite.is_empty());
    shown.insert("TLSCipherSuites".into(), suites.collect());
    for name in ["RetryJoinLAN", "RetryJoinWAN", "StartJoinAddrsLAN", "StartJoinAddrsWAN"] {
        // Entries for a cloud may hold its secrets.
        if let Some(Value::Array(entries)) = shown.get_mut(name) {
            for entry in entries {
                *entry = without_secrets(entry.as_str().unwrap_or_default()).into();
            }
        }
    }
    shown.insert("Services".into(), declared.services.iter().map(service).collect());
    shown.insert("Checks".into(), declared.checks.iter().map(check).collect());
    shown.insert("Watches".into(), declared.watches.iter().map(Watch::shown).collect());
    // Users and passwords can be part of any URL: of checks, of watches, of a CA, of a collector of numbers.
    shown.values_mut().for_each(secret::hide_in_urls);
    shown
}

/// What the judged configuration says better than the sources.
fn judged(config: &AgentConfig, networks: &[Network], node_id: &str, shown: &mut Opaque) {
    let AgentConfig { node, lifecycle, acl, tls, dns, http, checks, log, .. } = config;
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
    show("ACLTokenTTL", time(acl.token_ttl));
    show("ACLsEnabled", json!(acl.enabled));
    show("CheckUpdateInterval", time(checks.update_interval));
    show("DNSDomain", json!(node.domain));
    show("DNSNodeTTL", time(dns.node_ttl));
    show("DNSOnlyPassing", json!(dns.only_passing));
    show("DNSRecursors", json!(dns.recursors));
    show("DataDir", json!(node.data_dir.as_ref().map(|path| path.display().to_string()).unwrap_or_default()));
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
    show("HTTPBlockEndpoints", json!(http.block_endpoints));
    show("HTTPResponseHeaders", json!(http.response_headers));
    show("KeyFile", json!(HIDDEN));
    show("LeaveOnTerm", json!(lifecycle.leave_on_terminate));
    show("LogLevel", json!(log.level_text));
    show("NodeID", json!(node_id));
    show("NodeMeta", json!(node.meta));
    show("NodeName", json!(node.name.as_str()));
    show("PrimaryDatacenter", json!(node.datacenter));
    show("ServerMode", json!(node.role == Role::Server));
    show("SessionTTLMin", time(lifecycle.session_ttl_min));
    show("SkipLeaveOnInt", json!(lifecycle.skip_leave_on_interrupt));
    show("VerifyIncoming", json!(tls.verify_incoming_https));
    show("VerifyOutgoing", json!(tls.verify_outgoing));
    show("Version", json!(COMPATIBLE));
    show("VersionPrerelease", json!(""));
    show("AllowWriteHTTPFrom", networks.iter().map(network_shape).collect());
    show(
        "DNSSOA",
        json!({"Expire": dns.soa.expire, "Minttl": dns.soa.min_ttl, "Refresh": dns.soa.refresh, "Retry": dns.soa.retry}),
    );
    show("Revision", json!(""));
    show("VerifyIncomingHTTPS", json!(tls.verify_incoming_https));
}

/// Addresses and ports, in the forms of the original.
fn addresses(config: &AgentConfig, shown: &mut Opaque) {
    let network = &config.network;
    let port = |port: Option<u16>| Value::from(port.map_or(-1, i64::from));
    let list = |addresses: &[ListenAddr]| -> Value {
        addresses
            .iter()
            .map(|address| match address {
                ListenAddr::Ip(address) => format!("tcp://{address}"),
                ListenAddr::Unix(path) => format!("unix://{}", path.display()),
            })
            .collect()
    };
    // What has no port is not there.
    let place = |ip: IpAddr, port: Option<u16>| {
        json!(port.map(|port| format!("tcp://{}", std::net::SocketAddr::new(ip, port))).unwrap_or_default())
    };
    let dns_addresses: Value =
        network.dns.iter().flat_map(|address| [format!("tcp://{address}"), format!("udp://{address}")]).collect();
    let ports = &network.ports;
    let mut tagged = config.node.tagged_addresses.clone();
    tagged.insert("lan".into(), network.advertise.to_string());
    tagged.insert("wan".into(), network.advertise_wan.to_string());
    let mut show = |name: &str, value: Value| drop(shown.insert(name.to_owned(), value));
    show("AdvertiseAddrLAN", json!(network.advertise.to_string()));
    show("AdvertiseAddrWAN", json!(network.advertise_wan.to_string()));
    show("BindAddr", json!(network.bind.to_string()));
    show("ClientAddrs", json!(network.client.iter().map(ToString::to_string).collect::<Vec<_>>()));
    show("DNSAddrs", dns_addresses);
    show("DNSPort", port(network.ports.dns));
    show("GRPCAddrs", list(&network.grpc));
    show("GRPCPort", port(network.ports.grpc));
    show("HTTPAddrs", list(&network.http));
    show("HTTPPort", port(network.ports.http));
    show("HTTPSAddrs", list(&network.https));
    show("HTTPSPort", port(network.ports.https));
    show("SerfPortLAN", port(network.ports.serf_lan));
    show("SerfPortWAN", port(network.ports.serf_wan));
    show("ServerPort", port(network.ports.server));
    show("TranslateWANAddrs", json!(network.translate_wan_addrs));
    show("RPCAdvertiseAddr", place(network.advertise, ports.server));
    show("RPCBindAddr", place(network.bind, ports.server));
    show("SerfAdvertiseAddrLAN", place(network.advertise, ports.serf_lan));
    show("SerfAdvertiseAddrWAN", place(network.advertise_wan, ports.serf_wan));
    show("SerfBindAddrLAN", place(network.serf_lan, ports.serf_lan));
    show("SerfBindAddrWAN", place(network.bind, ports.serf_wan));
    show("TaggedAddresses", json!(tagged));
}

/// The mesh.
fn mesh(config: &AgentConfig, shown: &mut Opaque) {
    let (mesh, network) = (&config.mesh, &config.network);
    let range = |range: &Option<std::ops::RangeInclusive<u16>>| {
        let (low, high) = range.as_ref().map_or((-1, -1), |r| (i64::from(*r.start()), i64::from(*r.end())));
        (Value::from(low), Value::from(high))
    };
    let (proxy_low, proxy_high) = range(&network.proxy_ports);
    let (sidecar_low, sidecar_high) = range(&network.sidecar_ports);
    let mut show = |name: &str, value: Value| drop(shown.insert(name.to_owned(), value));
    show("ConnectCAConfig", without_secret_members(&mesh.ca_config));
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
    show("ConnectProxyDefaultConfig", without_secret_members(&mesh.proxy_defaults.config));
    // Switches of the original's own tests.
    show("ConnectTestCALeafRootChangeSpread", json!("0s"));
    show("ConnectTestDisableManagedProxies", json!(false));
}

fn telemetry(settings: &Settings, config: &AgentConfig) -> Value {
    let telemetry = &config.telemetry;
    let mut shown = json!({
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
    });
    for (name, path) in OF_TELEMETRY {
        shown[*name] = if secret::is_named(name) { json!(HIDDEN) } else { settings.shown(path) };
    }
    shown
}

fn service(definition: &Definition) -> Value {
    let service = &definition.service;
    json!({
        "Address": service.address,
        "Checks": definition.all_checks().map(check).collect::<Value>(),
        "EnableTagOverride": service.enable_tag_override,
        "ID": service.id.as_str(),
        "Kind": service.kind.as_str(),
        "Meta": service.meta,
        "Name": service.name.as_str(),
        "Port": service.port,
        "Tags": service.tags.as_deref().unwrap_or_default(),
        "Token": HIDDEN,
    })
}

fn check(spec: &CheckSpec) -> Value {
    json!({
        "AliasNode": spec.alias_node,
        "AliasService": spec.alias_service,
        "DeregisterCriticalServiceAfter": time(spec.deregister_critical_service_after),
        "DockerContainerID": spec.docker_container_id,
        "GRPC": spec.grpc,
        "GRPCUseTLS": spec.grpc_use_tls,
        "HTTP": spec.http,
        // Which headers are sent helps whoever looks why a check fails; what is in them may let somebody in.
        "Header": spec.header.iter().map(|(name, values)| (name.clone(), values.iter().map(|_| HIDDEN).collect())).collect::<Map<_, Value>>(),
        "ID": spec.id.as_str(),
        "Interval": time(spec.interval),
        "Method": spec.method,
        "Name": spec.name,
        "Notes": spec.notes,
        "ScriptArgs": spec.args,
        "ServiceID": spec.service_id.as_str(),
        "Shell": spec.shell,
        "Status": spec.status.map(|status| status.as_str()).unwrap_or_default(),
        "TCP": spec.tcp,
        "TLSSkipVerify": spec.tls_skip_verify,
        "TTL": time(spec.ttl),
        "Timeout": time(spec.timeout),
        "Token": HIDDEN,
    })
}

fn time(time: Duration) -> Value {
    duration::text(time).into()
}

/// A network as the original's language shows it: its first address, and the bytes of its mask.
fn network_shape(network: &Network) -> Value {
    let mask = |width: u32| u128::MAX.checked_shl(width - u32::from(network.prefix())).unwrap_or_default();
    let (first, mask): (IpAddr, Vec<u8>) = match network.base() {
        IpAddr::V4(base) => {
            // The mask of 32 bits is the end of the one of 128.
            let mask = mask(32) as u32;
            (Ipv4Addr::from_bits(base.to_bits() & mask).into(), mask.to_be_bytes().into())
        }
        IpAddr::V6(base) => (Ipv6Addr::from_bits(base.to_bits() & mask(128)).into(), mask(128).to_be_bytes().into()),
    };
    json!({"IP": first.to_string(), "Mask": BASE64_STANDARD.encode(mask)})
}

/// A map whose shape is somebody else's, with what may be secret hidden.
fn without_secret_members(map: &Map<String, Value>) -> Value {
    let mut shown = map.clone();
    secret::hide(&mut shown);
    Value::Object(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_shown_with_the_bytes_of_their_masks() {
        let shape = |text: &str| network_shape(&text.parse().unwrap());
        assert_eq!(shape("10.1.2.3/8"), json!({"IP": "10.0.0.0", "Mask": "/wAAAA=="}));
        assert_eq!(shape("192.168.1.0/27")["Mask"], "////4A==");
        assert_eq!(shape("0.0.0.0/0")["Mask"], "AAAAAA==");
        assert_eq!(shape("fd00::/7")["Mask"], "/gAAAAAAAAAAAAAAAAAAAA==");
    }
}
