//! A whole API for tests: an agent over a store in memory, a server on a free port, and a client that shows everything.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lictor_agent::agent::Parts;
use lictor_agent::cluster::{Author, Cluster, Soon, Standing};
use lictor_agent::config::{Connect, Reloadable};
use lictor_agent::tokens::Tokens;
use lictor_agent::{Agent, Error};
use lictor_api::json::Layout;
use lictor_http::config::{Listener, LogLevel, Mesh, Pending, Ports, Process, Unprintable};
use lictor_http::server::{Address, Reload};
use lictor_http::{Config, bind};
use lictor_model::acl::{Access, Caller, Enforcement, Resource, Rules};
use lictor_model::intention::{Action, Decision};
use lictor_state::writer::{Registration, Removal};
use lictor_state::{Reader, State, Writer};
use lictor_store::Store;
use lictor_task::Scope;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;

/// More than anything takes that works.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// An API that answers until it is dropped.
pub(crate) struct House {
    pub(crate) port: u16,
    pub(crate) tls_port: Option<u16>,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) agent: Agent,
    pub(crate) reload: Reload,
    scope: Scope,
    server: tokio::task::JoinHandle<Option<()>>,
}

/// Puts something between an agent and its cluster.
type Between = Box<dyn FnOnce(Standing, Writer) -> Arc<dyn Cluster>>;

/// How a house differs from the usual one.
#[derive(Default)]
pub(crate) struct Wishes {
    pub(crate) change: Option<fn(&mut Config)>,
    /// Secrets with what they may do; access control is on if there are any.
    pub(crate) tokens: Vec<(&'static str, Caller)>,
    pub(crate) unix_socket: Option<&'static str>,
    /// Further places to listen at.
    pub(crate) listeners: Vec<Listener>,
    /// What stands between the agent and the cluster.
    pub(crate) between: Option<Between>,
}

impl House {
    pub(crate) async fn new() -> House {
        House::with(Wishes::default()).await
    }

    pub(crate) async fn with(wishes: Wishes) -> House {
        let folder = tempfile::tempdir().unwrap();
        let scope = Scope::new("house");
        let (state, writer) =
            State::open(Store::memory(), state_config(wishes.tokens.is_empty()), &scope).await.unwrap();
        let standing = Standing::new(state, writer.clone());
        let cluster: Arc<dyn Cluster> = match wishes.between {
            Some(between) => between(standing, writer.clone()),
            None if wishes.tokens.is_empty() => Arc::new(standing),
            None => Arc::new(Guarded { standing, tokens: wishes.tokens.into_iter().collect() }),
        };
        let parts = Parts {
            config: agent_config(folder.path().into()),
            reloadable: Reloadable {
                tokens: Tokens { agent: AGENT.into(), ..Tokens::default() },
                ..Reloadable::default()
            },
            cluster,
            writer,
            authority: None,
        };
        let agent = Agent::start(parts, &scope).await.unwrap();
        let mut config = config();
        if let Some(name) = wishes.unix_socket {
            let path = folder.path().join(name);
            config.listeners.push(Listener::Unix { path, mode: Some(0o600), user: None, group: None, acceptor: None });
        }
        config.listeners.extend(wishes.listeners);
        if let Some(change) = wishes.change {
            change(&mut config);
        }
        let bound = bind(config, agent.clone(), Arc::new(NoProcess)).unwrap();
        let reload = bound.reload();
        let port = match bound.addresses().next().unwrap() {
            Address::Tcp(address) => address.port(),
            other => panic!("{other} is not the TCP address"),
        };
        let tls_port = bound.addresses().find_map(|address| match address {
            Address::Tls(address) => Some(address.port()),
            Address::Tcp(_) | Address::Agents(..) | Address::Unix(_) | Address::UnixTls(_) | Address::Proxies(_) => {
                None
            }
        });
        let server = scope.spawn("http", bound.run(scope.stop_signal()));
        House { port, tls_port, folder, agent, reload, scope, server }
    }

    /// One request on a connection of its own.
    pub(crate) async fn ask(&self, method: &str, target: &str, headers: &[&str], body: &[u8]) -> Answer {
        let stream = self.connect().await;
        tokio::time::timeout(PATIENCE, ask_on(stream, method, target, headers, body)).await.unwrap()
    }

    pub(crate) async fn get(&self, target: &str) -> Answer {
        self.ask("GET", target, &[], b"").await
    }

    /// A write that must succeed.
    pub(crate) async fn put(&self, target: &str, body: Value) -> Answer {
        let body = if body.is_null() { Vec::new() } else { serde_json::to_vec(&body).unwrap() };
        let answer = self.ask("PUT", target, &[], &body).await;
        assert_eq!(answer.status, 200, "PUT {target}: {}", answer.text());
        answer
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], self.port))).await.unwrap()
    }

    pub(crate) async fn connect_unix(&self, name: &str) -> UnixStream {
        UnixStream::connect(self.folder.path().join(name)).await.unwrap()
    }

    /// Stops the agent and waits for the server's end.
    pub(crate) async fn stop(self) {
        self.scope.stop();
        tokio::time::timeout(PATIENCE, self.server).await.unwrap().unwrap();
    }
}

/// One request on this connection, which is closed after it.
pub(crate) async fn ask_on(
    mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin,
    method: &str,
    target: &str,
    headers: &[&str],
    body: &[u8],
) -> Answer {
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
    for header in headers {
        head.push_str(header);
        head.push_str("\r\n");
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    Answer::parse(&all)
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Status line and headers as they travelled.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    fn parse(all: &[u8]) -> Answer {
        let end = all.windows(4).position(|window| window == b"\r\n\r\n").expect("an answer has a head");
        let head = String::from_utf8(all[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head, body: all[end + 4..].to_vec() }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// A header by its exact spelling.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    pub(crate) fn index(&self) -> u64 {
        self.header("X-Consul-Index").unwrap().parse().unwrap()
    }
}

fn state_config(open: bool) -> lictor_state::Config {
    let acl = lictor_state::tokens::Acl { default_policy: Action::Deny, enforcement: Enforcement::Full };
    lictor_state::Config { datacenter: "dc1".into(), acl: (!open).then_some(acl) }
}

pub(crate) fn config() -> Config {
    Config {
        page: None,
        listeners: vec![Listener::Tcp(([127, 0, 0, 1], 0).into())],
        datacenter: "dc1".into(),
        node_name: "n1".into(),
        node_id: "6eef82ec-0000-4000-8000-000000000001".into(),
        advertise_addr: [127, 0, 0, 1].into(),
        advertise_addr_wan: [127, 0, 0, 1].into(),
        ports: Ports { server: 8300, serf_lan: 8301, serf_wan: 8302 },
        version: "1.4.3".into(),
        revision: String::new(),
        layout: Layout::Compact,
        response_headers: BTreeMap::new(),
        block_endpoints: Vec::new(),
        allow_write_from: Vec::new(),
        translate_wan_addrs: false,
        unprintable_paths: Unprintable::Refused,
        discovery_max_stale: Duration::ZERO,
        mesh: Mesh::Enabled,
        key_lists: lictor_http::config::KeyLists::Filtered,
        debug_config: serde_json::Map::new(),
        elsewhere: None,
        names: None,
    }
}

fn agent_config(folder: PathBuf) -> lictor_agent::Config {
    lictor_agent::Config {
        lost_nodes_stay: Duration::ZERO,
        measures_distances: true,
        ping_bind: [127, 0, 0, 1].into(),
        ping_port: None,
        datacenter: "dc1".into(),
        node_name: "n1".into(),
        node_id: "6eef82ec-0000-4000-8000-000000000001".into(),
        advertise_addr: [127, 0, 0, 1].into(),
        advertise_addr_wan: [127, 0, 0, 1].into(),
        tagged_addresses: BTreeMap::new(),
        bind_addr: [127, 0, 0, 1].into(),
        is_server: true,
        server_port: 8300,
        data_dir: None,
        runtime_dir: folder,
        proxy_ports: Some(20_000..=20_255),
        sidecar_ports: Some(21_000..=21_255),
        connect: Connect {
            enabled: true,
            allow_managed_root: true,
            allow_managed_api_registration: true,
            ..Connect::default()
        },
        client_environment: Vec::new(),
        proxy_socket: None,
        open_proxy_socket: None,
        proxy_telemetry: serde_json::Map::new(),
        proxy_log_level: None,
        executable: "/bin/false".into(),
        acl: Default::default(),
        minimum_deregister_after: Duration::from_secs(60),
        shortest_session_ttl: Duration::from_secs(10),
        checks: Default::default(),
    }
}

/// A caller with these rights and no others.
pub(crate) fn caller(rights: &[(Access, Resource, &str)]) -> Caller {
    let mut rules = Rules::default();
    for (access, resource, prefix) in rights {
        rules.add_prefix(*resource, prefix, *access);
    }
    Caller::with_rules("", rules, Action::Deny)
}

/// The token by which the agent publishes its node.
const AGENT: &str = "the-agent-itself";

/// A cluster with access control.
struct Guarded {
    standing: Standing,
    tokens: BTreeMap<&'static str, Caller>,
}

impl Cluster for Guarded {
    fn caller(&self, secret: &str) -> Result<Caller, Error> {
        match (secret, self.tokens.get(secret)) {
            (AGENT, _) => Ok(Caller::management("")),
            (_, Some(caller)) => Ok(caller.clone()),
            ("", None) => Ok(caller(&[])),
            (_, None) => Err(Error::UnknownToken),
        }
    }

    fn acls_enabled(&self) -> bool {
        true
    }

    fn reader(&self, caller: &Caller) -> Reader {
        self.standing.reader(caller)
    }

    fn register<'a>(&'a self, author: &'a Author, registration: Registration) -> Soon<'a, ()> {
        Box::pin(async move { self.standing.register(&self.known(author)?, registration).await })
    }

    fn deregister<'a>(&'a self, author: &'a Author, node: &'a str, removal: Removal) -> Soon<'a, ()> {
        Box::pin(async move { self.standing.deregister(&self.known(author)?, node, removal).await })
    }

    fn decide<'a>(
        &'a self,
        asking: &'a Caller,
        secret: &'a str,
        source: (&'a str, &'a str),
        target: &'a str,
    ) -> Soon<'a, Decision> {
        self.standing.decide(asking, secret, source, target)
    }
}

impl Guarded {
    fn known(&self, author: &Author) -> Result<Author, Error> {
        match author {
            Author::Caller(caller) => Ok(Author::Caller(caller.clone())),
            Author::Secret(secret) => self.caller(secret).map(Author::Caller),
        }
    }
}

/// A process that cannot do anything but show a log.
struct NoProcess;

impl Process for NoProcess {
    fn reload(&self) -> Pending<'_, Result<(), String>> {
        Box::pin(async { Err("1 error(s) occurred:\n\n* Failed to reload configs".into()) })
    }

    fn leave(&self) -> Pending<'_, ()> {
        Box::pin(async {})
    }

    fn log_tail(&self, level: LogLevel) -> mpsc::Receiver<Bytes> {
        let (lines, tail) = mpsc::channel(4);
        // The receiver is at hand and the channel has room.
        let _ = lines.try_send(format!("[{level:?}] one").into());
        let _ = lines.try_send("two".into());
        tail
    }
}
