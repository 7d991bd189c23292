//! Taking everything away and bringing it back.
//!
//! A restore is more than one transaction can hold, and yet it happens wholly or not at all: first all of its steps are
//! stored beside what is there, then one transaction says that they hold, then each step is done and removed in one
//! transaction. Whatever dies in between, what was said to hold is finished by whoever opens the store next, or leads;
//! what was not is forgotten. In between parts go before what they belong to and come after it, so that readers never
//! see a service without its node. Only what is different is written.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use lictor_model::revision::Revision;
use lictor_store::{Entry, MAX_TXN_BYTES, Op, Store, Txn};
use serde::{Deserialize, Serialize};

use super::Writer;
use crate::Error;
use crate::record;
use crate::schema::{Below, Key, ROOT};
use crate::snapshot::{Snapshot, is_marker};

/// Changes of one transaction.
const AT_ONCE: usize = 100;

/// Which snapshot is being, or was, restored.
#[derive(Debug, Serialize, Deserialize)]
struct RestoreRecord {
    snapshot: String,
    /// What its steps are kept under; absent in what earlier versions wrote, which kept none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    steps: Option<String>,
}

impl Writer {
    /// Everything that is stored, at one revision.
    pub async fn capture(&self) -> Result<Snapshot, Error> {
        let scan = self.store.scan(ROOT).await.map_err(Error::store("read everything"))?;
        Ok(Snapshot::new(Revision(scan.revision.0), &scan.entries))
    }

    /// Makes the store hold what a snapshot holds and nothing else. When it fails nothing has changed, or the error says
    /// that it is going to be finished. In the end every waiting read wakes.
    pub async fn restore(&self, name: &str, snapshot: &Snapshot) -> Result<(), Error> {
        // One that was cut off comes before this one.
        finish_restore(&self.store).await?;
        let scan = self.store.scan(ROOT).await.map_err(Error::store("read everything"))?;
        let present: BTreeMap<&[u8], &Bytes> =
            scan.entries.iter().map(|entry| (entry.key.as_ref(), &entry.value)).collect();
        let restored = Key::Restored.encode()?;
        let last = scan.entries.iter().find(|entry| entry.key == restored).map(|entry| entry.modified);
        stage(&self.store, name, &changes(&present, snapshot), last).await?;
        finish_restore(&self.store).await.map_err(|error| {
            Error::refused(format!(
                "the restore has begun and is finished when the store can be written again: {error}"
            ))
        })?;
        let revision = self.store.current().await.map_err(Error::store("end a restore"))?;
        self.shown(Revision(revision.0)).await;
        Ok(())
    }

    /// Finishes a restore whose server is gone; nothing happens when there is none. Harmless while it is still at it.
    pub async fn help_restore(&self) -> Result<(), Error> {
        finish_restore(&self.store).await
    }
}

/// Stores the steps, and then says that they hold, unless another restore was done since `last`. Until then nothing has
/// happened.
async fn stage(store: &Store, name: &str, changes: &[Op], last: Option<lictor_store::Revision>) -> Result<(), Error> {
    let id = uuid::Uuid::new_v4().to_string();
    let failed = |source| Error::Store { operation: "store the steps of a restore", source };
    let restoring = Key::Restoring.encode()?;
    // Those of one that was never said to hold; if it is still being stored it will notice.
    let forget = Txn::new().when_absent(restoring.clone()).delete_prefix(Below::RestoreSteps.encode()?);
    store.commit(forget.clone()).await.map_err(failed)?;
    let mut first = None;
    for (number, step) in batches(changes).into_iter().enumerate() {
        match store.commit(Txn::new().put(step_key(&id, number)?, written(step))).await {
            Ok(outcome) => first = first.or(Some(outcome.revision())),
            Err(error) => {
                // What cannot be removed now is removed by the next one.
                let _ = store.commit(forget).await;
                return Err(failed(error));
            }
        }
    }
    let mark = RestoreRecord { snapshot: name.to_owned(), steps: Some(id.clone()) };
    let mut begin = Txn::new().when_absent(restoring.clone());
    if let Some(first) = first {
        begin = begin.when_modified(step_key(&id, 0)?, first);
    }
    begin = match last {
        Some(last) => begin.when_modified(Key::Restored.encode()?, last),
        None => begin.when_absent(Key::Restored.encode()?),
    };
    let begin = begin.put(restoring, record::encode(&Key::Restoring, &mark)?);
    match store.commit(begin).await.map_err(Error::store("begin a restore"))?.is_applied() {
        true => Ok(()),
        false => Err(Error::refused("another restore came between, and nothing of this one has happened")),
    }
}

/// Does what is left of a restore that was said to hold. Each step is done once, whoever does it, and in their order:
/// nobody goes on to the next one before the store has decided about the one before.
pub(crate) async fn finish_restore(store: &Store) -> Result<(), Error> {
    let restoring = Key::Restoring.encode()?;
    let failed = |source| Error::Store { operation: "finish a restore", source };
    let Some(mark) = store.get(&restoring).await.map_err(failed)? else { return Ok(()) };
    let RestoreRecord { snapshot, steps } = record::decode(&Key::Restoring, &mark.value)?;
    let Some(id) = &steps else {
        tracing::error!("state: the restore of snapshot {snapshot} was cut off. Do it again");
        // Of an earlier version: there is nothing to finish, and nothing in the way of doing it again.
        store
            .commit(Txn::new().when_modified(restoring.clone(), mark.modified).delete(restoring))
            .await
            .map_err(failed)?;
        return Ok(());
    };
    let left = store.scan(&step_key(id, 0)?[..step_key(id, 0)?.len() - STEP_DIGITS]).await.map_err(failed)?.entries;
    for Entry { key, value, .. } in left {
        let ops = read(value).ok_or_else(|| Error::refused("a step of a restore cannot be read"))?;
        let txn = Txn { compares: Vec::new(), ops }.when_exists(key.clone()).delete(key);
        store.commit(txn).await.map_err(failed)?;
    }
    let done = record::encode(&Key::Restored, &RestoreRecord { snapshot: snapshot.clone(), steps: None })?;
    let end = Txn::new().when_modified(restoring.clone(), mark.modified);
    let end = end.delete(restoring).put(Key::Restored.encode()?, done);
    if store.commit(end).await.map_err(failed)?.is_applied() {
        tracing::info!("state: the restore of snapshot {snapshot} is done");
    }
    Ok(())
}

/// Digits of a step's number: they sort as the numbers do.
const STEP_DIGITS: usize = 8;

fn step_key(id: &str, number: usize) -> Result<Vec<u8>, Error> {
    Key::RestoreStep(format!("{id}/{number:0STEP_DIGITS$}").into()).encode()
}

/// The text of a step: for each change the lengths of key and value (or that there is none) in four bytes, most
/// significant first, then both.
fn written(step: &[Op]) -> Bytes {
    let mut text = BytesMut::new();
    let length = |bytes: &Bytes| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    for op in step {
        match op {
            Op::Put { key, value, lease: _ } => {
                text.put_u32(length(key));
                text.put_u32(length(value));
                text.extend_from_slice(key);
                text.extend_from_slice(value);
            }
            Op::Delete(key) | Op::DeletePrefix(key) => {
                text.put_u32(length(key));
                text.put_u32(NO_VALUE);
                text.extend_from_slice(key);
            }
        }
    }
    text.freeze()
}

/// The length that says that a key is to be deleted.
const NO_VALUE: u32 = u32::MAX;

fn read(mut text: Bytes) -> Option<Vec<Op>> {
    let mut ops = Vec::new();
    while !text.is_empty() {
        let (key, value) = (text.try_get_u32().ok()? as usize, text.try_get_u32().ok()?);
        let mut take = |length: usize| (length <= text.len()).then(|| text.split_to(length));
        let key = take(key)?;
        ops.push(match value {
            NO_VALUE => Op::Delete(key),
            value => Op::Put { key, value: take(value as usize)?, lease: None },
        });
    }
    Some(ops)
}

/// What must be written, in an order in which every step leaves something whole.
fn changes(present: &BTreeMap<&[u8], &Bytes>, snapshot: &Snapshot) -> Vec<Op> {
    let wanted: BTreeMap<&[u8], &Bytes> = snapshot.records.iter().map(|(key, value)| (key.as_ref(), value)).collect();
    let mut gone: Vec<&[u8]> =
        present.keys().copied().filter(|key| !wanted.contains_key(key) && !is_marker(key)).collect();
    gone.sort_by_key(|key| std::cmp::Reverse(depth(key)));
    let mut put: Vec<(&Bytes, &Bytes)> = snapshot
        .records
        .iter()
        .filter(|(key, value)| present.get(key.as_ref()).is_none_or(|known| *known != value))
        .map(|(key, value)| (key, value))
        .collect();
    put.sort_by_key(|(key, _)| depth(key));
    let gone = gone.into_iter().map(|key| Op::Delete(Bytes::copy_from_slice(key)));
    gone.chain(put.into_iter().map(|(key, value)| Op::Put { key: key.clone(), value: value.clone(), lease: None }))
        .collect()
}

/// How much else a record may depend on.
fn depth(key: &[u8]) -> u8 {
    match Key::parse(key) {
        Some(Key::Node(_) | Key::NodeOf(_)) => 0,
        Some(Key::Service { .. }) => 1,
        Some(Key::Check { .. } | Key::Coordinate { .. }) => 2,
        Some(Key::Session(_)) => 3,
        Some(Key::SessionAlive(_)) => 4,
        Some(Key::Kv(_) | Key::LockDelay(_) | Key::Query(_) | Key::QueryOf(_)) => 5,
        _ => 2,
    }
}

/// Cuts changes into parts that one transaction can hold.
fn batches(changes: &[Op]) -> Vec<&[Op]> {
    let size = |op: &Op| match op {
        Op::Put { key, value, lease: _ } => key.len() + value.len(),
        Op::Delete(key) | Op::DeletePrefix(key) => key.len(),
    };
    let mut batches = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (at, op) in changes.iter().enumerate() {
        if at > start && (at - start == AT_ONCE || bytes + size(op) > MAX_TXN_BYTES / 2) {
            batches.push(&changes[start..at]);
            (start, bytes) = (at, 0);
        }
        bytes += size(op);
    }
    if start < changes.len() {
        batches.push(&changes[start..]);
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, value: &str) -> Op {
        Op::Put { key: format!("state/kv/{key}").into(), value: value.to_owned().into(), lease: None }
    }

    #[test]
    fn changes_are_cut_into_what_a_transaction_holds() {
        let op = |size: usize| Op::Put { key: "k".into(), value: vec![0; size].into(), lease: None };
        let many: Vec<Op> = (0..250).map(|_| op(1)).collect();
        assert_eq!(batches(&many).iter().map(|batch| batch.len()).collect::<Vec<_>>(), [100, 100, 50]);
        let large: Vec<Op> = (0..5).map(|_| op(MAX_TXN_BYTES / 3)).collect();
        assert_eq!(batches(&large).iter().map(|batch| batch.len()).collect::<Vec<_>>(), [1, 1, 1, 1, 1]);
        assert!(batches(&[]).is_empty());
    }

    #[test]
    fn steps_are_read_as_they_were_written() {
        let step = [put("a", "one"), Op::Delete("state/kv/b".into()), put("", "")];
        assert_eq!(read(written(&step)).as_deref(), Some(&step[..]));
        assert_eq!(read(written(&step).slice(..20)), None);
    }

    /// Every key's value.
    async fn held(store: &Store) -> Vec<(Bytes, Bytes)> {
        let scan = store.scan(b"state/kv/").await.unwrap();
        scan.entries.into_iter().map(|entry| (entry.key, entry.value)).collect()
    }

    #[tokio::test]
    async fn a_restore_that_is_cut_off_anywhere_happens_wholly_or_not_at_all() {
        let names: Vec<String> = (0..450).map(|number| format!("k{number:04}")).collect();
        let before: Vec<Op> = names.iter().map(|name| put(name, "before")).collect();
        let mut changes: Vec<Op> = names[..200].iter().map(|name| put(name, "after")).collect();
        changes.extend(names[200..].iter().map(|name| Op::Delete(format!("state/kv/{name}").into())));
        let steps = batches(&changes).len();
        assert!(steps > 3);
        let furnished = || async {
            let store = Store::memory();
            for batch in batches(&before) {
                store.commit(Txn { compares: Vec::new(), ops: batch.to_vec() }).await.unwrap();
            }
            store
        };
        // Before it was said to hold: the steps are there, and mean nothing.
        let store = furnished().await;
        let old = held(&store).await;
        for (number, step) in batches(&changes).iter().enumerate() {
            store.commit(Txn::new().put(step_key("x", number).unwrap(), written(step))).await.unwrap();
            finish_restore(&store).await.unwrap();
            assert_eq!(held(&store).await, old);
        }
        // And afterwards, with any number of steps done.
        for done in 0..=steps {
            let store = furnished().await;
            stage(&store, "s", &changes, None).await.unwrap();
            for _ in 0..done {
                let key = store.scan(b"state/restore-step/").await.unwrap().entries[0].key.clone();
                let step = store.get(&key).await.unwrap().unwrap().value;
                let txn = Txn { compares: Vec::new(), ops: read(step).unwrap() }.delete(key);
                store.commit(txn).await.unwrap();
            }
            finish_restore(&store).await.unwrap();
            let new = held(&store).await;
            assert!(new.len() == 200 && new.iter().all(|(_, value)| value == "after"), "{done}: {}", new.len());
            assert!(store.get(&Key::Restoring.encode().unwrap()).await.unwrap().is_none());
            assert!(store.scan(b"state/restore-step/").await.unwrap().entries.is_empty());
        }
    }

    #[tokio::test]
    async fn two_that_finish_the_same_restore_do_each_step_once() {
        let changes: Vec<Op> = (0..1000).map(|number| put(&format!("k{number:04}"), "after")).collect();
        let store = Store::memory();
        stage(&store, "s", &changes, None).await.unwrap();
        let before = store.current().await.unwrap();
        let (one, other) = tokio::join!(finish_restore(&store), finish_restore(&store));
        one.and(other).unwrap();
        // Ten steps and the end; what came second changed nothing.
        assert_eq!(store.current().await.unwrap().0 - before.0, 11);
        // What was compared with the state before another restore is out of date.
        assert!(stage(&store, "t", &changes, None).await.is_err());
        let last = store.get(&Key::Restored.encode().unwrap()).await.unwrap().map(|entry| entry.modified);
        assert!(stage(&store, "u", &changes, last).await.is_ok());
        assert!(stage(&store, "v", &changes, last).await.is_err(), "one that holds is never replaced");
    }
}
