//! The leaf: our certificate, the intermediates behind it, and the key that proves it is ours.

use std::fmt;
use std::sync::Arc;

use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::error::{Cause, Error};
use crate::peer::Peer;
use crate::suite::{KeyExchange, provider};

/// A usable leaf: identity known, key fitting the certificate.
#[derive(Clone)]
pub struct Leaf {
    pub(crate) key: Arc<CertifiedKey>,
    who: Arc<Peer>,
}

impl Leaf {
    /// Takes the leaf and its intermediates, and a key in SEC1, PKCS#8 or PKCS#1 form. Text around the PEM blocks,
    /// CRLF and missing final newlines do not matter.
    pub fn from_pem(certificates: &str, key: &str) -> Result<Leaf, Error> {
        let chain = certificates_from_pem(certificates)?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
            .map_err(|source| Error::Pem { what: "a private key", source: source.into() })?;
        let first = chain.first().ok_or(Error::NoCertificate)?;
        let who = Peer::from_der(first).map_err(Error::Identity)?;
        let key = CertifiedKey::from_der(chain, key, &provider(KeyExchange::Classical))
            .map_err(|source| Error::Key(source.into()))?;
        Ok(Leaf { key: Arc::new(key), who: Arc::new(who) })
    }

    /// Who this leaf says we are, and for how long.
    pub fn who(&self) -> &Peer {
        &self.who
    }

    /// How many certificates are sent: the leaf and its intermediates.
    pub fn chain_len(&self) -> usize {
        self.key.cert.len()
    }

    /// The certificates in DER form, leaf first.
    pub(crate) fn chain(&self) -> &[CertificateDer<'static>] {
        &self.key.cert
    }
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaf").field("who", &self.who).finish_non_exhaustive()
    }
}

/// Every certificate of a PEM text, in its order.
pub(crate) fn certificates_from_pem(text: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    CertificateDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| Error::Pem { what: "certificates", source: Cause::from(source) })
}
