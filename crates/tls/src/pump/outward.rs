//! Application to peer: read into the gaps of a row of records, seal them where they are, write them in one call.

use std::io::{IoSlice, IoSliceMut};
use std::ops::Range;
use std::task::{Context, Poll};

use super::inward::Inward;
use super::{Broken, Side, Step, TURN};
use crate::buffer::{Buffer, RECORDS};
use crate::frame::{self, Framing, Sender};
use crate::record::{Bad, MAX_PAYLOAD, Sealer, alert, content};
use crate::secrets::Secrets;
use crate::socket::Socket;

/// `key_update`, without asking for one in return (RFC 8446, section 4.6.3).
const KEY_UPDATE: &[u8] = &[24, 0, 0, 1, 0];

/// When the small records at the head are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Urgency {
    /// At once.
    Now,
    /// With data if the application has already sent some, else at once.
    Soon,
    /// Whenever something else is sent.
    Lazy,
}

/// What this direction is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Flowing,
    /// The application has ended; the last frame, or `close_notify`, is to be sealed.
    Ending,
    /// The last frame is on its way, but for the word that all has reached the application, which is still to come.
    Ended,
    /// The last frame is on its way; the session stays.
    Parting,
    /// `close_notify` is on its way; FIN follows.
    Closing,
    Over,
}

pub(super) struct Outward {
    sealer: Sealer,
    /// Small records, sent before those in the buffer: the end of the handshake, key updates, alerts.
    head: Vec<u8>,
    urgency: Urgency,
    /// Sealed records; held only while something in it is unsent.
    buffer: Option<Buffer>,
    unsent: Range<usize>,
    /// Records that the next read has room for; follows what reads bring, so that small requests stay in a small
    /// part of the buffer.
    room: usize,
    phase: Phase,
    framing: Framing,
    /// We accepted, and so tell the peer when all that it sent has reached the application.
    answers: bool,
    /// Flags of the next frame.
    flags: u8,
    renew_keys: bool,
    /// The application had a turn to say something before the small records at the head are sent without data.
    has_waited: bool,
    /// `close_notify` and FIN are sent: nothing may follow.
    closed: bool,
    pub(super) failure: Option<Broken>,
    pub(super) moved: u64,
}

impl Outward {
    pub(super) fn new(sealer: Sealer, head: Vec<u8>, lazy: bool, framing: Framing, peer: Sender) -> Outward {
        Outward {
            framing,
            answers: peer == Sender::Dialler,
            flags: 0,
            sealer,
            head,
            urgency: if lazy { Urgency::Lazy } else { Urgency::Soon },
            buffer: None,
            unsent: 0..0,
            room: 1,
            phase: Phase::Flowing,
            renew_keys: false,
            has_waited: false,
            closed: false,
            failure: None,
            moved: 0,
        }
    }

    /// Begins with another application's connection; the flags go with its first frame.
    pub(super) fn begin(&mut self, flags: u8) {
        self.phase = Phase::Flowing;
        self.flags |= flags;
        self.room = 1;
        self.has_waited = false;
        self.moved = 0;
    }

    /// Whether the connection ended so that the session can carry another.
    pub(super) fn parted(&self) -> bool {
        self.framing == Framing::Frames && self.phase == Phase::Over && self.failure.is_none() && self.head.is_empty()
    }

    /// Lets the next frame say that the session carries no further connection.
    pub(super) fn retire(&mut self) {
        self.flags |= frame::RETIRE;
    }

    /// What is to be sent to say one thing outside of any connection, behind what was still to be sent.
    pub(super) fn word(&mut self, flags: u8) -> Vec<u8> {
        let _ = self.sealer.append(content::APPLICATION_DATA, &[flags], &mut self.head);
        std::mem::take(&mut self.head)
    }

    /// The same for an alert. Nothing can be sent after it.
    pub(super) fn alert(&mut self, description: u8) -> Vec<u8> {
        let _ = self.sealer.append_alert(description, &mut self.head);
        std::mem::take(&mut self.head)
    }

    /// What is still to be sent, unless it may wait for the first data.
    pub(super) fn unsent_head(&mut self) -> Vec<u8> {
        if self.urgency == Urgency::Lazy { Vec::new() } else { std::mem::take(&mut self.head) }
    }

    /// The peer asked for it; done before the next data.
    pub(super) fn ask_for_new_keys(&mut self) {
        self.renew_keys = true;
    }

    /// `inward` is the other direction, as it stands now.
    pub(super) fn advance<S: Socket>(
        &mut self,
        context: &mut Context<'_>,
        app: &S,
        peer: &S,
        secrets: &mut Secrets,
        inward: &Inward,
    ) -> Result<Step, Broken> {
        let mut left = TURN;
        loop {
            if self.phase == Phase::Over {
                return Ok(Step::Over);
            }
            if !self.unsent.is_empty() || (!self.head.is_empty() && self.urgency == Urgency::Now) {
                match self.write(context, peer) {
                    Poll::Ready(Ok(())) => continue,
                    Poll::Pending => return Ok(Step::Idle),
                    Poll::Ready(Err(error)) => {
                        // The other direction may still hold what the peer said before it went; it ends soon.
                        self.over(Some(Broken::Io { side: Side::Peer, error }));
                        continue;
                    }
                }
            }
            // Everything sealed has been sent, so small records can be appended in order.
            match self.phase {
                _ if self.failure.is_some() => return self.fail(),
                Phase::Flowing if self.renew_keys || self.sealer.is_worn() => {
                    if !self.sealer.can_renew() {
                        // Before anything is read that could not be sealed.
                        return Err(Broken::Worn);
                    }
                    self.update_keys(secrets)?;
                }
                Phase::Flowing if left == 0 => return Ok(Step::Spent),
                Phase::Flowing => match self.read(context, app, inward) {
                    Poll::Ready(Ok(0)) => self.phase = Phase::Ending,
                    Poll::Ready(Ok(count)) => left = left.saturating_sub(count),
                    Poll::Ready(Err(Reading::Failed(error))) => {
                        self.failure = Some(Broken::Io { side: Side::App, error });
                    }
                    Poll::Ready(Err(Reading::Unsealable(bad))) => return Err(Broken::Protocol(bad.0)),
                    Poll::Pending => {
                        self.buffer = None;
                        let opens = self.flags & frame::OPEN != 0;
                        if !opens && (self.head.is_empty() || self.urgency == Urgency::Lazy) {
                            return Ok(Step::Idle);
                        }
                        // Most applications that connect speak at once, and one record is half the work of two.
                        if !std::mem::replace(&mut self.has_waited, true) {
                            return Ok(Step::Spent);
                        }
                        // An application that listens first: the other side must dial all the same.
                        if opens {
                            self.seal_frame()?;
                        } else {
                            self.urgency = Urgency::Now;
                        }
                    }
                },
                Phase::Ending if self.framing == Framing::Frames && !inward.gone => {
                    let (flags, phase) = self.parting(inward);
                    self.flags |= flags;
                    self.phase = phase;
                    self.seal_frame()?;
                }
                Phase::Ended if inward.is_delivered() && !inward.gone => {
                    self.flags |= frame::DONE;
                    self.seal_frame()?;
                    self.phase = Phase::Parting;
                }
                Phase::Ended if inward.is_over() => self.over(None),
                Phase::Ended => {
                    self.buffer = None;
                    return Ok(Step::Idle);
                }
                Phase::Parting => self.over(None),
                Phase::Ending => {
                    self.seal_small(|sealer, head| sealer.append_alert(alert::CLOSE_NOTIFY, head))?;
                    self.phase = Phase::Closing;
                }
                Phase::Closing => {
                    self.closed = true;
                    let failure = peer.end().err().map(|error| Broken::Io { side: Side::Peer, error });
                    self.over(failure);
                }
                Phase::Over => return Ok(Step::Over),
            }
        }
    }

    #[cfg(test)]
    pub(super) fn holds_no_buffer(&self) -> bool {
        self.buffer.is_none()
    }

    #[cfg(test)]
    pub(super) fn wear_out_after(&mut self, records: u64) {
        self.sealer.wear_out_after(records);
    }

    #[cfg(test)]
    pub(super) fn exhaust(&mut self) {
        self.sealer.exhaust();
    }

    /// Seals any content as data.
    #[cfg(test)]
    pub(super) fn raw(&mut self, content: &[u8]) -> Vec<u8> {
        let mut record = Vec::new();
        self.sealer.append(content::APPLICATION_DATA, content, &mut record).unwrap_or(());
        record
    }

    /// Tries to tell the peer why we close; once, without waiting, and not behind our own end. Whether closing the socket
    /// now says nothing wrong: the end behind a part of what was to be said would look like a regular one.
    pub(super) fn last_words<S: Socket>(&mut self, context: &mut Context<'_>, peer: &S, description: u8) -> bool {
        if self.closed {
            return true;
        }
        // Behind records that are sealed and not sent it could not be read in its turn.
        let sealed = self.unsent.is_empty() && self.sealer.append_alert(description, &mut self.head).is_ok();
        sealed && matches!(self.write(context, peer), Poll::Ready(Ok(()))) && self.head.is_empty()
    }

    fn fail(&mut self) -> Result<Step, Broken> {
        match self.failure.take() {
            Some(broken) => Err(broken),
            None => Ok(Step::Over),
        }
    }

    fn over(&mut self, failure: Option<Broken>) {
        self.phase = Phase::Over;
        self.failure = failure;
        self.buffer = None;
        self.unsent = 0..0;
        self.head = Vec::new();
    }

    fn seal_small(&mut self, seal: impl FnOnce(&mut Sealer, &mut Vec<u8>) -> Result<(), Bad>) -> Result<(), Broken> {
        seal(&mut self.sealer, &mut self.head).map_err(|bad| Broken::Protocol(bad.0))?;
        self.urgency = Urgency::Now;
        Ok(())
    }

    /// Seals a frame without payload.
    fn seal_frame(&mut self) -> Result<(), Broken> {
        let flags = std::mem::take(&mut self.flags);
        self.seal_small(|sealer, head| sealer.append(content::APPLICATION_DATA, &[flags], head))
    }

    /// Flags of the frame that ends the direction, and what is to be done behind it.
    fn parting(&self, inward: &Inward) -> (u8, Phase) {
        match (self.answers, inward.is_delivered()) {
            (true, true) => (frame::END | frame::DONE, Phase::Parting),
            (true, false) => (frame::END, Phase::Ended),
            (false, _) => (frame::END, Phase::Parting),
        }
    }

    /// Announces new keys under the old ones and changes to them. TLS 1.2 has no such thing: when its key is worn out
    /// the connection ends, which takes some 270 GB, or 2^33 messages of a few bytes.
    fn update_keys(&mut self, secrets: &mut Secrets) -> Result<(), Broken> {
        self.renew_keys = false;
        self.seal_small(|sealer, head| sealer.append(content::HANDSHAKE, KEY_UPDATE, head))?;
        self.sealer = secrets.renew_sealer().map_err(|bad| Broken::Protocol(bad.0))?;
        Ok(())
    }

    fn write<S: Socket>(&mut self, context: &mut Context<'_>, peer: &S) -> Poll<std::io::Result<()>> {
        let records = self.buffer.as_ref().map_or(&[][..], |buffer| &buffer[self.unsent.clone()]);
        let written = match (self.head.is_empty(), records.is_empty()) {
            (true, _) => peer.poll_write(context, &[IoSlice::new(records)]),
            (false, true) => peer.poll_write(context, &[IoSlice::new(&self.head)]),
            (false, false) => peer.poll_write(context, &[IoSlice::new(&self.head), IoSlice::new(records)]),
        };
        let mut count = match written {
            Poll::Ready(Ok(count)) => count,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => return Poll::Pending,
        };
        if !self.head.is_empty() {
            let of_head = count.min(self.head.len());
            count -= of_head;
            self.head.drain(..of_head);
            if self.head.is_empty() {
                self.head = Vec::new();
                self.urgency = Urgency::Now;
            }
        }
        self.unsent.start += count;
        Poll::Ready(Ok(()))
    }

    /// Reads what the application has sent, up to the room, and seals it. With the last of it goes the end of the direction,
    /// if that is known already and is a frame.
    fn read<S: Socket>(&mut self, context: &mut Context<'_>, app: &S, inward: &Inward) -> Poll<Result<usize, Reading>> {
        let framing = self.framing.overhead();
        let (prefix, suffix) = (self.sealer.prefix() + framing, self.sealer.suffix());
        let most = MAX_PAYLOAD - framing;
        let stride = prefix + most + suffix;
        let parting = self.parting(inward);
        let buffer = self.buffer.get_or_insert_with(Buffer::borrow);
        let mut records = buffer.chunks_exact_mut(stride);
        let mut slices: [IoSliceMut<'_>; RECORDS] = std::array::from_fn(|_| {
            IoSliceMut::new(records.next().map_or(&mut [][..], |record| &mut record[prefix..prefix + most]))
        });
        let count = match app.poll_read(context, &mut slices[..self.room]) {
            Poll::Ready(Ok(count)) => count,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(Reading::Failed(error))),
            Poll::Pending => return Poll::Pending,
        };
        let mut last = 0;
        if framing > 0 && count > 0 && count < self.room * most && !inward.gone && app.sees_end(context) {
            (last, self.phase) = parting;
        }
        self.room = next_room(self.room, count, most);
        let (full, rest) = (count / most, count % most);
        let mut end = 0;
        for index in 0..=full {
            let payload = if index < full { most } else { rest };
            if payload == 0 {
                break;
            }
            let start = index * stride;
            end = start + prefix + payload + suffix;
            if framing > 0 {
                if (index + 1) * most >= count {
                    self.flags |= last;
                }
                buffer[start + prefix - framing] = std::mem::take(&mut self.flags);
            }
            let sealed = self.sealer.seal(content::APPLICATION_DATA, &mut buffer[start..end]);
            if let Err(bad) = sealed {
                return Poll::Ready(Err(Reading::Unsealable(bad)));
            }
        }
        self.unsent = 0..end;
        self.moved += count as u64;
        Poll::Ready(Ok(count))
    }
}

/// Why nothing could be read.
enum Reading {
    Failed(std::io::Error),
    Unsealable(Bad),
}

/// Grows when a read filled its room, shrinks when it used less than half of it.
fn next_room(room: usize, count: usize, most: usize) -> usize {
    if count >= room * most {
        (room * 2).min(RECORDS)
    } else if count < room * most / 2 {
        (room / 2).max(1)
    } else {
        room
    }
}
