//! Sessions that carry one connection after another: both ends ours, over sockets that deliver as unkindly as chance
//! wants.

use proptest::prelude::*;

use super::fake::Fake;
use super::scripts::{Ends, Event, meet, poll};
use super::*;

fn event() -> impl Strategy<Value = Event> {
    let amount = || prop_oneof![1usize..40, 1usize..5_000, 1usize..100_000];
    prop_oneof![
        3 => amount().prop_map(Event::NearSends),
        3 => amount().prop_map(Event::FarSends),
        3 => amount().prop_map(Event::NearTakes),
        3 => amount().prop_map(Event::FarTakes),
        4 => amount().prop_map(Event::Wire),
        1 => Just(Event::NearEnds),
        1 => Just(Event::FarEnds),
        1 => Just(Event::Renew),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn one_session_carries_many_connections_and_every_byte_of_each(
        connections in proptest::collection::vec(proptest::collection::vec(event(), 0..25), 1..5),
    ) {
        let mut ends = meet();
        for events in &connections {
            prop_assert!(ends.carry(events));
        }
        prop_assert!(!ends.near_wire.has_ended() && !ends.far_wire.has_ended());
    }
}

#[test]
fn hundreds_of_connections_without_a_byte_are_no_flood() {
    let mut ends = meet();
    for _ in 0..200 {
        assert!(ends.carry(&[]));
    }
}

#[test]
fn a_retired_session_carries_its_connection_to_the_end_and_no_other() {
    let mut ends = meet();
    assert!(ends.carry(&[Event::NearSends(10), Event::FarSends(10)]));
    assert!(!ends.carry(&[
        Event::NearSends(10),
        Event::Wire(1 << 20),
        Event::Wire(1 << 20),
        Event::Retire,
        Event::FarSends(100_000)
    ]));
}

#[test]
fn a_retirement_may_cross_the_opening_of_a_connection() {
    let mut ends = meet();
    assert!(ends.carry(&[]));
    let words = ends.far.as_mut().unwrap().retirement();
    ends.to_near.extend(words);
    assert!(!ends.carry(&[Event::NearSends(1000), Event::FarSends(1000)]));
}

#[test]
fn an_idle_session_holds_no_buffer() {
    let mut ends = meet();
    assert!(ends.carry(&[Event::NearSends(50_000), Event::FarSends(50_000)]));
    for line in [&ends.near, &ends.far] {
        let line = line.as_ref().unwrap();
        assert!(line.outward.holds_no_buffer() && line.is_quiet());
        assert_eq!(line.inward.held(), (false, 0));
    }
}

/// Else what happens to the next connection would take away what is still on its way of this one.
#[test]
fn no_connection_follows_before_the_far_application_has_all_of_the_one_before() {
    let mut ends = meet();
    let (near_app, far_app) = (Fake::default(), Fake::default());
    let about = Arc::clone(&ends.about);
    let mut near = Pump::new(near_app.clone(), ends.near.take().unwrap(), Some(Arc::clone(&about)), Arc::default());
    let mut far: Option<Pump<Fake>> = None;
    let sent = vec![b'x'; 5000];
    near_app.feed(&sent);
    near_app.end_incoming();
    // The far application says all that it has to say, and reads nothing yet.
    far_app.feed(b"answer");
    far_app.end_incoming();
    let mut context = Context::from_waker(std::task::Waker::noop());
    let (mut near_over, mut far_over, mut taken) = (false, false, Vec::new());
    for round in 0..40 {
        if round == 20 {
            assert!(
                near_over && near.line.outward.parted() && near.line.inward.parted(),
                "it is over for the near end"
            );
            assert!(!far_over && !near.line.is_done() && near.line.poll_done(&mut context).is_pending());
            taken.extend(far_app.take(1 << 20));
        }
        near_app.take(1 << 20);
        near_over = near_over || poll(&mut near).is_some_and(|outcome| outcome.is_ok());
        match &mut far {
            Some(far) => far_over = far_over || poll(far).is_some_and(|outcome| outcome.is_ok()),
            None => {
                let mut line = ends.far.take().unwrap();
                match line.poll_open(&mut context) {
                    Poll::Ready(Ok(Opening::Opened)) => {
                        far = Some(Pump::new(far_app.clone(), line, Some(Arc::clone(&about)), Arc::default()));
                    }
                    _ => ends.far = Some(line),
                }
            }
        }
        ends.transfer(1 << 20);
    }
    taken.extend(far_app.take(0));
    assert!(far_over && taken == sent);
    assert!(matches!(near.line.poll_done(&mut context), Poll::Ready(Ok(Opening::Opened))) && near.line.is_done());
}

/// Lengths of the records in these bytes.
fn records(mut bytes: &[u8]) -> Vec<usize> {
    let mut lengths = Vec::new();
    while let Some(len) = crate::record::record_len(bytes) {
        lengths.push(len);
        bytes = &bytes[len..];
    }
    assert!(bytes.is_empty(), "a part of a record");
    lengths
}

/// A connection that is to be opened on a session that has carried one, so that nothing of the handshake is left to be sent.
fn dialled() -> (Ends, Fake, Pump<Fake>) {
    let mut ends = meet();
    assert!(ends.carry(&[]));
    let app = Fake::default();
    let near = Pump::new(app.clone(), ends.near.take().unwrap(), Some(Arc::clone(&ends.about)), Arc::default());
    ends.near_wire.take(1 << 20);
    (ends, app, near)
}

/// Whether a pump lets others have their turn, with more to do itself.
fn yields(pump: &mut Pump<Fake>) -> bool {
    matches!(pump.poll_turn(&mut Context::from_waker(std::task::Waker::noop())), Poll::Ready(Turn::Yield))
}

/// Each record costs two system calls and mostly a wake-up, which is half of what a short connection costs.
#[test]
fn a_question_travels_with_its_opening_and_an_end_with_the_last_bytes_before_it() {
    let (ends, near_app, mut near) = dialled();
    assert!(yields(&mut near));
    assert!(ends.near_wire.take(1 << 20).is_empty(), "the application has its turn first");
    near_app.feed(b"question");
    near_app.end_incoming();
    assert!(poll(&mut near).is_none());
    assert_eq!(records(&ends.near_wire.take(1 << 20)).len(), 1);
}

#[test]
fn the_opening_waits_one_turn_for_an_application_that_listens_first() {
    let (ends, near_app, mut near) = dialled();
    assert!(yields(&mut near) && ends.near_wire.take(1 << 20).is_empty());
    assert!(poll(&mut near).is_none());
    assert_eq!(records(&ends.near_wire.take(1 << 20)).len(), 1);
    near_app.feed(b"question");
    assert!(poll(&mut near).is_none());
    assert_eq!(records(&ends.near_wire.take(1 << 20)).len(), 1);
}

#[test]
fn a_reset_reaches_the_other_application_and_ends_the_session() {
    let mut ends = meet();
    let (near_app, far_app) = (Fake::default(), Fake::default());
    let about = || Some(Arc::clone(&ends.about));
    let mut near = Pump::new(near_app.clone(), ends.near.take().unwrap(), about(), Arc::default());
    near_app.feed(b"hello");
    assert!(poll(&mut near).is_none());
    ends.near_wire.take(1 << 20);
    assert!(poll(&mut near).is_none());
    let bytes = ends.near_wire.take(0);
    ends.far_wire.feed(&bytes);
    let mut line = ends.far.take().unwrap();
    let opened = line.poll_open(&mut Context::from_waker(std::task::Waker::noop()));
    assert!(matches!(opened, Poll::Ready(Ok(Opening::Opened))), "{opened:?}");
    let mut far = Pump::new(far_app.clone(), line, Some(Arc::clone(&ends.about)), Arc::default());
    far_app.take(1 << 20);
    assert!(poll(&mut far).is_none());
    assert_eq!(far_app.take(1 << 20), b"hello");
    near_app.fail();
    assert!(matches!(poll(&mut near), Some(Err(Broken::Io { side: Side::App, .. }))));
    drop(near);
    assert!(ends.near_wire.resets());
    // What a reset looks like from the other end; and a bare FIN, which is no end of a connection here.
    ends.far_wire.end_incoming();
    assert!(matches!(poll(&mut far), Some(Err(Broken::Io { side: Side::Peer, .. }))));
    drop(far);
    assert!(far_app.resets());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// The peer is authenticated, so what it frames can be anything at all.
    #[test]
    fn whatever_an_authenticated_peer_frames_nothing_panics_and_no_byte_comes_before_an_opening(
        frames in proptest::collection::vec((0u8..10, 0usize..40), 0..40),
    ) {
        let mut ends = meet();
        let near = ends.near.as_mut().unwrap();
        for (flags, len) in &frames {
            let mut content = vec![*flags];
            content.resize(1 + len, b'x');
            let bytes = near.outward.raw(&content);
            ends.far_wire.feed(&bytes);
        }
        let mut line = ends.far.take().unwrap();
        let app = Fake::default();
        app.take(1 << 20);
        let opening = line.poll_open(&mut Context::from_waker(std::task::Waker::noop()));
        match opening {
            Poll::Ready(Ok(Opening::Opened)) => {
                prop_assert_eq!(frames.iter().find(|(flags, _)| *flags != 0).map(|(flags, _)| flags & 1), Some(1));
                let mut pump = Pump::new(app, line, Some(Arc::clone(&ends.about)), Arc::default());
                let _ = poll(&mut pump);
            }
            Poll::Ready(Ok(Opening::Closed)) => prop_assert!(false, "closed by frames"),
            Poll::Ready(Err(_)) | Poll::Pending => prop_assert!(app.take(0).is_empty()),
        }
    }
}
