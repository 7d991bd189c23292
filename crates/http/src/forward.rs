//! What a client agent does not know itself: handed to a server as it came, and the answer handed back as it comes.
//!
//! Only the secret is looked at: none stands for the agent's default token, and that of a managed proxy, which no server
//! knows, for the token of its service. What a proxy may ask for at all is decided here before.

use std::time::Duration;

use http::header::{
    ACCEPT_ENCODING, AGE, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, DATE, EXPECT, HOST, HeaderMap, HeaderName,
    HeaderValue, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VARY,
};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use lictor_link::kept::{Given, Question};
use lictor_link::servers::{Ask, Error};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::blocking::Options;
use crate::body::RequestBody;
use crate::call::{Answered, Call, Peer};
use crate::config::Elsewhere;
use crate::error::Failure;
use crate::handlers::snapshot;
use crate::respond::{self, CACHE, INDEX, Response};
use crate::routes::{Handler, Route};

/// What belongs to one connection, and what each side says for itself: answers are compressed where the client is.
static OF_CONNECTION: [HeaderName; 11] =
    [ACCEPT_ENCODING, CONNECTION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, HOST, EXPECT, CONTENT_LENGTH, DATE, VARY];

/// `X-Forwarded-For`
static FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// An answer up to this size is taken whole, and may be kept; a larger one is passed on as it comes.
const WHOLE: u64 = 4 << 20;
/// Pieces of an answer that wait for a client here.
const PIECES: usize = 16;
/// A client that takes nothing for so long has gone: what a server has for it must not stand in the way of others.
const UNTAKEN: Duration = Duration::from_secs(30);

/// Whether a route is about this agent, so that it answers itself even where it holds no state.
pub(crate) fn is_own(route: &Route) -> bool {
    let of_the_cluster = ["/v1/agent/members", "/v1/agent/force-leave/"];
    route.pattern.starts_with("/v1/agent/") && !of_the_cluster.contains(&route.pattern)
}

/// Asks a server what this call asks.
/// `path` is that of the request as it travelled.
pub(crate) async fn forward(
    elsewhere: &Elsewhere,
    call: &Call<'_>,
    path: &str,
    handler: &Handler,
    body: RequestBody,
) -> Answered {
    // Held for as long as its bytes are.
    let (body, _held, _alone) = if call.route.pattern == snapshot::PATTERN && *call.method == Method::PUT {
        // Who may not restore need not send it all, and there is memory for one at a time.
        call.agent().learn(call.secret).await?;
        snapshot::may_restore(&call.agent().caller(call.secret)?)?;
        let alone = call.server.restoring.try_lock().map_err(|_| Failure::Restoring)?;
        (body.read_huge(snapshot::LARGEST).await?, None, Some(alone))
    } else {
        let body = body.read().await?;
        (body.bytes(), Some(body), None)
    };
    let (secret, is_proxy) = call.agent().asker_elsewhere(call.secret);
    let mut ask = Ask::new(call.method.clone(), target(path, call, |_| true), &secret, body);
    ask.headers = passed_on(call.headers);
    if let Peer::Tcp(address) = call.peer
        && !ask.headers.contains_key(&FORWARDED_FOR)
        && let Ok(address) = HeaderValue::try_from(address.ip().to_string())
    {
        // By which a prepared query finds what is near to whoever asks.
        ask.headers.insert(&FORWARDED_FOR, address);
    }
    let kept = elsewhere.kept.as_ref().filter(|_| is_kept(call, handler, is_proxy)).map(|kept| {
        let waits = |name: &str| matches!(name, "index" | "wait" | "hash");
        (kept, Question { secret, target: target(path, call, |name| !waits(name)) })
    });
    let answer = match elsewhere.servers.ask(&ask).await {
        Ok(answer) => answer,
        Err(error @ (Error::NoServers(_) | Error::Broken(_))) => {
            if let Error::NoServers(last) = &error {
                tracing::debug!("http: no server answers: {last}");
            }
            return match kept.and_then(|(kept, question)| kept.get(&question)) {
                Some(given) => as_it_was(call, given).await,
                None => Err(failed(error)),
            };
        }
        Err(error) => return Err(failed(error)),
    };
    let (head, mut body) = answer.into_parts();
    let mut headers = passed_on(&head.headers);
    let is_short = hyper::body::Body::size_hint(&body).upper().is_some_and(|size| size <= WHOLE);
    let mut response = if is_short {
        let whole = body.collect().await.map_err(|error| failed(Error::Broken(error.to_string())))?.to_bytes();
        match kept {
            Some((kept, question)) if head.status == StatusCode::OK => {
                let given =
                    Given { status: head.status, headers: headers.clone(), body: whole.clone(), at: Instant::now() };
                kept.put(question, given);
            }
            // It is not there any more, or not for them: what was said before does not hold either.
            Some((kept, question)) if head.status.is_client_error() && head.status != StatusCode::TOO_MANY_REQUESTS => {
                kept.forget(&question);
            }
            _ => {}
        }
        respond::bytes(whole)
    } else {
        // One that ends too early is no answer, and a client can tell: by its length, and by how it ends.
        headers.extend(head.headers.get(CONTENT_LENGTH).map(|length| (CONTENT_LENGTH, length.clone())));
        let (sender, pieces) = mpsc::channel(PIECES);
        tokio::spawn(async move {
            loop {
                let piece = match body.frame().await {
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(data) => Some(data),
                        Err(_) => continue,
                    },
                    Some(Err(_)) => return,
                    None => None,
                };
                let is_last = piece.is_none();
                let taken = tokio::time::timeout(UNTAKEN, sender.send(piece)).await;
                if is_last || !matches!(taken, Ok(Ok(()))) {
                    return;
                }
            }
        });
        respond::pieces(pieces)
    };
    *response.status_mut() = head.status;
    *response.headers_mut() = headers;
    Ok(response)
}

fn failed(error: Error) -> Failure {
    match error {
        Error::Limited => Failure::Throttled,
        Error::Refused { code: 400, text } => Failure::invalid(text),
        error => Failure::refused(error.to_string()),
    }
}

/// Headers without those of one connection and those about who asks.
fn passed_on(headers: &HeaderMap) -> HeaderMap {
    let of_secret = |name: &HeaderName, value: &HeaderValue| {
        *name == lictor_link::servers::TOKEN || *name == AUTHORIZATION && value.as_bytes().starts_with(b"Bearer ")
    };
    let passed = headers.iter().filter(|(name, value)| {
        !OF_CONNECTION.contains(name) && **name != lictor_link::servers::NODE && !of_secret(name, value)
    });
    passed.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// The target as it came, without the secret and without what is not wanted of the query.
fn target(path: &str, call: &Call<'_>, wanted: impl Fn(&str) -> bool) -> String {
    let mut target = path.to_owned();
    let parts = call.raw_query.split('&').filter(|part| {
        let name = part.split_once('=').map_or(*part, |(name, _)| name);
        !part.is_empty() && name != "token" && wanted(name)
    });
    for (number, part) in parts.enumerate() {
        target.push(if number == 0 { '?' } else { '&' });
        target.push_str(part);
    }
    target
}

/// Whether an answer is kept for the time when no server answers: what a managed proxy lives by, and what a client says may
/// be old.
fn is_kept(call: &Call<'_>, handler: &Handler, is_proxy: bool) -> bool {
    let reads = matches!(handler, Handler::Read(_) | Handler::Waits(_));
    *call.method == Method::GET && reads && (is_proxy || call.query.has("cached"))
}

/// An answer that was given before. Who has it already waits for another one as long as it asked to.
async fn as_it_was(call: &Call<'_>, given: Given) -> Answered {
    let options = Options::parse(call)?;
    let index = given.headers.get(&INDEX).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if options.after.0 != 0 && index == Some(options.after.0) {
        // Not for the whole of it: a server may be back before that.
        let until = options.deadline().min(Instant::now() + AWAY);
        tokio::select! {
            () = tokio::time::sleep_until(until) => {}
            () = call.server.stop.requested() => {}
        }
    }
    let Given { status, headers, body, at } = given;
    let mut response: Response = respond::bytes(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response.headers_mut().insert(&CACHE, HeaderValue::from_static("HIT"));
    response.headers_mut().insert(AGE, at.elapsed().as_secs().into());
    Ok(response)
}

/// How long a read that waits is held while no server answers.
const AWAY: Duration = Duration::from_secs(2);
