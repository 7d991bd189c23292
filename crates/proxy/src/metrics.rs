//! What is counted: connections, bytes, handshakes, decisions, dials. Cheap enough to be always on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lictor_tls::{Meter, Session};
use parking_lot::Mutex;

/// The connections of one listener.
#[derive(Debug, Default)]
pub struct Flow {
    /// Connections that are being carried now.
    pub active: AtomicU64,
    /// Connections that were carried, those included.
    pub opened: AtomicU64,
    /// Bytes: `outward` is from the application to the peer.
    pub meter: Arc<Meter>,
    /// Connections that could not be carried: not secured, not decided in time, no application, no instance. A denial is
    /// none of these.
    pub failures: AtomicU64,
    /// How long handshakes took, from the first byte to the moment when the peer was known.
    pub handshakes: Timings,
}

/// Lengths of time that nobody has looked at yet.
#[derive(Debug, Default)]
pub struct Timings(Mutex<Vec<Duration>>);

impl Timings {
    /// Kept between two looks; the rest is left out, which is no loss to an average.
    const MOST: usize = 256;

    /// Adds one.
    pub(crate) fn add(&self, time: Duration) {
        let mut waiting = self.0.lock();
        if waiting.len() < Timings::MOST {
            waiting.push(time);
        }
    }

    /// Those since the last look.
    pub fn take(&self) -> Vec<Duration> {
        std::mem::take(&mut self.0.lock())
    }
}

/// All counters of one proxy.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Connections from peers to our application.
    pub inbound: Arc<Flow>,
    /// Connections closed before their first byte, as health checks do.
    pub silent: AtomicU64,
    /// Connections turned away because too many peers were not yet authenticated.
    pub overloaded: AtomicU64,
    /// Whole handshakes.
    pub handshakes: AtomicU64,
    /// Handshakes that took up an earlier session.
    pub resumptions: AtomicU64,
    /// Connections that a session carried after an earlier one, without any handshake.
    pub reuses: AtomicU64,
    /// Handshakes that failed, for other reasons than a denial.
    pub handshake_failures: AtomicU64,
    /// Peers that were let in.
    pub allowed: AtomicU64,
    /// Peers that an intention or the default refused.
    pub denied: AtomicU64,
    /// Live connections that a changed intention ended.
    pub cut: AtomicU64,
    /// Dials to the application that failed.
    pub app_failures: AtomicU64,
    /// Dials to instances that failed, each try counted.
    pub dial_failures: AtomicU64,
    /// Connections of the application for which no instance could be reached.
    pub unreachable: AtomicU64,
    /// Connections that went to or came from another proxy of our agent without TLS.
    pub direct: AtomicU64,
    /// Connections that could have and went with TLS.
    pub direct_fallbacks: AtomicU64,
    /// Connections that are being carried beside their workers now, because they move much.
    pub aside: AtomicU64,
    upstreams: Mutex<BTreeMap<String, Arc<Flow>>>,
}

impl Metrics {
    /// The connections of each upstream, by `type:namespace/name`.
    pub fn upstreams(&self) -> Vec<(String, Arc<Flow>)> {
        self.upstreams.lock().iter().map(|(name, flow)| (name.clone(), Arc::clone(flow))).collect()
    }

    /// The counters of one upstream; the same ones whenever it comes and goes.
    pub(crate) fn upstream(&self, name: &str) -> Arc<Flow> {
        Arc::clone(self.upstreams.lock().entry(name.to_owned()).or_default())
    }

    /// Counts how a connection was secured.
    pub(crate) fn secured(&self, session: &Session) {
        count(match (session.is_reused(), session.is_resumed()) {
            (true, _) => &self.reuses,
            (false, true) => &self.resumptions,
            (false, false) => &self.handshakes,
        });
    }

    /// A number that grows with whatever was done for connections: as long as it stays, nothing was.
    pub fn work(&self) -> u64 {
        let upstreams = self.upstreams.lock();
        let of_flow = |flow: &Arc<Flow>| {
            [&flow.opened, &flow.meter.outward, &flow.meter.inward].map(|counter| counter.load(Ordering::Relaxed))
        };
        let refused = [&self.silent, &self.overloaded, &self.handshake_failures, &self.denied, &self.unreachable];
        let refused = refused.map(|counter| counter.load(Ordering::Relaxed));
        upstreams.values().chain([&self.inbound]).flat_map(of_flow).chain(refused).fold(0, u64::wrapping_add)
    }

    /// Connections that are being carried now, in both directions.
    pub fn active(&self) -> u64 {
        let upstreams = self.upstreams.lock();
        upstreams.values().chain([&self.inbound]).map(|flow| flow.active.load(Ordering::Relaxed)).sum()
    }
}

/// Adds one.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
