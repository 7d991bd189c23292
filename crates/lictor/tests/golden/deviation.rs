//! Steps that lictor answers better than the original did, on purpose.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

/// One step that is answered differently.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Deviation {
    /// `area/name`.
    scenario: String,
    /// From 1.
    step: usize,
    /// What is different.
    differs: String,
    /// The paragraph of the specification that says so.
    paragraph: String,
    /// Why no existing client can be hurt.
    harmless: String,
    /// What is expected instead: the parts of the recorded expectation that change; `null` takes one away.
    pub(crate) expect: Value,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Deviations(BTreeMap<String, BTreeMap<usize, Deviation>>);

static NONE: BTreeMap<usize, Deviation> = BTreeMap::new();

impl Deviations {
    pub(crate) fn read(path: &Path) -> Deviations {
        let text = fs::read(path).unwrap();
        let list: Vec<Deviation> = serde_json::from_slice(&text).unwrap();
        let mut all = Deviations::default();
        for deviation in list {
            let Deviation { scenario, step, differs, paragraph, harmless, expect: _ } = &deviation;
            for reason in [differs, paragraph, harmless] {
                assert!(!reason.is_empty(), "the deviation of {scenario} step {step} lacks a reason");
            }
            let former = all.0.entry(scenario.clone()).or_default().insert(*step, deviation);
            assert!(former.is_none(), "{former:?} is listed twice");
        }
        all
    }

    /// Those of one scenario, by step.
    pub(crate) fn of(&self, scenario: &str) -> &BTreeMap<usize, Deviation> {
        self.0.get(scenario).unwrap_or(&NONE)
    }

    /// The scenarios that have any.
    pub(crate) fn scenarios(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

/// A recorded expectation with the parts that change.
pub(crate) fn changed(expect: &Value, changes: &Value) -> Value {
    let mut changed = expect.clone();
    merge(&mut changed, changes);
    changed
}

fn merge(below: &mut Value, above: &Value) {
    // The headers of an expectation and it itself are changed part by part; a body is one thing.
    let (Value::Object(below), Value::Object(above)) = (below, above) else { return };
    for (key, value) in above {
        match (key.as_str(), value) {
            (_, Value::Null) => {
                below.remove(key);
            }
            ("headers", Value::Object(_)) => {
                merge(below.entry(key.clone()).or_insert_with(|| Value::Object(Default::default())), value);
            }
            _ => {
                below.insert(key.clone(), value.clone());
            }
        }
    }
}
