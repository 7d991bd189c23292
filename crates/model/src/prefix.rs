//! Finding what was set for the longest beginning of a name.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::ops::Bound;

use crate::text;

/// The entry whose key is the longest prefix of a name. Names come from whoever asks, who may have no right at all and send
/// long ones: this looks at the name once and at the entries that it could meet, not at each of its prefixes.
pub fn longest<'a, K: Borrow<str> + Ord, V>(entries: &'a BTreeMap<K, V>, name: &str) -> Option<(&'a K, &'a V)> {
    let mut rest = name;
    loop {
        // A prefix of the name stands before the name, and the longest one stands last. What stands between the two
        // differs from the name somewhere, and what is looked for is not longer than what they share.
        let (nearest, value) = entries.range::<str, _>((Bound::Unbounded, Bound::Included(rest))).next_back()?;
        let text: &str = nearest.borrow();
        let shared = text.bytes().zip(rest.bytes()).take_while(|(one, other)| one == other).count();
        if shared == text.len() {
            return Some((nearest, value));
        }
        rest = text::beginning(rest, shared);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_of_all_prefixes_is_found() {
        let entries: BTreeMap<&str, ()> = ["", "a", "ab", "abd", "aé", "b", "aa"].map(|key| (key, ())).into();
        let found = |name| longest(&entries, name).map(|(key, ())| *key);
        let expected = [("abc", "ab"), ("abd", "abd"), ("ac", "a"), ("aé!", "aé"), ("aè", "a"), ("zz", ""), ("", "")];
        for (name, prefix) in expected {
            assert_eq!(found(name), Some(prefix), "{name}");
        }
        assert_eq!(longest(&BTreeMap::from([("b", ())]), "abc"), None);
    }
}
