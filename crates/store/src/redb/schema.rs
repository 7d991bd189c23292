//! What the store file holds, table by table, and how it is read and written.
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | `entries` | key | created, modified, lease (0: none), value |
//! | `journal` | number of the durable write | the keys it changed, see [`journal`] |
//! | `leases` | lease | time to live in milliseconds |
//! | `meta` | `format`, `revision`, `commit`, `last_lease` | number |
//!
//! What a key is now stands in the newest journal row that has it, else in `entries`. Writing into `entries` at once would
//! dirty a page for nearly every key of a batch, in all corners of the file; the journal takes a batch in one piece and
//! is folded into `entries` now and then, which writes a key that changed often only once.

use std::fmt;
use std::time::{Duration, Instant};

use ::redb::{
    Database, ReadTransaction, ReadableDatabase, ReadableTable, StorageError, TableDefinition, TableError,
    WriteTransaction,
};
use bytes::Bytes;

use crate::batch::Staged;
use crate::history::History;
use crate::keyspace::{Image, Keyspace};
use crate::lease::Leases;
use crate::redb::journal::{self, Touched};
use crate::{Entry, LeaseId, Revision, Sorted};

type Row<'a> = (u64, u64, u64, &'a [u8]);

const ENTRIES: TableDefinition<'_, &[u8], Row<'_>> = TableDefinition::new("entries");
const JOURNAL: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("journal");
const LEASES: TableDefinition<'_, u64, u64> = TableDefinition::new("leases");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// The format this version writes and reads.
pub(crate) const FORMAT: u64 = 1;

/// What a file says.
pub(crate) struct Loaded {
    pub(crate) keyspace: Keyspace,
    /// How many durable writes made it; tells whether a write whose end was not seen is in it.
    pub(crate) commit: u64,
    /// What is in the journal and not yet in `entries`.
    pub(crate) unfolded: Touched,
    /// Where the file contradicts itself, in words. Never on an intact file.
    pub(crate) findings: Vec<String>,
}

/// Why a file could not be read.
#[derive(Debug)]
pub(crate) enum Unreadable {
    /// Not one of ours.
    Foreign(String),
    /// One of ours, of another format.
    Format(u64),
    /// redb failed.
    Redb(Box<::redb::Error>),
}

impl<E: Into<::redb::Error>> From<E> for Unreadable {
    fn from(error: E) -> Unreadable {
        Unreadable::Redb(Box::new(error.into()))
    }
}

/// How a redb transaction failed; boxed because redb's own error is large.
#[derive(Debug)]
pub(crate) struct Failed(pub(crate) Box<::redb::Error>);

impl<E: Into<::redb::Error>> From<E> for Failed {
    fn from(error: E) -> Failed {
        Failed(Box::new(error.into()))
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Reads everything.
pub(crate) fn load(database: &Database) -> Result<Loaded, Unreadable> {
    let transaction = database.begin_read()?;
    let meta = Meta::load(&transaction)?;
    let mut loaded = Loaded {
        keyspace: Keyspace {
            revision: meta.revision,
            entries: Sorted::default(),
            leases: Leases::default(),
            history: History::new(meta.revision),
            last_lease: meta.last_lease,
        },
        commit: meta.commit,
        unfolded: Touched::new(),
        findings: Vec::new(),
    };
    match load_journal(&transaction)? {
        Some(unfolded) => loaded.unfolded = unfolded,
        None => loaded.findings.push("a journal row cannot be understood".to_owned()),
    }
    let now = Instant::now();
    for row in transaction.open_table(LEASES)?.iter()? {
        let (id, ttl) = row?;
        loaded.lease(id.value(), Duration::from_millis(ttl.value()), now);
    }
    for row in transaction.open_table(ENTRIES)?.iter()? {
        let (key, row) = row?;
        if !loaded.unfolded.contains_key(key.value()) {
            loaded.entry(entry(key.value(), row.value()));
        }
    }
    for entry in loaded.unfolded.clone().into_values().flatten() {
        loaded.entry(entry);
    }
    Ok(loaded)
}

/// Reads only how many durable writes there were, and the journal; `None` for one that cannot be understood.
pub(crate) fn load_recent(database: &Database) -> Result<(u64, Option<Touched>), Unreadable> {
    let transaction = database.begin_read()?;
    Ok((Meta::load(&transaction)?.commit, load_journal(&transaction)?))
}

fn load_journal(transaction: &ReadTransaction) -> Result<Option<Touched>, Unreadable> {
    let journal = match transaction.open_table(JOURNAL) {
        Ok(journal) => journal,
        // Folding removes the table with its rows.
        Err(TableError::TableDoesNotExist(_)) => return Ok(Some(Touched::new())),
        Err(error) => return Err(error.into()),
    };
    let mut touched = Touched::new();
    for row in journal.iter()? {
        let (_, row) = row?;
        if journal::replay(row.value(), &mut touched).is_none() {
            return Ok(None);
        }
    }
    Ok(Some(touched))
}

struct Meta {
    revision: Revision,
    commit: u64,
    last_lease: u64,
}

impl Meta {
    fn load(transaction: &ReadTransaction) -> Result<Meta, Unreadable> {
        let meta = match transaction.open_table(META) {
            Ok(meta) => meta,
            Err(TableError::TableDoesNotExist(_)) => {
                return Err(Unreadable::Foreign("it has no meta table".to_owned()));
            }
            Err(TableError::Storage(error)) => return Err(error.into()),
            Err(other) => return Err(Unreadable::Foreign(other.to_string())),
        };
        let number = |name: &str| -> Result<u64, Unreadable> {
            match meta.get(name)? {
                Some(value) => Ok(value.value()),
                None => Err(Unreadable::Foreign(format!("its meta table has no {name}"))),
            }
        };
        let format = number("format")?;
        if format != FORMAT {
            return Err(Unreadable::Format(format));
        }
        Ok(Meta {
            revision: Revision(number("revision")?),
            commit: number("commit")?,
            last_lease: number("last_lease")?,
        })
    }
}

impl Loaded {
    fn lease(&mut self, number: u64, ttl: Duration, now: Instant) {
        match LeaseId::new(number) {
            Some(id) if number <= self.keyspace.last_lease => self.keyspace.leases.grant(id, ttl, now),
            _ => self.findings.push(format!("lease {number} was never granted")),
        }
    }

    fn entry(&mut self, entry: Entry) {
        let revision = self.keyspace.revision;
        // Counted, not shown: a key may be a secret.
        let position = self.keyspace.entries.len() + 1;
        if entry.key.is_empty() {
            self.findings.push(format!("the key of entry {position} is empty"));
        }
        let Entry { created, modified, .. } = entry;
        if created == Revision::ZERO || created > modified || modified > revision {
            self.findings.push(format!(
                "entry {position} was created at revision {created} and modified at {modified}, the store is at {revision}"
            ));
        }
        if let Some(id) = entry.lease
            && !self.keyspace.leases.contains(id)
        {
            self.findings.push(format!("entry {position} hangs on lease {id}, which there is not"));
        }
        self.keyspace.place(entry.key.clone(), Some(entry));
    }
}

fn entry(key: &[u8], (created, modified, lease, value): Row<'_>) -> Entry {
    Entry {
        key: Bytes::copy_from_slice(key),
        value: Bytes::copy_from_slice(value),
        created: Revision(created),
        modified: Revision(modified),
        lease: LeaseId::new(lease),
    }
}

/// Where the keys of a batch go.
pub(crate) enum Target<'a> {
    /// A new journal row.
    Journal,
    /// `entries`, together with all that the journal holds, which is empty then.
    Entries(&'a Touched),
}

/// Writes what a batch comes to, as durable write number `commit`.
///
/// One phase, one `fsync`: redb finds out by checksums which of its two roots is whole. Its second phase would protect
/// against somebody who forges a checksum in the values, orders the disk's writes and cuts the power; not worth
/// twice the time of every write.
pub(crate) fn append(database: &Database, staged: &Staged, commit: u64, target: &Target<'_>) -> Result<(), Failed> {
    let transaction = database.begin_write()?;
    {
        match target {
            // A batch of leases only needs no row.
            Target::Journal if staged.touched.is_empty() => {}
            Target::Journal => {
                let row = journal::encode(&staged.touched).ok_or(StorageError::ValueTooLarge(usize::MAX))?;
                transaction.open_table(JOURNAL)?.insert(commit, row.as_slice())?;
            }
            Target::Entries(unfolded) => {
                let mut entries = transaction.open_table(ENTRIES)?;
                let older = unfolded.iter().filter(|(key, _)| !staged.touched.contains_key(*key));
                for (key, entry) in older.chain(&staged.touched) {
                    match entry {
                        Some(entry) => entries.insert(key.as_ref(), row(entry))?,
                        None => entries.remove(key.as_ref())?,
                    };
                }
                transaction.delete_table(JOURNAL)?;
            }
        }
        if !staged.granted.is_empty() || !staged.ended.is_empty() {
            let mut leases = transaction.open_table(LEASES)?;
            for (id, ttl) in &staged.granted {
                leases.insert(id.get(), milliseconds(*ttl))?;
            }
            for id in &staged.ended {
                leases.remove(id.get())?;
            }
        }
    }
    write_meta(&transaction, staged.revision, commit, staged.last_lease)?;
    transaction.commit()?;
    Ok(())
}

/// Writes a whole state into an empty database, as durable write number `commit`.
pub(crate) fn write_all(database: &Database, image: &Image, commit: u64) -> Result<(), Failed> {
    let transaction = database.begin_write()?;
    {
        let mut entries = transaction.open_table(ENTRIES)?;
        for (key, entry) in image.entries.iter() {
            entries.insert(key.as_ref(), row(entry))?;
        }
        let mut leases = transaction.open_table(LEASES)?;
        for (id, ttl) in &image.leases {
            leases.insert(id.get(), milliseconds(*ttl))?;
        }
        transaction.open_table(META)?.insert("format", FORMAT)?;
    }
    write_meta(&transaction, image.revision, commit, image.last_lease)?;
    transaction.commit()?;
    Ok(())
}

/// Sees to it that what the database shows now is on the disk.
pub(crate) fn settle(database: &Database) -> Result<(), Failed> {
    Ok(database.begin_write()?.commit()?)
}

fn write_meta(transaction: &WriteTransaction, revision: Revision, commit: u64, last_lease: u64) -> Result<(), Failed> {
    let mut meta = transaction.open_table(META)?;
    for (name, number) in [("revision", revision.0), ("commit", commit), ("last_lease", last_lease)] {
        meta.insert(name, number)?;
    }
    Ok(())
}

fn row(entry: &Entry) -> Row<'_> {
    (entry.created.0, entry.modified.0, entry.lease.map_or(0, LeaseId::get), entry.value.as_ref())
}

/// Rounded up, so that a lease is never shorter after a restart; bounded by [`LONGEST_TTL`](crate::lease::LONGEST_TTL).
fn milliseconds(ttl: Duration) -> u64 {
    u64::try_from(ttl.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}
