//! When each of many groups last changed, without remembering those that are gone.

use std::collections::BTreeMap;

use lictor_model::revision::Revision;

/// By the name of the group. One that nobody is in counts as changed when any last lost its last member: that is never
/// before its own end, and others come and change without moving it.
#[derive(Debug)]
pub(crate) struct Marks<K> {
    groups: BTreeMap<K, Revision>,
    lost: Revision,
}

impl<K> Default for Marks<K> {
    fn default() -> Marks<K> {
        Marks { groups: BTreeMap::new(), lost: Revision::ZERO }
    }
}

impl<K: Ord> Marks<K> {
    /// One of the group came, changed or went; `is_left` tells whether there still is any.
    pub(crate) fn note(&mut self, group: K, at: Revision, is_left: bool) {
        if is_left {
            self.groups.insert(group, at);
        } else if self.groups.remove(&group).is_some() {
            self.lost = at;
        }
    }

    pub(crate) fn index(&self, group: &K) -> Revision {
        self.groups.get(group).copied().unwrap_or(self.lost)
    }

    /// Says of everything that it may have changed at this revision.
    pub(crate) fn raise(&mut self, floor: Revision) {
        self.lost = floor;
        self.groups.values_mut().for_each(|mark| *mark = floor);
    }
}
