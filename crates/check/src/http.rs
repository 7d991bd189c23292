//! A check that requests a URL: 2xx passes, 429 warns, everything else is critical.

use std::borrow::Cow;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_ENCODING, COOKIE, HOST, HeaderName, HeaderValue,
    LOCATION, PROXY_AUTHORIZATION, USER_AGENT, WWW_AUTHENTICATE,
};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::Full;
use hyper::ext::ReasonPhrase;
use lictor_model::health::CheckSpec;
use lictor_model::secret;
use lictor_tls::dialer::Verify;
use url::Url;

use crate::connection::Packing;
use crate::trust::Trust;
use crate::{Outcome, connection, dial, limit, percent};

/// Headers of a definition that are for the server that it names, and for no other that a redirect leads to.
const FOR_THE_FIRST: [HeaderName; 7] = [
    AUTHORIZATION,
    PROXY_AUTHORIZATION,
    WWW_AUTHENTICATE,
    COOKIE,
    HeaderName::from_static("cookie2"),
    HeaderName::from_static("x-consul-token"),
    HOST,
];

/// Redirects followed, as the original's client does.
const MAX_REDIRECTS: usize = 10;

/// A check by HTTP.
pub(crate) struct Http {
    url: String,
    /// The same in outputs, which more people may read than the definition.
    shown: String,
    method: String,
    headers: Vec<(String, Vec<String>)>,
    verify: Verify,
    trust: Trust,
    limit: Duration,
}

/// Who asked for the packing that an answer may have.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// The definition of the check.
    ByDefinition,
    /// We, because every check does.
    ByUs,
}

/// What one exchange gave.
struct Answered {
    status: StatusCode,
    /// What the server calls its status, where it is not what everybody does.
    reason: Option<String>,
    location: Option<String>,
    body: String,
}

impl Http {
    pub(crate) fn new(spec: &CheckSpec, trust: &Trust) -> Http {
        Http {
            url: spec.http.clone(),
            shown: secret::url(&spec.http),
            method: if spec.method.is_empty() { "GET".to_owned() } else { spec.method.clone() },
            headers: spec.header.clone().into_iter().collect(),
            verify: if spec.tls_skip_verify { Verify::Nothing } else { Verify::default() },
            trust: trust.clone(),
            limit: limit::http(spec),
        }
    }

    pub(crate) async fn run(&self) -> Outcome {
        match tokio::time::timeout(self.limit, self.follow()).await {
            Ok(Ok(answered)) => self.judge(&answered),
            Ok(Err(why)) => Outcome::critical(why),
            Err(_) => Outcome::critical(format!(
                "{} {}: net/http: request canceled (Client.Timeout exceeded while awaiting headers)",
                self.method, self.shown
            )),
        }
    }

    fn judge(&self, answered: &Answered) -> Outcome {
        let Answered { status, body, .. } = answered;
        let reason = answered.reason.as_deref().or_else(|| status.canonical_reason()).unwrap_or_default();
        let output = format!("HTTP {} {}: {} {reason} Output: {body}", self.method, self.shown, status.as_u16());
        let status = match status.as_u16() {
            200..=299 => lictor_model::health::Status::Passing,
            429 => lictor_model::health::Status::Warning,
            _ => lictor_model::health::Status::Critical,
        };
        Outcome { status, output }
    }

    async fn follow(&self) -> Result<Answered, String> {
        let (mut url, mut method) = (self.url.clone(), Cow::from(&self.method));
        for _ in 0..=MAX_REDIRECTS {
            let answered = self.request(&url, &method).await?;
            let Some(location) = &answered.location else { return Ok(answered) };
            match answered.status.as_u16() {
                301..=303 if method != "HEAD" => method = "GET".into(),
                301..=303 | 307 | 308 => {}
                _ => return Ok(answered),
            }
            url = next_url(&url, location).map_err(|_| {
                format!("{} {}: failed to parse Location header {location:?}", self.method, secret::url(&url))
            })?;
        }
        Err(format!("{} {}: stopped after {MAX_REDIRECTS} redirects", self.method, self.shown))
    }

    async fn request(&self, url: &str, method: &str) -> Result<Answered, String> {
        let failed = |why: String| format!("{method} {}: {why}", secret::url(url));
        let uri: Uri = url.parse().map_err(|_| failed("this is no URL".into()))?;
        let port = port(&uri).ok_or_else(|| failed("unsupported protocol scheme".into()))?;
        let encrypted = uri.scheme_str() == Some("https");
        let host = uri.host().ok_or_else(|| failed("no host in request URL".into()))?;
        let request = self.message(&uri, method).map_err(&failed)?;
        let is_theirs = self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(ACCEPT_ENCODING.as_str()));
        let asked = if is_theirs { Asked::ByDefinition } else { Asked::ByUs };
        let stream = dial::tcp(&format!("{host}:{port}")).await.map_err(|refused| failed(refused.to_string()))?;
        let exchanged = if encrypted {
            let dialer = self.trust.dialer(self.verify).map_err(|error| failed(error.to_string()))?;
            let name = host.trim_matches(['[', ']']);
            let stream = dialer.connect(stream, name).await.map_err(|error| failed(error.to_string()))?;
            connection::exchange(stream, request, |response| answered(response, asked)).await
        } else {
            connection::exchange(stream, request, |response| answered(response, asked)).await
        };
        exchanged.map_err(|error| failed(error.to_string()))
    }

    /// Whether this is a place on the server that the definition names.
    fn is_first(&self, uri: &Uri) -> bool {
        let place = |uri: &Uri| Some((uri.host()?.to_ascii_lowercase(), port(uri)?, uri.scheme()?.clone()));
        self.url.parse().is_ok_and(|first| place(&first) == place(uri))
    }

    fn message(&self, uri: &Uri, method: &str) -> Result<Request<Full<Bytes>>, String> {
        let method = Method::from_bytes(method.as_bytes()).map_err(|_| "invalid method".to_owned())?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::new(Full::default());
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().map_err(|_| "invalid path".to_owned())?;
        let headers = request.headers_mut();
        let authority = uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
        let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
        let host = HeaderValue::try_from(host).map_err(|_| "invalid host".to_owned())?;
        headers.insert(HOST, host);
        headers.insert(USER_AGENT, HeaderValue::from_static("Consul Health Check"));
        headers.insert(ACCEPT, HeaderValue::from_static("text/plain, text/*, */*"));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        if let Some(user) = user {
            headers.insert(AUTHORIZATION, basic(user)?);
        }
        // What the definition says of itself goes before what its URL does.
        let is_first = self.is_first(uri);
        for (name, values) in &self.headers {
            let name = HeaderName::try_from(name).map_err(|_| format!("invalid header {name:?}"))?;
            if !is_first && FOR_THE_FIRST.contains(&name) {
                continue;
            }
            headers.remove(&name);
            for value in values {
                let value = HeaderValue::try_from(value).map_err(|_| format!("invalid value of header {name}"))?;
                headers.append(&name, value);
            }
        }
        Ok(request)
    }
}

/// The port of a URL; `None` where it is for another protocol.
fn port(uri: &Uri) -> Option<u16> {
    let usual = match uri.scheme_str()? {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    Some(uri.port_u16().unwrap_or(usual))
}

/// What the user and the password of a URL become in a request.
fn basic(user: &str) -> Result<HeaderValue, String> {
    let (name, password) = user.split_once(':').unwrap_or((user, ""));
    let mut plain = percent::decoded(name.as_bytes());
    plain.push(b':');
    plain.extend(percent::decoded(password.as_bytes()));
    let value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(plain)));
    let mut value = value.map_err(|_| "invalid user".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

/// Who asks for a packing in the definition of the check gets what comes, as in the original.
async fn answered(response: http::Response<hyper::body::Incoming>, asked: Asked) -> Answered {
    let status = response.status();
    let reason = response.extensions().get::<ReasonPhrase>();
    let reason = reason.map(|reason| String::from_utf8_lossy(reason.as_bytes()).into_owned());
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let is_packed = response.headers().get(CONTENT_ENCODING).is_some_and(|value| value.as_bytes() == b"gzip");
    let packing = if is_packed && asked == Asked::ByUs { Packing::Gzip } else { Packing::Plain };
    let body = connection::read_tail(response.into_body(), packing).await.text();
    Answered { status, reason, location, body }
}

/// Where a redirect leads (RFC 3986, 5.2).
fn next_url(from: &str, location: &str) -> Result<String, url::ParseError> {
    Ok(Url::parse(from)?.join(location)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_leads_where_it_says() {
        for (location, leads_to) in [
            ("http://b/x", "http://b/x"),
            ("https://a:1/x", "https://a:1/x"),
            ("//b:2/x", "http://b:2/x"),
            ("/x", "http://user@a:1/x"),
            ("/login?next=http://b/", "http://user@a:1/login?next=http://b/"),
            ("x", "http://user@a:1/in/x"),
            ("./x/", "http://user@a:1/in/x/"),
            ("../x", "http://user@a:1/x"),
            ("?x=1", "http://user@a:1/in/from?x=1"),
        ] {
            assert_eq!(next_url("http://user@a:1/in/from?a=b", location).as_deref(), Ok(leads_to));
        }
        assert!(next_url("http://a/", "http://[/").is_err());
    }

    #[test]
    fn the_first_server_is_known_by_scheme_host_and_port() {
        let spec = CheckSpec { http: "https://user:sesame@Host:1/x".into(), ..CheckSpec::default() };
        let http = Http::new(&spec, &Trust::default());
        for (place, is_first) in [
            ("https://host:1/y", true),
            ("http://host:1/x", false),
            ("https://host:2/x", false),
            ("https://host/x", false),
            ("https://host.other:1/x", false),
        ] {
            assert_eq!(http.is_first(&place.parse().unwrap()), is_first, "{place}");
        }
    }
}
