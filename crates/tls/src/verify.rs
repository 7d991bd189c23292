//! The checks that run inside a handshake: chain, identity, and the gate's decision.
//!
//! The library's own verifiers insist on server names, which Connect leaves do not have, so ours are written against
//! the path builder directly. Signatures over the handshake are checked by the library's functions.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error as TlsError, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::bundle::{Bundle, Role};
use crate::error::Refusal;
use crate::known::Known;
use crate::peer::Peer;

/// Decides whether a client whose certificate is in order may come in.
///
/// Asked during the handshake, so that a client of TLS 1.2 learns of a refusal by an alert, and once more after it,
/// because a resumed handshake shows no certificate. Must not block; answers in microseconds.
pub trait Gate: Send + Sync {
    /// `Err` turns the client away.
    fn admit(&self, client: &Peer) -> Result<(), Refusal>;
}

impl<F: Fn(&Peer) -> Result<(), Refusal> + Send + Sync> Gate for F {
    fn admit(&self, client: &Peer) -> Result<(), Refusal> {
        self(client)
    }
}

thread_local! {
    /// Why a verifier just said no. The library carries a reason only together with an alert of its own choice, but
    /// all our refusals are `bad_certificate`; a verifier runs synchronously below the handshake, so its reason is
    /// picked up on the same thread right after the call that failed.
    static REASON: RefCell<Option<Refusal>> = const { RefCell::new(None) };
}

/// Takes the reason left by a verifier on this thread.
pub(crate) fn take_reason() -> Option<Refusal> {
    REASON.take()
}

/// Leaves the reason and returns the one error that becomes the alert `bad_certificate`.
fn refuse(reason: Refusal) -> TlsError {
    REASON.set(Some(reason));
    TlsError::InvalidCertificate(CertificateError::NotValidForName)
}

/// Checks clients that dial us.
pub(crate) struct ClientCheck {
    pub(crate) bundle: Arc<Bundle>,
    pub(crate) known: Arc<Known>,
    pub(crate) gate: Arc<dyn Gate>,
    pub(crate) algorithms: WebPkiSupportedAlgorithms,
    /// Only with TLS 1.2: there the library can be told to fail in the right place. With 1.3 it would answer with
    /// another alert, so a client without certificate is let through and refused right after.
    pub(crate) mandatory: bool,
}

impl fmt::Debug for ClientCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCheck").field("bundle", &self.bundle).finish_non_exhaustive()
    }
}

impl ClientCertVerifier for ClientCheck {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.bundle.subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        self.known
            .check(&self.bundle, end_entity, intermediates, Role::Client, now)
            .and_then(|()| self.known.peer(end_entity))
            .and_then(|client| self.gate.admit(&client))
            .map(|()| ClientCertVerified::assertion())
            .map_err(refuse)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Checks servers that we dial: the chain only. Which identity is expected differs from dial to dial, while sessions
/// can be resumed only under one and the same verifier; so the identity is compared after the handshake, resumed or
/// not, before a byte is sent.
pub(crate) struct ServerCheck {
    pub(crate) bundle: Arc<Bundle>,
    pub(crate) known: Arc<Known>,
    pub(crate) algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for ServerCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerCheck").field("bundle", &self.bundle).finish_non_exhaustive()
    }
}

impl ServerCertVerifier for ServerCheck {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        self.known
            .check(&self.bundle, end_entity, intermediates, Role::Server, now)
            .map(|()| ServerCertVerified::assertion())
            .map_err(refuse)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
