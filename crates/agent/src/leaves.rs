//! Reconciler: leaf certificates, issued when first asked for and renewed before they expire.
//!
//! Callers with the same token share one certificate per service. Renewal is drawn once per certificate, evenly over
//! its later life, so that many do not renew in step; a new root moves it to within half a minute. Both clocks count:
//! a machine that slept finds by its wall clock that a certificate has aged, one whose wall clock was turned back
//! still renews by its monotonic clock.

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use lictor_ca::limit::{MAX_WAIT, MAX_WAIT_OF_OWN};
use lictor_model::acl::Caller;
use lictor_model::revision::Revision;
use lictor_model::root::{IssuedLeaf, Roots};
use lictor_state::Topic;
use lictor_task::{Backoff, clock};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::Error;
use crate::agent::Inner;
use crate::authority::Issued;

/// A leaf that nobody has read for so long is forgotten.
const UNREAD_LIMIT: Duration = Duration::from_secs(72 * 3600);

/// More than a node has services. Without access control anyone can ask for a leaf of any name.
const MOST_LEAVES: usize = 8192;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    token: String,
    service: String,
}

struct Slot {
    leaf: watch::Sender<Option<Arc<IssuedLeaf>>>,
    /// The root that signed it.
    root_id: String,
    /// Renewal by the monotonic clock.
    renew_at: Instant,
    /// Renewal by the wall clock, Unix seconds.
    renew_at_wall: i64,
    read_at: Instant,
    backoff: Backoff,
}

impl Slot {
    /// Without a leaf yet.
    fn new() -> Slot {
        Slot {
            leaf: watch::channel(None).0,
            root_id: String::new(),
            renew_at: Instant::now(),
            renew_at_wall: 0,
            read_at: Instant::now(),
            backoff: Backoff::new(Duration::from_secs(1), Duration::from_secs(60)),
        }
    }
}

/// Forgets a leaf where there are as many as may be: the one that was not read for longest, of those that nobody waits for.
fn make_room(slots: &mut BTreeMap<Key, Slot>) {
    if slots.len() < MOST_LEAVES {
        return;
    }
    let unread = slots.iter().filter(|(_, slot)| slot.leaf.receiver_count() == 0);
    if let Some(key) = unread.min_by_key(|(_, slot)| slot.read_at).map(|(key, _)| key.clone()) {
        slots.remove(&key);
    }
}

/// All leaves of this agent.
#[derive(Default)]
pub(crate) struct Leaves {
    slots: Mutex<BTreeMap<Key, Slot>>,
    /// Those that are being issued: callers that arrive together for one share it, and wait for no other.
    issuing: Mutex<BTreeMap<Key, Arc<tokio::sync::Mutex<()>>>>,
    changed: Notify,
    authorized: AskedBefore,
}

/// Targets that were asked about. They come from requests, so there is a most of them, and only their hashes are kept:
/// with a key of this process, or a client could find names that collide.
#[derive(Default)]
struct AskedBefore {
    key: RandomState,
    seen: Mutex<HashSet<u64>>,
}

/// Forgetting all of so many only means that a header says "miss" once more.
const ASKED_LIMIT: usize = 4096;

impl AskedBefore {
    /// Whether it was asked before; from now on it was.
    fn note(&self, target: &str) -> bool {
        let hash = self.key.hash_one(target);
        let mut seen = self.seen.lock();
        if seen.len() >= ASKED_LIMIT {
            seen.clear();
        }
        !seen.insert(hash)
    }
}

impl Leaves {
    /// Whether authorisation for a target was asked before; the original tells clients by a header, because its
    /// first answer had to be fetched.
    pub(crate) fn asked_before(&self, target: &str) -> bool {
        self.authorized.note(target)
    }

    fn read(&self, key: &Key) -> Option<Arc<IssuedLeaf>> {
        let mut slots = self.slots.lock();
        let slot = slots.get_mut(key)?;
        slot.read_at = Instant::now();

        slot.leaf.borrow().clone()
    }

    /// Where callers for one leaf queue.
    fn issuing(&self, key: &Key) -> Issuing<'_> {
        let lock = Arc::clone(self.issuing.lock().entry(key.clone()).or_default());
        Issuing { leaves: self, key: key.clone(), lock }
    }
}

fn last_revision(slots: &BTreeMap<Key, Slot>) -> Revision {
    let revisions = slots.values().filter_map(|slot| slot.leaf.borrow().as_ref().map(|leaf| leaf.revision));
    revisions.max().unwrap_or_default()
}

/// A place in the queue for one leaf; the last one to leave it takes the queue away.
struct Issuing<'a> {
    leaves: &'a Leaves,
    key: Key,
    lock: Arc<tokio::sync::Mutex<()>>,
}

impl Drop for Issuing<'_> {
    fn drop(&mut self) {
        let mut all = self.leaves.issuing.lock();
        // The map's and ours: nobody else can get one meanwhile.
        if Arc::strong_count(&self.lock) == 2 {
            all.remove(&self.key);
        }
    }
}

impl Inner {
    pub(crate) async fn leaf(
        &self,
        caller: &Caller,
        token: &str,
        service: &str,
    ) -> Result<(Arc<IssuedLeaf>, bool), Error> {
        let key = Key { token: token.to_owned(), service: service.to_owned() };
        if let Some(leaf) = self.leaves.read(&key) {
            return Ok((leaf, true));
        }
        let issuing = self.leaves.issuing(&key);
        let _turn = issuing.lock.lock().await;
        if let Some(leaf) = self.leaves.read(&key) {
            return Ok((leaf, true));
        }
        let patience = if caller.as_proxy().is_some() { MAX_WAIT_OF_OWN } else { MAX_WAIT };
        Ok((self.issue(&key, patience).await?, false))
    }

    pub(crate) async fn leaf_after(
        &self,
        caller: &Caller,
        token: &str,
        service: &str,
        seen: Revision,
    ) -> Result<Arc<IssuedLeaf>, Error> {
        let (leaf, _) = self.leaf(caller, token, service).await?;
        if leaf.revision > seen {
            return Ok(leaf);
        }
        let key = Key { token: token.to_owned(), service: service.to_owned() };
        let mut changes = match self.leaves.slots.lock().get(&key) {
            Some(slot) => slot.leaf.subscribe(),
            None => return Ok(leaf),
        };
        let newer = |leaf: &Option<Arc<IssuedLeaf>>| leaf.as_ref().is_some_and(|leaf| leaf.revision > seen);
        let outcome = changes.wait_for(newer).await.map(|leaf| leaf.clone());
        // The slot was forgotten while we waited: the next read issues a new one.
        Ok(outcome.ok().flatten().unwrap_or(leaf))
    }

    async fn issue(&self, key: &Key, patience: Duration) -> Result<Arc<IssuedLeaf>, Error> {
        let mut issued = match &self.authority {
            None if self.cluster.is_remote() && self.has_mesh() => self.issue_elsewhere(key).await?,
            _ => self.authority()?.issue_leaf(&key.service, patience).await?,
        };
        let mut slots = self.leaves.slots.lock();
        // Readers compare revisions, over restarts of the agent as well: microseconds keep growing and still fit
        // the integers that every JSON reader can hold.
        let now = u64::try_from(clock::unix_nanos() / 1000).unwrap_or_default();
        issued.leaf.revision = Revision(now.max(last_revision(&slots).0 + 1));
        let leaf = Arc::new(issued.leaf);
        let renewal = issued.renew_after;
        if !slots.contains_key(key) {
            make_room(&mut slots);
        }
        let slot = slots.entry(key.clone()).or_insert_with(Slot::new);
        slot.root_id = issued.root_id;
        slot.renew_at = Instant::now() + renewal;
        slot.renew_at_wall = clock::unix_seconds().saturating_add(i64::try_from(renewal.as_secs()).unwrap_or(i64::MAX));
        slot.backoff.reset();
        slot.leaf.send_replace(Some(Arc::clone(&leaf)));
        drop(slots);
        self.leaves.changed.notify_one();
        Ok(leaf)
    }

    /// Makes a key here and has a server sign for it.
    async fn issue_elsewhere(&self, key: &Key) -> Result<Issued, Error> {
        let roots = self.cluster.reader(&Caller::management("")).roots().value;
        let trust_domain =
            roots.trust_domain.as_ref().ok_or_else(|| Error::Refused("cluster has no CA bootstrapped yet".into()))?;
        let (request, key_pem) = Issued::request(trust_domain, &self.config.datacenter, &key.service)?;
        let certified = self.cluster.certify(&self.asker_elsewhere(&key.token).0, &request).await?;
        Ok(Issued::certified(certified, key_pem))
    }

    /// Renews leaves in time until told to stop.
    pub(crate) async fn keep_leaves(self: Arc<Self>) {
        let reader = self.cluster.reader(&Caller::management(""));
        loop {
            let roots = reader.roots();
            self.bring_forward(&roots.value);
            let next = self.renew_due().await;
            // Often enough to notice a wall clock that jumped over a renewal.
            let wake = next.min(Instant::now() + Duration::from_secs(30));
            tokio::select! {
                () = tokio::time::sleep_until(wake) => {}
                () = self.leaves.changed.notified() => {}
                () = reader.changed(&[Topic::Roots], roots.index) => {}
                () = self.stop.requested() => return,
            }
        }
    }

    /// After a rotation, old leaves are renewed soon, each at a time of its own; at once where nobody trusts their root any
    /// more, as after a restore.
    fn bring_forward(&self, roots: &Roots) {
        if !self.has_mesh() {
            return;
        }
        let delay = |leaves| match &self.authority {
            Some(authority) => authority.rotation_delay(leaves),
            None => crate::authority::usual_rotation_delay(leaves),
        };
        let Some(active) = roots.active() else { return };
        let mut slots = self.leaves.slots.lock();
        let count = slots.len();
        for slot in slots.values_mut() {
            if slot.root_id != active.id {
                let is_trusted = roots.roots.iter().any(|root| root.id == slot.root_id);
                let soon = if is_trusted { delay(count) } else { Duration::ZERO };
                slot.root_id.clone_from(&active.id);
                slot.renew_at = slot.renew_at.min(Instant::now() + soon);
                slot.renew_at_wall =
                    slot.renew_at_wall.min(clock::unix_seconds() + i64::try_from(soon.as_secs()).unwrap_or_default());
            }
        }
    }

    /// Renews what is due, forgets what nobody reads, and tells when the next one is due.
    async fn renew_due(&self) -> Instant {
        let (now, wall) = (Instant::now(), clock::unix_seconds());
        let due: Vec<Key> = {
            let mut slots = self.leaves.slots.lock();
            slots.retain(|_, slot| now.duration_since(slot.read_at) < UNREAD_LIMIT || slot.leaf.receiver_count() > 0);
            slots
                .iter()
                .filter(|(_, slot)| slot.renew_at <= now || slot.renew_at_wall <= wall)
                .map(|(key, _)| key.clone())
                .collect()
        };
        for key in due {
            let issuing = self.leaves.issuing(&key);
            let _turn = issuing.lock.lock().await;
            if let Err(error) = self.issue(&key, MAX_WAIT_OF_OWN).await {
                tracing::error!(
                    "agent: cannot renew the leaf certificate of {:?}, the old one stays in use: {}",
                    key.service,
                    crate::error::chain(&error)
                );
                if let Some(slot) = self.leaves.slots.lock().get_mut(&key) {
                    let wait = slot.backoff.next_delay();
                    slot.renew_at = Instant::now() + wait;
                    slot.renew_at_wall = wall.saturating_add(i64::try_from(wait.as_secs()).unwrap_or_default().max(1));
                }
            }
        }
        let slots = self.leaves.slots.lock();
        slots.values().map(|slot| slot.renew_at).min().unwrap_or_else(|| now + Duration::from_secs(3600))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_before_is_known_and_takes_the_same_room_however_long_it_is() {
        let asked = AskedBefore::default();
        let long = "x".repeat(1 << 20);
        assert!(!asked.note("db") && asked.note("db") && !asked.note(&long) && asked.note(&long));
        for number in 0..2 * ASKED_LIMIT {
            asked.note(&number.to_string());
            assert!(asked.seen.lock().len() <= ASKED_LIMIT);
        }
        // A number per target: what is kept of one cannot grow with it.
        let kept: HashSet<u64> = asked.seen.lock().clone();
        assert!(!kept.is_empty());
    }

    #[tokio::test]
    async fn who_waits_for_one_leaf_waits_for_no_other_and_leaves_nothing_behind() {
        let leaves = Leaves::default();
        let key = |service: &str| Key { token: String::new(), service: service.into() };
        let one = leaves.issuing(&key("db"));
        let turn = one.lock.lock().await;
        assert!(leaves.issuing(&key("db")).lock.try_lock().is_err(), "callers for one leaf share it");
        assert!(leaves.issuing(&key("web")).lock.try_lock().is_ok());
        drop(turn);
        assert!(leaves.issuing(&key("db")).lock.try_lock().is_ok());
        drop(one);
        assert!(leaves.issuing.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn of_too_many_leaves_the_one_that_was_not_read_for_longest_goes() {
        let mut slots = BTreeMap::new();
        let key = |number: usize| Key { token: String::new(), service: format!("{number:05}") };
        for number in 0..MOST_LEAVES {
            make_room(&mut slots);
            slots.insert(key(number), Slot::new());
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert_eq!(slots.len(), MOST_LEAVES);
        // The first has a reader that waits for the next; the second was read again.
        let waiting = slots[&key(0)].leaf.subscribe();
        slots.get_mut(&key(1)).unwrap().read_at = Instant::now();
        make_room(&mut slots);
        assert_eq!(slots.len(), MOST_LEAVES - 1);
        assert!(slots.contains_key(&key(0)) && slots.contains_key(&key(1)) && !slots.contains_key(&key(2)));
        drop(waiting);
    }
}
