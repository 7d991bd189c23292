//! Where an agent's HTTP interface is.

use std::fmt;
use std::path::PathBuf;

use super::Error;

/// Whether a connection is encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheme {
    /// Plain text.
    #[default]
    Http,
    /// TLS.
    Https,
}

/// Where an agent's HTTP interface is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A TCP port.
    Tcp {
        /// Encrypted or not.
        scheme: Scheme,
        /// Host name or IP address, without brackets.
        host: String,
        /// Port.
        port: u16,
    },
    /// A unix socket.
    Unix(PathBuf),
}

impl Default for Address {
    fn default() -> Self {
        Address::Tcp { scheme: Scheme::Http, host: "127.0.0.1".into(), port: 8500 }
    }
}

impl Address {
    /// Reads `host:port`, `http://host:port`, `https://host:port` or `unix:///path`. A scheme in the text wins over
    /// `scheme`.
    pub fn parse(text: &str, scheme: Scheme) -> Result<Address, Error> {
        let invalid = || Error::Address(text.to_owned());
        let (scheme, rest) = match text.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') && !path.contains('\0') => {
                return Ok(Address::Unix(path.into()));
            }
            Some(("http", rest)) => (Scheme::Http, rest),
            Some(("https", rest)) => (Scheme::Https, rest),
            Some(_) => return Err(invalid()),
            None => (scheme, text),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.strip_prefix('[') {
            Some(bracketed) => {
                let (host, port) = bracketed.split_once(']').ok_or_else(invalid)?;
                if host.parse::<std::net::Ipv6Addr>().is_err() {
                    return Err(invalid());
                }
                (host, if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or_else(invalid)?) })
            }
            None => match rest.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            },
        };
        let plain = |b: u8| b.is_ascii_graphic() && !b"/?#@[]\\%\"<>".contains(&b);
        if host.is_empty() || !host.bytes().all(plain) {
            return Err(invalid());
        }
        let port = match (port, scheme) {
            (Some(port), _) => port.parse().map_err(|_| invalid())?,
            (None, Scheme::Http) => 80,
            (None, Scheme::Https) => 443,
        };
        Ok(Address::Tcp { scheme, host: host.to_owned(), port })
    }

    /// What the `Host` header says.
    pub(super) fn authority(&self) -> String {
        match self {
            Address::Tcp { host, port, .. } if host.contains(':') => format!("[{host}]:{port}"),
            Address::Tcp { host, port, .. } => format!("{host}:{port}"),
            Address::Unix(_) => "localhost".into(),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp { scheme: Scheme::Http, .. } => write!(f, "http://{}", self.authority()),
            Address::Tcp { scheme: Scheme::Https, .. } => write!(f, "https://{}", self.authority()),
            Address::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        assert_eq!(Address::parse(text, Scheme::Http).unwrap().to_string(), expected);
    }

    #[test]
    fn every_usual_form_is_read() {
        check("127.0.0.1:8500", "http://127.0.0.1:8500");
        check("http://localhost:8500/", "http://localhost:8500");
        check("https://agent.example", "https://agent.example:443");
        check("[::1]:8500", "http://[::1]:8500");
        check("http://[::1]", "http://[::1]:80");
        check("unix:///run/agent.sock", "unix:///run/agent.sock");
        assert_eq!(Address::parse("a:1", Scheme::Https).unwrap().to_string(), "https://a:1");
        assert_eq!(Address::parse("http://a:1", Scheme::Https).unwrap().to_string(), "http://a:1");
        assert_eq!(Address::default().to_string(), "http://127.0.0.1:8500");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in
            ["", ":8500", "a:b", "a:99999", "ftp://a:1", "unix://relative", "http://a/b", "[::1", "[x]:1", "a b:1"]
        {
            assert!(Address::parse(text, Scheme::Http).is_err(), "{text}");
        }
    }
}
