//! Hand-overs without TLS: with other processes than proxies at one end, and of what moves much.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::num::NonZeroUsize;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use lictor_proxy::control::{Neighbor, Whose};
use lictor_proxy::{Config, Mode, Proxy, SameNode};
use lictor_task::descriptors;
use serde_json::json;

use crate::fake::{Agent, Echo, LIMIT, Pair, Running, db_entry, echoes, eventually, instance, web_entry};
use crate::forge::Authority;
use crate::{Flood, mirror, mirrored_until};

fn neighbor(service: &str, pid: u32, socket: &str) -> Neighbor {
    Neighbor { node: "n".into(), service: service.into(), pid: Some(pid), socket: socket.into() }
}

#[tokio::test]
async fn lanes_are_looked_after_while_sessions_wait() {
    // A receiver that always says that TLS shall be used, and that ends a lane when it is told to.
    let name = format!("lictor-test/{:032x}", fastrand::u128(..));
    let listener = UnixListener::bind_addr(&UnixAddress::from_abstract_name(&name).unwrap()).unwrap();
    let (asked, was_asked) = mpsc::channel();
    std::thread::spawn(move || {
        for lane in listener.incoming() {
            let (mut lane, asked) = (lane.unwrap(), asked.clone());
            std::thread::spawn(move || {
                if lane.read(&mut [0; 1024]).is_ok_and(|read| read > 0) && lane.write_all(b"e").is_ok() {
                    let _ = asked.send(lane);
                }
            });
        }
    });
    let authority = Authority::new("Consul CA 7");
    let app = Echo::start("127.0.0.1:0").await;
    let db = Running::start(&Agent::new(&authority, &authority.leaf("db"), db_entry(app.address, json!({}))));
    let agent = Agent::new(&authority, &authority.leaf("web"), web_entry(json!({})));
    agent.set_instances(vec![instance("n/db1", db.public().await)]);
    let us = std::process::id();
    agent.vouch(&Whose::Id("p".into()), neighbor("web", us, ""));
    agent.vouch(&Whose::Id("db1".into()), neighbor("db", us, &name));
    let pair = Pair { authority, app, web: Running::with(&agent, SameNode::Direct), db };
    let mut lanes: Vec<UnixStream> = Vec::new();
    eventually("an offer", async || {
        assert!(pair.works().await);
        lanes.extend(was_asked.try_iter());
        !lanes.is_empty()
    })
    .await;
    // A session waits now for longer than this may take, and the lane beside it.
    let mut lane = lanes.remove(0);
    lane.shutdown(Shutdown::Write).unwrap();
    lane.set_read_timeout(Some(Duration::from_secs(12))).unwrap();
    let closed = tokio::task::spawn_blocking(move || lane.read(&mut [0])).await.unwrap();
    assert!(matches!(closed, Ok(0)), "the proxy keeps what is over: {closed:?}");
}

/// Opens lanes until one may bring a descriptor, leaves it to its child and ends when it is told to; then the child hands a
/// connection over. Says what the answer is.
const HEIR: &str = r"
import os, socket, sys, time
name, port = sys.argv[1], int(sys.argv[2])
while True:
    lane = socket.socket(socket.AF_UNIX)
    lane.connect('\0' + name)
    lane.settimeout(30)
    try:
        if lane.recv(1) == b'r': break
    except OSError: pass
    time.sleep(0.02)
print('known', flush=True)
parent = os.getpid()
if os.fork():
    sys.stdin.read()
    os._exit(0)
os.close(0)
while os.getppid() == parent: time.sleep(0.02)
connection = socket.create_connection(('127.0.0.1', port))
try:
    socket.send_fds(lane, [b'\1\0\3web\0\2db'], [connection.fileno()])
    answer = lane.recv(1)
except OSError as error: answer = error
print(answer, flush=True)
";

#[tokio::test]
async fn a_lane_ends_with_the_process_that_opened_it_whoever_has_it_then() {
    let (probe, _other) = UnixStream::pair().unwrap();
    if !descriptors::refuse(&probe).unwrap() {
        eprintln!("SKIPPED: this kernel does not say when a lane is known (Linux 6.16)");
        return;
    }
    let Some(python) =
        ["/usr/bin/python3", "/usr/local/bin/python3"].into_iter().find(|path| std::fs::metadata(path).is_ok())
    else {
        eprintln!("SKIPPED: there is no python3 to leave a lane to its child");
        return;
    };
    let authority = Authority::new("Consul CA 7");
    let app = Echo::start("127.0.0.1:0").await;
    let agent = Agent::new(&authority, &authority.leaf("db"), db_entry(app.address, json!({})));
    let db = Running::with(&agent, SameNode::Direct);
    db.public().await;
    let elsewhere = Echo::start("127.0.0.1:0").await;
    let socket = db.proxy().reporter().report().direct_socket.unwrap();
    let mut child = Command::new(python)
        .args(["-c", HEIR, &socket, &elsewhere.address.port().to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    agent.vouch(&Whose::Process(child.id()), neighbor("web", child.id(), ""));
    let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
    let heard = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut output, &mut line).unwrap();
        assert_eq!(line, "known\n");
        drop(child.stdin.take());
        child.wait().unwrap();
        let mut answer = String::new();
        output.read_to_string(&mut answer).unwrap();
        answer
    });
    let heard = tokio::time::timeout(LIMIT * 2, heard).await.unwrap().unwrap();
    assert!(heard.contains("b''") || heard.contains("Errno"), "it was taken: {heard}");
    assert_eq!(app.connections(), 0);
}

/// Two proxies whose agents vouch for them, and whose next connection is handed over.
async fn neighbors(app: Echo) -> Pair {
    neighbors_with(app, NonZeroUsize::new(2).unwrap()).await
}

async fn neighbors_with(app: Echo, workers: NonZeroUsize) -> Pair {
    let authority = Authority::new("Consul CA 7");
    let us = std::process::id();
    let behind = Agent::new(&authority, &authority.leaf("db"), db_entry(app.address, json!({})));
    behind.vouch(&Whose::Id("p".into()), neighbor("db", us, ""));
    behind.vouch(&Whose::Process(us), neighbor("web", us, ""));
    let mode = Mode::Agent { proxy_id: "p".into() };
    let config = Config { same_node: SameNode::Direct, workers, ..Config::new(mode) };
    let db = Running { proxy: Some(Proxy::start(config, Arc::clone(&behind)).unwrap()), agent: Arc::clone(&behind) };
    let before = Agent::new(&authority, &authority.leaf("web"), web_entry(json!({})));
    before.set_instances(vec![instance("n/db1", db.public().await)]);
    let socket = db.proxy().reporter().report().direct_socket.unwrap();
    before.vouch(&Whose::Id("p".into()), neighbor("web", us, ""));
    before.vouch(&Whose::Id("db1".into()), neighbor("db", us, &socket));
    let pair = Pair { authority, app, web: Running::with(&before, SameNode::Direct), db };
    eventually("a connection that is handed over", async || {
        assert!(pair.works().await);
        pair.web.proxy().metrics().direct.load(Ordering::Relaxed) > 0
    })
    .await;
    pair
}

#[tokio::test]
async fn lanes_that_bring_nothing_are_not_without_number_and_beside_them_tls_is_used() {
    const MOST: usize = 128;
    let pair = neighbors_with(Echo::start("127.0.0.1:0").await, NonZeroUsize::MIN).await;
    let metrics = pair.web.proxy().metrics();
    // It has the lane that waited.
    let mut live = pair.connect().await;
    assert!(echoes(&mut live).await);
    let socket = pair.db.proxy().reporter().report().direct_socket.unwrap();
    let address = UnixAddress::from_abstract_name(&*socket).unwrap();
    let opening = tokio::task::spawn_blocking(move || {
        let open = |_| {
            let lane = UnixStream::connect_addr(&address).unwrap();
            lane.set_nonblocking(true).unwrap();
            lane
        };
        (0..MOST + 12).map(open).collect::<Vec<_>>()
    });
    let mut lanes = opening.await.unwrap();
    let is_open = |lane: &mut UnixStream| loop {
        match lane.read(&mut [0]) {
            // It is told that it may bring descriptors.
            Ok(1) => {}
            outcome => return outcome.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock),
        }
    };
    eventually("the end of lanes that are too many", async || {
        lanes.retain_mut(is_open);
        lanes.len() <= MOST
    })
    .await;
    let fallbacks = metrics.direct_fallbacks.load(Ordering::Relaxed);
    // Another worker may have a lane that waits.
    eventually("a connection for which there is no lane", async || {
        assert!(pair.works().await);
        metrics.direct_fallbacks.load(Ordering::Relaxed) > fallbacks
    })
    .await;
    drop(lanes);
    let direct = metrics.direct.load(Ordering::Relaxed);
    eventually("room for a lane", async || {
        assert!(pair.works().await);
        metrics.direct.load(Ordering::Relaxed) > direct
    })
    .await;
    assert!(echoes(&mut live).await);
}

/// Waits until the receiving proxy carries so many beside its workers.
async fn aside(pair: &Pair, count: u64) {
    let metrics = pair.db.proxy().metrics();
    eventually("the move of what moves much", async || metrics.aside.load(Ordering::Relaxed) == count).await;
}

#[tokio::test]
async fn what_moves_much_is_joined_beside_its_worker_and_its_lane_comes_back() {
    let pair = neighbors(mirror().await).await;
    let metrics = [pair.web.proxy().metrics(), pair.db.proxy().metrics()];
    let meters = [&metrics[0].upstreams().remove(0).1.meter, &metrics[1].inbound.meter].map(|meter| {
        let count = meter.clone();
        move || (count.outward.load(Ordering::Relaxed), count.inward.load(Ordering::Relaxed))
    });
    let at_rest = async || eventually("the end of all", async || metrics.iter().all(|one| one.active() == 0)).await;
    at_rest().await;
    let before = [meters[0](), meters[1]()];
    let mut total = 0;
    for _ in 0..3 {
        let direct = metrics[1].direct.load(Ordering::Relaxed);
        let flood = Flood::of(pair.connect().await);
        aside(&pair, 1).await;
        assert!(pair.works().await);
        total += flood.end().await.unwrap() + 1;
        aside(&pair, 0).await;
        at_rest().await;
        assert_eq!(metrics[1].direct.load(Ordering::Relaxed), direct + 2, "both were handed over");
    }
    for (meter, (outward, inward)) in meters.iter().zip(before) {
        assert_eq!(meter(), (outward + total, inward + total));
    }
}

#[tokio::test]
async fn what_is_slow_again_goes_back_to_its_worker_and_what_is_denied_ends_where_it_is() {
    let pair = neighbors(mirror().await).await;
    let mut stream = pair.connect().await;
    mirrored_until(&mut stream, || pair.db.proxy().metrics().aside.load(Ordering::Relaxed) == 1).await;
    eventually("the way back", async || {
        assert!(echoes(&mut stream).await);
        pair.db.proxy().metrics().aside.load(Ordering::Relaxed) == 0
    })
    .await;
    assert!(echoes(&mut stream).await);
    let flood = Flood::of(pair.connect().await);
    aside(&pair, 1).await;
    pair.db.agent.deny(Some("web"));
    tokio::time::timeout(LIMIT, flood.task).await.unwrap().unwrap().unwrap_err();
    aside(&pair, 0).await;
    let metrics = pair.db.proxy().metrics();
    eventually("the cut of both", async || (metrics.cut.load(Ordering::Relaxed), metrics.active()) == (2, 0)).await;
}
