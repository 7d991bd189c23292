//! A fence around the files of the machine for programs of which nobody knows what they need: inside is what the owner
//! lists, and what it takes to start a program at all.
//!
//! Landlock allows what is listed, so the list must be complete. What comes with every program is added here, so that
//! lists name what a program is *for*: itself, whoever starts it (the interpreter of a script, the dynamic loader),
//! libraries, devices without state, and the files that hold what it says. All of it stays as small as it can be: libraries
//! can be read but not started, and nothing of `/etc`, `/proc` and `/tmp` is in it.
//!
//! Paths are opened before the `fork`, by the supervisor, and the child makes one system call. What is fenced is the file
//! that a path led to then: one that another takes the place of is outside. Folders hold what is made in them later.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, Scope,
};
use rustix::fs::{FileType, Mode, OFlags};

use crate::spec::Files;

/// The newest Landlock that was tried.
const LANDLOCK: ABI = ABI::V6;

/// Where libraries are, and what says where they are.
const LIBRARIES: [&str; 10] = [
    "/lib",
    "/lib32",
    "/lib64",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/local/lib",
    "/usr/local/lib64",
    "/etc/ld.so.cache",
    "/etc/ld.so.preload",
];

/// Devices that hold nothing of anybody.
const DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];

/// A fence that is made, and entered by a system call alone.
#[derive(Debug)]
pub(crate) struct Fence(OwnedFd);

/// What came of making one.
#[derive(Debug)]
pub(crate) struct Made {
    /// Why there is none, otherwise.
    pub(crate) fence: Result<Fence, String>,
    /// What this kernel does not keep a process from, though it should be.
    pub(crate) left_open: Option<String>,
    /// What could not be let in, and what to do about it.
    pub(crate) problems: Vec<String>,
}

impl Fence {
    /// Around what `files` lists, and what starting `program` takes that writes to `outputs`.
    pub(crate) fn around(files: &Files, program: &Path, outputs: &[&File]) -> Made {
        let mut problems = Vec::new();
        let version = kernels_version();
        let fence = make(files, program, outputs, &mut problems);
        let left_open = version.as_ref().ok().and_then(|version| left_open(*version));
        Made { fence: version.and(fence), left_open, problems }
    }

    /// Puts the calling thread behind it for good. It must be one that may not gain privileges. A system call only.
    #[expect(unsafe_code, reason = "landlock_restrict_self(2) has no form that does nothing else")]
    pub(crate) fn enter(&self) -> io::Result<()> {
        use std::os::fd::AsRawFd;
        let no_flags: libc::c_uint = 0;
        // SAFETY: the descriptor is open, and the call takes no memory.
        let answer = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, self.0.as_raw_fd(), no_flags) };
        if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// What to read, and start nothing of.
fn reading() -> BitFlags<AccessFs> {
    AccessFs::ReadFile | AccessFs::ReadDir
}

/// What is written is not started, unless it may be read by the other list as well. Device files are for no proxy to make.
fn writing() -> BitFlags<AccessFs> {
    let never = AccessFs::Execute | AccessFs::MakeChar | AccessFs::MakeBlock;
    AccessFs::from_all(LANDLOCK) & !never
}

fn make(files: &Files, program: &Path, outputs: &[&File], problems: &mut Vec<String>) -> Result<Fence, String> {
    let text = |error: landlock::RulesetError| error.to_string();
    let mut fence = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(LANDLOCK))
        .and_then(|fence| fence.scope(Scope::Signal | Scope::AbstractUnixSocket))
        .and_then(Ruleset::create)
        .map_err(text)?;
    let starting = AccessFs::Execute | AccessFs::ReadFile;
    for (path, access) in starters(program, files, problems).iter().map(|path| (path.as_path(), starting)).chain(
        LIBRARIES.iter().map(|path| (Path::new(path), reading())).chain(
            DEVICES.iter().map(|path| (Path::new(path), AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate)),
        ),
    ) {
        // Not every machine has all of them, and a program that is not there fails with that.
        if let Ok(opened) = open(path) {
            fence = let_in(fence, opened, access)?;
        }
    }
    for output in outputs {
        // As `/dev/stderr` it is opened anew.
        fence = let_in(fence, output, AccessFs::WriteFile | AccessFs::Truncate)?;
    }
    for (listed, access) in [(&files.read, reading() | AccessFs::Execute), (&files.write, writing())] {
        for path in &listed.paths {
            match open(path) {
                Ok(opened) => fence = let_in(fence, opened, access)?,
                Err(error) => problems.push(format!(
                    "{}: {path:?} is kept from it: {error}; make it and restart the process, or list a folder that is there",
                    listed.key
                )),
            }
        }
    }
    let made: Option<OwnedFd> = fence.into();
    made.map(Fence).ok_or_else(|| "the kernel has no Landlock".to_owned())
}

fn open(path: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
}

/// A file has no access that only folders have.
fn let_in(fence: RulesetCreated, what: impl AsFd, access: BitFlags<AccessFs>) -> Result<RulesetCreated, String> {
    let is_folder = rustix::fs::fstat(&what).is_ok_and(|found| FileType::from_raw_mode(found.st_mode).is_dir());
    let access = if is_folder { access } else { access & AccessFs::from_file(LANDLOCK) };
    fence.add_rule(PathBeneath::new(what, access)).map_err(|error| error.to_string())
}

/// The version of the kernel's Landlock, or why it has none.
#[expect(unsafe_code, reason = "the library asks the kernel, but does not tell what it heard")]
fn kernels_version() -> Result<i64, String> {
    const ASK_FOR_VERSION: libc::c_uint = 1;
    let nothing: *const libc::c_void = std::ptr::null();
    // SAFETY: with this flag the kernel reads and writes no memory of ours; it only answers a number.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0_usize, ASK_FOR_VERSION) };
    match version {
        1.. => Ok(version),
        _ => Err(format!("the kernel has no Landlock ({})", io::Error::last_os_error())),
    }
}

/// What a version before that which was tried does not know.
fn left_open(version: i64) -> Option<String> {
    let newer =
        [(3, "cutting files off"), (5, "ioctl on devices"), (6, "signals to others and their abstract sockets")];
    let missing: Vec<&str> = newer.iter().filter(|(since, _)| version < *since).map(|(_, what)| *what).collect();
    (!missing.is_empty()).then(|| missing.join(", "))
}

/// What the kernel starts when it is to start this program: itself, and whoever each of them names to be started by.
fn starters(program: &Path, files: &Files, problems: &mut Vec<String>) -> Vec<PathBuf> {
    // As many interpreters of interpreters as the kernel follows.
    const DEPTH: usize = 6;
    let mut found = vec![program.to_owned()];
    while found.len() < DEPTH {
        let Some(last) = found.last() else { break };
        match interpreter(last) {
            Ok(Some(next)) => found.push(next),
            Ok(None) => break,
            // Without a program the start says so.
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => {
                problems.push(format!(
                    "who starts {last:?} cannot be read from it: {error}; list its interpreter or dynamic loader in {}, or \
                     make it readable for the agent",
                    files.read.key
                ));
                break;
            }
        }
    }
    found
}

/// The interpreter that a script names in its first line, or the dynamic loader that a program names.
fn interpreter(program: &Path) -> io::Result<Option<PathBuf>> {
    // As much as the kernel looks at.
    const LINE: usize = 256;
    let mut file = File::open(program)?;
    let mut head = Vec::new();
    file.by_ref().take(LINE as u64).read_to_end(&mut head)?;
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let mut words = line.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty());
        return Ok(words.next().map(path_of));
    }
    Ok(elf_interpreter(&file, &head)?.as_deref().map(path_of))
}

fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsStr::from_bytes(bytes))
}

/// What `PT_INTERP` names; none in a program that is linked statically, or is no program of this machine.
fn elf_interpreter(file: &File, head: &[u8]) -> io::Result<Option<Vec<u8>>> {
    use std::os::unix::fs::FileExt;
    const INTERP: u64 = 3;
    const LONGEST: u64 = 4096;
    let wide = match head {
        [0x7f, b'E', b'L', b'F', 1, ..] => false,
        [0x7f, b'E', b'L', b'F', 2, ..] => true,
        _ => return Ok(None),
    };
    // A program of the other byte order is not for this machine.
    let number = |bytes: &[u8], at: usize, length: usize| -> Option<u64> {
        let taken = bytes.get(at..at.checked_add(length)?)?;
        let mut value = [0u8; 8];
        if cfg!(target_endian = "little") {
            value.get_mut(..length)?.copy_from_slice(taken);
            Some(u64::from_le_bytes(value))
        } else {
            value.get_mut(8 - length..)?.copy_from_slice(taken);
            Some(u64::from_be_bytes(value))
        }
    };
    // Where in the header, and in each of the table's entries, the numbers stand, and how long they are.
    let (table_at, size_at, word) = if wide { (32, 54, 8) } else { (28, 42, 4) };
    let (offset_at, length_at) = if wide { (8, 32) } else { (4, 16) };
    let header = || Some((number(head, table_at, word)?, number(head, size_at, 2)?, number(head, size_at + 2, 2)?));
    let Some((table, size, count)) = header() else { return Ok(None) };
    let mut entry = vec![0u8; usize::try_from(size).unwrap_or_default()];
    for index in 0..count {
        let Some(at) = index.checked_mul(size).and_then(|after| after.checked_add(table)) else { return Ok(None) };
        if file.read_exact_at(&mut entry, at).is_err() {
            return Ok(None);
        }
        if number(&entry, 0, 4) != Some(INTERP) {
            continue;
        }
        let place = number(&entry, offset_at, word).zip(number(&entry, length_at, word));
        let Some((at, length)) = place.filter(|(_, length)| *length <= LONGEST) else { return Ok(None) };
        let mut name = vec![0u8; usize::try_from(length).unwrap_or_default()];
        if file.read_exact_at(&mut name, at).is_err() {
            return Ok(None);
        }
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        name.truncate(end);
        return Ok(Some(name).filter(|name| !name.is_empty()));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Paths;

    fn files() -> Files {
        let paths = |key: &str| Paths { key: key.to_owned(), paths: Vec::new() };
        Files { read: paths("read"), write: paths("write") }
    }

    #[test]
    fn whoever_starts_a_program_is_found_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("script");
        std::fs::write(&script, "#!  /bin/sh -eu\nexit 0\n").unwrap();
        let mut problems = Vec::new();
        let found = starters(&script, &files(), &mut problems);
        assert_eq!(found[..2], [script.clone(), "/bin/sh".into()], "{found:?}");
        // The shell is one program, whose loader is named by itself alone.
        assert_eq!(found[1..], starters(Path::new("/bin/sh"), &files(), &mut problems), "{found:?}");
        if cfg!(all(target_arch = "x86_64", target_env = "gnu")) {
            assert_eq!(found[2..], [PathBuf::from("/lib64/ld-linux-x86-64.so.2")]);
        }
        // A script that names itself ends, as do files that are neither, cut off or not there.
        std::fs::write(&script, format!("#!{}", script.display())).unwrap();
        assert_eq!(starters(&script, &files(), &mut problems).len(), 6);
        let whole = std::fs::read("/bin/sh").unwrap();
        for part in [&b""[..], b"#!", b"#! \n/bin/sh", b"text", &whole[..60], &whole[..100]] {
            std::fs::write(&script, part).unwrap();
            assert_eq!(starters(&script, &files(), &mut problems), std::slice::from_ref(&script));
        }
        std::fs::remove_file(&script).unwrap();
        assert_eq!(starters(&script, &files(), &mut problems), std::slice::from_ref(&script));
        assert_eq!(problems, Vec::<String>::new());
    }

    #[test]
    fn a_program_of_32_bits_names_its_loader_too() {
        let mut program = vec![0u8; 200];
        program[..5].copy_from_slice(b"\x7fELF\x01");
        let mut put = |at: usize, value: u32, length: usize| {
            let bytes = value.to_ne_bytes();
            let from = if cfg!(target_endian = "little") { 0 } else { 4 - length };
            program[at..at + length].copy_from_slice(&bytes[from..from + length]);
        };
        for (at, value, length) in
            [(28, 52, 4), (42, 32, 2), (44, 2, 2), (52, 1, 4), (84, 3, 4), (88, 120, 4), (100, 8, 4)]
        {
            put(at, value, length);
        }
        program[120..128].copy_from_slice(b"/lib/ld\0");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        std::fs::write(&path, &program).unwrap();
        assert_eq!(interpreter(&path).unwrap(), Some("/lib/ld".into()));
        // A length of the whole memory is no name.
        program[100..104].copy_from_slice(&[0xff; 4]);
        std::fs::write(&path, &program).unwrap();
        assert_eq!(interpreter(&path).unwrap(), None);
    }

    #[test]
    fn older_kernels_are_said_to_leave_open_what_they_do() {
        let said = |version| left_open(version).unwrap_or_default();
        assert_eq!(said(1), "cutting files off, ioctl on devices, signals to others and their abstract sockets");
        assert_eq!(said(4), "ioctl on devices, signals to others and their abstract sockets");
        assert_eq!(said(5), "signals to others and their abstract sockets");
        assert_eq!(left_open(6).or(left_open(9)), None);
    }
}
