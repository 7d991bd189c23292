//! Looks a whole store through: whether every record can be read and belongs to something.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lictor_store::Store;

use crate::Error;
use crate::record::{Pointer, decode};
use crate::replica::read;
use crate::schema::{Key, ROOT};

/// What [`inspect`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inspection {
    /// How many records each table has.
    pub tables: BTreeMap<String, usize>,
    /// Keys of ours that this version does not know, and of others.
    pub unknown: usize,
    /// What is wrong, one sentence each; empty on a sound store. Values are never shown.
    pub findings: Vec<String>,
}

/// Reads everything and judges it. Changes nothing.
pub async fn inspect(store: &Store) -> Result<Inspection, Error> {
    let scan = store.scan(b"").await.map_err(Error::store("read everything"))?;
    let mut inspection = Inspection::default();
    let mut keys = BTreeSet::new();
    let mut pointers = Vec::new();
    for entry in &scan.entries {
        let Some(key) = Key::parse(&entry.key) else {
            inspection.unknown += 1;
            continue;
        };
        let table = String::from_utf8_lossy(&entry.key[ROOT.len()..]);
        let table = table.split('/').next().unwrap_or_default().to_owned();
        *inspection.tables.entry(table).or_default() += 1;
        if let Err(error) = read(entry) {
            inspection.findings.push(crate::error::chain(&error));
        }
        if let Some(make) = owner(&key) {
            match decode::<Pointer>(&key, &entry.value) {
                Ok(pointer) => pointers.push((key.clone(), make(pointer.of.into()))),
                Err(error) => inspection.findings.push(crate::error::chain(&error)),
            }
        }
        keys.insert(key);
    }
    for key in &keys {
        if let Key::Service { node, .. } | Key::Check { node, .. } = key
            && !keys.contains(&Key::Node(Arc::clone(node)))
        {
            inspection.findings.push(format!("record {key:?} is of a node that is not there"));
        }
    }
    for (key, owner) in pointers {
        if !keys.contains(&owner) {
            inspection.findings.push(format!("record {key:?} points at {owner:?}, which is not there"));
        }
    }
    Ok(inspection)
}

/// What a key that only keeps something unique points at.
fn owner(key: &Key) -> Option<fn(Arc<str>) -> Key> {
    match key {
        Key::NodeOf(_) => Some(Key::Node),
        Key::IntentionOf { .. } => Some(Key::Intention),
        Key::QueryOf(_) => Some(Key::Query),
        _ => None,
    }
}
