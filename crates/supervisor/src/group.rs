//! A control group for each process, where the machine lets us have them: memory and share of the processor are bounded,
//! what a process uses is known, and nothing that it started can hide from its end.
//!
//! The kernel allows processes only in groups without children that share controllers out ("no internal processes"). So
//! the group that was delegated to the agent becomes a mere folder: the agent sits in [`OWN`] below it and each process in
//! a group beside that.
//!
//! ```text
//! lictor.service            delegated; holds no process
//! ├── lictor-agent          the agent and what it runs itself, such as checks
//! ├── lictor-3f…-web-proxy.811
//! └── lictor-3f…-db-proxy.812
//! ```
//!
//! A service manager that puts the agent into the delegated group itself could not start it again: proxies outlive the
//! agent, and with them the controllers. So under a service unit this needs the manager to start the agent in the folder
//! `lictor-agent` (`DelegateSubgroup=`). What is not possible is left out, with one line that says why.
//!
//! Which group a process is in is asked of the kernel, never remembered: an agent finds the groups of processes that an
//! earlier one has started, in whatever group that one was.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::identity::{self, Stat};
use crate::record::file_name;
use crate::spec::Limits;

/// The agent's own place below the group that is delegated to it.
const OWN: &str = "lictor-agent";

/// What every group of a process begins with.
const PREFIX: &str = "lictor-";

/// The share of the processor that the kernel gives without being asked.
const USUAL_WEIGHT: u16 = 100;

/// How long the kernel may take to empty a group whose processes were killed.
const EMPTYING: Duration = Duration::from_secs(5);
const EMPTYING_LOOK: Duration = Duration::from_millis(5);

/// Rounds of moving processes out of the delegated group: each may fork while it is being moved.
const ROUNDS: usize = 20;

/// Where the version 2 hierarchy of a mount begins.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    /// The folder that is visible.
    point: PathBuf,
    /// The group that this folder is.
    root: PathBuf,
}

impl Mount {
    fn present() -> Result<Mount, String> {
        let text =
            fs::read_to_string("/proc/self/mountinfo").map_err(|error| format!("/proc/self/mountinfo: {error}"))?;
        Mount::parse(&text).ok_or_else(|| "no control groups of version 2 are mounted".to_owned())
    }

    /// `36 35 98:0 /root /point options - cgroup2 …`.
    fn parse(mountinfo: &str) -> Option<Mount> {
        mountinfo.lines().find_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            if after.split(' ').next() != Some("cgroup2") {
                return None;
            }
            let mut fields = before.split(' ').skip(3);
            let (root, point) = (fields.next()?, fields.next()?);
            Some(Mount { point: unescaped(point).into(), root: unescaped(root).into() })
        })
    }

    /// The folder of a group named as in `/proc/<pid>/cgroup`; `None` when it is not visible here.
    fn folder(&self, group: &Path) -> Option<PathBuf> {
        let below = group.strip_prefix(&self.root).ok()?;
        // A group outside of our namespace is shown with `..`.
        let visible = below.components().all(|part| matches!(part, std::path::Component::Normal(_)));
        visible.then(|| self.point.join(below))
    }

    /// The folder of the group that a process is in.
    fn of_process(&self, pid: i32) -> io::Result<Option<PathBuf>> {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        Ok(text.lines().find_map(|line| line.strip_prefix("0::")).and_then(|group| self.folder(Path::new(group))))
    }
}

/// Blanks and backslashes of paths are written as octal numbers.
fn unescaped(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(char::from(byte));
                plain.push_str(part.get(3..).unwrap_or_default());
            }
            None => {
                plain.push('\\');
                plain.push_str(part);
            }
        }
    }
    plain
}

/// The place below which this supervisor makes its groups.
#[derive(Clone, Debug)]
pub(crate) struct Groups {
    root: PathBuf,
    /// What the names of this supervisor's groups begin with.
    prefix: String,
}

impl Groups {
    /// Makes the delegated group ready. `supervised` tells the id of a process of ours. Blocks for a moment.
    pub(crate) fn open(house: &str, supervised: impl Fn(i32) -> Option<(String, i32)>) -> Result<Groups, String> {
        let own_pid = rustix::process::getpid().as_raw_nonzero().get();
        let mount = Mount::present()?;
        let own = mount.of_process(own_pid).map_err(|error| format!("/proc/self/cgroup: {error}"))?;
        let own = own.ok_or_else(|| format!("our own group is not visible below {}", mount.point.display()))?;
        let groups = Groups { root: delegated(&own)?, prefix: format!("{PREFIX}{house}-") };
        let root = groups.root.display();
        let available = fs::read_to_string(groups.root.join("cgroup.controllers")).unwrap_or_default();
        let usable: Vec<&str> = available.split_whitespace().filter(|name| matches!(*name, "memory" | "cpu")).collect();
        if usable.is_empty() {
            return Err(format!(
                "neither the memory nor the cpu controller is delegated to {root} (in a unit of systemd: Delegate=yes)"
            ));
        }
        // The root of all groups may hold processes; it is known by a file that it does not have.
        if groups.root.join("cgroup.type").exists() {
            groups.clear_out(own_pid, supervised)?;
        }
        let mut problems = Vec::new();
        for controller in &usable {
            if let Err(error) = fs::write(groups.root.join("cgroup.subtree_control"), format!("+{controller}")) {
                problems.push(format!("the {controller} controller cannot be shared out in {root}: {error}"));
            }
        }
        if problems.len() == usable.len() {
            return Err(problems.join("; "));
        }
        for missing in ["memory", "cpu"].into_iter().filter(|name| !usable.contains(name)) {
            problems.push(format!("the {missing} controller is not delegated to {root}"));
        }
        for problem in problems {
            tracing::warn!("supervisor: {problem}; limits that need it are not in force");
        }
        groups.sweep();
        Ok(groups)
    }

    /// Moves whoever is in the delegated group itself out of it: us and what we run into our own place, supervised
    /// processes into theirs. Anybody else's process must not be touched, so then there are no groups.
    fn clear_out(&self, own_pid: i32, supervised: impl Fn(i32) -> Option<(String, i32)>) -> Result<(), String> {
        let failed = |what: &str, path: &Path, error: io::Error| {
            format!("cannot {what} {}: {error} (in a unit of systemd: Delegate=yes)", path.display())
        };
        let own = self.root.join(OWN);
        for _ in 0..ROUNDS {
            let procs = self.root.join("cgroup.procs");
            let text = fs::read_to_string(&procs).map_err(|error| failed("read", &procs, error))?;
            let pids: Vec<i32> = text.lines().filter_map(|line| line.parse().ok()).collect();
            if pids.is_empty() {
                return Ok(());
            }
            // First all are looked at, so that nothing has been moved when there is a stranger.
            let mut moves = Vec::new();
            for pid in pids {
                let place = match supervised(pid) {
                    Some((id, leader)) => self.folder_of(&id, leader),
                    None if descends_from(pid, own_pid) => own.clone(),
                    None if Stat::of(pid).is_ok_and(|stat| !stat.is_dead()) => {
                        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                        return Err(format!(
                            "process {pid} ({}) is in {} as well: start the agent in a group of its own \
                             (systemd-run --user --scope -p Delegate=yes, or a unit with Delegate=yes)",
                            name.trim(),
                            self.root.display()
                        ));
                    }
                    // It ended meanwhile.
                    None => continue,
                };
                moves.push((pid, place));
            }
            for (pid, place) in moves {
                make_folder(&place).map_err(|error| failed("make the group", &place, error))?;
                match join(&place, pid) {
                    Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
                        return Err(failed("move a process into", &place, error));
                    }
                    _ => {}
                }
            }
        }
        Err(format!("processes in {} start others faster than they can be moved", self.root.display()))
    }

    fn folder_of(&self, id: &str, pid: i32) -> PathBuf {
        self.root.join(format!("{}{}.{pid}", self.prefix, file_name(id)))
    }

    /// Removes what processes that ended while nobody looked have left.
    fn sweep(&self) {
        for entry in fs::read_dir(&self.root).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&self.prefix) {
                // One with a process in it stays: that is what the kernel says to this.
                let _ = fs::remove_dir(entry.path());
            }
        }
    }

    /// A group for the process `pid` of `id`, with limits in force, and that process in it.
    pub(crate) fn give(&self, id: &str, pid: i32, limits: &Limits) -> io::Result<(Group, Vec<String>)> {
        let group = Group { folder: self.folder_of(id, pid) };
        make_folder(&group.folder)?;
        // A process that goes over its limit ends as a whole, not in half.
        let _ = fs::write(group.folder.join("memory.oom.group"), "1");
        let problems = group.limit(&Limits::default(), limits);
        if let Err(error) = join(&group.folder, pid) {
            let _ = fs::remove_dir(&group.folder);
            return Err(error);
        }
        Ok((group, problems))
    }
}

/// The group that is ours to shape, from the one that we are in.
fn delegated(own: &Path) -> Result<PathBuf, String> {
    let name = own.file_name().unwrap_or_default().to_string_lossy();
    if name == OWN {
        return Ok(own.parent().unwrap_or(own).to_owned());
    }
    if name.ends_with(".service") {
        return Err(format!(
            "the unit of {} does not say DelegateSubgroup={OWN} (systemd 254 or later): without it the agent could not be \
             started again while its proxies go on",
            own.display()
        ));
    }
    Ok(own.to_owned())
}

/// Whether `pid` is `ancestor` or was started by it, at whatever remove.
pub(crate) fn descends_from(mut pid: i32, ancestor: i32) -> bool {
    // Longer chains than this are none.
    for _ in 0..64 {
        if pid == ancestor {
            return true;
        }
        match identity::parent(pid) {
            Some(parent) if parent > 1 => pid = parent,
            _ => return false,
        }
    }
    false
}

fn make_folder(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

fn join(folder: &Path, pid: i32) -> io::Result<()> {
    fs::write(folder.join("cgroup.procs"), pid.to_string())
}

/// The group of one process and of what it started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    folder: PathBuf,
}

impl Group {
    #[cfg(test)]
    pub(crate) fn at(folder: &Path) -> Group {
        Group { folder: folder.to_owned() }
    }

    /// The group of a process, if it has one of its own from a supervisor known as `house`.
    pub(crate) fn of(house: &str, pid: i32) -> Option<Group> {
        let folder = Mount::present().ok()?.of_process(pid).ok()??;
        let ours = folder.file_name()?.to_str()?.starts_with(&format!("{PREFIX}{house}-"));
        ours.then_some(Group { folder })
    }

    /// Takes a further process in.
    pub(crate) fn take(&self, pid: i32) -> io::Result<()> {
        join(&self.folder, pid)
    }

    /// Puts new limits into force; what cannot be is told.
    pub(crate) fn limit(&self, old: &Limits, new: &Limits) -> Vec<String> {
        let mut problems = Vec::new();
        let mut set = |file: &str, value: String| {
            if let Err(error) = fs::write(self.folder.join(file), &value) {
                problems.push(format!("cannot set {file} to {value} in {}: {error}", self.folder.display()));
            }
        };
        if let (Some(_), _) | (_, Some(_)) = (old.cpu_weight, new.cpu_weight) {
            set("cpu.weight", new.cpu_weight.unwrap_or(USUAL_WEIGHT).to_string());
        }
        match (old.memory, new.memory) {
            (None, None) => {}
            (_, None) => set("memory.max", "max".to_owned()),
            (_, Some(bytes)) => match self.number("memory.current") {
                // The kernel would end it at once.
                Some(present) if present > bytes => problems.push(format!(
                    "it uses {present} bytes of memory, more than its new limit of {bytes}, which takes effect when it is \
                     started anew"
                )),
                _ => set("memory.max", bytes.to_string()),
            },
        }
        problems
    }

    fn number(&self, file: &str) -> Option<u64> {
        fs::read_to_string(self.folder.join(file)).ok()?.trim().parse().ok()
    }

    /// A line `name value` of a file.
    fn entry(&self, file: &str, name: &str) -> Option<u64> {
        let text = fs::read_to_string(self.folder.join(file)).ok()?;
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
    }

    /// Memory of all that is in it, and the limit of that.
    fn memory(&self) -> Option<(u64, Option<u64>)> {
        Some((self.number("memory.current")?, self.number("memory.max")))
    }

    /// Whether the kernel has ended something in it because its memory was over the limit.
    pub(crate) fn ran_out_of_memory(&self) -> bool {
        self.entry("memory.events", "oom_kill").is_some_and(|count| count > 0)
    }

    /// Kills what is left in it and removes it. Blocks.
    pub(crate) fn end(&self, id: &str) {
        let deadline = Instant::now() + EMPTYING;
        loop {
            if self.entry("cgroup.events", "populated") == Some(1) {
                self.kill();
            }
            match fs::remove_dir(&self.folder) {
                Ok(()) => return,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return,
                Err(error) if Instant::now() >= deadline => {
                    let folder = self.folder.display();
                    tracing::warn!("supervisor: {id}: cannot remove the control group {folder}: {error}");
                    return;
                }
                Err(_) => std::thread::sleep(EMPTYING_LOOK),
            }
        }
    }

    fn kill(&self) {
        // Linux 5.14. Before that one after the other, until none is left.
        if fs::write(self.folder.join("cgroup.kill"), "1").is_ok() {
            return;
        }
        let text = fs::read_to_string(self.folder.join("cgroup.procs")).unwrap_or_default();
        for pid in text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)) {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }
}

/// Memory of the group of a process, its children included, and the limit of that; `None` where it has no group of its own.
pub(crate) fn memory_of(pid: u32) -> Option<(u64, Option<u64>)> {
    let folder = Mount::present().ok()?.of_process(i32::try_from(pid).ok()?).ok()??;
    let name = folder.file_name()?.to_str()?;
    if name == OWN || !name.starts_with(PREFIX) {
        return None;
    }
    Group { folder }.memory()
}

#[cfg(test)]
#[allow(clippy::print_stderr, reason = "a skipped test must be seen")]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchy_is_found_wherever_it_is_mounted() {
        let hybrid = "30 24 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
                      31 30 0:27 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n\
                      32 30 0:28 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw\n";
        let mount = Mount::parse(hybrid).unwrap();
        assert_eq!(mount.point, Path::new("/sys/fs/cgroup/unified"));
        assert_eq!(mount.folder(Path::new("/a/b")), Some("/sys/fs/cgroup/unified/a/b".into()));
        assert_eq!(mount.folder(Path::new("/")), Some("/sys/fs/cgroup/unified/".into()));
        assert_eq!(mount.folder(Path::new("/../other")), None, "outside of our namespace");
        let part = "9 8 0:28 /docker/4711 /with\\040blank rw - cgroup2 cgroup rw\n";
        let mount = Mount::parse(part).unwrap();
        assert_eq!(mount.folder(Path::new("/docker/4711/x")), Some("/with blank/x".into()));
        assert_eq!(mount.folder(Path::new("/docker/4712")), None, "another one's");
        assert_eq!(Mount::parse("31 30 0:27 / /m rw - cgroup cgroup rw,memory\nnonsense\n"), None);
    }

    #[test]
    fn under_a_service_manager_the_agent_must_have_been_given_a_place_of_its_own() {
        let scope = Path::new("/c/user.slice/run-r1.scope");
        assert_eq!(delegated(scope), Ok(scope.into()));
        let unit = Path::new("/c/system.slice/lictor.service");
        assert!(delegated(unit).is_err_and(|error| error.contains("DelegateSubgroup=lictor-agent")));
        assert_eq!(delegated(&unit.join(OWN)), Ok(unit.into()));
    }

    #[test]
    fn our_own_processes_are_known_by_their_parents() {
        let own = rustix::process::getpid().as_raw_nonzero().get();
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        assert!(descends_from(pid, own) && descends_from(own, own));
        assert!(!descends_from(own, pid));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// On the real kernel, but with no controller: moving, ending and removing need none.
    #[test]
    fn nothing_hides_from_the_end_of_a_group_and_no_group_is_left() {
        let Ok(mount) = Mount::present() else {
            eprintln!("SKIPPED: no control groups of version 2 are mounted");
            return;
        };
        let own = rustix::process::getpid().as_raw_nonzero().get();
        let Ok(Some(root)) = mount.of_process(own) else {
            eprintln!("SKIPPED: our own control group is not visible");
            return;
        };
        let house = format!("test{own}");
        let groups = Groups { root, prefix: format!("{PREFIX}{house}-") };
        // A process whose child leaves its session, as a daemon does.
        let script = "setsid sleep 1000 & wait";
        let mut child = std::process::Command::new("sh")
            .args(["-c", &format!("read go; {script}")])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let (group, problems) = match groups.give("a/b", pid, &Limits::default()) {
            Ok(given) => given,
            Err(error) => {
                eprintln!("SKIPPED: no control group may be made below {}: {error}", groups.root.display());
                child.kill().unwrap();
                child.wait().unwrap();
                return;
            }
        };
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(Group::of(&house, pid).as_ref(), Some(&group), "it is found again");
        assert_eq!(Group::of("another", pid), None);
        drop(child.stdin.take().map(|mut input| io::Write::write_all(&mut input, b"go\n")));
        let inside = || fs::read_to_string(group.folder.join("cgroup.procs")).unwrap().lines().count();
        let deadline = Instant::now() + Duration::from_secs(20);
        while inside() < 2 {
            assert!(Instant::now() < deadline, "the child did not come");
            std::thread::sleep(EMPTYING_LOOK);
        }
        groups.sweep();
        assert!(group.folder.exists(), "a group with processes is left alone");
        child.kill().unwrap();
        child.wait().unwrap();
        group.end("a/b");
        assert!(!group.folder.exists());
        let orphan = Group { folder: groups.folder_of("gone", 1) };
        make_folder(&orphan.folder).unwrap();
        groups.sweep();
        assert!(!orphan.folder.exists(), "an empty group is removed");
    }
}
