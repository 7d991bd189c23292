//! Which managed proxies an operator holds back, kept on disk so that a restarted agent does not start them.
//!
//! One small file for each below `<data>/proxy/held`; it goes when the proxy is started or deregistered.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use lictor_model::name::ServiceId;
use lictor_task::clock;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// One that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Since when, in milliseconds since the Unix epoch.
    pub since_unix_ms: i64,
    /// While it is being drained, when that is over at the latest, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_until_unix_ms: Option<i64>,
}

impl Held {
    /// Stopped from now on.
    pub(crate) fn stopped() -> Held {
        Held { since_unix_ms: now(), drain_until_unix_ms: None }
    }

    /// Drained from now on, for so long.
    pub(crate) fn draining(limit: Duration) -> Held {
        let since_unix_ms = now();
        let limit = i64::try_from(limit.as_millis()).unwrap_or(i64::MAX);
        Held { since_unix_ms, drain_until_unix_ms: Some(since_unix_ms.saturating_add(limit)) }
    }
}

fn now() -> i64 {
    clock::unix_nanos() / 1_000_000
}

#[derive(Serialize, Deserialize)]
struct Record {
    id: String,
    #[serde(flatten)]
    held: Held,
}

/// All that are held.
#[derive(Debug, Default)]
pub(crate) struct Holds {
    folder: Option<PathBuf>,
    by_id: Mutex<BTreeMap<String, Held>>,
    /// Held by who changes something, so that memory and disk agree; who only looks does not wait for the disk.
    changing: Mutex<()>,
}

impl Holds {
    /// What is held according to a data directory; without one, nothing yet.
    pub(crate) fn open(data_dir: Option<&Path>) -> Holds {
        let folder = data_dir.map(|data_dir| data_dir.join("proxy").join("held"));
        let mut by_id = BTreeMap::new();
        for entry in folder.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten() {
            let read = fs::read(entry.path()).map_err(|error| error.to_string());
            match read.and_then(|text| serde_json::from_slice::<Record>(&text).map_err(|error| error.to_string())) {
                Ok(Record { id, held }) => {
                    by_id.insert(id, held);
                }
                Err(_) if entry.path().extension().is_some_and(|ending| ending == "tmp") => {}
                // It cannot be known whom it is about; running is the usual state of a proxy.
                Err(cause) => tracing::warn!("agent/proxy: ignoring {:?}: {cause}", entry.path()),
            }
        }
        Holds { folder, by_id: Mutex::new(by_id), changing: Mutex::default() }
    }

    pub(crate) fn get(&self, id: &ServiceId) -> Option<Held> {
        self.by_id.lock().get(id.as_str()).copied()
    }

    /// Whether a process must not run; one that is being drained still does.
    pub(crate) fn stops(&self, id: &ServiceId) -> bool {
        self.get(id).is_some_and(|held| held.drain_until_unix_ms.is_none())
    }

    /// Those that are being drained.
    pub(crate) fn draining(&self) -> Vec<(ServiceId, Held)> {
        let by_id = self.by_id.lock();
        let draining = by_id.iter().filter(|(_, held)| held.drain_until_unix_ms.is_some());
        draining.map(|(id, held)| (ServiceId::from(id.as_str()), *held)).collect()
    }

    pub(crate) fn hold(&self, id: &ServiceId, held: Held) -> io::Result<()> {
        let _changing = self.changing.lock();
        self.keep(id, held)
    }

    /// Stops what this drain was about; `false` when it is no longer what is wanted: an operator who has started it or drains
    /// it anew has the last word.
    pub(crate) fn end_drain(&self, id: &ServiceId, drain: &Held) -> io::Result<bool> {
        let _changing = self.changing.lock();
        if self.get(id).as_ref() != Some(drain) {
            return Ok(false);
        }
        self.keep(id, Held::stopped()).map(|()| true)
    }

    /// To be called by who changes something.
    fn keep(&self, id: &ServiceId, held: Held) -> io::Result<()> {
        if let Some(folder) = &self.folder {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            let path = file_of(folder, id);
            let temporary = path.with_extension("tmp");
            let text = serde_json::to_vec(&Record { id: id.to_string(), held })?;
            let mut file = fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            io::Write::write_all(&mut file, &text)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
        }
        self.by_id.lock().insert(id.to_string(), held);
        Ok(())
    }

    pub(crate) fn release(&self, id: &ServiceId) -> io::Result<()> {
        let _changing = self.changing.lock();
        if let Some(folder) = &self.folder {
            match fs::remove_file(file_of(folder, id)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.by_id.lock().remove(id.as_str());
        Ok(())
    }

    /// Forgets those that are no longer registered.
    pub(crate) fn retain(&self, registered: impl Fn(&ServiceId) -> bool) {
        let ids: Vec<ServiceId> = self.by_id.lock().keys().map(|id| ServiceId::from(id.as_str())).collect();
        for id in ids.iter().filter(|id| !registered(id)) {
            if let Err(error) = self.release(id) {
                tracing::warn!("agent/proxy: {id}: cannot forget that it was stopped: {error}");
            }
        }
    }
}

fn file_of(folder: &Path, id: &ServiceId) -> PathBuf {
    folder.join(format!("{}.json", lictor_supervisor::file_name(id.as_str())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_held_by_the_next_agent_too() {
        let folder = tempfile::tempdir().unwrap();
        let id = |id: &str| ServiceId::from(id);
        let holds = Holds::open(Some(folder.path()));
        let draining = Held { since_unix_ms: 1, drain_until_unix_ms: Some(2) };
        holds.hold(&id("a/../b"), Held { since_unix_ms: 1, drain_until_unix_ms: None }).unwrap();
        holds.hold(&id("web-proxy"), draining).unwrap();
        fs::write(folder.path().join("proxy/held/broken"), "{").unwrap();
        let next = Holds::open(Some(folder.path()));
        assert!(next.stops(&id("a/../b")) && !next.stops(&id("web-proxy")) && !next.stops(&id("other")));
        assert_eq!(next.draining(), [(id("web-proxy"), draining)]);
        next.release(&id("a/../b")).unwrap();
        next.release(&id("a/../b")).unwrap();
        next.retain(|id| id.as_str() != "web-proxy");
        assert!(Holds::open(Some(folder.path())).by_id.lock().is_empty());
    }
    #[test]
    fn the_end_of_a_drain_does_not_undo_what_an_operator_wanted_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let (id, next) = (ServiceId::from("web-proxy"), || Holds::open(Some(folder.path())));
        let holds = next();
        let begun = Held { since_unix_ms: 1, drain_until_unix_ms: Some(2) };
        holds.hold(&id, begun).unwrap();
        // Between the look at it and its end somebody starts the proxy.
        let (seen, drain) = holds.draining().remove(0);
        holds.release(&id).unwrap();
        assert!(!holds.end_drain(&seen, &drain).unwrap());
        assert!(!holds.stops(&id) && !next().stops(&id));
        // Or drains it anew.
        let again = Held { since_unix_ms: 3, drain_until_unix_ms: Some(9) };
        holds.hold(&id, again).unwrap();
        assert!(!holds.end_drain(&id, &begun).unwrap());
        assert_eq!((holds.get(&id), next().get(&id)), (Some(again), Some(again)));
        assert!(holds.end_drain(&id, &again).unwrap());
        assert!(holds.stops(&id) && next().stops(&id));
    }
}
