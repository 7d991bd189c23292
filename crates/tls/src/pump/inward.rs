//! Peer to application: read many records at once, open them where they are, write their payloads in one call.

use std::io::{IoSlice, IoSliceMut};
use std::ops::Range;
use std::task::{Context, Poll};

use super::{Broken, Side, Step, TURN, Wishes};
use crate::buffer::{Buffer, LEN};
use crate::frame::{Framing, Order, Sender};
use crate::record::{MAX_PAYLOAD, Opener, alert, content, record_len};
use crate::secrets::Secrets;
use crate::socket::Socket;

/// Payloads that one write can take.
const PIECES: usize = 16;

/// Payloads up to this size are moved next to the one before them, so that thousands of tiny records do not make
/// thousands of pieces.
const SMALL: usize = 2048;

/// Records in a row that carry no data before the peer is taken for hostile: each costs us a decryption and more.
const MAX_CONTROL: u32 = 64;

/// Most bytes of a handshake message that comes in pieces; tickets are the only long ones.
const MAX_MESSAGE: usize = 64 * 1024;

const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;
const HELLO_REQUEST: u8 = 0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Flowing,
    /// The peer has ended; FIN follows what is still to be written.
    Ending,
    Over,
}

/// What came of waiting for the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    /// It opened a connection.
    Opened,
    /// It closed the session.
    Closed,
}

pub(super) struct Inward {
    opener: Opener,
    /// Held only while there is something in it.
    buffer: Option<Buffer>,
    /// Sealed bytes in the buffer.
    sealed: Range<usize>,
    /// Opened payloads in the buffer, waiting to be written.
    pieces: Pieces,
    /// Sealed bytes, kept while no buffer is held: mostly the beginning of a record.
    carry: Vec<u8>,
    /// Opened bytes that came with the opening of a connection, kept until the application is there to take them.
    early: Vec<u8>,
    /// The beginning of a handshake message.
    message: Vec<u8>,
    control: u32,
    /// Bytes that the next read asks for; follows what reads bring.
    room: usize,
    phase: Phase,
    framing: Framing,
    order: Order,
    /// The peer has closed the session, not only its direction of a connection.
    pub(super) gone: bool,
    pub(super) failure: Option<Broken>,
    pub(super) moved: u64,
}

impl Inward {
    pub(super) fn new(opener: Opener, rest: Vec<u8>, framing: Framing, sender: Sender) -> Inward {
        Inward {
            framing,
            order: Order::new(sender),
            early: Vec::new(),
            gone: false,
            opener,
            buffer: None,
            sealed: 0..0,
            pieces: Pieces::default(),
            carry: rest,
            message: Vec::new(),
            control: 0,
            room: 2 * MAX_PAYLOAD,
            phase: Phase::Flowing,
            failure: None,
            moved: 0,
        }
    }

    /// Begins with another application's connection, which a dialler has just opened and whose peer may answer now.
    pub(super) fn begin(&mut self) {
        if self.phase == Phase::Over {
            self.phase = Phase::Flowing;
        }
        self.order.begin();
        self.control = 0;
        self.moved = 0;
    }

    /// Whether the connection ended so that the session can carry another.
    pub(super) fn parted(&self) -> bool {
        self.framing == Framing::Frames
            && self.phase == Phase::Over
            && self.failure.is_none()
            && !self.gone
            && !self.order.retired
            && self.message.is_empty()
    }

    /// Whether everything that the peer sent with the connection has reached the application.
    pub(super) fn is_delivered(&self) -> bool {
        self.is_over() && self.failure.is_none()
    }

    /// Whether nothing more comes of it.
    pub(super) fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// Whether all that we sent with the last connection has reached the application there.
    pub(super) fn is_done(&self) -> bool {
        self.order.done
    }

    /// Waits for the peer to say so. `Closed` when it ends the session before that, or with it.
    pub(super) fn poll_done<S: Socket>(
        &mut self,
        context: &mut Context<'_>,
        peer: &S,
        secrets: &mut Secrets,
        wishes: &mut Wishes,
    ) -> Poll<Result<Opening, Broken>> {
        self.phase = Phase::Flowing;
        let outcome = self.poll_word(context, peer, secrets, wishes, |inward| {
            let is_over = inward.order.retired || inward.phase != Phase::Flowing;
            inward.order.done.then_some(if is_over { Opening::Closed } else { Opening::Opened })
        });
        self.give_back();
        self.phase = Phase::Over;
        outcome
    }

    /// Whether nothing has come that is still to be looked at.
    pub(super) fn is_empty(&self) -> bool {
        self.carry.is_empty() && self.early.is_empty()
    }

    /// Waits for the peer to open the next connection. What comes with the opening is kept, out of the way.
    pub(super) fn poll_open<S: Socket>(
        &mut self,
        context: &mut Context<'_>,
        peer: &S,
        secrets: &mut Secrets,
        wishes: &mut Wishes,
    ) -> Poll<Result<Opening, Broken>> {
        if self.phase == Phase::Over {
            self.phase = Phase::Flowing;
        }
        let outcome =
            self.poll_word(context, peer, secrets, wishes, |inward| inward.began().then_some(Opening::Opened));
        match outcome {
            Poll::Ready(Ok(Opening::Opened)) => self.set_aside(),
            Poll::Pending => self.give_back(),
            _ => {}
        }
        outcome
    }

    /// Reads on between two connections until the peer has said what is waited for, or ends the session.
    fn poll_word<S: Socket>(
        &mut self,
        context: &mut Context<'_>,
        peer: &S,
        secrets: &mut Secrets,
        wishes: &mut Wishes,
        said: impl Fn(&Inward) -> Option<Opening>,
    ) -> Poll<Result<Opening, Broken>> {
        loop {
            self.take_up_carry();
            self.open_records(secrets, wishes);
            if let Some(broken) = self.failure.take() {
                return Poll::Ready(Err(broken));
            }
            if let Some(opening) = said(self) {
                return Poll::Ready(Ok(opening));
            }
            if self.phase != Phase::Flowing {
                return Poll::Ready(Ok(Opening::Closed));
            }
            match self.read(context, peer) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(Opening::Closed)),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Broken::Io { side: Side::Peer, error })),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Whether a connection has been opened, and perhaps already ended again.
    fn began(&self) -> bool {
        self.order.open || (self.phase == Phase::Ending && !self.gone)
    }

    pub(super) fn advance<S: Socket>(
        &mut self,
        context: &mut Context<'_>,
        app: &S,
        peer: &S,
        secrets: &mut Secrets,
        wishes: &mut Wishes,
    ) -> Result<Step, Broken> {
        let mut left = TURN;
        loop {
            if self.phase == Phase::Over {
                return Ok(Step::Over);
            }
            self.take_up_carry();
            if !self.pieces.is_empty() {
                match self.write(context, app) {
                    Poll::Ready(Ok(())) => continue,
                    Poll::Pending => return Ok(Step::Idle),
                    Poll::Ready(Err(error)) => {
                        // What the application said before it went may still have to reach the peer.
                        self.over(Some(Broken::Io { side: Side::App, error }));
                        continue;
                    }
                }
            }
            if let Some(broken) = self.failure.take() {
                return Err(broken);
            }
            if self.phase == Phase::Ending {
                let failure = app.end().err().map(|error| Broken::Io { side: Side::App, error });
                self.over(failure);
                continue;
            }
            if self.open_records(secrets, wishes) {
                continue;
            }
            if left == 0 {
                return Ok(Step::Spent);
            }
            match self.read(context, peer) {
                // With frames an end is announced; without an announcement the peer has died. So it has where it ends in the
                // middle of what it says: no bytes that are missing may look like a regular end.
                Poll::Ready(Ok(0)) if self.framing == Framing::Frames || self.is_amid() => {
                    let error = std::io::ErrorKind::UnexpectedEof.into();
                    return Err(Broken::Io { side: Side::Peer, error });
                }
                Poll::Ready(Ok(0)) => self.phase = Phase::Ending,
                Poll::Ready(Ok(count)) => left = left.saturating_sub(count),
                Poll::Ready(Err(error)) => return Err(Broken::Io { side: Side::Peer, error }),
                Poll::Pending => {
                    self.give_back();
                    return Ok(Step::Idle);
                }
            }
        }
    }

    /// Whether a record or a message has begun that is not complete.
    fn is_amid(&self) -> bool {
        !self.sealed.is_empty() || !self.message.is_empty()
    }

    /// Whether a buffer is held, and how many bytes beside it.
    #[cfg(test)]
    pub(super) fn held(&self) -> (bool, usize) {
        (self.buffer.is_some(), self.carry.len())
    }

    fn over(&mut self, failure: Option<Broken>) {
        self.phase = Phase::Over;
        self.failure = failure;
        self.pieces = Pieces::default();
        // The next connection of the session may have begun behind the end of this one.
        self.give_back();
        if self.framing == Framing::Bare {
            self.carry = Vec::new();
            self.message = Vec::new();
        }
    }

    fn take_up_carry(&mut self) {
        if self.carry.is_empty() && self.early.is_empty() {
            return;
        }
        // Always fits: a part of one record, what the handshake read ahead, or what was set aside from a buffer.
        let buffer = self.buffer.get_or_insert_with(Buffer::borrow);
        let early = self.early.len();
        self.sealed = early..early + self.carry.len();
        buffer[..early].copy_from_slice(&self.early);
        buffer[self.sealed.clone()].copy_from_slice(&self.carry);
        if early > 0 {
            self.pieces.push(buffer, 0..early);
        }
        self.early = Vec::new();
        self.carry = Vec::new();
    }

    /// Gives the buffer back although there are opened bytes in it: dialling the application may take long.
    fn set_aside(&mut self) {
        if let Some(buffer) = &self.buffer {
            for range in self.pieces.waiting() {
                self.early.extend_from_slice(&buffer[range]);
            }
        }
        self.pieces = Pieces::default();
        self.give_back();
    }

    fn give_back(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            self.carry = buffer[self.sealed.clone()].to_vec();
            self.sealed = 0..0;
        }
    }

    fn write<S: Socket>(&mut self, context: &mut Context<'_>, app: &S) -> Poll<std::io::Result<()>> {
        let Some(buffer) = &self.buffer else { return Poll::Ready(Ok(())) };
        let mut slices = [IoSlice::new(&[]); PIECES];
        let ranges = self.pieces.waiting();
        let count = ranges.len();
        for (slice, range) in slices.iter_mut().zip(ranges) {
            *slice = IoSlice::new(&buffer[range]);
        }
        match app.poll_write(context, &slices[..count]) {
            Poll::Ready(Ok(count)) => {
                self.moved += count as u64;
                self.pieces.written(count);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Reads on behind what is there; the beginning of a record is first moved to the front.
    fn read<S: Socket>(&mut self, context: &mut Context<'_>, peer: &S) -> Poll<std::io::Result<usize>> {
        let buffer = self.buffer.get_or_insert_with(Buffer::borrow);
        if self.sealed.start > 0 {
            buffer.copy_within(self.sealed.clone(), 0);
            self.sealed = 0..self.sealed.len();
        }
        let start = self.sealed.end;
        let room = self.room.min(buffer.len() - start);
        let read = peer.poll_read(context, &mut [IoSliceMut::new(&mut buffer[start..start + room])]);
        if let Poll::Ready(Ok(count)) = read {
            self.sealed.end += count;
            if count == room {
                self.room = (self.room * 2).min(buffer.len());
            } else if count < room / 2 {
                self.room = (self.room / 2).max(2 * MAX_PAYLOAD);
            }
        }
        read
    }

    /// Opens records until there are no whole ones left or a write is due. True when something happened that the
    /// caller must look at.
    fn open_records(&mut self, secrets: &mut Secrets, wishes: &mut Wishes) -> bool {
        while self.phase == Phase::Flowing && self.failure.is_none() && !self.pieces.is_full() {
            let Some(buffer) = &mut self.buffer else { break };
            let Some(len) = record_len(&buffer[self.sealed.clone()]) else { break };
            if len > self.opener.max_record() {
                self.failure = Some(Broken::Protocol(alert::RECORD_OVERFLOW));
                break;
            }
            if len > self.sealed.len() {
                break;
            }
            let start = self.sealed.start;
            self.sealed.start += len;
            match self.opener.open(&mut buffer[start..start + len]) {
                Ok((content::APPLICATION_DATA, payload)) if !payload.is_empty() => {
                    let mut payload = start + payload.start..start + payload.end;
                    if self.framing == Framing::Frames {
                        let flags = buffer[payload.start];
                        payload.start += 1;
                        match self.order.take(flags, !payload.is_empty()) {
                            Ok(seen) => {
                                if seen.ended {
                                    self.phase = Phase::Ending;
                                }
                                if seen.opened {
                                    // What follows is for an application that must be dialled first.
                                    self.control = 0;
                                    if !payload.is_empty() {
                                        self.pieces.push(buffer, payload);
                                    }
                                    break;
                                }
                            }
                            Err(bad) => {
                                self.failure = Some(Broken::Protocol(bad.0));
                                break;
                            }
                        }
                        if payload.is_empty() {
                            if let Err(broken) = self.without_data() {
                                self.failure = Some(broken);
                            }
                            continue;
                        }
                    }
                    self.control = 0;
                    self.pieces.push(buffer, payload);
                }
                Ok((kind, payload)) => {
                    let payload = start + payload.start..start + payload.end;
                    if let Err(broken) = self.control(kind, payload, secrets, wishes) {
                        self.failure = Some(broken);
                    }
                }
                Err(bad) => self.failure = Some(Broken::Protocol(bad.0)),
            }
        }
        !self.pieces.is_empty() || self.phase != Phase::Flowing || self.failure.is_some()
    }

    /// Counts a record that brought no data.
    fn without_data(&mut self) -> Result<(), Broken> {
        self.control += 1;
        if self.control > MAX_CONTROL { Err(Broken::Protocol(alert::UNEXPECTED_MESSAGE)) } else { Ok(()) }
    }

    /// A record that is no data: alerts, and what may follow a handshake.
    fn control(
        &mut self,
        kind: u8,
        payload: Range<usize>,
        secrets: &mut Secrets,
        wishes: &mut Wishes,
    ) -> Result<(), Broken> {
        self.without_data()?;
        let Some(buffer) = &self.buffer else { return Ok(()) };
        let payload = &buffer[payload];
        match kind {
            // Empty records are allowed and mean nothing.
            content::APPLICATION_DATA => Ok(()),
            content::ALERT => match payload {
                [_, alert::CLOSE_NOTIFY] => {
                    self.phase = Phase::Ending;
                    self.gone = true;
                    Ok(())
                }
                [_, alert::USER_CANCELED] => Ok(()),
                // In TLS 1.2 a warning may be ignored; 1.3 knows no harmless alerts.
                [1, _] if !self.opener.is_tls13() => Ok(()),
                [_, description] => Err(Broken::Alert(*description)),
                _ => Err(Broken::Protocol(alert::DECODE_ERROR)),
            },
            content::HANDSHAKE => {
                if payload.is_empty() || self.message.len() + payload.len() > MAX_MESSAGE {
                    return Err(Broken::Protocol(alert::UNEXPECTED_MESSAGE));
                }
                self.message.extend_from_slice(payload);
                self.messages(secrets, wishes)
            }
            _ => Err(Broken::Protocol(alert::UNEXPECTED_MESSAGE)),
        }
    }

    /// Handshake messages that are complete.
    fn messages(&mut self, secrets: &mut Secrets, wishes: &mut Wishes) -> Result<(), Broken> {
        let message = std::mem::take(&mut self.message);
        let mut rest = &message[..];
        while let [kind, high, middle, low, tail @ ..] = rest {
            let len = u32::from_be_bytes([0, *high, *middle, *low]) as usize;
            let Some((body, tail)) = tail.split_at_checked(len) else { break };
            match (*kind, self.opener.is_tls13()) {
                (NEW_SESSION_TICKET, true) => {
                    secrets.remember(body).map_err(|bad| Broken::Protocol(bad.0))?;
                }
                (KEY_UPDATE, true) => {
                    // Keys change between records, so nothing may follow in this one.
                    let asked = match (body, tail) {
                        ([asked @ 0..=1], []) => *asked == 1,
                        _ => return Err(Broken::Protocol(alert::UNEXPECTED_MESSAGE)),
                    };
                    wishes.renew_keys |= asked;
                    self.opener = secrets.renew_opener().map_err(|bad| Broken::Protocol(bad.0))?;
                }
                // A server of TLS 1.2 would like to renegotiate; a client may let it wait.
                (HELLO_REQUEST, false) if body.is_empty() && matches!(secrets, Secrets::Client(_)) => {}
                _ => return Err(Broken::Protocol(alert::UNEXPECTED_MESSAGE)),
            }
            rest = tail;
        }
        self.message = rest.to_vec();
        Ok(())
    }
}

/// Ranges of the buffer that hold opened payloads, in order. Small, because every idle connection has one.
#[derive(Default)]
struct Pieces {
    /// Where each begins and ends.
    ranges: [(u32, u32); PIECES],
    first: u8,
    end: u8,
}

// A buffer's length fits where a range is kept, and a number of pieces where that is.
const _: () = assert!(LEN <= u32::MAX as usize && PIECES <= u8::MAX as usize);

impl Pieces {
    fn is_empty(&self) -> bool {
        self.first == self.end
    }

    fn is_full(&self) -> bool {
        usize::from(self.end) == PIECES
    }

    fn waiting(&self) -> impl ExactSizeIterator<Item = Range<usize>> {
        self.ranges[self.first.into()..self.end.into()].iter().map(|(start, end)| *start as usize..*end as usize)
    }

    fn push(&mut self, buffer: &mut [u8], payload: Range<usize>) {
        if !self.is_empty()
            && payload.len() <= SMALL
            && let Some((_, end)) = self.ranges[..self.end.into()].last_mut()
        {
            // The payload lies behind the last piece with only framing between them.
            let len = payload.len();
            buffer.copy_within(payload, *end as usize);
            *end += len as u32;
        } else {
            self.ranges[usize::from(self.end)] = (payload.start as u32, payload.end as u32);
            self.end += 1;
        }
    }

    fn written(&mut self, mut count: usize) {
        while count > 0 && !self.is_empty() {
            let (start, end) = &mut self.ranges[usize::from(self.first)];
            let taken = count.min((*end - *start) as usize);
            *start += taken as u32;
            count -= taken;
            if start == end {
                self.first += 1;
            }
        }
        if self.is_empty() {
            (self.first, self.end) = (0, 0);
        }
    }
}
