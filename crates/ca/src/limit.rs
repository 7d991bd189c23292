//! How many certificates may be signed: a rate, or a number at once. Pure; the time is passed in.

use std::time::Duration;

/// The limit that the CA's configuration sets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// Every request is signed.
    None,
    /// So many in a second; what a tenth of one brings, and at least one, may come at once.
    PerSecond(f64),
    /// So many at once.
    Concurrent(usize),
}

/// What may come at once, as a part of a second's: the proxies of a node that start together need not wait for each
/// other. The original has a burst of one.
const BURST: f64 = 0.1;

/// What a request of a client may wait for its turn before it is refused.
pub const MAX_WAIT: Duration = Duration::from_millis(500);

/// What a request of the agent's own may wait: a renewal, and the first one of a proxy that it has started itself. Longer, so
/// that clients who ask without end do not keep them from their turn, and that more proxies than fit into [`MAX_WAIT`], started
/// together, are served one after the other: each would only ask again, and those that ask sooner would pass the others.
pub const MAX_WAIT_OF_OWN: Duration = Duration::from_secs(20);

/// Whether a request is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// After this time, which may be zero; the turn is taken. With a limit at once, [`Limiter::release`] gives it back.
    Granted(Duration),
    /// As many as allowed are being signed; worth asking again until the wait is over.
    Busy,
    /// Not now: `Rate limit reached, try again later`.
    Refused,
}

/// Admits requests.
#[derive(Debug)]
pub struct Limiter {
    limit: Limit,
    /// When the next turn is free, as a distance from the caller's origin of time.
    next: Duration,
    running: usize,
}

impl Limiter {
    /// A limiter with all turns free.
    pub fn new(limit: Limit) -> Limiter {
        Limiter { limit, next: Duration::ZERO, running: 0 }
    }

    /// Changes the limit from the next request on.
    pub fn set(&mut self, limit: Limit) {
        if self.limit != limit {
            self.limit = limit;
            self.next = Duration::ZERO;
        }
    }

    /// Asks for a turn that comes within `patience`; `now` is the distance from any fixed moment of a clock that never goes
    /// back.
    pub fn admit(&mut self, now: Duration, patience: Duration) -> Admission {
        match self.limit {
            Limit::None => Admission::Granted(Duration::ZERO),
            Limit::PerSecond(rate) => {
                // A rate so small that its interval cannot be expressed means: never again.
                let interval = Duration::try_from_secs_f64(1.0 / rate).unwrap_or(Duration::MAX);
                let early = Duration::try_from_secs_f64((rate * BURST).floor().max(1.0) / rate)
                    .map_or(Duration::ZERO, |burst| burst.saturating_sub(interval));
                let turn = self.next.max(now);
                let wait = turn.saturating_sub(now + early);
                if wait > patience {
                    return Admission::Refused;
                }
                self.next = turn.saturating_add(interval);
                Admission::Granted(wait)
            }
            Limit::Concurrent(most) if self.running >= most => Admission::Busy,
            Limit::Concurrent(_) => {
                self.running += 1;
                Admission::Granted(Duration::ZERO)
            }
        }
    }

    /// Gives a turn back when the certificate is signed, or the request given up.
    pub fn release(&mut self) {
        self.running = self.running.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn of_five_at_once_one_is_signed_at_one_per_second() {
        let mut limiter = Limiter::new(Limit::PerSecond(1.0));
        let admissions: Vec<_> = (0..5).map(|request| limiter.admit(ms(request), MAX_WAIT)).collect();
        assert_eq!(admissions[0], Admission::Granted(Duration::ZERO));
        assert_eq!(admissions[1..], [Admission::Refused; 4]);
        assert_eq!(limiter.admit(ms(499), MAX_WAIT), Admission::Refused);
        assert_eq!(limiter.admit(ms(600), MAX_WAIT), Admission::Granted(ms(400)));
        assert_eq!(limiter.admit(ms(1000), MAX_WAIT), Admission::Refused, "the next turn is at two seconds");
    }

    #[test]
    fn a_refused_request_takes_no_turn() {
        let mut limiter = Limiter::new(Limit::PerSecond(50.0));
        let admissions: Vec<_> = (0..100).map(|_| limiter.admit(ms(0), MAX_WAIT)).collect();
        let at_once = admissions.iter().filter(|one| **one == Admission::Granted(Duration::ZERO)).count();
        assert_eq!(at_once, 5, "a tenth of a second's");
        let granted = admissions.iter().filter(|one| **one != Admission::Refused).count();
        assert_eq!(granted, 30, "and those whose turn comes within half a second");
        assert_eq!(limiter.admit(ms(20), MAX_WAIT), Admission::Granted(ms(500)));
    }

    #[test]
    fn a_rate_is_kept_over_a_long_time() {
        let mut limiter = Limiter::new(Limit::PerSecond(10.0));
        let granted = (0..10_000).filter(|at| limiter.admit(ms(*at), MAX_WAIT) != Admission::Refused).count();
        assert!((100..=106).contains(&granted), "{granted}");
    }

    #[test]
    fn so_many_run_at_once_and_no_more() {
        let mut limiter = Limiter::new(Limit::Concurrent(2));
        assert_eq!(limiter.admit(ms(0), MAX_WAIT), Admission::Granted(Duration::ZERO));
        assert_eq!(limiter.admit(ms(0), MAX_WAIT), Admission::Granted(Duration::ZERO));
        assert_eq!(limiter.admit(ms(0), MAX_WAIT), Admission::Busy);
        limiter.release();
        assert_eq!(limiter.admit(ms(0), MAX_WAIT), Admission::Granted(Duration::ZERO));
    }

    #[test]
    fn a_new_limit_holds_from_the_next_request_on() {
        let mut limiter = Limiter::new(Limit::PerSecond(0.001));
        assert_eq!(limiter.admit(ms(0), MAX_WAIT), Admission::Granted(Duration::ZERO));
        assert_eq!(limiter.admit(ms(0), MAX_WAIT), Admission::Refused);
        limiter.set(Limit::PerSecond(0.001));
        assert_eq!(limiter.admit(ms(0), MAX_WAIT), Admission::Refused, "the same limit changes nothing");
        limiter.set(Limit::None);
        assert_eq!(limiter.admit(ms(0), MAX_WAIT), Admission::Granted(Duration::ZERO));
        limiter.set(Limit::PerSecond(f64::MIN_POSITIVE));
        assert_eq!(limiter.admit(ms(0), MAX_WAIT), Admission::Granted(Duration::ZERO));
        assert_eq!(limiter.admit(Duration::from_secs(1 << 40), MAX_WAIT), Admission::Refused);
    }

    #[test]
    fn hundreds_of_proxies_that_are_started_together_each_get_their_turn() {
        let mut limiter = Limiter::new(Limit::PerSecond(50.0));
        let waits: Vec<_> = (0..1000)
            .map(|_| match limiter.admit(ms(0), MAX_WAIT_OF_OWN) {
                Admission::Granted(wait) => wait,
                other => panic!("{other:?}"),
            })
            .collect();
        assert!(waits.is_sorted() && waits[4] == ms(0) && waits[5] == ms(20) && waits[999] == ms(19_900), "{waits:?}");
        assert_eq!(limiter.admit(ms(0), MAX_WAIT), Admission::Refused, "a stranger does not wait that long");
    }

    #[test]
    fn a_renewal_gets_its_turn_however_many_requests_come() {
        let mut limiter = Limiter::new(Limit::PerSecond(10.0));
        while limiter.admit(ms(0), MAX_WAIT) != Admission::Refused {}
        let Admission::Granted(wait) = limiter.admit(ms(0), MAX_WAIT_OF_OWN) else { panic!("it is refused") };
        assert!(wait > MAX_WAIT && wait <= MAX_WAIT_OF_OWN, "{wait:?}");
        assert_eq!(limiter.admit(ms(100), MAX_WAIT), Admission::Refused, "its turn is its own");
    }
}
