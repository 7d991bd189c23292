//! Decides transactions against a state without changing it, so that the result can be made durable first.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::keyspace::Keyspace;
use crate::lease::LONGEST_TTL;
use crate::{Change, Compare, Entry, Error, Event, LeaseId, Op, Outcome, Revision, Txn};

/// Transactions being decided one after the other, each seeing those before it.
pub(crate) struct Batch<'a> {
    base: &'a Keyspace,
    staged: Staged,
}

/// What a batch comes to: all that must be made durable, and then visible, together.
pub(crate) struct Staged {
    /// The revision after the batch.
    pub(crate) revision: Revision,
    /// The keys that differ from before, as they are after the batch; `None` is deleted.
    pub(crate) touched: BTreeMap<Bytes, Option<Entry>>,
    /// One per revision, in order.
    pub(crate) changes: Vec<Change>,
    /// The leases begun, with their time to live.
    pub(crate) granted: BTreeMap<LeaseId, Duration>,
    /// The leases ended.
    pub(crate) ended: BTreeSet<LeaseId>,
    /// The number of the lease granted last.
    pub(crate) last_lease: u64,
}

impl Staged {
    /// Whether there is nothing to write and nothing to show.
    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.granted.is_empty() && self.ended.is_empty()
    }
}

impl<'a> Batch<'a> {
    pub(crate) fn new(base: &'a Keyspace) -> Batch<'a> {
        let staged = Staged {
            revision: base.revision,
            touched: BTreeMap::new(),
            changes: Vec::new(),
            granted: BTreeMap::new(),
            ended: BTreeSet::new(),
            last_lease: base.last_lease,
        };
        Batch { base, staged }
    }

    pub(crate) fn finish(self) -> Staged {
        self.staged
    }

    /// Decides one transaction. An error leaves the batch as it was.
    pub(crate) fn commit(&mut self, txn: Txn) -> Result<Outcome, Error> {
        if !txn.compares.iter().all(|compare| self.holds(compare)) {
            return Ok(Outcome::Conflict(self.staged.revision));
        }
        for op in &txn.ops {
            if let Op::Put { lease: Some(id), .. } = op
                && !self.is_alive(*id)
            {
                return Err(Error::LeaseLost(*id));
            }
        }
        let revision = self.staged.revision.next();
        let mut events = Vec::with_capacity(txn.ops.len());
        for op in txn.ops {
            match op {
                Op::Put { key, value, lease } => {
                    let now = || self.base.entries.get(&key).cloned();
                    let slot = self.staged.touched.entry(key.clone()).or_insert_with(now);
                    let created = slot.as_ref().map_or(revision, |before| before.created);
                    let entry = Entry { key, value, created, modified: revision, lease };
                    events.push(Event::Put(entry.clone()));
                    *slot = Some(entry);
                }
                Op::Delete(key) => self.delete(key, &mut events),
                Op::DeletePrefix(prefix) => {
                    for key in self.keys_below(&prefix) {
                        self.delete(key, &mut events);
                    }
                }
            }
        }
        self.record(revision, events);
        Ok(Outcome::Applied(self.staged.revision))
    }

    /// Begins a lease.
    pub(crate) fn grant(&mut self, ttl: Duration) -> LeaseId {
        self.staged.last_lease += 1;
        // The count begins at zero and only grows, so it is never zero here.
        let id = LeaseId::new(self.staged.last_lease).unwrap_or(LeaseId(std::num::NonZeroU64::MAX));
        self.staged.granted.insert(id, ttl.min(LONGEST_TTL));
        id
    }

    /// Ends a lease and deletes its keys in one revision.
    pub(crate) fn end_lease(&mut self, id: LeaseId) -> Result<(), Error> {
        if !self.is_alive(id) {
            return Err(Error::LeaseLost(id));
        }
        let before: Vec<Bytes> = self.base.leases.keys(id).cloned().collect();
        let staged = self.staged.touched.keys().cloned();
        let keys: BTreeSet<Bytes> = before
            .into_iter()
            .chain(staged)
            .filter(|key| self.get(key).is_some_and(|entry| entry.lease == Some(id)))
            .collect();
        let mut events = Vec::with_capacity(keys.len());
        for key in keys {
            self.delete(key, &mut events);
        }
        self.record(self.staged.revision.next(), events);
        if self.staged.granted.remove(&id).is_none() {
            self.staged.ended.insert(id);
        }
        Ok(())
    }

    /// Ends the leases whose time is up, each in a revision of its own.
    ///
    /// A lease that is due stays due: it cannot be kept alive between this and the moment the batch is applied.
    pub(crate) fn expire(&mut self, now: Instant) {
        for id in self.base.leases.due(now) {
            // One that this batch has ended already is not alive, and that is all that can be wrong.
            let _ = self.end_lease(id);
        }
    }

    fn record(&mut self, revision: Revision, events: Vec<Event>) {
        if !events.is_empty() {
            self.staged.revision = revision;
            self.staged.changes.push(Change { revision, events });
        }
    }

    fn delete(&mut self, key: Bytes, events: &mut Vec<Event>) {
        if self.get(&key).is_some() {
            self.staged.touched.insert(key.clone(), None);
            events.push(Event::Deleted { key });
        }
    }

    fn holds(&self, compare: &Compare) -> bool {
        let entry = self.get(compare.key());
        match compare {
            Compare::Absent(_) => entry.is_none(),
            Compare::Exists(_) => entry.is_some(),
            Compare::Modified(_, revision) => entry.is_some_and(|entry| entry.modified == *revision),
        }
    }

    fn get(&self, key: &[u8]) -> Option<&Entry> {
        match self.staged.touched.get(key) {
            Some(entry) => entry.as_ref(),
            None => self.base.entries.get(key),
        }
    }

    fn keys_below(&self, prefix: &[u8]) -> BTreeSet<Bytes> {
        let staged = self
            .staged
            .touched
            .range::<[u8], _>((Bound::Included(prefix), Bound::Unbounded))
            .map(|(key, _)| key)
            .take_while(|key| key.starts_with(prefix));
        self.base.below(prefix).map(|entry| &entry.key).chain(staged).cloned().collect()
    }

    fn is_alive(&self, id: LeaseId) -> bool {
        self.staged.granted.contains_key(&id) || (self.base.leases.contains(id) && !self.staged.ended.contains(&id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_sees_those_before_it_in_the_batch() {
        let base = Keyspace::empty();
        let mut batch = Batch::new(&base);
        assert_eq!(batch.commit(Txn::new().put("a", "1")).unwrap(), Outcome::Applied(Revision(1)));
        assert_eq!(batch.commit(Txn::new().when_absent("a").put("a", "2")).unwrap(), Outcome::Conflict(Revision(1)));
        assert_eq!(batch.commit(Txn::new().delete_prefix("a")).unwrap(), Outcome::Applied(Revision(2)));
        assert_eq!(batch.commit(Txn::new().when_absent("a").put("a", "3")).unwrap(), Outcome::Applied(Revision(3)));
        let staged = batch.finish();
        assert_eq!(staged.changes.len(), 3);
        assert_eq!(staged.touched.len(), 1, "a key written again in a batch is written to the disk once");
        assert_eq!(staged.touched[b"a".as_slice()].as_ref().unwrap().created, Revision(3));
    }

    #[test]
    fn a_transaction_refused_for_its_lease_leaves_no_trace() {
        let base = Keyspace::empty();
        let mut batch = Batch::new(&base);
        let gone = LeaseId::new(7).unwrap();
        let refused = batch.commit(Txn::new().put("a", "1").put_leased("b", "2", gone));
        assert!(matches!(refused, Err(Error::LeaseLost(id)) if id == gone));
        assert!(batch.finish().is_empty());
    }

    #[test]
    fn ending_a_lease_spares_the_keys_that_left_it_in_the_same_batch() {
        let mut base = Keyspace::empty();
        let mut batch = Batch::new(&base);
        let lease = batch.grant(Duration::from_secs(1));
        for key in ["a", "b", "c"] {
            batch.commit(Txn::new().put_leased(key, "", lease)).unwrap();
        }
        let staged = batch.finish();
        base.apply(staged, Instant::now());

        let mut batch = Batch::new(&base);
        batch.commit(Txn::new().put("a", "detached").delete("b")).unwrap();
        batch.commit(Txn::new().put_leased("d", "", lease)).unwrap();
        batch.end_lease(lease).unwrap();
        assert!(matches!(batch.end_lease(lease), Err(Error::LeaseLost(_))));
        let staged = batch.finish();
        let deleted: Vec<_> = staged.changes.last().unwrap().events.iter().map(|event| event.key().clone()).collect();
        assert_eq!(deleted, ["c", "d"]);
        base.apply(staged, Instant::now());
        assert_eq!(base.entries.keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!(base.leases.next_deadline(), None);
    }

    #[test]
    fn a_batch_that_changes_nothing_is_empty() {
        let base = Keyspace::empty();
        let mut batch = Batch::new(&base);
        assert_eq!(batch.commit(Txn::new().delete("a").delete_prefix("")).unwrap(), Outcome::Applied(Revision::ZERO));
        assert!(batch.finish().is_empty());
    }
}
