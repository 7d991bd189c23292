//! Two TCP connections joined in the kernel: bytes go from one to the other through a pipe and are never seen here.
//!
//! Back-pressure is exact: nothing is taken from a connection before everything taken earlier has been passed on. Pipes
//! are borrowed while bytes move and given back when a connection has no more, so that idle connections cost none.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use lictor_tls::pump::{Broken, Side, settled_here};
use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use rustix::pipe::{PipeFlags, SpliceFlags};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Bytes that one direction may move before others get their turn.
const TURN: usize = 256 * 1024;
/// The most that is asked of the kernel at once; it gives what the pipe holds.
const SPLICE: usize = 512 * 1024;
/// The same where bytes have to be copied.
const COPY: usize = 64 * 1024;
/// Empty pipes that a worker keeps.
const MOST_PIPES: usize = 32;

/// Two connections of which each gets what the other brings. Dropping it forgets bytes that were on their way, so whoever
/// does must reset both first.
pub(crate) struct Joined {
    peer: TcpStream,
    app: TcpStream,
    from_peer: Way,
    from_app: Way,
}

/// How far one direction is.
#[derive(Default)]
struct Way {
    /// While bytes move.
    carrier: Option<Carrier>,
    over: bool,
    /// Why it is over, when that is no end: nobody takes its bytes any more.
    failure: Option<Broken>,
}

/// Why one direction does not go on.
enum Stop {
    Broken(Broken),
    /// Not here: elsewhere it can.
    Here,
}

/// Who is told what moves, and says whether it may go on moving here.
struct Watch<M, S> {
    moved: M,
    /// Of both directions, which are one task: nobody ever waits for it.
    stays: Mutex<S>,
}

impl Joined {
    pub(crate) fn new(peer: TcpStream, app: TcpStream) -> Joined {
        Joined { peer, app, from_peer: Way::default(), from_app: Way::default() }
    }

    /// The connection to the peer and that to our application.
    pub(crate) fn streams(&self) -> [&TcpStream; 2] {
        [&self.peer, &self.app]
    }

    /// Lets the event loop of the runtime that is entered watch both sockets from now on. After an error everything is as
    /// it was.
    pub(crate) fn settle_here(&mut self) -> io::Result<()> {
        (self.peer, self.app) = (settled_here(&self.peer)?, settled_here(&self.app)?);
        Ok(())
    }

    /// Moves bytes both ways until both directions have ended; `moved` is told what each step moved and from where. `stays`
    /// is asked after every turn and whenever a direction has nothing more; `None` when it said no. Can be called again.
    pub(crate) async fn run_while(
        &mut self,
        moved: impl Fn(Side, u64),
        stays: impl FnMut() -> bool,
    ) -> Option<Result<(), Broken>> {
        let watch = Watch { moved, stays: Mutex::new(stays) };
        let (peer, app) = ((&self.peer, Side::Peer), (&self.app, Side::App));
        let both = tokio::try_join!(self.from_peer.go(peer, app, &watch), self.from_app.go(app, peer, &watch));
        match both {
            Ok(((), ())) => Some(match self.from_peer.failure.take().or(self.from_app.failure.take()) {
                Some(broken) => Err(broken),
                None => Ok(()),
            }),
            Err(Stop::Broken(broken)) => Some(Err(broken)),
            Err(Stop::Here) => None,
        }
    }
}

impl<M: Fn(Side, u64), S: FnMut() -> bool> Watch<M, S> {
    fn ask(&self) -> Result<(), Stop> {
        if (self.stays.lock())() { Ok(()) } else { Err(Stop::Here) }
    }
}

impl Way {
    /// Cancel safe: what it holds of bytes is in here. Where bytes cannot be passed on, only this direction is over: what the
    /// other side said before it went may still have to be passed on by the other one, which ends soon.
    async fn go<M: Fn(Side, u64), S: FnMut() -> bool>(
        &mut self,
        (from, source): (&TcpStream, Side),
        (to, target): (&TcpStream, Side),
        watch: &Watch<M, S>,
    ) -> Result<(), Stop> {
        let broken = |side| move |error| Broken::Io { side, error };
        let of = |side| move |error| Stop::Broken(broken(side)(error));
        let mut turn = 0;
        while !self.over {
            if self.carrier.is_none() {
                from.readable().await.map_err(of(source))?;
            }
            let carrier = self.carrier.get_or_insert_with(Carrier::borrow);
            loop {
                while !carrier.is_empty() {
                    match to.try_io(Interest::WRITABLE, || carrier.drain(to)) {
                        Ok(bytes) => {
                            turn += bytes;
                            (watch.moved)(source, bytes as u64);
                        }
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            to.writable().await.map_err(of(target))?;
                        }
                        Err(error) => {
                            self.fail(broken(target)(error));
                            return Ok(());
                        }
                    }
                }
                if turn >= TURN {
                    turn = 0;
                    watch.ask()?;
                    tokio::task::yield_now().await;
                }
                match from.try_io(Interest::READABLE, || carrier.fill(from)) {
                    Ok(0) => {
                        self.over = true;
                        // Who is gone altogether needs not be told.
                        match SockRef::from(to).shutdown(std::net::Shutdown::Write) {
                            Err(error) if error.kind() != io::ErrorKind::NotConnected => return Err(of(target)(error)),
                            _ => break,
                        }
                    }
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(of(source)(error)),
                }
            }
            self.carrier = None;
            watch.ask()?;
        }
        Ok(())
    }

    fn fail(&mut self, broken: Broken) {
        (self.carrier, self.over, self.failure) = (None, true, Some(broken));
    }
}

/// What bytes are in between the two connections.
enum Carrier {
    /// In the kernel.
    Pipe { pipe: Option<Pipe>, held: usize },
    /// Here, where the kernel cannot or there is no pipe to be had.
    Buffer { bytes: Vec<u8>, at: usize },
}

struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

thread_local! {
    static PIPES: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

/// The kernel has said that it does not move bytes between such descriptors.
static CANNOT_SPLICE: AtomicBool = AtomicBool::new(false);

impl Carrier {
    fn borrow() -> Carrier {
        if CANNOT_SPLICE.load(Ordering::Relaxed) {
            return Carrier::buffer();
        }
        let kept = PIPES.with_borrow_mut(Vec::pop);
        let made = || rustix::pipe::pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC);
        match kept.map_or_else(|| made().map(|(read, write)| Pipe { read, write }), Ok) {
            Ok(pipe) => Carrier::Pipe { pipe: Some(pipe), held: 0 },
            Err(_) => Carrier::buffer(),
        }
    }

    fn buffer() -> Carrier {
        Carrier::Buffer { bytes: Vec::new(), at: 0 }
    }

    fn is_empty(&self) -> bool {
        match self {
            Carrier::Pipe { held, .. } => *held == 0,
            Carrier::Buffer { bytes, at } => *at == bytes.len(),
        }
    }

    /// Takes bytes from a connection; only while it is empty. None means that there will be no more.
    fn fill(&mut self, from: &TcpStream) -> io::Result<usize> {
        match self {
            Carrier::Pipe { pipe: Some(pipe), held } => {
                match rustix::pipe::splice(from, None, &pipe.write, None, SPLICE, FLAGS) {
                    // It never passes a mark of urgent data, and what is behind one looks like nothing or even like the end.
                    Ok(0) | Err(Errno::AGAIN) if has_more(from) => {
                        *self = Carrier::buffer();
                        self.fill(from)
                    }
                    Ok(bytes) => {
                        *held = bytes;
                        Ok(bytes)
                    }
                    Err(Errno::INVAL | Errno::NOSYS | Errno::PERM) => {
                        CANNOT_SPLICE.store(true, Ordering::Relaxed);
                        *self = Carrier::buffer();
                        self.fill(from)
                    }
                    Err(error) => Err(error.into()),
                }
            }
            Carrier::Pipe { pipe: None, .. } => Err(io::ErrorKind::BrokenPipe.into()),
            Carrier::Buffer { bytes, at } => {
                bytes.resize(COPY, 0);
                // Whoever has handed a socket over can make it one that blocks.
                let outcome = rustix::net::recv(from, &mut bytes[..], RecvFlags::DONTWAIT).map(|(count, _)| count);
                bytes.truncate(*outcome.as_ref().unwrap_or(&0));
                *at = 0;
                Ok(outcome?)
            }
        }
    }

    /// Passes on what the other connection takes.
    fn drain(&mut self, to: &TcpStream) -> io::Result<usize> {
        match self {
            Carrier::Pipe { pipe: Some(pipe), held } => {
                let bytes = rustix::pipe::splice(&pipe.read, None, to, None, *held, FLAGS)?;
                if bytes == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                *held = held.saturating_sub(bytes);
                Ok(bytes)
            }
            Carrier::Pipe { pipe: None, .. } => Err(io::ErrorKind::BrokenPipe.into()),
            Carrier::Buffer { bytes, at } => {
                let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
                let sent = rustix::net::send(to, &bytes[*at..], flags)?;
                *at += sent;
                Ok(sent)
            }
        }
    }
}

/// Whether there is something to be read.
fn has_more(from: &TcpStream) -> bool {
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    matches!(rustix::net::recv(from, &mut [0; 1], flags), Ok((1, _)))
}

const FLAGS: SpliceFlags = SpliceFlags::NONBLOCK.union(SpliceFlags::MOVE);

impl Drop for Carrier {
    fn drop(&mut self) {
        // One that still holds bytes of a connection must never serve another.
        if let Carrier::Pipe { pipe, held: 0 } = self
            && let Some(pipe) = pipe.take()
        {
            // Threads that end have no use for it.
            let _ = PIPES.try_with(|pipes| {
                if let Ok(mut pipes) = pipes.try_borrow_mut()
                    && pipes.len() < MOST_PIPES
                {
                    pipes.push(pipe);
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (far, listener.accept().await.unwrap().0)
    }

    async fn to_the_end(peer: TcpStream, app: TcpStream) -> Result<(), Broken> {
        Joined::new(peer, app).run_while(|_, _| {}, || true).await.unwrap()
    }

    async fn round_trip() {
        let ((mut client, peer), (mut server, app)) = (pair().await, pair().await);
        let (from_peer, from_app) = (AtomicU64::new(0), AtomicU64::new(0));
        let count = |side, bytes| {
            let counter = if side == Side::Peer { &from_peer } else { &from_app };
            counter.fetch_add(bytes, Ordering::Relaxed);
        };
        // It is stopped again and again, in the middle of whatever the other direction does.
        let joined = async {
            let (mut joined, mut asked) = (Joined::new(peer, app), 0);
            loop {
                let stays = || {
                    asked += 1;
                    asked % 3 > 0
                };
                if let Some(outcome) = joined.run_while(count, stays).await {
                    break outcome;
                }
                joined.settle_here().unwrap();
            }
        };
        let sent: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
        let talk = async {
            let (request, answer) = tokio::join!(
                async {
                    client.write_all(&sent).await.unwrap();
                    client.shutdown().await.unwrap();
                },
                async {
                    let mut got = Vec::new();
                    server.read_to_end(&mut got).await.unwrap();
                    got
                }
            );
            let () = request;
            assert!(answer == sent, "other bytes arrived");
            // The other direction goes on alone.
            server.write_all(b"late").await.unwrap();
            drop(server);
            let mut got = Vec::new();
            client.read_to_end(&mut got).await.unwrap();
            assert_eq!(got, b"late");
        };
        let (outcome, ()) = tokio::join!(joined, talk);
        outcome.unwrap();
        assert_eq!((from_peer.into_inner(), from_app.into_inner()), (3_000_000, 4));
    }

    #[tokio::test]
    async fn bytes_and_ends_pass_in_both_directions_with_and_without_a_pipe() {
        round_trip().await;
        CANNOT_SPLICE.store(true, Ordering::Relaxed);
        round_trip().await;
        CANNOT_SPLICE.store(false, Ordering::Relaxed);
    }

    #[tokio::test]
    async fn urgent_data_is_in_the_way_of_nothing() {
        let ((client, peer), (mut server, app)) = (pair().await, pair().await);
        let joined = tokio::spawn(to_the_end(peer, app));
        let client = client.into_std().unwrap();
        let say = |before: &[u8], behind: &[u8]| {
            std::io::Write::write_all(&mut &client, before).unwrap();
            SockRef::from(&client).send_out_of_band(b"!").unwrap();
            std::io::Write::write_all(&mut &client, behind).unwrap();
        };
        let talk = async {
            say(b"a", b"b");
            let mut bytes = [0; 2];
            server.read_exact(&mut bytes).await.unwrap();
            assert_eq!(bytes, *b"ab");
            // The end is known before the mark is passed.
            say(b"c", b"d");
            client.shutdown(std::net::Shutdown::Write).unwrap();
            let mut rest = Vec::new();
            server.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest, b"cd");
            drop(server);
            joined.await.unwrap().unwrap();
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), talk).await.expect("it waits behind the mark");
    }

    #[tokio::test]
    async fn a_reader_that_reads_nothing_stops_its_sender() {
        let ((client, peer), (_server, app)) = (pair().await, pair().await);
        let joined = tokio::spawn(to_the_end(peer, app));
        let mut taken = 0;
        let stuck = async {
            loop {
                client.writable().await.unwrap();
                if let Ok(bytes) = client.try_write(&[0; 65_536]) {
                    taken += bytes;
                }
                assert!(taken < 256 << 20, "nothing holds the sender back");
            }
        };
        assert!(tokio::time::timeout(std::time::Duration::from_secs(1), stuck).await.is_err());
        joined.abort();
    }

    /// As a server does that turns down what is too long for it: it answers, and closes without having read all.
    #[tokio::test]
    async fn an_answer_that_came_before_the_question_was_read_arrives_and_then_the_failure_is_told() {
        let ((mut client, peer), (mut server, app)) = (pair().await, pair().await);
        app.writable().await.unwrap();
        app.try_write(b"not read").unwrap();
        server.readable().await.unwrap();
        server.write_all(b"413").await.unwrap();
        drop(server);
        while !app.ready(Interest::READABLE | Interest::WRITABLE).await.unwrap().is_write_closed() {
            tokio::task::yield_now().await;
        }
        client.write_all(b"more").await.unwrap();
        peer.readable().await.unwrap();
        let outcome = to_the_end(peer, app).await;
        assert!(matches!(outcome, Err(Broken::Io { side: Side::App, .. })), "{outcome:?}");
        let mut answer = [0; 3];
        client.read_exact(&mut answer).await.expect("no answer");
        assert_eq!(answer, *b"413");
    }

    #[tokio::test]
    async fn a_reset_is_an_end_of_both() {
        let ((client, peer), (_server, app)) = (pair().await, pair().await);
        SockRef::from(&client).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        drop(client);
        let broken = to_the_end(peer, app).await.unwrap_err();
        assert!(matches!(broken, Broken::Io { side: Side::Peer, .. }), "{broken}");
    }
}
