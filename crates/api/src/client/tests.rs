use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UnixListener};

use super::address::Address;
use super::*;

/// What the test's server does after it has answered a request.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    Stay,
    Close,
}

/// Reads one request and gives its head and body; nothing when the client has gone.
async fn request(stream: &mut (impl tokio::io::AsyncBufRead + Unpin)) -> Option<(String, String)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await.ok()? == 0 {
            return None;
        }
    }
    let length = head
        .lines()
        .filter_map(|line| line.split_once(": "))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map_or(0, |(_, length)| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some((head, String::from_utf8(body).unwrap()))
}

async fn say(stream: &mut (impl AsyncWrite + Unpin), status: &str, headers: &str, body: &str) {
    let text = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(text.as_bytes()).await.unwrap();
}

/// A server on a free port that answers each request with its head and body, and a client of it.
struct Echo {
    client: Client,
    connections: Arc<AtomicUsize>,
    closed: Arc<AtomicUsize>,
}

async fn echo(then: Then, configure: impl FnOnce(&mut Config)) -> Echo {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = Config { address: address(&listener), ..Config::default() };
    configure(&mut config);
    let connections = Arc::new(AtomicUsize::new(0));
    let closed = Arc::new(AtomicUsize::new(0));
    let counted = [Arc::clone(&connections), Arc::clone(&closed)];
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let [opened, closed] = counted.clone();
            opened.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                while let Some((head, body)) = request(&mut stream).await {
                    let headers = "X-Consul-Index: 7\r\nX-Consul-Contenthash: ab\r\n";
                    say(&mut stream, "200 OK", headers, &format!("{head}{body}")).await;
                    if then == Then::Close {
                        break;
                    }
                }
                drop(stream);
                closed.fetch_add(1, Ordering::SeqCst);
            });
        }
    });
    Echo { client: Client::new(config), connections, closed }
}

fn address(listener: &TcpListener) -> Address {
    Address::parse(&listener.local_addr().unwrap().to_string(), Default::default()).unwrap()
}

/// A server that hands its only connection to a script.
async fn scripted<F: Future<Output = ()> + Send + 'static>(
    script: impl FnOnce(BufReader<TcpStream>) -> F + Send + 'static,
) -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Client::new(Config { address: address(&listener), ..Config::default() });
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        script(BufReader::new(stream)).await;
    });
    client
}

/// A server that gives the same answer to everybody.
async fn answering(status: &'static str, headers: &'static str, body: &'static str) -> Client {
    scripted(move |mut stream| async move {
        while request(&mut stream).await.is_some() {
            say(&mut stream, status, headers, body).await;
        }
    })
    .await
}

fn text(answer: &Answer) -> &str {
    std::str::from_utf8(&answer.body).unwrap()
}

#[tokio::test]
async fn a_connection_is_used_again() {
    let Echo { client, connections, .. } = echo(Then::Stay, |_| {}).await;
    for _ in 0..5 {
        let answer = client.send(Request::put("/v1/x").body("hello")).await.unwrap();
        assert_eq!((answer.status, answer.index, answer.content_hash.as_deref()), (200, Some(7), Some("ab")));
        assert!(text(&answer).starts_with("PUT /v1/x HTTP/1.1\r\n") && text(&answer).ends_with("hello"));
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn simultaneous_requests_have_connections_of_their_own() {
    let Echo { client, connections, .. } = echo(Then::Stay, |_| {}).await;
    let (first, second) = tokio::join!(client.send(Request::get("/a")), client.send(Request::get("/b")));
    assert!(text(&first.unwrap()).starts_with("GET /a") && text(&second.unwrap()).starts_with("GET /b"));
    assert_eq!(connections.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_connection_closed_while_idle_is_replaced_even_for_a_write() {
    let Echo { client, connections, closed } = echo(Then::Close, |_| {}).await;
    for (number, method) in [Request::get, Request::put, Request::post].into_iter().enumerate() {
        assert_eq!(client.send(method("/v1/x")).await.unwrap().status, 200);
        let all_closed = async {
            while closed.load(Ordering::SeqCst) <= number {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), all_closed).await.unwrap();
    }
    assert_eq!(connections.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_write_that_may_have_arrived_is_not_repeated() {
    let client = scripted(|mut stream| async move {
        request(&mut stream).await.unwrap();
        say(&mut stream, "200 OK", "", "").await;
        request(&mut stream).await.unwrap();
    })
    .await;
    client.send(Request::put("/first")).await.unwrap();
    let error = client.send(Request::put("/second")).await.unwrap_err();
    assert!(matches!(error, Error::Transport(_)), "{error:?}");
    assert!(error.is_retriable());
}

#[tokio::test]
async fn secrets_and_the_datacenter_go_with_every_request() {
    let Echo { client, .. } = echo(Then::Stay, |config| {
        config.token = "geheim".into();
        config.basic_auth = "u:p".into();
        config.datacenter = "dc 2".into();
        config.consistency = Consistency::Stale;
    })
    .await;
    let answer = client.send(Request::get("/v1/x").query("near", "a")).await.unwrap();
    let head = text(&answer).to_ascii_lowercase();
    assert!(head.starts_with("get /v1/x?near=a&dc=dc%202&stale http/1.1\r\n"), "{head}");
    assert!(head.contains("\r\nx-consul-token: geheim\r\n") && head.contains("\r\nauthorization: basic dtpw\r\n"));
    assert!(head.contains(&format!("\r\nhost: {}\r\n", client.config().address.authority())), "{head}");
    let answer = client.send(Request::get("/v1/x").query("dc", "own")).await.unwrap();
    assert!(text(&answer).starts_with("GET /v1/x?dc=own&stale "));
}

#[tokio::test]
async fn a_token_that_cannot_be_sent_is_an_error_without_the_token() {
    let Echo { client, .. } = echo(Then::Stay, |config| config.token = "ge\nheim".into()).await;
    let error = client.send(Request::get("/")).await.unwrap_err();
    assert!(matches!(error, Error::Form(_)) && !format!("{error:?}").contains("heim"));
}

#[tokio::test]
async fn a_refusal_reads_as_clients_print_it() {
    let client = answering("403 Forbidden", "", "ACL not found").await;
    let error = client.agent_services().await.unwrap_err();
    assert_eq!(error.to_string(), "Unexpected response code: 403 (ACL not found)");
    assert!(error.is_forbidden() && !error.is_retriable() && !error.is_not_found());
}

#[tokio::test]
async fn an_agent_that_never_answers_is_given_up() {
    let client = scripted(|mut stream| async move {
        request(&mut stream).await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let error = client.send(Request::get("/").limit(Duration::from_millis(50))).await.unwrap_err();
    assert!(matches!(error, Error::Timeout(_)) && error.is_retriable());
}

#[tokio::test]
async fn an_absent_agent_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = address(&listener);
    drop(listener);
    let client = Client::new(Config { address: address.clone(), ..Config::default() });
    let error = client.send(Request::get("/")).await.unwrap_err();
    assert_eq!(error.to_string(), format!("cannot connect to {address}"));
    assert!(error.is_retriable());
}

#[tokio::test]
async fn an_https_address_needs_encryption() {
    let Echo { client, .. } = echo(Then::Stay, |config| {
        if let Address::Tcp { scheme, .. } = &mut config.address {
            *scheme = address::Scheme::Https;
        }
    })
    .await;
    assert!(matches!(client.send(Request::get("/")).await, Err(Error::Connect { .. })));
    assert!(client.idle.lock().unwrap().is_empty());
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_refused() {
    let client = answering("200 OK", "", "0123456789").await;
    let error = client.send(Request::get("/").max_body(9)).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge(9)));
    assert!(client.idle.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_long_chunked_answer_is_read_whole() {
    let client = scripted(|mut stream| async move {
        request(&mut stream).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
        for _ in 0..64 {
            let chunk = "x".repeat(16 << 10);
            stream.write_all(format!("{:x}\r\n{chunk}\r\n", chunk.len()).as_bytes()).await.unwrap();
        }
        stream.write_all(b"0\r\n\r\n").await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    assert_eq!(client.send(Request::get("/")).await.unwrap().body.len(), 1 << 20);
    assert_eq!(client.idle.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn an_answer_without_end_is_read_as_it_arrives() {
    let (go, mut wait) = tokio::sync::mpsc::channel::<&str>(1);
    let client = scripted(move |mut stream| async move {
        request(&mut stream).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
        while let Some(line) = wait.recv().await {
            stream.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes()).await.unwrap();
        }
    })
    .await;
    let mut lines = client.stream(Request::get("/v1/agent/monitor")).await.unwrap();
    for line in ["one\n", "two\n"] {
        go.send(line).await.unwrap();
        assert_eq!(lines.piece().await.unwrap().unwrap(), line);
    }
    drop(go);
    assert!(lines.piece().await.is_err(), "the end of the connection is not the end of the answer");
}

#[tokio::test]
async fn whoever_listens_at_a_unix_socket_can_send_no_descriptor() {
    use std::mem::MaybeUninit;
    use std::os::fd::AsFd;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let served = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = BufReader::new(stream);
        request(&mut stream).await.unwrap();
        let stream = stream.into_inner();
        let file = std::fs::File::open("/dev/null").unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
        let descriptors = [file.as_fd()];
        control.push(rustix::net::SendAncillaryMessage::ScmRights(&descriptors));
        let answer = std::io::IoSlice::new(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
        let flags = rustix::net::SendFlags::empty();
        let sent = rustix::net::sendmsg(stream.as_fd(), &[answer], &mut control, flags);
        if sent.is_err() {
            let mut nothing = rustix::net::SendAncillaryBuffer::default();
            rustix::net::sendmsg(stream.as_fd(), &[answer], &mut nothing, flags).unwrap();
        }
        sent
    });
    let client = Client::new(Config { address: Address::Unix(path), ..Config::default() });
    let answer = client.read::<serde_json::Value>(Request::get("/v1/agent/self")).await.unwrap();
    assert_eq!(answer.value, serde_json::json!({}));
    let can_refuse = lictor_task::descriptors::refuse(tokio::net::UnixSocket::new_stream().unwrap()).unwrap();
    // Older kernels do not say it: there the client reads with room for them.
    assert_eq!(served.await.unwrap().is_err(), can_refuse);
}

#[tokio::test]
async fn an_agent_is_reached_over_a_unix_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.sock");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        let mut stream = BufReader::new(listener.accept().await.unwrap().0);
        request(&mut stream).await.unwrap();
        say(&mut stream, "200 OK", "", "{}").await;
    });
    let client = Client::new(Config { address: Address::Unix(path), ..Config::default() });
    assert!(client.agent_services().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_dropped_request_leaves_no_connection_behind() {
    let (gone, wait) = tokio::sync::oneshot::channel();
    let client = scripted(|mut stream| async move {
        request(&mut stream).await.unwrap();
        assert!(request(&mut stream).await.is_none());
        gone.send(()).unwrap();
    })
    .await;
    let waiting = client.send(Request::get("/"));
    assert!(tokio::time::timeout(Duration::from_millis(50), waiting).await.is_err());
    tokio::time::timeout(Duration::from_secs(10), wait).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_intentions_of_a_destination_come_with_the_default() {
    let body = r#"{"db":[{"ID":"i","SourceName":"web","DestinationName":"db","Action":"deny"}]}"#;
    let client = answering("200 OK", "X-Consul-Index: 9\r\nX-Lictor-Default-Decision: deny\r\n", body).await;
    let read = client.intentions_match("db", Since::Index(3), Duration::from_secs(1)).await.unwrap();
    assert_eq!((read.index, read.value.otherwise), (Some(9), Some(Action::Deny)));
    assert_eq!(read.value.intentions[0].source_name, "web");

    let client = answering("200 OK", "", r#"{"db":null}"#).await;
    let read = client.intentions_match("db", Since::Nothing, Duration::ZERO).await.unwrap();
    assert_eq!((read.index, read.value), (None, Matched::default()));
}

#[tokio::test]
async fn an_unknown_query_is_told_apart_from_a_broken_answer() {
    let execute = async |client: Client| client.query_execute("nope", "", Since::Nothing, Duration::ZERO).await;
    let unknown = execute(answering("404 Not Found", "X-Consul-Index: 1\r\n", "Query not found").await).await;
    assert!(unknown.unwrap_err().is_not_found());
    let broken = execute(answering("200 OK", "", "Query not found").await).await;
    assert!(matches!(broken, Err(Error::Decode(_))));
}

#[tokio::test]
async fn an_execution_can_be_waited_for_where_the_agent_ranks_it() {
    let execute = async |status, headers, body| {
        let client = answering(status, headers, body).await;
        client.query_execute("q", "", Since::Nothing, Duration::ZERO).await.unwrap()
    };
    let original = execute("200 OK", "X-Consul-Index: 1\r\n", r#"{"Service":"db"}"#).await;
    assert_eq!((original.index, original.value.unwrap().ranking), (None, None));
    let ranked = "X-Consul-Index: 9\r\nX-Lictor-Ranking: nearest\r\n";
    let nearest = execute("200 OK", ranked, r#"{"Service":"db"}"#).await;
    assert_eq!((nearest.index, nearest.value.unwrap().ranking), (Some(9), Some(Ranking::Nearest)));
    let unknown = execute("404 Not Found", ranked, "Query not found").await;
    assert_eq!(unknown, Read { value: None, index: Some(9), content_hash: None });
}

#[tokio::test]
async fn clients_are_shared_between_tasks() {
    let Echo { client, .. } = echo(Then::Stay, |_| {}).await;
    let client = Arc::new(client);
    let other = Arc::clone(&client);
    let answer = tokio::spawn(async move { other.send(Request::get("/")).await }).await.unwrap();
    assert_eq!(answer.unwrap().status, 200);
}
