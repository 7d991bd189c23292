//! Certificate signing requests: what an agent asks for, and what we sign.

use lictor_model::identity::{DEFAULT_NAMESPACE, ServiceIdentity, SpiffeId, TrustDomain};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::der_parser::asn1_rs::Tag;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::x509::AlgorithmIdentifier;
use zeroize::Zeroizing;

use crate::certificate::Extension;
use crate::der::{self, oid};
use crate::pem::{self, Label};
use crate::{Error, SigningKey};

/// The largest request that is read. Ours have some 400 bytes, one with a large RSA key has 2000.
pub const MAX_SIZE: usize = 16 << 10;

/// A request whose sender has proved to hold the key, for the identity of one service.
///
/// The checks are made in the order that clients of the original see: form, kind of identity and possession when it is
/// read; then the caller asks [`Csr::in_trust_domain`], its own rules about the service, [`Csr::in_datacenter`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Csr {
    identity: ServiceIdentity,
    public_key: Vec<u8>,
}

impl Csr {
    /// Reads the first request of a PEM text.
    pub fn from_pem(text: &[u8]) -> Result<Csr, Error> {
        if text.len() > 2 * MAX_SIZE {
            return Err(Error::CsrTooLarge(MAX_SIZE));
        }
        Csr::from_der(&pem::first_csr(text)?)
    }

    /// Reads a request.
    pub fn from_der(bytes: &[u8]) -> Result<Csr, Error> {
        if bytes.len() > MAX_SIZE {
            return Err(Error::CsrTooLarge(MAX_SIZE));
        }
        let (rest, request) = X509CertificationRequest::from_der(bytes).map_err(|_| Error::MalformedCsr)?;
        if !rest.is_empty() {
            return Err(Error::MalformedCsr);
        }
        let uri = only_uri(&request)?;
        let identity = match SpiffeId::parse(uri)? {
            SpiffeId::Service(identity) => identity,
            SpiffeId::Signing { .. } => return Err(Error::NotService),
        };
        if identity.namespace != DEFAULT_NAMESPACE {
            return Err(Error::ForeignNamespace(identity.namespace));
        }
        if !proves_possession(&request) {
            return Err(Error::NoPossession);
        }
        let public_key = request.certification_request_info.subject_pki.raw.to_vec();
        Ok(Csr { identity, public_key })
    }

    /// The identity that is asked for.
    pub fn identity(&self) -> &ServiceIdentity {
        &self.identity
    }

    /// The key that it is for: a SubjectPublicKeyInfo.
    pub fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    /// Checks that the identity is one of ours to give.
    pub fn in_trust_domain(&self, trust_domain: &TrustDomain) -> Result<(), Error> {
        if self.identity.in_trust_domain(trust_domain) {
            return Ok(());
        }
        let found = self.identity.host.clone();
        Err(Error::ForeignTrustDomain { found, expected: trust_domain.as_str().to_owned() })
    }

    /// Checks that the identity is of this datacenter.
    pub fn in_datacenter(&self, datacenter: &str) -> Result<(), Error> {
        if self.identity.datacenter == datacenter {
            return Ok(());
        }
        let found = self.identity.datacenter.clone();
        Err(Error::ForeignDatacenter { found, expected: datacenter.to_owned() })
    }
}

/// The one URI of a request. Every attribute and extension is looked at, since a second one could say something else.
fn only_uri<'a>(request: &'a X509CertificationRequest<'_>) -> Result<&'a str, Error> {
    use x509_parser::cri_attributes::ParsedCriAttribute;

    let mut uris = Vec::new();
    for attribute in request.certification_request_info.iter_attributes() {
        let ParsedCriAttribute::ExtensionRequest(requested) = attribute.parsed_attribute() else { continue };
        for extension in &requested.extensions {
            match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(names) => {
                    uris.extend(names.general_names.iter().filter_map(|name| match name {
                        GeneralName::URI(uri) => Some(*uri),
                        _ => None,
                    }));
                }
                ParsedExtension::ParseError { .. } => return Err(Error::MalformedCsr),
                _ => {}
            }
        }
    }
    match uris[..] {
        [uri] => Ok(uri),
        _ => Err(Error::NotOneUri(uris.len())),
    }
}

/// Whether a request is signed by the key inside it, with algorithms that peers of the mesh accept: what is signed with
/// others could be issued, but never used.
fn proves_possession(request: &X509CertificationRequest<'_>) -> bool {
    let key = &request.certification_request_info.subject_pki;
    let (Some(key_algorithm), Some(signature_algorithm)) =
        (algorithm_id(&key.algorithm), algorithm_id(&request.signature_algorithm))
    else {
        return false;
    };
    let whole = key.subject_public_key.unused_bits == 0 && request.signature_value.unused_bits == 0;
    let (public, signature) = (&key.subject_public_key.data, &request.signature_value.data);
    let known = webpki::ALL_VERIFICATION_ALGS.iter().find(|known| {
        known.public_key_alg_id().as_ref() == key_algorithm && known.signature_alg_id().as_ref() == signature_algorithm
    });
    whole
        && known.is_some_and(|known| {
            known.verify_signature(public, request.certification_request_info.raw, signature).is_ok()
        })
}

/// The content of an AlgorithmIdentifier, as the list of known algorithms has it.
fn algorithm_id(algorithm: &AlgorithmIdentifier<'_>) -> Option<Vec<u8>> {
    let mut id = der::value(der::OBJECT_IDENTIFIER, algorithm.algorithm.as_bytes());
    if let Some(parameters) = &algorithm.parameters {
        let tag = match parameters.tag() {
            Tag::Null => der::NULL[0],
            Tag::Oid => der::OBJECT_IDENTIFIER,
            Tag::Sequence => der::SEQUENCE,
            _ => return None,
        };
        id.extend(der::value(tag, parameters.data));
    }
    Some(id)
}

/// A new key and a request for an identity.
pub struct KeyAndCsr {
    /// SEC1, PEM.
    pub key_pem: Zeroizing<String>,
    /// PEM.
    pub csr_pem: String,
}

/// Makes a key and a request for it: empty subject, one URI, ECDSA on P-256.
pub fn new_key_and_csr(identity: &ServiceIdentity) -> Result<KeyAndCsr, Error> {
    let key = SigningKey::generate()?;
    let csr_pem = request(&key, &[Extension::uri(&identity.to_string())])?;
    Ok(KeyAndCsr { key_pem: key.to_pem()?, csr_pem })
}

fn request(key: &SigningKey, extensions: &[Extension]) -> Result<String, Error> {
    let extensions: Vec<u8> = extensions.iter().flat_map(Extension::to_der).collect();
    let extensions = der::value(der::SET, &der::sequence(&[&extensions]));
    let attributes = der::sequence(&[oid::EXTENSION_REQUEST, &extensions]);
    let content = der::sequence(&[
        &der::unsigned(&[0]), // version 1
        &der::sequence(&[]),
        key.public_key(),
        &der::explicit(0, &attributes),
    ]);
    let signature = der::bit_string(&key.sign(&content)?);
    Ok(pem::block(Label::Csr, &der::sequence(&[&content, &key.algorithm(), &signature])))
}

#[cfg(test)]
mod tests;
