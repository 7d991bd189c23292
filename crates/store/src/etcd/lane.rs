//! Asks etcd for one group of transactions after the other, for as long as it takes, and tells everybody what came of
//! theirs.

use std::sync::Arc;
use std::time::Duration;

use lictor_task::Backoff;
use tokio::time::{Instant, sleep};
use tonic::Code;

use super::client::{ANSWER, Fault, is_lease_gone};
use super::group::{Queue, Waiting};
use super::proto::{
    KeyValue, LeaseRequest, LeaseTimeResponse, RangeRequest, Request, Response, TxnRequest, TxnResponse,
};
use super::slot::{self, Decision, Slot};
use super::{Shared, TXN, open};
use crate::{Error, LeaseId, MAX_TXN_OPS, Op, Outcome, Txn};

/// First and longest pause before etcd is asked again.
const RETRY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// How often a slot may turn out to be another than we know before anything was asked.
const MOVES: usize = 3;

/// One of those who ask, with a slot of its own.
pub(crate) struct Lane {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    slot: Slot,
}

/// Whether the question was asked before and may still be on its way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    Never,
    Perhaps,
}

/// Why a group was not decided.
enum Undecided {
    /// For a reason that is one of all.
    Failed(Error),
    /// Etcd does not take it in this form; one by one some may be taken.
    Unfit(Error),
}

impl Lane {
    pub(crate) fn new(shared: Arc<Shared>, queue: Arc<Queue>) -> Lane {
        let slot = shared.new_slot();
        Lane { shared, queue, slot }
    }

    /// Asks until the queue is closed and empty.
    pub(crate) async fn run(mut self) {
        while let Some(group) = self.queue.next().await {
            self.carry(group).await;
        }
    }

    async fn carry(&mut self, group: Vec<Waiting>) {
        let txns: Vec<&Txn> = group.iter().map(|waiting| &waiting.txn).collect();
        let end = group.iter().map(|waiting| waiting.end).min().unwrap_or_else(Instant::now);
        let outcomes: Vec<Result<Outcome, Error>> = match self.decide(&txns, end).await {
            Ok(outcomes) => outcomes.into_iter().map(Ok).collect(),
            Err(Undecided::Unfit(_)) if txns.len() > 1 => {
                let mut outcomes = Vec::new();
                for (txn, waiting) in txns.iter().zip(&group) {
                    let outcome = self.decide(&[*txn], waiting.end).await;
                    outcomes.push(match outcome {
                        Ok(outcomes) => outcomes.into_iter().next().ok_or_else(|| open("there is no outcome")),
                        Err(Undecided::Failed(error) | Undecided::Unfit(error)) => Err(error),
                    });
                }
                outcomes
            }
            Err(Undecided::Failed(error) | Undecided::Unfit(error)) => vec![Err(error); txns.len()],
        };
        for (waiting, outcome) in group.into_iter().zip(outcomes) {
            // Who asked may have gone away.
            let _ = waiting.reply.send(outcome);
        }
    }

    /// Asks until there is an answer, or none by the end. Asks once at least.
    async fn decide(&mut self, txns: &[&Txn], end: Instant) -> Result<Vec<Outcome>, Undecided> {
        let shared = Arc::clone(&self.shared);
        let Shared { client, layout, .. } = &*shared;
        let mut before = Before::Never;
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut moves = 0;
        loop {
            let question = slot::fenced(layout, txns, &self.slot);
            let fault = match client.attempt::<_, TxnResponse>(TXN, &question, ANSWER).await {
                Ok(answer) => match slot::decision(answer, txns) {
                    Some(Decision::Now { revision, applied }) => return Ok(self.decided(txns, revision, &applied)),
                    Some(Decision::Moved { slot }) if before == Before::Perhaps && slot > self.slot.modified => {
                        let applied = self.look_back(txns, slot).await.map_err(|error| self.lose(error))?;
                        return Ok(self.decided(txns, slot, &applied));
                    }
                    Some(Decision::Moved { slot }) if before == Before::Never && moves < MOVES => {
                        moves += 1;
                        self.slot.modified = slot;
                        continue;
                    }
                    Some(Decision::Moved { .. }) => {
                        return Err(self.lose(open("its slot was changed by somebody else")));
                    }
                    None => return Err(self.lose(open("etcd gave an answer of unknown form"))),
                },
                Err(fault) => fault,
            };
            let detail = match fault {
                Fault::Refused(status) if before == Before::Perhaps => return Err(self.lose(open(status.message()))),
                Fault::Refused(status) if is_lease_gone(&status) => {
                    return Err(Undecided::Failed(match self.lost_lease(txns).await {
                        Ok(lease) => Error::LeaseLost(lease),
                        Err(error) => error,
                    }));
                }
                Fault::Refused(status) => {
                    let unfit = status.code() == Code::InvalidArgument;
                    let error = client.error("write", Fault::Refused(status));
                    return Err(if unfit { Undecided::Unfit(error) } else { Undecided::Failed(error) });
                }
                Fault::Unsent(detail) => detail,
                Fault::Uncertain(detail) => {
                    before = Before::Perhaps;
                    detail
                }
            };
            if Instant::now() >= end {
                return Err(match before {
                    Before::Never => Undecided::Failed(client.error("write", Fault::Unsent(detail))),
                    Before::Perhaps => self.lose(open(&detail)),
                });
            }
            sleep(backoff.next_delay()).await;
        }
    }

    /// What was decided at a revision, for those who asked and those who watch.
    fn decided(&mut self, txns: &[&Txn], revision: i64, applied: &[bool]) -> Vec<Outcome> {
        self.slot.modified = revision;
        let done = txns.iter().zip(applied).filter(|(_, applied)| **applied).map(|(txn, _)| *txn);
        self.shared.changed(done, revision);
        applied.iter().map(|applied| slot::outcome(&self.shared.layout, revision, *applied)).collect()
    }

    /// Which of these transactions were applied at a revision: those whose conditions held just before it.
    async fn look_back(&self, txns: &[&Txn], revision: i64) -> Result<Vec<bool>, Error> {
        let Shared { client, layout, .. } = &*self.shared;
        let mut found: Vec<KeyValue> = Vec::new();
        for some in slot::conditions(layout, txns).chunks(MAX_TXN_OPS) {
            let look = |key: &bytes::Bytes| {
                let question = RangeRequest { key: key.clone(), revision: revision - 1, ..RangeRequest::default() };
                Request::Range(question).into()
            };
            let question = TxnRequest { success: some.iter().map(look).collect(), ..TxnRequest::default() };
            let answer = client.repeat(|| client.attempt::<_, TxnResponse>(TXN, &question, ANSWER)).await;
            let answer = answer.map_err(|fault| match fault {
                Fault::Unsent(detail) | Fault::Uncertain(detail) => open(&detail),
                Fault::Refused(status) => open(status.message()),
            })?;
            for response in answer.responses {
                let Some(Response::Range(range)) = response.response else {
                    return Err(open("etcd gave an answer of unknown form"));
                };
                found.extend(range.kvs);
            }
        }
        Ok(txns.iter().map(|txn| slot::held(layout, txn, &found)).collect())
    }

    /// It cannot be found out what came of a question, which may still be on its way: its slot is not used again.
    fn lose(&mut self, error: Error) -> Undecided {
        self.slot = self.shared.new_slot();
        Undecided::Failed(error)
    }

    /// Which lease of these transactions is not alive.
    async fn lost_lease(&self, txns: &[&Txn]) -> Result<LeaseId, Error> {
        let mut leases: Vec<LeaseId> = txns
            .iter()
            .flat_map(|txn| &txn.ops)
            .filter_map(|op| match op {
                Op::Put { lease, .. } => *lease,
                Op::Delete(_) | Op::DeletePrefix(_) => None,
            })
            .collect();
        leases.dedup();
        let Some(last) = leases.pop() else { return Err(open("etcd misses a lease where there is none")) };
        for lease in leases {
            let question = LeaseRequest { id: lease.get().cast_signed() };
            let path = "/etcdserverpb.Lease/LeaseTimeToLive";
            let answer: LeaseTimeResponse = self.shared.client.call("look at a lease", path, &question, ANSWER).await?;
            if answer.ttl <= 0 {
                return Ok(lease);
            }
        }
        Ok(last)
    }
}
