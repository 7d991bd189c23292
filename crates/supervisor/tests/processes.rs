//! What happens to real processes: started, watched, stopped, adopted, and never anybody else's.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may fail; a skipped one must be seen")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lictor_supervisor::{
    Calls, Config, Error, Exit, Farewell, Gain, Gate, Lifetime, Limits, Policy, Privileges, Spec, Standing, State,
    Status, Supervisor, User,
};
use lictor_task::Scope;
use rustix::process::{Pid, Signal};

const DEADLINE: Duration = Duration::from_secs(20);
const MS: Duration = Duration::from_millis(1);

/// The constants of the original at a tenth.
fn policy() -> Policy {
    Policy {
        free_attempts: 3,
        first_wait: 200 * MS,
        longest_wait: 6000 * MS,
        healthy_after: 1000 * MS,
        grace: 500 * MS,
        handover: 3000 * MS,
    }
}

/// A directory with the processes started from it; whatever is left of them dies with it, also when a test fails.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Home {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
        Home(directory)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    async fn wait_for_file(&self, name: &str, what: impl Fn(&str) -> bool) -> String {
        eventually(&format!("{name} as expected"), || Some(self.read(name)).filter(|text| what(text))).await
    }

    fn open(&self, lifetime: Lifetime) -> Supervisor {
        self.try_open(lifetime, Gate::Open).unwrap()
    }

    fn try_open(&self, lifetime: Lifetime, gate: Gate) -> Result<Supervisor, Error> {
        let config = Config { directory: self.path("house"), lifetime, gate, open_directory: None };
        Supervisor::open(config, &Scope::new("test"))
    }

    /// A shell script in the directory, with `$HOME` as the directory.
    fn script(&self, id: &str, script: &str) -> Spec {
        let home = self.0.path().to_str().unwrap().to_owned();
        Spec {
            id: id.into(),
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            environment: [("HOME".to_owned(), home)].into(),
            ambient: [("PATH".to_owned(), "/usr/bin:/bin".to_owned())].into(),
            stdout: Some(self.path("logs").join(format!("{id}-stdout.log"))),
            stderr: Some(self.path("logs").join(format!("{id}-stderr.log"))),
            policy: policy(),
            ..Spec::default()
        }
    }

    fn living(&self) -> Vec<i32> {
        let mark = format!("NOTIFY_SOCKET={}", self.0.path().canonicalize().unwrap().to_str().unwrap());
        processes().filter(|pid| environment(*pid).contains(&mark) && !is_dead(*pid)).collect()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // Again, because a process may have forked since it was looked at.
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline && !self.living().is_empty() {
            for pid in self.living() {
                let _ = rustix::process::kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
            }
        }
    }
}

fn processes() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

fn environment(pid: i32) -> String {
    String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/environ")).unwrap_or_default()).into_owned()
}

/// Gone, or a zombie.
fn is_dead(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_none_or(|rest| rest.trim().is_empty() || rest.trim().starts_with(['Z', 'X']))
}

async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(5 * MS).await;
    }
}

async fn status(supervisor: &Supervisor, id: &str, what: impl Fn(&Status) -> bool) -> Status {
    let mut statuses = supervisor.statuses();
    let wait = statuses.wait_for(|all: &Arc<BTreeMap<String, Status>>| all.get(id).is_some_and(&what));
    match tokio::time::timeout(DEADLINE, wait).await {
        Ok(all) => all.unwrap().get(id).unwrap().clone(),
        Err(_) => panic!("waited in vain, {id} is {:?}", supervisor.statuses().borrow().get(id)),
    }
}

async fn running(supervisor: &Supervisor, id: &str) -> i32 {
    let status = status(supervisor, id, |status| status.state == State::Running).await;
    i32::try_from(status.pid.unwrap()).unwrap()
}

fn kill(pid: i32) {
    rustix::process::kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

#[tokio::test]
async fn a_process_gets_a_session_of_its_own_null_as_input_its_log_files_and_exactly_its_environment() {
    let home = Home::new();
    let supervisor = home.open(Lifetime::Ephemeral);
    let script = "echo out; echo err >&2; cat /proc/$$/stat > $HOME/stat; \
                  tr '\\0' '\\n' < /proc/$$/environ > $HOME/env; echo done > $HOME/done; exec sleep 1000";
    supervisor.want(Spec {
        environment: [("HOME".to_owned(), home.0.path().to_str().unwrap().to_owned()), ("A".into(), "b c".into())]
            .into(),
        pid_file: Some(home.path("pids/p.pid")),
        ..home.script("p", script)
    });
    let pid = running(&supervisor, "p").await;
    home.wait_for_file("done", |text| text == "done\n").await;

    let stat = home.read("stat");
    let fields: Vec<&str> = stat.split_whitespace().collect();
    assert_eq!(fields[3], std::process::id().to_string(), "its parent is the supervisor");
    assert_eq!((fields[4], fields[5]), (pid.to_string().as_str(), pid.to_string().as_str()), "its group and session");
    eventually("sleep", || fs::read_link(format!("/proc/{pid}/exe")).ok()?.ends_with("sleep").then_some(())).await;
    let mut fds: Vec<(String, PathBuf)> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read_link(entry.path()).unwrap()))
        .collect();
    fds.sort();
    let log = |end: &str| home.path("logs").join(format!("p-{end}.log"));
    let expected = [("0".to_owned(), "/dev/null".into()), ("1".into(), log("stdout")), ("2".into(), log("stderr"))];
    assert_eq!(fds, expected, "and nothing else is inherited");
    let env = home.read("env");
    let mut names: Vec<&str> = env.lines().filter_map(|line| line.split('=').next()).collect();
    names.sort_unstable();
    assert_eq!(names, ["A", "HOME", "LICTOR_SUPERVISED", "NOTIFY_SOCKET", "PATH"]);
    assert!(env.contains("A=b c\n"));
    assert_eq!(home.read("logs/p-stdout.log"), "out\n");
    assert_eq!(home.read("logs/p-stderr.log"), "err\n");
    assert_eq!(fs::metadata(log("stdout")).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(home.path("logs")).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(home.read("pids/p.pid"), format!("{pid}\n"));

    supervisor.unwant("p").await;
    assert!(is_dead(pid));
    assert!(!home.path("pids/p.pid").exists());
    assert!(supervisor.statuses().borrow().is_empty());
}

/// The process group and the session of a process.
fn group_and_session(pid: i32) -> (i32, i32) {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    (fields[2].parse().unwrap(), fields[3].parse().unwrap())
}

#[tokio::test]
async fn a_process_may_stay_in_our_session_and_is_adopted_and_ended_with_its_group_all_the_same() {
    let home = Home::new();
    let supervisor = home.open(Lifetime::Persistent);
    // The one that it starts ignores what asks it to stop.
    let script = "(trap '' INT; echo $$ > $HOME/ready; exec sleep 1000) & wait";
    let spec = Spec { standing: Standing::Group, ..home.script("p", script) };
    supervisor.want(spec.clone());
    let pid = running(&supervisor, "p").await;
    home.wait_for_file("ready", |text| !text.is_empty()).await;
    let (_, ours) = group_and_session(i32::try_from(std::process::id()).unwrap());
    assert_eq!(group_and_session(pid), (pid, ours));

    supervisor.shutdown(Farewell::Leave).await;
    drop(supervisor);
    let supervisor = home.open(Lifetime::Persistent);
    supervisor.want(spec.clone());
    supervisor.settled();
    let adopted = status(&supervisor, "p", |status| status.pid.is_some()).await;
    assert!(adopted.adopted && adopted.pid == u32::try_from(pid).ok(), "{adopted:?}");
    supervisor.shutdown(Farewell::Leave).await;
    drop(supervisor);

    // It is found by what it was started with, too.
    fs::remove_file(home.path("house/processes/p.json")).unwrap();
    let supervisor = home.open(Lifetime::Persistent);
    supervisor.want(spec);
    supervisor.settled();
    let found = status(&supervisor, "p", |status| status.pid.is_some()).await;
    assert_eq!(found.pid, u32::try_from(pid).ok(), "{found:?}");
    supervisor.shutdown(Farewell::StopAll).await;
    eventually("the whole group to be gone", || home.living().is_empty().then_some(())).await;
}

#[tokio::test]
async fn a_program_that_exits_at_once_is_restarted_with_growing_waits() {
    let home = Home::new();
    let supervisor = home.open(Lifetime::Ephemeral);
    supervisor.want(home.script("p", "date +%s%N >> $HOME/starts; exit 3"));
    let starts = home.wait_for_file("starts", |text| text.lines().count() >= 6).await;
    let starts: Vec<i64> = starts.lines().map(|line| line.parse::<i64>().unwrap() / 1_000_000).collect();
    let since: Vec<i64> = starts.iter().map(|at| at - starts[0]).collect();
    // At a tenth of the original's 0, 0, 0, 2, 6, 14 s; waits after the first may be shorter by a tenth, and each start
    // costs a moment, on a busy machine a long one. That nothing is waited for longer is shown by the table's own tests.
    for (at, (earliest, latest)) in
        since.iter().zip([(0, 0), (0, 2000), (0, 4000), (200, 6000), (560, 8000), (1280, 10_000)])
    {
        assert!((earliest..=latest).contains(at), "{since:?}");
    }
    let status = status(&supervisor, "p", |status| status.state == State::BackingOff).await;
    assert_eq!(status.last_exit.as_ref().unwrap().exit, Exit::Code(3));
    assert_eq!(status.trouble().unwrap(), "exited with code 3");
    assert!(status.next_try_unix_ms.unwrap() > status.last_exit.unwrap().at_unix_ms);

    // A wait is over at once when the process is not wanted any more.
    let asked = Instant::now();
    supervisor.unwant("p").await;
    assert!(asked.elapsed() < 1000 * MS);
}

#[tokio::test]
async fn after_a_healthy_run_earlier_crashes_are_forgotten() {
    let home = Home::new();
    let supervisor = home.open(Lifetime::Ephemeral);
    // Four crashes, then one run past the healthy period, then crashes again.
    let script = "echo x >> $HOME/runs; n=$(wc -l < $HOME/runs); if [ $n = 5 ]; then sleep 1.2; fi; exit 1";
    supervisor.want(home.script("p", script));
    home.wait_for_file("runs", |text| text.lines().count() >= 5).await;
    let fifth = Instant::now();
    home.wait_for_file("runs", |text| text.lines().count() >= 8).await;
    // Without the reset the next three starts would wait another 0.8, 1.6 and 3.2 s.
    assert!(fifth.elapsed() < 4500 * MS, "{:?}", fifth.elapsed());
}

#[tokio::test]
async fn processes_that_ignore_the_request_are_all_dead_within_the_grace_period_and_a_second() {
    let home = Home::new();
    let supervisor = home.open(Lifetime::Ephemeral);
    let script = "trap '' INT TERM; touch $HOME/$0; while :; do sleep 1000; done";
    for id in ["a", "b", "c"] {
        let mut spec = home.script(id, script);
        spec.args.push(id.into());
        supervisor.want(spec);
    }
    for id in ["a", "b", "c"] {
        home.wait_for_file(id, |_| true).await;
        eventually("trap", || home.path(id).exists().then_some(())).await;
    }
    let living = home.living();
    assert!(living.len() >= 3);
    let asked = Instant::now();
    let gone = ["a", "b", "c"].map(|id| supervisor.unwant(id));
    for gone in gone {
        gone.await;
    }
    assert!(asked.elapsed() >= 500 * MS, "they had their grace");
    assert!(asked.elapsed() < 1500 * MS, "{:?}", asked.elapsed());
    assert!(living.iter().all(|pid| is_dead(*pid)));
}

#[tokio::test]
async fn nothing_a_wrapper_started_survives_it() {
    let home = Home::new();
    let supervisor = home.open(Lifetime::Ephemeral);
    // One child in the group of the wrapper, one (job control) in a group of its own that ignores the request.
    let script = "sleep 1001 & set -m; sh -c 'trap \"\" INT; sleep 1002' & touch $HOME/up; wait";
    supervisor.want(home.script("p", script));
    eventually("children", || (home.path("up").exists() && home.living().len() >= 4).then_some(())).await;
    supervisor.unwant("p").await;
    assert_eq!(home.living(), Vec::<i32>::new());
}

#[tokio::test]
async fn what_a_crashed_wrapper_leaves_behind_is_gone_before_its_successor_starts() {
    let home = Home::new();
    let supervisor = home.open(Lifetime::Ephemeral);
    supervisor.want(home.script("p", "sh -c 'trap \"\" INT TERM; sleep 1001' & echo $! >> $HOME/children; wait"));
    let first: i32 = home.wait_for_file("children", |text| text.ends_with('\n')).await.trim().parse().unwrap();
    let wrapper = running(&supervisor, "p").await;
    kill(wrapper);
    home.wait_for_file("children", |text| text.lines().count() == 2).await;
    assert!(is_dead(first));
    let status = status(&supervisor, "p", |status| status.state == State::Running && status.restarts == 1).await;
    assert_eq!(status.last_exit.unwrap().exit.to_string(), "was ended by SIGKILL");
}

#[tokio::test]
async fn a_draining_child_of_a_wrapper_that_is_gone_keeps_its_grace() {
    let home = Home::new();
    let supervisor = home.open(Lifetime::Ephemeral);
    let script = "sh -c 'trap \"sleep 0.2; touch $HOME/drained; exit\" TERM; touch $HOME/up; while :; do sleep 0.01; done' & wait";
    supervisor.want(Spec { stop_signal: lictor_supervisor::StopSignal::Terminate, ..home.script("p", script) });
    eventually("child", || home.path("up").exists().then_some(())).await;
    supervisor.unwant("p").await;
    assert!(home.path("drained").exists());
}

#[tokio::test]
async fn a_missing_program_is_reported_with_its_cause_and_tried_again() {
    let home = Home::new();
    let supervisor = home.open(Lifetime::Ephemeral);
    supervisor.want(Spec { program: "/nonexistent/program".into(), ..home.script("p", "") });
    let waiting = status(&supervisor, "p", |status| status.state == State::BackingOff).await;
    let trouble = waiting.trouble().unwrap();
    assert!(trouble.contains("/nonexistent/program") && trouble.contains("No such file"), "{trouble}");
    // No search in PATH either.
    supervisor.want(Spec { program: "sh".into(), ..home.script("p", "sleep 1000") });
    let waiting = status(&supervisor, "p", |status| {
        status.state == State::BackingOff && status.trouble().is_some_and(|text| text.contains("\"sh\""))
    });
    waiting.await;
    // A definition that was put right does not wait.
    supervisor.want(home.script("p", "sleep 1000"));
    running(&supervisor, "p").await;
}

#[tokio::test]
async fn only_a_definition_that_matters_restarts() {
    let home = Home::new();
    let supervisor = home.open(Lifetime::Ephemeral);
    let spec = home.script("p", "exec sleep 1000");
    supervisor.want(spec.clone());
    let first = running(&supervisor, "p").await;
    supervisor.want(spec.clone());
    let ambient = [("PATH".to_owned(), "/bin".to_owned())].into();
    supervisor.want(Spec { ambient, ..spec.clone() });
    // Another process takes the same way, so by the time it runs the above has been heeded.
    supervisor.want(Spec { id: "q".into(), ..spec.clone() });
    running(&supervisor, "q").await;
    assert_eq!(running(&supervisor, "p").await, first);

    let mut changed = spec.clone();
    changed.environment.insert("TOKEN".into(), "secret".into());
    supervisor.want(changed);
    let second = status(&supervisor, "p", |status| {
        status.state == State::Running && status.pid != Some(u32::try_from(first).unwrap())
    })
    .await;
    assert!(is_dead(first));
    assert!(supervisor.restart("p"));
    status(&supervisor, "p", |status| status.state == State::Running && status.pid != second.pid).await;
    assert!(!supervisor.restart("unknown"));
}

#[tokio::test]
async fn while_starts_are_refused_nothing_starts_and_afterwards_it_does() {
    let home = Home::new();
    let supervisor = home.try_open(Lifetime::Ephemeral, Gate::Refused("running as root".into())).unwrap();
    supervisor.want(home.script("p", "touch $HOME/ran; exec sleep 1000"));
    let refused = status(&supervisor, "p", |status| status.state == State::Failed).await;
    assert_eq!(refused.trouble().unwrap(), "running as root");
    assert!(!home.path("ran").exists());
    supervisor.set_gate(Gate::Open);
    let pid = running(&supervisor, "p").await;
    // What runs is left alone by a refusal, and not started again once it ends.
    supervisor.set_gate(Gate::Refused("again".into()));
    kill(pid);
    status(&supervisor, "p", |status| status.state == State::Failed).await;
    supervisor.unwant("p").await;
}

#[tokio::test]
async fn a_refused_supervisor_leaves_a_recorded_process_alone_until_it_may_adopt_it() {
    let home = Home::new();
    let supervisor = home.open(Lifetime::Persistent);
    let spec = home.script("p", "exec sleep 1000");
    supervisor.want(spec.clone());
    let pid = running(&supervisor, "p").await;
    supervisor.shutdown(Farewell::Leave).await;
    drop(supervisor);

    let supervisor = home.try_open(Lifetime::Persistent, Gate::Refused("running as root".into())).unwrap();
    supervisor.want(spec);
    supervisor.settled();
    status(&supervisor, "p", |status| status.state == State::Failed && status.pid.is_none()).await;
    assert!(!is_dead(pid));
    supervisor.set_gate(Gate::Open);
    let adopted = status(&supervisor, "p", |status| status.state == State::Running).await;
    assert_eq!((adopted.pid, adopted.adopted), (u32::try_from(pid).ok(), true));
    supervisor.shutdown(Farewell::StopAll).await;
    assert!(is_dead(pid));
}

#[tokio::test]
async fn a_process_is_adopted_unchanged_and_its_successor_writes_to_the_same_log() {
    let home = Home::new();
    let supervisor = home.open(Lifetime::Persistent);
    let spec = home.script("p", "echo started; exec sleep 1000");
    supervisor.want(spec.clone());
    supervisor.want(Spec { id: "q".into(), ..spec.clone() });
    supervisor.want(Spec { id: "gone".into(), ..spec.clone() });
    let first = running(&supervisor, "p").await;
    let changing = running(&supervisor, "q").await;
    let unwanted = running(&supervisor, "gone").await;
    assert!(matches!(home.try_open(Lifetime::Persistent, Gate::Open), Err(Error::InUse { .. })));
    supervisor.shutdown(Farewell::Leave).await;
    drop(supervisor);
    assert!(!is_dead(first));

    let supervisor = home.open(Lifetime::Persistent);
    // Another environment of the agent is no reason to restart; another definition is.
    supervisor.want(Spec { ambient: [("PATH".to_owned(), "/usr/bin".to_owned())].into(), ..spec.clone() });
    let mut changed = Spec { id: "q".into(), ..spec.clone() };
    changed.environment.insert("X".into(), "y".into());
    supervisor.want(changed);
    supervisor.settled();
    let adopted = status(&supervisor, "p", |status| status.state == State::Running).await;
    assert_eq!((adopted.pid, adopted.adopted), (u32::try_from(first).ok(), true));
    status(&supervisor, "q", |status| status.state == State::Running && !status.adopted).await;
    assert!(is_dead(changing));
    eventually("the undeclared one to stop", || is_dead(unwanted).then_some(())).await;

    kill(first);
    let second = status(&supervisor, "p", |status| status.state == State::Running && !status.adopted).await;
    assert_eq!(second.last_exit.unwrap().exit, Exit::Unknown);
    home.wait_for_file("logs/p-stdout.log", |text| text.matches("started\n").count() >= 2).await;
    supervisor.shutdown(Farewell::StopAll).await;
    assert_eq!(home.living(), Vec::<i32>::new());
    assert_eq!(fs::read_dir(home.path("house/processes")).unwrap().count(), 0, "no record is left");
}

#[tokio::test]
async fn a_foreign_process_with_a_recorded_pid_is_neither_adopted_nor_touched() {
    let home = Home::new();
    let supervisor = home.open(Lifetime::Persistent);
    let spec = home.script("p", "exec sleep 1000");
    supervisor.want(spec.clone());
    let ours = running(&supervisor, "p").await;
    supervisor.shutdown(Farewell::Leave).await;
    drop(supervisor);
    kill(ours);
    let record = home.path("house/processes/p.json");
    let text = fs::read_to_string(&record).unwrap();
    // A look-alike: the same program, leading a session, but not the process that was recorded. The kernel gives no pid
    // twice within one tick of its clock, so the look-alike must not have started in the same one.
    let mut foreign = eventually("another tick", || {
        let foreign = Foreign::start();
        let start = fs::read_to_string(format!("/proc/{}/stat", foreign.0.id())).unwrap();
        let start = start.split_whitespace().nth(21).unwrap();
        (!text.contains(&format!("\"start\":{start}"))).then_some(foreign)
    })
    .await;
    let foreign_pid = i32::try_from(foreign.0.id()).unwrap();
    fs::write(&record, text.replace(&format!("\"pid\":{ours}"), &format!("\"pid\":{foreign_pid}"))).unwrap();
    assert!(fs::read_to_string(&record).unwrap().contains(&foreign_pid.to_string()));

    let supervisor = home.open(Lifetime::Persistent);
    supervisor.want(spec);
    supervisor.settled();
    let fresh = status(&supervisor, "p", |status| status.state == State::Running).await;
    assert!(!fresh.adopted && fresh.pid != Some(foreign.0.id()));
    supervisor.shutdown(Farewell::StopAll).await;
    assert_eq!(foreign.0.try_wait().unwrap(), None, "the foreign process lives");
}

/// A process that no supervisor started.
struct Foreign(std::process::Child);

impl Foreign {
    fn start() -> Foreign {
        let mut command = std::process::Command::new("/usr/bin/setsid");
        Foreign(command.args(["/bin/sleep", "1003"]).stdout(std::process::Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_zombie_is_dead() {
    let home = Home::new();
    let supervisor = home.open(Lifetime::Persistent);
    let spec = home.script("p", "exec sleep 1000");
    supervisor.want(spec.clone());
    let first = running(&supervisor, "p").await;
    supervisor.shutdown(Farewell::Leave).await;
    drop(supervisor);
    // It is this test's child and nobody reaps it now.
    kill(first);
    eventually("a zombie", || is_dead(first).then_some(())).await;
    assert!(Path::new(&format!("/proc/{first}")).exists());
    let supervisor = home.open(Lifetime::Persistent);
    assert!(supervisor.statuses().borrow().is_empty());
    supervisor.want(spec);
    assert_ne!(running(&supervisor, "p").await, first);
    supervisor.shutdown(Farewell::StopAll).await;
}

#[tokio::test]
async fn a_process_whose_record_was_destroyed_is_found_and_replaced_not_doubled() {
    let home = Home::new();
    let supervisor = home.open(Lifetime::Persistent);
    let spec = home.script("p", "sleep 1000");
    supervisor.want(spec.clone());
    supervisor.want(Spec { id: "q".into(), ..spec.clone() });
    let (p, q) = (running(&supervisor, "p").await, running(&supervisor, "q").await);
    supervisor.shutdown(Farewell::Leave).await;
    drop(supervisor);
    fs::write(home.path("house/processes/p.json"), "{\"version\":1,").unwrap();
    fs::remove_file(home.path("house/processes/q.json")).unwrap();

    let supervisor = home.open(Lifetime::Persistent);
    supervisor.want(spec);
    supervisor.settled();
    status(&supervisor, "p", |status| status.state == State::Running && !status.adopted).await;
    assert!(is_dead(p));
    eventually("the undeclared one to stop", || is_dead(q).then_some(())).await;
    assert!(home.path("house/processes/p.corrupt").exists());
    supervisor.shutdown(Farewell::StopAll).await;
    assert_eq!(home.living(), Vec::<i32>::new());
}

#[tokio::test]
async fn no_secret_reaches_the_disk() {
    let home = Home::new();
    let supervisor = home.open(Lifetime::Persistent);
    let mut spec = home.script("p", "exec sleep 1000");
    spec.environment.insert("CONNECT_PROXY_TOKEN".into(), "f00d-secret-f00d".into());
    supervisor.want(spec);
    running(&supervisor, "p").await;
    for entry in fs::read_dir(home.path("house/processes")).unwrap() {
        let path = entry.unwrap().path();
        assert!(!fs::read_to_string(&path).unwrap().contains("f00d"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    supervisor.shutdown(Farewell::StopAll).await;
}

#[tokio::test]
async fn a_directory_open_to_others_is_refused_with_the_remedy() {
    let home = Home::new();
    fs::create_dir(home.path("house")).unwrap();
    fs::set_permissions(home.path("house"), fs::Permissions::from_mode(0o750)).unwrap();
    let error = home.try_open(Lifetime::Persistent, Gate::Open).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("chmod 700") && error.contains("750"), "{error}");
}

#[tokio::test]
async fn an_output_that_cannot_be_kept_does_not_keep_the_process_down() {
    let home = Home::new();
    fs::write(home.path("file"), "").unwrap();
    let supervisor = home.open(Lifetime::Ephemeral);
    let spec = home.script("p", "echo lost; touch $HOME/ran; exec sleep 1000");
    supervisor.want(Spec { stdout: Some(home.path("file/impossible")), ..spec });
    running(&supervisor, "p").await;
    eventually("the program", || home.path("ran").exists().then_some(())).await;
}

#[tokio::test]
async fn an_ephemeral_supervisor_that_is_dropped_takes_its_processes_along() {
    let home = Home::new();
    let scope = Scope::new("test");
    let config =
        Config { directory: home.path("house"), lifetime: Lifetime::Ephemeral, gate: Gate::Open, open_directory: None };
    let supervisor = Supervisor::open(config, &scope).unwrap();
    supervisor.want(home.script("p", "exec sleep 1000"));
    let pid = running(&supervisor, "p").await;
    scope.stop();
    eventually("its death", || is_dead(pid).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_processes_start_and_stop_together() {
    let home = Home::new();
    let supervisor = home.open(Lifetime::Persistent);
    let ids: Vec<String> = (0..50).map(|n| format!("p{n}")).collect();
    for id in &ids {
        supervisor.want(home.script(id, "exec sleep 1000"));
    }
    for id in &ids {
        running(&supervisor, id).await;
    }
    // One that is just becoming `sleep` shows no environment for a moment.
    eventually("all to be found", || (home.living().len() == 50).then_some(())).await;
    supervisor.shutdown(Farewell::StopAll).await;
    assert_eq!(home.living().len(), 0);
}

/// The number of another user, if we may start processes of others.
fn another_user() -> Option<User> {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: this test needs to be root");
    }
    root.then_some(User { uid: 65_533, gid: 65_532 })
}

#[tokio::test]
async fn a_process_of_another_user_has_none_of_our_rights_and_is_adopted_as_its_own() {
    let Some(user) = another_user() else { return };
    let home = Home::new();
    let open_directory = tempfile::tempdir().unwrap();
    fs::set_permissions(open_directory.path(), fs::Permissions::from_mode(0o711)).unwrap();
    // Nothing may run as we do: that says nothing about others.
    let open = || {
        let gate = Gate::Refused("not as root".into());
        let open_directory = Some(open_directory.path().to_owned());
        let config = Config { directory: home.path("house"), lifetime: Lifetime::Persistent, gate, open_directory };
        let scope = Scope::new("test");
        (Supervisor::open(config, &scope).unwrap(), scope)
    };
    let script = "grep -E '^(Uid|Gid|Groups|CapPrm|CapEff|CapInh)' /proc/self/status; ulimit -n; ulimit -Hn; \
                  ls $HOME >/dev/null 2>&1 || echo private; \
                  test -w $NOTIFY_SOCKET && echo reports; exec sleep 1000";
    let spec = Spec {
        user: Some(user),
        limits: Limits { open_files: Some(123), ..Limits::default() },
        ..home.script("p", script)
    };
    let (supervisor, _scope) = open();
    supervisor.want(spec.clone());
    supervisor.want(home.script("own", "exec sleep 1000"));
    let pid = running(&supervisor, "p").await;
    let said = home.wait_for_file("logs/p-stdout.log", |text| text.contains("reports")).await;
    let words: Vec<&str> = said.split_whitespace().collect();
    let none = "0000000000000000";
    let wanted = [
        "Uid:", "65533", "65533", "65533", "65533", "Gid:", "65532", "65532", "65532", "65532", "Groups:", "CapInh:",
        none, "CapPrm:", none, "CapEff:", none, "123", "123", "private", "reports",
    ];
    assert_eq!(words, wanted);
    status(&supervisor, "own", |status| status.state == State::Failed).await;
    assert!(environment(pid).contains(&format!("NOTIFY_SOCKET={}", open_directory.path().display())));

    supervisor.shutdown(Farewell::Leave).await;
    drop(supervisor);
    let (supervisor, _scope) = open();
    supervisor.want(spec.clone());
    supervisor.settled();
    let adopted = status(&supervisor, "p", |status| status.pid.is_some()).await;
    assert!(adopted.adopted && adopted.pid == u32::try_from(pid).ok(), "{adopted:?}");
    // Another user is another process.
    supervisor.want(Spec { user: Some(User { uid: 65_531, ..user }), ..spec });
    let other =
        status(&supervisor, "p", |status| status.pid.is_some_and(|other| i64::from(other) != i64::from(pid))).await;
    let text = fs::read_to_string(format!("/proc/{}/status", other.pid.unwrap())).unwrap();
    assert!(text.contains("Uid:\t65531\t"), "{text}");
    supervisor.shutdown(Farewell::StopAll).await;
    assert!(is_dead(pid));
}

/// What `/proc/self/status` says under `name`.
fn field(status: &str, name: &str) -> String {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_default().trim().to_owned()
}

#[tokio::test]
async fn a_program_starts_with_nothing_that_it_was_not_given_and_can_come_to_no_more() {
    let home = Home::new();
    let supervisor = home.open(Lifetime::Ephemeral);
    // Open in the supervisor and not marked as private, as a library may leave one.
    let leaked = fs::File::open("/dev/null").unwrap();
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).unwrap();
    let script = "cat /proc/self/status; echo core=$(ulimit -c); echo umask=$(umask); \
                  echo session=$(cut -d' ' -f6 /proc/$$/stat) own=$$; echo end; exec sleep 1000";
    let none = Privileges { gain: Gain::Never, capabilities: Some(0), calls: Calls::All };
    supervisor.want(Spec { privileges: none, ..home.script("p", script) });
    let said = home.wait_for_file("logs/p-stdout.log", |text| text.contains("end\n")).await;
    let zero = "0000000000000000";
    let is_root = rustix::process::geteuid().is_root();
    for name in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(field(&said, name), zero, "{name}: {said}");
    }
    // Only who has privileges can give up those that it has not.
    if is_root {
        assert_eq!(field(&said, "CapBnd"), zero, "{said}");
    }
    assert_eq!(field(&said, "NoNewPrivs"), "1");
    assert!(said.contains("\ncore=0\n") && said.contains("umask=0022"), "{said}");
    let pid = running(&supervisor, "p").await;
    // The shell has replaced itself, so that what is open now was given.
    let open = || {
        let entries = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
        let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        Some(names)
    };
    eventually("nothing but input, output and errors is open", || open().filter(|all| *all == ["0", "1", "2"])).await;
    let session = said.lines().find_map(|line| line.strip_prefix("session=")).unwrap();
    let (session, own) = session.split_once(" own=").unwrap();
    assert_eq!(session, own, "it leads a session of its own");

    // Without a word about privileges everything is as it would be without us.
    supervisor.want(home.script("q", script));
    let said = home.wait_for_file("logs/q-stdout.log", |text| text.contains("end\n")).await;
    let ours = fs::read_to_string("/proc/self/status").unwrap();
    for name in ["NoNewPrivs", "CapPrm", "CapBnd"] {
        assert_eq!(field(&said, name), field(&ours, name), "{name}");
    }
    supervisor.shutdown(Farewell::StopAll).await;
    drop(leaked);
}

#[tokio::test]
async fn who_runs_as_another_user_gains_no_privileges_unless_its_program_is_there_for_that() {
    let Some(other) = another_user() else { return };
    let home = Home::new();
    let supervisor = home.open(Lifetime::Ephemeral);
    let open_directory = tempfile::tempdir().unwrap();
    fs::set_permissions(open_directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = open_directory.path().join("as-owner");
    fs::copy("/bin/sleep", &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o4755)).unwrap();
    let privileges = Privileges { gain: Gain::AsOurUser, capabilities: None, calls: Calls::All };
    let plain = Path::new("/bin/sleep");
    for (id, user, program, wanted) in [
        ("ours", None, plain, "0"),
        ("other", Some(other), plain, "1"),
        ("other-setuid", Some(other), copy.as_path(), "0"),
    ] {
        let spec = Spec { user, program: program.into(), args: vec!["1000".into()], privileges, ..home.script(id, "") };
        supervisor.want(spec);
        let pid = running(&supervisor, id).await;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert_eq!(field(&status, "NoNewPrivs"), wanted, "{id}: {status}");
    }
    supervisor.shutdown(Farewell::StopAll).await;
}

#[tokio::test]
async fn a_program_of_another_user_keeps_the_capability_that_it_was_given_and_no_other() {
    let Some(user) = another_user() else { return };
    let home = Home::new();
    let supervisor = home.open(Lifetime::Ephemeral);
    let privileges = Privileges { gain: Gain::Never, capabilities: Some(1 << 10), calls: Calls::All };
    let script = "cat /proc/self/status; echo end; exec sleep 1000";
    supervisor.want(Spec { user: Some(user), privileges, ..home.script("p", script) });
    let said = home.wait_for_file("logs/p-stdout.log", |text| text.contains("end\n")).await;
    for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(&said, name), "0000000000000400", "{name}: {said}");
    }
    assert!(field(&said, "Uid").starts_with("65533\t65533"), "{said}");
    supervisor.shutdown(Farewell::StopAll).await;
}

#[tokio::test]
async fn a_program_of_a_server_cannot_administer_the_machine_nor_can_what_it_starts() {
    let home = Home::new();
    let supervisor = home.open(Lifetime::Ephemeral);
    let is_root = rustix::process::geteuid().is_root();
    // Who may do these things otherwise: everybody the first, root the rest.
    let script = "setarch -R true && echo memory=open; unshare --uts true && echo uts=new; \
                  folder=$(mktemp -d); mount -t tmpfs none $folder && umount $folder && echo mount=can; rmdir $folder; \
                  grep Seccomp: /proc/self/status; (sleep 0.01 & wait) && echo children=can; echo end; exec sleep 1000";
    let spec = |id: &str, gain, calls| {
        let privileges = Privileges { gain, calls, ..Privileges::default() };
        Spec { privileges, ..home.script(id, &format!("exec 2>&1; {script}")) }
    };
    // Whoever may gain privileges cannot be kept from system calls: a setuid program would run with a part of them.
    for (id, gain, calls, mode) in [
        ("all", Gain::Never, Calls::All, "0"),
        ("gains", Gain::Allowed, Calls::OfServers, "0"),
        ("server", Gain::Never, Calls::OfServers, "2"),
    ] {
        supervisor.want(spec(id, gain, calls));
        let said = home.wait_for_file(&format!("logs/{id}-stdout.log"), |text| text.contains("end\n")).await;
        assert_eq!(field(&said, "Seccomp"), mode, "{id}: {said}");
        assert!(said.contains("children=can"), "{id}: {said}");
        let may = mode == "0";
        assert_eq!(said.contains("memory=open"), may, "{id}: {said}");
        for of_root in ["uts=new", "mount=can"].iter().filter(|_| is_root) {
            assert_eq!(said.contains(of_root), may, "{id}: {said}");
        }
        assert!(may || said.matches("not permitted").count() >= 2, "{said}");
    }
    supervisor.shutdown(Farewell::StopAll).await;
}

#[tokio::test]
async fn other_limits_reach_what_runs_and_what_is_adopted_and_start_nothing_anew() {
    fn files(pid: i32) -> String {
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
        let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap_or_default();
        line.split_whitespace().skip(3).take(2).collect::<Vec<_>>().join(" ")
    }
    let home = Home::new();
    let spec = |open_files| {
        let limits = Limits { open_files, ..Limits::default() };
        Spec { limits, ..home.script("p", "exec sleep 1000") }
    };
    let supervisor = home.open(Lifetime::Persistent);
    supervisor.want(spec(Some(900)));
    let pid = running(&supervisor, "p").await;
    assert_eq!(files(pid), "900 900");
    supervisor.want(spec(Some(800)));
    eventually("the new limit", || (files(pid) == "800 800").then_some(())).await;
    supervisor.shutdown(Farewell::Leave).await;
    drop(supervisor);

    let supervisor = home.open(Lifetime::Persistent);
    supervisor.want(spec(Some(700)));
    supervisor.settled();
    eventually("the limit of the next agent", || (files(pid) == "700 700").then_some(())).await;
    let status = status(&supervisor, "p", |status| status.pid.is_some()).await;
    assert!(status.adopted && status.restarts == 0 && status.pid == u32::try_from(pid).ok(), "{status:?}");
    let ours = rustix::thread::capabilities(None).unwrap().effective;
    if ours.contains(rustix::thread::CapabilitySet::SYS_RESOURCE) {
        // What was taken away comes back when it is no longer wanted; only a privileged agent can do that.
        supervisor.want(spec(None));
        let own = files(i32::try_from(std::process::id()).unwrap());
        eventually("the limit of the agent itself", || (files(pid) == own).then_some(())).await;
    }
    supervisor.shutdown(Farewell::StopAll).await;
}

#[tokio::test]
async fn the_pid_file_of_a_process_that_ended_while_nobody_looked_is_removed() {
    let home = Home::new();
    let file = |id: &str| format!("pids/{id}.pid");
    let spec = |id: &str| Spec { pid_file: Some(home.path(&file(id))), ..home.script(id, "exec sleep 1000") };
    let supervisor = home.open(Lifetime::Persistent);
    for id in ["gone", "unwanted", "kept"] {
        supervisor.want(spec(id));
    }
    let gone = running(&supervisor, "gone").await;
    running(&supervisor, "unwanted").await;
    let kept = running(&supervisor, "kept").await;
    supervisor.shutdown(Farewell::Leave).await;
    drop(supervisor);
    rustix::process::kill_process(Pid::from_raw(gone).unwrap(), Signal::KILL).unwrap();
    eventually("its end", || is_dead(gone).then_some(())).await;
    assert!(home.path(&file("gone")).exists());

    let supervisor = home.open(Lifetime::Persistent);
    supervisor.want(spec("kept"));
    supervisor.settled();
    eventually("no stale file", || {
        (!home.path(&file("gone")).exists() && !home.path(&file("unwanted")).exists()).then_some(())
    })
    .await;
    assert_eq!(home.read(&file("kept")), format!("{kept}\n"));
    supervisor.shutdown(Farewell::StopAll).await;
    assert!(!home.path(&file("kept")).exists());
}
