//! Signing keys at rest: sealed with a key that is kept elsewhere, bound to the provider they belong to.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use zeroize::Zeroizing;

use crate::{Error, SigningKey};

/// The form of what is sealed: this byte, a nonce, the encrypted key with its tag.
const VERSION: u8 = 1;

/// The length of a sealing key.
pub const KEY_LEN: usize = 32;

/// Seals and opens signing keys with AES-256-GCM.
///
/// The provider's id is bound to what is sealed, so that the key of one provider, copied over another's record, is
/// noticed instead of used.
pub struct Seal(RandomizedNonceKey);

impl Seal {
    /// Takes the sealing key.
    pub fn new(key: Zeroizing<[u8; KEY_LEN]>) -> Result<Seal, Error> {
        Ok(Seal(RandomizedNonceKey::new(&AES_256_GCM, &*key)?))
    }

    /// Makes a sealing key.
    pub fn generate_key() -> Result<Zeroizing<[u8; KEY_LEN]>, Error> {
        let mut key = Zeroizing::new([0; KEY_LEN]);
        aws_lc_rs::rand::fill(&mut *key)?;
        Ok(key)
    }

    /// Seals the key of a provider.
    pub fn seal(&self, key: &SigningKey, provider_id: &str) -> Result<Vec<u8>, Error> {
        self.seal_text(&key.to_pem()?, provider_id)
    }

    /// Opens the key of a provider.
    pub fn unseal(&self, sealed: &[u8], provider_id: &str) -> Result<SigningKey, Error> {
        SigningKey::from_pem(&self.unseal_text(sealed, provider_id)?)
    }

    /// Seals a secret text, like the private key that an operator configured.
    pub fn seal_text(&self, secret: &str, provider_id: &str) -> Result<Vec<u8>, Error> {
        // Encrypted in place; with room for the tag, so that the secret is never copied to grow.
        let mut buffer = Vec::with_capacity(secret.len() + AES_256_GCM.tag_len());
        buffer.extend_from_slice(secret.as_bytes());
        let nonce = self.0.seal_in_place_append_tag(bound(provider_id), &mut buffer)?;
        Ok([&[VERSION], &nonce.as_ref()[..], &buffer].concat())
    }

    /// Opens a secret text.
    pub fn unseal_text(&self, sealed: &[u8], provider_id: &str) -> Result<Zeroizing<String>, Error> {
        let (version, rest) = sealed.split_first().ok_or(Error::Unsealable)?;
        if *version != VERSION {
            return Err(Error::SealVersion(*version));
        }
        let (nonce, encrypted) = rest.split_at_checked(NONCE_LEN).ok_or(Error::Unsealable)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| Error::Unsealable)?;
        let mut buffer = Zeroizing::new(encrypted.to_vec());
        let secret = self.0.open_in_place(nonce, bound(provider_id), &mut buffer).map_err(|_| Error::Unsealable)?;
        let secret = std::str::from_utf8(secret).map_err(|_| Error::Unsealable)?;
        Ok(Zeroizing::new(secret.to_owned()))
    }
}

/// What a sealed key is bound to: its form and its provider.
fn bound(provider_id: &str) -> Aad<Vec<u8>> {
    Aad::from([b"signing key v1 of ", provider_id.as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal() -> Seal {
        Seal::new(Seal::generate_key().unwrap()).unwrap()
    }

    #[test]
    fn a_sealed_key_is_opened_by_the_same_seal_and_provider_only() {
        let key = SigningKey::generate().unwrap();
        let seal = seal();
        let sealed = seal.seal(&key, "a").unwrap();
        assert_eq!(seal.unseal(&sealed, "a").unwrap().public_key(), key.public_key());
        assert_eq!(seal.unseal(&sealed, "b").unwrap_err(), Error::Unsealable);
        let other = super::tests::seal();
        assert_eq!(other.unseal(&sealed, "a").unwrap_err(), Error::Unsealable);
    }

    #[test]
    fn every_damaged_byte_is_noticed() {
        let seal = seal();
        let sealed = seal.seal_text("secret", "a").unwrap();
        assert_eq!(seal.unseal_text(&sealed, "a").unwrap().as_str(), "secret");
        for position in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[position] ^= 1;
            assert!(seal.unseal_text(&damaged, "a").is_err(), "byte {position}");
            assert!(seal.unseal_text(&sealed[..position], "a").is_err(), "length {position}");
        }
        let mut newer = sealed;
        newer[0] = 2;
        assert_eq!(seal.unseal_text(&newer, "a").unwrap_err(), Error::SealVersion(2));
    }

    #[test]
    fn the_same_key_is_never_sealed_the_same_way() {
        let seal = seal();
        let sealed = seal.seal_text("secret", "a").unwrap();
        assert_ne!(seal.seal_text("secret", "a").unwrap(), sealed);
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
    }
}
