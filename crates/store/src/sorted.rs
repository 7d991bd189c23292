//! A map that is looked up by hash and walked in order.
//!
//! In a tree of many keys with long common beginnings, as names and keys of stores have, every look compares a dozen of
//! them; and there are many more looks than keys that come and go, which is all that the order has to hear of.

use std::borrow::Borrow;
use std::collections::hash_map::{Entry, HashMap};
use std::collections::{BTreeSet, btree_set};
use std::fmt;
use std::hash::Hash;
use std::ops::Bound;

/// Values by keys. Clones of a key must be cheap: each is held twice.
///
/// A borrowed form of a key must hash, equal and order as the key does, which [`Borrow`] asks for.
#[derive(Clone, PartialEq, Eq)]
pub struct Sorted<K: Ord + Hash, V> {
    values: HashMap<K, V>,
    order: BTreeSet<K>,
}

impl<K: Ord + Hash + Clone, V> Sorted<K, V> {
    /// The value of a key.
    pub fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.values.get(key)
    }

    /// The key as it is held here, with its value.
    pub fn get_key_value<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<(&K, &V)>
    where
        K: Borrow<Q>,
    {
        self.values.get_key_value(key)
    }

    /// The value of a key, to change it.
    pub fn get_mut<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        self.values.get_mut(key)
    }

    /// Sets the value of a key; gives the one before.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self.values.entry(key) {
            Entry::Occupied(mut known) => Some(known.insert(value)),
            Entry::Vacant(new) => {
                self.order.insert(new.key().clone());
                new.insert(value);
                None
            }
        }
    }

    /// The value of a key, which is made if there is none.
    pub fn get_or_insert_with(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V {
        match self.values.entry(key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                self.order.insert(new.key().clone());
                new.insert(make())
            }
        }
    }

    /// Takes a key out; gives its value.
    pub fn remove<Q: Hash + Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let value = self.values.remove(key)?;
        self.order.remove(key);
        Some(value)
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The keys, sorted.
    pub fn keys(&self) -> btree_set::Iter<'_, K> {
        self.order.iter()
    }

    /// Keys and values, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.order.iter().filter_map(|key| self.values.get_key_value::<K>(key))
    }

    /// Keys from this one on and their values, sorted by key.
    pub fn starting_at<'a, Q: Ord + ?Sized>(
        &'a self,
        first: &Q,
    ) -> impl Iterator<Item = (&'a K, &'a V)> + use<'a, K, V, Q>
    where
        K: Borrow<Q>,
    {
        let keys = self.order.range::<Q, _>((Bound::Included(first), Bound::Unbounded));
        keys.filter_map(|key| self.values.get_key_value::<K>(key))
    }

    /// All values to change them, in no order.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.values.values_mut()
    }
}

impl<K: Ord + Hash, V> Default for Sorted<K, V> {
    fn default() -> Sorted<K, V> {
        Sorted { values: HashMap::new(), order: BTreeSet::new() }
    }
}

impl<K: Ord + Hash + Clone + fmt::Debug, V: fmt::Debug> fmt::Debug for Sorted<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;

    use super::*;

    #[test]
    fn it_is_what_a_tree_of_the_same_keys_is() {
        let mut random = fastrand::Rng::with_seed(5);
        let (mut sorted, mut tree) = (Sorted::<Bytes, u64>::default(), BTreeMap::<Bytes, u64>::new());
        for number in 0..2000 {
            let key = Bytes::from(format!("k/{}", random.u8(..60)));
            match random.u8(..4) {
                0 => assert_eq!(sorted.remove(&key[..]), tree.remove(&key)),
                1 => {
                    assert_eq!(*sorted.get_or_insert_with(key.clone(), || number), *tree.entry(key).or_insert(number),)
                }
                _ => assert_eq!(sorted.insert(key.clone(), number), tree.insert(key, number)),
            }
            assert_eq!(sorted.len(), tree.len());
        }
        assert!(sorted.iter().eq(tree.iter()) && sorted.keys().eq(tree.keys()));
        let first = b"k/3".as_slice();
        let rest = tree.range::<[u8], _>((Bound::Included(first), Bound::Unbounded));
        assert!(sorted.starting_at(first).eq(rest));
        sorted.values_mut().for_each(|value| *value = 0);
        assert!(tree.keys().all(|key| sorted.get(key) == Some(&0) && sorted.get_key_value(key) == Some((key, &0))));
    }
}
