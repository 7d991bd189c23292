//! `/v1/agent/connect/processes` and its neighbours: managed proxies as processes. The original has nothing like it.

use lictor_agent::operate::logs::Stream;
use lictor_agent::operate::{Act, ManagedProcess};
use lictor_api::process as shape;
use lictor_api::time::Time;
use lictor_model::health::Status;
use lictor_task::clock;

use crate::body::RequestBody;
use crate::call::{Answered, Call, parse_bool};
use crate::config::Pending;
use crate::error::Failure;
use crate::respond;

/// How long a drain may take when nobody says.
const DRAIN_LIMIT: std::time::Duration = std::time::Duration::from_secs(60);
/// The longest drain.
const LONGEST_DRAIN: std::time::Duration = std::time::Duration::from_secs(24 * 3600);
/// Lines of a log that are shown when nobody says how many.
const LINES: usize = 100;
/// The most that are shown.
const MOST_LINES: usize = 100_000;

pub(crate) fn processes(call: &Call<'_>) -> Answered {
    let all = call.agent().managed_processes(&call.caller);
    call.json(&all.iter().map(shape_of).collect::<Vec<_>>())
}

pub(crate) fn process(call: &Call<'_>) -> Answered {
    let id = call.required("Missing proxy ID")?;
    call.json(&shape_of(&call.agent().managed_process(&call.caller, id)?))
}

pub(crate) fn why<'a>(call: &'a Call<'a>, _: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        let id = call.required("Missing proxy ID")?;
        let (process, causes) = call.agent().why(&call.caller, call.secret, id).await?;
        let causes = causes.iter().map(|link| shape::Cause {
            depth: link.depth,
            cause: link.what.as_str().into(),
            remedy: link.remedy.as_str().into(),
        });
        call.json(&shape::Why {
            proxy_id: process.id.as_str().into(),
            serving: process.serving,
            causes: causes.collect(),
        })
    })
}

/// The last lines of a proxy's output and, with `follow`, those to come.
pub(crate) fn logs(call: &Call<'_>) -> Answered {
    let id = call.required("Missing proxy ID")?;
    let stream = match call.query.get("stream") {
        "" => Stream::Both,
        "stdout" => Stream::Stdout,
        "stderr" => Stream::Stderr,
        other => return Err(Failure::invalid(format!("Unknown stream {other:?}, use stdout or stderr"))),
    };
    let lines = match call.query.get("lines") {
        "" => LINES,
        text => text.parse().map_err(|_| Failure::invalid(format!("Invalid number of lines {text:?}")))?,
    };
    let follow = call.query.has("follow") && parse_bool(call.query.get("follow")) != Some(false);
    let output = call.agent().proxy_output(&call.caller, id, stream, lines.min(MOST_LINES), follow)?;
    Ok(respond::stream(output))
}

pub(crate) fn stop<'a>(call: &'a Call<'a>, _: RequestBody) -> Pending<'a, Answered> {
    Box::pin(operate(call, Act::Stop))
}

pub(crate) fn start<'a>(call: &'a Call<'a>, _: RequestBody) -> Pending<'a, Answered> {
    Box::pin(operate(call, Act::Start))
}

pub(crate) fn restart<'a>(call: &'a Call<'a>, _: RequestBody) -> Pending<'a, Answered> {
    Box::pin(operate(call, Act::Restart))
}

pub(crate) fn drain<'a>(call: &'a Call<'a>, _: RequestBody) -> Pending<'a, Answered> {
    Box::pin(async move {
        let limit = match call.query.get("timeout") {
            "" => DRAIN_LIMIT,
            text => lictor_notation::duration::parse(text)
                .map_err(|error| Failure::invalid(format!("Invalid timeout {text:?}: {error}")))?,
        };
        operate(call, Act::Drain(limit.min(LONGEST_DRAIN))).await
    })
}

async fn operate(call: &Call<'_>, act: Act) -> Answered {
    let id = call.required("Missing proxy ID")?;
    call.agent().operate(&call.caller, id, act).await?;
    call.done()
}

fn shape_of(process: &ManagedProcess) -> shape::Process<'_> {
    let ManagedProcess {
        id,
        service_id,
        service,
        command,
        state,
        since_unix_ms,
        pid,
        started_unix_ms,
        adopted,
        ready,
        serving,
        restarts,
        last_exit,
        next_try_unix_ms,
        unheard_since_unix_ms,
        text,
        held,
        usage,
        report,
        check,
        refused,
        not_replaced,
    } = process;
    let now = clock::unix_nanos() / 1_000_000;
    shape::Process {
        proxy_id: id.as_str().into(),
        service_id: service_id.as_str().into(),
        service_name: service.as_str().into(),
        command: command.clone(),
        state: (*state).into(),
        since: Some(*since_unix_ms).filter(|since| *since != 0).map(moment),
        pid: *pid,
        started: started_unix_ms.map(moment),
        // A clock that was set back must not make it negative.
        uptime_seconds: started_unix_ms.map(|at| u64::try_from(now - at).unwrap_or_default() / 1000),
        adopted: *adopted,
        ready: *ready,
        serving: *serving,
        restarts: *restarts,
        last_exit: last_exit.as_ref().map(|last| shape::Exit {
            reason: last.reason.as_str().into(),
            at: moment(last.at_unix_ms),
            ran_seconds: last.ran.as_secs_f64(),
            output: last.output.clone(),
        }),
        next_try: next_try_unix_ms.map(moment),
        unheard_since: unheard_since_unix_ms.map(moment),
        status: text.as_str().into(),
        refused: refused.as_deref().map(Into::into),
        not_replaced: not_replaced
            .as_ref()
            .map(|(cause, at_unix_ms)| shape::NotReplaced { cause: cause.as_str().into(), at: moment(*at_unix_ms) }),
        held: held.is_some(),
        drain_until: held.and_then(|held| held.drain_until_unix_ms).map(moment),
        memory_bytes: usage.map(|usage| usage.memory),
        group_memory_bytes: usage.and_then(|usage| usage.group_memory),
        memory_limit_bytes: usage.and_then(|usage| usage.memory_limit),
        cpu_seconds: usage.map(|usage| usage.cpu.as_secs_f64()),
        open_files: usage.and_then(|usage| usage.open_files),
        report: report.as_ref().map(|report| shape::Report {
            connections: report.connections,
            inbound: report.inbound,
            listeners_open: report.listeners.0,
            listeners_wanted: report.listeners.1,
            listening: report.listening.clone(),
            upstreams_reachable: report.upstreams.0,
            upstreams_wanted: report.upstreams.1,
            endpoints: report.endpoints.clone(),
            unreachable: report.unreachable.clone(),
            leaf_valid_until: Some(report.leaf_until).filter(|until| *until > 0).map(Time::from_seconds),
            roots: report.roots,
            direct_connections: report.direct,
            direct_fallbacks: report.direct_fallbacks,
        }),
        check: check.as_ref().map(|(status, output)| shape::Check {
            status: Status::as_str(*status).into(),
            output: output.as_str().into(),
        }),
    }
}

fn moment(unix_ms: i64) -> Time {
    Time::from_nanos(unix_ms.saturating_mul(1_000_000))
}
