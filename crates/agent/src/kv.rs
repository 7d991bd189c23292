//! Use cases of the key-value store: who may write which key.

use bytes::Bytes;
use lictor_model::acl::{Access, Caller, Resource};
use lictor_model::revision::Revision;
use lictor_state::writer::{Put, TxnOp, TxnOutcome};

use crate::{Agent, Error};

impl Agent {
    /// Writes a key; `false` when the condition of the write does not hold.
    pub async fn put_key(&self, caller: &Caller, key: &str, value: Bytes, flags: u64, how: Put) -> Result<bool, Error> {
        may_write(caller, key)?;
        Ok(self.inner.writer.put_key(key, value, flags, how).await?)
    }

    /// Deletes a key, if a revision is given only when it was last changed then; `false` when it was not.
    pub async fn delete_key(&self, caller: &Caller, key: &str, only_at: Option<Revision>) -> Result<bool, Error> {
        may_write(caller, key)?;
        Ok(self.inner.writer.delete_key(key, only_at).await?)
    }

    /// Deletes all keys that begin so.
    pub async fn delete_keys_below(&self, caller: &Caller, prefix: &str) -> Result<(), Error> {
        if !caller.may_whole(Access::Write, Resource::Key, prefix) {
            return Err(Error::Denied);
        }
        Ok(self.inner.writer.delete_keys_below(prefix).await?)
    }

    /// Carries out operations, all or none; which of them the caller may not do is part of the outcome.
    pub async fn transact(&self, caller: &Caller, ops: &[TxnOp]) -> Result<TxnOutcome, Error> {
        Ok(self.inner.writer.txn(caller, ops).await?)
    }
}

fn may_write(caller: &Caller, key: &str) -> Result<(), Error> {
    if caller.may(Access::Write, Resource::Key, key) { Ok(()) } else { Err(Error::Denied) }
}
