//! A watch that goes on after anything: another member, a cut connection, an election; only lost history ends it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use lictor_task::Backoff;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tonic::Streaming;

use super::client::{ANSWER, Fault};
use super::proto::{WatchAsk, WatchCreateRequest, WatchRequest, WatchResponse};
use super::{Phase, Shared};
use crate::store::Boxed;
use crate::watch::Changes;
use crate::{Change, Error, Revision};

/// How many changes wait for a watcher that does not read. Behind them etcd keeps what comes.
const AHEAD: usize = 1024;

/// First and longest pause between two tries to go on.
const RETRY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// How long a watch of a closed store waits for changes that are known to be coming.
const LAST_CHANGES: Duration = Duration::from_secs(2);

/// What the rest of the store knows of a watch.
#[derive(Debug)]
pub(crate) struct Observer {
    pub(crate) prefix: Bytes,
    /// The latest revision of etcd at which this handle itself changed something that is watched.
    pub(crate) due: AtomicI64,
}

/// The receiving end.
pub(crate) struct Inbox(pub(crate) mpsc::Receiver<Result<Change, Error>>);

impl Changes for Inbox {
    fn next(&mut self) -> Boxed<'_, Option<Result<Change, Error>>> {
        Box::pin(self.0.recv())
    }
}

/// Starts a watch after a revision of etcd; returns when it stands.
pub(crate) async fn start(shared: &Arc<Shared>, prefix: Bytes, after: i64) -> Result<Inbox, Error> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    let (standing, stands) = oneshot::channel();
    let observer = Arc::new(Observer { prefix, due: AtomicI64::new(0) });
    shared.observe(&observer);
    let follower = Follower { shared: Arc::clone(shared), observer, position: after, sender, standing: Some(standing) };
    shared.scope.spawn("watch", follower.run());
    // It is dropped without a word only when the store is closed.
    stands.await.unwrap_or(Err(Error::Closed))?;
    Ok(Inbox(receiver))
}

struct Follower {
    shared: Arc<Shared>,
    observer: Arc<Observer>,
    /// The revision of etcd up to which all was passed on.
    position: i64,
    sender: mpsc::Sender<Result<Change, Error>>,
    /// Whom to tell that the watch stands, until then.
    standing: Option<oneshot::Sender<Result<(), Error>>>,
}

/// Why a stream ended.
enum End {
    /// Try again.
    Broken(String),
    /// The history after the position is gone, up to this revision of etcd.
    Compacted(i64),
    /// Nobody reads any more.
    Over,
}

impl Follower {
    async fn run(mut self) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut phase = self.shared.phase.subscribe();
        let mut rewinds = self.shared.rewinds.subscribe();
        let end = tokio::time::Instant::now() + super::client::PATIENCE;
        loop {
            let before = self.position;
            let broken = tokio::select! {
                end = self.follow() => match end {
                    End::Broken(detail) => detail,
                    End::Compacted(oldest) => return self.give_up(oldest).await,
                    End::Over => return,
                },
                Ok(()) = rewinds.changed() => {
                    let now = *self.shared.known.borrow();
                    return self.give_up(now).await;
                },
                () = closed(&mut phase) => {
                    // What this handle itself has changed is still shown.
                    let _ = timeout(LAST_CHANGES, self.finish()).await;
                    return;
                }
            };
            if self.position > before {
                backoff.reset();
            }
            if self.standing.is_some() && tokio::time::Instant::now() > end {
                let error = self.shared.client.error("watch", Fault::Unsent(broken));
                self.stands(Err(error));
                return;
            }
            tracing::debug!("store: a watch was broken and goes on: {broken}");
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    fn stands(&mut self, outcome: Result<(), Error>) {
        if let Some(standing) = self.standing.take() {
            // Who asked may have gone away.
            let _ = standing.send(outcome);
        }
    }

    async fn give_up(mut self, oldest: i64) {
        let oldest = self.shared.layout().revision(oldest);
        if self.standing.is_some() {
            return self.stands(Err(Error::Compacted { oldest }));
        }
        // Who watched may have gone away.
        let _ = self.sender.send(Err(Error::Lagged { oldest })).await;
    }

    async fn finish(&mut self) {
        while self.position < self.observer.due.load(Ordering::Acquire) {
            match self.follow().await {
                End::Broken(_) => tokio::time::sleep(RETRY.0).await,
                End::Compacted(_) | End::Over => return,
            }
        }
    }

    /// Whether the store is closed and all that was to come has come.
    fn is_done(&self) -> bool {
        *self.shared.phase.borrow() == Phase::Closed && self.position >= self.observer.due.load(Ordering::Acquire)
    }

    async fn follow(&mut self) -> End {
        let layout = self.shared.layout();
        let mut turn = self.shared.client.turn();
        let seen = *turn.borrow_and_update();
        let span = layout.watched(&self.observer.prefix);
        let create = WatchCreateRequest {
            key: span.key,
            range_end: span.end,
            start_revision: self.position + 1,
            progress_notify: true,
            fragment: true,
        };
        let question = WatchRequest { ask: Some(WatchAsk::Create(create)) };
        let mut stream: Streaming<WatchResponse> =
            match self.shared.client.stream("/etcdserverpb.Watch/Watch", question).await {
                Ok(stream) => stream,
                Err(Fault::Unsent(detail) | Fault::Uncertain(detail)) => return End::Broken(detail),
                Err(Fault::Refused(status)) => return self.refused(status.message().to_owned()).await,
            };
        let mut events = Vec::new();
        let mut created = false;
        loop {
            let answer = tokio::select! {
                answer = stream.message() => answer,
                _ = turn.changed() => return End::Broken("another member is asked".into()),
                () = self.sender.closed() => return End::Over,
                () = tokio::time::sleep(ANSWER), if !created => {
                    let detail = "no answer to the beginning of a watch";
                    self.shared.client.failed(seen, detail);
                    return End::Broken(detail.into());
                }
            };
            let answer = match answer {
                Ok(Some(answer)) => answer,
                Ok(None) => return End::Broken("etcd ended the stream".into()),
                Err(status) => return End::Broken(super::settings::chain(&status)),
            };
            if answer.canceled {
                return match answer.compact_revision {
                    0 => self.refused(answer.cancel_reason).await,
                    oldest => End::Compacted(oldest),
                };
            }
            if answer.created {
                created = true;
                self.stands(Ok(()));
                continue;
            }
            if answer.events.is_empty() && events.is_empty() {
                // Nothing up to here, says etcd, so nothing before it is needed to go on.
                let revision = answer.header.map_or(0, |header| header.revision);
                self.position = self.position.max(revision);
                continue;
            }
            events.extend(answer.events);
            if answer.fragment {
                continue;
            }
            for change in layout.changes(std::mem::take(&mut events), self.position) {
                let Some(revision) = layout.etcd_revision(change.revision) else { continue };
                if self.sender.send(Ok(change)).await.is_err() {
                    return End::Over;
                }
                self.position = revision;
                self.shared.delivered(revision);
            }
            if self.is_done() {
                return End::Over;
            }
        }
    }

    /// Etcd does not want this watch now: without leader it says so and ends it; without rights it will do so again.
    async fn refused(&mut self, reason: String) -> End {
        if !reason.contains("no leader") {
            tracing::warn!("store: etcd ended a watch: {reason}; trying again");
            tokio::time::sleep(RETRY.1).await;
        }
        End::Broken(reason)
    }
}

/// Waits until the store is closed.
async fn closed(phase: &mut tokio::sync::watch::Receiver<Phase>) {
    // A sender that is gone has closed it before.
    let _ = phase.wait_for(|phase| *phase == Phase::Closed).await;
}

/// The store's revision that a watch begins after, in etcd's numbers.
pub(crate) fn position(shared: &Shared, after: Revision) -> Result<i64, Error> {
    let layout = shared.layout();
    layout.etcd_revision(after).ok_or_else(|| Error::Compacted { oldest: layout.revision(0) })
}
