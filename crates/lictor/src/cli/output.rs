//! What commands print and read: columns, JSON, and values that may come from a file or standard input.

use std::io::Read;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::config::flags::{Flag, Parsed};

/// The option of every command that prints something with a structure.
pub(crate) const FORMAT: Flag =
    Flag::text("format", "How to print the answer: pretty (for people, the default) or json");

/// How an answer is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// For people, and for the scripts that read the original's output.
    Pretty,
    /// For programs.
    Json,
}

impl Format {
    /// What was asked for.
    pub(crate) fn of(flags: &Parsed) -> Result<Format> {
        match flags.text("format") {
            None | Some("" | "pretty") => Ok(Format::Pretty),
            Some("json") => Ok(Format::Json),
            Some(other) => bail!("Invalid format: {other:?}. Use pretty or json"),
        }
    }
}

/// Rows as columns two blanks apart; the last column is as wide as its text.
pub(crate) fn columns<R: AsRef<[String]>>(rows: &[R]) -> String {
    let count = rows.iter().map(|row| row.as_ref().len()).max().unwrap_or_default();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.as_ref().get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.as_ref().iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Names and values, the values below each other, `gap` blanks behind the longest name.
pub(crate) fn pairs<N: AsRef<str>, V: AsRef<str>>(gap: usize, pairs: &[(N, V)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.as_ref().chars().count()).max().unwrap_or_default() + gap;
    pairs.iter().map(|(name, value)| format!("{:width$}{}\n", name.as_ref(), value.as_ref())).collect()
}

/// A row of owned texts.
pub(crate) fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

/// A value as JSON for `-format=json`.
pub(crate) fn json(value: &impl Serialize) -> Result<String> {
    indented(value, b"    ")
}

/// A value as JSON indented by tabs, as exports and configurations are printed.
pub(crate) fn tabbed(value: &impl Serialize) -> Result<String> {
    indented(value, b"\t")
}

fn indented(value: &impl Serialize, indent: &[u8]) -> Result<String> {
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(indent);
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, formatter)).context("cannot write JSON")?;
    String::from_utf8(bytes).context("cannot write JSON")
}

/// JSON as an agent wrote it, without white space.
pub(crate) fn compact(json: &str) -> String {
    let (mut in_string, mut escaped) = (false, false);
    json.chars()
        .filter(|character| {
            let was_in_string = in_string;
            if in_string {
                in_string = escaped || *character != '"';
                escaped = !escaped && *character == '\\';
            } else {
                in_string = *character == '"';
            }
            was_in_string || !character.is_ascii_whitespace()
        })
        .collect()
}

/// JSON as an agent wrote it, its keys in the agent's order, with new white space.
pub(crate) fn reindented(json: &str, indent: &str) -> String {
    let mut text = String::with_capacity(json.len() * 2);
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    let line = |text: &mut String, depth: usize| {
        text.push('\n');
        text.extend(std::iter::repeat_n(indent, depth));
    };
    let mut rest = json.chars().peekable();
    while let Some(character) = rest.next() {
        if in_string {
            text.push(character);
            in_string = escaped || character != '"';
            escaped = !escaped && character == '\\';
            continue;
        }
        match character {
            '{' | '[' => {
                text.push(character);
                while rest.next_if(|next| next.is_ascii_whitespace()).is_some() {}
                // What is empty stays on its line.
                match rest.next_if(|next| matches!(next, '}' | ']')) {
                    Some(end) => text.push(end),
                    None => {
                        depth += 1;
                        line(&mut text, depth);
                    }
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut text, depth);
                text.push(character);
            }
            ',' => {
                text.push(',');
                line(&mut text, depth);
            }
            ':' => text.push_str(": "),
            white if white.is_ascii_whitespace() => {}
            other => {
                in_string = other == '"';
                text.push(other);
            }
        }
    }
    text
}

/// A value of the command line: `@file` is the content of a file, `-` standard input, anything else itself.
pub(crate) fn data(text: &str) -> Result<Vec<u8>> {
    match text.strip_prefix('@') {
        Some(path) => std::fs::read(path).with_context(|| format!("Failed to read file {path:?}")),
        None if text == "-" => stdin(),
        None => Ok(text.as_bytes().to_vec()),
    }
}

/// [`data`] that must be text.
pub(crate) fn text_data(text: &str) -> Result<String> {
    // What was read may be a secret: it is not shown.
    String::from_utf8(data(text)?).map_err(|_| anyhow::anyhow!("the content of {} is not text", source(text)))
}

fn source(text: &str) -> &str {
    match text {
        "-" => "standard input",
        text if text.starts_with('@') => &text[1..],
        _ => "the argument",
    }
}

/// All of standard input.
pub(crate) fn stdin() -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::io::stdin().lock().read_to_end(&mut bytes).context("Failed to read standard input")?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [row(["Node", "ID", "DC"]), row(["n1", "6eef82ec", "dc1"]), row(["ü", "", ""])];
        assert_eq!(columns(&rows), "Node  ID        DC\nn1    6eef82ec  dc1\nü\n");
        assert_eq!(columns::<Vec<String>>(&[]), "");
    }

    #[test]
    fn pairs_are_aligned_behind_the_longest_name() {
        assert_eq!(pairs(6, &[("ID", "a"), ("Version", "1")]), "ID           a\nVersion      1\n");
    }

    #[test]
    fn json_is_indented_by_four_blanks_or_by_tabs() {
        let value = serde_json::json!({"a": [1]});
        assert_eq!(json(&value).unwrap(), "{\n    \"a\": [\n        1\n    ]\n}");
        assert_eq!(tabbed(&value).unwrap(), "{\n\t\"a\": [\n\t\t1\n\t]\n}");
    }

    #[test]
    fn json_of_an_agent_keeps_its_order() {
        let json = r#"{"b": [],"a":{"x":"{\"q\":1, [}\\"} ,"c":[1,{ }],"d":null}"#;
        let text = reindented(json, "\t");
        assert_eq!(
            text,
            "{\n\t\"b\": [],\n\t\"a\": {\n\t\t\"x\": \"{\\\"q\\\":1, [}\\\\\"\n\t},\n\t\"c\": [\n\t\t1,\n\t\t{}\n\t],\n\t\"d\": null\n}"
        );
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(value(&text), value(json));
        assert_eq!(compact(&text), r#"{"b":[],"a":{"x":"{\"q\":1, [}\\"},"c":[1,{}],"d":null}"#);
    }

    #[test]
    fn data_comes_from_a_file_or_is_itself() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("value");
        std::fs::write(&path, [0, 255]).unwrap();
        let named = format!("@{}", path.display());
        assert_eq!((data(&named).unwrap(), data("x").unwrap()), (vec![0, 255], b"x".to_vec()));
        let error = format!("{:#}", text_data(&named).unwrap_err());
        assert_eq!(error, format!("the content of {} is not text", path.display()));
        assert!(format!("{:#}", data("@/nowhere").unwrap_err()).starts_with("Failed to read file \"/nowhere\": "));
    }
}
