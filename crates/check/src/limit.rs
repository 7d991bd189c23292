//! How often a check runs and how long a run may take.

use std::time::Duration;

use lictor_model::health::CheckSpec;

/// No check runs more often.
pub(crate) const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);
const USUAL: Duration = Duration::from_secs(10);
const SCRIPT: Duration = Duration::from_secs(30);

/// The time between two runs.
pub(crate) fn interval(spec: &CheckSpec) -> Duration {
    spec.interval.max(SHORTEST_INTERVAL)
}

/// Of an HTTP check. A limit that is not below the interval is ignored, as in the original.
pub(crate) fn http(spec: &CheckSpec) -> Duration {
    below_interval(spec).unwrap_or_else(|| USUAL.min(interval(spec)))
}

/// Of a TCP check; `None` means as long as the kernel tries, about two minutes.
pub(crate) fn tcp(spec: &CheckSpec) -> Option<Duration> {
    below_interval(spec).or_else(|| Some(interval(spec)).filter(|interval| *interval < USUAL))
}

/// Of a gRPC check.
pub(crate) fn grpc(spec: &CheckSpec) -> Duration {
    given(spec).unwrap_or(USUAL)
}

/// Of a script.
pub(crate) fn script(spec: &CheckSpec) -> Duration {
    given(spec).unwrap_or(SCRIPT)
}

/// Of a program in a container; the original has none.
pub(crate) fn docker(spec: &CheckSpec) -> Option<Duration> {
    given(spec)
}

fn given(spec: &CheckSpec) -> Option<Duration> {
    Some(spec.timeout).filter(|timeout| !timeout.is_zero())
}

fn below_interval(spec: &CheckSpec) -> Option<Duration> {
    given(spec).filter(|timeout| *timeout < interval(spec))
}

/// A duration in the notation of the outputs: `1s`, `500ms`, `1m30s`.
pub(crate) fn text(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let fraction = |unit: u128, name: &str| {
        let digits = unit.ilog10() as usize;
        let text = format!("{}.{:0digits$}", nanos / unit, nanos % unit);
        format!("{}{name}", text.trim_end_matches('0').trim_end_matches('.'))
    };
    if nanos == 0 {
        return "0s".to_owned();
    }
    if nanos < 1_000 {
        return format!("{nanos}ns");
    }
    if nanos < 1_000_000 {
        return fraction(1_000, "µs");
    }
    if nanos < 1_000_000_000 {
        return fraction(1_000_000, "ms");
    }
    let (hours, minutes) = (duration.as_secs() / 3600, duration.as_secs() / 60 % 60);
    let within = Duration::new(duration.as_secs() % 60, duration.subsec_nanos());
    let seconds = format!("{}.{:09}", within.as_secs(), within.subsec_nanos());
    let seconds = seconds.trim_end_matches('0').trim_end_matches('.');
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(interval: u64, timeout_ms: u64) -> CheckSpec {
        CheckSpec {
            interval: Duration::from_secs(interval),
            timeout: Duration::from_millis(timeout_ms),
            ..CheckSpec::default()
        }
    }

    #[test]
    fn limits_are_those_of_the_original() {
        let seconds = Duration::from_secs;
        assert_eq!(interval(&CheckSpec { interval: Duration::from_millis(100), ..CheckSpec::default() }), seconds(1));
        assert_eq!(http(&spec(30, 0)), seconds(10));
        assert_eq!(http(&spec(5, 0)), seconds(5));
        assert_eq!(http(&spec(5, 2000)), seconds(2));
        assert_eq!(http(&spec(5, 5000)), seconds(5), "not below the interval");
        assert_eq!(http(&spec(60, 20_000)), seconds(20));
        assert_eq!(tcp(&spec(10, 0)), None);
        assert_eq!(tcp(&spec(9, 0)), Some(seconds(9)));
        assert_eq!(tcp(&spec(10, 3000)), Some(seconds(3)));
        assert_eq!(grpc(&spec(1, 0)), seconds(10));
        assert_eq!(grpc(&spec(1, 20_000)), seconds(20));
        assert_eq!(script(&spec(1, 0)), seconds(30));
        assert_eq!(script(&spec(1, 90_000)), seconds(90));
    }

    #[test]
    fn durations_are_written_as_in_the_outputs() {
        let cases = [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5µs"),
            (500_000_000, "500ms"),
            (1_000_000_000, "1s"),
            (1_050_000_000, "1.05s"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h0m0s"),
        ];
        for (nanos, expected) in cases {
            assert_eq!(text(Duration::from_nanos(nanos)), expected);
        }
    }
}
