//! A transaction being put together from records.

use std::collections::BTreeMap;

use lictor_model::revision::Revision;
use lictor_store::{Compare, MAX_TXN_BYTES, MAX_TXN_OPS, Op, Txn};
use serde::Serialize;

use crate::Error;
use crate::record::encode;
use crate::schema::{Below, Key};

/// Conditions and writes by their keys, so that each key has one of each at most. Of two conditions the first counts
/// (both speak of the time before the transaction), of two writes the last.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    compares: BTreeMap<Vec<u8>, Compare>,
    ops: BTreeMap<Vec<u8>, Op>,
    prefixes: BTreeMap<Vec<u8>, Op>,
}

impl Draft {
    /// Only if the record is still the one last changed at this revision; zero: only if there is none.
    pub(crate) fn expect(&mut self, key: &Key, seen: Revision) -> Result<(), Error> {
        let bytes = key.encode()?;
        let compare = match seen {
            Revision::ZERO => Compare::Absent(bytes.clone().into()),
            seen => Compare::Modified(bytes.clone().into(), lictor_store::Revision(seen.0)),
        };
        self.compares.entry(bytes).or_insert(compare);
        Ok(())
    }

    /// Writes a record.
    pub(crate) fn put<T: Serialize>(&mut self, key: &Key, record: &T) -> Result<(), Error> {
        self.put_bytes(key, encode(key, record)?)
    }

    /// Writes something that is no record.
    pub(crate) fn put_bytes(&mut self, key: &Key, value: Vec<u8>) -> Result<(), Error> {
        let bytes = key.encode()?;
        self.ops.insert(bytes.clone(), Op::Put { key: bytes.into(), value: value.into(), lease: None });
        Ok(())
    }

    /// Deletes a record.
    pub(crate) fn delete(&mut self, key: &Key) -> Result<(), Error> {
        let bytes = key.encode()?;
        self.ops.insert(bytes.clone(), Op::Delete(bytes.into()));
        Ok(())
    }

    /// Deletes all that lies below.
    pub(crate) fn delete_below(&mut self, below: &Below<'_>) -> Result<(), Error> {
        let bytes = below.encode()?;
        self.ops.retain(|key, _| !key.starts_with(&bytes));
        self.prefixes.insert(bytes.clone(), Op::DeletePrefix(bytes.into()));
        Ok(())
    }

    /// Whether nothing would be written.
    pub(crate) fn is_empty(&self) -> bool {
        self.ops.is_empty() && self.prefixes.is_empty()
    }

    /// Whether this many more conditions and writes, and a large value, still find room.
    pub(crate) fn has_room(&self, more: usize) -> bool {
        let bytes: usize =
            self.ops.values().map(size).sum::<usize>() + self.compares.keys().map(Vec::len).sum::<usize>();
        self.compares.len() + more <= MAX_TXN_OPS
            && self.ops.len() + self.prefixes.len() + more <= MAX_TXN_OPS
            && bytes <= MAX_TXN_BYTES / 2
    }

    /// The transaction.
    pub(crate) fn finish(self) -> Txn {
        let Draft { compares, ops, prefixes } = self;
        // What a prefix covers need not be deleted on its own.
        let covered = |key: &[u8]| prefixes.keys().any(|prefix| key.starts_with(prefix));
        let ops: Vec<Op> = ops
            .into_iter()
            .filter(|(key, op)| matches!(op, Op::Put { .. }) || !covered(key))
            .map(|(_, op)| op)
            .collect();
        Txn { compares: compares.into_values().collect(), ops: prefixes.into_values().chain(ops).collect() }
    }
}

fn size(op: &Op) -> usize {
    match op {
        Op::Put { key, value, lease: _ } => key.len() + value.len(),
        Op::Delete(key) | Op::DeletePrefix(key) => key.len(),
    }
}
