//! The program that a command names, found the way a shell would find it.
//!
//! The original did not search `PATH`, so that a bare name could never start.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Its absolute path; `None` when there is nothing that could be run.
pub fn find(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return std::path::absolute(program).ok().filter(|path| can_run(path));
    }
    let paths = std::env::var_os("PATH")?;
    let candidates = std::env::split_paths(&paths).map(|folder| folder.join(program));
    candidates.filter_map(|path| std::path::absolute(path).ok()).find(|path| can_run(path))
}

/// The same; what is not there goes by the path where it is missed.
pub fn path_of(program: &str) -> PathBuf {
    let missed = || if program.contains('/') { std::path::absolute(program).ok() } else { None };
    find(program).or_else(missed).unwrap_or_else(|| PathBuf::from(program))
}

fn can_run(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_as_a_shell_does() {
        assert!(find("sh").is_some_and(|path| path.is_absolute() && path.ends_with("sh")));
        assert_eq!(find("/bin/sh"), Some("/bin/sh".into()));
        assert!(find("no-such-program").is_none() && find("/no/such").is_none() && find("").is_none());
        assert!(find("/etc/passwd").is_none(), "it cannot be run");
        assert!(find("/bin").is_none(), "a folder");
        assert_eq!(path_of("no-such-program"), Path::new("no-such-program"));
        assert_eq!(path_of("./no-such"), std::env::current_dir().unwrap().join("no-such"));
    }
}
