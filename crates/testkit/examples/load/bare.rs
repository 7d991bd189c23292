//! Programs that do nothing else than what no agent can do without: the bounds of the machine, for comparison.

use std::collections::HashMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use serde_json::{Value, json};

use crate::application::{LISTENER, accept, listen};
use crate::turns::{Problem, side_by_side, threads};

/// Answers each question over UDP with the same address, with as many threads as there are processors on one socket, until it
/// is ended from outside.
pub(crate) fn names(port: u16) -> Result<Value, Problem> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, port))?;
    let workers = (0..threads()).map(|_| socket.try_clone()).collect::<Result<Vec<_>, _>>()?;
    side_by_side(workers.into_iter().map(|socket| move || answer_names(&socket)))?;
    Ok(json!({}))
}

fn answer_names(socket: &UdpSocket) -> Result<(), Problem> {
    let mut packet = [0; 512];
    loop {
        let (length, from) = socket.recv_from(&mut packet[..256])?;
        if length < 12 {
            continue;
        }
        // An answer, without an error, with one record.
        packet[2..4].copy_from_slice(&[0x85, 0x00]);
        packet[7] = 1;
        // The name that was asked for, A, IN, no time to live, four bytes.
        let record = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 10, 0, 0, 1];
        packet[length..length + record.len()].copy_from_slice(&record);
        socket.send_to(&packet[..length + record.len()], from)?;
    }
}

/// Writes the body of each request behind the others in a file, and says so once the disk has it: what came meanwhile is
/// written together. Until it is ended from outside.
pub(crate) fn durable(port: u16, file: &str) -> Result<Value, Problem> {
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntrue";
    let mut file = File::create(file)?;
    let listener = listen(port)?;
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&poll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut connections: HashMap<u64, (TcpStream, Vec<u8>)> = HashMap::new();
    let (mut events, mut room, mut next) = (Vec::with_capacity(256), [0; 4096], 0);
    loop {
        epoll::wait(&poll, spare_capacity(&mut events), None)?;
        let mut whole = Vec::new();
        for event in events.drain(..) {
            let number = event.data.u64();
            if number == LISTENER {
                while let Some(stream) = accept(&listener, &poll, next)? {
                    connections.insert(next, (stream, Vec::new()));
                    next += 1;
                }
                continue;
            }
            let Some((stream, question)) = connections.get_mut(&number) else { continue };
            match stream.read(&mut room) {
                Ok(count) if count > 0 => question.extend_from_slice(&room[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Ok(_) | Err(_) => {
                    connections.remove(&number);
                    continue;
                }
            }
            // The last character of a registration stands nowhere else in one.
            if question.ends_with(b"}}") {
                file.write_all(question)?;
                question.clear();
                whole.push(number);
            }
        }
        if whole.is_empty() {
            continue;
        }
        file.sync_data()?;
        for number in whole {
            if let Some((stream, _)) = connections.get_mut(&number) {
                stream.write_all(ANSWER)?;
            }
        }
    }
}
