//! What goes into a mesh comes out of it, byte for byte, whatever the applications at its ends do and whatever changes
//! meanwhile: pieces of any size both ways at once, one end that has finished before the other begins, ends that break off,
//! readers that are slow, many connections at the same time, new roots and other intentions.
//!
//! The ordinary tests move half a gigabyte; `LICTOR_SOAK_GB` says how many gigabytes instead, over ten times as many
//! connections.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test that cannot be set up shall fail")]

mod common;

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, Instant};

use common::{LICTOR, Random, root_key, rotate, serve, two_services};
use lictor_testkit::wait::within;
use lictor_testkit::{House, until};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What every stream is a part of, again and again, each from a place of its own. Its length is a prime, so that no piece
/// that went astray fits where it came out.
static TABLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut random = Random::from_seed(1);
    (0..1_048_573).map(|_| u8::try_from(random.below(256)).unwrap()).collect()
});

/// The largest piece that is written or read at once.
const PIECE: usize = 256 * 1024;
/// Streams that move much at the same time.
const STREAMS: usize = 4;
/// No end waits longer for a byte.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a connection is for; its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Both ends send at the same time.
    Both = 0,
    /// The client ends its direction, and only then the application sends.
    InTurn = 1,
    /// The client resets the connection somewhere in the middle.
    Reset = 2,
    /// As `Both`, and the client lets the application wait.
    Slow = 3,
    /// A few bytes now and then come back.
    Ask = 4,
}

impl Kind {
    fn of(byte: u8) -> Kind {
        [Kind::Both, Kind::InTurn, Kind::Reset, Kind::Slow, Kind::Ask][usize::from(byte)]
    }
}

/// The content of one direction: so many bytes of the table from a place on.
#[derive(Clone, Copy, Debug)]
struct Content {
    from: u64,
    length: u64,
}

impl Content {
    /// What the other direction carries.
    fn answer(self) -> Content {
        Content { from: self.from + 524_287, ..self }
    }

    /// The part at `at`, as far as it lies in the table in one piece and is no longer than `most`.
    fn part(self, at: u64, most: usize) -> &'static [u8] {
        let table = TABLE.as_slice();
        let begin = usize::try_from((self.from + at) % table.len() as u64).unwrap();
        let left = usize::try_from(self.length - at).unwrap_or(usize::MAX);
        &table[begin..][..most.min(left).min(table.len() - begin)]
    }

    /// Writes it, in pieces of any size.
    fn write(self, mut to: &TcpStream, random: &mut Random) -> io::Result<()> {
        let mut at = 0;
        while at < self.length {
            let piece = self.part(at, random.size(PIECE));
            to.write_all(piece)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// Reads it in pieces of any size, and how much came before an end or an error. Panics at the first byte that is another.
    fn read(self, mut from: &TcpStream, random: &mut Random, pause: Option<Duration>) -> (u64, Option<io::Error>) {
        let mut buffer = vec![0; PIECE];
        let mut at = 0;
        while at < self.length {
            let most = random.size(PIECE).min(usize::try_from(self.length - at).unwrap_or(PIECE));
            let read = match from.read(&mut buffer[..most]) {
                Ok(0) => return (at, None),
                Ok(read) => read,
                Err(error) => return (at, Some(error)),
            };
            let mut seen = 0;
            while seen < read {
                let wanted = self.part(at, read - seen);
                assert!(
                    buffer[seen..][..wanted.len()] == *wanted,
                    "{self:?}: other bytes than were sent, between {at} and {}",
                    at + wanted.len() as u64
                );
                seen += wanted.len();
                at += wanted.len() as u64;
            }
            if let Some(pause) = pause.filter(|_| at < 2 * PIECE as u64) {
                thread::sleep(pause);
            }
        }
        (at, None)
    }

    /// Reads all of it and, with `end`, the end behind it.
    fn read_whole(
        self,
        from: &TcpStream,
        random: &mut Random,
        pause: Option<Duration>,
        end: bool,
    ) -> Result<(), String> {
        match self.read(from, random, pause) {
            (length, None) if length == self.length => {}
            (length, error) => return Err(format!("{self:?}: {length} bytes came, then {error:?}")),
        }
        match (&*from).read(&mut [0]) {
            _ if !end => Ok(()),
            Ok(0) => Ok(()),
            other => Err(format!("{self:?}: {other:?} instead of its end")),
        }
    }
}

/// What both ends count and find.
#[derive(Default)]
struct Tally {
    bytes: AtomicU64,
    connections: AtomicU64,
    resets: AtomicU64,
    /// The application has found something wrong.
    broken: AtomicBool,
}

/// The application: does its part of what the first bytes of a connection say.
fn application(tally: &Tally, connection: &TcpStream) -> Result<(), String> {
    let mut random = Random::from_seed(7);
    connection.set_nodelay(true).unwrap();
    let mut head = [0; 17];
    let mut reader = connection;
    if reader.read_exact(&mut head).is_err() {
        // Reset before it had said what it is.
        return Ok(());
    }
    let number = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().unwrap());
    let content = Content { from: number(1), length: number(9) };
    let failed = |error: io::Error| format!("{content:?}: the application cannot write: {error}");
    match Kind::of(head[0]) {
        Kind::Both | Kind::Slow => thread::scope(|scope| {
            let writing = scope.spawn(|| {
                content.answer().write(connection, &mut Random::from_seed(content.from)).map_err(failed)?;
                connection.shutdown(Shutdown::Write).map_err(failed)
            });
            content.read_whole(connection, &mut random, None, true)?;
            writing.join().unwrap()
        }),
        Kind::InTurn => {
            content.read_whole(connection, &mut random, None, true)?;
            content.answer().write(connection, &mut random).map_err(failed)
        }
        Kind::Reset => {
            let (length, _) = content.read(connection, &mut random, None);
            tally.resets.fetch_add(u64::from(length < content.length), Ordering::Relaxed);
            Ok(())
        }
        Kind::Ask => {
            let mut word = [0; 8];
            while reader.read_exact(&mut word).is_ok() {
                reader.write_all(&word).map_err(failed)?;
            }
            Ok(())
        }
    }
}

fn open(entry: u16, kind: Kind, content: Content) -> io::Result<TcpStream> {
    let mut connection = TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], entry)), PATIENCE)?;
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_write_timeout(Some(PATIENCE))?;
    let mut head = vec![kind as u8];
    head.extend(content.from.to_le_bytes());
    head.extend(content.length.to_le_bytes());
    connection.write_all(&head)?;
    Ok(connection)
}

/// One connection of the client's side.
fn exchange(entry: u16, kind: Kind, content: Content, random: &mut Random, tally: &Tally) -> Result<(), String> {
    let failed = |error: io::Error| format!("{kind:?} {content:?}: {error}");
    let connection = open(entry, kind, content).map_err(failed)?;
    let mut other = Random::from_seed(content.from + 3);
    match kind {
        Kind::Both | Kind::Slow => {
            let pause = (kind == Kind::Slow).then_some(Duration::from_millis(3));
            thread::scope(|scope| {
                let writing = scope.spawn(|| {
                    content.write(&connection, &mut other).map_err(failed)?;
                    connection.shutdown(Shutdown::Write).map_err(failed)
                });
                content.answer().read_whole(&connection, random, pause, true)?;
                writing.join().unwrap()
            })?;
        }
        Kind::InTurn => {
            content.write(&connection, random).map_err(failed)?;
            connection.shutdown(Shutdown::Write).map_err(failed)?;
            content.answer().read_whole(&connection, random, None, true)?;
        }
        Kind::Reset => {
            let some =
                Content { length: u64::try_from(random.below(1 << 20)).unwrap().min(content.length - 1), ..content };
            some.write(&connection, random).map_err(failed)?;
            // What is not sent yet is thrown away, and the peer is told.
            rustix::net::sockopt::set_socket_linger(&connection, Some(Duration::ZERO)).unwrap();
            return Ok(());
        }
        Kind::Ask => unreachable!("those are the crowd's"),
    }
    tally.bytes.fetch_add(2 * content.length, Ordering::Relaxed);
    tally.connections.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

/// Many connections at the same time, each of which is asked now and then.
fn crowd(entry: u16, size: usize, over: &AtomicBool) -> Result<u64, String> {
    let nothing = Content { from: 0, length: 0 };
    let mut asked = 0_u64;
    let mut ask = |place: usize, member: &mut TcpStream| {
        let word = (asked ^ 0x5555).to_le_bytes();
        let mut back = [0; 8];
        let done = member.write_all(&word).and_then(|()| member.read_exact(&mut back));
        done.map_err(|error| format!("member {place} of {size}: {error}"))?;
        if back != word {
            return Err(format!("member {place} of {size}: {back:?} came for {word:?}"));
        }
        asked += 1;
        Ok(())
    };
    let mut members = Vec::with_capacity(size);
    for place in 0..size {
        // Each when the one before has been accepted: there is room for few that are not.
        let mut member =
            open(entry, Kind::Ask, nothing).map_err(|error| format!("member {place} of {size}: {error}"))?;
        ask(place, &mut member)?;
        members.push(member);
    }
    while !over.load(Ordering::Relaxed) {
        for (place, member) in members.iter_mut().enumerate() {
            ask(place, member)?;
        }
    }
    Ok(asked)
}

/// New roots and other intentions, until it is over.
fn changes(house: &House, between: Duration, over: &AtomicBool) -> (u32, u32) {
    let (mut rotations, mut intentions) = (0, 0);
    house.intend("web", "db", "allow");
    let mut last = Instant::now();
    while !over.load(Ordering::Relaxed) {
        let denial = house.intend("somebody", "db", "deny");
        house.request("DELETE", &format!("/v1/connect/intentions/{denial}"), b"");
        intentions += 2;
        if last.elapsed() >= between {
            let Some(key) = root_key() else { continue };
            rotate(house, &key);
            rotations += 1;
            last = Instant::now();
        }
        thread::sleep(Duration::from_millis(50));
    }
    (rotations, intentions)
}

#[test]
fn what_goes_in_comes_out_whatever_the_ends_do_and_whatever_changes() {
    pass("mtls");
}

/// The same where the application's own connection is handed over.
#[test]
fn what_goes_in_comes_out_of_the_direct_path_too() {
    pass("direct");
}

fn pass(same_node: &str) {
    let soak: Option<u64> = std::env::var("LICTOR_SOAK_GB").ok().map(|text| text.parse().unwrap());
    let goal = soak.map_or(512 << 20, |gigabytes| gigabytes * 1_000_000_000);
    let mut crowd_size = if soak.is_some() { 5000 } else { 500 };
    let between = Duration::from_secs(if soak.is_some() { 20 } else { 2 });
    // Both ends of each connection are ours.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let room = limit.maximum.map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX));
    if room < 3 * crowd_size {
        crowd_size = room / 3;
        eprintln!("only {crowd_size} connections at the same time: no more open files are allowed (ulimit -Hn)");
    }

    let tally = Arc::new(Tally::default());
    let of_application = Arc::clone(&tally);
    let app = serve("127.0.0.1:0", move |connection| {
        let result = std::panic::catch_unwind(|| application(&of_application, &connection));
        if !matches!(result, Ok(Ok(()))) {
            of_application.broken.store(true, Ordering::Relaxed);
            eprintln!("the application: {result:?}");
        }
    });
    let (mut config, entry) = two_services(app.port());
    config["connect"]["same_node"] = same_node.into();
    let house = House::start(LICTOR, config);
    house.wait_healthy("db");
    until("the path is there", || {
        exchange(entry, Kind::InTurn, Content { from: 1, length: 10 }, &mut Random::from_seed(1), &tally).is_ok()
            && (same_node == "mtls" || handed_over(&house) > 0)
    });

    let over = AtomicBool::new(false);
    let begun = Instant::now();
    let (streams, asked, (rotations, intentions)) = thread::scope(|scope| {
        let crowd = scope.spawn(|| crowd(entry, crowd_size, &over));
        let changes = scope.spawn(|| changes(&house, between, &over));
        let streams: Vec<_> = (0..STREAMS)
            .map(|_| {
                scope.spawn(|| {
                    let mut random = Random::new();
                    let fine = || tally.bytes.load(Ordering::Relaxed) < goal && !tally.broken.load(Ordering::Relaxed);
                    while fine() {
                        let kind = [Kind::Both, Kind::InTurn, Kind::Reset, Kind::Slow][random.below(4)];
                        let length = u64::try_from(random.size(128 << 20)).unwrap();
                        let content = Content { from: u64::try_from(random.below(1 << 30)).unwrap(), length };
                        exchange(entry, kind, content, &mut random, &tally)?;
                    }
                    Ok::<(), String>(())
                })
            })
            .collect();
        let streams: Vec<_> = streams.into_iter().map(|stream| stream.join().unwrap()).collect();
        // All that was promised happens, however soon the bytes are through.
        let enough = Instant::now() + PATIENCE;
        while rotations_of(&house) < 2 && Instant::now() < enough {
            thread::sleep(Duration::from_millis(20));
        }
        over.store(true, Ordering::Relaxed);
        (streams, crowd.join().unwrap(), changes.join().unwrap())
    });
    let moved = tally.bytes.load(Ordering::Relaxed);
    eprintln!(
        "{:.1} GB in {:.0} s, {} connections, {} resets, {crowd_size} connections asked {} times, {rotations} rotations, \
         {intentions} changes of intentions",
        moved as f64 / 1e9,
        begun.elapsed().as_secs_f64(),
        tally.connections.load(Ordering::Relaxed),
        tally.resets.load(Ordering::Relaxed),
        asked.as_ref().map_or(0, |asked| *asked),
    );
    let said = || -> Vec<String> {
        let logs = ["db-proxy", "web-proxy"].map(|id| house.get(&format!("/v1/agent/connect/logs/{id}?lines=40")));
        logs.iter().map(lictor_testkit::http::Answer::text).collect()
    };
    assert!(streams.iter().all(Result::is_ok) && asked.is_ok(), "{streams:?}\n{asked:?}\n{}", said().join("\n"));
    assert!(!tally.broken.load(Ordering::Relaxed), "the application has seen something wrong");
    assert!(moved >= goal && rotations >= 1);
    // Where a crowd comes at once some may take the other path.
    let most = if same_node == "direct" { tally.connections.load(Ordering::Relaxed) / 2 } else { 0 };
    until("most were handed over", || handed_over(&house) >= most);
    assert!(same_node == "direct" || handed_over(&house) == 0);
    // Nothing is left of any of them, resets included.
    within(PATIENCE, "no connection is left in the proxies", || {
        let processes = house.get("/v1/agent/connect/processes").json();
        let idle = |process: &serde_json::Value| process["Report"]["Connections"] == 0;
        processes.as_array().unwrap().iter().all(idle).then_some(())
    });
}

/// Connections whose descriptor went from one proxy to the other.
fn handed_over(house: &House) -> u64 {
    let process = house.get("/v1/agent/connect/process/web-proxy").json();
    process["Report"]["DirectConnections"].as_u64().unwrap_or_default()
}

fn rotations_of(house: &House) -> usize {
    house.get("/v1/connect/ca/roots").json()["Roots"].as_array().map_or(0, Vec::len)
}
