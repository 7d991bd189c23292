//! What the demo runs: the folder, the agent's process and what there is to know of the proxies.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lictor_api::client::{self, Client, Request};
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};

use super::{load, services};

/// Everything that runs.
pub(super) struct House {
    folder: PathBuf,
    ports: Ports,
    agent: Option<Child>,
    client: Client,
}

struct Ports {
    http: u16,
    dns: u16,
    server: u16,
    entry: u16,
    proxy_min: u16,
    proxy_max: u16,
}

/// Who a service is, for people.
pub(super) struct Identity {
    pub(super) uri: String,
    pub(super) life: String,
}

impl House {
    pub(super) async fn build() -> Result<House> {
        let hello = services::start_hello().await.context("cannot start the example service")?;
        let folder = std::env::temp_dir().join(format!("lictor-demo-{}", std::process::id()));
        let mut builder = fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let ports = Ports::find()?;
        let config = json!({
            "node_name": "demo", "server": true, "bootstrap": true, "bind_addr": "127.0.0.1",
            "data_dir": folder.join("data"), "log_level": "INFO",
            "ports": {
                "http": ports.http, "dns": ports.dns, "server": ports.server, "grpc": -1, "serf_lan": -1,
                "serf_wan": -1, "proxy_min_port": ports.proxy_min, "proxy_max_port": ports.proxy_max,
            },
            // Only root needs the second line; the demo's proxies may run as whoever runs the demo.
            "connect": {"enabled": true, "proxy": {"allow_managed_root": true}},
            "services": [
                {"name": "hello", "port": hello.port(), "connect": {"proxy": {}}},
                {"name": "web", "port": 8080, "connect": {"proxy": {
                    "upstreams": [{"destination_name": "hello", "local_bind_port": ports.entry}]}}},
            ],
        });
        fs::write(folder.join("demo.json"), serde_json::to_string_pretty(&config)?)?;
        let address =
            client::address::Address::parse(&format!("127.0.0.1:{}", ports.http), client::address::Scheme::Http)?;
        let client = Client::new(client::Config { address, ..client::Config::default() });
        Ok(House { folder, ports, agent: None, client })
    }

    /// Where web's application reaches hello.
    pub(super) fn entry(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports.entry).into()
    }

    pub(super) fn start_agent(&mut self) -> Result<()> {
        let log = fs::File::options().create(true).append(true).open(self.log())?;
        let agent = Command::new(std::env::current_exe()?)
            .args(["agent", "-config-file"])
            .arg(self.folder.join("demo.json"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start the agent")?;
        self.agent = Some(agent);
        Ok(())
    }

    pub(super) fn kill_agent(&mut self) -> Result<()> {
        let mut agent = self.agent.take().context("no agent runs")?;
        agent.kill()?;
        agent.wait()?;
        Ok(())
    }

    fn log(&self) -> PathBuf {
        self.folder.join("agent.log")
    }

    /// Waits until a request comes through both proxies.
    pub(super) async fn wait_for_path(&mut self, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        loop {
            match load::request(self.entry()).await {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > end => return Err(error),
                Err(_) => self.pause().await?,
            }
        }
    }

    /// Waits until a new connection is refused.
    pub(super) async fn wait_refused(&mut self, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        while load::request(self.entry()).await.is_ok() {
            ensure!(Instant::now() < end, "requests still come through");
            self.pause().await?;
        }
        Ok(())
    }

    /// Waits until the agent answers.
    pub(super) async fn wait_for_agent(&mut self, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        while self.client.agent_services().await.is_err() {
            ensure!(Instant::now() < end, "no answer");
            self.pause().await?;
        }
        Ok(())
    }

    /// A moment between two looks; an agent that has ended will not answer any more.
    async fn pause(&mut self) -> Result<()> {
        if let Some(agent) = &mut self.agent
            && let Some(status) = agent.try_wait()?
        {
            bail!("the agent ended: {status}");
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        Ok(())
    }

    pub(super) async fn identity(&self, service: &str) -> Result<Identity> {
        let answer = self
            .client
            .send(Request::get("/v1/agent/connect/ca/leaf/").segment(service))
            .await?
            .success()?
            .json::<Value>()?;
        let time = |key: &str| answer[key].as_str().unwrap_or_default().parse::<jiff::Timestamp>();
        let hours = (time("ValidBefore")?.as_second() - time("ValidAfter")?.as_second()) / 3600;
        Ok(Identity { uri: answer["ServiceURI"].as_str().unwrap_or_default().to_owned(), life: format!("{hours} h") })
    }

    pub(super) async fn intend(&self, action: &str) -> Result<String> {
        let body = json!({"SourceName": "web", "DestinationName": "hello", "Action": action});
        let answer =
            self.client.send(Request::post("/v1/connect/intentions").json(&body)?).await?.success()?.json::<Value>()?;
        Ok(answer["ID"].as_str().unwrap_or_default().to_owned())
    }

    pub(super) async fn forget_intention(&self, id: &str) -> Result<()> {
        self.client.send(Request::delete("/v1/connect/intentions/").segment(id)).await?.success()?;
        Ok(())
    }

    /// Process ids of the proxies, as the supervisor wrote them down.
    pub(super) fn proxy_pids(&self) -> Result<BTreeMap<String, i32>> {
        ["hello-proxy", "web-proxy"].into_iter().map(|id| Ok((id.to_owned(), self.proxy_pid(id)?))).collect()
    }

    fn proxy_pid(&self, id: &str) -> Result<i32> {
        let path = self.folder.join("data/proxy/pids").join(format!("{id}.pid"));
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(text.trim().parse()?)
    }

    pub(super) fn kill_proxy(&self, id: &str) -> Result<()> {
        let pid = Pid::from_raw(self.proxy_pid(id)?).context("no process id")?;
        Ok(rustix::process::kill_process(pid, Signal::KILL)?)
    }

    /// Waits until another process is the proxy.
    pub(super) async fn wait_new_proxy(&mut self, id: &str, old: i32, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        while self.proxy_pid(id).unwrap_or(old) == old {
            ensure!(Instant::now() < end, "{id} was not started again");
            self.pause().await?;
        }
        Ok(())
    }

    /// The end of the agent's log, for when something went wrong.
    pub(super) fn last_words(&self) -> String {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(20);
        format!("\nThe end of the agent's log:\n{}", lines[from..].join("\n"))
    }

    pub(super) fn what_next(&self) -> String {
        let Ports { http, dns, entry, .. } = self.ports;
        let folder = self.folder.display();
        format!(
            "\nEverything is still running. Try:\n\
             \n  curl http://127.0.0.1:{entry}/                     what web's application sees of hello\
             \n  curl http://127.0.0.1:{http}/v1/health/connect/hello?pretty\
             \n  curl -d '{{\"SourceName\":\"web\",\"DestinationName\":\"hello\",\"Action\":\"deny\"}}' \\\
             \n       http://127.0.0.1:{http}/v1/connect/intentions  and curl the first address again\
             \n  dig @127.0.0.1 -p {dns} hello.connect.consul SRV\
             \n  cat {folder}/demo.json                             the configuration\
             \n  tail {folder}/agent.log"
        )
    }

    /// Ends everything and removes the folder.
    pub(super) async fn tear_down(mut self) -> Result<()> {
        if self.agent.is_none() {
            // A proxy outlives its agent; only an agent ends it properly.
            self.start_agent()?;
        }
        let pids = self.proxy_pids().unwrap_or_default();
        let answering = self.wait_for_agent(Duration::from_secs(5)).await;
        if answering.is_ok() {
            for id in ["web", "hello"] {
                // Proxies end with their service.
                let _ = self.client.deregister(id).await;
            }
            let end = Instant::now() + Duration::from_secs(10);
            while pids.values().any(|pid| is_alive(*pid)) && Instant::now() < end {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        if let Some(agent) = &mut self.agent {
            if let Some(pid) = Pid::from_raw(i32::try_from(agent.id())?) {
                let _ = rustix::process::kill_process(pid, Signal::INT);
            }
            let end = Instant::now() + Duration::from_secs(10);
            while agent.try_wait()?.is_none() {
                if Instant::now() > end {
                    agent.kill()?;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        fs::remove_dir_all(&self.folder).with_context(|| format!("cannot remove {}", self.folder.display()))
    }
}

fn is_alive(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

impl Ports {
    /// Ports nobody listens on now.
    fn find() -> Result<Ports> {
        const RANGE: u16 = 4;
        // All are held until all are found, so that no two are the same.
        let mut held = Vec::new();
        let mut single = || -> Result<u16> {
            let listener = TcpListener::bind(("127.0.0.1", 0))?;
            let port = listener.local_addr()?.port();
            held.push(listener);
            Ok(port)
        };
        let (http, dns, server, entry) = (single()?, single()?, single()?, single()?);
        // Below the ports that the kernel gives to clients: after some thousand connections every second one of those is
        // held for a minute by a connection that is over. Two demos at a time begin at different places.
        let begin = u16::try_from(std::process::id() % 1000)?;
        for step in 0..1000 {
            let first = 24_000 + (begin + step) % 1000 * 8;
            let row: Vec<_> =
                (first..=first + RANGE).map_while(|port| TcpListener::bind(("127.0.0.1", port)).ok()).collect();
            if row.len() == usize::from(RANGE) + 1 {
                return Ok(Ports { http, dns, server, entry, proxy_min: first, proxy_max: first + RANGE });
            }
        }
        bail!("no row of free ports was found")
    }
}
