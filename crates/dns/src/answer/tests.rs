use hickory_proto::op::{Edns, Message, OpCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use proptest::prelude::*;

use super::*;
use crate::config::Config;
use crate::record;
use crate::request::{self, Packet};

fn settings(change: impl FnOnce(&mut Config)) -> Settings {
    let mut config = Config::default();
    change(&mut config);
    Settings::new(config).unwrap()
}

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn request(kind: RecordType, transport: Transport, edns: Option<u16>) -> Request {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(name("DB.service.consul."), kind));
    message.metadata.recursion_desired = true;
    if let Some(size) = edns {
        let mut edns = Edns::new();
        edns.set_max_payload(size);
        message.set_edns(edns);
    }
    match request::read(&message.to_vec().unwrap(), transport) {
        Packet::Question(request) => *request,
        other => panic!("{other:?}"),
    }
}

fn udp(kind: RecordType) -> Request {
    request(kind, Transport::Udp, None)
}

/// A reply of so many SRV records with an address and a TXT for each.
fn locations(count: usize) -> Reply {
    let mut reply = Reply { counted: Counted::Limited, ..Reply::new(Outcome::Answered) };
    for at in 0..count {
        let target = name(&format!("n{at}.node.dc1.consul."));
        let ip = [10, 0, u8::try_from(at / 256).unwrap(), u8::try_from(at % 256).unwrap()];
        let data = Data::Srv { weight: 1, port: 80, target: target.clone() };
        reply.answers.push(Record { owner: name("DB.service.consul."), ttl: 0, data });
        reply.additionals.extend(record::address(&target, 0, ip.into(), RecordType::A));
        reply.additionals.push(text(target, &["k=v"]));
    }
    reply
}

fn text(owner: Name, strings: &[&str]) -> Record {
    let strings = strings.iter().map(|string| string.as_bytes().to_vec()).collect();
    Record { owner, ttl: 0, data: Data::Txt(strings) }
}

fn addresses(count: usize) -> Reply {
    let mut reply = Reply { counted: Counted::Limited, ..Reply::new(Outcome::Answered) };
    let owner = name("DB.service.consul.");
    let ips = (0..count).map(|at| [10, 0, u8::try_from(at / 256).unwrap(), u8::try_from(at % 256).unwrap()]);
    reply.answers.extend(ips.filter_map(|ip| record::address(&owner, 0, ip.into(), RecordType::A)));
    reply
}

fn message(request: &Request, reply: &Reply, settings: &Settings) -> (Message, usize) {
    let mut out = Vec::new();
    write(request, reply, settings, &mut out);
    assert!(out.len() <= usize::from(request.max_size()), "{} bytes", out.len());
    (Message::from_vec(&out).unwrap(), out.len())
}

#[test]
fn each_outcome_has_its_code_and_flags() {
    let (plain, asking) =
        (settings(|_| ()), settings(|config| config.recursors = vec!["10.0.0.1:53".parse().unwrap()]));
    let of = |outcome, settings: &Settings| {
        let header = message(&udp(RecordType::A), &Reply::new(outcome), settings).0.metadata;
        assert!(header.recursion_desired && !header.truncation && header.id == 7);
        (header.response_code, header.authoritative, header.recursion_available)
    };
    assert_eq!(of(Outcome::Answered, &plain), (ResponseCode::NoError, true, false));
    assert_eq!(of(Outcome::Answered, &asking), (ResponseCode::NoError, true, true));
    assert_eq!(of(Outcome::Empty, &plain), (ResponseCode::NoError, true, false));
    assert_eq!(of(Outcome::NoSuchName, &plain), (ResponseCode::NXDomain, true, false));
    assert_eq!(of(Outcome::NoSuchDatacenter, &plain), (ResponseCode::ServFail, true, false));
    assert_eq!(of(Outcome::QueryFailed, &plain), (ResponseCode::ServFail, true, false));
    assert_eq!(of(Outcome::Transfer, &plain), (ResponseCode::NotImp, true, false));
    assert_eq!(of(Outcome::NobodyToAsk, &plain), (ResponseCode::ServFail, false, false));
    assert_eq!(of(Outcome::NobodyAnswered, &plain), (ResponseCode::ServFail, false, true));
}

#[test]
fn an_answer_echoes_the_question_as_it_was_spelled() {
    let (answer, _) = message(&udp(RecordType::A), &addresses(1), &settings(|_| ()));
    assert_eq!(answer.queries[0].name.to_ascii(), "DB.service.consul.");
    assert_eq!(answer.answers[0].name.to_ascii(), "DB.service.consul.");
    assert!(answer.edns.is_none());
}

#[test]
fn plain_udp_gets_three_answers_without_a_mark() {
    let (answer, _) = message(&udp(RecordType::A), &addresses(12), &settings(|_| ()));
    assert_eq!((answer.answers.len(), answer.metadata.truncation), (3, false));
    let (answer, _) = message(&request(RecordType::A, Transport::Udp, Some(512)), &addresses(12), &settings(|_| ()));
    assert_eq!(answer.answers.len(), 3);
}

#[test]
fn shortened_answers_are_marked_when_configured() {
    let marked = settings(|config| config.enable_truncate = true);
    assert!(message(&udp(RecordType::A), &addresses(12), &marked).0.metadata.truncation);
    assert!(!message(&udp(RecordType::A), &addresses(3), &marked).0.metadata.truncation);
    let large = request(RecordType::A, Transport::Udp, Some(600));
    let (answer, _) = message(&large, &addresses(100), &marked);
    assert!(answer.metadata.truncation && answer.answers.len() > 30);
}

#[test]
fn eight_is_the_most_for_plain_udp_and_zero_means_what_fits() {
    let count = |limit, available| {
        let settings = settings(|config| config.udp_answer_limit = limit);
        message(&udp(RecordType::A), &addresses(available), &settings).0.answers.len()
    };
    assert_eq!(count(1, 12), 1);
    assert_eq!(count(20, 12), 8);
    assert_eq!(count(0, 12), 12);
    // 12 bytes of header, 23 of question, 16 for each answer.
    assert_eq!(count(0, 100), (512 - 12 - 23) / 16);
}

#[test]
fn edns_and_tcp_get_everything() {
    let settings = settings(|_| ());
    for request in [request(RecordType::A, Transport::Udp, Some(1232)), request(RecordType::A, Transport::Tcp, None)] {
        let (answer, _) = message(&request, &addresses(12), &settings);
        assert_eq!((answer.answers.len(), answer.edns.is_some()), (12, request.edns.is_some()));
    }
    let (answer, _) = message(&request(RecordType::SRV, Transport::Tcp, None), &locations(1200), &settings);
    assert_eq!(answer.answers.len(), 1024);
}

#[test]
fn of_shortened_locations_each_keeps_one_address() {
    let (answer, _) = message(&udp(RecordType::SRV), &locations(5), &settings(|_| ()));
    assert_eq!(answer.answers.len(), 3);
    let owners: Vec<String> = answer.additionals.iter().map(|record| record.name.to_ascii()).collect();
    assert_eq!(owners, ["n0.node.dc1.consul.", "n1.node.dc1.consul.", "n2.node.dc1.consul."]);
    assert!(answer.additionals.iter().all(|record| record.record_type() == RecordType::A));
    let (whole, _) = message(&udp(RecordType::SRV), &locations(3), &settings(|_| ()));
    assert_eq!(whole.additionals.len(), 6);
}

#[test]
fn aliases_of_targets_are_kept_with_what_they_lead_to() {
    let mut reply = locations(4);
    let (target, host) = (name("n1.node.dc1.consul."), name("h.example."));
    reply.additionals.retain(|record| record.owner != target);
    reply.additionals.push(record::alias(&target, 0, &host));
    reply.additionals.extend(record::address(&host, 0, [10, 9, 9, 9].into(), RecordType::A));
    // An alias that leads back must not be followed for ever.
    let circle = name("n2.node.dc1.consul.");
    reply.additionals.retain(|record| record.owner != circle);
    reply.additionals.push(record::alias(&circle, 0, &circle));
    let (answer, _) = message(&udp(RecordType::SRV), &reply, &settings(|_| ()));
    let owners: Vec<String> = answer.additionals.iter().map(|record| record.name.to_ascii()).collect();
    assert_eq!(owners, ["n0.node.dc1.consul.", "n1.node.dc1.consul.", "h.example.", "n2.node.dc1.consul."]);
}

#[test]
fn metadata_gives_way_before_answers_do() {
    let mut reply = addresses(2);
    let large = text(name("n.consul."), &["x".repeat(250).as_str()]);
    reply.additionals = vec![large.clone(), large];
    let (answer, _) = message(&udp(RecordType::A), &reply, &settings(|config| config.enable_truncate = true));
    assert_eq!((answer.answers.len(), answer.additionals.len(), answer.metadata.truncation), (2, 0, false));
}

#[test]
fn an_answer_that_does_not_fit_at_all_says_so() {
    let mut reply = Reply::new(Outcome::Answered);
    reply.answers = vec![text(name("n.node.consul."), &["x".repeat(255).as_str(); 3])];
    let (answer, _) = message(&udp(RecordType::TXT), &reply, &settings(|_| ()));
    assert!(answer.answers.is_empty() && answer.metadata.truncation);
    let (answer, _) = message(&request(RecordType::TXT, Transport::Tcp, None), &reply, &settings(|_| ()));
    assert_eq!((answer.answers.len(), answer.metadata.truncation), (1, false));
}

#[test]
fn edns_is_answered_with_the_same_size_and_the_subnet() {
    let subnet = |reply: &Reply| {
        let mut request = request(RecordType::A, Transport::Udp, Some(4096));
        let option = EdnsOption::Subnet(ClientSubnet::new([198, 51, 100, 0].into(), 24, 0));
        request.edns.as_mut().unwrap().options_mut().insert(option);
        let edns = message(&request, reply, &settings(|_| ())).0.edns.unwrap();
        assert_eq!(edns.max_payload(), 4096);
        let options = edns.options().options.clone();
        match &options[..] {
            [(_, EdnsOption::Subnet(subnet))] => (subnet.addr(), subnet.source_prefix(), subnet.scope_prefix()),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(subnet(&addresses(1)), ([198, 51, 100, 0].into(), 24, 0));
    let query = Reply { subnet: SubnetScope::Source, ..addresses(1) };
    assert_eq!(subnet(&query), ([198, 51, 100, 0].into(), 24, 24));
}

#[test]
fn an_unknown_version_of_edns_is_named_as_such() {
    let request = request(RecordType::A, Transport::Udp, Some(4096));
    let (answer, _) = message(&request, &Reply::new(Outcome::UnknownEdns), &settings(|_| ()));
    // The number 16 has two names.
    assert_eq!(u16::from(answer.metadata.response_code), u16::from(ResponseCode::BADVERS));
}

#[test]
fn compression_can_be_left_out() {
    let reply = locations(3);
    let short = message(&udp(RecordType::SRV), &reply, &settings(|_| ())).1;
    let long = message(&udp(RecordType::SRV), &reply, &settings(|config| config.disable_compression = true)).1;
    assert!(long > short + 60, "{long} {short}");
}

proptest! {
    #[test]
    fn no_answer_is_larger_than_allowed_and_none_is_lost_that_fits(
        count in 0_usize..1500,
        size in proptest::option::of(0_u16..u16::MAX),
        transport in prop_oneof![Just(Transport::Udp), Just(Transport::Tcp)],
        truncate in any::<bool>(),
        limit in 0_usize..20,
        srv in any::<bool>(),
    ) {
        let settings = settings(|config| {
            config.enable_truncate = truncate;
            config.udp_answer_limit = limit;
        });
        let kind = if srv { RecordType::SRV } else { RecordType::A };
        let request = request(kind, transport, size);
        let reply = if srv { locations(count) } else { addresses(count) };
        let (answer, _) = message(&request, &reply, &settings);
        let given = answer.answers.len();
        prop_assert!(given <= count && (given > 0 || count == 0));
        prop_assert_eq!(answer.metadata.truncation, truncate && given < count);
        prop_assert_eq!(answer.edns.is_some(), size.is_some());
        if given < count && given < enough(&request, &settings) {
            let one_more = given + 1;
            let beside = Beside::index(&reply.additionals).of_targets(&reply.answers[..one_more]);
            let draft = Draft::new(&request, &reply, &settings);
            prop_assert!(!draft.write(&reply.answers[..one_more], &[], &beside, &mut Vec::new()));
        }
    }
}
