//! What the fuzzer calls: requests for certificates.

use std::sync::OnceLock;
use std::time::Duration;

use lictor_model::identity::TrustDomain;

use crate::certificate::Certificate;
use crate::{Authority, Csr, SigningKey, pem};

/// The time at which everything here is signed.
const NOW: i64 = 1_800_000_000;

/// A request that is accepted, as DER or as PEM, gives a certificate that can be read and says what was asked.
pub fn csr(bytes: &[u8]) {
    for csr in [Csr::from_der(bytes), Csr::from_pem(bytes)].into_iter().flatten() {
        let issued = authority().sign_leaf(&[], &csr, NOW, Duration::from_secs(72 * 3600)).expect("a leaf is signed");
        let leaf = Certificate::from_pem(&issued.cert_pem).expect("what was signed can be read");
        assert_eq!(leaf.uris, [csr.identity().to_string()]);
        assert_eq!(leaf.public_key, csr.public_key());
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = pem::first_key(text);
        let _ = Certificate::from_pem(text);
        if let Ok(tidy) = pem::normalised(text) {
            assert_eq!(pem::normalised(&tidy).as_ref(), Ok(&tidy));
        }
    }
}

fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    AUTHORITY.get_or_init(|| {
        let domain = TrustDomain::new("11111111-2222-3333-4444-555555555555");
        let key = SigningKey::generate().expect("a key");
        Authority::generate(key, &domain, 7, NOW).expect("a root")
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_the_fuzzer_keeps_for_requests_breaks_no_promise() {
        lictor_testkit::corpus::replay("csr", super::csr);
    }
}
