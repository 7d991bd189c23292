//! A small HTTP client for agents, used by the proxy's control side and by the command line.
//!
//! It keeps a few connections alive, blocks as long as a blocking read may take, and knows the requests that a proxy
//! needs by name; everything else goes through [`Client::send`]. Every method may be dropped at any time: the request
//! is abandoned and its connection closed.

pub mod address;
pub mod config;
mod link;
pub mod request;

use std::borrow::Cow;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use http_body_util::Full;
use hyper::body::Incoming;
use lictor_model::intention::Action;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::config::Config;
use self::config::Consistency;
use self::link::Link;
pub use self::link::{Encrypt, Encrypting, Stream};
pub use self::request::{Answer, Request, Since};
use crate::{agent, connect, header, health, intention, query};

/// Why a request has no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A text that names no agent.
    #[error("invalid agent address {0:?}, use host:port, http://, https:// or unix:///path")]
    Address(String),
    /// An environment variable that must be a boolean.
    #[error("environment variable {0} is neither true nor false")]
    Variable(&'static str),
    /// The agent could not be reached.
    #[error("cannot connect to {address}")]
    Connect {
        /// Where it should be.
        address: String,
        /// What went wrong.
        source: io::Error,
    },
    /// A name or token that cannot be part of a request.
    #[error("cannot form the request")]
    Form(#[source] http::Error),
    /// A value that cannot be sent.
    #[error("cannot encode the request")]
    Encode(#[source] serde_json::Error),
    /// The connection failed during the exchange.
    #[error("connection to the agent failed")]
    Transport(#[source] hyper::Error),
    /// The agent did not answer in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The agent refused; the text is the one that clients of the original print.
    #[error("Unexpected response code: {code} ({text})")]
    Status {
        /// Status code.
        code: u16,
        /// The body.
        text: String,
    },
    /// The answer is larger than the reader wants.
    #[error("answer is larger than {0} bytes")]
    TooLarge(usize),
    /// The answer is not what it should be.
    #[error("cannot read the answer")]
    Decode(#[source] serde_json::Error),
}

impl Error {
    fn status(code: u16, body: &[u8]) -> Error {
        Error::Status { code, text: String::from_utf8_lossy(body).trim_end().to_owned() }
    }

    /// Whether the same request may succeed later without anybody changing it.
    pub fn is_retriable(&self) -> bool {
        match self {
            Error::Connect { .. } | Error::Transport(_) | Error::Timeout(_) => true,
            Error::Status { code, .. } => *code == 429 || *code >= 500,
            Error::Address(_)
            | Error::Variable(_)
            | Error::Form(_)
            | Error::Encode(_)
            | Error::TooLarge(_)
            | Error::Decode(_) => false,
        }
    }

    /// Whether the agent answered that there is no such thing.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::Status { code: 404, .. })
    }

    /// Whether the agent answered that the caller may not.
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Error::Status { code: 403, .. })
    }
}

const NEIGHBOR: &str = "/v1/agent/connect/neighbor";
/// Nobody waits for these answers, and one that is late is of no use.
const NEIGHBOR_LIMIT: Duration = Duration::from_secs(5);

/// The result of a read: the value, and what to pass as [`Since`] next time.
#[derive(Clone, Debug, PartialEq)]
pub struct Read<T> {
    /// What was asked for.
    pub value: T,
    /// Position in the history, on endpoints that have one.
    pub index: Option<u64>,
    /// Hash of the content, on endpoints that have one.
    pub content_hash: Option<String>,
}

/// The intentions that speak of a destination, and what holds where none does.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matched {
    /// In the order that decides.
    pub intentions: Vec<intention::Intention<'static>>,
    /// The decision where none matches; agents that are not lictor do not say.
    pub otherwise: Option<Action>,
}

/// What a prepared query found.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranked {
    /// The answer.
    pub executed: query::Executed<'static>,
    /// What the order of its instances means; agents that are not lictor do not say.
    pub ranking: Option<Ranking>,
}

/// What the order of instances means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ranking {
    /// Nothing: they were shuffled.
    Random,
    /// The first ones are nearer.
    Nearest,
}

/// Idle connections that are kept: one for each thing that a busy client watches, and a spare.
const MAX_IDLE_LINKS: usize = 4;

/// A client of one agent.
pub struct Client {
    config: Config,
    host: String,
    idle: Mutex<Vec<Link>>,
}

impl Client {
    /// A client that is not connected yet.
    pub fn new(config: Config) -> Client {
        Client { host: config.address.authority(), config, idle: Mutex::new(Vec::new()) }
    }

    /// How it reaches its agent.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Sends a request and reads the whole answer, whatever its status.
    pub async fn send(&self, request: Request) -> Result<Answer, Error> {
        let limit = request.limit.unwrap_or(self.config.timeout.0);
        let exchange = async {
            let max_body = request.max_body;
            let mut stream = self.open(request).await?;
            let mut body = BytesMut::new();
            while let Some(piece) = stream.piece().await? {
                if body.len() + piece.len() > max_body {
                    return Err(Error::TooLarge(max_body));
                }
                body.extend_from_slice(&piece);
            }
            let Streamed { status, headers, link, .. } = stream;
            self.put_aside(link).await;
            Ok(Answer::new(status, headers, body.freeze()))
        };
        tokio::time::timeout(limit, exchange).await.unwrap_or(Err(Error::Timeout(limit)))
    }

    /// Sends a request and hands out the answer as it arrives; for answers without end. The connection is not used
    /// again, and only the head of the answer has a time limit.
    pub async fn stream(&self, request: Request) -> Result<Streamed, Error> {
        let limit = request.limit.unwrap_or(self.config.timeout.0);
        tokio::time::timeout(limit, self.open(request)).await.unwrap_or(Err(Error::Timeout(limit)))
    }

    /// Sends a request on an idle connection or a new one, and reads the head of the answer.
    async fn open(&self, request: Request) -> Result<Streamed, Error> {
        while let Some(link) = self.take_idle() {
            let Some(mut link) = link.revive().await else { continue };
            match link.exchange(self.message(&request)?).await {
                Ok(response) => return Ok(Streamed::new(response, link)),
                // The server closed the idle connection at the same moment: nobody has seen the request, or it
                // does no harm to send it again.
                Err(error) if error.is_canceled() || request.may_repeat() => {}
                Err(error) => return Err(Error::Transport(error)),
            }
        }
        let mut link = Link::open(&self.config).await?;
        let response = link.exchange(self.message(&request)?).await.map_err(Error::Transport)?;
        Ok(Streamed::new(response, link))
    }

    fn take_idle(&self) -> Option<Link> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    async fn put_aside(&self, link: Link) {
        let Some(link) = link.rest().await else { return };
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE_LINKS {
            idle.push(link);
        }
    }

    fn message(&self, request: &Request) -> Result<http::Request<Full<Bytes>>, Error> {
        let Config { token, basic_auth, .. } = &self.config;
        let secret = |text: &str| {
            let mut value = HeaderValue::from_str(text).map_err(|error| Error::Form(error.into()))?;
            value.set_sensitive(true);
            Ok(value)
        };
        let mut message = http::Request::builder()
            .method(&request.method)
            .uri(self.target(request).as_ref())
            .header(HOST, &self.host)
            .body(Full::new(request.body.clone()))
            .map_err(Error::Form)?;
        let headers = message.headers_mut();
        for (name, value) in &request.headers {
            // There is one host.
            if name == HOST {
                headers.insert(name, value.clone());
            } else {
                headers.append(name, value.clone());
            }
        }
        if let Some(content_type) = request.content_type {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        }
        if !token.is_empty() {
            headers.insert(http::HeaderName::from_static("x-consul-token"), secret(token)?);
        }
        if !basic_auth.is_empty() {
            headers.insert(AUTHORIZATION, secret(&format!("Basic {}", STANDARD.encode(basic_auth)))?);
        }
        Ok(message)
    }

    /// The request's target with the parameters that every request of this client has.
    fn target<'a>(&self, request: &'a Request) -> Cow<'a, str> {
        let mut target = Cow::Borrowed(request.target.as_str());
        let mut add = |parameter: &str| {
            let mark = if target.contains('?') { '&' } else { '?' };
            let target = target.to_mut();
            target.push(mark);
            target.push_str(parameter);
        };
        if !self.config.datacenter.is_empty() && !request.names_datacenter {
            add(&format!("dc={}", request::encoded(&self.config.datacenter)));
        }
        match self.config.consistency {
            Consistency::Default => {}
            Consistency::Stale => add("stale"),
        }
        target
    }

    /// Sends a request and reads its answer as a value.
    pub async fn read<T: DeserializeOwned>(&self, request: Request) -> Result<Read<T>, Error> {
        let answer = self.send(request).await?.success()?;
        Ok(Read { value: answer.json()?, index: answer.index, content_hash: answer.content_hash })
    }

    /// Sends a request whose answer has nothing to say but that it worked.
    pub async fn tell(&self, request: Request) -> Result<(), Error> {
        self.send(request).await?.success().map(drop)
    }

    /// One service of the agent; waits until its hash differs from the one given.
    pub async fn agent_service(
        &self,
        id: &str,
        since: Since<'_>,
        wait: Duration,
    ) -> Result<Read<agent::Service<'static>>, Error> {
        self.read(Request::get("/v1/agent/service/").segment(id).since(since, wait)).await
    }

    /// All services of the agent.
    pub async fn agent_services(&self) -> Result<agent::Services<'static>, Error> {
        Ok(self.read(Request::get("/v1/agent/services")).await?.value)
    }

    /// The trusted roots, from the agent's cache.
    pub async fn connect_roots(
        &self,
        since: Since<'_>,
        wait: Duration,
    ) -> Result<Read<connect::Roots<'static>>, Error> {
        self.read(Request::get("/v1/agent/connect/ca/roots").since(since, wait)).await
    }

    /// A leaf certificate for a service, with its key.
    pub async fn connect_leaf(
        &self,
        service: &str,
        since: Since<'_>,
        wait: Duration,
    ) -> Result<Read<connect::Leaf<'static>>, Error> {
        self.read(Request::get("/v1/agent/connect/ca/leaf/").segment(service).since(since, wait)).await
    }

    /// The mesh instances of a service, in a datacenter or, if that is empty, in the agent's own.
    pub async fn health_connect(
        &self,
        service: &str,
        datacenter: &str,
        wanted: Wanted,
        since: Since<'_>,
        wait: Duration,
    ) -> Result<Read<Vec<health::Entry<'static>>>, Error> {
        let mut request = Request::get("/v1/health/connect/").segment(service);
        if !datacenter.is_empty() {
            request = request.query("dc", datacenter);
        }
        match wanted {
            Wanted::Any => {}
            Wanted::Passing => request = request.query("passing", "1"),
        }
        self.read(request.since(since, wait)).await
    }

    /// Executes a prepared query for mesh instances, by name or id. An agent that is not lictor sends no index that
    /// could be waited for, so none is given then, and an unknown query is an error. An agent that is lictor can be
    /// waited for even if there is no such query.
    pub async fn query_execute(
        &self,
        query: &str,
        datacenter: &str,
        since: Since<'_>,
        wait: Duration,
    ) -> Result<Read<Option<Ranked>>, Error> {
        let mut request = Request::get("/v1/query/").segment(query).path("/execute").query("connect", "true");
        if !datacenter.is_empty() {
            request = request.query("dc", datacenter);
        }
        let request = match since {
            Since::Index(index) if index > 0 => request.since(since, wait),
            // Says that we understand the index of the answer.
            _ => request.query("index", "0"),
        };
        let answer = self.send(request).await?;
        let (index, ranking) = match answer.header(header::RANKING) {
            Some(header::RANKING_NEAREST) => (answer.index, Some(Ranking::Nearest)),
            Some(_) => (answer.index, Some(Ranking::Random)),
            None => (None, None),
        };
        if answer.status == 404 && index.is_some() {
            return Ok(Read { value: None, index, content_hash: None });
        }
        let executed = answer.success()?.json()?;
        Ok(Read { value: Some(Ranked { executed, ranking }), index, content_hash: None })
    }

    /// The intentions that speak of a destination. An agent that is not lictor sends no index with them, so they
    /// cannot be watched there.
    pub async fn intentions_match(
        &self,
        destination: &str,
        since: Since<'_>,
        wait: Duration,
    ) -> Result<Read<Matched>, Error> {
        let request =
            Request::get("/v1/connect/intentions/match").query("by", "destination").query("name", destination);
        let answer = self.send(request.since(since, wait)).await?.success()?;
        let mut matches: intention::Matches<'static> = answer.json()?;
        let value = Matched {
            intentions: matches.remove(destination).flatten().unwrap_or_default(),
            otherwise: answer.header(header::DEFAULT_DECISION).and_then(Action::parse),
        };
        Ok(Read { value, index: answer.index, content_hash: None })
    }

    /// Asks whether the holder of a certificate may connect to a service.
    pub async fn authorize(
        &self,
        target: &str,
        client_uri: &str,
        client_serial: &str,
    ) -> Result<connect::Authorized<'static>, Error> {
        let question = connect::Authorize {
            target: target.into(),
            client_cert_uri: client_uri.into(),
            client_cert_serial: client_serial.into(),
        };
        Ok(self.read(Request::post("/v1/agent/connect/authorize").json(&question)?).await?.value)
    }

    /// The managed proxy with an id, as its neighbors need it.
    pub async fn neighbor(&self, id: &str) -> Result<connect::Neighbor<'static>, Error> {
        Ok(self.read(Request::get(NEIGHBOR).query("id", id).limit(NEIGHBOR_LIMIT)).await?.value)
    }

    /// The managed proxy that a process is.
    pub async fn neighbor_of_process(&self, pid: u32) -> Result<connect::Neighbor<'static>, Error> {
        Ok(self.read(Request::get(NEIGHBOR).query("pid", &pid.to_string()).limit(NEIGHBOR_LIMIT)).await?.value)
    }

    /// Registers a service at the agent; the definition is sent as it is.
    pub async fn register(&self, definition: &impl Serialize) -> Result<(), Error> {
        self.tell(Request::put("/v1/agent/service/register").json(definition)?).await
    }

    /// Removes a service from the agent.
    pub async fn deregister(&self, id: &str) -> Result<(), Error> {
        self.tell(Request::put("/v1/agent/service/deregister/").segment(id)).await
    }

    /// Reports a TTL check as passing.
    pub async fn pass(&self, check: &str, note: &str) -> Result<(), Error> {
        self.tell(Request::put("/v1/agent/check/pass/").segment(check).query("note", note)).await
    }
}

/// Which instances are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Whatever their health.
    Any,
    /// Those whose checks all pass.
    Passing,
}

/// An answer that is read as it arrives.
pub struct Streamed {
    /// Status code.
    pub status: u16,
    /// All headers.
    pub headers: HeaderMap,
    body: Incoming,
    link: Link,
}

impl Streamed {
    fn new(response: http::Response<Incoming>, link: Link) -> Streamed {
        let (head, body) = response.into_parts();
        Streamed { status: head.status.as_u16(), headers: head.headers, body, link }
    }

    /// The next piece of the body; nothing at its end. Nothing is lost when it is dropped before it is done.
    pub async fn piece(&mut self) -> Result<Option<Bytes>, Error> {
        self.link.piece(&mut self.body).await.map_err(Error::Transport)
    }
}

#[cfg(test)]
mod tests;
