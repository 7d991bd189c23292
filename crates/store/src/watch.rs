//! Watches: the changes below a prefix after a revision, in order, none missed and none repeated.

use bytes::Bytes;

use crate::store::Boxed;
use crate::{Entry, Error, Revision};

/// All that one revision changed below the watched prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The revision.
    pub revision: Revision,
    /// What it did, in the order of the transaction's operations. Empty only where the numbering is shared with others:
    /// then it says that nothing below the prefix changed up to this revision.
    pub events: Vec<Event>,
}

/// What happened to one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The key was written; the entry as it is now.
    Put(Entry),
    /// The key was deleted.
    Deleted {
        /// The key that was.
        key: Bytes,
    },
}

impl Event {
    /// The key it happened to.
    pub fn key(&self) -> &Bytes {
        match self {
            Event::Put(entry) => &entry.key,
            Event::Deleted { key } => key,
        }
    }
}

/// Where a backend's watch takes its changes from.
pub(crate) trait Changes: Send {
    /// See [`Watch::next`].
    fn next(&mut self) -> Boxed<'_, Option<Result<Change, Error>>>;
}

/// The receiving end of a watch. Dropping it ends the watch.
pub struct Watch {
    changes: Box<dyn Changes>,
}

impl Watch {
    pub(crate) fn new(changes: impl Changes + 'static) -> Watch {
        Watch { changes: Box::new(changes) }
    }

    /// Waits for the next change; `None` when the store was closed and everything before that was seen.
    ///
    /// A watcher costs the store nothing while it does not read: the kept history is the only queue. One that falls
    /// further behind than that gets [`Error::Lagged`] once and then `None`; it must scan again and watch from there.
    ///
    /// Cancel safe: a change is either returned or still to come.
    pub async fn next(&mut self) -> Option<Result<Change, Error>> {
        self.changes.next().await
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}
