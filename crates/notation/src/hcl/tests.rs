//! What the HCL parser accepts, refuses, and remembers.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::tree::OneObjectList;

fn read(source: &str) -> Value {
    match parse(source) {
        Ok(object) => Value::Object(object.to_map(OneObjectList::Keep)),
        Err(error) => panic!("{error}: {source}"),
    }
}

fn error(source: &str) -> String {
    parse(source).unwrap_err().to_string()
}

#[test]
fn blocks_and_assignments_are_the_same_thing() {
    let expected = json!({"ports": {"http": 1, "dns": -1}});
    for source in [
        "ports { http = 1 dns = -1 }",
        "ports = { http = 1, dns = -1, }",
        "\"ports\" {\n \"http\" = 1\n dns = -1\n}\n",
        "ports { http: 1, dns: -1 }",
        "{\"ports\": {\"http\": 1, \"dns\": -1}}",
        "\u{feff}ports { http = 1 dns = -1 }",
        "\u{feff}\r\n{\"ports\": {\"http\": 1, \"dns\": -1}}",
    ] {
        assert_eq!(read(source), expected, "{source}");
    }
}

#[test]
fn forms_that_newer_grammars_refuse_are_read() {
    assert_eq!(read("connect { sidecar_service {} }"), json!({"connect": {"sidecar_service": {}}}));
    assert_eq!(read("service { name = \"web\" port = 80 }"), json!({"service": {"name": "web", "port": 80}}));
    assert_eq!(read("a = [{x=1} {x=2}]"), json!({"a": [{"x": 1}, {"x": 2}]}));
    assert_eq!(read("a = [{x=1}, {x=2},]"), json!({"a": [{"x": 1}, {"x": 2}]}));
    assert_eq!(read("a.b = 1"), json!({"a.b": 1}));
    assert_eq!(read("\"*\" = \"5s\""), json!({"*": "5s"}));
    assert_eq!(read("a = 1 a = 2"), json!({"a": 2}));
}

#[test]
fn numbers_have_many_spellings() {
    assert_eq!(
        read("a = 0x1F91, b = 0644, c = 1.5, d = 1e3, e = -7, f = 0, g = -0x10, h = 2.0, i = .5, j = 1.5e-1"),
        json!({"a": 8081, "b": 420, "c": 1.5, "d": 1000, "e": -7, "f": 0, "g": -16, "h": 2, "i": 0.5, "j": 0.15})
    );
    for bad in ["0x", "08", "1_000", "5k", "--1", "1e", "-", ".", "0xfffffffffffffffff", "1e999", "+1", "1e5x"] {
        assert!(parse(&format!("a = {bad}")).is_err(), "{bad}");
    }
}

#[test]
fn comments_have_three_styles() {
    assert_eq!(read("# one\na = 1 // two\n/* three\n * more */ b /* here */ = /* and */ 2 #"), json!({"a": 1, "b": 2}));
    assert_eq!(error("a = 1 /* x"), "1:7: comment not terminated");
    assert_eq!(error("a = 1 / x"), "1:7: expected '/' or '*' for a comment");
}

#[test]
fn texts_keep_interpolations_and_resolve_escapes() {
    assert_eq!(read(r#"a = "${foo}b""#), json!({"a": "${foo}b"}));
    assert_eq!(read(r#"a = "x${ f("{}") }y""#), json!({"a": "x${ f(\"{}\") }y"}));
    assert_eq!(read("a = \"${ x\n }\""), json!({"a": "${ x\n }"}));
    assert_eq!(
        read(r#"a = "$5 $$ \"q\" \\ \n\t \x41 \u00e9 \U0001F600 \101""#),
        json!({"a": "$5 $$ \"q\" \\ \n\t A é 😀 A"})
    );
    assert_eq!(error(r#"a = "${foo""#), "1:5: literal not terminated: '${' without its '}'");
    assert_eq!(error("a = \"x\ny\""), "1:5: literal not terminated");
    assert_eq!(error("a = \"x"), "1:5: literal not terminated");
    assert_eq!(error(r#"a = "\q""#), "1:6: illegal char escape");
    assert_eq!(error(r#"a = "\ud800""#), "1:6: illegal char escape");
}

#[test]
fn heredocs_keep_their_lines_and_may_be_indented() {
    assert_eq!(read("a = <<EOF\nx\n  y\nEOF\nb = 1"), json!({"a": "x\n  y\n", "b": 1}));
    assert_eq!(read("a = <<-EOF\n    x\n      y\n    EOF\n"), json!({"a": "x\n  y\n"}));
    assert_eq!(read("a = <<-EOF\n  x\n    EOF\n"), json!({"a": "  x\n"}));
    assert_eq!(read("a = <<E\nE"), json!({"a": ""}));
    assert_eq!(read("a = [<<E\nx\nE\n, \"y\"]"), json!({"a": ["x\n", "y"]}));
    assert_eq!(error("a = <<EOF\nx\n"), "1:5: heredoc not terminated");
    assert_eq!(error("a = <<\nx"), "1:5: zero-length heredoc anchor");
    assert_eq!(error("a = <x"), "1:5: heredoc expected second '<'");
}

#[test]
fn bare_words_and_null_are_errors() {
    assert_eq!(error("a = yes"), "1:5: unknown word yes; text needs quotes: \"yes\"");
    assert_eq!(error("segments = null"), "1:12: unknown word null; text needs quotes: \"null\"");
    assert_eq!(read("a = true b = false"), json!({"a": true, "b": false}));
}

#[test]
fn errors_name_line_and_column() {
    assert_eq!(error("a = 1\nb = [1 2]"), "2:8: error parsing list, expected comma or list end, got: 2");
    assert_eq!(error("a {\n b = 1"), "2:7: object expected closing '}', got: EOF");
    assert_eq!(error("}"), "1:1: expected a key, got: '}'");
    assert_eq!(error("a"), "1:2: key 'a' expected start of object ('{') or assignment ('='), got: EOF");
    assert_eq!(error("a ="), "1:4: expected a value, got: EOF");
    assert_eq!(error("a = 1,, b = 2"), "1:7: expected a key, got: ','");
    assert_eq!(error("a = [,]"), "1:6: expected a value, got: ','");
    assert_eq!(error("ä = 1\n  @"), "2:3: illegal character '@'");
    assert_eq!(error("\"\" = 1"), "1:1: a key cannot be empty");
}

#[test]
fn the_order_of_members_is_remembered() {
    let object = parse("b = 1\na \"x\" {}\nb = 2\n").unwrap();
    let order: Vec<(&str, u32)> = object.in_order().into_iter().map(|(key, line, _)| (key, line)).collect();
    assert_eq!(order, [("b", 1), ("a", 2), ("b", 1)]);
}

#[test]
fn labels_nest_and_are_remembered_as_labels() {
    let object = parse("services \"web\" \"x\" { port = 1 }").unwrap();
    assert_eq!(read("services \"web\" \"x\" { port = 1 }"), json!({"services": {"web": {"x": {"port": 1}}}}));
    let Tree::Object(services) = object.get("services").unwrap().last() else { panic!("not an object") };
    assert!(services.get("web").unwrap().label);
    assert!(error("a \"b\" = 1").contains("a label needs a block"));
}

#[test]
fn repeated_keys_are_all_kept_with_the_line_of_the_first() {
    let object = parse("x = 1\n\nports {}\nports {}\nl = [\"a\"] l = [\"b\"]").unwrap();
    let ports = object.get("ports").unwrap();
    assert_eq!((ports.values.len(), ports.line), (2, 3));
    assert_eq!(object.get("l").unwrap().to_value(OneObjectList::Keep), json!(["a", "b"]));
    assert_eq!(ports.to_value(OneObjectList::Keep), json!([{}, {}]));
}

#[test]
fn nesting_has_a_limit_and_no_stack_is_exhausted() {
    for opening in ["a {", "a = [", "a = [[", "a \"b\" {"] {
        assert!(parse(&opening.repeat(200_000)).is_err(), "{opening}");
    }
    assert!(error(&format!("a {} {{}}", "\"x\" ".repeat(200_000))).contains("nested deeper"));
    let nested = |levels: usize| format!("{}{}", "a {".repeat(levels), "}".repeat(levels));
    assert!(parse(&nested(MAX_DEPTH)).is_ok());
    assert!(parse(&nested(MAX_DEPTH + 1)).is_err());
}

#[test]
fn long_texts_take_time_in_proportion() {
    let many = |n: usize| (0..n).map(|i| format!("k{i} = \"v\" /* c */\n")).collect::<String>();
    let one_line = |n: usize| format!("a = [{}]", "\"v\", ".repeat(n));
    for make in [&many as &dyn Fn(usize) -> String, &one_line] {
        // Ten times the text would take a hundred times as long if anything were quadratic; 60 leaves room for noise, and
        // both are too long for the processor's caches.
        let time = |source: String| {
            (0..3)
                .map(|_| {
                    let start = std::time::Instant::now();
                    assert!(parse(&source).is_ok());
                    start.elapsed()
                })
                .min()
                .unwrap_or_default()
        };
        let (short, long) = (time(make(20_000)), time(make(200_000)));
        assert!(long < short * 60, "{short:?} {long:?}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(source in "(?s).{0,200}") {
        let _ = parse(&source);
    }

    #[test]
    fn no_sequence_of_words_makes_the_parser_panic(
        words in proptest::collection::vec(
            prop_oneof![
                Just("a"), Just("\"b\""), Just("{"), Just("}"), Just("["), Just("]"), Just("="), Just(","), Just(":"),
                Just("1"), Just("-"), Just("0x"), Just("<<E\n"), Just("\nE\n"), Just("\"${"), Just("}\""), Just("\""),
                Just("\\"), Just("\n"), Just("#"), Just("/*"), Just("*/"), Just("true"), Just("é"), Just("."),
            ],
            0..60,
        )
    ) {
        let _ = parse(&words.concat());
        let _ = parse(&words.join(" "));
    }
}
