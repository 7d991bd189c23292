//! Network coordinates: how far nodes are from each other.

use std::time::Duration;

use lictor_model::name::NodeName;

/// A node's place in a space where distance is round-trip time.
#[derive(Clone, Debug, PartialEq)]
pub struct Coordinate {
    /// Position in seconds, of [`Coordinate::DIMENSIONS`] dimensions.
    pub vec: Vec<f64>,
    /// How uncertain it is.
    pub error: f64,
    /// Correction of distances, in seconds.
    pub adjustment: f64,
    /// Distance from the space to the node itself, in seconds.
    pub height: f64,
}

impl Default for Coordinate {
    fn default() -> Self {
        Coordinate { vec: vec![0.0; Coordinate::DIMENSIONS], error: 1.5, adjustment: 0.0, height: 1.0e-5 }
    }
}

impl Coordinate {
    /// Of the space.
    pub const DIMENSIONS: usize = 8;

    /// Checks that it can be compared with others; the texts are the ones clients know.
    pub(crate) fn validate(&self) -> Result<(), &'static str> {
        if self.vec.len() != Coordinate::DIMENSIONS {
            return Err("incompatible coordinate");
        }
        let all = self.vec.iter().chain([&self.error, &self.adjustment, &self.height]);
        if all.into_iter().all(|number| number.is_finite()) { Ok(()) } else { Err("invalid coordinate") }
    }

    /// The estimated round-trip time.
    pub fn distance(&self, other: &Coordinate) -> Duration {
        let squares = self.vec.iter().zip(&other.vec).map(|(a, b)| (a - b) * (a - b));
        let raw = squares.sum::<f64>().sqrt() + self.height + other.height;
        let adjusted = raw + self.adjustment + other.adjustment;
        let seconds = if adjusted > 0.0 { adjusted } else { raw };
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }
}

/// Whose coordinate it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeCoordinate {
    /// The node.
    pub node: NodeName,
    /// Network segment; empty for the only one there is.
    pub segment: String,
    /// Where it is.
    pub coordinate: Coordinate,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_twice_its_height_from_itself() {
        let here = Coordinate::default();
        assert_eq!(here.distance(&here), Duration::from_micros(20));
    }

    #[test]
    fn adjustments_count_unless_they_make_the_distance_negative() {
        let at = |x: f64, adjustment: f64| Coordinate {
            vec: [vec![x], vec![0.0; 7]].concat(),
            adjustment,
            height: 0.0,
            ..Coordinate::default()
        };
        assert_eq!(at(0.0, 0.001).distance(&at(0.003, 0.001)), Duration::from_millis(5));
        assert_eq!(at(0.0, -0.002).distance(&at(0.003, -0.002)), Duration::from_millis(3));
    }

    #[test]
    fn what_cannot_be_compared_is_refused() {
        assert_eq!(
            Coordinate { vec: vec![0.0; 3], ..Coordinate::default() }.validate(),
            Err("incompatible coordinate")
        );
        assert_eq!(Coordinate { height: f64::NAN, ..Coordinate::default() }.validate(), Err("invalid coordinate"));
        assert_eq!(Coordinate::default().validate(), Ok(()));
    }
}
