//! `lictor connect ps`: managed proxies as a table of processes.

use std::process::ExitCode;

use anyhow::bail;
use lictor_api::process::Process;
use lictor_api::time::Time;

use super::{ask, processes};
use crate::cli::command::Command;
use crate::cli::print;
use crate::config::flags::Flag;

pub(super) const COMMAND: Command = Command::words("connect ps", "Lists managed proxies as processes", run)
    .operands("")
    .about("\nLists the managed proxies of the local agent: state, process, connections, and how the last run ended.")
    .flags(&[Flag::text("format", "table (the default) or json")])
    .asks_agent();

fn run(words: &[String]) -> ExitCode {
    ask(&COMMAND, words, |client, parsed| async move {
        if !parsed.operands.is_empty() {
            bail!("takes no arguments; lictor connect why ID tells more of one");
        }
        let all = processes(&client).await?;
        match parsed.text("format").unwrap_or("table") {
            "json" => print(&serde_json::to_string_pretty(&all)?),
            "table" if all.is_empty() => print(super::NONE),
            "table" => print(&table(&all)),
            other => bail!("-format {other:?}: use table or json"),
        }
        Ok(ExitCode::SUCCESS)
    })
}

const HEAD: [&str; 11] =
    ["PROXY", "STATE", "PID", "UPTIME", "RESTARTS", "READY", "CONNS", "UPSTREAMS", "MEMORY", "NEXT TRY", "LAST EXIT"];

fn table(all: &[Process<'_>]) -> String {
    let mut rows = vec![HEAD.map(str::to_owned)];
    rows.extend(all.iter().map(row));
    let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    let line = |row: &[String; HEAD.len()]| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn row(process: &Process<'_>) -> [String; HEAD.len()] {
    let none = || "-".to_owned();
    let state = match process.unheard_since {
        _ if process.held && process.drain_until.is_none() => "stopped (held)".to_owned(),
        Some(since) if process.state == "unheard" => format!("unheard ({})", short(-seconds_until(since))),
        _ => process.state.to_string(),
    };
    let report = process.report.as_ref();
    [
        process.proxy_id.to_string(),
        state,
        process.pid.map_or_else(none, |pid| pid.to_string()),
        process.uptime_seconds.map_or_else(none, |seconds| short(seconds as f64)),
        process.restarts.to_string(),
        if process.serving {
            "yes".into()
        } else if process.unheard_since.is_some() {
            "unknown".into()
        } else if process.ready {
            "partly".into()
        } else {
            "no".into()
        },
        report.map_or_else(none, |report| report.connections.to_string()),
        report.map_or_else(none, |report| format!("{}/{}", report.upstreams_reachable, report.upstreams_wanted)),
        memory(process),
        process.next_try.map_or_else(none, |at| format!("in {}", short(seconds_until(at)))),
        process.last_exit.as_ref().map_or_else(none, |last| {
            format!("{} ago: {} after {}", short(-seconds_until(last.at)), last.reason, short(last.ran_seconds))
        }),
    ]
}

/// Its memory, and where there is a limit that of all that counts for it, with the limit.
fn memory(process: &Process<'_>) -> String {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    match (process.memory_bytes, process.group_memory_bytes, process.memory_limit_bytes) {
        // The kernel counts for a group what was asked for in it, not what a process brought along.
        (_, Some(used), Some(limit)) => format!("{:.1}/{:.1} MiB", mib(used), mib(limit)),
        (Some(bytes), _, _) => format!("{:.1} MiB", mib(bytes)),
        (None, _, _) => "-".to_owned(),
    }
}

fn seconds_until(at: Time) -> f64 {
    (at.nanos() - lictor_task::clock::unix_nanos()) as f64 / 1e9
}

/// `0.4s`, `12s`, `3m20s`, `5h12m`, `3d4h`.
pub(super) fn short(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    match whole {
        0..=9 => format!("{:.1}s", seconds.max(0.0)),
        10..=59 => format!("{whole}s"),
        60..=3599 => format!("{}m{}s", whole / 60, whole % 60),
        3600..=86_399 => format!("{}h{}m", whole / 3600, whole % 3600 / 60),
        _ => format!("{}d{}h", whole / 86_400, whole % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        let said = [-1.0, 0.44, 12.0, 200.0, 18_720.0, 273_600.0].map(short);
        assert_eq!(said, ["0.0s", "0.4s", "12s", "3m20s", "5h12m", "3d4h"]);
    }
}
