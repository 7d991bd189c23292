//! One HTTP/1.1 exchange over a connection of its own.

use std::future::Future;
use std::pin::pin;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::tail::Tail;

/// Sends `request` and gives what `use_answer` makes of the answer. Cancel safe: dropping it closes the connection.
pub(crate) async fn exchange<T, F>(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<Full<Bytes>>,
    use_answer: impl FnOnce(Response<Incoming>) -> F,
) -> Result<T, hyper::Error>
where
    F: Future<Output = T>,
{
    let (mut sender, connection): (SendRequest<Full<Bytes>>, _) = handshake(TokioIo::new(stream)).await?;
    let mut connection = pin!(connection);
    let mut answered = pin!(async {
        let answer = sender.send_request(request).await?;
        Ok(use_answer(answer).await)
    });
    // The connection does the reading; it may end before all that was read has been used.
    tokio::select! {
        answered = &mut answered => return answered,
        _ = &mut connection => {}
    }
    answered.await
}

/// The end of a body. A body that breaks off is as good as its beginning: the status has been said.
pub(crate) async fn read_tail(mut body: Incoming) -> Tail {
    let mut tail = Tail::default();
    while let Some(Ok(frame)) = body.frame().await {
        if let Some(data) = frame.data_ref() {
            tail.write(data);
        }
    }
    tail
}
