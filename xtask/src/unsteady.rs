//! Which tests of whole processes failed among the others, read from what cargo and the test harness say.

use std::fmt;
use std::io::{BufRead, BufReader, pipe};

use anyhow::{Context, Result, bail};

/// More of them than this are no accident.
const MOST: usize = 5;

/// A test that has a program of its own: `tests/PROGRAM.rs`, or a folder with a `main.rs`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Test {
    pub(crate) program: String,
    pub(crate) name: String,
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.program, self.name)
    }
}

/// Runs cargo, prints what it prints, and gives the tests that failed, if one more look at them makes sense.
///
/// # Errors
/// When anything else failed: a build, a test within a crate, a program that ended without saying which test did it, or
/// too many.
pub(crate) fn run(arguments: &[&str]) -> Result<Vec<Test>> {
    crate::say("xtask: tests");
    // One pipe for both, so that the order of the lines is the order in which they were written.
    let (output, input) = pipe().context("cannot make a pipe")?;
    let mut command = crate::cargo::cargo();
    command.args(arguments).stdout(input.try_clone().context("cannot share a pipe")?).stderr(input);
    let mut child = command.spawn().context("cannot run cargo")?;
    // It holds our ends of the pipe, which would keep it open for ever.
    drop(command);
    let mut report = Report::default();
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    while output.read_until(b'\n', &mut line).context("cannot read what cargo says")? > 0 {
        let text = String::from_utf8_lossy(&line);
        crate::print(text.trim_end_matches('\n'));
        report.read(text.trim_end());
        line.clear();
    }
    if child.wait().context("cannot wait for cargo")?.success() {
        return Ok(Vec::new());
    }
    report.failed().with_context(|| format!("tests failed: cargo {}", arguments.join(" ")))
}

#[derive(Debug, Default)]
struct Report {
    program: String,
    listing: bool,
    tests: Vec<Test>,
    /// What cargo sums up at the end, as arguments that would run it again.
    targets: Vec<String>,
}

impl Report {
    fn read(&mut self, line: &str) {
        let name = line.strip_prefix("    ").filter(|name| !name.is_empty());
        if let Some(target) = name.and_then(|name| name.strip_prefix('`')?.strip_suffix('`')) {
            self.targets.push(target.to_owned());
        } else if let Some((_, path)) = line.trim_start().strip_prefix("Running ").and_then(|rest| rest.split_once('('))
        {
            let file = path.trim_end_matches(')').rsplit('/').next().unwrap_or_default();
            self.program = file.rsplit_once('-').map_or(file, |(program, _)| program).to_owned();
            self.listing = false;
        } else if line == "failures:" {
            self.listing = true;
        } else if let Some(name) = name.filter(|_| self.listing) {
            self.tests.push(Test { program: self.program.clone(), name: name.to_owned() });
        } else {
            self.listing = false;
        }
    }

    fn failed(self) -> Result<Vec<Test>> {
        if self.targets.is_empty() {
            bail!("it did not come to the tests");
        }
        for target in &self.targets {
            let Some((_, program)) = target.split_once(" --test ") else { bail!("{target} failed") };
            if !self.tests.iter().any(|test| test.program == program) {
                bail!("{target} ended without saying which test failed");
            }
        }
        if self.tests.len() > MOST {
            bail!("{} tests failed", self.tests.len());
        }
        Ok(self.tests)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<String>> {
        let mut report = Report::default();
        text.lines().for_each(|line| report.read(line));
        Ok(report.failed()?.iter().map(ToString::to_string).collect())
    }

    const CLUSTER: &str = "\
     Running tests/cluster/main.rs (target/debug/deps/cluster-0b6fc35ab83454ec)
running 2 tests
test faults::full ... ok
test distances::near ... FAILED
failures:

---- distances::near stdout ----
   0: rust_begin_unwind
    an indented line of the test


failures:
    distances::near

test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 87.92s

error: test failed, to rerun pass `-p lictor --test cluster`
     Running tests/data.rs (target/debug/deps/data-0b6fc35ab83454ec)
test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 87.92s
";

    #[test]
    fn a_test_of_processes_that_failed_is_found_with_its_program() {
        let text = format!("{CLUSTER}error: 1 target failed:\n    `-p lictor --test cluster`\n");
        assert_eq!(read(&text).unwrap(), ["cluster distances::near"]);
    }

    #[test]
    fn nothing_else_that_fails_gets_another_chance() {
        let library =
            format!("{CLUSTER}error: 2 targets failed:\n    `-p lictor --test cluster`\n    `-p lictor_ca --lib`\n");
        let silent =
            format!("{CLUSTER}error: 2 targets failed:\n    `-p lictor --test cluster`\n    `-p lictor --test data`\n");
        for text in [CLUSTER, "error: could not compile `lictor`\n", &library, &silent] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn many_failures_are_no_accident() {
        let many = "    distances::near\n".repeat(MOST + 1);
        let text = CLUSTER.replace("    distances::near\n", &many);
        assert!(read(&format!("{text}error: 1 target failed:\n    `-p lictor --test cluster`\n")).is_err());
    }
}
