//! The numbers of a proxy under the original's names, sent where the agent's settings say.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use lictor_meter::{Counter, Gauge, Timer, process};
use lictor_proxy::metrics::{Flow, Metrics};
use lictor_proxy::proxy::Reporting;
use lictor_task::Stop;
use tokio::sync::watch;

use crate::telemetry::{self, Runtime};

/// How much was done, and how many connections there are: as long as it stays, there is nothing new to say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Work {
    done: u64,
    connections: u64,
}

impl Work {
    pub(super) fn of(metrics: &Metrics) -> Work {
        Work { done: metrics.work(), connections: metrics.active() }
    }
}

/// Sends numbers until told to stop, anew whenever the settings change. Without settings there is nobody to send to, and
/// without sinks they are only taken, when there was work.
pub(super) async fn report(
    mut wanted: watch::Receiver<Option<Reporting>>,
    metrics: Arc<Metrics>,
    mut work: watch::Receiver<Work>,
    stop: Stop,
) {
    let runtime = Runtime::new();
    let mut taken = Taken::default();
    loop {
        let Some(Reporting { service, telemetry }) = wanted.borrow_and_update().clone() else {
            match stop.or_stopped(wanted.changed()).await {
                Some(Ok(())) => continue,
                Some(Err(_)) | None => return,
            }
        };
        let settings = telemetry::of_proxy(&telemetry);
        process().set_view(telemetry::view(&settings));
        let mut measure = || {
            runtime.measure();
            taken.take(service.as_str(), &metrics);
        };
        if telemetry::has_sinks(&settings) {
            tokio::select! {
                () = telemetry::run(&settings, stop.clone(), measure) => return,
                Ok(()) = wanted.changed() => continue,
            }
        }
        loop {
            tokio::select! {
                worked = stop.or_stopped(work.changed()) => match worked {
                    Some(Ok(())) => measure(),
                    Some(Err(_)) | None => return,
                },
                Ok(()) = wanted.changed() => break,
            }
        }
    }
}

/// Where all numbers of a proxy go.
#[derive(Default)]
struct Taken {
    flows: BTreeMap<String, OfFlow>,
    denied: Option<Growing>,
    probes: Option<Growing>,
}

impl Taken {
    fn take(&mut self, service: &str, metrics: &Metrics) {
        let dst = [("dst", service)];
        let inbound = self.flows.entry(String::new()).or_insert_with(|| OfFlow::new("inbound", &dst));
        // Sent is what goes back to whoever connected: here the peer, there the application.
        let bytes =
            |flow: &Flow| (flow.meter.outward.load(Ordering::Relaxed), flow.meter.inward.load(Ordering::Relaxed));
        inbound.take(&metrics.inbound, bytes(&metrics.inbound));
        let denied = self.denied.get_or_insert_with(|| Growing::new("inbound.authz_denied", &dst));
        denied.take(metrics.denied.load(Ordering::Relaxed));
        let probes = self.probes.get_or_insert_with(|| Growing::new("inbound.probes", &dst));
        probes.take(metrics.silent.load(Ordering::Relaxed));
        for (name, flow) in metrics.upstreams() {
            let (kind, target) = name.split_once(':').unwrap_or(("service", &name));
            let target = target.rsplit_once('/').map_or(target, |(_, target)| target);
            let labels = [("src", service), ("dst_type", kind), ("dst", target)];
            let upstream = self.flows.entry(name.clone()).or_insert_with(|| OfFlow::new("upstream", &labels));
            let (outward, inward) = bytes(&flow);
            upstream.take(&flow, (inward, outward));
        }
    }
}

/// Where the numbers of one flow go.
struct OfFlow {
    connections: Gauge,
    sent: Growing,
    received: Growing,
    failures: Growing,
    handshakes: Timer,
}

impl OfFlow {
    fn new(side: &str, labels: lictor_meter::Labels<'_>) -> OfFlow {
        OfFlow {
            connections: process().gauge(&format!("{side}.conns"), labels),
            sent: Growing::new(&format!("{side}.tx_bytes"), labels),
            received: Growing::new(&format!("{side}.rx_bytes"), labels),
            failures: Growing::new(&format!("{side}.failures"), labels),
            handshakes: process().timer(&format!("{side}.handshake_ms"), labels),
        }
    }

    fn take(&mut self, flow: &Flow, (sent, received): (u64, u64)) {
        self.connections.set(flow.active.load(Ordering::Relaxed) as f64);
        self.sent.take(sent);
        self.received.take(received);
        self.failures.take(flow.failures.load(Ordering::Relaxed));
        for time in flow.handshakes.take() {
            self.handshakes.took(time);
        }
    }
}

/// A counter that follows a number which only grows.
struct Growing {
    counter: Counter,
    before: u64,
}

impl Growing {
    fn new(name: &str, labels: lictor_meter::Labels<'_>) -> Growing {
        Growing { counter: process().counter(name, labels), before: 0 }
    }

    fn take(&mut self, now: u64) {
        if let Some(more @ 1..) = now.checked_sub(self.before) {
            self.counter.add(more);
        }
        self.before = now;
    }
}
