//! Disks that are full, too small, or fail to sync: nothing acknowledged is lost, nothing unacknowledged half shown.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::super::Redb;
use super::super::file::faults::Faults;
use super::super::log::Log;
use super::{MINUTE, everything, place, put};
use crate::{Error, Event, Store, Txn, verify};

fn open_with_faults(path: &Path) -> (Store, Arc<Faults>) {
    let (mut log, keyspace) = Log::open(path).unwrap();
    // So that folding happens every few writes, and fails as often as any other.
    log.journal_limit = 3_000;
    let faults = Arc::clone(&log.faults);
    (Store { backend: Arc::new(Redb::start(log, keyspace).unwrap()) }, faults)
}

#[tokio::test]
async fn a_full_disk_fails_writes_with_a_remedy_and_reads_go_on() {
    let (_directory, path) = place();
    let (store, faults) = open_with_faults(&path);
    let lease = store.grant(MINUTE).await.unwrap();
    let last = put(&store, "k", "1").await;
    let mut watch = store.watch(b"", last).await.unwrap();
    let before = everything(&store).await;

    faults.space.store(0, Ordering::SeqCst);
    let error = store.commit(Txn::new().put("k", "2").put("l", "2")).await.unwrap_err();
    let expected = format!(
        "cannot write to store file {}: the disk is full; free some space, writes then go on by themselves",
        path.display()
    );
    assert_eq!(error.to_string(), expected);
    assert!(error.is_retriable());
    assert!(std::error::Error::source(&error).is_some());
    assert!(matches!(store.grant(MINUTE).await, Err(Error::Write { .. })));
    assert!(matches!(store.revoke(lease).await, Err(Error::Write { .. })));
    assert_eq!(everything(&store).await, before);
    store.keep_alive(lease).await.unwrap();

    faults.space.store(i64::MAX, Ordering::SeqCst);
    let next = put(&store, "k", "3").await;
    assert_eq!(next.0, last.0 + 1, "what failed took no revision");
    let change = watch.next().await.unwrap().unwrap();
    assert_eq!(change.revision, next);
    assert!(matches!(&change.events[..], [Event::Put(entry)] if entry.value == "3"));
    let now = everything(&store).await;
    store.close().await;
    let store = Store::open_redb(&path).unwrap();
    assert_eq!(everything(&store).await, now);
    store.keep_alive(lease).await.unwrap();
}

#[tokio::test]
async fn a_disk_that_fills_up_at_any_byte_of_a_write_leaves_all_or_nothing() {
    let (_directory, path) = place();
    let (store, faults) = open_with_faults(&path);
    for number in 0..50 {
        put(&store, &format!("k/{number}"), &"v".repeat(300)).await;
    }
    let mut random = fastrand::Rng::with_seed(11);
    let (mut failed, mut applied, mut late) = (0, 0, 0);
    for round in 0..200 {
        let before = everything(&store).await;
        faults.space.store(random.i64(0..60_000), Ordering::SeqCst);
        let txn = (0..8)
            .fold(Txn::new(), |txn, n| txn.put(format!("k/{}", (round * 7 + n * 5) % 50), format!("{round}/{n}")));
        let outcome = store.commit(txn).await;
        let after = everything(&store).await;
        let newest = after.1.values().filter(|entry| entry.modified == after.0).count();
        match outcome {
            Ok(outcome) => {
                applied += 1;
                assert_eq!(after.0, outcome.revision());
                assert_eq!(newest, 8);
            }
            Err(Error::Write { .. }) => {
                failed += 1;
                if after.0 != before.0 {
                    // The one that failed before was in the file after all, which only now could be found out.
                    late += 1;
                    assert_eq!((after.0.0, newest), (before.0.0 + 1, 8));
                }
            }
            Err(error) => panic!("{error:?}"),
        }
        faults.space.store(i64::MAX, Ordering::SeqCst);
        if round % 10 == 0 {
            // Whatever the disk holds now must be what is shown, once the next write has settled any doubt.
            put(&store, "settled", "").await;
        }
    }
    assert!(failed > 20 && applied > 20 && late < failed, "{failed} failed, {applied} applied, {late} late");
    put(&store, "settled", "").await;
    let now = everything(&store).await;
    store.close().await;
    assert!(verify(&path).unwrap().is_sound());
    assert_eq!(everything(&Store::open_redb(&path).unwrap()).await, now);
}

#[tokio::test]
async fn after_a_failed_sync_the_file_is_written_anew_from_memory() {
    let (_directory, path) = place();
    let (store, faults) = open_with_faults(&path);
    let lease = store.grant(MINUTE).await.unwrap();
    put(&store, "a", "1").await;
    store.commit(Txn::new().put_leased("b", "2", lease)).await.unwrap();
    let before = everything(&store).await;
    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
    let old = inode(&path);

    faults.syncs_fail.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        let error = store.commit(Txn::new().put("a", "lost")).await.unwrap_err();
        assert!(error.to_string().contains("the disk failed"), "{error}");
        assert_eq!(everything(&store).await, before);
    }
    faults.syncs_fail.store(false, Ordering::SeqCst);
    put(&store, "c", "3").await;
    assert_ne!(inode(&path), old, "what the system shows of the old file is not to be trusted");
    let now = everything(&store).await;
    assert_eq!(now.0.0, before.0.0 + 1);
    assert!(matches!(Store::open_redb(&path), Err(Error::InUse { .. })), "the lock outlives the file");
    store.close().await;

    let store = Store::open_redb(&path).unwrap();
    assert_eq!(everything(&store).await, now);
    store.keep_alive(lease).await.unwrap();
}

#[tokio::test]
async fn a_lease_that_ends_while_the_disk_is_full_ends_when_it_is_not() {
    let (_directory, path) = place();
    let (store, faults) = open_with_faults(&path);
    let lease = store.grant(Duration::from_millis(100)).await.unwrap();
    let at = store.commit(Txn::new().put_leased("k", "", lease)).await.unwrap().revision();
    faults.space.store(0, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(matches!(store.keep_alive(lease).await, Err(Error::LeaseLost(_))));
    assert_eq!(store.current().await.unwrap(), at);
    faults.space.store(i64::MAX, Ordering::SeqCst);
    let mut watch = store.watch(b"", at).await.unwrap();
    let change = tokio::time::timeout(MINUTE, watch.next()).await.unwrap().unwrap().unwrap();
    assert!(matches!(&change.events[..], [Event::Deleted { key }] if key == "k"));
}

/// A file system of one megabyte, gone when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None` when this user may not mount.
    fn mount() -> Option<SmallDisk> {
        let directory = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "lictor-test"])
            .arg(directory.path())
            .output()
            .is_ok_and(|output| output.status.success());
        mounted.then_some(SmallDisk(directory))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_real_full_disk_is_survived() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("SKIPPED a_real_full_disk_is_survived: mounting a small tmpfs needs root");
        return;
    };
    let path = disk.0.path().join("store.redb");
    let ballast = disk.0.path().join("ballast");
    fs::write(&ballast, vec![0; 300 * 1024]).unwrap();
    let store = Store::open_redb(&path).unwrap();
    let mut written = 0;
    let error = loop {
        match store.commit(Txn::new().put(format!("k/{written}"), vec![1; 20_000])).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 100, "the disk never filled up");
    };
    assert!(error.to_string().contains("the disk is full"), "{error}");
    assert_eq!(everything(&store).await.1.len(), written);
    assert!(store.commit(Txn::new().put("more", vec![1; 100_000])).await.is_err());
    fs::remove_file(&ballast).unwrap();
    put(&store, "after", "").await;
    let now = everything(&store).await;
    assert_eq!(now.1.len(), written + 1);
    store.close().await;
    let store = Store::open_redb(&path).unwrap();
    assert_eq!(everything(&store).await, now);
    store.close().await;
}
