//! Nodes: the machines that services run on.

use std::collections::BTreeMap;

use crate::meta::Meta;
use crate::name::NodeName;

/// A node as the catalog knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// A UUID, or empty for nodes registered from outside without one.
    pub id: String,
    /// What the node is called.
    pub name: NodeName,
    /// An IP address or host name.
    pub address: String,
    /// Further addresses by use (`lan`, `wan`); absent and empty are different in answers.
    pub tagged_addresses: Option<BTreeMap<String, String>>,
    /// Metadata; absent and empty are different in answers.
    pub meta: Option<Meta>,
}
