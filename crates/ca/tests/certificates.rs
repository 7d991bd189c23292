//! The certificates that come out, field by field, and as other implementations judge them.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test that cannot go on shall stop or say so")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use lictor_ca::certificate::Certificate;
use lictor_ca::rotate::{self, CrossSigning};
use lictor_ca::{Authority, Csr, Error, IssuedCert, SigningKey, new_key_and_csr, pem};
use lictor_model::identity::{ServiceIdentity, TrustDomain};
use lictor_model::root::Roots;
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::prelude::*;

/// 2023-11-14 22:13:20 UTC.
const NOW: i64 = 1_700_000_000;
const TTL: Duration = Duration::from_secs(72 * 3600);
const CLUSTER: &str = "11111111-2222-3333-4444-555555555555";
const WEB: &str = "spiffe://11111111-2222-3333-4444-555555555555.consul/ns/default/dc/dc1/svc/web";

fn trust_domain() -> TrustDomain {
    TrustDomain::of_cluster(CLUSTER)
}

fn authority(serial: u64) -> Authority {
    Authority::generate(SigningKey::generate().unwrap(), &trust_domain(), serial, NOW).unwrap()
}

fn csr() -> Csr {
    let identity = ServiceIdentity::new(&trust_domain(), "dc1", "web".into());
    Csr::from_pem(new_key_and_csr(&identity).unwrap().csr_pem.as_bytes()).unwrap()
}

fn leaf(authority: &Authority, intermediates: &[String]) -> IssuedCert {
    authority.sign_leaf(intermediates, &csr(), NOW, TTL).unwrap()
}

/// Looks at a certificate with another parser than the one that reads it in the crate's own checks of form.
fn parsed<T>(pem: &str, look: impl FnOnce(&X509Certificate<'_>) -> T) -> T {
    let der = pem::first_certificate(pem).unwrap();
    look(&X509Certificate::from_der(&der).unwrap().1)
}

fn extension<'a>(certificate: &'a X509Certificate<'_>, oid: &str) -> (bool, &'a [u8]) {
    let found: Vec<_> =
        certificate.extensions().iter().filter(|extension| extension.oid.to_id_string() == oid).collect();
    assert_eq!(found.len(), 1, "{oid}");
    (found[0].critical, found[0].value)
}

const KEY_USAGE: &str = "2.5.29.15";
const EXTENDED_KEY_USAGE: &str = "2.5.29.37";
const BASIC_CONSTRAINTS: &str = "2.5.29.19";
const SUBJECT_KEY_ID: &str = "2.5.29.14";
const AUTHORITY_KEY_ID: &str = "2.5.29.35";
const SUBJECT_ALT_NAME: &str = "2.5.29.17";

fn prefixed(prefix: &[u8], rest: &[u8]) -> Vec<u8> {
    [prefix, rest].concat()
}

/// A directory for the `openssl` command, if there is one; tests that need it say loudly that they were skipped.
struct Openssl(tempfile::TempDir);

impl Openssl {
    fn new() -> Option<Openssl> {
        if Command::new("openssl").arg("version").output().is_ok_and(|output| output.status.success()) {
            return Some(Openssl(tempfile::tempdir().unwrap()));
        }
        eprintln!("SKIPPED: the openssl command is missing, its judgement was not asked for");
        None
    }

    fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    fn run(&self, arguments: &str) -> Result<String, String> {
        let output = Command::new("openssl").args(arguments.split(' ')).current_dir(self.0.path()).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// Whether a chain verifies when only `root` is trusted.
    fn verify(&self, root: &str, chain: &str) -> Result<String, String> {
        self.file("root.pem", root);
        self.file("chain.pem", chain);
        self.run(&format!(
            "verify -x509_strict -attime {NOW} -purpose sslclient -CAfile root.pem -untrusted chain.pem chain.pem"
        ))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

/// Whether a chain verifies when only `root` is trusted, as the mesh's own verifier builds paths.
fn webpki_verifies(root: &str, chain: &str) -> Result<(), webpki::Error> {
    let ders: Vec<CertificateDer<'_>> =
        pem::certificates(chain).unwrap().into_iter().map(CertificateDer::from).collect();
    let root = CertificateDer::from(pem::first_certificate(root).unwrap());
    let anchors = [anchor_from_trusted_cert(&root)?];
    let now = UnixTime::since_unix_epoch(Duration::from_secs(NOW as u64));
    let end = EndEntityCert::try_from(&ders[0])?;
    for usage in [KeyUsage::client_auth(), KeyUsage::server_auth()] {
        end.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &anchors, &ders[1..], now, usage, None, None)?;
    }
    Ok(())
}

#[test]
fn a_generated_root_has_the_profile_peers_know() {
    let authority = authority(7);
    let root = authority.root(&trust_domain());
    assert_eq!((root.serial_number, root.not_before, root.active), (7, NOW, true));
    assert_eq!((root.external_trust_domain.as_str(), root.name.as_str()), (CLUSTER, "Consul CA Root Cert"));
    assert!(root.cert_pem.ends_with("-----END CERTIFICATE-----\n"));
    assert_eq!(root.not_after, 2_015_619_200, "ten years by the calendar, leap days included");
    parsed(&root.cert_pem, |certificate| {
        assert_eq!(certificate.version(), X509Version::V3);
        assert_eq!(certificate.raw_serial(), [7]);
        assert_eq!(certificate.subject().to_string(), "CN=Consul CA 7");
        assert_eq!(certificate.subject().as_raw(), certificate.issuer().as_raw());
        assert_eq!(certificate.signature_algorithm.algorithm.to_id_string(), "1.2.840.10045.4.3.2");
        certificate.verify_signature(None).unwrap();

        let id = digest(&SHA256, certificate.public_key().raw);
        assert_eq!(extension(certificate, KEY_USAGE), (true, &[3, 2, 1, 0x86][..]));
        assert_eq!(extension(certificate, BASIC_CONSTRAINTS), (true, &[0x30, 3, 1, 1, 0xff][..]));
        assert_eq!(extension(certificate, SUBJECT_KEY_ID), (false, &prefixed(&[4, 32], id.as_ref())[..]));
        assert_eq!(
            extension(certificate, AUTHORITY_KEY_ID),
            (false, &prefixed(&[0x30, 34, 0x80, 32], id.as_ref())[..])
        );
        let uri = trust_domain().signing_uri();
        let length = uri.len() as u8;
        let names = prefixed(&[0x30, length + 2, 0x86, length], uri.as_bytes());
        assert_eq!(extension(certificate, SUBJECT_ALT_NAME), (false, &names[..]));
        assert_eq!(certificate.extensions().len(), 5);

        let hex: Vec<String> = id.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(root.signing_key_id, hex.join(":"));
    });
}

#[test]
fn a_leaf_has_the_profile_peers_know() {
    let authority = authority(7);
    let csr = csr();
    let issued = authority.sign_leaf(&[], &csr, NOW, TTL).unwrap();
    assert_eq!((issued.uri.as_str(), issued.service.as_str()), (WEB, "web"));
    assert_eq!((issued.validity.not_before, issued.validity.not_after), (NOW - 60, NOW - 60 + 72 * 3600));
    assert_eq!(issued.authority_key_id, authority.certificate().signing_key_id());
    parsed(&issued.cert_pem, |certificate| {
        assert_eq!(certificate.version(), X509Version::V3);
        assert_eq!(certificate.raw_serial(), issued.serial.as_bytes());
        assert_eq!(certificate.raw_serial().len(), 16);
        assert_eq!(certificate.subject().to_string(), "CN=web");
        assert_eq!(certificate.validity().not_before.timestamp(), NOW - 60);
        assert_eq!(certificate.validity().not_after.timestamp(), NOW - 60 + 72 * 3600);
        assert_eq!(certificate.public_key().raw, csr.public_key());
        assert_eq!(certificate.signature_algorithm.algorithm.to_id_string(), "1.2.840.10045.4.3.2");

        let own = digest(&SHA256, csr.public_key());
        let issuer = digest(&SHA256, authority.key().public_key());
        assert_eq!(extension(certificate, KEY_USAGE), (true, &[3, 2, 3, 0xb8][..]));
        let purposes = [0x30, 20, 6, 8, 43, 6, 1, 5, 5, 7, 3, 2, 6, 8, 43, 6, 1, 5, 5, 7, 3, 1];
        assert_eq!(extension(certificate, EXTENDED_KEY_USAGE), (false, &purposes[..]));
        assert_eq!(extension(certificate, BASIC_CONSTRAINTS), (true, &[0x30, 0][..]));
        assert_eq!(extension(certificate, SUBJECT_KEY_ID), (false, &prefixed(&[4, 32], own.as_ref())[..]));
        let authority_id = prefixed(&[0x30, 34, 0x80, 32], issuer.as_ref());
        assert_eq!(extension(certificate, AUTHORITY_KEY_ID), (false, &authority_id[..]));
        let length = WEB.len() as u8;
        let names = prefixed(&[0x30, length + 2, 0x86, length], WEB.as_bytes());
        assert_eq!(extension(certificate, SUBJECT_ALT_NAME), (false, &names[..]));
        assert_eq!(certificate.extensions().len(), 6);
    });
}

#[test]
fn openssl_agrees_with_the_profile_and_the_chain() {
    let Some(openssl) = Openssl::new() else { return };
    let authority = authority(7);
    let issued = leaf(&authority, &[]);
    let root = authority.certificate().pem();
    openssl.verify(&root, &issued.cert_pem).unwrap();

    let text = openssl.run("x509 -noout -text -in chain.pem").unwrap();
    for expected in [
        "Version: 3 (0x2)",
        "Signature Algorithm: ecdsa-with-SHA256",
        "Issuer: CN = Consul CA 7",
        "Subject: CN = web",
        "NIST CURVE: P-256",
        "X509v3 Key Usage: critical",
        "Digital Signature, Key Encipherment, Data Encipherment, Key Agreement",
        "TLS Web Client Authentication, TLS Web Server Authentication",
        "X509v3 Basic Constraints: critical",
        "CA:FALSE",
        &format!("URI:{WEB}"),
    ] {
        assert!(text.contains(expected), "{expected} is missing in\n{text}");
    }
    let text = openssl.run("x509 -noout -text -in root.pem").unwrap();
    for expected in ["CA:TRUE", "Digital Signature, Certificate Sign, CRL Sign", "Serial Number: 7 (0x7)"] {
        assert!(text.contains(expected), "{expected} is missing in\n{text}");
    }
    assert!(text.lines().any(|line| line.trim() == format!("URI:spiffe://{CLUSTER}.consul")), "{text}");

    let fingerprint = openssl.run("x509 -noout -fingerprint -sha1 -in root.pem").unwrap();
    assert_eq!(fingerprint.trim().split_once('=').unwrap().1.to_lowercase(), authority.certificate().fingerprint());
    assert!(openssl.verify(&self::authority(8).certificate().pem(), &issued.cert_pem).is_err());
}

#[test]
fn our_requests_and_keys_are_what_openssl_expects() {
    let Some(openssl) = Openssl::new() else { return };
    let pair = new_key_and_csr(&ServiceIdentity::new(&trust_domain(), "dc1", "web".into())).unwrap();
    openssl.file("web.csr", &pair.csr_pem);
    openssl.file("web.key", &pair.key_pem);
    let text = openssl.run("req -in web.csr -noout -verify -text").unwrap();
    assert!(text.contains(&format!("URI:{WEB}")) && text.contains("ecdsa-with-SHA256"), "{text}");
    let in_request = openssl.run("req -in web.csr -noout -pubkey").unwrap();
    assert_eq!(openssl.run("pkey -in web.key -pubout").unwrap(), in_request);
}

#[test]
fn requests_that_openssl_makes_are_signed_whatever_their_key() {
    let Some(openssl) = Openssl::new() else { return };
    let authority = authority(7);
    let request = |key: &str| {
        openssl
            .run(&format!(
                "req -new -newkey {key} -nodes -keyout k.pem -out r.pem -subj /CN=someone -addext subjectAltName=URI:{WEB}"
            ))
            .unwrap();
        Csr::from_pem(&std::fs::read(openssl.path().join("r.pem")).unwrap())
    };
    for weak in ["rsa:1024", "rsa:2048 -sha1", "ec -pkeyopt ec_paramgen_curve:secp256k1"] {
        assert_eq!(request(weak).unwrap_err(), Error::NoPossession, "{weak}");
    }
    for key in [
        "ec -pkeyopt ec_paramgen_curve:P-256",
        "ec -pkeyopt ec_paramgen_curve:P-384",
        "ec -pkeyopt ec_paramgen_curve:P-521 -sha512",
        "rsa:2048",
        "rsa:2048 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:32",
        "ed25519",
    ] {
        let csr = request(key).unwrap();
        let issued = authority.sign_leaf(&[], &csr, NOW, TTL).unwrap();
        openssl.verify(&authority.certificate().pem(), &issued.cert_pem).unwrap();
        let subject = openssl.run("x509 -noout -subject -in chain.pem").unwrap();
        assert_eq!(subject.trim(), "subject=CN = web", "the subject of the request does not count");
        let public = openssl.run("pkey -in k.pem -pubout").unwrap();
        assert_eq!(openssl.run("x509 -noout -pubkey -in chain.pem").unwrap(), public);
    }
}

/// A root made by openssl: its key and certificate.
fn openssl_root(openssl: &Openssl, key: &str, more: &str) -> (String, String) {
    let arguments = format!("req -x509 -newkey {key} -nodes -days 3650 -keyout ca.key -out ca.pem {more}");
    openssl.run(&arguments).unwrap();
    let read = |name: &str| std::fs::read_to_string(openssl.path().join(name)).unwrap();
    (read("ca.key"), read("ca.pem"))
}

/// The moment at which certificates made by openssl are valid: it knows no other than the real one.
fn real_now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap()
}

#[test]
fn roots_of_any_kind_and_name_sign_leaves_that_verify() {
    let Some(openssl) = Openssl::new() else { return };
    let usage = "-addext keyUsage=critical,keyCertSign,cRLSign";
    let uri = format!("{usage} -addext subjectAltName=URI:spiffe://{CLUSTER}.consul");
    let now = real_now();
    for (key, more) in [
        ("ec -pkeyopt ec_paramgen_curve:P-256", format!("-subj /CN=plain {uri}")),
        ("ec -pkeyopt ec_paramgen_curve:P-384", format!("-subj /CN=larger {uri}")),
        ("rsa:2048", format!("-subj /CN=rsa {uri}")),
        // Names that a builder which keeps one value for each attribute, or its own order, would not repeat.
        (
            "ec -pkeyopt ec_paramgen_curve:P-256",
            format!("-utf8 -subj /DC=org/DC=example/O=Ünïted/OU=a/OU=b/CN=mesh {usage}"),
        ),
        (
            "ec -pkeyopt ec_paramgen_curve:P-256",
            format!("-multivalue-rdn -subj /O=x+OU=y+CN=z/emailAddress=a@b.c {usage}"),
        ),
    ] {
        let (key, root) = openssl_root(&openssl, key, &more);
        let key = SigningKey::from_pem(&key).unwrap();
        let root = format!("a root of ours\r\n{}", root.trim_end().replace('\n', "\r\n"));
        let authority = Authority::adopt(key, &root, &trust_domain(), now).unwrap();
        let issued = authority.sign_leaf(&[], &csr(), now, TTL).unwrap();
        let root = authority.certificate().pem();
        openssl.file("root.pem", &root);
        openssl.file("leaf.pem", &issued.cert_pem);
        openssl.run("verify -x509_strict -CAfile root.pem leaf.pem").unwrap();
        parsed(&issued.cert_pem, |leaf| {
            parsed(&root, |root| {
                assert_eq!(leaf.issuer().as_raw(), root.subject().as_raw());
                // The root's own identifier has the usual 20 bytes; the leaf repeats it.
                let (_, own) = extension(root, SUBJECT_KEY_ID);
                assert_eq!(own.len(), 22);
                let (_, named) = extension(leaf, AUTHORITY_KEY_ID);
                assert_eq!(named[4..], own[2..]);
            });
        });
        assert_eq!(issued.authority_key_id, authority.root(&trust_domain()).signing_key_id);

        // And it hands over to a root of ours, and takes over from one.
        let ours = Authority::generate(SigningKey::generate().unwrap(), &trust_domain(), 9, now).unwrap();
        for (old, new) in [(&authority, &ours), (&ours, &authority)] {
            let cross = old.cross_sign(new.certificate(), now, TTL).unwrap().pem();
            let issued = new.sign_leaf(&[cross], &csr(), now, TTL).unwrap();
            openssl.file("root.pem", &old.certificate().pem());
            openssl.file("leaf.pem", &issued.cert_pem);
            openssl.run("verify -x509_strict -CAfile root.pem -untrusted leaf.pem leaf.pem").unwrap();
        }
    }
}

#[test]
fn a_root_that_cannot_be_used_is_refused_before_it_is_active() {
    let Some(openssl) = Openssl::new() else { return };
    let now = real_now();
    let ec = "ec -pkeyopt ec_paramgen_curve:P-256";
    let adopt = |(key, root): &(String, String), now| {
        Authority::adopt(SigningKey::from_pem(key).unwrap(), root, &trust_domain(), now).unwrap_err()
    };
    let good = openssl_root(&openssl, ec, "-subj /CN=good");
    let other = openssl_root(&openssl, ec, "-subj /CN=other");
    assert_eq!(adopt(&(good.0.clone(), other.1), now), Error::ForeignKey);
    assert_eq!(adopt(&good, now - 3600), Error::RootNotValid("it begins in the future"));
    assert_eq!(adopt(&good, now + 11 * 365 * 86_400), Error::RootNotValid("it has expired"));
    assert_eq!(adopt(&(good.0, "zz".into()), now), Error::NoPem);

    let pair = new_key_and_csr(&ServiceIdentity::new(&trust_domain(), "dc1", "web".into())).unwrap();
    let csr = Csr::from_pem(pair.csr_pem.as_bytes()).unwrap();
    let no_ca = authority(1).sign_leaf(&[], &csr, now, TTL).unwrap().cert_pem;
    assert_eq!(adopt(&(pair.key_pem.to_string(), no_ca), now), Error::NotCa("its basic constraints say so"));
    let no_signing = openssl_root(&openssl, ec, "-subj /CN=x -addext keyUsage=critical,digitalSignature");
    assert_eq!(adopt(&no_signing, now), Error::NotCa("its key usage lacks certificate signing"));
    let foreign = openssl_root(&openssl, ec, "-subj /CN=x -addext subjectAltName=URI:spiffe://other.consul");
    assert_eq!(
        adopt(&foreign, now).to_string(),
        format!("root certificate has the URI spiffe://other.consul, we are spiffe://{CLUSTER}.consul")
    );
    openssl.run("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:1024 -out weak.key").unwrap();
    let weak = std::fs::read_to_string(openssl.path().join("weak.key")).unwrap();
    assert_eq!(SigningKey::from_pem(&weak).unwrap_err(), Error::UnsupportedKey);
}

/// One rotation after another, as `agent` makes them.
fn rotated(authorities: &[Authority]) -> Roots {
    let mut roots = rotate::begin(&authorities[0], &trust_domain());
    for pair in authorities.windows(2) {
        roots = rotate::follow(&roots, &pair[0], &pair[1], &trust_domain(), CrossSigning::Required, NOW).unwrap();
    }
    roots
}

#[test]
fn a_leaf_verifies_for_whoever_knows_only_one_of_the_roots() {
    let authorities: Vec<Authority> = (1..=4).map(authority).collect();
    let roots = rotated(&authorities);
    let active = roots.active().unwrap();
    assert_eq!(active.id, authorities[3].certificate().fingerprint());
    assert_eq!(active.intermediates_pem.len(), 3);
    let issued = leaf(&authorities[3], &active.intermediates_pem);
    assert!(rotate::is_current(&issued.cert_pem, active));
    let openssl = Openssl::new();
    for known in &authorities {
        let root = known.certificate().pem();
        webpki_verifies(&root, &issued.cert_pem).unwrap();
        if let Some(openssl) = &openssl {
            openssl.verify(&root, &issued.cert_pem).unwrap();
        }
    }
    let stranger = authority(5).certificate().pem();
    assert!(webpki_verifies(&stranger, &issued.cert_pem).is_err());

    // Leaves of before the rotations are trusted as long as their root is.
    let before = leaf(&authorities[0], &[]);
    assert!(!rotate::is_current(&before.cert_pem, active));
    assert!(roots.roots.iter().any(|root| webpki_verifies(&root.cert_pem, &before.cert_pem).is_ok()));
}

#[test]
fn the_cross_signed_copy_is_the_new_root_in_the_old_ones_name() {
    let [old, new] = [authority(1), authority(2)];
    let copy = old.cross_sign(new.certificate(), NOW, rotate::CROSS_SIGNED_LIFETIME).unwrap();
    assert_eq!((copy.validity.not_before, copy.validity.not_after), (NOW - 60, NOW - 60 + 7 * 86_400));
    assert_eq!(copy.authority_key_id().unwrap(), old.certificate().signing_key_id());
    parsed(&copy.pem(), |copy| {
        parsed(&new.certificate().pem(), |new| {
            assert_eq!(copy.subject().as_raw(), new.subject().as_raw());
            assert_eq!(copy.public_key().raw, new.public_key().raw);
            assert_ne!(copy.raw_serial(), new.raw_serial());
            for oid in [KEY_USAGE, BASIC_CONSTRAINTS, SUBJECT_KEY_ID, SUBJECT_ALT_NAME] {
                assert_eq!(extension(copy, oid), extension(new, oid));
            }
        });
        assert_eq!(copy.issuer().to_string(), "CN=Consul CA 1");
        assert_eq!(copy.extensions().len(), 5);
    });
}

#[test]
fn a_rotation_keeps_one_root_active_and_the_old_one_trusted() {
    let authorities = [authority(1), authority(2)];
    let before = rotate::begin(&authorities[0], &trust_domain());
    let after = rotated(&authorities);
    assert_eq!((before.roots.len(), after.roots.len()), (1, 2));
    assert!(after.roots.is_sorted_by(|a, b| a.id < b.id));
    assert_eq!(after.roots.iter().filter(|root| root.active).count(), 1);
    let old = after.roots.iter().find(|root| !root.active).unwrap();
    assert_eq!((old.id.as_str(), old.rotated_out_at), (before.roots[0].id.as_str(), Some(NOW)));

    assert_eq!(rotate::prune(&after, TTL, NOW + 2 * 72 * 3600), None);
    let (pruned, removed) = rotate::prune(&after, TTL, NOW + 2 * 72 * 3600 + 1).unwrap();
    assert_eq!((removed, pruned.roots.len()), (vec![old.id.clone()], 1));
    assert!(pruned.active().is_some());
}

#[test]
fn a_rotation_back_reuses_the_root_that_is_still_trusted() {
    let authorities = [authority(1), authority(2)];
    let roots = rotated(&authorities);
    let [first, second] = &authorities;
    let back = rotate::follow(&roots, second, first, &trust_domain(), CrossSigning::Required, NOW + 5).unwrap();
    assert_eq!(back.roots.len(), 2);
    let active = back.active().unwrap();
    assert_eq!((active.id.clone(), active.rotated_out_at), (first.certificate().fingerprint(), None));
    let issued = leaf(first, &active.intermediates_pem);
    for known in &authorities {
        webpki_verifies(&known.certificate().pem(), &issued.cert_pem).unwrap();
    }
}

#[test]
fn expired_cross_signatures_are_not_carried_on() {
    let [a, b, c] = [1, 2, 3].map(authority);
    let roots = rotate::begin(&a, &trust_domain());
    let roots = rotate::follow(&roots, &a, &b, &trust_domain(), CrossSigning::Required, NOW).unwrap();
    let later = NOW + 8 * 86_400;
    let roots = rotate::follow(&roots, &b, &c, &trust_domain(), CrossSigning::Required, later).unwrap();
    assert_eq!(roots.active().unwrap().intermediates_pem.len(), 1);
}

#[test]
fn a_forced_rotation_needs_nothing_of_the_old_key() {
    let [a, b] = [1, 2].map(authority);
    let roots = rotate::begin(&a, &trust_domain());
    let roots = rotate::follow(&roots, &a, &b, &trust_domain(), CrossSigning::Skipped, NOW).unwrap();
    assert!(roots.active().unwrap().intermediates_pem.is_empty());
    assert_eq!(roots.roots.len(), 2);
}

#[test]
fn an_authority_that_is_not_the_active_one_is_noticed() {
    let [a, b] = [1, 2].map(authority);
    let roots = rotate::begin(&a, &trust_domain());
    let error = rotate::follow(&roots, &b, &a, &trust_domain(), CrossSigning::Required, NOW).unwrap_err();
    let [a, b] = [a, b].map(|authority| authority.certificate().fingerprint());
    assert_eq!(error.to_string(), format!("stored CA root {b:?} is not the active root ({a})"));
}

#[test]
fn a_service_name_of_any_form_is_carried_whole() {
    let authority = authority(1);
    for name in ["UPPER", "a b", "ü/&", &"n".repeat(300)] {
        let identity = ServiceIdentity::new(&trust_domain(), "dc1", name.into());
        let csr = Csr::from_pem(new_key_and_csr(&identity).unwrap().csr_pem.as_bytes()).unwrap();
        let issued = authority.sign_leaf(&[], &csr, NOW, TTL).unwrap();
        assert_eq!(issued.service, *name);
        let certificate = Certificate::from_pem(&issued.cert_pem).unwrap();
        assert_eq!(certificate.uris, [identity.to_string()]);
        webpki_verifies(&authority.certificate().pem(), &issued.cert_pem).unwrap();
    }
}

#[test]
fn times_that_no_certificate_can_express_are_an_error() {
    let authority = authority(1);
    assert!(matches!(authority.sign_leaf(&[], &csr(), NOW, Duration::MAX), Err(Error::Time(_))));
    let key = SigningKey::generate().unwrap();
    assert!(matches!(Authority::generate(key, &trust_domain(), 1, i64::MAX), Err(Error::Time(_))));
}
