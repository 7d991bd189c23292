//! `lictor rtt`: the estimated round-trip time between two nodes.

use anyhow::{Context, Result, anyhow, bail};
use lictor_api::agent::{Coordinate, Description};
use lictor_api::client::Request;
use lictor_api::coordinate::{Datacenter, Entry};
use serde_json::json;

use super::client::Agent;
use super::command::{Command, Outcome, done};
use super::output::{self, FORMAT, Format};
use super::print;
use crate::config::flags::{Flag, Parsed};

/// The command.
pub(crate) const COMMANDS: &[Command] = &[Command::new("rtt", "Estimates the round-trip time between two nodes", run)
    .operands("NODE1 [NODE2]")
    .about("\nWithout NODE2, the agent's own node is taken.")
    .flags(&[FORMAT, Flag::bool("wan", "The nodes are servers of any datacenter, written NODE.DATACENTER")])
    .asks_agent()];

fn run(flags: &Parsed) -> Outcome {
    let format = Format::of(flags)?;
    let (first, second) = match flags.operands.as_slice() {
        [one] => (one, None),
        [one, two] => (one, Some(two.clone())),
        _ => bail!("One or two node names must be specified"),
    };
    let agent = Agent::reach(flags)?;
    let wan = flags.is_set("wan");
    let second = match second {
        Some(second) => second,
        None => own_name(&agent, wan)?,
    };
    let (space, a, b) = if wan {
        let all: Vec<Datacenter<'static>> =
            agent.read(Request::get("/v1/coordinate/datacenters")).context("Error getting coordinates")?;
        let find = |text: &str| -> Result<Coordinate> {
            let (node, datacenter) = text
                .rsplit_once('.')
                .ok_or_else(|| anyhow!("Node names must be specified as <node name>.<datacenter> with -wan"))?;
            let entries = all.iter().filter(|one| one.datacenter == datacenter).flat_map(|one| &one.coordinates);
            coordinate(entries, node).ok_or_else(|| anyhow!("Could not find a coordinate for node {text:?}"))
        };
        ("WAN", find(first)?, find(&second)?)
    } else {
        let all: Vec<Entry<'static>> =
            agent.read(Request::get("/v1/coordinate/nodes")).context("Error getting coordinates")?;
        let find = |node: &str| -> Result<Coordinate> {
            coordinate(all.iter(), node).ok_or_else(|| anyhow!("Could not find a coordinate for node {node:?}"))
        };
        ("LAN", find(first)?, find(&second)?)
    };
    let milliseconds = distance(&a, &b)? * 1000.0;
    match format {
        Format::Pretty => {
            print(&format!("Estimated {first} <-> {second} rtt: {milliseconds:.3} ms (using {space} coordinates)"));
        }
        Format::Json => print(&output::json(&json!({
            "Node1": first, "Node2": second, "Milliseconds": milliseconds, "Coordinates": space,
        }))?),
    }
    done()
}

fn own_name(agent: &Agent, wan: bool) -> Result<String> {
    let description: Description<'static> =
        agent.read(Request::get("/v1/agent/self")).context("Unable to look up agent info")?;
    let config = description.config;
    Ok(if wan { format!("{}.{}", config.node_name, config.datacenter) } else { config.node_name.into_owned() })
}

fn coordinate<'a>(entries: impl Iterator<Item = &'a Entry<'static>>, node: &str) -> Option<Coordinate> {
    entries.into_iter().find(|entry| entry.node == node).and_then(|entry| entry.coord.clone())
}

/// Seconds between two points: their distance, and what each is away from the plane; learned corrections count as long
/// as something is left.
fn distance(a: &Coordinate, b: &Coordinate) -> Result<f64> {
    if a.vec.len() != b.vec.len() {
        bail!("the coordinates have different dimensions");
    }
    let squares: f64 = a.vec.iter().zip(&b.vec).map(|(a, b)| (a - b) * (a - b)).sum();
    let raw = squares.sqrt() + a.height + b.height;
    let adjusted = raw + a.adjustment + b.adjustment;
    Ok(if adjusted > 0.0 { adjusted } else { raw })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_as_far_from_itself_as_twice_its_height() {
        let here = Coordinate::default();
        assert!((distance(&here, &here).unwrap() - 2e-5).abs() < 1e-12);
        let there = Coordinate { vec: vec![0.003, 0.004, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], ..Coordinate::default() };
        assert!((distance(&here, &there).unwrap() - 0.00502).abs() < 1e-12);
        let corrected = Coordinate { adjustment: -1.0, ..there.clone() };
        assert!((distance(&here, &corrected).unwrap() - 0.00502).abs() < 1e-12);
        assert!(distance(&here, &Coordinate { vec: vec![0.0], ..there }).is_err());
    }
}
