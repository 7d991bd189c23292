//! The log files of processes: kept small while they are written to, and read from their end.
//!
//! A process outlives its supervisor, so it writes to its files itself, in append mode, and nobody can ask an unknown
//! program to open them again. A rotation must therefore take bytes away from the *front* of a file while any number of
//! writers add to its end, and must be right when the supervisor is killed in the middle of it. Copying and truncating
//! (what `copytruncate` does) loses whatever is written in between. This is done instead:
//!
//! 1. copy whole blocks from the front to `<file>.rotating.<offset>` and flush them to the disk;
//! 2. punch them out of the file (`FALLOC_FL_PUNCH_HOLE`): no offset changes, and no byte that was not copied goes;
//! 3. name the copy `<file>.1`, older ones `.2`, `.3`, …;
//! 4. take the hole out of the file (`FALLOC_FL_COLLAPSE_RANGE`). The kernel does this as one step between two writes.
//!
//! A copy without a name tells a successor how far its predecessor came: if the file has no hole where the copy was made
//! from, the copy may be incomplete and is thrown away; if it has one, the copy is complete and gets its name. So every
//! byte is in exactly one file at every instant, and all files from the highest number down to the live one, read in
//! order, are the stream exactly as it was written. Blocks know no lines: a line may begin in one file and end in the
//! next.
//!
//! ext4 and XFS can collapse. Others (tmpfs, btrfs) keep the hole, which costs no space; the file then only *looks*
//! long until its process is started anew, when it is put aside as a whole ([`Logs::settle`]). Where not even holes can be
//! punched, files are rotated at the next start of their process alone.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use rustix::fs::FallocateFlags;

/// Blocks are at least this long; most file systems have blocks of this length.
const SMALLEST_BLOCK: u64 = 4096;
/// What is read at once when looking for the last lines.
const PIECE: u64 = 64 * 1024;
/// The most that is looked through for the last lines.
const LONGEST_TAIL: u64 = 8 << 20;

/// When files are rotated and what is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A file that has more is rotated.
    pub bytes: u64,
    /// A file whose oldest line is older than this is rotated.
    pub age: Option<Duration>,
    /// Rotated files that are kept of each.
    pub keep: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { bytes: 10 << 20, age: None, keep: 5 }
    }
}

/// The log files of one supervisor. Clones are handles to the same.
#[derive(Clone, Debug, Default)]
pub struct Logs(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    limits: Limits,
    /// One lock for each file, so that no reader sees a rotation half way and no two rotate at once.
    files: Mutex<HashMap<PathBuf, Arc<Mutex<Seen>>>>,
}

/// What is known of one file.
#[derive(Debug, Default)]
struct Seen {
    /// Whether it was looked for what a killed predecessor left half done.
    settled: bool,
    /// Bytes taken from its front since this supervisor began.
    cut: u64,
    /// What that was each time that the file was put aside as a whole and another one took its place.
    aside: Vec<u64>,
    /// Whether it was said that it cannot be rotated.
    told: bool,
}

impl Logs {
    /// Files with these limits.
    pub fn new(limits: Limits) -> Logs {
        Logs(Arc::new(Inner { limits, files: Mutex::default() }))
    }

    fn seen(&self, path: &Path) -> Arc<Mutex<Seen>> {
        Arc::clone(self.0.files.lock().entry(path.to_owned()).or_default())
    }

    /// Rotates a file if it is due. A file that is not there is as good as an empty one. Blocks.
    pub fn rotate(&self, path: &Path) -> io::Result<()> {
        let seen = self.seen(path);
        let mut seen = seen.lock();
        if !seen.settled {
            seen.cut += recover(path, self.0.limits.keep)?;
            seen.settled = true;
        }
        let rotated = self.rotate_due(path, &mut seen);
        // Whatever was left half done is looked at again next time.
        seen.settled = rotated.is_ok();
        match rotated {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                if !std::mem::replace(&mut seen.told, true) {
                    tracing::warn!(
                        "supervisor: {path:?} can be rotated only when its process starts: its file system has no holes"
                    );
                }
                Ok(())
            }
            other => other,
        }
    }

    fn rotate_due(&self, path: &Path, seen: &mut Seen) -> io::Result<()> {
        let Limits { bytes, age, keep } = self.0.limits;
        loop {
            // Opened again each time: its process may have been started anew.
            let file = open(path)?;
            let found = file.metadata()?;
            let block = found.blksize().max(SMALLEST_BLOCK);
            let (begin, size) = (first_data(&file)? / block * block, found.len());
            let there = size.saturating_sub(begin);
            let limit = bytes.max(block);
            let aged = || age.is_some_and(|age| oldest(path, &found).is_some_and(|oldest| oldest >= age));
            let end = if there > limit {
                begin + limit
            } else if aged() {
                size
            } else {
                return Ok(());
            };
            // A file cannot be collapsed to nothing.
            let end = (end.min(size.saturating_sub(1))) / block * block;
            if end <= begin {
                return Ok(());
            }
            if keep > 0 {
                // Makes room first: a full disk is when it matters.
                prune(path, keep - 1);
                copy(&file, &rotating(path, begin), begin..end)?;
            }
            punch(&file, begin..end)?;
            if keep > 0 {
                archive(path, &rotating(path, begin), keep)?;
            }
            if collapse(&file, end) {
                seen.cut += end;
            }
        }
    }

    /// Prepares a file for the start of its process: finishes what was left half done, and puts a file aside that begins
    /// with a hole or is over its limit. A predecessor that still writes to it goes on to write to what was put aside.
    /// Blocks.
    pub fn settle(&self, path: &Path) -> io::Result<()> {
        let seen = self.seen(path);
        let mut seen = seen.lock();
        let keep = self.0.limits.keep;
        seen.cut += recover(path, keep)?;
        seen.settled = true;
        let file = match open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            file => file?,
        };
        let size = file.metadata()?.len();
        if size > 0 && (size > self.0.limits.bytes || first_data(&file)? > 0) {
            if keep > 0 {
                archive(path, path, keep)?;
            } else {
                fs::remove_file(path)?;
                prune(path, 0);
            }
            let cut = seen.cut;
            seen.aside.push(cut);
        }
        Ok(())
    }

    /// How far a file has been written, counted so that rotations do not matter.
    pub fn position(&self, path: &Path) -> u64 {
        let seen = self.seen(path);
        let seen = seen.lock();
        seen.cut + fs::metadata(path).map_or(0, |found| found.len())
    }

    /// The last lines, oldest first, across rotated files; of those written after `position` (see [`Logs::position`])
    /// alone. Blocks.
    pub fn last_lines(&self, path: &Path, lines: usize, position: u64) -> io::Result<Vec<String>> {
        let seen = self.seen(path);
        let seen = seen.lock();
        let mut budget = match position {
            0 => LONGEST_TAIL,
            _ => LONGEST_TAIL.min((seen.cut + size_of(path)).saturating_sub(position)),
        };
        let mut text = Vec::new();
        let mut number = 0;
        while let Ok(file) = open_reading(&numbered(path, number)) {
            read_backwards(&file, &mut text, lines, &mut budget)?;
            if newlines(&text) > lines || budget == 0 {
                break;
            }
            number += 1;
        }
        let text = String::from_utf8_lossy(&text);
        let all: Vec<&str> = text.lines().collect();
        Ok(all[all.len().saturating_sub(lines)..].iter().map(|line| (*line).to_owned()).collect())
    }

    /// Follows a file from its end.
    pub fn follow(&self, path: &Path) -> Follow {
        let seen = self.seen(path);
        let (cut, aside, file) = {
            let seen = seen.lock();
            (seen.cut, seen.aside.len(), open_reading(path).ok())
        };
        let offset = file.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |found| found.len());
        Follow { path: path.to_owned(), seen, cut, aside, file, offset }
    }

    /// Removes the files of a folder, rotated ones included, that belong to none of `known` and have not been written for
    /// this long. Gives how many. Blocks.
    pub fn forget(&self, folder: &Path, known: &BTreeSet<PathBuf>, older_than: Duration) -> io::Result<usize> {
        let mut removed = 0;
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let is_known = known.iter().any(|known| is_of(&path, known));
            let age =
                fs::symlink_metadata(&path).and_then(|found| found.modified()).ok().and_then(|at| at.elapsed().ok());
            let is_log = path.to_string_lossy().contains(".log");
            if is_log && !is_known && age.is_some_and(|age| age >= older_than) && fs::remove_file(&path).is_ok() {
                removed += 1;
            }
        }
        Ok(removed)
    }
}

/// Whether `path` is the file `known` or one rotated from it.
fn is_of(path: &Path, known: &Path) -> bool {
    let (path, known) = (path.as_os_str().as_encoded_bytes(), known.as_os_str().as_encoded_bytes());
    path.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"."))
}

/// One reader that follows a file through rotations and new files of the same name.
#[derive(Debug)]
pub struct Follow {
    path: PathBuf,
    seen: Arc<Mutex<Seen>>,
    /// What had been cut when `offset` was right.
    cut: u64,
    /// How often a file was put aside before ours.
    aside: usize,
    file: Option<File>,
    offset: u64,
}

impl Follow {
    /// What was written since the last call; empty when nothing was. Blocks.
    pub fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        let seen = self.seen.lock();
        // What is cut from the next one is none of ours.
        let put_aside = seen.aside.get(self.aside).copied();
        let present = put_aside.unwrap_or(seen.cut);
        let cut = present - std::mem::replace(&mut self.cut, present);
        let mut number = 0;
        if let Some(file) = &self.file {
            if put_aside.is_some() {
                number = number_of(&self.path, file)?;
            }
            let hole = first_data(file)?.min(file.metadata()?.len());
            // What we had not read when it was rotated.
            let missed = (cut + hole).saturating_sub(self.offset);
            read_rotated(&self.path, number + 1, missed, &mut text)?;
            self.offset = self.offset.saturating_sub(cut).max(hole);
            self.offset += read_from(file, self.offset, &mut text)?;
        }
        let now = fs::metadata(&self.path).ok().map(|found| (found.dev(), found.ino()));
        let ours = self.file.as_ref().and_then(|file| file.metadata().ok()).map(|found| (found.dev(), found.ino()));
        if now.is_some() && now != ours {
            // The old one was read to its end above, and its process is gone. What came between was rotated in the meantime.
            for newer in (1..number).rev() {
                if let Ok(file) = open_reading(&numbered(&self.path, newer)) {
                    read_from(&file, 0, &mut text)?;
                }
            }
            let file = open_reading(&self.path)?;
            self.offset = read_from(&file, 0, &mut text)?;
            self.file = Some(file);
            (self.cut, self.aside) = (seen.cut, seen.aside.len());
        }
        Ok(text)
    }
}

/// The number of a file that was put aside: behind all others when it is not kept any more.
fn number_of(path: &Path, file: &File) -> io::Result<u32> {
    let of = |found: fs::Metadata| (found.dev(), found.ino());
    let ours = of(file.metadata()?);
    let mut number = 1;
    while let Ok(found) = fs::metadata(numbered(path, number))
        && of(found) != ours
    {
        number += 1;
    }
    Ok(number)
}

/// Reads from `offset` to the end, without holes at the front; gives how far that was.
fn read_from(file: &File, offset: u64, text: &mut Vec<u8>) -> io::Result<u64> {
    let size = file.metadata()?.len();
    let begin = offset.max(first_data(file)?.min(size));
    let mut reader = file;
    reader.seek(SeekFrom::Start(begin))?;
    let read = reader.take(size.saturating_sub(begin)).read_to_end(text)?;
    Ok(begin - offset + u64::try_from(read).unwrap_or_default())
}

/// Reads the last so many bytes of the rotated files from this number on, as far as they are kept.
fn read_rotated(path: &Path, mut number: u32, mut missed: u64, text: &mut Vec<u8>) -> io::Result<()> {
    let mut pieces = Vec::new();
    while missed > 0
        && let Ok(file) = open_reading(&numbered(path, number))
    {
        let size = file.metadata()?.len();
        let from = size.saturating_sub(missed).max(first_data(&file)?.min(size));
        let mut piece = Vec::new();
        read_from(&file, from, &mut piece)?;
        missed = missed.saturating_sub(size - from);
        pieces.push(piece);
        number += 1;
    }
    pieces.iter().rev().for_each(|piece| text.extend_from_slice(piece));
    Ok(())
}

/// Puts pieces of a file before `text`, from its end on, until there are more than enough lines.
fn read_backwards(file: &File, text: &mut Vec<u8>, lines: usize, budget: &mut u64) -> io::Result<()> {
    let begin = first_data(file)?;
    let mut end = file.metadata()?.len();
    while end > begin && *budget > 0 && newlines(text) <= lines {
        let length = PIECE.min(end - begin).min(*budget);
        let mut piece = vec![0; usize::try_from(length).unwrap_or_default()];
        file.read_exact_at(&mut piece, end - length)?;
        piece.append(text);
        *text = piece;
        end -= length;
        *budget -= length;
    }
    Ok(())
}

fn newlines(text: &[u8]) -> usize {
    text.iter().filter(|byte| **byte == b'\n').count()
}

fn size_of(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |found| found.len())
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(path)
}

fn open_reading(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path)
}

/// Where the first byte is that is no hole; the end, when there is none.
fn first_data(file: &File) -> io::Result<u64> {
    match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(0)) {
        Ok(at) => Ok(at),
        Err(rustix::io::Errno::NXIO) => Ok(file.metadata()?.len()),
        // The file system does not tell, so it has no holes either.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// `<path>.1` is the youngest rotated file; number 0 is the live one.
fn numbered(path: &Path, number: u32) -> PathBuf {
    if number == 0 { path.to_owned() } else { with_ending(path, &format!(".{number}")) }
}

fn rotating(path: &Path, begin: u64) -> PathBuf {
    with_ending(path, &format!(".rotating.{begin}"))
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// The age of the oldest line: it came after the last rotation, or after the file was made.
fn oldest(path: &Path, found: &fs::Metadata) -> Option<Duration> {
    let since = fs::metadata(numbered(path, 1)).and_then(|last| last.modified()).or_else(|_| found.created()).ok()?;
    SystemTime::now().duration_since(since).ok()
}

fn copy(file: &File, to: &Path, range: std::ops::Range<u64>) -> io::Result<()> {
    let copied = (|| {
        let mut copy = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(to)?;
        let mut reader = file;
        reader.seek(SeekFrom::Start(range.start))?;
        let length = range.end - range.start;
        if io::copy(&mut reader.take(length), &mut copy)? != length {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter while it was copied"));
        }
        copy.sync_all()
    })();
    if copied.is_err() {
        let _ = fs::remove_file(to);
    }
    copied
}

fn punch(file: &File, range: std::ops::Range<u64>) -> io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(file, flags, range.start, range.end - range.start)?;
    Ok(())
}

/// Takes the hole at the front out of the file; `false` when the file system cannot, and the hole stays.
fn collapse(file: &File, end: u64) -> bool {
    end > 0 && rustix::fs::fallocate(file, FallocateFlags::COLLAPSE_RANGE, 0, end).is_ok()
}

/// Gives a file the number 1 and older ones the numbers above.
fn archive(path: &Path, from: &Path, keep: u32) -> io::Result<()> {
    let free = (1..keep).find(|number| !numbered(path, *number).exists()).unwrap_or(keep);
    for number in (1..free).rev() {
        fs::rename(numbered(path, number), numbered(path, number + 1))?;
    }
    fs::rename(from, numbered(path, 1))?;
    prune(path, keep);
    Ok(())
}

/// Removes rotated files with a number above `keep`.
fn prune(path: &Path, keep: u32) {
    let mut number = keep + 1;
    while fs::remove_file(numbered(path, number)).is_ok() {
        number += 1;
    }
}

/// Finishes or undoes what a killed predecessor left half done; gives how much was taken from the front.
fn recover(path: &Path, keep: u32) -> io::Result<u64> {
    let Some((folder, name)) = path.parent().zip(path.file_name()) else { return Ok(0) };
    let prefix = format!("{}.rotating.", name.to_string_lossy());
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    for entry in entries {
        let copy = entry?;
        let file_name = copy.file_name();
        let Some(begin) = file_name.to_str().and_then(|name| name.strip_prefix(&prefix)) else { continue };
        let (copy, Ok(begin)) = (copy.path(), begin.parse::<u64>()) else { continue };
        let end = begin + size_of(&copy);
        let file = open(path).ok();
        let punched = match &file {
            Some(file) => begin < end && has_hole(file, begin..end)?,
            None => false,
        };
        match file {
            Some(file) if punched => {
                // The kernel may have been stopped within it; it can be done again.
                punch(&file, begin..end)?;
                archive(path, &copy, keep.max(1))?;
            }
            _ => fs::remove_file(&copy)?,
        }
    }
    if let Ok(file) = open(path) {
        let begin = first_data(&file)?;
        let size = file.metadata()?.len();
        // Where this is not possible, the hole stays.
        if begin > 0 && begin < size && collapse(&file, begin) {
            return Ok(begin);
        }
    }
    Ok(0)
}

fn has_hole(file: &File, range: std::ops::Range<u64>) -> io::Result<bool> {
    let size = file.metadata()?.len();
    if size < range.end {
        return Ok(false);
    }
    match rustix::fs::seek(file, rustix::fs::SeekFrom::Hole(range.start)) {
        Ok(at) => Ok(at < range.end),
        Err(rustix::io::Errno::NXIO | rustix::io::Errno::INVAL) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests;
