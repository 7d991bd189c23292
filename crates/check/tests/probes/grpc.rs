//! gRPC checks against a server of the health protocol, in the clear and over TLS.

use std::convert::Infallible;
use std::fs;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderValue};
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use lictor_check::{Config, Outcome, Trust};
use lictor_model::health::{CheckSpec, Status};
use lictor_tls::dialer::Settings;
use lictor_tls::listener::{Acceptor, Files};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;

use crate::once::run;

/// A message and what follows it; without a message the trailers are all there is.
struct Answer {
    message: Option<Bytes>,
    trailers: Option<HeaderMap>,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = match (self.message.take(), self.trailers.take()) {
            (Some(message), trailers) => {
                self.trailers = trailers;
                Some(Frame::data(message))
            }
            (None, trailers) => trailers.map(Frame::trailers),
        };
        Poll::Ready(frame.map(Ok))
    }
}

/// `""` and `db` serve, `sick` does not, `slow` never answers, others are unknown.
async fn health(request: Request<Incoming>) -> Result<Response<Answer>, Infallible> {
    assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
    assert_eq!(request.headers()["content-type"], "application/grpc");
    assert_eq!(request.headers()["te"], "trailers");
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let asked = body.get(7..).unwrap_or_default();
    let trailers =
        |code: &'static str| HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static(code))]);
    let status = match asked {
        b"" | b"db" => 1,
        b"sick" => 2,
        b"slow" => std::future::pending().await,
        _ => {
            // Failures come without a message, their status among the headers.
            let mut response = Response::new(Answer { message: None, trailers: None });
            *response.headers_mut() = trailers("5");
            response.headers_mut().insert("grpc-message", HeaderValue::from_static("unknown%20service"));
            return Ok(response);
        }
    };
    let message = Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 8, status]);
    Ok(Response::new(Answer { message: Some(message), trailers: Some(trailers("0")) }))
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let connection =
        http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service_fn(health));
    // A check that is over closes its connection.
    let _ = connection.await;
}

/// Starts the server; it ends with the runtime of the test.
async fn start(acceptor: Option<Acceptor>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = acceptor.map(Arc::new);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                match acceptor {
                    None => serve(stream).await,
                    // A client that does not believe us goes away in the middle.
                    Some(acceptor) => {
                        if let Ok(stream) = acceptor.accept(stream).await {
                            assert!(stream.is_http2());
                            serve(stream).await;
                        }
                    }
                }
            });
        }
    });
    address
}

async fn ask(target: String, config: Config, change: impl FnOnce(&mut CheckSpec)) -> Outcome {
    let mut spec = CheckSpec { grpc: target, ..CheckSpec::default() };
    change(&mut spec);
    run(spec, config).await
}

#[tokio::test]
async fn a_server_is_healthy_when_it_says_that_it_serves() {
    let address = start(None).await;
    for target in [format!("{address}"), format!("{address}/db")] {
        let outcome = ask(target.clone(), Config::default(), |_| {}).await;
        let expected = Outcome { status: Status::Passing, output: format!("gRPC check {target}: success") };
        assert_eq!(outcome, expected);
    }
    let sick = ask(format!("{address}/sick"), Config::default(), |_| {}).await;
    assert_eq!(sick.status, Status::Critical);
    assert_eq!(sick.output, "gRPC application didn't report service healthy");
    let unknown = ask(format!("{address}/nope"), Config::default(), |_| {}).await;
    assert_eq!(
        (unknown.status, unknown.output.as_str()),
        (Status::Critical, "rpc error: code = NotFound desc = unknown service")
    );
}

#[tokio::test]
async fn a_server_that_is_slow_or_away_is_critical() {
    let address = start(None).await;
    let slow =
        ask(format!("{address}/slow"), Config::default(), |spec| spec.timeout = Duration::from_millis(200)).await;
    assert_eq!(slow.output, "rpc error: code = DeadlineExceeded desc = context deadline exceeded");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = listener.local_addr().unwrap();
    drop(listener);
    let away = ask(closed.to_string(), Config::default(), |_| {}).await;
    assert_eq!(away.status, Status::Critical);
    assert!(away.output.ends_with(&format!("dial tcp {closed}: connect: connection refused")), "{}", away.output);
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let other = plain.local_addr().unwrap();
    tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        let (mut stream, _) = plain.accept().await.unwrap();
        let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await;
    });
    let other = ask(other.to_string(), Config::default(), |_| {}).await;
    assert!(other.output.starts_with("rpc error: code = Unavailable desc = "), "{}", other.output);
}

#[tokio::test]
async fn over_tls_the_certificate_counts_unless_that_is_switched_off() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    fs::write(&certificate, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let files = Files { certificate: certificate.clone(), key, ..Files::default() };
    let address = start(Some(Acceptor::load(files).unwrap())).await;
    let target = format!("localhost:{}", address.port());
    let tls = |spec: &mut CheckSpec| spec.grpc_use_tls = true;
    let unseen = ask(target.clone(), Config::default(), |spec| {
        tls(spec);
        spec.tls_skip_verify = true;
    });
    assert_eq!(unseen.await.status, Status::Passing);
    let stranger = ask(target.clone(), Config::default(), tls).await;
    assert_eq!(stranger.status, Status::Critical);
    assert!(stranger.output.contains("certificate"), "{}", stranger.output);
    let trust = Trust::new(Settings { ca_file: Some(certificate), ..Settings::default() });
    let known = ask(target, Config { trust, ..Config::default() }, tls).await;
    assert_eq!(known.status, Status::Passing, "{}", known.output);
}
