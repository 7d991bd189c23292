//! The durable log of record: appends batches to the store file, and finds out what is in it after a failure.

use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::redb::{Builder, Database, DatabaseError, StorageError};

use crate::Error;
use crate::batch::Staged;
use crate::keyspace::{Image, Keyspace};
use crate::redb::file::{self, Disk, Health, Lock};
use crate::redb::journal::{self, Touched};
use crate::redb::schema::{self, FORMAT, Failed, Loaded, Target, Unreadable};

/// redb's cache of pages. Small, because reads never come here: it serves the pages that writes touch.
const CACHE_BYTES: usize = 16 * 1024 * 1024;

/// How much the journal takes before it is folded into the entries: few enough bytes to read at a start, and so many
/// that the pages of a busy store are written once for many changes.
const JOURNAL_BYTES: usize = 8 * 1024 * 1024;

/// The store file, open for writing.
pub(crate) struct Log {
    path: PathBuf,
    /// `None` after a failed write, until [`Log::recover`] succeeds.
    database: Option<Database>,
    /// The number of the last durable write.
    commit: u64,
    /// What the journal in the file holds.
    unfolded: Touched,
    /// How long its rows are, all together.
    journal_bytes: usize,
    /// How long they may become before they are folded; tests make it small.
    pub(crate) journal_limit: usize,
    health: Arc<Health>,
    #[cfg(test)]
    pub(crate) faults: Arc<file::faults::Faults>,
    // Last, so that it is released when the file is closed already.
    _lock: Lock,
}

/// What became of a write whose end was not seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is not in the file.
    Lost,
    /// It is in the file, whole and durable.
    Kept,
}

impl Log {
    /// Opens the store file or creates it, and reads what it holds.
    pub(crate) fn open(path: &Path) -> Result<(Log, Keyspace), Error> {
        file::create_directory(path)?;
        let lock = Lock::take(path)?;
        let health = Arc::new(Health::default());
        let mut log = Log {
            path: path.to_owned(),
            database: None,
            commit: 0,
            unfolded: Touched::new(),
            journal_bytes: 0,
            journal_limit: JOURNAL_BYTES,
            health,
            #[cfg(test)]
            faults: Arc::default(),
            _lock: lock,
        };
        let Some(file) = file::open_existing(path)? else {
            let keyspace = Keyspace::empty();
            log.rebuild(&keyspace.image())?;
            return Ok((log, keyspace));
        };
        let database = log.open_database(file, &log.health)?;
        let loaded = read(path, &database)?;
        if let Some(finding) = loaded.findings.first() {
            let others = loaded.findings.len() - 1;
            let more = if others == 0 { String::new() } else { format!(" (and {others} more)") };
            return Err(Error::Damaged { path: path.to_owned(), detail: format!("{finding}{more}") });
        }
        log.commit = loaded.commit;
        log.has_journal(loaded.unfolded);
        log.database = Some(database);
        Ok((log, loaded.keyspace))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a failure left it unknown what is in the file.
    pub(crate) fn needs_recovery(&self) -> bool {
        self.database.is_none()
    }

    /// Makes a batch durable. After an error nothing can be appended before [`Log::recover`].
    pub(crate) fn append(&mut self, staged: &Staged) -> Result<(), Error> {
        let length = journal::length(&staged.touched);
        let target = if self.journal_bytes + length > self.journal_limit {
            Target::Entries(&self.unfolded)
        } else {
            Target::Journal
        };
        let appended = match &self.database {
            Some(database) => schema::append(database, staged, self.commit + 1, &target),
            None => Err(Failed(Box::new(::redb::Error::PreviousIo))),
        };
        match appended {
            Ok(()) => {
                self.commit += 1;
                match target {
                    Target::Journal => {
                        self.unfolded.extend(staged.touched.iter().map(|(key, entry)| (key.clone(), entry.clone())));
                        self.journal_bytes += length;
                    }
                    Target::Entries(_) => self.has_journal(Touched::new()),
                }
                Ok(())
            }
            Err(failed) => {
                self.database = None;
                Err(self.write_error(failed))
            }
        }
    }

    fn has_journal(&mut self, unfolded: Touched) {
        self.journal_bytes = journal::length(&unfolded);
        self.unfolded = unfolded;
    }

    /// Makes the file usable again after a failed write, and finds out what became of that write.
    ///
    /// `image` takes a picture of the state without it. As long as what the system shows of the file is what is on the disk, the
    /// file is opened again and says itself. If not (a failed `fsync`), or if it is no longer readable, it is written
    /// anew from memory beside the old one, which it then replaces.
    pub(crate) fn recover(&mut self, image: impl FnOnce() -> Result<Image, Error>) -> Result<Fate, Error> {
        // Whoever asked for a write is told about the write, whichever step of settling the last one fails.
        self.reopen_or_rebuild(image).map_err(|error| match error {
            Error::File { source, .. } => Error::Write { path: self.path.clone(), source },
            other => other,
        })
    }

    fn reopen_or_rebuild(&mut self, image: impl FnOnce() -> Result<Image, Error>) -> Result<Fate, Error> {
        self.database = None;
        if !self.health.is_doubtful()
            && let Some(file) = file::open_existing(&self.path)?
        {
            match self.reopen(file) {
                Ok(fate) => return Ok(fate),
                // No room or no disk: nothing is to be gained by writing even more.
                Err(error @ (Error::File { .. } | Error::Write { .. })) => return Err(error),
                Err(error) => tracing::warn!("store: {error}; writing it anew from memory"),
            }
        }
        self.rebuild(&image()?)?;
        Ok(Fate::Lost)
    }

    fn reopen(&mut self, file: File) -> Result<Fate, Error> {
        let database = self.open_database(file, &self.health)?;
        let (found, unfolded) = read_recent(&self.path, &database)?;
        let fate = if found == self.commit {
            Fate::Lost
        } else if found == self.commit + 1 {
            // It may have been seen in the system's cache only.
            schema::settle(&database).map_err(|failed| self.write_error(failed))?;
            Fate::Kept
        } else {
            let detail = format!("it holds write {found}, expected was {}", self.commit);
            return Err(Error::Damaged { path: self.path.clone(), detail });
        };
        self.commit = found;
        self.has_journal(unfolded);
        self.database = Some(database);
        Ok(fate)
    }

    /// Writes a new file that holds `image`, durable and whole before it takes the name of the store file.
    fn rebuild(&mut self, image: &Image) -> Result<(), Error> {
        let fresh = file::beside(&self.path, ".new");
        let health = Arc::new(Health::default());
        let database = self.open_database(file::create_new(&fresh)?, &health)?;
        schema::write_all(&database, image, self.commit).map_err(|failed| self.write_error(failed))?;
        file::put_in_place(&fresh, &self.path)?;
        // Not before it is in place: until then the doubts about the old one stand.
        self.health = health;
        self.has_journal(Touched::new());
        self.database = Some(database);
        Ok(())
    }

    fn open_database(&self, file: File, health: &Arc<Health>) -> Result<Database, Error> {
        let disk = Disk::new(file, Arc::clone(health));
        #[cfg(test)]
        let disk = disk.with_faults(Arc::clone(&self.faults));
        guarded(&self.path, || {
            Builder::new()
                .set_cache_size(CACHE_BYTES)
                // Everything is read anyway; a damaged page is then refused instead of believed.
                .set_check_integrity_on_open(true)
                .create_with_backend(disk)
                .map_err(|error| open_error(&self.path, error))
        })
    }

    fn write_error(&self, Failed(error): Failed) -> Error {
        let source = match *error {
            ::redb::Error::Io(error) => error,
            other => io::Error::other(other),
        };
        Error::Write { path: self.path.clone(), source: Arc::new(source) }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if let Some(database) = self.database.take()
            && let Err(error) = database.close()
        {
            // Nothing is lost: all that was acknowledged is durable already. The next open takes longer.
            tracing::warn!("store: {} was not closed cleanly: {error}", self.path.display());
        }
    }
}

/// Reads everything from an open database.
pub(crate) fn read(path: &Path, database: &Database) -> Result<Loaded, Error> {
    guarded(path, || schema::load(database).map_err(|error| unreadable(path, error)))
}

fn read_recent(path: &Path, database: &Database) -> Result<(u64, Touched), Error> {
    guarded(path, || match schema::load_recent(database).map_err(|error| unreadable(path, error))? {
        (commit, Some(unfolded)) => Ok((commit, unfolded)),
        (_, None) => {
            Err(Error::Damaged { path: path.to_owned(), detail: "a journal row cannot be understood".to_owned() })
        }
    })
}

/// Runs redb over a file of unknown condition. redb promises errors for crashes and checksums for damage, but not
/// that a file altered by somebody else never makes it panic; that must not take the agent with it.
pub(crate) fn guarded<T>(path: &Path, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    // Whatever `work` had in its hands is dropped with it.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(Error::Damaged { path: path.to_owned(), detail: "its pages contradict each other".to_owned() })
    })
}

/// Why a database could not be opened.
pub(crate) fn open_error(path: &Path, error: DatabaseError) -> Error {
    let path = path.to_owned();
    match error {
        DatabaseError::Storage(StorageError::Io(error)) if error.kind() == io::ErrorKind::InvalidData => {
            Error::NotAStore { path, detail: error.to_string() }
        }
        DatabaseError::Storage(StorageError::Io(error)) => {
            Error::File { operation: "read store file", path, source: Arc::new(error) }
        }
        DatabaseError::UpgradeRequired(version) => {
            Error::NotAStore { path, detail: format!("its pages have version {version} of redb's format") }
        }
        other => Error::Damaged { path, detail: other.to_string() },
    }
}

fn unreadable(path: &Path, error: Unreadable) -> Error {
    let path = path.to_owned();
    match error {
        Unreadable::Foreign(detail) => Error::NotAStore { path, detail },
        Unreadable::Format(found) => Error::Format { path, found, known: FORMAT },
        Unreadable::Redb(error) => match *error {
            ::redb::Error::Io(error) => Error::File { operation: "read store file", path, source: Arc::new(error) },
            other => Error::Damaged { path, detail: other.to_string() },
        },
    }
}
