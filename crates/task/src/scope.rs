//! A scope: named tasks that start together, are told to stop together, and are waited for.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tokio_util::task::TaskTracker;

/// Told to a task: when it fires, finish soon.
#[derive(Clone, Debug, Default)]
pub struct Stop(CancellationToken);

impl Stop {
    /// Waits until stopping was asked for. Cancel safe; may be asked again when it is over, and is then over at once.
    pub fn requested(&self) -> WaitForCancellationFuture<'_> {
        self.0.cancelled()
    }

    /// Whether stopping was asked for.
    pub fn is_requested(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Runs `work` until it is done or stopping is asked for, whichever comes first; `None` means stopped.
    pub async fn or_stopped<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.requested() => None,
            done = work => Some(done),
        }
    }
}

/// The owner of a group of tasks.
///
/// Cloning gives another handle to the same scope. Dropping all handles does not stop the tasks; [`Scope::stop`] does.
#[derive(Clone, Debug)]
pub struct Scope {
    name: &'static str,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Scope {
    /// A scope of its own.
    pub fn new(name: &'static str) -> Scope {
        Scope { name, stop: CancellationToken::new(), tasks: TaskTracker::new() }
    }

    /// A scope that is told to stop when this one is, and can also be stopped alone. Its tasks must be joined by its
    /// own [`Scope::join`].
    pub fn child(&self, name: &'static str) -> Scope {
        Scope { name, stop: self.stop.child_token(), tasks: TaskTracker::new() }
    }

    /// The signal that this scope's tasks are told by.
    pub fn stop_signal(&self) -> Stop {
        Stop(self.stop.clone())
    }

    /// Starts a task. A panic in it is logged with the task's name and stays inside it.
    pub fn spawn<F>(&self, task: &'static str, work: F) -> JoinHandle<Option<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.spawn_on(&Handle::current(), task, work)
    }

    /// The same on a runtime that need not be the current one.
    pub fn spawn_on<F>(&self, runtime: &Handle, task: &'static str, work: F) -> JoinHandle<Option<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let scope = self.name;
        let token = self.tasks.token();
        // Boxed out here: moved into the task, the work would take its room twice, once as what is boxed later.
        let work = Box::pin(work);
        runtime.spawn(async move {
            let outcome = CatchPanic(AssertUnwindSafe(work)).await;
            drop(token);
            match outcome {
                Ok(value) => Some(value),
                Err(message) => {
                    tracing::error!("{scope}: task {task:?} panicked: {message}");
                    None
                }
            }
        })
    }

    /// Asks all tasks to stop; does not wait.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Asks all tasks to stop and waits for them; `false` when some were still running at the deadline.
    pub async fn join(&self, deadline: Duration) -> bool {
        self.stop();
        self.tasks.close();
        let finished = tokio::time::timeout(deadline, self.tasks.wait()).await.is_ok();
        if !finished {
            let left = self.tasks.len();
            let tasks = if left == 1 { "task" } else { "tasks" };
            tracing::warn!("{}: {left} {tasks} did not stop within {deadline:?}", self.name);
        }
        finished
    }
}

/// Turns a panic of the inner future into its message.
struct CatchPanic<F>(AssertUnwindSafe<Pin<Box<F>>>);

impl<F: Future> Future for CatchPanic<F> {
    type Output = Result<F::Output, String>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let inner = &mut self.0;
        match std::panic::catch_unwind(AssertUnwindSafe(|| inner.as_mut().poll(context))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(value)) => Poll::Ready(Ok(value)),
            Err(payload) => Poll::Ready(Err(panic_message(payload.as_ref()))),
        }
    }
}

fn panic_message(payload: &(dyn std::any::Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "no message".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_scope_waits_for_its_tasks() {
        let scope = Scope::new("test");
        let stop = scope.stop_signal();
        let task = scope.spawn("worker", async move { stop.requested().await });
        assert!(scope.join(Duration::from_secs(5)).await);
        assert!(task.is_finished() || task.await.is_ok());
    }

    #[tokio::test]
    async fn a_task_that_ignores_the_signal_is_reported() {
        let scope = Scope::new("test");
        scope.spawn("stubborn", std::future::pending::<()>());
        assert!(!scope.join(Duration::from_millis(20)).await);
    }

    #[tokio::test]
    async fn a_panic_stays_inside_its_task() {
        let scope = Scope::new("test");
        let outcome = scope.spawn("faulty", async { panic!("broken") }).await;
        assert!(matches!(outcome, Ok(None)));
        assert!(scope.join(Duration::from_secs(5)).await);
    }

    #[tokio::test]
    async fn a_child_stops_with_its_parent_and_not_the_other_way() {
        let parent = Scope::new("parent");
        let child = parent.child("child");
        let other = parent.child("other");
        other.stop();
        assert!(!parent.stop_signal().is_requested());
        parent.stop();
        assert!(child.stop_signal().is_requested());
    }
}
