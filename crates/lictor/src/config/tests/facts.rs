//! The facts about configuration that clients and harnesses rely on.

use super::*;

/// A file with every key set to its default, or to something as empty.
fn every_key_at_its_default() -> String {
    let mut root = serde_json::Map::new();
    for key in KEYS.iter().filter(|key| !key.path.starts_with("store.")) {
        let default = key.default;
        let value = match key.kind {
            Kind::Flag | Kind::Switch => serde_json::json!(default == "true"),
            Kind::Int | Kind::Unsigned => serde_json::json!(default.parse::<i64>().unwrap_or_default()),
            Kind::Float => serde_json::json!(default.parse::<f64>().unwrap()),
            Kind::Text | Kind::Secret => serde_json::json!(default),
            Kind::Duration => serde_json::json!(if default.is_empty() { "0s" } else { default }),
            Kind::TextMap | Kind::DurationMap | Kind::Opaque => serde_json::json!({}),
            Kind::Service => serde_json::json!({"name": "a", "port": 1}),
            Kind::Check => serde_json::json!({"name": "c", "ttl": "10s"}),
            Kind::Texts | Kind::Objects | Kind::Services | Kind::Checks | Kind::Watches => serde_json::json!([]),
        };
        let mut place = &mut root;
        let mut parts: Vec<&str> = key.path.split('.').collect();
        let leaf = parts.pop().unwrap();
        for part in parts {
            let inner = place.entry(part).or_insert_with(|| serde_json::json!({}));
            place = inner.as_object_mut().unwrap();
        }
        place.insert(leaf.to_owned(), value);
    }
    root.insert("data_dir".into(), "/tmp".into());
    root.insert("enable_local_script_checks".into(), false.into());
    root.insert("node_name".into(), "n".into());
    serde_json::to_string(&root).unwrap()
}

#[test]
fn fact_1_every_key_at_its_default_loads_with_one_warning_only() {
    let loaded = load(&[], &[("all.json", &every_key_at_its_default())]).unwrap();
    assert_eq!(
        warnings(&loaded),
        ["The 'acl_datacenter' field is deprecated. Use the 'primary_datacenter' field instead."]
    );
    assert_eq!(notices(&loaded, Weight::Info), [""; 0]);
}

#[test]
fn fact_2_null_and_an_empty_list_count_as_not_set() {
    let text = r#"{"segments":null,"ports":null,"acl":null,"node_meta":null,"server":null,"services":null,
                   "watches":null,"data_dir":"/tmp"}"#;
    load(&[], &[("a.json", text)]).unwrap();
    assert_eq!(dev_json(r#"{"ports": []}"#).config.network.ports.http, Some(8500));
}

#[test]
fn fact_3_case_does_not_count_but_underscores_do() {
    assert_eq!(dev_json(r#"{"Ports":{"HTTP":1}}"#).config.network.ports.http, Some(1));
    assert_eq!(dev_json(r#"{"Dns_Config":{"Node_TTL":"5s"}}"#).config.dns.node_ttl, Duration::from_secs(5));
    assert_eq!(texts(&json_problems(r#"{"NodeName": "x"}"#)), ["invalid config key NodeName"]);
    assert_eq!(texts(&json_problems(r#"{"server": true, "SERVER": true}"#)), ["invalid config key SERVER"]);
}

#[test]
fn fact_4_an_object_twice_is_an_error_and_blocks_of_a_list_add_up() {
    let errors = problems("ports {}\nports {}");
    assert!(texts(&errors)[0].starts_with("ports: given twice in "), "{errors}");
    let watch = "watches { type = \"nodes\" args = [\"x\"] }\n";
    assert_eq!(dev_hcl(watch).watches.len(), 1);
    assert_eq!(dev_hcl(&watch.repeat(2)).watches.len(), 2);
    let checks = "checks { name = \"a\" ttl = \"1s\" }\nchecks { name = \"b\" ttl = \"1s\" }";
    assert_eq!(dev_hcl(checks).checks.len(), 2);
}

#[test]
fn fact_5_json_wants_arrays_for_lists_and_accepts_one_object_in_an_array() {
    for key in ["watches", "services", "checks"] {
        let errors = json_problems(&format!("{{\"{key}\": {{}}}}"));
        assert_eq!(texts(&errors), [format!("'{key}': source data must be an array or slice, got map")]);
    }
    assert!(json_problems(r#"{"segments": {}}"#).headline().contains("segments"));
    assert_eq!(dev_json(r#"{"ports": [{"http": 1}]}"#).config.network.ports.http, Some(1));
}

#[test]
fn fact_6_lists_of_flags_come_first_and_fragments_last() {
    let loaded = load(
        &["-dev", "-retry-join", "a", "-hcl", "retry_join=[\"d\"]"],
        &[("1.hcl", "retry_join=[\"b\"]"), ("2.json", r#"{"retry_join":["c"]}"#)],
    )
    .unwrap();
    assert_eq!(loaded.settings.texts("retry_join"), ["a", "b", "c", "d"]);
    let loaded = load(
        &["-dev", "-allow-write-http-from", "10.0.0.0/8"],
        &[("1.hcl", "http_config { allow_write_http_from = [\"127.0.0.0/8\"] }")],
    )
    .unwrap();
    assert_eq!(loaded.settings.texts("http_config.allow_write_http_from"), ["127.0.0.0/8", "10.0.0.0/8"]);
}

#[test]
fn fact_7_node_meta_flags_beat_files_and_fragments_beat_flags() {
    let loaded = load(
        &["-dev", "-node-meta", "a:flag:x", "-node-meta", "c", "-hcl", "node_meta { b = \"frag\" }"],
        &[("1.hcl", "node_meta { a = \"file\" b = \"file\" }")],
    )
    .unwrap();
    let meta: Vec<(&str, &str)> = loaded.config.node.meta.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(meta, [("a", "flag:x"), ("b", "frag"), ("c", "")]);
    // Managed proxies, fact 1.4: a flag beats a file, a fragment both.
    let port = |arguments: &[&str]| {
        let loaded = load(&[&["-dev"], arguments].concat(), &[("1.hcl", "ports { http = 3 }")]).unwrap();
        loaded.config.network.http.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(port(&[]), ["127.0.0.1:3"]);
    assert_eq!(port(&["-http-port", "2"]), ["127.0.0.1:2"]);
    assert_eq!(port(&["-http-port", "2", "-hcl", "ports { http = 1 }"]), ["127.0.0.1:1"]);
}

#[test]
fn fact_8_recursors_are_used_once_and_must_be_somewhere() {
    let loaded = dev_hcl("recursors = [\"8.8.8.8\", \"1.1.1.1:54\", \"8.8.8.8:53\", \"::1\"]");
    assert_eq!(loaded.config.dns.recursors, ["8.8.8.8:53", "1.1.1.1:54", "[::1]:53"]);
    let errors = problems("recursors = [\"0.0.0.0\", \"unix://x\", \"8.8.8.8:port\", \"1.1.1.1:70000\"]");
    assert_eq!(
        texts(&errors),
        [
            "DNS recursor address cannot be 0.0.0.0, :: or [::]",
            "DNS Recursors cannot be unix sockets: unix://x",
            "Invalid recursor address: \"8.8.8.8:port\" is no ip or ip:port",
            "Invalid recursor address: \"1.1.1.1:70000\" is no ip or ip:port",
        ]
    );
}

#[test]
fn fact_9_templates_give_no_address_or_several() {
    let errors = problems("bind_addr = \"{{ GetInterfaceIP \\\"nope0\\\" }}\"");
    assert_eq!(texts(&errors), ["bind_addr cannot be empty"]);
    let loaded = dev_hcl("client_addr = \"127.0.0.1 {{ GetPrivateIPs }}\"");
    let listeners: Vec<String> = loaded.config.network.http.iter().map(ToString::to_string).collect();
    assert_eq!(listeners, ["127.0.0.1:8500", "192.168.1.5:8500"]);
    assert_eq!(loaded.config.network.dns.len(), 2);
    let errors = problems("bind_addr = \"{{ GetBogus }}\"");
    assert!(texts(&errors)[0].starts_with("bind_addr: error parsing \"{{ GetBogus }}\": function \"GetBogus\""));
}

#[test]
fn fact_10_host_names_and_sockets_are_no_addresses() {
    assert_eq!(texts(&problems("advertise_addr = \"localhost\"")), ["advertise_addr: invalid ip address: localhost"]);
    assert_eq!(texts(&problems("bind_addr = \"unix:///x\"")), ["bind_addr cannot be a unix socket"]);
    assert_eq!(texts(&problems("client_addr = \"localhost\"")), ["client_addr: invalid ip address: localhost"]);
    assert_eq!(
        texts(&problems("bind_addr = \"1.2.3.4 1.2.3.5\"")),
        ["bind_addr: multiple addresses found: 1.2.3.4 1.2.3.5"]
    );
    assert_eq!(texts(&problems("client_addr = \"[::1]\"")), ["client_addr: invalid ip address: [::1]"]);
}

#[test]
fn fact_11_tuning_without_effect_keeps_its_range() {
    assert_eq!(
        texts(&problems("performance { raft_multiplier = 11 } raft_protocol = 9 protocol = 9")),
        [
            "performance.raft_multiplier cannot be 11. Must be between 1 and 10",
            "Protocol version '9' too high. Must be in range: [2, 3]",
            "Protocol version 9 must be >= 1 and <= 3",
        ]
    );
    dev_hcl("performance { raft_multiplier = 0 }");
}

#[test]
fn fact_12_the_gossip_key_is_checked_and_without_effect() {
    assert!(texts(&problems("encrypt = \"!!!!\""))[0].starts_with("encrypt has invalid key: illegal base64 data"));
    assert!(texts(&problems("encrypt = \"aaaa\""))[0].ends_with("key size must be 16, 24 or 32 bytes"));
    let key = "pUqJrVyVRj5jsiYEkM/tFQYfWyJIv4s3XkvDwy7Cu5s=";
    let loaded = dev_hcl(&format!("encrypt = \"{key}\""));
    let lines = notices(&loaded, Weight::Info);
    assert_eq!(
        lines,
        ["config: no effect here: encrypt (there is no gossip: servers find each other in the store they share)"]
    );
    assert_eq!(notices(&dev_hcl("encrypt = \"\""), Weight::Info), [""; 0]);
}

#[test]
fn fact_13_policies_are_exact_and_the_old_key_turns_acls_on() {
    assert_eq!(texts(&problems("acl { default_policy = \"DENY\" }")), ["Unsupported default ACL policy: DENY"]);
    assert_eq!(dev_hcl("acl_default_policy = \"\"").config.acl.default_policy, DefaultPolicy::Allow);
    assert!(!dev_hcl("").config.acl.enabled);
    let loaded = dev_hcl("acl_datacenter = \"\"");
    assert!(loaded.config.acl.enabled);
    assert_eq!(warnings(&loaded).len(), 1);
    assert!(!dev_hcl("acl_datacenter = \"dc1\" acl { enabled = false }").config.acl.enabled);
}

#[test]
fn fact_14_a_documented_spelling_works_with_a_warning() {
    for value in ["\"enabled\"", "true"] {
        let loaded = dev_hcl(&format!("acl {{ enable_key_list = {value} }}"));
        assert!(loaded.config.acl.enable_key_list_policy);
        let warning = "config: deprecated keys: acl.enable_key_list (now acl.enable_key_list_policy)";
        assert_eq!(warnings(&loaded), [warning]);
    }
    assert_eq!(problems("acl { enable_key_list = \"yes\" }").problems().len(), 1);
}

#[test]
fn fact_15_metric_filters_without_a_sign_are_skipped_with_a_warning() {
    let loaded = dev_hcl("telemetry { prefix_filter = [\"\", \"foo\", \"+a\", \"-b\"] }");
    assert_eq!(
        warnings(&loaded),
        ["Cannot have empty filter rule in prefix_filter", "Filter rule must begin with either '+' or '-': \"foo\"",]
    );
    let telemetry = &loaded.config.telemetry;
    assert_eq!(
        (&telemetry.allowed_prefixes[..], &telemetry.blocked_prefixes[..]),
        (&["a".into()][..], &["b".into()][..])
    );
}

#[test]
fn fact_16_a_short_leaf_lifetime_is_refused_with_and_without_a_provider() {
    for text in [
        "connect { ca_provider = \"consul\" ca_config { leaf_cert_ttl = \"5m\" } }",
        "connect { ca_config { LeafCertTTL = \"5m\" } }",
    ] {
        assert_eq!(texts(&problems(text)), ["leaf cert TTL must be greater than 1h"]);
    }
    assert_eq!(
        texts(&problems("connect { ca_config { leaf_cert_ttl = \"9000h\" root_cert = \"x\" } }")),
        ["leaf cert TTL must be less than 1 year", "must provide a private key when providing a root cert"]
    );
    assert_eq!(texts(&problems("connect { ca_provider = \"aws\" }")), ["aws is not a valid CA provider"]);
}

#[test]
fn fact_17_a_page_of_ones_own_is_accepted_in_dev_mode() {
    let loaded = load(&["-dev", "-ui-dir", "/srv/page"], &[]).unwrap();
    assert!(!loaded.notices.iter().any(|notice| notice.text.contains("ui_dir")), "{:?}", loaded.notices);
    assert_eq!((loaded.config.http.ui, loaded.config.http.page), (false, Some("/srv/page".into())));
    let errors = load(&["-dev", "-ui", "-ui-dir", "/srv/page"], &[]).unwrap_err();
    assert!(errors.headline().starts_with("Both the ui and ui-dir flags were specified"));
}

#[test]
fn fact_18_gossip_and_server_ports_may_be_off() {
    let loaded = dev_hcl("server = true ports { serf_lan = -1 server = -1 }");
    assert_eq!((loaded.config.network.ports.serf_lan, loaded.config.network.ports.server), (None, None));
}

#[test]
fn fact_19_constants_are_accepted_without_effect() {
    let loaded = dev_hcl("ae_interval = \"5s\" version = \"9\"");
    assert_eq!(
        notices(&loaded, Weight::Info),
        ["config: no effect here: ae_interval, version (a constant that cannot be changed)"]
    );
}

#[test]
fn fact_22_a_reload_reads_the_same_sources_again_and_names_what_needs_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.hcl");
    let sources = Sources { dev: true, ..Sources::from_paths([directory.path().to_owned()], None) };
    fs::write(&file, "node_meta { a = \"1\" }").unwrap();
    let first = load_on(&machine(), &sources, Purpose::Run).unwrap();
    fs::write(&file, "node_meta { a = \"2\" } ports { http = 7 } log_level = \"warn\"").unwrap();
    let second = load_on(&machine(), &sources, Purpose::Run).unwrap();
    assert_eq!(second.config.node.meta["a"], "2");
    assert_eq!(first.settings.needing_restart(&second.settings), ["ports.http"]);
    fs::write(&file, "node_meta {").unwrap();
    assert!(load_on(&machine(), &sources, Purpose::Run).is_err());
}

#[test]
fn fact_23_no_variable_configures_the_agent() {
    // `load` takes the machine's name and interfaces as arguments and has no other way to learn of its surroundings.
    assert_eq!(dev_hcl("").config.node.datacenter, "dc1");
}

#[test]
fn fact_24_a_client_asks_servers_at_their_port_instead_of_the_one_of_gossip() {
    let text = "data_dir = \"/tmp\" retry_max = 1 retry_join = [\"10.0.0.5:8301\", \"10.0.0.6\", \"srv:9\", \"[::1]:8301\", \
                \"10.0.0.6\"]";
    let loaded = load(&[], &[("a.hcl", text)]).unwrap();
    assert_eq!(loaded.config.servers.retry_join, ["10.0.0.5:8300", "10.0.0.6:8300", "srv:9", "[::1]:8300"]);
    assert_eq!(loaded.config.servers.retry_max, Some(1));
    assert_eq!(notices(&loaded, Weight::Info).len(), 1, "{:?}", loaded.notices);
    let loaded = dev_hcl("retry_join = [\"10.0.0.5\"]");
    assert!(notices(&loaded, Weight::Info)[0].starts_with("config: no effect here: retry_join"));
}

#[test]
fn fact_25_several_servers_need_one_store() {
    let servers = ("a.hcl", "server = true data_dir = \"/tmp\" bootstrap_expect = 3");
    let errors = load(&[], &[servers]).unwrap_err();
    assert_eq!(errors.problems()[0].remedy, "set store.backend = etcd, or bootstrap_expect = 1");
    let store = ("b.hcl", "store { backend = \"etcd\" endpoints = [\"http://127.0.0.1:2379\"] }");
    let loaded = load(&[], &[servers, store]).unwrap();
    assert_eq!(loaded.config.store.backend, Backend::Etcd);
    let loaded = load_for(Purpose::Validate, &[], &[servers]).unwrap();
    assert_eq!(warnings(&loaded).len(), 1);
}

#[test]
fn fact_26_flags_that_were_only_documented_are_accepted() {
    let loaded = load(&["-dev", "-raft-snapshot-threshold", "5"], &[]).unwrap();
    assert_eq!(
        notices(&loaded, Weight::Info),
        ["config: no effect here: raft_snapshot_threshold (consensus is the store's work)"]
    );
}

#[test]
fn dev_mode_has_its_own_defaults_which_anything_overrides() {
    let AgentConfig { node, network, mesh, http, log, store, .. } = load(&["-dev"], &[]).unwrap().config;
    assert_eq!((node.role, node.data_dir, node.name.as_str()), (Role::Server, None, "host-1"));
    assert_eq!((network.bind, network.advertise), (ip("127.0.0.1"), ip("127.0.0.1")));
    assert_eq!(network.ports.grpc, Some(8502));
    assert!(mesh.enabled && http.ui && http.enable_debug);
    assert_eq!((log.level, store.backend), (Level::Debug, Backend::Memory));
    let loaded = load(
        &["-dev", "-server=false", "-hcl", "connect { enabled = false } ports { http = 1 }", "-http-port", "2"],
        &[("a.hcl", "log_level = \"warn\" bind_addr = \"127.0.0.2\" ports { grpc = -1 }")],
    )
    .unwrap();
    let config = &loaded.config;
    assert_eq!((config.node.role, config.mesh.enabled), (Role::Client, false));
    assert_eq!((config.network.ports.http, config.network.ports.grpc), (Some(1), None));
    assert_eq!((config.log.level, config.log.level_text.as_str()), (Level::Warn, "warn"));
    assert_eq!(config.network.bind, ip("127.0.0.2"));
}

#[test]
fn the_built_in_values_are_those_of_the_original() {
    let AgentConfig { network, store, lifecycle, dns, checks, node, acl, .. } =
        load(&["-data-dir", "/tmp"], &[]).unwrap().config;
    assert_eq!((network.bind, network.advertise), (ip("0.0.0.0"), ip("192.168.1.5")));
    assert_eq!(network.proxy_ports, Some(20_000..=20_255));
    assert_eq!(network.sidecar_ports, Some(21_000..=21_255));
    assert_eq!((network.ports.http, network.ports.https, network.ports.dns), (Some(8500), None, Some(8600)));
    assert_eq!((store.backend, node.role), (Backend::Redb, Role::Client));
    assert!(lifecycle.leave_on_terminate && !lifecycle.skip_leave_on_interrupt);
    assert_eq!(dns.soa, check::dns::Soa { refresh: 3600, retry: 600, expire: 86_400, min_ttl: 0 });
    assert_eq!(checks.update_interval, Duration::from_secs(300));
    assert_eq!((acl.enabled, acl.token_ttl), (false, Duration::from_secs(30)));
}

#[test]
fn services_of_many_files_add_up_and_know_their_place() {
    let loaded = load(
        &["-dev"],
        &[
            ("a.hcl", "\n\nservice {\n name = \"a\" port = 1 connect { proxy {} } }"),
            ("b.json", r#"{"service": {"name": "b", "port": 2}}"#),
            ("c.hcl", "services { name = \"c\" }\nservices { name = \"d\" }"),
            ("d.txt", "not read"),
        ],
    )
    .unwrap();
    let names: Vec<&str> = loaded.services.iter().map(|declared| declared.value.service.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c", "d"]);
    assert!(loaded.services[0].origin.to_string().ends_with("a.hcl:3"), "{}", loaded.services[0].origin);
    assert!(loaded.services[3].origin.to_string().ends_with("c.hcl:2"), "{}", loaded.services[3].origin);
    assert_eq!(loaded.services[3].path, "services[1]");
}

#[test]
fn proxy_defaults_have_two_names_for_the_command() {
    let defaults =
        |text: &str| dev_hcl(&format!("connect {{ proxy_defaults {{ {text} }} }}")).config.mesh.proxy_defaults;
    assert_eq!(defaults("daemon_command = [\"/x\"]").daemon_command, ["/x"]);
    assert_eq!(defaults("command = [\"/x\", \"y\"]").daemon_command, ["/x", "y"]);
    assert_eq!(defaults("command = [\"/x\"] daemon_command = [\"/x\"]").daemon_command, ["/x"]);
    let both = problems("connect { proxy_defaults { command = [\"/x\"] daemon_command = [\"/y\"] } }");
    assert_eq!(both.problems().len(), 1);
    let loaded = defaults("env { A = \"b\" } pass_env = [\"HOME\"] config { x { y = 1 } }");
    assert_eq!((loaded.env["A"].as_str(), &loaded.pass_env[..]), ("b", &["HOME".to_owned()][..]));
    assert_eq!(loaded.config["x"]["y"], 1);
}

#[test]
fn an_soa_is_replaced_as_a_whole_by_a_later_source() {
    let loaded = load(
        &["-dev"],
        &[
            ("a.hcl", "dns_config { soa { retry = 1 expire = 2 } node_ttl = \"1s\" }"),
            ("b.hcl", "dns_config { soa { min_ttl = 3 } }"),
        ],
    )
    .unwrap();
    let soa = loaded.config.dns.soa;
    assert_eq!((soa.retry, soa.expire, soa.min_ttl), (600, 86_400, 3));
    assert_eq!(loaded.config.dns.node_ttl, Duration::from_secs(1));
}

#[test]
fn both_ends_of_a_port_range_at_zero_turn_it_off() {
    let range = |text: &str| -> Option<RangeInclusive<u16>> { dev_hcl(text).config.network.proxy_ports };
    assert_eq!(range("ports { proxy_min_port = 0 proxy_max_port = 0 }"), None);
    assert_eq!(range("ports { proxy_min_port = 7 proxy_max_port = 7 }"), Some(7..=7));
}

#[test]
fn old_names_lose_against_new_ones_whatever_their_order() {
    let loaded = load(
        &["-dev"],
        &[
            ("a.hcl", "acl { tokens { default = \"new\" } }"),
            ("b.hcl", "acl_token = \"old\" acl_agent_token = \"agent\""),
        ],
    )
    .unwrap();
    let tokens = &loaded.config.acl.tokens;
    assert_eq!((tokens.default.as_str(), tokens.agent.as_str()), ("new", "agent"));
    assert_eq!(
        warnings(&loaded),
        ["config: deprecated keys: acl_token (now acl.tokens.default), acl_agent_token (now acl.tokens.agent)"]
    );
}

#[test]
fn keys_without_effect_give_one_line_for_each_reason() {
    let loaded = dev_hcl(
        "raft_protocol = 3 performance { raft_multiplier = 2 } gossip_lan { gossip_nodes = 9 } disable_update_check = true",
    );
    assert_eq!(
        notices(&loaded, Weight::Info),
        [
            "config: no effect here: gossip_lan.gossip_nodes (there is no gossip: servers find each other in the store they share)",
            "config: no effect here: performance.raft_multiplier, raft_protocol (consensus is the store's work)",
            "config: no effect here: disable_update_check (lictor never calls home)",
        ]
    );
    // Every key has something become of it, so a new one cannot be forgotten here.
    assert!(KEYS.iter().any(|key| key.disposition == Disposition::Honoured));
}

#[test]
fn what_is_loaded_can_be_shown_without_its_secrets() {
    let text = "acl { tokens { master = \"s3cret\" } } connect { ca_config { private_key = \"s3cret\" } }
        service { name = \"w\" token = \"s3cret\" } encrypt = \"czNjcmV0czNjcmV0czNjcg==\"";
    let loaded = dev_hcl(text);
    let shown = format!("{loaded:?} {:?}", loaded.settings);
    assert!(!shown.contains("s3cret") && !shown.contains("czNjcmV0"), "{shown}");
}

#[test]
fn the_own_address_among_those_of_the_servers_is_left_out() {
    let text = "data_dir = \"/tmp\" bind_addr = \"10.0.0.5\" retry_join = [\"10.0.0.5\", \"10.0.0.6\"]";
    assert_eq!(load(&[], &[("a.hcl", text)]).unwrap().config.servers.retry_join, ["10.0.0.6:8300"]);
}

#[test]
fn services_nobody_can_use_load_with_a_warning() {
    let loaded = dev_hcl("service { name = \"w\" port = 70000 address = \"0.0.0.0\" }");
    assert_eq!(warnings(&loaded).len(), 2, "{:?}", loaded.notices);
}

#[test]
fn cloud_discovery_is_named_without_its_secrets() {
    let text = "data_dir = \"/tmp\" retry_join = [\"provider=aws secret_access_key=abc tag_key=x\"]";
    let errors = load(&[], &[("a.hcl", text)]).unwrap_err();
    assert!(texts(&errors)[0].contains("secret_access_key=hidden"), "{errors}");
    assert!(!errors.to_string().contains("abc"));
}
