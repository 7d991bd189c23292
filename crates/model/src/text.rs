//! Texts for people: cutting those that others wrote, and writing durations as the original does.

use std::time::Duration;

/// The beginning of a text: at most so many bytes, and no half character.
pub fn beginning(text: &str, most: usize) -> &str {
    // A character has at most four bytes, so this looks at few.
    let end = (0..=most.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
    &text[..end]
}

/// A duration in the notation of the outputs: `1s`, `500ms`, `1m30s`.
pub fn duration(duration: Duration) -> String {
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

    #[test]
    fn a_beginning_is_as_long_as_it_may_be_and_whole() {
        let cut = |most| beginning("aä€", most);
        assert_eq!([0, 1, 2, 3, 5, 6, 9].map(cut), ["", "a", "a", "aä", "aä", "aä€", "aä€"]);
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
            assert_eq!(duration(Duration::from_nanos(nanos)), expected);
        }
    }
}
