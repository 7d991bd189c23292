//! What the HTTP API may ask of the process itself: reload, leave, follow the log.

use bytes::Bytes;
use lictor_http::config::{LogLevel, Pending};
use tokio::sync::{mpsc, oneshot};

use crate::log::Log;

/// A request to the loop that runs the agent.
pub(crate) enum Wish {
    /// Read the configuration again.
    Reload(oneshot::Sender<Result<(), String>>),
    /// Move the state to where the configuration now says.
    MoveStore(oneshot::Sender<Result<String, String>>),
    /// Leave the cluster and end.
    Leave(oneshot::Sender<()>),
}

/// The process, as the HTTP API sees it.
pub(crate) struct Process {
    wishes: mpsc::Sender<Wish>,
    log: &'static Log,
}

impl Process {
    /// The process and the end that carries its wishes out.
    pub(crate) fn new(log: &'static Log) -> (Process, mpsc::Receiver<Wish>) {
        // One wish is carried out at a time; whoever comes meanwhile waits.
        let (wishes, receiver) = mpsc::channel(1);
        (Process { wishes, log }, receiver)
    }
}

impl lictor_http::config::Process for Process {
    fn reload(&self) -> Pending<'_, Result<(), String>> {
        Box::pin(async {
            let (answer, outcome) = oneshot::channel();
            let gone = || "the agent is ending".to_owned();
            self.wishes.send(Wish::Reload(answer)).await.map_err(|_| gone())?;
            outcome.await.unwrap_or_else(|_| Err(gone()))
        })
    }

    fn move_store(&self) -> Pending<'_, Result<String, String>> {
        Box::pin(async {
            let (answer, outcome) = oneshot::channel();
            let gone = || "the agent is ending".to_owned();
            self.wishes.send(Wish::MoveStore(answer)).await.map_err(|_| gone())?;
            outcome.await.unwrap_or_else(|_| Err(gone()))
        })
    }

    fn leave(&self) -> Pending<'_, ()> {
        Box::pin(async {
            let (answer, done) = oneshot::channel();
            if self.wishes.send(Wish::Leave(answer)).await.is_ok() {
                // An error means that the agent is ending anyway.
                let _ = done.await;
            }
        })
    }

    fn log_tail(&self, level: LogLevel) -> mpsc::Receiver<Bytes> {
        self.log.follow(level)
    }
}
