//! A connection while it is carried: the pump at work, entered in the table, and its one outcome at the end.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use lictor_task::Scope;
use lictor_tls::pump::{Broken, Side};
use lictor_tls::{Peer, Pump, Session};
use tokio::net::TcpStream;

use crate::balance::{Engaged, Instance};
use crate::inbound::Inbound;
use crate::metrics::Flow;
use crate::outcome::{Carried, Traffic};
use crate::shared::Shared;
use crate::track::Place;
use crate::worker::Desk;

/// Which way a connection was opened.
pub(crate) enum Way {
    /// A peer connected to us.
    Inbound {
        /// Who.
        client: Arc<Peer>,
    },
    /// We connected to an instance for our application.
    Outbound {
        /// Through which upstream.
        upstream: Arc<str>,
        /// The instance's count of connections.
        _engaged: Engaged,
    },
}

/// What becomes of a session that can carry another connection when its connection has ended.
pub(crate) enum After {
    /// We accepted it: the peer may open the next one.
    Wait {
        /// Who serves it.
        inbound: Arc<Inbound>,
        /// Where its tasks run.
        desk: Arc<Desk>,
        /// Where it came from.
        from: SocketAddr,
    },
    /// We dialled it: it is kept for the next one to the same instance.
    Keep {
        /// Where it is kept.
        desk: Arc<Desk>,
        /// Where it leads.
        instance: Arc<Instance>,
        /// [`Instance::losses`] before it was made.
        losses: u32,
    },
}

/// Joins both sides and lets a task of its own carry them, so that what the handshake needed is free again.
pub(crate) fn carry(
    scope: &Scope,
    shared: &Arc<Shared>,
    session: Session,
    app: TcpStream,
    flow: &Arc<Flow>,
    way: Way,
    after: Option<After>,
) {
    let client = match &way {
        Way::Inbound { client } => Some(Arc::clone(client)),
        Way::Outbound { .. } => None,
    };
    shared.opened(flow);
    let place = shared.tracker.enter(client);
    let (id, decided_again) = (place.id(), matches!(way, Way::Inbound { .. }));
    let passage = Box::new(Passage {
        pump: Some(session.join(app, Arc::clone(&flow.meter))),
        moved: (0, 0),
        place,
        way,
        flow: Arc::clone(flow),
        shared: Arc::clone(shared),
        started: Instant::now(),
        end: None,
        after,
    });
    let task = scope.spawn("connection", passage.run());
    shared.tracker.carried_by(id, task.abort_handle());
    if decided_again {
        // Intentions may have changed between the decision and the entry in the table.
        shared.tracker.cut_if_denied(id, &shared.policy);
    }
}

/// A connection being carried. Its outcome is written when it is dropped, however that comes about.
struct Passage {
    pump: Option<Pump<TcpStream>>,
    /// What the pump moved before it was given up.
    moved: (u64, u64),
    place: Place,
    way: Way,
    flow: Arc<Flow>,
    shared: Arc<Shared>,
    started: Instant,
    end: Option<Carried>,
    after: Option<After>,
}

impl Passage {
    // In a box, because a future holds what it is given and what it makes of it side by side.
    async fn run(mut self: Box<Self>) {
        let Some(pump) = &mut self.pump else { return };
        self.end = Some(match pump.run().await {
            Ok(()) => Carried::Finished,
            Err(broken) => Carried::Broken(broken),
        });
        self.moved = pump.moved();
        // Before the application's connection is closed: it may come back at once.
        if let (Some(Carried::Broken(Broken::Io { side: Side::Peer, .. })), Some(After::Keep { instance, .. })) =
            (&self.end, &self.after)
        {
            instance.lost();
        }
        if let Some(next) = self.over() {
            next.await;
        }
    }

    /// The connection is over; what is still to be done with its session, if there is one to wait with. Not a part of
    /// `run`, whose future would hold room for the session all the time.
    fn over(mut self: Box<Self>) -> Option<Pin<Box<dyn Future<Output = ()> + Send>>> {
        let session = self.pump.take().and_then(Pump::into_session);
        let after = self.after.take();
        // Whatever becomes of its session.
        drop(self);
        match (session?, after?) {
            (session, After::Keep { desk, instance, losses }) => {
                desk.pool.put(&instance, session, losses);
                None
            }
            (session, After::Wait { inbound, desk, from }) => Some(inbound.wait(desk, session, from)),
        }
    }

    fn name(&self) -> String {
        match &self.way {
            Way::Inbound { client } => format!("connection of {}", client.uri),
            Way::Outbound { upstream, .. } => format!("connection to {upstream}"),
        }
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        self.shared.closed(&self.flow);
        let end = self.end.take().unwrap_or_else(|| self.place.end());
        let (outward, inward) = self.pump.as_ref().map_or(self.moved, Pump::moved);
        let traffic = Traffic { outward, inward, duration: self.started.elapsed() };
        self.shared.journal.carried(&self.shared.metrics, || self.name(), &end, traffic);
    }
}
