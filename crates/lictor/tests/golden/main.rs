//! The golden conversations: what the original answers, recorded step by step, and held against the built binary.
//!
//! `corpus/` has one file per scenario. Each gets an agent of its own; its steps are carried out in order, and every
//! answer must be the recorded one. Where lictor answers differently on purpose, `deviations.json` names the step, what
//! it answers instead, and why no client can be hurt: a difference that is not listed fails, and so does a listed one
//! that is none any more.
//!
//! `GOLDEN='kv/*' cargo test -p lictor --test golden` runs some scenarios only.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall stop")]

mod agent;
mod deviation;
mod difference;
mod dns;
mod fit;
mod handshake;
mod scenario;
mod template;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use deviation::Deviations;
use scenario::Scenario;

/// Scenarios of what is still being built. Each must still fail: whoever makes one pass takes it off this list, so that
/// from then on it is held.
const PENDING: &[&str] = &[];

/// Agents at once. Most of a scenario is waiting.
const AT_ONCE: usize = 4;

#[test]
fn every_recorded_conversation_is_held_as_the_original_held_it() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let deviations = Deviations::read(&here.join("deviations.json"));
    let wanted = std::env::var("GOLDEN").unwrap_or_else(|_| "*".into());
    let names: Vec<String> = names(&here.join("corpus")).into_iter().filter(|name| matches(&wanted, name)).collect();
    assert!(!names.is_empty(), "no scenario is called {wanted}");
    let known: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    if wanted == "*" {
        let strangers: Vec<&str> = PENDING.iter().copied().chain(deviations.scenarios()).collect();
        let strangers: Vec<&&str> = strangers.iter().filter(|name| !known.contains(**name)).collect();
        assert!(strangers.is_empty(), "listed, but no scenario: {strangers:?}");
    }

    let next = AtomicUsize::new(0);
    let problems = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let scenario = Scenario::read(&here.join("corpus").join(format!("{name}.json")));
                    let outcome = scenario.hold(deviations.of(name));
                    let problem = match (PENDING.contains(&name.as_str()), outcome) {
                        (true, Ok(())) => Some("passes: take it off the list of pending ones".to_owned()),
                        (true, Err(_)) | (false, Ok(())) => None,
                        (false, Err(difference)) => Some(difference),
                    };
                    if let Some(problem) = problem {
                        eprintln!("{name}: {problem}");
                        problems.lock().unwrap().push(name.clone());
                    }
                }
            });
        }
    });
    let problems = problems.into_inner().unwrap();
    assert!(problems.is_empty(), "{} of {} scenarios: {problems:?}", problems.len(), names.len());
}

/// `area/name` of all scenarios.
fn names(corpus: &Path) -> Vec<String> {
    let entries = |folder: &Path| -> Vec<PathBuf> {
        let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        entries
    };
    let mut names = Vec::new();
    for area in entries(corpus) {
        for file in entries(&area) {
            let part = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
            names.push(format!("{}/{}", part(&area), part(&file)));
        }
    }
    names
}

/// Whether a name is as a pattern with `*` says.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name.strip_prefix(start).is_some_and(|left| {
            rest.is_empty() || (0..=left.len()).any(|at| left.is_char_boundary(at) && matches(rest, &left[at..]))
        }),
    }
}
