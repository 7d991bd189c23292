//! Writing sessions, and ending them with all they hold.
//!
//! A session ends in the transaction that ends its cause: the removal of its node, a critical check. When it holds
//! more than that transaction can take, the keys go first, some at a time, in further transactions behind it, and the
//! session itself with the last of them. So nothing is ever held by a session that is not there, and after a crash in
//! between the session is still there to be found by [`Writer::expire_sessions`].
//!
//! Who takes a lock rewrites the session's `session-alive` record, and who ends a session depends on that record, so a
//! key cannot be locked behind the back of the end.

use std::sync::Arc;
use std::time::Duration;

use lictor_model::health::Status;
use lictor_model::name::fold;
use lictor_model::revision::Revision;
use lictor_task::{clock, to_the_end};
use tokio::time::Instant;

use super::Writer;
use super::scratch::Scratch;
use crate::Error;
use crate::reader::KvRow;
use crate::record::Created;
use crate::record::kv::{LockDelayRecord, encode_kv};
use crate::record::session::SessionRecord;
use crate::replica::Tables;
use crate::replica::catalog::Place;
use crate::replica::sessions::Sign;
use crate::schema::{Below, Key};
use crate::session::{Behavior, Session};

/// What ending one key's lock may need: conditions on key and delay, or writes of both.
const ROOM_PER_KEY: usize = 2;

/// What ending a session needs besides its keys.
const ROOM_PER_SESSION: usize = 4;

/// Lock delays that are over and forgotten in one go.
const DELAYS_AT_ONCE: usize = 64;

/// A renewal so soon after the last one, as a part of the time to live, is not written: the session lives twice its
/// time, so it cannot be missed.
const SOON: u32 = 4;

impl Writer {
    /// Stores a new session; its id is set by the caller. `shortest_ttl` is the operator's bound.
    pub async fn create_session(&self, session: Session, shortest_ttl: Duration) -> Result<(), Error> {
        if session.node.is_empty() {
            return Err(Error::refused("Must provide Node"));
        }
        session.validate_ttl(shortest_ttl).map_err(Error::Refused)?;
        let id = fold(&session.id);
        let node = session.node.key();
        self.write("create session", |scratch| {
            if scratch.node(&node)?.is_none() {
                return Err(Error::refused("Missing node registration"));
            }
            for check in &session.checks {
                let place = (Arc::clone(&node), check.key());
                match scratch.check(&place)? {
                    None => return Err(Error::refused(format!("Missing check '{check}' registration"))),
                    Some(row) if row.check.status == Status::Critical => {
                        return Err(Error::refused(format!("Check '{check}' is in critical state")));
                    }
                    Some(_) => {}
                }
            }
            let key = Key::Session(Arc::clone(&id));
            scratch.draft.expect(&key, Revision::ZERO)?;
            scratch.draft.put(&key, &SessionRecord::new(&session, Created::NOW))?;
            scratch.draft.put_bytes(&Key::SessionAlive(Arc::clone(&id)), Sign::Renewed.bytes())
        })
        .await
    }

    /// Ends a session; unknown ones are fine.
    pub async fn destroy_session(&self, id: &str) -> Result<(), Error> {
        check_id(id)?;
        let (writer, id) = (self.clone(), fold(id));
        to_the_end(async move { writer.end_session_whole(&id).await }).await
    }

    /// Gives a session its whole time again; `None` when there is no such session.
    pub async fn renew_session(&self, id: &str) -> Result<Option<Arc<Session>>, Error> {
        check_id(id)?;
        let id = fold(id);
        self.write("renew session", |scratch| {
            let Some(row) = scratch.tables.sessions.get(&id) else { return Ok(None) };
            let (Some(ttl), Some(renewal)) = (row.time_to_live(), scratch.tables.sessions.renewal(&id)) else {
                return Ok(Some(Arc::clone(row)));
            };
            if renewal.seen.elapsed() >= ttl / SOON {
                scratch.draft.expect(&Key::Session(Arc::clone(&id)), row.modified)?;
                scratch.draft.put_bytes(&Key::SessionAlive(Arc::clone(&id)), Sign::Renewed.bytes())?;
            }
            Ok(Some(Arc::clone(row)))
        })
        .await
    }

    /// Ends the sessions whose time is over at `now`, and does what other writes left to do because a transaction was too
    /// small and a process died: sessions whose node or checks no longer allow them end, and checks go whose instance is
    /// gone. Gives the time of the next expiry.
    ///
    /// To be called by one process of the cluster at a time; more than one does no harm.
    pub async fn expire_sessions(&self, now: Instant) -> Result<Option<Instant>, Error> {
        let mut next = None;
        let mut over = Vec::new();
        for (id, deadline) in self.session_deadlines() {
            if deadline <= now {
                over.push(id);
            } else {
                next = Some(next.map_or(deadline, |next: Instant| next.min(deadline)));
            }
        }
        for id in over {
            tracing::info!("state: session {id} expired");
            self.expire_session(&id, now).await?;
        }
        self.end_broken_sessions().await?;
        self.remove_orphaned_checks().await?;
        self.forget_lock_delays().await?;
        Ok(next)
    }

    fn session_deadlines(&self) -> Vec<(Arc<str>, Instant)> {
        let tables = self.replica.tables();
        tables.sessions.all().filter_map(|(id, row)| Some((Arc::clone(id), deadline(&tables, id, row)?))).collect()
    }

    /// Ends a session unless it was renewed meanwhile.
    async fn expire_session(&self, id: &Arc<str>, now: Instant) -> Result<(), Error> {
        loop {
            let finished = self
                .write("expire session", |scratch| {
                    let row = scratch.tables.sessions.get(id);
                    if row.and_then(|row| deadline(scratch.tables, id, row)).is_some_and(|deadline| deadline <= now) {
                        scratch.end_session(id)?;
                    }
                    Ok(scratch.rest.sessions.is_empty())
                })
                .await?;
            if finished {
                return Ok(());
            }
        }
    }

    /// Ends a session with all it holds, however much that is.
    pub(super) async fn end_session_whole(&self, id: &Arc<str>) -> Result<(), Error> {
        loop {
            let finished = self
                .write("end session", |scratch| {
                    scratch.end_session(id)?;
                    Ok(scratch.rest.sessions.is_empty())
                })
                .await?;
            if finished {
                return Ok(());
            }
        }
    }

    /// Ends sessions whose node is gone, or one of whose checks is gone or critical.
    async fn end_broken_sessions(&self) -> Result<(), Error> {
        let broken: Vec<Arc<str>> = {
            let tables = self.replica.tables();
            tables.sessions.all().filter(|(_, row)| is_broken(&tables, row)).map(|(id, _)| Arc::clone(id)).collect()
        };
        for id in broken {
            self.end_session_whole(&id).await?;
        }
        Ok(())
    }

    async fn forget_lock_delays(&self) -> Result<(), Error> {
        let now = clock::unix_nanos();
        let over: Vec<Arc<str>> = {
            let tables = self.replica.tables();
            let over = tables.kv.delays().filter(|(_, delay)| delay.until <= now);
            over.map(|(key, _)| Arc::clone(key)).take(DELAYS_AT_ONCE).collect()
        };
        self.write("forget lock delays", |scratch| {
            for key in &over {
                let Some(delay) = scratch.tables.kv.delay(key).filter(|delay| delay.until <= now) else { continue };
                let record = Key::LockDelay(Arc::clone(key));
                scratch.draft.expect(&record, delay.modified)?;
                scratch.draft.delete(&record)?;
            }
            Ok(())
        })
        .await
    }
}

impl Scratch<'_> {
    /// Ends a session with what it holds, or as much of it as finds room.
    pub(super) fn end_session(&mut self, id: &Arc<str>) -> Result<(), Error> {
        if self.ended.contains(id) {
            return Ok(());
        }
        let Some(row) = self.tables.sessions.get(id).map(Arc::clone) else { return Ok(()) };
        self.ended.insert(Arc::clone(id));
        if !self.has_room(ROOM_PER_SESSION) {
            self.rest.sessions.insert(Arc::clone(id));
            return Ok(());
        }
        let (session, alive) = (Key::Session(Arc::clone(id)), Key::SessionAlive(Arc::clone(id)));
        self.draft.expect(&session, row.modified)?;
        self.draft
            .expect(&alive, self.tables.sessions.renewal(id).map_or(Revision::ZERO, |renewal| renewal.modified))?;
        let mut keys: Vec<Arc<str>> = self.tables.kv.held_by(id).map(Arc::clone).collect();
        keys.extend(self.newly_held_by(id));
        for key in keys {
            if !self.has_room(ROOM_PER_KEY + ROOM_PER_SESSION) {
                self.rest.sessions.insert(Arc::clone(id));
                return Ok(());
            }
            self.end_lock(&key, id, &row)?;
        }
        let queries: Vec<_> = self.tables.queries.of_session(id).map(Arc::clone).collect();
        for query in queries {
            if !self.has_room(ROOM_PER_KEY + ROOM_PER_SESSION) {
                self.rest.sessions.insert(Arc::clone(id));
                return Ok(());
            }
            if let Some(stored) = self.tables.queries.get(&query) {
                self.remove_query(&stored.row)?;
            }
        }
        self.draft.delete(&session)?;
        self.draft.delete(&alive)
    }

    fn end_lock(&mut self, key: &Arc<str>, id: &str, session: &Session) -> Result<(), Error> {
        // It may have been released or taken by another already, in this very transaction.
        let Some(row) = self.key(key)?.filter(|row| row.session.as_deref() == Some(id)) else { return Ok(()) };
        match session.behavior {
            Behavior::Release => {
                self.write_key(KvRow { session: None, ..KvRow::clone(&row) })?;
            }
            Behavior::Delete => self.remove_key(key)?,
        }
        let delay = session.effective_lock_delay();
        if !delay.is_zero() {
            let until = clock::unix_nanos().saturating_add(i64::try_from(delay.as_nanos()).unwrap_or(i64::MAX));
            self.draft.put(&Key::LockDelay(Arc::clone(key)), &LockDelayRecord { until })?;
        }
        Ok(())
    }

    /// Ends the sessions bound to a check that is critical or goes.
    pub(super) fn end_sessions_of_check(&mut self, place: &Place) -> Result<(), Error> {
        let sessions: Vec<Arc<str>> = self.tables.sessions.of_check(place).map(Arc::clone).collect();
        for id in sessions {
            self.end_session(&id)?;
        }
        Ok(())
    }

    /// A session that is there and was not ended; that something comes to depend on it is noted.
    pub(super) fn session_for_lock(&mut self, id: &str) -> Result<Option<Arc<Session>>, Error> {
        let id = fold(id);
        let Some(row) = self.tables.sessions.get(&id).filter(|_| !self.ended.contains(&id)).map(Arc::clone) else {
            return Ok(None);
        };
        self.draft.expect(&Key::Session(Arc::clone(&id)), row.modified)?;
        self.draft.put_bytes(&Key::SessionAlive(id), Sign::Used.bytes())?;
        Ok(Some(row))
    }

    /// Writes an entry; when it was created is taken from the row.
    pub(super) fn write_key(&mut self, row: KvRow) -> Result<Arc<KvRow>, Error> {
        let key = Key::Kv(Arc::clone(&row.key));
        let row = Arc::new(KvRow { modified: super::PENDING, ..row });
        self.draft.put_bytes(&key, encode_kv(&key, &row, Created::kept(Some(row.created)))?)?;
        self.set_key(Arc::clone(&row.key), Some(Arc::clone(&row)));
        Ok(row)
    }

    /// Deletes all entries whose keys begin so.
    pub(super) fn remove_keys_below(&mut self, prefix: &str) -> Result<(), Error> {
        let rows = self.keys_below(prefix);
        if !rows.is_empty() {
            self.draft.delete_below(&Below::Kv(prefix))?;
        }
        for row in rows {
            self.set_key(Arc::clone(&row.key), None);
        }
        Ok(())
    }

    /// Deletes an entry.
    pub(super) fn remove_key(&mut self, key: &Arc<str>) -> Result<(), Error> {
        self.draft.delete(&Key::Kv(Arc::clone(key)))?;
        self.set_key(Arc::clone(key), None);
        Ok(())
    }
}

fn deadline(tables: &Tables, id: &str, row: &Session) -> Option<Instant> {
    tables.sessions.renewal(id)?.seen.checked_add(row.lifetime()?)
}

fn is_broken(tables: &Tables, row: &Session) -> bool {
    let Some(entry) = tables.catalog.node(&row.node.key()) else { return true };
    row.checks.iter().any(|check| {
        let check = entry.checks.get(&check.key());
        check.is_none_or(|row| row.check.status == Status::Critical)
    })
}

/// Ids of sessions are UUIDs; the text is the one clients know.
pub(super) fn check_id(id: &str) -> Result<(), Error> {
    if id.len() == 36 {
        return Ok(());
    }
    Err(Error::refused("failed session lookup: index error: UUID must be 36 characters"))
}
