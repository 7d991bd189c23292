//! The state of an embedded store: entries, leases, and the history that led to them.

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::batch::Staged;
use crate::history::History;
use crate::lease::Leases;
use crate::{Entry, LeaseId, Revision, Sorted};

/// Everything an embedded store knows, as of one revision. Pure: no IO and no clock.
pub(crate) struct Keyspace {
    pub(crate) revision: Revision,
    pub(crate) entries: Sorted<Bytes, Entry>,
    pub(crate) leases: Leases,
    pub(crate) history: History,
    /// The number of the lease granted last.
    pub(crate) last_lease: u64,
}

/// What of a state is worth keeping, apart from it.
pub(crate) struct Image {
    pub(crate) revision: Revision,
    pub(crate) entries: Sorted<Bytes, Entry>,
    pub(crate) leases: Vec<(LeaseId, Duration)>,
    pub(crate) last_lease: u64,
}

impl Keyspace {
    /// A picture to be written somewhere, so that nobody has to wait for that. Keys and values are shared, not copied.
    pub(crate) fn image(&self) -> Image {
        Image {
            revision: self.revision,
            entries: self.entries.clone(),
            leases: self.leases.iter().collect(),
            last_lease: self.last_lease,
        }
    }

    /// Nothing, before the first revision.
    pub(crate) fn empty() -> Keyspace {
        Keyspace {
            revision: Revision::ZERO,
            entries: Sorted::default(),
            leases: Leases::default(),
            history: History::new(Revision::ZERO),
            last_lease: 0,
        }
    }

    /// The entries below a prefix, sorted by key.
    pub(crate) fn below<'a>(&'a self, prefix: &'a [u8]) -> impl Iterator<Item = &'a Entry> {
        self.entries.starting_at(prefix).map(|(_, entry)| entry).take_while(move |entry| entry.key.starts_with(prefix))
    }

    /// Makes the outcome of a batch the state.
    pub(crate) fn apply(&mut self, staged: Staged, now: Instant) {
        let Staged { revision, touched, changes, granted, ended, last_lease } = staged;
        self.revision = revision;
        self.last_lease = last_lease;
        for (id, ttl) in granted {
            self.leases.grant(id, ttl, now);
        }
        for (key, entry) in touched {
            self.place(key, entry);
        }
        for id in ended {
            self.leases.end(id);
        }
        for change in changes {
            self.history.push(change);
        }
    }

    /// Sets or removes one entry and keeps the leases' lists of keys in step.
    pub(crate) fn place(&mut self, key: Bytes, entry: Option<Entry>) {
        let lease = entry.as_ref().and_then(|entry| entry.lease);
        let before = match entry {
            Some(entry) => self.entries.insert(key.clone(), entry),
            None => self.entries.remove(&key),
        };
        if let Some(id) = before.and_then(|before| before.lease)
            && lease != Some(id)
        {
            self.leases.detach(id, &key);
        }
        if let Some(id) = lease {
            self.leases.attach(id, key);
        }
    }
}
