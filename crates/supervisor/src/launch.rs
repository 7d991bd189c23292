//! Start one process so that a crash of the supervisor at any instant leaves neither a second instance nor an orphan.
//!
//! The child is held at a *gate* between `fork` and `exec`: it tells its pid and waits. The supervisor takes a pidfd,
//! reads the start time, writes the record, and only then opens the gate. If the supervisor dies before that, the child
//! sees it (it waits for the gate and for its parent's death at once) and exits without having run a single instruction
//! of the program. If it dies afterwards, the record tells its successor. So a program runs only while it is recorded.
//! Recording after the start would leave a gap, and a lock inherited by the child would be lost to programs that close
//! descriptors they do not know.
//!
//! Standard output and error are files opened here and passed to the child, not pipes read by the supervisor: a pipe ends
//! with its reader, and the processes must outlive the agent. They are opened anew at every start and in append mode, so
//! that they can be made shorter at the front while the process goes on writing at the end; see `output`.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, Signal};
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::calls::Filter;
use crate::error::Error;
use crate::files::{Fence, Made};
use crate::identity::Stat;
use crate::kept;
use crate::spec::{Calls, Gain, Limits, Privileges, Spec, Standing, User};

/// What becomes of the child when the supervisor's process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bond {
    /// It goes on, to be adopted.
    Outlives,
    /// The kernel kills it: nobody could find it again.
    DiesWithUs,
}

/// A child at the gate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AtGate {
    pub(crate) pid: i32,
    pub(crate) start: u64,
}

/// A started process.
#[derive(Debug)]
pub(crate) struct Launched {
    pub(crate) pid: Pid,
    pub(crate) start: u64,
    pub(crate) pidfd: OwnedFd,
    /// Keeps the thread alive that the kernel takes for the parent of a child that dies with us. Dropping it ends the
    /// child.
    pub(crate) tether: Option<mpsc::Sender<()>>,
}

/// Starts the program of `spec` with exactly `environment` and a way to `sockets`, calling `at_gate` before it runs.
/// Blocks.
///
/// On an error nothing is left running.
pub(crate) fn launch(
    spec: &Spec,
    mut environment: BTreeMap<String, String>,
    sockets: Vec<OwnedFd>,
    bond: Bond,
    at_gate: impl FnOnce(AtGate) -> Result<(), Error>,
) -> Result<Launched, Error> {
    let failed = |source: io::Error| Error::Start { program: spec.program.clone(), source };
    let (mut pid_reader, pid_writer) = io::pipe().map_err(failed)?;
    let (gate_reader, mut gate_writer) = io::pipe().map_err(failed)?;
    let our_pidfd =
        rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).map_err(|e| failed(e.into()))?;

    if !sockets.is_empty() {
        // They keep their numbers: moving them could hit a descriptor that something else needs until the `exec`.
        let numbers: Vec<String> = sockets.iter().map(|socket| socket.as_raw_fd().to_string()).collect();
        environment.insert(kept::VARIABLE.to_owned(), numbers.join(","));
    }
    let program = without_search(&spec.program);
    let mut command = Command::new(&program);
    command.arg0(&spec.program).args(&spec.args).env_clear().envs(environment);
    command.stdin(Stdio::null());
    let outputs = [spec.stdout.as_deref(), spec.stderr.as_deref()].map(|path| log_file(spec, path));
    let fenced = spec.files.as_ref().map(|files| {
        let outputs: Vec<&File> = outputs.iter().flatten().collect();
        Fence::around(files, &program, &outputs)
    });
    let [stdout, stderr] = outputs.map(|file| file.map_or_else(Stdio::null, Stdio::from));
    command.stdout(stdout).stderr(stderr);
    let user = spec.user.filter(|user| {
        let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        (user.uid, user.gid) != own
    });
    if let Some(User { uid, gid }) = user
        && !rustix::process::geteuid().is_root()
    {
        let text = format!("it is to run as user {uid} and group {gid}, which only an agent that runs as root can do");
        return Err(failed(io::Error::new(io::ErrorKind::PermissionDenied, text)));
    }
    let no_new_privileges = match spec.privileges.gain {
        _ if spec.files.is_some() => true,
        Gain::Allowed => false,
        Gain::AsOurUser => user.is_some() && !gains_privileges(spec),
        Gain::Never => true,
    };
    let Privileges { capabilities, calls, .. } = spec.privileges;
    let filters_calls = no_new_privileges && calls == Calls::OfServers;
    let filter = filters_calls.then(Filter::new).flatten();
    let has_filter = filter.is_some();
    let (fence, files_open) = match fenced {
        None => (None, None),
        Some(Made { fence, left_open, problems }) => {
            problems.iter().for_each(|problem| tracing::warn!("supervisor: {}: {problem}", spec.id));
            match fence {
                Ok(fence) => (Some(fence), Some(Ok(left_open))),
                Err(cause) => (None, Some(Err(cause))),
            }
        }
    };
    let cage = Cage { user, limits: spec.limits, capabilities, no_new_privileges, fence, filter };
    before_exec(
        &mut command,
        Gate { pid_writer, gate_reader, our_pidfd, sockets, bond, standing: spec.standing, cage },
    );

    // `spawn` returns only after the child's `exec`, hence after the gate, so it needs a thread of its own.
    let (told, outcome) = mpsc::sync_channel(1);
    let (tether, tethered) = mpsc::channel::<()>();
    let thread = std::thread::Builder::new().name("lictor-start".into()).stack_size(256 * 1024).spawn(move || {
        let spawned = command.spawn();
        // Closes our ends of the pipes, so that a failed fork is seen as the end of the pid pipe.
        drop(command);
        let running = spawned.is_ok();
        let _ = told.send(spawned);
        if running && bond == Bond::DiesWithUs {
            // The kernel's parent-death signal follows the thread that forked, not the process.
            let _ = tethered.recv();
        }
    });
    thread.map_err(failed)?;
    let spawned = || outcome.recv().unwrap_or_else(|_| Err(io::Error::other("the starting thread failed")));

    let mut report = [0u8; Report::LENGTH];
    if pid_reader.read_exact(&mut report).is_err() {
        let cause = spawned().err().unwrap_or_else(|| io::Error::other("the child did not report its pid"));
        return Err(failed(cause));
    }
    let report = Report::from_bytes(report);
    if no_new_privileges {
        let unfiltered = match report.filter {
            0 if has_filter || !filters_calls => None,
            0 => Some("nobody has made a filter for this architecture".to_owned()),
            errno => Some(format!("the kernel takes no filter ({})", io::Error::from_raw_os_error(errno))),
        };
        let files = files_open.map(|kept| match report.fence {
            0 => kept,
            errno => Err(format!("the kernel does not fence it in ({})", io::Error::from_raw_os_error(errno))),
        });
        tell_of_cage(&spec.id, filters_calls.then_some(unfiltered), files);
    }
    let prepared = prepare(report.pid).and_then(|(pid, start, pidfd)| {
        at_gate(AtGate { pid: pid.as_raw_nonzero().get(), start })?;
        Ok((pid, start, pidfd))
    });
    // A byte either way: the end of the pipe could be held open by another child at its own gate.
    // A child that was killed at the gate fails the write; its death is reported like any other.
    let _ = gate_writer.write_all(&[u8::from(prepared.is_ok())]);
    let outcome = spawned();
    let (pid, start, pidfd) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            // It gave up at the closed gate and std reaped it, unless it was killed there first.
            if let Ok(mut child) = outcome {
                let _ = child.kill();
                let _ = child.wait();
            }
            return Err(error);
        }
    };
    // The child is waited for through its pidfd; dropping std's handle does nothing to it.
    outcome.map_err(failed)?;
    Ok(Launched { pid, start, pidfd, tether: (bond == Bond::DiesWithUs).then_some(tether) })
}

/// One line for each start says what is in force of what the process may not: of system calls, where they are filtered, why
/// they are not; of files, where they are listed, what this kernel leaves open, or why all are.
fn tell_of_cage(id: &str, calls: Option<Option<String>>, files: Option<Result<Option<String>, String>>) {
    let mut told = "it is kept from gaining privileges: no sudo, nothing that is setuid".to_owned();
    let mut whole = true;
    let mut add = |what: &str, outcome: Result<Option<String>, String>| match outcome {
        Ok(None) => told.push_str(&format!("; and from {what}")),
        Ok(Some(left_open)) => {
            told.push_str(&format!("; and from {what}, but this kernel does not keep it from {left_open}"));
        }
        Err(cause) => {
            whole = false;
            told.push_str(&format!("; not from {what}: {cause}"));
        }
    };
    if let Some(unfiltered) = calls {
        add("system calls that administer the machine", unfiltered.map_or(Ok(None), Err));
    }
    if let Some(files) = files {
        add("files that are not listed", files);
    }
    if whole {
        tracing::info!("supervisor: {id}: {told}");
    } else {
        tracing::warn!("supervisor: {id}: {told}");
    }
}

/// What the child tells at the gate.
struct Report {
    pid: i32,
    /// Why it is not behind the fence of files; 0 when it is, or was not to be.
    fence: i32,
    /// The same of the filter of system calls.
    filter: i32,
}

impl Report {
    const LENGTH: usize = 12;

    fn to_bytes(&self) -> [u8; Report::LENGTH] {
        let mut bytes = [0; Report::LENGTH];
        for (place, number) in bytes.chunks_exact_mut(4).zip([self.pid, self.fence, self.filter]) {
            place.copy_from_slice(&number.to_ne_bytes());
        }
        bytes
    }

    fn from_bytes(bytes: [u8; Report::LENGTH]) -> Report {
        let number = |at: usize| {
            let mut four = [0; 4];
            four.copy_from_slice(&bytes[at..at + 4]);
            i32::from_ne_bytes(four)
        };
        Report { pid: number(0), fence: number(4), filter: number(8) }
    }
}

/// Takes hold of the child at the gate.
fn prepare(raw: i32) -> Result<(Pid, u64, OwnedFd), Error> {
    let identify = |source: io::Error| Error::Identify { pid: raw, source };
    let pid = Pid::from_raw(raw).ok_or_else(|| identify(io::Error::other("not a pid")))?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(|error| identify(error.into()))?;
    let start = Stat::of(raw).map_err(identify)?.start;
    Ok((pid, start, pidfd))
}

/// A bare name means the working directory, as the original has it, never a search in `PATH`.
fn without_search(program: &Path) -> PathBuf {
    if program.as_os_str().as_encoded_bytes().contains(&b'/') {
        program.to_owned()
    } else {
        Path::new(".").join(program)
    }
}

/// Whether starting the program gives privileges. It would not work, or not as it was meant to, if it could not.
fn gains_privileges(spec: &Spec) -> bool {
    use std::os::unix::fs::PermissionsExt;
    let program = without_search(&spec.program);
    let setuid = std::fs::metadata(&program).is_ok_and(|found| found.permissions().mode() & 0o6000 != 0);
    let mut value = [0u8; 64];
    let capable = rustix::fs::getxattr(&program, "security.capability", &mut value).is_ok_and(|length| length > 0);
    if setuid || capable {
        let kind = if setuid { "setuid or setgid" } else { "a program with capabilities in its file" };
        let calls = match spec.privileges.calls {
            Calls::All => "",
            Calls::OfServers => ", nor from system calls that administer the machine",
        };
        tracing::info!(
            "supervisor: {}: {program:?} is {kind}, so it is not kept from gaining privileges{calls}",
            spec.id
        );
    }
    setuid || capable
}

/// Opens a log file for appending. A process must not stay down because its log cannot be written (a read-only or full
/// disk), so what it says is then lost, with a warning.
fn log_file(spec: &Spec, path: Option<&Path>) -> Option<File> {
    let path = path?;
    let id = &spec.id;
    if let Some(Err(error)) = spec.logs.as_ref().map(|logs| logs.settle(path)) {
        tracing::warn!("supervisor: {id}: cannot rotate the log file {path:?}: {error}");
    }
    match open_log(path) {
        Ok(file) => Some(file),
        Err(error) => {
            tracing::warn!("supervisor: {id}: cannot open the log file {path:?}, its output is lost: {error}");
            None
        }
    }
}

fn open_log(path: &Path) -> io::Result<File> {
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(path)
}

/// The child's side of the gate.
struct Gate {
    pid_writer: io::PipeWriter,
    gate_reader: io::PipeReader,
    our_pidfd: OwnedFd,
    sockets: Vec<OwnedFd>,
    bond: Bond,
    standing: Standing,
    cage: Cage,
}

/// What a child gives up, and who it becomes.
struct Cage {
    /// Where that is another one.
    user: Option<User>,
    limits: Limits,
    capabilities: Option<u64>,
    no_new_privileges: bool,
    fence: Option<Fence>,
    filter: Option<Filter>,
}

impl Cage {
    /// Between `fork` and `exec`: system calls only. In the forked child there is one thread, so what is the thread's is
    /// the process's. Gives the errors of a kernel that puts it behind no fence or filter, which is no reason not to run.
    fn enter(&self) -> io::Result<Report> {
        if let Some(files) = self.limits.open_files {
            limit_open_files(files);
        }
        no_core_files();
        umask_of_others();
        let kept = self.capabilities.map(CapabilitySet::from_bits_retain);
        if let Some(kept) = kept {
            // While that may still be done.
            bound_capabilities(kept);
        }
        if let Some(user) = self.user {
            if kept.is_some_and(|kept| !kept.is_empty()) {
                rustix::thread::set_keep_capabilities(true)?;
            }
            become_user(user)?;
        }
        if let Some(kept) = kept {
            keep_capabilities(kept)?;
        }
        if self.no_new_privileges {
            rustix::thread::set_no_new_privs(true)?;
        }
        let number = |entered: io::Result<()>| entered.err().and_then(|error| error.raw_os_error()).unwrap_or_default();
        let fence = number(self.fence.as_ref().map_or(Ok(()), Fence::enter));
        // Last: behind it there is less that can be done.
        let filter = number(self.filter.as_ref().map_or(Ok(()), Filter::enter));
        Ok(Report { pid: 0, fence, filter })
    }
}

impl Gate {
    /// Everything the child does between `fork` and `exec`: system calls only, no allocation and no lock, because other
    /// threads of the parent may have held any lock at the time of the fork.
    fn pass(&mut self) -> io::Result<()> {
        // First: the parent's handlers share a pipe with the parent, and a signal to the child must not be heard there.
        // It also undoes signals the agent itself was started to ignore (SIGINT after `&`, SIGHUP after nohup).
        default_signals();
        match self.standing {
            Standing::Session => {
                rustix::process::setsid()?;
            }
            Standing::Group => {
                rustix::process::setpgid(None, None)?;
                leave_terminal();
            }
        }
        close_on_exec();
        for socket in &self.sockets {
            rustix::io::fcntl_setfd(socket, rustix::io::FdFlags::empty())?;
        }
        let report = self.cage.enter()?;
        // Behind the change of user, which the kernel takes as a reason to forget it.
        if self.bond == Bond::DiesWithUs {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        }
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        rustix::io::write(&self.pid_writer, &Report { pid, ..report }.to_bytes())?;
        let mut polled = [poll_in(&self.gate_reader), poll_in(&self.our_pidfd)];
        while let Err(error) = rustix::event::poll(&mut polled, None) {
            if error != rustix::io::Errno::INTR {
                return Err(error.into());
            }
        }
        let mut answer = [0u8; 1];
        if polled[0].revents().is_empty() || rustix::io::read(&self.gate_reader, &mut answer)? != 1 || answer[0] != 1 {
            return Err(rustix::io::Errno::CANCELED.into());
        }
        Ok(())
    }
}

/// Sets the limit of open files, or as much of it as may be had: whoever may not raise it keeps what there is.
fn limit_open_files(files: u64) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let wanted = Rlimit { current: Some(files), maximum: Some(files) };
    if setrlimit(Resource::Nofile, wanted).is_err() {
        let maximum = getrlimit(Resource::Nofile).maximum;
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
}

/// A memory image would hold keys and tokens, and lie where the kernel's pattern says. The hard limit stays: who wants one
/// can raise the soft one again.
fn no_core_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Core).maximum;
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum });
}

/// Files are never made writable for others, whatever the supervisor was started with.
fn umask_of_others() {
    use rustix::fs::Mode;
    let strict = Mode::WGRP | Mode::WOTH;
    let present = rustix::process::umask(strict);
    rustix::process::umask(present | strict);
}

/// Takes from what can ever be had. Who may not do that has nothing to take: see no-new-privileges.
fn bound_capabilities(kept: CapabilitySet) {
    for number in 0..63 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match rustix::thread::capability_is_in_bounding_set(capability) {
            Ok(true) if !kept.contains(capability) => {
                let _ = rustix::thread::remove_capability_from_bounding_set(capability);
            }
            Ok(_) => {}
            // The kernel has no more.
            Err(_) => break,
        }
    }
}

/// Gives everything up but `kept`, and that in a way that outlives the `exec`, also for others than root.
fn keep_capabilities(kept: CapabilitySet) -> io::Result<()> {
    let kept = rustix::thread::capabilities(None)?.permitted & kept;
    // Kernels without ambient capabilities have none to clear.
    let _ = rustix::thread::clear_ambient_capability_set();
    rustix::thread::set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable: kept })?;
    for capability in kept.iter() {
        let _ = rustix::thread::configure_capability_in_ambient_set(capability, true);
    }
    Ok(())
}

/// Becomes another user for good: real, effective and saved, in one group and no other. The kernel takes all
/// capabilities away with it that were not to be kept.
fn become_user(User { uid, gid }: User) -> io::Result<()> {
    let (uid, gid) = (rustix::process::Uid::from_raw(uid), rustix::process::Gid::from_raw(gid));
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}

fn poll_in<Fd: std::os::fd::AsFd>(fd: &Fd) -> rustix::event::PollFd<'_> {
    rustix::event::PollFd::new(fd, rustix::event::PollFlags::IN)
}

#[expect(unsafe_code, reason = "code between fork and exec; Gate::pass makes only async-signal-safe system calls")]
fn before_exec(command: &mut Command, mut gate: Gate) {
    // SAFETY: `pass` neither allocates nor takes locks and touches no memory but its own: it makes system calls on
    // descriptors it owns, and `io::Error` from an errno does not allocate.
    unsafe { command.pre_exec(move || gate.pass()) };
}

#[expect(unsafe_code, reason = "signal(2) has no safe form; called in the forked child only")]
fn default_signals() {
    for number in 1..=64 {
        // SAFETY: SIG_DFL installs no handler. Numbers that cannot be changed are refused by the call.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
}

/// Takes the terminal of our session from the child that stays in it: it can neither read, write nor push characters there,
/// and the terminal has nothing to signal.
#[expect(unsafe_code, reason = "TIOCNOTTY has no safe form; called in the forked child only")]
fn leave_terminal() {
    // Before the `exec` there are no threads that could open it at the same time. Without a terminal this fails.
    if let Ok(terminal) = rustix::fs::open("/dev/tty", OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()) {
        // SAFETY: the descriptor is open, and the call takes no argument.
        unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCNOTTY) };
    }
}

/// Whatever a library opened without the flag is not inherited either. Kernels before 5.11 do not know the call, and
/// there the flags of the descriptors themselves must do.
#[expect(unsafe_code, reason = "close_range(2) has no safe form here; called in the forked child only")]
fn close_on_exec() {
    // SAFETY: CLOSE_RANGE_CLOEXEC closes nothing now; it only marks descriptors.
    unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

/// Removes the file that holds this pid. One that holds another is another process's.
pub(crate) fn remove_pid_file_of(path: &Path, pid: i32) {
    if std::fs::read_to_string(path).is_ok_and(|text| text.trim() == pid.to_string()) {
        let _ = std::fs::remove_file(path);
    }
}

/// Writes the pid file scripts look for; its loss is not worth a failed start.
pub(crate) fn write_pid_file(id: &str, path: &Path, pid: i32) {
    let write = || -> io::Result<()> {
        if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        let temporary = path.with_extension("pid-tmp");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        // With its end of line: `cat *.pid` of several must not make one number of them.
        file.write_all(format!("{pid}\n").as_bytes())?;
        std::fs::rename(&temporary, path)
    };
    if let Err(error) = write() {
        tracing::warn!("supervisor: {id}: cannot write the pid file {path:?}: {error}");
    }
}
