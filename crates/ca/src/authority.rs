//! A root with its key: what signs leaves.

use std::time::Duration;

use jiff::tz::Offset;
use jiff::{Timestamp, ToSpan};
use lictor_model::identity::TrustDomain;
use lictor_model::revision::Revision;
use lictor_model::root::Root;

use crate::certificate::{Certificate, Content, Extension, KeyUsage, Validity, common_name, key_id};
use crate::serial::Serial;
use crate::{Csr, Error, SigningKey};

/// How far in the past certificates begin, for clocks that are behind ours.
pub(crate) const BACKDATING: i64 = 60;

/// How long a generated root is valid.
const ROOT_YEARS: i64 = 10;

/// What the roots endpoint shows as the name of our roots.
const ROOT_NAME: &str = "Consul CA Root Cert";

/// A root certificate and the key that belongs to it.
#[derive(Debug)]
pub struct Authority {
    key: SigningKey,
    certificate: Certificate,
}

/// A leaf certificate as it was issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedCert {
    /// Its number.
    pub serial: Serial,
    /// The leaf, then the intermediates; PEM, each ends with one newline.
    pub cert_pem: String,
    /// The service it was issued for.
    pub service: String,
    /// The identity it carries.
    pub uri: String,
    /// When it is valid.
    pub validity: Validity,
    /// Colon-separated hex of the key identifier that names its issuer.
    pub authority_key_id: String,
}

impl Authority {
    /// Makes a root for a key: self-signed, valid from now for ten years, named after its number.
    pub fn generate(key: SigningKey, trust_domain: &TrustDomain, serial: u64, now: i64) -> Result<Authority, Error> {
        let name = common_name(&format!("Consul CA {serial}"));
        let id = key_id(key.public_key());
        let certificate = Content {
            serial: &Serial::from_number(serial),
            issuer: &name,
            validity: Validity { not_before: now, not_after: years_after(now, ROOT_YEARS)? },
            subject: &name,
            public_key: key.public_key(),
            extensions: vec![
                Extension::key_usage(KeyUsage::Root),
                Extension::authority(),
                Extension::subject_key_id(&id),
                Extension::authority_key_id(&id),
                Extension::uri(&trust_domain.signing_uri()),
            ],
        }
        .sign(&key)?;
        Ok(Authority { key, certificate })
    }

    /// Takes a root that the operator gives us.
    ///
    /// The original takes any pair and then cannot sign, nor ever be rotated away from it. So the pair must belong
    /// together, the certificate must be a CA that is valid now, and where it names trust domains one must be ours; a
    /// root that names none is taken, as the trust domain of leaves is not derived from it.
    pub fn adopt(key: SigningKey, root_pem: &str, trust_domain: &TrustDomain, now: i64) -> Result<Authority, Error> {
        let authority = Authority::restore(key, root_pem)?;
        authority.is_fit(now)?;
        let ours = trust_domain.signing_uri();
        match &authority.certificate.uris[..] {
            [] => Ok(authority),
            uris if uris.iter().any(|uri| uri.eq_ignore_ascii_case(&ours)) => Ok(authority),
            [found, ..] => Err(Error::ForeignRoot { found: found.clone(), expected: ours }),
        }
    }

    /// Whether the root may sign certificates, and now.
    pub fn is_fit(&self, now: i64) -> Result<(), Error> {
        let certificate = &self.certificate;
        if let Some(why) = certificate.unfit {
            return Err(Error::NotCa(why));
        }
        if now > certificate.validity.not_after {
            return Err(Error::RootNotValid("it has expired"));
        }
        // A root made a moment ago on another machine, whose clock is ahead of ours, is fine.
        if now + BACKDATING < certificate.validity.not_before {
            return Err(Error::RootNotValid("it begins in the future"));
        }
        Ok(())
    }

    /// Takes a pair that was an authority before; only checks that it still is a pair.
    pub fn restore(key: SigningKey, root_pem: &str) -> Result<Authority, Error> {
        let certificate = Certificate::from_pem(root_pem)?;
        if certificate.public_key != key.public_key() {
            return Err(Error::ForeignKey);
        }
        Ok(Authority { key, certificate })
    }

    /// The root certificate.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// The key, for sealing.
    pub fn key(&self) -> &SigningKey {
        &self.key
    }

    /// The root as the mesh knows it: active, without intermediates, not written yet.
    pub fn root(&self, trust_domain: &TrustDomain) -> Root {
        Root {
            id: self.certificate.fingerprint(),
            name: ROOT_NAME.to_owned(),
            serial_number: self.certificate.serial.low_bits(),
            signing_key_id: self.certificate.signing_key_id(),
            external_trust_domain: trust_domain.cluster_id().to_owned(),
            not_before: self.certificate.validity.not_before,
            not_after: self.certificate.validity.not_after,
            cert_pem: self.certificate.pem(),
            intermediates_pem: Vec::new(),
            active: true,
            rotated_out_at: None,
            created: Revision::ZERO,
            modified: Revision::ZERO,
        }
    }

    /// Signs a leaf for a request that has passed all checks of [`Csr`]. `intermediates` are those of the active root;
    /// they follow the leaf.
    pub fn sign_leaf(
        &self,
        intermediates: &[String],
        csr: &Csr,
        now: i64,
        lifetime: Duration,
    ) -> Result<IssuedCert, Error> {
        let serial = Serial::random()?;
        let identity = csr.identity();
        let uri = identity.to_string();
        let not_before = now - BACKDATING;
        let lifetime = i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX);
        let validity = Validity { not_before, not_after: not_before.saturating_add(lifetime) };
        let issuer_id = self.certificate.issuer_id();
        let leaf = Content {
            serial: &serial,
            issuer: &self.certificate.subject,
            validity,
            subject: &common_name(identity.service.as_str()),
            public_key: csr.public_key(),
            extensions: vec![
                Extension::key_usage(KeyUsage::Leaf),
                Extension::client_and_server(),
                Extension::no_authority(),
                Extension::subject_key_id(&key_id(csr.public_key())),
                Extension::authority_key_id(&issuer_id),
                Extension::uri(&uri),
            ],
        }
        .sign(&self.key)?;
        let mut cert_pem = leaf.pem();
        cert_pem.extend(intermediates.iter().map(String::as_str));
        Ok(IssuedCert {
            serial,
            cert_pem,
            service: identity.service.as_str().to_owned(),
            uri,
            validity,
            authority_key_id: crate::serial::colon_hex(&issuer_id),
        })
    }

    /// Signs a copy of another root with this one's key, so that whoever trusts only this root can verify what the
    /// other signs. Subject, key and extensions are those of the other root; the copy lives as long as `lifetime`.
    pub fn cross_sign(&self, other: &Certificate, now: i64, lifetime: Duration) -> Result<Certificate, Error> {
        let not_before = now - BACKDATING;
        let lifetime = i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX);
        let own = |extension: &&Extension| !extension.is_authority_key_id();
        let mut extensions: Vec<Extension> = other.extensions.iter().filter(own).cloned().collect();
        extensions.push(Extension::authority_key_id(&self.certificate.issuer_id()));
        Content {
            serial: &Serial::random()?,
            issuer: &self.certificate.subject,
            validity: Validity { not_before, not_after: not_before.saturating_add(lifetime) },
            subject: &other.subject,
            public_key: &other.public_key,
            extensions,
        }
        .sign(&self.key)
    }
}

fn years_after(now: i64, years: i64) -> Result<i64, Error> {
    let begin = Timestamp::from_second(now).ok().map(|now| Offset::UTC.to_datetime(now));
    let end = begin.and_then(|begin| begin.checked_add(years.years()).ok());
    end.and_then(|end| Offset::UTC.to_timestamp(end).ok()).map(|end| end.as_second()).ok_or(Error::Time(now))
}
