//! Mesh to application: secure, decide, and only then dial the application.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use lictor_tls::{Next, Reuse, Session};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::app;
use crate::authorize::{Policy, Verdict, ask};
use crate::copy::{After, Way, carry};
use crate::metrics::count;
use crate::outcome::Inbound as Outcome;
use crate::settings::Public;
use crate::shared::Shared;
use crate::track::{Accepted, Direction};
use crate::worker::{Desk, Serve};

/// Peers that may be connected without having shown who they are; more are turned away, because each costs a
/// signature and none has proved anything.
const MAX_UNAUTHENTICATED: usize = 1024;

/// From so many on each has less time, so that whoever only connects and says nothing does not keep the others out.
const CROWD: usize = MAX_UNAUTHENTICATED / 4;

/// What each has in a crowd: enough for a first word that was lost once and sent again.
const CROWDED: Duration = Duration::from_secs(2);

/// Sessions of peers that may wait for their next connection; more are told that theirs was the last.
const MAX_WAITING: usize = 4096;

/// How long a session may wait for its next connection. Longer than the other end keeps it, so that it is not we who
/// end it while a connection is on its way.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a session that was told to end may still bring a connection: one that was on its way. The other end parts
/// when it hears of it, within [`crate::pool::SWEEP`]; the rest is for one that gets no time to.
pub(crate) const LAST_CALL: Duration = Duration::from_secs(2);

/// The public listener's work, for one service: one that the proxy stands for later has another of these.
pub(crate) struct Inbound {
    shared: Arc<Shared>,
    /// The service's.
    policy: Arc<Policy>,
    settings: ArcSwap<Public>,
}

impl Inbound {
    pub(crate) fn new(shared: Arc<Shared>, settings: Public) -> Inbound {
        Inbound { policy: shared.policies.current(), shared, settings: ArcSwap::from_pointee(settings) }
    }

    /// Later connections follow these settings.
    pub(crate) fn change(&self, settings: Public) {
        self.settings.store(Arc::new(settings));
    }

    /// How long it may be impossible to listen before the proxy gives up.
    pub(crate) fn bind_timeout(&self) -> Option<Duration> {
        self.settings.load().bind_timeout
    }

    /// Makes sure who is there. For a session of one connection that includes whether it may be made.
    async fn secure(&self, stream: TcpStream) -> Result<Session, Outcome> {
        let settings = self.settings.load();
        let (limit, reuse) = (settings.handshake_timeout, settings.reuse);
        drop(settings);
        let (_held, others) = Unauthenticated::enter(&self.shared.unauthenticated).ok_or(Outcome::Overloaded)?;
        let limit = if others < CROWD { limit } else { limit.min(CROWDED) };
        let secured = async {
            let begin = Instant::now();
            let mut session = self.shared.mesh.accept(stream, reuse).await.map_err(Outcome::Unsecured)?;
            self.shared.metrics.inbound.handshakes.add(begin.elapsed());
            self.shared.metrics.secured(&session);
            if !session.carries_many() {
                session = self.authorize(session).await?;
            }
            session.flush().await.map_err(|error| Outcome::Unsecured(lictor_tls::Error::Io(error)))?;
            Ok(session)
        };
        timeout(limit, secured).await.unwrap_or(Err(Outcome::Slow(limit)))
    }

    /// Decides about one connection; whoever may not make it is turned away.
    async fn authorize(&self, session: Session) -> Result<Session, Outcome> {
        let reason = match self.policy.decide(session.peer()) {
            Verdict::Allowed => None,
            Verdict::Denied(reason) => Some(reason),
            Verdict::Unknown => {
                // A session's first handshake has this limit too, as a whole.
                let limit = self.settings.load().handshake_timeout;
                let answer = ask(&self.shared.questions, session.peer(), limit).await;
                // The service may have been another one when the agent was asked.
                self.policy.over().cloned().or((!answer.allowed).then_some(answer.reason))
            }
        };
        match reason {
            None => {
                count(&self.shared.metrics.allowed);
                Ok(session)
            }
            Some(reason) => {
                let uri = session.peer().uri.clone();
                session.refuse().await;
                Err(Outcome::Refused { uri, reason })
            }
        }
    }

    /// Dials the application and lets the connection be carried.
    async fn carry(self: Arc<Self>, desk: Arc<Desk>, session: Session, from: SocketAddr) -> Result<(), Outcome> {
        let settings = self.settings.load_full();
        let app = match app::dial(&settings).await {
            Ok(app) => app,
            Err(error) => {
                session.close().await;
                return Err(Outcome::NoApp { app: settings.app.clone(), error });
            }
        };
        let way = Way::Inbound { client: Arc::clone(session.peer()), policy: Arc::clone(&self.policy) };
        let after = session.carries_many().then(|| After::Wait { inbound: Arc::clone(&self), from });
        carry(&desk, &self.shared, session, app, &self.shared.metrics.inbound, way, after);
        Ok(())
    }

    /// Waits for the next connection of a session and begins to carry it. Each is authorised on its own. What was
    /// carried last counts until the session waits, and the next one from when it does no more: in between the
    /// process could end.
    pub(crate) fn wait(
        self: Arc<Self>,
        desk: Arc<Desk>,
        mut session: Session,
        from: SocketAddr,
        last: Accepted,
    ) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            match self.opens(&mut session, last).await {
                // In a box of its own: most of a session's life is waiting, for which there need be no room for this.
                Some(next) => Box::pin(self.begin(desk, session, from, next)).await,
                None => session.close_now(),
            }
        })
    }

    /// Begins to carry the connection that a session's peer has opened.
    async fn begin(self: Arc<Self>, desk: Arc<Desk>, session: Session, from: SocketAddr, _accepted: Accepted) {
        if session.is_reused() {
            self.shared.metrics.secured(&session);
        }
        let shared = Arc::clone(&self.shared);
        let carried = match self.recheck(session).await {
            Ok(session) => self.carry(desk, session, from).await,
            Err(outcome) => Err(outcome),
        };
        if let Err(outcome) = carried {
            shared.journal.inbound(&shared.metrics, from, &outcome);
        }
    }

    /// The connection that the peer opens before the session's time is over, if it does.
    async fn opens(&self, session: &mut Session, last: Accepted) -> Option<Accepted> {
        let waiting = Waiting::enter(&self.shared.waiting);
        let mut retirement = self.shared.retirement.subscribe();
        // The first connection of a session counts since it was accepted.
        let first = (!session.is_reused()).then_some(last);
        let patience = if first.is_some() { self.settings.load().handshake_timeout } else { PATIENCE };
        // Also when credentials have changed while it carried a connection, and was not there to hear of it.
        let is_over = || !self.shared.mesh.credentials().is_some_and(|current| session.is_of(&current));
        let opened = if first.is_none() && (waiting.is_none() || *retirement.borrow_and_update() || is_over()) {
            last_call(session).await
        } else {
            tokio::select! {
                next = timeout(patience, session.next()) => {
                    if let Ok(Err(broken)) = &next {
                        tracing::debug!("session of {} broke between connections: {broken}", session.peer().uri);
                    }
                    matches!(next, Ok(Ok(Next::Opened)))
                }
                _ = retirement.changed() => last_call(session).await,
            }
        };
        opened.then(|| first.unwrap_or_else(|| self.shared.tracker.accepted(Direction::Inbound)))
    }

    /// What an earlier connection of the session proved may not hold any more.
    async fn recheck(&self, mut session: Session) -> Result<Session, Outcome> {
        let Some(credentials) = self.shared.mesh.credentials() else {
            session.refuse().await;
            return Err(Outcome::Unsecured(lictor_tls::Error::NoCredentials));
        };
        if !session.is_vouched_for(&credentials) {
            let uri = session.peer().uri.clone();
            session.refuse().await;
            return Err(Outcome::Refused { uri, reason: "its certificate is not trusted any more".into() });
        }
        if !session.is_of(&credentials) || self.settings.load().reuse != Reuse::Connections {
            session.retire_behind_next();
        }
        self.authorize(session).await
    }
}

/// Tells the peer that the session ends; whether a connection was on its way nevertheless.
async fn last_call(session: &mut Session) -> bool {
    let heard = async { session.retire().await.is_ok() && matches!(session.next().await, Ok(Next::Opened)) };
    timeout(LAST_CALL, heard).await.unwrap_or(false)
}

impl Serve for Inbound {
    fn serve(
        self: Arc<Self>,
        desk: Arc<Desk>,
        stream: TcpStream,
        from: SocketAddr,
    ) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let accepted = self.shared.tracker.accepted(Direction::Inbound);
        Box::pin(async move {
            let shared = Arc::clone(&self.shared);
            let done = match self.secure(stream).await {
                Ok(session) if session.carries_many() => {
                    self.wait(desk, session, from, accepted).await;
                    Ok(())
                }
                Ok(session) => {
                    let _accepted = accepted;
                    self.carry(desk, session, from).await
                }
                Err(outcome) => Err(outcome),
            };
            if let Err(outcome) = done {
                shared.journal.inbound(&shared.metrics, from, &outcome);
            }
        })
    }
}

/// One of the sessions that wait for their next connection.
struct Waiting<'a>(&'a AtomicUsize);

impl Waiting<'_> {
    fn enter(count: &AtomicUsize) -> Option<Waiting<'_>> {
        let held = Waiting(count);
        (count.fetch_add(1, Ordering::Relaxed) < MAX_WAITING).then_some(held)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One of the peers that have not shown who they are.
struct Unauthenticated<'a>(&'a AtomicUsize);

impl Unauthenticated<'_> {
    /// With how many there are beside this one.
    fn enter(count: &AtomicUsize) -> Option<(Unauthenticated<'_>, usize)> {
        let held = Unauthenticated(count);
        let others = count.fetch_add(1, Ordering::Relaxed);
        (others < MAX_UNAUTHENTICATED).then_some((held, others))
    }
}

impl Drop for Unauthenticated<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
