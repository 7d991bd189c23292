//! Frames: how one secured session carries connections one after another between two of our own proxies.
//!
//! Agreed on by the protocol name [`PROTOCOL`]. From then on the content of every TLS record of data is one frame: a
//! byte of flags, then payload. The record layer already delimits and authenticates it, so there is no length and no
//! checksum. docs/reuse.md describes the format and its rules.

use crate::record::{Bad, alert};

/// The protocol name (ALPN) of a session that carries frames.
pub(crate) const PROTOCOL: &[u8] = b"lictor/2";

/// The next connection begins with this frame; only the side that dialled says so.
pub(crate) const OPEN: u8 = 1;
/// The sender's direction of the connection ends behind this frame.
pub(crate) const END: u8 = 2;
/// The session shall carry no further connection; only the side that accepted says so.
pub(crate) const RETIRE: u8 = 4;
/// All that the dialler sent with the connection has reached the application; only the side that accepted says so.
pub(crate) const DONE: u8 = 8;

/// What the content of records is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// The connection's bytes; the session carries one connection.
    Bare,
    /// A frame each.
    Frames,
}

impl Framing {
    /// Bytes that every record spends on it.
    pub(crate) fn overhead(self) -> usize {
        match self {
            Framing::Bare => 0,
            Framing::Frames => 1,
        }
    }
}

/// Who sends the frames of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sender {
    /// The side that dialled.
    Dialler,
    /// The side that accepted.
    Acceptor,
}

/// Follows one direction of frames: whether a connection is open in it, and whether the session may carry more.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    sender: Sender,
    /// Whether the direction of a connection is open: between `OPEN` and `END`.
    pub(crate) open: bool,
    /// Whether the session was retired.
    pub(crate) retired: bool,
    /// Whether nothing of the last connection is still on its way to its application; an acceptor's to say.
    pub(crate) done: bool,
}

/// What a frame means for who receives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// It opened a connection.
    pub(crate) opened: bool,
    /// Its payload is the last.
    pub(crate) ended: bool,
}

impl Order {
    pub(crate) fn new(sender: Sender) -> Order {
        Order { sender, open: false, retired: false, done: true }
    }

    /// A dialler has opened a connection, which its acceptor may answer now.
    pub(crate) fn begin(&mut self) {
        self.open = true;
        self.done = false;
    }

    /// Takes the flags of the next frame and whether it has a payload; anything out of order is the peer's fault.
    pub(crate) fn take(&mut self, flags: u8, has_payload: bool) -> Result<Seen, Bad> {
        let allowed = match self.sender {
            Sender::Dialler => OPEN | END,
            Sender::Acceptor => END | RETIRE | DONE,
        };
        let out_of_order = Err(Bad(alert::UNEXPECTED_MESSAGE));
        if flags & !allowed != 0 {
            return out_of_order;
        }
        let opened = flags & OPEN != 0;
        if opened {
            if self.open {
                return out_of_order;
            }
            self.open = true;
        }
        let ended = flags & END != 0;
        if !self.open && (ended || has_payload) {
            return out_of_order;
        }
        self.open &= !ended;
        if flags & DONE != 0 {
            if self.open || self.done {
                return out_of_order;
            }
            self.done = true;
        }
        self.retired |= flags & RETIRE != 0;
        Ok(Seen { opened, ended })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_dialler_opens_sends_and_ends_in_this_order() {
        let mut order = Order::new(Sender::Dialler);
        assert!(order.take(0, true).is_err() && order.take(END, false).is_err());
        assert_eq!(order.take(OPEN, true), Ok(Seen { opened: true, ended: false }));
        assert!(order.take(OPEN, false).is_err());
        assert_eq!(order.take(0, true), Ok(Seen { opened: false, ended: false }));
        assert_eq!(order.take(END, false), Ok(Seen { opened: false, ended: true }));
        assert!(order.take(0, true).is_err());
        assert_eq!(order.take(OPEN | END, true), Ok(Seen { opened: true, ended: true }));
        assert!(order.take(RETIRE, false).is_err());
    }

    #[test]
    fn an_acceptor_never_opens_and_may_retire_at_any_time() {
        let mut order = Order::new(Sender::Acceptor);
        assert!(order.take(OPEN, false).is_err() && order.take(0, true).is_err());
        assert!(order.take(RETIRE, false).is_ok() && order.retired);
        order.begin();
        assert_eq!(order.take(END | RETIRE, true), Ok(Seen { opened: false, ended: true }));
        assert!(order.take(16, false).is_err());
    }

    #[test]
    fn an_acceptor_is_done_with_a_connection_once_and_not_before_its_own_end() {
        let mut order = Order::new(Sender::Acceptor);
        assert!(order.done && order.take(DONE, false).is_err(), "with nothing");
        order.begin();
        assert!(!order.done);
        let mut early = order;
        assert!(early.take(DONE, false).is_err());
        assert!(order.take(END, true).is_ok() && !order.done);
        assert!(order.take(DONE, false).is_ok() && order.done);
        assert!(order.take(DONE, false).is_err());
        order.begin();
        assert!(order.take(END | DONE, false).is_ok() && order.done);
        assert!(Order::new(Sender::Dialler).take(DONE, false).is_err());
    }

    proptest! {
        #[test]
        fn no_sequence_of_frames_moves_data_outside_of_a_connection(
            frames in proptest::collection::vec((any::<u8>(), any::<bool>()), 0..200),
            dialler in any::<bool>(),
        ) {
            let mut order = Order::new(if dialler { Sender::Dialler } else { Sender::Acceptor });
            for (flags, has_payload) in frames {
                let before = order;
                match order.take(flags & 31, has_payload) {
                    Ok(seen) => {
                        prop_assert!(before.open || seen.opened || (!has_payload && !seen.ended));
                        prop_assert_eq!(order.open, (before.open || seen.opened) && !seen.ended);
                    }
                    Err(_) => order = before,
                }
            }
        }
    }
}
