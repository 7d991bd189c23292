//! `/v1/agent/check`: health checks of this agent.

use std::collections::BTreeMap;

use lictor_api::definition;
use lictor_api::health::Check;
use lictor_model::health::Status;
use lictor_model::text;

use crate::body::RequestBody;
use crate::call::{Answered, Call};
use crate::config::Pending;
use crate::decode;
use crate::error::Failure;

/// Longer outputs of `check/update` are cut.
const OUTPUT_LIMIT: usize = 4096;

pub(crate) fn list(call: &Call<'_>) -> Answered {
    let checks = call.agent().checks(&call.caller);
    let shapes: BTreeMap<&str, _> = checks.iter().map(|(id, check)| (id.as_str(), Check::local(check))).collect();
    call.json(&shapes)
}

pub(crate) fn register<'a>(call: &'a Call<'a>, body: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        let check = definition::check_from_http(&body.read().await?).map_err(Failure::invalid)?;
        call.agent().register_check(&call.caller, call.secret, check).await?;
        call.done()
    })
}

pub(crate) fn deregister<'a>(call: &'a Call<'a>, _: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        call.agent().deregister_check(&call.caller, call.argument).await?;
        call.done()
    })
}

pub(crate) fn pass<'a>(call: &'a Call<'a>, _: RequestBody) -> Pending<'a, Answered> {
    report(call, Status::Passing)
}

pub(crate) fn warn<'a>(call: &'a Call<'a>, _: RequestBody) -> Pending<'a, Answered> {
    report(call, Status::Warning)
}

pub(crate) fn fail<'a>(call: &'a Call<'a>, _: RequestBody) -> Pending<'a, Answered> {
    report(call, Status::Critical)
}

fn report<'a>(call: &'a Call<'a>, status: Status) -> Pending<'a, Answered> {
    Box::pin(async move {
        call.agent().update_ttl(&call.caller, call.argument, status, call.query.get("note")).await?;
        call.done()
    })
}

pub(crate) fn update<'a>(call: &'a Call<'a>, body: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        let body = body.read().await?;
        let report =
            decode::check_report(&body).map_err(|e| Failure::invalid(format!("Request decode failed: {e}")))?;
        let Some(status) = Status::parse(&report.status) else {
            return Err(Failure::invalid(format!("Invalid check status: '{}'", report.status)));
        };
        let output = shortened(report.output);
        call.agent().update_ttl(&call.caller, call.argument, status, &output).await?;
        call.done()
    })
}

fn shortened(mut output: String) -> String {
    let length = output.len();
    if length > OUTPUT_LIMIT {
        output.truncate(text::beginning(&output, OUTPUT_LIMIT).len());
        output.push_str(&format!(" ... (captured {OUTPUT_LIMIT} of {length} bytes)"));
    }
    output
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_outputs_are_cut() {
        assert_eq!(shortened("x".repeat(4096)).len(), 4096);
        let cut = shortened("x".repeat(5000));
        assert_eq!(cut, format!("{} ... (captured 4096 of 5000 bytes)", "x".repeat(4096)));
        assert!(shortened("ü".repeat(3000)).starts_with("ü"));
    }
}
