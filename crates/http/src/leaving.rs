//! Clients that end their side of a connection while a read of theirs waits.
//!
//! Whether such a client has gone or only has nothing more to say, as a script behind `nc -N`, cannot be told before it is
//! sent something. So the read is answered at once, with what there is, as at the end of its wait: who is still there gets an
//! answer, and nobody who is not is held for minutes.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Request, Uri};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The same request without what it waits by.
pub(crate) fn at_once<B>(asked: &Request<B>) -> Parts {
    let mut request = Request::new(());
    *request.method_mut() = asked.method().clone();
    *request.version_mut() = asked.version();
    *request.headers_mut() = asked.headers().clone();
    *request.uri_mut() = without_waiting(asked.uri());
    request.into_parts().0
}

/// A target without what it waits by.
pub(crate) fn without_waiting(uri: &Uri) -> Uri {
    shortened(uri).unwrap_or_else(|| uri.clone())
}

fn shortened(uri: &Uri) -> Option<Uri> {
    let waits = |part: &&str| matches!(part.split_once('=').unwrap_or((part, "")).0, "index" | "hash");
    let kept: Vec<&str> = uri.query()?.split(['&', ';']).filter(|part| !waits(part)).collect();
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(format!("{}?{}", uri.path(), kept.join("&"))).ok()?);
    Uri::from_parts(parts).ok()
}

/// A connection at which somebody else than its reader can hear the end of what the peer sends.
pub(crate) struct Overheard<S>(Arc<Mutex<Heard<S>>>);

struct Heard<S> {
    line: S,
    /// What came while the end was listened for.
    ahead: Vec<u8>,
}

impl<S> Overheard<S> {
    pub(crate) fn new(line: S) -> Overheard<S> {
        Overheard(Arc::new(Mutex::new(Heard { line, ahead: Vec::new() })))
    }
}

impl<S> Clone for Overheard<S> {
    fn clone(&self) -> Overheard<S> {
        Overheard(Arc::clone(&self.0))
    }
}

impl<S: AsyncRead + Unpin> Overheard<S> {
    /// Waits for the end of what the peer sends. When there is more before that, it is not listened for any further. To be
    /// asked by the task that reads the connection, for only one is woken.
    pub(crate) async fn ended(&self) {
        let ended = poll_fn(|context| {
            let mut heard = self.0.lock();
            if !heard.ahead.is_empty() {
                return Poll::Ready(false);
            }
            let mut room = [0; 256];
            let mut buffer = ReadBuf::new(&mut room);
            let read = ready!(Pin::new(&mut heard.line).poll_read(context, &mut buffer));
            heard.ahead.extend_from_slice(buffer.filled());
            Poll::Ready(read.is_err() || heard.ahead.is_empty())
        });
        if !ended.await {
            std::future::pending::<()>().await;
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Overheard<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut heard = self.0.lock();
        if heard.ahead.is_empty() {
            return Pin::new(&mut heard.line).poll_read(context, buffer);
        }
        let count = heard.ahead.len().min(buffer.remaining());
        buffer.put_slice(&heard.ahead[..count]);
        heard.ahead.drain(..count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Overheard<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0.lock().line).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.lock().line).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.lock().line).poll_shutdown(context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0.lock().line).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.lock().line.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn only_what_a_request_waits_by_is_left_out() {
        let check = |uri: &'static str, expected: &str| {
            let asked = Request::get(uri).header("x", "y").body(()).unwrap();
            let now = at_once(&asked);
            assert_eq!((now.uri.to_string().as_str(), &now.headers), (expected, asked.headers()));
        };
        check("/v1/kv/a?index=3&wait=5m&recurse", "/v1/kv/a?wait=5m&recurse");
        check("/v1/kv/%2e%2e?pretty&hash=a", "/v1/kv/%2e%2e?pretty");
        check("/v1/kv/index?indexes=1", "/v1/kv/index?indexes=1");
        check("/v1/kv/a", "/v1/kv/a");
    }

    #[tokio::test]
    async fn the_end_is_heard_and_what_comes_before_it_is_read_all_the_same() {
        let (mut peer, line) = tokio::io::duplex(64);
        let mut line = Overheard::new(line);
        let other = line.clone();
        peer.write_all(b"more").await.unwrap();
        tokio::select! {
            biased;
            () = other.ended() => panic!("it has not ended"),
            () = std::future::ready(()) => {}
        }
        peer.shutdown().await.unwrap();
        let mut text = String::new();
        line.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "more");
        other.ended().await;
    }
}
