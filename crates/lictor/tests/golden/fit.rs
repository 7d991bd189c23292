//! Holding a JSON value against a recorded one.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::difference::Difference;
use crate::template::{Known, Within, has_matcher};

/// What a recorded value tells about how strictly it is meant. Paths are written `$.Nodes[*].ID`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Leniency {
    /// Lists whose order does not matter.
    pub(crate) unordered: BTreeSet<String>,
    /// Objects that may have more fields.
    pub(crate) open: BTreeSet<String>,
}

const ABSENT: &str = "(absent)";

impl Leniency {
    /// Whether `actual` fits; captures are kept only when it does.
    pub(crate) fn fit(&self, known: &mut Known, expected: &Value, actual: &Value) -> Result<(), Difference> {
        let mut attempt = known.clone();
        self.value(&mut attempt, expected, actual, "body", "$")?;
        *known = attempt;
        Ok(())
    }

    fn value(
        &self,
        known: &mut Known,
        expected: &Value,
        actual: &Value,
        place: &str,
        path: &str,
    ) -> Result<(), Difference> {
        let differs = || Difference::new(place, expected, actual);
        match (expected, actual) {
            (Value::String(template), actual) => known.fit(template, actual, place, Within::Json),
            (Value::Object(_), Value::Object(_)) => self.object(known, expected, actual, place, path),
            (Value::Array(wanted), Value::Array(given)) => {
                if wanted.len() != given.len() {
                    return Err(differs());
                }
                let below = format!("{path}[*]");
                if self.unordered.contains(path) {
                    let given: Vec<&Value> = given.iter().collect();
                    return self.in_any_order(known, wanted, &given, place, &below);
                }
                for (position, (wanted, given)) in wanted.iter().zip(given).enumerate() {
                    self.value(known, wanted, given, &format!("{place}[{position}]"), &below)?;
                }
                Ok(())
            }
            (Value::Number(wanted), Value::Number(given)) if wanted.as_f64() == given.as_f64() => Ok(()),
            (wanted, given) if wanted == given => Ok(()),
            _ => Err(differs()),
        }
    }

    fn object(
        &self,
        known: &mut Known,
        expected: &Value,
        actual: &Value,
        place: &str,
        path: &str,
    ) -> Result<(), Difference> {
        let (Value::Object(wanted), Value::Object(given)) = (expected, actual) else {
            return Err(Difference::new(place, expected, actual));
        };
        let mut left: BTreeSet<&str> = given.keys().map(String::as_str).collect();
        // Maps forget the order of the recording, in which what is captured stands before what refers to it.
        let mut members: Vec<_> = wanted.iter().collect();
        members.sort_by_cached_key(|(_, wanted)| known.unknown_references(wanted));
        for (key, wanted) in members {
            let found = if given.contains_key(key) || !has_matcher(key) {
                Some(key.as_str())
            } else {
                let fits = |candidate: &&&str| known.fit(key, &Value::from(**candidate), "", Within::Text).is_ok();
                left.iter().copied().collect::<Vec<_>>().iter().find(fits).copied()
            };
            let below = format!("{place}.{key}");
            match found.and_then(|key| given.get_key_value(key)) {
                Some((key, given)) => {
                    left.remove(key.as_str());
                    self.value(known, wanted, given, &below, &format!("{path}.{key}"))?;
                }
                None if wanted.as_str() == Some("<absent-or-any>") => {}
                None => return Err(Difference::new(&below, wanted, ABSENT)),
            }
        }
        match left.first() {
            Some(key) if !self.open.contains(path) => {
                Err(Difference::new(&format!("{place}.{key}"), ABSENT, &given[*key]))
            }
            _ => Ok(()),
        }
    }

    /// Finds a partner for each; what is captured on a wrong way is forgotten.
    fn in_any_order(
        &self,
        known: &mut Known,
        wanted: &[Value],
        given: &[&Value],
        place: &str,
        path: &str,
    ) -> Result<(), Difference> {
        let Some((first, rest)) = wanted.split_first() else { return Ok(()) };
        let mut nearest: Option<Difference> = None;
        for (position, candidate) in given.iter().enumerate() {
            let mut attempt = known.clone();
            let others: Vec<&Value> =
                given.iter().enumerate().filter(|(other, _)| *other != position).map(|(_, value)| *value).collect();
            let outcome = self
                .value(&mut attempt, first, candidate, &format!("{place}[any]"), path)
                .and_then(|()| self.in_any_order(&mut attempt, rest, &others, place, path));
            match outcome {
                Ok(()) => {
                    *known = attempt;
                    return Ok(());
                }
                // The one that went deepest tells most.
                Err(difference) if nearest.as_ref().is_none_or(|known| difference.place.len() > known.place.len()) => {
                    nearest = Some(difference);
                }
                Err(_) => {}
            }
        }
        Err(nearest.unwrap_or_else(|| Difference::new(place, first, ABSENT)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fit(leniency: &Leniency, expected: Value, actual: Value) -> Result<(), String> {
        leniency.fit(&mut Known::default(), &expected, &actual).map_err(|difference| difference.place)
    }

    #[test]
    fn absence_null_and_emptiness_are_different() {
        let strict = Leniency::default();
        assert_eq!(fit(&strict, json!({"a": null}), json!({"a": null})), Ok(()));
        for (expected, actual) in [
            (json!({"a": null}), json!({})),
            (json!({}), json!({"a": null})),
            (json!({"a": []}), json!({"a": null})),
            (json!({"a": ""}), json!({"a": null})),
            (json!({"a": 1}), json!({"a": "1"})),
            (json!({"a": true}), json!({"a": 1})),
        ] {
            assert_eq!(fit(&strict, expected, actual), Err("body.a".into()));
        }
        assert_eq!(fit(&strict, json!({"a": "<absent-or-any>"}), json!({})), Ok(()));
    }

    #[test]
    fn order_and_further_fields_matter_unless_said_otherwise() {
        let (one, other) = (json!([{"a": 1}, {"a": 2}]), json!([{"a": 2}, {"a": 1}]));
        assert!(fit(&Leniency::default(), one.clone(), other.clone()).is_err());
        let unordered = Leniency { unordered: BTreeSet::from(["$".into()]), ..Leniency::default() };
        assert_eq!(fit(&unordered, one, other), Ok(()));
        let open = Leniency { open: BTreeSet::from(["$".into()]), ..Leniency::default() };
        assert_eq!(fit(&open, json!({"a": 1}), json!({"a": 1, "b": 2})), Ok(()));
    }

    #[test]
    fn what_is_captured_holds_across_a_list_in_any_order() {
        let unordered = Leniency { unordered: BTreeSet::from(["$".into()]), ..Leniency::default() };
        let expected = json!([{"id": "<capture:x>"}, {"of": "<ref:x>"}]);
        assert_eq!(fit(&unordered, expected.clone(), json!([{"of": "b"}, {"id": "b"}])), Ok(()));
        assert!(fit(&unordered, expected, json!([{"of": "b"}, {"id": "c"}])).is_err());
    }
}
