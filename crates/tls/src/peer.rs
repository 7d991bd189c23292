//! Who a certificate speaks for: identity, serial number and validity of a leaf.

use lictor_model::identity::{ServiceIdentity, SpiffeId};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::error::Refusal;

/// What we know of the other side of a secured connection, or of ourselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The service.
    pub identity: ServiceIdentity,
    /// The identity as written in the certificate.
    pub uri: String,
    /// The certificate's serial number: colon-separated lower-case hex.
    pub serial: String,
    /// Start of validity; seconds since the Unix epoch.
    pub not_before: i64,
    /// End of validity; seconds since the Unix epoch.
    pub not_after: i64,
}

impl Peer {
    /// Reads a leaf certificate. Only its first URI counts, as in the original; trust is not decided here.
    pub(crate) fn from_der(der: &[u8]) -> Result<Peer, Refusal> {
        let (_, certificate) =
            X509Certificate::from_der(der).map_err(|problem| Refusal::Unreadable(problem.to_string()))?;
        let names =
            certificate.subject_alternative_name().map_err(|problem| Refusal::Unreadable(problem.to_string()))?;
        let uri = names
            .iter()
            .flat_map(|extension| &extension.value.general_names)
            .find_map(|name| match name {
                GeneralName::URI(uri) => Some(*uri),
                _ => None,
            })
            .ok_or(Refusal::NoUri)?;
        let identity = match SpiffeId::parse(uri) {
            Ok(SpiffeId::Service(identity)) => identity,
            Ok(SpiffeId::Signing { .. }) => return Err(Refusal::NotAService(uri.to_owned())),
            Err(problem) => return Err(Refusal::Uri { uri: uri.to_owned(), problem }),
        };
        Ok(Peer {
            identity,
            uri: uri.to_owned(),
            serial: colon_hex(certificate.raw_serial()),
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
        })
    }
}

/// The form in which the API shows serial numbers; the sign octet of DER is not part of the number.
fn colon_hex(serial: &[u8]) -> String {
    let digits = match serial {
        [0, rest @ ..] if !rest.is_empty() => rest,
        all => all,
    };
    digits.iter().map(|octet| format!("{octet:02x}")).collect::<Vec<_>>().join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_numbers_are_shown_without_the_sign_octet() {
        assert_eq!(colon_hex(&[0, 0xfe, 1]), "fe:01");
        assert_eq!(colon_hex(&[8]), "08");
        assert_eq!(colon_hex(&[0]), "00");
    }

    #[test]
    fn what_is_no_certificate_is_unreadable() {
        assert!(matches!(Peer::from_der(b"nonsense"), Err(Refusal::Unreadable(_))));
    }
}
