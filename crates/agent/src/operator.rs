//! What operators ask of the cluster itself: its servers, their configuration, and snapshots of everything.

use lictor_model::acl::{Access, Caller, Realm};
use lictor_model::revision::Revision;
use lictor_state::autopilot::{Autopilot, Settings};
use lictor_state::snapshot::Snapshot;

use crate::error::chain;
use crate::{Agent, Error};

impl Agent {
    /// What the operator wants of the servers.
    pub async fn autopilot(&self, caller: &Caller) -> Result<Autopilot, Error> {
        operates(caller, Access::Read)?;
        Ok(self.reader(caller).autopilot().await?)
    }

    /// Replaces that, if a revision is given only when it was last changed then; `false` when it was not.
    pub async fn set_autopilot(
        &self,
        caller: &Caller,
        wanted: &Settings,
        only_at: Option<Revision>,
    ) -> Result<bool, Error> {
        operates(caller, Access::Write)?;
        Ok(self.inner.writer.set_autopilot(wanted, only_at).await?)
    }

    /// Everything that is stored, secrets included: for who may do everything.
    pub async fn take_snapshot(&self, caller: &Caller) -> Result<Snapshot, Error> {
        manages(caller)?;
        Ok(self.inner.writer.capture().await?)
    }

    /// Makes the cluster what it was when a snapshot was taken. It goes on to its end when the one who asked for it
    /// goes away in the middle.
    pub async fn restore_snapshot(&self, caller: &Caller, name: String, snapshot: Snapshot) -> Result<(), Error> {
        manages(caller)?;
        if let Some(authority) = &self.inner.authority {
            for (id, sealed) in snapshot.sealed_keys() {
                authority.opens(&id, sealed).map_err(|error| {
                    let place = match &self.inner.config.data_dir {
                        Some(folder) => format!("copy it to {} (0600)", folder.join("ca-seal.key").display()),
                        None => "name a copy of it in store.seal_key_file".to_owned(),
                    };
                    Error::Refused(format!(
                        "the signing key of the CA in this snapshot is sealed with another key than this agent's, and \
                         nothing was changed. Needed is the sealing key of the agent that took the snapshot: \
                         ca-seal.key in its data directory, or what its store.seal_key_file names. Before the first \
                         start of a new agent, with an empty data directory, {place}, start it, and restore again ({})",
                        chain(&error)
                    ))
                })?;
            }
        }
        let inner = std::sync::Arc::clone(&self.inner);
        let restoring = tokio::spawn(async move {
            tracing::warn!("agent: restoring snapshot {name} of {} records", snapshot.len());
            inner.writer.restore(&name, &snapshot).await?;
            tracing::info!("agent: restored snapshot {name}");
            // What is registered here is true whatever the snapshot says.
            inner.push_node().await;
            inner.full_sync().await;
            Ok(())
        });
        restoring.await.unwrap_or_else(|_| Err(Error::Refused("the restore was ended in the middle".into())))
    }
}

fn operates(caller: &Caller, access: Access) -> Result<(), Error> {
    if caller.may_in(access, Realm::Operator) { Ok(()) } else { Err(Error::Denied) }
}

fn manages(caller: &Caller) -> Result<(), Error> {
    if caller.may_in(Access::Write, Realm::Acl) { Ok(()) } else { Err(Error::Denied) }
}
