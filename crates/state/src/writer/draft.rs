//! A transaction being put together from records.

use bytes::Bytes;
use lictor_model::revision::Revision;
use lictor_store::{Compare, MAX_TXN_BYTES, MAX_TXN_OPS, Op, Txn};
use serde::Serialize;

use crate::Error;
use crate::record::encode;
use crate::schema::{Below, Key};

/// Conditions and writes, each list sorted by key and with one of each key at most. Of two conditions the first counts
/// (both speak of the time before the transaction), of two writes the last.
///
/// A transaction is small, so lists are faster than trees, and they are what the transaction is made of.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    compares: Vec<Compare>,
    ops: Vec<Op>,
    prefixes: Vec<Op>,
}

impl Draft {
    /// Only if the record is still the one last changed at this revision; zero: only if there is none.
    pub(crate) fn expect(&mut self, key: &Key, seen: Revision) -> Result<(), Error> {
        let key = key.encode()?;
        if let Err(place) = self.compares.binary_search_by(|compare| compare.key()[..].cmp(&key)) {
            let compare = match seen {
                Revision::ZERO => Compare::Absent(key.into()),
                seen => Compare::Modified(key.into(), lictor_store::Revision(seen.0)),
            };
            self.compares.insert(place, compare);
        }
        Ok(())
    }

    /// Writes a record.
    pub(crate) fn put<T: Serialize>(&mut self, key: &Key, record: &T) -> Result<(), Error> {
        self.put_bytes(key, encode(key, record)?)
    }

    /// Writes something that is no record.
    pub(crate) fn put_bytes(&mut self, key: &Key, value: Vec<u8>) -> Result<(), Error> {
        place(&mut self.ops, Op::Put { key: key.encode()?.into(), value: value.into(), lease: None });
        Ok(())
    }

    /// Deletes a record.
    pub(crate) fn delete(&mut self, key: &Key) -> Result<(), Error> {
        place(&mut self.ops, Op::Delete(key.encode()?.into()));
        Ok(())
    }

    /// Deletes all that lies below.
    pub(crate) fn delete_below(&mut self, below: &Below<'_>) -> Result<(), Error> {
        let prefix = Bytes::from(below.encode()?);
        self.ops.retain(|op| !op.key().starts_with(&prefix));
        place(&mut self.prefixes, Op::DeletePrefix(prefix));
        Ok(())
    }

    /// Whether nothing would be written.
    pub(crate) fn is_empty(&self) -> bool {
        self.ops.is_empty() && self.prefixes.is_empty()
    }

    /// Whether this many more conditions and writes, and a large value, still find room.
    pub(crate) fn has_room(&self, more: usize) -> bool {
        let conditions = self.compares.iter().map(|compare| compare.key().len());
        let bytes: usize = self.ops.iter().map(size).chain(conditions).sum();
        self.compares.len() + more <= MAX_TXN_OPS
            && self.ops.len() + self.prefixes.len() + more <= MAX_TXN_OPS
            && bytes <= MAX_TXN_BYTES / 2
    }

    /// The transaction.
    pub(crate) fn finish(self) -> Txn {
        let Draft { compares, mut ops, mut prefixes } = self;
        if !prefixes.is_empty() {
            // What a prefix covers need not be deleted on its own.
            let covered = |key: &Bytes| prefixes.iter().any(|prefix| key.starts_with(prefix.key()));
            ops.retain(|op| matches!(op, Op::Put { .. }) || !covered(op.key()));
            prefixes.append(&mut ops);
            ops = prefixes;
        }
        Txn { compares, ops }
    }
}

/// Adds an operation where it belongs, in place of one with its key.
fn place(ops: &mut Vec<Op>, op: Op) {
    match ops.binary_search_by(|other| other.key().cmp(op.key())) {
        Ok(known) => ops[known] = op,
        Err(place) => ops.insert(place, op),
    }
}

fn size(op: &Op) -> usize {
    match op {
        Op::Put { key, value, lease: _ } => key.len() + value.len(),
        Op::Delete(key) | Op::DeletePrefix(key) => key.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_one_condition_and_one_write_in_order() {
        let key = |name: &str| Key::Node(name.into());
        let bytes = |name: &str| Bytes::from(key(name).encode().unwrap());
        let mut draft = Draft::default();
        for name in ["c", "a", "b", "a"] {
            draft.expect(&key(name), if name == "b" { Revision::ZERO } else { Revision(3) }).unwrap();
            draft.put_bytes(&key(name), b"first".to_vec()).unwrap();
        }
        draft.expect(&key("b"), Revision(9)).unwrap();
        draft.put_bytes(&key("b"), b"last".to_vec()).unwrap();
        draft.delete(&key("c")).unwrap();
        let Txn { compares, ops } = draft.finish();
        let seen = lictor_store::Revision(3);
        let conditions =
            [Compare::Modified(bytes("a"), seen), Compare::Absent(bytes("b")), Compare::Modified(bytes("c"), seen)];
        assert_eq!(compares, conditions);
        let put = |name: &str, value: &'static [u8]| Op::Put { key: bytes(name), value: value.into(), lease: None };
        assert_eq!(ops, [put("a", b"first"), put("b", b"last"), Op::Delete(bytes("c"))]);
    }

    #[test]
    fn what_goes_with_all_below_is_not_deleted_on_its_own() {
        let service = |id: &str| Key::Service { node: "n".into(), id: id.into() };
        let mut draft = Draft::default();
        draft.put_bytes(&service("a"), Vec::new()).unwrap();
        draft.delete_below(&Below::Services("n")).unwrap();
        draft.delete_below(&Below::Checks("n")).unwrap();
        draft.delete(&service("b")).unwrap();
        draft.delete(&Key::Node("n".into())).unwrap();
        let prefix = |below: Below<'_>| Op::DeletePrefix(below.encode().unwrap().into());
        let node = Op::Delete(Key::Node("n".into()).encode().unwrap().into());
        assert_eq!(draft.finish().ops, [prefix(Below::Checks("n")), prefix(Below::Services("n")), node]);
    }
}
