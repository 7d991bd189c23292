//! A server over a state of its own, and a client for it.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, Record, RecordType};
use lictor_dns::{Backend, Config, PreparedAnswer, PreparedOutcome, PreparedRequest, Queries, Reload, Settings, bind};
use lictor_model::acl::Caller;
use lictor_model::health::{Check, Status};
use lictor_model::node::Node;
use lictor_model::service::{Kind, ProxySpec, Service};
use lictor_state::reader::{Filter, Side};
use lictor_state::writer::Registration;
use lictor_state::{Reader, State, Writer};
use lictor_store::Store;
use lictor_task::{Drain, Scope};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

/// How long a test waits for an answer that must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct World {
    pub(crate) address: SocketAddr,
    pub(crate) reload: Reload,
    writer: Writer,
    queries: Arc<OneQuery>,
    trips: Arc<AtomicBool>,
    drain: Drain,
    scope: Scope,
}

/// Executes the query `q`: the instances of `db`, with a time to live of 11 seconds.
#[derive(Default)]
struct OneQuery {
    source: Mutex<Option<IpAddr>>,
}

impl Queries for OneQuery {
    fn execute(&self, reader: &Reader, request: &PreparedRequest<'_>) -> PreparedOutcome {
        *self.source.lock().unwrap() = Some(request.source);
        match request.name {
            "q" => PreparedOutcome::Answered(PreparedAnswer {
                service: "db".into(),
                instances: reader.instances("db", Side::Ordinary, &Filter::default()).value,
                ttl: Some(Duration::from_secs(11)),
            }),
            "broken" => PreparedOutcome::Failed,
            _ => PreparedOutcome::Unknown,
        }
    }
}

pub(crate) fn config(change: impl FnOnce(&mut Config)) -> Config {
    let mut config = Config::default();
    change(&mut config);
    config
}

impl World {
    pub(crate) async fn new() -> World {
        World::with(Config::default()).await
    }

    pub(crate) async fn with(config: Config) -> World {
        World::at("127.0.0.1:0", config).await
    }

    pub(crate) async fn at(address: &str, config: Config) -> World {
        let scope = Scope::new("test");
        let state = lictor_state::Config { datacenter: "dc1".into(), ..Default::default() };
        let (state, writer) = State::open(Store::memory(), state, &scope).await.unwrap();
        let queries = Arc::new(OneQuery::default());
        let trips = Arc::new(AtomicBool::new(false));
        let may_trip = Arc::clone(&trips);
        let reader = move || {
            assert!(!may_trip.swap(false, Ordering::SeqCst), "this is meant to be");
            state.reader(&Caller::acls_disabled())
        };
        let backend = Backend { reader: Arc::new(reader), queries: Arc::clone(&queries) as Arc<dyn Queries> };
        let bound = bind(&[address.parse().unwrap()], Settings::new(config).unwrap(), backend).unwrap();
        let (address, reload, drain) = (bound.addresses()[0], bound.reload(), Drain::new());
        scope.spawn("dns", bound.run(drain.watch().unwrap()));
        World { address, reload, writer, queries, trips, drain, scope }
    }

    /// Stops the server as the agent does.
    pub(crate) async fn stop(self) {
        assert!(self.drain.drain(PATIENCE).await, "the server did not stop");
        self.scope.join(PATIENCE).await;
    }

    /// Makes the next question that is looked up panic.
    pub(crate) fn trip(&self) {
        self.trips.store(true, Ordering::SeqCst);
    }

    /// Whom the last prepared query was executed for.
    pub(crate) fn query_source(&self) -> Option<IpAddr> {
        *self.queries.source.lock().unwrap()
    }

    pub(crate) async fn node(&self, name: &str, address: &str, meta: &[(&str, &str)]) {
        let meta = meta.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let node = Node { name: name.into(), address: address.into(), meta: Some(meta), ..Node::default() };
        self.register(Registration { node, ..Registration::default() }).await;
    }

    /// An instance on a node of its own, with one check.
    pub(crate) async fn instance(&self, node: &str, address: &str, service: Service, status: Status) {
        let check = Check {
            node: node.into(),
            id: format!("check-{}", service.id).as_str().into(),
            status,
            service_id: service.id.clone(),
            service_name: service.name.clone(),
            ..Check::default()
        };
        let node = Node { name: node.into(), address: address.into(), ..Node::default() };
        let registration =
            Registration { node, service: Some(service), checks: vec![check], ..Registration::default() };
        self.register(registration).await;
    }

    async fn register(&self, registration: Registration) {
        self.writer.register(registration).await.unwrap();
    }

    /// `count` healthy instances of `db` at 10.0.0.1 and following, on nodes `n1` and following.
    pub(crate) async fn databases(&self, count: u8) {
        for at in 1..=count {
            let service = service("db", 5000 + i64::from(at));
            self.instance(&format!("n{at}"), &format!("10.0.0.{at}"), service, Status::Passing).await;
        }
    }

    /// Asks over UDP without EDNS.
    pub(crate) async fn ask(&self, name: &str, kind: RecordType) -> Answer {
        self.ask_message(&question(name, kind)).await
    }

    pub(crate) async fn ask_message(&self, question: &Message) -> Answer {
        Answer(Message::from_vec(&self.exchange(&question.to_vec().unwrap()).await).unwrap())
    }

    /// One datagram there and one back.
    pub(crate) async fn exchange(&self, packet: &[u8]) -> Vec<u8> {
        let local = if self.address.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
        let socket = UdpSocket::bind(local).await.unwrap();
        socket.connect(self.address).await.unwrap();
        socket.send(packet).await.unwrap();
        let mut buffer = vec![0; 65_535];
        let length = tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await.expect("no answer").unwrap();
        buffer.truncate(length);
        buffer
    }

    pub(crate) async fn ask_tcp(&self, name: &str, kind: RecordType) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        Answer(over_tcp(&mut stream, &question(name, kind)).await)
    }
}

pub(crate) async fn over_tcp(stream: &mut TcpStream, question: &Message) -> Message {
    let packet = question.to_vec().unwrap();
    stream.write_u16(packet.len().try_into().unwrap()).await.unwrap();
    stream.write_all(&packet).await.unwrap();
    let length = tokio::time::timeout(PATIENCE, stream.read_u16()).await.expect("no answer").unwrap();
    let mut answer = vec![0; length.into()];
    stream.read_exact(&mut answer).await.unwrap();
    Message::from_vec(&answer).unwrap()
}

pub(crate) fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(fastrand::u16(..), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

pub(crate) fn question_with_edns(name: &str, kind: RecordType, size: u16) -> Message {
    let mut message = question(name, kind);
    let mut edns = Edns::new();
    edns.set_max_payload(size);
    message.set_edns(edns);
    message
}

/// A service whose id is its name with its port.
pub(crate) fn service(name: &str, port: i64) -> Service {
    Service { id: format!("{name}{port}").into(), name: name.into(), port, ..Service::default() }
}

pub(crate) fn proxy_for(destination: &str, port: i64) -> Service {
    Service {
        kind: Kind::ConnectProxy,
        proxy: Some(ProxySpec { destination_name: destination.into(), ..ProxySpec::default() }),
        ..service(&format!("{destination}-proxy"), port)
    }
}

/// What came back, in words.
#[derive(Debug)]
pub(crate) struct Answer(pub(crate) Message);

impl Answer {
    pub(crate) fn code(&self) -> ResponseCode {
        self.0.metadata.response_code
    }

    /// The answers, sorted, as `owner ttl type data`.
    pub(crate) fn answers(&self) -> Vec<String> {
        shown(&self.0.answers)
    }

    pub(crate) fn authorities(&self) -> Vec<String> {
        shown(&self.0.authorities)
    }

    pub(crate) fn additionals(&self) -> Vec<String> {
        shown(&self.0.additionals)
    }

    /// Checks that the name does not exist, and that the zone says so.
    #[track_caller]
    pub(crate) fn assert_no_such_name(&self) {
        assert_eq!(self.code(), ResponseCode::NXDomain, "{self:?}");
        self.assert_negative();
    }

    /// Checks that the name has nothing of the kind.
    #[track_caller]
    pub(crate) fn assert_empty(&self) {
        assert_eq!(self.code(), ResponseCode::NoError, "{self:?}");
        self.assert_negative();
    }

    #[track_caller]
    fn assert_negative(&self) {
        assert!(self.0.metadata.authoritative && self.0.answers.is_empty(), "{self:?}");
        let [soa] = &self.authorities()[..] else { panic!("no SOA: {self:?}") };
        assert!(soa.starts_with("consul. 0 SOA ns.consul. hostmaster.consul. "), "{soa}");
        assert!(soa.ends_with(" 3600 600 86400 0"), "{soa}");
    }
}

fn shown(records: &[Record]) -> Vec<String> {
    let mut lines: Vec<String> = records
        .iter()
        .map(|record| format!("{} {} {} {}", record.name, record.ttl, record.record_type(), record.data))
        .collect();
    lines.sort();
    lines
}
