//! Connect to `host:port`, with the error texts people know from the original.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use tokio::net::TcpStream;

use crate::room;

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum Refused {
    /// The address has no port.
    NoPort(String),
    /// The name has no address.
    Lookup(String, String),
    /// This address did not answer.
    Connect(SocketAddr, io::Error),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::NoPort(address) => write!(f, "dial tcp: address {address}: missing port in address"),
            Refused::Lookup(host, cause) => write!(f, "dial tcp: lookup {host}: {cause}"),
            Refused::Connect(address, cause) if cause.kind() == io::ErrorKind::TimedOut => {
                write!(f, "dial tcp {address}: connect: connection timed out")
            }
            Refused::Connect(address, cause) => write!(f, "dial tcp {address}: connect: {}", cause_text(cause)),
        }
    }
}

/// Connects to the first address of `host:port` that answers; the error is that of the first one.
pub(crate) async fn tcp(address: &str) -> Result<TcpStream, Refused> {
    let (host, port) = split(address).ok_or_else(|| Refused::NoPort(address.to_owned()))?;
    let lookup = |cause: &str| Refused::Lookup(host.to_owned(), cause.to_owned());
    // A bare port means this machine, as the original has it.
    let name = if host.is_empty() { "127.0.0.1" } else { host };
    let found = room::wait(|| tokio::net::lookup_host((name, port)))
        .await
        .map_err(|cause| if room::is_short(&cause) { lookup(&cause_text(&cause)) } else { lookup("no such host") })?;
    let mut refused = None;
    for address in found {
        match room::wait(|| TcpStream::connect(address)).await {
            Ok(stream) => return Ok(stream),
            Err(cause) => {
                refused.get_or_insert(Refused::Connect(address, cause));
            }
        }
    }
    Err(refused.unwrap_or_else(|| lookup("no such host")))
}

/// `host:port`, with brackets around an IPv6 address.
pub(crate) fn split(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let port = port.parse().ok()?;
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(inner) => Some((inner, port)),
        None if host.contains(':') => None,
        None => Some((host, port)),
    }
}

/// The text of the operating system in the form of the original: lower case, without the number.
pub(crate) fn cause_text(cause: &io::Error) -> String {
    let text = cause.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    match letters.next() {
        // "No such file" but not "RPC failed".
        Some(first) if !letters.clone().next().is_some_and(char::is_uppercase) => {
            first.to_lowercase().chain(letters).collect()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_split_at_the_port() {
        assert_eq!(split("host:80"), Some(("host", 80)));
        assert_eq!(split("[::1]:80"), Some(("::1", 80)));
        assert_eq!(split(":80"), Some(("", 80)));
        for broken in ["host", "::1", "::1:80", "host:http", "host:99999", ""] {
            assert_eq!(split(broken), None, "{broken}");
        }
    }

    #[tokio::test]
    async fn refusals_have_the_known_texts() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        assert!(tcp(&address).await.is_ok());
        drop(listener);
        let refused = tcp(&address).await.unwrap_err().to_string();
        assert_eq!(refused, format!("dial tcp {address}: connect: connection refused"));
        assert_eq!(tcp("host").await.unwrap_err().to_string(), "dial tcp: address host: missing port in address");
        let unknown = tcp("no-such-host.invalid:80").await.unwrap_err().to_string();
        assert_eq!(unknown, "dial tcp: lookup no-such-host.invalid: no such host");
    }
}
