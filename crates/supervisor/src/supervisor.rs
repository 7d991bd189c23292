//! The supervisor: what its owner wants, declared process by process, and what runs, as a watch.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::future::Future;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lictor_task::{Scope, listening};
use parking_lot::Mutex;
use rustix::fs::FlockOperation;
use tokio::sync::watch;

use crate::adopt::{self, Unrecorded};
use crate::error::Error;
use crate::group::Groups;
use crate::identity;
use crate::launch::Bond;
use crate::notify::{Ear, Registry};
use crate::process::{self, Live, Process};
use crate::record::{self, Record, Records, Role};
use crate::spec::{Fingerprint, Limits, Spec, User, sha256_hex};
use crate::status::Status;

/// How long a supervisor that was just killed may still hold its lock through a child at the gate.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// How long the tasks of processes may take to let go; they wait for nothing.
const LETTING_GO: Duration = Duration::from_secs(5);

/// How long a process may drain of which nothing is known but that it does: as long as is usual.
const USUAL_DRAIN_MS: i64 = 300_000;

/// What a supervisor needs to know at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its own directory, made if it is not there, private to its user.
    pub directory: PathBuf,
    /// Whether its processes outlive it.
    pub lifetime: Lifetime,
    /// Whether processes may be started as the supervisor's own user.
    pub gate: Gate,
    /// A directory that other users can enter, where their processes report; needed for processes of other users only.
    pub open_directory: Option<PathBuf>,
}

/// What becomes of the processes when the supervisor ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// They go on and are adopted by the next supervisor of the same directory.
    Persistent,
    /// They end with it, also when it is killed, and those that an earlier one left running are taken over.
    Bound,
    /// They end with it, also when it is killed, and nothing is remembered of them.
    Ephemeral,
}

/// Whether processes of the supervisor's own user may be started and adopted. Those of others always may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gate {
    /// They may.
    Open,
    /// They may not, for this reason. What runs is left alone and not restarted when it ends.
    Refused(String),
}

/// What to do with what runs when the supervisor ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Farewell {
    /// Leave it running, to be adopted. A supervisor whose processes end with it stops everything all the same.
    Leave,
    /// Stop it all, and be done when it is gone.
    StopAll,
}

/// What the owner wants of one process.
#[derive(Clone, Debug)]
pub(crate) struct Desired {
    pub(crate) wish: Wish,
    /// Counts the restarts asked for.
    pub(crate) restarts: u64,
}

/// See [`Desired`].
#[derive(Clone, Debug)]
pub(crate) enum Wish {
    /// It was adopted and the owner has not spoken of it yet.
    Undeclared,
    Wanted(Arc<Spec>),
    Unwanted,
}

/// The owner's ends of one process's task.
#[derive(Debug)]
struct Handle {
    desired: watch::Sender<Desired>,
    /// Dropped by the task when the process is gone.
    done: watch::Receiver<()>,
    done_sender: Option<watch::Sender<()>>,
}

/// The living processes of one id, as an earlier supervisor left them. There are several only when it died around a
/// handover.
#[derive(Default)]
pub(crate) struct Family {
    pub(crate) current: Option<Live>,
    successor: Option<Live>,
    pub(crate) retired: Vec<Live>,
    /// Successors that were not ready yet, and processes that no record tells of: one is started anew when it is wanted.
    pub(crate) unneeded: Vec<Live>,
}

impl Family {
    /// What of these records of one id runs. An error when that cannot be told of all of them now.
    pub(crate) fn of(house: &House, records: Vec<Record>) -> Result<Family, Error> {
        let mut family = Family::default();
        for record in records {
            if let Some(live) = process::adopt(house, record)? {
                family.take(live);
            }
        }
        Ok(family.settle(house))
    }

    fn take(&mut self, live: Live) {
        match live.record.role {
            Role::Current => self.current = Some(live),
            Role::Successor => self.successor = Some(live),
            Role::Retired { .. } => self.retired.push(live),
        }
    }

    /// Ends or takes back a handover that was half way.
    fn settle(mut self, house: &House) -> Family {
        if let Some(mut successor) = self.successor.take() {
            let old = successor.record.clone();
            match &self.current {
                Some(_) => self.unneeded.push(successor),
                None => {
                    successor.record.role = Role::Current;
                    if house.write_record(&successor.record) {
                        house.remove_record(&old);
                    }
                    self.current = Some(successor);
                }
            }
        }
        self
    }

    /// The records of all.
    fn records(&self) -> impl Iterator<Item = &Record> {
        self.current.iter().chain(&self.retired).chain(&self.unneeded).map(|live| &live.record)
    }

    /// Finds a place for a process that no record tells of.
    fn take_unrecorded(&mut self, house: &House, found: Unrecorded) {
        let now = process::unix_ms();
        let draining = Role::Retired { until_unix_ms: now + USUAL_DRAIN_MS };
        let listens = listening::listens(found.identity.pid);
        let drains = |current: &Live| listening::listens(current.record.identity.pid) == Some(false);
        let takes_over = listens == Some(true)
            && self.current.as_ref().is_some_and(|current| current.record.hands_over && drains(current));
        if takes_over && let Some(mut old) = self.current.take() {
            // It has handed over to this one, and that could not be recorded.
            old.expected.keep_no_more_sockets();
            old.record.role = draining;
            house.write_record(&old.record);
            self.retired.push(old);
        }
        let role = match listens {
            _ if self.current.is_none() => Role::Current,
            Some(false) => draining,
            Some(true) | None => Role::Retired { until_unix_ms: now },
        };
        // It will be replaced if it is wanted, by a handover if what is wanted can do that.
        let record = Record::new(found.id, found.identity, Fingerprint::of_nothing(), now);
        let record = Record { role, hands_over: true, ..record };
        house.write_record(&record);
        let id = record.id.clone();
        let live = match process::take_charge(house, record, found.pidfd) {
            Ok(live) => live,
            Err(error) => return tracing::error!("supervisor: {id}: {}", error.chain()),
        };
        match role {
            Role::Current => self.current = Some(live),
            _ if role == draining => self.retired.push(live),
            _ => self.unneeded.push(live),
        }
    }
}

/// What all processes of one supervisor share.
pub(crate) struct House {
    /// Tells this supervisor's processes from those of others on the machine.
    pub(crate) name: String,
    pub(crate) boot: String,
    pub(crate) user: u32,
    pub(crate) bond: Bond,
    pub(crate) registry: Registry,
    notify_path: PathBuf,
    open_notify_path: Option<PathBuf>,
    pub(crate) gate: watch::Sender<Gate>,
    records: Option<Records>,
    statuses: watch::Sender<Arc<BTreeMap<String, Status>>>,
    handles: Mutex<Handles>,
    groups: Mutex<Place>,
    /// Held for as long as anything of this supervisor may act.
    _lock: File,
}

/// Where control groups are made.
#[derive(Debug, Default)]
enum Place {
    /// Nobody has asked for limits that need one.
    #[default]
    Unasked,
    /// There.
    Found(Groups),
    /// This machine has none for us; that was said.
    None,
}

#[derive(Debug, Default)]
struct Handles {
    by_id: HashMap<String, Handle>,
    /// The supervisor ends: no new processes.
    closed: bool,
}

/// Keeps processes in their wanted state. Clones are handles to the same supervisor.
#[derive(Clone)]
pub struct Supervisor {
    house: Arc<House>,
    scope: Scope,
}

impl Supervisor {
    /// Takes charge of a directory and of the processes that an earlier supervisor of it left running.
    ///
    /// Those keep running until [`Supervisor::settled`], by which time the owner has declared the ones it wants. Must be
    /// called within the runtime; blocks for a moment.
    pub fn open(config: Config, scope: &Scope) -> Result<Supervisor, Error> {
        let Config { directory, lifetime, gate, open_directory } = config;
        let user = rustix::process::geteuid().as_raw();
        let directory = private_directory(&directory, user)?;
        let in_directory = |source| Error::Directory { path: directory.clone(), source };
        let lock = lock(&directory)?;
        let ear = Ear::bind(&directory, user)?;
        let open_ear = open_directory.map(|directory| Ear::bind_open(&directory)).transpose()?;
        let records = match lifetime {
            Lifetime::Ephemeral => None,
            Lifetime::Persistent | Lifetime::Bound => {
                let processes = directory.join("processes");
                std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&processes).map_err(in_directory)?;
                Some(Records::new(processes))
            }
        };
        let found = match &records {
            Some(records) => records.read_all()?,
            None => Vec::new(),
        };
        let house = Arc::new(House {
            name: sha256_hex(directory.as_os_str().as_encoded_bytes())[..16].to_owned(),
            boot: identity::boot_id()
                .map_err(|source| Error::Directory { path: "/proc/sys/kernel/random/boot_id".into(), source })?,
            user,
            bond: if lifetime == Lifetime::Persistent { Bond::Outlives } else { Bond::DiesWithUs },
            registry: Registry::default(),
            notify_path: ear.path().to_owned(),
            open_notify_path: open_ear.as_ref().map(|ear| ear.path().to_owned()),
            gate: watch::Sender::new(gate),
            records,
            statuses: watch::Sender::default(),
            handles: Mutex::default(),
            groups: Mutex::default(),
            _lock: lock,
        });
        let supervisor = Supervisor { house: Arc::clone(&house), scope: scope.child("supervisor") };
        supervisor.adopt_all(found);
        // Only now: what a process says before it is known would be lost, and it offers its sockets as soon as it sees us.
        for ear in [Some(ear), open_ear].into_iter().flatten() {
            let (stop, registry) = (supervisor.scope.stop_signal(), house.registry.clone());
            supervisor.scope.spawn("readiness", async move { stop.or_stopped(ear.listen(registry)).await });
        }
        Ok(supervisor)
    }

    fn adopt_all(&self, found: Vec<Record>) {
        let house = &self.house;
        let reason = match &*house.gate.borrow() {
            Gate::Open => None,
            Gate::Refused(reason) => Some(reason.clone()),
        };
        let may_adopt = |record: &Record| match &reason {
            Some(reason) if record.uid.is_none_or(|uid| uid == house.user) => {
                tracing::warn!("supervisor: {}: not adopting pid {}: {reason}", record.id, record.identity.pid);
                false
            }
            Some(_) | None => true,
        };
        // One of each, before any is adopted: two of one process would get into each other's way.
        let (found, superseded) = record::one_of_each(found.into_iter().filter(may_adopt).collect());
        superseded.iter().for_each(|record| house.remove_record(record));
        let mut by_id = BTreeMap::<String, Vec<Record>>::new();
        for record in found {
            by_id.entry(record.id.clone()).or_default().push(record);
        }
        let (mut known, mut unsure) = (BTreeMap::new(), BTreeMap::new());
        for (id, records) in by_id {
            match Family::of(house, records.clone()) {
                Ok(family) => drop(known.insert(id, family)),
                // All of one id or none: who is what to each other shows only when they are known together.
                Err(_) => drop(unsure.insert(id, records)),
            }
        }
        if house.records.is_some() {
            let recorded = known.values().flat_map(Family::records).chain(unsure.values().flatten());
            let recorded: Vec<&Record> = recorded.collect();
            let look = |is_theirs: &dyn Fn(u32) -> bool| {
                let mut found = adopt::unrecorded(&house.name, &house.boot, is_theirs, &recorded);
                found.retain(|found| !unsure.contains_key(&found.id));
                found
            };
            let strangers = look(&|user| user != house.user);
            let own = if reason.is_none() { look(&|user| user == house.user) } else { Vec::new() };
            for found in &strangers {
                tracing::warn!(
                    "supervisor: {}: pid {} runs as another user and without a record, so that nothing proves it to be \
                     ours: it is ended",
                    found.id,
                    found.identity.pid
                );
            }
            adopt::end(&strangers);
            for found in own {
                tracing::warn!("supervisor: {}: pid {} runs without a record", found.id, found.identity.pid);
                known.entry(found.id.clone()).or_default().take_unrecorded(house, found);
            }
        }
        for (id, family) in known.into_iter().filter(|(_, family)| family.records().next().is_some()) {
            self.adopt(id, |process| process.adopting(family));
        }
        for (id, records) in unsure {
            self.adopt(id, |process| process.unsure_of(records));
        }
    }

    fn adopt(&self, id: String, begin: impl FnOnce(Process) -> Process) {
        let mut handles = self.house.handles.lock();
        let (handle, desired) = Handle::new(Wish::Undeclared);
        handles.by_id.insert(id.clone(), handle);
        self.spawn(begin(Process::new(Arc::clone(&self.house), id, desired)));
    }

    fn spawn(&self, process: Process) {
        let stop = self.scope.stop_signal();
        self.scope.spawn("process", process.run(stop));
    }

    /// Wants a process as defined: starts it, leaves it as it is, or restarts it when its definition differs from what
    /// runs.
    pub fn want(&self, spec: Spec) {
        let mut handles = self.house.handles.lock();
        if handles.closed {
            return;
        }
        let id = spec.id.clone();
        let wish = Wish::Wanted(Arc::new(spec));
        match handles.by_id.get(&id) {
            Some(handle) => handle.desired.send_modify(|desired| desired.wish = wish),
            None => {
                let (handle, desired) = Handle::new(wish);
                handles.by_id.insert(id.clone(), handle);
                self.spawn(Process::new(Arc::clone(&self.house), id, desired));
            }
        }
    }

    /// Wants a process gone, from now on. The future is done when nothing of it is left, or when it is wanted again; it
    /// need not be polled for the stop to happen.
    pub fn unwant(&self, id: &str) -> impl Future<Output = ()> + Send + 'static {
        let handles = self.house.handles.lock();
        let ends = handles.by_id.get(id).map(|handle| {
            handle.desired.send_modify(|desired| desired.wish = Wish::Unwanted);
            (handle.done.clone(), handle.desired.subscribe())
        });
        async move {
            let Some((mut done, mut desired)) = ends else { return };
            tokio::select! {
                // Nothing is ever sent: an error means that the task is over.
                _ = done.changed() => {}
                _ = desired.wait_for(|desired| matches!(desired.wish, Wish::Wanted(_))) => {}
            }
        }
    }

    /// Restarts a process that is wanted, at once even when it waits for its next start; `false` when there is none.
    /// One that can hand over goes on until its successor is ready: [`Status::handover`] tells how that goes.
    pub fn restart(&self, id: &str) -> bool {
        let handles = self.house.handles.lock();
        handles.by_id.get(id).is_some_and(|handle| {
            handle.desired.send_if_modified(|desired| {
                let wanted = matches!(desired.wish, Wish::Wanted(_));
                desired.restarts += u64::from(wanted);
                wanted
            })
        })
    }

    /// Tells that everything wanted has been declared: adopted processes that were not are stopped.
    pub fn settled(&self) {
        for handle in self.house.handles.lock().by_id.values() {
            handle.desired.send_if_modified(|desired| {
                let undeclared = matches!(desired.wish, Wish::Undeclared);
                if undeclared {
                    desired.wish = Wish::Unwanted;
                }
                undeclared
            });
        }
    }

    /// Allows or forbids starts from now on.
    pub fn set_gate(&self, gate: Gate) {
        self.house.gate.send_if_modified(|present| std::mem::replace(present, gate.clone()) != gate);
    }

    /// All processes and where they stand. One that is gone for good is no longer listed.
    pub fn statuses(&self) -> watch::Receiver<Arc<BTreeMap<String, Status>>> {
        self.house.statuses.subscribe()
    }

    /// The id of the supervised process with this pid, or that started the process with this pid; `None` when it is not
    /// ours. The pid must be one that the kernel vouches for, such as the peer's of a unix socket.
    pub fn id_of_process(&self, pid: i32) -> Option<String> {
        self.house.registry.leader_of(pid).map(|(id, _)| id)
    }

    /// The path processes find in `NOTIFY_SOCKET`.
    pub fn notify_path(&self) -> &Path {
        &self.house.notify_path
    }

    /// Ends the supervisor. What is left running when it is over belongs to the next supervisor of the directory, once
    /// the last handle is dropped.
    pub async fn shutdown(&self, farewell: Farewell) {
        self.house.handles.lock().closed = true;
        if farewell == Farewell::StopAll || self.house.bond == Bond::DiesWithUs {
            let ids: Vec<String> = self.house.handles.lock().by_id.keys().cloned().collect();
            let stops: Vec<_> = ids.iter().map(|id| self.unwant(id)).collect();
            // All were asked at once; waiting for one after the other costs nothing. Where the scope was stopped from
            // outside nobody carries it out any more, and nobody is waited for.
            let gone = async {
                for stop in stops {
                    stop.await;
                }
            };
            self.scope.stop_signal().or_stopped(gone).await;
        }
        self.scope.join(LETTING_GO).await;
    }
}

impl Handle {
    fn new(wish: Wish) -> (Handle, watch::Receiver<Desired>) {
        let (desired, receiver) = watch::channel(Desired { wish, restarts: 0 });
        let (done_sender, done) = watch::channel(());
        (Handle { desired, done, done_sender: Some(done_sender) }, receiver)
    }
}

impl House {
    /// The end of a process's task, unless it has been wanted again in the meantime.
    pub(crate) fn forget_if_unwanted(&self, id: &str) -> bool {
        let mut handles = self.handles.lock();
        let wanted = |handle: &Handle| matches!(handle.desired.borrow().wish, Wish::Wanted(_));
        if handles.by_id.get(id).is_some_and(wanted) {
            return false;
        }
        self.statuses.send_if_modified(|statuses| Arc::make_mut(statuses).remove(id).is_some());
        if let Some(mut handle) = handles.by_id.remove(id) {
            drop(handle.done_sender.take());
        }
        true
    }

    /// Where processes of a user report.
    pub(crate) fn notify_path_of(&self, user: Option<User>) -> &Path {
        let other = user.filter(|user| user.uid != self.user);
        other.and(self.open_notify_path.as_deref()).unwrap_or(&self.notify_path)
    }

    /// Where control groups are made, if a process of these limits is to have one. Once one has, all get one, because
    /// none may stay where the others branch off. Blocks for a moment.
    pub(crate) fn groups(&self, limits: &Limits) -> Option<Groups> {
        let mut place = self.groups.lock();
        if matches!(*place, Place::Unasked) && limits.need_group() {
            *place = match Groups::open(&self.name, |pid| self.registry.leader_of(pid)) {
                Ok(groups) => Place::Found(groups),
                Err(reason) => {
                    tracing::warn!("supervisor: limits of memory and processor are not in force: {reason}");
                    Place::None
                }
            };
        }
        match &*place {
            Place::Found(groups) => Some(groups.clone()),
            Place::Unasked | Place::None => None,
        }
    }

    pub(crate) fn is_published(&self, id: &str) -> bool {
        self.statuses.borrow().contains_key(id)
    }

    pub(crate) fn publish(&self, id: &str, status: Status) {
        self.statuses.send_modify(|statuses| {
            Arc::make_mut(statuses).insert(id.to_owned(), status);
        });
    }

    /// Takes charge of what an earlier supervisor left running as `id`, if anything.
    pub(crate) fn take_over(&self, id: &str) -> Result<Option<Live>, Error> {
        let Some(records) = &self.records else { return Ok(None) };
        match records.find(id)? {
            Some(record) => process::adopt(self, record),
            None => Ok(None),
        }
    }

    /// A process that cannot be recorded is started all the same when nothing else runs: its mark finds it, and traffic
    /// matters more than a full disk. `false` when it is not recorded as it should be.
    pub(crate) fn write_record(&self, record: &Record) -> bool {
        let written = self.try_write_record(record);
        if let Err(error) = &written {
            tracing::warn!("supervisor: {}: {}", record.id, error.chain());
        }
        written.is_ok()
    }

    /// The same for a process without which things go on as well.
    pub(crate) fn try_write_record(&self, record: &Record) -> Result<(), Error> {
        self.records.as_ref().map_or(Ok(()), |records| records.write(record))
    }

    pub(crate) fn remove_record(&self, record: &Record) {
        if let Some(Err(error)) = self.records.as_ref().map(|records| records.remove(record)) {
            tracing::warn!("supervisor: {}: {}", record.id, error.chain());
        }
    }
}

/// Makes the directory if needed, insists that nobody else can enter it, and returns its real path.
fn private_directory(path: &Path, user: u32) -> Result<PathBuf, Error> {
    let failed = |source| Error::Directory { path: path.to_owned(), source };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    let path = path.canonicalize().map_err(failed)?;
    let found = std::fs::metadata(&path).map_err(failed)?;
    let mode = found.mode() & 0o777;
    if found.uid() != user || mode & 0o077 != 0 {
        return Err(Error::Exposed { path, wanted_user: user, user: found.uid(), mode });
    }
    Ok(path)
}

fn lock(directory: &Path) -> Result<File, Error> {
    let path = directory.join("lock");
    let failed = |source| Error::Directory { path: path.clone(), source };
    let file = File::options().write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(failed)?;
    let deadline = std::time::Instant::now() + LOCK_PATIENCE;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if std::time::Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(Error::InUse { path: directory.to_owned() }),
            Err(error) => return Err(failed(io::Error::from(error))),
        }
    }
}
