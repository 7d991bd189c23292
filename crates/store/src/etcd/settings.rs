//! How etcd is reached, and how this store lies in it.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use zeroize::Zeroizing;

use crate::Error;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(2);

/// Between two pings of a connection with open requests. etcd ends connections that ping more often than every five
/// seconds.
const PING: Duration = Duration::from_secs(7);

/// How long the answer to a ping may take.
const PONG: Duration = Duration::from_secs(4);

/// What a connection to etcd needs.
#[derive(Clone, Default)]
pub struct EtcdSettings {
    /// Addresses of members, `https://host:2379`; one is used at a time, the others when it fails.
    pub endpoints: Vec<String>,
    /// First part of every key, so that several stores and other users can share one etcd.
    pub prefix: String,
    /// PEM file of the authorities that the members' certificates are checked against.
    pub ca_file: Option<PathBuf>,
    /// PEM files of our certificate and its key, where etcd asks for one.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Name and password, where etcd has users.
    pub user: Option<(String, Zeroizing<String>)>,
}

impl fmt::Debug for EtcdSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdSettings")
            .field("endpoints", &self.endpoints)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

impl EtcdSettings {
    /// The endpoints with everything that a connection needs, beside how each is called in messages.
    pub(crate) fn endpoints(&self) -> Result<Vec<(String, Endpoint)>, Error> {
        if self.endpoints.is_empty() {
            return Err(wrong("endpoints", "there are none"));
        }
        let tls = self.tls()?;
        self.endpoints.iter().map(|address| self.endpoint(address, tls.as_ref())).collect()
    }

    fn endpoint(&self, address: &str, tls: Option<&ClientTlsConfig>) -> Result<(String, Endpoint), Error> {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let full = if address.contains("://") { address.to_owned() } else { format!("{scheme}://{address}") };
        let endpoint = Endpoint::from_shared(full.clone()).map_err(|error| wrong(address, &error.to_string()))?;
        let endpoint = endpoint
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(PING)
            .keep_alive_timeout(PONG);
        let endpoint = match (endpoint.uri().scheme_str(), tls) {
            (Some("https"), Some(tls)) => {
                endpoint.tls_config(tls.clone()).map_err(|error| wrong(address, &chain(&error)))?
            }
            (Some("https"), None) => return Err(wrong(address, "https needs the authority's certificate (ca_file)")),
            (Some("http"), None) => endpoint,
            (Some("http"), Some(_)) => {
                return Err(wrong(address, "http would not be encrypted although TLS files are given: write https"));
            }
            _ => return Err(wrong(address, "write http://host:port or https://host:port")),
        };
        Ok((full, endpoint))
    }

    fn tls(&self) -> Result<Option<ClientTlsConfig>, Error> {
        let Some(ca) = &self.ca_file else {
            return match &self.identity {
                Some((cert, _)) => Err(wrong(&cert.display().to_string(), "a certificate needs ca_file beside it")),
                None => Ok(None),
            };
        };
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&*read(ca)?));
        if let Some((cert, key)) = &self.identity {
            tls = tls.identity(Identity::from_pem(&*read(cert)?, &*read(key)?));
        }
        Ok(Some(tls))
    }

    /// The prefix, closed by a slash.
    pub(crate) fn root(&self) -> String {
        match self.prefix.as_str() {
            "" => "lictor/".to_owned(),
            closed if closed.ends_with('/') => closed.to_owned(),
            open => format!("{open}/"),
        }
    }
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
    fs::read(path).map(Zeroizing::new).map_err(|source| Error::File {
        operation: "read TLS file",
        path: path.to_owned(),
        source: Arc::new(source),
    })
}

fn wrong(what: &str, detail: &str) -> Error {
    Error::Endpoint { endpoint: what.to_owned(), detail: detail.to_owned() }
}

/// An error with its causes, each said once.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let next_text = next.to_string();
        if !text.contains(&next_text) {
            text = format!("{text}: {next_text}");
        }
        cause = next.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_closed_and_has_a_default() {
        let root = |prefix: &str| EtcdSettings { prefix: prefix.to_owned(), ..EtcdSettings::default() }.root();
        assert_eq!((root(""), root("a"), root("a/b/")), ("lictor/".into(), "a/".into(), "a/b/".into()));
    }

    #[test]
    fn an_endpoint_that_would_not_be_encrypted_as_asked_is_refused() {
        let settings = |endpoint: &str| EtcdSettings { endpoints: vec![endpoint.into()], ..EtcdSettings::default() };
        assert!(settings("http://127.0.0.1:2379").endpoints().is_ok());
        assert!(settings("127.0.0.1:2379").endpoints().is_ok());
        assert!(settings("https://127.0.0.1:2379").endpoints().is_err(), "no authority to check it against");
        assert!(settings("ftp://127.0.0.1").endpoints().is_err());
        assert!(EtcdSettings::default().endpoints().is_err());
    }

    #[test]
    fn the_password_is_not_shown() {
        let user = Some(("lictor".to_owned(), Zeroizing::new("hunter2".to_owned())));
        let shown = format!("{:?}", EtcdSettings { user, ..EtcdSettings::default() });
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
