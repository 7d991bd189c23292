//! Packets that nobody should send.

use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::RecordType::A;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use tokio::net::UdpSocket;

use crate::world::{PATIENCE, World, question, question_with_edns};

#[tokio::test]
async fn what_cannot_be_read_is_a_format_error_with_its_id() {
    let world = World::new().await;
    let mut packet = question("db.service.consul.", A).to_vec().unwrap();
    packet.truncate(packet.len() - 3);
    let answer = Message::from_vec(&world.exchange(&packet).await).unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::FormErr);
    assert_eq!(answer.metadata.id.to_be_bytes(), packet[..2]);
    world.stop().await;
}

#[tokio::test]
async fn other_operations_are_not_implemented() {
    let world = World::new().await;
    for operation in [OpCode::Status, OpCode::Notify, OpCode::Update] {
        let mut question = question("db.service.consul.", A);
        question.metadata.op_code = operation;
        let metadata = world.ask_message(&question).await.0.metadata;
        assert_eq!((metadata.response_code, metadata.op_code), (ResponseCode::NotImp, operation));
    }
    world.stop().await;
}

#[tokio::test]
async fn a_future_version_of_edns_is_refused_as_such() {
    let world = World::new().await;
    let mut question = question_with_edns("db.service.consul.", A, 4096);
    question.edns.as_mut().unwrap().set_version(1);
    let answer = world.ask_message(&question).await;
    assert_eq!(u16::from(answer.code()), u16::from(ResponseCode::BADVERS));
    assert!(answer.0.edns.is_some());
    world.stop().await;
}

#[tokio::test]
async fn who_makes_a_worker_panic_takes_no_question_with_it_that_came_at_the_same_time() {
    let world = World::new().await;
    world.databases(1).await;
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(world.address).unwrap();
    socket.set_nonblocking(true).unwrap();
    world.trip();
    // The server has this thread no earlier than all are sent, so they are received together.
    for id in 0..9 {
        let mut asked = question("db.service.consul.", A);
        asked.metadata.id = id;
        socket.send(&asked.to_vec().unwrap()).unwrap();
    }
    let socket = UdpSocket::from_std(socket).unwrap();
    let mut answered = Vec::new();
    while answered.len() < 8 {
        let mut buffer = [0; 512];
        let received = tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await;
        let length = received.unwrap_or_else(|_| panic!("only {answered:?} were answered")).unwrap();
        answered.push(Message::from_vec(&buffer[..length]).unwrap().metadata.id);
    }
    answered.sort_unstable();
    assert_eq!(answered, (1..9).collect::<Vec<u16>>());
    world.stop().await;
}

#[tokio::test]
async fn answers_are_never_answered() {
    let world = World::new().await;
    world.databases(1).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(world.address).await.unwrap();
    let mut answer = question("db.service.consul.", A).to_vec().unwrap();
    answer[2] |= 0x80;
    for noise in [&answer[..], &answer[..11], b""] {
        socket.send(noise).await.unwrap();
    }
    // The server takes datagrams of one sender in order on one worker or another, so a real question is asked after
    // them, and its answer must be the only thing that comes.
    let mut buffer = [0; 512];
    let asked = question("db.service.consul.", A);
    socket.send(&asked.to_vec().unwrap()).await.unwrap();
    let length = socket.recv(&mut buffer).await.unwrap();
    assert_eq!(Message::from_vec(&buffer[..length]).unwrap().metadata.id, asked.metadata.id);
    assert!(socket.try_recv(&mut buffer).is_err());
    world.stop().await;
}

/// Bytes that look more or less like a question.
fn packets() -> impl Strategy<Value = Vec<u8>> {
    let label = prop_oneof![
        Just(b"db".to_vec()),
        Just(b"n1".to_vec()),
        Just(b"service".to_vec()),
        Just(b"node".to_vec()),
        Just(b"addr".to_vec()),
        Just(b"connect".to_vec()),
        Just(b"query".to_vec()),
        Just(b"consul".to_vec()),
        Just(b"dc1".to_vec()),
        Just(b"_tcp".to_vec()),
        Just(b"in-addr".to_vec()),
        Just(b"arpa".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..70),
    ];
    let name = proptest::collection::vec(label, 0..8);
    let kind = prop_oneof![any::<u16>(), prop::sample::select(vec![1_u16, 2, 5, 6, 12, 16, 28, 33, 252, 255])];
    let question = (any::<u16>(), name, kind, any::<u16>(), proptest::option::of(any::<u16>()), 0_usize..20).prop_map(
        |(id, name, kind, class, edns, tail)| {
            let mut packet = id.to_be_bytes().to_vec();
            packet.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns.is_some())]);
            for label in name {
                packet.push(u8::try_from(label.len()).unwrap());
                packet.extend(label);
            }
            packet.push(0);
            packet.extend(kind.to_be_bytes());
            packet.extend(class.to_be_bytes());
            if let Some(size) = edns {
                packet.extend([0, 0, 41]);
                packet.extend(size.to_be_bytes());
                packet.extend([0; 6]);
            }
            packet.truncate(packet.len().saturating_sub(tail.saturating_sub(15)));
            packet
        },
    );
    let broken = (question.clone(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(mut packet, at, byte)| {
        let at = at.index(packet.len());
        packet[at] = byte;
        packet
    });
    prop_oneof![4 => question, 4 => broken, 2 => proptest::collection::vec(any::<u8>(), 0..600)]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_packet_stops_the_server_or_gets_more_than_it_may() {
    let world = World::new().await;
    world.databases(20).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(world.address).await.unwrap();
    let mut buffer = vec![0; 65_535];
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    for _ in 0..3000 {
        let packet = packets().new_tree(&mut runner).unwrap().current();
        let limit = match Message::from_vec(&packet) {
            Ok(message) => message.edns.map_or(512, |edns| edns.max_payload().max(512)),
            Err(_) => 512,
        };
        socket.send(&packet).await.unwrap();
        // A question after each packet shows that the server is still there; what came before belongs to the packet.
        let mut check = question("n1.node.consul.", A);
        let packet_id = packet.first_chunk().map(|id| u16::from_be_bytes(*id));
        check.metadata.id = packet_id.map_or(0, |id| id.wrapping_add(1));
        socket.send(&check.to_vec().unwrap()).await.unwrap();
        loop {
            let received = tokio::time::timeout(crate::world::PATIENCE, socket.recv(&mut buffer)).await;
            let length = received.unwrap_or_else(|_| panic!("silent after {packet:?}")).unwrap();
            let answer = &buffer[..length];
            if answer[..2] == check.metadata.id.to_be_bytes() {
                assert!(length <= 512);
                break;
            }
            assert!(length <= usize::from(limit), "{length} bytes for {packet:?}");
            assert!(answer[2] & 0x80 != 0);
        }
    }
    world.stop().await;
}
