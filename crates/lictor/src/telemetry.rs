//! The numbers of this process on their way out: what the runtime says of itself, and the delivery to statsd, statsite
//! and dogstatsd.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use lictor_meter::lines::{self, Form};
use lictor_meter::register::{Interval, Key};
use lictor_meter::{Filter, Gauge, Summary, View, process};
use lictor_model::Opaque;
use lictor_task::Stop;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UdpSocket, lookup_host};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::complain;
use crate::config::check::Telemetry;

/// How often gauges of the runtime are taken, and what was counted is delivered.
const PERIOD: Duration = Duration::from_secs(1);
/// A sink that takes longer misses this delivery.
const SINK_LIMIT: Duration = Duration::from_secs(2);
/// How long the address behind a sink's name is believed.
const ADDRESS_AGE: Duration = Duration::from_secs(60);

/// How numbers are shown, as configured.
pub(crate) fn view(telemetry: &Telemetry) -> View {
    let Telemetry {
        metrics_prefix,
        disable_hostname,
        filter_default,
        allowed_prefixes,
        blocked_prefixes,
        prometheus_retention,
        statsd_address: _,
        statsite_address: _,
        dogstatsd_addr: _,
        dogstatsd_tags: _,
    } = telemetry;
    let filter = Filter {
        prefix: metrics_prefix.clone(),
        host: if *disable_hostname { String::new() } else { host() },
        allowed: allowed_prefixes.clone(),
        blocked: blocked_prefixes.clone(),
        otherwise: *filter_default,
    };
    View { filter, retention: *prometheus_retention }
}

/// The settings that an agent hands to a managed proxy, read as a proxy must: what is not understood is left out.
pub(crate) fn of_proxy(settings: &Opaque) -> Telemetry {
    let text = |key: &str| settings.get(key).and_then(|value| value.as_str()).unwrap_or_default().to_owned();
    let texts = |key: &str| -> Vec<String> {
        let list = settings.get(key).and_then(|value| value.as_array()).into_iter().flatten();
        list.filter_map(|value| value.as_str()).map(str::to_owned).collect()
    };
    let flag = |key: &str, otherwise| settings.get(key).and_then(|value| value.as_bool()).unwrap_or(otherwise);
    Telemetry {
        metrics_prefix: text("metrics_prefix"),
        disable_hostname: flag("disable_hostname", false),
        filter_default: flag("filter_default", true),
        allowed_prefixes: texts("allowed_prefixes"),
        blocked_prefixes: texts("blocked_prefixes"),
        // A proxy has no API that could be scraped.
        prometheus_retention: Duration::ZERO,
        statsd_address: text("statsd_address"),
        statsite_address: text("statsite_address"),
        dogstatsd_addr: text("dogstatsd_addr"),
        dogstatsd_tags: texts("dogstatsd_tags"),
    }
}

/// Whether numbers are sent anywhere.
pub(crate) fn has_sinks(telemetry: &Telemetry) -> bool {
    !Sink::all(telemetry).is_empty()
}

fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Takes gauges with `measure` and delivers to the sinks, until told to stop; what is left then is delivered, too.
pub(crate) async fn run(telemetry: &Telemetry, stop: Stop, mut measure: impl FnMut()) {
    let mut sinks = Sink::all(telemetry);
    if !sinks.is_empty() {
        process().keep_deliveries();
    }
    loop {
        let ending = stop.or_stopped(tokio::time::sleep(PERIOD)).await.is_none();
        measure();
        process().forget_idle();
        if !sinks.is_empty() {
            let (delivery, view) = (process().deliver(), process().view());
            for sink in &mut sinks {
                sink.deliver(&lines::write(&delivery, &view.filter, &sink.form)).await;
            }
        }
        if ending {
            return;
        }
    }
}

/// Writes the numbers of the last interval to standard error whenever the process gets SIGUSR1.
pub(crate) async fn show_on_signal(stop: Stop) {
    let mut asked = match signal(SignalKind::user_defined1()) {
        Ok(asked) => asked,
        Err(error) => return tracing::warn!("telemetry: SIGUSR1 cannot be handled: {error}"),
    };
    while stop.or_stopped(asked.recv()).await.flatten().is_some() {
        complain(shown(&process().interval(), &process().view().filter).trim_end());
    }
}

/// An interval as lines for people.
fn shown(interval: &Interval, filter: &Filter) -> String {
    let Interval { start, gauges, counters, timers } = interval;
    let start = jiff::Timestamp::try_from(*start).unwrap_or_default().strftime("%Y-%m-%d %H:%M:%S +0000 UTC");
    let labelled = |name: String, key: &Key| {
        let values = key.labels.iter().map(|(_, value)| format!(".{value}"));
        std::iter::once(name).chain(values).collect::<String>()
    };
    let mut text = String::new();
    for (key, value) in gauges {
        if let Some(name) = filter.gauge(&key.name) {
            // A String takes every write.
            let _ = writeln!(text, "[{start}][G] '{}': {value:.3}", labelled(name, key));
        }
    }
    for (kind, all) in [('C', counters), ('S', timers)] {
        for (key, summary) in all {
            let Some(name) = filter.name(&key.name) else { continue };
            let Summary { count, sum, min, max, .. } = summary;
            let (mean, deviation) = (summary.mean(), summary.deviation());
            let _ = writeln!(
                text,
                "[{start}][{kind}] '{}': Count: {count} Min: {min:.3} Mean: {mean:.3} Max: {max:.3} \
                 Stddev: {deviation:.3} Sum: {sum:.3}",
                labelled(name, key)
            );
        }
    }
    text
}

/// Someone who collects numbers.
struct Sink {
    name: &'static str,
    address: String,
    form: Form,
    way: Way,
    /// Whether deliveries fail: said once, not every second.
    failing: bool,
    /// How many went well since the last one that failed.
    well: u32,
}

/// So many deliveries in a row must go well before a sink counts as being back: where nobody listens, the kernel says so of a
/// datagram only when the next but one is sent, so that every other one seems to go well.
const BACK_AFTER: u32 = 5;

enum Way {
    Datagrams(Option<(UdpSocket, Instant)>),
    Stream(Option<TcpStream>),
}

impl Sink {
    fn all(telemetry: &Telemetry) -> Vec<Sink> {
        let sink = |name, address: &str, form, way| {
            (!address.is_empty()).then(|| Sink {
                name,
                address: address.to_owned(),
                form,
                way,
                failing: false,
                well: 0,
            })
        };
        [
            sink("statsd", &telemetry.statsd_address, Form::Plain, Way::Datagrams(None)),
            sink("statsite", &telemetry.statsite_address, Form::Plain, Way::Stream(None)),
            sink(
                "dogstatsd",
                &telemetry.dogstatsd_addr,
                Form::Tagged(telemetry.dogstatsd_tags.clone()),
                Way::Datagrams(None),
            ),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    async fn deliver(&mut self, lines: &[String]) {
        if lines.is_empty() {
            return;
        }
        let sent = tokio::time::timeout(SINK_LIMIT, self.send(lines)).await;
        let problem = match sent {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("it does not take them".to_owned()),
        };
        match &problem {
            Some(problem) if !self.failing => {
                tracing::warn!("telemetry: cannot send to {} at {}: {problem}", self.name, self.address);
                self.failing = true;
            }
            None if self.failing && self.well + 1 >= BACK_AFTER => {
                tracing::info!("telemetry: {} at {} takes numbers again", self.name, self.address);
                self.failing = false;
            }
            _ => {}
        }
        self.well = if problem.is_some() { 0 } else { self.well.saturating_add(1) };
        if problem.is_some() {
            match &mut self.way {
                Way::Datagrams(socket) => *socket = None,
                Way::Stream(stream) => *stream = None,
            }
        }
    }

    async fn send(&mut self, lines: &[String]) -> std::io::Result<()> {
        match &mut self.way {
            Way::Datagrams(known) => {
                if known.as_ref().is_none_or(|(_, since)| since.elapsed() > ADDRESS_AGE) {
                    *known = Some((dial(&self.address).await?, Instant::now()));
                }
                let Some((socket, _)) = known else { return Ok(()) };
                for datagram in lines::pack(lines) {
                    socket.send(&datagram).await?;
                }
                Ok(())
            }
            Way::Stream(known) => {
                if known.is_none() {
                    *known = Some(TcpStream::connect(&self.address).await?);
                }
                let Some(stream) = known else { return Ok(()) };
                stream.write_all(format!("{}\n", lines.join("\n")).as_bytes()).await
            }
        }
    }
}

async fn dial(address: &str) -> std::io::Result<UdpSocket> {
    // A bare port means this machine, as the original has it.
    let address = if address.starts_with(':') { format!("127.0.0.1{address}") } else { address.to_owned() };
    let target = lookup_host(address).await?.next().ok_or(std::io::ErrorKind::NotFound)?;
    let any: IpAddr = if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(target).await?;
    Ok(socket)
}

/// What the runtime says of itself, under the names of another runtime that people have charts of: its tasks are our
/// tasks, and its heap is our anonymous memory.
pub(crate) struct Runtime {
    tasks: Gauge,
    alloc: Gauge,
    system: Gauge,
}

impl Runtime {
    pub(crate) fn new() -> Runtime {
        let gauge = |name| process().gauge(name, &[]);
        Runtime {
            tasks: gauge("runtime.num_goroutines"),
            alloc: gauge("runtime.alloc_bytes"),
            system: gauge("runtime.sys_bytes"),
        }
    }

    /// Takes the gauges; must be called within the runtime.
    pub(crate) fn measure(&self) {
        self.tasks.set(tokio::runtime::Handle::current().metrics().num_alive_tasks() as f64);
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let bytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<f64>().ok().map(|kilobytes| kilobytes * 1024.0)
        };
        if let Some(anonymous) = bytes("RssAnon:") {
            self.alloc.set(anonymous);
        }
        if let Some(resident) = bytes("VmRSS:") {
            self.system.set(resident);
        }
    }
}
