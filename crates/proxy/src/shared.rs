//! What all workers and the control side of one proxy share.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwapOption;
use lictor_tls::{KeyExchange, Mesh};
use tokio::sync::{Semaphore, mpsc, watch};

use crate::authorize::{Policies, Question};
use crate::calm::Calm;
use crate::direct::Neighbors;
use crate::metrics::{Flow, Metrics, count};
use crate::outcome::Journal;
use crate::settings::Public;
use crate::track::Tracker;

/// Everything that a connection may need to know.
pub(crate) struct Shared {
    pub(crate) mesh: Mesh,
    pub(crate) policies: Arc<Policies>,
    pub(crate) tracker: Arc<Tracker>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) journal: Journal,
    /// Told of whatever begins or ends.
    pub(crate) calm: Arc<Calm>,
    pub(crate) questions: mpsc::Sender<Question>,
    /// Peers that have connected and not yet shown who they are.
    pub(crate) unauthenticated: AtomicUsize,
    /// Peers' sessions that wait for their next connection.
    pub(crate) waiting: AtomicUsize,
    /// Wakes when sessions that wait shall end: their credentials are not in force any more, or we stop, which the
    /// value tells.
    pub(crate) retirement: watch::Sender<bool>,
    /// The other proxies of our agent, if connections may be handed over between us.
    pub(crate) neighbors: Option<Neighbors>,
    /// Lanes that may wait for a connection, each with one of these.
    pub(crate) lanes: Arc<Semaphore>,
    /// Where connections that were handed over to us go; nothing while peers are not served.
    pub(crate) public: ArcSwapOption<Public>,
}

impl Shared {
    pub(crate) fn new(
        key_exchange: KeyExchange,
        questions: mpsc::Sender<Question>,
        neighbors: Option<Neighbors>,
        lanes: usize,
    ) -> Shared {
        let policies = Arc::new(Policies::default());
        Shared {
            mesh: Mesh::new(key_exchange, Arc::clone(&policies) as _),
            policies,
            tracker: Arc::default(),
            metrics: Arc::default(),
            journal: Journal::default(),
            calm: Arc::default(),
            questions,
            unauthenticated: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            retirement: watch::Sender::new(false),
            neighbors,
            lanes: Arc::new(Semaphore::new(lanes)),
            public: ArcSwapOption::empty(),
        }
    }

    /// A connection begins to be carried.
    pub(crate) fn opened(&self, flow: &Flow) {
        count(&flow.opened);
        count(&flow.active);
        self.calm.disturb();
    }

    /// It ends.
    pub(crate) fn closed(&self, flow: &Flow) {
        flow.active.fetch_sub(1, Ordering::Relaxed);
        self.calm.disturb();
    }
}
