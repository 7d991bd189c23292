//! The same read once more on the same connection, as monitoring, load balancers and libraries that poll send it: byte for byte.
//!
//! What decided about the first time is looked at again, and when it is all as it was, so is the answer: the rules of the
//! gate, the rights of who asks (only who may see everything is remembered, so there are none to look at), and whether
//! anything has changed of what the answer speaks of. Then neither request nor head are made anew.

use std::sync::{Arc, Weak};
use std::time::Instant;

use bytes::Bytes;
use http::header::CONTENT_ENCODING;
use http::{Method, StatusCode};
use lictor_model::acl::Caller;
use lictor_state::Reader;

use crate::encoded::Encoded;
use crate::gate::Admission;
use crate::measure;
use crate::respond::Response;
use crate::server::{Rules, Server};

/// A longer request is not remembered: a connection that does nothing holds what is.
const LONGEST: usize = 1024;

/// What makes answers to equal requests differ.
const PARTICULAR: [&str; 4] = ["index", "hash", "consistent", "cached"];

/// A request that may come again.
pub(crate) struct Candidate {
    request: Vec<u8>,
    rules: Arc<Rules>,
    pattern: &'static str,
}

/// A request, and the answer to it.
pub(crate) struct Repeated {
    asked: Box<Candidate>,
    reader: Reader,
    /// Not held: an answer that is too old for everybody else must not be kept by who does not ask.
    answer: Weak<Encoded>,
    is_compressed: bool,
    /// All of the head but the time, see [`lean`](crate::lean).
    fields: Vec<u8>,
}

impl Candidate {
    /// Whether a request can be remembered, by how it was let in.
    pub(crate) fn new(request: Vec<u8>, admission: &Admission<'_>, rules: Arc<Rules>) -> Option<Box<Candidate>> {
        let Admission::Handler(admitted) = admission else { return None };
        let is_plain = !PARTICULAR.iter().any(|name| admitted.query.has(name));
        let pattern = admitted.route.pattern;
        (is_plain && request.len() <= LONGEST).then(|| Box::new(Candidate { request, rules, pattern }))
    }

    /// Remembers the answer, if it is one that is kept for all.
    pub(crate) fn answered(
        self: Box<Self>,
        server: &Server,
        response: &Response,
        fields: &[u8],
    ) -> Option<Box<Repeated>> {
        let answer = response.body().shared().filter(|_| response.status() == StatusCode::OK)?;
        // The answers that are kept are those to callers without restrictions.
        let reader = server.agent.reader(&Caller::acls_disabled());
        let (answer, is_compressed) = (Arc::downgrade(answer), response.headers().contains_key(CONTENT_ENCODING));
        Some(Box::new(Repeated { asked: self, reader, answer, is_compressed, fields: fields.to_vec() }))
    }
}

impl Repeated {
    /// The bytes of the request.
    pub(crate) fn request(&self) -> &[u8] {
        &self.asked.request
    }

    /// The answer of now, if it is the same one: its head without the time, and its body.
    pub(crate) fn answer(&self, server: &Server) -> Option<(&[u8], Bytes)> {
        let start = Instant::now();
        let answer = self.answer.upgrade()?;
        let body = if self.is_compressed { answer.gzip.get()?.clone() } else { answer.body.clone() };
        let holds = Arc::ptr_eq(&self.asked.rules, &server.rules())
            && self.reader.is_current(&answer.topics, answer.index)
            && !server.agent.acls_enabled()
            // Each request is a line of the log there.
            && !tracing::enabled!(tracing::Level::DEBUG);
        if !holds {
            return None;
        }
        measure::answered_again(&answer);
        server.measure.took(self.asked.pattern, &Method::GET, "", start.elapsed());
        Some((&self.fields, body))
    }
}
