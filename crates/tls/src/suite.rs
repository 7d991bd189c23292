//! Which algorithms are offered, and in which order.

use std::sync::{Arc, OnceLock};

use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::{SupportedCipherSuite, SupportedProtocolVersion, version};

/// How session keys are agreed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum KeyExchange {
    /// Elliptic curves only. The default: the hybrid costs a quarter of a handshake more and protects recordings
    /// against machines that do not exist yet, which few meshes inside one network ask for.
    #[default]
    Classical,
    /// X25519 together with ML-KEM-768 first; peers that do not know it get X25519.
    Hybrid,
}

/// Both versions that Connect peers speak: release builds of the original know nothing above 1.2.
pub(crate) const VERSIONS: &[&SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];

/// The algorithms for a key exchange setting, made once.
pub(crate) fn provider(key_exchange: KeyExchange) -> Arc<CryptoProvider> {
    static CLASSICAL: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    static HYBRID: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    let cell = match key_exchange {
        KeyExchange::Classical => &CLASSICAL,
        KeyExchange::Hybrid => &HYBRID,
    };
    Arc::clone(cell.get_or_init(|| {
        Arc::new(CryptoProvider {
            cipher_suites: cipher_suites(aes_in_hardware()),
            kx_groups: groups(key_exchange),
            ..default_provider()
        })
    }))
}

/// The same with only some suites of TLS 1.2, by the names that standards and the original give them, the first one
/// liked best. Those of TLS 1.3 cannot be chosen.
pub(crate) fn restricted(provider: &CryptoProvider, wanted: &[String]) -> Arc<CryptoProvider> {
    let place = |suite: &SupportedCipherSuite| {
        let name = format!("{:?}", suite.suite());
        // The original leaves out the hash of these.
        let short = name.strip_suffix("_SHA256").filter(|name| name.ends_with("POLY1305"));
        wanted.iter().position(|wanted| *wanted == name || Some(wanted.as_str()) == short)
    };
    let is_new = |suite: &&SupportedCipherSuite| suite.version().version == rustls::ProtocolVersion::TLSv1_3;
    let mut old: Vec<_> = provider.cipher_suites.iter().filter_map(|suite| Some((place(suite)?, *suite))).collect();
    old.sort_by_key(|(place, _)| *place);
    let new = provider.cipher_suites.iter().filter(is_new).copied();
    let cipher_suites = new.chain(old.into_iter().map(|(_, suite)| suite)).collect();
    Arc::new(CryptoProvider { cipher_suites, ..provider.clone() })
}

fn groups(key_exchange: KeyExchange) -> Vec<&'static dyn SupportedKxGroup> {
    let mut groups: Vec<&'static dyn SupportedKxGroup> =
        vec![kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1];
    if key_exchange == KeyExchange::Hybrid {
        groups.insert(0, kx_group::X25519MLKEM768);
    }
    groups
}

fn cipher_suites(aes_first: bool) -> Vec<SupportedCipherSuite> {
    let aes = [
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS13_AES_256_GCM_SHA384,
        cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    ];
    let chacha = [
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ];
    if aes_first { aes.into_iter().chain(chacha).collect() } else { chacha.into_iter().chain(aes).collect() }
}

/// Whether the processor encrypts AES itself; without it ChaCha20 is several times faster.
fn aes_in_hardware() -> bool {
    #[cfg(target_arch = "x86_64")]
    let found = std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    let found = std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let found = false;
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hybrid_group_is_a_choice_and_comes_first() {
        let names = |choice| provider(choice).kx_groups.iter().map(|group| group.name()).collect::<Vec<_>>();
        use rustls::NamedGroup::{X25519, X25519MLKEM768, secp256r1, secp384r1};
        assert_eq!(names(KeyExchange::Classical), [X25519, secp256r1, secp384r1]);
        assert_eq!(names(KeyExchange::Hybrid), [X25519MLKEM768, X25519, secp256r1, secp384r1]);
    }

    #[test]
    fn every_suite_is_offered_whatever_comes_first() {
        assert_eq!(cipher_suites(true).len(), cipher_suites(false).len());
        assert_eq!(cipher_suites(true)[0], cipher_suite::TLS13_AES_128_GCM_SHA256);
        assert_eq!(cipher_suites(false)[0], cipher_suite::TLS13_CHACHA20_POLY1305_SHA256);
    }

    #[test]
    fn suites_are_chosen_by_the_names_that_the_original_knows() {
        let all = provider(KeyExchange::Classical);
        let old = |provider: &CryptoProvider| -> Vec<String> {
            let suites = provider.cipher_suites.iter();
            let old = suites.filter(|suite| suite.version().version == rustls::ProtocolVersion::TLSv1_2);
            old.map(|suite| format!("{:?}", suite.suite())).collect()
        };
        let some =
            |names: &[&str]| old(&restricted(&all, &names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()));
        assert_eq!(old(&all).len(), 6);
        assert_eq!(some(&["TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305"]), ["TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"]);
        assert_eq!(some(&["TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"]), ["TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"]);
        // In the order given, whatever is liked best here.
        let (more, less) = ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256");
        assert_eq!(some(&[more, less]), [more, less]);
        assert_eq!(some(&[less, more]), [less, more]);
        assert_eq!(restricted(&all, &[]).cipher_suites.len(), all.cipher_suites.len() - 6);
    }
}
