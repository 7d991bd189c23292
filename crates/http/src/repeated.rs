//! The same read once more on the same connection, as monitoring, load balancers and libraries that poll send it: byte for byte.
//!
//! What decided about the first time is looked at again, and when it is all as it was, so is the answer: the rules of the
//! gate, the rights of who asks (only who may see everything is remembered, so there are none to look at), and whether
//! anything has changed of what the answer speaks of. Then neither request nor head are made anew.

use std::sync::{Arc, Weak};
use std::time::Instant;

use bytes::Bytes;
use lictor_model::acl::Caller;
use lictor_state::Reader;

use crate::blocking::Form;
use crate::encoded::Encoded;
use crate::gate::Admitted;
use crate::measure::{self, Timers};
use crate::server::{Rules, Server};

/// A longer request is not remembered: a connection that does nothing holds what is.
const LONGEST: usize = 1024;

/// What makes answers to equal requests differ.
const PARTICULAR: [&str; 4] = ["index", "hash", "consistent", "cached"];

/// A request that may come again, and the answer to it.
pub(crate) struct Repeated {
    request: Vec<u8>,
    timers: Timers,
    rules: Arc<Rules>,
    reader: Reader,
    /// Not held: an answer that is too old for everybody else must not be kept by who does not ask.
    answer: Weak<Encoded>,
    form: Form,
}

impl Repeated {
    /// Remembers an answer that is kept for all, unless the next to the same request may be another.
    pub(crate) fn new(
        server: &Server,
        request: Vec<u8>,
        admitted: &Admitted<'_>,
        rules: Arc<Rules>,
        answer: &Arc<Encoded>,
        form: Form,
    ) -> Option<Box<Repeated>> {
        if request.len() > LONGEST || PARTICULAR.iter().any(|name| admitted.query.has(name)) {
            return None;
        }
        let timers = server.measure.of_read(admitted.route.pattern)?;
        // The answers that are kept are those to callers without restrictions.
        let reader = server.agent.reader(&Caller::acls_disabled());
        Some(Box::new(Repeated { request, timers, rules, reader, answer: Arc::downgrade(answer), form }))
    }

    /// The bytes of the request.
    pub(crate) fn request(&self) -> &[u8] {
        &self.request
    }

    /// The answer of now, if it is the same one: its head without the time, and its body.
    pub(crate) fn answer(&self, server: &Server) -> Option<(Bytes, Bytes)> {
        let start = Instant::now();
        let answer = self.answer.upgrade()?;
        let holds = server.repeats(&self.rules) && self.reader.is_current(&answer.topics, answer.index);
        if !holds || !measure::answered_again(&answer) {
            return None;
        }
        let ready = self.form.ready(&answer, &self.rules);
        self.timers.took(start.elapsed());
        Some(ready)
    }
}
