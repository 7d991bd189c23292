//! HTTP checks on the wire: what they say of themselves, and answers that come packed.

use std::io::Write;
use std::net::SocketAddr;

use flate2::Compression;
use flate2::write::GzEncoder;
use lictor_check::Config;
use lictor_model::health::{CheckSpec, Status};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::once::run;

/// Answers one request with these bytes; the request, and what the check made of the answer.
async fn exchange(answer: Vec<u8>, spec: CheckSpec) -> (String, lictor_check::Outcome) {
    exchange_at("", answer, spec).await
}

/// The same, with something before the address in the URL.
async fn exchange_at(user: &str, answer: Vec<u8>, spec: CheckSpec) -> (String, lictor_check::Outcome) {
    let (address, server) = serve_one(answer).await;
    let outcome = run(CheckSpec { http: format!("http://{user}{address}/health"), ..spec }, Config::default()).await;
    (server.await.unwrap(), outcome)
}

/// A server that answers one request with these bytes and gives the request.
async fn serve_one(answer: Vec<u8>) -> (SocketAddr, JoinHandle<String>) {
    let (address, server) = serve_each(vec![answer]).await;
    (address, tokio::spawn(async move { server.await.unwrap().remove(0) }))
}

/// The same for some requests, one after the other, each on a connection of its own.
async fn serve_each(answers: Vec<Vec<u8>>) -> (SocketAddr, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let mut requests = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut piece = [0; 1024];
                let read = stream.read(&mut piece).await.unwrap();
                assert_ne!(read, 0, "the check went away");
                request.extend(&piece[..read]);
            }
            stream.write_all(&answer).await.unwrap();
            requests.push(String::from_utf8(request).unwrap());
        }
        requests
    });
    (address, server)
}

fn packed(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn answer(body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

#[tokio::test]
async fn the_head_of_a_request_is_spelled_as_the_original_spells_it() {
    let header = [("x-team".to_owned(), vec!["a".to_owned(), "b".to_owned()])].into();
    let plain = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec();
    let (request, outcome) = exchange(plain, CheckSpec { header, ..CheckSpec::default() }).await;
    assert!(outcome.output.ends_with("/health: 200 OK Output: ok"), "{}", outcome.output);
    for line in [
        "GET /health HTTP/1.1\r\n",
        "\r\nHost: 127.0.0.1:",
        "\r\nUser-Agent: Consul Health Check\r\n",
        "\r\nAccept: text/plain, text/*, */*\r\n",
        "\r\nAccept-Encoding: gzip\r\n",
        "\r\nConnection: close\r\n",
        "\r\nX-Team: a\r\n",
        "\r\nX-Team: b\r\n",
    ] {
        assert!(request.contains(line), "{line:?} is not in {request}");
    }
}

#[tokio::test]
async fn an_answer_that_comes_packed_is_shown_unpacked() {
    let long = format!("{}the end", "x".repeat(9000));
    let (_, outcome) = exchange(answer(&packed(long.as_bytes())), CheckSpec::default()).await;
    assert_eq!(outcome.status, Status::Passing);
    let (_, body) = outcome.output.split_once("Output: ").unwrap();
    assert_eq!(body, &long[long.len() - 4096..]);
    // One that is no gzip, or breaks off, does not change what the status says.
    let (_, outcome) = exchange(answer(b"no gzip at all"), CheckSpec::default()).await;
    assert_eq!(outcome.status, Status::Passing);
    // Who asks for a packing in the definition gets what comes.
    let header = [("accept-encoding".to_owned(), vec!["gzip".to_owned()])].into();
    let (_, outcome) = exchange(answer(&packed(b"hello")), CheckSpec { header, ..CheckSpec::default() }).await;
    assert!(!outcome.output.contains("hello"), "{}", outcome.output);
}

#[tokio::test]
async fn the_password_in_a_url_is_in_no_output() {
    // Nobody listens there any more.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://user:sesame@127.0.0.1:{port}/x?token=sesame");
    let outcome = run(CheckSpec { http: url, ..CheckSpec::default() }, Config::default()).await;
    let shown = format!("GET http://hidden@127.0.0.1:{port}/x?token=hidden: ");
    assert!(outcome.output.starts_with(&shown) && !outcome.output.contains("sesame"), "{}", outcome.output);
}

#[tokio::test]
async fn the_user_of_a_url_is_authorised_as_the_original_does() {
    let plain = || b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec();
    let (request, outcome) = exchange_at("us%3Aer:ses%20ame@", plain(), CheckSpec::default()).await;
    // `us:er:ses ame`
    assert!(request.contains("\r\nAuthorization: Basic dXM6ZXI6c2VzIGFtZQ==\r\n"), "{request}");
    assert!(request.contains("\r\nHost: 127.0.0.1:"), "{request}");
    assert!(outcome.output.starts_with("HTTP GET http://hidden@127.0.0.1:"), "{}", outcome.output);
    let (request, _) = exchange_at("user@", plain(), CheckSpec::default()).await;
    assert!(request.contains("\r\nAuthorization: Basic dXNlcjo=\r\n"), "{request}");
    let (request, _) = exchange(plain(), CheckSpec::default()).await;
    assert!(!request.contains("Authorization"), "{request}");
    let header = [("authorization".to_owned(), vec!["Bearer x".to_owned()])].into();
    let (request, _) = exchange_at("user:sesame@", plain(), CheckSpec { header, ..CheckSpec::default() }).await;
    assert!(request.contains("\r\nAuthorization: Bearer x\r\n") && !request.contains("Basic"), "{request}");
}

#[tokio::test]
async fn what_a_definition_says_to_its_server_is_not_said_to_one_that_a_redirect_leads_to() {
    let (other, server) = serve_one(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec()).await;
    let answer = format!("HTTP/1.1 302 Found\r\nLocation: http://{other}/there\r\nContent-Length: 0\r\n\r\n");
    let names =
        ["Authorization", "Proxy-Authorization", "Www-Authenticate", "Cookie", "Cookie2", "X-Consul-Token", "Host"];
    let header = names.iter().chain(&["X-Team"]).map(|name| (name.to_ascii_lowercase(), vec!["sesame".to_owned()]));
    let spec = CheckSpec { header: header.collect(), ..CheckSpec::default() };
    let (first, outcome) = exchange_at("user:sesame@", answer.into_bytes(), spec).await;
    let second = server.await.unwrap();
    assert_eq!(outcome.status, Status::Passing, "{}", outcome.output);
    for name in names.iter().chain(&["X-Team"]) {
        assert!(first.contains(&format!("\r\n{name}: sesame\r\n")), "{first}");
    }
    assert!(second.starts_with("GET /there ") && second.contains(&format!("\r\nHost: {other}\r\n")), "{second}");
    assert!(second.contains("\r\nX-Team: sesame\r\n") && second.matches("sesame").count() == 1, "{second}");
}

#[tokio::test]
async fn a_redirect_is_followed_from_where_it_is_met_and_as_what_it_asks_for() {
    let fine = || b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec();
    for (status, method, location, asked) in [
        ("302 Found", "GET", "login?next=x", "GET /app/login?next=x "),
        ("301 Moved Permanently", "POST", "../in", "GET /in "),
        ("303 See Other", "PUT", "?a=b", "GET /app/health?a=b "),
        ("303 See Other", "HEAD", "/x", "HEAD /x "),
        ("307 Temporary Redirect", "POST", "/x", "POST /x "),
        ("308 Permanent Redirect", "PUT", "/x", "PUT /x "),
    ] {
        let redirect = format!("HTTP/1.1 {status}\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n").into_bytes();
        let (address, server) = serve_each(vec![redirect, fine()]).await;
        let spec =
            CheckSpec { http: format!("http://{address}/app/health"), method: method.into(), ..CheckSpec::default() };
        let outcome = run(spec, Config::default()).await;
        let requests = server.await.unwrap();
        assert_eq!(outcome.status, Status::Passing, "{status} {location}: {}", outcome.output);
        assert!(requests[0].starts_with(&format!("{method} /app/health ")), "{}", requests[0]);
        assert!(requests[1].starts_with(asked), "{status} {location}: {}", requests[1]);
    }
    // What is no redirect to another place is judged as it is, and so is one that leads nowhere.
    for status in ["300 Multiple Choices", "304 Not Modified", "305 Use Proxy"] {
        let answer = format!("HTTP/1.1 {status}\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n");
        let (_, outcome) = exchange(answer.into_bytes(), CheckSpec::default()).await;
        assert!(outcome.output.contains(&format!(": {status} Output: ")), "{}", outcome.output);
    }
    let answer = "HTTP/1.1 302 Found\r\nLocation: http://[\r\nContent-Length: 0\r\n\r\n";
    let (_, outcome) = exchange(answer.into(), CheckSpec::default()).await;
    assert!(outcome.output.ends_with("failed to parse Location header \"http://[\""), "{}", outcome.output);
}

#[tokio::test]
async fn the_status_is_shown_in_the_words_of_the_server() {
    for (said, shown) in [
        ("503 Draining", "503 Draining Output: "),
        ("503 Service Unavailable", "503 Service Unavailable Output: "),
        ("599 Own", "599 Own Output: "),
    ] {
        let answer = format!("HTTP/1.1 {said}\r\nContent-Length: 0\r\n\r\n");
        let (_, outcome) = exchange(answer.into_bytes(), CheckSpec::default()).await;
        assert!(outcome.output.ends_with(&format!("/health: {shown}")), "{}", outcome.output);
    }
}
