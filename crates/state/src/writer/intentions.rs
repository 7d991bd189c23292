//! Writing intentions.

use std::sync::Arc;

use lictor_model::acl::Caller;
use lictor_model::intention::Intention;
use lictor_model::name::fold;
use lictor_model::revision::Revision;

use super::{Draft, Writer};
use crate::Error;
use crate::record::intention::IntentionRecord;
use crate::record::{Created, Pointer};
use crate::replica::Tables;
use crate::schema::Key;

impl Writer {
    /// Stores a new intention; its id and times are set by the caller. Refuses a pair that exists.
    pub async fn create_intention(&self, intention: Intention) -> Result<(), Error> {
        let key = Key::Intention(fold(&intention.id));
        self.write("create intention", |scratch| {
            refuse_duplicate(scratch.tables, &intention, None)?;
            let draft = &mut scratch.draft;
            draft.expect(&key, Revision::ZERO)?;
            draft.put(&key, &IntentionRecord::new(&intention, Created::NOW))?;
            claim_pair(draft, &intention)?;
            Ok(())
        })
        .await
    }

    /// Replaces an intention by its id, keeping when it was created. The caller must be allowed to write the one that is
    /// replaced.
    pub async fn update_intention(&self, caller: &Caller, intention: Intention) -> Result<(), Error> {
        let key = Key::Intention(fold(&intention.id));
        self.write("update intention", |scratch| {
            let former = written_by(caller, known(scratch.tables, &intention.id)?)?;
            refuse_duplicate(scratch.tables, &intention, Some(&former))?;
            let mut intention = intention.clone();
            intention.created_at = former.created_at;
            let draft = &mut scratch.draft;
            draft.expect(&key, former.modified)?;
            draft.put(&key, &IntentionRecord::new(&intention, Created::at(former.created)))?;
            if intention.pair() != former.pair() {
                draft.delete(&pair_key(&former))?;
                claim_pair(draft, &intention)?;
            }
            Ok(())
        })
        .await
    }

    /// Removes an intention by its id, if the caller may; unknown ids are refused.
    pub async fn delete_intention(&self, caller: &Caller, id: &str) -> Result<(), Error> {
        if id.len() != 36 {
            let why = "failed intention lookup: index error: UUID must be 36 characters";
            return Err(Error::refused(format!("Intention lookup failed: {why}")));
        }
        let key = Key::Intention(fold(id));
        self.write("delete intention", |scratch| {
            let former = written_by(caller, known(scratch.tables, id)?)?;
            let draft = &mut scratch.draft;
            draft.expect(&key, former.modified)?;
            draft.delete(&key)?;
            draft.delete(&pair_key(&former))?;
            Ok(())
        })
        .await
    }
}

fn known(tables: &Tables, id: &str) -> Result<Arc<Intention>, Error> {
    let found = tables.intentions.get(&fold(id)).map(Arc::clone);
    found.ok_or_else(|| Error::refused(format!("Cannot modify non-existent intention: '{id}'")))
}

fn written_by(caller: &Caller, intention: Arc<Intention>) -> Result<Arc<Intention>, Error> {
    if intention.is_written_by(caller) { Ok(intention) } else { Err(Error::Denied) }
}

fn refuse_duplicate(tables: &Tables, new: &Intention, itself: Option<&Intention>) -> Result<(), Error> {
    match tables.intentions.of_pair(&new.pair()) {
        Some(other) if itself.is_none_or(|itself| itself.id != other.id) => {
            Err(Error::refused(format!("duplicate intention found: {other}")))
        }
        _ => Ok(()),
    }
}

fn claim_pair(draft: &mut Draft, intention: &Intention) -> Result<(), Error> {
    let key = pair_key(intention);
    draft.expect(&key, Revision::ZERO)?;
    draft.put(&key, &Pointer { of: fold(&intention.id).to_string() })
}

fn pair_key(intention: &Intention) -> Key {
    let (source, destination) = intention.pair();
    Key::IntentionOf {
        source: (source.namespace.into(), source.name.into()),
        destination: (destination.namespace.into(), destination.name.into()),
    }
}
