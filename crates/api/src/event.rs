//! User events.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// An event; the answer to firing one, and an entry of the list of those seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Event<'a> {
    /// A UUID.
    #[serde(rename = "ID")]
    pub id: Cow<'a, str>,
    /// What it is called.
    pub name: Cow<'a, str>,
    /// Its content, in base64; null when it is empty.
    #[serde(with = "crate::base64")]
    pub payload: Cow<'a, [u8]>,
    /// Nodes it is for, as a regular expression.
    pub node_filter: Cow<'a, str>,
    /// Services it is for, as a regular expression.
    pub service_filter: Cow<'a, str>,
    /// Tags of these services, as a regular expression.
    pub tag_filter: Cow<'a, str>,
    /// Version of the form.
    pub version: u32,
    /// When it was fired on the cluster's logical clock; 0 in the answer to firing it.
    #[serde(rename = "LTime")]
    pub l_time: u64,
}
