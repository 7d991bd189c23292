//! What is decided about a request before anybody asks who sent it: its path, its method, and where it came from.

use std::borrow::Cow;
use std::net::IpAddr;

use http::{Method, StatusCode, Uri};

use crate::call::Peer;
use crate::config::{Config, Network, Unprintable};
use crate::query::Query;
use crate::respond::{self, Response};
use crate::routes::{Handler, Route, Table};
use crate::{forward, pages, path};

/// What `/` says where there is no web interface; scripts look for it to find out what listens here.
const GREETING: &str = "Consul Agent";

/// The rules of the door.
pub(crate) struct Gate {
    table: Table,
    blocked: Vec<String>,
    write_from: Vec<Network>,
    unprintable: Unprintable,
    has_page: bool,
}

/// What became of a request at the door.
pub(crate) enum Admission<'u> {
    /// It goes to a handler.
    Handler(Admitted<'u>),
    /// It is answered, as part of the API.
    Answered(Response),
    /// It is answered, and is not about the API.
    Elsewhere(Response),
    /// It is about a file of the page: which one.
    Page(String),
}

impl Admission<'_> {
    /// Whether it says how to wait, and is about something that is waited for.
    pub(crate) fn is_wait(&self) -> bool {
        let Admission::Handler(Admitted { handler, query, .. }) = self else { return false };
        matches!(handler, Handler::Read(_) | Handler::Hashed(_) | Handler::Waits(_))
            && (query.has("index") || query.has("hash"))
    }
}

/// A request on its way to a handler.
pub(crate) struct Admitted<'u> {
    pub(crate) route: &'static Route,
    pub(crate) handler: &'static Handler,
    path: Cow<'u, str>,
    argument_at: usize,
    pub(crate) query: Query<'u>,
}

impl Admitted<'_> {
    /// What follows the pattern in the path.
    pub(crate) fn argument(&self) -> &str {
        &self.path[self.argument_at..]
    }
}

impl Gate {
    pub(crate) fn new(config: &Config) -> Gate {
        Gate {
            table: Table::new(),
            blocked: config.block_endpoints.clone(),
            write_from: config.allow_write_from.clone(),
            unprintable: config.unprintable_paths,
            has_page: config.page.is_some(),
        }
    }

    /// The same with the rules of another configuration, as far as those can change while the server runs.
    pub(crate) fn renewed(&self, config: &Config) -> Gate {
        let Gate { unprintable, has_page, .. } = *self;
        Gate { unprintable, has_page, ..Gate::new(config) }
    }

    /// Decides about a request.
    pub(crate) fn admit<'u>(&self, method: &Method, uri: &'u Uri, peer: Peer) -> Admission<'u> {
        let Some(path) = path::decode(uri.path()) else {
            return Admission::Elsewhere(respond::text(StatusCode::BAD_REQUEST, "400 Bad Request"));
        };
        if self.unprintable == Unprintable::Refused && !path::is_printable(&path) {
            return Admission::Elsewhere(respond::empty(StatusCode::BAD_REQUEST));
        }
        if let Some(target) = self.elsewhere(uri.path(), &path) {
            return Admission::Elsewhere(respond::redirect(method, &target, uri.query()));
        }
        let is_agent = matches!(peer, Peer::Agent { .. });
        // What is about an agent and its node is never asked by another one: whoever tries is none.
        let is_here = |route: &Route| if is_agent { !forward::is_own(route) } else { !route.is_for_agents() };
        let found = self.table.find(&path).filter(|(route, _)| is_here(route));
        let Some((route, argument_at)) = found else {
            if let Some(file) = path.strip_prefix(pages::BELOW).filter(|_| self.has_page) {
                return Admission::Page(file.to_owned());
            }
            let response = match path.as_ref() {
                "/" | "/ui" if self.has_page => respond::redirect(method, pages::BELOW, uri.query()),
                "/robots.txt" if self.has_page => respond::text(StatusCode::OK, pages::ROBOTS),
                "/" => respond::text(StatusCode::OK, GREETING),
                _ => respond::empty(StatusCode::NOT_FOUND),
            };
            return Admission::Elsewhere(response);
        };
        let Ok(query) = Query::parse(uri.query().unwrap_or_default()) else {
            return Admission::Answered(respond::empty(StatusCode::INTERNAL_SERVER_ERROR));
        };
        let is_certified = matches!(peer, Peer::Agent { certified: true, .. });
        if !is_certified && self.blocked.iter().any(|blocked| path.starts_with(blocked)) {
            let text = "Endpoint is blocked by agent configuration";
            return Admission::Answered(respond::text(StatusCode::FORBIDDEN, text));
        }
        let argument = &path[argument_at..];
        let Some((_, handler)) = route.methods_on(argument).find(|(known, _)| known == method) else {
            let mut response = if method == Method::OPTIONS {
                respond::empty(StatusCode::OK)
            } else {
                respond::text(StatusCode::METHOD_NOT_ALLOWED, format!("method {method} not allowed"))
            };
            respond::allow(&mut response, route.methods_on(argument).map(|(method, _)| method));
            return Admission::Answered(response);
        };
        if let Some(refusal) = self.refuses_write(method, peer) {
            return Admission::Answered(refusal);
        }
        Admission::Handler(Admitted { route, handler, path, argument_at, query })
    }

    /// Where a path that is not in its final form is to be asked for.
    fn elsewhere(&self, raw: &str, path: &str) -> Option<String> {
        if self.table.is_folder(path) && !self.table.has(path) {
            return Some(format!("{path}/"));
        }
        // A service may have such a name, and somebody must be able to remove it. To the original it is a direction
        // however it is written.
        if path::has_encoded_dots(raw) && path::is_clean_beside_dots(raw) {
            return None;
        }
        match path::clean(path) {
            Cow::Borrowed(_) => None,
            Cow::Owned(cleaned) => Some(cleaned),
        }
    }

    fn refuses_write(&self, method: &Method, peer: Peer) -> Option<Response> {
        if self.write_from.is_empty() || matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
            return None;
        }
        match peer {
            // It forwards for others, whom it has asked where they come from.
            Peer::Agent { certified: true, .. } => None,
            Peer::Tcp(address) | Peer::Agent { address, .. } if self.is_allowed(address.ip()) => None,
            Peer::Tcp(_) | Peer::Agent { .. } => Some(respond::text(StatusCode::FORBIDDEN, "Access is restricted")),
            // The networks say nothing about who may use the socket file, and its mode does.
            Peer::Unix => {
                let text = "Access is restricted to networks, and a Unix socket has no address";
                Some(respond::text(StatusCode::INTERNAL_SERVER_ERROR, text))
            }
        }
    }

    fn is_allowed(&self, address: IpAddr) -> bool {
        self.write_from.iter().any(|network| network.contains(address))
    }
}

#[cfg(test)]
mod tests {
    use http::header::{ALLOW, LOCATION};
    use http_body_util::BodyExt;

    use super::*;

    fn gate() -> Gate {
        Gate {
            table: Table::new(),
            blocked: Vec::new(),
            write_from: Vec::new(),
            unprintable: Unprintable::Refused,
            has_page: false,
        }
    }

    fn tcp(address: &str) -> Peer {
        Peer::Tcp(format!("{address}:1").parse().unwrap())
    }

    fn answer(gate: &Gate, method: Method, target: &'static str) -> Response {
        answer_to(gate, method, target, tcp("127.0.0.1"))
    }

    fn answer_to(gate: &Gate, method: Method, target: &'static str, peer: Peer) -> Response {
        match gate.admit(&method, &Uri::from_static(target), peer) {
            Admission::Answered(response) | Admission::Elsewhere(response) => response,
            Admission::Handler(admitted) => panic!("{target} reached {}", admitted.route.pattern),
            Admission::Page(file) => panic!("{target} is {file:?} of the page"),
        }
    }

    async fn text(response: Response) -> String {
        String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    fn argument(target: &'static str) -> (&'static str, String) {
        let uri = Uri::from_static(target);
        match gate().admit(&Method::GET, &uri, Peer::Unix) {
            Admission::Handler(admitted) => (admitted.route.pattern, admitted.argument().to_owned()),
            Admission::Answered(response) | Admission::Elsewhere(response) => panic!("{target}: {}", response.status()),
            Admission::Page(file) => panic!("{target} is {file:?} of the page"),
        }
    }

    #[test]
    fn arguments_are_what_follows_the_pattern() {
        assert_eq!(argument("/v1/catalog/service/web"), ("/v1/catalog/service/", "web".into()));
        assert_eq!(argument("/v1/catalog/service/"), ("/v1/catalog/service/", String::new()));
        assert_eq!(argument("/v1/agent/service/a%20b/c"), ("/v1/agent/service/", "a b/c".into()));
        assert_eq!(argument("/v1/agent/service/%2e%2e"), ("/v1/agent/service/", "..".into()));
        assert_eq!(argument("/v1/agent/services"), ("/v1/agent/services", String::new()));
        assert_eq!(argument("/v1/connect/intentions/match"), ("/v1/connect/intentions/match", String::new()));
        assert_eq!(argument("/v1/connect/intentions/x"), ("/v1/connect/intentions/", "x".into()));
    }

    #[tokio::test]
    async fn unknown_paths_have_no_body_and_the_root_greets() {
        for target in ["/v1/nope", "/v2/agent/self", "/v1/agent/self/x", "/favicon.ico"] {
            let response = answer(&gate(), Method::GET, target);
            assert_eq!(response.status(), 404, "{target}");
            assert!(response.headers().is_empty() && text(response).await.is_empty());
        }
        let response = answer(&gate(), Method::GET, "/");
        assert_eq!((response.status().as_u16(), text(response).await.as_str()), (200, "Consul Agent"));
    }

    #[tokio::test]
    async fn wrong_methods_are_told_the_right_ones() {
        let response = answer(&gate(), Method::POST, "/v1/agent/services");
        assert_eq!(response.status(), 405);
        assert_eq!(response.headers()[ALLOW], "OPTIONS,GET");
        assert_eq!(text(response).await, "method POST not allowed");
        assert_eq!(answer(&gate(), Method::HEAD, "/v1/agent/services").status(), 405);
        let response = answer(&gate(), Method::OPTIONS, "/v1/connect/intentions");
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()[ALLOW], "OPTIONS,GET,POST");
        assert_eq!(text(response).await, "");
    }

    #[test]
    fn unclean_paths_and_missing_slashes_are_redirected() {
        let check = |target: &'static str, location: &str| {
            let response = answer(&gate(), Method::GET, target);
            assert_eq!(response.status(), 301, "{target}");
            assert_eq!(response.headers()[LOCATION], location, "{target}");
        };
        check("/v1/catalog/service?x=1", "/v1/catalog/service/?x=1");
        check("/v1/catalog/service//x", "/v1/catalog/service/x");
        check("/v1/catalog/service/a%2F%2Fb", "/v1/catalog/service/a/b");
        check("/v1/agent/../agent/self", "/v1/agent/self");
        check("//nope", "/nope");
    }

    #[test]
    fn characters_that_do_not_print_are_refused_unless_configured() {
        assert_eq!(answer(&gate(), Method::GET, "/v1/nope%01").status(), 400);
        let lenient = Gate { unprintable: Unprintable::Accepted, ..gate() };
        assert_eq!(answer(&lenient, Method::GET, "/v1/nope%01").status(), 404);
        assert_eq!(answer(&lenient, Method::GET, "/v1/%zz").status(), 400);
    }

    #[test]
    fn a_bad_query_fails_known_paths_only() {
        assert_eq!(answer(&gate(), Method::GET, "/v1/agent/self?a=%zz").status(), 500);
        assert_eq!(answer(&gate(), Method::GET, "/v1/nope?a=%zz").status(), 404);
    }

    #[tokio::test]
    async fn blocked_endpoints_are_refused_whatever_the_method() {
        let gate = Gate { blocked: vec!["/v1/agent/se".into()], ..gate() };
        for (method, target) in [(Method::GET, "/v1/agent/self"), (Method::POST, "/v1/agent/services")] {
            let response = answer(&gate, method, target);
            assert_eq!(response.status(), 403);
            assert_eq!(text(response).await, "Endpoint is blocked by agent configuration");
        }
    }

    #[tokio::test]
    async fn writes_are_refused_from_other_networks() {
        let gate = Gate { write_from: vec!["10.0.0.0/8".parse().unwrap()], ..gate() };
        let target = "/v1/agent/service/register";
        let response = answer_to(&gate, Method::PUT, target, tcp("11.0.0.1"));
        assert_eq!((response.status().as_u16(), text(response).await.as_str()), (403, "Access is restricted"));
        assert_eq!(answer_to(&gate, Method::PUT, target, Peer::Unix).status(), 500);
        assert_eq!(answer_to(&gate, Method::PATCH, target, tcp("11.0.0.1")).status(), 405);
        let uri = Uri::from_static(target);
        assert!(matches!(gate.admit(&Method::PUT, &uri, tcp("10.1.1.1")), Admission::Handler(_)));
        let uri = Uri::from_static("/v1/agent/self");
        assert!(matches!(gate.admit(&Method::GET, &uri, tcp("11.0.0.1")), Admission::Handler(_)));
    }
}
