//! `/v1/status`: who leads. An agent with its own state leads itself; of several over one store, the one that does what
//! one must do is called the leader.

use std::net::SocketAddr;

use lictor_api::status::{Leader, Peers};

use crate::call::{Answered, Call};

pub(crate) fn leader(call: &Call<'_>) -> Answered {
    call.json(&Leader::from(leader_address(call)))
}

pub(crate) fn peers(call: &Call<'_>) -> Answered {
    let servers = call.agent().servers();
    call.json(&servers.iter().map(|server| server.address.as_str().into()).collect::<Peers<'_>>())
}

/// `host:port` of the server that leads; empty while there is none.
pub(crate) fn leader_address(call: &Call<'_>) -> String {
    if call.agent().is_sharing() {
        call.agent().lead().map(|lead| lead.address).unwrap_or_default()
    } else {
        own_address(call)
    }
}

/// `host:port` of this server.
pub(crate) fn own_address(call: &Call<'_>) -> String {
    SocketAddr::new(call.config().advertise_addr, call.config().ports.server).to_string()
}
