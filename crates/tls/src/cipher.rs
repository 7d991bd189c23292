//! The ciphers of records, each by the library that is fastest on this processor.
//!
//! Both libraries do the same; which one does it is decided once, by what the processor has. The general library uses the
//! wide AES instructions (VAES) only together with AVX-512, which laptops and many servers lack. The other one uses them
//! with AVX2, and is twice as fast there.

#[cfg(target_arch = "x86_64")]
use std::mem::ManuallyDrop;
#[cfg(target_arch = "x86_64")]
use std::sync::LazyLock;

use aws_lc_rs::aead as general;
#[cfg(target_arch = "x86_64")]
use ring::aead as wide;

/// Bytes that authenticate a record.
pub(crate) const TAG: usize = 16;
/// Bytes of a nonce of any suite.
pub(crate) const NONCE: usize = 12;

/// What records are protected with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Aes128Gcm,
    Aes256Gcm,
    ChaCha20Poly1305,
}

impl Algorithm {
    pub(crate) fn key_len(self) -> usize {
        match self {
            Algorithm::Aes128Gcm => 16,
            Algorithm::Aes256Gcm | Algorithm::ChaCha20Poly1305 => 32,
        }
    }
}

/// An expanded key. A nonce must seal only once with it.
pub(crate) enum Cipher {
    General(general::LessSafeKey),
    #[cfg(target_arch = "x86_64")]
    Wide(Box<Wiped>),
}

/// A key that leaves nothing where it was kept, which its library does not see to.
#[cfg(target_arch = "x86_64")]
pub(crate) struct Wiped(ManuallyDrop<wide::LessSafeKey>);

#[cfg(target_arch = "x86_64")]
impl Drop for Wiped {
    #[expect(unsafe_code, reason = "a key of another library cannot be wiped otherwise")]
    fn drop(&mut self) {
        // Nothing of it is anywhere else, and nothing would have to be done with it.
        const { assert!(!std::mem::needs_drop::<wide::LessSafeKey>()) };
        // SAFETY: the key is plain memory of its own without a destructor, as was just made sure, and not looked at again:
        // it is in `ManuallyDrop`, and this is its end.
        unsafe { zeroize::zeroize_flat_type(&raw mut self.0) };
    }
}

impl Cipher {
    /// `None` when the key is not as long as those of the algorithm.
    pub(crate) fn new(algorithm: Algorithm, key: &[u8]) -> Option<Cipher> {
        #[cfg(target_arch = "x86_64")]
        if *WIDE_WITHOUT_AVX512 && algorithm != Algorithm::ChaCha20Poly1305 {
            return Cipher::wide(algorithm, key);
        }
        Cipher::general(algorithm, key)
    }

    fn general(algorithm: Algorithm, key: &[u8]) -> Option<Cipher> {
        let algorithm = match algorithm {
            Algorithm::Aes128Gcm => &general::AES_128_GCM,
            Algorithm::Aes256Gcm => &general::AES_256_GCM,
            Algorithm::ChaCha20Poly1305 => &general::CHACHA20_POLY1305,
        };
        Some(Cipher::General(general::LessSafeKey::new(general::UnboundKey::new(algorithm, key).ok()?)))
    }

    #[cfg(target_arch = "x86_64")]
    fn wide(algorithm: Algorithm, key: &[u8]) -> Option<Cipher> {
        let algorithm = match algorithm {
            Algorithm::Aes128Gcm => &wide::AES_128_GCM,
            Algorithm::Aes256Gcm => &wide::AES_256_GCM,
            Algorithm::ChaCha20Poly1305 => &wide::CHACHA20_POLY1305,
        };
        let key = wide::LessSafeKey::new(wide::UnboundKey::new(algorithm, key).ok()?);
        Some(Cipher::Wide(Box::new(Wiped(ManuallyDrop::new(key)))))
    }

    /// Seals the bytes where they are; the answer authenticates them and `aad`. `None` when there are too many.
    pub(crate) fn seal(&self, nonce: [u8; NONCE], aad: &[u8], bytes: &mut [u8]) -> Option<[u8; TAG]> {
        match self {
            Cipher::General(key) => {
                let nonce = general::Nonce::assume_unique_for_key(nonce);
                let tag = key.seal_in_place_separate_tag(nonce, general::Aad::from(aad), bytes).ok()?;
                tag.as_ref().try_into().ok()
            }
            #[cfg(target_arch = "x86_64")]
            Cipher::Wide(key) => {
                let nonce = wide::Nonce::assume_unique_for_key(nonce);
                let tag = key.0.seal_in_place_separate_tag(nonce, wide::Aad::from(aad), bytes).ok()?;
                tag.as_ref().try_into().ok()
            }
        }
    }

    /// Opens bytes with what authenticates them behind, where they are; the answer is how many there are without that.
    /// `None` when they were not sealed so.
    pub(crate) fn open(&self, nonce: [u8; NONCE], aad: &[u8], sealed: &mut [u8]) -> Option<usize> {
        match self {
            Cipher::General(key) => {
                let nonce = general::Nonce::assume_unique_for_key(nonce);
                key.open_in_place(nonce, general::Aad::from(aad), sealed).ok().map(|opened| opened.len())
            }
            #[cfg(target_arch = "x86_64")]
            Cipher::Wide(key) => {
                let nonce = wide::Nonce::assume_unique_for_key(nonce);
                key.0.open_in_place(nonce, wide::Aad::from(aad), sealed).ok().map(|opened| opened.len())
            }
        }
    }
}

/// Whether the processor has the wide AES instructions, but not what the general library wants beside them.
#[cfg(target_arch = "x86_64")]
static WIDE_WITHOUT_AVX512: LazyLock<bool> = LazyLock::new(|| {
    use std::arch::is_x86_feature_detected as has;
    let wide = has!("vaes") && has!("vpclmulqdq") && has!("avx2");
    wide && !(has!("avx512f") && has!("avx512dq") && has!("avx512bw") && has!("avx512vl"))
});

#[cfg(test)]
#[cfg(target_arch = "x86_64")]
mod tests {
    use super::*;

    #[test]
    fn both_libraries_seal_and_open_alike() {
        for algorithm in [Algorithm::Aes128Gcm, Algorithm::Aes256Gcm, Algorithm::ChaCha20Poly1305] {
            let key: Vec<u8> = (0..algorithm.key_len() as u8).collect();
            let both = [Cipher::general(algorithm, &key).unwrap(), Cipher::wide(algorithm, &key).unwrap()];
            for len in [0, 1, 15, 16, 17, 31, 100, 255, 1400, 4096, 16_383, 16_384] {
                let plain: Vec<u8> = (0..len).map(|at: usize| (at * 7) as u8).collect();
                let (nonce, aad) = ([len as u8; NONCE], [23, 3, 3, 1, 2]);
                let sealed = both.each_ref().map(|cipher| {
                    let mut bytes = plain.clone();
                    let tag = cipher.seal(nonce, &aad, &mut bytes).unwrap();
                    bytes.extend_from_slice(&tag);
                    bytes
                });
                assert_eq!(sealed[0], sealed[1], "{algorithm:?}, {len} bytes");
                for cipher in &both {
                    let mut bytes = sealed[0].clone();
                    assert_eq!(cipher.open(nonce, &aad, &mut bytes), Some(len));
                    assert_eq!(bytes[..len], plain);
                    let mut forged = sealed[0].clone();
                    *forged.last_mut().unwrap() ^= 1;
                    assert_eq!(cipher.open(nonce, &aad, &mut forged), None);
                    assert_eq!(cipher.open(nonce, &[23, 3, 3, 1, 3], &mut sealed[0].clone()), None);
                    assert_eq!(cipher.open(nonce, &aad, &mut [0; TAG - 1]), None);
                }
            }
        }
    }
}
