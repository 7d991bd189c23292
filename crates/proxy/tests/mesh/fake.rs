//! An agent in memory, and proxies, applications and clients around it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lictor_api::agent::Service;
use lictor_model::identity::TrustDomain;
use lictor_model::intention::{Action, Intention, Party};
use lictor_model::revision::Revision;
use lictor_model::root::{IssuedLeaf, Root, Roots};
use lictor_proxy::control::{
    Authorized, Candidate, ControlError, ControlPlane, Fresh, Matched, Neighbor, Ranked, Ranking, Seen, Whose,
};
use lictor_proxy::{Config, Mode, Proxy, SameNode};
use lictor_task::Scope;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::forge::{Authority, Issued};

/// The longest that anything may take before a test has failed.
pub const LIMIT: Duration = Duration::from_secs(20);

/// A value with the index of its last change.
struct Topic<T>(watch::Sender<(u64, T)>);

impl<T: Clone> Topic<T> {
    fn new(value: T) -> Topic<T> {
        Topic(watch::Sender::new((1, value)))
    }

    fn set(&self, value: T) {
        self.0.send_modify(|current| *current = (current.0 + 1, value));
    }

    async fn read(&self, away: &watch::Sender<bool>, seen: &Seen) -> Result<Fresh<T>, ControlError> {
        let gone = || ControlError::Failed("connection refused".into());
        if *away.borrow() {
            return Err(gone());
        }
        let mut changes = self.0.subscribe();
        let mut away = away.subscribe();
        tokio::select! {
            current = changes.wait_for(|(index, _)| *seen != Seen::Index(*index)) => {
                let (index, value) = current.unwrap().clone();
                Ok(Fresh { value, seen: Seen::Index(index) })
            }
            _ = away.wait_for(|away| *away) => Err(gone()),
        }
    }
}

/// An agent that serves one proxy.
pub struct Agent {
    entry: Topic<Value>,
    roots: Topic<Roots>,
    leaf: Topic<IssuedLeaf>,
    intentions: Topic<Matched>,
    instances: Topic<Vec<Candidate>>,
    away: watch::Sender<bool>,
    /// What it answers when it is asked about one connection.
    pub authorizes: watch::Sender<bool>,
    /// Whether it answers such a question at all.
    pub answers: watch::Sender<bool>,
    /// How often it was.
    pub asked: AtomicUsize,
    /// The service whose leaf and intentions it does not give away.
    pub refuses: watch::Sender<Option<&'static str>>,
    /// The proxies that it vouches for, by their ids and their processes.
    pub vouches: watch::Sender<HashMap<String, Neighbor>>,
}

impl Agent {
    pub fn new(authority: &Authority, issued: &Issued, entry: Value) -> Arc<Agent> {
        Arc::new(Agent {
            entry: Topic::new(entry),
            roots: Topic::new(roots(authority)),
            leaf: Topic::new(leaf(issued)),
            intentions: Topic::new(Matched { intentions: vec![], otherwise: Some(Action::Allow) }),
            instances: Topic::new(vec![]),
            away: watch::Sender::new(false),
            authorizes: watch::Sender::new(true),
            answers: watch::Sender::new(true),
            asked: AtomicUsize::new(0),
            refuses: watch::Sender::new(None),
            vouches: watch::Sender::default(),
        })
    }

    pub fn set_entry(&self, entry: Value) {
        self.entry.set(entry);
    }

    pub fn set_leaf(&self, issued: &Issued) {
        self.leaf.set(leaf(issued));
    }

    pub fn set_instances(&self, instances: Vec<Candidate>) {
        self.instances.set(instances);
    }

    /// Denies a source, or nobody.
    pub fn deny(&self, source: Option<&str>) {
        let intentions = source.map(|source| intention(source, "deny")).into_iter().collect();
        self.intentions.set(Matched { intentions, otherwise: Some(Action::Allow) });
    }

    /// Answers like an agent that does not say what the default is.
    pub fn be_original(&self) {
        self.intentions.set(Matched { intentions: vec![], otherwise: None });
    }

    pub fn go_away(&self) {
        self.away.send_replace(true);
    }

    pub fn come_back(&self) {
        self.away.send_replace(false);
    }

    pub fn vouch(&self, whose: &Whose, neighbor: Neighbor) {
        self.vouches.send_modify(|all| drop(all.insert(format!("{whose:?}"), neighbor)));
    }

    fn may_know(&self, service: &str) -> Result<(), ControlError> {
        let refused = self.refuses.borrow().is_some_and(|refused| refused == service);
        if refused { Err(ControlError::Forbidden("Permission denied".into())) } else { Ok(()) }
    }
}

impl ControlPlane for Agent {
    async fn service(&self, _id: &str, seen: &Seen) -> Result<Fresh<Service<'static>>, ControlError> {
        let Fresh { value, seen } = self.entry.read(&self.away, seen).await?;
        Ok(Fresh { value: serde_json::from_value(value).unwrap(), seen })
    }

    async fn roots(&self, seen: &Seen) -> Result<Fresh<Roots>, ControlError> {
        self.roots.read(&self.away, seen).await
    }

    async fn leaf(&self, service: &str, seen: &Seen) -> Result<Fresh<IssuedLeaf>, ControlError> {
        self.may_know(service)?;
        self.leaf.read(&self.away, seen).await
    }

    async fn intentions(&self, service: &str, seen: &Seen) -> Result<Fresh<Matched>, ControlError> {
        self.may_know(service)?;
        self.intentions.read(&self.away, seen).await
    }

    async fn instances(&self, _: &str, _: &str, seen: &Seen) -> Result<Fresh<Vec<Candidate>>, ControlError> {
        self.instances.read(&self.away, seen).await
    }

    async fn query(&self, _: &str, _: &str, seen: &Seen) -> Result<Fresh<Option<Ranked>>, ControlError> {
        let Fresh { value: candidates, seen } = self.instances.read(&self.away, seen).await?;
        Ok(Fresh { value: Some(Ranked { candidates, ranking: Ranking::BestFirst }), seen })
    }

    async fn neighbor(&self, whose: &Whose) -> Result<Neighbor, ControlError> {
        let known = self.vouches.borrow().get(&format!("{whose:?}")).cloned();
        known.ok_or_else(|| ControlError::NotFound(format!("{whose:?} is not known")))
    }

    async fn authorize(&self, _: &str, uri: &str, _: &str) -> Result<Authorized, ControlError> {
        assert!(uri.starts_with("spiffe://"));
        self.asked.fetch_add(1, Ordering::Relaxed);
        let _ = self.answers.subscribe().wait_for(|answers| *answers).await;
        Ok(Authorized { allowed: *self.authorizes.borrow(), reason: "asked".into() })
    }
}

fn roots(authority: &Authority) -> Roots {
    Roots {
        trust_domain: Some(TrustDomain::new(&authority.trust_domain)),
        roots: vec![Root { cert_pem: authority.pem.clone(), active: true, ..Root::default() }],
    }
}

fn leaf(issued: &Issued) -> IssuedLeaf {
    IssuedLeaf {
        serial_number: String::new(),
        cert_pem: issued.certificates.clone(),
        key_pem: issued.key.clone(),
        service: String::new(),
        uri: issued.uri.clone(),
        valid_after: 0,
        valid_before: 0,
        revision: Revision(1),
    }
}

fn intention(source: &str, action: &str) -> Intention {
    Intention {
        id: "7".into(),
        description: String::new(),
        source: Party::service(source),
        destination: Party::service("db"),
        source_type: "consul".into(),
        action: action.into(),
        default_addr: String::new(),
        default_port: 0,
        meta: Default::default(),
        created_at: 0,
        updated_at: 0,
        created: Revision::ZERO,
        modified: Revision::ZERO,
    }
}

/// A proxy that runs until it is dropped.
pub struct Running {
    pub proxy: Option<Proxy>,
    pub agent: Arc<Agent>,
}

impl Running {
    pub fn start(agent: &Arc<Agent>) -> Running {
        Running::with(agent, SameNode::Mtls)
    }

    pub fn with(agent: &Arc<Agent>, same_node: SameNode) -> Running {
        let config = Config { same_node, ..Config::new(Mode::Agent { proxy_id: "p".into() }) };
        let proxy = Proxy::start(config, Arc::clone(agent)).unwrap();
        Running { proxy: Some(proxy), agent: Arc::clone(agent) }
    }

    pub fn proxy(&self) -> &Proxy {
        self.proxy.as_ref().unwrap()
    }

    /// Waits until a listener is open, and says where.
    pub async fn address(&self, what: &str) -> SocketAddr {
        let mut listening = self.proxy().listening();
        let found = listening.wait_for(|all| all.iter().any(|one| one.what == what));
        let all = tokio::time::timeout(LIMIT, found).await.unwrap_or_else(|_| panic!("{what} is not open")).unwrap();
        all.iter().find(|one| one.what == what).unwrap().address
    }

    pub async fn public(&self) -> SocketAddr {
        self.address("public").await
    }

    pub async fn upstream(&self) -> SocketAddr {
        self.address("service:default/db").await
    }
}

/// Ports of this test run. Asking the kernel for a free port and giving it back could hand it to somebody else.
fn reserve() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The entry of the proxy of `db`, whose application listens at `app`.
pub fn db_entry(app: SocketAddr, config: Value) -> Value {
    json!({
        "Kind": "connect-proxy", "ID": "db-proxy", "Service": "db-proxy", "Address": "127.0.0.1", "Port": reserve(),
        "Proxy": {
            "DestinationServiceName": "db", "LocalServiceAddress": app.ip().to_string(),
            "LocalServicePort": app.port(), "Config": config
        }
    })
}

/// The entry of the proxy of `web`, with `db` as its upstream.
pub fn web_entry(config: Value) -> Value {
    json!({
        "Kind": "connect-proxy", "ID": "web-proxy", "Service": "web-proxy", "Port": 0,
        "Proxy": {
            "DestinationServiceName": "web",
            "Upstreams": [{"DestinationName": "db", "LocalBindPort": reserve(), "Config": config}]
        }
    })
}

/// An instance of `db` at an address.
pub fn instance(id: &str, address: SocketAddr) -> Candidate {
    Candidate {
        id: id.into(),
        host: address.ip().to_string(),
        port: address.port(),
        datacenter: "dc1".into(),
        destination: Some("db".into()),
        weight: 1,
    }
}

/// An application that counts its connections and echoes; with an input that ends it answers with what it got.
pub struct Echo {
    pub address: SocketAddr,
    connections: watch::Sender<usize>,
    scope: Scope,
}

impl Echo {
    pub async fn start(bind: &str) -> Echo {
        Echo::serving(bind, |mut stream| async move {
            let (mut reader, mut writer) = stream.split();
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
            let _ = writer.shutdown().await;
        })
        .await
    }

    pub async fn serving<F>(bind: &str, serve: impl Fn(TcpStream) -> F + Send + Sync + 'static) -> Echo
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(bind).await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = watch::Sender::new(0);
        let scope = Scope::new("echo");
        let (count, stop, tasks) = (connections.clone(), scope.stop_signal(), scope.clone());
        scope.spawn("accept", async move {
            stop.or_stopped(async {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    count.send_modify(|count| *count += 1);
                    tasks.spawn("connection", serve(stream));
                }
            })
            .await;
        });
        Echo { address, connections, scope }
    }

    pub fn connections(&self) -> usize {
        *self.connections.borrow()
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.scope.stop();
    }
}

/// Two proxies with an application behind the second.
pub struct Pair {
    pub authority: Authority,
    pub app: Echo,
    pub web: Running,
    pub db: Running,
}

impl Pair {
    pub async fn start() -> Pair {
        Pair::with(Echo::start("127.0.0.1:0").await, json!({}), json!({})).await
    }

    pub async fn with(app: Echo, db_config: Value, web_config: Value) -> Pair {
        let authority = Authority::new("Consul CA 7");
        let db = Running::start(&Agent::new(&authority, &authority.leaf("db"), db_entry(app.address, db_config)));
        let agent = Agent::new(&authority, &authority.leaf("web"), web_entry(web_config));
        agent.set_instances(vec![instance("db1", db.public().await)]);
        let web = Running::start(&agent);
        Pair { authority, app, web, db }
    }

    /// A connection of the application `web` to its upstream.
    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.web.upstream().await).await.unwrap()
    }

    /// Whether a byte comes back.
    pub async fn works(&self) -> bool {
        match TcpStream::connect(self.web.upstream().await).await {
            Ok(mut stream) => echoes(&mut stream).await,
            // One that is turned away can be reset before its client has noticed that it was accepted.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => false,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Whether a byte that is sent comes back.
pub async fn echoes(stream: &mut TcpStream) -> bool {
    let exchange = async {
        stream.write_all(b"x").await?;
        stream.read_u8().await
    };
    matches!(tokio::time::timeout(LIMIT, exchange).await, Ok(Ok(b'x')))
}

/// Waits until something holds.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, waiting).await.unwrap_or_else(|_| panic!("{what} never came true"));
}

/// A directory with the files of a leaf, for programs that want files.
pub struct Files(pub PathBuf);

impl Files {
    pub fn new(name: &str, authority: &Authority, issued: &Issued) -> Files {
        let directory = std::env::temp_dir().join(format!("lictor-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        for (file, text) in [("leaf.pem", &issued.certificates), ("key.pem", &issued.key), ("root.pem", &authority.pem)]
        {
            std::fs::write(directory.join(file), text).unwrap();
        }
        Files(directory)
    }

    pub fn path(&self, file: &str) -> String {
        self.0.join(file).display().to_string()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Whether the openssl program is there; says so loudly if not.
pub fn has_openssl() -> bool {
    let found = Command::new("openssl").arg("version").output().is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("SKIPPED: the openssl program is not installed");
    }
    found
}
