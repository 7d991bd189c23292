//! Certificates for the agents' own traffic, their HTTPS and their clients; they have nothing to do with the mesh.
//!
//! An operator makes the CA once and keeps its key away from the agents. Its name constraints make sure that it can
//! vouch for nothing but the domain of the agents.

use std::net::IpAddr;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::certificate::{Certificate, Content, Extension, KeyUsage, Validity, common_name, key_id};
use crate::serial::Serial;
use crate::{Error, SigningKey};

/// The CA of the agents' own traffic.
pub struct AgentCa {
    certificate: Certificate,
    key: SigningKey,
}

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A server, which is also a client of others.
    Server,
    /// A client agent, which also serves HTTPS.
    Client,
    /// A person or a script that only asks.
    Cli,
}

/// A certificate and its key, as PEM.
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: Zeroizing<String>,
}

impl AgentCa {
    /// Makes a CA that is valid for so long from `now` on and can vouch for the domains given, or for any if there is
    /// none.
    pub fn create(domains: &[&str], lifetime: Duration, now: i64) -> Result<AgentCa, Error> {
        let key = SigningKey::generate()?;
        let serial = Serial::random()?;
        let id = key_id(key.public_key());
        let name = common_name(&format!("Agent CA {}", hex(serial.as_bytes())));
        let mut extensions = vec![
            Extension::key_usage(KeyUsage::Root),
            Extension::authority(),
            Extension::subject_key_id(&id),
            Extension::authority_key_id(&id),
        ];
        if !domains.is_empty() {
            extensions.push(Extension::only_domains(domains));
        }
        let content = Content {
            serial: &serial,
            issuer: &name,
            validity: validity(now, lifetime),
            subject: &name,
            public_key: key.public_key(),
            extensions,
        };
        let certificate = content.sign(&key)?;
        Ok(AgentCa { certificate, key })
    }

    /// Reads a CA that was made before.
    pub fn from_pem(certificate: &str, key: &str) -> Result<AgentCa, Error> {
        let certificate = Certificate::from_pem(certificate)?;
        let key = SigningKey::from_pem(key)?;
        if let Some(why) = certificate.unfit {
            return Err(Error::NotCa(why));
        }
        if certificate.public_key != key.public_key() {
            return Err(Error::ForeignKey);
        }
        Ok(AgentCa { certificate, key })
    }

    /// Itself.
    pub fn pair(&self) -> Result<Pair, Error> {
        Ok(Pair { certificate: self.certificate.pem(), key: self.key.to_pem()? })
    }

    /// Makes a key and a certificate for it. The first name is the common name; all are alternative names.
    pub fn issue(
        &self,
        purpose: Purpose,
        names: &[String],
        addresses: &[IpAddr],
        lifetime: Duration,
        now: i64,
    ) -> Result<Pair, Error> {
        let key = SigningKey::generate()?;
        let serial = Serial::random()?;
        let extensions = vec![
            Extension::key_usage(KeyUsage::Leaf),
            match purpose {
                Purpose::Server | Purpose::Client => Extension::client_and_server(),
                Purpose::Cli => Extension::client(),
            },
            Extension::no_authority(),
            Extension::subject_key_id(&key_id(key.public_key())),
            Extension::authority_key_id(&self.certificate.issuer_id()),
            Extension::hosts(names, addresses),
        ];
        let content = Content {
            serial: &serial,
            issuer: &self.certificate.subject,
            validity: validity(now, lifetime),
            subject: &common_name(names.first().map_or("", String::as_str)),
            public_key: key.public_key(),
            extensions,
        };
        Ok(Pair { certificate: content.sign(&self.key)?.pem(), key: key.to_pem()? })
    }
}

/// Clocks differ: a certificate is valid a minute before it was made.
fn validity(now: i64, lifetime: Duration) -> Validity {
    let seconds = i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX);
    Validity { not_before: now.saturating_sub(60), not_after: now.saturating_add(seconds) }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
