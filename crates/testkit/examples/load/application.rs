//! The application behind the proxies. What a connection is for is said by its first byte:
//!
//! * [`QUESTION`]: each 100 bytes are answered with 250.
//! * [`TAKE`]: everything is taken until the client ends its side; then this side ends too.
//! * [`GIVE`]: bytes are given until the client goes.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsFd;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::net::{AddressFamily, SocketType};
use serde_json::{Value, json};

use crate::turns::{Problem, side_by_side, threads};

pub(crate) const QUESTION: u8 = b'q';
pub(crate) const TAKE: u8 = b't';
pub(crate) const GIVE: u8 = b'g';

pub(crate) const QUESTION_SIZE: usize = 100;
pub(crate) const ANSWER_SIZE: usize = 250;

/// Bytes of one read or write of bulk.
pub(crate) const CHUNK: usize = 256 * 1024;
/// Chunks in a row of one connection before others get a turn.
const TURN: usize = 4;
/// What the event of the listener is called.
pub(crate) const LISTENER: u64 = u64::MAX;
const BACKLOG: i32 = 4096;

/// Serves until it is ended from outside. Each thread has a listener of its own.
pub(crate) fn serve(port: u16) -> Result<Value, Problem> {
    let listeners = (0..threads()).map(|_| listen(port)).collect::<Result<Vec<_>, _>>()?;
    side_by_side(listeners.into_iter().map(|listener| move || run(&listener)))?;
    Ok(json!({}))
}

pub(crate) fn listen(port: u16) -> Result<TcpListener, Problem> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::sockopt::set_socket_reuseport(&socket, true)?;
    rustix::net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
    rustix::net::listen(&socket, BACKLOG)?;
    let listener = TcpListener::from(socket);
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// The next client, whose bytes are an event of this number.
pub(crate) fn accept(listener: &TcpListener, poll: impl AsFd, number: u64) -> Result<Option<TcpStream>, Problem> {
    let Ok((stream, _)) = listener.accept() else { return Ok(None) };
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    epoll::add(poll, &stream, EventData::new_u64(number), EventFlags::IN)?;
    Ok(Some(stream))
}

/// What a connection is for, as far as it is known.
enum Wish {
    Unknown,
    Answers {
        /// Bytes of a question that is not whole yet.
        pending: usize,
    },
    Take,
    Give,
}

struct Connection {
    stream: TcpStream,
    wish: Wish,
}

/// What is to become of a connection.
#[derive(PartialEq)]
enum Then {
    Stays,
    Ends,
}

fn run(listener: &TcpListener) -> Result<(), Problem> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&poll, listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut connections: HashMap<u64, Connection> = HashMap::new();
    let mut next = 0;
    let mut events = Vec::with_capacity(256);
    let mut room = vec![b'x'; CHUNK];
    loop {
        if let Err(error) = epoll::wait(&poll, spare_capacity(&mut events), None)
            && error != rustix::io::Errno::INTR
        {
            return Err(error.into());
        }
        for event in events.drain(..) {
            let number = event.data.u64();
            if number == LISTENER {
                while let Some(stream) = accept(listener, &poll, next)? {
                    connections.insert(next, Connection { stream, wish: Wish::Unknown });
                    next += 1;
                }
                continue;
            }
            let Some(connection) = connections.get_mut(&number) else { continue };
            // A client that resets its connection is a client that is gone, as every other end.
            let then = connection.turn(&mut room).unwrap_or(Then::Ends);
            if matches!(connection.wish, Wish::Give) {
                epoll::modify(&poll, &connection.stream, EventData::new_u64(number), EventFlags::OUT)?;
            }
            if then == Then::Ends {
                connections.remove(&number);
            }
        }
    }
}

impl Connection {
    fn turn(&mut self, room: &mut [u8]) -> std::io::Result<Then> {
        for _ in 0..TURN {
            let moved = match self.wish {
                Wish::Give => self.stream.write(room),
                _ => self.stream.read(room),
            };
            let count = match moved {
                Ok(0) => return Ok(Then::Ends),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Then::Stays),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if matches!(self.wish, Wish::Unknown) {
                self.wish = match room[0] {
                    TAKE => Wish::Take,
                    GIVE => Wish::Give,
                    QUESTION => Wish::Answers { pending: 0 },
                    _ => return Ok(Then::Ends),
                };
            }
            if let Wish::Answers { pending } = &mut self.wish {
                *pending += count;
                while *pending >= QUESTION_SIZE {
                    *pending -= QUESTION_SIZE;
                    // A client asks again only when it has its answer, so there is room for it.
                    self.stream.write_all(&[b'a'; ANSWER_SIZE])?;
                }
                return Ok(Then::Stays);
            }
        }
        Ok(Then::Stays)
    }
}
