//! What the fuzzer calls: packets, answered from a small catalog as the server does.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType};
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

use crate::request::{self, Packet, Transport};
use crate::server::{Backend, Core, Step};
use crate::{Config, PreparedAnswer, PreparedOutcome, PreparedRequest, Queries, Settings};

/// The first byte chooses transport and settings, the rest is the packet. Whatever it is, an answer can be read, is to
/// that question, and is not larger than who asked can take.
pub fn packet(bytes: &[u8]) {
    let Some((choice, packet)) = bytes.split_first() else { return };
    let transport = if choice & 1 == 0 { Transport::Udp } else { Transport::Tcp };
    let from = if choice & 2 == 0 { IpAddr::from([127, 0, 0, 1]) } else { IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]) };
    let core = &world().cores[usize::from(choice >> 2) % world().cores.len()];
    let mut out = Vec::new();
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

/// A catalog, and servers over it that are configured differently.
struct World {
    cores: Vec<Core>,
    _runtime: Runtime,
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
        let cores = [
            plain(),
            Config { enable_truncate: true, disable_compression: true, udp_answer_limit: 0, ..plain() },
            Config { domain: "mesh.example".into(), a_record_limit: 2, only_passing: true, ..plain() },
            Config { enable_additional_node_meta_txt: true, node_ttl: Duration::from_secs(7), ..plain() },
        ]
        .map(|config| {
            let state = state.clone();
            let reader = Arc::new(move || state.reader(&Caller::acls_disabled()));
            // Nobody changes the settings; the sender may go.
            let (_, settings) = watch::channel(Arc::new(Settings::new(config).unwrap()));
            Core::new(settings, Backend { reader, queries: Arc::new(OneQuery) }.into())
        });
        World { cores: cores.into(), _runtime: runtime, _scope: scope }
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
