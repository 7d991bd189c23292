//! How a connection ended: one value per connection, which becomes at most one line in the log and one count.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use lictor_tls::{Error as TlsError, Refusal, pump::Broken};
use parking_lot::Mutex;

use crate::metrics::{Flow, Metrics, count};
use crate::settings::Place;

/// How a connection from a peer ended.
#[derive(Debug)]
pub(crate) enum Inbound {
    /// It could not be secured.
    Unsecured(TlsError),
    /// The handshake took too long.
    Slow(Duration),
    /// The agent, asked about it, refused it.
    Refused {
        /// The peer.
        uri: String,
        /// Why.
        reason: String,
    },
    /// There were too many others.
    Overloaded,
    /// The application cannot be reached.
    NoApp {
        /// Where it should be.
        app: Place,
        /// What went wrong.
        error: io::Error,
    },
}

impl Inbound {
    /// Whether something went wrong: neither a decision against the peer nor a look at the port, as health checks take.
    fn is_failure(&self) -> bool {
        !matches!(
            self,
            Inbound::Unsecured(TlsError::Silent | TlsError::Refused(Refusal::Denied(_))) | Inbound::Refused { .. }
        )
    }
}

/// How a connection from the application ended without having been carried.
#[derive(Debug)]
pub(crate) enum Outbound {
    /// There is nobody to dial.
    NoInstance {
        /// Whether discovery has said so; else it has not said anything yet.
        known: bool,
    },
    /// All that were dialled failed; the last one's failure.
    Unreachable {
        /// How many were dialled.
        tried: usize,
        /// The last one.
        instance: String,
        /// What went wrong there.
        failure: DialFailure,
    },
}

/// Why an instance could not be connected to.
#[derive(Debug)]
pub(crate) enum DialFailure {
    /// TCP says no.
    Connect(io::Error),
    /// TLS says no.
    Secure(TlsError),
    /// An intention denies it: the word of another proxy of our agent.
    Denied,
    /// Its share of the time was over.
    Slow,
}

impl std::fmt::Display for DialFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DialFailure::Connect(error) => write!(f, "cannot connect: {error}"),
            DialFailure::Secure(error) => chain(error).fmt(f),
            DialFailure::Denied => f.write_str("refused by the peer"),
            DialFailure::Slow => f.write_str("no answer in time"),
        }
    }
}

impl DialFailure {
    /// Whether the peer was reached and let nobody of ours in.
    fn is_the_peers_decision(&self) -> bool {
        match self {
            DialFailure::Denied => true,
            DialFailure::Secure(error) => error.is_refusal_by_peer(),
            DialFailure::Connect(_) | DialFailure::Slow => false,
        }
    }
}

/// How a connection that was carried ended.
#[derive(Debug)]
pub(crate) enum Carried {
    /// Both directions came to their end.
    Finished,
    /// One side broke.
    Broken(Broken),
    /// A changed intention denies it.
    Cut(String),
    /// The proxy stopped before it had ended.
    Stopped,
}

/// Writes outcomes to the log and the counters.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    refusals: Limited,
    failures: Limited,
    turned_away: Bursts,
}

impl Journal {
    pub(crate) fn inbound(&self, metrics: &Metrics, from: SocketAddr, outcome: &Inbound) {
        if outcome.is_failure() {
            count(&metrics.inbound.failures);
        }
        match outcome {
            Inbound::Unsecured(TlsError::Silent) => count(&metrics.silent),
            Inbound::Unsecured(TlsError::Refused(Refusal::Denied(reason))) => {
                count(&metrics.denied);
                self.refused(|| format!("connection from {from} denied: {reason}"));
            }
            Inbound::Refused { uri, reason } => {
                count(&metrics.denied);
                self.refused(|| format!("connection from {from} ({uri}) denied: {reason}"));
            }
            Inbound::Unsecured(TlsError::Refused(refusal)) => {
                count(&metrics.handshake_failures);
                self.refused(|| format!("connection from {from} refused: {refusal}"));
            }
            Inbound::Unsecured(error) => {
                count(&metrics.handshake_failures);
                tracing::debug!("connection from {from} not secured: {}", chain(error));
            }
            Inbound::Slow(limit) => {
                count(&metrics.handshake_failures);
                tracing::debug!("connection from {from} not secured within {limit:?}");
            }
            Inbound::Overloaded => {
                count(&metrics.overloaded);
                self.failed(|| format!("connection from {from} turned away: too many unfinished handshakes"));
            }
            Inbound::NoApp { app, error } => {
                count(&metrics.app_failures);
                self.failed(|| format!("failed to dial local service at {app}: {error}"));
            }
        }
    }

    pub(crate) fn outbound(&self, metrics: &Metrics, flow: &Flow, upstream: &str, outcome: &Outbound) {
        count(&metrics.unreachable);
        count(&flow.failures);
        if let Outbound::Unreachable { failure, .. } = outcome
            && failure.is_the_peers_decision()
        {
            return self.turned_away(upstream, &failure.to_string());
        }
        self.failed(|| match outcome {
            Outbound::NoInstance { known: true } => {
                format!("failed to dial {upstream}: no healthy instances found")
            }
            Outbound::NoInstance { known: false } => {
                format!("failed to dial {upstream}: its instances are not known yet")
            }
            Outbound::Unreachable { tried, instance, failure } => {
                format!("failed to dial {upstream}: {instance}: {failure} ({tried} tried)")
            }
        });
    }

    /// `what` names the connection.
    pub(crate) fn carried(
        &self,
        metrics: &Metrics,
        what: impl FnOnce() -> String,
        outcome: &Carried,
        traffic: Traffic,
    ) {
        match outcome {
            Carried::Cut(reason) => {
                count(&metrics.cut);
                self.refused(|| format!("{} cut: {reason} ({traffic})", what()));
            }
            _ if !tracing::enabled!(tracing::Level::DEBUG) => {}
            Carried::Finished => tracing::debug!("{} ended ({traffic})", what()),
            Carried::Broken(broken) => tracing::debug!("{} broke: {broken} ({traffic})", what()),
            Carried::Stopped => tracing::debug!("{} ended with the proxy ({traffic})", what()),
        }
    }

    /// A peer does not let us in. It says no more than that, and the application sees only that its connection is closed, so
    /// this is where somebody who wonders finds it.
    pub(crate) fn turned_away(&self, upstream: &str, how: &str) {
        if let Some(more) = self.turned_away.permit(upstream, how, Instant::now()) {
            tracing::info!(
                "upstream {upstream}: {how}; its intentions deny this service, or it does not trust our certificate: the log \
                 of the proxy there tells which{more}"
            );
        }
    }

    fn refused(&self, text: impl FnOnce() -> String) {
        if let Some(suppressed) = self.refusals.permit(Instant::now()) {
            tracing::info!("{}{suppressed}", text());
        }
    }

    fn failed(&self, text: impl FnOnce() -> String) {
        if let Some(suppressed) = self.failures.permit(Instant::now()) {
            tracing::warn!("{}{suppressed}", text());
        }
    }
}

/// What a connection moved, and how long it took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traffic {
    pub(crate) outward: u64,
    pub(crate) inward: u64,
    pub(crate) duration: Duration,
}

impl std::fmt::Display for Traffic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes out, {} in, {:?}", self.outward, self.inward, self.duration)
    }
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// Lines that peers can cause, which must not let them fill the disk.
#[derive(Debug, Default)]
struct Limited(Mutex<Bucket>);

#[derive(Debug, Default)]
struct Bucket {
    window: Option<Instant>,
    written: u32,
    suppressed: u64,
}

/// Lines per second.
const LINES: u32 = 10;

impl Limited {
    /// Whether a line may be written now; the text says how many were not.
    fn permit(&self, now: Instant) -> Option<String> {
        let mut bucket = self.0.lock();
        if bucket.window.is_none_or(|since| now.saturating_duration_since(since) >= Duration::from_secs(1)) {
            bucket.window = Some(now);
            bucket.written = 0;
        }
        if bucket.written >= LINES {
            bucket.suppressed += 1;
            return None;
        }
        bucket.written += 1;
        Some(match std::mem::take(&mut bucket.suppressed) {
            0 => String::new(),
            more => format!(" ({more} similar lines not written)"),
        })
    }
}

/// Lines about what goes on for a while: the first one at once, then one a minute that says how often it was since.
#[derive(Debug, Default)]
struct Bursts(Mutex<HashMap<(String, String), Burst>>);

#[derive(Debug)]
struct Burst {
    written: Instant,
    more: u64,
}

/// Between two lines about the same.
const BURST: Duration = Duration::from_secs(60);

impl Bursts {
    /// Whether a line may be written about this now; the text says how many were not.
    fn permit(&self, what: &str, how: &str, now: Instant) -> Option<String> {
        let mut bursts = self.0.lock();
        // What is over is forgotten with the first one that is new, so that upstreams that are gone leave nothing.
        let is_over = |burst: &Burst| now.saturating_duration_since(burst.written) >= BURST;
        let key = (what.to_owned(), how.to_owned());
        let more = match bursts.get_mut(&key) {
            Some(burst) if !is_over(burst) => {
                burst.more += 1;
                return None;
            }
            Some(burst) => std::mem::take(&mut burst.more),
            None => 0,
        };
        bursts.retain(|_, burst| !is_over(burst));
        bursts.insert(key, Burst { written: now, more: 0 });
        Some(match more {
            0 => String::new(),
            more => format!(" ({more} times since the last such line)"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_is_said_once_a_minute_for_each_thing() {
        let bursts = Bursts::default();
        let now = Instant::now();
        assert_eq!(bursts.permit("db", "no", now).as_deref(), Some(""));
        assert_eq!((bursts.permit("db", "no", now), bursts.permit("db", "no", now)), (None, None));
        assert_eq!(bursts.permit("cache", "no", now).as_deref(), Some(""));
        assert_eq!(bursts.permit("db", "never", now).as_deref(), Some(""));
        let later = now + BURST;
        assert_eq!(bursts.permit("db", "no", later).as_deref(), Some(" (2 times since the last such line)"));
        assert_eq!(bursts.permit("db", "no", later), None);
        assert_eq!(bursts.0.lock().len(), 1, "what is over is forgotten");
    }

    #[test]
    fn a_flood_of_lines_is_summed_up() {
        let limited = Limited::default();
        let now = Instant::now();
        for _ in 0..LINES {
            assert_eq!(limited.permit(now).as_deref(), Some(""));
        }
        for _ in 0..5 {
            assert_eq!(limited.permit(now), None);
        }
        let later = now + Duration::from_secs(1);
        assert_eq!(limited.permit(later).as_deref(), Some(" (5 similar lines not written)"));
        assert_eq!(limited.permit(later).as_deref(), Some(""));
    }

    #[test]
    fn an_error_is_shown_with_its_causes() {
        let error = TlsError::Io(io::Error::other("cable"));
        assert_eq!(chain(&error), "connection failed: cable");
    }
}
