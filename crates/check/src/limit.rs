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
}
