//! Sessions that carried a connection and wait for the next one to the same instance: a worker's own, because a
//! session stays on the event loop that it was made on.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lictor_tls::{Credentials, Session, Target};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::balance::Instance;
use crate::shared::Shared;

/// Sessions that one worker keeps for one instance: as many as fresh connections of a busy application overlap.
const MOST_OF_TARGET: usize = 32;
/// Sessions that one worker keeps altogether; about 3 KB each, here and at the other end.
const MOST: usize = 256;
/// Sessions that a connection in need of one looks at, of those that may be ready by now: the last ones, for where
/// applications do not read to the end there are many that never will be.
const MOST_ASKED: usize = 64;
/// Sessions whose last connection is still on its way to its application there. From this many on new ones carry one
/// connection only: to end one that waits could take away bytes.
const MOST_UNHEARD: usize = 1024;
/// How long a session waits. Shorter than the other end's patience, so that it is mostly this end that parts.
const IDLE: Duration = Duration::from_secs(20);
/// How often waiting sessions are looked after: while there are any, which is seconds after the last connection.
pub(crate) const SWEEP: Duration = Duration::from_millis(250);

/// The sessions that wait.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    waiting: Mutex<Sessions>,
    filled: Notify,
}

#[derive(Default)]
struct Sessions {
    by_target: HashMap<Target, Vec<Waiting>>,
    /// How many those are.
    count: usize,
    /// Those whose last connection has not yet reached its application there. None of them is ended for its number: that
    /// could take away bytes of that connection; see [`Pool::is_crowded`].
    unheard: Vec<(Arc<Instance>, Waiting)>,
}

struct Waiting {
    session: Session,
    /// [`Instance::losses`] when it was made.
    losses: u32,
    since: Instant,
}

impl Pool {
    pub(crate) fn new(shared: Arc<Shared>) -> Pool {
        Pool { shared, waiting: Mutex::default(), filled: Notify::new() }
    }

    /// A session to the instance that can carry a connection now: the one that waited least, so that those not needed
    /// grow old. Whoever is at the other end was authenticated as the target demands when the session was made. None
    /// that was made before another one to the instance broke, whichever worker had that.
    pub(crate) fn take(&self, instance: &Instance) -> Option<Session> {
        let credentials = self.shared.mesh.credentials()?;
        let losses = instance.losses();
        let mut waiting = self.waiting.lock();
        loop {
            if waiting.by_target.get(&instance.target).is_none_or(Vec::is_empty) {
                waiting.hear(&credentials, Some(&instance.target));
            }
            let Waiting { mut session, losses: before, .. } = waiting.by_target.get_mut(&instance.target)?.pop()?;
            waiting.count -= 1;
            if before == losses && session.is_of(&credentials) && session.is_quiet() {
                return Some(session);
            }
            session.close_now();
        }
    }

    /// Keeps a session whose connection has ended, unless there are enough. `losses` is what [`Instance::losses`] was
    /// before it was made.
    pub(crate) fn put(&self, instance: &Arc<Instance>, session: Session, losses: u32) {
        let waits = Waiting { session, losses, since: Instant::now() };
        let mut waiting = self.waiting.lock();
        let rests = waiting.is_empty();
        if waits.session.is_done() {
            match self.shared.mesh.credentials() {
                Some(credentials) => waiting.keep(instance, waits, &credentials),
                None => waits.session.close_now(),
            }
        } else {
            waiting.unheard.push((Arc::clone(instance), waits));
        }
        if rests && !waiting.is_empty() {
            self.filled.notify_one();
        }
    }

    /// Whether so many wait to hear that their last connection has arrived that no new session shall become one of them.
    /// Those that carry a connection now still will.
    pub(crate) fn is_crowded(&self) -> bool {
        self.waiting.lock().unheard.len() >= MOST_UNHEARD
    }

    /// Looks after the sessions for ever; rests while there are none.
    pub(crate) async fn tend(&self) {
        loop {
            if self.waiting.lock().is_empty() {
                self.filled.notified().await;
            }
            tokio::time::sleep(SWEEP).await;
            self.sweep();
        }
    }

    /// Parts with sessions that waited too long, that the other end wants to end, or whose credentials are not in
    /// force any more.
    fn sweep(&self) {
        let now = Instant::now();
        let credentials = self.shared.mesh.credentials();
        let mut waiting = self.waiting.lock();
        if let Some(credentials) = &credentials {
            waiting.hear(credentials, None);
        }
        for (_, gone) in waiting.unheard.extract_if(.., |(_, one)| now.saturating_duration_since(one.since) >= IDLE) {
            gone.session.close_now();
        }
        let mut count = 0;
        waiting.by_target.retain(|_, of_target| {
            let stay = |one: &mut Waiting| {
                now.saturating_duration_since(one.since) < IDLE
                    && credentials.as_ref().is_some_and(|current| one.session.is_of(current))
                    && one.session.is_quiet()
            };
            for gone in of_target.extract_if(.., |one| !stay(one)) {
                gone.session.close_now();
            }
            count += of_target.len();
            !of_target.is_empty()
        });
        waiting.count = count;
        if waiting.is_empty() {
            waiting.by_target.shrink_to_fit();
            waiting.unheard.shrink_to_fit();
        }
    }
}

impl Sessions {
    fn is_empty(&self) -> bool {
        self.count == 0 && self.unheard.is_empty()
    }

    /// Looks whether the connections of some have reached their application meanwhile, and keeps those: of one target, for
    /// who needs one now, or of all.
    fn hear(&mut self, credentials: &Arc<Credentials>, of: Option<&Target>) {
        let most = if of.is_some() { MOST_ASKED } else { usize::MAX };
        let mut asked = 0;
        for at in (0..self.unheard.len()).rev() {
            let (instance, one) = &mut self.unheard[at];
            if of.is_some_and(|target| *target != instance.target) {
                continue;
            }
            asked += 1;
            if let Some(is_done) = one.session.has_heard() {
                let (instance, one) = self.unheard.swap_remove(at);
                match is_done {
                    true => self.keep(&instance, one, credentials),
                    false => one.session.close_now(),
                }
            }
            if asked >= most {
                break;
            }
        }
    }

    /// Keeps one that can carry the next connection, unless there are enough.
    fn keep(&mut self, instance: &Instance, waits: Waiting, credentials: &Arc<Credentials>) {
        if waits.losses != instance.losses() || !waits.session.is_of(credentials) {
            return waits.session.close_now();
        }
        let target = &instance.target;
        if !self.by_target.contains_key(target) {
            self.by_target.insert(target.clone(), Vec::new());
        }
        let Some(of_target) = self.by_target.get_mut(target) else { return };
        if self.count >= MOST || of_target.len() >= MOST_OF_TARGET {
            return waits.session.close_now();
        }
        of_target.push(waits);
        self.count += 1;
    }
}
