//! A map that is mostly small: it is searched from end to end until it has grown.

use std::collections::HashMap;
use std::hash::Hash;

/// So many are searched one by one.
const FEW: usize = 16;

/// What was put in first under a key stays.
#[derive(Clone, Debug)]
pub(crate) struct Few<K, V> {
    few: Vec<(K, V)>,
    many: HashMap<K, V>,
}

impl<K: Hash + Eq, V> Few<K, V> {
    pub(crate) fn new() -> Few<K, V> {
        Few { few: Vec::new(), many: HashMap::new() }
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        match self.few.iter().find(|(known, _)| known == key) {
            Some((_, value)) => Some(value),
            None if self.many.is_empty() => None,
            None => self.many.get(key),
        }
    }

    /// Puts something in, unless there is something under the key; says whether that was so.
    pub(crate) fn insert(&mut self, key: K, value: V) -> bool {
        if self.get(&key).is_some() {
            return false;
        }
        if self.few.len() < FEW {
            if self.few.capacity() == 0 {
                self.few.reserve_exact(FEW);
            }
            self.few.push((key, value));
        } else {
            self.many.insert(key, value);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_map_at_every_size() {
        let mut map = Few::new();
        for key in 0..100 {
            assert_eq!(map.get(&key), None);
            assert!(map.insert(key, key * 2));
            assert!(!map.insert(key, 7), "the first stays");
            assert!((0..=key).all(|key| map.get(&key) == Some(&(key * 2))));
        }
    }
}
