//! Bodies of requests: bounded in size, in how long a client may pause, and in what all of them take together.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{EXPECT, HeaderMap};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body as _, Incoming};
use parking_lot::Mutex;

use crate::error::Failure;

/// More than any registration, policy or transaction of a sensible cluster: values of a transaction have half a megabyte
/// together. What may be larger says so.
const LIMIT: u64 = 2 * 1024 * 1024;

/// All bodies together take this at most, so that many clients cannot do what one may not.
const ROOM: u64 = 64 * 1024 * 1024;

/// The beginning of each body takes nothing of that room: the connection has buffers as large. So whoever fills the room
/// with large bodies does not keep others from small ones, which nearly all are.
const FREE: u64 = 64 * 1024;

/// A client that sends nothing for so long in the middle of a body has gone.
const PAUSE: Duration = Duration::from_secs(30);

/// What bodies that are being held take.
#[derive(Clone, Debug, Default)]
pub(crate) struct Room(Arc<AtomicU64>);

impl Room {
    /// Takes some of it, if there is as much.
    fn take(&self, size: u64) -> bool {
        let more = |taken: u64| taken.checked_add(size).filter(|taken| *taken <= ROOM);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }
}

/// A part of the room, given back when this goes.
#[derive(Debug)]
struct Taken {
    room: Room,
    size: u64,
}

impl Taken {
    /// Takes as much more as a body of this length needs.
    fn grow(&mut self, length: u64) -> Result<(), Failure> {
        let more = length.saturating_sub(FREE).saturating_sub(self.size);
        if !self.room.take(more) {
            return Err(Failure::Crowded);
        }
        self.size += more;
        Ok(())
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.room.0.fetch_sub(self.size, Ordering::Relaxed);
    }
}

/// A whole body. Keep it for as long as its bytes are needed: with it goes its claim to the room.
#[derive(Debug, Default)]
pub(crate) struct Body {
    bytes: Bytes,
    _taken: Option<Taken>,
}

impl Body {
    pub(crate) fn bytes(&self) -> Bytes {
        self.bytes.clone()
    }
}

impl Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// What becomes of the body of one request, as the connection that it comes on must know.
pub(crate) enum Fate {
    /// Nobody has asked for it.
    Untouched(Incoming),
    /// Somebody reads it, or has given up in the middle.
    Begun,
    /// It was read to its end.
    Read,
}

/// The body on the side of the connection; `None` is a body without a byte.
pub(crate) struct Rest(Option<Arc<Mutex<Fate>>>);

/// What nobody has read of a body is taken off the connection when it is no more than this, as in the original.
const DRAINED: u64 = 256 * 1024;
/// And when it comes within this time: nobody waits longer for an answer because of it.
const DRAINED_WITHIN: Duration = Duration::from_secs(1);

impl Rest {
    pub(crate) fn new(incoming: Incoming) -> Rest {
        Rest((!incoming.is_end_stream()).then(|| Arc::new(Mutex::new(Fate::Untouched(incoming)))))
    }

    /// Takes off the connection what nobody has read, and tells whether it can take another request. It cannot when there
    /// is too much, or when the client waits to be asked for it.
    pub(crate) async fn take_off(self, headers: &HeaderMap) -> bool {
        let Some(fate) = self.0 else { return true };
        let fate = std::mem::replace(&mut *fate.lock(), Fate::Begun);
        match fate {
            Fate::Read => true,
            Fate::Begun => false,
            Fate::Untouched(_) if headers.contains_key(EXPECT) => false,
            Fate::Untouched(incoming) => {
                let mut left = Limited::new(incoming, usize::try_from(DRAINED).unwrap_or(usize::MAX));
                let drained = async { while let Some(Ok(_)) = left.frame().await {} };
                tokio::time::timeout(DRAINED_WITHIN, drained).await.is_ok() && left.is_end_stream()
            }
        }
    }
}

/// The body of one request, not read yet.
pub(crate) enum RequestBody {
    /// It is there, and small.
    Whole(Bytes),
    /// It is on its way.
    Coming(Arc<Mutex<Fate>>, Room),
}

impl RequestBody {
    /// One that is on its way, if there is any.
    pub(crate) fn new(rest: &Rest, room: &Room) -> RequestBody {
        match &rest.0 {
            Some(fate) => RequestBody::Coming(Arc::clone(fate), room.clone()),
            None => RequestBody::default(),
        }
    }

    /// Reads all of it.
    pub(crate) async fn read(self) -> Result<Body, Failure> {
        self.read_at_most(LIMIT).await
    }

    /// Reads all of it unless it is larger than `limit` bytes.
    pub(crate) async fn read_at_most(self, limit: u64) -> Result<Body, Failure> {
        let (fate, room) = match self {
            RequestBody::Whole(bytes) if bytes.len() as u64 > limit => return Err(Failure::TooLarge(limit)),
            RequestBody::Whole(bytes) => return Ok(Body { bytes, _taken: None }),
            RequestBody::Coming(fate, room) => (fate, room),
        };
        let mut taken = Taken { room, size: 0 };
        let bytes = gather(&fate, limit, |length| taken.grow(length)).await?;
        Ok(Body { bytes, _taken: Some(taken) })
    }

    /// The same for what is larger than all others together may be; how many of those there are at once is the caller's to
    /// bound.
    pub(crate) async fn read_huge(self, limit: u64) -> Result<Bytes, Failure> {
        match self {
            RequestBody::Whole(bytes) if bytes.len() as u64 > limit => Err(Failure::TooLarge(limit)),
            RequestBody::Whole(bytes) => Ok(bytes),
            RequestBody::Coming(fate, _) => gather(&fate, limit, |_| Ok(())).await,
        }
    }
}

impl Default for RequestBody {
    /// None.
    fn default() -> RequestBody {
        RequestBody::Whole(Bytes::new())
    }
}

/// Reads a body piece by piece. `accept` is told how long it is with each.
async fn gather(
    fate: &Mutex<Fate>,
    limit: u64,
    mut accept: impl FnMut(u64) -> Result<(), Failure>,
) -> Result<Bytes, Failure> {
    let Fate::Untouched(mut incoming) = std::mem::replace(&mut *fate.lock(), Fate::Begun) else {
        return Ok(Bytes::new());
    };
    if incoming.size_hint().lower() > limit {
        return Err(Failure::TooLarge(limit));
    }
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    loop {
        let frame = tokio::time::timeout(PAUSE, incoming.frame()).await.map_err(|_| Failure::TooSlow)?;
        let Some(frame) = frame else { break };
        let Ok(data) = frame.map_err(Failure::Body)?.into_data() else { continue };
        let length = (first.len() + rest.len() + data.len()) as u64;
        if length > limit {
            return Err(Failure::TooLarge(limit));
        }
        accept(length)?;
        // Nearly all bodies come in one piece, which need not be copied.
        if first.is_empty() {
            first = data;
        } else {
            rest.extend_from_slice(&data);
        }
    }
    *fate.lock() = Fate::Read;
    if rest.is_empty() {
        return Ok(first);
    }
    let mut whole = BytesMut::with_capacity(first.len() + rest.len());
    whole.extend_from_slice(&first);
    whole.extend_from_slice(&rest);
    Ok(whole.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_room_is_bounded_and_given_back() {
        let room = Room::default();
        let hold = |length: u64| {
            let mut taken = Taken { room: room.clone(), size: 0 };
            taken.grow(FREE / 2).and_then(|()| taken.grow(length)).map(|()| taken)
        };
        let mut held = Vec::new();
        while let Ok(taken) = hold(LIMIT) {
            held.push(taken);
        }
        assert_eq!(held.len() as u64, ROOM / (LIMIT - FREE));
        assert!(hold(FREE).is_ok(), "small ones find room");
        assert_eq!(hold(LIMIT).unwrap_err().status(), 503);
        held.pop();
        assert!(hold(LIMIT).is_ok());
        held.clear();
        assert_eq!(room.0.load(Ordering::Relaxed), 0);
    }
}
