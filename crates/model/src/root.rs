//! Roots: the CA certificates that the mesh trusts.

use crate::identity::TrustDomain;
use crate::revision::Revision;

/// A CA certificate that leaves are, or were, signed by.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Root {
    /// Colon-separated hex SHA-1 of the certificate's DER form.
    pub id: String,
    /// For people, by provider: `Consul CA Root Cert`.
    pub name: String,
    /// The low 64 bits of the certificate's serial number.
    pub serial_number: u64,
    /// Colon-separated hex of the certificate's own key identifier octets.
    pub signing_key_id: String,
    /// The cluster id, without domain.
    pub external_trust_domain: String,
    /// Seconds since the Unix epoch.
    pub not_before: i64,
    /// Seconds since the Unix epoch.
    pub not_after: i64,
    /// PEM, ends with one newline.
    pub cert_pem: String,
    /// Certificates that let holders of an older root verify leaves of this one; PEM, each ends with one newline.
    pub intermediates_pem: Vec<String>,
    /// Whether leaves are signed by it now; true for exactly one.
    pub active: bool,
    /// When it stopped being active; seconds since the Unix epoch.
    pub rotated_out_at: Option<i64>,
    /// When it was first written.
    pub created: Revision,
    /// When it was last changed.
    pub modified: Revision,
}

/// All trusted roots of a cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Roots {
    /// Where identities live; absent before the CA exists.
    pub trust_domain: Option<TrustDomain>,
    /// Ordered by id.
    pub roots: Vec<Root>,
}

impl Roots {
    /// The root that signs now.
    pub fn active(&self) -> Option<&Root> {
        self.roots.iter().find(|root| root.active)
    }
}

/// A leaf certificate with its key, as the agent hands it out.
#[derive(Clone, Debug, PartialEq)]
pub struct IssuedLeaf {
    /// Colon-separated hex.
    pub serial_number: String,
    /// The leaf, then intermediates; PEM.
    pub cert_pem: String,
    /// SEC1 PEM.
    pub key_pem: String,
    /// The service it was issued for.
    pub service: String,
    /// The identity it carries.
    pub uri: String,
    /// Seconds since the Unix epoch.
    pub valid_after: i64,
    /// Seconds since the Unix epoch.
    pub valid_before: i64,
    /// Grows with every certificate issued.
    pub revision: Revision,
}
