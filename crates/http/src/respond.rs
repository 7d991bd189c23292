//! Answers: JSON, texts and streams, the headers that all of them carry, and compression.

use std::io::Write as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{
    ACCEPT_ENCODING, ALLOW, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION,
    VARY,
};
use http::{Method, StatusCode};
use hyper::body::{Body, Frame, SizeHint};
use lictor_api::json::{self, Layout};
use serde::Serialize;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::mpsc;

use crate::encoded::Encoded;
use crate::error::Failure;
use crate::path;

/// An answer.
pub(crate) type Response = http::Response<ResponseBody>;

/// `X-Consul-Index`. The names here are written lower case; on HTTP/1 they travel in the original's spelling.
pub(crate) static INDEX: HeaderName = HeaderName::from_static("x-consul-index");
/// `X-Consul-Knownleader`
pub(crate) static KNOWN_LEADER: HeaderName = HeaderName::from_static("x-consul-knownleader");
/// `X-Consul-Lastcontact`
pub(crate) static LAST_CONTACT: HeaderName = HeaderName::from_static("x-consul-lastcontact");
/// `X-Consul-Effective-Consistency`
pub(crate) static EFFECTIVE_CONSISTENCY: HeaderName = HeaderName::from_static("x-consul-effective-consistency");
/// `X-Consul-Contenthash`
pub(crate) static CONTENT_HASH: HeaderName = HeaderName::from_static("x-consul-contenthash");
/// `X-Consul-Reason`
pub(crate) static REASON: HeaderName = HeaderName::from_static("x-consul-reason");
/// `X-Consul-Translate-Addresses`
pub(crate) static TRANSLATE_ADDRESSES: HeaderName = HeaderName::from_static("x-consul-translate-addresses");
/// `X-Cache`
pub(crate) static CACHE: HeaderName = HeaderName::from_static("x-cache");
/// `X-Lictor-Default-Decision`
pub(crate) static DEFAULT_DECISION: HeaderName = HeaderName::from_static("x-lictor-default-decision");
/// `X-Lictor-Ranking`
pub(crate) static RANKING: HeaderName = HeaderName::from_static("x-lictor-ranking");
/// `Lictor-Cert-Expired`
pub(crate) static CERT_EXPIRED: HeaderName = HeaderName::from_static("lictor-cert-expired");

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const BARE_TEXT: HeaderValue = HeaderValue::from_static("text/plain");

/// Nothing to say, with a status.
pub(crate) fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(ResponseBody::whole(Bytes::new()));
    *response.status_mut() = status;
    response
}

/// An answer that is longer takes so long to write or to compress that other requests on the same worker would wait.
const LONG: usize = 256 * 1024;

/// Does something that takes long. Meanwhile this worker's other tasks run elsewhere.
fn aside<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        // Without workers there is nobody to make room for.
        _ => work(),
    }
}

/// A JSON value.
pub(crate) fn json(value: &impl Serialize, layout: Layout) -> Result<Response, Failure> {
    // How long it is shows when it is written: nearly all are short, and of the others only the beginning is written twice.
    let text = match json::to_vec_within(value, layout, LONG) {
        Ok(Some(text)) => Ok(text),
        Ok(None) => aside(|| json::to_vec(value, layout)),
        Err(error) => Err(error),
    };
    let text = text.map_err(Failure::Encode)?;
    let mut response = Response::new(ResponseBody::whole(text.into()));
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    Ok(response)
}

/// How many headers an answer gets beside its own.
const COMPLETED: usize = 8;

/// An answer that was made for another client.
pub(crate) fn shared(answer: Arc<Encoded>) -> Response {
    // With room for what every answer is completed by.
    let mut headers = HeaderMap::with_capacity(answer.headers.len() + COMPLETED);
    for (name, value) in &answer.headers {
        headers.append(name, value.clone());
    }
    let mut response = Response::new(ResponseBody::Whole(answer.body.clone(), Some(answer)));
    *response.headers_mut() = headers;
    response
}

/// Bytes as they are; what they are is the caller's to say.
pub(crate) fn bytes(bytes: Bytes) -> Response {
    Response::new(ResponseBody::whole(bytes))
}

/// A text for people.
pub(crate) fn text(status: StatusCode, text: impl Into<Bytes>) -> Response {
    with_type(status, TEXT, text.into())
}

/// One word, as health checkers read it.
pub(crate) fn word(status: StatusCode, word: impl Into<Bytes>) -> Response {
    with_type(status, BARE_TEXT, word.into())
}

fn with_type(status: StatusCode, kind: HeaderValue, body: Bytes) -> Response {
    let mut response = empty(status);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    *response.body_mut() = ResponseBody::whole(body);
    response
}

/// A failure.
pub(crate) fn failure(failure: &Failure) -> Response {
    if failure.text().is_empty() {
        return empty(failure.status());
    }
    let mut response = text(failure.status(), failure.text());
    if matches!(failure, Failure::TooLarge(_) | Failure::Crowded | Failure::Restoring) {
        // The rest of the body is not read.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if let Failure::Method(_, allowed) = failure
        && let Ok(value) = HeaderValue::try_from(allowed.as_str())
    {
        response.headers_mut().insert(ALLOW, value);
    }
    response
}

/// Lines as they come, for as long as the client listens.
pub(crate) fn stream(lines: mpsc::Receiver<Bytes>) -> Response {
    let mut response = Response::new(ResponseBody::Lines { lines, gzip: None });
    response.headers_mut().insert(CONTENT_TYPE, TEXT);
    response
}

/// Bytes as they come, as they are, until `None`. When there is nobody any more who could say that, the answer is cut off.
pub(crate) fn pieces(pieces: mpsc::Receiver<Option<Bytes>>) -> Response {
    Response::new(ResponseBody::Pieces(pieces))
}

/// The same thing is elsewhere, for good.
pub(crate) fn redirect(method: &Method, path: &str, query: Option<&str>) -> Response {
    let mut target = path::encode(path);
    if let Some(query) = query {
        target.push('?');
        target.push_str(query);
    }
    let mut response = empty(StatusCode::MOVED_PERMANENTLY);
    if method == Method::GET {
        let link = target.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;");
        let link = link.replace('\'', "&#39;");
        *response.body_mut() = ResponseBody::whole(format!("<a href=\"{link}\">Moved Permanently</a>.\n\n").into());
        response.headers_mut().insert(CONTENT_TYPE, HTML);
    }
    if let Ok(value) = HeaderValue::try_from(target) {
        response.headers_mut().insert(LOCATION, value);
    }
    response
}

/// The methods of an endpoint, as the answer to a wrong one or to OPTIONS says them.
pub(crate) fn allow(response: &mut Response, methods: impl Iterator<Item = &'static Method>) {
    let mut list = "OPTIONS".to_owned();
    for method in methods {
        list.push(',');
        list.push_str(method.as_str());
    }
    if let Ok(value) = HeaderValue::try_from(list) {
        response.headers_mut().insert(ALLOW, value);
    }
}

/// What all answers of the API have in common, whatever they say.
#[derive(Debug, Default)]
pub(crate) struct Common {
    pub(crate) configured: Vec<(HeaderName, HeaderValue)>,
    pub(crate) translate_addresses: bool,
}

impl Common {
    /// Completes an answer of the API to a client that takes compressed ones or not.
    pub(crate) fn complete(&self, response: &mut Response, accepts_gzip: bool) {
        let headers = response.headers_mut();
        headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
        for (name, value) in &self.configured {
            headers.insert(name.clone(), value.clone());
        }
        if self.translate_addresses {
            headers.insert(TRANSLATE_ADDRESSES.clone(), HeaderValue::from_static("true"));
        }
        if accepts_gzip && response.body_mut().compress() {
            response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
    }
}

/// Whether `Accept-Encoding` names gzip with a weight above zero.
pub(crate) fn accepts_gzip(request: &HeaderMap) -> bool {
    let Some(accepted) = request.get(ACCEPT_ENCODING).and_then(|value| value.to_str().ok()) else { return false };
    accepted.split(',').any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        let weight = parts.find_map(|part| part.strip_prefix("q=")).map_or(Ok(1.0), str::parse::<f32>);
        named && weight.is_ok_and(|weight| weight > 0.0)
    })
}

/// The body of an answer.
#[derive(Debug)]
pub(crate) enum ResponseBody {
    /// All of it, and where it is shared with others, if it is.
    Whole(Bytes, Option<Arc<Encoded>>),
    /// Pieces of something that is not compressed again, as they come.
    Pieces(mpsc::Receiver<Option<Bytes>>),
    /// Lines without their ends, as they come.
    Lines { lines: mpsc::Receiver<Bytes>, gzip: Option<Box<GzEncoder<Vec<u8>>>> },
}

/// An answer ends before its end: its client must not take it for whole.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the answer ends before its end")]
pub(crate) struct CutOff;

/// The lowest level: answers are read at once and never stored, and most are small.
pub(crate) fn compressed(plain: &[u8]) -> Bytes {
    if plain.len() > LONG { aside(|| compress(plain)) } else { compress(plain) }
}

fn compress(plain: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::with_capacity(plain.len() / 2 + 32), Compression::fast());
    // Writing to memory cannot fail.
    let _ = encoder.write_all(plain);
    encoder.finish().unwrap_or_default().into()
}

impl ResponseBody {
    pub(crate) fn whole(bytes: Bytes) -> ResponseBody {
        ResponseBody::Whole(bytes, None)
    }

    /// Compresses what is there and what is to come; `false` when there is nothing.
    fn compress(&mut self) -> bool {
        match self {
            ResponseBody::Whole(bytes, _) if bytes.is_empty() => false,
            ResponseBody::Pieces(_) => false,
            ResponseBody::Whole(bytes, Some(shared)) => {
                *bytes = shared.body(true);
                true
            }
            ResponseBody::Whole(bytes, None) => {
                *bytes = compressed(bytes);
                true
            }
            ResponseBody::Lines { gzip, .. } => {
                *gzip = Some(Box::new(GzEncoder::new(Vec::new(), Compression::fast())));
                true
            }
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = CutOff;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        match &mut *self {
            ResponseBody::Whole(bytes, _) if bytes.is_empty() => Poll::Ready(None),
            ResponseBody::Whole(bytes, _) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            ResponseBody::Pieces(pieces) => {
                let piece = ready!(pieces.poll_recv(context)).ok_or(CutOff);
                Poll::Ready(piece.map(|piece| piece.map(Frame::data)).transpose())
            }
            ResponseBody::Lines { lines, gzip } => {
                let Some(line) = ready!(lines.poll_recv(context)) else {
                    // Without its end a reader takes what was compressed for cut off. Memory cannot fail.
                    let end = gzip.take().and_then(|encoder| encoder.finish().ok());
                    return Poll::Ready(end.map(|end| Ok(Frame::data(end.into()))));
                };
                let mut chunk = Vec::with_capacity(line.len() + 1);
                chunk.extend_from_slice(&line);
                chunk.push(b'\n');
                if let Some(encoder) = gzip {
                    // A reader must see each line when it is written, so each ends a block. Memory cannot fail.
                    let _ = encoder.write_all(&chunk).and_then(|()| encoder.flush());
                    chunk = std::mem::take(encoder.get_mut());
                }
                Poll::Ready(Some(Ok(Frame::data(chunk.into()))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, ResponseBody::Whole(bytes, _) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ResponseBody::Whole(bytes, _) => SizeHint::with_exact(bytes.len() as u64),
            ResponseBody::Pieces(_) | ResponseBody::Lines { .. } => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;
    use http_body_util::BodyExt;
    use lictor_api::header;

    use super::*;

    async fn body_of(response: Response) -> Bytes {
        response.into_body().collect().await.unwrap().to_bytes()
    }

    fn accepting(encodings: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(encodings))])
    }

    /// Long, and then not written any further before something has come.
    struct Waits(std::sync::Mutex<std::sync::mpsc::Receiver<()>>);

    impl Serialize for Waits {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            use serde::ser::{Error as _, SerializeSeq};
            let mut list = serializer.serialize_seq(Some(2))?;
            list.serialize_element(&"x".repeat(LONG))?;
            let came = self.0.lock().unwrap().recv_timeout(std::time::Duration::from_secs(60));
            list.serialize_element(&came.map_err(S::Error::custom)?)?;
            list.end()
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn other_requests_go_on_while_a_long_answer_is_written() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let writing = tokio::spawn(async move {
            // On the worker that writes: it runs only if that worker lets others have its tasks.
            tokio::spawn(async move { sender.send(()).unwrap() });
            json(&Waits(std::sync::Mutex::new(receiver)), Layout::Compact).map(drop).map_err(|error| error.text())
        });
        assert_eq!(writing.await.unwrap(), Ok(()));
    }

    #[test]
    fn header_names_are_those_of_the_contract() {
        for (name, known) in [
            (&INDEX, header::INDEX),
            (&KNOWN_LEADER, header::KNOWN_LEADER),
            (&LAST_CONTACT, header::LAST_CONTACT),
            (&EFFECTIVE_CONSISTENCY, header::EFFECTIVE_CONSISTENCY),
            (&CONTENT_HASH, header::CONTENT_HASH),
            (&REASON, header::REASON),
            (&TRANSLATE_ADDRESSES, header::TRANSLATE_ADDRESSES),
            (&CACHE, header::CACHE),
            (&DEFAULT_DECISION, header::DEFAULT_DECISION),
            (&CERT_EXPIRED, header::CERT_EXPIRED),
        ] {
            assert_eq!(name.as_str(), known.to_ascii_lowercase());
        }
    }

    #[test]
    fn gzip_is_used_when_its_weight_is_not_zero() {
        for (encodings, wanted) in [
            ("gzip", true),
            ("deflate, GZIP;q=0.5", true),
            ("gzip;q=0", false),
            ("gzip; q=0.0", false),
            ("deflate", false),
            ("gzip;q=x", false),
        ] {
            assert_eq!(accepts_gzip(&accepting(encodings)), wanted, "{encodings}");
        }
        assert!(!accepts_gzip(&HeaderMap::new()));
    }

    #[tokio::test]
    async fn small_answers_are_compressed_and_empty_ones_are_not() {
        let mut response = json(&true, Layout::Compact).unwrap();
        Common::default().complete(&mut response, true);
        assert_eq!(response.headers()[CONTENT_ENCODING], "gzip");
        assert_eq!(response.headers()[VARY], "Accept-Encoding");
        let mut plain = String::new();
        GzDecoder::new(body_of(response).await.as_ref()).read_to_string(&mut plain).unwrap();
        assert_eq!(plain, "true");

        let mut response = empty(StatusCode::OK);
        Common::default().complete(&mut response, true);
        assert!(!response.headers().contains_key(CONTENT_ENCODING));
    }

    #[tokio::test]
    async fn compressed_lines_can_be_read_as_they_come() {
        let (sender, lines) = mpsc::channel(4);
        let mut response = stream(lines);
        Common::default().complete(&mut response, true);
        let mut body = response.into_body();
        let mut compressed = Vec::new();
        for line in ["one", "two"] {
            sender.send(Bytes::from(line)).await.unwrap();
            compressed.extend_from_slice(&body.frame().await.unwrap().unwrap().into_data().unwrap());
            let mut plain = vec![0; 4];
            let mut decoder = GzDecoder::new(compressed.as_slice());
            if line == "two" {
                decoder.read_exact(&mut plain).unwrap();
            }
            decoder.read_exact(&mut plain).unwrap();
            assert_eq!(plain, format!("{line}\n").as_bytes());
        }
        drop(sender);
        compressed.extend_from_slice(&body.collect().await.unwrap().to_bytes());
        let mut plain = String::new();
        GzDecoder::new(compressed.as_slice()).read_to_string(&mut plain).expect("it has its end");
        assert_eq!(plain, "one\ntwo\n");
    }

    #[tokio::test]
    async fn redirects_keep_the_query_and_link_for_readers() {
        let response = redirect(&Method::GET, "/v1/kv/a b", Some("x=1&y=2"));
        assert_eq!(response.status(), 301);
        assert_eq!(response.headers()[LOCATION], "/v1/kv/a%20b?x=1&y=2");
        let body = body_of(response).await;
        assert_eq!(body, "<a href=\"/v1/kv/a%20b?x=1&amp;y=2\">Moved Permanently</a>.\n\n");
        let response = redirect(&Method::PUT, "/v1/kv/", None);
        assert_eq!(response.headers()[LOCATION], "/v1/kv/");
        assert!(body_of(response).await.is_empty());
    }
}
