//! The server side of plain HTTPS: the agent's API over TLS, with certificates from files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use rustls::version::{TLS12, TLS13};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

use crate::error::Error;
use crate::leaf::certificates_from_pem;
use crate::stream::SecureStream;
use crate::suite::{KeyExchange, provider, restricted};
use crate::trust::{read, roots};

/// Whether clients must show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Clients {
    /// Anybody may come.
    #[default]
    Any,
    /// Only holders of a certificate of the given CAs.
    Verified,
}

/// The oldest version that is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MinVersion {
    /// TLS 1.2; older ones are not spoken whatever is configured.
    #[default]
    Tls12,
    /// TLS 1.3.
    Tls13,
}

/// What an HTTPS listener is made from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// The server's certificate, then intermediates; PEM.
    pub certificate: PathBuf,
    /// Its key; PEM.
    pub key: PathBuf,
    /// CAs of clients; PEM.
    pub ca_file: Option<PathBuf>,
    /// A directory of such files.
    pub ca_path: Option<PathBuf>,
    /// Whether clients must show a certificate.
    pub clients: Clients,
    /// The oldest version that is spoken.
    pub min_version: MinVersion,
    /// The cipher suites of TLS 1.2 that are spoken, by their usual names; `None` means all that are good.
    pub suites: Option<Vec<String>>,
    /// Whose wish for a cipher suite counts first.
    pub order: Order,
}

/// Whose wish for a cipher suite counts first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// The client's.
    #[default]
    Clients,
    /// The server's.
    Servers,
}

/// Accepts HTTPS connections. Files are read again by [`Acceptor::read_anew`]; connections that are open then stay.
pub struct Acceptor {
    files: Files,
    current: ArcSwap<ServerConfig>,
}

/// Certificates and keys that were read and are not in use yet.
#[derive(Debug)]
pub struct Renewal(Arc<ServerConfig>);

impl Acceptor {
    /// Reads the files.
    pub fn load(files: Files) -> Result<Acceptor, Error> {
        let config = configure(&files)?;
        Ok(Acceptor { files, current: ArcSwap::from_pointee(config) })
    }

    /// Reads the files that another one names, for [`Acceptor::renew`]. What is no file stays as it is here.
    pub fn read_anew(&self, other: &Acceptor) -> Result<Renewal, Error> {
        let Files { certificate, key, ca_file, ca_path, .. } = other.files.clone();
        let config = configure(&Files { certificate, key, ca_file, ca_path, ..self.files.clone() })?;
        Ok(Renewal(Arc::new(config)))
    }

    /// From now on connections are accepted with what was read.
    pub fn renew(&self, renewal: Renewal) {
        self.current.store(renewal.0);
    }

    /// Shakes hands as the server. The caller sets the time limit.
    pub async fn accept<S>(&self, stream: S) -> std::io::Result<SecureStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let stream = TlsAcceptor::from(self.current.load_full()).accept(stream).await?;
        Ok(SecureStream::from(tokio_rustls::TlsStream::Server(stream)))
    }
}

fn configure(files: &Files) -> Result<ServerConfig, Error> {
    let versions: &[_] = match files.min_version {
        MinVersion::Tls12 => &[&TLS13, &TLS12],
        MinVersion::Tls13 => &[&TLS13],
    };
    let chain = certificates_from_pem(&read(&files.certificate)?)?;
    if chain.is_empty() {
        return Err(Error::NoCertificate);
    }
    let key = private_key(&files.key)?;
    let mut provider = provider(KeyExchange::Classical);
    if let Some(wanted) = &files.suites {
        provider = restricted(&provider, wanted);
    }
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(|source| Error::Configuration(source.into()))?;
    let builder = match files.clients {
        Clients::Any => builder.with_no_client_auth(),
        Clients::Verified => {
            let roots = Arc::new(roots(files.ca_file.as_deref(), files.ca_path.as_deref())?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                .build()
                .map_err(|problem| Error::Certificate(problem.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|source| Error::Key(source.into()))?;
    config.ignore_client_order = files.order == Order::Servers;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

pub(crate) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::from_pem_slice(read(path)?.as_bytes())
        .map_err(|source| Error::Pem { what: "a private key", source: source.into() })
}
