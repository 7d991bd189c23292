use lictor_model::identity::IdentityError;
use proptest::prelude::*;

use super::*;

const WEB: &str = "spiffe://11111111-2222-3333-4444-555555555555.consul/ns/default/dc/dc1/svc/web";

fn trust_domain() -> TrustDomain {
    TrustDomain::of_cluster("11111111-2222-3333-4444-555555555555")
}

/// A request with these URIs, each in an extension of its own.
fn with_uris(uris: &[&str]) -> Result<Csr, Error> {
    let key = SigningKey::generate().unwrap();
    let extensions: Vec<Extension> = uris.iter().map(|uri| Extension::uri(uri)).collect();
    Csr::from_pem(request(&key, &extensions).unwrap().as_bytes())
}

fn web() -> String {
    let identity = ServiceIdentity::new(&trust_domain(), "dc1", "web".into());
    new_key_and_csr(&identity).unwrap().csr_pem
}

#[test]
fn a_request_of_ours_is_for_its_identity_and_key() {
    let identity = ServiceIdentity::new(&trust_domain(), "dc 1", "a/b ü".into());
    let KeyAndCsr { key_pem, csr_pem } = new_key_and_csr(&identity).unwrap();
    let csr = Csr::from_pem(csr_pem.as_bytes()).unwrap();
    assert_eq!(csr.identity(), &identity);
    assert_eq!(csr.public_key(), SigningKey::from_pem(&key_pem).unwrap().public_key());
    assert!(csr_pem.starts_with("-----BEGIN CERTIFICATE REQUEST-----\n"));
    assert!(key_pem.starts_with("-----BEGIN EC PRIVATE KEY-----\n"));
    csr.in_trust_domain(&trust_domain()).unwrap();
    csr.in_datacenter("dc 1").unwrap();
}

#[test]
fn a_request_must_name_exactly_one_uri() {
    assert_eq!(with_uris(&[]).unwrap_err().to_string(), "CSR must have exactly one URI SAN, it has 0");
    assert_eq!(with_uris(&[WEB, WEB]).unwrap_err(), Error::NotOneUri(2));
    assert_eq!(with_uris(&[WEB, "spiffe://other.consul/ns/default/dc/dc1/svc/db"]).unwrap_err(), Error::NotOneUri(2));
    assert!(with_uris(&[WEB]).is_ok());
}

#[test]
fn a_request_must_be_for_a_service() {
    let check = |uri: &str| with_uris(&[uri]).unwrap_err().to_string();
    assert_eq!(check("spiffe://11111111-2222-3333-4444-555555555555.consul"), "SPIFFE ID in CSR must be a service ID");
    assert_eq!(check("https://x.consul/ns/default/dc/dc1/svc/web"), "SPIFFE ID must have 'spiffe' scheme");
    for uri in [&format!("{WEB}/x"), &format!("{WEB}?q"), &format!("{WEB}#f"), "spiffe://x.consul/"] {
        assert_eq!(with_uris(&[uri]).unwrap_err(), Error::Identity(IdentityError::Format), "{uri}");
    }
    assert_eq!(
        with_uris(&[&WEB.replace("default", "other")]).unwrap_err().to_string(),
        "SPIFFE ID in CSR from a different namespace: other, we are default"
    );
}

#[test]
fn a_request_from_elsewhere_is_refused() {
    let csr = with_uris(&["spiffe://other.consul/ns/default/dc/dc2/svc/web"]).unwrap();
    assert_eq!(
        csr.in_trust_domain(&trust_domain()).unwrap_err().to_string(),
        "SPIFFE ID in CSR from a different trust domain: other.consul, \
         we are 11111111-2222-3333-4444-555555555555.consul"
    );
    assert_eq!(
        csr.in_datacenter("dc1").unwrap_err().to_string(),
        "SPIFFE ID in CSR from a different datacenter: dc2, we are dc1"
    );
    assert!(
        with_uris(&[&WEB
            .to_uppercase()
            .replace("SPIFFE://", "spiffe://")
            .replace("/NS/DEFAULT/DC/DC1/SVC/WEB", "/ns/default/dc/dc1/svc/web")])
        .unwrap()
        .in_trust_domain(&trust_domain())
        .is_ok()
    );
}

#[test]
fn a_request_must_be_signed_by_the_key_it_is_for() {
    let stolen = SigningKey::generate().unwrap();
    let thief = SigningKey::generate().unwrap();
    let content = der::sequence(&[
        &der::unsigned(&[0]),
        &der::sequence(&[]),
        stolen.public_key(),
        &der::explicit(
            0,
            &der::sequence(&[
                oid::EXTENSION_REQUEST,
                &der::value(der::SET, &der::sequence(&[&Extension::uri(WEB).to_der()])),
            ]),
        ),
    ]);
    let signed_by = |key: &SigningKey| {
        let signature = der::bit_string(&key.sign(&content).unwrap());
        Csr::from_der(&der::sequence(&[&content, &key.algorithm(), &signature]))
    };
    assert!(signed_by(&stolen).is_ok());
    assert_eq!(signed_by(&thief).unwrap_err(), Error::NoPossession);
}

#[test]
fn a_request_is_bounded_and_whole() {
    let der = pem::first_csr(web().as_bytes()).unwrap();
    assert!(der.len() < 500, "{}", der.len());
    assert_eq!(Csr::from_der(&[&der[..], &[0]].concat()).unwrap_err(), Error::MalformedCsr);
    assert_eq!(Csr::from_der(&vec![0; MAX_SIZE + 1]).unwrap_err(), Error::CsrTooLarge(MAX_SIZE));
    assert_eq!(Csr::from_pem(&vec![b'x'; 2 * MAX_SIZE + 1]).unwrap_err(), Error::CsrTooLarge(MAX_SIZE));
    assert_eq!(Csr::from_pem(b"zz").unwrap_err(), Error::NoPem);
    assert_eq!(Csr::from_der(&[]).unwrap_err(), Error::MalformedCsr);
}

#[test]
fn an_untidy_text_holds_the_same_request() {
    let tidy = web();
    let untidy = format!("some text\r\n{}", tidy.trim_end().replace('\n', "\r\n"));
    assert_eq!(Csr::from_pem(untidy.as_bytes()), Csr::from_pem(tidy.as_bytes()));
}

proptest! {
    #[test]
    fn a_changed_request_is_never_taken_for_another(position in 0usize..450, bit in 0u8..8) {
        let mut der = pem::first_csr(web().as_bytes()).unwrap();
        let position = position % der.len();
        let original = Csr::from_der(&der).unwrap();
        der[position] ^= 1 << bit;
        // Whatever is still accepted (a signature may be written in more than one way) means the same.
        if let Ok(changed) = Csr::from_der(&der) {
            prop_assert_eq!(changed, original);
        }
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(Csr::from_der(&bytes).is_err());
        let _ = Csr::from_pem(&bytes);
    }
}
