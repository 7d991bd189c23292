use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::{ClientSubnet, EdnsOption};
use lictor_model::acl::Caller;
use lictor_model::health::{Check, Status};
use lictor_model::node::Node;
use lictor_model::service::{Kind, ProxySpec, Service};
use lictor_state::reader::{Filter, Side};
use lictor_state::writer::Registration;
use lictor_state::{State, Writer};
use lictor_store::Store;
use lictor_task::clock::unix_seconds;
use proptest::prelude::*;
use tokio::net::UdpSocket;
use tokio::sync::watch;

use super::*;
use crate::fuzz::Server;
use crate::prepared::{PreparedAnswer, PreparedOutcome, PreparedRequest};
use crate::request::Transport;
use crate::server::{Backend, Core, Source, Step};

const FROM: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 9));
const SEED: u64 = 7;

/// The query `q` finds the instances of `db`; who asked for it is kept.
#[derive(Default)]
struct Asked(Mutex<Option<IpAddr>>);

impl Queries for Asked {
    fn execute(&self, reader: &Reader, request: &PreparedRequest<'_>) -> PreparedOutcome {
        *self.0.lock().unwrap() = Some(request.source);
        match request.name {
            "q" => PreparedOutcome::Answered(PreparedAnswer {
                service: "db".into(),
                instances: reader.instances("db", Side::Ordinary, &Filter::default()).value,
                ttl: None,
            }),
            "broken" => PreparedOutcome::Failed,
            _ => PreparedOutcome::Unknown,
        }
    }
}

/// A catalog with a server over it.
struct House {
    writer: Writer,
    queries: Arc<Asked>,
    here: Backend,
    _scope: lictor_task::Scope,
}

impl House {
    async fn new() -> House {
        let scope = lictor_task::Scope::new("test");
        let config = lictor_state::Config { datacenter: "dc1".into(), ..Default::default() };
        let (state, writer) = State::open(Store::memory(), config, &scope).await.unwrap();
        let queries = Arc::new(Asked::default());
        let reader = Arc::new(move || state.reader(&Caller::acls_disabled()));
        let here = Backend { reader, queries: Arc::clone(&queries) as Arc<dyn Queries> };
        House { writer, queries, here, _scope: scope }
    }

    async fn put(&self, node: &str, address: &str, meta: usize, service: Option<Service>, status: Status) {
        let check = |service: &Service| Check {
            node: node.into(),
            id: format!("check-{}", service.id).as_str().into(),
            status,
            service_id: service.id.clone(),
            service_name: service.name.clone(),
            ..Check::default()
        };
        let checks = service.iter().map(check).collect();
        let meta = (0..meta).map(|at| (format!("key{at}"), format!("\"ä\\ .{}", "x".repeat(240 + at)))).collect();
        let node = Node { name: node.into(), address: address.into(), meta: Some(meta), ..Node::default() };
        self.writer.register(Registration { node, service, checks, ..Registration::default() }).await.unwrap();
    }

    /// Something of everything.
    async fn furnish(&self) {
        for at in 1..=12_u8 {
            let status = if at % 4 == 0 { Status::Warning } else { Status::Passing };
            let tags = Some(vec![if at % 2 == 0 { "even" } else { "odd" }.to_owned()]);
            self.put(&format!("n{at}"), &format!("10.0.0.{at}"), 2, Some(Service { tags, ..db(at.into()) }), status)
                .await;
        }
        let proxy = Service {
            kind: Kind::ConnectProxy,
            proxy: Some(ProxySpec { destination_name: "db".into(), ..ProxySpec::default() }),
            ..service("db-proxy", 20_000)
        };
        self.put("n1", "10.0.0.1", 2, Some(proxy), Status::Passing).await;
        for (node, address, at) in [
            ("six", "2001:db8::6", ""),
            ("own", "10.1.0.1", "10.2.0.1"),
            ("alias", "db.service.consul", ""),
            ("Odd.node", "10.1.0.3", "n1.node.consul"),
            ("host", "host.example.com", "other.example.com"),
            ("unusable", "..", ""),
        ] {
            let mixed = Service { address: at.into(), ..service("mixed", 80) };
            self.put(node, address, 1, Some(mixed), Status::Passing).await;
        }
        self.put("n3", "10.0.0.3", 2, Some(service("consul", 8300)), Status::Passing).await;
        self.put("down", "10.1.0.9", 0, Some(service("down", 1)), Status::Critical).await;
    }

    /// Answers by these settings, from the catalog and by way of a server.
    fn both(&self, config: Config) -> (Core, Core) {
        let client = self.client(config.clone(), Arc::new(Server(self.here.clone())));
        (core(config, self.here.clone()), client)
    }

    fn client(&self, config: Config, servers: Arc<dyn Elsewhere>) -> Core {
        core(config, Source::Elsewhere(servers))
    }
}

fn core(config: Config, source: impl Into<Source>) -> Core {
    // Nobody changes the settings; the sender may go.
    let (_, settings) = watch::channel(Arc::new(Settings::new(config).unwrap()));
    Core::new(settings, source.into())
}

fn service(name: &str, port: i64) -> Service {
    Service { id: format!("{name}{port}").into(), name: name.into(), port, ..Service::default() }
}

fn db(at: i64) -> Service {
    service("db", 5000 + at)
}

fn question(name: &str, kind: RecordType, change: impl FnOnce(&mut Message)) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(spelled(name).unwrap(), kind));
    change(&mut message);
    message.to_vec().unwrap()
}

fn plain(name: &str, kind: RecordType) -> Vec<u8> {
    question(name, kind, |_| ())
}

fn with_edns(name: &str, kind: RecordType, size: u16) -> Vec<u8> {
    question(name, kind, |message| {
        let mut edns = Edns::new();
        edns.set_max_payload(size);
        let subnet = ClientSubnet::new("198.51.100.0".parse().unwrap(), 24, 0);
        edns.options_mut().insert(EdnsOption::Subnet(subnet));
        message.set_edns(edns);
    })
}

/// What is said, with the lots that a seed gives.
async fn said(core: &Core, packet: &[u8], transport: Transport) -> Vec<u8> {
    let mut out = Vec::new();
    fastrand::seed(SEED);
    match core.answer(packet, FROM, transport, &mut out) {
        Step::Ignore => panic!("taken for noise"),
        Step::Send => {}
        Step::Wait(waiting) => core.finish(*waiting, &mut out).await,
    }
    out
}

/// What both say; it must be the same.
async fn same(both: &(Core, Core), packet: &[u8], transport: Transport) -> Message {
    loop {
        let second = unix_seconds();
        let here = said(&both.0, packet, transport).await;
        let elsewhere = said(&both.1, packet, transport).await;
        // The serial number of the zone is the time.
        if unix_seconds() != second {
            continue;
        }
        let read = |bytes: &[u8]| Message::from_vec(bytes).unwrap();
        assert!(here == elsewhere, "{}\n{}", read(&here), read(&elsewhere));
        return read(&here);
    }
}

const KINDS: [RecordType; 11] = [
    RecordType::A,
    RecordType::AAAA,
    RecordType::ANY,
    RecordType::AXFR,
    RecordType::CNAME,
    RecordType::MX,
    RecordType::NS,
    RecordType::PTR,
    RecordType::SOA,
    RecordType::SRV,
    RecordType::TXT,
];

const NAMES: [&str; 33] = [
    "db.service",
    "DB.Service",
    "even.db.service",
    "_db._tcp.service",
    "_db._odd.service",
    "_db._tcp",
    "mixed.service",
    "down.service",
    "nobody.service",
    "db.connect",
    "nobody.connect",
    "n1.node",
    "N1.node.DC1",
    "six.node",
    "alias.node",
    "host.node",
    "odd.node.node",
    "unusable.node",
    "nobody.node",
    "db.service.dc1",
    "db.service.dc2",
    "q.query",
    "broken.query",
    "nobody.query",
    "0a010203.addr",
    "20010db8000000000000000000000006.addr",
    "0a01.addr",
    "ns",
    "nonsense",
    "a.b.c.d",
    r"\255\001.node",
    "x y.node",
    "",
];

fn settings() -> Vec<Config> {
    let of = |key: &str, secs| (key.to_owned(), Duration::from_secs(secs));
    vec![
        Config::default(),
        Config {
            node_ttl: Duration::from_secs(9),
            service_ttl: [of("*", 3), of("d*", 5), of("Mixed", 7)].into(),
            only_passing: true,
            a_record_limit: 2,
            enable_truncate: true,
            soa: Soa { refresh: 1, retry: 2, expire: 3, min_ttl: 4 },
            ..Config::default()
        },
        Config {
            domain: "mesh.Example".into(),
            udp_answer_limit: 0,
            disable_compression: true,
            enable_additional_node_meta_txt: false,
            ..Config::default()
        },
    ]
}

#[tokio::test]
async fn every_kind_of_name_gets_the_same_bytes_as_from_a_server_itself() {
    let house = House::new().await;
    house.furnish().await;
    let mut codes = std::collections::BTreeMap::new();
    for config in settings() {
        let zone = config.domain.trim_end_matches('.').to_owned();
        let both = house.both(config);
        let ours =
            NAMES.iter().map(|name| if name.is_empty() { format!("{zone}.") } else { format!("{name}.{zone}.") });
        let others =
            ["3.0.0.10.in-addr.arpa.", "1.0.2.10.in-addr.arpa.", "9.9.9.9.in-addr.arpa.", "x.arpa.", "example.com."];
        let six = format!("6.{}8.b.d.0.1.0.0.2.ip6.arpa.", "0.".repeat(23));
        for name in ours.chain(others.map(str::to_owned)).chain([six]) {
            for kind in KINDS {
                for (packet, transport) in [
                    (plain(&name, kind), Transport::Udp),
                    (plain(&name, kind), Transport::Tcp),
                    (with_edns(&name, kind, 700), Transport::Udp),
                    (with_edns(&name, kind, 4096), Transport::Udp),
                ] {
                    let message = same(&both, &packet, transport).await;
                    *codes.entry(u16::from(message.metadata.response_code)).or_insert(0) += 1;
                }
            }
        }
    }
    // No error, name error, server failure, not implemented: nothing is the same because nothing was answered.
    assert_eq!(codes.keys().copied().collect::<Vec<_>>(), [0, 2, 3, 4], "{codes:?}");
    assert!(codes[&0] > 500, "{codes:?}");
}

#[tokio::test]
async fn settings_are_those_of_the_agent_that_was_asked() {
    let house = House::new().await;
    house.furnish().await;
    let [_, strict, other] = &settings()[..] else { panic!("not three") };
    let core = house.both(strict.clone()).1;
    let answer = async |core: &Core, name: &str, kind| {
        Message::from_vec(&said(core, &plain(name, kind), Transport::Tcp).await).unwrap()
    };
    let instances = answer(&core, "db.service.consul.", RecordType::A).await.answers;
    assert_eq!(instances.iter().map(|record| record.ttl).collect::<Vec<_>>(), [5, 5], "limit and time to live");
    // Three of twelve warn.
    assert_eq!(answer(&core, "db.service.consul.", RecordType::SRV).await.answers.len(), 9);
    assert_eq!(answer(&core, "n1.node.consul.", RecordType::A).await.answers[0].ttl, 9);
    let negative = answer(&core, "nobody.node.consul.", RecordType::A).await.authorities;
    assert!(negative[0].data.to_string().ends_with(" 1 2 3 4"), "{negative:?}");
    let core = house.both(other.clone()).1;
    let found = answer(&core, "db.service.mesh.example.", RecordType::SRV).await;
    assert_eq!((found.answers.len(), found.additionals.len()), (12, 12), "no metadata beside the addresses");
    assert!(found.additionals[0].name.to_ascii().ends_with(".node.dc1.mesh.example."), "{found}");
    let outside = answer(&core, "db.service.consul.", RecordType::SRV).await;
    assert_eq!(outside.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn a_query_is_executed_for_whom_it_was_asked() {
    let house = House::new().await;
    house.furnish().await;
    let core = house.both(Config::default()).1;
    let asked = || house.queries.0.lock().unwrap().take().unwrap();
    said(&core, &plain("q.query.consul.", RecordType::A), Transport::Udp).await;
    assert_eq!(asked(), FROM);
    said(&core, &with_edns("q.query.consul.", RecordType::A, 4096), Transport::Udp).await;
    assert_eq!(asked(), IpAddr::from([198, 51, 100, 0]));
}

/// Counts the bytes that come from a server.
struct Weighed(Server, AtomicUsize);

impl Elsewhere for Weighed {
    fn look_up(&self, question: Vec<u8>) -> Pending<'_, Result<Vec<u8>, String>> {
        Box::pin(async move {
            let answer = self.0.look_up(question).await?;
            self.1.fetch_max(answer.len(), Ordering::Relaxed);
            Ok(answer)
        })
    }
}

#[tokio::test]
async fn what_no_message_can_hold_does_not_travel() {
    let house = House::new().await;
    // Names that take much in a message and more on the way, and instances beside each other on one node.
    for at in 0..1500_u32 {
        let name = format!("{at}.{}", ["\u{7}_+\u{1}"; 6].join("."));
        let address = format!("10.1.{}.{}", at / 250, at % 250);
        let own = if at % 3 == 0 { format!("10.2.{}.{}", at / 250, at % 250) } else { String::new() };
        let instance = Service { address: own, ..db(i64::from(at)) };
        house.put(&name, &address, 3, Some(instance), Status::Passing).await;
    }
    for at in 0..40 {
        house.put("shared", "10.3.0.1", 1, Some(db(10_000 + at)), Status::Passing).await;
    }
    for (kind, transport, size, most) in [
        (RecordType::SRV, Transport::Tcp, None, 600_000),
        (RecordType::A, Transport::Tcp, None, 400_000),
        (RecordType::TXT, Transport::Tcp, None, 400_000),
        (RecordType::SRV, Transport::Udp, Some(4096), 40_000),
        (RecordType::A, Transport::Udp, Some(65_535), 400_000),
        (RecordType::ANY, Transport::Udp, Some(1232), 20_000),
        (RecordType::SRV, Transport::Udp, None, 10_000),
        (RecordType::A, Transport::Udp, None, 10_000),
    ] {
        for enable_truncate in [false, true] {
            let config = Config { enable_truncate, ..Config::default() };
            let servers = Arc::new(Weighed(Server(house.here.clone()), AtomicUsize::new(0)));
            let both = (
                core(config.clone(), house.here.clone()),
                house.client(config, Arc::clone(&servers) as Arc<dyn Elsewhere>),
            );
            let name = "db.service.consul.";
            let packet = size.map_or_else(|| plain(name, kind), |size| with_edns(name, kind, size));
            let message = same(&both, &packet, transport).await;
            // Of the addresses in large messages only what stands beside them is left out.
            let is_large = transport == Transport::Tcp || size == Some(65_535);
            let is_complete = kind == RecordType::A && is_large;
            assert_eq!(message.metadata.truncation, enable_truncate && !is_complete, "{kind} {transport:?} {size:?}");
            let travelled = servers.1.load(Ordering::Relaxed);
            assert!((200..most).contains(&travelled), "{travelled} bytes for {kind} {transport:?} {size:?}");
        }
    }
}

/// A recursor that knows two addresses of every name, until it is dropped.
async fn recursor() -> (std::net::SocketAddr, tokio::task::JoinHandle<()>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let serve = tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            let mut message = Message::from_vec(&buffer[..length]).unwrap().into_response();
            let name = message.queries[0].name.clone();
            for last in [1, 2] {
                let data = hickory_proto::rr::RData::A(hickory_proto::rr::rdata::A::new(203, 0, 113, last));
                message.add_answer(hickory_proto::rr::Record::from_rdata(name.clone(), 60, data));
            }
            socket.send_to(&message.to_vec().unwrap(), from).await.unwrap();
        }
    });
    (address, serve)
}

#[tokio::test]
async fn the_agent_follows_aliases_with_its_own_recursors() {
    let house = House::new().await;
    house.furnish().await;
    for at in 0..30 {
        let many = Service { address: format!("host{}.example.com", at % 25), ..service("many", at) };
        house.put(&format!("m{at}"), &format!("10.9.0.{at}"), 1, Some(many), Status::Passing).await;
    }
    let (address, serve) = recursor().await;
    let both = house.both(Config { recursors: vec![address], enable_truncate: true, ..Config::default() });
    let mut followed = 0;
    for name in
        ["host.node.consul.", "mixed.service.consul.", "many.service.consul.", "9.9.9.9.in-addr.arpa.", "a.example."]
    {
        for kind in [RecordType::A, RecordType::SRV, RecordType::ANY] {
            for (packet, transport) in [
                (plain(name, kind), Transport::Udp),
                (with_edns(name, kind, 900), Transport::Udp),
                (with_edns(name, kind, 4096), Transport::Udp),
            ] {
                let message = same(&both, &packet, transport).await;
                let all = message.answers.iter().chain(&message.additionals);
                followed += usize::from(all.into_iter().any(|record| record.ttl == 60));
            }
        }
    }
    let over_tcp = same(&both, &plain("many.service.consul.", RecordType::SRV), Transport::Tcp).await;
    followed += over_tcp.additionals.iter().filter(|record| record.ttl == 60).count();
    // Sixteen aliases are followed at most, to two addresses each.
    assert!(followed >= 25 + 32, "{followed}");
    serve.abort();
}

/// Says the same whatever it is asked.
struct Fixed(Result<Vec<u8>, String>, AtomicUsize);

impl Elsewhere for Fixed {
    fn look_up(&self, _: Vec<u8>) -> Pending<'_, Result<Vec<u8>, String>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        Box::pin(async { self.0.clone() })
    }
}

#[tokio::test]
async fn what_no_server_can_be_asked_for_fails_and_the_rest_goes_on() {
    let house = House::new().await;
    let (address, serve) = recursor().await;
    let answers = [
        Err("no server is there".to_owned()),
        Ok(b"nonsense".to_vec()),
        Ok(b"{}".to_vec()),
        Ok(vec![b' '; MAX_ANSWER + 1]),
        Ok(br#"{"Outcome":"Answered","Answers":[{"Name":"a..b.","TTL":1,"Data":{"A":"10.0.0.1"}}]}"#.to_vec()),
    ];
    for answer in answers {
        let servers = Arc::new(Fixed(answer, AtomicUsize::new(0)));
        let config = Config { recursors: vec![address], ..Config::default() };
        let client = house.client(config, Arc::clone(&servers) as Arc<dyn Elsewhere>);
        let asked = async |name: &str| {
            Message::from_vec(&said(&client, &plain(name, RecordType::A), Transport::Udp).await).unwrap()
        };
        let ours = asked("db.service.consul.").await;
        assert_eq!(ours.metadata.response_code, ResponseCode::ServFail);
        assert!(ours.metadata.authoritative && ours.answers.is_empty(), "{ours}");
        assert_eq!(servers.1.load(Ordering::Relaxed), 1);
        // Nobody asks a server for it, so it is not missed.
        let outside = asked("a.example.").await;
        assert_eq!((outside.metadata.response_code, outside.answers.len()), (ResponseCode::NoError, 2));
        assert_eq!(servers.1.load(Ordering::Relaxed), 1);
        // An address that the recursors may know.
        let reverse = "9.2.0.192.in-addr.arpa.";
        let of_address = asked(reverse).await;
        assert_eq!((of_address.metadata.response_code, of_address.answers.len()), (ResponseCode::NoError, 2));
        assert_eq!(servers.1.load(Ordering::Relaxed), 2);
        let alone = house.client(Config::default(), Arc::clone(&servers) as Arc<dyn Elsewhere>);
        let of_address = said(&alone, &plain(reverse, RecordType::PTR), Transport::Udp).await;
        let of_address = Message::from_vec(&of_address).unwrap();
        assert_eq!(of_address.metadata.response_code, ResponseCode::ServFail);
    }
    serve.abort();
}

/// Never answers.
struct Silent;

impl Elsewhere for Silent {
    fn look_up(&self, _: Vec<u8>) -> Pending<'_, Result<Vec<u8>, String>> {
        Box::pin(std::future::pending())
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_is_waited_for_by_so_many_for_so_long() {
    let house = House::new().await;
    let client = Arc::new(house.client(Config::default(), Arc::new(Silent)));
    let packet = plain("db.service.consul.", RecordType::A);
    let start = tokio::time::Instant::now();
    let ask = |client: Arc<Core>| {
        let packet = packet.clone();
        async move {
            let out = said(&client, &packet, Transport::Udp).await;
            (Message::from_vec(&out).unwrap().metadata.response_code, start.elapsed())
        }
    };
    let waiting: Vec<_> = (0..600).map(|_| tokio::spawn(ask(Arc::clone(&client)))).collect();
    let (mut at_once, mut later) = (0, 0);
    for task in waiting {
        let (code, after) = task.await.unwrap();
        assert_eq!(code, ResponseCode::ServFail);
        if after.is_zero() {
            at_once += 1
        } else {
            later += 1
        }
        assert!(after < Duration::from_secs(5), "{after:?}: the client has gone");
    }
    assert_eq!((at_once, later), (600 - 512, 512));
}

#[tokio::test]
async fn questions_that_no_agent_asks_are_refused() {
    let house = House::new().await;
    let reader = (house.here.reader)();
    let request = match crate::request::read(&plain("db.service.consul.", RecordType::A), Transport::Udp) {
        crate::request::Packet::Question(request) => *request,
        other => panic!("{other:?}"),
    };
    let good = ask(&request, FROM, &Settings::new(Config::default()).unwrap());
    let answered =
        |question: &[u8]| answer(question, &reader, house.queries.as_ref()).map_err(|error| error.to_string());
    answered(&good).unwrap();
    let text = String::from_utf8(good).unwrap();
    let changed = |from: &str, to: &str| {
        assert!(text.contains(from), "{text}");
        answered(text.replace(from, to).as_bytes())
    };
    let long = format!("{}.consul.", "a.".repeat(130));
    for (from, to, why) in [
        ("db.service.consul.", "db.service.example.", "the name is outside the zone"),
        ("db.service.consul.", "10.in-addr.arpa", "not a name"),
        ("db.service.consul.", "db..consul.", "not a name"),
        ("db.service.consul.", r"d\\300b.consul.", "not a name"),
        ("db.service.consul.", r"d\\30", "not a name"),
        ("db.service.consul.", &long, "not a name"),
        (r#""192.0.2.9""#, "null", "nobody asks"),
        (r#""192.0.2.9""#, r#""nobody""#, "invalid IP address"),
        (r#""consul.""#, r#""con..sul""#, "is not a usable DNS name"),
        (r#""dc1""#, r#""d.c1""#, "cannot be part of a DNS name"),
        (r#""Type":1"#, r#""Type":65536"#, "invalid value"),
        (r#""Size":512"#, r#""Size":-1"#, "invalid value"),
    ] {
        let refused = changed(from, to).unwrap_err();
        assert!(refused.contains(why), "{to}: {refused}");
    }
    assert!(answered(&vec![b' '; MAX_QUESTION + 1]).unwrap_err().contains("are the most"));
    // What is only unusual is answered.
    for (from, to) in [
        (r#""Limit":3"#, r#""Limit":18446744073709551615"#),
        (r#""Limit":3"#, r#""Limit":0"#),
        (r#""Size":512"#, r#""Size":65535"#),
        (r#""Size":512"#, r#""Size":0"#),
        (r#""Type":1"#, r#""Type":65535"#),
        (r#""ARecordLimit":0"#, r#""ARecordLimit":18446744073709551615"#),
        (r#""NodeTTL":0"#, r#""NodeTTL":4294967295"#),
        (r#""EDNS":false"#, r#""Later":[1]"#),
    ] {
        changed(from, to).unwrap();
    }
}

fn any_bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(prop_oneof![Just(b'.'), Just(b'\\'), Just(b'1'), Just(b'"'), any::<u8>()], 0..most)
}

proptest! {
    #[test]
    fn names_and_texts_of_any_bytes_arrive_as_they_left(labels in proptest::collection::vec(any_bytes(20), 0..8)) {
        let text = Text(labels.concat());
        let shown = serde_json::to_string(&text).unwrap();
        prop_assert_eq!(serde_json::from_str::<Text>(&shown).unwrap(), text);
        let labels = labels.iter().filter(|label| !label.is_empty()).map(Vec::as_slice);
        let name = Name::from_labels(labels).unwrap();
        let shown = serde_json::to_string(&Spelled(name.clone())).unwrap();
        let arrived = serde_json::from_str::<Spelled>(&shown).unwrap().0;
        prop_assert!(arrived.eq_case(&name) && arrived.is_fqdn(), "{shown}");
    }

    #[test]
    fn replies_arrive_as_they_left(seed in any::<u64>()) {
        let mut lots = fastrand::Rng::with_seed(seed);
        let reply = any_reply(&mut lots);
        let owner = Name::from_ascii("Db.service.consul.").unwrap();
        let body = serde_json::to_vec(&Answer::new(reply.clone(), &owner)).unwrap();
        let arrived = read(&body, &owner).unwrap().unwrap();
        prop_assert_eq!(format!("{arrived:?}"), format!("{reply:?}"));
    }
}

fn any_reply(lots: &mut fastrand::Rng) -> Reply {
    let names = ["Db.service.consul.", "db.service.consul.", "n1.node.dc1.consul.", "host.example.com.", "."];
    let mut any_name = {
        let mut lots = lots.fork();
        move || Name::from_ascii(names[lots.usize(..names.len())]).unwrap()
    };
    let outcomes = [
        Outcome::Answered,
        Outcome::Empty,
        Outcome::NoSuchName,
        Outcome::NoSuchDatacenter,
        Outcome::QueryFailed,
        Outcome::Transfer,
    ];
    let mut reply = Reply::new(outcomes[lots.usize(..outcomes.len())]);
    let mut records = || -> Vec<Record> {
        (0..lots.usize(..9))
            .map(|_| {
                let data = match lots.u8(..8) {
                    0 => Data::A(lots.u32(..).into()),
                    1 => Data::Aaaa(lots.u128(..).into()),
                    2 => Data::Cname(any_name()),
                    3 => Data::Ns(any_name()),
                    4 => Data::Ptr(any_name()),
                    5 => Data::Soa(Box::new(record::Soa {
                        server: any_name(),
                        mailbox: any_name(),
                        serial: lots.u32(..),
                        refresh: lots.u32(..),
                        retry: lots.u32(..),
                        expire: lots.u32(..),
                        min_ttl: lots.u32(..),
                    })),
                    6 => Data::Srv { weight: lots.u16(..), port: lots.u16(..), target: any_name() },
                    _ => Data::Txt(
                        (0..lots.usize(1..4)).map(|_| (0..lots.usize(..9)).map(|_| lots.u8(..)).collect()).collect(),
                    ),
                };
                Record { owner: any_name(), ttl: lots.u32(..), data }
            })
            .collect()
    };
    (reply.answers, reply.authorities, reply.additionals) = (records(), records(), records());
    reply.counted = if lots.bool() { Counted::Limited } else { Counted::All };
    reply.is_shortened = lots.bool();
    reply.subnet = if lots.bool() { SubnetScope::Source } else { SubnetScope::Everyone };
    for section in [Section::Answer, Section::Additional] {
        let room = if lots.bool() { usize::MAX } else { lots.usize(..99) };
        let target = Name::from_ascii("host.example.com.").unwrap();
        reply.chases.push(Chase { section, at: lots.usize(..99), target, room });
    }
    reply
}
