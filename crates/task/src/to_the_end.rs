//! Work that goes on when whoever waits for it goes away.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;

/// Does something to its end. It runs where it is waited for, so that this costs next to nothing; when the waiting ends
/// before it does (a client has left, and the future of its request is dropped), the rest becomes a task of its own.
///
/// Nothing happens before it is first polled. A runtime that stops takes the rest with it.
pub fn to_the_end<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> ToTheEnd<T> {
    ToTheEnd { work: Some(Box::pin(work)), is_begun: false }
}

/// See [`to_the_end`].
#[must_use = "nothing happens before it is polled"]
pub struct ToTheEnd<T: Send + 'static> {
    work: Option<Pin<Box<dyn Future<Output = T> + Send>>>,
    is_begun: bool,
}

impl<T: Send + 'static> Future for ToTheEnd<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        self.is_begun = true;
        // Put back only if there is more to do, so that what has ended or panicked is not polled again.
        let Some(mut work) = self.work.take() else { return Poll::Pending };
        let polled = work.as_mut().poll(context);
        if polled.is_pending() {
            self.work = Some(work);
        }
        polled
    }
}

impl<T: Send + 'static> Drop for ToTheEnd<T> {
    fn drop(&mut self) {
        if self.is_begun
            && let Some(work) = self.work.take()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(work);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    fn in_two_steps() -> (ToTheEnd<u8>, oneshot::Sender<u8>, oneshot::Receiver<u8>) {
        let (go_on, wait) = oneshot::channel();
        let (done, end) = oneshot::channel();
        let work = to_the_end(async move {
            let given = wait.await.unwrap();
            done.send(given).unwrap();
            given
        });
        (work, go_on, end)
    }

    #[tokio::test]
    async fn work_ends_where_it_is_waited_for_and_goes_on_when_nobody_does() {
        let (work, go_on, end) = in_two_steps();
        go_on.send(1).unwrap();
        assert_eq!((work.await, end.await), (1, Ok(1)));

        let (mut work, go_on, end) = in_two_steps();
        tokio::select! {
            biased;
            _ = &mut work => panic!("it waits"),
            () = async {} => {}
        }
        drop(work);
        go_on.send(2).unwrap();
        assert_eq!(end.await, Ok(2));

        let (work, go_on, end) = in_two_steps();
        drop(work);
        assert!(go_on.send(3).is_err(), "it never began");
        assert!(end.await.is_err());
    }
}
