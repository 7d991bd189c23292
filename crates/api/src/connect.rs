//! The mesh: roots, leaves, the CA's configuration, authorisation, and the settings of a managed proxy.

use std::borrow::Cow;
use std::fmt;

use lictor_model::identity::TrustDomain;
use lictor_model::revision::Revision;
use lictor_model::{Opaque, root};
use serde::{Deserialize, Serialize};

use crate::Indexes;
use crate::agent::Upstream;
use crate::nullable;
use crate::time::Time;

/// `GET /v1/connect/ca/roots` and `/v1/agent/connect/ca/roots`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Roots<'a> {
    /// Which of the roots signs now; empty before there is one.
    #[serde(rename = "ActiveRootID")]
    pub active_root_id: Cow<'a, str>,
    /// Where identities live; empty before the CA exists.
    pub trust_domain: Cow<'a, str>,
    /// All that are trusted, by id.
    #[serde(deserialize_with = "nullable")]
    pub roots: Vec<Root<'a>>,
}

impl<'a> From<&'a root::Roots> for Roots<'a> {
    fn from(all: &'a root::Roots) -> Roots<'a> {
        let root::Roots { trust_domain, roots } = all;
        Roots {
            active_root_id: all.active().map_or("", |root| &root.id).into(),
            trust_domain: trust_domain.as_ref().map_or("", TrustDomain::as_str).into(),
            roots: roots.iter().map(Root::from).collect(),
        }
    }
}

impl From<Roots<'_>> for root::Roots {
    fn from(shape: Roots<'_>) -> root::Roots {
        let Roots { active_root_id: _, trust_domain, roots } = shape;
        root::Roots {
            trust_domain: (!trust_domain.is_empty()).then(|| TrustDomain::new(&trust_domain)),
            roots: roots.into_iter().map(root::Root::from).collect(),
        }
    }
}

/// A CA certificate that leaves are, or were, signed by.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Root<'a> {
    /// Colon-separated hex SHA-1 of the certificate.
    #[serde(rename = "ID")]
    pub id: Cow<'a, str>,
    /// For people.
    pub name: Cow<'a, str>,
    /// The low 64 bits of the serial number.
    pub serial_number: u64,
    /// Colon-separated hex of the certificate's key identifier.
    #[serde(rename = "SigningKeyID")]
    pub signing_key_id: Cow<'a, str>,
    /// The cluster id.
    pub external_trust_domain: Cow<'a, str>,
    /// Valid from.
    pub not_before: Time,
    /// Valid until.
    pub not_after: Time,
    /// PEM.
    pub root_cert: Cow<'a, str>,
    /// Certificates that let holders of an older root verify leaves of this one; null when there are none.
    pub intermediate_certs: Option<Cow<'a, [String]>>,
    /// Whether it signs now.
    pub active: bool,
    /// First written.
    pub create_index: u64,
    /// Last changed.
    pub modify_index: u64,
}

impl<'a> From<&'a root::Root> for Root<'a> {
    fn from(root: &'a root::Root) -> Root<'a> {
        let root::Root {
            id,
            name,
            serial_number,
            signing_key_id,
            external_trust_domain,
            not_before,
            not_after,
            cert_pem,
            intermediates_pem,
            active,
            rotated_out_at: _, // Never shown.
            created,
            modified,
        } = root;
        Root {
            id: id.into(),
            name: name.into(),
            serial_number: *serial_number,
            signing_key_id: signing_key_id.into(),
            external_trust_domain: external_trust_domain.into(),
            not_before: Time::from_seconds(*not_before),
            not_after: Time::from_seconds(*not_after),
            root_cert: cert_pem.into(),
            intermediate_certs: (!intermediates_pem.is_empty()).then(|| intermediates_pem.as_slice().into()),
            active: *active,
            create_index: created.0,
            modify_index: modified.0,
        }
    }
}

impl From<Root<'_>> for root::Root {
    fn from(shape: Root<'_>) -> root::Root {
        let Root {
            id,
            name,
            serial_number,
            signing_key_id,
            external_trust_domain,
            not_before,
            not_after,
            root_cert,
            intermediate_certs,
            active,
            create_index,
            modify_index,
        } = shape;
        root::Root {
            id: id.into_owned(),
            name: name.into_owned(),
            serial_number,
            signing_key_id: signing_key_id.into_owned(),
            external_trust_domain: external_trust_domain.into_owned(),
            not_before: not_before.seconds(),
            not_after: not_after.seconds(),
            cert_pem: root_cert.into_owned(),
            intermediates_pem: intermediate_certs.unwrap_or_default().into_owned(),
            active,
            rotated_out_at: None,
            created: Revision(create_index),
            modified: Revision(modify_index),
        }
    }
}

/// `GET /v1/agent/connect/ca/leaf/:service`.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Leaf<'a> {
    /// Colon-separated hex.
    pub serial_number: Cow<'a, str>,
    /// The leaf, then intermediates; PEM.
    #[serde(rename = "CertPEM")]
    pub cert_pem: Cow<'a, str>,
    /// SEC1 PEM.
    #[serde(rename = "PrivateKeyPEM")]
    pub private_key_pem: Cow<'a, str>,
    /// The service it was issued for.
    pub service: Cow<'a, str>,
    /// The identity it carries.
    #[serde(rename = "ServiceURI")]
    pub service_uri: Cow<'a, str>,
    /// Valid from.
    pub valid_after: Time,
    /// Valid until.
    pub valid_before: Time,
    /// The same as the next.
    pub create_index: u64,
    /// Grows with every certificate.
    pub modify_index: u64,
}

/// Shows everything but the key.
impl fmt::Debug for Leaf<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaf")
            .field("serial_number", &self.serial_number)
            .field("service_uri", &self.service_uri)
            .field("valid_after", &self.valid_after)
            .field("valid_before", &self.valid_before)
            .field("modify_index", &self.modify_index)
            .finish_non_exhaustive()
    }
}

impl<'a> From<&'a root::IssuedLeaf> for Leaf<'a> {
    fn from(leaf: &'a root::IssuedLeaf) -> Leaf<'a> {
        let root::IssuedLeaf { serial_number, cert_pem, key_pem, service, uri, valid_after, valid_before, revision } =
            leaf;
        Leaf {
            serial_number: serial_number.into(),
            cert_pem: cert_pem.into(),
            private_key_pem: key_pem.into(),
            service: service.into(),
            service_uri: uri.into(),
            valid_after: Time::from_seconds(*valid_after),
            valid_before: Time::from_seconds(*valid_before),
            create_index: revision.0,
            modify_index: revision.0,
        }
    }
}

impl From<Leaf<'_>> for root::IssuedLeaf {
    fn from(shape: Leaf<'_>) -> root::IssuedLeaf {
        let Leaf {
            serial_number,
            cert_pem,
            private_key_pem,
            service,
            service_uri,
            valid_after,
            valid_before,
            create_index: _, // Equal to the other index.
            modify_index,
        } = shape;
        root::IssuedLeaf {
            serial_number: serial_number.into_owned(),
            cert_pem: cert_pem.into_owned(),
            key_pem: private_key_pem.into_owned(),
            service: service.into_owned(),
            uri: service_uri.into_owned(),
            valid_after: valid_after.seconds(),
            valid_before: valid_before.seconds(),
            revision: Revision(modify_index),
        }
    }
}

/// `GET /v1/connect/ca/configuration`; of the body of a `PUT`, the first two keys count.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CaConfiguration<'a> {
    /// `consul` or `vault`.
    pub provider: Cow<'a, str>,
    /// The provider's settings, secrets masked.
    pub config: Option<Cow<'a, Opaque>>,
    /// First written.
    pub create_index: u64,
    /// Last changed.
    pub modify_index: u64,
}

impl<'a> CaConfiguration<'a> {
    /// The provider and its settings, which the caller has masked.
    pub fn new(provider: &'a str, config: Option<Cow<'a, Opaque>>, indexes: Indexes) -> CaConfiguration<'a> {
        CaConfiguration {
            provider: provider.into(),
            config,
            create_index: indexes.created.0,
            modify_index: indexes.modified.0,
        }
    }
}

/// `POST /v1/agent/connect/authorize`: the question.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Authorize<'a> {
    /// The service that is connected to.
    pub target: Cow<'a, str>,
    /// The identity of who connects.
    #[serde(rename = "ClientCertURI")]
    pub client_cert_uri: Cow<'a, str>,
    /// Serial number of its certificate, colon-separated hex.
    pub client_cert_serial: Cow<'a, str>,
}

/// `POST /v1/agent/connect/authorize`: the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Authorized<'a> {
    /// Whether the connection may be made.
    pub authorized: bool,
    /// Why.
    pub reason: Cow<'a, str>,
}

/// `PUT /v1/agent/connect/proxy/restart/:id`, an addition of ours: how the process was replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Replaced<'a> {
    /// The proxy's own service.
    #[serde(rename = "ProxyID")]
    pub proxy_id: Cow<'a, str>,
    /// The process that ran, if one did.
    #[serde(rename = "OldPID")]
    pub old_pid: Option<u32>,
    /// The process that runs.
    #[serde(rename = "NewPID")]
    pub new_pid: Option<u32>,
    /// Connections that the old process still carries.
    pub draining: u64,
}

/// `GET /v1/agent/connect/neighbor`, an addition of ours: a managed proxy as its neighbors need it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Neighbor<'a> {
    /// The agent's node.
    pub node: Cow<'a, str>,
    /// The proxy's own service.
    #[serde(rename = "ProxyID")]
    pub proxy_id: Cow<'a, str>,
    /// The service it stands for.
    pub service: Cow<'a, str>,
    /// Its process.
    #[serde(rename = "PID")]
    pub pid: Option<u32>,
    /// Name of the abstract Unix socket where it takes connections; empty when it takes none.
    pub socket: Cow<'a, str>,
}

/// `GET /v1/agent/connect/proxy/:id`: what a managed proxy shall do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ProxyConfig<'a> {
    /// The proxy's own service.
    #[serde(rename = "ProxyServiceID")]
    pub proxy_service_id: Cow<'a, str>,
    /// The instance it was made for.
    #[serde(rename = "TargetServiceID")]
    pub target_service_id: Cow<'a, str>,
    /// Name of that instance.
    pub target_service_name: Cow<'a, str>,
    /// What a blocking read passes as `hash`.
    pub content_hash: Cow<'a, str>,
    /// `daemon` or `script`.
    pub exec_mode: Cow<'a, str>,
    /// Program and arguments.
    #[serde(deserialize_with = "nullable")]
    pub command: Cow<'a, [String]>,
    /// Settings in effect, defaults included.
    #[serde(deserialize_with = "nullable")]
    pub config: Cow<'a, Opaque>,
    /// Services reached through it; never null.
    #[serde(deserialize_with = "nullable")]
    pub upstreams: Vec<Upstream<'a>>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::{Layout, to_vec};

    fn roots() -> root::Roots {
        root::Roots {
            trust_domain: Some(TrustDomain::of_cluster("73ba6f8e")),
            roots: vec![root::Root {
                id: "9a:6d".into(),
                name: "Consul CA Root Cert".into(),
                serial_number: 7,
                signing_key_id: "31:61".into(),
                external_trust_domain: "73ba6f8e".into(),
                not_before: 1_551_822_472,
                not_after: 1_551_822_473,
                cert_pem: "pem\n".into(),
                intermediates_pem: vec![],
                active: true,
                rotated_out_at: None,
                created: Revision(8),
                modified: Revision(9),
            }],
        }
    }

    #[test]
    fn roots_are_shown_with_the_active_one_named() {
        let text = to_vec(&Roots::from(&roots()), Layout::Compact).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            r#"{"ActiveRootID":"9a:6d","TrustDomain":"73ba6f8e.consul","Roots":[{"ID":"9a:6d","Name":"Consul CA Root Cert","SerialNumber":7,"SigningKeyID":"31:61","ExternalTrustDomain":"73ba6f8e","NotBefore":"2019-03-05T21:47:52Z","NotAfter":"2019-03-05T21:47:53Z","RootCert":"pem\n","IntermediateCerts":null,"Active":true,"CreateIndex":8,"ModifyIndex":9}]}"#
        );
        let empty = root::Roots::default();
        let text = to_vec(&Roots::from(&empty), Layout::Compact).unwrap();
        assert_eq!(text, br#"{"ActiveRootID":"","TrustDomain":"","Roots":[]}"#);
    }

    #[test]
    fn roots_and_leaves_survive_the_wire() {
        let mut nouns = roots();
        nouns.roots[0].intermediates_pem = vec!["cross\n".into()];
        let text = to_vec(&Roots::from(&nouns), Layout::Compact).unwrap();
        assert_eq!(root::Roots::from(serde_json::from_slice::<Roots<'static>>(&text).unwrap()), nouns);

        let leaf = root::IssuedLeaf {
            serial_number: "08".into(),
            cert_pem: "cert\n".into(),
            key_pem: "key\n".into(),
            service: "web".into(),
            uri: "spiffe://x".into(),
            valid_after: 1,
            valid_before: 2,
            revision: Revision(20),
        };
        let text = to_vec(&Leaf::from(&leaf), Layout::Compact).unwrap();
        assert_eq!(
            String::from_utf8_lossy(&text),
            r#"{"SerialNumber":"08","CertPEM":"cert\n","PrivateKeyPEM":"key\n","Service":"web","ServiceURI":"spiffe://x","ValidAfter":"1970-01-01T00:00:01Z","ValidBefore":"1970-01-01T00:00:02Z","CreateIndex":20,"ModifyIndex":20}"#
        );
        assert_eq!(root::IssuedLeaf::from(serde_json::from_slice::<Leaf<'static>>(&text).unwrap()), leaf);
    }

    #[test]
    fn a_leaf_never_shows_its_key_in_logs() {
        let leaf = Leaf { private_key_pem: "geheim".into(), ..Leaf::default() };
        assert!(!format!("{leaf:?}").contains("geheim"));
    }

    #[test]
    fn the_settings_of_a_proxy_never_hold_null() {
        let text = to_vec(&ProxyConfig::default(), Layout::Compact).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.ends_with(r#""Command":[],"Config":{},"Upstreams":[]}"#), "{text}");
    }
}
