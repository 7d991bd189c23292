//! Plots as SVG, written by hand: bars beside each other, and lines over a logarithmic axis.

use std::fmt::Write as _;

use super::table::{Better, Line, shown};

const OURS: &str = "#c2410c";
const THEIRS: &str = "#94a3b8";
const BEST: &str = "#475569";
const COLORS: [&str; 4] = ["#c2410c", "#2563eb", "#15803d", "#7c3aed"];

const WIDTH: f64 = 860.0;
/// Where the bars of a panel begin, and how long the longest is.
const BARS_AT: f64 = 170.0;
const LONGEST: f64 = 540.0;
const BAR: f64 = 15.0;
const GAP: f64 = 4.0;
const HEAD: f64 = 26.0;

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn open(height: f64, title: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"16\" y=\"26\" font-size=\"16\" font-weight=\"bold\">{}</text>\n",
        escaped(title)
    )
}

/// A panel of bars for each line of the table, with the target as a mark.
pub(super) fn bars(title: &str, lines: &[Line]) -> String {
    let panel = |line: &Line| HEAD + (line.peers.len() + 1) as f64 * (BAR + GAP) + 12.0;
    let height = 48.0 + lines.iter().map(panel).sum::<f64>();
    let mut svg = open(height, title);
    let mut y = 48.0;
    for line in lines {
        let row = &line.row;
        let way = if row.better == Better::More { "more is better" } else { "less is better" };
        let target = line.verdict().map_or(String::new(), |(target, met)| {
            format!(" · target {target}: {}", if met { "met" } else { "missed" })
        });
        // Writing to memory cannot fail.
        let _ = writeln!(
            svg,
            "<text x=\"16\" y=\"{}\" font-weight=\"bold\">{}<tspan dx=\"8\" font-weight=\"normal\" fill=\"#64748b\">{}, \
             {way}{}</tspan></text>",
            y + 14.0,
            escaped(row.label),
            escaped(row.unit),
            escaped(&target),
        );
        let mut all = vec![(row.ours, line.ours, OURS)];
        all.extend(line.peers.iter().map(|(who, value)| {
            (*who, *value, if line.best.is_some_and(|(best, _)| best == *who) { BEST } else { THEIRS })
        }));
        let most = all.iter().map(|(_, value, _)| *value).fold(f64::MIN_POSITIVE, f64::max);
        let mut at = y + HEAD;
        for (who, value, color) in all {
            let length = (value / most * LONGEST).max(1.0);
            let _ = writeln!(
                svg,
                "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text><rect x=\"{BARS_AT}\" y=\"{at}\" width=\"{length:.1}\" \
                 height=\"{BAR}\" fill=\"{color}\"/><text x=\"{:.1}\" y=\"{}\">{}</text>",
                BARS_AT - 8.0,
                at + 12.0,
                escaped(who),
                BARS_AT + length + 6.0,
                at + 12.0,
                shown(value),
            );
            at += BAR + GAP;
        }
        y += panel(line);
    }
    svg.push_str("</svg>\n");
    svg
}

/// A line of a plot: what it is called, and its points.
pub(super) struct Curve {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

/// Lines over a logarithmic axis.
pub(super) fn curves(title: &str, across: &str, up: &str, curves: &[Curve]) -> String {
    const HEIGHT: f64 = 420.0;
    let (left, right, top, bottom) = (70.0, WIDTH - 30.0, 70.0, HEIGHT - 60.0);
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let low = points().map(|(x, _)| *x).fold(f64::MAX, f64::min).max(1.0);
    let high = points().map(|(x, _)| *x).fold(low * 10.0, f64::max);
    let most = nice(points().map(|(_, y)| *y).fold(f64::MIN_POSITIVE, f64::max) * 1.1);
    let x_of = |x: f64| left + (x.max(low) / low).log10() / (high / low).log10() * (right - left);
    let y_of = |y: f64| bottom - y / most * (bottom - top);
    let mut svg = open(HEIGHT, title);
    for step in 0..=4 {
        let value = most * f64::from(step) / 4.0;
        let y = y_of(value);
        let _ = writeln!(
            svg,
            "<line x1=\"{left}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\" stroke=\"#e2e8f0\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            left - 8.0,
            y + 4.0,
            shown(value),
        );
    }
    let mut tick = 10f64.powf(low.log10().floor());
    while tick <= high * 1.001 {
        if tick >= low * 0.999 {
            let _ = writeln!(
                svg,
                "<line x1=\"{0:.1}\" y1=\"{bottom}\" x2=\"{0:.1}\" y2=\"{1}\" stroke=\"#475569\"/>\
                 <text x=\"{0:.1}\" y=\"{2}\" text-anchor=\"middle\">{3}</text>",
                x_of(tick),
                bottom + 5.0,
                bottom + 20.0,
                shown(tick),
            );
        }
        tick *= 10.0;
    }
    let _ = writeln!(
        svg,
        "<line x1=\"{left}\" y1=\"{bottom}\" x2=\"{right}\" y2=\"{bottom}\" stroke=\"#475569\"/>\
         <text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text><text x=\"16\" y=\"48\" fill=\"#64748b\">{}</text>",
        f64::midpoint(left, right),
        HEIGHT - 16.0,
        escaped(across),
        escaped(up),
    );
    for (number, curve) in curves.iter().enumerate() {
        let color = COLORS[number % COLORS.len()];
        let path: Vec<String> = curve.points.iter().map(|(x, y)| format!("{:.1},{:.1}", x_of(*x), y_of(*y))).collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"/>",
            path.join(" ")
        );
        // The values of one line are above it, those of the next below, so that close lines stay readable.
        let aside = if number % 2 == 0 { -10.0 } else { 20.0 };
        for (x, y) in &curve.points {
            let (x, at) = (x_of(*x), y_of(*y));
            let _ = writeln!(
                svg,
                "<circle cx=\"{x:.1}\" cy=\"{at:.1}\" r=\"3.5\" fill=\"{color}\"/>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"{color}\">{}</text>",
                at + aside,
                shown(*y),
            );
        }
        let _ = writeln!(
            svg,
            "<rect x=\"{0}\" y=\"{1}\" width=\"12\" height=\"12\" fill=\"{color}\"/><text x=\"{2}\" y=\"{3}\">{4}</text>",
            left + 320.0 * number as f64,
            top - 14.0,
            left + 18.0 + 320.0 * number as f64,
            top - 4.0,
            escaped(&curve.name),
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// The next number that reads well as the end of an axis.
fn nice(value: f64) -> f64 {
    let scale = 10f64.powf(value.log10().floor());
    [1.0, 2.0, 4.0, 5.0, 8.0, 10.0].into_iter().map(|step| step * scale).find(|step| *step >= value).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers() {
        assert_eq!([0.9, 1.0, 3.3, 47.0, 81.0, 999.0].map(nice), [1.0, 1.0, 4.0, 50.0, 100.0, 1000.0]);
    }

    #[test]
    fn texts_are_escaped_and_points_are_in_the_picture() {
        let svg = curves("a < b", "n", "µs", &[Curve { name: "x & y".into(), points: vec![(1e3, 10.0), (1e5, 20.0)] }]);
        assert!(svg.contains("a &lt; b") && svg.contains("x &amp; y"), "{svg}");
        assert!(svg.contains("points=\"70.0,") && svg.contains("830.0,"), "{svg}");
    }
}
