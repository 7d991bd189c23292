//! One request as a handler sees it: routed, its query parsed, its caller known.

use std::net::SocketAddr;

use http::{HeaderMap, Method, StatusCode};
use lictor_agent::Agent;
use lictor_api::json::Layout;
use lictor_model::acl::{Access, Caller, Resource};
use serde::Serialize;

use crate::config::Config;
use crate::error::Failure;
use crate::query::Query;
use crate::respond::{self, Response};
use crate::routes::Route;
use crate::server::Server;

/// What a handler gives.
pub(crate) type Answered = Result<Response, Failure>;

/// Where a request came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Tcp(SocketAddr),
    Unix,
    /// A client agent, at the port for agents. In the clear it may as well be anybody on this machine.
    Agent {
        address: SocketAddr,
        certified: bool,
    },
}

/// One request without its body.
pub(crate) struct Call<'a> {
    pub(crate) server: &'a Server,
    pub(crate) route: &'static Route,
    pub(crate) method: &'a Method,
    /// What follows the pattern in the decoded path.
    pub(crate) argument: &'a str,
    pub(crate) query: &'a Query<'a>,
    /// The same, as it travelled.
    pub(crate) raw_query: &'a str,
    pub(crate) headers: &'a HeaderMap,
    /// Where it came from.
    pub(crate) peer: &'a Peer,
    /// The secret given, empty if none was.
    pub(crate) secret: &'a str,
    /// Who asks. On public routes nobody in particular: they do not look at secrets.
    pub(crate) caller: Caller,
    pub(crate) layout: Layout,
}

impl Call<'_> {
    pub(crate) fn agent(&self) -> &Agent {
        &self.server.agent
    }

    pub(crate) fn config(&self) -> &Config {
        &self.server.config
    }

    /// Who asks, as it is known by now: rights may have changed since.
    pub(crate) fn caller_now(&self) -> Result<Caller, lictor_agent::Error> {
        self.server.caller(self.route, self.secret, *self.peer)
    }

    /// The node for which this agent answers: its own, or that of the client agent that asks.
    pub(crate) fn node(&self) -> &str {
        let named = match self.peer {
            Peer::Agent { .. } => {
                self.headers.get(&lictor_link::servers::NODE).and_then(|name| std::str::from_utf8(name.as_bytes()).ok())
            }
            Peer::Tcp(_) | Peer::Unix => None,
        };
        named.unwrap_or(self.config().node_name.as_str())
    }

    /// A JSON value in the layout asked for.
    pub(crate) fn json(&self, value: &impl Serialize) -> Answered {
        respond::json(value, self.layout)
    }

    /// Done, with nothing to say.
    #[expect(clippy::unused_self, reason = "reads like the other answers of a call")]
    pub(crate) fn done(&self) -> Answered {
        Ok(respond::empty(StatusCode::OK))
    }

    /// The argument, or the text that asks for it.
    pub(crate) fn required(&self, missing: &'static str) -> Result<&str, Failure> {
        if self.argument.is_empty() { Err(Failure::invalid(missing)) } else { Ok(self.argument) }
    }

    /// Demands a right on this agent.
    pub(crate) fn needs_agent(&self, access: Access) -> Result<(), Failure> {
        let node = self.config().node_name.as_str();
        if self.caller.may(access, Resource::Agent, node) { Ok(()) } else { Err(Failure::Denied) }
    }

    /// Refuses a datacenter that is not ours; empty means ours.
    pub(crate) fn needs_our_datacenter(&self, datacenter: &str) -> Result<(), Failure> {
        if datacenter.is_empty() || datacenter == self.config().datacenter { Ok(()) } else { Err(Failure::Datacenter) }
    }
}

/// Reads a boolean as the original does.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}
