//! The files and command lines of test kits and of usual deployments: all must load without a warning.

use super::*;

fn quiet(flags: &[&str], files: &[(&str, &str)]) -> Loaded {
    let loaded = load(flags, files).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(warnings(&loaded), [""; 0]);
    loaded
}

#[test]
fn the_go_test_kit() {
    let text = r#"{"node_name": "node-40E4", "node_id": "40E4A748-2192-161A-0510-9BF59FE950B5",
        "performance": {"raft_multiplier": 1}, "bootstrap": true, "server": true, "data_dir": "/tmp",
        "segments": null, "disable_update_check": true, "log_level": "debug", "bind_addr": "127.0.0.1", "addresses": {},
        "ports": {"dns": 18600, "http": 18500, "https": 18501, "serf_lan": 18301, "serf_wan": 18302, "server": 18300},
        "acl_enforce_version_8": false, "acl": {"tokens": {}},
        "connect": {"enabled": true, "ca_config": {"cluster_id": "11111111-2222-3333-4444-555555555555"},
                    "proxy": {"allow_managed_api_registration": true}}}"#;
    let loaded = quiet(&[], &[("a.json", text)]);
    assert_eq!(loaded.config.node.id.as_deref(), Some("40e4a748-2192-161a-0510-9bf59fe950b5"));
    assert_eq!(loaded.config.network.ports.https, Some(18501));
    assert!(loaded.config.mesh.allow_managed_api_registration);
}

#[test]
fn the_python_client() {
    let text = r#"{"ports": {"http": 18500, "serf_lan": 18301, "serf_wan": 18302, "server": 18300, "dns": -1},
        "performance": {"raft_multiplier": 1}, "enable_script_checks": true, "datacenter": "dc1",
        "primary_datacenter": "dc1", "acl": {"enabled": true, "default_policy": "deny",
        "enable_token_persistence": true, "tokens": {"master": "70ad9ac1-5f9c-4c17-9bf8-b3b8b7dd7d0f", "agent": null}}}"#;
    let key = r#"{"encrypt": "Oz5S8Yxt8QfbH2q7fNfQfN2RlgX3sUhYqVAb+M3tGXY="}"#;
    let loaded = quiet(&["-dev", "-bind=127.0.0.1"], &[("config.json", text), ("encrypt.json", key)]);
    assert!(loaded.config.acl.enabled && loaded.config.network.dns.is_empty());
    assert_eq!(loaded.config.acl.tokens.agent, "");
    assert!(loaded.config.checks.remote_scripts && loaded.config.checks.local_scripts);
}

#[test]
fn the_jvm_harnesses() {
    quiet(&["-dev", "-client", "0.0.0.0", "--enable-script-checks=true"], &[]);
    let flags = [
        "-data-dir=/tmp",
        "-dev",
        "-advertise=127.0.0.1",
        "-client=127.0.0.1",
        "-log-level=warn",
        "-http-port=1",
        "-dns-port=2",
        "-serf-lan-port=3",
        "-serf-wan-port=4",
        "-server-port=5",
        "-grpc-port=6",
    ];
    let text = r#"{"ports": {"http": 9}, "disable_update_check": true, "performance": {"raft_multiplier": 1}}"#;
    let loaded = quiet(&flags, &[("a.json", text)]);
    assert_eq!(loaded.config.network.ports.http, Some(1));
    assert_eq!(loaded.config.node.data_dir.as_deref(), Some(std::path::Path::new("/tmp")));
    assert_eq!(loaded.config.store.backend, Backend::Memory);
}

#[test]
fn the_scripts_of_other_languages() {
    quiet(&["-server", "-bootstrap", "-data-dir=/tmp", "-bind", "127.0.0.1"], &[]);
    quiet(&["-server", "-bootstrap", "-data-dir=/tmp", "-advertise", "127.0.0.1"], &[]);
    quiet(&["-dev", "-hcl", "acl { enabled = true default_policy = \"deny\" }"], &[]);
    let text = r#"{"enable_script_checks": true, "watches": [], "leave_on_terminate": true,
        "skip_leave_on_interrupt": true, "rejoin_after_leave": true}"#;
    quiet(&["-dev"], &[("a.json", text)]);
}

#[test]
fn files_written_by_hand() {
    let text = r#"
        server = true
        bootstrap_expect = 1
        ui = true
        datacenter = "dc1"
        data_dir = "/tmp"
        bind_addr = "0.0.0.0"
        client_addr = "0.0.0.0"
        node_name = "s1"
        log_level = "INFO"
        retry_join = ["10.0.0.1", "10.0.0.2"]
        encrypt = "Oz5S8Yxt8QfbH2q7fNfQfN2RlgX3sUhYqVAb+M3tGXY="
        enable_script_checks = true
        enable_syslog = false
        performance { raft_multiplier = 1 }
        telemetry { prometheus_retention_time = "24h" disable_hostname = true }
        acl_enforce_version_8 = false
        reconnect_timeout = "8h"
        translate_wan_addrs = false
        disable_remote_exec = false
        dns_config { allow_stale = false recursor_timeout = "1s" }
    "#;
    let loaded = quiet(&[], &[("a.hcl", text)]);
    assert!(loaded.notices.iter().any(|notice| notice.text.contains("retry_join")), "{:?}", loaded.notices);
    quiet(&["-dev"], &[("json.hcl", "{\"node_name\": \"n\", \"services\": [{\"name\": \"a\"}]}")]);
}

#[test]
fn empty_legacy_keys_give_the_one_warning_of_the_original() {
    let text = r#"{"acl_datacenter": "", "acl_master_token": "", "acl_default_policy": "", "acl_down_policy": "",
        "acl_token": "", "acl_agent_token": "", "encrypt": "", "primary_datacenter": "", "raft_protocol": 3}"#;
    let loaded = load(&["-dev"], &[("a.json", text)]).unwrap();
    assert_eq!(warnings(&loaded).len(), 1, "{:?}", loaded.notices);
    assert!(loaded.config.acl.enabled);
    assert_eq!(loaded.config.acl.default_policy, DefaultPolicy::Allow);
}

#[test]
fn the_kubernetes_chart() {
    let flags = [
        "-advertise=10.1.1.1",
        "-bind=0.0.0.0",
        "-bootstrap-expect=1",
        "-client=0.0.0.0",
        "-datacenter=dc1",
        "-data-dir=/tmp",
        "-domain=consul",
        "-hcl=connect { enabled = true }",
        "-ui",
        "-retry-join=a",
        "-retry-join=b",
        "-server",
        "-hcl=leave_on_terminate = true",
        "-hcl=ports { grpc = 8502 }",
        "-node=n",
        "-recursor=10.0.0.2",
    ];
    let loaded = quiet(&flags, &[]);
    assert!(loaded.config.mesh.enabled && loaded.config.lifecycle.leave_on_terminate);
    assert_eq!(loaded.config.network.ports.grpc, Some(8502));
    assert_eq!(loaded.config.dns.recursors, ["10.0.0.2:53"]);
}
