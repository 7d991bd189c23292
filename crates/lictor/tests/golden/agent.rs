//! The agent of one scenario: started as the corpus asks for, with ports that nobody else has.

use std::collections::BTreeMap;
use std::fs;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use lictor_testkit::{House, ports};
use serde_json::{Value, json};

use crate::template::Known;

/// How long an agent may take until it is ready, on a busy machine.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// One agent and what is known of it.
pub(crate) struct Agent {
    pub(crate) house: House,
    pub(crate) known: Known,
    config: Value,
}

impl Agent {
    /// Starts one as the `agent` part of a scenario says.
    pub(crate) fn start(wishes: &Value) -> Result<Agent, String> {
        let mut known = Known { ports: choose_ports(), ..Known::default() };
        let mut config = Value::Null;
        let durable = wishes["data_dir"].as_bool() == Some(true);
        let mut house = House::build_as(env!("CARGO_BIN_EXE_lictor"), |folder| {
            known.captured.insert("tmp".into(), folder.display().to_string().into());
            let port = |name: &str| *known.ports[name].start();
            config = json!({"node_name": "node1", "bind_addr": "127.0.0.1", "ports": {
                "http": port("http"), "dns": port("dns"), "serf_lan": port("serf_lan"), "serf_wan": port("serf_wan"),
                "server": port("server"), "grpc": -1,
                "proxy_min_port": port("proxy"), "proxy_max_port": known.ports["proxy"].end(),
                "sidecar_min_port": port("sidecar"), "sidecar_max_port": known.ports["sidecar"].end(),
            }});
            let mut arguments: Vec<String> = Vec::new();
            if durable {
                let more = json!({"data_dir": folder.join("data"), "server": true, "bootstrap_expect": 1,
                    "connect": {"enabled": true}});
                lay_over(&mut config, &more);
            } else {
                arguments.push("-dev".into());
            }
            lay_over(&mut config, &known.fill(&wishes["config"]));
            let given = wishes["args"].as_array().into_iter().flatten().filter_map(Value::as_str);
            arguments.extend(given.map(|argument| known.fill_text(argument)));
            (arguments, config.clone())
        });
        house.start_agent();
        let mut agent = Agent { house, known, config };
        agent.wait_ready()?;
        Ok(agent)
    }

    /// Ends the agent with a signal and starts it again on the same data.
    pub(crate) fn restart(&mut self, signal: rustix::process::Signal) -> Result<(), String> {
        self.house.end_agent(signal);
        self.house.start_agent();
        self.wait_ready()
    }

    /// Waits until there is a leader, the node is in the catalog with its addresses and, with a mesh, a root signs.
    fn wait_ready(&mut self) -> Result<(), String> {
        let end = Instant::now() + READY_WITHIN;
        loop {
            if let Some(status) = self.house.ended() {
                return Err(format!("the agent ended: {status}\n{}", self.house.log()));
            }
            if self.is_ready() == Some(true) {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(format!("the agent was not ready in {READY_WITHIN:?}\n{}", self.house.log()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn is_ready(&self) -> Option<bool> {
        let acl = &self.config["acl"];
        let master = acl["tokens"]["master"].as_str().or(self.config["acl_master_token"].as_str()).unwrap_or_default();
        let headers = if master.is_empty() { vec![] } else { vec![("X-Consul-Token", master)] };
        let ask = |path: &str| {
            let port = self.house.http_port;
            let answer =
                lictor_testkit::http::request(port, "GET", path, &headers, b"", Duration::from_secs(5)).ok()?;
            (answer.status == 200).then(|| serde_json::from_slice::<Value>(&answer.body).ok())?
        };
        if ask("/v1/status/leader")?.as_str() == Some("") {
            return None;
        }
        if acl["enabled"].as_bool() == Some(true) {
            // Without a master token nothing more can be seen.
            return Some(master.is_empty() || ask("/v1/acl/tokens").is_some());
        }
        let nodes = ask("/v1/catalog/nodes")?;
        let published = nodes[0]["TaggedAddresses"].is_object();
        let mesh = self.config["connect"]["enabled"].as_bool() != Some(false);
        Some(published && (!mesh || ask("/v1/connect/ca/roots")?["ActiveRootID"].as_str() != Some("")))
    }

    /// Processes below the agent whose command line ends so and whose environment fits.
    pub(crate) fn processes(&self, argv: &[String], environment: &BTreeMap<String, String>) -> Vec<u32> {
        let api = format!("CONSUL_HTTP_ADDR=127.0.0.1:{}", self.house.http_port);
        let agent = self.house.agent_pid();
        let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
        pids.filter(|pid| {
            let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let split = |bytes: Vec<u8>| -> Vec<String> {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                text.split_terminator('\0').map(str::to_owned).collect()
            };
            let (command, variables) = (split(read("cmdline")), split(read("environ")));
            let of_agent = variables.contains(&api) || parent(*pid) == Some(agent);
            let fits = |(name, template): (&String, &String)| {
                let start = format!("{name}=");
                let value = variables.iter().find_map(|variable| variable.strip_prefix(&start));
                let within = crate::template::Within::Text;
                value.is_some_and(|value| self.known.clone().fit(template, &value.into(), name, within).is_ok())
            };
            of_agent && command.ends_with(argv) && environment.iter().all(fits)
        })
        .collect()
    }
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// A block of ports as the corpus names them.
fn choose_ports() -> BTreeMap<String, RangeInclusive<u16>> {
    const SINGLE: [&str; 5] = ["http", "dns", "serf_lan", "serf_wan", "server"];
    const RANGE: u16 = 15;
    const SPARE: u16 = 8;
    let mut next = ports::block(SINGLE.len() as u16 + 2 * RANGE + SPARE);
    let mut take = |count: u16| {
        let first = next;
        next += count;
        first..=next - 1
    };
    let mut ports: BTreeMap<String, RangeInclusive<u16>> =
        SINGLE.iter().map(|name| ((*name).to_owned(), take(1))).collect();
    ports.insert("proxy".into(), take(RANGE));
    ports.insert("sidecar".into(), take(RANGE));
    ports.extend((0..SPARE).map(|number| (format!("spare{number}"), take(1))));
    ports
}

/// Lays one JSON tree over another: objects key by key, everything else replaced.
fn lay_over(below: &mut Value, above: &Value) {
    match (below, above) {
        (Value::Object(below), Value::Object(above)) => {
            for (key, value) in above {
                lay_over(below.entry(key).or_insert(Value::Null), value);
            }
        }
        (_, Value::Null) => {}
        (below, above) => *below = above.clone(),
    }
}
