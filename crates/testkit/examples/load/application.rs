//! The application behind the proxies. What a connection is for is said by its first byte:
//!
//! * [`QUESTION`]: each 100 bytes are answered with 250.
//! * [`TAKE`]: everything is taken until the client ends its side; then this side ends too.
//! * [`GIVE`]: bytes are given until the client goes.
//!
//! What takes or gives has a thread of its own, so that no question waits here for bulk: what makes it wait is measured.

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

/// Who asks questions, or has not said anything yet.
struct Connection {
    stream: TcpStream,
    /// Bytes of a question that is not whole yet.
    pending: Option<usize>,
}

/// What is to become of a connection.
enum Then {
    Stays,
    Ends,
    Bulk { gives: bool },
}

fn run(listener: &TcpListener) -> Result<(), Problem> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&poll, listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut connections: HashMap<u64, Connection> = HashMap::new();
    let mut next = 0;
    let mut events = Vec::with_capacity(256);
    let mut room = vec![0; CHUNK];
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
                    connections.insert(next, Connection { stream, pending: None });
                    next += 1;
                }
                continue;
            }
            let Some(connection) = connections.get_mut(&number) else { continue };
            // A client that resets its connection is a client that is gone, as every other end.
            match connection.turn(&mut room).unwrap_or(Then::Ends) {
                Then::Stays => {}
                Then::Ends => drop(connections.remove(&number)),
                Then::Bulk { gives } => {
                    let Some(Connection { stream, .. }) = connections.remove(&number) else { continue };
                    epoll::delete(&poll, &stream)?;
                    stream.set_nonblocking(false)?;
                    std::thread::spawn(move || move_all(stream, gives));
                }
            }
        }
    }
}

impl Connection {
    fn turn(&mut self, room: &mut [u8]) -> std::io::Result<Then> {
        let count = match self.stream.read(room) {
            Ok(0) => return Ok(Then::Ends),
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Ok(Then::Stays);
            }
            Err(error) => return Err(error),
        };
        if self.pending.is_none() {
            match room[0] {
                QUESTION => {}
                TAKE => return Ok(Then::Bulk { gives: false }),
                GIVE => return Ok(Then::Bulk { gives: true }),
                _ => return Ok(Then::Ends),
            }
        }
        let pending = self.pending.get_or_insert(0);
        *pending += count;
        while *pending >= QUESTION_SIZE {
            *pending -= QUESTION_SIZE;
            // A client asks again only when it has its answer, so there is room for it.
            self.stream.write_all(&[b'a'; ANSWER_SIZE])?;
        }
        Ok(Then::Stays)
    }
}

/// Takes or gives until the client ends.
fn move_all(mut stream: TcpStream, gives: bool) {
    let mut room = vec![b'x'; CHUNK];
    loop {
        let moved = if gives { stream.write(&room) } else { stream.read(&mut room) };
        match moved {
            Ok(0) => return,
            Err(error) if error.kind() != ErrorKind::Interrupted => return,
            Ok(_) | Err(_) => {}
        }
    }
}
