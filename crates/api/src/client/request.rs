//! One request, as it is built, and the plain form of its answer.

use std::fmt::Write;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Error;
use crate::header;

/// What a reader has seen, so that it is only told what is newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since<'a> {
    /// Nothing: the answer comes at once.
    Nothing,
    /// Everything up to an index.
    Index(u64),
    /// The content with this hash.
    Hash(&'a str),
}

/// The longest answer that is read, unless a request says otherwise: more than any answer a sane cluster gives.
const MAX_BODY: usize = 64 << 20;

/// How much longer than it was asked to a server may take to answer a blocking read. Beside the sixteenth that servers
/// add at random, this covers a busy machine.
const BLOCKING_MARGIN: Duration = Duration::from_secs(10);

/// One request.
#[derive(Debug)]
pub struct Request {
    pub(super) method: Method,
    pub(super) target: String,
    pub(super) body: Bytes,
    pub(super) content_type: Option<&'static str>,
    /// Headers beside those of every request.
    pub(super) headers: HeaderMap,
    /// Limit of the whole exchange; without it, the client's.
    pub(super) limit: Option<Duration>,
    pub(super) max_body: usize,
    /// Whether it says itself which datacenter it is about.
    pub(super) names_datacenter: bool,
    has_query: bool,
}

impl Request {
    fn new(method: Method, path: &str) -> Request {
        Request {
            method,
            target: path.to_owned(),
            body: Bytes::new(),
            content_type: None,
            headers: HeaderMap::new(),
            limit: None,
            max_body: MAX_BODY,
            names_datacenter: false,
            has_query: false,
        }
    }

    /// Reads. The path is sent as it is; add names with [`Request::segment`].
    pub fn get(path: &str) -> Request {
        Request::new(Method::GET, path)
    }

    /// Writes.
    pub fn put(path: &str) -> Request {
        Request::new(Method::PUT, path)
    }

    /// Asks or creates.
    pub fn post(path: &str) -> Request {
        Request::new(Method::POST, path)
    }

    /// Removes.
    pub fn delete(path: &str) -> Request {
        Request::new(Method::DELETE, path)
    }

    /// A request by a method that somebody wrote, for a target that is sent as it is.
    pub fn by(method: &str, target: &str) -> Result<Request, Error> {
        let method = Method::from_bytes(method.as_bytes()).map_err(|error| Error::Form(error.into()))?;
        Ok(Request { has_query: target.contains('?'), ..Request::new(method, target) })
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Result<Request, Error> {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| Error::Form(error.into()))?;
        let value = HeaderValue::from_str(value).map_err(|error| Error::Form(error.into()))?;
        self.headers.append(name, value);
        Ok(self)
    }

    /// Adds a name to the path, encoded so that no character of it has a meaning. Call before any query parameter.
    pub fn segment(mut self, name: &str) -> Request {
        self.target.push_str(&segment(name));
        self
    }

    /// Adds a fixed text to the path.
    pub fn path(mut self, text: &str) -> Request {
        self.target.push_str(text);
        self
    }

    /// Adds a query parameter.
    pub fn query(mut self, key: &str, value: &str) -> Request {
        self.target.push(if self.has_query { '&' } else { '?' });
        self.has_query = true;
        self.names_datacenter |= key == "dc";
        encode(&mut self.target, key);
        if !value.is_empty() {
            self.target.push('=');
            encode(&mut self.target, value);
        }
        self
    }

    /// Sends these bytes.
    pub fn body(mut self, body: impl Into<Bytes>) -> Request {
        self.body = body.into();
        self
    }

    /// Sends this value as JSON.
    pub fn json(mut self, value: &impl Serialize) -> Result<Request, Error> {
        self.body = serde_json::to_vec(value).map_err(Error::Encode)?.into();
        self.content_type = Some("application/json");
        Ok(self)
    }

    /// Waits up to `wait` for something newer. The exchange may take as long as a server may wait for that.
    pub fn since(mut self, since: Since<'_>, wait: Duration) -> Request {
        self = match since {
            Since::Nothing | Since::Index(0) | Since::Hash("") => return self,
            Since::Index(index) => self.query("index", &index.to_string()),
            Since::Hash(hash) => self.query("hash", hash),
        };
        self.limit = Some(wait + wait / 16 + BLOCKING_MARGIN);
        self.query("wait", &format!("{}ms", wait.as_millis()))
    }

    /// Allows the whole exchange this long.
    pub fn limit(mut self, limit: Duration) -> Request {
        self.limit = Some(limit);
        self
    }

    /// Reads answers up to this size.
    pub fn max_body(mut self, bytes: usize) -> Request {
        self.max_body = bytes;
        self
    }

    /// Its method, and its path with the parameters: for messages.
    pub fn line(&self) -> (&str, &str) {
        (self.method.as_str(), &self.target)
    }

    /// Whether sending it twice is the same as sending it once, so that it may be repeated on a new connection.
    pub(super) fn may_repeat(&self) -> bool {
        self.method == Method::GET
    }
}

/// A name as one part of a path.
pub fn segment(name: &str) -> String {
    match name {
        // Written out they would mean the place and the one above it.
        "." => "%2E".to_owned(),
        ".." => "%2E%2E".to_owned(),
        name => encoded(name),
    }
}

/// A text with every character encoded that could have a meaning in a URL.
pub fn encoded(text: &str) -> String {
    let mut target = String::with_capacity(text.len());
    encode(&mut target, text);
    target
}

/// Appends a text with every character encoded that could have a meaning in a URL.
fn encode(target: &mut String, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => target.push(char::from(byte)),
            // Writing to a string cannot fail.
            _ => drop(write!(target, "%{byte:02X}")),
        }
    }
}

/// The answer to one request, whatever its status.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Position in the history, on endpoints that have one.
    pub index: Option<u64>,
    /// Hash of the content, on endpoints that have one.
    pub content_hash: Option<String>,
    /// All headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    pub(super) fn new(status: u16, headers: HeaderMap, body: Bytes) -> Answer {
        let text = |name| headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
        Answer {
            status,
            index: text(header::INDEX).and_then(|index| index.parse().ok()),
            content_hash: text(header::CONTENT_HASH).map(str::to_owned),
            body,
            headers,
        }
    }

    /// The answer, if its status says success; else the error that clients of the original print.
    pub fn success(self) -> Result<Answer, Error> {
        if self.status == 200 { Ok(self) } else { Err(Error::status(self.status, &self.body)) }
    }

    /// The body as a value.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.body).map_err(Error::Decode)
    }

    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_their_meaning_in_paths_and_queries() {
        let request = Request::get("/v1/agent/service/").segment("a/b ü?").query("near", "").query("k&", "v=1#");
        assert_eq!(request.target, "/v1/agent/service/a%2Fb%20%C3%BC%3F?near&k%26=v%3D1%23");
    }

    #[test]
    fn a_blocking_read_may_take_as_long_as_a_server_may_wait() {
        let request = Request::get("/x").since(Since::Index(7), Duration::from_secs(16));
        assert_eq!(request.target, "/x?index=7&wait=16000ms");
        assert_eq!(request.limit, Some(Duration::from_secs(27)));
        let request = Request::get("/x").since(Since::Hash("ab"), Duration::from_secs(1));
        assert_eq!(request.target, "/x?hash=ab&wait=1000ms");
        for nothing in [Since::Nothing, Since::Index(0), Since::Hash("")] {
            let request = Request::get("/x").since(nothing, Duration::from_secs(16));
            assert_eq!((request.target.as_str(), request.limit), ("/x", None));
        }
    }
}
