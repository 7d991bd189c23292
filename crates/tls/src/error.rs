//! What can go wrong here, and why a peer is turned away.

use std::fmt;
use std::io;

use lictor_model::identity::IdentityError;

/// Why a credential could not be used or a connection could not be secured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Text that should hold PEM blocks does not.
    #[error("cannot read {what} from PEM")]
    Pem {
        /// What was looked for.
        what: &'static str,
        /// What the reader says.
        #[source]
        source: Cause,
    },
    /// The PEM text holds no certificate.
    #[error("no certificate in the PEM text")]
    NoCertificate,
    /// A certificate that does not parse.
    #[error("cannot read a certificate: {0}")]
    Certificate(String),
    /// A key that cannot be used with its certificate.
    #[error("cannot use the private key")]
    Key(#[source] Cause),
    /// Our own leaf does not carry the identity of a service.
    #[error("the leaf carries no service identity: {0}")]
    Identity(Refusal),
    /// A file that cannot be read.
    #[error("cannot read {path}")]
    File {
        /// Which one.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Settings that the library does not accept.
    #[error("cannot build a TLS configuration")]
    Configuration(#[source] Cause),
    /// No leaf or no roots were installed so far.
    #[error("no certificates yet")]
    NoCredentials,
    /// We do not accept the peer.
    #[error("peer refused: {0}")]
    Refused(Refusal),
    /// The peer broke the protocol or sent a fatal alert.
    #[error("TLS handshake failed")]
    Handshake(#[source] Cause),
    /// The peer closed before it sent a byte, as health checks do.
    #[error("closed before the first byte")]
    Silent,
    /// The peer closed in the middle of the handshake.
    #[error("closed during the handshake")]
    Closed,
    /// The peer sent more than a handshake may hold.
    #[error("handshake message too large")]
    TooLarge,
    /// The socket failed.
    #[error("connection failed")]
    Io(#[source] io::Error),
}

impl Error {
    /// Whether the peer turned us away with an alert about our certificate, so that another try with the same
    /// credentials makes no sense.
    pub fn is_refusal_by_peer(&self) -> bool {
        matches!(self, Error::Handshake(Cause::Tls(rustls::Error::AlertReceived(_))))
    }
}

/// An error of the libraries behind this room, kept only to be shown.
#[derive(Debug)]
pub enum Cause {
    /// From the TLS library.
    #[doc(hidden)]
    Tls(rustls::Error),
    /// From the PEM reader.
    #[doc(hidden)]
    Pem(rustls_pki_types::pem::Error),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Tls(error) => error.fmt(f),
            Cause::Pem(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Cause {}

impl From<rustls::Error> for Cause {
    fn from(error: rustls::Error) -> Cause {
        Cause::Tls(error)
    }
}

impl From<rustls_pki_types::pem::Error> for Cause {
    fn from(error: rustls_pki_types::pem::Error) -> Cause {
        Cause::Pem(error)
    }
}

/// Why we do not accept a peer. Never sent to it: all it sees is `bad_certificate`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It showed no certificate.
    NoCertificate,
    /// Its certificate does not lead to one of our roots, or not now, or not for this use.
    Chain(String),
    /// Its certificate cannot be read.
    Unreadable(String),
    /// Its certificate carries no URI.
    NoUri,
    /// The first URI is no identity of ours.
    Uri {
        /// As written in the certificate.
        uri: String,
        /// What is wrong with it.
        problem: IdentityError,
    },
    /// The first URI is the identity of a CA.
    NotAService(String),
    /// Not the service that was dialled.
    Mismatch {
        /// What it is.
        got: String,
        /// What was looked for.
        want: String,
    },
    /// Its leaf has expired since the session that it resumes was made.
    Expired,
    /// An intention, or the default, says no.
    Denied(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::NoCertificate => f.write_str("no client certificate"),
            Refusal::Chain(problem) => write!(f, "certificate not trusted: {problem}"),
            Refusal::Unreadable(problem) => write!(f, "unreadable certificate: {problem}"),
            Refusal::NoUri => f.write_str("invalid leaf certificate: no URI"),
            Refusal::Uri { uri, problem } => write!(f, "invalid leaf certificate URI {uri}: {problem}"),
            Refusal::NotAService(uri) => write!(f, "{uri} is not the identity of a service"),
            Refusal::Mismatch { got, want } => write!(f, "peer certificate mismatch got {got}, want {want}"),
            Refusal::Expired => f.write_str("certificate expired"),
            Refusal::Denied(reason) => write!(f, "denied: {reason}"),
        }
    }
}
