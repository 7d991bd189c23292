//! Reading the key-value store.

use std::sync::Arc;

use bytes::Bytes;
use lictor_model::acl::{Access, Resource};
use lictor_model::revision::Revision;

use super::Reader;
use crate::Error;
use crate::answer::{Answer, Topic};

/// An entry of the key-value store as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvRow {
    /// Its key.
    pub key: Arc<str>,
    /// Its value; shared, not copied.
    pub value: Bytes,
    /// For the user.
    pub flags: u64,
    /// How many times it was locked.
    pub lock_index: u64,
    /// The session that holds it, folded.
    pub session: Option<Arc<str>>,
    /// First written.
    pub created: Revision,
    /// Last changed.
    pub modified: Revision,
}

impl Reader {
    /// One entry. `Err(Denied)` when the caller may not read the key, whether it exists or not.
    pub fn kv(&self, key: &str) -> Result<Answer<Option<Arc<KvRow>>>, Error> {
        if !self.sees_key(key) {
            return Err(Error::Denied);
        }
        Ok(self.answer(vec![Topic::Key(key.into())], |tables| tables.kv.get(key).map(Arc::clone)))
    }

    /// When anything in the store last changed.
    pub fn kv_index(&self) -> Revision {
        self.answer(vec![Topic::KeyPrefix("".into())], |_| ()).index
    }

    /// The index of what was never there.
    pub fn kv_floor(&self) -> Revision {
        self.replica.tables().kv.floor()
    }

    /// All entries whose keys begin so, in the order of their keys.
    pub fn kv_below(&self, prefix: &str) -> Answer<Vec<Arc<KvRow>>> {
        self.answer(vec![Topic::KeyPrefix(prefix.into())], |tables| {
            tables.kv.below(prefix).filter(|row| self.sees_key(&row.key)).map(Arc::clone).collect()
        })
    }

    /// All keys that begin so; with a separator, cut behind its first occurrence after the prefix, each once.
    pub fn keys(&self, prefix: &str, separator: &str) -> Answer<Vec<String>> {
        self.answer(vec![Topic::KeyPrefix(prefix.into())], |tables| {
            let mut keys: Vec<String> = Vec::new();
            for row in tables.kv.below(prefix).filter(|row| self.sees_key(&row.key)) {
                let rest = &row.key[prefix.len()..];
                let cut = if separator.is_empty() { None } else { rest.find(separator) };
                let end = cut.map_or(row.key.len(), |at| prefix.len() + at + separator.len());
                // Sorted, so what is the same after the cut comes in a row.
                if keys.last().is_none_or(|last| *last != row.key[..end]) {
                    keys.push(row.key[..end].to_owned());
                }
            }
            keys
        })
    }

    /// Whether the caller may list below a prefix, where listing is a right of its own (`enable_key_list_policy`).
    pub fn may_list_keys(&self, prefix: &str) -> bool {
        self.caller.may(Access::List, Resource::Key, prefix)
    }

    fn sees_key(&self, key: &str) -> bool {
        self.caller.may(Access::Read, Resource::Key, key)
    }
}
