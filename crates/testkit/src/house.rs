//! A house: one agent of the built binary, its folder, and everything it starts.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::http::{self, Answer};
use crate::ports;
use crate::wait::{self, eventually};

/// Ports of managed proxies in a house.
const PROXY_PORTS: u16 = 12;

/// One agent with everything it starts.
pub struct House {
    binary: PathBuf,
    folder: TempDir,
    arguments: Vec<String>,
    agent: Option<Child>,
    /// Where its API listens.
    pub http_port: u16,
    /// Where its DNS listens.
    pub dns_port: u16,
    /// The first port of its managed proxies.
    pub first_proxy_port: u16,
}

impl House {
    /// An agent with a data directory that is not started yet. `config` is laid over what a test needs: free ports,
    /// loopback, Connect, and proxies that may run as root.
    pub fn build(binary: &str, config: Value) -> House {
        House::furnish(binary, config, true)
    }

    /// An agent with `-dev` and without a data directory.
    pub fn build_dev(binary: &str, config: Value) -> House {
        House::furnish(binary, config, false)
    }

    /// An agent that is not started yet with exactly these arguments (behind `agent`) and this configuration, from which
    /// its ports are read. `wishes` is told its folder.
    pub fn build_as(binary: &str, wishes: impl FnOnce(&Path) -> (Vec<String>, Value)) -> House {
        let folder = tempfile::Builder::new().prefix("lictor-test-").tempdir().unwrap_or_else(|e| panic!("{e}"));
        let (given, config) = wishes(folder.path());
        let file = folder.path().join("agent.json");
        fs::write(&file, config.to_string()).unwrap_or_else(|e| panic!("{e}"));
        let mut arguments = vec!["agent".to_owned(), "-config-file".into(), file.display().to_string()];
        arguments.extend(given);
        let port = |name: &str| config["ports"][name].as_u64().and_then(|port| u16::try_from(port).ok());
        House {
            binary: binary.into(),
            folder,
            arguments,
            agent: None,
            http_port: port("http").unwrap_or_default(),
            dns_port: port("dns").unwrap_or_default(),
            first_proxy_port: port("proxy_min_port").unwrap_or_default(),
        }
    }

    fn furnish(binary: &str, config: Value, durable: bool) -> House {
        let folder = tempfile::Builder::new().prefix("lictor-test-").tempdir().unwrap_or_else(|e| panic!("{e}"));
        let first = ports::block(4 + 2 * PROXY_PORTS);
        let proxies = first + 4;
        let sidecars = proxies + PROXY_PORTS;
        let mut whole = json!({
            "node_name": "node1", "bind_addr": "127.0.0.1",
            "ports": {"http": first, "dns": first + 1, "server": first + 2, "serf_lan": -1, "serf_wan": -1, "grpc": -1,
                "proxy_min_port": proxies, "proxy_max_port": proxies + PROXY_PORTS - 1,
                "sidecar_min_port": sidecars, "sidecar_max_port": sidecars + PROXY_PORTS - 1},
            "connect": {"enabled": true, "proxy": {"allow_managed_root": true}},
        });
        let mut arguments = vec!["agent".to_owned()];
        if durable {
            whole["server"] = true.into();
            whole["bootstrap"] = true.into();
            whole["log_level"] = "DEBUG".into();
            whole["data_dir"] = folder.path().join("data").display().to_string().into();
        } else {
            arguments.push("-dev".into());
        }
        lay_over(&mut whole, config);
        let file = folder.path().join("agent.json");
        fs::write(&file, whole.to_string()).unwrap_or_else(|e| panic!("{e}"));
        arguments.extend(["-config-file".into(), file.display().to_string()]);
        House {
            binary: binary.into(),
            folder,
            arguments,
            agent: None,
            http_port: first,
            dns_port: first + 1,
            first_proxy_port: proxies,
        }
    }

    /// Builds and starts an agent with a data directory, and waits until it answers.
    pub fn start(binary: &str, config: Value) -> House {
        let mut house = House::build(binary, config);
        house.start_agent();
        house.wait_ready();
        house
    }

    /// Builds and starts an agent with `-dev`, and waits until it answers.
    pub fn start_dev(binary: &str, config: Value) -> House {
        let mut house = House::build_dev(binary, config);
        house.start_agent();
        house.wait_ready();
        house
    }

    /// Starts the agent from this binary from now on.
    pub fn use_binary(&mut self, binary: &Path) {
        self.binary = binary.to_owned();
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Changes its configuration file; takes effect at the next start or reload.
    pub fn reconfigure(&self, change: impl FnOnce(&mut Value)) {
        let file = self.folder.path().join("agent.json");
        let text = fs::read(&file).unwrap_or_else(|e| panic!("{e}"));
        let mut config: Value = serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{e}"));
        change(&mut config);
        fs::write(&file, config.to_string()).unwrap_or_else(|e| panic!("{e}"));
    }

    /// Starts the agent's process.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start_agent(&mut self) {
        self.start_agent_with(&[]);
    }

    /// Starts the agent's process with more environment.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start_agent_with(&mut self, environment: &[(&str, &str)]) {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join("agent.log"))
            .unwrap_or_else(|e| panic!("{e}"));
        let child = Command::new(&self.binary)
            .args(&self.arguments)
            .envs(environment.iter().copied())
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap_or_else(|e| panic!("{e}")))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", self.binary.display()));
        self.agent = Some(child);
    }

    /// Waits until the agent answers.
    ///
    /// # Panics
    /// When it ends or does not answer.
    pub fn wait_ready(&mut self) {
        eventually("the agent answers", || {
            if let Some(status) = self.ended() {
                panic!("the agent ended: {status}\n{}", self.log());
            }
            let answer = self.try_request("GET", "/v1/status/leader", b"").ok()?;
            (answer.status == 200 && answer.text().len() > 2).then_some(())
        });
    }

    /// What the agent has printed so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("agent.log")).unwrap_or_default()
    }

    /// How the agent ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.agent.as_mut().and_then(|agent| agent.try_wait().ok().flatten())
    }

    /// The agent's process id.
    ///
    /// # Panics
    /// When it does not run.
    pub fn agent_pid(&self) -> u32 {
        self.agent.as_ref().unwrap_or_else(|| panic!("no agent runs")).id()
    }

    /// Kills the agent without warning.
    pub fn kill_agent(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            // It may have ended by itself.
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }

    /// Sends the agent a signal and waits for its end.
    ///
    /// # Panics
    /// When it does not end.
    pub fn end_agent(&mut self, signal: Signal) -> ExitStatus {
        let mut agent = self.agent.take().unwrap_or_else(|| panic!("no agent runs"));
        send(agent.id(), signal);
        eventually("the agent ends", || agent.try_wait().ok().flatten())
    }

    /// Sends the agent a signal.
    pub fn signal_agent(&self, signal: Signal) {
        send(self.agent_pid(), signal);
    }

    /// One request to the agent's API.
    pub fn try_request(&self, method: &str, path: &str, body: &[u8]) -> io::Result<Answer> {
        http::request(self.http_port, method, path, &[], body, Duration::from_secs(30))
    }

    /// One request to the agent's API.
    ///
    /// # Panics
    /// When there is no answer.
    pub fn request(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        self.try_request(method, path, body).unwrap_or_else(|error| panic!("{method} {path}: {error}\n{}", self.log()))
    }

    /// Reads.
    ///
    /// # Panics
    /// When there is no answer.
    pub fn get(&self, path: &str) -> Answer {
        self.request("GET", path, b"")
    }

    /// Writes, and expects success.
    ///
    /// # Panics
    /// When it fails.
    pub fn put(&self, path: &str, body: Value) -> Answer {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let answer = self.request("PUT", path, text.as_bytes());
        assert_eq!(answer.status, 200, "PUT {path}: {}", answer.text());
        answer
    }

    /// Creates an intention and gives its id.
    ///
    /// # Panics
    /// When it fails.
    pub fn intend(&self, source: &str, destination: &str, action: &str) -> String {
        let body = json!({"SourceName": source, "DestinationName": destination, "Action": action}).to_string();
        let answer = self.request("POST", "/v1/connect/intentions", body.as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["ID"].as_str().unwrap_or_default().to_owned()
    }

    /// Processes of managed proxies of this house, by proxy id, found by their environment.
    pub fn proxies(&self) -> Vec<(String, u32)> {
        proxies_of(self.http_port)
    }

    /// The process of one managed proxy, waited for.
    ///
    /// # Panics
    /// When there is none in time.
    pub fn proxy_pid(&self, id: &str) -> u32 {
        wait::eventually(&format!("{id} runs"), || {
            self.proxies().into_iter().find(|(of, _)| of == id).map(|(_, pid)| pid)
        })
    }

    /// Waits until the mesh has a healthy instance of a service.
    ///
    /// # Panics
    /// When it has none in time.
    pub fn wait_healthy(&self, service: &str) {
        wait::until(&format!("{service} is healthy in the mesh\n{}", self.folder.path().display()), || {
            self.try_request("GET", &format!("/v1/health/connect/{service}?passing"), b"")
                .is_ok_and(|answer| answer.status == 200 && answer.json().as_array().is_some_and(|all| !all.is_empty()))
        });
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.kill_agent();
        for (_, pid) in self.proxies() {
            // The whole group: a proxy may have children.
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                let _ = rustix::process::kill_process_group(pid, Signal::KILL);
            }
        }
    }
}

/// Processes of managed proxies of the agent at this port, by proxy id, found by their environment.
pub fn proxies_of(http_port: u16) -> Vec<(String, u32)> {
    let address = format!("CONSUL_HTTP_ADDR=127.0.0.1:{http_port}");
    processes()
        .filter_map(|pid| {
            let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
            let (mut id, mut ours) = (None, false);
            for entry in environment.split(|byte| *byte == 0) {
                let entry = String::from_utf8_lossy(entry);
                // The whole entry: one port may begin with another.
                ours |= entry == address;
                if let Some(value) = entry.strip_prefix("CONNECT_PROXY_ID=") {
                    id = Some(value.to_owned());
                }
            }
            let leader = leads_a_group(pid);
            id.filter(|_| ours && leader).map(|id| (id, pid))
        })
        .collect()
}

/// Sends a signal to a process.
pub fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may be gone already.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Whether a process runs (a zombie does not).
pub fn is_running(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| stat.rsplit_once(") ").map(|(_, rest)| !rest.starts_with('Z')))
        .unwrap_or(false)
}

/// What a proxy starts is in its group.
fn leads_a_group(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).ok().is_some_and(|stat| {
        let fields: Vec<&str> = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect()).unwrap_or_default();
        fields.first() != Some(&"Z") && fields.get(2) == Some(&pid.to_string().as_str())
    })
}

fn processes() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse().ok()))
}

/// Lays one JSON tree over another: objects key by key, everything else replaced.
fn lay_over(below: &mut Value, above: Value) {
    match (below, above) {
        (Value::Object(below), Value::Object(above)) => {
            for (key, value) in above {
                lay_over(below.entry(key).or_insert(Value::Null), value);
            }
        }
        (below, above) => *below = above,
    }
}
