//! Small requests without the weight of a whole HTTP connection.
//!
//! Most connections to an agent carry two kinds of requests: reads without a body, whose answer may have to wait for
//! minutes, and writes of some hundred bytes. The HTTP library holds three buffers of 8 KiB for each connection, and while a
//! read waits they hold nothing. Here such requests are taken from the socket through a buffer on the stack, and while a read
//! waits only its bytes are held and what it waits for: to be looked at once more, it is read once more.
//!
//! Whatever is not exactly one such request in one piece goes to the library with every byte that was read, and the
//! connection stays there: there is one place that knows the rest of HTTP, its mistakes included.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use bytes::{Buf, Bytes};
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{Method, Request, StatusCode, Uri, Version};
use hyper::body::Body as _;
use lictor_model::name::ServiceId;
use lictor_task::descriptors::BytesOnly;
use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, Interest, ReadBuf, Ready};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use crate::blocking::{Round, Turn, Waits};
use crate::body::RequestBody;
use crate::call::Peer;
use crate::gate::Admission;
use crate::leaving;
use crate::measure::{self, Timers};
use crate::repeated::Repeated;
use crate::respond::{Response, ResponseBody};
use crate::server::{self, HEAD_LIMIT, Rules, Server};

/// A request that is larger goes to the library. An answer that is larger has its head on the heap.
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
    Request(Asked),
    /// The request that came before.
    Again,
    Left(Left),
}

/// Answers reads until something else comes.
///
/// What is needed before and after an answer is in functions of their own, so that a connection has no room for it while it
/// waits.
pub(crate) async fn serve(server: &Server, line: &mut impl Line, peer: &Peer, proxy: Option<&ServiceId>) -> Left {
    // Made once: to set a timer anew is cheap as long as it is set to a later time, and to begin one is not.
    let mut timer = std::pin::pin!(tokio::time::sleep(HEAD_LIMIT));
    let mut stopped = std::pin::pin!(server.stop.requested());
    let mut last = None;
    loop {
        let asked = match next(server, line, last, timer.as_mut(), stopped.as_mut()).await {
            Ok(asked) => asked,
            Err(left) => return left,
        };
        let mut step = look(server, asked, peer, proxy, Turn::First);
        let written = loop {
            step = match step {
                Step::Answer(written) => break written,
                Step::Waits(held) => {
                    timer.as_mut().reset(held.waits.deadline());
                    let turn = tokio::select! {
                        biased;
                        turn = held.waits.changed(&server.agent) => turn,
                        // Whoever has said everything may still want the answer of now.
                        () = gone(line) => Turn::Last,
                        () = timer.as_mut() => Turn::Last,
                        // A client that is answered now finds the next agent sooner than one whose connection just ends.
                        () = stopped.as_mut() => Turn::Last,
                    };
                    held.look(server, peer, proxy, turn)
                }
                // On the heap, for a connection that waits need not have room for it.
                Step::Takes(asked) => match Box::pin(carry_out(server, line, asked, peer, proxy)).await {
                    Some(step) => step,
                    None => return Left::Over,
                },
                Step::Left(left) => return left,
            }
        };
        // An agent that goes lets its clients find another.
        let stays = written.stays && !server.stop.is_requested();
        if !send(server, line, &written.head, written.body, stays).await || !stays {
            return Left::Over;
        }
        last = written.repeated;
    }
}

/// A request as it came, and where its body begins.
struct Asked {
    head: Box<Parts>,
    bytes: Vec<u8>,
    body_at: usize,
    at: Instant,
}

impl Asked {
    /// Understands bytes that are exactly one request, and gives them back if they are not.
    fn read(bytes: Vec<u8>, at: Instant) -> Result<Asked, Left> {
        match read(&bytes) {
            Some((head, body_at)) => Ok(Asked { head: Box::new(head), bytes, body_at, at }),
            None => Err(Left::Bytes(bytes)),
        }
    }

    /// Whether the client wants no further answer on this connection.
    fn is_last(&self) -> bool {
        self.head.headers.get(CONNECTION).is_some_and(is_close)
    }
}

/// How it goes on with a request.
enum Step {
    Answer(Written),
    Waits(Held),
    /// It takes a time that is not ours to say.
    Takes(Asked),
    Left(Left),
}

/// An answer as it is sent: its head without the time, and its body.
struct Written {
    head: Bytes,
    body: Bytes,
    stays: bool,
    repeated: Option<Box<Repeated>>,
}

/// What is held of a request while it waits.
struct Held {
    bytes: Vec<u8>,
    at: Instant,
    stays: bool,
    timers: Option<Timers>,
    /// By which it was let in.
    rules: Arc<Rules>,
    waits: Waits,
}

impl Held {
    /// Its next turn. Of many who wait for the same, all but the first are given what that one found.
    fn look(self, server: &Server, peer: &Peer, proxy: Option<&ServiceId>, turn: Turn) -> Step {
        if let Some(timers) = &self.timers
            && server.repeats(&self.rules)
            && let Some((answer, form)) = self.waits.kept(&server.kept)
            && measure::answered_again(&answer)
        {
            let (head, body) = form.ready(&answer, &self.rules);
            timers.took(self.at.elapsed());
            return Step::Answer(Written { head, body, stays: self.stays, repeated: None });
        }
        match Asked::read(self.bytes, self.at) {
            Ok(asked) => look(server, asked, peer, proxy, turn),
            Err(left) => Step::Left(left),
        }
    }
}

/// One turn of a request.
fn look(server: &Server, asked: Asked, peer: &Peer, proxy: Option<&ServiceId>, turn: Turn) -> Step {
    if asked.head.method != Method::GET {
        return Step::Takes(asked);
    }
    let rules = server.rules();
    let admission = rules.gate.admit(&asked.head.method, &asked.head.uri, *peer);
    let Admission::Handler(admitted) = &admission else { return Step::Left(Left::Bytes(asked.bytes)) };
    let Some(reads) = server.read_here(admitted) else { return Step::Left(Left::Bytes(asked.bytes)) };
    if server.asks_first(admitted) {
        drop(admission);
        return Step::Takes(asked);
    }
    let stays = !asked.is_last();
    let answered = match server.look(reads, admitted, &asked.head, peer, proxy, turn) {
        Ok(Round::Waits(waits)) => {
            let timers = server.measure.of_read(admitted.route.pattern);
            drop(admission);
            return Step::Waits(Held { bytes: asked.bytes, at: asked.at, stays, timers, rules, waits });
        }
        Ok(Round::Kept(answer, form)) => {
            let (head, body) = form.ready(&answer, &rules);
            server.measure.took(admitted.route.pattern, &Method::GET, "", asked.at.elapsed());
            server::log(&asked.head, peer, proxy, asked.at);
            let repeated =
                stays.then(|| Repeated::new(server, asked.bytes, admitted, Arc::clone(&rules), &answer, form));
            return Step::Answer(Written { head, body, stays, repeated: repeated.flatten() });
        }
        Ok(Round::Answered(response)) => Ok(response),
        Err(failure) => Err(failure),
    };
    let response = server.complete(answered, admitted, &asked.head, asked.at);
    server::log(&asked.head, peer, proxy, asked.at);
    whole(response, stays)
}

/// Carries out a request that does something, or asks somebody else; `None` when the agent stops and that takes too long.
async fn carry_out(
    server: &Server,
    line: &impl Line,
    asked: Asked,
    peer: &Peer,
    proxy: Option<&ServiceId>,
) -> Option<Step> {
    let stays = !asked.is_last();
    let Asked { mut head, bytes, body_at, .. } = asked;
    let rules = server.rules();
    let answer = async {
        let admission = rules.gate.admit(&head.method, &head.uri, *peer);
        if head.method != Method::GET {
            if !server.acts_here(&admission) {
                return Err(Left::Bytes(bytes));
            }
            // What does something is done, whether its client stays or not.
            let body = RequestBody::Whole(Bytes::from(bytes).slice(body_at..));
            return Ok(server.answer(admission, &head, body, peer, proxy).await);
        }
        tokio::select! {
            biased;
            response = server.answer(admission, &head, RequestBody::default(), peer, proxy) => return Ok(response),
            () = gone(line) => {}
        }
        head.uri = leaving::without_waiting(&head.uri);
        Ok(server.answer_at_once(&head, peer, proxy).await)
    };
    let answered = server.within_grace(answer).await?;
    Some(answered.map_or_else(Step::Left, |response| whole(response, stays)))
}

/// An answer that is nobody else's.
fn whole(mut response: Response, stays: bool) -> Step {
    let stays = stays && response.headers_mut().remove(CONNECTION).is_none();
    let head = write_fields(response.status(), response.headers(), response.body().size_hint().lower());
    let ResponseBody::Whole(body, _) = response.into_body() else {
        // What is answered here is answered as a whole; what is not would have to be sent in chunks.
        tracing::error!("http: an answer that has to be whole is a stream");
        return Step::Left(Left::Over);
    };
    Step::Answer(Written { head: head.into(), body, stays, repeated: None })
}

/// Waits for the next request that is not answered like the last one.
async fn next(
    server: &Server,
    line: &mut impl Line,
    last: Option<Box<Repeated>>,
    mut timer: Pin<&mut Sleep>,
    mut stopped: Pin<&mut impl Future<Output = ()>>,
) -> Result<Asked, Left> {
    loop {
        timer.as_mut().reset(Instant::now() + HEAD_LIMIT);
        let known = last.as_ref().map_or(&[][..], |last| last.request());
        let taken = tokio::select! {
            biased;
            taken = take(line, known) => taken,
            // Nothing came in time, or the agent stops and nobody waits for an answer.
            () = timer.as_mut() => return Err(Left::Over),
            () = stopped.as_mut() => return Err(Left::Over),
        };
        match taken {
            Taken::Again => {}
            Taken::Request(asked) => return Ok(asked),
            Taken::Left(left) => return Err(left),
        }
        let Some(known) = &last else { return Err(Left::Over) };
        let Some((head, body)) = known.answer(server) else {
            return Asked::read(known.request().to_vec(), Instant::now());
        };
        let stays = !server.stop.is_requested();
        if !send(server, line, &head, body, stays).await || !stays {
            return Err(Left::Over);
        }
    }
}

/// Takes one request, if that is what comes. The buffer is only there while there are bytes to read. Cancel safe.
async fn take(line: &mut impl Line, known: &[u8]) -> Taken {
    poll_fn(|context| {
        let mut room = [const { MaybeUninit::uninit() }; ROOM];
        let mut buffer = ReadBuf::uninit(&mut room);
        let taken = match ready!(Pin::new(&mut *line).poll_read(context, &mut buffer)) {
            Ok(()) if !known.is_empty() && buffer.filled() == known => Taken::Again,
            Ok(()) if !buffer.filled().is_empty() => {
                Asked::read(buffer.filled().to_vec(), Instant::now()).map_or_else(Taken::Left, Taken::Request)
            }
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

/// Understands bytes that are exactly one request, and says where its body begins.
fn read(bytes: &[u8]) -> Option<(Parts, usize)> {
    // One that fills the room may go on.
    if bytes.len() == ROOM {
        return None;
    }
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(body_at) = parsed.parse(bytes).ok()? else { return None };
    let target = parsed.path.filter(|target| target.starts_with('/'))?;
    let method = match parsed.method {
        Some("GET") => Method::GET,
        Some("PUT") => Method::PUT,
        Some("POST") => Method::POST,
        Some("DELETE") => Method::DELETE,
        _ => return None,
    };
    if parsed.version != Some(1) {
        return None;
    }
    let mut all = HeaderMap::with_capacity(parsed.headers.len());
    for header in parsed.headers.iter() {
        let name = HeaderName::from_bytes(header.name.as_bytes()).ok()?;
        let value = HeaderValue::from_bytes(header.value).ok()?;
        let is_special = [TRANSFER_ENCODING, EXPECT, UPGRADE].contains(&name);
        let is_plain = name != CONNECTION || is_close(&value) || value.as_bytes().eq_ignore_ascii_case(b"keep-alive");
        let is_twice = [CONNECTION, CONTENT_LENGTH].contains(&name) && all.contains_key(&name);
        if is_special || !is_plain || is_twice {
            return None;
        }
        all.append(name, value);
    }
    let length = match all.get(CONTENT_LENGTH) {
        Some(length) => decimal(length.as_bytes())?,
        None => 0,
    };
    if length != bytes.len() - body_at || method == Method::GET && length > 0 {
        return None;
    }
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.version_mut() = Version::HTTP_11;
    *request.uri_mut() = Uri::try_from(target).ok()?;
    *request.headers_mut() = all;
    Some((request.into_parts().0, body_at))
}

/// A number in digits alone: there are others who read the same header, and nobody may read another number.
fn decimal(digits: &[u8]) -> Option<usize> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Waits until the peer has ended its side. Once it has sent more, that is not looked at any further.
async fn gone(line: &impl Line) {
    match line.ready().await {
        Ok(ready) if !ready.is_read_closed() => std::future::pending().await,
        Ok(_) | Err(_) => {}
    }
}

/// Sends an answer; `false` when that fails. `head` is without the time.
async fn send(server: &Server, line: &mut impl Line, head: &[u8], body: Bytes, stays: bool) -> bool {
    let Ok((text, body)) = begin(line, head, body, stays).await else { return false };
    if text.is_empty() && body.is_empty() {
        return true;
    }
    // On the heap: few clients do not take their answer at once.
    let mut rest = text.chain(body);
    let sent = Box::pin(server.within_grace(line.write_all_buf(&mut rest))).await;
    sent.is_some_and(|sent| sent.is_ok())
}

/// Sends as much of an answer as the kernel takes at once, and gives what is left of head and body. Until then its text is
/// on the stack.
async fn begin(line: &mut impl Line, head: &[u8], body: Bytes, stays: bool) -> io::Result<(Bytes, Bytes)> {
    poll_fn(|context| {
        let mut text = SmallVec::<[u8; ROOM]>::new();
        write_head(&mut text, head, stays);
        let line = Pin::new(&mut *line);
        // One piece is a shorter way through the kernel than two.
        let (sent, apart) = if body.len() <= COPIED {
            text.extend_from_slice(&body);
            (ready!(line.poll_write(context, &text))?, Bytes::new())
        } else {
            let pieces = [IoSlice::new(&text), IoSlice::new(&body)];
            (ready!(line.poll_write_vectored(context, &pieces))?, body.clone())
        };
        let (of_text, of_body) = (sent.min(text.len()), sent.saturating_sub(text.len()));
        Poll::Ready(Ok((Bytes::copy_from_slice(&text[of_text..]), apart.slice(of_body..))))
    })
    .await
}

/// The head of an answer without the time, its headers in the spelling of the original.
pub(crate) fn write_fields(status: StatusCode, headers: &HeaderMap, length: u64) -> Vec<u8> {
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

/// A whole head. Its lines have the order of the library: an answer is the same whoever gives it.
fn write_head(text: &mut SmallVec<[u8; ROOM]>, fields: &[u8], stays: bool) {
    if stays {
        text.extend_from_slice(fields);
    } else {
        let lines = fields.strip_suffix(b"\r\n").unwrap_or(fields);
        let (most, length) = fields.split_at(lines.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1));
        for part in [most, b"Connection: close\r\n", length] {
            text.extend_from_slice(part);
        }
    }
    text.extend_from_slice(b"Date: ");
    with_date(SystemTime::now(), |date| text.extend_from_slice(date.as_bytes()));
    text.extend_from_slice(b"\r\n\r\n");
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
        slices: &[IoSlice<'_>],
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
    fn exactly_one_request_is_understood() {
        let (head, body_at) = read(b"GET /v1/kv/a?index=3 HTTP/1.1\r\nHost: x\r\nX-Consul-Token: t\r\n\r\n").unwrap();
        assert_eq!(body_at, 61);
        assert_eq!((head.uri.path(), head.uri.query()), ("/v1/kv/a", Some("index=3")));
        assert_eq!(
            (head.headers["host"].as_bytes(), head.headers["x-consul-token"].as_bytes()),
            (&b"x"[..], &b"t"[..])
        );
        let text = b"PUT /v1/kv/a HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc";
        let (head, body_at) = read(text).unwrap();
        assert_eq!((head.method, &text[body_at..]), (Method::PUT, &b"abc"[..]));
        assert!(is_read("GET / HTTP/1.1\r\nConnection: Keep-Alive\r\n\r\n"));
        assert!(is_read("DELETE / HTTP/1.1\r\n\r\n"));
        assert!(is_read("POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n"));
        assert!(is_read("GET /v1/kv/ HTTP/1.1\r\nConnection: close\r\n\r\n"));
    }

    #[test]
    fn everything_else_is_left_to_the_library() {
        for text in [
            "GET / HTTP/1.1\r\nHost: x\r\n",
            "GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            "PATCH / HTTP/1.1\r\n\r\n",
            "PUT / HTTP/1.1\r\nContent-Length: 3\r\n\r\nab",
            "PUT / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcd",
            "PUT / HTTP/1.1\r\nContent-Length: +3\r\n\r\nabc",
            "PUT / HTTP/1.1\r\nContent-Length: \r\n\r\n",
            "PUT / HTTP/1.1\r\nContent-Length: 0x3\r\n\r\nabc",
            "PUT / HTTP/1.1\r\nContent-Length: 3, 3\r\n\r\nabc",
            "PUT / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
            "PUT / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\nabc",
            "PUT / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc",
            "HEAD / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.0\r\n\r\n",
            "GET http://x/ HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: 1\r\n\r\n",
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

    /// What the library takes from the same bytes.
    async fn by_library(bytes: &[u8]) -> Vec<(Parts, Bytes)> {
        let seen = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let (mut client, line) = tokio::io::duplex(2 * ROOM);
        let noting = Arc::clone(&seen);
        let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
            let noting = Arc::clone(&noting);
            async move {
                let (head, body) = request.into_parts();
                let body = http_body_util::BodyExt::collect(body).await?.to_bytes();
                noting.lock().push((head, body));
                Ok::<_, hyper::Error>(http::Response::new(http_body_util::Empty::<Bytes>::new()))
            }
        });
        client.write_all(bytes).await.unwrap();
        client.shutdown().await.unwrap();
        let connection = hyper::server::conn::http1::Builder::new()
            .half_close(true)
            .serve_connection(hyper_util::rt::TokioIo::new(line), service);
        let mut answers = Vec::new();
        // What it cannot read it refuses.
        let (_, read) = tokio::join!(connection, client.read_to_end(&mut answers));
        read.unwrap();
        std::mem::take(&mut *seen.lock())
    }

    /// Two readers of one connection must never see two requests where the other sees one.
    #[tokio::test]
    async fn what_is_understood_here_the_library_understands_alike() {
        let lines = [
            "GET /v1/kv/a?index=3&wait=5s HTTP/1.1\r\n",
            "PUT /v1/catalog/register HTTP/1.1\r\n",
            "POST /v1/connect/intentions HTTP/1.1\r\n",
            "Host: x\r\n",
            "Content-Length: 4\r\n",
            "content-length: 04\r\n",
            "Content-Length : 4\r\n",
            "Transfer-Encoding: chunked\r\n",
            "Connection: keep-alive\r\n",
            "X-Consul-Token: t\r\n",
            "X: a\r\n b\r\n",
            "\r\n",
            "\n",
            "0\r\n\r\n",
            "{\"a\"",
            "GET / HTTP/1.1\r\n\r\n",
        ];
        let mut random = fastrand::Rng::with_seed(7);
        let (mut alike, mut bodies) = (0, 0);
        for _ in 0..20_000 {
            let first = lines[random.usize(..3)];
            let count = random.usize(..4);
            let mut text = first.to_owned();
            (0..count).for_each(|_| text.push_str(lines[random.usize(3..11)]));
            text.push_str("\r\n");
            if random.bool() {
                text.push_str(lines[random.usize(11..lines.len())]);
            }
            let mut bytes = text.into_bytes();
            if random.u8(..4) == 0 {
                let at = random.usize(..bytes.len());
                bytes[at] = *random.choice(b" \t\r\n:,;0149aZ\0\x7f\xff").unwrap();
            }
            let Some((head, body_at)) = read(&bytes) else { continue };
            let seen = by_library(&bytes).await;
            let shown = String::from_utf8_lossy(&bytes);
            let [(known, body)] = seen.as_slice() else { panic!("{} requests in {shown:?}", seen.len()) };
            assert_eq!(
                (&head.method, &head.uri, &head.headers),
                (&known.method, &known.uri, &known.headers),
                "{shown:?}"
            );
            assert_eq!(bytes[body_at..], body[..], "{shown:?}");
            alike += 1;
            bodies += usize::from(!body.is_empty());
        }
        assert!(alike > 1000 && bodies > 100, "{alike} requests, {bodies} with a body");
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
        for (stays, ends) in [(true, ""), (false, "Connection: close\r\n")] {
            let mut text = SmallVec::new();
            write_head(&mut text, &fields, stays);
            let text = String::from_utf8(text.into_vec()).unwrap();
            let start = "HTTP/1.1 404 Not Found\r\nX-Consul-Index: 7\r\nSome-Other: 8\r\n";
            assert!(text.starts_with(&format!("{start}{ends}Content-Length: 12\r\nDate: ")), "{text}");
            assert!(text.ends_with(" GMT\r\n\r\n"), "{text}");
        }
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
