//! Who asks: the secret of a request, and how little of the API a managed proxy may use with its own.

use http::Method;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use lictor_model::acl::ProxyRights;
use lictor_model::identity::DEFAULT_NAMESPACE;

use crate::call::Call;
use crate::query::Query;

static TOKEN: HeaderName = HeaderName::from_static("x-consul-token");

/// No secret has this character, so one that is not UTF-8 is an unknown one instead of none.
pub(crate) const UNREADABLE: &str = "\u{fffd}";

/// The secret of a request: `?token=`, then `X-Consul-Token`, then a bearer token; empty when there is none.
pub(crate) fn secret<'a>(query: &'a Query<'_>, headers: &'a HeaderMap) -> &'a str {
    let parameter = query.get("token");
    if !parameter.is_empty() {
        return parameter;
    }
    let header = headers.get(&TOKEN).map(readable).unwrap_or_default();
    if !header.is_empty() {
        return header;
    }
    let words = headers.get(AUTHORIZATION).map(readable).and_then(|value| value.strip_prefix("Bearer "));
    words.and_then(|words| words.split(' ').find(|word| !word.is_empty())).unwrap_or_default()
}

fn readable(value: &HeaderValue) -> &str {
    std::str::from_utf8(value.as_bytes()).unwrap_or(UNREADABLE)
}

/// How it is known which managed proxy asks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// A built-in one: by its process, over the socket in the data directory.
    ByProcess,
    /// A program of its own: by the secret that it was given.
    BySecret,
}

/// Whether a managed proxy may make this call: it may do what a proxy must do, and nothing else, whatever the token of
/// its service may do. What it then reads is filtered by the rights of that token.
pub(crate) fn is_within(rights: &ProxyRights, call: &Call<'_>, known: Known) -> bool {
    allows(rights, known, call.method, call.route.pattern, call.argument, call.query)
}

fn allows(
    rights: &ProxyRights,
    known: Known,
    method: &Method,
    pattern: &str,
    argument: &str,
    query: &Query<'_>,
) -> bool {
    if pattern == "/v1/agent/connect/authorize" {
        // The service asked about is in the body: `may_authorize` looks at it.
        return method == Method::POST;
    }
    if method != Method::GET {
        return false;
    }
    match pattern {
        "/v1/agent/connect/proxy/" | "/v1/agent/service/" => rights.proxy_id.as_str() == argument,
        // Only built-in proxies hand connections to each other.
        "/v1/agent/connect/neighbor" => known == Known::ByProcess,
        "/v1/agent/connect/ca/roots" | "/v1/connect/ca/roots" => true,
        "/v1/agent/connect/ca/leaf/" => rights.service.same(argument),
        "/v1/health/connect/" | "/v1/health/service/" | "/v1/catalog/connect/" | "/v1/catalog/service/" => {
            rights.service.same(argument) || rights.upstreams.contains(&argument.to_ascii_lowercase())
        }
        "/v1/query/" => argument.strip_suffix("/execute").is_some_and(|query| rights.queries.contains(query)),
        "/v1/connect/intentions/match" => {
            let is_own = |name: &str| match name.split_once('/') {
                Some((namespace, name)) => namespace == DEFAULT_NAMESPACE && rights.service.same(name),
                None => rights.service.same(name),
            };
            query.get("by") == "destination" && query.all("name").all(is_own)
        }
        _ => false,
    }
}

/// Whether a managed proxy may ask who may connect to this service: only for its own.
pub(crate) fn may_authorize(rights: &ProxyRights, target: &str) -> bool {
    rights.service.same(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
    }

    fn secret_of(query: &str, pairs: &[(&'static str, &'static str)]) -> String {
        secret(&Query::parse(query).unwrap(), &headers(pairs)).to_owned()
    }

    #[test]
    fn secrets_are_looked_for_in_order() {
        let all = [("x-consul-token", "header"), ("authorization", "Bearer bearer more")];
        assert_eq!(secret_of("token=parameter", &all), "parameter");
        assert_eq!(secret_of("token=", &all), "header");
        assert_eq!(secret_of("", &all[1..]), "bearer");
        assert_eq!(secret_of("", &[("authorization", "bearer x")]), "");
        assert_eq!(secret_of("", &[("authorization", "Basic x")]), "");
        assert_eq!(secret_of("", &[]), "");
    }

    #[test]
    fn a_secret_that_is_no_text_is_not_taken_for_none() {
        let value = HeaderValue::from_bytes(b"\xff").unwrap();
        let headers = HeaderMap::from_iter([(TOKEN.clone(), value)]);
        assert_eq!(secret(&Query::default(), &headers), UNREADABLE);
    }

    #[test]
    fn a_proxy_may_do_what_a_proxy_must() {
        let rights = ProxyRights {
            proxy_id: "web-proxy".into(),
            service: "web".into(),
            upstreams: ["db".to_owned()].into(),
            queries: ["near-db".to_owned()].into(),
        };
        let may = |method: Method, pattern: &str, argument: &str, query: &str| {
            allows(&rights, Known::ByProcess, &method, pattern, argument, &Query::parse(query).unwrap())
        };
        let (get, put, post) = (Method::GET, Method::PUT, Method::POST);
        assert!(may(get.clone(), "/v1/agent/connect/proxy/", "web-proxy", ""));
        assert!(!may(get.clone(), "/v1/agent/connect/proxy/", "db-proxy", ""));
        assert!(may(get.clone(), "/v1/agent/service/", "web-proxy", ""));
        assert!(!may(get.clone(), "/v1/agent/service/", "web", ""));
        assert!(may(get.clone(), "/v1/connect/ca/roots", "", ""));
        assert!(may(get.clone(), "/v1/agent/connect/neighbor", "", "pid=7"));
        let query = Query::parse("pid=7").unwrap();
        assert!(!allows(&rights, Known::BySecret, &get, "/v1/agent/connect/neighbor", "", &query));
        assert!(may(get.clone(), "/v1/agent/connect/ca/leaf/", "web", ""));
        assert!(!may(get.clone(), "/v1/agent/connect/ca/leaf/", "db", ""));
        assert!(may(get.clone(), "/v1/health/connect/", "DB", ""));
        assert!(!may(get.clone(), "/v1/health/connect/", "cache", ""));
        assert!(may(get.clone(), "/v1/query/", "near-db/execute", ""));
        assert!(!may(get.clone(), "/v1/query/", "near-db", ""));
        assert!(may(get.clone(), "/v1/connect/intentions/match", "", "by=destination&name=web&name=default/web"));
        assert!(!may(get.clone(), "/v1/connect/intentions/match", "", "by=destination&name=web&name=db"));
        assert!(!may(get.clone(), "/v1/connect/intentions/match", "", "by=source&name=web"));
        assert!(may(post, "/v1/agent/connect/authorize", "", ""));
        assert!(!may(put.clone(), "/v1/agent/service/register", "", ""));
        assert!(!may(put, "/v1/kv/", "app/x", ""));
        assert!(!may(get.clone(), "/v1/kv/", "app/x", ""));
        assert!(!may(get, "/v1/acl/token/self", "", ""));
        assert!(may_authorize(&rights, "Web") && !may_authorize(&rights, "db"));
    }
}
