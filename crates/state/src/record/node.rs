//! A node on disk.

use std::collections::BTreeMap;

use lictor_model::node::Node;
use lictor_model::revision::Revision;
use serde::{Deserialize, Serialize};

use super::{Created, is_default};
use crate::reader::NodeRow;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct NodeRecord {
    #[serde(default, skip_serializing_if = "is_default")]
    id: String,
    name: String,
    #[serde(default, skip_serializing_if = "is_default")]
    address: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tagged_addresses: Option<BTreeMap<String, String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    meta: Option<BTreeMap<String, String>>,
    #[serde(default, skip_serializing_if = "is_default")]
    created: Created,
}

impl NodeRecord {
    pub(crate) fn new(node: &Node, created: Created) -> NodeRecord {
        let Node { id, name, address, tagged_addresses, meta } = node.clone();
        NodeRecord { id, name: name.as_str().to_owned(), address, tagged_addresses, meta, created }
    }

    pub(crate) fn into_row(self, modified: Revision) -> NodeRow {
        let NodeRecord { id, name, address, tagged_addresses, meta, created } = self;
        let node = Node { id, name: name.into(), address, tagged_addresses, meta };
        NodeRow { node, created: created.or(modified), modified }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_and_empty_maps_stay_apart() {
        let node =
            Node { name: "n1".into(), address: "10.0.0.1".into(), meta: Some(BTreeMap::new()), ..Node::default() };
        let bytes = serde_json::to_vec(&NodeRecord::new(&node, Created::NOW)).unwrap();
        assert_eq!(String::from_utf8_lossy(&bytes), r#"{"name":"n1","address":"10.0.0.1","meta":{}}"#);
        let row = serde_json::from_slice::<NodeRecord>(&bytes).unwrap().into_row(Revision(5));
        assert_eq!(row, NodeRow { node, created: Revision(5), modified: Revision(5) });
    }
}
