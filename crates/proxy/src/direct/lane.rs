//! The dialling side: a connection of our application is handed over, and followed until it has ended.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use lictor_tls::pump::{Broken, Side};
use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;

use super::kernel;
use super::neighbors::Neighbor;
use super::wire::{ACCEPTED, DENIED, ELSEWHERE, READY, Request, Standing, TOLD, Told};
use crate::balance::{Engaged, Instance};
use crate::metrics::{Flow, count};
use crate::outcome::{Carried, Traffic};
use crate::shared::Shared;
use crate::track::Place;
use crate::worker::Desk;

/// Lanes that one worker keeps for one neighbor.
const MOST_OF_NEIGHBOR: usize = 32;
/// How long a lane waits. Shorter than the other end's patience.
const IDLE: Duration = Duration::from_secs(20);
/// How often waiting lanes are looked after.
const SWEEP: Duration = Duration::from_secs(1);

/// The lanes of one worker that wait for the next connection to hand over, by the process at their other end.
#[derive(Default)]
pub(crate) struct Lanes {
    waiting: Mutex<HashMap<u32, Vec<(UnixStream, Instant)>>>,
    filled: Notify,
}

impl Lanes {
    fn take(&self, pid: u32) -> Option<UnixStream> {
        let mut waiting = self.waiting.lock();
        let of_neighbor = waiting.get_mut(&pid)?;
        while let Some((lane, _)) = of_neighbor.pop() {
            if is_quiet(&lane) {
                return Some(lane);
            }
        }
        None
    }

    fn put(&self, pid: u32, lane: UnixStream) {
        let mut waiting = self.waiting.lock();
        let of_neighbor = waiting.entry(pid).or_default();
        if of_neighbor.len() < MOST_OF_NEIGHBOR {
            of_neighbor.push((lane, Instant::now()));
        }
        drop(waiting);
        self.filled.notify_one();
    }

    /// Looks after the lanes for ever; rests while there are none.
    pub(crate) async fn tend(&self) {
        loop {
            if self.waiting.lock().is_empty() {
                self.filled.notified().await;
            }
            tokio::time::sleep(SWEEP).await;
            self.sweep();
        }
    }

    /// Closes lanes that waited too long or whose other end has closed.
    fn sweep(&self) {
        let now = Instant::now();
        self.waiting.lock().retain(|_, lanes| {
            lanes.retain(|(lane, since)| now.saturating_duration_since(*since) < IDLE && is_quiet(lane));
            !lanes.is_empty()
        });
    }
}

/// Whether the other end has said nothing; while no connection is handed over, all it can say is goodbye.
fn is_quiet(lane: &UnixStream) -> bool {
    matches!(lane.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// What became of an offer.
pub(crate) enum Handed {
    /// The receiver has the connection; the lane tells how it goes on.
    Accepted(Lane),
    /// An intention denies it.
    Denied,
    /// The connection is still ours and untouched, and TLS may do.
    Elsewhere,
    /// There was no answer in time. The connection is still ours.
    Slow,
}

/// A lane that speaks of one connection.
pub(crate) struct Lane {
    stream: UnixStream,
    pid: u32,
}

/// What one lane says to an offer.
enum Said {
    Accepted,
    Denied,
    Elsewhere,
    Slow,
    /// The lane has ended without a word: the connection was not touched.
    Gone,
}

/// Offers a connection of our application, from which nothing was read, to the proxy of an instance.
pub(crate) async fn hand_over(
    shared: &Shared,
    lanes: &Lanes,
    instance: &Arc<Instance>,
    stream: &TcpStream,
    limit: Duration,
) -> Handed {
    let Some(neighbors) = &shared.neighbors else { return Handed::Elsewhere };
    let Some(neighbor) = neighbors.of(instance) else { return Handed::Elsewhere };
    let Some(credentials) = shared.mesh.credentials().filter(|own| super::is_valid(own)) else {
        return Handed::Elsewhere;
    };
    let source = credentials.leaf().who().identity.service.as_str();
    let Some(request) = (Request { source, destination: instance.target.service() }).encode() else {
        return Handed::Elsewhere;
    };
    let handed = offer_on_any(lanes, &neighbor, &request, stream, limit).await;
    match handed {
        Ok(Handed::Elsewhere) => count(&shared.metrics.direct_fallbacks),
        Ok(Handed::Accepted(_)) => count(&shared.metrics.direct),
        Ok(Handed::Denied | Handed::Slow) => {}
        Err(_) => {
            count(&shared.metrics.direct_fallbacks);
            neighbors.forget(instance, &neighbor);
        }
    }
    handed.unwrap_or_else(|error| {
        tracing::debug!("{}: not handed over, going on with TLS: {error}", instance.id);
        Handed::Elsewhere
    })
}

/// An error means that what is known of the neighbor is not so any more.
async fn offer_on_any(
    lanes: &Lanes,
    neighbor: &Neighbor,
    request: &[u8],
    stream: &TcpStream,
    limit: Duration,
) -> io::Result<Handed> {
    let pid = neighbor.pid();
    loop {
        let kept = lanes.take(pid);
        let is_new = kept.is_none();
        let lane = match kept {
            Some(lane) => lane,
            None => neighbor.open()?,
        };
        match offer(&lane, request, stream, limit).await {
            Said::Accepted => return Ok(Handed::Accepted(Lane { stream: lane, pid })),
            Said::Denied => {
                lanes.put(pid, lane);
                return Ok(Handed::Denied);
            }
            Said::Elsewhere => {
                lanes.put(pid, lane);
                return Ok(Handed::Elsewhere);
            }
            Said::Slow => return Ok(Handed::Slow),
            // A receiver that does not know us yet, or none any more.
            Said::Gone if is_new => return Ok(Handed::Elsewhere),
            // The receiver had closed the lane that waited.
            Said::Gone => {}
        }
    }
}

async fn offer(lane: &UnixStream, request: &[u8], stream: &TcpStream, limit: Duration) -> Said {
    let begin = Instant::now();
    match kernel::send(lane, request, stream.as_fd()) {
        Ok(()) => {}
        // The receiver takes descriptors only from whom it knows, and says when it does.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            match tokio::time::timeout(limit, word(lane)).await {
                Ok(Some(READY)) if kernel::send(lane, request, stream.as_fd()).is_ok() => {}
                Ok(_) => return Said::Gone,
                Err(_) => return Said::Slow,
            }
        }
        Err(_) => return Said::Gone,
    }
    match tokio::time::timeout(limit.saturating_sub(begin.elapsed()), answer(lane)).await {
        Ok(said) => said,
        Err(_) => {
            // From here on the receiver can't say that it accepts, which it must before it touches the connection. What it
            // said before is there to be read.
            let closed = socket2::SockRef::from(lane).shutdown(std::net::Shutdown::Read);
            loop {
                let mut word = [0];
                let last = rustix::net::recv(lane, &mut word, rustix::net::RecvFlags::DONTWAIT);
                match (&closed, last, word[0]) {
                    (_, Ok((_, 1)), READY) => {}
                    (Ok(()), Ok((_, 1)), ACCEPTED) => return Said::Accepted,
                    _ => return Said::Slow,
                }
            }
        }
    }
}

async fn answer(lane: &UnixStream) -> Said {
    loop {
        return match word(lane).await {
            // It was said before the request came.
            Some(READY) => continue,
            Some(ACCEPTED) => Said::Accepted,
            Some(DENIED) => Said::Denied,
            Some(ELSEWHERE) => Said::Elsewhere,
            _ => Said::Gone,
        };
    }
}

/// The receiver's next word; `None` when it has ended the lane.
async fn word(lane: &UnixStream) -> Option<u8> {
    let mut word = [0];
    loop {
        lane.readable().await.ok()?;
        match lane.try_read(&mut word) {
            Ok(1) => return Some(word[0]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(_) | Err(_) => return None,
        }
    }
}

/// Follows a connection that was handed over: it counts here until it has ended there, and ends there when it shall here.
pub(crate) fn follow(
    desk: &Arc<Desk>,
    shared: &Arc<Shared>,
    lane: Lane,
    upstream: Arc<str>,
    flow: &Arc<Flow>,
    engaged: Engaged,
) {
    shared.opened(flow);
    let place = shared.tracker.enter(None);
    let id = place.id();
    let absence = Absence {
        lane: Some(lane),
        upstream,
        flow: Arc::clone(flow),
        shared: Arc::clone(shared),
        place,
        _engaged: engaged,
        started: Instant::now(),
        moved: (0, 0),
        end: None,
    };
    let task = desk.scope.spawn("connection", absence.run(Arc::clone(desk)));
    shared.tracker.carried_by(id, 1, task.abort_handle());
}

/// A connection that another proxy carries for us.
struct Absence {
    lane: Option<Lane>,
    upstream: Arc<str>,
    flow: Arc<Flow>,
    shared: Arc<Shared>,
    place: Place,
    _engaged: Engaged,
    started: Instant,
    moved: (u64, u64),
    end: Option<Carried>,
}

impl Absence {
    async fn run(mut self, desk: Arc<Desk>) {
        let Some(mut lane) = self.lane.take() else { return };
        let broken = |text: &str| Carried::Broken(Broken::Io { side: Side::Peer, error: io::Error::other(text) });
        let keep = loop {
            let mut bytes = [0; TOLD];
            let told = lane.stream.read_exact(&mut bytes).await.ok().and_then(|_| Told::decode(&bytes));
            let Some(told) = told else {
                self.end = Some(broken("the proxy that carried it has gone"));
                break false;
            };
            self.take(told);
            match told.standing {
                Standing::Open => continue,
                Standing::Finished => self.end = Some(Carried::Finished),
                Standing::Broken => self.end = Some(broken("one side broke in the proxy that carried it")),
                Standing::Cut => {
                    self.end = Some(broken("ended by the proxy that carried it"));
                    break false;
                }
            }
            break true;
        };
        if keep {
            desk.lanes.put(lane.pid, lane.stream);
        }
    }

    fn take(&mut self, told: Told) {
        let more = |now: u64, before: u64| now.saturating_sub(before);
        self.flow.meter.outward.fetch_add(more(told.outward, self.moved.0), Ordering::Relaxed);
        self.flow.meter.inward.fetch_add(more(told.inward, self.moved.1), Ordering::Relaxed);
        self.moved = (told.outward, told.inward);
    }
}

impl Drop for Absence {
    fn drop(&mut self) {
        self.shared.closed(&self.flow);
        let end = self.end.take().unwrap_or_else(|| self.place.end());
        let (outward, inward) = self.moved;
        let traffic = Traffic { outward, inward, duration: self.started.elapsed() };
        let name = || format!("connection to {} without TLS", self.upstream);
        self.shared.journal.carried(&self.shared.metrics, name, &end, traffic);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream as StdUnixStream;

    use lictor_task::descriptors;
    use tokio::net::TcpListener;

    use super::*;

    /// A lane with a receiver that does something when it has got the request, and what the offer said.
    async fn offered(limit: Duration, receiver: impl FnOnce(&mut StdUnixStream) + Send + 'static) -> Said {
        let (lane, far) = UnixStream::pair().unwrap();
        let mut far = far.into_std().unwrap();
        far.set_nonblocking(false).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let receiving = tokio::task::spawn_blocking(move || {
            assert_eq!(far.read(&mut [0; 16]).unwrap(), 2);
            receiver(&mut far);
            far
        });
        let said = offer(&lane, b"hi", &stream, limit).await;
        // Nothing that is said later reaches anybody.
        let mut far = receiving.await.unwrap();
        if matches!(said, Said::Slow) {
            assert_eq!(far.write(&[ACCEPTED]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        }
        said
    }

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn an_offer_ends_with_the_word_of_the_receiver() {
        for (word, wanted) in [(ACCEPTED, "a"), (DENIED, "d"), (ELSEWHERE, "e"), (b'?', "g")] {
            let said = offered(LONG, move |far| far.write_all(&[word]).unwrap()).await;
            let said = match said {
                Said::Accepted => "a",
                Said::Denied => "d",
                Said::Elsewhere => "e",
                Said::Gone => "g",
                Said::Slow => "s",
            };
            assert_eq!(said, wanted);
        }
        let said = offered(LONG, |far| far.shutdown(std::net::Shutdown::Both).unwrap()).await;
        assert!(matches!(said, Said::Gone));
    }

    #[tokio::test]
    async fn an_offer_waits_until_the_receiver_takes_descriptors() {
        for knows in [true, false] {
            let (lane, far) = UnixStream::pair().unwrap();
            let mut far = far.into_std().unwrap();
            far.set_nonblocking(false).unwrap();
            let refuses = descriptors::refuse(&far).unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let receiving = tokio::task::spawn_blocking(move || {
                std::thread::sleep(Duration::from_millis(50));
                if knows {
                    assert_eq!(descriptors::allow(&far).unwrap(), refuses);
                    far.write_all(&[READY]).unwrap();
                    assert_eq!(far.read(&mut [0; 16]).unwrap(), 2);
                    far.write_all(&[ACCEPTED]).unwrap();
                }
            });
            let said = offer(&lane, b"hi", &stream, LONG).await;
            receiving.await.unwrap();
            assert!(matches!(said, Said::Accepted) == knows && matches!(said, Said::Gone) != knows);
        }
    }

    #[tokio::test]
    async fn a_receiver_that_does_not_answer_in_time_cannot_accept_any_more() {
        let said = offered(Duration::from_millis(20), |_| std::thread::sleep(Duration::from_millis(200))).await;
        assert!(matches!(said, Said::Slow));
    }

    #[tokio::test]
    async fn a_word_that_came_in_the_last_moment_counts() {
        let (lane, mut far) = StdUnixStream::pair().unwrap();
        far.write_all(&[ACCEPTED]).unwrap();
        lane.shutdown(std::net::Shutdown::Read).unwrap();
        let mut word = [0];
        assert_eq!((&lane).read(&mut word).unwrap(), 1);
        assert_eq!(word[0], ACCEPTED);
        assert!(far.write_all(&[ACCEPTED]).is_err());
    }
}
