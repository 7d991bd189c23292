//! Where the state is kept and with what its secrets are sealed: opened at the start, from what the configuration says.

use std::fmt;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lictor_ca::seal::{KEY_LEN, Seal};
use lictor_store::{EtcdSettings, Marks, Mover, Revision, Store, Txn};
use zeroize::Zeroizing;

use crate::config::check::{Backend, Store as StoreConfig};

/// The environment's word for the password of etcd's user.
const PASSWORD: &str = "LICTOR_ETCD_PASSWORD";
/// The environment's word for the sealing key.
const SEAL_KEY: &str = "LICTOR_SEAL_KEY";
/// The name of the sealing key among the credentials that systemd gives a service.
const SEAL_CREDENTIAL: &str = "lictor-seal-key";
/// The name of the password there.
const PASSWORD_CREDENTIAL: &str = "lictor-etcd-password";

/// The key that stands in a store whose content has moved elsewhere, and says where to.
const MOVED: &[u8] = b"moved";
/// The key that stands in a store into which something is being moved, until all of it is there.
const FILLING: &[u8] = b"filling";
/// How much a store may count while another place is made ready for it.
const HEADWAY: u64 = 1_000_000;
/// How long a store may take to answer where nobody wants to wait for ever.
pub(crate) const ANSWER: Duration = Duration::from_secs(20);

/// Where the state is kept.
#[derive(Debug)]
pub(crate) enum StoreChoice {
    /// In memory; gone with the process.
    Memory,
    /// In this file.
    Redb(PathBuf),
    /// In an etcd that servers share.
    Etcd(Box<EtcdSettings>),
}

impl StoreChoice {
    /// What the configuration says.
    pub(crate) fn new(config: &StoreConfig, data_dir: Option<&Path>) -> Result<StoreChoice, String> {
        match config.backend {
            Backend::Memory => Ok(StoreChoice::Memory),
            Backend::Redb => {
                let folder = data_dir.ok_or("store.backend = \"redb\" needs a data_dir")?;
                Ok(StoreChoice::Redb(folder.join("store.redb")))
            }
            Backend::Etcd => {
                let [ca, cert, key] = config.tls_files.each_ref().map(|file| named(file));
                let user = match config.username.as_str() {
                    "" => None,
                    name => Some((name.to_owned(), password(&config.password_file).map_err(|e| format!("{e:#}"))?)),
                };
                Ok(StoreChoice::Etcd(Box::new(EtcdSettings {
                    endpoints: config.endpoints.clone(),
                    prefix: config.prefix.clone(),
                    ca_file: ca,
                    identity: cert.zip(key),
                    user,
                })))
            }
        }
    }

    /// Opens it for an agent: refused when what was there has moved elsewhere. An etcd that does not answer is waited
    /// for.
    pub(crate) async fn open(&self) -> Result<Store> {
        let store = self.open_as_it_is(Revision::ZERO).await?;
        if let Some(mark) = store.get(MOVED).await.context("cannot read the store")? {
            let place = String::from_utf8_lossy(&mark.value).into_owned();
            store.close().await;
            bail!("what was in {self} has moved to {place}: name that in store, or move it back from there");
        }
        if store.get(FILLING).await.context("cannot read the store")?.is_some() {
            store.close().await;
            bail!(
                "a move into {self} is under way or has failed, so it is not whole: name in store where the state was \
                 before, and move it again from there"
            );
        }
        Ok(store)
    }

    /// Opens it, empty, to take what moves there and has counted so far. What was left there by an earlier move, or by
    /// one that failed, is removed.
    async fn open_to_fill(&self, least: Revision) -> Result<Store> {
        let least = Revision(least.0.saturating_add(HEADWAY));
        let store = self.open_as_it_is(least).await?;
        for mark in [MOVED, FILLING] {
            if store.get(mark).await.context("cannot read the store")?.is_none() {
                continue;
            }
            if let StoreChoice::Etcd(settings) = self {
                // What counts its revisions there counts on from where it was founded, so it is founded anew.
                store.close().await;
                Store::remove_etcd(settings, mark).await.context("cannot remove what was left of the store")?;
                return self.open_as_it_is(least).await;
            }
            let cleared = store.commit(Txn::new().delete_prefix("")).await;
            cleared.context("cannot remove what was left of the store")?;
            break;
        }
        Ok(store)
    }

    async fn open_as_it_is(&self, least: Revision) -> Result<Store> {
        match self {
            StoreChoice::Memory => Ok(Store::memory()),
            StoreChoice::Redb(path) => Store::open_redb_after(path, least).context("cannot open the store"),
            StoreChoice::Etcd(settings) => {
                Store::open_etcd(settings, least).await.context("cannot open the store in etcd")
            }
        }
    }

    /// Whether this is the same place.
    fn is(&self, other: &StoreChoice) -> bool {
        match (self, other) {
            (StoreChoice::Memory, StoreChoice::Memory) => true,
            (StoreChoice::Redb(one), StoreChoice::Redb(other)) => one == other,
            (StoreChoice::Etcd(one), StoreChoice::Etcd(other)) => {
                one.endpoints.iter().any(|endpoint| other.endpoints.contains(endpoint)) && one.prefix == other.prefix
            }
            _ => false,
        }
    }

    /// Whether other agents have the same store.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self, StoreChoice::Etcd(_))
    }
}

impl fmt::Display for StoreChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreChoice::Memory => f.write_str("memory"),
            StoreChoice::Redb(path) => write!(f, "the file {}", path.display()),
            StoreChoice::Etcd(settings) => {
                write!(f, "etcd at {}, below {}", settings.endpoints.join(", "), settings.prefix)
            }
        }
    }
}

/// Moves the state of a running agent from one place to another: all of it, compared, and with writes held back
/// meanwhile. The sealing key must stay, or the signing keys that move could not be opened there.
pub(crate) async fn move_store(
    mover: &Mover,
    from: (&StoreChoice, &StoreConfig),
    to: (&StoreChoice, &StoreConfig),
    data_dir: Option<&Path>,
) -> Result<String> {
    if from.0.is(to.0) {
        bail!("the state is kept in {} already: change store in the configuration to where it shall be", from.0);
    }
    if seal_key(from.1, from.0, data_dir)? != seal_key(to.1, to.0, data_dir)? {
        bail!(
            "the signing keys are sealed with another key than the one given for {}: give it the key of now (for an \
             agent that made its own it is ca-seal.key in the data directory) as store.seal_key_file",
            to.0
        );
    }
    let least = mover.current().await?;
    let opened = tokio::time::timeout(ANSWER, to.0.open_to_fill(least)).await;
    let target = opened.with_context(|| format!("{} does not answer", to.0))??;
    let mark = to.0.to_string();
    let marks = Marks { moved: (MOVED, mark.as_bytes()), filling: FILLING };
    match mover.move_to(target.clone(), marks).await {
        Ok(copied) => Ok(format!(
            "{} entries, {} bytes, copied from {} at revision {} to {} at revision {}, and compared",
            copied.entries, copied.bytes, from.0, copied.source, to.0, copied.copy
        )),
        Err(error) => {
            target.close().await;
            Err(error).with_context(|| format!("nothing was moved to {}", to.0))
        }
    }
}

fn named(file: &str) -> Option<PathBuf> {
    Some(file).filter(|file| !file.is_empty()).map(PathBuf::from)
}

/// The file of this name among the credentials that systemd gave us.
fn credential(name: &str) -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os("CREDENTIALS_DIRECTORY")?);
    Some(folder.join(name)).filter(|path| path.is_file())
}

fn password(file: &str) -> Result<Zeroizing<String>> {
    if let Some(path) = named(file).or_else(|| credential(PASSWORD_CREDENTIAL)) {
        let bytes = read_secret(&path)?;
        let text = std::str::from_utf8(&bytes).with_context(|| format!("{} is no text", path.display()))?;
        return Ok(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned()));
    }
    match std::env::var(PASSWORD) {
        Ok(password) => Ok(Zeroizing::new(password)),
        Err(_) => bail!(
            "store.username is set but there is no password: set {PASSWORD}, store.password_file, or the systemd \
             credential {PASSWORD_CREDENTIAL}"
        ),
    }
}

/// Reads a small file that not everybody may read.
fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let read = || -> Result<Zeroizing<Vec<u8>>> {
        let file = fs::File::open(path)?;
        if file.metadata()?.mode() & 0o007 != 0 {
            bail!("everybody may read it: chmod o= {}", path.display());
        }
        let mut content = Zeroizing::new(Vec::with_capacity(4096));
        file.take(4096).read_to_end(&mut content)?;
        Ok(content)
    };
    read().with_context(|| format!("cannot use the secret in {}", path.display()))
}

/// The seal of signing keys.
///
/// Its key comes from `store.seal_key_file`, the environment or a systemd credential. An agent with a store of its own
/// makes one beside it otherwise: that protects copies and backups of the store, not the machine. Servers that share a
/// store must be given the same key, which must not lie where the store is.
pub(crate) fn open_seal(config: &StoreConfig, choice: &StoreChoice, data_dir: Option<&Path>) -> Result<Seal> {
    Ok(Seal::new(seal_key(config, choice, data_dir)?)?)
}

fn seal_key(config: &StoreConfig, choice: &StoreChoice, data_dir: Option<&Path>) -> Result<Zeroizing<[u8; KEY_LEN]>> {
    match given_key(&config.seal_key_file)? {
        Some(key) => Ok(key),
        None if choice.is_shared() => bail!(
            "a shared store needs the key that seals its signing keys, the same for all servers. Make one with \
             `openssl rand -hex {KEY_LEN}`, and give it as store.seal_key_file, as the systemd credential \
             {SEAL_CREDENTIAL}, or in the environment as {SEAL_KEY}"
        ),
        None => match data_dir {
            None => Ok(Seal::generate_key()?),
            Some(folder) => kept_key(&folder.join("ca-seal.key")),
        },
    }
}

/// The key that the operator gives, if one is given.
fn given_key(file: &str) -> Result<Option<Zeroizing<[u8; KEY_LEN]>>> {
    if let Some(path) = named(file).or_else(|| credential(SEAL_CREDENTIAL)) {
        let content = read_secret(&path)?;
        return parse_key(&content)
            .map(Some)
            .with_context(|| format!("cannot use the sealing key in {}", path.display()));
    }
    match std::env::var(SEAL_KEY).map(Zeroizing::new) {
        Ok(text) => parse_key(text.as_bytes()).map(Some).with_context(|| format!("cannot use the key in {SEAL_KEY}")),
        Err(_) => Ok(None),
    }
}

/// A key as bytes or, easier to handle, in hexadecimal digits.
fn parse_key(content: &[u8]) -> Result<Zeroizing<[u8; KEY_LEN]>> {
    let mut key = Zeroizing::new([0; KEY_LEN]);
    if content.len() == KEY_LEN {
        key.copy_from_slice(content);
        return Ok(key);
    }
    let digits = content.trim_ascii();
    if digits.len() != 2 * KEY_LEN {
        bail!("it is neither {KEY_LEN} bytes nor {} hexadecimal digits", 2 * KEY_LEN);
    }
    for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        match (digit(pair[0]), digit(pair[1])) {
            (Some(high), Some(low)) => *byte = high << 4 | low,
            _ => bail!("it has a character that is no hexadecimal digit"),
        }
    }
    Ok(key)
}

/// The key in a file of ours, made at the first start.
fn kept_key(path: &Path) -> Result<Zeroizing<[u8; KEY_LEN]>> {
    match fs::File::open(path) {
        Ok(mut file) => {
            let mut key = Zeroizing::new([0; KEY_LEN]);
            file.read_exact(&mut *key)
                .with_context(|| format!("{} is not a sealing key of {KEY_LEN} bytes", path.display()))?;
            Ok(key)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = Seal::generate_key()?;
            write_private(path, &*key)?;
            Ok(key)
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Writes a file for this user alone, durably: all of it or nothing.
fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    let temporary = path.with_extension("tmp");
    let write = || -> io::Result<()> {
        let mut file = fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealing_key_is_bytes_or_hexadecimal_digits() {
        let bytes = [7; KEY_LEN];
        assert_eq!(*parse_key(&bytes).unwrap(), bytes);
        let text = format!("{}\n", "07".repeat(KEY_LEN));
        assert_eq!(*parse_key(text.as_bytes()).unwrap(), bytes);
        assert!(parse_key(b"short").is_err());
        assert!(parse_key("zz".repeat(KEY_LEN).as_bytes()).is_err());
    }

    #[test]
    fn a_secret_that_everybody_may_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        write_private(&path, &[1; KEY_LEN]).unwrap();
        assert!(given_key(path.to_str().unwrap()).unwrap().is_some());
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        fs::set_permissions(&path, open).unwrap();
        let refusal = format!("{:#}", given_key(path.to_str().unwrap()).unwrap_err());
        assert!(refusal.contains("chmod"), "{refusal}");
    }

    #[test]
    fn a_key_of_our_own_is_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca-seal.key");
        let first = kept_key(&path).unwrap();
        assert_eq!(*kept_key(&path).unwrap(), *first);
    }
}
