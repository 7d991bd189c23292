//! Transactions that wait to be written, and which of them etcd is asked for together.
//!
//! A write costs etcd a round among its members and their disks, whatever it writes. So what waits while others are
//! written goes as one question of etcd: a *group*. Its transactions share a revision, which is only right when none
//! has to do with another: whichever came first, the other would have found the same. Where that is not so, one waits.

use std::collections::{HashSet, VecDeque};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::client::PATIENCE;
use crate::{Error, MAX_TXN_OPS, Op, Outcome, Txn};

/// The most transactions of one group. Beyond it there is little to be shared, and what etcd writes at once, all its
/// readers wait for.
const MOST: usize = 48;

/// The most bytes of a group of more than one transaction: well below etcd's limit for a request, with all that holds
/// the parts together.
const BYTES: usize = 256 * 1024;

/// A transaction that waits, and who waits for it.
pub(crate) struct Waiting {
    pub(crate) txn: Txn,
    pub(crate) reply: oneshot::Sender<Result<Outcome, Error>>,
    /// Until when etcd is asked again where it does not answer.
    pub(crate) end: Instant,
}

/// What waits, in the order in which it came.
pub(crate) struct Queue {
    state: Mutex<State>,
    arrival: Notify,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    closed: bool,
}

impl Queue {
    pub(crate) fn new() -> Queue {
        Queue { state: Mutex::default(), arrival: Notify::new() }
    }

    /// Waits until the transaction is decided. Given up before its turn it is never asked for.
    pub(crate) async fn commit(&self, txn: Txn) -> Result<Outcome, Error> {
        let (reply, answer) = oneshot::channel();
        {
            let mut state = self.state.lock();
            if state.closed {
                return Err(Error::Closed);
            }
            state.waiting.push_back(Waiting { txn, reply, end: Instant::now() + PATIENCE });
        }
        self.arrival.notify_one();
        answer.await.unwrap_or_else(|_| Err(super::open("the task that asked etcd has ended")))
    }

    /// The next group, when there is one; `None` when the queue is closed and empty.
    pub(crate) async fn next(&self) -> Option<Vec<Waiting>> {
        loop {
            {
                let mut state = self.state.lock();
                let group = take(&mut state.waiting);
                if !state.waiting.is_empty() {
                    // For another who asks.
                    self.arrival.notify_one();
                }
                if !group.is_empty() {
                    return Some(group);
                }
                if state.closed {
                    // So that all who wait here learn of it, one from the other.
                    self.arrival.notify_one();
                    return None;
                }
            }
            self.arrival.notified().await;
        }
    }

    /// How many wait.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.state.lock().waiting.len()
    }

    /// Takes nothing more. What waits is still done.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.arrival.notify_one();
    }
}

/// Takes the first that waits, and all others that may go with it.
fn take(waiting: &mut VecDeque<Waiting>) -> Vec<Waiting> {
    let mut group = Vec::new();
    let mut claims = Claims::default();
    let mut rest = VecDeque::new();
    while let Some(next) = waiting.pop_front() {
        if next.reply.is_closed() {
            // Nobody waits for it any more, and etcd has not heard of it.
            continue;
        }
        if claims.admit(&next.txn) {
            group.push(next);
        } else {
            rest.push_back(next);
        }
        if claims.is_full() {
            break;
        }
    }
    rest.append(waiting);
    *waiting = rest;
    group
}

/// What the transactions of a group have to do with.
#[derive(Default)]
struct Claims {
    written: HashSet<Bytes>,
    read: HashSet<Bytes>,
    count: usize,
    bytes: usize,
    /// The most comparisons or operations of one.
    longest: usize,
    kind: Option<Kind>,
}

/// Which transactions can go together at all.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Keys are put, others deleted.
    Writing,
    /// Keys are deleted, which a full etcd takes, but not together with what writes.
    Removing,
    /// A lease that is gone, at which etcd refuses the whole; or keys that are not named.
    Alone,
}

impl Kind {
    fn of(txn: &Txn) -> Kind {
        let alone = txn.ops.iter().any(|op| matches!(op, Op::DeletePrefix(_) | Op::Put { lease: Some(_), .. }));
        match alone {
            true => Kind::Alone,
            false if txn.is_removal() => Kind::Removing,
            false => Kind::Writing,
        }
    }
}

impl Claims {
    /// Whether a transaction may go with those before, which it then does.
    fn admit(&mut self, txn: &Txn) -> bool {
        let kind = Kind::of(txn);
        let longest = self.longest.max(txn.compares.len()).max(txn.ops.len());
        if self.count > 0 {
            // What is nested counts against the same limit as what it is nested in.
            let fits = self.count < MOST
                && self.count + longest <= MAX_TXN_OPS
                && self.bytes + txn.bytes() <= BYTES
                && kind != Kind::Alone
                && self.kind == Some(kind);
            if !fits || self.touches(txn) {
                return false;
            }
        }
        self.kind = Some(kind);
        self.longest = longest;
        self.count += 1;
        self.bytes += txn.bytes();
        self.read.extend(txn.compares.iter().map(|compare| compare.key().clone()));
        self.written.extend(txn.ops.iter().map(|op| op.key().clone()));
        true
    }

    /// Whether it writes what others read or write, or reads what they write.
    fn touches(&self, txn: &Txn) -> bool {
        txn.ops.iter().any(|op| self.written.contains(op.key()) || self.read.contains(op.key()))
            || txn.compares.iter().any(|compare| self.written.contains(compare.key()))
    }

    fn is_full(&self) -> bool {
        self.count >= MOST || self.kind == Some(Kind::Alone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LeaseId, Revision};

    /// The groups in which these transactions go, by their numbers.
    fn groups(txns: Vec<Txn>) -> Vec<Vec<usize>> {
        let count = txns.len();
        let (replies, mut answers): (Vec<_>, Vec<_>) = (0..count).map(|_| oneshot::channel()).unzip();
        let mut waiting: VecDeque<Waiting> =
            txns.into_iter().zip(replies).map(|(txn, reply)| Waiting { txn, reply, end: Instant::now() }).collect();
        let mut groups = Vec::new();
        while !waiting.is_empty() {
            let group = take(&mut waiting);
            for member in group {
                let _ = member.reply.send(Ok(Outcome::Applied(Revision(groups.len() as u64))));
            }
            groups.push(Vec::new());
        }
        for (number, answer) in answers.iter_mut().enumerate() {
            let Ok(Ok(Outcome::Applied(Revision(group)))) = answer.try_recv() else { panic!("{number} is lost") };
            groups[usize::try_from(group).unwrap()].push(number);
        }
        groups
    }

    #[test]
    fn what_has_nothing_to_do_with_each_other_goes_together() {
        let one = Txn::new().when_exists("node").put("a", "1");
        let two = Txn::new().when_exists("node").put("b", "1").delete("c");
        assert_eq!(groups(vec![one.clone(), two.clone(), Txn::new().delete("d")]), [vec![0, 1], vec![2]]);
        // It waits for who touches the same, and others overtake it.
        assert_eq!(groups(vec![one.clone(), Txn::new().delete("node"), two]), [vec![0, 2], vec![1]]);
        assert_eq!(groups(vec![one.clone(), Txn::new().put("a", "2")]), [vec![0], vec![1]]);
        assert_eq!(groups(vec![one, Txn::new().when_absent("a").put("b", "2")]), [vec![0], vec![1]]);
    }

    #[test]
    fn who_may_fail_for_a_lease_or_names_no_keys_goes_alone() {
        let leased = Txn::new().put_leased("l", "", LeaseId::new(7).unwrap());
        let below = Txn::new().delete_prefix("p/");
        let put = |key: &str| Txn::new().put(key.to_owned(), "");
        assert_eq!(groups(vec![put("a"), leased, put("b"), below, put("c")]), [vec![0, 2, 4], vec![1], vec![3]]);
    }

    #[test]
    fn a_group_stays_within_the_limits_of_etcd() {
        let put = |number: usize| Txn::new().put(format!("k/{number}"), "");
        let sizes = |txns| groups(txns).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes((0..2 * MOST + 3).map(put).collect()), [MOST, MOST, 3]);
        let long = |number: usize| (0..MAX_TXN_OPS - 2).fold(Txn::new(), |txn, n| txn.put(format!("{number}/{n}"), ""));
        assert_eq!(sizes((0..4).map(long).collect()), [3, 1]);
        let large = |number: usize| Txn::new().put(format!("k/{number}"), vec![0; BYTES / 3]);
        assert_eq!(sizes((0..5).map(large).collect()), [2, 2, 1]);
    }

    #[test]
    fn what_nobody_waits_for_any_more_is_not_asked_for() {
        let (reply, answer) = oneshot::channel();
        drop(answer);
        let mut waiting = VecDeque::from([Waiting { txn: Txn::new().put("a", ""), reply, end: Instant::now() }]);
        assert!(take(&mut waiting).is_empty() && waiting.is_empty());
    }
}
