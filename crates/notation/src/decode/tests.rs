//! What fields accept, and the words in which they refuse.

use serde_json::json;

use super::*;

fn read<T>(source: &str, rules: Rules, read: impl FnOnce(&mut Fields<'_, '_>) -> T) -> (T, Vec<String>) {
    let tree = match rules.lone_object {
        LoneObject::IsList => crate::hcl::parse(source).unwrap(),
        LoneObject::IsError => match crate::json::parse(source).unwrap() {
            Tree::Object(object) => object,
            other => panic!("{other:?}"),
        },
    };
    let mut problems = Problems::new();
    let value = object(&tree, "", rules, &mut problems, read);
    (value, problems.into_iter().map(|problem| problem.text).collect())
}

#[test]
fn types_are_never_converted() {
    let (values, problems) = read(
        r#"{"ports": {"http": "80", "dns": 2.5, "grpc": 1e30}, "server": 1, "name": 7, "tags": "a", "meta": {"x": 1}}"#,
        Rules::JSON,
        |fields| {
            fields.object("ports", |ports| (ports.int("http"), ports.int("dns"), ports.int("grpc"))).unwrap();
            (fields.flag("server"), fields.text("name"), fields.texts("tags"), fields.text_map("meta"))
        },
    );
    assert_eq!(values, (None, None, None, Some(BTreeMap::new())));
    assert_eq!(
        problems,
        [
            "'ports.http' expected type 'int', got unconvertible type 'string'",
            "'ports.dns' expected type 'int', got the fraction 2.5",
            "'ports.grpc' expected type 'int', out of range: 1000000000000000000000000000000",
            "'server' expected type 'bool', got unconvertible type 'float64'",
            "'name' expected type 'string', got unconvertible type 'float64'",
            "'tags': source data must be an array or slice, got string",
            "'meta[x]' expected type 'string', got unconvertible type 'float64'",
        ]
    );
    let (_, problems) = read("server = 1", Rules::HCL, |fields| fields.flag("server"));
    assert_eq!(problems, ["'server' expected type 'bool', got unconvertible type 'int'"]);
}

#[test]
fn bodies_truncate_fractions_and_take_nanoseconds() {
    let (values, problems) = read(r#"{"Port": 80.9, "TTL": 1500000000, "x": {}}"#, Rules::HTTP, |fields| {
        (fields.int("port"), fields.duration("ttl").map(|ttl| ttl.to_string()))
    });
    assert_eq!(values, (Some(80), Some("1.5s".into())));
    assert_eq!(problems, [""; 0]);
    let (_, problems) = read(r#"{"TTL": "x", "Header": {"a": "b"}}"#, Rules::HTTP, |fields| {
        (fields.duration("ttl"), fields.texts_map("header"))
    });
    assert_eq!(
        problems,
        [
            r#"invalid "TTL": time: invalid duration "x""#,
            r#"invalid "Header": agent: invalid format of 'header' field"#
        ]
    );
}

#[test]
fn unknown_keys_are_reported_with_their_path_and_case_does_not_count() {
    let (value, problems) = read(r#"{"Server": true, "SERVER": false, "nodeName": "x"}"#, Rules::JSON, |fields| {
        fields.text("node_name");
        fields.flag("server")
    });
    assert!(value.is_some());
    assert_eq!(problems.len(), 2, "{problems:?}");
    let (value, problems) = read(r#"{"SERVER": false, "server": true}"#, Rules::JSON, |fields| fields.flag("server"));
    assert_eq!((value, problems), (Some(true), vec!["invalid config key SERVER".to_owned()]));
    let (_, problems) = read("services { a { b = 1 } }  services {}", Rules::HCL, |fields| {
        fields.objects("services", |service| service.text("name"));
    });
    assert_eq!(problems, ["invalid config key services[0].a"]);
}

#[test]
fn labels_are_reported_as_labels() {
    let object_tree = crate::hcl::parse("service \"web\" { port = 1 }").unwrap();
    let mut problems = Problems::new();
    object(&object_tree, "", Rules::HCL, &mut problems, |fields| {
        fields.object("service", |service| service.int("port"));
    });
    let problem = problems.first(Mistake::Label).unwrap();
    assert_eq!((problem.text.as_str(), problem.line), ("invalid config key service.web", 1));
}

#[test]
fn an_object_given_twice_is_an_error_and_a_list_given_twice_is_appended() {
    let (_, problems) = read("ports {} ports {}", Rules::HCL, |fields| fields.object("ports", |_| ()));
    assert_eq!(problems, ["ports: given twice"]);
    let (all, problems) = read("a = [\"x\"] a = [\"y\"]", Rules::HCL, |fields| fields.texts("a"));
    assert_eq!((all, problems.len()), (Some(vec!["x".to_owned(), "y".to_owned()]), 0));
    let (all, problems) = read("w { n = 1 } w = [{ n = 2 } { n = 3 }]", Rules::HCL, |fields| {
        fields.objects("w", |w| w.int("n").unwrap_or_default())
    });
    assert_eq!((all, problems.len()), (Some(vec![1, 2, 3]), 0));
    let (last, _) = read("n = 1 n = 2", Rules::HCL, |fields| fields.int("n"));
    assert_eq!(last, Some(2));
}

#[test]
fn null_and_empty_lists_count_as_absent() {
    let (values, problems) =
        read(r#"{"a": null, "b": null, "c": [], "d": null, "e": [{"n": 1}], "f": [{}, {}]}"#, Rules::JSON, |fields| {
            let has = fields.has("a");
            (
                has,
                fields.text("a"),
                fields.objects("b", |_| ()),
                fields.object("c", |_| ()),
                fields.texts("d"),
                fields.object("e", |e| e.int("n")),
                fields.object("f", |_| ()),
            )
        });
    assert_eq!(values, (false, None, None, None, None, Some(Some(1)), None));
    assert_eq!(problems, ["f: one object expected, got a list of 2"]);
}

#[test]
fn a_lone_object_is_a_list_in_hcl_only() {
    let (all, problems) = read("watches {}", Rules::HCL, |fields| fields.objects("watches", |_| ()));
    assert_eq!((all.map(|all| all.len()), problems.len()), (Some(1), 0));
    let (_, problems) = read(r#"{"watches": {}}"#, Rules::JSON, |fields| fields.objects("watches", |_| ()));
    assert_eq!(problems, ["'watches': source data must be an array or slice, got map"]);
    let (_, problems) = read(r#"{"w": ["x"]}"#, Rules::JSON, |fields| fields.objects("w", |_| ()));
    assert_eq!(problems, ["'w[0]' expected a map, got 'string'"]);
}

#[test]
fn opaque_maps_are_carried_and_one_object_lists_unwrapped_in_files_only() {
    let source = r#"{"config": {"A": 1, "one": [{"x": 1}], "two": [{}, {}], "none": [], "upstreams": [{"y": 1}]}}"#;
    let (map, _) = read(source, Rules::JSON, |fields| fields.opaque_with_lists("config", &["upstreams"]));
    assert_eq!(
        Value::Object(map.unwrap()),
        json!({"A": 1, "one": {"x": 1}, "two": [{}, {}], "none": [], "upstreams": [{"y": 1}]})
    );
    let (map, _) = read(source, Rules::HTTP, |fields| fields.opaque("config"));
    assert_eq!(map.unwrap()["one"], json!([{"x": 1}]));
    let hcl = "config { one { x = 1 } two {} two {} upstreams { y = 1 } l = [\"a\"] }";
    let (map, _) = read(hcl, Rules::HCL, |fields| fields.opaque_with_lists("config", &["upstreams"]));
    assert_eq!(
        Value::Object(map.unwrap()),
        json!({"one": {"x": 1}, "two": [{}, {}], "upstreams": [{"y": 1}], "l": ["a"]})
    );
}

#[test]
fn bad_durations_and_unsigned_numbers_have_the_texts_clients_know() {
    let (_, problems) = read("dns_config { soa { retry = -1 } recursor_timeout = \"5\" }", Rules::HCL, |fields| {
        fields.object("dns_config", |dns| {
            dns.object("soa", |soa| soa.unsigned("retry"));
            dns.duration("recursor_timeout")
        })
    });
    assert_eq!(
        problems,
        [
            "cannot parse 'dns_config.soa.retry', -1.000000 overflows uint",
            "dns_config.recursor_timeout: invalid duration: \"5\": time: missing unit in duration \"5\"",
        ]
    );
    let (value, _) = read("t = \"-5m\"", Rules::HCL, |fields| fields.duration("t"));
    assert_eq!(value, Some(GoDuration::from_secs(-300)));
}

#[test]
fn other_spellings_lose_against_the_shown_one() {
    fn spell(name: &'static str) -> Spelling {
        match name {
            "service_id" => Spelling { shown: "service_id", others: &["ServiceID"] },
            other => Spelling::only(other),
        }
    }
    let rules = Rules::JSON.spelled(spell);
    let (value, problems) = read(r#"{"ServiceID": "a"}"#, rules, |fields| fields.text("service_id"));
    assert_eq!((value.as_deref(), problems.len()), (Some("a"), 0));
    let (value, problems) = read(r#"{"serviceid": "a", "service_id": "b"}"#, rules, |fields| fields.text("service_id"));
    assert_eq!((value.as_deref(), problems.len()), (Some("b"), 0));
}

#[test]
fn problems_are_listed_in_the_form_of_the_original() {
    let tree = crate::hcl::parse("b = 1 a = 1").unwrap();
    let mut problems = Problems::new();
    object(&tree, "x", Rules::HCL, &mut problems, |_| ());
    assert_eq!(problems.to_string(), "2 error(s) occurred:\n\n* invalid config key x.a\n* invalid config key x.b");
}
