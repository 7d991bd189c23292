//! Signing keys: read, made, used; their bytes leave only through [`crate::seal`] or as a leaf's own key.

use std::fmt;

use aws_lc_rs::encoding::{AsDer, EcPrivateKeyRfc5915Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair,
    RSA_PKCS1_SHA256,
};
use zeroize::Zeroizing;

use crate::Error;
use crate::der::{self, oid};
use crate::pem::{self, Label};

/// A private key that signs certificates. The crypto library wipes it when it is dropped.
pub struct SigningKey {
    kind: Kind,
    public: Vec<u8>,
}

enum Kind {
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Rsa(Box<rsa::KeyPair>),
}

impl SigningKey {
    /// Makes a key on P-256.
    pub fn generate() -> Result<SigningKey, Error> {
        SigningKey::ec(Kind::P256, EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)?)
    }

    /// Reads the first key of a PEM text: SEC1, PKCS#8, or PKCS#1 for RSA.
    pub fn from_pem(text: &str) -> Result<SigningKey, Error> {
        SigningKey::from_der(&pem::first_key(text)?)
    }

    pub(crate) fn from_der(der: &[u8]) -> Result<SigningKey, Error> {
        let ec = |algorithm: &'static EcdsaSigningAlgorithm| EcdsaKeyPair::from_private_key_der(algorithm, der).ok();
        if let Some(pair) = ec(&ECDSA_P256_SHA256_ASN1_SIGNING) {
            return SigningKey::ec(Kind::P256, pair);
        }
        if let Some(pair) = ec(&ECDSA_P384_SHA384_ASN1_SIGNING) {
            return SigningKey::ec(Kind::P384, pair);
        }
        if let Some(bare) = without_public_half(der)
            && bare.as_slice() != der
        {
            return SigningKey::from_der(&bare);
        }
        let pair = rsa::KeyPair::from_pkcs8(der)
            .or_else(|_| rsa::KeyPair::from_der(der))
            .map_err(|_| Error::UnsupportedKey)?;
        let public = AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key())?.as_ref().to_vec();
        Ok(SigningKey { kind: Kind::Rsa(Box::new(pair)), public })
    }

    fn ec(kind: fn(EcdsaKeyPair) -> Kind, pair: EcdsaKeyPair) -> Result<SigningKey, Error> {
        let public = AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key())?.as_ref().to_vec();
        Ok(SigningKey { kind: kind(pair), public })
    }

    /// The public half: a SubjectPublicKeyInfo.
    pub fn public_key(&self) -> &[u8] {
        &self.public
    }

    /// The AlgorithmIdentifier of the signatures this key makes.
    pub(crate) fn algorithm(&self) -> Vec<u8> {
        match self.kind {
            Kind::P256(_) => der::sequence(&[oid::ECDSA_WITH_SHA256]),
            Kind::P384(_) => der::sequence(&[oid::ECDSA_WITH_SHA384]),
            Kind::Rsa(_) => der::sequence(&[oid::RSA_WITH_SHA256, der::NULL]),
        }
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let random = SystemRandom::new();
        match &self.kind {
            Kind::P256(pair) | Kind::P384(pair) => Ok(pair.sign(&random, message)?.as_ref().to_vec()),
            Kind::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)?;
                Ok(signature)
            }
        }
    }

    /// The key itself, as PEM: SEC1 for EC keys, PKCS#8 for RSA keys. For sealing, and for a leaf's holder.
    pub(crate) fn to_pem(&self) -> Result<Zeroizing<String>, Error> {
        Ok(Zeroizing::new(match &self.kind {
            Kind::P256(pair) | Kind::P384(pair) => {
                let key = AsDer::<EcPrivateKeyRfc5915Der<'_>>::as_der(&pair.private_key())?;
                pem::block(Label::EcKey, key.as_ref())
            }
            Kind::Rsa(pair) => {
                let key = AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&**pair)?;
                pem::block(Label::Key, key.as_ref())
            }
        }))
    }
}

/// A SEC1 key without the public half that may stand in it: what counts is the private one, and the original has always
/// computed the other from it, so keys with a wrong one are in use. `None` for what is no such key.
fn without_public_half(der: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    const VERSION: &[u8] = &[0x02, 1, 1];
    let (key, rest) = split_value(der, der::SEQUENCE)?;
    let (private, curve) = (rest.is_empty().then_some(key)?.strip_prefix(VERSION)?, &key[VERSION.len()..]);
    let (_, after) = split_value(private, der::OCTET_STRING)?;
    let private = &curve[..curve.len() - after.len()];
    // The curve is there or the key cannot be read at all.
    let (_, public) = split_value(after, 0xa0)?;
    let curve = &after[..after.len() - public.len()];
    Some(Zeroizing::new(der::sequence(&[VERSION, private, curve])))
}

/// The content of a value of this kind at the beginning of `der`, and what follows it. Keys are short, so lengths are.
fn split_value(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, rest) = der.split_first()?;
    let (length, rest) = rest.split_first()?;
    let (length, rest) = match length {
        0..=0x7f => (*length, rest),
        0x81 => rest.split_first().map(|(length, rest)| (*length, rest))?,
        _ => return None,
    };
    (*found == tag).then(|| rest.split_at_checked(usize::from(length)))?
}

/// Shows what kind of key it is, and nothing of the key.
impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            Kind::P256(_) => "SigningKey(P-256)",
            Kind::P384(_) => "SigningKey(P-384)",
            Kind::Rsa(_) => "SigningKey(RSA)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_text() {
        let key = SigningKey::generate().unwrap();
        let text = key.to_pem().unwrap();
        assert!(text.starts_with("-----BEGIN EC PRIVATE KEY-----\n"), "{:?}", key);
        assert_eq!(SigningKey::from_pem(&text).unwrap().public_key(), key.public_key());
    }

    #[test]
    fn a_key_counts_by_its_private_half() {
        let (key, other) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
        let der = pem::first_key(&key.to_pem().unwrap()).unwrap();
        let public = |key: &SigningKey| key.public_key()[key.public_key().len() - 65..].to_vec();
        let at = der.windows(65).position(|window| window == public(&key)).unwrap();
        let mut wrong = der.to_vec();
        wrong[at..at + 65].copy_from_slice(&public(&other));
        assert_eq!(SigningKey::from_der(&wrong).unwrap().public_key(), key.public_key());
        let bare = without_public_half(&der).unwrap();
        assert!(bare.len() < der.len());
        assert_eq!(SigningKey::from_der(&bare).unwrap().public_key(), key.public_key());
    }

    #[test]
    fn a_text_without_a_usable_key_is_refused() {
        assert_eq!(SigningKey::from_pem("zz").unwrap_err(), Error::NoPem);
        let certificate = pem::block(Label::Certificate, &[1, 2, 3]);
        assert_eq!(SigningKey::from_pem(&certificate).unwrap_err(), Error::NoPem);
        let garbage = pem::block(Label::EcKey, &[1, 2, 3]);
        assert_eq!(SigningKey::from_pem(&garbage).unwrap_err(), Error::UnsupportedKey);
    }
}
