//! What rules say, and what is refused.

use lictor_model::acl::Caller;
use lictor_model::intention::Action;
use proptest::prelude::*;

use super::*;

fn rules(text: &str) -> Rules {
    parse(text, Syntax::Current).unwrap().rules
}

fn caller(text: &str) -> Caller {
    Caller::with_rules("a", rules(text), Action::Deny)
}

fn refusal(text: &str) -> String {
    parse(text, Syntax::Current).unwrap_err()
}

#[test]
fn blocks_are_about_a_name_and_prefix_blocks_about_all_that_begin_so() {
    let caller = caller(
        r#"service "web" { policy = "write" } service_prefix "db-" { policy = "read" intentions = "write" }
           node_prefix "" { policy = "read" } key_prefix "app/" { policy = "list" } session "n1" { policy = "write" }
           agent "n1" { policy = "read" } query_prefix "q" { policy = "write" } event "e" { policy = "write" }
           operator = "read" keyring = "write" acl = "read""#,
    );
    assert!(caller.writes_service("web") && !caller.reads_service("web-1"));
    assert!(caller.reads_service("db-1") && !caller.writes_service("db-1"));
    assert!(caller.may(Access::Write, Resource::Intention, "db-1"));
    assert!(caller.reads_node("anything"));
    assert!(caller.may(Access::List, Resource::Key, "app/x") && !caller.may(Access::Write, Resource::Key, "app/x"));
    assert!(caller.may(Access::Write, Resource::Session, "n1") && !caller.may(Access::Read, Resource::Session, "n2"));
    assert!(caller.may(Access::Read, Resource::Agent, "n1"));
    assert!(caller.may(Access::Write, Resource::Query, "query") && caller.may(Access::Write, Resource::Event, "e"));
    assert!(caller.may_in(Access::Read, Realm::Operator) && !caller.may_in(Access::Write, Realm::Operator));
    assert!(caller.may_in(Access::Write, Realm::Keyring) && caller.may_in(Access::Read, Realm::Acl));
}

#[test]
fn json_says_the_same_as_hcl() {
    let hcl = rules(r#"key_prefix "" { policy = "read" } key "a" { policy = "deny" } acl = "write""#);
    for json in [
        r#"{"key_prefix": {"": {"policy": "read"}}, "key": {"a": {"policy": "deny"}}, "acl": "write"}"#,
        r#"{"key_prefix": [{"": [{"policy": "read"}]}], "KEY": [{"a": {"Policy": "deny"}}], "acl": "write"}"#,
    ] {
        assert_eq!(rules(json), hcl, "{json}");
    }
}

#[test]
fn the_same_name_twice_is_merged_with_deny_first() {
    let caller = caller(r#"key "a" { policy = "deny" } key "a" { policy = "write" }"#);
    assert!(!caller.may(Access::Read, Resource::Key, "a"));
}

#[test]
fn in_the_older_syntax_every_name_is_a_prefix() {
    let parsed = parse(r#"key "a/" { policy = "read" } service "" { policy = "write" }"#, Syntax::Legacy).unwrap();
    let caller = Caller::with_rules("a", parsed.rules, Action::Deny);
    assert!(caller.may(Access::Read, Resource::Key, "a/b") && caller.writes_service("web"));
    let newer = parse(r#"key_prefix "a/" { policy = "read" }"#, Syntax::Legacy).unwrap();
    assert_eq!(newer.ignored, ["key_prefix"]);
}

#[test]
fn what_nobody_knows_is_ignored_and_told() {
    let parsed = parse(r#"servce "web" { policy = "write" } key "a" { policy = "read" extra = 1 }"#, Syntax::Current);
    let parsed = parsed.unwrap();
    assert_eq!(parsed.ignored, ["servce"]);
    assert_eq!(parsed.rules, rules(r#"key "a" { policy = "read" }"#));
}

#[test]
fn words_that_are_no_policy_are_refused() {
    assert_eq!(refusal(r#"service "a" { policy = "fly" }"#), r#"Invalid service policy: "fly" for "a""#);
    assert_eq!(refusal(r#"service "a" { policy = "list" }"#), r#"Invalid service policy: "list" for "a""#);
    assert_eq!(refusal(r#"key_prefix "" { }"#), r#"Invalid key_prefix policy: "" for """#);
    assert_eq!(
        refusal(r#"service_prefix "a" { policy = "read" intentions = "list" }"#),
        r#"Invalid service_prefix intentions policy: "list" for "a""#
    );
    assert_eq!(refusal(r#"acl = "list""#), r#"Invalid acl policy: "list""#);
    assert_eq!(refusal(r#"operator = "none""#), r#"Invalid operator policy: "none""#);
}

#[test]
fn a_text_that_is_no_language_is_refused_with_its_place() {
    assert_eq!(
        refusal("service \"a\""),
        "Failed to parse ACL rules: At 1:12: key 'service' expected start of object ('{') or assignment ('='), got: EOF"
    );
    for lost in [
        r#"service = "deny""#,
        r#"service { policy = "deny" }"#,
        r#"service "a" { policy = 1 }"#,
        r#"service "a" "b" { policy = "deny" }"#,
        "acl = true",
        "{{{",
    ] {
        let text = refusal(lost);
        assert!(
            text.starts_with("Failed to parse ACL rules: ") || text.starts_with("Invalid service policy"),
            "{text}"
        );
    }
}

#[test]
fn older_rules_are_written_in_their_order_as_prefixes() {
    let old = "service \"\" { policy = \"read\" intentions = \"read\" }\nkey \"a/\" { policy = \"write\" }\n\
               node \"n\" { policy = \"deny\" }\nquery \"\" { policy = \"read\" }\noperator = \"read\"\nkeyring = \"write\"";
    let new = "service_prefix \"\" {\n  policy = \"read\"\n\n  intentions = \"read\"\n}\n\nkey_prefix \"a/\" {\n  policy \
               = \"write\"\n}\n\nnode_prefix \"n\" {\n  policy = \"deny\"\n}\n\nquery_prefix \"\" {\n  policy = \
               \"read\"\n}\n\noperator = \"read\"\n\nkeyring = \"write\"";
    assert_eq!(translate(old).unwrap(), new);
    assert_eq!(translate("").unwrap(), "");
    let lines = "service \"a\" {\n  policy = \"read\"\n  intentions = \"deny\"\n}";
    assert_eq!(
        translate(lines).unwrap(),
        "service_prefix \"a\" {\n  policy     = \"read\"\n  intentions = \"deny\"\n}"
    );
    assert!(translate("{{").unwrap_err().starts_with("Failed to parse rules: At 1:"));
}

/// Texts that are nearly rules.
fn nearly_rules() -> impl Strategy<Value = String> {
    let key = prop_oneof![
        proptest::sample::select(vec![
            "agent",
            "event",
            "key",
            "node",
            "query",
            "service",
            "session",
            "acl",
            "keyring",
            "operator",
            "KEY",
            "service_prefix",
            "key_prefix",
            "node_prefix",
            "other",
        ])
        .prop_map(str::to_owned),
        "[a-z_]{1,6}",
    ];
    let word = proptest::sample::select(vec!["read", "write", "deny", "list", "", "fly"]);
    let name = "[a-z/\\\\\"ü]{0,4}";
    let item = (key, name, word.clone(), word, 0..6_u8).prop_map(|(key, name, policy, intentions, shape)| {
        let name = name.replace('\\', "\\\\").replace('"', "\\\"");
        match shape {
            0 => format!("{key} = \"{policy}\""),
            1 => format!("{key} \"{name}\" {{ policy = \"{policy}\" intentions = \"{intentions}\" }}"),
            2 => format!("{key} \"{name}\" {{\n  policy = \"{policy}\"\n  intentions = \"{intentions}\"\n}}"),
            3 => format!("{key} {{ {key} = [\"{name}\", {{ a = 1 }}] }}"),
            4 => format!("{key} = [{{ \"{name}\" {{ policy = \"{policy}\" }} }}]"),
            _ => format!("{key} \"{name}\" {{ policy = \"{policy}\" }}"),
        }
    });
    proptest::collection::vec(item, 0..8).prop_map(|items| items.join("\n"))
}

proptest! {
    #[test]
    fn no_text_at_all_is_too_much(text in any::<String>()) {
        let _ = parse(&text, Syntax::Current);
        let _ = parse(&text, Syntax::Legacy);
        let _ = translate(&text);
    }

    #[test]
    fn what_is_translated_says_the_same(text in nearly_rules()) {
        let current = parse(&text, Syntax::Current);
        if let Ok(parsed) = &current {
            // A word is never read as more than it says.
            let caller = Caller::with_rules("a", parsed.rules.clone(), Action::Deny);
            prop_assert!(text.contains("write") || !caller.may(Access::Write, Resource::Service, "a"));
        }
        // These mean nothing in the older syntax, whatever stands under them.
        let means_nothing = text.contains("_prefix") || text.contains("acl");
        if let (Ok(old), false) = (parse(&text, Syntax::Legacy), means_nothing) {
            let new = translate(&text).unwrap();
            let again = parse(&new, Syntax::Current).unwrap_or_else(|error| panic!("{error}\n{text}\n->\n{new}"));
            prop_assert_eq!(again.rules, old.rules, "{}\n->\n{}", text, new);
        }
    }
}

#[test]
fn keys_of_the_current_syntax_are_passed_on_if_they_can_be_read() {
    let current = "service_prefix \"a\" {\n  policy = \"read\"\n}";
    assert_eq!(translate(current).unwrap(), current);
    let wrong = r#"key "a" { policy = "read" } service_prefix "" { policy = "x" }"#;
    assert!(parse(wrong, Syntax::Legacy).is_ok());
    assert_eq!(translate(wrong).unwrap_err(), r#"Invalid service_prefix policy: "x" for """#);
}
