//! The form of a journal row: the keys one durable write changed, as they were after it.
//!
//! For each key: its length, the key, a byte that says whether it is there, and if so created, modified, lease (0: none),
//! the value's length and the value. Numbers are little-endian.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes};

use crate::{Entry, LeaseId, Revision};

/// Keys and what became of them; `None` is deleted.
pub(crate) type Touched = BTreeMap<Bytes, Option<Entry>>;

const DELETED: u8 = 0;
const PRESENT: u8 = 1;

/// What a key costs beside its own bytes and the value's.
const OVERHEAD: usize = 4 + 1 + 3 * 8 + 4;

/// About how long the row will be.
pub(crate) fn length(touched: &Touched) -> usize {
    touched.iter().map(|(key, entry)| OVERHEAD + key.len() + entry.as_ref().map_or(0, |entry| entry.value.len())).sum()
}

/// The row for these keys; `None` when a key or value is longer than the form can say (4 GiB).
pub(crate) fn encode(touched: &Touched) -> Option<Vec<u8>> {
    let mut row = Vec::with_capacity(length(touched));
    for (key, entry) in touched {
        put_bytes(&mut row, key)?;
        let Some(entry) = entry else {
            row.put_u8(DELETED);
            continue;
        };
        row.put_u8(PRESENT);
        row.put_u64_le(entry.created.0);
        row.put_u64_le(entry.modified.0);
        row.put_u64_le(entry.lease.map_or(0, LeaseId::get));
        put_bytes(&mut row, &entry.value)?;
    }
    Some(row)
}

/// Adds the keys of a row to `touched`, over what is there; `None` when it is not a row.
pub(crate) fn replay(mut row: &[u8], touched: &mut Touched) -> Option<()> {
    while row.has_remaining() {
        let key = take_bytes(&mut row)?;
        let entry = match row.try_get_u8().ok()? {
            DELETED => None,
            PRESENT => {
                let created = Revision(row.try_get_u64_le().ok()?);
                let modified = Revision(row.try_get_u64_le().ok()?);
                let lease = LeaseId::new(row.try_get_u64_le().ok()?);
                let value = take_bytes(&mut row)?;
                Some(Entry { key: key.clone(), value, created, modified, lease })
            }
            _ => return None,
        };
        touched.insert(key, entry);
    }
    Some(())
}

fn put_bytes(row: &mut Vec<u8>, bytes: &[u8]) -> Option<()> {
    row.put_u32_le(u32::try_from(bytes.len()).ok()?);
    row.put_slice(bytes);
    Some(())
}

fn take_bytes(row: &mut &[u8]) -> Option<Bytes> {
    let length = usize::try_from(row.try_get_u32_le().ok()?).ok()?;
    let (bytes, rest) = row.split_at_checked(length)?;
    *row = rest;
    Some(Bytes::copy_from_slice(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Touched {
        let entry = |key: &'static [u8], value: &'static [u8], lease| Entry {
            key: Bytes::from_static(key),
            value: Bytes::from_static(value),
            created: Revision(3),
            modified: Revision(u64::MAX),
            lease: LeaseId::new(lease),
        };
        [entry(b"a", b"", 0), entry(b"\0\xff", b"value", 9)]
            .into_iter()
            .map(|entry| (entry.key.clone(), Some(entry)))
            .chain([(Bytes::from_static(b"gone"), None)])
            .collect()
    }

    #[test]
    fn a_row_says_what_was_written_and_deleted() {
        let mut read = Touched::new();
        replay(&encode(&sample()).unwrap(), &mut read).unwrap();
        assert_eq!(read, sample());
    }

    #[test]
    fn a_row_that_is_cut_short_or_altered_never_panics() {
        let row = encode(&sample()).unwrap();
        for length in 1..row.len() {
            let whole_keys = replay(&row[..length], &mut Touched::new()).is_some();
            assert!(!whole_keys || length < row.len());
        }
        for position in 0..row.len() {
            for value in [0, 1, 2, 0x7f, 0xff] {
                let mut altered = row.clone();
                altered[position] = value;
                let _ = replay(&altered, &mut Touched::new());
            }
        }
        assert!(replay(&row[..row.len() - 1], &mut Touched::new()).is_none());
    }
}
