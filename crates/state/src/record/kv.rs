//! An entry of the key-value store on disk: a line of JSON, then the value as it is.

use bytes::Bytes;
use lictor_model::revision::Revision;
use serde::{Deserialize, Serialize};

use super::{Created, decode, encode, is_default};
use crate::Error;
use crate::reader::KvRow;
use crate::schema::Key;

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct KvHeader {
    #[serde(default, skip_serializing_if = "is_default")]
    flags: u64,
    #[serde(default, skip_serializing_if = "is_default")]
    lock_index: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    session: Option<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    created: Created,
}

/// Until when a key cannot be locked.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LockDelayRecord {
    /// Nanoseconds since the Unix epoch.
    pub(crate) until: i64,
}

/// The bytes of an entry; its own revisions are not looked at.
pub(crate) fn encode_kv(key: &Key, row: &KvRow, created: Created) -> Result<Vec<u8>, Error> {
    let KvRow { key: _, value, flags, lock_index, session, created: _, modified: _ } = row;
    let session = session.as_deref().map(str::to_owned);
    let mut bytes = encode(key, &KvHeader { flags: *flags, lock_index: *lock_index, session, created })?;
    bytes.push(b'\n');
    bytes.extend_from_slice(value);
    Ok(bytes)
}

/// Shares the value with the store instead of copying it.
pub(crate) fn decode_kv(key: &Key, name: &str, bytes: &Bytes, modified: Revision) -> Result<KvRow, Error> {
    // Text inside JSON has no raw line feed, so the first one ends the header.
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let KvHeader { flags, lock_index, session, created } = decode(key, &bytes[..end])?;
    Ok(KvRow {
        key: name.into(),
        value: bytes.slice((end + 1).min(bytes.len())..),
        flags,
        lock_index,
        session: session.map(Into::into),
        created: created.or(modified),
        modified,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_on_the_way_to_the_disk_and_back() {
        for value in [&b""[..], b"\n", b"a\n{}\n\xff"] {
            let row = KvRow {
                key: "k".into(),
                value: Bytes::copy_from_slice(value),
                flags: u64::MAX,
                lock_index: 2,
                session: Some("line\nfeed".into()),
                created: Revision(3),
                modified: Revision(9),
            };
            let key = Key::Kv("k".into());
            let bytes = encode_kv(&key, &row, Created::at(row.created)).unwrap();
            assert_eq!(decode_kv(&key, "k", &bytes.into(), row.modified).unwrap(), row);
        }
    }
}
