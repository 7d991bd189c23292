//! Reads without the weight of a whole HTTP connection.
//!
//! Most connections to an agent carry one kind of request: a read without a body, whose answer may have to wait for
//! minutes. The HTTP library holds three buffers of 8 KiB for each connection, and while a read waits they hold nothing. Here
//! such requests are taken from the socket through a buffer on the stack, and while one waits only the request is held.
//!
//! Whatever is not exactly one such request in one piece goes to the library with every byte that was read, and the
//! connection stays there: there is one place that knows the rest of HTTP, its mistakes included.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use bytes::{Buf, Bytes};
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{Method, Request, StatusCode, Uri, Version};
use lictor_model::name::ServiceId;
use lictor_task::descriptors::BytesOnly;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, Interest, ReadBuf, Ready};
use tokio::net::TcpStream;

use crate::call::Peer;
use crate::gate::Admission;
use crate::leaving;
use crate::repeated::{Candidate, Repeated};
use crate::respond::{Response, ResponseBody};
use crate::server::{HEAD_LIMIT, Server};

/// A request that is larger goes to the library.
const ROOM: usize = 4096;
/// A body up to this size is copied behind its head.
const COPIED: usize = 2048;
/// A request with more headers goes to the library.
const HEADERS: usize = 32;

/// A connection that can say whether its peer has gone without reading from it.
pub(crate) trait Line: AsyncRead + AsyncWrite + Unpin {
    /// Waits until there is something to know.
    fn ready(&self) -> impl Future<Output = io::Result<Ready>> + Send;
}

impl Line for TcpStream {
    async fn ready(&self) -> io::Result<Ready> {
        TcpStream::ready(self, Interest::READABLE).await
    }
}

impl Line for BytesOnly {
    async fn ready(&self) -> io::Result<Ready> {
        self.readable().await
    }
}

/// How it came that no more reads are answered here.
pub(crate) enum Left {
    /// The connection is at its end.
    Over,
    /// These bytes came, and something else has to understand them.
    Bytes(Vec<u8>),
}

/// What was taken from the socket.
enum Taken {
    Read(Box<Parts>, Vec<u8>),
    /// The request that came before.
    Again,
    Left(Left),
}

/// Answers reads until something else comes.
///
/// What is needed before and after an answer is in functions of their own, so that a connection has no room for it while it
/// waits.
pub(crate) async fn serve(server: &Server, line: &mut impl Line, peer: &Peer, proxy: Option<&ServiceId>) -> Left {
    let mut last = None;
    loop {
        let (mut head, bytes) = match next(server, line, last).await {
            Ok(read) => read,
            Err(left) => return left,
        };
        let (admission, candidate) = match admit(server, &head, bytes, peer) {
            Ok(admitted) => admitted,
            Err(left) => return left,
        };
        let stays = !head.headers.get(CONNECTION).is_some_and(is_close);
        let response = tokio::select! {
            biased;
            response = server.answer(admission, &head, peer, None, proxy) => response,
            () = gone(line) => {
                head.uri = leaving::without_waiting(&head.uri);
                // Rare, so that a connection need not have room for it.
                Box::pin(server.answer_at_once(&head, peer, proxy)).await
            }
        };
        drop(head);
        last = match answer(server, line, response, candidate, stays).await {
            Ok(last) => last,
            Err(left) => return left,
        };
    }
}

/// Waits for the next request that is not answered like the last one.
async fn next(
    server: &Server,
    line: &mut impl Line,
    last: Option<Box<Repeated>>,
) -> Result<(Box<Parts>, Vec<u8>), Left> {
    loop {
        let known = last.as_ref().map_or(&[][..], |last| last.request());
        let taken = tokio::time::timeout(HEAD_LIMIT, server.stop.or_stopped(take(line, known))).await;
        match taken {
            Ok(Some(Taken::Again)) => {}
            Ok(Some(Taken::Read(head, bytes))) => return Ok((head, bytes)),
            Ok(Some(Taken::Left(left))) => return Err(left),
            // Nothing came in time, or the agent stops and nobody waits for an answer.
            Err(_) | Ok(None) => return Err(Left::Over),
        }
        let Some(known) = &last else { return Err(Left::Over) };
        let Some((fields, body)) = known.answer(server) else {
            let bytes = known.request().to_vec();
            return match read(&bytes) {
                Some(head) => Ok((Box::new(head), bytes)),
                None => Err(Left::Bytes(bytes)),
            };
        };
        let stays = !server.stop.is_requested();
        if !send(line, fields, body, stays).await || !stays {
            return Err(Left::Over);
        }
    }
}

/// Lets a read in, unless something else has to answer it.
fn admit<'h>(
    server: &Server,
    head: &'h Parts,
    bytes: Vec<u8>,
    peer: &Peer,
) -> Result<(Admission<'h>, Option<Box<Candidate>>), Left> {
    let rules = server.rules();
    let admission = rules.gate.admit(&head.method, &head.uri, *peer);
    if !server.reads_itself(&admission) {
        return Err(Left::Bytes(bytes));
    }
    let candidate = Candidate::new(bytes, &admission, rules);
    Ok((admission, candidate))
}

/// Sends an answer, and gives what is to be remembered of it.
async fn answer(
    server: &Server,
    line: &mut impl Line,
    response: Response,
    candidate: Option<Box<Candidate>>,
    stays: bool,
) -> Result<Option<Box<Repeated>>, Left> {
    // An agent that goes lets its clients find another.
    let stays = stays && !server.stop.is_requested();
    let ResponseBody::Whole(body, _) = response.body() else {
        // Reads are answered as a whole; what is not would have to be sent in chunks.
        tracing::error!("http: the answer to a read is a stream");
        return Err(Left::Over);
    };
    let (body, fields) = (body.clone(), write_fields(response.status(), response.headers(), body.len()));
    let last = candidate.filter(|_| stays).and_then(|candidate| candidate.answered(server, &response, &fields));
    drop(response);
    match send(line, &fields, body, stays).await && stays {
        true => Ok(last),
        false => Err(Left::Over),
    }
}

/// Takes one request, if that is what comes. The buffer is only there while there are bytes to read. Cancel safe.
async fn take(line: &mut impl Line, known: &[u8]) -> Taken {
    poll_fn(|context| {
        let mut room = [const { MaybeUninit::uninit() }; ROOM];
        let mut buffer = ReadBuf::uninit(&mut room);
        let taken = match ready!(Pin::new(&mut *line).poll_read(context, &mut buffer)) {
            Ok(()) if !known.is_empty() && buffer.filled() == known => Taken::Again,
            Ok(()) if !buffer.filled().is_empty() => match read(buffer.filled()) {
                Some(head) => Taken::Read(Box::new(head), buffer.filled().to_vec()),
                None => Taken::Left(Left::Bytes(buffer.filled().to_vec())),
            },
            Ok(()) | Err(_) => Taken::Left(Left::Over),
        };
        Poll::Ready(taken)
    })
    .await
}

/// Whether a client wants no further answer on this connection.
fn is_close(connection: &HeaderValue) -> bool {
    connection.as_bytes().eq_ignore_ascii_case(b"close")
}

/// Understands bytes that are exactly one request without a body.
fn read(bytes: &[u8]) -> Option<Parts> {
    // One that fills the room may go on.
    if bytes.len() == ROOM {
        return None;
    }
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(length) = parsed.parse(bytes).ok()? else { return None };
    let target = parsed.path.filter(|target| target.starts_with('/'))?;
    if length != bytes.len() || parsed.method != Some("GET") || parsed.version != Some(1) {
        return None;
    }
    let mut all = HeaderMap::with_capacity(parsed.headers.len());
    for header in parsed.headers.iter() {
        let name = HeaderName::from_bytes(header.name.as_bytes()).ok()?;
        let value = HeaderValue::from_bytes(header.value).ok()?;
        let is_special = [CONTENT_LENGTH, TRANSFER_ENCODING, EXPECT, UPGRADE].contains(&name);
        let is_plain = name != CONNECTION || is_close(&value) || value.as_bytes().eq_ignore_ascii_case(b"keep-alive");
        if is_special || !is_plain || all.contains_key(CONNECTION) && name == CONNECTION {
            return None;
        }
        all.append(name, value);
    }
    let mut request = Request::new(());
    *request.method_mut() = Method::GET;
    *request.version_mut() = Version::HTTP_11;
    *request.uri_mut() = Uri::try_from(target).ok()?;
    *request.headers_mut() = all;
    Some(request.into_parts().0)
}

/// Waits until the peer has ended its side. Once it has sent more, that is not looked at any further.
async fn gone(line: &impl Line) {
    match line.ready().await {
        Ok(ready) if !ready.is_read_closed() => std::future::pending().await,
        Ok(_) | Err(_) => {}
    }
}

/// Sends an answer; `false` when that fails. `fields` is its head without the time.
async fn send(line: &mut impl Line, fields: &[u8], body: Bytes, stays: bool) -> bool {
    let mut text = write_head(fields, body.len(), stays);
    // One piece is a shorter way through the kernel than two.
    if body.len() <= COPIED {
        text.extend_from_slice(&body);
        return line.write_all(&text).await.is_ok();
    }
    let mut whole = Bytes::from(text).chain(body);
    line.write_all_buf(&mut whole).await.is_ok()
}

/// The head of an answer without the time, its headers in the spelling of the original.
fn write_fields(status: StatusCode, headers: &HeaderMap, length: usize) -> Vec<u8> {
    let mut text = Vec::with_capacity(512);
    text.extend_from_slice(b"HTTP/1.1 ");
    text.extend_from_slice(status.as_str().as_bytes());
    text.push(b' ');
    text.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    text.extend_from_slice(b"\r\n");
    let mut put = |name: &HeaderName, value: &[u8]| {
        match title_case(name.as_str()) {
            Some(known) => text.extend_from_slice(known.as_bytes()),
            None => {
                let start = text.len();
                text.extend_from_slice(name.as_str().as_bytes());
                let mut starts = true;
                for byte in &mut text[start..] {
                    if starts {
                        byte.make_ascii_uppercase();
                    }
                    starts = *byte == b'-';
                }
            }
        }
        text.extend_from_slice(b": ");
        text.extend_from_slice(value);
        text.extend_from_slice(b"\r\n");
    };
    headers.iter().for_each(|(name, value)| put(name, value.as_bytes()));
    put(&CONTENT_LENGTH, length.to_string().as_bytes());
    text
}

/// A whole head, with room for a body of that length where it is copied behind it.
fn write_head(fields: &[u8], length: usize, stays: bool) -> Vec<u8> {
    let copied = if length <= COPIED { length } else { 0 };
    let mut text = Vec::with_capacity(fields.len() + 64 + copied);
    text.extend_from_slice(fields);
    text.extend_from_slice(b"Date: ");
    with_date(SystemTime::now(), |date| text.extend_from_slice(date.as_bytes()));
    text.extend_from_slice(if stays { b"\r\n\r\n" } else { b"\r\nConnection: close\r\n\r\n" });
    text
}

/// The names that nearly every answer has, as the original spells them.
fn title_case(name: &str) -> Option<&'static str> {
    Some(match name {
        "vary" => "Vary",
        "content-type" => "Content-Type",
        "content-length" => "Content-Length",
        "x-consul-index" => "X-Consul-Index",
        "x-consul-knownleader" => "X-Consul-Knownleader",
        "x-consul-lastcontact" => "X-Consul-Lastcontact",
        "x-consul-effective-consistency" => "X-Consul-Effective-Consistency",
        _ => return None,
    })
}

/// Hands over a time as the date header has it. It is written once a second.
fn with_date<T>(now: SystemTime, take: impl FnOnce(&str) -> T) -> T {
    thread_local! {
        static WRITTEN: RefCell<(Duration, String)> = const { RefCell::new((Duration::MAX, String::new())) };
    }
    // Dates have no times before that; one is written for them all the same.
    let second = Duration::from_secs(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs());
    WRITTEN.with_borrow_mut(|(written, date)| {
        if *written != second {
            (*written, *date) = (second, httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + second));
        }
        take(date)
    })
}

/// A connection from which some bytes were read before.
pub(crate) struct Rewound<L> {
    before: Bytes,
    line: L,
}

impl<L> Rewound<L> {
    pub(crate) fn new(before: Vec<u8>, line: L) -> Rewound<L> {
        Rewound { before: before.into(), line }
    }

    /// Whether what was read begins so, as far as there is something.
    pub(crate) fn begins_with(&self, text: &[u8]) -> bool {
        let length = text.len().min(self.before.len());
        length > 0 && self.before[..length] == text[..length]
    }
}

impl<L: AsyncRead + Unpin> AsyncRead for Rewound<L> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.before.is_empty() {
            return Pin::new(&mut self.line).poll_read(context, buffer);
        }
        let count = self.before.len().min(buffer.remaining());
        buffer.put_slice(&self.before.split_to(count));
        if self.before.is_empty() {
            // An empty slice would go on holding them.
            self.before = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<L: AsyncWrite + Unpin> AsyncWrite for Rewound<L> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.line).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.line).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.line).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.line).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.line.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    fn is_read(text: &str) -> bool {
        read(text.as_bytes()).is_some()
    }

    #[test]
    fn exactly_one_request_without_a_body_is_understood() {
        let head = read(b"GET /v1/kv/a?index=3 HTTP/1.1\r\nHost: x\r\nX-Consul-Token: t\r\n\r\n").unwrap();
        assert_eq!((head.uri.path(), head.uri.query()), ("/v1/kv/a", Some("index=3")));
        assert_eq!(
            (head.headers["host"].as_bytes(), head.headers["x-consul-token"].as_bytes()),
            (&b"x"[..], &b"t"[..])
        );
        assert!(is_read("GET / HTTP/1.1\r\nConnection: Keep-Alive\r\n\r\n"));
        assert!(is_read("GET /v1/kv/ HTTP/1.1\r\nConnection: close\r\n\r\n"));
    }

    #[test]
    fn everything_else_is_left_to_the_library() {
        for text in [
            "GET / HTTP/1.1\r\nHost: x\r\n",
            "GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            "PUT / HTTP/1.1\r\n\r\n",
            "HEAD / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.0\r\n\r\n",
            "GET http://x/ HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
            "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nExpect: 100-continue\r\n\r\n",
            "GET / HTTP/1.1\r\nConnection: close\r\nConnection: keep-alive\r\n\r\n",
            "GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
            "GET / HTTP/1.1\r\nbad header\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "nonsense",
        ] {
            assert!(!is_read(text), "{text:?}");
        }
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(ROOM - 17));
        assert_eq!(long.len(), ROOM + 1);
        assert!(!is_read(&long[..ROOM]));
        assert!(!is_read(&format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(HEADERS + 1))));
    }

    #[test]
    fn headers_are_spelled_as_the_original_spells_them() {
        for name in ["vary", "content-type", "content-length", "x-consul-index", "x-consul-knownleader"]
            .into_iter()
            .chain(["x-consul-lastcontact", "x-consul-effective-consistency"])
        {
            let spelled = name.split('-').map(|word| word[..1].to_uppercase() + &word[1..]).collect::<Vec<_>>();
            assert_eq!(title_case(name), Some(spelled.join("-").as_str()));
        }
        let mut headers = HeaderMap::from_iter([(HeaderName::from_static("x-consul-index"), HeaderValue::from(7))]);
        headers.insert(HeaderName::from_static("some-other"), HeaderValue::from(8));
        let fields = write_fields(StatusCode::NOT_FOUND, &headers, 12);
        let text = String::from_utf8(write_head(&fields, 12, false)).unwrap();
        assert!(
            text.starts_with(
                "HTTP/1.1 404 Not Found\r\nX-Consul-Index: 7\r\nSome-Other: 8\r\nContent-Length: 12\r\nDate: "
            ),
            "{text}"
        );
        assert!(text.ends_with(" GMT\r\nConnection: close\r\n\r\n"), "{text}");
    }

    #[test]
    fn dates_follow_the_clock_wherever_it_goes() {
        let at = |seconds: u64, millis: u64| {
            with_date(SystemTime::UNIX_EPOCH + Duration::from_millis(seconds * 1000 + millis), str::to_owned)
        };
        assert_eq!(at(784_111_777, 1), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(at(784_111_777, 999), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(at(784_111_778, 0), "Sun, 06 Nov 1994 08:49:38 GMT");
        assert_eq!(at(0, 0), "Thu, 01 Jan 1970 00:00:00 GMT");
    }

    #[tokio::test]
    async fn what_was_read_before_is_read_again() {
        let mut rewound = Rewound::new(b"before ".to_vec(), &b"and after"[..]);
        let mut text = String::new();
        rewound.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "before and after");
    }
}
