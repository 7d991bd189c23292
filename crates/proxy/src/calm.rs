//! Noticing that a proxy has something to do again, so that nothing needs to look now and then whether it has.
//!
//! A proxy without traffic shall run nothing: what it runs, the kernel maps, and two hundred idle proxies would keep a
//! machine awake. Whoever begins or ends something says so here, which costs one read of memory while nobody waits.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// For one who waits and many who disturb.
#[derive(Debug, Default)]
pub struct Calm {
    awaited: AtomicBool,
    over: Notify,
    alarm: AtomicBool,
}

impl Calm {
    /// From now on a disturbance ends the wait. Called before looking whether there is anything to do, so that what
    /// begins after the look is not missed.
    pub fn begin(&self) {
        self.awaited.store(true, Ordering::SeqCst);
    }

    /// Waits for the first disturbance since [`Calm::begin`].
    pub async fn over(&self) {
        self.over.notified().await;
    }

    /// Whether the agent has begun to fail to answer, or to answer again, since this was asked last. It may come back as
    /// another process, and not with all of it at once.
    pub fn take_alarm(&self) -> bool {
        self.alarm.swap(false, Ordering::SeqCst)
    }

    /// The agent has failed to answer, or answers again.
    pub(crate) fn alarm(&self) {
        self.alarm.store(true, Ordering::SeqCst);
        self.disturb();
    }

    /// Something happens, of which the counters know already.
    pub(crate) fn disturb(&self) {
        // Mostly nobody waits, and then nothing is written that other threads would have to fetch again.
        if self.awaited.load(Ordering::Relaxed) && self.awaited.swap(false, Ordering::SeqCst) {
            self.over.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    async fn is_over(calm: &Calm) -> bool {
        timeout(Duration::from_secs(1), calm.over()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_with_the_first_disturbance_since_its_beginning() {
        let calm = Calm::default();
        calm.disturb();
        calm.begin();
        assert!(!is_over(&calm).await, "what was before does not count");
        calm.disturb();
        calm.disturb();
        assert!(is_over(&calm).await);
        assert!(!is_over(&calm).await, "it is told once");
    }

    #[tokio::test(start_paused = true)]
    async fn an_alarm_ends_a_wait_and_is_kept_until_it_is_asked_for() {
        let calm = Calm::default();
        calm.alarm();
        calm.begin();
        assert!(calm.take_alarm() && !calm.take_alarm());
        calm.alarm();
        assert!(is_over(&calm).await && calm.take_alarm());
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_has_begun_already_is_ended_too() {
        let calm = Calm::default();
        calm.begin();
        let (over, ()) = tokio::join!(is_over(&calm), async {
            tokio::task::yield_now().await;
            calm.disturb();
        });
        assert!(over);
    }
}
