//! Bad input: every problem of every source at once, each with its file, its key and a remedy.

use super::*;

#[test]
fn all_problems_of_all_sources_come_in_one_run() {
    let errors = load(
        &["-http-port", "70000", "-hcl", "retry_interval = \"5\""],
        &[
            ("a.hcl", "server = yes"),
            ("b.hcl", "ports { htp = 1 }\nservice { name = \"w\" port = \"80\" }"),
            ("c.json", "{\"bogus\": 1,\n \"connect\": {\"proxy_defaults\": {\"exec_mode\": \"x\"}}}"),
        ],
    )
    .unwrap_err();
    let all: Vec<(String, &str)> = errors
        .problems()
        .iter()
        .map(|problem| (problem.origin.to_string().rsplit('/').next().unwrap().to_owned(), problem.key.as_str()))
        .collect();
    let expected = [
        ("a.hcl:1", "column 10"),
        ("b.hcl:2", "service.port"),
        ("b.hcl:1", "ports.htp"),
        ("c.json:1", "bogus"),
        ("-http-port", "ports.http"),
        ("flags-0.hcl:1", "retry_interval"),
        ("c.json:2", "connect.proxy_defaults.exec_mode"),
    ];
    assert_eq!(all, expected.map(|(place, key)| (place.to_owned(), key)), "{errors}");
    assert!(errors.problems().iter().all(|problem| !problem.remedy.is_empty()));
    assert!(errors.headline().ends_with("a.hcl: At 1:10: unknown word yes; text needs quotes: \"yes\""), "{errors}");
    let text = errors.to_string();
    assert!(text.contains("7 problems to solve:"), "{text}");
    assert!(text.contains("remedy: did you mean ports.http?"), "{text}");
}

#[test]
fn the_first_line_is_the_one_of_the_original() {
    let first = |errors: ConfigErrors| errors.headline();
    assert_eq!(first(load(&[], &[]).unwrap_err()), "data_dir cannot be empty");
    let unknown = first(problems("service { connect { proxy { bogus = 1 } } name = \"w\" port = 1 }"));
    assert!(unknown.starts_with("Error parsing /"), "{unknown}");
    assert!(unknown.ends_with("a.hcl: 1 error(s) occurred:\n\n* invalid config key service.connect.proxy.bogus"));
    let wrong = first(json_problems(r#"{"ports": {"http": "80"}}"#));
    assert!(wrong.ends_with(
        "a.json: 1 error(s) decoding:\n\n* 'ports.http' expected type 'int', got unconvertible type 'string'"
    ));
    assert_eq!(
        first(problems("ports { proxy_min_port = 10 proxy_max_port = 5 }")),
        "proxy_min_port must be less than proxy_max_port. To disable, set both to zero."
    );
    assert_eq!(
        first(problems("ports { sidecar_min_port = 10 sidecar_max_port = 5 }")),
        "sidecar_min_port must be less than sidecar_max_port. To disable, set both to zero."
    );
    assert_eq!(first(problems("ports { dns = 70000 }")), "ports.dns: invalid port: 70000");
    assert_eq!(first(problems("datacenter = \"a.b\"")), "datacenter cannot be \"a.b\". Please use only [a-z0-9-_].");
    assert_eq!(first(problems("node_name = \" \"")), "node_name cannot be empty");
    assert_eq!(
        first(problems("log_level = \"BOGUS\"")),
        "Invalid log level: BOGUS. Valid log levels are: [TRACE DEBUG INFO WARN ERR]"
    );
    assert_eq!(first(problems("ports { dns = 8500 }")), "HTTP address 127.0.0.1:8500 already configured for DNS");
    assert_eq!(
        first(problems("check { id = \"a\" name = \"a\" ttl = \"zz\" }")),
        "check[a].ttl: invalid duration: \"zz\": time: invalid duration \"zz\""
    );
    assert_eq!(
        first(problems("dns_config { service_ttl { web = \"5\" } }")),
        "dns_config.service_ttl[\"web\"]: invalid duration: \"5\": time: missing unit in duration \"5\""
    );
    assert_eq!(first(load(&["-dev", "extra"], &[]).unwrap_err()), "config: Unknown extra arguments: [extra]");
    assert_eq!(
        first(load(&["-dev", "-config-format", "xml"], &[]).unwrap_err()),
        "config: -config-format must be either 'hcl' or 'json'"
    );
    assert_eq!(
        first(problems("node_meta { consul-x = \"a\" }")),
        "node_meta invalid: Couldn't load metadata pair ('consul-x', 'a'): Key prefix 'consul-' is reserved for internal use"
    );
    let long = "a".repeat(64);
    let refused = first(problems(&format!("domain = \"{long}\"")));
    assert_eq!(refused, format!("domain {long:?} is not a usable DNS name"));
    assert!(
        !problems(&format!("domain = \"{long}\" ports {{ dns = -1 }} segment = \"a\"")).to_string().contains("domain")
    );
    assert_eq!(first(problems("segment = \"a\"")), "Network segments are not supported in this version of Consul");
    assert_eq!(first(problems("node_id = \"x\"")), "Failed to setup node ID: uuid string is wrong length");
    assert_eq!(first(problems("server = false bootstrap = true")), "'bootstrap = true' requires 'server = true'");
    assert_eq!(
        first(problems("http_config { allow_write_http_from = [\"1.2.3.4\"] }")),
        "allow_write_http_from: invalid cidr: 1.2.3.4"
    );
    assert_eq!(
        first(problems("tls_cipher_suites = \"FOO\"")),
        "tls_cipher_suites: invalid tls cipher suites: unsupported cipher \"FOO\""
    );
    assert_eq!(first(problems("verify_outgoing = true")), "VerifyOutgoing set, and no CA certificate provided!");
}

#[test]
fn a_missing_path_and_an_unreadable_file_are_named_with_their_cause() {
    let errors = load(&["-dev", "-config-file", "/no/such/file"], &[]).unwrap_err();
    assert_eq!(
        errors.headline(),
        "config: Open failed on /no/such/file. open /no/such/file: no such file or directory"
    );
    assert_eq!(errors.problems()[0].remedy, "correct the path, or create it");
    // A link that leads nowhere cannot be read by anybody, root included.
    let directory = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/no/such/target", directory.path().join("a.hcl")).unwrap();
    let path = directory.path().display().to_string();
    let errors = load(&["-dev", "-config-dir", &path], &[]).unwrap_err();
    assert!(errors.headline().starts_with(&format!("config: Stat failed on {path}/a.hcl. ")), "{errors}");
}

#[test]
fn services_that_make_no_sense_are_named_with_their_file() {
    let errors = problems(
        "service { name = \"web\" connect { native = true proxy {} } }\n\
         services { name = \"p\" kind = \"connect-proxy\" }\n\
         services { port = 7 }\n",
    );
    assert_eq!(
        errors.headline(),
        "service \"web\": 2 error(s) occurred:\n\n* Services with a Connect managed proxy must have a port set\n\
         * Services that are Connect native may not have a proxy configuration"
    );
    assert_eq!(
        texts(&errors)[2..],
        [
            "Proxy.DestinationServiceName must be non-empty for Connect proxy services",
            "Port must be set for a Connect proxy",
            "Failed to register service \"\": Service name missing",
        ]
    );
    assert!(errors.problems()[2].origin.to_string().ends_with("a.hcl:2"));
    assert_eq!(errors.problems()[2].key, "services[0].proxy.destination_service_name");
}

#[test]
fn one_id_for_two_services_names_both_files() {
    let errors = load(
        &["-dev"],
        &[("a.hcl", "service { name = \"web\" }"), ("b.json", r#"{"service": {"id": "web", "name": "other"}}"#)],
    )
    .unwrap_err();
    let text = texts(&errors)[0];
    assert!(text.starts_with("service \"web\" is defined twice: in ") && text.contains("a.hcl:1 and in "), "{text}");
    assert!(text.ends_with("b.json:1"), "{text}");
}

#[test]
fn sidecars_have_rules_of_their_own() {
    let sidecar = |inner: &str| {
        problems(&format!("service {{ name = \"w\" port = 1 connect {{ sidecar_service {{ {inner} }} }} }}")).headline()
    };
    assert_eq!(sidecar("id = \"x\""), "sidecar_service can't specify an ID");
    assert_eq!(sidecar("connect { sidecar_service {} }"), "sidecar_service can't have a nested sidecar_service");
    assert_eq!(sidecar("connect { proxy {} }"), "sidecar_service can't have a managed proxy");
    assert_eq!(
        sidecar("checks = [{ tcp = \"h:1\" }]"),
        "Invalid check: Interval must be > 0 for Script, HTTP, or TCP checks"
    );
}

#[test]
fn scripts_that_a_flag_may_allow_are_no_mistake_of_a_directory() {
    let file = ("a.hcl", "data_dir = \"/d\" check { name = \"c\" args = [\"x\"] interval = \"1s\" }");
    let loaded = load_for(Purpose::Validate, &[], &[file]).unwrap();
    let warned = loaded.notices.iter().any(|notice| {
        notice.text.contains("a.hcl:1: check: scripts are disabled")
            && notice.text.contains("-enable-local-script-checks")
    });
    assert!(warned, "{:?}", loaded.notices);
    let loaded = load_for(Purpose::Run, &["-enable-local-script-checks"], &[file]).unwrap();
    assert!(loaded.notices.iter().all(|notice| !notice.text.contains("script")), "{:?}", loaded.notices);
    assert!(load_for(Purpose::Run, &[], &[file]).is_err());
}

#[test]
fn a_directory_for_the_log_that_is_not_there_keeps_the_agent_from_starting_and_a_check_of_files_says_so() {
    let file = ("a.hcl", "server = true data_dir = \"/d\" log_file = \"/no such folder/\"");
    let loaded = load_for(Purpose::Validate, &[], &[file]).unwrap();
    let said =
        warnings(&loaded).iter().any(|text| text.contains("log_file: directory /no such folder/ does not exist"));
    assert!(said, "{:?}", loaded.notices);
    let errors = load_for(Purpose::Run, &[], &[file]).unwrap_err();
    assert!(errors.problems().iter().any(|problem| problem.key == "log_file"), "{errors}");
}

#[test]
fn checks_that_make_no_sense_are_refused() {
    let check = |inner: &str| problems(&format!("check {{ name = \"c\" {inner} }}")).headline();
    assert_eq!(check(""), "Invalid check: TTL must be > 0 for TTL checks");
    assert_eq!(check("ttl = \"1s\" interval = \"1s\""), "Invalid check: Interval and TTL cannot both be specified");
    assert!(check("args = [\"x\"] interval = \"1s\"").starts_with("Scripts are disabled on this agent; to enable"));
    assert_eq!(problems("checks { ttl = \"1s\" }").headline(), "Failed to register check: CheckID missing");
    assert!(
        problems("checks { name = \"a\" ttl = \"1s\" } checks { name = \"a\" ttl = \"1s\" }")
            .headline()
            .starts_with("check \"a\" is defined twice")
    );
}

#[test]
fn an_unknown_exec_mode_is_refused_before_the_start() {
    let errors = problems("service { name = \"w\" port = 1 connect { proxy { exec_mode = \"bogus\" } } }");
    assert_eq!(errors.headline(), "failed adding proxy: invalid exec mode: bogus");
}

#[test]
fn system_calls_of_commands_are_limited_only_where_they_cannot_gain_privileges() {
    use lictor_supervisor::{Calls, Gain, Privileges};
    let with = |defaults: &str| format!("connect {{ enabled = true proxy_defaults {{ {defaults} }} }}");
    let said = |defaults: &str| {
        let Privileges { gain, calls, .. } = dev_hcl(&with(defaults)).config.mesh.proxy_defaults.command_privileges;
        (gain, calls)
    };
    assert_eq!(said(""), (Gain::AsOurUser, Calls::OfServers));
    assert_eq!(said("command_new_privileges = \"no\""), (Gain::Never, Calls::OfServers));
    assert_eq!(said("command_new_privileges = \"yes\""), (Gain::Allowed, Calls::OfServers));
    assert_eq!(said("command_system_calls = \"proxy\""), (Gain::Never, Calls::OfServers));
    assert_eq!(said("command_system_calls = \"all\""), (Gain::AsOurUser, Calls::All));

    let errors = problems(&with("command_system_calls = \"proxy\" command_new_privileges = \"yes\""));
    assert_eq!(
        errors.headline(),
        "connect.proxy_defaults.command_system_calls = \"proxy\" goes only with programs that cannot gain privileges, and \
         connect.proxy_defaults.command_new_privileges is \"yes\""
    );
    let errors = problems(&with("command_system_calls = \"some\""));
    assert_eq!(
        errors.headline(),
        "connect.proxy_defaults.command_system_calls: \"some\" is none of \"auto\", \"all\" and \"proxy\""
    );
}

#[test]
fn files_of_commands_are_listed_by_absolute_paths_and_go_with_no_gain_of_privileges() {
    use lictor_supervisor::Gain;
    let with = |defaults: &str| format!("connect {{ enabled = true proxy_defaults {{ {defaults} }} }}");
    assert_eq!(dev_hcl(&with("")).config.mesh.proxy_defaults.command_files, None);
    let both = "command_read_paths = [\"/etc\", \"/usr/bin\"] command_write_paths = [\"/run/x\"]";
    let defaults = dev_hcl(&with(both)).config.mesh.proxy_defaults;
    let files = defaults.command_files.unwrap();
    assert_eq!(files.read.paths, ["/etc", "/usr/bin"].map(std::path::PathBuf::from));
    assert_eq!(files.write.paths, ["/run/x"].map(std::path::PathBuf::from));
    assert_eq!(defaults.command_privileges.gain, Gain::Never);
    // Either list is enough.
    let defaults = dev_hcl(&with("command_write_paths = [\"/run/x\"]")).config.mesh.proxy_defaults;
    assert!(defaults.command_files.is_some() && defaults.command_privileges.gain == Gain::Never);

    for bad in ["etc", "", "~/x", "./x"] {
        let errors = problems(&with(&format!("command_write_paths = [\"/run\", \"{bad}\"]")));
        let wanted = format!("connect.proxy_defaults.command_write_paths: {bad:?} is no absolute path");
        assert_eq!(errors.headline(), wanted);
    }
    let errors = problems(&with("command_read_paths = [\"/etc\"] command_new_privileges = \"yes\""));
    assert_eq!(
        errors.headline(),
        "connect.proxy_defaults.command_read_paths goes only with programs that cannot gain privileges, and \
         connect.proxy_defaults.command_new_privileges is \"yes\""
    );
    // Whoever validates files may do so on another machine.
    let text = "data_dir = \"/var/lib/lictor\" server = true connect { enabled = true proxy_defaults { command_read_paths = \
                [\"/var/lib\", \"/no such\"] } }";
    let loaded = load_for(Purpose::Validate, &[], &[("a.hcl", text)]).unwrap();
    let said = warnings(&loaded).join("\n");
    for wanted in [
        "command_read_paths: \"/no such\" is not here: No such file or directory",
        "command_read_paths: \"/var/lib\" opens the agent's data directory \"/var/lib/lictor\" to custom commands",
    ] {
        assert!(said.contains(wanted), "{wanted} is not in {said}");
    }
}

#[test]
fn proxies_of_one_node_meet_with_tls_or_directly() {
    let errors = problems("connect { enabled = true same_node = \"fast\" }");
    assert_eq!(errors.headline(), "connect.same_node: \"fast\" is neither \"mtls\" nor \"direct\"");
}

#[test]
fn watches_are_judged_when_they_are_read() {
    assert_eq!(problems("watches { type = \"nodes\" }").headline(), "Must define a watch handler");
    assert_eq!(
        problems("watches { type = \"connect_roots\" handler = \"x\" }").headline(),
        "Watch type connect_roots is not allowed in agent config"
    );
}

#[test]
fn remedies_say_what_was_meant_to_be_written() {
    let remedies = |text: &str| {
        let errors = problems(text);
        errors.problems().iter().map(|problem| problem.remedy.clone()).collect::<Vec<_>>()
    };
    assert_eq!(remedies("node_meta { a = 1 }"), ["write a text in quotes"]);
    assert_eq!(remedies("service { name = \"a\" port = \"1\" }"), ["write a whole number, without quotes"]);
    assert_eq!(remedies("service { name = \"a\" enable_tag_override = 1 }"), ["write true or false, without quotes"]);
    let two = "service { name = \"a\" }\nservice { name = \"b\" }";
    assert_eq!(remedies(two), ["write services = [{ … }, { … }], or give each a file of its own"]);
    let checks = "service { name = \"a\" check { ttl = \"1s\" } check { ttl = \"2s\" } }";
    assert_eq!(remedies(checks), ["write checks = [{ … }, { … }]"]);
    assert_eq!(remedies("ports {}\nports {}"), ["write it once, with everything in it"]);
}

#[test]
fn labels_get_a_remedy() {
    let errors = problems("service \"web\" { port = 1 }");
    let label = errors.problems().iter().find(|problem| problem.key == "service.web").unwrap();
    assert_eq!(label.remedy, "labels are not used; write name = \"…\" inside the block");
}

#[test]
fn files_that_are_no_text_or_no_object_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("a.hcl"), b"a = 1\nb = \"\xff\"").unwrap();
    fs::write(directory.path().join("b.json"), "[]").unwrap();
    fs::write(directory.path().join("c.json"), " ").unwrap();
    fs::write(directory.path().join("d.json"), "").unwrap();
    let path = directory.path().display().to_string();
    let errors = load(&["-dev", "-config-dir", &path], &[]).unwrap_err();
    assert_eq!(errors.problems().len(), 3, "{errors}");
    assert!(texts(&errors)[0].ends_with("illegal UTF-8 encoding in line 2"));
    assert!(texts(&errors)[2].ends_with("unexpected end of JSON input"));
}

#[test]
fn a_second_datacenter_is_refused_on_servers() {
    let errors = problems("primary_datacenter = \"dc2\"");
    assert_eq!(errors.problems()[0].remedy, "remove it or set it to \"dc1\"");
    let loaded = load(&["-data-dir", "/tmp"], &[("a.hcl", "primary_datacenter = \"dc2\"")]).unwrap();
    assert_eq!(notices(&loaded, Weight::Info).len(), 1);
}

#[test]
fn clients_that_would_be_unreachable_are_warned_about() {
    assert_eq!(
        warnings(&dev_hcl("client_addr = \"\"")),
        ["config: no HTTP or HTTPS listener, so nothing can be asked of this agent"]
    );
    let open = "client_addr = \"0.0.0.0\" ports { https = 8501 }";
    assert_eq!(warnings(&dev_hcl(open)).len(), 1);
}

#[test]
fn what_services_cannot_mean_of_their_proxies_is_said() {
    let loaded = dev_hcl(
        "service { name = \"a\" port = 1 connect { proxy { upstreams = [\n\
           { destination_name = \"b\" local_bind_port = 99999 }, { local_bind_port = 7 }, { destination_name = \"c\" }\n\
         ] } sidecar_service {} } }\n\
         services { name = \"b\" port = 2 connect { proxy {\n\
           config { local_connect_timeout_ms = \"5s\" bind_adress = \"127.0.0.1\" handshake_timeout_ms = \"2500\" own = 1 }\n\
           upstreams = [{ destination_name = \"a\" local_bind_port = 8 }, { destination_name = \"a\" local_bind_port = 8 }]\n\
         } } }\n\
         services { name = \"c\" port = 3 connect { proxy {\n\
           command = [\"/bin/x\"]\n\
           config { bind_adress = 1 }\n\
           upstreams = [{ destination_name = \"a\" local_bind_port = 8 local_bind_address = \"127.0.0.2\" }]\n\
         } } }\n\
         connect { enabled = false }",
    );
    let said = warnings(&loaded);
    let expected = [
        "service.connect: the service has a managed proxy and a sidecar_service",
        "service.connect.proxy.upstreams[0].local_bind_port: 99999 is no port",
        "service.connect.proxy.upstreams[1]: destination_name is missing",
        "service.connect.proxy.upstreams[2]: local_bind_port is missing",
        "services[0].connect.proxy.config.bind_adress: the built-in proxy does not know it; did you mean bind_address?",
        "services[0].connect.proxy.config.local_connect_timeout_ms: \"5s\" is no number of milliseconds, so the default \
         stays; write 5000",
        "services[0].connect.proxy.upstreams[1].local_bind_port: 127.0.0.1:8 is that of",
        "the proxies of a, b, c get no certificates",
    ];
    assert_eq!(said.len(), expected.len(), "{said:#?}");
    for (said, expected) in said.iter().zip(expected) {
        assert!(said.contains(expected), "{expected:?} is not in {said:?}");
    }
}

#[test]
fn what_cannot_be_read_is_not_missed_as_well_and_checks_that_never_pass_are_named() {
    let errors = problems(
        "services { name = \"a\" port = \"80\" connect { proxy {} } check { ttl = \"5\" } }\n\
         services { name = \"b\" port = 1 connect { proxy { config { bind_port = \"x\" } } } }",
    );
    let keys: Vec<&str> = errors.problems().iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(keys, ["services[0].port", "services[0].check.ttl", "services[1].connect.proxy.config"], "{errors}");
    assert!(errors.to_string().contains("cannot parse 'bind_port' as int"), "{errors}");

    let loaded = dev_hcl(
        "service { name = \"a\" port = 1 checks = [\n\
           { tcp = \"x\" interval = \"1s\" }, { tcp = \"[::1]:80\" interval = \"1s\" }, { http = \"nourl\" interval = \"1s\" },\n\
           { http = \"http://a/\" interval = \"1s\" }, { alias_service = \"nosuch\" }, { alias_service = \"a-proxy\" }] }",
    );
    let said = warnings(&loaded);
    let expected = [
        "service.checks[0]: tcp = \"x\" has no port",
        "service.checks[2]: http is no URL",
        "service.checks[4]: alias_service",
    ];
    assert_eq!(said.len(), expected.len(), "{said:#?}");
    for (said, expected) in said.iter().zip(expected) {
        assert!(said.contains(expected), "{expected:?} is not in {said:?}");
    }
}

#[test]
fn more_proxies_than_ports_are_refused_with_the_keys_of_the_range() {
    let errors = problems(
        "ports { proxy_min_port = 20000 proxy_max_port = 20000 }\n\
         services { name = \"a\" port = 1 connect { proxy {} } }\n\
         services { name = \"own\" port = 2 connect { proxy { config { bind_port = 7 } } } }\n\
         services { name = \"b\" port = 3 connect { proxy {} } }",
    );
    let [problem] = errors.problems() else { panic!("{errors}") };
    assert!(problem.text.starts_with("service \"b\": no port provided for proxy bind_port and none  left"), "{errors}");
    assert!(problem.text.ends_with("[20000, 20000]") && problem.remedy.contains("ports.proxy_max_port"), "{errors}");
}

#[test]
fn what_a_flag_may_bring_is_named_and_not_refused() {
    let validate = |text: &str| load_for(Purpose::Validate, &[], &[("a.hcl", text)]);
    let loaded = validate("server = false data_dir = \"/x\" retry_join = [\"10.0.0.1\"]").unwrap();
    assert!(warnings(&loaded).is_empty() && !notices(&loaded, Weight::Info).iter().any(|it| it.contains("server is")));
    let loaded = validate("service { name = \"web\" port = 1 connect { proxy {} } }").unwrap();
    let said = notices(&loaded, Weight::Info);
    assert!(said.iter().any(|text| text.contains("data_dir is not set")), "{said:?}");
    assert!(said.iter().any(|text| text.contains("server is not set")), "{said:?}");
}

#[test]
fn a_data_directory_of_the_original_is_named_with_what_stays_behind_until_there_is_a_store() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path();
    fs::create_dir_all(data.join("raft")).unwrap();
    fs::create_dir_all(data.join("proxy")).unwrap();
    let snapshot = r#"{"Version": 1, "Proxies": {"web-proxy": {"Mode": 1, "Config": {"Pid": 4711}}}}"#;
    fs::write(data.join("proxy/snapshot.json"), snapshot).unwrap();
    let said = || {
        let loaded = load(&["-server", "-bootstrap", "-data-dir", data.to_str().unwrap()], &[]).unwrap();
        warnings(&loaded).iter().map(|text| (*text).to_owned()).collect::<Vec<_>>()
    };
    let texts = said();
    assert!(texts[0].contains("is that of a Consul server") && texts[0].contains("docs/migration.md"), "{texts:?}");
    assert!(texts[1].contains("(web-proxy, pid 4711)"), "{texts:?}");
    fs::write(data.join("store.redb"), "").unwrap();
    assert_eq!(said(), [""; 0]);
}
