//! All series by name, and the handles that rooms write through.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

use crate::filter::Filter;
use crate::series::{INTERVAL, Labels, Series, Summary, Wanted};

/// Labels can come from requests, so there are no more series of one kind than this. What comes later is counted for
/// nobody.
const MOST_SERIES: usize = 10_000;

/// A name and its labels, as series are told apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The name, without prefix.
    pub name: String,
    /// Its labels.
    pub labels: Vec<(&'static str, String)>,
}

/// All series of one process.
#[derive(Debug, Default)]
pub struct Register {
    counters: Shelf<Series>,
    timers: Shelf<Series>,
    gauges: Shelf<Level>,
    shared: Arc<Shared>,
    view: Mutex<Arc<View>>,
}

/// How the register is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Names and which of them pass.
    pub filter: Filter,
    /// How long what is not written to is shown to Prometheus; zero never.
    pub retention: Duration,
}

type Shelf<T> = Mutex<BTreeMap<Key, Arc<Mutex<T>>>>;

/// The value of a gauge.
#[derive(Debug, Default)]
pub(crate) struct Level {
    pub(crate) value: f64,
    pub(crate) touched: Option<Instant>,
    /// Whether it was set since the last delivery.
    unsent: bool,
}

/// What is wanted of series beside their intervals; read at each write.
#[derive(Debug, Default)]
struct Shared {
    quantiles: AtomicBool,
    deliveries: AtomicBool,
    /// The first interval anything was written in.
    first: AtomicU64,
}

impl Shared {
    fn wanted(&self) -> Wanted {
        Wanted {
            quantiles: self.quantiles.load(Ordering::Relaxed),
            deliveries: self.deliveries.load(Ordering::Relaxed),
        }
    }

    fn add(&self, series: &Mutex<Series>, value: f64) {
        let number = interval_number();
        if self.first.load(Ordering::Relaxed) == 0 {
            // Whoever is first says so; a later interval that races loses nothing but one view.
            let _ = self.first.compare_exchange(0, number, Ordering::Relaxed, Ordering::Relaxed);
        }
        series.lock().add(value, number, self.wanted());
    }
}

/// Counts how often something happens, or how much of it.
#[derive(Clone, Debug)]
pub struct Counter {
    series: Arc<Mutex<Series>>,
    shared: Arc<Shared>,
}

impl Counter {
    /// Adds to it.
    pub fn add(&self, amount: u64) {
        self.shared.add(&self.series, amount as f64);
    }
}

/// Tells how long things take.
#[derive(Clone, Debug)]
pub struct Timer {
    series: Arc<Mutex<Series>>,
    shared: Arc<Shared>,
}

impl Timer {
    /// Notes what has passed since `start`.
    pub fn since(&self, start: Instant) {
        self.took(start.elapsed());
    }

    /// Notes a time.
    pub fn took(&self, time: Duration) {
        self.shared.add(&self.series, time.as_secs_f64() * 1000.0);
    }
}

/// A value that goes up and down.
#[derive(Clone, Debug)]
pub struct Gauge(Arc<Mutex<Level>>);

impl Gauge {
    /// Sets it.
    pub fn set(&self, value: f64) {
        let mut level = self.0.lock();
        *level = Level { value, touched: Some(Instant::now()), unsent: true };
    }
}

/// What one interval came to, with names in order.
#[derive(Clone, Debug)]
pub struct Interval {
    /// When it began.
    pub start: SystemTime,
    /// Values at its end.
    pub gauges: Vec<(Key, f64)>,
    /// What was counted.
    pub counters: Vec<(Key, Summary)>,
    /// Milliseconds.
    pub timers: Vec<(Key, Summary)>,
}

/// What came since the last delivery.
#[derive(Clone, Debug, Default)]
pub struct Delivery {
    /// Gauges that were set.
    pub gauges: Vec<(Key, f64)>,
    /// What was counted.
    pub counters: Vec<(Key, f64)>,
    /// Milliseconds, each one.
    pub timers: Vec<(Key, Vec<f64>)>,
}

impl Register {
    /// The counter of a name; the same one for the same name and labels.
    pub fn counter(&self, name: &str, labels: Labels<'_>) -> Counter {
        Counter { series: find(&self.counters, name, labels), shared: Arc::clone(&self.shared) }
    }

    /// The timer of a name.
    pub fn timer(&self, name: &str, labels: Labels<'_>) -> Timer {
        Timer { series: find(&self.timers, name, labels), shared: Arc::clone(&self.shared) }
    }

    /// The gauge of a name.
    pub fn gauge(&self, name: &str, labels: Labels<'_>) -> Gauge {
        Gauge(find(&self.gauges, name, labels))
    }

    /// How it is shown.
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.lock())
    }

    /// Changes how it is shown.
    pub fn set_view(&self, view: View) {
        if !view.retention.is_zero() {
            self.keep_quantiles();
        }
        *self.view.lock() = Arc::new(view);
    }

    /// From now on quantiles can be told.
    pub fn keep_quantiles(&self) {
        self.shared.quantiles.store(true, Ordering::Relaxed);
    }

    /// From now on [`Register::deliver`] has something to give.
    pub fn keep_deliveries(&self) {
        self.shared.deliveries.store(true, Ordering::Relaxed);
    }

    /// The last whole interval, or the running one when it is the first.
    pub fn interval(&self) -> Interval {
        let number = interval_number();
        let first = self.shared.first.load(Ordering::Relaxed);
        let wanted = if first == 0 || first >= number { number } else { number - 1 };
        let summed = |shelf: &Shelf<Series>| {
            let all = shelf.lock();
            let of =
                |(key, series): (&Key, &Arc<Mutex<Series>>)| (key.clone(), series.lock().of_interval(wanted, number));
            all.iter().map(of).filter(|(_, summary)| summary.count > 0).collect()
        };
        Interval {
            start: SystemTime::UNIX_EPOCH + INTERVAL * u32::try_from(wanted).unwrap_or(u32::MAX),
            gauges: self.gauges(|_| true),
            counters: summed(&self.counters),
            timers: summed(&self.timers),
        }
    }

    /// All that came since the last call; for the one who sends it to sinks.
    pub fn deliver(&self) -> Delivery {
        let taken = |shelf: &Shelf<Series>| -> Vec<(Key, (f64, Vec<f64>))> {
            let all = shelf.lock();
            let taken = all.iter().map(|(key, series)| (key.clone(), series.lock().deliver()));
            taken.filter(|(_, (_, values))| !values.is_empty()).collect()
        };
        let gauges = self.gauges.lock();
        let mut set = Vec::new();
        for (key, level) in gauges.iter() {
            let mut level = level.lock();
            if std::mem::take(&mut level.unsent) {
                set.push((key.clone(), level.value));
            }
        }
        Delivery {
            gauges: set,
            counters: taken(&self.counters).into_iter().map(|(key, (sum, _))| (key, sum)).collect(),
            timers: taken(&self.timers).into_iter().map(|(key, (_, values))| (key, values)).collect(),
        }
    }

    /// Gauges that were set and satisfy a condition on when.
    pub(crate) fn gauges(&self, is_wanted: impl Fn(Instant) -> bool) -> Vec<(Key, f64)> {
        let all = self.gauges.lock();
        let value = |(key, level): (&Key, &Arc<Mutex<Level>>)| {
            let level = level.lock();
            level.touched.filter(|at| is_wanted(*at)).map(|_| (key.clone(), level.value))
        };
        all.iter().filter_map(value).collect()
    }

    /// Calls `visit` with each counter that was written to.
    pub(crate) fn each_counter(&self, visit: impl FnMut(&Key, &Series)) {
        each(&self.counters, visit);
    }

    /// Calls `visit` with each timer that was written to.
    pub(crate) fn each_timer(&self, visit: impl FnMut(&Key, &Series)) {
        each(&self.timers, visit);
    }
}

fn each(shelf: &Shelf<Series>, mut visit: impl FnMut(&Key, &Series)) {
    for (key, series) in shelf.lock().iter() {
        visit(key, &series.lock());
    }
}

fn find<T: Default>(shelf: &Shelf<T>, name: &str, labels: Labels<'_>) -> Arc<Mutex<T>> {
    let labels = labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    let mut shelf = shelf.lock();
    let room = shelf.len() < MOST_SERIES;
    match shelf.entry(Key { name: name.to_owned(), labels }) {
        Entry::Occupied(known) => Arc::clone(known.get()),
        Entry::Vacant(place) if room => Arc::clone(place.insert(Arc::default())),
        Entry::Vacant(_) => Arc::default(),
    }
}

/// Which interval it is, by the clock on the wall: agents of a cluster then turn together.
fn interval_number() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    now.as_secs() / INTERVAL.as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_name_is_one_series_and_labels_tell_others_apart() {
        let register = Register::default();
        register.counter("a", &[]).add(1);
        register.counter("a", &[]).add(2);
        register.counter("a", &[("service", "db")]).add(5);
        let Interval { counters, .. } = register.interval();
        let sums: Vec<f64> = counters.iter().map(|(_, summary)| summary.sum).collect();
        assert_eq!(sums, [3.0, 5.0]);
    }

    #[test]
    fn a_delivery_has_what_is_new() {
        let register = Register::default();
        register.counter("early", &[]).add(1);
        register.keep_deliveries();
        let (gauge, timer) = (register.gauge("g", &[]), register.timer("t", &[]));
        register.counter("c", &[]).add(3);
        timer.took(Duration::from_millis(2));
        gauge.set(4.0);
        let Delivery { gauges, counters, timers } = register.deliver();
        assert_eq!((gauges[0].1, counters[0].1), (4.0, 3.0));
        assert_eq!((counters.len(), timers[0].1.as_slice()), (1, &[2.0][..]));
        let Delivery { gauges, counters, timers } = register.deliver();
        assert!(gauges.is_empty() && counters.is_empty() && timers.is_empty());
    }

    #[test]
    fn requests_cannot_fill_the_memory_with_names() {
        let register = Register::default();
        for number in 0..MOST_SERIES + 100 {
            register.counter("catalog.service.query", &[("service", &number.to_string())]).add(1);
        }
        assert_eq!(register.interval().counters.len(), MOST_SERIES);
    }

    #[test]
    fn a_gauge_that_was_never_set_is_not_shown() {
        let register = Register::default();
        let gauge = register.gauge("g", &[]);
        assert!(register.interval().gauges.is_empty());
        gauge.set(0.0);
        assert_eq!(register.interval().gauges.len(), 1);
    }
}
