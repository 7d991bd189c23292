//! Network coordinates in memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lictor_model::revision::Revision;

use super::Touched;
use super::catalog::Place;
use super::marks::Marks;
use crate::answer::Topic;
use crate::coordinate::NodeCoordinate;
use crate::schema::Key;

#[derive(Debug, Default)]
pub(crate) struct Coordinates {
    /// By node and segment.
    rows: BTreeMap<Place, (Arc<NodeCoordinate>, Revision)>,
    nodes: Marks<Arc<str>>,
    index: Revision,
}

impl Coordinates {
    pub(crate) fn put(&mut self, place: Place, row: NodeCoordinate, modified: Revision, touched: &mut Touched) {
        let node = Arc::clone(&place.0);
        self.rows.insert(place, (Arc::new(row), modified));
        self.touch(node, modified, touched);
    }

    pub(crate) fn remove(&mut self, place: &Place, at: Revision, touched: &mut Touched) {
        if self.rows.remove(place).is_some() {
            self.touch(Arc::clone(&place.0), at, touched);
        }
    }

    fn touch(&mut self, node: Arc<str>, at: Revision, touched: &mut Touched) {
        self.index = at;
        touched.add(Topic::Coordinates);
        touched.add_named(Topic::CoordinatesOf, &node);
        let is_left = self.of_node(&node).next().is_some();
        self.nodes.note(node, at, is_left);
    }

    /// All of them, by node and segment.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<NodeCoordinate>> {
        self.rows.values().map(|(row, _)| row)
    }

    /// Those of a node (folded name).
    pub(crate) fn of_node<'a>(&'a self, node: &'a Arc<str>) -> impl Iterator<Item = &'a Arc<NodeCoordinate>> {
        let from: Place = (Arc::clone(node), "".into());
        self.rows.range(from..).take_while(move |(place, _)| place.0 == *node).map(|(_, (row, _))| row)
    }

    /// How far two nodes are from each other, in a segment that both are in. Nothing is nearer to a node than the node
    /// itself, whatever the estimate makes of it (twice its height, which may be more than to a neighbor).
    pub(crate) fn distance(&self, one: &Arc<str>, other: &Arc<str>) -> Option<Duration> {
        if one == other {
            return self.of_node(one).next().map(|_| Duration::ZERO);
        }
        self.of_node(one).find_map(|here| {
            let there = self.of_node(other).find(|there| there.segment == here.segment)?;
            Some(here.coordinate.distance(&there.coordinate))
        })
    }

    pub(crate) fn index(&self) -> Revision {
        self.index
    }

    /// When a coordinate of a node last changed.
    pub(crate) fn index_of(&self, node: &str) -> Revision {
        self.nodes.index(&node.into())
    }

    pub(crate) fn raise(&mut self, floor: Revision) {
        self.index = floor;
        self.nodes.raise(floor);
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = (Key, Revision)> {
        self.rows.iter().map(|((node, segment), (_, modified))| {
            (Key::Coordinate { node: Arc::clone(node), segment: Arc::clone(segment) }, *modified)
        })
    }
}
