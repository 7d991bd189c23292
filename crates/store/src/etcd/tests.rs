//! The conformance suite and the faults of a distributed store, on real etcd processes.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use lictor_testkit::Etcd as Cluster;
use parking_lot::Mutex;

use super::EtcdSettings;
use crate::conformance::Fixture;
use crate::{Error, Event, Outcome, Revision, Store, Txn, Watch};

/// How long anything may take on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

fn settings(cluster: &Cluster, prefix: &str) -> EtcdSettings {
    EtcdSettings { endpoints: cluster.endpoints(), prefix: prefix.to_owned(), ..EtcdSettings::default() }
}

async fn open(cluster: &Cluster, prefix: &str) -> Store {
    Store::open_etcd(&settings(cluster, prefix), Revision::ZERO).await.unwrap()
}

async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, work).await.expect("not within the deadline")
}

async fn put(store: &Store, key: &str, value: &str) -> Revision {
    match soon(store.commit(Txn::new().put(key.to_owned(), value.to_owned()))).await.unwrap() {
        Outcome::Applied(revision) => revision,
        Outcome::Conflict(revision) => panic!("unexpected conflict at {revision}"),
    }
}

/// The next change of keys; the header's own are left out.
async fn next(watch: &mut Watch) -> Result<crate::Change, Error> {
    loop {
        let change = soon(watch.next()).await.expect("the watch ended");
        if !matches!(&change, Ok(change) if change.events.is_empty()) {
            return change;
        }
    }
}

/// What the cases of the conformance suite share: one etcd, one after the other, for they look at revisions, which are
/// those of the whole etcd.
struct Bench {
    turn: std::sync::LazyLock<Arc<tokio::sync::Mutex<()>>>,
    /// Not kept alive from here, for what a static holds is never dropped.
    cluster: Mutex<Weak<Cluster>>,
    number: AtomicU32,
}

impl Bench {
    const fn new() -> Bench {
        Bench {
            turn: std::sync::LazyLock::new(Arc::default),
            cluster: Mutex::new(Weak::new()),
            number: AtomicU32::new(0),
        }
    }

    async fn fixture(&self, start: fn(usize) -> Option<Cluster>) -> Fixture {
        let cluster = tokio::task::block_in_place(|| {
            let mut shared = self.cluster.lock();
            shared.upgrade().or_else(|| {
                let cluster = Arc::new(start(1)?);
                *shared = Arc::downgrade(&cluster);
                Some(cluster)
            })
        });
        // That it is missing was said loudly; the case then shows at least that it holds for the memory.
        let Some(cluster) = cluster else { return Fixture::new(Store::memory()) };
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let store = open(&cluster, &format!("case{number}/")).await;
        Fixture::keeping(store, (turn, cluster))
    }
}

mod conformance {
    use super::*;

    static BENCH: Bench = Bench::new();

    crate::conformance_suite!(|| BENCH.fixture(Cluster::start));
}

mod conformance_of_a_newer_etcd {
    use super::*;

    static BENCH: Bench = Bench::new();

    crate::conformance_suite!(|| BENCH.fixture(Cluster::start_newer));
}

/// A connection to etcd that a test can cut.
struct Cable {
    port: u16,
    state: Arc<Mutex<CableState>>,
}

#[derive(Default)]
struct CableState {
    cut: bool,
    /// What comes back from the far end is lost.
    deaf: bool,
    ends: Vec<std::net::TcpStream>,
}

impl Cable {
    fn lay(target: u16) -> Cable {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(CableState::default()));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let mut state = shared.lock();
                if state.cut {
                    continue;
                }
                let Ok(far) = std::net::TcpStream::connect(("127.0.0.1", target)) else { continue };
                for (from, to, back) in [(&near, &far, false), (&far, &near, true)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let shared = Arc::clone(&shared);
                    std::thread::spawn(move || {
                        let mut buffer = [0; 16 * 1024];
                        while let Ok(read @ 1..) = std::io::Read::read(&mut from, &mut buffer) {
                            if back && shared.lock().deaf {
                                continue;
                            }
                            if std::io::Write::write_all(&mut to, &buffer[..read]).is_err() {
                                break;
                            }
                        }
                        let _ = to.shutdown(std::net::Shutdown::Both);
                    });
                }
                state.ends.extend([near, far]);
            }
        });
        Cable { port, state }
    }

    fn cut(&self) {
        let mut state = self.state.lock();
        state.cut = true;
        for end in state.ends.drain(..) {
            let _ = end.shutdown(std::net::Shutdown::Both);
        }
    }

    fn mend(&self) {
        let mut state = self.state.lock();
        (state.cut, state.deaf) = (false, false);
    }

    fn deafen(&self) {
        self.state.lock().deaf = true;
    }
}

fn port(endpoint: &str) -> u16 {
    endpoint.rsplit(':').next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_member_can_be_killed_or_paused_and_no_acknowledged_write_is_lost_or_done_twice() {
    let Some(mut cluster) = tokio::task::block_in_place(|| Cluster::start(3)) else { return };
    let store = open(&cluster, "").await;
    put(&store, "counter", "0").await;
    let start = store.scan(b"").await.unwrap().revision;
    let mut watch = store.watch(b"counter", start).await.unwrap();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writer = tokio::spawn({
        let (store, stop) = (store.clone(), Arc::clone(&stop));
        async move {
            let (mut acknowledged, mut open) = (0_u64, 0_u64);
            while !stop.load(Ordering::Relaxed) {
                let Ok(Some(entry)) = store.get(b"counter").await else { continue };
                let number: u64 = std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
                let txn = Txn::new().when_modified("counter", entry.modified).put("counter", (number + 1).to_string());
                match store.commit(txn).await {
                    // There is no other writer: a conflict would be our own write, done without our knowing.
                    Ok(Outcome::Conflict(_)) => panic!("a write was done that was not acknowledged"),
                    Ok(Outcome::Applied(_)) => acknowledged += 1,
                    Err(Error::Open { .. }) => open += 1,
                    Err(Error::Unreachable { .. }) => {}
                    Err(other) => panic!("{other}"),
                }
            }
            (acknowledged, open)
        }
    });
    let progress = |store: Store| async move {
        let before = soon(async {
            loop {
                if let Ok(now) = store.current().await {
                    break now;
                }
            }
        })
        .await;
        soon(async {
            loop {
                match store.scan(b"counter").await {
                    Ok(scan) if scan.entries[0].modified.0 > before.0 + 5 => break,
                    _ => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        })
        .await;
    };
    for number in 0..cluster.len() {
        progress(store.clone()).await;
        tokio::task::block_in_place(|| cluster.kill(number));
        progress(store.clone()).await;
        tokio::task::block_in_place(|| {
            cluster.start_member(number);
            cluster.wait_member(number);
        });
        progress(store.clone()).await;
        cluster.pause(number);
        progress(store.clone()).await;
        cluster.resume(number);
    }
    stop.store(true, Ordering::Relaxed);
    let (acknowledged, open) = soon(writer).await.unwrap();
    let last = soon(store.get(b"counter")).await.unwrap().unwrap();
    let counted: u64 = std::str::from_utf8(&last.value).unwrap().parse().unwrap();
    assert!((acknowledged..=acknowledged + open).contains(&counted), "{counted} of {acknowledged} and {open} open");
    // The watch saw every number once, in order, whatever happened to its member.
    let mut expected = 0;
    while expected < counted {
        let change = next(&mut watch).await.unwrap();
        let [Event::Put(entry)] = change.events.as_slice() else { panic!("{change:?}") };
        expected += 1;
        assert_eq!(entry.value, expected.to_string());
    }
    soon(store.close()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_was_cut_off_goes_on_without_gap_and_says_so_when_its_history_is_gone() {
    let Some(cluster) = tokio::task::block_in_place(|| Cluster::start(1)) else { return };
    let cable = Cable::lay(port(&cluster.endpoints()[0]));
    let direct = open(&cluster, "").await;
    let behind = EtcdSettings { endpoints: vec![format!("http://127.0.0.1:{}", cable.port)], ..settings(&cluster, "") };
    let store = Store::open_etcd(&behind, Revision::ZERO).await.unwrap();
    let start = put(&direct, "k", "0").await;
    let mut watch = store.watch(b"", start).await.unwrap();
    put(&direct, "k", "1").await;
    assert!(next(&mut watch).await.is_ok());
    // Cut, changed, mended: the watch takes up where it was.
    cable.cut();
    let missed = [put(&direct, "k", "2").await, put(&direct, "j", "3").await];
    cable.mend();
    for revision in missed {
        assert_eq!(next(&mut watch).await.unwrap().revision, revision);
    }
    // A compaction and a defragmentation while it watches is nothing to it.
    tokio::task::block_in_place(|| {
        cluster.ctl(&["compaction", &put_revision(&cluster)]);
        cluster.ctl(&["defrag"]);
    });
    let after = put(&direct, "k", "4").await;
    assert_eq!(next(&mut watch).await.unwrap().revision, after);
    // What it needs is forgotten while it is away: it says so once, and a new look joins without a gap.
    cable.cut();
    put(&direct, "k", "5").await;
    let last = put(&direct, "k", "6").await;
    tokio::task::block_in_place(|| cluster.ctl(&["compaction", &put_revision(&cluster)]));
    cable.mend();
    assert!(matches!(next(&mut watch).await, Err(Error::Lagged { .. })));
    assert!(soon(watch.next()).await.is_none());
    let too_old = match store.watch(b"", start).await {
        Ok(mut watch) => next(&mut watch).await.map(drop),
        Err(error) => Err(error),
    };
    assert!(matches!(too_old, Err(Error::Compacted { .. } | Error::Lagged { .. })), "{too_old:?}");
    let scan = soon(store.scan(b"")).await.unwrap();
    assert!(scan.revision >= last);
    let mut watch = store.watch(b"", scan.revision).await.unwrap();
    let then = put(&direct, "k", "7").await;
    assert_eq!(next(&mut watch).await.unwrap().revision, then);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_whose_answer_was_lost_is_done_once_and_its_outcome_is_found_out() {
    let Some(cluster) = tokio::task::block_in_place(|| Cluster::start(1)) else { return };
    let direct = open(&cluster, "").await;
    let many = |count: usize| (0..count).fold(Txn::new(), |txn, n| txn.when_exists(format!("d/{n}")));
    let cases = [
        ("a write", Txn::new().put("k", "1")),
        ("a deletion", Txn::new().delete("d/1")),
        ("a deletion of all below", Txn::new().delete_prefix("d/")),
        ("a deletion with conditions", (0..60).fold(many(60), |txn, n| txn.delete(format!("d/{n}")))),
        ("a large deletion", (0..120).fold(many(120), |txn, n| txn.delete(format!("d/{n}")))),
    ];
    for (what, txn) in cases {
        let cable = Cable::lay(port(&cluster.endpoints()[0]));
        let address = format!("http://127.0.0.1:{}", cable.port);
        let behind = EtcdSettings { endpoints: vec![address], ..settings(&cluster, "") };
        let store = soon(Store::open_etcd(&behind, Revision::ZERO)).await.unwrap();
        put(&direct, "k", "0").await;
        soon(direct.commit((0..120).fold(Txn::new(), |txn, n| txn.put(format!("d/{n}"), "old")))).await.unwrap();
        let start = direct.current().await.unwrap();
        let mut watch = direct.watch(b"", start).await.unwrap();
        cable.deafen();
        let asked = tokio::spawn({
            let (store, txn) = (store.clone(), txn.clone());
            async move { store.commit(txn).await }
        });
        // It is done, which the one who asked does not hear. Then others write to the same keys.
        let done = next(&mut watch).await.unwrap().revision;
        put(&direct, "k", "2").await;
        put(&direct, "d/1", "new").await;
        cable.cut();
        cable.mend();
        let outcome = soon(asked).await.unwrap().unwrap();
        assert_eq!(outcome, Outcome::Applied(done), "{what}");
        assert_eq!(direct.get(b"k").await.unwrap().unwrap().value, "2", "{what} was done twice");
        let newer = direct.get(b"d/1").await.unwrap().map(|entry| entry.value);
        assert_eq!(newer.as_deref(), Some(&b"new"[..]), "{what} was done twice");
        soon(store.close()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_that_wait_for_others_go_together_and_each_is_decided_for_itself() {
    const WRITES: usize = 40;
    let Some(cluster) = tokio::task::block_in_place(|| Cluster::start(1)) else { return };
    let store = open(&cluster, "").await;
    let start = put(&store, "taken", "0").await;
    let mut watch = store.watch(b"", start).await.unwrap();
    // While etcd does nothing, all but the first wait.
    cluster.pause(0);
    let tasks: Vec<_> = (0..WRITES)
        .map(|number| {
            let store = store.clone();
            let txn = match number % 4 {
                0 => Txn::new().when_absent("taken").put(format!("w/{number}"), ""),
                1 => Txn::new().delete(format!("w/{number}")),
                _ => Txn::new().when_exists("taken").put(format!("w/{number}"), ""),
            };
            tokio::spawn(async move { store.commit(txn).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    cluster.resume(0);
    let mut written = std::collections::BTreeMap::new();
    for (number, task) in tasks.into_iter().enumerate() {
        match (number % 4, soon(task).await.unwrap().unwrap()) {
            (0, Outcome::Conflict(_)) | (1, Outcome::Applied(_)) => {}
            (2 | 3, Outcome::Applied(revision)) => drop(written.insert(Bytes::from(format!("w/{number}")), revision)),
            other => panic!("{number}: {other:?}"),
        }
    }
    let revisions: std::collections::BTreeSet<_> = written.values().collect();
    assert!(revisions.len() < written.len() / 2, "they did not go together: {revisions:?}");
    let mut seen = start;
    while !written.is_empty() {
        let change = next(&mut watch).await.unwrap();
        assert!(change.revision > seen, "a revision in one piece");
        seen = change.revision;
        for event in change.events {
            assert_eq!(written.remove(event.key()), Some(seen), "{event:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_answer_to_several_writes_is_lost_each_learns_what_came_of_its_own() {
    let Some(cluster) = tokio::task::block_in_place(|| Cluster::start(1)) else { return };
    let direct = open(&cluster, "").await;
    for forgotten in [false, true] {
        let cable = Cable::lay(port(&cluster.endpoints()[0]));
        let address = format!("http://127.0.0.1:{}", cable.port);
        let behind = EtcdSettings { endpoints: vec![address], ..settings(&cluster, "") };
        let etcd = soon(super::Etcd::open(&behind, Revision::ZERO)).await.unwrap();
        let (old, kept) = (put(&direct, "old", "").await, put(&direct, "kept", "").await);
        let mut watch = direct.watch(b"", kept).await.unwrap();
        let txns = [
            Txn::new().put("1", ""),
            Txn::new().when_exists("none").put("2", ""),
            Txn::new().when_modified("old", old).when_absent("none").put("3", ""),
            Txn::new().when_modified("kept", old).put("4", ""),
        ];
        let queue = Arc::new(super::group::Queue::new());
        let tasks = txns.map(|txn| {
            let queue = Arc::clone(&queue);
            tokio::spawn(async move { queue.commit(txn).await })
        });
        soon(async {
            while queue.len() < tasks.len() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        cable.deafen();
        let lane = tokio::spawn(super::lane::Lane::new(Arc::clone(&etcd.shared), Arc::clone(&queue)).run());
        // It is done. By the time that it is found out, the conditions are others.
        let done = next(&mut watch).await.unwrap();
        assert_eq!(done.events.len(), 2);
        put(&direct, "old", "").await;
        put(&direct, "none", "").await;
        if forgotten {
            tokio::task::block_in_place(|| cluster.ctl(&["compaction", &put_revision(&cluster)]));
        }
        cable.cut();
        cable.mend();
        let mut outcomes = Vec::new();
        for task in tasks {
            outcomes.push(soon(task).await.unwrap());
        }
        if forgotten {
            assert!(outcomes.iter().all(|outcome| matches!(outcome, Err(Error::Open { .. }))), "{outcomes:?}");
        } else {
            let applied: Vec<bool> = outcomes.iter().map(|outcome| outcome.as_ref().unwrap().is_applied()).collect();
            assert_eq!(applied, [true, false, true, false]);
            assert!(outcomes.iter().all(|outcome| outcome.as_ref().unwrap().revision() == done.revision));
        }
        // And it goes on, whatever it lost.
        assert!(soon(queue.commit(Txn::new().put("5", ""))).await.unwrap().is_applied());
        queue.close();
        soon(lane).await.unwrap();
        soon(direct.commit(Txn::new().delete("none"))).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_etcd_refuses_what_writes_and_takes_what_deletes() {
    let arguments = ["--quota-backend-bytes", "4194304"];
    let Some(cluster) = tokio::task::block_in_place(|| Cluster::start_with(1, "http", &arguments)) else { return };
    let store = open(&cluster, "").await;
    put(&store, "k", "1").await;
    let filler = vec![b'x'; 500_000];
    let refusal = soon(async {
        loop {
            if let Err(error) = store.commit(Txn::new().put("filler", filler.clone())).await {
                break error;
            }
        }
    })
    .await;
    assert!(refusal.to_string().contains("etcdctl alarm disarm"), "{refusal}");
    let small = soon(store.commit(Txn::new().when_exists("k").put("small", ""))).await;
    assert!(matches!(small, Err(Error::Refused { .. })), "{small:?}");
    assert!(soon(store.commit(Txn::new().when_exists("k").delete("k"))).await.unwrap().is_applied());
    assert_eq!(soon(store.get(b"k")).await.unwrap(), None);
    soon(store.close()).await;
}

/// The revision that etcd has reached, as `etcdctl` wants it.
fn put_revision(cluster: &Cluster) -> String {
    let status = cluster.ctl(&["get", "none", "-w", "json"]);
    let from = status.find("\"revision\":").unwrap() + "\"revision\":".len();
    status[from..].chars().take_while(char::is_ascii_digit).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_users_of_the_same_etcd_do_not_hold_up_who_waits_for_a_revision() {
    let Some(cluster) = tokio::task::block_in_place(|| Cluster::start(1)) else { return };
    let store = open(&cluster, "ours").await;
    let start = put(&store, "k", "1").await;
    let mut watch = store.watch(b"", start).await.unwrap();
    tokio::task::block_in_place(|| cluster.ctl(&["put", "theirs", "x"]));
    let current = store.current().await.unwrap();
    assert!(current > start);
    let change = soon(watch.next()).await.unwrap().unwrap();
    assert!(change.revision >= current && change.events.is_empty(), "{change:?}");
    let keys = tokio::task::block_in_place(|| cluster.ctl(&["get", "--prefix", "ours/data/", "--keys-only"]));
    assert!(keys.contains("ours/data/k"), "{keys}");
    assert_eq!(store.scan(b"").await.unwrap().entries.len(), 1, "the header is no entry");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_revision_is_helped_again_when_help_has_failed() {
    let Some(cluster) = tokio::task::block_in_place(|| Cluster::start(1)) else { return };
    let cable = Cable::lay(port(&cluster.endpoints()[0]));
    let behind = EtcdSettings { endpoints: vec![format!("http://127.0.0.1:{}", cable.port)], ..settings(&cluster, "") };
    let store = Store::open_etcd(&behind, Revision::ZERO).await.unwrap();
    let start = put(&store, "k", "1").await;
    let mut watch = store.watch(b"", start).await.unwrap();
    tokio::task::block_in_place(|| cluster.ctl(&["put", "theirs", "x"]));
    let current = store.current().await.unwrap();
    cable.cut();
    // Longer than a request is tried.
    tokio::time::sleep(super::client::PATIENCE + super::client::ANSWER).await;
    cable.mend();
    let change = soon(watch.next()).await.unwrap().unwrap();
    assert!(change.revision >= current && change.events.is_empty(), "{change:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revisions_of_a_store_that_came_from_elsewhere_go_on_growing() {
    let Some(cluster) = tokio::task::block_in_place(|| Cluster::start(1)) else { return };
    let store = Store::open_etcd(&settings(&cluster, "moved"), Revision(70_000)).await.unwrap();
    let first = put(&store, "k", "1").await;
    assert!(first > Revision(70_000));
    assert!(matches!(store.watch(b"", Revision(5)).await, Err(Error::Compacted { .. })));
    let txn = Txn::new().when_modified("k", first).put("k", "2");
    assert!(store.commit(txn).await.unwrap().is_applied());
    // Opened again it has the numbers it had, whatever the opener brings.
    let again = open(&cluster, "moved").await;
    let entry = again.get(b"k").await.unwrap().unwrap();
    assert_eq!((entry.created, entry.value), (first, Bytes::from("2")));
    let mut watch = again.watch(b"", first).await.unwrap();
    assert_eq!(next(&mut watch).await.unwrap().revision, entry.modified);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_etcd_ended_is_noticed() {
    let Some(cluster) = tokio::task::block_in_place(|| Cluster::start(1)) else { return };
    let store = open(&cluster, "").await;
    let lease = store.grant(Duration::from_secs(600)).await.unwrap();
    soon(store.commit(Txn::new().put_leased("alive", "", lease))).await.unwrap();
    store.keep_alive(lease).await.unwrap();
    tokio::task::block_in_place(|| cluster.ctl(&["lease", "revoke", &lease.to_string()]));
    assert!(matches!(store.keep_alive(lease).await, Err(Error::LeaseLost(lost)) if lost == lease));
    assert_eq!(store.get(b"alive").await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_that_is_not_there_yet_is_waited_for() {
    let Some(mut cluster) = tokio::task::block_in_place(|| Cluster::start(1)) else { return };
    tokio::task::block_in_place(|| cluster.kill(0));
    let opening = tokio::spawn({
        let settings = settings(&cluster, "");
        async move { Store::open_etcd(&settings, Revision::ZERO).await }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!opening.is_finished(), "it neither fails nor pretends");
    tokio::task::block_in_place(|| cluster.start_member(0));
    let store = soon(opening).await.unwrap().unwrap();
    put(&store, "k", "1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_is_reached_over_tls_with_a_certificate_and_as_a_user_with_rights_on_the_prefix_only() {
    let Some(openssl) = lictor_testkit::program::find("openssl") else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let run = |arguments: &str| {
        let output = std::process::Command::new(&openssl)
            .args(arguments.split(' '))
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    };
    std::fs::write(path("ext"), "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n").unwrap();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    run(&format!("req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=ca -days 2"));
    for name in ["server", "client"] {
        run(&format!("req {key} -keyout {name}.key -out {name}.csr -subj /O={name}"));
        run(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out {name}.pem"
        ));
    }
    let file = |name: &str| path(name).display().to_string();
    let (ca, cert, server_key) = (file("ca.pem"), file("server.pem"), file("server.key"));
    let arguments = ["--cert-file", &cert, "--key-file", &server_key, "--trusted-ca-file", &ca, "--client-cert-auth"];
    let Some(cluster) = tokio::task::block_in_place(|| Cluster::start_with(1, "https", &arguments)) else { return };
    let (client, client_key) = (file("client.pem"), file("client.key"));
    let ctl = |words: &[&str]| {
        let mut all = vec!["--cacert", ca.as_str(), "--cert", client.as_str(), "--key", client_key.as_str()];
        all.extend(words);
        tokio::task::block_in_place(|| cluster.ctl(&all))
    };
    ctl(&["user", "add", "root:secret"]);
    ctl(&["user", "grant-role", "root", "root"]);
    ctl(&["role", "add", "lictor"]);
    ctl(&["role", "grant-permission", "lictor", "--prefix=true", "readwrite", "mesh/"]);
    ctl(&["user", "add", "lictor:s3cret"]);
    ctl(&["user", "grant-role", "lictor", "lictor"]);
    ctl(&["auth", "enable"]);
    let with = |prefix: &str, password: &str| EtcdSettings {
        ca_file: Some(path("ca.pem")),
        identity: Some((path("client.pem"), path("client.key"))),
        user: Some(("lictor".to_owned(), zeroize::Zeroizing::new(password.to_owned()))),
        ..settings(&cluster, prefix)
    };
    let opened = |settings: EtcdSettings| async move { soon(Store::open_etcd(&settings, Revision::ZERO)).await };
    let store = opened(with("mesh", "s3cret")).await.unwrap();
    let at = put(&store, "k", "1").await;
    let mut watch = store.watch(b"", at).await.unwrap();
    let then = put(&store, "k", "2").await;
    assert_eq!(next(&mut watch).await.unwrap().revision, then);
    let lease = store.grant(Duration::from_secs(60)).await.unwrap();
    soon(store.commit(Txn::new().put_leased("alive", "", lease))).await.unwrap();
    store.keep_alive(lease).await.unwrap();
    for (refused, why) in [
        (opened(with("mesh", "wrong")).await, "authentication failed"),
        (opened(with("other", "s3cret")).await, "permission denied"),
        (opened(EtcdSettings { user: None, ..with("mesh", "") }).await, "permission denied"),
    ] {
        match refused {
            Err(error @ Error::Refused { .. }) => {
                let text = error.to_string();
                assert!(text.contains(why) && !text.contains("s3cret"), "{text}");
            }
            other => panic!("{why}: {other:?}"),
        }
    }
}
