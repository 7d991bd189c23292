//! The receiving side: who hands a connection over is known by its process, decided about like any peer, and its
//! connection is joined with one to our application.

use std::future::{Future, poll_fn};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use lictor_model::identity::ServiceIdentity;
use lictor_task::descriptors;
use lictor_tls::Peer;
use lictor_tls::pump::{Broken, Side};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{sleep, timeout};

use super::join::Joined;
use super::kernel::{self, Process};
use super::wire::{ACCEPTED, DENIED, ELSEWHERE, LONGEST, READY, Request, Standing, Told};
use crate::app;
use crate::authorize::{Policy, Verdict};
use crate::bulk::{Pace, Seat};
use crate::metrics::count;
use crate::outcome::{Carried, Inbound as Outcome, Traffic};
use crate::shared::Shared;
use crate::track::{Direction, Place};
use crate::worker::{Desk, Posts};

/// How long a lane may wait for its next connection. Longer than the other end keeps it.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often the other end is told what was moved, while something is.
const REPORT: Duration = Duration::from_secs(1);
/// How long accepting rests when the system has no more file descriptors or memory.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// Lanes that may wait for their next connection, for each worker: each costs a descriptor. One more is closed, and who has
/// opened it uses TLS.
pub(crate) const MOST_WAITING: usize = 128;

/// A lane of a process that our agent has vouched for.
pub(crate) struct Arrival {
    stream: StdUnixStream,
    process: Arc<Process>,
    waiting: OwnedSemaphorePermit,
}

/// Where lanes come from.
pub(crate) struct Listener {
    socket: UnixListener,
    /// Descriptors are refused until a lane is allowed to bring them.
    refuses: bool,
}

/// Opens the socket: its name, and where it listens. The name is nobody's in particular; whoever connects asks the
/// kernel who listens.
pub(crate) fn listen() -> io::Result<(String, Listener)> {
    let name = format!("lictor-direct/{:032x}", fastrand::u128(..));
    let (socket, refuses) = kernel::listen(&name)?;
    Ok((name, Listener { socket, refuses }))
}

/// Accepts lanes until we retire. A process that the agent has not vouched for is turned away at once.
pub(crate) async fn accept(listener: Listener, shared: Arc<Shared>, mut posts: Posts) {
    let mut retirement = shared.retirement.subscribe();
    loop {
        let accepted = tokio::select! {
            // An error means that there is nobody left to serve.
            _ = retirement.wait_for(|retired| *retired) => return,
            accepted = listener.socket.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let Some(neighbors) = &shared.neighbors else { return };
                let known = Process::of_peer(&stream).ok().and_then(|process| neighbors.client(Arc::new(process)));
                let welcome = known.and_then(|(_, process)| Some((process, room(&shared)?)));
                let Ok(stream) = stream.into_std() else { continue };
                match welcome {
                    Some((process, waiting)) if !listener.refuses || allow(&stream) => {
                        posts.give(Arrival { stream, process, waiting });
                    }
                    None if listener.refuses => {}
                    // It may have brought something that takes its time to be closed, which must not be ours.
                    _ => descriptors::close_stream(stream),
                }
            }
            Err(error) => {
                tracing::warn!("cannot accept from other proxies of this agent: {error}");
                sleep(EXHAUSTED).await;
            }
        }
    }
}

/// Room for one more lane that waits, if there is any.
fn room(shared: &Shared) -> Option<OwnedSemaphorePermit> {
    Arc::clone(&shared.lanes).try_acquire_owned().ok()
}

/// Lets a lane bring descriptors, and says so.
fn allow(mut lane: &StdUnixStream) -> bool {
    descriptors::allow(lane).unwrap_or(false) && matches!(lane.write(&[READY]), Ok(1))
}

/// One lane at a worker.
struct Lane {
    stream: UnixStream,
    /// Who has opened it. It counts for as long as this process lives: the process can have left it to another one.
    process: Arc<Process>,
}

impl Drop for Lane {
    fn drop(&mut self) {
        // Descriptors may wait in it. Ours is not the last reference then, so that nothing is closed here.
        if let Ok(stream) = self.stream.as_fd().try_clone_to_owned() {
            descriptors::close_stream(stream.into());
        }
    }
}

/// What is done next with a lane.
enum Then {
    Wait(Lane),
    /// The connection has the lane, or it has ended.
    Nothing,
}

/// Serves a lane for as long as connections come.
pub(crate) async fn serve(shared: Arc<Shared>, desk: Arc<Desk>, arrival: Arrival) {
    let Arrival { stream, process, waiting } = arrival;
    if let Ok(stream) = UnixStream::from_std(stream) {
        wait(shared, desk, Lane { stream, process }, Some(waiting)).await;
    }
}

/// Waits for connections. One that is carried has a task of its own, which goes on waiting when it has ended, if there is
/// room for another lane that does.
fn wait(
    shared: Arc<Shared>,
    desk: Arc<Desk>,
    mut lane: Lane,
    mut waiting: Option<OwnedSemaphorePermit>,
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move {
        let mut retirement = shared.retirement.subscribe();
        loop {
            let Some(waits) = waiting.take().or_else(|| room(&shared)) else { return };
            let offered = tokio::select! {
                offered = timeout(PATIENCE, offered(&lane.stream)) => offered,
                _ = retirement.wait_for(|retired| *retired) => return,
            };
            drop(waits);
            let Ok(Ok(Some((request, stream)))) = offered else { return };
            match take(&shared, &desk, lane, &request, stream).await {
                Then::Wait(again) => lane = again,
                Then::Nothing => return,
            }
        }
    })
}

/// The next offer; `None` when the other end has closed the lane.
async fn offered(lane: &UnixStream) -> io::Result<Option<(Vec<u8>, TcpStream)>> {
    let mut buffer = [0; LONGEST];
    loop {
        lane.readable().await?;
        match lane.try_io(Interest::READABLE, || kernel::receive(lane, &mut buffer)) {
            Ok((0, _)) => return Ok(None),
            Ok((bytes, Some(descriptor))) => {
                return Ok(Some((buffer[..bytes].to_vec(), kernel::connection(descriptor)?)));
            }
            Ok((_, None)) => return Err(io::ErrorKind::InvalidData.into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// One byte always fits: the other end reads each before it sends the next request.
fn say(lane: &UnixStream, word: u8) -> bool {
    matches!(lane.try_write(&[word]), Ok(1))
}

/// Decides about one connection and begins to carry it.
async fn take(shared: &Arc<Shared>, desk: &Arc<Desk>, lane: Lane, request: &[u8], stream: TcpStream) -> Then {
    let (Some(request), Some(neighbors)) = (Request::decode(request), &shared.neighbors) else { return Then::Nothing };
    // Asked again for each connection: who opened the lane may have ended since, or be another service's proxy.
    let Some((service, _)) = neighbors.client(Arc::clone(&lane.process)) else { return Then::Nothing };
    if !service.same(request.source) {
        // The agent's word about it is not ours yet.
        neighbors.doubt(lane.process.pid());
        return Then::Nothing;
    }
    let accepted = shared.tracker.accepted(Direction::Inbound);
    let answered = |lane: Lane, word| if say(&lane.stream, word) { Then::Wait(lane) } else { Then::Nothing };
    // First of all: the rest may be of a service that we stand for since, and then this one denies everybody.
    let policy = shared.policies.current();
    let credentials = shared.mesh.credentials().filter(|own| super::is_valid(own));
    let (Some(credentials), Some(public)) = (credentials, shared.public.load_full()) else {
        return answered(lane, ELSEWHERE);
    };
    let own = credentials.leaf().who();
    if !own.identity.service.same(request.destination) {
        return answered(lane, ELSEWHERE);
    }
    let identity = ServiceIdentity { service, ..own.identity.clone() };
    let client = Arc::new(Peer { uri: identity.to_string(), identity, serial: String::new(), ..own.clone() });
    let from = match stream.peer_addr() {
        Ok(from) => from,
        // Its application is gone already.
        Err(_) => return answered(lane, ELSEWHERE),
    };
    match policy.decide(&client) {
        // The agent must be asked about its certificate, so it has to show one.
        Verdict::Unknown => return answered(lane, ELSEWHERE),
        Verdict::Denied(reason) => {
            let outcome = Outcome::Refused { uri: client.uri.clone(), reason };
            shared.journal.inbound(&shared.metrics, from, &outcome);
            return answered(lane, DENIED);
        }
        Verdict::Allowed => count(&shared.metrics.allowed),
    }
    // If this word does not reach the other end, the connection is the other end's and must not be touched.
    if !say(&lane.stream, ACCEPTED) {
        return Then::Nothing;
    }
    count(&shared.metrics.direct);
    match app::dial(&public).await {
        Ok(app) => {
            carry(shared, desk, lane, (stream, app), client, policy);
            drop(accepted);
            Then::Nothing
        }
        Err(error) => {
            shared.journal.inbound(&shared.metrics, from, &Outcome::NoApp { app: public.app.clone(), error });
            kernel::close_at_once(&stream);
            drop(stream);
            let told = Told { standing: Standing::Finished, outward: 0, inward: 0 };
            if lane.stream.try_write(&told.encode()).is_ok() { Then::Wait(lane) } else { Then::Nothing }
        }
    }
}

fn carry(
    shared: &Arc<Shared>,
    desk: &Arc<Desk>,
    lane: Lane,
    (peer, app): (TcpStream, TcpStream),
    client: Arc<Peer>,
    policy: Arc<Policy>,
) {
    shared.opened(&shared.metrics.inbound);
    let place = shared.tracker.enter(Some((Arc::clone(&client), policy)));
    let id = place.id();
    let started = Instant::now();
    let passage = Box::new(Passage {
        lane: Some(lane),
        joined: Joined::new(peer, app),
        outward: AtomicU64::new(0),
        inward: AtomicU64::new(0),
        told: (0, 0),
        place,
        steps: 0,
        client,
        shared: Arc::clone(shared),
        started,
        end: None,
        desk: Arc::clone(desk),
        pace: Pace::new(started),
        seat: None,
    });
    passage.go_on(&desk.home);
    // Intentions may have changed between the decision and the entry in the table.
    shared.tracker.cut_if_denied(id);
}

/// A connection being carried. Its outcome is written, and told to the other end, when it is dropped, however that comes
/// about.
struct Passage {
    lane: Option<Lane>,
    joined: Joined,
    /// From our application to the peer.
    outward: AtomicU64,
    /// From the peer to our application.
    inward: AtomicU64,
    /// What the other end knows of both.
    told: (u64, u64),
    place: Place,
    /// Tasks that have carried it, with the present one.
    steps: u64,
    client: Arc<Peer>,
    shared: Arc<Shared>,
    started: Instant,
    end: Option<Carried>,
    desk: Arc<Desk>,
    pace: Pace,
    /// Of one that is carried beside its worker.
    seat: Option<Seat>,
}

impl Passage {
    /// Lets a task carry the connection on an event loop that watches its sockets.
    fn go_on(mut self: Box<Self>, runtime: &Handle) {
        self.steps += 1;
        let (step, id, shared, desk) = (self.steps, self.place.id(), Arc::clone(&self.shared), Arc::clone(&self.desk));
        // A cut that comes before the task is known reaches it then.
        let task = desk.scope.spawn_on(runtime, "connection", self.run());
        shared.tracker.carried_by(id, step, task.abort_handle());
    }

    /// Lets the bulk thread carry the connection, or its worker again, if they can.
    fn change(mut self: Box<Self>) -> Option<Box<Self>> {
        let seat = match &self.seat {
            Some(_) => None,
            None => match self.desk.bulk.seat(&self.shared.metrics) {
                Ok(seat) => Some(seat),
                Err(error) => {
                    tracing::debug!("no thread for what moves much: {error}");
                    return Some(self);
                }
            },
        };
        let runtime = seat.as_ref().map_or(&self.desk.home, |seat| &seat.runtime).clone();
        let settled = {
            let _entered = runtime.enter();
            self.joined.settle_here()
        };
        if let Err(error) = settled {
            tracing::debug!("a connection of {} stays where it is: {error}", self.client.uri);
            return Some(self);
        }
        self.seat = seat;
        self.go_on(&runtime);
        None
    }

    async fn run(mut self: Box<Self>) {
        let outcome = loop {
            if let Some(outcome) = self.carried().await {
                break outcome;
            }
            self = match self.change() {
                Some(passage) => passage,
                None => return,
            };
        };
        let (standing, end) = match outcome {
            Ok(()) => (Standing::Finished, Carried::Finished),
            Err(broken) => (Standing::Broken, Carried::Broken(broken)),
        };
        self.end = Some(end);
        let lane = self.lane.take().filter(|lane| self.tell(lane, standing));
        let (shared, desk, away) = (Arc::clone(&self.shared), Arc::clone(&self.desk), self.seat.is_some());
        // The connection is over, whatever becomes of its lane.
        drop(self);
        match lane {
            // The thread for what moves much ends when nothing does.
            Some(lane) if away => {
                let waiting = wait(shared, Arc::clone(&desk), lane, None);
                drop(desk.scope.spawn_on(&desk.home, "connection", waiting));
            }
            Some(lane) => wait(shared, desk, lane, None).await,
            None => {}
        }
    }

    /// Carries until the end, or until it should be carried elsewhere (`None`).
    async fn carried(&mut self) -> Option<Result<(), Broken>> {
        let Passage { lane, joined, outward, inward, told, shared, pace, seat, .. } = self;
        let (outward, inward) = (&*outward, &*inward);
        let Some(lane) = lane else { return Some(Ok(())) };
        let (meter, away) = (&shared.metrics.inbound.meter, seat.is_some());
        let all = || moved(outward, inward);
        let note = |side, bytes| {
            let (own, all) = match side {
                Side::App => (outward, &meter.outward),
                Side::Peer => (inward, &meter.inward),
            };
            own.fetch_add(bytes, Ordering::Relaxed);
            all.fetch_add(bytes, Ordering::Relaxed);
        };
        let stays = || {
            let (outward, inward) = all();
            let moved = outward.saturating_add(inward);
            if away { pace.is_bulk(moved) } else { pace.is_ordinary(moved) }
        };
        let mut joined = pin!(joined.run_while(note, stays));
        let mut gone = pin!(ended(&lane.stream));
        let mut due = None;
        poll_fn(|context| {
            if let Poll::Ready(outcome) = joined.as_mut().poll(context) {
                return Poll::Ready(outcome);
            }
            if gone.as_mut().poll(context).is_ready() {
                let error = io::Error::new(io::ErrorKind::ConnectionAborted, "its proxy has ended it");
                return Poll::Ready(Some(Err(Broken::Io { side: Side::Peer, error })));
            }
            // Nothing is told, and no clock runs, while nothing moves.
            while *told != all() {
                let timer = due.get_or_insert_with(|| Box::pin(sleep(REPORT)));
                if timer.as_mut().poll(context).is_pending() {
                    break;
                }
                due = None;
                *told = all();
                tell(lane, *told, Standing::Open);
            }
            Poll::Pending
        })
        .await
    }

    fn tell(&self, lane: &Lane, standing: Standing) -> bool {
        tell(lane, moved(&self.outward, &self.inward), standing)
    }
}

fn moved(outward: &AtomicU64, inward: &AtomicU64) -> (u64, u64) {
    (outward.load(Ordering::Relaxed), inward.load(Ordering::Relaxed))
}

/// Tells the other end how the connection stands; what is outward for it is inward for us. Whether it was told: an other
/// end that does not listen must not be told half of something, so its lane is not used again.
fn tell(lane: &Lane, (outward, inward): (u64, u64), standing: Standing) -> bool {
    let told = Told { standing, outward: inward, inward: outward }.encode();
    matches!(lane.stream.try_write(&told), Ok(bytes) if bytes == told.len())
}

/// Waits until the other end closes the lane; all it may do while a connection is carried.
async fn ended(lane: &UnixStream) {
    while lane.readable().await.is_ok() {
        match lane.try_read(&mut [0]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            _ => return,
        }
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        let metrics = &self.shared.metrics;
        self.shared.closed(&metrics.inbound);
        let end = self.end.take().unwrap_or_else(|| self.place.end());
        if matches!(end, Carried::Finished) {
            let [peer, _] = self.joined.streams();
            kernel::close_at_once(peer);
        } else {
            // What ends in the middle must not look like a regular end.
            for stream in self.joined.streams() {
                // One that is dead already cannot be set, and needs not be.
                let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
            }
        }
        if let Some(lane) = &self.lane {
            self.tell(lane, Standing::Cut);
        }
        let (outward, inward) = moved(&self.outward, &self.inward);
        let traffic = Traffic { outward, inward, duration: self.started.elapsed() };
        let name = || format!("connection of {} without TLS", self.client.uri);
        self.shared.journal.carried(metrics, name, &end, traffic);
    }
}
