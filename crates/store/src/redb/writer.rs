//! The one thread that writes the store file: it gathers what was asked for, and one `fsync` serves them all.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use crate::batch::{Batch, Staged};
use crate::redb::log::{Fate, Log};
use crate::replica::Replica;
use crate::{Error, LeaseId, Outcome, Txn};

/// How many requests may wait; further callers wait for room. More than can ever be in one batch to good effect.
pub(crate) const QUEUE: usize = 1024;

/// When a batch is large enough: beyond this, sharing the `fsync` gains little and the first waits for the last.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// A batch that takes this long is worth waiting for callers that are about to ask again.
const SLOW: Duration = Duration::from_millis(2);

/// How long to wait for them.
const LINGER: Duration = Duration::from_micros(250);

/// Where the answer goes. The asker may be gone, which is no concern of the writer's.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// What can be asked of the writer.
pub(crate) enum Request {
    Commit(Txn, Reply<Outcome>),
    Grant(Duration, Reply<LeaseId>),
    Revoke(LeaseId, Reply<()>),
    Expire(Reply<()>),
    Close(Reply<()>),
}

/// What will be answered once the batch is durable.
enum Answer {
    Outcome(Reply<Outcome>, Result<Outcome, Error>),
    Lease(Reply<LeaseId>, LeaseId),
    Done(Reply<()>, Result<(), Error>),
}

pub(crate) struct Writer {
    log: Log,
    replica: Arc<Replica>,
    queue: mpsc::Receiver<Request>,
    /// A batch whose callers were told that it failed, and of which it is not known yet whether the file has it.
    doubt: Option<Staged>,
    disk: Condition,
    last: Pace,
}

/// How the last batch went.
#[derive(Clone, Copy, Default)]
struct Pace {
    requests: usize,
    took: Duration,
}

/// Whether the disk took the last write; so that a failing disk is one line in the log and not one per write.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Condition {
    Working,
    Failing,
}

impl Writer {
    /// Starts the thread. It ends when it is asked to close or when nobody can ask it any more.
    pub(crate) fn start(log: Log, replica: Arc<Replica>, queue: mpsc::Receiver<Request>) -> Result<(), Error> {
        let path = log.path().to_owned();
        let writer = Writer { log, replica, queue, doubt: None, disk: Condition::Working, last: Pace::default() };
        let run = move || {
            if catch_unwind(AssertUnwindSafe(|| writer.run())).is_err() {
                tracing::error!("store: the writer of {} panicked; nothing can be written any more", path.display());
            }
        };
        thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(run)
            .map_err(|source| Error::Thread { name: "store writer", source: Arc::new(source) })?;
        Ok(())
    }

    fn run(mut self) {
        let mut closers = Vec::new();
        while let Some(first) = self.queue.blocking_recv() {
            let round = self.gather(first, &mut closers);
            if !closers.is_empty() {
                // What is in the queue already is still served; then receiving ends.
                self.queue.close();
            }
            if !round.is_empty() {
                self.serve(round);
            }
        }
        let Writer { log, replica, .. } = self;
        drop(log);
        replica.close();
        for closer in closers {
            let _ = closer.send(Ok(()));
        }
    }

    /// Everything that waits now, up to a full batch.
    fn gather(&mut self, first: Request, closers: &mut Vec<Reply<()>>) -> Vec<Request> {
        let mut round = Round::default();
        round.take(first, closers);
        self.drain(&mut round, closers);
        // Those who were answered a moment ago are about to ask again. Not waiting for them splits the callers into
        // two halves that take turns, and each write then waits for two `fsync`s. Where those are slow a little waiting is
        // made up for; where they are fast, callers are not back that soon, and the disk would only be idle.
        if self.last.requests > 1 && self.last.took >= SLOW && !round.is_full() && closers.is_empty() {
            thread::sleep(LINGER);
            self.drain(&mut round, closers);
        }
        round.requests
    }

    fn drain(&mut self, round: &mut Round, closers: &mut Vec<Reply<()>>) {
        while !round.is_full() {
            let Ok(request) = self.queue.try_recv() else { return };
            round.take(request, closers);
        }
    }

    /// Decides, writes, shows, answers.
    fn serve(&mut self, round: Vec<Request>) {
        let (start, requests) = (Instant::now(), round.len());
        if let Err(error) = self.settle_doubt() {
            for request in round {
                request.refuse(&error);
            }
            return;
        }
        let (answers, staged) = match self.replica.read() {
            Ok(keyspace) => {
                let mut batch = Batch::new(&keyspace);
                let answers: Vec<Answer> = round.into_iter().filter_map(|request| request.decide(&mut batch)).collect();
                (answers, batch.finish())
            }
            // Only this thread closes the replica, and serves nothing after that.
            Err(_) => return,
        };
        let written = if staged.is_empty() { Ok(()) } else { self.write(staged) };
        for answer in answers {
            answer.give(written.as_ref().err());
        }
        self.last = Pace { requests, took: start.elapsed() };
    }

    /// Makes a batch durable and then visible.
    fn write(&mut self, staged: Staged) -> Result<(), Error> {
        let error = match self.log.append(&staged) {
            Ok(()) => {
                self.replica.publish(staged);
                self.disk_is(Condition::Working, None);
                return Ok(());
            }
            Err(error) => error,
        };
        self.disk_is(Condition::Failing, Some(&error));
        self.doubt = Some(staged);
        match self.settle_doubt() {
            // It is durable after all.
            Ok(Some(Fate::Kept)) => Ok(()),
            Ok(Some(Fate::Lost) | None) | Err(_) => Err(error),
        }
    }

    /// Makes the file usable after a failure. A batch that turns out to be in it is shown: what the file has and what
    /// readers see never differ.
    fn settle_doubt(&mut self) -> Result<Option<Fate>, Error> {
        if !self.log.needs_recovery() {
            return Ok(None);
        }
        // The disk may be slow to fail; readers are not made to wait for it.
        match self.log.recover(|| Ok(self.replica.read()?.image())) {
            Ok(fate) => {
                if let (Fate::Kept, Some(staged)) = (fate, self.doubt.take()) {
                    self.replica.publish(staged);
                }
                self.doubt = None;
                Ok(Some(fate))
            }
            Err(error) => {
                self.disk_is(Condition::Failing, Some(&error));
                Err(error)
            }
        }
    }

    fn disk_is(&mut self, condition: Condition, error: Option<&Error>) {
        if self.disk == condition {
            return;
        }
        self.disk = condition;
        match error {
            Some(error) => {
                let cause = std::error::Error::source(error).map_or_else(String::new, |cause| format!(": {cause}"));
                tracing::error!("store: {error}{cause}");
            }
            None => tracing::info!("store: {} can be written again", self.log.path().display()),
        }
    }
}

/// Requests that will share an `fsync`.
#[derive(Default)]
struct Round {
    requests: Vec<Request>,
    bytes: usize,
}

impl Round {
    fn take(&mut self, request: Request, closers: &mut Vec<Reply<()>>) {
        match request {
            Request::Close(reply) => closers.push(reply),
            Request::Commit(ref txn, _) => {
                self.bytes += txn.bytes();
                self.requests.push(request);
            }
            Request::Grant(..) | Request::Revoke(..) | Request::Expire(_) => self.requests.push(request),
        }
    }

    fn is_full(&self) -> bool {
        self.requests.len() >= QUEUE || self.bytes >= BATCH_BYTES
    }
}

impl Request {
    /// Decides it within a batch; closing is not decided here.
    fn decide(self, batch: &mut Batch<'_>) -> Option<Answer> {
        match self {
            Request::Commit(txn, reply) => Some(Answer::Outcome(reply, batch.commit(txn))),
            Request::Grant(ttl, reply) => Some(Answer::Lease(reply, batch.grant(ttl))),
            Request::Revoke(lease, reply) => Some(Answer::Done(reply, batch.end_lease(lease))),
            Request::Expire(reply) => {
                batch.expire(Instant::now());
                Some(Answer::Done(reply, Ok(())))
            }
            Request::Close(_) => None,
        }
    }

    fn refuse(self, error: &Error) {
        let error = error.clone();
        // Whoever asked may have gone away meanwhile.
        let _ = match self {
            Request::Commit(_, reply) => reply.send(Err(error)).is_ok(),
            Request::Grant(_, reply) => reply.send(Err(error)).is_ok(),
            Request::Revoke(_, reply) | Request::Expire(reply) | Request::Close(reply) => {
                reply.send(Err(error)).is_ok()
            }
        };
    }
}

impl Answer {
    /// Answers, with the batch's failure if it failed: even a conflict may rest on a write that never happened.
    fn give(self, failure: Option<&Error>) {
        let failure = failure.cloned();
        // Whoever asked may have gone away meanwhile.
        let _ = match self {
            Answer::Outcome(reply, outcome) => reply.send(failure.map_or(outcome, Err)).is_ok(),
            Answer::Lease(reply, lease) => reply.send(failure.map_or(Ok(lease), Err)).is_ok(),
            Answer::Done(reply, done) => reply.send(failure.map_or(done, Err)).is_ok(),
        };
    }
}
