//! Ends the leases whose time is up, on a thread of its own that exists only once there is a lease.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::Error;

/// How long to wait before leases that could not be ended (the disk is full) are tried again.
pub(crate) const RETRY: Duration = Duration::from_secs(1);

/// The owner of the thread; dropping it stops the thread without waiting for it.
pub(crate) struct Reaper {
    alarm: Arc<Alarm>,
}

struct Alarm {
    state: Mutex<State>,
    changed: Condvar,
}

enum State {
    /// No lease was granted yet.
    Unstarted,
    /// Sleeping until then, or until a lease is granted.
    Waiting(Option<Instant>),
    Stopped,
}

/// What a round of reaping found.
pub(crate) enum Round {
    /// Done; the next lease ends then, if there is one.
    Next(Option<Instant>),
    /// The store is gone.
    Over,
}

impl Reaper {
    pub(crate) fn new() -> Reaper {
        Reaper { alarm: Arc::new(Alarm { state: Mutex::new(State::Unstarted), changed: Condvar::new() }) }
    }

    /// Makes sure that `reap` is called, on the reaper's thread, no later than `deadline`.
    ///
    /// The first call starts the thread with its `reap`; those of later calls are dropped.
    pub(crate) fn call_at(&self, deadline: Instant, reap: impl FnMut() -> Round + Send + 'static) -> Result<(), Error> {
        let mut state = self.alarm.state.lock();
        match &mut *state {
            State::Stopped => return Ok(()),
            State::Waiting(next) if next.is_some_and(|next| next <= deadline) => return Ok(()),
            State::Waiting(next) => *next = Some(deadline),
            State::Unstarted => {
                let alarm = Arc::clone(&self.alarm);
                thread::Builder::new()
                    .name("store-leases".to_owned())
                    .spawn(move || alarm.run(reap))
                    .map_err(|source| Error::Thread { name: "lease", source: Arc::new(source) })?;
                *state = State::Waiting(Some(deadline));
            }
        }
        self.alarm.changed.notify_one();
        Ok(())
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        *self.alarm.state.lock() = State::Stopped;
        self.alarm.changed.notify_one();
    }
}

impl Alarm {
    fn run(&self, mut reap: impl FnMut() -> Round) {
        loop {
            if !self.wait() {
                return;
            }
            let Round::Next(next) = reap() else { return };
            let mut state = self.state.lock();
            if let State::Waiting(granted) = &mut *state {
                // A lease may have been granted since `next` was found out.
                *granted = [*granted, next].into_iter().flatten().min();
            }
        }
    }

    /// Sleeps until it is time; `false` when there will be none.
    fn wait(&self) -> bool {
        let mut state = self.state.lock();
        loop {
            match &mut *state {
                State::Stopped => return false,
                State::Unstarted | State::Waiting(None) => self.changed.wait(&mut state),
                State::Waiting(deadline @ Some(_)) => {
                    let Some(at) = *deadline else { continue };
                    if at <= Instant::now() {
                        *deadline = None;
                        return true;
                    }
                    self.changed.wait_until(&mut state, at);
                }
            }
        }
    }
}
