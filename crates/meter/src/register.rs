//! All series by name, and the handles that rooms write through.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

use crate::filter::Filter;
use crate::series::{INTERVAL, Labels, Series, Summary, Wanted};

/// Labels can come from requests, so there are no more labelled series of one kind than this. What comes later is counted
/// under its name alone.
const MOST_LABELLED: usize = 10_000;
/// A longer value of a label is cut.
const LONGEST_LABEL: usize = 256;
/// A labelled series that nobody holds and nobody has written to for so long is forgotten, unless Prometheus is still to
/// be shown it. Longer than an interval is shown.
const IDLE: Duration = Duration::from_secs(6 * INTERVAL.as_secs());

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

/// Series of one kind.
#[derive(Debug)]
struct Shelf<T>(Mutex<Rows<T>>);

#[derive(Debug)]
struct Rows<T> {
    all: BTreeMap<Key, Arc<Mutex<T>>>,
    /// How many have labels.
    labelled: usize,
    /// When it was last looked at what can be forgotten.
    swept: Option<Instant>,
}

impl<T> Default for Shelf<T> {
    fn default() -> Shelf<T> {
        Shelf(Mutex::new(Rows { all: BTreeMap::new(), labelled: 0, swept: None }))
    }
}

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

    fn add(&self, series: &Mutex<Series>, value: f64, wanted: Wanted) {
        let number = interval_number();
        if self.first.load(Ordering::Relaxed) == 0 {
            // Whoever is first says so; a later interval that races loses nothing but one view.
            let _ = self.first.compare_exchange(0, number, Ordering::Relaxed, Ordering::Relaxed);
        }
        series.lock().add(value, number, wanted);
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
        // Nobody asks for quantiles of a counter.
        let wanted = Wanted { quantiles: false, ..self.shared.wanted() };
        self.shared.add(&self.series, amount as f64, wanted);
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
        self.shared.add(&self.series, time.as_secs_f64() * 1000.0, self.shared.wanted());
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
        Counter { series: self.series(&self.counters, name, labels), shared: Arc::clone(&self.shared) }
    }

    /// The timer of a name.
    pub fn timer(&self, name: &str, labels: Labels<'_>) -> Timer {
        Timer { series: self.series(&self.timers, name, labels), shared: Arc::clone(&self.shared) }
    }

    /// The gauge of a name.
    pub fn gauge(&self, name: &str, labels: Labels<'_>) -> Gauge {
        Gauge(self.gauges.find(name, labels).unwrap_or_default())
    }

    fn series(&self, shelf: &Shelf<Series>, name: &str, labels: Labels<'_>) -> Arc<Mutex<Series>> {
        let found = shelf.find(name, labels).or_else(|| {
            shelf.sweep(Instant::now(), self.keep());
            shelf.find(name, labels)
        });
        // A name alone always finds room.
        found.or_else(|| shelf.find(name, &[])).unwrap_or_default()
    }

    /// How long a series is kept that nobody writes to.
    fn keep(&self) -> Duration {
        self.view().retention.max(IDLE)
    }

    /// Forgets labelled counters and timers that were not written to for some intervals. To be called now and then.
    pub fn forget_idle(&self) {
        let (now, keep) = (Instant::now(), self.keep());
        self.counters.sweep(now, keep);
        self.timers.sweep(now, keep);
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
            let all = &shelf.0.lock().all;
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
            let all = &shelf.0.lock().all;
            let taken = all.iter().map(|(key, series)| (key.clone(), series.lock().deliver()));
            taken.filter(|(_, (_, values))| !values.is_empty()).collect()
        };
        let gauges = self.gauges.0.lock();
        let mut set = Vec::new();
        for (key, level) in &gauges.all {
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
        let all = &self.gauges.0.lock().all;
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
    for (key, series) in &shelf.0.lock().all {
        visit(key, &series.lock());
    }
}

impl<T: Default> Shelf<T> {
    /// The series of a name and its labels; nothing if it is new and there is no room.
    fn find(&self, name: &str, labels: Labels<'_>) -> Option<Arc<Mutex<T>>> {
        let labels: Vec<_> = labels.iter().map(|(name, value)| (*name, cut(value).to_owned())).collect();
        let mut rows = self.0.lock();
        let Rows { all, labelled, .. } = &mut *rows;
        let has_labels = !labels.is_empty();
        match all.entry(Key { name: name.to_owned(), labels }) {
            Entry::Occupied(known) => Some(Arc::clone(known.get())),
            Entry::Vacant(_) if has_labels && *labelled >= MOST_LABELLED => None,
            Entry::Vacant(place) => {
                *labelled += usize::from(has_labels);
                Some(Arc::clone(place.insert(Arc::default())))
            }
        }
    }
}

impl Shelf<Series> {
    /// Forgets what has labels, is held by nobody, was not written to for longer than `keep`, and was delivered. Looked at
    /// once in an interval: a shelf that is full is not gone through for each request.
    fn sweep(&self, now: Instant, keep: Duration) {
        let mut rows = self.0.lock();
        if rows.swept.is_some_and(|swept| now.saturating_duration_since(swept) < INTERVAL) {
            return;
        }
        rows.swept = Some(now);
        // Who holds a series got it from here or from another holder, so one that is held here alone stays so.
        rows.all.retain(|key, series| {
            key.labels.is_empty() || Arc::strong_count(series) > 1 || !series.lock().is_idle(now, keep)
        });
        rows.labelled = rows.all.keys().filter(|key| !key.labels.is_empty()).count();
    }
}

/// The beginning of a text that is too long for a label.
fn cut(value: &str) -> &str {
    let mut end = value.len().min(LONGEST_LABEL);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    &value[..end]
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

    fn labels_of(register: &Register, name: &str) -> Vec<String> {
        let counters = register.interval().counters.into_iter().filter(|(key, _)| key.name == name);
        counters.map(|(key, _)| key.labels.into_iter().map(|(_, value)| value).collect()).collect()
    }

    #[test]
    fn requests_cannot_fill_the_memory_with_names_and_what_is_too_much_is_still_counted() {
        let register = Register::default();
        for number in 0..MOST_LABELLED + 100 {
            register.counter("catalog.service.query", &[("service", &number.to_string())]).add(1);
        }
        register.counter("new", &[]).add(7);
        register.counter("new", &[("a", "b")]).add(1);
        let all = register.interval().counters;
        assert_eq!(all.len(), MOST_LABELLED + 2);
        let alone = all.iter().filter(|(key, _)| key.labels.is_empty()).map(|(key, sum)| (key.name.as_str(), sum.sum));
        assert_eq!(alone.collect::<Vec<_>>(), [("catalog.service.query", 100.0), ("new", 8.0)]);
    }

    #[test]
    fn values_of_labels_are_cut_between_characters() {
        let register = Register::default();
        register.counter("a", &[("service", &"x".repeat(60_000))]).add(1);
        register.counter("b", &[("service", &"xé".repeat(1000))]).add(1);
        assert_eq!(labels_of(&register, "a")[0].len(), LONGEST_LABEL);
        assert_eq!(labels_of(&register, "b")[0], format!("{}x", "xé".repeat(85)));
    }

    #[test]
    fn what_nobody_writes_to_is_forgotten_unless_it_is_held_shown_or_not_delivered() {
        let sweep = |register: &Register, after: Duration| {
            register.counters.0.lock().swept = None;
            register.counters.sweep(Instant::now() + after, register.keep());
            labels_of(register, "a").concat()
        };
        let count = |register: &Register| {
            let held = register.counter("a", &[("of", "held ")]);
            held.add(1);
            register.counter("a", &[("of", "idle ")]).add(1);
            register.counter("a", &[]).add(1);
            held
        };
        let register = Register::default();
        let held = count(&register);
        assert_eq!(sweep(&register, IDLE - Duration::from_secs(5)), "held idle ");
        assert_eq!(sweep(&register, IDLE + Duration::from_secs(5)), "held ");
        assert_eq!(labels_of(&register, "a").len(), 2, "the one without labels stays");
        drop(held);
        assert_eq!(sweep(&register, IDLE + Duration::from_secs(5)), "");
        assert_eq!(register.counters.0.lock().labelled, 0);

        let register = Register::default();
        register.set_view(View { retention: Duration::from_secs(3600), ..View::default() });
        drop(count(&register));
        assert_eq!(sweep(&register, Duration::from_secs(3000)), "held idle ");
        assert_eq!(sweep(&register, Duration::from_secs(3700)), "");

        let register = Register::default();
        register.keep_deliveries();
        drop(count(&register));
        assert_eq!(sweep(&register, 2 * IDLE), "held idle ");
        assert_eq!(register.deliver().counters.len(), 3);
        assert_eq!(sweep(&register, 2 * IDLE), "");
    }

    #[test]
    fn room_is_found_again_when_what_filled_it_is_old() {
        let register = Register::default();
        for number in 0..MOST_LABELLED {
            register.counter("a", &[("of", &number.to_string())]).add(1);
        }
        register.counters.sweep(Instant::now() + 2 * IDLE, IDLE);
        register.counter("b", &[("of", "new")]).add(1);
        assert_eq!(labels_of(&register, "b"), ["new"]);
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
