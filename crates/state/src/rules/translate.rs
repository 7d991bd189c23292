//! Rules of the older syntax in the current one: every name was a prefix, so every key says so now.

use std::fmt::Write as _;

use lictor_notation::hcl;
use lictor_notation::tree::{Object, Tree};

use super::{RESOURCES, Syntax};

/// Writes older rules as current ones, in their order; the error is a text for the client.
///
/// What older rules say is never lost, and the result is never refused. Keys of the current syntax meant nothing in the
/// older one, so nobody has read what stands under them: it is passed on as it is, and must be right.
pub fn translate(rules: &str) -> Result<String, String> {
    let object = hcl::parse(rules).map_err(|error| format!("Failed to parse rules: At {error}"))?;
    let mut items = Vec::new();
    for (key, _, value) in object.in_order() {
        let folded = key.to_ascii_lowercase();
        let named = RESOURCES.iter().any(|(word, _)| *word == folded);
        let key = if named { format!("{folded}_prefix") } else { shown_key(key) };
        match value {
            // JSON groups blocks of a kind, each of which is one of its own.
            Tree::List(blocks) if blocks.iter().all(|block| matches!(block, Tree::Object(_))) => {
                for block in blocks {
                    write_item(&mut items, &key, block);
                }
            }
            value => write_item(&mut items, &key, value),
        }
    }
    let translated = items.join("\n\n");
    if super::parse(rules, Syntax::Legacy).is_ok() {
        super::parse(&translated, Syntax::Current)?;
    }
    Ok(translated)
}

/// An item of the text: an assignment, or a block for each name.
fn write_item(items: &mut Vec<String>, key: &str, value: &Tree) {
    let Tree::Object(names) = value else {
        items.push(format!("{key} = {}", literal(value, 0)));
        return;
    };
    for (name, _, block) in names.in_order() {
        match block {
            Tree::Object(block) => items.push(format!("{key} {} {}", quoted(name), body(block, 0))),
            value => items.push(format!("{key} {{\n  {} = {}\n}}", shown_key(name), literal(value, 1))),
        }
    }
}

/// A block in braces: what stood on lines of its own beside each other stays so, everything else gets room.
fn body(object: &Object, depth: usize) -> String {
    let members = object.in_order();
    if members.is_empty() {
        return "{}".to_owned();
    }
    let indent = "  ".repeat(depth + 1);
    let mut text = "{\n".to_owned();
    let mut at = 0;
    while at < members.len() {
        let mut end = at + 1;
        while end < members.len() && members[end - 1].1 + 1 == members[end].1 && is_short(members[end].2) {
            end += 1;
        }
        if at > 0 {
            text.push('\n');
        }
        let group = &members[at..end];
        let width = group.iter().map(|(key, ..)| shown_key(key).chars().count()).max().unwrap_or_default();
        for (key, _, value) in group {
            // Writing to a text cannot fail.
            let _ = writeln!(text, "{indent}{:width$} = {}", shown_key(key), literal(value, depth + 1));
        }
        at = end;
    }
    text.push_str(&"  ".repeat(depth));
    text.push('}');
    text
}

fn is_short(value: &Tree) -> bool {
    !matches!(value, Tree::Object(_))
}

fn literal(value: &Tree, depth: usize) -> String {
    match value {
        // Not part of the language; what JSON says with it is that there is nothing.
        Tree::Null => "\"\"".to_owned(),
        Tree::Bool(flag) => flag.to_string(),
        Tree::Number(number) => number.to_string(),
        Tree::Text(text) => quoted(text),
        Tree::List(items) => {
            let items: Vec<String> = items.iter().map(|item| literal(item, depth)).collect();
            format!("[{}]", items.join(", "))
        }
        Tree::Object(object) => body(object, depth),
    }
}

fn shown_key(key: &str) -> String {
    let mut letters = key.chars();
    let plain = letters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && letters.all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-' | '.'));
    if plain { key.to_owned() } else { quoted(key) }
}

fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for letter in text.chars() {
        match letter {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            letter if letter.is_control() => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(letter));
            }
            letter => quoted.push(letter),
        }
    }
    quoted.push('"');
    quoted
}
