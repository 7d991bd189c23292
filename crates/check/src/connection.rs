//! One HTTP/1.1 exchange over a connection of its own.

use std::future::Future;
use std::io::{self, Write};
use std::pin::pin;

use bytes::Bytes;
use flate2::write::GzDecoder;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
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
    // Names of headers are spelled as the original spells them: some applications know no other.
    let spoken = Builder::new().title_case_headers(true).handshake(TokioIo::new(stream));
    let (mut sender, connection): (SendRequest<Full<Bytes>>, _) = spoken.await?;
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

/// How the bytes of a body travelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    /// As they are.
    Plain,
    /// With gzip.
    Gzip,
}

/// The end of a body. A body that breaks off is as good as its beginning: the status has been said.
pub(crate) async fn read_tail(mut body: Incoming, packing: Packing) -> Tail {
    let mut unpacker = match packing {
        Packing::Plain => Unpacker::Plain(Tail::default()),
        Packing::Gzip => Unpacker::Gzip(Box::new(GzDecoder::new(Tail::default()))),
    };
    while let Some(Ok(frame)) = body.frame().await {
        if let Some(data) = frame.data_ref()
            && unpacker.write(data).is_err()
        {
            break;
        }
    }
    unpacker.end()
}

/// What becomes of a body as it comes; no more of it is kept than the end.
enum Unpacker {
    Plain(Tail),
    Gzip(Box<GzDecoder<Tail>>),
}

impl Unpacker {
    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        match self {
            Unpacker::Plain(tail) => {
                tail.write(data);
                Ok(())
            }
            Unpacker::Gzip(decoder) => decoder.write_all(data),
        }
    }

    fn end(self) -> Tail {
        match self {
            Unpacker::Plain(tail) => tail,
            Unpacker::Gzip(mut decoder) => {
                // What was unpacked before it broke off counts.
                let _ = decoder.try_finish();
                std::mem::take(decoder.get_mut())
            }
        }
    }
}

impl Write for Tail {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        Tail::write(self, data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
