//! Certificates for tests: a CA of one trust domain, and leaves in the profile of Connect or bent away from it.

#![allow(
    clippy::unwrap_used,
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "shared by several test crates, each of which uses a part"
)]

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};

/// The trust domain of most tests.
pub const TRUST_DOMAIN: &str = "11111111-2222-3333-4444-555555555555.consul";

/// A root and its key.
pub struct Authority {
    pub pem: String,
    pub trust_domain: String,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A leaf with its key, as the agent hands it out.
#[derive(Clone)]
pub struct Issued {
    pub certificates: String,
    pub key: String,
    pub uri: String,
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        Authority::of(TRUST_DOMAIN, name)
    }

    pub fn of(trust_domain: &str, name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Authority { pem: issuer.pem(), trust_domain: trust_domain.to_owned(), issuer }
    }

    /// A leaf of a service in dc1.
    pub fn leaf(&self, service: &str) -> Issued {
        self.leaf_with(service, |_| {})
    }

    /// A leaf that is changed before it is signed.
    pub fn leaf_with(&self, service: &str, change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let (name, params) = self.profile(service, change);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &*self.issuer).unwrap();
        Issued { certificates: certificate.pem(), key: key.serialize_pem(), uri: name }
    }

    /// A leaf that only looks like one of this root: it vouches for itself.
    pub fn self_signed(&self, service: &str) -> Issued {
        let (name, params) = self.profile(service, |_| {});
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Issued { certificates: certificate.pem(), key: key.serialize_pem(), uri: name }
    }

    /// A leaf that an intermediate of this root has signed, with and without the intermediate's certificate behind it.
    pub fn leaf_of_intermediate(&self, service: &str) -> (Issued, Issued) {
        let mut above = CertificateParams::default();
        above.distinguished_name = DistinguishedName::new();
        above.distinguished_name.push(DnType::CommonName, "intermediate");
        above.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        above.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let above = CertifiedIssuer::signed_by(above, KeyPair::generate().unwrap(), &*self.issuer).unwrap();
        let (uri, params) = self.profile(service, |_| {});
        let key = KeyPair::generate().unwrap();
        let alone = params.signed_by(&key, &*above).unwrap().pem();
        let of = |certificates: String| Issued { certificates, key: key.serialize_pem(), uri: uri.clone() };
        (of(format!("{alone}{}", above.pem())), of(alone))
    }

    fn profile(&self, service: &str, change: impl FnOnce(&mut CertificateParams)) -> (String, CertificateParams) {
        let name = format!("spiffe://{}/ns/default/dc/dc1/svc/{service}", self.trust_domain);
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, service);
        params.subject_alt_names = vec![uri(&name)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyAgreement];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        change(&mut params);
        (name, params)
    }
}

/// A URI as a subject alternative name.
pub fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}
