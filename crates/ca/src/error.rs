//! What can go wrong when keys are read and certificates are issued.

use std::time::Duration;

use lictor_model::identity::IdentityError;

/// What can go wrong. Texts that clients or peers see are the ones they know; none ever contains a key.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A text that should be PEM holds no PEM block of the wanted kind.
    #[error("no PEM-encoded data found")]
    NoPem,
    /// A private key of a kind we cannot sign with, or none at all.
    #[error("unsupported private key: an EC key on P-256 or P-384 or an RSA key of 2048 to 8192 bits is needed")]
    UnsupportedKey,
    /// A certificate that cannot be read.
    #[error("malformed certificate")]
    MalformedCertificate,
    /// A root certificate was given alone.
    #[error("must provide a private key when providing a root cert")]
    RootWithoutKey,
    /// A key and a certificate that do not belong together.
    #[error("private key does not belong to the root certificate")]
    ForeignKey,
    /// A root certificate that may not sign others.
    #[error("root certificate is not a CA certificate: {0}")]
    NotCa(&'static str),
    /// A root certificate that names another trust domain.
    #[error("root certificate has the URI {found}, we are {expected}")]
    ForeignRoot {
        /// What it names.
        found: String,
        /// What it should name.
        expected: String,
    },
    /// A root certificate outside its validity.
    #[error("root certificate is not valid now: {0}")]
    RootNotValid(&'static str),
    /// A CSR larger than any sane one.
    #[error("CSR is larger than {0} bytes")]
    CsrTooLarge(usize),
    /// A CSR that cannot be read.
    #[error("malformed CSR")]
    MalformedCsr,
    /// A CSR whose signature is not by the key inside, or by a kind of key that we do not know.
    #[error("CSR does not prove possession of its key")]
    NoPossession,
    /// A CSR that names no identity, or several.
    #[error("CSR must have exactly one URI SAN, it has {0}")]
    NotOneUri(usize),
    /// A CSR for something that is no SPIFFE id.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A CSR for something that is not a service.
    #[error("SPIFFE ID in CSR must be a service ID")]
    NotService,
    /// A CSR for another namespace than the one there is.
    #[error("SPIFFE ID in CSR from a different namespace: {0}, we are default")]
    ForeignNamespace(String),
    /// A CSR for another trust domain.
    #[error("SPIFFE ID in CSR from a different trust domain: {found}, we are {expected}")]
    ForeignTrustDomain {
        /// What it names.
        found: String,
        /// What it should name.
        expected: String,
    },
    /// A CSR for another datacenter.
    #[error("SPIFFE ID in CSR from a different datacenter: {found}, we are {expected}")]
    ForeignDatacenter {
        /// What it names.
        found: String,
        /// What it should name.
        expected: String,
    },
    /// Too many certificates are asked for.
    #[error("Rate limit reached, try again later")]
    RateLimited,
    /// A moment that no certificate can express.
    #[error("time {0} cannot be written into a certificate")]
    Time(i64),
    /// The crypto library refused, which only happens when it has no randomness or no memory.
    #[error("cryptographic operation failed")]
    Crypto,
    /// A sealed key that is damaged, of another provider, or sealed by another sealing key.
    #[error("sealed key cannot be opened: wrong sealing key, or damaged")]
    Unsealable,
    /// A sealed key of a form that this version does not know.
    #[error("sealed key has the unknown version {0}")]
    SealVersion(u8),
    /// The authority that is stored is not the one whose root is active.
    #[error("stored CA root {stored:?} is not the active root ({active})")]
    NotActive {
        /// Id of the stored authority's root.
        stored: String,
        /// Id of the active root, empty if there is none.
        active: String,
    },
    /// A provider that does not exist.
    #[error("unknown CA provider {0:?}")]
    UnknownProvider(String),
    /// A setting of the provider that cannot be read.
    #[error("error decoding config: {0}")]
    Setting(String),
    /// A cluster id that is none.
    #[error("cluster_id was supplied but was not a valid UUID")]
    ClusterId,
    /// Leaves would live too short.
    #[error("leaf cert TTL must be greater than 1h")]
    TtlTooShort(Duration),
    /// Leaves would live too long.
    #[error("leaf cert TTL must be less than 1 year")]
    TtlTooLong(Duration),
}

impl From<aws_lc_rs::error::Unspecified> for Error {
    fn from(_: aws_lc_rs::error::Unspecified) -> Error {
        Error::Crypto
    }
}
