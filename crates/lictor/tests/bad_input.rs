//! Bad input: a clear message with file, key and remedy, all problems in one run, and nothing started.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up shall fail")]

mod common;

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use common::LICTOR;

struct Outcome {
    code: Option<i32>,
    text: String,
}

/// Runs an agent that is expected to refuse; `timeout` of coreutils is the safety net should it start.
fn agent(folder: &Path, words: &[&str]) -> Outcome {
    let output = Command::new("timeout")
        .args(["-k", "1", "15", LICTOR, "agent"])
        .args(words)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Outcome { code: output.status.code(), text }
}

fn refused(folder: &Path, words: &[&str], parts: &[&str]) {
    let outcome = agent(folder, words);
    assert_eq!(outcome.code, Some(1), "{words:?}: {}", outcome.text);
    for part in parts {
        assert!(outcome.text.contains(part), "{part:?} is not in:\n{}", outcome.text);
    }
    assert!(!outcome.text.contains("panicked"), "{}", outcome.text);
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn every_problem_of_every_file_is_named_at_once() {
    let folder = folder();
    fs::write(folder.path().join("a.json"), r#"{"bogus": 1, "ports": {"http": "80"}}"#).unwrap();
    fs::write(
        folder.path().join("b.hcl"),
        "service { name = \"web\" port = 80 connect { proxy { bogus = 1 exec_mode = \"magic\" } } }",
    )
    .unwrap();
    refused(
        folder.path(),
        &["-dev", "-config-dir", "."],
        &["a.json", "bogus", "ports.http", "expected type 'int'", "b.hcl", "service.connect.proxy.bogus"],
    );
}

#[test]
fn broken_hcl_is_named_with_its_place() {
    let folder = folder();
    fs::write(folder.path().join("x.hcl"), "service {\n  name = \n}\n").unwrap();
    refused(folder.path(), &["-dev", "-config-file", "x.hcl"], &["x.hcl", "3"]);
}

#[test]
fn the_same_service_twice_is_named_with_both_files() {
    let folder = folder();
    for name in ["a.json", "b.json"] {
        fs::write(folder.path().join(name), r#"{"service": {"name": "web", "port": 80}}"#).unwrap();
    }
    refused(folder.path(), &["-dev", "-config-dir", "."], &["web", "a.json", "b.json"]);
}

#[test]
fn a_missing_or_unreadable_folder_is_named() {
    let folder = folder();
    refused(folder.path(), &["-dev", "-config-dir", "nowhere"], &["nowhere", "no such file or directory"]);
    refused(folder.path(), &["-server"], &["data_dir cannot be empty"]);
    fs::write(folder.path().join("file"), "").unwrap();
    refused(folder.path(), &["-server", "-bootstrap", "-data-dir", "file"], &["file", "not a directory"]);
}

#[test]
fn an_exhausted_range_of_ports_is_named() {
    let folder = folder();
    let first = lictor_testkit::ports::block(8);
    let config = format!(
        r#"{{"ports": {{"http": {first}, "dns": {}, "server": {}, "grpc": -1, "proxy_min_port": {}, "proxy_max_port": {}}},
            "services": [{{"name": "a", "port": 1, "connect": {{"proxy": {{}}}}}},
                         {{"name": "b", "port": 2, "connect": {{"proxy": {{}}}}}}]}}"#,
        first + 1,
        first + 2,
        first + 4,
        first + 4,
    );
    fs::write(folder.path().join("c.json"), config).unwrap();
    refused(
        folder.path(),
        &["-dev", "-config-file", "c.json"],
        &["\"b\"", &format!("none  left in the allocated range [{}, {}]", first + 4, first + 4)],
    );
}

#[test]
fn a_proxy_without_a_port_where_none_is_given_out_is_named() {
    let folder = folder();
    let first = lictor_testkit::ports::block(4);
    let config = |proxy: &str| {
        format!(
            r#"{{"ports": {{"http": {first}, "dns": {}, "server": {}, "grpc": -1, "proxy_min_port": 0, "proxy_max_port": 0}},
                "services": [{{"name": "a", "port": 1, "connect": {{"proxy": {proxy}}}}}]}}"#,
            first + 1,
            first + 2,
        )
    };
    fs::write(folder.path().join("c.json"), config("{}")).unwrap();
    refused(
        folder.path(),
        &["-dev", "-config-file", "c.json"],
        &["\"a\"", "no port provided for proxy bind_port and none  left in the allocated range [-1, -1]"],
    );
}

#[test]
fn a_port_that_is_taken_is_named() {
    let folder = folder();
    let first = lictor_testkit::ports::block(4);
    let _held = TcpListener::bind(("127.0.0.1", first)).unwrap();
    let config =
        format!(r#"{{"ports": {{"http": {first}, "dns": {}, "server": {}, "grpc": -1}}}}"#, first + 1, first + 2);
    fs::write(folder.path().join("c.json"), config).unwrap();
    refused(
        folder.path(),
        &["-dev", "-config-file", "c.json"],
        &[&format!("127.0.0.1:{first}"), "ddress already in use"],
    );
}

#[test]
fn an_unknown_flag_prints_the_usage() {
    let folder = folder();
    refused(folder.path(), &["-bogus"], &["flag provided but not defined: -bogus"]);
    refused(folder.path(), &["-dev", "-log-level", "LOUD"], &["Invalid log level: LOUD"]);
}
