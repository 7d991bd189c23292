//! What the fuzzer calls: texts of rules.

use crate::rules::{self, Syntax};

/// Rules of the older syntax that are accepted can be translated, and the translation is accepted. Where every key is
/// one of the older syntax it says the same.
pub fn rules(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = rules::parse(text, Syntax::Current);
    let older = rules::parse(text, Syntax::Legacy);
    let translated = rules::translate(text);
    let Ok(older) = older else { return };
    let Ok(translated) = translated else {
        assert!(!older.ignored.is_empty(), "rules of the older syntax alone cannot be translated");
        return;
    };
    match rules::parse(&translated, Syntax::Current) {
        Ok(newer) if older.ignored.is_empty() => assert_eq!(newer.rules, older.rules, "{translated}"),
        Ok(_) => {}
        Err(error) => panic!("{error}\n{translated}"),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_the_fuzzer_keeps_for_rules_breaks_no_promise() {
        lictor_testkit::corpus::replay("acl", super::rules);
    }
}
