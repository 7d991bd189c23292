//! Both spellings of a registration, and the words in which broken ones are refused.

use std::time::Duration;

use lictor_notation::hcl;
use serde_json::json;

use super::*;

fn http(body: &str) -> Definition {
    service_from_http(body.as_bytes()).unwrap()
}

fn http_error(body: &str) -> String {
    service_from_http(body.as_bytes()).unwrap_err()
}

fn file(source: &str) -> (Definition, Vec<String>) {
    let tree = Tree::Object(hcl::parse(source).unwrap());
    let mut problems = Problems::new();
    let definition = service_from_file(&tree, Rules::HCL, "service", &mut problems);
    (definition, problems.into_iter().map(|problem| problem.text).collect())
}

fn json_file(source: &str) -> (Definition, Vec<String>) {
    let mut problems = Problems::new();
    let definition = service_from_file(&json::parse(source).unwrap(), Rules::JSON, "service", &mut problems);
    (definition, problems.into_iter().map(|problem| problem.text).collect())
}

const CAMEL: &str = r#"{
  "ID": "web-1", "Name": "web", "Tags": ["a", "b"], "Address": "10.0.0.1", "Port": 8080, "Kind": "",
  "Meta": {"enable_tag_override": "kept"}, "Weights": {"Passing": 10}, "EnableTagOverride": true, "Token": "t",
  "Check": {"CheckID": "c0", "HTTP": "http://x", "Interval": "10s", "Timeout": 2000000000,
            "Header": {"X": ["1", "2"]}, "DeregisterCriticalServiceAfter": "90m", "Status": "passing",
            "TLSSkipVerify": true, "Method": "POST", "Notes": "n"},
  "Checks": [{"ScriptArgs": ["true"], "Interval": "1s", "DockerContainerID": "d", "Shell": "sh"},
             {"AliasService": "x", "AliasNode": "n"}, {"GRPC": "h:1", "GRPCUseTLS": true, "Interval": "1s"},
             {"TTL": "30s", "Name": "ttl"}, {"TCP": "h:2", "Interval": "1m"}],
  "Connect": {"Native": true,
    "Proxy": {"ExecMode": "daemon", "Command": ["/x", "y"], "Config": {"local_bind_port": 1},
      "Upstreams": [{"DestinationType": "service", "DestinationNamespace": "ns", "DestinationName": "db",
                     "Datacenter": "dc2", "LocalBindAddress": "127.0.0.9", "LocalBindPort": 1234,
                     "Config": {"exec_mode": 1}}]},
    "SidecarService": {"Port": 21000, "Proxy": {"LocalServicePort": 1}}}
}"#;

const SNAKE: &str = r#"
  id = "web-1" name = "web" tags = ["a", "b"] address = "10.0.0.1" port = 8080 kind = ""
  meta { enable_tag_override = "kept" } weights { passing = 10 } enable_tag_override = true token = "t"
  check { id = "c0" http = "http://x" interval = "10s" timeout = "2s" header { X = ["1", "2"] }
          deregister_critical_service_after = "90m" status = "passing" tls_skip_verify = true method = "POST"
          notes = "n" }
  checks { args = ["true"] interval = "1s" docker_container_id = "d" shell = "sh" }
  checks = [{ alias_service = "x" alias_node = "n" } { grpc = "h:1" grpc_use_tls = true interval = "1s" }]
  checks { ttl = "30s" name = "ttl" }
  checks { tcp = "h:2" interval = "1m" }
  connect { native = true
    proxy { exec_mode = "daemon" command = ["/x", "y"] config { local_bind_port = 1 }
      upstreams { destination_type = "service" destination_namespace = "ns" destination_name = "db" datacenter = "dc2"
                  local_bind_address = "127.0.0.9" local_bind_port = 1234 config { exec_mode = 1 } } }
    sidecar_service { port = 21000 proxy { local_service_port = 1 } } }
"#;

#[test]
fn both_spellings_mean_the_same() {
    let (from_file, problems) = file(SNAKE);
    assert_eq!(problems, [""; 0]);
    let from_http = http(CAMEL);
    assert_eq!(from_http, from_file);
    assert_eq!(from_http.service.weights, Weights { passing: 10, warning: 0 });
    assert_eq!(from_http.checks.len(), 5);
    let check = from_http.check.unwrap();
    assert_eq!((check.timeout, check.status), (Duration::from_secs(2), Some(Status::Passing)));
    let proxy = from_http.managed_proxy.unwrap();
    assert_eq!(serde_json::Value::Object(proxy.config.unwrap()), json!({"local_bind_port": 1}));
    assert_eq!(proxy.upstreams[0].local_bind_port, 1234);
    assert_eq!(from_http.sidecar.unwrap().service.port, 21000);
}

#[test]
fn every_field_in_the_files_spelling_that_http_translates_is_read_over_http() {
    let definition = http(
        r#"{"name": "w", "enable_tag_override": true, "kind": "connect-proxy", "checks": [
             {"args": ["a"], "interval": "1s", "docker_container_id": "d", "tls_skip_verify": true, "service_id": "s",
              "deregister_critical_service_after": "1m"}, {"script_args": ["b"], "interval": "1s"}],
           "proxy": {"destination_service_name": "db", "destination_service_id": "db1", "local_service_port": 1,
                     "local_service_address": "h", "config": {"A_b": 1}},
           "connect": {"proxy": {"exec_mode": "script", "upstreams": [{"destination_name": "x", "local_bind_port": 2,
             "destination_type": "t", "destination_namespace": "n", "local_bind_address": "b"}]},
             "sidecar_service": {"port": 5}}}"#,
    );
    assert!(definition.service.enable_tag_override);
    assert_eq!(definition.checks[0].args, ["a"]);
    assert_eq!(definition.checks[0].docker_container_id, "d");
    assert!(definition.checks[0].tls_skip_verify);
    assert_eq!(definition.checks[0].deregister_critical_service_after, Duration::from_secs(60));
    assert_eq!(definition.checks[1].args, ["b"]);
    let proxy = definition.service.proxy.unwrap();
    assert_eq!((proxy.destination_name.as_str(), proxy.destination_id.as_str()), ("db", "db1"));
    assert_eq!((proxy.local_service_address.as_str(), proxy.local_service_port), ("h", 1));
    let managed = definition.managed_proxy.unwrap();
    assert_eq!(managed.exec_mode, "script");
    let upstream = &managed.upstreams[0];
    assert_eq!((upstream.destination_name.as_str(), upstream.local_bind_port), ("x", 2));
    assert_eq!((upstream.destination_type.as_str(), upstream.destination_namespace.as_str()), ("t", "n"));
    assert_eq!(definition.sidecar.unwrap().service.port, 5);
}

#[test]
fn fields_that_http_does_not_translate_are_ignored_in_the_files_spelling() {
    let definition = http(
        r#"{"Name": "w", "proxy_destination": "x", "Check": {"alias_service": "x", "ID": "mine", "id": "mine"},
            "Checks": [{"AliasService": "y"}]}"#,
    );
    assert!(definition.check.unwrap().is_empty());
    assert_eq!(definition.service.proxy, None);
    assert_eq!(definition.checks[0].alias_service, "y");
}

#[test]
fn the_camel_case_spelling_wins_over_http() {
    for body in [
        r#"{"Name": "w", "EnableTagOverride": true, "enable_tag_override": false}"#,
        r#"{"enable_tag_override": false, "EnableTagOverride": true, "Name": "w"}"#,
    ] {
        assert!(http(body).service.enable_tag_override, "{body}");
    }
}

#[test]
fn broken_bodies_have_the_texts_clients_know() {
    assert_eq!(http_error(""), "Request decode failed: EOF");
    assert_eq!(http_error("{"), "Request decode failed: unexpected EOF");
    assert_eq!(http_error("x"), "Request decode failed: invalid character 'x' looking for beginning of value");
    assert_eq!(http_error("[]"), "Request decode failed: '' expected a map, got 'slice'");
    assert_eq!(
        http_error(r#"{"Name": "n", "Port": "x"}"#),
        "Request decode failed: 1 error(s) decoding:\n\n* 'Port' expected type 'int', got unconvertible type 'string'"
    );
    assert_eq!(
        http_error(r#"{"Name": 1, "Connect": {"Proxy": {"Upstreams": [{"LocalBindPort": "1"}]}}}"#),
        "Request decode failed: 2 error(s) decoding:\n\n\
         * 'Connect.Proxy.Upstreams[0].LocalBindPort' expected type 'int', got unconvertible type 'string'\n\
         * 'Name' expected type 'string', got unconvertible type 'float64'"
    );
    assert_eq!(
        http_error(r#"{"Name": "n", "Check": {"TTL": "x"}}"#),
        "Request decode failed: invalid \"TTL\": time: invalid duration \"x\""
    );
    assert_eq!(
        http_error(r#"{"Name": "n", "Check": {"Header": {"a": "b"}}}"#),
        "Request decode failed: invalid \"Header\": agent: invalid format of 'header' field"
    );
    assert_eq!(
        http_error(r#"{"Name": "n", "Check": {"TTL": "1s", "Status": "fine"}}"#),
        "Status for checks must 'passing', 'warning', 'critical'"
    );
    assert_eq!(check_from_http(br#"{"Name": "n", "Status": "fine"}"#).unwrap_err(), "Bad check status");
}

#[test]
fn bodies_are_read_leniently() {
    let definition = http(r#"{"nAmE": "w", "Port": 80.7, "Tags": [], "Bogus": {"x": 1}, "Meta": null} tail"#);
    assert_eq!((definition.service.name.as_str(), definition.service.port), ("w", 80));
    assert_eq!(definition.service.tags, Some(Vec::new()));
    assert_eq!(definition.service.meta, None);
    assert_eq!(definition.service.weights, Weights::default());
    assert_eq!(http("null"), Definition::default());
    assert_eq!(http(r#"{"Name": "w", "Kind": "odd"}"#).service.kind, Kind::Other("odd".into()));
    assert_eq!(http(r#"{"Name": "w"}"#).service.tags, None);
    let check = check_from_http(br#"{"ID": "i", "Name": "n", "ServiceID": "s", "TTL": null}"#).unwrap();
    assert_eq!((check.id.as_str(), check.service_id.as_str(), check.ttl), ("i", "s", Duration::ZERO));
}

#[test]
fn files_are_strict_about_keys_and_lenient_about_case() {
    let (_, problems) =
        file("name = \"w\" enableTagOverride = true connect { proxy { bogus = 1 } } check { script = \"x\" }");
    assert_eq!(
        problems,
        [
            "invalid config key service.check.script",
            "invalid config key service.connect.proxy.bogus",
            "invalid config key service.enableTagOverride",
        ]
    );
    let (definition, problems) = json_file(
        r#"{"NAME": "w", "Port": 1, "Kind": "odd", "check": {"DeregisterCriticalServiceAfter": "1m", "ServiceID": "s",
            "ScriptArgs": ["a"], "TLSSkipVerify": true, "DockerContainerID": "d"}}"#,
    );
    assert_eq!(problems, [""; 0]);
    assert_eq!((definition.service.name.as_str(), definition.service.kind), ("w", Kind::Typical));
    let check = definition.check.unwrap();
    assert_eq!((check.service_id.as_str(), check.args), ("s", vec!["a".to_owned()]));
    let (_, problems) = json_file(r#"{"connect": {"proxy": {"upstreams": [{"DestinationName": "x"}]}}}"#);
    assert_eq!(problems, ["invalid config key service.connect.proxy.upstreams[0].DestinationName"]);
}

#[test]
fn all_bad_durations_of_a_file_are_reported() {
    let (_, problems) = file("check { id = \"a\" interval = \"zz\" ttl = \"5\" status = \"fine\" }");
    assert_eq!(
        problems,
        [
            "check[a].interval: invalid duration: \"zz\": time: invalid duration \"zz\"",
            "check[a].ttl: invalid duration: \"5\": time: missing unit in duration \"5\"",
            "check[a].status: unknown status \"fine\", use passing, warning or critical",
        ]
    );
}

#[test]
fn upstreams_of_the_old_form_stay_where_they_were_written_as_a_list() {
    for blocks in [r#"upstreams { destination_name = "db" }"#, r#"upstreams = [{ destination_name = "db" }]"#] {
        let (definition, problems) = file(&format!("connect {{ proxy {{ config {{ x = 1 {blocks} }} }} }}"));
        assert_eq!(problems, [""; 0]);
        let proxy = definition.managed_proxy.unwrap();
        let written = json!({"x": 1, "upstreams": [{"destination_name": "db"}]});
        assert_eq!(serde_json::Value::Object(proxy.config.unwrap()), written);
        assert_eq!(proxy.upstreams, []);
    }
}

#[test]
fn sidecars_of_sidecars_end_somewhere() {
    let mut body = r#"{"Name": "x"}"#.to_owned();
    for _ in 0..20 {
        body = format!(r#"{{"Name": "x", "Connect": {{"SidecarService": {body}}}}}"#);
    }
    let nested = http(&body).sidecar.unwrap().sidecar.unwrap();
    assert_eq!(nested.sidecar, None);
}

#[test]
fn a_definition_survives_the_way_to_the_agent() {
    let body = r#"{"ID":"w1","Name":"web","Tags":["a"],"Address":"10.0.0.1","Port":80,"Meta":{"k":"v"},
        "Weights":{"Passing":3,"Warning":2},"EnableTagOverride":true,"Token":"geheim",
        "Check":{"CheckID":"c1","HTTP":"http://x/","Header":{"A":["b"]},"Method":"PUT","Interval":"10s","Timeout":"1s",
            "TLSSkipVerify":true,"DeregisterCriticalServiceAfter":"1m0s"},
        "Checks":[{"CheckID":"c2","Name":"n","Notes":"o","TTL":"15s","Status":"passing"},
            {"CheckID":"c3","ScriptArgs":["a","b"],"Interval":"1m0s","Shell":"/bin/sh","DockerContainerID":"d"},
            {"CheckID":"c4","GRPC":"h:1/s","GRPCUseTLS":true,"Interval":"1s"},{"AliasNode":"n","AliasService":"s"},
            {"TCP":"h:1","Interval":"1s"}],
        "Connect":{"Proxy":{"ExecMode":"daemon","Command":["p"],"Config":{"bind_port":7},
            "Upstreams":[{"DestinationType":"service","DestinationName":"db","Datacenter":"dc2","LocalBindAddress":"::1",
                "LocalBindPort":9,"Config":{"x":[1]}}]},
            "SidecarService":{"Port":21000,"Proxy":{"DestinationServiceName":"web","LocalServicePort":80}}}}"#;
    let definition = service_from_http(body.as_bytes()).unwrap();
    let again = serde_json::to_vec(&service_to_http(&definition)).unwrap();
    assert_eq!(service_from_http(&again).unwrap(), definition);
    let proxy = r#"{"Kind":"connect-proxy","Name":"p","Proxy":{"DestinationServiceName":"web",
        "DestinationServiceID":"w1","LocalServiceAddress":"::1","Config":{"a":1}},"Connect":{"Native":true}}"#;
    let definition = service_from_http(proxy.as_bytes()).unwrap();
    let again = serde_json::to_vec(&service_to_http(&definition)).unwrap();
    assert_eq!(service_from_http(&again).unwrap(), definition);
    let empty = service_from_http(br#"{"Name":"x","Connect":{"Proxy":{},"SidecarService":{}}}"#).unwrap();
    assert_eq!(
        service_to_http(&empty).to_string(),
        r#"{"Connect":{"Proxy":{},"SidecarService":{}},"Name":"x"}"#,
        "empty blocks mean something"
    );
}
