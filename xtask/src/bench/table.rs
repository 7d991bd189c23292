//! Figures: samples, medians, ratios, and the table that says them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Better {
    More,
    Less,
}

/// What was set as a goal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Target {
    /// Nothing.
    None,
    /// So many times the best peer's figure of the same run.
    OfBest(f64),
    /// This figure.
    Figure(f64),
}

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    /// The samples it shows.
    pub(super) key: &'static str,
    pub(super) label: &'static str,
    pub(super) unit: &'static str,
    pub(super) better: Better,
    pub(super) target: Target,
    /// Whose figure is compared.
    pub(super) ours: &'static str,
}

/// Samples by figure and by who made them.
#[derive(Debug, Default)]
pub(super) struct Samples(BTreeMap<&'static str, BTreeMap<&'static str, Vec<f64>>>);

/// A line with its figures.
pub(super) struct Line {
    pub(super) row: Row,
    pub(super) ours: f64,
    /// The lowest and the highest of ours.
    pub(super) spread: (f64, f64),
    pub(super) peers: Vec<(&'static str, f64)>,
    pub(super) best: Option<(&'static str, f64)>,
}

impl Samples {
    pub(super) fn note(&mut self, key: &'static str, who: &'static str, value: f64) {
        self.0.entry(key).or_default().entry(who).or_default().push(value);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The lines for which there are figures of ours. Everyone whose name does not begin with ours is a peer.
    pub(super) fn lines(&self, rows: &[Row]) -> Vec<Line> {
        let line = |row: &Row| {
            let all = self.0.get(row.key)?;
            let ours = all.get(row.ours)?;
            let peers: Vec<(&'static str, f64)> = all
                .iter()
                .filter(|(who, _)| !who.starts_with("lictor"))
                .filter_map(|(who, values)| Some((*who, median(values)?)))
                .collect();
            let best = peers.iter().copied().reduce(|best, next| {
                let wins = if row.better == Better::More { next.1 > best.1 } else { next.1 < best.1 };
                if wins { next } else { best }
            });
            let bounds =
                ours.iter().fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(*value), high.max(*value)));
            Some(Line { row: *row, ours: median(ours)?, spread: bounds, peers, best })
        };
        rows.iter().filter_map(line).collect()
    }
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let high = *sorted.get(middle)?;
    Some(if sorted.len().is_multiple_of(2) { f64::midpoint(sorted[middle - 1], high) } else { high })
}

impl Line {
    /// Ours to the best peer's.
    pub(super) fn ratio(&self) -> Option<f64> {
        self.best.filter(|(_, value)| *value > 0.0).map(|(_, value)| self.ours / value)
    }

    /// The target in words, and whether it is met; `None` where there is none or nobody to compare with.
    pub(super) fn verdict(&self) -> Option<(String, bool)> {
        let meets = |value: f64, bound: f64| match self.row.better {
            Better::More => value >= bound,
            Better::Less => value <= bound,
        };
        let sign = if self.row.better == Better::More { "≥" } else { "≤" };
        match self.row.target {
            Target::None => None,
            Target::OfBest(bound) => Some((format!("{sign} {bound} × best"), meets(self.ratio()?, bound))),
            Target::Figure(bound) => Some((format!("{sign} {}", shown(bound)), meets(self.ours, bound))),
        }
    }
}

/// A figure with three digits that count.
pub(super) fn shown(value: f64) -> String {
    let digits = match value.abs() {
        0.0 => 0,
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    let (whole, rest) = text.split_once('.').map_or((text.as_str(), String::new()), |(w, r)| (w, format!(".{r}")));
    // Thousands are set apart.
    let (sign, whole) = whole.strip_prefix('-').map_or(("", whole), |whole| ("-", whole));
    let mut grouped = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{sign}{grouped}{rest}")
}

/// The table in Markdown.
pub(super) fn markdown(lines: &[Line]) -> String {
    let mut names: Vec<&str> = lines.iter().flat_map(|line| line.peers.iter().map(|(who, _)| *who)).collect();
    names.sort_unstable();
    names.dedup();
    // By itself nobody is compared with others.
    let compared = !names.is_empty();
    let mut text = String::from("| figure | unit | lictor | lowest to highest | target | met |");
    text.push_str(if compared { " to the best peer |" } else { "" });
    names.iter().for_each(|name| text.extend([" ", name, " |"]));
    text.push_str("\n|---|---|---:|---:|---|---|");
    text.push_str(&"---:|".repeat(names.len() + usize::from(compared)));
    for line in lines {
        let ratio = line.ratio().map_or_else(|| "–".to_owned(), shown);
        let (target, met) = line.verdict().unwrap_or(("–".to_owned(), true));
        let met = if target == "–" {
            "–"
        } else if met {
            "yes"
        } else {
            "**no**"
        };
        let (low, high) = (shown(line.spread.0), shown(line.spread.1));
        // Writing to memory cannot fail.
        let _ = write!(
            text,
            "\n| {} | {} | {} | {low} to {high} | {target} | {met} |",
            line.row.label,
            line.row.unit,
            shown(line.ours),
        );
        if compared {
            text.extend([" ", &ratio, " |"]);
        }
        for name in &names {
            let figure = line.peers.iter().find(|(who, _)| who == name).map(|(_, value)| shown(*value));
            let figure = figure.unwrap_or_else(|| "–".to_owned());
            let is_best = line.best.is_some_and(|(best, _)| best == *name);
            let _ = if is_best { write!(text, " **{figure}** |") } else { write!(text, " {figure} |") };
        }
    }
    text.push('\n');
    text
}

/// Everything that was measured, for programs.
pub(super) fn to_json(lines: &[Line], samples: &Samples) -> Value {
    let rows = lines.iter().map(|line| {
        let (target, met) = line.verdict().unzip();
        json!({"key": line.row.key, "label": line.row.label, "unit": line.row.unit, "who": line.row.ours,
               "lictor": line.ours, "ratio": line.ratio(), "target": target, "met": met,
               "best": line.best.map(|(who, _)| who),
               "peers": line.peers.iter().map(|(who, value)| ((*who).to_owned(), json!(value)))
                   .collect::<serde_json::Map<_, _>>()})
    });
    json!({"rows": rows.collect::<Vec<_>>(), "samples": samples.0})
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: Row = Row {
        key: "rate",
        label: "rate",
        unit: "1/s",
        better: Better::More,
        target: Target::OfBest(1.15),
        ours: "lictor",
    };

    fn samples(ours: &[f64], peers: &[(&'static str, f64)]) -> Samples {
        let mut samples = Samples::default();
        ours.iter().for_each(|value| samples.note("rate", "lictor", *value));
        peers.iter().for_each(|(who, value)| samples.note("rate", who, *value));
        samples
    }

    #[test]
    fn the_median_is_compared_with_the_best_peer() {
        let samples = samples(&[9.0, 120.0, 100.0], &[("slow", 50.0), ("fast", 80.0)]);
        let lines = samples.lines(&[ROW]);
        assert_eq!((lines[0].ours, lines[0].best), (100.0, Some(("fast", 80.0))));
        assert_eq!(lines[0].ratio(), Some(1.25));
        assert_eq!(lines[0].verdict(), Some(("≥ 1.15 × best".to_owned(), true)));
        let less = samples.lines(&[Row { better: Better::Less, ..ROW }]);
        assert_eq!(less[0].best, Some(("slow", 50.0)));
        assert!(!less[0].verdict().unwrap().1);
    }

    #[test]
    fn without_peers_only_figures_are_judged() {
        let samples = samples(&[4.0, 5.0], &[]);
        assert_eq!(samples.lines(&[ROW])[0].verdict(), None);
        let row = Row { target: Target::Figure(4.5), better: Better::Less, ..ROW };
        assert_eq!(samples.lines(&[row])[0].verdict(), Some(("≤ 4.50".to_owned(), true)));
        assert!(samples.lines(&[Row { ours: "lictor, direct", ..ROW }]).is_empty());
    }

    #[test]
    fn other_variants_of_ours_are_no_peers() {
        let samples = samples(&[4.0], &[("lictor, direct", 9.0), ("nginx", 2.0)]);
        assert_eq!(samples.lines(&[ROW])[0].peers, [("nginx", 2.0)]);
    }

    #[test]
    fn figures_have_three_digits() {
        let all = [0.0, 0.1234, 1.5, 12.345, 999.9, 1234.5, 1_234_567.0, -1234.0].map(shown);
        assert_eq!(all, ["0", "0.123", "1.50", "12.3", "1,000", "1,234", "1,234,567", "-1,234"]);
    }

    #[test]
    fn a_missed_target_is_seen_in_the_table() {
        let table = markdown(&samples(&[1.0], &[("nginx", 2.0)]).lines(&[ROW]));
        assert!(
            table.contains("| rate | 1/s | 1.00 | 1.00 to 1.00 | ≥ 1.15 × best | **no** | 0.500 | **2.00** |"),
            "{table}"
        );
    }
}
