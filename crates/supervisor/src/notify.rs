//! The socket on which processes report: ready, stopping, a status text, and fields for their owner.
//!
//! It is the protocol of sd_notify, so that a program written for systemd works unchanged: datagrams of `NAME=value`
//! lines to the socket named by `NOTIFY_SOCKET`. `READY=1` and its withdrawal `READY=0`, `STATUS=`, `STOPPING=1` and
//! `X_LICTOR_…=` are understood; everything else is ignored, `MAINPID=` on purpose: who is supervised is not for a
//! message to change. A message counts when the kernel vouches that its sender is the supervised process or of its
//! session. `FDSTORE=1` and `FDSTOREREMOVE=1` with a `FDNAME=` leave listening sockets with the supervisor (see `kept`).
//!
//! The path is the same after a restart of the agent, so that adopted processes find the socket again. What they say
//! while no agent listens is lost: processes that want their fields known repeat them now and then.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lictor_task::descriptors;
use parking_lot::Mutex;
use rustix::net::SocketAddrUnix;
use tokio::io::Interest;
use tokio::sync::watch;

use crate::error::Error;
use crate::identity::Stat;
use crate::kept::Kept;
use crate::spec::sha256_hex;

/// The longest path of a unix socket, without the closing zero.
const LONGEST_PATH: usize = 107;
/// The longest message; a status text and a few fields are far below.
const LONGEST_MESSAGE: usize = 8192;
/// Messages that are received in one go, and how long the next one is waited for.
const MOST_AT_ONCE: usize = 256;
const LINGER: rustix::event::Timespec = rustix::event::Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
/// What is kept of a text or a field.
const LONGEST_VALUE: usize = 1024;
/// Fields kept per process.
const MOST_FIELDS: usize = 64;
/// Fields meant for the owner start with this.
const FIELD_PREFIX: &str = "X_LICTOR_";

/// How long nothing must be heard of a process that repeats everything every 10 seconds until that is remarkable: a message
/// may be lost, and a machine be busy.
pub(crate) const UNHEARD: Duration = Duration::from_secs(25);

/// What a process has said of itself since it was started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) ready: bool,
    pub(crate) stopping: bool,
    pub(crate) status: String,
    pub(crate) fields: BTreeMap<String, String>,
}

impl Said {
    /// Whether the process has said nothing of what all say that hand over.
    pub(crate) fn is_silent(&self) -> bool {
        self.status.is_empty() && self.fields.is_empty()
    }

    /// Takes in one message; tells whether anything changed.
    fn hear(&mut self, message: &str) -> bool {
        let before = self.clone();
        for (name, value) in message.lines().filter_map(|line| line.split_once('=')) {
            match name {
                "READY" => self.ready = value == "1",
                "STOPPING" => self.stopping = value == "1",
                "STATUS" => self.status = shortened(value),
                _ if name.starts_with(FIELD_PREFIX) => {
                    let known = self.fields.contains_key(name);
                    if known || (self.fields.len() < MOST_FIELDS && name.len() <= 128) {
                        self.fields.insert(name.to_owned(), shortened(value));
                    }
                }
                _ => {}
            }
        }
        *self != before
    }
}

fn shortened(value: &str) -> String {
    let mut end = value.len().min(LONGEST_VALUE);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    value[..end].to_owned()
}

/// Who reports as which process: by its pid, which a session may bear.
#[derive(Clone, Debug, Default)]
pub(crate) struct Registry(Arc<Mutex<HashMap<i32, Reporter>>>);

/// One process that reports.
#[derive(Debug)]
struct Reporter {
    id: String,
    said: watch::Sender<Said>,
    /// When it was last heard.
    heard: Arc<Mutex<Option<Instant>>>,
    /// Where its sockets are kept; `None` once another process has taken over from it.
    kept: Option<Kept>,
}

impl Registry {
    /// Expects messages from the session of `pid`, which runs as `id` and may leave sockets with `kept`.
    pub(crate) fn expect(&self, id: &str, pid: i32, said: Said, kept: &Kept) -> Expected {
        let (sender, receiver) = watch::channel(said);
        let heard = Arc::<Mutex<Option<Instant>>>::default();
        let reporter =
            Reporter { id: id.to_owned(), said: sender, heard: Arc::clone(&heard), kept: Some(kept.clone()) };
        self.0.lock().insert(pid, reporter);
        Expected { registry: self.clone(), pid, said: receiver, since: Instant::now(), heard }
    }

    /// The id under which a process, or the leader of its session, is supervised, and the pid of that one.
    pub(crate) fn leader_of(&self, pid: i32) -> Option<(String, i32)> {
        find(&self.0.lock(), pid).map(|(leader, reporter)| (reporter.id.clone(), leader))
    }

    fn hear(&self, heard: Heard) {
        let Heard { sender, message, sockets } = heard;
        let (Some(sender), Some(message)) = (sender, message) else {
            tracing::debug!("supervisor: an unreadable readiness message is ignored");
            return descriptors::close(sockets);
        };
        let kept = {
            let reporters = self.0.lock();
            let Some((_, reporter)) = find(&reporters, sender) else {
                tracing::debug!("supervisor: a message of process {sender}, which is not supervised, is ignored");
                return descriptors::close(sockets);
            };
            let now = Instant::now();
            let before = reporter.heard.lock().replace(now);
            // That it speaks again is news, whatever it says.
            let was_unheard = before.is_none_or(|before| now.duration_since(before) >= UNHEARD);
            reporter.said.send_if_modified(|said| said.hear(&message) || was_unheard);
            reporter.kept.clone().map(|kept| (kept, reporter.id.clone()))
        };
        match kept {
            Some((kept, id)) => keep(&kept, &id, &message, sockets),
            None => descriptors::close(sockets),
        }
    }
}

/// A sender of another pid namespace has the number 0 here, and so has a session whose leader is outside of ours:
/// nobody is registered under it. (`getsid` of rustix takes 0 for impossible.)
///
/// Never by the process group, which whoever is in the same session may enter. A process that leads a group in our session
/// is therefore only what it says itself.
fn find(reporters: &HashMap<i32, Reporter>, pid: i32) -> Option<(i32, &Reporter)> {
    let of = |leader| reporters.get(&leader).map(|reporter| (leader, reporter));
    of(pid).or_else(|| of(Stat::of(pid).ok()?.session))
}

/// Does what a message says about sockets.
fn keep(kept: &Kept, id: &str, message: &str, sockets: Vec<OwnedFd>) {
    let value =
        |wanted: &str| message.lines().filter_map(|line| line.split_once('=')).find(|(name, _)| *name == wanted);
    let Some((_, name)) = value("FDNAME") else { return descriptors::close(sockets) };
    if value("FDSTOREREMOVE").is_some_and(|(_, value)| value == "1") {
        kept.remove(name);
    } else if value("FDSTORE").is_some_and(|(_, value)| value == "1") {
        if !kept.put(name, sockets) {
            tracing::debug!("supervisor: {id}: the sockets of {name:?} are more than are kept for one process");
        }
        return;
    }
    descriptors::close(sockets);
}

/// The receiving end for one process; dropped when it is gone.
#[derive(Debug)]
pub(crate) struct Expected {
    registry: Registry,
    pid: i32,
    pub(crate) said: watch::Receiver<Said>,
    /// Since when it is expected.
    pub(crate) since: Instant,
    heard: Arc<Mutex<Option<Instant>>>,
}

impl Expected {
    /// When it was last heard; `None` when it was not yet.
    pub(crate) fn last_heard(&self) -> Option<Instant> {
        *self.heard.lock()
    }

    /// What this process says of sockets no longer counts: another one has them now.
    pub(crate) fn keep_no_more_sockets(&self) {
        if let Some(reporter) = self.registry.0.lock().get_mut(&self.pid).filter(|reporter| self.is_of(reporter)) {
            reporter.kept = None;
        }
    }

    /// The number of a process that has ended may be another one's before its owner has heard of the end.
    fn is_of(&self, reporter: &Reporter) -> bool {
        Arc::ptr_eq(&reporter.heard, &self.heard)
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        let mut reporters = self.registry.0.lock();
        if reporters.get(&self.pid).is_some_and(|reporter| self.is_of(reporter)) {
            reporters.remove(&self.pid);
        }
    }
}

/// The bound socket.
#[derive(Debug)]
pub(crate) struct Ear {
    socket: tokio::net::UnixDatagram,
    path: PathBuf,
}

impl Ear {
    /// Listens for the supervisor of `directory`. Must be called within the runtime, by the holder of the directory's
    /// lock: a socket left there by a predecessor is replaced.
    pub(crate) fn bind(directory: &Path, user: u32) -> Result<Ear, Error> {
        let path = directory.join("notify");
        let path = if path.as_os_str().len() <= LONGEST_PATH {
            path
        } else {
            let short = short_directory(directory, user);
            private_directory(&short, user).map_err(|source| Error::Notify { path: short.clone(), source })?;
            short.join("notify")
        };
        Ear::bind_at(path)
    }

    /// Listens for processes of other users, too. Whoever can write to the socket is heard; what counts is, as ever, who
    /// the kernel says it is.
    pub(crate) fn bind_open(directory: &Path) -> Result<Ear, Error> {
        let ear = Ear::bind_at(directory.join("notify"))?;
        let open = std::fs::Permissions::from_mode(0o666);
        match std::fs::set_permissions(&ear.path, open) {
            Ok(()) => Ok(ear),
            Err(source) => Err(Error::Notify { path: ear.path, source }),
        }
    }

    fn bind_at(path: PathBuf) -> Result<Ear, Error> {
        let bind = || -> io::Result<tokio::net::UnixDatagram> {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let socket = UnixDatagram::unbound()?;
            socket.set_nonblocking(true)?;
            // Before it can be found: the kernel vouches only for what is sent after this.
            rustix::net::sockopt::set_socket_passcred(&socket, true)?;
            rustix::net::bind(&socket, &SocketAddrUnix::new(&path)?)?;
            tokio::net::UnixDatagram::from_std(socket)
        };
        match bind() {
            Ok(socket) => Ok(Ear { socket, path }),
            Err(source) => Err(Error::Notify { path, source }),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Hears messages for ever.
    ///
    /// Anybody may send descriptors along, and when there is no number left for one the kernel closes it in the very call
    /// that receives it. So no thread that has something else to do makes this call.
    pub(crate) async fn listen(self, registry: Registry) {
        let Ear { socket, path } = self;
        let socket = Arc::new(socket);
        loop {
            let heard = match socket.readable().await.and_then(|()| descriptors::may_receive()) {
                Ok(()) => {
                    let socket = Arc::clone(&socket);
                    let registry = registry.clone();
                    let receiving = descriptors::apart(move || hear_burst(&socket, &registry));
                    receiving.await.unwrap_or_else(|| Err(io::Error::other("no thread is left for it")))
                }
                Err(error) => Err(error),
            };
            match heard {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    tracing::warn!("supervisor: cannot receive readiness messages on {path:?}: {error}");
                    // An error that stays must not become a busy loop.
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}

/// One message with the pid the kernel vouches for, if it does.
struct Heard {
    sender: Option<i32>,
    /// `None` for one that is no text or too long.
    message: Option<String>,
    sockets: Vec<OwnedFd>,
}

/// Hears what waits, and what comes soon after. The kernel keeps only a few messages (`net.unix.max_dgram_qlen`) and turns the
/// others away, which hundreds of processes that start together have to say, while the runtime has hundreds of other things
/// to do.
fn hear_burst(socket: &tokio::net::UnixDatagram, registry: &Registry) -> io::Result<()> {
    for _ in 0..MOST_AT_ONCE {
        match receive(socket) {
            Ok(heard) => registry.hear(heard),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut polled = [rustix::event::PollFd::new(socket, rustix::event::PollFlags::IN)];
                if !matches!(rustix::event::poll(&mut polled, Some(&LINGER)), Ok(1..)) {
                    break;
                }
            }
            Err(error) => return Err(error),
        }
    }
    // So that the runtime knows whether there is more.
    registry.hear(socket.try_io(Interest::READABLE, || receive(socket))?);
    Ok(())
}

fn receive(socket: &tokio::net::UnixDatagram) -> io::Result<Heard> {
    let mut buffer = [0u8; LONGEST_MESSAGE];
    let mut sockets = Vec::new();
    let told = descriptors::receive_message(socket, &mut buffer, &mut sockets)?;
    let whole = buffer.get(..told.length).filter(|_| told.whole);
    let message = whole.and_then(|bytes| std::str::from_utf8(bytes).ok()).map(str::to_owned);
    Ok(Heard { sender: told.sender, message, sockets })
}

/// Where the socket is when the directory's own path is too long: always the same place for the same directory.
fn short_directory(directory: &Path, user: u32) -> PathBuf {
    let hash = sha256_hex(directory.as_os_str().as_encoded_bytes());
    PathBuf::from(format!("/tmp/lictor-{user}-{}", &hash[..16]))
}

/// Makes a directory that only `user` can enter. In a place where everybody may create names, one that is somebody
/// else's or open to others must not be used.
fn private_directory(path: &Path, user: u32) -> io::Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let found = std::fs::symlink_metadata(path)?;
    if !found.is_dir() || found.uid() != user || found.mode() & 0o077 != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "it exists and is not private to the agent's user",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::mem::MaybeUninit;

    use super::*;

    fn user() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    #[test]
    fn a_message_is_taken_line_by_line_and_what_is_not_known_is_ignored() {
        let mut said = Said::default();
        assert!(said.hear("READY=1\nSTATUS=serving\nMAINPID=1\nX_LICTOR_PORT=20000\nnonsense\nX_OTHER=1"));
        let fields = BTreeMap::from([("X_LICTOR_PORT".to_owned(), "20000".to_owned())]);
        assert_eq!(said, Said { ready: true, stopping: false, status: "serving".into(), fields });
        assert!(!said.hear("READY=1"), "nothing new");
        assert!(said.hear("READY=0\nSTOPPING=1"));
        assert!(!said.ready && said.stopping);
    }

    #[test]
    fn a_talkative_process_is_cut_short() {
        let mut said = Said::default();
        let long = "ü".repeat(LONGEST_VALUE);
        said.hear(&format!("STATUS={long}"));
        assert_eq!(said.status.len(), LONGEST_VALUE);
        for n in 0..1000 {
            said.hear(&format!("X_LICTOR_{n}=1"));
        }
        assert_eq!(said.fields.len(), MOST_FIELDS);
    }

    #[tokio::test]
    async fn a_message_of_the_process_itself_counts_and_one_of_a_stranger_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let ear = Ear::bind(directory.path(), user()).unwrap();
        let path = ear.path().to_owned();
        let registry = Registry::default();
        let us = i32::try_from(std::process::id()).unwrap();
        let scope = lictor_task::Scope::new("test");
        scope.spawn("ear", ear.listen(registry.clone()));
        let client = UnixDatagram::unbound().unwrap();
        // Not expected yet, so this one is lost.
        client.send_to(b"STATUS=early", &path).unwrap();
        client.send_to(&[0xff], &path).unwrap();
        client.send_to(&[b'x'; LONGEST_MESSAGE + 1], &path).unwrap();
        // An unknown process of our session counts for its leader.
        let session = Stat::of(us).unwrap().session;
        tokio::task::yield_now().await;
        let mut expected = registry.expect("p", us, Said::default(), &Kept::default());
        client.send_to(b"READY=1", &path).unwrap();
        expected.said.wait_for(|said| said.ready).await.unwrap();
        drop(expected);
        let mut leader = registry.expect("p", session, Said::default(), &Kept::default());
        client.send_to(b"STATUS=from a child", &path).unwrap();
        leader.said.wait_for(|said| said.status == "from a child").await.unwrap();
    }

    #[test]
    fn the_end_of_a_process_takes_nothing_from_another_one_that_has_its_number_by_now() {
        let (registry, pid) = (Registry::default(), i32::try_from(std::process::id()).unwrap());
        let former = registry.expect("former", pid, Said::default(), &Kept::default());
        let present = registry.expect("present", pid, Said::default(), &Kept::default());
        former.keep_no_more_sockets();
        drop(former);
        let message = || Heard { sender: Some(pid), message: Some("READY=1".into()), sockets: Vec::new() };
        registry.hear(message());
        assert!(present.said.borrow().ready);
        assert!(registry.0.lock()[&pid].kept.is_some(), "its sockets are kept");
        drop(present);
        assert!(registry.0.lock().is_empty());
    }

    /// More than are received in one go, and each one is heard.
    #[tokio::test]
    async fn hundreds_of_messages_at_once_are_all_heard() {
        let directory = tempfile::tempdir().unwrap();
        let ear = Ear::bind(directory.path(), user()).unwrap();
        let (path, registry) = (ear.path().to_owned(), Registry::default());
        let us = i32::try_from(std::process::id()).unwrap();
        let kept = Kept::default();
        let expected = registry.expect("p", us, Said::default(), &kept);
        let scope = lictor_task::Scope::new("test");
        scope.spawn("ear", ear.listen(registry.clone()));
        // It waits wherever the kernel has no room.
        let sending = tokio::task::spawn_blocking(move || {
            let client = UnixDatagram::unbound().unwrap();
            for number in 0..3 * MOST_AT_ONCE {
                let field = format!("X_LICTOR_{}={number}", number % MOST_FIELDS);
                client.send_to(field.as_bytes(), &path).unwrap();
            }
        });
        sending.await.unwrap();
        let whole = |said: &Said| {
            let last = (0..MOST_FIELDS).map(|place| 3 * MOST_AT_ONCE - MOST_FIELDS + place);
            last.into_iter().all(|number| {
                said.fields.get(&format!("X_LICTOR_{}", number % MOST_FIELDS)) == Some(&number.to_string())
            })
        };
        let mut said = expected.said.clone();
        tokio::time::timeout(Duration::from_secs(20), said.wait_for(whole)).await.unwrap().unwrap();
    }

    #[test]
    fn whoever_enters_the_group_of_a_process_is_not_taken_for_it() {
        use std::os::unix::process::CommandExt;

        let sleep = |group: i32| std::process::Command::new("sleep").arg("1000").process_group(group).spawn().unwrap();
        let pid = |child: &std::process::Child| i32::try_from(child.id()).unwrap();
        let mut leader = sleep(0);
        let mut stranger = sleep(pid(&leader));
        assert_eq!(Stat::of(pid(&stranger)).unwrap().group, pid(&leader));
        let registry = Registry::default();
        let _expected = registry.expect("p", pid(&leader), Said::default(), &Kept::default());
        assert_eq!(registry.leader_of(pid(&leader)), Some(("p".into(), pid(&leader))));
        assert_eq!(registry.leader_of(pid(&stranger)), None);
        for child in [&mut leader, &mut stranger] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    #[tokio::test]
    async fn a_descriptor_whose_closing_sleeps_keeps_nobody_waiting() {
        use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sockopt};
        use std::io::Write;

        const LINGER: Duration = Duration::from_secs(120);
        let directory = tempfile::tempdir().unwrap();
        let ear = Ear::bind(directory.path(), user()).unwrap();
        let client = UnixDatagram::unbound().unwrap();
        client.connect(ear.path()).unwrap();
        let registry = Registry::default();
        let scope = lictor_task::Scope::new("test");
        scope.spawn("ear", ear.listen(registry.clone()));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut others = Vec::new();
        let mut send = |message: &[u8]| {
            // A connection that nobody reads: its last descriptor is closed when all has been sent, or after a time.
            let mut full = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            others.push(listener.accept().unwrap());
            full.set_nonblocking(true).unwrap();
            while full.write(&[0; 1 << 16]).is_ok() {}
            sockopt::set_socket_linger(&full, Some(LINGER)).unwrap();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let sent = [std::os::fd::AsFd::as_fd(&full)];
            control.push(SendAncillaryMessage::ScmRights(&sent));
            rustix::net::sendmsg(&client, &[io::IoSlice::new(message)], &mut control, SendFlags::empty()).unwrap();
        };
        let started = Instant::now();
        // Of a stranger, unreadable, and not to be kept.
        send(b"FDSTORE=1\nFDNAME=a");
        send(&[0xff]);
        let us = i32::try_from(std::process::id()).unwrap();
        let mut expected = registry.expect("p", us, Said::default(), &Kept::default());
        send(b"FDSTORE=1\nFDNAME=a");
        send(b"READY=1");
        expected.said.wait_for(|said| said.ready).await.unwrap();
        assert!(started.elapsed() < LINGER / 2, "it was heard after {:?}", started.elapsed());
    }

    #[tokio::test]
    async fn whoever_finds_the_socket_is_known_from_the_first_message_on() {
        use std::sync::atomic::{AtomicBool, Ordering};

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let over = Arc::new(AtomicBool::new(false));
        let client = UnixDatagram::unbound().unwrap();
        client.set_nonblocking(true).unwrap();
        let eager = std::thread::spawn({
            let (path, over) = (path.clone(), Arc::clone(&over));
            move || {
                while !over.load(Ordering::Relaxed) {
                    // Mostly there is nobody.
                    let _ = client.send_to(b"READY=1", &path);
                }
            }
        });
        let us = i32::try_from(std::process::id()).unwrap();
        let mut senders = Vec::new();
        while senders.len() < 500 {
            let ear = Ear::bind_at(path.clone()).unwrap();
            while let Ok(heard) = receive(&ear.socket) {
                senders.extend(heard.sender);
            }
        }
        over.store(true, Ordering::Relaxed);
        eager.join().unwrap();
        assert!(senders.iter().all(|sender| *sender == us), "{senders:?}");
    }

    #[tokio::test]
    async fn a_path_that_is_too_long_is_replaced_by_the_same_short_private_one_each_time() {
        let directory = tempfile::tempdir().unwrap();
        let deep = directory.path().join("x".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let first = Ear::bind(&deep, user()).unwrap().path().to_owned();
        let second = Ear::bind(&deep, user()).unwrap().path().to_owned();
        assert_eq!(first, second);
        assert!(first.as_os_str().len() <= LONGEST_PATH);
        let parent = first.parent().unwrap();
        assert_eq!(std::fs::metadata(parent).unwrap().mode() & 0o777, 0o700);

        // Somebody else could have come first.
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(parent, std::fs::Permissions::from_mode(0o755)).unwrap();
        let error = Ear::bind(&deep, user()).unwrap_err();
        assert!(error.chain().contains("not private"), "{}", error.chain());
        std::fs::remove_dir_all(parent).unwrap();
    }
}
