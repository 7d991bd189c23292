//! What the operator wants of the servers. There is nothing here that would act on it; it is kept and shown.

use std::time::Duration;

use lictor_model::revision::Revision;
use lictor_store::{Entry, Outcome, Txn};
use serde::{Deserialize, Serialize};

use crate::record::{self, Created};
use crate::schema::Key;
use crate::{Error, Reader, Writer};

/// What can be configured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Whether servers that are gone are forgotten.
    pub cleanup_dead_servers: bool,
    /// How long a healthy server may be out of contact.
    pub last_contact_threshold: Duration,
    /// How far a healthy server may be behind.
    pub max_trailing_logs: u64,
    /// How long a new server must be healthy.
    pub server_stabilization_time: Duration,
    /// Without meaning.
    pub redundancy_zone_tag: String,
    /// Without meaning.
    pub disable_upgrade_migration: bool,
    /// Without meaning.
    pub upgrade_version_tag: String,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            cleanup_dead_servers: true,
            last_contact_threshold: Duration::from_millis(200),
            max_trailing_logs: 250,
            server_stabilization_time: Duration::from_secs(10),
            redundancy_zone_tag: String::new(),
            disable_upgrade_migration: false,
            upgrade_version_tag: String::new(),
        }
    }
}

/// The configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Autopilot {
    /// What is configured.
    pub settings: Settings,
    /// First written; zero as long as nobody did.
    pub created: Revision,
    /// Last changed.
    pub modified: Revision,
}

/// The configuration on disk.
#[derive(Debug, Serialize, Deserialize)]
struct AutopilotRecord {
    #[serde(flatten)]
    settings: Settings,
    #[serde(default)]
    created: Created,
}

fn read(entry: Option<&Entry>) -> Result<Autopilot, Error> {
    let Some(entry) = entry else { return Ok(Autopilot::default()) };
    let AutopilotRecord { settings, created } = record::decode(&Key::Autopilot, &entry.value)?;
    let modified = Revision(entry.modified.0);
    Ok(Autopilot { settings, created: created.or(modified), modified })
}

impl Reader {
    /// The operator's configuration of the servers. It is not worth a place in memory, so it is read from the store.
    pub async fn autopilot(&self) -> Result<Autopilot, Error> {
        let key = Key::Autopilot.encode()?;
        read(self.store().get(&key).await.map_err(Error::store("read the autopilot's configuration"))?.as_ref())
    }
}

impl Writer {
    /// Replaces the configuration, if a revision is given only when it was last changed then; `false` when it was not.
    pub async fn set_autopilot(&self, wanted: &Settings, only_at: Option<Revision>) -> Result<bool, Error> {
        let key = Key::Autopilot.encode()?;
        loop {
            let stored = self.stored(&Key::Autopilot, "read the autopilot's configuration").await?;
            let known = read(stored.as_ref())?;
            if only_at.is_some_and(|seen| seen != known.modified) {
                return Ok(false);
            }
            let created = Created::kept(stored.as_ref().map(|_| known.created));
            let record = AutopilotRecord { settings: wanted.clone(), created };
            let txn = match &stored {
                Some(entry) => Txn::new().when_modified(key.clone(), entry.modified),
                None => Txn::new().when_absent(key.clone()),
            };
            let txn = txn.put(key.clone(), record::encode(&Key::Autopilot, &record)?);
            match self.commit(txn, "write the autopilot's configuration").await? {
                Outcome::Applied(_) => return Ok(true),
                // Somebody was faster: look again at what they wrote.
                Outcome::Conflict(_) => {}
            }
        }
    }
}
