//! Workloads whose instructions can be counted (docs/performance.md): the pump without a kernel.

use std::cell::RefCell;
use std::io::{IoSlice, IoSliceMut};
use std::rc::Rc;
use std::task::Waker;

use super::scripts::{Shaken, shake};
use super::*;

/// Only what happens in here is counted.
#[inline(never)]
fn measured<T>(work: impl FnOnce() -> T) -> T {
    std::hint::black_box(work())
}

/// A socket that has bytes for whoever reads, and takes whatever is written.
#[derive(Clone, Default)]
struct Plain(Rc<RefCell<Bytes>>);

#[derive(Default)]
struct Bytes {
    supply: Vec<u8>,
    at: usize,
    ended: bool,
    taken: Vec<u8>,
}

impl Plain {
    fn supply(&self, bytes: Vec<u8>) {
        let mut inner = self.0.borrow_mut();
        assert_eq!(inner.at, inner.supply.len(), "not all was read");
        (inner.supply, inner.at) = (bytes, 0);
    }

    fn end(&self) {
        self.0.borrow_mut().ended = true;
    }

    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.borrow_mut().taken)
    }
}

impl Socket for Plain {
    fn poll_read(&self, _: &mut Context<'_>, slices: &mut [IoSliceMut<'_>]) -> Poll<io::Result<usize>> {
        let mut inner = self.0.borrow_mut();
        let mut count = 0;
        for slice in slices {
            let len = slice.len().min(inner.supply.len() - inner.at);
            slice[..len].copy_from_slice(&inner.supply[inner.at..inner.at + len]);
            inner.at += len;
            count += len;
        }
        if count == 0 && !inner.ended { Poll::Pending } else { Poll::Ready(Ok(count)) }
    }

    fn poll_write(&self, _: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut inner = self.0.borrow_mut();
        let before = inner.taken.len();
        slices.iter().for_each(|slice| inner.taken.extend_from_slice(slice));
        Poll::Ready(Ok(inner.taken.len() - before))
    }

    fn sees_end(&self, _: &mut Context<'_>) -> bool {
        let inner = self.0.borrow();
        inner.ended && inner.at == inner.supply.len()
    }

    fn end(&self) -> io::Result<()> {
        Ok(())
    }

    fn reset_on_close(&self) {}
}

struct Ends {
    about: Arc<About>,
    near_wire: Plain,
    far_wire: Plain,
}

impl Ends {
    fn meet() -> (Ends, Line<Plain>, Line<Plain>) {
        let Shaken { about, near: (near, near_rest), far: (far, tickets, far_rest) } = shake();
        let (near_wire, far_wire) = (Plain::default(), Plain::default());
        let near = Line::new(near_wire.clone(), near, Vec::new(), near_rest, Framing::Frames);
        let far = Line::new(far_wire.clone(), far, tickets, far_rest, Framing::Frames);
        (Ends { about, near_wire, far_wire }, near, far)
    }

    fn join(&self, app: &Plain, line: Line<Plain>) -> Pump<Plain> {
        Pump::new(app.clone(), line, Some(Arc::clone(&self.about)), Arc::default())
    }

    /// Carries what was written at one end of the wire to the other, both ways.
    fn transfer(&self) {
        self.far_wire.supply(self.near_wire.take());
        self.near_wire.supply(self.far_wire.take());
    }
}

fn poll(pump: &mut Pump<Plain>) -> bool {
    loop {
        match pump.poll_turn(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Turn::Over(outcome)) => {
                outcome.unwrap();
                return true;
            }
            Poll::Ready(Turn::Yield) => {}
            Poll::Pending => return false,
        }
    }
}

fn open(line: &mut Line<Plain>) {
    let opened = line.poll_open(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(opened, Poll::Ready(Ok(Opening::Opened))), "{opened:?}");
}

const BULK: usize = 4 << 20;

#[test]
#[ignore = "a workload for counting instructions, see docs/performance.md"]
fn weigh_sealing_four_megabytes() {
    let (ends, near, _far) = Ends::meet();
    let app = Plain::default();
    app.supply(vec![7; BULK]);
    ends.near_wire.0.borrow_mut().taken.reserve(2 * BULK);
    let mut pump = ends.join(&app, near);
    measured(|| poll(&mut pump));
    assert!(ends.near_wire.take().len() > BULK);
}

#[test]
#[ignore = "a workload for counting instructions, see docs/performance.md"]
fn weigh_opening_four_megabytes() {
    let (ends, near, mut far) = Ends::meet();
    let (near_app, far_app) = (Plain::default(), Plain::default());
    near_app.supply(vec![7; BULK]);
    poll(&mut ends.join(&near_app, near));
    ends.transfer();
    far_app.0.borrow_mut().taken.reserve(2 * BULK);
    measured(|| {
        open(&mut far);
        poll(&mut ends.join(&far_app, far));
    });
    assert_eq!(far_app.take().len(), BULK);
}

#[test]
#[ignore = "a workload for counting instructions, see docs/performance.md"]
fn weigh_five_hundred_questions_and_answers() {
    let (ends, near, mut far) = Ends::meet();
    let (near_app, far_app) = (Plain::default(), Plain::default());
    let mut near = ends.join(&near_app, near);
    poll(&mut near);
    ends.transfer();
    open(&mut far);
    let mut far = ends.join(&far_app, far);
    poll(&mut far);
    measured(|| {
        for _ in 0..500 {
            near_app.supply(vec![b'q'; 100]);
            poll(&mut near);
            ends.transfer();
            poll(&mut far);
            assert_eq!(far_app.take().len(), 100);
            far_app.supply(vec![b'a'; 250]);
            poll(&mut far);
            ends.transfer();
            poll(&mut near);
            assert_eq!(near_app.take().len(), 250);
        }
    });
}

#[test]
#[ignore = "a workload for counting instructions, see docs/performance.md"]
fn weigh_two_hundred_connections_on_one_session() {
    let (ends, near, far) = Ends::meet();
    measured(|| {
        let mut lines = (near, far);
        for _ in 0..200 {
            let (near_app, far_app) = (Plain::default(), Plain::default());
            near_app.supply(vec![b'q'; 100]);
            let mut near = ends.join(&near_app, lines.0);
            poll(&mut near);
            ends.transfer();
            open(&mut lines.1);
            let mut far = ends.join(&far_app, lines.1);
            far_app.supply(vec![b'a'; 250]);
            far_app.end();
            poll(&mut far);
            ends.transfer();
            near_app.end();
            assert!(poll(&mut near));
            ends.transfer();
            assert!(poll(&mut far));
            assert_eq!(near_app.take().len(), 250);
            // The next one begins when the other end has said that it has everything.
            ends.transfer();
            let done = near.line.poll_done(&mut Context::from_waker(Waker::noop()));
            assert!(matches!(done, Poll::Ready(Ok(Opening::Opened))), "{done:?}");
            lines = (near.line, far.line);
        }
        lines
    });
}
