//! The mesh over real sockets: who gets in, who does not, and what the other side sees.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod forge;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use forge::{Authority, Issued};
use lictor_tls::pump::Broken;
use lictor_tls::{
    Bundle, Error, Gate, KeyExchange, Leaf, Mesh, Meter, Next, Peer, Pump, Refusal, Reuse, Session, Target,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Handle};
use tokio::task::JoinHandle;

fn mesh_with(authority: &Authority, issued: &Issued, gate: Arc<dyn Gate>) -> Mesh {
    let mesh = Mesh::new(KeyExchange::Classical, gate);
    install(&mesh, authority, issued);
    mesh
}

fn mesh(authority: &Authority, service: &str) -> Mesh {
    mesh_with(authority, &authority.leaf(service), Arc::new(|_: &Peer| Ok(())))
}

fn install(mesh: &Mesh, authority: &Authority, issued: &Issued) {
    let leaf = Leaf::from_pem(&issued.certificates, &issued.key).unwrap();
    mesh.install(leaf, Bundle::from_pem([authority.pem.as_str()]).unwrap()).unwrap();
}

/// Both ends of a handshake, run at the same time.
async fn meet(client: &Mesh, server: &Mesh, want: &str) -> (Result<Session, Error>, Result<Session, Error>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    meet_at(client, server, &listener, &Target::new(address, "dc1", want)).await
}

async fn meet_at(
    client: &Mesh,
    server: &Mesh,
    listener: &TcpListener,
    target: &Target,
) -> (Result<Session, Error>, Result<Session, Error>) {
    meet_with(client, server, listener, target, Reuse::Sessions).await
}

async fn meet_with(
    client: &Mesh,
    server: &Mesh,
    listener: &TcpListener,
    target: &Target,
    reuse: Reuse,
) -> (Result<Session, Error>, Result<Session, Error>) {
    let address = listener.local_addr().unwrap();
    let dial = async {
        let mut session = client.connect(TcpStream::connect(address).await.unwrap(), target, reuse).await?;
        session.flush().await.map_err(Error::Io)?;
        Ok(session)
    };
    let accept = async { server.accept(listener.accept().await.unwrap().0, reuse).await };
    tokio::time::timeout(Duration::from_secs(20), async { tokio::join!(dial, accept) }).await.unwrap()
}

/// A connected pair of sockets.
async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (dialled, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (dialled.unwrap(), accepted.unwrap().0)
}

/// Joins both sessions with sockets; returns the ends that applications would hold.
async fn carry(client: Session, server: Session) -> (TcpStream, TcpStream) {
    let (near_app, near) = sockets().await;
    let (far_app, far) = sockets().await;
    let (mut out, mut back) = (client.join(near, Arc::new(Meter::default())), server.join(far, Arc::default()));
    tokio::spawn(async move { out.run().await });
    tokio::spawn(async move { back.run().await });
    (near_app, far_app)
}

#[tokio::test]
async fn two_services_know_each_other_and_exchange_bytes() {
    let authority = Authority::new("root");
    let (web, db) = (mesh(&authority, "web"), mesh(&authority, "db"));
    let (client, server) = meet(&web, &db, "db").await;
    let (client, server) = (client.unwrap(), server.unwrap());
    assert_eq!(client.peer().identity.service.as_str(), "db");
    assert_eq!(server.peer().identity.service.as_str(), "web");
    assert_eq!(server.peer().serial, web.credentials().unwrap().leaf().who().serial);
    let (mut near, mut far) = carry(client, server).await;
    near.write_all(b"question").await.unwrap();
    near.shutdown().await.unwrap();
    let mut question = Vec::new();
    far.read_to_end(&mut question).await.unwrap();
    assert_eq!(question, b"question");
    let answer = vec![7; 1_000_000];
    let (sent, received) = tokio::join!(
        async {
            far.write_all(&answer).await.unwrap();
            far.shutdown().await
        },
        async {
            let mut received = Vec::new();
            near.read_to_end(&mut received).await.map(|_| received)
        }
    );
    sent.unwrap();
    assert!(received.unwrap() == answer);
}

#[tokio::test]
async fn sessions_are_resumed_and_still_pass_the_gate() {
    let authority = Authority::new("root");
    let closed = Arc::new(AtomicBool::new(false));
    let gate = {
        let closed = Arc::clone(&closed);
        Arc::new(move |_: &Peer| match closed.load(Ordering::Relaxed) {
            true => Err(Refusal::Denied("closed".into())),
            false => Ok(()),
        })
    };
    let (web, db) = (mesh(&authority, "web"), mesh_with(&authority, &authority.leaf("db"), gate));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = Target::new(listener.local_addr().unwrap(), "dc1", "db");
    for round in 0..4 {
        let (client, server) = meet_at(&web, &db, &listener, &target).await;
        let (client, server) = (client.unwrap(), server.unwrap());
        assert_eq!((client.is_resumed(), server.is_resumed()), (round > 0, round > 0));
        assert_eq!(server.peer().identity.service.as_str(), "web");
        // The ticket travels with the first data of the server.
        let (mut near, mut far) = carry(client, server).await;
        far.write_all(b"x").await.unwrap();
        assert_eq!(near.read_u8().await.unwrap(), b'x');
    }
    closed.store(true, Ordering::Relaxed);
    let (client, server) = meet_at(&web, &db, &listener, &target).await;
    assert!(client.is_ok_and(|client| client.is_resumed()));
    assert!(matches!(server, Err(Error::Refused(Refusal::Denied(_)))));
}

#[tokio::test]
async fn one_ticket_serves_all_dials_until_the_next() {
    let authority = Authority::new("root");
    let (web, db) = (mesh(&authority, "web"), mesh(&authority, "db"));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = Target::new(listener.local_addr().unwrap(), "dc1", "db");
    let (client, server) = meet_at(&web, &db, &listener, &target).await;
    let (mut near, mut far) = carry(client.unwrap(), server.unwrap()).await;
    far.write_all(b"x").await.unwrap();
    near.read_u8().await.unwrap();
    // Nothing is sent behind these handshakes, so no other ticket arrives.
    let mut held = Vec::new();
    for _ in 0..6 {
        let (client, server) = meet_at(&web, &db, &listener, &target).await;
        let (client, server) = (client.unwrap(), server.unwrap());
        assert!(client.is_resumed() && server.is_resumed());
        held.push((client, server));
    }
    // With the leaf they came with they are forgotten.
    install(&web, &authority, &authority.leaf("web"));
    let (client, _) = meet_at(&web, &db, &listener, &target).await;
    assert!(!client.unwrap().is_resumed());
}

#[tokio::test]
async fn no_session_is_resumed_for_another_identity_or_after_a_rotation() {
    let authority = Authority::new("root");
    let (web, db) = (mesh(&authority, "web"), mesh(&authority, "db"));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let target = Target::new(address, "dc1", "db");
    for _ in 0..2 {
        let (client, server) = meet_at(&web, &db, &listener, &target).await;
        let (mut near, mut far) = carry(client.unwrap(), server.unwrap()).await;
        far.write_all(b"x").await.unwrap();
        near.read_u8().await.unwrap();
    }
    // The same address, but somebody else is expected there.
    let (client, _) = meet_at(&web, &db, &listener, &Target::new(address, "dc1", "cache")).await;
    assert!(matches!(client, Err(Error::Refused(Refusal::Mismatch { .. }))), "{:?}", client.err());
    // The server's leaf was renewed: its old tickets mean nothing.
    install(&db, &authority, &authority.leaf("db"));
    let (client, server) = meet_at(&web, &db, &listener, &target).await;
    assert!(!client.unwrap().is_resumed() && !server.unwrap().is_resumed());
}

#[tokio::test]
async fn the_server_must_be_the_service_that_was_dialled() {
    let authority = Authority::new("root");
    let (web, thief) = (mesh(&authority, "web"), mesh(&authority, "cache"));
    let (client, _) = meet(&web, &thief, "db").await;
    let Err(Error::Refused(refusal)) = client else { panic!("accepted") };
    let text = refusal.to_string();
    assert!(text.contains("got spiffe://") && text.ends_with("/ns/default/dc/dc1/svc/db"), "{text}");
    // Names have no case.
    assert!(meet(&web, &mesh(&authority, "DB"), "db").await.0.is_ok());
}

#[tokio::test]
async fn strangers_are_refused_on_either_side() {
    let (ours, theirs) = (Authority::new("root"), Authority::new("root"));
    let (client, server) = meet(&mesh(&theirs, "web"), &mesh(&ours, "db"), "db").await;
    assert!(matches!(client, Err(Error::Refused(Refusal::Chain(_)))));
    assert!(matches!(server, Err(Error::Handshake(_))), "{:?}", server.err());
    // The client trusts the server's root, but not the other way round.
    let web = Mesh::new(KeyExchange::Classical, Arc::new(|_: &Peer| Ok(())));
    let issued = theirs.leaf("web");
    web.install(
        Leaf::from_pem(&issued.certificates, &issued.key).unwrap(),
        Bundle::from_pem([ours.pem.as_str()]).unwrap(),
    )
    .unwrap();
    let (_, server) = meet(&web, &mesh(&ours, "db"), "db").await;
    assert!(matches!(server, Err(Error::Refused(Refusal::Chain(_)))));
}

#[tokio::test]
async fn certificates_of_unusual_shape_are_judged_as_peers_expect() {
    use rcgen::{DistinguishedName, ExtendedKeyUsagePurpose, date_time_ymd};
    let authority = Authority::new("root");
    let db = mesh(&authority, "db");
    let name = "spiffe://11111111-2222-3333-4444-555555555555.consul/ns/default/dc/dc1/svc/web";
    let foreign = "spiffe://other.consul/ns/default/dc/dc2/svc/web";
    type Change = Box<dyn FnOnce(&mut rcgen::CertificateParams)>;
    let variants: Vec<(&str, bool, Change)> = vec![
        ("no subject", true, Box::new(|p| p.distinguished_name = DistinguishedName::new())),
        (
            "no usages",
            true,
            Box::new(|p| {
                p.key_usages.clear();
                p.extended_key_usages.clear();
            }),
        ),
        ("client use only", true, Box::new(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth])),
        ("server use only", false, Box::new(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth])),
        (
            "a DNS name first",
            true,
            Box::new(|p| {
                p.subject_alt_names.insert(0, rcgen::SanType::DnsName("web.example".try_into().unwrap()));
            }),
        ),
        (
            "another trust domain and datacenter",
            true,
            Box::new(move |p| p.subject_alt_names = vec![forge::uri(foreign)]),
        ),
        ("no name", false, Box::new(|p| p.subject_alt_names.clear())),
        (
            "the first of two URIs counts",
            false,
            Box::new(move |p| {
                p.subject_alt_names = vec![forge::uri("https://example.com"), forge::uri(name)];
            }),
        ),
        ("a CA's identity", false, Box::new(|p| p.subject_alt_names = vec![forge::uri("spiffe://x.consul")])),
        (
            "a trailing slash",
            false,
            Box::new(move |p| {
                p.subject_alt_names = vec![forge::uri(&format!("{name}/"))];
            }),
        ),
        (
            "expired",
            false,
            Box::new(|p| {
                p.not_before = date_time_ymd(2000, 1, 1);
                p.not_after = date_time_ymd(2001, 1, 1);
            }),
        ),
        ("not valid yet", false, Box::new(|p| p.not_before = date_time_ymd(4000, 1, 1))),
    ];
    for (what, accepted, change) in variants {
        let issued = authority.leaf_with("web", change);
        let web = Mesh::new(KeyExchange::Classical, Arc::new(|_: &Peer| Ok(())));
        let bundle = Bundle::from_pem([authority.pem.as_str()]).unwrap();
        let installed = Leaf::from_pem(&issued.certificates, &issued.key).and_then(|leaf| web.install(leaf, bundle));
        let Ok(()) = installed else {
            assert!(!accepted, "{what}: cannot even be ours");
            continue;
        };
        let (_, server) = meet(&web, &db, "db").await;
        assert_eq!(server.is_ok(), accepted, "{what}: {:?}", server.err());
    }
}

#[tokio::test]
async fn a_peer_that_never_speaks_is_told_apart_from_one_that_stops() {
    let authority = Authority::new("root");
    let db = mesh(&authority, "db");
    let (dialled, accepted) = sockets().await;
    drop(dialled);
    assert!(matches!(db.accept(accepted, Reuse::Sessions).await, Err(Error::Silent)));
    let (mut dialled, accepted) = sockets().await;
    dialled.write_all(&[22, 3, 1]).await.unwrap();
    drop(dialled);
    assert!(matches!(db.accept(accepted, Reuse::Sessions).await, Err(Error::Closed)));
    let (mut dialled, accepted) = sockets().await;
    dialled.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    dialled.shutdown().await.unwrap();
    assert!(matches!(
        db.accept(accepted, Reuse::Sessions).await,
        Err(Error::TooLarge | Error::Handshake(_) | Error::Closed)
    ));
}

#[tokio::test]
async fn without_credentials_nothing_is_secured() {
    let authority = Authority::new("root");
    let bare = Mesh::new(KeyExchange::Classical, Arc::new(|_: &Peer| Ok(())));
    let (client, _) = meet(&bare, &mesh(&authority, "db"), "db").await;
    assert!(matches!(client, Err(Error::NoCredentials)));
}

#[tokio::test]
async fn the_hybrid_key_exchange_is_used_when_both_sides_have_it() {
    let authority = Authority::new("root");
    let hybrid = |service| {
        let mesh = Mesh::new(KeyExchange::Hybrid, Arc::new(|_: &Peer| Ok(())));
        install(&mesh, &authority, &authority.leaf(service));
        mesh
    };
    for (client, server) in [(hybrid("web"), hybrid("db")), (hybrid("web"), mesh(&authority, "db"))] {
        let (client, server) = meet(&client, &server, "db").await;
        assert!(client.is_ok() && server.is_ok());
    }
}

/// A session that can carry one connection after another.
async fn meet_to_stay(client: &Mesh, server: &Mesh) -> (Session, Session) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = Target::new(listener.local_addr().unwrap(), "dc1", "db");
    let (client, server) = meet_with(client, server, &listener, &target, Reuse::Connections).await;
    (client.unwrap(), server.unwrap())
}

/// One connection over a session, from its opening to its end.
async fn exchange(client: Session, mut server: Session, salt: u8) -> (Option<Session>, Option<Session>) {
    let (mut near_app, near) = sockets().await;
    let (mut far_app, far) = sockets().await;
    let mut out = client.join(near, Arc::default());
    let out = tokio::spawn(async move { out.run().await.map(|()| out.into_session()) });
    let opened = tokio::time::timeout(Duration::from_secs(20), server.next()).await.unwrap().unwrap();
    assert!(matches!(opened, Next::Opened));
    let mut back = server.join(far, Arc::default());
    let back = tokio::spawn(async move { back.run().await.map(|()| back.into_session()) });
    near_app.write_all(&[salt; 100_000]).await.unwrap();
    near_app.shutdown().await.unwrap();
    let mut question = Vec::new();
    far_app.read_to_end(&mut question).await.unwrap();
    assert!(question == [salt; 100_000]);
    far_app.write_all(&[!salt; 70_000]).await.unwrap();
    far_app.shutdown().await.unwrap();
    let mut answer = Vec::new();
    near_app.read_to_end(&mut answer).await.unwrap();
    assert!(answer == [!salt; 70_000]);
    let (mut near, far) = (out.await.unwrap().unwrap(), back.await.unwrap().unwrap());
    if let Some(near) = &mut near {
        assert!(is_done(near).await);
    }
    (near, far)
}

#[tokio::test]
async fn a_session_of_two_of_ours_carries_connections_one_after_another() {
    let authority = Authority::new("root");
    let (web, db) = (mesh(&authority, "web"), mesh(&authority, "db"));
    let (mut client, mut server) = meet_to_stay(&web, &db).await;
    assert!(client.carries_many() && server.carries_many() && !client.is_reused());
    for salt in 1..6 {
        let (near, far) = exchange(client, server, salt).await;
        (client, server) = (near.unwrap(), far.unwrap());
        assert!(client.is_reused() && server.is_reused());
        assert!(client.is_quiet() && client.is_of(&web.credentials().unwrap()));
        assert_eq!(server.peer().identity.service.as_str(), "web");
    }
    client.close_now();
    assert!(matches!(server.next().await, Ok(Next::Closed)));
}

#[tokio::test]
async fn a_peer_that_does_not_know_frames_gets_plain_sessions() {
    let authority = Authority::new("root");
    let (web, db) = (mesh(&authority, "web"), mesh(&authority, "db"));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    for (ours, theirs) in [(Reuse::Connections, Reuse::Sessions), (Reuse::Sessions, Reuse::Connections)] {
        let stream = TcpStream::connect(address).await.unwrap();
        let accepted = listener.accept().await.unwrap().0;
        let target = Target::new(address, "dc1", "db");
        let (client, server) = tokio::join!(
            async {
                let mut session = web.connect(stream, &target, ours).await.unwrap();
                session.flush().await.unwrap();
                session
            },
            db.accept(accepted, theirs)
        );
        let server = server.unwrap();
        assert!(!client.carries_many() && !server.carries_many());
        let (mut near, mut far) = carry(client, server).await;
        near.write_all(b"hello").await.unwrap();
        let mut heard = [0; 5];
        far.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"hello");
    }
}

#[tokio::test]
async fn an_idle_session_that_was_retired_is_not_quiet_any_more() {
    let authority = Authority::new("root");
    let (web, db) = (mesh(&authority, "web"), mesh(&authority, "db"));
    let (client, server) = meet_to_stay(&web, &db).await;
    let (client, server) = exchange(client, server, 1).await;
    let (mut client, mut server) = (client.unwrap(), server.unwrap());
    server.retire().await.unwrap();
    let waiting = async {
        while client.is_quiet() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap();
}

#[tokio::test]
async fn a_session_is_vouched_for_while_its_roots_are_trusted() {
    let authority = Authority::new("root");
    let (web, db) = (mesh(&authority, "web"), mesh(&authority, "db"));
    let (_client, server) = meet_to_stay(&web, &db).await;
    let old = db.credentials().unwrap();
    assert!(server.is_of(&old) && server.is_vouched_for(&old));
    install(&db, &authority, &authority.leaf("db"));
    let renewed = db.credentials().unwrap();
    assert!(!server.is_of(&renewed) && server.is_vouched_for(&renewed));
    let other = Authority::new("other root");
    install(&db, &other, &other.leaf("db"));
    assert!(!server.is_vouched_for(&db.credentials().unwrap()));
}

/// Runs a pump on two event loops of a thread in turn; it changes after every few turns. In the end this one has it,
/// unless it broke.
fn wander(mut pump: Pump<TcpStream>, mut chance: u64) -> JoinHandle<Result<Pump<TcpStream>, Broken>> {
    let home = Handle::current();
    tokio::task::spawn_blocking(move || {
        let loops = [(); 2].map(|()| Builder::new_current_thread().enable_all().build().unwrap());
        for at in [0, 1].into_iter().cycle() {
            {
                let _entered = loops[at].enter();
                pump.settle_here().unwrap();
            }
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let mut turns = chance >> 61;
            let stays = |_| {
                turns = turns.saturating_sub(1);
                turns > 0
            };
            if let Some(outcome) = loops[at].block_on(pump.run_while(stays)) {
                let _entered = home.enter();
                pump.settle_here().unwrap();
                return outcome.map(|()| pump);
            }
        }
        unreachable!("the loop has no end of its own")
    })
}

/// Sends so many bytes of a sequence in pieces of all sizes, and ends its direction.
async fn send(mut stream: OwnedWriteHalf, salt: usize, len: usize) {
    let (mut at, mut size) = (0, 1);
    while at < len {
        size = (size * 7 + salt) % 300_001 + 1;
        let piece: Vec<u8> = (at..(at + size).min(len)).map(|at| (at * 31 + (at >> 11) + salt) as u8).collect();
        stream.write_all(&piece).await.unwrap();
        at += piece.len();
    }
    stream.shutdown().await.unwrap();
}

/// Takes that sequence from the other end.
async fn receive(mut stream: OwnedReadHalf, salt: usize, len: usize) {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(bytes.len(), len);
    assert!(bytes.iter().enumerate().all(|(at, byte)| *byte == (at * 31 + (at >> 11) + salt) as u8));
}

#[tokio::test]
async fn pumps_that_change_event_loops_lose_no_byte_and_keep_their_sessions() {
    let authority = Authority::new("root");
    let (web, db) = (mesh(&authority, "web"), mesh(&authority, "db"));
    let (mut client, mut server) = meet_to_stay(&web, &db).await;
    for (salt, out_len, back_len) in [(1, 9_000_000, 3_000_000), (2, 0, 5_000_000), (3, 2_000_001, 7)] {
        let ((near_app, near), (far_app, far)) = (sockets().await, sockets().await);
        let out = wander(client.join(near, Arc::default()), salt);
        assert!(matches!(server.next().await, Ok(Next::Opened)));
        let back = wander(server.join(far, Arc::default()), salt + 10);
        let ((near_read, near_write), (far_read, far_write)) = (near_app.into_split(), far_app.into_split());
        let salt = salt as usize;
        tokio::join!(
            send(near_write, salt, out_len),
            receive(far_read, salt, out_len),
            send(far_write, salt + 1, back_len),
            receive(near_read, salt + 1, back_len)
        );
        let (out, back) = (out.await.unwrap().unwrap(), back.await.unwrap().unwrap());
        assert_eq!(out.moved(), (out_len as u64, back_len as u64));
        assert_eq!(back.moved(), (back_len as u64, out_len as u64));
        (client, server) = (out.into_session().unwrap(), back.into_session().unwrap());
        assert!(is_done(&mut client).await);
    }
    let (near, far) = exchange(client, server, 9).await;
    assert!(near.is_some() && far.is_some());
}

#[tokio::test]
async fn a_reset_reaches_the_other_end_through_pumps_that_change_event_loops() {
    let authority = Authority::new("root");
    let (web, db) = (mesh(&authority, "web"), mesh(&authority, "db"));
    for round in 0..5 {
        let (client, mut server) = meet_to_stay(&web, &db).await;
        let ((mut near_app, near), (mut far_app, far)) = (sockets().await, sockets().await);
        let out = wander(client.join(near, Arc::default()), round);
        assert!(matches!(server.next().await, Ok(Next::Opened)));
        let back = wander(server.join(far, Arc::default()), round + 20);
        let mut some = vec![0; 1_000_000];
        let (wrote, read) = tokio::join!(near_app.write_all(&[1; 3_000_000]), far_app.read_exact(&mut some));
        assert!(wrote.is_ok() && read.is_ok());
        // What it has not read makes closing it a reset.
        drop(far_app);
        let ended = tokio::time::timeout(Duration::from_secs(20), async {
            while near_app.write_all(&[1; 100_000]).await.is_ok() {}
        });
        ended.await.unwrap();
        assert!(out.await.unwrap().is_err() && back.await.unwrap().is_err());
    }
}

/// Waits until all that was sent with the last connection has reached its application; whether it did.
async fn is_done(session: &mut Session) -> bool {
    loop {
        match session.has_heard() {
            Some(done) => return done,
            None => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
}
