//! What looks like a secret in what people are shown: values whose name says so, and what URLs hold beside an address.

use serde_json::Value;

use crate::Opaque;

/// What stands in the place of a secret.
pub const HIDDEN: &str = "hidden";

/// Parts of the names of secrets, in small letters and without what separates words.
const PARTS: [&str; 9] =
    ["password", "passwd", "passphrase", "pwd", "secret", "token", "key", "credential", "authorization"];
/// The same, where they are words of their own; as parts they are in too many others.
const WORDS: [&str; 2] = ["pass", "pw"];

/// Whether a value of this name is not for everybody's eyes.
pub fn is_named(name: &str) -> bool {
    let plain: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
    let plain = plain.to_ascii_lowercase();
    PARTS.iter().any(|part| plain.contains(part))
        || name
            .split(|c: char| !c.is_ascii_alphanumeric())
            .any(|word| WORDS.iter().any(|secret| word.eq_ignore_ascii_case(secret)))
}

/// Hides what may be secret in a map whose shape is somebody else's, at any depth.
pub fn hide(settings: &mut Opaque) {
    for (name, value) in settings {
        let is_empty = match value {
            // Whether there is one is no secret, and nothing is none either.
            Value::Null | Value::Bool(_) => true,
            Value::Number(_) => false,
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(members) => members.is_empty(),
        };
        if is_named(name) && !is_empty {
            *value = HIDDEN.into();
        } else {
            hide_in(value);
        }
    }
}

fn hide_in(value: &mut Value) {
    match value {
        Value::Object(members) => hide(members),
        Value::Array(items) => items.iter_mut().for_each(hide_in),
        Value::String(text) => hide_in_url(text),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Hides what URLs hold, in all texts at any depth and whatever their names.
pub fn hide_in_urls(value: &mut Value) {
    match value {
        Value::Object(members) => members.values_mut().for_each(hide_in_urls),
        Value::Array(items) => items.iter_mut().for_each(hide_in_urls),
        Value::String(text) => hide_in_url(text),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn hide_in_url(text: &mut String) {
    if text.contains("://") {
        *text = url(text);
    }
}

/// The text with the user and password of each URL in it hidden, and parameters whose name says that they are secret.
pub fn url(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        shown.push_str(before);
        shown.push_str("://");
        let end = after.find(|c: char| c.is_whitespace() || matches!(c, '"' | '<' | '>')).unwrap_or(after.len());
        let (this, next) = after.split_at(end);
        let authority = &this[..this.find(['/', '?', '#']).unwrap_or(this.len())];
        let (user, address) = authority.rsplit_once('@').map_or((None, authority), |(user, at)| (Some(user), at));
        if user.is_some() {
            shown.push_str(HIDDEN);
            shown.push('@');
        }
        shown.push_str(address);
        let this = &this[authority.len()..];
        match this.split_once('?') {
            None => shown.push_str(this),
            Some((path, query)) => {
                shown.push_str(path);
                for (position, part) in query.split('&').enumerate() {
                    shown.push(if position == 0 { '?' } else { '&' });
                    match part.split_once('=') {
                        Some((name, value)) if is_named(name) && !value.is_empty() => {
                            shown.push_str(name);
                            shown.push('=');
                            shown.push_str(HIDDEN);
                        }
                        _ => shown.push_str(part),
                    }
                }
            }
        }
        rest = next;
    }
    shown.push_str(rest);
    shown
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_say_what_is_secret() {
        for name in ["db_password", "DBPassword", "ApiKey", "api-key", "auth-token", "Secret", "PWD", "db.pass", "pw"] {
            assert!(is_named(name), "{name}");
        }
        for name in ["bind_port", "bypass", "only_passing", "passthrough", "local_service_address", "protocol", ""] {
            assert!(!is_named(name), "{name}");
        }
    }

    #[test]
    fn what_may_be_secret_is_hidden_at_any_depth() {
        let mut map = json!({
            "LeafCertTTL": "72h", "PrivateKey": "x", "use_token": true, "token": "", "secrets": [], "pin_key": 7,
            "deep": [{"api_token": "y", "Secret": {"a": 1}, "b": 2}, "http://u:p@h/"], "Address": "https://u:p@vault:8200",
        });
        hide(map.as_object_mut().unwrap());
        let shown = json!({
            "LeafCertTTL": "72h", "PrivateKey": "hidden", "use_token": true, "token": "", "secrets": [],
            "pin_key": "hidden", "deep": [{"api_token": "hidden", "Secret": "hidden", "b": 2}, "http://hidden@h/"],
            "Address": "https://hidden@vault:8200",
        });
        assert_eq!(map, shown);
    }

    #[test]
    fn urls_are_shown_without_users_passwords_and_tokens() {
        for (told, shown) in [
            ("http://h:80/a@b?c=d", "http://h:80/a@b?c=d"),
            ("http://user:pa@ss@h:80/x", "http://hidden@h:80/x"),
            ("http://tok@h?token=a&x=1&key=", "http://hidden@h?token=hidden&x=1&key="),
            (
                "curl -s \"http://u:p@a/\" https://u:p@b | tee x@y",
                "curl -s \"http://hidden@a/\" https://hidden@b | tee x@y",
            ),
            ("no url: a@b", "no url: a@b"),
            ("://", "://"),
        ] {
            assert_eq!(url(told), shown);
        }
    }
}
