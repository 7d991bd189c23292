//! Draining: one side asks, the other side's last holder dropping its watch is the answer.

use std::time::Duration;

use tokio::sync::{mpsc, watch};

/// The end that asks for draining and waits for it.
#[derive(Debug)]
pub struct Drain {
    asked: watch::Sender<bool>,
    // Nothing is ever sent: `recv` returns when the last clone of the sender is dropped.
    holders: mpsc::Receiver<()>,
    first: Option<DrainWatch>,
}

/// The end that is told; hold it for as long as the work lives.
#[derive(Clone, Debug)]
pub struct DrainWatch {
    asked: watch::Receiver<bool>,
    _holder: mpsc::Sender<()>,
}

impl Drain {
    /// A pair; further watches are clones of the one it starts with.
    pub fn new() -> Drain {
        let (asked, told) = watch::channel(false);
        let (holder, holders) = mpsc::channel(1);
        Drain { asked, holders, first: Some(DrainWatch { asked: told, _holder: holder }) }
    }

    /// A watch for one more piece of work; `None` once draining was asked for.
    pub fn watch(&self) -> Option<DrainWatch> {
        self.first.clone()
    }

    /// Asks all holders to finish and waits until the last watch is dropped; `false` when the deadline came first.
    pub async fn drain(mut self, deadline: Duration) -> bool {
        self.first = None;
        self.asked.send_replace(true);
        tokio::time::timeout(deadline, self.holders.recv()).await.is_ok()
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

impl DrainWatch {
    /// Waits until draining is asked for. A dropped [`Drain`] is not a request: it waits for ever. Cancel safe.
    pub async fn requested(&mut self) {
        if self.asked.wait_for(|asked| *asked).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Whether draining was asked for.
    pub fn is_requested(&self) -> bool {
        *self.asked.borrow()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn draining_is_over_when_the_last_watch_is_dropped() {
        let drain = Drain::new();
        let mut watch = drain.watch().unwrap();
        let task = tokio::spawn(async move {
            watch.requested().await;
        });
        assert!(drain.drain(Duration::from_secs(5)).await);
        task.await.unwrap();
    }

    #[tokio::test]
    async fn a_deadline_ends_the_wait() {
        let drain = Drain::new();
        let _held = drain.watch().unwrap();
        assert!(!drain.drain(Duration::from_millis(10)).await);
    }
}
