//! Writing prepared queries.

use std::sync::Arc;

use lictor_model::acl::Caller;
use lictor_model::name::fold;
use lictor_model::query::Query;
use lictor_model::revision::Revision;

use super::Writer;
use super::scratch::Scratch;
use crate::Error;
use crate::query::template::Pattern;
use crate::query::validate;
use crate::record::query::QueryRecord;
use crate::record::{Created, Pointer};
use crate::schema::Key;

impl Writer {
    /// Stores a new query; its id is set by the caller.
    pub async fn create_query(&self, query: Query) -> Result<(), Error> {
        self.put_query(query, None).await
    }

    /// Replaces a query by its id, keeping when it was created. The caller must be allowed to write the one that is
    /// replaced.
    pub async fn update_query(&self, caller: &Caller, query: Query) -> Result<(), Error> {
        check_id(&query.id)?;
        if self.replica.tables().queries.get(&fold(&query.id)).is_none() {
            return Err(unknown(&query.id));
        }
        self.put_query(query, Some(caller)).await
    }

    async fn put_query(&self, query: Query, update: Option<&Caller>) -> Result<(), Error> {
        validate(&query).map_err(Error::Refused)?;
        if query.template.is_used() {
            Pattern::compile(&query).map_err(Error::Refused)?;
        }
        let id = fold(&query.id);
        let key = Key::Query(Arc::clone(&id));
        self.write("write prepared query", |scratch| {
            let former = match update {
                Some(caller) => Some(written_by(caller, known(scratch, &query.id)?)?),
                None => None,
            };
            refuse_alias(scratch, &query)?;
            if !query.session.is_empty() && scratch.session_for_lock(&query.session)?.is_none() {
                return Err(Error::refused(format!("invalid session {:?}", query.session)));
            }
            let former_name = former.as_ref().and_then(|row| row.acl_name()).map(fold);
            let name = query.acl_name().map(fold);
            if name != former_name {
                if let Some(former_name) = former_name {
                    scratch.draft.delete(&Key::QueryOf(former_name))?;
                }
                if let Some(name) = name {
                    let claim = Key::QueryOf(name);
                    scratch.draft.expect(&claim, Revision::ZERO)?;
                    scratch.draft.put(&claim, &Pointer { of: id.to_string() })?;
                }
            }
            scratch.draft.expect(&key, former.as_ref().map_or(Revision::ZERO, |row| row.modified))?;
            let created = Created::kept(former.map(|row| row.created));
            scratch.draft.put(&key, &QueryRecord::new(&query, created))
        })
        .await
    }

    /// Removes a query by its id, if the caller may; unknown ids are refused.
    pub async fn delete_query(&self, caller: &Caller, id: &str) -> Result<(), Error> {
        check_id(id)?;
        self.write("delete prepared query", |scratch| {
            let row = written_by(caller, known(scratch, id)?)?;
            scratch.remove_query(&row)
        })
        .await
    }
}

impl Scratch<'_> {
    pub(super) fn remove_query(&mut self, row: &Query) -> Result<(), Error> {
        let key = Key::Query(fold(&row.id));
        self.draft.expect(&key, row.modified)?;
        self.draft.delete(&key)?;
        match row.acl_name() {
            Some(name) => self.draft.delete(&Key::QueryOf(fold(name))),
            None => Ok(()),
        }
    }
}

fn known(scratch: &Scratch<'_>, id: &str) -> Result<Arc<Query>, Error> {
    let found = scratch.tables.queries.get(&fold(id)).map(|stored| Arc::clone(&stored.row));
    found.ok_or_else(|| unknown(id))
}

fn written_by(caller: &Caller, query: Arc<Query>) -> Result<Arc<Query>, Error> {
    if query.is_written_by(caller) { Ok(query) } else { Err(Error::Denied) }
}

fn unknown(id: &str) -> Error {
    Error::refused(format!("Cannot modify non-existent prepared query: '{id}'"))
}

/// A query is executed by its name or its id, so a name must not be taken for something else.
fn refuse_alias(scratch: &Scratch<'_>, query: &Query) -> Result<(), Error> {
    let Some(name) = query.acl_name() else { return Ok(()) };
    let queries = &scratch.tables.queries;
    if queries.named(&fold(name)).is_some_and(|other| !other.row.id.eq_ignore_ascii_case(&query.id)) {
        return Err(Error::refused(if name.is_empty() {
            "a query template with an empty name already exists".to_owned()
        } else {
            format!("name '{name}' aliases an existing query name")
        }));
    }
    match queries.get(&fold(name)) {
        Some(_) => Err(Error::refused(format!("name '{name}' aliases an existing query ID"))),
        None => Ok(()),
    }
}

fn check_id(id: &str) -> Result<(), Error> {
    if id.len() == 36 {
        return Ok(());
    }
    let why = "failed prepared query lookup: index error: UUID must be 36 characters";
    Err(Error::refused(format!("Prepared Query lookup failed: {why}")))
}
