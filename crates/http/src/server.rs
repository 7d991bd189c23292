//! Listening, connections, and the way of one request from the socket to its handler and back.

use std::borrow::Cow;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, HeaderName, HeaderValue};
use http::{Request, Version};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use lictor_agent::Agent;
use lictor_api::json::Layout;
use lictor_model::acl::Caller;
use lictor_model::name::ServiceId;
use lictor_notation::decode::LONGEST_NAME;
use lictor_task::descriptors::{self, BytesOnly};
use lictor_task::{Backoff, Scope, Stop};
use lictor_tls::listener::{Acceptor, Renewal};
use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::blocking::{self, Reads, Round, SeenBefore, Turn};
use crate::body::{RequestBody, Rest, Room};
use crate::call::{Answered, Call, Peer};
use crate::caller::{self, Known};
use crate::config::{Config, Listener, Process};
use crate::encoded::Kept;
use crate::error::{Error, Failure};
use crate::forward;
use crate::gate::{Admission, Admitted, Gate};
use crate::lean::{self, Left, Line, Rewound};
use crate::leaving::{self, Overheard};
use crate::measure::{self, Measure};
use crate::pages;
use crate::query;
use crate::respond::{self, Common, Response};
use crate::routes::{Access, Handler, Route};
use crate::streams;

/// How long open requests may take to end when the agent stops.
const GRACE: Duration = Duration::from_secs(1);
/// A connection without a whole request head for so long is closed, idle ones included. Longer than the 90 s after
/// which the usual client libraries drop idle connections, so that they never meet our closing.
pub(crate) const HEAD_LIMIT: Duration = Duration::from_secs(120);
/// Largest head of a request.
const HEAD_SIZE: usize = 1024 * 1024;
/// A TLS handshake takes a few round trips.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// A client over the network that has not taken anything of its answer for so long is given up. One on this machine's
/// Unix sockets was let in by the operator.
const UNREAD_LIMIT: Duration = Duration::from_secs(120);
/// With what a connection begins on which HTTP/2 is spoken without having been agreed on.
const HTTP2: &[u8] = b"PRI * HTTP/2.0";
/// Between probes of a silent connection.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// What all requests share.
pub(crate) struct Server {
    pub(crate) agent: Agent,
    pub(crate) config: Config,
    pub(crate) process: Arc<dyn Process>,
    pub(crate) seen: SeenBefore,
    pub(crate) kept: Kept,
    pub(crate) stop: Stop,
    pub(crate) measure: Measure,
    /// When it began to answer, in seconds since the Unix epoch.
    pub(crate) started: i64,
    rules: watch::Receiver<Arc<Rules>>,
    /// What bodies of requests take together.
    room: Room,
    /// Held while a snapshot is read and restored.
    pub(crate) restoring: tokio::sync::Mutex<()>,
}

/// What can change while the server runs.
pub(crate) struct Rules {
    pub(crate) gate: Gate,
    common: Common,
}

impl Rules {
    /// Completes an answer of the API to a client that takes compressed ones or not.
    pub(crate) fn complete(&self, response: &mut Response, accepts_gzip: bool) {
        self.common.complete(response, accepts_gzip);
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rules").field("common", &self.common).finish_non_exhaustive()
    }
}

/// Changes the rules and the certificates of a running server.
#[derive(Clone)]
pub struct Reload {
    rules: Arc<watch::Sender<Arc<Rules>>>,
    /// Those of the listeners that speak TLS, each once.
    acceptors: Vec<Arc<Acceptor>>,
}

/// Rules and certificates that were checked and do not hold yet.
pub struct Next {
    rules: Rules,
    renewals: Vec<(Arc<Acceptor>, Renewal)>,
}

impl Reload {
    /// Checks the part of a configuration that can change while the server runs, and reads the certificates that it names.
    pub fn prepare(&self, config: &Config) -> Result<Next, Error> {
        let now = Arc::clone(&self.rules.borrow());
        let common = Common { configured: headers(config)?, ..now.common };
        let named = acceptors(config);
        let renewed = |(ours, next): (&Arc<Acceptor>, &Arc<Acceptor>)| {
            Ok((Arc::clone(ours), ours.read_anew(next).map_err(Error::Certificate)?))
        };
        let renewals = self.acceptors.iter().zip(&named).map(renewed).collect::<Result<_, Error>>()?;
        Ok(Next { rules: Rules { gate: now.gate.renewed(config), common }, renewals })
    }

    /// Every request from now on is judged by these rules, and every connection gets these certificates.
    pub fn replace(&self, next: Next) {
        let Next { rules, renewals } = next;
        self.rules.send_replace(Arc::new(rules));
        for (acceptor, renewal) in renewals {
            acceptor.renew(renewal);
        }
    }
}

/// What speaks TLS at the listeners, each once: several addresses may share one.
fn acceptors(config: &Config) -> Vec<Arc<Acceptor>> {
    let mut all: Vec<Arc<Acceptor>> = Vec::new();
    for acceptor in config.listeners.iter().filter_map(Listener::acceptor) {
        if !all.iter().any(|known| Arc::ptr_eq(known, acceptor)) {
            all.push(Arc::clone(acceptor));
        }
    }
    all
}

fn headers(config: &Config) -> Result<Vec<(HeaderName, HeaderValue)>, Error> {
    let read = |(name, value): (&String, &String)| {
        let header = HeaderName::try_from(name).ok().zip(HeaderValue::try_from(value).ok());
        header.ok_or_else(|| Error::Header { name: name.clone() })
    };
    config.response_headers.iter().map(read).collect()
}

/// A server that listens and does not answer yet.
pub struct Bound {
    config: Config,
    agent: Agent,
    process: Arc<dyn Process>,
    reload: Reload,
    sockets: Vec<(Address, ListenSocket)>,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A TCP address, with the port that was taken.
    Tcp(SocketAddr),
    /// The same for TLS.
    Tls(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
    /// The same for TLS.
    UnixTls(PathBuf),
    /// The same for managed proxies only.
    Proxies(PathBuf),
    /// A TCP address for client agents, and whether TLS is spoken there.
    Agents(SocketAddr, bool),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => write!(f, "HTTP server on {address} (tcp)"),
            Address::Tls(address) => write!(f, "HTTPS server on {address} (tcp)"),
            Address::Unix(path) => write!(f, "HTTP server on {} (unix)", path.display()),
            Address::UnixTls(path) => write!(f, "HTTPS server on {} (unix)", path.display()),
            Address::Agents(address, true) => write!(f, "server for client agents on {address} (mutual TLS)"),
            Address::Agents(address, false) => write!(f, "server for client agents on {address} (in the clear)"),
            Address::Proxies(path) => write!(f, "HTTP server for managed proxies on {} (unix)", path.display()),
        }
    }
}

enum ListenSocket {
    Tcp(TcpListener),
    Tls(TcpListener, Arc<Acceptor>),
    Unix(Local),
    UnixTls(Local, Arc<Acceptor>),
    Proxies(Local),
    Agents(TcpListener, Option<Arc<Acceptor>>),
}

/// A Unix socket that listens. Nothing that anybody sends through it can make a thread of ours wait: see [`descriptors`].
struct Local {
    /// `None` once it is dropped.
    listener: Option<UnixListener>,
    /// Whether the kernel keeps descriptors from coming in at all.
    refuses: bool,
}

impl Local {
    async fn accept(&self) -> std::io::Result<BytesOnly> {
        let listener = self.listener.as_ref().ok_or(std::io::ErrorKind::NotConnected)?;
        let (stream, _) = listener.accept().await?;
        Ok(BytesOnly::new(stream, self.refuses))
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        let Some(listener) = self.listener.take() else { return };
        if !self.refuses
            && let Ok(listener) = listener.into_std()
        {
            // There may be connections in it that nobody has accepted.
            descriptors::close(vec![listener.into()]);
        }
    }
}

/// Takes all addresses. Must be called within a tokio runtime.
pub fn bind(config: Config, agent: Agent, process: Arc<dyn Process>) -> Result<Bound, Error> {
    let common = Common { configured: headers(&config)?, translate_addresses: config.translate_wan_addrs };
    let rules = Rules { gate: Gate::new(&config), common };
    let reload = Reload { rules: Arc::new(watch::Sender::new(Arc::new(rules))), acceptors: acceptors(&config) };
    let sockets = config.listeners.iter().filter_map(|listener| listen_if_wanted(listener).transpose());
    let sockets = sockets.collect::<Result<_, _>>()?;
    Ok(Bound { config, agent, process, reload, sockets })
}

impl Bound {
    /// The handle that changes what can change.
    pub fn reload(&self) -> Reload {
        self.reload.clone()
    }

    /// Where it listens, in the order configured.
    pub fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.sockets.iter().map(|(address, _)| address)
    }

    /// Answers requests until it is told to stop; then lets open ones end within a second. Reads that wait for a change
    /// are answered with what there is.
    pub async fn run(self, stop: Stop) {
        let Bound { config, agent, process, reload, sockets } = self;
        let (seen, kept) = (SeenBefore::default(), Kept::default());
        let scope = Scope::new("http");
        let (stop_signal, measure) = (stop.clone(), Measure::new(config.node_name.as_str()));
        let started = lictor_task::clock::unix_seconds();
        let server = Arc::new(Server {
            agent,
            config,
            process,
            seen,
            kept,
            stop: stop_signal,
            started,
            measure,
            rules: reload.rules.subscribe(),
            room: Room::default(),
            restoring: tokio::sync::Mutex::default(),
        });
        for (address, socket) in sockets {
            tracing::info!("agent: Started {address}");
            let accepting = accept(Arc::clone(&server), scope.clone(), socket);
            scope.spawn("accept", async move {
                accepting.await;
                if let Address::Unix(path) | Address::UnixTls(path) | Address::Proxies(path) = address {
                    // Gone already is as good as gone.
                    let _ = std::fs::remove_file(path);
                }
            });
        }
        stop.requested().await;
        // Every task looks at the same signal, and connections end themselves after their grace.
        scope.join(GRACE + Duration::from_millis(500)).await;
    }
}

/// Listens; `None` at an address that the agent can do without and does not get: that for agents in the clear, which nobody
/// has asked for.
fn listen_if_wanted(listener: &Listener) -> Result<Option<(Address, ListenSocket)>, Error> {
    match (listener, listen(listener)) {
        (_, Ok(listening)) => Ok(Some(listening)),
        (Listener::Agents { acceptor: None, .. }, Err(error)) => {
            let text = lictor_agent::error::chain(&error);
            tracing::warn!(
                "agent: no client agent can ask this server: {text}; name a free port in ports.server, or 0"
            );
            Ok(None)
        }
        (_, Err(error)) => Err(error),
    }
}

fn listen(listener: &Listener) -> Result<(Address, ListenSocket), Error> {
    match listener {
        Listener::Tcp(address) => {
            let failed = |source| Error::Listen { address: address.to_string(), source };
            let socket = listen_tcp(*address, UNREAD_LIMIT).map_err(failed)?;
            let taken = socket.local_addr().map_err(failed)?;
            Ok((Address::Tcp(taken), ListenSocket::Tcp(socket)))
        }
        Listener::Tls(address, acceptor) => {
            let failed = |source| Error::Listen { address: address.to_string(), source };
            let socket = listen_tcp(*address, UNREAD_LIMIT).map_err(failed)?;
            let taken = socket.local_addr().map_err(failed)?;
            Ok((Address::Tls(taken), ListenSocket::Tls(socket, Arc::clone(acceptor))))
        }
        Listener::Agents { address, acceptor } => {
            let failed = |source| Error::Listen { address: address.to_string(), source };
            let socket = listen_tcp(*address, UNREAD_LIMIT).map_err(failed)?;
            let taken = socket.local_addr().map_err(failed)?;
            Ok((Address::Agents(taken, acceptor.is_some()), ListenSocket::Agents(socket, acceptor.clone())))
        }
        Listener::Unix { path, mode, user, group, acceptor } => {
            let failed = |source| Error::Listen { address: path.display().to_string(), source };
            let socket = listen_unix(path).map_err(failed)?;
            set_owner(path, *mode, *user, *group).map_err(|source| Error::SocketFile { path: path.clone(), source })?;
            Ok(match acceptor {
                None => (Address::Unix(path.clone()), ListenSocket::Unix(socket)),
                Some(acceptor) => (Address::UnixTls(path.clone()), ListenSocket::UnixTls(socket, Arc::clone(acceptor))),
            })
        }
        Listener::Proxies { path, open } => {
            let failed = |source| Error::Listen { address: path.display().to_string(), source };
            let socket = listen_unix(path).map_err(failed)?;
            let mode = if *open { 0o666 } else { 0o600 };
            set_owner(path, Some(mode), None, None)
                .map_err(|source| Error::SocketFile { path: path.clone(), source })?;
            Ok((Address::Proxies(path.clone()), ListenSocket::Proxies(socket)))
        }
    }
}

/// Connections inherit the options of their listener, so they are set once.
fn listen_tcp(address: SocketAddr, unread_limit: Duration) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // The original listens on both families for `::`; an address of one family is that family anyway.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE))?;
    // Kept by the kernel, which knows what the peer has taken: no timer of ours on the way of an answer.
    socket.set_tcp_user_timeout(Some(unread_limit))?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn listen_unix(path: &Path) -> std::io::Result<Local> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Before it can be found. Where that is not possible, each connection is read with care.
    let refuses = descriptors::refuse(&socket).unwrap_or(false);
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(BACKLOG)?;
    Ok(Local { listener: Some(UnixListener::from_std(socket.into())?), refuses })
}

fn set_owner(path: &Path, mode: Option<u32>, user: Option<u32>, group: Option<u32>) -> std::io::Result<()> {
    use std::os::unix::fs::{PermissionsExt, chown};
    if user.is_some() || group.is_some() {
        chown(path, user, group)?;
    }
    match mode {
        Some(mode) => std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)),
        None => Ok(()),
    }
}

async fn accept(server: Arc<Server>, scope: Scope, socket: ListenSocket) {
    let stop = server.stop.clone();
    // Out of descriptors is the usual reason why accepting fails; waiting gives connections time to end.
    let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_secs(1));
    loop {
        let serve = Serve { server: Arc::clone(&server), scope: scope.clone(), proxy: None };
        let accepted = match &socket {
            ListenSocket::Tcp(listener) => {
                let Some(accepted) = stop.or_stopped(listener.accept()).await else { return };
                accepted.map(|(stream, peer)| scope.spawn("connection", serve.plain(stream, Peer::Tcp(peer))))
            }
            ListenSocket::Tls(listener, acceptor) => {
                let Some(accepted) = stop.or_stopped(listener.accept()).await else { return };
                let acceptor = Arc::clone(acceptor);
                accepted
                    .map(|(stream, peer)| scope.spawn("connection", serve.secure(stream, acceptor, Peer::Tcp(peer))))
            }
            ListenSocket::Agents(listener, acceptor) => {
                let Some(accepted) = stop.or_stopped(listener.accept()).await else { return };
                let acceptor = acceptor.clone();
                accepted.map(|(stream, peer)| match acceptor {
                    Some(acceptor) => scope.spawn(
                        "connection",
                        serve.secure(stream, acceptor, Peer::Agent { address: peer, certified: true }),
                    ),
                    None => {
                        scope.spawn("connection", serve.plain(stream, Peer::Agent { address: peer, certified: false }))
                    }
                })
            }
            ListenSocket::Unix(listener) => {
                let Some(accepted) = stop.or_stopped(listener.accept()).await else { return };
                accepted.map(|stream| scope.spawn("connection", serve.plain(stream, Peer::Unix)))
            }
            ListenSocket::UnixTls(listener, acceptor) => {
                let Some(accepted) = stop.or_stopped(listener.accept()).await else { return };
                let acceptor = Arc::clone(acceptor);
                accepted.map(|stream| scope.spawn("connection", serve.secure(stream, acceptor, Peer::Unix)))
            }
            ListenSocket::Proxies(listener) => {
                let Some(accepted) = stop.or_stopped(listener.accept()).await else { return };
                accepted.map(|stream| scope.spawn("connection", serve.proxy(stream)))
            }
        };
        match accepted {
            Ok(_) => backoff.reset(),
            Err(error) => {
                if backoff.failures() == 0 {
                    tracing::error!("http: cannot accept connections: {error}");
                }
                if stop.or_stopped(tokio::time::sleep(backoff.next_delay())).await.is_none() {
                    return;
                }
            }
        }
    }
}

/// One connection to be.
struct Serve {
    server: Arc<Server>,
    scope: Scope,
    /// The managed proxy at the other end, where the kernel has told.
    proxy: Option<ServiceId>,
}

impl Serve {
    /// A connection of a managed proxy; whoever else connects is told nothing.
    async fn proxy(mut self, stream: BytesOnly) {
        let process = stream.stream().and_then(lictor_task::Peer::of).ok();
        self.proxy = match &process {
            Some(process) => {
                let proxy = self.server.agent.proxy_of_process(process.pid()).await;
                proxy.filter(|_| process.is_there())
            }
            None => None,
        };
        match (&self.proxy, process) {
            (Some(_), _) => self.plain(stream, Peer::Unix).await,
            (None, Some(process)) if process.is_there() => {
                tracing::warn!("http: process {} is no managed proxy and gets no answer", process.pid());
            }
            // A proxy may end while it asks.
            (None, Some(process)) => tracing::debug!("http: process {} is gone and gets no answer", process.pid()),
            (None, None) => tracing::warn!("http: a process that is gone, or not of this machine's, gets no answer"),
        }
    }

    /// Answers reads for as long as nothing else comes, and everything from then on.
    #[expect(
        clippy::manual_async_fn,
        reason = "an async fn has room for its arguments twice, and there are many connections"
    )]
    fn plain(self, mut stream: impl Line + Send + Sync, peer: Peer) -> impl Future<Output = ()> + Send {
        async move {
            let left = lean::serve(&self.server, &mut stream, &peer, self.proxy.as_ref()).await;
            if let Left::Bytes(before) = left {
                // A future of its own, on the heap: a connection of reads need not have room for it.
                let stream = Rewound::new(before, stream);
                if matches!(peer, Peer::Agent { .. }) && stream.begins_with(HTTP2) {
                    return Box::pin(self.streams(stream, peer)).await;
                }
                Box::pin(self.whole(stream, peer)).await;
            }
        }
    }

    /// The whole of HTTP/1.
    async fn whole(self, stream: impl AsyncRead + AsyncWrite + Unpin, peer: Peer) {
        let (server, proxy) = (&self.server, &self.proxy);
        let stream = Overheard::new(stream);
        let line = stream.clone();
        let service =
            service_fn(move |request| respond(Arc::clone(server), request, peer, proxy.clone(), line.clone()));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            // Who has said everything may still want the answer.
            .half_close(true)
            .header_read_timeout(HEAD_LIMIT)
            .max_buf_size(HEAD_SIZE)
            .title_case_headers(true)
            .serve_connection(TokioIo::new(stream), service);
        finish(connection, server.stop.requested(), |connection| connection.graceful_shutdown()).await;
    }

    async fn secure<S>(self, stream: S, acceptor: Arc<Acceptor>, peer: Peer)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let stop = self.server.stop.clone();
        let handshake = tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream));
        let stream = match stop.or_stopped(handshake).await {
            Some(Ok(Ok(stream))) => stream,
            Some(Ok(Err(error))) => {
                let from = match peer {
                    Peer::Tcp(address) | Peer::Agent { address, .. } => address.to_string(),
                    Peer::Unix => "a unix socket".to_owned(),
                };
                tracing::debug!("http: TLS handshake error from {from}: {error}");
                return;
            }
            Some(Err(_)) | None => return,
        };
        if !stream.is_http2() {
            return self.whole(stream, peer).await;
        }
        self.streams(stream, peer).await;
    }

    /// HTTP/2.
    async fn streams(self, stream: impl AsyncRead + AsyncWrite + Unpin, peer: Peer) {
        let stop = self.server.stop.clone();
        let limits = match peer {
            Peer::Agent { .. } => streams::Limits::of_agent(UNREAD_LIMIT),
            Peer::Tcp(_) | Peer::Unix => streams::Limits::new(UNREAD_LIMIT),
        };
        let server = self.server;
        let answer = |request| {
            let server = Arc::clone(&server);
            async move { server.respond(request, peer, None).await }
        };
        streams::serve(stream, self.scope, &stop, limits, answer).await;
    }
}

/// Serves until the connection ends, or until it is to be over and open requests had their time.
pub(crate) async fn finish<C>(connection: C, over: impl Future<Output = ()>, end: impl FnOnce(Pin<&mut C>))
where
    C: Future<Output = hyper::Result<()>>,
{
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => Some(ended),
        () = over => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            end(connection.as_mut());
            match tokio::time::timeout(GRACE, connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        // A client that goes away in the middle is the client's business.
        tracing::trace!("http: connection ended: {error}");
    }
}

async fn respond(
    server: Arc<Server>,
    request: Request<Incoming>,
    peer: Peer,
    proxy: Option<ServiceId>,
    line: Overheard<impl AsyncRead + Unpin>,
) -> Result<Response, Infallible> {
    if !server.waits(&request, peer) {
        return Ok(server.respond(request, peer, proxy).await);
    }
    let now = leaving::at_once(&request);
    Ok(tokio::select! {
        biased;
        response = server.respond(request, peer, proxy.clone()) => response,
        () = line.ended() => Box::pin(server.answer_at_once(&now, &peer, proxy.as_ref())).await,
    })
}

impl Server {
    /// Does something that may take until after the agent is told to stop; then it has a little time left.
    pub(crate) async fn within_grace<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        match self.stop.or_stopped(work.as_mut()).await {
            Some(done) => Some(done),
            None => tokio::time::timeout(GRACE, work).await.ok(),
        }
    }

    /// The rules of now.
    pub(crate) fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.borrow())
    }

    /// Whether these rules hold still, and nothing else asks for a whole look at each request.
    pub(crate) fn repeats(&self, rules: &Arc<Rules>) -> bool {
        Arc::ptr_eq(&*self.rules.borrow(), rules)
            && !self.agent.acls_enabled()
            // Each request is a line of the log there.
            && !tracing::enabled!(tracing::Level::DEBUG)
    }

    /// What was admitted, if it is a read that is answered from what is at hand.
    pub(crate) fn read_here<'h>(&self, admitted: &Admitted<'h>) -> Option<Reads<'h>> {
        let is_here = self.config.elsewhere.is_none() || forward::is_own(admitted.route);
        match admitted.handler {
            Handler::Read(reading) if is_here => Some(Reads::State(reading)),
            Handler::Hashed(find) if is_here => Some(Reads::Local(*find)),
            Handler::Read(_) | Handler::Hashed(_) | Handler::Now(_) | Handler::Act(_) | Handler::Waits(_) => None,
        }
    }

    /// Whether what was admitted does something here. What only looks may be answered by a stream, and is for the library.
    pub(crate) fn acts_here(&self, admission: &Admission<'_>) -> bool {
        let Admission::Handler(admitted) = admission else { return false };
        matches!(admitted.handler, Handler::Act(_))
            && (self.config.elsewhere.is_none() || forward::is_own(admitted.route))
    }

    /// Whether somebody else has to be asked before a read can be answered.
    pub(crate) fn asks_first(&self, admitted: &Admitted<'_>) -> bool {
        admitted.query.has("consistent") || self.config.elsewhere.is_some() && admitted.route.access.needs_caller()
    }

    /// Whether a request is one that may have to wait.
    fn waits(&self, request: &Request<Incoming>, peer: Peer) -> bool {
        // Most that has a query says nothing of waiting, and need not be looked at twice.
        let query = request.uri().query().unwrap_or_default();
        ["index", "hash"].iter().any(|word| query.contains(word))
            && self.rules().gate.admit(request.method(), request.uri(), peer).is_wait()
    }

    async fn respond(&self, request: Request<Incoming>, peer: Peer, proxy: Option<ServiceId>) -> Response {
        let (head, body) = request.into_parts();
        let rest = Rest::new(body);
        let body = RequestBody::new(&rest, &self.room);
        let admission = self.rules().gate.admit(&head.method, &head.uri, peer);
        let mut response = self.answer(admission, &head, body, &peer, proxy.as_ref()).await;
        // The library would close the connection under the next request of a client that sends head and body apart, and say
        // nothing of it. Streams of HTTP/2 end by themselves.
        if head.version <= Version::HTTP_11 && !rest.take_off(&head.headers).await {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// Answers a read whose client has ended its side, with what there is.
    pub(crate) async fn answer_at_once(
        &self,
        head: &http::request::Parts,
        peer: &Peer,
        proxy: Option<&ServiceId>,
    ) -> Response {
        let admission = self.rules().gate.admit(&head.method, &head.uri, *peer);
        self.answer(admission, head, RequestBody::default(), peer, proxy).await
    }

    /// Answers a request that came through the gate.
    pub(crate) async fn answer(
        &self,
        admission: Admission<'_>,
        head: &http::request::Parts,
        body: RequestBody,
        peer: &Peer,
        proxy: Option<&ServiceId>,
    ) -> Response {
        let started = Instant::now();
        let response = match admission {
            Admission::Elsewhere(response) => response,
            Admission::Page(file) => match &self.config.page {
                Some(folder) => pages::answer(folder, &head.method, &file).await,
                None => respond::empty(http::StatusCode::NOT_FOUND),
            },
            Admission::Answered(mut response) => {
                self.rules().complete(&mut response, respond::accepts_gzip(&head.headers));
                response
            }
            Admission::Handler(admitted) => {
                let answered = self.handle(&admitted, head, peer, body, proxy).await;
                self.complete(answered, &admitted, head, started)
            }
        };
        log(head, peer, proxy, started);
        response
    }

    /// What a handler gave, as it is sent.
    pub(crate) fn complete(
        &self,
        answered: Answered,
        admitted: &Admitted<'_>,
        head: &http::request::Parts,
        started: Instant,
    ) -> Response {
        let mut response = answered.unwrap_or_else(|failure| self.failed(&failure));
        self.measure.took(admitted.route.pattern, &head.method, admitted.argument(), started.elapsed());
        self.rules().complete(&mut response, respond::accepts_gzip(&head.headers));
        response
    }

    /// Turns a failure into an answer, and tells the operator when the fault is ours.
    pub(crate) fn failed(&self, failure: &Failure) -> Response {
        if failure.is_ours() {
            tracing::error!("http: request failed: {}", failure.text());
        }
        respond::failure(failure)
    }

    async fn handle(
        &self,
        admitted: &Admitted<'_>,
        head: &http::request::Parts,
        peer: &Peer,
        body: RequestBody,
        proxy: Option<&ServiceId>,
    ) -> Answered {
        let secret = self.secret(admitted, head, proxy)?;
        let elsewhere = self.config.elsewhere.as_ref();
        let forwarded = elsewhere.filter(|_| !forward::is_own(admitted.route));
        if admitted.route.access.needs_acls() && forwarded.is_none() && !self.agent.acls_enabled() {
            return Err(lictor_agent::Error::AclDisabled.into());
        }
        let caller = match forwarded {
            // Who that is, a server knows.
            Some(_) => Ok(self.agent.anybody(&secret)),
            None => {
                if elsewhere.is_some() && admitted.route.access.needs_caller() {
                    // On the heap, as all that most requests do without: many wait here at once.
                    Box::pin(self.agent.learn(&secret)).await?;
                }
                self.caller(admitted.route, &secret, *peer)
            }
        };
        let caller = match (caller, admitted.handler) {
            (Ok(caller), _) => caller,
            (Err(error), Handler::Read(reading)) => return blocking::failed(reading, self, error.into()),
            (Err(error), _) => return Err(error.into()),
        };
        let call = self.call(admitted, head, peer, proxy, &secret, caller)?;
        if let Some(elsewhere) = forwarded {
            let answered = Box::pin(forward::forward(elsewhere, &call, head.uri.path(), admitted.handler, body)).await;
            return match (answered, admitted.handler) {
                (Err(failure), Handler::Read(reading)) => blocking::failed(reading, self, failure),
                (answered, _) => answered,
            };
        }
        let answered = match admitted.handler {
            Handler::Now(answer) => answer(&call),
            Handler::Read(reading) => blocking::read(reading, &call).await,
            Handler::Hashed(find) => blocking::read_hashed(*find, &call).await,
            Handler::Act(act) | Handler::Waits(act) => act(&call, body).await,
        };
        measure::answered(&call, answered.as_ref());
        answered
    }

    /// One turn of a read for which nobody has to be [asked first](Server::asks_first).
    pub(crate) fn look(
        &self,
        reads: Reads<'_>,
        admitted: &Admitted<'_>,
        head: &http::request::Parts,
        peer: &Peer,
        proxy: Option<&ServiceId>,
        turn: Turn,
    ) -> Result<Round, Failure> {
        let secret = self.secret(admitted, head, proxy)?;
        if admitted.route.access.needs_acls() && !self.agent.acls_enabled() {
            return Err(lictor_agent::Error::AclDisabled.into());
        }
        let caller = match self.caller(admitted.route, &secret, *peer) {
            Ok(caller) => caller,
            Err(error) => return reads.failed(self, error.into()).map(Round::Answered),
        };
        let call = self.call(admitted, head, peer, proxy, &secret, caller)?;
        let round = reads.look(&call, turn);
        match &round {
            Ok(Round::Waits(_)) => {}
            Ok(Round::Kept(answer, _)) => measure::kept(&call, answer),
            Ok(Round::Answered(response)) => measure::answered(&call, Ok(response)),
            Err(failure) => measure::answered(&call, Err(failure)),
        }
        round
    }

    /// The secret by which a caller is known. A proxy that is known by its process has the rights of its secret without ever
    /// having held it.
    fn secret<'a>(
        &self,
        admitted: &'a Admitted<'_>,
        head: &'a http::request::Parts,
        proxy: Option<&ServiceId>,
    ) -> Result<Cow<'a, str>, Failure> {
        let length = admitted.argument().len();
        if length > LONGEST_NAME && !admitted.route.names_keys() {
            let text = format!("the name in the path has {length} bytes, and a name has at most {LONGEST_NAME}");
            return Err(Failure::invalid(text));
        }
        Ok(match proxy {
            Some(id) => self.agent.secret_of_proxy(id).map_or(Cow::Borrowed(caller::UNREADABLE), Cow::Owned),
            None => Cow::Borrowed(caller::secret(&admitted.query, &head.headers)),
        })
    }

    /// What a handler is given, if a proxy may ask that.
    fn call<'a>(
        &'a self,
        admitted: &'a Admitted<'_>,
        head: &'a http::request::Parts,
        peer: &'a Peer,
        proxy: Option<&ServiceId>,
        secret: &'a str,
        caller: Caller,
    ) -> Result<Call<'a>, Failure> {
        let query = &admitted.query;
        let call = Call {
            server: self,
            route: admitted.route,
            method: &head.method,
            argument: admitted.argument(),
            query,
            raw_query: head.uri.query().unwrap_or_default(),
            headers: &head.headers,
            peer,
            secret,
            caller,
            layout: if query.has("pretty") { Layout::Pretty } else { self.config.layout },
        };
        let known = if proxy.is_some() { Known::ByProcess } else { Known::BySecret };
        if let Some(rights) = call.caller.as_proxy()
            && !call.caller.is_unrestricted()
            && !caller::is_within(rights, &call, known)
        {
            return Err(Failure::Denied);
        }
        Ok(call)
    }

    /// Who asks, on a route.
    pub(crate) fn caller(&self, route: &Route, secret: &str, peer: Peer) -> Result<Caller, lictor_agent::Error> {
        match route.access {
            Access::Public | Access::AclPublic => Ok(self.agent.anybody(secret)),
            // What tokens this agent has for itself is for those on its own node.
            _ if matches!(peer, Peer::Agent { .. }) => self.agent.caller_of_agent(secret),
            // The agent's own master token is known to the agent and to nobody else.
            Access::Caller | Access::Acl if route.pattern.starts_with("/v1/agent/") => self.agent.local_caller(secret),
            Access::Caller | Access::Acl => self.agent.caller(secret),
        }
    }
}

/// A line for each request.
pub(crate) fn log(head: &http::request::Parts, peer: &Peer, proxy: Option<&ServiceId>, started: Instant) {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    let target = head.uri.path_and_query().map_or("", |target| target.as_str());
    let from = match (peer, proxy) {
        (_, Some(id)) => format!("@{id}"),
        (Peer::Tcp(address) | Peer::Agent { address, .. }, None) => address.to_string(),
        (Peer::Unix, None) => "@".to_owned(),
    };
    let (target, took) = (query::redacted(target), started.elapsed());
    tracing::debug!("http: Request {} {target} ({took:?}) from={from}", head.method);
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// A connection whose last descriptor is not closed before a client has taken what is in it, and that client.
    fn lingering() -> (std::net::TcpStream, std::net::TcpStream) {
        use std::io::Write;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut full = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        full.set_nonblocking(true).unwrap();
        while full.write(&[0; 1 << 16]).is_ok() {}
        socket2::SockRef::from(&full).set_linger(Some(LINGER)).unwrap();
        (full, listener.accept().unwrap().0)
    }

    /// Much longer than this test may take.
    const LINGER: Duration = Duration::from_secs(120);

    #[tokio::test]
    async fn a_descriptor_that_is_sent_to_a_unix_socket_keeps_no_thread() {
        use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
        use tokio::io::AsyncReadExt;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api");
        let local = listen_unix(&path).unwrap();
        let started = Instant::now();
        let mut others = Vec::new();
        // One that is never accepted, and one that is.
        for accepts in [true, false] {
            let client = std::os::unix::net::UnixStream::connect(&path).unwrap();
            let (full, other) = lingering();
            others.push(other);
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let sent = [std::os::fd::AsFd::as_fd(&full)];
            control.push(SendAncillaryMessage::ScmRights(&sent));
            let slices = [std::io::IoSlice::new(b"GET")];
            let sending = rustix::net::sendmsg(&client, &slices, &mut control, SendFlags::empty());
            assert_eq!(sending.is_err(), local.refuses, "{sending:?}");
            if sending.is_err() {
                assert_eq!(sending, Err(rustix::io::Errno::PERM));
                rustix::net::send(&client, b"GET", SendFlags::empty()).unwrap();
            }
            if accepts {
                let mut text = [0; 3];
                local.accept().await.unwrap().read_exact(&mut text).await.unwrap();
                assert_eq!(&text, b"GET");
            }
            // It is ours no longer; where it was refused, nobody may wait for it here either.
            if local.refuses {
                socket2::SockRef::from(&full).set_linger(None).unwrap();
            }
        }
        drop(local);
        assert!(started.elapsed() < LINGER / 2, "it took {:?}", started.elapsed());
    }

    #[tokio::test]
    async fn a_client_that_does_not_take_its_answer_is_given_up() {
        let listener = listen_tcp(([127, 0, 0, 1], 0).into(), Duration::from_secs(1)).unwrap();
        let idle = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        let answer = vec![7; 1 << 20];
        let stuck = async { while stream.write_all(&answer).await.is_ok() {} };
        tokio::time::timeout(Duration::from_secs(60), stuck).await.expect("it is served for ever");
        drop(idle);
    }
}
