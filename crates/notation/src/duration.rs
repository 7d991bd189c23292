//! Durations as the original writes them: `1m30s`, `200ms`, `-5m`, `87600h0m0s`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Why a text is not a duration; the texts are the ones clients know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not a number with a unit, or out of range.
    #[error("time: invalid duration {0:?}")]
    Invalid(String),
    /// A number alone.
    #[error("time: missing unit in duration {0:?}")]
    MissingUnit(String),
    /// A unit nobody knows.
    #[error("time: unknown unit {0:?} in duration {1:?}")]
    UnknownUnit(String, String),
}

/// A span of time in nanoseconds that may be negative, in the range of the original (about 292 years).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GoDuration(i64);

const MICROSECOND: u64 = 1_000;
const MILLISECOND: u64 = 1_000 * MICROSECOND;
const SECOND: u64 = 1_000 * MILLISECOND;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

impl GoDuration {
    /// So many nanoseconds.
    pub const fn from_nanos(nanos: i64) -> GoDuration {
        GoDuration(nanos)
    }

    /// So many seconds.
    pub const fn from_secs(seconds: i64) -> GoDuration {
        GoDuration(seconds.saturating_mul(SECOND as i64))
    }

    /// The nanoseconds.
    pub const fn nanos(self) -> i64 {
        self.0
    }

    /// As a span that cannot be negative: what is below zero counts as zero.
    pub const fn or_zero(self) -> Duration {
        if self.0 > 0 { Duration::from_nanos(self.0 as u64) } else { Duration::ZERO }
    }
}

impl From<Duration> for GoDuration {
    fn from(duration: Duration) -> Self {
        GoDuration(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX))
    }
}

/// Reads a duration that cannot be negative, counting what is below zero as zero.
pub fn parse(text: &str) -> Result<Duration, Error> {
    text.parse::<GoDuration>().map(GoDuration::or_zero)
}

/// The text of a span: `1m0s`, `87600h0m0s`, `200ms`, `0s`.
pub fn text(duration: Duration) -> String {
    GoDuration::from(duration).to_string()
}

impl FromStr for GoDuration {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = || Error::Invalid(text.to_owned());
        let (negative, mut rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        if rest == "0" {
            return Ok(GoDuration(0));
        }
        if rest.is_empty() {
            return Err(invalid());
        }
        let mut total: u64 = 0;
        while !rest.is_empty() {
            let (whole, after) = digits(rest);
            let (fraction, after) = match after.strip_prefix('.') {
                Some(after) => digits(after),
                None => ("", after),
            };
            if whole.is_empty() && fraction.is_empty() {
                return Err(invalid());
            }
            let end = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
            let (unit, after) = after.split_at(end);
            let scale = match unit {
                "" => return Err(Error::MissingUnit(text.to_owned())),
                "ns" => 1,
                "us" | "µs" | "μs" => MICROSECOND,
                "ms" => MILLISECOND,
                "s" => SECOND,
                "m" => MINUTE,
                "h" => HOUR,
                other => return Err(Error::UnknownUnit(other.to_owned(), text.to_owned())),
            };
            let part = scaled(whole, fraction, scale).ok_or_else(invalid)?;
            total = total.checked_add(part).filter(|sum| *sum <= 1 << 63).ok_or_else(invalid)?;
            rest = after;
        }
        match (negative, i64::try_from(total)) {
            (true, Ok(nanos)) => Ok(GoDuration(-nanos)),
            (true, Err(_)) => Ok(GoDuration(i64::MIN)), // exactly 2^63, the filter above allows no more
            (false, Ok(nanos)) => Ok(GoDuration(nanos)),
            (false, Err(_)) => Err(invalid()),
        }
    }
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(text.len()))
}

fn scaled(whole: &str, fraction: &str, scale: u64) -> Option<u64> {
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    // Hours have 3.6e12 nanoseconds, so digits beyond the fifteenth cannot be seen in the result.
    let fraction = &fraction[..fraction.len().min(15)];
    let part = if fraction.is_empty() {
        0
    } else {
        let unit = 10u128.pow(u32::try_from(fraction.len()).ok()?);
        u64::try_from(fraction.parse::<u128>().ok()? * u128::from(scale) / unit).ok()?
    };
    whole.checked_mul(scale)?.checked_add(part)
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.unsigned_abs();
        if self.0 < 0 {
            f.write_str("-")?;
        }
        match nanos {
            0 => f.write_str("0s"),
            n if n < MICROSECOND => write!(f, "{n}ns"),
            n if n < MILLISECOND => write!(f, "{}µs", decimal(n, MICROSECOND)),
            n if n < SECOND => write!(f, "{}ms", decimal(n, MILLISECOND)),
            n => {
                let (hours, minutes) = (n / HOUR, n % HOUR / MINUTE);
                if hours > 0 {
                    write!(f, "{hours}h")?;
                }
                if hours > 0 || minutes > 0 {
                    write!(f, "{minutes}m")?;
                }
                write!(f, "{}s", decimal(n % MINUTE, SECOND))
            }
        }
    }
}

/// `value / unit` with as many decimals as it has, none for a whole number.
fn decimal(value: u64, unit: u64) -> String {
    let (whole, rest) = (value / unit, value % unit);
    if rest == 0 {
        return whole.to_string();
    }
    let width = unit.ilog10() as usize;
    let decimals = format!("{rest:0width$}");
    format!("{whole}.{}", decimals.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nanos(text: &str) -> i64 {
        text.parse::<GoDuration>().unwrap().nanos()
    }

    fn error(text: &str) -> String {
        text.parse::<GoDuration>().unwrap_err().to_string()
    }

    #[test]
    fn durations_are_read_as_the_original_reads_them() {
        assert_eq!(nanos("1m30s"), 90_000_000_000);
        assert_eq!(nanos("200ms"), 200_000_000);
        assert_eq!(nanos("-5m"), -300_000_000_000);
        assert_eq!(nanos("+1.5h"), 5_400_000_000_000);
        assert_eq!(nanos("3µs"), 3_000);
        assert_eq!(nanos("3us2ns"), 3_002);
        assert_eq!(nanos(".5s"), 500_000_000);
        assert_eq!(nanos("1.s"), 1_000_000_000);
        assert_eq!(nanos("0"), 0);
        assert_eq!(nanos("72h"), 259_200_000_000_000);
        assert_eq!(nanos("-9223372036854775808ns"), i64::MIN);
        assert_eq!(nanos("0.100000000000000000000h"), 360_000_000_000);
    }

    #[test]
    fn what_is_no_duration_has_the_text_clients_know() {
        assert_eq!(error("zz"), r#"time: invalid duration "zz""#);
        assert_eq!(error(""), r#"time: invalid duration """#);
        assert_eq!(error("-"), r#"time: invalid duration "-""#);
        assert_eq!(error(".s"), r#"time: invalid duration ".s""#);
        assert_eq!(error("5"), r#"time: missing unit in duration "5""#);
        assert_eq!(error("5 m"), r#"time: unknown unit " m" in duration "5 m""#);
        assert_eq!(error("1d"), r#"time: unknown unit "d" in duration "1d""#);
        assert_eq!(error("9223372036854775808ns"), r#"time: invalid duration "9223372036854775808ns""#);
        assert_eq!(error("99999999999999999999h"), r#"time: invalid duration "99999999999999999999h""#);
    }

    #[test]
    fn durations_are_written_as_the_original_writes_them() {
        let written = |seconds| text(Duration::from_secs(seconds));
        assert_eq!(written(60), "1m0s");
        assert_eq!(written(87_600 * 3600), "87600h0m0s");
        assert_eq!(written(0), "0s");
        assert_eq!(text(Duration::from_millis(200)), "200ms");
        assert_eq!(text(Duration::from_millis(1500)), "1.5s");
        assert_eq!(text(Duration::from_micros(1500)), "1.5ms");
        assert_eq!(text(Duration::from_nanos(1_050)), "1.05µs");
        assert_eq!(text(Duration::from_nanos(7)), "7ns");
        assert_eq!(GoDuration::from_secs(-300).to_string(), "-5m0s");
    }

    proptest! {
        #[test]
        fn every_duration_survives_writing_and_reading(nanos in any::<i64>()) {
            let duration = GoDuration::from_nanos(nanos);
            prop_assert_eq!(duration.to_string().parse::<GoDuration>(), Ok(duration));
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in "[-+0-9.µnsmh ]{0,40}|.{0,20}") {
            let _ = text.parse::<GoDuration>();
        }
    }
}
