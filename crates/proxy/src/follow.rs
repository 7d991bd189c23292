//! The watches of one proxy: what each asks the agent for, and where the answers go.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use lictor_model::name::ServiceName;
use lictor_model::root::{IssuedLeaf, Roots};
use lictor_task::Scope;
use lictor_tls::{Bundle, Error as TlsError, Leaf};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::authorize::{Question, next_question};
use crate::control::{Authorized, ControlPlane, Fresh, Ranked, Ranking};
use crate::outcome::chain;
use crate::resolve::Resolved;
use crate::settings::{Destination, DestinationKind, Problem, Settings};
use crate::shared::Shared;
use crate::watch::{Agent, Follower};

/// How often things are read again that cannot be waited for: from an agent without an index on them.
const POLL: Duration = Duration::from_secs(30);

/// How often a prepared query is executed again at an agent that cannot be waited for with it: the original. Its answer
/// goes stale like any other.
const POLL_QUERY: Duration = Duration::from_secs(5);

/// Questions about connections that are with the agent at the same time.
const CONCURRENT_QUESTIONS: usize = 64;

/// Starts and stops the watches that the settings ask for.
pub(crate) struct Follow<C> {
    control: Arc<C>,
    shared: Arc<Shared>,
    agent: Arc<Agent>,
    scope: Scope,
    /// The service that we stand for, and the watches that belong to it.
    service: Option<(ServiceName, Scope)>,
    upstreams: HashMap<Destination, (Arc<Resolved>, Scope)>,
    /// The service's.
    credentials: Arc<Credentials>,
    /// Whether they have been installed.
    ready: watch::Sender<bool>,
}

/// What is there of one service's credentials; they are installed when both parts are.
#[derive(Default)]
struct Credentials {
    parts: Mutex<Parts>,
    /// Whether they have been installed.
    ready: watch::Sender<bool>,
}

#[derive(Default)]
struct Parts {
    leaf: Option<Leaf>,
    bundle: Option<Bundle>,
    /// The proxy stands for another service: what still comes is not installed.
    over: bool,
}

impl<C: ControlPlane> Follow<C> {
    pub(crate) fn new(control: Arc<C>, shared: Arc<Shared>, scope: Scope) -> Follow<C> {
        Follow {
            control,
            agent: Arc::new(Agent::new(Arc::clone(&shared.calm))),
            shared,
            scope,
            service: None,
            upstreams: HashMap::new(),
            credentials: Arc::default(),
            ready: watch::Sender::default(),
        }
    }

    /// Since when the agent has not answered at all; `None` while it does.
    pub(crate) fn silent(&self) -> watch::Receiver<Option<Instant>> {
        self.agent.silent()
    }

    /// Whether there are certificates of the service that the proxy stands for.
    pub(crate) fn credentials(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// Publishes the settings of a proxy, as the agent has them.
    /// `failing` says why there are none.
    pub(crate) fn settings(
        &self,
        id: &str,
        failing: watch::Sender<Option<String>>,
    ) -> watch::Receiver<Option<(Settings, Vec<Problem>)>> {
        let (publish, published) = watch::channel(None);
        let (control, id) = (Arc::clone(&self.control), id.to_owned());
        let mut follower = Follower::new(format!("service {id}"), &self.agent, POLL);
        self.spawn(&self.scope, "settings", async move {
            loop {
                let answer = control.service(&id, follower.due().await).await;
                if let Err(error) = &answer {
                    failing.send_replace(Some(chain(error)));
                }
                let Some(entry) = follower.take(answer) else { continue };
                match Settings::from_service(&entry) {
                    Ok(settings) => {
                        failing.send_replace(None);
                        publish.send_if_modified(|current| {
                            let changed = current.as_ref() != Some(&settings);
                            *current = Some(settings);
                            changed
                        });
                    }
                    Err(problem) => {
                        tracing::error!("{problem}");
                        failing.send_replace(Some(problem));
                    }
                }
            }
        });
        published
    }

    /// Follows what the service needs: roots, a leaf, intentions. With another service than before nothing of that one is
    /// in force any more when this returns, and [`Follow::credentials`] says so. Whether the service is a new one.
    pub(crate) fn serve(
        &mut self,
        service: &ServiceName,
        questions: &Arc<tokio::sync::Mutex<mpsc::Receiver<Question>>>,
    ) -> bool {
        if self.service.as_ref().is_some_and(|(known, _)| known == service) {
            return false;
        }
        if let Some((_, watches)) = self.service.take() {
            watches.stop();
            self.part(service);
        }
        self.credentials = Arc::new(Credentials { ready: self.ready.clone(), ..Credentials::default() });
        let watches = self.scope.child("service");
        self.follow_roots(&watches);
        self.follow_leaf(&watches, service);
        self.follow_intentions(&watches, service);
        self.answer_questions(&watches, service, questions);
        self.service = Some((service.clone(), watches));
        true
    }

    /// The proxy stands for another service from now on. Nobody who was let in to the one before has been let in to this
    /// one, and nobody follows any more who may connect to that: so all of it ends, what is carried included. What our
    /// application has dialled goes on: it is the other side's to decide.
    fn part(&self, next: &ServiceName) {
        let shared = &self.shared;
        // In this order: who takes a policy, then credentials and where connections go, has them all of one service or a
        // policy that denies.
        shared.policies.end(format!("the proxy stands for {next} now"));
        self.credentials.end(shared);
        shared.public.store(None);
        shared.policies.begin();
        shared.tracker.cut_denied();
        shared.retirement.send_modify(|_| ());
    }

    /// The instances behind a destination; followed from the first time on that somebody asks for them.
    pub(crate) fn instances(&mut self, destination: &Destination) -> Arc<Resolved> {
        if let Some((resolved, _)) = self.upstreams.get(destination) {
            return Arc::clone(resolved);
        }
        let resolved = Arc::new(Resolved::new(destination.clone()));
        let watches = self.scope.child("upstream");
        self.follow_instances(&watches, Arc::clone(&resolved));
        self.upstreams.insert(destination.clone(), (Arc::clone(&resolved), watches));
        resolved
    }

    /// Stops following destinations that are not among these.
    pub(crate) fn keep(&mut self, wanted: &[Destination]) {
        self.upstreams.retain(|destination, (_, watches)| {
            let keep = wanted.contains(destination);
            if !keep {
                watches.stop();
            }
            keep
        });
    }

    fn spawn(&self, scope: &Scope, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let stop = scope.stop_signal();
        scope.spawn(name, async move {
            stop.or_stopped(work).await;
        });
    }

    fn follow_roots(&self, scope: &Scope) {
        let (control, shared) = (Arc::clone(&self.control), Arc::clone(&self.shared));
        let credentials = Arc::clone(&self.credentials);
        let mut follower = Follower::new("roots", &self.agent, POLL);
        self.spawn(scope, "roots", async move {
            loop {
                let answer = control.roots(follower.due().await).await;
                let Some(roots) = follower.take(answer) else { continue };
                if let Err(error) = take_roots(&roots).and_then(|roots| credentials.take(&shared, None, Some(roots))) {
                    follower.reject(&error);
                }
            }
        });
    }

    fn follow_leaf(&self, scope: &Scope, service: &ServiceName) {
        let (control, shared, service) = (Arc::clone(&self.control), Arc::clone(&self.shared), service.clone());
        let credentials = Arc::clone(&self.credentials);
        let mut follower = Follower::new(format!("leaf of {service}"), &self.agent, POLL);
        self.spawn(scope, "leaf", async move {
            loop {
                let answer = control.leaf(service.as_str(), follower.due().await).await;
                let Some(IssuedLeaf { cert_pem, key_pem, .. }) = follower.take(answer) else { continue };
                let taken =
                    Leaf::from_pem(&cert_pem, &key_pem).and_then(|leaf| credentials.take(&shared, Some(leaf), None));
                if let Err(error) = taken {
                    follower.reject(&error);
                }
            }
        });
    }

    fn follow_intentions(&self, scope: &Scope, service: &ServiceName) {
        let (control, shared, service) = (Arc::clone(&self.control), Arc::clone(&self.shared), service.clone());
        let policy = shared.policies.current();
        let mut follower = Follower::new(format!("intentions for {service}"), &self.agent, POLL);
        self.spawn(scope, "intentions", async move {
            loop {
                let answer = control.intentions(service.as_str(), follower.due().await).await;
                let Some(matched) = follower.take(answer) else { continue };
                policy.update(matched);
                shared.tracker.cut_denied();
            }
        });
    }

    fn follow_instances(&self, scope: &Scope, resolved: Arc<Resolved>) {
        let control = Arc::clone(&self.control);
        let Destination { kind, name, datacenter } = resolved.destination().clone();
        let poll = match kind {
            DestinationKind::Service => POLL,
            DestinationKind::Query => POLL_QUERY,
        };
        let mut follower = Follower::new(format!("instances of {name}"), &self.agent, poll);
        self.spawn(scope, "instances", async move {
            let mut told = Vec::new();
            loop {
                let seen = follower.due().await;
                let answer = match kind {
                    DestinationKind::Service => {
                        let fresh = control.instances(&name, &datacenter, seen).await;
                        fresh.map(|Fresh { value: candidates, seen }| Fresh {
                            value: Some(Ranked { candidates, ranking: Ranking::Alike }),
                            seen,
                        })
                    }
                    DestinationKind::Query => control.query(&name, &datacenter, seen).await,
                };
                let problems = match follower.take(answer) {
                    None => continue,
                    Some(Some(ranked)) => resolved.update(ranked),
                    Some(None) => {
                        resolved.update(Ranked { candidates: Vec::new(), ranking: Ranking::Alike });
                        vec![format!("there is no prepared query {name}")]
                    }
                };
                for problem in problems.iter().filter(|problem| !told.contains(*problem)) {
                    tracing::warn!("{name}: {problem}");
                }
                told = problems;
            }
        });
    }

    /// Puts questions about connections to the agent, several at a time.
    fn answer_questions(
        &self,
        scope: &Scope,
        service: &ServiceName,
        questions: &Arc<tokio::sync::Mutex<mpsc::Receiver<Question>>>,
    ) {
        let questions = Arc::clone(questions);
        let (control, service, asking) = (Arc::clone(&self.control), service.clone(), scope.clone());
        let permits = Arc::new(tokio::sync::Semaphore::new(CONCURRENT_QUESTIONS));
        self.spawn(scope, "questions", async move {
            let mut questions = questions.lock().await;
            loop {
                // Before the question: whoever asks may have gone while others were answered.
                let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
                let Some(Question { uri, serial, mut answer }) = next_question(&mut questions).await else { return };
                let (control, service) = (Arc::clone(&control), service.clone());
                asking.spawn("question", async move {
                    let _permit = permit;
                    let asked = tokio::select! {
                        asked = control.authorize(service.as_str(), &uri, &serial) => asked,
                        // An agent that does not answer must not keep others from being asked about.
                        () = answer.closed() => return,
                    };
                    let refused = |error| Authorized { allowed: false, reason: chain(&error) };
                    // The connection may have ended meanwhile.
                    let _ = answer.send(asked.unwrap_or_else(refused));
                });
            }
        });
    }
}

/// Roots without a trust domain come from an agent whose CA is not there yet.
fn take_roots(roots: &Roots) -> Result<Bundle, TlsError> {
    if roots.trust_domain.is_none() {
        return Err(TlsError::NoCertificate);
    }
    Bundle::from_pem(roots.roots.iter().map(|root| root.cert_pem.as_str()))
}

impl Credentials {
    /// Takes a new part and installs both as soon as both are there.
    fn take(&self, shared: &Shared, leaf: Option<Leaf>, bundle: Option<Bundle>) -> Result<(), TlsError> {
        let mut parts = self.parts.lock();
        if parts.over {
            return Ok(());
        }
        if leaf.is_some() {
            parts.leaf = leaf;
        }
        if bundle.is_some() {
            parts.bundle = bundle;
        }
        let Parts { leaf: Some(leaf), bundle: Some(bundle), .. } = &*parts else { return Ok(()) };
        let before = shared.mesh.credentials();
        shared.mesh.install(leaf.clone(), bundle.clone())?;
        if before.is_some_and(|before| !shared.mesh.credentials().is_some_and(|now| Arc::ptr_eq(&before, &now))) {
            // Sessions that wait were made with credentials that are not in force any more.
            shared.retirement.send_modify(|_| ());
        }
        self.ready.send_replace(true);
        Ok(())
    }

    /// Takes them out of force for good.
    fn end(&self, shared: &Shared) {
        let mut parts = self.parts.lock();
        *parts = Parts { over: true, ..Parts::default() };
        shared.mesh.withdraw();
        self.ready.send_replace(false);
    }
}
