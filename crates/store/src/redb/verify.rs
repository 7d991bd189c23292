//! Checks a store file without changing a byte of it.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use ::redb::backends::InMemoryBackend;
use ::redb::{Builder, StorageBackend};

use crate::redb::file::{Lock, failed};
use crate::redb::log::{guarded, open_error, read};
use crate::redb::schema::FORMAT;
use crate::{Error, Revision};

/// What [`verify`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The file.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
    /// The version of its format.
    pub format: u64,
    /// The revision it has reached.
    pub revision: Revision,
    /// How many keys it holds.
    pub keys: usize,
    /// How many leases it remembers.
    pub leases: usize,
    /// Where it contradicts itself, one sentence each; empty on a sound file. Keys and values are never shown.
    pub findings: Vec<String>,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }
}

/// Checks the store file at `path`: every page's checksum, redb's own structure, and what must hold of our tables.
///
/// Works on a copy in memory, so the file stays as it is, even where a crash left something to clean up (which every
/// open does by itself and is no finding). No process may have the store open ([`Error::InUse`]). An error means that the
/// file could not be read as a store at all. Blocks.
pub fn verify(path: &Path) -> Result<Report, Error> {
    let _lock = Lock::take_to_read(path)?;
    let copy = InMemoryBackend::new();
    let bytes = copy_into(&copy, path).map_err(failed("read store file", path))?;
    if bytes == 0 {
        return Err(Error::NotAStore { path: path.to_owned(), detail: "it is empty".to_owned() });
    }
    let (database, intact) = guarded(path, || {
        let mut database = Builder::new().create_with_backend(copy).map_err(|error| open_error(path, error))?;
        let intact = database.check_integrity().map_err(|error| open_error(path, error))?;
        Ok((database, intact))
    })?;
    let loaded = read(path, &database)?;
    let mut findings = loaded.findings;
    if !intact {
        findings.push("redb's list of free pages is wrong; opening the store repairs it".to_owned());
    }
    Ok(Report {
        path: path.to_owned(),
        bytes,
        format: FORMAT,
        revision: loaded.keyspace.revision,
        keys: loaded.keyspace.entries.len(),
        leases: loaded.keyspace.leases.iter().count(),
        findings,
    })
}

fn copy_into(copy: &InMemoryBackend, path: &Path) -> std::io::Result<u64> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    copy.set_len(length)?;
    let mut chunk = vec![0; 1 << 20];
    let mut offset = 0;
    while offset < length {
        let read = file.read(&mut chunk)?;
        if read == 0 {
            break;
        }
        copy.write(offset, &chunk[..read])?;
        offset += read as u64;
    }
    Ok(length)
}
