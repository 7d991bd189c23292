//! Clients in turns: each connection asks, waits for the whole answer, and asks again. Many connections share a thread,
//! so that what is measured is the server and not the scheduling of its clients.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use serde_json::{Value, json};

/// What went wrong, for people.
pub(crate) type Problem = Box<dyn std::error::Error + Send + Sync>;

/// An answer that takes longer is none.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What is asked, and when an answer is whole.
pub(crate) trait Exchange: Send {
    /// Writes the next question; `false` when there is none left.
    fn ask(&mut self, question: &mut Vec<u8>) -> bool;
    /// Whether this is all of an answer. Fails for an answer that must not be.
    fn is_whole(&self, answer: &[u8]) -> Result<bool, Problem>;
}

/// How long each answer took, in microseconds, and all of them together.
#[derive(Debug, Default)]
pub(crate) struct Times {
    pub(crate) each: Vec<u32>,
    pub(crate) whole: Duration,
}

impl Times {
    pub(crate) fn note(&mut self, since: Instant) {
        self.each.push(u32::try_from(since.elapsed().as_micros()).unwrap_or(u32::MAX));
    }

    /// Puts together what threads measured side by side.
    pub(crate) fn join(all: impl IntoIterator<Item = Times>) -> Times {
        all.into_iter().fold(Times::default(), |mut sum, part| {
            sum.each.extend(part.each);
            sum.whole = sum.whole.max(part.whole);
            sum
        })
    }

    pub(crate) fn report(mut self) -> Value {
        self.each.sort_unstable();
        let at = |share: f64| {
            let position = (self.each.len() as f64 * share) as usize;
            self.each.get(position.min(self.each.len().saturating_sub(1))).copied().unwrap_or_default()
        };
        json!({"count": self.each.len(), "seconds": self.whole.as_secs_f64(), "p50": at(0.50), "p99": at(0.99)})
    }
}

/// How many threads clients run on.
pub(crate) fn threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// A connection to a local port that sends small things at once.
pub(crate) fn dial(port: u16) -> Result<TcpStream, Problem> {
    let stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Runs work on threads side by side and gives what each gave.
pub(crate) fn side_by_side<T: Send + 'static>(
    work: impl IntoIterator<Item = impl FnOnce() -> Result<T, Problem> + Send + 'static>,
) -> Result<Vec<T>, Problem> {
    let running: Vec<_> = work.into_iter().map(thread::spawn).collect();
    running.into_iter().map(|thread| thread.join().map_err(|_| "a thread of the load panicked")?).collect()
}

/// One exchange of questions and answers per connection, spread over the threads, for a time or until they have no
/// questions left.
pub(crate) fn take_turns<E: Exchange + 'static>(
    port: u16,
    exchanges: Vec<E>,
    limit: Option<Duration>,
) -> Result<Times, Problem> {
    let mut parts: Vec<Vec<E>> = (0..threads().min(exchanges.len())).map(|_| Vec::new()).collect();
    let count = parts.len().max(1);
    for (number, exchange) in exchanges.into_iter().enumerate() {
        parts[number % count].push(exchange);
    }
    let parts = parts.into_iter().map(|part| move || run(port, part, limit));
    Ok(Times::join(side_by_side(parts)?))
}

struct Client<E> {
    exchange: E,
    stream: TcpStream,
    asked: Instant,
    question: Vec<u8>,
    answer: Vec<u8>,
}

fn run<E: Exchange>(port: u16, exchanges: Vec<E>, limit: Option<Duration>) -> Result<Times, Problem> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut clients = Vec::with_capacity(exchanges.len());
    for (number, exchange) in exchanges.into_iter().enumerate() {
        let stream = dial(port)?;
        stream.set_nonblocking(true)?;
        epoll::add(&poll, &stream, epoll::EventData::new_u64(number as u64), epoll::EventFlags::IN)?;
        let asked = Instant::now();
        clients.push(Client { exchange, stream, asked, question: Vec::new(), answer: Vec::new() });
    }
    let mut times = Times::default();
    let started = Instant::now();
    let mut open = 0;
    for client in &mut clients {
        open += usize::from(client.next()?);
    }
    let mut events = Vec::with_capacity(256);
    let mut room = vec![0; 64 * 1024];
    while open > 0 {
        let timeout = rustix::event::Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
        if epoll::wait(&poll, spare_capacity(&mut events), Some(&timeout))? == 0 {
            return Err(format!("no answer within {PATIENCE:?}").into());
        }
        for event in events.drain(..) {
            let number = usize::try_from(event.data.u64())?;
            let client = &mut clients[number];
            if !client.read(&mut room)? {
                continue;
            }
            times.note(client.asked);
            if limit.is_some_and(|limit| started.elapsed() >= limit) || !client.next()? {
                open -= 1;
            }
        }
    }
    times.whole = started.elapsed();
    Ok(times)
}

impl<E: Exchange> Client<E> {
    /// Asks the next question; `false` when there is none.
    fn next(&mut self) -> Result<bool, Problem> {
        self.question.clear();
        self.answer.clear();
        if !self.exchange.ask(&mut self.question) {
            return Ok(false);
        }
        self.asked = Instant::now();
        // Questions are small and nothing else is on its way: the socket has room for them.
        self.stream.write_all(&self.question)?;
        Ok(true)
    }

    /// Reads what is there; `true` when the answer is whole.
    fn read(&mut self, room: &mut [u8]) -> Result<bool, Problem> {
        match self.stream.read(room) {
            Ok(0) => Err("the connection was closed before the answer was whole".into()),
            Ok(count) => {
                self.answer.extend_from_slice(&room[..count]);
                self.exchange.is_whole(&self.answer)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
