//! What an agent shows of itself: no name that scripts and dashboards read is missing.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up shall fail")]

mod common;

use std::process::Command;

use common::LICTOR;
use lictor_testkit::{House, until};
use serde_json::{Value, json};

/// Members of `DebugConfig`.
const CONFIGURATION: &str = "\
    ACLAgentMasterToken ACLAgentToken ACLDatacenter ACLDefaultPolicy ACLDisabledTTL ACLDownPolicy \
    ACLEnableKeyListPolicy ACLEnableTokenPersistence ACLEnforceVersion8 ACLMasterToken ACLPolicyTTL \
    ACLReplicationToken ACLToken ACLTokenReplication ACLTokenTTL ACLsEnabled AEInterval AdvertiseAddrLAN \
    AdvertiseAddrWAN AllowWriteHTTPFrom AutopilotCleanupDeadServers AutopilotDisableUpgradeMigration \
    AutopilotLastContactThreshold AutopilotMaxTrailingLogs AutopilotRedundancyZoneTag \
    AutopilotServerStabilizationTime AutopilotUpgradeVersionTag BindAddr Bootstrap BootstrapExpect \
    CAFile CAPath CertFile CheckDeregisterIntervalMin CheckReapInterval CheckUpdateInterval Checks \
    ClientAddrs ConnectCAConfig ConnectCAProvider ConnectEnabled ConnectProxyAllowManagedAPIRegistration \
    ConnectProxyAllowManagedRoot ConnectProxyBindMaxPort ConnectProxyBindMinPort \
    ConnectProxyDefaultConfig ConnectProxyDefaultDaemonCommand ConnectProxyDefaultExecMode \
    ConnectProxyDefaultScriptCommand ConnectSidecarMaxPort ConnectSidecarMinPort \
    ConnectTestCALeafRootChangeSpread ConnectTestDisableManagedProxies ConsulCoordinateUpdateBatchSize \
    ConsulCoordinateUpdateMaxBatches ConsulCoordinateUpdatePeriod ConsulRaftElectionTimeout \
    ConsulRaftHeartbeatTimeout ConsulRaftLeaderLeaseTimeout ConsulServerHealthInterval DNSARecordLimit \
    DNSAddrs DNSAllowStale DNSCacheMaxAge DNSDisableCompression DNSDomain DNSEnableTruncate DNSMaxStale \
    DNSNodeMetaTXT DNSNodeTTL DNSOnlyPassing DNSPort DNSRecursorTimeout DNSRecursors DNSSOA \
    DNSServiceTTL DNSUDPAnswerLimit DNSUseCache DataDir Datacenter DevMode DisableAnonymousSignature \
    DisableCoordinates DisableHTTPUnprintableCharFilter DisableHostNodeID DisableKeyringFile \
    DisableRemoteExec DisableUpdateCheck DiscardCheckOutput DiscoveryMaxStale EnableAgentTLSForChecks \
    EnableDebug EnableLocalScriptChecks EnableRemoteScriptChecks EnableSyslog EnableUI EncryptKey \
    EncryptVerifyIncoming EncryptVerifyOutgoing GRPCAddrs GRPCPort GossipLANGossipInterval \
    GossipLANGossipNodes GossipLANProbeInterval GossipLANProbeTimeout GossipLANRetransmitMult \
    GossipLANSuspicionMult GossipWANGossipInterval GossipWANGossipNodes GossipWANProbeInterval \
    GossipWANProbeTimeout GossipWANRetransmitMult GossipWANSuspicionMult HTTPAddrs HTTPBlockEndpoints \
    HTTPPort HTTPResponseHeaders HTTPSAddrs HTTPSPort KeyFile LeaveDrainTime LeaveOnTerm LogFile \
    LogLevel LogRotateBytes LogRotateDuration NodeID NodeMeta NodeName NonVotingServer PidFile \
    PrimaryDatacenter RPCAdvertiseAddr RPCBindAddr RPCHoldTimeout RPCMaxBurst RPCProtocol RPCRateLimit \
    RaftProtocol RaftSnapshotInterval RaftSnapshotThreshold ReconnectTimeoutLAN ReconnectTimeoutWAN \
    RejoinAfterLeave RetryJoinIntervalLAN RetryJoinIntervalWAN RetryJoinLAN RetryJoinMaxAttemptsLAN \
    RetryJoinMaxAttemptsWAN RetryJoinWAN Revision SegmentLimit SegmentName SegmentNameLimit Segments \
    SerfAdvertiseAddrLAN SerfAdvertiseAddrWAN SerfBindAddrLAN SerfBindAddrWAN SerfPortLAN SerfPortWAN \
    ServerMode ServerName ServerPort Services SessionTTLMin SkipLeaveOnInt StartJoinAddrsLAN \
    StartJoinAddrsWAN SyncCoordinateIntervalMin SyncCoordinateRateTarget SyslogFacility TLSCipherSuites \
    TLSMinVersion TLSPreferServerCipherSuites TaggedAddresses Telemetry TranslateWANAddrs UIDir \
    UnixSocketGroup UnixSocketMode UnixSocketUser VerifyIncoming VerifyIncomingHTTPS VerifyIncomingRPC \
    VerifyOutgoing VerifyServerHostname Version VersionPrerelease Watches";

/// Members of its `Telemetry`.
const TELEMETRY: &str = "\
    AllowedPrefixes BlockedPrefixes CirconusAPIApp CirconusAPIToken CirconusAPIURL CirconusBrokerID \
    CirconusBrokerSelectTag CirconusCheckDisplayName CirconusCheckForceMetricActivation CirconusCheckID \
    CirconusCheckInstanceID CirconusCheckSearchTag CirconusCheckTags CirconusSubmissionInterval \
    CirconusSubmissionURL DisableHostname DogstatsdAddr DogstatsdTags FilterDefault MetricsPrefix \
    PrometheusRetentionTime StatsdAddr StatsiteAddr";

/// Groups of `Stats` with their members.
const STATS: [(&str, &str); 7] = [
    ("agent", "check_monitors check_ttls checks services"),
    ("build", "prerelease revision version"),
    ("consul", "acl bootstrap known_datacenters leader leader_addr server"),
    (
        "raft",
        "applied_index commit_index fsm_pending last_contact last_log_index last_log_term last_snapshot_index \
         last_snapshot_term latest_configuration latest_configuration_index num_peers protocol_version \
         protocol_version_max protocol_version_min snapshot_version_max snapshot_version_min state term",
    ),
    ("runtime", "arch cpu_count goroutines max_procs os version"),
    ("serf_lan", SERF),
    ("serf_wan", SERF),
];
const SERF: &str = "coordinate_resets encrypted event_queue event_time failed health_score intent_queue left member_time \
                    members query_queue query_time";

const SECRET: &str = "8c1f2f4e-c9d1-4a39-9b8b-0f4a7f2f7a11";

#[test]
fn an_agent_shows_its_whole_configuration_without_its_secrets() {
    let house = House::start(
        LICTOR,
        json!({
            "acl": {"tokens": {"master": SECRET, "agent": SECRET}},
            "encrypt": "pUqJrVyVRj5jsiYEkM/tFQYfWyJIv4s3XkvDwy7Cu5s=",
            "bootstrap_expect": 1,
            "ports": {"serf_wan": 8302},
            "http_config": {"allow_write_http_from": ["127.0.0.0/8"]},
            "autopilot": {"max_trailing_logs": 7},
            "gossip_lan": {"probe_interval": "9s"},
            "ae_interval": "5s",
            "dns_config": {"service_ttl": {"web": "90s"}, "soa": {"retry": 5}},
            "retry_join": ["provider=aws tag_key=a secret_access_key=sesame"],
            "connect": {
                "ca_config": {"leaf_cert_ttl": "48h"},
                "proxy_defaults": {"config": {"db_password": "sesame", "deep": {"url": "redis://u:sesame@h"}, "plain": 1}},
            },
            "services": [{"name": "web", "port": 80, "token": SECRET, "check": {"ttl": "10s", "token": SECRET}}],
            "checks": [
                {"name": "disk", "ttl": "1m"},
                {"name": "page", "interval": "1h", "http": "http://u:sesame@127.0.0.1:1/x?api_key=sesame",
                    "header": {"Authorization": ["Basic sesame"]}},
            ],
            "watches": [
                {"type": "key", "key": "k", "token": SECRET, "args": ["/bin/true"]},
                {"type": "key", "key": "l", "handler_type": "http", "http_handler_config": {
                    "path": "http://u:sesame@127.0.0.1:1/", "header": {"X-Token": ["sesame"]}}},
            ],
        }),
    );
    let shown = house.get("/v1/agent/self").text();
    assert!(!shown.contains(SECRET) && !shown.contains("sesame") && !shown.contains("pUqJ"), "{shown}");
    let whole: Value = serde_json::from_str(&shown).unwrap();
    let shown = &whole["DebugConfig"];
    let missing = |of: &Value, names: &str| -> Vec<String> {
        names.split_whitespace().filter(|name| of.get(name).is_none()).map(str::to_owned).collect()
    };
    assert_eq!(missing(shown, CONFIGURATION), Vec::<String>::new());
    let page = shown["Checks"].as_array().unwrap().iter().find(|check| check["Name"] == "page").unwrap();
    assert_eq!(page["HTTP"], "http://hidden@127.0.0.1:1/x?api_key=hidden");
    assert_eq!(page["Header"], json!({"Authorization": ["hidden"]}));
    assert_eq!(shown["Watches"][1]["http_handler_config"]["path"], "http://hidden@127.0.0.1:1/");
    let defaults = json!({"db_password": "hidden", "deep": {"url": "redis://hidden@h"}, "plain": 1});
    assert_eq!(shown["ConnectProxyDefaultConfig"], defaults);
    assert_eq!(missing(&shown["Telemetry"], TELEMETRY), Vec::<String>::new());
    let expected = json!({
        "ACLMasterToken": "hidden", "EncryptKey": "hidden", "KeyFile": "hidden", "AEInterval": "1m0s",
        "AllowWriteHTTPFrom": [{"IP": "127.0.0.0", "Mask": "/wAAAA=="}], "AutopilotMaxTrailingLogs": 7,
        "AutopilotLastContactThreshold": "200ms", "Bootstrap": true, "BootstrapExpect": 0, "DNSMaxStale": "87600h0m0s",
        "DNSServiceTTL": {"web": "1m30s"}, "GossipLANProbeInterval": "9s", "GossipWANProbeInterval": "5s",
        "DNSSOA": {"Expire": 86400, "Minttl": 0, "Refresh": 3600, "Retry": 5}, "RPCRateLimit": -1, "RaftProtocol": 0,
        "RetryJoinLAN": ["provider=aws tag_key=hidden secret_access_key=hidden"], "Segments": [], "StartJoinAddrsWAN": [],
        "SerfBindAddrWAN": "tcp://127.0.0.1:8302", "TaggedAddresses": {"lan": "127.0.0.1", "wan": "127.0.0.1"},
        "ConnectCAProvider": "", "LogFile": "", "ConsulRaftElectionTimeout": "1s", "UnixSocketMode": "",
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(shown[name], *value, "{name}");
    }
    assert_eq!(shown["Services"][0]["Checks"][0]["TTL"], "10s", "{}", shown["Services"]);
    assert_eq!((&shown["Checks"][0]["Name"], &shown["Watches"][0]["key"]), (&json!("disk"), &json!("k")));
}

#[test]
fn the_figures_of_an_agent_have_the_names_of_the_original() {
    let house = House::start(LICTOR, json!({"checks": [{"name": "disk", "ttl": "1m"}]}));
    let stats = || house.get("/v1/agent/self").json()["Stats"].clone();
    let first = stats();
    for (group, names) in STATS {
        for name in names.split_whitespace() {
            assert!(first[group][name].is_string(), "{group}.{name}: {}", first[group]);
        }
    }
    assert_eq!((&first["agent"]["check_ttls"], &first["agent"]["check_monitors"]), (&json!("1"), &json!("0")));
    assert_eq!((&first["raft"]["state"], &first["raft"]["num_peers"]), (&json!("Leader"), &json!("0")));
    // Indexes are those of the state, and the time of events moves with them.
    assert_eq!(house.put("/v1/kv/k", json!("v")).status, 200);
    let index = |stats: &Value| stats["raft"]["commit_index"].as_str().unwrap().parse::<u64>().unwrap();
    assert!(index(&stats()) > index(&first));
    assert_eq!(house.put("/v1/event/fire/deploy", json!(null)).status, 200);
    until("the event is counted", || stats()["serf_lan"]["event_time"] != first["serf_lan"]["event_time"]);
    let output =
        Command::new(LICTOR).args(["info", &format!("-http-addr=127.0.0.1:{}", house.http_port)]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    // Whatever names a term names the same one.
    let health = house.get("/v1/operator/autopilot/health").json();
    assert_eq!(health["Servers"][0]["LastTerm"].to_string(), first["raft"]["term"].as_str().unwrap());
    for line in ["raft:\n", "\tstate = Leader\n", "serf_lan:\n", "\tmembers = 1\n", "serf_wan:\n"] {
        assert!(text.contains(line), "{line:?} is missing: {text}");
    }
}
