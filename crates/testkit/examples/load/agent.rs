//! Clients of an agent.

use std::fmt::Write as _;
use std::io::{BufRead, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::net::{AddressFamily, SocketType};
use serde_json::{Value, json};

use crate::turns::{Exchange, PATIENCE, Problem, Times, side_by_side, take_turns, threads};

/// Connections from one address of the loopback network, well below what one has ports for.
const PER_SOURCE: usize = 20_000;
/// Questions of one DNS client that are open at the same time.
const OPEN_QUESTIONS: usize = 12;
/// Bytes of the body with which a bare program wakes: about what an agent says of one instance.
const ANSWER: usize = 700;

/// The end of an answer's head and the length of its body, once the head is there. Answers in chunks are not asked for.
fn head(answer: &[u8]) -> Result<Option<(usize, usize)>, Problem> {
    let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let text = std::str::from_utf8(&answer[..end])?;
    if !text.starts_with("HTTP/1.1 200") {
        return Err(format!("the agent refused: {}", String::from_utf8_lossy(answer)).into());
    }
    let length = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find_map(|(name, value)| name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>()));
    Ok(Some((end + 4, length.ok_or("an answer without a length")??)))
}

fn is_whole(answer: &[u8]) -> Result<bool, Problem> {
    Ok(head(answer)?.is_some_and(|(start, length)| answer.len() >= start + length))
}

/// The same request again and again.
struct Gets(Arc<str>);

impl Exchange for Gets {
    fn ask(&mut self, question: &mut Vec<u8>) -> bool {
        question.extend_from_slice(self.0.as_bytes());
        true
    }

    fn is_whole(&self, answer: &[u8]) -> Result<bool, Problem> {
        is_whole(answer)
    }
}

/// Requests on connections that stay.
pub(crate) fn get(port: u16, connections: usize, limit: Duration, path: &str) -> Result<Value, Problem> {
    let request: Arc<str> = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").into();
    let times = take_turns(port, (0..connections).map(|_| Gets(Arc::clone(&request))).collect(), Some(limit))?;
    Ok(times.report())
}

fn put(question: &mut Vec<u8>, body: &str) {
    let head = "PUT /v1/catalog/register HTTP/1.1\r\nHost: localhost\r\nContent-Length:";
    // Writing to memory cannot fail.
    let _ = write!(question, "{head} {}\r\n\r\n{body}", body.len());
}

/// Registers instances until a shared counter is used up.
struct Registrations {
    next: Arc<AtomicUsize>,
    end: usize,
    nodes: usize,
    services: usize,
}

impl Exchange for Registrations {
    fn ask(&mut self, question: &mut Vec<u8>) -> bool {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        if number >= self.end {
            return false;
        }
        let (node, service) = (number % self.nodes, number % self.services);
        let mut body = String::with_capacity(200);
        // Writing to memory cannot fail.
        let _ = write!(
            body,
            r#"{{"Node":"n{node}","Address":"10.{}.{}.1","Service":{{"ID":"s{number}","Service":"svc{service}","Port":80}}}}"#,
            node / 250,
            node % 250
        );
        put(question, &body);
        true
    }

    fn is_whole(&self, answer: &[u8]) -> Result<bool, Problem> {
        is_whole(answer)
    }
}

/// Registers instances, each once.
pub(crate) fn register(
    port: u16,
    connections: usize,
    first: usize,
    count: usize,
    nodes: usize,
    services: usize,
) -> Result<Value, Problem> {
    let next = Arc::new(AtomicUsize::new(first));
    let end = first + count;
    let clients = (0..connections).map(|_| Registrations { next: Arc::clone(&next), end, nodes, services });
    Ok(take_turns(port, clients.collect(), None)?.report())
}

/// Changes one instance again and again: another port each time.
struct Touches {
    left: usize,
}

fn lone(port: usize) -> String {
    format!(r#"{{"Node":"lone","Address":"10.9.9.9","Service":{{"Service":"lone","Port":{port}}}}}"#)
}

impl Exchange for Touches {
    fn ask(&mut self, question: &mut Vec<u8>) -> bool {
        let Some(left) = self.left.checked_sub(1) else { return false };
        self.left = left;
        put(question, &lone(1024 + left % 60_000));
        true
    }

    fn is_whole(&self, answer: &[u8]) -> Result<bool, Problem> {
        is_whole(answer)
    }
}

/// Changes that concern nobody, on one connection.
pub(crate) fn touch(port: u16, count: usize) -> Result<Value, Problem> {
    Ok(take_turns(port, vec![Touches { left: count }], None)?.report())
}

/// Questions over UDP, some open at the same time on each socket.
pub(crate) fn dns(port: u16, sockets: usize, limit: Duration, names: &[&str]) -> Result<Value, Problem> {
    let questions: Arc<[Vec<u8>]> = names.iter().map(|name| question(name)).collect();
    if questions.is_empty() {
        return Err("no names to ask for".into());
    }
    let per_thread = sockets.div_ceil(threads());
    let work = (0..threads()).map(|_| {
        let questions = Arc::clone(&questions);
        move || ask_names(port, per_thread, limit, &questions)
    });
    Ok(Times::join(side_by_side(work)?).report())
}

fn question(name: &str) -> Vec<u8> {
    let (kind, name) = name.strip_prefix("srv:").map_or((1u8, name), |name| (33, name));
    // Identity, recursion desired, one question.
    let mut packet = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        packet.push(u8::try_from(label.len()).unwrap_or_default());
        packet.extend_from_slice(label.as_bytes());
    }
    packet.extend_from_slice(&[0, 0, kind, 0, 1]);
    packet
}

fn ask_names(port: u16, sockets: usize, limit: Duration, questions: &[Vec<u8>]) -> Result<Times, Problem> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut clients = Vec::new();
    for number in 0..sockets {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect((Ipv4Addr::LOCALHOST, port))?;
        socket.set_nonblocking(true)?;
        epoll::add(&poll, &socket, epoll::EventData::new_u64(number as u64), epoll::EventFlags::IN)?;
        clients.push((socket, [None::<Instant>; OPEN_QUESTIONS]));
    }
    let (started, mut times, mut turn) = (Instant::now(), Times::default(), 0);
    let mut ask = |socket: &UdpSocket, identity: usize| -> Result<Instant, Problem> {
        let mut packet = questions[turn % questions.len()].clone();
        turn += 1;
        packet[1] = u8::try_from(identity)?;
        let asked = Instant::now();
        socket.send(&packet)?;
        Ok(asked)
    };
    for (socket, open) in &mut clients {
        for (identity, asked) in open.iter_mut().enumerate() {
            *asked = Some(ask(socket, identity)?);
        }
    }
    let (mut events, mut room) = (Vec::with_capacity(64), [0; 4096]);
    while started.elapsed() < limit {
        let timeout = rustix::event::Timespec { tv_sec: 5, tv_nsec: 0 };
        if epoll::wait(&poll, spare_capacity(&mut events), Some(&timeout))? == 0 {
            return Err("the agent stopped to answer".into());
        }
        for event in events.drain(..) {
            let (socket, open) = &mut clients[usize::try_from(event.data.u64())?];
            loop {
                let count = match socket.recv(&mut room) {
                    Ok(count) => count,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error.into()),
                };
                // No error, and at least one answer.
                if count < 12 || room[3] & 15 != 0 || room[6..8] == [0, 0] {
                    return Err("an answer without an address".into());
                }
                let identity = usize::from(room[1]);
                if let Some(asked) = open.get_mut(identity) {
                    if let Some(since) = asked.take() {
                        times.note(since);
                    }
                    *asked = Some(ask(socket, identity)?);
                }
            }
        }
    }
    times.whole = started.elapsed();
    Ok(times)
}

/// Blocking queries about one service. Says on a line of its own when all are asked; for each line of input the service
/// is changed once, and it is said how long it took until all had their answer. They all ask again then.
pub(crate) fn watch(port: u16, count: usize, service: &str) -> Result<Value, Problem> {
    let mut index = index_of(port, service)?;
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut watchers = Vec::with_capacity(count);
    for number in 0..count {
        let stream = dial_from(port, number / PER_SOURCE)?;
        stream.set_nonblocking(true)?;
        epoll::add(&poll, &stream, epoll::EventData::new_u64(number as u64), epoll::EventFlags::IN)?;
        watchers.push((stream, Vec::new()));
    }
    let mut last = Value::Null;
    for round in 0.. {
        let request =
            format!("GET /v1/health/service/{service}?index={index}&wait=600s HTTP/1.1\r\nHost: localhost\r\n\r\n");
        for (stream, answer) in &mut watchers {
            answer.clear();
            stream.write_all(request.as_bytes())?;
        }
        println!("{}", json!({"watching": watchers.len(), "last": last}));
        let mut line = String::new();
        if std::io::stdin().lock().read_line(&mut line)? == 0 {
            break;
        }
        let started = Instant::now();
        change(port, service, 81 + round)?;
        let acknowledged = started.elapsed();
        let bytes = await_all(&poll, &mut watchers)?;
        last = json!({"milliseconds": started.elapsed().as_secs_f64() * 1e3,
                      "acknowledged": acknowledged.as_secs_f64() * 1e3, "bytes": bytes});
        index = index_of(port, service)?;
    }
    Ok(json!({"watching": watchers.len(), "last": last}))
}

/// What waking as many clients takes a program that has the answer in its hands and does nothing but write it, with as many
/// threads as there are processors. The lowest of a few rounds.
pub(crate) fn wake(port: u16, count: usize) -> Result<Value, Problem> {
    const ROUNDS: usize = 5;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut watchers = Vec::with_capacity(count);
    let mut served: Vec<Vec<TcpStream>> = (0..threads()).map(|_| Vec::new()).collect();
    for number in 0..count {
        let stream = dial_from(port, number / PER_SOURCE)?;
        stream.set_nonblocking(true)?;
        epoll::add(&poll, &stream, epoll::EventData::new_u64(number as u64), epoll::EventFlags::IN)?;
        watchers.push((stream, Vec::new()));
        let (stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let thread = number % served.len();
        served[thread].push(stream);
    }
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {ANSWER}\r\n\r\n{}", "x".repeat(ANSWER));
    let answer: Arc<[u8]> = answer.into_bytes().into();
    let start = Arc::new(Barrier::new(served.len() + 1));
    let writers: Vec<_> = served
        .into_iter()
        .map(|mut streams| {
            let (start, answer) = (Arc::clone(&start), Arc::clone(&answer));
            thread::spawn(move || -> std::io::Result<Vec<TcpStream>> {
                for _ in 0..ROUNDS {
                    start.wait();
                    for stream in &mut streams {
                        stream.write_all(&answer)?;
                    }
                }
                // Open until all are read: an end is not an answer.
                Ok(streams)
            })
        })
        .collect();
    let mut least = Duration::MAX;
    for _ in 0..ROUNDS {
        watchers.iter_mut().for_each(|(_, answer)| answer.clear());
        // Before, because this thread may be the last to go on when all go on.
        let started = Instant::now();
        start.wait();
        await_all(&poll, &mut watchers)?;
        least = least.min(started.elapsed());
    }
    for writer in writers {
        drop(writer.join().map_err(|_| "a thread of the load panicked")??);
    }
    Ok(json!({"milliseconds": least.as_secs_f64() * 1e3}))
}

/// Waits until each has a whole answer, and gives how many bytes came.
fn await_all(poll: &impl std::os::fd::AsFd, watchers: &mut [(TcpStream, Vec<u8>)]) -> Result<usize, Problem> {
    let (mut events, mut room) = (Vec::with_capacity(1024), vec![0; 64 * 1024]);
    let (mut left, mut bytes) = (watchers.len(), 0);
    while left > 0 {
        let timeout = rustix::event::Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
        if epoll::wait(poll, spare_capacity(&mut events), Some(&timeout))? == 0 {
            return Err(format!("{left} blocking queries were not woken").into());
        }
        for event in events.drain(..) {
            let (stream, answer) = &mut watchers[usize::try_from(event.data.u64())?];
            let count = stream.read(&mut room)?;
            if count == 0 {
                return Err("the agent closed a blocking query".into());
            }
            bytes += count;
            answer.extend_from_slice(&room[..count]);
            left -= usize::from(is_whole(answer)?);
        }
    }
    Ok(bytes)
}

/// A connection from one of the loopback network's addresses: one address has not enough ports for many.
fn dial_from(port: u16, source: usize) -> Result<TcpStream, Problem> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    let source = Ipv4Addr::new(127, 0, 1, u8::try_from(source + 1)?);
    rustix::net::bind(&socket, &SocketAddrV4::new(source, 0))?;
    rustix::net::connect(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
    Ok(TcpStream::from(socket))
}

/// Sends one request on a connection of its own and gives the head of the answer.
fn once(port: u16, request: &[u8]) -> Result<String, Problem> {
    let mut stream = crate::turns::dial(port)?;
    stream.write_all(request)?;
    let (mut answer, mut room) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut room)? {
            0 => return Err("the agent closed the connection".into()),
            count => answer.extend_from_slice(&room[..count]),
        }
        if let Some((start, length)) = head(&answer)?
            && answer.len() >= start + length
        {
            return Ok(String::from_utf8_lossy(&answer[..start]).into_owned());
        }
    }
}

fn index_of(port: u16, service: &str) -> Result<u64, Problem> {
    let request = format!("GET /v1/health/service/{service} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let head = once(port, request.as_bytes())?;
    let index = head
        .lines()
        .filter_map(|line| line.split_once(": "))
        .find_map(|(name, value)| name.eq_ignore_ascii_case("x-consul-index").then(|| value.trim().parse::<u64>()));
    Ok(index.ok_or("an answer without an index")??)
}

fn change(port: u16, service: &str, to: usize) -> Result<(), Problem> {
    let body = format!(r#"{{"Node":"watched","Address":"10.9.9.8","Service":{{"Service":"{service}","Port":{to}}}}}"#);
    let mut request = Vec::new();
    put(&mut request, &body);
    once(port, &request).map(|_| ())
}
