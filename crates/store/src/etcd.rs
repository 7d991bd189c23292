//! The backend on etcd: several servers share one store.
//!
//! Start reading at [`layout`] (where things lie), [`slot`] (how a write happens once) and [`group`] (what is written
//! together); [`lane`] does both, and [`client`] asks the members.
//!
//! A revision of etcd numbers the changes of all its users, so between two of ours there may be others. Whoever waits
//! until a replica has reached a revision would then wait in vain, for nothing of ours happens there. So when a watch
//! does not reach a revision by itself, the header is written anew: whoever watches everything sees that revision, and
//! with it that nothing was missed before.

mod client;
mod group;
mod lane;
mod layout;
mod proto;
mod settings;
mod slot;
mod watch;

#[cfg(test)]
mod tests;

pub use settings::EtcdSettings;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use lictor_task::{Scope, clock};
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::lease::LONGEST_TTL;
use crate::store::{Backend, Boxed};
use crate::{Entry, Error, LeaseId, Op, Outcome, Revision, Scan, Txn, Watch};
use client::{ANSWER, Client, Fault, PATIENCE, is_compacted, is_lease_gone};
use group::Queue;
use lane::Lane;
use layout::{Layout, Span};
use proto::{
    DeleteRangeRequest, DeleteRangeResponse, LeaseGrantRequest, LeaseGrantResponse, LeaseRequest, LeaseRevokeResponse,
    LeaseTimeResponse, PutRequest, RangeRequest, RangeResponse, Request, Target, TxnRequest, TxnResponse,
};
use slot::Slot;
use watch::Observer;

/// How many entries are read at a time.
const PAGE: i64 = 512;

/// How long one page may take.
const PAGE_LIMIT: Duration = Duration::from_secs(15);

/// Between two looks whether the member that is asked still answers.
const PROBE: Duration = Duration::from_secs(1);

/// How long a watch may take to reach a revision before it is helped.
const NUDGE: Duration = Duration::from_millis(25);

/// How many groups of transactions are under way at a time. With one, whoever comes just behind it waits for it as well;
/// with many, there is little for each to share.
const LANES: usize = 2;

/// How long goodbyes may take.
const FAREWELL: Duration = Duration::from_secs(1);

const RANGE: &str = "/etcdserverpb.KV/Range";
const TXN: &str = "/etcdserverpb.KV/Txn";

/// See [`Store::open_etcd`](crate::Store::open_etcd).
pub(crate) struct Etcd {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    lanes: tokio::sync::Mutex<Vec<JoinHandle<Option<()>>>>,
}

/// What the handle and its tasks share.
pub(crate) struct Shared {
    client: Client,
    layout: Layout,
    /// First part of the names of this handle's slots.
    owner: String,
    slots_made: AtomicU32,
    phase: tokio::sync::watch::Sender<Phase>,
    scope: Scope,
    observers: Mutex<Vec<Weak<Observer>>>,
    /// The latest revision of etcd that whoever watches everything has seen or is certain to see.
    known: tokio::sync::watch::Sender<i64>,
    /// The latest revision that somebody waits for.
    wanted: tokio::sync::watch::Sender<i64>,
    /// Counts how often etcd's history turned out to be another one.
    rewinds: tokio::sync::watch::Sender<u64>,
}

/// Whether the store still answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Open,
    Closed,
}

impl Etcd {
    /// Finds the store in etcd, or founds it. Waits for as long as no member answers.
    pub(crate) async fn open(settings: &EtcdSettings, least: Revision) -> Result<Etcd, Error> {
        let client = Client::new(settings)?;
        let root = settings.root();
        let (layout, seen) = loop {
            match find(&client, &root, least).await {
                Err(Error::Unreachable { .. }) => {}
                decided => break decided?,
            }
        };
        let shared = Arc::new(Shared {
            client,
            layout,
            owner: format!("{:016x}", fastrand::u64(..)),
            slots_made: AtomicU32::new(0),
            phase: tokio::sync::watch::Sender::new(Phase::Open),
            scope: Scope::new("store"),
            observers: Mutex::default(),
            known: tokio::sync::watch::Sender::new(seen),
            wanted: tokio::sync::watch::Sender::new(seen),
            rewinds: tokio::sync::watch::Sender::new(0),
        });
        shared.scope.spawn("etcd probe", Arc::clone(&shared).probe());
        shared.scope.spawn("etcd nudge", Arc::clone(&shared).nudge());
        shared.scope.spawn("etcd slots", Arc::clone(&shared).sweep());
        let queue = Arc::new(Queue::new());
        let lane = |_| shared.scope.spawn("etcd writes", Lane::new(Arc::clone(&shared), Arc::clone(&queue)).run());
        let lanes = tokio::sync::Mutex::new((0..LANES).map(lane).collect());
        Ok(Etcd { shared, queue, lanes })
    }

    fn open_still(&self) -> Result<(), Error> {
        match *self.shared.phase.borrow() {
            Phase::Open => Ok(()),
            Phase::Closed => Err(Error::Closed),
        }
    }

    async fn decide(&self, txn: Txn) -> Result<Outcome, Error> {
        self.open_still()?;
        if txn.ops.is_empty() {
            return self.compare(&txn).await;
        }
        self.queue.commit(txn).await
    }

    /// A transaction that only asks.
    async fn compare(&self, txn: &Txn) -> Result<Outcome, Error> {
        let Shared { client, layout, .. } = &*self.shared;
        let compare = txn.compares.iter().map(|compare| slot::condition(layout, compare)).collect();
        let question = TxnRequest { compare, ..TxnRequest::default() };
        let answer: TxnResponse = client.call("compare", TXN, &question, ANSWER).await?;
        let revision = answer.header.map_or(0, |header| header.revision);
        self.shared.want(revision);
        let revision = layout.revision(revision);
        Ok(if answer.succeeded { Outcome::Applied(revision) } else { Outcome::Conflict(revision) })
    }

    async fn read_all(&self, prefix: Bytes) -> Result<Scan, Error> {
        self.open_still()?;
        loop {
            // When etcd forgets the revision that is being read, a newer one is as good.
            if let Some(scan) = self.read_at_once(&prefix).await? {
                return Ok(scan);
            }
        }
    }

    /// Everything below a prefix, page by page at one revision; `None` when that revision is gone.
    async fn read_at_once(&self, prefix: &[u8]) -> Result<Option<Scan>, Error> {
        let Shared { client, layout, .. } = &*self.shared;
        let Span { key, end } = layout.below(prefix);
        let mut question = RangeRequest { key, range_end: end, limit: PAGE, revision: 0 };
        let mut entries = Vec::new();
        loop {
            let asked = client.repeat(|| client.attempt::<_, RangeResponse>(RANGE, &question, PAGE_LIMIT)).await;
            let answer = match asked {
                Err(Fault::Refused(status)) if is_compacted(&status) => return Ok(None),
                asked => asked.map_err(|fault| client.error("read everything", fault))?,
            };
            if question.revision == 0 {
                question.revision = answer.header.map_or(0, |header| header.revision);
            }
            let last = answer.kvs.last().map(|kv| kv.key.clone());
            entries.extend(answer.kvs.into_iter().filter_map(|kv| layout.entry(kv)));
            match last {
                Some(last) if answer.more => question.key = [&last, &b"\0"[..]].concat().into(),
                _ => break,
            }
        }
        Ok(Some(Scan { revision: layout.revision(question.revision), entries }))
    }

    async fn read_one(&self, key: Bytes) -> Result<Option<Entry>, Error> {
        self.open_still()?;
        let Shared { client, layout, .. } = &*self.shared;
        if key.is_empty() {
            return Ok(None);
        }
        let question = RangeRequest { key: layout.key(&key), ..RangeRequest::default() };
        let answer: RangeResponse = client.call("read", RANGE, &question, ANSWER).await?;
        Ok(answer.kvs.into_iter().next().and_then(|kv| layout.entry(kv)))
    }

    async fn begin_lease(&self, ttl: Duration) -> Result<LeaseId, Error> {
        self.open_still()?;
        let seconds = ttl.min(LONGEST_TTL).as_millis().div_ceil(1000).max(1);
        let question = LeaseGrantRequest { ttl: i64::try_from(seconds).unwrap_or(i64::MAX) };
        // Asked twice there is a lease that nobody knows, which ends by itself.
        let path = "/etcdserverpb.Lease/LeaseGrant";
        let answer: LeaseGrantResponse = self.shared.client.call("grant a lease", path, &question, ANSWER).await?;
        LeaseId::new(answer.id.cast_unsigned()).ok_or_else(|| open("etcd granted a lease without a number"))
    }

    async fn renew(&self, lease: LeaseId) -> Result<(), Error> {
        self.open_still()?;
        let client = &self.shared.client;
        let question = LeaseRequest { id: lease.get().cast_signed() };
        let renewed = client
            .repeat(|| async {
                let turn = *client.turn().borrow();
                let mut answers = client
                    .stream::<_, LeaseTimeResponse>("/etcdserverpb.Lease/LeaseKeepAlive", question.clone())
                    .await?;
                match timeout(ANSWER, answers.message()).await {
                    Ok(Ok(Some(answer))) => Ok(answer.ttl),
                    Ok(Ok(None)) => Err(Fault::Uncertain("etcd ended the stream".into())),
                    Ok(Err(status)) if is_lease_gone(&status) => Ok(0),
                    Ok(Err(status)) => Err(Fault::Uncertain(settings::chain(&status))),
                    Err(_) => {
                        let detail = "no answer to keeping a lease alive".to_owned();
                        client.failed(turn, &detail);
                        Err(Fault::Uncertain(detail))
                    }
                }
            })
            .await
            .map_err(|fault| client.error("keep a lease alive", fault))?;
        if renewed > 0 { Ok(()) } else { Err(Error::LeaseLost(lease)) }
    }

    async fn end_lease(&self, lease: LeaseId) -> Result<(), Error> {
        self.open_still()?;
        let client = &self.shared.client;
        let question = LeaseRequest { id: lease.get().cast_signed() };
        let mut tries = 0_usize;
        let path = "/etcdserverpb.Lease/LeaseRevoke";
        let ended = client
            .repeat(|| {
                tries += 1;
                client.attempt::<_, LeaseRevokeResponse>(path, &question, ANSWER)
            })
            .await;
        match ended {
            Ok(LeaseRevokeResponse {}) => Ok(()),
            // The first try may have been the one that ended it.
            Err(Fault::Refused(status)) if is_lease_gone(&status) && tries > 1 => Ok(()),
            Err(Fault::Refused(status)) if is_lease_gone(&status) => Err(Error::LeaseLost(lease)),
            Err(fault) => Err(client.error("revoke a lease", fault)),
        }
    }

    async fn shut(&self) {
        if self.open_still().is_err() {
            return;
        }
        // What was asked for before is done.
        self.queue.close();
        let lanes = std::mem::take(&mut *self.lanes.lock().await);
        let written = async {
            for lane in lanes {
                // One that panicked has said so in the log.
                let _ = lane.await;
            }
        };
        let written = timeout(PATIENCE, written).await;
        self.shared.phase.send_replace(Phase::Closed);
        self.shared.scope.stop();
        if written.is_err() {
            return;
        }
        let Shared { client, layout, owner, .. } = &*self.shared;
        let Span { key, end } = layout.slots_of(owner);
        let question = DeleteRangeRequest { key, range_end: end };
        // What stays behind is swept by another server some day.
        let _ = client.attempt::<_, DeleteRangeResponse>("/etcdserverpb.KV/DeleteRange", &question, FAREWELL).await;
    }
}

/// An error that leaves open what became of a write.
fn open(detail: &str) -> Error {
    Error::Open { detail: detail.to_owned() }
}

/// The layout of the store below a root, and a revision of etcd that every watch of the whole will see.
async fn find(client: &Client, root: &str, least: Revision) -> Result<(Layout, i64), Error> {
    let blank = Layout::new(root, 0);
    let look = RangeRequest { key: blank.header(), ..RangeRequest::default() };
    let found: RangeResponse = client.call("read the store's header", RANGE, &look, ANSWER).await?;
    let layout = match found.kvs.first() {
        Some(kv) => blank.with_offset(
            Layout::parse_header(&kv.value)
                .map_err(|detail| Error::Refused { operation: "be opened as a store", detail })?,
        ),
        None => {
            // The revision that the founding will have is greater than the one just seen.
            let seen = u64::try_from(found.header.map_or(0, |header| header.revision)).unwrap_or_default();
            let layout = blank.with_offset(least.0.saturating_sub(seen));
            let put = PutRequest { key: layout.header(), value: layout.header_text().into(), ..PutRequest::default() };
            let absent = slot::condition(&layout, &crate::Compare::Absent(Bytes::new()));
            let found =
                TxnRequest { compare: vec![absent], success: vec![Request::Put(put).into()], ..TxnRequest::default() };
            let _: TxnResponse = client.call("write the store's header", TXN, &found, ANSWER).await?;
            // Another server may have been faster, with another offset.
            let found: RangeResponse = client.call("read the store's header", RANGE, &look, ANSWER).await?;
            let text = found.kvs.first().map(|kv| kv.value.clone()).unwrap_or_default();
            blank.with_offset(
                Layout::parse_header(&text)
                    .map_err(|detail| Error::Refused { operation: "be founded as a store", detail })?,
            )
        }
    };
    let seen = touch(client, &layout).await?;
    Ok((layout, seen))
}

/// See [`Store::remove_etcd`](crate::Store::remove_etcd).
pub(crate) async fn remove(settings: &EtcdSettings, only_with: &[u8]) -> Result<(), Error> {
    let client = Client::new(settings)?;
    let layout = Layout::new(&settings.root(), 0);
    let there = slot::condition(&layout, &crate::Compare::Exists(Bytes::copy_from_slice(only_with)));
    let spans = [Span { key: layout.header(), end: layout.below(b"").end }, layout.slots()];
    let delete = |Span { key, end }| Request::DeleteRange(DeleteRangeRequest { key, range_end: end }).into();
    let question = TxnRequest { compare: vec![there], success: spans.map(delete).into(), ..TxnRequest::default() };
    let answer: TxnResponse = client.call("remove a store", TXN, &question, ANSWER).await?;
    if answer.succeeded {
        Ok(())
    } else {
        Err(Error::Refused { operation: "be removed", detail: "it is not one that was left behind".into() })
    }
}

/// Gives the header a new revision, which every watch of the whole will see.
async fn touch(client: &Client, layout: &Layout) -> Result<i64, Error> {
    let put = PutRequest { key: layout.header(), ignore_value: true, ..PutRequest::default() };
    // Nested, a full etcd takes it too: it is small, and without it consistent reads would end.
    let nested = TxnRequest { success: vec![Request::Put(put).into()], ..TxnRequest::default() };
    let there = slot::condition(layout, &crate::Compare::Exists(Bytes::new()));
    let question =
        TxnRequest { compare: vec![there], success: vec![Request::Txn(nested).into()], ..TxnRequest::default() };
    let answer: TxnResponse = client.call("touch the store's header", TXN, &question, ANSWER).await?;
    if answer.succeeded {
        Ok(answer.header.map_or(0, |header| header.revision))
    } else {
        Err(Error::Refused {
            operation: "go on",
            detail: "the store's header is gone: somebody deleted the store".into(),
        })
    }
}

impl Shared {
    pub(crate) fn layout(&self) -> Layout {
        self.layout.clone()
    }

    fn observe(&self, observer: &Arc<Observer>) {
        let mut observers = self.observers.lock();
        observers.retain(|known| known.strong_count() > 0);
        observers.push(Arc::downgrade(observer));
    }

    /// A slot that was never used.
    fn new_slot(&self) -> Slot {
        let number = self.slots_made.fetch_add(1, Ordering::Relaxed);
        Slot { key: self.layout.slot(&self.owner, number), modified: 0 }
    }

    /// Transactions of this handle were applied, none or some, and its slot was changed.
    fn changed<'a>(&self, done: impl Iterator<Item = &'a Txn>, revision: i64) {
        let done: Vec<&Txn> = done.collect();
        for observer in self.observers.lock().iter().filter_map(Weak::upgrade) {
            let touches = done.iter().flat_map(|txn| &txn.ops).any(|op| match op {
                Op::Put { key, .. } | Op::Delete(key) => key.starts_with(&observer.prefix),
                Op::DeletePrefix(prefix) => prefix.starts_with(&observer.prefix) || observer.prefix.starts_with(prefix),
            });
            if touches {
                observer.due.fetch_max(revision, Ordering::AcqRel);
            }
        }
        self.delivered(revision);
    }

    /// Whoever watches everything has seen this revision or will.
    fn delivered(&self, revision: i64) {
        self.known.send_if_modified(|known| raise(known, revision));
    }

    /// Somebody will wait until a watch has reached this revision.
    fn want(&self, revision: i64) {
        if *self.known.borrow() < revision {
            self.wanted.send_if_modified(|wanted| raise(wanted, revision));
        }
    }

    /// Helps watches to a revision at which nothing of ours happened.
    async fn nudge(self: Arc<Self>) {
        let stop = self.scope.stop_signal();
        let mut wanted = self.wanted.subscribe();
        while let Some(Ok(())) = stop.or_stopped(wanted.changed()).await {
            let mut known = self.known.subscribe();
            loop {
                let goal = *wanted.borrow_and_update();
                if timeout(NUDGE, known.wait_for(|known| *known >= goal)).await.is_ok() {
                    break;
                }
                match stop.or_stopped(touch(&self.client, &self.layout)).await {
                    Some(Ok(revision)) => {
                        // A write is behind all that is stored: what was wanted beyond it is in a history that is no more
                        // (a restored backup), and no number of writes would be right to get there.
                        self.wanted.send_if_modified(|wanted| {
                            let is_lost = *wanted == goal && revision < goal;
                            if is_lost {
                                *wanted = revision;
                            }
                            is_lost
                        });
                        self.delivered(revision);
                    }
                    Some(Err(error)) => {
                        tracing::debug!("store: {error}");
                        // Whoever waits goes on waiting, and nothing else may come to help.
                        if stop.or_stopped(sleep(PROBE)).await.is_none() {
                            return;
                        }
                    }
                    None => return,
                }
            }
        }
    }

    /// Looks whether the member that is asked answers, so that a silent one is noticed although nobody asks.
    async fn probe(self: Arc<Self>) {
        let stop = self.scope.stop_signal();
        let look = RangeRequest { key: self.layout.header(), ..RangeRequest::default() };
        while stop.or_stopped(sleep(PROBE)).await.is_some() {
            let known = *self.known.borrow();
            let Some(answer) = stop.or_stopped(self.client.attempt::<_, RangeResponse>(RANGE, &look, ANSWER)).await
            else {
                return;
            };
            let revision = answer.ok().and_then(|answer| answer.header).map(|header| header.revision);
            if let Some(revision) = revision.filter(|revision| *revision < known) {
                tracing::error!(
                    "store: etcd went back from revision {known} to {revision} (restored from a backup?): reading \
                     everything again"
                );
                // What was wanted lies in a history that is no more: later wishes count again.
                self.wanted.send_replace(revision);
                self.known.send_replace(revision);
                self.rewinds.send_modify(|rewinds| *rewinds += 1);
            }
        }
    }

    /// Removes the slots that servers left behind which did not end in order.
    async fn sweep(self: Arc<Self>) {
        let stop = self.scope.stop_signal();
        let Span { key, end } = self.layout.slots();
        let look = RangeRequest { key, range_end: end, ..RangeRequest::default() };
        let Some(Ok(found)) = stop.or_stopped(self.client.attempt::<_, RangeResponse>(RANGE, &look, ANSWER)).await
        else {
            return;
        };
        let oldest = clock::unix_seconds() - slot::LEFT_BEHIND;
        let left_behind = found.kvs.into_iter().filter(|kv| slot::used_at(&kv.value).is_none_or(|used| used < oldest));
        for kv in left_behind {
            let unchanged = proto::Compare {
                result: proto::EQUAL,
                target: proto::MOD,
                key: kv.key.clone(),
                value: Some(Target::ModRevision(kv.mod_revision)),
                range_end: Bytes::new(),
            };
            let delete = Request::DeleteRange(DeleteRangeRequest { key: kv.key, ..DeleteRangeRequest::default() });
            let question =
                TxnRequest { compare: vec![unchanged], success: vec![delete.into()], ..TxnRequest::default() };
            let swept = stop.or_stopped(self.client.attempt::<_, TxnResponse>(TXN, &question, ANSWER)).await;
            if !matches!(swept, Some(Ok(_))) {
                return;
            }
        }
    }
}

/// Raises a number; whether it was lower.
fn raise(number: &mut i64, to: i64) -> bool {
    let lower = *number < to;
    if lower {
        *number = to;
    }
    lower
}

impl Backend for Etcd {
    fn commit(&self, txn: Txn) -> Boxed<'_, Result<Outcome, Error>> {
        Box::pin(self.decide(txn))
    }

    fn scan(&self, prefix: Bytes) -> Boxed<'_, Result<Scan, Error>> {
        Box::pin(self.read_all(prefix))
    }

    fn get(&self, key: Bytes) -> Boxed<'_, Result<Option<Entry>, Error>> {
        Box::pin(self.read_one(key))
    }

    fn watch(&self, prefix: Bytes, after: Revision) -> Boxed<'_, Result<Watch, Error>> {
        Box::pin(async move {
            self.open_still()?;
            let position = watch::position(&self.shared, after)?;
            Ok(Watch::new(watch::start(&self.shared, prefix, position).await?))
        })
    }

    fn current(&self) -> Boxed<'_, Result<Revision, Error>> {
        Box::pin(async move {
            self.open_still()?;
            let Shared { client, layout, .. } = &*self.shared;
            let question = RangeRequest { key: layout.header(), ..RangeRequest::default() };
            let answer: RangeResponse = client.call("ask for the revision", RANGE, &question, ANSWER).await?;
            let revision = answer.header.map_or(0, |header| header.revision);
            self.shared.want(revision);
            Ok(layout.revision(revision))
        })
    }

    fn grant(&self, ttl: Duration) -> Boxed<'_, Result<LeaseId, Error>> {
        Box::pin(self.begin_lease(ttl))
    }

    fn keep_alive(&self, lease: LeaseId) -> Boxed<'_, Result<(), Error>> {
        Box::pin(self.renew(lease))
    }

    fn revoke(&self, lease: LeaseId) -> Boxed<'_, Result<(), Error>> {
        Box::pin(self.end_lease(lease))
    }

    fn close(&self) -> Boxed<'_, ()> {
        Box::pin(self.shut())
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.queue.close();
        self.shared.phase.send_replace(Phase::Closed);
        self.shared.scope.stop();
    }
}
