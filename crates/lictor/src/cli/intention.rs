//! `lictor intention`: which service may connect to which.

mod create;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use lictor_api::client::Request;
use lictor_api::intention::{Checked, Intention, Matches};

use super::client::{self, Agent};
use super::command::{Command, Outcome, done};
use super::output::{self, FORMAT, Format, pairs};
use super::print;
use crate::config::flags::{Flag, Parsed};

/// Exit code of `check` for a connection that is denied, and of every error of it.
const DENIED: u8 = 1;
const CHECK_FAILED: u8 = 2;

/// The commands.
pub(crate) const COMMANDS: &[Command] = &[
    Command::new("intention check", "Says whether one service may connect to another", check)
        .operands("SRC DST")
        .about("\nExits with 0 when it may, with 1 when it may not, with 2 when that could not be found out.")
        .flags(&[FORMAT])
        .asks_agent()
        .failure(CHECK_FAILED),
    create::COMMAND,
    Command::new("intention delete", "Deletes an intention", delete).operands("SRC DST | ID").asks_agent(),
    Command::new("intention get", "Shows an intention", get).operands("SRC DST | ID").flags(&[FORMAT]).asks_agent(),
    Command::new("intention match", "Lists the intentions that speak of a service, those that decide first", matching)
        .operands("SERVICE")
        .flags(&[
            Flag::bool("destination", "Intentions with the service as destination; the default"),
            FORMAT,
            Flag::bool("source", "Intentions with the service as source"),
        ])
        .asks_agent(),
];

/// Where one intention is.
const ONE: &str = "/v1/connect/intentions/";

fn check(flags: &Parsed) -> Outcome {
    let format = Format::of(flags)?;
    let [source, destination] = flags.operands.as_slice() else {
        bail!("Error: command requires exactly two arguments: src and dst");
    };
    let request =
        Request::get("/v1/connect/intentions/check").query("source", source).query("destination", destination);
    let checked: Checked = Agent::reach(flags)?.read(request).context("Error checking the connection")?;
    match (format, checked.allowed) {
        (Format::Json, _) => print(&output::json(&checked)?),
        (Format::Pretty, true) => print("Allowed"),
        (Format::Pretty, false) => print("Denied"),
    }
    Ok(if checked.allowed { ExitCode::SUCCESS } else { ExitCode::from(DENIED) })
}

fn delete(flags: &Parsed) -> Outcome {
    let agent = Agent::reach(flags)?;
    let found = named(&agent, &flags.operands)?;
    agent.tell(Request::delete(ONE).segment(&found.id)).context("Error deleting the intention")?;
    print("Intention deleted.");
    done()
}

fn get(flags: &Parsed) -> Outcome {
    let format = Format::of(flags)?;
    let found = named(&Agent::reach(flags)?, &flags.operands)?;
    if format == Format::Json {
        print(&output::json(&found)?);
        return done();
    }
    let mut lines = vec![
        ("Source:".to_owned(), found.source_name.to_string()),
        ("Destination:".to_owned(), found.destination_name.to_string()),
        ("Action:".to_owned(), found.action.to_string()),
        ("ID:".to_owned(), found.id.to_string()),
    ];
    if !found.description.is_empty() {
        lines.push(("Description:".to_owned(), found.description.to_string()));
    }
    for (key, value) in found.meta.iter() {
        lines.push((format!("Meta[{key}]:"), value.clone()));
    }
    lines.push(("Created At:".to_owned(), rfc850(found.created_at.nanos())));
    print(&pairs(2, &lines));
    done()
}

fn matching(flags: &Parsed) -> Outcome {
    let format = Format::of(flags)?;
    let [name] = flags.operands.as_slice() else {
        bail!("Error: command requires exactly one argument: src or dst");
    };
    let by = match (flags.is_set("source"), flags.is_set("destination")) {
        (true, true) => bail!("Error: only one of -source or -destination may be specified"),
        (true, false) => "source",
        (false, _) => "destination",
    };
    let request = Request::get("/v1/connect/intentions/match").query("by", by).query("name", name);
    let mut matches: Matches<'static> = Agent::reach(flags)?.read(request).context("Error matching the connection")?;
    let found = matches.remove(name.as_str()).flatten().unwrap_or_default();
    if format == Format::Json {
        print(&output::json(&found)?);
        return done();
    }
    let lines: Vec<String> = found.iter().map(summary).collect();
    if !lines.is_empty() {
        print(&lines.join("\n"));
    }
    done()
}

/// `web => pantry (allow)`.
fn summary(intention: &Intention<'_>) -> String {
    let Intention { source_name, destination_name, action, .. } = intention;
    format!("{source_name} => {destination_name} ({action})")
}

/// The intention that operands name: an id, or source and destination.
fn named(agent: &Agent, operands: &[String]) -> Result<Intention<'static>> {
    match operands {
        [id] => match agent.read(Request::get(ONE).segment(id)) {
            Err(error) if client::is_not_found(&error) => bail!("Error: Intention with ID {id:?} not found."),
            other => other.context("Error reading the intention"),
        },
        [source, destination] => find(agent, source, destination)?.map_or_else(
            || bail!("Error: Intention with source {source:?} and destination {destination:?} not found."),
            Ok,
        ),
        other => bail!("Error: command requires exactly 1 or 2 arguments, got {}", other.len()),
    }
}

/// The intention between two services, if there is one.
fn find(agent: &Agent, source: &str, destination: &str) -> Result<Option<Intention<'static>>> {
    let (source, destination) = (plain(source), plain(destination));
    let all: Vec<Intention<'static>> =
        agent.read(Request::get("/v1/connect/intentions")).context("Error looking up the intention")?;
    // Names are compared as they are; intentions in other namespaces than the one there is are not meant.
    Ok(all.into_iter().find(|one| {
        one.source_name == source
            && one.destination_name == destination
            && [&one.source_ns, &one.destination_ns].iter().all(|ns| matches!(ns.as_ref(), "" | "default" | "*"))
    }))
}

/// A name without the one namespace there is.
fn plain(name: &str) -> &str {
    name.strip_prefix("default/").unwrap_or(name)
}

/// A moment in the form of RFC 850, local time.
fn rfc850(nanos: i64) -> String {
    let moment = Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or(Timestamp::UNIX_EPOCH);
    let zone = TimeZone::try_system().unwrap_or(TimeZone::UTC);
    moment.to_zoned_datetime(zone).strftime("%A, %d-%b-%y %H:%M:%S %Z").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_namespace_may_be_written() {
        assert_eq!((plain("default/web"), plain("web"), plain("other/web")), ("web", "web", "other/web"));
    }

    #[test]
    fn moments_are_shown_with_day_and_zone() {
        let text = rfc850(0);
        let (day, rest) = text.split_once(", ").unwrap();
        assert!(["Wednesday", "Thursday"].contains(&day) && rest.contains("-70 "), "{text}");
    }
}
