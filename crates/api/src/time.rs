//! Moments and durations in the text forms that clients parse: RFC 3339 in UTC, and the original's durations.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A moment, written like `2019-03-05T21:47:52.520962797Z`: UTC, nanoseconds without trailing zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    seconds: i64,
    nanos: u32,
}

/// The first second of year 1, which the original shows for "never".
const NEVER: i64 = -62_135_596_800;

impl Time {
    /// `0001-01-01T00:00:00Z`, which stands for "never".
    pub const NEVER: Time = Time { seconds: NEVER, nanos: 0 };

    /// A moment given in seconds since the Unix epoch.
    pub fn from_seconds(seconds: i64) -> Time {
        Time { seconds, nanos: 0 }
    }

    /// A moment given in nanoseconds since the Unix epoch.
    pub fn from_nanos(nanos: i64) -> Time {
        const SECOND: i64 = 1_000_000_000;
        Time { seconds: nanos.div_euclid(SECOND), nanos: nanos.rem_euclid(SECOND) as u32 }
    }

    /// Nanoseconds since the Unix epoch; moments too far away for that become the nearest that is not.
    pub fn nanos(self) -> i64 {
        self.seconds.saturating_mul(1_000_000_000).saturating_add(i64::from(self.nanos))
    }

    /// Seconds since the Unix epoch, rounded down.
    pub fn seconds(self) -> i64 {
        self.seconds
    }
}

impl Default for Time {
    fn default() -> Self {
        Time::NEVER
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Moments beyond year 9999 have no RFC 3339 form; the last one that has stands for them.
        let moment = Timestamp::new(self.seconds, self.nanos as i32).unwrap_or(Timestamp::MAX);
        moment.fmt(f)
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let moment: Timestamp = text.parse().map_err(de::Error::custom)?;
        let floor = moment.as_nanosecond().div_euclid(1_000_000_000);
        let nanos = moment.as_nanosecond().rem_euclid(1_000_000_000);
        Ok(Time { seconds: floor as i64, nanos: nanos as u32 })
    }
}

/// A duration, written like `1m30s`, `1.5s` or `250ms`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span(pub Duration);

impl Span {
    /// Whether it is no time at all; such durations are left out of many answers.
    pub fn is_zero(&self) -> bool {
        self.0.is_zero()
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&lictor_notation::duration::text(self.0))
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        lictor_notation::duration::parse(&text).map(Span).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_utc_without_trailing_zeros() {
        let check = |nanos, expected: &str| assert_eq!(Time::from_nanos(nanos).to_string(), expected);
        check(1_551_822_472_520_962_797, "2019-03-05T21:47:52.520962797Z");
        check(1_551_822_472_520_000_000, "2019-03-05T21:47:52.52Z");
        check(1_551_822_472_000_000_000, "2019-03-05T21:47:52Z");
        check(0, "1970-01-01T00:00:00Z");
        check(-1, "1969-12-31T23:59:59.999999999Z");
        assert_eq!(Time::NEVER.to_string(), "0001-01-01T00:00:00Z");
        assert_eq!(Time::from_seconds(i64::MAX).to_string().get(..4), Some("9999"));
    }

    #[test]
    fn moments_are_read_back() {
        for nanos in [1_551_822_472_520_962_797, 0, -1] {
            let text = serde_json::to_string(&Time::from_nanos(nanos)).unwrap();
            assert_eq!(serde_json::from_str::<Time>(&text).unwrap(), Time::from_nanos(nanos));
        }
        assert!(serde_json::from_str::<Time>("\"yesterday\"").is_err());
    }

    #[test]
    fn durations_are_written_with_their_units() {
        assert_eq!(serde_json::to_string(&Span(Duration::from_secs(90))).unwrap(), "\"1m30s\"");
        assert_eq!(serde_json::from_str::<Span>("\"1m30s\"").unwrap(), Span(Duration::from_secs(90)));
        assert!(serde_json::from_str::<Span>("\"soon\"").is_err());
        assert!(Span::default().is_zero());
    }
}
