//! The log in files: a new one when the current one is long or old enough. Old files are never removed.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Whoever may read the log may not change it, and others may not read it.
const MODE: u32 = 0o640;

/// Where files go, and when a new one begins.
#[derive(Clone, Debug)]
pub(crate) struct Rotation {
    directory: PathBuf,
    stem: String,
    extension: String,
    bytes: Option<u64>,
    after: Duration,
}

impl Rotation {
    /// `path` is `dir/name.ext`, or a directory that ends in a slash; files have the time of their beginning between
    /// name and extension.
    pub(crate) fn new(path: &Path, bytes: Option<u64>, after: Duration) -> Rotation {
        let text = path.as_os_str().to_string_lossy();
        let (directory, name) = text.rsplit_once('/').map_or((".", text.as_ref()), |(directory, name)| {
            (if directory.is_empty() { "/" } else { directory }, name)
        });
        let (stem, extension) = match name.rsplit_once('.') {
            _ if name.is_empty() => ("consul", "log"),
            Some((stem, extension)) if !stem.is_empty() => (stem, extension),
            _ => (name, "log"),
        };
        Rotation { directory: directory.into(), stem: stem.into(), extension: extension.into(), bytes, after }
    }

    fn begin(&self) -> io::Result<Current> {
        let name = format!("{}-{}.{}", self.stem, lictor_task::clock::unix_nanos(), self.extension);
        let path = self.directory.join(name);
        let file = File::options().create(true).append(true).mode(MODE).open(path)?;
        Ok(Current { file, written: 0, begun: Instant::now() })
    }
}

struct Current {
    file: File,
    written: u64,
    begun: Instant,
}

/// The file that is written to.
pub(crate) struct LogFile {
    rotation: Rotation,
    current: Current,
}

impl LogFile {
    /// Begins the first file.
    pub(crate) fn open(rotation: Rotation) -> io::Result<LogFile> {
        Ok(LogFile { current: rotation.begin()?, rotation })
    }

    /// Writes a line, into a new file if it is time for one. While none can be begun the old one goes on.
    pub(crate) fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let Rotation { bytes, after, .. } = self.rotation;
        let is_full = bytes.is_some_and(|limit| self.current.written >= limit);
        let mut rotated = Ok(());
        if is_full || (!after.is_zero() && self.current.begun.elapsed() >= after) {
            rotated = self.rotation.begin().map(|next| self.current = next);
        }
        let whole = [line, b"\n"].concat();
        self.current.file.write_all(&whole)?;
        self.current.written += whole.len() as u64;
        rotated
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn files(folder: &Path) -> Vec<(String, String)> {
        let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
        let mut found: Vec<(String, String)> = entries
            .map(|entry| {
                assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, MODE);
                let text = fs::read_to_string(entry.path()).unwrap();
                (entry.file_name().into_string().unwrap(), text)
            })
            .collect();
        found.sort();
        found
    }

    #[test]
    fn a_file_that_is_long_enough_is_followed_by_another() {
        let folder = tempfile::tempdir().unwrap();
        let rotation = Rotation::new(&folder.path().join("agent.txt"), Some(10), Duration::ZERO);
        let mut log = LogFile::open(rotation).unwrap();
        for line in ["first", "second", "third"] {
            log.write(line.as_bytes()).unwrap();
        }
        let found = files(folder.path());
        let texts: Vec<&str> = found.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(texts, ["first\nsecond\n", "third\n"]);
        assert!(found.iter().all(|(name, _)| name.starts_with("agent-") && name.ends_with(".txt")), "{found:?}");
    }

    #[test]
    fn a_file_that_is_old_enough_is_followed_by_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = format!("{}/", folder.path().display());
        let mut log = LogFile::open(Rotation::new(Path::new(&path), None, Duration::from_nanos(1))).unwrap();
        log.write(b"one").unwrap();
        log.write(b"two").unwrap();
        let found = files(folder.path());
        assert_eq!(found.len(), 3, "the first was old when it was written to");
        assert!(found.iter().all(|(name, _)| name.starts_with("consul-") && name.ends_with(".log")), "{found:?}");
    }

    #[test]
    fn names_may_lack_a_part() {
        let named = |text: &str| {
            let rotation = Rotation::new(Path::new(text), None, Duration::ZERO);
            (rotation.directory.display().to_string(), rotation.stem, rotation.extension)
        };
        let expected = |directory: &str, stem: &str, extension: &str| {
            (directory.to_owned(), stem.to_owned(), extension.to_owned())
        };
        assert_eq!(named("/var/log/x.log"), expected("/var/log", "x", "log"));
        assert_eq!(named("x"), expected(".", "x", "log"));
        assert_eq!(named("/x.txt"), expected("/", "x", "txt"));
        assert_eq!(named("a/.hidden"), expected("a", ".hidden", "log"));
    }
}
