//! What an agent has counted and timed.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `GET /v1/agent/metrics`: what one interval of ten seconds came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Metrics<'a> {
    /// When the interval began, `2026-11-24 21:29:00 +0000 UTC`.
    pub timestamp: Cow<'a, str>,
    /// Values at its end.
    pub gauges: Vec<Gauge<'a>>,
    /// Nothing; kept for clients that expect it.
    pub points: Vec<Point<'a>>,
    /// What was counted.
    pub counters: Vec<Sampled<'a>>,
    /// How long things took, in milliseconds.
    pub samples: Vec<Sampled<'a>>,
}

/// A value that goes up and down.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Gauge<'a> {
    /// Full name.
    pub name: Cow<'a, str>,
    /// The value.
    pub value: f64,
    /// What tells it from others of the name.
    pub labels: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
}

/// A single value; there are none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Point<'a> {
    /// Full name.
    pub name: Cow<'a, str>,
    /// Its values.
    pub points: Vec<f64>,
}

/// What several values of one interval came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Sampled<'a> {
    /// Full name.
    pub name: Cow<'a, str>,
    /// How many.
    pub count: u64,
    /// Their sum per second.
    pub rate: f64,
    /// Their sum.
    pub sum: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation.
    pub stddev: f64,
    /// What tells it from others of the name.
    pub labels: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
}
