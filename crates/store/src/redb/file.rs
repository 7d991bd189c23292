//! The store file on the file system: its lock, its permissions, and how redb reads and writes it.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ::redb::StorageBackend;

use crate::Error;

/// The right of one process to the store file, for as long as this lives.
///
/// A file of its own, because the store file may be replaced while it is in use, and its lock would go with it.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// Who else may hold the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// Nobody: for writing.
    Exclusive,
    /// Other readers.
    Readers,
}

impl Lock {
    /// Takes the lock of the store file at `path`, or says who has it.
    pub(crate) fn take(path: &Path) -> Result<Lock, Error> {
        let lock_path = beside(path, ".lock");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(failed("open lock file", &lock_path))?;
        Lock::hold(file, path, &lock_path, Sharing::Exclusive)
    }

    /// Takes the lock for reading only; `None` when there never was a writer. Creates nothing.
    pub(crate) fn take_to_read(path: &Path) -> Result<Option<Lock>, Error> {
        let lock_path = beside(path, ".lock");
        match File::open(&lock_path) {
            Ok(file) => Lock::hold(file, path, &lock_path, Sharing::Readers).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("open lock file", &lock_path)(error)),
        }
    }

    fn hold(mut file: File, path: &Path, lock_path: &Path, sharing: Sharing) -> Result<Lock, Error> {
        let locked = match sharing {
            Sharing::Exclusive => file.try_lock(),
            Sharing::Readers => file.try_lock_shared(),
        };
        match locked {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Only a hint for the message; without it the message says less.
                let _ = file.read_to_string(&mut holder);
                return Err(Error::InUse { path: path.to_owned(), holder: holder.trim().parse().ok() });
            }
            Err(TryLockError::Error(error)) => return Err(failed("lock", lock_path)(error)),
        }
        if sharing == Sharing::Exclusive {
            // The note serves other processes' messages only: a full disk must not keep the store from opening.
            let _ = file.set_len(0);
            let _ = file.rewind();
            let _ = writeln!(file, "{}", std::process::id());
        }
        Ok(Lock { _file: file })
    }
}

/// Makes the directory of the store file, and those above it that are missing, for the owner alone.
pub(crate) fn create_directory(path: &Path) -> Result<(), Error> {
    let Some(directory) = directory(path) else { return Ok(()) };
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed("create directory", directory))
}

/// Opens a new, empty file for the owner alone, in place of any left there before.
pub(crate) fn create_new(path: &Path) -> Result<File, Error> {
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("remove", path)(error)),
    }
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(failed("create store file", path))
}

/// Opens the store file; `None` when there is none. Takes rights away that others have to it.
pub(crate) fn open_existing(path: &Path) -> Result<Option<File>, Error> {
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("open store file", path)(error)),
    };
    let metadata = file.metadata().map_err(failed("inspect store file", path))?;
    if !metadata.is_file() {
        return Err(Error::NotAStore { path: path.to_owned(), detail: "it is not a regular file".to_owned() });
    }
    if metadata.len() == 0 {
        // Not one that a crash left: the file gets its name when it is whole. redb would make a store of it.
        return Err(Error::NotAStore { path: path.to_owned(), detail: "it is empty".to_owned() });
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        match file.set_permissions(Permissions::from_mode(0o600)) {
            Ok(()) => tracing::warn!("store: {} was open to other users; now it is not", path.display()),
            Err(error) => tracing::warn!("store: {} is open to other users: {error}", path.display()),
        }
    }
    Ok(Some(file))
}

/// Puts the file at `from` in the place of `to`, for good.
pub(crate) fn put_in_place(from: &Path, to: &Path) -> Result<(), Error> {
    fs::rename(from, to).map_err(failed("put in place store file", to))?;
    let directory = directory(to).unwrap_or(Path::new("."));
    File::open(directory).and_then(|file| file.sync_all()).map_err(failed("sync directory", directory))
}

/// The path with something added to its name.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// The directory of a file; `None` is the current one.
fn directory(path: &Path) -> Option<&Path> {
    path.parent().filter(|directory| !directory.as_os_str().is_empty())
}

/// Turns a system error into ours.
pub(crate) fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::File { operation, path: path.to_owned(), source: Arc::new(source) }
}

/// The store file as redb sees it. Locks are [`Lock`]'s matter.
#[derive(Debug)]
pub(crate) struct Disk {
    file: File,
    health: Arc<Health>,
    #[cfg(test)]
    faults: Arc<faults::Faults>,
}

/// What must be remembered about a file over redb's own lifetime.
#[derive(Debug, Default)]
pub(crate) struct Health {
    sync_failed: AtomicBool,
}

impl Health {
    /// Whether an `fsync` has failed. What was written before it is then nowhere for certain: the system may show it
    /// from its cache though it is not on the disk, and a later `fsync` may succeed without writing it.
    pub(crate) fn is_doubtful(&self) -> bool {
        self.sync_failed.load(Ordering::Acquire)
    }
}

impl Disk {
    pub(crate) fn new(file: File, health: Arc<Health>) -> Disk {
        Disk {
            file,
            health,
            #[cfg(test)]
            faults: Arc::default(),
        }
    }

    #[cfg(test)]
    pub(crate) fn with_faults(self, faults: Arc<faults::Faults>) -> Disk {
        Disk { faults, ..self }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        #[cfg(test)]
        let synced = self.faults.check_sync().and_then(|()| self.file.sync_data());
        #[cfg(not(test))]
        let synced = self.file.sync_data();
        if synced.is_err() {
            self.health.sync_failed.store(true, Ordering::Release);
        }
        synced
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        #[cfg(test)]
        let data = self.faults.room_for(data, |part| self.file.write_all_at(part, offset))?;
        self.file.write_all_at(data, offset)
    }
}

#[cfg(test)]
pub(crate) mod faults {
    //! A disk that fails on demand.

    use std::io;
    use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

    /// Which calls fail.
    #[derive(Debug)]
    pub(crate) struct Faults {
        /// Bytes that can still be written before the disk is full.
        pub(crate) space: AtomicI64,
        /// Whether syncs fail.
        pub(crate) syncs_fail: AtomicBool,
    }

    impl Default for Faults {
        fn default() -> Faults {
            Faults { space: AtomicI64::new(i64::MAX), syncs_fail: AtomicBool::new(false) }
        }
    }

    impl Faults {
        /// The data, if there is room for it; else as much as there is room for goes to `write`, as on a real disk.
        pub(super) fn room_for<'a>(
            &self,
            data: &'a [u8],
            write: impl FnOnce(&[u8]) -> io::Result<()>,
        ) -> io::Result<&'a [u8]> {
            let needed = i64::try_from(data.len()).unwrap();
            let space = self.space.fetch_sub(needed, Ordering::SeqCst);
            if space >= needed {
                return Ok(data);
            }
            self.space.store(0, Ordering::SeqCst);
            write(&data[..usize::try_from(space).unwrap()])?;
            Err(io::ErrorKind::StorageFull.into())
        }

        pub(super) fn check_sync(&self) -> io::Result<()> {
            if self.syncs_fail.load(Ordering::SeqCst) { Err(io::Error::other("injected sync failure")) } else { Ok(()) }
        }
    }
}
