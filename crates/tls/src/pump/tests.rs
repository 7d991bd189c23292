//! The pump against the library's own record layer, over sockets that deliver as unkindly as chance wants.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::sync::atomic::AtomicBool;
use std::task::{Wake, Waker};

use proptest::prelude::*;
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::{ClientConnection, Connection, ServerConnection};
use rustls_pki_types::ServerName;

use super::fake::{FLAVOURS, Fake, Flavour, We, forge, pattern};
use super::*;
use crate::bundle::Bundle;
use crate::credentials::{Credentials, Reuse};
use crate::handshake::{Half, Incoming, Step as HandshakeStep, advance};
use crate::hello::Hello;
use crate::leaf::Leaf;
use crate::suite::KeyExchange;
use crate::verify::Gate;

struct Joined {
    pump: Pump<Fake>,
    app: Fake,
    wire: Fake,
    peer: Connection,
    woken: Arc<Flag>,
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Makes a handshake between our half and the library's whole connection, and a pump from it.
fn join(we: We, flavour: Flavour) -> Joined {
    let authority = forge::Authority::new("root");
    let gate: Arc<dyn Gate> = Arc::new(|_: &crate::Peer| Ok(()));
    let credentials = |service| {
        let issued = authority.leaf(service);
        let leaf = Leaf::from_pem(&issued.certificates, &issued.key).unwrap();
        let bundle = Bundle::from_pem([authority.pem.as_str()]).unwrap();
        Credentials::new(leaf, bundle, KeyExchange::Classical, &gate).unwrap()
    };
    let (ours, theirs) = (credentials("ours"), credentials("theirs"));
    let name = ServerName::try_from("peer").unwrap();
    match we {
        We::Accept => {
            let mut peer: Connection = ClientConnection::new(Arc::new(flavour.client(&theirs)), name).unwrap().into();
            let hello = Hello { offers_tls13: flavour.is_tls13(), ..Hello::default() };
            let mut half = UnbufferedServerConnection::new(Arc::clone(ours.server(hello, Reuse::Sessions))).unwrap();
            let (outgoing, rest) = shake(&mut half, &mut peer);
            joined(Parts::of_server(half).unwrap(), outgoing, rest, peer)
        }
        We::Dial => {
            let mut peer: Connection = ServerConnection::new(Arc::new(flavour.server(&theirs))).unwrap().into();
            let mut half = UnbufferedClientConnection::new(Arc::clone(ours.client(Reuse::Sessions)), name).unwrap();
            let (outgoing, rest) = shake(&mut half, &mut peer);
            joined(Parts::of_client(half, None).unwrap(), outgoing, rest, peer)
        }
    }
}

fn shake<H: Half>(half: &mut H, peer: &mut Connection) -> (Vec<u8>, Vec<u8>) {
    let (mut incoming, mut outgoing) = (Incoming::default(), Vec::new());
    for _ in 0..50 {
        if advance(half, &mut incoming, &mut outgoing).unwrap() == HandshakeStep::Done {
            return (outgoing, incoming.into_rest());
        }
        peer.read_tls(&mut &outgoing[..]).unwrap();
        outgoing.clear();
        peer.process_new_packets().unwrap();
        let mut bytes = Vec::new();
        while peer.wants_write() {
            peer.write_tls(&mut bytes).unwrap();
        }
        incoming.push(&bytes);
        incoming.show_record();
    }
    panic!("the handshake does not end");
}

fn joined(parts: Parts, mut outgoing: Vec<u8>, rest: Vec<u8>, mut peer: Connection) -> Joined {
    peer.set_buffer_limit(None);
    if peer.is_handshaking() {
        // The peer must know that the handshake is over before a test lets it send or end.
        peer.read_tls(&mut &outgoing[..]).unwrap();
        peer.process_new_packets().unwrap();
        outgoing.clear();
    }
    let (app, wire) = (Fake::default(), Fake::default());
    let line = Line::new(wire.clone(), parts, outgoing, rest, Framing::Bare);
    let pump = Pump::new(app.clone(), line, None, Arc::default());
    Joined { pump, app, wire, peer, woken: Arc::new(Flag(AtomicBool::new(true))) }
}

impl Joined {
    /// Polls the pump if something woke it, as a runtime would.
    fn poll(&mut self) -> Option<Result<(), Broken>> {
        while self.woken.0.swap(false, Ordering::Relaxed) {
            let waker = Waker::from(Arc::clone(&self.woken));
            match self.pump.poll_turn(&mut Context::from_waker(&waker)) {
                Poll::Ready(Turn::Over(outcome)) => return Some(outcome),
                Poll::Ready(Turn::Yield) => self.woken.0.store(true, Ordering::Relaxed),
                Poll::Pending => {}
            }
        }
        None
    }

    /// Gives the peer what was sent to it; returns the data in it and whether the peer saw the end.
    fn deliver(&mut self, room: usize) -> (Vec<u8>, bool) {
        let bytes = self.wire.take(room);
        let mut unread = &bytes[..];
        let mut data = Vec::new();
        let mut ended = false;
        while !unread.is_empty() {
            self.peer.read_tls(&mut unread).unwrap();
            ended |= self.peer.process_new_packets().unwrap().peer_has_closed();
            let _ = self.peer.reader().read_to_end(&mut data);
        }
        (data, ended)
    }

    /// Puts what the peer wants to send on the wire.
    fn collect(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.peer.wants_write() {
            self.peer.write_tls(&mut bytes).unwrap();
        }
        bytes
    }
}

/// How a direction comes to its end.
#[derive(Clone, Copy, Debug, PartialEq)]
enum PeerEnd {
    CloseNotify,
    BareFin,
}

#[derive(Clone, Debug)]
enum Event {
    AppSends(usize),
    PeerSends(usize),
    PeerRenewsKeys,
    WireDelivers(usize),
    AppTakes(usize),
    PeerTakes(usize),
    AppEnds,
    PeerEnds(PeerEnd),
}

fn event() -> impl Strategy<Value = Event> {
    let amount = || prop_oneof![1usize..40, 1usize..5_000, 1usize..200_000];
    prop_oneof![
        4 => amount().prop_map(Event::AppSends),
        4 => amount().prop_map(Event::PeerSends),
        1 => Just(Event::PeerRenewsKeys),
        4 => amount().prop_map(Event::WireDelivers),
        4 => amount().prop_map(Event::AppTakes),
        4 => amount().prop_map(Event::PeerTakes),
        1 => Just(Event::AppEnds),
        1 => prop_oneof![Just(PeerEnd::CloseNotify), Just(PeerEnd::BareFin)].prop_map(Event::PeerEnds),
    ]
}

/// Runs the events, then lets everything flow until both ends are over, and compares every byte.
fn run(we: We, flavour: Flavour, events: &[Event]) {
    let mut joined = join(we, flavour);
    let (mut to_peer, mut to_app) = (Vec::new(), Vec::new());
    let (mut at_peer, mut at_app) = (Vec::new(), Vec::new());
    let mut on_wire: VecDeque<u8> = VecDeque::new();
    let (mut app_ended, mut peer_ended, mut peer_saw_end) = (false, None, false);
    let mut outcome = None;
    let finale = [
        Event::AppEnds,
        Event::PeerEnds(PeerEnd::CloseNotify),
        Event::WireDelivers(usize::MAX),
        Event::AppTakes(1 << 20),
        Event::PeerTakes(1 << 20),
    ];
    for event in events.iter().chain(finale.iter().cycle().take(200)) {
        match event {
            Event::AppSends(len) if !app_ended => {
                let bytes = pattern(*len, to_peer.len() as u8);
                joined.app.feed(&bytes);
                to_peer.extend(bytes);
            }
            Event::PeerSends(len) if peer_ended.is_none() => {
                let bytes = pattern(*len, to_app.len() as u8);
                joined.peer.writer().write_all(&bytes).unwrap();
                to_app.extend(bytes);
            }
            Event::PeerRenewsKeys if peer_ended.is_none() && flavour.is_tls13() => {
                joined.peer.refresh_traffic_keys().unwrap();
            }
            Event::WireDelivers(len) => {
                on_wire.extend(joined.collect());
                let len = (*len).min(on_wire.len());
                let bytes: Vec<u8> = on_wire.drain(..len).collect();
                joined.wire.feed(&bytes);
                if on_wire.is_empty() && peer_ended.is_some() {
                    joined.wire.end_incoming();
                }
            }
            Event::AppTakes(room) => at_app.extend(joined.app.take(*room)),
            Event::PeerTakes(room) => {
                let (data, ended) = joined.deliver(*room);
                at_peer.extend(data);
                peer_saw_end |= ended;
            }
            Event::AppEnds if !app_ended => {
                app_ended = true;
                joined.app.end_incoming();
            }
            Event::PeerEnds(how) if peer_ended.is_none() => {
                peer_ended = Some(*how);
                if *how == PeerEnd::CloseNotify {
                    joined.peer.send_close_notify();
                }
            }
            _ => {}
        }
        outcome = joined.poll().or(outcome);
    }
    at_app.extend(joined.app.take(0));
    let (data, ended) = joined.deliver(0);
    at_peer.extend(data);
    assert!(matches!(outcome, Some(Ok(()))), "{outcome:?}");
    assert!(at_peer == to_peer, "{} of {} bytes reached the peer", at_peer.len(), to_peer.len());
    assert!(at_app == to_app, "{} of {} bytes reached the application", at_app.len(), to_app.len());
    assert!(peer_saw_end || ended, "the peer saw no close_notify");
    assert!(joined.app.has_ended() && joined.wire.has_ended(), "a FIN is missing");
    assert_eq!(joined.pump.moved(), (to_peer.len() as u64, to_app.len() as u64));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn every_byte_arrives_whatever_the_order_and_size_of_events(
        dial in any::<bool>(),
        flavour in 0usize..6,
        events in proptest::collection::vec(event(), 0..60),
    ) {
        run(if dial { We::Dial } else { We::Accept }, FLAVOURS[flavour], &events);
    }
}

#[test]
fn each_suite_carries_both_directions() {
    for flavour in FLAVOURS {
        for we in [We::Dial, We::Accept] {
            run(we, flavour, &[Event::AppSends(300_000), Event::PeerSends(300_000)]);
        }
    }
}

#[test]
fn after_one_direction_has_ended_the_other_goes_on() {
    for flavour in [FLAVOURS[0], FLAVOURS[3]] {
        let mut joined = join(We::Accept, flavour);
        joined.peer.send_close_notify();
        let bytes = joined.collect();
        joined.wire.feed(&bytes);
        assert!(joined.poll().is_none());
        assert!(joined.app.has_ended());
        let reply = pattern(100_000, 7);
        joined.app.feed(&reply);
        joined.app.end_incoming();
        let mut received = Vec::new();
        let mut outcome = None;
        for _ in 0..10 {
            outcome = joined.poll().or(outcome);
            received.extend(joined.deliver(1 << 20).0);
        }
        assert!(received == reply);
        assert!(matches!(outcome, Some(Ok(()))));
    }
}

#[test]
fn an_idle_pump_holds_no_buffer_and_a_part_of_a_record_only_its_own_size() {
    let mut joined = join(We::Accept, FLAVOURS[0]);
    joined.peer.writer().write_all(&[1; 1000]).unwrap();
    let bytes = joined.collect();
    joined.wire.take(0);
    joined.app.take(1 << 20);
    joined.wire.feed(&bytes[..600]);
    assert!(joined.poll().is_none());
    assert!(joined.pump.line.outward.holds_no_buffer());
    assert_eq!(joined.pump.line.inward.held(), (false, 600));
    joined.wire.feed(&bytes[600..]);
    assert!(joined.poll().is_none());
    assert_eq!(joined.pump.line.inward.held(), (false, 0));
    assert_eq!(joined.app.take(0).len(), 1000);
}

#[test]
fn keys_wear_out_and_are_renewed_without_being_asked() {
    let mut joined = join(We::Accept, FLAVOURS[0]);
    joined.pump.line.outward.wear_out_after(3);
    let bytes = pattern(200_000, 1);
    joined.app.feed(&bytes);
    let mut received = Vec::new();
    for _ in 0..20 {
        assert!(joined.poll().is_none());
        received.extend(joined.deliver(1 << 20).0);
    }
    assert!(received == bytes);
}

#[test]
fn a_key_that_cannot_be_renewed_ends_the_connection_with_an_alert_behind_all_that_was_read() {
    let mut joined = join(We::Accept, FLAVOURS[3]);
    joined.pump.line.outward.wear_out_after(3);
    let bytes = pattern(2_000_000, 1);
    joined.app.feed(&bytes);
    joined.wire.take(40 * 17_000);
    let outcome = joined.poll();
    assert!(matches!(outcome, Some(Err(Broken::Worn))), "{outcome:?}");
    let (on_wire, mut received) = (joined.wire.take(0), Vec::new());
    let mut unread = &on_wire[..];
    let told = loop {
        assert!(!unread.is_empty(), "no alert");
        joined.peer.read_tls(&mut unread).unwrap();
        let told = joined.peer.process_new_packets();
        let _ = joined.peer.reader().read_to_end(&mut received);
        if let Err(error) = told {
            break error;
        }
    };
    assert_eq!(told, rustls::Error::AlertReceived(rustls::AlertDescription::InternalError));
    assert!(received.len() > 3 * 16_000 && bytes.starts_with(&received), "{} bytes", received.len());
    assert_eq!(received.len() as u64, joined.pump.moved().0);
    drop(joined.pump);
    assert!(joined.app.resets() && !joined.wire.resets());
}

#[test]
fn many_small_messages_do_not_wear_out_a_key_that_cannot_be_renewed() {
    let mut joined = join(We::Accept, FLAVOURS[3]);
    joined.pump.line.outward.wear_out_after(3);
    joined.wire.take(1 << 20);
    let mut received = Vec::new();
    for _ in 0..200 {
        joined.app.feed(b"tick");
        assert!(joined.poll().is_none());
        received.extend(joined.deliver(1 << 20).0);
    }
    assert!(received == b"tick".repeat(200));
}

#[test]
fn a_peer_that_cannot_be_told_why_gets_a_reset_and_no_regular_end() {
    // The alert cannot be sealed.
    let mut joined = join(We::Accept, FLAVOURS[3]);
    joined.wire.take(1 << 20);
    joined.pump.line.outward.exhaust();
    joined.app.feed(b"more");
    assert!(matches!(joined.poll(), Some(Err(Broken::Worn))));
    assert!(joined.app.resets() && joined.wire.resets());

    // Or not be sent: the peer takes nothing, or only a part of what was said before.
    for room in [0, 100] {
        let mut joined = join(We::Accept, FLAVOURS[0]);
        joined.wire.take(1 << 20);
        assert!(joined.poll().is_none());
        joined.wire.take(room);
        joined.app.feed(&[1; 1000]);
        assert!(joined.poll().is_none());
        joined.wire.feed(&[0; 20]);
        assert!(matches!(joined.poll(), Some(Err(Broken::Protocol(_)))));
        assert!(joined.app.resets() && joined.wire.resets(), "with room for {room}");
    }
}

#[test]
fn an_end_in_the_middle_of_a_record_is_none() {
    for flavour in FLAVOURS {
        for cut in [1, 4, 600] {
            let mut joined = join(We::Accept, flavour);
            joined.app.take(1 << 20);
            joined.wire.take(1 << 20);
            joined.peer.writer().write_all(b"whole").unwrap();
            let whole = joined.collect();
            joined.wire.feed(&whole);
            joined.peer.writer().write_all(&[1; 1000]).unwrap();
            let bytes = joined.collect();
            joined.wire.feed(&bytes[..cut]);
            joined.wire.end_incoming();
            let outcome = joined.poll();
            let Some(Err(Broken::Io { side: Side::Peer, error })) = outcome else { panic!("{flavour:?}: {outcome:?}") };
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
            assert_eq!(joined.app.take(0), b"whole");
            assert!(joined.app.resets() && !joined.app.has_ended(), "{flavour:?}: {cut} bytes look like a regular end");
        }
    }
}

#[test]
fn a_reset_of_one_connection_resets_the_other() {
    let mut joined = join(We::Dial, FLAVOURS[0]);
    assert!(joined.poll().is_none());
    joined.app.fail();
    assert!(matches!(joined.poll(), Some(Err(Broken::Io { side: Side::App, .. }))));
    assert!(joined.wire.resets());

    let mut joined = join(We::Dial, FLAVOURS[0]);
    assert!(joined.poll().is_none());
    joined.wire.fail();
    assert!(matches!(joined.poll(), Some(Err(Broken::Io { side: Side::Peer, .. }))));
    assert!(joined.app.resets());
}

#[test]
fn a_pump_that_is_dropped_resets_both() {
    let Joined { pump, app, wire, .. } = join(We::Dial, FLAVOURS[0]);
    drop(pump);
    assert!(app.resets() && wire.resets());
}

#[test]
fn a_changed_byte_ends_the_connection_with_an_alert() {
    for flavour in FLAVOURS {
        let mut joined = join(We::Accept, flavour);
        joined.peer.writer().write_all(&[1; 1000]).unwrap();
        let mut bytes = joined.collect();
        *bytes.last_mut().unwrap() ^= 1;
        joined.wire.take(1 << 20);
        joined.wire.feed(&bytes);
        assert!(matches!(joined.poll(), Some(Err(Broken::Protocol(alert::BAD_RECORD_MAC)))), "{flavour:?}");
        let bytes = joined.wire.take(0);
        joined.peer.read_tls(&mut &bytes[..]).unwrap();
        let told = joined.peer.process_new_packets();
        assert!(matches!(told, Err(rustls::Error::AlertReceived(rustls::AlertDescription::BadRecordMac))), "{told:?}");
        assert!(joined.app.take(0).is_empty());
    }
}

#[test]
fn a_flood_of_records_without_data_is_not_endured() {
    let mut joined = join(We::Accept, FLAVOURS[0]);
    let mut bytes = Vec::new();
    for _ in 0..100 {
        joined.peer.refresh_traffic_keys().unwrap();
        bytes.extend(joined.collect());
    }
    joined.wire.feed(&bytes);
    assert!(matches!(joined.poll(), Some(Err(Broken::Protocol(alert::UNEXPECTED_MESSAGE)))));
}

proptest! {
    #[test]
    fn garbage_behind_the_handshake_ends_the_connection_and_nothing_else(
        garbage in proptest::collection::vec(any::<u8>(), 6..2000),
        flavour in 0usize..6,
    ) {
        let mut joined = join(We::Accept, FLAVOURS[flavour]);
        joined.wire.take(1 << 20);
        joined.app.take(1 << 20);
        joined.wire.feed(&garbage);
        joined.wire.end_incoming();
        joined.app.end_incoming();
        let outcome = joined.poll();
        prop_assert!(outcome.is_some());
        prop_assert!(joined.app.take(0).is_empty());
    }
}
