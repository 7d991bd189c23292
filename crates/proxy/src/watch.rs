//! Keeping something current by blocking reads: when to read again, and what to say about failures.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lictor_task::Backoff;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::calm::Calm;
use crate::control::{ControlError, Fresh, Seen};
use crate::outcome::chain;

/// The first wait after a failure; doubles.
const FIRST_RETRY: Duration = Duration::from_millis(100);
/// The longest wait: an agent that is down for good is asked this often by each watch.
const LAST_RETRY: Duration = Duration::from_secs(8);
/// Two reads of the same content in a row are at least this far apart, whatever the agent does.
const UNCHANGED: Duration = Duration::from_secs(1);

/// What the watches of one proxy know together about their agent: the first that reaches it again wakes the others.
#[derive(Debug, Default)]
pub(crate) struct Agent {
    /// Told of every answer: what an answer, or its absence, means for others, they look up themselves.
    calm: Arc<Calm>,
    away: AtomicBool,
    back: Notify,
    /// Since when it has answered nobody.
    silent: watch::Sender<Option<Instant>>,
}

impl Agent {
    pub(crate) fn new(calm: Arc<Calm>) -> Agent {
        Agent { calm, ..Agent::default() }
    }

    /// Since when the agent has not answered at all; `None` while it does.
    pub(crate) fn silent(&self) -> watch::Receiver<Option<Instant>> {
        self.silent.subscribe()
    }

    /// Takes note of whether it has answered, well or badly.
    fn answered(&self, answered: bool) {
        self.calm.disturb();
        self.silent.send_if_modified(|since| {
            let news = since.is_some() == answered;
            *since = if answered { None } else { since.or_else(|| Some(Instant::now())) };
            news
        });
    }
}

/// One thing that is kept current.
pub(crate) struct Follower {
    what: String,
    agent: Arc<Agent>,
    seen: Seen,
    /// How long until something that cannot be waited for is read again.
    poll: Duration,
    backoff: Backoff,
    next: Next,
    read_at: Instant,
}

/// When to read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Now,
    After(Duration),
    /// Or when the agent is back.
    AfterFailure(Duration),
}

impl Follower {
    /// `what` names it in the log.
    pub(crate) fn new(what: impl Into<String>, agent: &Arc<Agent>, poll: Duration) -> Follower {
        Follower {
            what: what.into(),
            agent: Arc::clone(agent),
            seen: Seen::Nothing,
            poll,
            backoff: Backoff::new(FIRST_RETRY, LAST_RETRY),
            next: Next::Now,
            read_at: Instant::now(),
        }
    }

    /// Waits until it is time to read, and says what was seen.
    pub(crate) async fn due(&mut self) -> &Seen {
        match self.next {
            Next::Now => {}
            Next::After(pause) => tokio::time::sleep(pause).await,
            Next::AfterFailure(pause) => {
                let agent = Arc::clone(&self.agent);
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = agent.back.notified() => {}
                }
            }
        }
        self.read_at = Instant::now();
        &self.seen
    }

    /// Takes the answer to a read; gives its value if that is something new.
    pub(crate) fn take<T>(&mut self, answer: Result<Fresh<T>, ControlError>) -> Option<T> {
        match answer {
            Ok(Fresh { value, seen }) => {
                self.reached();
                let unchanged = seen != Seen::Nothing && seen == self.seen;
                let early = UNCHANGED.saturating_sub(self.read_at.elapsed());
                self.next = match &seen {
                    Seen::Nothing => Next::After(self.poll),
                    _ if unchanged && !early.is_zero() => Next::After(early),
                    _ => Next::Now,
                };
                self.seen = seen;
                (!unchanged).then_some(value)
            }
            Err(error) => {
                self.failed(&error);
                None
            }
        }
    }

    /// Something in the answer cannot be used: it is read again, from scratch, after a while.
    pub(crate) fn reject(&mut self, problem: &(dyn std::error::Error + 'static)) {
        self.retry(&chain(problem));
    }

    fn reached(&mut self) {
        if self.backoff.failures() > 0 {
            tracing::info!("watch of {} works again", self.what);
            self.backoff.reset();
        }
        self.agent.answered(true);
        if self.agent.away.swap(false, Ordering::Relaxed) {
            self.agent.calm.alarm();
            self.agent.back.notify_waiters();
        }
    }

    fn failed(&mut self, error: &ControlError) {
        // When it is away for long, nobody needs to look for it all the time: the first answer is told as well.
        if self.backoff.failures() == 0 {
            self.agent.calm.alarm();
        }
        self.agent.answered(!matches!(error, ControlError::Unreached(_)));
        if matches!(error, ControlError::Failed(_) | ControlError::Unreached(_)) {
            self.agent.away.store(true, Ordering::Relaxed);
        }
        self.retry(&chain(error));
    }

    fn retry(&mut self, problem: &str) {
        let first = self.backoff.failures() == 0;
        let pause = self.backoff.next_delay();
        // What was seen may be of another life of the agent, in which waiting for more could take for ever.
        self.seen = Seen::Nothing;
        self.next = Next::AfterFailure(pause);
        let what = &self.what;
        if first {
            tracing::warn!("watch of {what} failed, going on with what is held: {problem}");
        } else {
            tracing::debug!("watch of {what} failed: {problem}, retry in {pause:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follower(agent: &Arc<Agent>) -> Follower {
        Follower::new("test", agent, Duration::from_secs(30))
    }

    fn fresh(seen: Seen) -> Result<Fresh<u8>, ControlError> {
        Ok(Fresh { value: 7, seen })
    }

    fn failure() -> Result<Fresh<u8>, ControlError> {
        Err(ControlError::Failed("away".into()))
    }

    async fn pause(follower: &mut Follower) -> Duration {
        let start = Instant::now();
        follower.due().await;
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_is_new_is_given_and_a_hasty_agent_is_slowed_down() {
        let mut follower = follower(&Arc::default());
        assert_eq!(pause(&mut follower).await, Duration::ZERO);
        assert_eq!(follower.take(fresh(Seen::Index(3))), Some(7));
        assert_eq!(pause(&mut follower).await, Duration::ZERO);
        assert_eq!(follower.seen, Seen::Index(3));
        assert_eq!(follower.take(fresh(Seen::Index(3))), None);
        assert_eq!(pause(&mut follower).await, UNCHANGED);
        assert_eq!(follower.take(fresh(Seen::Index(2))), Some(7));
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_waited_for_is_polled() {
        let mut follower = follower(&Arc::default());
        assert_eq!(follower.take(fresh(Seen::Nothing)), Some(7));
        assert_eq!(pause(&mut follower).await, Duration::from_secs(30));
        assert_eq!(follower.take(fresh(Seen::Nothing)), Some(7));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_retried_from_scratch_and_the_first_success_wakes_all() {
        let agent = Arc::default();
        let (mut one, mut other) = (follower(&agent), follower(&agent));
        one.take(fresh(Seen::Index(3)));
        for _ in 0..20 {
            assert_eq!(one.take(failure()), None);
            assert_eq!(other.take(failure()), None);
        }
        assert_eq!(one.seen, Seen::Nothing);
        assert!(pause(&mut one).await <= LAST_RETRY);
        let (waited, ()) = tokio::join!(pause(&mut other), async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            one.take(fresh(Seen::Index(4)));
        });
        assert_eq!(waited, Duration::from_millis(5));
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_is_silent_from_its_first_missing_answer_until_any_answer_at_all() {
        let unreached = || Err::<Fresh<u8>, _>(ControlError::Unreached("nobody listens".into()));
        let agent = Arc::default();
        let (mut one, mut other) = (follower(&agent), follower(&agent));
        let silent = agent.silent();
        assert_eq!(*silent.borrow(), None);
        let begin = Instant::now();
        one.take(unreached());
        tokio::time::advance(Duration::from_secs(5)).await;
        other.take(unreached());
        assert_eq!(*silent.borrow(), Some(begin));
        // A bad answer is one, too.
        other.take(failure());
        assert_eq!(*silent.borrow(), None);
        one.take(unreached());
        assert_eq!(*silent.borrow(), Some(Instant::now()));
        one.take(Err::<Fresh<u8>, _>(ControlError::NotFound("no such thing".into())));
        assert_eq!(*silent.borrow(), None);
    }
}
