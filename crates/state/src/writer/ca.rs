//! Writing the CA's configuration, its roots and its sealed keys.

use std::collections::BTreeSet;

use lictor_model::revision::Revision;

use super::{CaChange, Writer};
use crate::Error;
use crate::record::Created;
use crate::record::ca::{CaConfigRecord, RootRecord};
use crate::schema::Key;

impl Writer {
    /// Writes the CA's configuration, roots and sealed keys together.
    pub async fn change_ca(&self, change: CaChange) -> Result<(), Error> {
        self.write("change the CA", |scratch| {
            let stored = scratch.tables.ca.config();
            if stored.map_or(Revision::ZERO, |config| config.modified) != change.based_on {
                return Err(Error::refused("could not atomically update roots and config"));
            }
            let draft = &mut scratch.draft;
            draft.expect(&Key::CaConfig, change.based_on)?;
            let cluster_id = stored.map_or(&change.cluster_id, |config| &config.cluster_id);
            let created = stored.map_or(Created::NOW, |config| Created::at(config.created));
            // Written even when it is the same: its revision is what a second change from the same state is refused by.
            let record = CaConfigRecord::new(&change.provider, change.config.as_ref(), cluster_id, created);
            draft.put(&Key::CaConfig, &record)?;

            let former = scratch.tables.ca.roots();
            let named: BTreeSet<&str> = change.roots.iter().map(|root| root.id.as_str()).collect();
            for root in &change.roots {
                let key = Key::Root(root.id.as_str().into());
                let known = former.roots.iter().find(|known| known.id == root.id);
                let record = RootRecord::new(root, known.map_or(Created::NOW, |known| Created::at(known.created)));
                let same = known.is_some_and(|known| RootRecord::new(known, Created::at(known.created)) == record);
                if !same {
                    draft.put(&key, &record)?;
                }
            }
            for gone in former.roots.iter().filter(|root| !named.contains(root.id.as_str())) {
                draft.delete(&Key::Root(gone.id.as_str().into()))?;
                draft.delete(&Key::Sealed(gone.id.as_str().into()))?;
            }
            let keys: BTreeSet<&str> = change.sealed_keys.iter().map(|(id, _)| id.as_str()).collect();
            // Never the active one's: a change of the configuration alone may well name no key.
            for root in change.roots.iter().filter(|root| !root.active && !keys.contains(root.id.as_str())) {
                draft.delete(&Key::Sealed(root.id.as_str().into()))?;
            }
            for (id, sealed) in &change.sealed_keys {
                draft.put_bytes(&Key::Sealed(id.as_str().into()), sealed.clone())?;
            }
            Ok(())
        })
        .await
    }

    /// The sealed signing key of a root.
    pub async fn sealed_key(&self, root_id: &str) -> Result<Option<Vec<u8>>, Error> {
        let entry = self.stored(&Key::Sealed(root_id.into()), "read a sealed key").await?;
        Ok(entry.map(|entry| entry.value.to_vec()))
    }
}
