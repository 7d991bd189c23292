//! A small table that a person likes to read.

use std::fmt;

/// Rows of three columns.
#[derive(Default)]
pub(super) struct Table {
    rows: Vec<[String; 3]>,
}

impl Table {
    pub(super) fn row(&mut self, what: &str, result: &str, remark: &str) {
        self.rows.push([what.to_owned(), result.to_owned(), remark.to_owned()]);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
        let widths = [width(0), width(1), width(2)];
        let line = "─".repeat(widths.iter().sum::<usize>() + 4);
        writeln!(f, "  {line}")?;
        for [what, result, remark] in &self.rows {
            let text = format!("  {what:0$}  {result:1$}  {remark}", widths[0], widths[1]);
            writeln!(f, "{}", text.trim_end())?;
        }
        write!(f, "  {line}")
    }
}
