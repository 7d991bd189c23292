//! The redb backend: conformance, what survives a restart, what is refused, and what happens when the disk fails.

mod failing_disk;
mod power_cut;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tempfile::TempDir;

use super::file;
use crate::conformance::Fixture;
use crate::{Entry, Error, Revision, Store, Txn, verify};

crate::conformance_suite!(|| async {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open_redb(&directory.path().join("store.redb")).unwrap();
    Fixture::keeping(store, directory)
});

const MINUTE: Duration = Duration::from_secs(60);

fn place() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    (directory, path)
}

async fn put(store: &Store, key: &str, value: &str) -> Revision {
    store.commit(Txn::new().put(key.to_owned(), value.to_owned())).await.unwrap().revision()
}

async fn everything(store: &Store) -> (Revision, BTreeMap<Bytes, Entry>) {
    let scan = store.scan(b"").await.unwrap();
    (scan.revision, scan.entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect())
}

#[tokio::test]
async fn what_was_acknowledged_is_there_when_opened_again() {
    let (_directory, path) = place();
    let store = Store::open_redb(&path).unwrap();
    let lease = store.grant(MINUTE).await.unwrap();
    put(&store, "a", "1").await;
    store.commit(Txn::new().put("a", "2").put("empty", "").put_leased("leased", "x", lease)).await.unwrap();
    put(&store, "gone", "").await;
    store.commit(Txn::new().delete("gone")).await.unwrap();
    let before = everything(&store).await;
    store.close().await;

    let store = Store::open_redb(&path).unwrap();
    assert_eq!(everything(&store).await, before);
    assert_eq!(store.get(b"leased").await.unwrap().unwrap().lease, Some(lease));
    let next = store.commit(Txn::new().put("a", "3")).await.unwrap().revision();
    assert_eq!(next, Revision(before.0.0 + 1));

    store.keep_alive(lease).await.unwrap();
    let other = store.grant(MINUTE).await.unwrap();
    assert_ne!(other, lease, "a lease's number is never given again");
    store.revoke(lease).await.unwrap();
    assert_eq!(store.get(b"leased").await.unwrap(), None);
    store.close().await;

    let store = Store::open_redb(&path).unwrap();
    assert!(matches!(store.keep_alive(lease).await, Err(Error::LeaseLost(_))));
    store.keep_alive(other).await.unwrap();
    store.close().await;
    let report = verify(&path).unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!((report.keys, report.leases, report.format), (2, 1, 1));
}

#[tokio::test]
async fn a_lease_that_nobody_keeps_alive_after_a_restart_ends() {
    let (_directory, path) = place();
    let store = Store::open_redb(&path).unwrap();
    let lease = store.grant(Duration::from_millis(200)).await.unwrap();
    store.commit(Txn::new().put_leased("k", "", lease)).await.unwrap();
    store.close().await;
    let store = Store::open_redb(&path).unwrap();
    let mut watch = store.watch(b"", store.current().await.unwrap()).await.unwrap();
    let change = tokio::time::timeout(MINUTE, watch.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(change.events.len(), 1);
    assert!(everything(&store).await.1.is_empty());
}

#[tokio::test]
async fn history_from_before_the_start_is_compacted_and_said_to_be() {
    let (_directory, path) = place();
    let store = Store::open_redb(&path).unwrap();
    let first = put(&store, "a", "1").await;
    let second = put(&store, "a", "2").await;
    store.close().await;
    let store = Store::open_redb(&path).unwrap();
    let refused = store.watch(b"", first).await;
    assert!(matches!(refused, Err(Error::Compacted { oldest }) if oldest == second), "{refused:?}");
    let mut watch = store.watch(b"", second).await.unwrap();
    let third = put(&store, "a", "3").await;
    assert_eq!(watch.next().await.unwrap().unwrap().revision, third);
}

#[tokio::test]
async fn the_journal_is_folded_again_and_again_and_opening_sees_the_newest_of_each_key() {
    let (_directory, path) = place();
    for start in 0..4 {
        let (mut log, keyspace) = super::log::Log::open(&path).unwrap();
        // None, a few and many folds between two starts.
        log.journal_limit = [usize::MAX, 10_000, 500, usize::MAX][start];
        let store = Store { backend: std::sync::Arc::new(super::Redb::start(log, keyspace).unwrap()) };
        let lease = store.grant(MINUTE).await.unwrap();
        for number in 0..200 {
            let key = format!("k/{}", number % 40);
            let txn = match number % 7 {
                0 => Txn::new().delete(key),
                1 => Txn::new().put_leased(key, "", lease),
                2 => Txn::new().delete_prefix("k/1"),
                _ => Txn::new().put(key, format!("{start}/{number}")),
            };
            store.commit(txn).await.unwrap();
        }
        // Rows below may still name it; only the newest of a key counts.
        store.revoke(lease).await.unwrap();
        let before = everything(&store).await;
        store.close().await;
        assert!(verify(&path).unwrap().is_sound());
        let store = Store::open_redb(&path).unwrap();
        assert_eq!(everything(&store).await, before);
        store.close().await;
    }
}

#[tokio::test]
async fn only_the_owner_can_read_the_files() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data").join("store").join("store.redb");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    Store::open_redb(&path).unwrap().close().await;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(&file::beside(&path, ".lock")), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    assert_eq!(mode(path.parent().unwrap().parent().unwrap()), 0o700);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    Store::open_redb(&path).unwrap().close().await;
    assert_eq!(mode(&path), 0o600);
}

#[tokio::test]
async fn a_second_opener_is_told_who_has_the_file() {
    let (_directory, path) = place();
    let store = Store::open_redb(&path).unwrap();
    let text = Store::open_redb(&path).unwrap_err().to_string();
    assert_eq!(text, format!("store file {} is in use by process {}", path.display(), std::process::id()));
    assert!(matches!(verify(&path), Err(Error::InUse { .. })));
    store.close().await;
    Store::open_redb(&path).unwrap().close().await;
}

#[tokio::test]
async fn dropping_the_last_handle_releases_the_file() {
    let (_directory, path) = place();
    let store = Store::open_redb(&path).unwrap();
    let lease = store.grant(MINUTE).await.unwrap();
    store.commit(Txn::new().put_leased("k", "", lease)).await.unwrap();
    let mut watch = store.watch(b"none", Revision(1)).await.unwrap();
    drop(store);
    assert!(tokio::time::timeout(MINUTE, watch.next()).await.unwrap().is_none());
    let start = Instant::now();
    let store = loop {
        match Store::open_redb(&path) {
            Ok(store) => break store,
            Err(Error::InUse { .. }) if start.elapsed() < MINUTE => tokio::time::sleep(Duration::from_millis(5)).await,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(everything(&store).await.1.len(), 1);
}

#[tokio::test]
async fn what_was_asked_for_before_closing_is_done() {
    let (_directory, path) = place();
    let store = Store::open_redb(&path).unwrap();
    let commits: Vec<_> = (0..100)
        .map(|number| {
            let store = store.clone();
            tokio::spawn(async move { store.commit(Txn::new().put(format!("k/{number}"), "")).await })
        })
        .collect();
    tokio::task::yield_now().await;
    store.close().await;
    let mut applied = 0;
    for commit in commits {
        match commit.await.unwrap() {
            Ok(_) => applied += 1,
            Err(Error::Closed) => {}
            Err(error) => panic!("{error}"),
        }
    }
    let store = Store::open_redb(&path).unwrap();
    assert_eq!(everything(&store).await.1.len(), applied);
}

#[tokio::test]
async fn a_file_of_a_later_format_is_refused_with_both_numbers() {
    let (_directory, path) = place();
    Store::open_redb(&path).unwrap().close().await;
    let database = ::redb::Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    let meta: ::redb::TableDefinition<'_, &str, u64> = ::redb::TableDefinition::new("meta");
    transaction.open_table(meta).unwrap().insert("format", 7).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let expected = format!(
        "store file {} has format 7, this lictor knows format 1: use the version that wrote it",
        path.display()
    );
    assert_eq!(Store::open_redb(&path).unwrap_err().to_string(), expected);
    assert_eq!(verify(&path).unwrap_err().to_string(), expected);
}

#[test]
fn what_is_not_a_store_is_refused_and_left_alone() {
    let (directory, path) = place();
    let garbage: Vec<u8> = (0..200_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    for content in [&b""[..], b"hello", &garbage] {
        fs::write(&path, content).unwrap();
        let error = Store::open_redb(&path).unwrap_err();
        assert!(matches!(error, Error::NotAStore { .. }), "{} bytes: {error:?}", content.len());
        assert!(fs::read(&path).unwrap() == content, "{} bytes were changed", content.len());
        assert!(verify(&path).is_err());
    }
    drop(::redb::Database::create(directory.path().join("other")).unwrap());
    let error = Store::open_redb(&directory.path().join("other")).unwrap_err();
    assert!(error.to_string().ends_with("is not a lictor store: it has no meta table"), "{error}");

    let error = Store::open_redb(directory.path()).unwrap_err();
    assert!(matches!(error, Error::File { operation: "open store file", .. }), "{error:?}");
    let error = Store::open_redb(&path.join("below/a/file")).unwrap_err();
    assert!(matches!(error, Error::File { operation: "create directory", .. }), "{error:?}");
}

#[tokio::test]
async fn a_damaged_file_is_refused_or_unharmed_but_never_misread() {
    let (_directory, path) = place();
    let store = Store::open_redb(&path).unwrap();
    for number in 0..200 {
        put(&store, &format!("k/{number}"), &"v".repeat(100)).await;
    }
    let truth = everything(&store).await;
    store.close().await;
    let sound = fs::read(&path).unwrap();
    let mut random = fastrand::Rng::with_seed(7);
    let mut refused = 0;
    for _ in 0..150 {
        let mut damaged = sound.clone();
        match random.u8(..4) {
            0 => damaged.truncate(random.usize(1..sound.len())),
            _ => damaged[random.usize(..sound.len())] ^= random.u8(1..),
        }
        fs::write(&path, &damaged).unwrap();
        let checked = verify(&path);
        assert!(fs::read(&path).unwrap() == damaged, "checking changed the file");
        match Store::open_redb(&path) {
            Ok(store) => {
                assert_eq!(everything(&store).await, truth);
                store.close().await;
            }
            Err(Error::Damaged { .. } | Error::NotAStore { .. } | Error::File { .. }) => {
                refused += 1;
                assert!(checked.is_err() || !checked.unwrap().is_sound());
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    assert!(refused > 10, "{refused} refused");
}

#[tokio::test]
async fn a_file_that_contradicts_itself_is_refused() {
    let (_directory, path) = place();
    let store = Store::open_redb(&path).unwrap();
    put(&store, "secret", "v").await;
    store.close().await;
    let database = ::redb::Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    let entries: ::redb::TableDefinition<'_, &[u8], (u64, u64, u64, &[u8])> = ::redb::TableDefinition::new("entries");
    transaction.open_table(entries).unwrap().insert(b"secret".as_slice(), (9, 5, 3, b"v".as_slice())).unwrap();
    let journal: ::redb::TableDefinition<'_, u64, &[u8]> = ::redb::TableDefinition::new("journal");
    transaction.delete_table(journal).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = Store::open_redb(&path).unwrap_err().to_string();
    assert!(error.contains("entry 1 was created at revision 9 and modified at 5, the store is at 1"), "{error}");
    assert!(!error.contains("secret"));
    let report = verify(&path).unwrap();
    assert_eq!(report.findings.len(), 2, "{report:?}");
}
