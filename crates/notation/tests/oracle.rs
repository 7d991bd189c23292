//! Our HCL parser against another implementation of HCL 1, on a corpus and on generated texts.
//!
//! The other implementation is PyPI's `pyhcl`. Where `cargo xtask servers` could not install it the comparison is skipped, and
//! says so; the corpus is still read and compared with what it should mean, which stands beside each file.

#![expect(clippy::unwrap_used, reason = "a test; clippy allows it by itself only inside test functions")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lictor_notation::hcl;
use lictor_notation::tree::OneObjectList;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::Value;

const READ_ALL: &str = r#"
import json, sys, hcl
answers = []
for text in json.load(sys.stdin):
    try:
        answers.append({"value": hcl.loads(text)})
    except Exception as error:
        answers.append({"error": str(error)})
json.dump(answers, sys.stdout)
"#;

/// What the other implementation says to each text; `None` where it refuses one. `Err` says why it cannot be asked.
fn ask_oracle(python: &Path, texts: &[String]) -> Result<Vec<Option<Value>>, String> {
    let mut python = Command::new(python)
        .args(["-c", READ_ALL])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("python3 cannot be started: {error}"))?;
    let question = serde_json::to_vec(texts).map_err(|error| error.to_string())?;
    let mut stdin = python.stdin.take().ok_or("no standard input")?;
    // The answer comes only after the whole question was read, so neither side can block the other.
    let written = stdin.write_all(&question);
    drop(stdin);
    let output = python.wait_with_output().map_err(|error| error.to_string())?;
    if !output.status.success() || written.is_err() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        return Err(format!("pyhcl cannot be used: {}", complaint.lines().last().unwrap_or_default()));
    }
    let answers: Vec<Value> = serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
    Ok(answers.into_iter().map(|mut answer| answer.get_mut("value").map(Value::take)).collect())
}

fn ours(text: &str) -> Option<Value> {
    hcl::parse(text).ok().map(|object| Value::Object(object.to_map(OneObjectList::Keep)))
}

fn corpus() -> Vec<(PathBuf, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| is_hcl(path)).collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

fn is_hcl(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "hcl")
}

#[test]
fn every_file_of_the_corpus_means_what_stands_beside_it() {
    let files = corpus();
    assert!(files.len() >= 10, "{} files", files.len());
    for (path, text) in files {
        let expected = std::fs::read_to_string(path.with_extension("expected.json")).unwrap();
        let expected: Value = serde_json::from_str(&expected).unwrap();
        match &expected {
            Value::String(error) => {
                assert_eq!(&hcl::parse(&text).unwrap_err().to_string(), error, "{}", path.display());
            }
            value => assert_eq!(ours(&text).as_ref(), Some(value), "{}", path.display()),
        }
    }
}

#[test]
fn our_parser_agrees_with_another_one_on_generated_texts() {
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    let strategy = file();
    let mut texts: Vec<String> = (0..120)
        .map(|_| {
            use proptest::strategy::ValueTree as _;
            strategy.new_tree(&mut runner).unwrap().current()
        })
        .collect();
    // Files whose meaning the other one sees differently start with a comment that says so.
    texts.retain(|text| comparable(text)); // it refuses an empty file
    texts.extend(corpus().into_iter().map(|(_, text)| text).filter(|text| comparable(text)));
    let Some(place) = lictor_testkit::program::client("pyhcl") else { return };
    let answers = ask_oracle(&place.join("bin/python"), &texts).unwrap();
    assert_eq!(answers.len(), texts.len());
    for (text, theirs) in texts.iter().zip(answers) {
        assert_eq!(ours(text).map(floats), theirs.map(floats), "\n{text}");
    }
    eprintln!("pyhcl agreed on {} texts", texts.len());
}

fn comparable(text: &str) -> bool {
    !text.trim().is_empty() && !text.starts_with("# pyhcl differs")
}

/// Both write whole floats in their own way.
fn floats(value: Value) -> Value {
    match value {
        Value::Number(number) => match number.as_f64() {
            Some(float) => serde_json::json!(float),
            None => Value::Number(number),
        },
        Value::Array(items) => Value::Array(items.into_iter().map(floats).collect()),
        Value::Object(map) => Value::Object(map.into_iter().map(|(key, value)| (key, floats(value))).collect()),
        other => other,
    }
}

/// A file with members of different names, in random layout: repeated keys mean different things in both.
fn file() -> impl Strategy<Value = String> {
    members(value()).prop_map(|members| members + "\n")
}

fn members(value: impl Strategy<Value = String> + Clone) -> impl Strategy<Value = String> + Clone {
    proptest::collection::btree_map("[a-z][a-z_]{0,6}", (value, 0..4_u8), 0..5).prop_map(|members| {
        let mut text = String::new();
        for (key, (value, layout)) in members {
            // Words of the language cannot be bare keys.
            let quoted = layout == 3 || matches!(key.as_str(), "true" | "false");
            let key = if quoted { format!("\"{key}\"") } else { key };
            let block = value.starts_with('{');
            match layout {
                0 if block => text.push_str(&format!("{key} {value}\n")),
                1 => text.push_str(&format!("# a comment\n{key} = {value}\n")),
                2 => text.push_str(&format!("{key} = {value} // another\n")),
                _ => text.push_str(&format!("/* one\n more */ {key} = {value}\n")),
            }
        }
        text
    })
}

fn value() -> impl Strategy<Value = String> + Clone {
    let leaf = prop_oneof![
        "[1-9][0-9]{0,8}",
        Just("0".to_owned()),
        "-[1-9][0-9]{0,4}",
        "[1-9][0-9]{0,3}\\.[0-9]{1,3}",
        Just("true".to_owned()),
        Just("false".to_owned()),
        "\"[a-zA-Z0-9 .:/_$*-]{0,12}\"",
        Just("\"${foo}b\"".to_owned()),
        Just("\"q\\\"q\"".to_owned()),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec("\"[a-z]{0,5}\"", 0..4).prop_map(|items| format!("[{}]", items.join(", "))),
            members(inner).prop_map(|members| format!("{{\n{members}}}")),
        ]
    })
    .boxed()
}
