//! What the fuzzer calls: texts of both languages, and the promises about them.

use crate::tree::{OneObjectList, Tree};
use crate::{hcl, json};

/// What was read as HCL means the same when it is written as JSON and read again.
pub fn hcl(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(object) = hcl::parse(text) else { return };
    let meant = Tree::Object(object).to_value(OneObjectList::Keep);
    let written = meant.to_string();
    match hcl::parse(&written) {
        Ok(again) => assert_eq!(Tree::Object(again).to_value(OneObjectList::Keep), meant, "{written}"),
        // A key that is written twice becomes a list, which is one level more.
        Err(error) => assert!(error.text.contains("nested deeper"), "{error}\n{written}"),
    }
}

/// What our reader of JSON takes means what the library says it means, and what the library takes our reader takes.
pub fn json(bytes: &[u8]) {
    let first = json::decode_first(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let ours = json::parse(text);
    if let Ok(tree) = &ours {
        assert!(first.as_ref() == Ok(tree), "a whole text is read otherwise than its first value");
        let meant = tree.to_value(OneObjectList::Keep);
        let again = json::parse(&meant.to_string()).map(|tree| tree.to_value(OneObjectList::Keep));
        assert_eq!(again.as_ref(), Ok(&meant));
    }
    match (&ours, serde_json::from_str::<serde_json::Value>(text)) {
        (Ok(tree), Ok(theirs)) => {
            assert!(same(&tree.to_value(OneObjectList::Keep), &theirs), "{tree:?} is not {theirs}")
        }
        (Err(error), Ok(_)) => assert!(error.text.contains("nested deeper"), "only we refuse: {error}"),
        // Halves of surrogate pairs and numbers beyond all range are read as the original reads them.
        (Ok(_), Err(error)) => assert!(
            text.contains("\\u") || error.to_string().contains("out of range"),
            "only the library refuses: {error}"
        ),
        (Err(_), Err(_)) => {}
    }
}

/// Equal, where a number is the same however it is written.
fn same(one: &serde_json::Value, other: &serde_json::Value) -> bool {
    use serde_json::Value;
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one == other || one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(key, one)| other.get(key).is_some_and(|other| same(one, other)))
        }
        (one, other) => one == other,
    }
}

#[cfg(test)]
mod tests {
    use lictor_testkit::corpus;

    #[test]
    fn what_the_fuzzer_keeps_for_hcl_breaks_no_promise() {
        corpus::replay("hcl", super::hcl);
    }

    #[test]
    fn what_the_fuzzer_keeps_for_bodies_breaks_no_promise_about_json() {
        corpus::replay("json", super::json);
    }
}
