//! What is remembered of a running process, one file each, so that the next supervisor can find it.
//!
//! A record exists from the moment between `fork` and `exec` (see `launch`) until the process is confirmed gone. It is
//! replaced by renaming, so a reader sees the old one or the new one; on a full disk it is written over, in one piece that
//! only a crash of the machine could cut. It is not flushed to the disk on purpose: a record
//! is believed only within the boot it was written in, and a crash of the machine that could lose it ends the process it
//! names as well. The start of a process would otherwise wait for the disk.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::identity::Identity;
use crate::spec::{Fingerprint, sha256_hex};

/// The form written by this version. Readers refuse others rather than guess.
const VERSION: u32 = 1;

/// Longer names are cut and told apart by their hash; leaves room for endings within the 255 bytes of a file name.
const LONGEST_NAME: usize = 120;

/// What file systems give room in, at least.
const BLOCK: usize = 512;

/// A running process as the next supervisor must know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) version: u32,
    pub(crate) id: String,
    pub(crate) identity: Identity,
    pub(crate) spec: Fingerprint,
    /// Milliseconds since the Unix epoch, for people.
    pub(crate) started_unix_ms: i64,
    /// Whether it had reported that it is ready.
    pub(crate) ready: bool,
    /// Whether it can hand over to a successor.
    #[serde(default)]
    pub(crate) hands_over: bool,
    /// Whether it ends with the agent that started it.
    #[serde(default)]
    pub(crate) bound: bool,
    /// Who it runs as, where that is not the supervisor's own user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) uid: Option<u32>,
    /// The file that holds its pid, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pid_file: Option<PathBuf>,
    #[serde(default)]
    pub(crate) role: Role,
}

/// Which process of its id it is. There are several only around a handover.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    /// What runs.
    #[default]
    Current,
    /// To take over when it is ready.
    Successor,
    /// Has handed over; its connections may go on until this time, in milliseconds since the Unix epoch.
    Retired { until_unix_ms: i64 },
}

impl Record {
    pub(crate) fn new(id: String, identity: Identity, spec: Fingerprint, started_unix_ms: i64) -> Record {
        Record {
            version: VERSION,
            id,
            identity,
            spec,
            started_unix_ms,
            ready: false,
            hands_over: false,
            bound: false,
            uid: None,
            pid_file: None,
            role: Role::Current,
        }
    }
}

/// The records of one supervisor.
#[derive(Clone, Debug)]
pub(crate) struct Records {
    directory: PathBuf,
}

impl Records {
    pub(crate) fn new(directory: PathBuf) -> Records {
        Records { directory }
    }

    /// Replaces the record of a process.
    pub(crate) fn write(&self, record: &Record) -> Result<(), Error> {
        let path = self.path(record);
        let temporary = path.with_extension("tmp");
        let failed = |source| Error::Record { path: path.clone(), source };
        let text = serde_json::to_vec(record).map_err(|error| failed(error.into()))?;
        let write = || -> io::Result<()> {
            let mut file =
                fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(&text)?;
            fs::rename(&temporary, &path)
        };
        let Err(error) = write() else { return Ok(()) };
        // What there is of it takes room that is needed.
        let _ = fs::remove_file(&temporary);
        let is_full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        if is_full && write_over(&path, text).is_ok() { Ok(()) } else { Err(failed(error)) }
    }

    /// Forgets a process. One that has no record is forgotten already.
    pub(crate) fn remove(&self, record: &Record) -> Result<(), Error> {
        let path = self.path(record);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::Record { path, source }),
            _ => Ok(()),
        }
    }

    /// All records there are. One that cannot be understood is put aside with a warning: it must not keep the others
    /// from being found.
    pub(crate) fn read_all(&self) -> Result<Vec<Record>, Error> {
        let mut records = Vec::new();
        let failed = |source| Error::Directory { path: self.directory.clone(), source };
        for entry in fs::read_dir(&self.directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                // Left by a crash while writing; the record it would have replaced is still there.
                Some("tmp") => {
                    let _ = fs::remove_file(&path);
                }
                Some("json") => match self.read(&path)? {
                    Ok(record) => records.push(record),
                    Err(cause) => put_aside(&path, &cause),
                },
                _ => {}
            }
        }
        Ok(records)
    }

    /// The record of what runs as `id`, if there is one that can be understood.
    pub(crate) fn find(&self, id: &str) -> Result<Option<Record>, Error> {
        self.read(&self.directory.join(format!("{}.json", file_name(id)))).map(Result::ok)
    }

    /// A record, or why it cannot be understood. An error when it could not be read now and may be another time.
    fn read(&self, path: &Path) -> Result<Result<Record, String>, Error> {
        match fs::read(path) {
            Ok(text) => Ok(self.parse(path, &text)),
            Err(source) if may_pass(&source) => Err(Error::Unread { path: path.to_owned(), source }),
            Err(error) => Ok(Err(error.to_string())),
        }
    }

    fn parse(&self, path: &Path, text: &[u8]) -> Result<Record, String> {
        let record: Record = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if record.version != VERSION {
            return Err(format!("version {} is unknown", record.version));
        }
        if self.path(&record) != path {
            return Err(format!("it is the record of {:?}", record.id));
        }
        Ok(record)
    }

    /// A tilde is in no name of an id, so the records of different ids and roles stay apart.
    fn path(&self, record: &Record) -> PathBuf {
        let name = file_name(&record.id);
        self.directory.join(match record.role {
            Role::Current => format!("{name}.json"),
            Role::Successor => format!("{name}~next.json"),
            Role::Retired { .. } => format!("{name}~{}.json", record.identity.pid),
        })
    }
}

/// Whether an error says that something ran short, and nothing of the file.
fn may_pass(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EINTR | libc::EAGAIN))
}

/// Replaces the text of a file that is there, which takes no room: it stays within the blocks that the file has. Blanks
/// behind a shorter text mean nothing.
fn write_over(path: &Path, mut text: Vec<u8>) -> io::Result<()> {
    let file = fs::OpenOptions::new().write(true).open(path)?;
    let length = usize::try_from(file.metadata()?.len()).unwrap_or_default();
    if text.len().div_ceil(BLOCK) > length.div_ceil(BLOCK) {
        return Err(io::ErrorKind::StorageFull.into());
    }
    text.resize(text.len().max(length), b' ');
    file.write_all_at(&text, 0)
}

/// Around a handover a process has two records for a moment, and an agent may be killed in that moment. Gives one record of
/// each process, and those that another one goes beyond.
pub(crate) fn one_of_each(records: Vec<Record>) -> (Vec<Record>, Vec<Record>) {
    let rank = |record: &Record| match record.role {
        Role::Successor => 0,
        Role::Current => 1,
        Role::Retired { .. } => 2,
    };
    let process = |record: &Record| {
        let Identity { boot, pid, start, .. } = &record.identity;
        (record.id.clone(), boot.clone(), *pid, *start)
    };
    let mut furthest = BTreeMap::new();
    for record in &records {
        let known = furthest.entry(process(record)).or_insert_with(|| rank(record));
        *known = rank(record).max(*known);
    }
    records.into_iter().partition(|record| furthest.get(&process(record)) == Some(&rank(record)))
}

fn put_aside(path: &Path, cause: &str) {
    let aside = path.with_extension("corrupt");
    match fs::rename(path, &aside) {
        Ok(()) => tracing::warn!("supervisor: ignoring the record {path:?}, kept as {aside:?}: {cause}"),
        Err(error) => tracing::warn!("supervisor: ignoring the record {path:?}: {cause}; cannot put it aside: {error}"),
    }
}

/// An id as one component of a path, different for different ids.
///
/// Letters, digits, `-`, `_` and inner dots stand for themselves, every other byte is written `%XX`. A long one ends in
/// its hash.
pub fn file_name(id: &str) -> String {
    let mut name = String::with_capacity(id.len());
    for (at, byte) in id.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => name.push(char::from(byte)),
            b'.' if at > 0 => name.push('.'),
            _ => name.push_str(&format!("%{byte:02X}")),
        }
    }
    if name.is_empty() {
        // No other id gives a lone percent sign.
        return "%".to_owned();
    }
    if name.len() > LONGEST_NAME {
        // `%%` appears in no unhashed name.
        name.truncate(LONGEST_NAME - 34);
        name.push_str("%%");
        name.push_str(&sha256_hex(id.as_bytes())[..32]);
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Spec;

    fn record(id: &str) -> Record {
        let identity = Identity { boot: "b".into(), pid: 7, start: 9, executable: None };
        Record::new(id.into(), identity, Fingerprint::of(&Spec::default()), 1)
    }

    #[test]
    fn what_is_written_is_read_and_broken_neighbours_are_put_aside() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::new(directory.path().into());
        records.write(&record("web")).unwrap();
        records.write(&record("../../etc/passwd")).unwrap();
        let file = |name: &str| directory.path().join(name);
        fs::write(file("half.json"), br#"{"version":1,"id":"ha"#).unwrap();
        fs::write(file("empty.json"), b"").unwrap();
        fs::write(file("old.tmp"), b"x").unwrap();
        fs::copy(file("web.json"), file("copy.json")).unwrap();
        let future = fs::read_to_string(file("web.json")).unwrap().replace("\"version\":1", "\"version\":2");
        fs::write(file("future.json"), future).unwrap();

        let mut found: Vec<String> = records.read_all().unwrap().into_iter().map(|record| record.id).collect();
        found.sort();
        assert_eq!(found, ["../../etc/passwd", "web"]);
        for name in ["half", "empty", "copy", "future"] {
            assert!(file(&format!("{name}.corrupt")).exists(), "{name}");
        }
        assert!(!file("old.tmp").exists());
        assert!(records.read_all().unwrap().len() == 2, "nothing is put aside twice");

        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(file("web.json")).unwrap().permissions().mode() & 0o777, 0o600);
        records.remove(&record("web")).unwrap();
        records.remove(&record("web")).unwrap();
        assert_eq!(records.read_all().unwrap().len(), 1);
    }

    #[test]
    fn around_a_handover_an_id_has_a_record_for_each_of_its_processes() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::new(directory.path().into());
        let roles = [Role::Current, Role::Successor, Role::Retired { until_unix_ms: 5 }];
        for role in roles {
            records.write(&Record { role, ..record("web") }).unwrap();
        }
        assert_eq!(records.read_all().unwrap().len(), 3);
        assert_eq!(records.find("web").unwrap().unwrap().role, Role::Current);
        records.remove(&Record { role: Role::Successor, ..record("web") }).unwrap();
        let mut left: Vec<Role> = records.read_all().unwrap().into_iter().map(|record| record.role).collect();
        left.sort_by_key(|role| *role != Role::Current);
        assert_eq!(left, [Role::Current, Role::Retired { until_unix_ms: 5 }]);
    }

    #[test]
    fn a_process_counts_once_and_as_what_it_became_last() {
        let other = Record { identity: Identity { pid: 8, ..record("web").identity }, ..record("web") };
        let of = |role, record: &Record| Record { role, ..record.clone() };
        let gone = Role::Retired { until_unix_ms: 5 };
        let (web, db) = (record("web"), record("db"));
        // Killed after the new process was recorded as what runs, and before that.
        let (kept, beyond) = one_of_each(vec![of(Role::Successor, &web), of(Role::Current, &web), of(gone, &other)]);
        assert_eq!(kept, [of(Role::Current, &web), of(gone, &other)]);
        assert_eq!(beyond, [of(Role::Successor, &web)]);
        let all = vec![of(Role::Current, &web), of(Role::Successor, &other), of(gone, &web), of(Role::Current, &db)];
        let (kept, beyond) = one_of_each(all);
        assert_eq!(kept, [of(Role::Successor, &other), of(gone, &web), of(Role::Current, &db)]);
        assert_eq!(beyond, [of(Role::Current, &web)]);
        // A number alone is no process.
        let later = Record { identity: Identity { start: 10, ..web.identity.clone() }, role: gone, ..web.clone() };
        assert_eq!(one_of_each(vec![web, later]).1, []);
    }

    #[test]
    fn a_record_is_written_over_only_within_the_room_that_it_has() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::new(directory.path().into());
        let short = record("web");
        let long = Record { pid_file: Some("x".repeat(40).into()), ..short.clone() };
        records.write(&long).unwrap();
        let path = directory.path().join("web.json");
        let length = fs::metadata(&path).unwrap().len();
        write_over(&path, serde_json::to_vec(&short).unwrap()).unwrap();
        assert_eq!(records.find("web").unwrap(), Some(short.clone()));
        assert_eq!(fs::metadata(&path).unwrap().len(), length);
        assert!(write_over(&path, vec![b' '; 100_000]).is_err());
        assert!(write_over(&directory.path().join("db.json"), Vec::new()).is_err(), "there is none");
        assert_eq!(records.read_all().unwrap(), [short]);
    }

    #[test]
    fn ids_become_single_harmless_path_components_and_stay_apart() {
        assert_eq!(file_name("web-proxy"), "web-proxy");
        assert_eq!(file_name("a.b"), "a.b");
        let long_a = "a".repeat(300);
        let long_b = format!("{}b", "a".repeat(299));
        let ids = ["", ".", "..", "../x", "a/b", "a%2Fb", "/", "%", "\0", "ü", long_a.as_str(), long_b.as_str()];
        let names: std::collections::BTreeSet<String> = ids.iter().map(|id| file_name(id)).collect();
        assert_eq!(names.len(), ids.len(), "{names:?}");
        for name in &names {
            assert!(!name.starts_with('.') && !name.contains('/') && !name.contains('\0'), "{name:?}");
            assert!(!name.is_empty() && name.len() <= LONGEST_NAME, "{name:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_id_gives_a_harmless_name(id in ".*") {
            let name = file_name(&id);
            proptest::prop_assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.%".contains(&b)));
            proptest::prop_assert!(!name.starts_with('.') && !name.is_empty() && name.len() <= LONGEST_NAME);
        }
    }
}
