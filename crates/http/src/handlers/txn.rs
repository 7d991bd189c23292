//! `/v1/txn`: several operations at once.

use bytes::Bytes;
use http::StatusCode;
use http::header::HeaderValue;
use lictor_api::Indexes;
use lictor_api::catalog::NodeService;
use lictor_api::health::{Absent, Check};
use lictor_api::txn as shape;
use lictor_state::reader::{CheckRow, ServiceRow};
use lictor_state::writer::{LARGEST_READ, TxnFailure, TxnItem, TxnOp, TxnOutcome};

use super::catalog::node_shape;
use super::kv::{LARGEST_VALUE, entry};
use crate::body::RequestBody;
use crate::call::{Answered, Call};
use crate::config::Pending;
use crate::decode;
use crate::error::Failure;
use crate::respond::{self, KNOWN_LEADER, LAST_CONTACT, Response};

/// Most operations of one transaction.
const MOST: usize = 64;

pub(crate) fn carry_out<'a>(call: &'a Call<'a>, body: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        call.needs_our_datacenter(call.query.get("dc"))?;
        let body = body.read().await?;
        let ops = decode::transaction(&body).map_err(|why| Failure::invalid(format!("Failed to parse body: {why}")))?;
        if let Some(refusal) = too_much(&ops) {
            return Ok(refusal);
        }
        let reads = ops.iter().all(TxnOp::is_read);
        let outcome = call.agent().transact(&call.caller, &ops).await?;
        let (items, failures) = match outcome {
            TxnOutcome::TooLarge => return Err(Failure::AnswerTooLarge(LARGEST_READ)),
            TxnOutcome::Done(items) => (items, Vec::new()),
            TxnOutcome::Failed(failures) => (Vec::new(), failures),
        };
        let done = failures.is_empty();
        let outcome = shape::Outcome {
            results: done.then(|| items.iter().map(|item| shape_of(call, item)).collect()),
            errors: (!done).then(|| failures.iter().map(failure).collect()),
        };
        let mut response = if reads { call.json(&shape::ReadOutcome::new(outcome))? } else { call.json(&outcome)? };
        if reads {
            response.headers_mut().insert(&KNOWN_LEADER, HeaderValue::from_static("true"));
            response.headers_mut().insert(&LAST_CONTACT, HeaderValue::from_static("0"));
        }
        if !done {
            *response.status_mut() = StatusCode::CONFLICT;
        }
        Ok(response)
    })
}

/// The refusal of more operations, or of larger values, than one transaction may have.
fn too_much(ops: &[TxnOp]) -> Option<Response> {
    let refuse = |text: String| Some(respond::text(StatusCode::PAYLOAD_TOO_LARGE, Bytes::from(text)));
    if ops.len() > MOST {
        return refuse(format!("Transaction contains too many operations ({} > {MOST})", ops.len()));
    }
    let mut total = 0;
    for op in ops {
        let TxnOp::Kv { key, value, .. } = op else { continue };
        if value.len() > LARGEST_VALUE {
            let size = value.len();
            return refuse(format!("Value for key {key:?} is too large ({size} > {LARGEST_VALUE} bytes)"));
        }
        total += value.len();
    }
    if total > LARGEST_VALUE {
        return refuse(format!("Cumulative size of key data is too large ({total} > {LARGEST_VALUE} bytes)"));
    }
    None
}

fn shape_of<'a>(call: &Call<'a>, item: &'a TxnItem) -> shape::Item<'a> {
    match item {
        TxnItem::Kv(row) => shape::Item::Key(entry(row)),
        TxnItem::Node(row) => shape::Item::Node(node_shape(call, row)),
        TxnItem::Service(_, row) => {
            let ServiceRow { service, created, modified } = &**row;
            let indexes = Indexes { created: *created, modified: *modified };
            shape::Item::Service(Box::new(NodeService::new(service, indexes, Absent::Null)))
        }
        TxnItem::Check(row) => {
            let CheckRow { check, created, modified } = &**row;
            let indexes = Indexes { created: *created, modified: *modified };
            shape::Item::Check(Box::new(Check::new(check, indexes, Absent::Null)))
        }
    }
}

fn failure(failure: &TxnFailure) -> shape::Failure<'_> {
    let TxnFailure { op, what } = failure;
    shape::Failure { op_index: *op, what: what.into() }
}
