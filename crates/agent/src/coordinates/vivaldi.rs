//! How a place is learned from measured round-trip times: Vivaldi (Dabek, Cox, Kaashoek, Morris, SIGCOMM 2004), with
//! heights, and with the corrections that Consul's coordinates have. Pure but for the direction of two nodes at the same
//! place.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use lictor_state::coordinate::Coordinate;

/// How much one sample may move the error and the place, each weighed by who is more certain.
const ERROR_WEIGHT: f64 = 0.25;
const FORCE_WEIGHT: f64 = 0.25;
/// Nobody is less certain than this.
const MOST_ERROR: f64 = 1.5;
/// No node is nearer to the network than this many seconds.
const LEAST_HEIGHT: f64 = 1.0e-5;
/// Samples by which distances are corrected for what no place in the space can say.
const ADJUSTED_BY: usize = 20;
/// The last samples of a peer, of which the middle one counts: one of them may have been held up.
const FILTERED: usize = 3;
/// Seconds at which the pull towards the origin equals one second; without it all nodes drift away together.
const DRIFT_SCALE: f64 = 150.0;
/// Below this many seconds there is nothing to divide by.
const NOTHING: f64 = 1.0e-6;
/// What lies further away than this many seconds is no place.
const FAR: f64 = 100.0;

/// What a node has learned.
#[derive(Debug)]
pub(super) struct Vivaldi {
    coordinate: Coordinate,
    /// By how much measured times differed from the places' distances.
    differences: VecDeque<f64>,
    /// By peer.
    samples: HashMap<String, VecDeque<f64>>,
}

impl Vivaldi {
    /// Goes on from where the node was.
    pub(super) fn new(coordinate: Coordinate) -> Vivaldi {
        let coordinate = if is_place(&coordinate) { coordinate } else { Coordinate::default() };
        Vivaldi { coordinate, differences: VecDeque::new(), samples: HashMap::new() }
    }

    /// Where the node is.
    pub(super) fn coordinate(&self) -> &Coordinate {
        &self.coordinate
    }

    /// Learns that a peer, which says that it is there, answered after this time. What a peer says that is no place is not
    /// believed.
    pub(super) fn learn(&mut self, peer: &str, there: &Coordinate, took: Duration) {
        if !is_place(there) {
            return;
        }
        let took = self.filtered(peer, took.as_secs_f64().max(NOTHING));
        let before = self.coordinate.clone();
        self.be_certain(there, took);
        self.adjust(there, took);
        self.stay_near_the_origin();
        if !is_place(&self.coordinate) {
            self.coordinate = Coordinate { error: MOST_ERROR, ..before };
        }
    }

    /// Forgets peers that are no more.
    pub(super) fn keep_only(&mut self, is_known: impl Fn(&str) -> bool) {
        self.samples.retain(|peer, _| is_known(peer));
    }

    fn filtered(&mut self, peer: &str, took: f64) -> f64 {
        let samples = self.samples.entry(peer.to_owned()).or_default();
        samples.push_back(took);
        if samples.len() > FILTERED {
            samples.pop_front();
        }
        let mut sorted: Vec<f64> = samples.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    }

    /// The rule of Vivaldi: a spring between both, as strong as the peer is more certain than we.
    fn be_certain(&mut self, there: &Coordinate, took: f64) {
        let distance = apart(&self.coordinate, there);
        let wrong = (distance - took).abs() / took;
        let weight = self.coordinate.error / (self.coordinate.error + there.error.max(0.0)).max(NOTHING);
        let part = ERROR_WEIGHT * weight;
        self.coordinate.error = (self.coordinate.error * (1.0 - part) + wrong * part).min(MOST_ERROR);
        self.push(FORCE_WEIGHT * weight * (took - distance), there);
    }

    fn adjust(&mut self, there: &Coordinate, took: f64) {
        self.differences.push_back(took - apart(&self.coordinate, there));
        if self.differences.len() > ADJUSTED_BY {
            self.differences.pop_front();
        }
        // Half of it is ours, the other half the peers' own.
        self.coordinate.adjustment = self.differences.iter().sum::<f64>() / (2.0 * ADJUSTED_BY as f64);
    }

    fn stay_near_the_origin(&mut self) {
        let origin = Coordinate { height: 0.0, ..Coordinate::default() };
        let drift = apart(&self.coordinate, &origin) / DRIFT_SCALE;
        self.push(-drift * drift, &origin);
    }

    /// Moves away from somewhere by so many seconds, or towards it.
    fn push(&mut self, force: f64, from: &Coordinate) {
        let (direction, length) = direction(&self.coordinate.vec, &from.vec);
        for (own, part) in self.coordinate.vec.iter_mut().zip(&direction) {
            *own += part * force;
        }
        if length > NOTHING {
            let height = self.coordinate.height;
            self.coordinate.height = ((height + from.height) * force / length + height).max(LEAST_HEIGHT);
        }
    }
}

/// The distance in the space with both heights, without corrections.
fn apart(one: &Coordinate, other: &Coordinate) -> f64 {
    direction(&one.vec, &other.vec).1 + one.height + other.height
}

/// From `from` to `to`: a vector of length one, and how far it is. Where they are at the same place any direction will
/// do, and chance finds one in which they part.
fn direction(to: &[f64], from: &[f64]) -> (Vec<f64>, f64) {
    let between: Vec<f64> = to.iter().zip(from).map(|(to, from)| to - from).collect();
    let length = between.iter().map(|part| part * part).sum::<f64>().sqrt();
    if length > NOTHING {
        return (between.iter().map(|part| part / length).collect(), length);
    }
    let any: Vec<f64> = (0..between.len()).map(|_| fastrand::f64() - 0.5).collect();
    let size = any.iter().map(|part| part * part).sum::<f64>().sqrt().max(NOTHING);
    (any.iter().map(|part| part / size).collect(), 0.0)
}

fn is_place(coordinate: &Coordinate) -> bool {
    let Coordinate { vec, error, adjustment, height } = coordinate;
    vec.len() == Coordinate::DIMENSIONS
        && vec.iter().chain([error, adjustment, height]).all(|number| number.is_finite() && number.abs() < FAR)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets all nodes measure each other so often, and gives the estimated times in milliseconds.
    fn settle(times: &[&[f64]], rounds: usize) -> Vec<Vec<f64>> {
        let mut nodes: Vec<Vivaldi> = times.iter().map(|_| Vivaldi::new(Coordinate::default())).collect();
        for _ in 0..rounds {
            for (one, row) in times.iter().enumerate() {
                for (other, took) in row.iter().enumerate().filter(|(other, _)| *other != one) {
                    let there = nodes[other].coordinate().clone();
                    nodes[one].learn(&other.to_string(), &there, Duration::from_secs_f64(took / 1000.0));
                }
            }
        }
        let estimate = |one: &Vivaldi, other: &Vivaldi| one.coordinate.distance(&other.coordinate).as_secs_f64() * 1e3;
        nodes.iter().map(|one| nodes.iter().map(|other| estimate(one, other)).collect()).collect()
    }

    #[test]
    fn places_say_what_was_measured() {
        let times: [&[f64]; 4] =
            [&[0.0, 10.0, 60.0, 61.0], &[10.0, 0.0, 60.0, 61.0], &[60.0, 60.0, 0.0, 2.0], &[61.0, 61.0, 2.0, 0.0]];
        let estimated = settle(&times, 200);
        for (one, row) in times.iter().enumerate() {
            for (other, took) in row.iter().enumerate().filter(|(other, _)| *other != one) {
                let found = estimated[one][other];
                assert!((found - took).abs() < took * 0.25 + 1.0, "{one} to {other}: {found} instead of {took}");
            }
        }
    }

    #[test]
    fn one_sample_that_was_held_up_does_not_count() {
        let there = Coordinate::default();
        let mut node = Vivaldi::new(Coordinate::default());
        for _ in 0..50 {
            node.learn("a", &there, Duration::from_millis(5));
        }
        let before = node.coordinate().distance(&there);
        node.learn("a", &there, Duration::from_secs(1));
        let after = node.coordinate().distance(&there);
        assert!(after < before + Duration::from_millis(1), "{before:?} became {after:?}");
    }

    #[test]
    fn what_a_peer_says_that_is_no_place_is_not_believed() {
        let mut node = Vivaldi::new(Coordinate::default());
        let nowhere = [
            Coordinate { vec: vec![0.0; 3], ..Coordinate::default() },
            Coordinate { height: f64::NAN, ..Coordinate::default() },
            Coordinate { error: f64::INFINITY, ..Coordinate::default() },
            Coordinate { vec: vec![1e300; 8], ..Coordinate::default() },
        ];
        for place in nowhere {
            node.learn("a", &place, Duration::from_millis(5));
        }
        assert_eq!(*node.coordinate(), Coordinate::default());
    }

    #[test]
    fn no_sequence_of_samples_leads_nowhere() {
        let mut node = Vivaldi::new(Coordinate::default());
        for _ in 0..10_000 {
            let mut there = Coordinate::default();
            for part in &mut there.vec {
                *part = (fastrand::f64() - 0.5) * 2.0 * FAR;
            }
            there.height = (fastrand::f64() - 0.5) * FAR;
            there.error = (fastrand::f64() - 0.5) * FAR;
            node.learn(&fastrand::u8(..4).to_string(), &there, Duration::from_micros(fastrand::u64(..2_000_000)));
            assert!(is_place(node.coordinate()) && node.coordinate().height >= LEAST_HEIGHT);
        }
    }
}
