//! What fuzzers found worth keeping: `fuzz/corpus`, and findings that were mended, in `fuzz/findings`.

use std::fs;
use std::path::{Path, PathBuf};

/// Calls `target` with every input that is kept for the fuzz target of this name. The name of an input is printed before
/// it is tried, so that a test that fails tells which one it was.
#[expect(clippy::print_stdout, reason = "shown only when the test fails")]
pub fn replay(name: &str, target: impl Fn(&[u8])) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    let seeds = inputs(&root.join("corpus").join(name));
    assert!(!seeds.is_empty(), "fuzz/corpus/{name} holds nothing to replay");
    // Not every target has had a finding.
    for path in seeds.into_iter().chain(inputs(&root.join("findings").join(name))) {
        println!("replaying {}", path.display());
        let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        target(&bytes);
    }
}

fn inputs(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    paths
}
