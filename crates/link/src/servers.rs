//! Which servers there are, the one connection to one of them, and what happens when it ends.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderName, HeaderValue};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use lictor_task::Scope;
use lictor_tls::dialer::{self, Dialer};
use parking_lot::{Mutex, RwLock};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

/// Says which node asks, to a server that is asked by an agent for somebody on that node.
pub static NODE: HeaderName = HeaderName::from_static("x-lictor-node");
/// `X-Consul-Token`
pub static TOKEN: HeaderName = HeaderName::from_static("x-consul-token");

/// How long one server may take to be connected to, and after how long the next one is tried beside it.
const DIAL_LIMIT: Duration = Duration::from_secs(3);
const DIAL_NEXT: Duration = Duration::from_millis(300);
/// Between two looks for a server while there is none.
const PAUSE: Duration = Duration::from_millis(250);
/// A connection on which nothing comes for so long is asked whether it is still there, and given up when it is silent for
/// as long again: everything that waits for an answer then goes to another server, before this node counts as lost.
const PROBE: Duration = Duration::from_secs(2);
/// A server that is there and does not do its work is left for another one no more often than this: it may be the same with
/// all of them.
const LEAVE_AGAIN: Duration = Duration::from_secs(30);
/// What a server may send of one answer before we have taken it. Of all together it may send whatever they have room for: a
/// client that takes nothing must not keep the others' answers away.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = i32::MAX as u32;
/// The largest answer that is read whole: more than any that this agent needs for itself.
const MOST_ANSWER: usize = 64 << 20;
/// More servers than any cluster has.
const MOST_SERVERS: usize = 64;

/// What else may listen at an address.
const NO_SUCH_PORT: &str = "this is no port that a lictor server opens for agents (ports.server)";

/// An error of a connection with what lies behind it: the library itself says only that there was one.
fn plain(error: &hyper::Error) -> String {
    let mut text = lictor_agent::error::chain(error);
    if text.contains("alert") {
        text.push_str(" (the server does not accept this agent's certificate)");
    }
    text
}

/// Why servers give no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// None can be reached. The text is the original's; what happened with the last one tried goes to the log.
    #[error("No known Consul servers")]
    NoServers(String),
    /// A server was asked, and its connection ended before the answer: what was asked for may have happened.
    #[error("rpc error making call: {0}")]
    Broken(String),
    /// This agent asks more than `limits` allows.
    #[error("RPC rate limit exceeded")]
    Limited,
    /// What a server said makes no sense.
    #[error("cannot read the answer of a server: {0}")]
    Answer(String),
    /// A server refused.
    #[error("{text}")]
    Refused {
        /// Its status code.
        code: u16,
        /// Its words.
        text: String,
    },
}

/// How servers are found and asked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node that asks.
    pub node: String,
    /// `host:port` of the servers that the configuration names.
    pub join: Vec<String>,
    /// How long a request is tried again while no server answers.
    pub hold: Duration,
    /// Requests per second, and at once; none when not limited.
    pub limit: Option<Limit>,
    /// How servers are recognised; without it they are asked in the clear, which the configuration allows on loopback only.
    pub tls: Option<dialer::Settings>,
}

/// A rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    /// Requests per second.
    pub rate: f64,
    /// That may come at once.
    pub burst: u32,
}

/// The servers of the cluster. Cloning gives another handle to the same.
#[derive(Clone)]
pub struct Servers {
    inner: Arc<Inner>,
}

struct Inner {
    node: String,
    hold: Duration,
    dialer: RwLock<Option<Arc<Dialer>>>,
    known: Mutex<Known>,
    /// The connection, and where it leads. Whoever finds none makes one, and the others wait for it.
    live: tokio::sync::Mutex<Line>,
    /// The address of the server that answers; none while none does.
    answering: watch::Sender<Option<String>>,
    bucket: Mutex<Option<Bucket>>,
    scope: Scope,
}

/// A configuration that was read and does not hold yet.
pub struct Next {
    join: Vec<String>,
    limit: Option<Limit>,
    dialer: Option<Arc<Dialer>>,
}

#[derive(Default)]
struct Known {
    /// Those of the configuration, and those that somebody named since.
    named: Vec<String>,
    /// Those that a server has told of.
    told: Vec<String>,
}

#[derive(Default)]
struct Line {
    open: Option<Open>,
    /// Where the last one led that was given up or ended: another server comes before it.
    last: Option<String>,
    /// When a server was last left that did not do its work.
    left: Option<Instant>,
    /// When no server could be reached, and why: others that want one at the same moment need not try.
    failed: Option<(Instant, String)>,
}

impl Line {
    fn sender(&self) -> Option<SendRequest<Full<Bytes>>> {
        self.open.as_ref().map(|open| &open.sender).filter(|sender| !sender.is_closed()).cloned()
    }
}

/// A connection, for as long as it is wanted.
struct Open {
    since: Instant,
    sender: SendRequest<Full<Bytes>>,
    /// In which it lives.
    scope: Scope,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.scope.stop();
    }
}

/// Lets through what a rate allows.
struct Bucket {
    limit: Limit,
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    fn new(limit: Limit) -> Bucket {
        Bucket { limit, tokens: f64::from(limit.burst), filled: Instant::now() }
    }

    fn take(&mut self) -> bool {
        let now = Instant::now();
        let more = now.duration_since(self.filled).as_secs_f64() * self.limit.rate;
        self.tokens = (self.tokens + more).min(f64::from(self.limit.burst));
        self.filled = now;
        let allowed = self.tokens >= 1.0;
        if allowed {
            self.tokens -= 1.0;
        }
        allowed
    }
}

/// One request for a server.
#[derive(Clone)]
pub struct Ask {
    /// What is to be done.
    pub method: Method,
    /// Path and query.
    pub target: String,
    /// On whose behalf; empty for nobody in particular.
    pub secret: String,
    /// Further headers.
    pub headers: http::HeaderMap,
    /// The body.
    pub body: Bytes,
    /// Whether it is tried again while no server can be reached.
    pub is_patient: bool,
    /// Whether it counts as one of those that the configuration limits.
    pub is_limited: bool,
    /// Whether asking twice is the same as asking once.
    pub may_repeat: bool,
}

impl Ask {
    /// A read.
    pub fn get(target: impl Into<String>, secret: &str) -> Ask {
        Ask::new(Method::GET, target, secret, Bytes::new())
    }

    /// A write.
    pub fn put(target: impl Into<String>, secret: &str, body: impl Into<Bytes>) -> Ask {
        Ask::new(Method::PUT, target, secret, body)
    }

    /// Any request.
    pub fn new(method: Method, target: impl Into<String>, secret: &str, body: impl Into<Bytes>) -> Ask {
        Ask {
            may_repeat: method == Method::GET,
            method,
            target: target.into(),
            secret: secret.to_owned(),
            headers: http::HeaderMap::new(),
            body: body.into(),
            is_patient: true,
            is_limited: true,
        }
    }

    /// The same for somebody who has better things to do than to wait for a server: it is tried once.
    pub fn impatient(self) -> Ask {
        Ask { is_patient: false, ..self }
    }

    /// The same beside all limits: without it servers would take this node for lost.
    pub fn vital(self) -> Ask {
        Ask { is_limited: false, ..self }
    }

    /// The same where it only asks, whatever its method.
    pub fn repeatable(self) -> Ask {
        Ask { may_repeat: true, ..self }
    }

    fn message(&self, node: &str) -> Result<Request<Full<Bytes>>, Error> {
        let bad = |error: &dyn std::fmt::Display| Error::Refused { code: 400, text: format!("Bad request: {error}") };
        let value = |text: &str| HeaderValue::from_str(text).map_err(|error| bad(&error));
        // HTTP/2 carries the name of the server in the target; which one it is matters to nobody.
        let target = format!("http://server{}", self.target);
        let mut message = Request::builder()
            .method(&self.method)
            .uri(target)
            .body(Full::new(self.body.clone()))
            .map_err(|error| bad(&error))?;
        let headers = message.headers_mut();
        headers.extend(self.headers.clone());
        headers.remove(HOST);
        headers.insert(NODE.clone(), value(node)?);
        headers.remove(&TOKEN);
        if !self.secret.is_empty() {
            let mut secret = value(&self.secret)?;
            secret.set_sensitive(true);
            headers.insert(TOKEN.clone(), secret);
        }
        Ok(message)
    }
}

impl Servers {
    /// Servers that nobody has asked yet. Connections live in `scope`.
    pub fn new(config: Config, scope: Scope) -> Result<Servers, lictor_tls::Error> {
        let Config { node, join, hold, limit, tls } = config;
        let dialer = tls.as_ref().map(Dialer::load).transpose()?.map(Arc::new);
        Ok(Servers {
            inner: Arc::new(Inner {
                node,
                hold,
                dialer: RwLock::new(dialer),
                known: Mutex::new(Known { named: join, told: Vec::new() }),
                live: tokio::sync::Mutex::default(),
                answering: watch::Sender::new(None),
                bucket: Mutex::new(limit.map(Bucket::new)),
                scope,
            }),
        })
    }

    /// The server that answers at present.
    pub fn answering(&self) -> watch::Receiver<Option<String>> {
        self.inner.answering.subscribe()
    }

    /// All that are known.
    pub fn known(&self) -> Vec<String> {
        let known = self.inner.known.lock();
        let mut all = known.told.clone();
        all.extend(known.named.iter().filter(|named| !known.told.contains(named)).cloned());
        all
    }

    /// Takes in what a server says of all servers.
    pub fn told(&self, mut servers: Vec<String>) {
        servers.truncate(MOST_SERVERS);
        self.inner.known.lock().told = servers;
    }

    /// Adds one that somebody names. It is tried first.
    pub fn add(&self, address: &str) {
        let mut known = self.inner.known.lock();
        known.named.retain(|named| named != address);
        known.named.insert(0, address.to_owned());
        known.named.truncate(MOST_SERVERS);
    }

    /// Reads what another configuration names: the servers, what limits requests, and certificates, for the connections to
    /// come. Nothing of it holds yet.
    pub fn prepare(&self, config: Config) -> Result<Next, lictor_tls::Error> {
        let Config { node: _, join, hold: _, limit, tls } = config;
        Ok(Next { join, limit, dialer: tls.as_ref().map(Dialer::load).transpose()?.map(Arc::new) })
    }

    /// From now on it holds.
    pub fn replace(&self, next: Next) {
        let Next { join, limit, dialer } = next;
        let inner = &self.inner;
        // Without certificates there never is more than a restart allows.
        if dialer.is_some() {
            *inner.dialer.write() = dialer;
        }
        inner.known.lock().named = join;
        let mut bucket = inner.bucket.lock();
        if bucket.as_ref().map(|bucket| bucket.limit) != limit {
            *bucket = limit.map(Bucket::new);
        }
    }

    /// Connects to one server, whoever is known to answer there or not.
    pub async fn connect_to(&self, address: &str) -> io::Result<()> {
        let open = self.inner.dial(address).await?;
        self.add(address);
        let mut line = self.inner.live.lock().await;
        if line.sender().is_none() {
            self.inner.connected(&mut line, address.to_owned(), open);
        }
        Ok(())
    }

    /// Leaves a server that is there and does not do its work, if there is another one: whatever waits for it is asked there.
    pub async fn leave(&self, why: &str) {
        let mut line = self.inner.live.lock().await;
        let recently = line.left.is_some_and(|left| left.elapsed() < LEAVE_AGAIN);
        if recently || line.open.is_none() || self.known().len() < 2 {
            return;
        }
        let address = self.inner.answering.borrow().clone().unwrap_or_default();
        tracing::warn!("agent: server {address} does not do its work, trying another one: {why}");
        line.open = None;
        line.left = Some(Instant::now());
    }

    /// Ends when the server that answers at present is silent, which is given up then: it is asked for something that needs
    /// nothing but itself.
    pub async fn silence(&self, within: Duration) {
        let open = self.inner.live.lock().await.open.as_ref().map(|open| (open.since, open.sender.clone()));
        let Some((since, mut sender)) = open else { return };
        if timeout(within, self.inner.greet(&mut sender)).await.is_ok() {
            return std::future::pending().await;
        }
        let mut line = self.inner.live.lock().await;
        // Another one may be open by now.
        line.open = line.open.take().filter(|open| open.since != since);
    }

    /// Asks one of the servers, and gives the head of its answer. While none can be reached this is tried again for as long
    /// as the configuration says, if it is patient; what only reads is asked again when its connection ends. Cancel safe.
    pub async fn ask(&self, ask: &Ask) -> Result<Response<Incoming>, Error> {
        if ask.is_limited && self.inner.bucket.lock().as_mut().is_some_and(|bucket| !bucket.take()) {
            return Err(Error::Limited);
        }
        let mut until: Option<Instant> = None;
        loop {
            let failed = match self.inner.sender().await {
                Ok(mut sender) => {
                    let message = ask.message(&self.inner.node)?;
                    let sent = Instant::now();
                    let error = match sender.send_request(message).await {
                        Ok(response) => return Ok(response),
                        Err(error) => error,
                    };
                    // Not sent at all, or of no consequence.
                    if !error.is_canceled() && !ask.may_repeat {
                        return Err(Error::Broken(lictor_agent::error::chain(&error)));
                    }
                    // One that was waited for was there.
                    until = until.filter(|_| sent.elapsed() < self.inner.hold);
                    lictor_agent::error::chain(&error)
                }
                Err(failed) => failed,
            };
            let now = Instant::now();
            if !ask.is_patient || now >= *until.get_or_insert(now + self.inner.hold) {
                return Err(Error::NoServers(failed));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Asks, and reads the whole answer.
    pub async fn read(&self, ask: &Ask) -> Result<Answer, Error> {
        let (head, body) = self.ask(ask).await?.into_parts();
        let body = Limited::new(body, MOST_ANSWER).collect().await;
        let body = body.map_err(|error| Error::Broken(lictor_agent::error::chain(&*error)))?.to_bytes();
        Ok(Answer { head, body })
    }
}

/// A whole answer.
pub struct Answer {
    /// Its status and headers.
    pub head: http::response::Parts,
    /// Its body.
    pub body: Bytes,
}

impl Answer {
    /// Its body, if its status says success.
    pub fn bytes(&self) -> Result<&Bytes, Error> {
        if self.head.status != http::StatusCode::OK {
            let text = String::from_utf8_lossy(&self.body).trim_end().to_owned();
            return Err(Error::Refused { code: self.head.status.as_u16(), text });
        }
        Ok(&self.body)
    }

    /// Its value, if its status says success.
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(self.bytes()?).map_err(|error| Error::Answer(error.to_string()))
    }

    /// The position in the history that it speaks of.
    pub fn index(&self) -> u64 {
        let value = self.head.headers.get("x-consul-index");
        value.and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or_default()
    }
}

impl Inner {
    /// A way to ask on the connection that there is, or on a new one to the first server that can be reached.
    async fn sender(self: &Arc<Self>) -> Result<SendRequest<Full<Bytes>>, String> {
        if let Some(sender) = self.live.lock().await.sender() {
            return Ok(sender);
        }
        // Whoever asks may lose patience, and the next one must not begin anew.
        let inner = Arc::clone(self);
        let connecting = self.scope.spawn("connect to a server", async move { inner.connect().await });
        connecting.await.ok().flatten().unwrap_or_else(|| Err("the agent is ending".into()))
    }

    async fn connect(self: Arc<Self>) -> Result<SendRequest<Full<Bytes>>, String> {
        let mut line = self.live.lock().await;
        if let Some(sender) = line.sender() {
            return Ok(sender);
        }
        if let Some((_, why)) = line.failed.as_ref().filter(|(at, _)| at.elapsed() < PAUSE / 2) {
            return Err(why.clone());
        }
        line.open = None;
        if let Some(lost) = self.answering.send_replace(None) {
            tracing::warn!("agent: the connection to server {lost} has ended");
            line.last = Some(lost);
        }
        let mut why = "no server is known: set retry_join, or join one".to_owned();
        let mut candidates = self.candidates(line.last.as_deref()).into_iter();
        let mut dialing = JoinSet::new();
        loop {
            let next = candidates.next();
            if next.is_none() && dialing.is_empty() {
                break;
            }
            let is_last = next.is_none();
            if let Some(address) = next {
                let inner = Arc::clone(&self);
                dialing.spawn(async move {
                    let dialed = inner.dial(&address).await;
                    (address, dialed)
                });
            }
            // One that does not answer must not keep us from the next.
            let wait = if is_last { DIAL_LIMIT * 2 } else { DIAL_NEXT };
            let Ok(Some(Ok((address, dialed)))) = timeout(wait, dialing.join_next()).await else { continue };
            match dialed {
                Ok(open) => {
                    let sender = open.sender.clone();
                    self.connected(&mut line, address, open);
                    return Ok(sender);
                }
                Err(error) => {
                    why = format!("{address}: {error}");
                    tracing::debug!("agent: cannot connect to server {why}");
                }
            }
        }
        line.failed = Some((Instant::now(), why.clone()));
        Err(why)
    }

    fn connected(&self, line: &mut Line, address: String, open: Open) {
        tracing::info!("agent: connected to server {address}");
        line.open = Some(open);
        line.failed = None;
        self.answering.send_replace(Some(address));
    }

    /// All known servers in an order by chance, so that many clients spread over them; the one that was lost comes last.
    fn candidates(&self, lost: Option<&str>) -> Vec<String> {
        let known = self.known.lock();
        let mut all = known.told.clone();
        fastrand::shuffle(&mut all);
        let mut named: Vec<String> = known.named.iter().filter(|named| !all.contains(named)).cloned().collect();
        fastrand::shuffle(&mut named);
        all.append(&mut named);
        all.sort_by_key(|address| Some(address.as_str()) == lost);
        all
    }

    async fn dial(&self, address: &str) -> io::Result<Open> {
        let dialed = timeout(DIAL_LIMIT, self.dial_now(address)).await;
        dialed.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer")))
    }

    async fn dial_now(&self, address: &str) -> io::Result<Open> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let dialer = self.dialer.read().clone();
        let Some(dialer) = dialer else {
            let peer = stream.peer_addr()?;
            if !peer.ip().is_loopback() {
                return Err(io::Error::new(
                    io::ErrorKind::PermissionDenied,
                    "a server that is not on this machine is asked over TLS only: set ca_file, cert_file and key_file",
                ));
            }
            return self.talk(stream).await;
        };
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
        let stream = dialer.connect_http2(stream, host).await?;
        if !stream.is_http2() {
            return Err(io::Error::other(NO_SUCH_PORT));
        }
        self.talk(stream).await
    }

    async fn talk<S>(&self, stream: S) -> io::Result<Open>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PROBE)
            .keep_alive_timeout(PROBE)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        let scope = self.scope.child("link to a server");
        let stop = scope.stop_signal();
        scope.spawn("link to a server", async move {
            // How it ends, everything that waits on it finds out by itself.
            let _ = stop.or_stopped(connection).await;
        });
        let mut open = Open { since: Instant::now(), sender, scope };
        // Only an answer says that the other side takes us, and is what we take it for.
        self.greet(&mut open.sender).await?;
        Ok(open)
    }

    /// Asks for something small, which a server knows by itself.
    async fn greet(&self, sender: &mut SendRequest<Full<Bytes>>) -> io::Result<()> {
        let greeting = Ask::get("/v1/internal/agent/token", "").message(&self.node).map_err(io::Error::other)?;
        let answer = sender.send_request(greeting).await.map_err(|error| io::Error::other(plain(&error)))?;
        match answer.status() {
            http::StatusCode::NOT_FOUND => Err(io::Error::other(NO_SUCH_PORT)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(join: &[&str], limit: Option<Limit>) -> Servers {
        let config = Config {
            node: "n1".into(),
            join: join.iter().map(|server| (*server).to_owned()).collect(),
            hold: Duration::ZERO,
            limit,
            tls: None,
        };
        Servers::new(config, Scope::new("test")).unwrap()
    }

    #[tokio::test]
    async fn without_a_server_the_text_is_the_one_that_clients_know() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let nobody = listener.local_addr().unwrap().to_string();
        drop(listener);
        for join in [&[][..], &[nobody.as_str()]] {
            let error = servers(join, None).ask(&Ask::get("/v1/status/leader", "")).await.unwrap_err();
            assert_eq!(error.to_string(), "No known Consul servers");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_is_asked_than_the_limit_allows() {
        let mut bucket = Bucket::new(Limit { rate: 2.0, burst: 3 });
        assert_eq!((0..5).filter(|_| bucket.take()).count(), 3);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!((0..5).filter(|_| bucket.take()).count(), 2);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!((0..9).filter(|_| bucket.take()).count(), 3);
        let all = servers(&[], Some(Limit { rate: 0.001, burst: 1 }));
        assert!(matches!(all.ask(&Ask::get("/", "")).await, Err(Error::NoServers(_))));
        assert!(matches!(all.ask(&Ask::get("/", "")).await, Err(Error::Limited)));
        assert!(matches!(all.ask(&Ask::get("/", "").vital()).await, Err(Error::NoServers(_))));
    }

    #[test]
    fn what_servers_tell_comes_before_what_is_configured() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _within = runtime.enter();
        let all = servers(&["a:1", "b:1"], None);
        all.told(vec!["c:1".into(), "a:1".into()]);
        assert_eq!(all.known(), ["c:1", "a:1", "b:1"]);
        all.add("d:1");
        all.add("b:1");
        assert_eq!(all.known(), ["c:1", "a:1", "b:1", "d:1"]);
        let join = vec!["e:1".into()];
        let config = Config { node: "n1".into(), join, hold: Duration::ZERO, limit: None, tls: None };
        all.replace(all.prepare(config).unwrap());
        assert_eq!(all.known(), ["c:1", "a:1", "e:1"]);
    }

    #[test]
    fn secrets_go_into_one_header_and_are_not_shown() {
        let mut ask = Ask::get("/v1/kv/a?raw", "geheim");
        ask.headers.insert(TOKEN.clone(), HeaderValue::from_static("another"));
        let message = ask.message("n1").unwrap();
        assert_eq!(message.uri().path_and_query().unwrap(), "/v1/kv/a?raw");
        assert_eq!(
            (message.headers()[&TOKEN].as_bytes(), message.headers()[&NODE].as_bytes()),
            (&b"geheim"[..], &b"n1"[..])
        );
        assert!(!format!("{:?}", message.headers()).contains("geheim"));
        assert!(matches!(Ask::get("/", "a\nb").message("n1"), Err(Error::Refused { code: 400, .. })));
    }
}
