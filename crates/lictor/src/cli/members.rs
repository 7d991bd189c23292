//! `lictor members`: who belongs to the cluster.

use std::process::ExitCode;

use anyhow::{Context, anyhow};
use lictor_api::agent::Member;
use lictor_api::client::Request;
use regex::Regex;

use super::client::Agent;
use super::command::{Command, Outcome, done};
use super::output::{self, FORMAT, Format, columns, row};
use super::print;
use crate::config::flags::{Flag, Parsed};

/// The command.
pub(crate) const COMMANDS: &[Command] = &[Command::new("members", "Lists the members of the cluster", run)
    .about("\nExits with 2 when no member has one of the statuses asked for.")
    .flags(&[
        Flag::bool("detailed", "Show all tags of each member"),
        FORMAT,
        Flag::text("segment", "Only members of this network segment; by default of all"),
        Flag::text("status", "Only members whose status matches this regular expression: alive, leaving, left, failed"),
        Flag::bool("wan", "Servers of all datacenters instead of members of this one"),
    ])
    .asks_agent()];

/// Exit code when the filter leaves nobody.
const NOBODY: u8 = 2;

/// The words for a member's status, by its number.
const STATUSES: [&str; 5] = ["none", "alive", "leaving", "left", "failed"];

fn run(flags: &Parsed) -> Outcome {
    let format = Format::of(flags)?;
    let filter = flags.text("status").unwrap_or(".*");
    let filter = Regex::new(filter).map_err(|error| anyhow!("Failed to compile status regexp: {error}"))?;
    let mut request = Request::get("/v1/agent/members");
    if flags.is_set("wan") {
        request = request.query("wan", "1");
    } else {
        request = request.query("segment", flags.text("segment").unwrap_or("_all"));
    }
    let agent = Agent::reach(flags)?;
    let mut members: Vec<Member<'static>> = agent.read(request).context("Error retrieving members")?;
    members.retain(|member| filter.is_match(status(member)));
    if members.is_empty() {
        return Ok(ExitCode::from(NOBODY));
    }
    members.sort_by(|a, b| (tag(a, "segment"), &a.name).cmp(&(tag(b, "segment"), &b.name)));
    if format == Format::Json {
        print(&output::json(&members)?);
        return done();
    }
    let mut rows = Vec::new();
    if flags.is_set("detailed") {
        rows.push(row(["Node", "Address", "Status", "Tags"]));
        for member in &members {
            let tags: Vec<String> = member.tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
            rows.push(row([&member.name, &address(member), status(member), &tags.join(",")]));
        }
    } else {
        rows.push(row(["Node", "Address", "Status", "Type", "Build", "Protocol", "DC", "Segment"]));
        for member in &members {
            let build = tag(member, "build").split(':').next().unwrap_or_default();
            let (kind, everywhere) = match tag(member, "role") {
                "consul" => ("server", "<all>"),
                "node" => ("client", "<default>"),
                _ => ("unknown", ""),
            };
            let segment = Some(tag(member, "segment")).filter(|segment| !segment.is_empty()).unwrap_or(everywhere);
            let (protocol, datacenter) = (tag(member, "vsn"), tag(member, "dc"));
            rows.push(row([
                &member.name,
                &address(member),
                status(member),
                kind,
                build,
                protocol,
                datacenter,
                segment,
            ]));
        }
    }
    print(&columns(&rows));
    done()
}

fn tag<'a>(member: &'a Member<'static>, name: &str) -> &'a str {
    member.tags.get(name).map_or("", |value| value)
}

fn status(member: &Member<'_>) -> &'static str {
    STATUSES.get(usize::from(member.status)).unwrap_or(&"none")
}

fn address(member: &Member<'_>) -> String {
    if member.addr.contains(':') {
        format!("[{}]:{}", member.addr, member.port)
    } else {
        format!("{}:{}", member.addr, member.port)
    }
}
