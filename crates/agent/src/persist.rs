//! Registrations on disk: one small file each below the data directory, in the layout the original uses.
//!
//! `services/`, `checks/` and `proxies/` hold one JSON file per object, named by the MD5 of its id; `checks/state/`
//! holds the last report of each TTL check, `checks-of-files.json` what the checks of configuration files look at. Files are written to a temporary name, synced and renamed, mode 0600 in
//! directories of mode 0700. A file that cannot be read is set aside with a warning: one bad file must not cost the
//! others.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lictor_model::name::{CheckId, ServiceId};
use md5::{Digest, Md5};
use parking_lot::{Mutex, MutexGuard};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::kept::Known;
use crate::record::{CheckRecord, CheckStateRecord, ProxyRecord, ServiceRecord};
use crate::tokens::Tokens;

/// The directories; absent when nothing shall outlive the agent.
#[derive(Clone, Debug)]
pub struct Files {
    root: Option<PathBuf>,
    /// One for some of the ids each. Taken before the registry is locked, never after.
    turns: Arc<[Mutex<()>; TURNS]>,
}

/// Where a check comes from, and with it what is kept of it.
pub enum Whence {
    /// From the API: its definition and its last report.
    Api(Box<CheckRecord>),
    /// From a file, which is there at the next start: its last report alone.
    File,
    /// It is no more: nothing.
    Gone,
}

/// What the checks of configuration files look at.
const KNOWN: &str = "checks-of-files.json";

/// So many files can be written at once.
const TURNS: usize = 64;

/// What the original names its directories.
#[derive(Clone, Copy)]
enum Kind {
    Services,
    Checks,
    CheckStates,
    Proxies,
}

impl Kind {
    fn folder(self) -> &'static str {
        match self {
            Kind::Services => "services",
            Kind::Checks => "checks",
            Kind::CheckStates => "checks/state",
            Kind::Proxies => "proxies",
        }
    }
}

/// Everything found at start.
#[derive(Debug, Default)]
pub struct Found {
    /// Services that the API registered, and generated ones.
    pub services: Vec<ServiceRecord>,
    /// Checks that the API registered.
    pub checks: Vec<CheckRecord>,
    /// Last reports of TTL checks.
    pub states: Vec<CheckStateRecord>,
    /// Managed proxies.
    pub proxies: Vec<ProxyRecord>,
    /// What the checks of configuration files looked at.
    pub known: Known,
}

impl Files {
    /// Below a data directory, whose folders are made as needed; without one nothing is ever written or read.
    pub fn open(root: Option<&Path>) -> io::Result<Files> {
        if let Some(root) = root {
            for kind in [Kind::Services, Kind::Checks, Kind::CheckStates, Kind::Proxies] {
                fs::DirBuilder::new().recursive(true).mode(0o700).create(root.join(kind.folder()))?;
            }
        }
        Ok(Files { root: root.map(Path::to_owned), turns: Arc::new([const { Mutex::new(()) }; TURNS]) })
    }

    /// Reads everything that is there.
    pub fn load(&self) -> Found {
        Found {
            services: self.read_all(Kind::Services),
            checks: self.read_all(Kind::Checks),
            states: self.read_all(Kind::CheckStates),
            proxies: self.read_all(Kind::Proxies),
            known: self.read_known(),
        }
    }

    /// Remembers what the checks of configuration files look at; `record` is asked when it is this one's turn to write.
    pub fn keep_known(&self, record: impl FnOnce() -> Known) -> io::Result<()> {
        let Some(path) = self.known_path() else { return Ok(()) };
        let _turn = self.turn(KNOWN);
        let known: BTreeMap<String, String> =
            record().into_iter().map(|(id, digest)| (id.to_string(), digest)).collect();
        // Most starts and reloads change nothing, and a write waits for the disk.
        if fs::read(&path)
            .is_ok_and(|text| serde_json::from_slice(&text).is_ok_and(|before: BTreeMap<_, _>| before == known))
        {
            return Ok(());
        }
        write_private(&path, &known)
    }

    fn read_known(&self) -> Known {
        let Some(path) = self.known_path().filter(|path| path.exists()) else { return Known::new() };
        let known: Option<BTreeMap<String, String>> = read_one(&path);
        known.unwrap_or_default().into_iter().map(|(id, digest)| (id.into(), digest)).collect()
    }

    fn known_path(&self) -> Option<PathBuf> {
        self.root.as_ref().map(|root| root.join(KNOWN))
    }

    /// Makes the file of a service what `record` says, which is asked when it is this one's turn to write: of changes that
    /// come at once the last one stays. `None` removes it.
    pub fn keep_service(&self, id: &ServiceId, record: impl FnOnce() -> Option<ServiceRecord>) -> io::Result<()> {
        self.keep(Kind::Services, id.as_str(), record)
    }

    /// The same for a check; with one that is gone its last report is removed.
    pub fn keep_check(&self, id: &CheckId, whence: impl FnOnce() -> Whence) -> io::Result<()> {
        let _turn = self.turn(id.as_str());
        match whence() {
            Whence::Api(record) => self.write(Kind::Checks, id.as_str(), &*record),
            Whence::File => self.remove(Kind::Checks, id.as_str()),
            Whence::Gone => {
                self.remove(Kind::CheckStates, id.as_str())?;
                self.remove(Kind::Checks, id.as_str())
            }
        }
    }

    /// The same for the last report of a TTL check.
    pub fn keep_check_state(&self, id: &CheckId, record: impl FnOnce() -> Option<CheckStateRecord>) -> io::Result<()> {
        self.keep(Kind::CheckStates, id.as_str(), record)
    }

    /// The same for a managed proxy.
    pub fn keep_proxy(&self, id: &ServiceId, record: impl FnOnce() -> Option<ProxyRecord>) -> io::Result<()> {
        self.keep(Kind::Proxies, id.as_str(), record)
    }

    fn keep<T: Serialize>(&self, kind: Kind, id: &str, record: impl FnOnce() -> Option<T>) -> io::Result<()> {
        let _turn = self.turn(id);
        match record() {
            Some(record) => self.write(kind, id, &record),
            None => self.remove(kind, id),
        }
    }

    /// Waits until nobody else writes a file of this id.
    fn turn(&self, id: &str) -> MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        id.hash(&mut hasher);
        let turns = self.turns.len() as u64;
        self.turns[usize::try_from(hasher.finish() % turns).unwrap_or_default()].lock()
    }

    /// The agent's own tokens, as far as they were kept.
    pub fn read_tokens(&self) -> io::Result<Tokens> {
        let Some(path) = self.tokens_path() else { return Ok(Tokens::default()) };
        match fs::read(&path) {
            Ok(text) => Ok(serde_json::from_slice(&text)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Tokens::default()),
            Err(error) => Err(error),
        }
    }

    /// Keeps the agent's own tokens.
    pub fn write_tokens(&self, tokens: &Tokens) -> io::Result<()> {
        match self.tokens_path() {
            Some(path) => write_private(&path, tokens),
            None => Ok(()),
        }
    }

    fn tokens_path(&self) -> Option<PathBuf> {
        self.root.as_ref().map(|root| root.join("acl-tokens.json"))
    }

    fn path(&self, kind: Kind, id: &str) -> Option<PathBuf> {
        let digest = Md5::digest(id.as_bytes());
        let name: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        self.root.as_ref().map(|root| root.join(kind.folder()).join(name))
    }

    fn write(&self, kind: Kind, id: &str, record: &impl Serialize) -> io::Result<()> {
        match self.path(kind, id) {
            Some(path) => write_private(&path, record),
            None => Ok(()),
        }
    }

    fn remove(&self, kind: Kind, id: &str) -> io::Result<()> {
        let Some(path) = self.path(kind, id) else { return Ok(()) };
        match fs::remove_file(&path) {
            Ok(()) => sync_folder(&path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn read_all<T: DeserializeOwned>(&self, kind: Kind) -> Vec<T> {
        let Some(root) = &self.root else { return Vec::new() };
        let folder = root.join(kind.folder());
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) => {
                tracing::warn!("agent: cannot read {}: {error}", folder.display());
                return Vec::new();
            }
        };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|p| p.is_file()).collect();
        paths.sort();
        paths.iter().filter_map(|path| read_one(path)).collect()
    }
}

/// Writes a file for this user alone: all of it or nothing.
fn write_private(path: &Path, record: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_vec(record)?;
    let temporary = path.with_extension("tmp");
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(&text)?;
    file.sync_data()?;
    fs::rename(&temporary, path)?;
    sync_folder(path)
}

/// A name, too, is on disk only when its folder has been written.
fn sync_folder(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

fn read_one<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let name = path.file_name()?.to_str()?;
    if name.ends_with("tmp") || name.ends_with(".unreadable") {
        tracing::warn!("agent: ignoring leftover file {}", path.display());
        return None;
    }
    match fs::read(path)
        .map_err(|error| error.to_string())
        .and_then(|text| serde_json::from_slice(&text).map_err(|error| error.to_string()))
    {
        Ok(record) => Some(record),
        Err(cause) => {
            let aside = path.with_extension("unreadable");
            let moved = fs::rename(path, &aside);
            let where_to = if moved.is_ok() { &aside } else { path };
            tracing::warn!("agent: cannot read {}, left aside as {}: {cause}", path.display(), where_to.display());
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> (Files, PathBuf) {
        let root = std::env::temp_dir().join(format!("lictor-persist-{}", uuid::Uuid::new_v4()));
        (Files::open(Some(&root)).unwrap(), root)
    }

    #[test]
    fn what_is_written_is_found_again_and_private() {
        use std::os::unix::fs::PermissionsExt;
        let (files, root) = files();
        let id = ServiceId::from("bin-proxy");
        let record = ServiceRecord { token: "t".into(), ..ServiceRecord::default() };
        files.keep_service(&id, || Some(record)).unwrap();
        let path = root.join("services/30e7b1fd66e14d8d16c62b36cc8ea67f");
        let listed: Vec<_> = fs::read_dir(root.join("services")).unwrap().flatten().map(|e| e.path()).collect();
        assert_eq!(listed.len(), 1, "{listed:?} {path:?}");
        assert_eq!(fs::metadata(&listed[0]).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(root.join("services")).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(files.load().services[0].token, "t");
        files.keep_service(&id, || None).unwrap();
        files.keep_service(&id, || None).unwrap();
        assert!(files.load().services.is_empty());
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_bad_or_leftover_file_costs_nothing_else() {
        let (files, root) = files();
        files.keep_service(&"a".into(), || Some(ServiceRecord::default())).unwrap();
        fs::write(root.join("services/zz"), "{not json").unwrap();
        fs::write(root.join("services/x-1.tmp"), "{}").unwrap();
        assert_eq!(files.load().services.len(), 1);
        assert!(root.join("services/zz.unreadable").exists());
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn of_changes_that_come_at_once_the_last_one_stays_and_no_file_is_spoilt() {
        let (files, root) = files();
        let id = ServiceId::from("web");
        // What the agent knows; it knows first and writes then.
        let known = Mutex::new(String::new());
        std::thread::scope(|scope| {
            for writer in 0..8 {
                let (files, known, id) = (&files, &known, &id);
                scope.spawn(move || {
                    for round in 0..20 {
                        *known.lock() = format!("{writer}").repeat(1 + (writer * 37 + round * 101) % 3000);
                        let record = || Some(ServiceRecord { token: known.lock().clone(), ..ServiceRecord::default() });
                        files.keep_service(id, record).unwrap();
                    }
                });
            }
        });
        let found = files.load().services;
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].token, *known.lock());
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn without_a_data_directory_nothing_is_written() {
        let files = Files::open(None).unwrap();
        files.keep_service(&"a".into(), || Some(ServiceRecord::default())).unwrap();
        assert!(files.load().services.is_empty());
    }
}
