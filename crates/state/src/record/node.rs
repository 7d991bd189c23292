//! A node on disk.

use std::borrow::Cow;
use std::collections::BTreeMap;

use lictor_model::node::Node;
use lictor_model::revision::Revision;
use serde::{Deserialize, Serialize};

use super::{Created, is_default};
use crate::reader::NodeRow;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct NodeRecord<'a> {
    #[serde(borrow, default, skip_serializing_if = "is_default")]
    id: Cow<'a, str>,
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "is_default")]
    address: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tagged_addresses: Option<Cow<'a, BTreeMap<String, String>>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    meta: Option<Cow<'a, BTreeMap<String, String>>>,
    #[serde(default, skip_serializing_if = "is_default")]
    created: Created,
}

impl<'a> NodeRecord<'a> {
    pub(crate) fn new(node: &'a Node, created: Created) -> NodeRecord<'a> {
        let Node { id, name, address, tagged_addresses, meta } = node;
        NodeRecord {
            id: id.into(),
            name: name.as_str().into(),
            address: address.into(),
            tagged_addresses: tagged_addresses.as_ref().map(Cow::Borrowed),
            meta: meta.as_ref().map(Cow::Borrowed),
            created,
        }
    }

    pub(crate) fn into_row(self, modified: Revision) -> NodeRow {
        let NodeRecord { id, name, address, tagged_addresses, meta, created } = self;
        let node = Node {
            id: id.into_owned(),
            name: (&*name).into(),
            address: address.into_owned(),
            tagged_addresses: tagged_addresses.map(Cow::into_owned),
            meta: meta.map(Cow::into_owned),
        };
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
        let row = serde_json::from_slice::<NodeRecord<'_>>(&bytes).unwrap().into_row(Revision(5));
        assert_eq!(row, NodeRow { node, created: Revision(5), modified: Revision(5) });
    }
}
