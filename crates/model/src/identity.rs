//! Who a certificate says its holder is: trust domains and SPIFFE ids in the form Connect uses.
//!
//! The forms come from the SPIFFE ID specification and from the original: `spiffe://<host>/ns/<ns>/dc/<dc>/svc/<name>`
//! for services, `spiffe://<cluster-id>.<domain>` for signing certificates. Nothing else is accepted; in particular no
//! query, fragment, user-info or port, which SPIFFE forbids and the original overlooked.

use std::fmt;

use crate::name::ServiceName;

/// The one namespace of this version.
pub const DEFAULT_NAMESPACE: &str = "default";

/// The realm whose roots vouch for an identity: `<cluster-id>.consul`, lower case.
///
/// The `consul` part is fixed: it does not follow the DNS domain, since certificates outlive such settings.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TrustDomain(String);

impl TrustDomain {
    /// The trust domain of a cluster.
    pub fn of_cluster(cluster_id: &str) -> TrustDomain {
        TrustDomain(format!("{}.consul", cluster_id.to_ascii_lowercase()))
    }

    /// Takes a whole trust domain, as the roots endpoints show it.
    pub fn new(text: &str) -> TrustDomain {
        TrustDomain(text.to_ascii_lowercase())
    }

    /// The host part of identities in this trust domain.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The cluster id: everything before the first dot.
    pub fn cluster_id(&self) -> &str {
        self.0.split('.').next().unwrap_or_default()
    }

    /// The identity that CA certificates of this trust domain carry.
    pub fn signing_uri(&self) -> String {
        format!("spiffe://{}", self.0)
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The identity of a service: what a leaf certificate carries as its only URI.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServiceIdentity {
    /// The trust domain as written in the URI; compared only by [`ServiceIdentity::in_trust_domain`].
    pub host: String,
    /// Namespace, decoded.
    pub namespace: String,
    /// Datacenter, decoded.
    pub datacenter: String,
    /// Name of the service, decoded.
    pub service: ServiceName,
}

impl ServiceIdentity {
    /// The identity of a service in the default namespace.
    pub fn new(trust_domain: &TrustDomain, datacenter: &str, service: ServiceName) -> Self {
        ServiceIdentity {
            host: trust_domain.as_str().to_owned(),
            namespace: DEFAULT_NAMESPACE.to_owned(),
            datacenter: datacenter.to_owned(),
            service,
        }
    }

    /// Whether the identity was issued for this trust domain (host names have no case).
    pub fn in_trust_domain(&self, trust_domain: &TrustDomain) -> bool {
        self.host.eq_ignore_ascii_case(trust_domain.as_str())
    }

    /// Whether a peer that shows this identity is the one the dialler looked for.
    ///
    /// Namespace, datacenter and service count, without case; the host does not: which trust domains are acceptable
    /// is decided by the roots, as in the original.
    pub fn is(&self, namespace: &str, datacenter: &str, service: &str) -> bool {
        self.namespace.eq_ignore_ascii_case(namespace)
            && self.datacenter.eq_ignore_ascii_case(datacenter)
            && self.service.same(service)
    }
}

impl fmt::Display for ServiceIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "spiffe://{}/ns/{}/dc/{}/svc/{}",
            self.host,
            Segment(&self.namespace),
            Segment(&self.datacenter),
            Segment(self.service.as_str())
        )
    }
}

/// A SPIFFE id in one of the forms Connect knows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SpiffeId {
    /// A service.
    Service(ServiceIdentity),
    /// A CA certificate.
    Signing {
        /// Text before the first dot of the host.
        cluster_id: String,
        /// Text behind it.
        domain: String,
    },
}

/// Why a URI is no SPIFFE id of ours. The texts are the ones that peers and clients see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentityError {
    /// Another scheme, or none.
    Scheme,
    /// Not one of the known forms.
    Format,
    /// A percent-encoding that does not decode; the part that holds it.
    Encoding(&'static str),
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IdentityError::Scheme => f.write_str("SPIFFE ID must have 'spiffe' scheme"),
            IdentityError::Format => f.write_str("SPIFFE ID is not in the expected format"),
            IdentityError::Encoding(part) => write!(f, "Invalid {part}: bad percent-encoding"),
        }
    }
}

impl std::error::Error for IdentityError {}

impl SpiffeId {
    /// Reads a URI.
    pub fn parse(uri: &str) -> Result<SpiffeId, IdentityError> {
        let (scheme, rest) = uri.split_once("://").ok_or(IdentityError::Scheme)?;
        if !scheme.eq_ignore_ascii_case("spiffe") {
            return Err(IdentityError::Scheme);
        }
        if rest.contains(['?', '#']) {
            return Err(IdentityError::Format);
        }
        let (host, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, ""),
        };
        if host.is_empty() || host.contains(['@', ':', '%', ' ']) {
            return Err(IdentityError::Format);
        }
        if path.is_empty() {
            return match host.find('.') {
                Some(dot) if dot > 0 => {
                    Ok(SpiffeId::Signing { cluster_id: host[..dot].to_owned(), domain: host[dot + 1..].to_owned() })
                }
                _ => Err(IdentityError::Format),
            };
        }
        let segments: Vec<&str> = path[1..].split('/').collect();
        match segments[..] {
            ["ns", namespace, "dc", datacenter, "svc", service] if ![namespace, datacenter, service].contains(&"") => {
                Ok(SpiffeId::Service(ServiceIdentity {
                    host: host.to_owned(),
                    namespace: decode(namespace).ok_or(IdentityError::Encoding("namespace"))?,
                    datacenter: decode(datacenter).ok_or(IdentityError::Encoding("datacenter"))?,
                    service: decode(service).ok_or(IdentityError::Encoding("service"))?.into(),
                }))
            }
            _ => Err(IdentityError::Format),
        }
    }
}

/// One path segment of a URI, percent-encoded the way Go's `net/url` does it, because peers of the original compare
/// the whole text.
struct Segment<'a>(&'a str);

impl fmt::Display for Segment<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.bytes() {
            match byte {
                b'a'..=b'z'
                | b'A'..=b'Z'
                | b'0'..=b'9'
                | b'-'
                | b'_'
                | b'.'
                | b'~'
                | b'$'
                | b'&'
                | b'+'
                | b':'
                | b'='
                | b'@'
                | b'!'
                | b'*'
                | b'\''
                | b'('
                | b')'
                | b','
                | b';' => {
                    fmt::Write::write_char(f, byte as char)?;
                }
                _ => write!(f, "%{byte:02X}")?,
            }
        }
        Ok(())
    }
}

fn decode(segment: &str) -> Option<String> {
    if !segment.contains('%') {
        return Some(segment.to_owned());
    }
    let bytes = segment.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'%' {
            let hex = segment.get(at + 1..at + 3)?;
            out.push(u8::from_str_radix(hex, 16).ok()?);
            at += 3;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(uri: &str) -> ServiceIdentity {
        match SpiffeId::parse(uri) {
            Ok(SpiffeId::Service(identity)) => identity,
            other => panic!("{uri}: {other:?}"),
        }
    }

    #[test]
    fn a_service_identity_survives_being_written_and_read() {
        for name in ["web", "a b", "UPPER", "a/b", "ü", "100%"] {
            let identity = ServiceIdentity::new(&TrustDomain::of_cluster("73BA"), "dc1", name.into());
            assert_eq!(service(&identity.to_string()), identity, "{identity}");
        }
        let spaced = ServiceIdentity::new(&TrustDomain::of_cluster("x"), "dc1", "a b".into());
        assert_eq!(spaced.to_string(), "spiffe://x.consul/ns/default/dc/dc1/svc/a%20b");
    }

    #[test]
    fn the_scheme_has_no_case_and_must_be_spiffe() {
        assert!(SpiffeId::parse("SPIFFE://x/ns/a/dc/b/svc/c").is_ok());
        assert_eq!(SpiffeId::parse("http://x/ns/a/dc/b/svc/c"), Err(IdentityError::Scheme));
        assert_eq!(SpiffeId::parse("nothing"), Err(IdentityError::Scheme));
    }

    #[test]
    fn an_encoded_slash_belongs_to_the_name() {
        assert_eq!(service("spiffe://x/ns/default/dc/dc1/svc/a%2Fb").service.as_str(), "a/b");
    }

    #[test]
    fn other_forms_are_refused() {
        for uri in [
            "spiffe://x/ns/a/dc/b/svc/c/d",
            "spiffe://x/ns/a/dc/b/svc/c/",
            "spiffe://x/ns/a/dc//svc/c",
            "spiffe://x/ns/a/dc/b/svc/c?q",
            "spiffe://x/ns/a/dc/b/svc/c#f",
            "spiffe://u@x/ns/a/dc/b/svc/c",
            "spiffe://x:1/ns/a/dc/b/svc/c",
            "spiffe://nodot",
            "spiffe://.consul",
            "spiffe:///ns/a/dc/b/svc/c",
            "spiffe://x.y/",
        ] {
            assert_eq!(SpiffeId::parse(uri), Err(IdentityError::Format), "{uri}");
        }
        assert_eq!(SpiffeId::parse("spiffe://x/ns/a/dc/b/svc/%zz"), Err(IdentityError::Encoding("service")));
    }

    #[test]
    fn a_host_alone_is_a_signing_identity() {
        assert_eq!(
            SpiffeId::parse("spiffe://1-2.consul"),
            Ok(SpiffeId::Signing { cluster_id: "1-2".into(), domain: "consul".into() })
        );
    }

    #[test]
    fn the_expected_peer_is_compared_without_case_and_without_host() {
        let identity = service("spiffe://other.consul/ns/default/dc/DC1/svc/Web");
        assert!(identity.is("default", "dc1", "web"));
        assert!(!identity.is("default", "dc2", "web"));
        assert!(!identity.is("other", "dc1", "web"));
        assert!(!identity.is("default", "dc1", "api"));
    }
}
