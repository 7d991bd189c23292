//! Waiting longer after each failure, at random, so that many do not retry in step.

use std::time::Duration;

/// Delays that double from `base` to `cap`, each drawn evenly from the upper half of its span.
///
/// Half of the span is kept as a floor: full jitter would now and then retry at once, which for a peer that is down
/// is a busy loop.
#[derive(Clone, Debug)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    failures: u32,
}

impl Backoff {
    /// A fresh sequence.
    pub fn new(base: Duration, cap: Duration) -> Backoff {
        Backoff { base, cap, failures: 0 }
    }

    /// How long to wait after one more failure.
    pub fn next_delay(&mut self) -> Duration {
        let span = self.base.saturating_mul(1 << self.failures.min(20)).min(self.cap);
        self.failures = self.failures.saturating_add(1);
        span.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// Failures since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Starts over after a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_cap_and_start_over() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        for span in [100, 200, 400, 800, 1000, 1000] {
            let delay = backoff.next_delay().as_secs_f64() * 1000.0;
            assert!(delay >= f64::from(span) / 2.0 && delay <= f64::from(span), "{delay} for {span}");
        }
        backoff.reset();
        assert!(backoff.next_delay() <= Duration::from_millis(100));
    }
}
