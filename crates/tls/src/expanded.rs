//! Keys in the form that the cipher works with: made when they are used, and given up when others are.
//!
//! An expanded key has some 600 bytes, of which a secured connection would hold two at each end. Most connections are
//! idle most of the time, so each holds its bare key alone, and a thread keeps the expanded ones that it used last. To
//! make one takes less than the system call that brought its record.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};

use zeroize::Zeroizing;

use crate::cipher::{Algorithm, Cipher};

/// Most bytes of a key of any suite.
const LONGEST: usize = 32;

/// Places in which one key may be kept.
const WAYS: usize = 4;
/// Groups of such places: enough for what some sixty busy connections of a worker use.
const SETS: usize = 32;

type Set = [Option<(u64, Cipher)>; WAYS];

thread_local! {
    /// Of each set the one that was used last comes first.
    static KEPT: RefCell<Vec<Set>> = const { RefCell::new(Vec::new()) };
}

/// A key for records.
pub(crate) struct Key {
    /// No other key of this process has it.
    id: u64,
    algorithm: Algorithm,
    bytes: Zeroizing<[u8; LONGEST]>,
}

impl Key {
    pub(crate) fn new(algorithm: Algorithm, bytes: &[u8]) -> Option<Key> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let mut kept = Zeroizing::new([0; LONGEST]);
        kept.get_mut(..bytes.len())?.copy_from_slice(bytes);
        let fits = bytes.len() == algorithm.key_len();
        fits.then(|| Key { id: NEXT.fetch_add(1, Ordering::Relaxed), algorithm, bytes: kept })
    }

    /// Does something with the expanded key.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&Cipher) -> T) -> Option<T> {
        // The thread's keys cannot be had while it ends, and never while they are used: work knows no other key.
        let mut work = Some(work);
        let kept = KEPT.try_with(|kept| {
            let mut sets = kept.try_borrow_mut().ok()?;
            if sets.is_empty() {
                sets.resize_with(SETS, Set::default);
            }
            let set = &mut sets[self.set()];
            match set.iter().position(|one| matches!(one, Some((id, _)) if *id == self.id)) {
                Some(0) => {}
                Some(at) => set[..=at].rotate_right(1),
                None => {
                    let expanded = self.expand()?;
                    set.rotate_right(1);
                    set[0] = Some((self.id, expanded));
                }
            }
            let (_, key) = set[0].as_ref()?;
            Some(work.take()?(key))
        });
        match kept {
            Ok(Some(done)) => Some(done),
            _ => Some(work.take()?(&self.expand()?)),
        }
    }

    fn set(&self) -> usize {
        (self.id % SETS as u64) as usize
    }

    fn expand(&self) -> Option<Cipher> {
        Cipher::new(self.algorithm, &self.bytes[..self.algorithm.key_len()])
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        // One that was used on another thread is given up there when it is in the way.
        let _ = KEPT.try_with(|kept| {
            if let Ok(mut sets) = kept.try_borrow_mut()
                && let Some(set) = sets.get_mut(self.set())
            {
                for one in set.iter_mut().filter(|one| matches!(one, Some((id, _)) if *id == self.id)) {
                    *one = None;
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(key: &Key) -> Vec<u8> {
        let mut bytes = b"record".to_vec();
        let tag = key.with(|key| key.seal([7; 12], &[], &mut bytes)).unwrap().unwrap();
        bytes.extend_from_slice(&tag);
        bytes
    }

    fn kept() -> usize {
        KEPT.with_borrow(|sets| sets.iter().flatten().flatten().count())
    }

    #[test]
    fn a_key_is_the_same_whether_it_was_kept_or_not_and_on_every_thread() {
        let keys: Vec<Key> = (0..1000u16)
            .map(|n| match n % 2 {
                0 => Key::new(Algorithm::Aes128Gcm, &[n.to_le_bytes()[0]; 16]).unwrap(),
                _ => Key::new(Algorithm::ChaCha20Poly1305, &[n.to_le_bytes()[0]; 32]).unwrap(),
            })
            .collect();
        let first: Vec<Vec<u8>> = keys.iter().map(sealed).collect();
        assert_eq!(kept(), SETS * WAYS);
        // In another order, some of them several times.
        for at in (0..1000).rev().chain((0..3000).map(|at| at * 7 % 50)) {
            assert_eq!(sealed(&keys[at]), first[at]);
        }
        std::thread::scope(|scope| {
            scope.spawn(|| assert!(keys.iter().zip(&first).all(|(key, first)| sealed(key) == *first)));
        });
        drop(keys);
        assert_eq!(kept(), 0);
    }

    #[test]
    fn keys_of_a_wrong_length_are_none() {
        assert!(Key::new(Algorithm::Aes128Gcm, &[0; 15]).is_none());
        assert!(Key::new(Algorithm::Aes128Gcm, &[0; 32]).is_none());
        assert!(Key::new(Algorithm::ChaCha20Poly1305, &[0; 33]).is_none());
    }
}
