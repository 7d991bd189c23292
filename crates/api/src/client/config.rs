//! How a client reaches its agent, and as whom.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::Error;
use super::address::{Address, Scheme};
use super::link::Encrypt;

/// How a client reaches its agent, and as whom.
#[derive(Clone, Default)]
pub struct Config {
    /// Where the agent listens.
    pub address: Address,
    /// The caller's secret; empty sends none.
    pub token: String,
    /// The datacenter that requests are about; empty means the agent's.
    pub datacenter: String,
    /// How current answers must be.
    pub consistency: Consistency,
    /// `user:password` for a proxy in front of the agent; empty sends none.
    pub basic_auth: String,
    /// What an encrypted connection needs; read by whoever makes [`Config::encrypt`].
    pub tls: TlsFiles,
    /// Makes plain connections encrypted ones; without it, `https` addresses cannot be reached.
    pub encrypt: Option<Arc<dyn Encrypt>>,
    /// The longest a request that does not block may take.
    pub timeout: RequestTimeout,
}

/// How current answers must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// The agent's usual way.
    #[default]
    Default,
    /// Any server may answer from what it has.
    Stale,
}

/// The longest a request that does not block may take; half a minute unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestTimeout(pub Duration);

impl Default for RequestTimeout {
    fn default() -> Self {
        RequestTimeout(Duration::from_secs(30))
    }
}

/// What an encrypted connection to the agent needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates to trust; PEM.
    pub ca_file: Option<PathBuf>,
    /// Directory of such files.
    pub ca_path: Option<PathBuf>,
    /// The client's certificate; PEM.
    pub client_cert: Option<PathBuf>,
    /// Its key; PEM.
    pub client_key: Option<PathBuf>,
    /// The name that the agent's certificate must have, if not the host's.
    pub server_name: Option<String>,
    /// Whether the agent's certificate is checked.
    pub verify: bool,
}

impl Default for TlsFiles {
    fn default() -> Self {
        TlsFiles { ca_file: None, ca_path: None, client_cert: None, client_key: None, server_name: None, verify: true }
    }
}

impl Config {
    /// Reads the variables that the original's clients know; `get` looks one up. An empty variable counts as unset.
    pub fn from_env(get: impl Fn(&str) -> Option<String>) -> Result<Config, Error> {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let flag = |name: &'static str, default| match get(name).as_deref() {
            None => Ok(default),
            Some("1" | "t" | "T" | "TRUE" | "true" | "True") => Ok(true),
            Some("0" | "f" | "F" | "FALSE" | "false" | "False") => Ok(false),
            Some(_) => Err(Error::Variable(name)),
        };
        let scheme = if flag("CONSUL_HTTP_SSL", false)? { Scheme::Https } else { Scheme::Http };
        let address = match (get("CONSUL_HTTP_ADDR"), Address::default()) {
            (Some(text), _) => Address::parse(&text, scheme)?,
            (None, Address::Tcp { host, port, .. }) => Address::Tcp { scheme, host, port },
            (None, unix @ Address::Unix(_)) => unix,
        };
        Ok(Config {
            address,
            token: get("CONSUL_HTTP_TOKEN").unwrap_or_default(),
            basic_auth: get("CONSUL_HTTP_AUTH").unwrap_or_default(),
            tls: TlsFiles {
                ca_file: get("CONSUL_CACERT").map(PathBuf::from),
                ca_path: get("CONSUL_CAPATH").map(PathBuf::from),
                client_cert: get("CONSUL_CLIENT_CERT").map(PathBuf::from),
                client_key: get("CONSUL_CLIENT_KEY").map(PathBuf::from),
                server_name: get("CONSUL_TLS_SERVER_NAME"),
                verify: flag("CONSUL_HTTP_SSL_VERIFY", true)?,
            },
            ..Config::default()
        })
    }
}

/// Shows everything but the secrets.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Config { address, token: _, datacenter, consistency, basic_auth: _, tls, encrypt: _, timeout } = self;
        f.debug_struct("Config")
            .field("address", address)
            .field("datacenter", datacenter)
            .field("consistency", consistency)
            .field("tls", tls)
            .field("timeout", timeout)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(variables: &[(&str, &str)]) -> Result<Config, Error> {
        Config::from_env(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_usual_variables_are_read() {
        let config = from(&[
            ("CONSUL_HTTP_ADDR", "10.0.0.1:1234"),
            ("CONSUL_HTTP_TOKEN", "geheim"),
            ("CONSUL_HTTP_SSL", "true"),
            ("CONSUL_HTTP_SSL_VERIFY", "0"),
            ("CONSUL_CACERT", "/ca.pem"),
            ("CONSUL_TLS_SERVER_NAME", ""),
        ])
        .unwrap();
        assert_eq!(config.address.to_string(), "https://10.0.0.1:1234");
        assert_eq!(config.token, "geheim");
        let tls = TlsFiles { ca_file: Some("/ca.pem".into()), verify: false, ..TlsFiles::default() };
        assert_eq!(config.tls, tls);
        assert!(!format!("{config:?}").contains("geheim"));
        assert_eq!(from(&[]).unwrap().address, Address::default());
        assert_eq!(from(&[("CONSUL_HTTP_SSL", "1")]).unwrap().address.to_string(), "https://127.0.0.1:8500");
    }

    #[test]
    fn a_variable_that_cannot_be_read_is_named() {
        let error = from(&[("CONSUL_HTTP_SSL", "maybe")]).unwrap_err();
        assert_eq!(error.to_string(), "environment variable CONSUL_HTTP_SSL is neither true nor false");
        assert!(matches!(from(&[("CONSUL_HTTP_ADDR", "ftp://x")]), Err(Error::Address(_))));
    }
}
