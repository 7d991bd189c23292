//! A check by the gRPC health protocol: serving passes, everything else is critical.
//!
//! It is one unary call over HTTP/2. Its two messages have one field each, so they are written and read here by hand.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, TE, USER_AGENT};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper::rt::Executor;
use hyper_util::rt::TokioIo;
use lictor_model::health::CheckSpec;
use lictor_tls::dialer::Verify;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::AbortHandle;

use crate::trust::Trust;
use crate::{Outcome, dial, limit, percent};

/// The method of the health protocol.
/// How long an answer that was read before its connection ended may take to be put together.
const LEFT_TO_USE: Duration = Duration::from_millis(100);
const METHOD: &str = "/grpc.health.v1.Health/Check";
/// The value of the answer's field that means: serving.
const SERVING: u64 = 1;
/// An answer has a handful of bytes.
const LARGEST_ANSWER: usize = 64 * 1024;
/// What stands before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// A check by gRPC.
pub(crate) struct Grpc {
    /// As the definition has it: `host:port` or `host:port/service`.
    target: String,
    encryption: Encryption,
    trust: Trust,
    limit: Duration,
}

/// How the server is reached.
#[derive(Clone, Copy)]
enum Encryption {
    Plain,
    Tls(Verify),
}

impl Grpc {
    pub(crate) fn new(spec: &CheckSpec, trust: &Trust) -> Grpc {
        let encryption = match (spec.grpc_use_tls, spec.tls_skip_verify) {
            (false, _) => Encryption::Plain,
            (true, false) => Encryption::Tls(Verify::Server),
            (true, true) => Encryption::Tls(Verify::Nothing),
        };
        Grpc { target: spec.grpc.clone(), encryption, trust: trust.clone(), limit: limit::grpc(spec) }
    }

    pub(crate) async fn run(&self) -> Outcome {
        match tokio::time::timeout(self.limit, self.ask()).await {
            Ok(Ok(SERVING)) => Outcome::passing(format!("gRPC check {}: success", self.target)),
            Ok(Ok(_)) => Outcome::critical("gRPC application didn't report service healthy"),
            Ok(Err(why)) => Outcome::critical(why),
            Err(_) => Outcome::critical(status_text(4, "context deadline exceeded")),
        }
    }

    /// The state that the server reports.
    async fn ask(&self) -> Result<u64, String> {
        let (address, service) = self.target.split_once('/').unwrap_or((&self.target, ""));
        let stream = dial::tcp(address).await.map_err(|refused| unavailable(&refused.to_string()))?;
        match self.encryption {
            Encryption::Plain => call(stream, request("http", address, service)?).await,
            Encryption::Tls(verify) => {
                let dialer = self.trust.dialer(verify).map_err(|error| unavailable(&error.to_string()))?;
                let host = dial::split(address).map_or(address, |(host, _)| host);
                let stream =
                    dialer.connect_http2(stream, host).await.map_err(|error| unavailable(&error.to_string()))?;
                call(stream, request("https", address, service)?).await
            }
        }
    }
}

fn request(scheme: &str, address: &str, service: &str) -> Result<Request<Full<Bytes>>, String> {
    let mut request = Request::new(Full::new(message(&asked(service))));
    *request.method_mut() = Method::POST;
    *request.uri_mut() =
        format!("{scheme}://{address}{METHOD}").parse().map_err(|_| unavailable("this is no address"))?;
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.insert(USER_AGENT, HeaderValue::from_static("Consul Health Check"));
    Ok(request)
}

async fn call(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<u64, String> {
    let tasks = Tasks::default();
    let broken = |error: hyper::Error| unavailable(&chain(&error));
    let (mut sender, connection) = http2::handshake(tasks.clone(), TokioIo::new(stream)).await.map_err(broken)?;
    let mut connection = pin!(connection);
    let mut answered = pin!(async { read(sender.send_request(request).await.map_err(broken)?).await });
    // The connection does the reading; it may end before all that was read has been used.
    let ended = tokio::select! {
        answered = &mut answered => return answered,
        ended = &mut connection => ended,
    };
    let why = ended.map_or_else(|error| chain(&error), |()| "the server closed the connection".to_owned());
    tokio::time::timeout(LEFT_TO_USE, answered).await.unwrap_or_else(|_| Err(unavailable(&why)))
}

/// The state in an answer, or why there is none.
async fn read(response: Response<Incoming>) -> Result<u64, String> {
    let (head, body) = response.into_parts();
    if head.status != StatusCode::OK {
        return Err(status_text(2, &format!("unexpected HTTP status code received from server: {}", head.status)));
    }
    // A call that fails before it has an answer has its status among the headers.
    failure(&head.headers)?;
    let body = Limited::new(body, LARGEST_ANSWER).collect().await;
    let body = body.map_err(|error| unavailable(&chain(error.as_ref())))?;
    let trailers = body.trailers().cloned().unwrap_or_default();
    failure(&trailers)?;
    if !trailers.contains_key("grpc-status") && !head.headers.contains_key("grpc-status") {
        return Err(status_text(13, "server closed the stream without sending trailers"));
    }
    reported(&body.to_bytes()).ok_or_else(|| status_text(13, "the answer is no HealthCheckResponse"))
}

fn failure(headers: &HeaderMap) -> Result<(), String> {
    let Some(code) = headers.get("grpc-status") else { return Ok(()) };
    match code.to_str().ok().and_then(|code| code.parse().ok()) {
        Some(0) => Ok(()),
        code => {
            let why =
                headers.get("grpc-message").map(|message| percent::decoded(message.as_bytes())).unwrap_or_default();
            Err(status_text(code.unwrap_or(2), &String::from_utf8_lossy(&why)))
        }
    }
}

/// The text of a failed call, as client libraries of gRPC write it.
fn status_text(code: u16, why: &str) -> String {
    const NAMES: [&str; 17] = [
        "OK",
        "Canceled",
        "Unknown",
        "InvalidArgument",
        "DeadlineExceeded",
        "NotFound",
        "AlreadyExists",
        "PermissionDenied",
        "ResourceExhausted",
        "FailedPrecondition",
        "Aborted",
        "OutOfRange",
        "Unimplemented",
        "Internal",
        "Unavailable",
        "DataLoss",
        "Unauthenticated",
    ];
    let name = NAMES.get(usize::from(code)).map_or_else(|| format!("Code({code})"), |name| (*name).to_owned());
    format!("rpc error: code = {name} desc = {why}")
}

fn unavailable(why: &str) -> String {
    status_text(14, why)
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// `HealthCheckRequest { string service = 1; }`
fn asked(service: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    if !service.is_empty() {
        bytes.push(1 << 3 | 2);
        let mut length = service.len();
        while length > 0x7f {
            bytes.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        bytes.push(length as u8);
        bytes.extend_from_slice(service.as_bytes());
    }
    bytes
}

/// A message as it travels: uncompressed, with its length before it.
fn message(content: &[u8]) -> Bytes {
    let length = u32::try_from(content.len()).unwrap_or(u32::MAX);
    [&[0][..], &length.to_be_bytes(), content].concat().into()
}

/// The `status` of a `HealthCheckResponse { ServingStatus status = 1; }`; unknown fields are passed over.
fn reported(body: &[u8]) -> Option<u64> {
    let (prefix, content) = body.split_at_checked(PREFIX)?;
    let (compressed, length) = prefix.split_first()?;
    let length = usize::try_from(u32::from_be_bytes(length.try_into().ok()?)).ok()?;
    let mut rest = content.get(..length).filter(|_| *compressed == 0)?;
    let mut status = 0;
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        let skipped = match tag & 7 {
            0 => {
                let value = varint(&mut rest)?;
                if tag >> 3 == 1 {
                    status = value;
                }
                0
            }
            1 => 8,
            2 => usize::try_from(varint(&mut rest)?).ok()?,
            5 => 4,
            _ => return None,
        };
        rest = rest.get(skipped..)?;
    }
    Some(status)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// What the HTTP/2 connection does beside its own reading; ended when the last clone is dropped.
#[derive(Clone, Default)]
struct Tasks(Arc<Running>);

#[derive(Default)]
struct Running(Mutex<Vec<AbortHandle>>);

impl<F> Executor<F> for Tasks
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, work: F) {
        let task = tokio::spawn(work);
        self.0.0.lock().push(task.abort_handle());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.get_mut().iter().for_each(AbortHandle::abort);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_form_of_the_protocol() {
        assert_eq!(message(&asked("")), [0, 0, 0, 0, 0][..]);
        assert_eq!(message(&asked("db")), [0, 0, 0, 0, 4, 0x0a, 2, b'd', b'b'][..]);
        let long = asked(&"x".repeat(300));
        assert_eq!(long[..3], [0x0a, 0xac, 2]);
        assert_eq!(long.len(), 303);
    }

    #[test]
    fn answers_are_read_whatever_else_they_say() {
        let answer = |content: &[u8]| reported(&message(content));
        assert_eq!(answer(&[8, 1]), Some(1));
        assert_eq!(answer(&[]), Some(0), "unknown is not written");
        assert_eq!(answer(&[0x12, 2, 9, 9, 0x1d, 1, 2, 3, 4, 0x21, 1, 2, 3, 4, 5, 6, 7, 8, 8, 0x81, 1]), Some(129));
        for broken in [&[8][..], &[8, 0x80], &[0x12, 9, 1], &[0x0b], &[0xff; 12]] {
            assert_eq!(answer(broken), None, "{broken:?}");
        }
        assert_eq!(reported(&[1, 0, 0, 0, 2, 8, 1]), None, "compressed");
        assert_eq!(reported(&[0, 0, 0, 0, 9, 8, 1]), None, "cut");
    }

    #[test]
    fn failures_are_written_as_client_libraries_do() {
        let mut headers = HeaderMap::new();
        assert_eq!(failure(&headers), Ok(()));
        headers.insert("grpc-status", HeaderValue::from_static("5"));
        headers.insert("grpc-message", HeaderValue::from_static("unknown%20service%"));
        assert_eq!(failure(&headers).unwrap_err(), "rpc error: code = NotFound desc = unknown service%");
        headers.insert("grpc-status", HeaderValue::from_static("77"));
        assert!(failure(&headers).unwrap_err().starts_with("rpc error: code = Code(77) desc = "));
    }
}
