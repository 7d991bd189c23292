//! UDP, TCP and EDNS: how much of an answer goes where.

use std::time::Duration;

use hickory_proto::rr::RecordType::{A, SRV};
use lictor_dns::Settings;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use crate::world::{PATIENCE, World, config, over_tcp, question, question_with_edns};

#[tokio::test]
async fn plain_udp_gets_three_edns_and_tcp_get_all() {
    let world = World::new().await;
    world.databases(12).await;
    let plain = world.ask("db.service.consul.", A).await;
    assert_eq!((plain.answers().len(), plain.0.metadata.truncation), (3, false));
    let large = world.ask_message(&question_with_edns("db.service.consul.", SRV, 1232)).await;
    assert_eq!((large.answers().len(), large.additionals().len()), (12, 12));
    assert_eq!(large.0.edns.as_ref().map(|edns| edns.max_payload()), Some(1232));
    let tcp = world.ask_tcp("db.service.consul.", SRV).await;
    assert_eq!((tcp.answers().len(), tcp.additionals().len(), tcp.0.edns.is_some()), (12, 12, false));
    world.stop().await;
}

#[tokio::test]
async fn limits_change_with_the_settings() {
    let world = World::new().await;
    world.databases(12).await;
    let replace = |change: fn(&mut lictor_dns::Config)| world.reload.replace(Settings::new(config(change)).unwrap());
    replace(|config| config.enable_truncate = true);
    assert!(world.ask("db.service.consul.", A).await.0.metadata.truncation);
    replace(|config| config.udp_answer_limit = 0);
    assert_eq!(world.ask("db.service.consul.", A).await.answers().len(), 12);
    replace(|config| config.a_record_limit = 2);
    assert_eq!(world.ask("db.service.consul.", A).await.answers().len(), 2);
    assert_eq!(world.ask_tcp("db.service.consul.", A).await.answers().len(), 2);
    assert_eq!(world.ask_tcp("db.service.consul.", SRV).await.answers().len(), 12);
    world.stop().await;
}

#[tokio::test]
async fn a_connection_takes_several_questions_in_pieces() {
    let world = World::new().await;
    world.databases(1).await;
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    for _ in 0..3 {
        let answer = over_tcp(&mut stream, &question("db.service.consul.", A)).await;
        assert_eq!(answer.answers.len(), 1);
    }
    let packet = question("db.service.consul.", A).to_vec().unwrap();
    let framed = [&u16::try_from(packet.len()).unwrap().to_be_bytes(), &packet[..]].concat();
    stream.set_nodelay(true).unwrap();
    for piece in framed.chunks(5) {
        stream.write_all(piece).await.unwrap();
    }
    let length = tokio::time::timeout(PATIENCE, stream.read_u16()).await.unwrap().unwrap();
    assert!(length > 40);
    world.stop().await;
}

#[tokio::test]
async fn a_client_that_stops_in_a_message_is_cut_off() {
    let world = World::new().await;
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    stream.write_all(&[0, 40, 1]).await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, stream.read_u8()).await.expect("the connection was kept");
    assert!(ended.is_err());
    world.stop().await;
}

#[tokio::test]
async fn stopping_does_not_wait_for_idle_connections() {
    let world = World::new().await;
    let _idle = TcpStream::connect(world.address).await.unwrap();
    world.databases(1).await;
    assert_eq!(world.ask_tcp("db.service.consul.", A).await.answers().len(), 1);
    let begun = std::time::Instant::now();
    world.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn ipv6_is_served_like_ipv4() {
    if std::net::UdpSocket::bind("[::1]:0").is_err() {
        eprintln!("SKIPPED: this machine has no IPv6 loopback address");
        return;
    }
    let world = World::at("[::1]:0", config(|_| ())).await;
    world.databases(2).await;
    assert_eq!(world.ask("db.service.consul.", A).await.answers().len(), 2);
    assert_eq!(world.ask_tcp("db.service.consul.", A).await.answers().len(), 2);
    world.stop().await;
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let world = World::new().await;
    let backend = lictor_dns::Backend {
        reader: std::sync::Arc::new(|| unreachable!("nothing is answered")),
        queries: std::sync::Arc::new(lictor_dns::NoQueries),
    };
    let taken = lictor_dns::bind(&[world.address], Settings::new(config(|_| ())).unwrap(), backend).err().unwrap();
    assert_eq!(taken.to_string(), format!("cannot listen for DNS over UDP on {}", world.address));
    world.stop().await;
}

#[tokio::test]
async fn an_answer_comes_from_the_address_that_was_asked() {
    let world = World::at("0.0.0.0:0", config(|_| ())).await;
    world.databases(1).await;
    let packet = question("db.service.consul.", A).to_vec().unwrap();
    for asked in ["127.0.0.1", "127.0.0.2", "127.3.2.1"] {
        // A connected socket takes datagrams of its peer alone.
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect((asked, world.address.port())).await.unwrap();
        socket.send(&packet).await.unwrap();
        let mut answer = [0; 512];
        let received = tokio::time::timeout(PATIENCE, socket.recv(&mut answer)).await;
        assert!(received.unwrap_or_else(|_| panic!("no answer from {asked}")).is_ok());
    }
    world.stop().await;
}

#[tokio::test]
async fn many_that_ask_at_once_are_each_answered_from_where_they_asked() {
    let world = World::at("0.0.0.0:0", config(|_| ())).await;
    world.databases(3).await;
    let mut clients = Vec::new();
    for number in 1..=20 {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect((std::net::Ipv4Addr::new(127, 0, 0, number), world.address.port())).unwrap();
        socket.set_nonblocking(true).unwrap();
        clients.push(socket);
    }
    // More than are received with one call. The server has this thread no earlier than all are sent.
    for id in 0..10 {
        for socket in &clients {
            let mut asked = question("db.service.consul.", A);
            asked.metadata.id = id;
            socket.send(&asked.to_vec().unwrap()).unwrap();
        }
    }
    for socket in clients {
        let asked = socket.peer_addr().unwrap();
        let socket = UdpSocket::from_std(socket).unwrap();
        let mut answered = Vec::new();
        while answered.len() < 10 {
            let mut buffer = [0; 512];
            let received = tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await;
            let length = received.unwrap_or_else(|_| panic!("{asked} answered only {answered:?}")).unwrap();
            let answer = hickory_proto::op::Message::from_vec(&buffer[..length]).unwrap();
            assert_eq!(answer.answers.len(), 3);
            answered.push(answer.metadata.id);
        }
        // Several workers may have been at it.
        answered.sort_unstable();
        assert_eq!(answered, (0..10).collect::<Vec<u16>>());
    }
    world.stop().await;
}

#[tokio::test]
async fn every_address_of_both_families_is_served_by_one_socket() {
    if std::net::UdpSocket::bind("[::1]:0").is_err() {
        eprintln!("SKIPPED: this machine has no IPv6 loopback address");
        return;
    }
    let world = World::at("[::]:0", config(|_| ())).await;
    world.databases(1).await;
    let packet = question("db.service.consul.", A).to_vec().unwrap();
    for (local, asked) in [("[::1]:0", "::1"), ("127.0.0.1:0", "127.0.0.2")] {
        let socket = UdpSocket::bind(local).await.unwrap();
        socket.connect((asked, world.address.port())).await.unwrap();
        socket.send(&packet).await.unwrap();
        let mut answer = [0; 512];
        let received = tokio::time::timeout(PATIENCE, socket.recv(&mut answer)).await;
        assert!(received.unwrap_or_else(|_| panic!("no answer from {asked}")).is_ok());
    }
    world.stop().await;
}
