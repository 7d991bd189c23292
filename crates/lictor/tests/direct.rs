//! Two proxies of one agent without TLS between them: everything else is as it is with TLS.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up shall fail")]

mod common;

use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixStream};
use std::process::Command;
use std::thread;
use std::time::Duration;

use common::{LICTOR, Load, connect, echo, echo_once, exchange, is_cut, serve, two_services, wait_path};
use lictor_testkit::house::send;
use lictor_testkit::{House, until};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::process::Signal;
use serde_json::{Value, json};

/// A house with `web` that reaches `db` directly, ready and known to each other.
fn neighbors(db: SocketAddr) -> (House, u16) {
    let (mut config, entry) = two_services(db.port());
    config["connect"] = json!({"same_node": "direct"});
    let house = House::start(LICTOR, config);
    house.wait_healthy("db");
    wait_direct(&house, entry);
    (house, entry)
}

/// Waits until connections are handed over: the proxies get to know each other with their first ones.
fn wait_direct(house: &House, entry: u16) {
    let before = direct(house, "db-proxy");
    until("connections go without TLS", || {
        // Proxies that have just been started may not serve yet.
        let _ = connect(entry).map(|connection| connection.shutdown(Shutdown::Write));
        direct(house, "db-proxy") > before
    });
}

/// What the proxy says of itself, once it has said it: an agent that has just started has heard nothing yet.
fn report(house: &House, id: &str) -> Value {
    let ask = || house.get(&format!("/v1/agent/connect/process/{id}")).json()["Report"].clone();
    until(&format!("{id} has reported"), || ask().is_object());
    ask()
}

fn number(house: &House, id: &str, name: &str) -> u64 {
    report(house, id)[name].as_u64().unwrap_or_default()
}

fn direct(house: &House, id: &str) -> u64 {
    number(house, id, "DirectConnections")
}

fn socket_of(house: &House, id: &str) -> String {
    house.get(&format!("/v1/agent/connect/neighbor?id={id}")).json()["Socket"].as_str().unwrap().to_owned()
}

fn logs(house: &House, id: &str) -> String {
    let address = format!("127.0.0.1:{}", house.http_port);
    let output =
        Command::new(LICTOR).args(["connect", "logs", "-n", "10000", "-http-addr", &address, id]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Asks for the number until it stands still: proxies report twice a second.
fn settled(house: &House, id: &str, at_least: u64) -> u64 {
    until(&format!("{id} has counted {at_least}"), || direct(house, id) >= at_least);
    direct(house, id)
}

const BLOCK: usize = 64 * 1024;

/// The block with this number: no two are alike.
fn block(number: u64) -> Vec<u8> {
    let mut block: Vec<u8> = (0..BLOCK).map(|at| (at % 253) as u8).collect();
    block[..8].copy_from_slice(&number.to_be_bytes());
    block
}

fn write_blocks(mut to: &TcpStream, count: u64) {
    let mut next = block(0);
    for number in 0..count {
        next[..8].copy_from_slice(&number.to_be_bytes());
        to.write_all(&next).unwrap();
    }
    to.shutdown(Shutdown::Write).unwrap();
}

/// Reads to the end; how many blocks came, each as it must be.
fn read_blocks(mut from: &TcpStream) -> u64 {
    let (mut expected, mut got) = (block(0), vec![0; BLOCK]);
    let mut number = 0u64;
    while from.read(&mut got[..1]).unwrap() == 1 {
        from.read_exact(&mut got[1..]).unwrap();
        expected[..8].copy_from_slice(&number.to_be_bytes());
        assert!(got == expected, "block {number} is another one");
        number += 1;
    }
    number
}

#[test]
fn hundreds_of_megabytes_pass_both_ways_and_each_end_ends_alone() {
    const BLOCKS: u64 = 4_000;
    let db = serve("127.0.0.1:0", |connection| {
        // Those by which the proxies get to know each other bring nothing.
        if connection.peek(&mut [0]).is_ok_and(|read| read == 0) {
            return;
        }
        thread::scope(|scope| {
            let sending = scope.spawn(|| write_blocks(&connection, BLOCKS));
            assert_eq!(read_blocks(&connection), BLOCKS);
            sending.join().unwrap();
        });
    });
    let (house, entry) = neighbors(db);
    let connection = connect(entry).unwrap();
    thread::scope(|scope| {
        let sending = scope.spawn(|| write_blocks(&connection, BLOCKS));
        assert_eq!(read_blocks(&connection), BLOCKS);
        sending.join().unwrap();
    });
    drop(connection);
    // Both have counted the same bytes, on their own terms, and none of them with TLS.
    let bytes = BLOCKS * BLOCK as u64;
    for (id, name) in [("web-proxy", "connection to service:default/db"), ("db-proxy", "/ns/default/dc/dc1/svc/web")] {
        let wanted = format!("{name} without TLS ended ({bytes} bytes out, {bytes} in, ");
        until(&format!("{id} says {wanted}"), || logs(&house, id).contains(&wanted));
    }
    until("nothing is left of it", || {
        ["web-proxy", "db-proxy"].iter().all(|id| number(&house, id, "Connections") == 0)
    });
}

#[test]
fn either_side_may_end_first_and_the_other_goes_on() {
    // Answers only when its client has ended, and tells how much came.
    let db = serve("127.0.0.1:0", |mut connection| {
        let mut all = Vec::new();
        connection.read_to_end(&mut all).unwrap();
        connection.write_all(format!("{} bytes", all.len()).as_bytes()).unwrap();
    });
    let (house, entry) = neighbors(db);
    let mut connection = connect(entry).unwrap();
    connection.write_all(b"hello").unwrap();
    connection.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "5 bytes");
    drop(house);

    // The application ends its direction first and goes on reading.
    let (tell, told) = std::sync::mpsc::channel();
    let db = serve("127.0.0.1:0", move |mut connection| {
        connection.write_all(b"bye").unwrap();
        connection.shutdown(Shutdown::Write).unwrap();
        let mut all = Vec::new();
        connection.read_to_end(&mut all).unwrap();
        let _ = tell.send(all);
    });
    let (_house, entry) = neighbors(db);
    while told.try_recv().is_ok() {}
    let mut connection = connect(entry).unwrap();
    let mut farewell = String::new();
    connection.read_to_string(&mut farewell).unwrap();
    assert_eq!(farewell, "bye");
    connection.write_all(b"still here").unwrap();
    drop(connection);
    until("what was sent later has arrived", || told.try_recv().is_ok_and(|all| all == b"still here"));
}

#[test]
fn a_reset_reaches_the_other_application() {
    let (tell, told) = std::sync::mpsc::channel();
    let db = serve("127.0.0.1:0", move |mut connection| {
        let mut byte = [0; 1];
        // Those by which the proxies get to know each other bring nothing.
        if connection.read(&mut byte).is_ok_and(|read| read == 1) {
            let _ = tell.send(Ok(1));
            let _ = tell.send(connection.read(&mut byte).map_err(|error| error.kind()));
        }
    });
    let (_house, entry) = neighbors(db);
    let mut connection = connect(entry).unwrap();
    connection.write_all(b"x").unwrap();
    let outcome = || told.recv_timeout(Duration::from_secs(20)).unwrap();
    // What was sent before a reset may be lost with it, so it has to arrive first.
    assert_eq!(outcome(), Ok(1));
    rustix::net::sockopt::set_socket_linger(&connection, Some(Duration::ZERO)).unwrap();
    drop(connection);
    assert_eq!(outcome(), Err(std::io::ErrorKind::ConnectionReset));
}

#[test]
fn a_deny_refuses_and_cuts_and_both_proxies_count_and_name_the_connection() {
    let (house, entry) = neighbors(echo());
    let mut open = connect(entry).unwrap();
    exchange(&mut open).unwrap();
    until("both proxies count it", || {
        let [web, db] = ["web-proxy", "db-proxy"].map(|id| report(&house, id));
        (&web["Connections"], &web["Inbound"]) == (&json!(1), &json!(0))
            && (&db["Connections"], &db["Inbound"]) == (&json!(1), &json!(1))
    });
    let before = (direct(&house, "web-proxy"), direct(&house, "db-proxy"));
    let deny = house.intend("web", "db", "deny");
    assert!(is_cut(&mut open, Duration::from_secs(2)), "the connection goes on");
    until("new connections are refused", || echo_once(entry).is_err());
    let answer = house.request("DELETE", &format!("/v1/connect/intentions/{deny}"), b"");
    assert_eq!(answer.status, 200);
    until("new connections are let in again", || echo_once(entry).is_ok());
    settled(&house, "web-proxy", before.0 + 1);
    settled(&house, "db-proxy", before.1 + 1);
    let log = logs(&house, "db-proxy");
    let named = log.lines().any(|line| line.contains("/ns/default/dc/dc1/svc/web without TLS cut: "));
    assert!(named, "{log}");
    assert!(log.contains("denied: "), "{log}");
}

#[test]
fn new_connections_go_on_while_the_agent_is_away() {
    let (mut house, entry) = neighbors(echo());
    let mut open = connect(entry).unwrap();
    exchange(&mut open).unwrap();
    let pids = ["web-proxy", "db-proxy"].map(|id| house.proxy_pid(id));
    until("both have reported since", || {
        ["web-proxy", "db-proxy"].map(|id| number(&house, id, "Connections")) == [1, 1]
    });
    let before = (direct(&house, "db-proxy"), number(&house, "web-proxy", "DirectFallbacks"));
    house.kill_agent();
    for _ in 0..50 {
        echo_once(entry).unwrap();
    }
    exchange(&mut open).unwrap();
    house.start_agent();
    house.wait_ready();
    settled(&house, "db-proxy", before.0 + 50);
    assert_eq!(number(&house, "web-proxy", "DirectFallbacks"), before.1);
    assert_eq!(["web-proxy", "db-proxy"].map(|id| house.proxy_pid(id)), pids);
    exchange(&mut open).unwrap();
}

#[test]
fn upgrading_the_proxies_under_load_fails_no_request_and_connections_are_handed_over_again() {
    let (house, entry) = neighbors(echo());
    let load = Load::start(entry, 4, 4);
    load.wait_for(200);
    let sockets = ["web-proxy", "db-proxy"].map(|id| socket_of(&house, id));
    let address = format!("127.0.0.1:{}", house.http_port);
    let output = Command::new(LICTOR).args(["connect", "restart-proxies", "-http-addr", &address]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    load.wait_for(300);
    let (sent, failures) = load.stop();
    assert!(failures.is_empty(), "{} of {sent} requests failed: {:?}", failures.len(), &failures[0]);
    wait_direct(&house, entry);
    assert_ne!(["web-proxy", "db-proxy"].map(|id| socket_of(&house, id)), sockets);
}

#[test]
fn a_killed_proxy_takes_its_connections_with_it_and_its_successor_is_met_again() {
    let (house, entry) = neighbors(echo());
    for id in ["db-proxy", "web-proxy"] {
        let mut open = connect(entry).unwrap();
        exchange(&mut open).unwrap();
        let pid = house.proxy_pid(id);
        send(pid, Signal::KILL);
        assert!(is_cut(&mut open, Duration::from_secs(5)), "{id} is gone and its connection is not");
        until("another process is the proxy", || house.proxies().iter().any(|(of, now)| of == id && *now != pid));
        wait_path(&house, entry);
        wait_direct(&house, entry);
        let other = if id == "db-proxy" { "web-proxy" } else { "db-proxy" };
        until("the other one has forgotten it", || number(&house, other, "Connections") == 0);
    }
}

#[test]
fn a_stranger_is_turned_away_whatever_it_says() {
    let (house, entry) = neighbors(echo());
    let socket = socket_of(&house, "db-proxy");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (near, _) = listener.accept().unwrap();
    // Since Linux 6.16.
    let refusing = lictor_task::descriptors::refuse(UnixStream::pair().unwrap().0).unwrap();
    for _ in 0..20 {
        let mut lane = UnixStream::connect_addr(&UnixAddress::from_abstract_name(&socket).unwrap()).unwrap();
        let mut request = vec![1];
        for name in ["web", "db"] {
            request.extend([0, u8::try_from(name.len()).unwrap()]);
            request.extend(name.as_bytes());
        }
        let descriptors = [near.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
        // It may have been turned away already.
        let sent = rustix::net::sendmsg(&lane, &[IoSlice::new(&request)], &mut control, SendFlags::NOSIGNAL);
        assert!(sent.is_err() || !refusing, "a descriptor has come in");
        lane.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut word = [0];
        let heard = lane.read(&mut word);
        assert!(
            matches!(heard, Ok(0)) || heard.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
        );
        // Time for the agent's word, which is that it knows no such process.
        thread::sleep(Duration::from_millis(20));
    }
    far.write_all(b"anybody?").unwrap();
    far.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(far.read(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
    drop(near);
    // Others are served as before.
    wait_direct(&house, entry);
}

#[test]
fn by_default_everything_goes_with_tls() {
    let (config, entry) = two_services(echo().port());
    let house = House::start(LICTOR, config);
    wait_path(&house, entry);
    for _ in 0..20 {
        echo_once(entry).unwrap();
    }
    assert_eq!(socket_of(&house, "db-proxy"), "");
    assert_eq!((direct(&house, "web-proxy"), direct(&house, "db-proxy")), (0, 0));
}
