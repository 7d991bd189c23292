//! Reads that wait for a change: by index for the cluster's state, by hash for what is local to the agent.
//!
//! A handler only says what the answer is now. Here the request's options are read, the handler is asked again whenever
//! something it spoke of changed, and the answer gets the headers that tell how current it is.
//!
//! A read goes in turns. Each looks once, without waiting, and gives an answer or what to wait for: so whoever holds the
//! request meanwhile decides how much of it is held.

use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::{AGE, CACHE_CONTROL, HeaderMap, HeaderValue};
use lictor_agent::Agent;
use lictor_model::revision::Revision;
use lictor_notation::duration::GoDuration;
use lictor_state::answer::{Answer, Topic};
use lictor_state::reader::{Filter, Reader};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::call::{Answered, Call};
use crate::encoded::{self, Encoded, Kept};
use crate::error::Failure;
use crate::lean;
use crate::query::Query;
use crate::respond::{
    self, CACHE, CONTENT_HASH, EFFECTIVE_CONSISTENCY, INDEX, KNOWN_LEADER, LAST_CONTACT, Response, ResponseBody,
};
use crate::server::{Rules, Server};

/// How long a read waits when it does not say.
const DEFAULT_WAIT: Duration = Duration::from_secs(300);
/// How long a read waits at most.
const MAX_WAIT: Duration = Duration::from_secs(600);

/// A read of the cluster's state, as the table of routes names it.
#[derive(Clone, Copy)]
pub(crate) struct Reading {
    /// Gives the answer of now.
    pub(crate) find: fn(&Read<'_>) -> Result<Found, Failure>,
    pub(crate) meta: Meta,
    pub(crate) cache: Cache,
}

/// Which headers tell how current an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meta {
    /// Index, leader and contact, also on failures, and the consistency.
    Catalog,
    /// Index, leader and contact, also on failures.
    Always,
    /// Index, leader and contact.
    Success,
    /// None, although the read can wait.
    Nothing,
}

/// Whether the original answers from the agent's cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cache {
    Never,
    /// With `?cached`.
    OnRequest,
    Always,
}

/// One round of a read.
pub(crate) struct Read<'a> {
    pub(crate) call: &'a Call<'a>,
    pub(crate) reader: Reader,
    wanted: Wanted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    /// Whatever it is.
    Any,
    /// Only if its index is past this one.
    Past(Revision),
}

impl Wanted {
    fn accepts(self, index: Revision) -> bool {
        match self {
            Wanted::Any => true,
            Wanted::Past(seen) => index > seen,
        }
    }
}

/// What a round gave.
pub(crate) struct Found {
    /// What waiting goes by.
    index: Revision,
    /// What is shown instead.
    shown: Option<Revision>,
    topics: Vec<Topic>,
    /// Only made when it is wanted.
    response: Option<Response>,
}

impl Found {
    /// Shows another index than the one by which the answer is waited for. It must be of a moment before the answer was
    /// made, or who waits past it could sleep through a change.
    pub(crate) fn shown_at(self, index: Revision) -> Found {
        Found { shown: Some(index), ..self }
    }
}

impl Read<'_> {
    /// Turns an answer of the state into one of this protocol, if it is new enough to be sent.
    pub(crate) fn found<T>(
        &self,
        answer: Answer<T>,
        write: impl FnOnce(&T) -> Result<Response, Failure>,
    ) -> Result<Found, Failure> {
        let Answer { index, topics, value } = answer;
        let response = if self.wanted.accepts(index) { Some(write(&value)?) } else { None };
        Ok(Found { index, shown: None, topics, response })
    }

    /// An answer that says nothing and never changes: who may not see a thing shall not wait for it either.
    pub(crate) fn hidden(&self, write: impl FnOnce() -> Result<Response, Failure>) -> Result<Found, Failure> {
        // Larger than any index a client can ask for, so that the answer is never waited for; shown as the smallest.
        Ok(Found { index: HIDDEN, shown: None, topics: Vec::new(), response: Some(write()?) })
    }

    /// The `tag`, `node-meta` and `near` parameters.
    pub(crate) fn filter(&self) -> Filter {
        let query = self.call.query;
        let near = match query.get("near") {
            "" => None,
            "_agent" => Some(self.call.node().to_owned()),
            near => Some(near.to_owned()),
        };
        let node_meta = query.all("node-meta").map(|pair| pair.split_once(':').unwrap_or((pair, "")));
        Filter {
            tags: query.all("tag").map(str::to_owned).collect(),
            node_meta: node_meta.map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
            near,
        }
    }
}

/// The index of answers that are not waited for.
const HIDDEN: Revision = Revision(u64::MAX);

/// What the client wants of a read, beside the thing itself.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// Zero does not wait.
    pub(crate) after: Revision,
    /// Zero is the default.
    pub(crate) wait: Duration,
    consistency: Consistency,
    cached: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Consistency {
    Default,
    Stale,
    Consistent,
}

impl Consistency {
    /// The word in the header.
    fn as_str(self) -> &'static str {
        match self {
            Consistency::Default => "leader",
            Consistency::Stale => "stale",
            Consistency::Consistent => "consistent",
        }
    }
}

impl Options {
    /// Reads the parameters of a call.
    pub(crate) fn parse(call: &Call<'_>) -> Result<Options, Failure> {
        let discovery = ["/v1/catalog", "/v1/health"].iter().any(|prefix| call.route.pattern.starts_with(prefix));
        let unnamed = if discovery && !call.config().discovery_max_stale.is_zero() {
            Consistency::Stale
        } else {
            Consistency::Default
        };
        Options::from_parameters(call.query, call.headers, unnamed)
    }

    /// Reads the parameters in the order in which mistakes are reported.
    fn from_parameters(query: &Query<'_>, headers: &HeaderMap, unnamed: Consistency) -> Result<Options, Failure> {
        let consistency = consistency(query, unnamed)?;
        check_cache_control(headers)?;
        let wait = match query.get("wait") {
            "" => Duration::ZERO,
            text => text.parse::<GoDuration>().map_err(|_| Failure::invalid("Invalid wait time"))?.or_zero(),
        };
        let after = match query.get("index") {
            "" => 0,
            text if text.starts_with('+') => return Err(Failure::invalid("Invalid index")),
            text => text.parse().map_err(|_| Failure::invalid("Invalid index"))?,
        };
        Ok(Options { after: Revision(after), wait, consistency, cached: query.has("cached") })
    }

    /// Whether the answer must have everything that was written before the request.
    pub(crate) fn is_consistent(&self) -> bool {
        self.consistency == Consistency::Consistent
    }

    /// The consistency as answers name it. What comes from the agent's cache is stale to clients of the original.
    pub(crate) fn consistency_shown(&self) -> &'static str {
        match (self.consistency, self.cached) {
            (Consistency::Default, true) => Consistency::Stale.as_str(),
            (consistency, _) => consistency.as_str(),
        }
    }

    /// When waiting ends: the time asked for, within bounds, and a little more at random, so that clients that started
    /// together do not come back together.
    pub(crate) fn deadline(&self) -> Instant {
        let wait = if self.wait.is_zero() { DEFAULT_WAIT } else { self.wait.min(MAX_WAIT) };
        Instant::now() + wait + wait.mul_f64(fastrand::f64() / 16.0)
    }
}

/// The consistency asked for; `unnamed` if none is.
fn consistency(query: &Query<'_>, unnamed: Consistency) -> Result<Consistency, Failure> {
    let mut stale = query.has("stale");
    match query.get("max_stale") {
        "" => {}
        text => match text.parse::<GoDuration>() {
            Ok(bound) => stale |= bound.nanos() > 0,
            Err(_) => return Err(Failure::invalid(format!("Invalid max_stale value {text:?}"))),
        },
    }
    let conflict = |other| format!("Cannot specify ?{other} with ?consistent, conflicting semantics.");
    match (query.has("consistent"), stale, query.has("cached"), query.has("leader")) {
        (true, true, ..) => Err(Failure::invalid(conflict("stale"))),
        (true, _, true, _) => Err(Failure::invalid(conflict("cached"))),
        (true, false, false, _) => Ok(Consistency::Consistent),
        (false, true, ..) => Ok(Consistency::Stale),
        (false, false, false, false) => Ok(unnamed),
        (false, false, ..) => Ok(Consistency::Default),
    }
}

/// Ages of cached answers only have to be numbers: ours are never older than the replica.
fn check_cache_control(headers: &HeaderMap) -> Result<(), Failure> {
    let Some(value) = headers.get(CACHE_CONTROL) else { return Ok(()) };
    let invalid = || Failure::invalid("Invalid Cache-Control header.");
    let text = value.to_str().map_err(|_| invalid())?;
    for directive in text.split(',').map(str::trim) {
        if let Some((name, seconds)) = directive.split_once('=')
            && matches!(name.trim().to_ascii_lowercase().as_str(), "max-age" | "stale-if-error")
        {
            seconds.trim().parse::<u64>().map_err(|_| invalid())?;
        }
    }
    Ok(())
}

/// How far a read has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It is looked at for the first time.
    First,
    /// Something has changed; it waits until then at most.
    Again(Instant),
    /// Whatever there is now is the answer.
    Last,
}

impl Turn {
    fn deadline(self, options: &Options) -> Instant {
        match self {
            Turn::Again(deadline) => deadline,
            Turn::First | Turn::Last => options.deadline(),
        }
    }
}

/// What a turn gave.
pub(crate) enum Round {
    Answered(Response),
    /// An answer that is kept for all, and how it is told to this client.
    Kept(Arc<Encoded>, Form),
    /// There is nothing yet that the client has not seen.
    Waits(Waits),
}

/// How an answer that is kept is told to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Form {
    meta: Meta,
    consistency: Consistency,
    is_compressed: bool,
}

impl Form {
    /// The answer in this form, as far as rules for all answers do not complete it.
    pub(crate) fn response(self, answer: Arc<Encoded>) -> Response {
        let index = answer.index;
        let mut response = respond::shared(answer);
        self.mark(&mut response, index);
        response
    }

    /// The same as it is sent: its head without the time, and its body.
    pub(crate) fn ready(self, answer: &Arc<Encoded>, rules: &Arc<Rules>) -> (Bytes, Bytes) {
        let body = answer.body(self.is_compressed);
        let head = answer.head(self, rules, || {
            let mut response = self.response(Arc::clone(answer));
            rules.complete(&mut response, self.is_compressed);
            lean::write_fields(response.status(), response.headers(), body.len() as u64)
        });
        (head, body)
    }

    fn mark(self, response: &mut Response, index: Revision) {
        let headers = response.headers_mut();
        match self.meta {
            Meta::Catalog => {
                currency(headers, index, Leader::Known);
                headers.insert(&EFFECTIVE_CONSISTENCY, HeaderValue::from_static(self.consistency.as_str()));
            }
            Meta::Always | Meta::Success => currency(headers, index, Leader::Known),
            Meta::Nothing => {}
        }
    }
}

/// What a read waits for, and how long.
pub(crate) struct Waits {
    deadline: Instant,
    change: Change,
    /// Where the answer is found if somebody else who waits for the same is first.
    elsewhere: Option<Elsewhere>,
}

/// What has to change.
enum Change {
    State {
        reader: Reader,
        topics: Vec<Topic>,
        seen: Revision,
        /// Of a managed proxy, which has the rights of its service: its agent may give that another token.
        exchanged: Option<u64>,
    },
    Local(u64),
}

struct Elsewhere {
    question: Box<str>,
    wanted: Wanted,
    form: Form,
}

impl Waits {
    /// Waits until there is something to look at, and says which turn that is. Cancel safe.
    async fn over(&self, server: &Server) -> Turn {
        tokio::select! {
            turn = self.changed(&server.agent) => turn,
            () = tokio::time::sleep_until(self.deadline) => Turn::Last,
            // A client that is answered now finds the next agent sooner than one whose connection just ends.
            () = server.stop.requested() => Turn::Last,
        }
    }

    /// When it ends at the latest.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Waits for a change alone. Cancel safe.
    pub(crate) async fn changed(&self, agent: &Agent) -> Turn {
        match &self.change {
            Change::State { reader, topics, seen, exchanged: None } => reader.changed(topics, *seen).await,
            Change::State { reader, topics, seen, exchanged: Some(exchanged) } => tokio::select! {
                () = reader.changed(topics, *seen) => {}
                () = agent.token_exchanged(*exchanged) => {}
            },
            Change::Local(seen) => agent.local_changed(*seen).await,
        }
        Turn::Again(self.deadline)
    }

    /// The answer that somebody else who waited for the same was given, if there is one by now. Who may see what is not
    /// looked at.
    pub(crate) fn kept(&self, kept: &Kept) -> Option<(Arc<Encoded>, Form)> {
        let Elsewhere { question, wanted, form } = self.elsewhere.as_ref()?;
        let Change::State { reader, .. } = &self.change else { return None };
        let answer = kept.get(question, reader).filter(|answer| wanted.accepts(answer.index))?;
        Some((answer, *form))
    }
}

/// A read, of either kind.
#[derive(Clone, Copy)]
pub(crate) enum Reads<'h> {
    State(&'h Reading),
    Local(fn(&Call<'_>) -> Result<Hashed, Failure>),
}

impl Reads<'_> {
    /// All of its turns, one after the other. Who asks is looked at anew each time: rights may change meanwhile.
    async fn answer(self, call: &Call<'_>) -> Answered {
        let mut asking = Call { caller: call.caller.clone(), ..*call };
        let mut turn = Turn::First;
        loop {
            match self.look(&asking, turn)? {
                Round::Answered(response) => return Ok(response),
                Round::Kept(answer, form) => return Ok(form.response(answer)),
                Round::Waits(waits) => turn = waits.over(call.server).await,
            }
            match call.caller_now() {
                Ok(caller) => asking.caller = caller,
                Err(error) => return self.failed(call.server, error.into()),
            }
        }
    }

    /// One turn of it. What is to be consistent must have caught up before.
    pub(crate) fn look(self, call: &Call<'_>, turn: Turn) -> Result<Round, Failure> {
        match self {
            Reads::State(reading) => look(reading, call, turn),
            Reads::Local(find) => look_local(find, call, turn),
        }
    }

    /// What is answered when it fails before there is anything to look at.
    pub(crate) fn failed(self, server: &Server, failure: Failure) -> Answered {
        match self {
            Reads::State(reading) => failed(reading, server, failure),
            Reads::Local(_) => Err(failure),
        }
    }
}

/// Answers a read of the cluster's state, waiting for a change if the client wants that.
pub(crate) async fn read(reading: &Reading, call: &Call<'_>) -> Answered {
    if Options::parse(call)?.is_consistent()
        && let Err(failure) = catch_up(call).await
    {
        return failed(reading, call.server, failure);
    }
    Reads::State(reading).answer(call).await
}

async fn catch_up(call: &Call<'_>) -> Result<(), Failure> {
    call.needs_our_datacenter(call.query.get("dc"))?;
    Ok(call.agent().reader(&call.caller).catch_up().await?)
}

fn look(reading: &Reading, call: &Call<'_>, turn: Turn) -> Result<Round, Failure> {
    let options = Options::parse(call)?;
    let form = Form {
        meta: reading.meta,
        consistency: options.consistency,
        is_compressed: respond::accepts_gzip(call.headers),
    };
    let is_cached = match reading.cache {
        Cache::Never => false,
        Cache::OnRequest => options.cached,
        Cache::Always => true,
    };
    let (index, mut response) = match find(reading, call, &options, turn) {
        Ok(Sought::Found(index, response)) => (if index == HIDDEN { Revision::ZERO } else { index }, response),
        Ok(Sought::Kept(answer)) if is_cached => (answer.index, respond::shared(answer)),
        Ok(Sought::Kept(answer)) => return Ok(Round::Kept(answer, form)),
        Ok(Sought::Waits { change, question, wanted }) => {
            // Whether the cache had it is told to each by itself.
            let elsewhere = question.filter(|_| !is_cached).map(|question| Elsewhere { question, wanted, form });
            return Ok(Round::Waits(Waits { deadline: turn.deadline(&options), change, elsewhere }));
        }
        Err(failure) => return failed(reading, call.server, failure).map(Round::Answered),
    };
    form.mark(&mut response, index);
    if is_cached {
        cache_headers(response.headers_mut(), call.server.seen.note(call));
    }
    Ok(Round::Answered(response))
}

/// Tells how current an answer is that was not made by [`read`].
pub(crate) fn mark(response: &mut Response, call: &Call<'_>, options: &Options, index: Revision) {
    let headers = response.headers_mut();
    currency(headers, index, Leader::Known);
    headers.insert(&EFFECTIVE_CONSISTENCY, HeaderValue::from_static(options.consistency_shown()));
    if options.cached {
        cache_headers(headers, call.server.seen.note(call));
    }
}

/// Answers a read that failed; many then say that they know nothing.
pub(crate) fn failed(reading: &Reading, server: &Server, failure: Failure) -> Answered {
    match reading.meta {
        Meta::Catalog | Meta::Always if !failure.before_reading() => {
            let mut response = server.failed(&failure);
            currency(response.headers_mut(), Revision::ZERO, Leader::Unknown);
            Ok(response)
        }
        Meta::Catalog | Meta::Always | Meta::Success | Meta::Nothing => Err(failure),
    }
}

/// Whether somebody leads the cluster, as far as an answer knows.
#[derive(Clone, Copy)]
pub(crate) enum Leader {
    Known,
    Unknown,
}

/// Tells how current an answer is.
pub(crate) fn currency(headers: &mut HeaderMap, index: Revision, leader: Leader) {
    headers.insert(&INDEX, index.shown().into());
    headers.insert(
        &KNOWN_LEADER,
        HeaderValue::from_static(match leader {
            Leader::Known => "true",
            Leader::Unknown => "false",
        }),
    );
    headers.insert(&LAST_CONTACT, HeaderValue::from_static("0"));
}

enum Sought {
    Found(Revision, Response),
    Kept(Arc<Encoded>),
    Waits { change: Change, question: Option<Box<str>>, wanted: Wanted },
}

fn find(reading: &Reading, call: &Call<'_>, options: &Options, turn: Turn) -> Result<Sought, Failure> {
    call.needs_our_datacenter(call.query.get("dc"))?;
    let reader = call.agent().reader(&call.caller);
    let wanted = match turn {
        Turn::Last => Wanted::Any,
        Turn::First | Turn::Again(_) if options.after == Revision::ZERO => Wanted::Any,
        Turn::First | Turn::Again(_) => Wanted::Past(options.after),
    };
    // What is near may change without a change of what is listed, and nobody waits for that: the order is always anew.
    let is_shared = call.caller.is_unrestricted() && !call.query.has("near");
    let question = is_shared.then(|| encoded::question(call, call.raw_query));
    // Asked for before the answer is made, so that a change in between is not slept through.
    let seen = reader.current();
    let exchanged = call.caller.as_proxy().map(|_| call.agent().token_exchanges());
    let mut topics = match question.as_ref().and_then(|question| call.server.kept.get(question, &reader)) {
        Some(answer) if wanted.accepts(answer.index) => return Ok(Sought::Kept(answer)),
        Some(answer) => answer.topics.clone(),
        None => {
            let round = Read { call, reader: reader.clone(), wanted };
            let Found { index, shown, topics, response } = (reading.find)(&round)?;
            match (response, shown) {
                (Some(response), Some(shown)) => return Ok(Sought::Found(shown, response)),
                (Some(response), None) => return Ok(share(call, question, index, topics, response)),
                (None, _) => topics,
            }
        }
    };
    topics.extend_from_slice(rights(call));
    Ok(Sought::Waits { change: Change::State { reader, topics, seen, exchanged }, question, wanted })
}

/// What a read that waits must watch beside what it asks for: rights may change meanwhile, and then it is looked at anew
/// who asks.
pub(crate) fn rights(call: &Call<'_>) -> &'static [Topic] {
    if call.agent().acls_enabled() { &[Topic::Tokens, Topic::Policies] } else { &[] }
}

/// Keeps an answer for the next who asks the same, if it says the same to everyone.
fn share(
    call: &Call<'_>,
    question: Option<Box<str>>,
    index: Revision,
    topics: Vec<Topic>,
    response: Response,
) -> Sought {
    let (Some(question), StatusCode::OK, ResponseBody::Whole(body, None)) =
        (question, response.status(), response.body())
    else {
        return Sought::Found(index, response);
    };
    if index == HIDDEN {
        return Sought::Found(index, response);
    }
    let answer = Arc::new(Encoded::new(index, topics, response.headers().clone(), body.clone()));
    call.server.kept.keep(question, Arc::clone(&answer));
    Sought::Kept(answer)
}

/// An answer about something local to the agent.
pub(crate) struct Hashed {
    pub(crate) hash: String,
    pub(crate) response: Response,
}

/// Answers a read of something local to the agent, waiting while its hash is the one that the client has.
pub(crate) async fn read_hashed(find: fn(&Call<'_>) -> Result<Hashed, Failure>, call: &Call<'_>) -> Answered {
    Reads::Local(find).answer(call).await
}

fn look_local(find: fn(&Call<'_>) -> Result<Hashed, Failure>, call: &Call<'_>, turn: Turn) -> Result<Round, Failure> {
    let options = Options::parse(call)?;
    let known = call.query.get("hash");
    let seen = call.agent().local_version();
    let Hashed { hash, mut response } = find(call)?;
    if turn != Turn::Last && !known.is_empty() && hash == known {
        let deadline = turn.deadline(&options);
        return Ok(Round::Waits(Waits { deadline, change: Change::Local(seen), elsewhere: None }));
    }
    if let Ok(value) = HeaderValue::try_from(hash) {
        response.headers_mut().insert(&CONTENT_HASH, value);
    }
    Ok(Round::Answered(response))
}

/// Says whether the agent's cache had the answer. Ours never ages: it follows the state.
pub(crate) fn cache_headers(headers: &mut HeaderMap, hit: bool) {
    headers.insert(&CACHE, HeaderValue::from_static(if hit { "HIT" } else { "MISS" }));
    if hit {
        headers.insert(AGE, HeaderValue::from_static("0"));
    }
}

/// Questions that were asked before. There is no cache to miss: the replica is one. But clients look at the header, and
/// the first answer of a kind is a miss to them.
#[derive(Debug, Default)]
pub(crate) struct SeenBefore(Mutex<HashSet<u64>>);

/// Forgetting all of so many only means some more misses.
const SEEN_LIMIT: usize = 65_536;

impl SeenBefore {
    /// Whether this question was asked before; from now on it was.
    fn note(&self, call: &Call<'_>) -> bool {
        let mut hasher = DefaultHasher::new();
        (call.route.pattern, call.argument, call.secret).hash(&mut hasher);
        for name in ["tag", "node-meta"] {
            let mut values: Vec<&str> = call.query.all(name).collect();
            values.sort_unstable();
            values.hash(&mut hasher);
        }
        let mut seen = self.0.lock();
        if seen.len() >= SEEN_LIMIT {
            seen.clear();
        }
        !seen.insert(hasher.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(query: &str) -> Result<Options, String> {
        let query = Query::parse(query).unwrap();
        Options::from_parameters(&query, &HeaderMap::new(), Consistency::Default).map_err(|failure| {
            assert_eq!(failure.status(), 400);
            failure.text()
        })
    }

    fn consistency_of(query: &str, unnamed: Consistency) -> Consistency {
        consistency(&Query::parse(query).unwrap(), unnamed).unwrap()
    }

    #[test]
    fn options_are_read_and_mistakes_named_in_order() {
        let read = options("index=7&wait=10s&stale&cached").unwrap();
        assert_eq!((read.after, read.wait, read.cached), (Revision(7), Duration::from_secs(10), true));
        assert_eq!(options("wait=-5s").unwrap().wait, Duration::ZERO);
        let check = |query: &str, text: &str| assert_eq!(options(query).unwrap_err(), text, "{query}");
        check("index=x", "Invalid index");
        check("index=-1", "Invalid index");
        check("index=+1", "Invalid index");
        check("wait=10&index=x", "Invalid wait time");
        check("max_stale=zz&wait=x", "Invalid max_stale value \"zz\"");
        check("stale&consistent", "Cannot specify ?stale with ?consistent, conflicting semantics.");
        check("cached&consistent", "Cannot specify ?cached with ?consistent, conflicting semantics.");
    }

    #[test]
    fn what_may_be_stale_by_default_is_not_when_the_client_says_so() {
        assert_eq!(consistency_of("", Consistency::Stale), Consistency::Stale);
        assert_eq!(consistency_of("leader", Consistency::Stale), Consistency::Default);
        assert_eq!(consistency_of("cached", Consistency::Stale), Consistency::Default);
        assert_eq!(consistency_of("consistent", Consistency::Stale), Consistency::Consistent);
        assert_eq!(consistency_of("max_stale=1s", Consistency::Default), Consistency::Stale);
        assert_eq!(consistency_of("max_stale=0s", Consistency::Default), Consistency::Default);
    }

    #[test]
    fn cache_control_must_have_numbers() {
        let check = |text: &'static str| {
            let headers = HeaderMap::from_iter([(CACHE_CONTROL, HeaderValue::from_static(text))]);
            check_cache_control(&headers).map_err(|failure| failure.text())
        };
        assert_eq!(check("max-age=30, must-revalidate, stale-if-error=5"), Ok(()));
        assert_eq!(check("no-store"), Ok(()));
        assert_eq!(check("max-age=x"), Err("Invalid Cache-Control header.".to_owned()));
        assert_eq!(check("stale-if-error=1s"), Err("Invalid Cache-Control header.".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn waits_have_bounds_and_a_random_part() {
        let wait = |text: &str| options(text).unwrap().deadline() - Instant::now();
        for _ in 0..50 {
            for (query, seconds) in [("wait=16s", 16), ("", 300), ("wait=0s", 300), ("wait=1h", 600)] {
                let asked = Duration::from_secs(seconds);
                assert!((asked..=asked + asked / 16).contains(&wait(query)), "{query}");
            }
        }
    }
}
