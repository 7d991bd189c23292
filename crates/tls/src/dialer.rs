//! The client side of plain HTTPS: how the command line and the proxy reach an agent behind TLS.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::error::Error;
use crate::leaf::certificates_from_pem;
use crate::listener::private_key;
use crate::stream::SecureStream;
use crate::suite::{KeyExchange, VERSIONS, provider};
use crate::trust::{read, roots, system_roots};

/// Whether the server's certificate is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verify {
    /// Against the CAs and the name.
    #[default]
    Server,
    /// Against the CAs alone: whoever has a certificate of theirs for servers is believed.
    Authority,
    /// Not at all: whoever answers is believed.
    Nothing,
}

/// What an HTTPS client is made from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// CAs to trust; PEM. Without file and path, those of the system.
    pub ca_file: Option<PathBuf>,
    /// A directory of such files.
    pub ca_path: Option<PathBuf>,
    /// The client's certificate and its key; PEM.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// The name that the certificate must have, if not the one that is dialled.
    pub server_name: Option<String>,
    /// Whether the server's certificate is checked.
    pub verify: Verify,
}

/// Dials HTTPS servers.
pub struct Dialer {
    config: Arc<ClientConfig>,
    /// The same for HTTP/2.
    http2: Arc<ClientConfig>,
    server_name: Option<String>,
}

impl Dialer {
    /// Reads the files.
    pub fn load(settings: &Settings) -> Result<Dialer, Error> {
        let provider = provider(KeyExchange::Classical);
        let verifier: Arc<dyn ServerCertVerifier> = match settings.verify {
            Verify::Nothing => Arc::new(Believe(Arc::clone(&provider))),
            Verify::Server | Verify::Authority => {
                let roots = match (&settings.ca_file, &settings.ca_path) {
                    (None, None) => system_roots(),
                    (file, path) => roots(file.as_deref(), path.as_deref())?,
                };
                let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                    .build()
                    .map_err(|problem| Error::Certificate(problem.to_string()))?;
                match settings.verify {
                    Verify::Authority => Arc::new(OfAuthority(verifier)),
                    _ => verifier,
                }
            }
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(VERSIONS)
            .map_err(|source| Error::Configuration(source.into()))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match &settings.certificate {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => builder
                .with_client_auth_cert(certificates_from_pem(&read(certificate)?)?, private_key(key)?)
                .map_err(|source| Error::Key(source.into()))?,
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut http2 = config.clone();
        http2.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Dialer { config: Arc::new(config), http2: Arc::new(http2), server_name: settings.server_name.clone() })
    }

    /// Shakes hands as the client; `host` is the name or address that was dialled. The caller sets the time limit.
    pub async fn connect(&self, stream: TcpStream, host: &str) -> io::Result<SecureStream> {
        self.connect_with(&self.config, stream, host).await
    }

    /// The same, for HTTP/2.
    pub async fn connect_http2(&self, stream: TcpStream, host: &str) -> io::Result<SecureStream> {
        self.connect_with(&self.http2, stream, host).await
    }

    async fn connect_with(
        &self,
        config: &Arc<ClientConfig>,
        stream: TcpStream,
        host: &str,
    ) -> io::Result<SecureStream> {
        let name = self.server_name.as_deref().unwrap_or(host).to_owned();
        let name = ServerName::try_from(name).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let stream = TlsConnector::from(Arc::clone(config)).connect(name, stream).await?;
        Ok(SecureStream::from(tokio_rustls::TlsStream::Client(stream)))
    }
}

/// Accepts what an authority has signed, whatever it is called.
#[derive(Debug)]
struct OfAuthority(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for OfAuthority {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        match self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is looked at last: all else is as it should be.
            Err(TlsError::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Accepts any certificate whose holder has its key; only when the user switched checking off.
struct Believe(Arc<CryptoProvider>);

impl fmt::Debug for Believe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Believe")
    }
}

impl ServerCertVerifier for Believe {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
