//! What the fuzzer calls: packets, answered from a small catalog as the server does, and what agents and servers say to each
//! other.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use lictor_model::acl::Caller;
use lictor_model::health::{Check, Status};
use lictor_model::node::Node;
use lictor_model::service::{Kind, ProxySpec, Service};
use lictor_state::reader::{Filter, Side};
use lictor_state::writer::Registration;
use lictor_state::{Reader, State, Writer};
use lictor_store::Store;
use lictor_task::Scope;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

use crate::answer;
use crate::remote::{self, Elsewhere, Pending};
use crate::request::{self, Packet, Transport};
use crate::server::{Backend, Core, Source, Step};
use crate::{Config, PreparedAnswer, PreparedOutcome, PreparedRequest, Queries, Settings};

/// The first byte chooses what the rest is: a packet, with transport and settings; what an agent asks a server; or what a
/// server says to an agent.
pub fn packet(bytes: &[u8]) {
    let Some((choice, rest)) = bytes.split_first() else { return };
    match choice >> 6 {
        2 => {
            let server = &world().server;
            // Most are refused; what is not can be read by who asks.
            if let Ok(answer) = remote::answer(rest, &(server.reader)(), server.queries.as_ref()) {
                remote::read(&answer, &Name::root()).expect("our own answers can be read");
            }
        }
        3 => said(rest),
        _ => asked(*choice, rest),
    }
}

/// Whatever a server says, a client gets a message that it can read and that is not larger than it takes.
fn said(answer: &[u8]) {
    let mut question = Message::new(7, MessageType::Query, OpCode::Query);
    question.add_query(Query::query(Name::from_ascii("db.service.consul.").unwrap(), RecordType::SRV));
    let Packet::Question(request) = request::read(&question.to_vec().unwrap(), Transport::Udp) else { return };
    let Ok(Some(reply)) = remote::read(answer, &request.query.name) else { return };
    let mut out = Vec::new();
    answer::write(&request, &reply, &Settings::new(Config::default()).unwrap(), &mut out);
    Message::from_vec(&out).expect("our own answers can be read");
    assert!(out.len() <= usize::from(request.max_size()), "{} bytes", out.len());
}

/// Whatever a packet is, an answer can be read, is to that question, is not larger than who asked can take, and is the same
/// from an agent that has no state.
fn asked(choice: u8, packet: &[u8]) {
    let transport = if choice & 1 == 0 { Transport::Udp } else { Transport::Tcp };
    let from = if choice & 2 == 0 { IpAddr::from([127, 0, 0, 1]) } else { IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]) };
    let (core, client) = &world().cores[usize::from(choice >> 2) % world().cores.len()];
    let mut out = Vec::new();
    let second = lictor_task::clock::unix_seconds();
    fastrand::seed(7);
    match core.answer(packet, from, transport, &mut out) {
        Step::Ignore => assert!(out.is_empty(), "something was said to noise"),
        Step::Send => {
            let answer = Message::from_vec(&out).expect("our own answers can be read");
            assert_eq!(answer.metadata.message_type, MessageType::Response);
            assert_eq!(answer.metadata.id.to_be_bytes(), packet[..2]);
            let limit = match request::read(packet, transport) {
                Packet::Question(request) => request.max_size(),
                _ => request::PLAIN_UDP_SIZE,
            };
            assert!(out.len() <= usize::from(limit), "{} bytes for who takes {limit}", out.len());
            let mut same = Vec::new();
            if let Step::Wait(waiting) = client.answer(packet, from, transport, &mut same) {
                world().runtime.block_on(client.finish(*waiting, &mut same));
            }
            // The serial number of the zone is the time.
            assert!(same == out || lictor_task::clock::unix_seconds() != second, "a client says {same:?}, not {out:?}");
        }
        Step::Wait(_) => panic!("there is nobody to ask"),
    }
}

/// Executes the query `q`: all instances of `db`.
struct OneQuery;

impl Queries for OneQuery {
    fn execute(&self, reader: &Reader, request: &PreparedRequest<'_>) -> PreparedOutcome {
        match request.name {
            "q" => PreparedOutcome::Answered(PreparedAnswer {
                service: "db".into(),
                instances: reader.instances("db", Side::Ordinary, &Filter::default()).value,
                ttl: Some(Duration::from_secs(11)),
            }),
            _ => PreparedOutcome::Unknown,
        }
    }
}

/// A server that an agent asks without a network in between. It draws the same lots for each question.
pub(crate) struct Server(pub(crate) Backend);

impl Elsewhere for Server {
    fn look_up(&self, question: Vec<u8>) -> Pending<'_, Result<Vec<u8>, String>> {
        Box::pin(async move {
            fastrand::seed(7);
            remote::answer(&question, &(self.0.reader)(), self.0.queries.as_ref()).map_err(|error| error.to_string())
        })
    }
}

/// A catalog, and servers over it that are configured differently, each with an agent of the same settings that asks one.
struct World {
    cores: Vec<(Core, Core)>,
    server: Backend,
    runtime: Runtime,
    _scope: Scope,
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let scope = Scope::new("fuzz");
        let state = runtime.block_on(async {
            let config = lictor_state::Config { datacenter: "dc1".into(), ..Default::default() };
            let (state, writer) = State::open(Store::memory(), config, &scope).await.unwrap();
            furnish(&writer).await;
            state
        });
        let plain = Config::default;
        let reader = Arc::new(move || state.reader(&Caller::acls_disabled()));
        let server = Backend { reader, queries: Arc::new(OneQuery) };
        let cores = [
            plain(),
            Config { enable_truncate: true, disable_compression: true, udp_answer_limit: 0, ..plain() },
            Config { domain: "mesh.example".into(), a_record_limit: 2, only_passing: true, ..plain() },
            Config { enable_additional_node_meta_txt: true, node_ttl: Duration::from_secs(7), ..plain() },
        ]
        .map(|config| {
            // Nobody changes the settings; the sender may go.
            let (_, settings) = watch::channel(Arc::new(Settings::new(config).unwrap()));
            let client = Core::new(settings.clone(), Source::Elsewhere(Arc::new(Server(server.clone()))));
            (Core::new(settings, server.clone().into()), client)
        });
        World { cores: cores.into(), server, runtime, _scope: scope }
    })
}

/// Nodes with addresses of both families and with names, forty instances of one service, and proxies for it. A write is
/// seen by readers when it returns.
async fn furnish(writer: &Writer) {
    for at in 0..40_u8 {
        let address = match at % 3 {
            0 => format!("10.0.0.{at}"),
            1 => format!("2001:db8::{at:x}"),
            _ => format!("host{at}.example.com"),
        };
        let meta = [("rack".to_owned(), format!("r{at}")), ("long".to_owned(), "x".repeat(300))];
        let name = format!("n{at}");
        let node = Node { name: name.as_str().into(), address, meta: Some(meta.into()), ..Node::default() };
        let db = Service {
            id: "db".into(),
            name: "db".into(),
            port: 5000,
            tags: Some(vec!["a.b".into()]),
            ..Service::default()
        };
        let proxy = Service {
            id: "db-proxy".into(),
            name: "db-proxy".into(),
            kind: Kind::ConnectProxy,
            port: 20_000,
            proxy: Some(ProxySpec { destination_name: "db".into(), ..ProxySpec::default() }),
            ..Service::default()
        };
        let check = Check {
            node: name.as_str().into(),
            id: "c".into(),
            status: if at % 5 == 0 { Status::Warning } else { Status::Passing },
            service_id: "db".into(),
            service_name: "db".into(),
            ..Check::default()
        };
        for (service, checks) in [(db, vec![check]), (proxy, Vec::new())] {
            let node = node.clone();
            writer
                .register(Registration { node, service: Some(service), checks, ..Registration::default() })
                .await
                .unwrap();
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_the_fuzzer_keeps_for_packets_breaks_no_promise() {
        lictor_testkit::corpus::replay("dns", super::packet);
    }
}
