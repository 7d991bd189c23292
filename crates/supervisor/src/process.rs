//! One supervised process: asks the table what events mean and does what it says.
//!
//! Each process has a task of its own that owns its [`Machine`], so a stubborn one delays nobody else.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lictor_task::Stop;
use lictor_task::clock;
use rustix::process::Signal;
use tokio::sync::{oneshot, watch};

use crate::adopt::{self, Found, MARK};
use crate::error::Error;
use crate::group::Group;
use crate::identity::{self, Identity};
use crate::kept::Kept;
use crate::launch::{self, Bond, Launched};
use crate::machine::{Action, Event, Machine, Phase, Policy};
use crate::notify::{Expected, Said, UNHEARD};
use crate::record::{Record, Role};
use crate::retired::{self, Ending, Retired};
use crate::session::{Exit, Parent, Session};
use crate::spec::{Fingerprint, Limits, Replacement, Spec, StopSignal};
use crate::status::{Handover, LastExit, State, Status};
use crate::supervisor::{Desired, Family, Gate, House, Wish};

/// Lines of a process that are shown when it ends without being asked to.
const LAST_LINES: usize = 10;
/// What is shown of each.
const LONGEST_LINE: usize = 500;

/// A process that runs.
pub(crate) struct Live {
    pub(crate) session: Arc<Session>,
    pub(crate) expected: Expected,
    pub(crate) record: Record,
    /// Its actual start, which for an adopted one is long ago.
    since: Instant,
    adopted: bool,
    /// The limits that it has; not known of one that was found running.
    limits: Option<Limits>,
    /// The listening sockets it has left with us.
    kept: Kept,
    /// How long its log files were at its start; 0 where that is not known.
    log_positions: Vec<u64>,
}

impl Live {
    /// Since when nothing was heard of a process that reports now and then; `None` while that is as it should be.
    fn unheard_since(&self) -> Option<Instant> {
        match (self.record.hands_over, self.expected.last_heard()) {
            (false, _) => None,
            // It does not know of us yet, or has no way to us.
            (true, None) if self.adopted => Some(self.expected.since),
            (true, last) => Some(last.unwrap_or(self.expected.since)).filter(|last| last.elapsed() >= UNHEARD),
        }
    }

    /// When that changes unless it is heard.
    fn unheard_at(&self) -> Option<Instant> {
        let reports = self.record.hands_over && self.unheard_since().is_none();
        reports.then(|| self.expected.last_heard().unwrap_or(self.expected.since) + UNHEARD)
    }

    /// Waits for its end.
    fn ended(&self) -> Work {
        let (session, id) = (Arc::clone(&self.session), self.record.id.clone());
        Box::pin(async move { Outcome::Ended(session.ended(&id).await) })
    }
}

/// A process that an earlier agent started and that is known now.
fn tell_adopted(live: &Live) {
    let (id, pid, age) = (&live.record.id, live.session.pid(), rounded(live.since.elapsed()));
    tracing::info!("supervisor: {id}: adopted pid {pid}, running for {age:?}");
}

/// What a start was answered with.
pub(crate) enum Answer {
    Started(Box<Live>),
    Failed(Error),
}

/// What the task waits for besides its owner: the answer of a start, or the end of what runs. Never both.
pub(crate) enum Outcome {
    Answered(Box<Answer>),
    Ended(Exit),
}

pub(crate) type Work = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// A process that is to take over from what runs.
struct Next {
    /// `None` while its start is under way.
    live: Option<Live>,
    work: Work,
    /// Tells a start that waits for sockets to wait no longer. Dropped, it tells that nobody needs it any more.
    go_on: Option<oneshot::Sender<()>>,
}

/// How long a new process may take to take sockets over before they are closed: connections must not wait for nobody.
const INHERITANCE: Duration = Duration::from_secs(10);

/// How long a successor's start may wait for the sockets it is to inherit from an adopted process. That one sends them again
/// when it notices that its agent was restarted, at the latest with its reminder, every 10 seconds.
const SOCKETS_PATIENCE: Duration = Duration::from_secs(15);
const SOCKETS_LOOK: Duration = Duration::from_millis(50);

/// How often it is tried again to find out whether a process of an earlier agent runs.
const UNSURE_LOOK: Duration = Duration::from_secs(1);

/// How often the connections of draining processes are looked at.
const DRAINING_LOOK: Duration = Duration::from_secs(1);

/// The task of one process.
pub(crate) struct Process {
    house: Arc<House>,
    id: String,
    machine: Machine,
    desired: watch::Receiver<Desired>,
    gate: watch::Receiver<Gate>,
    restarts_asked: u64,
    spec: Option<Arc<Spec>>,
    /// Of what runs, is being started or was last tried.
    fingerprint: Option<Fingerprint>,
    live: Option<Live>,
    work: Option<Work>,
    next: Option<Next>,
    retired: Vec<Retired>,
    /// Listening sockets for whoever is started next.
    kept: Kept,
    /// When they are closed unless a new process has taken them over.
    kept_until: Option<Instant>,
    handover: Handover,
    /// How many processes have been what runs. One that was to become it and has not is none.
    starts: u32,
    /// Whether the record of an earlier agent was looked at.
    looked: bool,
    /// Records of an earlier agent of which it could not be told whether their processes run.
    unsure: Vec<Record>,
    refusal: Option<String>,
    last_exit: Option<LastExit>,
    next_try_unix_ms: Option<i64>,
    published: Status,
}

impl Process {
    pub(crate) fn new(house: Arc<House>, id: String, desired: watch::Receiver<Desired>) -> Process {
        let gate = house.gate.subscribe();
        Process {
            house,
            id,
            machine: Machine::new(Policy::default()),
            desired,
            gate,
            restarts_asked: 0,
            spec: None,
            fingerprint: None,
            live: None,
            work: None,
            next: None,
            retired: Vec::new(),
            kept: Kept::default(),
            kept_until: None,
            handover: Handover::None,
            starts: 0,
            looked: false,
            unsure: Vec::new(),
            refusal: None,
            last_exit: None,
            next_try_unix_ms: None,
            published: Status::default(),
        }
    }

    /// Begins with processes that run already.
    pub(crate) fn adopting(mut self, family: Family) -> Process {
        self.looked = true;
        let Family { current, retired, unneeded, .. } = family;
        current.iter().chain(&retired).chain(&unneeded).for_each(tell_adopted);
        if let Some(live) = current {
            self.step(Event::Adopted { since: live.since });
            self.fingerprint = Some(live.record.spec.clone());
            self.watch(live);
        }
        for live in retired {
            let work = live.ended();
            self.retired.push(Retired::draining(live, work));
        }
        for live in unneeded {
            let work = live.ended();
            self.retired.push(Retired::unneeded(Some(live), work, self.ending()));
        }
        self
    }

    /// Begins with records of which it cannot be told now whether their processes run.
    pub(crate) fn unsure_of(mut self, records: Vec<Record>) -> Process {
        self.unsure = records;
        self
    }

    /// Waits until it can be told what of an earlier agent runs. Nothing is started before, because it might be the second.
    async fn find_out(&mut self) -> Family {
        loop {
            let (house, records) = (Arc::clone(&self.house), self.unsure.clone());
            let looking = tokio::task::spawn_blocking(move || Family::of(&house, records));
            let cause = match looking.await {
                Ok(Ok(family)) => return family,
                Ok(Err(error)) => error.chain(),
                Err(error) if error.is_panic() => "the look panicked".to_owned(),
                // The runtime goes down.
                Err(_) => std::future::pending().await,
            };
            if self.refusal.as_ref() != Some(&cause) {
                tracing::error!("supervisor: {}: {cause}; nothing is started until that is known", self.id);
            }
            self.house.publish(
                &self.id,
                Status {
                    state: State::Failed,
                    since_unix_ms: unix_ms(),
                    refused: Some(cause.clone()),
                    ..Status::default()
                },
            );
            self.refusal = Some(cause);
            tokio::time::sleep(UNSURE_LOOK).await;
        }
    }

    /// Runs until the process is neither wanted nor there, or the scope stops and leaves it as it is.
    pub(crate) async fn run(mut self, stop: Stop) {
        if !self.unsure.is_empty() {
            let Some(family) = stop.or_stopped(self.find_out()).await else { return };
            self.refusal = None;
            self = self.adopting(family);
        }
        // What the owner said before this task began.
        self.heed();
        loop {
            self.settle_limits().await;
            self.publish();
            let nothing_left = self.machine.phase() == Phase::Stopped && self.retired.is_empty();
            if nothing_left && self.house.forget_if_unwanted(&self.id) {
                return;
            }
            let deadline = self.deadline();
            tokio::select! {
                biased;
                () = stop.requested() => return,
                outcome = finished(&mut self.work) => {
                    self.work = None;
                    match outcome {
                        Outcome::Answered(answer) => self.answered(*answer),
                        Outcome::Ended(exit) => self.ended(exit).await,
                    }
                }
                outcome = successor(&mut self.next) => match outcome {
                    Some(outcome) => self.successor_outcome(outcome).await,
                    None => self.note_successor().await,
                },
                (place, outcome) = retired::outcome(&mut self.retired) => self.retired_outcome(place, outcome).await,
                Ok(()) = self.desired.changed() => self.heed(),
                Ok(()) = self.gate.changed() => self.gate_changed(),
                () = said_something(&mut self.live) => self.note_readiness().await,
                () = sleep_until(deadline) => self.tick(),
            }
        }
    }

    /// When something is to be done even if nothing happens.
    fn deadline(&self) -> Option<Instant> {
        let retired = self.retired.iter().filter_map(Retired::deadline);
        let look = (!self.retired.is_empty()).then(|| Instant::now() + DRAINING_LOOK);
        let unheard = self.live.as_ref().and_then(Live::unheard_at);
        retired.chain(self.machine.deadline()).chain(self.kept_until).chain(look).chain(unheard).min()
    }

    fn tick(&mut self) {
        let (now, ending) = (Instant::now(), self.ending());
        for retired in &mut self.retired {
            retired.tick(now, ending);
        }
        if self.kept_until.is_some_and(|until| now >= until) {
            self.sockets_of_live();
        }
        self.step(Event::Tick);
    }

    /// What is kept waits for a process that has just begun.
    fn await_heir(&mut self) {
        self.kept_until = (!self.kept.is_empty()).then(|| Instant::now() + INHERITANCE);
    }

    /// From now on the sockets that count are those of what runs; any others are closed.
    fn sockets_of_live(&mut self) {
        self.kept_until = None;
        self.kept = self.live.as_ref().map(|live| live.kept.clone()).unwrap_or_default();
    }

    fn ending(&self) -> Ending {
        let spec = self.spec.as_ref();
        Ending {
            signal: stop_signal(spec.map(|spec| spec.stop_signal).unwrap_or_default()),
            grace: spec.map(|spec| spec.policy).unwrap_or_default().grace,
        }
    }

    /// Takes in what the owner wants.
    fn heed(&mut self) {
        let Desired { wish, restarts } = self.desired.borrow_and_update().clone();
        match wish {
            Wish::Undeclared => {}
            Wish::Unwanted => {
                let ending = self.ending();
                for retired in &mut self.retired {
                    retired.hurry(ending);
                }
                self.step(Event::Unwant);
            }
            Wish::Wanted(spec) => {
                let changed = self.fingerprint.as_ref().is_some_and(|known| !known.matches(&spec));
                let asked = restarts != self.restarts_asked;
                self.restarts_asked = restarts;
                self.machine.set_policy(spec.policy);
                let event = match (changed || asked, self.can_hand_over(&spec)) {
                    (false, _) => Event::Want,
                    (true, true) => Event::HandOver,
                    (true, false) => Event::Replace,
                };
                self.spec = Some(spec);
                if changed && self.live.is_some() && self.next.is_none() {
                    tracing::info!("supervisor: {}: its definition changed, restarting it", self.id);
                }
                self.step(event);
            }
        }
    }

    /// Gives what runs the limits that are wanted now. They are no reason to start it anew.
    async fn settle_limits(&mut self) {
        let Some(wanted) = self.spec.as_ref().map(|spec| spec.limits) else { return };
        let next = self.next.as_mut().and_then(|next| next.live.as_mut());
        let retired = self.retired.iter_mut().filter_map(|retired| retired.live.as_mut());
        for live in self.live.as_mut().into_iter().chain(next).chain(retired) {
            if live.limits == Some(wanted) {
                continue;
            }
            let (house, session, id) = (Arc::clone(&self.house), Arc::clone(&live.session), self.id.clone());
            let before = live.limits.replace(wanted);
            let _ = tokio::task::spawn_blocking(move || limit(&house, &session, &id, before, wanted)).await;
        }
    }

    /// Only a process that is ready has anything to hand over.
    fn can_hand_over(&self, spec: &Spec) -> bool {
        matches!(spec.replacement, Replacement::HandOver { .. })
            && self.live.as_ref().is_some_and(|live| live.record.hands_over && live.expected.said.borrow().ready)
    }

    fn gate_changed(&mut self) {
        if matches!(*self.gate.borrow_and_update(), Gate::Open) {
            self.refusal = None;
            self.step(Event::Allowed);
        }
    }

    fn step(&mut self, event: Event) {
        match self.machine.handle(event, Instant::now()) {
            None => {}
            Some(Action::Start) => self.start(),
            Some(Action::Stop) => {
                if let Some(live) = &self.live {
                    tracing::info!("supervisor: {}: stopping pid {}", self.id, live.session.pid());
                    live.session.stop(self.ending().signal);
                }
                self.drop_successor();
                if !self.machine.wanted() {
                    // Nobody comes any more who could accept what waits.
                    self.kept.clear();
                }
            }
            Some(Action::Kill) => {
                if let Some(live) = &self.live {
                    tracing::warn!(
                        "supervisor: {}: pid {} did not stop within the grace period, killing it",
                        self.id,
                        live.session.pid()
                    );
                    live.session.kill();
                }
            }
            Some(Action::StartSuccessor) => self.start_successor(),
            Some(Action::Promote) => self.promote(),
            Some(Action::DropSuccessor) => {
                let patience = self.spec.as_ref().map(|spec| spec.policy).unwrap_or_default().handover;
                let said = self.next.as_ref().and_then(|next| next.live.as_ref());
                let said = said.map(|live| live.expected.said.borrow().status.clone()).unwrap_or_default();
                self.handover_failed(format!("the successor did not become ready within {patience:?}: {said}"));
                self.drop_successor();
                self.give_up_who_is_not_heard();
            }
        }
        match self.machine.phase() {
            Phase::BackingOff { until } => {
                let wait = until.saturating_duration_since(Instant::now());
                self.next_try_unix_ms.get_or_insert_with(|| unix_ms() + millis(wait));
            }
            _ => self.next_try_unix_ms = None,
        }
        if matches!(self.machine.phase(), Phase::BackingOff { .. } | Phase::Stopped | Phase::Refused) {
            // Whoever connects shall be refused and try elsewhere, not wait for a start that may be far away.
            self.kept.clear();
        }
    }

    /// An adopted process that has said nothing since then has no way to us any more, as when the directory was moved: it
    /// can hand nothing over, and does not hear either what its agent has to say. There is no way but to stop it.
    fn give_up_who_is_not_heard(&mut self) {
        let adopted = self.live.as_ref().filter(|live| live.adopted);
        let Some(live) = adopted.filter(|live| live.expected.said.borrow().is_silent()) else { return };
        tracing::warn!(
            "supervisor: {}: pid {} was not heard since it was adopted and can hand nothing over, so it is stopped and \
             started anew",
            self.id,
            live.session.pid()
        );
        self.step(Event::Replace);
    }

    /// Whether starts are refused, and why.
    fn refused(&self) -> Option<String> {
        let own = self.spec.as_ref().and_then(|spec| spec.user).is_none_or(|user| user.uid == self.house.user);
        if !own {
            return None;
        }
        match &*self.gate.borrow() {
            Gate::Open => None,
            Gate::Refused(reason) => Some(reason.clone()),
        }
    }

    fn start(&mut self) {
        let Some(spec) = self.spec.clone() else { return };
        if let Some(reason) = self.refused() {
            if self.refusal.as_ref() != Some(&reason) {
                tracing::warn!("supervisor: {}: not starting it: {reason}", self.id);
            }
            self.refusal = Some(reason);
            return self.step(Event::StartRefused);
        }
        if spec.replacement == Replacement::StopThenStart {
            self.kept.clear();
        }
        self.await_heir();
        let fingerprint = Fingerprint::of(&spec);
        self.fingerprint = Some(fingerprint.clone());
        let look = !std::mem::replace(&mut self.looked, true);
        let (house, kept) = (Arc::clone(&self.house), self.kept.clone());
        self.work = Some(self.starting(move |spec| {
            let runs_already = if look { house.take_over(&spec.id)? } else { None };
            match runs_already {
                Some(live) => Ok(live),
                None => start(&house, spec, fingerprint, Role::Current, &kept),
            }
        }));
    }

    fn start_successor(&mut self) {
        if let Some(reason) = self.refused() {
            self.handover_failed(reason);
            return self.step(Event::StartRefused);
        }
        let Some(spec) = self.spec.clone() else { return };
        self.handover = Handover::UnderWay { pid: None };
        let (house, kept, fingerprint) = (Arc::clone(&self.house), self.kept.clone(), Fingerprint::of(&spec));
        let waited_for = self.kept.clone();
        let program = spec.program.clone();
        // One that we have started has sent its sockets before it was ready.
        let adopted = self.live.as_ref().filter(|live| live.adopted);
        let adopted = adopted.map(|live| (live.session.pid(), live.expected.said.clone()));
        let starting = self.starting(move |spec| start(&house, spec, fingerprint, Role::Successor, &kept));
        let (go_on, told) = oneshot::channel();
        let work = Box::pin(async move {
            let Some((pid, said)) = adopted else { return starting.await };
            let sockets = async {
                while waited_for.is_empty() {
                    tokio::time::sleep(SOCKETS_LOOK).await;
                }
            };
            let failed = |error| Outcome::Answered(Box::new(Answer::Failed(error)));
            tokio::select! {
                biased;
                told = told => if told.is_err() {
                    let source = std::io::Error::other("it is not needed any more");
                    return failed(Error::Start { program, source });
                },
                waited = tokio::time::timeout(SOCKETS_PATIENCE, sockets) => {
                    if waited.is_err() && said.borrow().is_silent() {
                        return failed(Error::Unheard { pid });
                    }
                }
            }
            starting.await
        });
        self.next = Some(Next { live: None, work, go_on: Some(go_on) });
    }

    /// One start, on a thread that may block.
    fn starting(&mut self, start: impl FnOnce(&Spec) -> Result<Live, Error> + Send + 'static) -> Work {
        let spec = self.spec.clone().unwrap_or_default();
        Box::pin(async move {
            let program = spec.program.clone();
            let starting = tokio::task::spawn_blocking(move || {
                start(&spec).map_or_else(Answer::Failed, |live| Answer::Started(Box::new(live)))
            });
            match starting.await {
                Ok(answer) => Outcome::Answered(Box::new(answer)),
                Err(error) if error.is_panic() => {
                    let source = std::io::Error::other("the start panicked");
                    Outcome::Answered(Box::new(Answer::Failed(Error::Start { program, source })))
                }
                // The runtime goes down; the gate sees to it that nothing unrecorded is left.
                Err(_) => std::future::pending().await,
            }
        })
    }

    /// The successor is what runs from now on; what ran, if it still does, lets its connections end.
    fn promote(&mut self) {
        let Some(Next { live: Some(mut live), work, .. }) = self.next.take() else { return };
        let old_work = self.work.replace(work);
        self.starts += 1;
        let mut unnoted = None;
        let mut before = None;
        if let (Some(mut old), Some(old_work)) = (self.live.take(), old_work) {
            let drain = match self.spec.as_ref().map(|spec| spec.replacement) {
                Some(Replacement::HandOver { drain }) => drain,
                Some(Replacement::StopThenStart) | None => Duration::ZERO,
            };
            let (new, gone) = (live.session.pid(), old.session.pid());
            tracing::info!(
                "supervisor: {}: pid {new} took over from pid {gone}, which drains for up to {drain:?}",
                self.id
            );
            old.expected.keep_no_more_sockets();
            before = Some(old.record.clone());
            old.record.role = Role::Retired { until_unix_ms: unix_ms() + millis(drain) };
            // First, so that it is never without a record.
            if !self.house.write_record(&old.record) {
                unnoted = Some(old.record.clone());
            }
            self.retired.push(Retired::draining(old, old_work));
        }
        if self.make_current(&mut live) {
            // Which has made room.
            if let Some(record) = &unnoted {
                self.house.write_record(record);
            }
        } else if let Some(before) = before {
            // What it says is no longer true, and the next agent would end the new process for it. The record of the
            // successor alone says what is.
            self.house.remove_record(&before);
        }
        self.fingerprint = Some(live.record.spec.clone());
        let has_all = has_taken_over(&live.expected.said.borrow());
        self.live = Some(live);
        self.handover = Handover::None;
        if has_all {
            self.sockets_of_live();
        } else {
            // What ran has ended before. Should this one end as well, the next one inherits them.
            self.await_heir();
        }
        // The owner may have wanted something else meanwhile.
        self.heed();
    }

    /// A successor is what runs from now on: its record and the pid file say so. `false` when the record cannot.
    fn make_current(&self, live: &mut Live) -> bool {
        let successor = live.record.clone();
        live.record.role = Role::Current;
        let recorded = self.house.write_record(&live.record);
        if recorded {
            self.house.remove_record(&successor);
        }
        if let Some(path) = self.spec.as_ref().and_then(|spec| spec.pid_file.as_deref()) {
            launch::write_pid_file(&self.id, path, live.session.pid());
        }
        recorded
    }

    fn drop_successor(&mut self) {
        if let Some(Next { live, work, .. }) = self.next.take() {
            self.retired.push(Retired::unneeded(live, work, self.ending()));
        }
        if matches!(self.handover, Handover::UnderWay { .. }) {
            self.handover = Handover::None;
        }
    }

    fn handover_failed(&mut self, cause: String) {
        tracing::warn!("supervisor: {}: cannot hand over, what runs goes on: {cause}", self.id);
        self.handover = Handover::Failed { cause, at_unix_ms: unix_ms() };
    }

    async fn successor_outcome(&mut self, outcome: Outcome) {
        let Some(mut next) = self.next.take() else { return };
        match outcome {
            Outcome::Answered(answer) if matches!(self.machine.phase(), Phase::HandingOver { .. }) => match *answer {
                Answer::Started(live) => {
                    tracing::info!("supervisor: {}: pid {} is to take over", self.id, live.session.pid());
                    self.handover = Handover::UnderWay { pid: u32::try_from(live.session.pid()).ok() };
                    (next.work, next.live) = (live.ended(), Some(*live));
                    self.next = Some(next);
                    self.step(Event::Started);
                }
                Answer::Failed(Error::Unheard { .. }) => {
                    self.handover = Handover::None;
                    self.step(Event::StartFailed { spread: fastrand::f64() });
                    self.give_up_who_is_not_heard();
                }
                Answer::Failed(error) => {
                    self.handover_failed(error.chain());
                    self.step(Event::StartFailed { spread: fastrand::f64() });
                }
            },
            // What ran ended in between, so this is an ordinary start.
            Outcome::Answered(answer) => self.answered(*answer),
            Outcome::Ended(exit) => {
                if let Some(live) = &next.live {
                    self.forget(live.record.clone()).await;
                    self.handover_failed(format!("the successor, pid {}, {exit}", live.session.pid()));
                }
                self.step(Event::SuccessorExited);
            }
        }
    }

    async fn retired_outcome(&mut self, place: usize, outcome: Outcome) {
        let ending = self.ending();
        match outcome {
            Outcome::Answered(answer) => match *answer {
                Answer::Started(live) => {
                    let work = live.ended();
                    if let Some(retired) = self.retired.get_mut(place) {
                        retired.arrived(*live, work, ending);
                    }
                }
                Answer::Failed(_) => drop(self.retired.swap_remove(place)),
            },
            Outcome::Ended(exit) => {
                let retired = self.retired.swap_remove(place);
                if let Some(live) = retired.live {
                    tracing::info!("supervisor: {}: pid {}, no longer needed, {exit}", self.id, live.session.pid());
                    self.forget(live.record).await;
                }
            }
        }
    }

    /// Removes the record of a process that is gone.
    async fn forget(&mut self, record: Record) {
        let house = Arc::clone(&self.house);
        if tokio::task::spawn_blocking(move || house.remove_record(&record)).await.is_err() {
            // The runtime goes down; the next supervisor finds the record and nobody who fits it.
            std::future::pending::<()>().await;
        }
    }

    /// A successor that is ready takes over.
    async fn note_successor(&mut self) {
        let Some(live) = self.next.as_mut().and_then(|next| next.live.as_mut()) else { return };
        let said = live.expected.said.borrow_and_update().clone();
        if has_taken_over(&said) {
            live.record.ready = said.ready;
            let (house, record) = (Arc::clone(&self.house), live.record.clone());
            let _ = tokio::task::spawn_blocking(move || house.write_record(&record)).await;
            self.step(Event::TookOver);
        }
    }

    fn answered(&mut self, answer: Answer) {
        match answer {
            Answer::Started(mut live) => {
                self.starts += 1;
                let pid = live.session.pid();
                if live.record.role == Role::Successor {
                    // What it was to take over from ended before it was there.
                    self.make_current(&mut live);
                }
                match &self.spec {
                    _ if live.adopted => tell_adopted(&live),
                    Some(spec) => tracing::info!("supervisor: {}: started {:?}, pid {pid}", self.id, spec.program),
                    None => {}
                }
                self.fingerprint = Some(live.record.spec.clone());
                self.watch(*live);
                self.step(Event::Started);
                // It was found running as an earlier agent had started it.
                self.heed();
            }
            Answer::Failed(error) => {
                if matches!(error, Error::Unsure { .. } | Error::Unread { .. }) {
                    // It is looked for again before anything is started.
                    self.looked = false;
                }
                let exit = Exit::NotStarted(error.chain());
                self.remember_exit(exit.clone(), Duration::ZERO, Vec::new());
                self.step(Event::StartFailed { spread: fastrand::f64() });
                // It is tried at once a few times; that is one failure, to be told once.
                if !matches!(self.machine.phase(), Phase::Starting { .. }) {
                    tracing::warn!("supervisor: {}: {exit}{}", self.id, self.next());
                }
            }
        }
    }

    /// From now on waits for the end of `live`.
    fn watch(&mut self, live: Live) {
        self.work = Some(live.ended());
        if live.adopted {
            // It sends its sockets again, and nobody else has any.
            self.kept = live.kept.clone();
        }
        self.live = Some(live);
    }

    async fn ended(&mut self, exit: Exit) {
        let Some(live) = self.live.take() else { return };
        self.forget(live.record.clone()).await;
        let told_by_owner = self.spec.as_ref().and_then(|spec| spec.pid_file.as_deref());
        if let Some(path) = live.record.pid_file.as_deref().or(told_by_owner) {
            launch::remove_pid_file_of(path, live.session.pid());
        }
        if self.kept.is_empty() {
            // It ended before it was ready, but not before it listened.
            self.kept = live.kept.clone();
        }
        let ran = live.since.elapsed();
        let asked = matches!(self.machine.phase(), Phase::Stopping { .. });
        // Two short reads: not worth a thread.
        let spec = self.spec.as_ref().filter(|_| !asked);
        let output = spec.map(|spec| last_lines(spec, &live.log_positions)).unwrap_or_default();
        self.remember_exit(exit.clone(), ran, output.clone());
        self.step(Event::Exited { spread: fastrand::f64() });
        if matches!(self.machine.phase(), Phase::Starting { .. })
            && let Some(next) = self.next.take()
        {
            // The successor that is being started is all there will be, and no more sockets come.
            if let Some(go_on) = next.go_on {
                let _ = go_on.send(());
            }
            self.work = Some(next.work);
            self.handover = Handover::None;
        }
        let (id, pid, ran) = (&self.id, live.session.pid(), rounded(ran));
        if asked {
            tracing::info!("supervisor: {id}: pid {pid} {exit} after {ran:?}, as asked");
        } else {
            tracing::warn!("supervisor: {id}: pid {pid} {exit} after {ran:?}{}", self.next());
            for line in &output {
                tracing::warn!("supervisor: {id}: pid {pid} said: {line}");
            }
        }
    }

    fn remember_exit(&mut self, exit: Exit, ran: Duration, output: Vec<String>) {
        self.last_exit = Some(LastExit { exit, at_unix_ms: unix_ms(), ran, output });
    }

    /// What follows, as the end of a log line.
    fn next(&self) -> String {
        match self.machine.phase() {
            Phase::BackingOff { until } => {
                format!(", next start in {:?}", rounded(until.saturating_duration_since(Instant::now())))
            }
            Phase::Starting { .. } => ", starting it again".to_owned(),
            _ => String::new(),
        }
    }

    /// The record tells the next agent whether it was ready: a process that is adopted does not start anew.
    async fn note_readiness(&mut self) {
        let Some(live) = &mut self.live else { return };
        let ready = live.expected.said.borrow_and_update().ready;
        if ready {
            self.kept_until = None;
            self.kept = live.kept.clone();
        }
        if live.record.ready != ready {
            live.record.ready = ready;
            tracing::info!(
                "supervisor: {}: pid {} is {}",
                self.id,
                live.session.pid(),
                if ready { "ready" } else { "no longer ready" }
            );
            let (house, record) = (Arc::clone(&self.house), live.record.clone());
            let _ = tokio::task::spawn_blocking(move || house.write_record(&record)).await;
        }
    }

    fn publish(&mut self) {
        let said = self.live.as_ref().map(|live| live.expected.said.borrow().clone()).unwrap_or_default();
        let state = match self.machine.phase() {
            Phase::Stopped => State::Stopped,
            Phase::Starting { .. } => State::Starting,
            Phase::Running { .. } | Phase::HandingOver { .. } if said.ready => State::Ready,
            Phase::Running { .. } | Phase::HandingOver { .. } => State::Running,
            Phase::BackingOff { .. } => State::BackingOff,
            Phase::Stopping { .. } => State::Stopping,
            Phase::Refused => State::Failed,
        };
        let since_unix_ms = match &self.live {
            _ if self.published.since_unix_ms != 0 && state == self.published.state => self.published.since_unix_ms,
            Some(live) if live.adopted && self.published.since_unix_ms == 0 => live.record.started_unix_ms,
            _ => unix_ms(),
        };
        let unheard = self.live.as_ref().and_then(Live::unheard_since);
        let unheard_since_unix_ms = unheard.map(|since| {
            // Said once: clocks differ by a little each time.
            let before = self.published.unheard_since_unix_ms;
            before.unwrap_or_else(|| unix_ms() - millis(since.elapsed()))
        });
        let status = Status {
            state,
            since_unix_ms,
            unheard_since_unix_ms,
            pid: self.live.as_ref().and_then(|live| u32::try_from(live.session.pid()).ok()),
            started_unix_ms: self.live.as_ref().map(|live| live.record.started_unix_ms),
            adopted: self.live.as_ref().is_some_and(|live| live.adopted),
            ready: state == State::Ready,
            restarts: self.starts.saturating_sub(1),
            last_exit: self.last_exit.clone(),
            next_try_unix_ms: self.next_try_unix_ms,
            refused: if state == State::Failed { self.refusal.clone() } else { None },
            text: said.status,
            fields: said.fields,
            handover: self.handover.clone(),
            draining: self.retired.iter().filter_map(Retired::status).collect(),
        };
        if status != self.published || !self.house.is_published(&self.id) {
            self.house.publish(&self.id, status.clone());
            self.published = status;
        }
    }
}

/// Whether a process has all sockets of the one before. Where it has said that, it need not be ready: what keeps it from being
/// so kept the other one as well.
fn has_taken_over(said: &Said) -> bool {
    said.ready || said.fields.get("X_LICTOR_TOOK_OVER").is_some_and(|value| value == "1")
}

/// The last lines that a process wrote to either of its files: what it said last is what matters. Blocks.
fn last_lines(spec: &Spec, positions: &[u64]) -> Vec<String> {
    let Some(logs) = &spec.logs else { return Vec::new() };
    let positions = positions.iter().copied().chain(std::iter::repeat(0));
    let lines = spec.log_files().zip(positions).map(|(path, from)| logs.last_lines(path, LAST_LINES, from));
    // A file that cannot be read is no reason to hide the other.
    let all: Vec<Vec<String>> = lines.map(Result::unwrap_or_default).collect();
    // It ends up in logs and on terminals: nothing that could take those over.
    let harmless = |line: String| line.chars().filter(|c| !c.is_control()).take(LONGEST_LINE).collect();
    all.into_iter().rev().flatten().map(harmless).collect()
}

/// Starts the program of `spec` with the sockets that were `kept`: blocks.
fn start(house: &House, spec: &Spec, fingerprint: Fingerprint, role: Role, kept: &Kept) -> Result<Live, Error> {
    let mut environment = spec.ambient.clone();
    environment.extend(spec.environment.clone());
    environment.extend(spec.drawn.as_ref().map(|draw| draw()).unwrap_or_default());
    let notify = house.notify_path_of(spec.user);
    environment.insert("NOTIFY_SOCKET".to_owned(), notify.to_string_lossy().into_owned());
    environment.insert(MARK.to_owned(), adopt::mark(&house.name, &spec.id));
    let hands_over = spec.replacement != Replacement::StopThenStart;
    let inherited = if hands_over { kept.duplicates() } else { Vec::new() };
    let pid_file = spec.pid_file.as_deref().filter(|_| role == Role::Current);

    let own = Kept::default();
    let mut prepared = None;
    let launched = launch::launch(spec, environment, inherited, house.bond, |child| {
        let identity = Identity { boot: house.boot.clone(), pid: child.pid, start: child.start, executable: None };
        let record = Record::new(spec.id.clone(), identity, fingerprint, unix_ms());
        let (bound, uid) = (house.bond == Bond::DiesWithUs, spec.user.map(|user| user.uid));
        let record = Record { hands_over, bound, uid, pid_file: spec.pid_file.clone(), role, ..record };
        match role {
            // What runs goes on without it, and a process that takes over must be known to the next agent.
            Role::Successor => house.try_write_record(&record)?,
            Role::Current | Role::Retired { .. } => {
                house.write_record(&record);
            }
        }
        if let Some(path) = pid_file {
            launch::write_pid_file(&spec.id, path, child.pid);
        }
        // Before the gate opens, so that its first message is not lost.
        let expected = house.registry.expect(&spec.id, child.pid, Said::default(), &own);
        if !hands_over {
            // Nobody would inherit its sockets.
            expected.keep_no_more_sockets();
        }
        let logs = spec.logs.as_ref();
        let positions = logs.map(|logs| spec.log_files().map(|path| logs.position(path)).collect()).unwrap_or_default();
        // Also before the gate opens: it never runs without its limits.
        let group =
            house.groups(&spec.limits).and_then(|groups| match groups.give(&spec.id, child.pid, &spec.limits) {
                Ok((group, problems)) => {
                    problems.iter().for_each(|problem| tracing::warn!("supervisor: {}: {problem}", spec.id));
                    Some(group)
                }
                Err(error) => {
                    tracing::warn!("supervisor: {}: it gets no control group of its own: {error}", spec.id);
                    None
                }
            });
        prepared = Some((record, expected, Instant::now(), positions, group));
        Ok(())
    });
    let give_up = |record: &Record| {
        house.remove_record(record);
        if let Some(path) = pid_file {
            let _ = std::fs::remove_file(path);
        }
    };
    let (launched, (mut record, expected, since, log_positions, group)) = match (launched, prepared) {
        (Ok(launched), Some(prepared)) => (launched, prepared),
        (Err(error), prepared) => {
            if let Some((record, .., group)) = prepared {
                give_up(&record);
                group.inspect(|group| group.end(&spec.id));
            }
            return Err(error);
        }
        // `launch` succeeds only after it has called the closure.
        (Ok(_), None) => {
            let source = std::io::Error::other("not prepared");
            return Err(Error::Start { program: spec.program.clone(), source });
        }
    };
    let Launched { pid, start, pidfd, tether } = launched;
    record.identity.executable = identity::executable(record.identity.pid);
    house.write_record(&record);
    let session = Session::new(pid, start, Parent::Us, pidfd, tether).map_err(|source| {
        // A process that cannot be watched must not run. It is unreaped, so its number is still its own.
        let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
        give_up(&record);
        Error::Identify { pid: pid.as_raw_nonzero().get(), source }
    })?;
    if let Some(group) = group {
        session.set_group(group);
    }
    let (session, limits) = (Arc::new(session), Some(spec.limits));
    Ok(Live { session, expected, record, since, adopted: false, limits, kept: own, log_positions })
}

/// Takes charge of the process of `record` if it runs and is ours; forgets the record otherwise. An error when that cannot be
/// told now: the record stays, and nothing must be started beside what may run.
pub(crate) fn adopt(house: &House, mut record: Record) -> Result<Option<Live>, Error> {
    if house.bond == Bond::DiesWithUs && !record.bound {
        // It would outlive us, which it shall not any more: it is replaced when it is wanted.
        record.spec = Fingerprint::of_nothing();
    }
    let mark = adopt::mark(&house.name, &record.id);
    let pid = record.identity.pid;
    match adopt::find(&record.identity, &house.boot, &mark, record.uid.unwrap_or(house.user)) {
        Found::Ours(pidfd) => return take_charge(house, record, pidfd).map(Some),
        Found::Unknown(source) => return Err(Error::Unsure { pid, source }),
        Found::Gone => {
            tracing::info!("supervisor: {}: pid {pid} of the last agent is gone", record.id);
            if let Some(path) = &record.pid_file {
                launch::remove_pid_file_of(path, pid);
            }
        }
        Found::Foreign(reason) => {
            tracing::warn!("supervisor: {}: pid {pid} is not the recorded process and left alone: {reason}", record.id);
        }
    }
    house.remove_record(&record);
    Ok(None)
}

/// Takes charge of a process held by `pidfd`.
pub(crate) fn take_charge(house: &House, record: Record, pidfd: std::os::fd::OwnedFd) -> Result<Live, Error> {
    let unsure = |source| Error::Unsure { pid: record.identity.pid, source };
    let pid = rustix::process::Pid::from_raw(record.identity.pid)
        .ok_or_else(|| unsure(std::io::ErrorKind::InvalidInput.into()))?;
    let session = Session::new(pid, record.identity.start, Parent::Other, pidfd, None).map_err(unsure)?;
    let session = Arc::new(session);
    if let Some(group) = Group::of(&house.name, record.identity.pid) {
        session.set_group(group);
    }
    let said = Said { ready: record.ready, ..Said::default() };
    let kept = Kept::default();
    let expected = house.registry.expect(&record.id, record.identity.pid, said, &kept);
    if matches!(record.role, Role::Retired { .. }) || !record.hands_over {
        expected.keep_no_more_sockets();
    }
    let age = Duration::from_millis(u64::try_from(unix_ms() - record.started_unix_ms).unwrap_or(0));
    let now = Instant::now();
    let since = now.checked_sub(age).unwrap_or(now);
    Ok(Live { session, expected, record, since, adopted: true, limits: None, kept, log_positions: Vec::new() })
}

/// Gives a running process other limits than it had. Blocks.
fn limit(house: &House, session: &Session, id: &str, before: Option<Limits>, wanted: Limits) {
    let complain = |problem: &str| tracing::warn!("supervisor: {id}: pid {}: {problem}", session.pid());
    let files_before = before.map(|limits| limits.open_files);
    if files_before.is_some_and(|files| files != wanted.open_files) || wanted.open_files.is_some() {
        use rustix::process::{Resource, Rlimit, getrlimit};
        let limit = match wanted.open_files {
            Some(files) => Rlimit { current: Some(files), maximum: Some(files) },
            None => getrlimit(Resource::Nofile),
        };
        if let Err(error) = session.limit_open_files(limit) {
            complain(&format!("its limit of open files cannot be changed while it runs: {error}"));
        }
    }
    // A group is known from its start or from adoption. In it there may be limits that are no longer wanted.
    let group = match (session.group(), house.groups(&wanted)) {
        (Some(group), _) => Some(group),
        (None, None) => None,
        // It may have been moved when the others were.
        (None, Some(groups)) => Group::of(&house.name, session.pid()).or_else(|| {
            let mut members = session.members();
            members.retain(|pid| *pid != session.pid());
            match groups.give(id, session.pid(), &Limits::default()) {
                Ok((group, _)) => {
                    // One that ended meanwhile is in no group at all.
                    members.into_iter().for_each(|pid| drop(group.take(pid)));
                    Some(group)
                }
                Err(error) => {
                    complain(&format!("it gets no control group of its own: {error}"));
                    None
                }
            }
        }),
    };
    if let Some(group) = group {
        session.set_group(group.clone());
        let before = before.unwrap_or(Limits { open_files: None, memory: Some(0), cpu_weight: Some(0) });
        group.limit(&before, &wanted).iter().for_each(|problem| complain(problem));
    }
}

async fn finished(work: &mut Option<Work>) -> Outcome {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

/// What became of the successor's start or of the successor; `None` when it has said something.
async fn successor(next: &mut Option<Next>) -> Option<Outcome> {
    let Some(Next { live, work, .. }) = next else { return std::future::pending().await };
    tokio::select! {
        biased;
        outcome = work => Some(outcome),
        () = said_something(live) => None,
    }
}

fn stop_signal(signal: StopSignal) -> Signal {
    match signal {
        StopSignal::Interrupt => Signal::INT,
        StopSignal::Terminate => Signal::TERM,
    }
}

async fn said_something(live: &mut Option<Live>) {
    let heard = match live {
        Some(live) => live.expected.said.changed().await.is_ok(),
        None => false,
    };
    if !heard {
        std::future::pending().await
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

pub(crate) fn unix_ms() -> i64 {
    clock::unix_nanos() / 1_000_000
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn rounded(duration: Duration) -> Duration {
    Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}
