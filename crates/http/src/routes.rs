//! Every path of the API in one table: who may call it, with which methods, and what answers.
//!
//! To add an endpoint, write its handler in `handlers/` and one line here. The order of methods is the order in which
//! `Allow` names them. A pattern that ends in `/` takes every path below it; the longest pattern wins.

use std::collections::{HashMap, HashSet};

use http::Method;

use crate::blocking::{Hashed, Reading};
use crate::body::RequestBody;
use crate::call::{Answered, Call};
use crate::config::Pending;
use crate::error::Failure;
use crate::handlers::{
    acl, agent, catalog, check, connect, coordinate, event, health, host, intention, internal, kv, metrics, operate,
    operator, process, query, session, snapshot, status, txn, ui,
};

/// One path or family of paths.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) pattern: &'static str,
    pub(crate) access: Access,
    pub(crate) methods: &'static [(Method, Handler)],
    /// Ends of paths below it that can only be read.
    only_read: &'static [&'static str],
}

impl Route {
    /// Its methods on a path with that argument.
    pub(crate) fn methods_on(&self, argument: &str) -> impl Iterator<Item = &'static (Method, Handler)> {
        let only_read = self.only_read.iter().any(|end| argument.ends_with(end));
        self.methods.iter().filter(move |(method, _)| !only_read || method == GET)
    }

    /// Whether it is there for client agents, at the port for those and nowhere else.
    pub(crate) fn is_for_agents(&self) -> bool {
        self.pattern.starts_with("/v1/internal/agent/")
    }

    /// Whether what follows the pattern is a key of the key-value store: that may be as long as a path.
    pub(crate) fn names_keys(&self) -> bool {
        self.pattern == "/v1/kv/"
    }
}

/// Whether it matters who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Anyone may; the secret of the request is not even looked at.
    Public,
    /// The secret must be known. Which right is needed is the handler's, the agent's or the reader's to know.
    Caller,
    /// The same; and without access control there is nothing to answer.
    Acl,
    /// Without access control there is nothing to answer; with it, anyone may. If the secret matters, the agent looks
    /// at it.
    AclPublic,
}

impl Access {
    /// Whether the secret must be known.
    pub(crate) fn needs_caller(self) -> bool {
        matches!(self, Access::Caller | Access::Acl)
    }

    /// Whether it is about access control itself.
    pub(crate) fn needs_acls(self) -> bool {
        matches!(self, Access::Acl | Access::AclPublic)
    }
}

/// What answers.
#[derive(Clone, Copy)]
pub(crate) enum Handler {
    /// Answers from what is at hand.
    Now(fn(&Call<'_>) -> Answered),
    /// Reads the cluster's state, and can wait for it to change.
    Read(Reading),
    /// Reads what is local to this agent, and can wait for it to change.
    Hashed(fn(&Call<'_>) -> Result<Hashed, Failure>),
    /// Does something.
    Act(for<'a> fn(&'a Call<'a>, RequestBody) -> Pending<'a, Answered>),
    /// Reads, and can wait for a change in a way of its own.
    Waits(for<'a> fn(&'a Call<'a>, RequestBody) -> Pending<'a, Answered>),
}

impl std::fmt::Debug for Handler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Handler::Now(_) => "Now",
            Handler::Read(_) => "Read",
            Handler::Hashed(_) => "Hashed",
            Handler::Act(_) => "Act",
            Handler::Waits(_) => "Waits",
        })
    }
}

const GET: Method = Method::GET;
const PUT: Method = Method::PUT;
const POST: Method = Method::POST;
const DELETE: Method = Method::DELETE;

macro_rules! route {
    ($access:ident $pattern:literal $(only read [$($end:literal),+])?: $($method:ident $handler:expr),+) => {
        Route {
            pattern: $pattern,
            access: Access::$access,
            methods: &[$(($method, $handler)),+],
            only_read: &[$($($end),+)?],
        }
    };
}

use Handler::{Act, Hashed as ByHash, Now, Read as Blocking, Waits};

static ROUTES: &[Route] = &[
    // This agent.
    route!(Caller "/v1/agent/self": GET Now(process::description)),
    route!(Caller "/v1/agent/host": GET Now(host::host)),
    route!(Caller "/v1/agent/members": GET Now(process::members)),
    route!(Caller "/v1/agent/metrics": GET Now(metrics::show)),
    route!(Caller "/v1/agent/monitor": GET Now(process::monitor)),
    route!(Caller "/v1/agent/reload": PUT Act(process::reload)),
    route!(Caller "/v1/agent/join/": PUT Act(process::join)),
    route!(Caller "/v1/agent/leave": PUT Act(process::leave)),
    route!(Caller "/v1/agent/force-leave/": PUT Act(process::force_leave)),
    route!(Acl "/v1/agent/token/": PUT Act(process::token)),
    route!(Caller "/v1/agent/maintenance": PUT Act(agent::maintenance)),
    route!(Caller "/v1/agent/services": GET Now(agent::services)),
    route!(Caller "/v1/agent/service/": GET ByHash(agent::service)),
    route!(Caller "/v1/agent/service/register": PUT Act(agent::register)),
    route!(Caller "/v1/agent/service/deregister/": PUT Act(agent::deregister)),
    route!(Caller "/v1/agent/service/maintenance/": PUT Act(agent::service_maintenance)),
    route!(Public "/v1/agent/health/service/id/": GET Now(agent::health_by_id)),
    route!(Public "/v1/agent/health/service/name/": GET Now(agent::health_by_name)),
    route!(Caller "/v1/agent/checks": GET Now(check::list)),
    route!(Caller "/v1/agent/check/register": PUT Act(check::register)),
    route!(Caller "/v1/agent/check/deregister/": PUT Act(check::deregister)),
    route!(Caller "/v1/agent/check/pass/": PUT Act(check::pass)),
    route!(Caller "/v1/agent/check/warn/": PUT Act(check::warn)),
    route!(Caller "/v1/agent/check/fail/": PUT Act(check::fail)),
    route!(Caller "/v1/agent/check/update/": PUT Act(check::update)),
    route!(Caller "/v1/agent/connect/authorize": POST Act(connect::authorize)),
    route!(Public "/v1/agent/connect/ca/roots": GET Blocking(connect::AGENT_ROOTS)),
    route!(Caller "/v1/agent/connect/ca/leaf/": GET Waits(connect::leaf)),
    route!(Caller "/v1/agent/connect/proxy/": GET ByHash(connect::proxy)),
    route!(Caller "/v1/agent/connect/proxy/restart/": PUT Act(connect::restart)),
    // Managed proxies as processes; our own.
    route!(Caller "/v1/agent/connect/neighbor": GET Act(connect::neighbor)),
    route!(Caller "/v1/agent/connect/processes": GET Now(operate::processes)),
    route!(Caller "/v1/agent/connect/process/": GET Now(operate::process)),
    route!(Caller "/v1/agent/connect/why/": GET Act(operate::why)),
    route!(Caller "/v1/agent/connect/logs/": GET Now(operate::logs)),
    route!(Caller "/v1/agent/connect/stop/": PUT Act(operate::stop)),
    route!(Caller "/v1/agent/connect/start/": PUT Act(operate::start)),
    route!(Caller "/v1/agent/connect/restart/": PUT Act(operate::restart)),
    route!(Caller "/v1/agent/connect/drain/": PUT Act(operate::drain)),
    // The catalog.
    route!(Caller "/v1/catalog/register": PUT Act(catalog::register)),
    route!(Caller "/v1/catalog/deregister": PUT Act(catalog::deregister)),
    route!(Public "/v1/catalog/datacenters": GET Now(catalog::datacenters)),
    route!(Caller "/v1/catalog/nodes": GET Blocking(catalog::NODES)),
    route!(Caller "/v1/catalog/services": GET Blocking(catalog::SERVICES)),
    route!(Caller "/v1/catalog/service/": GET Blocking(catalog::SERVICE)),
    route!(Caller "/v1/catalog/connect/": GET Blocking(catalog::CONNECT)),
    route!(Caller "/v1/catalog/node/": GET Blocking(catalog::NODE)),
    // Health.
    route!(Caller "/v1/health/node/": GET Blocking(health::NODE)),
    route!(Caller "/v1/health/checks/": GET Blocking(health::CHECKS)),
    route!(Caller "/v1/health/state/": GET Blocking(health::STATE)),
    route!(Caller "/v1/health/service/": GET Blocking(health::SERVICE)),
    route!(Caller "/v1/health/connect/": GET Blocking(health::CONNECT)),
    // The mesh.
    route!(Caller "/v1/connect/ca/configuration":
        GET Now(connect::configuration), PUT Act(connect::set_configuration)),
    route!(Public "/v1/connect/ca/roots": GET Blocking(connect::ROOTS)),
    route!(Caller "/v1/connect/intentions": GET Blocking(intention::LIST), POST Act(intention::create)),
    route!(Caller "/v1/connect/intentions/match": GET Blocking(intention::MATCH)),
    route!(Caller "/v1/connect/intentions/check": GET Act(intention::check)),
    route!(Caller "/v1/connect/intentions/":
        GET Blocking(intention::ONE), PUT Act(intention::update), DELETE Act(intention::delete)),
    // Keys and the sessions that lock them.
    route!(Caller "/v1/kv/": GET Blocking(kv::KEYS), PUT Act(kv::put), DELETE Act(kv::delete)),
    route!(Caller "/v1/session/create": PUT Act(session::create)),
    route!(Caller "/v1/session/destroy/": PUT Act(session::destroy)),
    route!(Caller "/v1/session/renew/": PUT Act(session::renew)),
    route!(Caller "/v1/session/info/": GET Blocking(session::ONE)),
    route!(Caller "/v1/session/node/": GET Blocking(session::OF_NODE)),
    route!(Caller "/v1/session/list": GET Blocking(session::LIST)),
    // Access control.
    route!(AclPublic "/v1/acl/bootstrap": PUT Act(acl::bootstrap)),
    route!(AclPublic "/v1/acl/replication": GET Now(acl::replication)),
    route!(Acl "/v1/acl/policies": GET Blocking(acl::POLICIES)),
    route!(Acl "/v1/acl/policy": PUT Act(acl::create_policy)),
    route!(Acl "/v1/acl/policy/":
        GET Blocking(acl::POLICY), PUT Act(acl::update_policy), DELETE Act(acl::delete_policy)),
    route!(Acl "/v1/acl/tokens": GET Blocking(acl::TOKENS)),
    route!(Acl "/v1/acl/token": PUT Act(acl::create_token)),
    route!(AclPublic "/v1/acl/token/self": GET Blocking(acl::OWN_TOKEN)),
    route!(Acl "/v1/acl/token/":
        GET Blocking(acl::TOKEN), PUT Act(acl::update_token), DELETE Act(acl::delete_token)),
    route!(Acl "/v1/acl/rules/translate": POST Act(acl::translate)),
    route!(Acl "/v1/acl/rules/translate/": GET Now(acl::translate_token)),
    // Access control as it was before policies.
    route!(Acl "/v1/acl/create": PUT Act(acl::create_legacy)),
    route!(Acl "/v1/acl/update": PUT Act(acl::update_legacy)),
    route!(Acl "/v1/acl/destroy/": PUT Act(acl::destroy_legacy)),
    route!(Acl "/v1/acl/clone/": PUT Act(acl::clone_legacy)),
    route!(AclPublic "/v1/acl/info/": GET Blocking(acl::LEGACY_TOKEN)),
    route!(Acl "/v1/acl/list": GET Blocking(acl::LEGACY_TOKENS)),
    // Prepared queries.
    route!(Caller "/v1/query": GET Blocking(query::LIST), POST Act(query::create)),
    route!(Caller "/v1/query/" only read ["/execute", "/explain"]:
        GET Waits(query::get), PUT Act(query::update), DELETE Act(query::delete)),
    route!(Caller "/v1/txn": PUT Act(txn::carry_out)),
    // Events and distances.
    route!(Caller "/v1/event/fire/": PUT Act(event::fire)),
    route!(Caller "/v1/event/list": GET Waits(event::list)),
    route!(Public "/v1/coordinate/datacenters": GET Now(coordinate::datacenters)),
    route!(Caller "/v1/coordinate/nodes": GET Blocking(coordinate::NODES)),
    route!(Caller "/v1/coordinate/node/": GET Blocking(coordinate::NODE)),
    route!(Caller "/v1/coordinate/update": PUT Act(coordinate::update)),
    // The cluster.
    route!(Caller "/v1/operator/raft/configuration": GET Now(operator::raft_configuration)),
    route!(Caller "/v1/operator/raft/peer": DELETE Now(operator::remove_raft_peer)),
    route!(Caller "/v1/operator/keyring":
        GET Now(operator::keyring), POST Act(operator::change_keyring), PUT Act(operator::change_keyring),
        DELETE Act(operator::change_keyring)),
    route!(Caller "/v1/operator/autopilot/configuration":
        GET Act(operator::autopilot), PUT Act(operator::set_autopilot)),
    route!(Caller "/v1/operator/autopilot/health": GET Now(operator::autopilot_health)),
    route!(Caller "/v1/snapshot": GET Act(snapshot::take), PUT Act(snapshot::restore)),
    route!(Public "/v1/status/leader": GET Now(status::leader)),
    route!(Public "/v1/status/peers": GET Now(status::peers)),
    route!(Caller "/v1/operator/store/move": PUT Act(operator::move_store)),
    // What client agents ask, at the port for agents.
    route!(Caller "/v1/internal/agent/token": GET Now(internal::token)),
    route!(Caller "/v1/internal/agent/sign": PUT Act(internal::sign)),
    route!(Caller "/v1/internal/agent/alive": PUT Act(internal::alive)),
    route!(Caller "/v1/internal/agent/gone": PUT Act(internal::gone)),
    route!(Caller "/v1/internal/agent/dns": PUT Act(internal::dns)),
    // Feeds of the web interface.
    route!(Caller "/v1/internal/ui/nodes": GET Blocking(ui::NODES)),
    route!(Caller "/v1/internal/ui/node/": GET Blocking(ui::NODE)),
    route!(Caller "/v1/internal/ui/services": GET Blocking(ui::SERVICES)),
];

/// Every endpoint that is there for everyone: its pattern, and its methods in the order in which `Allow` names them.
pub fn endpoints() -> impl Iterator<Item = (&'static str, Vec<&'static str>)> {
    let public = ROUTES.iter().filter(|route| !route.is_for_agents());
    public.map(|route| (route.pattern, route.methods.iter().map(|(method, _)| method.as_str()).collect()))
}

/// The patterns of all endpoints that can wait for a change.
pub fn waiting() -> impl Iterator<Item = &'static str> {
    let waits = |handler: &Handler| matches!(handler, Handler::Read(_) | Handler::Hashed(_) | Handler::Waits(_));
    ROUTES
        .iter()
        .filter(move |route| route.methods.iter().any(|(_, handler)| waits(handler)))
        .map(|route| route.pattern)
}

/// Every path with each of its methods.
pub(crate) fn methods() -> impl Iterator<Item = (&'static str, Method)> {
    ROUTES.iter().flat_map(|route| route.methods.iter().map(|(method, _)| (route.pattern, method.clone())))
}

/// The table, ready to be asked.
pub(crate) struct Table {
    by_pattern: HashMap<&'static str, &'static Route>,
    /// The patterns that end with a slash, without it.
    folders: HashSet<&'static str>,
}

impl Table {
    pub(crate) fn new() -> Table {
        Table {
            by_pattern: ROUTES.iter().map(|route| (route.pattern, route)).collect(),
            folders: ROUTES.iter().filter_map(|route| route.pattern.strip_suffix('/')).collect(),
        }
    }

    /// Whether there is exactly this pattern.
    pub(crate) fn has(&self, pattern: &str) -> bool {
        self.by_pattern.contains_key(pattern)
    }

    /// Whether there is a pattern of this and a slash.
    pub(crate) fn is_folder(&self, path: &str) -> bool {
        self.folders.contains(path)
    }

    /// The route of a path, and where in the path its argument begins.
    pub(crate) fn find(&self, path: &str) -> Option<(&'static Route, usize)> {
        if let Some(route) = self.by_pattern.get(path) {
            return Some((route, path.len()));
        }
        let slashes = path.bytes().enumerate().rev().filter(|(_, byte)| *byte == b'/');
        slashes.map(|(at, _)| at + 1).find_map(|end| Some((*self.by_pattern.get(&path[..end])?, end)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_unique_and_have_methods() {
        assert_eq!(Table::new().by_pattern.len(), ROUTES.len());
        for route in ROUTES {
            assert!(!route.methods.is_empty() && route.pattern.starts_with("/v1/"), "{}", route.pattern);
        }
    }

    #[test]
    fn reads_never_change_anything() {
        for route in ROUTES {
            for (method, handler) in route.methods {
                let reads = matches!(handler, Handler::Read(_) | Handler::Hashed(_) | Handler::Waits(_));
                assert!(!reads || method == Method::GET, "{method} {}", route.pattern);
            }
        }
    }
}
