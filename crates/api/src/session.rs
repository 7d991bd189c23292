//! Sessions: what holds locks.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// A session; every read of sessions answers with a list of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Session<'a> {
    /// A UUID.
    #[serde(rename = "ID")]
    pub id: Cow<'a, str>,
    /// For people.
    pub name: Cow<'a, str>,
    /// The node it belongs to.
    pub node: Cow<'a, str>,
    /// Checks whose failure ends it.
    pub checks: Option<Cow<'a, [String]>>,
    /// Nanoseconds in which a lock it lost cannot be taken.
    pub lock_delay: u64,
    /// What happens to its keys when it ends: `release` or `delete`.
    pub behavior: Cow<'a, str>,
    /// How long it lives without renewal, a duration with unit; empty means for ever.
    #[serde(rename = "TTL")]
    pub ttl: Cow<'a, str>,
    /// First written.
    pub create_index: u64,
    /// Last changed.
    pub modify_index: u64,
}
