//! The bundle: all roots that vouch for the mesh's leaves.

use std::fmt;

use aws_lc_rs::digest;
use rustls::DistinguishedName;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::error::{Error, Refusal};
use crate::leaf::{Leaf, certificates_from_pem};
use crate::suite::{KeyExchange, provider};

/// Which side of a connection a certificate is shown for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    /// By the side that dials.
    Client,
    /// By the side that accepts.
    Server,
}

/// The trusted roots, ready to check chains against.
#[derive(Clone)]
pub struct Bundle {
    anchors: Vec<TrustAnchor<'static>>,
    subjects: Vec<DistinguishedName>,
    names: Vec<String>,
    digest: [u8; 32],
}

impl Bundle {
    /// Takes every root of the given PEM texts; more than one per text is fine.
    pub fn from_pem<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Bundle, Error> {
        let mut bundle = Bundle { anchors: Vec::new(), subjects: Vec::new(), names: Vec::new(), digest: [0; 32] };
        let mut context = digest::Context::new(&digest::SHA256);
        for text in texts {
            for der in certificates_from_pem(text)? {
                let anchor = anchor_from_trusted_cert(&der)
                    .map_err(|problem| Error::Certificate(problem.to_string()))?
                    .to_owned();
                let (_, certificate) =
                    X509Certificate::from_der(&der).map_err(|problem| Error::Certificate(problem.to_string()))?;
                bundle.names.push(common_name(&certificate));
                bundle.subjects.push(DistinguishedName::in_sequence(anchor.subject.as_ref()));
                bundle.anchors.push(anchor);
                context.update(&der);
            }
        }
        if bundle.anchors.is_empty() {
            return Err(Error::NoCertificate);
        }
        bundle.digest.copy_from_slice(context.finish().as_ref());
        Ok(bundle)
    }

    /// The common names of the roots, in order; for people.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether the leaf leads to one of the roots at the given time (seconds since the Unix epoch) for both uses.
    pub fn vouches_for(&self, leaf: &Leaf, now: i64) -> Result<(), Refusal> {
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now.max(0).unsigned_abs()));
        for role in [Role::Client, Role::Server] {
            self.check(&leaf.chain()[0], &leaf.chain()[1..], role, now)?;
        }
        Ok(())
    }

    /// Subjects of all roots, sent as hints to clients.
    pub(crate) fn subjects(&self) -> &[DistinguishedName] {
        &self.subjects
    }

    /// Whether every root of the other one is among ours.
    pub(crate) fn contains(&self, other: &Bundle) -> bool {
        self.digest == other.digest || other.anchors.iter().all(|anchor| self.anchors.contains(anchor))
    }

    /// Tells sets of roots apart.
    pub(crate) fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// Whether a chain leads to one of the roots. The intermediates may come in any order, with duplicates and
    /// strangers among them; the extended key usage counts only where it is present; key identifiers do not count,
    /// because those of the original are meaningless.
    pub(crate) fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        role: Role,
        now: UnixTime,
    ) -> Result<(), Refusal> {
        let usage = match role {
            Role::Client => KeyUsage::client_auth(),
            Role::Server => KeyUsage::server_auth(),
        };
        let algorithms = provider(KeyExchange::Classical).signature_verification_algorithms;
        EndEntityCert::try_from(leaf)
            .and_then(|certificate| {
                certificate
                    .verify_for_usage(algorithms.all, &self.anchors, intermediates, now, usage, None, None)
                    .map(drop)
            })
            .map_err(|problem| Refusal::Chain(problem.to_string()))
    }
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bundle").field("names", &self.names).finish_non_exhaustive()
    }
}

fn common_name(certificate: &X509Certificate<'_>) -> String {
    match certificate.subject().iter_common_name().next().map(|name| name.as_str()) {
        Some(Ok(name)) => name.to_owned(),
        _ => certificate.subject().to_string(),
    }
}
