//! Network coordinates, from which round-trip times are estimated.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::agent::Coordinate;

/// One entry of `GET /v1/coordinate/nodes`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Entry<'a> {
    /// The node.
    pub node: Cow<'a, str>,
    /// Always empty.
    pub segment: Cow<'a, str>,
    /// Where it is.
    pub coord: Option<Coordinate>,
}

/// One entry of `GET /v1/coordinate/datacenters`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Datacenter<'a> {
    /// The datacenter.
    pub datacenter: Cow<'a, str>,
    /// Always `wan`.
    #[serde(rename = "AreaID")]
    pub area_id: Cow<'a, str>,
    /// Its servers.
    pub coordinates: Vec<Entry<'a>>,
}
