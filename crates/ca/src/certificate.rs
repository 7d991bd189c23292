//! Certificates: written field by field, and read for the facts that matter here.

use std::net::IpAddr;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::parse_x509_certificate;

use crate::der::{self, oid};
use crate::pem::{self, Label};
use crate::serial::{Serial, colon_hex};
use crate::{Error, SigningKey};

/// What a certificate is valid for, in seconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The first second.
    pub not_before: i64,
    /// The last second.
    pub not_after: i64,
}

/// The content of a certificate before it is signed. Names and keys are complete DER values.
pub(crate) struct Content<'a> {
    pub(crate) serial: &'a Serial,
    pub(crate) issuer: &'a [u8],
    pub(crate) validity: Validity,
    pub(crate) subject: &'a [u8],
    pub(crate) public_key: &'a [u8],
    pub(crate) extensions: Vec<Extension>,
}

/// One extension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Extension {
    /// Complete object identifier.
    oid: Vec<u8>,
    critical: bool,
    value: Vec<u8>,
}

/// What a key may be used for, first bit highest (RFC 5280, section 4.2.1.3).
#[derive(Clone, Copy)]
pub(crate) enum KeyUsage {
    /// digitalSignature, keyCertSign, cRLSign.
    Root = 0b1000_0110,
    /// digitalSignature, keyEncipherment, dataEncipherment, keyAgreement.
    Leaf = 0b1011_1000,
}

impl Extension {
    pub(crate) fn key_usage(usage: KeyUsage) -> Extension {
        Extension { oid: oid::KEY_USAGE.to_vec(), critical: true, value: der::flags(usage as u8) }
    }

    /// For both ends of a connection, in the order that the original has.
    pub(crate) fn client_and_server() -> Extension {
        let value = der::sequence(&[oid::CLIENT_AUTH, oid::SERVER_AUTH]);
        Extension { oid: oid::EXTENDED_KEY_USAGE.to_vec(), critical: false, value }
    }

    /// For the end that opens connections alone.
    pub(crate) fn client() -> Extension {
        let value = der::sequence(&[oid::CLIENT_AUTH]);
        Extension { oid: oid::EXTENDED_KEY_USAGE.to_vec(), critical: false, value }
    }

    /// Certificates below may only name hosts in these domains (RFC 5280, section 4.2.1.10).
    pub(crate) fn only_domains(domains: &[&str]) -> Extension {
        let subtrees: Vec<u8> =
            domains.iter().flat_map(|domain| der::sequence(&[&der::implicit(2, domain.as_bytes())])).collect();
        let value = der::sequence(&[&der::explicit(0, &subtrees)]);
        Extension { oid: oid::NAME_CONSTRAINTS.to_vec(), critical: true, value }
    }

    /// The hosts that a certificate is for, by name and by address.
    pub(crate) fn hosts(names: &[String], addresses: &[IpAddr]) -> Extension {
        let names = names.iter().flat_map(|name| der::implicit(2, name.as_bytes()));
        let addresses = addresses.iter().flat_map(|address| match address {
            IpAddr::V4(address) => der::implicit(7, &address.octets()),
            IpAddr::V6(address) => der::implicit(7, &address.octets()),
        });
        let all: Vec<u8> = names.chain(addresses).collect();
        Extension { oid: oid::SUBJECT_ALT_NAME.to_vec(), critical: false, value: der::sequence(&[&all]) }
    }

    pub(crate) fn authority() -> Extension {
        Extension { oid: oid::BASIC_CONSTRAINTS.to_vec(), critical: true, value: der::sequence(&[&der::yes()]) }
    }

    pub(crate) fn no_authority() -> Extension {
        Extension { oid: oid::BASIC_CONSTRAINTS.to_vec(), critical: true, value: der::sequence(&[]) }
    }

    pub(crate) fn subject_key_id(id: &[u8]) -> Extension {
        let value = der::value(der::OCTET_STRING, id);
        Extension { oid: oid::SUBJECT_KEY_IDENTIFIER.to_vec(), critical: false, value }
    }

    pub(crate) fn authority_key_id(id: &[u8]) -> Extension {
        let value = der::sequence(&[&der::implicit(0, id)]);
        Extension { oid: oid::AUTHORITY_KEY_IDENTIFIER.to_vec(), critical: false, value }
    }

    pub(crate) fn uri(uri: &str) -> Extension {
        let value = der::sequence(&[&der::implicit(6, uri.as_bytes())]);
        Extension { oid: oid::SUBJECT_ALT_NAME.to_vec(), critical: false, value }
    }

    pub(crate) fn is_authority_key_id(&self) -> bool {
        self.oid == oid::AUTHORITY_KEY_IDENTIFIER
    }

    pub(crate) fn to_der(&self) -> Vec<u8> {
        let critical = if self.critical { der::yes() } else { Vec::new() };
        der::sequence(&[&self.oid, &critical, &der::value(der::OCTET_STRING, &self.value)])
    }
}

/// A name that consists of a common name alone.
pub(crate) fn common_name(name: &str) -> Vec<u8> {
    let attribute = der::sequence(&[oid::COMMON_NAME, &der::text(name)]);
    der::sequence(&[&der::value(der::SET, &attribute)])
}

/// The key identifier that we give to a public key: all of its SHA-256. (The original of this age writes the hex form
/// of the same digest, its successors the digest itself.)
pub(crate) fn key_id(public_key: &[u8]) -> Vec<u8> {
    digest(&SHA256, public_key).as_ref().to_vec()
}

impl Content<'_> {
    /// Writes and signs the certificate.
    pub(crate) fn sign(self, key: &SigningKey) -> Result<Certificate, Error> {
        let Content { serial, issuer, validity, subject, public_key, extensions } = self;
        let time = |seconds| der::time(seconds).ok_or(Error::Time(seconds));
        let extensions: Vec<u8> = extensions.iter().flat_map(Extension::to_der).collect();
        let algorithm = key.algorithm();
        let content = der::sequence(&[
            &der::explicit(0, &der::unsigned(&[2])), // version 3
            &der::unsigned(serial.as_bytes()),
            &algorithm,
            issuer,
            &der::sequence(&[&time(validity.not_before)?, &time(validity.not_after)?]),
            subject,
            public_key,
            &der::explicit(3, &der::sequence(&[&extensions])),
        ]);
        let signature = key.sign(&content)?;
        Certificate::from_der(&der::sequence(&[&content, &algorithm, &der::bit_string(&signature)]))
    }
}

/// A certificate and the facts that are read from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    der: Vec<u8>,
    /// Its number.
    pub serial: Serial,
    /// When it is valid.
    pub validity: Validity,
    /// The URIs of its subject alternative names.
    pub uris: Vec<String>,
    /// Why it may not sign certificates, if it may not.
    pub(crate) unfit: Option<&'static str>,
    pub(crate) subject: Vec<u8>,
    pub(crate) public_key: Vec<u8>,
    pub(crate) extensions: Vec<Extension>,
    subject_key_id: Option<Vec<u8>>,
    authority_key_id: Option<Vec<u8>>,
}

impl Certificate {
    /// Reads the first certificate of a PEM text.
    pub fn from_pem(text: &str) -> Result<Certificate, Error> {
        Certificate::from_der(&pem::first_certificate(text)?)
    }

    /// Reads a certificate.
    pub fn from_der(bytes: &[u8]) -> Result<Certificate, Error> {
        let malformed = |_| Error::MalformedCertificate;
        let (rest, parsed) = parse_x509_certificate(bytes).map_err(|_| Error::MalformedCertificate)?;
        if !rest.is_empty() {
            return Err(Error::MalformedCertificate);
        }
        // Refuses a certificate with the same extension twice.
        parsed.extensions_map().map_err(malformed)?;
        let mut certificate = Certificate {
            der: bytes.to_vec(),
            serial: Serial::from_bytes(parsed.raw_serial()),
            validity: Validity {
                not_before: parsed.validity().not_before.timestamp(),
                not_after: parsed.validity().not_after.timestamp(),
            },
            uris: Vec::new(),
            unfit: Some("it has no basic constraints"),
            subject: parsed.subject().as_raw().to_vec(),
            public_key: parsed.public_key().raw.to_vec(),
            extensions: Vec::new(),
            subject_key_id: None,
            authority_key_id: None,
        };
        for extension in parsed.extensions() {
            certificate.extensions.push(Extension {
                oid: der::value(der::OBJECT_IDENTIFIER, extension.oid.as_bytes()),
                critical: extension.critical,
                value: extension.value.to_vec(),
            });
            match extension.parsed_extension() {
                ParsedExtension::BasicConstraints(constraints) => {
                    certificate.unfit = (!constraints.ca).then_some("its basic constraints say so");
                }
                ParsedExtension::SubjectKeyIdentifier(id) => certificate.subject_key_id = Some(id.0.to_vec()),
                ParsedExtension::AuthorityKeyIdentifier(id) => {
                    certificate.authority_key_id = id.key_identifier.as_ref().map(|id| id.0.to_vec());
                }
                ParsedExtension::SubjectAlternativeName(names) => {
                    certificate.uris.extend(names.general_names.iter().filter_map(|name| match name {
                        GeneralName::URI(uri) => Some((*uri).to_owned()),
                        _ => None,
                    }));
                }
                ParsedExtension::ParseError { .. } => return Err(Error::MalformedCertificate),
                _ => {}
            }
        }
        if certificate.unfit.is_none()
            && let Some(usage) = parsed.key_usage().map_err(malformed)?
            && !usage.value.key_cert_sign()
        {
            certificate.unfit = Some("its key usage lacks certificate signing");
        }
        Ok(certificate)
    }

    /// The certificate itself.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The certificate as PEM, which ends with one newline.
    pub fn pem(&self) -> String {
        pem::block(Label::Certificate, &self.der)
    }

    /// Colon-separated hex SHA-1 of the certificate: the id of a root.
    pub fn fingerprint(&self) -> String {
        colon_hex(digest(&SHA1_FOR_LEGACY_USE_ONLY, &self.der).as_ref())
    }

    /// The octets by which certificates signed with this one's key name it: its own identifier, or, if it has none, the
    /// one we compute.
    pub(crate) fn issuer_id(&self) -> Vec<u8> {
        self.subject_key_id.clone().unwrap_or_else(|| key_id(&self.public_key))
    }

    /// What the roots endpoint shows as the signing key's id, colon-separated hex: the authority key identifier, else
    /// the subject's, else the computed one.
    ///
    /// Agents compare it with the authority key identifier of a leaf to learn whether the leaf was signed by this root.
    /// So where a root that is not self-signed names another authority, its own identifier is shown: otherwise its
    /// leaves would be renewed for ever.
    pub fn signing_key_id(&self) -> String {
        let own = self.subject_key_id.as_ref();
        match self.authority_key_id.as_ref() {
            Some(authority) if own.is_none_or(|own| own == authority) && own.is_some() => colon_hex(authority),
            _ => colon_hex(&self.issuer_id()),
        }
    }

    /// Colon-separated hex of the key identifier that names the issuer, if there is one.
    pub fn authority_key_id(&self) -> Option<String> {
        self.authority_key_id.as_deref().map(colon_hex)
    }
}
