//! What can go wrong with a store.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::{LeaseId, Revision};

/// Why the store did not do what was asked.
///
/// Cheap to clone, because one failed disk write fails every transaction that shared it. Keys and values never appear
/// in the text: they may be secrets.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The store was closed before or while this was asked. The caller's order of shutdown is wrong.
    #[error("the store is closed")]
    Closed,

    /// The transaction is larger than every backend can take. The caller must split it.
    #[error("transaction of {size} {part} is over the limit of {limit}")]
    TooLarge {
        /// What there is too much of.
        part: &'static str,
        /// How much there is.
        size: usize,
        /// How much there may be.
        limit: usize,
    },

    /// A key of a transaction is empty. The caller's mistake.
    #[error("transaction with an empty key")]
    EmptyKey,

    /// Two operations of one transaction write the same key. The caller's mistake.
    #[error("operation {position} of the transaction writes a key that another of its operations writes")]
    Overlap {
        /// Index of the operation, from zero.
        position: usize,
    },

    /// The lease is not alive: expired, revoked, or never granted. Its keys are gone or about to be.
    #[error("lease {0} is not alive")]
    LeaseLost(LeaseId),

    /// The history a watch was to begin from is gone. Scan again and watch from there.
    #[error("changes up to revision {oldest} are no longer kept")]
    Compacted {
        /// The oldest revision that can still be watched from.
        oldest: Revision,
    },

    /// The watcher read too slowly and changes it has not seen are gone. Scan again and watch from there.
    #[error("watch fell behind: changes up to revision {oldest} are no longer kept")]
    Lagged {
        /// The oldest revision that can still be watched from.
        oldest: Revision,
    },

    /// Another process has the store file.
    #[error("store file {} is in use by {}", path.display(), holder.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}")))]
    InUse {
        /// The store file.
        path: PathBuf,
        /// The process that has it, where it told.
        holder: Option<u32>,
    },

    /// The store file was written by a version of lictor that this one does not know.
    #[error("store file {} has format {found}, this lictor knows format {known}: use the version that wrote it", path.display())]
    Format {
        /// The store file.
        path: PathBuf,
        /// The format it says it has.
        found: u64,
        /// The format this version reads and writes.
        known: u64,
    },

    /// The file is not a store of ours.
    #[error("{} is not a lictor store: {detail}", path.display())]
    NotAStore {
        /// The file.
        path: PathBuf,
        /// What is missing or strange.
        detail: String,
    },

    /// The store file contradicts itself.
    #[error("store file {} is damaged: {detail}; restore it from a backup", path.display())]
    Damaged {
        /// The store file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },

    /// The store file could not be opened, created, read or locked.
    #[error("cannot {operation} {}", path.display())]
    File {
        /// What was tried: a verb and what kind of file.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },

    /// A write did not reach the disk; it is not applied. Reads go on, and writes work again as soon as the disk does.
    ///
    /// Only when the file could not even be read back after the failure is it open what became of the write; it is then
    /// found out, and shown whole if it is there, before the next write.
    #[error("cannot write to store file {}: {}", path.display(), remedy(source))]
    Write {
        /// The store file.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },

    /// The thread that writes the store file is gone, which only a defect of ours can cause. Restart the agent.
    #[error("the writer of store file {} stopped unexpectedly: restart the agent", path.display())]
    Stopped {
        /// The store file.
        path: PathBuf,
    },

    /// An address of etcd, or what the connection needs, is not usable.
    #[error("cannot use etcd endpoint {endpoint}: {detail}")]
    Endpoint {
        /// The address.
        endpoint: String,
        /// What is wrong with it.
        detail: String,
    },

    /// No member of etcd answered for a while. Nothing was applied.
    #[error("no etcd answers at {endpoints}: {detail}")]
    Unreachable {
        /// The addresses.
        endpoints: String,
        /// What happened last.
        detail: String,
    },

    /// Etcd stopped answering in the middle of a write, which may have happened or may still happen. Look before doing
    /// it again.
    #[error("etcd did not say whether it wrote: {detail}")]
    Open {
        /// What happened last.
        detail: String,
    },

    /// Etcd says no.
    #[error("etcd refuses to {operation}: {detail}")]
    Refused {
        /// What was asked for.
        operation: &'static str,
        /// What it said.
        detail: String,
    },

    /// A thread could not be started.
    #[error("cannot start the {name} thread")]
    Thread {
        /// What the thread is for.
        name: &'static str,
        /// What the system said.
        source: Arc<io::Error>,
    },
}

impl Error {
    /// Whether the same request may succeed later without anything about it being changed.
    pub fn is_retriable(&self) -> bool {
        match self {
            Error::Write { .. } | Error::Thread { .. } | Error::Unreachable { .. } => true,
            Error::Closed
            | Error::TooLarge { .. }
            | Error::EmptyKey
            | Error::Overlap { .. }
            | Error::LeaseLost(_)
            | Error::Compacted { .. }
            | Error::Lagged { .. }
            | Error::InUse { .. }
            | Error::Format { .. }
            | Error::NotAStore { .. }
            | Error::Damaged { .. }
            | Error::File { .. }
            | Error::Endpoint { .. }
            | Error::Open { .. }
            | Error::Refused { .. }
            | Error::Stopped { .. } => false,
        }
    }
}

/// What an operator can do about a failed write, by its cause.
fn remedy(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::StorageFull => "the disk is full; free some space, writes then go on by themselves",
        io::ErrorKind::QuotaExceeded => "the disk quota is used up; raise it or free some space, writes then go on",
        io::ErrorKind::FileTooLarge => "the file may not grow further; raise the file size limit and restart the agent",
        io::ErrorKind::ReadOnlyFilesystem => "the file system became read-only; check the disk and the kernel log",
        _ => "the disk failed; check it and the kernel log, each further write tries again",
    }
}
