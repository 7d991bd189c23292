//! Programs of others that tests use: found, started, and gone when dropped.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Where a program is, or `None` after saying that the test is skipped.
#[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
pub fn find(name: &str) -> Option<PathBuf> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&paths)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(name))
        .find(|path| path.is_file());
    if found.is_none() {
        eprintln!("SKIPPED: this test needs {name}, which is not installed");
    }
    found
}

/// Where a client of others is installed, or `None` after saying that the test is skipped.
#[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
pub fn client(name: &str) -> Option<PathBuf> {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/clients").join(name);
    if place.join("installed").is_file() {
        return place.canonicalize().ok();
    }
    eprintln!("SKIPPED: this test needs {name}, which `cargo xtask servers` installs");
    None
}

/// Copies a program, by a process of its own: a descriptor of ours through which it is written would be inherited by whatever
/// another thread starts at that moment, and no program can be started while somebody may write it.
///
/// # Panics
/// When it cannot be copied.
pub fn copy(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    let (from, to) = (from.as_ref(), to.as_ref());
    let status = Command::new("cp").args([from, to]).status().unwrap_or_else(|error| panic!("cp: {error}"));
    assert!(status.success(), "cannot copy {} to {}", from.display(), to.display());
}

/// A running program; killed when dropped.
pub struct Program(Child);

impl Program {
    /// Starts a program without output.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> Program {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        Program(child)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
