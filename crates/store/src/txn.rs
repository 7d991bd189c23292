//! Transactions: conditions and the writes that happen, all or none, when the conditions hold.

use std::collections::BTreeSet;
use std::ops::Bound;

use bytes::Bytes;

use crate::{Error, LeaseId, Revision};

/// The most operations, and the most comparisons, of one transaction: etcd's default (`--max-txn-ops`, 128) less room
/// for what the backend adds of its own, so that a transaction that works here works there.
pub const MAX_TXN_OPS: usize = 125;

/// The most bytes of one transaction, keys and values together: etcd's default request limit of 1.5 MiB, less room
/// for the framing of [`MAX_TXN_OPS`] operations and as many comparisons.
pub const MAX_TXN_BYTES: usize = 1536 * 1024 - 2 * MAX_TXN_OPS * 48;

/// A condition on one key, checked against the state just before the transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The key does not exist.
    Absent(Bytes),
    /// The key exists.
    Exists(Bytes),
    /// The key exists and was last modified at this revision.
    Modified(Bytes, Revision),
}

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Writes the key, attached to `lease`; `None` detaches it from the lease it had.
    ///
    /// It counts as a change even when the value is the same as before.
    Put {
        /// The key; never empty.
        key: Bytes,
        /// The value; may be empty.
        value: Bytes,
        /// A living lease, or none.
        lease: Option<LeaseId>,
    },
    /// Deletes the key; nothing happens when there is none.
    Delete(Bytes),
    /// Deletes every key that begins with this; the empty prefix is every key.
    DeletePrefix(Bytes),
}

/// Conditions and writes that are applied together or not at all.
///
/// A key may be written by one operation only, and a [`Op::DeletePrefix`] must not cover a key that the same
/// transaction puts: what such a pair means differs between engines, so it is refused ([`Error::Overlap`]).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// All must hold, else nothing is written and the outcome is [`Outcome::Conflict`].
    pub compares: Vec<Compare>,
    /// The writes; their events appear in this order in the [`Change`](crate::Change).
    pub ops: Vec<Op>,
}

/// What became of a transaction that was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All operations are applied, visible and, where the backend is durable, on disk.
    ///
    /// A transaction that changes nothing (no operations, or only deletes of what is not there) carries the revision it
    /// was decided at, and a watch sees no event of it. Transactions that were under way together and touch nothing of
    /// each other may have the same revision; their events are then one [`Change`](crate::Change).
    Applied(Revision),
    /// A comparison did not hold at this revision; nothing was written.
    Conflict(Revision),
}

impl Outcome {
    /// The revision, whichever way it went.
    pub fn revision(self) -> Revision {
        match self {
            Outcome::Applied(revision) | Outcome::Conflict(revision) => revision,
        }
    }

    /// Whether the writes happened.
    pub fn is_applied(self) -> bool {
        matches!(self, Outcome::Applied(_))
    }
}

impl Txn {
    /// A transaction without conditions or operations.
    pub fn new() -> Txn {
        Txn::default()
    }

    /// Adds a condition.
    #[must_use]
    pub fn when(mut self, compare: Compare) -> Txn {
        self.compares.push(compare);
        self
    }

    /// Only when the key does not exist.
    #[must_use]
    pub fn when_absent(self, key: impl Into<Bytes>) -> Txn {
        self.when(Compare::Absent(key.into()))
    }

    /// Only when the key exists.
    #[must_use]
    pub fn when_exists(self, key: impl Into<Bytes>) -> Txn {
        self.when(Compare::Exists(key.into()))
    }

    /// Only when the key exists and was last modified at `revision`.
    #[must_use]
    pub fn when_modified(self, key: impl Into<Bytes>, revision: Revision) -> Txn {
        self.when(Compare::Modified(key.into(), revision))
    }

    /// Adds an operation.
    #[must_use]
    pub fn then(mut self, op: Op) -> Txn {
        self.ops.push(op);
        self
    }

    /// Writes a key.
    #[must_use]
    pub fn put(self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Txn {
        self.then(Op::Put { key: key.into(), value: value.into(), lease: None })
    }

    /// Writes a key that the end of `lease` deletes.
    #[must_use]
    pub fn put_leased(self, key: impl Into<Bytes>, value: impl Into<Bytes>, lease: LeaseId) -> Txn {
        self.then(Op::Put { key: key.into(), value: value.into(), lease: Some(lease) })
    }

    /// Deletes a key.
    #[must_use]
    pub fn delete(self, key: impl Into<Bytes>) -> Txn {
        self.then(Op::Delete(key.into()))
    }

    /// Deletes every key that begins with `prefix`.
    #[must_use]
    pub fn delete_prefix(self, prefix: impl Into<Bytes>) -> Txn {
        self.then(Op::DeletePrefix(prefix.into()))
    }

    /// Whether it only deletes.
    pub(crate) fn is_removal(&self) -> bool {
        !self.ops.iter().any(|op| matches!(op, Op::Put { .. }))
    }

    /// The bytes that count against [`MAX_TXN_BYTES`].
    pub fn bytes(&self) -> usize {
        let compares = self.compares.iter().map(|compare| compare.key().len());
        let ops = self.ops.iter().map(|op| match op {
            Op::Put { key, value, lease: _ } => key.len() + value.len(),
            Op::Delete(key) | Op::DeletePrefix(key) => key.len(),
        });
        compares.chain(ops).sum()
    }

    /// Refuses what some backend could not do, before any of them is asked.
    pub(crate) fn check(&self) -> Result<(), Error> {
        for (part, count) in [("comparisons", self.compares.len()), ("operations", self.ops.len())] {
            if count > MAX_TXN_OPS {
                return Err(Error::TooLarge { part, size: count, limit: MAX_TXN_OPS });
            }
        }
        let bytes = self.bytes();
        if bytes > MAX_TXN_BYTES {
            return Err(Error::TooLarge { part: "bytes", size: bytes, limit: MAX_TXN_BYTES });
        }
        if self.compares.iter().any(|compare| compare.key().is_empty()) {
            return Err(Error::EmptyKey);
        }
        if self.ops.iter().any(|op| op.written().is_some_and(Bytes::is_empty)) {
            return Err(Error::EmptyKey);
        }
        if let Some(position) = self.written_again() {
            return Err(Error::Overlap { position });
        }
        if !self.ops.iter().any(|op| matches!(op, Op::DeletePrefix(_))) {
            return Ok(());
        }
        let puts: BTreeSet<&[u8]> = self
            .ops
            .iter()
            .filter_map(|op| match op {
                Op::Put { key, .. } => Some(key.as_ref()),
                Op::Delete(_) | Op::DeletePrefix(_) => None,
            })
            .collect();
        for (position, op) in self.ops.iter().enumerate() {
            let Op::DeletePrefix(prefix) = op else { continue };
            if puts
                .range::<[u8], _>((Bound::Included(prefix.as_ref()), Bound::Unbounded))
                .next()
                .is_some_and(|key| key.starts_with(prefix))
            {
                return Err(Error::Overlap { position });
            }
        }
        Ok(())
    }

    /// The first operation that writes a key which one before it writes.
    fn written_again(&self) -> Option<usize> {
        let written = || self.ops.iter().enumerate().filter_map(|(position, op)| Some((op.written()?, position)));
        // Whoever keeps keys in order has none twice, as is seen at a glance.
        if written().map(|(key, _)| key).is_sorted_by(|earlier, later| earlier < later) {
            return None;
        }
        let mut sorted: Vec<(&Bytes, usize)> = written().collect();
        sorted.sort_unstable();
        sorted.windows(2).filter(|pair| pair[0].0 == pair[1].0).map(|pair| pair[1].1).min()
    }
}

impl Op {
    /// The one key that it writes, if it is one.
    fn written(&self) -> Option<&Bytes> {
        match self {
            Op::Put { key, .. } | Op::Delete(key) => Some(key),
            Op::DeletePrefix(_) => None,
        }
    }

    /// The key it writes, or what all that it deletes begin with.
    pub fn key(&self) -> &Bytes {
        match self {
            Op::Put { key, .. } | Op::Delete(key) | Op::DeletePrefix(key) => key,
        }
    }
}

impl Compare {
    /// The key it speaks of.
    pub fn key(&self) -> &Bytes {
        match self {
            Compare::Absent(key) | Compare::Exists(key) | Compare::Modified(key, _) => key,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_written_twice_is_refused_with_its_position() {
        let twice = Txn::new().put("a", "1").delete("b").put("a", "2");
        assert!(matches!(twice.check(), Err(Error::Overlap { position: 2 })));
        let thrice = Txn::new().put("b", "").put("c", "").put("b", "").delete("a").delete("a").delete("b");
        assert!(matches!(thrice.check(), Err(Error::Overlap { position: 2 })));
        assert!(Txn::new().put("b", "1").delete("a").put("c", "").check().is_ok());
        let covered = Txn::new().delete_prefix("a/").put("a/b", "1");
        assert!(matches!(covered.check(), Err(Error::Overlap { position: 0 })));
        let beside = Txn::new().delete_prefix("a/").put("a", "1").put("a0", "2").delete("a/b").delete_prefix("a/b");
        assert!(beside.check().is_ok());
    }

    #[test]
    fn limits_count_operations_comparisons_and_bytes() {
        let many = (0..=MAX_TXN_OPS).fold(Txn::new(), |txn, n| txn.put(n.to_string(), ""));
        assert!(matches!(many.check(), Err(Error::TooLarge { part: "operations", size: 126, limit: 125 })));
        let wary = (0..=MAX_TXN_OPS).fold(Txn::new(), |txn, n| txn.when_absent(n.to_string()));
        assert!(matches!(wary.check(), Err(Error::TooLarge { part: "comparisons", .. })));
        assert!(Txn::new().put("k", vec![0; MAX_TXN_BYTES - 1]).check().is_ok());
        assert!(matches!(
            Txn::new().put("k", vec![0; MAX_TXN_BYTES]).check(),
            Err(Error::TooLarge { part: "bytes", .. })
        ));
    }

    #[test]
    fn the_empty_key_is_refused_but_the_empty_prefix_is_everything() {
        assert!(matches!(Txn::new().put("", "1").check(), Err(Error::EmptyKey)));
        assert!(matches!(Txn::new().delete("").check(), Err(Error::EmptyKey)));
        assert!(matches!(Txn::new().when_absent("").check(), Err(Error::EmptyKey)));
        assert!(Txn::new().delete_prefix("").check().is_ok());
    }
}
