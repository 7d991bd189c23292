//! An application behind the mesh and a client of it, for tests of the package.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up shall fail")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

/// An application that sends back what it gets.
pub(crate) fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut connection in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut buffer = [0; 64];
                while let Ok(read @ 1..) = connection.read(&mut buffer) {
                    let _ = connection.write_all(&buffer[..read]);
                }
            });
        }
    });
    port
}

/// Sends a few bytes and waits for as many, each for so long.
pub(crate) fn exchange(connection: &mut TcpStream, limit: Duration) -> std::io::Result<()> {
    connection.set_read_timeout(Some(limit))?;
    connection.write_all(b"ping")?;
    let mut back = [0; 4];
    connection.read_exact(&mut back)
}
