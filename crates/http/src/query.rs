//! The query string: parsed once, looked up by name.

use std::borrow::Cow;
use std::fmt::Write as _;

use crate::path::{self, hex_pair};

/// The parameters of a request in the order given.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

/// A query string with a percent-encoding that does not decode.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

impl<'a> Query<'a> {
    /// Reads `a=1&b&c=%20`; a semicolon separates like an ampersand.
    pub(crate) fn parse(raw: &'a str) -> Result<Query<'a>, Malformed> {
        let mut pairs = Vec::new();
        for part in raw.split(['&', ';']).filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            pairs.push((decode(name)?, decode(value)?));
        }
        Ok(Query(pairs))
    }

    /// The first value of a parameter; empty when it is absent.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.all(name).next().unwrap_or_default()
    }

    /// Whether a parameter is present, with or without a value.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.all(name).next().is_some()
    }

    /// All parameters as a text for error messages: ordered by name and encoded, without secrets.
    pub(crate) fn shown(&self) -> String {
        let mut pairs: Vec<_> = self.0.iter().filter(|(name, _)| name != "token").collect();
        pairs.sort_by(|(one, _), (other, _)| one.cmp(other));
        let shown = pairs.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value)));
        shown.collect::<Vec<_>>().join("&")
    }

    /// All values of a parameter.
    pub(crate) fn all<'q>(&'q self, name: &str) -> impl Iterator<Item = &'q str> {
        self.0.iter().filter(move |(present, _)| present == name).map(|(_, value)| value.as_ref())
    }
}

fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' ' => encoded.push('+'),
            byte if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) => encoded.push(char::from(byte)),
            // Writing to a String cannot fail.
            byte => drop(write!(encoded, "%{byte:02X}")),
        }
    }
    encoded
}

fn decode(text: &str) -> Result<Cow<'_, str>, Malformed> {
    if !text.bytes().any(|byte| matches!(byte, b'%' | b'+')) {
        return Ok(Cow::Borrowed(text));
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        match byte {
            b'%' => {
                decoded.push(hex_pair(tail).ok_or(Malformed)?);
                rest = &tail[2..];
            }
            b'+' => decoded.push(b' '),
            byte => decoded.push(byte),
        }
    }
    Ok(Cow::Owned(String::from_utf8(decoded).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())))
}

/// Where the older form of access control has secrets in paths.
const SECRET_PATHS: [&str; 3] = ["/v1/acl/destroy/", "/v1/acl/info/", "/v1/acl/clone/"];

/// A request target as it may be logged: secrets are hidden.
pub(crate) fn redacted(target: &str) -> Cow<'_, str> {
    let path = target.split('?').next().unwrap_or_default();
    let decoded = path::decode(path).unwrap_or_default();
    if let Some(prefix) = SECRET_PATHS.iter().find(|prefix| decoded.starts_with(**prefix)) {
        return Cow::Owned(format!("{prefix}<hidden>"));
    }
    without_tokens(target)
}

/// The same with values of `token` hidden.
fn without_tokens(target: &str) -> Cow<'_, str> {
    if !target.contains("token") && !target.contains('%') {
        return Cow::Borrowed(target);
    }
    let Some((path, query)) = target.split_once('?') else { return Cow::Borrowed(target) };
    let mut shown = format!("{path}?");
    for (position, part) in query.split('&').enumerate() {
        if position > 0 {
            shown.push('&');
        }
        let name = part.split('=').next().unwrap_or_default();
        // The parameter may be hidden behind an encoding or a semicolon; both are rare enough to hide the whole part.
        if part.contains(';') || !matches!(decode(name).as_deref(), Ok(name) if name != "token") {
            shown.push_str("token=<hidden>");
        } else {
            shown.push_str(part);
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_found_by_name() {
        let query = Query::parse("tag=a&pretty&tag=b%2Bc&x=1+2&&y=&z=a=b;w=3").unwrap();
        assert_eq!(query.all("tag").collect::<Vec<_>>(), ["a", "b+c"]);
        assert_eq!(query.get("tag"), "a");
        assert_eq!(query.get("x"), "1 2");
        assert!(query.has("pretty") && query.has("y") && !query.has("none"));
        assert_eq!(query.get("z"), "a=b");
        assert_eq!(query.get("w"), "3");
        assert_eq!(query.get("none"), "");
    }

    #[test]
    fn a_bad_encoding_spoils_the_whole_query() {
        for raw in ["a=%zz", "%=1", "a=%4"] {
            assert_eq!(Query::parse(raw), Err(Malformed), "{raw}");
        }
        assert_eq!(Query::parse("a=%ff").unwrap().get("a"), "\u{fffd}");
    }

    #[test]
    fn parameters_are_shown_in_order_and_without_secrets() {
        let query = Query::parse("release=a%20b&token=s&acquire=x%2F&raw").unwrap();
        assert_eq!(query.shown(), "acquire=x%2F&raw=&release=a+b");
    }

    #[test]
    fn secrets_are_not_logged() {
        assert_eq!(redacted("/v1/kv/a?token=s&x=1"), "/v1/kv/a?token=<hidden>&x=1");
        assert_eq!(redacted("/v1/kv/a?x=1&%74oken=s"), "/v1/kv/a?x=1&token=<hidden>");
        assert_eq!(redacted("/v1/kv/a?x=1;token=s"), "/v1/kv/a?token=<hidden>");
        assert_eq!(redacted("/v1/kv/token?x=1"), "/v1/kv/token?x=1");
        assert_eq!(redacted("/v1/acl/info/s?pretty"), "/v1/acl/info/<hidden>");
        assert_eq!(redacted("/v1/acl/%63lone/s"), "/v1/acl/clone/<hidden>");
        assert_eq!(redacted("/v1/acl/token/a"), "/v1/acl/token/a");
    }
}
