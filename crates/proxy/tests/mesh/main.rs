//! Two proxies on real sockets around an agent in memory.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    missing_docs,
    unreachable_pub,
    reason = "a test that cannot go on has failed"
)]

mod direct;
mod fake;
mod foreign;
#[path = "../../../tls/tests/forge/mod.rs"]
mod forge;

use std::io::ErrorKind::WouldBlock;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use fake::{Agent, Echo, Files, LIMIT, Pair, Running, db_entry, echoes, eventually, has_openssl, instance, web_entry};
use forge::Authority;
use lictor_proxy::control::Candidate;
use lictor_proxy::{Config, Heritage, Mode, Phase, Proxy, Wish};
use lictor_task::Scope;
use lictor_tls::{Bundle, KeyExchange, Leaf, Mesh, Peer, Reuse, Session, Target};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

async fn read_all(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    tokio::time::timeout(LIMIT, stream.read_to_end(&mut bytes)).await.unwrap().map(|_| bytes)
}

/// Sends everything and the end, while it reads what comes back to its end.
async fn mirrored(stream: &mut TcpStream, sent: &[u8]) -> Vec<u8> {
    let (mut reader, mut writer) = stream.split();
    let mut received = Vec::new();
    let (wrote, read) = tokio::join!(
        async {
            writer.write_all(sent).await?;
            writer.shutdown().await
        },
        reader.read_to_end(&mut received)
    );
    wrote.unwrap();
    read.unwrap();
    received
}

#[tokio::test]
async fn bytes_go_through_two_proxies_and_come_back() {
    let pair = Pair::start().await;
    assert!(pair.works().await);
    let sent: Vec<u8> = (0..5_000_000u32).map(|at| (at >> 3) as u8 ^ at as u8).collect();
    assert!(mirrored(&mut pair.connect().await, &sent).await == sent);
    assert_eq!(pair.web.proxy().status().borrow().phase, Phase::Ready);
}

#[tokio::test]
async fn an_answer_arrives_whole_after_the_client_has_ended_its_direction() {
    let app = Echo::serving("127.0.0.1:0", |mut stream| async move {
        let mut question = Vec::new();
        stream.read_to_end(&mut question).await.unwrap();
        assert_eq!(question, b"hello");
        stream.write_all(&vec![b'r'; 100_000]).await.unwrap();
    })
    .await;
    let pair = Pair::with(app, json!({}), json!({})).await;
    let mut stream = pair.connect().await;
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(read_all(&mut stream).await.unwrap().len(), 100_000);
}

#[tokio::test]
async fn a_server_may_speak_first() {
    let app = Echo::serving("127.0.0.1:0", |mut stream| async move {
        stream.write_all(b"220 ready\r\n").await.unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    })
    .await;
    let pair = Pair::with(app, json!({}), json!({})).await;
    let mut stream = pair.connect().await;
    let mut banner = [0; 11];
    tokio::time::timeout(LIMIT, stream.read_exact(&mut banner)).await.unwrap().unwrap();
    assert_eq!(&banner, b"220 ready\r\n");
}

#[tokio::test]
async fn a_denied_client_never_reaches_the_application() {
    let pair = Pair::start().await;
    pair.db.agent.deny(Some("web"));
    eventually("the denial", async || !pair.works().await).await;
    let before = pair.app.connections();
    for _ in 0..5 {
        assert!(!pair.works().await);
    }
    assert_eq!(pair.app.connections(), before);
    assert!(pair.db.proxy().metrics().denied.load(Ordering::Relaxed) >= 5);
    pair.db.agent.deny(None);
    eventually("the permission", async || pair.works().await).await;
}

#[tokio::test]
async fn a_new_denial_ends_live_connections_of_that_client_at_once() {
    let pair = Pair::start().await;
    let mut stream = pair.connect().await;
    assert!(echoes(&mut stream).await);
    pair.db.agent.deny(Some("other"));
    assert!(echoes(&mut stream).await);
    let start = Instant::now();
    pair.db.agent.deny(Some("web"));
    let ended = tokio::time::timeout(Duration::from_secs(1), stream.read_u8()).await;
    assert!(matches!(ended, Ok(Err(_))), "{ended:?} after {:?}", start.elapsed());
    assert_eq!(pair.db.proxy().metrics().cut.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn without_the_agent_everything_goes_on() {
    let pair = Pair::start().await;
    let mut live = pair.connect().await;
    assert!(echoes(&mut live).await);
    for agent in [&pair.web.agent, &pair.db.agent] {
        agent.go_away();
    }
    for _ in 0..50 {
        assert!(pair.works().await);
    }
    assert!(echoes(&mut live).await);
    // And what changes while it is away counts as soon as it is back.
    pair.db.agent.deny(Some("web"));
    assert!(pair.works().await);
    pair.db.agent.come_back();
    eventually("the denial", async || !pair.works().await).await;
}

#[tokio::test]
async fn a_dead_instance_is_made_up_for_by_another() {
    let pair = Pair::start().await;
    let live = pair.db.public().await;
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    pair.web.agent.set_instances(vec![instance("dead", unused), instance("live", live)]);
    for _ in 0..60 {
        assert!(pair.works().await);
    }
    // Refused, or silent until its share of the time is over.
    let mut entry = web_entry(json!({"connect_timeout_ms": 600}));
    entry["Proxy"]["Upstreams"][0]["LocalBindPort"] = json!(pair.web.upstream().await.port());
    pair.web.agent.set_entry(entry);
    pair.web.agent.set_instances(vec![
        instance("silent", silent.local_addr().unwrap()),
        instance("dead", unused),
        instance("live", live),
    ]);
    for _ in 0..10 {
        assert!(pair.works().await);
    }
}

#[tokio::test]
async fn an_instance_that_is_another_service_is_not_given_a_byte() {
    let pair = Pair::start().await;
    let impostor = Agent::new(&pair.authority, &pair.authority.leaf("cache"), db_entry(pair.app.address, json!({})));
    let impostor = Running::start(&impostor);
    pair.web.agent.set_instances(vec![instance("impostor", impostor.public().await)]);
    eventually("the impostor", async || !pair.works().await).await;
    assert!(!pair.works().await);
    // A catalog entry that says so openly is not dialled at all.
    let mut honest = instance("honest", impostor.public().await);
    honest.destination = Some("cache".into());
    pair.web.agent.set_instances(vec![honest]);
    assert!(!pair.works().await);
}

#[tokio::test]
async fn a_reader_that_does_not_read_holds_up_the_writer_and_loses_nothing() {
    let app = Echo::serving("127.0.0.1:0", |mut stream| async move {
        let mut one = [0; 1];
        stream.read_exact(&mut one).await.unwrap();
        let _ = stream.write_all(&vec![7; 20_000_000]).await;
    })
    .await;
    let pair = Pair::with(app, json!({}), json!({})).await;
    let mut slow = pair.connect().await;
    slow.write_all(b"x").await.unwrap();
    // Others are served meanwhile.
    let mut other = pair.connect().await;
    other.write_all(b"x").await.unwrap();
    assert_eq!(read_all(&mut other).await.unwrap().len(), 20_000_000);
    let flow = pair.web.proxy().metrics().upstreams().remove(0).1;
    let moved = flow.meter.inward.load(Ordering::Relaxed);
    assert!(moved < 39_000_000, "{moved} bytes were taken though nobody read them");
    assert_eq!(read_all(&mut slow).await.unwrap().len(), 20_000_000);
}

#[tokio::test]
async fn addresses_of_the_sixth_version_work_everywhere() {
    let authority = Authority::new("root");
    let app = Echo::start("[::1]:0").await;
    let mut entry = db_entry(app.address, json!({}));
    entry["Address"] = json!("::1");
    let db = Running::start(&Agent::new(&authority, &authority.leaf("db"), entry));
    let mut entry = web_entry(json!({}));
    entry["Proxy"]["Upstreams"][0]["LocalBindAddress"] = json!("::1");
    let agent = Agent::new(&authority, &authority.leaf("web"), entry);
    let public = db.public().await;
    assert!(public.is_ipv6());
    agent.set_instances(vec![instance("db1", public)]);
    let web = Running::start(&agent);
    let pair = Pair { authority, app, web, db };
    assert!(pair.web.upstream().await.is_ipv6());
    assert!(pair.works().await);
}

#[tokio::test]
async fn a_silent_client_is_closed_when_the_handshake_takes_too_long() {
    let app = Echo::start("127.0.0.1:0").await;
    let pair = Pair::with(app, json!({"handshake_timeout_ms": 200.0}), json!({})).await;
    let public = pair.db.public().await;
    let start = Instant::now();
    let mut silent = TcpStream::connect(public).await.unwrap();
    assert!(read_all(&mut silent).await.unwrap_or_default().is_empty());
    assert!(start.elapsed() >= Duration::from_millis(200));
    assert_eq!(pair.app.connections(), 0);
    // One that goes without a word is a health check.
    let metrics = pair.db.proxy().metrics();
    let before = metrics.silent.load(Ordering::Relaxed);
    let failures = metrics.inbound.failures.load(Ordering::Relaxed);
    assert!(failures > 0, "the silent one has failed");
    drop(TcpStream::connect(pair.db.public().await).await.unwrap());
    eventually("the health check", async || metrics.silent.load(Ordering::Relaxed) == before + 1).await;
    assert_eq!(metrics.inbound.failures.load(Ordering::Relaxed), failures, "a look is no failure");
}

#[tokio::test]
async fn who_says_nothing_in_a_crowd_has_less_time() {
    let app = Echo::start("127.0.0.1:0").await;
    let pair = Pair::with(app, json!({"handshake_timeout_ms": 60_000.0}), json!({})).await;
    let public = pair.db.public().await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(TcpStream::connect(public).await.unwrap());
    }
    // Which of them come last is for the workers to say, each of which accepts at its own pace.
    let over = |silent: &[TcpStream]| {
        let is_over = |stream: &&TcpStream| !stream.try_read(&mut [0]).is_err_and(|error| error.kind() == WouldBlock);
        silent.iter().filter(is_over).count()
    };
    eventually("one that has less than a minute", async || over(&silent) > 0).await;
    // By then all that have as little time are gone, and nobody else.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!((1..=300 - 256).contains(&over(&silent)), "some were there before it was a crowd");
    assert!(echoes(&mut pair.connect().await).await);
}

#[tokio::test]
async fn an_application_that_is_down_is_seen_as_the_end_of_the_connection() {
    let pair = Pair::start().await;
    assert!(pair.works().await);
    let Pair { authority: _authority, app, web, db } = pair;
    drop(app);
    let metrics = db.proxy().metrics();
    eventually("the failure", async || {
        // Closed at once, it may be gone before the client hears that it was there.
        let Ok(mut stream) = TcpStream::connect(web.upstream().await).await else { return false };
        let closed = read_all(&mut stream).await.is_ok_and(|bytes| bytes.is_empty());
        closed && metrics.app_failures.load(Ordering::Relaxed) > 0
    })
    .await;
}

#[tokio::test]
async fn an_agent_that_does_not_say_the_default_is_asked_about_each_connection() {
    let pair = Pair::start().await;
    pair.db.agent.be_original();
    pair.db.agent.authorizes.send_replace(false);
    eventually("the question", async || !pair.works().await).await;
    let before = pair.app.connections();
    assert!(!pair.works().await);
    assert_eq!(pair.app.connections(), before);
    pair.db.agent.authorizes.send_replace(true);
    let asked = pair.db.agent.asked.load(Ordering::Relaxed);
    assert!(pair.works().await);
    assert_eq!(pair.db.agent.asked.load(Ordering::Relaxed), asked + 1);
}

/// On a session that carries many, where no handshake limits it.
#[tokio::test]
async fn a_connection_waits_for_the_agents_answer_as_long_as_for_a_handshake_and_is_refused_then() {
    let app = Echo::start("127.0.0.1:0").await;
    let pair = Pair::with(app, json!({"handshake_timeout_ms": 2000}), json!({})).await;
    pair.db.agent.be_original();
    eventually("the question", async || {
        assert!(pair.works().await);
        pair.db.agent.asked.load(Ordering::Relaxed) > 0
    })
    .await;
    let metrics = pair.db.proxy().metrics();
    pair.db.agent.answers.send_replace(false);
    let before = metrics.denied.load(Ordering::Relaxed);
    // More than may be asked about at the same time: none of them keeps those behind it waiting.
    let mut waiting = Vec::new();
    for _ in 0..100 {
        let mut stream = pair.connect().await;
        stream.write_all(b"x").await.unwrap();
        waiting.push(stream);
    }
    for mut stream in waiting {
        assert!(read_all(&mut stream).await.unwrap_or_default().is_empty());
    }
    eventually("the refusals", async || metrics.denied.load(Ordering::Relaxed) == before + 100).await;
    pair.db.agent.answers.send_replace(true);
    assert!(pair.works().await);
}

#[tokio::test]
async fn a_renewed_leaf_is_used_by_the_next_connection_and_disturbs_none() {
    let pair = Pair::start().await;
    let mut live = pair.connect().await;
    assert!(echoes(&mut live).await);
    pair.db.agent.set_leaf(&pair.authority.leaf("db"));
    pair.web.agent.set_leaf(&pair.authority.leaf("web"));
    let before = pair.db.proxy().metrics().handshakes.load(Ordering::Relaxed);
    let metrics = pair.db.proxy().metrics();
    eventually("a whole handshake", async || {
        assert!(pair.works().await);
        metrics.handshakes.load(Ordering::Relaxed) > before
    })
    .await;
    assert!(echoes(&mut live).await);
}

#[tokio::test]
async fn settings_open_close_and_redirect_listeners_without_touching_the_others() {
    let pair = Pair::start().await;
    let mut live = pair.connect().await;
    assert!(echoes(&mut live).await);
    let kept = pair.web.upstream().await;
    let mut entry = web_entry(json!({}));
    let spare = entry["Proxy"]["Upstreams"][0].clone();
    entry["Proxy"]["Upstreams"] = json!([
        {"DestinationName": "db", "LocalBindPort": kept.port()},
        {"DestinationName": "db", "DestinationType": "prepared_query", "LocalBindPort": spare["LocalBindPort"]},
    ]);
    pair.web.agent.set_entry(entry.clone());
    let query = pair.web.address("prepared_query:default/db").await;
    assert_eq!(pair.web.upstream().await, kept);
    assert!(echoes(&mut live).await);
    assert!(echoes(&mut TcpStream::connect(query).await.unwrap()).await);
    // The first one goes, the second changes places with it.
    entry["Proxy"]["Upstreams"] = json!([{"DestinationName": "db", "LocalBindPort": query.port()}]);
    pair.web.agent.set_entry(entry);
    eventually("the removal", async || TcpStream::connect(kept).await.is_err()).await;
    assert_eq!(pair.web.upstream().await, query);
    assert!(pair.works().await);
    assert!(echoes(&mut live).await);
}

/// Every problem that a proxy has had since.
fn problems(proxy: &Proxy) -> Arc<std::sync::Mutex<Vec<String>>> {
    let (seen, mut status) = (Arc::new(std::sync::Mutex::new(Vec::new())), proxy.status());
    let problems = Arc::clone(&seen);
    tokio::spawn(async move {
        while status.changed().await.is_ok() {
            problems.lock().unwrap().extend(status.borrow_and_update().problems.clone());
        }
    });
    seen
}

#[tokio::test]
async fn a_port_goes_from_one_listener_to_another_at_once() {
    let authority = Authority::new("root");
    let app = Echo::start("127.0.0.1:0").await;
    let mut entry = db_entry(app.address, json!({}));
    entry["Proxy"]["Upstreams"] = web_entry(json!({}))["Proxy"]["Upstreams"].clone();
    let db = Running::start(&Agent::new(&authority, &authority.leaf("db"), entry.clone()));
    let (public, upstream) = (db.public().await.port(), db.upstream().await.port());
    let problems = problems(db.proxy());
    for turn in 0..12 {
        // All addresses instead of one, and the other way round; and in every third turn the two change places.
        let (host, other) = if turn % 2 == 0 { ("0.0.0.0", "127.0.0.1") } else { ("127.0.0.1", "0.0.0.0") };
        let (public, upstream) = if turn % 3 == 0 { (upstream, public) } else { (public, upstream) };
        entry["Address"] = json!(host);
        entry["Port"] = json!(public);
        entry["Proxy"]["Upstreams"][0]["LocalBindAddress"] = json!(other);
        entry["Proxy"]["Upstreams"][0]["LocalBindPort"] = json!(upstream);
        db.agent.set_entry(entry.clone());
        let wanted: Vec<std::net::SocketAddr> =
            [(host, public), (other, upstream)].map(|(host, port)| format!("{host}:{port}").parse().unwrap()).into();
        let mut listening = db.proxy().listening();
        let all = listening.wait_for(|all| all.iter().map(|one| one.address).collect::<Vec<_>>() == wanted);
        tokio::time::timeout(LIMIT, all).await.expect("the listeners are not open").unwrap();
    }
    // Somebody keeps our sockets, as a supervisor does, and lets go of them when it hears of it.
    let kept = duplicates(db.proxy());
    entry["Address"] = json!("127.0.0.2");
    db.agent.set_entry(entry.clone());
    eventually("the other address", async || db.public().await.ip().to_string() == "127.0.0.2").await;
    entry["Address"] = json!("0.0.0.0");
    entry["Proxy"]["Upstreams"][0]["LocalBindAddress"] = json!("127.0.0.1");
    db.agent.set_entry(entry);
    tokio::time::sleep(Duration::from_millis(300)).await;
    drop(kept);
    eventually("all addresses", async || db.public().await.ip().is_unspecified()).await;
    let problems = problems.lock().unwrap();
    assert!(!problems.iter().any(|problem| problem.contains("cannot listen")), "{problems:?}");
}

#[tokio::test]
async fn a_taken_port_is_reported_and_tried_again() {
    let authority = Authority::new("root");
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut entry = web_entry(json!({}));
    entry["Proxy"]["Upstreams"][0]["LocalBindPort"] = json!(taken.local_addr().unwrap().port());
    let web = Running::start(&Agent::new(&authority, &authority.leaf("web"), entry));
    let mut status = web.proxy().status();
    let degraded = status.wait_for(|status| status.phase == Phase::Degraded);
    let degraded = tokio::time::timeout(LIMIT, degraded).await.unwrap().unwrap().clone();
    assert!(degraded.to_string().contains("service:default/db cannot listen on 127.0.0.1:"), "{degraded}");
    drop(taken);
    web.upstream().await;
    let ready = status.wait_for(lictor_proxy::Status::is_ready);
    tokio::time::timeout(LIMIT, ready).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_public_listener_waits_for_certificates_and_upstreams_do_not() {
    let authority = Authority::new("root");
    let app = Echo::start("127.0.0.1:0").await;
    let mut entry = db_entry(app.address, json!({}));
    entry["Proxy"]["Upstreams"] = web_entry(json!({}))["Proxy"]["Upstreams"].clone();
    let mut broken = authority.leaf("db");
    broken.key = authority.leaf("db").key;
    let db = Running::start(&Agent::new(&authority, &broken, entry));
    db.upstream().await;
    assert_eq!(db.proxy().status().borrow().phase, Phase::Starting);
    assert_eq!(db.proxy().listening().borrow().len(), 1);
    db.agent.set_leaf(&authority.leaf("db"));
    db.public().await;
}

#[tokio::test]
async fn a_drain_lets_connections_end_and_accepts_no_more() {
    let mut pair = Pair::start().await;
    let mut live = pair.connect().await;
    assert!(echoes(&mut live).await);
    let upstream = pair.web.upstream().await;
    let proxy: Proxy = pair.web.proxy.take().unwrap();
    let (wish, wishes) = watch::channel(Wish::Serve);
    let running = Scope::new("test").spawn("proxy", proxy.run(wishes));
    wish.send_replace(Wish::Stop(LIMIT));
    eventually("the end of accepting", async || TcpStream::connect(upstream).await.is_err()).await;
    assert!(echoes(&mut live).await);
    assert!(!running.is_finished());
    drop(live);
    tokio::time::timeout(LIMIT, running).await.unwrap().unwrap();
}

/// What a supervisor would hand to the next process.
fn duplicates(proxy: &Proxy) -> Vec<std::net::TcpListener> {
    let sockets = proxy.sockets().borrow().clone();
    sockets.values().flat_map(|those| those.iter()).map(|fd| fd.try_clone().unwrap().into()).collect()
}

#[tokio::test]
async fn a_successor_takes_over_the_sockets_and_no_connection_is_refused_or_lost() {
    let mut pair = Pair::start().await;
    let mut live = pair.connect().await;
    assert!(echoes(&mut live).await);
    let upstream = pair.web.upstream().await;
    let old: Proxy = pair.web.proxy.take().unwrap();
    let inherited = duplicates(&old);
    let (wish, wishes) = watch::channel(Wish::Serve);
    let connections = old.connections();
    let running = Scope::new("test").spawn("old", old.run(wishes));

    let load = tokio::spawn(async move {
        for _ in 0..200 {
            let mut connection = TcpStream::connect(upstream).await.unwrap();
            assert!(echoes(&mut connection).await, "a connection was lost");
        }
    });
    let config = Config { inherited, ..Config::new(Mode::Agent { proxy_id: "p".into() }) };
    let new = Proxy::start(config, Arc::clone(&pair.web.agent)).unwrap();
    eventually("the takeover", async || new.status().borrow().heritage == Heritage::TakenOver).await;
    wish.send_replace(Wish::Drain);
    load.await.unwrap();
    eventually("only the old connection", async || connections.count() == 1).await;
    assert!(echoes(&mut live).await, "what is carried goes on");
    drop(live);
    tokio::time::timeout(LIMIT, running).await.unwrap().unwrap();
    let mut after = TcpStream::connect(upstream).await.unwrap();
    assert!(echoes(&mut after).await);
}

#[tokio::test]
async fn connections_that_wait_while_no_process_runs_are_served_by_the_next() {
    let mut pair = Pair::start().await;
    let upstream = pair.web.upstream().await;
    let old: Proxy = pair.web.proxy.take().unwrap();
    let inherited = duplicates(&old);
    let (_wish, wishes) = watch::channel(Wish::Stop(Duration::ZERO));
    tokio::time::timeout(LIMIT, old.run(wishes)).await.unwrap();
    let mut waiting: Vec<TcpStream> = Vec::new();
    for _ in 0..20 {
        waiting.push(TcpStream::connect(upstream).await.expect("nobody is refused"));
    }
    let config = Config { inherited, ..Config::new(Mode::Agent { proxy_id: "p".into() }) };
    let _new = Proxy::start(config, Arc::clone(&pair.web.agent)).unwrap();
    for connection in &mut waiting {
        assert!(echoes(connection).await);
    }
}

#[tokio::test]
async fn what_does_not_end_within_the_grace_period_is_reset() {
    let mut pair = Pair::start().await;
    let mut live = pair.connect().await;
    assert!(echoes(&mut live).await);
    let proxy: Proxy = pair.web.proxy.take().unwrap();
    let (_wish, wishes) = watch::channel(Wish::Stop(Duration::from_millis(50)));
    tokio::time::timeout(LIMIT, proxy.run(wishes)).await.unwrap();
    assert!(live.read_u8().await.is_err());
}

#[tokio::test]
async fn a_stop_that_comes_later_and_ends_sooner_counts() {
    let mut pair = Pair::start().await;
    let mut live = pair.connect().await;
    assert!(echoes(&mut live).await);
    let upstream = pair.web.upstream().await;
    let proxy: Proxy = pair.web.proxy.take().unwrap();
    let (wish, wishes) = watch::channel(Wish::Stop(10 * LIMIT));
    let running = Scope::new("test").spawn("proxy", proxy.run(wishes));
    eventually("the end of accepting", async || TcpStream::connect(upstream).await.is_err()).await;
    // One that ends later changes nothing.
    wish.send_replace(Wish::Stop(20 * LIMIT));
    assert!(echoes(&mut live).await);
    assert!(!running.is_finished());
    wish.send_replace(Wish::Stop(Duration::from_millis(50)));
    tokio::time::timeout(LIMIT, running).await.unwrap().unwrap();
    assert!(live.read_u8().await.is_err());
}

#[tokio::test]
async fn listeners_instances_and_applications_may_be_places_with_names() {
    let authority = Authority::new("root");
    let app = Echo::start("127.0.0.1:0").await;
    let mut entry = db_entry(app.address, json!({}));
    entry["Address"] = json!("localhost");
    entry["Proxy"]["LocalServiceAddress"] = json!("localhost");
    let db = Running::start(&Agent::new(&authority, &authority.leaf("db"), entry));
    let public = db.public().await;
    assert!(public.is_ipv4(), "{public}");
    let agent = Agent::new(&authority, &authority.leaf("web"), web_entry(json!({})));
    // The other's name is not there, now or ever: it keeps nobody from the first.
    let named = |id: &str, host: &str| Candidate { host: host.into(), ..instance(id, public) };
    agent.set_instances(vec![named("db1", "localhost"), named("db2", "no-such-host.invalid")]);
    let web = Running::start(&agent);
    let pair = Pair { authority, app, web, db };
    for _ in 0..10 {
        assert!(pair.works().await);
    }
}

#[tokio::test]
async fn a_listener_whose_name_is_not_there_is_told_and_the_others_are_open() {
    let authority = Authority::new("root");
    let mut entry = web_entry(json!({}));
    let upstreams = entry["Proxy"]["Upstreams"].as_array_mut().unwrap();
    let mut other = upstreams[0].clone();
    other["DestinationName"] = json!("cache");
    other["LocalBindAddress"] = json!("no-such-host.invalid");
    upstreams.push(other);
    let web = Running::start(&Agent::new(&authority, &authority.leaf("web"), entry));
    web.upstream().await;
    let mut status = web.proxy().status();
    let told = status.wait_for(|status| {
        status.problems.iter().any(|problem| problem.contains("cannot listen on no-such-host.invalid"))
    });
    tokio::time::timeout(LIMIT, told).await.unwrap().unwrap();
}

/// What `openssl s_client` says when it is sent away or let in; the answer of the application is at its end.
async fn s_client(address: std::net::SocketAddr, arguments: &[String]) -> String {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &address.to_string(), "-state", "-quiet", "-no_ign_eof"]);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // Its input stays open, or it would not wait for what the server says after the handshake.
    let mut input = child.stdin.take().unwrap();
    let _ = std::io::Write::write_all(&mut input, b"x\n");
    let (done, finished) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || done.send(child.wait_with_output()));
    let output = match tokio::time::timeout(Duration::from_secs(3), finished).await {
        Ok(output) => output.unwrap().unwrap(),
        Err(_) => panic!("openssl neither ended nor was refused: {arguments:?}"),
    };
    drop(input);
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[tokio::test]
async fn openssl_sees_the_alert_that_peers_expect() {
    if !has_openssl() {
        return;
    }
    // Ends after one byte, so that openssl ends too.
    let app = Echo::serving("127.0.0.1:0", |mut stream| async move {
        if let Ok(byte) = stream.read_u8().await {
            let _ = stream.write_all(&[byte, b'!']).await;
        }
    })
    .await;
    let pair = Pair::with(app, json!({}), json!({})).await;
    let public = pair.db.public().await;
    let stranger = Authority::new("Consul CA 7");
    let expired = pair.authority.leaf_with("web", |leaf| {
        leaf.not_before = rcgen::date_time_ymd(2000, 1, 1);
        leaf.not_after = rcgen::date_time_ymd(2001, 1, 1);
    });
    let good = Files::new("good", &pair.authority, &pair.authority.leaf("web"));
    let denied = Files::new("denied", &pair.authority, &pair.authority.leaf("mallory"));
    let foreign = Files::new("foreign", &pair.authority, &stranger.leaf("web"));
    let expired = Files::new("expired", &pair.authority, &expired);
    pair.db.agent.deny(Some("mallory"));
    let metrics = pair.db.proxy().metrics();
    let trust = |files: &Files| vec!["-CAfile".to_owned(), files.path("root.pem")];
    let shown = |files: &Files| {
        let mut arguments = trust(files);
        for (flag, file) in [("-cert", "leaf.pem"), ("-key", "key.pem")] {
            arguments.extend([flag.to_owned(), files.path(file)]);
        }
        arguments
    };
    for version in ["-tls1_2", "-tls1_3"] {
        let with = |arguments: Vec<String>| [arguments, vec![version.to_owned()]].concat();
        eventually("the denial of mallory", async || {
            let before = metrics.denied.load(Ordering::Relaxed);
            s_client(public, &with(shown(&denied))).await;
            metrics.denied.load(Ordering::Relaxed) > before
        })
        .await;
        let answer = s_client(public, &with(shown(&good))).await;
        assert!(answer.contains("x!"), "{version}: {answer}");
        let cases = [
            ("none", trust(&good)),
            ("denied", shown(&denied)),
            ("foreign", shown(&foreign)),
            ("expired", shown(&expired)),
        ];
        let before = pair.app.connections();
        for (what, arguments) in cases {
            let answer = s_client(public, &with(arguments)).await;
            assert!(answer.contains("alert number 42"), "{version} {what}: {answer}");
        }
        assert_eq!(pair.app.connections(), before);
    }
    // Suites, names and protocols that must not matter, and a suite that must not be had.
    for extra in [
        vec!["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"],
        vec!["-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"],
        vec!["-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"],
        vec!["-tls1_3", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"],
        vec!["-tls1_3", "-groups", "P-384"],
        vec!["-servername", "db.example"],
        vec!["-alpn", "http/1.1"],
        vec!["-alpn", "foo"],
        vec!["-alpn", "foo,h2"],
    ] {
        let arguments = [shown(&good), extra.iter().map(|text| (*text).to_owned()).collect()].concat();
        let answer = s_client(public, &arguments).await;
        assert!(answer.contains("x!"), "{extra:?}: {answer}");
    }
    let arguments = [shown(&good), ["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA"].map(str::to_owned).to_vec()];
    assert!(s_client(public, &arguments.concat()).await.contains("alert number 40"));
}

#[tokio::test]
async fn many_connections_at_once_all_work() {
    let pair = Arc::new(Pair::start().await);
    let scope = Scope::new("clients");
    let tasks: Vec<_> = (0..200)
        .map(|_| {
            let pair = Arc::clone(&pair);
            scope.spawn("client", async move { pair.works().await })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap(), Some(true));
    }
    let metrics = pair.db.proxy().metrics();
    eventually("the end of all", async || metrics.active() == 0).await;
    assert_eq!(metrics.inbound.opened.load(Ordering::Relaxed), 200);
}

#[tokio::test]
async fn connections_one_after_another_share_a_session_and_reach_the_application_each() {
    let pair = Pair::start().await;
    let (near, far) = (pair.web.proxy().metrics(), pair.db.proxy().metrics());
    let mut made = 0;
    eventually("a session that carries many", async || {
        assert!(pair.works().await);
        made += 1;
        near.reuses.load(Ordering::Relaxed) >= 20
    })
    .await;
    assert_eq!(pair.app.connections(), made);
    let secured = |metrics: &lictor_proxy::Metrics| {
        let [whole, resumed, reused] =
            [&metrics.handshakes, &metrics.resumptions, &metrics.reuses].map(|count| count.load(Ordering::Relaxed));
        (whole + resumed, reused)
    };
    assert_eq!(secured(&near), secured(&far));
    assert_eq!(far.allowed.load(Ordering::Relaxed), made as u64);
}

#[tokio::test]
async fn a_session_that_is_used_again_is_authorised_again() {
    let pair = Pair::start().await;
    let far = pair.db.proxy().metrics();
    eventually("a session that carries many", async || {
        assert!(pair.works().await);
        far.reuses.load(Ordering::Relaxed) > 0
    })
    .await;
    pair.db.agent.deny(Some("web"));
    eventually("the denial", async || !pair.works().await).await;
    let allowed = far.allowed.load(Ordering::Relaxed);
    for _ in 0..10 {
        assert!(!pair.works().await);
    }
    assert_eq!(far.allowed.load(Ordering::Relaxed), allowed);
    assert!(pair.app.connections() as u64 <= allowed);
}

#[tokio::test]
async fn a_denial_cuts_a_connection_on_a_session_that_was_used_before() {
    let pair = Pair::start().await;
    let near = pair.web.proxy().metrics();
    let mut live = None;
    eventually("a connection on a used session", async || {
        let before = near.reuses.load(Ordering::Relaxed);
        let mut stream = pair.connect().await;
        assert!(echoes(&mut stream).await);
        let reused = near.reuses.load(Ordering::Relaxed) > before;
        if reused {
            live = Some(stream);
        }
        reused
    })
    .await;
    pair.db.agent.deny(Some("web"));
    let ended = tokio::time::timeout(LIMIT, live.unwrap().read_u8()).await;
    assert!(matches!(ended, Ok(Err(_))), "{ended:?}");
}

#[tokio::test]
async fn who_wants_no_reuse_gets_none() {
    let app = Echo::start("127.0.0.1:0").await;
    let pair = Pair::with(app, json!({"reuse": "sessions"}), json!({})).await;
    let near = pair.web.proxy().metrics();
    eventually("a resumed session", async || {
        assert!(pair.works().await);
        near.resumptions.load(Ordering::Relaxed) > 0
    })
    .await;
    assert_eq!(near.reuses.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_proxy_that_restarts_with_sessions_waiting_loses_no_connection() {
    let pair = Pair::start().await;
    for _ in 0..10 {
        assert!(pair.works().await);
    }
    let Pair { authority, app, web, mut db } = pair;
    let address = db.public().await;
    let mut entry = db_entry(app.address, json!({}));
    entry["Port"] = json!(address.port());
    let start = Instant::now();
    let proxy: Proxy = db.proxy.take().unwrap();
    let (_wish, wishes) = watch::channel(Wish::Stop(Duration::from_secs(8)));
    tokio::time::timeout(LIMIT, proxy.run(wishes)).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(4), "sessions that wait held up the end");
    let _db = Running::start(&Agent::new(&authority, &authority.leaf("db"), entry));
    eventually("the next connection", async || {
        echoes(&mut TcpStream::connect(web.upstream().await).await.unwrap()).await
    })
    .await;
}

/// One connection over a session that we dialled ourselves, with an echo at its end; and the session again.
async fn echo_over(session: Session) -> Option<Session> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (near, app) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    let (mut near, app) = (near.unwrap(), app.unwrap().0);
    let mut pump = session.join(app, Arc::default());
    let pumping = tokio::spawn(async move { pump.run().await.map(|()| pump.into_session()) });
    assert!(echoes(&mut near).await);
    near.shutdown().await.unwrap();
    assert_eq!(read_all(&mut near).await.unwrap(), b"");
    let mut session = pumping.await.unwrap().unwrap()?;
    is_done(&mut session).await.then_some(session)
}

#[tokio::test]
async fn a_connection_that_was_on_its_way_when_its_session_was_told_to_end_is_carried() {
    let mut pair = Pair::start().await;
    let address = pair.db.public().await;
    let dialler = dialler(&pair.authority, "web");
    let stream = TcpStream::connect(address).await.unwrap();
    let target = Target::new(address, "dc1", "db");
    let session = dialler.connect(stream, &target, Reuse::Connections).await.unwrap();
    let mut session = echo_over(session).await.unwrap();
    assert!(session.is_quiet());

    let proxy: Proxy = pair.db.proxy.take().unwrap();
    let (_wish, wishes) = watch::channel(Wish::Stop(LIMIT));
    let running = Scope::new("test").spawn("proxy", proxy.run(wishes));
    eventually("the word that the session ends", async || !session.is_quiet()).await;
    // A dialler that looked just before and has had no time of its processor since.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(echo_over(session).await.is_none(), "it may not be kept after that");
    tokio::time::timeout(LIMIT, running).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_session_whose_credentials_were_replaced_while_it_carried_a_connection_carries_no_other() {
    let pair = Pair::start().await;
    let address = pair.db.public().await;
    let dialler = dialler(&pair.authority, "web");
    let target = Target::new(address, "dc1", "db");
    let dial = async || {
        let stream = TcpStream::connect(address).await.unwrap();
        dialler.connect(stream, &target, Reuse::Connections).await.unwrap()
    };
    let session = dial().await;
    let serial = session.peer().serial.clone();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (near, app) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    let (mut near, app) = (near.unwrap(), app.unwrap().0);
    let mut pump = session.join(app, Arc::default());
    let pumping = tokio::spawn(async move { pump.run().await.map(|()| pump.into_session()) });
    assert!(echoes(&mut near).await);
    pair.db.agent.set_leaf(&pair.authority.leaf("db"));
    eventually("the new leaf", async || dial().await.peer().serial != serial).await;
    assert!(echoes(&mut near).await);
    near.shutdown().await.unwrap();
    assert_eq!(read_all(&mut near).await.unwrap(), b"");
    // It may hear of it with the last word about the connection, or behind it.
    if let Some(mut session) = pumping.await.unwrap().unwrap()
        && is_done(&mut session).await
    {
        eventually("the word that the session ends", async || !session.is_quiet()).await;
    }
}

#[tokio::test]
async fn half_closes_and_banners_work_on_sessions_that_were_used_before() {
    let app = Echo::serving("127.0.0.1:0", |mut stream| async move {
        stream.write_all(b"ready").await.unwrap();
        let mut question = Vec::new();
        stream.read_to_end(&mut question).await.unwrap();
        stream.write_all(&question).await.unwrap();
    })
    .await;
    let pair = Pair::with(app, json!({}), json!({})).await;
    let near = pair.web.proxy().metrics();
    let mut len = 1;
    eventually("a dozen connections on used sessions", async || {
        len = (len * 3) % 400_000 + 1;
        let mut stream = pair.connect().await;
        let mut banner = [0; 5];
        tokio::time::timeout(LIMIT, stream.read_exact(&mut banner)).await.unwrap().unwrap();
        assert_eq!(&banner, b"ready");
        let sent = vec![len as u8; len];
        let (mut reader, mut writer) = stream.split();
        let mut answer = Vec::new();
        let (_, read) = tokio::join!(
            async {
                writer.write_all(&sent).await.unwrap();
                writer.shutdown().await.unwrap();
            },
            reader.read_to_end(&mut answer)
        );
        read.unwrap();
        assert!(answer == sent);
        near.reuses.load(Ordering::Relaxed) >= 12
    })
    .await;
}

/// A dialler with a certificate of a service.
fn dialler(authority: &Authority, service: &str) -> Mesh {
    let (issued, mesh) = (authority.leaf(service), Mesh::new(KeyExchange::Classical, Arc::new(|_: &Peer| Ok(()))));
    let leaf = Leaf::from_pem(&issued.certificates, &issued.key).unwrap();
    mesh.install(leaf, Bundle::from_pem([authority.pem.as_str()]).unwrap()).unwrap();
    mesh
}

#[tokio::test]
async fn a_proxy_of_another_service_than_before_serves_nobody_until_it_can_decide_and_prove_itself_as_that() {
    let pair = Pair::start().await;
    let metrics = pair.db.proxy().metrics();
    let address = pair.db.public().await;
    let web = dialler(&pair.authority, "web");
    let target = Target::new(address, "dc1", "db");
    let waiting = web.connect(TcpStream::connect(address).await.unwrap(), &target, Reuse::Connections).await.unwrap();
    let waiting = echo_over(waiting).await.unwrap();
    let mut live = pair.connect().await;
    assert!(echoes(&mut live).await);

    // The proxy is of `cache` now, which `web` may not reach; and that is not to be learnt.
    let other = Echo::start("127.0.0.1:0").await;
    let mut entry = db_entry(other.address, json!({}));
    entry["Port"] = json!(address.port());
    entry["Proxy"]["DestinationServiceName"] = json!("cache");
    pair.db.agent.refuses.send_replace(Some("cache"));
    pair.db.agent.set_entry(entry);
    let ended = tokio::time::timeout(LIMIT, live.read_u8()).await;
    assert!(matches!(ended, Ok(Err(_))), "what was let in to the service before goes on: {ended:?}");
    assert_eq!(metrics.cut.load(Ordering::Relaxed), 1);
    eventually("the new start", async || pair.db.proxy().status().borrow().phase == Phase::Starting).await;
    for _ in 0..5 {
        assert!(!pair.works().await);
    }
    // Whoever was there before is told to go and is not let in either.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (near, app) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    let mut pump = waiting.join(app.unwrap().0, Arc::default());
    let pumping = tokio::spawn(async move { pump.run().await });
    assert!(!echoes(&mut near.unwrap()).await);
    pumping.abort();
    assert_eq!(other.connections(), 0);

    // As with any proxy that starts, the agent is asked until the intentions are known.
    let before = pair.app.connections();
    pair.db.agent.deny(Some("web"));
    pair.db.agent.authorizes.send_replace(false);
    pair.db.agent.set_leaf(&pair.authority.leaf("cache"));
    pair.db.agent.refuses.send_replace(None);
    let address = pair.db.public().await;
    let as_cache = Target::new(address, "dc1", "cache");
    let denied = metrics.denied.load(Ordering::Relaxed);
    let mut session = web.connect(TcpStream::connect(address).await.unwrap(), &as_cache, Reuse::None).await.unwrap();
    // The word of the client is the last one: that it was denied is seen later.
    session.flush().await.unwrap();
    eventually("the denial of web", async || metrics.denied.load(Ordering::Relaxed) > denied).await;
    pair.db.agent.authorizes.send_replace(true);
    let api = dialler(&pair.authority, "api");
    let session = api.connect(TcpStream::connect(address).await.unwrap(), &as_cache, Reuse::Connections).await.unwrap();
    assert!(echo_over(session).await.is_some());
    assert_eq!((other.connections(), pair.app.connections()), (1, before));
    assert!(!pair.works().await, "nobody is db any more");
}

/// An application that sends back what it gets as it gets it.
async fn mirror() -> Echo {
    Echo::serving("127.0.0.1:0", |stream| async move {
        let (mut reader, mut writer) = stream.into_split();
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
    })
    .await
}

/// Sends without an end until it is told to, and checks what comes back. Says how much it was.
struct Flood {
    enough: watch::Sender<bool>,
    task: tokio::task::JoinHandle<std::io::Result<u64>>,
}

impl Flood {
    fn of(stream: TcpStream) -> Flood {
        let (enough, told) = watch::channel(false);
        let (mut reader, mut writer) = stream.into_split();
        let byte = |at: u64| (at.wrapping_mul(31) + (at >> 13)) as u8;
        let task = tokio::spawn(async move {
            let send = async {
                let (mut at, mut size) = (0, 1);
                while !*told.borrow() {
                    size = (size * 5 + 3) % 400_009 + 1;
                    let piece: Vec<u8> = (at..at + size).map(byte).collect();
                    writer.write_all(&piece).await?;
                    at += size;
                }
                writer.shutdown().await?;
                std::io::Result::Ok(at)
            };
            let receive = async {
                let (mut at, mut buffer) = (0, vec![0; 200_000]);
                loop {
                    let len = reader.read(&mut buffer).await?;
                    if len == 0 {
                        return Ok(at);
                    }
                    assert!(buffer[..len].iter().zip(at..).all(|(got, at)| *got == byte(at)), "after {at} bytes");
                    at += len as u64;
                }
            };
            let (sent, received) = tokio::try_join!(send, receive)?;
            assert_eq!(sent, received);
            Ok(received)
        });
        Flood { enough, task }
    }

    async fn end(self) -> std::io::Result<u64> {
        self.enough.send_replace(true);
        tokio::time::timeout(LIMIT, self.task).await.unwrap().unwrap()
    }
}

/// Sends much through a mirror, again and again, until it is carried elsewhere.
async fn mirrored_until(stream: &mut TcpStream, moved: impl Fn() -> bool) {
    let (mut reader, mut writer) = stream.split();
    let mut answer = vec![0; 300_000];
    eventually("the move of what moves much", async || {
        let (wrote, read) = tokio::join!(writer.write_all(&[5; 300_000]), reader.read_exact(&mut answer));
        assert!(wrote.is_ok() && read.is_ok());
        moved()
    })
    .await;
}

/// Waits until both proxies carry what moves much beside their workers.
async fn aside(pair: &Pair, count: u64) {
    eventually("the move of what moves much", async || {
        [&pair.web, &pair.db].iter().all(|one| one.proxy().metrics().aside.load(Ordering::Relaxed) == count)
    })
    .await;
}

#[tokio::test]
async fn what_moves_much_is_carried_beside_its_worker_and_its_session_comes_back() {
    let pair = Pair::with(mirror().await, json!({}), json!({})).await;
    let mut total = 0;
    for _ in 0..3 {
        let (one, other) = (Flood::of(pair.connect().await), Flood::of(pair.connect().await));
        aside(&pair, 2).await;
        assert!(pair.works().await);
        total += one.end().await.unwrap() + other.end().await.unwrap() + 1;
        aside(&pair, 0).await;
    }
    let near = pair.web.proxy().metrics();
    eventually("the sessions that were aside", async || {
        let before = near.reuses.load(Ordering::Relaxed);
        assert!(pair.works().await);
        total += 1;
        near.reuses.load(Ordering::Relaxed) > before
    })
    .await;
    let metrics = [near, pair.db.proxy().metrics()];
    eventually("the end of all", async || metrics.iter().all(|one| one.active() == 0)).await;
    let upstream = metrics[0].upstreams().remove(0).1;
    for meter in [&upstream.meter, &metrics[1].inbound.meter] {
        assert_eq!(meter.outward.load(Ordering::Relaxed), total);
        assert_eq!(meter.inward.load(Ordering::Relaxed), total);
    }
    assert_eq!(metrics[1].inbound.opened.load(Ordering::Relaxed), upstream.opened.load(Ordering::Relaxed));
    for one in [&pair.web, &pair.db] {
        assert_eq!(one.proxy().connections().count(), 0);
    }
}

#[tokio::test]
async fn what_is_slow_again_goes_back_to_its_worker() {
    let pair = Pair::with(mirror().await, json!({}), json!({})).await;
    let mut stream = pair.connect().await;
    mirrored_until(&mut stream, || {
        [&pair.web, &pair.db].iter().all(|one| one.proxy().metrics().aside.load(Ordering::Relaxed) == 1)
    })
    .await;
    eventually("the way back", async || {
        assert!(echoes(&mut stream).await);
        [&pair.web, &pair.db].iter().all(|one| one.proxy().metrics().aside.load(Ordering::Relaxed) == 0)
    })
    .await;
    assert!(echoes(&mut stream).await);
}

#[tokio::test]
async fn a_denial_cuts_what_is_carried_beside_its_worker() {
    let pair = Pair::with(mirror().await, json!({}), json!({})).await;
    let flood = Flood::of(pair.connect().await);
    aside(&pair, 1).await;
    pair.db.agent.deny(Some("web"));
    tokio::time::timeout(LIMIT, flood.task).await.unwrap().unwrap().unwrap_err();
    aside(&pair, 0).await;
    assert_eq!(pair.db.proxy().metrics().cut.load(Ordering::Relaxed), 1);
    assert_eq!(pair.db.proxy().metrics().active(), 0);
}

#[tokio::test]
async fn a_proxy_that_drains_waits_for_what_is_carried_beside_its_workers_and_a_stop_ends_it() {
    for stop in [false, true] {
        let mut pair = Pair::with(mirror().await, json!({}), json!({})).await;
        let flood = Flood::of(pair.connect().await);
        aside(&pair, 1).await;
        let (wish, wishes) = watch::channel(Wish::Drain);
        let db = tokio::spawn(pair.db.proxy.take().unwrap().run(wishes));
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!db.is_finished() && !flood.task.is_finished());
        if stop {
            wish.send_replace(Wish::Stop(Duration::ZERO));
            tokio::time::timeout(LIMIT, flood.task).await.unwrap().unwrap().unwrap_err();
        } else {
            assert!(flood.end().await.unwrap() > 0);
        }
        tokio::time::timeout(LIMIT, db).await.unwrap().unwrap();
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
