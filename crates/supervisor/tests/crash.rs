//! A supervisor killed at random instants: never two instances, never an orphan, readiness kept.
//!
//! This binary plays three parts: the tests, the supervisor that is killed, and a process that reports itself ready.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail")]

use std::fs;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use lictor_supervisor::{
    Config, Farewell, Gate, Handover, Lifetime, Policy, Replacement, Spec, Standing, State, Status, Supervisor,
};
use lictor_task::Scope;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

const IDS: [&str; 3] = ["a", "b", "c"];
const MANY: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
const MS: Duration = Duration::from_millis(1);
const DEADLINE: Duration = Duration::from_secs(20);

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("supervise") => supervise(Path::new(&arguments[2]), &arguments[3]),
        Some("report") => report(&arguments[2], arguments.get(3).map_or("", String::as_str)),
        // What a test harness would be asked.
        Some("--list") => println!("crash: test"),
        _ => {
            a_supervisor_killed_fifty_times_leaves_one_instance_of_each_and_no_orphan();
            println!("test a_supervisor_killed_fifty_times_leaves_one_instance_of_each_and_no_orphan ... ok");
            readiness_is_heard_and_survives_a_killed_supervisor();
            println!("test readiness_is_heard_and_survives_a_killed_supervisor ... ok");
            the_processes_of_a_killed_ephemeral_supervisor_die_with_it();
            println!("test the_processes_of_a_killed_ephemeral_supervisor_die_with_it ... ok");
            a_supervisor_killed_in_the_middle_of_recording_a_handover_costs_no_process_that_serves();
            println!(
                "test a_supervisor_killed_in_the_middle_of_recording_a_handover_costs_no_process_that_serves ... ok"
            );
            a_successor_that_cannot_be_recorded_is_not_started_and_what_runs_goes_on();
            println!("test a_successor_that_cannot_be_recorded_is_not_started_and_what_runs_goes_on ... ok");
            a_handover_that_cannot_be_recorded_is_known_to_the_next_supervisor();
            println!("test a_handover_that_cannot_be_recorded_is_known_to_the_next_supervisor ... ok");
            a_process_without_a_record_is_found_beside_a_recorded_one_of_its_id();
            println!("test a_process_without_a_record_is_found_beside_a_recorded_one_of_its_id ... ok");
            sockets_are_kept_only_for_programs_that_hand_over();
            println!("test sockets_are_kept_only_for_programs_that_hand_over ... ok");
            a_successor_whose_predecessor_dies_before_it_is_there_is_recorded_as_what_runs();
            println!("test a_successor_whose_predecessor_dies_before_it_is_there_is_recorded_as_what_runs ... ok");
            sockets_outlive_a_process_and_a_successor_that_end_in_the_middle_of_a_handover();
            println!("test sockets_outlive_a_process_and_a_successor_that_end_in_the_middle_of_a_handover ... ok");
            an_adopted_process_may_send_its_sockets_as_late_as_its_reminder();
            println!("test an_adopted_process_may_send_its_sockets_as_late_as_its_reminder ... ok");
            a_supervisor_out_of_descriptors_starts_nothing_beside_what_runs();
            println!("test a_supervisor_out_of_descriptors_starts_nothing_beside_what_runs ... ok");
        }
    }
}

/// Plays the supervisor: wants each of [`IDS`] that `seed` picks, some with a definition that differs from the last.
fn supervise(home: &Path, seed: &str) -> ! {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if seed == "starved" {
        runtime.block_on(starve(home));
    }
    runtime.block_on(async {
        let lifetime = if seed == "ephemeral" { Lifetime::Ephemeral } else { Lifetime::Persistent };
        let supervisor = open(home, lifetime);
        match seed {
            "report" => supervisor.want(reporter(home)),
            "ephemeral" => supervisor.want(holder(home, "a", 0)),
            "all" => MANY.iter().for_each(|id| supervisor.want(holder(home, id, 0))),
            _ => {
                let mut random = fastrand::Rng::with_seed(seed.parse().unwrap());
                for id in IDS {
                    if random.u8(0..4) > 0 {
                        supervisor.want(holder(home, id, random.u8(0..2)));
                    }
                }
            }
        }
        supervisor.settled();
        std::future::pending::<()>().await;
    });
    unreachable!()
}

/// Plays a supervisor that begins with too few descriptors for what runs, and gets more later. What it tells is told by folders:
/// they need no descriptor.
async fn starve(home: &Path) -> ! {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let before = getrlimit(Resource::Nofile);
    let used = fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    // Two for lock and socket, one for the first process, and one to look at it.
    setrlimit(Resource::Nofile, Rlimit { current: Some(used + 4), ..before }).unwrap();
    let supervisor = open(home, Lifetime::Persistent);
    MANY.iter().for_each(|id| supervisor.want(holder(home, id, 0)));
    supervisor.settled();
    let mut statuses = supervisor.statuses();
    let in_doubt = |status: &Status| status.state == State::Failed && status.refused.is_some();
    let _ = statuses.wait_for(|all| all.len() == MANY.len() && all.values().any(in_doubt)).await;
    fs::create_dir(home.join("starved")).unwrap();
    while !home.join("relief").is_dir() {
        tokio::time::sleep(5 * MS).await;
    }
    setrlimit(Resource::Nofile, before).unwrap();
    let is_adopted = |status: &Status| status.state == State::Running && status.adopted && status.refused.is_none();
    let _ = statuses.wait_for(|all| all.len() == MANY.len() && all.values().all(is_adopted)).await;
    fs::create_dir(home.join("adopted")).unwrap();
    std::future::pending().await
}

/// Plays a process that tells in two steps that it is ready, and listens when it is one that does.
fn report(done: &str, kind: &str) {
    let socket = UnixDatagram::unbound().unwrap();
    let path = std::env::var("NOTIFY_SOCKET").unwrap();
    if kind == "never ready" {
        std::thread::sleep(Duration::from_secs(1000));
    }
    let listener = kind.starts_with("listens").then(|| TcpListener::bind("127.0.0.1:0").unwrap());
    let offer = |listener: &TcpListener| {
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let sent = [listener.as_fd()];
        control.push(SendAncillaryMessage::ScmRights(&sent));
        let address = rustix::net::SocketAddrUnix::new(path.as_str()).unwrap();
        let message = [std::io::IoSlice::new(b"FDSTORE=1\nFDNAME=a")];
        rustix::net::sendmsg_addr(&socket, &address, &message, &mut control, SendFlags::empty()).unwrap();
    };
    listener.iter().for_each(offer);
    socket.send_to(b"STATUS=warming up\nX_LICTOR_PORT=21000\nMAINPID=1", &path).unwrap();
    socket.send_to(b"READY=1", &path).unwrap();
    fs::write(done, "reported").unwrap();
    if kind == "listens and reminds" {
        // As seldom as a proxy that has not noticed that its agent is another one.
        std::thread::sleep(Duration::from_secs(10));
        listener.iter().for_each(offer);
        socket.send_to(b"STATUS=reminding\nREADY=1", &path).unwrap();
    }
    std::thread::sleep(Duration::from_secs(1000));
}

fn open(home: &Path, lifetime: Lifetime) -> Supervisor {
    let config = Config { directory: home.join("house"), lifetime, gate: Gate::Open, open_directory: None };
    Supervisor::open(config, &Scope::new("test")).unwrap()
}

fn spec(home: &Path, id: &str, program: &str, args: &[&str]) -> Spec {
    Spec {
        id: id.into(),
        program: program.into(),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        ambient: [("PATH".to_owned(), "/usr/bin:/bin".to_owned())].into(),
        stderr: Some(home.join("stderr")),
        policy: Policy { first_wait: 50 * MS, grace: 500 * MS, ..Policy::default() },
        ..Spec::default()
    }
}

/// A process that notices when it is not the only one of its id.
fn holder(home: &Path, id: &str, variant: u8) -> Spec {
    let script =
        "exec 9>>\"$LOCK\"; flock -n 9 || { echo \"two of $LOCK\" >> \"$VIOLATIONS\"; exit 1; }; exec sleep 1000";
    let mut spec = spec(home, id, "/bin/sh", &["-c", script]);
    // Both kinds, among them one that becomes the other.
    spec.standing = if variant.is_multiple_of(2) { Standing::Session } else { Standing::Group };
    let path = |name: &str| home.join(name).to_str().unwrap().to_owned();
    spec.environment = [
        ("LOCK".to_owned(), path(&format!("{id}.lock"))),
        ("VIOLATIONS".to_owned(), path("violations")),
        ("VARIANT".to_owned(), variant.to_string()),
    ]
    .into();
    spec
}

fn reporter(home: &Path) -> Spec {
    let this = std::env::current_exe().unwrap();
    spec(home, "p", this.to_str().unwrap(), &["report", home.join("done").to_str().unwrap()])
}

/// A process that can hand over, and goes on when it has.
fn heir(home: &Path, kind: &str) -> Spec {
    let (this, done) = (std::env::current_exe().unwrap(), home.join("done"));
    let script = "trap '' USR2; exec \"$0\" report \"$1\" \"$2\"";
    let args = ["-c", script, this.to_str().unwrap(), done.to_str().unwrap(), kind];
    let replacement = Replacement::HandOver { drain: Duration::from_secs(600) };
    Spec { replacement, ..spec(home, "p", "/bin/sh", &args) }
}

/// A private directory; what still runs from it dies with it.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Home {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
        Home(directory)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn supervise(&self, seed: &str) -> Supervising {
        let this = std::env::current_exe().unwrap();
        Supervising(Command::new(this).arg("supervise").arg(self.path()).arg(seed).spawn().unwrap())
    }

    /// The ids of the instances that run: what they start (`flock`, for a moment) does not count.
    fn instances(&self) -> Vec<String> {
        self.living().into_iter().filter(|(_, pid)| leads(*pid)).map(|(id, _)| id).collect()
    }

    /// The living processes that were started from here, with their ids.
    fn living(&self) -> Vec<(String, i32)> {
        let socket = format!("NOTIFY_SOCKET={}", self.path().canonicalize().unwrap().display());
        let mut living = Vec::new();
        for entry in fs::read_dir("/proc").unwrap() {
            let name = entry.unwrap().file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let environment = String::from_utf8_lossy(&environment).into_owned();
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let dead = stat.rsplit(") ").next().is_none_or(|rest| rest.starts_with('Z') || rest.is_empty());
            if environment.contains(&socket) && !dead {
                let mark = environment.split('\0').find_map(|entry| entry.strip_prefix("LICTOR_SUPERVISED="));
                let id = mark.unwrap().rsplit('/').next().unwrap().to_owned();
                living.push((id, pid));
            }
        }
        living.sort();
        living
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        for (_, pid) in self.living() {
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

/// Whether a process leads a process group.
fn leads(pid: i32) -> bool {
    let group = rustix::process::getpgid(rustix::process::Pid::from_raw(pid));
    group.is_ok_and(|group| group.as_raw_nonzero().get() == pid)
}

fn eventually(what: &str, mut look: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !look() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(5 * MS);
    }
}

/// A supervisor in a process of its own, killed when it is dropped, also when a test fails.
struct Supervising(Child);

impl Drop for Supervising {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn kill(supervising: Supervising) {
    drop(supervising);
}

fn a_supervisor_killed_fifty_times_leaves_one_instance_of_each_and_no_orphan() {
    let home = Home::new();
    for round in 0..50u64 {
        let seed = fastrand::u64(..);
        let child = home.supervise(&seed.to_string());
        // From before it has opened its directory to after everything runs.
        std::thread::sleep(Duration::from_micros(fastrand::u64(0..60_000)));
        kill(child);
        let violations = fs::read_to_string(home.path().join("violations")).unwrap_or_default();
        assert!(violations.is_empty(), "round {round}, seed {seed}: {violations}");
        let mut ids = home.instances();
        let all = ids.len();
        ids.dedup();
        assert_eq!(ids.len(), all, "round {round}, seed {seed}: {:?}", home.living());
    }
    // The last one wants two of the three; nothing else may be left, and nothing at all in the end.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let supervisor = open(home.path(), Lifetime::Persistent);
        for id in ["a", "b"] {
            supervisor.want(holder(home.path(), id, 0));
        }
        supervisor.settled();
        let mut statuses = supervisor.statuses();
        let settled = statuses.wait_for(|all| {
            all.len() == 2 && ["a", "b"].iter().all(|id| all.get(*id).is_some_and(|s| s.state == State::Running))
        });
        tokio::time::timeout(DEADLINE, settled).await.unwrap().unwrap();
        assert_eq!(home.instances(), ["a", "b"]);
        supervisor.shutdown(Farewell::StopAll).await;
    });
    assert_eq!(home.living(), []);
    assert!(!home.path().join("violations").exists());
}

fn readiness_is_heard_and_survives_a_killed_supervisor() {
    let home = Home::new();
    let first = home.supervise("report");
    eventually("the report", || home.path().join("done").exists());
    let record = home.path().join("house/processes/p.json");
    eventually("the record of it", || fs::read_to_string(&record).unwrap_or_default().contains("\"ready\":true"));
    kill(first);
    let before = home.living();
    assert_eq!(before.len(), 1);

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let supervisor = open(home.path(), Lifetime::Persistent);
        supervisor.want(reporter(home.path()));
        supervisor.settled();
        let mut statuses = supervisor.statuses();
        let adopted = |s: &lictor_supervisor::Status| s.state == State::Ready && s.adopted;
        tokio::time::timeout(DEADLINE, statuses.wait_for(|all| all.get("p").is_some_and(adopted)))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(home.living(), before);
        // A new one has to say it again, and what it says arrives here.
        assert!(supervisor.restart("p"));
        let fresh = |s: &lictor_supervisor::Status| s.state == State::Ready && !s.adopted;
        let all = tokio::time::timeout(DEADLINE, statuses.wait_for(|all| all.get("p").is_some_and(fresh)));
        let status = all.await.unwrap().unwrap().get("p").unwrap().clone();
        assert_eq!(status.text, "warming up");
        assert_eq!(status.fields.get("X_LICTOR_PORT").map(String::as_str), Some("21000"));
        assert_ne!(home.living(), before);
        supervisor.shutdown(Farewell::StopAll).await;
    });
    assert_eq!(home.living(), []);
}

fn the_processes_of_a_killed_ephemeral_supervisor_die_with_it() {
    let home = Home::new();
    let supervisor = home.supervise("ephemeral");
    eventually("its process", || home.living().len() == 1);
    kill(supervisor);
    eventually("its end", || home.living().is_empty());
}

fn in_a_runtime(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

/// Waits until `p` is as expected.
async fn status(supervisor: &Supervisor, what: impl Fn(&Status) -> bool) -> Status {
    let mut statuses = supervisor.statuses();
    let wait = statuses.wait_for(|all| all.get("p").is_some_and(&what));
    match tokio::time::timeout(2 * DEADLINE, wait).await {
        Ok(all) => all.unwrap().get("p").unwrap().clone(),
        Err(_) => panic!("waited in vain, it is {:?}", supervisor.statuses().borrow().get("p")),
    }
}

async fn ready(supervisor: &Supervisor) -> i32 {
    let status = status(supervisor, |status| status.state == State::Ready).await;
    i32::try_from(status.pid.unwrap()).unwrap()
}

fn drains(status: &Status, pid: i32) -> bool {
    status.draining.iter().any(|old| i32::try_from(old.pid) == Ok(pid))
}

fn is(status: &Status, pid: i32) -> bool {
    status.pid.is_some_and(|present| i32::try_from(present) == Ok(pid))
}

fn a_supervisor_killed_in_the_middle_of_recording_a_handover_costs_no_process_that_serves() {
    let home = Home::new();
    let file = |name: &str| home.path().join("house/processes").join(name);
    in_a_runtime(async {
        let supervisor = open(home.path(), Lifetime::Persistent);
        supervisor.want(heir(home.path(), "listens"));
        let pid = ready(&supervisor).await;
        eventually("the record of it", || fs::read_to_string(file("p.json")).unwrap().contains("\"ready\":true"));
        supervisor.shutdown(Farewell::Leave).await;
        drop(supervisor);
        // It was recorded as what runs, and its record as a successor was not removed any more.
        let record = fs::read_to_string(file("p.json")).unwrap();
        let next = record.replace("\"role\":\"current\"", "\"role\":\"successor\"");
        assert_ne!(record, next);
        fs::write(file("p~next.json"), next).unwrap();
        let supervisor = open(home.path(), Lifetime::Persistent);
        assert!(!file("p~next.json").exists());
        supervisor.want(heir(home.path(), "listens"));
        supervisor.settled();
        let status = status(&supervisor, |status| status.state == State::Ready).await;
        assert!(is(&status, pid) && status.adopted && status.draining.is_empty(), "{status:?}");
        assert_eq!(supervisor.id_of_process(pid).as_deref(), Some("p"), "it is heard");
        supervisor.shutdown(Farewell::StopAll).await;
    });
    assert_eq!(home.living(), []);
}

fn a_successor_that_cannot_be_recorded_is_not_started_and_what_runs_goes_on() {
    let home = Home::new();
    in_a_runtime(async {
        let supervisor = open(home.path(), Lifetime::Persistent);
        supervisor.want(heir(home.path(), "listens"));
        let pid = ready(&supervisor).await;
        // No file can be made there any more, as on a full disk.
        fs::create_dir(home.path().join("house/processes/p~next.tmp")).unwrap();
        assert!(supervisor.restart("p"));
        let failed = |status: &Status| matches!(&status.handover, Handover::Failed { .. });
        let status = status(&supervisor, failed).await;
        let Handover::Failed { cause, .. } = &status.handover else { unreachable!() };
        assert!(cause.contains("cannot write the record") && cause.contains("p~next.json"), "{cause}");
        assert!(is(&status, pid) && status.state == State::Ready, "{status:?}");
        assert_eq!(home.living(), [("p".to_owned(), pid)]);
        fs::remove_dir(home.path().join("house/processes/p~next.tmp")).unwrap();
        supervisor.shutdown(Farewell::StopAll).await;
    });
    assert_eq!(home.living(), []);
}

fn a_handover_that_cannot_be_recorded_is_known_to_the_next_supervisor() {
    let home = Home::new();
    let file = |name: &str| home.path().join("house/processes").join(name);
    in_a_runtime(async {
        let supervisor = open(home.path(), Lifetime::Persistent);
        supervisor.want(heir(home.path(), "listens"));
        let old = ready(&supervisor).await;
        fs::create_dir(file("p.tmp")).unwrap();
        assert!(supervisor.restart("p"));
        let status_after = status(&supervisor, |status| drains(status, old)).await;
        let new = i32::try_from(status_after.pid.unwrap()).unwrap();
        assert!(!file("p.json").exists(), "it would say that the old one is what runs");
        supervisor.shutdown(Farewell::Leave).await;
        drop(supervisor);
        fs::remove_dir(file("p.tmp")).unwrap();

        let supervisor = open(home.path(), Lifetime::Persistent);
        supervisor.want(heir(home.path(), "listens"));
        supervisor.settled();
        let status = status(&supervisor, |status| status.state == State::Ready).await;
        assert!(is(&status, new) && status.adopted && drains(&status, old), "{status:?}");
        assert!(file("p.json").exists() && !file("p~next.json").exists());
        supervisor.shutdown(Farewell::StopAll).await;
    });
    assert_eq!(home.living(), []);
}

fn a_process_without_a_record_is_found_beside_a_recorded_one_of_its_id() {
    for (kind_of_old, kind_of_new) in [("quiet", "listens"), ("listens", "quiet"), ("listens", "listens as well")] {
        let home = Home::new();
        let folder = home.path().join("house/processes");
        in_a_runtime(async {
            let supervisor = open(home.path(), Lifetime::Persistent);
            supervisor.want(heir(home.path(), kind_of_old));
            let old = ready(&supervisor).await;
            let record = fs::read(folder.join("p.json")).unwrap();
            supervisor.want(heir(home.path(), kind_of_new));
            let status_after = status(&supervisor, |status| drains(status, old)).await;
            let new = i32::try_from(status_after.pid.unwrap()).unwrap();
            supervisor.shutdown(Farewell::Leave).await;
            drop(supervisor);
            // Nothing of the handover was recorded.
            for entry in fs::read_dir(&folder).unwrap() {
                fs::remove_file(entry.unwrap().path()).unwrap();
            }
            fs::write(folder.join("p.json"), record).unwrap();

            let supervisor = open(home.path(), Lifetime::Persistent);
            match (kind_of_old, kind_of_new) {
                ("quiet", _) => drop(status(&supervisor, |status| is(status, new) && drains(status, old)).await),
                (_, "quiet") => drop(status(&supervisor, |status| is(status, old) && drains(status, new)).await),
                _ => {
                    status(&supervisor, |status| is(status, old) && status.draining.is_empty()).await;
                    assert_eq!(home.living(), [("p".to_owned(), old)]);
                }
            }
            supervisor.shutdown(Farewell::StopAll).await;
        });
        assert_eq!(home.living(), []);
    }
}

fn sockets_are_kept_only_for_programs_that_hand_over() {
    /// The sockets of a process.
    fn sockets(pid: &str) -> std::collections::BTreeSet<String> {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        let targets = descriptors.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
        targets.map(|target| target.display().to_string()).filter(|target| target.starts_with("socket:")).collect()
    }
    let home = Home::new();
    let handing_over = heir(home.path(), "listens");
    for (spec, is_kept) in
        [(Spec { replacement: Replacement::StopThenStart, ..handing_over.clone() }, false), (handing_over, true)]
    {
        in_a_runtime(async {
            let supervisor = open(home.path(), Lifetime::Persistent);
            supervisor.want(spec);
            let pid = ready(&supervisor).await;
            let shared = || sockets("self").intersection(&sockets(&pid.to_string())).count();
            // What is not kept is closed a moment later.
            eventually("the socket", || (shared() > 0) == is_kept);
            supervisor.shutdown(Farewell::StopAll).await;
        });
    }
    assert_eq!(home.living(), []);
}

fn a_successor_whose_predecessor_dies_before_it_is_there_is_recorded_as_what_runs() {
    let home = Home::new();
    let file = |name: &str| home.path().join("house/processes").join(name);
    let pid_file = home.path().join("p.pid");
    // It leaves no sockets, so that its successor waits for some.
    let spec = || Spec { pid_file: Some(pid_file.clone()), ..heir(home.path(), "quiet") };
    in_a_runtime(async {
        let supervisor = open(home.path(), Lifetime::Persistent);
        supervisor.want(spec());
        let old = ready(&supervisor).await;
        eventually("the record of it", || fs::read_to_string(file("p.json")).unwrap().contains("\"ready\":true"));
        supervisor.shutdown(Farewell::Leave).await;
        drop(supervisor);
        let supervisor = open(home.path(), Lifetime::Persistent);
        supervisor.want(spec());
        supervisor.settled();
        status(&supervisor, |status| is(status, old) && status.state == State::Ready).await;
        assert!(supervisor.restart("p"));
        status(&supervisor, |status| matches!(status.handover, Handover::UnderWay { pid: None })).await;
        let begin = Instant::now();
        let gone = rustix::process::Pid::from_raw(old).unwrap();
        rustix::process::kill_process(gone, rustix::process::Signal::KILL).unwrap();
        let status_after = status(&supervisor, |status| status.state == State::Ready && !is(status, old)).await;
        assert!(begin.elapsed() < 10 * Duration::from_secs(1), "it does not wait for sockets that nobody has any more");
        let new = i32::try_from(status_after.pid.unwrap()).unwrap();
        let record = || fs::read_to_string(file("p.json")).unwrap_or_default();
        eventually("its record", || record().contains(&format!("\"pid\":{new},")) && !file("p~next.json").exists());
        assert!(record().contains("\"role\":\"current\""), "{}", record());
        assert_eq!(fs::read_to_string(&pid_file).unwrap(), format!("{new}\n"));
        // A handover that fails from here on does not touch it.
        supervisor.want(Spec { program: "/nonexistent".into(), ..spec() });
        status(&supervisor, |status| matches!(status.handover, Handover::Failed { .. })).await;
        assert!(record().contains(&format!("\"pid\":{new},")) && pid_file.exists());
        supervisor.shutdown(Farewell::StopAll).await;
    });
    assert_eq!(home.living(), []);
}

fn sockets_outlive_a_process_and_a_successor_that_end_in_the_middle_of_a_handover() {
    let home = Home::new();
    let end = |pid: i32| {
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    };
    in_a_runtime(async {
        let supervisor = open(home.path(), Lifetime::Persistent);
        supervisor.want(heir(home.path(), "listens"));
        let first = ready(&supervisor).await;
        supervisor.want(heir(home.path(), "never ready"));
        status(&supervisor, |status| matches!(status.handover, Handover::UnderWay { pid: Some(_) })).await;
        end(first);
        let promoted = status(&supervisor, |status| status.state == State::Running && !is(status, first)).await;
        let second = i32::try_from(promoted.pid.unwrap()).unwrap();
        end(second);
        let runs = |status: &Status| status.pid.is_some() && !is(status, first) && !is(status, second);
        let third = status(&supervisor, runs).await.pid.unwrap();
        // It has a number before it is the program that it becomes, and until then our environment.
        let environment = || fs::read(format!("/proc/{third}/environ")).unwrap();
        eventually("it has inherited them", || String::from_utf8_lossy(&environment()).contains("LICTOR_SOCKETS="));
        supervisor.shutdown(Farewell::StopAll).await;
    });
    assert_eq!(home.living(), []);
}

fn an_adopted_process_may_send_its_sockets_as_late_as_its_reminder() {
    let home = Home::new();
    in_a_runtime(async {
        let supervisor = open(home.path(), Lifetime::Persistent);
        supervisor.want(heir(home.path(), "listens and reminds"));
        let old = ready(&supervisor).await;
        let record = home.path().join("house/processes/p.json");
        eventually("the record of it", || fs::read_to_string(&record).unwrap().contains("\"ready\":true"));
        supervisor.shutdown(Farewell::Leave).await;
        drop(supervisor);
        let supervisor = open(home.path(), Lifetime::Persistent);
        supervisor.want(heir(home.path(), "listens and reminds"));
        supervisor.settled();
        let adopted = status(&supervisor, |status| is(status, old) && status.state == State::Ready).await;
        assert!(adopted.unheard_since_unix_ms.is_some(), "{adopted:?}");
        assert!(supervisor.restart("p"));
        let status_after = status(&supervisor, |status| drains(status, old)).await;
        assert!(status_after.unheard_since_unix_ms.is_none(), "{status_after:?}");
        let environment = fs::read(format!("/proc/{}/environ", status_after.pid.unwrap())).unwrap();
        assert!(String::from_utf8_lossy(&environment).contains("LICTOR_SOCKETS="), "it has inherited them");
        supervisor.shutdown(Farewell::StopAll).await;
    });
    assert_eq!(home.living(), []);
}

fn a_supervisor_out_of_descriptors_starts_nothing_beside_what_runs() {
    let home = Home::new();
    let records = || -> Vec<_> {
        let entries = fs::read_dir(home.path().join("house/processes")).unwrap();
        entries
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e == "json"))
            .collect()
    };
    let first = home.supervise("all");
    eventually("all of them", || home.instances() == MANY && records().len() == MANY.len());
    let before = || home.living().into_iter().filter(|(_, pid)| leads(*pid)).collect::<Vec<_>>();
    kill(first);
    let ran = before();
    let starved = home.supervise("starved");
    eventually("that it is starved", || home.path().join("starved").is_dir());
    assert_eq!(records().len(), MANY.len(), "what may run is not forgotten");
    fs::create_dir(home.path().join("relief")).unwrap();
    eventually("all of them adopted", || home.path().join("adopted").is_dir());
    let violations = fs::read_to_string(home.path().join("violations")).unwrap_or_default();
    assert!(violations.is_empty(), "{violations}");
    assert_eq!(before(), ran);
    kill(starved);
}
