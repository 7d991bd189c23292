//! `/v1/event`: user events.

use std::time::Duration;

use lictor_agent::events::Event;
use lictor_api::event as shape;
use lictor_model::revision::Revision;
use tokio::time::Instant;

use crate::blocking::Options;
use crate::body::RequestBody;
use crate::call::{Answered, Call, Peer};
use crate::config::Pending;
use crate::respond::INDEX;

/// The index of a list without events.
const NOTHING: u64 = 1;

/// How long a read waits when it does not say: events are rarer than changes of the catalog.
const DEFAULT_WAIT: Duration = Duration::from_secs(600);

/// Largest payload that is read at all; a larger one is refused anyway.
const LARGEST_PAYLOAD: u64 = 64 * 1024;

pub(crate) fn fire<'a>(call: &'a Call<'a>, body: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        call.needs_our_datacenter(call.query.get("dc"))?;
        let name = call.required("Missing name")?;
        let parameter = |name: &str| call.query.get(name).to_owned();
        let event = Event {
            name: name.to_owned(),
            payload: body.read_at_most(LARGEST_PAYLOAD).await?.bytes(),
            node_filter: parameter("node"),
            service_filter: parameter("service"),
            tag_filter: parameter("tag"),
            ..Event::default()
        };
        let fired = call.agent().fire_event(&call.caller, event).await?;
        call.json(&shape_of(&fired))
    })
}

pub(crate) fn list<'a>(call: &'a Call<'a>, _: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        let options = Options::parse(call)?;
        let deadline = if options.wait.is_zero() { Instant::now() + DEFAULT_WAIT } else { options.deadline() };
        let mut waits = options.after != Revision::ZERO;
        let of_client = matches!(call.peer, Peer::Agent { .. });
        let mut seen = if of_client { call.agent().all_events_seen() } else { call.agent().events_seen() };
        loop {
            seen.mark_unchanged();
            // What the caller may see can have changed while this waited.
            let caller = call.caller_now()?;
            let name = call.query.get("name");
            let events = if of_client {
                call.agent().events_of(&caller, name, call.node())
            } else {
                call.agent().events(&caller, name)
            };
            let index = events.last().map_or(NOTHING, |event| event.index());
            if !waits || index != options.after.0 {
                let mut response = call.json(&events.iter().map(|event| shape_of(event)).collect::<Vec<_>>())?;
                response.headers_mut().insert(&INDEX, index.into());
                return Ok(response);
            }
            tokio::select! {
                // The sender lives as long as the agent.
                _ = seen.changed() => {}
                () = tokio::time::sleep_until(deadline) => waits = false,
                () = call.server.stop.requested() => waits = false,
            }
        }
    })
}

fn shape_of(event: &Event) -> shape::Event<'_> {
    let Event { id, name, payload, node_filter, service_filter, tag_filter, version, time } = event;
    shape::Event {
        id: id.to_string().into(),
        name: name.into(),
        payload: payload.as_ref().into(),
        node_filter: node_filter.into(),
        service_filter: service_filter.into(),
        tag_filter: tag_filter.into(),
        version: *version,
        l_time: *time,
    }
}
