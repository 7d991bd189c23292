//! When a leaf is renewed.

use std::time::Duration;

use crate::certificate::Validity;
use crate::limit::Limit;

/// The least time between two certificates for the same identity, however short they live.
pub const MIN_INTERVAL: i64 = 10;

/// How long the leaves of a small mesh are spread out after a rotation.
const ROTATION_SPREAD: Duration = Duration::from_secs(30);

/// The moment to renew a leaf, in seconds since the Unix epoch: evenly spread over 0.6 to 0.9 of its life by `draw`, a
/// random number from 0 to 1 that is drawn once for each leaf. Never before 0.6 of its life, nor sooner than
/// [`MIN_INTERVAL`] after it was `issued`.
pub fn moment(validity: Validity, issued: i64, draw: f64) -> i64 {
    let life = validity.not_after.saturating_sub(validity.not_before).max(0) as f64;
    let part = 0.6 + 0.3 * share(draw);
    let moment = validity.not_before.saturating_add((life * part).ceil() as i64);
    moment.max(issued.saturating_add(MIN_INTERVAL))
}

/// How long to wait before a leaf is renewed because the active root changed: evenly spread, by `draw`, over half a
/// minute, or over the time in which a half of the permitted rate signs all of them.
pub fn after_rotation(leaves: usize, limit: Limit, draw: f64) -> Duration {
    let needed = match limit {
        Limit::PerSecond(rate) if rate > 0.0 => leaves as f64 / (0.5 * rate),
        Limit::PerSecond(_) | Limit::Concurrent(_) | Limit::None => 0.0,
    };
    let spread = Duration::try_from_secs_f64(needed).unwrap_or(ROTATION_SPREAD).max(ROTATION_SPREAD);
    spread.mul_f64(share(draw))
}

/// The draw, whatever was passed, as a number from 0 to 1.
fn share(draw: f64) -> f64 {
    if draw >= 0.0 { draw.min(1.0) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3600;

    #[test]
    fn a_leaf_of_three_days_is_renewed_between_43_and_65_hours() {
        let validity = Validity { not_before: 0, not_after: 72 * HOUR };
        assert_eq!(moment(validity, 60, 0.0), 155_520); // 43.2 h
        assert_eq!(moment(validity, 60, 1.0), 233_280); // 64.8 h
        assert_eq!(moment(validity, 60, 0.5), 54 * HOUR);
    }

    #[test]
    fn a_leaf_that_hardly_lives_is_not_renewed_all_the_time() {
        let validity = Validity { not_before: 0, not_after: 61 };
        assert_eq!(moment(validity, 60, 0.0), 70);
        let backwards = Validity { not_before: 100, not_after: 50 };
        assert_eq!(moment(backwards, 60, 0.9), 100);
    }

    #[test]
    fn any_draw_gives_a_moment_in_the_window() {
        let validity = Validity { not_before: 1000, not_after: 2000 };
        for draw in [-1.0, 0.0, 0.3, 0.999_999, 7.0, f64::NAN] {
            let moment = moment(validity, 0, draw);
            assert!((1600..=1900).contains(&moment), "{draw}: {moment}");
        }
    }

    #[test]
    fn many_leaves_are_renewed_within_half_of_the_rate() {
        let all = |leaves, limit| after_rotation(leaves, limit, 1.0).as_secs();
        assert_eq!(all(3, Limit::PerSecond(50.0)), 30);
        assert_eq!(all(200, Limit::PerSecond(5.0)), 80);
        assert_eq!(all(10_000, Limit::None), 30);
        assert_eq!(all(10, Limit::PerSecond(0.0)), 30);
        assert_eq!(after_rotation(200, Limit::PerSecond(5.0), 0.5).as_secs(), 40);
    }
}
