//! Asking etcd: one member at a time, the next one as soon as that fails, and one line in the log when none answers.

use std::future::Future;
use std::time::Duration;

use http::uri::PathAndQuery;
use lictor_task::Backoff;
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tonic::client::Grpc;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, ConnectError, Request, Status, Streaming};
use tonic_prost::ProstCodec;
use zeroize::Zeroizing;

use super::proto::{AuthenticateRequest, AuthenticateResponse};
use super::settings::{EtcdSettings, chain};
use crate::Error;

/// How long one member may take for an ordinary answer before the next is asked.
pub(crate) const ANSWER: Duration = Duration::from_millis(2500);

/// How long a question is asked again while no member answers it. An election of etcd fits in with its usual settings.
pub(crate) const PATIENCE: Duration = Duration::from_secs(8);

/// First and longest pause between two tries.
const RETRY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// The members of one etcd.
pub(crate) struct Client {
    members: Vec<Member>,
    /// Counts the changes of member; modulo their number it is the one to ask.
    turn: watch::Sender<usize>,
    user: Option<(String, Zeroizing<String>)>,
    token: tokio::sync::Mutex<Option<MetadataValue<Ascii>>>,
    health: Mutex<Health>,
}

struct Member {
    name: String,
    channel: Channel,
}

/// What the log has been told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Health {
    /// It answers.
    Up,
    /// So many members failed in a row.
    Failing(usize),
    /// None answers, which was said.
    Down,
}

/// Why one try brought no answer.
#[derive(Debug)]
pub(crate) enum Fault {
    /// It did not reach etcd.
    Unsent(String),
    /// It may have reached etcd, and may still be carried out.
    Uncertain(String),
    /// Etcd says no.
    Refused(Status),
}

impl Client {
    pub(crate) fn new(settings: &EtcdSettings) -> Result<Client, Error> {
        let members: Vec<Member> = settings
            .endpoints()?
            .into_iter()
            .map(|(name, endpoint)| Member { name, channel: endpoint.connect_lazy() })
            .collect();
        // Each server begins elsewhere, so that they spread.
        let first = fastrand::usize(..members.len());
        Ok(Client {
            members,
            turn: watch::Sender::new(first),
            user: settings.user.clone(),
            token: tokio::sync::Mutex::new(None),
            health: Mutex::new(Health::Up),
        })
    }

    /// Which member is asked; changes when it fails.
    pub(crate) fn turn(&self) -> watch::Receiver<usize> {
        self.turn.subscribe()
    }

    fn member(&self, turn: usize) -> &Member {
        &self.members[turn % self.members.len()]
    }

    /// A question that may be asked twice: asked again until a member answers or patience ends.
    pub(crate) async fn call<Q, A>(
        &self,
        operation: &'static str,
        path: &'static str,
        question: &Q,
        limit: Duration,
    ) -> Result<A, Error>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        self.repeat(|| self.attempt(path, question, limit)).await.map_err(|fault| self.error(operation, fault))
    }

    /// Tries until there is an answer, a refusal, or no patience left.
    pub(crate) async fn repeat<T, F: Future<Output = Result<T, Fault>>>(
        &self,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, Fault> {
        let end = Instant::now() + PATIENCE;
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        loop {
            match attempt().await {
                Err(Fault::Unsent(_) | Fault::Uncertain(_)) if Instant::now() < end => {
                    tokio::time::sleep(backoff.next_delay()).await;
                }
                decided => return decided,
            }
        }
    }

    /// One try with the member whose turn it is.
    pub(crate) async fn attempt<Q, A>(&self, path: &'static str, question: &Q, limit: Duration) -> Result<A, Fault>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        self.with_member(limit, |mut grpc, token| async move {
            let request = authorized(Request::new(question.clone()), token);
            let codec = ProstCodec::<Q, A>::default();
            ready(&mut grpc).await?;
            Ok(grpc.unary(request, PathAndQuery::from_static(path), codec).await?.into_inner())
        })
        .await
    }

    /// One try to open a stream of answers to one question. The question's side stays open.
    pub(crate) async fn stream<Q, A>(&self, path: &'static str, question: Q) -> Result<Streaming<A>, Fault>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        self.with_member(ANSWER, |mut grpc, token| {
            let questions =
                tokio_stream::StreamExt::chain(tokio_stream::once(question.clone()), tokio_stream::pending());
            async move {
                let mut request = authorized(Request::new(questions), token);
                // A member that lost the others ends the stream instead of being silent.
                request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
                let codec = ProstCodec::<Q, A>::default();
                ready(&mut grpc).await?;
                Ok(grpc.streaming(request, PathAndQuery::from_static(path), codec).await?.into_inner())
            }
        })
        .await
    }

    /// Runs one try and draws the conclusions: who is asked next, what the log says.
    async fn with_member<T, F>(
        &self,
        limit: Duration,
        work: impl Fn(Grpc<Channel>, Option<MetadataValue<Ascii>>) -> F,
    ) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let mut turn = self.turn.subscribe();
        let seen = *turn.borrow_and_update();
        let member = self.member(seen);
        let grpc = Grpc::new(member.channel.clone())
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX);
        let mut fresh = false;
        let fault = loop {
            let token = match timeout(ANSWER, self.token(&grpc)).await {
                Ok(Ok(token)) => token,
                Ok(Err(status)) => break judge(status),
                Err(_) => break Fault::Unsent(format!("{} does not answer", member.name)),
            };
            let outcome = tokio::select! {
                outcome = timeout(limit, work(grpc.clone(), token.clone())) => outcome,
                _ = turn.changed() => return Err(Fault::Uncertain(format!("{} failed", member.name))),
            };
            match outcome {
                Ok(Ok(answer)) => {
                    self.answered(member);
                    return Ok(answer);
                }
                Ok(Err(status)) if is_token_stale(&status) && token.is_some() && !fresh => {
                    fresh = true;
                    let mut kept = self.token.lock().await;
                    if *kept == token {
                        *kept = None;
                    }
                }
                Ok(Err(status)) => break judge(status),
                Err(_) => break Fault::Uncertain(format!("{} does not answer", member.name)),
            }
        };
        match &fault {
            Fault::Unsent(detail) | Fault::Uncertain(detail) => self.failed(seen, detail),
            // It lives and says no.
            Fault::Refused(_) => self.answered(member),
        }
        Err(fault)
    }

    /// The token that names our user, asked for once and again when etcd has forgotten it.
    async fn token(&self, grpc: &Grpc<Channel>) -> Result<Option<MetadataValue<Ascii>>, Status> {
        let Some((name, password)) = &self.user else { return Ok(None) };
        let mut kept = self.token.lock().await;
        if kept.is_none() {
            let question = AuthenticateRequest { name: name.clone(), password: password.to_string() };
            let path = PathAndQuery::from_static("/etcdserverpb.Auth/Authenticate");
            let codec = ProstCodec::<AuthenticateRequest, AuthenticateResponse>::default();
            let mut grpc = grpc.clone();
            ready(&mut grpc).await?;
            let answer = grpc.unary(Request::new(question), path, codec).await?.into_inner();
            let token = answer.token.parse().map_err(|_| Status::internal("the token is no header value"))?;
            *kept = Some(token);
        }
        Ok(kept.clone())
    }

    fn answered(&self, member: &Member) {
        let before = std::mem::replace(&mut *self.health.lock(), Health::Up);
        if before == Health::Down {
            tracing::info!("store: etcd answers again: {}", member.name);
        }
    }

    /// Gives the turn to the next member; of many that see the same failure only the first does.
    pub(crate) fn failed(&self, seen: usize, detail: &str) {
        let moved = self.turn.send_if_modified(|turn| {
            let first = *turn == seen;
            *turn += usize::from(first);
            first
        });
        if !moved {
            return;
        }
        let mut health = self.health.lock();
        let failures = match *health {
            Health::Up => 1,
            Health::Failing(before) => before + 1,
            Health::Down => return,
        };
        if failures >= self.members.len() {
            *health = Health::Down;
            tracing::error!("store: no etcd answers at {}: {detail}; asking on until one does", self.names());
        } else {
            *health = Health::Failing(failures);
            tracing::warn!(
                "store: etcd {}: {detail}; going on with {}",
                self.member(seen).name,
                self.member(seen + 1).name
            );
        }
    }

    fn names(&self) -> String {
        self.members.iter().map(|member| member.name.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// A fault as an error of the store.
    pub(crate) fn error(&self, operation: &'static str, fault: Fault) -> Error {
        match fault {
            Fault::Unsent(detail) | Fault::Uncertain(detail) => Error::Unreachable { endpoints: self.names(), detail },
            Fault::Refused(status) => Error::Refused { operation, detail: remedy(&status) },
        }
    }
}

/// Waits until the connection takes a request.
async fn ready(grpc: &mut Grpc<Channel>) -> Result<(), Status> {
    grpc.ready().await.map_err(|error| Status::from_error(Box::new(error)))
}

fn authorized<T>(mut request: Request<T>, token: Option<MetadataValue<Ascii>>) -> Request<T> {
    if let Some(mut token) = token {
        token.set_sensitive(true);
        request.metadata_mut().insert("token", token);
    }
    request
}

fn is_token_stale(status: &Status) -> bool {
    status.code() == Code::Unauthenticated
        || status.message().contains("invalid auth token")
        || status.message().contains("revision of auth store is old")
}

/// Whether a lease that the request names is not alive.
pub(crate) fn is_lease_gone(status: &Status) -> bool {
    status.code() == Code::NotFound && status.message().contains("lease not found")
}

/// Whether the history that the request is about is gone.
pub(crate) fn is_compacted(status: &Status) -> bool {
    status.code() == Code::OutOfRange && status.message().contains("compacted")
}

/// What a failed request means: whether it can have happened, and whether asking again helps.
fn judge(status: Status) -> Fault {
    let detail = match std::error::Error::source(&status) {
        Some(cause) => chain(cause),
        None => status.message().to_owned(),
    };
    if is_unconnected(&status) || status.message().contains("too many requests") {
        return Fault::Unsent(detail);
    }
    match status.code() {
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::Cancelled
        | Code::Unknown
        | Code::Internal
        | Code::Aborted => Fault::Uncertain(detail),
        _ => Fault::Refused(status),
    }
}

fn is_unconnected(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Etcd's own words, and what an operator can do where that is not plain.
fn remedy(status: &Status) -> String {
    let said = status.message();
    if said.contains("database space exceeded") {
        format!("{said}: compact and defragment it, then disarm its alarm (etcdctl alarm disarm)")
    } else if said.contains("authentication failed") {
        format!("{said}: check store.username and the password")
    } else if said.contains("authentication is not enabled") {
        format!("{said}: enable it (etcdctl auth enable), or remove store.username")
    } else if said.contains("user name is empty") {
        format!("{said}: etcd has users, set store.username and the password")
    } else if status.code() == Code::PermissionDenied {
        format!("{said}: the user needs readwrite on the store's prefix")
    } else {
        said.to_owned()
    }
}
