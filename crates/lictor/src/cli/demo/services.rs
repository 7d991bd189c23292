//! The example service: a small HTTP server that says hello, with keep-alive, so that `curl` can talk to it too.

use std::net::SocketAddr;

use anyhow::Result;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// What it says.
pub(super) const GREETING: &str = "hello from the mesh\n";

/// Listens on a free port of loopback and answers until the process ends.
pub(super) async fn start_hello() -> Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            // A client that goes away in the middle of a request is the client's business.
            tokio::spawn(async move { serve(connection).await.ok() });
        }
    });
    Ok(address)
}

async fn serve(connection: TcpStream) -> std::io::Result<()> {
    connection.set_nodelay(true)?;
    let mut connection = BufReader::new(connection);
    let mut line = String::new();
    loop {
        // Requests have no body: a head ends with an empty line.
        loop {
            line.clear();
            if connection.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            if line == "\r\n" || line == "\n" {
                break;
            }
        }
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{GREETING}",
            GREETING.len()
        );
        connection.get_mut().write_all(answer.as_bytes()).await?;
    }
}
