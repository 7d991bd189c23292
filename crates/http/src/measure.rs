//! What is counted and timed of requests, under the names of the original.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use lictor_meter::{Counter, Timer, process};
use lictor_model::name::fold;
use lictor_model::service::Service;
use lictor_state::reader::{Filter, Side};

use crate::call::Call;
use crate::encoded::Encoded;
use crate::error::Failure;
use crate::respond::{Response, ResponseBody};
use crate::routes;

/// What requests did to the cluster, by path and method; each has a timer of its own.
const APPLIED: &[(&str, &[Method], &str)] = &[
    ("/v1/catalog/register", &[Method::PUT], "catalog.register"),
    ("/v1/catalog/deregister", &[Method::PUT], "catalog.deregister"),
    ("/v1/kv/", &[Method::PUT, Method::DELETE], "kvs.apply"),
    ("/v1/txn", &[Method::PUT], "txn.apply"),
    ("/v1/session/create", &[Method::PUT], "session.apply"),
    ("/v1/session/destroy/", &[Method::PUT], "session.apply"),
    ("/v1/session/renew/", &[Method::PUT], "session.renew"),
    ("/v1/connect/intentions", &[Method::POST], "intention.apply"),
    ("/v1/connect/intentions/", &[Method::PUT, Method::DELETE], "intention.apply"),
    ("/v1/query", &[Method::POST], "prepared-query.apply"),
    ("/v1/query/", &[Method::PUT, Method::DELETE], "prepared-query.apply"),
    ("/v1/acl/token", &[Method::PUT], "acl.token.upsert"),
    ("/v1/acl/token/", &[Method::PUT], "acl.token.upsert"),
    ("/v1/acl/token/", &[Method::DELETE], "acl.token.delete"),
    ("/v1/acl/policy", &[Method::PUT], "acl.policy.upsert"),
    ("/v1/acl/policy/", &[Method::PUT], "acl.policy.upsert"),
    ("/v1/acl/policy/", &[Method::DELETE], "acl.policy.delete"),
];

/// Reads that are counted by what they ask for.
const QUERIED: &[(&str, &str)] = &[
    ("/v1/catalog/service/", "catalog.service"),
    ("/v1/catalog/connect/", "catalog.connect"),
    ("/v1/health/service/", "health.service"),
    ("/v1/health/connect/", "health.connect"),
];

/// Requests that agents of the original send on to a server, and what they call them.
const FORWARDED: &[(&str, &str)] = &[
    ("/v1/catalog/register", "catalog_register"),
    ("/v1/catalog/deregister", "catalog_deregister"),
    ("/v1/catalog/datacenters", "catalog_datacenters"),
    ("/v1/catalog/nodes", "catalog_nodes"),
    ("/v1/catalog/services", "catalog_services"),
    ("/v1/catalog/service/", "catalog_service_nodes"),
    ("/v1/catalog/connect/", "catalog_connect_service_nodes"),
    ("/v1/catalog/node/", "catalog_node_services"),
];

/// Writes of tokens that the original counts as something else than the others on their path.
const CLONES: (&str, &str, &str) = ("/v1/acl/token/", "/clone", "acl.token.clone");

/// The timers of every path and method, and counters of paths, looked up without making a name.
pub(crate) struct Measure {
    /// The first of each is that of the request itself.
    by_request: HashMap<(&'static str, Method), Arc<[Timer]>>,
    clones: Timer,
    forwarded: HashMap<&'static str, Forwarded>,
}

/// The timers of a kind of request.
pub(crate) struct Timers(Arc<[Timer]>);

impl Timers {
    /// Notes how long one took.
    pub(crate) fn took(&self, time: Duration) {
        self.0.iter().for_each(|timer| timer.took(time));
    }
}

/// How often something was asked of a server, and how that came out.
struct Forwarded {
    asked: Counter,
    success: Counter,
    error: Counter,
}

impl Measure {
    pub(crate) fn new(node: &str) -> Measure {
        let of_node = |name: &str| process().counter(name, &[("node", node)]);
        let forwarded = FORWARDED.iter().map(|(pattern, endpoint)| {
            let asked = of_node(&format!("client.api.{endpoint}"));
            let success = of_node(&format!("client.api.success.{endpoint}"));
            let error = of_node(&format!("client.rpc.error.{endpoint}"));
            (*pattern, Forwarded { asked, success, error })
        });
        let mut all = HashMap::new();
        for (pattern, method) in routes::methods() {
            let applied = APPLIED.iter().filter(|(of, methods, _)| *of == pattern && methods.contains(&method));
            let name = format!("http.{method}.{}", dotted(pattern));
            let names = std::iter::once(name).chain(applied.map(|(_, _, name)| (*name).to_owned()));
            let timers = names.map(|name| process().timer(&name, &[])).collect();
            all.insert((pattern, method), timers);
        }
        Measure { by_request: all, clones: process().timer(CLONES.2, &[]), forwarded: forwarded.collect() }
    }

    /// The timers of a read, to be kept with what is answered more than once.
    pub(crate) fn of_read(&self, pattern: &'static str) -> Option<Timers> {
        self.by_request.get(&(pattern, Method::GET)).cloned().map(Timers)
    }

    /// Notes how long a request took.
    pub(crate) fn took(&self, pattern: &'static str, method: &Method, argument: &str, time: Duration) {
        let timers = self.by_request.get(&(pattern, method.clone())).map(AsRef::as_ref).unwrap_or_default();
        if pattern == CLONES.0 && *method == Method::PUT && argument.ends_with(CLONES.1) {
            timers.iter().take(1).chain([&self.clones]).for_each(|timer| timer.took(time));
        } else {
            timers.iter().for_each(|timer| timer.took(time));
        }
    }
}

/// `/v1/kv/` is `v1.kv._`: the underscore stands for what follows.
fn dotted(pattern: &str) -> String {
    let name = pattern.trim_start_matches('/').replace('/', ".");
    if name.ends_with('.') { name + "_" } else { name }
}

/// Counts a read of the catalog by what it asked for and whether that was there.
pub(crate) fn answered(call: &Call<'_>, answered: Result<&Response, &Failure>) {
    let body = match answered.map(Response::body) {
        Ok(ResponseBody::Whole(_, Some(shared))) => return kept(call, shared),
        Ok(ResponseBody::Whole(body, None)) => body.as_ref(),
        Ok(ResponseBody::Pieces(_) | ResponseBody::Lines { .. }) | Err(_) => &[],
    };
    add(&counters(call, answered.map(Response::status), body));
}

/// The same for an answer that is kept. Its counters are kept with it: who asks the same is counted the same.
pub(crate) fn kept(call: &Call<'_>, answer: &Encoded) {
    add(answer.counters.get_or_init(|| counters(call, Ok(StatusCode::OK), &answer.body)));
}

/// Counts an answer that is sent once more, if it is known what it is counted by.
pub(crate) fn answered_again(answer: &Encoded) -> bool {
    answer.counters.get().map(|counters| add(counters)).is_some()
}

fn add(counters: &[Counter]) {
    counters.iter().for_each(|counter| counter.add(1));
}

/// What an answer is counted by.
fn counters(call: &Call<'_>, answered: Result<StatusCode, &Failure>, body: &[u8]) -> Vec<Counter> {
    let mut counters = Vec::new();
    let pattern = call.route.pattern;
    if let Some(forwarded) = call.server.measure.forwarded.get(pattern) {
        counters.push(forwarded.asked.clone());
        match answered {
            Ok(status) if status.is_success() => counters.push(forwarded.success.clone()),
            // Agents of the original send on only what they understand.
            Err(failure) if failure.status() == StatusCode::BAD_REQUEST => {}
            _ => counters.push(forwarded.error.clone()),
        }
    }
    if answered.is_err() {
        return counters;
    }
    let Some((_, what)) = QUERIED.iter().find(|(of, _)| *of == pattern) else { return counters };
    let asked: Vec<&str> = call.query.all("tag").collect();
    let labels = Labels::known(call, &asked);
    let of_service = labels.service.as_deref().map(|name| ("service", name));
    let mut push = |kind: &str, more: Option<(&'static str, &str)>| {
        let labels: Vec<_> = of_service.into_iter().chain(more).collect();
        counters.push(process().counter(&format!("{what}.{kind}"), &labels));
    };
    push("query", None);
    if let [_] = asked[..] {
        push("query-tag", labels.tags.first().map(|tag| ("tag", tag.as_str())));
    }
    if !asked.is_empty() {
        let tags = labels.tags.join(",");
        push("query-tags", Some(("tags", tags.as_str())).filter(|_| !tags.is_empty()));
    }
    if body.trim_ascii() == b"[]" {
        push("not-found", None);
    }
    counters
}

/// What a question is labelled with: only names that the catalog has, as it spells them. Anybody can ask for any name, and
/// each label is a series that is kept for a while; what is unknown is counted without one.
#[derive(Debug, Default, PartialEq, Eq)]
struct Labels {
    service: Option<String>,
    /// Sorted.
    tags: Vec<String>,
}

impl Labels {
    /// What the caller may know of what it asked for.
    fn known(call: &Call<'_>, tags: &[&str]) -> Labels {
        let side = if call.route.pattern.ends_with("/connect/") { Side::Connect } else { Side::Ordinary };
        let reader = call.agent().reader(&call.caller);
        let find = |tags: &[&str]| {
            let tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
            reader.any_instance(call.argument, side, &Filter { tags, ..Filter::default() })
        };
        // An instance with these tags, or any if there is none.
        let found = find(tags).or_else(|| if tags.is_empty() { None } else { find(&[]) });
        found.map_or_else(Labels::default, |row| Labels::of(&row.service, call.argument, tags))
    }

    /// The same as an instance spells it.
    fn of(service: &Service, asked: &str, tags: &[&str]) -> Labels {
        let destination = service.proxy.as_ref().map(|proxy| proxy.destination_name.as_str());
        let is_asked = |name: &&str| fold(name) == fold(asked);
        let name = std::iter::once(service.name.as_str()).chain(destination).find(is_asked);
        let own = service.tags.iter().flatten();
        let mut known: Vec<String> =
            own.filter(|own| tags.iter().any(|tag| own.eq_ignore_ascii_case(tag))).cloned().collect();
        known.sort_unstable();
        known.dedup();
        Labels { service: name.map(str::to_owned), tags: known }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_paths_with_dots() {
        assert_eq!(dotted("/v1/status/leader"), "v1.status.leader");
        assert_eq!(dotted("/v1/kv/"), "v1.kv._");
        assert_eq!(dotted("/v1/agent/connect/ca/leaf/"), "v1.agent.connect.ca.leaf._");
    }

    #[test]
    fn labels_are_what_the_catalog_has_and_as_it_spells_it() {
        let texts = |all: &[&str]| all.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let service = Service { name: "Web".into(), tags: Some(texts(&["V2", "blue", "blue"])), ..Service::default() };
        let labels = |asked: &str, tags: &[&str]| Labels::of(&service, asked, tags);
        let known = Labels { service: Some("Web".into()), tags: texts(&["V2", "blue"]) };
        assert_eq!(labels("wEB", &["BLUE", "v2", "blue", "made-up"]), known);
        assert_eq!(labels("web", &["x"]).tags, texts(&[]));
        assert_eq!(labels("other", &[]).service, None);
    }
}
