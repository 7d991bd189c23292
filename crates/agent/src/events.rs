//! User events: fired by anybody who may, seen by this agent if they are meant for it, and kept for a while.
//!
//! Agents that share a store tell each other by way of it; an agent alone needs nobody for that. What was seen is kept in memory, the latest few hundred, each with its place in time. Readers wait not for a
//! revision but for another event to be the last, as clients know it.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use lictor_model::acl::{Access, Caller, Resource};
use lictor_model::revision::Revision;
pub use lictor_state::event::Event;
use lictor_state::event::KEPT;
use lictor_task::Stop;
use parking_lot::Mutex;
use regex::Regex;
use tokio::sync::watch;
use uuid::Uuid;

use crate::agent::Inner;
use crate::error::chain;
use crate::{Agent, Error};

/// The size of an event on the wire of the original: larger ones were refused, and senders are cut to that.
const LARGEST: usize = 512;
/// What an event on that wire has besides its texts: id, version, time, and the names of its fields.
const ENVELOPE: usize = 100;

/// How long whoever fired an event waits until this agent has seen it as well.
const SEEN_WITHIN: Duration = Duration::from_secs(5);

/// The version of the form.
const VERSION: u32 = 1;

/// The latest events that this agent saw.
#[derive(Debug, Default)]
pub(crate) struct Events {
    seen: Mutex<Seen>,
    count: watch::Sender<u64>,
    /// The same with those that are for others.
    all: watch::Sender<u64>,
    /// Up to where what others stored was looked at.
    looked: watch::Sender<Revision>,
}

#[derive(Debug, Default)]
struct Seen {
    latest: VecDeque<Arc<Event>>,
    /// Those that are not for this agent, but perhaps for a client agent that asks it.
    of_others: VecDeque<Arc<Event>>,
    clock: u64,
}

impl Events {
    /// Adds an event for this agent, or for others, at its own time or, when it has none, at the next.
    fn add(&self, event: Event, is_ours: bool) {
        let mut seen = self.seen.lock();
        let time = if event.time == 0 { seen.clock + 1 } else { event.time };
        seen.clock = seen.clock.max(time);
        let event = Event { time, ..event };
        let kept = if is_ours { &mut seen.latest } else { &mut seen.of_others };
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(Arc::new(event));
        if is_ours {
            self.count.send_modify(|count| *count += 1);
        }
        self.all.send_modify(|count| *count += 1);
    }
}

impl Agent {
    /// Fires an event; its id is given here. The event as it was fired is the result.
    pub async fn fire_event(&self, caller: &Caller, event: Event) -> Result<Event, Error> {
        if !caller.may(Access::Write, Resource::Event, &event.name) {
            return Err(Error::Denied);
        }
        let event = Event { id: Uuid::new_v4(), version: VERSION, time: 0, ..event };
        let filters = Filters::read(&event)?;
        let size = [&event.name, &event.name, &event.node_filter, &event.service_filter, &event.tag_filter]
            .map(String::len)
            .iter()
            .sum::<usize>()
            + event.payload.len()
            + ENVELOPE;
        if size > LARGEST {
            let text = format!("error broadcasting event to segment \"\": user event exceeds limit of {LARGEST} bytes");
            return Err(Error::Refused(text));
        }
        tracing::debug!("agent: new event: {} ({})", event.name, event.id);
        if self.is_sharing() {
            let at = self.inner.writer.fire(&event).await?;
            // The sender lives as long as this handle. Later it is seen all the same.
            let mut looked = self.inner.events.looked.subscribe();
            let _ = tokio::time::timeout(SEEN_WITHIN, looked.wait_for(|looked| *looked >= at)).await;
        } else {
            self.inner.events.add(event.clone(), filters.accept(&self.inner));
        }
        Ok(event)
    }

    /// The latest events of this name (empty: of any), oldest first, without those the caller may not see.
    pub fn events(&self, caller: &Caller, name: &str) -> Vec<Arc<Event>> {
        let seen = self.inner.events.seen.lock();
        let wanted = |event: &&Arc<Event>| {
            (name.is_empty() || event.name == name) && caller.may(Access::Read, Resource::Event, &event.name)
        };
        seen.latest.iter().filter(wanted).map(Arc::clone).collect()
    }

    /// The same for a client agent's node: those that are meant for it, by what the catalog has of it.
    pub fn events_of(&self, caller: &Caller, name: &str, node: &str) -> Vec<Arc<Event>> {
        let contents = self.reader(&Caller::management("")).node(node).value;
        let services: Vec<_> = contents
            .iter()
            .flat_map(|contents| contents.services.iter())
            .map(|row| (row.service.name.as_str().to_owned(), row.service.tags.clone().unwrap_or_default()))
            .collect();
        let seen = self.inner.events.seen.lock();
        let wanted = |event: &&Arc<Event>| {
            (name.is_empty() || event.name == name)
                && caller.may(Access::Read, Resource::Event, &event.name)
                // What cannot be read was said when it came.
                && Filters::read(event).is_ok_and(|filters| filters.accept_node(node, &services))
        };
        let mut found: Vec<_> = seen.latest.iter().chain(&seen.of_others).filter(wanted).map(Arc::clone).collect();
        found.sort_by_key(|event| event.time);
        found
    }

    /// Counts all events, for whomever they are.
    pub fn all_events_seen(&self) -> watch::Receiver<u64> {
        self.inner.events.all.subscribe()
    }

    /// Counts the events seen, to wait for the next one.
    pub fn events_seen(&self) -> watch::Receiver<u64> {
        self.inner.events.count.subscribe()
    }
}

impl Inner {
    /// Sees what is fired at any of the agents that share a store, from now on.
    pub(crate) async fn follow_events(self: Arc<Self>, stop: Stop) {
        let reader = self.cluster.reader(&Caller::management(""));
        let mut known: HashSet<Uuid> = reader.events().value.iter().map(|row| row.event.id).collect();
        loop {
            // What is looked at is at least as new as this.
            let current = reader.current();
            let stored = reader.events();
            for event in stored.value.iter().map(|row| &row.event).filter(|event| !known.contains(&event.id)) {
                match Filters::read(event) {
                    Ok(filters) => self.events.add(event.clone(), filters.accept(&self)),
                    Err(error) => tracing::warn!("agent: event {}: {}", event.id, chain(&error)),
                }
            }
            known = stored.value.iter().map(|row| row.event.id).collect();
            self.events.looked.send_replace(current);
            if stop.or_stopped(reader.changed(&stored.topics, stored.index)).await.is_none() {
                return;
            }
        }
    }
}

/// Whom an event is for.
struct Filters {
    node: Option<Regex>,
    service: Option<(Regex, Option<Regex>)>,
}

impl Filters {
    fn read(event: &Event) -> Result<Filters, Error> {
        let regex = |what: &str, text: &str| match text {
            "" => Ok(None),
            text => {
                Regex::new(text).map(Some).map_err(|error| Error::Refused(format!("Invalid {what} filter: {error}")))
            }
        };
        let node = regex("node", &event.node_filter)?;
        let service = regex("service", &event.service_filter)?;
        let tag = regex("tag", &event.tag_filter)?;
        if tag.is_some() && service.is_none() {
            return Err(Error::Refused("Cannot provide tag filter without service filter".into()));
        }
        Ok(Filters { node, service: service.map(|service| (service, tag)) })
    }

    /// Whether it is for this agent: its node, and one of the services registered here.
    fn accept(&self, inner: &Inner) -> bool {
        let services: Vec<_> = match &self.service {
            // Nobody asks.
            None => Vec::new(),
            Some(_) => {
                let registry = inner.registry.lock();
                let local = registry.services.values().map(|entry| &entry.view.service);
                local.map(|it| (it.name.as_str().to_owned(), it.tags.clone().unwrap_or_default())).collect()
            }
        };
        self.accept_node(inner.config.node_name.as_str(), &services)
    }

    /// Whether it is for a node with these services, each with its tags.
    fn accept_node(&self, name: &str, services: &[(String, Vec<String>)]) -> bool {
        let node = self.node.as_ref().is_none_or(|node| node.is_match(name));
        let service = self.service.as_ref().is_none_or(|(service, tag)| {
            services.iter().any(|(name, tags)| {
                service.is_match(name) && tag.as_ref().is_none_or(|tag| tags.iter().any(|of_it| tag.is_match(of_it)))
            })
        });
        node && service
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_latest_are_kept_in_the_order_they_came() {
        let events = Events::default();
        for number in 0..300_u32 {
            events.add(Event { name: number.to_string(), ..Event::default() }, true);
        }
        let seen = events.seen.lock();
        assert_eq!(seen.latest.len(), KEPT);
        assert_eq!((seen.latest[0].name.as_str(), seen.latest[0].time), ("44", 45));
        assert_eq!(seen.latest[KEPT - 1].name, "299");
        drop(seen);
        events.add(Event { time: 1000, ..Event::default() }, true);
        events.add(Event::default(), true);
        assert_eq!(events.seen.lock().latest[KEPT - 1].time, 1001, "the clock follows what others say");
    }

    #[test]
    fn filters_must_be_regular_expressions() {
        let refused = |event: Event| Filters::read(&event).map(drop).unwrap_err().to_string();
        assert!(refused(Event { node_filter: "(".into(), ..Event::default() }).starts_with("Invalid node filter: "));
        let text = "Cannot provide tag filter without service filter";
        assert_eq!(refused(Event { tag_filter: "x".into(), ..Event::default() }), text);
        assert!(Filters::read(&Event { service_filter: "^web$".into(), ..Event::default() }).is_ok());
    }
}
