//! Texts with matchers in them: `<index>`, `<capture:id:uuid>`, `<ref:id>`.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use crate::difference::Difference;

/// What is known while a scenario runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// The agent's ports; one, or a range of which any fits.
    pub(crate) ports: BTreeMap<String, RangeInclusive<u16>>,
    /// What was captured so far.
    pub(crate) captured: BTreeMap<String, Value>,
}

/// Where a text stands: in JSON a number is a number, elsewhere everything is text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Within {
    Json,
    Text,
}

/// A matcher that stands for a kind of text, as a regular expression.
fn text_kind(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "uuid" => "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}",
        "time" => r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)",
        "duration" => r"-?(?:\d+(?:\.\d+)?(?:ns|us|µs|ms|s|m|h))+",
        "fingerprint" => "[0-9a-f]{2}(?::[0-9a-f]{2}){7,}",
        "serial" => "[0-9a-f]{2}(?::[0-9a-f]{2})*",
        "base64" => "[A-Za-z0-9+/]*={0,2}",
        "pem-cert" => "-----BEGIN CERTIFICATE-----\n(?:[A-Za-z0-9+/=]+\n)+-----END CERTIFICATE-----\n?",
        "pem-key" => {
            "-----BEGIN (?:EC |RSA )?PRIVATE KEY-----\n(?:[A-Za-z0-9+/=]+\n)+-----END (?:EC |RSA )?PRIVATE KEY-----\n?"
        }
        "hash" => "[A-Za-z0-9+/=_-]{6,}",
        "index" => "[1-9][0-9]*",
        "int" => "-?[0-9]+",
        "number" => r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?",
        "text" => "(?s:.+)",
        "any-string" => "(?s:.*)",
        _ => return None,
    })
}

/// Kinds that are numbers where there are numbers.
fn is_number_kind(kind: &str) -> bool {
    matches!(kind, "index" | "int" | "number" | "port")
}

/// Kinds of whole JSON values; `None` for a kind that is none.
fn fits_value_kind(kind: &str, value: &Value) -> Option<bool> {
    Some(match kind {
        "any" | "absent-or-any" => true,
        "object" => value.is_object(),
        "array" => value.is_array(),
        "bool" => value.is_boolean(),
        "any-number" => value.is_number(),
        _ => return None,
    })
}

/// One matcher as written between its brackets.
#[derive(Clone, Copy, Debug)]
struct Matcher<'t> {
    kind: &'t str,
    argument: &'t str,
}

#[derive(Clone, Copy, Debug)]
enum Part<'t> {
    Plain(&'t str),
    Matcher(Matcher<'t>),
}

fn parts(template: &str) -> Vec<Part<'_>> {
    static MATCHER: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"<([a-z][a-z0-9-]*)(?::([^<>\s]*))?>").unwrap());
    let mut parts = Vec::new();
    let mut end = 0;
    for found in MATCHER.captures_iter(template) {
        let (whole, kind) = (found.get(0).unwrap(), found.get(1).unwrap().as_str());
        let is_known = matches!(kind, "capture" | "ref" | "port")
            || text_kind(kind).is_some()
            || fits_value_kind(kind, &Value::Null).is_some();
        // Anything else between brackets is what it is: HTML, for one.
        if is_known {
            parts.push(Part::Plain(&template[end..whole.start()]));
            let argument = found.get(2).map_or("", |argument| argument.as_str());
            parts.push(Part::Matcher(Matcher { kind, argument }));
            end = whole.end();
        }
    }
    parts.push(Part::Plain(&template[end..]));
    parts.retain(|part| !matches!(part, Part::Plain("")));
    parts
}

/// Whether there is a matcher in a text.
pub(crate) fn has_matcher(template: &str) -> bool {
    parts(template).iter().any(|part| matches!(part, Part::Matcher(_)))
}

/// A value as it stands inside a text.
pub(crate) fn as_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

impl Known {
    /// What is sent: references and ports replaced by what they stand for.
    pub(crate) fn fill(&self, value: &Value) -> Value {
        match value {
            Value::Object(members) => {
                Value::Object(members.iter().map(|(key, value)| (self.fill_text(key), self.fill(value))).collect())
            }
            Value::Array(list) => list.iter().map(|value| self.fill(value)).collect(),
            Value::String(text) => match parts(text).as_slice() {
                [Part::Matcher(matcher)] => self.value_of(*matcher).unwrap_or_else(|| value.clone()),
                _ => Value::String(self.fill_text(text)),
            },
            other => other.clone(),
        }
    }

    pub(crate) fn fill_text(&self, text: &str) -> String {
        let fill = |part| match part {
            Part::Plain(plain) => plain.to_owned(),
            Part::Matcher(matcher) => self.value_of(matcher).as_ref().map_or_else(
                || panic!("<{}:{}> in {text:?} stands for nothing", matcher.kind, matcher.argument),
                as_text,
            ),
        };
        parts(text).into_iter().map(fill).collect()
    }

    /// How many references in a value are to what is not captured yet.
    pub(crate) fn unknown_references(&self, value: &Value) -> usize {
        let text = value.to_string();
        let names = text.split("<ref:").skip(1).filter_map(|rest| rest.split('>').next());
        names.filter(|name| !self.captured.contains_key(*name)).count()
    }

    fn value_of(&self, matcher: Matcher<'_>) -> Option<Value> {
        match matcher.kind {
            "ref" => self.captured.get(matcher.argument).cloned(),
            "port" => self.ports.get(matcher.argument).map(|ports| (*ports.start()).into()),
            _ => None,
        }
    }

    /// Holds a value against a text with or without matchers, and captures what it is told to.
    pub(crate) fn fit(
        &mut self,
        template: &str,
        actual: &Value,
        place: &str,
        within: Within,
    ) -> Result<(), Difference> {
        let differs = || Difference::new(place, template, actual);
        match parts(template).as_slice() {
            [Part::Matcher(matcher)] => {
                if self.fits_whole(*matcher, actual, within) {
                    Ok(())
                } else {
                    Err(differs())
                }
            }
            parts => {
                let text = actual.as_str().ok_or_else(differs)?;
                self.fit_text(parts, text).ok_or_else(differs)
            }
        }
    }

    fn fits_whole(&mut self, matcher: Matcher<'_>, actual: &Value, within: Within) -> bool {
        let Matcher { kind, argument } = matcher;
        match kind {
            "ref" => self.captured.get(argument).is_some_and(|known| match within {
                Within::Json => known == actual || (as_text(known) == as_text(actual) && !known.is_string()),
                Within::Text => as_text(known) == as_text(actual),
            }),
            "capture" => {
                let (name, kind) = argument.split_once(':').unwrap_or((argument, ""));
                let fits = match kind.split_once(':').unwrap_or((kind, "")) {
                    ("", _) => !matches!(actual, Value::Null) && actual.as_str() != Some(""),
                    (kind, argument) => self.fits_kind(Matcher { kind, argument }, actual, within),
                };
                if fits {
                    self.captured.insert(name.to_owned(), actual.clone());
                }
                fits
            }
            _ => self.fits_kind(matcher, actual, within),
        }
    }

    fn fits_kind(&self, matcher: Matcher<'_>, actual: &Value, within: Within) -> bool {
        if let Some(fits) = fits_value_kind(matcher.kind, actual) {
            return fits;
        }
        let must_be_number = within == Within::Json && is_number_kind(matcher.kind) && matcher.kind != "port";
        let text = match actual {
            Value::Number(number) if is_number_kind(matcher.kind) => number.to_string(),
            Value::String(text) if !must_be_number => text.clone(),
            _ => return false,
        };
        Regex::new(&format!("^(?:{})$", self.pattern(matcher))).unwrap().is_match(&text)
    }

    /// Text with matchers in its middle.
    fn fit_text(&mut self, parts: &[Part<'_>], actual: &str) -> Option<()> {
        let mut pattern = "^".to_owned();
        let mut names = Vec::new();
        for part in parts {
            match part {
                Part::Plain(plain) => pattern.push_str(&regex::escape(plain)),
                Part::Matcher(Matcher { kind: "capture", argument }) => {
                    let (name, kind) = argument.split_once(':').unwrap_or((argument, ""));
                    let (kind, argument) = kind.split_once(':').unwrap_or((kind, ""));
                    let kind =
                        if kind.is_empty() { "(?s:.+?)".into() } else { self.pattern(Matcher { kind, argument }) };
                    pattern.push_str(&format!("({kind})"));
                    names.push(name.to_owned());
                }
                Part::Matcher(matcher) => pattern.push_str(&format!("(?:{})", self.pattern(*matcher))),
            }
        }
        pattern.push('$');
        let found = Regex::new(&pattern).unwrap().captures(actual)?;
        for (name, value) in names.into_iter().zip(found.iter().skip(1).flatten()) {
            self.captured.insert(name, value.as_str().into());
        }
        Some(())
    }

    fn pattern(&self, matcher: Matcher<'_>) -> String {
        let Matcher { kind, argument } = matcher;
        match kind {
            "ref" => regex::escape(&self.captured.get(argument).map_or_else(|| "\0".into(), as_text)),
            "port" => {
                let ports = self.ports.get(argument).unwrap_or_else(|| panic!("there is no port {argument:?}"));
                ports.clone().map(|port| port.to_string()).collect::<Vec<_>>().join("|")
            }
            kind => text_kind(kind).unwrap_or("(?s:.*)").to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fits(known: &mut Known, template: &str, actual: Value) -> bool {
        known.fit(template, &actual, "", Within::Json).is_ok()
    }

    #[test]
    fn matchers_fit_what_their_names_say() {
        let known = &mut Known::default();
        known.ports.insert("proxy".into(), 20_000..=20_002);
        assert!(
            fits(known, "<index>", json!(7))
                && !fits(known, "<index>", json!("7"))
                && !fits(known, "<index>", json!(0))
        );
        assert!(fits(known, "<port:proxy>", json!(20_001)) && !fits(known, "<port:proxy>", json!(20_003)));
        assert!(fits(known, "at 127.0.0.1:<port:proxy>", json!("at 127.0.0.1:20002")));
        assert!(fits(known, "<text>", json!("a\nb")) && !fits(known, "<text>", json!("")));
        assert!(fits(known, "<any-string>", json!("")) && fits(known, "<any>", json!(null)));
        assert!(fits(known, "<a href=\"x\">", json!("<a href=\"x\">")), "no matcher");
        assert!(!fits(known, "plain", json!("plainer")));
    }

    #[test]
    fn what_was_captured_is_referred_to() {
        let known = &mut Known::default();
        assert!(fits(known, "<capture:i:index>", json!(12)));
        assert!(fits(known, "<capture:name>-proxy", json!("web-proxy")));
        assert!(fits(known, "<ref:i>", json!(12)) && !fits(known, "<ref:i>", json!(13)));
        assert!(!fits(known, "<ref:unknown>", json!(null)));
        assert_eq!(known.fill(&json!({"a": ["<ref:i>", "/x?<ref:name>=<ref:i>"]})), json!({"a": [12, "/x?web=12"]}));
    }
}
