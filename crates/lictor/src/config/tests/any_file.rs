//! Files with any keys and any values: each loads or is refused with a place and a remedy, and nothing panics.

use proptest::prelude::*;

use super::*;

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("true".to_owned()),
        Just("-1".to_owned()),
        Just("0".to_owned()),
        Just("2.5".to_owned()),
        Just("99999999999".to_owned()),
        Just("\"\"".to_owned()),
        Just("\"10s\"".to_owned()),
        Just("\"-5m\"".to_owned()),
        Just("\"é\"".to_owned()),
        Just("\"{{ GetAllInterfaces | attr \\\"address\\\" }}\"".to_owned()),
        Just("\"unix:///x\"".to_owned()),
        Just("[]".to_owned()),
        Just("[\"a\"]".to_owned()),
        Just("[{}]".to_owned()),
        Just("[{} {}]".to_owned()),
        Just("{}".to_owned()),
        Just("{ a = \"b\" }".to_owned()),
        Just("{ name = \"a\" port = 1 connect { proxy { upstreams {} } sidecar_service {} } }".to_owned()),
        Just("{ type = \"key\" handler = 1 }".to_owned()),
    ]
}

fn file() -> impl Strategy<Value = String> {
    proptest::collection::vec((proptest::sample::select(KEYS), value()), 0..12).prop_map(|members| {
        let mut text = String::new();
        for (key, value) in members {
            let groups = key.path.matches('.').count();
            text.push_str(&key.path.replace('.', " { "));
            text.push_str(&format!(" = {value}{}\n", " }".repeat(groups)));
        }
        text
    })
}

proptest! {
    #[test]
    fn every_file_loads_or_is_refused_with_a_remedy(text in file()) {
        match load(&["-dev"], &[("a.hcl", &text)]) {
            Ok(loaded) => prop_assert!(loaded.notices.iter().all(|notice| !notice.text.is_empty())),
            Err(errors) => {
                prop_assert!(!errors.headline().is_empty());
                for problem in errors.problems() {
                    prop_assert!(!problem.text.is_empty() && !problem.remedy.is_empty(), "{problem:?}");
                }
            }
        }
    }
}
