//! How transactions happen once although etcd may be asked twice.
//!
//! When etcd does not answer, a write may or may not have happened, and may even happen later. So every question that
//! writes is fenced: it holds only while a key of its own, its *slot*, is unchanged, and changes the slot whatever comes
//! of its transactions. Asked again it is either decided for the first time, or finds the slot changed and so learns at
//! which revision it was decided; what came of it then is told by what its conditions were about, as it was just before
//! that revision ([`conditions`]). A slot serves one question at a time.
//!
//! A question carries one transaction or several (see [`super::group`]), each nested for itself. Etcd decides the
//! conditions of all of them before it writes anything.

use bytes::Bytes;
use lictor_task::clock;

use super::layout::{Layout, Span};
use super::proto::{
    Compare, DeleteRangeRequest, EQUAL, GREATER, KeyValue, MOD, PutRequest, RangeRequest, Request, RequestOp, Response,
    Target, TxnRequest, TxnResponse, VERSION,
};
use crate::{Op, Outcome, Revision, Txn};

/// How old a slot must be to be taken for left behind: longer than any question is asked.
pub(crate) const LEFT_BEHIND: i64 = 24 * 3600;

/// A key that changes with every question it serves.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) key: Bytes,
    /// The revision of etcd that changed it last; zero when it is not there.
    pub(crate) modified: i64,
}

/// When the slot of this text was used, in seconds since the Unix epoch.
pub(crate) fn used_at(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// What etcd says to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It is decided, at this revision of etcd; which transactions were applied.
    Now { revision: i64, applied: Vec<bool> },
    /// The slot was changed before, at this revision; zero when it is gone.
    Moved { slot: i64 },
}

/// The question whether these transactions may happen, within their slot's fence. What is nested counts against the same
/// limit of etcd as what it is nested in, for which [`MAX_TXN_OPS`](crate::MAX_TXN_OPS) leaves room.
pub(crate) fn fenced(layout: &Layout, txns: &[&Txn], slot: &Slot) -> TxnRequest {
    let mark =
        PutRequest { key: slot.key.clone(), value: clock::unix_seconds().to_string().into(), ..PutRequest::default() };
    let transactions = txns.iter().map(|txn| {
        Request::Txn(TxnRequest {
            compare: txn.compares.iter().map(|compare| condition(layout, compare)).collect(),
            success: txn.ops.iter().map(|op| operation(layout, op)).collect(),
            failure: Vec::new(),
        })
    });
    let mut success: Vec<RequestOp> = transactions.chain([Request::Put(mark)]).map(RequestOp::from).collect();
    if txns.iter().all(|txn| txn.is_removal()) {
        // A full etcd takes what only deletes. It would refuse this for the mark, which it does not see when nested; it
        // does see it with all others, whose own writes it does not see.
        let nested = TxnRequest { success, ..TxnRequest::default() };
        success = vec![Request::Txn(nested).into()];
    }
    let look = RangeRequest { key: slot.key.clone(), ..RangeRequest::default() };
    TxnRequest {
        compare: vec![modified_at(slot.key.clone(), slot.modified)],
        success,
        failure: vec![Request::Range(look).into()],
    }
}

/// Reads the answer to [`fenced`]; `None` when it has not the form of one.
pub(crate) fn decision(answer: TxnResponse, txns: &[&Txn]) -> Option<Decision> {
    let revision = answer.header?.revision;
    let mut responses = answer.responses;
    if !answer.succeeded {
        let Response::Range(found) = responses.pop()?.response? else { return None };
        return Some(Decision::Moved { slot: found.kvs.first().map_or(0, |kv| kv.mod_revision) });
    }
    if txns.iter().all(|txn| txn.is_removal()) {
        let Response::Txn(nested) = responses.pop()?.response? else { return None };
        responses = nested.responses;
    }
    let applied: Vec<bool> = responses
        .into_iter()
        .map_while(|response| match response.response {
            Some(Response::Txn(txn)) => Some(txn.succeeded),
            _ => None,
        })
        .collect();
    (applied.len() == txns.len()).then_some(Decision::Now { revision, applied })
}

/// The keys that the conditions of transactions are about.
pub(crate) fn conditions(layout: &Layout, txns: &[&Txn]) -> Vec<Bytes> {
    let mut keys: Vec<Bytes> =
        txns.iter().flat_map(|txn| &txn.compares).map(|compare| layout.key(compare.key())).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// Whether a transaction's conditions held when there was this under the keys of [`conditions`].
pub(crate) fn held(layout: &Layout, txn: &Txn, found: &[KeyValue]) -> bool {
    use crate::Compare::{Absent, Exists, Modified};
    txn.compares.iter().all(|compare| {
        let key = layout.key(compare.key());
        let entry = found.iter().find(|kv| kv.key == key);
        match compare {
            Absent(_) => entry.is_none(),
            Exists(_) => entry.is_some(),
            Modified(_, revision) => entry.is_some_and(|kv| layout.revision(kv.mod_revision) == *revision),
        }
    })
}

/// What was decided at a revision, as whoever asked wants it.
pub(crate) fn outcome(layout: &Layout, revision: i64, applied: bool) -> Outcome {
    let revision = layout.revision(revision);
    if applied { Outcome::Applied(revision) } else { Outcome::Conflict(revision) }
}

fn operation(layout: &Layout, op: &Op) -> RequestOp {
    match op {
        Op::Put { key, value, lease } => Request::Put(PutRequest {
            key: layout.key(key),
            value: value.clone(),
            lease: lease.map_or(0, |lease| lease.get().cast_signed()),
            ignore_value: false,
        }),
        Op::Delete(key) => Request::DeleteRange(DeleteRangeRequest { key: layout.key(key), range_end: Bytes::new() }),
        Op::DeletePrefix(prefix) => {
            let Span { key, end } = layout.below(prefix);
            Request::DeleteRange(DeleteRangeRequest { key, range_end: end })
        }
    }
    .into()
}

/// A condition as etcd is asked.
pub(crate) fn condition(layout: &Layout, compare: &crate::Compare) -> Compare {
    use crate::Compare::{Absent, Exists, Modified};
    let version = |key: &Bytes, result| Compare {
        result,
        target: VERSION,
        key: layout.key(key),
        value: Some(Target::Version(0)),
        range_end: Bytes::new(),
    };
    match compare {
        Absent(key) => version(key, EQUAL),
        Exists(key) => version(key, GREATER),
        // To etcd a key that is not there was modified at zero; to us it never was, which minus one is for.
        Modified(key, revision) => {
            let at = layout.etcd_revision(*revision).filter(|at| *at > 0 && *revision > Revision::ZERO).unwrap_or(-1);
            modified_at(layout.key(key), at)
        }
    }
}

/// Holds while the key was last modified at this revision of etcd; zero: while it is not there.
fn modified_at(key: Bytes, revision: i64) -> Compare {
    Compare { result: EQUAL, target: MOD, key, value: Some(Target::ModRevision(revision)), range_end: Bytes::new() }
}
