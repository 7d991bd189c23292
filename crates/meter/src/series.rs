//! The numbers of one name: of the interval that runs, of the last whole one, and since the start.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Names and values that tell series of one name apart.
pub type Labels<'a> = &'a [(&'static str, &'a str)];

/// Numbers are added up for so long, and then shown for as long.
pub(crate) const INTERVAL: Duration = Duration::from_secs(10);
/// Quantiles are of values of this time.
const QUANTILE_AGE: Duration = Duration::from_secs(600);
/// And of so many at most, the latest ones.
const QUANTILE_VALUES: usize = 512;
/// Values that wait for the next delivery to a sink; more than that are not delivered one by one.
const PENDING_VALUES: usize = 1024;

/// What several values come to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Summary {
    /// How many.
    pub count: u64,
    /// All together.
    pub sum: f64,
    /// All squares together.
    pub squares: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Summary {
    fn add(&mut self, value: f64) {
        (self.min, self.max) = match self.count {
            0 => (value, value),
            _ => (self.min.min(value), self.max.max(value)),
        };
        self.count += 1;
        self.sum += value;
        self.squares += value * value;
    }

    /// The sum per second of an interval.
    pub fn rate(&self) -> f64 {
        self.sum / INTERVAL.as_secs_f64()
    }

    /// The mean; zero of nothing.
    pub fn mean(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum / self.count as f64 }
    }

    /// The standard deviation; zero of fewer than two.
    pub fn deviation(&self) -> f64 {
        if self.count < 2 {
            return 0.0;
        }
        let count = self.count as f64;
        let spread = count * self.squares - self.sum * self.sum;
        (spread.max(0.0) / (count * (count - 1.0))).sqrt()
    }
}

/// What a series keeps beside its intervals; sinks that are not there cost nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Single values, for quantiles.
    pub(crate) quantiles: bool,
    /// Single values, for delivery.
    pub(crate) deliveries: bool,
}

/// Values of one name and its labels.
#[derive(Debug, Default)]
pub(crate) struct Series {
    /// Which interval `current` is of.
    number: u64,
    current: Summary,
    previous: Summary,
    pub(crate) total: Summary,
    recent: VecDeque<(Instant, f64)>,
    pending: Vec<f64>,
    /// The sum since the last delivery.
    undelivered: f64,
    pub(crate) touched: Option<Instant>,
}

impl Series {
    pub(crate) fn add(&mut self, value: f64, number: u64, wanted: Wanted) {
        self.turn(number);
        self.current.add(value);
        self.total.add(value);
        let now = Instant::now();
        self.touched = Some(now);
        if wanted.quantiles {
            if self.recent.len() == QUANTILE_VALUES {
                self.recent.pop_front();
            }
            self.recent.push_back((now, value));
        }
        if wanted.deliveries {
            self.undelivered += value;
            if self.pending.len() < PENDING_VALUES {
                self.pending.push(value);
            }
        }
    }

    fn turn(&mut self, number: u64) {
        if number == self.number {
            return;
        }
        self.previous = if number == self.number + 1 { self.current } else { Summary::default() };
        self.current = Summary::default();
        self.number = number;
    }

    /// What came in interval `wanted`, which is the one that runs (`number`) or the one before.
    pub(crate) fn of_interval(&mut self, wanted: u64, number: u64) -> Summary {
        self.turn(number);
        if wanted == number { self.current } else { self.previous }
    }

    /// Values below which these shares of the latest ones lie; nothing when there are none.
    pub(crate) fn quantiles<const N: usize>(&self, shares: [f64; N]) -> Option<[f64; N]> {
        let fresh = |(at, _): &&(Instant, f64)| at.elapsed() < QUANTILE_AGE;
        let mut values: Vec<f64> = self.recent.iter().filter(fresh).map(|(_, value)| *value).collect();
        values.sort_by(f64::total_cmp);
        let last = values.len().checked_sub(1)?;
        Some(shares.map(|share| values[((share * values.len() as f64).ceil() as usize).saturating_sub(1).min(last)]))
    }

    /// Whether nothing came for longer than `keep` and nothing waits to be delivered.
    pub(crate) fn is_idle(&self, now: Instant, keep: Duration) -> bool {
        self.pending.is_empty() && self.touched.is_none_or(|at| now.saturating_duration_since(at) > keep)
    }

    /// The sum and the single values since the last call.
    pub(crate) fn deliver(&mut self) -> (f64, Vec<f64>) {
        (std::mem::take(&mut self.undelivered), std::mem::take(&mut self.pending))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Wanted = Wanted { quantiles: true, deliveries: true };

    #[test]
    fn a_summary_has_mean_and_deviation() {
        let mut summary = Summary::default();
        assert_eq!((summary.mean(), summary.deviation()), (0.0, 0.0));
        for value in [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0] {
            summary.add(value);
        }
        assert_eq!((summary.count, summary.min, summary.max, summary.mean(), summary.rate()), (8, 2.0, 9.0, 5.0, 4.0));
        assert!((summary.deviation() - 2.138).abs() < 0.001);
    }

    #[test]
    fn an_interval_is_shown_while_the_next_one_runs_and_then_forgotten() {
        let mut series = Series::default();
        series.add(1.0, 7, ALL);
        series.add(2.0, 7, ALL);
        assert_eq!(series.of_interval(7, 7).sum, 3.0);
        series.add(5.0, 8, ALL);
        assert_eq!((series.of_interval(7, 8).sum, series.of_interval(8, 8).sum), (3.0, 5.0));
        assert_eq!(series.of_interval(8, 9).sum, 5.0);
        assert_eq!(series.of_interval(20, 21), Summary::default());
        assert_eq!(series.total.count, 3);
    }

    #[test]
    fn quantiles_are_values_that_came() {
        let mut series = Series::default();
        assert_eq!(series.quantiles([0.5]), None);
        for value in (1..=100).rev() {
            series.add(f64::from(value), 1, ALL);
        }
        assert_eq!(series.quantiles([0.0, 0.5, 0.9, 0.99, 1.0]), Some([1.0, 50.0, 90.0, 99.0, 100.0]));
    }

    #[test]
    fn what_is_delivered_is_gone_and_what_nobody_wants_is_not_kept() {
        let mut series = Series::default();
        series.add(1.0, 1, ALL);
        series.add(2.0, 1, ALL);
        assert_eq!(series.deliver(), (3.0, vec![1.0, 2.0]));
        assert_eq!(series.deliver(), (0.0, vec![]));
        series.add(2.0, 1, Wanted::default());
        assert_eq!(series.deliver(), (0.0, vec![]));
    }
}
