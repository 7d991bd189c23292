//! Writing the key-value store: set, check-and-set, locks, deletes.

use std::sync::Arc;

use bytes::Bytes;
use lictor_model::name::fold;
use lictor_model::revision::Revision;
use lictor_task::clock;

use super::Writer;
use super::scratch::{PENDING, Scratch};
use super::sessions::check_id;
use crate::Error;
use crate::reader::KvRow;
use crate::schema::Key;

/// How an entry is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Put {
    /// Whatever is there.
    Set,
    /// Only if it was last changed at this revision; zero: only if it is not there.
    Cas(Revision),
    /// Taking its lock for a session.
    Acquire(String),
    /// Giving back the lock that a session holds.
    Release(String),
}

/// Conditions that the other operations of a transaction may still need: a client may send sixty-four.
const ROOM_FOR_THE_REST: usize = 66;

impl Writer {
    /// Writes an entry; `false` when the condition does not hold.
    pub async fn put_key(&self, key: &str, value: Bytes, flags: u64, how: Put) -> Result<bool, Error> {
        self.write("write key", |scratch| {
            let done = match &how {
                Put::Set => Some(scratch.set_key_value(key, value.clone(), flags)?),
                Put::Cas(seen) => scratch.cas_key(key, value.clone(), flags, *seen)?,
                Put::Acquire(session) => {
                    if scratch.is_delayed(key) {
                        None
                    } else {
                        scratch.lock_key(key, value.clone(), flags, session)?
                    }
                }
                Put::Release(session) => scratch.unlock_key(key, value.clone(), flags, session)?,
            };
            if done.is_none() {
                scratch.abandon();
            }
            Ok(done.is_some())
        })
        .await
    }

    /// Deletes an entry, if a revision is given only when it was last changed then; `false` when it was not. What is
    /// not there counts as deleted.
    pub async fn delete_key(&self, key: &str, only_at: Option<Revision>) -> Result<bool, Error> {
        self.write("delete key", |scratch| scratch.delete_key(key, only_at)).await
    }

    /// Deletes all entries whose keys begin so, in one transaction however many they are.
    pub async fn delete_keys_below(&self, prefix: &str) -> Result<(), Error> {
        self.write("delete keys", |scratch| scratch.remove_keys_below(prefix)).await
    }
}

impl Scratch<'_> {
    /// Whether the key was let go by a session that ended just now.
    pub(super) fn is_delayed(&self, key: &str) -> bool {
        self.tables.kv.delay(key).is_some_and(|delay| delay.until > clock::unix_nanos())
    }

    /// A plain write keeps who holds the key but forgets how often it was locked, as the original does.
    pub(super) fn set_key_value(&mut self, key: &str, value: Bytes, flags: u64) -> Result<Arc<KvRow>, Error> {
        let known = self.key(key)?;
        self.write_key(KvRow {
            key: key.into(),
            value,
            flags,
            lock_index: 0,
            session: known.as_ref().and_then(|row| row.session.clone()),
            created: known.as_ref().map_or(PENDING, |row| row.created),
            modified: PENDING,
        })
    }

    pub(super) fn cas_key(
        &mut self,
        key: &str,
        value: Bytes,
        flags: u64,
        seen: Revision,
    ) -> Result<Option<Arc<KvRow>>, Error> {
        let present = self.key(key)?.map_or(Revision::ZERO, |row| row.modified);
        if present != seen {
            return Ok(None);
        }
        self.set_key_value(key, value, flags).map(Some)
    }

    /// Takes the lock of a key for a session; whoever holds it already may do so again.
    pub(super) fn lock_key(
        &mut self,
        key: &str,
        value: Bytes,
        flags: u64,
        session: &str,
    ) -> Result<Option<Arc<KvRow>>, Error> {
        if session.is_empty() {
            return Err(Error::refused("missing session"));
        }
        check_id(session)?;
        if self.session_for_lock(session)?.is_none() {
            return Err(Error::refused(format!("invalid session {session:?}")));
        }
        let session = fold(session);
        let known = self.key(key)?;
        let lock_index = match known.as_deref() {
            Some(row) if row.session.as_ref() == Some(&session) => row.lock_index,
            Some(row) if row.session.is_some() => return Ok(None),
            Some(row) => row.lock_index + 1,
            None => 1,
        };
        if let Some(delay) = self.tables.kv.delay(key) {
            // Over, as was seen before: nobody needs it any more.
            let record = Key::LockDelay(key.into());
            self.draft.expect(&record, delay.modified)?;
            self.draft.delete(&record)?;
        } else if self.draft.has_room(ROOM_FOR_THE_REST) {
            // A delay starts with a write of the key, which is a condition already; this is for a key that comes and
            // goes with its session while we look. What a client sends must fit, so it gets only what nobody else needs.
            self.draft.expect(&Key::LockDelay(key.into()), Revision::ZERO)?;
        }
        let created = known.as_ref().map_or(PENDING, |row| row.created);
        let key = key.into();
        self.write_key(KvRow { key, value, flags, lock_index, session: Some(session), created, modified: PENDING })
            .map(Some)
    }

    /// Gives back the lock of a key, if the session holds it.
    pub(super) fn unlock_key(
        &mut self,
        key: &str,
        value: Bytes,
        flags: u64,
        session: &str,
    ) -> Result<Option<Arc<KvRow>>, Error> {
        if session.is_empty() {
            return Err(Error::refused("missing session"));
        }
        let Some(known) = self.key(key)?.filter(|row| row.session.as_deref() == Some(&*fold(session))) else {
            return Ok(None);
        };
        self.write_key(KvRow { value, flags, session: None, ..KvRow::clone(&known) }).map(Some)
    }

    pub(super) fn delete_key(&mut self, key: &str, only_at: Option<Revision>) -> Result<bool, Error> {
        let Some(row) = self.key(key)? else { return Ok(true) };
        if only_at.is_some_and(|seen| seen != row.modified) {
            return Ok(false);
        }
        self.remove_key(&row.key)?;
        Ok(true)
    }
}
