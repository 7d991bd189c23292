//! Metadata of nodes and services: small maps with limits that clients rely on.

use std::collections::BTreeMap;

/// Key-value pairs of a node or a service.
pub type Meta = BTreeMap<String, String>;

const MAX_PAIRS: usize = 64;
const MAX_KEY: usize = 128;
const MAX_VALUE: usize = 512;

/// Checks the limits the original has for node and service metadata; the text is the one its clients know.
pub fn validate(meta: &Meta) -> Result<(), String> {
    if meta.len() > MAX_PAIRS {
        return Err(format!("Node metadata cannot contain more than {MAX_PAIRS} key/value pairs"));
    }
    for (key, value) in meta {
        if let Some(why) = pair_problem(key, value) {
            return Err(format!("Couldn't load metadata pair ('{key}', '{value}'): {why}"));
        }
    }
    Ok(())
}

fn pair_problem(key: &str, value: &str) -> Option<String> {
    if key.is_empty() {
        return Some("Key cannot be blank".into());
    }
    if !key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
        return Some("Key contains invalid characters".into());
    }
    if key.len() > MAX_KEY {
        return Some(format!("Key is too long (limit: {MAX_KEY} characters)"));
    }
    if key.starts_with("consul-") {
        return Some("Key prefix 'consul-' is reserved for internal use".into());
    }
    if value.len() > MAX_VALUE {
        return Some(format!("Value is too long (limit: {MAX_VALUE} characters)"));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(key: &str, value: &str) -> String {
        validate(&Meta::from([(key.to_owned(), value.to_owned())])).unwrap_err()
    }

    #[test]
    fn each_limit_has_its_text() {
        assert!(problem("", "v").ends_with("Key cannot be blank"));
        assert!(problem("a b", "v").ends_with("Key contains invalid characters"));
        assert!(problem(&"k".repeat(129), "v").ends_with("Key is too long (limit: 128 characters)"));
        assert!(problem("consul-x", "1").ends_with("Key prefix 'consul-' is reserved for internal use"));
        assert!(problem("k", &"v".repeat(513)).ends_with("Value is too long (limit: 512 characters)"));
        assert!(validate(&(0..64).map(|i| (format!("k{i}"), String::new())).collect()).is_ok());
        assert!(validate(&(0..65).map(|i| (format!("k{i}"), String::new())).collect()).is_err());
    }
}
