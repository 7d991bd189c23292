//! Names that are not ours: recursors, their order and their failures.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::A as Address;
use hickory_proto::rr::{RData, Record, RecordType::A};
use lictor_model::health::Status;
use lictor_model::service::Service;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

use crate::world::{World, config, question, question_with_edns, service};

/// A recursor that answers everything in one way until its task is dropped with the test's runtime.
async fn recursor(answer: impl Fn(&mut Message) + Send + Sync + 'static) -> SocketAddr {
    let (udp, tcp) = loop {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
            break (udp, tcp);
        }
    };
    let address = udp.local_addr().unwrap();
    let reply = move |packet: &[u8]| {
        let mut message = Message::from_vec(packet).unwrap().into_response();
        message.metadata.recursion_available = true;
        answer(&mut message);
        message.to_vec().unwrap()
    };
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            tokio::select! {
                received = udp.recv_from(&mut buffer) => {
                    let (length, from) = received.unwrap();
                    udp.send_to(&reply(&buffer[..length]), from).await.unwrap();
                }
                accepted = tcp.accept() => {
                    let mut stream = accepted.unwrap().0;
                    let mut packet = vec![0; stream.read_u16().await.unwrap().into()];
                    stream.read_exact(&mut packet).await.unwrap();
                    let answer = reply(&packet);
                    stream.write_u16(answer.len().try_into().unwrap()).await.unwrap();
                    stream.write_all(&answer).await.unwrap();
                }
            }
        }
    });
    address
}

fn give(last: u8) -> impl Fn(&mut Message) {
    move |message| {
        let owner = message.queries[0].name.clone();
        message.add_answer(Record::from_rdata(owner, 77, RData::A(Address::new(192, 0, 2, last))));
    }
}

async fn world(recursors: Vec<SocketAddr>) -> World {
    World::with(config(|config| {
        config.recursors = recursors;
        config.recursor_timeout = Duration::from_millis(300);
    }))
    .await
}

#[tokio::test]
async fn without_recursors_foreign_names_fail() {
    let world = World::new().await;
    let metadata = world.ask("example.com.", A).await.0.metadata;
    assert_eq!(metadata.response_code, ResponseCode::ServFail);
    assert!(!metadata.authoritative && !metadata.recursion_available);
    world.stop().await;
}

#[tokio::test]
async fn answers_of_recursors_are_passed_on_as_they_are() {
    let world = world(vec![recursor(give(1)).await]).await;
    for question in [question("www.Example.com.", A), question_with_edns("www.Example.com.", A, 4096)] {
        let answer = world.ask_message(&question).await;
        assert_eq!(answer.0.metadata.id, question.metadata.id);
        assert_eq!(answer.answers(), ["www.Example.com. 77 A 192.0.2.1"]);
        assert!(answer.0.metadata.recursion_available && !answer.0.metadata.authoritative);
    }
    assert_eq!(world.ask_tcp("example.com.", A).await.answers(), ["example.com. 77 A 192.0.2.1"]);
    // In the zone it says that it would recurse, too.
    assert!(world.ask("none.service.consul.", A).await.0.metadata.recursion_available);
    assert_eq!(world.ask("4.3.2.1.in-addr.arpa.", A).await.answers(), ["4.3.2.1.in-addr.arpa. 77 A 192.0.2.1"]);
    world.stop().await;
}

#[tokio::test]
async fn the_next_recursor_is_asked_when_one_fails_or_is_silent() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let refusing = recursor(|message| message.metadata.response_code = ResponseCode::Refused).await;
    let gone = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let others = vec![gone, silent.local_addr().unwrap(), refusing, recursor(give(2)).await];
    let world = world(others).await;
    assert_eq!(world.ask("example.com.", A).await.answers(), ["example.com. 77 A 192.0.2.2"]);
    world.stop().await;
}

#[tokio::test]
async fn no_such_name_is_an_answer_too() {
    let nowhere = recursor(|message| message.metadata.response_code = ResponseCode::NXDomain).await;
    let world = world(vec![nowhere, recursor(give(3)).await]).await;
    assert_eq!(world.ask("example.com.", A).await.code(), ResponseCode::NXDomain);
    world.stop().await;
}

#[tokio::test]
async fn when_nobody_answers_the_failure_says_so_in_time() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let world = world(vec![silent.local_addr().unwrap()]).await;
    let begun = Instant::now();
    let metadata = world.ask("example.com.", A).await.0.metadata;
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert_eq!(metadata.response_code, ResponseCode::ServFail);
    assert!(metadata.recursion_available && !metadata.authoritative);
    world.stop().await;
}

#[tokio::test]
async fn waiting_for_a_recursor_holds_nobody_up() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let world = World::with(config(|config| {
        config.recursors = vec![silent.local_addr().unwrap()];
        config.recursor_timeout = Duration::from_secs(60);
    }))
    .await;
    world.databases(1).await;
    let stuck = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for _ in 0..50 {
        stuck.send_to(&question("example.com.", A).to_vec().unwrap(), world.address).await.unwrap();
    }
    assert_eq!(world.ask("db.service.consul.", A).await.answers().len(), 1);
}

#[tokio::test]
async fn an_answer_too_large_for_the_client_is_cut_and_marked() {
    let large = recursor(|message| (0..60).for_each(|last| give(last)(message))).await;
    let world = world(vec![large]).await;
    let answer = world.ask("example.com.", A).await;
    assert!(answer.0.metadata.truncation && answer.answers().is_empty());
    assert_eq!(world.ask_tcp("example.com.", A).await.answers().len(), 60);
    world.stop().await;
}

#[tokio::test]
async fn aliases_out_of_the_zone_are_followed() {
    let world = world(vec![recursor(give(9)).await]).await;
    let web = Service { address: "www.example.com".into(), ..service("web", 80) };
    world.instance("n1", "10.0.0.1", web, Status::Passing).await;
    let answer = world.ask("web.service.consul.", A).await;
    assert_eq!(answer.answers(), ["web.service.consul. 0 CNAME www.example.com.", "www.example.com. 77 A 192.0.2.9",]);
    let answer = world.ask("web.service.consul.", hickory_proto::rr::RecordType::SRV).await;
    assert_eq!(
        answer.additionals(),
        ["n1.node.dc1.consul. 0 CNAME www.example.com.", "www.example.com. 77 A 192.0.2.9",]
    );
    world.stop().await;
}

#[tokio::test]
async fn an_alias_is_not_asked_for_twice_when_refused() {
    let refusing = recursor(|message| message.metadata.response_code = ResponseCode::Refused).await;
    let world = world(vec![refusing, recursor(give(9)).await]).await;
    let web = Service { address: "www.example.com".into(), ..service("web", 80) };
    world.instance("n1", "10.0.0.1", web, Status::Passing).await;
    assert_eq!(world.ask("web.service.consul.", A).await.answers(), ["web.service.consul. 0 CNAME www.example.com."]);
    world.stop().await;
}
