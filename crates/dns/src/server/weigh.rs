//! A workload whose instructions can be counted (docs/performance.md): from a packet to its answer, without sockets.

use hickory_proto::op::{Message, MessageType, OpCode};
use hickory_proto::rr::{Name, RecordType};
use lictor_model::acl::Caller;
use lictor_model::node::Node;
use lictor_model::service::Service;
use lictor_state::State;
use lictor_state::writer::Registration;
use lictor_store::Store;

use super::*;
use crate::config::Config;
use crate::prepared::{PreparedOutcome, PreparedRequest};

/// Only what happens in here is counted.
#[inline(never)]
fn measured<T>(work: impl FnOnce() -> T) -> T {
    std::hint::black_box(work())
}

struct NoQueries;

impl Queries for NoQueries {
    fn execute(&self, _: &Reader, _: &PreparedRequest<'_>) -> PreparedOutcome {
        PreparedOutcome::Unknown
    }
}

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.add_query(hickory_proto::op::Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

#[tokio::test]
#[ignore = "a workload for counting instructions, see docs/performance.md"]
async fn weigh_five_hundred_dns_answers() {
    let scope = Scope::new("weigh");
    let config = lictor_state::Config { datacenter: "dc1".into(), ..Default::default() };
    let (state, writer) = State::open(Store::memory(), config, &scope).await.unwrap();
    for number in 0..50u8 {
        let name = if number < 3 { "few" } else { "many" };
        let service = Service {
            id: format!("{name}-{number}").as_str().into(),
            name: name.into(),
            port: 80,
            ..Service::default()
        };
        let node =
            Node { name: format!("n{number}").as_str().into(), address: format!("10.0.0.{number}"), ..Node::default() };
        writer.register(Registration { node, service: Some(service), ..Registration::default() }).await.unwrap();
    }
    let (_changes, settings) = watch::channel(Arc::new(Settings::new(Config::default()).unwrap()));
    let reader = Arc::new(move || state.reader(&Caller::acls_disabled()));
    let core = Core::new(settings, Backend { reader, queries: Arc::new(NoQueries) }.into());
    let questions = [
        question("few.service.consul.", RecordType::A),
        question("few.service.consul.", RecordType::SRV),
        question("many.service.consul.", RecordType::A),
        question("n1.node.consul.", RecordType::A),
        question("nobody.service.consul.", RecordType::A),
    ];
    let from = IpAddr::from([127, 0, 0, 1]);
    let mut out = Vec::with_capacity(usize::from(u16::MAX));
    let mut answer = |packet: &[u8]| {
        assert!(matches!(core.answer(packet, from, Transport::Udp, &mut out), Step::Send));
        out.len()
    };
    // What is made once at the first answer is not counted.
    questions.iter().for_each(|packet| assert!(answer(packet) > packet.len()));
    measured(|| (0..100).flat_map(|_| &questions).map(|packet| answer(packet)).sum::<usize>());
    scope.join(STOP_LIMIT).await;
}
