//! Reading network coordinates, and sorting by them.

use std::sync::Arc;
use std::time::Duration;

use lictor_model::name::fold;

use super::Reader;
use crate::answer::{Answer, Topic};
use crate::coordinate::NodeCoordinate;
use crate::replica::Tables;

impl Reader {
    /// All coordinates, by node and segment.
    pub fn coordinates(&self) -> Answer<Vec<Arc<NodeCoordinate>>> {
        self.answer(vec![Topic::Coordinates], |tables| {
            tables.coordinates.all().filter(|row| self.caller.reads_node(row.node.as_str())).map(Arc::clone).collect()
        })
    }

    /// The coordinates of a node, one for each segment; none for one that the caller may not see.
    pub fn coordinates_of_node(&self, node: &str) -> Answer<Vec<Arc<NodeCoordinate>>> {
        let node = fold(node);
        self.answer(vec![Topic::CoordinatesOf((&*node).into())], |tables| {
            let rows = tables.coordinates.of_node(&node).filter(|row| self.caller.reads_node(row.node.as_str()));
            rows.map(Arc::clone).collect()
        })
    }
}

impl Tables {
    /// Sorts by distance from a node, those of unknown distance last; leaves the order as it is when the node has no
    /// coordinate.
    pub(super) fn sort_near<T>(&self, list: &mut [T], near: Option<&str>, node: impl Fn(&T) -> &str) -> bool {
        let Some(near) = near.filter(|near| !near.is_empty()).map(fold) else { return false };
        if self.coordinates.of_node(&near).next().is_none() {
            return false;
        }
        list.sort_by_cached_key(|item| self.coordinates.distance(&near, &fold(node(item))).unwrap_or(Duration::MAX));
        true
    }
}
