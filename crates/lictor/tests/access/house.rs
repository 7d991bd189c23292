//! An agent with access control, and short ways to ask it as somebody.

use std::time::Duration;

use lictor_testkit::House;
use lictor_testkit::http::{self, Answer};
use serde_json::{Value, json};

/// The binary under test.
pub(crate) const LICTOR: &str = env!("CARGO_BIN_EXE_lictor");

/// The secret of the token that may do everything.
pub(crate) const ROOT: &str = "7a0c4a3e-0000-4000-8000-00000000abcd";

/// More than anything takes that works.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Denies what no rule allows.
pub(crate) fn guarded(more: Value) -> Value {
    let mut config = json!({"acl": {"enabled": true, "default_policy": "deny", "tokens": {"master": ROOT}}});
    for (key, value) in more.as_object().unwrap() {
        match (config.get_mut(key).and_then(Value::as_object_mut), value.as_object()) {
            (Some(present), Some(more)) => present.extend(more.clone()),
            _ => config[key] = value.clone(),
        }
    }
    config
}

/// One request with a token; empty for none.
pub(crate) fn try_as(
    house: &House,
    token: &str,
    (method, path): (&str, &str),
    body: &str,
    limit: Duration,
) -> std::io::Result<Answer> {
    let headers = [("X-Consul-Token", token)];
    let headers = if token.is_empty() { &headers[..0] } else { &headers[..] };
    http::request(house.http_port, method, path, headers, body.as_bytes(), limit)
}

/// One request with a token.
#[track_caller]
pub(crate) fn ask_as(house: &House, token: &str, method: &str, path: &str, body: Value) -> Answer {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let answer = try_as(house, token, (method, path), &body, PATIENCE);
    answer.unwrap_or_else(|error| panic!("{method} {path}: {error}\n{}", house.log()))
}

/// One request that must succeed, by who may do everything.
#[track_caller]
pub(crate) fn as_root(house: &House, method: &str, path: &str, body: Value) -> Value {
    let answer = ask_as(house, ROOT, method, path, body);
    assert_eq!(answer.status, 200, "{method} {path}: {}", answer.text());
    if answer.body.is_empty() { Value::Null } else { answer.json() }
}

/// A text of a JSON answer.
#[track_caller]
pub(crate) fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_else(|| panic!("no {field} in {value}")).to_owned()
}

/// A new token with these rules; gives its secret.
#[track_caller]
pub(crate) fn token_with(house: &House, name: &str, rules: &str) -> String {
    as_root(house, "PUT", "/v1/acl/policy", json!({"Name": name, "Rules": rules}));
    text(&as_root(house, "PUT", "/v1/acl/token", json!({"Policies": [{"Name": name}]})), "SecretID")
}
