//! A connection while it is carried: the pump at work, entered in the table, and its one outcome at the end.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use lictor_tls::pump::{Broken, Side};
use lictor_tls::{Peer, Pump, Session};
use tokio::net::TcpStream;
use tokio::runtime::Handle;

use crate::authorize::Policy;
use crate::balance::{Engaged, Instance};
use crate::bulk::{Pace, Seat};
use crate::inbound::Inbound;
use crate::metrics::Flow;
use crate::outcome::{Carried, Traffic};
use crate::shared::Shared;
use crate::track::{Direction, Place};
use crate::worker::Desk;

/// Which way a connection was opened.
pub(crate) enum Way {
    /// A peer connected to us.
    Inbound {
        /// Who.
        client: Arc<Peer>,
        /// What decides about it, at any time.
        policy: Arc<Policy>,
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
        /// Where it came from.
        from: SocketAddr,
    },
    /// We dialled it: it is kept for the next one to the same instance.
    Keep {
        /// Where it leads.
        instance: Arc<Instance>,
        /// [`Instance::losses`] before it was made.
        losses: u32,
    },
}

/// Joins both sides and lets a task of its own carry them, so that what the handshake needed is free again.
pub(crate) fn carry(
    desk: &Arc<Desk>,
    shared: &Arc<Shared>,
    session: Session,
    app: TcpStream,
    flow: &Arc<Flow>,
    way: Way,
    after: Option<After>,
) {
    let judged = match &way {
        Way::Inbound { client, policy } => Some((Arc::clone(client), Arc::clone(policy))),
        Way::Outbound { .. } => None,
    };
    shared.opened(flow);
    let place = shared.tracker.enter(judged);
    let (id, decided_again) = (place.id(), matches!(way, Way::Inbound { .. }));
    let started = Instant::now();
    let passage = Box::new(Passage {
        pump: Some(session.join(app, Arc::clone(&flow.meter))),
        moved: (0, 0),
        place,
        steps: 0,
        way,
        flow: Arc::clone(flow),
        shared: Arc::clone(shared),
        started,
        end: None,
        after,
        desk: Arc::clone(desk),
        pace: Pace::new(started),
        seat: None,
    });
    passage.go_on(&desk.home);
    if decided_again {
        // Intentions may have changed between the decision and the entry in the table.
        shared.tracker.cut_if_denied(id);
    }
}

/// A connection being carried. Its outcome is written when it is dropped, however that comes about.
struct Passage {
    pump: Option<Pump<TcpStream>>,
    /// What the pump moved before it was given up.
    moved: (u64, u64),
    place: Place,
    /// Tasks that have carried it, with the present one.
    steps: u64,
    way: Way,
    flow: Arc<Flow>,
    shared: Arc<Shared>,
    started: Instant,
    end: Option<Carried>,
    after: Option<After>,
    desk: Arc<Desk>,
    pace: Pace,
    /// Of one that is carried beside its worker.
    seat: Option<Seat>,
}

impl Passage {
    /// Lets a task carry the connection on an event loop that watches its sockets.
    fn go_on(mut self: Box<Self>, runtime: &Handle) {
        self.steps += 1;
        let (step, id, shared, desk) = (self.steps, self.place.id(), Arc::clone(&self.shared), Arc::clone(&self.desk));
        // A cut that comes before the task is known reaches it then.
        let task = desk.scope.spawn_on(runtime, "connection", self.run());
        shared.tracker.carried_by(id, step, task.abort_handle());
    }

    /// Lets the bulk thread carry the connection, if it can.
    fn leave(mut self: Box<Self>) -> Option<Box<Self>> {
        match self.desk.bulk.seat(&self.shared.metrics) {
            Ok(seat) => {
                let runtime = seat.runtime.clone();
                if self.settle_at(&runtime) {
                    self.seat = Some(seat);
                    self.go_on(&runtime);
                    return None;
                }
            }
            Err(error) => tracing::debug!("no thread for what moves much: {error}"),
        }
        Some(self)
    }

    /// Lets its worker carry the connection again, if it can.
    fn come_back(mut self: Box<Self>) -> Option<Box<Self>> {
        let home = self.desk.home.clone();
        if !self.settle_at(&home) {
            return Some(self);
        }
        // The thread may end now: nothing of the connection is there any more.
        self.seat = None;
        self.go_on(&home);
        None
    }

    fn settle_at(&mut self, runtime: &Handle) -> bool {
        let _entered = runtime.enter();
        match self.pump.as_mut().map(Pump::settle_here) {
            Some(Ok(())) => true,
            Some(Err(error)) => {
                tracing::debug!("{} stays where it is: {error}", self.name());
                false
            }
            None => false,
        }
    }

    // In a box, because a future holds what it is given and what it makes of it side by side.
    async fn run(mut self: Box<Self>) {
        let outcome = loop {
            let Some(pump) = &mut self.pump else { return };
            let (pace, away) = (&mut self.pace, self.seat.is_some());
            let stays = |moved| if away { pace.is_bulk(moved) } else { pace.is_ordinary(moved) };
            if let Some(outcome) = pump.run_while(stays).await {
                break outcome;
            }
            let stayed = if away { self.come_back() } else { self.leave() };
            self = match stayed {
                Some(passage) => passage,
                None => return,
            };
        };
        self.end = Some(match outcome {
            Ok(()) => Carried::Finished,
            Err(broken) => Carried::Broken(broken),
        });
        let Some(pump) = &mut self.pump else { return };
        self.moved = pump.moved();
        // Before the application's connection is closed: it may come back at once.
        if let (Some(Carried::Broken(Broken::Io { side: Side::Peer, .. })), Some(After::Keep { instance, .. })) =
            (&self.end, &self.after)
        {
            instance.lost();
        }
        if self.seat.is_some() && matches!(self.end, Some(Carried::Finished)) && self.after.is_some() {
            return self.end_at_home();
        }
        if let Some(next) = self.over() {
            next.await;
        }
    }

    /// Lets its worker do what is still to be done, because that is where its session belongs.
    fn end_at_home(mut self: Box<Self>) {
        let home = self.desk.home.clone();
        if self.settle_at(&home) {
            self.seat = None;
        } else {
            // Where it is it cannot wait.
            self.after = None;
        }
        let desk = Arc::clone(&self.desk);
        let end = async move {
            if let Some(next) = self.over() {
                next.await;
            }
        };
        // Nothing of it can be cut any more.
        drop(desk.scope.spawn_on(&home, "connection", end));
    }

    /// The connection is over; what is still to be done with its session, if there is one to wait with. Not a part of
    /// `run`, whose future would hold room for the session all the time.
    fn over(mut self: Box<Self>) -> Option<Pin<Box<dyn Future<Output = ()> + Send>>> {
        let session = self.pump.take().and_then(Pump::into_session);
        let (after, desk) = (self.after.take(), Arc::clone(&self.desk));
        let counted =
            matches!(after, Some(After::Wait { .. })).then(|| self.shared.tracker.accepted(Direction::Inbound));
        // Whatever becomes of its session.
        drop(self);
        match (session?, after, counted) {
            (session, Some(After::Wait { inbound, from }), Some(counted)) => {
                return Some(inbound.wait(desk, session, from, counted));
            }
            (session, Some(After::Keep { instance, losses }), _) => desk.pool.put(&instance, session, losses),
            (session, ..) => session.close_now(),
        }
        None
    }

    fn name(&self) -> String {
        match &self.way {
            Way::Inbound { client, .. } => format!("connection of {}", client.uri),
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
        // With TLS 1.3 the decision about us comes when we take the handshake for done already.
        if let (Way::Outbound { upstream, .. }, Carried::Broken(broken @ Broken::Alert(_)), 0) =
            (&self.way, &end, inward)
        {
            self.shared.journal.turned_away(upstream, &broken.to_string());
        }
        self.shared.journal.carried(&self.shared.metrics, || self.name(), &end, traffic);
    }
}
