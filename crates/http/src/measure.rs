//! What is counted and timed of requests, under the names of the original.

use std::collections::HashMap;
use std::time::Duration;

use http::Method;
use lictor_meter::{Timer, count, process};

use crate::call::Call;
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

/// The timers of every path and method, looked up without making a name.
pub(crate) struct Measure(HashMap<(&'static str, Method), Vec<Timer>>);

impl Measure {
    pub(crate) fn new() -> Measure {
        let mut all = HashMap::new();
        for (pattern, method) in routes::methods() {
            let applied = APPLIED.iter().filter(|(of, methods, _)| *of == pattern && methods.contains(&method));
            let name = format!("http.{method}.{}", dotted(pattern));
            let names = std::iter::once(name).chain(applied.map(|(_, _, name)| (*name).to_owned()));
            let timers = names.map(|name| process().timer(&name, &[])).collect();
            all.insert((pattern, method), timers);
        }
        Measure(all)
    }

    /// Notes how long a request took.
    pub(crate) fn took(&self, pattern: &'static str, method: &Method, time: Duration) {
        for timer in self.0.get(&(pattern, method.clone())).into_iter().flatten() {
            timer.took(time);
        }
    }
}

/// `/v1/kv/` is `v1.kv._`: the underscore stands for what follows.
fn dotted(pattern: &str) -> String {
    let name = pattern.trim_start_matches('/').replace('/', ".");
    if name.ends_with('.') { name + "_" } else { name }
}

/// Counts a read of the catalog by what it asked for and whether that was there.
pub(crate) fn answered(call: &Call<'_>, response: &Response) {
    let pattern = call.route.pattern;
    if let Some((_, endpoint)) = FORWARDED.iter().find(|(of, _)| *of == pattern) {
        let node = [("node", call.config().node_name.as_str())];
        count(&format!("client.api.{endpoint}"), &node);
        let outcome = if response.status().is_success() { "client.api.success" } else { "client.rpc.error" };
        count(&format!("{outcome}.{endpoint}"), &node);
    }
    let Some((_, what)) = QUERIED.iter().find(|(of, _)| *of == pattern) else { return };
    let service = ("service", call.argument);
    count(&format!("{what}.query"), &[service]);
    let tags: Vec<&str> = call.query.all("tag").collect();
    if let [tag] = tags[..] {
        count(&format!("{what}.query-tag"), &[service, ("tag", tag)]);
    }
    if !tags.is_empty() {
        count(&format!("{what}.query-tags"), &[service, ("tags", &tags.join(","))]);
    }
    if matches!(response.body(), ResponseBody::Whole(body, _) if body.trim_ascii() == b"[]") {
        count(&format!("{what}.not-found"), &[service]);
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
}
