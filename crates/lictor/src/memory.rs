//! Gives back memory that only a start or a burst needs: pages of the program, and free pages of the heap.
//!
//! The kernel maps the code around every instruction that was ever run, 64 KB at a time, and keeps it mapped: after a
//! start an idle proxy or agent holds some 14 MB of a program of which it goes on using little. They are clean pages of
//! a file that all processes share, so letting go of them costs nothing but a page fault for each that is used again.
//!
//! Agents do it as soon as they answer, and once more when their start is over. Proxies do it when they have become ready,
//! and after everything that happens in the quiet: what a burst, a health check or a reminder has touched is not held until
//! the next one.

use std::fs::File;
use std::io::Read;
use std::ops::Range;

use rustix::mm::{Advice, madvise};

/// The mappings of the program and its libraries that hold nothing but what is in their files.
pub(crate) struct Program {
    /// What the kernel says of all mappings, to be read when there is time.
    list: Option<File>,
    mappings: Vec<Range<usize>>,
}

impl Program {
    /// Only opens the list, which a sandbox hides later: reading it takes time that a start does not have.
    pub(crate) fn open() -> Program {
        Program { list: File::open("/proc/self/smaps").ok(), mappings: Vec::new() }
    }

    fn look_up(&mut self) {
        let Some(mut list) = self.list.take() else { return };
        let mut text = String::new();
        if list.read_to_string(&mut text).is_ok() {
            self.mappings = clean(&text);
        }
    }

    /// Lets go of their pages, and of what is free of the heap. What follows pays for a hundred page faults at most: a
    /// tenth of a millisecond.
    #[expect(unsafe_code, reason = "madvise(2) and malloc_trim(3) have no safe form")]
    pub(crate) fn let_go(&mut self) {
        self.look_up();
        for range in &self.mappings {
            let start = std::ptr::without_provenance_mut(range.start);
            // SAFETY: the range is a private mapping of a file that is not writable and had no page of its own, so
            // every page that goes comes back from the file as it was. Libraries are never unloaded. A failure leaves
            // everything as it is.
            let _ = unsafe { madvise(start, range.len(), Advice::LinuxDontNeed) };
        }
        // What handshakes have used lies between what their connections keep, and stays with the process otherwise.
        #[cfg(target_env = "gnu")]
        // SAFETY: gives back pages of the heap in which there is nothing; safe to call at any time from any thread.
        let _ = unsafe { libc::malloc_trim(0) };
    }
}

/// The ranges of private, read-only mappings of files of which no page differs from the file, by what the kernel says
/// of each (proc_pid_smaps(5)). One that holds pages of its own, as the table of relocations does, must stay.
fn clean(smaps: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut candidate = None;
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        match (words.next(), words.next()) {
            (Some("Anonymous:"), Some("0")) => found.extend(candidate.take()),
            (Some("Anonymous:"), _) => candidate = None,
            (Some(addresses), Some("r--p" | "r-xp")) => {
                let of_file = words.nth(3).is_some_and(|path| path.starts_with('/'));
                candidate = of_file.then(|| range(addresses)).flatten();
            }
            (Some(first), _) if !first.ends_with(':') => candidate = None,
            _ => {}
        }
    }
    found
}

fn range(addresses: &str) -> Option<Range<usize>> {
    let (start, end) = addresses.split_once('-')?;
    Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mappings_that_are_as_their_file_are_let_go() {
        let smaps = "\
55d0c0000000-55d0c0100000 r--p 00000000 fe:00 1234                       /usr/bin/lictor
Size:               1024 kB
Anonymous:             0 kB
VmFlags: rd mr mw me sd
55d0c0100000-55d0c0200000 r-xp 00100000 fe:00 1234                       /usr/bin/lictor (deleted)
Anonymous:             0 kB
55d0c0200000-55d0c0300000 r--p 00200000 fe:00 1234                       /usr/bin/lictor
Anonymous:           852 kB
55d0c0300000-55d0c0301000 rw-p 00300000 fe:00 1234                       /usr/bin/lictor
Anonymous:             0 kB
7f0000000000-7f0000001000 r-xp 00000000 00:00 0                          [vdso]
Anonymous:             0 kB
7f0000001000-7f0000002000 r--p 00000000 00:00 0
Anonymous:             0 kB
7f0000002000-7f0000003000 r--s 00000000 fe:00 99                         /var/lib/shared
Anonymous:             0 kB
";
        assert_eq!(clean(smaps), [0x55d0c0000000..0x55d0c0100000, 0x55d0c0100000..0x55d0c0200000]);
    }

    #[test]
    fn a_program_goes_on_after_it_was_let_go() {
        let resident = || {
            let text = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = text.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
        };
        let mut program = Program::open();
        program.let_go();
        assert!(!program.mappings.is_empty());
        // Other tests run in this process and map again what they need.
        let smaller = (0..100).any(|_| {
            let before = resident();
            program.let_go();
            resident() < before
        });
        assert!(smaller, "nothing was given back");
    }
}
