//! HTTP/2: a connection and its streams, with the same limits to what a client can hold as with HTTP/1.
//!
//! The kernel notices a client that takes nothing of an HTTP/1 answer. With HTTP/2 the client acknowledges everything and
//! gives a stream no room, so it is noticed here: an answer goes out in pieces, and each must be taken in time. A
//! connection where nothing is asked ends after the same time, too.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use lictor_task::{Scope, Stop};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

/// Largest head of a request: it is held for each of many streams.
const HEAD_SIZE: u32 = 128 * 1024;
/// Between probes of a silent connection.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// What one client may hold.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    /// How long it may do nothing.
    pub(crate) unread: Duration,
    /// Streams that it may have open.
    pub(crate) streams: u32,
    /// Streams that it may give up before they are looked at.
    pub(crate) given_up: usize,
}

impl Limits {
    /// Those of everyone: as in the original, and as the library has it.
    pub(crate) const fn new(unread: Duration) -> Limits {
        Limits { unread, streams: 250, given_up: 20 }
    }

    /// Those of a client agent, which asks for everyone on its node: whoever there gives up does not end all.
    pub(crate) const fn of_agent(unread: Duration) -> Limits {
        Limits { unread, streams: 32_768, given_up: 32_768 }
    }
}

/// What is handed over of an answer at a time, and at most held of it beyond what it is made of.
const PIECE: usize = 64 * 1024;

/// Answers what comes on a connection until that ends, the agent stops, or its client has done nothing for so long.
pub(crate) async fn serve<S, R, F, B>(stream: S, scope: Scope, stop: &Stop, limits: Limits, respond: R)
where
    S: AsyncRead + AsyncWrite + Unpin,
    R: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Unpin + Send + 'static,
{
    let streams = Arc::new(Streams::new());
    let service = service_fn(|request| {
        let (open, response) = (Streams::open(&streams), respond(request));
        async move {
            let response = response.await;
            open.wait_for_client();
            Ok::<_, Infallible>(response.map(|body| Followed { body, rest: Bytes::new(), open }))
        }
    });
    let connection = http2::Builder::new(InScope(scope))
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE)
        .max_header_list_size(HEAD_SIZE)
        .max_concurrent_streams(limits.streams)
        .max_send_buf_size(PIECE)
        .max_pending_accept_reset_streams(Some(limits.given_up))
        .serve_connection(TokioIo::new(stream), service);
    let over = async {
        stop.or_stopped(streams.still(limits.unread)).await;
    };
    crate::server::finish(connection, over, |connection| connection.graceful_shutdown()).await;
}

/// Streams are tasks of their own, and belong where connections do.
#[derive(Clone)]
struct InScope(Scope);

impl<F> Executor<F> for InScope
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, stream: F) {
        self.0.spawn("stream", stream);
    }
}

/// What the streams of one connection wait for.
struct Streams(Mutex<State>);

struct State {
    next: u64,
    /// Since when each waits for its client to take something; `None` while the client waits for us.
    open: HashMap<u64, Option<Instant>>,
    /// Since when there has been none; counts only while there is none.
    empty_since: Instant,
}

impl Streams {
    fn new() -> Streams {
        Streams(Mutex::new(State { next: 0, open: HashMap::new(), empty_since: Instant::now() }))
    }

    fn open(streams: &Arc<Streams>) -> Open {
        let mut state = streams.0.lock();
        let number = state.next;
        state.next += 1;
        state.open.insert(number, None);
        Open { streams: Arc::clone(streams), number }
    }

    /// Ends when the client has done nothing for so long.
    async fn still(&self, limit: Duration) {
        loop {
            let now = Instant::now();
            let waits_since = {
                let state = self.0.lock();
                if state.open.is_empty() {
                    Some(state.empty_since)
                } else {
                    state.open.values().flatten().min().copied()
                }
            };
            // A wait that begins from now on is over later than this.
            let until = waits_since.unwrap_or(now) + limit;
            if until <= now {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}

/// One stream, until its answer is handed over.
struct Open {
    streams: Arc<Streams>,
    number: u64,
}

impl Open {
    fn set(&self, waits_since: Option<Instant>) {
        self.streams.0.lock().open.insert(self.number, waits_since);
    }

    fn wait_for_client(&self) {
        self.set(Some(Instant::now()));
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut state = self.streams.0.lock();
        state.open.remove(&self.number);
        state.empty_since = Instant::now();
    }
}

/// A body that is handed over in pieces. The next one is asked for when the client has made room for it.
struct Followed<B> {
    body: B,
    /// What has not been handed over of the last frame.
    rest: Bytes,
    open: Open,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Followed<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        if this.rest.is_empty() {
            // There may be nothing to say for long.
            this.open.set(None);
            match ready!(Pin::new(&mut this.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.rest = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        this.open.wait_for_client();
        let piece = this.rest.split_to(this.rest.len().min(PIECE));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (inner, rest) = (self.body.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower() + rest);
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Empty, Full};
    use hyper::client::conn::http2 as client;
    use hyper_util::rt::TokioExecutor;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(120);
    /// More than is handed over at once.
    const LONG: usize = 5 * PIECE + 7;

    /// A client with this much room for each answer, and the end of the server's side of its connection.
    async fn connected(
        room: u32,
        pause: Duration,
    ) -> (client::SendRequest<Empty<Bytes>>, tokio::task::JoinHandle<()>, Scope) {
        let (near, far) = tokio::io::duplex(1 << 20);
        let scope = Scope::new("test");
        let (stop, streams) = (scope.stop_signal(), scope.clone());
        let serving = tokio::spawn(async move {
            let respond = |_| async move {
                tokio::time::sleep(pause).await;
                Response::new(Full::new(Bytes::from(vec![7; LONG])))
            };
            serve(far, streams, &stop, Limits::new(LIMIT), respond).await;
        });
        let mut builder = client::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(room);
        let (sender, connection) = builder.handshake(TokioIo::new(near)).await.unwrap();
        tokio::spawn(connection);
        (sender, serving, scope)
    }

    fn request() -> Request<Empty<Bytes>> {
        Request::get("http://localhost/").body(Empty::new()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_a_stream_ends_after_a_while() {
        let (_sender, serving, _scope) = connected(1 << 16, Duration::ZERO).await;
        let begin = Instant::now();
        serving.await.unwrap();
        assert!(begin.elapsed() >= LIMIT && begin.elapsed() < 2 * LIMIT, "after {:?}", begin.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_gives_an_answer_no_room_is_given_up() {
        let (mut sender, serving, _scope) = connected(0, Duration::ZERO).await;
        let begin = Instant::now();
        let answer = sender.send_request(request()).await.unwrap();
        serving.await.unwrap();
        assert!(begin.elapsed() >= LIMIT && begin.elapsed() < 2 * LIMIT, "after {:?}", begin.elapsed());
        assert!(answer.into_body().collect().await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_comes_whole_however_long_it_is_waited_for() {
        let (mut sender, serving, _scope) = connected(1 << 14, 5 * LIMIT).await;
        for _ in 0..2 {
            let answer = sender.send_request(request()).await.unwrap();
            assert_eq!(answer.headers()["content-length"], LONG.to_string());
            assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), vec![7; LONG]);
            tokio::time::sleep(LIMIT / 2).await;
        }
        assert!(!serving.is_finished());
        drop(sender);
        serving.await.unwrap();
    }
}
