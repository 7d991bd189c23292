//! What one process should be: program, arguments, environment and how to stop it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};

use crate::machine::Policy;
use crate::output::Logs;

/// Gives environment entries for one start; called on a thread that may block.
pub type Draw = Arc<dyn Fn() -> BTreeMap<String, String> + Send + Sync>;

/// The definition of one supervised process.
///
/// Two definitions are the same when program, arguments, `environment`, `edition`, `user` and `stop_signal` are; the rest takes effect at
/// the next start and never causes one. `limits` take effect at once.
#[derive(Clone, Default)]
pub struct Spec {
    /// Names the process; any text.
    pub id: String,
    /// The program: a path, taken from the working directory when relative. There is no search in `PATH` and no shell.
    pub program: PathBuf,
    /// What stands for the program in comparisons; `None` means its path. An owner that starts its own binary gives a
    /// fixed word here, so that an upgrade that moved the binary does not restart what runs.
    pub program_key: Option<String>,
    /// The arguments after the program's name. They are visible to every user of the machine: no secrets here.
    pub args: Vec<String>,
    /// Environment entries that are part of the definition. Values may be secrets; they are never stored or logged.
    pub environment: BTreeMap<String, String>,
    /// Environment entries that are only passed along, such as `PATH`: a different value does not restart the process.
    /// An entry of `environment` with the same name wins.
    pub ambient: BTreeMap<String, String>,
    /// Draws environment entries anew for each start, such as a secret that nobody shall have kept: they are not part of
    /// the definition, and win over the others.
    pub drawn: Option<Draw>,
    /// A word that no process sees: a definition with another one is another definition.
    pub edition: String,
    /// Where standard output goes.
    pub stdout: Option<PathBuf>,
    /// Where standard error goes.
    pub stderr: Option<PathBuf>,
    /// Keeps those two files small; without it they grow.
    pub logs: Option<Logs>,
    /// A file that holds the pid while the process runs, for scripts that look for it.
    pub pid_file: Option<PathBuf>,
    /// Who it runs as; without it as the supervisor does. Only a supervisor that runs as root can start others' processes.
    pub user: Option<User>,
    /// What it may use of the machine.
    pub limits: Limits,
    /// What it may do that other processes of its user may not.
    pub privileges: Privileges,
    /// The files that it may touch; without it those that its user may.
    pub files: Option<Arc<Files>>,
    /// What sets it apart from the supervisor's own session.
    pub standing: Standing,
    /// What the process is asked to stop with.
    pub stop_signal: StopSignal,
    /// How it is replaced by another process of the same id.
    pub replacement: Replacement,
    /// When it is restarted, and how long it may take to stop.
    pub policy: Policy,
}

/// How a process is replaced by another one of the same id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replacement {
    /// It is stopped, and then the other one is started.
    #[default]
    StopThenStart,
    /// The other one is started beside it with the listening sockets that it has left with the supervisor (`FDSTORE=1`
    /// on its notify socket, numbers in `LICTOR_SOCKETS`). When that is ready, the older one gets `SIGUSR2`: it accepts
    /// no more and ends by itself when its last connection has.
    HandOver {
        /// How long its connections may go on before it is stopped like any other process.
        drain: Duration,
    },
}

impl Spec {
    /// The files that hold what the process says, standard error first: it tells why.
    pub(crate) fn log_files(&self) -> impl Iterator<Item = &Path> {
        self.stderr.as_deref().into_iter().chain(self.stdout.as_deref())
    }
}

/// What a process, with all that it starts, may use of the machine. What a machine cannot limit is left out, with a
/// warning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// How many files it may open; without it as many as the supervisor. More than the supervisor may, only if that may
    /// grant it.
    pub open_files: Option<u64>,
    /// Its memory in bytes; the kernel ends it when it needs more.
    pub memory: Option<u64>,
    /// Its share of the processor where that is short, from 1 to 10000. Without it as anybody else's, which is 100.
    pub cpu_weight: Option<u16>,
}

impl Limits {
    /// Whether they need a control group.
    pub(crate) fn need_group(&self) -> bool {
        self.memory.is_some() || self.cpu_weight.is_some()
    }
}

/// What a process may do that other processes of its user may not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Privileges {
    /// Whether it may come to more than it is given.
    pub gain: Gain,
    /// The capabilities that it, and what it starts, has and can ever have, as bits: of the supervisor's those that are
    /// among them. Without it the kernel's rules decide: a process of root has all, one of another user the ambient ones.
    pub capabilities: Option<u64>,
    /// Which system calls it may make.
    pub calls: Calls,
}

/// Whether a process may come to privileges by starting programs: setuid ones, and ones with capabilities in their file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gain {
    /// It may.
    #[default]
    Allowed,
    /// It may as long as its user is the supervisor's. As another user it may only if its own program is such a one.
    AsOurUser,
    /// It may not.
    Never,
}

/// Which system calls a process, with all that it starts, may make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Calls {
    /// Those that the kernel lets it make.
    #[default]
    All,
    /// Not those that no server makes, which mostly administer the machine. Only who cannot gain privileges can be kept
    /// from them, so that one that may has all.
    OfServers,
}

/// The files that a process, with all that it starts, may touch of those that its user may: these, and what it takes to start
/// it. It is kept from gaining privileges then, whatever else is said, because the kernel fences nobody in who might.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// What it may read, and start.
    pub read: Paths,
    /// What it may read, write, make and remove, but not start.
    pub write: Paths,
}

/// Absolute paths of files and folders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paths {
    /// What this list is called where somebody wrote it, for messages.
    pub key: String,
    /// Each with all that is below it.
    pub paths: Vec<PathBuf>,
}

/// What sets a process apart from the session of the supervisor, so that the end of that one does not reach it and it can be
/// ended with all that it started.
///
/// Where no control group shares the processor out, Linux shares it among sessions first (`sched_autogroup_enabled`), and
/// processes of several sessions that work for each other wait for each other longer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// A session of its own: what it starts counts as itself (its messages, its end), and no other process can enter.
    #[default]
    Session,
    /// A process group of its own in the supervisor's session, without its terminal: for a program that starts nothing.
    /// Messages of other processes never count as its own.
    Group,
}

/// A user and the one group that its processes are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// The user's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
}

/// The signal that asks a process to stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StopSignal {
    /// What the original sends.
    #[default]
    Interrupt,
    /// What most service managers send.
    Terminate,
}

impl fmt::Debug for Spec {
    /// Names of environment entries only: values may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spec")
            .field("id", &self.id)
            .field("program", &self.program)
            .field("args", &self.args)
            .field("environment", &self.environment.keys())
            .finish_non_exhaustive()
    }
}

/// A definition as it is remembered: comparable, and telling nothing of the secrets in it.
///
/// The salt is drawn at each start, so equal definitions of two processes cannot be recognised as equal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fingerprint {
    salt: String,
    digest: String,
}

impl Fingerprint {
    pub(crate) fn of(spec: &Spec) -> Fingerprint {
        let mut salt = [0u8; 16];
        // A generator that fails costs the salt's unlinkability, not the comparison.
        let _ = aws_lc_rs::rand::fill(&mut salt);
        let salt = hex(&salt);
        let digest = digest_of(spec, &salt);
        Fingerprint { salt, digest }
    }

    /// One that no definition has.
    pub(crate) fn of_nothing() -> Fingerprint {
        Fingerprint::of(&Spec { program: "\0".into(), ..Spec::default() })
    }

    /// Whether this is the fingerprint of an equal definition.
    pub(crate) fn matches(&self, spec: &Spec) -> bool {
        digest_of(spec, &self.salt) == self.digest
    }
}

/// Every part is preceded by its length, so that no two definitions can run together into the same bytes.
fn digest_of(spec: &Spec, salt: &str) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    let mut add = |part: &[u8]| {
        context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        context.update(part);
    };
    let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX).to_be_bytes();
    add(salt.as_bytes());
    match &spec.program_key {
        Some(key) => {
            add(b"key");
            add(key.as_bytes());
        }
        None => {
            add(b"path");
            add(spec.program.as_os_str().as_encoded_bytes());
        }
    }
    add(&count(spec.args.len()));
    for argument in &spec.args {
        add(argument.as_bytes());
    }
    add(&count(spec.environment.len()));
    for (name, value) in &spec.environment {
        add(name.as_bytes());
        add(value.as_bytes());
    }
    add(match spec.stop_signal {
        StopSignal::Interrupt => b"interrupt",
        StopSignal::Terminate => b"terminate",
    });
    // Left out where there is none, so that what earlier versions have started is still known.
    if !spec.edition.is_empty() {
        add(b"edition");
        add(spec.edition.as_bytes());
    }
    if let Some(User { uid, gid }) = spec.user {
        add(b"user");
        add(&uid.to_be_bytes());
        add(&gid.to_be_bytes());
    }
    hex(context.finish().as_ref())
}

/// SHA-256 of `bytes` in hexadecimal.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> Spec {
        Spec {
            id: "p".into(),
            program: "/bin/p".into(),
            args: vec!["a".into(), "b".into()],
            environment: [("TOKEN".to_owned(), "hidden".to_owned())].into(),
            ..Spec::default()
        }
    }

    #[test]
    fn only_what_matters_makes_a_definition_different() {
        let known = Fingerprint::of(&spec());
        assert!(known.matches(&spec()));
        let same = [
            Spec { ambient: [("PATH".to_owned(), "/x".to_owned())].into(), ..spec() },
            Spec { drawn: Some(Arc::new(BTreeMap::new)), ..spec() },
            Spec { stdout: Some("/log".into()), ..spec() },
            Spec { limits: Limits { open_files: Some(7), memory: Some(1), cpu_weight: Some(2) }, ..spec() },
            Spec {
                privileges: Privileges { gain: Gain::Never, capabilities: Some(0), calls: Calls::OfServers },
                ..spec()
            },
            Spec { files: Some(Arc::default()), ..spec() },
            Spec { policy: Policy { free_attempts: 9, ..Policy::default() }, ..spec() },
        ];
        for other in same {
            assert!(known.matches(&other), "{other:?}");
        }
        let different = [
            Spec { program: "/bin/q".into(), ..spec() },
            Spec { program_key: Some("/bin/p".into()), ..spec() },
            Spec { args: vec!["ab".into()], ..spec() },
            Spec { args: vec!["a".into(), "b".into(), String::new()], ..spec() },
            Spec { environment: BTreeMap::new(), ..spec() },
            Spec { environment: [("TOKEN".to_owned(), "other".to_owned())].into(), ..spec() },
            Spec { stop_signal: StopSignal::Terminate, ..spec() },
            Spec { user: Some(User { uid: 1, gid: 2 }), ..spec() },
            Spec { edition: "second".into(), ..spec() },
        ];
        for other in different {
            assert!(!known.matches(&other), "{other:?}");
        }
    }

    #[test]
    fn a_binary_known_by_its_key_may_move() {
        let old = Spec { program_key: Some("built-in".into()), ..spec() };
        let moved = Spec { program: "/opt/2/p".into(), ..old.clone() };
        assert!(Fingerprint::of(&old).matches(&moved));
    }

    #[test]
    fn secrets_are_neither_shown_nor_stored_and_equal_definitions_look_different() {
        let (one, two) = (Fingerprint::of(&spec()), Fingerprint::of(&spec()));
        assert_ne!(one, two);
        assert!(!serde_json::to_string(&one).unwrap().contains("hidden"));
        assert!(!format!("{:?}", spec()).contains("hidden"));
    }
}
