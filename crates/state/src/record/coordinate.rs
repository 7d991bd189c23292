//! A network coordinate on disk.

use serde::{Deserialize, Serialize};

use super::is_default;
use crate::coordinate::{Coordinate, NodeCoordinate};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct CoordinateRecord {
    node: String,
    #[serde(default, skip_serializing_if = "is_default")]
    segment: String,
    vec: Vec<f64>,
    error: f64,
    adjustment: f64,
    height: f64,
}

impl CoordinateRecord {
    pub(crate) fn new(row: &NodeCoordinate) -> CoordinateRecord {
        let NodeCoordinate { node, segment, coordinate } = row.clone();
        let Coordinate { vec, error, adjustment, height } = coordinate;
        CoordinateRecord { node: node.as_str().to_owned(), segment, vec, error, adjustment, height }
    }

    pub(crate) fn into_row(self) -> NodeCoordinate {
        let CoordinateRecord { node, segment, vec, error, adjustment, height } = self;
        NodeCoordinate { node: node.into(), segment, coordinate: Coordinate { vec, error, adjustment, height } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_on_the_way_to_the_disk_and_back() {
        let coordinate = Coordinate { vec: vec![0.1, -2.5e-9], error: 0.3, adjustment: -1e-7, height: 1e-5 };
        let row = NodeCoordinate { node: "N1".into(), segment: "s".into(), coordinate };
        let bytes = serde_json::to_vec(&CoordinateRecord::new(&row)).unwrap();
        assert_eq!(serde_json::from_slice::<CoordinateRecord>(&bytes).unwrap().into_row(), row);
    }
}
